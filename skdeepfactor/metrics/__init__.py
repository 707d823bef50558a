"""Measures of factor models of counts, and scorers made of them.

They do not need a model of this package: estimators are anything with scikit-learn's
public methods, and components are an array of shape (n_components, n_features).

``scorers`` maps names to callables for the ``scoring`` of
:class:`~sklearn.model_selection.GridSearchCV`, one at a time
(``scoring=scorers["npmi_coherence"]``) or together (``scoring=scorers`` with ``refit``
naming one of them):

- ``"neg_completion_perplexity"``: minus :func:`completion_perplexity`; every candidate
  is measured on the same split;
- ``"neg_perplexity"``: minus the estimator's own ``perplexity(X)``;
- ``"recall_at_k"``, ``"ndcg_at_k"``: :func:`recall_at_k` and :func:`ndcg_at_k` for the
  first 20 features, with the same half of each row's features hidden;
- ``"npmi_coherence"``, ``"c_v_coherence"``, ``"u_mass_coherence"``:
  :func:`npmi_coherence`, :func:`c_v_coherence` and :func:`u_mass_coherence` of
  ``components_`` in the rows scored;
- ``"topic_diversity"``: :func:`topic_diversity` of ``components_``.

With metadata routing enabled, ``scorers[name].set_score_request(covariates=True)`` is a
scorer that gets the covariates of the rows that it scores.

Larger is better for each. In a pipeline, the last step is scored on the data as
transformed by the steps before it, so that the data may be texts.
"""

from skdeepfactor.metrics.bounds import renyi_bound
from skdeepfactor.metrics.coherence import (
    c_v_coherence,
    npmi_coherence,
    topic_diversity,
    u_mass_coherence,
)
from skdeepfactor.metrics.completion import (
    completion_perplexity,
    split_features,
    split_tokens,
)
from skdeepfactor.metrics.planted import disentanglement
from skdeepfactor.metrics.ranking import ndcg_at_k, recall_at_k
from skdeepfactor.metrics.scoring import scorers

__all__ = [
    "c_v_coherence",
    "completion_perplexity",
    "disentanglement",
    "ndcg_at_k",
    "npmi_coherence",
    "recall_at_k",
    "renyi_bound",
    "scorers",
    "split_features",
    "split_tokens",
    "topic_diversity",
    "u_mass_coherence",
]
