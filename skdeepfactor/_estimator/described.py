"""Docstrings of methods that take one thing more than those that they override."""

import inspect
import re
from collections.abc import Callable
from textwrap import indent
from typing import Any

from skdeepfactor._training.progress import Method

#: The estimator in the examples of the bases.
EXAMPLE = "PoissonFactorization"


def described_like(
    base: Callable[..., Any], entry: str, *, model: str
) -> Callable[[Method], Method]:
    """Give a method the docstring of another one, and the entry of a parameter.

    The entry begins with the parameter's name, and is put where the signature has it.
    Examples are those of the base, with ``model`` as their estimator.
    """

    def describe(method):
        # Without docstrings, as of python -OO, there is nothing to add to.
        if base.__doc__ is not None:
            names = list(inspect.signature(method).parameters)
            after = names[names.index(entry.split(" : ")[0]) + 1 :]
            following = rf"(?m)^( *){after[0]} : " if after else r"\n\n( *)Returns\n"
            place = re.search(following, base.__doc__)
            start, end = base.__doc__[: place.start()], base.__doc__[place.start() :]
            text = indent(entry, place[1])
            text = start + (f"{text}\n" if after else f"\n{text}") + end
            method.__doc__ = text.replace(EXAMPLE, model)
        return method

    return describe
