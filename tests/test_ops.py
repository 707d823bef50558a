import numpy as np
import pytest
import scipy.sparse as sp
import scipy.special
import scipy.stats
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skdeepfactor._math import noise, ops
from skdeepfactor._math.batch import Entries

SHAPES = [(0, 6), (1, 8), (8, 1), (1, 1), (3, 4), (23, 17), (60, 9)]
LAYOUTS = ["strided", "csr32", "csr64"]
RTOL = {torch.float32: 2e-5, torch.float64: 1e-12}


def sparse_matrix(n_rows, n_features, seed=0):
    """Draw a matrix with empty rows, empty columns and zeros that are stored."""
    rng = np.random.default_rng(seed)
    dense = rng.poisson(1.0, (n_rows, n_features)) * rng.uniform(0.5, 2, n_features)
    dense[2::4] = 0
    dense[:, 3::5] = 0
    X = sp.csr_matrix(dense)
    X.data[3::7] = 0
    return X


def to_csr(X, dtype, device, index_dtype=torch.int32):
    return ops.csr(
        torch.tensor(X.indptr, dtype=index_dtype, device=device),
        torch.tensor(X.indices, dtype=index_dtype, device=device),
        torch.tensor(X.data, dtype=dtype, device=device),
        X.shape,
    )


class Batch:
    """A batch in one layout, with what NumPy and SciPy have of it."""

    def __init__(self, X, layout, dtype, device):
        self.X = X
        self.layout, self.dtype, self.device = layout, dtype, device
        if layout == "strided":
            self.x = self.tensor(X.toarray())
        else:
            index_dtype = torch.int32 if layout == "csr32" else torch.int64
            self.x = to_csr(X, dtype, device, index_dtype)
        self.dense = self.x.to_dense().double().cpu().numpy()

    def tensor(self, array):
        return torch.tensor(array, dtype=self.dtype, device=self.device)

    def normal(self, *shape, seed=1):
        return self.tensor(np.random.default_rng(seed).normal(size=shape))

    def assert_stored(self, result, expected):
        """Assert that a batch of this one's pattern is ``expected`` where it stores."""
        rtol = RTOL[self.dtype]
        if self.layout == "strided":
            assert_allclose(result.cpu(), expected, rtol=rtol, atol=rtol)
            return
        assert result.layout == torch.sparse_csr
        assert result.shape == self.X.shape
        assert_array_equal(result.crow_indices().cpu(), self.X.indptr)
        assert_array_equal(result.col_indices().cpu(), self.X.indices)
        rows = np.repeat(np.arange(self.X.shape[0]), np.diff(self.X.indptr))
        stored = expected[rows, self.X.indices]
        assert_allclose(result.values().cpu(), stored, rtol=rtol, atol=rtol)


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def batch(request, layout, dtype, device):
    return Batch(sparse_matrix(*request.param), layout, dtype, device)


@pytest.fixture
def empty_batch(layout, dtype, device):
    """Rows that store nothing at all."""
    return Batch(sp.csr_matrix((4, 3)), layout, dtype, device)


def numbers(*tensors):
    return [tensor.double().cpu().numpy() for tensor in tensors]


def test_the_test_matrix_is_what_it_should_be():
    X = sparse_matrix(23, 17)
    assert (np.diff(X.indptr) == 0).any()
    assert (np.diff(X.tocsc().indptr) == 0).any()
    assert (X.data == 0).any()
    assert (X.data > 0).any()


@pytest.mark.parametrize("is_transposed", [False, True])
def test_product_at(batch, is_transposed):
    n_rows, n_features = batch.X.shape
    a = batch.normal(n_rows, 5)
    b = batch.normal(n_features, 5, seed=2).T
    if not is_transposed:
        b = b.contiguous()
    result = ops.product_at(batch.x, a, b)
    assert result.dtype == batch.dtype
    a, b = numbers(a, b)
    batch.assert_stored(result, a @ b)


