"""Starts of inference: expected counts of each component in each feature.

The start decides which optimum coordinate ascent finds, and passes only polish it.
"""

import warnings
from functools import partial

import numpy as np
import scipy.sparse
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_svd, safe_sparse_dot
from sklearn.utils.sparsefuncs import mean_variance_axis
from sklearn.utils.validation import check_array

from skdeepfactor._input import received
from skdeepfactor._math.ops import csr

SVD_POWER_ITERATIONS = 2
# Power iterations where directions alone are sought, and columns beyond these.
POWER_ITERATIONS = 3
OVERSAMPLES = 10
KMEANS_ITERATIONS = 20
# Those of a start that looks at few rows for each component.
FEW_ITERATIONS = 10
# Directions of many clusters, of which there need not be as many as of these.
MANY_DIRECTIONS = 100
# Rows with few entries say little of directions: so many entries at least.
ENTRIES_OF_DIRECTIONS = 150_000
# How fast a feature's share falls with its distance from a cluster's centre.
PART_WIDTH = 0.28
# Starts of k-means where data are no counts: passes over few, light words do not part
# what it has merged, as those over counts do.
N_STARTS = 8
# Rows for each topic that starts of LDA are sought in: a fit takes hardly longer than a
# start from all rows would.
FEW_ROWS = 30
# Shape of the gamma weights of a random start. Components that differ more, as those of
# exponential weights do, have settled before small batches tell what belongs together.
EVENNESS = 10.0
TINY = np.finfo(np.float64).tiny
# Rows of which float64 copies are made at once.
BLOCK_ROWS = 4096


def imputed(X, weights=None):
    """``X`` with missing entries replaced by the mean of their column, or 0."""
    if scipy.sparse.issparse(X):
        return X
    is_missing = np.isnan(X)
    if not is_missing.any():
        return X
    return np.where(is_missing, column_moments(X, weights)[0].astype(X.dtype), X)


def distinct_rows(X, weights=None, *others):
    """Indices of the distinct rows, and how often each counts.

    Their order is independent of that of X, so that draws from them are a function of
    the rows and their weights: a weight of 2 is equivalent to a row that occurs twice.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    weights : ndarray of shape (n_samples,), default=None
        How often each row counts; once if None.
    *others : ndarray or CSR matrix of shape (n_samples, n_others)
        What else tells rows apart.

    Returns
    -------
    rows : ndarray of shape (n_distinct,)
        Indices of rows of X.
    weights : ndarray of shape (n_distinct,)
    """
    generator = np.random.default_rng(0)
    keys = np.zeros(X.shape[0])
    for matrix in (X, *others):
        direction = generator.standard_normal(matrix.shape[1])
        for rows in gen_batches(X.shape[0], BLOCK_ROWS):
            # Products of CSR matrices add the terms of a row in order, whatever is
            # beside.
            part = scipy.sparse.csr_matrix(matrix[rows], dtype=np.float64)
            if matrix.dtype.kind == "f":
                # NaN would make all rows that contain one alike.
                part.data = np.nan_to_num(part.data, nan=-np.pi)
            keys[rows] += part @ direction
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if weights is None:
        weights = np.ones(X.shape[0])
    weights = np.bincount(inverse.ravel(), weights)
    # By their keys the largest rows would come first and last.
    order = generator.permutation(len(first))
    return first[order], weights[order]


