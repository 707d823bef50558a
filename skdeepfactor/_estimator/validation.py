"""Data and weights, checked by scikit-learn's own functions, and advice on bad ones."""

import numpy as np
import scipy.sparse
import sklearn
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import (
    _check_n_features,
    _check_sample_weight,
    check_array,
    check_non_negative,
    validate_data,
)

from skdeepfactor._input import is_whole, n_masked, received
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor._training.streams import CheckedBlocks, StreamedRows
from skdeepfactor.data import RowBlocks, is_streamed, refuse_iterators


def checked_matrix(estimator, X, *, reset, min_rows=1):
    """X as canonical CSR or an array, which is never the caller's to be changed."""
    given, domain, may_miss = X, estimator._domain, estimator._may_miss
    X = received(X)
    try:
        refuse_iterators(X)
        with sklearn.config_context(array_api_dispatch=False):
            X = _validated(
                estimator,
                X,
                reset=reset,
                accept_sparse="csr",
                dtype="numeric",
                ensure_all_finite="allow-nan" if may_miss else True,
                # There is no least of the numbers of a shard without rows.
                ensure_non_negative=domain.is_non_negative
                and (min_rows > 0 or 0 not in np.shape(X)),
                ensure_min_samples=min_rows,
            )
        if may_miss:
            _check_what_is_there(estimator, X)
    except (TypeError, ValueError) as error:
        message = advice(estimator, given, str(error))
        if message is None:
            raise
        raise type(error)(message) from error
    if scipy.sparse.issparse(X):
        if not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        if (X.data == 0).any():
            # Parts of scikit-learn count stored entries.
            X = X.copy()
            X.eliminate_zeros()
    domain.check(X)
    return X


def _validated(estimator, X, *, reset, **checks):
    """``validate_data``; of a sparse matrix without a search for names of columns.

    That takes as long as the factors of a short row.
    """
    has_names = "feature_names_in_" in vars(estimator)
    if reset or has_names or not scipy.sparse.issparse(X):
        return validate_data(estimator, X, reset=reset, **checks)
    X = check_array(X, estimator=estimator, input_name="X", **checks)
    _check_n_features(estimator, X, reset=False)
    return X


def _check_what_is_there(estimator, X):
    """Raise a ``ValueError`` where X cannot miss entries, or for the rest of them."""
    if scipy.sparse.issparse(X):
        if np.isnan(X.data).any():
            raise ValueError(
                "X is a sparse matrix that stores NaN, but entries that it does not "
                "store count as 0, not as missing; pass a dense array."
            )
    elif estimator._domain.is_non_negative and np.isnan(X).any():
        # The least of numbers with NaN among them is NaN.
        known = np.where(np.isnan(X), 0, X)
        check_non_negative(known, f"X in {type(estimator).__name__}")


def checked_rows(estimator, X, share, *, reset):
    """The rows of X, checked, as training takes them."""
    # A shard may be empty.
    min_rows = 0 if share.is_sharded else 1
    if is_streamed(X):
        blocks = checked_blocks(estimator, X, reset=reset, min_rows=min_rows)
        return StreamedRows(blocks, share)
    X = checked_matrix(estimator, X, reset=reset, min_rows=min_rows)
    return MatrixRows(X, share)


def checked_blocks(estimator, X, *, reset, min_rows=1):
    """The blocks of a stream, each checked; ``min_rows`` is for all of them."""

    def check(block, is_first):
        is_new = reset and is_first
        return checked_matrix(estimator, block, reset=is_new, min_rows=min_rows)

    source = X if isinstance(X, RowBlocks) else RowBlocks(X)
    return CheckedBlocks(source, check, may_be_empty=min_rows == 0)


def weighted_rows(rows, sample_weight):
    """The rows, each as often as it counts."""
    n_rows = rows.n_visible
    if rows.share.is_sharded:
        # A process whose rows are its own may have none that counts.
        given = np.asarray(received(sample_weight))
        if given.shape == (n_rows,) and not given.any():
            return rows.knowing(weight=np.zeros(n_rows))
    return rows.knowing(weight=checked_weights(sample_weight, n_rows))


