"""State of a run between passes: for rollback, for checkpoints and for its end."""

import copy
import math
import signal
import threading
import time
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from skdeepfactor._math.ops import scaled
from skdeepfactor._training.memory import Memory, Snapshot, copy_all
from skdeepfactor._training.optimizers import load_optimizer, optimizer_arrays


class Interrupted(KeyboardInterrupt):
    """Interrupt of training that leaves the module as after a complete pass."""

    def __init__(self, history, lower_bound):
        super().__init__(history, lower_bound)
        self.history, self.lower_bound = history, lower_bound


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
        """Raise an interrupt that was noted, and let later ones through."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None
        if self._is_due:
            self._is_due = False
            signal.raise_signal(signal.SIGINT)


class Run:
    """State of a run between passes, for checkpoints, rollback and its end.

    Passes that change parameters only at their end need no copy to go back to;
    interrupts are then held back from the first change on.

    Parameters
    ----------
    module : FactorModule
    rows : Rows
    plan : TrainingPlan
    budget : Budget
    rng : numpy.random.RandomState
        Draws the batches.
    validate : callable or None
        Scores the module on rows held out, by which passes are compared; None for none.
    is_exact : bool
        Whether the bound at the end is that of rows that have converged, even if none
        are held out.
    """

    def __init__(
        self, module, rows, plan, budget, rng, *, validate=None, is_exact=False
    ):
        self.module, self.rows, self.rng = module, rows, rng
        self.plan, self.budget, self.optimizer = plan, budget, plan.optimizer
        self.ascends = plan.ascends and not budget.is_stochastic
        self.validate, self.is_validated = validate, validate is not None
        self.is_exact = is_exact or self.is_validated
        like = next(module.parameters())
        self.memory = self.guard = None
        if module.local_width and plan.remembers:
            self.memory = Memory(
                rows.n_samples,
                module.local_width,
                dtype=like.dtype,
                device=like.device,
                takes_notes=module.takes_notes,
            )
        if plan.guard is not None and not budget.is_stochastic and not plan.ascends:
            self.guard = plan.guard(module, self.memory, rows)
        # A guard that holds no rows copies the parameters from the first pass on.
        self.is_lean = self.guard is not None and not self.guard.holds_rows
        self.history = {"lower_bound": [], "seconds": []}
        # Sum of the bounds of rows and mean of their asinh, of each pass.
        self.row_bounds = []
        if self.is_validated:
            self.history["validation_score"] = []
        # The best state by the rows held out; where the last sound pass began; where
        # this one did.
        self.best = self.sound = self.start = None
        # Where training began, and how good the module was there.
        self.beginning, self.first_quality = None, -math.inf
        # A step on all rows is all that a pass changes; but memory may run out in it.
        if not (self.ascends or self.is_lean) or like.device.type != "cpu":
            self.start = Snapshot(module)
        self.interrupts = Interrupts() if self.start is None else None
        self.is_done = self.is_diverged = self.is_begun = False
        # The local parameters that fit the module when all is over.
        self.local = None

    @property
    def n_whole(self):
        """Number of passes that have ended."""
        return len(self.history["lower_bound"])

    @property
    def is_over(self):
        """Whether no pass is to follow."""
        is_spent = self.n_whole >= self.budget.n_passes
        return self.is_done or self.is_diverged or is_spent

    def remember(self, local):
        """Start rows from the local parameters that an earlier run left."""
        if self.memory is not None and self.memory.table.shape == local.shape:
            self.memory.table.copy_(torch.as_tensor(local))
            self.memory.is_warm = True

    def note_beginning(self):
        """Note the state that training must not end below.

        Not where no step can fall, nor for a sampler, whose bounds come and go. Steps
        that ascend in general are compared where they resume rows, by the bound of
        rows as they are left: to infer them anew would take them further than any step.
        """
        is_warm = self.memory is not None and self.memory.is_warm
        may_fall = not self.ascends or (self.module.is_collapsed and is_warm)
        if self.plan.samples or not (may_fall or self.is_validated):
            return
        self.first_quality = self._quality()
        # Until rows are remembered, nothing is in their table.
        self.beginning = Snapshot(self.module, self.memory if is_warm else None)

    def _quality(self):
        """Score of rows held out, or else the bound."""
        return self.validate() if self.is_validated else self._bound()

    def _bound(self):
        """The bound of rows as they are remembered, or of rows that have converged."""
        if self.ascends and not self.is_validated:
            return bound_of_remembered(self.module, self.rows, self.memory)
        self.module.eval()
        return data_bound(self.module, self.rows, self.memory)

    def _go_back_to_beginning(self):
        is_warm = self.beginning.table is not None
        self.beginning.restore(self.module, self.memory if is_warm else None)
        if self.memory is not None:
            self.memory.is_warm = is_warm
        self.local = None

    # A pass.

    def begin(self):
        """Note the state at the beginning of a pass, to go back to."""
        self.is_begun, self.n_pass = False, self.n_whole + 1
        self._started = time.perf_counter()
        # Before the first rows are remembered, there is nothing to go back to.
        self._guards = self.guard is not None and (self.memory.is_warm or self.is_lean)
        if self._guards:
            self.guard.begin()
        if self.start is not None:
            self.start.renew(self.module)
        self._optimizer = copy.deepcopy(self.optimizer.state_dict())
        self._draws = self.rng.get_state()
        generator = self.module.generator
        self._generator = None if generator is None else generator.get_state()
        self.is_begun = True
        self.module.train()

    def end(self, bound, row_bounds):
        """Record the bound of the pass, and the score of the module after it."""
        if self.memory is not None:
            self.memory.is_warm |= self.n_pass >= self.plan.n_cold
        if not math.isfinite(bound):
            self.is_diverged = True
            return
        if self._guards:
            self.guard.end(bound)
        if self.is_validated:
            scores = self.history["validation_score"]
            scores.append(self.validate())
            if scores[-1] == max(scores):
                self.best = Snapshot(self.module)
        self.history["seconds"].append(time.perf_counter() - self._started)
        self.row_bounds.append(row_bounds)
        self.history["lower_bound"].append(bound)
        self.let_interrupts_through()
        if not (self.ascends or self.is_lean):
            self._keep_as_sound()

    def let_interrupts_through(self):
        """Raise the interrupts that were held back."""
        if self.interrupts is not None:
            self.interrupts.let_through()

    def go_back(self):
        """Go back to the beginning of the pass."""
        self.optimizer.zero_grad()
        self.optimizer.load_state_dict(self._optimizer)
        if self.start is not None:
            self.start.restore(self.module)
        self.rng.set_state(self._draws)
        if self._generator is not None:
            self.module.generator.set_state(self._generator)

    def settle(self):
        """After an interrupt in a pass, go back to the end of the last complete one."""
        if self.n_whole == 0:
            raise KeyboardInterrupt
        for values in (*self.history.values(), self.row_bounds):
            del values[self.n_whole :]
        if self.n_whole < self.n_pass and self.is_begun:
            if self._has_best_bound:
                self.guard.best.restore(self.module, self.guard.memory)
            else:
                self.go_back()

    def check_gain(self):
        """After an interrupt, raise a plain one if the module is worse than at first.

        The estimator then stays as it was. So it does after another interrupt, since to
        compare bounds takes as long as a pass. One of several processes does not
        compare: the others need not be there to add their rows.
        """
        if self.beginning is None or self.rows.share.n_processes > 1:
            return
        if self._quality() < self.first_quality:
            raise KeyboardInterrupt

    def _keep_as_sound(self):
        """Note that the pass, which began at ``start``, has a finite bound."""
        if self.sound is None:
            self.sound = Snapshot(self.module)
        self.sound, self.start = self.start, self.sound

    # The end.

    def finish(self):
        """Leave the module at its best state, and return the bound of all rows."""
        # Gradients are as large as the parameters.
        self.module.zero_grad()
        lower_bound = self._finish()
        if self.beginning is None:
            return lower_bound
        quality = lower_bound
        if self.is_validated:
            scores = self.history["validation_score"]
            quality = self.validate() if self.is_diverged else max(scores)
        if quality < self.first_quality:
            self._go_back_to_beginning()
            lower_bound = self._bound()
            if not self.is_validated:
                self._leave(self.memory)
        return lower_bound

    def _finish(self):
        memory, is_exact = self.memory, self.is_exact
        if self.is_diverged:
            self._go_back_to_sound(self.n_whole + 1)
            memory = None
        elif self.best is not None:
            self.best.restore(self.module)
        elif self.guard is not None:
            if not self.guard.settle():
                memory, is_exact = None, True
        elif self.ascends:
            lower_bound = bound_of_remembered(self.module, self.rows, memory)
            if not math.isfinite(lower_bound):
                self._go_back_to_sound(self.n_whole)
            self._leave(memory)
            return lower_bound
        # Remembered rows belong to other parameters than the best ones, so
        # that some rows are inferred to convergence.
        self.module.train(not is_exact)
        lower_bound = data_bound(self.module, self.rows, memory)
        if not math.isfinite(lower_bound):
            self._go_back_to_sound(self.n_whole)
            lower_bound = data_bound(self.module, self.rows, None)
        elif not self.is_validated:
            self._leave(memory)
        return lower_bound

    def _leave(self, memory):
        if memory is not None and memory.is_warm:
            self.local = memory.table.cpu().numpy()

    @property
    def _has_best_bound(self):
        return self.guard is not None and self.guard.best_bound > -math.inf

    def _go_back_to_sound(self, n_passes):
        """Go back to the beginning of the last pass with a finite bound."""
        sound = self.guard.best if self._has_best_bound else self.sound
        if sound is None:
            raise ValueError(
                f"The lower bound is not finite after pass {n_passes}: the counts are "
                "too large, or the priors too extreme, for the floating-point type of "
                "the data."
            )
        warnings.warn(
            f"The lower bound is not finite after pass {n_passes}; the parameters are "
            "those that the last finite bound was found with. Lower learning_rate, or "
            "pass float64 data.",
            ConvergenceWarning,
            stacklevel=5,
        )
        sound.restore(self.module)

    # Checkpoints.

    def state_dict(self):
        """Complete state, as a nested dict."""
        kind, keys, position, has_gauss, gauss = self.rng.get_state()
        state = {
            "module": self.module.state_dict(),
            "optimizer": optimizer_arrays(self.optimizer),
            "history": self.history,
            "row_bounds": self.row_bounds,
            "rng": {"keys": keys, "rest": [kind, position, has_gauss, gauss]},
            "is_done": self.is_done,
        }
        if self.memory is not None:
            state["memory"] = self.memory.state_dict()
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
        """Resume from the state of another run."""
        copy_all(self.module.state_dict(), state["module"])
        self.module.refresh()
        load_optimizer(self.optimizer, state.get("optimizer", {}))
        self.history, self.row_bounds = state["history"], state["row_bounds"]
        kind, position, has_gauss, gauss = state["rng"]["rest"]
        self.rng.set_state((kind, state["rng"]["keys"], position, has_gauss, gauss))
        self.is_done = state["is_done"]
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
        for name in ("best", "sound"):
            if name in state:
                snapshot = Snapshot(self.module)
                snapshot.load_state_dict(state[name])
                setattr(self, name, snapshot)
        if "generator" in state:
            self.module.generator.set_state(torch.as_tensor(state["generator"]))


@torch.no_grad()
def data_bound(module, rows, memory):
    """Bound of all rows and of the global parameters, from remembered rows."""

    def batches():
        for batch, numbers in rows.batches(module.wanted()):
            yield batch, None if memory is None else memory.recall(numbers)

    bound = module.data_bound(batches)
    if rows.share.n_processes == 1:
        return bound
    # Each process has taken off the divergence of the global parameters.
    kl = float(module.global_kl())
    return sum(rows.share.gathered(bound + kl)) - kl


@torch.no_grad()
def bound_of_remembered(module, rows, memory):
    """Bound of the module's parameters, with all rows exactly as remembered.

    Modules without a table of rows find theirs at once.
    """
    bound = 0.0
    for batch, numbers in rows.batches(module.wanted()):
        q = None
        if memory is not None:
            q = module.recalled(batch, memory.kept(numbers))
        bound += scaled(module.elbo(batch, q), batch.weight).sum().item()
    return sum(rows.share.gathered(bound)) - float(module.global_kl())
