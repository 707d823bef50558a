"""The estimators' side: NumPy and SciPy in, NumPy out, around a torch module."""
