"""The rows that a fit or an inference is for, of a matrix or a stream, in batches."""

import contextlib
import itertools
import math
import queue
import sys
import threading
import zlib
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import scipy.sparse
import sklearn
import torch

from skdeepfactor._math.batch import Batch, compute_dtype, to_tensor
from skdeepfactor._math.starts import are_whole, distinct_rows
from skdeepfactor._training.distributed import Share
from skdeepfactor.data import stacked

# Bytes of one (rows, width) array of a batch: small enough to stay in a cache, large
# enough that the overhead of a call does not count.
CHUNK_BYTES = 2**21

# As above, for an accelerator, which is fast if it has much to do at once.
ACCELERATOR_BYTES = 2**28

# The share of one process in data that no other has.
ALONE = Share()

# Rows of a stream, drawn at random, from which a fit starts.
INITIAL_ROWS = 20_000


def _checksum(X, start=0):
    """A checksum of a matrix, after that of others."""
    arrays = (X.data, X.indices, X.indptr) if scipy.sparse.issparse(X) else (X,)
    for array in arrays:
        start = zlib.crc32(np.ascontiguousarray(array).view(np.uint8), start)
    return start


class Step(NamedTuple):
    """Rows of a step: their number in all processes, and how often they count."""

    n_rows: int
    mean_weight: float = 1.0


