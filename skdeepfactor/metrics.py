"""Measures of factor models of counts, and scorers made of them.

They do not need a model of this package: estimators are anything with scikit-learn's
public methods, and components are an array of shape (n_components, n_features).

``scorers`` maps names to callables for the ``scoring`` of
:class:`~sklearn.model_selection.GridSearchCV`, one at a time
(``scoring=scorers["npmi_coherence"]``) or together (``scoring=scorers`` with ``refit``
naming one of them):

- ``"neg_completion_perplexity"``: minus :func:`completion_perplexity`; every candidate
  is measured on the same split;
- ``"neg_perplexity"``: minus the estimator's own ``perplexity(X)``;
- ``"npmi_coherence"``: :func:`npmi_coherence` of ``components_`` in the rows scored;
- ``"topic_diversity"``: :func:`topic_diversity` of ``components_``.

With metadata routing enabled, ``scorers[name].set_score_request(covariates=True)`` is a
scorer that gets the covariates of the rows that it scores.

Larger is better for each. In a pipeline, the last step is scored on the data as
transformed by the steps before it, so that the data may be texts.
"""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_array, check_random_state, gen_batches
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import _num_samples, check_non_negative

from skdeepfactor._input import is_whole, received, without_half

__all__ = [
    "completion_perplexity",
    "npmi_coherence",
    "scorers",
    "split_tokens",
    "topic_diversity",
]

