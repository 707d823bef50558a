"""Checks of numbers that are given as parameters."""

from numbers import Real

from skdeepfactor._input import is_whole


def check_whole(name, number, low, high=None):
    """ValueError unless a number is an int in a range."""
    if not is_whole(number, low) or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an int {limits}, got {number!r}.")


def check_share(name, number):
    """ValueError unless a number is from 0 to below 1."""
    if not isinstance(number, Real) or not 0 <= number < 1:
        raise ValueError(f"{name} must be a number from 0 to below 1, got {number!r}.")


def listed(name, values, content):
    """Values as a list; ValueError if they are not several, such as an int or None."""
    try:
        return list(values)
    except TypeError as error:
        raise ValueError(
            f"{name} must be a list of {content}, got {values!r}."
        ) from error
