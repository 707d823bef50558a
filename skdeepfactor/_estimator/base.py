"""The estimator: NumPy and SciPy in, NumPy out, around a torch module.

A fitted estimator holds its module's parameters as NumPy arrays and nothing of torch,
so that it pickles, and moves between devices, like any scikit-learn estimator; the
module is built anew for each call.
"""

import contextlib
import hashlib
import math
import os
import time
import warnings
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import scipy.sparse
import torch
from joblib import Parallel, delayed
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_is_fitted,
    check_non_negative,
    validate_data,
)

from skdeepfactor._estimator.advice import advice
from skdeepfactor._math.importance import check_objective
from skdeepfactor._math.ops import Seen, row_sum
from skdeepfactor._math.starts import distinct_rows, n_cold_passes
from skdeepfactor._training.checkpoint import CheckpointFile, whole_file
from skdeepfactor._training.distributed import alone, current_share
from skdeepfactor._training.loop import (
    Interrupted,
    NaturalGradient,
    global_kl,
    load_optimizer,
    optimizer_arrays,
    train,
    train_pass,
)
from skdeepfactor._training.progress import (
    CallbackSupportMixin,
    pass_reports,
    with_callbacks,
)
from skdeepfactor._training.rows import ALONE, CheckedBlocks, MatrixRows, StreamedRows
from skdeepfactor.data import RowBlocks, as_csr, is_streamed, new_random_state


def _has_perplexity(estimator):
    """Whether perplexity has a meaning; the error says why not."""
    if not estimator._models_counts:
        raise AttributeError(
            f"perplexity needs a likelihood of counts, got likelihood="
            f"{estimator.likelihood!r}."
        )
    return True


