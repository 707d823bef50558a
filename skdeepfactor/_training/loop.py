"""The one loop that trains every model."""

import contextlib
import copy
import math
import signal
import threading
import time
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from skdeepfactor._math.allocation import Anderson
from skdeepfactor._math.ops import scaled

# Relative fall of the bound for which an extrapolation is taken back, and how far one
# may move a logarithm.
MAX_FALL, MAX_MOVE = 1e-6, 10.0

# How many numbers may be extrapolated: a dozen copies of them are held for it.
MAX_EXTRAPOLATED = 2**22


class NaturalGradient:
    """Steps on expected statistics: p <- (1 - rate) p - rate p.grad.

    A natural parameter's gradient is itself minus its optimum; modules write minus the
    optimum to ``.grad``, and the rest is here, so that a full step is exact in floating
    point. The step size is (1 + learning_offset + t) ** -learning_decay at step t; a
    decay of 0 makes every step full, which is coordinate ascent on full batches.

    It has the methods of a ``torch.optim.Optimizer`` that training uses, but is not
    one: the first of those loads torch's compiler, which takes longer than many a fit.

    Hoffman, Blei, Wang and Paisley (2013), Stochastic variational inference.
    """

    def __init__(self, params, *, learning_offset=0.0, learning_decay=0.0):
        self.params = list(params)
        self.learning_offset = learning_offset
        self.learning_decay = learning_decay
        self.n_steps = torch.zeros(())

    @torch.no_grad()
    def step(self):
        """Take one step."""
        base = 1 + self.learning_offset + self.n_steps.item()
        rate = base**-self.learning_decay
        for p in self.params:
            p.mul_(1 - rate).add_(p.grad, alpha=-rate)
        self.n_steps += 1

    def zero_grad(self):
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def state_dict(self):
        """The number of steps, as an optimizer would give it."""
        return {"state": {0: {"n_steps": self.n_steps.clone()}}, "param_groups": []}

    def load_state_dict(self, state_dict):
        """Go on from the number of steps of another."""
        self.n_steps = state_dict["state"][0]["n_steps"].clone()


class AnnealedAdam:
    """Adam whose step size falls to 0 along a cosine over ``n_updates``, if given.

    Like ``NaturalGradient`` it has the methods of an optimizer that training uses.
    """

    def __init__(self, groups, n_updates=None):
        is_fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=is_fused)
        self.n_updates = n_updates
        self.rates = [group["lr"] for group in groups]
        self.n_steps = 0.0

    def step(self):
        """Take one step."""
        share = self.n_steps / self.n_updates if self.n_updates else 0.0
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.adam.step()
        self.n_steps += 1

    def zero_grad(self):
        """Forget the gradients."""
        self.adam.zero_grad()

    def state_dict(self):
        """The moments of the gradients."""
        return self.adam.state_dict()

    def load_state_dict(self, state_dict):
        """Go on from the moments of another."""
        self.adam.load_state_dict(state_dict)
        self.n_steps = 0.0
        for state in state_dict["state"].values():
            self.n_steps = float(state["step"])


class Interrupts:
    """Interrupts of the main thread, which may be held back for a while."""

    def __init__(self):
        self._handler, self._is_due = None, False

    def hold_back(self):
        """Note interrupts from now on, instead of raising them."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and callable(signal.getsignal(signal.SIGINT)):
            self._handler = signal.signal(signal.SIGINT, self._note)

    def _note(self, number, frame):
        self._is_due = True

    def let_through(self):
        """Raise what came meanwhile, and all that comes."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None
        if self._is_due:
            self._is_due = False
            signal.raise_signal(signal.SIGINT)


