"""What models are made of, in torch: no NumPy input, no estimators."""
