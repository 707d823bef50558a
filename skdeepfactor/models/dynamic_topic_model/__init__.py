"""Dynamic topic model: topics whose words change over time."""

from skdeepfactor.models.dynamic_topic_model.estimator import DynamicTopicModel

__all__ = ["DynamicTopicModel"]
