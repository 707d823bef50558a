import copy
import hashlib
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import skops.io
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tests.forked import PATIENCE

PLAIN = (str, int, float, bool, type(None))


@pytest.fixture
def estimator(estimator):
    """The estimator of the name, quicker still, with one seed."""
    return estimator.set_params(max_iter=2, random_state=0)


def by_pickle(estimator, folder):
    return pickle.loads(pickle.dumps(estimator))


def by_oldest_pickle(estimator, folder):
    return pickle.loads(pickle.dumps(estimator, protocol=2))


def by_deepcopy(estimator, folder):
    return copy.deepcopy(estimator)


def by_joblib(estimator, folder):
    joblib.dump(estimator, folder / "estimator.joblib")
    return joblib.load(folder / "estimator.joblib")


def by_joblib_map(estimator, folder):
    joblib.dump(estimator, folder / "estimator.joblib")
    return joblib.load(folder / "estimator.joblib", mmap_mode="r")


def by_skops(estimator, folder):
    return skops.io.loads(skops.io.dumps(estimator), trusted=[type_name(estimator)])


def type_name(estimator):
    cls = type(estimator)
    return f"{cls.__module__}.{cls.__qualname__}"


def of_each_class(value):
    """A parameter that variants of a class are not tested with."""
    return pytest.param(value, marks=pytest.mark.each_class)


@pytest.fixture(
    params=[
        by_pickle,
        *map(of_each_class, [by_oldest_pickle, by_deepcopy, by_joblib, by_joblib_map]),
        by_skops,
    ],
    ids=lambda function: function.__name__,
)
def round_trip(request, tmp_path):
    return lambda estimator: request.param(estimator, tmp_path)


def assert_same_results(first, second, X):
    assert_array_equal(first.transform(X), second.transform(X))
    assert first.score(X) == second.score(X)
    assert_array_equal(first.components_, second.components_)
    draws = [e.sample(4, random_state=1) for e in (first, second)]
    assert (draws[0] != draws[1]).sum() == 0


def test_what_comes_back_works_alike(fitted, counts, round_trip):
    restored = round_trip(fitted)
    assert restored is not fitted
    assert_same_results(restored, fitted, counts)
    assert restored.history_ == fitted.history_
    assert restored.lower_bound_ == fitted.lower_bound_
    assert str(restored.get_params()) == str(fitted.get_params())


@pytest.mark.parametrize(
    "trip", [of_each_class(by_deepcopy), of_each_class(by_joblib_map), by_skops]
)
def test_what_comes_back_can_go_on(trip, fitted, counts, tmp_path):
    restored = trip(fitted, tmp_path)
    before = fitted.components_.copy()
    for estimator in (restored, fitted):
        estimator.partial_fit(counts[:20])
    assert restored.n_samples_seen_ == fitted.n_samples_seen_ == 80
    assert (fitted.components_ != before).any()
    assert_array_equal(restored.components_, fitted.components_)
    for estimator in (restored, fitted):
        estimator.set_params(warm_start=True).fit(counts)
    assert_array_equal(restored.components_, fitted.components_)
    assert restored.lower_bound_ == fitted.lower_bound_


@pytest.mark.each_class
def test_an_unfitted_estimator_comes_back_unfitted(estimator, counts, round_trip):
    restored = round_trip(estimator)
    assert str(restored.get_params()) == str(estimator.get_params())
    with pytest.raises(NotFittedError):
        restored.transform(counts)


@pytest.mark.each_class
def test_a_stream_of_steps_survives_a_pause(estimator, counts):
    paused = clone(estimator)
    for start in range(0, 60, 15):
        rows = counts[start : start + 15]
        estimator.partial_fit(rows, total_samples=60)
        paused = pickle.loads(pickle.dumps(paused)).partial_fit(rows, total_samples=60)
    assert_same_results(paused, estimator, counts)


def test_skops_needs_to_trust_the_estimator_alone(fitted):
    untrusted = skops.io.get_untrusted_types(data=skops.io.dumps(fitted))
    assert set(untrusted) == {type_name(fitted)}


