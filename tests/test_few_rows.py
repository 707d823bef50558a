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
    PoissonFactorization,
    VariationalAutoencoder,
)
from skdeepfactor._estimator import environment, row_inference
from skdeepfactor._estimator.environment import one_thread
from skdeepfactor._estimator.fitting import is_small_step
from skdeepfactor._math import few_rows
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.likelihoods import CountLikelihood, Multinomial
from skdeepfactor._math.topics import Admixture, Topics

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


@pytest.mark.parametrize("tol", [0, 1e-3])
def test_steps_of_training_resume(tol, batch, dtype, monkeypatch):
    rows = admixture(dtype, 0.4, is_collapsed=True)
    start = torch.rand(6, N_TOPICS, generator=torch.Generator().manual_seed(0))
    start = start.to(dtype) * batch.totals[:, None].to(dtype)
    before = start.clone()
    few, many = both_ways(
        monkeypatch, lambda: rows.solve(batch, start, max_steps=3, tol=tol)
    )
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


@pytest.mark.parametrize("parameters", POISSON.values(), ids=POISSON)
def test_poisson_factors_of_few_rows(parameters, counts, monkeypatch):
    X = counts.toarray().astype(np.float64)
    if "missing_values" in parameters:
        X[::3, 4] = np.nan
    model = PoissonFactorization(3, max_iter=3, random_state=0, **parameters).fit(X)
    few, many = both_ways(monkeypatch, lambda: model.transform(X[5:12]))
    assert_allclose(few, many, rtol=1e-9)


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
        assert torch.get_num_threads() == (1 if environment._set_openmp else 2)
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


@pytest.mark.skipif(environment._set_openmp is None, reason="torch does not show it")
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