PROBABILITY_FLOOR = 1e-12
NPMI_EPSILON = 1e-12  # gensim's, so that values can be compared with the literature's
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
    X = _check_counts(X)
    if random_state is None:
        rng = np.random.default_rng()  # leaves NumPy's global state alone
    else:
        seed = check_random_state(random_state).randint(2**32, size=4, dtype=np.uint32)
        rng = np.random.default_rng(seed)

    counts = X.data.astype(np.int64)
    row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    hidden = rng.binomial(counts, 0.5)
    excess = _row_sums(hidden, X.indptr) - _row_sums(counts, X.indptr) // 2
    movable = np.where(excess[row] > 0, hidden, counts - hidden)
    moved = _draw_tokens(movable, X.indptr, np.abs(excess), rng)
    hidden -= np.sign(excess)[row] * moved
    return _with_counts(X, counts - hidden), _with_counts(X, hidden)


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
        What else the estimator is given for each row, by name, such as ``covariates``:
        its parts go to the methods named above with the rows that they belong to. None
        is left out.

    Returns
    -------
    float
        Between 1 and 1e12, smaller is better. Equal odds for all features give
        n_features.

    Raises
    ------
    ValueError
        If the estimator lacks the methods needed or expects negative counts, no row has
        two tokens, `X` does not hold counts, or something in `side` has not a row for
        each of those of `X`.

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
    side = {name: values for name, values in side.items() if values is not None}
    for name, values in side.items():
        if _num_samples(values) != observed.shape[0]:
            raise ValueError(
                f"{name} has {_num_samples(values)} rows, but X has "
                f"{observed.shape[0]}."
            )
    rows = np.flatnonzero((np.diff(observed.indptr) > 0) & (np.diff(hidden.indptr) > 0))
    if rows.size == 0:
        raise ValueError("No row of X has two or more tokens, as completion needs.")
    observed, hidden = observed[rows], hidden[rows]

    mebibytes = min(MAX_CHUNK_MEBIBYTES, get_config()["working_memory"])
    chunk_size = max(1, int(mebibytes * 2**20 // (8 * observed.shape[1])))
    log_likelihood = 0.0
    for chunk in gen_batches(rows.size, chunk_size):
        known = {
            name: _safe_indexing(values, rows[chunk]) for name, values in side.items()
        }
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


def npmi_coherence(
    components: ArrayLike, X: Any, *, top_n: int = 10, average: bool = True
) -> Any:
    r"""Normalised pointwise mutual information of the top features of each component.

    This is the mean, over pairs of a component's `top_n` features, of

    .. math:: \frac{\log\frac{p(v, w) + \epsilon}{p(v)\, p(w)}}
                    {-\log(p(v, w) + \epsilon)}

    where :math:`p(v)` is the share of the rows of `X` in which feature v is positive,
    :math:`p(v, w)` the share in which both are, and :math:`\epsilon` is 1e-12.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Weights of the features; the largest of each row are its top features, and of
        equal ones the first.
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        The reference corpus: counts, or anything else that is not negative.
    top_n : int, default=10
        Number of features taken of each component, all of them if there are fewer.
    average : bool, default=True
        Whether to return the mean over components.

    Returns
    -------
    float or ndarray of shape (n_components,)
        The coherence, or with ``average=False`` that of each component. Larger is
        better: at most 1, about 0 for independent features.

    Raises
    ------
    ValueError
        If there are fewer than two features to pair, `X` has a negative entry, or the
        numbers of features differ.

    See Also
    --------
    topic_diversity : How much components differ from each other.

    Notes
    -----
    This is gensim's ``c_npmi`` with one window per document, epsilon included: a pair
    that occurs but never together gets -1 - log(p(v) p(w)) / 27.6, somewhat above -1,
    and a pair that occurs together in every row, which is uninformative, gets -1. A
    pair with a feature that is in no row, for which gensim divides by zero, gets -1.

    References
    ----------
    Bouma (2009). Normalized (pointwise) mutual information in collocation extraction.
    GSCL.

    Roeder, Both and Hinneburg (2015). Exploring the space of topic coherence measures.
    WSDM.

    Examples
    --------
    >>> from skdeepfactor.metrics import npmi_coherence
    >>> X = [[1, 2, 0, 0], [3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 5]]
    >>> components = [[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    >>> npmi_coherence(components, X, top_n=2, average=False).round(2)
    array([ 1. , -0.9])
    """
    top = _top_features(components, top_n)
    if top.shape[1] < 2:
        raise ValueError("npmi_coherence needs two or more features per component.")
    X = without_half(check_array(received(X), accept_sparse="csr", input_name="X"))
    check_non_negative(X, "npmi_coherence")
    n_features = np.shape(components)[1]
    if X.shape[1] != n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but the components have {n_features}."
        )

    features, top = _unique_features(top)
    presence = sp.csc_array(X[:, features])
    presence.sum_duplicates()
    presence.data = (presence.data > 0).astype(np.int64)
    first, second = np.triu_indices(top.shape[1], k=1)
    coherence = np.empty(top.shape[0])
    for k, columns in enumerate(top):
        chosen = presence[:, columns]
        joint = (chosen.T @ chosen).toarray() / X.shape[0]
        single = joint.diagonal()
        independent = single[first] * single[second]
        is_seen = independent > 0
        p = joint[first, second][is_seen] + NPMI_EPSILON
        values = np.full(first.size, -1.0)
        values[is_seen] = np.log(p / independent[is_seen]) / -np.log(p)
        coherence[k] = values.mean()
    return float(coherence.mean()) if average else coherence


def topic_diversity(components: ArrayLike, *, top_n: int = 25) -> float:
    r"""Share of distinct features among the top features of all components.

    .. math:: |\textstyle\bigcup_k T_k| \,/\, \textstyle\sum_k |T_k|

    where :math:`T_k` are the `top_n` features of largest weight in component k.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Weights of the features; of equal ones the first come first.
    top_n : int, default=25
        Number of features taken of each component, all of them if there are fewer.

    Returns
    -------
    float
        1 if no two components share a top feature, 1 / n_components if all share all.

    Raises
    ------
    ValueError
        If `components` are not a finite two-dimensional array, or `top_n` is not a
        positive integer.

    See Also
    --------
    npmi_coherence : How well the features of each component go together.

    References
    ----------
    Dieng, Ruiz and Blei (2020). Topic modeling in embedding spaces. TACL.

    Examples
    --------
    >>> from skdeepfactor.metrics import topic_diversity
    >>> topic_diversity([[3, 2, 1, 0], [0, 3, 2, 1]], top_n=2)
    0.75
    """
    top = _top_features(components, top_n)
    return float(np.unique(top).size / top.size)


def _check_counts(X):
    """Make a canonical CSR of X, never in place; ValueError unless X holds counts."""
    X = received(X)
    X = check_array(X, accept_sparse="csr", input_name="X", copy=sp.issparse(X))
    X = without_half(X)
    if not sp.issparse(X):
        X = sp.csr_array(X)
    X.sum_duplicates()
    X.eliminate_zeros()
    check_non_negative(X, "split_tokens")
    if (X.data != np.floor(X.data)).any():
        raise ValueError(
            "Counts must be integers, but X has fractions; tf-idf values are not "
            "counts."
        )
    if X.data.sum(dtype=np.float64) > MAX_TOKENS:
        raise ValueError("Counts must sum to at most 2**53, but those of X do not.")
    return X


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


def _top_features(components, top_n):
    """Find the largest weights: (n_components, min(top_n, n_features)) indices."""
    if hasattr(components, "fit"):
        raise TypeError(
            "components must be an array: give the estimator's components_, not the "
            f"{type(components).__name__} itself."
        )
    components = check_array(
        received(components), dtype=[np.float64, np.float32], input_name="components"
    )
    if not is_whole(top_n, 1):
        raise ValueError(f"top_n must be a positive integer, got {top_n!r}.")
    return np.argsort(-components, axis=1, kind="stable")[:, :top_n]


def _unique_features(top):
    """Return the distinct features in `top`, and `top` as positions among them."""
    features, positions = np.unique(top, return_inverse=True)
    return features, positions.reshape(top.shape)


def _last_step(estimator, X):
    """Return the last step of a pipeline, and X as transformed by the steps before."""
    X = received(X)
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    return estimator, X


class _Scorer:
    """A measure of a fitted estimator on rows, for the ``scoring`` of a search.

    Calling it with ``(estimator, X, y=None, **side)`` gives the score; ``side`` is what
    else the estimator is given for each row, such as ``covariates``. With metadata
    routing enabled, a search passes what :meth:`set_score_request` asks for.
    """

    def __init__(self, name, measure, requested=()):
        self._name, self._measure = name, measure
        self._requested = dict(requested)

    def __call__(self, estimator, X, y=None, **side):
        estimator, X = _last_step(estimator, X)
        return self._measure(estimator, X, **side)

    def __repr__(self):
        return f"scorers[{self._name!r}]"

    def set_score_request(self, **requests):
        """Ask for what else is known of rows, in a copy of the scorer.

        Each is True, False, None or the name that it has in the search's ``fit``, as
        for the methods of this name of estimators.
        """
        return _Scorer(self._name, self._measure, {**self._requested, **requests})

    def get_metadata_routing(self):
        """What it asks for, as scikit-learn's routing wants to know."""
        request = MetadataRequest(owner=self)
        for name, alias in self._requested.items():
            request.score.add_request(param=name, alias=alias)
        return request


def _completion(estimator, X, **side):
    # One seed for all candidates: they are compared on the same hidden tokens.
    return -completion_perplexity(estimator, X, random_state=0, **side)


def _perplexity(estimator, X, **side):
    if not hasattr(estimator, "perplexity"):
        raise ValueError(f"{type(estimator).__name__} has no perplexity.")
    return -float(estimator.perplexity(X, **side))


def _npmi(estimator, X, **side):
    return npmi_coherence(estimator.components_, X)


def _diversity(estimator, X, **side):
    return topic_diversity(estimator.components_)


scorers = {
    name: _Scorer(name, measure)
    for name, measure in {
        "neg_completion_perplexity": _completion,
        "neg_perplexity": _perplexity,
        "npmi_coherence": _npmi,
        "topic_diversity": _diversity,
    }.items()
}
