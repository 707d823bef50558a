"""Counts of a few rows, allocated to factors on the columns of each row alone.

A service asks for one row at a time. Each step of its fixed point is then a product of
a vector with some hundred columns, which takes less time than torch takes to call an
operation, or to wake the threads that share the work of one. So a few rows are
gathered and iterated by NumPy, one after the other, on the thread that calls.
"""

import itertools

import numpy as np
import torch
from scipy.special import psi

from skdeepfactor._math.gammas import FLOORS
from skdeepfactor._math.row_iteration import tolerance

# Rows from which on it is faster to take them all at once.
MANY_ROWS = 17

# Weights multiplied with a vector at once: OpenBLAS wakes threads from 9216 on.
SERIAL = 9000

# As ``FLOORS``, for NumPy's types.
LEAST = {
    np.dtype(np.float32): np.float32(FLOORS[torch.float32]),
    np.dtype(np.float64): np.float64(FLOORS[torch.float64]),
}


def is_few(batch):
    """Whether the rows of a batch are few, and where NumPy can read them."""
    return 0 < len(batch) < MANY_ROWS and batch.x.device.type == "cpu"


def allocated_counts(
    batch,
    start,
    weights,
    factors,
    *,
    max_steps,
    tol,
    is_final,
    ahead=0.0,
    ends_ahead=False,
    rates=None,
    allowed=None,
):
    """Expected counts of the factors in each row, where allocations stand still.

    The same as ``row_iteration.fixed_point`` of ``allocate`` and ``row_counts``.

    Parameters
    ----------
    batch : Batch
    start : Tensor of shape (n_rows, k) or None
        Expected counts to start from; None for even shares.
    weights : Weights
    factors : list of callable
        For each row, a function of its expected counts that gives exp(E[log z]), an
        array (k,), times the rate. Only ratios within it matter.
    max_steps, tol, is_final, ahead, ends_ahead
        See ``fixed_point``.
    rates : ndarray of shape (n_rows, k), default=None
        Rates of the factors; None if all are the same.
    allowed : ndarray of bool, shape (n_rows, k), default=None
        The factors that each row may use: the others have no counts at the start.
    """
    tol = tolerance(tol, max_steps, is_final)
    options = (max_steps, tol, is_final, ahead, ends_ahead and tol == 0)
    by_feature = weights.scaled.numpy()
    found = np.empty((len(batch), by_feature.shape[1]), by_feature.dtype)
    for row, (columns, values) in enumerate(entries_of_rows(batch.x)):
        if start is not None:
            counts = start[row].numpy()
        else:
            counts = found[row]
            counts[:] = 1 if allowed is None else allowed[row]
            counts *= values.sum(dtype=np.float64) / counts.sum()
        words = by_feature[columns]
        if rates is not None:
            words /= rates[row]
        found[row] = _fixed_point(values, words, counts, factors[row], *options)
    return torch.from_numpy(found)


def exp_mean_log(prior, allowed=None):
    """A function of counts, (k,), that gives exp(psi(prior + counts)), up to scale.

    ``prior`` is an array (k,); factors that are not ``allowed``, a mask of the same
    shape, get 0.
    """
    least = LEAST[prior.dtype]
    if allowed is None and psi(prior.min()) > np.log(least):
        # None of them can underflow.
        return lambda counts: np.exp(psi(prior + counts))

    def factors(counts):
        logs = psi(prior + counts)
        if allowed is not None:
            logs = np.where(allowed, logs, -np.inf)
        z = np.maximum(np.exp(logs - np.maximum.reduce(logs)), least)
        return z if allowed is None else z * allowed

    return factors


def expected(prior, allowed=None):
    """A function of counts, (k,), that gives prior + counts; see ``exp_mean_log``."""
    prior = np.maximum(prior, LEAST[prior.dtype])
    if allowed is None:
        return lambda counts: prior + counts
    return lambda counts: (prior + counts) * allowed


def entries_of_rows(x):
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
def _fixed_point(
    values, weights, counts, factors, max_steps, tol, is_final, ahead, ends_ahead
):
    """The expected counts of one row, (k,)."""
    at_entries, of_factors = products(weights)
    # A product with ones is the fastest sum; allocations keep the total.
    size, before = np.ones_like(counts).dot, np.inf
    small = tol * float(np.add.reduce(values))
    change = None
    for _ in range(max_steps):
        if ahead and change is not None:
            counts = np.maximum(counts + ahead * change, 0)
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
    if ends_ahead and change is not None:
        counts = np.maximum(counts + ahead * change, 0)
    return counts


def products(weights):
    """Products with weights, (n_words, k), and with their transpose."""
    size = max(1, SERIAL // weights.shape[1])
    parts = [weights[at : at + size] for at in range(0, len(weights), size)]
    if len(parts) <= 1:
        return weights.dot, weights.T.dot

    def at_entries(z):
        return np.concatenate([part.dot(z) for part in parts])

    def of_factors(ratio):
        ratios = (ratio[at : at + size] for at in range(0, len(ratio), size))
        return sum(r.dot(part) for r, part in zip(ratios, parts, strict=True))

    return at_entries, of_factors
