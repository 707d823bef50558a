"""A few rows at a time: what many at once find, by one thread, and what is kept."""

import threading
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
)
from skdeepfactor._estimator import row_inference
from skdeepfactor._estimator.fitting import is_small_step
from skdeepfactor._math import few_rows, threads
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.likelihoods import CountLikelihood, Multinomial
from skdeepfactor._math.threads import one_thread
from skdeepfactor._math.topics import Admixture, Topics
from skdeepfactor.models.neural_topic_dlgm.bounds import ClosedBound
from skdeepfactor.models.sparse_gamma_def import rows
from skdeepfactor.models.sparse_gamma_def.rows import CountRows

RTOL = {torch.float32: 2e-4, torch.float64: 1e-10}
N_TOPICS, N_FEATURES = 4, 12


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def batch(dtype):
    """Six rows, of which one is empty."""
    x = np.random.default_rng(0).poisson(0.8, (6, N_FEATURES)).astype(float)
    x[2] = 0
    x = to_tensor(scipy.sparse.csr_matrix(x), slice(None), dtype=dtype, device="cpu")
    return Batch(x)


def admixture(dtype, alpha, *, is_collapsed):
    counts = np.random.default_rng(1).gamma(0.5, 3.0, (N_TOPICS, N_FEATURES))
    eta = torch.tensor(0.3, dtype=dtype)
    topics = Topics(torch.tensor(counts, dtype=dtype), eta)
    alpha = torch.tensor(np.broadcast_to(alpha, N_TOPICS), dtype=dtype)
    return Admixture(topics, alpha, is_collapsed=is_collapsed)


def both_ways(monkeypatch, solve):
    """What ``solve`` gives one row after the other, and what all rows at once."""
    few = solve()
    with monkeypatch.context() as patch:
        patch.setattr(few_rows, "MANY_ROWS", 0)
        return few, solve()


