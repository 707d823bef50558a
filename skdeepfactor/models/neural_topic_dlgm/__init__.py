"""Deep latent Gaussian models of counts."""

from skdeepfactor.models.neural_topic_dlgm.module import NeuralTopicDLGM

__all__ = ["NeuralTopicDLGM"]