def test_product_at_ignores_the_values_of_the_batch(layout, dtype, device):
    X = sparse_matrix(9, 7)
    a, b = np.ones((9, 2)), np.ones((2, 7))
    results = []
    for scale in (1, 1e6):
        batch = Batch(X * scale, layout, dtype, device)
        result = ops.product_at(batch.x, batch.tensor(a), batch.tensor(b))
        results.append(result.to_dense().cpu())
    assert_array_equal(*results)


def transposed_product(x, a):
    parts = list(ops.transposed_products(x, a))
    columns = np.concatenate([np.arange(x.shape[1])[part] for part, _ in parts])
    assert_array_equal(columns, np.arange(x.shape[1]))
    return torch.cat([product for _, product in parts])


@pytest.mark.parametrize("size", [1, 12, 2**18])
def test_transposed_product(batch, size, monkeypatch):
    monkeypatch.setattr(ops, "SLICE", size)
    a = batch.normal(batch.X.shape[0], 5)
    result = transposed_product(batch.x, a)
    assert result.layout == torch.strided
    assert result.dtype == batch.dtype
    assert result.shape == (batch.X.shape[1], 5)
    rtol = RTOL[batch.dtype]
    expected = batch.dense.T @ numbers(a)[0]
    assert_allclose(result.cpu(), expected, rtol=rtol, atol=10 * rtol)


def test_feature_sums(batch):
    a = batch.normal(batch.X.shape[0], 5)
    result = ops.feature_sums(batch.x, a)
    assert result.layout == torch.strided
    assert result.dtype == batch.dtype
    rtol = RTOL[batch.dtype]
    expected = batch.dense.T @ numbers(a)[0]
    assert_allclose(result.cpu(), expected, rtol=rtol, atol=10 * rtol)


def test_transposed_product_of_one_column(batch):
    a = batch.normal(batch.X.shape[0], 1)
    rtol = RTOL[batch.dtype]
    expected = batch.dense.T @ numbers(a)[0]
    result = transposed_product(batch.x, a)
    assert_allclose(result.cpu(), expected, rtol=rtol, atol=10 * rtol)


def test_map_values_of_one_batch(batch):
    result = ops.map_values(lambda values: 3 * values + 1, batch.x)
    batch.assert_stored(result, 3 * batch.dense + 1)


def test_map_values_of_two_batches(batch):
    doubled = ops.map_values(lambda values: 2 * values, batch.x)
    result = ops.map_values(torch.sub, doubled, batch.x)
    batch.assert_stored(result, batch.dense)


def test_map_values_may_change_the_type(batch):
    result = ops.map_values(lambda values: values.double(), batch.x)
    assert result.dtype == torch.float64
    batch.assert_stored(result, batch.dense)


def test_map_values_leaves_the_batch_alone(batch):
    ops.map_values(lambda values: values * 0, batch.x)
    batch.assert_stored(batch.x, batch.dense)


def test_row_sum(batch):
    result = ops.row_sum(batch.x)
    assert result.dtype == torch.float64
    assert result.shape == (batch.X.shape[0],)
    assert_allclose(result.cpu(), batch.dense.sum(1), rtol=1e-14)


def test_of_columns(batch):
    v = batch.normal(batch.X.shape[1])
    result = ops.of_columns(batch.x, v)
    batch.assert_stored(result, np.tile(numbers(v)[0], (batch.X.shape[0], 1)))


def test_row_sum_holds_ones_beside_huge_counts(layout, device):
    n_ones = 1000
    X = sp.csr_matrix(np.r_[1e8, np.ones(n_ones)][None])
    batch = Batch(X, layout, torch.float32, device)
    assert ops.row_sum(batch.x).item() == 1e8 + n_ones


def test_row_sum_is_untouched_by_rows_before(layout, device):
    X = sp.csr_matrix([[1e18, 1e18, 1e18], [0.25, 0, 0.5], [0, 0, 0], [1, 1, 1]])
    batch = Batch(X, layout, torch.float32, device)
    assert ops.row_sum(batch.x).tolist()[1:] == [0.75, 0, 3]


