"""Rows that come in blocks: the same fit, and errors that say where."""

import threading

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skdeepfactor import LatentDirichletAllocation, PoissonFactorization
from skdeepfactor._math.batch import Wanted
from skdeepfactor._training.distributed import Share
from skdeepfactor._training.rows import ALONE, MatrixRows, ahead
from skdeepfactor._training.streams import CheckedBlocks, StreamedRows
from skdeepfactor.data import RowBlocks
from tests.conftest import taken


def cut(X, size=13):
    return [X[start : start + size] for start in range(0, X.shape[0], size)]


def streamed(blocks, share=ALONE):
    return StreamedRows(CheckedBlocks(blocks, lambda block, _: block), share)


@pytest.fixture
def doubles(counts):
    return counts.astype(np.float64)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() <= before


# The rows.


@pytest.mark.parametrize("batch_size", [None, 5, 20, 1000])
@pytest.mark.parametrize("share", [ALONE, Share(0, 2), Share(1, 2), Share(2, 3)])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_each_row_comes_once_in_a_pass(batch_size, share, is_streamed):
    X = np.arange(57 * 3, dtype=float).reshape(57, 3)
    rows = MatrixRows(X, share)
    if is_streamed:
        rows = streamed(RowBlocks(cut(X, 10)), share)
    own = X[share.rank :: share.n_processes]
    assert (rows.n_total, rows.n_samples) == (57, len(own))
    rng = np.random.RandomState(0)
    for _ in range(2):
        seen, n_rows_of_steps, sizes = np.zeros(len(own)), [], []
        step = []
        for part in rows.parts(batch_size, rng, Wanted(3)):
            if part is None:
                sizes.append(step)
                step = []
                continue
            batch, numbers, on = part
            assert_array_equal(batch.x, own[numbers])
            seen[numbers] += 1
            step += [on.n_rows] * len(batch)
        assert_array_equal(seen, 1)
        size = batch_size or 57
        assert len(sizes) == -(-57 // size)
        n_rows_of_steps = [{min(size, 57 - i * size)} for i in range(len(sizes))]
        for found, expected in zip(sizes, n_rows_of_steps, strict=True):
            assert set(found) <= expected


def test_shares_of_a_step_make_it_whole():
    X = np.arange(30.0)[:, np.newaxis]
    for make in (
        lambda share: MatrixRows(X, share),
        lambda share: streamed(RowBlocks(cut(X, 7)), share),
    ):
        steps = []
        for rank in range(3):
            rows, found = make(Share(rank, 3)), [set()]
            for part in rows.parts(8, np.random.RandomState(3), Wanted(1)):
                if part is None:
                    found.append(set())
                else:
                    found[-1] |= set(part[0].x[:, 0].tolist())
            steps.append(found)
        assert {len(found) for found in steps} == {5}
        for parts in list(zip(*steps, strict=True))[:-1]:
            assert sum(map(len, parts)) == len(set().union(*parts))
        sizes = [sum(map(len, parts)) for parts in zip(*steps, strict=True)]
        assert sizes == [8, 8, 8, 6, 0]


def test_batches_are_shuffled_between_and_within_blocks():
    X = np.arange(40.0)[:, np.newaxis]
    rows = streamed(RowBlocks(cut(X, 10)))
    rng = np.random.RandomState(0)
    orders = [
        np.concatenate([p[1] for p in rows.parts(8, rng, Wanted(1)) if p is not None])
        for _ in range(3)
    ]
    firsts = {order[0] // 10 for order in orders}
    assert len(firsts) > 1
    for order in orders:
        assert sorted(order) == list(range(40))
        assert any(np.diff(order[:10]) != 1)
        # A block's rows stay together, so that one block is in memory at a time.
        assert len(np.flatnonzero(np.diff(order // 10))) == 3


def test_a_mere_iterable_keeps_the_order_of_its_blocks():
    X = np.arange(40.0)[:, np.newaxis]
    rows = streamed(RowBlocks(lambda: iter(cut(X, 10))))
    parts = rows.parts(10, np.random.RandomState(0), Wanted(1))
    order = np.concatenate([part[1] for part in parts if part is not None])
    assert_array_equal(order // 10, np.arange(40) // 10)
    assert any(np.diff(order) != 1)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_rows_can_be_taken_and_left_out(doubles, is_streamed):
    rows = MatrixRows(doubles)
    if is_streamed:
        rows = streamed(RowBlocks(cut(doubles)))
    out = np.array([0, 12, 13, 30, 59])
    assert_array_equal(rows.take(out).toarray(), doubles[out].toarray())
    rest, some = rows.split(out)
    assert_array_equal(some.take(np.arange(5)).toarray(), doubles[out].toarray())
    kept = np.setdiff1d(np.arange(60), out)
    assert rest.n_samples == 55
    assert_array_equal(rest.take(np.arange(55)).toarray(), doubles[kept].toarray())
    assert_array_equal(rest.totals(), np.asarray(doubles[kept].sum(1)).ravel())
    found = np.concatenate([batch.x.to_dense() for batch, _ in rest.batches(Wanted(3))])
    assert_array_equal(found, doubles[kept].toarray())
    assert rows.n_samples == 60


# The fit.


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_full_fit_is_that_in_memory(conjugate, doubles, is_warm):
    conjugate.set_params(batch_size=None, max_iter=15, tol=0.0)
    conjugate.set_params(warm_start=is_warm)
    expected, found = clone(conjugate).fit(doubles), clone(conjugate)
    found.fit(RowBlocks(cut(doubles)))
    if is_warm:
        expected.fit(doubles)
        found.fit(RowBlocks(cut(doubles)))
    assert_allclose(found.components_, expected.components_, rtol=1e-6, atol=1e-9)
    bounds = [m.history_["lower_bound"] for m in (found, expected)]
    # Where the bound stands still, rounding says which pass is the last.
    n_passes = min(map(len, bounds))
    assert_allclose(*(bound[:n_passes] for bound in bounds), rtol=1e-7)
    assert_array_equal(found._row_totals, expected._row_totals)
    assert found.n_features_in_ == 30


def test_every_model_takes_blocks(estimator, doubles):
    X = taken(estimator, doubles)
    estimator.set_params(max_iter=2, batch_size=16)
    blocks = RowBlocks(cut(X))
    fitted = clone(estimator).fit(blocks)
    again = clone(estimator).fit(blocks)
    assert_array_equal(fitted.components_, again.components_)
    assert np.isfinite(fitted.lower_bound_)
    assert fitted.n_samples_seen_ == 60
    Z = fitted.transform(X)
    assert_allclose(fitted.transform(blocks), Z, rtol=1e-6, atol=1e-9)
    assert_allclose(
        fitted.score_samples(blocks), fitted.score_samples(X), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("batch_size", [None, 16])
def test_rows_held_out_are_the_same(doubles, batch_size):
    model = PoissonFactorization(
        3, validation_fraction=0.2, batch_size=batch_size, max_iter=5, random_state=0
    )
    expected = clone(model).fit(doubles)
    found = clone(model).fit(RowBlocks(cut(doubles)))
    scores = [m.history_["validation_score"] for m in (found, expected)]
    assert_allclose(scores[0][0], scores[1][0], rtol=0.05)
    if batch_size is None:
        assert_allclose(*scores, rtol=1e-6)
    assert found.n_samples_seen_ == 48


def test_validation_rows_may_come_in_blocks(doubles):
    model = PoissonFactorization(3, max_iter=4, random_state=0)
    expected = clone(model).fit(doubles[:40], X_val=doubles[40:])
    blocks = RowBlocks(cut(doubles[40:], 7))
    found = clone(model).fit(doubles[:40], X_val=blocks)
    assert_allclose(
        found.history_["validation_score"],
        expected.history_["validation_score"],
        rtol=1e-7,
    )


def test_factors_are_written_to_a_file(doubles, tmp_path):
    model = PoissonFactorization(3, random_state=0).fit(doubles)
    Z = model.transform(RowBlocks(cut(doubles)), out=tmp_path / "z.npy")
    assert isinstance(Z, np.memmap)
    assert not Z.flags.writeable
    assert_allclose(Z, model.transform(doubles), rtol=1e-7)
    assert_array_equal(np.load(tmp_path / "z.npy"), Z)
    with pytest.raises(ValueError, match="return_std=False"):
        model.transform(doubles, return_std=True, out=tmp_path / "z.npy")


def test_inference_reads_a_stream_once(doubles, tmp_path):
    model = PoissonFactorization(3, random_state=0).fit(doubles)
    n_reads = 0

    def source():
        nonlocal n_reads
        n_reads += 1
        yield from cut(doubles)

    blocks = RowBlocks(source)
    for infer in (model.transform, model.score_samples, model.perplexity):
        before = n_reads
        assert_allclose(infer(blocks), infer(doubles), rtol=1e-7)
        assert n_reads == before + 1
    model.transform(blocks, out=tmp_path / "z.npy")
    assert n_reads == before + 2


def test_inference_needs_a_row(doubles, tmp_path):
    model = PoissonFactorization(3, random_state=0).fit(doubles)
    for out in (None, tmp_path / "z.npy"):
        with pytest.raises(ValueError, match="The source has no rows"):
            model.transform(RowBlocks([]), out=out)
    assert not list(tmp_path.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(doubles, tmp_path):
    model = PoissonFactorization(3, random_state=0).fit(doubles)
    path = tmp_path / "z.npy"
    expected = model.transform(doubles, out=path).copy()

    def source():
        yield doubles[:20]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        model.transform(RowBlocks(source), out=path)
    assert_array_equal(np.load(path), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["z.npy"]
    with pytest.raises(ValueError, match="in a folder that does not exist"):
        model.transform(doubles, out=tmp_path / "no" / "z.npy")
    # What is read may be what is written.
    np.save(path, doubles.toarray())
    Z = model.transform(np.load(path, mmap_mode="r"), out=path)
    assert_allclose(Z, expected)


# Sources.


def test_sources_of_all_kinds(doubles, tmp_path):
    parts = cut(doubles)
    paths = [tmp_path / f"{i}.npz" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        scipy.sparse.save_npz(path, part)
    dense = [tmp_path / f"{i}.npy" for i in range(len(parts))]
    for path, part in zip(dense, parts, strict=True):
        np.save(path, part.toarray())
    arrays = {}
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(doubles, name))
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    mapped = scipy.sparse.csr_matrix(tuple(arrays.values()), shape=doubles.shape)
    sources = [
        RowBlocks(parts),
        RowBlocks(tuple(parts)),
        RowBlocks(paths),
        RowBlocks([str(path) for path in dense]),
        RowBlocks(lambda: iter(parts)),
        RowBlocks(mapped, block_rows=11),
        RowBlocks(doubles.toarray(), block_rows=100),
        RowBlocks([scipy.sparse.csr_array(part) for part in parts]),
        RowBlocks([parts[0], parts[0][:0], *parts[1:]]),
        RowBlocks([parts[:2], parts[2:]]),
    ]
    model = LatentDirichletAllocation(3, max_iter=3, random_state=0)
    expected = model.fit(doubles).components_
    for source in sources:
        assert_allclose(model.fit(source).components_, expected, rtol=1e-6)


def test_arrays_and_bags_of_dask(doubles):
    array = pytest.importorskip("dask.array")
    bag = pytest.importorskip("dask.bag")
    model = PoissonFactorization(3, max_iter=3, random_state=0)
    expected = model.fit(doubles).components_
    rows = array.from_array(doubles.toarray(), chunks=(17, 8))
    assert_allclose(model.fit(rows).components_, expected, rtol=1e-6)
    blocks = bag.from_sequence(cut(doubles), npartitions=2)
    assert_allclose(model.fit(blocks).components_, expected, rtol=1e-6)


# anndata uses what newer versions of pandas warn of.
@pytest.mark.filterwarnings("default")
def test_backed_anndata(doubles, tmp_path):
    anndata = pytest.importorskip("anndata")
    anndata.AnnData(doubles).write_h5ad(tmp_path / "cells.h5ad")
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = PoissonFactorization(3, max_iter=3, random_state=0)
    expected = model.fit(doubles).components_
    assert_allclose(model.fit(cells.X).components_, expected, rtol=1e-6)


def test_data_sets_of_h5py(doubles, tmp_path):
    h5py = pytest.importorskip("h5py")
    model = PoissonFactorization(3, max_iter=3, random_state=0)
    expected = model.fit(doubles).components_
    with h5py.File(tmp_path / "counts.h5", "w") as file:
        file["X"] = doubles.toarray()
        assert_allclose(model.fit(file["X"]).components_, expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_blocks_may_be_of_different_kinds(doubles, batch_size):
    parts = cut(doubles)
    parts[0] = parts[0].toarray()
    parts[1] = parts[1].astype(np.float32)
    parts[2] = parts[2].tocoo()
    parts[3] = parts[3].astype(int)
    model = PoissonFactorization(3, batch_size=batch_size, max_iter=4, random_state=0)
    found = model.fit(RowBlocks(parts)).components_
    expected = model.fit(RowBlocks(cut(doubles))).components_
    assert found.dtype == np.float64
    assert_allclose(found, expected, rtol=1e-9)
    # float64 wherever there is some.
    parts[0] = cut(doubles)[0].astype(np.float32)
    assert model.fit(RowBlocks(parts)).components_.dtype == np.float64


def test_a_model_for_other_columns_names_the_row_too(doubles):
    model = PoissonFactorization(3).fit(doubles[:, :20])
    X = doubles.toarray()
    X[31, 4] = np.nan
    with pytest.raises(ValueError, match=r"a bad row, 31: .*NaN"):
        model.fit(RowBlocks(cut(X)))


@pytest.mark.parametrize("block_rows", [0, -5, 2.5])
def test_bad_numbers_of_rows(doubles, block_rows):
    with pytest.raises(ValueError, match="block_rows must be an int of at least 1"):
        RowBlocks(doubles, block_rows=block_rows)


# anndata uses what newer versions of pandas warn of.
@pytest.mark.filterwarnings("default")
def test_an_anndata_is_no_matrix(doubles):
    anndata = pytest.importorskip("anndata")
    with pytest.raises(TypeError, match="of an AnnData pass its X"):
        RowBlocks(anndata.AnnData(doubles))


@pytest.mark.parametrize("source", ["counts.npz", 3, None, {"a": 1}])
def test_what_is_no_source(source):
    with pytest.raises(TypeError, match="needs a sequence or an iterable"):
        RowBlocks(source)


def test_tables_are_no_blocks(doubles):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(
        TypeError, match="of pandas, which is in memory: pass it to fit"
    ):
        RowBlocks(pandas.DataFrame(doubles.toarray()))


def test_a_step_takes_one_block(doubles):
    model = PoissonFactorization(3)
    with pytest.raises(TypeError, match="one block at a time"):
        model.partial_fit(RowBlocks(cut(doubles)))
    assert not vars(model).keys() - model.get_params().keys()


def test_an_iterator_cannot_be_started_again(doubles):
    with pytest.raises(TypeError, match="partial_fit"):
        RowBlocks(iter(cut(doubles)))


# Errors.


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_bad_value_is_named_with_its_row(doubles, is_sparse):
    X = doubles.toarray()
    X[31, 4] = np.nan
    parts = cut(scipy.sparse.csr_matrix(X) if is_sparse else X)
    model = PoissonFactorization(3)
    with pytest.raises(
        ValueError, match=r"Block 2 .* row 26, has a bad row, 31: .*NaN"
    ):
        model.fit(RowBlocks(parts))
    assert not model.__sklearn_is_fitted__()
    assert not vars(model).keys() & {"n_features_in_", "components_"}
    X[31, 4] = -1
    with pytest.raises(ValueError, match=r"a bad row, 31: Negative values"):
        model.fit(RowBlocks(cut(X)))


def test_a_block_with_other_columns_is_named(doubles):
    parts = cut(doubles)
    parts[3] = parts[3][:, :-1]
    with pytest.raises(ValueError, match=r"Block 3 .* has 29 columns, .* have 30"):
        PoissonFactorization(3).fit(RowBlocks(parts))


def test_a_block_that_is_no_matrix_is_named(doubles):
    parts = [*cut(doubles), 3]
    with pytest.raises(ValueError, match=r"Block 5 .* must be a matrix, got int"):
        PoissonFactorization(3).fit(RowBlocks(parts))


def test_a_source_without_rows():
    with pytest.raises(ValueError, match="no rows"):
        PoissonFactorization(3).fit(RowBlocks([]))


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("n_good", [0, 2, 12])
def test_a_source_that_fails_leaves_nothing_behind(doubles, batch_size, n_good):
    class Failing(list):
        n_read = 0

        def __getitem__(self, number):
            self.n_read += 1
            if self.n_read > n_good:
                raise OSError("the disk is gone")
            return super().__getitem__(number)

    model = PoissonFactorization(3, batch_size=batch_size)
    before = dict(vars(model))
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(RowBlocks(Failing(cut(doubles))))
    assert vars(model) == before


@pytest.mark.parametrize("change", ["fewer rows", "fewer blocks"])
def test_a_source_must_give_the_same_again(doubles, change):
    reads = []

    def source():
        reads.append(None)
        parts = cut(doubles)
        if len(reads) == 3:
            if change == "fewer rows":
                parts[1] = parts[1][:5]
            else:
                parts.pop()
        return iter(parts)

    with pytest.raises(ValueError, match="the same rows again"):
        PoissonFactorization(3).fit(RowBlocks(source))


def test_reading_ahead_keeps_order_and_errors():
    def items():
        yield from range(20)
        raise RuntimeError("the end")

    found = []
    with pytest.raises(RuntimeError, match="the end"):
        found.extend(ahead(items(), 2))
    made = []
    for item in ahead((made.append(i) or i for i in range(100)), 3):
        found.append(item)
        if item == 5:
            break
    assert len(made) < 15