def initial_counts(
    X, n_components, init, random_state, weights=None, *, rows_per_component=None
):
    """Expected counts to start from, shape (n_components, n_features).

    In float64 if X is, else in float32: with many features these arrays would take most
    of the memory of a fit.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    n_components : int
    init : {"kmeans", "random"} or array of shape (n_components, n_features)
        ``"kmeans"`` clusters the rows: tf-idf, truncated SVD, k-means on the
        normalised scores; a component is half the sum of log(1 + x) over its cluster,
        scaled to the counts, and half the average over the components. ``"random"``
        spreads the counts of each feature by gamma weights, which differ by a third.
        An array gives the proportions of the features in each component, up to scale.
    random_state : numpy.random.RandomState
    weights : ndarray of shape (n_samples,), default=None
        How often each row counts; once if None. None may be 0.
    rows_per_component : int, default=None
        Rows for each component from which directions and seeds of the clusters are
        sought, in half as many iterations of k-means; all rows if None. With
        ``FEW_ROWS`` a start takes a quarter of the time, and models that do not train
        for long predict nearly as well after it.
    """
    if weights is None:
        weights = np.ones(X.shape[0])
    totals = column_totals(X, weights)
    if not isinstance(init, str):
        shares = np.array(init, dtype=np.float64)
        return shares * (totals.sum() / shares.sum())
    average = totals / n_components
    if init == "random":
        dtype = np.float64 if X.dtype == np.float64 else np.float32
        counts = np.empty((n_components, len(average)), dtype=dtype)
        for row in counts:
            row[:] = random_state.gamma(EVENNESS, average / EVENNESS)
    elif n_components == 1:
        counts = average[np.newaxis]
    else:
        counts = _cluster_counts(
            X, weights, n_components, random_state, rows_per_component
        )
        counts *= totals.sum() / max(counts.sum(), TINY)
        counts += average
        counts *= 0.5
    return counts


def initial_loadings(X, n_components, random_state):
    """Slopes of the logits of features in Gaussian factors, (n_features, n_components).

    These are average standardised scores of the rows that contain a feature's counts,
    which equal the slopes of a log-linear model to first order. Scores are those of a
    truncated SVD of the tf-idf of log(1 + x); factors beyond its rank get small random
    slopes.
    """
    n_samples, n_features = X.shape
    X = _as_floating(X)
    loadings = random_state.normal(scale=0.01, size=(n_features, n_components))
    # One direction more, since one is the mean of the rows.
    rank = min(n_components + 1, n_samples - 1, n_features - 1)
    if rank < 1:
        return loadings
    scores, lengths, _ = randomized_svd(
        TfidfTransformer().fit_transform(_log1p(X)),
        rank,
        n_iter=SVD_POWER_ITERATIONS,
        random_state=random_state,
    )
    scores *= lengths
    scores, lengths, _ = np.linalg.svd(scores - scores.mean(axis=0), False)
    is_there = lengths > 1e-6 * max(lengths[0], TINY)
    scores = np.sqrt(n_samples) * scores[:, is_there][:, :n_components]
    # Rare features have little to say: as if five counts had a score of 0.
    totals = np.asarray(X.sum(axis=0, dtype=np.float64)).ravel()
    loadings[:, : scores.shape[1]] = safe_sparse_dot(X.T, scores, dense_output=True)
    loadings[:, : scores.shape[1]] /= totals[:, np.newaxis] + 5
    # A rotation, which a standard normal prior does not see: with loadings uncorrelated
    # over words, posteriors are nearly so over factors.
    shares = totals / max(totals.sum(), TINY)
    centered = loadings - shares @ loadings
    _, axes = np.linalg.eigh((centered.T * shares) @ centered)
    return loadings @ axes[:, ::-1]


def initial_logits(X, *, given_total):
    """Logarithms of the means of features, (n_features,), never infinite.

    Means of shares if totals are given, else of counts.
    """
    totals = np.asarray(X.sum(axis=0, dtype=np.float64)).ravel()
    shares = (totals + 0.5) / (totals + 0.5).sum()
    level = 0.0 if given_total else np.log(max(totals.sum() / X.shape[0], 1e-3))
    return np.log(shares) + level


def column_totals(X, weights):
    """The sum of each feature over the rows, each as often as it counts, float64."""
    if (weights == 1).all():
        return np.asarray(X.sum(axis=0, dtype=np.float64)).ravel()
    parts = gen_batches(X.shape[0], BLOCK_ROWS)
    return sum(weights[rows] @ X[rows] for rows in parts)


