"""Bounds by particles draw from the generator that they are given, and no other."""

import threading

import numpy as np
import pytest
import torch
from torch import distributions

from skdeepfactor import VariationalAutoencoder
from skdeepfactor._math.importance import importance_bound
from skdeepfactor.distributions import SpikeSlab
from tests.conftest import ESTIMATORS

HALF = torch.full((4,), 0.5, dtype=torch.float64)
PAIRS = torch.full((4, 2), 0.5, dtype=torch.float64)

# Those of torch's distributions that have a density, with four rows each.
SITES = {
    "Bernoulli": distributions.Bernoulli(HALF),
    "Beta": distributions.Beta(HALF, HALF),
    "Binomial": distributions.Binomial(5, HALF),
    "Categorical": distributions.Categorical(PAIRS),
    "Cauchy": distributions.Cauchy(HALF, HALF),
    "Chi2": distributions.Chi2(HALF),
    "ContinuousBernoulli": distributions.ContinuousBernoulli(HALF - 0.2),
    "Dirichlet": distributions.Dirichlet(PAIRS),
    "Exponential": distributions.Exponential(HALF),
    "FisherSnedecor": distributions.FisherSnedecor(HALF, HALF),
    "Gamma": distributions.Gamma(HALF, HALF),
    "Geometric": distributions.Geometric(HALF),
    "Gumbel": distributions.Gumbel(HALF, HALF),
    "HalfCauchy": distributions.HalfCauchy(HALF),
    "HalfNormal": distributions.HalfNormal(HALF),
    "Independent": distributions.Independent(distributions.Normal(PAIRS, PAIRS), 1),
    "InverseGamma": distributions.InverseGamma(HALF, HALF),
    "Kumaraswamy": distributions.Kumaraswamy(HALF, HALF),
    "Laplace": distributions.Laplace(HALF, HALF),
    "LogNormal": distributions.LogNormal(HALF, HALF),
    "LowRankMultivariateNormal": distributions.LowRankMultivariateNormal(
        PAIRS, PAIRS[..., None], PAIRS
    ),
    "MixtureSameFamily": distributions.MixtureSameFamily(
        distributions.Categorical(PAIRS), distributions.Normal(PAIRS, PAIRS)
    ),
    "Multinomial": distributions.Multinomial(5, PAIRS),
    "MultivariateNormal": distributions.MultivariateNormal(
        PAIRS, torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    ),
    "NegativeBinomial": distributions.NegativeBinomial(5, HALF),
    "Normal": distributions.Normal(HALF, HALF),
    "OneHotCategorical": distributions.OneHotCategorical(PAIRS),
    "Pareto": distributions.Pareto(HALF, HALF),
    "Poisson": distributions.Poisson(HALF),
    "RelaxedBernoulli": distributions.RelaxedBernoulli(HALF[0], HALF),
    "SpikeSlab": SpikeSlab(HALF, HALF, HALF),
    "StudentT": distributions.StudentT(HALF),
    "Uniform": distributions.Uniform(0 * HALF, HALF),
    "VonMises": distributions.VonMises(HALF, HALF),
    "Weibull": distributions.Weibull(HALF, HALF),
}


@pytest.mark.parametrize("q", SITES.values(), ids=SITES.keys())
def test_all_draws_come_from_the_generator(q):
    def draws(seed):
        seen = []
        generator = torch.Generator().manual_seed(seed)

        def log_joint(z):
            seen.append(z.detach())
            return q.log_prob(z)

        importance_bound(log_joint, q, 0.0, 50, generator=generator)
        return seen[0]

    before = torch.get_rng_state()
    first = draws(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws(0), first)
    assert not torch.equal(draws(1), first)


def test_draws_are_those_of_the_generator_itself():
    q = distributions.Normal(HALF, HALF)
    seen = []
    importance_bound(
        lambda z: seen.append(z) or q.log_prob(z),
        q,
        0.0,
        3,
        generator=torch.Generator().manual_seed(7),
    )
    noise = torch.empty(3, 4, dtype=torch.float64)
    noise.normal_(generator=torch.Generator().manual_seed(7))
    assert torch.equal(seen[0], HALF + HALF * noise)


@pytest.mark.parametrize(
    "estimator",
    [
        ESTIMATORS["NeuralTopicDLGM-iwae"],
        VariationalAutoencoder(
            3,
            likelihood="poisson",
            encoder_layers=(8,),
            decoder_layers=(8,),
            objective="renyi",
            n_particles=3,
            max_iter=20,
            batch_size=10,
            random_state=0,
        ),
    ],
    ids=["NeuralTopicDLGM", "VariationalAutoencoder"],
)
def test_threads_that_draw_change_nothing_for_each_other(estimator, counts):
    def fitted():
        return type(estimator)(**estimator.get_params()).fit(counts).components_

    expected, found = fitted(), []
    threads = [
        threading.Thread(target=lambda: found.append(fitted())) for _ in range(4)
    ]
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        alone = [torch.randn(3) for _ in range(500)]
        torch.manual_seed(5)
        for thread in threads:
            thread.start()
        together = [torch.randn(3) for _ in range(500)]
        for thread in threads:
            thread.join()
    assert torch.equal(torch.stack(together), torch.stack(alone))
    assert len(found) == 4
    for components in found:
        np.testing.assert_array_equal(components, expected)
