"""Correlated topics: modes and bounds of rows, planted covariances and effects."""

import pickle

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skdeepfactor import CorrelatedTopicModel, LatentDirichletAllocation
from skdeepfactor._estimator.side import joined_covariate_sizes
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gaussian import Posterior
from skdeepfactor._math.log_total import LogTotal, log_sum_bound
from skdeepfactor.data import RowBlocks
from skdeepfactor.inspection import match_components
from skdeepfactor.metrics import completion_perplexity, scorers
from skdeepfactor.models.correlated_topic_model.rows import (
    conjugate_gradients,
    moments,
)


def planted(n_rows, n_words, k, seed=0, n_covariates=0, n_features=300):
    """Counts, topics, covariance, covariates and coefficients, (k, n_covariates)."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_features, 0.05), size=k)
    factor = rng.normal(size=(k, k))
    covariance = 1.2 * factor @ factor.T / k + 0.3 * np.eye(k)
    C = rng.normal(size=(n_rows, n_covariates))
    coef = rng.normal(scale=0.7, size=(k, n_covariates))
    eta = rng.multivariate_normal(np.zeros(k), covariance, size=n_rows) + C @ coef.T
    p = softmax(eta, axis=1) @ topics
    X = scipy.sparse.csr_matrix(rng.multinomial(n_words, p / p.sum(1, keepdims=True)))
    return X, topics, covariance, C, coef - coef.mean(axis=0)


@pytest.fixture(scope="module")
def data():
    return planted(300, 60, 4, n_covariates=2, n_features=40)


@pytest.fixture(scope="module")
def fitted(data):
    X, _, _, C, _ = data
    return CorrelatedTopicModel(4, random_state=0).fit(
        X.astype(np.float64), covariates=C
    )


def log_joint(eta, x, beta, mean, covariance):
    """Log p(x, eta) of one row, for unnormalized topics beta and eta (..., k)."""
    apart = eta - mean
    value = np.log(np.exp(eta) @ beta) @ x - x.sum() * logsumexp(eta, axis=-1)
    value -= 0.5 * (apart @ np.linalg.inv(covariance) * apart).sum(axis=-1)
    return value - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]


def inside(model, X, C):
    """The module in float64, the rows as a batch, and their means."""
    module = model._load(torch.float64)
    sizes = model._fitted_sizes["covariates"]
    known = torch.from_numpy((C - sizes["location"]) / sizes["scale"])
    batch = Batch(torch.from_numpy(X.toarray().astype(float)))
    batch = batch.with_side(covariates=known)
    return module, batch, module._means(batch).detach().numpy()


def test_proportions_are_the_mode(data, fitted):
    X, _, _, C, _ = data
    module, _, means = inside(fitted, X[:5], C[:5])
    covariance = module.covariance.numpy()
    theta = fitted.transform(X[:5].astype(float), covariates=C[:5])
    assert_allclose(theta.sum(axis=1), 1)
    for x, mean, found in zip(X[:5].toarray(), means, theta, strict=True):

        def loss(eta, x=x, mean=mean):
            return -log_joint(eta, x, fitted.components_, mean, covariance)

        best = scipy.optimize.minimize(loss, mean, method="BFGS", tol=1e-9)
        assert_allclose(found, softmax(best.x), atol=1e-5)


def test_the_score_is_a_bound_near_the_evidence(data, fitted):
    X, _, _, C, _ = data
    rows = X[:8].astype(float)
    module, batch, means = inside(fitted, rows, C[:8])
    beta = module.topics.mean_log().exp().numpy()
    covariance = module.covariance.numpy()
    mode, spreads, _ = posteriors(module, batch)
    bounds = fitted.score_samples(rows, covariates=C[:8])
    rng = np.random.default_rng(0)
    for n in range(8):
        # Importance sampling from a wider Gaussian at the mode.
        center, spread = mode[n].numpy(), 1.5 * spreads[n].numpy()
        eta = rng.multivariate_normal(center, spread, size=4000)
        apart = eta - center
        log_q = -0.5 * (apart @ np.linalg.inv(spread) * apart).sum(axis=1)
        log_q -= 0.5 * np.linalg.slogdet(2 * np.pi * spread)[1]
        x = rows[n].toarray().ravel()
        log_p = log_joint(eta, x, beta, means[n], covariance)
        evidence = logsumexp(log_p - log_q) - np.log(len(eta))
        assert bounds[n] < evidence + 0.05
        assert bounds[n] > evidence - 2.0


def test_the_bound_of_training_is_below_the_score(data, fitted):
    X, _, _, C, _ = data
    module, _, _ = inside(fitted, X[:1], C[:1])
    full = fitted.score_samples(X.astype(float), covariates=C).sum()
    assert fitted.lower_bound_ < full - float(module.global_kl())


def test_the_bound_on_the_log_sum_is_that_of_identity_weights():
    rng = torch.Generator().manual_seed(0)
    mean = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    tril = 0.4 * torch.randn(5, 4, 4, generator=rng, dtype=torch.float64).tril()
    center = mean.softmax(1)
    total = LogTotal(torch.eye(4).double(), torch.zeros(4).double())
    full = Posterior(mean, tril.square().sum(2), tril, center)
    diagonal = Posterior(mean, tril.square().sum(2), None, center)
    for q in (full, diagonal):
        assert_allclose(log_sum_bound(q), total.bound(q), rtol=1e-12)


def test_covariances_and_means_of_rows(data, fitted):
    """By autograd, up to third derivatives."""
    X, _, _, C, _ = data
    module, batch, means = inside(fitted, X[:3], C[:3])
    beta = torch.from_numpy(fitted.components_.copy())
    precision = module._wide_precision
    mode, found, off = posteriors(module, batch)
    for n in range(3):

        def joint(eta, n=n):
            apart = eta - torch.from_numpy(means[n])
            words = batch.x[n] @ (eta.softmax(0) @ beta).log()
            return words - 0.5 * apart @ precision @ apart

        def bent(eta, n=n, joint=joint):
            hessian = torch.autograd.functional.hessian(joint, eta, create_graph=True)
            return (hessian * found[n]).sum()

        hessian = torch.autograd.functional.hessian(joint, mode[n])
        assert_allclose(torch.linalg.inv(-hessian), found[n], rtol=1e-6, atol=1e-9)
        slope = torch.autograd.functional.jacobian(bent, mode[n])
        assert_allclose(off[n], 0.5 * found[n] @ slope, rtol=1e-6, atol=1e-9)


def test_conjugate_gradients_solve_where_curvature_is_positive():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(3, 5, 5))
    matrices = torch.from_numpy(factors @ factors.transpose(0, 2, 1) + np.eye(5))
    matrices[2] *= -1
    slope = torch.from_numpy(rng.normal(size=(3, 5)))

    def product(d):
        return torch.einsum("nij,nj->ni", matrices, d)

    diagonal = torch.ones(3, 5, dtype=torch.float64)
    found = conjugate_gradients(product, diagonal, slope, 12)
    expected = torch.linalg.solve(matrices[:2], slope[:2])
    assert_allclose(found[:2], expected, rtol=1e-6, atol=1e-9)
    # Up the slope, at least.
    assert_array_equal(found[2], slope[2])


# What was planted comes back.


def posteriors(module, batch):
    """Modes, covariances and how far means are off the modes, in float64."""
    mode, parts = module.mode(batch), {}
    weights, precision = module._wide.collapsed_weights, module._wide_precision
    for rows, *found in moments(batch, mode, precision, weights):
        parts.update(zip(rows.tolist(), zip(*found, strict=True), strict=True))
    found = [
        torch.stack(part)
        for part in zip(*(parts[n] for n in range(len(batch))), strict=True)
    ]
    return mode, *found


def off_diagonal(matrix):
    return matrix[np.triu_indices(len(matrix), 1)]


def test_planted_covariances_are_recovered():
    X, topics, covariance, _, _ = planted(1000, 150, 5, seed=1)
    model = CorrelatedTopicModel(5, random_state=0).fit(X)
    order = match_components(topics, model.components_)[0][:, 1]
    found = model.topic_covariance_[np.ix_(order, order)]
    center = np.eye(5) - 1 / 5
    true = center @ covariance @ center
    r = np.corrcoef(off_diagonal(found), off_diagonal(true))[0, 1]
    assert r > 0.9
    assert_allclose(found.sum(axis=0), 0, atol=1e-4)
    assert_allclose(model.topic_correlation_.diagonal(), 1)


def test_diagonal_covariances_are_diagonal(data):
    X, *_ = data
    model = CorrelatedTopicModel(3, covariance_type="diag", random_state=0).fit(X)
    assert not off_diagonal(model.topic_covariance_).any()
    assert (model.topic_covariance_.diagonal() > 0).all()
    assert not off_diagonal(model.topic_correlation_).any()


def test_planted_effects_are_recovered_with_their_errors():
    X, topics, _, C, coef = planted(1000, 150, 5, seed=2, n_covariates=3)
    model = CorrelatedTopicModel(5, max_iter=40, tol=None, random_state=0)
    model.fit(X, covariates=C)
    order = match_components(topics, model.components_)[0][:, 1]
    assert np.corrcoef(model.coef_[order].ravel(), coef.ravel())[0, 1] > 0.97
    found = model.effect(np.eye(3), baseline=np.zeros((1, 3)))
    assert_allclose(found.mean, model.coef_.T, atol=1e-5)
    lower, upper = found.lower[:, order], found.upper[:, order]
    is_inside = (lower < coef.T) & (upper > coef.T)
    assert is_inside.mean() > 0.6
    wide = model.effect(np.eye(3), baseline=np.zeros((1, 3)), level=0.999)
    assert (wide.lower < found.lower).all()
    # They are errors of this many rows, not of any.
    few = CorrelatedTopicModel(5, random_state=0)
    few.fit(X[:250], covariates=C[:250])
    less = few.effect(np.eye(3), baseline=np.zeros((1, 3)))
    ratio = (less.upper - less.lower).mean() / (upper - lower).mean()
    assert 1.4 < ratio < 3.0


def test_shrinkage_draws_correlations_to_0(data):
    X, *_ = data
    sizes = []
    for shrinkage in (0.0, 1.0):
        model = CorrelatedTopicModel(4, shrinkage=shrinkage, random_state=0).fit(X)
        correlation = off_diagonal(model.topic_correlation_)
        # Centring correlates those that do not correlate otherwise.
        sizes.append(correlation.std())
    assert sizes[0] > 1.5 * sizes[1]


def test_covariates_say_what_words_do_not(data, fitted):
    X, _, _, C, _ = data
    empty = np.zeros((2, X.shape[1]))
    far = 2 * np.array([C[0], -C[0]])
    theta = fitted.transform(empty, covariates=far)
    expected = softmax(fitted.intercept_ + far @ fitted.coef_.T, axis=1)
    assert_allclose(theta, expected, rtol=1e-6)
    assert np.abs(theta[0] - theta[1]).max() > 0.1
    plain = CorrelatedTopicModel(4, random_state=0).fit(X)
    assert plain.coef_.shape == (4, 0)
    assert fitted.perplexity(X, covariates=C) < plain.perplexity(X)


# Side information.


def test_none_is_the_mean_of_the_training_rows(data, fitted):
    X, _, _, C, _ = data
    rows = X[:7].astype(float)
    mean = np.tile(C.mean(axis=0), (7, 1))
    for method in ("transform", "score_samples"):
        infer = getattr(fitted, method)
        assert_allclose(infer(rows), infer(rows, covariates=mean), rtol=1e-6)
        assert np.abs(infer(rows) - infer(rows, covariates=C[:7])).max() > 1e-3
    assert fitted.score(rows) == pytest.approx(fitted.score(rows, covariates=mean))
    perplexity = fitted.perplexity(rows, covariates=C[:7])
    assert fitted.score(rows, covariates=C[:7], metric="neg_perplexity") == -perplexity


def test_units_of_covariates_do_not_matter(data, fitted):
    X, _, _, C, _ = data
    moved = 1e6 + 1e3 * C
    other = CorrelatedTopicModel(4, random_state=0)
    other.fit(X.astype(float), covariates=moved)
    assert_allclose(other.coef_ * 1e3, fitted.coef_, rtol=1e-5, atol=1e-6)
    rows = X[:5].astype(float)
    assert_allclose(
        other.transform(rows, covariates=moved[:5]),
        fitted.transform(rows, covariates=C[:5]),
        rtol=1e-5,
        atol=1e-7,
    )


def test_covariates_come_in_many_kinds(data):
    pandas = pytest.importorskip("pandas")
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(3, max_iter=2, random_state=0)
    years = np.arange(X.shape[0]) % 7
    expected = model.fit(X, covariates=years).components_
    for same in (
        years.tolist(),
        years[:, np.newaxis].astype(np.float32),
        pandas.Series(years),
        pandas.DataFrame({"year": years}),
        scipy.sparse.csr_matrix(years[:, np.newaxis]),
    ):
        assert_array_equal(model.fit(X, covariates=same).components_, expected)
    codes = OneHotEncoder().fit_transform(years[:, np.newaxis])
    assert model.fit(X, covariates=codes).coef_.shape == (3, 7)
    frame = pandas.DataFrame(C, columns=["a", "b"])
    model.fit(X, covariates=frame)
    with pytest.raises(ValueError, match=r"columns \['b', 'a'\]"):
        model.transform(X, covariates=frame[["b", "a"]])


@pytest.mark.parametrize(
    "columns",
    [
        lambda C: np.ones((len(C), 1)),
        lambda C: np.column_stack([C, C[:, 0]]),
        lambda C: np.column_stack([C, C @ [1, 2]]),
        lambda C: np.zeros((len(C), 2)),
        lambda C: 1e90 * C,
    ],
)
def test_awkward_covariates_work(data, columns):
    X, _, _, C, _ = data
    C = columns(C)
    model = CorrelatedTopicModel(3, max_iter=3, random_state=0).fit(X, covariates=C)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.transform(X, covariates=C)).all()
    found = model.effect(C[:3])
    assert np.isfinite([found.lower, found.mean, found.upper]).all()
    is_constant = (C[0] == C).all(axis=0)
    assert not model.coef_[:, is_constant].any()
    assert model.coef_[:, ~is_constant].any(axis=0).all()


def test_a_shift_makes_no_interval_of_a_diagonal_model_wide(data):
    X, _, _, C, _ = data
    widths = []
    for kind in ("full", "diag"):
        model = CorrelatedTopicModel(3, covariance_type=kind, random_state=0)
        found = model.fit(X, covariates=C).effect(np.eye(2), baseline=np.zeros((1, 2)))
        widths.append((found.upper - found.lower).mean())
    assert widths[1] < 1.5 * widths[0]


def test_covariates_of_rows_that_do_not_count_say_nothing(data):
    X, _, _, C, _ = data
    X, weights = X.astype(float), np.append(0.0, np.ones(299))
    far = C.copy()
    far[0] = 1e6
    models = [
        CorrelatedTopicModel(3, max_iter=3, random_state=0).fit(
            X, covariates=known, sample_weight=weights
        )
        for known in (C, far)
    ]
    assert_allclose(models[0].coef_, models[1].coef_, rtol=1e-6)


def test_topics_start_from_words_alone(data):
    X, _, _, C, _ = data
    models = [
        CorrelatedTopicModel(3, random_state=0).fit(X.astype(float), covariates=known)
        for known in (C, 5 - C)
    ]
    assert_allclose(models[0].components_, models[1].components_, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e40, 1e90])
def test_covariates_far_from_those_of_the_fit_are_refused(data, scale):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(2, max_iter=2, random_state=0).fit(X, covariates=C)
    with pytest.raises(ValueError, match="standard deviations from the mean"):
        model.transform(X, covariates=scale * C)


def test_a_constant_of_any_size_is_no_covariate(data):
    X, *_ = data
    model = CorrelatedTopicModel(2, max_iter=2, random_state=0)
    model.fit(X, covariates=np.full(X.shape[0], 1e90))
    assert not model.coef_.any()


def test_categories_by_the_thousand_are_refused(data):
    X, *_ = data
    codes = scipy.sparse.csr_matrix((X.shape[0], 200_000))
    with pytest.raises(ValueError, match="200000 columns"):
        CorrelatedTopicModel(2).fit(X, covariates=codes)


def test_blocks_with_covariates_are_refused_before_a_fit(data):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(2)
    with pytest.raises(ValueError, match="one block at a time"):
        model.fit_transform(RowBlocks([X]), covariates=C)
    assert not hasattr(model, "components_")


@pytest.mark.parametrize("level", ["a", None, [0.5, 0.9], 0, 1])
def test_levels_are_between_0_and_1(data, level):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(2, max_iter=2, random_state=0).fit(X, covariates=C)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        model.effect(C[:2], level=level)


BAD = {
    "ragged": (lambda C: [[1], [1, 2]] * 150, "array of finite numbers"),
    "NaN": (lambda C: np.where(C > 1, np.nan, C), "NaN"),
    "infinite": (lambda C: np.where(C > 1, np.inf, C), "infinity"),
    "strings": (lambda C: np.full(len(C), "new"), "OneHotEncoder"),
    "objects": (lambda C: [None] * len(C), "finite numbers|rows"),
    "dates": (lambda C: np.full(len(C), np.datetime64("2020-01-01")), "dates"),
    "complex": (lambda C: 1j * C, "these are complex.$"),
    "too few": (lambda C: C[:-1], "299 rows, but X has 300"),
    "a number": (lambda C: 3.0, "a column for each covariate"),
    "no columns": (lambda C: C[:, :0], "0 feature"),
    "three dimensions": (lambda C: C[:, :, np.newaxis], "dim"),
    "huge": (lambda C: 1e200 * C, "larger than"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_bad_covariates_are_named_and_change_nothing(data, fitted, bad, message):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(3, random_state=0)
    for method in (model.fit, model.partial_fit, model.fit_transform):
        with pytest.raises(ValueError, match=message):
            method(X, covariates=bad(C))
    assert vars(model) == model.get_params(deep=False)
    with pytest.raises(NotFittedError):
        model.transform(X)
    before = dict(vars(fitted))
    for method in ("transform", "score_samples", "score", "perplexity"):
        with pytest.raises(ValueError, match=message):
            getattr(fitted, method)(X, covariates=bad(C))
    assert all(vars(fitted)[name] is value for name, value in before.items())


def test_other_covariates_than_those_of_fit(data, fitted):
    X, _, _, C, _ = data
    for wrong in (C[:, :1], np.column_stack([C, C])):
        with pytest.raises(ValueError, match="fitted with 2"):
            fitted.transform(X, covariates=wrong)
        with pytest.raises(ValueError, match="fitted with 2"):
            fitted.effect(wrong)
    with pytest.raises(ValueError, match="rows, but X has"):
        fitted.inverse_transform(fitted.transform(X[:3]), covariates=C[:2])
    plain = CorrelatedTopicModel(3, max_iter=2, random_state=0).fit(X)
    for method in ("transform", "score_samples", "score", "perplexity"):
        with pytest.raises(ValueError, match="without covariates"):
            getattr(plain, method)(X, covariates=C)
    with pytest.raises(ValueError, match="without covariates"):
        plain.effect(C)
    with pytest.raises(ValueError, match="level"):
        fitted.effect(C, level=1.5)
    with pytest.raises(ValueError, match="baseline has 3 rows"):
        fitted.effect(C[:2], baseline=C[:3])


def test_streams_of_chunks_have_covariates(data):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(3, random_state=0)
    for _ in range(5):
        for start in range(0, 300, 100):
            rows = slice(start, start + 100)
            model.partial_fit(X[rows], covariates=C[rows], total_samples=300)
    assert model.coef_.shape == (3, 2)
    assert np.abs(model.coef_).max() > 0.1
    before = model.components_
    with pytest.raises(ValueError, match="fitted with covariates"):
        model.partial_fit(X[:100])
    assert model.components_ is before


def test_the_first_rows_of_a_stream_are_as_if_they_had_come_at_once(data):
    X, _, _, C, _ = data
    # The first call has a constant, and the next one is far from it.
    C = np.column_stack([C[:40], np.repeat([5.0, 1e4], 20)])
    once = CorrelatedTopicModel(3, random_state=0)
    once.partial_fit(X[:40].astype(float), covariates=C)
    twice = CorrelatedTopicModel(3, random_state=0)
    for rows in (slice(20), slice(20, 40)):
        twice.partial_fit(X[rows].astype(float), covariates=C[rows])
    assert_allclose(twice.coef_, once.coef_, rtol=1e-6, atol=1e-12)
    assert_allclose(twice.intercept_, once.intercept_, rtol=1e-6)


def test_blocks_have_the_covariates_of_all_rows(data):
    X, _, _, C, _ = data
    X = X.astype(float)
    blocks = RowBlocks([X[:120], X[120:130], X[130:]])
    model = CorrelatedTopicModel(3, max_iter=3, random_state=0)
    expected = model.fit(X, covariates=C).coef_
    assert_allclose(model.fit(blocks, covariates=C).coef_, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="one block at a time"):
        model.transform(blocks, covariates=C)


def test_weights_are_repetitions_with_covariates_too(data):
    X, _, _, C, _ = data
    weights = np.arange(300) % 3
    rows = np.repeat(np.arange(300), weights)
    model = CorrelatedTopicModel(3, max_iter=4, random_state=0)
    X = X.astype(float)
    found = model.fit(X, covariates=C, sample_weight=weights).coef_
    expected = model.fit(X[rows], covariates=C[rows]).coef_
    assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_pickles_and_checkpoints_with_covariates(data, fitted, tmp_path):
    X, _, _, C, _ = data
    copy = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copy.coef_, fitted.coef_)
    assert_array_equal(copy.topic_covariance_, fitted.topic_covariance_)
    assert_array_equal(
        copy.transform(X, covariates=C), fitted.transform(X, covariates=C)
    )
    path = tmp_path / "state"
    whole = CorrelatedTopicModel(3, max_iter=6, random_state=0).fit(X, covariates=C)
    cut = CorrelatedTopicModel(3, max_iter=6, random_state=0)
    cut.fit(X, covariates=C, checkpoint=path)
    again = CorrelatedTopicModel(3, max_iter=6, random_state=0)
    again.fit(X, covariates=C, checkpoint=path)
    assert_array_equal(again.coef_, whole.coef_)
    with pytest.raises(ValueError, match="checkpoint"):
        again.fit(X, covariates=C + np.eye(300, 2), checkpoint=path)


def test_a_warm_start_goes_on_with_covariates(data):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(3, max_iter=3, warm_start=True, random_state=0)
    first = model.fit(X, covariates=C).lower_bound_
    assert model.fit(X, covariates=C).lower_bound_ > first
    with pytest.raises(ValueError, match="fitted with covariates"):
        model.fit(X)


def test_rows_held_out_have_their_covariates(data):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(3, validation_fraction=0.3, random_state=0)
    scores = model.fit(X, covariates=C).history_["validation_score"]
    held = np.sort(np.random.RandomState(0).permutation(300)[:90])
    assert max(scores) == pytest.approx(model.score(X[held], covariates=C[held]))
    model = CorrelatedTopicModel(3, max_iter=2, random_state=0)
    model.fit(X[:200], covariates=C[:200], X_val=X[200:])
    assert len(model.history_["validation_score"]) == 2


def test_sizes_of_processes_are_joined():
    def sizes(C):
        return {
            "n_rows": len(C),
            "names": None,
            "location": C.mean(axis=0),
            "scale": C.std(axis=0),
        }

    C = np.random.default_rng(0).normal(size=(50, 2))
    joined = joined_covariate_sizes([sizes(C[:20]), sizes(C[20:])])
    assert_allclose(joined["location"], C.mean(axis=0))
    assert_allclose(joined["scale"], C.std(axis=0))
    assert joined_covariate_sizes([None, None]) is None
    with pytest.raises(ValueError, match="others have none"):
        joined_covariate_sizes([sizes(C), None])
    with pytest.raises(ValueError, match="different width"):
        joined_covariate_sizes([sizes(C), sizes(C[:, :1])])


# Metadata routing and measures.


def test_completion_with_covariates(data, fitted):
    X, _, _, C, _ = data
    without = completion_perplexity(fitted, X, random_state=0)
    found = completion_perplexity(fitted, X, random_state=0, covariates=C)
    assert found < without
    again = completion_perplexity(fitted, X, random_state=0, covariates=None)
    assert again == without
    with pytest.raises(ValueError, match="covariates has 299 rows, but X has 300"):
        completion_perplexity(fitted, X, random_state=0, covariates=C[:-1])
    scorer = scorers["neg_completion_perplexity"]
    assert scorer(fitted, X, covariates=C) == -found
    assert scorer(fitted, X) == -without


TEXTS = ["apple pear plum apple", "bus train tram bus", "pear bus tram", "plum pear"]


def test_routing_through_a_pipeline():
    texts, years = TEXTS * 5, np.arange(20.0)
    with config_context(enable_metadata_routing=True):
        model = CorrelatedTopicModel(2, random_state=0)
        for request in ("fit", "transform", "score", "inverse_transform"):
            getattr(model, f"set_{request}_request")(covariates=True)
        pipeline = make_pipeline(CountVectorizer(), model)
        pipeline.fit(texts, covariates=years)
        theta = pipeline.transform(texts, covariates=years)
        together = pipeline.fit_transform(texts, covariates=years)
        score = pipeline.score(texts, covariates=years)
    X = pipeline[0].transform(texts)
    alone = CorrelatedTopicModel(2, random_state=0).fit(X, covariates=years)
    assert_array_equal(theta, alone.transform(X, covariates=years))
    assert_array_equal(together, theta)
    assert score == alone.score(X, covariates=years)
    assert score != alone.score(X)


@pytest.mark.parametrize(
    "scoring",
    [
        None,
        *(scorers[name] for name in ("neg_completion_perplexity", "neg_perplexity")),
    ],
    ids=str,
)
def test_routing_through_a_grid_search(data, scoring):
    X, _, _, C, _ = data
    grid = {"n_components": [2, 3]}
    with config_context(enable_metadata_routing=True):
        model = CorrelatedTopicModel(max_iter=2, random_state=0)
        model.set_fit_request(covariates=True).set_score_request(covariates=True)
        if scoring is not None:
            scoring = scoring.set_score_request(covariates=True)
        search = GridSearchCV(model, grid, scoring=scoring, cv=2, refit=False)
        search.fit(X, covariates=C)
    found = search.cv_results_["split0_test_score"][0]
    test, train = np.arange(150), np.arange(150, 300)
    alone = CorrelatedTopicModel(2, max_iter=2, random_state=0)
    alone.fit(X[train], covariates=C[train])
    expected = (
        alone.score(X[test], covariates=C[test])
        if scoring is None
        else scoring(alone, X[test], covariates=C[test])
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_search_without_routing_scores_at_the_mean(data):
    X, _, _, C, _ = data
    model = CorrelatedTopicModel(max_iter=2, random_state=0)
    search = GridSearchCV(model, {"n_components": [2, 3]}, cv=2)
    search.fit(X, covariates=C)
    assert search.best_estimator_.coef_.shape[1] == 2
    found = search.cv_results_["split0_test_score"][0]
    alone = clone(model).set_params(n_components=2).fit(X[150:], covariates=C[150:])
    assert found == pytest.approx(alone.score(X[:150]), rel=1e-6)
    assert found != pytest.approx(alone.score(X[:150], covariates=C[:150]), rel=1e-6)


def test_it_predicts_words_as_well_as_lda():
    X, *_ = planted(600, 60, 8, seed=4)
    models = [
        kind(8, random_state=0).fit(X[:500])
        for kind in (CorrelatedTopicModel, LatentDirichletAllocation)
    ]
    found, lda = (completion_perplexity(m, X[500:], random_state=0) for m in models)
    assert found < lda
