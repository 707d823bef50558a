"""Deep latent Gaussian models of counts."""

from skdeepfactor.models.neural_topic_dlgm.estimator import NeuralTopicDLGM

__all__ = ["NeuralTopicDLGM"]