SIDES = {
    "none": {},
    "priors of rows": {"alpha": np.random.default_rng(2).gamma(1, 1, (6, N_TOPICS))},
    "masks": {"allowed": np.arange(24).reshape(6, 4) % 3 > 0},
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("is_collapsed", [False, True])
@pytest.mark.parametrize("alpha", [0.4, [1e-30, 0.01, 0.1, 3.0]])
def test_topics_of_few_rows(alpha, is_collapsed, side, batch, dtype, monkeypatch):
    rows = admixture(dtype, alpha, is_collapsed=is_collapsed)
    known = {
        name: torch.from_numpy(array).to(torch.bool if name == "allowed" else dtype)
        for name, array in SIDES[side].items()
    }
    batch = batch.with_side(**known)
    options = {"max_steps": 1000, "tol": 1e-6, "is_final": True}
    few, many = both_ways(monkeypatch, lambda: rows.solve(batch, **options))
    assert few.dtype == dtype
    assert_allclose(few, many, rtol=RTOL[dtype], atol=RTOL[dtype])
    assert_array_equal(few[2], np.zeros(N_TOPICS))
    if side == "masks":
        assert (few[~known["allowed"]] == 0).all()


@pytest.mark.parametrize("ends_ahead", [False, True])
@pytest.mark.parametrize("tol", [0, 1e-3])
def test_steps_of_training_resume(tol, ends_ahead, batch, dtype, monkeypatch):
    rows = admixture(dtype, 0.4, is_collapsed=True)
    start = torch.rand(6, N_TOPICS, generator=torch.Generator().manual_seed(0))
    start = start.to(dtype) * batch.totals[:, None].to(dtype)
    before = start.clone()
    options = {"max_steps": 3, "tol": tol, "ends_ahead": ends_ahead}
    few, many = both_ways(monkeypatch, lambda: rows.solve(batch, start, **options))
    assert torch.equal(start, before)
    assert_allclose(few, many, rtol=RTOL[dtype], atol=RTOL[dtype])


def test_long_rows_are_multiplied_in_parts(batch, dtype, monkeypatch):
    rows = admixture(dtype, 0.4, is_collapsed=False)
    options = {"max_steps": 1000, "tol": 1e-6, "is_final": True}
    expected = rows.solve(batch, **options)
    for size in (0, 2 * N_TOPICS + 1):
        monkeypatch.setattr(few_rows, "SERIAL", size)
        found = rows.solve(batch, **options)
        assert_allclose(found, expected, rtol=RTOL[dtype], atol=RTOL[dtype])


POISSON = {
    "plain": {},
    "exposure": {"exposure": "total"},
    "learnt": {"factor_shape": "auto"},
    "shapes that underflow": {"factor_shape": 1e-3},
    "missing": {"missing_values": "ignore"},
}


LAYERS = {
    "one": {"layer_sizes": (3,)},
    "two": {"layer_sizes": (3, 2)},
    "of several shapes": {"layer_sizes": (4, 3, 2), "layer_shape": [0.1, 0.5, 2.0]},
    "that may miss": {"layer_sizes": (3, 2), "missing_values": "ignore"},
    "plain steps": {"layer_sizes": (3, 2), "over_relaxation": 1.0},
    "that give rates": {"layer_sizes": (3, 2), "link": "rate"},
    "of rates, one": {"layer_sizes": (3,), "link": "rate"},
    "allocated": {"layer_sizes": (3, 2), "solver": "auxiliary"},
}
# Those whose few rows take the same way as many.
OTHER_LAYERS = {"that give rates", "allocated"}


@pytest.mark.parametrize("is_double", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_gamma_layers_of_few_rows(name, is_double, counts, monkeypatch):
    X = counts.toarray().astype(np.float64 if is_double else np.float32)
    parameters, n_rows = LAYERS[name], []
    model = SparseGammaDEF(max_iter=3, random_state=0, **parameters)
    model.set_params(transform_layer="all").fit(X)
    X[7] = 0
    solve = CountRows.solve

    def noted(self, x, power):
        n_rows.append(len(x))
        return solve(self, x, power)

    monkeypatch.setattr(CountRows, "solve", noted)
    few, many = both_ways(monkeypatch, lambda: model.transform(X[5:12]))
    rtol = 1e-9 if is_double else 1e-4
    assert_allclose(few, many, rtol=rtol)
    few, many = both_ways(monkeypatch, lambda: model.score_samples(X[5:12]))
    assert_allclose(few, many, rtol=rtol)
    assert n_rows == ([] if name in OTHER_LAYERS else [7, 7])


def test_steps_that_go_ahead_end_where_plain_ones_do(counts, monkeypatch):
    model = SparseGammaDEF((3, 2), max_iter=3, inner_tol=1e-9, random_state=0)
    model.fit(counts).set_params(transform_layer="all")
    X = counts[5:12].astype(np.float64)
    found, n_steps = [], []
    step = CountRows._step

    def noted(*args):
        n_steps[-1] += 1
        return step(*args)

    monkeypatch.setattr(CountRows, "_step", noted)
    for ahead in (rows.AHEAD, 0):
        monkeypatch.setattr(rows, "AHEAD", ahead)
        n_steps.append(0)
        found.append(model.transform(X))
    assert_allclose(*found, rtol=1e-6)
    assert n_steps[0] < n_steps[1]


@pytest.mark.parametrize("parameters", POISSON.values(), ids=POISSON)
def test_poisson_factors_of_few_rows(parameters, counts, monkeypatch):
    X = counts.toarray().astype(np.float64)
    if "missing_values" in parameters:
        X[::3, 4] = np.nan
    model = PoissonFactorization(3, max_iter=3, random_state=0, **parameters).fit(X)
    few, many = both_ways(monkeypatch, lambda: model.transform(X[5:12]))
    assert_allclose(few, many, rtol=1e-9)


def test_what_numpy_needs_goes_with_the_weights(counts):
    model = SparseGammaDEF((3, 2), max_iter=2, random_state=0).fit(counts)
    module, row = model._load(torch.float32), counts[3]
    batch = Batch(to_tensor(row, slice(None), dtype=torch.float32, device="cpu"))
    with torch.no_grad():
        before = module.posterior(batch).mean
        kept = module._kept_rows
        assert torch.equal(module.posterior(batch).mean, before)
        assert kept is not None
        assert module._kept_rows is kept
        module.lowest.weight_mean.mul_(0.5)
        module.refresh()
        assert not torch.equal(module.posterior(batch).mean, before)


def test_the_first_call_gives_the_bits_of_the_next(estimator, counts):
    estimator.fit(counts)
    first = estimator.transform(counts[3])
    assert_array_equal(estimator.transform(counts[3]), first)
    assert_array_equal(estimator.transform(counts[3]), first)


def test_slopes_of_the_multinomial(batch):
    likelihood, rng = Multinomial(), np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=len(batch.entries.values)))
    totals = torch.from_numpy(rng.normal(3, 1, len(batch)))
    found = likelihood.slopes(batch, logits, totals)
    value, pull, push = CountLikelihood.slopes(likelihood, batch, logits, totals)
    assert torch.equal(found[0], value)
    assert torch.equal(found[1].values(), pull.values())
    assert torch.equal(found[2].to(push.dtype), push)


