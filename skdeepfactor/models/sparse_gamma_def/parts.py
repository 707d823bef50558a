"""Interface of solvers, and the start of the lowest layer."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import scipy.sparse

from skdeepfactor._math.starts import (
    check_init,
    column_totals,
    imputed,
    initial_counts,
    initial_parts,
    n_starts,
)


class Part(ABC):
    """A solver: builds the module, initializes it and plans its training.

    ``model`` is the estimator, whose parameters are read and not changed.
    """

    #: Whether rows may count more or less than once.
    takes_weights: bool

    @abstractmethod
    def build(self, model, n_features, layer_sizes, layer_shapes):
        """The module, for checked layers.

        Raises a ``ValueError`` for parameters that the solver cannot combine.
        """

    @abstractmethod
    def initialize(self, model, module, start):
        """Set the module's parameters for the first pass, from a ``LowestStart``."""

    @abstractmethod
    def plan(self, model, module, budget):
        """Plan of the module's training, a ``TrainingPlan``."""


class LowestStart(NamedTuple):
    """Start of the lowest layer: counts of each unit in each feature.

    ``counts`` are (k, n_features), for units of size ``level``; ``activity``,
    (n_rows, k), says how active the units are in the rows of X, of which ``weights``
    say how often each counts.
    """

    X: np.ndarray
    weights: np.ndarray
    counts: np.ndarray
    level: float
    activity: np.ndarray
    random_state: np.random.RandomState

    @classmethod
    def of(cls, start, init, n_components, *, may_miss, is_non_negative):
        """From the rows of a ``Start``, by the parameter ``init`` of the estimator."""
        X, weights, _, random_state = start.distinct()
        # Negative numbers are noise, and do not contribute to the start.
        known = imputed(X, weights) if may_miss else X
        positive = known if is_non_negative else _positive_part(known)
        if isinstance(init, str) and init == "parts":
            shares = initial_parts(
                positive,
                n_components,
                random_state,
                weights,
                n_starts=n_starts(positive),
            )
        else:
            init = check_init(init, (n_components, X.shape[1]))
            shares = initial_counts(positive, n_components, init, random_state, weights)
            sums = shares.sum(axis=0)
            shares = np.where(sums > 0, shares / np.where(sums > 0, sums, 1), 1.0)
            shares = shares / shares.sum(axis=0)
        totals = column_totals(positive, weights)
        # Factors and weights of the same size.
        level = np.sqrt(max(totals.mean() / weights.sum(), 1e-10) / n_components)
        activity = positive @ shares.T
        return cls(X, weights, shares * totals, level, activity, random_state)

    def uppers(self, sizes, activity):
        """Weights of the layers above, of these sizes, from how active units are.

        Half from clusters of the units below that are active together.
        """
        weights = []
        for size in sizes:
            parts = initial_parts(activity, size, self.random_state, self.weights)
            weights.append(0.5 * (parts + 1 / size))
            activity = activity @ weights[-1].T
        return weights


def _positive_part(X):
    """X where it is positive, else 0."""
    return X.maximum(0) if scipy.sparse.issparse(X) else np.maximum(X, 0)
