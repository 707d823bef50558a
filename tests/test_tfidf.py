"""Models of counts behind transformers whose output is no counts."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, normalize

from skdeepfactor import (
    LatentDirichletAllocation,
    MultinomialMixture,
    PoissonFactorization,
    SparseGammaDEF,
)
from skdeepfactor.data import RowBlocks
from skdeepfactor.datasets import make_topics

TOPICS = {
    "LDA": LatentDirichletAllocation(),
    "PF": PoissonFactorization(),
    "DEF": SparseGammaDEF(max_iter=30),
}
MIXTURES = {
    inference: MultinomialMixture(inference=inference)
    for inference in ("collapsed", "mean_field", "em")
}
ALL = {**TOPICS, "mixture": MIXTURES["collapsed"]}
POISSON = (PoissonFactorization, SparseGammaDEF)


def named(models):
    """Cases of a test, one for each model."""
    return pytest.mark.parametrize("model", models.values(), ids=models.keys())


def of_size(model, n_components):
    """The model with a number of components, unfitted."""
    name = "n_components"
    if isinstance(model, SparseGammaDEF):
        name, n_components = "layer_sizes", (n_components,)
    return clone(model).set_params(**{name: n_components})


def least_cosine(components, topics):
    """The least cosine of a true topic with the one that is matched to it."""
    cosines = normalize(topics) @ normalize(components).T
    return cosines[linear_sum_assignment(-cosines)].min()


def least_correlation(factors, proportions):
    """The least correlation of a true topic's proportions with its match's."""
    n_topics = proportions.shape[1]
    found = np.corrcoef(proportions.T, normalize(factors, "l1").T)
    found = found[:n_topics, n_topics:]
    return found[linear_sum_assignment(-found)].min()


def log_counts(X):
    return X.log1p()


def shares(X):
    return normalize(X, "l1")


def counts_per_million(X):
    return 1e6 * normalize(X, "l1")


def log_counts_per_million(X):
    return counts_per_million(X).log1p()


LINEAR = {
    "tfidf": TfidfTransformer(),
    "norm=None": TfidfTransformer(norm=None),
    "use_idf=False": TfidfTransformer(use_idf=False),
    "normalize": FunctionTransformer(normalize),
    "shares": FunctionTransformer(shares),
    "counts_per_million": FunctionTransformer(counts_per_million),
}
BENDING = {
    "sublinear_tf=True": TfidfTransformer(sublinear_tf=True),
    "log_counts": FunctionTransformer(log_counts),
    "log_counts_per_million": FunctionTransformer(log_counts_per_million),
}
WEIGHTS = {**LINEAR, **BENDING}


@named(TOPICS)
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_planted_topics_are_found_behind_tf_idf(model, seed):
    """One k-means merged two of them in these data, whatever came after."""
    data = make_topics(1000, 500, 10, random_state=seed)
    model = of_size(model, 10).set_params(random_state=1)
    pipeline = make_pipeline(TfidfTransformer(), model).fit(data.data)
    assert least_cosine(pipeline[-1].components_, data.components) >= 0.95


@named(TOPICS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_planted_topics_are_found_behind_other_weights(model, name):
    """In these data, too, one k-means merges two of them."""
    data = make_topics(600, 300, 8, random_state=1)
    X = WEIGHTS[name].fit_transform(data.data)
    model = of_size(model, 8).set_params(random_state=1)
    factors = model.fit_transform(X)
    assert least_correlation(factors, data.topic_proportions) >= 0.95
    # Logarithms bend the topics themselves.
    if name in LINEAR:
        assert least_cosine(model.components_, data.components) >= 0.95


@named(MIXTURES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_planted_clusters_are_found_behind_weights(model, name):
    """In rows that hold one word or six in all, nothing parts two components."""
    data = make_topics(400, 200, 6, doc_topic_prior=0.001, random_state=0)
    pipeline = make_pipeline(
        WEIGHTS[name], of_size(model, 6).set_params(random_state=0)
    )
    labels = pipeline.fit_predict(data.data)
    truth = data.topic_proportions.argmax(axis=1)
    assert adjusted_rand_score(truth, labels) >= 0.95


def searched(model, steps, X):
    """The number of components that a search by ``score`` chooses."""
    pipeline = make_pipeline(*steps, clone(model).set_params(random_state=0))
    name = f"{type(model).__name__.lower()}__n_components"
    search = GridSearchCV(pipeline, {name: [1, 4, 8]}, cv=2).fit(X)
    return search.best_params_[name]


@named({"LDA": TOPICS["LDA"], "PF": TOPICS["PF"]})
def test_a_search_behind_tf_idf_finds_the_number_of_topics(model):
    X = make_topics(300, 150, 4, random_state=0).data
    assert searched(model, [TfidfTransformer()], X) == searched(model, [], X) == 4


@named(MIXTURES)
@pytest.mark.parametrize("name", ["tfidf", "shares"])
def test_a_search_behind_weights_finds_no_fewer_clusters_than_there_are(model, name):
    X = make_topics(300, 150, 4, doc_topic_prior=0.001, random_state=0).data
    assert searched(model, [WEIGHTS[name]], X) >= 4


@pytest.fixture
def fractions(counts):
    """CSR float64 with an entry of 0 that is stored."""
    X = counts.astype(np.float64) * 0.3
    X.data[5] = 0
    return X


def mean_entry(X):
    return X.data[X.data != 0].mean()


def quick(model):
    return of_size(model, 3).set_params(max_iter=2, random_state=0)


@named(ALL)
def test_integers_have_no_scale(model, counts, fractions):
    for X in (counts, counts.astype(np.float64), counts.toarray(), RowBlocks([counts])):
        assert quick(model).fit(X).input_scale_ == 1.0
    # Nor what comes after them.
    scores = quick(model).fit(counts).score_samples(fractions)
    given = quick(model).set_params(input_scale=1.0).fit(counts)
    np.testing.assert_array_equal(scores, given.score_samples(fractions))
    warm = quick(model).set_params(warm_start=True).fit(counts).fit(fractions)
    assert warm.input_scale_ == 1.0
    assert quick(model).partial_fit(counts).partial_fit(fractions).input_scale_ == 1.0


@named(ALL)
def test_the_scale_is_one_over_the_mean_of_nonzero_entries(model, fractions):
    X, expected = fractions, 1 / mean_entry(fractions)
    sparse = quick(model).fit(X)
    assert sparse.input_scale_ == pytest.approx(expected)
    dense = quick(model).fit(X.toarray())
    assert dense.input_scale_ == pytest.approx(expected)
    np.testing.assert_allclose(dense.components_, sparse.components_, rtol=1e-6)


@named(ALL)
def test_the_first_chunk_of_a_stream_decides_on_the_scale(model, fractions):
    X, later = fractions[:30], 5 * fractions[30:]
    expected = pytest.approx(1 / mean_entry(X))
    assert quick(model).fit(RowBlocks([X, later])).input_scale_ == expected
    assert quick(model).partial_fit(X).partial_fit(later).input_scale_ == expected


@named(ALL)
def test_the_scale_is_kept_by_what_comes_later(model, fractions):
    """Later rows are multiplied as those of the fit, whatever their own mean."""
    X = fractions
    fitted = quick(model).set_params(warm_start=True).fit(X)
    scale = fitted.input_scale_
    given = quick(model).set_params(input_scale=1.0).fit(X * scale)
    for method in ("transform", "score_samples"):
        actual = getattr(fitted, method)(X[:20] * 7)
        expected = getattr(given, method)(X[:20] * 7 * scale)
        np.testing.assert_allclose(actual, expected, rtol=1e-10)
    assert fitted.fit(2 * X).input_scale_ == scale


@named(ALL)
def test_the_scale_can_be_given_or_switched_off(model, fractions):
    assert quick(model).set_params(input_scale=1.0).fit(fractions).input_scale_ == 1.0
    assert quick(model).set_params(input_scale=2.5).fit(fractions).input_scale_ == 2.5
    for scale in (0.0, -1.0, "none"):
        with pytest.raises(ValueError, match="input_scale"):
            quick(model).set_params(input_scale=scale).fit(fractions)


@named(ALL)
def test_the_scale_weighs_rows(model):
    X = np.array([[0.5, 0.0, 0.5], [2.5, 2.5, 0.0]])
    model = of_size(model, 1).set_params(max_iter=2, random_state=0)
    repeated = clone(model).fit(X[[0, 0, 0, 1]])
    assert model.fit(X, sample_weight=[3, 1]).input_scale_ == 1.0
    assert repeated.input_scale_ == 1.0
    X += 0.25 * (X > 0)
    expected = pytest.approx(1 / ((3 * 0.75 + 2.75) / 4))
    assert model.fit(X, sample_weight=[3, 1]).input_scale_ == expected
    streamed = clone(model).partial_fit(X, sample_weight=[3, 1])
    assert streamed.input_scale_ == expected
    # As if it were not there.
    model.fit(np.vstack([np.ceil(X), X]), sample_weight=[1, 1, 0, 0])
    assert model.input_scale_ == 1.0


@named({"PF": TOPICS["PF"], "DEF": TOPICS["DEF"]})
def test_missing_entries_are_left_out_of_the_scale(model):
    X = np.array([[0.5, np.nan, 1.5], [2.5, 1.5, 0.0], [0.5, 1.0, np.nan]])
    model = of_size(model, 2).set_params(missing_values="ignore", random_state=0)
    expected = 1 / np.nanmean(np.where(X, X, np.nan))
    assert model.fit(X).input_scale_ == pytest.approx(expected)
    whole = np.array([[1, np.nan, 3], [2, 1, 0], [1, 0, np.nan]])
    assert model.fit(whole).input_scale_ == 1.0


@named(ALL)
def test_the_scale_is_divided_out_again(model, fractions):
    X = fractions
    model = quick(model).set_params(max_iter=20).fit(X)
    expected = model.inverse_transform(model.transform(X)).sum()
    totals = X.sum() if isinstance(model, POISSON) else X.shape[0]
    assert expected == pytest.approx(totals, rel=0.05)


def test_real_numbers_have_no_scale(fractions):
    model = SparseGammaDEF((2,), likelihood="gaussian", max_iter=2, random_state=0)
    assert model.fit(fractions.toarray()).input_scale_ == 1.0


def test_sparse_input_is_not_changed_by_its_scale(fractions):
    before = fractions.copy()
    quick(TOPICS["LDA"]).fit(fractions).transform(fractions)
    np.testing.assert_array_equal(before.data, fractions.data)
