"""How a module is to be trained: what a fit has to spend, and what it does with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """What a fit, or a stream, has to spend.

    Attributes
    ----------
    n_passes : int or None
        Passes over the rows, at most; None in a stream, which nobody knows the end of.
    n_updates : int or None
        Steps in all these passes; None in a stream.
    batch_size : int or None
        Rows in a step; None for all rows.
    n_rows : int
        Rows of the process that has most; 0 in a stream, which is not held.
    """

    n_passes: int | None = None
    n_updates: int | None = None
    batch_size: int | None = None
    n_rows: int = 0

    @property
    def is_stochastic(self):
        """Whether a step sees only some of the rows."""
        return self.n_passes is None or self.batch_size is not None


@dataclass(frozen=True)
class TrainingPlan:
    """How a module is trained.

    Attributes
    ----------
    optimizer : object
        Has the methods of a ``torch.optim.Optimizer`` that training uses: ``step``,
        ``zero_grad``, ``state_dict``, ``load_state_dict``; and says in ``has_moments``
        whether its state is as large as the parameters, and not worth keeping.
    ascends : bool
        Whether steps on all rows raise the bound, so that one without gain is the last.
    n_cold : int
        The first passes in which each row's inference starts anew. The bound may fall
        in them, which does not end training.
    n_warmup : int
        Passes until the objective is what it will be, and stochastic steps are small
        enough for the bound to tell whether training is done. Neither the bound nor
        rows held out end training by what they were in these passes.
    remembers : bool
        Whether what the module gives back of rows is kept from pass to pass.
    guard : callable or None
        Makes, from ``(module, memory, rows)``, what extrapolates steps on all rows and
        takes them back where the bound falls; None for no such thing.
    """

    optimizer: Any
    ascends: bool = False
    n_cold: int = 1
    n_warmup: int = 0
    remembers: bool = True
    guard: Callable | None = None
