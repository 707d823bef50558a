"""Products and maps of a batch of rows that is a strided or a CSR tensor.

A batch ``x`` has shape (n_rows, n_features). Only this module asks for its layout.
The functions that return a batch keep the pattern of the one that they were given:
a CSR batch stays CSR and stores the same entries.
"""

import warnings

import numpy as np
import scipy.sparse
import torch

# Numbers worked on at once where an array is as large as the parameters: temporaries
# then stay in a cache and count for nothing.
SLICE = 2**18
# Numbers in the largest array for slopes or covariances of a few rows at a time.
BLOCK = 2**23
# Share of entries stored above which a dense product beats one at the entries alone.
DENSE_SHARE = 0.3
# Share of features in a batch up to which gradients of their weights are sparse.
SPARSE_SHARE = 0.5


def csr(crow, columns, values, shape):
    """Build a CSR tensor without checks."""
    x = torch.sparse_csr_tensor(crow, columns, values, shape, check_invariants=False)
    x.transposed = Transposed()
    return x


class Transposed:
    """Places of the entries of a CSR batch in its transpose, found on first use.

    Batches that ``map_values`` makes from each other have one pattern, and share it.
    """

    def __init__(self):
        self._places = None

    def places(self, x):
        """Row starts and columns of the transpose, and which entry comes where."""
        if self._places is None:
            find = _places_on_cpu if x.device.type == "cpu" else _places_on_device
            self._places = find(x)
        return self._places


def _places_on_cpu(x):
    # SciPy transposes a pattern ten times faster than torch does on a CPU.
    order = np.arange(x.values().numel(), dtype=np.int32)
    csc = scipy.sparse.csr_matrix(
        (order, x.col_indices().numpy(), x.crow_indices().numpy()), shape=x.shape
    ).tocsc()
    return tuple(map(torch.from_numpy, (csc.indptr, csc.indices, csc.data)))


def _places_on_device(x):
    columns, order = x.col_indices().sort(stable=True)
    features = torch.arange(x.shape[1] + 1, device=x.device)
    return torch.searchsorted(columns, features), row_indices(x)[order], order


def transposed(x):
    """``x.T``, a CSR batch if ``x`` is one."""
    if x.layout == torch.strided:
        return x.T
    pattern = vars(x).get("transposed") or Transposed()
    crow, rows, order = pattern.places(x)
    return csr(crow, rows, x.values()[order], x.shape[::-1])


def _silence():
    """Have torch say now, where it is not heard, what it says once of CSR tensors.

    Filters of warnings are those of all threads, so must not change later.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        start = torch.zeros(1, dtype=torch.int64, device="cpu")
        csr(start, start[:0], start[:0].float(), (0, 1))


_silence()


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

    Slices are made one at a time, unless the whole, (n_features, k), fits in a cache,
    since it may be the largest array of all. Each product, (a few features, k), is the
    caller's to change.
    """
    n_features = x.shape[1]
    if n_features * a.shape[1] <= 4 * SLICE:
        yield slice(0, n_features), feature_sums(x, a)
        return
    parts = slices(n_features, a.shape[1])
    if x.layout == torch.strided:
        for features in parts:
            yield features, x[:, features].T @ a
        return
    transpose = transposed(x)
    if x.device.type != "cpu":
        yield slice(0, n_features), transpose @ a
        return
    starts, rows, values = (
        transpose.crow_indices(),
        transpose.col_indices(),
        transpose.values(),
    )
    bounds = starts.numpy()
    for features in parts:
        first, last = bounds[features.start], bounds[min(features.stop, n_features)]
        of_part = starts[features.start : features.stop + 1] - int(first)
        entries = slice(int(first), int(last))
        shape = (len(of_part) - 1, len(a))
        yield features, csr(of_part, rows[entries], values[entries], shape) @ a


def feature_sums(x, a):
    """``x.T @ a``, (n_features, k), for ``a`` (n_rows, k).

    For parameters that fit in memory twice. On a CPU no pattern is transposed: half the
    time of products in slices on one thread.
    """
    if x.layout == torch.strided:
        return x.T @ a
    if x.device.type != "cpu":
        return transposed(x) @ a
    by_feature = scipy.sparse.csc_matrix(
        (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy()),
        shape=x.shape[::-1],
    )
    return torch.from_numpy(by_feature @ a.numpy())


