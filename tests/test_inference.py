import functools
import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
from numpy.testing import assert_allclose
from torch.distributions import (
    Bernoulli,
    Beta,
    Exponential,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
)

from skdeepfactor._math.importance import check_objective, importance_bound, renyi_bound

ALPHAS = [-1.0, 0.0, 0.2, 0.5, 1.0, 2.0, 5.0]


class ScoreNormal(Normal):
    """A normal distribution that cannot be differentiated through its draws."""

    has_rsample = False


class ScoreGamma(Gamma):
    has_rsample = False


class ScoreBeta(Beta):
    has_rsample = False


def tensor(values, device):
    return torch.tensor(values, dtype=torch.float64, device=device)


def seeded(seed, device):
    return torch.Generator(device).manual_seed(seed)


class LinearGaussian:
    """Rows x ~ N(W z, .5^2 I) of five features, with two factors z ~ N(0, I)."""

    def __init__(self, n_rows, device):
        rng = np.random.default_rng(0)
        self.weights = tensor(rng.normal(size=(5, 2)), device)
        self.identity = torch.eye(5, dtype=torch.float64, device=device)
        self.x = tensor(rng.normal(0, 1.5, (n_rows, 5)), device)

    def log_joint(self, z):
        log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
        return log_prior + Normal(z @ self.weights.T, 0.5).log_prob(self.x).sum(-1)

    def evidence(self):
        covariance = self.weights @ self.weights.T + 0.25 * self.identity
        return MultivariateNormal(self.x.new_zeros(5), covariance).log_prob(self.x)

    def posterior(self, width=1.0, shift=0.0):
        precision = self.identity[:2, :2] + 4 * self.weights.T @ self.weights
        covariance = precision.inverse()
        mean = 4 * self.x @ self.weights @ covariance
        return MultivariateNormal(mean + shift, width * covariance)


def standard_error(values):
    return values.std(0) / math.sqrt(len(values))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_renyi_bound_is_the_formula(alpha, device):
    rng = np.random.default_rng(0)
    log_weights = rng.normal(-3, 2, (6, 4))
    bounds = renyi_bound(tensor(log_weights, device), alpha)
    expected = log_weights.mean(0)
    if alpha != 1:
        powers = (1 - alpha) * log_weights
        expected = (scipy.special.logsumexp(powers, 0) - np.log(6)) / (1 - alpha)
    assert_allclose(bounds.cpu(), expected, rtol=1e-13)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_renyi_bound_has_normalised_weights_for_a_derivative(alpha, device):
    rng = np.random.default_rng(0)
    log_weights = tensor(rng.normal(-3, 2, (6, 4)), device).requires_grad_()
    renyi_bound(log_weights, alpha).sum().backward()
    expected = torch.softmax((1 - alpha) * log_weights.detach(), 0)
    assert_allclose(log_weights.grad.cpu(), expected.cpu(), rtol=1e-12, atol=1e-15)


def test_renyi_bound_falls_with_alpha(device):
    rng = np.random.default_rng(0)
    log_weights = tensor(rng.normal(0, 4, (5, 200)), device)
    bounds = [renyi_bound(log_weights, alpha) for alpha in ALPHAS]
    for higher, lower in itertools.pairwise(bounds):
        assert (higher > lower).all()
    assert (log_weights.amax(0) > bounds[0]).all()
    assert (log_weights.amin(0) < bounds[-1]).all()


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-12, 2**-52])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 10.0])
def test_renyi_bound_is_continuous_at_the_elbo(gap, scale, device):
    rng = np.random.default_rng(0)
    log_weights = tensor(100 + rng.normal(0, scale, (50, 20)), device)
    elbo = renyi_bound(log_weights, 1.0)
    # Minus the derivative with respect to alpha; the next one has cubes in it.
    slope = log_weights.var(0, correction=0) / 2
    rest = 2 * gap**2 * scale**3 + 1e-13
    for alpha in (1 - gap, 1 + gap):
        bounds = renyi_bound(log_weights, alpha)
        expected = elbo + (1 - alpha) * slope
        assert_allclose(bounds.cpu(), expected.cpu(), rtol=0, atol=rest)


