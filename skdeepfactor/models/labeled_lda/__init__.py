"""Labelled latent Dirichlet allocation."""

from skdeepfactor.models.labeled_lda.estimator import LabeledLDA

__all__ = ["LabeledLDA"]
