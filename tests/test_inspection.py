import builtins
import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from scipy.stats import norm, ortho_group
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.decomposition import LatentDirichletAllocation as ScikitLearnLDA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
    VariationalSparseCoding,
)
from skdeepfactor.datasets import make_topics
from skdeepfactor.inspection import (
    factor_shares,
    hierarchy,
    jacobian_embeddings,
    latent_usage,
    match_components,
    nearest_features,
    reading,
    sparsity,
    stability,
    to_pyldavis,
    top_features,
    top_rows,
    traverse,
)
from tests.forked import PATIENCE

GIVEN_TOTAL = ("multinomial", "dirichlet_multinomial")
LIKELIHOODS = (*GIVEN_TOTAL, "poisson", "negative_binomial")
DEEP = {"decoder_layers": (6, 5), "max_refine_steps": 5}


def fitted(X, n_components=3, **parameters):
    defaults = {"encoder_layers": (8,), "max_iter": 4, "random_state": 0}
    return NeuralTopicDLGM(n_components, **{**defaults, **parameters}).fit(X)


def log_means(model, z):
    """Log E[x | z] by the public face; for likelihoods given the total, of shares."""
    return np.log(model.inverse_transform(z))


def decoder(model):
    """Weights and biases of a linear decoder."""
    module = model._load(torch.float64, torch.device("cpu"))
    return module.decoder.weight.detach().numpy(), module.decoder.bias.detach().numpy()


def slopes(model, z, step=1e-6):
    """Jacobian of the log means at each row of z: (n_rows, n_features, k)."""
    moves = step * np.eye(z.shape[1])
    return np.stack(
        [
            (log_means(model, z + move) - log_means(model, z - move)) / (2 * step)
            for move in moves
        ],
        axis=2,
    )


