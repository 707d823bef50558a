"""Extrapolated steps on all rows, which are taken back if the bound falls."""

import math

import torch

from skdeepfactor._math.ops import scaled
from skdeepfactor._training.memory import Snapshot

# Relative fall of the bound for which an extrapolation is taken back, and how far one
# may move a logarithm.
MAX_FALL, MAX_MOVE = 1e-6, 10.0

# How many numbers may be extrapolated: a dozen copies of them are held for it.
MAX_EXTRAPOLATED = 2**22


class Anderson:
    """Extrapolation of a fixed-point iteration from its last steps.

    Among combinations of the last ``depth`` + 1 steps with coefficients that sum to 1,
    the one of least weighted length predicts where the iteration is going. The
    iteration continues from the same combination of the points that the steps led to.
    Walker and Ni (2011), Anderson acceleration for fixed-point iterations.

    If processes have parts of the points, ``add_up`` replaces tensors by their sums
    over them.
    """

    def __init__(self, depth, add_up=None):
        self.depth, self.table, self.add_up = depth, None, add_up
        self.forget()

    def forget(self):
        """Restart without earlier steps."""
        self.last, self.n_changes = None, 0

    def state_dict(self):
        """The earlier steps."""
        state = {"n_changes": self.n_changes}
        if self.last is not None:
            state["after"], state["step"] = self.last
        if self.table is not None:
            state["table"] = self.table
        return state

    def load_state_dict(self, state):
        """Restore the earlier steps from a state."""
        arrays = {
            name: torch.as_tensor(state[name])
            for name in ("after", "step", "table")
            if name in state
        }
        self.n_changes, self.table = state["n_changes"], arrays.get("table")
        self.last = (arrays["after"], arrays["step"]) if "step" in arrays else None

    def __call__(self, before, after, weights):
        """Point to continue from after a step, given one-dimensional tensors."""
        step = after - before
        if self.table is None:
            self.table = after.new_empty(2, self.depth, len(after))
        if self.last is not None:
            place = self.n_changes % self.depth
            for row, new, old in zip(
                self.table[:, place], (after, step), self.last, strict=True
            ):
                torch.sub(new, old, out=row)
            self.n_changes += 1
        self.last = after, step
        if self.n_changes == 0:
            return after
        images, steps = self.table[:, : self.n_changes]
        weighted = steps * weights
        products = (weighted @ steps.T).double()
        target = (weighted @ step).double()
        if self.add_up is not None:
            self.add_up([products, target])
        # Steps that are almost parallel would take factors far beyond their meaning;
        # those that do not change say nothing.
        smallest = torch.finfo(products.dtype).tiny
        products.diagonal().add_(1e-8 * products.diagonal().max() + smallest)
        factors = torch.linalg.solve(products, target)
        return after - factors.to(after) @ images


class Guard:
    """Extrapolation of steps on all rows that never keeps a lower bound.

    Each step starts from an extrapolation of the previous ones. If that makes the bound
    fall, the step is taken back and the previous ones are forgotten.

    Parameters
    ----------
    module : FactorModule
    memory : Memory
    rows : Rows
    positions : callable
        What is extrapolated: from the table of local parameters of all rows, pairs of
        tensors of one shape, positive numbers, to be written to, and how much a change
        in the logarithm of each counts.
    depth : int
        From how many earlier steps each is extrapolated; 0 for no extrapolation.
    holds_rows : bool
        Whether the local parameters of rows are copied, and not the module's alone; see
        ``has_room_for``. Without them nothing can be extrapolated.
    unread : sequence of str
        Names of parameters that a step on all rows replaces, unread: they need no
        copies.
    """

    @staticmethod
    def has_room_for(n_numbers):
        """Whether there is memory to copy so many numbers a dozen times."""
        return n_numbers <= MAX_EXTRAPOLATED

    def __init__(
        self, module, memory, rows, *, positions, depth, holds_rows, unread=()
    ):
        self.module, self.share, self.positions = module, rows.share, positions
        self.table, self.holds_rows = memory.table, holds_rows
        self.memory = memory if holds_rows else None
        self.weights = rows.weights_of(slice(None), memory.table.device)
        self.anderson = Anderson(depth, self.share.add_up)
        # Where this pass began, where the best one did, and the last step as it was.
        names = ("start", "best", "plain") if self.anderson.depth else ("start", "best")
        self.copies = {name: Snapshot(module, self.memory, unread) for name in names}
        self.bound = self.best_bound = -math.inf
        self.is_ahead = False

    @property
    def best(self):
        """State at the beginning of the best pass."""
        return self.copies["best"]

    def begin(self):
        """Note the state at the beginning of a pass."""
        self.copies["start"].renew(self.module, self.memory)
        if self.anderson.depth:
            self.before, _ = self._positions()

    @torch.no_grad()
    def end(self, bound):
        """Extrapolate, or go back, depending on the bound of the pass."""
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
        """Take back unconfirmed steps; return whether remembered rows still fit.

        Afterwards only its best state may be used.
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
        """State of the extrapolation, for checkpoints."""
        return {
            **{name: copy.state_dict() for name, copy in self.copies.items()},
            "anderson": self.anderson.state_dict(),
            "bound": self.bound,
            "best_bound": self.best_bound,
            "is_ahead": self.is_ahead,
        }

    def load_state_dict(self, state):
        """Restore a state of the extrapolation."""
        for name, snapshot in self.copies.items():
            snapshot.load_state_dict(state[name])
        self.anderson.load_state_dict(state["anderson"])
        self.bound, self.best_bound = state["bound"], state["best_bound"]
        self.is_ahead = state["is_ahead"]

    def _positions(self):
        """Logarithms of all extrapolated values, and their weights, as vectors."""
        pairs = self.positions(self.table)
        logarithms = torch.cat([values.log().flatten() for values, _ in pairs])
        return logarithms, torch.cat([self._counted(*pair) for pair in pairs])

    def _counted(self, values, weights):
        """Weights by which values that all processes have count once in their sum.

        Rows count by their own weights.
        """
        storages = (x.untyped_storage().data_ptr() for x in (values, self.table))
        is_own = len(set(storages)) == 1
        n_times = 1 if is_own else self.share.n_processes
        if is_own:
            weights = scaled(weights, self.weights)
        return weights.flatten() / n_times

    def _move(self, logarithms):
        """Write positions, given their logarithms."""
        pairs = self.positions(self.table)
        parts = logarithms.exp().split([values.numel() for values, _ in pairs])
        for (values, _), part in zip(pairs, parts, strict=True):
            values.copy_(part.view_as(values))
        self.module.refresh()
