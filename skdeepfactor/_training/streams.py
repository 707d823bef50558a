"""Rows that are read in blocks, again for each pass, and checked as they come."""

import contextlib
import copy

import numpy as np
import scipy.sparse
import torch

from skdeepfactor._math.batch import compute_dtype
from skdeepfactor._training.rows import (
    ALONE,
    Rows,
    _checksum,
    ahead,
    nonzeros_of,
    row_totals,
)
from skdeepfactor.data import stacked

# How many blocks are read ahead.
BLOCKS_AHEAD = 2


class CheckedBlocks:
    """Blocks of a source, checked while earlier ones are processed.

    Parameters
    ----------
    source : RowBlocks
    check : callable
        Gives a block back as an array or a canonical CSR matrix; ``check(block,
        is_first)``.
    may_be_empty : bool, default=False
        Whether the source may have no rows.

    Attributes
    ----------
    starts, sizes : dict
        Where each block starts, and its number of rows, once they are noted.
    n_features : int or None
        Number of columns, once it is known.
    """

    def __init__(self, source, check, *, may_be_empty=False):
        self.source, self.check, self.may_be_empty = source, check, may_be_empty
        self.starts, self.sizes, self._are_known = {}, {}, False
        self.n_features = None

    def read(self, order=None):
        """Yield the number of each block and the block, checked."""
        checked = self._checked(self.source.blocks(order))
        with contextlib.closing(ahead(checked, BLOCKS_AHEAD)) as made:
            yield from made

    def note_sizes(self):
        """Read all blocks, and note their sizes, which must not change later.

        Yields the number of each and the block.
        """
        start = 0
        for number, block in self.read():
            self.starts[number], self.sizes[number] = start, block.shape[0]
            start += block.shape[0]
            yield number, block
            self.n_features = block.shape[1]
        if start == 0 and not self.may_be_empty:
            raise ValueError("The source has no rows.")
        self._are_known = True

    def take_width(self, n_features):
        """Check a source without rows as one of so many columns."""
        self.check(scipy.sparse.csr_matrix((0, n_features), dtype="f4"), True)
        self.n_features = n_features

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
        """Index of the first row that fails by itself, None if none does."""

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
        # Of a shard without rows; others say how wide it is.
        self.n_features, self.dtype = None, torch.float32
        self._first = np.zeros(0), np.zeros(0), True
        totals = [np.zeros(0)]
        for _, block in blocks.note_sizes():
            if self.n_features is None:
                self.n_features, self.dtype = block.shape[1], compute_dtype(block)
                self._first = nonzeros_of(block)
            elif compute_dtype(block) == torch.float64:
                self.dtype = torch.float64
            totals.append(row_totals(block))
        self._arrays, self._scale = {}, 1.0
        self._totals = np.concatenate(totals)
        self._keep(np.arange(len(self._totals)))

    def _keep(self, rows):
        """Use some rows of the source only, by their sorted numbers in it."""
        self._kept = rows
        arrays = {name: array[rows] for name, array in self._arrays.items()}
        self._set_size(len(rows), arrays)

    def agree_on_width(self):
        is_known = self.n_features is not None
        super().agree_on_width()
        if not is_known:
            self.blocks.take_width(self.n_features)

    def totals(self):
        return self._totals[self._kept]

    def digest(self):
        checksum = 0
        for _, block in self.blocks.read():
            # The division into blocks affects draws, so it belongs here.
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
        if not parts:
            return scipy.sparse.csr_matrix((0, self.n_features), dtype="f4")
        return stacked(parts)

    def split(self, numbers):
        rest, some = copy.copy(self), copy.copy(self)
        rest._keep(np.delete(self._kept, numbers))
        some._keep(self._kept[numbers])
        return rest, some

    def digests(self):
        # The data are all the source has, so that zeros are to be told too.
        return {name: _checksum(array) for name, array in self._arrays.items()}

    def knowing(self, **arrays):
        rows = copy.copy(self)
        rows._arrays = dict(self._arrays)
        for name, array in arrays.items():
            rows._arrays[name] = _spread(array, self._kept, len(self._totals))
        kept = self._kept
        if "weight" in rows._arrays:
            kept = kept[rows._arrays["weight"][kept] > 0]
        rows._keep(kept)
        return rows

    def scaled(self, scale):
        rows = copy.copy(self)
        rows._scale, rows._totals = scale * self._scale, scale * self._totals
        return rows

    def nonzeros(self):
        totals, counts, is_whole = self._first
        rows = self._kept[self._kept < len(totals)]
        return totals[rows], counts[rows], is_whole

    def _kept_blocks(self, order):
        """Yield each block's rows that are kept, and their numbers among those kept."""
        for number, block in self.blocks.read(order):
            start = self.blocks.starts[number]
            bounds = np.searchsorted(self._kept, [start, start + block.shape[0]])
            rows = self._kept[slice(*bounds)] - start
            if len(rows) == 0:
                continue
            matrix = block if len(rows) == block.shape[0] else block[rows]
            if self._scale != 1:
                matrix = matrix * self._scale
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
        """Piece of a step that belongs to this process, if any."""
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
        # Read to the end, so that its errors are raised.
        for _ in blocks:
            pass

    def _shuffled(self, rng):
        """Yield the rows of each block that are kept, shuffled, and their numbers."""
        order = rng.permutation(sorted(self.blocks.sizes))
        for matrix, numbers in self._kept_blocks(order):
            shuffled = rng.permutation(len(numbers))
            yield matrix[shuffled], numbers[shuffled]


def _spread(array, places, n_rows):
    """Array or CSR matrix with rows at their places among zeros."""
    if not scipy.sparse.issparse(array):
        whole = np.zeros((n_rows, *array.shape[1:]), array.dtype)
        whole[places] = array
        return whole
    lengths = np.zeros(n_rows, dtype=array.indptr.dtype)
    lengths[places] = np.diff(array.indptr)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(array.indptr.dtype)
    shape = (n_rows, array.shape[1])
    return scipy.sparse.csr_matrix((array.data, array.indices, starts), shape)
