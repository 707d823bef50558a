"""What users hand over, in every kind and state, at every method that takes it."""

import inspect

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from skdeepfactor import (
    DynamicTopicModel,
    LabeledLDA,
    LatentDirichletAllocation,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
)
from skdeepfactor._input import received
from skdeepfactor.data import RowBlocks, is_streamed
from skdeepfactor.inspection import (
    factor_shares,
    jacobian_embeddings,
    match_components,
    nearest_features,
    sparsity,
    to_pyldavis,
    top_rows,
    topics_over_time,
    topics_per_group,
    traverse,
)
from skdeepfactor.metrics import (
    completion_perplexity,
    npmi_coherence,
    scorers,
    split_features,
    split_tokens,
    topic_diversity,
)
from skdeepfactor.plotting import (
    EmbeddingDisplay,
    TraversalDisplay,
    UsageDisplay,
    topic_page,
)

X = np.random.default_rng(0).poisson(1.0, (12, 6)).astype(float)
COMPONENTS = np.random.default_rng(1).random((2, 6)) + 0.1


@pytest.fixture(scope="module")
def lda():
    return LatentDirichletAllocation(2, random_state=0).fit(X)


def taking_rows(estimator):
    """Names of the public methods that take rows."""
    for name, method in inspect.getmembers(estimator, callable):
        if not name.startswith(("_", "set_")):
            first, *_ = [*inspect.signature(method).parameters, ""]
            if first == "X":
                yield name


def called(estimator, name, X):
    """What a method makes of rows, with whatever else it needs."""
    more = (2,) if name == "recommend" else ()
    return getattr(estimator, name)(X, *more)


def of_rows(X):
    """A number for each row."""
    return np.arange(X.shape[0] if hasattr(X, "shape") else len(X))


def readers(model):
    """Functions that read rows, by name, given a fitted topic model."""
    return {
        "split_tokens": split_tokens,
        "completion_perplexity": lambda X: completion_perplexity(
            model, X, random_state=0
        ),
        "npmi_coherence": lambda X: npmi_coherence(COMPONENTS, X),
        **{name: lambda X, f=f: f(model, X) for name, f in scorers.items()},
        "top_rows": lambda X: top_rows(model, X, 0),
        "factor_shares": lambda X: factor_shares(model, X),
        "split_features": split_features,
        "topics_over_time": lambda X: topics_over_time(model, X, of_rows(X)).shares,
        "topics_per_group": lambda X: topics_per_group(model, X, of_rows(X)).shares,
        "to_pyldavis": lambda X: to_pyldavis(model, X),
        "traverse": lambda X: traverse(model, X, 0, [0.2, 0.5]),
        "topic_page": lambda X: topic_page(model, X, path="page.html"),
        "UsageDisplay": lambda X: UsageDisplay.from_estimator(model, X),
        "TraversalDisplay": lambda X: TraversalDisplay.from_estimator(model, X),
    }


# Sparse matrices with an entry outside of their 2 rows and 6 columns, and what is said.
def compressed(kind, indices, indptr, shape=(2, 6), **more):
    return kind((np.ones(len(indices)), indices, indptr), shape=shape, **more)


def spoilt(matrix, **arrays):
    """A matrix whose arrays were changed after SciPy had looked at some of them."""
    for name, array in arrays.items():
        setattr(matrix, name, np.asarray(array))
    return matrix


