import math
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import is_classifier
from sklearn.datasets import load_digits, load_iris, load_wine
from torch import nn
from torch.distributions import Gamma, MultivariateNormal

from skdeepfactor import (
    PoissonFactorization,
    VariationalAutoencoder,
    VariationalSparseCoding,
)
from skdeepfactor._estimator.fitting import started_module
from skdeepfactor._estimator.labels import Target
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.module import FactorModule
from skdeepfactor._training.guard import Guard
from skdeepfactor._training.loop import train, train_pass
from skdeepfactor._training.memory import Memory
from skdeepfactor._training.optimizers import (
    AnnealedAdam,
    NaturalGradient,
    load_optimizer,
    optimizer_arrays,
)
from skdeepfactor._training.plan import Budget, TrainingPlan
from skdeepfactor._training.rows import MatrixRows, chunks
from tests.conftest import labels_of

N_ROWS, N_FEATURES = 23, 5


class PoissonRates(FactorModule):
    """Counts of features with gamma rates, the same for all rows: no factors at all.

    The posterior is exact after one full step, and the bound is then the evidence. The
    local parameters of a row are the number of passes that saw it and its first count,
    which is different for each row of the data used here.
    """

    local_width = 2
    prior_shape, prior_rate = 0.7, 0.4

    def __init__(self, n_features, dtype=torch.float64):
        super().__init__()
        self.counts = nn.Parameter(torch.full((n_features,), 3.0, dtype=dtype))
        self.exposure = nn.Parameter(torch.full((1,), 2.0, dtype=dtype))
        self.register_buffer("n_updates", torch.zeros(()))
        self.seen = []
        self.refresh()

    def posterior(self, batch, start=None):
        return Gamma(torch.ones(len(batch), 1), torch.ones(len(batch), 1))

    def elbo(self, batch, q=None):
        # Columns beside the first, which only names the row.
        x = batch.x.double()
        mean_log = torch.digamma(self._shape) - self._rate.log()
        mean = self._shape / self._rate
        terms = x * mean_log - mean - torch.lgamma(x + 1)
        return terms[:, 1:].sum(1)

    def decode(self, z):
        return (self._shape / self._rate).expand(len(z), -1)

    def components(self):
        return (self._shape / self._rate)[None]

    def sample(self, totals, generator):
        raise NotImplementedError

    def global_kl(self):
        prior_shape = torch.full_like(self._shape[1:], self.prior_shape)
        prior = Gamma(prior_shape, torch.full_like(prior_shape, self.prior_rate))
        q = Gamma(self._shape[1:], self._rate.expand_as(prior_shape))
        return torch.distributions.kl_divergence(q, prior).sum()

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        x, weight = batch.x, batch.weight
        names = x[:, 0].clone()
        self.seen.append((names, None if start is None else start.clone()))
        self.gradient(self.counts).add_(x.sum(0), alpha=-weight * n_samples)
        exposure = torch.full_like(self.exposure, len(x))
        self.gradient(self.exposure).add_(exposure, alpha=-weight * n_samples)
        passes = torch.ones_like(x[:, 0]) if start is None else start[:, 0] + 1
        return self.elbo(batch), torch.stack([passes, x[:, 0]], 1)

    @torch.no_grad()
    def after_step(self):
        self.n_updates += 1
        self.refresh()

    def refresh(self):
        self._shape = self.prior_shape + self.counts.detach()
        self._rate = self.prior_rate + self.exposure.detach()

    @classmethod
    def evidence(cls, X):
        """log p(X), in closed form."""
        a, b = cls.prior_shape, cls.prior_rate
        X = X[:, 1:]
        shape, rate = a + X.sum(0), b + len(X)
        gammaln = scipy.special.gammaln
        per_feature = a * math.log(b) - gammaln(a) + gammaln(shape)
        per_feature -= shape * math.log(rate)
        return per_feature.sum() - gammaln(X + 1).sum()


