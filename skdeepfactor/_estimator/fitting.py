"""One call of ``fit``: its rows, starts, runs and results."""

import contextlib
import hashlib
import math
import os
import time
from numbers import Real
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from joblib import Parallel, delayed

from skdeepfactor._estimator.arrays import (
    are_finite,
    check_what_is_kept,
    fitted_attributes,
    load,
    parameters_of,
    resolve_device,
    to_numpy,
)
from skdeepfactor._estimator.environment import (
    TINY_PARAMETERS,
    TINY_ROWS,
    own_environment,
)
from skdeepfactor._estimator.row_inference import map_rows
from skdeepfactor._estimator.validation import (
    checked_matrix,
    checked_rows,
    weighted_rows,
)
from skdeepfactor._files import check_place
from skdeepfactor._math.starts import distinct_rows
from skdeepfactor._training.checkpoint import CheckpointFile, canonical
from skdeepfactor._training.distributed import alone, current_share
from skdeepfactor._training.loop import global_kl, train, train_pass
from skdeepfactor._training.optimizers import load_optimizer
from skdeepfactor._training.plan import Budget
from skdeepfactor._training.progress import pass_reports
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor._training.run import Interrupted
from skdeepfactor.data import RowBlocks, new_random_state, stacked

# Parameters that change where and how a fit runs, and not what it fits.
OF_SURROUNDINGS = ("device", "verbose", "n_jobs", "random_state")

# Parameters that say how long to train, and by what steps: rows may be resumed from the
# local parameters that a fit with others left.
OF_SCHEDULE = (
    *("max_iter", "tol", "batch_size", "n_iter_no_change"),
    *("learning_rate", "learning_offset", "learning_decay"),
)


class Start(NamedTuple):
    """Rows that a module's parameters start from.

    ``weights`` say how often each row of X counts, ``arrays`` what else is known of it,
    by name.
    """

    X: np.ndarray
    weights: np.ndarray
    arrays: dict
    random_state: np.random.RandomState

    def distinct(self):
        """Start with each row once, so that a weight of 2 is a repetition."""
        rows, weights = distinct_rows(self.X, self.weights, *self.arrays.values())
        arrays = {name: array[rows] for name, array in self.arrays.items()}
        return Start(self.X[rows], weights, arrays, self.random_state)


# Rows of a stream that its model starts from: how many distinct ones, and how many in
# all if there are no more.
N_FIRST, MAX_FIRST = 100, 300

# Numbers in the data, zeros included, up to which merging rows costs next to nothing.
MAX_MERGED = 2**20


