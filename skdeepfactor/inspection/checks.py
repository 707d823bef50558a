"""Checks of numbers that are given as parameters."""

from numbers import Integral


def check_whole(name, number, low, high=None):
    """ValueError unless a number is an int in a range."""
    is_whole = isinstance(number, Integral) and number >= low
    if not is_whole or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an int {limits}, got {number!r}.")
