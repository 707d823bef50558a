"""The base of models that are learnt by stochastic gradients."""

import math
import warnings
from abc import abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, RealNotInt

from skdeepfactor._estimator.base import BaseFactorModel
from skdeepfactor._estimator.validation import check_layers, weighted_average
from skdeepfactor._math.importance import check_objective
from skdeepfactor._math.module import in_updates
from skdeepfactor._training.optimizers import AnnealedAdam
from skdeepfactor._training.plan import TrainingPlan

# Bounds that are estimated by particles.
PARTICLE_METRICS = "iwae", "renyi"


class SampledFactorModel(BaseFactorModel):
    """A model learnt by stochastic gradients, whose module has a bound by particles."""

    _parameter_constraints: ClassVar[dict] = {
        **BaseFactorModel._parameter_constraints,
        "encoder_layers": [tuple, list],
        "decoder_layers": [tuple, list],
        "skip_connections": ["boolean"],
        "n_pseudo_inputs": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
    }

    #: Constraint of a warm-up: updates, or a share of training.
    _warmup: ClassVar[list] = [
        Interval(Integral, 0, None, closed="left"),
        Interval(RealNotInt, 0, 1, closed="both"),
    ]

    def score_samples(
        self,
        X: Any,
        *,
        metric: str = "elbo",
        renyi_alpha: float = 0.5,
        n_particles: int = 50,
    ) -> np.ndarray:
        """Lower bound of each row's log likelihood, in nats.

        A low bound means that the row is improbable under the model. The draws for a
        row depend on its content alone, so its bound does not depend on the other rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        metric : {"elbo", "iwae", "renyi"}, default="elbo"
            The evidence lower bound, the importance weighted one, which is tighter with
            more particles, or Rényi's, which lies between the two for orders from 0 to
            1. The latter two are sampled; a row's draws depend on the row alone.
        renyi_alpha : float, default=0.5
            Order of ``"renyi"``: 0 gives the importance weighted bound, 1 an estimate
            of the evidence lower bound.
        n_particles : int, default=50
            Number of draws for ``"iwae"`` and ``"renyi"``, at least 2.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Bounds in nats.

        See Also
        --------
        score : The mean over rows.
        skdeepfactor.metrics.renyi_bound : The same bounds, from log weights.

        Examples
        --------
        >>> from skdeepfactor import VariationalAutoencoder
        >>> X = [[0.5, 2.0, 1.0], [1.5, 0.0, 3.0], [0.7, 1.8, 1.2], [1.4, 0.1, 2.9]]
        >>> model = VariationalAutoencoder(1, max_iter=5, random_state=0).fit(X)
        >>> model.score_samples(X, metric="iwae", n_particles=10).shape
        (4,)
        """
        if metric == "elbo":
            return super().score_samples(X)
        if metric not in PARTICLE_METRICS:
            raise ValueError(
                f"metric must be 'elbo', 'iwae' or 'renyi', got {metric!r}."
            )
        alpha = check_objective(metric, renyi_alpha, n_particles)
        return self._infer(
            X,
            lambda module, batch: module.bound_by_particles(batch, alpha, n_particles),
        )

    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        metric: str = "elbo",
        renyi_alpha: float = 0.5,
        n_particles: int = 50,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean score per row; larger is better.

        Use rows that were not fitted to judge a model. Bounds of different likelihoods
        measure different things and must not be compared.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        metric : {"elbo", "iwae", "renyi", "neg_perplexity"}, default="elbo"
            The mean of ``score_samples(X, metric=metric)``, in nats, or minus
            ``perplexity(X)``, of counts only.
        renyi_alpha : float, default=0.5
            Order of ``"renyi"``.
        n_particles : int, default=50
            Number of draws for ``"iwae"`` and ``"renyi"``, at least 2.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            The mean bound in nats, or minus the perplexity.

        See Also
        --------
        score_samples : The bound of each row.
        skdeepfactor.metrics.completion_perplexity : Compares any models of counts.

        Examples
        --------
        >>> from skdeepfactor import VariationalAutoencoder
        >>> X = [[0.5, 2.0, 1.0], [1.5, 0.0, 3.0], [0.7, 1.8, 1.2], [1.4, 0.1, 2.9]]
        >>> model = VariationalAutoencoder(1, max_iter=5, random_state=0).fit(X)
        >>> bool(model.score(X) == model.score_samples(X).mean())
        True
        """
        if metric in PARTICLE_METRICS:
            bounds = self.score_samples(
                X, metric=metric, renyi_alpha=renyi_alpha, n_particles=n_particles
            )
            return weighted_average(bounds, sample_weight)
        return super().score(X, metric=metric, sample_weight=sample_weight)

    def _check_layers(self):
        """Raise a ``ValueError`` unless layers are positive ints."""
        for name in ("decoder_layers", "encoder_layers"):
            check_layers(name, getattr(self, name))

    def _plan(self, module, budget):
        optimizer = AnnealedAdam(self._parameter_groups(module), budget.n_updates)
        n_large = math.ceil(optimizer.share_of_large_steps * (budget.n_passes or 0))
        n_warmup = max(warmup_passes(self._warmups(), budget), n_large)
        return TrainingPlan(optimizer, n_warmup=n_warmup)

    @abstractmethod
    def _parameter_groups(self, module):
        """Groups of the module's parameters with a step size each, as in torch."""

    @abstractmethod
    def _warmups(self):
        """Lengths of successive warm-ups: updates, or shares of training."""


def warmup_passes(warmups, budget):
    """Number of passes until all warm-ups, one after the other, have ended.

    Warns
    -----
    ConvergenceWarning
        If training ends before the warm-ups do.
    """
    if budget.n_updates is None:
        return 0
    n_updates = sum(in_updates(warmup, budget.n_updates) for warmup in warmups)
    share = n_updates / budget.n_updates
    if share > 1:
        warnings.warn(
            f"The warm-up takes {n_updates:.0f} updates, but training only "
            f"{budget.n_updates}, so it did not end. Raise max_iter or shorten it.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return math.ceil(min(share, 1.0) * budget.n_passes)
