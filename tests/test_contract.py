"""What design and documentation promise of every estimator."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError

from skdeepfactor import (
    DynamicTopicModel,
    LatentDirichletAllocation,
    MultinomialMixture,
    NeuralTopicDLGM,
    PoissonFactorization,
    PoissonGammaBeliefNetwork,
    SparseGammaDEF,
    VariationalAutoencoder,
)
from skdeepfactor._estimator.arrays import take_up
from skdeepfactor._estimator.conjugate import ClosedFormFactorModel
from skdeepfactor._estimator.fitting import Fit
from skdeepfactor.datasets import make_topics
from tests.conftest import (
    ESTIMATORS,
    ONE_OF_EACH,
    assert_components_close,
    taken,
)

ROW_METHODS = ["transform", "score_samples"]


def sized(estimator, n_components):
    """The parameter that gives an estimator so many components, as a dict."""
    names = "n_components", "layer_sizes", "topics_per_label"
    name = next(name for name in names if name in estimator.get_params())
    is_deep = name == "layer_sizes"
    return {name: (n_components, min(n_components, 2)) if is_deep else n_components}


def fresh(estimator, n_components=None, **changes):
    if n_components is not None:
        changes |= sized(estimator, n_components)
    return type(estimator)(**{**estimator.get_params(), **changes})


def climbing(estimator, *, iteration=None, **changes):
    """A fresh estimator whose full steps climb the bound.

    ``iteration`` has parameters of an iteration over rows, for models that have one.
    """
    taken = estimator.get_params()
    of_rows = {name: x for name, x in (iteration or {}).items() if name in taken}
    model = fresh(estimator, batch_size=None, tol=0, **of_rows, **changes)
    if "inference" in model.get_params():
        model.inference = "mean_field"
    if "solver" in model.get_params():
        # What is few steps by gradients is too few for closed forms.
        model.set_params(solver="auxiliary", amortized=False, max_inner_iter=5)
    return model


def test_dense_equals_csr(estimator, counts):
    X = counts.astype(np.float64)
    sparse, dense = fresh(estimator).fit(X), fresh(estimator).fit(X.toarray())
    assert_components_close(sparse.components_, dense.components_, rtol=1e-6)
    assert sparse.lower_bound_ == pytest.approx(dense.lower_bound_, rel=1e-9)
    for method in ROW_METHODS:
        np.testing.assert_allclose(
            getattr(sparse, method)(X), getattr(sparse, method)(X.toarray()), rtol=1e-9
        )


@pytest.mark.each_class
@pytest.mark.parametrize("container", [scipy.sparse.csc_matrix, scipy.sparse.coo_array])
def test_other_sparse_containers(estimator, counts, container):
    expected = fresh(estimator).fit(counts)
    actual = fresh(estimator).fit(container(counts))
    np.testing.assert_array_equal(actual.components_, expected.components_)


def test_a_row_does_not_depend_on_its_company(estimator, counts, monkeypatch):
    X = counts.astype(np.float64)
    estimator.fit(X)
    order = np.random.default_rng(1).permutation(X.shape[0])
    for method in [*ROW_METHODS]:
        infer = getattr(estimator, method)
        together = infer(X)
        np.testing.assert_allclose(infer(X[order]), together[order], rtol=1e-9)
        alone = np.concatenate([infer(X[i : i + 1]) for i in range(5, 10)])
        np.testing.assert_allclose(alone, together[5:10], rtol=1e-9)
        with monkeypatch.context() as patch:
            patch.setattr("skdeepfactor._training.rows.CHUNK_BYTES", 1000)
            np.testing.assert_allclose(infer(X), together, rtol=1e-9)


def needs_perplexity(estimator):
    if not hasattr(estimator, "perplexity"):
        pytest.skip("models no counts")


def test_perplexity_of_a_row_does_not_depend_on_how_many_there_are(fitted, counts):
    estimator = fitted
    needs_perplexity(estimator)
    before = dict(vars(estimator))
    X = counts[[i for i in range(20) if i != 7]].astype(np.float64)
    rows = np.array([estimator.perplexity(row) for row in X])
    mean = np.exp(np.mean(np.log(rows)))
    assert estimator.perplexity(X) == pytest.approx(mean, rel=1e-9)
    totals = np.asarray(X.sum(1)).ravel()
    corpus = np.exp((np.log(rows) * totals).sum() / totals.sum())
    assert estimator.perplexity(X, average="corpus") == pytest.approx(corpus, rel=1e-9)
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[name] is value for name, value in before.items())


@pytest.mark.each_class
def test_perplexity_wants_the_columns_of_fit(fitted, counts):
    needs_perplexity(fitted)
    with pytest.raises(ValueError, match="expecting 30 features"):
        fitted.perplexity(counts[:, :20])
    assert fitted.n_features_in_ == 30


@pytest.mark.each_class
def test_scores_agree_with_each_other(fitted, counts):
    estimator = fitted
    assert estimator.score(counts) == pytest.approx(
        estimator.score_samples(counts).mean()
    )
    if not hasattr(estimator, "perplexity"):
        with pytest.raises(AttributeError, match="perplexity"):
            estimator.score(counts, metric="neg_perplexity")
        return
    assert estimator.score(counts, metric="neg_perplexity") == -estimator.perplexity(
        counts
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-6)]
)
def test_the_bound_rises_in_full_batches(ascending, counts, dtype, tolerance):
    model = climbing(ascending, max_iter=60, iteration={"n_cold_iter": 1})
    bounds = np.array(model.fit(counts.astype(dtype)).history_["lower_bound"])
    # Only a model without iterations is done by its first step.
    assert len(bounds) > 5 or bounds[-1] == pytest.approx(bounds[1], rel=tolerance)
    assert (np.diff(bounds) >= -tolerance * np.abs(bounds[1:])).all()
    assert bounds[-1] > bounds[0]


def test_the_bound_of_training_is_that_of_its_rows(ascending, counts):
    """At convergence: what the loop summed up is score_samples less the globals' KL."""
    if is_classifier(ascending):
        pytest.skip("labels are known in training alone")
    X = counts.astype(np.float64)
    iteration = {"n_cold_iter": 50, "inner_tol": 1e-9}
    model = climbing(ascending, max_iter=150, iteration=iteration).fit(X)
    module = model._load(torch.float64, torch.device(model.device))
    expected = model.score_samples(X).sum() - float(module.global_kl())
    assert model.lower_bound_ == pytest.approx(expected, rel=1e-4)


