"""The estimator: NumPy and SciPy in, NumPy out, around a torch module.

A fitted estimator holds its module's parameters as NumPy arrays and nothing of torch,
so that it pickles, and moves between devices, like any scikit-learn estimator. This
module has the methods that users call, and the hooks that a model must define.
"""

import functools
import inspect
import os
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils._param_validation import Interval
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted

from skdeepfactor._estimator.arrays import load, pickled_state, restore, take_up
from skdeepfactor._estimator.domains import Counts
from skdeepfactor._estimator.environment import own_environment
from skdeepfactor._estimator.fitting import (
    Fit,
    is_small_step,
    take_steps,
    unchanged_on_error,
)
from skdeepfactor._estimator.merging import merged
from skdeepfactor._estimator.row_inference import decoded, drawn_rows, inferred
from skdeepfactor._estimator.validation import (
    check_truth_values,
    checked_weights,
    ignores_missing,
    weighted_average,
)
from skdeepfactor._input import received, returned
from skdeepfactor._math.threads import one_thread
from skdeepfactor._training.progress import (
    CallbackSupportMixin,
    Method,
    with_callbacks,
)
from skdeepfactor._training.run import Interrupted


def _has_perplexity(estimator):
    """Whether perplexity is defined; the error says why not."""
    if not estimator._domain.is_counts:
        raise AttributeError(
            "perplexity needs a likelihood of counts, which these parameters of "
            f"{type(estimator).__name__} do not give."
        )
    return True


def naming_itself(method: Method) -> Method:
    """Name the estimator that an unknown argument was given to, not its base class."""
    known = inspect.signature(method).parameters

    @functools.wraps(method)
    def call(self, *args, **options):
        for name in options:
            if name in known:
                continue
            message = f"{type(self).__name__}.{method.__name__}() takes no {name}"
            if name == "sample_weight":
                message += (
                    ": repeat rows that count more than once, or use a model with "
                    "updates in closed form, such as PoissonFactorization"
                )
            raise TypeError(f"{message}.")
        return method(self, *args, **options)

    return cast(Method, call)


def leaving_maps(transform):
    """Give the map of a file that rows were written to as it is.

    scikit-learn would read it into the frame that ``transform_output`` asks for.
    """

    @functools.wraps(transform)
    def call(self, X, *args, **options):
        method = transform if options.get("out") is None else transform.__wrapped__
        return method(self, X, *args, **options)

    return call


