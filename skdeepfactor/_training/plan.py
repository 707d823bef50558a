"""Plans of training: the budget of a fit, and how it is used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """Budget of passes and updates of a fit or a stream.

    Attributes
    ----------
    n_passes : int or None
        Largest number of passes over the rows; None in a stream, whose end is unknown.
    n_updates : int or None
        Steps in all these passes; None in a stream.
    batch_size : int or None
        Rows in a step; None for all rows.
    n_rows : int
        Largest number of rows of a process; 0 in a stream, whose rows are not kept.
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
        Whether steps on all rows raise the bound, so that a step without gain ends
        training.
    samples : bool
        Whether steps draw from the posterior, so that a lower bound is no loss.
    n_cold : int
        Number of first passes in which the inference of rows starts anew. The bound may
        fall in them, which does not end training.
    n_warmup : int
        Number of passes until the objective is final and stochastic steps are small
        enough for the bound to show whether training is done; none of them ends
        training.
    remembers : bool
        Whether local parameters of rows are kept from pass to pass.
    guard : callable or None
        Makes a guard from ``(module, memory, rows)``, which extrapolates steps on all
        rows and takes them back if the bound falls; None for no guard.
    """

    optimizer: Any
    ascends: bool = False
    samples: bool = False
    n_cold: int = 1
    n_warmup: int = 0
    remembers: bool = True
    guard: Callable | None = None