class Path(PoissonRates):
    """A positive number for the weights and one for each row, all with the same step.

    The bound is a function of the logarithm of the number.
    """

    local_width = 1

    def __init__(self, step, bound, acceleration):
        super().__init__(1)
        self.place = nn.Parameter(torch.full((1,), 100.0, dtype=torch.float64))
        self.step, self.bound, self.acceleration = step, bound, acceleration

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        new = self.step(self.place.log()).exp()
        self.gradient(self.counts).zero_()
        self.gradient(self.exposure).zero_()
        self.gradient(self.place).add_(new, alpha=-batch.share)
        rows = self.place.expand(len(batch), 1) if start is None else start
        bounds = self.bound(rows.log()[:, 0])
        return bounds, self.step(rows.log()).exp()

    def positions(self, table):
        return [(table, torch.ones_like(table)), (self.place.data, torch.ones(1))]

    def elbo(self, batch, q=None):
        raise NotImplementedError

    def global_kl(self):
        return 0.0

    def data_bound(self, batches):
        total = 0.0
        for batch, start in batches():
            rows = self.place.expand(len(batch), 1) if start is None else start
            total += self.bound(rows.log()).sum().item()
        return total


class LinearGaussian(FactorModule):
    """x = z W + noise, with exact posteriors, learnt by the default ``backward``."""

    def __init__(self, n_components, n_features, dtype=torch.float64):
        super().__init__()
        weights = torch.linspace(-1, 1, n_components * n_features, dtype=dtype)
        self.weights = nn.Parameter(weights.reshape(n_components, n_features).sin())
        self.log_noise = nn.Parameter(torch.zeros((), dtype=dtype))

    def posterior(self, batch, start=None):
        noise = (2 * self.log_noise).exp()
        precision = self.weights @ self.weights.T / noise
        precision = precision + torch.eye(len(precision)).to(precision)
        mean = torch.linalg.solve(precision, self.weights @ batch.x.T / noise).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def elbo(self, batch, q=None):
        covariance = self.covariance()
        mean = torch.zeros_like(covariance[0])
        return MultivariateNormal(mean, covariance).log_prob(batch.x).double()

    def covariance(self):
        identity = torch.eye(self.weights.shape[1]).to(self.weights)
        noise = (2 * self.log_noise).exp() * identity
        return self.weights.T @ self.weights + noise

    def decode(self, z):
        return z @ self.weights

    def components(self):
        return self.weights

    def sample(self, totals, generator):
        raise NotImplementedError

    def global_kl(self):
        # What a prior would add, so that the default gradient has both of its parts.
        return 0.5 * self.weights.square().sum()


class Scripted(PoissonRates):
    """Bounds as written down beforehand, one for each step."""

    def __init__(self, bounds):
        super().__init__(N_FEATURES)
        self.bounds = iter(bounds)

    def global_kl(self):
        return 0.0

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        _, local = super().backward(batch, n_samples, start)
        bounds = torch.zeros(len(batch), dtype=torch.float64)
        bounds[0] = next(self.bounds)
        return bounds, local


@pytest.fixture
def X():
    X = np.random.default_rng(0).poisson(2.0, (N_ROWS, N_FEATURES)).astype(float)
    X[:, 0] = np.arange(N_ROWS)
    return X


@pytest.fixture
def rates(device):
    return PoissonRates(N_FEATURES).to(device)


@pytest.fixture
def small_chunks(monkeypatch):
    """Batches of three rows of these data."""
    monkeypatch.setattr("skdeepfactor._training.rows.CHUNK_BYTES", 3 * 4 * N_FEATURES)


def run(
    module,
    X,
    *,
    optimizer=None,
    ascends=True,
    guard=None,
    max_iter=5,
    batch_size=None,
    **options,
):
    options = {"tol": 0.0, "rng": np.random.RandomState(0), **options}
    module.refresh()
    rows = MatrixRows(X)
    plan = TrainingPlan(
        optimizer or NaturalGradient(module.parameters()), ascends=ascends, guard=guard
    )
    n_steps = math.ceil(len(X) / (batch_size or len(X)))
    budget = Budget(max_iter, max_iter * n_steps, batch_size, len(X))
    return train(module, rows, plan, budget=budget, **options)


def one_step(module, optimizer, X, n_samples):
    """The bound of rows before a step on all of them."""
    return train_pass(
        module,
        optimizer,
        MatrixRows(X),
        batch_size=None,
        rng=None,
        n_samples=n_samples,
    )[0]


def adam(module, learning_rate=0.05):
    return torch.optim.Adam(module.parameters(), lr=learning_rate)


def gradients(module, X, rows, n_samples, device="cpu"):
    """The gradients of one step that is not taken."""
    for p in module.parameters():
        p.grad = None
    x = to_tensor(X, rows, dtype=torch.float64, device=device)
    module.backward(Batch(x, weight=1 / x.shape[0]), n_samples)
    return [p.grad.detach().cpu().numpy().copy() for p in module.parameters()]