def test_take_rows(batch):
    n_rows = batch.X.shape[0]
    rng = np.random.default_rng(3)
    for rows in (
        rng.permutation(n_rows),
        rng.integers(0, n_rows, 2 * n_rows) if n_rows else np.arange(0),
        np.arange(0),
        np.arange(n_rows)[1::2],
    ):
        taken = ops.take_rows(batch.x, torch.from_numpy(rows).to(batch.device))
        expected = Batch(batch.X[rows], batch.layout, batch.dtype, batch.device)
        expected.assert_stored(taken, expected.dense)
        assert taken.dtype == batch.dtype


def test_take_rows_keeps_the_type_of_indices(dtype, device):
    for index_dtype in (torch.int32, torch.int64):
        x = to_csr(sparse_matrix(12, 7), dtype, device, index_dtype)
        taken = ops.take_rows(x, torch.tensor([4, 1, 1], device=device))
        assert taken.crow_indices().dtype == index_dtype
        assert taken.col_indices().dtype == index_dtype


def test_take_rows_shares_no_memory(batch):
    n_rows = batch.X.shape[0]
    taken = ops.take_rows(batch.x, torch.arange(n_rows, device=batch.device))
    values = taken if batch.layout == "strided" else taken.values()
    values.zero_()
    batch.assert_stored(batch.x, batch.dense)


def test_nonzero(batch):
    rows, columns = ops.nonzero(batch.x)
    assert rows.dtype == columns.dtype == torch.int64
    expected_rows, expected_columns = np.nonzero(batch.dense)
    assert_array_equal(rows.cpu(), expected_rows)
    assert_array_equal(columns.cpu(), expected_columns)


def test_nonzero_can_index(batch):
    scores = torch.zeros(batch.X.shape, device=batch.device)
    scores[ops.nonzero(batch.x)] = 1
    assert_array_equal(scores.cpu(), batch.dense != 0)


def test_a_taken_batch_can_be_used(batch):
    rows = np.arange(batch.X.shape[0])[::-2].copy()
    taken = ops.take_rows(batch.x, torch.from_numpy(rows).to(batch.device))
    dense = batch.dense[rows]
    a = batch.normal(len(rows), 3)
    rtol = RTOL[batch.dtype]
    result = transposed_product(taken, a).cpu()
    assert_allclose(result, dense.T @ numbers(a)[0], rtol=rtol, atol=10 * rtol)
    assert_allclose(ops.row_sum(taken).cpu(), dense.sum(1), rtol=1e-14)


def test_rows_that_store_nothing(empty_batch):
    x = empty_batch.x
    a, b = empty_batch.normal(4, 2), empty_batch.normal(2, 3)
    product = ops.product_at(x, a, b)
    empty_batch.assert_stored(product, numbers(a)[0] @ numbers(b)[0])
    assert_array_equal(transposed_product(x, a).cpu(), np.zeros((3, 2)))
    assert_array_equal(ops.row_sum(x).cpu(), np.zeros(4))
    v = empty_batch.normal(3)
    empty_batch.assert_stored(ops.of_columns(x, v), np.tile(numbers(v)[0], (4, 1)))
    assert [len(indices) for indices in ops.nonzero(x)] == [0, 0]
    assert ops.take_rows(x, torch.tensor([2, 0], device=x.device)).shape == (2, 3)


def test_without_zeros(batch):
    result = ops.without_zeros(batch.x)
    expected = sp.csr_matrix(batch.dense)
    assert result.layout == torch.sparse_csr
    assert result.shape == batch.X.shape
    assert result.dtype == batch.dtype
    assert_array_equal(result.crow_indices().cpu(), expected.indptr)
    assert_array_equal(result.col_indices().cpu(), expected.indices)
    assert_array_equal(result.values().cpu(), expected.data)
    batch.assert_stored(batch.x, batch.dense)


