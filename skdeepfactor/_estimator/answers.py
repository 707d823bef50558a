"""Answers given to regressions as y: numbers, some of them missing."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.utils.validation import column_or_1d

from skdeepfactor._input import is_missing, received

# Answers whose squares have sums that are finite.
LARGEST = 1e100


class Moments(NamedTuple):
    """Number and mean of the answers that are known, and squares of what is left."""

    n: float
    mean: float
    squares: float

    @classmethod
    def of(cls, values):
        """The moments of an array of answers, which may be empty."""
        mean = float(values.mean()) if len(values) else 0.0
        return cls(float(len(values)), mean, float(np.square(values - mean).sum()))

    @property
    def scale(self):
        """Standard deviation of the answers; 1.0 where they are all alike."""
        variance = self.squares / self.n
        # What rounding leaves of answers that are all alike is no variance.
        if variance <= 1e-24 * self.mean**2 or variance == 0:
            return 1.0
        return float(np.sqrt(variance))


def read_numbers(y: Any, unlabeled: Any) -> np.ndarray:
    """Answers as float64, (n_samples,); NaN where there is none."""
    if y is None:
        raise ValueError(
            "A regressor requires y to be passed, but the target y is None."
        )
    array = received(y)
    if scipy.sparse.issparse(array):
        raise ValueError(
            "y must be an array of numbers, got a sparse matrix; its "
            "toarray().ravel() is one."
        )
    if isinstance(array, list | tuple):
        array = np.asarray(array, dtype=object)
    array = column_or_1d(np.asarray(array), warn=True)
    if array.dtype.kind not in "biuf":
        array = [
            np.nan if _stands_for_none(value, unlabeled) else value
            for value in array.tolist()
        ]
        is_text = [isinstance(value, str | bytes) for value in array]
        if any(is_text):
            raise ValueError(
                "y must be numbers, of which "
                f"{array[is_text.index(True)]!r} is none; for classes there is "
                "SupervisedLDAClassifier."
            )
    try:
        values = np.array(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        kinds = {type(value).__name__ for value in array if not isinstance(value, Real)}
        raise ValueError(
            f"y must be numbers, got values of the type {', '.join(sorted(kinds))}."
        ) from error
    if unlabeled is not None and not isinstance(unlabeled, str):
        values[values == unlabeled] = np.nan
    if np.isinf(values).any():
        raise ValueError("y contains infinity, which is not a number to predict.")
    if (np.abs(values) > LARGEST).any():
        raise ValueError(f"y must not be larger than {LARGEST:.0e}.")
    return values


def number_moments(rows, values):
    """The ``Moments`` of the answers of rows, as ``known_numbers`` gives them."""
    values = values[~np.isnan(values)]
    if len(values) == 0 and not rows.share.is_sharded:
        refuse_without_answers()
    return Moments.of(values)


def joined_moments(moments):
    """The moments of the rows of all processes."""
    n, means, squares = np.array(moments, dtype=np.float64).T
    if n.sum() == 0:
        refuse_without_answers()
    mean = float(n @ means / n.sum())
    squares = float(squares.sum() + n @ np.square(means - mean))
    return Moments(float(n.sum()), mean, squares)


def known_numbers(rows, target, unlabeled):
    """The answers of rows, (n_visible,), of which there must be as many."""
    values = read_numbers(target.y, unlabeled)
    if len(values) != rows.n_visible:
        raise ValueError(
            f"y has answers for {len(values)} rows, but X has {rows.n_visible}."
        )
    return values


def refuse_without_answers():
    """Raise a ``ValueError``, since no row has an answer."""
    raise ValueError("y has no answer: at least one row must have one.")


def _stands_for_none(value, unlabeled):
    """Whether a value of y is no answer."""
    return is_missing(value) or (unlabeled is not None and value == unlabeled)
