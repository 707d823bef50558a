"""The estimator: NumPy and SciPy in, NumPy out, around a torch module.

A fitted estimator holds its module's parameters as NumPy arrays and nothing of torch,
so that it pickles, and moves between devices, like any scikit-learn estimator; the
module is built anew for each call.
"""

import contextlib
import math
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
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skdeepfactor.data import as_csr, chunks, compute_dtype, new_random_state, to_tensor
from skdeepfactor.inference import check_objective
from skdeepfactor.initialization import n_cold_passes
from skdeepfactor.ops import row_sum
from skdeepfactor.progress import CallbackSupportMixin, pass_reports, with_callbacks
from skdeepfactor.training import NaturalGradient, global_kl, train, train_step


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
        """Set the module's parameters for the first pass over ``X``."""

    @abstractmethod
    def _module_attributes(self, module):
        """Fitted attributes that show the module's parameters, as a dict."""

    @with_callbacks
    def fit(self, X, y=None, *, X_val=None):
        """Fit the model to the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Counts, or other non-negative numbers.
        y : None
            Ignored; here for scikit-learn's API.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is not what it must be. The estimator is then
            left as it was.
        """
        with self._unchanged_on_error():
            self._validate_params()
            is_warm = self.warm_start and self.__sklearn_is_fitted__()
            X = self._validate(X, reset=not is_warm)
            random_state = new_random_state(self.random_state)
            if X_val is not None:
                X_val = self._validate(X_val, reset=False)
            elif self.validation_fraction is not None:
                X, X_val = self._hold_out(X, random_state)
            seeds = random_state.randint(np.iinfo(np.int32).max, size=self.n_init)
            with pass_reports(self, X) as report:
                if self.n_init == 1 or is_warm:
                    best = self._run(X, X_val, seeds[0], is_warm, report)
                else:
                    runs = Parallel(n_jobs=self.n_jobs)(
                        delayed(self._run)(X, X_val, seed) for seed in seeds
                    )
                    best = max(runs, key=_quality)
            vars(self).update(best)
        return self

    def partial_fit(self, X, y=None, *, total_samples=None):
        """Take stochastic steps on the rows of X, as one chunk of a stream.

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
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If the data or a parameter is not what it must be. The estimator is then
            left as it was.
        """
        with self._unchanged_on_error():
            self._validate_params()
            started = time.perf_counter()
            is_first = not self.__sklearn_is_fitted__()
            X = self._validate(X, reset=is_first)
            if total_samples is not None and total_samples < 1:
                raise ValueError(
                    f"total_samples must be at least 1, got {total_samples!r}."
                )
            n_seen = X.shape[0] + (0 if is_first else self.n_samples_seen_)
            n_samples = n_seen if total_samples is None else total_samples
            random_state = new_random_state(self.random_state)
            module, device = self._start(X, random_state, is_warm=not is_first)
            optimizer = self._make_optimizer(module, is_stochastic=True)
            if not is_first:
                _load_optimizer(optimizer, self._optimizer_state)
            module.train()
            bound = 0.0
            step = self.batch_size or X.shape[0]
            for start in range(0, X.shape[0], step):
                rows = np.arange(start, min(start + step, X.shape[0]))
                bound += train_step(
                    module, optimizer, X, rows, n_samples=n_samples, device=device
                )
            lower_bound = bound * n_samples / X.shape[0] - global_kl(module)
            seconds = time.perf_counter() - started
            past = {"lower_bound": [], "seconds": []} if is_first else self.history_
            history = {
                "lower_bound": [*past["lower_bound"], lower_bound],
                "seconds": [*past["seconds"], seconds],
            }
            vars(self).update(
                self._attributes(module, optimizer, X, history, lower_bound, n_seen)
            )
        return self

    def transform(self, X):
        """Infer the factors of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            The posterior mean of the factors, float64 for float64 data, else float32.
        """
        return self._infer(X, lambda module, x: module.posterior(x).mean)

    def inverse_transform(self, Z):
        """Expected data given factors.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            E[x | z] under the posterior mean of the components.
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=[np.float64, np.float32])
        n_components = len(self.components_)
        if Z.shape[1] != n_components:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but {type(self).__name__} has "
                f"{n_components} components."
            )
        return _map_rows(
            self._load(compute_dtype(Z)), Z, lambda module, z: module.decode(z)
        )

    def score_samples(self, X):
        """Evidence lower bound of each row, in nats.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        bounds : ndarray of shape (n_samples,), float64
            Lower bounds on E_q(W)[log p(x | W)]; the divergence of the global
            parameters is left out, so that a row's bound depends on that row alone.
        """
        return self._infer(X, lambda module, x: module.elbo(x))

    def score(self, X, y=None, *, metric="elbo"):
        """Mean score per row; larger is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        metric : {"elbo", "neg_perplexity"}, default="elbo"
            The mean of ``score_samples(X)``, in nats, or minus ``perplexity(X)``.

        Returns
        -------
        score : float
        """
        if metric == "elbo":
            return float(np.mean(self.score_samples(X)))
        if metric == "neg_perplexity":
            return -self.perplexity(X)
        raise ValueError(f"metric must be 'elbo' or 'neg_perplexity', got {metric!r}.")

    @available_if(_has_perplexity)
    def perplexity(self, X, *, average="document"):
        """Perplexity of the counts as words in order, given how many there are.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows without counts are left out.
        average : {"document", "corpus"}, default="document"
            exp(-mean over rows of bound / count), as neural topic models report it, or
            exp(-sum of bounds / sum of counts), as papers on LDA do.

        Returns
        -------
        perplexity : float
            An upper bound: perplexity at the lower bound of the log likelihood.

        Raises
        ------
        ValueError
            If no row has a count.
        """
        if average not in ("document", "corpus"):
            raise ValueError(
                f"average must be 'document' or 'corpus', got {average!r}."
            )
        both = self._infer(
            X, lambda module, x: torch.stack([module.word_bound(x), row_sum(x)], 1)
        )
        bounds, totals = both[both[:, 1] > 0].T
        if len(bounds) == 0:
            raise ValueError("perplexity needs a row with a count; every row is empty.")
        # Words have a probability of at most 1, whatever rounding says.
        bounds = np.minimum(bounds, 0)
        is_mean = average == "document"
        per_count = np.mean(bounds / totals) if is_mean else bounds.sum() / totals.sum()
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
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    def _validate(self, X, *, reset):
        """Check X; canonical CSR or an array, never the caller's to be changed."""
        X = validate_data(
            self,
            X,
            accept_sparse="csr",
            dtype="numeric",
            ensure_non_negative=self._is_non_negative,
            reset=reset,
        )
        if scipy.sparse.issparse(X):
            if not X.has_canonical_format:
                X = X.copy()
                X.sum_duplicates()
            if (X.data == 0).any():
                # Some of scikit-learn counts what is stored.
                X = X.copy()
                X.eliminate_zeros()
        return X

    def _hold_out(self, X, random_state):
        """Split off ``validation_fraction`` of the rows, at random."""
        n_val = int(np.ceil(self.validation_fraction * X.shape[0]))
        if n_val >= X.shape[0]:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of "
                f"{X.shape[0]} row(s) leaves none to fit."
            )
        order = random_state.permutation(X.shape[0])
        return X[np.sort(order[n_val:])], X[np.sort(order[:n_val])]

    def _run(self, X, X_val, seed, is_warm=False, report=None):
        """Train once; the fitted attributes, as a dict."""
        random_state = np.random.RandomState(seed)
        module, device = self._start(X, random_state, is_warm=is_warm)
        n_samples = X.shape[0]
        is_stochastic = self.batch_size is not None and self.batch_size < n_samples
        batch_size = self.batch_size if is_stochastic else None
        n_updates = self.max_iter * math.ceil(n_samples / (batch_size or n_samples))
        optimizer = self._make_optimizer(
            module, is_stochastic=is_stochastic, n_updates=n_updates
        )

        def attributes(history, lower_bound):
            return self._attributes(
                module, optimizer, X, history, lower_bound, X.shape[0]
            )

        def validate():
            module.eval()
            return float(_map_rows(module, X_val, lambda m, x: m.elbo(x)).mean())

        def report_pass(history):
            last = history["lower_bound"][-1]
            return report(history, lambda: attributes(history, last))

        history, lower_bound = train(
            module,
            X,
            optimizer=optimizer,
            max_iter=self.max_iter,
            tol=self.tol,
            batch_size=batch_size,
            device=device,
            rng=random_state,
            validate=None if X_val is None else validate,
            n_iter_no_change=self.n_iter_no_change,
            n_cold=self._n_cold(module),
            n_warmup=self._n_warmup(n_updates),
            is_ascent=self._full_steps_ascend and not is_stochastic,
            report=None if report is None else report_pass,
        )
        return attributes(history, lower_bound)

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

    def _start(self, X, random_state, *, is_warm):
        """The module to train on X, and the device that it is on."""
        dtype = compute_dtype(X)
        if is_warm:
            size, fitted_size = getattr(self, self._size), self._fitted_with[self._size]
            if size != fitted_size:
                raise ValueError(
                    f"{self._size}={size} cannot go on from a model fitted with "
                    f"{self._size}={fitted_size}."
                )
            if any(array.dtype == np.float64 for array in self._parameters.values()):
                dtype = torch.float64
        device = _resolve_device(self.device, dtype)
        if is_warm:
            module = self._load(dtype, device)
            # The draws of a stream must not be the same for each of its chunks.
            module.seed(random_state.randint(2**31 - 1) + self.n_samples_seen_)
            return module, device
        module = self._make_module(X.shape[1]).to(dtype)
        self._initialize(module, X, random_state)
        module.to(device).refresh()
        module.seed(random_state.randint(2**31 - 1))
        return module, device

    def _load(self, dtype, device=None):
        """The fitted module, made again from its arrays, on a device or on its own."""
        if device is None:
            device = _resolve_device(self.device, dtype)
        fitted = type(self)(**self._fitted_with)
        module = fitted._make_module(self.n_features_in_).to(dtype)
        state = {name: torch.tensor(a) for name, a in self._parameters.items()}
        module.load_state_dict(state)
        self._complete(module)
        module.to(device).eval().refresh()
        return module

    def _attributes(self, module, optimizer, X, history, lower_bound, n_seen):
        """All that a fitted estimator has, as a dict."""
        module.eval()
        return {
            "_parameters": {
                name: _to_numpy(tensor) for name, tensor in module.state_dict().items()
            },
            "_optimizer_state": _optimizer_arrays(optimizer),
            "_fitted_with": self.get_params(deep=False),
            "_row_totals": np.quantile(
                np.asarray(X.sum(axis=1, dtype=np.float64)), np.linspace(0, 1, 101)
            ),
            "components_": _to_numpy(module.components()),
            "n_iter_": len(history["lower_bound"]),
            "n_samples_seen_": n_seen,
            "lower_bound_": lower_bound,
            "history_": {name: list(values) for name, values in history.items()},
            **self._module_attributes(module),
        }

    def _infer(self, X, function):
        """``function(module, x)`` of each batch of X, as one array."""
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        return _map_rows(self._load(compute_dtype(X)), X, function)

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
        totals = np.broadcast_to(np.asarray(totals, dtype=np.int64), (n_samples,))
        if (totals < 0).any():
            raise ValueError("n_tokens must not be negative.")
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
        except Exception:
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
        bounds : ndarray of shape (n_samples,), float64
        """
        if metric == "elbo":
            return super().score_samples(X)
        if metric != "iwae":
            raise ValueError(f"metric must be 'elbo' or 'iwae', got {metric!r}.")
        check_objective("iwae", 0.0, n_particles)
        return self._infer(X, lambda module, x: module.iwae(x, n_particles))

    def score(self, X, y=None, *, metric="elbo", n_particles=50):
        """Mean score per row; larger is better.

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

        Returns
        -------
        score : float
        """
        if metric == "iwae":
            bounds = self.score_samples(X, metric="iwae", n_particles=n_particles)
            return float(np.mean(bounds))
        return super().score(X, metric=metric)

    def _check_layers(self):
        """Raise a ``ValueError`` unless layers are positive ints."""
        for name in ("decoder_layers", "encoder_layers"):
            layers = getattr(self, name)
            if not all(isinstance(n, Integral) and n >= 1 for n in layers):
                raise ValueError(f"{name} must hold positive ints, got {layers!r}.")

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


def _quality(attributes):
    """What restarts are compared by: the validation score, or else the bound."""
    scores = attributes["history_"].get("validation_score")
    return attributes["lower_bound_"] if scores is None else max(scores)


@torch.no_grad()
def _map_rows(module, X, function):
    """``function(module, x)`` of each batch of X, concatenated, as an array."""
    parameter = next(module.parameters())
    return np.concatenate(
        [
            _to_numpy(
                function(
                    module,
                    to_tensor(X, rows, dtype=parameter.dtype, device=parameter.device),
                )
            )
            for rows in chunks(X, None, module.work_width)
        ]
    )


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
        raise ValueError(f"device={name!r} is not available on this machine.")
    if device.type == "mps" and dtype == torch.float64:
        raise ValueError("device='mps' cannot compute in float64; pass float32 data.")
    return device


def _optimizer_arrays(optimizer):
    """The optimizer's state as a flat dict of arrays."""
    return {
        f"{index}.{name}": _to_numpy(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def _load_optimizer(optimizer, arrays):
    """Give an optimizer the state that ``_optimizer_arrays`` took from one."""
    state = {}
    for key, array in arrays.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = torch.tensor(array)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