FINE = [[1, 0, 2, 0, 0, 0], [0, 0, 0, 1, 0, 0]]
BAD = {
    "ids from 1": (
        compressed(scipy.sparse.csr_matrix, [1, 3, 6], [0, 2, 3]),
        r"shape \(2, 6\) with an entry at row 1, column 6, .* ids were counted from 1",
    ),
    "ids from 1, an array": (
        compressed(scipy.sparse.csr_array, [1, 6, 3], [0, 2, 3]),
        "at row 0, column 6",
    ),
    "far too large": (
        compressed(scipy.sparse.csr_matrix, [1, 10**9, 3], [0, 2, 3]),
        "at row 0, column 1000000000",
    ),
    "negative": (
        compressed(scipy.sparse.csr_matrix, [1, 2, -1], [0, 2, 3]),
        "at row 1, column -1",
    ),
    "columns": (
        compressed(scipy.sparse.csc_matrix, [1, 0, 2], [0, 0, 2, 2, 2, 3, 3]),
        "at row 2, column 4",
    ),
    "blocks": (
        scipy.sparse.bsr_matrix(
            (np.ones((2, 1, 2)), [0, 3], [0, 1, 2]), shape=(2, 6), blocksize=(1, 2)
        ),
        "at row 1, column 6",
    ),
    "triplets": (
        spoilt(scipy.sparse.coo_matrix(FINE), col=[0, 2, 6]),
        "at row 1, column 6",
    ),
    "lists": (
        spoilt(scipy.sparse.lil_matrix(FINE), rows=np.array([[0, 6], [3]], object)),
        "at row 0, column 6",
    ),
    "rows that end before they start": (
        spoilt(scipy.sparse.csr_matrix(FINE), indptr=[0, 5, 3]),
        "by indptr, row 0 goes from entry 0 to entry 5 of 3",
    ),
    "rows beyond the end": (
        spoilt(scipy.sparse.csr_matrix(FINE), indptr=[0, 2, 9]),
        "by indptr, row 1 goes from entry 2 to entry 9 of 3",
    ),
    "too few rows": (
        spoilt(scipy.sparse.csr_matrix(FINE), indptr=[0, 3]),
        "indptr must start with 0 and have 3 entries, got 2",
    ),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_sparse_matrices_hold_together(bad, message, lda):
    new = PoissonFactorization(2, random_state=0)
    for fit in (new.fit, new.partial_fit, lambda Y: new.fit(X, X_val=Y)):
        with pytest.raises(ValueError, match=message):
            fit(bad)
    fine = np.array(FINE)
    for source in ([fine, bad], [[fine, bad]], lambda: iter([fine, bad])):
        with pytest.raises(ValueError, match=message):
            new.fit(RowBlocks(source))
    with pytest.raises(ValueError, match=message):
        RowBlocks(bad)
    for read in readers(lda).values():
        with pytest.raises(ValueError, match=message):
            read(bad)


@pytest.mark.each_class
def test_no_method_takes_a_matrix_that_does_not_hold_together(estimator, counts):
    estimator.fit(counts)
    bad = counts.copy()
    bad.indices += 1
    row = np.flatnonzero(counts[:, -1].toarray())[0]
    names = list(taking_rows(estimator))
    assert {"fit", "fit_transform", "partial_fit", "transform", "score"} <= {*names}
    for name in names:
        with pytest.raises(ValueError, match=f"at row {row}, column 30"):
            called(estimator, name, bad)
    with pytest.raises(ValueError, match=f"at row {row}, column 30"):
        estimator.fit(counts, X_val=bad)


def test_embeddings_are_of_rows_that_hold_together(counts):
    model = VariationalAutoencoder(2, max_iter=1, random_state=0).fit(counts)
    bad = counts.copy()
    bad.indices -= 1
    with pytest.raises(ValueError, match="column -1"):
        jacobian_embeddings(model, bad)


def test_room_for_further_entries_is_none(counts):
    roomy = counts.astype(np.float64)
    expected = PoissonFactorization(2, random_state=0).fit_transform(roomy)
    roomy.data = np.append(roomy.data, [np.nan, 5.0])
    roomy.indices = np.append(roomy.indices, [0, 99]).astype(roomy.indices.dtype)
    found = PoissonFactorization(2, random_state=0).fit_transform(roomy)
    np.testing.assert_array_equal(found, expected)
    assert len(roomy.data) == counts.nnz + 2


def test_what_holds_together_is_not_copied(counts):
    assert received(counts) is counts
    for name in ("csc", "bsr", "coo", "dok", "dia"):
        other = counts.asformat(name)
        assert received(other) is other


MASK = np.zeros(X.shape, dtype=bool)
MASK[2, 3] = MASK[5, 0] = True
MASKED = np.ma.array(np.where(MASK, 999.0, X), mask=MASK)
NAN = np.where(MASK, np.nan, X)


@pytest.mark.parametrize(
    "masked",
    [MASKED, MASKED.astype(np.int64), [*MASKED], np.ma.array(MASKED, order="F")],
    ids=["floats", "integers", "a list of rows", "columns"],
)
def test_what_is_masked_is_missing(masked):
    def new():
        return PoissonFactorization(2, missing_values="ignore", random_state=0)

    expected = new().fit(NAN)
    assert np.isfinite(expected.transform(NAN)).all()
    model = new().fit(masked)
    np.testing.assert_array_equal(model.components_, expected.components_)
    for name in taking_rows(expected):
        if name not in ("fit", "fit_transform", "partial_fit"):
            found = called(expected, name, masked)
            np.testing.assert_array_equal(found, called(expected, name, NAN))
    if isinstance(masked, list):
        return
    blocks = RowBlocks([masked[:5], masked[5:]])
    streamed = new().fit(blocks).components_
    whole = new().fit(RowBlocks([NAN[:5], NAN[5:]])).components_
    np.testing.assert_array_equal(streamed, whole)
    parts = new().fit(RowBlocks([[np.ma.array(part) for part in (NAN[:5], NAN[5:])]]))
    np.testing.assert_allclose(parts.components_, expected.components_)
    shares = factor_shares(expected, masked)
    np.testing.assert_array_equal(shares, factor_shares(expected, NAN))


def test_masked_rows_take_the_type_of_numbers_of_the_rest():
    assert received(MASKED.astype(np.float32)).dtype == np.float32
    # Nothing is masked, so nothing need be NaN.
    whole = np.ma.array(X.astype(np.int16), mask=np.zeros(X.shape))
    assert type(received(whole)) is np.ndarray
    assert received(whole).dtype == np.int16


@pytest.mark.each_class
def test_no_method_takes_masked_entries_for_numbers(estimator, counts):
    counts = counts.toarray()
    masked = np.ma.array(counts, mask=np.eye(*counts.shape, dtype=bool))
    estimator.fit(counts)
    names = list(taking_rows(estimator))
    if estimator.get_params().get("missing_values") == "ignore":
        # It finds the same whatever lies under the mask.
        other = np.ma.array(np.where(masked.mask, 77, counts), mask=masked.mask)
        for name in set(names) - {"fit", "fit_transform", "partial_fit"}:
            one, two = (called(estimator, name, rows) for rows in (masked, other))
            np.testing.assert_array_equal(one, two)
        return
    for name in names:
        with pytest.raises(ValueError, match="of which 30 entries are masked, where"):
            called(estimator, name, masked)
    with pytest.raises(ValueError, match="30 entries are masked"):
        estimator.fit(counts, X_val=masked)
    with pytest.raises(ValueError, match="30 entries are masked"):
        estimator.fit(RowBlocks([counts, masked]))
    factors = np.ma.array(np.ones((2, len(estimator.components_))), mask=False)
    factors[1, 0] = np.ma.masked
    with pytest.raises(ValueError, match="contains NaN"):
        estimator.inverse_transform(factors)


def test_masked_times_and_labels_are_missing():
    """They were no numbers that NaN could stand for."""
    mask = np.arange(12) == 3
    dates = np.array(["2000-01-01", "2001-01-01"], "datetime64[D]").repeat(6)
    model = DynamicTopicModel(2, max_iter=1, random_state=0)
    with pytest.raises(ValueError, match="1 of them NaT"):
        model.fit(X, times=np.ma.array(dates, mask=mask))
    labels = np.array([0, 1]).repeat(6)
    for kind in (int, str, object):
        y = np.ma.array(labels.astype(kind), mask=mask)
        known = [None if is_out else v for v, is_out in zip(y.data, mask, strict=True)]
        masked, expected = (
            LabeledLDA(max_iter=2, random_state=0).fit(X, given) for given in (y, known)
        )
        assert masked.classes_.tolist() == expected.classes_.tolist()
        np.testing.assert_array_equal(masked.components_, expected.components_)


def test_indicators_of_labels_hold_together():
    bad = scipy.sparse.csr_matrix(np.eye(12)[:, :3])
    bad.indices = bad.indices + 3
    model = LabeledLDA(max_iter=1, random_state=0)
    with pytest.raises(ValueError, match="at row 0, column 3"):
        model.fit(X, bad)
    indicator = torch.eye(2).repeat(6, 1)
    for y in (indicator, indicator.to_sparse()):
        assert model.fit(X, y).classes_.tolist() == [0, 1]


def test_readers_take_no_masked_entries_for_numbers(lda):
    for name in ("split_tokens", "completion_perplexity", "npmi_coherence", "top_rows"):
        with pytest.raises(ValueError, match=r"NaN|masked"):
            readers(lda)[name](MASKED)
    # What is missing counts as none, where the model takes it.
    model = PoissonFactorization(2, missing_values="ignore", random_state=0).fit(NAN)
    found, expected = to_pyldavis(model, MASKED), to_pyldavis(model, NAN)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    weights = np.ma.array(COMPONENTS, mask=COMPONENTS > 0.9)
    for read in (
        lambda: npmi_coherence(weights, X),
        lambda: topic_diversity(weights),
        lambda: sparsity(weights),
        lambda: match_components(weights, COMPONENTS),
        lambda: nearest_features(weights, 0, 1),
        lambda: EmbeddingDisplay.from_embeddings(weights),
        lambda: traverse(lda, X[0], 0, weights[0]),
    ):
        with pytest.raises(ValueError, match="NaN"):
            read()


@pytest.mark.parametrize("kind", [LatentDirichletAllocation, PoissonFactorization])
def test_weights_and_priors_are_not_masked(kind):
    weights = np.ma.array(np.ones(12), mask=np.arange(12) == 3)
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        kind(2).fit(X, sample_weight=weights)
    model = kind(2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        model.score(X, sample_weight=weights)
    prior = np.ma.array([0.1, 0.2], mask=[False, True])
    name = "factor_shape" if kind is PoissonFactorization else "doc_topic_prior"
    with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
        kind(2, **{name: prior}).fit(X)
    init = np.ma.array(COMPONENTS, mask=COMPONENTS > 0.9)
    with pytest.raises(ValueError, match="contains NaN"):
        kind(2, init=init).fit(X)
    with pytest.raises(ValueError, match="layer_shape must be a positive number"):
        SparseGammaDEF((3, 2), layer_shape=prior).fit(X)


# What is in memory, of classes as anndata makes them for views.
class ArrayView(np.ndarray):
    pass


class SparseView(scipy.sparse.csr_matrix):
    pass


class TableView(pd.DataFrame):
    pass


for view in (ArrayView, SparseView, TableView):
    view.__module__ = "anndata._core.views"


def test_views_in_memory_are_no_streams():
    # More rows than a stream's fit starts from.
    rows = np.random.default_rng(0).poisson(0.5, (20_010, 4))
    views = [rows.view(ArrayView), SparseView(rows), TableView(rows)]
    expected = PoissonFactorization(2, max_iter=1, random_state=0).fit(rows)
    for view in views:
        assert not is_streamed(view)
        model = PoissonFactorization(2, max_iter=1, random_state=0).fit(view)
        np.testing.assert_allclose(
            model.components_, expected.components_, rtol=1e-4, err_msg=str(type(view))
        )


@pytest.mark.filterwarnings("ignore")  # anndata uses what pandas will drop.
def test_views_of_an_anndata_are_no_streams():
    anndata = pytest.importorskip("anndata")
    rows = np.random.default_rng(0).poisson(0.5, (20_020, 4)).astype(np.float32)
    expected = PoissonFactorization(2, max_iter=1, random_state=0).fit(rows[:-10])
    for kind in (np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix):
        view = anndata.AnnData(kind(rows))[:-10].X
        assert not is_streamed(view)
        model = PoissonFactorization(2, max_iter=1, random_state=0).fit(view)
        np.testing.assert_allclose(model.components_, expected.components_, rtol=1e-4)


REVERSED = np.linspace(0.1, 1, 2)[::-1]
WIDE = np.linspace(0.1, 1, 12).reshape(2, 6)[::-1, ::-1]


@pytest.mark.parametrize(
    ("kind", "name", "prior"),
    [
        (LatentDirichletAllocation, "doc_topic_prior", REVERSED),
        (LatentDirichletAllocation, "topic_word_prior", WIDE[0]),
        (LatentDirichletAllocation, "topic_word_prior", WIDE),
        (LatentDirichletAllocation, "init", WIDE),
        (PoissonFactorization, "factor_shape", REVERSED),
        (PoissonFactorization, "weight_shape", WIDE),
        (PoissonFactorization, "init", WIDE),
        (SparseGammaDEF, "init", WIDE),
        (SparseGammaDEF, "layer_shape", [*REVERSED]),
    ],
)
def test_priors_may_run_backwards_and_be_read_only(kind, name, prior):
    is_def = kind is SparseGammaDEF

    def fitted(prior):
        sizes = {"layer_shape": (2, 2), "init": (2,)}[name] if is_def else 2
        return kind(sizes, **{name: prior}, max_iter=3, random_state=0).fit(X)

    expected = fitted(np.array(prior).tolist() if name != "init" else np.array(prior))
    np.testing.assert_array_equal(fitted(prior).components_, expected.components_)
    frozen = np.array(prior)
    frozen.flags.writeable = False
    if name != "layer_shape":
        np.testing.assert_array_equal(fitted(frozen).components_, expected.components_)


@pytest.mark.parametrize("kind", [LatentDirichletAllocation, PoissonFactorization])
def test_the_order_of_memory_of_a_start_changes_no_bit(kind, counts):
    init = np.random.default_rng(0).random((3, 30))
    by_row, by_column = (
        kind(3, init=array, max_iter=2, random_state=0).fit(counts).components_
        for array in (init, np.asfortranarray(init))
    )
    np.testing.assert_array_equal(by_column, by_row)


@pytest.mark.parametrize(
    "kind", [LatentDirichletAllocation, PoissonFactorization, SparseGammaDEF]
)
def test_rows_and_weights_may_run_backwards_and_be_read_only(kind):
    sizes = (2,) if kind is SparseGammaDEF else 2
    weights = np.linspace(0.5, 2, 12)
    frozen = weights[::-1].copy()
    frozen.flags.writeable = False
    models = [
        kind(sizes, max_iter=3, random_state=0).fit(rows, sample_weight=sample_weight)
        for rows, sample_weight in [
            (X[::-1].copy(), weights[::-1].copy()),
            (X[::-1], weights[::-1]),
            (X[::-1].copy(order="F"), frozen),
        ]
    ]
    for model in models[1:]:
        np.testing.assert_array_equal(model.components_, models[0].components_)
    Z = models[0].transform(X)
    np.testing.assert_allclose(
        models[0].inverse_transform(Z[::-1]), models[0].inverse_transform(Z)[::-1]
    )
    model = kind(sizes, batch_size=4, max_iter=2, random_state=0)
    model.fit(X, sample_weight=weights[::-1]).partial_fit(
        X, sample_weight=weights[::-1]
    )


def test_readers_take_half_precision(lda):
    # Sums above 65,504, which is infinite in float16.
    large = (X * 8192).astype(np.float16)
    model = LatentDirichletAllocation(2, random_state=0).fit(large)
    expected = to_pyldavis(model, large.astype(np.float64))
    assert expected["term_frequency"].min() > 0
    assert expected["term_frequency"].max() > 65_504
    for half in (large, pd.DataFrame(large)):
        found = to_pyldavis(model, half)
        for name in ("doc_lengths", "term_frequency"):
            np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_allclose(
            found["doc_topic_dists"], expected["doc_topic_dists"], atol=1e-4
        )
        read = readers(model)
        for name in ("completion_perplexity", "npmi_coherence", *scorers):
            value = read[name](large.astype(np.float32))
            assert read[name](half) == pytest.approx(value, rel=1e-3)
        observed, hidden = split_tokens(half, random_state=0)
        assert observed.dtype == hidden.dtype == np.float32
        np.testing.assert_array_equal((observed + hidden).toarray(), large)


def test_topic_pages_take_half_precision(tmp_path):
    large = (X * 2000).astype(np.float16)
    model = LatentDirichletAllocation(2, random_state=0).fit(large)
    pages = [
        topic_page(model, rows, path=tmp_path / f"{rows.dtype}.html").read_text()
        for rows in (large, large.astype(np.float32))
    ]
    assert pages[0] == pages[1]
