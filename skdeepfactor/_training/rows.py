"""The rows that a fit or an inference is for, of a matrix or a stream, in batches."""

import contextlib
import copy
import itertools
import math
import zlib
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch

from skdeepfactor._training.distributed import Share
from skdeepfactor.data import (
    ahead,
    chunks,
    compute_dtype,
    row_totals,
    stacked,
    to_tensor,
)

# The share of one process in data that no other has.
ALONE = Share()

# Rows of a stream, drawn at random, from which a fit starts.
INITIAL_ROWS = 20_000
# How many blocks are read ahead.
BLOCKS_AHEAD = 2


def _checksum(X, start=0):
    """A checksum of a matrix, after that of others."""
    arrays = (X.data, X.indices, X.indptr) if scipy.sparse.issparse(X) else (X,)
    for array in arrays:
        start = zlib.crc32(np.ascontiguousarray(array).view(np.uint8), start)
    return start


class Step(NamedTuple):
    """What a step is on: how many rows of all processes, and how often they count."""

    n_rows: int
    mean_weight: float = 1.0


class Rows(ABC):
    """The rows that a fit is for, or inference: all of them, and those of a process.

    Attributes
    ----------
    n_samples : int
        Number of rows of this process, which the table of local parameters has.
    n_visible : int
        Number of rows that this process can see: its shard, or all.
    n_total : int
        Number of rows of all processes.
    n_features : int
    dtype : torch.dtype
        What to compute in.
    share : Share
        Which rows are this process's.
    weights, own_weights : ndarray or None
        How often each row counts, of those visible here and of this process's, never
        0; None where all count once.
    total_weight : int or float
        Number of rows of all processes, each as often as it counts.
    n_splits : int
        By how much batches are smaller than they need be, where memory is short.
    """

    n_samples: int
    n_visible: int
    n_total: int
    n_features: int
    dtype: torch.dtype
    share: Share
    weights = None
    own_weights = None
    total_weight: float
    n_splits = 1

    @abstractmethod
    def totals(self):
        """The sum of each row that is visible here, float64, shape (n_visible,)."""

    @abstractmethod
    def digest(self):
        """A checksum of the data of this process, an int."""

    @abstractmethod
    def take(self, numbers):
        """The matrix of some rows of those that this process can see, in order."""

    @abstractmethod
    def split(self, numbers):
        """The rows but for some, and those."""

    @abstractmethod
    def weighted(self, weights):
        """The same rows, each as often as it counts; those that never do left out."""

    @abstractmethod
    def _pieces(self, batch_size, rng):
        """Yield (matrix, rows of it, numbers, step), and None at each end.

        ``rows`` is an array, which ``numbers`` then is, too; or None for all of the
        matrix, of which ``numbers`` is an array or a slice.
        """

    def parts(self, batch_size, rng, width, device, dtype=None):
        """Yield (batch, numbers of its rows, what the step is on), in parts.

        A part is small enough for arrays of ``width`` numbers a row to be worked on,
        and of the type of the model, where it has one that is not that of the data.
        After each step comes None. A step is on ``batch_size`` random rows, of all
        processes together, or on all rows, in order, if that is None.
        """
        dtype = dtype or self.dtype
        parts = self._parts(batch_size, rng, width, torch.device(device), dtype)
        return parts if torch.device(device).type == "cpu" else ahead(parts, 1)

    def _parts(self, batch_size, rng, width, device, dtype):
        for piece in self._pieces(batch_size, rng):
            if piece is None:
                yield None
                continue
            matrix, rows, numbers, step = piece
            for part in chunks(
                matrix, rows, width, device_type=device.type, n_splits=self.n_splits
            ):
                x = to_tensor(matrix, part, dtype=dtype, device=device)
                yield x, part if rows is not None else _cut(numbers, part), step

    def batches(self, width, device, dtype=None):
        """Yield (batch, numbers of its rows) of all rows of this process, in order."""
        parts = self.parts(None, None, width, device, dtype)
        with contextlib.closing(parts):
            for part in parts:
                if part is not None:
                    yield part[:2]

    def weights_digest(self):
        """A checksum of the weights of rows visible here, None if they have none."""
        return None if self.weights is None else _checksum(self.weights)

    def weights_of(self, numbers, device):
        """How often rows of this process count, float64, None where all do once."""
        if self.own_weights is None:
            return None
        return torch.from_numpy(self.own_weights[numbers]).to(device)

    def sample(self, random_state):
        """Rows to start from, as a matrix, and their weights, if they have some.

        All of them, or some drawn at random, whatever their weights.
        """
        share = self.share
        if share.is_sharded:
            # Each process draws from its own rows, and all must go on alike after it.
            seed = random_state.randint(2**31 - 1) + share.rank
            random_state = np.random.RandomState(seed)
        n_rows = self.n_visible
        n_drawn = self._n_initial // (share.n_processes if share.is_sharded else 1)
        numbers = np.arange(n_rows)
        if n_drawn < n_rows:
            numbers = np.sort(random_state.permutation(n_rows)[:n_drawn])
        part = self.take(numbers)
        weights = None if self.weights is None else self.weights[numbers]
        if not share.is_sharded:
            return part, weights
        parts, weights = zip(*share.gathered((part, weights)), strict=True)
        return stacked(parts), None if weights[0] is None else np.concatenate(weights)

    #: Number of rows that a fit starts from.
    _n_initial = INITIAL_ROWS

    def _set_size(self, n_visible, weights=None):
        """Tell what rows are visible here; ``join`` tells of the others'."""
        share = self.share
        self.n_visible = self.n_total = self.n_samples = n_visible
        self.weights = self.own_weights = weights
        self.total_weight = n_visible if weights is None else float(weights.sum())
        if share.divides:
            self.n_samples = len(range(share.rank, n_visible, share.n_processes))
            if weights is not None:
                self.own_weights = weights[share.rank :: share.n_processes]
        self._counts = [n_visible]
        self._levels = None

    def join(self):
        """Learn what rows the others have, where each has its own; all must call it."""
        if not self.share.is_sharded:
            return
        is_double = self.dtype == torch.float64
        known = self.n_visible, self.n_features, is_double, self.totals(), self.weights
        counts, widths, are_double, totals, weights = zip(
            *self.share.gathered(known), strict=True
        )
        if len(set(widths)) > 1:
            raise ValueError(
                f"The processes have rows of different width: {list(widths)} columns."
            )
        if any(are_double):
            self.dtype = torch.float64
        self._counts, self.n_total = list(counts), sum(counts)
        if self.n_total == 0:
            raise ValueError("No process has a row.")
        self.total_weight = self.n_total
        if any(own is not None for own in weights):
            # Where one process has weights, all have.
            pairs = zip(weights, counts, strict=True)
            weights = [np.ones(n) if own is None else own for own, n in pairs]
            self.weights = self.own_weights = weights[self.share.rank]
            weights = np.concatenate(weights)
            self.total_weight = float(weights.sum())
            self._levels = _levels(np.concatenate(totals), weights)
        else:
            self._levels = _levels(np.concatenate(totals))

    def total_levels(self):
        """Quantiles of the sums of all rows, in hundredths."""
        if self._levels is None:
            self._levels = _levels(self.totals(), self.weights)
        return self._levels

    @property
    def mean_weight(self):
        """How often a row counts on average."""
        return self.total_weight / self.n_total

    def _step(self, numbers=None, n_rows=None):
        """What a step is on that takes all rows, or those visible here by numbers.

        Where each process has its own, its rows stand for those of the others too.
        """
        if numbers is None:
            return Step(self.n_total, self.mean_weight)
        if self.weights is None or len(numbers) == 0:
            return Step(int(n_rows))
        return Step(int(n_rows), float(self.weights[numbers].mean()))

    def _cuts(self, batch_size):
        """Where this process's random order is cut into steps; rows of each step.

        Where each process has its own rows, all have as many steps, and each takes an
        even part of its rows in each, so that all rows count alike.
        """
        n_steps = math.ceil(self.n_total / batch_size)
        if not self.share.is_sharded:
            cuts = np.minimum(np.arange(n_steps + 1) * batch_size, self.n_visible)
            return cuts, np.diff(cuts)
        every = np.linspace(0, self._counts, n_steps + 1).astype(np.intp)
        return every[:, self.share.rank], np.diff(every.sum(axis=1))


