"""Predictions of a row with one of its factors changed."""

from typing import Any

import numpy as np
import scipy.sparse
from sklearn.utils import check_array

from skdeepfactor._input import received
from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole


def traverse(estimator: Any, x: Any, component: int, values: Any) -> np.ndarray:
    """Predict a row with one of its factors set to other values.

    The factors of the row are inferred, factor `component` is set to each of the values
    in turn, and ``inverse_transform`` predicts a row from each result.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``transform`` and ``inverse_transform``; of a pipeline, the last
        step.
    x : {array-like, sparse matrix} of shape (n_features,) or (1, n_features)
        The row; for a pipeline, the input of its first step: a str, or a list of one,
        where that is texts.
    component : int
        The factor, from 0 on.
    values : array-like of shape (n_values,)
        Its values, in units of the output of ``transform``.

    Returns
    -------
    ndarray of shape (n_values, n_features)
        The expected rows.

    Raises
    ------
    ValueError
        If `x` is more than one row, `component` out of range, or `values` not a list of
        finite numbers.
    TypeError
        If the estimator has no ``transform`` or no ``inverse_transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    skdeepfactor.plotting.TraversalDisplay : The rows as images.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdeepfactor import VariationalAutoencoder
    >>> from skdeepfactor.inspection import traverse
    >>> X = load_iris().data
    >>> model = VariationalAutoencoder(2, batch_size=20, random_state=0).fit(X)
    >>> traverse(model, X[0], 0, [-2, 0, 2]).shape
    (3, 4)
    """
    x = _single_row(received(x))
    values = check_array(np.asarray(received(values)), ensure_2d=False, dtype="f8")
    if values.ndim != 1:
        raise ValueError(f"values must have 1 dimension, got {values.ndim}.")
    model, x = reading.last_step(estimator, x)
    factors = reading.factors_of(model, x)
    check_whole("component", component, 0, factors.shape[1] - 1)
    return reading.rows_with_factor(model, factors, component, values)


def _single_row(x):
    """The row as a first step takes it: a matrix, a data frame, a list of a text."""
    if isinstance(x, str):
        return [x]
    shape = np.shape(x)
    if (
        shape == (1,)
        and not scipy.sparse.issparse(x)
        and isinstance(next(iter(x)), str)
    ):
        return x
    if len(shape) < 2:
        x = x.reshape((1, -1)) if scipy.sparse.issparse(x) else np.atleast_2d(x)
    if np.ndim(x) != 2 or np.shape(x)[0] != 1:
        raise ValueError(f"x must be a single row, got shape {shape}.")
    return x
