"""The bound on the log total against Monte Carlo and autograd."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skdeepfactor._math import log_total
from skdeepfactor._math.gaussian import Posterior
from skdeepfactor._math.log_total import LogTotal

N_ROWS, N_FEATURES, K = 6, 11, 3
KINDS = ["diag", "full"]


def logits(seed=0, scale=0.8):
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(0, scale, (N_FEATURES, K)))
    return weight, torch.from_numpy(rng.normal(0, 0.5, N_FEATURES))


def posterior(kind, spread=0.3, seed=1):
    """Posteriors around 0 without a center."""
    rng = np.random.default_rng(seed)
    mean = torch.from_numpy(rng.normal(size=(N_ROWS, K)))
    scale = torch.from_numpy(rng.uniform(0.5, 1.3, (N_ROWS, K)) * np.sqrt(spread))
    if kind == "diag":
        return Posterior(mean, scale.square())
    lower = torch.from_numpy(rng.normal(size=(N_ROWS, K, K))).tril(-1)
    tril = 0.5 * np.sqrt(spread) * lower + torch.diag_embed(scale)
    return Posterior(mean, tril.square().sum(2), tril)


def at_best_center(total, q, n_times=30):
    """The center of which the bound's own shares make the same again."""
    q = q._replace(center=torch.zeros_like(q.mean))
    for _ in range(n_times):
        q = q._replace(center=total.best_center(q))
    return q


