import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.distributions import Dirichlet, Gamma, kl_divergence

from skdeepfactor._math.gammas import (
    FLOORS,
    PRIOR_RANGE,
    digamma,
    digamma_and_log_gamma,
    dirichlet,
    dirichlet_kl,
    gamma_kl,
    gamma_shape,
    gamma_shape_and_rate,
    log_gamma_draws,
    log_product,
    scaled_exp,
    symmetric_dirichlet,
)
from skdeepfactor.distributions import GaussianMixture, SpikeSlab

DTYPES = [torch.float32, torch.float64]
KL_RTOL = {torch.float32: 1e-4, torch.float64: 1e-10}
DIGAMMA_ROOT = 1.4616321449683622


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    return request.param


def uniform(rng, low, high, shape, dtype, device):
    """Draw positive numbers, uniform on a log scale."""
    values = np.exp(rng.uniform(np.log(low), np.log(high), shape))
    return torch.tensor(values, dtype=dtype, device=device)


def mean_log_gamma(shape, rate):
    return torch.digamma(shape) - rate.log()


def mean_log_dirichlet(concentration):
    return torch.digamma(concentration) - torch.digamma(
        concentration.sum(-1, keepdim=True)
    )


@pytest.mark.parametrize(
    "points",
    [
        np.logspace(-6, 12, 20001),
        DIGAMMA_ROOT + np.linspace(-0.05, 0.05, 20001),
        np.r_[1e-6, DIGAMMA_ROOT, 1, 2, 1e12],
    ],
    ids=["range", "root", "points"],
)
def test_digamma(points, dtype, device):
    x = torch.tensor(points, dtype=dtype, device=device)
    result = digamma(x)
    assert result.dtype == dtype
    expected = scipy.special.digamma(x.double().cpu().numpy())
    tol = 1e-6 if dtype == torch.float32 else 1e-12
    assert_allclose(result.cpu(), expected, rtol=tol, atol=tol)


def test_digamma_and_log_gamma(dtype, device):
    points = np.r_[np.logspace(-9, 18, 20001), np.linspace(0.9, 2.1, 20001)]
    x = torch.tensor(points, dtype=dtype, device=device)
    found = digamma_and_log_gamma(x)
    assert [values.dtype for values in found] == [dtype, dtype]
    x = x.double().cpu().numpy()
    is_single = dtype == torch.float32
    tol = 1e-6 if is_single else 1e-12
    assert_allclose(found[0].cpu(), scipy.special.digamma(x), rtol=tol, atol=tol)
    atol = 4e-6 if is_single else 1e-14
    assert_allclose(found[1].cpu(), scipy.special.gammaln(x), rtol=tol, atol=atol)


@pytest.mark.parametrize("function", [digamma, digamma_and_log_gamma])
def test_special_functions_do_not_change_their_argument(function, dtype, device):
    x = torch.linspace(0.1, 9, 50, dtype=dtype, device=device)
    before = x.clone()
    function(x)
    assert torch.equal(x, before)


def test_digamma_keeps_shape_and_takes_strides(dtype, device):
    x = torch.linspace(0.1, 9, 12, dtype=dtype, device=device).reshape(3, 4)
    assert digamma(x).shape == (3, 4)
    assert_allclose(digamma(x.T).cpu(), digamma(x).T.cpu(), rtol=1e-6, atol=1e-6)
    assert digamma(x.sum()).shape == ()


@pytest.mark.parametrize("dim", [0, 1])
def test_scaled_exp(dim, dtype, device):
    rng = np.random.default_rng(0)
    log_values = torch.tensor(
        rng.normal(0, 3, (7, 5)) - 2000, dtype=dtype, device=device
    )
    before = log_values.clone()
    scaled, largest = scaled_exp(log_values, dim)
    assert torch.equal(log_values, before)
    assert scaled.dtype == dtype
    assert (scaled.amax(dim) == 1).all()
    assert_array_equal(largest.cpu(), log_values.amax(dim, keepdim=True).cpu())
    assert_allclose((scaled.log() + largest).cpu(), log_values.cpu(), rtol=1e-6)


