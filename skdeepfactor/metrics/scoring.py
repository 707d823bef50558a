"""Scorers for grid searches."""

from sklearn.pipeline import Pipeline

from skdeepfactor._input import received
from skdeepfactor.metrics.coherence import (
    c_v_coherence,
    npmi_coherence,
    topic_diversity,
    u_mass_coherence,
)
from skdeepfactor.metrics.completion import completion_perplexity
from skdeepfactor.metrics.ranking import ndcg_at_k, recall_at_k


def _last_step(estimator, X):
    """Return the last step of a pipeline, and X as transformed by the steps before."""
    X = received(X)
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    return estimator, X


def _score_completion(estimator, X, y=None):
    estimator, X = _last_step(estimator, X)
    # One seed for all candidates: they are compared on the same hidden tokens.
    return -completion_perplexity(estimator, X, random_state=0)


def _score_perplexity(estimator, X, y=None):
    estimator, X = _last_step(estimator, X)
    if not hasattr(estimator, "perplexity"):
        raise ValueError(f"{type(estimator).__name__} has no perplexity.")
    return -float(estimator.perplexity(X))


def _score_npmi(estimator, X, y=None):
    estimator, X = _last_step(estimator, X)
    return npmi_coherence(estimator.components_, X)


def _score_c_v(estimator, X, y=None):
    estimator, X = _last_step(estimator, X)
    return c_v_coherence(estimator.components_, X)


def _score_u_mass(estimator, X, y=None):
    estimator, X = _last_step(estimator, X)
    return u_mass_coherence(estimator.components_, X)


def _score_recall(estimator, X, y=None):
    estimator, X = _last_step(estimator, X)
    return recall_at_k(estimator, X, random_state=0)


def _score_ndcg(estimator, X, y=None):
    estimator, X = _last_step(estimator, X)
    return ndcg_at_k(estimator, X, random_state=0)


def _score_diversity(estimator, X, y=None):
    estimator, _ = _last_step(estimator, X)
    return topic_diversity(estimator.components_)


scorers = {
    "c_v_coherence": _score_c_v,
    "ndcg_at_k": _score_ndcg,
    "neg_completion_perplexity": _score_completion,
    "neg_perplexity": _score_perplexity,
    "npmi_coherence": _score_npmi,
    "recall_at_k": _score_recall,
    "topic_diversity": _score_diversity,
    "u_mass_coherence": _score_u_mass,
}