def train_pass(
    module,
    optimizer,
    rows,
    *,
    batch_size,
    rng,
    n_samples,
    device,
    memory=None,
    interrupts=None,
):
    """Steps on random batches of the rows, or one on all; the sum of their bounds.

    Each bound is that before its step, and of the rows of all processes. ``memory`` is
    the table of local parameters, read and written where ``memory.is_warm``;
    ``n_samples`` the number of rows that the model is of, or the sum of their weights:
    what rows say, and their bounds, count by these. ``interrupts`` are held back
    from the first change of the parameters on.
    """
    total = 0.0
    nothing = torch.zeros((), dtype=torch.float64, device=device)
    bound = nothing.clone()
    dtype = next(module.parameters()).dtype
    parts = rows.parts(batch_size, rng, module.work_width, device, dtype)
    with contextlib.closing(parts):
        for part in parts:
            if part is not None:
                x, numbers, step = part
                start = None if memory is None else memory.recall(numbers)
                weight, n_estimated = 1 / step.n_rows, n_samples
                weights = rows.weights_of(numbers, device)
                if weights is not None:
                    # Rows are drawn whatever they count: steps differ in what they say
                    # of the sum of all, as their weights do.
                    weight = weights * (weight / step.mean_weight)
                    n_estimated *= step.mean_weight / rows.mean_weight
                bounds, local = module.backward(x, weight, n_estimated, start)
                bound += scaled(bounds, 1.0 if weights is None else weights).sum()
                if memory is not None:
                    memory.keep(numbers, local)
                continue
            if rows.share.n_processes > 1:
                gradients = [module.gradient(p) for p in module.parameters()]
                rows.share.add_up([bound, *gradients])
            if interrupts is not None:
                interrupts.hold_back()
            optimizer.step()
            optimizer.zero_grad()
            module.after_step()
            total += bound.item()
            bound.copy_(nothing)
    return total


@torch.no_grad()
def global_kl(module):
    """The divergence of a module's global parameters, as a float."""
    return float(module.global_kl())


class Memory:
    """The table of local parameters, one row for each sample, for one run."""

    def __init__(self, n_samples, width, *, dtype, device):
        self.table = torch.empty(n_samples, width, dtype=dtype, device=device)
        self.is_warm = False

    def recall(self, rows):
        """What is remembered of the rows; None before the first pass has ended."""
        return self.table[self._index(rows)] if self.is_warm else None

    def keep(self, rows, local):
        """Remember local parameters of the rows."""
        self.table[self._index(rows)] = local

    def _index(self, rows):
        if isinstance(rows, slice):
            return rows
        return torch.from_numpy(rows).to(self.table.device)


class Snapshot:
    """A copy of a module's state, and of the table of local parameters if given.

    ``without`` names what is left out of the state.
    """

    def __init__(self, module, memory=None, without=()):
        state = module.state_dict().items()
        self.state = {name: x.clone() for name, x in state if name not in without}
        self.table = None if memory is None else memory.table.clone()

    def renew(self, module, memory=None):
        """Copy what there is now; to the same place, which saves time."""
        _copy_all(self.state, module.state_dict())
        if memory is not None:
            self.table.copy_(memory.table)

    def restore(self, module, memory=None):
        """Go back to it."""
        state = module.state_dict()
        _copy_all({name: state[name] for name in self.state}, self.state)
        if memory is not None:
            memory.table.copy_(self.table)
        module.refresh()

    def state_dict(self):
        """What it holds."""
        table = {} if self.table is None else {"table": self.table}
        return {"module": self.state, **table}

    def load_state_dict(self, state):
        """Hold what another held."""
        _copy_all(self.state, state["module"])
        if self.table is not None:
            self.table.copy_(torch.as_tensor(state["table"]))


def _copy_all(tensors, arrays):
    """Write arrays to the tensors of the same names."""
    for name, tensor in tensors.items():
        tensor.copy_(torch.as_tensor(arrays[name]))


