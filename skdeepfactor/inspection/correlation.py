"""Which topics go together, for models whose topics correlate."""

from typing import Any

import numpy as np

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_share, check_whole


def topic_graph(
    estimator: Any, *, threshold: float = 0.1, n_edges: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Find the pairs of topics that go together.

    These are the edges of a graph whose nodes are the topics: the pairs whose
    correlation, given covariates, is at least `threshold`. Negative correlations make
    no edges: since proportions sum to 1, those of K unrelated topics are about -1 / (K
    - 1).

    Parameters
    ----------
    estimator : CorrelatedTopicModel or Pipeline
        Fitted, with ``topic_correlation_``; of a pipeline, the last step.
    threshold : float, default=0.1
        Smallest correlation of an edge, from 0 to below 1.
    n_edges : int, default=None
        Largest number of edges, those with the largest correlations; all if None.

    Returns
    -------
    pairs : ndarray of shape (n_edges, 2)
        Indices of the two topics of each edge, the smaller one first; edges with large
        correlations come first.
    correlations : ndarray of shape (n_edges,), float64
        Their correlations.

    Raises
    ------
    ValueError
        If `threshold` or `n_edges` is out of range.
    TypeError
        If the estimator has no ``topic_correlation_``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    skdeepfactor.plotting.TopicGraphDisplay : The graph as a picture.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor import CorrelatedTopicModel
    >>> from skdeepfactor.inspection import topic_graph
    >>> X = np.kron(np.diag([1, 2, 3]), np.ones((9, 4), dtype=int))
    >>> X[:18, :8] += 1  # The first two topics are found in the same rows.
    >>> model = CorrelatedTopicModel(3, random_state=0).fit(X)
    >>> pairs, correlations = topic_graph(model, n_edges=1)
    >>> pairs.shape[1], len(correlations) <= 1
    (2, True)
    """
    model, _ = reading.last_step(estimator)
    correlation = reading.correlations_of(model)
    check_share("threshold", threshold)
    if n_edges is not None:
        check_whole("n_edges", n_edges, 1)
    first, second = np.triu_indices(len(correlation), k=1)
    values = correlation[first, second]
    order = np.argsort(-values, kind="stable")
    order = order[values[order] >= max(threshold, np.finfo(np.float64).tiny)][:n_edges]
    return np.stack([first[order], second[order]], axis=1), values[order]
