"""Data larger than memory: matrices in blocks, from files and other packages."""

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
import sklearn
import torch
from sklearn.utils import check_random_state

from skdeepfactor._input import is_whole, received

# Rows of a block, where the source leaves it open.
BLOCK_ROWS = 10_000

# Packages whose matrices are cut into blocks instead of being read as a whole.
STREAMED = {"anndata", "dask", "h5py", "zarr"}
# Packages whose tables iterate over columns.
IN_MEMORY = {"pandas", "polars"}


def new_random_state(random_state):
    """A RandomState from a seed or an instance; from fresh entropy for None.

    scikit-learn would take NumPy's global state for None, and so change it.
    """
    if random_state is None:
        return np.random.RandomState(np.random.SeedSequence().generate_state(8))
    return check_random_state(random_state)


def as_csr(X):
    """``X`` as the kind of CSR container that scikit-learn is set to return."""
    if sklearn.get_config().get("sparse_interface") == "sparray":
        return scipy.sparse.csr_array(X)
    return scipy.sparse.csr_matrix(X)


class RowBlocks:
    """Rows in blocks, for data that do not fit into memory.

    Estimators take it in place of a matrix, in ``fit``, ``transform``,
    ``score_samples``, ``score`` and ``perplexity``. Blocks are read again for every
    pass, in a thread, while the previous block is processed. A fit starts with two
    passes that only read: one checks and counts the rows, the other draws those used
    for initialization. Other methods read the blocks once, and compute in the dtype of
    the first.

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
        If ``source`` is none of these, or an iterator, which can be read only once: use
        ``partial_fit`` for such a stream.

    See Also
    --------
    skdeepfactor.PoissonFactorization.partial_fit : Steps on rows that arrive once.

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

    def __init__(self, source: Any, *, block_rows: int = BLOCK_ROWS) -> None:
        if not is_whole(block_rows, 1):
            raise ValueError(
                f"block_rows must be an int of at least 1, got {block_rows!r}."
            )
        if scipy.sparse.issparse(source) or isinstance(source, torch.Tensor):
            source = received(source)
        if scipy.sparse.issparse(source):
            source = source.tocsr()
        self.source = source
        self.block_rows = block_rows
        package = _package(source)
        self._is_cut = (
            scipy.sparse.issparse(source)
            or isinstance(source, np.ndarray)
            or package in STREAMED - {"dask"}
        )
        refuse_iterators(source)
        has_shape = len(getattr(source, "shape", ())) == 2
        name = type(source).__name__
        if package in IN_MEMORY and name == "LazyFrame":
            raise TypeError(
                "RowBlocks got a LazyFrame, which holds no rows: give a function that "
                "makes an iterator of its frames, such as frame.collect_batches, or "
                "frame.collect() to fit itself."
            )
        if package in IN_MEMORY:
            if "GroupBy" in name:
                raise TypeError(
                    f"RowBlocks got a {name}, an iterator of which gives pairs: give a "
                    "function that makes one of matrices, such as "
                    "lambda: (frame for _, frame in groups)."
                )
            raise TypeError(
                f"RowBlocks got a {name} of {package}, which is in memory: pass it to "
                "fit itself."
            )
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

    def blocks(self, order: Iterable[int] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield the number and the matrix of each block, in a given order if possible.

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
        skdeepfactor.PoissonFactorization.fit : Takes blocks in place of a matrix.

        Examples
        --------
        >>> import numpy as np
        >>> from skdeepfactor.data import RowBlocks
        >>> [X.shape for _, X in RowBlocks(np.ones((5, 2)), block_rows=3).blocks()]
        [(3, 2), (2, 2)]
        """
        for number, item in self._numbered_items(order):
            try:
                block = _loaded(item)
            except ValueError as error:
                raise ValueError(f"Block {number} of the source: {error}") from error
            yield number, block

    def _numbered_items(self, order):
        """Yield the number of each block, and its contents as the source has them."""
        if not self._is_indexed:
            yield from enumerate(
                self._items() if callable(self._items) else self._items
            )
            return
        for number in range(len(self)) if order is None else order:
            if self._is_cut:
                start = number * self.block_rows
                yield number, self.source[start : start + self.block_rows]
            else:
                yield number, self._items[number]


def _dask_partitions(source):
    """A sequence of the contents of the partitions of a dask array or bag."""
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
        ending = os.path.splitext(path)[1].lower()
        if ending == ".npz":
            return scipy.sparse.load_npz(path)
        if ending != ".npy":
            raise ValueError(
                f"{path!r} has an unknown ending, {ending!r}: .npy and .npz are read; "
                "of other files, give a function that makes an iterator of matrices, "
                "such as lambda: (pandas.read_parquet(path) for path in paths)."
            )
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if hasattr(item, "compute"):
        item = item.compute()
    if isinstance(item, list) and item and hasattr(item[0], "shape"):
        item = stacked([received(part) for part in item])
    return received(item).tocsr() if scipy.sparse.issparse(item) else item


def stacked(parts):
    """Matrices below each other."""
    if len(parts) == 1:
        return parts[0]
    if any(map(scipy.sparse.issparse, parts)):
        parts = [scipy.sparse.csr_matrix(part) for part in parts]
        return scipy.sparse.vstack(parts, format="csr")
    return np.concatenate(parts)


def is_streamed(X):
    """Whether rows come in blocks rather than as one matrix."""
    if isinstance(X, np.ndarray) or scipy.sparse.issparse(X):
        # Any package's arrays: views of an AnnData are arrays of anndata's own.
        return False
    bases = {base.__module__.split(".")[0] for base in type(X).__mro__}
    is_table = not bases.isdisjoint(IN_MEMORY)
    return isinstance(X, RowBlocks) or (not is_table and _package(X) in STREAMED)


def refuse_iterators(source):
    """Raise a ``TypeError`` for rows that come only once."""
    if hasattr(source, "__next__"):
        raise TypeError(
            f"Rows are read more than once, but {type(source).__name__} is an "
            "iterator, which can be read only once: give RowBlocks a function that "
            "makes it, or feed its blocks to partial_fit."
        )


def _package(value):
    """Name of the package that defines a value's type."""
    return type(value).__module__.split(".")[0]