class Rows(ABC):
    """Rows for a fit or for inference: all of them, and those of a process.

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
        Type to compute in.
    share : Share
        The rows that belong to this process.
    arrays, own_arrays : dict of str to ndarray or CSR matrix
        What is known of rows beside their data, for the visible rows and for those of
        this process. ``"weight"``, if given, says how often a row counts, and is never
        0.
    total_weight : int or float
        Number of rows of all processes, each as often as it counts.
    n_splits : int
        Factor by which batches are smaller than necessary, if memory is short.
    """

    n_samples: int
    n_visible: int
    n_total: int
    n_features: int
    dtype: torch.dtype
    share: Share
    arrays: dict
    own_arrays: dict
    total_weight: float
    n_splits = 1

    @property
    def weights(self):
        """How often each visible row counts; None where all count once."""
        return self.arrays.get("weight")

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
        """All rows except some, and those."""

    @abstractmethod
    def knowing(self, **arrays):
        """These rows with more known of them, without those of weight 0."""

    @abstractmethod
    def scaled(self, scale):
        """These rows multiplied by a number."""

    @abstractmethod
    def nonzeros(self):
        """Entries that are not 0: their number and their sum in each row.

        Two arrays, (n_rows,), of visible rows from the first on, and whether all of
        their entries are integers.
        """

    def unit(self):
        """Mean of the entries that are neither 0 nor missing; 1.0 for integers.

        Rows count by their weights; for a stream, the first block is used. Rounded to
        float32: sums of the same entries in another order, as in a dense matrix, would
        otherwise lead to another start where two are nearly as good.
        """
        totals, counts, is_whole = self.nonzeros()
        weights = np.ones(len(totals)) if self.weights is None else self.weights
        known = weights[: len(totals)] @ totals, weights[: len(totals)] @ counts
        if self.share.is_sharded:
            *known, are_whole = zip(
                *self.share.gathered((*known, is_whole)), strict=True
            )
            known, is_whole = map(sum, known), all(are_whole)
        total, count = known
        return 1.0 if is_whole or total == 0 else float(np.float32(total / count))

    @abstractmethod
    def _pieces(self, batch_size, rng):
        """Yield (matrix, rows of it, numbers, step), and None at each end.

        ``rows`` is an array, which ``numbers`` then is, too; or None for all of the
        matrix, of which ``numbers`` is an array or a slice.
        """

    def parts(self, batch_size, rng, wanted):
        """Yield (batch, numbers of its rows, ``Step``), in parts.

        A part is small enough for arrays of the wanted width to be worked on, and of
        the wanted type, or that of the data. Its weight is how often its rows count.
        After each step comes None. A step is on ``batch_size`` random rows, of all
        processes together, or on all rows, in order, if that is None.
        """
        parts = self._parts(batch_size, rng, wanted)
        return parts if torch.device(wanted.device).type == "cpu" else ahead(parts, 1)

    def _parts(self, batch_size, rng, wanted):
        device = torch.device(wanted.device)
        like = {"dtype": wanted.dtype or self.dtype, "device": device}
        for piece in self._pieces(batch_size, rng):
            if piece is None:
                yield None
                continue
            matrix, rows, numbers, step = piece
            for part in chunks(
                matrix,
                rows,
                wanted.width,
                device_type=device.type,
                n_splits=self.n_splits,
            ):
                places = part if rows is not None else _cut(numbers, part)
                side = {
                    name: to_tensor(self.own_arrays[name], places, **like)
                    for name in wanted.side
                    if name in self.own_arrays
                }
                batch = Batch.of(
                    to_tensor(matrix, part, **like),
                    may_miss=wanted.may_miss,
                    weight=self.weights_of(places, device),
                    side=side,
                )
                yield batch, places, step

    def batches(self, wanted):
        """Yield (batch, numbers of its rows) of all rows of this process, in order."""
        parts = self.parts(None, None, wanted)
        with contextlib.closing(parts):
            for part in parts:
                if part is not None:
                    yield part[:2]

    def digests(self):
        """Checksum of each array of data known of the visible rows."""
        return {name: _checksum(array) for name, array in self.arrays.items()}

    def weights_of(self, numbers, device):
        """Weights of rows of this process, float64; 1.0 if all count once."""
        if "weight" not in self.own_arrays:
            return 1.0
        return torch.from_numpy(self.own_arrays["weight"][numbers]).to(device)

    def sample(self, random_state):
        """Rows to start from, as a matrix, and the arrays known of them.

        All rows, or some drawn at random without regard to weights.
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
        arrays = {name: array[numbers] for name, array in self.arrays.items()}
        if not share.is_sharded:
            return part, arrays
        parts, arrays = zip(*share.gathered((part, arrays)), strict=True)
        known = {name: stacked([some[name] for some in arrays]) for name in arrays[0]}
        # Of what kind a shard without rows is says nothing.
        return stacked([part for part in parts if part.shape[0] > 0]), known

    #: Number of rows that a fit starts from.
    _n_initial = INITIAL_ROWS

    def _set_size(self, n_visible, arrays):
        """Set the number of rows visible here; ``join`` adds those of the others."""
        share = self.share
        self.n_visible = self.n_total = self.n_samples = n_visible
        self.arrays = self.own_arrays = arrays
        weights = self.weights
        self.total_weight = n_visible if weights is None else float(weights.sum())
        if share.divides:
            self.n_samples = len(range(share.rank, n_visible, share.n_processes))
            self.own_arrays = {
                name: array[share.rank :: share.n_processes]
                for name, array in arrays.items()
            }
        self._counts = [n_visible]
        self._levels = None

    def agree_on_width(self):
        """Check that processes have the same columns, if each has its own rows.

        All must call it. A stream without rows learns its number of columns here.
        """
        if not self.share.is_sharded:
            return
        widths = self.share.gathered(self.n_features)
        known = sorted({width for width in widths if width is not None})
        if len(known) > 1:
            raise ValueError(
                f"The processes have rows of different width: {widths} columns."
            )
        if not known:
            raise ValueError("No process has a row.")
        self.n_features = known[0]

    def join(self):
        """Learn the rows of other processes, if each has its own; all must call it."""
        if not self.share.is_sharded:
            return
        is_double = self.dtype == torch.float64
        known = self.n_visible, is_double, self.totals(), self.weights
        counts, are_double, totals, weights = zip(
            *self.share.gathered(known), strict=True
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
            own = {"weight": weights[self.share.rank]}
            self.arrays = self.own_arrays = {**self.arrays, **own}
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
    def most_samples(self):
        """Largest number of rows of a process; all processes must call it."""
        return max(self.share.gathered(self.n_samples))

    @property
    def mean_weight(self):
        """How often a row counts on average."""
        return self.total_weight / self.n_total

    def _step(self, numbers=None, n_rows=None):
        """``Step`` on all rows, or on visible rows given by number.

        If each process has its own rows, they stand for those of the others too.
        """
        if numbers is None:
            return Step(self.n_total, self.mean_weight)
        if self.weights is None or len(numbers) == 0:
            return Step(int(n_rows))
        return Step(int(n_rows), float(self.weights[numbers].mean()))

    def _cuts(self, batch_size):
        """Where this process's random order is cut into steps; rows of each step.

        If each process has its own rows, all take the same number of steps, and each
        uses an even part of its rows in each step, so that all rows count alike.
        """
        n_steps = math.ceil(self.n_total / batch_size)
        if not self.share.is_sharded:
            cuts = np.minimum(np.arange(n_steps + 1) * batch_size, self.n_visible)
            return cuts, np.diff(cuts)
        every = np.linspace(0, self._counts, n_steps + 1).astype(np.intp)
        return every[:, self.share.rank], np.diff(every.sum(axis=1))


def _levels(totals, weights=None):
    """Quantiles of totals, in hundredths, weighted by how often each counts."""
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

    def __init__(self, X, share=ALONE, arrays=None):
        self.X, self.share = X, share
        self.n_features = X.shape[1]
        self.dtype = compute_dtype(X)
        self._set_size(X.shape[0], arrays or {})
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

    def knowing(self, **arrays):
        rows = MatrixRows(self.X, self.share, {**self.arrays, **arrays})
        weights = rows.weights
        if weights is None or weights.all():
            return rows
        return rows.some(np.flatnonzero(weights))

    def scaled(self, scale):
        if scale == 1:
            return self
        return MatrixRows(self.X * scale, self.share, self.arrays)

    def nonzeros(self):
        return nonzeros_of(self.X)

    def merged(self):
        """Each different row once, as heavy as its copies, in an order of their own.

        Steps on all rows then come out the same to the last bit in whatever order rows
        are given, and whether a row is repeated or has a weight.
        """
        known = dict(self.arrays)
        weights = known.pop("weight", None)
        numbers, weights = distinct_rows(self.X, weights, *known.values())
        arrays = {name: array[numbers] for name, array in known.items()}
        if (weights != 1).any():
            arrays["weight"] = weights
        return MatrixRows(self.X[numbers], self.share, arrays)

    def some(self, numbers):
        """Some of the rows, by an array of their numbers or a slice."""
        arrays = {name: array[numbers] for name, array in self.arrays.items()}
        return MatrixRows(self.X[numbers], self.share, arrays)

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


def row_totals(X):
    """Sum of each row without missing entries, float64, shape (n_rows,)."""
    totals = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()
    if np.isnan(totals).any():
        totals = np.nansum(X, axis=1, dtype=np.float64)
    return totals


def nonzeros_of(X):
    """Sums and counts of each row's entries, and whether all of them are integers."""
    if scipy.sparse.issparse(X):
        counts = np.diff(X.indptr)
    else:
        counts = ((X != 0) & ~np.isnan(X)).sum(axis=1)
    return row_totals(X), counts, are_whole(X)


