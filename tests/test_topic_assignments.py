"""Which topics words are from, by all models of topics."""

import numpy as np
import pytest
import scipy.sparse
from scipy.special import digamma, softmax

from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LabeledLDA,
    LatentDirichletAllocation,
    MultinomialMixture,
    PoissonFactorization,
    SparseGammaDEF,
    SupervisedLDAClassifier,
    SupervisedLDARegressor,
)
from skdeepfactor.inspection import reading
from tests.conftest import ESTIMATORS

NAMES = [
    "CorrelatedTopicModel",
    "DynamicTopicModel",
    "LabeledLDA",
    "LatentDirichletAllocation",
    "LatentDirichletAllocation-mean_field",
    "MultinomialMixture",
    "MultinomialMixture-em",
    "PoissonFactorization-hierarchical",
    "PoissonFactorization-missing",
    "SparseGammaDEF",
    "SparseGammaDEF-gradient",
    "SupervisedLDAClassifier",
    "SupervisedLDARegressor",
]


@pytest.fixture(scope="module", params=NAMES)
def model(request, counts):
    return ESTIMATORS[request.param].fit(counts)


def average_of_words(X, by_word, n_components):
    """The mean over the words of each row, 0 where there is none."""
    X = scipy.sparse.csr_matrix(X)
    sums = np.zeros((X.shape[0], n_components))
    np.add.at(sums, X.nonzero()[0], by_word * X.data[:, np.newaxis])
    totals = np.asarray(X.sum(axis=1))
    return sums / np.where(totals > 0, totals, 1)


def test_all_models_of_topics_have_them():
    kinds = {
        type(model)
        for model in ESTIMATORS.values()
        if hasattr(model, "topic_assignments")
    }
    assert {type(ESTIMATORS[name]) for name in NAMES} == kinds
    assert kinds == {
        CorrelatedTopicModel,
        DynamicTopicModel,
        LabeledLDA,
        LatentDirichletAllocation,
        MultinomialMixture,
        PoissonFactorization,
        SparseGammaDEF,
        SupervisedLDAClassifier,
        SupervisedLDARegressor,
    }
    # Real numbers are not from anything.
    assert not hasattr(ESTIMATORS["SparseGammaDEF-gaussian"], "topic_assignments")


def test_rows_have_the_average_of_their_words(model, counts):
    by_row = model.topic_assignments(counts)
    by_word = model.topic_assignments(counts, by="word")
    n_components = by_row.shape[1]
    assert by_word.shape == (counts.nnz, n_components)
    assert (by_word >= 0).all()
    np.testing.assert_allclose(by_word.sum(axis=1), 1, rtol=1e-5)
    average = average_of_words(counts, by_word, n_components)
    # Rows are iterated on until they change by a thousandth.
    np.testing.assert_allclose(by_row, average, atol=5e-3)
    np.testing.assert_array_equal(by_row[7], 0)


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.toarray().astype(np.float64),
        lambda X: X.tocsc().astype(np.float64),
        lambda X: scipy.sparse.csr_array(X)[:, ::-1][:, ::-1].astype(np.float64),
    ],
)
def test_words_come_row_by_row_from_any_kind_of_matrix(model, counts, convert):
    expected = model.topic_assignments(counts.astype(np.float64), by="word")
    result = model.topic_assignments(convert(counts), by="word")
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-9)


def test_words_of_a_row_do_not_depend_on_others(model, counts):
    X = counts.astype(np.float64)
    expected = model.topic_assignments(X, by="word")
    alone = np.vstack([model.topic_assignments(X[[row]], by="word") for row in (0, 5)])
    ends = X.indptr[[0, 1, 5, 6]]
    both = np.vstack([expected[ends[0] : ends[1]], expected[ends[2] : ends[3]]])
    np.testing.assert_allclose(alone, both, atol=1e-7)


def test_nothing_else_is_taken(model, counts):
    with pytest.raises(ValueError, match="by must be 'row' or 'word', got 'topic'"):
        model.topic_assignments(counts, by="topic")


def test_shares_are_those_of_the_posterior(counts):
    X = counts.astype(np.float64)
    lda = LatentDirichletAllocation(3, inner_tol=1e-8, random_state=0).fit(X)
    rows, columns = X.nonzero()
    expected = lda.transform(X)[rows] * lda.components_.T[columns]
    expected /= expected.sum(axis=1, keepdims=True)
    # Collapsed inference shares counts by expected proportions and topics.
    result = lda.topic_assignments(X, by="word")
    np.testing.assert_allclose(result, expected, atol=1e-6)
    poisson = PoissonFactorization(3, inner_tol=1e-8, random_state=0).fit(X)
    mean, std = poisson.transform(X, return_std=True)
    log_z = digamma((mean / std) ** 2) - np.log(mean / std**2)
    log_w = digamma(poisson.weight_concentration_) + np.log(poisson.weight_scale_)
    expected = softmax(log_z[rows] + log_w.T[columns], axis=1)
    result = poisson.topic_assignments(X, by="word")
    np.testing.assert_allclose(result, expected, atol=1e-6)
    mixture = MultinomialMixture(3, random_state=0).fit(X)
    np.testing.assert_allclose(
        mixture.topic_assignments(X, by="word"), mixture.transform(X)[rows]
    )


def test_planted_words_are_told_apart():
    topics = np.kron(np.eye(3), np.full(8, 1 / 8))
    rng = np.random.default_rng(0)
    X = rng.multinomial(30, rng.dirichlet(np.full(3, 0.2), size=100) @ topics)
    owner = np.arange(24) // 8
    _, columns = X.nonzero()
    for model in [
        LatentDirichletAllocation(3, random_state=0),
        LatentDirichletAllocation(3, inference="mean_field", random_state=0),
        PoissonFactorization(3, random_state=0),
        SparseGammaDEF((3, 2), random_state=0),
    ]:
        found = model.fit(X).topic_assignments(X, by="word").argmax(axis=1)
        planted = model.components_[:, ::8].argmax(axis=0)
        assert (found == planted[owner[columns]]).mean() > 0.9, model


def test_other_packages_get_shares_of_what_is_expected(counts):
    from sklearn.decomposition import NMF

    X = counts.astype(np.float64)
    nmf = NMF(3, random_state=0, init="nndsvda", max_iter=500).fit(X)
    shares = reading.word_shares(nmf, X)
    rows, columns = X.nonzero()
    expected = nmf.transform(X)[rows] * nmf.components_.T[columns]
    totals = expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares * totals, expected)


def test_units_of_layers_above_are_told_apart_by_their_profiles(counts):
    model = SparseGammaDEF((3, 2), transform_layer=2, max_iter=25, random_state=0)
    assert reading.word_shares(model.fit(counts), counts).shape == (counts.nnz, 2)
    model.set_params(transform_layer=1)
    assert reading.word_shares(model, counts).shape == (counts.nnz, 3)
