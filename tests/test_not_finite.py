"""A chunk that would leave an estimator with what is not finite leaves it alone."""

import copy
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skdeepfactor import (
    PoissonFactorization,
    SparseGammaDEF,
    SupervisedLDARegressor,
    VariationalAutoencoder,
)


@pytest.fixture
def counts(counts):
    return counts[:20].toarray().astype(np.float32)


def held(estimator):
    return {
        name: copy.deepcopy(value)
        for name, value in vars(estimator).items()
        if not name.startswith(("_callback", "_skl"))
    }


def assert_unchanged(estimator, before):
    after = held(estimator)
    assert after.keys() == before.keys()
    for name in ("_parameters", "_optimizer_state"):
        for key, array in before.get(name, {}).items():
            assert_array_equal(after[name][key], array)
    for name in ("components_", "n_samples_seen_", "lower_bound_", "n_iter_"):
        if name in before:
            assert_array_equal(after[name], before[name])


@pytest.mark.each_class
@pytest.mark.parametrize(
    ("size", "n_times"), [(9.97e36, 15), (3e38, 15), (3e38, 1)], ids=str
)
def test_a_fill_value_leaves_the_estimator_as_it_was(size, n_times, estimator, counts):
    """In steps from a model, and while a stream's first rows are kept."""
    first = np.tile(counts, (n_times, 1))
    estimator.set_params(max_iter=2).partial_fit(first)
    before, expected = held(estimator), estimator.transform(counts)
    spoilt = counts.copy()
    spoilt[3, 5] = size
    failure = None
    try:
        with np.errstate(all="ignore"):
            estimator.partial_fit(spoilt)
    except ValueError as error:
        failure = str(error)
    if failure is not None:
        assert "finite" in failure or (n_times == 1 and "infinity" in failure)
        assert_unchanged(estimator, before)
        assert_array_equal(estimator.transform(counts), expected)
    # Where nothing is said, nothing is spoilt.
    arrays = [*estimator._parameters.values(), estimator.transform(counts)]
    assert all(np.isfinite(array).all() for array in arrays)
    assert np.isfinite(estimator.score(counts))
    estimator.partial_fit(counts)
    assert np.isfinite(estimator.score(counts))


@pytest.mark.each_class
@pytest.mark.parametrize("size", [9.97e36, 3e38])
def test_fit_refuses_a_fill_value_or_takes_it(size, estimator, counts):
    counts[3, 5], failure = size, None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            estimator.set_params(max_iter=2).fit(counts)
    except ValueError as error:
        failure = str(error)
    if failure is not None:
        assert "finite" in failure or "infinity" in failure
        assert not estimator.__sklearn_is_fitted__()
        return
    arrays = estimator._parameters.values()
    assert all(np.isfinite(array).all() for array in arrays)


@pytest.mark.parametrize(
    "model",
    [
        SparseGammaDEF((3, 2)),
        SupervisedLDARegressor(3),
        PoissonFactorization(3),
    ],
    ids=["gammas", "supervised", "factors"],
)
def test_rows_beyond_the_type_of_numbers_are_refused_or_inferred(model, counts):
    """They gave NaN where squares or sums overflow."""
    model = clone(model).set_params(max_iter=2, random_state=0).fit(counts)
    for size in (1e20, 3e38):
        rows = counts[:3].copy()
        rows[0, 5] = size
        for infer in (model.transform, model.score_samples):
            failure, found = None, 0.0
            try:
                with np.errstate(all="ignore"):
                    found = infer(rows)
            except ValueError as error:
                failure = str(error)
            assert failure is None or "X has values up to" in failure
            assert np.isfinite(found).all()


def test_steps_that_are_too_long_are_taken_back(counts):
    model = VariationalAutoencoder(
        2, likelihood="poisson", learning_rate=1e30, random_state=0
    )
    with pytest.raises(ValueError, match="steps are too long"):
        model.partial_fit(counts)
    assert vars(model).keys() == model.get_params(deep=False).keys()


@pytest.mark.each_class
@pytest.mark.parametrize("total", [np.nan, np.inf, 0, -1.0])
def test_a_stream_has_a_finite_number_of_rows(total, estimator, counts):
    estimator.partial_fit(counts)
    before = held(estimator)
    with pytest.raises(ValueError, match="total_samples must be a finite number"):
        estimator.partial_fit(counts, total_samples=total)
    assert_unchanged(estimator, before)


def test_large_counts_in_float64_are_taken():
    X = np.random.default_rng(0).poisson(1.0, (20, 10)) * 1e30
    model = PoissonFactorization(2, random_state=0).partial_fit(X)
    assert np.isfinite(model.components_).all()
