"""Poisson factorization."""

from skdeepfactor.models.poisson_factorization.estimator import PoissonFactorization

__all__ = ["PoissonFactorization"]
