"""What is pickled of a fitted estimator, what is derived on load, what is kept."""

import copy
import gc
import pickle
import threading
import warnings
import weakref

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.preprocessing import Normalizer

import skdeepfactor
from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
)
from skdeepfactor._estimator import arrays
from tests.forked import everything

pytestmark = pytest.mark.each_class


@pytest.fixture
def estimator(estimator):
    return estimator.set_params(max_iter=2)


@pytest.fixture
def counts(counts):
    return counts[:20]


def by_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))


def all_arrays(value):
    """All arrays in a fitted attribute."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return []
    return [array for part in value for array in all_arrays(part)]


def fitted_arrays(estimator):
    """Arrays of fitted attributes, and of what stands behind them, by name."""
    return {
        name: all_arrays(value)
        for name, value in vars(estimator).items()
        if name.endswith("_") or name == "_parameters"
    }


# Versions.


def with_state(estimator, **changes):
    """A twin that another version has pickled."""
    state = {**estimator.__getstate__(), **changes}
    twin = type(estimator).__new__(type(estimator))
    twin.__setstate__(state)
    return twin


def test_the_version_is_noted_and_is_no_attribute(estimator, counts):
    for model in (estimator, clone(estimator).fit(counts)):
        state = model.__getstate__()
        assert state["_skdeepfactor_version"] == skdeepfactor.__version__
        assert "_skdeepfactor_version" not in vars(by_pickle(model))


def test_another_version_is_warned_of(estimator, counts):
    estimator.fit(counts)
    kind = type(estimator).__name__
    match = rf"unpickle estimator {kind} from version 0\.0\.1 when using version"
    with pytest.warns(InconsistentVersionWarning, match=match):
        twin = with_state(estimator, _skdeepfactor_version="0.0.1")
    assert_array_equal(twin.transform(counts), estimator.transform(counts))


def test_a_parameter_of_tomorrow_gets_its_default(counts):
    model = LatentDirichletAllocation(2, random_state=0).fit(counts)
    state = model.__getstate__()
    del state["inference"]
    state["_fitted_with"] = dict(state["_fitted_with"])
    del state["_fitted_with"]["inference"]
    state["_skdeepfactor_version"] = "0.0.1"
    twin = LatentDirichletAllocation.__new__(LatentDirichletAllocation)
    with pytest.warns(InconsistentVersionWarning, match=r"from version 0\.0\.1"):
        twin.__setstate__(state)
    assert twin.inference == "collapsed"
    assert_array_equal(twin.transform(counts), model.transform(counts))
    twin.partial_fit(counts)
    clone(twin).fit(counts)


# Size.


def n_bytes(found):
    return sum(array.nbytes for array in found)


def test_a_pickle_is_as_large_as_the_parameters(estimator):
    X = np.random.default_rng(0).poisson(0.3, (12, 4000)).astype(np.float64)
    estimator.fit(X)
    n_parameters = n_bytes(estimator._parameters.values())
    assert len(pickle.dumps(estimator)) <= 1.2 * n_parameters
    assert {
        name for name in estimator._derived if name in estimator.__getstate__()
    } == set()


def test_what_is_derived_is_bit_by_bit_the_same(estimator, counts):
    for model in (
        clone(estimator).fit(counts),
        clone(estimator).fit(counts.astype(np.float64)),
        clone(estimator).partial_fit(counts).partial_fit(counts),
    ):
        restored = by_pickle(model)
        expected, found = fitted_arrays(model), fitted_arrays(restored)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert len(values) == len(found[name])
            for value, other in zip(values, found[name], strict=True):
                assert value.dtype == other.dtype
                assert_array_equal(other, value)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (PoissonFactorization(2), {"missing_values": "ignore", "n_components": 5}),
        (SparseGammaDEF((3, 2), max_iter=5), {"layer_sizes": (2,), "link": "rate"}),
        (VariationalAutoencoder(2), {"likelihood": "poisson", "device": "mps"}),
        (NeuralTopicDLGM(2), {"input_transform": Normalizer(), "prior": "vamp"}),
        (
            NeuralTopicDLGM(2, input_transform=Normalizer()),
            {"input_transform": "counts"},
        ),
    ],
)
def test_parameters_that_were_set_since_do_not_matter(model, changes, counts):
    model.set_params(max_iter=2, random_state=0).fit(counts)
    restored = by_pickle(model.set_params(**changes))
    assert_array_equal(restored.components_, model.components_)
    assert str(restored.get_params()) == str(model.get_params())


def test_moments_are_kept_of_streams_alone(counts):
    model = VariationalAutoencoder(2, likelihood="poisson", max_iter=2, random_state=0)
    model.fit(counts)
    assert model._optimizer_state == {}
    again = copy.deepcopy(model)
    for each in (model, again):
        each.partial_fit(counts)
        each.partial_fit(counts)
    assert_array_equal(again.components_, model.components_)
    steps = {v.item() for name, v in model._optimizer_state.items() if "step" in name}
    # Counted from where the stream began.
    assert steps == {2.0}
    assert model.fit(counts)._optimizer_state == {}


def test_steps_of_closed_forms_go_on_shrinking(counts):
    model = LatentDirichletAllocation(2, max_iter=3, tol=0.0, random_state=0)
    model.fit(counts)
    assert [v.item() for v in model._optimizer_state.values()] == [3.0]


# Arrays that cannot be written to.


@pytest.mark.parametrize("how", ["fit", "partial_fit", "pickle", "deepcopy", "jobs"])
def test_fitted_arrays_are_read_only(how, estimator, counts):
    if how == "partial_fit":
        estimator.partial_fit(counts)
    elif how == "jobs":
        with joblib.parallel_config("threading"):
            estimator.set_params(n_init=2, n_jobs=2).fit(counts)
    else:
        estimator.fit(counts)
        estimator = {"pickle": by_pickle, "deepcopy": copy.deepcopy}.get(
            how, lambda model: model
        )(estimator)
    found = fitted_arrays(estimator)
    assert {"components_", "_parameters"} <= found.keys()
    for name, values in found.items():
        assert not any(value.flags.writeable for value in values), name
    with pytest.raises(ValueError, match="read-only"):
        estimator.components_[0] = 1


def test_parameters_of_the_caller_stay_writable(counts):
    prior = np.full(2, 0.3)
    model = LatentDirichletAllocation(2, doc_topic_prior=prior, random_state=0)
    model = by_pickle(model.fit(counts))
    assert prior.flags.writeable
    assert model.doc_topic_prior.flags.writeable


# The module that is kept.


def test_eight_threads_find_what_one_finds(estimator, counts):
    estimator.fit(counts)
    expected = everything(copy.deepcopy(estimator), counts)
    found = []
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        found.append(everything(estimator, counts))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def kept_module(estimator, counts):
    estimator.transform(counts)
    ((module, _),) = arrays._loaded[estimator].values()
    return weakref.ref(module)


def test_the_module_is_kept_while_the_fit_is(estimator, counts):
    estimator.fit(counts)
    module = kept_module(estimator, counts)
    assert kept_module(estimator, counts)() is module()
    estimator.partial_fit(counts)
    assert kept_module(estimator, counts)() is not module()


def test_the_module_goes_with_its_estimator(estimator, counts):
    module = kept_module(estimator.fit(counts), counts)
    n_kept = len(arrays._loaded)
    assert module() is not None
    state = pickle.dumps(estimator)
    assert b"torch" not in state
    copied = clone(estimator)
    assert copied not in arrays._loaded
    restored = pickle.loads(state)
    assert restored not in arrays._loaded
    twin = copy.deepcopy(estimator)
    assert twin not in arrays._loaded
    assert len(arrays._loaded) == n_kept


def test_nothing_of_a_deleted_estimator_is_left(counts):
    for name in ("LatentDirichletAllocation", "VariationalAutoencoder"):
        model = getattr(skdeepfactor, name)(2, max_iter=2, random_state=0).fit(counts)
        module = kept_module(model, counts)
        assert module() is not None
        del model
        gc.collect()
        assert module() is None


def test_nothing_is_warned_of_when_the_version_is_the_same(estimator, counts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_pickle(estimator.fit(counts))