@pytest.mark.parametrize("alpha", [*ALPHAS, 1 + 1e-12])
def test_one_particle_gives_its_own_weight(alpha, device):
    log_weights = tensor([[-1e30, -700.5, 0.0, 0.1, 1e5]], device).requires_grad_()
    bounds = renyi_bound(log_weights, alpha)
    assert torch.equal(bounds, log_weights[0])
    bounds.sum().backward()
    assert_allclose(log_weights.grad.cpu(), 1.0, rtol=1e-15)


def test_extreme_weights(device):
    log_weights = tensor([[-1e30, 1e5, -1e30, 1e5], [0, 1e5, -1e30, -1e5]], device)
    expected = {
        0.0: [-math.log(2), 1e5, -1e30, 1e5 - math.log(2)],
        0.5: [-2 * math.log(2), 1e5, -1e30, 1e5 - 2 * math.log(2)],
        1.0: [-5e29, 1e5, -1e30, 0],
        2.0: [-1e30, 1e5, -1e30, -1e5 + math.log(2)],
    }
    for alpha, bounds in expected.items():
        log_weights.requires_grad_().grad = None
        result = renyi_bound(log_weights, alpha)
        assert_allclose(result.detach().cpu(), bounds, rtol=1e-15)
        result.sum().backward()
        assert_allclose(log_weights.grad.sum(0).cpu(), 1.0, rtol=1e-15)


def test_impossible_particles(device):
    log_weights = tensor([[-math.inf, -math.inf], [1.0, -math.inf]], device)
    for alpha, expected in [(0.0, 1 - math.log(2)), (1.0, -math.inf), (2.0, -math.inf)]:
        bounds = renyi_bound(log_weights, alpha)
        assert_allclose(bounds.cpu(), [expected, -math.inf])


def test_bounds_are_float64(device):
    log_weights = tensor([[1e5], [1e5 + 1]], device).float()
    for alpha in (0.0, 1.0):
        assert renyi_bound(log_weights, alpha).dtype == torch.float64
    q = Normal(torch.zeros(3, device=device), 1.0)
    bounds, surrogate = importance_bound(
        q.log_prob, q, 0.0, 2, generator=seeded(0, device)
    )
    assert bounds.dtype == surrogate.dtype == torch.float64


@pytest.mark.parametrize(
    ("alpha", "n_particles"), [(1.0, 1), *itertools.product(ALPHAS, [2, 7])]
)
def test_the_exact_posterior_gives_the_evidence(alpha, n_particles, device):
    model = LinearGaussian(8, device)
    bounds, surrogate = importance_bound(
        model.log_joint,
        model.posterior(),
        alpha,
        n_particles,
        generator=seeded(0, device),
    )
    assert bounds.shape == surrogate.shape == (8,)
    assert_allclose(bounds.cpu(), model.evidence().cpu(), rtol=1e-8, atol=1e-8)
    assert torch.equal(bounds, surrogate)


def test_bounds_rise_to_the_evidence(device):
    n_draws = 40_000
    model = LinearGaussian(1, device)
    evidence = model.evidence().item()
    model.x = model.x.expand(n_draws, -1)
    q = model.posterior(width=3.0, shift=0.2)
    generator = seeded(0, device)
    settings = [(1.0, 1), (1.0, 4), (0.0, 2), (0.0, 3), (0.0, 4), (0.0, 8), (0.0, 9)]
    bounds = torch.stack(
        [
            importance_bound(model.log_joint, q, alpha, n, generator=generator)[0]
            for alpha, n in settings
        ],
        1,
    )
    means, errors = bounds.mean(0).tolist(), standard_error(bounds).tolist()
    # The ELBO has a closed form, whatever the number of particles.
    exact = evidence - torch.distributions.kl_divergence(q, model.posterior())[0]
    for mean, error in zip(means[:2], errors[:2], strict=True):
        assert abs(mean - exact.item()) < 5 * error
    for i, j in itertools.pairwise(range(1, len(means))):
        assert means[i] < means[j] + 4 * math.hypot(errors[i], errors[j])
    assert means[-1] < evidence + 4 * errors[-1]
    # These are so far apart that noise cannot explain it.
    assert means[1] < means[2] - 0.1 < means[4] - 0.15 < evidence - 0.2