def test_scaled_exp_has_a_floor(dtype, device):
    log_values = torch.tensor([[0.0, -1e4, -1e30]], dtype=dtype, device=device)
    scaled, largest = scaled_exp(log_values, 1)
    assert largest.item() == 0
    floor = torch.tensor(FLOORS[dtype], dtype=dtype).item()
    assert scaled.tolist() == [[1, floor, floor]]
    # The smallest mean that shares can be divided by, under the largest count.
    smallest = torch.tensor(FLOORS[dtype], dtype=dtype, device=device)
    assert torch.isfinite(1e9 / smallest)
    assert smallest > torch.finfo(dtype).tiny


def test_gamma_kl_is_the_divergence(dtype, device):
    rng = np.random.default_rng(1)
    shape, rate, prior_shape, prior_rate = (
        uniform(rng, 0.05, 50, (6, 4), dtype, device) for _ in range(4)
    )
    result = gamma_kl(
        shape,
        rate,
        mean_log_gamma(shape, rate),
        prior_shape,
        prior_rate,
        prior_rate.log(),
    )
    assert result.dtype == torch.float64
    assert result.shape == (6,)
    q = Gamma(shape.double(), rate.double())
    p = Gamma(prior_shape.double(), prior_rate.double())
    expected = kl_divergence(q, p).sum(1)
    assert_allclose(result.cpu(), expected.cpu(), rtol=KL_RTOL[dtype])


def test_gamma_kl_broadcasts(dtype, device):
    rng = np.random.default_rng(2)
    shape = uniform(rng, 0.1, 20, (6, 4), dtype, device)
    rate = uniform(rng, 0.1, 20, (4,), dtype, device)
    prior_shape = uniform(rng, 0.1, 20, (4,), dtype, device)
    prior_rate = uniform(rng, 0.1, 20, (6, 1), dtype, device)
    mean_log = mean_log_gamma(shape, rate)
    result = gamma_kl(shape, rate, mean_log, prior_shape, prior_rate, prior_rate.log())
    q = Gamma(shape.double(), rate.double().expand(6, 4))
    p = Gamma(prior_shape.double().expand(6, 4), prior_rate.double().expand(6, 4))
    expected = kl_divergence(q, p).sum(1).cpu()
    assert_allclose(result.cpu(), expected, rtol=KL_RTOL[dtype])
    result = gamma_kl(shape, rate, mean_log, 0.3, 2.0, math.log(2.0))
    p = Gamma(torch.full_like(q.mean, 0.3), torch.full_like(q.mean, 2.0))
    expected = kl_divergence(q, p).sum(1).cpu()
    assert_allclose(result.cpu(), expected, rtol=KL_RTOL[dtype])


def test_gamma_kl_of_the_prior_is_nothing(device):
    shape = torch.tensor([0.3, 1.0, 40.0], dtype=torch.float64, device=device)
    rate = torch.tensor([2.0, 0.1, 7.0], dtype=torch.float64, device=device)
    mean_log = mean_log_gamma(shape, rate)
    result = gamma_kl(shape, rate, mean_log, shape, rate, rate.log())
    assert abs(result.item()) < 1e-12


def test_gamma_kl_averages_over_an_uncertain_prior_rate(device):
    generator = np.random.default_rng(3)
    shape = torch.tensor([0.4, 3.0, 12.0], dtype=torch.float64, device=device)
    rate = torch.tensor([1.5, 0.5, 4.0], dtype=torch.float64, device=device)
    prior_shape, a, b = 0.7, 2.5, 1.2
    rates = torch.tensor(generator.gamma(a, 1 / b, (40000, 1)), device=device)
    divergences = kl_divergence(
        Gamma(shape, rate), Gamma(torch.full_like(shape, prior_shape), rates)
    ).sum(1)
    result = gamma_kl(
        shape,
        rate,
        mean_log_gamma(shape, rate),
        prior_shape,
        a / b,
        float(scipy.special.digamma(a) - np.log(b)),
    ).item()
    error = divergences.std().item() / math.sqrt(len(divergences))
    assert abs(divergences.mean().item() - result) < 4 * error
    # A rate that is known would give another number.
    known = gamma_kl(
        shape,
        rate,
        mean_log_gamma(shape, rate),
        prior_shape,
        a / b,
        math.log(a / b),
    ).item()
    assert abs(known - result) > 8 * error


def test_gamma_kl_keeps_its_arguments(dtype, device):
    rng = np.random.default_rng(4)
    arguments = [uniform(rng, 0.1, 9, (3, 2), dtype, device) for _ in range(6)]
    before = [argument.clone() for argument in arguments]
    gamma_kl(*arguments)
    assert all(map(torch.equal, arguments, before))


