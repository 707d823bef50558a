"""Input of users, as NumPy arrays and consistent SciPy matrices."""

from numbers import Integral

import numpy as np
import scipy.sparse
import sklearn
import torch


def is_whole(number, low):
    """Whether a number is an int of at least ``low``, and not a truth value."""
    is_int = isinstance(number, Integral) and not isinstance(number, bool)
    return is_int and number >= low


def received(X):
    """Convert X to types that the package handles; others are returned unchanged.

    Masked numbers become NaN, masked dates NaT and masked texts None; a tensor, on any
    device, becomes an array or a CSR matrix.

    Raises
    ------
    ValueError
        If X is a sparse matrix with an entry outside of its shape.
    TypeError
        If X is a lazy plan that holds no rows.
    """
    if type(X).__name__ == "LazyFrame":
        raise TypeError("X is a LazyFrame, which holds no rows: give X.collect().")
    if isinstance(X, torch.Tensor):
        X = _of_tensor(X)
    if scipy.sparse.issparse(X):
        return _holding_together(X)
    masked = _as_masked(X)
    if masked is None:
        return X
    if not np.ma.is_masked(masked):
        return masked.data
    if masked.dtype.kind == "M":
        return masked.filled(np.datetime64("NaT"))
    if masked.dtype.kind in "OSU":
        return with_none(masked)
    return masked.astype(np.result_type(masked.dtype, np.float32)).filled(np.nan)


def with_none(masked):
    """A masked array as one of objects, with None where it is masked."""
    values = masked.data.astype(object)
    values[np.ma.getmaskarray(masked)] = None
    return values


def returned(values, X):
    """Convert results for the user: to a tensor if X is one and dispatch is on.

    Without ``array_api_dispatch``, tensors give arrays, as in scikit-learn; texts, of
    which there are no tensors, always do.
    """
    dispatches = sklearn.get_config()["array_api_dispatch"]
    if isinstance(X, torch.Tensor) and dispatches and values.dtype.kind in "biuf":
        return torch.from_numpy(values).to(X.device)
    return values


def _of_tensor(X):
    """A tensor as an array or a CSR matrix."""
    X = X.detach()
    if X.layout != torch.strided:
        X = X.to_sparse_csr()
        parts = X.values(), X.col_indices(), X.crow_indices()
        return scipy.sparse.csr_matrix(tuple(map(_of_tensor, parts)), shape=X.shape)
    if X.dtype == torch.bfloat16:
        # NumPy has no such type.
        X = X.float()
    return X.cpu().numpy()


def n_masked(X):
    """Number of entries that are masked."""
    masked = _as_masked(X)
    return 0 if masked is None else np.ma.count_masked(masked)


def _as_masked(X):
    """A masked array, also of a list of masked rows; None for other X."""
    if isinstance(X, list | tuple) and any(
        isinstance(row, np.ma.MaskedArray) and row.ndim == 1 for row in X
    ):
        X = np.ma.array(X)
    return X if isinstance(X, np.ma.MaskedArray) else None


def without_half(X):
    """Matrix in float32 if it was float16, which SciPy does not support.

    Sums in float16 soon overflow, too.
    """
    return X.astype(np.float32) if X.dtype == np.float16 else X


def _holding_together(X):
    """A sparse matrix whose entries are all in its rows and columns.

    SciPy does not check indices, and operations with invalid ones read and write memory
    outside of the matrix.
    """
    if X.format == "lil":
        # Lists of the columns of each row, which this copies as they are.
        X = X.tocsr()
    if X.format == "coo" and X.ndim == 2:
        for indices, n_places in ((X.row, X.shape[0]), (X.col, X.shape[1])):
            place = _first_outside(indices, n_places)
            if place is not None:
                _refuse(X, X.row[place], X.col[place])
    if X.format in ("csr", "csc", "bsr"):
        _check_compressed(X)
        if max(len(X.indices), len(X.data)) > X.indptr[-1]:
            # SciPy takes room for further entries to be no entries; others do not.
            X = X.copy()
            X.prune()
    return X


def _check_compressed(X):
    """Raise a ``ValueError`` if a CSR, CSC or BSR matrix is inconsistent."""
    height, width = X.blocksize if X.format == "bsr" else (1, 1)
    # One that has a single dimension is a row.
    n_rows = X.shape[0] // height if X.ndim == 2 else 1
    n_lines, n_places = n_rows, X.shape[-1] // width
    if X.format == "csc":
        n_lines, n_places = n_places, n_lines
    indptr, n_stored = X.indptr, min(len(X.indices), len(X.data))
    if len(indptr) != n_lines + 1 or indptr[0] != 0:
        raise ValueError(
            f"X is an inconsistent {X.format.upper()} matrix: indptr "
            f"must start with 0 and have {n_lines + 1} entries, got {len(indptr)} from "
            f"{indptr[:1].tolist()} on."
        )
    is_bad = (indptr[1:] < indptr[:-1]) | (indptr[1:] > n_stored)
    if is_bad.any():
        line = is_bad.argmax()
        raise ValueError(
            f"X is an inconsistent {X.format.upper()} matrix: by indptr, "
            f"{'column' if X.format == 'csc' else 'row'} {line} goes from entry "
            f"{indptr[line]} to entry {indptr[line + 1]} of {n_stored}."
        )
    place = _first_outside(X.indices[: indptr[-1]], n_places)
    if place is not None:
        line = np.searchsorted(indptr, place, side="right") - 1
        pair = (line * height, X.indices[place] * width)
        _refuse(X, *(reversed(pair) if X.format == "csc" else pair))


def _first_outside(indices, n_places):
    """The place of the first index below 0 or too large, None if there is none."""
    if len(indices) == 0 or (indices.min() >= 0 and indices.max() < n_places):
        return None
    return ((indices < 0) | (indices >= n_places)).argmax()


def _refuse(X, row, column):
    """Raise an error that names the entry outside of the matrix, and a likely cause."""
    raise ValueError(
        f"X is a sparse matrix of shape {X.shape} with an entry at row {row}, column "
        f"{column}, where rows and columns are counted from 0. Perhaps ids were "
        "counted from 1: subtract 1 from them."
    )


def is_missing(value):
    """Whether it stands for nothing: None, NaN and pandas' NA."""
    if value is None:
        return True
    is_equal = value == value
    return not (isinstance(is_equal, bool | np.bool_) and is_equal)
