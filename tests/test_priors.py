"""Priors of factors against the densities of torch."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.distributions import Independent, Laplace, Normal

from skdeepfactor._math.noise import FreshNoise, KeyedNoise, Stream, keyed_uniform
from skdeepfactor._math.priors import (
    LaplaceFactors,
    Mixture,
    PseudoInputs,
    StandardNormal,
    with_free_bits,
)

SHAPE, N_PARTS = (3, 7), 4
PRIORS = [StandardNormal, Mixture, PseudoInputs, LaplaceFactors]
SCALES = {StandardNormal: Normal(0.0, 1.0), LaplaceFactors: Laplace(0.0, 0.5**0.5)}


def made(kind, seed=0):
    rng = np.random.default_rng(seed)
    prior = kind(SHAPE, N_PARTS).double()
    for parameter in prior.parameters():
        parameter.data = torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
    return prior


def encode(inputs):
    """Means and log variances of an encoder."""
    return inputs[:, :3].sin(), inputs[:, 3:6].cos()


def posterior(n_rows=5):
    rng = np.random.default_rng(1)
    mean, scale = rng.normal(size=(n_rows, 3)), rng.uniform(0.3, 1.5, (n_rows, 3))
    return Independent(Normal(torch.from_numpy(mean), torch.from_numpy(scale)), 1)


@pytest.mark.parametrize("kind", PRIORS)
def test_draws_have_the_density(kind):
    """By the mean of 1 / p over a box, and of its powers."""
    density = made(kind).density(encode)
    with torch.no_grad():
        z = density.sample(40_000, torch.Generator().manual_seed(0))
        assert z.shape == (40_000, 3)
        assert z.dtype == torch.float64
        is_inside = (z.abs() < 1).all(1)
        volume = ((-density.log_prob(z)).exp() * is_inside).mean()
    assert volume == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("kind", PRIORS)
def test_divergences_bound_those_of_draws(kind):
    density, q = made(kind).density(encode), posterior()
    with torch.no_grad():
        z = q.base_dist.sample((40_000,))
        difference = q.log_prob(z) - density.log_prob(z)
        kl = density.kl(q)
    estimate, error = difference.mean(0), difference.std(0) / 200
    assert kl.dtype == torch.float64
    assert (kl > estimate - 4.5 * error).all()
    if kind not in (Mixture, PseudoInputs):
        assert (kl < estimate + 4.5 * error).all()


@pytest.mark.parametrize("kind", [StandardNormal, LaplaceFactors])
def test_factors_are_those_of_torch(kind):
    prior, q = made(kind), posterior()
    z = torch.linspace(-2, 2, 15).double().view(5, 3)
    expected = SCALES[kind].log_prob(z).sum(1)
    assert_allclose(prior.log_prob(z), expected, rtol=1e-6)
    assert_allclose(prior.kl_of_factors(q).sum(1), prior.kl(q), rtol=1e-12)


@pytest.mark.parametrize("kind", [StandardNormal, Mixture, PseudoInputs])
def test_mixtures_are_the_same_priors(kind):
    prior, q = made(kind), posterior()
    density, mixture = prior.density(encode), prior.mixture(encode)
    with torch.no_grad():
        assert_allclose(mixture.kl(q), density.kl(q), rtol=1e-12)
        assert_allclose(mixture.log_prob(q.mean), density.log_prob(q.mean), rtol=1e-12)
        draws = [
            p.sample(6, torch.Generator().manual_seed(0)) for p in (density, mixture)
        ]
    assert torch.equal(*draws)


def test_pseudo_inputs_have_the_posteriors_of_the_encoder():
    prior = made(PseudoInputs)
    mixture = prior.density(encode)
    mean, log_var = encode(prior.pseudo_inputs)
    assert torch.equal(mixture.mean, mean)
    assert torch.equal(mixture.log_var, log_var)
    assert mixture.log_weights.exp().sum().item() == pytest.approx(1)
    loss = -mixture.log_prob(torch.zeros(2, 3).double()).sum()
    loss.backward()
    assert prior.pseudo_inputs.grad.abs().max() > 0


@pytest.mark.parametrize("kind", PRIORS)
def test_nothing_but_parameters_is_saved(kind):
    prior = made(kind)
    assert set(prior.state_dict()) == {name for name, _ in prior.named_parameters()}


def test_factors_with_free_bits_cost_what_is_above_them():
    kl = torch.tensor([[0.1, 2.0, 0.5], [0.2, 1.0, 0.9]], requires_grad=True)
    total = with_free_bits(kl, 0.6)
    assert_allclose(total.detach(), [0.6 + 2.0 + 0.5, 0.6 + 1.0 + 0.9], rtol=1e-6)
    (gradient,) = torch.autograd.grad(total.sum(), kl)
    assert gradient.tolist() == [[0, 1, 1], [0, 1, 1]]


# Noise.


def test_streams_have_the_numbers_that_scores_depend_on():
    assert {stream.name: int(stream) for stream in Stream} == {
        "REFINEMENT": 0,
        "BOUND": 10**6,
        "PARTICLES": 2 * 10**6,
        "PREDICTION": 3 * 10**6,
        "SPREAD": 4 * 10**6,
        "SPIKES": 5 * 10**6,
        "ROUNDING": 6 * 10**6,
        "CHAIN": 7 * 10**6,
        "GLOBAL": 5 * 10**8,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_kinds_of_noise_have_the_same_shape(dtype):
    like = torch.zeros(400, 3, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for noise in (
        FreshNoise(like, 50, generator),
        KeyedNoise(like, 50, torch.arange(400), Stream.BOUND),
    ):
        normal, uniform = noise.normal(), noise.uniform()
        for draws in (normal, uniform):
            assert draws.shape == (50, 400, 3)
            assert draws.dtype == dtype
        n = math.sqrt(normal.numel())
        assert abs(normal.mean()) < 4.5 / n
        assert abs(normal.square().mean() - 1) < 4.5 * math.sqrt(2) / n
        assert ((uniform >= 0) & (uniform < 1)).all()
        assert abs(uniform.mean() - 0.5) < 4.5 / math.sqrt(12) / n


def test_keyed_noise_is_that_of_its_stream_and_fresh_noise_is_not():
    like, keys = torch.zeros(6, 3).double(), torch.arange(6)
    keyed = KeyedNoise(like, 2, keys, Stream.PARTICLES + 50)
    assert torch.equal(keyed.normal(), keyed.normal())
    expected = keyed_uniform(keys, 2, 3, stream=2 * 10**6 + 50)
    assert torch.equal(keyed.uniform(), expected)
    fresh = FreshNoise(like, 2, torch.Generator().manual_seed(0))
    assert not torch.equal(fresh.normal(), fresh.normal())
