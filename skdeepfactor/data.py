"""Rows of a matrix as batches of tensors."""

import itertools
import math

import numpy as np
import scipy.sparse
import sklearn
import torch
from sklearn.utils import check_random_state

from skdeepfactor.ops import csr

# Bytes of one (rows, width) array of a batch: small enough to stay in a cache, large
# enough that the overhead of a call does not count.
CHUNK_BYTES = 2**21


def new_random_state(random_state):
    """A RandomState from a seed or an instance; from fresh entropy for None.

    scikit-learn would take NumPy's global state for None, and so change it.
    """
    if random_state is None:
        return np.random.RandomState(np.random.SeedSequence().generate_state(8))
    return check_random_state(random_state)


def compute_dtype(X):
    """The floating type to compute in: float64 for float64, float32 for the rest."""
    is_double = X.dtype.kind == "f" and X.dtype.itemsize >= 8
    return torch.float64 if is_double else torch.float32


def to_tensor(X, rows, *, dtype, device):
    """``X[rows]`` as a strided or a CSR tensor.

    ``X`` is an ndarray or a canonical SciPy CSR matrix; ``rows`` a slice or an array of
    integers. What comes back never shares memory with ``X``.
    """
    part = X[rows]
    if not scipy.sparse.issparse(part):
        # torch takes no read-only memory, and neither big-endian nor boolean numbers.
        values = np.array(part, dtype=np.float64 if dtype == torch.float64 else "f4")
        return torch.from_numpy(values).to(device)
    values = torch.from_numpy(part.data.astype(np.float64)).to(device, dtype)
    crow = torch.from_numpy(part.indptr.astype(np.int32)).to(device)
    columns = torch.from_numpy(part.indices.astype(np.int32)).to(device)
    return csr(crow, columns, values, part.shape)


def chunks(X, rows, width):
    """Cut ``rows``, an array of integers or None for all, into parts of even size.

    Each part's arrays of ``width`` numbers, and its own entries, take about
    ``CHUNK_BYTES``. Whole ranges come as slices, which cost no copy of an index.
    """
    n_rows = X.shape[0] if rows is None else len(rows)
    is_sparse = scipy.sparse.issparse(X)
    entries = X.nnz / X.shape[0] if is_sparse else X.shape[1]
    size = max(1, int(CHUNK_BYTES / (4 * max(width, entries, 1))))
    n_chunks = math.ceil(n_rows / size)
    bounds = np.linspace(0, n_rows, n_chunks + 1).astype(np.intp)
    for start, stop in itertools.pairwise(bounds):
        yield slice(start, stop) if rows is None else rows[start:stop]


def as_csr(X):
    """``X`` as the kind of CSR container that scikit-learn is set to return."""
    if sklearn.get_config().get("sparse_interface") == "sparray":
        return scipy.sparse.csr_array(X)
    return scipy.sparse.csr_matrix(X)
