"""Poisson factorization against exact evidence, Monte Carlo and planted factors."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import gammaln

from skdeepfactor import PoissonFactorization
from skdeepfactor._math.batch import Batch
from skdeepfactor.datasets import make_poisson_factors
from tests.test_latent_dirichlet_allocation import cosines

VARIANTS = {
    "plain": {},
    "hierarchical": {"hierarchical": True},
    "exposure": {"exposure": "total"},
    "dirichlet": {"weight_prior": "dirichlet"},
}


def fitted(counts, n_components=3, **parameters):
    defaults = {"factor_shape": 0.4, "weight_shape": 0.3, "inner_tol": 1e-10}
    model = PoissonFactorization(
        n_components, random_state=0, **{**defaults, **parameters}
    )
    return model.fit(counts.astype(np.float64))


def test_bound_is_the_exact_evidence_of_one_factor():
    """With one factor and known weights it is a negative binomial."""
    X = np.array([[3, 0, 2], [0, 0, 0], [10, 4, 1]], dtype=np.float64)
    model = PoissonFactorization(
        1, factor_shape=0.7, factor_rate=1.3, weight_prior="dirichlet", inner_tol=1e-14
    ).fit(X)
    beta = np.array([[0.5, 0.2, 0.3]])
    model._parameters["weight_counts"] = beta * 1e9
    total = X.sum(1)
    expected = scipy.stats.nbinom.logpmf(total, 0.7, 1.3 / 2.3)
    for n, x in enumerate(X):
        expected[n] += scipy.stats.multinomial.logpmf(x, x.sum(), beta[0])
    np.testing.assert_allclose(model.score_samples(X), expected, atol=1e-5)


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS.keys())
def test_bound_is_below_the_evidence(counts, parameters):
    """The evidence of each row given the weights, by factors from the prior."""
    rng = np.random.default_rng(0)
    X = counts[:12].astype(np.float64)
    model = fitted(counts, 2, **parameters)
    # Certain weights, so that E_q(W)[log p] is log p.
    model._parameters["weight_counts"] = model._parameters["weight_counts"] * 1e8
    model._parameters["weight_exposure"] = model._parameters["weight_exposure"] * 1e8
    module = model._load(torch.float64, torch.device("cpu"))
    w = module.components().numpy()
    a, b, k, n_draws = 0.4, model.factor_rate_, 2, 50_000
    total = np.asarray(X.sum(1)).ravel()
    exposure = total / float(module.mean_total) if "exposure" in parameters else 1
    exposure = np.broadcast_to(exposure, (12,))
    q = module.posterior(Batch(torch.from_numpy(X.toarray())))
    bounds = model.score_samples(X)
    for n, x in enumerate(X.toarray()):
        # Importance sampling from q, made wider.
        proposal = scipy.stats.gamma(
            q.concentration[n].numpy() / 2, scale=2 / q.rate[n].numpy()
        )
        z = np.maximum(proposal.rvs((n_draws, k), random_state=rng), 1e-300)
        log_p = scipy.stats.poisson.logpmf(x, exposure[n] * z @ w + 1e-300).sum(1)
        if "hierarchical" in parameters:  # The row's rate, integrated out.
            log_p += ((a - 1) * np.log(z) - gammaln(a)).sum(1) - np.log(b)
            log_p += gammaln(1 + k * a) - (1 + k * a) * np.log(1 / b + z.sum(1))
        else:
            log_p += scipy.stats.gamma(a, scale=1 / b).logpdf(z).sum(1)
        log_p -= proposal.logpdf(z).sum(1)
        p = np.exp(log_p - log_p.max())
        evidence = log_p.max() + np.log(p.mean())
        error = p.std() / p.mean() / np.sqrt(n_draws)
        assert bounds[n] <= evidence + 4 * error + 1e-6
        assert bounds[n] > evidence - 3


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS.keys())
def test_bound_is_its_monte_carlo_estimate(counts, parameters):
    """E_q[log p(x, z) - log q(z)] by torch's own densities."""
    model = fitted(counts, 1, **parameters)
    module = model._load(torch.float64, torch.device("cpu"))
    X = torch.from_numpy(counts[:8].toarray().astype(np.float64))
    q = module.posterior(Batch(X))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        n_draws = 20_000
        z = q.sample((n_draws,))
        shape, rate = module.weight_posterior()
        if model.weight_prior == "dirichlet":
            q_w = torch.distributions.Dirichlet(shape)
        else:
            q_w = torch.distributions.Gamma(shape, rate)
        w = q_w.sample((n_draws,))
    exposure = module._exposure(Batch(X))
    mean = exposure * z * w  # one factor: z is (draws, 8, 1), w is (draws, 1, 30)
    log_p = torch.distributions.Poisson(mean).log_prob(X).sum(2)
    a, b = module.factor_shape, module.factor_rate
    if model.hierarchical:
        # The rate's own posterior, integrated: E[log p(z | xi)] - KL(q(xi) || p(xi)).
        expected_rate, log_rate = module._factor_prior_rate(q.mean)
        log_prior = (
            a * log_rate[:, None] + (a - 1) * z.log() - expected_rate[:, None] * z
        )
        log_prior = log_prior - torch.lgamma(a)
        shape, rate = module._row_rate_shape(), module._row_rate(q.mean)[:, 0]
        kl = torch.distributions.kl_divergence(
            torch.distributions.Gamma(shape.expand(8), rate),
            torch.distributions.Gamma(
                torch.ones(8).double(), (1 / b).expand(8).double()
            ),
        )
    else:
        log_prior, kl = torch.distributions.Gamma(a, b).log_prob(z), 0.0
    draws = log_p + (log_prior - q.log_prob(z)).sum(2) - kl
    error = draws.std(0) / np.sqrt(n_draws)
    assert (abs(draws.mean(0) - module.elbo(Batch(X))) <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS.keys())
