"""Deep latent Gaussian models against Monte Carlo, quadrature and planted factors."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from scipy.special import gammaln, log_softmax, logsumexp
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from torch.distributions import Independent, MultivariateNormal, Normal

from skdeepfactor import NeuralTopicDLGM
from skdeepfactor._math import gaussian
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.gaussian import Posterior
from skdeepfactor._math.likelihoods import LIKELIHOODS
from skdeepfactor._math.log_total import LogTotal
from skdeepfactor._math.priors import StandardNormal
from skdeepfactor._training.plan import Budget
from skdeepfactor.datasets import make_topics, make_zipf_counts
from skdeepfactor.metrics import completion_perplexity
from skdeepfactor.models.neural_topic_dlgm import bounds
from skdeepfactor.models.neural_topic_dlgm.bounds import ClosedBound, ExpandedBound
from skdeepfactor.models.neural_topic_dlgm.module import SPREADS

COUNTS_GIVEN_TOTALS = ["multinomial", "dirichlet_multinomial"]
OF_TOTALS_TOO = ["poisson", "negative_binomial"]
PRIORS = ["normal", "mixture", "vamp"]
NAMES = {kind: name for name, kind in LIKELIHOODS.items()}

# Parameters of the random modules below.
LOG_CONCENTRATION, LOG_ODDS = 3.0, 0.4


def small(n_components=3, **parameters):
    """An estimator that is quick to fit."""
    defaults = {"encoder_layers": (8,), "max_iter": 8, "random_state": 0}
    return NeuralTopicDLGM(n_components, **{**defaults, **parameters})


def random_module(n_components=3, n_features=12, *, seed=0, scale=0.7, **parameters):
    """A module with random parameters in float64, made to be evaluated."""
    rng = np.random.default_rng(seed)
    parameters.setdefault("n_pseudo_inputs", 3)
    module = small(n_components, **parameters)._build({"n_features": n_features})
    likelihood = NAMES[type(module.likelihood)]
    for name, parameter in sorted(module.named_parameters()):
        values = rng.normal(size=tuple(parameter.shape))
        if name == "decoder.bias":
            values = 0.5 * values
            if likelihood in OF_TOTALS_TOO:
                values += 0.7
        elif name == "prior.pseudo_inputs":
            values = np.abs(values)
        elif name.startswith("decoder"):
            values *= scale
        elif name.startswith("encoder"):
            values *= 0.3
        else:
            values *= 0.8
        parameter.data = torch.from_numpy(np.asarray(values)).double()
    if likelihood == "dirichlet_multinomial":
        module.likelihood.log_concentration.data.fill_(LOG_CONCENTRATION)
    if likelihood == "negative_binomial":
        module.likelihood.log_odds.data.fill_(LOG_ODDS)
    return module.double().eval()


def random_rows(n_rows=6, n_features=12, *, mean=2.0, seed=1):
    """Counts of rows, the last of which is empty."""
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.gamma(0.7, mean / 0.7, (n_rows, n_features)))
    X[-1] = 0
    return X.astype(np.float64)


def batch_of(X):
    x = scipy.sparse.csr_matrix(X)
    return Batch(to_tensor(x, slice(None), dtype=torch.float64, device="cpu"))


def arrays(*tensors):
    return [tensor.detach().cpu().numpy() for tensor in tensors]


def log_likelihood(module, x, z, *, given_total=False):
    """Log p(x | z) of one row by SciPy, one for each row of z; the decoder linear."""
    weight, bias = arrays(module.decoder.weight, module.decoder.bias)
    logits = z @ weight.T + bias
    likelihood = NAMES[type(module.likelihood)]
    if likelihood == "multinomial":
        return log_softmax(logits, axis=-1) @ x
    in_order = gammaln(x.sum() + 1) - gammaln(x + 1).sum()
    urn = scipy.stats.dirichlet_multinomial
    if likelihood == "dirichlet_multinomial":
        urns = np.exp(log_softmax(logits, axis=-1) + LOG_CONCENTRATION)
        return urn.logpmf(x, urns, int(x.sum())) - in_order
    if given_total:
        if likelihood == "poisson":
            return log_softmax(logits, axis=-1) @ x
        return urn.logpmf(x, np.exp(logits), int(x.sum())) - in_order
    if likelihood == "poisson":
        return scipy.stats.poisson.logpmf(x, np.exp(logits)).sum(-1)
    p = 1 / (1 + np.exp(LOG_ODDS))
    return scipy.stats.nbinom.logpmf(x, np.exp(logits), p).sum(-1)


def log_prior(module, z):
    """Log density of the prior at the rows of z, by torch."""
    z = torch.from_numpy(z)
    if isinstance(module.prior, StandardNormal):
        return Normal(0.0, 1.0).log_prob(z).sum(-1).numpy()
    means, log_vars, log_weights = arrays(*module._density())
    assert np.exp(log_weights).sum() == pytest.approx(1)
    parts = [
        w + scipy.stats.norm.logpdf(z, a, np.exp(b / 2)).sum(-1)
        for a, b, w in zip(means, log_vars, log_weights, strict=True)
    ]
    return logsumexp(parts, axis=0)


def random_posterior(n_rows, n_components, covariance_type, seed=2, spread=0.2):
    """Means of size 1, variances of about ``spread``."""
    rng = np.random.default_rng(seed)
    mean = torch.from_numpy(rng.normal(size=(n_rows, n_components)))
    scale = rng.uniform(0.5, 1.3, (n_rows, n_components)) * np.sqrt(spread)
    if covariance_type == "diag":
        return Independent(Normal(mean, torch.from_numpy(scale)), 1)
    factors = rng.normal(size=(n_rows, n_components, n_components))
    tril = np.tril(factors, -1) * 0.5 * np.sqrt(spread)
    tril += scale[:, :, None] * np.eye(n_components)
    return MultivariateNormal(mean, scale_tril=torch.from_numpy(tril))


def draws_of(q, n_draws, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return q.sample((n_draws,))


def monte_carlo(module, X, q, n_draws=5_000):
    """Estimates of E_q[log p(x, z) - log q(z)] of each row, and their errors."""
    z = draws_of(q, n_draws)
    log_q = q.log_prob(z).numpy()
    estimates = []
    for n, x in enumerate(X):
        rows = z[:, n].numpy()
        values = log_likelihood(module, x, rows) + log_prior(module, rows)
        values -= log_q[:, n]
        estimates.append((values.mean(), values.std() / np.sqrt(n_draws)))
    return np.array(estimates).T


# The bound.


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_closed_form_is_just_below_monte_carlo(likelihood, covariance_type):
    module = random_module(likelihood=likelihood, covariance_type=covariance_type)
    X = random_rows()
    for spread, gap in ((0.2, 0.5), (0.02, 0.02)):
        q = random_posterior(len(X), 3, covariance_type, spread=spread)
        (bounds,) = arrays(module.elbo(batch_of(X), q))
        assert bounds.dtype == np.float64
        mean, error = monte_carlo(module, X, q)
        assert (bounds <= mean + 4.5 * error).all()
        assert (bounds >= mean - 4.5 * error - gap - 0.01 * abs(mean)).all()


def quadrature(module, x, *, given_total=False):
    """Log p(x) of a row, for one factor."""
    z = np.linspace(-10, 10, 1001)[:, None]
    log_p = log_likelihood(module, x, z, given_total=given_total)
    return logsumexp(log_p + log_prior(module, z)) + np.log(z[1, 0] - z[0, 0])


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_bounds_are_below_the_exact_evidence(likelihood, prior):
    module = random_module(1, likelihood=likelihood, prior=prior)
    X = random_rows()
    evidence = np.array([quadrature(module, x) for x in X])
    n_particles = 600 if prior == "normal" else 200
    elbo, iwae = arrays(
        module.elbo(batch_of(X)),
        module.bound_by_particles(batch_of(X), 0.0, n_particles),
    )
    assert (elbo <= evidence + 1e-9).all()
    assert (elbo >= evidence - 0.5).all()
    # One normal posterior is far from what a mixture leaves of the prior.
    assert (abs(iwae - evidence) < (0.02 if prior == "normal" else 0.1)).all()


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_word_bounds_are_below_the_evidence_of_words_in_order(likelihood, prior):
    module = random_module(1, likelihood=likelihood, prior=prior)
    X = random_rows()
    evidence = [quadrature(module, x, given_total=True) for x in X]
    (bounds,) = arrays(module.word_bound(batch_of(X)))
    assert (bounds <= np.array(evidence) + 1e-9).all()
    assert (bounds >= np.array(evidence) - 0.5).all()
    if likelihood in COUNTS_GIVEN_TOTALS:
        np.testing.assert_array_equal(bounds, *arrays(module.elbo(batch_of(X))))


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_importance_weights_tighten_the_bound(covariance_type):
    module = random_module(4, scale=1.0, covariance_type=covariance_type)
    x = batch_of(random_rows(300))
    bounds = [
        module.elbo(x),
        *(module.bound_by_particles(x, 0.0, n) for n in (2, 10, 40)),
    ]
    bounds = torch.stack(bounds).detach().numpy()
    gains = np.diff(bounds, axis=0)
    # The draws of few particles are among those of many.
    error = gains.std(1) / np.sqrt(gains.shape[1])
    assert (gains.mean(1) > -3.5 * error).all()
    gain = (bounds[-1] - bounds[0]).mean()
    assert 0.05 < gain < 2


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_joint_is_that_of_scipy(likelihood, prior):
    module = random_module(likelihood=likelihood, prior=prior)
    X = random_rows()
    z = np.random.default_rng(3).normal(size=(5, len(X), 3))
    (log_p,) = arrays(module.log_joint(batch_of(X), torch.from_numpy(z)))
    assert log_p.shape == (5, len(X))
    for n, x in enumerate(X):
        expected = log_likelihood(module, x, z[:, n]) + log_prior(module, z[:, n])
        np.testing.assert_allclose(log_p[:, n], expected, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
@pytest.mark.parametrize("prior", PRIORS)
def test_divergence_from_the_prior(prior, covariance_type):
    """Exact for a normal prior; for mixtures an upper bound that is not far off."""
    module = random_module(prior=prior, covariance_type=covariance_type)
    q = random_posterior(8, 3, covariance_type)
    # Of a likelihood of 0, nothing but the divergence is left.
    (kl,) = arrays(-module.elbo(batch_of(np.zeros((8, 12))), q))
    if prior == "normal":
        normal = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
        if covariance_type == "diag":
            normal = Independent(Normal(torch.zeros(8, 3).double(), 1.0), 1)
        expected = torch.distributions.kl_divergence(q, normal)
        np.testing.assert_allclose(kl, expected, rtol=1e-12)
    z = draws_of(q, 20_000)
    draws = q.log_prob(z).numpy() - log_prior(module, z.numpy())
    error = draws.std(0) / np.sqrt(len(draws))
    assert (kl >= draws.mean(0) - 4.5 * error).all()
    assert (kl <= draws.mean(0) + 4.5 * error + 0.7).all()


def test_mixtures_of_far_components_have_the_divergence_of_the_nearest():
    module = random_module(prior="mixture")
    module.prior.mean.data *= 50
    q = Independent(
        Normal(module.prior.mean.detach(), (module.prior.log_var.detach() / 2).exp()), 1
    )
    (kl,) = arrays(-module.elbo(batch_of(np.zeros((3, 12))), q))
    np.testing.assert_allclose(kl, -module._density()[2].detach().numpy(), rtol=1e-9)


def test_deep_bounds_are_unbiased():
    """Over many rows of the same words in disguise: columns that say nothing."""
    module = random_module(decoder_layers=(5,), skip_connections=True)
    module.max_refine_steps = 0
    n_rows = 400
    # Words that the encoder does not see and that the decoder never makes.
    X = np.repeat(random_rows()[:1], n_rows, 0)
    q = random_posterior(1, 3, "diag")
    q = Independent(Normal(q.mean.expand(n_rows, 3), q.stddev.expand(n_rows, 3)), 1)
    z = draws_of(q, 50)
    logits = arrays(module.decoder(z))[0]
    log_p = log_softmax(logits, axis=-1) @ X[0]
    normal = Independent(Normal(torch.zeros(n_rows, 3).double(), 1.0), 1)
    kl = torch.distributions.kl_divergence(q, normal)[0].item()
    expected, error = log_p.mean() - kl, log_p.std() / np.sqrt(log_p.size)
    X[:, 0] += np.arange(n_rows) * 1e-9
    (bounds,) = arrays(module.elbo(batch_of(X), q))
    error += bounds.std() / np.sqrt(n_rows)
    assert bounds.std() > 0.05
    assert abs(bounds.mean() - expected) < 4.5 * error


# Refinement.


def test_refinement_by_adam_raises_the_bound():
    module = random_module(decoder_layers=(5,), skip_connections=False)
    x = batch_of(random_rows(40))
    means = [refined(module, x, n_steps)[1].mean() for n_steps in (0, 10, 100)]
    assert means[0] + 1 < means[1]
    assert means[1] + 0.2 < means[2]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_refinement_of_a_residual_decoder_comes_near_the_optimum(likelihood):
    """That of a bound by other draws, found by following its gradient."""
    module = random_module(
        decoder_layers=(6, 5), likelihood=likelihood, prior="mixture", scale=0.4
    )
    x = batch_of(random_rows(20))
    q, found = refined(module, x, 100)
    noise = torch.randn(20, *q.mean.shape, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([noise, -noise]).double()

    def bounds(mean, log_var):
        at = Posterior(mean, log_var.exp())
        likelihood = module.likelihood
        expected = module._expected_log_likelihood(x, likelihood, at, noise)
        return expected - module._kl(at)

    state = [q.mean.detach(), q.variance.log().detach()]
    reached = bounds(*state)
    state = [part.clone().requires_grad_() for part in state]
    optimizer = torch.optim.Adam(state, lr=0.03)
    for _ in range(50):
        optimizer.zero_grad()
        (-bounds(*state).sum()).backward()
        optimizer.step()
    gap = bounds(*state) - reached
    start = refined(module, x, 0)[1]
    assert gap.mean() < 0.15 * (found - start).mean()


def expanded(likelihood, decoder_layers=(6, 5), scale=0.4):
    """A module with a residual decoder, and the expansion of its bound."""
    module = random_module(
        decoder_layers=decoder_layers, likelihood=likelihood, scale=scale
    )
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    bound = ExpandedBound(module.likelihood, module.decoder, module._density(), points)
    return module, bound


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_slopes_by_expansion_are_those_of_its_values(likelihood):
    _, bound = expanded(likelihood)
    x = batch_of(random_rows(5))
    mean = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    q = bound.centered(Posterior(mean, torch.full_like(mean, 0.05)))
    q = bound.turned(q)
    _, gradient, _, center = bound.slopes(x, q)
    # Held, but for the centers of the log total.
    torch.testing.assert_close(center[:, 3:], q.center[:, 3:])
    for k in range(3):
        step = torch.zeros(3).double()
        step[k] = 1e-6
        above, below = (
            bound.slopes(x, q._replace(mean=mean + sign * step))[0] for sign in (1, -1)
        )
        slope = (above - below) / 2e-6
        np.testing.assert_allclose(*arrays(gradient[:, k], slope), rtol=1e-4, atol=1e-4)


def test_the_expansion_is_close_to_monte_carlo():
    """To second order: the error is a small part of the effect of the variances."""
    module, bound = expanded("multinomial", decoder_layers=(20,))
    x = batch_of(random_rows(20))
    mean = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(200, 20, 3, generator=torch.Generator().manual_seed(2))
    noise = torch.cat([noise, -noise]).double()
    likely = []
    for var in (1e-8, 0.02):
        q = bound.centered(Posterior(mean, torch.full_like(mean, var)))
        for _ in range(3):
            *_, center = bound.slopes(x, q)
            q = q._replace(center=center)
        value = bound.slopes(x, q)[0] + module._kl(q)
        with torch.no_grad():
            sampled = module._expected_log_likelihood(x, module.likelihood, q, noise)
        likely.append([part.mean().item() for part in (value, sampled)])
    (flat, exact), (found, sampled) = likely
    assert flat == pytest.approx(exact, abs=1e-3)
    assert found - flat == pytest.approx(sampled - exact, rel=0.1)
    assert sampled < exact - 0.1


def test_log_totals_of_drawn_features_stand_for_all(monkeypatch):
    monkeypatch.setattr(bounds, "N_DRAWN", 100)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2000, 3, generator=generator).double()
    bias = torch.randn(2000, generator=generator).double()
    module = random_module()
    closed = ClosedBound(module.likelihood, LogTotal(weight, bias), module._density())
    rows = scipy.sparse.random(5, 2000, density=0.01, format="csr", random_state=0)
    rows.data[:] = 1
    x = batch_of(rows)
    mean = 0.5 * torch.randn(5, 3, generator=generator).double()
    q = closed.centered(Posterior(mean, torch.full_like(mean, 0.1)), is_best=True)
    exact = closed.total.bound(q)
    drawn = [closed.sampled(x, generator).total for _ in range(400)]
    assert max(len(total.bias) for total in drawn) < 500
    ratios = torch.stack([(total.bound(q) - exact).exp() for total in drawn])
    error = ratios.std(0) / 400**0.5
    assert ((ratios.mean(0) - 1).abs() < 4 * error).all()
    assert (error < 0.02).all()
    monkeypatch.setattr(bounds, "N_DRAWN", 600)
    assert closed.sampled(x, generator) is None


def test_a_fit_by_drawn_features_is_as_good(monkeypatch):
    X = make_zipf_counts(150, 3000, 3000, random_state=0).data
    fitted = []
    for n_drawn in (3000, 128):
        monkeypatch.setattr(bounds, "N_DRAWN", n_drawn)
        fitted.append(small(5, max_iter=4, batch_size=30).fit(X))
    exact, drawn = (est.lower_bound_ for est in fitted)
    assert drawn != exact
    assert drawn == pytest.approx(exact, rel=5e-3)


def test_precisions_by_expansion_know_the_shares_of_each_row():
    """Rows that are sure of other words than the mean row have curvatures of theirs."""
    module, bound = expanded("multinomial", decoder_layers=(20,), scale=0.8)
    x = batch_of(random_rows(20))
    decoder = module.decoder
    mean = 2 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    q = bound.centered(Posterior(mean, torch.full_like(mean, 1e-8)))
    # The second time around the best centers.
    for _ in range(2):
        *_, precision, center = bound.slopes(x, q)
        q = q._replace(center=center)
    with torch.no_grad():
        h, slopes = decoder.slopes(mean)
        weight, bias = decoder.weight.double(), decoder.bias.double()
        shares = (h @ weight.T + bias).softmax(1)[:, :, None]
        logits = weight @ slopes.double().mT
        spread = (shares * logits.square()).sum(1) - (shares * logits).sum(1).square()
    exact = 1 + x.entries.totals[:, None] * spread
    errors = (precision / exact).log()
    assert errors.abs().median() < 0.1
    assert errors.mean().abs() < 0.05


def test_rows_of_a_residual_decoder_start_from_the_better_of_memory_and_network():
    module, bound = expanded("multinomial")
    x = batch_of(random_rows(20))
    good = module._infer(x, module.likelihood)._replace(center=None)
    far = good._replace(mean=good.mean + 3)
    is_stale = (torch.arange(20) % 2 == 0)[:, None]
    remembered, network = (
        good._replace(mean=torch.where(mask, far.mean, good.mean))
        for mask in (is_stale, ~is_stale)
    )
    local = torch.cat([remembered.mean, good.var.log(), 0 * good.mean], 1)
    module.train()
    module.n_unsteady = 1.0
    q = module._infer(x, module.likelihood, local, network)
    # Later in training memory alone is as good, and saves a look at the other.
    module.n_unsteady = 0.0
    late = module._infer(x, module.likelihood, local, network)
    worst, found, later, best = (
        bound.slopes(x, bound.centered(at._replace(center=None)))[0]
        for at in (far, q, late, good)
    )
    assert (best > worst + 1).all()
    assert (best - found).max() < 0.1
    assert (found >= later - 1e-3).all()
    assert (found[::2] > later[::2]).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_network_without_weights_leaves_the_closed_bound(likelihood):
    module, _ = expanded(likelihood)
    module.decoder.weight.data[:, :5] = 0
    x = batch_of(random_rows(5))
    weight, bias = module.decoder.direct_weight.detach(), module.decoder.bias.detach()
    density = module._density()
    closed = ClosedBound(module.likelihood, LogTotal(weight, bias), density)
    bound = ExpandedBound(module.likelihood, module.decoder, density, torch.zeros(1, 3))
    mean = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    q = closed.centered(Posterior(mean, 0.1 * mean.square()), is_best=True)
    *expected, center = closed.slopes(x, q)
    *found, of_both = bound.slopes(x, bound.centered(q))
    for one, other in zip([*found, of_both[:, :3]], [*expected, center], strict=True):
        np.testing.assert_allclose(*arrays(one, other), rtol=1e-9, atol=1e-9)
    if module.likelihood.is_centered:
        pairs = zip(
            bound.plain(x, q, fixes_variances=False)[:2],
            closed.plain(x, q, fixes_variances=False)[:2],
            strict=True,
        )
        for one, other in pairs:
            np.testing.assert_allclose(*arrays(one, other), rtol=1e-9)


def refined(module, x, n_steps):
    module.max_refine_steps = n_steps
    return module.posterior(x), module.elbo(x).detach().numpy()


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_more_steps_never_lower_the_bound_of_a_row(likelihood, prior):
    module = random_module(likelihood=likelihood, prior=prior)
    x = batch_of(random_rows(40))
    before = refined(module, x, 0)[1]
    first = before
    for n_steps in (1, 2, 3, 5, 10, 40):
        bounds = refined(module, x, n_steps)[1]
        assert (bounds >= before - 1e-9 * abs(before)).all()
        before = bounds
    assert (bounds > first + 0.01).all()


@pytest.mark.parametrize("rate", [1.5, 3.0])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_step_learns_from_the_softmax_that_judged_it(likelihood, rate, monkeypatch):
    # Steps that are too long for some rows, but not for all; the longest make variances
    # negative.
    monkeypatch.setattr(gaussian, "FIRST_RATE", rate)
    module = random_module(likelihood=likelihood, refine_steps=1, scale=2.0).train()
    module.local_width = 0
    x = batch_of(random_rows(40))
    with torch.no_grad():
        encoded = Posterior(*module._encode(x)[:2])
    q, expected = module._refined_and_likely(x, None, encoded)
    again = module._expected_log_likelihood(x, module.likelihood, q, None)
    np.testing.assert_allclose(*arrays(expected, again), rtol=1e-5)
    gradients = [
        torch.autograd.grad(value.sum(), module.decoder.weight)[0]
        for value in (expected, again)
    ]
    np.testing.assert_allclose(*arrays(*gradients), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        before = module._infer(x, module.likelihood, None, encoded)
    is_kept = (q.mean == encoded.mean).all(1) | (q.mean == 0).all(1)
    assert 0 < is_kept.sum() < 40
    torch.testing.assert_close(q.mean, before.mean)


def optimum(module, x, q):
    """The best bound of a multinomial row, by L-BFGS over q and the center at once."""
    weight, bias = module.decoder.weight.detach(), module.decoder.bias.detach()
    counts = torch.from_numpy(x)
    k = weight.shape[1]

    def minus_bound(parameters):
        p = torch.from_numpy(parameters).requires_grad_()
        mean, log_var, center = p.split(k)
        var = log_var.exp()
        exponent = weight @ (mean - center * var) + bias + 0.5 * weight**2 @ var
        log_total = 0.5 * (center**2 * var).sum() + exponent.logsumexp(0)
        value = counts @ (weight @ mean + bias) - counts.sum() * log_total
        value = value - 0.5 * (mean**2 + var - 1 - log_var).sum()
        (-value).backward()
        return -value.item(), p.grad.numpy()

    start = np.concatenate([*arrays(q.mean[0], q.variance[0].log()), np.zeros(k)])
    found = scipy.optimize.minimize(
        minus_bound,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9},
    )
    return -found.fun, found.x


def test_refinement_reaches_the_optimum():
    module = random_module(4, 20, scale=0.8)
    X = random_rows(8, 20)
    usual = module.elbo(batch_of(X)).detach().numpy()
    q, bounds = refined(module, batch_of(X), 600)
    for n, x in enumerate(X):
        best, parameters = optimum(module, x, random_posterior(1, 4, "diag"))
        assert bounds[n] == pytest.approx(best, abs=1e-4)
        assert usual[n] == pytest.approx(best, abs=1e-2)
        mean, log_var, _ = np.split(parameters, 3)
        np.testing.assert_allclose(q.mean[n].detach(), mean, atol=2e-2)
        np.testing.assert_allclose(q.variance[n].detach(), np.exp(log_var), rtol=5e-2)


def slopes_at(module, x, q):
    """Gradients of the bound in the mean and the log variance of q."""
    mean = q.mean.detach().requires_grad_()
    log_var = q.variance.detach().log().requires_grad_()
    at = Independent(Normal(mean, (log_var / 2).exp()), 1)
    return torch.autograd.grad(module.elbo(x, at).sum(), (mean, log_var))


@pytest.mark.parametrize("likelihood", OF_TOTALS_TOO)
def test_refinement_ends_where_the_bound_is_flat(likelihood):
    """Where the total needs no center, ``elbo`` is differentiable as it is."""
    module = random_module(likelihood=likelihood)
    x = batch_of(random_rows(12))
    start = torch.cat(slopes_at(module, x, refined(module, x, 0)[0]))
    end = torch.cat(slopes_at(module, x, refined(module, x, 100)[0]))
    assert start.abs().max() > 1
    assert end.abs().max() < 1e-2


@pytest.mark.parametrize("decoder_layers", [(), (5,)])
def test_no_steps_are_the_networks_own_output(decoder_layers):
    module = random_module(decoder_layers=decoder_layers, input_transform="counts")
    module.max_refine_steps = 0
    x = batch_of(random_rows())
    mean, log_var = module.encoder(x.counts)
    q = module.posterior(x)
    np.testing.assert_array_equal(*arrays(q.mean, mean))
    np.testing.assert_allclose(*arrays(q.variance, log_var.exp()), rtol=1e-12)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_network_gone_astray_does_no_harm(likelihood, covariance_type):
    module = random_module(likelihood=likelihood, covariance_type=covariance_type)
    x = batch_of(random_rows(20))
    expected = module.elbo(x).detach().numpy()
    for parameter in module.encoder.parameters():
        parameter.data *= 1e3
    mean = module.encoder(module.inputs(x))[0]
    assert mean.abs().max() > 1e4
    q = module.posterior(x)
    assert q.mean.isfinite().all()
    assert (q.variance > 0).all()
    np.testing.assert_allclose(module.elbo(x).detach(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("likelihood", ["multinomial", "poisson"])
@pytest.mark.parametrize("has_skips", [False, True])
def test_a_deep_decoder_survives_a_network_gone_astray(likelihood, has_skips):
    module = random_module(
        decoder_layers=(5,),
        likelihood=likelihood,
        skip_connections=has_skips,
        max_refine_steps=10,
    )
    for parameter in module.encoder.parameters():
        parameter.data *= 1e3
    x = batch_of(random_rows(20))
    q = module.posterior(x)
    assert q.mean.isfinite().all()
    assert q.variance.isfinite().all()
    assert module.elbo(x).isfinite().all()


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_full_covariances_are_never_worse(likelihood, prior):
    diag, full = (
        random_module(
            4, likelihood=likelihood, prior=prior, scale=1.0, covariance_type=kind
        )
        for kind in ("diag", "full")
    )
    diag.max_refine_steps = full.max_refine_steps = 20
    x = batch_of(random_rows(20))
    for name in ("elbo", "word_bound"):
        worse, better = arrays(getattr(diag, name)(x), getattr(full, name)(x))
        assert (better >= worse - 1e-9 * abs(worse)).all()
        assert better.mean() > worse.mean() + 0.05
    assert isinstance(full.posterior(x), MultivariateNormal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_full_covariances_bear_with_extreme_rows(likelihood, dtype):
    """More factors than words, of a million words, and slopes that are steep."""
    X = random_rows(5, 8)
    X[1], X[2], X[3, 3] = 0, 1e6, 1e6
    X[1, 5] = 1e6
    x = Batch(
        to_tensor(scipy.sparse.csr_matrix(X), slice(None), dtype=dtype, device="cpu")
    )
    bounds = []
    for kind in ("diag", "full"):
        module = random_module(
            12,
            8,
            likelihood=likelihood,
            scale=3.0,
            covariance_type=kind,
            max_refine_steps=30,
        ).to(dtype)
        assert module.posterior(x).mean.isfinite().all()
        bounds.extend(arrays(module.elbo(x)))
    diag, full = bounds
    assert np.isfinite(full).all()
    # A bound is the difference of terms as large as the row's total.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert (full >= diag - tolerance * (abs(diag) + X.sum(1))).all()


def test_full_covariances_are_those_of_the_posterior():
    """With many words the posterior is normal, and importance sampling knows it."""
    module = random_module(2, scale=0.5, covariance_type="full")
    X = random_rows(4, mean=30.0)[:3]
    q = module.posterior(batch_of(X))
    z = draws_of(q, 20_000).numpy()
    log_q = q.log_prob(torch.from_numpy(z)).numpy()
    for n, x in enumerate(X):
        log_p = log_likelihood(module, x, z[:, n]) + log_prior(module, z[:, n])
        weights = np.exp(log_p - log_q[:, n] - (log_p - log_q[:, n]).max())
        covariance = np.cov(z[:, n].T, aweights=weights)
        np.testing.assert_allclose(
            q.covariance_matrix[n].detach(), covariance, rtol=0.1, atol=1e-3
        )


@pytest.mark.parametrize("is_astray", [False, True])
@pytest.mark.parametrize("decoder_layers", [(), (5,)])
@pytest.mark.parametrize("likelihood", ["multinomial", "poisson"])
def test_fixed_variances_stay(likelihood, decoder_layers, is_astray):
    module = random_module(
        likelihood=likelihood, decoder_layers=decoder_layers, posterior_variance=0.3
    )
    if is_astray:
        for parameter in module.encoder.parameters():
            parameter.data *= 1e3
    x = batch_of(random_rows())
    for n_steps in (0, 1, 20):
        variances = refined(module, x, n_steps)[0].variance
        np.testing.assert_allclose(variances.detach(), 0.3, rtol=1e-12)
    gains = refined(module, x, 20)[1] - refined(module, x, 0)[1]
    if not is_astray:
        # Steps on sampled bounds promise no gain to every single row.
        assert gains.mean() > 0 if decoder_layers else (gains > 0).all()


def test_warm_up_weighs_the_divergence_in_training_alone():
    module = random_module(max_refine_steps=40)
    x = batch_of(random_rows(20))
    expected = module.posterior(x)
    module.kl_warmup, module.refine_steps = 10, 13
    module.n_updates.fill_(0)
    assert torch.equal(module.posterior(x).mean, expected.mean)
    lengths = []
    module.train()
    for n_updates in (0, 4, 9, 100):
        module.n_updates.fill_(n_updates)
        lengths.append(module.posterior(x).mean.norm().item())
    assert lengths[0] > lengths[1] > lengths[2]
    assert lengths[2] == lengths[3] == pytest.approx(expected.mean.norm().item(), 1e-3)


# Scores of rows.

VARIANTS = {
    "linear": {},
    "full": {"covariance_type": "full"},
    "deep": {"decoder_layers": (6,), "max_refine_steps": 5},
    "network": {"refine_steps": 0, "max_refine_steps": 0},
    "urn": {"likelihood": "dirichlet_multinomial"},
}


def row_results(model, X):
    """All that a model says of each row, in columns."""
    iwae = model.score_samples(X, metric="iwae", n_particles=5)
    return np.c_[model.transform(X), model.score_samples(X), iwae]


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS.keys())
def test_what_is_said_of_a_row_depends_on_the_row_alone(
    counts, parameters, monkeypatch
):
    X = counts.astype(np.float64)
    model = small(**{"max_iter": 3, "max_refine_steps": 12, **parameters}).fit(X)
    together = row_results(model, X)
    assert len(np.unique(together[:, -1])) == 60
    order = np.random.default_rng(1).permutation(60)
    others = {
        "order": (row_results(model, X[order]), together[order]),
        "company": (row_results(model, X[5:9]), together[5:9]),
        "alone": (row_results(model, X[7]), together[7:8]),
        "dense": (row_results(model, X.toarray()), together),
    }
    monkeypatch.setattr("skdeepfactor._training.rows.CHUNK_BYTES", 2500)
    others["batches"] = row_results(model, X), together
    for actual, expected in others.values():
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_a_giant_row_in_float32_depends_on_itself_alone(prior):
    X = make_topics(200, 60, 4, random_state=0).data.toarray().astype(np.float32)
    model = NeuralTopicDLGM(4, prior=prior, max_iter=3, random_state=0).fit(X)
    spread = model.transform(X).std(axis=0).max()
    rng = np.random.default_rng(0)
    for total in (1e3, 1e5, 1e7):
        X[7] = rng.poisson(total * X[7] / X[7].sum())
        factors, alone = model.transform(X)[7], model.transform(X[7:8])[0]
        assert np.abs(factors - alone).max() < 1e-5 * spread
        bounds = model.score_samples(X)[7], model.score_samples(X[7:8])[0]
        assert bounds[0] == pytest.approx(bounds[1], abs=1e-3)


def test_steps_start_where_no_company_leads_them():
    """The network rounded rows by their company, and long rows ended elsewhere."""
    X = make_topics(40, 200, 12, n_tokens=3000, random_state=0).data
    X = X.astype(np.float32)
    model = NeuralTopicDLGM(12, encoder_layers=(50, 50), max_iter=2, random_state=0)
    module = model.fit(X)._load(torch.float32)
    options = {"dtype": torch.float32, "device": "cpu"}
    together = module._encode(Batch(to_tensor(X, slice(None), **options)))
    for row in range(40):
        rows = slice(row, row + 1)
        alone = module._encode(Batch(to_tensor(X, rows, **options)))
        for one, all_rows in zip(alone[:2], together[:2], strict=True):
            torch.testing.assert_close(one, all_rows[rows], rtol=1e-12, atol=1e-12)
    factors = model.transform(X)
    alone = np.vstack([model.transform(x) for x in X])
    assert np.abs(factors - alone).max() < 1e-6 * factors.std(axis=0).min()


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS.keys())
def test_stored_zeros_and_the_order_of_entries_do_not_matter(counts, parameters):
    X = counts.astype(np.float64)
    parameters = {"max_iter": 3, "max_refine_steps": 10, **parameters}
    model = small(**parameters).fit(X)
    dense = X[:4].toarray()
    reversed_columns = np.tile(np.arange(30)[::-1], 4)
    messy = scipy.sparse.csr_matrix(
        (dense[:, ::-1].ravel(), reversed_columns, np.arange(0, 121, 30)), shape=(4, 30)
    )
    assert messy.nnz == 120
    expected = row_results(model, X[:4])
    np.testing.assert_allclose(row_results(model, messy), expected, rtol=1e-9)
    again = small(**parameters).fit(scipy.sparse.vstack([messy, X[4:]]))
    np.testing.assert_allclose(again.components_, model.components_, rtol=1e-6)


def test_score_takes_the_mean_of_importance_weighted_bounds(counts):
    model = small().fit(counts)
    bounds = model.score_samples(counts, metric="iwae", n_particles=7)
    assert model.score(counts, metric="iwae", n_particles=7) == bounds.mean()
    assert bounds.dtype == np.float64
    assert model.score(counts, metric="iwae") > model.score(counts)
    for metric in (model.score, model.score_samples):
        with pytest.raises(ValueError, match="n_particles must be at least 2"):
            metric(counts, metric="iwae", n_particles=1)
        with pytest.raises(ValueError, match="metric must be"):
            metric(counts, metric="accuracy")


# Planted truths.


def planted(n_samples=400, n_features=40, n_factors=3, *, concentration=None, seed=0):
    """Draw rows from a log-linear topic model; and their factors."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(0, 0.8, (n_factors, n_features))
    z = rng.normal(size=(n_samples, n_factors))
    p = np.exp(log_softmax(z @ slopes + rng.normal(0, 0.5, n_features), axis=1))
    if concentration is not None:
        p = rng.gamma(concentration * p) + 1e-300
        p /= p.sum(1, keepdims=True)
    return scipy.sparse.csr_matrix(rng.multinomial(80, p)), z


