import numpy as np
import pytest
import scipy.sparse as sp
import scipy.special
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skdeepfactor._math import row_iteration
from skdeepfactor._math.allocation import (
    Weights,
    allocate,
    allocate_indicators,
    indicator_log_likelihood,
)
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.gammas import digamma
from skdeepfactor._math.row_iteration import fixed_point
from skdeepfactor._training.guard import Anderson

RTOL = {torch.float32: 1e-4, torch.float64: 1e-10}


@pytest.fixture(params=["strided", "csr"])
def layout(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def batch(layout, device):
    """Make a tensor of an array, in the layout under test."""

    def make(array, dtype):
        X = np.asarray(array, dtype=np.float64)
        if layout == "csr":
            X = sp.csr_matrix(X)
        return to_tensor(X, slice(None), dtype=dtype, device=device)

    return make


def problem(n_rows=13, n_features=9, n_components=4, spread=3.0, seed=0):
    """Draw counts, E[log z] and E[log w]; a row and a feature have no counts."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(1.2, (n_rows, n_features)).astype(float)
    x[1], x[:, 2] = 0, 0
    mean_log_z = rng.normal(-1, spread, (n_rows, n_components))
    mean_log_w = rng.normal(-2, spread, (n_components, n_features))
    return x, mean_log_z, mean_log_w


def brute_force(x, mean_log_z, mean_log_w):
    """Row counts, feature counts and log likelihoods, from an array of all shares."""
    logits = mean_log_z[:, None, :] + mean_log_w.T[None]
    log_p = scipy.special.logsumexp(logits, axis=2)
    phi = np.exp(logits - log_p[:, :, None])
    assert phi.shape == (*x.shape, mean_log_z.shape[1])
    return (
        np.einsum("nv,nvk->nk", x, phi),
        np.einsum("nv,nvk->kv", x, phi),
        np.einsum("nv,nv->n", x, log_p),
    )


def tensors(dtype, device, *arrays):
    return [torch.tensor(array, dtype=dtype, device=device) for array in arrays]


def weights_of(mean_log):
    return Weights.from_mean_log(
        lambda part: mean_log[:, part], mean_log.shape, mean_log
    )


def feature_counts(allocation, weights):
    counts = torch.zeros_like(weights.scaled.T)
    allocation.add_feature_counts(counts, weights)
    return counts


@pytest.mark.parametrize("n_components", [1, 4, 30])
@pytest.mark.parametrize("n_rows", [2, 13])
def test_allocation_is_that_of_the_shares(n_components, n_rows, batch, dtype, device):
    x, mean_log_z, mean_log_w = problem(n_rows=n_rows, n_components=n_components)
    expected = brute_force(x, mean_log_z, mean_log_w)
    z, w = tensors(dtype, device, mean_log_z, mean_log_w)
    x = batch(x, dtype)
    weights = weights_of(w)
    allocation = allocate(x, z, weights)
    found = (
        allocation.row_counts(weights),
        feature_counts(allocation, weights),
        allocation.log_likelihood(x, weights),
    )
    assert [f.dtype for f in found] == [dtype, dtype, torch.float64]
    rtol = RTOL[dtype]
    for result, array in zip(found, expected, strict=True):
        assert result.shape == array.shape
        assert_allclose(result.cpu(), array, rtol=rtol, atol=rtol)


def test_indicators_are_allocated_as_their_expected_counts(batch, dtype, device):
    x, mean_log_z, mean_log_w = problem(spread=1.0)
    x = (x > 0).astype(float)
    logits = mean_log_z[:, None, :] + mean_log_w.T[None]
    p = np.exp(scipy.special.logsumexp(logits, axis=2))
    expected = brute_force(x * p / -np.expm1(-p), mean_log_z, mean_log_w)
    w = torch.from_numpy(mean_log_w).to(device, dtype)
    weights = Weights.from_mean_log(lambda features: w[:, features], w.shape, w)
    z = torch.from_numpy(mean_log_z).to(device, dtype)
    x_batch = batch(x, dtype)
    allocation = allocate_indicators(x_batch, z, weights)
    feature_counts = torch.zeros_like(w)
    allocation.add_feature_counts(feature_counts, weights)
    for actual, exact in (
        (allocation.row_counts(weights), expected[0]),
        (feature_counts, expected[1]),
        (
            indicator_log_likelihood(x_batch, allocation, weights),
            (x * np.log(np.expm1(p))).sum(1),
        ),
    ):
        assert_allclose(actual.cpu(), exact, rtol=RTOL[dtype], atol=1e-5)


def test_allocation_keeps_all_counts(batch, dtype, device):
    x, mean_log_z, mean_log_w = problem(seed=1)
    z, w = tensors(dtype, device, mean_log_z, mean_log_w)
    weights = weights_of(w)
    allocation = allocate(batch(x, dtype), z, weights)
    rows = allocation.row_counts(weights).sum(1).cpu()
    features = feature_counts(allocation, weights).sum(0).cpu()
    assert_allclose(rows, x.sum(1), rtol=1e-5)
    assert_allclose(features, x.sum(0), rtol=1e-5)


def test_allocation_changes_nothing_that_it_is_given(batch, device):
    x, mean_log_z, mean_log_w = problem()
    z, w = tensors(torch.float64, device, mean_log_z, mean_log_w)
    x_batch = batch(x, torch.float64)
    weights = weights_of(w)
    scaled = weights.scaled.clone()
    allocation = allocate(x_batch, z, weights)
    allocation.row_counts(weights)
    feature_counts(allocation, weights)
    allocation.log_likelihood(x_batch, weights)
    assert_array_equal(x_batch.to_dense().cpu(), x)
    assert_array_equal(z.cpu(), mean_log_z)
    assert_array_equal(w.cpu(), mean_log_w)
    assert torch.equal(weights.scaled, scaled)


def test_weights_are_scaled_by_feature(dtype, device):
    _, _, mean_log_w = problem()
    (w,) = tensors(dtype, device, mean_log_w - 5000)
    weights = weights_of(w)
    assert weights.scaled.shape == (9, 4)
    assert weights.log_scale.shape == (9,)
    assert (weights.scaled.amax(1) == 1).all()
    restored = weights.scaled.log() + weights.log_scale[:, None]
    assert_allclose(restored.T.cpu(), w.cpu(), rtol=1e-6)


def test_shares_ignore_the_scale_of_expectations(batch, device):
    x, mean_log_z, mean_log_w = problem()
    z, w = tensors(torch.float64, device, mean_log_z, mean_log_w)
    x_batch = batch(x, torch.float64)
    near, far = weights_of(w), weights_of(w - 800)
    expected = allocate(x_batch, z, near)
    shifted = allocate(x_batch, z - 900, far)
    assert_allclose(
        shifted.row_counts(far).cpu(), expected.row_counts(near).cpu(), rtol=1e-9
    )
    difference = expected.log_likelihood(x_batch, near) - shifted.log_likelihood(
        x_batch, far
    )
    assert_allclose(difference.cpu(), 1700 * x.sum(1), rtol=1e-9)


def test_tiny_shapes_and_huge_counts_do_not_overflow(batch, device):
    rng = np.random.default_rng(2)
    x = np.where(rng.random((20, 12)) < 0.4, 1e9, 0.0)
    x[0], x[1] = 1e9, 0
    shape_z = np.where(rng.random((20, 5)) < 0.3, 1e9, 1e-3)
    shape_w = np.where(rng.random((5, 12)) < 0.3, 1e9, 1e-3)
    shape_z[2], shape_w[:, 3] = 1e-3, 1e-3
    z, w = tensors(torch.float32, device, shape_z, shape_w)
    x_batch = batch(x, torch.float32)
    weights = weights_of(digamma(w))
    allocation = allocate(x_batch, digamma(z), weights)
    rows = allocation.row_counts(weights).cpu().double()
    features = feature_counts(allocation, weights).cpu().double()
    likelihood = allocation.log_likelihood(x_batch, weights).cpu()
    for result in (rows, features, likelihood):
        assert torch.isfinite(result).all()
    assert (rows >= 0).all()
    assert (features >= 0).all()
    assert_allclose(rows.sum(1), x.sum(1), rtol=1e-5)
    assert_allclose(features.sum(0), x.sum(0), rtol=1e-5)
    assert likelihood[1] == 0


def test_factors_that_exclude_each_other_do_not_divide_by_zero(batch, device):
    # The row has only the first factor and the feature only the second.
    for dtype in (torch.float32, torch.float64):
        (z,) = tensors(dtype, device, [[0.0, -1e6]])
        (w,) = tensors(dtype, device, [[-1e6], [0.0]])
        x_batch = batch([[1e9]], dtype)
        weights = weights_of(w)
        allocation = allocate(x_batch, z, weights)
        counts = allocation.row_counts(weights).cpu()
        assert_allclose(counts, [[5e8, 5e8]], rtol=1e-5)
        assert torch.isfinite(allocation.log_likelihood(x_batch, weights)).all()


def test_a_batch_without_rows(batch, dtype, device):
    x = batch(np.zeros((0, 6)), dtype)
    z, w = tensors(dtype, device, np.zeros((0, 3)), np.zeros((3, 6)))
    weights = weights_of(w)
    allocation = allocate(x, z, weights)
    assert allocation.row_counts(weights).shape == (0, 3)
    assert_array_equal(feature_counts(allocation, weights).cpu(), np.zeros((3, 6)))
    assert allocation.log_likelihood(x, weights).shape == (0,)


class Approach:
    """Each row approaches its target at its own speed, both read from its data.

    Every operation is elementwise, so that a row's numbers cannot depend on the rest.
    """

    def __init__(self):
        self.sizes = []

    def __call__(self, rows, state):
        self.sizes.append(len(state))
        x = rows.x.to_dense()
        assert len(rows) == len(x) == len(state)
        speed, target = x[:, :1], x[:, 1:]
        return target + speed * (state - target)


@pytest.fixture
def rows_of(batch):
    """Make a batch of an array, in the layout under test."""
    return lambda array: Batch(batch(array, torch.float64))


def approach_data(n_rows=40, width=3):
    rng = np.random.default_rng(3)
    speed = rng.uniform(0.05, 0.95, (n_rows, 1))
    return np.hstack([speed, rng.uniform(1, 9, (n_rows, width))])


def iterate(update, x, state, max_steps, tol):
    """Iterate one row by the documented rule; the last state and the steps taken."""
    n_steps = 0
    is_moving = True
    while is_moving and n_steps < max_steps:
        new = update(x, state)
        is_moving = (new - state).abs().sum() > tol * new.sum()
        state = new
        n_steps += 1
    return state, n_steps


@pytest.mark.parametrize("tol", [1e-1, 1e-4, 1e-9])
@pytest.mark.parametrize("max_steps", [1, 7, 400])
def test_each_row_stops_by_itself(tol, max_steps, rows_of, device, monkeypatch):
    monkeypatch.setattr(row_iteration, "STEPS_PER_COUNT", 1)
    data = approach_data()
    x = rows_of(data)
    start = torch.full((40, 3), 0.5, dtype=torch.float64, device=device)
    before = start.clone()
    update = Approach()
    result = fixed_point(update, x, start, max_steps=max_steps, tol=tol)
    assert torch.equal(start, before)
    assert len(update.sizes) <= max_steps
    steps = []
    for i in range(40):
        row = rows_of(data[i : i + 1])
        expected, n_steps = iterate(
            Approach(), row, start[i : i + 1], max_steps=max_steps, tol=tol
        )
        assert torch.equal(result[i : i + 1], expected)
        steps.append(n_steps)
    assert len(update.sizes) == max(steps)
    if max_steps == 400:
        assert min(steps) < max(steps) < 400


def test_rows_do_not_depend_on_their_company(rows_of, device):
    data = approach_data()
    start = torch.full((40, 3), 0.5, dtype=torch.float64, device=device)
    options = {"max_steps": 300, "tol": 1e-5}
    together = fixed_point(Approach(), rows_of(data), start, **options)
    order = np.random.default_rng(4).permutation(40)
    shuffled = rows_of(data[order])
    result = fixed_point(Approach(), shuffled, start, **options)
    assert torch.equal(result, together[torch.from_numpy(order).to(device)])
    part = rows_of(data[5:9])
    result = fixed_point(Approach(), part, start[5:9], **options)
    assert torch.equal(result, together[5:9])


def test_allocations_do_not_depend_on_their_company(rows_of, device):
    x, _, mean_log_w = problem(n_rows=30, n_features=40, spread=1.0)
    (w,) = tensors(torch.float64, device, mean_log_w)
    weights = weights_of(w)

    def update(rows, counts):
        return allocate(rows.x, digamma(0.3 + counts), weights).row_counts(weights)

    def solve(rows):
        start = torch.ones(len(rows), 4, dtype=torch.float64, device=device)
        part = rows_of(x[rows])
        return fixed_point(update, part, start, max_steps=1000, tol=1e-4).cpu()

    together = solve(np.arange(30))
    order = np.random.default_rng(5).permutation(30)
    assert_allclose(solve(order), together[order], rtol=1e-12, atol=1e-12)
    for i in range(5):
        alone = solve(np.array([i]))
        assert_allclose(alone, together[i : i + 1], rtol=1e-12, atol=1e-12)


def test_rows_that_have_stopped_are_dropped(rows_of, device):
    update = Approach()
    x = rows_of(approach_data())
    start = torch.full((40, 3), 0.5, dtype=torch.float64, device=device)
    fixed_point(update, x, start, max_steps=400, tol=1e-6)
    assert update.sizes[0] == 40
    assert update.sizes[-1] <= 2
    assert update.sizes == sorted(update.sizes, reverse=True)


@pytest.mark.parametrize("max_steps", [1, 5])
def test_no_tolerance_takes_every_step(max_steps, rows_of, device):
    data = approach_data()
    # Some rows are where they want to be from the start.
    start = torch.tensor(data[:, 1:], device=device)
    start[::2] = 0.5
    before = start.clone()
    update = Approach()
    x = rows_of(data)
    result = fixed_point(update, x, start, max_steps=max_steps, tol=0)
    assert update.sizes == [40] * max_steps
    assert torch.equal(start, before)
    expected = start
    for _ in range(max_steps):
        expected = Approach()(x, expected)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("is_final", [False, True])
def test_few_steps_of_training_are_all_taken(is_final, rows_of, device):
    update = Approach()
    data = approach_data()
    x, start = rows_of(data), torch.tensor(data[:, 1:], device=device)
    options = {"max_steps": row_iteration.STEPS_PER_COUNT, "is_final": is_final}
    result = fixed_point(update, x, start, tol=1.0, **options)
    # A row may change by its own size, so that the first step would be the last.
    assert len(update.sizes) == (1 if is_final else row_iteration.STEPS_PER_COUNT)
    if not is_final:
        expected = fixed_point(Approach(), x, start, tol=0.0, **options)
        assert torch.equal(result, expected)


@pytest.mark.parametrize("steps_per_count", [1, 4])
def test_rows_of_nothing_stop_when_counted(
    steps_per_count, rows_of, device, monkeypatch
):
    monkeypatch.setattr(row_iteration, "STEPS_PER_COUNT", steps_per_count)
    calls = []

    def update(x, state):
        calls.append(len(state))
        return torch.zeros_like(state)

    x = rows_of(np.zeros((3, 2)))
    start = torch.zeros(3, 2, dtype=torch.float64, device=device)
    result = fixed_point(update, x, start, max_steps=50, tol=1e-3)
    assert calls == [3] * steps_per_count
    assert torch.equal(result, start)


@pytest.mark.parametrize("tol", [0, 1e-3])
def test_steps_ahead_arrive_sooner(tol, rows_of, device):
    """A step halves the distance; over-relaxed by .8, more than two thirds are gone."""
    goal = torch.tensor([[4.0, 1.0], [0.0, 3.0]], dtype=torch.float64, device=device)
    seen = []

    def update(batch, state):
        seen.append(state.min().item())
        return 0.5 * (state + goal)

    def error(ahead):
        x, start = rows_of(np.zeros((2, 2))), torch.full_like(goal, 2)
        found = fixed_point(update, x, start, max_steps=4, tol=tol, ahead=ahead)
        return (found - goal).abs().max().item()

    assert error(0.0) == 2 / 2**4
    # Each step of size 1 + .8 leaves 1 / 10 of the distance, the last one a half.
    assert error(0.8) == pytest.approx(2 * 0.1**3 / 2, rel=1e-6)
    assert min(seen) >= 0


def test_no_rows(rows_of, device):
    x = rows_of(np.zeros((0, 4)))
    start = torch.zeros(0, 3, dtype=torch.float64, device=device)
    for tol in (0, 1e-3):
        result = fixed_point(Approach(), x, start, max_steps=5, tol=tol)
        assert result.shape == (0, 3)


def test_anderson_solves_linear_fixed_points(device):
    """With as many earlier steps as dimensions, exactly; plain steps do not."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    slope = torch.tensor(axes @ np.diag([0.99, 0.9, -0.5]) @ axes.T, device=device)
    offset = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, device=device)
    solution = torch.linalg.solve(torch.eye(3).to(slope) - slope, offset)
    weights = torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64, device=device)
    anderson = Anderson(3)
    point = torch.zeros_like(offset)
    for _ in range(5):
        point = anderson(point, slope @ point + offset, weights)
    assert_allclose(point.cpu(), solution.cpu(), rtol=1e-3)
    plain = torch.zeros_like(offset)
    for _ in range(5):
        plain = slope @ plain + offset
    assert (plain - solution).norm() > 0.5 * solution.norm()


def test_anderson_forgets():
    one, two = torch.ones(2), torch.full((2,), 2.0)
    anderson = Anderson(2)
    # Alone, or after it has forgotten, a step is taken as it is.
    assert torch.equal(anderson(one, two, one), two)
    assert not torch.equal(
        anderson(two, torch.full((2,), 2.5), one), torch.full((2,), 2.5)
    )
    anderson.forget()
    assert torch.equal(anderson(one, two, one), two)


def test_anderson_keeps_the_last_steps():
    """Of a path that turns, more steps than it keeps leave no trace."""
    rng = np.random.default_rng(0)
    path = torch.from_numpy(rng.normal(size=(9, 2, 5)))
    weights = torch.ones(5, dtype=torch.float64)
    long, short = Anderson(2), Anderson(2)
    for before, after in path:
        found = long(before, after, weights)
    for before, after in path[-3:]:
        expected = short(before, after, weights)
    assert_allclose(found, expected, rtol=1e-9)