def test_the_bound_is_that_of_the_fitted_parameters(ascending, counts):
    """Above that before the last step, below that of rows inferred once more."""
    model = climbing(ascending, iteration={"n_cold_iter": 1})
    bounds = model.set_params(max_iter=2).fit(counts).history_["lower_bound"]
    found = model.set_params(max_iter=1).fit(counts)
    assert found.history_["lower_bound"] == bounds[:1]
    tolerance = 1e-6 * abs(bounds[0])
    assert bounds[0] + tolerance < found.lower_bound_ <= bounds[1] + tolerance


def test_the_bound_of_one_pass_is_that_of_score(ascending):
    if is_classifier(ascending) or "layer_sizes" in ascending.get_params():
        pytest.skip("rows are inferred with labels, or share units of several blocks")
    # Each row is in one block, so that it is remembered at its best.
    X = np.kron(np.eye(2), np.full((4, 3), 5.0))
    iteration = {"max_inner_iter": 1000, "inner_tol": 1e-9}
    model = climbing(ascending, max_iter=1, iteration=iteration).fit(X)
    module = model._load(torch.float64, torch.device(model.device))
    expected = model.score_samples(X).sum() - float(module.global_kl())
    assert model.lower_bound_ == pytest.approx(expected, rel=1e-3)
    assert model.lower_bound_ <= expected + 1e-6 * abs(expected)


@pytest.mark.each_class
def test_fit_transform_is_fit_and_transform(estimator, counts):
    together = fresh(estimator).fit_transform(counts)
    np.testing.assert_array_equal(
        together, fresh(estimator).fit(counts).transform(counts)
    )