class BaseFactorModel(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
    ABC,
):
    """Validation, training, inference and scores, for every model of counts.

    A model says how its module is built (``_build``), where its parameters start
    (``_initialize``), how they are trained (``_plan``), and its fitted attributes
    (``_fitted``).
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    components_: np.ndarray
    history_: dict[str, list[float]]
    lower_bound_: float
    n_features_in_: int
    n_iter_: int
    n_samples_seen_: int

    #: Which X the model takes.
    _domain = Counts()

    #: Parameters that give the fitted arrays their meaning, so must not change later.
    _kept_parameters: tuple = (
        "n_components",
        "likelihood",
        "link",
        "family",
        "weight_prior",
    )

    #: Whether a row of weight w is the same as w rows, in training on all rows.
    _takes_weights = False

    #: Whether the columns of ``transform`` are those of the components.
    _shows_components = True

    #: Factor by which X is multiplied; a parameter of models whose priors have a scale.
    input_scale: float | str = 1.0

    def _sizes(self, rows, y):
        """Sizes that determine the module's shape, a dict kept with the fit."""
        return {"n_features": rows.n_features}

    def _sizes_of_all(self, sizes):
        """The sizes for the rows of all processes, from those that each has found.

        Used where each process has rows of its own; all must come to the same result.
        """
        return sizes[0]

    def _known_of_rows(self, rows, y, sizes):
        """Arrays of rows beside X, by name; see ``Batch.side``."""
        return {}

    def _resized(self, sizes, arrays):
        """The sizes of all first rows of a stream, from those of the first of them.

        And ``_known_of_rows``, as these sizes make it.
        """
        return sizes, arrays

    @abstractmethod
    def _build(self, sizes):
        """Build the module from the hyperparameters and the kept sizes.

        Its parameters need not be set; ``fit`` and every later use build it alike.
        """

    def _complete(self, module):
        """Add to a module built from arrays the parts that are not arrays."""

    @abstractmethod
    def _initialize(self, module, start):
        """Set the module's parameters for the first pass, from a ``Start``."""

    @abstractmethod
    def _plan(self, module, budget):
        """Plan the training of the module, for a budget of passes and updates."""

    def _finish(self, module, rows):
        """Learn from the rows, after ``fit``, what training leaves open."""

    @abstractmethod
    def _fitted(self, module):
        """Fitted attributes that show the module's parameters, as a dict."""

    def _merged(self, module, groups):
        """Parameters and tensors of a module whose components are sums of these.

        ``groups`` has the indices of the summands of each. Only for models whose
        components can be added up; see ``merging.py``.
        """
        raise TypeError(
            f"Components of {type(self).__name__} cannot be merged or dropped: those "
            "of LatentDirichletAllocation, MultinomialMixture and PoissonFactorization "
            "can."
        )

    def __init_subclass__(cls, **options):
        """Let ``transform`` return frames, as scikit-learn does, but not for maps."""
        super().__init_subclass__(**options)
        if "transform" in vars(cls):
            cls.transform = leaving_maps(cls.transform)

    def _validate_params(self):
        super()._validate_params()
        check_truth_values(self)

    @with_callbacks
    @naming_itself
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
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
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``.
        checkpoint : path-like, default=None
            File for the state of training. If it exists, training resumes from it: the
            same call, made again after the process has died, ends as if it had not.
            With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and X_val), instead of
            taking its share of rows that all of them have.

        Returns
        -------
        object
            The fitted estimator. Its arrays are read-only, since quantities derived
            from them would not follow a change.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, or the checkpoint is
            damaged or belongs to another fit. The estimator is then left unchanged.
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
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.components_.shape
        (2, 4)
        """
        return self._fit(
            X,
            y,
            X_val=X_val,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            sharded=sharded,
        )

    def _fit(self, X, y=None, **options):
        """Fit by the options that ``Fit`` documents."""
        with own_environment(), unchanged_on_error(self):
            self._validate_params()
            fit = Fit(self, X, y, **options)
            if not fit.is_warm:
                # Other components would inherit the names.
                vars(self).pop("component_names_", None)
            try:
                take_up(self, fit.attributes(X))
            except Interrupted as interrupt:
                take_up(self, interrupt.attributes)
                raise
        return self

    @naming_itself
    def partial_fit(
        self, X: Any, y: Any = None, *, total_samples: int | None = None
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
        total_samples : int, default=None
            Number of rows of the whole stream, by which the statistics of a batch are
            scaled; the rows seen so far if None.

        Returns
        -------
        object
            The estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid, or a step produces
            numbers that are not finite. The estimator is then left unchanged.

        See Also
        --------
        fit : Passes over data that are all available.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0)
        >>> for chunk in (X[:2], X[2:]):
        ...     model = model.partial_fit(chunk, total_samples=4)
        >>> model.n_samples_seen_
        4
        """
        return self._partial_fit(X, y, total_samples=total_samples)

    def _partial_fit(self, X, y=None, **options):
        """Take steps by the options that ``take_steps`` documents."""
        with own_environment(), unchanged_on_error(self):
            self._validate_params()
            with one_thread(when=is_small_step(self, X)):
                attributes = take_steps(self, X, y, **options)
            if vars(self).get("_first_rows") is not None:
                # The model has started anew: others would inherit the names.
                vars(self).pop("component_names_", None)
            take_up(self, attributes)
        return self

    def transform(
        self, X: Any, *, out: str | os.PathLike[str] | None = None
    ) -> np.ndarray:
        """Infer the factors of each row.

        The model is not changed. The factors of a row depend on that row alone.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` file to write the factors to as they come, for more rows than
            memory has room for.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            The posterior mean of the factors, float64 for float64 data, else float32;
            with ``out``, a read-only map of the file.

        See Also
        --------
        inverse_transform : Expected data given factors.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.transform([[1, 1, 0, 0]]).shape
        (1, 2)
        """
        return self._infer(X, lambda module, batch: module.posterior(batch).mean, out)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Expected data given factors.

        For models of counts given their total, these are shares: each row sums to 1.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Factors, as ``transform`` gives them.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            E[x | z] under the posterior mean of the components.

        See Also
        --------
        transform : The factors of rows.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.inverse_transform(model.transform(X)).shape
        (4, 4)
        """
        return self._expected(Z)

    def _expected(self, Z, side=None):
        """Expected data given factors, and what else ``module.decode`` takes."""
        check_is_fitted(self)
        given, Z = Z, check_array(received(Z), dtype=[np.float64, np.float32])
        n_components = len(self.components_)
        if Z.shape[1] != n_components:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but {type(self).__name__} has "
                f"{n_components} components."
            )
        return returned(self._decoded(Z, side), given)

    def score_samples(self, X: Any) -> np.ndarray:
        """Evidence lower bound of each row, in nats.

        A low bound means that the row is improbable under the model, which helps to
        find rows unlike the others.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Lower bounds on E_q(W)[log p(x | W)]; the divergence of the global
            parameters is left out, so that a row's bound depends on that row alone.

        See Also
        --------
        score : The mean over rows.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.score_samples(X).shape
        (4,)
        """
        return self._infer(X, lambda module, batch: module.elbo(batch))

    @naming_itself
    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        metric: str = "elbo",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean score per row; larger is better.

        Use rows that were not fitted to judge a model. Bounds of different likelihoods
        measure different things and must not be compared. A model that has
        ``input_scale_`` scores X times this number, which is 1.0 for counts: scores
        of tf-idf compare settings of one model on the same data, and nothing else.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        metric : {"elbo", "neg_perplexity"}, default="elbo"
            The mean of ``score_samples(X)``, in nats, or minus ``perplexity(X)``.
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
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> bool(model.score(X) == model.score_samples(X).mean())
        True
        """
        return self._mean_score(X, metric, sample_weight)

    @available_if(_has_perplexity)
    def perplexity(
        self,
        X: Any,
        *,
        average: str = "document",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Perplexity of the counts, as words in order given their number.

        Guessing uniformly among V features has perplexity V. The value is computed from
        lower bounds, so the true perplexity is at most as large.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows without counts are left out.
        average : {"document", "corpus"}, default="document"
            exp(-mean over rows of bound / count), as neural topic models report it, or
            exp(-sum of bounds / sum of counts), as papers on LDA do.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            An upper bound: perplexity at the lower bound of the log likelihood.

        Raises
        ------
        ValueError
            If no row has a count.

        See Also
        --------
        skdeepfactor.metrics.completion_perplexity : Without bounds, for any package.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> 1 < model.perplexity(X) < 4
        True
        """
        return self._perplexity(X, average, sample_weight)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Give the names of the columns of ``transform``.

        They are the class name in lower case with a number, or the names that
        :func:`~skdeepfactor.inspection.name_components` has given the components.

        Parameters
        ----------
        input_features : None, default=None
            Ignored; here for scikit-learn's API.

        Returns
        -------
        ndarray of str of shape (n_features_out,)
            The names.

        See Also
        --------
        skdeepfactor.inspection.name_components : Gives components names.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.inspection import name_components
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.get_feature_names_out().tolist()
        ['poissonfactorization0', 'poissonfactorization1']
        >>> name_components(model, ["one", "two"]).get_feature_names_out().tolist()
        ['one', 'two']
        """
        names = super().get_feature_names_out(input_features)
        given = vars(self).get("component_names_")
        return (
            np.array(given) if given is not None and self._shows_components else names
        )

    def __getstate__(self):
        """State to pickle, without derived values."""
        return pickled_state(self)

    def __setstate__(self, state):
        """Restore a pickled state; warn if another version wrote it."""
        restore(self, state)

    def __sklearn_is_fitted__(self):
        """Whether the estimator has been fitted."""
        return "_parameters" in vars(self)

    def __sklearn_tags__(self):
        """Tags for scikit-learn: non-negative data, dense or sparse."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = self._domain.is_non_negative
        tags.input_tags.allow_nan = self._may_miss
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    @property
    def _input_scale(self):
        """Factor by which X is multiplied; 1.0 if counts were fitted."""
        check_is_fitted(self)
        return self._fitted_sizes["input_scale"]

    @property
    def _may_miss(self):
        """Whether NaN stands for entries that are missing."""
        return ignores_missing(vars(self))

    # Whatever a public method has torch do goes through these, or through ``_fit`` and
    # ``_partial_fit``.

    @own_environment()
    def _infer(self, X, function, out=None, side=None):
        """``function(module, batch)`` of each batch of X, as an array or in a file.

        ``side`` is what ``_known_of_rows`` takes as y. The result is a tensor if X is
        one and ``array_api_dispatch`` is on.
        """
        values = inferred(self, X, function, out, side)
        return values if out is not None else returned(values, X)

    def _mean_score(self, X, metric, sample_weight, **side):
        """The mean bound of the rows, or minus their perplexity."""
        if metric == "elbo":
            bounds = self.score_samples(X, **side)
            return weighted_average(bounds, sample_weight)
        if metric == "neg_perplexity":
            return -self.perplexity(X, sample_weight=sample_weight, **side)
        raise ValueError(f"metric must be 'elbo' or 'neg_perplexity', got {metric!r}.")

    def _perplexity(self, X, average, sample_weight, side=None):
        """Perplexity of the counts, averaged over rows or over words."""
        if average not in ("document", "corpus"):
            raise ValueError(
                f"average must be 'document' or 'corpus', got {average!r}."
            )

        def bounds_and_totals(module, batch):
            totals = batch.totals
            # Rows without words are left out below, and may have no finite bound.
            bounds = torch.where(totals > 0, module.word_bound(batch), 0.0)
            return torch.stack([bounds, totals], 1)

        both = received(self._infer(X, bounds_and_totals, side=side))
        weights = checked_weights(sample_weight, len(both))
        is_there = (both[:, 1] > 0) & (weights > 0)
        bounds, totals = both[is_there].T
        weights = weights[is_there]
        if len(bounds) == 0:
            raise ValueError("perplexity needs a row with a count; every row is empty.")
        # Words have a probability of at most 1, whatever rounding says.
        bounds = np.minimum(bounds, 0)
        if average == "document":
            per_count = np.average(bounds / totals, weights=weights)
        else:
            per_count = (weights @ bounds) / (weights @ totals)
        with np.errstate(over="ignore"):
            return float(np.exp(-per_count))

    @own_environment()
    def _decoded(self, Z, side=None):
        """Expected rows given factors, an array."""
        return decoded(self, Z, side)

    @own_environment()
    def _sample(self, n_samples, totals, random_state):
        """Rows drawn from the model, given their totals if it needs them."""
        return drawn_rows(self, n_samples, totals, random_state)

    @own_environment()
    def _with_merged(self, groups):
        """A fitted model whose components are sums of those in groups."""
        return merged(self, groups)

    @own_environment()
    def _load(self, dtype, device=None):
        """A fresh copy of the fitted module, which the caller may change."""
        return load(self, dtype, device)

    @own_environment()
    def _ask(self, module, function):
        """``function(module)``, without gradients, of a module that was loaded."""
        with torch.no_grad():
            return function(module)


# __init_subclass__ does this for subclasses only.
BaseFactorModel.transform = leaving_maps(  # type: ignore[method-assign]
    BaseFactorModel.transform
)
