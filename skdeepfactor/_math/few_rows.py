"""Counts of a few rows, allocated to factors on the columns of each row alone.

A service asks for one row at a time. Each step of its fixed point is then a product of
a vector with some hundred columns, which takes less time than torch takes to call an
operation, or to wake the threads that share the work of one. So a few rows are
gathered and iterated by NumPy, one after the other, and on the thread that calls.
"""

import itertools
from functools import partial

import numpy as np
import torch

from skdeepfactor._math.gammas import FLOORS

# As ``FLOORS``.
LEAST = {
    np.dtype(np.float32): np.float32(FLOORS[torch.float32]),
    np.dtype(np.float64): np.float64(FLOORS[torch.float64]),
}

# Rows from which on it is faster to take them all at once.
MANY_ROWS = 6

# Numbers up to which no NumPy wakes threads for a product with a vector.
SERIAL = 2**13


def is_few(batch):
    """Whether the rows of a batch are few, and where NumPy can read them."""
    return 0 < len(batch) < MANY_ROWS and batch.x.device.type == "cpu"


def scaled_exp(logs):
    """``exp(logs)``, of which the largest is 1; see ``gammas.scaled_exp``."""
    scaled = np.exp(logs - np.maximum.reduce(logs))
    return np.maximum(scaled, LEAST[scaled.dtype])


def allocated_counts(
    batch, start, weights, factors, *, max_steps, tol, is_final, allowed=None
):
    """Expected counts of the factors in each row, where allocations stand still.

    The same as ``row_iteration.fixed_point`` of ``allocate`` and ``row_counts``.

    Parameters
    ----------
    batch : Batch
    start : Tensor of shape (n_rows, k) or None
        Expected counts to start from; None for even shares.
    weights : Weights
    factors : callable
        ``factors(row, counts)`` gives exp(E[log z]) of a row, by its number and its
        expected counts, an array (k,). Only its ratios matter.
    max_steps, tol, is_final
        See ``fixed_point``.
    allowed : ndarray of bool, shape (n_rows, k), default=None
        The factors that each row may use; others have no share at the start.
    """
    by_feature = weights.scaled.numpy()
    found = np.empty((len(batch), by_feature.shape[1]), by_feature.dtype)
    for row, (columns, values) in enumerate(_entries(batch.x)):
        if start is None:
            shares = np.ones_like(found[row])
            if allowed is not None:
                shares *= allowed[row]
            counts = shares * values.sum(dtype=np.float64) / shares.sum()
            counts = counts.astype(shares.dtype)
        else:
            counts = start[row].numpy()
        found[row] = _fixed_point(
            values,
            by_feature[columns],
            counts,
            partial(factors, row),
            max_steps,
            tol,
            is_final,
        )
    return torch.from_numpy(found)


def _entries(x):
    """Yield the columns and the values of the entries of each row, as arrays."""
    if x.layout == torch.strided:
        for row in x.numpy():
            columns = np.flatnonzero(row)
            yield columns, row[columns]
        return
    columns, values = x.col_indices().numpy(), x.values().numpy()
    for start, stop in itertools.pairwise(x.crow_indices().tolist()):
        yield columns[start:stop], values[start:stop]


# Counts that are infinite give what is not a number, as in torch.
@np.errstate(all="ignore")
def _fixed_point(values, weights, counts, factors, max_steps, tol, is_final):
    """The expected counts of one row, (k,)."""
    at_entries, of_factors = _products(weights)
    size, before = np.add.reduce, np.inf
    # Allocations keep the total.
    small = tol * float(size(values))
    for _ in range(max_steps):
        z = factors(counts)
        new = z * of_factors(values / at_entries(z))
        change = new - counts
        excess = float(size(np.abs(change))) - small
        counts = new
        if excess <= 0 and tol > 0:
            if is_final:
                counts = new + excess / (before - excess) * change
            break
        before = excess
    return counts


def _products(weights):
    """Products with weights, (n_words, k), and with their transpose."""
    if weights.size <= SERIAL:
        by_factor = weights.T
        return weights.dot, by_factor.dot
    # BLAS would wake its threads.
    return (
        lambda z: np.einsum("vk,k->v", weights, z),
        lambda ratio: np.einsum("v,vk->k", ratio, weights),
    )
