"""Latent Dirichlet allocation: scikit-learn, exact evidence and planted topics."""

import itertools

import numpy as np
import pytest
import scipy.special
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import LatentDirichletAllocation as Peer
from torch.distributions import Dirichlet

from skdeepfactor import LatentDirichletAllocation, PoissonFactorization
from skdeepfactor._math import compiled, topic_draws
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.topic_draws import TopicDraws
from skdeepfactor.datasets import make_topics
from skdeepfactor.metrics import completion_perplexity
from tests.conftest import LDA_STEP_SIZE


def mean_field(n_components, **parameters):
    return LatentDirichletAllocation(
        n_components, inference="mean_field", random_state=0, **parameters
    )


def with_topics(model, X, concentration):
    """The model, fitted to X, with other topics put in."""
    model.fit(X)
    model._parameters["topic_counts"] = concentration - model.topic_word_prior_
    return model


def cosines(found, planted):
    """Cosine of each found component with the planted one that it is matched to."""
    scaled = [A / np.linalg.norm(A, axis=1, keepdims=True) for A in (found, planted)]
    similarity = scaled[0] @ scaled[1].T
    return similarity[linear_sum_assignment(-similarity)]


def test_bound_is_scikit_learns_for_its_own_parameters(counts):
    """The document part of its bound, at its topics, priors and row parameters."""
    X = counts.toarray().astype(np.float64)
    peer = Peer(3, doc_topic_prior=0.2, topic_word_prior=0.3, random_state=0).fit(X)
    gamma, _ = peer._e_step(X, cal_sstats=False, random_init=False)
    topics = peer.components_
    whole = peer._approx_bound(X, gamma, sub_sampling=False)
    ours = with_topics(
        mean_field(3, doc_topic_prior=0.2, topic_word_prior=0.3), X, topics
    )
    module = ours._load(torch.float64, torch.device("cpu"))
    q = Dirichlet(torch.from_numpy(gamma))
    rows = module.elbo(Batch(torch.from_numpy(X)), q)
    # The topics' part, in closed form by torch.
    prior = Dirichlet(torch.full_like(module.components(), 0.3))
    kl = torch.distributions.kl_divergence(Dirichlet(torch.from_numpy(topics)), prior)
    assert rows.sum().item() - kl.sum().item() == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("inference", ["mean_field", "collapsed"])
def test_bound_is_below_the_exact_evidence(inference):
    """For rows of few words and known topics the evidence is a sum over assignments."""
    X = np.array([[2, 1, 0], [0, 1, 1], [1, 0, 0], [1, 2, 1]], dtype=np.float64)
    model = LatentDirichletAllocation(
        2, doc_topic_prior=0.4, inference=inference, inner_tol=1e-12, random_state=0
    )
    # Concentrated topics: the posterior over them is, in effect, a point.
    beta = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    with_topics(model, X, beta * 1e9)
    bounds = model.score_samples(X)
    for x, bound in zip(X.astype(int), bounds, strict=True):
        words = np.repeat(np.arange(3), x)
        evidence = 0.0
        for topics in itertools.product(range(2), repeat=len(words)):
            n = np.bincount(topics, minlength=2)
            log_p = scipy.special.gammaln(0.8) - scipy.special.gammaln(0.8 + n.sum())
            log_p += (scipy.special.gammaln(0.4 + n) - scipy.special.gammaln(0.4)).sum()
            evidence += np.exp(log_p) * beta[list(topics), words].prod()
        assert bound <= np.log(evidence) + 1e-6
        assert bound > np.log(evidence) - 0.5 * len(words)
    assert bounds[2] == pytest.approx(np.log(0.5 * 0.6 + 0.5 * 0.1), abs=0.2)


def test_it_is_poisson_factorization_given_the_totals(counts):
    """With unit-sum topics, PF = LDA + log NB(N) + log multinomial coefficient."""
    X = counts.astype(np.float64)
    a, b = 0.3, 0.7
    shared = {"inner_tol": 1e-14, "random_state": 0, "max_iter": 3}
    poisson = PoissonFactorization(
        3,
        factor_shape=a,
        factor_rate=b,
        weight_prior="dirichlet",
        weight_shape=0.2,
        **shared,
    ).fit(X)
    topics = mean_field(3, doc_topic_prior=a, topic_word_prior=0.2, inner_tol=1e-14)
    with_topics(topics, X, poisson.weight_concentration_)
    total = np.asarray(X.sum(1)).ravel()
    gammaln = scipy.special.gammaln
    log_nb = gammaln(3 * a + total) - gammaln(3 * a) - gammaln(total + 1)
    log_nb += 3 * a * np.log(b / (1 + b)) - total * np.log(1 + b)
    log_coefficient = gammaln(total + 1) - gammaln(X.toarray() + 1).sum(1)
    np.testing.assert_allclose(
        poisson.score_samples(X),
        topics.score_samples(X) + log_nb + log_coefficient,
        atol=1e-8,
    )
    # And as words in order they are the same.
    assert poisson.perplexity(X) == pytest.approx(topics.perplexity(X), rel=1e-8)