class Guard:
    """Steps on all rows that may lower the bound: extrapolated, but never for worse.

    Each step goes on from an extrapolation of those before it. Where the bound falls
    for that, it is taken back, and they are forgotten. Large models are not
    extrapolated, and of them the parameters alone are kept, not the local ones of rows,
    which ``holds_rows`` tells.
    """

    def __init__(self, module, memory, rows):
        self.module, self.memory, self.share = module, memory, rows.share
        self.weights = rows.weights_of(slice(None), memory.table.device)
        sizes = (values.numel() for values, _ in module.positions(memory.table))
        self.holds_rows = max(self.share.gathered(sum(sizes))) <= MAX_EXTRAPOLATED
        if not self.holds_rows:
            module.acceleration, self.memory = 0, None
        self.anderson = Anderson(module.acceleration, self.share.add_up)
        # Where this pass began, where the best one did, and the last step as it was.
        names = ("start", "best", "plain") if self.anderson.depth else ("start", "best")
        self.copies = {
            name: Snapshot(module, self.memory, module.statistics) for name in names
        }
        self.bound = self.best_bound = -math.inf
        self.is_ahead = False

    @property
    def best(self):
        """Where the best pass began."""
        return self.copies["best"]

    def begin(self):
        """Note where a pass begins."""
        self.copies["start"].renew(self.module, self.memory)
        if self.anderson.depth:
            self.before, _ = self._positions()

    @torch.no_grad()
    def end(self, bound):
        """Go on from further ahead, or, by the bound of the pass, from further back."""
        has_fallen = self.best_bound - bound > MAX_FALL * abs(self.best_bound)
        if bound > self.best_bound:
            self.best_bound = bound
            copies = self.copies
            copies["start"], copies["best"] = copies["best"], copies["start"]
        self.bound = bound
        if has_fallen and self.is_ahead:
            self.copies["plain"].restore(self.module, self.memory)
            self.is_ahead = False
            self.anderson.forget()
        elif self.anderson.depth:
            self.copies["plain"].renew(self.module, self.memory)
            self.is_ahead = True
            after, weights = self._positions()
            found = self.anderson(self.before, after, weights)
            self._move(after + (found - after).clamp_(-MAX_MOVE, MAX_MOVE))

    def settle(self):
        """Take back what no pass has found good; whether remembered rows still fit.

        It is of no use afterwards but for its best state.
        """
        plain = self.copies.pop("plain", None)
        del self.copies["start"]
        if self.bound < self.best_bound:
            self.best.restore(self.module, self.memory)
            return self.holds_rows
        if self.is_ahead:
            plain.restore(self.module, self.memory)
        return True

    def state_dict(self):
        """What it has found so far."""
        return {
            **{name: copy.state_dict() for name, copy in self.copies.items()},
            "anderson": self.anderson.state_dict(),
            "bound": self.bound,
            "best_bound": self.best_bound,
            "is_ahead": self.is_ahead,
        }

    def load_state_dict(self, state):
        """Go on from what another found."""
        for name, snapshot in self.copies.items():
            snapshot.load_state_dict(state[name])
        self.anderson.load_state_dict(state["anderson"])
        self.bound, self.best_bound = state["bound"], state["best_bound"]
        self.is_ahead = state["is_ahead"]

    def _positions(self):
        """Logarithms of all that is extrapolated, and their weights, as vectors."""
        pairs = self.module.positions(self.memory.table)
        logarithms = torch.cat([values.log().flatten() for values, _ in pairs])
        return logarithms, torch.cat([self._counted(*pair) for pair in pairs])

    def _counted(self, values, weights):
        """Weights such that what all processes have counts once in their sum.

        And rows as often as they do.
        """
        storages = (x.untyped_storage().data_ptr() for x in (values, self.memory.table))
        is_own = len(set(storages)) == 1
        n_times = 1 if is_own else self.share.n_processes
        if is_own and self.weights is not None:
            weights = scaled(weights, self.weights)
        return weights.flatten() / n_times

    def _move(self, logarithms):
        """Write positions, given their logarithms."""
        pairs = self.module.positions(self.memory.table)
        parts = logarithms.exp().split([values.numel() for values, _ in pairs])
        for (values, _), part in zip(pairs, parts, strict=True):
            values.copy_(part.view_as(values))
        self.module.refresh()


