"""Poisson-gamma belief networks: topics of topics, by Gibbs sampling."""

from skdeepfactor.models.poisson_gamma_belief_network.estimator import (
    PoissonGammaBeliefNetwork,
)

__all__ = ["PoissonGammaBeliefNetwork"]