class Fit:
    """One call of ``fit``, from its arguments to the fitted attributes.

    Attributes
    ----------
    estimator : BaseFactorModel
    share : Share
        This process's share of the rows.
    is_warm : bool
        Whether it resumes from the fitted model.
    rows, rows_val : Rows
        The rows to fit, and those held out, None for none.
    sizes : dict
        What the module's shape needs; see ``BaseFactorModel._sizes``.
    file : CheckpointFile or None
    seeds : list of int
        One for each start.
    report : callable or None
        Tells a progress bar and callbacks of each pass.
    """

    def __init__(
        self,
        estimator,
        X,
        y=None,
        *,
        X_val=None,
        checkpoint=None,
        checkpoint_every=1,
        sharded=False,
        sample_weight=None,
    ):
        self.estimator = estimator
        self.is_warm = estimator.warm_start and estimator.__sklearn_is_fitted__()
        self.share = share = current_share(bool(sharded))
        self.rows_val, self.report = None, None
        with share.agreement():
            self.file = self._checkpoint_file(checkpoint, checkpoint_every)
            rows = checked_rows(estimator, X, share, reset=not self.is_warm)
        rows.agree_on_width()
        with share.agreement():
            self.sizes = (
                estimator._fitted_sizes if self.is_warm else estimator._sizes(rows, y)
            )
        if share.is_sharded:
            sizes = share.gathered(self.sizes)
            with share.agreement():
                self.sizes = estimator._sizes_of_all(sizes)
        with share.agreement():
            rows = rows.knowing(**estimator._known_of_rows(rows, y, self.sizes))
            if sample_weight is not None:
                rows = weighted_rows(rows, sample_weight)
            if X_val is not None:
                self.rows_val = checked_rows(estimator, X_val, share, reset=False)
            seed = self._fresh_seed()
        if self.rows_val is not None:
            self.rows_val.agree_on_width()
        random_state = new_random_state(
            share.gathered(seed)[0]
            if estimator.random_state is None
            else estimator.random_state
        )
        if X_val is None and estimator.validation_fraction is not None:
            with share.agreement():
                rows, self.rows_val = self._hold_out(rows, random_state)
        rows.join()
        if self.rows_val is not None:
            self.rows_val.join()
        batch_size = estimator.batch_size
        is_full = batch_size is None or batch_size >= rows.n_total
        if estimator._takes_weights and is_full:
            rows = _merged_if_small(rows)
        if not self.is_warm:
            self.sizes = {**self.sizes, "input_scale": input_scale(estimator, rows)}
        scale = self.sizes["input_scale"]
        self.rows = rows.scaled(scale)
        if self.rows_val is not None:
            self.rows_val = self.rows_val.scaled(scale)
        seeds = random_state.randint(np.iinfo(np.int32).max, size=estimator.n_init)
        self.seeds = share.gathered(seeds)[0]

    def attributes(self, X):
        """Train from each start; the fitted attributes of the best one.

        ``X`` is shown to callbacks as the data; other processes get none of it.

        Raises
        ------
        Interrupted
            For a ``KeyboardInterrupt``, with the attributes that the last whole pass
            left, or those of an earlier start, if they are better.
        """
        n_jobs, best = self.estimator.n_jobs, None
        try:
            with pass_reports(self.estimator, X) as report:
                if len(self.seeds) == 1 or self.is_warm:
                    self.report = report
                    return self._run(self.seeds[0])
                if n_jobs in (None, 1):
                    for seed in self.seeds:
                        run = self._run(seed)
                        best = run if best is None else max(best, run, key=_quality)
                    return best
                runs = Parallel(n_jobs=n_jobs)(
                    delayed(self._run)(seed) for seed in self.seeds
                )
                return max(runs, key=_quality)
        except KeyboardInterrupt as interrupt:
            found = [] if best is None else [best]
            if isinstance(interrupt, Interrupted):
                found.insert(0, interrupt.attributes)
            if not found:
                raise
            best = max(found, key=_quality)
            known = Interrupted(best["history_"], best["lower_bound_"])
            known.attributes = best
            raise known from None

    # Entered anew, since workers of other threads or processes start here.
    @own_environment()
    def _run(self, seed):
        """Train once; the fitted attributes, as a dict."""
        estimator, rows = self.estimator, self.rows
        random_state = np.random.RandomState(seed)
        module = started_module(
            estimator, rows, self.sizes, random_state, is_warm=self.is_warm
        )
        budget = self._budget()
        plan = estimator._plan(module, budget)
        if self.file is not None:
            self.file.identify(self._identity(seed, module))

        # What a later fit of the same rows may start them from.
        keeps = estimator.warm_start and self.share.n_processes == 1
        key = self._key_of_local() if keeps else None
        old_key, local = vars(estimator).get("_local") or (None, None)
        left = []

        def attributes(history, lower_bound):
            return fitted_attributes(
                estimator,
                module,
                self.sizes,
                plan.optimizer,
                rows,
                history,
                lower_bound,
                rows.total_weight,
                is_stream=False,
            )

        def report_pass(history):
            last = history["lower_bound"][-1]
            return self.report(history, lambda: attributes(history, last))

        try:
            history, lower_bound = train(
                module,
                rows,
                plan,
                budget=budget,
                tol=estimator.tol,
                rng=random_state,
                n_iter_no_change=estimator.n_iter_no_change,
                validate=None
                if self.rows_val is None
                else lambda: self._validation_score(module),
                report=None if self.report is None else report_pass,
                checkpoint=self.file,
                local=local if self.is_warm and key and key == old_key else None,
                keep=left.append if keeps else None,
                is_exact=estimator.warm_start,
                is_warm=self.is_warm,
            )
        except Interrupted as interrupt:
            interrupt.attributes = attributes(interrupt.history, interrupt.lower_bound)
            raise
        module.eval()
        try:
            estimator._finish(module, rows)
            # Learnt beside the steps, from the rows of each process.
            self.share.copy_first(list(module.buffers()))
            module.refresh()
        except KeyboardInterrupt:
            unfinished = Interrupted(history, lower_bound)
            unfinished.attributes = attributes(history, lower_bound)
            raise unfinished from None
        found = attributes(history, lower_bound)
        if left and left[0] is not None:
            found["_local"] = key, left[0]
        return found

    def _key_of_local(self):
        """Key of the local parameters of rows, equal if they have the same meaning."""
        settings = self._settings(without=OF_SURROUNDINGS + OF_SCHEDULE)
        return [self.rows.digest(), self.rows.digests(), settings]

    def _settings(self, without):
        """Canonical values of the estimator's parameters, except for some, by name."""
        return {
            name: canonical(value)
            for name, value in parameters_of(self.estimator).items()
            if name not in without
        }

    def _budget(self):
        estimator, n_rows = self.estimator, self.rows.n_total
        batch_size = estimator.batch_size
        if batch_size is not None and batch_size >= n_rows:
            batch_size = None
        n_steps = math.ceil(n_rows / (batch_size or n_rows))
        return Budget(
            estimator.max_iter,
            estimator.max_iter * n_steps,
            batch_size,
            self.rows.most_samples,
        )

    def _validation_score(self, module):
        """The mean bound of the rows held out, of all processes."""
        rows = self.rows_val
        module.eval()
        parts = map_rows(module, rows, lambda module, batch: module.elbo(batch))
        scores = np.concatenate([np.zeros(0), *parts])
        weights = rows.own_arrays.get("weight", np.ones(len(scores)))
        found = self.share.gathered((weights @ scores, weights.sum()))
        totals, sizes = np.transpose(found)
        return float(totals.sum() / sizes.sum())

    def _hold_out(self, rows, random_state):
        """Split off ``validation_fraction`` of the rows, at random."""
        fraction, n_rows = self.estimator.validation_fraction, rows.n_visible
        n_val = int(np.ceil(fraction * n_rows))
        if n_val >= n_rows:
            raise ValueError(
                f"validation_fraction={fraction} of {n_rows} row(s) leaves none to fit."
            )
        held = np.sort(random_state.permutation(n_rows)[:n_val])
        return rows.split(held)

    def _checkpoint_file(self, path, every):
        """The file to write checkpoints to, None for none."""
        if path is None:
            return None
        if isinstance(every, bool) or not isinstance(every, Real) or every <= 0:
            raise ValueError(
                "checkpoint_every must be a positive number of passes, or of seconds "
                f"as a float, got {every!r}."
            )
        if self.estimator.n_init > 1:
            raise ValueError(
                f"checkpoint needs n_init=1, got n_init={self.estimator.n_init}."
            )
        path = os.fspath(path)
        check_place("checkpoint", path)
        is_alone = self.share.n_processes == 1
        if not is_alone:
            path = f"{path}.{self.share.rank}"
        return CheckpointFile(path, every, is_alone=is_alone)

    def _fresh_seed(self):
        """A seed for where none is given: that of the checkpoint, if there is one."""
        if self.estimator.random_state is not None:
            return None
        seed = int(new_random_state(None).randint(2**31 - 1))
        return seed if self.file is None else self.file.remember("seed", seed)

    def _identity(self, seed, module):
        """Identity of a fit, as strings that a checkpoint to resume must share."""
        start, rows = hashlib.sha256(), self.rows
        for tensor in module.state_dict().values():
            start.update(to_numpy(tensor).tobytes())
        digests = rows.digests()
        return {
            "estimator": type(self.estimator).__name__,
            "parameters": self._settings(without=OF_SURROUNDINGS),
            "seed": int(seed),
            "processes": [rows.share.n_processes, rows.share.is_sharded],
            "rows": [rows.n_total, rows.n_samples, rows.n_features],
            "data": rows.digest(),
            "sample_weight": digests.pop("weight", None),
            "known": digests,
            "X_val": None if self.rows_val is None else self.rows_val.digest(),
            "start": start.hexdigest(),
        }


