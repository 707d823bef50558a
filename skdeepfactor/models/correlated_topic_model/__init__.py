"""Correlated topic model, with covariates of rows."""

from skdeepfactor.models.correlated_topic_model.estimator import CorrelatedTopicModel

__all__ = ["CorrelatedTopicModel"]
