import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.spatial
from numpy.testing import assert_allclose, assert_array_equal

from skdeepfactor import LatentDirichletAllocation, PoissonFactorization
from skdeepfactor._math.starts import (
    distinct_rows,
    initial_counts,
    initial_loadings,
)

INITS = ["kmeans", "random"]


def random_counts(n_samples=50, n_features=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(0.8, (n_samples, n_features)).astype(float)


def planted_counts(n_clusters=4, n_per_cluster=25, n_words=12, seed=0):
    """Draw rows whose words are, but for a few, those of their cluster; and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(n_clusters), n_per_cluster))
    rates = np.kron(np.eye(n_clusters), np.ones(n_words)) * 3 + 0.05
    return rng.poisson(rates[labels]).astype(float), labels


def start(X, n_components, init="kmeans", seed=0):
    return initial_counts(X, n_components, init, np.random.RandomState(seed))


def assert_usable(counts, X, n_components):
    assert isinstance(counts, np.ndarray)
    assert counts.dtype.kind == "f"
    assert counts.shape == (n_components, X.shape[1])
    assert np.isfinite(counts).all()
    assert (counts >= 0).all()


@pytest.mark.parametrize("kind", ["?", "i4", "i8", "u1", "f4", "f8"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_clusters_keep_the_total(kind, is_sparse):
    dense = random_counts().astype(kind)
    X = sp.csr_matrix(dense) if is_sparse else dense
    counts = start(X, 6)
    assert_usable(counts, X, 6)
    assert_allclose(counts.sum(), dense.sum(dtype=float), rtol=1e-6)


def test_every_component_has_half_of_the_average():
    X = random_counts()
    counts = start(X, 6)
    floor = np.tile(X.sum(0) / 6 / 2, (6, 1))
    assert (counts >= floor * (1 - 1e-12)).all()
    # What is above it is the sum of log(1 + x) over the clusters, scaled to the counts.
    beyond = (counts - floor) * 2
    logs = np.log1p(X).sum(0)
    assert_allclose(beyond.sum(0), logs * X.sum() / logs.sum(), rtol=1e-6)
    assert (beyond.sum(1) > 0).all()


def test_random_weights_keep_totals_on_average():
    X = random_counts(n_features=5)
    assert_usable(start(X, 3, "random"), X, 3)
    n_draws = 400
    draws = np.array([start(X, 3, "random", seed) for seed in range(n_draws)])
    # Gamma weights: mean 1, variance a tenth.
    spread = X.sum(0) / 3 / np.sqrt(10)
    error = spread / np.sqrt(n_draws)
    assert (np.abs(draws.mean(0) - X.sum(0) / 3) < 4.5 * error).all()
    assert_allclose(draws.std(0), np.tile(spread, (3, 1)), rtol=0.25)


def test_random_components_differ():
    counts = start(random_counts(), 4, "random")
    assert len(np.unique(counts, axis=0)) == 4
    shares = counts / counts.sum(1, keepdims=True)
    assert np.ptp(shares, axis=0).max() > 0.01


@pytest.mark.parametrize("kind", [LatentDirichletAllocation, PoissonFactorization])
def test_streams_from_random_weights_find_blocks(kind):
    rng = np.random.default_rng(1)
    block = rng.permutation(np.arange(60) % 3)
    X = rng.poisson(3.0 * (np.arange(15) // 5 == block[:, np.newaxis]))
    n_found = 0
    for seed in range(20):
        model = kind(3, init="random", random_state=seed)
        for start in range(0, 60, 10):
            model.partial_fit(X[start : start + 10])
        owners = model.components_.argmax(axis=0).reshape(3, 5)
        is_one = (owners == owners[:, :1]).all()
        n_found += is_one and len(set(owners[:, 0])) == 3
    assert n_found >= 12


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_an_array_gives_proportions(scale):
    X = random_counts()
    init = np.random.default_rng(1).random((3, 20)) * scale
    before = init.copy()
    counts = start(X, 3, init)
    assert_array_equal(init, before)
    assert_usable(counts, X, 3)
    assert_allclose(counts.sum(), X.sum(), rtol=1e-12)
    assert_allclose(counts / counts.sum(), init / init.sum(), rtol=1e-12)


def test_an_array_may_be_a_list():
    X = random_counts(n_features=2)
    counts = start(X, 2, [[1, 0], [0, 3]])
    assert_allclose(counts, np.diag([0.25, 0.75]) * X.sum(), rtol=1e-12)


def test_an_array_of_zeros_is_refused():
    X = random_counts(n_features=2)
    with pytest.raises(ValueError, match="not zero"):
        LatentDirichletAllocation(2, init=np.zeros((2, 2))).fit(X)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_clusters_are_found(is_sparse, kind):
    X, labels = planted_counts()
    X = X.astype(kind)
    counts = start(sp.csr_matrix(X) if is_sparse else X, 4)
    beyond = 2 * counts - X.sum(0) / 4
    expected = np.array([np.log1p(X[labels == k]).sum(0) for k in range(4)])
    expected *= X.sum() / expected.sum()
    order = beyond.reshape(4, 4, -1).sum(2).argmax(1)
    assert sorted(order) == [0, 1, 2, 3]
    assert_allclose(beyond, expected[order], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("init", INITS)
def test_dense_and_sparse_start_alike(init):
    dense = random_counts()
    for X in (sp.csr_matrix(dense), sp.csr_array(dense)):
        assert_allclose(start(X, 5, init), start(dense, 5, init), rtol=1e-10)


@pytest.mark.parametrize("init", INITS)
def test_seeds(init):
    X = random_counts()
    assert_array_equal(start(X, 5, init, seed=3), start(X, 5, init, seed=3))
    assert (start(X, 5, init, seed=3) != start(X, 5, init, seed=4)).any()


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("kind", ["f4", "f8", "i4"])
def test_the_data_are_left_alone(init, is_sparse, kind):
    dense = random_counts().astype(kind)
    X = sp.csr_matrix(dense) if is_sparse else dense.copy()
    start(X, 5, init)
    assert X.dtype == np.dtype(kind)
    assert_array_equal(X.toarray() if is_sparse else X, dense)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("n_components", [1, 2, 3, 12])
@pytest.mark.parametrize(
    "X",
    [
        random_counts(1, 6),
        random_counts(6, 1),
        random_counts(1, 1),
        random_counts(2, 3),
        random_counts(5, 2),
        random_counts(5, 9),
        random_counts(9, 5),
        np.zeros((8, 7)),
        np.zeros((1, 4)),
        np.ones((10, 6)),
        np.eye(7),
    ],
    ids=[
        "one row",
        "one column",
        "one number",
        "two rows",
        "two columns",
        "wide",
        "tall",
        "zeros",
        "a row of zeros",
        "all the same",
        "identity",
    ],
)
def test_small_data(init, is_sparse, n_components, X):
    # Warnings are errors here, so that none of k-means's may pass.
    if is_sparse:
        X = sp.csr_matrix(X)
    assert_usable(start(X, n_components, init), X, n_components)


@pytest.mark.parametrize("n_distinct", [1, 2, 3, 5])
@pytest.mark.parametrize("n_components", [3, 8])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("n_samples", [17, 200])
def test_rows_that_repeat(n_distinct, n_components, kind, n_samples):
    rng = np.random.default_rng(5)
    rows = rng.poisson(1.0, (n_distinct, 40)) + np.eye(n_distinct, 40)
    X = rows[rng.integers(n_distinct, size=n_samples)].astype(kind)
    counts = start(sp.csr_matrix(X), n_components)
    assert_usable(counts, X, n_components)
    assert_allclose(counts.sum(), X.sum(), rtol=1e-5)
    # Components beyond the clusters start from a row each, on top of the average.
    beyond = 2 * counts - X.sum(0) / n_components
    assert (beyond.sum(1) > 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_rows_that_differ_in_scale_alone(seed, kind):
    # Their scores are equal but for rounding, of which k-means must make no clusters.
    rng = np.random.default_rng(seed)
    rows = rng.poisson(1.0, (5, 100)) + np.eye(5, 100)
    X = rows[rng.integers(5, size=300)] * rng.integers(1, 20, (300, 1))
    X = X.astype(kind)
    counts = start(sp.csr_matrix(X), 12)
    assert_usable(counts, X, 12)
    # A component of nothing but the average would never part from its like.
    beyond = 2 * counts - X.sum(0) / 12
    assert (beyond.sum(1) > 0.5).all()


@pytest.mark.parametrize("kind", ["f4", "f8", "i8"])
def test_distinct_rows_do_not_depend_on_order_or_container(kind):
    rng = np.random.default_rng(0)
    rows = random_counts(30, 8).astype(kind)
    rows = np.unique(rows, axis=0)
    times = rng.integers(1, 5, len(rows))
    X = np.repeat(rows, times, axis=0)
    places, weights = distinct_rows(rows, times)
    expected = rows[places]
    assert_array_equal(np.unique(expected, axis=0), rows)
    for place, row in enumerate(expected):
        assert weights[place] == times[(rows == row).all(axis=1)]
    for _ in range(3):
        X = X[rng.permutation(len(X))]
        for data in (X, sp.csr_matrix(X), sp.csr_array(X)):
            places, counted = distinct_rows(data)
            found = data[places]
            found = found.toarray() if sp.issparse(found) else found
            assert_array_equal(found, expected)
            assert_array_equal(counted, weights)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_rows_of_which_other_things_are_known_are_distinct(container):
    X = container(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    labels = container(np.array([[0.0], [1.0], [0.0], [0.0]]))
    places, weights = distinct_rows(X, np.array([1.0, 2.0, 4.0, 8.0]), labels)
    assert dict(zip(places, weights, strict=True)) == {0: 5.0, 1: 2.0, 3: 8.0}


@pytest.mark.parametrize("init", INITS)
def test_totals_may_be_beyond_half_precision(init):
    X = random_counts(200, 5).astype("f2") * 500
    assert X.sum(0, dtype=float).max() > np.finfo("f2").max
    assert_usable(start(X, 3, init), X, 3)


def test_rows_that_are_empty():
    X = random_counts(40, 15)
    X[::2] = 0
    counts = start(sp.csr_matrix(X), 5)
    assert_usable(counts, X, 5)
    assert_allclose(counts.sum(), X.sum(), rtol=1e-6)


def test_columns_that_are_empty():
    X = random_counts(40, 15)
    X[:, ::2] = 0
    counts = start(sp.csr_matrix(X), 5)
    assert (counts[:, ::2] == 0).all()
    assert (counts[:, 1::2] > 0).all()


@pytest.mark.parametrize("n_components", [1, 3])
def test_sparse_data_are_not_made_dense(n_components):
    X = sp.random_array(
        (3000, 20000), density=1e-3, format="csr", rng=np.random.default_rng(7)
    )
    X.data[:] = 1
    start(X[:50], n_components)  # What is imported and compiled at the first use.
    tracemalloc.start()
    try:
        start(X, n_components)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.2 * 8 * X.shape[0] * X.shape[1]


def test_the_global_state_of_numpy_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (it is what is tested)
    for init in INITS:
        start(random_counts(), 5, init)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def loadings_of(X, n_components, seed=0):
    return initial_loadings(X, n_components, np.random.RandomState(seed))


def log_linear_counts(n_samples=400, n_features=80, n_factors=3, seed=0):
    """Draw rows whose logits are linear in normal factors; and the slopes."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(0, 0.8, (n_features, n_factors))
    rates = np.exp(rng.normal(size=(n_samples, n_factors)) @ slopes.T)
    return rng.poisson(100 * rates / rates.sum(1, keepdims=True)).astype(float), slopes


def canonical_correlations(a, b):
    axes = [np.linalg.qr(part - part.mean(0))[0] for part in (a, b)]
    return np.linalg.svd(axes[0].T @ axes[1])[1]


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("kind", ["f4", "f8", "i4"])
def test_loadings_span_the_planted_slopes(is_sparse, kind):
    X, slopes = log_linear_counts()
    X = X.astype(kind)
    loadings = loadings_of(sp.csr_matrix(X) if is_sparse else X, 3)
    assert loadings.shape == (80, 3)
    assert loadings.dtype == np.float64
    assert canonical_correlations(loadings, slopes).min() > 0.8


def test_loadings_have_the_scale_of_the_planted_slopes():
    X, slopes = log_linear_counts(1500)
    loadings = loadings_of(X, 3)
    lengths = [np.linalg.svd(part - part.mean(0))[1] for part in (loadings, slopes)]
    assert_allclose(lengths[0], lengths[1], rtol=0.5)


@pytest.mark.parametrize("n_components", [2, 3, 6])
def test_loadings_are_uncorrelated_over_words(n_components):
    X, _ = log_linear_counts()
    loadings = loadings_of(X, n_components)
    shares = X.sum(0) / X.sum()
    centered = loadings - shares @ loadings
    covariance = (centered.T * shares) @ centered
    variances = covariance.diagonal()
    assert (np.diff(variances) <= 0).all()
    rest = covariance - np.diag(variances)
    assert np.abs(rest).max() < 1e-10 * variances[0]


def test_loadings_of_clusters_tell_them_apart():
    X, labels = planted_counts()
    loadings = loadings_of(X, 3)
    # Columns come in four groups of twelve, as the clusters' words do.
    groups = loadings.reshape(4, 12, 3)
    within = groups.std(1).max()
    between = scipy.spatial.distance.pdist(groups.mean(1))
    assert between.min() > 5 * within
    scores = X @ loadings
    means = np.array([scores[labels == k].mean(0) for k in range(4)])
    nearest = np.linalg.norm(scores[:, None] - means, axis=2).argmin(1)
    assert (nearest == labels).all()


def test_factors_beyond_the_rank_get_small_slopes():
    X, _ = log_linear_counts(6, 40)
    loadings = loadings_of(X, 12)
    lengths = np.linalg.svd(loadings - loadings.mean(0))[1]
    assert lengths[3] > 0.5
    assert (lengths[5:] < 0.1).all()
    assert (lengths > 0).all()


def test_dense_and_sparse_loadings_are_alike():
    dense, _ = log_linear_counts()
    expected = loadings_of(dense, 3)
    for X in (sp.csr_matrix(dense), sp.csr_array(dense)):
        assert_allclose(loadings_of(X, 3), expected, rtol=1e-6, atol=1e-8)


def test_seeds_of_loadings():
    X, _ = log_linear_counts(30, 10)
    assert_array_equal(loadings_of(X, 12, seed=3), loadings_of(X, 12, seed=3))
    assert (loadings_of(X, 12, seed=3) != loadings_of(X, 12, seed=4)).any()


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("n_components", [1, 2, 3, 12])
@pytest.mark.parametrize("kind", ["f4", "f8", "i8"])
@pytest.mark.parametrize(
    "X",
    [
        random_counts(1, 6),
        random_counts(6, 1),
        random_counts(1, 1),
        random_counts(2, 3),
        random_counts(5, 2),
        random_counts(5, 9),
        np.zeros((8, 7)),
        np.zeros((1, 4)),
        np.zeros((4, 1)),
        np.ones((10, 6)),
        np.eye(7),
        np.eye(7) * 1e9,
        np.diag([1.0, 0, 2, 0]),
        np.diag([1e9, 1, 0]) + 1,
    ],
    ids=[
        "one row",
        "one column",
        "one number",
        "two rows",
        "two columns",
        "wide",
        "zeros",
        "a row of zeros",
        "a column of zeros",
        "all the same",
        "identity",
        "huge counts",
        "empty rows and columns",
        "one huge count",
    ],
)
def test_loadings_of_small_data(X, is_sparse, n_components, kind):
    X = X.astype(kind)
    before = X.copy()
    data = sp.csr_matrix(X) if is_sparse else X
    loadings = loadings_of(data, n_components)
    assert loadings.shape == (X.shape[1], n_components)
    assert np.isfinite(loadings).all()
    assert np.abs(loadings).max() < 50
    assert_array_equal(data.toarray() if is_sparse else data, before)