def canonical_correlations(a, b):
    axes = [np.linalg.qr(part - part.mean(0))[0] for part in (a, b)]
    return np.linalg.svd(axes[0].T @ axes[1])[1]


@pytest.fixture(scope="module")
def planted_fit():
    """Rows, their factors and a model of them."""
    X, z = planted()
    return X, z, small(batch_size=100, max_iter=20).fit(X)


def test_planted_factors_are_recovered(planted_fit):
    X, z, model = planted_fit
    assert canonical_correlations(model.transform(X), z).min() > 0.85
    assert model.n_active_components_ == 3
    unigrams = np.asarray(X.sum(0)).ravel() / X.sum()
    assert model.perplexity(X) < 0.9 * np.exp(-(unigrams * np.log(unigrams)).sum())


def test_a_deep_decoder_recovers_planted_factors():
    X, z = planted()
    model = small(
        decoder_layers=(16,),
        skip_connections=True,
        batch_size=100,
        max_iter=20,
        max_refine_steps=20,
        refine_steps=0,
        input_dropout=0.0,
        learning_rate=0.1,
    ).fit(X)
    assert canonical_correlations(model.transform(X), z).min() > 0.85


def test_a_curve_needs_fewer_factors_of_a_deep_decoder():
    """Rows of neighbouring words on a circle; linear logits cannot make its peaks."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 800)
    distance = 1 - np.cos(angles[:, np.newaxis] - 2 * np.pi * np.arange(40) / 40)
    p = scipy.special.softmax(5 * np.exp(-6 * distance), axis=1)
    X = np.array([rng.multinomial(60, row) for row in p])
    parameters = {
        "weight_scale": 1.0,
        "learning_rate": 0.03,
        "batch_size": 100,
        "max_iter": 30,
    }
    deep = small(2, decoder_layers=(50,), **parameters).fit(X[:600])
    linear = small(4, **parameters).fit(X[:600])
    assert deep.score(X[600:]) > linear.score(X[600:]) + 1
    particles = {"metric": "iwae", "n_particles": 20}
    assert deep.score(X[600:], **particles) > deep.score(X[600:])


@pytest.mark.parametrize("concentration", [20.0, 60.0])
def test_the_planted_urn_is_recovered(concentration):
    X, z = planted(concentration=concentration)
    model = small(
        likelihood="dirichlet_multinomial",
        learning_rate=0.1,
        batch_size=100,
        max_iter=15,
    ).fit(X)
    learnt = np.exp(model._parameters["likelihood.log_concentration"])
    assert learnt == pytest.approx(concentration, rel=0.3)
    assert canonical_correlations(model.transform(X), z).min() > 0.85


@pytest.mark.parametrize(
    "parameters",
    [
        {"weight_scale": 0.03},
        {"refine_steps": 0, "max_refine_steps": 0, "input_dropout": 0.0},
    ],
    ids=["shrunk weights", "collapsed network"],
)
def test_dimensions_that_noise_does_not_need_are_not_active(parameters):
    rng = np.random.default_rng(0)
    X = rng.multinomial(80, rng.dirichlet(np.full(10, 2.0)), 600)
    model = small(5, batch_size=100, max_iter=15, learning_rate=0.05, **parameters).fit(
        X
    )
    assert model.n_active_components_ < 5
    variances = model.transform(X).var(0)
    assert abs((variances > 0.01).sum() - model.n_active_components_) <= 1


def test_free_bits_keep_dimensions_active():
    """Of noise the plain network learns to ignore every dimension."""
    rng = np.random.default_rng(0)
    X = rng.multinomial(20, np.full(20, 0.05), 200)
    divergences = []
    for free_bits in (0.0, 0.5):
        model = small(
            refine_steps=0,
            max_refine_steps=0,
            free_bits=free_bits,
            learning_rate=0.1,
            max_iter=40,
        ).fit(X.astype(np.float64))
        module = model._load(torch.float64, torch.device("cpu"))
        q = module.posterior(batch_of(X)).base_dist
        kl = torch.distributions.kl_divergence(q, Normal(torch.zeros(3), 1.0))
        divergences.append(kl.mean().item())
    assert divergences[0] < 0.05
    assert 0.2 < divergences[1] < 0.8


def test_components_of_a_linear_decoder_are_slopes_of_log_shares(planted_fit):
    _, _, model = planted_fit
    z = model._load(torch.float64, torch.device("cpu")).draw_prior(
        100, torch.Generator().manual_seed(0)
    )
    np.testing.assert_allclose(
        model.components_, differences(model, z.numpy()), rtol=1e-3, atol=1e-3
    )


def differences(model, z, step=1e-4):
    """Mean slopes of log E[x | z] at the rows of z, (n_components, n_features)."""
    slopes = []
    for direction in np.eye(z.shape[1]):
        ends = (
            np.log(model.inverse_transform(z + sign * step * direction))
            for sign in (1, -1)
        )
        slopes.append((next(ends) - next(ends)).mean(0) / (2 * step))
    return np.array(slopes)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_components_of_a_deep_decoder_are_mean_slopes(counts, likelihood, prior):
    model = small(
        decoder_layers=(6,),
        skip_connections=True,
        likelihood=likelihood,
        prior=prior,
        max_refine_steps=2,
        max_iter=3,
    ).fit(counts.astype(np.float64))
    module = model._load(torch.float64, torch.device("cpu"))
    z = module.draw_prior(100, torch.Generator().manual_seed(0)).detach()
    # Steps so small that they hardly ever cross a kink of a ReLU.
    expected = differences(model, z.numpy(), step=1e-7)
    np.testing.assert_allclose(model.components_, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.01


# Samples and predictions.


def known(likelihood, *, prior="normal", seed=0):
    """A fitted model of 6 words and 2 factors with parameters put in; and these."""
    rng = np.random.default_rng(seed)
    X = rng.poisson(3.0, (20, 6)).astype(np.float64)
    model = small(
        2, likelihood=likelihood, prior=prior, n_pseudo_inputs=2, max_iter=1
    ).fit(X)
    weight, bias = rng.normal(0, 0.4, (6, 2)), rng.normal(0, 0.5, 6)
    changes = {
        "decoder.weight": weight,
        "decoder.bias": bias,
        "likelihood.log_concentration": np.array(LOG_CONCENTRATION),
        "likelihood.log_odds": np.array(LOG_ODDS),
        "prior.mean": np.array([[2.0, 0.0], [-1.0, 1.0]]),
        "prior.log_var": np.log([[0.25, 1.0], [1.0, 0.5]]),
        "prior.logits": np.log([0.3, 0.7]),
        "spread": np.array(1.0),
    }
    for name in model._parameters.keys() & changes.keys():
        model._parameters[name] = changes[name]
    return model, weight, bias


@pytest.mark.parametrize("likelihood", COUNTS_GIVEN_TOTALS)
def test_samples_of_words_have_the_moments_of_the_model(likelihood):
    model, weight, bias = known(likelihood)
    n_draws, n_words = 40_000, 30
    X = model.sample(n_draws, n_tokens=n_words, random_state=0).toarray()
    assert (X.sum(1) == n_words).all()
    z = np.random.default_rng(1).normal(size=(n_draws, 2))
    p = np.exp(log_softmax(z @ weight.T + bias, axis=1))
    error = np.sqrt((X.var(0) + n_words**2 * p.var(0)) / n_draws)
    assert (abs(X.mean(0) - n_words * p.mean(0)) < 4.5 * error).all()
    burst = 1.0
    if likelihood == "dirichlet_multinomial":
        urn = np.exp(LOG_CONCENTRATION)
        burst = (urn + n_words) / (urn + 1)
    variance = n_words * burst * (p * (1 - p)).mean(0) + n_words**2 * p.var(0)
    np.testing.assert_allclose(X.var(0), variance, rtol=0.06)


@pytest.mark.parametrize("likelihood", OF_TOTALS_TOO)
def test_samples_of_counts_have_the_moments_of_the_model(likelihood):
    model, weight, bias = known(likelihood)
    n_draws = 40_000
    X = model.sample(n_draws, random_state=0).toarray()
    odds = np.exp(LOG_ODDS) if likelihood == "negative_binomial" else 0.0
    spread = (weight**2).sum(1)
    mean = np.exp(bias + spread / 2) * (odds or 1.0)
    variance = mean * (1 + odds) + mean**2 * (np.exp(spread) - 1)
    assert (abs(X.mean(0) - mean) < 4.5 * np.sqrt(variance / n_draws)).all()
    np.testing.assert_allclose(X.var(0), variance, rtol=0.08)


def test_draws_of_a_mixture_have_its_moments():
    model, *_ = known("multinomial", prior="mixture")
    module = model._load(torch.float64, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    z = module.draw_prior(40_000, generator).detach().numpy()
    share = np.array([0.3, 0.7])
    means, variances = [[2.0, 0.0], [-1.0, 1.0]], [[0.25, 1.0], [1.0, 0.5]]
    mean = share @ means
    variance = share @ (np.square(means) + variances) - mean**2
    assert (abs(z.mean(0) - mean) < 4.5 * np.sqrt(variance / len(z))).all()
    np.testing.assert_allclose(z.var(0), variance, rtol=0.05)


def test_samples_have_the_lengths_of_the_training_rows(planted_fit):
    model = small(max_iter=1).fit(planted_fit[0].multiply([[1], [3]] * 200).tocsr())
    totals = np.asarray(model.sample(2000, random_state=0).sum(1)).ravel()
    assert set(np.quantile(totals, [0, 0.25, 0.75, 1])) == {80, 240}
    given = model.sample(3, n_tokens=[0, 5, 9], random_state=0)
    assert np.asarray(given.sum(1)).ravel().tolist() == [0, 5, 9]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_expected_data_are_what_the_decoder_says(likelihood):
    model, weight, bias = known(likelihood)
    z = np.random.default_rng(1).normal(size=(5, 2))
    logits = z @ weight.T + bias
    expected = np.exp(logits)
    if likelihood in COUNTS_GIVEN_TOTALS:
        expected = np.exp(log_softmax(logits, axis=1))
        np.testing.assert_allclose(model.inverse_transform(z).sum(1), 1)
    if likelihood == "negative_binomial":
        expected *= np.exp(LOG_ODDS)
    np.testing.assert_allclose(model.inverse_transform(z), expected, rtol=1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_predictions_of_the_next_word_sum_to_one(likelihood):
    model, *_ = known(likelihood)
    X = random_rows(6, 6)
    p = model.predictive(X)
    assert p.shape == (6, 6)
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("likelihood", COUNTS_GIVEN_TOTALS)
def test_predictions_are_averaged_over_the_posterior(likelihood):
    """And the urn gets the words of the row."""
    X = random_rows(6, 6)
    model, *_ = known(likelihood)
    module = model._load(torch.float64)
    with torch.no_grad():
        q = module.posterior(batch_of(X))
        spread = q.variance.sqrt() * torch.from_numpy(
            np.random.default_rng(0).normal(size=(20000, *q.mean.shape))
        )
        averaged = module.decode(q.mean + spread).mean(0).numpy()
        plain = module.decode(q.mean).numpy()

    def with_row(shares):
        if likelihood == "multinomial":
            return shares
        total = np.exp(LOG_CONCENTRATION)
        return (total * shares + X) / (total + X.sum(1, keepdims=True))

    expected = with_row(averaged)
    error = np.abs(model.predictive(X) - expected)
    assert error.mean() < 0.25 * np.abs(with_row(plain) - expected).mean()
    assert error.max() < 0.02
    sparse = model.predictive(scipy.sparse.csr_matrix(X))
    np.testing.assert_allclose(sparse, model.predictive(X), rtol=1e-6)


@pytest.mark.parametrize("likelihood", COUNTS_GIVEN_TOTALS)
def test_averages_predict_hidden_words_of_the_model(likelihood):
    module = random_module(2, 30, scale=1.0, likelihood=likelihood)
    generator = np.random.default_rng(0)
    X = module.sample(np.full(400, 10), generator).astype(np.float64)
    with torch.no_grad():
        scores = module.completion_scores(batch_of(X), generator)
    assert scores.shape == (400, len(SPREADS))
    scores = scores.sum(0)
    assert scores[-1] > scores[0]
    # Half of all words are hidden, of 30 that are hardly even.
    assert -2000 * np.log(30) < scores[0] < 0


def test_predictions_are_no_worse_than_those_of_the_mean():
    """Here averages over posteriors are worse: a model of more than the data tell."""
    X = make_topics(160, 400, 5, random_state=0).data
    model = small(10, max_iter=20).fit(X[:60])
    plain, averaged = (
        completion_perplexity(model, X[60:], predictive=predictive, random_state=0)
        for predictive in (False, True)
    )
    assert averaged <= 1.001 * plain
    model._parameters = {**model._parameters, "spread": np.ones(())}
    whole = completion_perplexity(model, X[60:], predictive=True, random_state=0)
    assert whole > 1.003 * plain


# What the inference network sees.


def seen_by_the_network(X, input_transform):
    module = (
        small(max_iter=1, input_transform=input_transform)
        .fit(X)
        ._load(torch.float64, torch.device("cpu"))
    )
    return module.inputs(batch_of(X)).to_dense().numpy()


def test_inputs_of_the_network(counts):
    X = counts.toarray().astype(np.float64)
    X[:, 4] = 1  # A word of every row.
    np.testing.assert_array_equal(seen_by_the_network(X, "counts"), X)
    shares = X / X.sum(1, keepdims=True)
    np.testing.assert_allclose(seen_by_the_network(X, "normalize"), shares)
    frequency = (X > 0).sum(0)
    assert frequency.min() == 0
    tfidf = X * np.log(60 / np.maximum(frequency, 1))
    lengths = np.linalg.norm(tfidf, axis=1, keepdims=True)
    tfidf /= np.where(lengths > 0, lengths, 1)
    actual = seen_by_the_network(X, "tfidf")
    np.testing.assert_allclose(actual, tfidf, atol=1e-7)
    assert (actual[:, [4, 11]] == 0).all()
    peer = TfidfTransformer().fit_transform(X).toarray()
    np.testing.assert_allclose(seen_by_the_network(X, TfidfTransformer()), peer)


def test_new_rows_are_seen_with_the_frequencies_of_training(counts):
    X = counts.toarray().astype(np.float64)
    model = small(max_iter=1).fit(X[:30])
    module = model._load(torch.float64, torch.device("cpu"))
    frequency = (X[:30] > 0).sum(0)
    idf = np.where(frequency > 0, np.log(30 / np.maximum(frequency, 1)), 0)
    expected = X[30:] * idf
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    actual = module.inputs(batch_of(X[30:])).to_dense().numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def to_dense(X):
    return X.toarray() if scipy.sparse.issparse(X) else X


@pytest.mark.parametrize(
    ("transformer", "name"),
    [
        (FunctionTransformer(), "counts"),
        (FunctionTransformer(to_dense), "counts"),
        (Normalizer("l1"), "normalize"),
    ],
    ids=["identity", "dense", "l1"],
)
def test_transformers_do_what_names_do(counts, transformer, name):
    X = counts.astype(np.float64)
    parameters = {"input_dropout": 0.0, "prior": "vamp", "max_refine_steps": 3}
    expected = small(input_transform=name, **parameters).fit(X)
    actual = small(input_transform=transformer, **parameters).fit(X)
    np.testing.assert_allclose(
        actual.transform(X), expected.transform(X), rtol=1e-4, atol=1e-6
    )


def test_a_transformer_is_cloned_and_kept(counts):
    given = TfidfTransformer(sublinear_tf=True)
    before = vars(given).copy()
    model = small(input_transform=given, max_refine_steps=0).fit(counts)
    assert vars(given) == before
    with pytest.raises(NotFittedError):
        given.transform(counts)
    assert model.get_params()["input_transform"] is given
    expected = model.transform(counts)
    given.set_params(sublinear_tf=False)
    np.testing.assert_array_equal(model.transform(counts), expected)
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.transform(counts), expected)
    np.testing.assert_allclose(
        model.transform(counts.toarray()), expected, rtol=1e-5, atol=1e-6
    )
    model.partial_fit(counts)
    assert np.isfinite(model.score(counts))


class OtherProcesses:
    """Tasks that are run, like their results, on copies."""

    def __init__(self, **settings):
        self.settings = settings

    def __call__(self, tasks):
        for task in tasks:
            function, args, settings = pickle.loads(pickle.dumps(task))
            yield pickle.loads(pickle.dumps(function(*args, **settings)))


def test_restarts_in_other_processes_bring_their_transformer(counts, monkeypatch):
    parameters = {"n_init": 2, "max_iter": 1, "max_refine_steps": 0}
    alone = small(input_transform=TfidfTransformer(), **parameters).fit(counts)
    monkeypatch.setattr("skdeepfactor._estimator.fitting.Parallel", OtherProcesses)
    model = small(input_transform=TfidfTransformer(), **parameters).fit(counts)
    np.testing.assert_array_equal(model.transform(counts), alone.transform(counts))


@pytest.mark.parametrize("likelihood", ["multinomial", "poisson"])
def test_behind_tfidf_in_a_pipeline(counts, likelihood):
    pipeline = make_pipeline(TfidfTransformer(), small(likelihood=likelihood))
    Z = pipeline.fit_transform(counts)
    assert Z.shape == (60, 3)
    assert np.isfinite(Z).all()
    assert np.isfinite(pipeline.score(counts))
    bounds = pipeline[-1].history_["lower_bound"]
    assert bounds[-1] > bounds[0]


# Learning.


def test_warm_ups_of_updates_and_of_shares_are_alike(counts):
    fits = {
        warmup: small(batch_size=20, max_iter=4, kl_warmup=warmup).fit(counts)
        for warmup in (0, 0.0, 6, 0.5, 12, 1.0)
    }
    components = {warmup: model.components_ for warmup, model in fits.items()}
    np.testing.assert_array_equal(components[0], components[0.0])
    np.testing.assert_array_equal(components[6], components[0.5])
    np.testing.assert_array_equal(components[12], components[1.0])
    assert (components[0] != components[6]).any()
    assert (components[6] != components[12]).any()


def test_patience_starts_after_the_warm_up_and_large_steps(counts):
    settings = {"n_iter_no_change": 1, "max_iter": 20, "learning_rate": 0.3}
    X, X_val = counts[:40], counts[40:]
    impatient = small(**settings).fit(X, X_val=X_val)
    patient = small(kl_warmup=0.95, **settings).fit(X, X_val=X_val)
    assert impatient.n_iter_ > 17
    assert patient.n_iter_ == 20


def begun(model, X, *, hidden_weight=None):
    """A module at the first of many updates, and X as its batch."""
    module = model.fit(X)._load(torch.float64)
    if hidden_weight is not None:
        module.decoder.hidden_weight.data.fill_(hidden_weight)
        module.n_updates.zero_()
    module.begin(Budget(1000, 1000))
    module.train()
    return module, batch_of(X)


def test_a_warm_fit_goes_on_with_its_hidden_layers(counts):
    model = small(decoder_layers=(4,), max_iter=2, learning_rate=0.05)
    for hidden_weight, is_learnt in ((None, True), (0.0, False)):
        module, x = begun(model, counts, hidden_weight=hidden_weight)
        module.seed(0)
        module.backward(x, len(x))
        assert bool(module.decoder.hidden.weights[0].grad.any()) == is_learnt


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_rows_are_refined_by_the_decoder_that_learns(counts, objective):
    sampled = {"objective": objective, "n_particles": 2, "max_iter": 1}
    model = small(decoder_layers=(4,), **sampled)
    module, x = begun(model, counts, hidden_weight=0.0)
    means = []
    for hidden_weight in (0.0, 1.0):
        module.decoder.hidden_weight.data.fill_(hidden_weight)
        module.decoder.hidden_weight.data[::2] *= -1
        module.refresh()
        module.seed(0)
        means.append(module.posterior(x).mean)
    # Importance weights are of the hidden layers from the first update on.
    assert torch.equal(*means) == (objective == "elbo")


def test_a_share_of_a_stream_is_no_warm_up(counts):
    streams = [small(kl_warmup=warmup) for warmup in (0, 0.5, 30)]
    for stream in streams:
        stream.partial_fit(counts[:30]).partial_fit(counts[30:])
    plain, share, updates = (stream.components_ for stream in streams)
    np.testing.assert_array_equal(plain, share)
    assert (plain != updates).any()


@pytest.mark.parametrize("refine_steps", [0, 3])
@pytest.mark.parametrize(
    ("objective", "alpha"),
    [("iwae", 0.5), ("renyi", 0.5), ("renyi", 2.0), ("renyi", -0.5)],
)
def test_sampled_objectives_raise_the_bound_of_new_rows(
    planted_fit, objective, alpha, refine_steps
):
    X = planted_fit[0]
    model = small(
        objective=objective,
        renyi_alpha=alpha,
        n_particles=4,
        refine_steps=refine_steps,
        learning_rate=0.03,
        max_iter=6,
        max_refine_steps=3 * refine_steps,
        batch_size=100,
    ).fit(X[:300], X_val=X[300:])
    scores = model.history_["validation_score"]
    assert np.isfinite(scores).all()
    assert scores[-1] > scores[0] + 0.5


def test_importance_weights_change_what_is_learnt(counts):
    fits = [
        small(objective="renyi", renyi_alpha=alpha, n_particles=3).fit(counts)
        for alpha in (0.0, 0.5)
    ]
    iwae = small(objective="iwae", n_particles=3).fit(counts)
    np.testing.assert_array_equal(fits[0].components_, iwae.components_)
    assert (fits[1].components_ != iwae.components_).any()
    elbo = small().fit(counts)
    unused = small(renyi_alpha=0.1, n_particles=9).fit(counts)
    np.testing.assert_array_equal(elbo.components_, unused.components_)


def stream_of(X, **parameters):
    """A model after two passes of chunks; and its bounds of new rows on the way."""
    model, scores = small(**{"learning_rate": 0.02, **parameters}), []
    for _ in range(2):
        for start in range(0, 300, 100):
            model.partial_fit(X[start : start + 100], total_samples=300)
        scores.append(model.score(X[300:]))
    return model, scores


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"refine_steps": 0, "max_refine_steps": 0},
        {"likelihood": "dirichlet_multinomial"},
    ],
    ids=["refined", "network", "urn"],
)
def test_streams_raise_the_bound_of_new_rows_and_repeat(planted_fit, parameters):
    X = planted_fit[0]
    parameters = {"max_refine_steps": 10, **parameters}
    model, scores = stream_of(X, **parameters)
    assert scores[0] < scores[1]
    again, same = stream_of(X, **parameters)
    assert scores == same
    for name, array in model._parameters.items():
        np.testing.assert_array_equal(array, again._parameters[name])
    other, _ = stream_of(X[:360], **{**parameters, "random_state": 1})
    assert (other.components_ != model.components_).any()


@pytest.mark.parametrize(
    "parameters",
    [{"refine_steps": 0}, {"decoder_layers": (4,)}],
    ids=["linear", "deep"],
)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_diverging_run_keeps_the_last_finite_parameters(
    counts, likelihood, parameters
):
    model = small(likelihood=likelihood, learning_rate=1e25, **parameters)
    with pytest.warns(ConvergenceWarning, match="Lower learning_rate"):
        model.fit(counts)
    assert all(np.isfinite(array).all() for array in model._parameters.values())
    assert np.isfinite(model.components_).all()
    assert np.isfinite(model.lower_bound_)


def test_a_mixture_fits_clusters_better():
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(30, 0.3), size=4)
    X = np.array([rng.multinomial(40, topics[n % 4]) for n in range(400)])
    normal, mixture = (
        small(
            prior=prior,
            n_pseudo_inputs=8,
            learning_rate=0.05,
            max_iter=15,
            batch_size=100,
            max_refine_steps=20,
        ).fit(X[:300])
        for prior in ("normal", "mixture")
    )
    assert mixture.score(X[300:]) > normal.score(X[300:]) + 0.5


# Bad input.


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"free_bits": 0.1}, "free_bits needs refine_steps=0 and prior='normal'"),
        (
            {"free_bits": 0.1, "refine_steps": 0, "prior": "mixture"},
            "free_bits needs refine_steps=0 and prior='normal'",
        ),
        (
            {"covariance_type": "full", "decoder_layers": (4,)},
            "covariance_type='full' needs a linear decoder",
        ),
        (
            {"covariance_type": "full", "posterior_variance": 0.1},
            "posterior_variance fixes .* use one of them",
        ),
        ({"encoder_layers": (8, 0)}, r"encoder_layers must hold .*got \(8, 0\)"),
        ({"encoder_layers": (2.5,)}, "encoder_layers must hold positive ints"),
        ({"decoder_layers": [-3]}, r"decoder_layers must hold .*got \[-3\]"),
        ({"decoder_layers": ("4",)}, "decoder_layers must hold positive ints"),
        ({"encoder_layers": 400}, "'encoder_layers' parameter"),
        ({"objective": "iwae"}, "n_particles must be at least 2 .*'iwae', got 1"),
        (
            {"objective": "renyi", "renyi_alpha": 0.9},
            "n_particles must be at least 2 .*renyi_alpha=0.9, got 1",
        ),
        ({"renyi_alpha": np.inf}, "'renyi_alpha' parameter"),
        ({"kl_warmup": 1.5}, "'kl_warmup' parameter"),
        ({"kl_warmup": -1}, "'kl_warmup' parameter"),
        ({"input_transform": "log"}, "'input_transform' parameter"),
        ({"likelihood": "gaussian"}, "'likelihood' parameter"),
        (
            {"input_transform": FunctionTransformer(lambda X: X[:, :-1])},
            "must keep the number of columns, 30, but gave 29",
        ),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_parameters_that_contradict_each_other(counts, method, parameters, message):
    model = small(**parameters)
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(counts)
    assert vars(model) == model.get_params(deep=False)


@pytest.mark.parametrize("likelihood", ["dirichlet_multinomial", "negative_binomial"])
def test_urns_want_integers(counts, likelihood):
    model = small(likelihood=likelihood)
    message = f"likelihood='{likelihood}' needs integer counts"
    for X in (counts / 2, (counts / 2).toarray()):
        with pytest.raises(ValueError, match=message):
            model.fit(X)
    with pytest.raises(ValueError, match=message):
        make_pipeline(TfidfTransformer(), model).fit(counts)
    model.fit(counts.astype(np.float32))
    with pytest.raises(ValueError, match=message):
        model.transform(counts / 2)


def test_one_particle_is_enough_for_the_elbo(counts):
    model = small(objective="renyi", renyi_alpha=1.0, n_particles=1, max_iter=2)
    assert np.isfinite(model.fit(counts).lower_bound_)


MILLIONS = np.array([[1e6, 0, 0], [0, 1, 1e6], [1, 2, 0]])
UGLY = {
    "rows without words": np.diag([3.0, 0, 2, 0, 0, 1]).astype(np.float32),
    "one word a million times": MILLIONS,
    "one word a million times, float32": MILLIONS.astype(np.float32),
    "one word a million times, alone": np.array([[1e6, 0, 0, 0]], dtype=np.float32),
    "one document": np.array([[3.0, 0, 1, 2]]),
    "vocabulary of one": np.array([[3.0], [0], [1e6]], dtype=np.float32),
}
SETTINGS = {
    "full": {"covariance_type": "full"},
    "urn": {"likelihood": "dirichlet_multinomial", "covariance_type": "full"},
    "poisson": {"likelihood": "poisson", "prior": "vamp", "n_pseudo_inputs": 2},
    "negative binomial": {"likelihood": "negative_binomial"},
    "network": {"refine_steps": 0, "max_refine_steps": 0, "input_transform": "counts"},
    "deep": {"decoder_layers": (4,), "likelihood": "poisson"},
    "deep urn": {"decoder_layers": (1, 9), "likelihood": "dirichlet_multinomial"},
    "plain stack": {"decoder_layers": (4,), "skip_connections": False},
}


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("X", UGLY.values(), ids=UGLY.keys())
def test_ugly_data(X, parameters):
    X = scipy.sparse.csr_matrix(X)
    model = small(7, **{"max_refine_steps": 5, "max_iter": 2, **parameters}).fit(X)
    Z = model.transform(X)
    assert Z.shape == (X.shape[0], 7)
    assert Z.dtype == X.dtype
    for values in (
        Z,
        model.components_,
        model.lower_bound_,
        model.score_samples(X),
        model.score_samples(X, metric="iwae", n_particles=3),
        model.inverse_transform(Z),
    ):
        assert np.isfinite(values).all()
    if X.nnz:
        assert model.perplexity(X) > 1 - 1e-5


UGLY_COUNTS = numpy_strategies.arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(1, 4)),
    elements=st.sampled_from([0.0, 1.0, 2.0, 7.0, 1e6]),
)


@given(
    X=UGLY_COUNTS,
    layers=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    n_components=st.integers(1, 6),
    likelihood=st.sampled_from(sorted(LIKELIHOODS)),
)
def test_deep_decoders_of_any_widths_bear_with_any_counts(
    X, layers, n_components, likelihood
):
    X = np.vstack([X, X[:1]])
    model = small(
        n_components,
        likelihood=likelihood,
        decoder_layers=tuple(layers),
        max_refine_steps=3,
        max_iter=3,
    ).fit(X)
    bounds = model.score_samples(X)
    assert np.isfinite(bounds).all()
    # Rows that are alike get the same noise.
    np.testing.assert_allclose(bounds[-1], bounds[0], rtol=1e-9)
    assert np.isfinite(model.components_).all()
    assert np.isfinite(model.predictive(X)).all()


def test_a_model_scores_rows_that_are_unlike_its_own(planted_fit):
    _, _, model = planted_fit
    X = np.zeros((4, 40))
    X[0, 3], X[1] = 1e6, 1e6
    X[2, 5] = 1
    for dtype in (np.float32, np.float64):
        for method in (model.transform, model.score_samples, model.predictive):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert np.isfinite(method(X.astype(dtype))).all()
    assert model.score_samples(X)[3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("parameters", [{"kl_warmup": 5}, {"free_bits": 0.5}])
def test_sampled_objectives_have_no_divergence_to_weigh(parameters, counts):
    model = small(objective="iwae", n_particles=3, refine_steps=0, **parameters)
    with pytest.raises(ValueError, match="only objective='elbo' has"):
        model.fit(counts)


@pytest.mark.parametrize("row", [(3889214, 8751561), (379523347, 685541984)])
def test_rounding_makes_no_variance_negative(row):
    """Loadings that are all the same: their variance over words is 0, or below it."""
    X = scipy.sparse.csr_matrix(np.array([(0, 0), (0, 0), row], dtype=np.int32))
    model = small(1, max_iter=3).fit(X)
    assert np.isfinite(model.score_samples(X)).all()


def test_an_interrupt_after_the_last_pass_keeps_the_fit(counts, monkeypatch):
    def stop(self, module, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(NeuralTopicDLGM, "_finish", stop)
    model = NeuralTopicDLGM(2, max_iter=2, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(counts)
    assert model.n_iter_ == 2
    assert np.isfinite(model.transform(counts)).all()


def test_counts_that_no_integer_holds_end_no_fit(counts):
    X = counts.toarray().astype(np.float64)
    X[0, 0] = 1e19
    model = NeuralTopicDLGM(2, max_iter=2, random_state=0).fit(X)
    assert np.isfinite(model.predictive(X[:2])).all()