def angles(embeddings):
    """All cosines, by the definition."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return units @ units.T


class Fitted(BaseEstimator):
    """An estimator with components and nothing else."""

    components_ = np.eye(2)

    def fit(self, X):
        return self

    def __sklearn_is_fitted__(self):
        return True


def with_components(components):
    """An estimator that is fitted, whatever it was fitted to."""
    nmf = NMF(len(components))
    nmf.components_ = np.array(components)
    return nmf


@pytest.fixture(scope="module")
def X(counts):
    """Counts in float64, so that all is computed in float64."""
    return counts.astype(np.float64)


@pytest.fixture(scope="module")
def linear(X):
    return fitted(X)


@pytest.fixture(scope="module")
def layered(X):
    return SparseGammaDEF((4, 3, 2), max_iter=60, random_state=0).fit(X)


@pytest.fixture(scope="module")
def deep(X):
    return fitted(X, skip_connections=True, **DEEP)


# top_features

TEXTS = ["red apple pear", "apple pear pear", "bus tram train", "tram train train"] * 3
ABUNDANCES = [[40, 30, 20, 10, 0, 0], [400, 0, 0, 0, 500, 100]]


def frex(components):
    """The definition, one number at a time."""
    beta = [[weight / sum(row) for weight in row] for row in components]
    scores = np.empty(np.shape(components))
    for k, row in enumerate(beta):
        exclusive = [b / sum(other[v] for other in beta) for v, b in enumerate(row)]
        for v in range(len(row)):
            frequency = np.mean([b <= row[v] for b in row])
            exclusivity = np.mean([e <= exclusive[v] for e in exclusive])
            scores[k, v] = 1 / (0.5 / exclusivity + 0.5 / frequency)
    return scores


def named(features):
    """The table of names as lists."""
    return features.to_numpy().tolist()


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("probability", ["abcd", "eafb"]),
        # Of equal lift are b, c, d and e, f: these are in one component alone.
        ("lift", ["bcda", "efab"]),
        # In the first, a has the ranks 6 and 3, as has d the other way round.
        ("frex", ["bcad", "efab"]),
        ("loading", ["abcd", "eafb"]),
    ],
)
def test_what_comes_first(by, expected):
    pytest.importorskip("pandas")
    model = with_components(ABUNDANCES)
    found = named(top_features(model, 4, list("abcdef"), by=by))
    assert found == [list(row) for row in expected]


def test_orders_by_their_definitions(X):
    model = PoissonFactorization(4, random_state=0).fit(X)
    probability = model.components_ / model.components_.sum(axis=1, keepdims=True)
    scores = {
        "probability": probability,
        "lift": probability / probability.mean(axis=0),
        "frex": frex(model.components_),
        "loading": model.components_,
    }
    for by, score in scores.items():
        found = named(top_features(model, 30, by=by))
        assert all(sorted(row) == sorted(f"x{v}" for v in range(30)) for row in found)
        values = [
            [row[int(name[1:])] for name in names]
            for row, names in zip(score, found, strict=True)
        ]
        assert (np.diff(values, axis=1) <= 1e-12).all(), by
    # Three of these are not the same.
    tables = {by: str(named(top_features(model, 8, by=by))) for by in scores}
    assert len({tables[by] for by in ("probability", "lift", "frex")}) == 3


def test_scales_of_components_do_not_matter(X):
    model = PoissonFactorization(4, random_state=0).fit(X)
    scales = np.array([[1e-300], [1e3], [1e290], [7.0]])
    scaled = with_components(model.components_ * scales)
    for by in ("probability", "lift", "frex"):
        expected = named(top_features(model, by=by))
        assert named(top_features(scaled, by=by)) == expected


def test_a_table_with_components_and_ranks():
    pandas = pytest.importorskip("pandas")
    found = top_features(with_components(ABUNDANCES), 2, list("abcdef"))
    assert isinstance(found, pandas.DataFrame)
    assert found.index.tolist() == [0, 1]
    assert found.columns.tolist() == [1, 2]
    assert (found.index.name, found.columns.name) == ("component", "rank")
    assert found.loc[1, 1] == "e"


def test_lists_where_there_is_no_pandas(monkeypatch):
    imported = builtins.__import__

    def without_pandas(name, *args):
        if name == "pandas":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    found = top_features(with_components(ABUNDANCES), 2, list("abcdef"))
    assert found == [["a", "b"], ["e", "a"]]
    assert type(found[0][0]) is str


def test_names_of_top_features(counts):
    pandas = pytest.importorskip("pandas")
    model = with_components(ABUNDANCES)
    assert named(top_features(model, 2)) == [["x0", "x1"], ["x4", "x0"]]
    frame = pandas.DataFrame(counts.toarray()).add_prefix("word")
    fitted_on_names = LatentDirichletAllocation(2, max_iter=2).fit(frame)
    best = fitted_on_names.components_.argmax(axis=1)
    found = named(top_features(fitted_on_names, 1))
    assert found == [[f"word{index}"] for index in best]
    given = [f"other{index}" for index in range(30)]
    found = named(top_features(fitted_on_names, 1, given))
    assert found == [[f"other{index}"] for index in best]


@pytest.mark.parametrize(
    "model",
    [
        NMF(2, init="random", max_iter=2000, random_state=0),
        ScikitLearnLDA(2, random_state=0),
        PoissonFactorization(2, random_state=0),
        make_pipeline(
            TfidfTransformer(), NMF(2, init="random", max_iter=2000, random_state=0)
        ),
    ],
    ids=["NMF", "scikit-learn's LDA", "ours", "nested"],
)
def test_top_words_out_of_a_pipeline(model):
    pipeline = make_pipeline(CountVectorizer(), model).fit(TEXTS)
    found = named(top_features(pipeline, 2))
    assert sorted(map(sorted, found)) == [["apple", "pear"], ["train", "tram"]]


def test_steps_that_have_no_names_for_what_they_make():
    roots = FunctionTransformer(np.sqrt)
    pipeline = make_pipeline(
        CountVectorizer(), roots, NMF(2, init="random", max_iter=2000, random_state=0)
    )
    pipeline.fit(TEXTS)
    assert named(top_features(pipeline, 1))[0][0].startswith("x")
    words = pipeline[0].get_feature_names_out()
    found = named(top_features(pipeline, 2, words))
    assert sorted(map(sorted, found)) == [["apple", "pear"], ["train", "tram"]]


@pytest.mark.parametrize("is_nested", [False, True])
def test_what_comes_before_words_does_not_hide_them(is_nested):
    louder = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    steps = [louder, CountVectorizer(lowercase=False), TfidfTransformer()]
    if is_nested:
        steps = [make_pipeline(*steps)]
    pipeline = make_pipeline(*steps, NMF(2, tol=0.01, random_state=0)).fit(TEXTS)
    found = named(top_features(pipeline, 2))
    assert sorted(map(sorted, found)) == [["APPLE", "PEAR"], ["TRAIN", "TRAM"]]


def test_signed_components_have_loadings_alone(linear):
    assert linear.components_.min() < 0
    for by in ("probability", "lift", "frex"):
        with pytest.raises(ValueError, match=f"by='{by}' needs.*NeuralTopicDLGM is -"):
            top_features(linear, by=by)
    found = named(top_features(linear, 3, by="loading"))
    for row, names in zip(linear.components_, found, strict=True):
        assert names == [f"x{index}" for index in np.argsort(-row)[:3]]


def test_components_without_weight_and_features_of_none():
    model = with_components([[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    for by in ("probability", "lift", "frex"):
        found = named(top_features(model, 1, by=by))
        assert found == [["x0"], ["x1"]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 0}, "n must be an int of at least 1, got 0"),
        ({"n": 2.0}, r"n must be an int of at least 1, got 2\.0"),
        ({"by": "weight"}, "by must be one of probability.*loading, got 'weight'"),
        ({"by": None}, "by must be one of"),
        ({"feature_names": ["a"]}, r"feature_names must have shape \(6,\), got \(1,\)"),
    ],
)
def test_top_features_checks(parameters, message):
    with pytest.raises(ValueError, match=message):
        top_features(with_components(ABUNDANCES), **parameters)


def test_top_features_need_a_fitted_estimator_with_components():
    with pytest.raises(NotFittedError):
        top_features(NMF(2))
    with pytest.raises(NotFittedError):
        top_features(make_pipeline(CountVectorizer(), PoissonFactorization(2)))
    clusters = KMeans(2, n_init=1).fit(np.eye(3))
    with pytest.raises(TypeError, match="KMeans has none"):
        top_features(clusters)
    broken = with_components([[1.0, np.nan]])
    with pytest.raises(ValueError, match="NaN"):
        top_features(broken)


# top_rows and factor_shares


@pytest.mark.parametrize(
    "model",
    [
        PoissonFactorization(3, random_state=0),
        PoissonFactorization(3, exposure="total", random_state=0),
        PoissonFactorization(3, weight_prior="dirichlet", random_state=0),
        LatentDirichletAllocation(3, random_state=0),
        SparseGammaDEF((3, 2), max_iter=20, random_state=0),
        NMF(3, init="nndsvda", max_iter=2000, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_shares_are_those_of_the_expected_total(model, X):
    model.fit(X)
    factors = model.transform(X)
    found = factor_shares(model, X)
    # What is expected of each row when all factors but one are zero.
    parts = [
        model.inverse_transform(factors * np.eye(3)[k]).sum(axis=1) for k in range(3)
    ]
    if type(model) is LatentDirichletAllocation:
        parts = factors.T
    expected = np.transpose(parts / np.maximum(np.sum(parts, axis=0), 1e-300))
    assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float64
    assert np.isin(found.sum(axis=1).round(12), (0, 1)).all()


def test_shares_of_proportions_are_these(counts):
    model = ScikitLearnLDA(3, random_state=0).fit(counts)
    assert_allclose(factor_shares(model, counts), model.transform(counts), rtol=1e-12)


def test_shares_do_not_know_of_scales(X):
    model = NMF(3, init="nndsvda", max_iter=2000, random_state=0).fit(X)
    expected = factor_shares(model, X)
    rows = X[expected.sum(axis=1) > 0]
    expected = expected[expected.sum(axis=1) > 0]
    scales = np.array([1e-3, 1.0, 50.0])
    scaled = with_components(model.components_ * scales[:, None])
    scaled.transform = lambda X: model.transform(X) / scales
    assert_allclose(factor_shares(scaled, rows), expected, rtol=1e-10)


def test_rows_without_factors_have_no_shares():
    rows = np.array([[4.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    model = NMF(2, init="nndsvda", max_iter=2000, random_state=0).fit(rows)
    shares = factor_shares(model, rows)
    assert_array_equal(shares[1], [0, 0])
    assert_allclose(shares[[0, 2]].sum(axis=1), 1)


def test_shares_of_each_layer(layered, X):
    first, second, third = layered.weights_
    totals = [first.sum(1), (second @ first).sum(1), (third @ second @ first).sum(1)]
    model = pickle.loads(pickle.dumps(layered))
    for layer, total in enumerate(totals, 1):
        model.set_params(transform_layer=layer)
        parts = model.transform(X[:6]) * total
        found = factor_shares(model, X[:6])
        assert_allclose(found, parts / parts.sum(axis=1, keepdims=True), rtol=1e-10)
    model.set_params(transform_layer="all")
    for function in (factor_shares, lambda *args: top_rows(*args, 0)):
        with pytest.raises(ValueError, match=r"one layer.*'all'"):
            function(model, X[:6])


def test_rows_that_show_a_component(X):
    model = PoissonFactorization(3, random_state=0).fit(X)
    shares = factor_shares(model, X)
    for component in range(3):
        indices, weights = top_rows(model, X, component, n=60)
        assert sorted(indices) == list(range(60))
        assert_array_equal(weights, shares[indices, component])
        assert (np.diff(weights) <= 0).all()
        few = top_rows(model, X, np.int32(component), n=4)
        assert_array_equal(few[0], indices[:4])
        assert_array_equal(few[1], weights[:4])
    assert len(top_rows(model, X, 0)[0]) == 10
    assert len(top_rows(model, X[:3], 0)[0]) == 3
    # A factor is not a share: long rows have large factors.
    by_factor = np.argsort(-model.transform(X)[:, 0], kind="stable")
    assert (by_factor != top_rows(model, X, 0, n=60)[0]).any()


def test_of_equal_rows_the_first():
    rows = np.array([[1.0, 1.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    model = with_components(np.eye(2))
    model.transform = lambda X: X
    indices, weights = top_rows(model, rows, 0)
    assert indices.tolist() == [1, 2, 0, 3]
    assert weights.tolist() == [1, 1, 0.5, 0]


def test_rows_by_signed_factors(linear, X):
    factors = linear.transform(X)
    indices, weights = top_rows(linear, X, 1, n=60)
    assert_array_equal(indices, np.argsort(-factors[:, 1], kind="stable"))
    assert_array_equal(weights, factors[indices, 1])
    assert weights[-1] < 0
    with pytest.raises(ValueError, match="without negative entries, but NeuralTopicDL"):
        factor_shares(linear, X)


def test_signed_components_tell_too():
    model = with_components([[1.0, -1.0], [0.0, 1.0]])
    model.transform = lambda X: X
    indices, weights = top_rows(model, [[1.0, 1.0], [6.0, 12.0]], 0)
    assert indices.tolist() == [1, 0]
    assert weights.tolist() == [6, 1]


def test_rows_of_texts():
    model = PoissonFactorization(2, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), model).fit(TEXTS)
    fruit = [names[0] in ("apple", "pear") for names in named(top_features(pipeline))]
    indices, weights = top_rows(pipeline, TEXTS, fruit.index(True), n=6)
    assert all("apple" in TEXTS[index] for index in indices)
    counts = pipeline[0].transform(TEXTS)
    assert_array_equal(factor_shares(pipeline, TEXTS), factor_shares(model, counts))
    assert weights[0] == factor_shares(pipeline, TEXTS).max(axis=0)[fruit.index(True)]


def test_rows_of_data_frames_in_and_out(X):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.toarray()).add_prefix("word")
    model = PoissonFactorization(3, random_state=0).fit(frame)
    expected = factor_shares(model, frame)
    model.set_output(transform="pandas")
    found = factor_shares(model, frame)
    assert type(found) is np.ndarray
    assert_array_equal(found, expected)


def test_top_rows_checks(X):
    model = PoissonFactorization(3, random_state=0).fit(X)
    for component in (-1, 3, 1.0, None, "0"):
        with pytest.raises(ValueError, match="component must be an int from 0 to 2"):
            top_rows(model, X, component)
    for n in (0, 1.5, None):
        with pytest.raises(ValueError, match="n must be an int of at least 1"):
            top_rows(model, X, 0, n=n)
    with pytest.raises(NotFittedError):
        top_rows(PoissonFactorization(3), X, 0)
    with pytest.raises(TypeError, match="KMeans has none"):
        top_rows(KMeans(2, n_init=1).fit(np.eye(3)), np.eye(3), 0)
    split = with_components([[1.0, 0.0]])
    split.transform = lambda X: np.hstack([X, X])
    with pytest.raises(ValueError, match="NMF has 4 factors and 1 components"):
        factor_shares(split, np.eye(2))
    with pytest.raises(TypeError, match="Fitted has no transform"):
        factor_shares(Fitted(), np.eye(2))


# match_components and stability


def test_what_was_moved_is_found():
    rng = np.random.default_rng(0)
    components = rng.gamma(0.3, size=(12, 40))
    order = rng.permutation(12)
    scales = 10.0 ** rng.integers(-200, 200, size=(12, 1))
    pairs, cosines = match_components(components, components[order] * scales)
    assert_array_equal(pairs[:, 0], np.arange(12))
    assert_array_equal(order[pairs[:, 1]], np.arange(12))
    assert_allclose(cosines, 1, rtol=1e-12)
    assert (cosines <= 1).all()


@pytest.mark.parametrize("n_second", [2, 4, 5])
@pytest.mark.parametrize("is_signed", [False, True])
def test_no_other_pairs_have_a_larger_sum(is_signed, n_second):
    rng = np.random.default_rng(1)
    sizes = [(4, 3), (n_second, 3)]
    a, b = (rng.normal(size=s) if is_signed else rng.gamma(1, size=s) for s in sizes)
    cosines = angles(np.vstack([a, b]))[:4, 4:]
    gains = np.abs(cosines) if is_signed else cosines
    n_pairs = min(4, n_second)
    sums = [
        gains[list(rows), list(columns)].sum()
        for rows in itertools.combinations(range(4), n_pairs)
        for columns in itertools.permutations(range(n_second), n_pairs)
    ]
    pairs, found = match_components(a, b)
    assert pairs.shape == (n_pairs, 2)
    assert (np.diff(pairs[:, 0]) > 0).all()
    assert len(set(pairs[:, 1])) == n_pairs
    assert_allclose(found, cosines[tuple(pairs.T)], rtol=1e-10)
    assert np.abs(found).sum() == pytest.approx(max(sums))


def test_the_best_for_each_is_not_always_the_best_for_all():
    # Both of the first are nearest to the first of the second.
    a = [[1.0, 0.0, 0.0], [0.9, 0.3, 0.0]]
    b = [[1.0, 0.1, 0.0], [0.5, 0.0, 1.0]]
    assert match_components(a, b)[0].tolist() == [[0, 1], [1, 0]]


def test_a_factor_and_its_negative_are_a_pair():
    pairs, cosines = match_components([[1.0, 2.0], [2.0, -1.0]], [[-2.0, 1.0], [1, 2]])
    assert pairs.tolist() == [[0, 1], [1, 0]]
    assert_allclose(cosines, [1, -1])
    assert stability([[[1.0, -2.0]], [[-1.0, 2.0]]]) == pytest.approx(1)


def test_components_of_zeros_are_like_none():
    _, cosines = match_components([[0.0, 0.0], [1.0, 1.0]], [[2.0, 2.0], [0.0, 0.0]])
    assert cosines.tolist() == [0, pytest.approx(1)]


def test_planted_topics_are_matched():
    planted = make_topics(400, 60, 5, random_state=0)
    X = planted.data
    model = LatentDirichletAllocation(5, random_state=0).fit(X)
    pairs, cosines = match_components(planted.components, model)
    assert cosines.min() > 0.95
    # The factors of a pair go together too.
    shares = factor_shares(model, X)
    for k, found in pairs:
        correlation = np.corrcoef(planted.topic_proportions[:, k], shares[:, found])
        assert correlation[0, 1] > 0.9


def test_fits_of_pipelines_are_matched():
    fits = [
        make_pipeline(
            CountVectorizer(), PoissonFactorization(2, random_state=seed)
        ).fit(TEXTS)
        for seed in (0, 1)
    ]
    pairs, cosines = match_components(*fits)
    assert (cosines > 0.9).all()
    assert_array_equal(pairs, match_components(fits[0][-1], fits[1][-1])[0])


def test_stability_is_the_mean_of_pairs_of_fits():
    rng = np.random.default_rng(0)
    fits = [rng.gamma(0.5, size=(size, 9)) for size in (3, 4, 4, 2)]
    means = [
        match_components(a, b)[1].mean() for a, b in itertools.combinations(fits, 2)
    ]
    assert len(means) == 6
    assert stability(fits) == pytest.approx(np.mean(means))
    assert stability(fit for fit in fits) == stability(fits)
    assert type(stability(fits)) is float
    assert stability([fits[0], fits[0][[2, 0, 1]] * 7]) == pytest.approx(1)


def test_more_components_than_there_are_are_less_stable():
    X = make_topics(300, 60, 4, random_state=0).data
    values = [
        stability([PoissonFactorization(k, random_state=s).fit(X) for s in range(3)])
        for k in (4, 12)
    ]
    assert values[0] > values[1] + 0.05


def test_components_of_other_features_are_not_matched(counts):
    with pytest.raises(ValueError, match="same features, but have 2 and 3"):
        match_components(np.eye(2), np.eye(3))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(counts.toarray()).add_prefix("word")
    model = LatentDirichletAllocation(2, max_iter=2, random_state=0)
    first = model.fit(frame)
    turned = LatentDirichletAllocation(2, max_iter=2).fit(frame.iloc[:, ::-1])
    with pytest.raises(ValueError, match="in the same order, but their names differ"):
        match_components(first, turned)
    unnamed = LatentDirichletAllocation(2, max_iter=2, random_state=0).fit(counts)
    assert_allclose(match_components(first, unnamed)[1], 1, rtol=1e-5)
    apart = make_pipeline(
        CountVectorizer(), NMF(1, init="random", max_iter=999, random_state=0)
    )
    others = [apart.fit(["a1 a2"] * 3), pickle.loads(pickle.dumps(apart))]
    others[1].fit(["b1 b2"] * 3)
    with pytest.raises(ValueError, match="names differ"):
        stability(others)


def test_matching_checks():
    with pytest.raises(NotFittedError):
        match_components(NMF(2), np.eye(2))
    with pytest.raises(TypeError, match="KMeans has none"):
        match_components(np.eye(3), KMeans(2, n_init=1).fit(np.eye(3)))
    with pytest.raises(ValueError, match="NaN"):
        match_components([[np.nan, 1.0]], np.eye(2))
    for fits in ([], [np.eye(2)]):
        message = f"stability needs two or more fitted estimators, got {len(fits)}"
        with pytest.raises(ValueError, match=message):
            stability(fits)


# sparsity


def test_sparsity_counts_what_is_small_in_its_row():
    weights = np.array([[1e6, 9e3, 11e3, 0.0], [1e-6, 2e-6, 0.0, -1e-9]])
    assert sparsity(weights) == 4 / 8
    assert sparsity(weights, threshold=0) == 2 / 8
    assert sparsity(weights, threshold=0.6) == 6 / 8
    assert sparsity(weights, threshold=1) == 1
    assert sparsity(weights * np.array([[-1e3], [1e200]])) == 4 / 8
    assert sparsity(np.ones((2, 3))) == 0
    assert sparsity([[1, 0], [0, 0]]) == 0.75
    assert type(sparsity(weights)) is float
    assert sparsity(weights.tolist()) == 4 / 8


def test_small_shapes_make_sparse_weights(X):
    found = [
        sparsity(
            PoissonFactorization(3, weight_shape=shape, random_state=0)
            .fit(X)
            .components_
        )
        for shape in (0.05, 5.0)
    ]
    assert found[0] > found[1] + 0.2


def test_sparsity_checks():
    for threshold in (-0.1, 1.1, np.nan, "0.1", None):
        with pytest.raises(ValueError, match="threshold must be a number between 0 an"):
            sparsity(np.eye(2), threshold)
    with pytest.raises(ValueError, match="2D"):
        sparsity([1.0, 2.0])
    with pytest.raises(ValueError, match="infinity"):
        sparsity([[1.0, np.inf]])


# hierarchy


def planted_layers():
    """A fitted model of two layers whose weights are known."""
    model = SparseGammaDEF((3, 2), max_iter=1, random_state=0).fit(np.eye(4))
    lowest = np.array([[4.0, 2.0, 0, 0], [0, 0, 0.5, 0.5], [0, 1.0, 8.0, 0]])
    model.weights_ = [lowest, np.array([[1.0, 12.0, 0.0], [1.0, 1.0, 1.0]])]
    return model


def test_units_of_units():
    # Expected rows of the upper units: 4 2 6 6, since 1 * 6 : 12 * 1, and 4 3 8.5 .5.
    found = hierarchy(planted_layers(), list("abcd"), n=2)
    lowest = [
        {"layer": 1, "unit": 0, "features": ["a", "b"], "units": []},
        {"layer": 1, "unit": 1, "features": ["c", "d"], "units": []},
        {"layer": 1, "unit": 2, "features": ["c", "b"], "units": []},
    ]
    assert found == [
        {
            "layer": 2,
            "unit": 0,
            "features": ["c", "d"],
            "units": [
                {"share": pytest.approx(12 / 18), **lowest[1]},
                {"share": pytest.approx(6 / 18), **lowest[0]},
            ],
        },
        {
            "layer": 2,
            "unit": 1,
            "features": ["c", "a"],
            "units": [
                {"share": pytest.approx(9 / 16), **lowest[2]},
                {"share": pytest.approx(6 / 16), **lowest[0]},
            ],
        },
    ]


def test_an_outline_of_units():
    assert str(hierarchy(planted_layers(), list("abcd"), n=2)).splitlines() == [
        "unit 0 of layer 2: c d",
        "   67% unit 1 of layer 1: c d",
        "   33% unit 0 of layer 1: a b",
        "unit 1 of layer 2: c a",
        "   56% unit 2 of layer 1: c b",
        "   38% unit 0 of layer 1: a b",
    ]


def test_hierarchies_are_plain(layered):
    found = hierarchy(layered)
    assert json.loads(json.dumps(found)) == found
    assert pickle.loads(pickle.dumps(found)) == found
    assert repr(found) == repr(list(found))


def test_shares_add_up_in_each_layer(layered):
    found = hierarchy(layered, n=99)
    assert [unit["unit"] for unit in found] == [0, 1]
    for unit in found:
        assert unit["layer"] == 3
        assert len(unit["features"]) == 30
        assert sorted(part["unit"] for part in unit["units"]) == [0, 1, 2]
        for part in unit["units"]:
            assert part["layer"] == 2
            assert sorted(leaf["unit"] for leaf in part["units"]) == [0, 1, 2, 3]
            assert all(leaf["units"] == [] for leaf in part["units"])
            assert sum(leaf["share"] for leaf in part["units"]) == pytest.approx(1)
        shares = [part["share"] for part in unit["units"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
    few = hierarchy(layered, n=2)
    assert {len(unit["units"]) for unit in few} == {2}
    assert few[0]["units"][0]["unit"] == found[0]["units"][0]["unit"]


def test_scales_of_units_do_not_matter(layered):
    expected = hierarchy(layered)
    model = pickle.loads(pickle.dumps(layered))
    first, second, third = model.weights_
    scale = np.array([1e-2, 5.0, 1.0, 30.0])
    model.weights_ = [first * scale[:, None], second / scale, third]
    assert str(hierarchy(model)) == str(expected)
    raw = second / second.sum(axis=1, keepdims=True)
    assert np.abs(raw - reading.layer_shares(layered)[0]).max() > 1e-3


def test_one_layer_has_units_of_features_alone(X):
    model = SparseGammaDEF((3,), max_iter=5, random_state=0).fit(X)
    found = hierarchy(model, n=4)
    assert [unit["units"] for unit in found] == [[], [], []]
    lists = [unit["features"] for unit in found]
    assert lists == named(top_features(model, 4))


def test_groups_that_are_planted_are_found():
    rng = np.random.default_rng(0)
    # Four topics of six words; the first two go together, and so do the others.
    topics = np.kron(np.eye(4), np.ones(6))
    groups = np.kron(rng.permuted([[1.0, 0.0]] * 300, axis=1), np.ones(2))
    factors = groups * rng.gamma(3.0, 2.0, size=(300, 4))
    words = [f"topic{v // 6}" for v in range(24)]
    X = rng.poisson(factors @ topics)
    model = SparseGammaDEF(
        (4, 2), layer_shape=0.3, init="kmeans", max_iter=200, random_state=0
    ).fit(X)
    found = [
        sorted(part["features"][0] for part in unit["units"][:2])
        for unit in hierarchy(model, words)
        if sum(part["share"] for part in unit["units"][:2]) > 0.9
    ]
    assert sorted(found) == [["topic0", "topic1"], ["topic2", "topic3"]]


def test_units_of_words_in_a_pipeline():
    model = SparseGammaDEF((2, 1), init="kmeans", max_iter=20, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), model).fit(TEXTS)
    (top,) = hierarchy(pipeline, n=2)
    found = sorted(sorted(unit["features"]) for unit in top["units"])
    assert found == [["apple", "pear"], ["train", "tram"]]


def test_hierarchy_checks(layered, linear):
    with pytest.raises(ValueError, match="n must be an int of at least 1, got 0"):
        hierarchy(layered, n=0)
    with pytest.raises(ValueError, match=r"feature_names must have shape \(30,\)"):
        hierarchy(layered, ["a"])
    with pytest.raises(TypeError, match=r"layers.*SparseGammaDEF.*NeuralTopicDLGM has"):
        hierarchy(linear)
    with pytest.raises(NotFittedError):
        hierarchy(SparseGammaDEF())


# to_pyldavis

COUNTING = {
    "PoissonFactorization": PoissonFactorization(3, random_state=0),
    "LatentDirichletAllocation": LatentDirichletAllocation(3, random_state=0),
    "SparseGammaDEF": SparseGammaDEF((3, 2), max_iter=20, random_state=0),
    "SparseGammaDEF-above": SparseGammaDEF(
        (4, 3), max_iter=20, transform_layer=2, random_state=0
    ),
    "NMF": NMF(3, init="nndsvd", max_iter=2000, random_state=0),
    "scikit-learn's LDA": ScikitLearnLDA(3, random_state=0),
}


@pytest.fixture(params=COUNTING.values(), ids=COUNTING.keys())
def counting(request, X):
    return clone(request.param).fit(X)


def test_arguments_of_pyldavis(counting, X):
    found = to_pyldavis(counting, X)
    topics, shares = found["topic_term_dists"], found["doc_topic_dists"]
    totals = X.toarray().sum(axis=1)
    assert (totals == 0).sum() == 1
    assert topics.shape == (3, 30)
    assert shares.shape == (59, 3)
    for distributions in (topics, shares):
        assert distributions.dtype == np.float64
        assert distributions.min() > 0
        assert_allclose(distributions.sum(axis=1), 1, rtol=1e-12)
    assert_array_equal(found["doc_lengths"], totals[totals > 0])
    assert_array_equal(found["term_frequency"], X.toarray().sum(axis=0))
    assert found["vocab"] == [f"x{index}" for index in range(30)]
    expected = factor_shares(counting, X)[totals > 0]
    assert_allclose(shares, expected, atol=1e-10)
    weights = counting.components_
    if len(weights) == 4:  # of the layer below
        weights = counting.weights_[1] @ weights
    expected = weights / weights.sum(axis=1, keepdims=True)
    assert_allclose(topics, expected, rtol=1e-4, atol=1e-10)


def test_pyldavis_takes_them(counting, X):
    pyldavis = pytest.importorskip("pyLDAvis")
    prepared = pyldavis.prepare(**to_pyldavis(counting, X), n_jobs=1)

    def refused(constant):
        pytest.fail(f"{constant} is no JSON")

    shown = json.loads(prepared.to_json(), parse_constant=refused)
    assert sorted(shown["topic.order"]) == [1, 2, 3]
    assert set(shown["tinfo"]["Term"]) <= {f"x{index}" for index in range(30)}


def test_zeros_are_no_probabilities():
    model = with_components([[0.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    model.transform = lambda X: np.array([[0.0, 0.0], [1.0, 5.0], [2.0, 0.0]])
    found = to_pyldavis(model, [[1, 0, 0], [0, 2, 2], [0, 0, 0]])
    assert_allclose(
        found["topic_term_dists"], [[1 / 3] * 3, [0, 0.75, 0.25]], atol=1e-9
    )
    assert_allclose(found["doc_topic_dists"], [[0.5, 0.5], [0, 1]], atol=1e-9)
    assert found["topic_term_dists"].min() > 0
    assert found["doc_topic_dists"].min() > 0
    assert found["doc_lengths"].tolist() == [1, 4]
    assert found["term_frequency"].tolist() == [1, 2, 2]


def test_pyldavis_of_texts_and_of_data_frames(X):
    model = PoissonFactorization(2, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), model).fit(TEXTS)
    found = to_pyldavis(pipeline, [*TEXTS, "unknown"])
    assert found["vocab"] == ["apple", "bus", "pear", "red", "train", "tram"]
    assert len(found["doc_lengths"]) == len(TEXTS)
    assert found["doc_lengths"][0] == 3
    assert to_pyldavis(pipeline, TEXTS, list("abcdef"))["vocab"] == list("abcdef")

    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.toarray()).add_prefix("word")
    model = PoissonFactorization(2, random_state=0).fit(frame)
    found = to_pyldavis(model.set_output(transform="pandas"), frame)
    assert found["vocab"][:2] == ["word0", "word1"]
    assert type(found["doc_topic_dists"]) is np.ndarray


def test_pyldavis_checks(linear, X):
    model = PoissonFactorization(2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="every row is empty"):
        to_pyldavis(model, np.zeros((2, 30)))
    with pytest.raises(ValueError, match="Negative values"):
        to_pyldavis(model, -X)
    with pytest.raises(ValueError, match="without negative entries, but NeuralTopicDL"):
        to_pyldavis(linear, X)
    with pytest.raises(ValueError, match=r"feature_names must have shape \(30,\)"):
        to_pyldavis(model, X, ["a"])
    with pytest.raises(NotFittedError):
        to_pyldavis(PoissonFactorization(2), X)


# jacobian_embeddings


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_linear_decoder_has_its_closed_form(X, likelihood):
    model = fitted(X, likelihood=likelihood, max_iter=2)
    weight, bias = decoder(model)

    def expected(z):
        if likelihood not in GIVEN_TOTAL:
            return weight
        return weight - softmax(z @ weight.T + bias, axis=1).mean(axis=0) @ weight

    at_zero = jacobian_embeddings(model, "zero")
    assert at_zero.shape == (30, 3)
    assert at_zero.dtype == np.float64
    assert_allclose(at_zero, expected(np.zeros((1, 3))), rtol=1e-10, atol=1e-12)
    at_rows = jacobian_embeddings(model, X)
    assert_allclose(at_rows, expected(model.transform(X)), rtol=1e-10, atol=1e-12)
    z = np.random.default_rng(1).standard_normal((40000, 3))
    at_prior = jacobian_embeddings(model, n_samples=4000, random_state=0)
    error = 5 * np.abs(weight).max() / np.sqrt(4000)
    assert_allclose(at_prior, expected(z), atol=error)


@pytest.mark.parametrize("has_skips", [False, True])
@pytest.mark.parametrize("likelihood", ["multinomial", "negative_binomial"])
def test_deep_decoder_by_numeric_differences(X, likelihood, has_skips):
    model = fitted(X, likelihood=likelihood, skip_connections=has_skips, **DEEP)
    at_zero = slopes(model, np.zeros((1, 3)))[0]
    assert_allclose(jacobian_embeddings(model, "zero"), at_zero, atol=1e-7)
    at_rows = slopes(model, model.transform(X)).mean(axis=0)
    # A decoder that did not use the factors would pass anything.
    assert np.abs(at_rows).max() > 1e-2
    assert_allclose(jacobian_embeddings(model, X), at_rows, atol=1e-7)
    assert np.abs(at_rows - at_zero).max() > 1e-3


@pytest.mark.parametrize("decoder_layers", [(), (6,)], ids=["linear", "deep"])
@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_the_mean_is_over_the_prior(X, prior, decoder_layers):
    model = fitted(
        X,
        1,
        prior=prior,
        n_pseudo_inputs=2,
        decoder_layers=decoder_layers,
        max_refine_steps=2,
    )
    z = np.linspace(-12, 12, 4001)
    density = norm.pdf(z)
    if prior == "mixture":
        # Far from a standard normal, and from each other.
        means, variances = np.array([[-3.0], [2.0]]), np.array([[0.5], [0.2]])
        model._parameters["prior.mean"] = means
        model._parameters["prior.log_var"] = np.log(variances)
        model._parameters["prior.logits"] = np.log([1.0, 3.0])
        parts = norm.pdf(z, means, np.sqrt(variances))
        density = np.array([0.25, 0.75]) @ parts
    gradient = np.gradient(log_means(model, z[:, None]), z, axis=0)
    expected = (density @ gradient) * (z[1] - z[0])
    spread = np.sqrt((density @ gradient**2) * (z[1] - z[0]) - expected**2)
    found = jacobian_embeddings(model, n_samples=4000, random_state=0)[:, 0]
    assert (np.abs(found - expected) <= 5 * spread / np.sqrt(4000) + 1e-3).all()


def test_shares_sum_to_one_along_every_step(deep, X):
    shares = deep.inverse_transform(deep.transform(X[:1]))
    assert_allclose(shares @ jacobian_embeddings(deep, X[:1]), 0, atol=1e-12)


def test_a_vamp_prior_can_be_drawn_from(X):
    model = fitted(X, prior="vamp", n_pseudo_inputs=2, max_iter=2)
    embeddings = jacobian_embeddings(model, random_state=0)
    assert embeddings.shape == (30, 3)
    assert np.isfinite(embeddings).all()


@pytest.mark.parametrize("kind", ["linear", "deep"])
def test_parts_add_up(kind, X, request, monkeypatch):
    model = request.getfixturevalue(kind)
    whole = jacobian_embeddings(model, X)
    width = whole.size
    for rows in (1, 7, 60):
        monkeypatch.setattr("skdeepfactor._math.networks.BLOCK", width * rows)
        assert_allclose(jacobian_embeddings(model, X), whole, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["linear", "deep"])
def test_dense_and_sparse_rows_agree(kind, X, request):
    model = request.getfixturevalue(kind)
    dense = jacobian_embeddings(model, X.toarray())
    assert_allclose(jacobian_embeddings(model, X), dense, rtol=1e-6, atol=1e-8)
    as_array = scipy.sparse.csc_array(X)
    assert_allclose(jacobian_embeddings(model, as_array), dense, rtol=1e-6, atol=1e-8)


def test_the_type_is_that_of_the_model(counts, X):
    model = fitted(counts, max_iter=2)
    assert model.components_.dtype == np.float32
    for at in ("zero", "prior_mean", counts, X):
        assert jacobian_embeddings(model, at).dtype == np.float32
    wide = fitted(X, max_iter=2)
    assert jacobian_embeddings(wide, counts).dtype == np.float64


def test_same_seed_same_bits(deep):
    first = jacobian_embeddings(deep, random_state=3)
    assert_array_equal(jacobian_embeddings(deep, random_state=3), first)
    state = np.random.RandomState(3)
    assert_array_equal(jacobian_embeddings(deep, random_state=state), first)
    assert (jacobian_embeddings(deep, random_state=state) != first).any()
    assert (jacobian_embeddings(deep, random_state=4) != first).any()
    assert (jacobian_embeddings(deep) != jacobian_embeddings(deep)).any()


def test_nothing_else_is_changed(deep, X):
    before = pickle.dumps(deep)
    rows = X.copy()
    # The global state is what is tested.
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    for at in ("prior_mean", "zero", X):
        jacobian_embeddings(deep, at, n_samples=5)
        jacobian_embeddings(deep, at, n_samples=5, random_state=0)
    assert_array_equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert pickle.dumps(deep) == before
    assert (rows != X).nnz == 0
    assert torch.is_grad_enabled()


def test_pipelines_take_what_their_first_step_takes():
    texts = ["red apple pear", "apple pear pear", "bus tram train", "tram train"] * 5
    pipeline = make_pipeline(
        CountVectorizer(dtype=float),
        NeuralTopicDLGM(2, encoder_layers=(8,), max_iter=10, random_state=0),
    ).fit(texts)
    vectorizer, model = pipeline[0], pipeline[1]
    assert_array_equal(
        jacobian_embeddings(pipeline, texts[:2]),
        jacobian_embeddings(model, vectorizer.transform(texts[:2])),
    )
    embeddings = jacobian_embeddings(make_pipeline(pipeline), random_state=0)
    assert_array_equal(embeddings, jacobian_embeddings(model, random_state=0))
    names = vectorizer.get_feature_names_out()
    [(name, cosine)] = nearest_features(embeddings, "tram", 1, feature_names=names)
    assert name in ("train", "bus")
    assert cosine > 0.9


def test_data_frames_in_and_out(X):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.toarray()).add_prefix("word")
    model = fitted(frame, max_iter=2)
    expected = jacobian_embeddings(model, frame)
    model.set_output(transform="pandas")
    found = jacobian_embeddings(model, frame)
    assert type(found) is np.ndarray
    assert_array_equal(found, expected)
    [(name, _)] = nearest_features(
        found, "word3", 1, feature_names=model.feature_names_in_
    )
    assert name.startswith("word")


def test_on_a_device(X, device):
    if device == "mps":
        pytest.skip("mps has no float64")
    for parameters in ({}, DEEP):
        model = fitted(X, device=device, **parameters)
        on_cpu = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
        for at in ("zero", "prior_mean"):
            found = jacobian_embeddings(model, at, random_state=0)
            expected = jacobian_embeddings(on_cpu, at, random_state=0)
            assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        jacobian_embeddings(model.set_params(device="auto"), X)


MEASURED = """
import pickle, resource, sys, warnings
import torch
from skdeepfactor.inspection import jacobian_embeddings
torch.set_num_threads(1)
warnings.simplefilter("ignore")
models = pickle.load(sys.stdin.buffer)
unit = 1 if sys.platform == "darwin" else 1024
def peak(n_samples):
    for model, times in models:
        jacobian_embeddings(model, n_samples=n_samples * times, random_state=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
few = peak(1)
print(peak(1600) - few)
"""


def test_memory_does_not_grow_with_the_draws():
    pytest.importorskip("resource")
    linear = fitted(np.ones((2, 5000)), 20, max_iter=1, refine_steps=0)
    # One (draws, features) array takes 610 MiB, or 61 for a tenth of the draws, and the
    # Jacobians of all draws twenty times that; a block, of which there are two, 64. Any deep decoder does: none is fitted.
    deep = pickle.loads(pickle.dumps(linear))
    deep._fitted_with.update(decoder_layers=(16,), skip_connections=False)
    rng = np.random.default_rng(0)
    weights = {
        "decoder.hidden.weights.0": rng.normal(size=(20, 16)),
        "decoder.hidden.biases.0": rng.normal(size=16),
        "decoder.weight": rng.normal(size=(5000, 16)),
    }
    deep._parameters = {**deep._parameters, **weights}
    shown = subprocess.run(
        [sys.executable, "-c", MEASURED],
        input=pickle.dumps([(linear, 10), (deep, 1)]),
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert shown.returncode == 0, shown.stderr
    assert float(shown.stdout) < 200


def test_words_used_alike_are_nearest():
    rng = np.random.default_rng(0)
    n_words = 15
    loadings = np.tile(rng.normal(size=(n_words, 3)), (2, 1))
    shares = softmax(rng.normal(size=(300, 3)) @ loadings.T, axis=1)
    X = rng.multinomial(300, shares)
    model = fitted(X, max_iter=8, batch_size=50)
    for at in ("prior_mean", "zero", X[:20]):
        embeddings = jacobian_embeddings(model, at, random_state=0)
        for word in range(2 * n_words):
            [(nearest, cosine)] = nearest_features(embeddings, word, 1)
            assert nearest == (word + n_words) % (2 * n_words)
            assert cosine > 0.9
    assert (latent_usage(jacobian_embeddings(model, "zero")) > 1).sum() == 3


@pytest.mark.parametrize("kind", ["linear", "deep"])
def test_equal_loadings_are_equal_embeddings(kind, X, request):
    model = pickle.loads(pickle.dumps(request.getfixturevalue(kind)))
    weight = model._parameters["decoder.weight"].copy()
    weight[4] = weight[17]
    model._parameters["decoder.weight"] = weight
    for at in ("prior_mean", X):
        embeddings = jacobian_embeddings(model, at, random_state=0)
        assert_allclose(embeddings[4], embeddings[17], rtol=1e-12)
        assert nearest_features(embeddings, 4, 1) == [(17, pytest.approx(1))]


def test_what_comes_is_what_was_expected(linear, X, counts):
    for at in ("prior", "posterior", "Zero", "", None, 0, X[0].toarray().ravel()):
        with pytest.raises(ValueError, match="at must be 'prior_mean', 'zero' or data"):
            jacobian_embeddings(linear, at)
    for n_samples in (0, -1, 1.5, "2", None):
        for at in ("prior_mean", "zero"):
            with pytest.raises(ValueError, match="n_samples must be an int of at le"):
                jacobian_embeddings(linear, at, n_samples=n_samples)
    with pytest.raises(ValueError, match="29 features"):
        jacobian_embeddings(linear, X[:, :29])
    with pytest.raises(ValueError, match="Negative"):
        jacobian_embeddings(linear, -X)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        jacobian_embeddings(linear, random_state="seed")


def test_other_estimators_are_told_what_is_needed(counts):
    X = counts.toarray()
    others = [
        NMF(2, init="random", max_iter=1000).fit(X),
        NMF(2),
        LatentDirichletAllocation(2, max_iter=2).fit(X),
        PoissonFactorization(2, max_iter=2).fit(X),
        NeuralTopicDLGM(2).get_params(),
        X,
        None,
    ]
    for other in others:
        expected = f"needs a fitted model whose decoder.*got {type(other).__name__}"
        with pytest.raises(TypeError, match=expected):
            jacobian_embeddings(other)
    with pytest.raises(NotFittedError):
        jacobian_embeddings(NeuralTopicDLGM(2))
    with pytest.raises(TypeError, match="is a class"):
        jacobian_embeddings(NeuralTopicDLGM)


# nearest_features


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_by_cosine(dtype):
    embeddings = np.random.default_rng(0).normal(size=(20, 4)).astype(dtype)
    cosines = angles(embeddings.astype(np.float64))
    for feature in range(20):
        found = nearest_features(embeddings, feature, 19)
        features, values = map(list, zip(*found, strict=True))
        assert sorted([*features, feature]) == list(range(20))
        assert_allclose(values, cosines[feature, features], rtol=1e-4, atol=1e-6)
        assert values == sorted(values, reverse=True)
        assert {type(index) for index in features} == {int}
        assert {type(value) for value in values} == {float}
        assert nearest_features(embeddings, feature, 3) == found[:3]
        assert nearest_features(embeddings, np.int32(feature)) == found[:10]


def test_features_by_name():
    embeddings = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]
    for names in (["a", "b", "c"], np.array(["a", "b", "c"]), ("a", "b", "c")):
        found = nearest_features(embeddings, "a", 2, feature_names=names)
        assert [name for name, _ in found] == ["b", "c"]
        assert {type(name) for name, _ in found} == {str}
        assert nearest_features(embeddings, 0, 2, feature_names=names) == found


def test_zeros_are_near_nothing():
    embeddings = [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]
    assert nearest_features(embeddings, 0, 3) == [(1, 0.0), (2, 0.0), (3, 0.0)]
    assert nearest_features(embeddings, 1, 3) == [(0, 0.0), (2, 0.0), (3, -1.0)]


def test_sizes_do_not_matter():
    embeddings = np.random.default_rng(0).normal(size=(12, 3))
    scales = 10.0 ** np.random.default_rng(1).integers(-300, 300, size=(12, 1))
    expected = nearest_features(embeddings, 5, 11)
    found = nearest_features(embeddings * scales, 5, 11)
    assert [index for index, _ in found] == [index for index, _ in expected]
    assert_allclose([c for _, c in found], [c for _, c in expected], rtol=1e-12)
    copies = np.full((4, 3), 0.1) * [[1], [3], [7], [-11]]
    assert [c for _, c in nearest_features(copies, 0, 3)] == pytest.approx([1, 1, -1])
    assert all(abs(c) <= 1 for _, c in nearest_features(copies, 0, 3))


def test_rotations_of_the_factors_change_nothing():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 6)) * rng.exponential(size=6)
    rotated = embeddings @ ortho_group.rvs(6, random_state=0)
    assert_allclose(latent_usage(rotated), latent_usage(embeddings), rtol=1e-12)
    for feature in range(40):
        expected = nearest_features(embeddings, feature, 39)
        found = nearest_features(rotated, feature, 39)
        assert [index for index, _ in found] == [index for index, _ in expected]
        assert_allclose([c for _, c in found], [c for _, c in expected], atol=1e-12)


def test_a_rotated_model_has_rotated_embeddings(linear):
    rotation = ortho_group.rvs(3, random_state=0)
    model = pickle.loads(pickle.dumps(linear))
    model._parameters["decoder.weight"] = decoder(linear)[0] @ rotation
    z = np.random.default_rng(0).normal(size=(5, 3))
    assert_allclose(log_means(model, z @ rotation), log_means(linear, z), rtol=1e-6)
    found = jacobian_embeddings(model, "zero")
    expected = jacobian_embeddings(linear, "zero")
    assert_allclose(found, expected @ rotation, atol=1e-6)
    assert_allclose(latent_usage(found), latent_usage(expected), rtol=1e-6)


def test_unknown_words_bring_close_ones():
    names = ["apple", "maple", "tram", "train"]
    embeddings = np.eye(4)
    with pytest.raises(ValueError, match="Did you mean 'maple' or 'apple'"):
        nearest_features(embeddings, "aple", 1, feature_names=names)
    with pytest.raises(ValueError, match=r"'xyz' is not in feature_names\.$"):
        nearest_features(embeddings, "xyz", 1, feature_names=names)
    with pytest.raises(ValueError, match="feature_names are needed to find 'apple'"):
        nearest_features(embeddings, "apple", 1)
    twice = ["apple", "tram", "apple", "train"]
    with pytest.raises(ValueError, match=r"'apple' 2 times.*\[0, 2\]"):
        nearest_features(embeddings, "apple", 1, feature_names=twice)
    with pytest.raises(ValueError, match=r"Did you mean 'apple'\?$"):
        nearest_features(embeddings, "appl", 1, feature_names=twice)
    nearest_features(embeddings, "tram", 1, feature_names=twice)
    for wrong in (names[:3], [*names, "bus"], [names], "word"):
        with pytest.raises(ValueError, match="feature_names must have shape"):
            nearest_features(embeddings, 0, 1, feature_names=wrong)


def test_what_cannot_be_asked_for():
    embeddings = np.eye(4)
    for feature in (-1, 4):
        with pytest.raises(ValueError, match="feature must be from 0 to 3"):
            nearest_features(embeddings, feature, 1)
    for feature in (1.0, None, [1]):
        with pytest.raises(TypeError, match="feature must be an int or a str"):
            nearest_features(embeddings, feature, 1)
    for n in (0, -1, 4, 1.5, None):
        with pytest.raises(ValueError, match="n must be an int from 1 to 3"):
            nearest_features(embeddings, 0, n)
    with pytest.raises(ValueError, match="NaN"):
        nearest_features([[1.0, np.nan], [0.0, 1.0]], 0, 1)
    with pytest.raises(ValueError, match="2D"):
        nearest_features([1.0, 2.0], 0, 1)


# latent_usage


def test_singular_values():
    embeddings = np.random.default_rng(0).normal(size=(30, 4))
    found = latent_usage(embeddings)
    squares = np.linalg.eigvalsh(embeddings.T @ embeddings)[::-1]
    assert_allclose(found**2, squares, rtol=1e-12)
    assert latent_usage(embeddings[:2]).shape == (2,)
    assert latent_usage(embeddings.astype(np.float32)).dtype == np.float32
    assert latent_usage([[3, 0], [4, 0]]) == pytest.approx([5, 0])


def test_dimensions_without_use_are_seen(linear):
    model = pickle.loads(pickle.dumps(linear))
    weight = model._parameters["decoder.weight"].copy()
    weight[:, 1] = 0
    model._parameters["decoder.weight"] = weight
    values = latent_usage(jacobian_embeddings(model, random_state=0))
    assert values[1] > 1e-2
    assert values[2] < 1e-12


def test_usage_needs_finite_embeddings():
    with pytest.raises(ValueError, match="infinity"):
        latent_usage([[np.inf, 0.0]])
    with pytest.raises(ValueError, match="2D"):
        latent_usage([1.0, 2.0])


# Rows with other factors.


@pytest.mark.parametrize("convert", [np.asarray, scipy.sparse.csr_matrix])
def test_traverse_changes_one_factor_alone(convert):
    rng = np.random.default_rng(0)
    X = rng.poisson(3, (40, 12)).astype(float)
    model = NMF(3, init="random", random_state=0, max_iter=1000).fit(X)
    rows = traverse(model, convert(X[:1]), 1, [0, 1, 3])
    assert rows.shape == (3, 12)
    assert_allclose(rows[1] - rows[0], model.components_[1])
    assert_allclose(rows[2] - rows[0], 3 * model.components_[1])
    assert_array_equal(traverse(model, X[0], 1, [0, 1, 3]), rows)


def test_traverse_takes_rows_as_the_first_step_does():
    texts = ["red apple", "apple pear pear", "bus tram", "tram train train"] * 3
    pipeline = make_pipeline(CountVectorizer(), PoissonFactorization(2, random_state=0))
    pipeline.fit(texts)
    counts = pipeline[0].transform(texts)
    expected = traverse(pipeline[-1], counts[0], 1, [0, 2])
    assert expected.shape == (2, 6)
    for text in (texts[0], texts[:1], np.array(texts[:1]), np.array(texts[:1], object)):
        assert_array_equal(traverse(pipeline, text, 1, [0, 2]), expected)
    flat = scipy.sparse.csr_array(counts[[0]].toarray()[0])
    assert flat.ndim == 1
    assert_array_equal(traverse(pipeline[-1], flat, 1, [0, 2]), expected)


def test_traverse_keeps_the_names_of_a_data_frame():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.random.default_rng(0).poisson(3, (20, 3)), columns=[*"abc"])
    model = PoissonFactorization(2, max_iter=5, random_state=0).fit(X)
    # A warning of names that are missing would be an error.
    assert traverse(model, X[:1], 0, [1.0, 2.0]).shape == (2, 3)


def test_traverse_needs_a_way_back():
    X = np.random.default_rng(0).poisson(3, (20, 3))
    model = ScikitLearnLDA(2, random_state=0).fit(X)
    with pytest.raises(TypeError, match="DirichletAllocation has no inverse_transform"):
        traverse(model, X[0], 0, [1.0])


def test_traverse_reads_sparse_codes_and_pipelines():
    X = np.random.default_rng(0).uniform(size=(40, 6))
    codes = VariationalSparseCoding(3, max_iter=2, sparse_output=True, random_state=0)
    pipeline = make_pipeline(StandardScaler(), codes).fit(X)
    rows = traverse(pipeline, X[0], 2, [-1.0, 1.0])
    assert rows.shape == (2, 6)
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 6)), 0, [1.0]), "single row"),
        ((np.ones(6), 3, [1.0]), "component must be"),
        ((np.ones(6), 0, [[1.0]]), "1 dimension"),
        ((np.ones(6), 0, [np.nan]), "NaN"),
    ],
)
def test_traverse_says_what_is_wrong(arguments, message):
    X = np.random.default_rng(0).uniform(size=(40, 6))
    model = NMF(3, init="random", random_state=0, max_iter=1000).fit(X)
    with pytest.raises(ValueError, match=message):
        traverse(model, *arguments)


def test_jacobians_of_autoencoders():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4)) * [1.0, 2, 3, 4]
    linear = VariationalAutoencoder(2, decoder_layers=(), max_iter=3, random_state=0)
    embeddings = jacobian_embeddings(linear.fit(X), at="zero")
    slopes = linear.inverse_transform(np.eye(2)) - linear.inverse_transform([[0, 0]])
    assert_allclose(embeddings.T, slopes, rtol=1e-6)
    codes = VariationalSparseCoding(2, sparse_output=True, max_iter=3, random_state=0)
    assert jacobian_embeddings(codes.fit(X), at=X[:3]).shape == (4, 2)