def test_a_pattern_is_transposed_once(monkeypatch, device):
    # As where the product is too large to be made at once.
    monkeypatch.setattr(ops, "SLICE", 4)
    found = []
    for name in ("_places_on_cpu", "_places_on_device"):
        find = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda x, find=find: found.append(x) or find(x))
    dense = np.random.default_rng(0).poisson(0.5, (6, 9)).astype(float)
    x = torch.from_numpy(dense).to_sparse_csr().to(device)
    x = ops.map_values(torch.sqrt, x)
    a = torch.ones(6, 2, dtype=torch.float64, device=device)
    for batch in (x, ops.map_values(torch.square, x)):
        parts = [part for _, part in ops.transposed_products(batch, a)]
        assert_allclose(torch.cat(parts).cpu(), batch.to_dense().cpu().T @ a.cpu())
    assert len(found) == 1


def test_patterns_of_an_accelerator_are_those_of_the_cpu():
    dense = np.random.default_rng(0).poisson(0.5, (6, 9)).astype(float)
    dense[:, 3] = 0
    x = torch.from_numpy(dense).to_sparse_csr()
    for one, other in zip(ops._places_on_device(x), ops._places_on_cpu(x), strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("is_whole", [True, False])
def test_halves_have_half_of_each_row(is_whole, device):
    rng = np.random.default_rng(0)
    dense = rng.poisson(1.5, (8, 30)).astype(float)
    dense[2] = 0
    dense[3, 1:] = 0
    if not is_whole:
        dense *= rng.uniform(size=dense.shape)
    x = torch.from_numpy(dense).to_sparse_csr().to(device)
    halves = [half.to_dense().cpu().numpy() for half in ops.halves(x)]
    assert_allclose(sum(halves), dense, rtol=1e-12)
    totals = [half.sum(1) for half in halves]
    assert np.abs(totals[0] - totals[1]).max() <= (1 if is_whole else 4)
    for half, whole in zip(ops.halves(x), halves, strict=True):
        assert half.values().numel() == (whole > 0).sum()
        assert (whole >= np.floor(dense / 2)).all()
    alone = ops.halves(x.to_dense()[5:6].to_sparse_csr())
    assert_array_equal(alone[0].to_dense().cpu(), halves[0][5:6])


def test_without_zeros_takes_what_has_none_as_it_is(dtype, device):
    X = sp.csr_matrix(sparse_matrix(12, 7).toarray())
    x = to_csr(X, dtype, device)
    assert ops.without_zeros(x) is x


def test_entries(batch):
    x = ops.without_zeros(batch.x)
    entries = Entries.of(x)
    assert entries.values.dtype == entries.totals.dtype == torch.float64
    rows, columns = np.nonzero(batch.dense)
    assert_array_equal(entries.rows.cpu(), rows)
    assert_array_equal(entries.columns.cpu(), columns)
    assert_array_equal(entries.values.cpu(), batch.dense[rows, columns])
    assert_allclose(entries.totals.cpu(), batch.dense.sum(1), rtol=1e-14)


@pytest.mark.parametrize("particles", [(), (3,), (2, 3)])
def test_sums_and_spreads_over_the_entries_of_rows(batch, particles):
    n_rows, n_features = batch.X.shape
    entries = Entries.of(ops.without_zeros(batch.x))
    terms = np.random.default_rng(1).normal(size=(*particles, n_rows, n_features))
    terms = torch.from_numpy(terms * (batch.dense != 0)).to(batch.device)
    sums = entries.row_sum(terms[..., entries.rows, entries.columns])
    assert sums.shape == (*particles, n_rows)
    assert_allclose(sums.cpu(), terms.sum(-1).cpu(), rtol=1e-12, atol=1e-13)
    of_rows = entries.of_rows(sums)
    assert_array_equal(of_rows.cpu(), sums[..., entries.rows].cpu())


def test_sums_of_entries_of_which_none_is_missing(device):
    x = to_csr(sp.csr_matrix(np.arange(1.0, 13).reshape(3, 4)), torch.float64, device)
    entries = Entries.of(x)
    assert entries.is_full
    terms = torch.arange(24.0, dtype=torch.float64, device=device).view(2, 12)
    expected = terms.view(2, 3, 4).sum(-1)
    assert torch.equal(entries.row_sum(terms), expected)


def gradients(outputs, *inputs):
    """Gradients of the outputs, weighted by numbers of their own."""
    weights = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype)
    weights = weights.view(outputs.shape).to(outputs.device)
    return torch.autograd.grad((outputs * weights).sum(), inputs)


