"""The one loop that trains every model."""

import copy
import math
import time
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from skdeepfactor.conjugate import Anderson
from skdeepfactor.data import chunks, to_tensor

# Relative fall of the bound for which an extrapolation is taken back, and how far one
# may move a logarithm.
MAX_FALL, MAX_MOVE = 1e-6, 10.0


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
        self.n_steps = 0

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


def train_step(module, optimizer, X, rows, *, n_samples, device, memory=None):
    """One step on the given rows of ``X``; the sum of their bounds before it.

    ``memory`` is the table of local parameters of the rows of ``X``, read and written
    where ``memory.is_warm``.
    """
    n_rows = X.shape[0] if rows is None else len(rows)
    dtype = next(module.parameters()).dtype
    bound = 0.0
    for part in chunks(X, rows, module.work_width):
        x = to_tensor(X, part, dtype=dtype, device=device)
        start = None if memory is None else memory.recall(part)
        bounds, local = module.backward(x, 1 / n_rows, n_samples, start)
        bound += bounds.sum().item()
        if memory is not None:
            memory.keep(part, local)
    optimizer.step()
    optimizer.zero_grad()
    module.after_step()
    return bound


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


class Checkpoint:
    """A copy of a module's state, and of the table of local parameters if given."""

    def __init__(self, module, memory=None):
        self.state = copy.deepcopy(module.state_dict())
        self.table = None if memory is None else memory.table.clone()

    def renew(self, module, memory):
        """Copy what there is now; to the same place, which saves time."""
        for name, value in module.state_dict().items():
            self.state[name].copy_(value)
        self.table.copy_(memory.table)

    def restore(self, module, memory=None):
        """Go back to it."""
        module.load_state_dict(self.state)
        if memory is not None:
            memory.table.copy_(self.table)
        module.refresh()


class Guard:
    """Steps on all rows that may lower the bound: extrapolated, but never for worse.

    Each step goes on from an extrapolation of those before it. Where the bound falls
    for that, it is taken back, and they are forgotten.
    """

    def __init__(self, module, memory):
        self.module, self.memory = module, memory
        self.anderson = Anderson(module.acceleration)
        # Where this pass began, where the best one did, and the last step as it was.
        self.start, self.best, self.plain = (
            Checkpoint(module, memory) for _ in range(3)
        )
        self.bound = self.best_bound = -math.inf
        self.is_ahead = False

    def begin(self):
        """Note where a pass begins, and give it back."""
        self.start.renew(self.module, self.memory)
        if self.anderson.depth:
            self.before, _ = self._positions()
        return self.start

    @torch.no_grad()
    def end(self, bound):
        """Go on from further ahead, or, by the bound of the pass, from further back."""
        has_fallen = self.best_bound - bound > MAX_FALL * abs(self.best_bound)
        if bound > self.best_bound:
            self.best_bound = bound
            self.start, self.best = self.best, self.start
        self.bound = bound
        if has_fallen and self.is_ahead:
            self.plain.restore(self.module, self.memory)
            self.is_ahead = False
            self.anderson.forget()
        elif self.anderson.depth:
            self.plain.renew(self.module, self.memory)
            self.is_ahead = True
            after, weights = self._positions()
            found = self.anderson(self.before, after, weights)
            self._move(after + (found - after).clamp_(-MAX_MOVE, MAX_MOVE))

    def settle(self):
        """Take back what no pass has found good."""
        if self.bound < self.best_bound:
            self.best.restore(self.module, self.memory)
        elif self.is_ahead:
            self.plain.restore(self.module, self.memory)

    def _positions(self):
        """Logarithms of all that is extrapolated, and their weights, as vectors."""
        pairs = self.module.positions(self.memory.table)
        logarithms = torch.cat([values.log().flatten() for values, _ in pairs])
        return logarithms, torch.cat([weights.flatten() for _, weights in pairs])

    def _move(self, logarithms):
        """Write positions, given their logarithms."""
        pairs = self.module.positions(self.memory.table)
        parts = logarithms.exp().split([values.numel() for values, _ in pairs])
        for (values, _), part in zip(pairs, parts, strict=True):
            values.copy_(part.view_as(values))
        self.module.refresh()