@pytest.mark.parametrize("prior", ["number", "vector", "matrix"])
def test_dirichlet_kl_is_the_divergence(prior, dtype, device):
    rng = np.random.default_rng(5)
    concentration = uniform(rng, 0.05, 200, (6, 9), dtype, device)
    priors = {
        "number": 0.3,
        "vector": uniform(rng, 0.1, 5, (9,), dtype, device),
        "matrix": uniform(rng, 0.1, 5, (6, 9), dtype, device),
    }
    before = concentration.clone()
    result = dirichlet_kl(
        concentration, mean_log_dirichlet(concentration), priors[prior]
    )
    assert torch.equal(concentration, before)
    assert result.dtype == torch.float64
    assert result.shape == (6,)
    full = torch.as_tensor(priors[prior], dtype=torch.float64, device=device)
    p = Dirichlet(full.expand(6, 9))
    expected = kl_divergence(Dirichlet(concentration.double()), p)
    assert_allclose(result.cpu(), expected.cpu(), rtol=KL_RTOL[dtype])


def test_dirichlet_kl_of_the_prior_is_nothing(device):
    concentration = torch.tensor([[0.3, 4.0, 0.01]], dtype=torch.float64, device=device)
    mean_log = mean_log_dirichlet(concentration)
    result = dirichlet_kl(concentration, mean_log, concentration)
    assert abs(result.item()) < 1e-12


def maximum(bound, start):
    """Where a bound of positive parameters is highest, by SciPy."""
    found = scipy.optimize.minimize(
        lambda t: -bound(np.exp(t)),
        np.log(start),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 20000, "maxfev": 20000},
    )
    assert found.success
    return np.exp(found.x)


@pytest.mark.parametrize("mean_log_ratio", [-20.0, -1.3, 0.0, 4.0])
def test_gamma_shape_maximises_the_bound(mean_log_ratio):
    def bound(a):
        return float(a[0] * mean_log_ratio - scipy.special.gammaln(a[0]))

    shape = gamma_shape(mean_log_ratio)
    assert isinstance(shape, float)
    assert_allclose(shape, maximum(bound, [1.0])[0], rtol=1e-5)
    assert_allclose(scipy.special.digamma(shape), mean_log_ratio, atol=1e-9)


@pytest.mark.parametrize(("shape", "rate"), [(0.2, 3.0), (1.0, 1.0), (30.0, 0.01)])
def test_gamma_shape_and_rate_maximise_the_bound(shape, rate):
    # Moments of posteriors are spread like these, and a little less uncertain.
    mean = shape / rate
    mean_log = scipy.special.digamma(shape) - np.log(rate)
    assert_allclose(gamma_shape_and_rate(mean, mean_log), (shape, rate), rtol=1e-8)

    mean_log -= 0.2

    def bound(parameters):
        a, b = parameters
        return float(a * np.log(b) - scipy.special.gammaln(a) + a * mean_log - b * mean)

    found = gamma_shape_and_rate(mean, mean_log)
    assert all(isinstance(value, float) for value in found)
    assert_allclose(found, maximum(bound, [shape, rate]), rtol=1e-4)


@pytest.mark.parametrize("mean_log", [-400.0, -5.0, -2.5])
def test_symmetric_dirichlet_maximises_the_bound(mean_log):
    n = 10

    def bound(c):
        gammaln = scipy.special.gammaln
        value = gammaln(n * c[0]) - n * gammaln(c[0]) + n * c[0] * mean_log
        return float(value)

    concentration = symmetric_dirichlet(mean_log, n)
    assert_allclose(concentration, maximum(bound, [0.5])[0], rtol=1e-5)


@pytest.mark.parametrize("start", [0.01, 1.0, 100.0])
def test_dirichlet_maximises_the_bound(start):
    mean_log = np.array([-3.0, -1.2, -40.0, -2.0])

    def bound(alpha):
        gammaln = scipy.special.gammaln
        return float(
            gammaln(alpha.sum()) - gammaln(alpha).sum() + (alpha * mean_log).sum()
        )

    alpha = dirichlet(mean_log, np.full(4, start))
    assert_allclose(alpha, maximum(bound, np.full(4, 0.3)), rtol=1e-4)
    gradient = scipy.special.digamma(alpha.sum()) - scipy.special.digamma(alpha)
    assert_allclose(gradient + mean_log, 0, atol=1e-7)


