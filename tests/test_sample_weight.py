"""A weight of k is a row that is there k times."""

import inspect
import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skdeepfactor
from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LabeledLDA,
    LatentDirichletAllocation,
    MultinomialMixture,
    PoissonFactorization,
    SparseGammaDEF,
)
from skdeepfactor._estimator.conjugate import ClosedFormFactorModel
from skdeepfactor._estimator.fitting import started_module
from skdeepfactor._estimator.labels import Target
from skdeepfactor._training.loop import train_pass
from skdeepfactor._training.rows import MatrixRows, _levels
from skdeepfactor._training.streams import CheckedBlocks, StreamedRows
from skdeepfactor.data import RowBlocks
from tests.conftest import (
    CLOSED_FORMS,
    ESTIMATORS,
    assert_components_close,
    labels_of,
    taken,
)

ARRAY = np.random.default_rng(3).random((3, 30))
# Variants beside those of the table.
MODELS = {
    **CLOSED_FORMS,
    "bernoulli": SparseGammaDEF((3, 2), likelihood="bernoulli", max_iter=25),
    "SparseGammaDEF-kmeans": SparseGammaDEF((3,), init="kmeans", max_iter=25),
    "SparseGammaDEF-random": SparseGammaDEF((3, 2), init="random", max_iter=25),
    "PoissonFactorization-random": PoissonFactorization(3, init="random"),
    "PoissonFactorization-array": PoissonFactorization(3, init=ARRAY),
    "PoissonFactorization-rate": PoissonFactorization(
        3, factor_rate="auto", weight_rate=1.0, factor_shape="auto"
    ),
    "PoissonFactorization-many": PoissonFactorization(40),
    "LatentDirichletAllocation-restarts": LatentDirichletAllocation(3, n_init=3),
    "LatentDirichletAllocation-one": LatentDirichletAllocation(1),
}
KINDS = [
    CorrelatedTopicModel,
    DynamicTopicModel,
    LabeledLDA,
    LatentDirichletAllocation,
    MultinomialMixture,
    PoissonFactorization,
    SparseGammaDEF,
]


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(1).integers(0, 4, 60)


def repeated(X, weights, seed=0):
    """Rows as often as their weights say, in another order."""
    rows = np.repeat(np.arange(X.shape[0]), weights)
    return X[np.random.default_rng(seed).permutation(rows)]


def made(name, max_iter=5, **parameters):
    """A model on all rows, of few passes: rows weigh alike in each of them."""
    model = clone(MODELS[name]).set_params(random_state=0, **parameters)
    return model.set_params(batch_size=None, max_iter=min(model.max_iter, max_iter))


