"""Scorers for grid searches."""

from collections.abc import Callable

from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest

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


class _Scorer:
    """A measure of a fitted estimator on rows, for the ``scoring`` of a search.

    Calling it with ``(estimator, X, y=None, **side)`` gives the score; ``side`` is what
    else the estimator is given for each row, such as ``covariates``. With metadata
    routing enabled, a search passes what :meth:`set_score_request` asks for.
    """

    def __init__(self, name, requested=()):
        self._name, self._requested = name, dict(requested)

    def __call__(self, estimator, X, y=None, **side):
        estimator, X = _last_step(estimator, X)
        return _MEASURES[self._name](estimator, X, **side)

    def __repr__(self):
        return f"scorers[{self._name!r}]"

    def set_score_request(self, **requests):
        """Request side information of rows, in a copy of the scorer.

        Each is True, False, None or the name that it has in the search's ``fit``, as
        for the methods of this name of estimators.
        """
        return _Scorer(self._name, {**self._requested, **requests})

    def get_metadata_routing(self):
        """Requests of this scorer, in the form of scikit-learn's routing."""
        request = MetadataRequest(owner=self)
        for name, alias in self._requested.items():
            request.score.add_request(param=name, alias=alias)
        return request


def _perplexity(estimator, X, **side):
    if not hasattr(estimator, "perplexity"):
        raise ValueError(f"{type(estimator).__name__} has no perplexity.")
    return -float(estimator.perplexity(X, **side))


# One seed for all candidates: they are compared on the same hidden counts.
_MEASURES: dict[str, Callable] = {
    "c_v_coherence": lambda est, X, **side: c_v_coherence(est.components_, X),
    "ndcg_at_k": lambda est, X, **side: ndcg_at_k(est, X, random_state=0, **side),
    "neg_completion_perplexity": lambda est, X, **side: (
        -completion_perplexity(est, X, random_state=0, **side)
    ),
    "neg_perplexity": _perplexity,
    "npmi_coherence": lambda est, X, **side: npmi_coherence(est.components_, X),
    "recall_at_k": lambda est, X, **side: recall_at_k(est, X, random_state=0, **side),
    "topic_diversity": lambda est, X, **side: topic_diversity(est.components_),
    "u_mass_coherence": lambda est, X, **side: u_mass_coherence(est.components_, X),
}

scorers = {name: _Scorer(name) for name in _MEASURES}
