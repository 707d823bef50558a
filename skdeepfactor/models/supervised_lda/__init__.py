"""Supervised latent Dirichlet allocation."""

from skdeepfactor.models.supervised_lda.classifier import SupervisedLDAClassifier
from skdeepfactor.models.supervised_lda.regressor import SupervisedLDARegressor

__all__ = ["SupervisedLDAClassifier", "SupervisedLDARegressor"]