def state(module):
    return {name: t.detach().cpu().clone() for name, t in module.state_dict().items()}


# The optimizer.


def test_a_full_step_is_exact(device):
    p = nn.Parameter(torch.tensor([1e30, -3.0, 0.1], device=device))
    optimum = torch.tensor([1e-30, 1 / 3, 7e20], device=device)
    p.grad = -optimum
    NaturalGradient([p]).step()
    assert torch.equal(p.detach(), optimum)


@pytest.mark.parametrize(("offset", "decay"), [(0.0, 0.6), (10.0, 0.7), (3.0, 1.0)])
def test_steps_decay_as_documented(offset, decay, device):
    p = nn.Parameter(torch.tensor([5.0], dtype=torch.float64, device=device))
    optimizer = NaturalGradient([p], learning_offset=offset, learning_decay=decay)
    expected = 5.0
    for t in range(6):
        optimum = 2.0 + t
        p.grad = torch.tensor([-optimum], dtype=torch.float64, device=device)
        optimizer.step()
        rate = (1 + offset + t) ** -decay
        expected = (1 - rate) * expected + rate * optimum
        assert_allclose(p.item(), expected, rtol=1e-14)


def test_larger_steps_over_relax_at_the_sums_of_the_optimum(device):
    start = np.array([[30.0, 10.0], [0.0, 0.0], [1.0, 3.0]])
    optimum = np.array([[1.0, 3.0], [2.0, 2.0], [4.0, 4.0]])
    p = nn.Parameter(torch.tensor(start, device=device))
    p.grad = -torch.tensor(optimum, device=device)
    NaturalGradient([p], size=1.4).step()
    before = np.array([[3.0, 1.0], [0.0, 0.0], [2.0, 6.0]])
    assert_allclose(p.detach().cpu(), before + 1.4 * (optimum - before), atol=1e-14)


def test_steps_of_size_one_over_t_average(device):
    p = nn.Parameter(torch.full((3,), 100.0, dtype=torch.float64, device=device))
    optimizer = NaturalGradient([p], learning_decay=1.0)
    targets = np.random.default_rng(1).normal(size=(8, 3))
    for target in targets:
        p.grad = -torch.tensor(target, device=device)
        optimizer.step()
    assert_allclose(p.detach().cpu(), targets.mean(0), rtol=1e-12)


def test_zero_grad_forgets(device):
    p = nn.Parameter(torch.ones(2, device=device))
    p.grad = torch.ones(2, device=device)
    NaturalGradient([p]).zero_grad()
    assert p.grad is None


def test_the_optimizer_goes_on_where_another_stopped():
    p, r = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    first = NaturalGradient([p], learning_offset=2.0, learning_decay=0.8)
    for _ in range(4):
        p.grad = torch.full_like(p, -3.0)
        first.step()
    second = NaturalGradient([r], learning_offset=2.0, learning_decay=0.8)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        r.copy_(p)
    for q, optimizer in ((p, first), (r, second)):
        q.grad = torch.full_like(q, 5.0)
        optimizer.step()
    assert torch.equal(p, r)
    # Neither counts the other's steps.
    first.step()
    assert second.n_steps == 5
    assert first.n_steps == 6


def test_a_state_dict_has_the_shape_of_torch_s():
    ours = NaturalGradient([nn.Parameter(torch.ones(2))]).state_dict()
    theirs = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1).state_dict()
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_annealed_steps_are_those_of_adam(dtype, device):
    """To the last bit, by a cosine, and where another has stopped."""

    def parameters():
        rng = np.random.default_rng(0)
        values = [rng.normal(size=shape) for shape in [(3, 4), (), (5,)]]
        return [
            nn.Parameter(torch.tensor(v, dtype=dtype, device=device)) for v in values
        ]

    ours, theirs = parameters(), parameters()
    rates, is_fused = [0.1, 0.01], torch.device(device).type != "mps"
    optimizers = [
        kind(
            [{"params": p[:2], "lr": rates[0]}, {"params": p[2:], "lr": rates[1]}],
            **options,
        )
        for kind, p, options in (
            (AnnealedAdam, ours, {"n_updates": 9}),
            (torch.optim.Adam, theirs, {"betas": (0.9, 0.99), "fused": is_fused}),
        )
    ]
    for n_steps in range(9):
        for p, q in zip(ours, theirs, strict=True):
            # One of them has no gradient at first.
            is_late = p.ndim == 0 and n_steps < 3
            p.grad = None if is_late else p.detach() + n_steps
            q.grad = None if is_late else q.detach() + n_steps
        for group, rate in zip(optimizers[1].param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * n_steps / 9))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        assert not any(p.grad.any() for p in ours if p.grad is not None)
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
        state, expected = (o.state_dict()["state"] for o in optimizers)
        assert state.keys() == expected.keys()
        for number, moments in expected.items():
            assert state[number].keys() == moments.keys()
            for name, values in moments.items():
                assert torch.equal(state[number][name], values)
        again = AnnealedAdam(optimizers[0].groups, 9)
        load_optimizer(again, optimizer_arrays(optimizers[0]))
        optimizers[0] = again