def _merged_if_small(rows):
    """Small data with equal rows merged, since that costs nothing there."""
    is_at_hand = isinstance(rows, MatrixRows) and not rows.share.is_sharded
    if is_at_hand and rows.n_visible * rows.n_features <= MAX_MERGED:
        return rows.merged()
    return rows


def is_small_step(estimator, X):
    """Whether a step on X, after others, takes less time than threads take to begin."""
    shape = getattr(X, "shape", ())
    parameters = vars(estimator).get("_parameters", {}).values()
    n_parameters = sum(array.size for array in parameters)
    return (
        isinstance(shape, tuple)
        and len(shape) == 2
        and math.prod(shape) <= TINY_ROWS
        and 0 < n_parameters <= TINY_PARAMETERS
    )


def take_steps(estimator, X, y=None, *, total_samples=None, sample_weight=None):
    """One chunk of a stream: the fitted attributes after steps on its rows.

    The first rows decide where components start, unless ``init`` does. Until there are
    enough they are kept, and the model starts anew from all of them.
    """
    started = time.perf_counter()
    is_first = not estimator.__sklearn_is_fitted__()
    if isinstance(X, RowBlocks):
        raise TypeError(
            "partial_fit takes one block at a time: for _, block in X.blocks()."
        )
    rows = MatrixRows(checked_matrix(estimator, X, reset=is_first))
    sizes = estimator._sizes(rows, y) if is_first else estimator._fitted_sizes
    rows = rows.knowing(**estimator._known_of_rows(rows, y, sizes))
    if sample_weight is not None:
        rows = weighted_rows(rows, sample_weight)
    if total_samples is not None and (
        isinstance(total_samples, bool)
        or not isinstance(total_samples, Real)
        or not 1 <= total_samples < math.inf
    ):
        raise ValueError(
            f"total_samples must be a finite number of at least 1, got "
            f"{total_samples!r}."
        )
    first_rows = None if is_first else vars(estimator).get("_first_rows")
    starts = is_first or first_rows is not None
    if first_rows is not None:
        check_what_is_kept(estimator)
        rows = _joined(first_rows, rows)
        sizes, arrays = estimator._resized(sizes, rows.arrays)
        rows = MatrixRows(rows.X, arrays=arrays)
    if is_first:
        sizes = {**sizes, "input_scale": input_scale(estimator, rows)}
    if starts:
        is_enough = not _starts_from_rows(estimator) or _are_enough(rows)
        first_rows = None if is_enough else _copied(rows)
    rows = rows.scaled(sizes["input_scale"])
    n_seen = rows.total_weight + (0 if starts else estimator.n_samples_seen_)
    n_samples = n_seen if total_samples is None else total_samples
    random_state = new_random_state(estimator.random_state)
    # Some models start with a fit, in which no other process takes part.
    with alone():
        module = started_module(
            estimator, rows, sizes, random_state, is_warm=not starts
        )
    budget = Budget()
    module.begin(budget)
    optimizer = estimator._plan(module, budget).optimizer
    if not starts:
        load_optimizer(optimizer, estimator._optimizer_state)
    module.train()
    bound = 0.0
    step = estimator.batch_size or rows.n_total
    for start in range(0, rows.n_total, step):
        bound += train_pass(
            module,
            optimizer,
            rows.some(slice(start, start + step)),
            batch_size=None,
            rng=None,
            n_samples=n_samples,
        )[0]
    lower_bound = bound * n_samples / rows.total_weight - global_kl(module)
    seconds = time.perf_counter() - started
    past = {"lower_bound": [], "seconds": []} if is_first else estimator.history_
    history = {
        "lower_bound": [*past["lower_bound"], lower_bound],
        "seconds": [*past["seconds"], seconds],
    }
    attributes = fitted_attributes(
        estimator,
        module,
        sizes,
        optimizer,
        rows,
        history,
        lower_bound,
        n_seen,
        is_stream=True,
    )
    attributes["_first_rows"] = first_rows
    # The bound is that before the steps.
    if not (math.isfinite(lower_bound) and are_finite(attributes)):
        raise ValueError(
            "The steps on these rows gave parameters that are not finite: numbers in X "
            "are too large for the floating-point type of the data, or steps are too "
            "long. The estimator is unchanged; leave such rows out, pass float64 data, "
            "or lower the step size."
        )
    return attributes


