"""What the caller has set torch to changes nothing, and stays set."""

import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    VariationalAutoencoder,
)
from skdeepfactor._estimator.environment import own_environment
from skdeepfactor.inspection import jacobian_embeddings
from tests import forked
from tests.test_architecture import SOURCES, calls, dotted


@pytest.fixture
def estimator(estimator):
    return estimator.set_params(max_iter=2)


@pytest.fixture
def counts(counts):
    """A few rows, since all estimators are fitted many times."""
    return counts[:12]


@pytest.fixture(scope="module")
def expected():
    """What each estimator gives where nothing is set, by its parameters."""
    return {}


class default_dtype:
    """torch's default type for a while."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __enter__(self):
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error):
        torch.set_default_dtype(self.before)


class default_device:
    """torch's default device for a while, as ``set_default_device`` sets it."""

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        torch.set_default_device(self.device)

    def __exit__(self, *error):
        torch.set_default_device(None)


SURROUNDINGS = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default_device": lambda: default_device("meta"),
    "device_context": lambda: torch.device("meta"),
}


def settings():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
    )


def results(estimator, counts):
    """A hash of what all methods give."""
    return forked.everything(estimator.fit(counts), counts)


@pytest.mark.each_class
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_surroundings_change_no_bit(surroundings, estimator, counts, expected):
    key = repr((type(estimator), estimator.get_params()))
    if key not in expected:
        expected[key] = results(estimator, counts)
    with SURROUNDINGS[surroundings]():
        before = settings()
        found = results(estimator, counts)
        assert settings() == before
    assert found == expected[key]


QUICK = {"max_iter": 2, "random_state": 0}
FIFTHS, THIRDS = (np.arange(12.0) % n for n in (5, 3))
# What the table of estimators lacks: side information, and further ways of learning.
OTHERS = {
    "times": (DynamicTopicModel(3, **QUICK), {"times": FIFTHS}),
    "covariates": (
        CorrelatedTopicModel(3, **QUICK),
        {"covariates": np.column_stack([FIFTHS, THIRDS])},
    ),
    "gibbs": (LatentDirichletAllocation(3, inference="gibbs", **QUICK), {}),
    "cross_fitted": (
        LatentDirichletAllocation(3, inference="cross_fitted", **QUICK),
        {},
    ),
    "residual": (
        NeuralTopicDLGM(
            3,
            decoder_layers=(6,),
            skip_connections=True,
            encoder_layers=(8,),
            max_refine_steps=5,
            **QUICK,
        ),
        {},
    ),
}


@pytest.mark.parametrize(("model", "side"), OTHERS.values(), ids=OTHERS)
def test_surroundings_threads_and_views_change_no_bit(model, side, counts):
    def found(side=side):
        fitted = clone(model).fit(counts, **side)
        inferred = (fitted.transform, fitted.score_samples)
        arrays = [method(rows, **known) for method in inferred for rows, known in some]
        return [fitted.components_, *arrays]

    few = {name: values[:3] for name, values in side.items()}
    some = [(counts, side), (counts[:3], few)]
    # Backwards in memory, and not to be written to.
    views = {name: values[::-1].copy()[::-1] for name, values in side.items()}
    for values in views.values():
        values.flags.writeable = False
    expected, others = found(), [found(views)]
    with contextlib.ExitStack() as stack:
        for name in ("inference_mode", "autocast", "bfloat16", "default_device"):
            stack.enter_context(SURROUNDINGS[name]())
        others.append(found())
    with ThreadPoolExecutor(2) as pool:
        others += [task.result() for task in [pool.submit(found) for _ in range(2)]]
    for other in others:
        for one, two in zip(other, expected, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_surroundings_change_no_embedding(surroundings, counts):
    model = VariationalAutoencoder(2, likelihood="poisson", max_iter=2, random_state=0)
    model.fit(counts)
    expected = jacobian_embeddings(model, random_state=0)
    with SURROUNDINGS[surroundings]():
        found = jacobian_embeddings(model, random_state=0)
    np.testing.assert_array_equal(found, expected)


def test_what_an_error_leaves_is_set_as_before():
    @own_environment()
    def fail():
        assert settings()[:3] == (True, False, False)
        raise RuntimeError("inside")

    with torch.inference_mode(), torch.autocast("cpu"):
        before = settings()
        with pytest.raises(RuntimeError, match="inside"):
            fail()
        assert settings() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_gives_what_one_thread_gives():
    # All children die with the group, should one of them hang.
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.forked"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            shown, errors = process.communicate(timeout=12 * forked.PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, errors
    lines = [line.split("\t") for line in shown.splitlines()]
    assert len(lines) == 12
    for in_child, on_one_thread in lines:
        # The number of threads in the child before and after.
        assert in_child == str(([on_one_thread] * 2, 2, 2))


def test_each_thread_of_a_forked_child_gets_its_own_number_back(monkeypatch):
    monkeypatch.setattr("skdeepfactor._estimator.environment._IMPORTED_BY", -1)

    def numbers():
        before = torch.get_num_threads()
        with own_environment():
            with own_environment():
                inside = torch.get_num_threads()
            inside = inside, torch.get_num_threads()
        return before, *inside, torch.get_num_threads()

    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as pool:
            with own_environment():
                assert pool.submit(numbers).result() == (2, 1, 1, 2)
            assert numbers() == (2, 1, 1, 2)
    finally:
        torch.set_num_threads(1)


# What makes floats of torch's default type, if no other is named.
FACTORIES = {
    *("empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "zeros"),
}


def test_factories_name_their_type():
    # But in constructors of modules, which ``_build`` is followed by ``.to(dtype)`` of.
    unnamed = [
        (name, call.lineno)
        for name, tree in SOURCES.items()
        for call, function in calls(tree)
        if function != "__init__"
        and dotted(call.func) in {f"torch.{factory}" for factory in FACTORIES}
        and "dtype" not in {keyword.arg for keyword in call.keywords}
    ]
    assert unnamed == []
