"""Rows as tensors: their entries, and those that are missing."""

import copy
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch

from skdeepfactor._math.noise import row_keys
from skdeepfactor._math.ops import (
    csr,
    dense,
    halves,
    is_filled,
    map_values,
    missing,
    row_indices,
    row_sum,
    take_rows,
    without_zeros,
)


def compute_dtype(X):
    """The floating type to compute in: float64 for float64, float32 for the rest."""
    is_double = X.dtype.kind == "f" and X.dtype.itemsize >= 8
    return torch.float64 if is_double else torch.float32


def to_tensor(X, rows, *, dtype, device):
    """``X[rows]`` as a strided or a CSR tensor.

    ``X`` is an ndarray or a canonical SciPy CSR matrix; ``rows`` a slice of step 1 or
    an array of integers. The result never shares memory with ``X``.
    """
    if not scipy.sparse.issparse(X):
        # torch takes no read-only memory, and neither big-endian nor boolean numbers.
        values = np.array(X[rows], dtype=np.float64 if dtype == torch.float64 else "f4")
        return torch.from_numpy(values).to(device)
    if not isinstance(rows, slice):
        X, rows = X[rows], slice(None)
    # SciPy would copy a slice of rows once more, though its entries are adjacent.
    start, stop, _ = rows.indices(X.shape[0])
    starts = X.indptr[start : max(start, stop) + 1]
    entries = slice(starts[0], starts[-1])
    values = torch.from_numpy(X.data[entries].astype(np.float64)).to(device, dtype)
    crow = torch.from_numpy((starts - starts[0]).astype(np.int32)).to(device)
    columns = torch.from_numpy(X.indices[entries].astype(np.int32)).to(device)
    return csr(crow, columns, values, (len(starts) - 1, X.shape[1]))


class Wanted(NamedTuple):
    """How a module wants its batches.

    ``width`` is the number of values that a row takes while it is worked on,
    ``may_miss`` says whether NaN stands for missing entries, and ``side`` names further
    data of rows.
    """

    width: int
    device: torch.device | str = "cpu"
    dtype: torch.dtype | None = None
    may_miss: bool = False
    side: tuple = ()


class Batch:
    """Some rows, as a module gets them.

    Quantities that follow from the rows alone are computed once, on first use.

    Parameters
    ----------
    x : Tensor of shape (n_rows, n_features)
        Strided or CSR, with 0 where an entry is missing.
    observed : Tensor like ``x``, default=None
        1 where an entry is there, 0 where it is missing; None where none is missing.
    weight : float or Tensor of shape (n_rows,), default=1.0
        Factor of each row in sums over rows.
    side : dict of str to Tensor, default=None
        What else is known of each row, its rows in the order of those of ``x``.
    """

    def __init__(self, x, observed=None, weight=1.0, side=None):
        self.x, self.observed = x, observed
        self.weight, self.side = weight, side or {}

    @classmethod
    def of(cls, x, *, may_miss=False, **known):
        """A batch of rows; NaN stands for missing entries if ``may_miss``."""
        is_missing = missing(x) if may_miss else None
        if is_missing is None:
            return cls(x, **known)
        return cls(x.masked_fill(is_missing, 0), (~is_missing).to(x), **known)

    def __len__(self):
        return self.x.shape[0]

    @property
    def share(self):
        """Sum of the weights of the rows, or their share of a step."""
        weight = self.weight
        return weight.sum() if isinstance(weight, torch.Tensor) else weight * len(self)

    @cached_property
    def counts(self):
        """The rows as a CSR tensor that stores no zeros."""
        return without_zeros(self.x)

    @cached_property
    def is_filled(self):
        """Whether products at all places are faster than at the entries."""
        return is_filled(self.x)

    @cached_property
    def halves(self):
        """Two batches, CSR, with half of the counts of each row; see ``ops.halves``."""
        parts = halves(self.counts)
        return [Batch(x, None, self.weight, self.side) for x in parts]

    @cached_property
    def dense(self):
        """The rows as a strided tensor."""
        return dense(self.x)

    @cached_property
    def entries(self):
        """Entries stored in ``counts``."""
        return Entries.of(self.counts)

    @cached_property
    def totals(self):
        """The sum of each row, float64, (n_rows,)."""
        return row_sum(self.x)

    @cached_property
    def keys(self):
        """A hash of the content of each row, from which its own noise is made."""
        return row_keys(self.counts)

    def take(self, rows):
        """The rows that an integer tensor names, in its order."""

        def taken(values):
            return (
                take_rows(values, rows) if isinstance(values, torch.Tensor) else values
            )

        return Batch(
            taken(self.x),
            taken(self.observed),
            taken(self.weight),
            {name: taken(values) for name, values in self.side.items()},
        )

    def weighted(self, weight):
        """These rows with another weight."""
        return self._with(weight=weight)

    def with_side(self, **side):
        """These rows with more known of them."""
        return self._with(side={**self.side, **side})

    def double(self):
        """These rows in float64."""
        if self.x.dtype == torch.float64:
            return self
        x, observed = map_values(torch.Tensor.double, self.x), self.observed
        observed = None if observed is None else observed.double()
        return Batch(x, observed, self.weight, self.side)

    def _with(self, **changed):
        """A copy that shares quantities already computed for the rows."""
        batch = copy.copy(self)
        vars(batch).update(changed)
        return batch


class Entries(NamedTuple):
    """The entries of a CSR batch, in float64, and the sums of its rows."""

    rows: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    totals: torch.Tensor
    #: Whether every entry is stored.
    is_full: bool = False

    @classmethod
    def of(cls, x):
        """The entries of a CSR batch."""
        values = x.values().double()
        is_full = len(values) > 0 and len(values) == x.shape[0] * x.shape[1]
        return cls(row_indices(x), x.col_indices(), values, row_sum(x), is_full)

    def row_sum(self, terms):
        """Sum of numbers of the entries, (..., n_entries), in each row."""
        if self.is_full:
            return terms.unflatten(-1, (len(self.totals), -1)).sum(-1)
        total = terms.new_zeros(*terms.shape[:-1], len(self.totals))
        return total.index_add(-1, self.rows, terms)

    def of_rows(self, values):
        """Values of each entry's row, (..., n_entries), from (..., n_rows)."""
        return values[..., self.rows]
