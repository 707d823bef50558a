import math

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import torch
from numpy.testing import assert_array_equal

from skdeepfactor._math.batch import compute_dtype, to_tensor
from skdeepfactor._training.rows import chunks
from skdeepfactor.data import as_csr

KINDS = ["?", "i1", "u1", "i4", "i8", "f4", "f8"]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    return request.param


def small_counts(kind="f8", n_rows=11, n_features=6):
    counts = np.random.default_rng(0).poisson(0.8, (n_rows, n_features))
    return np.minimum(counts, 1 if kind == "?" else 9).astype(kind)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("?", torch.float32),
        ("i4", torch.float32),
        ("i8", torch.float32),
        ("f2", torch.float32),
        ("f4", torch.float32),
        ("f8", torch.float64),
        (">f8", torch.float64),
    ],
)
def test_compute_dtype(kind, expected):
    assert compute_dtype(np.zeros((1, 1), kind)) == expected
    if kind not in ("f2", ">f8"):  # SciPy has no sparse matrices of these.
        assert compute_dtype(sp.csr_matrix((1, 1), dtype=np.dtype(kind))) == expected


@pytest.mark.parametrize("kind", [*KINDS, "f2", ">f4", ">f8", ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_become_tensors(kind, order, dtype, device):
    X = np.asarray(small_counts(kind), order=order)
    x = to_tensor(X, slice(2, 9), dtype=dtype, device=device)
    assert x.layout == torch.strided
    assert x.dtype == dtype
    assert x.device.type == torch.device(device).type
    assert_array_equal(x.cpu(), X[2:9].astype(float))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csr_array])
@pytest.mark.parametrize("index_kind", ["i4", "i8"])
def test_sparse_matrices_become_tensors(kind, container, index_kind, dtype, device):
    dense = small_counts(kind)
    X = container(dense)
    X.indptr, X.indices = X.indptr.astype(index_kind), X.indices.astype(index_kind)
    x = to_tensor(X, slice(2, 9), dtype=dtype, device=device)
    assert x.layout == torch.sparse_csr
    assert x.dtype == dtype
    assert x.shape == (7, 6)
    assert x.crow_indices().dtype == x.col_indices().dtype == torch.int32
    assert_array_equal(x.to_dense().cpu(), dense[2:9].astype(float))


def test_stored_zeros_stay_stored(dtype, device):
    X = sp.csr_matrix(small_counts())
    X.data[::3] = 0
    x = to_tensor(X, slice(None), dtype=dtype, device=device)
    assert len(x.values()) == X.nnz


@pytest.mark.parametrize("is_sparse", [False, True])
def test_rows_come_in_the_order_asked_for(is_sparse, dtype, device):
    dense = small_counts()
    X = sp.csr_matrix(dense) if is_sparse else dense
    rows = np.array([7, 0, 3, 3])
    x = to_tensor(X, rows, dtype=dtype, device=device)
    assert_array_equal(x.to_dense().cpu(), dense[rows])


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 8), np.array([1, 5])])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_no_memory_is_shared(is_sparse, rows, kind, dtype, device):
    dense = small_counts(kind)
    X = sp.csr_matrix(dense) if is_sparse else dense.copy()
    x = to_tensor(X, rows, dtype=dtype, device=device)
    parts = [x]
    if is_sparse:
        parts = [x.values(), x.col_indices(), x.crow_indices()]
    for part in parts:
        part.fill_(-1)
    assert_array_equal(X.toarray() if is_sparse else X, dense)


@pytest.mark.parametrize("kind", ["f4", "f8", "i8"])
def test_read_only_maps_of_files(kind, tmp_path, dtype, device):
    dense = small_counts(kind)
    np.save(tmp_path / "dense.npy", dense)
    X = np.load(tmp_path / "dense.npy", mmap_mode="r")
    assert not X.flags.writeable
    x = to_tensor(X, slice(1, 7), dtype=dtype, device=device)
    assert_array_equal(x.cpu(), dense[1:7])
    x.zero_()

    whole = sp.csr_matrix(dense)
    arrays = []
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(whole, name))
        arrays.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    X = sp.csr_matrix(tuple(arrays), shape=whole.shape, copy=False)
    assert not X.data.flags.writeable
    for rows in (slice(1, 7), slice(None), np.arange(1, 7)):
        x = to_tensor(X, rows, dtype=dtype, device=device)
        assert_array_equal(x.to_dense().cpu(), dense[rows])
        x.values().zero_()
    assert_array_equal(X.toarray(), dense)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_large_integers_keep_what_the_type_can_hold(is_sparse, device):
    dense = np.array([[2**53 - 1, 0], [1, 2**24 - 1]])
    X = sp.csr_matrix(dense) if is_sparse else dense
    x = to_tensor(X, slice(None), dtype=torch.float64, device=device)
    assert_array_equal(x.to_dense().cpu(), dense)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("n_rows", [1, 2, 97, 1000])
@pytest.mark.parametrize("width", [0, 3, 200])
@pytest.mark.parametrize("n_bytes", [1, 4000, 2**30])
@pytest.mark.parametrize("uses_index", [False, True])
def test_chunks(is_sparse, n_rows, width, n_bytes, uses_index, monkeypatch):
    monkeypatch.setattr("skdeepfactor._training.rows.CHUNK_BYTES", n_bytes)
    n_features = 20
    X = np.zeros((n_rows, n_features), "f4")
    X[::2, :6] = 1
    entries = n_features
    if is_sparse:
        X = sp.csr_matrix(X)
        entries = X.nnz / n_rows
    rows = None
    expected = np.arange(n_rows)
    if uses_index:
        rows = np.random.default_rng(1).permutation(n_rows)[: max(1, n_rows // 2)]
        expected = rows
    parts = list(chunks(X, rows, width))
    if uses_index:
        indices = parts
    else:
        assert all(isinstance(part, slice) for part in parts)
        indices = [np.arange(n_rows)[part] for part in parts]
    assert_array_equal(np.concatenate(indices), expected)
    sizes = [len(index) for index in indices]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    widest = max(width, entries)
    assert max(sizes) == 1 or max(sizes) * widest * 4 <= n_bytes
    # No more of them than it takes.
    fitting = max(1, math.floor(n_bytes / (4 * widest)))
    assert len(parts) == math.ceil(len(expected) / fitting)


def test_no_rows_make_no_chunks():
    assert list(chunks(np.zeros((5, 2)), np.arange(0), 3)) == []


def test_chunks_of_rows_without_features_stored():
    X = sp.csr_matrix((10, 4))
    (part,) = chunks(X, None, 0)
    assert part == slice(0, 10)


def test_as_csr():
    dense = small_counts()
    for X in (dense, sp.csr_matrix(dense), sp.csr_array(dense), sp.coo_matrix(dense)):
        result = as_csr(X)
        assert isinstance(result, sp.csr_matrix)
        assert_array_equal(result.toarray(), dense)


@pytest.mark.skipif(
    "sparse_interface" not in sklearn.get_config(),
    reason="this scikit-learn has one sparse interface",
)
@pytest.mark.parametrize(
    ("interface", "expected"), [("sparray", sp.csr_array), ("spmatrix", sp.csr_matrix)]
)
def test_as_csr_follows_the_configuration(interface, expected):
    dense = small_counts()
    with sklearn.config_context(sparse_interface=interface):
        for X in (sp.csr_matrix(dense), sp.csr_array(dense)):
            result = as_csr(X)
            assert type(result) is expected
            assert_array_equal(result.toarray(), dense)