class Run:
    """What training goes on from after a pass, so that it can be written to a file.

    Passes that change parameters only where they end need no copy to go back to.
    """

    def __init__(self, module, optimizer, rng, memory, guard, history, *, has_copy):
        self.module, self.optimizer, self.rng = module, optimizer, rng
        self.memory, self.guard, self.history = memory, guard, history
        # The best state by the rows held out; where the last sound pass began; where
        # this one did.
        self.best, self.sound, self.start = None, None, None
        if has_copy:
            self.start = Snapshot(module)
        self.is_done = False

    def begin(self):
        """Note where a pass begins, to go back to."""
        if self.start is not None:
            self.start.renew(self.module)
        self._optimizer = copy.deepcopy(self.optimizer.state_dict())
        self._draws = self.rng.get_state()
        generator = self.module.generator
        self._generator = None if generator is None else generator.get_state()

    def go_back(self):
        """Go back to where the pass began."""
        self.optimizer.zero_grad()
        self.optimizer.load_state_dict(self._optimizer)
        if self.start is not None:
            self.start.restore(self.module)
        self.rng.set_state(self._draws)
        if self._generator is not None:
            self.module.generator.set_state(self._generator)

    def settle(self, n_passes, is_begun):
        """After an interrupt in a pass, go back to where the last whole one ended."""
        n_whole = len(self.history["lower_bound"])
        if n_whole == 0:
            raise KeyboardInterrupt
        for values in self.history.values():
            del values[n_whole:]
        if n_whole == n_passes or not is_begun:
            return
        if self._is_guarded:
            self.guard.best.restore(self.module, self.guard.memory)
        else:
            self.go_back()

    @property
    def _is_guarded(self):
        return self.guard is not None and self.guard.best_bound > -math.inf

    def last_sound(self):
        """Where a pass with a finite bound began."""
        return self.guard.best if self._is_guarded else self.sound

    def keep_as_sound(self):
        """Note that the pass, which began at ``start``, has a finite bound."""
        if self.sound is None:
            self.sound = Snapshot(self.module)
        self.sound, self.start = self.start, self.sound

    def state_dict(self):
        """All of it, as a nested dict."""
        kind, keys, position, has_gauss, gauss = self.rng.get_state()
        state = {
            "module": self.module.state_dict(),
            "optimizer": optimizer_arrays(self.optimizer),
            "history": self.history,
            "rng": {"keys": keys, "rest": [kind, position, has_gauss, gauss]},
            "is_done": self.is_done,
        }
        if self.memory is not None:
            state["memory"] = {
                "table": self.memory.table,
                "is_warm": self.memory.is_warm,
            }
        if self.guard is not None:
            state["guard"] = self.guard.state_dict()
        for name in ("best", "sound"):
            snapshot = getattr(self, name)
            if snapshot is not None:
                state[name] = snapshot.state_dict()
        if self.module.generator is not None:
            state["generator"] = self.module.generator.get_state()
        return state

    def load_state_dict(self, state):
        """Go on from what another came to."""
        _copy_all(self.module.state_dict(), state["module"])
        self.module.refresh()
        load_optimizer(self.optimizer, state.get("optimizer", {}))
        self.history = state["history"]
        kind, position, has_gauss, gauss = state["rng"]["rest"]
        self.rng.set_state((kind, state["rng"]["keys"], position, has_gauss, gauss))
        self.is_done = state["is_done"]
        if self.memory is not None:
            self.memory.table.copy_(torch.as_tensor(state["memory"]["table"]))
            self.memory.is_warm = state["memory"]["is_warm"]
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
        for name in ("best", "sound"):
            if name in state:
                snapshot = Snapshot(self.module)
                snapshot.load_state_dict(state[name])
                setattr(self, name, snapshot)
        if "generator" in state:
            self.module.generator.set_state(torch.as_tensor(state["generator"]))


class Interrupted(KeyboardInterrupt):
    """An interrupt in training, after which the module is as a whole pass left it."""

    def __init__(self, history, lower_bound):
        super().__init__(history, lower_bound)
        self.history, self.lower_bound = history, lower_bound