def test_word_bound_is_below_the_evidence_of_words_in_order(counts, parameters):
    rng = np.random.default_rng(1)
    model = fitted(counts, 2, **parameters)
    model._parameters["weight_counts"] = model._parameters["weight_counts"] * 1e8
    model._parameters["weight_exposure"] = model._parameters["weight_exposure"] * 1e8
    module = model._load(torch.float64, torch.device("cpu"))
    rate = model.factor_rate_
    if "hierarchical" in parameters:
        rate = rng.gamma(1.0, rate, (100_000, 1))
    p = rng.gamma(0.4, 1 / rate, (100_000, 2)) @ module.components().numpy() + 1e-300
    p /= p.sum(1, keepdims=True)
    for x in counts[:8].toarray().astype(np.float64):
        if x.sum() == 0:
            continue
        log_p = np.log(p) @ x
        evidence = log_p.max() + np.log(np.exp(log_p - log_p.max()).mean())
        weights = np.exp(log_p - log_p.max())
        error = weights.std() / weights.mean() / np.sqrt(len(p))
        bound = -np.log(model.perplexity(x[None])) * x.sum()
        assert bound <= evidence + 4 * error


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS.keys())
def test_planted_factors_are_recovered(parameters):
    planted = make_poisson_factors(1500, 200, 5, random_state=1)
    model = PoissonFactorization(5, max_iter=40, random_state=0, **parameters)
    model.fit(planted.data)
    assert cosines(model.components_, planted.components).min() > 0.95


@pytest.mark.parametrize(("a", "c", "seed"), [(0.3, 0.3, 0), (0.5, 0.2, 1)])
def test_planted_priors_are_recovered(a, c, seed):
    planted = make_poisson_factors(
        2000,
        300,
        2,
        factor_shape=a,
        factor_rate=0.1,
        weight_shape=c,
        weight_rate=0.2,
        random_state=seed,
    )
    model = PoissonFactorization(
        2,
        factor_shape="auto",
        weight_shape="auto",
        max_iter=100,
        tol=1e-8,
        max_inner_iter=10,
        random_state=0,
    ).fit(planted.data.astype(np.float64))
    assert model.factor_shape_ == pytest.approx(a, rel=0.1)
    assert model.weight_shape_ == pytest.approx(c, rel=0.1)


