"""What users hand over, in every kind and state, at every method that takes it."""

import inspect

import numpy as np
import pytest
import scipy.sparse

from skdeepfactor import (
    LatentDirichletAllocation,
    PoissonFactorization,
    VariationalAutoencoder,
)
from skdeepfactor._input import received
from skdeepfactor.data import RowBlocks
from skdeepfactor.inspection import (
    factor_shares,
    jacobian_embeddings,
    to_pyldavis,
    top_rows,
    traverse,
)
from skdeepfactor.metrics import (
    completion_perplexity,
    npmi_coherence,
    scorers,
    split_tokens,
)
from skdeepfactor.plotting import TraversalDisplay, UsageDisplay, topic_page

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


def readers(model):
    """Functions that read rows, by name, given a fitted topic model."""
    return {
        "split_tokens": split_tokens,
        "completion_perplexity": lambda X: completion_perplexity(model, X),
        "npmi_coherence": lambda X: npmi_coherence(COMPONENTS, X),
        **{name: lambda X, f=f: f(model, X) for name, f in scorers.items()},
        "top_rows": lambda X: top_rows(model, X, 0),
        "factor_shares": lambda X: factor_shares(model, X),
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
