"""Models of counts behind transformers whose output is no counts."""

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linear_sum_assignment
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, normalize

from skdeepfactor import (
    LatentDirichletAllocation,
    PoissonFactorization,
    SparseGammaDEF,
)
from skdeepfactor.data import RowBlocks
from skdeepfactor.datasets import make_topics

MODELS = [
    LatentDirichletAllocation(10),
    PoissonFactorization(10),
    SparseGammaDEF((10,), max_iter=200),
]
KINDS = [LatentDirichletAllocation, PoissonFactorization]


def least_cosine(components, topics):
    """The least cosine of a true topic with the one that is matched to it."""
    cosines = normalize(topics) @ normalize(components).T
    return cosines[linear_sum_assignment(-cosines)].min()


def log_counts(X):
    return X.log1p()


def shares(X):
    return normalize(X, "l1")


def counts_per_million(X):
    return 1e6 * normalize(X, "l1")


def log_counts_per_million(X):
    return counts_per_million(X).log1p()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_planted_topics_are_found_behind_tf_idf(model, seed):
    """One k-means merged two of them in these data, whatever came after."""
    data = make_topics(1000, 500, 10, random_state=seed)
    pipeline = make_pipeline(TfidfTransformer(), model.set_params(random_state=1))
    pipeline.fit(data.data)
    assert least_cosine(pipeline[-1].components_, data.components) >= 0.95


@pytest.mark.parametrize(
    "transformer",
    [
        TfidfTransformer(use_idf=False),
        TfidfTransformer(sublinear_tf=True),
        TfidfTransformer(norm=None),
        FunctionTransformer(normalize, accept_sparse=True),
        FunctionTransformer(log_counts, accept_sparse=True),
        FunctionTransformer(shares, accept_sparse=True),
        FunctionTransformer(counts_per_million, accept_sparse=True),
        FunctionTransformer(log_counts_per_million, accept_sparse=True),
    ],
    ids=[
        "use_idf=False",
        "sublinear_tf=True",
        "norm=None",
        "normalize",
        "log_counts",
        "shares",
        "counts_per_million",
        "log_counts_per_million",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_planted_topics_are_found_behind_other_weights(kind, transformer):
    data = make_topics(1000, 500, 10, random_state=1)
    pipeline = make_pipeline(transformer, kind(10, random_state=0)).fit(data.data)
    # Logarithms and inverse frequencies bend the topics themselves.
    assert least_cosine(pipeline[-1].components_, data.components) >= 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_behind_tf_idf_finds_the_number_of_topics(kind):
    X = make_topics(600, 300, 5, random_state=0).data
    pipeline = make_pipeline(TfidfTransformer(), kind(random_state=0))
    name = f"{kind.__name__.lower()}__n_components"
    search = GridSearchCV(pipeline, {name: [1, 3, 5, 8, 12]}, cv=3).fit(X)
    assert search.best_params_[name] in (5, 8)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_counts_have_no_scale(model, counts):
    for X in (counts, counts.astype(np.float64), counts.toarray()):
        assert model.set_params(max_iter=2).fit(X).input_scale_ == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_is_that_of_entries(kind, counts):
    X = counts.astype(np.float64) * 0.3
    expected = 1 / X.data.mean()
    model = kind(3, random_state=0).fit(X)
    assert model.input_scale_ == pytest.approx(expected)
    dense = kind(3, random_state=0).fit(X.toarray())
    np.testing.assert_allclose(dense.components_, model.components_, rtol=1e-6)
    blocks = kind(3, random_state=0).fit(RowBlocks([X[:60]]))
    assert blocks.input_scale_ == pytest.approx(expected)
    stream = kind(3, random_state=0).partial_fit(X[:30]).partial_fit(5 * X[30:])
    assert stream.input_scale_ == pytest.approx(1 / X[:30].data.mean())


def test_the_scale_weighs_rows():
    X = np.array([[0.5, 0.0, 0.5], [2.5, 2.5, 0.0]])
    model = PoissonFactorization(1, random_state=0).fit(X, sample_weight=[3, 1])
    repeated = PoissonFactorization(1, random_state=0).fit(X[[0, 0, 0, 1]])
    assert model.input_scale_ == repeated.input_scale_ == 1.0
    model.fit(X + 0.25 * (X > 0), sample_weight=[3, 1])
    assert model.input_scale_ == pytest.approx(1 / ((3 * 0.75 + 2.75) / 4))


def test_missing_entries_are_left_out_of_the_scale():
    X = np.array([[0.5, np.nan, 1.5], [2.5, 1.5, 0.0], [0.5, 1.0, np.nan]])
    model = PoissonFactorization(2, missing_values="ignore", random_state=0).fit(X)
    assert model.input_scale_ == pytest.approx(1 / np.nanmean(np.where(X, X, np.nan)))


def test_the_scale_is_divided_out_again(counts):
    X = counts.astype(np.float64) * 0.1
    model = PoissonFactorization(3, random_state=0).fit(X)
    expected = model.inverse_transform(model.transform(X))
    assert expected.sum() == pytest.approx(X.sum(), rel=0.05)
    unscaled = PoissonFactorization(3, input_scale=1.0, random_state=0).fit(X)
    assert unscaled.input_scale_ == 1.0
    with pytest.raises(ValueError, match="input_scale"):
        PoissonFactorization(3, input_scale=0.0).fit(X)


def test_a_warm_fit_keeps_the_scale(counts):
    X = counts.astype(np.float64) * 0.1
    model = PoissonFactorization(3, warm_start=True, random_state=0).fit(X)
    scale = model.input_scale_
    assert model.fit(2 * X).input_scale_ == scale


def test_sparse_input_is_not_changed_by_its_scale(counts):
    X = scipy.sparse.csr_matrix(counts, dtype=np.float64) * 0.5
    before = X.copy()
    LatentDirichletAllocation(3, random_state=0).fit(X).transform(X)
    assert (before != X).nnz == 0