def _copied(rows):
    """Rows and what is known of them, as arrays that no caller writes to."""
    copies = {}
    for name, x in {"X": rows.X, **rows.arrays}.items():
        if scipy.sparse.issparse(x):
            parts = (x.data.copy(), x.indices.copy(), x.indptr.copy())
            copies[name] = [*parts, list(x.shape)]
        else:
            copies[name] = x.copy()
    return copies


def _joined(copies, rows):
    """The first rows of a stream, as ``_copied`` keeps them, and those of a chunk."""
    known = {
        name: scipy.sparse.csr_matrix(tuple(x[:3]), shape=x[3])
        if isinstance(x, list)
        else x
        for name, x in copies.items()
    }
    parts = [MatrixRows(known.pop("X"), arrays=known), rows]
    # Rows that came without weights count once.
    arrays = {
        name: stacked([x.arrays.get(name, np.ones(x.n_total)) for x in parts])
        for name in known.keys() | rows.arrays.keys()
    }
    matrices = [x.X for x in parts]
    # Only dense rows can miss entries.
    if any(not scipy.sparse.issparse(x) and np.isnan(x).any() for x in matrices):
        matrices = [x.toarray() if scipy.sparse.issparse(x) else x for x in matrices]
    return MatrixRows(stacked(matrices), arrays=arrays)