def column_moments(X, weights=None):
    """Mean and standard deviation of each feature, float64; 0 if it is mere rounding.

    Missing entries are left out; both are 0 if a whole column is missing. ``weights``
    say how often each row counts, if not once.
    """
    if scipy.sparse.issparse(X):
        mean, var = mean_variance_axis(X.astype(np.float64), axis=0, weights=weights)
    elif weights is None and not np.isnan(X).any():
        mean = X.mean(axis=0, dtype=np.float64)
        var = X.var(axis=0, dtype=np.float64)
    else:
        weights = np.ones(X.shape[0]) if weights is None else weights
        is_there = ~np.isnan(X)
        n_rows = weights @ is_there
        n_rows = np.where(n_rows > 0, n_rows, 1)
        mean = weights @ np.where(is_there, X, 0) / n_rows
        errors = np.where(is_there, X - mean, 0)
        var = weights @ np.square(errors, out=errors) / n_rows
    std = np.sqrt(var)
    return mean, np.where(std > 1e-6 * np.abs(mean), std, 0.0)


def check_init(init, shape):
    """Start of components: a string, or a non-negative array of that shape.

    Raises
    ------
    ValueError
        If an array has another shape, or an entry that is negative or not finite.
    """
    if isinstance(init, str):
        return init
    # In one order of memory, which decides how sums round.
    array = check_array(
        received(init), dtype=np.float64, order="C", ensure_non_negative=True
    )
    if array.shape != shape:
        raise ValueError(f"init must have shape {tuple(shape)}, got {array.shape}.")
    if not array.any():
        raise ValueError("init must have an entry that is not zero.")
    return array


