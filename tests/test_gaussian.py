"""Gaussian posteriors of rows, and what refines them, against exact posteriors."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gaussian import (
    Posterior,
    converge,
    diagonal_kl,
    draws_of,
    inverse_root,
    kl_of_factors,
    kl_to_mixture,
    polish,
    refine,
    refine_by_adam,
    refine_fully,
)
from skdeepfactor.distributions import GaussianMixture

N_ROWS, N_FEATURES, K = 9, 7, 3


def tensor(values):
    return torch.from_numpy(np.asarray(values, dtype=np.float64))


class LinearGaussian:
    """x ~ N(W z, I / precision), z ~ N(0, I): all that is asked of it is exact."""

    def __init__(self, *, is_orthogonal=False, seed=0):
        weight = np.random.default_rng(seed).normal(size=(N_FEATURES, K))
        if is_orthogonal:
            weight = 2 * np.linalg.qr(weight)[0]
        self.weight, self.precision = tensor(weight), 3.0

    def exact(self, x):
        """The means and covariances of the posteriors."""
        inverse = torch.eye(K).double() + self.precision * self.weight.T @ self.weight
        covariance = torch.linalg.inv(inverse)
        return self.precision * x @ self.weight @ covariance, covariance

    def bound(self, x, q):
        errors = x - q.mean @ self.weight.T
        tril = torch.diag_embed(q.var.sqrt()) if q.tril is None else q.tril
        spread = (self.weight @ tril).square().sum((1, 2))
        constant = N_FEATURES * np.log(2 * np.pi / self.precision)
        likelihood = -0.5 * self.precision * (errors.square().sum(1) + spread)
        kl = 0.5 * (q.mean.square() + q.var - 1).sum(1) - 0.5 * q.log_det()
        return likelihood - 0.5 * constant - kl

    def evidence(self, x):
        covariance = self.weight @ self.weight.T
        covariance = covariance + torch.eye(N_FEATURES).double() / self.precision
        mean = torch.zeros(N_FEATURES).double()
        return MultivariateNormal(mean, covariance).log_prob(x)

    def slopes(self, batch, q):
        errors = batch.x - q.mean @ self.weight.T
        gradient = self.precision * errors @ self.weight - q.mean
        precision = 1 + self.precision * self.weight.square().sum(0)
        return self.bound(batch.x, q), gradient, precision.expand_as(q.mean), q.center

    def full_slopes(self, batch, q):
        value, gradient, _, center = self.slopes(batch, q)
        precision = torch.eye(K) + self.precision * self.weight.T @ self.weight
        return value, gradient, precision.expand(len(batch), K, K).clone(), center


def rows(n_rows=N_ROWS, seed=1):
    return tensor(np.random.default_rng(seed).normal(0, 2, (n_rows, N_FEATURES)))


def start(n_rows=N_ROWS, seed=2):
    rng = np.random.default_rng(seed)
    mean, var = rng.normal(size=(n_rows, K)), rng.uniform(0.1, 2, (n_rows, K))
    return Posterior(tensor(mean), tensor(var), None, torch.zeros(n_rows, K).double())


def refined(model, x, q, **settings):
    settings = {"max_steps": 200, "tol": 1e-14, **settings}
    return converge(model.slopes, Batch(x), [q], **settings)[0]


def test_the_exact_posterior_is_found_where_it_is_diagonal():
    model, x = LinearGaussian(is_orthogonal=True), rows()
    mean, covariance = model.exact(x)
    q = refined(model, x, start())
    assert_allclose(q.mean, mean, atol=1e-6)
    assert_allclose(q.var, covariance.diagonal().expand_as(q.var), rtol=1e-5)
    assert_allclose(model.bound(x, q), model.evidence(x), rtol=1e-9)


def test_the_best_diagonal_posterior_is_found():
    """Its means are exact, and its precisions those of the diagonal."""
    model, x = LinearGaussian(), rows()
    mean, covariance = model.exact(x)
    q = refined(model, x, start())
    assert_allclose(q.mean, mean, atol=1e-5)
    precision = torch.linalg.inv(covariance).diagonal()
    assert_allclose(q.var, (1 / precision).expand_as(q.var), rtol=1e-4)
    assert (model.bound(x, q) < model.evidence(x)).all()


@pytest.mark.parametrize("fixes_variances", [False, True])
def test_full_precisions_find_the_best_diagonal_posterior_in_a_step(fixes_variances):
    model, x, q = LinearGaussian(), rows(), start()
    found = polish(
        model.slopes, model.full_slopes, Batch(x), q, fixes_variances=fixes_variances
    )
    mean, covariance = model.exact(x)
    assert_allclose(found.mean, mean, atol=1e-10)
    best = 1 / torch.linalg.inv(covariance).diagonal()
    expected = q.var if fixes_variances else best.expand_as(q.var)
    assert_allclose(found.var, expected, rtol=1e-10)


def test_full_precisions_that_do_not_pay_are_not_followed():
    model, x, q = LinearGaussian(), rows(), start()

    def misled(slopes):
        def found(batch, q):
            value, gradient, precision, center = slopes(batch, q)
            return value, -gradient, precision, center

        return found

    both = misled(model.slopes), misled(model.full_slopes)
    found = polish(*both, Batch(x), q, fixes_variances=True)
    assert_allclose(found.mean, q.mean)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 8])
def test_no_step_lowers_a_bound(n_steps):
    model, x = LinearGaussian(), rows()
    before, after = (
        model.bound(x, refine(model.slopes, Batch(x), [start()], max_steps=n))
        for n in (n_steps - 1, n_steps)
    )
    assert (after >= before).all()


def test_full_covariances_are_the_exact_posterior_after_one_step():
    model, x = LinearGaussian(), rows()
    mean, covariance = model.exact(x)
    q = refine_fully(model.full_slopes, Batch(x), start())
    assert_allclose(q.mean, mean, atol=1e-10)
    found = q.tril @ q.tril.mT
    assert_allclose(found, covariance.expand_as(found), atol=1e-10)
    assert_allclose(q.var, found.diagonal(dim1=1, dim2=2))
    assert_allclose(model.bound(x, q), model.evidence(x), rtol=1e-10)


def test_full_steps_that_do_not_pay_are_not_taken():
    model, x = LinearGaussian(), rows()

    def misled(batch, q):
        value, gradient, precision, center = model.full_slopes(batch, q)
        return value, gradient + 1e3, precision, center

    q = start()
    stayed = refine_fully(misled, Batch(x), q)
    assert_allclose(stayed.mean, q.mean)
    assert_allclose(stayed.tril @ stayed.tril.mT, torch.diag_embed(q.var))


def test_rows_begin_at_the_better_start():
    model, x, q = LinearGaussian(), rows(), start()
    astray = q._replace(mean=q.mean.clone())
    astray.mean[::2] += 1e6
    for starts in ([astray, q], [q, astray]):
        found = refine(model.slopes, Batch(x), starts, max_steps=0)
        assert torch.equal(found.mean, q.mean)
        found, _ = converge(model.slopes, Batch(x), starts, max_steps=0, tol=0.1)
        assert torch.equal(found.mean, q.mean)


def test_fixed_variances_stay():
    model, x, q = LinearGaussian(), rows(), start()
    found = refined(model, x, q, fixes_variances=True)
    assert torch.equal(found.var, q.var)
    assert_allclose(found.mean, model.exact(x)[0], atol=1e-5)


@pytest.mark.parametrize("kl_weight", [0.2, 5.0])
def test_a_weight_of_the_divergence_scales_the_entropy(kl_weight):
    """The best variance of a factor alone: that of its prior, whatever the weight."""

    def slopes(batch, q):
        kl = 0.5 * (q.mean.square() + q.var - 1 - q.var.log()).sum(1)
        precision = torch.full_like(q.mean, kl_weight)
        return -kl_weight * kl, -kl_weight * q.mean, precision, q.center

    settings = {"max_steps": 100, "kl_weight": kl_weight}
    found = refine(slopes, Batch(rows()), [start()], **settings)
    assert_allclose(found.var, 1, rtol=1e-5)
    assert_allclose(found.mean, 0, atol=1e-5)


def test_rows_are_independent_of_their_company():
    model, x, q = LinearGaussian(), rows(20), start(20)
    together = refined(model, x, q, tol=1e-9)
    for some in (slice(3, 4), slice(5, 12)):
        part = Posterior(q.mean[some], q.var[some], None, q.center[some])
        alone = refined(model, x[some], part, tol=1e-9)
        assert_allclose(alone.mean, together.mean[some], rtol=1e-12)
        assert_allclose(alone.var, together.var[some], rtol=1e-12)


def test_rows_that_are_done_keep_what_they_have():
    """Also where all rows take all steps: a gain of 0 ends a row."""
    n_calls = []

    def slopes(batch, q):
        n_calls.append(len(batch))
        # The first row has no gain, and the others always have.
        gain = torch.arange(len(batch)) * float(len(n_calls))
        return gain.double(), torch.ones_like(q.mean), torch.ones_like(q.mean), q.center

    q = start()
    found = refine(slopes, Batch(rows()), [q], max_steps=5)
    assert n_calls == [N_ROWS] * 6
    moved = found.mean - q.mean
    assert_allclose(moved[0], 0.7)
    assert (moved[1:] > 3).all()


@pytest.mark.parametrize("is_orthogonal", [True, False])
def test_steps_of_varied_lengths_need_few(is_orthogonal):
    model, x = LinearGaussian(is_orthogonal=is_orthogonal), rows()
    q = refined(model, x, start(), max_steps=25, tol=1e-10)
    best = model.bound(x, refined(model, x, start()))
    assert_allclose(model.bound(x, q), best, rtol=1e-7)


def test_adam_comes_near_the_exact_posterior():
    model, x = LinearGaussian(is_orthogonal=True), rows()
    mean, covariance = model.exact(x)
    generator = torch.Generator().manual_seed(0)

    def bounds(step, q):
        noise = torch.randn((8, *q.mean.shape), generator=generator).double()
        z = draws_of(q.distribution(), noise)
        errors = (x - z @ model.weight.T).square().sum(-1)
        return -0.5 * model.precision * errors.mean(0) - kl_of_factors(q).sum(1)

    q = refine_by_adam(bounds, start(), n_steps=400)
    assert_allclose(q.mean, mean, atol=0.15)
    assert_allclose(q.var, covariance.diagonal().expand_as(q.var), rtol=0.25)
    var = start().var
    fixed = refine_by_adam(bounds, start(), n_steps=5, fixes_variances=True)
    assert torch.equal(fixed.var, var)


def test_adam_knows_the_step_that_it_takes():
    steps = []

    def bounds(step, q):
        steps.append(step)
        return q.mean.sum(1) + q.var.sum(1)

    refine_by_adam(bounds, start(), n_steps=4)
    assert steps == [1, 2, 3, 4]


def full_posterior(seed=3):
    rng = np.random.default_rng(seed)
    tril = np.tril(rng.normal(size=(N_ROWS, K, K)), -1) + np.eye(K)
    tril = tensor(tril)
    return Posterior(start().mean, tril.square().sum(2), tril)


@pytest.mark.parametrize("q", [start(), full_posterior()], ids=["diag", "full"])
def test_posteriors_are_distributions_and_back(q):
    distribution = q.distribution()
    again = Posterior.of(distribution)
    assert_allclose(again.mean, q.mean)
    assert_allclose(again.var, q.var, rtol=1e-12)
    tril = torch.diag_embed(q.var.sqrt()) if q.tril is None else q.tril
    covariance = tril @ tril.mT
    assert_allclose(q.log_det(), torch.logdet(covariance), atol=1e-12)
    noise = torch.randn(
        (50_000, *q.mean.shape), generator=torch.Generator().manual_seed(0)
    )
    draws = draws_of(distribution, noise.double())
    assert draws.shape == (50_000, N_ROWS, K)
    assert_allclose(draws.mean(0), q.mean, atol=0.05)
    centered = draws - draws.mean(0)
    found = torch.einsum("dni,dnj->nij", centered, centered) / 50_000
    assert_allclose(found, covariance, atol=0.1)


def test_divergences_are_those_of_torch():
    p, q = start(), start(seed=4)
    expected = kl_divergence(p.distribution(), q.distribution())
    assert_allclose(diagonal_kl(p, q), expected, rtol=1e-12)
    normal = Normal(torch.zeros(N_ROWS, K).double(), 1.0)
    expected = kl_divergence(p.distribution().base_dist, normal)
    assert_allclose(kl_of_factors(p), expected, rtol=1e-12)


@pytest.mark.parametrize("n_gaussians", [1, 4])
def test_slopes_of_the_divergence_are_those_of_autograd(n_gaussians):
    rng = np.random.default_rng(5)
    mixture = GaussianMixture(
        *(tensor(rng.normal(size=(n_gaussians, K))) for _ in range(2)),
        tensor(rng.normal(size=n_gaussians)).log_softmax(0),
    )
    q = start()
    mean, var = q.mean.requires_grad_(), q.var.requires_grad_()
    kl, gradient, precision = kl_to_mixture(Posterior(mean, var), mixture)
    for_mean, for_var = torch.autograd.grad(kl.sum(), (mean, var))
    assert_allclose(gradient.detach(), for_mean, rtol=1e-10)
    # The entropy's share is left to the steps.
    assert_allclose((precision - 1 / var).detach(), 2 * for_var, rtol=1e-9, atol=1e-12)
    assert_allclose(
        kl.detach(), mixture.kl(Posterior(mean, var).distribution()).detach()
    )


def test_inverse_roots():
    rng = np.random.default_rng(6)
    factors = tensor(rng.normal(size=(5, K, K)))
    precision = factors @ factors.mT + torch.eye(K)
    root = inverse_root(precision)
    assert torch.equal(root, root.tril())
    assert_allclose(root @ root.mT, torch.linalg.inv(precision), atol=1e-10)


def test_a_matrix_that_is_not_definite_is_taken_by_its_diagonal():
    precision = torch.eye(K).double().repeat(2, 1, 1)
    precision[0] *= 4
    precision[1] += 5 * (1 - torch.eye(K))
    root = inverse_root(precision)
    assert_allclose(root[0] @ root[0].mT, torch.eye(K) / 4)
    assert_allclose(root[1] @ root[1].mT, torch.eye(K))
    precision[1, 0, 0] = torch.nan
    assert inverse_root(precision).isfinite().all()


def test_independent_is_the_shape_of_a_posterior():
    assert isinstance(start().distribution(), Independent)
    assert isinstance(full_posterior().distribution(), MultivariateNormal)