def test_transform_and_inverse_transform_reconstruct(fitted, counts):
    estimator = fitted
    expected = estimator.inverse_transform(estimator.transform(counts))
    assert expected.shape == counts.shape
    rows = counts.toarray() > 0
    seen = expected[rows].mean()
    assert seen > 2 * expected[~rows].mean()
    n_components = len(estimator.components_)
    with pytest.raises(ValueError, match=f"{n_components} components"):
        estimator.inverse_transform(np.ones((2, n_components + 1)))


def test_sampled_rows_look_like_the_training_rows(fitted, counts):
    estimator = fitted
    X = estimator.sample(4000, random_state=0)
    if hasattr(estimator, "perplexity"):
        assert scipy.sparse.issparse(X)
        assert X.format == "csr"
    else:
        assert isinstance(X, np.ndarray)
    assert X.shape == (4000, 30)
    mean = np.asarray(X.mean(0)).ravel()
    assert np.corrcoef(mean, np.asarray(counts.mean(0)).ravel())[0, 1] > 0.8
    again = estimator.sample(4000, random_state=0)
    assert (again != X).sum() == 0
    assert (estimator.sample(4000, random_state=1) != X).sum() > 0


def test_partial_fit_learns_from_a_stream(estimator, counts):
    X = scipy.sparse.vstack([counts] * 4).tocsr()
    model = fresh(estimator)
    before = None
    for _ in range(3):
        for start in range(0, X.shape[0], 40):
            model.partial_fit(X[start : start + 40], total_samples=X.shape[0])
            before = model.score(X) if before is None else before
    assert model.score(X) > before
    assert model.n_samples_seen_ == 3 * X.shape[0]
    assert len(model.history_["lower_bound"]) == model.n_iter_ == 18


@pytest.mark.each_class
def test_small_chunks_start_a_stream_together(estimator):
    X = make_topics(240, 30, 3, random_state=0).data.toarray().astype(np.float64)
    whole = fresh(estimator).partial_fit(X[:120], total_samples=240)
    found, chunk = fresh(estimator), np.empty((1, 30))
    chunk[:] = X[:1]
    found.partial_fit(chunk, total_samples=240)
    assert np.isfinite(found.transform(X)).all()
    # The caller's array may hold other rows next.
    chunk[:] = 0
    found = pickle.loads(pickle.dumps(found))
    # CSR as well as dense.
    found.partial_fit(scipy.sparse.csr_matrix(X[1:120]), total_samples=240)
    for model in (whole, found):
        model.partial_fit(X[120:], total_samples=240)
    assert_components_close(found.components_, whole.components_, rtol=1e-6)
    assert found.score(X) == pytest.approx(whole.score(X), rel=1e-6)
    assert found.n_samples_seen_ == 240
    assert found.n_iter_ == len(found.history_["lower_bound"]) == 3


@pytest.mark.each_class
def test_a_stream_of_few_rows_starts_as_well(estimator, counts):
    """Rows that come again and again are no longer kept when there are 300."""
    model, n_bytes = fresh(estimator), []
    for _ in range(6):
        model.partial_fit(counts, total_samples=60)
        n_bytes.append(len(pickle.dumps(model)))
    assert n_bytes[3] > n_bytes[1] > n_bytes[5]


@pytest.mark.each_class
def test_partial_fit_goes_on_after_pickling(estimator, counts):
    # So many that the model no longer starts anew.
    many = scipy.sparse.vstack([counts] * 5).tocsr()
    one = fresh(estimator).partial_fit(many)
    other = pickle.loads(pickle.dumps(one))
    one.partial_fit(counts[30:])
    other.partial_fit(counts[30:])
    np.testing.assert_array_equal(one.components_, other.components_)


@pytest.mark.each_class
def test_early_stopping_keeps_the_best_pass(estimator, counts):
    model = fresh(estimator, max_iter=30, n_iter_no_change=2, validation_fraction=0.3)
    scores = model.fit(counts).history_["validation_score"]
    assert len(scores) == model.n_iter_
    if model.n_iter_ < 30:
        assert max(scores[:-2]) >= max(scores[-2:])
    model = fresh(estimator, max_iter=30, n_iter_no_change=2)
    model.fit(counts[:40], X_val=counts[40:].astype(np.float32))
    best = max(model.history_["validation_score"])
    assert model.score(counts[40:].astype(np.float32)) == pytest.approx(best, rel=1e-5)


