"""Rows of a matrix, in memory or in blocks from elsewhere, as batches of tensors."""

import contextlib
import copy
import itertools
import math
import os
import queue
import threading
import zlib
from abc import ABC, abstractmethod
from numbers import Integral

import numpy as np
import scipy.sparse
import sklearn
import torch
from sklearn.utils import check_random_state

from skdeepfactor.distributed import Share
from skdeepfactor.ops import csr

# Bytes of one (rows, width) array of a batch: small enough to stay in a cache, large
# enough that the overhead of a call does not count.
CHUNK_BYTES = 2**21
# The same on an accelerator, which is fast where it has much to do at once.
ACCELERATOR_BYTES = 2**28

# Rows of a block, where the source leaves it open; and how many are read ahead.
BLOCK_ROWS, BLOCKS_AHEAD = 10_000, 2
# Rows of a stream, drawn at random, from which a fit starts.
INITIAL_ROWS = 20_000

# The share of one process in data that no other has.
ALONE = Share()

# Packages whose matrices are cut into blocks instead of being read as a whole.
STREAMED = {"anndata", "dask", "h5py", "zarr"}


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


def chunks(X, rows, width, n_bytes=None):
    """Cut ``rows``, an array of integers or None for all, into parts of even size.

    Each part's arrays of ``width`` numbers, and its own entries, take about ``n_bytes``
    (``CHUNK_BYTES`` if None). Whole ranges come as slices, which cost no copy of an
    index.
    """
    n_rows = X.shape[0] if rows is None else len(rows)
    is_sparse = scipy.sparse.issparse(X)
    entries = X.nnz / max(X.shape[0], 1) if is_sparse else X.shape[1]
    size = max(1, int((n_bytes or CHUNK_BYTES) / (4 * max(width, entries, 1))))
    n_chunks = math.ceil(n_rows / size)
    bounds = np.linspace(0, n_rows, n_chunks + 1).astype(np.intp)
    for start, stop in itertools.pairwise(bounds):
        yield slice(start, stop) if rows is None else rows[start:stop]


def as_csr(X):
    """``X`` as the kind of CSR container that scikit-learn is set to return."""
    if sklearn.get_config().get("sparse_interface") == "sparray":
        return scipy.sparse.csr_array(X)
    return scipy.sparse.csr_matrix(X)


def ahead(items, n_ahead):
    """The items of an iterator, made in a thread while earlier ones are used."""
    made = queue.Queue(n_ahead)
    is_closed = threading.Event()
    config = sklearn.get_config()

    def put(item, error):
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                made.put((item, error), timeout=0.05)
                return True
        return False

    def make():
        try:
            # A thread does not inherit what scikit-learn is set to.
            with sklearn.config_context(**config):
                if all(put(item, None) for item in items):
                    put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        is_closed.set()
        thread.join()


