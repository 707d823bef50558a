import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.decomposition import NMF, LatentDirichletAllocation, MiniBatchNMF
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skdeepfactor import metrics
from skdeepfactor._math.importance import renyi_bound as renyi_bound_of_tensors
from skdeepfactor.metrics import (
    c_v_coherence,
    completion_perplexity,
    disentanglement,
    ndcg_at_k,
    npmi_coherence,
    recall_at_k,
    renyi_bound,
    scorers,
    split_features,
    split_tokens,
    topic_diversity,
    u_mass_coherence,
)


def random_counts(n_samples=40, n_features=12, rate=0.7, seed=0):
    return np.random.default_rng(seed).poisson(rate, size=(n_samples, n_features))


def planted_counts(n_samples=120, n_words=30, seed=0):
    """Draw rows of three topics of distinct words; also their word probabilities."""
    rng = np.random.default_rng(seed)
    topics = np.kron(np.eye(3), np.full(n_words // 3, 3 / n_words))
    probabilities = rng.dirichlet(np.full(3, 0.1), size=n_samples) @ topics
    return rng.multinomial(40, probabilities), probabilities


class Fixed:
    """Expects the same counts of every row, and notes how many rows it was given."""

    def __init__(self, expected):
        self.expected = np.asarray(expected, dtype=float)
        self.chunks = []

    def transform(self, X):
        self.chunks.append(X.shape[0])
        return np.ones((X.shape[0], 1))

    def inverse_transform(self, z):
        return z * self.expected


class Oracle(Fixed):
    """Expects a given row of counts for each row, in the order of the data."""

    def inverse_transform(self, z):
        start = sum(self.chunks[:-1])
        return self.expected[start : start + len(z)]


def fitted_models(X):
    return [
        NMF(3, random_state=0, max_iter=2000, tol=1e-3).fit(X),
        MiniBatchNMF(3, random_state=0).fit(X),
        LatentDirichletAllocation(3, random_state=0, max_iter=3).fit(X),
    ]


# split_tokens


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float32, float])
def test_split_halves_add_up(dtype):
    X = random_counts().astype(dtype)
    observed, hidden = split_tokens(X, random_state=0)
    assert observed.format == hidden.format == "csr"
    assert observed.dtype == hidden.dtype == dtype
    assert_array_equal((observed + hidden).toarray(), X)
    assert_array_equal(hidden.toarray().sum(axis=1), X.sum(axis=1) // 2)
    for half in observed, hidden:
        assert half.has_canonical_format
        assert (half.data > 0).all()


def test_split_of_rows_with_no_or_one_token():
    observed, hidden = split_tokens([[0, 0], [1, 0], [0, 2], [1, 1]], random_state=0)
    assert_array_equal(hidden.sum(axis=1), [0, 0, 1, 1])
    assert_array_equal(observed.sum(axis=1), [0, 1, 1, 1])


@pytest.mark.parametrize("row", [[5, 3, 0, 1], [40, 25, 6, 0], [1, 1, 1, 1]])
def test_split_is_multivariate_hypergeometric(row):
    n_rows = 20_000
    _, hidden = split_tokens(np.tile(row, (n_rows, 1)), random_state=0)
    hidden = hidden.toarray()
    share = np.array(row) / np.sum(row)
    total, drawn = np.sum(row), np.sum(row) // 2
    scale = drawn * (total - drawn) / (total - 1)
    covariance = scale * (np.diag(share) - np.outer(share, share))
    error = 5 * np.sqrt(np.diag(covariance) / n_rows) + 1e-12
    assert (np.abs(hidden.mean(axis=0) - drawn * share) < error).all()
    assert_allclose(np.cov(hidden.T), covariance, atol=0.05 * covariance.max())


def test_split_makes_all_subsets_equally_likely():
    _, hidden = split_tokens(np.ones((12_000, 4), dtype=int), random_state=1)
    patterns, counts = np.unique(hidden.toarray(), axis=0, return_counts=True)
    assert len(patterns) == 6
    assert_allclose(counts, 2000, atol=5 * np.sqrt(2000 * 5 / 6))


def test_split_of_huge_counts_is_small():
    X = np.array([[10**9, 3, 10**9, 0], [1, 1, 10**12, 10**9 + 1]])
    tracemalloc.start()
    observed, hidden = split_tokens(X, random_state=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert_array_equal((observed + hidden).toarray(), X)
    assert_array_equal(hidden.sum(axis=1), X.sum(axis=1) // 2)
    # The standard deviation is sqrt(2e9) / 4, about 11,000.
    assert 0 < abs(hidden[0, 0] - 5 * 10**8) < 60_000


def test_split_of_large_float32_counts_is_exact():
    X = np.array([[2.0**30, 2.0**25, 4.0]], dtype=np.float32)
    observed, hidden = split_tokens(X, random_state=0)
    assert observed.dtype == hidden.dtype == np.float64
    assert_array_equal((observed + hidden).toarray(), X)
    assert hidden.sum() == X.sum(dtype=float) // 2


@pytest.mark.parametrize(
    "make", [sp.csr_matrix, sp.csr_array, sp.csc_array, sp.coo_matrix]
)
def test_split_of_sparse_equals_dense(make):
    X = random_counts()
    expected = split_tokens(X, random_state=3)
    result = split_tokens(make(X), random_state=3)
    for half, other in zip(result, expected, strict=True):
        assert half.format == "csr"
        assert sp.isspmatrix(half) == sp.isspmatrix(make(X))
        assert_array_equal(half.toarray(), other.toarray())


def test_split_of_duplicates_and_explicit_zeros_leaves_the_input_alone():
    data, columns = np.array([1, 0, 2, 3]), np.array([1, 0, 1, 2])
    X = sp.csr_array((data.copy(), columns.copy(), [0, 4]), shape=(1, 3))
    observed, hidden = split_tokens(X, random_state=0)
    expected = split_tokens(X.toarray(), random_state=0)
    assert_array_equal(observed.toarray(), expected[0].toarray())
    assert_array_equal(hidden.toarray(), expected[1].toarray())
    assert_array_equal(X.data, data)
    assert_array_equal(X.indices, columns)


def test_split_depends_on_the_seed_only():
    X = random_counts()
    # The legacy state is the global one that must stay as it is.
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = split_tokens(X, random_state=0)[1].toarray()
    assert_array_equal(first, split_tokens(X, random_state=0)[1].toarray())
    generator = np.random.RandomState(0)
    assert_array_equal(first, split_tokens(X, random_state=generator)[1].toarray())
    assert (first != split_tokens(X, random_state=generator)[1].toarray()).any()
    assert (first != split_tokens(X, random_state=1)[1].toarray()).any()
    unseeded = [split_tokens(X)[1].toarray() for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()
    assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("make", [np.array, sp.csr_array])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "Negative values in data"),
        (0.5, "must be integers"),
        (np.nan, "NaN"),
        (np.inf, "infinity"),
        (1e17, r"at most 2\*\*53"),
    ],
)
def test_split_refuses_what_is_not_a_count(make, value, message):
    with pytest.raises(ValueError, match=message):
        split_tokens(make([[1.0, 2.0], [3.0, value]]))


def test_split_of_nothing():
    observed, hidden = split_tokens(sp.csr_array((3, 4)), random_state=0)
    assert observed.nnz == hidden.nnz == 0


# completion_perplexity


def brute_force(X, means_of, seed):
    observed, hidden = split_tokens(X, random_state=seed)
    observed, hidden = observed.toarray(), hidden.toarray()
    logs, n_tokens = 0.0, 0
    for given_row, hidden_row in zip(observed, hidden, strict=True):
        if given_row.sum() > 0 and hidden_row.sum() > 0:
            mean = np.asarray(means_of(given_row[None]))[0]
            for v, count in enumerate(hidden_row):
                logs += count * np.log(max(mean[v] / mean.sum(), 1e-12))
            n_tokens += hidden_row.sum()
    return np.exp(-logs / n_tokens)


@pytest.mark.parametrize("make", [np.array, sp.csr_matrix, sp.csr_array])
def test_completion_equals_brute_force(make):
    X = random_counts(n_samples=8, n_features=5)
    X[2] = 0
    X[3] = [0, 1, 0, 0, 0]
    means = [0.5, 3.0, 0.0, 1.0, 0.25]  # the third feature meets the floor
    result = completion_perplexity(Fixed(means), make(X), random_state=5)
    assert_allclose(result, brute_force(X, lambda _: [means], 5), rtol=1e-12)


def test_completion_supports_scikit_learn():
    X, _ = planted_counts()
    for model in fitted_models(X):
        components = model.components_
        if isinstance(model, LatentDirichletAllocation):
            components = components / components.sum(axis=1, keepdims=True)
        result = completion_perplexity(model, X, random_state=0)
        observed, hidden = split_tokens(X, random_state=0)
        p = model.transform(observed) @ components
        p = np.maximum(p / p.sum(axis=1, keepdims=True), 1e-12)
        expected = np.exp(-hidden.multiply(np.log(p)).sum() / hidden.sum())
        assert_allclose(result, expected, rtol=1e-6)
        assert 10 < result < 15  # topics of ten words each


def test_completion_prefers_the_truth_to_uniform():
    X, probabilities = planted_counts()
    uniform = completion_perplexity(Fixed(np.ones(30)), X, random_state=0)
    perfect = completion_perplexity(Oracle(probabilities), X, random_state=0)
    assert_allclose(uniform, 30, rtol=1e-12)
    assert perfect < 16


def test_completion_is_unmoved_by_scale_and_float32():
    X = random_counts()
    means = np.arange(1.0, 13.0)
    expected = completion_perplexity(Fixed(means), X, random_state=0)
    scaled = completion_perplexity(Fixed(1e-7 * means), X, random_state=0)
    single = completion_perplexity(Fixed(means), X.astype(np.float32), random_state=0)
    assert_allclose([scaled, single], expected, rtol=1e-12)


def test_completion_of_a_row_of_zeros_meets_the_floor_and_nan_shows():
    X = np.array([[2, 2]])
    assert_allclose(completion_perplexity(Fixed([0, 0]), X, random_state=0), 1e12)
    assert np.isnan(completion_perplexity(Fixed([np.nan, 1]), X, random_state=0))


def test_completion_leaves_the_estimator_alone():
    X, _ = planted_counts()
    for model in fitted_models(X):
        before = pickle.dumps(vars(model))
        completion_perplexity(model, X, random_state=0)
        assert pickle.dumps(vars(model)) == before


def test_completion_in_chunks_equals_the_whole():
    X = random_counts(n_samples=300, n_features=64, rate=0.2)
    model = NMF(3, random_state=0, max_iter=2000, tol=1e-3).fit(X)
    whole = completion_perplexity(model, X, random_state=0)
    with config_context(working_memory=0.01):
        # NMF stops on the error of all rows together, hence the tolerance.
        assert_allclose(
            completion_perplexity(model, X, random_state=0), whole, rtol=0.02
        )
        fixed = Fixed(np.ones(64))
        assert_allclose(completion_perplexity(fixed, X, random_state=0), 64)
    assert max(fixed.chunks) == int(0.01 * 2**20 // (8 * 64))
    assert sum(fixed.chunks) == (X.sum(axis=1) >= 2).sum()


def test_completion_makes_no_dense_matrix_of_all_rows():
    n_samples, n_features = 1000, 20_000  # 160 MB if dense
    X = sp.random_array(
        (n_samples, n_features),
        density=1e-3,
        rng=np.random.default_rng(0),
        data_sampler=lambda size: np.full(size, 2.0),
        format="csr",
    )
    model = Fixed(np.ones(n_features))
    with config_context(working_memory=1):
        tracemalloc.start()
        result = completion_perplexity(model, X, random_state=0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert_allclose(result, n_features)
    assert peak < 10e6
    assert max(model.chunks) <= 6


def test_completion_predictive():
    class WithPredictive(Fixed):
        def predictive(self, X):
            return np.tile([0.5, 0.25, 0.25], (X.shape[0], 1))

    X = random_counts(n_features=3)
    result = completion_perplexity(
        WithPredictive([1, 1, 1]), X, predictive=True, random_state=0
    )
    expected = completion_perplexity(Fixed([2, 1, 1]), X, random_state=0)
    assert_allclose(result, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="method predictive; Fixed has none"):
        completion_perplexity(Fixed([1, 1, 1]), X, predictive=True)


def test_completion_errors():
    class OnlyTransform:
        def transform(self, X):
            return np.ones((X.shape[0], 1))

    X = random_counts(n_features=3)
    with pytest.raises(ValueError, match="method transform; object has none"):
        completion_perplexity(object(), X)
    with pytest.raises(ValueError, match="OnlyTransform has neither"):
        completion_perplexity(OnlyTransform(), X)
    with pytest.raises(ValueError, match="not negative, but Fixed expects -1"):
        completion_perplexity(Fixed([1, 1, -1]), X)
    with pytest.raises(ValueError, match="No row of X has two or more tokens"):
        completion_perplexity(Fixed([1, 1, 1]), np.eye(3))
    with pytest.raises(ValueError, match="must be integers"):
        completion_perplexity(Fixed([1, 1, 1]), X + 0.5)
    with pytest.raises(ValueError, match="not fitted"):
        completion_perplexity(LatentDirichletAllocation(), X)


def test_completion_takes_data_frames_without_a_warning():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(random_counts(n_features=4), columns=list("abcd"))
    model = NMF(2, random_state=0, max_iter=2000, tol=1e-3).fit(X)
    model.set_output(transform="pandas")
    assert completion_perplexity(model, X, random_state=0) > 1


# npmi_coherence


def gensim_coherence(name, components, X, top_n):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("gensim")
        from gensim.corpora import Dictionary
        from gensim.models import CoherenceModel
    texts = [[f"w{v}" for v in np.flatnonzero(row) for _ in range(row[v])] for row in X]
    order = np.argsort(-components, axis=1, kind="stable")[:, :top_n]
    model = CoherenceModel(
        topics=[[f"w{v}" for v in row] for row in order],
        texts=texts,
        dictionary=Dictionary(texts),
        window_size=1 + max(map(len, texts)),
        coherence=name,
        topn=top_n,
        processes=1,
    )
    return np.array(model.get_coherence_per_topic())


@pytest.mark.parametrize("rate", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("top_n", [2, 5, 10])
def test_npmi_equals_gensim(rate, top_n):
    X = random_counts(n_samples=60, n_features=25, rate=rate, seed=1)
    X[np.arange(25), np.arange(25)] += 1  # gensim divides by zero at unseen words
    X[7] = 0
    X[:, 3] = 0
    X[8, 3], X[8, 4] = 2, 0
    components = np.random.default_rng(2).gamma(0.3, size=(6, 25))
    components[0, [3, 4]] = 100, 99  # never seen together
    expected = gensim_coherence("c_npmi", components, X, top_n)
    for data in X, sp.csr_matrix(X), sp.csc_array(X.astype(float)):
        result = npmi_coherence(components, data, top_n=top_n, average=False)
        assert_allclose(result, expected, rtol=1e-10, atol=1e-12)
    mean = npmi_coherence(components, X, top_n=top_n)
    assert isinstance(mean, float)
    assert_allclose(mean, expected.mean(), rtol=1e-10, atol=1e-12)


def test_npmi_of_words_in_every_row_equals_gensim():
    X = np.ones((5, 3), dtype=int)
    components = np.array([[3.0, 2.0, 1.0]])
    expected = gensim_coherence("c_npmi", components, X, 3)
    result = npmi_coherence(components, X, average=False)
    assert_allclose(result, expected)
    assert_allclose(result, -1)


def test_npmi_known_values():
    X = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])

    def npmi(v, w):
        components = np.zeros((1, 5))
        components[0, [v, w]] = 2, 1
        return npmi_coherence(components, X, top_n=2)

    assert_allclose(npmi(0, 1), 1, atol=1e-10)
    assert_allclose(npmi(2, 3), -1 + np.log(16) / -np.log(1e-12), rtol=1e-10)
    assert npmi(0, 4) == npmi(4, 3) == -1  # the last word is in no row
    independent = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
    assert_allclose(npmi_coherence([[1, 1]], independent), 0, atol=1e-10)


def test_npmi_breaks_ties_by_index_and_ignores_the_size_of_counts():
    X = random_counts(n_features=6)
    flat = npmi_coherence(np.ones((1, 6)), X, top_n=3)
    first = npmi_coherence([[3, 2, 1, 0, 0, 0]], X, top_n=3)
    assert flat == first == npmi_coherence(np.ones((1, 6)), 7 * X, top_n=3)
    assert npmi_coherence(np.ones((1, 6)), X, top_n=6) == npmi_coherence(
        np.ones((1, 6)), X, top_n=99
    )


def test_npmi_of_duplicate_entries():
    X = sp.csr_array(([1, 1, 1, 0], [0, 0, 1, 0], [0, 3, 4]), shape=(2, 2))
    expected = npmi_coherence([[1, 1]], X.toarray())
    assert npmi_coherence([[1, 1]], X) == expected
    assert X.nnz == 4


@given(st.data())
def test_npmi_is_never_nan(data):
    n_samples = data.draw(st.integers(1, 6))
    n_features = data.draw(st.integers(2, 6))
    values = st.sampled_from([0, 0, 0, 1, 2, 10**9])
    X = data.draw(arrays(np.int64, (n_samples, n_features), elements=values))
    weights = st.floats(-1e300, 1e300)
    components = data.draw(arrays(np.float64, (3, n_features), elements=weights))
    top_n = data.draw(st.integers(2, 8))
    result = npmi_coherence(components, X, top_n=top_n, average=False)
    assert result.shape == (3,)
    assert (np.abs(result) <= 1 + 1e-9).all()
    sparse = npmi_coherence(components, sp.csr_array(X), top_n=top_n, average=False)
    assert_array_equal(result, sparse)


def test_npmi_errors():
    X = random_counts(n_features=4)
    components = np.ones((2, 4))
    with pytest.raises(ValueError, match="Negative values in data"):
        npmi_coherence(components, -X)
    with pytest.raises(ValueError, match="X has 3 features, but the components have 4"):
        npmi_coherence(components, X[:, :3])
    with pytest.raises(ValueError, match="two or more features"):
        npmi_coherence(components, X, top_n=1)
    with pytest.raises(ValueError, match="NaN"):
        npmi_coherence(components * np.nan, X)
    for top_n in (0, -3, 2.5, "ten"):
        with pytest.raises(ValueError, match="top_n must be a positive integer"):
            npmi_coherence(components, X, top_n=top_n)


# c_v_coherence, u_mass_coherence


def straight_coherences(components, X, top_n):
    """C_V and U_Mass by their definitions, pair by pair."""
    is_there = np.asarray(X) > 0

    def share(*features):
        return is_there[:, list(features)].all(axis=1).mean()

    def npmi(v, w):
        if share(v) == 0 or share(w) == 0:
            return -1.0
        p = share(v, w) + 1e-12
        return np.log(p / (share(v) * share(w))) / -np.log(p)

    c_v, u_mass = [], []
    for weights in components:
        top = np.argsort(-weights, kind="stable")[:top_n]
        vectors = np.array([[npmi(v, w) for w in top] for v in top])
        whole = vectors.sum(axis=0)
        c_v.append(
            np.mean(
                [
                    vector @ whole / np.linalg.norm(vector) / np.linalg.norm(whole)
                    for vector in vectors
                ]
            )
        )
        u_mass.append(
            np.mean(
                [
                    np.log((share(v, w) + 1e-12) / share(v))
                    if share(v)
                    else np.log(1e-12)
                    for place, v in enumerate(top)
                    for w in top[place + 1 :]
                ]
            )
        )
    return np.array(c_v), np.array(u_mass)


@pytest.mark.parametrize("rate", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("top_n", [2, 5, 40])
def test_coherences_are_their_definitions(rate, top_n):
    X = random_counts(n_samples=60, n_features=25, rate=rate, seed=1)
    X[:, 3] = 0
    components = np.random.default_rng(2).gamma(0.3, size=(6, 25))
    components[0, 3] = 100
    expected = straight_coherences(components, X, top_n)
    for data in X, sp.csr_matrix(X), sp.csc_array(X.astype(float)):
        parts = {"top_n": top_n, "average": False}
        assert_allclose(c_v_coherence(components, data, **parts), expected[0])
        assert_allclose(u_mass_coherence(components, data, **parts), expected[1])
    for measure, values in zip(
        (c_v_coherence, u_mass_coherence), expected, strict=True
    ):
        mean = measure(components, X, top_n=top_n)
        assert isinstance(mean, float)
        assert_allclose(mean, values.mean())


@pytest.mark.parametrize(
    ("name", "measure"), [("c_v", c_v_coherence), ("u_mass", u_mass_coherence)]
)
def test_coherences_equal_gensim(name, measure):
    X = random_counts(n_samples=60, n_features=25, rate=0.3, seed=1)
    X[np.arange(25), np.arange(25)] += 1  # gensim divides by zero at unseen words
    components = np.random.default_rng(2).gamma(0.3, size=(6, 25))
    expected = gensim_coherence(name, components, X, 5)
    result = measure(components, X, top_n=5, average=False)
    assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("measure", [c_v_coherence, u_mass_coherence])
def test_coherence_errors(measure):
    X = random_counts(n_features=4)
    with pytest.raises(ValueError, match="Negative values in data"):
        measure(np.ones((2, 4)), -X)
    with pytest.raises(ValueError, match="X has 3 features, but the components have 4"):
        measure(np.ones((2, 4)), X[:, :3])
    with pytest.raises(ValueError, match=f"{measure.__name__} needs two or more"):
        measure(np.ones((2, 4)), X, top_n=1)


# split_features


@pytest.mark.parametrize("make", [np.array, sp.csr_matrix, sp.csr_array])
def test_split_of_features_hides_half_of_them_whole(make):
    X = 5 * random_counts() + 0.5 * (random_counts(seed=1) > 0)
    observed, hidden = split_features(make(X), random_state=0)
    assert_array_equal((observed + hidden).toarray(), X)
    assert observed.multiply(hidden).nnz == 0
    n_features = (X > 0).sum(axis=1)
    assert_array_equal(np.diff(hidden.indptr), n_features // 2)
    again = split_features(make(X), random_state=0)[1]
    assert_array_equal(again.toarray(), hidden.toarray())
    assert (split_features(make(X), random_state=1)[1] != hidden).nnz > 0
    with pytest.raises(ValueError, match="Negative values in data"):
        split_features(-X)


# recall_at_k, ndcg_at_k


def known_split(observed, hidden):
    """A splitter that always gives these halves."""
    return lambda X, random_state=None: (sp.csr_array(observed), sp.csr_array(hidden))


def test_rankings_are_exact():
    model = Fixed([5, 4, 3, 2, 1])
    observed = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
    hidden = np.array([[0, 0, 3, 1, 0], [1, 0, 0, 0, 2], [0, 0, 0, 0, 0]])
    splitter = known_split(observed, hidden)
    # Of row 0, features 1, 2, 3 and 4 are ranked, of row 1, features 0 to 3.
    values = {"k": 2, "splitter": splitter}
    assert recall_at_k(model, hidden, **values) == np.mean([1 / 2, 1])
    discount = 1 / np.log2(3)
    gains = [3 * discount / (3 + discount), 1]
    assert_allclose(ndcg_at_k(model, hidden, **values), np.mean(gains))
    # With what is seen, feature 0 comes first, and 4 counts as hidden of row 1.
    values["exclude_seen"] = False
    assert recall_at_k(model, hidden, **values) == np.mean([0, 1 / 2])
    gains = [0, 1 / (2 + discount)]
    assert_allclose(ndcg_at_k(model, hidden, **values), np.mean(gains))
    # Fewer are left than asked for.
    values = {"k": 99, "splitter": splitter}
    assert recall_at_k(model, hidden, **values) == 1
    last = (3 / np.log2(3) + 1 / 2) / (3 + discount)
    assert_allclose(ndcg_at_k(model, hidden, **values), np.mean([last, 1]))


def test_rankings_agree_with_scikit_learn_without_ties():
    from sklearn.metrics import ndcg_score

    X, probabilities = planted_counts(n_samples=30)
    scores = probabilities + np.random.default_rng(0).random(X.shape)
    values = {"k": 7, "exclude_seen": False, "splitter": known_split(X, X)}
    expected = ndcg_score(X, scores, k=7)
    assert_allclose(ndcg_at_k(Oracle(scores), X, **values), expected)


def test_rankings_know_no_order_of_columns_where_scores_are_equal():
    X = np.zeros((300, 50), dtype=int)
    X[:, :20] = 1  # a model that expects all alike must not profit from that
    model = Fixed(np.ones(50))
    values = [recall_at_k(model, X, k=10, random_state=seed) for seed in range(20)]
    # 10 of the 40 that are not seen are ranked, and 10 of these were hidden.
    assert_allclose(np.mean(values), 1 / 4, atol=0.1)


def test_better_models_rank_better():
    X, _ = planted_counts(n_words=60)
    fits = [
        NMF(k, random_state=0, max_iter=2000, tol=1e-3, init="nndsvda").fit(X)
        for k in (1, 3)
    ]
    for measure in recall_at_k, ndcg_at_k:
        worse, better = (measure(fit, X, k=5, random_state=0) for fit in fits)
        assert better > worse + 0.05
        assert better == measure(fits[1], sp.csr_matrix(X), k=5, random_state=0)


def test_ranking_errors():
    X, _ = planted_counts()
    model = Fixed(np.ones(30))
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="k must be a positive integer"):
            recall_at_k(model, X, k=k)
    with pytest.raises(ValueError, match="No row of X has a hidden feature"):
        ndcg_at_k(model, np.eye(3, dtype=int))
    with pytest.raises(ValueError, match="with the method transform; object has none"):
        recall_at_k(object(), X)


# disentanglement


def test_disentanglement_of_codes_that_are_the_factors():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(300, 3))
    scores = disentanglement(factors[:, [2, 0, 1]], factors, random_state=0)
    assert min(scores.disentanglement, scores.completeness) > 0.9
    assert scores.informativeness > 0.9
    assert_array_equal(scores.importances.argmax(axis=0), [1, 2, 0])
    assert_allclose(scores.importances.sum(axis=0), 1)
    mixed = disentanglement(
        factors @ np.linalg.qr(rng.normal(size=(3, 3)))[0], factors, random_state=0
    )
    assert mixed.disentanglement < 0.6
    assert mixed.completeness < 0.6
    again = disentanglement(factors[:, [2, 0, 1]], factors, random_state=0)
    assert again.disentanglement == scores.disentanglement


def test_disentanglement_of_classes_and_of_codes_that_say_nothing():
    rng = np.random.default_rng(0)
    kinds = np.array([["a", "x"], ["b", "x"], ["a", "y"], ["b", "y"]])
    factors = kinds[rng.integers(4, size=200)]
    codes = np.c_[factors == ["a", "x"], np.zeros(200)].astype(float)
    scores = disentanglement(codes, factors, random_state=0)
    assert_allclose(scores.disentanglement, 1)
    assert_allclose(scores.completeness, 1)
    assert scores.informativeness == 1
    nothing = disentanglement(np.zeros((200, 2)), factors, random_state=0)
    assert nothing.disentanglement == nothing.completeness == 0
    # Two codes with half of a factor each, of which they have no other.
    halves = np.c_[codes[:, [0, 0]], codes[:, 1]]
    halves[:, 0] *= rng.random(200) < 0.5
    scores = disentanglement(halves, factors, random_state=0)
    assert scores.disentanglement > 0.9


def test_disentanglement_by_its_formula():
    from skdeepfactor.metrics.planted import _concentrations

    importances = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0], [3.0, 1.0]])
    entropy = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert_allclose(_concentrations(importances), [0, 1, 0, 1 - entropy], atol=1e-12)
    assert_allclose(_concentrations(np.ones((2, 1))), 1)