def chunks(X, rows, width, *, device_type="cpu", n_splits=1):
    """Cut ``rows``, an array of integers or None for all, into parts of even size.

    Each part's arrays of ``width`` numbers, and its own entries, take about what suits
    the type of device; less, by ``n_splits``, where memory is short. Whole ranges come
    as slices, which cost no copy of an index.
    """
    n_bytes = CHUNK_BYTES if device_type == "cpu" else ACCELERATOR_BYTES
    n_rows = X.shape[0] if rows is None else len(rows)
    is_sparse = scipy.sparse.issparse(X)
    entries = X.nnz / max(X.shape[0], 1) if is_sparse else X.shape[1]
    n_entries = max(width, entries, 1)
    size = max(1, int(n_bytes / n_splits / (4 * n_entries)))
    n_chunks = math.ceil(n_rows / size)
    if n_chunks == 1:
        yield slice(0, n_rows) if rows is None else rows
        return
    bounds = np.linspace(0, n_rows, n_chunks + 1).astype(np.intp)
    for start, stop in itertools.pairwise(bounds):
        yield slice(start, stop) if rows is None else rows[start:stop]


def ahead(items, n_ahead):
    """Items of an iterator, made in a thread while earlier ones are used."""
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
            # A thread does not inherit scikit-learn's configuration.
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
        if not _is_interrupted():
            thread.join()


def _is_interrupted():
    """Whether the user has interrupted, and the thread need not be waited for."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