def map_values(function, *batches):
    """Apply ``function`` to the stored values of batches that share one pattern."""
    x = batches[0]
    if x.layout == torch.strided:
        return function(*batches)
    mapped = csr(
        x.crow_indices(),
        x.col_indices(),
        function(*(batch.values() for batch in batches)),
        x.shape,
    )
    mapped.transposed = vars(x).get("transposed") or mapped.transposed
    return mapped


def scaled(values, scale):
    """``values``, (n_rows, ...), times a float, or times a number of each row.

    The latter as a tensor of shape (n_rows,), of any floating type.
    """
    if isinstance(scale, torch.Tensor):
        scale = scale.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return values * scale


def row_sum(x):
    """Sum of each row in float64, shape (n_rows,)."""
    if x.layout == torch.strided:
        return x.sum(1, dtype=torch.float64)
    # The differences of running totals would cancel; segments do not.
    return torch.segment_reduce(
        x.values().double(), "sum", offsets=x.crow_indices().long(), initial=0.0
    )


def split_double(values):
    """Float64 numbers as sums of two of float32, (..., 2)."""
    large = values.float()
    return torch.stack([large, (values - large).float()], -1)


def of_columns(x, v):
    """``v``, (n_features,), at the stored entries of ``x``, as a batch like it."""
    if x.layout == torch.strided:
        return v.expand_as(x)
    return map_values(lambda _: v.index_select(0, x.col_indices()), x)


def dense(x):
    """A batch as a strided tensor; only where its size is that of others anyway."""
    return x if x.layout == torch.strided else x.to_dense()


def is_filled(x):
    """Whether a batch is strided, and filled enough for dense products to be faster."""
    if x.layout != torch.strided:
        return False
    return int(torch.count_nonzero(x)) >= DENSE_SHARE * x.numel()


def product(x, a):
    """``x @ a``, shape (n_rows, k), for ``a`` of shape (n_features, k).

    The gradient of a large parameter is sparse where most features are in no row.
    """
    return x @ a if x.layout == torch.strided else _Product.apply(x, a)


def double_product(x, a):
    """``x @ a`` in float64, for a large ``a`` of another type; without gradients.

    No more of ``a`` is converted than a few rows have entries.
    """
    x = map_values(torch.Tensor.double, x)
    if x.layout == torch.strided or x.values().numel() >= len(a):
        return x @ a.double()
    columns = x.col_indices()
    places = torch.arange(len(columns), dtype=columns.dtype, device=columns.device)
    shape = (x.shape[0], len(columns))
    return csr(x.crow_indices(), places, x.values(), shape) @ a[columns].double()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, a):
        ctx.x, ctx.is_parameter = x, a.is_leaf
        return x @ a

    @staticmethod
    def backward(ctx, gradient):
        return None, _of_weights(ctx.x, gradient.contiguous(), ctx.is_parameter)


def products_at_entries(x, a, b):
    """``a @ b.T`` at the entries of a CSR batch, shape (n_entries,).

    ``a`` is (n_rows, k), ``b`` is (n_features, k); gradients flow to both.
    """
    if not torch.is_grad_enabled():
        return _at_entries(x, a, b)
    return _ProductsAtEntries.apply(x, a, b)


def _at_entries(x, a, b):
    n_entries, size = x.values().numel(), x.shape[0] * x.shape[1]
    if n_entries < DENSE_SHARE * size:
        return product_at(x, a, b.T).values()
    products = (a @ b.T).flatten()
    if n_entries == size:
        return products
    return products[row_indices(x) * x.shape[1] + x.col_indices()]


class _ProductsAtEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, a, b):
        ctx.x, ctx.is_parameter = x, b.is_leaf
        ctx.save_for_backward(a, b)
        return _at_entries(x, a, b)

    @staticmethod
    def backward(ctx, gradient):
        a, b = ctx.saved_tensors
        x = map_values(lambda _: gradient, ctx.x)
        for_a = x @ b if ctx.needs_input_grad[1] else None
        for_b = None
        if ctx.needs_input_grad[2]:
            for_b = _of_weights(x, a, ctx.is_parameter)
        return None, for_a, for_b


