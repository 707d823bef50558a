"""Mixtures of multinomials: enumeration, Gibbs conditionals, planted rows."""

import inspect
import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.special
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import MultinomialNB
from sklearn.utils import get_tags

from skdeepfactor import MultinomialMixture
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._training.plan import Budget
from skdeepfactor.data import RowBlocks
from skdeepfactor.models.multinomial_mixture import module as multinomial_mixture
from skdeepfactor.models.multinomial_mixture.module import CategoricalMultinomial

INFERENCES = ["collapsed", "mean_field", "em"]
ALPHA, ETA = 0.3, 0.2
every_inference = pytest.mark.parametrize("inference", INFERENCES)


def log_beta(a):
    return scipy.special.gammaln(a).sum(-1) - scipy.special.gammaln(a.sum(-1))


def small_rows():
    rows = np.random.default_rng(0).poisson(1.2, (7, 5)).astype(np.float64)
    rows[3] = 0
    return rows


def log_joint(X, z, n_components=3):
    """log p(X, z), weights and components integrated out."""
    m = np.bincount(z, minlength=n_components)
    L = np.array([X[z == k].sum(0) for k in range(n_components)])
    joint = log_beta(m + ALPHA) - log_beta(np.full(n_components, ALPHA))
    return joint + (log_beta(L + ETA) - log_beta(np.full(X.shape[1], ETA))).sum()


def all_labels(n_rows, n_components=3):
    return map(np.array, itertools.product(range(n_components), repeat=n_rows))


def module_of(counts, rows, inference, **parameters):
    """A module with these sums, (n_components, n_features) and (n_components,)."""
    module = CategoricalMultinomial(
        ALPHA, ETA, shape=counts.shape, inference=inference, **parameters
    ).double()
    module.topic_counts.data.copy_(torch.as_tensor(counts))
    module.component_rows.data.copy_(torch.as_tensor(rows))
    module.refresh()
    return module


def batch_of(X, dtype=torch.float64, **known):
    return Batch(to_tensor(X, slice(None), dtype=dtype, device="cpu"), **known)


def with_sums(model, counts, rows):
    """The fitted model with other sums put in."""
    model._parameters = {
        **model._parameters,
        "topic_counts": np.asarray(counts, np.float64),
        "component_rows": np.asarray(rows, np.float64),
    }
    return model


