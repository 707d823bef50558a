"""Inference for rows by a fitted module, and rows drawn from it, batch by batch."""

import contextlib
import os

import numpy as np
import scipy.sparse
import torch
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.arrays import load, loaded_module, to_numpy
from skdeepfactor._estimator.environment import TINY_ROWS
from skdeepfactor._estimator.validation import checked_blocks, checked_matrix
from skdeepfactor._files import check_place, whole_file
from skdeepfactor._input import is_whole, received
from skdeepfactor._math.threads import one_thread
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor.data import as_csr, is_streamed, new_random_state


def inferred(estimator, X, function, out=None, side=None):
    """``function(module, batch)`` of each batch of X, as one array, or in a file.

    ``side`` is what ``_known_of_rows`` takes as y, if rows come with more than X.
    """
    check_is_fitted(estimator)
    if out is not None:
        out = os.fspath(out)
        check_place("out", out)
    with contextlib.closing(_inferred_parts(estimator, X, function, side)) as parts:
        return np.concatenate(list(parts)) if out is None else _written(parts, out)


def decoded(estimator, Z, side=None):
    """``module.decode`` of checked factors, and of ``side``, as an array."""
    rows = MatrixRows(Z)
    if side is not None:
        sizes = estimator._fitted_sizes
        rows = rows.knowing(**estimator._known_of_rows(rows, side, sizes))
    module = loaded_module(estimator, rows.dtype)
    parts = map_rows(module, rows, lambda module, z: module.decode(z.x, **z.side))
    expected = np.concatenate(list(parts))
    if estimator._input_scale != 1 and not module.is_given_total:
        expected /= estimator._input_scale
    return expected


def _inferred_parts(estimator, X, function, side=None):
    """Yield the same for each batch, an array; a stream is read once.

    The type is that of a matrix, or of the first block of a stream.
    """
    if not is_streamed(X):
        rows = MatrixRows(checked_matrix(estimator, X, reset=False))
        if side is not None:
            sizes = estimator._fitted_sizes
            rows = rows.knowing(**estimator._known_of_rows(rows, side, sizes))
        rows = rows.scaled(estimator._input_scale)
        yield from _sound(loaded_module(estimator, rows.dtype), rows, function)
        return
    if side is not None:
        raise ValueError(
            f"{' and '.join(side)} cannot be given with data in blocks; pass one block "
            "at a time."
        )
    module = None
    blocks = checked_blocks(estimator, X, reset=False).read()
    with contextlib.closing(blocks):
        for _, block in blocks:
            rows = MatrixRows(block).scaled(estimator._input_scale)
            module = module or loaded_module(estimator, rows.dtype)
            yield from _sound(module, rows, function)
    if module is None:
        raise ValueError("The source has no rows.")


def _sound(module, rows, function):
    """``map_rows``, with an error instead of values that are not finite."""
    for values in map_rows(module, rows, function):
        if not np.isfinite(values).all():
            stored = rows.X.data if scipy.sparse.issparse(rows.X) else rows.X
            largest = np.nanmax(np.abs(stored), initial=0)
            is_double = rows.dtype == torch.float64
            raise ValueError(
                "Inference gives numbers that are not finite: X has values up to "
                f"{largest:.3g}, which are too large for its floating-point type. "
                f"Leave such rows out{'' if is_double else ', or pass float64 data'}."
            )
        yield values


def map_rows(module, rows, function):
    """Yield ``function(module, batch)`` of each batch of the rows, as arrays."""
    is_tiny = rows.n_samples * rows.n_features <= TINY_ROWS
    with contextlib.closing(rows.batches(module.wanted())) as batches:
        for batch, _ in batches:
            with torch.no_grad(), one_thread(when=is_tiny):
                values = to_numpy(function(module, batch))
            yield values


def _written(parts, path):
    """Write arrays below each other to a file; a read-only map of it.

    ``X`` itself may be a map of what was there, and is read until the file is whole.
    """
    with whole_file(path) as file:
        n_rows = 0
        for part in parts:
            if n_rows == 0:
                _write_header(file, part, n_rows)
            file.write(np.ascontiguousarray(part).data)
            n_rows += len(part)
        # How many rows there are is known now; it has room for any number.
        file.seek(0)
        _write_header(file, part, n_rows)
    return np.load(path, mmap_mode="r")


def _write_header(file, part, n_rows):
    """Begin a ``.npy`` file of rows like those of an array."""
    header = {
        "descr": np.lib.format.dtype_to_descr(part.dtype),
        "fortran_order": False,
        "shape": (n_rows, *part.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(file, header)


def drawn_rows(estimator, n_samples, totals, random_state):
    """Rows drawn from the model, a batch at a time; counts as a CSR matrix."""
    check_is_fitted(estimator)
    if not is_whole(n_samples, 1):
        raise ValueError(f"n_samples must be an int of at least 1, got {n_samples!r}.")
    seed = new_random_state(random_state).randint(2**31 - 1, size=4)
    generator = np.random.default_rng(seed)
    if totals is None:
        levels = np.linspace(0, 1, len(estimator._row_totals))
        positions = generator.random(n_samples)
        totals = np.rint(np.interp(positions, levels, estimator._row_totals))
        # Models of real numbers make no use of it.
        totals = np.maximum(totals, 0)
    given, totals = totals, np.asarray(received(totals))
    if totals.shape not in ((), (n_samples,)) or not _are_whole(totals):
        raise ValueError(
            "n_tokens must be a whole number, or one for each of the "
            f"{n_samples} row(s), none of them negative, got {given!r}."
        )
    totals = np.broadcast_to(totals.astype(np.int64), (n_samples,))
    module = load(estimator, torch.float64, torch.device("cpu"))
    rows = range(0, n_samples, 1 + 2**22 // estimator.n_features_in_)
    parts = (
        module.sample(totals[start : start + rows.step], generator) for start in rows
    )
    if not estimator._domain.is_counts:
        return np.concatenate(list(parts))
    return as_csr(scipy.sparse.vstack([scipy.sparse.csr_matrix(p) for p in parts]))


def _are_whole(values):
    """Whether all values are whole numbers, and none of them is negative."""
    is_numeric = values.dtype.kind in "iuf"
    return is_numeric and bool(((values >= 0) & (values == np.floor(values))).all())