class BaseFactorModel(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
    ABC,
):
    """Validation, training, inference and scores, for every model of counts.

    A model gives ``_make_module`` and ``_make_optimizer``, ``_initialize`` for where
    its parameters start, and ``_module_attributes`` for what users see of them.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
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

    #: Whether the data are counts: non-negative, with totals, and sparse when drawn.
    _models_counts = True

    #: Whether the data may not be negative.
    _is_non_negative = True

    @abstractmethod
    def _make_module(self, n_features):
        """Build the module from the hyperparameters, its parameters unset."""

    @abstractmethod
    def _make_optimizer(self, module, *, is_stochastic, n_updates=None):
        """Build the optimizer of the module's parameters.

        ``n_updates`` is how many updates there will be at most, None in a stream.
        """

    @abstractmethod
    def _initialize(self, module, X, random_state):
        """Set the module's parameters for the first pass over ``X``.

        Those of a ``ConjugateFactorModel`` get an array more, ``weights``, of how often
        each row of ``X`` counts.
        """

    @abstractmethod
    def _module_attributes(self, module):
        """Fitted attributes that show the module's parameters, as a dict."""

    @with_callbacks
    def fit(
        self,
        X,
        y=None,
        *,
        X_val=None,
        checkpoint=None,
        checkpoint_every=1,
        sharded=False,
    ):
        """Fit the model to the rows of X.

        Passes over all rows, or over batches of them, until ``max_iter``, ``tol`` or
        rows held out end it. What was fitted before is forgotten, unless
        ``warm_start``.

        Where processes have joined a group of ``torch.distributed``, every one of them
        must call this, and all get the same model.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. Data larger than memory come as
            :class:`~skdeepfactor.data.RowBlocks`, as which backed AnnData and the
            arrays of h5py, zarr and dask are read.
        y : None
            Ignored; here for scikit-learn's API.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``.
        checkpoint : path-like, default=None
            A file to write the state of training to, and to go on from if it is there:
            the same call, made again after the process has died, ends as if it had
            not. With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and X_val), instead of
            taking its share of rows that all of them have.

        Returns
        -------
        object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is not what it must be, or the checkpoint is
            damaged or of another fit. The estimator is then left as it was.
        KeyboardInterrupt
            If it comes; the estimator is then fitted, as the last whole pass left it,
            or as it was if there is none.

        See Also
        --------
        partial_fit : One step at a time, on data that come in chunks.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.components_.shape
        (2, 4)
        """
        return self._fit(X, X_val, checkpoint, checkpoint_every, sharded)

    def _fit(self, X, X_val, checkpoint, checkpoint_every, sharded, sample_weight=None):
        """Fit the model to rows, each of which counts as often as its weight says."""
        with self._unchanged_on_error():
            self._validate_params()
            is_warm = self.warm_start and self.__sklearn_is_fitted__()
            share = current_share(bool(sharded))
            with share.agreement():
                file = self._checkpoint_file(checkpoint, checkpoint_every, share)
                rows, rows_val = self._rows(X, share, reset=not is_warm), None
                if sample_weight is not None:
                    rows = self._weighted(rows, sample_weight)
                if X_val is not None:
                    rows_val = self._rows(X_val, share, reset=False)
                seed = self._fresh_seed(file)
            random_state = new_random_state(
                share.gathered(seed)[0]
                if self.random_state is None
                else self.random_state
            )
            if X_val is None and self.validation_fraction is not None:
                with share.agreement():
                    rows, rows_val = self._hold_out(rows, random_state)
            rows.join()
            if rows_val is not None:
                rows_val.join()
            seeds = random_state.randint(np.iinfo(np.int32).max, size=self.n_init)
            seeds = share.gathered(seeds)[0]
            best = None
            try:
                with pass_reports(self, X) as report:
                    if self.n_init == 1 or is_warm:
                        run = (rows, rows_val, seeds[0], is_warm, report, file)
                        best = self._run(*run)
                    elif self.n_jobs in (None, 1):
                        for seed in seeds:
                            run = self._run(rows, rows_val, seed)
                            best = run if best is None else max(best, run, key=_quality)
                    else:
                        runs = Parallel(n_jobs=self.n_jobs)(
                            delayed(self._run)(rows, rows_val, seed) for seed in seeds
                        )
                        best = max(runs, key=_quality)
            except KeyboardInterrupt as interrupt:
                if isinstance(interrupt, Interrupted):
                    runs = [interrupt.attributes, *([] if best is None else [best])]
                    best = max(runs, key=_quality)
                if best is None:
                    raise
                vars(self).update(best)
                raise Interrupted(best["history_"], best["lower_bound_"]) from None
            vars(self).update(best)
        return self

    def partial_fit(self, X, y=None, *, total_samples=None):
        """Take stochastic steps on the rows of X, as one chunk of a stream.

        The first call starts the model, and later ones go on. Rows are forgotten after
        their step, so that a stream may be longer than memory.

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
            If the data or a parameter is not what it must be. The estimator is then
            left as it was.

        See Also
        --------
        fit : Passes over data that are all at hand.

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
        return self._partial_fit(X, total_samples)

    def _partial_fit(self, X, total_samples, sample_weight=None):
        """Take steps on rows, each of which counts as often as its weight says."""
        with self._unchanged_on_error():
            self._validate_params()
            started = time.perf_counter()
            is_first = not self.__sklearn_is_fitted__()
            if isinstance(X, RowBlocks):
                raise TypeError(
                    "partial_fit takes one block at a time: for _, block in X.blocks()."
                )
            rows = MatrixRows(self._validate(X, reset=is_first))
            if sample_weight is not None:
                rows = self._weighted(rows, sample_weight)
            if total_samples is not None and total_samples < 1:
                raise ValueError(
                    f"total_samples must be at least 1, got {total_samples!r}."
                )
            n_seen = rows.total_weight + (0 if is_first else self.n_samples_seen_)
            n_samples = n_seen if total_samples is None else total_samples
            random_state = new_random_state(self.random_state)
            # Some models start with a fit, in which no other process takes part.
            with alone():
                module, device = self._start(rows, random_state, is_warm=not is_first)
            optimizer = self._make_optimizer(module, is_stochastic=True)
            if not is_first:
                load_optimizer(optimizer, self._optimizer_state)
            module.train()
            bound = 0.0
            step = self.batch_size or rows.n_total
            for start in range(0, rows.n_total, step):
                bound += train_pass(
                    module,
                    optimizer,
                    rows.some(slice(start, start + step)),
                    batch_size=None,
                    rng=None,
                    n_samples=n_samples,
                    device=device,
                )
            lower_bound = bound * n_samples / rows.total_weight - global_kl(module)
            seconds = time.perf_counter() - started
            past = {"lower_bound": [], "seconds": []} if is_first else self.history_
            history = {
                "lower_bound": [*past["lower_bound"], lower_bound],
                "seconds": [*past["seconds"], seconds],
            }
            vars(self).update(
                self._attributes(module, optimizer, rows, history, lower_bound, n_seen)
            )
        return self

    def transform(self, X, *, out=None):
        """Infer the factors of each row.

        The model stays as it is. A row's factors depend on that row alone, and not on
        those beside it.

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
        return self._infer(X, lambda module, x: module.posterior(x).mean, out)

    def inverse_transform(self, Z):
        """Expected data given factors.

        Of models of counts given their total these are shares, whose rows sum to 1.

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
        check_is_fitted(self)
        Z = check_array(Z, dtype=[np.float64, np.float32])
        n_components = len(self.components_)
        if Z.shape[1] != n_components:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but {type(self).__name__} has "
                f"{n_components} components."
            )
        rows = MatrixRows(Z)
        return np.concatenate(
            list(_map_rows(self._load(rows.dtype), rows, lambda m, z: m.decode(z)))
        )

    def score_samples(self, X):
        """Evidence lower bound of each row, in nats.

        What rows have a low bound for, the model finds improbable: it may serve to find
        rows that are unlike the others.

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
        return self._infer(X, lambda module, x: module.elbo(x))

    def score(self, X, y=None, *, metric="elbo", sample_weight=None):
        """Mean score per row; larger is better.

        Rows that were not fitted tell how good a model is. Bounds of different
        likelihoods are of different things, and not to be compared.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        metric : {"elbo", "neg_perplexity"}, default="elbo"
            The mean of ``score_samples(X)``, in nats, or minus ``perplexity(X)``.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; all alike if None.

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
        if metric == "elbo":
            return _average(self.score_samples(X), sample_weight)
        if metric == "neg_perplexity":
            return -self.perplexity(X, sample_weight=sample_weight)
        raise ValueError(f"metric must be 'elbo' or 'neg_perplexity', got {metric!r}.")

    @available_if(_has_perplexity)
    def perplexity(self, X, *, average="document", sample_weight=None):
        """Perplexity of the counts as words in order, given how many there are.

        Guessing among V features that are equally likely has the perplexity V. It is
        made of bounds, so that the true perplexity is at most as large.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows without counts are left out.
        average : {"document", "corpus"}, default="document"
            exp(-mean over rows of bound / count), as neural topic models report it, or
            exp(-sum of bounds / sum of counts), as papers on LDA do.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; all alike if None.

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
        if average not in ("document", "corpus"):
            raise ValueError(
                f"average must be 'document' or 'corpus', got {average!r}."
            )

        def bounds_and_totals(module, x):
            totals = row_sum(Seen.of(x, self._may_miss).x)
            return torch.stack([module.word_bound(x), totals], 1)

        both = self._infer(X, bounds_and_totals)
        weights = _weights(sample_weight, len(both))
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

    def __sklearn_is_fitted__(self):
        """Whether the estimator has been fitted."""
        return "_parameters" in vars(self)

    def __sklearn_tags__(self):
        """What scikit-learn should know: non-negative data, dense or sparse."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = self._is_non_negative
        tags.input_tags.allow_nan = self._may_miss
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    def _validate(self, X, *, reset, min_rows=1):
        """Check X; canonical CSR or an array, never the caller's to be changed."""
        given = X
        try:
            X = validate_data(
                self,
                X,
                accept_sparse="csr",
                dtype="numeric",
                ensure_all_finite="allow-nan" if self._may_miss else True,
                ensure_non_negative=self._is_non_negative,
                ensure_min_samples=min_rows,
                reset=reset,
            )
            if self._may_miss:
                self._check_what_is_there(X)
        except (TypeError, ValueError) as error:
            message = advice(self, given, str(error))
            if message is None:
                raise
            raise type(error)(message) from error
        if scipy.sparse.issparse(X):
            if not X.has_canonical_format:
                X = X.copy()
                X.sum_duplicates()
            if (X.data == 0).any():
                # Some of scikit-learn counts what is stored.
                X = X.copy()
                X.eliminate_zeros()
        return X

    @property
    def _may_miss(self):
        """Whether NaN stands for entries that are missing."""
        return _ignores_missing(self.get_params(deep=False))

    def _check_what_is_there(self, X):
        """Raise a ValueError where X cannot miss entries, or for the rest of them."""
        if scipy.sparse.issparse(X):
            if np.isnan(X.data).any():
                raise ValueError(
                    "X is a sparse matrix that stores NaN, but what a sparse matrix "
                    "does not store is 0 and not missing; pass a dense array."
                )
        elif self._is_non_negative and np.isnan(X).any():
            # The least of numbers with NaN among them is NaN.
            known = np.where(np.isnan(X), 0, X)
            check_non_negative(known, f"X in {type(self).__name__}")

    def _rows(self, X, share, *, reset):
        """The rows of X, checked, as training takes them."""
        if not is_streamed(X):
            # A shard may be empty.
            min_rows = 0 if share.is_sharded else 1
            X = self._validate(X, reset=reset, min_rows=min_rows)
            return MatrixRows(X, share)
        return StreamedRows(self._blocks(X, reset=reset), share)

    def _blocks(self, X, *, reset):
        """The blocks of a stream, each checked."""

        def check(block, is_first):
            return self._validate(block, reset=reset and is_first)

        return CheckedBlocks(X if isinstance(X, RowBlocks) else RowBlocks(X), check)

    def _weighted(self, rows, sample_weight):
        """The rows, each as often as it counts."""
        n_rows = rows.n_visible
        if rows.share.is_sharded:
            # A process whose rows are its own may have none that counts.
            given = np.asarray(sample_weight)
            if given.shape == (n_rows,) and not given.any():
                return rows.weighted(np.zeros(n_rows))
        return rows.weighted(_weights(sample_weight, n_rows))

    def _checkpoint_file(self, path, every, share):
        """The file to write checkpoints to, None for none."""
        if path is None:
            return None
        if isinstance(every, bool) or not isinstance(every, Real) or every <= 0:
            raise ValueError(
                "checkpoint_every must be a positive number of passes, or of seconds "
                f"as a float, got {every!r}."
            )
        if self.n_init > 1:
            raise ValueError(f"checkpoint needs n_init=1, got n_init={self.n_init}.")
        path = os.fspath(path)
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise ValueError(f"checkpoint={path!r} is in a folder that is not there.")
        is_alone = share.n_processes == 1
        if not is_alone:
            path = f"{path}.{share.rank}"
        return CheckpointFile(path, every, is_alone=is_alone)

    def _fresh_seed(self, file):
        """A seed for where none is given: that of the checkpoint, if there is one."""
        if self.random_state is not None:
            return None
        seed = int(new_random_state(None).randint(2**31 - 1))
        return seed if file is None else file.remember("seed", seed)

    def _hold_out(self, rows, random_state):
        """Split off ``validation_fraction`` of the rows, at random."""
        n_rows = rows.n_visible
        n_val = int(np.ceil(self.validation_fraction * n_rows))
        if n_val >= n_rows:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of "
                f"{n_rows} row(s) leaves none to fit."
            )
        held = np.sort(random_state.permutation(n_rows)[:n_val])
        return rows.split(held)

    def _run(self, rows, rows_val, seed, is_warm=False, report=None, file=None):
        """Train once; the fitted attributes, as a dict."""
        random_state = np.random.RandomState(seed)
        share = rows.share
        module, device = self._start(rows, random_state, is_warm=is_warm)
        n_samples = rows.n_total
        is_stochastic = self.batch_size is not None and self.batch_size < n_samples
        batch_size = self.batch_size if is_stochastic else None
        n_updates = self.max_iter * math.ceil(n_samples / (batch_size or n_samples))
        optimizer = self._make_optimizer(
            module, is_stochastic=is_stochastic, n_updates=n_updates
        )
        if file is not None:
            file.identify(self._identity(rows, rows_val, seed, module))

        def attributes(history, lower_bound):
            return self._attributes(
                module, optimizer, rows, history, lower_bound, rows.total_weight
            )

        def validate():
            module.eval()
            parts = _map_rows(module, rows_val, lambda m, x: m.elbo(x))
            scores = np.concatenate([np.zeros(0), *parts])
            total, size = scores.sum(), len(scores)
            if rows_val.own_weights is not None:
                weights = rows_val.own_weights
                total, size = weights @ scores, weights.sum()
            sums, sizes = np.transpose(share.gathered((total, size)))
            return float(sums.sum() / sizes.sum())

        def report_pass(history):
            last = history["lower_bound"][-1]
            return report(history, lambda: attributes(history, last))

        try:
            history, lower_bound = train(
                module,
                rows,
                optimizer=optimizer,
                max_iter=self.max_iter,
                tol=self.tol,
                batch_size=batch_size,
                device=device,
                rng=random_state,
                validate=None if rows_val is None else validate,
                n_iter_no_change=self.n_iter_no_change,
                n_cold=self._n_cold(module),
                n_warmup=self._n_warmup(n_updates),
                is_ascent=self._full_steps_ascend and not is_stochastic,
                report=None if report is None else report_pass,
                checkpoint=file,
            )
        except Interrupted as interrupt:
            interrupt.attributes = attributes(interrupt.history, interrupt.lower_bound)
            raise
        # What is learnt beside the steps, from the rows of each process.
        share.copy_first(list(module.buffers()))
        module.refresh()
        return attributes(history, lower_bound)

    def _identity(self, rows, rows_val, seed, module):
        """What a checkpoint must agree with to be gone on from, as strings."""
        parameters = self.get_params(deep=False)
        for name in ("device", "verbose", "n_jobs", "random_state"):
            parameters.pop(name)
        start = hashlib.sha256()
        for tensor in module.state_dict().values():
            start.update(_to_numpy(tensor).tobytes())
        return {
            "estimator": type(self).__name__,
            "parameters": {name: repr(value) for name, value in parameters.items()},
            "seed": int(seed),
            "processes": [rows.share.n_processes, rows.share.is_sharded],
            "rows": [rows.n_total, rows.n_samples, rows.n_features],
            "data": rows.digest(),
            "sample_weight": rows.weights_digest(),
            "X_val": None if rows_val is None else rows_val.digest(),
            "start": start.hexdigest(),
        }

    #: The parameter that says how many components there are.
    _size = "n_components"

    #: Whether steps on all rows raise the bound, so that one without gain is the last.
    _full_steps_ascend = False

    def _n_cold(self, module):
        """Passes that infer each row's factors anew; see ``train``."""
        return 1

    def _n_warmup(self, n_updates):
        """Passes before the objective is what it will be; see ``train``."""
        return 0

    def _complete(self, module):
        """Give a module that was made from arrays what is not an array."""

    def _start(self, rows, random_state, *, is_warm):
        """The module to train on the rows, and the device that it is on."""
        dtype, share = rows.dtype, rows.share
        if is_warm:
            self._check_what_is_kept()
            if any(array.dtype == np.float64 for array in self._parameters.values()):
                dtype = torch.float64
        device = _resolve_device(self.device, dtype)
        if is_warm:
            module = self._load(dtype, device, maker=self)
            # The draws of a stream must not be the same for each of its chunks.
            seed = random_state.randint(2**31 - 1) + int(self.n_samples_seen_)
            module.seed(seed + share.rank)
            return module, device
        module = self._make_module(rows.n_features).to(dtype)
        self._begin(module, rows, random_state)
        module.to(device)
        share.copy_first([*module.parameters(), *module.buffers()])
        module.refresh()
        module.seed(random_state.randint(2**31 - 1) + share.rank)
        return module, device

    def _begin(self, module, rows, random_state):
        """Set the module's parameters for the first pass over the rows."""
        X, _ = rows.sample(random_state)
        self._initialize(module, X, random_state)

    def _check_what_is_kept(self):
        """Raise a ValueError where what is fitted already would get another meaning."""
        given = self.get_params(deep=False)
        for name in (self._size, "likelihood", "link", "family", "weight_prior"):
            value, fitted = given.get(name), self._fitted_with.get(name)
            if not np.array_equal(value, fitted):
                raise ValueError(
                    f"{name}={value!r} cannot go on from a model fitted with "
                    f"{name}={fitted!r}."
                )

    def _load(self, dtype, device=None, *, maker=None):
        """The fitted module, made again from its arrays, on a device or on its own.

        Of the parameters that it was fitted with, or, to go on, those of ``maker``.
        """
        if device is None:
            device = _resolve_device(self.device, dtype)
        if self._may_miss and not _ignores_missing(self._fitted_with):
            raise ValueError(
                "missing_values='ignore' cannot go on from a model fitted with "
                "missing_values='error'; fit it anew."
            )
        if maker is None:
            maker = type(self)(**self._fitted_with)
        module = maker._make_module(self.n_features_in_).to(dtype)
        state = {name: torch.tensor(a) for name, a in self._parameters.items()}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                "These parameters make a model of other parts than the fitted one, "
                "which cannot go on from it: give back those that it was fitted with, "
                "or fit anew with warm_start=False."
            ) from error
        self._complete(module)
        module.to(device).eval().refresh()
        return module

    def _attributes(self, module, optimizer, rows, history, lower_bound, n_seen):
        """All that a fitted estimator has, as a dict."""
        module.eval()
        return {
            "_parameters": {
                name: _to_numpy(tensor) for name, tensor in module.state_dict().items()
            },
            "_optimizer_state": optimizer_arrays(optimizer),
            "_fitted_with": self.get_params(deep=False),
            "_row_totals": rows.total_levels(),
            "components_": _to_numpy(module.components()),
            "n_iter_": len(history["lower_bound"]),
            "n_samples_seen_": n_seen,
            "lower_bound_": lower_bound,
            "history_": {name: list(values) for name, values in history.items()},
            **self._module_attributes(module),
        }

    def _infer(self, X, function, out=None):
        """``function(module, x)`` of each batch of X, as one array, or in a file."""
        check_is_fitted(self)
        if out is not None:
            out = os.fspath(out)
            if not os.path.isdir(os.path.dirname(os.path.abspath(out))):
                raise ValueError(f"out={out!r} is in a folder that is not there.")
        parts = self._inferred(X, function)
        with contextlib.closing(parts):
            return np.concatenate(list(parts)) if out is None else _written(parts, out)

    def _inferred(self, X, function):
        """Yield the same for each batch, an array; a stream is read once.

        The type is that of a matrix, or of the first block of a stream.
        """
        if not is_streamed(X):
            rows = self._rows(X, ALONE, reset=False)
            yield from _map_rows(self._load(rows.dtype), rows, function)
            return
        module = None
        with contextlib.closing(self._blocks(X, reset=False).read()) as blocks:
            for _, block in blocks:
                rows = MatrixRows(block)
                module = module or self._load(rows.dtype)
                yield from _map_rows(module, rows, function)
        if module is None:
            raise ValueError("The source has no rows.")

    def _sample(self, n_samples, totals, random_state):
        """Rows drawn from the model, a batch at a time; counts as a CSR matrix."""
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(
                f"n_samples must be an int of at least 1, got {n_samples!r}."
            )
        seed = new_random_state(random_state).randint(2**31 - 1, size=4)
        generator = np.random.default_rng(seed)
        if totals is None:
            levels = np.linspace(0, 1, len(self._row_totals))
            positions = generator.random(n_samples)
            totals = np.rint(np.interp(positions, levels, self._row_totals))
            # Of real numbers, whose models have no use for it.
            totals = np.maximum(totals, 0)
        given, totals = totals, np.asarray(totals)
        if totals.shape not in ((), (n_samples,)) or not _are_whole(totals):
            raise ValueError(
                "n_tokens must be a whole number, or one for each of the "
                f"{n_samples} row(s), none of them negative, got {given!r}."
            )
        totals = np.broadcast_to(totals.astype(np.int64), (n_samples,))
        module = self._load(torch.float64, torch.device("cpu"))
        rows = range(0, n_samples, 1 + 2**22 // self.n_features_in_)
        parts = (
            module.sample(totals[start : start + rows.step], generator)
            for start in rows
        )
        if not self._models_counts:
            return np.concatenate(list(parts))
        return as_csr(scipy.sparse.vstack([scipy.sparse.csr_matrix(p) for p in parts]))

    @contextlib.contextmanager
    def _unchanged_on_error(self):
        """Take back what was set on the estimator, should an error come."""
        before = dict(vars(self))
        try:
            yield
        except Interrupted:
            raise
        except BaseException:
            # Callbacks are torn down later, by what their own mixin has stored here.
            for name in vars(self).keys() - before.keys():
                if not name.startswith(("_callback", "_skl")):
                    delattr(self, name)
            vars(self).update(before)
            raise


class ConjugateFactorModel(BaseFactorModel):
    """A model whose parameters all have updates in closed form.

    Its module says in ``learns_shape`` whether a prior's shape is learnt.
    """

    _full_steps_ascend = True

    _parameter_constraints: ClassVar[dict] = {
        **BaseFactorModel._parameter_constraints,
        "init": [StrOptions({"kmeans", "random"}), "array-like"],
        "max_inner_iter": [Interval(Integral, 1, None, closed="left")],
        "inner_tol": [Interval(Real, 0, None, closed="left")],
        "n_cold_iter": [Interval(Integral, 1, None, closed="left"), None],
        "learning_offset": [Interval(Real, 0, None, closed="left")],
        "learning_decay": [Interval(Real, 0.5, 1, closed="right")],
    }

    @with_callbacks
    def fit(
        self,
        X,
        y=None,
        *,
        sample_weight=None,
        X_val=None,
        checkpoint=None,
        checkpoint_every=1,
        sharded=False,
    ):
        """Fit the model to the rows of X.

        Passes over all rows, or over batches of them, until ``max_iter``, ``tol`` or
        rows held out end it. What was fitted before is forgotten, unless
        ``warm_start``.

        Where processes have joined a group of ``torch.distributed``, every one of them
        must call this, and all get the same model.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. Data larger than memory come as
            :class:`~skdeepfactor.data.RowBlocks`, as which backed AnnData and the
            arrays of h5py, zarr and dask are read.
        y : None
            Ignored; here for scikit-learn's API.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None. A weight of 2 is the same as a row
            that is there twice, 0 as one that is not, and fractions lie between. What
            is drawn for rows is the same on average: batches, rows held out, the 20,000
            rows that a longer stream starts from (all uniformly, whatever the weights),
            and what a bound by Monte Carlo is made of.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``; each
            counts once.
        checkpoint : path-like, default=None
            A file to write the state of training to, and to go on from if it is there:
            the same call, made again after the process has died, ends as if it had
            not. With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and X_val and
            sample_weight), instead of taking its share of rows that all of them have.

        Returns
        -------
        object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data, the weights or a parameter are not what they must be, or the
            checkpoint is damaged or of another fit. The estimator is then left as it
            was.
        KeyboardInterrupt
            If it comes; the estimator is then fitted, as the last whole pass left it,
            or as it was if there is none.

        See Also
        --------
        partial_fit : One step at a time, on data that come in chunks.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0)
        >>> model.fit(X, sample_weight=[2, 1, 1, 0]).components_.shape
        (2, 4)
        """
        self._check_takes_weights(sample_weight)
        return self._fit(X, X_val, checkpoint, checkpoint_every, sharded, sample_weight)

    def partial_fit(self, X, y=None, *, sample_weight=None, total_samples=None):
        """Take stochastic steps on the rows of X, as one chunk of a stream.

        The first call starts the model, and later ones go on. Rows are forgotten after
        their step, so that a stream may be longer than memory.

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
            If the data, the weights or a parameter are not what they must be. The
            estimator is then left as it was.

        See Also
        --------
        fit : Passes over data that are all at hand.

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
        return self._partial_fit(X, total_samples, sample_weight)

    def _check_takes_weights(self, sample_weight):
        """Raise a ValueError where weights are given that the model has no use for."""

    def _begin(self, module, rows, random_state):
        X, weights = distinct_rows(*rows.sample(random_state))
        self._initialize(module, X, random_state, weights)

    @abstractmethod
    def _initialize(self, module, X, random_state, weights):
        """Set the module's parameters for the first pass over ``X``.

        Its rows are all different, and ``weights`` say how often each counts.
        """

    def _make_optimizer(self, module, *, is_stochastic, n_updates=None):
        return NaturalGradient(
            module.parameters(),
            learning_offset=self.learning_offset,
            learning_decay=self.learning_decay if is_stochastic else 0.0,
        )

    def _n_cold(self, module):
        return n_cold_passes(
            self.n_cold_iter, self.init, self.max_iter, module.learns_shape
        )


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

    #: What a warm-up may be: updates, or a share of training.
    _warmup: ClassVar[list] = [
        Interval(Integral, 0, None, closed="left"),
        Interval(RealNotInt, 0, 1, closed="both"),
    ]

    def score_samples(self, X, *, metric="elbo", n_particles=50):
        """Lower bound of each row's log likelihood, in nats.

        What rows have a low bound for, the model finds improbable. A row's draws are a
        function of its content: its bound is the same in any company.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        metric : {"elbo", "iwae"}, default="elbo"
            The evidence lower bound, or the importance weighted one, which is tighter
            with more particles and sampled; a row's draws depend on the row alone.
        n_particles : int, default=50
            Number of draws for ``"iwae"``, at least 2.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Bounds in nats.

        See Also
        --------
        score : The mean over rows.

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
        if metric != "iwae":
            raise ValueError(f"metric must be 'elbo' or 'iwae', got {metric!r}.")
        check_objective("iwae", 0.0, n_particles)
        return self._infer(X, lambda module, x: module.iwae(x, n_particles))

    def score(self, X, y=None, *, metric="elbo", n_particles=50, sample_weight=None):
        """Mean score per row; larger is better.

        Rows that were not fitted tell how good a model is. Bounds of different
        likelihoods are of different things, and not to be compared.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        metric : {"elbo", "iwae", "neg_perplexity"}, default="elbo"
            The mean of ``score_samples(X, metric=metric)``, in nats, or minus
            ``perplexity(X)``, of counts only.
        n_particles : int, default=50
            Number of draws for ``"iwae"``, at least 2.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; all alike if None.

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
        if metric == "iwae":
            bounds = self.score_samples(X, metric="iwae", n_particles=n_particles)
            return _average(bounds, sample_weight)
        return super().score(X, metric=metric, sample_weight=sample_weight)

    def _check_layers(self):
        """Raise a ``ValueError`` unless layers are positive ints."""
        for name in ("decoder_layers", "encoder_layers"):
            check_layers(name, getattr(self, name))

    @staticmethod
    def _in_updates(warmup, n_updates):
        """A warm-up in updates; a share of a stream is none."""
        if isinstance(warmup, Integral):
            return float(warmup)
        return float(warmup) * (n_updates or 0)

    def _n_warmup(self, n_updates):
        """Passes until all that the model warms up is at full strength."""
        share = self._warmup_updates(n_updates) / n_updates
        if share > 1:
            warnings.warn(
                f"The warm-up takes {share * n_updates:.0f} updates, and training but "
                f"{n_updates}: it never ended. Raise max_iter or lower the warm-up.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return math.ceil(min(share, 1.0) * self.max_iter)

    @abstractmethod
    def _warmup_updates(self, n_updates):
        """Updates until then, a float."""


def _are_whole(values):
    """Whether all values are whole numbers, and none of them is negative."""
    is_numeric = values.dtype.kind in "iuf"
    return is_numeric and bool(((values >= 0) & (values == np.floor(values))).all())


def _weights(sample_weight, n_rows):
    """How often each row counts, float64, checked."""
    if sample_weight is None:
        return np.ones(n_rows)
    rows = np.empty((n_rows, 1))
    weights = _check_sample_weight(
        sample_weight, rows, dtype=np.float64, ensure_non_negative=True
    )
    if not weights.any():
        raise ValueError("sample_weight must not be 0 for every row.")
    return weights


def _average(values, sample_weight):
    """The mean over rows, each as often as it counts."""
    return float(np.average(values, weights=_weights(sample_weight, len(values))))


def check_layers(name, layers):
    """Raise a ValueError unless layers are positive ints."""
    if not all(isinstance(n, Integral) and n >= 1 for n in layers):
        raise ValueError(f"{name} must hold positive ints, got {layers!r}.")


def _ignores_missing(parameters):
    """Whether parameters say so; not all models have one that does."""
    return parameters.get("missing_values") == "ignore"


def _quality(attributes):
    """What restarts are compared by: the validation score, or else the bound."""
    scores = attributes["history_"].get("validation_score")
    return attributes["lower_bound_"] if scores is None else max(scores)


@torch.no_grad()
def _map_rows(module, rows, function):
    """Yield ``function(module, x)`` of each batch of the rows, as arrays."""
    like = next(module.parameters())
    batches = rows.batches(module.work_width, like.device, like.dtype)
    with contextlib.closing(batches):
        for x, _ in batches:
            yield _to_numpy(function(module, x))


def _written(parts, path):
    """Write arrays below each other to a file; a read-only map of it.

    ``X`` itself may be a map of what was there, and is read until the file is whole.
    """
    with whole_file(path) as file:
        n_rows = 0
        for part in parts:
            if n_rows == 0:
                _write_header(file, part, n_rows)
            file.write(np.ascontiguousarray(part).data)
            n_rows += len(part)
        # How many rows there are is known now; it has room for any number.
        file.seek(0)
        _write_header(file, part, n_rows)
    return np.load(path, mmap_mode="r")


def _write_header(file, part, n_rows):
    """Begin a ``.npy`` file of rows like those of an array."""
    header = {
        "descr": np.lib.format.dtype_to_descr(part.dtype),
        "fortran_order": False,
        "shape": (n_rows, *part.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(file, header)


def _to_numpy(tensor):
    """A copy, since modules change their tensors in place."""
    return tensor.detach().cpu().numpy().copy()


def _resolve_device(name, dtype):
    """The torch device of that name, which must be there and compute in ``dtype``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"device must be 'cpu', 'cuda', 'cuda:<index>', 'mps' or 'auto', "
            f"got {name!r}."
        ) from None
    is_there = {
        "cpu": True,
        "cuda": torch.cuda.is_available()
        and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not is_there.get(device.type, False):
        raise ValueError(
            f"device={name!r} is not available on this machine; 'cpu' always is, and "
            "'auto' takes a GPU where there is one."
        )
    if device.type == "cuda" and device.index is None:
        # A thread of its own may have another current device.
        device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps" and dtype == torch.float64:
        raise ValueError("device='mps' cannot compute in float64; pass float32 data.")
    return device