@pytest.mark.each_class
def test_restarts_keep_the_best(estimator, counts):
    several = fresh(estimator, n_init=4).fit(counts)
    single = fresh(estimator).fit(counts)
    assert several.lower_bound_ >= single.lower_bound_


@pytest.mark.parametrize(("max_iter", "seed"), [(2, 2), (3, 0)])
@pytest.mark.parametrize(
    "model",
    [
        LatentDirichletAllocation(4, init="random"),
        # With fewer steps, rows are too far from their ends to tell starts apart.
        LatentDirichletAllocation(
            4, init="random", inference="mean_field", max_inner_iter=5
        ),
        PoissonFactorization(4, init="random"),
    ],
    ids=["collapsed", "mean_field", "poisson"],
)
def test_the_best_start_is_that_of_the_best_parameters(model, max_iter, seed):
    X = make_topics(40, 30, 4, random_state=0).data.astype(np.float64)
    model = clone(model).set_params(max_iter=max_iter, n_init=6, random_state=seed)
    fit, starts = Fit(model, X), []
    for start in fit.seeds:
        one = clone(model).set_params(max_iter=1, n_init=1).fit(X)
        take_up(one, fit._run(start))
        module = one._load(torch.float64, torch.device("cpu"))
        starts.append(one.score_samples(X).sum() - float(module.global_kl()))
    model.fit(X)
    module = model._load(torch.float64, torch.device("cpu"))
    chosen = model.score_samples(X).sum() - float(module.global_kl())
    assert chosen > max(starts) - 0.02 * np.ptp(starts)


def test_warm_start_goes_on(estimator, counts):
    X = counts.astype(np.float64)
    if isinstance(estimator, PoissonGammaBeliefNetwork):
        pytest.skip("a chain does not climb; its own tests see that it goes on")
    is_sampled = not isinstance(estimator, ClosedFormFactorModel)
    model = climbing(estimator, warm_start=True, max_iter=40)
    if is_sampled:
        # What is learnt must stand out from the noise of the bounds.
        model.set_params(max_iter=60, n_iter_no_change=60)
        if "learning_rate" in model.get_params():
            model.set_params(learning_rate=0.03)
    cold = model.fit(X).history_["lower_bound"]
    warm = model.fit(X).history_["lower_bound"]
    assert warm[0] > cold[0]
    # Of sampled bounds even less is promised.
    tolerance = 1e-2 if is_sampled else 1e-3
    assert warm[-1] > cold[-1] - tolerance * abs(cold[-1])
    model.set_params(**sized(model, 4))
    with pytest.raises(ValueError, match="cannot continue"):
        model.fit(X)


def test_a_warm_fit_of_the_same_rows_ends_no_lower(ascending):
    X = np.random.default_rng(0).poisson(1.0, (40, 30)).astype(float)
    model = fresh(ascending, warm_start=True, batch_size=None)
    bounds = [model.fit(X).lower_bound_ for _ in range(4)]
    assert np.diff(bounds).min() >= -1e-9 * abs(bounds[0])
    # A copy, and other rows, start rows anew.
    pickle.loads(pickle.dumps(model)).fit(X)
    model.fit(X[:20])


def test_a_warm_fit_by_collapsed_updates_ends_no_lower():
    """These do not climb the bound that is reported, and paths of topics show it."""
    X = make_topics(160, 80, 6, random_state=0).data.astype(np.float64)[:110]
    model = DynamicTopicModel(4, max_iter=2, warm_start=True, random_state=0)
    model.fit(X, times=np.arange(110) % 5)
    before, bound = model.components_, model.lower_bound_
    for _ in range(2):
        model.fit(X, times=np.arange(110) % 5)
        assert model.lower_bound_ == bound
        assert_array_equal(model.components_, before)
    # Where other rows are resumed, there is nothing to compare.
    model.fit(X[:60], times=np.arange(60) % 5)
    assert (model.components_ != before).any()