def assert_close(actual, expected):
    rtol = 5 * RTOL[actual.dtype]
    assert actual.dtype == expected.dtype
    assert_allclose(actual.detach().cpu(), expected.detach().cpu(), rtol, 10 * rtol)


def test_product(batch):
    a = batch.normal(batch.X.shape[1], 5).requires_grad_()
    result = ops.product(batch.x, a)
    expected = batch.tensor(batch.dense) @ a
    assert_close(result, expected)
    assert_close(*gradients(result, a), *gradients(expected, a))


def test_double_product(batch):
    a = batch.normal(batch.x.shape[1], 4).float()
    # All entries, and a few of them.
    for n_rows in (len(batch.x), min(1, len(batch.x))):
        rows = torch.arange(n_rows, device=batch.device)
        x = ops.take_rows(batch.x, rows)
        expected = batch.dense[:n_rows] @ a.double().cpu().numpy()
        found = ops.double_product(x, a)
        assert found.dtype == torch.float64
        assert_allclose(found.cpu(), expected, rtol=1e-12, atol=1e-12)


def test_product_takes_gradients_that_are_not_contiguous(batch):
    a = batch.normal(batch.X.shape[1], 5).requires_grad_()
    (gradient,) = torch.autograd.grad(ops.product(batch.x, a).T.sum(), a)
    expected = batch.tensor(np.repeat(batch.dense.sum(0)[:, None], 5, 1))
    assert_close(gradient, expected)