def unexpected(value, path):
    """Names of all within a value that is neither of NumPy nor plain Python."""
    if isinstance(value, np.ndarray):
        return [] if value.dtype.kind in "biufUS" else [f"{path}: {value.dtype}"]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        is_plain = isinstance(value, PLAIN)
        return [] if is_plain else [f"{path}: {type(value)}"]
    return [name for key, part in items for name in unexpected(part, f"{path}.{key}")]


@pytest.mark.parametrize(
    "how",
    ["fit", "partial_fit", of_each_class("batches"), of_each_class("validation")],
)
def test_fitted_state_is_arrays_and_plain_python(how, estimator, counts):
    if how == "partial_fit":
        estimator.partial_fit(counts).partial_fit(counts)
    elif how == "batches":
        estimator.set_params(batch_size=16).fit(counts)
    else:
        fraction = 0.2 if how == "validation" else None
        estimator.set_params(validation_fraction=fraction).fit(counts)
    assert unexpected(vars(estimator), type(estimator).__name__) == []


def test_fitted_arrays_are_nobody_else_s(fitted, counts):
    twin = copy.deepcopy(fitted)
    for name, value in vars(twin).items():
        if isinstance(value, np.ndarray):
            # What is shown may be replaced; what is used is kept apart.
            vars(twin)[name] = np.zeros_like(value)
    assert_array_equal(twin.transform(counts), fitted.transform(counts))


def test_refitting_leaves_earlier_arrays_alone(fitted, counts):
    components = fitted.components_
    before = components.copy()
    fitted.partial_fit(counts[:10])
    fitted.fit(counts[:30])
    assert_array_equal(components, before)


OTHER_PROCESS = """
import hashlib, pickle, sys, torch
from tests.conftest import supply_targets
supply_targets()
torch.set_num_threads(int(sys.argv[1]))
for path in sys.stdin:
    with open(path.strip(), "rb") as file:
        estimator, counts = pickle.load(file)
    estimator.fit(counts)
    print(hashlib.sha256(estimator.components_.tobytes()).hexdigest(), flush=True)
"""


@pytest.fixture(scope="module")
def fit_elsewhere():
    """Give a function that fits in another process and gives back a hash."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(torch.get_num_threads())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def fit(path):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield fit
        process.stdin.close()
        assert process.wait(timeout=PATIENCE) == 0


def test_another_process_finds_the_same_bits(
    estimator, counts, tmp_path, fit_elsewhere
):
    path = tmp_path / "estimator.pickle"
    path.write_bytes(pickle.dumps((estimator, counts)))
    there = fit_elsewhere(path)
    estimator.fit(counts)
    here = hashlib.sha256(estimator.components_.tobytes()).hexdigest()
    assert there == here


@pytest.mark.parametrize("batch_size", [of_each_class(None), 16])
def test_the_same_seed_finds_the_same_bits(batch_size, estimator, counts):
    estimator.set_params(batch_size=batch_size)
    first = clone(estimator).fit(counts).components_
    again = estimator.fit(counts).components_
    assert_array_equal(again, first)
    assert_array_equal(estimator.fit(counts).components_, first)


def test_no_global_state_is_touched(estimator, counts):
    def states():
        numpy_state = np.random.get_state()  # noqa: NPY002 (it is what is tested)
        return (
            numpy_state[1].copy(),
            np.array(numpy_state[2]),
            torch.get_rng_state().numpy(),
            np.array([torch.get_num_threads()]),
            np.array([torch.is_grad_enabled()]),
        )

    before = states()
    estimator.fit(counts)
    estimator.set_params(batch_size=16).fit(counts)
    estimator.partial_fit(counts[:9])
    Z = estimator.transform(counts)
    estimator.inverse_transform(Z)
    estimator.score(counts)
    if hasattr(estimator, "perplexity"):
        estimator.perplexity(counts)
    estimator.sample(5, random_state=0)
    for old, new in zip(before, states(), strict=True):
        assert_array_equal(new, old)
    assert torch.get_default_dtype() == torch.float32


def test_a_clone_is_unfitted(fitted, counts):
    copied = clone(fitted)
    assert vars(copied).keys() == fitted.get_params(deep=False).keys()
    with pytest.raises(NotFittedError):
        copied.transform(counts)
    assert str(copied.get_params()) == str(fitted.get_params())
