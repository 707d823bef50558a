"""Several processes as one: the only user of ``torch.distributed``.

A fit is shared among processes that have joined a group
(``torch.distributed.init_process_group``) before. Without a group there is one process,
and every function here returns its input. Every process must call ``fit``, and with the
same parameters.
"""

import contextlib
import contextvars
from dataclasses import dataclass

import torch
import torch.distributed


@dataclass(frozen=True)
class Share:
    """The rows that belong to this process.

    With the same data everywhere, row i belongs to process i modulo their number, so
    that what is remembered of a row never moves. If the data are sharded, each process
    has rows of its own.
    """

    rank: int = 0
    n_processes: int = 1
    is_sharded: bool = False

    @property
    def divides(self):
        """Whether all processes see the same rows, and each takes some."""
        return self.n_processes > 1 and not self.is_sharded

    def own(self, numbers):
        """Mask of the rows, among some of all, that belong to this process."""
        return numbers % self.n_processes == self.rank

    def gathered(self, value):
        """Values of all processes, as a list in their order."""
        if self.n_processes == 1:
            return [value]
        values = [None] * self.n_processes
        torch.distributed.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def add_up(self, tensors):
        """Replace tensors of one device by their sums over the processes.

        All of a type go through one call, since each waits for the slowest process.
        """
        if self.n_processes == 1:
            return
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in same])
            torch.distributed.all_reduce(flat)
            sizes = [tensor.numel() for tensor in same]
            for tensor, part in zip(same, flat.split(sizes), strict=True):
                tensor.copy_(part.view_as(tensor))

    @torch.no_grad()
    def copy_first(self, tensors):
        """Replace tensors by those of the first process."""
        if self.n_processes > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    @contextlib.contextmanager
    def agreement(self):
        """Raise on all processes what one of them raises in this context."""
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        told = None if failure is None else f"{type(failure).__name__}: {failure}"
        everyone = self.gathered(told)
        if failure is not None:
            raise failure
        for rank, other in enumerate(everyone):
            if other is not None:
                raise RuntimeError(f"Process {rank} of the group failed: {other}")


_is_alone = contextvars.ContextVar("_is_alone", default=False)


@contextlib.contextmanager
def alone():
    """Treat this process as if it had no group, for fits of its own."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


def current_share(is_sharded=False):
    """The share of this process in the group that it has joined, if any."""
    group = torch.distributed
    if _is_alone.get() or not (group.is_available() and group.is_initialized()):
        return Share()
    return Share(group.get_rank(), group.get_world_size(), is_sharded)
