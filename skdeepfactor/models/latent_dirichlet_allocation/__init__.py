"""Latent Dirichlet allocation."""

from skdeepfactor.models.latent_dirichlet_allocation.estimator import (
    LatentDirichletAllocation,
)

__all__ = ["LatentDirichletAllocation"]