@pytest.mark.parametrize(
    "expected", [[0.1, 0.1], [0.02, 0.5, 3.0], [1e-3, 1.0], [500.0, 900.0, 1e4]]
)
@pytest.mark.parametrize("start", [0.1, 30.0])
def test_dirichlet_inverts_its_expectations(expected, start):
    expected = np.array(expected)
    mean_log = scipy.special.digamma(expected) - scipy.special.digamma(expected.sum())
    assert_allclose(dirichlet(mean_log, np.full(len(expected), start)), expected, 1e-5)


def test_dirichlet_does_not_change_its_start():
    start = np.array([0.1, 0.1])
    dirichlet(np.array([-1.0, -2.0]), start)
    assert start.tolist() == [0.1, 0.1]


def test_dirichlet_of_one_component_stays_where_it_is_flat():
    alpha = dirichlet(np.array([0.0]), np.array([0.1]))
    assert np.isfinite(alpha).all()
    assert PRIOR_RANGE[0] <= alpha[0] <= PRIOR_RANGE[1]


def test_priors_are_recovered_from_samples():
    rng = np.random.default_rng(6)
    n = 200_000
    z = rng.gamma(0.6, 1 / 2.5, n)
    assert_allclose(gamma_shape(np.log(z).mean() + np.log(2.5)), 0.6, rtol=0.02)
    found = gamma_shape_and_rate(z.mean(), np.log(z).mean())
    assert_allclose(found, (0.6, 2.5), rtol=0.02)
    p = rng.dirichlet(np.full(8, 0.4), n // 8)
    assert_allclose(symmetric_dirichlet(np.log(p).mean(), 8), 0.4, rtol=0.02)
    alpha = [0.3, 1.0, 5.0]
    p = rng.dirichlet(alpha, n)
    mean_log = np.log(p).mean(0)
    assert_allclose(dirichlet(mean_log, np.ones(3)), alpha, rtol=0.02)


def test_learnt_priors_stay_in_their_range():
    low, high = PRIOR_RANGE
    assert gamma_shape(-1e9) == low
    assert gamma_shape(1e3) == high
    assert gamma_shape_and_rate(2.0, math.log(2.0)) == (high, high / 2)
    assert gamma_shape_and_rate(2.0, -1e9) == (low, low / 2)
    assert symmetric_dirichlet(-1e9, 5) == low
    assert symmetric_dirichlet(-math.log(5), 5) == high
    assert_array_equal(dirichlet(np.full(3, -1e9), np.full(3, 0.1)), [low] * 3)
    uniform = np.full(3, -math.log(3))
    assert_allclose(dirichlet(uniform, np.full(3, 0.1)), [high] * 3, rtol=1e-3)


def test_priors_outside_their_range_are_not_searched(monkeypatch):
    monkeypatch.setattr("skdeepfactor._math.gammas.PRIOR_RANGE", (0.5, 2.0))
    assert gamma_shape(scipy.special.digamma(0.1)) == 0.5
    assert gamma_shape(scipy.special.digamma(9.0)) == 2.0
    assert_allclose(gamma_shape(scipy.special.digamma(1.1)), 1.1, rtol=1e-9)


# Spikes and slabs.


def spike_slab(seed=0, n=5):
    rng = np.random.default_rng(seed)
    parts = rng.normal(0, 1.5, n), rng.normal(size=n), rng.uniform(0.3, 2, n)
    return SpikeSlab(*(torch.from_numpy(part) for part in parts))


def test_spikes_and_slabs_have_the_mean_and_variance_of_their_draws():
    q = spike_slab()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        draws = q.sample((100_000,))
    assert_allclose((draws != 0).double().mean(0), q.probs, atol=0.01)
    assert_allclose(draws.mean(0), q.mean, atol=0.03)
    assert_allclose(draws.var(0), q.variance, rtol=0.05)


def test_density_and_point_mass_sum_to_one():
    q = spike_slab()
    z = torch.linspace(-15, 15, 20_000, dtype=torch.float64)[:, None]
    density = torch.trapezoid(q.log_prob(z).exp(), z, dim=0)
    assert_allclose(density + q.log_prob(torch.zeros(5).double()).exp(), 1, rtol=1e-5)


def test_divergence_of_spikes_and_slabs_is_that_of_draws():
    q, p = spike_slab(0), spike_slab(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        draws = q.sample((200_000,))
    difference = q.log_prob(draws) - p.log_prob(draws)
    error = difference.std(0) / np.sqrt(len(draws))
    kl = kl_divergence(q, p)
    assert ((kl - difference.mean(0)).abs() < 4.5 * error).all()
    assert_allclose(kl_divergence(q, q), 0, atol=1e-12)
    assert (kl > 0).all()


@pytest.mark.parametrize("name", ["relaxed_of_noise", "straight_through_of_noise"])
def test_gradients_reach_the_probability_of_a_spike(name):
    """Of E[z^2], whose derivative in p is m^2 + s^2, or near it."""
    generator = torch.Generator().manual_seed(0)
    shape = (200_000, 3)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = torch.tensor([-1.0, 0.0, 1.0]).double().requires_grad_()
    loc, scale = torch.tensor([1.0, -2.0, 0.5]).double(), torch.ones(3).double()
    q = SpikeSlab(logits, loc, scale, temperature=200.0)
    z = getattr(q, name)(uniform, normal)
    (gradient,) = torch.autograd.grad(z.mean(0).sum(), logits)
    p = q.probs.detach()
    assert_allclose(gradient, p * (1 - p) * loc, rtol=0.1)
    if name == "straight_through_of_noise":
        assert torch.equal(z.detach(), q.of_noise(uniform, normal).detach())


def test_a_spike_and_slab_is_a_distribution_of_torch():
    q = spike_slab()
    wide = q.expand((3, 5))
    assert wide.batch_shape == (3, 5)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        assert wide.rsample((2,)).shape == (2, 3, 5)
    assert wide.log_prob(torch.zeros(3, 5).double()).shape == (3, 5)
    with pytest.raises(ValueError, match="scale"):
        SpikeSlab(torch.zeros(2), torch.zeros(2), -torch.ones(2), validate_args=True)


# Mixtures of Gaussians.


def mixture(seed=0, n=3, k=2):
    rng = np.random.default_rng(seed)
    weights = np.log(rng.dirichlet(np.ones(n)))
    parts = rng.normal(0, 2, (n, k)), rng.normal(size=(n, k)), weights
    return GaussianMixture(*(torch.from_numpy(part) for part in parts))


def test_mixtures_have_the_density_of_torch():
    prior = mixture()
    normal = torch.distributions.Normal(prior.mean, (prior.log_var / 2).exp())
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=prior.log_weights),
        torch.distributions.Independent(normal, 1),
    )
    z = torch.from_numpy(np.random.default_rng(1).normal(0, 2, (4, 6, 2)))
    assert_allclose(prior.log_prob(z), expected.log_prob(z), rtol=1e-9)
    draws = prior.sample(50_000, torch.Generator().manual_seed(0))
    assert_allclose(draws.mean(0), expected.mean, atol=0.05)
    assert_allclose(draws.var(0), expected.variance, rtol=0.05)


