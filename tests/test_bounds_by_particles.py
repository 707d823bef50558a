"""Scores by particles, of all models that have them."""

import itertools

import numpy as np
import pytest

from skdeepfactor._math import sampled
from skdeepfactor.metrics import renyi_bound
from tests.conftest import ESTIMATORS

SAMPLED = ["NeuralTopicDLGM", "VariationalAutoencoder", "VariationalSparseCoding"]


@pytest.fixture(scope="module", params=SAMPLED)
def model(request, counts):
    return ESTIMATORS[request.param].fit(counts)


def test_renyi_falls_from_iwae_to_the_elbo(model, counts):
    def bounds(alpha, metric="renyi"):
        return model.score_samples(
            counts, metric=metric, renyi_alpha=alpha, n_particles=60
        )

    values = [bounds(alpha) for alpha in (-1, 0, 0.5, 1, 2)]
    for higher, lower in itertools.pairwise(values):
        assert (higher >= lower - 1e-9).all()
        assert higher.mean() > lower.mean()
    np.testing.assert_array_equal(values[1], bounds(0.7, "iwae"))
    # At 1, particles estimate the bound of the model.
    assert abs(values[3].mean() - model.score(counts)) < 0.1 * abs(values[3].mean())
    np.testing.assert_allclose(bounds(1 - 1e-9), values[3], rtol=1e-6)


def test_scores_are_means(model, counts):
    options = {"metric": "renyi", "renyi_alpha": 0.25, "n_particles": 5}
    bounds = model.score_samples(counts, **options)
    assert model.score(counts, **options) == bounds.mean()
    assert bounds.dtype == np.float64
    defaults = {"metric": "renyi", "n_particles": 5}
    half = model.score(counts, renyi_alpha=0.5, **defaults)
    assert model.score(counts, **defaults) == half
    weights = np.arange(counts.shape[0])
    weighted = model.score(counts, sample_weight=weights, **options)
    np.testing.assert_allclose(weighted, np.average(bounds, weights=weights))


def test_bounds_are_those_of_the_weights_of_particles(model, counts, monkeypatch):
    seen = []

    def noted(log_weights, alpha):
        seen.append(renyi_bound(log_weights.numpy(), alpha))
        return by_tensors(log_weights, alpha)

    by_tensors = sampled.renyi_bound
    monkeypatch.setattr(sampled, "renyi_bound", noted)
    bounds = model.score_samples(counts, metric="renyi", renyi_alpha=0.3, n_particles=8)
    np.testing.assert_allclose(np.concatenate(seen), bounds, rtol=1e-12)


def test_what_has_no_bound(model, counts):
    before = vars(model).copy()
    for method in (model.score, model.score_samples):
        for options, message in [
            ({"n_particles": 1}, "n_particles must be at least 2"),
            ({"renyi_alpha": np.inf}, "renyi_alpha must be finite, got inf"),
            ({"metric": "reny"}, "metric must be 'elbo'"),
        ]:
            with pytest.raises(ValueError, match=message):
                method(counts, **{"metric": "renyi", **options})
    assert vars(model) == before
