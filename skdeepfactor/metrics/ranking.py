"""Rankings of the features that were hidden of a row."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils import gen_batches

from skdeepfactor._input import is_whole
from skdeepfactor.metrics.completion import (
    _expected_counts,
    checked_side,
    random_generator,
    rows_at_once,
    side_of,
    split_features,
)


def recall_at_k(
    estimator: Any,
    X: Any,
    *,
    k: int = 20,
    splitter: Callable | None = None,
    exclude_seen: bool = True,
    random_state: int | np.random.RandomState | None = None,
    **side: Any,
) -> float:
    r"""Share of hidden features among the k that a model ranks highest.

    Rows are split by `splitter`. The factors of a row are inferred from the features
    that stay, and features are ranked by their expected counts. With :math:`H_i` the
    features hidden of row i and :math:`T_i` the first k of the ranking, this is the
    mean over rows of

    .. math:: \frac{|T_i \cap H_i|}{\min(k, |H_i|)},

    so that 1 is reached by the best ranking, however many features are hidden. Rows
    without hidden features are left out.

    Parameters
    ----------
    estimator : object
        A fitted estimator with `transform` and either `inverse_transform` or
        `components_`, as for :func:`completion_perplexity`. It is not modified.
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        Counts, such as how often users played songs.
    k : int, default=20
        Number of features recommended.
    splitter : callable, default=None
        ``splitter(X, random_state=...)`` gives the counts that stay and those that are
        hidden, both of the shape of `X`: :func:`split_features` if None, or
        :func:`split_tokens`, which leaves a part of large counts on either side.
    exclude_seen : bool, default=True
        Whether features that a row still has are neither ranked nor counted as hidden.
    random_state : int, RandomState instance or None, default=None
        The seed of the split, and of the order of features with equal expected counts.
    **side : array-like of shape (n_samples, ...)
        Further arguments with an entry for each row, as for
        :func:`completion_perplexity`.

    Returns
    -------
    float
        Between 0 and 1, larger is better.

    Raises
    ------
    ValueError
        If the estimator lacks the methods needed, `k` is not a positive integer, no row
        has a hidden feature, `X` does not hold counts, or an argument in `side` does
        not have an entry for each row of `X`.

    See Also
    --------
    ndcg_at_k : Takes the order of the features into account.
    skdeepfactor.PoissonFactorization.recommend : The features that come first.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara (2018). Variational autoencoders for
    collaborative filtering. WWW.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.metrics import recall_at_k
    >>> X = np.array([[6, 6, 2, 0, 0, 0], [0, 0, 0, 3, 8, 8]] * 3)
    >>> nmf = NMF(n_components=2, random_state=0).fit(X)
    >>> recall_at_k(nmf, X, k=1, random_state=0)
    1.0
    """

    def recall(gains, order):
        is_hidden = gains > 0
        n_hits = np.count_nonzero(is_hidden[order])
        return n_hits / min(k, np.count_nonzero(is_hidden))

    return _mean_over_rows(
        recall, estimator, X, k, splitter, exclude_seen, random_state, side
    )


def ndcg_at_k(
    estimator: Any,
    X: Any,
    *,
    k: int = 20,
    splitter: Callable | None = None,
    exclude_seen: bool = True,
    random_state: int | np.random.RandomState | None = None,
    **side: Any,
) -> float:
    r"""Normalised discounted cumulative gain of the k features ranked highest.

    Rows are split by `splitter`, and features ranked by their expected counts given the
    rest of the row. With :math:`h_{ij}` the hidden count of the feature at place j of
    the ranking, and :math:`h^*_{ij}` the j-th largest of the hidden counts, this is the
    mean over rows of

    .. math::
        \sum_{j=1}^k \frac{h_{ij}}{\log_2(j + 1)} \Big/
        \sum_{j=1}^k \frac{h^*_{ij}}{\log_2(j + 1)}.

    Rows without hidden features are left out.

    Parameters
    ----------
    estimator : object
        A fitted estimator with `transform` and either `inverse_transform` or
        `components_`, as for :func:`completion_perplexity`. It is not modified.
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        Counts. Hidden counts are the gains, as in scikit-learn's ``ndcg_score``: where
        a few are very large, take their logarithms, or ones, before fitting and here.
    k : int, default=20
        Number of features recommended.
    splitter : callable, default=None
        ``splitter(X, random_state=...)`` gives the counts that stay and those that are
        hidden, both of the shape of `X`: :func:`split_features` if None, or
        :func:`split_tokens`, which leaves a part of large counts on either side.
    exclude_seen : bool, default=True
        Whether features that a row still has are neither ranked nor counted as hidden.
    random_state : int, RandomState instance or None, default=None
        The seed of the split, and of the order of features with equal expected counts.
    **side : array-like of shape (n_samples, ...)
        Further arguments with an entry for each row, as for
        :func:`completion_perplexity`.

    Returns
    -------
    float
        Between 0 and 1, larger is better.

    Raises
    ------
    ValueError
        If the estimator lacks the methods needed, `k` is not a positive integer, no row
        has a hidden feature, `X` does not hold counts, or an argument in `side` does
        not have an entry for each row of `X`.

    See Also
    --------
    recall_at_k : The share of hidden features, whatever their order.

    References
    ----------
    Järvelin and Kekäläinen (2002). Cumulated gain-based evaluation of IR techniques.
    ACM Transactions on Information Systems 20.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.metrics import ndcg_at_k
    >>> X = np.array([[6, 6, 2, 0, 0, 0], [0, 0, 0, 3, 8, 8]] * 3)
    >>> nmf = NMF(n_components=2, random_state=0).fit(X)
    >>> ndcg_at_k(nmf, X, k=3, random_state=0)
    1.0
    """

    def gain(gains, order):
        best = np.sort(gains)[::-1][:k]
        discounts = 1 / np.log2(np.arange(2, len(best) + 2))
        return (discounts[: len(order)] @ gains[order]) / (discounts @ best)

    return _mean_over_rows(
        gain, estimator, X, k, splitter, exclude_seen, random_state, side
    )


def _mean_over_rows(
    measure, estimator, X, k, splitter, exclude_seen, random_state, side
):
    """Mean of ``measure(gains, order)`` over rows with a hidden feature.

    ``gains`` are the hidden counts of a row, (n_features,), and ``order`` the first k
    features of its ranking.
    """
    if not is_whole(k, 1):
        raise ValueError(f"k must be a positive integer, got {k!r}.")
    for needed in ("transform", "inverse_transform"):
        has_other = needed == "inverse_transform" and hasattr(estimator, "components_")
        if not hasattr(estimator, needed) and not has_other:
            raise ValueError(
                f"Rankings need an estimator with the method {needed}; "
                f"{type(estimator).__name__} has none."
            )
    split = split_features if splitter is None else splitter
    observed, hidden = map(sp.csr_array, split(X, random_state=random_state))
    side = checked_side(side, observed.shape[0])
    if exclude_seen:
        hidden = sp.csr_array(hidden - hidden.multiply(observed > 0))
        hidden.eliminate_zeros()
    rows = np.flatnonzero(np.diff(hidden.indptr))
    if rows.size == 0:
        raise ValueError("No row of X has a hidden feature, as rankings need.")
    observed, hidden = observed[rows], hidden[rows]
    # Features expected alike come in one random order, not in that of the columns.
    places = random_generator(random_state).permutation(hidden.shape[1])
    values = []
    for chunk in gen_batches(rows.size, rows_at_once(observed.shape[1])):
        known = side_of(side, rows[chunk])
        expected = _expected_counts(estimator, observed[chunk], False, known)
        parts = zip(
            expected, _entries(observed[chunk]), _entries(hidden[chunk]), strict=True
        )
        for scores, (seen, _), (features, counts) in parts:
            scores = scores.astype(np.float64)
            n_ranked = len(scores)
            if exclude_seen:
                scores[seen] = -np.inf
                n_ranked -= len(seen)
            order = places[
                np.argsort(-scores[places], kind="stable")[: min(k, n_ranked)]
            ]
            gains = np.zeros(len(scores))
            gains[features] = counts
            values.append(measure(gains, order))
    return float(np.mean(values))


def _entries(rows):
    """The columns and the values of each row of a CSR."""
    for start, stop in itertools.pairwise(rows.indptr):
        yield rows.indices[start:stop], rows.data[start:stop]