def n_cold_passes(n_cold_iter, init, max_iter, learns_shape):
    """Number of first passes in which each row's inference starts anew.

    Rows that resume from their last state keep the allocation that they found when the
    components were still rough. That is good enough after a start from clusters, but
    not from a random start, nor for a prior that is learnt from these allocations.
    """
    if n_cold_iter is not None:
        return n_cold_iter
    is_random = isinstance(init, str) and init == "random"
    return max(1, min(20, max_iter // 2)) if is_random or learns_shape else 1


def _cluster_counts(X, weights, n_components, random_state, rows_per_component):
    """Counts of each cluster of rows in each feature, up to a factor."""
    n_samples, n_features = X.shape
    n_wanted = n_samples
    if rows_per_component is not None:
        n_wanted = rows_per_component * n_components
    X = _as_floating(X)
    scores = _tfidf(X, weights)
    n_directions = max(n_components // 2, min(n_components, MANY_DIRECTIONS))
    n_directions = min(n_directions, n_samples - 1, n_features - 1)
    if n_directions >= 2:
        n_long = ENTRIES_OF_DIRECTIONS * n_samples // max(scores.nnz, 1)
        rows = _some_rows(n_samples, max(n_long, n_wanted), random_state)
        directions = _directions(
            _scaled_rows(scores[rows], np.sqrt(weights[rows]).astype(X.dtype)),
            n_directions,
            random_state,
        )
        scores = _product(scores, directions)
    else:
        scores = scores.toarray()  # Of two rows, or two columns, at most.
    n_clusters = min(n_components, n_samples)
    kmeans = _fitted_kmeans(
        normalize(scores),
        n_clusters,
        random_state,
        weights,
        max_iter=KMEANS_ITERATIONS if rows_per_component is None else FEW_ITERATIONS,
        n_init=n_starts(X),
        init=partial(_seeds, weights=weights, n_rows=n_wanted),
    )
    labels = kmeans.labels_
    # A component without rows of its own starts from one row, or it would not part
    # from the average.
    empty = np.setdiff1d(np.arange(n_components), labels)
    rows = np.arange(n_samples)
    labels = np.concatenate([labels, empty])
    rows = np.concatenate([rows, random_state.choice(n_samples, len(empty))])
    members = scipy.sparse.csr_matrix(
        (weights[rows].astype(X.dtype), (labels, rows)),
        shape=(n_components, n_samples),
    )
    # A word that one row repeats says less of its cluster than one that many share.
    return safe_sparse_dot(members, _log1p(X), dense_output=True)


def _directions(X, n_directions, random_state):
    """Orthonormal directions of most of what rows are, (n_features, n_directions).

    Nearly the span of the first right singular vectors of a CSR matrix, which is all
    that k-means asks for: power iterations from a larger random span, of which the last
    one goes on with the directions that rows are longest in.
    """
    n_columns = min(n_directions + OVERSAMPLES, *X.shape)
    found = random_state.normal(size=(X.shape[1], n_columns)).astype(X.dtype)
    for _ in range(POWER_ITERATIONS - 1):
        # Small directions would drown in large ones.
        found = _orthonormal(X.T @ _product(X, found))
    images = torch.from_numpy(_product(X, found))
    longest = torch.linalg.eigh(images.T @ images)[1][:, -n_directions:]
    return _orthonormal(X.T @ (images @ longest).numpy())


def _orthonormal(columns):
    """An orthonormal basis of the span of some columns, an array of their shape."""
    return torch.linalg.qr(torch.from_numpy(columns))[0].numpy()


def _product(X, a):
    """``X @ a`` of a CSR matrix, by torch, which shares the work among threads."""
    parts = map(torch.from_numpy, (X.indptr, X.indices, X.data))
    return (csr(*parts, X.shape) @ torch.from_numpy(a)).numpy()


def _tfidf(X, weights):
    """Counts times the logarithm of how rare features are, rows of length 1, CSR."""
    scores = scipy.sparse.csr_matrix(X, copy=True)
    n_rows = np.zeros(X.shape[1])
    # For all entries at once, this would take more memory than the data.
    for rows in gen_batches(X.shape[0], BLOCK_ROWS):
        starts = scores.indptr[rows.start : rows.stop + 1]
        columns = scores.indices[starts[0] : starts[-1]]
        of_entries = np.repeat(weights[rows], np.diff(starts))
        n_rows += np.bincount(columns, of_entries, minlength=X.shape[1])
    idf = np.log((1 + weights.sum()) / (1 + n_rows)) + 1
    scores.data *= idf.astype(X.dtype)[scores.indices]
    return normalize(scores, copy=False)


def _scaled_rows(X, scale):
    """Rows of X, which is overwritten, times numbers of the same type."""
    if scipy.sparse.issparse(X):
        X.data *= np.repeat(scale, np.diff(X.indptr))
    else:
        X *= scale[:, np.newaxis]
    return X


def _fitted_kmeans(
    points,
    n_clusters,
    random_state,
    weights=None,
    *,
    max_iter=KMEANS_ITERATIONS,
    n_init=1,
    init="k-means++",
):
    """A k-means that stops early, since it is only a start itself."""
    kmeans = KMeans(
        n_clusters,
        init=init,
        n_init=n_init,
        max_iter=max_iter,
        random_state=random_state,
    )
    with warnings.catch_warnings():
        # Fewer distinct points than clusters are no fault of the user's.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(points, sample_weight=weights)


def _some_rows(n_rows, n_wanted, random_state):
    """Numbers of rows drawn without replacement, in order; of all if they are fewer."""
    if n_wanted >= n_rows:
        return np.arange(n_rows)
    return np.sort(random_state.permutation(n_rows)[:n_wanted])


def _seeds(points, n_clusters, random_state, weights, n_rows):
    """Points far from each other, from which k-means starts, (n_clusters, n_columns).

    Greedy k-means++: the next seed is the best of a few points, which are drawn with
    odds of their weights times their squared distances to the nearest seed. Seeds are
    sought among ``n_rows`` points. Those of scikit-learn compute distances of float32
    in float64, which takes longer.
    """
    rows = _some_rows(len(points), n_rows, random_state)
    # Threads of NumPy's BLAS would go on waiting for work while those of torch work.
    points, weights = map(torch.from_numpy, (points[rows], weights[rows]))
    sizes = points.square().sum(1, keepdim=True)

    def distances(places):
        products = points @ points[places].T
        return (sizes + sizes[places].T).sub_(products, alpha=2).clamp_min_(0)

    n_trials = 2 + int(np.log(n_clusters))
    odds = (weights / weights.sum()).numpy()
    places = [random_state.choice(len(points), p=odds)]
    nearest = distances(places)
    while len(places) < n_clusters:
        odds = (nearest[:, 0] * weights).cumsum(0).numpy()
        drawn = random_state.uniform(size=n_trials) * odds[-1]
        tried = np.minimum(np.searchsorted(odds, drawn), len(points) - 1)
        closer = torch.minimum(distances(tried), nearest)
        best = int((weights @ closer.double()).argmin())
        places.append(tried[best])
        nearest = closer[:, best : best + 1]
    return points[places].numpy()


def n_starts(X):
    """Number of starts of k-means for clusters of these data."""
    return 1 if are_whole(X) else N_STARTS


def are_whole(X):
    """Whether all numbers of a matrix are integers, apart from missing ones."""
    values = X.data if scipy.sparse.issparse(X) else X
    if values.dtype.kind in "iub":
        return True
    return bool(((values == np.floor(values)) | np.isnan(values)).all())


def _as_floating(X):
    return X.astype(np.float64 if X.dtype == np.float64 else np.float32, copy=False)


def _log1p(X):
    if not scipy.sparse.issparse(X):
        return np.log1p(X)
    return X.log1p()


def initial_parts(X, n_components, random_state, weights=None, *, n_starts=1):
    """Shares of components in each feature, (n_components, n_features), from parts.

    Features are clustered: the columns of log(1 + x / 5), centred and of length 1, and
    each goes to the clusters by its distance to their centres. For images these are
    parts; for rows that mix many components, they are a better start than clusters of
    rows. ``weights`` say how often each row counts, if not once; the best of
    ``n_starts`` k-means is taken.
    """
    n_samples, n_features = X.shape
    if weights is None:
        weights = np.ones(n_samples)
    X = _as_floating(X)
    roots = np.sqrt(weights).astype(X.dtype)
    logs = _scaled_rows(_log1p(X / 5), roots)
    rank = min(4 * n_components, n_samples, n_features)
    # Without QR, float32 would lose all that is small beside the mean.
    left, lengths, right = randomized_svd(
        logs,
        rank,
        n_iter=SVD_POWER_ITERATIONS,
        power_iteration_normalizer="QR",
        random_state=random_state,
    )
    # Centred in the space of the left singular vectors, where the columns are short.
    mean = roots @ left / np.sqrt(weights.sum()).astype(X.dtype)
    columns = right.T * lengths
    columns = columns - np.outer(columns @ mean, mean)
    # A constant column leaves only rounding, which points anywhere.
    sizes = np.linalg.norm(columns, axis=1)
    is_there = sizes > 1e-5 * sizes.max()
    shares = random_state.uniform(0.9, 1.1, size=(n_components, n_features))
    n_clusters = min(n_components, is_there.sum())
    if n_clusters > 0:
        columns = normalize(columns[is_there])
        kmeans = _fitted_kmeans(columns, n_clusters, random_state, n_init=n_starts)
        centers = kmeans.cluster_centers_
        distances = euclidean_distances(columns, centers, squared=True)
        distances -= distances.min(axis=1, keepdims=True)
        weights = np.exp(distances / (-2 * PART_WIDTH**2)).T
        # Components beyond the number of clusters start small.
        shares *= 1e-4
        shares[:n_clusters, is_there] += weights / weights.sum(axis=0)
    return shares / shares.sum(axis=0)