def _of_weights(x, a, is_parameter):
    """``feature_sums`` of a CSR batch, as the gradient of an array (n_features, k).

    That of a large parameter is sparse where few features are in a batch: torch adds it
    to a dense one in place.
    """
    is_large = x.shape[1] * a.shape[1] > SLICE
    if not (is_parameter and is_large and x.device.type == "cpu"):
        return feature_sums(x, a)
    features, places = torch.unique(x.col_indices(), return_inverse=True)
    if len(features) > SPARSE_SHARE * x.shape[1]:
        return feature_sums(x, a)
    narrow = csr(
        x.crow_indices(),
        places.to(x.col_indices().dtype),
        x.values(),
        (x.shape[0], len(features)),
    )
    return torch.sparse_coo_tensor(
        features[None].long(),
        feature_sums(narrow, a),
        (x.shape[1], a.shape[1]),
        is_coalesced=True,
        check_invariants=False,
    )


def missing(x):
    """Mask of NaN entries, a boolean tensor like ``x``; None if there are none.

    Entries that a CSR batch does not store are 0, so none can be missing.
    """
    if x.layout != torch.strided:
        return None
    is_missing = x.isnan()
    return is_missing if bool(is_missing.any()) else None


def take_rows(x, rows):
    """The rows of ``x`` that the integer tensor ``rows`` names, in its order."""
    if x.layout == torch.strided:
        return x[rows]
    starts = x.crow_indices()
    lengths = torch.diff(starts)[rows]
    crow = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    shifts = starts[rows] - crow[:-1]
    n_entries = int(crow[-1])
    entries = torch.arange(n_entries, device=x.device)
    entries += torch.repeat_interleave(shifts, lengths, output_size=n_entries)
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
    is_stored = x.values() != 0
    return row_indices(x)[is_stored], x.col_indices()[is_stored].long()


def row_indices(x):
    """The row of each stored entry of a CSR batch."""
    rows = torch.arange(x.shape[0], device=x.device)
    lengths, n_entries = torch.diff(x.crow_indices()), x.values().numel()
    return torch.repeat_interleave(rows, lengths, output_size=n_entries)


def without_zeros(x):
    """``x`` as a CSR batch that stores no zeros."""
    if x.layout != torch.strided:
        has_zeros = bool((x.values() == 0).any())
        return _compressed(x, x.values()) if has_zeros else x
    rows, columns = nonzero(x)
    values = x[rows, columns]
    lengths = torch.bincount(rows, minlength=x.shape[0])
    crow = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    return csr(crow.int(), columns.int(), values, x.shape)


def halves(x):
    """Two CSR batches without zeros that add up to ``x``, which is CSR.

    Each has half of every count. The remainder of an odd count goes to one of them, and
    the remainder of the row's next odd count, in the order of its columns, to the
    other.
    """
    values, starts = x.values(), x.crow_indices()
    over = values.remainder(2)
    n_odd = torch.nn.functional.pad((over > 0).cumsum(0, dtype=starts.dtype), (1, 0))
    before = n_odd.index_select(0, starts[:-1])
    lengths, n_entries = torch.diff(starts), len(values)
    before = torch.repeat_interleave(before, lengths, output_size=n_entries)
    is_for_first = ((n_odd[1:] - before) & 1).bool()
    first = torch.where(is_for_first, over, 0).add_(values - over, alpha=0.5)
    return [_compressed(x, first), _compressed(x, values - first)]


def _compressed(x, values):
    """Other values in the places of those of a CSR batch, without zeros."""
    is_kept, starts = values != 0, x.crow_indices()
    n_kept = torch.nn.functional.pad(is_kept.cumsum(0, dtype=starts.dtype), (1, 0))
    crow = n_kept.index_select(0, starts)
    # The places of a mask are found once, since an accelerator is waited for then.
    if is_kept.device.type == "cpu":
        # NumPy finds them six times as fast.
        kept = torch.from_numpy(np.flatnonzero(is_kept.numpy()))
    else:
        kept = is_kept.nonzero()[:, 0]
    columns = x.col_indices().index_select(0, kept)
    return csr(crow, columns, values.index_select(0, kept), x.shape)
