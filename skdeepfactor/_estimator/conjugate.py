"""The bases of models whose parameters all have updates in closed form."""

import dataclasses
import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from skdeepfactor._estimator.base import BaseFactorModel, naming_itself
from skdeepfactor._math.starts import n_cold_passes
from skdeepfactor._training.optimizers import NaturalGradient
from skdeepfactor._training.plan import TrainingPlan
from skdeepfactor._training.progress import with_callbacks

#: Constraint of ``input_scale``, where a model has it as a parameter.
INPUT_SCALE = [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})]

#: Constraint of ``init``, where components start from rows or are given.
INIT = [StrOptions({"kmeans", "random"}), "array-like"]


class ClosedFormFactorModel(BaseFactorModel):
    """A model whose parameters all have updates in closed form."""

    _parameter_constraints: ClassVar[dict] = {
        **BaseFactorModel._parameter_constraints,
        "learning_offset": [Interval(Real, 0, None, closed="left")],
        "learning_decay": [Interval(Real, 0.5, 1, closed="right")],
    }

    _takes_weights = True

    @with_callbacks
    @naming_itself
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: ArrayLike | None = None,
        X_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 1,
        sharded: bool = False,
    ) -> Self:
        """Fit the model to the rows of X.

        Training passes over all rows, or over batches of them, until ``max_iter``,
        ``tol`` or early stopping ends it. An earlier fit is forgotten unless
        ``warm_start`` is set.

        If processes have joined a ``torch.distributed`` group, each of them must call
        ``fit``, and all get the same model.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. Data larger than memory come as
            :class:`~skdeepfactor.data.RowBlocks`; backed AnnData and the arrays of
            h5py, zarr and dask are read as such.
        y : None
            Ignored; here for scikit-learn's API.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None. A weight of 2 is the same as a row
            that occurs twice, 0 the same as no row, and fractions lie between. Random
            draws keep this only on average: batches, rows held out, and the 20,000 rows
            that a longer stream starts from are drawn uniformly, whatever the weights,
            and a bound by Monte Carlo depends on its draws.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``; each
            counts once.
        checkpoint : path-like, default=None
            File for the state of training. If it exists, training resumes from it: the
            same call, made again after the process has died, ends as if it had not.
            With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and X_val and
            sample_weight), instead of taking its share of rows that all of them have.

        Returns
        -------
        object
            The fitted estimator. Its arrays are read-only, since quantities derived
            from them would not follow a change.

        Raises
        ------
        ValueError
            If the data, the weights or a parameter are invalid, or the
            checkpoint is damaged or belongs to another fit. The estimator is then left
            unchanged.
        KeyboardInterrupt
            On an interrupt. The estimator then keeps the parameters after the last
            complete pass. Before the first, or if a warm fit has fallen below its
            beginning, it is left unchanged.

        See Also
        --------
        partial_fit : Steps on data that arrive in chunks.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0)
        >>> model.fit(X, sample_weight=[2, 1, 1, 0]).components_.shape
        (2, 4)
        """
        self._check_takes_weights(sample_weight)
        return self._fit(
            X,
            y,
            X_val=X_val,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            sharded=sharded,
            sample_weight=sample_weight,
        )

    @naming_itself
    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: ArrayLike | None = None,
        total_samples: float | None = None,
    ) -> Self:
        """Take stochastic steps on the rows of X, as one chunk of a stream.

        The first rows decide where components start, and the scales of autoencoders.
        Until there have been 100 distinct ones, or 300 in all, rows are kept (in
        pickles too), and each call starts the model anew from all of them, as if they
        had come at once. Later calls continue from it, and rows are forgotten after
        their step, so a stream may be larger than memory. After ``fit``, models trained
        by gradients start with fresh optimizer moments.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. More rows than ``batch_size`` make
            several steps.
        y : None
            Ignored; here for scikit-learn's API.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.
        total_samples : int or float, default=None
            Number of rows of the whole stream, or the sum of their weights, by which
            the statistics of a batch are scaled; of those seen so far if None.

        Returns
        -------
        object
            The estimator.

        Raises
        ------
        ValueError
            If the data, the weights or a parameter are invalid, or a step
            produces numbers that are not finite. The estimator is then left unchanged.

        See Also
        --------
        fit : Passes over data that are all available.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0)
        >>> for chunk in (X[:2], X[2:]):
        ...     model = model.partial_fit(
        ...         chunk, sample_weight=[2, 1], total_samples=6
        ...     )
        >>> model.n_samples_seen_
        6.0
        """
        self._check_takes_weights(sample_weight)
        return self._partial_fit(
            X, y, total_samples=total_samples, sample_weight=sample_weight
        )

    def _check_takes_weights(self, sample_weight):
        """Raise a ``ValueError`` where weights are given that the model cannot use."""

    def _plan(self, module, budget):
        is_stochastic = budget.is_stochastic
        optimizer = NaturalGradient(
            module.parameters(),
            learning_offset=self.learning_offset,
            learning_decay=self.learning_decay if is_stochastic else 0.0,
        )
        return TrainingPlan(optimizer, ascends=True)


class ConjugateFactorModel(ClosedFormFactorModel):
    """A model in closed form whose row factors are iterated on within each pass.

    Its module says in ``learns_shape`` whether a prior's shape is learnt.
    """

    _parameter_constraints: ClassVar[dict] = {
        **ClosedFormFactorModel._parameter_constraints,
        "init": INIT,
        "max_inner_iter": [Interval(Integral, 1, None, closed="left")],
        "inner_tol": [Interval(Real, 0, None, closed="left")],
        "n_cold_iter": [Interval(Integral, 1, None, closed="left"), None],
    }

    def _plan(self, module, budget):
        n_cold = n_cold_passes(
            self.n_cold_iter, self.init, self.max_iter, module.learns_shape
        )
        return dataclasses.replace(super()._plan(module, budget), n_cold=n_cold)