def expected_log_total(total, q, n_draws=40_000):
    """By Monte Carlo in pairs of opposite draws; with its error."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((n_draws, *q.mean.shape), generator=generator).double()
    tril = torch.diag_embed(q.var.sqrt()) if q.tril is None else q.tril
    moves = torch.einsum("nij,dnj->dni", tril, noise)
    values = [
        ((q.mean + sign * moves) @ total.weight.T + total.bias).logsumexp(-1)
        for sign in (1, -1)
    ]
    draws = (values[0] + values[1]) / 2
    return draws.mean(0), draws.std(0) / np.sqrt(n_draws)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("center", ["best", "none", "any"])
def test_the_bound_is_above_monte_carlo(kind, center):
    total, q = LogTotal(*logits()), posterior(kind)
    q = at_best_center(total, q)
    best = total.bound(q)
    if center != "best":
        q = q._replace(center=torch.zeros_like(q.mean) if center == "none" else -q.mean)
    expected, error = expected_log_total(total, q)
    bound = total.bound(q)
    assert bound.dtype == torch.float64
    assert (bound > expected - 4.5 * error).all()
    assert (best < expected + 0.1).all()
    assert (bound >= best - 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_exact_to_second_order(kind):
    total = LogTotal(*logits())
    gaps = []
    for spread in (0.2, 0.05, 0.0125):
        q = at_best_center(total, posterior(kind, spread))
        expected, _ = expected_log_total(total, q)
        gaps.append((total.bound(q) - expected).mean().item())
    # A quarter of the variance, a sixteenth of the gap.
    assert gaps[0] > 0
    assert gaps[1] < gaps[0] / 8
    assert gaps[2] < gaps[1] / 8


def test_without_a_center_it_is_the_log_of_the_expected_total():
    total, q = LogTotal(*logits()), posterior("diag")
    q = q._replace(center=torch.zeros_like(q.mean))
    means = q.mean @ total.weight.T + total.bias
    expected = (means + 0.5 * q.var @ total.weight.square().T).logsumexp(1)
    assert_allclose(total.bound(q), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_of_covariances_agree_where_they_are_the_same(kind):
    total, q = (
        LogTotal(*logits()),
        at_best_center(LogTotal(*logits()), posterior("diag")),
    )
    full = q._replace(tril=torch.diag_embed(q.var.sqrt()))
    assert_allclose(total.bound(full), total.bound(q), rtol=1e-12)
    bound, shares = total.bound_and_shares(full if kind == "full" else q)
    assert_allclose(bound, total.bound(q), rtol=1e-12)
    assert_allclose(shares.sum(1), 1)
    mean_loading, curvature = total.slopes(shares, q.center)
    same, matrices = total.full_slopes(shares, q.center)
    assert_allclose(same, mean_loading, rtol=1e-12)
    assert_allclose(matrices.diagonal(dim1=1, dim2=2), curvature, rtol=1e-9)
    assert_allclose(matrices, matrices.mT, rtol=1e-12, atol=1e-14)


def test_slopes_are_those_of_autograd():
    total, q = LogTotal(*logits()), posterior("diag")
    center = torch.from_numpy(np.random.default_rng(2).normal(size=(N_ROWS, K)))
    mean, var = q.mean.requires_grad_(), q.var.requires_grad_()
    at = Posterior(mean, var, None, center)
    for_mean, for_var = torch.autograd.grad(total.bound(at).sum(), (mean, var))
    with torch.no_grad():
        _, shares = total.bound_and_shares(at)
        mean_loading, curvature = total.slopes(shares, center)
    assert_allclose(mean_loading, for_mean, rtol=1e-10)
    assert_allclose(curvature, 2 * for_var, rtol=1e-9)


def test_gradients_are_those_of_differences():
    weight, bias = logits()
    q = posterior("diag")
    center = torch.from_numpy(np.random.default_rng(2).normal(size=(N_ROWS, K)))

    def bound(weight, bias, mean, var):
        return LogTotal(weight, bias).bound(Posterior(mean, var, None, center))

    inputs = [part.requires_grad_() for part in (weight, bias, q.mean, q.var)]
    assert torch.autograd.gradcheck(bound, inputs)


def test_full_slopes_are_those_of_autograd():
    total, q = LogTotal(*logits()), posterior("full")
    center = torch.from_numpy(np.random.default_rng(2).normal(size=(N_ROWS, K)))
    mean, tril = q.mean.requires_grad_(), q.tril.requires_grad_()
    at = Posterior(mean, q.var, tril, center)
    for_mean, for_tril = torch.autograd.grad(total.bound(at).sum(), (mean, tril))
    with torch.no_grad():
        _, shares = total.bound_and_shares(at)
        mean_loading, curvature = total.full_slopes(shares, center)
    assert_allclose(mean_loading, for_mean, rtol=1e-10)
    # dT / dtril = 2 dT / dS tril.
    assert_allclose((curvature @ tril.detach()).tril(), for_tril.tril(), rtol=1e-8)


def test_large_arrays_are_made_in_parts(monkeypatch):
    total, q = LogTotal(*logits()), posterior("full")
    q = at_best_center(total, q)
    with torch.no_grad():
        bound, shares = total.bound_and_shares(q)
        curvature = total.full_slopes(shares, q.center)[1]
        monkeypatch.setattr(log_total, "BLOCK", 2 * N_FEATURES * K)
        assert_allclose(total.bound(q), bound, rtol=1e-13)
        assert_allclose(total.full_slopes(shares, q.center)[1], curvature, rtol=1e-12)


def test_slopes_at_the_prior_are_those_of_factors_of_zero():
    total = LogTotal(*logits())
    center, spread = total.prior_slopes
    zeros = torch.zeros(1, K, dtype=torch.float64)
    q = Posterior(zeros, zeros, None, center[None])
    assert_allclose(total.best_center(q)[0], center, rtol=1e-12)
    _, curvature = total.slopes(total.bias.softmax(0)[None], center[None])
    assert_allclose(curvature[0], spread, rtol=1e-9)


def test_rounding_makes_no_curvature_negative():
    weight = torch.full((5, 2), 0.3, dtype=torch.float32)
    total = LogTotal(weight, torch.randn(5, generator=torch.Generator().manual_seed(0)))
    center, spread = total.prior_slopes
    shares = torch.full((1, 5), 0.2)
    assert (spread >= 0).all()
    assert (total.slopes(shares, center[None])[1] >= 0).all()


def test_logits_and_log_sums_have_the_gradients_of_torch():
    weight, bias = logits()
    h = posterior("diag").mean
    rows, columns = torch.tensor([0, 0, 2, 5]), torch.tensor([1, 10, 3, 3])

    def of_torch(h, weight, bias):
        dense = h @ weight.T + bias
        return dense[rows, columns], dense.logsumexp(1)

    def ours(*inputs):
        return log_total.logits_and_log_sums(*inputs, rows, columns)

    inputs = [part.clone().requires_grad_() for part in (h, weight, bias)]
    for one, other in zip(ours(*inputs), of_torch(*inputs), strict=True):
        assert_allclose(one.detach(), other.detach(), rtol=1e-12)
    factors = torch.arange(1.0, 5.0).double(), torch.arange(1.0, 7.0).double()
    gradients = [
        torch.autograd.grad(function(*inputs), inputs, factors)
        for function in (ours, of_torch)
    ]
    for one, other in zip(*gradients, strict=True):
        assert_allclose(one, other, rtol=1e-12, atol=1e-12)