def test_gradients_of_adam_may_be_sparse_and_stay_in_place():
    p, q = (nn.Parameter(torch.ones(4, 2)) for _ in range(2))
    ours, theirs = (AnnealedAdam([{"params": [each], "lr": 0.1}]) for each in (p, q))
    rows = torch.tensor([[1, 3]])
    gradient = torch.sparse_coo_tensor(
        rows, torch.ones(2, 2), p.shape, check_invariants=True
    )
    for _ in range(3):
        for parameter, optimizer, each in (
            (p, ours, gradient),
            (q, theirs, gradient.to_dense()),
        ):
            if parameter.grad is None:
                parameter.grad = each.clone()
            else:
                parameter.grad += each
            optimizer.step()
        assert torch.equal(p, q)
        place = p.grad.data_ptr()
        ours.zero_grad()
        theirs.zero_grad()
        assert p.grad.data_ptr() == place
        assert not p.grad.any()


# Memory of rows.


def test_memory_is_cut_by_row(device):
    memory = Memory(6, 2, dtype=torch.float64, device=device)
    assert memory.recall(slice(0, 6)) is None
    first = torch.arange(8.0, dtype=torch.float64, device=device).reshape(4, 2)
    memory.keep(slice(0, 4), first)
    memory.keep(np.array([5, 4]), first[:2] + 100)
    memory.is_warm = True
    assert torch.equal(memory.recall(slice(1, 3)), first[1:3])
    found = memory.recall(np.array([4, 0, 5]))
    expected = torch.stack([first[1] + 100, first[0], first[0] + 100])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("batch_size", [None, 7, 100])
def test_each_row_gets_back_what_it_left(batch_size, X, rates, small_chunks, device):
    run(rates, X, max_iter=4, tol=-1.0, batch_size=batch_size)
    n_seen = 0
    for names, start in rates.seen:
        pass_number = n_seen // N_ROWS
        n_seen += len(names)
        if pass_number == 0:
            assert start is None
            continue
        assert torch.equal(start[:, 1], names)
        assert (start[:, 0] == pass_number).all()
    assert n_seen == 4 * N_ROWS


# The loop.


def test_one_full_step_reaches_the_evidence(X, rates, device):
    history, lower_bound = run(rates, X, max_iter=3)
    evidence = PoissonRates.evidence(X)
    assert history["lower_bound"][0] < evidence - 1
    assert_allclose(history["lower_bound"][1:], [evidence] * 2, rtol=1e-12)
    assert lower_bound == history["lower_bound"][-1]
    assert_allclose(rates.counts.detach().cpu(), X.sum(0), rtol=1e-14)
    assert_allclose(rates.exposure.item(), N_ROWS, rtol=1e-14)
    shape, rate = 0.7 + X.sum(0), 0.4 + N_ROWS
    assert_allclose(rates.components()[0].cpu(), shape / rate, rtol=1e-14)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_the_history_has_one_entry_for_each_pass(batch_size, X, rates, device):
    history, lower_bound = run(rates, X, max_iter=4, batch_size=batch_size, tol=-1.0)
    assert history.keys() == {"lower_bound", "seconds"}
    assert len(history["lower_bound"]) == len(history["seconds"]) == 4
    assert all(type(value) is float for value in history["lower_bound"])
    assert all(value >= 0 for value in history["seconds"])
    assert type(lower_bound) is float


def test_training_stops_when_the_bound_has_stopped(X, rates, device):
    # Exact after the first step, so that the third pass finds what the second did.
    history, _ = run(rates, X, max_iter=50, tol=1e-9)
    assert len(history["lower_bound"]) == 3