def test_disentanglement_errors():
    factors = np.random.default_rng(0).normal(size=(20, 2))
    for codes, planted, message in [
        (factors, factors[:, :1], "two columns or more, got 1"),
        (factors, factors[:10], "inconsistent numbers of samples"),
        (factors, np.c_[factors, np.ones(20)], "column 2 has one value"),
        (factors * np.nan, factors, "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            disentanglement(codes, planted)
    with pytest.raises(ValueError, match="n_estimators must be a positive integer"):
        disentanglement(factors, factors, n_estimators=0)
    rare = np.column_stack([np.arange(40) == 0, np.arange(40) % 2])
    with pytest.raises(ValueError, match="column 0 has one value there"):
        disentanglement(rare, rare, test_size=0.95, random_state=0)


# renyi_bound


@pytest.mark.parametrize("alpha", [-1.0, 0, 0.5, 1, 1 - 1e-14, 1.0001, 3])
def test_renyi_bound_is_that_of_tensors(alpha):
    rng = np.random.default_rng(0)
    log_weights = rng.normal(-300, 20, size=(7, 4))
    log_weights[2, 0] = -np.inf
    with np.errstate(over="ignore"):
        expected = renyi_bound_of_tensors(torch.tensor(log_weights), float(alpha))
        bounds = renyi_bound(log_weights, alpha)
    assert bounds.dtype == np.float64
    assert_allclose(bounds, expected.numpy(), rtol=1e-13)


def test_renyi_bound_known_values():
    log_weights = np.log([[0.1, 0.4], [0.3, 0.4]])
    assert_allclose(np.exp(renyi_bound(log_weights, 0)), [0.2, 0.4])
    assert_allclose(renyi_bound(log_weights, 1), log_weights.mean(axis=0))
    half = np.square(np.sqrt([0.1, 0.3]).mean())
    assert_allclose(np.exp(renyi_bound(log_weights, 0.5)), [half, 0.4])
    # The sum over rows of log means, not the log mean of products.
    rng = np.random.default_rng(1)
    many = rng.normal(0, 1, size=(50, 200))
    total = renyi_bound(many, 0).sum()
    assert total > renyi_bound(many.sum(axis=1, keepdims=True), 0)[0] + 10
    assert_allclose(
        total, sum(renyi_bound(part, 0).sum() for part in np.hsplit(many, 4))
    )


def test_renyi_bound_errors():
    for alpha in (np.inf, np.nan, [1.0, 2.0], "0.5", None):
        with pytest.raises(ValueError, match="alpha must be a finite number"):
            renyi_bound([[0.0]], alpha)
    with pytest.raises(ValueError, match="must not contain NaN"):
        renyi_bound([[np.nan]], 0)
    with pytest.raises(ValueError, match="Expected 2D array"):
        renyi_bound([0.0, 1.0], 0)


# topic_diversity


def test_diversity_is_exact():
    components = np.array([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    assert topic_diversity(components, top_n=1) == 2 / 3
    assert topic_diversity(components, top_n=2) == 4 / 6
    assert topic_diversity(components, top_n=3) == 5 / 9
    assert topic_diversity(components) == 5 / 15
    assert topic_diversity(np.eye(4), top_n=1) == 1
    assert topic_diversity(np.ones((4, 9)), top_n=3) == 1 / 4
    with pytest.raises(ValueError, match="top_n must be a positive integer"):
        topic_diversity(components, top_n=0)


# scorers

NMF_SCORERS = [name for name in scorers if name != "neg_perplexity"]

# What more components than there are make no worse, or one alone makes better.
UNDECIDED = {"topic_diversity", "recall_at_k"}


def test_scorers_are_picklable_callables_that_say_what_the_functions_say():
    X, _ = planted_counts()
    model = LatentDirichletAllocation(3, random_state=0, max_iter=3).fit(X)
    expected = {
        "neg_completion_perplexity": -completion_perplexity(model, X, random_state=0),
        "neg_perplexity": -model.perplexity(X),
        "recall_at_k": recall_at_k(model, X, random_state=0),
        "ndcg_at_k": ndcg_at_k(model, X, random_state=0),
        "npmi_coherence": npmi_coherence(model.components_, X),
        "c_v_coherence": c_v_coherence(model.components_, X),
        "u_mass_coherence": u_mass_coherence(model.components_, X),
        "topic_diversity": topic_diversity(model.components_),
    }
    assert set(scorers) == set(expected)
    for name, scorer in pickle.loads(pickle.dumps(scorers)).items():
        score = scorer(model, X, None)
        assert isinstance(score, float)
        assert_allclose(score, expected[name], rtol=1e-12)


def test_neg_perplexity_needs_a_perplexity():
    X, _ = planted_counts()
    model = NMF(3, random_state=0, max_iter=2000, tol=1e-3).fit(X)
    with pytest.raises(ValueError, match="NMF has no perplexity"):
        scorers["neg_perplexity"](model, X)


@pytest.mark.parametrize("name", NMF_SCORERS)
@pytest.mark.parametrize("make", [np.array, sp.csr_matrix, sp.csr_array])
def test_grid_search_with_one_scorer(name, make):
    X, _ = planted_counts()
    search = GridSearchCV(
        NMF(random_state=0, max_iter=2000, tol=1e-3, init="nndsvda"),
        {"n_components": [1, 3]},
        scoring=scorers[name],
        cv=3,
        error_score="raise",
    ).fit(make(X))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    if name not in UNDECIDED:
        assert search.best_params_ == {"n_components": 3}


def test_grid_search_with_all_scorers():
    X, _ = planted_counts()
    search = GridSearchCV(
        LatentDirichletAllocation(random_state=0, max_iter=5),
        {"n_components": [1, 3]},
        scoring=metrics.scorers,
        refit="neg_completion_perplexity",
        cv=2,
        error_score="raise",
    ).fit(X)
    for name in scorers:
        assert np.isfinite(search.cv_results_[f"mean_test_{name}"]).all()
    assert search.best_params_ == {"n_components": 3}


def make_texts():
    X, _ = planted_counts(n_samples=60)
    return [" ".join(f"word{v}" for v in np.repeat(np.arange(30), row)) for row in X]


def test_grid_search_over_a_pipeline_of_texts():
    pipeline = Pipeline(
        [
            ("counts", CountVectorizer()),
            ("model", LatentDirichletAllocation(random_state=0, max_iter=5)),
        ]
    )
    search = GridSearchCV(
        pipeline,
        {"model__n_components": [1, 3]},
        scoring=scorers,
        refit="npmi_coherence",
        cv=2,
        error_score="raise",
    ).fit(make_texts())
    for name in scorers:
        assert np.isfinite(search.cv_results_[f"mean_test_{name}"]).all()
    assert search.best_params_ == {"model__n_components": 3}


def test_scorers_look_into_pipelines_in_pipelines():
    texts = make_texts()
    model = NMF(3, random_state=0, max_iter=2000, tol=1e-3)
    inner = make_pipeline(FunctionTransformer(), "passthrough", make_pipeline(model))
    pipeline = make_pipeline(CountVectorizer(), inner).fit(texts)
    X = pipeline[0].transform(texts)
    for name in NMF_SCORERS:
        assert scorers[name](pipeline, texts) == scorers[name](model, X)