def test_the_scale_is_the_priors_to_choose(counts):
    """Learning b given d, or d given b, is one model up to the scale of z."""
    shared = {"factor_shape": "auto", "weight_shape": "auto", "max_iter": 60, "tol": 0}
    one = fitted(counts, factor_rate="auto", weight_rate=0.5, **shared)
    other = fitted(counts, factor_rate=2.0, weight_rate="auto", **shared)
    assert one.lower_bound_ == pytest.approx(other.lower_bound_, rel=1e-6)
    assert one.factor_shape_ == pytest.approx(other.factor_shape_, rel=1e-3)
    scaled = one.components_ * (other.components_.sum() / one.components_.sum())
    np.testing.assert_allclose(scaled, other.components_, rtol=1e-2, atol=1e-4)


def test_longer_documents_are_not_other_documents(counts):
    """With exposures a row and its double have the same factors, as far as N allows."""
    X = counts[counts.getnnz(1) > 0]
    model = fitted(X, exposure="total")
    once, twice = model.transform(X), model.transform(2 * X)
    share = once.sum(0) / twice.sum(0)
    np.testing.assert_allclose(share, 1, atol=0.1)
    plain = fitted(X)
    ratio = plain.transform(2 * X).sum() / plain.transform(X).sum()
    assert ratio == pytest.approx(2, rel=0.1)


def test_standard_deviations_are_the_posteriors(counts):
    model = fitted(counts)
    mean, std = model.transform(counts, return_std=True)
    np.testing.assert_array_equal(mean, model.transform(counts))
    module = model._load(torch.float32, torch.device("cpu"))
    X = torch.from_numpy(counts.toarray().astype(np.float32))
    q = module.posterior(Batch(X))
    np.testing.assert_allclose(std, q.stddev.numpy(), rtol=1e-4)


def test_recommendations_are_the_best_unseen(counts):
    model = fitted(counts)
    scores = model.transform(counts) @ model.components_
    seen = counts.toarray() > 0
    top = model.recommend(counts, 4)
    for n in range(60):
        best = np.where(seen[n], -np.inf, scores[n])
        np.testing.assert_allclose(best[top[n]], np.sort(best)[::-1][:4], rtol=1e-6)
    np.testing.assert_array_equal(
        model.recommend(counts, 1, exclude_seen=False)[:, 0], scores.argmax(1)
    )
    everything = model.recommend(np.ones((1, 30)), 2)
    assert everything.tolist() == [[-1, -1]]
    with pytest.raises(ValueError, match="from 1 to 30"):
        model.recommend(counts, 31)


def test_seed_features_pull_their_factors(counts):
    prior = np.full((3, 30), 0.05)
    prior[1, [4, 9]] = 500.0
    model = PoissonFactorization(3, weight_shape=prior, random_state=0).fit(counts)
    share = model.components_ / model.components_.sum(1, keepdims=True)
    assert set(share[1].argsort()[-2:]) == {4, 9}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hierarchical": True, "exposure": "total"}, "use one of them"),
        ({"hierarchical": True, "weight_prior": "dirichlet"}, "gamma"),
        ({"factor_rate": "auto"}, "only one of them"),
        ({"factor_rate": "auto", "hierarchical": True}, "must be a number"),
        ({"weight_shape": np.ones((2, 2))}, "weight_shape must have shape"),
        ({"factor_rate": 0.0}, "factor_rate"),
    ],
)
def test_parameters_that_contradict_each_other(counts, parameters, message):
    with pytest.raises(ValueError, match=message):
        PoissonFactorization(3, **parameters).fit(counts)


def test_stochastic_steps_reach_the_bound_of_full_ones():
    X = make_poisson_factors(2000, 100, 4, random_state=1).data
    full = PoissonFactorization(4, max_iter=30, random_state=0).fit(X)
    stochastic = PoissonFactorization(4, batch_size=100, random_state=0).fit(X)
    assert stochastic.score(X) == pytest.approx(full.score(X), rel=0.02)