class RowBlocks:
    """Rows in blocks, for data that do not fit into memory.

    Estimators take it in place of a matrix, in ``fit``, ``transform``,
    ``score_samples``, ``score`` and ``perplexity``. Blocks are read again for every
    pass, in a thread, while the one before is worked on; a fit starts with two passes
    that only read, one to check and count the rows and one to draw those that it is
    initialized from.

    Parameters
    ----------
    source : sequence, iterable, callable or array
        Where the blocks come from, each of them an array or a sparse matrix of shape
        (n_rows, n_features), or the path of a ``.npz`` file as
        ``scipy.sparse.save_npz`` writes it, or of an ``.npy`` file:

        - a sequence, that is, something with ``len`` and ``[i]``. Blocks are then taken
          in an order that is shuffled anew for every pass, where there are minibatches;
        - something that can be iterated over again and again, or a function without
          arguments that gives an iterator. Blocks then keep their order, and
          minibatches shuffle the rows of each block only;
        - something with a shape that can be cut by rows (a memory-mapped matrix, a
          dataset of h5py or zarr, the ``X`` of a backed AnnData), or an array or a bag
          of dask, of which each partition is, or holds, blocks.
    block_rows : int, default=10000
        Number of rows of a block where ``source`` is cut by rows.

    Attributes
    ----------
    source, block_rows : object
        The parameters.

    Raises
    ------
    TypeError
        If ``source`` is none of these, or an iterator, which starts only once: for such
        a stream there is ``partial_fit``.

    See Also
    --------
    skdeepfactor.PoissonFactorization.partial_fit : Steps on rows that come once.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.data import RowBlocks
    >>> rng = np.random.default_rng(0)
    >>> parts = [rng.poisson(1.0, (50, 8)) for _ in range(4)]
    >>> model = PoissonFactorization(2, random_state=0).fit(RowBlocks(parts))
    >>> model.n_samples_seen_
    200
    """

    def __init__(self, source, *, block_rows=BLOCK_ROWS):
        if not isinstance(block_rows, Integral) or block_rows < 1:
            raise ValueError(
                f"block_rows must be an int of at least 1, got {block_rows!r}."
            )
        if scipy.sparse.issparse(source):
            source = source.tocsr()
        self.source = source
        self.block_rows = block_rows
        package = type(source).__module__.split(".")[0]
        self._is_cut = (
            scipy.sparse.issparse(source)
            or isinstance(source, np.ndarray)
            or package in STREAMED - {"dask"}
        )
        has_shape = len(getattr(source, "shape", ())) == 2
        if self._is_cut and (not has_shape or type(source).__name__ == "AnnData"):
            raise TypeError(
                "RowBlocks cuts what has rows and columns, got "
                f"{type(source).__name__}; of an AnnData pass its X."
            )
        if package == "dask":
            self._items = _dask_partitions(source)
        elif not self._is_cut:
            self._items = source
            if isinstance(source, str | dict) or not (
                callable(source) or hasattr(source, "__iter__") or self._is_indexed
            ):
                raise TypeError(
                    "RowBlocks needs a sequence or an iterable of matrices, a function "
                    "that gives an iterator, or an array to cut by rows, got "
                    f"{type(source).__name__}."
                )
            if hasattr(source, "__next__"):
                raise TypeError(
                    "RowBlocks needs a source that can be started again, got an "
                    "iterator, which ends: give the function that makes it, or feed "
                    "its blocks to partial_fit."
                )

    def __len__(self):
        """Number of blocks, where the source tells it before it is read."""
        if self._is_cut:
            return math.ceil(self.source.shape[0] / self.block_rows)
        return len(self._items)

    @property
    def _is_indexed(self):
        """Whether blocks can be taken in any order."""
        return self._is_cut or (
            hasattr(self._items, "__getitem__") and hasattr(self._items, "__len__")
        )

    def blocks(self, order=None):
        """Yield the number and the matrix of each block, in an order if it can be.

        A source that cannot be indexed keeps its own order.

        Parameters
        ----------
        order : iterable of int, default=None
            Numbers of the blocks wanted; all of them, from 0 on, if None.

        Yields
        ------
        number : int
            The number of the block.
        X : array or sparse matrix of shape (n_rows, n_features)
            Its rows.

        See Also
        --------
        skdeepfactor.PoissonFactorization.fit : What takes blocks in place of a matrix.

        Examples
        --------
        >>> import numpy as np
        >>> from skdeepfactor.data import RowBlocks
        >>> [X.shape for _, X in RowBlocks(np.ones((5, 2)), block_rows=3).blocks()]
        [(3, 2), (2, 2)]
        """
        if not self._is_indexed:
            items = self._items() if callable(self._items) else self._items
            for number, item in enumerate(items):
                yield number, _loaded(item)
            return
        for number in range(len(self)) if order is None else order:
            if self._is_cut:
                start = number * self.block_rows
                yield number, self.source[start : start + self.block_rows]
            else:
                yield number, _loaded(self._items[number])


def _dask_partitions(source):
    """A sequence of what each partition of a dask array or bag holds."""
    if hasattr(source, "rechunk") and source.ndim == 2:
        delayed = source.rechunk({1: -1}).to_delayed().ravel().tolist()
    elif hasattr(source, "npartitions"):
        delayed = source.to_delayed()
    else:
        raise TypeError(
            "RowBlocks takes arrays of two dimensions and bags of dask, got "
            f"{type(source).__name__}."
        )
    return _Computed(delayed)


class _Computed:
    """Values of dask, each computed when it is asked for."""

    def __init__(self, delayed):
        self.delayed = delayed

    def __len__(self):
        return len(self.delayed)

    def __getitem__(self, number):
        # One after the other: the blocks are worked on as they come.
        return self.delayed[number].compute(scheduler="synchronous")