@pytest.mark.parametrize(
    ("tol", "n_passes"), [(0.05, 5), (0.2, 3), (0.6, 2), (0.001, 6)]
)
def test_the_tolerance_is_relative(tol, n_passes, X):
    # Gains of 50 %, 18 %, 11 %, 2 % and 0.05 % of the bound before.
    bounds = [-200.0, -100.0, -82.0, -73.0, -71.54, -71.5043, 0.0]
    history, _ = run(Scripted(bounds), X, max_iter=20, tol=tol)
    assert history["lower_bound"] == pytest.approx(bounds[:n_passes])


def test_a_bound_that_falls_ends_full_steps(X):
    history, _ = run(Scripted([-10.0, -9.0, -9.5, -1.0]), X, max_iter=4)
    assert history["lower_bound"] == [-10.0, -9.0, -9.5]


@pytest.mark.parametrize("n_iter_no_change", [1, 3])
def test_noisy_bounds_are_given_time(n_iter_no_change, X):
    # Two steps a pass; the best pass is the second.
    bounds = [-5.0, -5.0, -1.0, -1.0] + [-2.0] * 40
    history, _ = run(
        Scripted(bounds),
        X,
        max_iter=20,
        batch_size=12,
        n_iter_no_change=n_iter_no_change,
    )
    assert len(history["lower_bound"]) == 2 + n_iter_no_change


def test_a_pass_visits_every_row_once(X, rates, device):
    optimizer = NaturalGradient(rates.parameters(), learning_decay=0.7)
    run(rates, X, optimizer=optimizer, max_iter=3, batch_size=5, tol=-1)
    names = torch.cat([names for names, _ in rates.seen]).cpu().numpy().reshape(3, -1)
    assert_array_equal(np.sort(names, 1), np.tile(np.arange(N_ROWS), (3, 1)))
    assert (names[0] != np.arange(N_ROWS)).any()
    assert (names[0] != names[1]).any()
    n_steps = 3 * math.ceil(N_ROWS / 5)
    assert optimizer.n_steps == n_steps
    assert rates.n_updates == n_steps


@pytest.mark.parametrize("batch_size", [N_ROWS, N_ROWS + 1, 10**6])
def test_batches_of_everything_are_full_steps(batch_size, X, device):
    full, batched = (
        PoissonFactorization(
            2, batch_size=size, max_iter=5, tol=0, device=device, random_state=0
        ).fit(X)
        for size in (None, batch_size)
    )
    assert batched.history_["lower_bound"] == full.history_["lower_bound"]
    assert batched.lower_bound_ == full.lower_bound_
    assert_array_equal(batched.components_, full.components_)


def test_the_same_seed_takes_the_same_steps(X, device):
    def fit(seed):
        module = PoissonRates(N_FEATURES).to(device)
        optimizer = NaturalGradient(module.parameters(), learning_decay=0.7)
        rng = np.random.RandomState(seed)
        run(module, X, optimizer=optimizer, batch_size=4, rng=rng)
        return module.counts.detach().cpu().numpy()

    assert_array_equal(fit(1), fit(1))
    assert (fit(1) != fit(2)).any()


def test_stochastic_steps_end_near_the_posterior(X, rates, device):
    optimizer = NaturalGradient(rates.parameters(), learning_decay=1.0)
    _, lower_bound = run(
        rates,
        X,
        optimizer=optimizer,
        max_iter=40,
        batch_size=6,
        tol=-1,
    )
    assert_allclose(rates.counts.detach().cpu(), X.sum(0), rtol=0.05)
    evidence = PoissonRates.evidence(X)
    assert evidence - 0.5 < lower_bound <= evidence


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_finite_raises(value, X):
    with pytest.raises(ValueError, match="not finite after pass 2"):
        run(Scripted([-3.0, value]), X)


def test_divergence_that_is_not_finite_raises(X, rates, device, monkeypatch):
    monkeypatch.setattr(rates, "global_kl", lambda: math.nan)
    with pytest.raises(ValueError, match="not finite after pass 1"):
        run(rates, X)


def test_reports_come_after_each_pass(X, rates, device):
    lengths = []

    def report(history):
        lengths.append(len(history["lower_bound"]))
        assert len(history["seconds"]) == lengths[-1]

    run(rates, X, max_iter=3, tol=-1, report=report)
    assert lengths == [1, 2, 3]