def test_the_bound_on_the_divergence_of_a_mixture_is_one():
    prior = mixture()
    rng = np.random.default_rng(1)
    mean, var = (
        torch.from_numpy(rng.normal(size=(4, 2))),
        torch.full((4, 2), 0.3).double(),
    )
    q = torch.distributions.Normal(mean, var.sqrt())
    z = mean + var.sqrt() * torch.from_numpy(rng.normal(size=(100_000, 4, 2)))
    estimate = (q.log_prob(z).sum(-1) - prior.log_prob(z)).mean(0)
    log_det = var.log().sum(1)
    bound, shares = prior.kl_bound(mean, var, log_det)
    assert (bound > estimate - 0.01).all()
    assert_allclose(shares.sum(1), 1, rtol=1e-9)
    single = GaussianMixture.standard(2, like=mean)
    exact = 0.5 * (mean.square() + var - 1 - var.log()).sum(1)
    assert_allclose(single.kl_bound(mean, var, log_det)[0], exact)


def test_products_of_logarithms_do_not_underflow():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 400, (2, 5, 3)), rng.normal(0, 400, (2, 3, 4))
    expected = scipy.special.logsumexp(a[..., None] + b[:, None], axis=2)
    actual = log_product(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_draws_of_tiny_shapes_are_finite_logarithms():
    shape = torch.full((20_000,), 1e-3)
    draws = log_gamma_draws(shape, shape, np.random.default_rng(0)).numpy()
    assert np.isfinite(draws).all()
    assert (draws < -700).mean() > 0.3
    expected = scipy.special.digamma(1e-3)
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - expected) < 4 * error
