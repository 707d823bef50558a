"""Sparse gamma deep exponential families."""

from skdeepfactor.models.sparse_gamma_def.estimator import SparseGammaDEF

__all__ = ["SparseGammaDEF"]