def _starts_from_rows(estimator):
    """Whether components start from rows, and not at random or where they are told."""
    init = vars(estimator).get("init", "kmeans")
    return isinstance(init, str) and init != "random"


def _are_enough(rows):
    """Whether a stream's first rows are enough for a start."""
    if rows.n_total >= MAX_FIRST:
        return True
    distinct, _ = distinct_rows(rows.X)
    return len(distinct) >= N_FIRST


def input_scale(estimator, rows):
    """Factor by which these rows, and all later ones, are multiplied."""
    if not estimator._domain.is_counts:
        return 1.0
    scale = estimator.input_scale
    return 1 / rows.unit() if scale == "auto" else float(scale)


def started_module(estimator, rows, sizes, random_state, *, is_warm):
    """The module to train on the rows, on its device."""
    dtype, share = rows.dtype, rows.share
    if is_warm:
        check_what_is_kept(estimator)
        if any(a.dtype == np.float64 for a in estimator._parameters.values()):
            dtype = torch.float64
    device = resolve_device(estimator.device, dtype)
    if is_warm:
        module = load(estimator, dtype, device, maker=estimator)
        # The draws of a stream must not be the same for each of its chunks.
        seed = random_state.randint(2**31 - 1) + int(estimator.n_samples_seen_)
        module.seed(seed + share.rank)
        return module
    module = estimator._build(sizes).to(dtype)
    X, arrays = rows.sample(random_state)
    weights = arrays.pop("weight", None)
    if weights is None:
        weights = np.ones(X.shape[0])
    estimator._initialize(module, Start(X, weights, arrays, random_state))
    module.to(device)
    share.copy_first([*module.parameters(), *module.buffers()])
    module.refresh()
    module.seed(random_state.randint(2**31 - 1) + share.rank)
    return module


@contextlib.contextmanager
def unchanged_on_error(estimator):
    """Restore the attributes of the estimator after an error."""
    before = dict(vars(estimator))
    try:
        yield
    except Interrupted:
        raise
    except BaseException:
        # Callbacks are torn down later, by attributes that their own mixin stores here.
        for name in vars(estimator).keys() - before.keys():
            if not name.startswith(("_callback", "_skl")):
                delattr(estimator, name)
        vars(estimator).update(before)
        raise


def _quality(attributes):
    """Value by which restarts are compared: the validation score, or else the bound."""
    scores = attributes["history_"].get("validation_score")
    return attributes["lower_bound_"] if scores is None else max(scores)