def _levels(totals, weights=None):
    """Quantiles of totals, in hundredths, each as often there as it counts."""
    levels = np.linspace(0, 1, 101)
    if weights is None:
        return np.quantile(totals, levels)
    order = np.argsort(totals)
    ends = np.cumsum(weights[order])
    places = levels * max(ends[-1] - 1, 0)
    below = np.floor(places)

    def at(places):
        found = np.searchsorted(ends, places, side="right")
        return totals[order[np.minimum(found, len(order) - 1)]]

    lower = at(below)
    return lower + (places - below) * (at(below + 1) - lower)


def _cut(numbers, part):
    """Some of the numbers of rows, an array or a slice."""
    if isinstance(numbers, slice):
        return slice(numbers.start + part.start, numbers.start + part.stop)
    return numbers[part]


class MatrixRows(Rows):
    """The rows of a matrix in memory."""

    def __init__(self, X, share=ALONE, weights=None):
        self.X, self.share = X, share
        self.n_features = X.shape[1]
        self.dtype = compute_dtype(X)
        self._set_size(X.shape[0], weights)
        if not share.is_sharded:
            self._n_initial = self.n_total
        self.own = X[share.rank :: share.n_processes] if share.divides else X

    def totals(self):
        return row_totals(self.X)

    def digest(self):
        return _checksum(self.X)

    def take(self, numbers):
        return self.X if len(numbers) == self.X.shape[0] else self.X[numbers]

    def split(self, numbers):
        rest = np.setdiff1d(np.arange(self.X.shape[0]), numbers)
        return self.some(rest), self.some(numbers)

    def weighted(self, weights):
        rows = MatrixRows(self.X, self.share, weights)
        return rows if weights.all() else rows.some(np.flatnonzero(weights))

    def some(self, numbers):
        """Some of the rows, by an array of their numbers or a slice."""
        weights = None if self.weights is None else self.weights[numbers]
        return MatrixRows(self.X[numbers], self.share, weights)

    def _pieces(self, batch_size, rng):
        if batch_size is None:
            yield self.own, None, slice(0, self.n_samples), self._step()
            yield None
            return
        share = self.share
        order = rng.permutation(self.n_visible)
        cuts, sizes = self._cuts(batch_size)
        for (start, stop), size in zip(itertools.pairwise(cuts), sizes, strict=True):
            rows = order[start:stop]
            step = self._step(rows, size)
            if share.divides:
                rows = rows[share.own(rows)] // share.n_processes
            if len(rows) > 0:
                yield self.own, rows, rows, step
            yield None