def planted(n_rows, n_features, n_components, n_tokens, seed, concentration=0.1):
    """Rows of a mixture, and the component of each."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_features, concentration), n_components)
    labels = rng.integers(n_components, size=n_rows)
    return sp.csr_matrix(rng.multinomial(n_tokens, topics[labels])), labels


# Bounds and scores.


@pytest.mark.parametrize("inference", ["mean_field", "collapsed"])
def test_the_bound_is_that_of_enumeration(inference):
    """E_q[log p(X, z | W)] + H(q(z)), over all z, less the divergence of W."""
    X = small_rows()
    rng = np.random.default_rng(1)
    counts, m = rng.gamma(1, 1, (3, 5)), np.array([3.0, 2.5, 1.5])
    module = module_of(counts, m, inference)
    bounds, _ = module.backward(batch_of(X), 7)
    r = module.posterior(batch_of(X)).probs.numpy()
    module.zero_grad()
    shape, weight = counts + ETA, m + ALPHA
    digamma = scipy.special.digamma
    log_phi = digamma(shape) - digamma(shape.sum(1, keepdims=True))
    log_pi = digamma(weight) - digamma(weight.sum())
    expected = 0.0
    for z in all_labels(7):
        q = r[np.arange(7), z]
        if q.all():
            terms = log_pi[z].sum() + (X * log_phi[z]).sum() - np.log(q).sum()
            expected += q.prod() * terms
    kl = (log_beta(np.full((3, 5), ETA)) - log_beta(shape)).sum()
    kl += ((shape - ETA) * log_phi).sum()
    kl += log_beta(np.full(3, ALPHA)) - log_beta(weight) + (m * log_pi).sum()
    assert float(module.global_kl()) == pytest.approx(kl, rel=1e-12)
    assert bounds.sum().item() == pytest.approx(expected, rel=1e-12)
    q = module.posterior(batch_of(X))
    assert module.elbo(batch_of(X), q).sum().item() == pytest.approx(expected)
    evidence = scipy.special.logsumexp([log_joint(X, z) for z in all_labels(7)])
    assert expected - kl < evidence


@pytest.mark.parametrize("inference", ["mean_field", "collapsed"])
def test_the_bound_of_a_fit_is_below_the_evidence(inference):
    X = small_rows()
    model = MultinomialMixture(
        3,
        weight_concentration=ALPHA,
        topic_word_prior=ETA,
        inference=inference,
        random_state=0,
    ).fit(X)
    evidence = scipy.special.logsumexp([log_joint(X, z) for z in all_labels(7)])
    assert evidence - 20 < model.lower_bound_ < evidence


@pytest.mark.parametrize("inference", ["mean_field", "em"])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_bound_rises(inference, is_weighted, dtype, counts):
    weights = np.random.default_rng(1).uniform(0.1, 3, 60) if is_weighted else None
    model = MultinomialMixture(
        6, inference=inference, init="random", tol=0, max_iter=200, random_state=0
    )
    model.fit(counts.astype(dtype), sample_weight=weights)
    bounds = np.array(model.history_["lower_bound"])
    assert len(bounds) > 5
    tolerance = 1e-9 if dtype == np.float64 else 1e-6
    assert (np.diff(bounds) >= -tolerance * np.abs(bounds[1:])).all()


def test_em_is_a_penalised_likelihood(counts):
    X = counts.toarray().astype(np.float64)
    model = MultinomialMixture(3, inference="em", tol=0, max_iter=300, random_state=0)
    model.fit(X)
    logits = np.log(model.weights_) + X @ np.log(model.components_).T
    scores = scipy.special.logsumexp(logits, axis=1)
    assert_allclose(model.score_samples(X), scores, rtol=1e-10, atol=1e-12)
    assert_allclose(model.transform(X), np.exp(logits - scores[:, None]), atol=1e-12)
    penalty = 0.1 * (np.log(model.weights_).sum() + np.log(model.components_).sum())
    assert model.lower_bound_ == pytest.approx(scores.sum() + penalty, rel=1e-9)
    # A maximum: no other weights or components are better.
    rng = np.random.default_rng(0)
    for _ in range(5):
        pi = model.weights_ * rng.uniform(0.9, 1.1, 3)
        phi = model.components_ * rng.uniform(0.9, 1.1, (3, 30))
        pi, phi = pi / pi.sum(), phi / phi.sum(1, keepdims=True)
        other = scipy.special.logsumexp(np.log(pi) + X @ np.log(phi).T, axis=1).sum()
        other += 0.1 * (np.log(pi).sum() + np.log(phi).sum())
        assert other < model.lower_bound_


def test_em_is_naive_bayes_where_rows_are_certain():
    X, labels = planted(200, 40, 3, 60, seed=0)
    X = X.astype(np.float64)
    model = MultinomialMixture(3, inference="em", random_state=0).fit(X)
    found = model.predict(X)
    assert adjusted_rand_score(labels, found) == 1
    peer = MultinomialNB(alpha=0.1).fit(X, found)
    assert_allclose(model.components_, np.exp(peer.feature_log_prob_), rtol=1e-6)


# Collapsed inference.


def test_conditionals_are_those_of_gibbs_sampling(monkeypatch):
    """What a row has left out is itself, where its component is known."""
    monkeypatch.setattr(multinomial_mixture, "NEGLIGIBLE_SHARE", 0.0)
    X = small_rows()
    z = np.array([0, 2, 1, 1, 0, 2, 0])
    r = np.eye(3)[z]
    module = module_of(r.T @ X, r.sum(0), "collapsed").train()
    found = module.posterior(batch_of(X), torch.from_numpy(r)).probs
    for i, k in itertools.product(range(7), range(3)):
        others = z.copy()
        others[i] = k
        log_p = [log_joint(X, np.where(np.arange(7) == i, j, z)) for j in range(3)]
        expected = np.exp(log_joint(X, others) - scipy.special.logsumexp(log_p))
        assert found[i, k].item() == pytest.approx(expected, abs=1e-12)


def test_weighted_rows_leave_out_one_copy(monkeypatch):
    monkeypatch.setattr(multinomial_mixture, "NEGLIGIBLE_SHARE", 0.0)
    X, z = small_rows()[:3], np.array([0, 1, 0])
    weights = np.array([3.0, 1.0, 0.5])
    r = np.eye(2)[z]
    sums = (r * weights[:, None]).T @ X, weights @ r
    module = module_of(*sums, "collapsed").train()
    batch = batch_of(X, weight=torch.from_numpy(weights))
    found = module.posterior(batch, torch.from_numpy(r)).probs
    for i in range(3):
        left = r[i] * min(weights[i], 1)
        L, m = sums[0] - np.outer(left, X[i]), sums[1] - left
        logits = np.log(m + ALPHA) + log_beta(L + ETA + X[i]) - log_beta(L + ETA)
        assert_allclose(found[i], scipy.special.softmax(logits), atol=1e-12)


def test_scores_are_the_exact_predictive_density():
    X = small_rows()
    rng = np.random.default_rng(2)
    counts, m = rng.gamma(1, 4, (3, 5)), np.array([3.0, 2.5, 1.5])
    model = MultinomialMixture(3, weight_concentration=ALPHA, topic_word_prior=ETA)
    with_sums(model.fit(X), counts, m)
    L, weights = counts + ETA, (m + ALPHA) / (m + ALPHA).sum()
    for rows in (X, X / 3, 40 * X):
        terms = log_beta(L + rows[:, None]) - log_beta(L) + np.log(weights)
        expected = scipy.special.logsumexp(terms, axis=1)
        assert_allclose(model.score_samples(rows), expected, rtol=1e-12, atol=1e-12)
        assert_allclose(
            model.transform(rows), scipy.special.softmax(terms, axis=1), atol=1e-12
        )
    # All pairs of words, in order, have a probability of 1 together.
    pairs = [np.eye(5)[list(p)].sum(0) for p in itertools.product(range(5), repeat=2)]
    assert np.exp(model.score_samples(pairs)).sum() == pytest.approx(1)
    mean_field = clone(model).set_params(inference="mean_field")
    bounds = with_sums(mean_field.fit(X), counts, m).score_samples(X)
    assert (bounds <= model.score_samples(X) + 1e-12).all()


def test_fractions_are_expectations_of_powers():
    """E[phi ** x] under a Dirichlet distribution, by Monte Carlo."""
    x, shape = np.array([0.4, 1.7, 0.0]), np.array([[2.0, 5.0, 0.3], [1.0, 1.0, 4.0]])
    model = MultinomialMixture(2, weight_concentration=ALPHA, topic_word_prior=ETA)
    with_sums(model.fit(np.eye(3)), shape - ETA, [1.0, 1.0])
    draws = np.random.default_rng(0).dirichlet(shape[0], 400_000)
    more = np.random.default_rng(1).dirichlet(shape[1], 400_000)
    expected = np.mean([(p**x).prod(1).mean() for p in (draws, more)])
    found = np.exp(model.score_samples(x[None]))
    assert found.item() == pytest.approx(expected, rel=0.01)


def test_empty_components_are_equal_and_have_the_prior():
    X, _ = planted(400, 60, 4, 8, seed=1)
    model = MultinomialMixture(30, random_state=0).fit(X.astype(np.float64))
    holds = model._parameters["component_rows"] >= 0.5
    assert model.n_active_components_ == holds.sum() < 25
    assert_allclose(model.components_[~holds], 1 / 60)
    empty = 0.1 / (model._parameters["component_rows"][holds].sum() + 3)
    assert_allclose(model.weights_[~holds], empty)
    assert model.weights_.sum() == pytest.approx(1)
    Z = model.transform(X)
    assert (Z[:, ~holds] == Z[:, ~holds][:, :1]).all()
    assert_allclose(Z.sum(1), 1, rtol=1e-5)


def test_a_row_alone_keeps_no_component():
    """Without itself it finds its component as empty as all others that are."""
    X = sp.block_diag([np.tile([3.0, 3.0], (10, 1)), 4 * np.eye(10)]).tocsr()
    model = MultinomialMixture(60, random_state=0).fit(X)
    rows = np.sort(model._parameters["component_rows"])
    assert rows[-1] == pytest.approx(10, abs=0.1)
    assert_allclose(rows[:-1], rows[0])
    assert model.n_active_components_ == 1
    # The work is that of two components.
    module = model._load(torch.float64)
    assert len(module._sizes) == 2
    bound = module.data_bound(lambda: [(batch_of(X), None)])
    assert bound == pytest.approx(model.lower_bound_, rel=1e-3)


@pytest.mark.parametrize("scale", [1, 0.37])
def test_work_in_parts_changes_nothing(scale, monkeypatch):
    """Tables of pairs and own shares are made a part at a time where they are large."""
    X, _ = planted(120, 40, 4, 12, seed=2)
    X = X.astype(np.float64) * scale
    expected = MultinomialMixture(12, random_state=0).fit(X)
    monkeypatch.setattr(multinomial_mixture, "TABLE", 200)
    monkeypatch.setattr(multinomial_mixture, "ENTRIES", 50)
    found = MultinomialMixture(12, random_state=0).fit(X)
    assert_allclose(found.components_, expected.components_, rtol=1e-9)
    assert_allclose(found.score_samples(X), expected.score_samples(X), rtol=1e-12)
    assert found.history_["lower_bound"] == pytest.approx(
        expected.history_["lower_bound"]
    )


def test_tables_of_fractions_stay_small(monkeypatch):
    """Each entry is a pair of its own, of which no more are worked on than fit."""
    made = []
    rising = multinomial_mixture.log_rising_rows

    def watched(a, x):
        made.append(a.numel())
        return rising(a, x)

    monkeypatch.setattr(multinomial_mixture, "log_rising_rows", watched)
    monkeypatch.setattr(multinomial_mixture, "TABLE", 2000)
    X = np.random.default_rng(0).gamma(0.3, 1, (100, 30))
    MultinomialMixture(20, max_iter=3, random_state=0).fit(X)
    # One row may have more.
    assert max(made) <= max(2000, 30 * 20)


# Annealing.


@pytest.mark.parametrize(
    ("max_iter", "divisors"),
    [
        (1, [1]),
        (2, [2, 1]),
        (5, [2, 1.5, 1, 1, 1]),
        (50, [2 - t / 15 for t in range(15)] + 35 * [1]),
    ],
)
def test_the_temperature_falls_to_one(max_iter, divisors):
    X, _ = planted(60, 30, 3, 10, seed=0)
    model = MultinomialMixture(3, max_iter=max_iter, random_state=0)
    module = model._build({"n_features": 30})
    model.fit(X)
    module.begin(Budget(max_iter, max_iter))
    found = []
    for _ in range(max_iter):
        found.append(module._divisor())
        module.n_updates += 1
    assert_allclose(found, divisors)
    budget = Budget(max_iter, max_iter, None)
    module = model._build({"n_features": 30})
    n_warm = sum(divisor > 1 for divisor in divisors)
    plan = model._plan(module, budget)
    assert (plan.n_warmup, plan.remembers) == (n_warm, True)
    assert model.n_iter_ == max_iter or model.n_iter_ > n_warm
    # In stochastic steps it takes as large a share of them.
    module.begin(Budget(max_iter, 10 * max_iter, 32))
    assert module.n_annealed == pytest.approx(10 * n_warm)
    assert not model._plan(module, Budget(max_iter, 10 * max_iter, 6)).remembers


def test_what_is_fitted_is_not_melted_again():
    X, _ = planted(200, 30, 3, 10, seed=0)
    model = MultinomialMixture(6, warm_start=True, random_state=0).fit(X)
    labels, n_passes = model.predict(X), model.n_iter_
    model.fit(X)
    assert model.n_iter_ < n_passes
    assert adjusted_rand_score(labels, model.predict(X)) > 0.9


@pytest.mark.parametrize("inference", ["mean_field", "em"])
def test_only_collapsed_inference_is_annealed(inference):
    X, _ = planted(60, 30, 3, 10, seed=0)
    model = MultinomialMixture(3, inference=inference, random_state=0).fit(X)
    other = clone(model).set_params(temperature=5.0).fit(X)
    assert_array_equal(other.components_, model.components_)
    assert model.n_iter_ < 15


# What it finds.


@every_inference
@pytest.mark.parametrize("n_components", [5, 10])
def test_planted_mixtures_are_recovered(inference, n_components):
    X, labels = planted(1000, 200, n_components, 30, seed=n_components)
    model = MultinomialMixture(n_components, inference=inference, random_state=0)
    assert adjusted_rand_score(labels, model.fit_predict(X)) >= 0.95
    new, labels = planted(1000, 200, n_components, 30, seed=n_components)
    assert adjusted_rand_score(labels, model.predict(new)) >= 0.95


def test_more_components_than_short_rows_need_end_up_empty():
    X, labels = planted(2000, 400, 10, 8, seed=0, concentration=0.03)
    model = MultinomialMixture(100, random_state=0)
    assert adjusted_rand_score(labels, model.fit_predict(X)) > 0.7
    assert 8 <= model.n_active_components_ <= 40


def test_tfidf_is_fine():
    from sklearn.feature_extraction.text import TfidfTransformer

    X, labels = planted(600, 200, 5, 40, seed=0)
    X = TfidfTransformer(norm=None).fit_transform(X)
    found = MultinomialMixture(5, random_state=0).fit_predict(X)
    assert adjusted_rand_score(labels, found) > 0.95


def test_stochastic_steps_find_the_components_too():
    X, labels = planted(1000, 200, 5, 30, seed=5)
    model = MultinomialMixture(5, batch_size=100, max_iter=10, random_state=0)
    assert adjusted_rand_score(labels, model.fit_predict(X)) > 0.95


# Odd rows.


@every_inference
def test_float32_sees_what_float64_sees_in_long_rows(inference):
    """Logits are sums of 100,000 logarithms, of which only the differences matter."""
    rng = np.random.default_rng(0)
    phi = rng.dirichlet(np.full(50, 5.0))
    near = phi * (1 + 0.001 * rng.standard_normal((2, 50)))
    counts = 1e7 * near / near.sum(1, keepdims=True)
    X = rng.multinomial(100_000, phi, size=40)
    X[0] *= 0
    found = {}
    for dtype in (torch.float32, torch.float64):
        module = module_of(counts, [20.0, 20.0], inference).to(dtype)
        module.topic_counts.data.copy_(torch.as_tensor(counts))
        module.refresh()
        batch = batch_of(X.astype(np.float64), dtype)
        found[dtype] = module.posterior(batch).probs.numpy()
    expected = found[torch.float64]
    assert np.median(expected.max(1)) < 0.99
    assert_allclose(found[torch.float32], expected, atol=0.02)


@every_inference
def test_rows_without_words_have_the_weights(inference, counts):
    model = MultinomialMixture(4, inference=inference, random_state=0)
    model.fit(counts.astype(np.float64))
    Z = model.transform(np.zeros((2, 30)))
    # Expected logarithms make what is rare rarer.
    atol = 0.02 if inference == "mean_field" else 1e-12
    assert_allclose(Z, [model.weights_] * 2, atol=atol)
    score = model.score_samples(np.zeros((1, 30))).item()
    assert score <= 1e-12
    assert inference == "mean_field" or abs(score) < 1e-12


@every_inference
@pytest.mark.parametrize(
    "X",
    [
        np.eye(3),
        np.ones((1, 4)),
        np.tile([2.0, 0, 1], (8, 1)),
        np.arange(6.0)[:, None],
        np.zeros((5, 3)),
    ],
    ids=["distinct", "one row", "duplicates", "one feature", "empty"],
)
@pytest.mark.parametrize("n_components", [1, 20])
def test_few_rows_and_many_components(inference, X, n_components):
    model = MultinomialMixture(n_components, inference=inference, random_state=0)
    labels = model.fit_predict(X)
    assert labels.shape == (len(X),)
    assert_allclose(model.transform(X).sum(1), 1)
    assert_allclose(model.components_.sum(1), 1)
    assert np.isfinite(model.score_samples(X)).all()
    # Equal rows have the same component.
    _, groups = np.unique(X, axis=0, return_inverse=True)
    for group in np.unique(groups):
        assert len(set(labels[groups.ravel() == group])) == 1


def test_a_large_bound_on_components_does_not_lose_few_rows():
    X, labels = planted(60, 100, 3, 20, seed=0)
    found = MultinomialMixture(500, random_state=0).fit_predict(X)
    assert adjusted_rand_score(labels, found) > 0.8


@every_inference
def test_weights_are_repetitions(inference, counts):
    X = counts.astype(np.float64)
    weights = np.random.default_rng(1).integers(1, 4, 60)
    model = MultinomialMixture(5, inference=inference, max_iter=30, random_state=0)
    found = clone(model).fit(X, sample_weight=weights)
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(60), weights))
    expected = clone(model).fit(X[order])
    assert_allclose(found.components_, expected.components_, rtol=1e-9)
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, rel=1e-10)


# The public face.


def test_it_is_a_mixture_as_scikit_learn_has_them():
    tags = get_tags(MultinomialMixture())
    assert tags.estimator_type == get_tags(GaussianMixture()).estimator_type
    # And nothing iterates over rows.
    parameters = MultinomialMixture().get_params()
    assert not {"max_inner_iter", "inner_tol", "n_cold_iter"} & parameters.keys()
    signature = inspect.signature(GaussianMixture.fit_predict)
    assert list(signature.parameters)[:3] == ["self", "X", "y"]


@every_inference
def test_predictions_agree_with_each_other(inference, counts):
    model = MultinomialMixture(4, inference=inference, random_state=0)
    labels = model.fit_predict(counts)
    assert labels.dtype == np.int64
    assert_array_equal(labels, model.predict(counts))
    assert_array_equal(labels, model.transform(counts).argmax(1))
    assert_array_equal(
        labels, model.predict(RowBlocks(lambda: [counts[:9], counts[9:]]))
    )
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(counts), labels)
    weights = np.random.default_rng(0).integers(0, 3, 60)
    weighted = clone(model).fit(counts, sample_weight=weights)
    assert_array_equal(
        clone(model).fit_predict(counts, sample_weight=weights),
        weighted.predict(counts),
    )


def test_predictions_are_arrays_whatever_the_output(counts):
    pytest.importorskip("pandas")
    model = MultinomialMixture(4, random_state=0).set_output(transform="pandas")
    assert isinstance(model.fit_predict(counts.toarray()), np.ndarray)
    assert list(model.transform(counts.toarray()).columns) == [
        f"multinomialmixture{k}" for k in range(4)
    ]


def test_shares_of_words_are_those_of_the_components(counts):
    model = MultinomialMixture(4, random_state=0).fit(counts.astype(np.float64))
    assert_allclose(model.inverse_transform(np.eye(4)), model.components_)
    Z = model.transform(counts.astype(np.float64))
    assert_allclose(model.inverse_transform(Z).sum(1), 1)


def test_criteria_are_those_of_the_likelihood(counts):
    model = MultinomialMixture(4, inference="em", random_state=0).fit(counts)
    weights = np.random.default_rng(0).integers(0, 3, 60)
    n_parameters = 4 * 29 + 3
    scores = model.score_samples(counts)
    assert model.aic(counts) == pytest.approx(-2 * scores.sum() + 2 * n_parameters)
    expected = -2 * scores.sum() + np.log(60) * n_parameters
    assert model.bic(counts) == pytest.approx(expected)
    repeated = counts[np.repeat(np.arange(60), weights)]
    for criterion in (model.aic, model.bic):
        found = criterion(counts, sample_weight=weights)
        assert found == pytest.approx(criterion(repeated))
    for inference in ("collapsed", "mean_field"):
        with pytest.raises(AttributeError) as raised:
            MultinomialMixture(inference=inference).bic  # noqa: B018
        assert "inference='em'" in str(raised.value.__cause__)


def test_the_criterion_finds_the_planted_number():
    X, _ = planted(500, 40, 4, 50, seed=1)
    criteria = {
        k: MultinomialMixture(k, inference="em", n_init=3, random_state=0).fit(X).bic(X)
        for k in (2, 3, 4, 5, 6)
    }
    assert min(criteria, key=criteria.get) == 4


def test_drawn_rows_have_one_component_each():
    X, _ = planted(500, 40, 3, 60, seed=1, concentration=0.03)
    model = MultinomialMixture(3, random_state=0).fit(X)
    drawn = model.sample(300, random_state=0)
    assert_array_equal(np.unique(drawn.sum(1)), [60])
    Z = model.transform(drawn)
    assert (Z.max(1) > 0.99).mean() > 0.99
    assert_allclose(np.bincount(Z.argmax(1)) / 300, model.weights_, atol=0.1)
    assert_array_equal(model.sample(3, n_tokens=[0, 1, 9]).sum(1).ravel(), [[0, 1, 9]])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weight_concentration": 0}, "weight_concentration"),
        ({"topic_word_prior": -1.0}, "topic_word_prior"),
        ({"inference": "gibbs"}, "inference"),
        ({"temperature": 0.5}, "temperature"),
        ({"init": np.ones((2, 30))}, "init must have shape"),
    ],
)
def test_parameters_that_do_not_fit(counts, parameters, message):
    with pytest.raises(ValueError, match=message):
        MultinomialMixture(3, **parameters).fit(counts)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rising_factorials_of_rows(dtype):
    x = torch.tensor([0.3, 1, 1, 1.5, 2, 7, 8, 8.5, 9, 40], dtype=dtype)
    a = torch.linspace(0.1, 30, 30, dtype=dtype).view(10, 3)
    for some in (slice(None), slice(2, 3), slice(0, 0), slice(8, 10)):
        found = multinomial_mixture.log_rising_rows(a[some].clone(), x[some])
        expected = multinomial_mixture.log_rising(a[some], x[some, None])
        assert_allclose(found, expected, rtol=1e-9 if dtype == torch.float64 else 1e-4)