def checked_weights(sample_weight, n_rows):
    """How often each row counts, float64."""
    if sample_weight is None:
        return np.ones(n_rows)
    rows = np.empty((n_rows, 1))
    weights = _check_sample_weight(
        received(sample_weight),
        rows,
        dtype=np.float64,
        ensure_non_negative=True,
        # torch accepts neither read-only arrays nor negative strides.
        copy=True,
    )
    if not weights.any():
        raise ValueError("sample_weight must not be 0 for every row.")
    return weights


def weighted_average(values, sample_weight):
    """The mean over rows, each as often as it counts, a float."""
    return float(
        np.average(
            received(values), weights=checked_weights(sample_weight, len(values))
        )
    )


def check_truth_values(estimator):
    """Raise where a truth value is given for a number, as Python takes True for 1."""
    constraints = estimator._parameter_constraints
    for name, value in estimator.get_params(deep=False).items():
        known = constraints.get(name, ["boolean"])
        if isinstance(value, bool) and not any(
            constraint in known for constraint in ("boolean", "verbose")
        ):
            raise InvalidParameterError(
                f"The {name!r} parameter of {type(estimator).__name__} must not be a "
                f"truth value, got {value!r}."
            )


def check_layers(name, layers):
    """Raise a ``ValueError`` unless layers are positive ints."""
    if not all(is_whole(n, 1) for n in layers):
        raise ValueError(f"{name} must hold positive ints, got {layers!r}.")


def ignores_missing(parameters):
    """Whether parameters say so; not all models have one that does."""
    return parameters.get("missing_values") == "ignore"


def advice(estimator, X, error):
    """Advice on data that scikit-learn refused; None if its message needs no more."""
    is_sparse = scipy.sparse.issparse(X)
    if error.startswith("Negative values"):
        return (
            f"{error} Counts cannot be negative: leave out what centres them, such as "
            "StandardScaler, or take a model of real numbers, such as "
            "VariationalAutoencoder."
            + " Of a HashingVectorizer, set alternate_sign=False."
            * is_sparse
        )
    if "fill value must be 0" in error:
        return (
            "X is a data frame of sparse columns that leave out other values than 0, "
            "such as NaN. X.sparse.to_dense() keeps these; "
            "X.fillna(0).astype(pandas.SparseDtype(float, 0)) makes 0 of NaN."
        )
    if "contains NaN" in error and not is_sparse:
        may_ignore = "missing_values" in estimator.get_params(deep=False)
        hint = (
            " missing_values='ignore' takes such entries to be missing, leaves them "
            "out, and lets inverse_transform say what they may be."
        )
        n_missing = n_masked(X)
        if n_missing > 0:
            return (
                f"X is an array of which {n_missing} entries are masked, where "
                f"{type(estimator).__name__} needs all." + hint * may_ignore
            )
        return "Input X contains NaN." + hint if may_ignore else None
    if "features as input" in error:
        n_features = estimator.n_features_in_
        n_rows = X.shape[0] if is_sparse else len(X)
        hint = f" It has {n_features} rows: is it transposed?"
        return error + hint if n_rows == n_features else None
    if is_sparse or not _holds_objects(X):
        return None
    values = np.asarray(X, dtype=object)
    is_text = np.array([isinstance(value, str) for value in values.flat], dtype=bool)
    if values.ndim == 2 and is_text.any():
        names = vars(estimator).get("feature_names_in_")
        if names is None:
            return (
                "X holds words where counts must be. CountVectorizer(analyzer=list) "
                "makes counts of lists of words."
            )
        columns = names[is_text.reshape(values.shape).any(axis=0)]
        return (
            f"X has text in {', '.join(map(repr, columns[:3]))}. Take the columns that "
            "hold counts, or make counts of the texts by a ColumnTransformer with a "
            "CountVectorizer for each such column."
        )
    if is_text.any():
        return (
            "X holds texts, and not counts of their words. "
            f"make_pipeline(CountVectorizer(), {type(estimator).__name__}()) takes a "
            "list of texts."
        )
    if any(isinstance(value, list | tuple) for value in values.flat):
        return (
            "X holds lists of different lengths, where each row must have a number for "
            "each feature. CountVectorizer(analyzer=list) makes counts of lists of "
            "words, gensim.matutils.corpus2csc(corpus, num_terms=...).T of a corpus of "
            "gensim's."
        )
    return None


def _holds_objects(X):
    """Whether data are anything but numbers."""
    try:
        return np.asarray(X).dtype.kind not in "biufc"
    except ValueError:
        # Rows of different lengths.
        return True