class CheckedBlocks:
    """The blocks of a source, checked while those before them are worked on.

    Parameters
    ----------
    source : RowBlocks
    check : callable
        Gives a block back as an array or a canonical CSR matrix; ``check(block,
        is_first)``.

    Attributes
    ----------
    starts, sizes : dict
        Where each block starts, and its number of rows, once they are noted.
    """

    def __init__(self, source, check):
        self.source, self.check = source, check
        self.starts, self.sizes, self._are_known = {}, {}, False
        self.n_features = None

    def read(self, order=None):
        """Yield the number of each block and the block, checked."""
        checked = self._checked(self.source.blocks(order))
        with contextlib.closing(ahead(checked, BLOCKS_AHEAD)) as made:
            yield from made

    def note_sizes(self):
        """Read all blocks, each of which must be as it was from then on.

        Yields the number of each and the block.
        """
        start = 0
        for number, block in self.read():
            self.starts[number], self.sizes[number] = start, block.shape[0]
            start += block.shape[0]
            yield number, block
            self.n_features = block.shape[1]
        if start == 0:
            raise ValueError("The source has no rows.")
        self._are_known = True

    def _checked(self, blocks):
        n_blocks, start, n_features = 0, 0, self.n_features
        for number, block in blocks:
            n_blocks += 1
            shape, expected = getattr(block, "shape", ()), None
            if self._are_known:
                start = self.starts.get(number, 0)
                expected = self.sizes.get(number, 0)
            where = f"Block {number} of the source, which starts at row {start}"
            if len(shape) != 2:
                got = type(block).__name__
                raise ValueError(f"{where}, must be a matrix, got {got}.")
            if expected is not None and shape[0] != expected:
                raise ValueError(
                    f"{where}, has {shape[0]} rows, but had {expected} at first: a "
                    "source must give the same rows again."
                )
            if n_features is not None and shape[1] != n_features:
                raise ValueError(
                    f"{where}, has {shape[1]} columns, but those before have "
                    f"{n_features}."
                )
            if shape[0] > 0:
                yield number, self._check_block(block, where, start, n_features is None)
                n_features = shape[1]
            start += shape[0]
        if self._are_known and n_blocks < len(self.sizes):
            raise ValueError(
                f"The source gave {n_blocks} blocks, but {len(self.sizes)} at first: "
                "a source must give the same rows again."
            )

    def _check_block(self, block, where, start, is_first):
        try:
            return self.check(block, is_first)
        except ValueError as error:
            row = self._first_bad_row(block, is_first)
            at = where if row is None else f"{where}, has a bad row, {start + row}"
            raise ValueError(f"{at}: {error}") from error

    def _first_bad_row(self, block, is_first):
        """The place of the first row that fails by itself, None if none does."""

        def is_bad(start, stop):
            try:
                self.check(block[start:stop], is_first)
            except ValueError:
                return True
            return False

        low, high = 0, block.shape[0]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_bad(low, middle) else (middle, high)
        return low if is_bad(low, high) else None


