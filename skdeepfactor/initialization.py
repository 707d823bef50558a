"""Where inference starts: expected counts of each component in each feature.

The start decides which optimum coordinate ascent finds, and passes only polish it.
"""

import numpy as np
import scipy.sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import safe_sparse_dot

SVD_POWER_ITERATIONS = 2
KMEANS_ITERATIONS = 20


def initial_counts(X, n_components, init, random_state):
    """Expected counts to start from, shape (n_components, n_features), float64.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    n_components : int
    init : {"kmeans", "random"} or array of shape (n_components, n_features)
        ``"kmeans"`` clusters the rows: tf-idf, truncated SVD, k-means on the
        normalised scores; a component is half its cluster's counts and half the
        average over the components. ``"random"`` spreads the counts of each feature
        by exponential weights. An array gives the proportions of the features in each
        component, up to scale.
    random_state : numpy.random.RandomState
    """
    totals = np.asarray(X.sum(axis=0), dtype=np.float64).ravel()
    if not isinstance(init, str):
        shares = np.array(init, dtype=np.float64)
        return shares * (totals.sum() / max(shares.sum(), np.finfo(float).tiny))
    average = np.tile(totals / n_components, (n_components, 1))
    if init == "random":
        return average * random_state.exponential(size=average.shape)
    return 0.5 * average + 0.5 * _cluster_counts(X, n_components, random_state)


def _cluster_counts(X, n_components, random_state):
    n_samples, n_features = X.shape
    X = X.astype(np.float64 if X.dtype == np.float64 else np.float32, copy=False)
    scores = TfidfTransformer().fit_transform(X)
    n_directions = min(n_components, n_samples - 1, n_features - 1)
    if n_directions >= 2:
        svd = TruncatedSVD(
            n_directions, n_iter=SVD_POWER_ITERATIONS, random_state=random_state
        )
        scores = svd.fit_transform(scores)
    scores = normalize(scores)
    n_clusters = min(n_components, _n_distinct(scores, n_components))
    kmeans = KMeans(
        n_clusters, n_init=1, max_iter=KMEANS_ITERATIONS, random_state=random_state
    )
    labels = kmeans.fit_predict(scores)
    # Components beyond the clusters start from one row each.
    rows = np.arange(n_samples)
    extra = np.arange(n_clusters, n_components)
    labels = np.concatenate([labels, extra])
    rows = np.concatenate([rows, random_state.choice(n_samples, len(extra))])
    members = scipy.sparse.csr_matrix(
        (np.ones(len(rows), dtype=X.dtype), (labels, rows)),
        shape=(n_components, n_samples),
    )
    counts = safe_sparse_dot(members, X, dense_output=True)
    return np.asarray(counts, dtype=np.float64)


def _n_distinct(scores, enough):
    """The number of distinct rows, counted no further than needed."""
    if scipy.sparse.issparse(scores):
        scores = scores.toarray()
    distinct = np.unique(scores[: 10 * enough], axis=0)
    if len(distinct) < enough:
        distinct = np.unique(scores, axis=0)
    return len(distinct)
