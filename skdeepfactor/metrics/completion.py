"""Document completion: some tokens of a row predicted from the others."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn import get_config
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.utils import _safe_indexing, check_array, check_random_state, gen_batches
from sklearn.utils.validation import _num_samples, check_non_negative

from skdeepfactor._input import received, without_half

PROBABILITY_FLOOR = 1e-12
MAX_TOKENS = 2**53  # the integers that float64 can hold
MAX_CHUNK_MEBIBYTES = 64


def split_tokens(
    X: Any, *, random_state: int | np.random.RandomState | None = None
) -> tuple[Any, Any]:
    r"""Hide a random half of the tokens of each row.

    Of the N tokens of a row (the sum of its counts), floor(N / 2) are hidden, chosen
    uniformly without replacement. The hidden counts of a row are thus multivariate
    hypergeometric:

    .. math:: P(h) = \prod_v \binom{x_v}{h_v} \Big/ \binom{N}{\lfloor N/2 \rfloor}

    Parameters
    ----------
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        Counts: integers, or floats with integer values.
    random_state : int, RandomState instance or None, default=None
        The seed of the split. With None it differs from call to call.

    Returns
    -------
    observed : CSR matrix or array of shape (n_samples, n_features)
        The counts that stay, without explicit zeros. A sparse array unless `X` is a
        sparse matrix. The type of number is that of `X`, float32 for float16, or
        float64 where that cannot hold the counts exactly.
    hidden : CSR matrix or array of shape (n_samples, n_features)
        The counts hidden. ``observed + hidden`` equals `X`.

    Raises
    ------
    ValueError
        If a count is negative, not an integer or not finite, or there are more than
        2**53 tokens.

    See Also
    --------
    split_features : Hides whole counts of half of the features.
    completion_perplexity : How well one half is predicted from the other.

    Notes
    -----
    Tossing a fair coin for each token takes one binomial draw for each entry, and makes
    all subsets of a given size equally likely. Moving uniformly chosen tokens until
    floor(N / 2) are hidden keeps this distribution. About sqrt(N) tokens move, so
    memory is of the order of that, never of N.

    Examples
    --------
    >>> from skdeepfactor.metrics import split_tokens
    >>> observed, hidden = split_tokens([[4, 0, 3], [0, 10**9, 1]], random_state=0)
    >>> hidden.sum(axis=1)
    array([        3, 500000000])
    >>> (observed + hidden).toarray()
    array([[         4,          0,          3],
           [         0, 1000000000,          1]])
    """
    X = _checked(X, "split_tokens")
    if (X.data != np.floor(X.data)).any():
        raise ValueError(
            "Counts must be integers, but X has fractions; tf-idf values are not "
            "counts."
        )
    if X.data.sum(dtype=np.float64) > MAX_TOKENS:
        raise ValueError("Counts must sum to at most 2**53, but those of X do not.")
    counts = X.data.astype(np.int64)
    hidden = _half(counts, X.indptr, random_generator(random_state))
    return _with_counts(X, counts - hidden), _with_counts(X, hidden)


def split_features(
    X: Any, *, random_state: int | np.random.RandomState | None = None
) -> tuple[Any, Any]:
    r"""Hide a random half of the features of each row, with their whole counts.

    Of the m features that a row has, floor(m / 2) are hidden, chosen uniformly: the
    split for recommendation, in which a model is to find features that the user has not
    met.

    Parameters
    ----------
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        Counts, or other non-negative numbers.
    random_state : int, RandomState instance or None, default=None
        The seed of the split. With None it differs from call to call.

    Returns
    -------
    observed : CSR matrix or array of shape (n_samples, n_features)
        The counts that stay, without explicit zeros. A sparse array unless `X` is a
        sparse matrix.
    hidden : CSR matrix or array of shape (n_samples, n_features)
        The counts hidden. ``observed + hidden`` equals `X`.

    Raises
    ------
    ValueError
        If a count is negative or not finite.

    See Also
    --------
    split_tokens : Leaves a part of large counts on either side.
    recall_at_k : How many hidden features a model ranks first.

    Examples
    --------
    >>> from skdeepfactor.metrics import split_features
    >>> observed, hidden = split_features([[4, 0, 3, 1], [0, 7, 0, 0]], random_state=0)
    >>> hidden.toarray()
    array([[0, 0, 3, 0],
           [0, 0, 0, 0]])
    >>> observed.toarray()
    array([[4, 0, 0, 1],
           [0, 7, 0, 0]])
    """
    X = _checked(X, "split_features")
    ones = np.ones(X.nnz, dtype=np.int64)
    is_hidden = _half(ones, X.indptr, random_generator(random_state)) > 0
    return tuple(
        _with_counts(X, np.where(chosen, X.data, 0))
        for chosen in (~is_hidden, is_hidden)
    )


def completion_perplexity(
    estimator: Any,
    X: Any,
    *,
    predictive: bool = False,
    random_state: int | np.random.RandomState | None = None,
    **side: Any,
) -> float:
    r"""Perplexity of the hidden half of each row's tokens, given the other half.

    The rows are split by :func:`split_tokens`, the factors inferred from the observed
    counts :math:`o`, and the hidden counts :math:`h` predicted:

    .. math:: \exp\Big(-\frac{\sum_{iv} h_{iv} \log p_{iv}}{\sum_{iv} h_{iv}}\Big)

    where :math:`p_i` is ``inverse_transform(transform(o_i))`` divided by its sum, and
    at least 1e-12. Rows with fewer than two tokens are left out.

    Parameters
    ----------
    estimator : object
        A fitted estimator with `transform` and either `inverse_transform` or
        `components_`. Without `inverse_transform`, the expected counts are
        ``transform(X) @ components_``; the rows of the `components_` of scikit-learn's
        LatentDirichletAllocation, which are pseudo-counts, are first divided by their
        sums. It is not modified.
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        Counts. At most 64 MiB of predictions are held at a time (fewer if
        scikit-learn's ``working_memory`` is smaller), never those of all rows.
    predictive : bool, default=False
        Take :math:`p_i` from ``estimator.predictive(o)``, the word probabilities given
        the observed counts, instead.
    random_state : int, RandomState instance or None, default=None
        The seed of the split.
    **side : array-like of shape (n_samples, ...)
        Further arguments with an entry for each row, by name, such as ``covariates``:
        each goes to the methods named above with the rows that it belongs to. None is
        left out.

    Returns
    -------
    float
        Between 1 and 1e12, smaller is better. Equal odds for all features give
        n_features.

    Raises
    ------
    ValueError
        If the estimator lacks the methods needed or expects negative counts, no row has
        two tokens, `X` does not hold counts, or an argument in `side` does not have an
        entry for each row of `X`.

    See Also
    --------
    split_tokens : How tokens are hidden.

    References
    ----------
    Wallach, Murray, Salakhutdinov and Mimno (2009). Evaluation methods for topic
    models. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.metrics import completion_perplexity
    >>> X = np.array([[6, 6, 0, 0], [0, 0, 8, 8]] * 3)
    >>> nmf = NMF(n_components=2, random_state=0).fit(X)
    >>> round(completion_perplexity(nmf, X, random_state=0), 2)
    2.0
    """
    needed = "predictive" if predictive else "transform"
    if not hasattr(estimator, needed):
        raise ValueError(
            f"completion_perplexity needs an estimator with the method {needed}; "
            f"{type(estimator).__name__} has none."
        )
    observed, hidden = split_tokens(X, random_state=random_state)
    side = checked_side(side, observed.shape[0])
    rows = np.flatnonzero((np.diff(observed.indptr) > 0) & (np.diff(hidden.indptr) > 0))
    if rows.size == 0:
        raise ValueError("No row of X has two or more tokens, as completion needs.")
    observed, hidden = observed[rows], hidden[rows]

    log_likelihood = 0.0
    for chunk in gen_batches(rows.size, rows_at_once(observed.shape[1])):
        known = side_of(side, rows[chunk])
        expected = _expected_counts(estimator, observed[chunk], predictive, known)
        if expected.min() < 0:
            raise ValueError(
                "completion_perplexity needs expected counts that are not negative, "
                f"but {type(estimator).__name__} expects {expected.min():.3g}."
            )
        tokens = hidden[chunk]
        row = np.repeat(np.arange(tokens.shape[0]), np.diff(tokens.indptr))
        values = expected[row, tokens.indices].astype(np.float64)
        total = expected.sum(axis=1, dtype=np.float64)[row]
        p = np.divide(values, total, out=np.zeros_like(values), where=total != 0)
        log_likelihood += tokens.data @ np.log(np.maximum(p, PROBABILITY_FLOOR))
    return float(np.exp(-log_likelihood / hidden.data.sum(dtype=np.float64)))


def _checked(X, name):
    """Make a canonical CSR of non-negative X, never in place, for what ``name`` is."""
    X = received(X)
    X = check_array(X, accept_sparse="csr", input_name="X", copy=sp.issparse(X))
    X = without_half(X)
    if not sp.issparse(X):
        X = sp.csr_array(X)
    X.sum_duplicates()
    X.eliminate_zeros()
    check_non_negative(X, name)
    return X


def random_generator(random_state):
    """A generator from scikit-learn's kinds of seeds; NumPy's state stays as it is."""
    if random_state is None:
        return np.random.default_rng()
    seed = check_random_state(random_state).randint(2**32, size=4, dtype=np.uint32)
    return np.random.default_rng(seed)


def _half(counts, indptr, rng):
    """Draw half of each row's tokens: how many of each entry of a CSR are hidden."""
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    hidden = rng.binomial(counts, 0.5)
    excess = _row_sums(hidden, indptr) - _row_sums(counts, indptr) // 2
    movable = np.where(excess[row] > 0, hidden, counts - hidden)
    moved = _draw_tokens(movable, indptr, np.abs(excess), rng)
    return hidden - np.sign(excess)[row] * moved


def _with_counts(X, counts):
    """Make a CSR with other counts in the places of those of X, zeros dropped."""
    dtype = X.dtype
    if dtype.kind == "f" and X.data.max(initial=0) > 2 / np.finfo(dtype).eps:
        dtype = np.float64  # the halves of a large even count may be odd
    new = X.copy()
    new.data = counts.astype(dtype)
    new.eliminate_zeros()
    return new


def _row_sums(values, indptr):
    """Sum a CSR's values by row."""
    return np.diff(np.append(0, np.cumsum(values))[indptr])


def _draw_tokens(counts, indptr, n_draws, rng):
    """Draw n_draws[i] tokens of row i without replacement: how many of each entry."""
    ends = np.cumsum(counts)
    edges = np.append(0, ends)[indptr]
    drawn = np.empty(0, dtype=np.int64)
    missing = n_draws
    # Duplicates are dropped and drawn again. No token is favoured, so all sets of
    # n_draws tokens stay equally likely; at most about half a row is drawn, so few
    # rounds are needed.
    while missing.any():
        low, high = np.repeat(edges[:-1], missing), np.repeat(edges[1:], missing)
        drawn = np.unique(np.append(drawn, rng.integers(low, high)))
        missing = n_draws - np.diff(np.searchsorted(drawn, edges))
    return np.bincount(
        np.searchsorted(ends, drawn, side="right"), minlength=counts.size
    )


def checked_side(side, n_rows):
    """Side information without None; a ValueError if it is of other rows."""
    side = {name: values for name, values in side.items() if values is not None}
    for name, values in side.items():
        if not hasattr(values, "__len__") and not hasattr(values, "shape"):
            raise TypeError(
                f"{name} must have a row for each row of X, got {values!r}; or is it a "
                "misspelt option?"
            )
        if sp.issparse(values):
            side[name] = values = values.tocsr()
        if _num_samples(values) != n_rows:
            raise ValueError(
                f"{name} has {_num_samples(values)} rows, but X has {n_rows}."
            )
    return side


def side_of(side, rows):
    """Side information of some of the rows."""
    return {name: _safe_indexing(values, rows) for name, values in side.items()}


def rows_at_once(n_features):
    """Number of rows whose expected counts there is room for."""
    mebibytes = min(MAX_CHUNK_MEBIBYTES, get_config()["working_memory"])
    return max(1, int(mebibytes * 2**20 // (8 * n_features)))


def _expected_counts(estimator, counts, predictive, side):
    """Return expected rows given these counts and the rest, up to scale."""
    with warnings.catch_warnings():
        # The split is a CSR, which cannot carry the names of a data frame's columns.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        if predictive:
            return np.asarray(estimator.predictive(counts, **side))
        z = estimator.transform(counts, **side)
    z = z.toarray() if sp.issparse(z) else np.asarray(z)
    if hasattr(estimator, "inverse_transform"):
        return np.asarray(estimator.inverse_transform(z, **side))
    if not hasattr(estimator, "components_"):
        raise ValueError(
            "completion_perplexity needs an estimator with inverse_transform or "
            f"components_; {type(estimator).__name__} has neither."
        )
    components = np.asarray(estimator.components_)
    if isinstance(estimator, LatentDirichletAllocation):
        components = components / components.sum(axis=1, keepdims=True)
    return z @ components