class StreamedRows(Rows):
    """Rows that are read in blocks, again for each pass.

    Parameters
    ----------
    blocks : CheckedBlocks
    share : Share
    """

    def __init__(self, blocks, share=ALONE):
        self.blocks, self.share = blocks, share
        totals = []
        for _, block in blocks.note_sizes():
            if not totals:
                self.n_features, self.dtype = block.shape[1], compute_dtype(block)
            elif compute_dtype(block) == torch.float64:
                self.dtype = torch.float64
            totals.append(row_totals(block))
        self._weights = None
        self._totals = np.concatenate(totals)
        self._keep(np.arange(len(self._totals)))

    def _keep(self, rows):
        """Use some rows of the source only, by their sorted numbers in it."""
        self._kept = rows
        weights = None if self._weights is None else self._weights[rows]
        self._set_size(len(rows), weights)

    def totals(self):
        return self._totals[self._kept]

    def digest(self):
        checksum = 0
        for _, block in self.blocks.read():
            # Blocks are part of what is drawn from.
            size = np.array(block.shape[0])
            checksum = _checksum(size, _checksum(block, checksum))
        return checksum

    def take(self, numbers):
        parts = []
        for matrix, places in self._kept_blocks(None):
            inside = np.searchsorted(numbers, [places[0], places[-1] + 1])
            wanted = numbers[slice(*inside)]
            if len(wanted) > 0:
                parts.append(matrix[wanted - places[0]])
        return stacked(parts)

    def split(self, numbers):
        rest, some = copy.copy(self), copy.copy(self)
        rest._keep(np.delete(self._kept, numbers))
        some._keep(self._kept[numbers])
        return rest, some

    def weights_digest(self):
        # The data are all the source has, so that zeros are to be told too.
        return None if self._weights is None else _checksum(self._weights)

    def weighted(self, weights):
        rows = copy.copy(self)
        rows._weights = np.zeros(len(self._totals))
        rows._weights[self._kept] = weights
        rows._keep(self._kept[weights > 0])
        return rows

    def _kept_blocks(self, order):
        """Yield each block's rows that are kept, and their numbers among those kept."""
        for number, block in self.blocks.read(order):
            start = self.blocks.starts[number]
            bounds = np.searchsorted(self._kept, [start, start + block.shape[0]])
            rows = self._kept[slice(*bounds)] - start
            if len(rows) == 0:
                continue
            matrix = block if len(rows) == block.shape[0] else block[rows]
            yield matrix, np.arange(*bounds)

    def _pieces(self, batch_size, rng):
        if batch_size is None:
            for matrix, numbers in self._kept_blocks(None):
                yield from self._own(matrix, numbers, self._step())
            yield None
            return
        cuts, sizes = self._cuts(batch_size)
        for (matrix, numbers), size in zip(
            self._batches(np.diff(cuts), rng), sizes, strict=True
        ):
            yield from self._own(matrix, numbers, self._step(numbers, size))
            yield None

    def _own(self, matrix, numbers, step):
        """The piece of a step that is this process's, if there is one."""
        if self.share.divides and len(numbers) > 0:
            is_own = self.share.own(numbers)
            matrix, numbers = matrix[is_own], numbers[is_own] // self.share.n_processes
        if len(numbers) > 0:
            yield matrix, None, numbers, step

    def _batches(self, sizes, rng):
        """Yield random rows of the blocks, so many at a time, and their numbers.

        Blocks are in random order, if they can be, and so are the rows of each; what is
        left of one goes with the next.
        """
        blocks = self._shuffled(rng)
        matrix, numbers, start = None, np.empty(0, dtype=np.intp), 0
        for size in sizes:
            matrices, places, n_missing = [], [], int(size)
            while n_missing > 0:
                if start == len(numbers):
                    matrix, numbers = next(blocks)
                    start = 0
                stop = min(start + n_missing, len(numbers))
                matrices.append(matrix[start:stop])
                places.append(numbers[start:stop])
                n_missing -= stop - start
                start = stop
            if places:
                yield stacked(matrices), np.concatenate(places)
            else:
                yield None, np.empty(0, dtype=np.intp)
        # To its end, so that what is wrong with it is seen.
        for _ in blocks:
            pass

    def _shuffled(self, rng):
        """Yield the rows of each block that are kept, shuffled, and their numbers."""
        order = rng.permutation(sorted(self.blocks.sizes))
        for matrix, numbers in self._kept_blocks(order):
            shuffled = rng.permutation(len(numbers))
            yield matrix[shuffled], numbers[shuffled]
