"""Displays of fitted models, in the manner of scikit-learn's, and a page of topics.

``from_estimator`` reads a fitted estimator and draws, ``from_search`` a grid search and
``from_embeddings`` an array; the display they return keeps what was drawn, so that
``plot`` can draw it again elsewhere. matplotlib is imported when something is drawn,
and needed for nothing else. :func:`topic_page` writes a page for browsers.
"""

from skdeepfactor.plotting.component_selection import ComponentSelectionDisplay
from skdeepfactor.plotting.document import DocumentDisplay
from skdeepfactor.plotting.embedding import EmbeddingDisplay
from skdeepfactor.plotting.evolution import TopicEvolutionDisplay
from skdeepfactor.plotting.graph import TopicGraphDisplay
from skdeepfactor.plotting.hierarchy import HierarchyDisplay
from skdeepfactor.plotting.over_time import TopicsOverTimeDisplay
from skdeepfactor.plotting.page import topic_page
from skdeepfactor.plotting.per_group import TopicsPerGroupDisplay
from skdeepfactor.plotting.topics import TopicsDisplay
from skdeepfactor.plotting.training import TrainingDisplay
from skdeepfactor.plotting.traversal import TraversalDisplay
from skdeepfactor.plotting.usage import UsageDisplay

__all__ = [
    "ComponentSelectionDisplay",
    "DocumentDisplay",
    "EmbeddingDisplay",
    "HierarchyDisplay",
    "TopicEvolutionDisplay",
    "TopicGraphDisplay",
    "TopicsDisplay",
    "TopicsOverTimeDisplay",
    "TopicsPerGroupDisplay",
    "TrainingDisplay",
    "TraversalDisplay",
    "UsageDisplay",
    "topic_page",
]