@pytest.mark.parametrize("layout", LAYOUTS[1:], indirect=True)
@pytest.mark.parametrize("function", [ops.product, ops.products_at_entries])
def test_gradients_of_large_parameters_are_sparse(function, layout, dtype, device):
    X = sp.random(4, ops.SLICE // 4, density=1e-4, format="csr", random_state=0)
    x = Batch(X, layout, dtype, device)
    a = x.normal(X.shape[1], 5).requires_grad_()
    factors = (a,) if function is ops.product else (x.normal(4, 5), a)
    is_sparse = device == "cpu"
    function(x.x, *factors).square().sum().backward()
    assert a.grad.is_sparse == is_sparse
    expected = a.grad.to_dense()
    # Gradients add up in place where there are some already.
    a.grad = torch.ones_like(a)
    place = a.grad.data_ptr()
    function(x.x, *factors).square().sum().backward()
    assert a.grad.data_ptr() == place
    assert_close(a.grad, expected + 1)
    # What is no parameter has a gradient of the kind that functions expect.
    function(x.x, *factors[:-1], 2 * a).square().sum().backward()
    assert_close(a.grad, 5 * expected + 1)


def factors_at_entries(batch):
    """A batch's entries, its factors, and their product at the entries, dense."""
    a = batch.normal(batch.X.shape[0], 3).requires_grad_()
    b = batch.normal(batch.X.shape[1], 3, seed=2).requires_grad_()
    rows = np.repeat(np.arange(batch.X.shape[0]), np.diff(batch.X.indptr))
    return a, b, (a @ b.T)[rows, batch.X.indices]


@pytest.mark.parametrize("share", [0, 2], ids=["by a dense product", "at entries"])
@pytest.mark.parametrize("layout", LAYOUTS[1:], indirect=True)
def test_products_at_entries(batch, share, monkeypatch):
    monkeypatch.setattr(ops, "DENSE_SHARE", share)
    a, b, expected = factors_at_entries(batch)
    result = ops.products_at_entries(batch.x, a, b)
    assert_close(result, expected)
    for actual, gradient in zip(
        gradients(result, a, b), gradients(expected, a, b), strict=True
    ):
        assert_close(actual, gradient)


@pytest.mark.parametrize("layout", LAYOUTS[1:], indirect=True)
def test_products_at_entries_of_constants(batch):
    a, b, expected = factors_at_entries(batch)
    result = ops.products_at_entries(batch.x, a.detach(), b)
    assert_close(*gradients(result, b), *gradients(expected, b))
    a, b, expected = factors_at_entries(batch)
    result = ops.products_at_entries(batch.x, a, b.detach())
    assert_close(*gradients(result, a), *gradients(expected, a))


def test_products_at_the_entries_of_full_rows(dtype, device):
    X = sp.csr_matrix(np.arange(1.0, 13).reshape(3, 4))
    a, b, expected = factors_at_entries(Batch(X, "csr32", dtype, device))
    result = ops.products_at_entries(to_csr(X, dtype, device), a, b)
    assert_close(result, expected)
    for actual, gradient in zip(
        gradients(result, a, b), gradients(expected, a, b), strict=True
    ):
        assert_close(actual, gradient)


def test_gradients_are_those_of_differences(device):
    x = to_csr(sparse_matrix(9, 7), torch.float64, device)
    rng = np.random.default_rng(0)
    a, b = (
        torch.tensor(rng.normal(size=(n, 2)), device=device).requires_grad_()
        for n in (9, 7)
    )
    assert torch.autograd.gradcheck(lambda b: ops.product(x, b), (b,))
    assert torch.autograd.gradcheck(
        lambda a, b: ops.products_at_entries(x, a, b), (a, b)
    )


def mixed(number):
    """The finalizer of SplitMix64, by Python's integers."""
    number %= 2**64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % 2**64
    return number ^ (number >> 31)


def test_mix_is_splitmix64(device):
    rng = np.random.default_rng(0)
    numbers = rng.integers(-(2**63), 2**63, 100)
    numbers = np.r_[0, 1, -1, -(2**63), 2**63 - 1, numbers]
    result = noise.mix(torch.from_numpy(numbers).to(device)).cpu().numpy()
    expected = [mixed(int(number)) for number in numbers]
    assert result.view(np.uint64).tolist() == expected


def keys_of(x):
    return noise.row_keys(ops.without_zeros(x))


def test_keys_are_those_of_the_content(layout, dtype, device):
    dense = np.rint(sparse_matrix(23, 17).toarray())
    keys = keys_of(Batch(sp.csr_matrix(dense), layout, dtype, device).x)
    assert keys.dtype == torch.int64
    expected = keys_of(torch.tensor(dense, device=device))
    assert torch.equal(keys, expected)
    order = np.random.default_rng(0).permutation(23)
    X = sp.csr_matrix(dense[order])
    shuffled = keys_of(Batch(X, layout, dtype, device).x)
    assert torch.equal(shuffled, keys[torch.from_numpy(order).to(device)])


def test_gamma_quantiles_are_scipys(device):
    rng = np.random.default_rng(0)
    shape = 10 ** rng.uniform(-2, 5, (300, 1))
    levels = np.concatenate([rng.uniform(size=30), [1e-20, 1e-6, 1 - 1e-9]])
    expected = scipy.special.gammaincinv(shape, levels)
    found = noise.gamma_quantiles(
        torch.from_numpy(shape).to(device), torch.from_numpy(levels).to(device)
    )
    assert_allclose(found.cpu(), expected, rtol=1e-6, atol=1e-280)


def test_keys_do_not_depend_on_zeros_and_the_order_of_entries(device):
    sorted_entries = sp.csr_matrix([[0, 3.0, 1, 0, 2], [0, 0, 0, 0, 0]])
    unsorted = sp.csr_matrix(
        ([2.0, 0, 3, 1, 0], [4, 0, 1, 2, 3], [0, 4, 5]), shape=(2, 5)
    )
    keys = [
        keys_of(to_csr(X, torch.float64, device)) for X in (sorted_entries, unsorted)
    ]
    assert torch.equal(*keys)


def test_keys_of_different_rows_differ(device):
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [
            np.zeros((1, 30)),
            *(np.eye(30) * count for count in range(1, 40)),
            rng.permuted(np.repeat([[1, 2, 3, 4, 5] + [0] * 25], 500, 0), axis=1),
            rng.poisson(1.0, (3000, 30)),
            rng.random((200, 30)),
        ]
    )
    rows = np.unique(rows, axis=0)
    assert len(rows) > 4800
    keys = keys_of(torch.from_numpy(rows).to(device))
    assert len(keys.unique()) == len(rows)


