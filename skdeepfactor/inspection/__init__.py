"""Read fitted models: the features and rows of a factor, and how features relate.

:func:`top_features` and :func:`top_rows` show what a factor is about,
:func:`factor_shares` what a row is made of. They read any estimator with
``components_``, of scikit-learn too, alone or as the last step of a pipeline.
:func:`match_components` pairs the components of two fits, :func:`stability` measures
how similar those of several fits are, and :func:`sparsity` how few features they need.
:func:`topics_over_time` and :func:`topics_per_group` show what topics are in slices of
the rows, and :func:`find_components` which are about some words.
:func:`merge_components`, :func:`drop_components` and :func:`name_components` make a
fitted model with other components of it.
:func:`hierarchy` shows the topics of topics of a model with layers, and
:func:`topic_graph` which topics of a ``CorrelatedTopicModel`` go together, and
:func:`topic_evolution` how those of a ``DynamicTopicModel`` change;
:func:`to_pyldavis` hands topics over to pyLDAvis.

:func:`jacobian_embeddings` gives each feature of a model with a decoder a vector in the
space of the factors, and :func:`traverse` predicts a row with one factor changed.
:func:`nearest_features` and :func:`latent_usage` read any array of shape (n_features,
n_components), such as the transposed ``components_`` of a model without a decoder.
"""

from skdeepfactor.inspection.comparison import match_components, sparsity, stability
from skdeepfactor.inspection.correlation import topic_graph
from skdeepfactor.inspection.editing import (
    drop_components,
    merge_components,
    name_components,
)
from skdeepfactor.inspection.embeddings import (
    jacobian_embeddings,
    latent_usage,
    nearest_features,
)
from skdeepfactor.inspection.evolution import topic_evolution
from skdeepfactor.inspection.layers import hierarchy
from skdeepfactor.inspection.pyldavis import to_pyldavis
from skdeepfactor.inspection.slices import topics_over_time, topics_per_group
from skdeepfactor.inspection.tables import (
    factor_shares,
    find_components,
    top_features,
    top_rows,
)
from skdeepfactor.inspection.traversal import traverse

__all__ = [
    "drop_components",
    "factor_shares",
    "find_components",
    "hierarchy",
    "jacobian_embeddings",
    "latent_usage",
    "match_components",
    "merge_components",
    "name_components",
    "nearest_features",
    "sparsity",
    "stability",
    "to_pyldavis",
    "top_features",
    "top_rows",
    "topic_evolution",
    "topic_graph",
    "topics_over_time",
    "topics_per_group",
    "traverse",
]