def test_steps_on_batches_end_no_lower_than_a_warm_fit_began(estimator, counts):
    is_network = isinstance(estimator, PoissonGammaBeliefNetwork)
    if is_network or estimator.get_params().get("inference") == "gibbs":
        pytest.skip("The bounds of a sampler come and go.")
    X = counts[:24].astype(np.float64)
    model = fresh(estimator, warm_start=True, batch_size=12, max_iter=1)
    takes_rate = "learning_rate" in model.get_params()
    bounds = []
    # The second fit takes steps that are far too long.
    for rate in (0.01, 1.0, 0.01):
        if takes_rate:
            model.set_params(learning_rate=rate)
        bounds.append(model.fit(X).lower_bound_)
    assert np.diff(bounds).min() >= -1e-9 * abs(bounds[0])


def test_a_warm_fit_that_returns_remembers_no_rows_that_it_never_had(counts):
    X = counts[:24].astype(np.float64)
    model = NeuralTopicDLGM(2, warm_start=True, max_iter=1, random_state=0).fit(X)
    before = model.set_params(learning_rate=1e3).components_
    # Memory that was never written to is then NaN.
    torch.use_deterministic_algorithms(True)
    try:
        again = pickle.loads(pickle.dumps(model)).fit(X)
        assert_array_equal(again.components_, before)
        again.set_params(learning_rate=0.01).fit(X)
    finally:
        torch.use_deterministic_algorithms(False)
    assert np.isfinite(again.lower_bound_)


