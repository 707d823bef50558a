"""Products and maps of a batch of rows that is a strided or a CSR tensor.

A batch ``x`` has shape (n_rows, n_features). Only this module asks for its layout.
The functions that return a batch keep the pattern of the one that they were given:
a CSR batch stays CSR and stores the same entries.
"""

import warnings

import scipy.sparse
import torch

# Numbers worked on at once where an array is as large as the parameters: temporaries
# then stay in a cache and count for nothing.
SLICE = 2**18


def csr(crow, columns, values, shape):
    """A CSR tensor, trusted to be one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            crow, columns, values, shape, check_invariants=False
        )


def product_at(x, a, b):
    """``a @ b`` at the stored entries of ``x``; everywhere if ``x`` is strided.

    ``a`` is (n_rows, k), ``b`` is (k, n_features). For CSR, a ``b`` whose transpose
    is contiguous is read in place.
    """
    if x.layout == torch.strided:
        return a @ b
    return torch.sparse.sampled_addmm(x, a, b, beta=0.0)


def slices(n, width):
    """Cut n columns of ``width`` numbers into slices of at most ``SLICE`` numbers."""
    step = max(1, SLICE // width)
    return [slice(start, start + step) for start in range(0, n, step)]


def transposed_products(x, a):
    """Yield slices of the features, and ``x.T @ a`` in them, for ``a`` (n_rows, k).

    A slice at a time, since the whole, (n_features, k), may be the largest array there
    is. Each product, (a few features, k), is the caller's to change.
    """
    n_features = x.shape[1]
    parts = slices(n_features, a.shape[1])
    if x.layout == torch.strided:
        for features in parts:
            yield features, x[:, features].T @ a
        return
    if x.device.type != "cpu":
        yield slice(0, n_features), x.t().to_sparse_csr() @ a
        return
    # SciPy transposes a pattern ten times faster than torch does on a CPU.
    csc = scipy.sparse.csr_matrix(
        (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy()),
        shape=x.shape,
    ).tocsc()
    crow, rows, values = map(torch.from_numpy, (csc.indptr, csc.indices, csc.data))
    for features in parts:
        starts = crow[features.start : features.stop + 1]
        entries = slice(int(starts[0]), int(starts[-1]))
        shape = (len(starts) - 1, len(a))
        yield (
            features,
            csr(starts - starts[0], rows[entries], values[entries], shape) @ a,
        )


def map_values(function, *batches):
    """``function`` of the stored values of batches that share one pattern."""
    x = batches[0]
    if x.layout == torch.strided:
        return function(*batches)
    return csr(
        x.crow_indices(),
        x.col_indices(),
        function(*(batch.values() for batch in batches)),
        x.shape,
    )


def row_sum(x):
    """Sum of each row in float64, shape (n_rows,)."""
    if x.layout == torch.strided:
        return x.sum(1, dtype=torch.float64)
    # The differences of running totals would cancel; segments do not.
    return torch.segment_reduce(
        x.values().double(), "sum", offsets=x.crow_indices().long(), initial=0.0
    )


def row_dot(x, v):
    """``x @ v`` in float64, shape (n_rows,), for ``v`` of shape (n_features,)."""
    if x.layout == torch.strided:
        return x.double() @ v.double()
    return row_sum(map_values(lambda values: values.double() * v[x.col_indices()], x))


def take_rows(x, rows):
    """The rows of ``x`` that the integer tensor ``rows`` names, in its order."""
    if x.layout == torch.strided:
        return x[rows]
    starts = x.crow_indices()
    lengths = torch.diff(starts)[rows]
    crow = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    shifts = starts[rows] - crow[:-1]
    entries = torch.arange(int(crow[-1]), device=x.device)
    entries += torch.repeat_interleave(shifts, lengths)
    return csr(
        crow.to(starts.dtype),
        x.col_indices()[entries],
        x.values()[entries],
        (len(rows), x.shape[1]),
    )


def nonzero(x):
    """Row and column indices of the entries of ``x`` that are not zero."""
    if x.layout == torch.strided:
        return x.nonzero(as_tuple=True)
    rows = torch.arange(x.shape[0], device=x.device)
    rows = torch.repeat_interleave(rows, torch.diff(x.crow_indices()))
    is_stored = x.values() != 0
    return rows[is_stored], x.col_indices()[is_stored].long()
