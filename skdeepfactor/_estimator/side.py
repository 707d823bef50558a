"""Side information of rows: checked, and turned into numbers."""

from numbers import Real

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import _get_feature_names, check_array

from skdeepfactor._input import received
from skdeepfactor.data import is_streamed


def given(**side):
    """The side information that is not None, by name; None if there is none."""
    return {name: value for name, value in side.items() if value is not None} or None


def fitted_and_transformed(estimator, X, y, fit_params, **side):
    """Fit an estimator with what is known of rows, and transform the same rows by it.

    Raises
    ------
    ValueError
        If any of it is given with data in blocks.
    """
    if given(**side) and is_streamed(X):
        raise ValueError(
            f"fit_transform cannot take {', '.join(side)} with data in blocks: call "
            "fit, and transform one block at a time."
        )
    estimator.fit(X, y, **side, **fit_params)
    return estimator.transform(X, **side)


def covariate_sizes(rows, covariates, weights=None):
    """Number of rows and names of covariates; location and scale to standardise by.

    Rows of weight 0 say nothing of these.
    """
    values, names = _checked(covariates, rows.n_visible)
    if weights is not None and not isinstance(weights, Real):
        weights = np.asarray(received(weights))
        if weights.shape == (len(values),):
            values = values[weights != 0]
    return _sizes_of(values, names)


def resized_covariates(known, sizes):
    """Sizes of all first rows of a stream, and what is known of them by these.

    ``known`` are their covariates, standardised by ``sizes``, which those of the first
    call have made.
    """
    values = known * sizes["scale"] + sizes["location"]
    sizes = _sizes_of(values, sizes["names"])
    return sizes, (values - sizes["location"]) / sizes["scale"]


def _sizes_of(values, names):
    """The sizes of covariates, float64, (n_rows, n_covariates)."""
    n_rows, width = values.shape
    location, scale = np.zeros(width), np.ones(width)
    if n_rows > 0:
        is_constant = (values == values[0]).all(axis=0)
        location = np.where(is_constant, values[0], values.mean(axis=0))
        scale = np.where(is_constant, 0.0, values.std(axis=0))
    return {
        "n_rows": n_rows,
        "names": names,
        "location": location,
        # A column that never varies is 0 in every row.
        "scale": np.where(scale > 0, scale, 1.0),
    }


def joined_covariate_sizes(sizes):
    """The sizes of the rows of all processes, from those that each has found."""
    if all(own is None for own in sizes):
        return None
    if any(own is None for own in sizes):
        raise ValueError("Some processes have covariates, and others have none.")
    widths = [len(own["location"]) for own in sizes]
    if len(set(widths)) > 1:
        raise ValueError(
            f"The processes have covariates of different width: {widths} columns."
        )
    weights = np.array([own["n_rows"] for own in sizes], dtype=np.float64)
    weights /= weights.sum()
    location = weights @ [own["location"] for own in sizes]
    squares = [own["scale"] ** 2 + (own["location"] - location) ** 2 for own in sizes]
    return {
        "n_rows": sum(own["n_rows"] for own in sizes),
        "names": sizes[0]["names"],
        "location": location,
        "scale": np.sqrt(weights @ squares),
    }


def known_covariates(covariates, n_rows, sizes, *, name="covariates"):
    """Standardised covariates of rows, float64, (n_rows, n_covariates).

    ``sizes`` are those of ``covariate_sizes``.
    """
    if sizes is None:
        raise ValueError(
            f"{name} are given, but the model was fitted without covariates."
        )
    values, names = _checked(covariates, n_rows, name)
    n_expected = len(sizes["location"])
    if values.shape[1] != n_expected:
        raise ValueError(
            f"{name} have {values.shape[1]} column(s), but the model was fitted with "
            f"{n_expected}. One row with several columns is a list in a list."
        )
    expected = sizes["names"]
    if names is not None and expected is not None and list(names) != list(expected):
        raise ValueError(
            f"{name} have the columns {list(names)}, but the model was fitted with "
            f"{list(expected)}."
        )
    known = (values - sizes["location"]) / sizes["scale"]
    if (np.abs(known) > FARTHEST).any():
        raise ValueError(
            f"{name} are more than {FARTHEST:.0e} standard deviations from the mean of "
            "the rows that the model was fitted to."
        )
    return known


def _checked(covariates, n_rows=None, name="covariates"):
    """Covariates as an array of float64, (n_rows, n_covariates), and their names."""
    try:
        names = _get_feature_names(covariates)
        values = received(covariates)
        if not scipy.sparse.issparse(values):
            values = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of finite numbers with a row for each row of X: "
            f"{str(error).rstrip('.')}."
        ) from error
    if values.dtype.kind in "mM":
        raise ValueError(
            f"{name} are dates where numbers must be, such as years or days."
        )
    if values.dtype.kind == "c":
        # scikit-learn's message would print all of them.
        raise ValueError(f"{name} must be real numbers, but these are complex.")
    if values.ndim == 0:
        raise ValueError(f"{name} must be an array, with a column for each covariate.")
    if values.ndim == 2 and values.shape[1] > MOST_COLUMNS:
        raise ValueError(
            f"{name} have {values.shape[1]} columns; the regression on them needs a "
            f"matrix of that size squared and takes {MOST_COLUMNS} at most. Group rare "
            "categories, as OneHotEncoder(max_categories=...) does."
        )
    try:
        values = check_array(
            values,
            accept_sparse="csr",
            dtype=np.float64,
            ensure_2d=False,
            ensure_min_samples=0,
            input_name=name,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of finite numbers with a row for each row of X: "
            f"{str(error).rstrip('.')}. OneHotEncoder makes numbers of categories, and "
            "SimpleImputer fills gaps; of dates, take years or days."
        ) from error
    if scipy.sparse.issparse(values):
        # A few columns, such as the codes of categories.
        values = safe_sparse_dot(values, np.eye(values.shape[1]), dense_output=True)
    if values.ndim == 1:
        values = values[:, np.newaxis]
    if n_rows is not None and len(values) != n_rows:
        raise ValueError(f"{name} have {len(values)} rows, but X has {n_rows}.")
    if (np.abs(values) > LARGEST).any():
        raise ValueError(f"{name} must not be larger than {LARGEST:.0e}.")
    return values, names


# Numbers whose squares have sums that are finite; standard deviations that float32 can
# square; columns whose moments there is room for.
LARGEST, FARTHEST, MOST_COLUMNS = 1e100, 1e15, 5000