@pytest.mark.parametrize(
    "model",
    [
        VariationalAutoencoder(2),
        SparseGammaDEF((2,), solver="gradient"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_validation_rows_score_no_lower_after_a_warm_fit(model, counts):
    X, X_val = counts[:30].astype(np.float64), counts[30:].astype(np.float64)
    first = clone(model).set_params(
        warm_start=True, random_state=0, batch_size=10, learning_rate=0.05, max_iter=20
    )
    before = first.fit(X, X_val=X_val).score(X_val)
    again = first.set_params(learning_rate=1.0, max_iter=1).fit(X, X_val=X_val)
    assert max(again.history_["validation_score"]) < before
    assert again.score(X_val) == before


@pytest.mark.parametrize(
    "model",
    [
        LatentDirichletAllocation(5),
        LatentDirichletAllocation(5, inference="mean_field"),
        LatentDirichletAllocation(5, init="random"),
        MultinomialMixture(5, inference="mean_field"),
    ],
    ids=["collapsed", "mean_field", "random", "mixture"],
)
def test_a_giant_row_does_not_end_training(model):
    X = make_topics(150, 40, 5, random_state=0).data.toarray().astype(np.float64)
    shares = np.random.RandomState(2).dirichlet(np.ones(40))
    giant = np.random.RandomState(1).poisson(100 * X.sum() * shares)
    model = clone(model).set_params(max_iter=60, random_state=0)
    found, expected = (
        clone(model).set_params(tol=tol).fit(np.vstack([X, giant])).perplexity(X)
        for tol in (1e-4, 0)
    )
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.each_class
def test_verbose_shows_the_bound(estimator, counts, capsys):
    fresh(estimator, verbose=1).fit(counts)
    shown = capsys.readouterr()
    assert "bound" in shown.out + shown.err


@pytest.mark.each_class
def test_predictions_stay_the_same_when_parameters_change_after_fit(fitted, counts):
    expected = fitted.transform(counts)
    fitted.set_params(**sized(fitted, 5))
    np.testing.assert_array_equal(fitted.transform(counts), expected)


@pytest.mark.each_class
def test_global_state_is_left_alone(estimator, counts):
    np.random.seed(3)  # noqa: NPY002 (the global state is what is tested)
    torch.manual_seed(3)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    n_threads = torch.get_num_threads()
    estimator.fit(counts).sample(3)
    estimator.score(counts)
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
    assert torch.get_num_threads() == n_threads


# Bad input.

BAD = {
    "nan": (np.array([[1.0, np.nan], [2.0, 1.0]]), "NaN"),
    "infinity": (np.array([[1.0, np.inf], [2.0, 1.0]]), "infinity"),
    "negative": (np.array([[1.0, -1.0], [2.0, 1.0]]), "Negative values in data"),
    "sparse negative": (
        scipy.sparse.csr_matrix([[1, -1.0]]),
        "Negative values in data",
    ),
    "sparse nan": (scipy.sparse.csr_matrix([[1, np.nan]]), "NaN"),
    "no rows": (np.empty((0, 3)), "0 sample"),
    "no columns": (np.empty((3, 0)), "0 feature"),
    "strings": (np.array([["a", "b"]]), "X holds words where counts must be"),
    "complex": (np.array([[1j, 2.0]]), "Complex"),
    "three dimensions": (np.ones((2, 2, 2)), "dim"),
    "one dimension": (np.ones(3), "Expected 2D array"),
}


@pytest.mark.each_class
@pytest.mark.parametrize(("X", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_input_is_named_and_changes_nothing(estimator, method, X, message):
    tags = estimator.__sklearn_tags__().input_tags
    if message.startswith("Negative") and not tags.positive_only:
        pytest.skip("takes negative numbers")
    if message == "NaN" and tags.allow_nan and not scipy.sparse.issparse(X):
        pytest.skip("takes missing entries")
    with pytest.raises(ValueError, match=message):
        getattr(estimator, method)(X)
    with pytest.raises(NotFittedError):
        estimator.transform(np.ones((2, 2)))
    assert vars(estimator) == estimator.get_params(deep=False)


@pytest.mark.each_class
def test_a_failed_refit_leaves_the_fitted_model(fitted, counts):
    estimator, expected = fitted, fitted.transform(counts)
    with pytest.raises(ValueError, match="Complex"):
        estimator.fit(1j * counts.toarray()[:, :4])
    np.testing.assert_array_equal(estimator.transform(counts), expected)


@pytest.mark.each_class
def test_input_is_not_changed(estimator):
    X = scipy.sparse.csr_matrix(
        (np.array([1.0, 2, 3, 0, 4]), [2, 0, 0, 1, 1], [0, 3, 3, 5]), shape=(3, 3)
    )
    data, indices = X.data.copy(), X.indices.copy()
    estimator.fit(X)
    np.testing.assert_array_equal(X.data, data)
    np.testing.assert_array_equal(X.indices, indices)
    merged = fresh(estimator).fit(X.toarray())
    np.testing.assert_allclose(merged.components_, estimator.components_, rtol=1e-5)


UGLY = {
    "all zero": np.zeros((4, 3)),
    "one row": np.array([[3.0, 0, 1]]),
    "one column": np.array([[3.0], [0], [1]]),
    "one entry": np.array([[2.0]]),
    "huge counts": np.array([[10**9, 0, 1], [0, 10**9, 5], [7, 7, 10**9]]),
    "tiny numbers": np.full((5, 4), 1e-30),
    "empty rows and columns": np.diag([1, 0, 2, 0]),
    "booleans": np.eye(4, dtype=bool),
    "half precision": np.eye(4, dtype=np.float16),
    "same rows": np.ones((6, 3), dtype=np.int8),
}


@pytest.mark.each_class
@pytest.mark.parametrize("X", UGLY.values(), ids=UGLY.keys())
def test_ugly_input_works(estimator, X):
    check_outputs(fresh(estimator, n_components=5), X)


def check_outputs(model, X):
    """Fit, and check that all that comes out is finite and in its range."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Z = model.fit_transform(X)
    assert Z.shape == (X.shape[0], len(model.components_))
    assert np.isfinite(Z).all()
    if isinstance(model, ClosedFormFactorModel) and model._domain.is_counts:
        assert (Z >= 0).all()
    assert np.isfinite(model.components_).all()
    assert np.isfinite(model.lower_bound_)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.inverse_transform(Z)).all()
    if not hasattr(model, "perplexity"):
        return
    if X.sum() > 0:
        assert model.perplexity(X) > 0
    else:
        with pytest.raises(ValueError, match="every row is empty"):
            model.perplexity(X)


@st.composite
def matrices(draw):
    """Counts of many sizes and scales, dense or CSR, in several types."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    dtype = draw(st.sampled_from([np.int32, np.int64, np.float32, np.float64]))
    scale = draw(st.sampled_from([1, 1, 1000, 10**9]))
    values = st.one_of(st.just(0), st.integers(0, scale))
    size = shape[0] * shape[1]
    X = np.array(draw(st.lists(values, min_size=size, max_size=size)))
    X = X.reshape(shape).astype(dtype)
    if draw(st.booleans()):
        return X
    X = scipy.sparse.csr_matrix(X)
    if draw(st.booleans()) and X.nnz:
        # The same matrix with each entry stored twice, in two halves.
        X = X.astype(np.float64)
        X = scipy.sparse.csr_matrix(
            (np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), X.shape
        )
    return X


VARIANTS = [name for name in ESTIMATORS if name not in ONE_OF_EACH]


@pytest.mark.parametrize("name", ONE_OF_EACH)
@given(X=matrices(), n_components=st.integers(1, 10))
def test_any_matrix(name, X, n_components):
    model = fresh(ESTIMATORS[name], n_components=n_components, max_iter=3)
    check_outputs(model, X)


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=settings().max_examples // 4)
@given(X=matrices(), n_components=st.integers(1, 10))
def test_any_matrix_of_variants(name, X, n_components):
    model = fresh(ESTIMATORS[name], n_components=n_components, max_iter=3)
    check_outputs(model, X)


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "must be"), ("cuda:99", "not available")]
)
def test_devices_that_are_not_there(counts, device, message):
    with pytest.raises(ValueError, match=message):
        PoissonFactorization(2, device=device).fit(counts)


def test_a_model_keeps_its_precision_for_other_data(estimator, counts):
    X = taken(estimator, counts.astype(np.float64))
    estimator.set_params(max_iter=2, warm_start=True)
    estimator.fit(X, X_val=X.astype(np.float32))
    estimator.fit(X.astype(np.float32))
    estimator.partial_fit(X.astype(np.float32))
    assert estimator.components_.dtype == np.float64


# Weights of rows.


@pytest.mark.each_class
def test_a_weight_counts_as_a_repetition_in_scores(estimator, counts):
    X = taken(estimator, counts.toarray().astype(np.float64))
    estimator.set_params(max_iter=2).fit(X)
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    repeated = np.repeat(X, weights, axis=0)
    kinds = [{}]
    if estimator._domain.is_counts:
        kinds.append({"metric": "neg_perplexity"})
        for average in ("document", "corpus"):
            assert_allclose(
                estimator.perplexity(X, average=average, sample_weight=weights),
                estimator.perplexity(repeated, average=average),
                rtol=1e-9,
            )
    for kind in kinds:
        found = estimator.score(X, sample_weight=weights, **kind)
        assert_allclose(found, estimator.score(repeated, **kind), rtol=1e-9)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(60), "non-zero|must not be 0"),
        (-np.ones(60), "Negative values in data"),
        (np.ones(59), r"expected \(60,\)"),
        (np.full(60, np.nan), "NaN"),
    ],
)
def test_bad_weights(counts, weights, message):
    model = PoissonFactorization(2, max_iter=1, random_state=0).fit(counts)
    with pytest.raises(ValueError, match=message):
        model.score(counts, sample_weight=weights)


def test_rows_in_float32_depend_on_no_company(fitted, counts):
    """Neither on the rows beside them nor on how they are stored."""
    model = fitted
    some = counts[3:10]
    dense = some.toarray()
    whole = model.transform(counts), model.score_samples(counts)
    spread = whole[0].std(axis=0)
    spread[spread == 0] = 1
    ways = {
        "few": (model.transform(some), model.score_samples(some)),
        "dense": (model.transform(dense), model.score_samples(dense)),
        "alone": (
            np.concatenate([model.transform(row) for row in some]),
            np.concatenate([model.score_samples(row) for row in some]),
        ),
    }
    for way, (factors, bounds) in ways.items():
        apart = np.abs(factors - whole[0][3:10]) / spread
        assert apart.max() < 1e-5, way
        assert_allclose(bounds, whole[1][3:10], rtol=0, atol=1e-3, err_msg=way)