def assert_same(found, expected, X, rtol=1e-7):
    """Compare all that is fitted, but for what is drawn for each row."""
    assert_components_close(found.components_, expected.components_, rtol)
    assert_allclose(found.transform(X), expected.transform(X), rtol=rtol)
    # Some models know without error that rows without words have a score of 0.
    scores = found.score_samples(X), expected.score_samples(X)
    assert_allclose(*scores, rtol=rtol, atol=1e-12)
    for name in ("lower_bound", *({"validation_score"} & found.history_.keys())):
        assert_allclose(found.history_[name], expected.history_[name], rtol=rtol)
    assert_allclose(found._row_totals, expected._row_totals, rtol=rtol)
    assert found.n_samples_seen_ == pytest.approx(expected.n_samples_seen_)
    for name, array in expected._parameters.items():
        error = rtol * max(np.abs(array).max(initial=0), 1e-300)
        assert_allclose(found._parameters[name], array, rtol=rtol, atol=error)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_weight_is_a_repetition(name, is_sparse, counts, weights):
    model = made(name)
    X = taken(model, counts.astype(np.float64))
    X = X if is_sparse else X.toarray()
    expected = clone(model).fit(repeated(X, weights))
    found = model.fit(X, sample_weight=weights)
    assert_same(found, expected, X)
    # By Monte Carlo the bound has draws for each row.
    error = 4 * np.hypot(
        *(getattr(fit, "lower_bound_std_error_", 0.0) for fit in (found, expected))
    )
    bound = expected.lower_bound_
    assert found.lower_bound_ == pytest.approx(bound, rel=1e-9, abs=error)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_weights_matter_and_the_order_does_not(name, counts, weights):
    X = counts.astype(np.float64)
    plain = made(name).fit(X)
    order = np.random.default_rng(2).permutation(60)
    for fit in (
        made(name).fit(X[order]),
        made(name).fit(X, sample_weight=np.ones(60)),
    ):
        assert_same(fit, plain, X)
        # To the last bit: extrapolated steps would make much of its rounding.
        assert_array_equal(fit.components_, plain.components_)
    weighted = made(name).fit(X, sample_weight=weights)
    change = np.abs(weighted.components_ - plain.components_)
    assert (change > 0.01 * np.abs(plain.components_)).any()


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_fractions_lie_between(name, counts, weights):
    X = counts.astype(np.float64)
    # A mixture leaves one copy of a row out of what it is judged by, where it has one.
    parts = np.concatenate([1.25 * weights, 1.75 * weights])
    found = made(name).fit(sp.vstack([X, X], format="csr"), sample_weight=parts)
    assert_same(found, made(name).fit(X, sample_weight=3 * weights), X)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_rows_without_weight_are_not_there(name, counts, weights):
    X, keep = counts.astype(np.float64).tolil(), weights > 0
    X[~keep] = 1000 * np.arange(30)
    X = X.tocsr()
    found = made(name).fit(X, sample_weight=weights)
    expected = made(name).fit(X[keep], sample_weight=weights[keep])
    for key, array in expected._parameters.items():
        assert_array_equal(found._parameters[key], array)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_weights_of_counts_in_single_precision(dtype, counts, weights):
    X = counts.astype(dtype)
    found = made("PoissonFactorization").fit(X, sample_weight=weights)
    expected = made("PoissonFactorization").fit(repeated(X, weights))
    assert found.components_.dtype == np.float32
    assert_allclose(found.components_, expected.components_, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_warm_start_goes_on_alike(name, counts, weights):
    X = counts.astype(np.float64)
    first, second = weights, np.roll(weights, 7)
    found, expected = (made(name, warm_start=True, max_iter=3) for _ in range(2))
    for w in (first, second):
        found.fit(X, sample_weight=w)
        expected.fit(repeated(X, w))
    assert_same(found, expected, X)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("total", [None, 500.0])
def test_chunks_of_a_stream_have_weights(name, total, counts, weights):
    X = counts.astype(np.float64)
    found, expected = made(name), made(name)
    for rows in (slice(0, 30), slice(30, 60)):
        found.partial_fit(X[rows], sample_weight=weights[rows], total_samples=total)
        expected.partial_fit(repeated(X[rows], weights[rows]), total_samples=total)
    assert found.n_samples_seen_ == weights.sum()
    assert_same(found, expected, X)


@pytest.mark.parametrize("batch_size", [None, 13])
def test_blocks_have_the_weights_of_their_rows(batch_size, counts, weights):
    X = counts.astype(np.float64)
    model = PoissonFactorization(3, batch_size=batch_size, max_iter=3, random_state=0)
    blocks = RowBlocks([X[:23], X[23:40], X[40:]])
    found = clone(model).fit(blocks, sample_weight=weights)
    keep = weights > 0
    cuts = np.cumsum([keep[:23].sum(), keep[23:40].sum()])
    kept = X[keep]
    parts = [kept[: cuts[0]], kept[cuts[0] : cuts[1]], kept[cuts[1] :]]
    expected = clone(model).fit(RowBlocks(parts), sample_weight=weights[keep])
    assert_same(found, expected, X)
    assert found.n_samples_seen_ == weights.sum()
    if batch_size is None:
        assert_same(found, clone(model).fit(X, sample_weight=weights), X)
    with pytest.raises(ValueError, match=r"inconsistent|sample_weight"):
        clone(model).fit(blocks, sample_weight=weights[:-1])


# Batches.


class Recorder:
    """Keeps the gradients of each step, which it does not take."""

    def __init__(self, module):
        self.module, self.steps = module, []

    def step(self):
        self.steps.append([p.grad.numpy().copy() for p in self.module.parameters()])

    def zero_grad(self):
        for p in self.module.parameters():
            p.grad = None


def gradients(name, X, weights, batch_size, is_streamed):
    """Names of a module's parameters, and their gradients in the steps of a pass."""
    model = made(name)
    rows = MatrixRows(X)
    target = Target(labels_of(X)) if is_classifier(model) else None
    sizes = model._sizes(rows, target)
    known = {"weight": weights, **model._known_of_rows(rows, target, sizes)}
    rows = rows.knowing(**known)
    module = started_module(model, rows, sizes, np.random.RandomState(0), is_warm=False)
    module.after_step = lambda: None
    module.train()
    recorder = Recorder(module)
    if is_streamed:
        blocks = CheckedBlocks(RowBlocks([X[:20], X[20:]]), lambda block, _: block)
        rows = StreamedRows(blocks).knowing(**known)
    bound = train_pass(
        module,
        recorder,
        rows,
        batch_size=batch_size,
        rng=np.random.RandomState(1),
        n_samples=rows.total_weight,
    )
    return [name for name, _ in module.named_parameters()], recorder.steps, bound


# Means over rows, which are those of each step, as its own weights have it.
RATIOS = {"factor_means", "mean_log_proportions"}


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_batches_are_right_on_average(name, is_streamed, counts):
    X = counts.astype(np.float64)
    weights = np.random.default_rng(5).exponential(size=60)
    names, (whole,), bound = gradients(name, X, weights, None, is_streamed)
    _, steps, same = gradients(name, X, weights, 12, is_streamed)
    assert same == pytest.approx(bound)
    assert len(steps) == 5
    for parameter, expected, *parts in zip(names, whole, *steps, strict=True):
        if parameter not in RATIOS:
            error = 1e-9 * np.abs(expected).max()
            assert_allclose(np.mean(parts, axis=0), expected, rtol=1e-9, atol=error)
            assert np.std(parts, axis=0).max() > 0


def test_a_pass_of_single_rows_has_their_means(counts):
    X = counts[:10].astype(np.float64)
    weights = np.linspace(0.1, 3, 10)
    name = "LatentDirichletAllocation"
    names, (whole,), _ = gradients(name, X, weights, None, False)
    _, steps, _ = gradients(name, X, weights, 1, False)
    place = names.index("mean_log_proportions")
    order = np.random.RandomState(1).permutation(10)
    rows = np.array([step[place] for step in steps])
    assert_allclose(np.average(rows, 0, weights[order]), whole[place], rtol=1e-9)


def test_stochastic_fits_learn_by_the_weights(counts):
    X = counts.astype(np.float64)
    weights = np.where(np.arange(60) < 30, 4.0, 0.25)
    options = {"batch_size": 10, "max_iter": 40, "tol": 0.0, "random_state": 0}
    for kind in (LatentDirichletAllocation, PoissonFactorization):
        model = kind(3, **options)
        of_all = clone(model).fit(X)
        weighted = clone(model).fit(X, sample_weight=weights)
        assert weighted.n_samples_seen_ == weights.sum()
        gain = weighted.score_samples(X) - of_all.score_samples(X)
        assert gain[:30].mean() > 0
        assert gain[30:].mean() < 0


# What else there is in a fit.


def test_rows_held_out_take_their_weights_along(counts, weights):
    X = counts.astype(np.float64)[weights > 0]
    weights = weights[weights > 0]
    model = PoissonFactorization(3, validation_fraction=0.3, random_state=4)
    model.fit(X, sample_weight=weights)
    n_held = int(np.ceil(0.3 * len(weights)))
    held = np.random.RandomState(4).permutation(len(weights))[:n_held]
    score = np.average(model.score_samples(X[held]), weights=weights[held])
    assert max(model.history_["validation_score"]) == pytest.approx(score, rel=1e-9)
    assert model.n_samples_seen_ == weights.sum() - weights[held].sum()
    # Rows that are given for it count once each.
    model = PoissonFactorization(3, random_state=4)
    model.fit(X, sample_weight=weights, X_val=X[held])
    best = max(model.history_["validation_score"])
    assert best == pytest.approx(model.score(X[held]), rel=1e-9)


def test_a_checkpoint_is_of_its_weights(tmp_path, counts, weights):
    X = counts.astype(np.float64)
    path = tmp_path / "run"
    model = PoissonFactorization(3, max_iter=6, tol=0.0, random_state=0)
    expected = clone(model).fit(X, sample_weight=weights)
    first = clone(model).fit(X, sample_weight=weights, checkpoint=path)
    again = clone(model).fit(X, sample_weight=weights, checkpoint=path)
    for fit in (first, again):
        assert_array_equal(fit.components_, expected.components_)
    for other in (None, weights + 1, np.where(weights == 2, 2.5, weights)):
        with pytest.raises(ValueError, match="sample_weight"):
            clone(model).fit(X, sample_weight=other, checkpoint=path)


def test_zeros_of_a_stream_are_part_of_its_checkpoint(tmp_path, counts):
    X = counts.astype(np.float64)
    model = PoissonFactorization(3, max_iter=2, random_state=0)
    weights = np.arange(60) != 3
    model.fit(RowBlocks([X]), sample_weight=weights, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(
            RowBlocks([X]),
            sample_weight=np.arange(60) != 4,
            checkpoint=tmp_path / "run",
        )


@pytest.mark.parametrize("n_zeros", [0, 5])
def test_quantiles_of_totals_count_by_weight(n_zeros):
    rng = np.random.default_rng(0)
    totals = rng.gamma(2, 10, 40).round()
    weights = rng.integers(1, 6, 40)
    expected = np.quantile(np.repeat(totals, weights), np.linspace(0, 1, 101))
    assert_allclose(_levels(totals, weights.astype(float)), expected)
    # Very small weights are no error.
    levels = _levels(totals, np.full(40, 1e-3))
    assert totals.min() == levels.min()


def test_scores_of_weighted_rows_are_those_of_repeated_ones(counts, weights):
    X = counts.astype(np.float64)
    model = LatentDirichletAllocation(3, random_state=0).fit(X, sample_weight=weights)
    for metric in ("elbo", "neg_perplexity"):
        score = model.score(X, metric=metric, sample_weight=weights)
        assert score == pytest.approx(model.score(repeated(X, weights), metric=metric))


# The face.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(59), "sample_weight|inconsistent"),
        (np.ones((60, 1)), "1D array"),
        (np.where(np.arange(60) == 3, -1.0, 1.0), "[Nn]egative"),
        (np.where(np.arange(60) == 3, np.nan, 1.0), "NaN"),
        (np.where(np.arange(60) == 3, np.inf, 1.0), "infinity"),
        (np.zeros(60), "must not be 0 for every row|at least one non-zero"),
    ],
)
def test_bad_weights(kind, method, weights, message, counts):
    model = kind(random_state=0, max_iter=2)
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(counts, sample_weight=weights)
    assert not model.__sklearn_is_fitted__()
    assert not [name for name in vars(model) if name.endswith("_")]
    before = dict(vars(model.fit(counts)))
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(counts, sample_weight=weights)
    assert vars(model) == before