@pytest.mark.parametrize(
    "inference", ["mean_field", "collapsed", "cross_fitted", "gibbs"]
)
@pytest.mark.parametrize("init", ["kmeans", "random"])
def test_planted_topics_are_recovered(inference, init):
    planted = make_topics(1500, 200, 5, n_tokens=150, random_state=3)
    model = LatentDirichletAllocation(
        5, inference=inference, init=init, max_iter=40, random_state=0
    )
    if inference == "gibbs":
        model.set_params(max_iter=10)
    model.fit(planted.data)
    assert cosines(model.components_, planted.components).min() > 0.95
    theta = model.transform(planted.data)
    found = cosines(theta.T, planted.topic_proportions.T)
    assert found.min() > 0.9


def test_a_cross_fitted_step_is_that_of_the_equations(counts):
    """One step, in NumPy: each half of a row by the proportions of the other half."""
    X = counts.toarray().astype(np.float64)
    alpha, eta, n_steps = 0.3, 0.2, 500
    start = np.random.default_rng(0).gamma(1.0, size=(3, X.shape[1]))
    model = LatentDirichletAllocation(
        3,
        doc_topic_prior=alpha,
        topic_word_prior=eta,
        inference="cross_fitted",
        init=start,
        max_iter=1,
        max_inner_iter=n_steps,
        inner_tol=0,
    ).fit(X)
    odd = X % 2
    first = (X - odd) / 2 + odd * (odd.cumsum(1) % 2)
    before = start * X.sum() / start.sum()
    topics = before + eta
    topics /= topics.sum(1, keepdims=True)

    def z_of(half):
        z = np.ones((len(X), 3))
        for _ in range(n_steps):
            z = alpha + z * ((half / (z @ topics)) @ topics.T)
        return z

    found = 0
    for half, other in ((first, X - first), (X - first, first)):
        z = z_of(other)
        found = found + topics * (z.T @ (half / (z @ topics)))
    # Steps on all rows over-relax, at the totals that topics have found.
    before *= found.sum(1, keepdims=True) / before.sum(1, keepdims=True)
    expected = eta + np.maximum(before + 1.4 * (found - before), 0)
    np.testing.assert_allclose(model.topic_word_concentration_, expected, rtol=1e-6)


def test_cross_fitted_topics_do_not_overfit():
    """Few words, topics that overlap: many passes make the collapsed ones too sharp."""
    planted = make_topics(
        400,
        300,
        30,
        n_tokens=40,
        doc_topic_prior=0.3,
        topic_word_prior=0.1,
        random_state=0,
    )
    train, test = planted.data[:300], planted.data[300:]

    def completion(inference, max_iter):
        model = LatentDirichletAllocation(
            30, inference=inference, max_iter=max_iter, tol=None, random_state=0
        )
        return completion_perplexity(model.fit(train), test, random_state=0)

    assert completion("collapsed", 30) > 1.05 * completion("collapsed", 4)
    assert completion("cross_fitted", 30) < 1.03 * completion("cross_fitted", 4)


@pytest.mark.parametrize("inference", ["collapsed", "cross_fitted"])
def test_steps_that_over_relax_go_the_same_way_faster(inference, monkeypatch):
    X = make_topics(150, 60, 4, random_state=1).data

    def topics(size, max_iter):
        monkeypatch.setattr(LDA_STEP_SIZE, size)
        model = LatentDirichletAllocation(
            4, inference=inference, max_iter=max_iter, tol=None, random_state=0
        )
        return model.fit(X).components_

    goal = topics(1.0, 100)
    np.testing.assert_allclose(topics(1.4, 100), goal, atol=1e-4)
    assert (topics(1.4, 2) >= 0).all()
    errors = [np.abs(topics(size, 6) - goal).sum() for size in (1.0, 1.4)]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("inference", ["collapsed", "cross_fitted"])