def train(
    module,
    rows,
    *,
    optimizer,
    max_iter,
    tol,
    batch_size,
    device,
    rng,
    validate=None,
    n_iter_no_change=10,
    n_cold=1,
    n_warmup=0,
    is_ascent=True,
    report=None,
    checkpoint=None,
):
    """Train ``module`` on ``rows`` until the bound, or patience, runs out.

    A pass is one step on all rows if ``batch_size`` is None, else as many steps on
    random batches as it takes. Training ends when the bound's relative gain is below
    ``tol`` (over one pass where ``is_ascent`` says that full steps raise the bound, or
    over ``n_iter_no_change`` passes), but not in the first ``n_warmup`` passes. With
    ``validate``, a function without arguments that scores the module on rows held out,
    it ends when that has not risen for ``n_iter_no_change`` passes instead, and the
    module goes back to its best state; so does one that is ``is_guarded``, by the
    bound, after steps on all rows. The first ``n_cold`` passes
    infer the factors of each row anew; the bound may fall in them, and does not end
    training. ``report(history)`` is called after each pass, and ends training by
    returning True. ``checkpoint``, a ``CheckpointFile``, is gone on from if there is
    one, and written after passes.

    Returns
    -------
    history : dict of lists
        ``lower_bound``, ``seconds`` and, with ``validate``, ``validation_score`` of
        each pass. The bound of a pass is that of the factors it inferred, under the
        parameters it found them with.
    lower_bound : float
        The bound of all rows after the last pass, in nats.

    Warns
    -----
    ConvergenceWarning
        If the bound is no longer finite; the module then goes back to where the last
        pass with a finite bound began.
    RuntimeWarning
        If memory of the device ran out, and the pass is done again in smaller parts.

    Raises
    ------
    ValueError
        If the bound is not finite after the first pass.
    MemoryError
        If memory of the device runs out again.
    Interrupted
        For a ``KeyboardInterrupt`` after the first pass.
    """
    dtype = next(module.parameters()).dtype
    is_full = batch_size is None or batch_size >= rows.n_total
    is_ascent = is_ascent and is_full
    memory = None
    if module.local_width:
        width = module.local_width
        memory = Memory(rows.n_samples, width, dtype=dtype, device=device)
    guard = None
    if module.is_guarded and is_full and not is_ascent:
        guard = Guard(module, memory, rows)
    history = {"lower_bound": [], "seconds": []}
    if validate is not None:
        history["validation_score"] = []
    # A step on a full batch is all that a pass changes; but memory may run out in it.
    # A guard that holds no rows copies the parameters from the first pass on.
    is_lean = guard is not None and not guard.holds_rows
    has_copy = not (is_ascent or is_lean) or torch.device(device).type != "cpu"
    interrupts = None if has_copy else Interrupts()
    run = Run(module, optimizer, rng, memory, guard, history, has_copy=has_copy)
    if checkpoint is not None:
        state = _common_state(checkpoint, rows.share)
        if state is not None:
            run.load_state_dict(state)
            history = run.history
    is_diverged = False
    while len(history["lower_bound"]) < max_iter and not run.is_done:
        n_passes = len(history["lower_bound"]) + 1
        started = time.perf_counter()
        # Before the first rows are remembered, there is nothing to go back to.
        is_guarded = guard is not None and (memory.is_warm or is_lean)
        is_begun = False
        try:
            if is_guarded:
                guard.begin()
            run.begin()
            is_begun = True
            module.train()
            kl = global_kl(module)
            bound = train_pass(
                module,
                optimizer,
                rows,
                batch_size=None if is_full else batch_size,
                rng=rng,
                n_samples=rows.total_weight,
                device=device,
                memory=memory,
                interrupts=interrupts,
            )
            if memory is not None:
                memory.is_warm = n_passes >= n_cold
            if not is_full:
                # The rows of a pass saw parameters that moved; the last are the
                # nearest.
                kl = global_kl(module)
            if not math.isfinite(bound - kl):
                is_diverged = True
                break
            if is_guarded:
                guard.end(bound - kl)
            if validate is not None:
                scores = history["validation_score"]
                scores.append(validate())
                if scores[-1] == max(scores):
                    run.best = Snapshot(module)
            history["seconds"].append(time.perf_counter() - started)
            history["lower_bound"].append(bound - kl)
            if interrupts is not None:
                interrupts.let_through()
            if not (is_ascent or is_lean):
                run.keep_as_sound()
            if validate is None:
                patience = 1 if is_ascent else n_iter_no_change
                run.is_done = n_passes > max(n_cold, n_warmup) and not _has_risen(
                    history["lower_bound"], patience, tol
                )
            else:
                settled = scores[n_warmup:]
                run.is_done = bool(settled) and not _has_risen(
                    settled, n_iter_no_change, 0.0
                )
            if report is not None:
                run.is_done |= any(rows.share.gathered(bool(report(history))))
            if checkpoint is not None:
                is_due = rows.share.gathered(checkpoint.is_due(n_passes))[0]
                if is_due or run.is_done or n_passes == max_iter:
                    checkpoint.write(run.state_dict())
        except KeyboardInterrupt:
            run.settle(n_passes, is_begun)
            raise Interrupted(history, history["lower_bound"][-1]) from None
        except torch.OutOfMemoryError as error:
            _halve_parts(rows, error)
            run.go_back()
        finally:
            if interrupts is not None:
                interrupts.let_through()
    if is_diverged and run.last_sound() is None:
        raise _not_finite(n_passes)
    try:
        return history, _final_bound(
            run, rows, device, is_diverged, is_ascent, validate is not None
        )
    except KeyboardInterrupt:
        raise Interrupted(history, history["lower_bound"][-1]) from None