def test_gradients_take_no_weights(counts):
    model = SparseGammaDEF((3, 2), solver="gradient", max_iter=2)
    for method in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match="needs a solver in closed form"):
            method(counts, sample_weight=np.ones(60))
    assert not model.__sklearn_is_fitted__()


def test_only_models_in_closed_form_take_weights():
    for kind, method in itertools.product(
        {type(model) for model in ESTIMATORS.values()}, ("fit", "partial_fit")
    ):
        taken = inspect.signature(getattr(kind, method)).parameters
        is_conjugate = issubclass(kind, ClosedFormFactorModel)
        assert ("sample_weight" in taken) == is_conjugate
        assert is_conjugate == (kind in KINDS)
    assert len(KINDS) < len(skdeepfactor.__all__) - 1


TEXTS = ["the cat sat", "a dog and a cat", "stocks fell", "bonds and stocks"] * 3


@pytest.mark.parametrize("kind", [LatentDirichletAllocation, PoissonFactorization])
def test_weights_reach_fit_through_a_pipeline(kind):
    weights = np.arange(12)
    X = CountVectorizer().fit_transform(TEXTS)
    expected = kind(2, random_state=0).fit(X, sample_weight=weights)
    model = kind(2, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), clone(model))
    step = kind.__name__.lower()
    pipeline.fit(TEXTS, **{f"{step}__sample_weight": weights})
    assert_array_equal(pipeline[-1].components_, expected.components_)
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True)
        routed = Pipeline([("counts", CountVectorizer()), ("factors", model)])
        routed.fit(TEXTS, sample_weight=weights)
        assert_array_equal(routed[-1].components_, expected.components_)
        Z = make_pipeline(FunctionTransformer(accept_sparse=True), model).fit_transform(
            X, sample_weight=weights
        )
    assert_array_equal(Z, expected.transform(X))