def row_numbers(n_rows=500, n_draws=20, width=10, *, stream=0, dtype=torch.float64):
    """Noise of rows that differ in one count."""
    counts = np.ones((n_rows, 2))
    counts[:, 0] = np.arange(n_rows)
    keys = keys_of(torch.from_numpy(counts))
    return noise.keyed_normal(keys, n_draws, width, stream=stream, dtype=dtype)


@pytest.mark.parametrize("stream", [0, 1, 10**6, 2 * 10**6])
def test_keyed_numbers_are_standard_normal(stream):
    draws = row_numbers(stream=stream).numpy().ravel()
    assert np.isfinite(draws).all()
    n = len(draws)
    assert n == 500 * 20 * 10
    # Mean, and standard error, of the powers of normal numbers.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        z = (np.mean(draws**power) - mean) / np.sqrt(variance / n)
        assert abs(z) < 4.5
    assert scipy.stats.kstest(draws, "norm").pvalue > 1e-4


def test_keyed_numbers_are_independent():
    """Over rows, draws, positions and streams: no correlation, no number twice."""
    draws = torch.stack([row_numbers(stream=s) for s in range(4)]).numpy()
    assert len(np.unique(draws)) == draws.size
    for axis in range(draws.ndim):
        values = np.moveaxis(draws, axis, 0)
        for lag in (1, 2, 3):
            for power in (1, 2):
                pairs = np.stack([values[lag:].ravel(), values[:-lag].ravel()])
                correlation = np.corrcoef(pairs**power)[0, 1]
                assert abs(correlation) < 4.5 / np.sqrt(pairs.shape[1])


def test_each_row_and_position_has_normal_numbers():
    draws = torch.cat([row_numbers(stream=s) for s in range(4)]).numpy()
    for axes in ((0, 2), (0, 1), (1, 2)):
        n = np.prod([draws.shape[axis] for axis in axes])
        z = draws.mean(axes) * np.sqrt(n)
        # The largest of as many as there are.
        assert np.abs(z).max() < scipy.stats.norm.isf(1e-4 / z.size)
        spread = (draws.var(axes) - 1) * np.sqrt(n / 2)
        assert np.abs(spread).max() < 1.5 * scipy.stats.norm.isf(1e-4 / z.size)


def test_keyed_numbers_depend_on_the_key_alone(device):
    keys = torch.tensor([5, -3, 0, 2**62, 5], device=device)
    draws = noise.keyed_normal(keys, 4, 3, stream=7, dtype=torch.float64)
    assert draws.shape == (4, 5, 3)
    assert torch.equal(draws[:, 0], draws[:, 4])
    for index in range(4):
        key = keys[index : index + 1]
        alone = noise.keyed_normal(key, 4, 3, stream=7, dtype=torch.float64)
        assert torch.equal(alone[:, 0], draws[:, index])
    fewer = noise.keyed_normal(keys, 2, 3, stream=7, dtype=torch.float64)
    assert torch.equal(fewer, draws[:2])
    single = noise.keyed_normal(keys, 4, 3, stream=7, dtype=torch.float32)
    assert torch.equal(single, draws.float())


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_any_key_gives_finite_numbers(key, device):
    keys = torch.tensor([key], device=device)
    draws = noise.keyed_normal(keys, 100, 100, stream=0, dtype=torch.float32)
    assert draws.isfinite().all()
    assert abs(draws.mean()) < 4.5 / 100
    assert abs(draws.std() - 1) < 4.5 / 100