def _final_bound(run, rows, device, is_diverged, is_ascent, is_validated):
    """Leave the module at its best, and give the bound of all rows there."""
    module, memory, history = run.module, run.memory, run.history
    # Whether rows are inferred to convergence.
    is_exact = is_validated
    if is_diverged:
        _warn_of_divergence(len(history["lower_bound"]) + 1)
        run.last_sound().restore(module)
        memory = None
    elif run.best is not None:
        run.best.restore(module)
    elif run.guard is not None:
        if not run.guard.settle():
            memory, is_exact = None, True
    elif is_ascent:
        return history["lower_bound"][-1]
    # What is remembered of rows belongs to other parameters than the best ones.
    module.train(not is_exact)
    lower_bound = _evaluate(module, rows, memory, device)
    if not math.isfinite(lower_bound):
        n_passes = len(history["lower_bound"])
        if run.last_sound() is None:
            raise _not_finite(n_passes)
        _warn_of_divergence(n_passes)
        run.last_sound().restore(module)
        lower_bound = _evaluate(module, rows, None, device)
    return lower_bound


def _common_state(checkpoint, share):
    """The latest state that all processes have; None if none has any."""
    states = {}
    with share.agreement():
        for state in checkpoint.states():
            states[len(state["history"]["lower_bound"])] = state
    passes = share.gathered(sorted(states))
    common = set.intersection(*map(set, passes))
    if common:
        return states[max(common)]
    if any(passes):
        raise ValueError(
            f"The checkpoints of the processes are of different passes, {passes}: "
            "delete them all to start anew."
        )
    return None


def _not_finite(n_passes):
    return ValueError(
        f"The lower bound is not finite after pass {n_passes}: the counts are too "
        "large, or the priors too extreme, for the floating-point type of the data."
    )


def _warn_of_divergence(n_passes):
    warnings.warn(
        f"The lower bound is not finite after pass {n_passes}; the parameters are "
        "those that the last finite bound was found with. Lower learning_rate, or "
        "pass float64 data.",
        ConvergenceWarning,
        stacklevel=4,
    )


def _halve_parts(rows, error):
    """Work on half as many rows at once, where that was not tried before."""
    if rows.n_splits > 1 or rows.share.n_processes > 1:
        raise MemoryError(
            "The memory of the device does not hold the parameters and a batch; lower "
            "n_components or batch_size."
        ) from error
    warnings.warn(
        "The memory of the device ran out; the pass is done again with half as many "
        "rows at once.",
        RuntimeWarning,
        stacklevel=3,
    )
    rows.n_splits = 2


def _has_risen(values, patience, tol):
    """Whether the last ``patience`` values beat all before them, by ``tol`` of it."""
    if len(values) <= patience:
        return True
    before = max(values[:-patience])
    return max(values[-patience:]) - before > tol * abs(before)


@torch.no_grad()
def _evaluate(module, rows, memory, device):
    """The bound of all rows and of the global parameters, from what is remembered."""
    dtype = next(module.parameters()).dtype

    def batches():
        for x, numbers in rows.batches(module.work_width, device, dtype):
            weights = rows.weights_of(numbers, device)
            start = None if memory is None else memory.recall(numbers)
            yield x, start, 1.0 if weights is None else weights

    bound = module.data_bound(batches)
    if rows.share.n_processes == 1:
        return bound
    # Each process has taken off the divergence of the global parameters.
    kl = global_kl(module)
    return sum(rows.share.gathered(bound + kl)) - kl


def optimizer_arrays(optimizer):
    """The state of an optimizer as a flat dict of arrays."""
    return {
        f"{index}.{name}": value.detach().cpu().numpy().copy()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer, arrays):
    """Give an optimizer the state that ``optimizer_arrays`` took from one."""
    state = {}
    for key, array in arrays.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = torch.tensor(array)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