def test_a_warm_fit_of_fewer_rows_keeps_the_topics(inference):
    X = make_topics(400, 60, 4, random_state=1).data
    weights = np.full(400, 0.05)
    model = LatentDirichletAllocation(
        4, inference=inference, warm_start=True, random_state=0
    )
    before = model.fit(X).components_
    model.fit(X, sample_weight=weights)
    np.testing.assert_allclose(model.components_, before, atol=0.02)
    # The prior, .05 for each of 60 features, has its part in few counts.
    n_words = model.topic_word_concentration_.sum() - 4 * 60 * 0.05
    np.testing.assert_allclose(n_words, 0.05 * X.sum(), rtol=0.05)


def test_one_topic_has_all_words():
    X = make_topics(50, 20, 2, random_state=1).data
    model = LatentDirichletAllocation(1, init="random", random_state=0).fit(X)
    n_words = model.topic_word_concentration_ - model.topic_word_prior_
    np.testing.assert_allclose(n_words, np.asarray(X.sum(0)).reshape(1, -1), rtol=1e-5)


def test_learnt_priors_come_near_the_planted_ones():
    planted = make_topics(
        1500, 200, 4, doc_topic_prior=0.2, topic_word_prior=0.1, random_state=0
    )
    model = mean_field(
        4,
        doc_topic_prior="auto",
        topic_word_prior="auto",
        max_iter=60,
        max_inner_iter=20,
    ).fit(planted.data.astype(np.float64))
    assert model.doc_topic_prior_.mean() == pytest.approx(0.2, rel=0.25)
    assert model.topic_word_prior_ == pytest.approx(0.1, rel=0.25)


@pytest.mark.parametrize("inference", ["mean_field", "collapsed", "cross_fitted"])
def test_a_prior_learnt_from_short_rows_stays_small(inference):
    # Counts of short rows are shared too evenly before they are at their ends.
    X = make_topics(600, 200, 20, topic_word_prior=0.1, n_tokens=30, random_state=0)
    model = LatentDirichletAllocation(
        20, doc_topic_prior="auto", inference=inference, max_iter=20, random_state=0
    ).fit(X.data)
    assert 0.05 < model.doc_topic_prior_.mean() < 0.25


def test_stochastic_steps_reach_the_bound_of_full_ones():
    X = make_topics(2000, 100, 4, random_state=1).data
    full = mean_field(4, max_iter=30).fit(X)
    stochastic = mean_field(4, max_iter=10, batch_size=100).fit(X)
    assert stochastic.score(X) == pytest.approx(full.score(X), rel=0.01)


def test_seed_words_pull_their_topics(counts):
    prior = np.full((3, 30), 0.05)
    prior[0, [2, 5]] = 500.0
    model = mean_field(3, topic_word_prior=prior).fit(counts)
    assert set(model.components_[0].argsort()[-2:]) == {2, 5}
    np.testing.assert_array_equal(model.topic_word_prior_, prior.astype(np.float32))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"doc_topic_prior": [0.1, 0.2]}, r"shape \(3,\), got \(2,\)"),
        ({"doc_topic_prior": [0.1, 0.2, -1]}, "positive and finite"),
        ({"topic_word_prior": np.ones((3, 4))}, r"\(30,\) or \(3, 30\)"),
        ({"init": np.ones((2, 30))}, "init must have shape"),
        ({"doc_topic_prior": "learn"}, "doc_topic_prior"),
    ],
)
def test_priors_that_do_not_fit(counts, parameters, message):
    with pytest.raises(ValueError, match=message):
        LatentDirichletAllocation(3, **parameters).fit(counts)


def test_topic_assignments_are_the_words_without_the_prior(counts):
    model = LatentDirichletAllocation(3, random_state=0).fit(counts)
    shares = model.topic_assignments(counts)
    sums = np.where(np.arange(60) == 7, 0, 1)
    np.testing.assert_allclose(shares.sum(1), sums, atol=1e-5)
    total = np.asarray(counts.sum(1))
    prior = model.doc_topic_prior_
    expected = (shares * total + prior) / (total + prior.sum())
    np.testing.assert_allclose(model.transform(counts), expected, atol=1e-5)


def test_transform_and_inverse_transform_give_distributions(counts):
    model = LatentDirichletAllocation(3, random_state=0).fit(counts)
    theta = model.transform(counts)
    np.testing.assert_allclose(theta.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.components_.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.inverse_transform(theta).sum(1), 1, rtol=1e-5)