def test_bounds_of_one_set_of_particles_fall_with_alpha(device):
    model = LinearGaussian(50, device)
    q = model.posterior(width=2.0, shift=0.3)
    bounds = [
        importance_bound(model.log_joint, q, alpha, 5, generator=seeded(0, device))[0]
        for alpha in ALPHAS
    ]
    for higher, lower in itertools.pairwise(bounds):
        assert (higher > lower).all()


def test_many_particles_give_the_evidence(device):
    model = LinearGaussian(20, device)
    q = model.posterior(width=1.2)
    bounds, _ = importance_bound(
        model.log_joint, q, 0.0, 5000, generator=seeded(0, device)
    )
    assert_allclose(bounds.cpu(), model.evidence().cpu(), rtol=0, atol=0.01)


# A model small enough for exact gradients: x ~ N(theta z, 1) and z ~ N(0, 1), with
# q = N(mean, exp(log_scale)^2). Values of theta, mean and log_scale.
SCALAR = [1.3, 0.2, -0.1]


def scalar_log_joint(z, theta):
    return Normal(0.0, 1.0).log_prob(z) + Normal(theta * z, 1.0).log_prob(
        torch.ones((), dtype=z.dtype, device=z.device)
    )


def exact_scalar_gradient(alpha, n_particles, n_nodes=36):
    """Gradient of the expected bound, by Gauss-Hermite quadrature over all draws."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(n_nodes)
    noise = torch.cartesian_prod(*[torch.tensor(nodes)] * n_particles)
    noise = noise.reshape(-1, n_particles).T
    shares = torch.tensor(shares / shares.sum())
    shares = torch.cartesian_prod(*[shares] * n_particles)
    shares = shares.reshape(-1, n_particles).prod(1)
    parameters = torch.tensor(SCALAR, dtype=torch.float64, requires_grad=True)
    theta, mean, log_scale = parameters
    z = mean + log_scale.exp() * noise
    log_weights = scalar_log_joint(z, theta)
    log_weights = log_weights - Normal(mean, log_scale.exp()).log_prob(z)
    (shares * renyi_bound(log_weights, alpha)).sum().backward()
    return parameters.grad


def assert_unbiased(samples, expected):
    deviation = samples.mean(0) - expected.to(samples.device)
    assert (deviation.abs() < 5 * standard_error(samples)).all()


@pytest.mark.parametrize("family", [Normal, ScoreNormal])
@pytest.mark.parametrize(
    ("alpha", "n_particles"), [(1.0, 1), (1.0, 3), (0.0, 2), (0.0, 3), (0.5, 3), (2, 3)]
)
def test_gradients_are_unbiased(family, alpha, n_particles, device):
    expected = exact_scalar_gradient(alpha, n_particles)
    finer = exact_scalar_gradient(alpha, n_particles, n_nodes=40)
    assert_allclose(expected, finer, atol=1e-4)
    # Each row has its own copy of the parameters, and so its own draw of the gradient.
    parameters = tensor([SCALAR], device).repeat(100_000, 1).requires_grad_()
    theta, mean, log_scale = parameters.T
    _, surrogate = importance_bound(
        functools.partial(scalar_log_joint, theta=theta),
        family(mean, log_scale.exp()),
        alpha,
        n_particles,
        generator=seeded(1, device),
    )
    surrogate.sum().backward()
    assert_unbiased(parameters.grad, expected)


@pytest.mark.parametrize(
    ("alpha", "n_particles"), [(1.0, 1), (1.0, 3), (0.0, 2), (0.0, 4), (0.5, 3), (2, 3)]
)
def test_discrete_gradients_are_unbiased(alpha, n_particles, device):
    # z is 0 or 1, so that the expectation is a sum over all that can be drawn.
    def log_joint(z, theta):
        log_prior = Bernoulli(probs=torch.full_like(z, 0.3)).log_prob(z)
        return log_prior + Normal(theta * z, 1.0).log_prob(torch.ones_like(z))

    exact = tensor([1.7, 0.4], "cpu").requires_grad_()
    theta, logit = exact
    z = tensor(list(itertools.product([0, 1], repeat=n_particles)), "cpu").T
    log_q = Bernoulli(logits=logit).log_prob(z)
    bounds = renyi_bound(log_joint(z, theta) - log_q, alpha)
    (log_q.sum(0).exp() * bounds).sum().backward()

    parameters = tensor([[1.7, 0.4]], device).repeat(100_000, 1).requires_grad_()
    theta, logit = parameters.T
    values, surrogate = importance_bound(
        functools.partial(log_joint, theta=theta),
        Bernoulli(logits=logit),
        alpha,
        n_particles,
        generator=seeded(0, device),
    )
    assert torch.equal(values, surrogate)
    surrogate.sum().backward()
    assert_unbiased(parameters.grad, exact.grad)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_score_gradients_vanish_at_the_exact_posterior(alpha, device):
    # z ~ N(0, 1) and x = 1 ~ N(z, 1).
    mean = tensor([0.5], device).requires_grad_()
    scale = tensor([math.sqrt(0.5)], device).requires_grad_()
    bounds, surrogate = importance_bound(
        functools.partial(scalar_log_joint, theta=1.0),
        ScoreNormal(mean, scale),
        alpha,
        4,
        generator=seeded(0, device),
    )
    surrogate.sum().backward()
    evidence = Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(1.0))
    assert_allclose(bounds.cpu(), evidence, rtol=1e-6)
    assert_allclose(mean.grad.cpu(), 0, atol=1e-12)
    assert_allclose(scale.grad.cpu(), 0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_score_gradients_have_baselines_from_the_other_particles(alpha, device):
    mean = tensor([0.2, -0.3], device).requires_grad_()
    q = ScoreNormal(mean, 1.0)
    seen = []

    def log_joint(z):
        seen.append(z)
        return scalar_log_joint(z, 1.3)

    bounds, surrogate = importance_bound(
        log_joint, q, alpha, 3, generator=seeded(0, device)
    )
    surrogate.sum().backward()
    with torch.no_grad():
        z = seen[0]
        log_weights = scalar_log_joint(z, 1.3) - q.log_prob(z)
        shares = torch.softmax((1 - alpha) * log_weights, 0)
        expected = torch.zeros_like(mean)
        for k in range(3):
            others = log_weights[[j for j in range(3) if j != k]]
            signal = bounds - renyi_bound(others, alpha) - shares[k] + 1 / 3
            expected += signal * (z[k] - mean)
    assert_allclose(mean.grad.cpu(), expected.cpu(), rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_baselines_remove_constants(alpha, device):
    gradients = []
    for constant in (0.0, 1000.0):
        mean = tensor([0.2, -0.3], device).requires_grad_()
        _, surrogate = importance_bound(
            lambda z, c=constant: scalar_log_joint(z, 1.3) + c,
            ScoreNormal(mean, 1.0),
            alpha,
            3,
            generator=seeded(0, device),
        )
        surrogate.sum().backward()
        gradients.append(mean.grad.cpu())
    assert_allclose(*gradients, rtol=1e-9)


def test_gradients_survive_a_hopeless_particle(device):
    for family, alpha in itertools.product([Normal, ScoreNormal], [0.0, 0.5, 1.0, 2.0]):
        mean = tensor([0.0, 0.0], device).requires_grad_()
        bounds, surrogate = importance_bound(
            lambda z: torch.where(z == z.amin(0), -1e30, -z.square()),
            family(mean, 1.0),
            alpha,
            4,
            generator=seeded(0, device),
        )
        surrogate.sum().backward()
        assert bounds.isfinite().all()
        assert mean.grad.isfinite().all()


def test_sites_of_a_dict(device):
    # Independent factors a and b in one dict, against both in one distribution.
    model = LinearGaussian(6, device)
    model.weights[:, 1] -= model.weights[:, 0] * (
        (model.weights[:, 0] @ model.weights[:, 1]) / model.weights[:, 0].square().sum()
    )
    joint = model.posterior()
    scales = joint.variance.sqrt()
    sites = {
        "a": Normal(joint.mean[:, 0], scales[:, 0]),
        "b": Independent(Normal(joint.mean[:, 1:], scales[:, 1:]), 1),
    }

    def log_joint(z):
        assert z.keys() == sites.keys()
        return model.log_joint(torch.cat([z["a"][..., None], z["b"]], -1))

    for alpha in ALPHAS:
        bounds, _ = importance_bound(
            log_joint, sites, alpha, 3, generator=seeded(0, device)
        )
        assert_allclose(bounds.cpu(), model.evidence().cpu(), rtol=1e-8)


@pytest.mark.parametrize("families", [(Normal, Normal), (ScoreNormal, ScoreNormal)])
def test_gradients_of_sites_of_a_dict(families, device):
    # The same model twice over: ELBOs add up, and each site has its own gradient.
    expected = exact_scalar_gradient(1.0, 1)[1:]
    parameters = tensor([SCALAR[1:] * 2], device).repeat(100_000, 1).requires_grad_()
    mean_a, scale_a, mean_b, scale_b = parameters.T
    q = {
        "a": families[0](mean_a, scale_a.exp()),
        "b": families[1](mean_b, scale_b.exp()),
    }
    _, surrogate = importance_bound(
        lambda z: scalar_log_joint(z["a"], 1.3) + scalar_log_joint(z["b"], 1.3),
        q,
        1.0,
        2,
        generator=seeded(0, device),
    )
    surrogate.sum().backward()
    assert_unbiased(parameters.grad, expected.repeat(2))


# Conjugate models, as in Pyro's tests of its Rényi bounds: what is learnt are the two
# parameters of q. Those tests take 2,500 to 12,500 steps of Adam at 2e-4 to 1e-3 with
# the noise of one row. Here 200 rows hold the same data and share the parameters, which
# takes as much noise out of the gradient, and 500 steps are larger and end small.
CONJUGATE = {
    # z ~ N(0, 1 / .1), x ~ N(z, 1)
    "normal-normal": (
        lambda z: (
            Normal(0.0, 0.1**-0.5).log_prob(z)
            + sum(Normal(z, 1.0).log_prob(z.new_tensor(x)) for x in (0.3, -0.5, 1.4))
        ),
        lambda p: (p[0], p[1].exp()),
        (1.2 / 3.1, 3.1**-0.5),
    ),
    # z ~ Gamma(1, 1), x ~ Poisson(z)
    "gamma-poisson": (
        lambda z: (
            -z + sum(Poisson(z).log_prob(z.new_tensor(x)) for x in (1.0, 2.0, 3.0))
        ),
        lambda p: p.exp(),
        (7.0, 4.0),
    ),
    # z ~ Gamma(1, 1), x ~ Exponential(z)
    "gamma-exponential": (
        lambda z: (
            -z + sum(Exponential(z).log_prob(z.new_tensor(x)) for x in (3.0, 2.0))
        ),
        lambda p: p.exp(),
        (3.0, 6.0),
    ),
    # z ~ Beta(1, 1), x ~ Bernoulli(z)
    "beta-bernoulli": (
        lambda z: sum(
            Bernoulli(probs=z).log_prob(z.new_tensor(x)) for x in (0.0, 1.0, 1.0, 1.0)
        ),
        lambda p: p.exp(),
        (4.0, 2.0),
    ),
}


@pytest.mark.parametrize(
    ("model", "family", "alpha", "n_particles", "tol"),
    [
        ("normal-normal", Normal, 0.0, 3, 0.05),
        ("normal-normal", ScoreNormal, 0.0, 3, 0.05),
        ("gamma-poisson", Gamma, 0.0, 2, 0.2),
        ("gamma-poisson", ScoreGamma, 0.2, 2, 0.15),
        ("gamma-exponential", Gamma, 0.2, 3, 0.2),
        ("gamma-exponential", ScoreGamma, 0.2, 3, 0.25),
        ("beta-bernoulli", Beta, 0.0, 2, 0.08),
        ("beta-bernoulli", ScoreBeta, 0.2, 2, 0.08),
        # Other orders have the same optimum.
        ("gamma-poisson", Gamma, 1.0, 1, 0.2),
        ("gamma-poisson", ScoreGamma, 1.0, 2, 0.15),
        ("gamma-poisson", ScoreGamma, 2.0, 2, 0.15),
    ],
)
def test_conjugate_posteriors_are_learnt(
    model, family, alpha, n_particles, tol, device
):
    log_joint, constrained, expected = CONJUGATE[model]
    parameters = tensor([0.4, 0.4], device).requires_grad_()
    n_rows, n_steps = 200, 500
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    generator = seeded(0, device)
    for _ in range(n_steps):
        first, second = constrained(parameters)
        q = family(first.expand(n_rows), second.expand(n_rows))
        _, surrogate = importance_bound(
            log_joint, q, alpha, n_particles, generator=generator
        )
        optimizer.zero_grad()
        (-surrogate.mean()).backward()
        optimizer.step()
        schedule.step()
    learnt = [value.item() for value in constrained(parameters)]
    assert_allclose(learnt, expected, rtol=0, atol=tol)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_bounds_of_rows_add_up_whatever_the_batch(alpha, device):
    rng = np.random.default_rng(0)
    log_weights = tensor(rng.normal(-50, 5, (4, 12)), device)
    total = renyi_bound(log_weights, alpha).sum().item()
    for size in (1, 5, 12):
        parts = [renyi_bound(part, alpha).sum() for part in log_weights.split(size, 1)]
        assert_allclose(sum(parts).item(), total, rtol=1e-13)
    # Weights multiplied over rows first would lose most of what particles gain.
    if alpha < 1:
        assert renyi_bound(log_weights.sum(1, keepdim=True), alpha).item() < total - 1


@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("n_rows", [1, 7, 100])
def test_rows_that_tell_nothing_of_their_factors(alpha, n_rows, device):
    # 100 rows with p(x | z) = .6 and q the prior, in batches.
    total = 0.0
    generator = seeded(0, device)
    for rows in torch.zeros(100, dtype=torch.float64, device=device).split(n_rows):
        q = Normal(rows, 1.0)
        bounds, _ = importance_bound(
            lambda z, q=q: q.log_prob(z) + math.log(0.6),
            q,
            alpha,
            2,
            generator=generator,
        )
        total += bounds.sum().item()
    assert_allclose(total, 100 * math.log(0.6), rtol=1e-12)


@pytest.mark.parametrize("family", [Gamma, ScoreGamma])
def test_draws_come_from_the_generator_alone(family, device):
    shape = tensor([1.0, 2.0, 3.0], device).requires_grad_()

    def run(generator):
        shape.grad = None
        bounds, surrogate = importance_bound(
            lambda z: -z, family(shape, 1.5), 0.0, 3, generator=generator
        )
        surrogate.sum().backward()
        return torch.stack([bounds, shape.grad])

    is_cuda = torch.device(device).type == "cuda"
    states = [torch.get_rng_state()]
    states += [torch.cuda.get_rng_state()] if is_cuda else []
    generator = seeded(3, device)
    first, second = run(generator), run(generator)
    with torch.random.fork_rng([device] if is_cuda else []):
        torch.manual_seed(12)
        again = seeded(3, device)
        assert torch.equal(run(again), first)
        assert torch.equal(run(again), second)
    assert not torch.equal(first, second)
    assert not torch.equal(run(seeded(4, device)), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    if is_cuda:
        assert torch.equal(torch.cuda.get_rng_state(), states[1])


def test_the_global_state_survives_an_error(device):
    class Broken(Normal):
        def rsample(self, sample_shape=()):
            super().rsample(sample_shape)
            raise RuntimeError("broken")

    state = torch.get_rng_state()
    q = Broken(tensor([0.0], device), 1.0)
    with pytest.raises(RuntimeError, match="broken"):
        importance_bound(q.log_prob, q, 1.0, 1, generator=seeded(0, device))
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_needs_no_memory_for_baselines(device):
    # 20,000 x 20,000 x 2 numbers would be 6 GB.
    mean = tensor([0.0, 0.1], device).requires_grad_()
    with torch.no_grad():
        bounds, surrogate = importance_bound(
            functools.partial(scalar_log_joint, theta=1.0),
            ScoreNormal(mean, 1.0),
            0.0,
            20_000,
            generator=seeded(0, device),
        )
    assert not surrogate.requires_grad
    evidence = Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(1.0))
    assert_allclose(bounds.cpu(), evidence, atol=0.05)


def test_bounds_have_no_gradient(device):
    mean = tensor([0.0, 0.1], device).requires_grad_()
    for family in (Normal, ScoreNormal):
        bounds, surrogate = importance_bound(
            torch.neg, family(mean, 1.0), 0.0, 2, generator=seeded(0, device)
        )
        assert not bounds.requires_grad
        assert surrogate.requires_grad
        assert torch.equal(bounds, surrogate)


def test_a_mix_of_sites_is_refused(device):
    zeros = tensor([0.0, 0.0], device)
    q = {"scale": Normal(zeros, 1.0), "gate": Bernoulli(logits=zeros)}
    with pytest.raises(ValueError, match=r"'scale' can .* 'gate' cannot\. Take"):
        importance_bound(lambda z: zeros, q, 1.0, 2, generator=seeded(0, device))


@pytest.mark.parametrize(
    ("alpha", "n_particles"), [(1.0, 0), (0.0, 1), (0.5, 1), (2.0, 0)]
)
def test_too_few_particles(alpha, n_particles, device):
    q = Normal(tensor([0.0], device), 1.0)
    match = f"n_particles must be at least {1 + (alpha != 1)} with alpha={alpha}, got"
    with pytest.raises(ValueError, match=match):
        importance_bound(q.log_prob, q, alpha, n_particles, generator=seeded(0, device))


def test_shapes_are_checked(device):
    zeros = tensor(np.zeros((3, 3)), device)
    generator = seeded(0, device)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 3, 3\)"):
        importance_bound(
            lambda z: z.sum(-1), Normal(zeros, 1.0), 1.0, 2, generator=generator
        )
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2, 3\)"):
        importance_bound(
            lambda z: zeros[0], Normal(zeros[0], 1.0), 1.0, 2, generator=generator
        )


def test_the_generator_is_on_the_device_of_the_draws():
    q = Normal(torch.zeros(2, device="meta"), 1.0, validate_args=False)
    with pytest.raises(ValueError, match=r"draws of 'z', meta, got .* cpu"):
        importance_bound(q.log_prob, q, 1.0, 1, generator=seeded(0, "cpu"))


@pytest.mark.parametrize(
    ("objective", "renyi_alpha", "n_particles", "alpha"),
    [
        ("elbo", 0.5, 1, 1.0),
        ("elbo", math.nan, 8, 1.0),
        ("iwae", 0.5, 2, 0.0),
        ("renyi", 0.5, 2, 0.5),
        ("renyi", 1, 1, 1.0),
        ("renyi", -2, 5, -2.0),
    ],
)
def test_check_objective(objective, renyi_alpha, n_particles, alpha):
    result = check_objective(objective, renyi_alpha, n_particles)
    assert isinstance(result, float)
    assert result == alpha


@pytest.mark.parametrize(
    ("objective", "renyi_alpha", "n_particles", "match"),
    [
        ("elbow", 0.5, 2, "objective must be one of 'elbo', 'iwae', .* got 'elbow'"),
        ("elbo", 0.5, 0, "n_particles must be at least 1 with objective='elbo', got 0"),
        ("iwae", 1.0, 1, "n_particles must be at least 2 with objective='iwae', got 1"),
        ("renyi", 0.5, 1, "least 2 with objective='renyi' and renyi_alpha=0.5, got 1"),
        ("renyi", math.inf, 2, "renyi_alpha must be finite, got inf"),
        ("renyi", math.nan, 2, "renyi_alpha must be finite, got nan"),
    ],
)
def test_check_objective_refuses(objective, renyi_alpha, n_particles, match):
    with pytest.raises(ValueError, match=match):
        check_objective(objective, renyi_alpha, n_particles)