GAUSSIAN = {
    "plain": {},
    "one part": {"prior": "mixture", "n_pseudo_inputs": 1},
    "several parts": {"prior": "mixture", "n_pseudo_inputs": 3},
    "fixed variances": {"posterior_variance": 0.2},
    "full covariances": {"covariance_type": "full"},
    "an urn": {"likelihood": "dirichlet_multinomial"},
}


@pytest.mark.parametrize("is_double", [False, True])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussians_of_one_row(name, is_double, counts, monkeypatch):
    model = NeuralTopicDLGM(3, max_iter=2, random_state=0, **GAUSSIAN[name])
    model.fit(counts)
    X = counts[[1, 3, 7]].astype(np.float64 if is_double else np.float32)

    def found():
        rows = [(model.transform(row), model.score_samples(row)) for row in X]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    row_slopes, n_calls = ClosedBound.row_slopes, []

    def noted(self, batch):
        n_calls.append(len(batch))
        return row_slopes(self, batch)

    monkeypatch.setattr(ClosedBound, "row_slopes", noted)
    factors, bounds = found()
    assert n_calls == ([] if name in ("several parts", "an urn") else [1] * 6)
    monkeypatch.setattr(ClosedBound, "has_row_slopes", lambda self, batch: False)
    expected, expected_bounds = found()
    tol = 1e-8 if is_double else 1e-6
    assert_allclose(factors, expected, rtol=tol, atol=tol)
    assert_allclose(bounds, expected_bounds, rtol=1e-9)


def test_a_row_of_huge_counts_warns_of_nothing(counts):
    model = NeuralTopicDLGM(3, max_iter=1, random_state=0).fit(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.transform(counts[3] * 1e30).shape == (1, 3)


# Threads.


@pytest.fixture
def two_threads():
    """Two threads for torch, here and in threads that begin."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_the_limit_is_this_threads_alone(two_threads):
    found = []

    def look():
        found.append(torch.get_num_threads())

    @one_thread()
    def fail():
        assert torch.get_num_threads() == (1 if threads._set_openmp else 2)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    look()
    with one_thread(when=False):
        look()
    assert found == [2, 2, 2]


@pytest.mark.skipif(threads._set_openmp is None, reason="torch does not show it")
@pytest.mark.parametrize("is_large", [False, True])
def test_tiny_work_is_done_by_one_thread(is_large, two_threads, monkeypatch, counts):
    model = VariationalAutoencoder(2, likelihood="poisson", max_iter=1, random_state=0)
    model.fit(counts)
    if is_large:
        monkeypatch.setattr(row_inference, "TINY_ROWS", 0)
    found = []

    def look(module, batch):
        found.append(torch.get_num_threads())
        return module.posterior(batch).mean

    model._infer(counts[:2], look)
    assert found == [2 if is_large else 1]
    assert torch.get_num_threads() == 2


def test_threads_leave_the_filters_of_warnings_as_they_are(counts):
    model = LatentDirichletAllocation(2, max_iter=1, random_state=0).fit(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        threads = [
            threading.Thread(target=model.transform, args=(counts[row],))
            for row in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(warnings.filters) == before


@pytest.mark.parametrize("shape", [(), (3,), (2, 30), (1_000_000, 30)])
def test_small_steps_are_told_by_their_shape(shape, counts):
    model = LatentDirichletAllocation(2, max_iter=1, random_state=0)
    X = scipy.sparse.csr_matrix(shape) if len(shape) == 2 else np.empty(shape)
    assert not is_small_step(model, X)
    assert is_small_step(model.fit(counts), X) == (shape == (2, 30))


@pytest.mark.parametrize(("layers", "name"), [((), "total"), ((4,), "expanded")])
def test_products_that_are_kept_go_with_the_weights(layers, name, counts):
    model = NeuralTopicDLGM(3, decoder_layers=layers, max_iter=1, random_state=0)
    module = model.fit(counts)._load(torch.float32)
    x = to_tensor(counts, slice(None), dtype=torch.float32, device="cpu")
    with torch.no_grad():
        before = module.elbo(Batch(x))
        kept = getattr(module, f"_kept_{name}")
        assert kept is not None
        assert torch.equal(module.elbo(Batch(x)), before)
        assert getattr(module, f"_kept_{name}") is kept
        module.decoder.weight.mul_(0.5)
        for forget in (module.refresh, module.eval):
            forget()
            assert getattr(module, f"_kept_{name}") is None
            after = module.elbo(Batch(x))
            assert not torch.equal(after, before)