def test_sampled_documents_have_the_length_asked_for(counts):
    model = LatentDirichletAllocation(3, random_state=0).fit(counts)
    X = model.sample(5, n_tokens=[0, 1, 10, 100, 1000], random_state=0)
    assert X.sum(1).ravel().tolist() == [[0, 1, 10, 100, 1000]]
    with pytest.raises(ValueError, match="negative"):
        model.sample(1, n_tokens=-1)


# Gibbs sampling.


@pytest.fixture(params=["tokens", "proportions"])
def sampler(request, monkeypatch):
    """By which of both ways of drawing: given other tokens, or given proportions."""
    if request.param == "proportions":
        monkeypatch.setattr(compiled, "is_compiled", lambda device: False)
    elif not compiled.is_compiled(torch.device("cpu")):
        pytest.skip("numba is not installed")


def exact_counts(X, alpha, eta):
    """E[tokens of each word in each topic | X], summed over all assignments."""
    tokens = [(n, v) for n, v in zip(*X.nonzero(), strict=True) for _ in range(X[n, v])]
    rows, words = np.array(tokens).T
    gammaln = scipy.special.gammaln
    logs, counts = [], []
    for topics in itertools.product(range(len(eta)), repeat=len(tokens)):
        of_rows, of_words = np.zeros((len(X), len(eta))), np.zeros(eta.shape)
        np.add.at(of_rows, (rows, topics), 1)
        np.add.at(of_words, (topics, words), 1)
        log_p = gammaln(alpha + of_rows).sum() + gammaln(eta + of_words).sum()
        logs.append(log_p - gammaln((eta + of_words).sum(axis=1)).sum())
        counts.append(of_words)
    return np.tensordot(scipy.special.softmax(logs), counts, axes=1)


@pytest.mark.usefixtures("sampler")
def test_averages_over_sweeps_are_the_exact_posterior_means(monkeypatch):
    monkeypatch.setattr(topic_draws, "KEPT", 0.9)
    X = np.array([[2, 1, 0], [0, 1, 2], [1, 0, 1]])
    eta = np.array([[3.0, 1, 1], [0.5, 1, 2]])
    exact = exact_counts(X, 1.0, eta)
    model = LatentDirichletAllocation(
        2, doc_topic_prior=1.0, topic_word_prior=eta, inference="gibbs", random_state=0
    )
    model.set_params(max_iter=1000).fit(X.astype(np.float64))
    assert model.n_iter_ == 1000
    found = model.topic_word_concentration_ - eta
    np.testing.assert_allclose(found.sum(), X.sum())
    # The standard error is .06; variational updates are .26 to .46 off.
    np.testing.assert_allclose(found, exact, atol=0.2)


@torch.no_grad()
def test_a_sweep_gives_the_log_likelihood_of_what_it_has_drawn(counts):
    draws = TopicDraws((3, counts.shape[1])).double()
    x = torch.tensor(counts[:20].toarray(), dtype=torch.float64)
    topics = draws.topics(torch.tensor(0.5), torch.ones(3))
    # Proportions hardly vary around their means, .2, .3 and .5.
    shares = torch.tensor([[0.2, 0.3, 0.5]]).double().expand(20, 3)
    _, _, found, _ = draws.sweep(
        Batch(x), 1e12 * shares[0], torch.zeros(20, 3).double(), topics
    )
    expected = (x * (shares @ topics.p.T).log()).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("sampler")
def test_fractions_are_rounded_anew_in_each_sweep():
    X = np.full((1, 400), 0.5)
    model = LatentDirichletAllocation(1, inference="gibbs", input_scale=1.0)
    model.set_params(max_iter=60, random_state=0).fit(X)
    n_tokens = model.topic_word_concentration_.sum() - 400 * 0.05
    # Ten in a single sweep.
    assert abs(n_tokens - 200) < 3 * 10 / np.sqrt(15)


@pytest.mark.usefixtures("sampler")
def test_a_stream_goes_on_from_the_averages(counts):
    X = counts.astype(np.float64)
    model = LatentDirichletAllocation(3, inference="gibbs", max_iter=30, random_state=0)
    before = model.fit(X).components_
    assert np.abs(model.partial_fit(X[:20]).components_ / before - 1).max() > 1e-3
    assert cosines(model.components_, before).min() > 0.95


def test_other_updates_of_rows_see_the_averages(counts):
    model = LatentDirichletAllocation(3, inference="gibbs", max_iter=9, random_state=0)
    shares = model.fit(counts).transform(counts)
    model.set_params(inference="collapsed")
    np.testing.assert_array_equal(model.transform(counts), shares)
