"""Parts of models, in torch: no NumPy input, no estimators."""