def _loaded(item):
    """A block as a matrix: read from its file, or stacked from its parts."""
    if isinstance(item, str | os.PathLike):
        path = os.fspath(item)
        if path.endswith(".npz"):
            return scipy.sparse.load_npz(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if hasattr(item, "compute"):
        item = item.compute()
    if isinstance(item, list) and item and hasattr(item[0], "shape"):
        item = _stacked(item)
    return item.tocsr() if scipy.sparse.issparse(item) else item


def _stacked(parts):
    """Matrices below each other."""
    if len(parts) == 1:
        return parts[0]
    if any(map(scipy.sparse.issparse, parts)):
        parts = [scipy.sparse.csr_matrix(part) for part in parts]
        return scipy.sparse.vstack(parts, format="csr")
    return np.concatenate(parts)


def is_streamed(X):
    """Whether rows come in blocks rather than as one matrix."""
    package = type(X).__module__.split(".")[0]
    return isinstance(X, RowBlocks) or package in STREAMED


def _checksum(X, start=0):
    """A checksum of a matrix, after that of others."""
    arrays = (X.data, X.indices, X.indptr) if scipy.sparse.issparse(X) else (X,)
    for array in arrays:
        start = zlib.crc32(np.ascontiguousarray(array).view(np.uint8), start)
    return start


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
    n_splits : int
        By how much batches are smaller than they need be, where memory is short.
    """

    n_samples: int
    n_visible: int
    n_total: int
    n_features: int
    dtype: torch.dtype
    share: Share
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
    def _pieces(self, batch_size, rng):
        """Yield (matrix, rows of it, numbers, rows of the step), and None at each end.

        ``rows`` is an array, which ``numbers`` then is, too; or None for all of the
        matrix, of which ``numbers`` is an array or a slice.
        """

    def parts(self, batch_size, rng, width, device, dtype=None):
        """Yield (batch, numbers of its rows, number of rows of the step), in parts.

        A part is small enough for arrays of ``width`` numbers a row to be worked on,
        and of the type of the model, where it has one that is not that of the data.
        After each step comes None. A step is on ``batch_size`` random rows, of all
        processes together, or on all rows, in order, if that is None.
        """
        dtype = dtype or self.dtype
        parts = self._parts(batch_size, rng, width, torch.device(device), dtype)
        return parts if torch.device(device).type == "cpu" else ahead(parts, 1)

    def _parts(self, batch_size, rng, width, device, dtype):
        n_bytes = CHUNK_BYTES if device.type == "cpu" else ACCELERATOR_BYTES
        for piece in self._pieces(batch_size, rng):
            if piece is None:
                yield None
                continue
            matrix, rows, numbers, n_rows = piece
            for part in chunks(matrix, rows, width, n_bytes / self.n_splits):
                x = to_tensor(matrix, part, dtype=dtype, device=device)
                yield x, part if rows is not None else _cut(numbers, part), n_rows

    def batches(self, width, device, dtype=None):
        """Yield (batch, numbers of its rows) of all rows of this process, in order."""
        parts = self.parts(None, None, width, device, dtype)
        with contextlib.closing(parts):
            for part in parts:
                if part is not None:
                    yield part[:2]

    def sample(self, random_state):
        """Rows to start from, as a matrix: all of them, or some drawn at random."""
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
        return _stacked(share.gathered(part)) if share.is_sharded else part

    #: Number of rows that a fit starts from.
    _n_initial = INITIAL_ROWS

    def _set_size(self, n_visible):
        """Tell how many rows are visible here; ``join`` tells of the others'."""
        share = self.share
        self.n_visible = self.n_total = self.n_samples = n_visible
        if share.divides:
            self.n_samples = len(range(share.rank, n_visible, share.n_processes))
        self._counts = [n_visible]
        self._levels = None

    def join(self):
        """Learn what rows the others have, where each has its own; all must call it."""
        if not self.share.is_sharded:
            return
        is_double = self.dtype == torch.float64
        known = (self.n_visible, self.n_features, is_double, self.totals())
        counts, widths, are_double, totals = zip(
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
        self._levels = _levels(np.concatenate(totals))

    def total_levels(self):
        """Quantiles of the sums of all rows, in hundredths."""
        if self._levels is None:
            self._levels = _levels(self.totals())
        return self._levels

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


def _levels(totals):
    return np.quantile(totals, np.linspace(0, 1, 101))


def _cut(numbers, part):
    """Some of the numbers of rows, an array or a slice."""
    if isinstance(numbers, slice):
        return slice(numbers.start + part.start, numbers.start + part.stop)
    return numbers[part]


class MatrixRows(Rows):
    """The rows of a matrix in memory."""

    def __init__(self, X, share=ALONE):
        self.X, self.share = X, share
        self.n_features = X.shape[1]
        self.dtype = compute_dtype(X)
        self._set_size(X.shape[0])
        if not share.is_sharded:
            self._n_initial = self.n_total
        self.own = X[share.rank :: share.n_processes] if share.divides else X

    def totals(self):
        return np.asarray(self.X.sum(axis=1, dtype=np.float64)).ravel()

    def digest(self):
        return _checksum(self.X)

    def take(self, numbers):
        return self.X if len(numbers) == self.X.shape[0] else self.X[numbers]

    def split(self, numbers):
        rest = np.setdiff1d(np.arange(self.X.shape[0]), numbers)
        return tuple(MatrixRows(self.X[n], self.share) for n in (rest, numbers))

    def _pieces(self, batch_size, rng):
        if batch_size is None:
            yield self.own, None, slice(0, self.n_samples), self.n_total
            yield None
            return
        share = self.share
        order = rng.permutation(self.n_visible)
        cuts, sizes = self._cuts(batch_size)
        for (start, stop), size in zip(itertools.pairwise(cuts), sizes, strict=True):
            rows = order[start:stop]
            if share.divides:
                rows = rows[share.own(rows)] // share.n_processes
            if len(rows) > 0:
                yield self.own, rows, rows, int(size)
            yield None


class StreamedRows(Rows):
    """Rows that are read in blocks, again for each pass.

    Parameters
    ----------
    source : RowBlocks
    check : callable
        Gives a block back as an array or a canonical CSR matrix; ``check(block,
        is_first)``.
    share : Share
    """

    def __init__(self, source, check, share=ALONE):
        self.source, self.check, self.share = source, check, share
        self._is_known = False
        self._starts, self._sizes, totals = {}, {}, [np.zeros(0)]
        n_rows = 0
        for number, block in self._read(None):
            if not self._sizes:
                self.n_features, self.dtype = block.shape[1], compute_dtype(block)
            elif compute_dtype(block) == torch.float64:
                self.dtype = torch.float64
            self._starts[number], self._sizes[number] = n_rows, block.shape[0]
            totals.append(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())
            n_rows += block.shape[0]
        if n_rows == 0:
            raise ValueError("The source has no rows.")
        self._is_known = True
        self._totals = np.concatenate(totals)
        self._keep(np.arange(n_rows))

    def _keep(self, rows):
        """Use some rows of the source only, by their sorted numbers in it."""
        self._kept = rows
        self._set_size(len(rows))

    def totals(self):
        return self._totals[self._kept]

    def digest(self):
        checksum = 0
        for _, block in self._read(None):
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
        return _stacked(parts)

    def split(self, numbers):
        rest, some = copy.copy(self), copy.copy(self)
        rest._keep(np.delete(self._kept, numbers))
        some._keep(self._kept[numbers])
        return rest, some

    def _read(self, order):
        """Yield the number of each block and the block, checked."""
        blocks = self.source.blocks(order)
        with contextlib.closing(ahead(self._checked(blocks), BLOCKS_AHEAD)) as made:
            yield from made

    def _checked(self, blocks):
        n_blocks, start, n_features = 0, 0, None
        for number, block in blocks:
            n_blocks += 1
            shape, expected = getattr(block, "shape", ()), None
            if self._is_known:
                n_features, start = self.n_features, self._starts.get(number, 0)
                expected = self._sizes.get(number, 0)
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
        if self._is_known and n_blocks < len(self._sizes):
            raise ValueError(
                f"The source gave {n_blocks} blocks, but {len(self._sizes)} at first: "
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

    def _kept_blocks(self, order):
        """Yield each block's rows that are kept, and their numbers among those kept."""
        for number, block in self._read(order):
            start = self._starts[number]
            bounds = np.searchsorted(self._kept, [start, start + block.shape[0]])
            rows = self._kept[slice(*bounds)] - start
            if len(rows) == 0:
                continue
            matrix = block if len(rows) == block.shape[0] else block[rows]
            yield matrix, np.arange(*bounds)

    def _pieces(self, batch_size, rng):
        if batch_size is None:
            for matrix, numbers in self._kept_blocks(None):
                yield from self._own(matrix, numbers, self.n_total)
            yield None
            return
        cuts, sizes = self._cuts(batch_size)
        for (matrix, numbers), size in zip(
            self._batches(np.diff(cuts), rng), sizes, strict=True
        ):
            yield from self._own(matrix, numbers, int(size))
            yield None

    def _own(self, matrix, numbers, n_rows):
        """The piece of a step that is this process's, if there is one."""
        if self.share.divides and len(numbers) > 0:
            is_own = self.share.own(numbers)
            matrix, numbers = matrix[is_own], numbers[is_own] // self.share.n_processes
        if len(numbers) > 0:
            yield matrix, None, numbers, n_rows

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
                yield _stacked(matrices), np.concatenate(places)
            else:
                yield None, np.empty(0, dtype=np.intp)
        # To its end, so that what is wrong with it is seen.
        for _ in blocks:
            pass

    def _shuffled(self, rng):
        """Yield the rows of each block that are kept, shuffled, and their numbers."""
        order = rng.permutation(sorted(self._sizes))
        for matrix, numbers in self._kept_blocks(order):
            shuffled = rng.permutation(len(numbers))
            yield matrix[shuffled], numbers[shuffled]