@pytest.mark.parametrize("batch_size", [None, 7])
def test_a_report_can_stop_training(batch_size, X, rates, device):
    history, lower_bound = run(
        rates,
        X,
        max_iter=50,
        tol=-1.0,
        batch_size=batch_size,
        report=lambda history: len(history["lower_bound"]) == 2,
    )
    assert len(history["lower_bound"]) == 2
    assert math.isfinite(lower_bound)


# Early stopping on rows held out.


def test_patience_ends_training_and_the_best_state_comes_back(X, device):
    module = PoissonRates(N_FEATURES).to(device)
    scores = [1.0, 3.0, 2.0, 2.5, 2.9, 9.0]
    states = []

    def validate():
        states.append(state(module))
        return scores[len(states) - 1]

    optimizer = NaturalGradient(module.parameters(), learning_decay=0.7)
    history, lower_bound = run(
        module,
        X,
        optimizer=optimizer,
        max_iter=20,
        batch_size=6,
        validate=validate,
        n_iter_no_change=3,
    )
    assert history["validation_score"] == scores[:5]
    assert len(history["lower_bound"]) == len(history["seconds"]) == 5
    best, last = states[1], states[-1]
    assert (best["counts"] != last["counts"]).any()
    assert_array_equal(module.counts.detach().cpu(), best["counts"])
    assert module.n_updates.item() == best["n_updates"]
    # What follows from the parameters is theirs again, and the bound is that of now.
    shape = 0.7 + best["counts"]
    rate = 0.4 + best["exposure"]
    assert_allclose(module.components()[0].cpu(), shape / rate, rtol=1e-14)
    x = torch.tensor(X, device=device)
    expected = module.elbo(Batch(x)).sum().item() - module.global_kl().item()
    assert_allclose(lower_bound, expected, rtol=1e-12)


def test_validation_takes_the_place_of_the_tolerance(X, rates, device):
    scores = iter(range(100))
    history, _ = run(
        rates,
        X,
        max_iter=12,
        tol=1e9,
        validate=lambda: float(next(scores)),
        n_iter_no_change=2,
    )
    assert history["validation_score"] == list(range(12))


def test_the_best_state_comes_back_when_passes_run_out(X, device):
    module = PoissonRates(N_FEATURES).to(device)
    scores = iter([5.0, 4.0, 3.0])
    counts = []

    def validate():
        counts.append(module.counts.detach().cpu().clone())
        return next(scores)

    optimizer = NaturalGradient(module.parameters(), learning_decay=0.7)
    run(
        module,
        X,
        optimizer=optimizer,
        max_iter=3,
        batch_size=6,
        validate=validate,
    )
    assert (counts[0] != counts[2]).any()
    assert_array_equal(module.counts.detach().cpu(), counts[0])


AUTOENCODERS = [VariationalAutoencoder, VariationalSparseCoding]


@pytest.mark.parametrize("kind", AUTOENCODERS, ids=lambda kind: kind.__name__)
def test_training_does_not_stop_while_steps_are_large(kind):
    X = load_iris().data[::3]
    small = {"encoder_layers": (16,), "decoder_layers": (16,), "batch_size": 20}
    for options in ({}, {"X_val": X[::3]}):
        model = kind(2, n_iter_no_change=1, max_iter=20, random_state=1, **small)
        n_iter = model.set_params(learning_rate=0.1).fit(X, **options).n_iter_
        # From the first small steps on, at the seventeenth pass, patience may end.
        assert n_iter >= 18


