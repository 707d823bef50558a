"""Mixtures of multinomials."""

from skdeepfactor.models.multinomial_mixture.estimator import MultinomialMixture

__all__ = ["MultinomialMixture"]