def train(
    module,
    X,
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
):
    """Train ``module`` on the rows of ``X`` until the bound, or patience, runs out.

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
    returning True.

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

    Raises
    ------
    ValueError
        If the bound is not finite after the first pass.
    """
    n_samples = X.shape[0]
    dtype = next(module.parameters()).dtype
    is_full = batch_size is None or batch_size >= n_samples
    is_ascent = is_ascent and is_full
    memory = None
    if module.local_width:
        memory = Memory(n_samples, module.local_width, dtype=dtype, device=device)
    guard = None
    if module.is_guarded and is_full and not is_ascent:
        guard = Guard(module, memory)
    history = {"lower_bound": [], "seconds": []}
    if validate is not None:
        history["validation_score"] = []
    best, sound = None, None
    for n_passes in range(1, max_iter + 1):
        started = time.perf_counter()
        # Before the first rows are remembered, there is nothing to go back to.
        is_guarded = guard is not None and memory.is_warm
        if is_guarded:
            start = guard.begin()
        elif not is_ascent:
            start = Checkpoint(module)
        module.train()
        kl = global_kl(module)
        bound = 0.0
        for rows in _steps(n_samples, None if is_full else batch_size, rng):
            bound += train_step(
                module,
                optimizer,
                X,
                rows,
                n_samples=n_samples,
                device=device,
                memory=memory,
            )
        if memory is not None:
            memory.is_warm = n_passes >= n_cold
        if not is_full:
            # The rows of a pass saw parameters that moved; the last are the nearest.
            kl = global_kl(module)
        if not math.isfinite(bound - kl):
            if sound is None:
                raise ValueError(
                    "The lower bound is not finite after pass "
                    f"{n_passes}: the counts are too large, or the "
                    "priors too extreme, for the floating-point type of the data."
                )
            _warn_of_divergence(n_passes)
            best, memory = sound, None
            break
        if is_guarded:
            guard.end(bound - kl)
            sound = guard.best
        elif not is_ascent:
            sound = start
        history["lower_bound"].append(bound - kl)
        history["seconds"].append(time.perf_counter() - started)
        if validate is None:
            patience = 1 if is_ascent else n_iter_no_change
            is_done = n_passes > max(n_cold, n_warmup) and not _has_risen(
                history["lower_bound"], patience, tol
            )
        else:
            history["validation_score"].append(validate())
            scores = history["validation_score"]
            if scores[-1] == max(scores):
                best = Checkpoint(module)
            settled = scores[n_warmup:]
            is_done = bool(settled) and not _has_risen(settled, n_iter_no_change, 0.0)
        is_stopped = report is not None and report(history)
        if is_done or is_stopped:
            break
    if best is not None:
        best.restore(module)
    elif guard is not None:
        guard.settle()
    elif is_ascent:
        return history, history["lower_bound"][-1]
    lower_bound = _evaluate(module, X, memory, device)
    if not math.isfinite(lower_bound):
        _warn_of_divergence(len(history["lower_bound"]))
        sound.restore(module)
        lower_bound = _evaluate(module, X, None, device)
    return history, lower_bound


def _warn_of_divergence(n_passes):
    warnings.warn(
        f"The lower bound is not finite after pass {n_passes}; the parameters are "
        "those that the last finite bound was found with. Lower learning_rate, or "
        "pass float64 data.",
        ConvergenceWarning,
        stacklevel=3,
    )


def _steps(n_samples, batch_size, rng):
    """The rows of each step of a pass; None for all of them."""
    if batch_size is None:
        yield None
        return
    order = rng.permutation(n_samples)
    for start in range(0, n_samples, batch_size):
        yield order[start : start + batch_size]


def _has_risen(values, patience, tol):
    """Whether the last ``patience`` values beat all before them, by ``tol`` of it."""
    if len(values) <= patience:
        return True
    before = max(values[:-patience])
    return max(values[-patience:]) - before > tol * abs(before)


@torch.no_grad()
def _evaluate(module, X, memory, device):
    """The bound of all rows and of the global parameters, from what is remembered."""
    dtype = next(module.parameters()).dtype

    def batches():
        for rows in chunks(X, None, module.work_width):
            x = to_tensor(X, rows, dtype=dtype, device=device)
            yield x, None if memory is None else memory.recall(rows)

    return module.data_bound(batches)