@pytest.mark.slow
@pytest.mark.parametrize("kind", AUTOENCODERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
def test_more_passes_make_no_worse_model(kind, name):
    load = {"iris": load_iris, "wine": load_wine, "digits": load_digits}[name]
    X = load().data[:300]
    score = {
        n: np.mean(
            [
                kind(2, batch_size=20, max_iter=n, random_state=seed).fit(X).score(X)
                for seed in range(3)
            ]
        )
        for n in (20, 50, 100)
    }
    assert score[50] > score[20] - 0.02
    assert score[100] > score[50] - 0.02


@pytest.mark.parametrize("is_validated", [False, True])
def test_without_a_tolerance_passes_run_out(X, is_validated):
    history, _ = run(
        Scripted([-10.0, -9.0, -9.5, -9.6, -9.7, -9.8]),
        X,
        max_iter=6,
        tol=None,
        n_iter_no_change=1,
        validate=(lambda: 0.0) if is_validated else None,
    )
    assert len(history["lower_bound"]) == 6


@pytest.mark.parametrize("options", [{}, {"validation_fraction": 0.3}])
def test_an_estimator_without_a_tolerance_trains_to_max_iter(counts, options):
    model = PoissonFactorization(2, max_iter=80, n_iter_no_change=1, **options)
    assert model.set_params(random_state=0).fit(counts).n_iter_ < 80
    assert model.set_params(tol=None).fit(counts).n_iter_ == 80


# Learning by gradients.


@pytest.fixture
def gaussian_data():
    rng = np.random.default_rng(2)
    z, w = rng.normal(size=(60, 2)), rng.normal(size=(2, N_FEATURES))
    return z @ w + 0.3 * rng.normal(size=(60, N_FEATURES))


def test_the_default_gradient_is_that_of_the_bound_per_row(gaussian_data, device):
    module = LinearGaussian(2, N_FEATURES).to(device)
    found = gradients(module, gaussian_data, slice(None), 60, device)
    x = torch.tensor(gaussian_data, device=device)
    loss = (module.global_kl() - module.elbo(Batch(x)).sum()) / 60
    expected = torch.autograd.grad(loss, list(module.parameters()))
    for result, gradient in zip(found, expected, strict=True):
        assert_allclose(result, gradient.cpu(), rtol=1e-12, atol=1e-14)


def test_a_model_without_a_backward_of_its_own_learns(gaussian_data, device):
    module = LinearGaussian(2, N_FEATURES).to(device)
    history, lower_bound = run(
        module,
        gaussian_data,
        optimizer=adam(module),
        max_iter=150,
        tol=-1.0,
    )
    bounds = history["lower_bound"]
    assert len(bounds) == 150
    assert bounds[-1] > bounds[0] + 50
    found = module.covariance().detach().cpu().numpy()
    model = scipy.stats.multivariate_normal(np.zeros(N_FEATURES), found)
    expected = model.logpdf(gaussian_data).sum() - module.global_kl().item()
    assert_allclose(lower_bound, expected, rtol=1e-9)
    # Those of passes are of the parameters before their steps.
    assert_allclose(bounds[-1], expected, rtol=1e-2)
    assert_allclose(module.log_noise.exp().item(), 0.3, rtol=0.2)
    sample_covariance = gaussian_data.T @ gaussian_data / 60
    assert_allclose(found, sample_covariance, atol=0.5)


def test_gradients_take_batches_too(gaussian_data, device):
    module = LinearGaussian(2, N_FEATURES).to(device)
    history, lower_bound = run(
        module,
        gaussian_data,
        optimizer=adam(module, 0.02),
        max_iter=40,
        batch_size=10,
        tol=-1.0,
    )
    assert lower_bound > history["lower_bound"][0] + 50
    x = torch.tensor(gaussian_data, device=device)
    expected = (module.elbo(Batch(x)).sum() - module.global_kl()).item()
    assert_allclose(lower_bound, expected, rtol=1e-12)


# Steps, whole and in parts.


def make_rates(device):
    return PoissonRates(N_FEATURES).to(device)


def make_gaussian(device):
    return LinearGaussian(2, N_FEATURES).to(device)


@pytest.mark.parametrize("make", [make_rates, make_gaussian])
@pytest.mark.parametrize("rows", [slice(None), np.array([4, 1, 22, 9, 17, 3, 11])])
def test_a_step_in_several_chunks_is_the_step_in_one(
    make, rows, X, device, monkeypatch
):
    def step():
        module = make(device)
        optimizer = NaturalGradient(module.parameters())
        if make is make_gaussian:
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        bound = one_step(module, optimizer, X[rows], N_ROWS)
        return bound, state(module)

    bound, expected = step()
    monkeypatch.setattr("skdeepfactor._training.rows.CHUNK_BYTES", 3 * 4 * N_FEATURES)
    n_rows = len(X[rows])
    assert len(list(chunks(X[rows], None, 0))) == math.ceil(n_rows / 3)
    in_parts, found = step()
    assert_allclose(in_parts, bound, rtol=1e-10)
    for name, tensor in expected.items():
        assert_allclose(found[name], tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [make_rates, make_gaussian])
def test_gradients_of_batches_average_to_the_full_one(make, X, device):
    module = make(device)
    X = X[:20]
    full = gradients(module, X, slice(None), 20, device)
    order = np.random.default_rng(3).permutation(20).reshape(5, 4)
    batches = [gradients(module, X, rows, 20, device) for rows in order]
    for expected, *parts in zip(full, *batches, strict=True):
        assert_allclose(np.mean(parts, axis=0), expected, rtol=1e-10, atol=1e-12)
        assert np.std(parts) > 0 or expected.size == 1


# The same, for every estimator of the package.


def started(estimator, counts):
    """The module of an estimator as its first step finds it, in float64."""
    X = counts.astype(np.float64)
    estimator.set_params(random_state=0)
    rows = MatrixRows(X)
    target = Target(labels_of(counts)) if is_classifier(estimator) else None
    sizes = estimator._sizes(rows, target)
    rows = rows.knowing(**estimator._known_of_rows(rows, target, sizes))
    module = started_module(
        estimator, rows, sizes, np.random.RandomState(0), is_warm=False
    )
    module.train()
    return module, X


def test_estimators_have_unbiased_gradients(conjugate, counts, device):
    module, X = started(conjugate, counts)
    n = X.shape[0]
    full = gradients(module, X, slice(None), n, device)
    order = np.random.default_rng(4).permutation(n).reshape(6, -1)
    batches = [gradients(module, X, rows, n, device) for rows in order]
    for expected, *parts in zip(full, *batches, strict=True):
        assert_allclose(np.mean(parts, axis=0), expected, rtol=1e-9, atol=1e-9)


def test_estimators_take_the_same_step_in_chunks(conjugate, counts, monkeypatch):
    def step():
        module, X = started(conjugate, counts)
        optimizer = conjugate._plan(module, Budget(1, 1, n_rows=60)).optimizer
        bound = one_step(module, optimizer, X, X.shape[0])
        return bound, state(module), len(list(chunks(X, None, module.local_width)))

    bound, expected, n_chunks = step()
    assert n_chunks == 1
    monkeypatch.setattr("skdeepfactor._training.rows.CHUNK_BYTES", 300)
    in_parts, found, n_chunks = step()
    assert n_chunks > 3
    assert_allclose(in_parts, bound, rtol=1e-10)
    for name, tensor in expected.items():
        assert_allclose(found[name], tensor, rtol=1e-9, atol=1e-10)


# Steps that may lower the bound.


def on_path(X, module, n_passes, is_large=False):
    """Train on a path: the logarithm where it ends, all bounds, and the one there."""
    guard = partial(
        Guard,
        positions=module.positions,
        # Of large models rows are not kept, but inferred again from the parameters.
        depth=0 if is_large else module.acceleration,
        holds_rows=not is_large,
    )
    history, bound = run(
        module, X, max_iter=n_passes, tol=-1.0, ascends=False, guard=guard
    )
    return float(module.place.detach().log()), np.array(history["lower_bound"]), bound


def test_steps_are_extrapolated(X, small_chunks):
    def step(log_place):
        return 0.9 * log_place

    def bound(log_place):
        return -log_place.square()

    place, _, plain = on_path(X, Path(step, bound, 0), 8)
    assert place == pytest.approx(math.log(100) * 0.9**8)
    place, _, accelerated = on_path(X, Path(step, bound, 2), 8)
    assert abs(place) < 1e-5
    assert accelerated > plain


def test_an_extrapolation_that_lowers_the_bound_is_taken_back(X):
    def step(log_place):
        return 0.9 * log_place

    def bound(log_place):
        # Steps lead past a cliff, which they come to the edge of but slowly.
        return -log_place.square() - 1000.0 * (log_place < 0.5)

    place, bounds, final = on_path(X, Path(step, bound, 2), 12)
    assert (np.diff(bounds) < 0).any()
    assert place >= 0.5
    assert final >= bounds.max() - 1e-9 * abs(bounds.max())


@pytest.mark.parametrize("acceleration", [0, 1])
@pytest.mark.parametrize("is_large", [False, True])
def test_training_ends_with_the_best_pass(acceleration, is_large, X):
    def step(log_place):
        return log_place - 1

    def bound(log_place):
        return -(log_place - 1.5).square()

    place, bounds, final = on_path(X, Path(step, bound, acceleration), 9, is_large)
    assert bounds[-1] < bounds.max()
    assert final == pytest.approx(bounds.max())
    # The parameters are those of that pass as well.
    assert -len(X) * (place - 1.5) ** 2 == pytest.approx(final)
