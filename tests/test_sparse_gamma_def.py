"""Gamma deep exponential families against quadrature, Monte Carlo and planted parts."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import scipy.stats
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.metrics import f1_score

from skdeepfactor import PoissonFactorization, SparseGammaDEF
from skdeepfactor._math import row_iteration
from skdeepfactor._math.allocation import indicator_excess
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.noise import FreshNoise, KeyedNoise
from skdeepfactor.models.sparse_gamma_def import drawn_bound, gradient
from skdeepfactor.models.sparse_gamma_def import rows as count_rows
from skdeepfactor.models.sparse_gamma_def.families import FAMILIES
from skdeepfactor.models.sparse_gamma_def.inverse_gaussians import InverseGaussians
from skdeepfactor.models.sparse_gamma_def.lognormals import CorrelatedLogs

RHO, TAU = [0.5, 2.0, 3e-3, 50.0, 1.0], [0.3, 1e-6, 40.0, 20.0, 200.0]


def planted(n_samples=150, n_features=24, n_parts=4, seed=0):
    """Counts, and the parts that they are sums of; each feature has one part."""
    rng = np.random.default_rng(seed)
    parts = np.zeros((n_parts, n_features))
    parts[np.arange(n_features) % n_parts, np.arange(n_features)] = rng.gamma(
        3, 1, n_features
    )
    z = rng.gamma(0.4, 3, (n_samples, n_parts))
    return rng.poisson(z @ parts).astype(np.float64), parts


@pytest.fixture(scope="module")
def fitted():
    X, _ = planted()
    return SparseGammaDEF((6, 4, 2), random_state=0, max_iter=60).fit(X), X


@pytest.mark.parametrize("order", [0.1, 0.7, 1.0, 2.5])
def test_moments_are_those_of_quadrature(order):
    family = InverseGaussians(order)
    moments = family.moments(*(torch.tensor(v).double() for v in (RHO, TAU)))
    for rho, tau, mean, inverse, log_normaliser in zip(
        RHO, TAU, *(m.numpy() for m in moments), strict=True
    ):
        t0 = 0.5 * np.log(tau / rho)

        # In log y the integrand falls faster than exponentially to both sides, where
        # the sum over a fine grid is as good as any quadrature.
        t, step = np.linspace(t0 - 60, t0 + 60, 240_001, retstep=True)
        with np.errstate(over="ignore"):
            exponent = 2 * np.sqrt(rho * tau) - rho * np.exp(t) - tau * np.exp(-t)

        def integral(power, t=t, step=step, exponent=exponent):
            return step * np.exp(exponent + (order + power) * t).sum()

        total = integral(0)
        assert mean == pytest.approx(integral(1) / total, rel=1e-6)
        assert inverse == pytest.approx(integral(-1) / total, rel=1e-6)
        expected = np.log(total) - 2 * np.sqrt(rho * tau)
        assert log_normaliser == pytest.approx(expected, abs=1e-6)


def test_draws_have_the_distribution():
    family = InverseGaussians(0.1)
    rho, tau = (torch.tensor(v).double() for v in (RHO, TAU))
    draws = family.sample(rho, tau, 4000, np.random.default_rng(0)).numpy()
    for values, r, t in zip(draws.T, RHO, TAU, strict=True):
        expected = scipy.stats.geninvgauss(
            0.1, 2 * np.sqrt(r * t), scale=np.sqrt(t / r)
        )
        assert scipy.stats.kstest(values, expected.cdf).pvalue > 1e-3


def test_parameters_of_a_mean():
    family = InverseGaussians(0.3)
    mean = torch.tensor([1e-3, 1.0, 50.0]).double()
    rho, tau = family.of_mean(mean)
    assert_allclose(family.moments(rho, tau)[0], mean, rtol=1e-9)
    assert_allclose(rho * tau, 1)


def inverse_gaussian(upper, order):
    rho, tau = upper.rho.numpy(), upper.tau.numpy()
    scale = np.sqrt(tau / rho)
    return scipy.stats.geninvgauss(order, 2 * np.sqrt(rho * tau), scale=scale)


def log_likelihood(model, X, mean):
    """The sum over all entries, by SciPy."""
    if model.likelihood == "gaussian":
        scale = np.sqrt(model.noise_variance_)
        return scipy.stats.norm.logpdf(X, mean, scale).sum()
    if model.likelihood == "bernoulli":
        return (scipy.special.xlogy(X, -np.expm1(-mean)) - (1 - X) * mean).sum()
    return scipy.stats.poisson.logpmf(X, mean).sum()


def of_likelihood(X, likelihood):
    """Counts as data for another likelihood."""
    if likelihood == "gaussian":
        return X + np.random.default_rng(3).normal(0, 2, X.shape)
    return (X > 2).astype(float) if likelihood == "bernoulli" else X


@pytest.mark.parametrize("link", ["mean", "rate"])
@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli", "gaussian"])
def test_the_bound_is_that_of_an_independent_estimate(likelihood, link):
    """E_q[log p(x, z, W) - log q(z, W)], with every density by SciPy."""
    X = of_likelihood(planted()[0], likelihood)
    model = SparseGammaDEF(
        (6, 4, 2), likelihood=likelihood, link=link, random_state=0, max_iter=30
    ).fit(X)
    module = model._load(torch.float64)
    x = Batch(to_tensor(X, slice(None), dtype=torch.float64, device="cpu"))
    with torch.no_grad():
        q = module.posterior(x)
    rng = np.random.default_rng(1)
    gamma = scipy.stats.gamma

    def by_shape(shape, mean):
        shape, mean = shape.numpy(), mean.numpy()
        return gamma(shape, scale=mean / shape)

    def upper(units):
        if link == "rate":
            return by_shape(units.shape, units.mean)
        return inverse_gaussian(units, 0.1)

    uppers = q.factors.uppers
    families = [by_shape(q.factors.shape, q.factors.mean), *map(upper, uppers)]
    lowest = module.lowest
    weights = [
        by_shape(lowest.weight_concentration.T, lowest.weight_mean.T),
        *map(upper, module.uppers),
    ]
    generator = np.random.default_rng(2)
    of_units = enumerate(uppers)
    drawn = [
        *(module.link.draw(n, units, 200, generator).numpy() for n, units in of_units),
        *(module.link.draw_weights(w, 200, generator).numpy() for w in module.uppers),
    ]
    n_above, bounds = len(uppers), []
    for draw in range(200):
        z = [families[0].rvs(random_state=rng), *(d[draw] for d in drawn[:n_above])]
        w = [weights[0].rvs(random_state=rng), *(d[draw] for d in drawn[n_above:])]
        if link == "rate":  # Logarithms were drawn.
            z[1:], w[1:] = ([np.exp(v) for v in values[1:]] for values in (z, w))
        z, w = ([np.maximum(v, 1e-300) for v in values] for values in (z, w))
        bound = log_likelihood(model, X, z[0] @ w[0])
        for layer, (values, own) in enumerate(zip(z, families, strict=True)):
            scale = 1 / 0.1
            if layer + 1 < len(z):
                product = z[layer + 1] @ w[layer + 1]
                scale = 1 / product if link == "rate" else product / 0.1
            bound += gamma.logpdf(values, 0.1, scale=scale).sum()
            bound -= own.logpdf(values).sum()
        for values, own in zip(w, weights, strict=True):
            bound += gamma.logpdf(values, 0.1, scale=1 / 0.3).sum()
            bound -= own.logpdf(values).sum()
        bounds.append(bound)
    expected, error = np.mean(bounds), np.std(bounds) / np.sqrt(len(bounds))
    actual = module.data_bound(lambda: [(x, module._pack(q.factors))])
    error = np.hypot(error, module.lower_bound_std_error)
    assert abs(actual - expected) < 4 * error
    assert error < 0.01 * abs(expected)
    # The closed form lies below, and is what rows are scored by.
    closed = model.score_samples(X).sum() - float(module.global_kl())
    assert closed < actual


def test_one_layer_is_poisson_factorization():
    X, _ = planted()
    flat = PoissonFactorization(
        4, factor_shape=0.1, factor_rate=0.1, weight_shape=0.1, weight_rate=0.3
    )
    flat.set_params(random_state=0, max_iter=30).fit(X)
    deep = SparseGammaDEF((4,), solver="auxiliary", max_iter=1, random_state=0).fit(X)
    deep._parameters["lowest.weight_concentration"] = (
        flat.weight_concentration_.T.copy()
    )
    deep._parameters["lowest.weight_mean"] = flat.components_.T.copy()
    for model in (flat, deep):
        model._fitted_with["inner_tol"] = 1e-10
    assert_allclose(deep.score_samples(X), flat.score_samples(X), rtol=1e-6)
    assert_allclose(deep.transform(X), flat.transform(X), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sizes", [(5,), (5, 3), (6, 4, 2), (6, 5, 4, 3, 2)])
@pytest.mark.parametrize(
    ("likelihood", "link"),
    [
        ("poisson", "mean"),
        ("poisson", "rate"),
        ("bernoulli", "mean"),
        ("gaussian", "mean"),
        ("gaussian", "rate"),
    ],
)
def test_steps_on_the_closed_form_climb_it(sizes, likelihood, link):
    X = of_likelihood(planted(60)[0], likelihood)
    model = SparseGammaDEF(
        sizes,
        likelihood=likelihood,
        link=link,
        solver="auxiliary",
        max_iter=60,
        tol=0,
        random_state=0,
    ).fit(X)
    bounds = np.array(model.history_["lower_bound"])
    assert (np.diff(bounds) >= -1e-9 * np.abs(bounds[1:])).all()
    assert bounds[-1] > bounds[0]


def test_indicators_are_counts_of_which_only_their_presence_is_known():
    """The auxiliary bound of one entry, by a sum over the count."""
    p, m = 1.7, 2.1
    y = np.arange(1, 60)
    q = scipy.stats.poisson.pmf(y, p) / -np.expm1(-p)
    expected = (q * (scipy.stats.poisson.logpmf(y, m) - np.log(q))).sum()
    log_p = torch.tensor([np.log(p)])
    excess = float(indicator_excess(log_p))
    assert np.exp(excess) == pytest.approx((q * y).sum())
    actual = np.exp(excess) * np.log(m / p) + np.log(np.expm1(p)) - m
    assert actual == pytest.approx(expected)
    assert p + np.log(p) - excess == pytest.approx(np.log(np.expm1(p)))
    # The series takes over where the difference would cancel.
    small = torch.tensor([1e-9, 0.99e-3, 1.01e-3]).double()
    by_numpy = np.log(small.numpy() / -np.expm1(-small.numpy()))
    assert_allclose(indicator_excess(small.log()), by_numpy, rtol=1e-6, atol=1e-15)


def binary(n_samples=80):
    return scipy.sparse.csr_matrix(planted(n_samples)[0] > 2).astype(float)


@pytest.mark.parametrize("solver", ["expansion", "auxiliary"])
def test_binary_data_sparse_or_dense(solver):
    X = binary()
    model = SparseGammaDEF(
        (4, 2), likelihood="bernoulli", solver=solver, max_iter=20, random_state=0
    )
    sparse, dense = model.fit(X).components_, clone(model).fit(X.toarray()).components_
    assert_allclose(sparse, dense, rtol=1e-6)
    Z = model.transform(X)
    assert_allclose(model.transform(X.toarray()[3:5]), Z[3:5], rtol=1e-9)
    expected = model.inverse_transform(Z)
    assert ((expected >= 0) & (expected <= 1)).all()
    assert expected[X.toarray() == 1].mean() > 2 * expected[X.toarray() == 0].mean()
    draws = model.sample(500, random_state=0)
    assert set(np.unique(draws)) == {0.0, 1.0}
    with pytest.raises(AttributeError, match="perplexity"):
        model.perplexity(X)
    again = pickle.loads(pickle.dumps(model))
    assert_allclose(again.score_samples(X), model.score_samples(X), rtol=0)
    assert np.isfinite(model.partial_fit(X[:20]).score(X))


@pytest.mark.parametrize("values", [[[0.0, 2.0]], [[0.5, 1.0]]])
@pytest.mark.parametrize("container", [np.array, scipy.sparse.csr_matrix])
def test_binary_data_are_zeros_and_ones(values, container):
    with pytest.raises(ValueError, match=r"needs values that are 0 or 1, got (2|0\.5)"):
        SparseGammaDEF((1,), likelihood="bernoulli").fit(container(values))
    with pytest.raises(ValueError, match="Negative values"):
        SparseGammaDEF((1,), likelihood="bernoulli").fit(-container(values))


def test_binary_data_of_ugly_shapes():
    for X in (np.zeros((4, 3)), np.ones((4, 3)), np.eye(4), np.ones((1, 1))):
        for solver in ("expansion", "auxiliary"):
            model = SparseGammaDEF(
                (5, 2), likelihood="bernoulli", solver=solver, random_state=0
            )
            Z = model.fit(X).transform(X)
            assert np.isfinite(Z).all()
            assert np.isfinite(model.lower_bound_)


def test_noise_is_learnt():
    X, parts = planted(400)
    rng = np.random.default_rng(3)
    mean = rng.gamma(0.4, 3, (400, len(parts))) @ parts
    model = SparseGammaDEF((4,), likelihood="gaussian", max_iter=200, random_state=0)
    model.fit(rng.normal(mean, 2))
    assert model.noise_variance_ == pytest.approx(4, rel=0.05)
    assert SparseGammaDEF((4,), max_iter=1).fit(X).noise_variance_ is None
    draws = model.sample(4000, random_state=0)
    assert isinstance(draws, np.ndarray)
    assert (draws < 0).any()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_other_likelihoods_recover_planted_parts(likelihood):
    counts, parts = planted(600)
    X = of_likelihood(counts, likelihood)
    model = SparseGammaDEF(
        (4, 2), likelihood=likelihood, max_iter=200, random_state=0
    ).fit(X)
    correlations = np.corrcoef(model.components_, parts)[:4, 4:]
    rows, columns = linear_sum_assignment(-correlations)
    # Binary data say less of how large a weight is.
    least = 0.6 if likelihood == "bernoulli" else 0.9
    assert correlations[rows, columns].min() > least


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_the_expansion_is_better_for_binary_data_too(likelihood):
    X = of_likelihood(planted()[0], likelihood)
    bounds = {}
    for solver in ("auxiliary", "expansion"):
        model = SparseGammaDEF(
            (4, 2), likelihood=likelihood, solver=solver, max_iter=200, random_state=0
        )
        module = model.fit(X)._load(torch.float64)
        x = Batch(to_tensor(X, slice(None), dtype=torch.float64, device="cpu"))
        bounds[solver] = module.data_bound(lambda x=x: [(x, None)])
    assert bounds["expansion"] > bounds["auxiliary"]


@pytest.mark.parametrize("sizes", [(4,), (4, 2)])
def test_the_expansion_finds_a_better_bound(sizes):
    X, _ = planted()
    bounds = {}
    for solver in ("auxiliary", "expansion"):
        model = SparseGammaDEF(sizes, solver=solver, max_iter=200, random_state=0)
        module = model.fit(X)._load(torch.float64)
        x = Batch(to_tensor(X, slice(None), dtype=torch.float64, device="cpu"))
        bounds[solver] = module.data_bound(lambda x=x: [(x, None)])
    assert bounds["expansion"] > bounds["auxiliary"]


@pytest.mark.parametrize("sizes", [(4,), (4, 2)])
def test_planted_parts_are_recovered(sizes):
    X, parts = planted(300)
    model = SparseGammaDEF(sizes, max_iter=200, random_state=0).fit(X)
    correlations = np.corrcoef(model.components_, parts)[:4, 4:]
    rows, columns = linear_sum_assignment(-correlations)
    assert correlations[rows, columns].min() > 0.9


def sparse_and_layered(seed, n_samples=400, n_features=60):
    """Counts from parts that overlap, of which three at a time are active together."""
    rng = np.random.default_rng(seed)
    is_there = rng.random((6, n_features)) < 0.3
    parts = rng.gamma(2, 1, is_there.shape) * is_there
    groups = np.array([[3, 2, 1, 0, 0, 0], [0, 0, 0, 1, 2, 3.0]])
    z = rng.gamma(1, rng.gamma(0.3, 4, (n_samples, 2)) @ groups)
    return rng.poisson(z @ parts).astype(np.float64), parts


@pytest.mark.parametrize("sizes", [(6,), (6, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_sparse_factors_are_recovered(sizes, seed):
    X, parts = sparse_and_layered(seed)
    model = SparseGammaDEF(sizes, n_init=4, max_iter=200, random_state=0).fit(X)
    correlations = np.corrcoef(model.components_, parts)[:6, 6:]
    rows, columns = linear_sum_assignment(-correlations)
    assert correlations[rows, columns].min() > 0.9
    # 70 % of the weights planted are zeros.
    assert 0.2 < model.sparsity_[0] < 0.7


def test_sparsity_is_a_share_of_small_weights(fitted):
    model, _ = fitted
    assert model.sparsity_.shape == (3,)
    for share, weights in zip(model.sparsity_, model.weights_, strict=True):
        n_small = 0
        for column in weights.T:
            n_small += sum(weight < column.max() / 100 for weight in column)
        assert share == pytest.approx(n_small / weights.size)
    # The parts that were planted are disjoint, and six share four of them out.
    assert model.sparsity_[0] > 0.2


@pytest.mark.parametrize("acceleration", [0, 5])
@pytest.mark.parametrize("is_large", [False, True])
def test_more_passes_do_not_end_lower(acceleration, is_large, monkeypatch):
    """Not even where steps are as long as they may be."""
    if is_large:
        monkeypatch.setattr("skdeepfactor._training.guard.MAX_EXTRAPOLATED", 0)
    X, _ = sparse_and_layered(0, 100, 30)
    model = SparseGammaDEF(
        (6, 2), acceleration=acceleration, over_relaxation=1.99, tol=0, random_state=0
    )
    last, error = -np.inf, 0.0
    for max_iter in (5, 20, 60, 120, 121, 122):
        model.set_params(max_iter=max_iter).fit(X)
        both = np.hypot(error, model.lower_bound_std_error_)
        assert model.lower_bound_ > last - 4 * both
        last, error = model.lower_bound_, model.lower_bound_std_error_


def test_extrapolation_saves_passes():
    """Of parts that overlap, with large counts, plain steps take their time."""
    X, _ = sparse_and_layered(0, 100, 30)
    bounds = [
        SparseGammaDEF(
            (10,), acceleration=acceleration, max_iter=40, tol=0, random_state=0
        )
        .fit(20 * X)
        .lower_bound_
        for acceleration in (0, 5)
    ]
    assert bounds[1] > bounds[0]


def test_layers_of_transform(fitted):
    model, X = fitted
    layers = []
    for layer, size in enumerate((6, 4, 2), 1):
        layers.append(model.set_params(transform_layer=layer).transform(X))
        assert layers[-1].shape == (len(X), size)
        assert len(model.get_feature_names_out()) == size
    model.set_params(transform_layer="all")
    assert_allclose(model.transform(X), np.hstack(layers), rtol=1e-9)
    assert len(model.get_feature_names_out()) == 12
    with pytest.raises(ValueError, match="from 1 to 3"):
        model.set_params(transform_layer=4).transform(X)
    model.set_params(transform_layer=1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layer_sizes": ()}, "layer_sizes must hold positive ints"),
        ({"layer_sizes": (3, 0)}, "layer_sizes must hold positive ints"),
        ({"layer_sizes": (3, 1.5)}, "layer_sizes must hold positive ints"),
        ({"layer_sizes": (True, 2)}, "layer_sizes must hold positive ints"),
        ({"layer_shape": (0.1,)}, "one for each of the 2 layers"),
        ({"layer_shape": (0.1, -1.0)}, "must be a positive number"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    X, _ = planted(20)
    with pytest.raises(ValueError, match=message):
        SparseGammaDEF(**{"layer_sizes": (3, 2), **parameters}).fit(X)


def test_a_layer_that_grows_is_warned_of():
    X, _ = planted(20)
    with pytest.warns(UserWarning, match="larger than the one below"):
        SparseGammaDEF((2, 3), max_iter=2, random_state=0).fit(X)


def test_a_shape_for_each_layer():
    X, _ = planted(40)
    one = SparseGammaDEF((3, 2), max_iter=5, random_state=0).fit(X)
    same = SparseGammaDEF((3, 2), layer_shape=[0.1, 0.1], max_iter=5, random_state=0)
    other = SparseGammaDEF((3, 2), layer_shape=[0.1, 2.0], max_iter=5, random_state=0)
    assert_allclose(same.fit(X).components_, one.components_)
    assert np.abs(other.fit(X).components_ - one.components_).max() > 1e-6


def test_draws_have_the_means_of_the_model(fitted):
    model, _ = fitted
    draws = model.sample(3000, random_state=0)
    assert scipy.sparse.issparse(draws)
    top = model.weights_[2]
    mean = np.ones(2) @ top @ model.weights_[1] @ model.weights_[0]
    assert draws.mean() == pytest.approx(mean.mean(), rel=0.5)


# Gradients.


def by_gradients(sizes, family="gamma", **parameters):
    settings = {"max_iter": 1000, "random_state": 0, **parameters}
    return SparseGammaDEF(sizes, solver="gradient", family=family, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_of_a_family_have_its_moments(family):
    functions = FAMILIES[family]
    mean, shape = torch.tensor([0.2, 7.0, 3.0]), torch.tensor([0.7, 4.0, 50.0])
    pair = functions.of_mean(mean.double(), shape.double())
    assert_allclose(functions.mean(*pair), mean, rtol=1e-6)
    n_draws = 20_000
    first, second = (v.expand(n_draws, 3).clone().requires_grad_() for v in pair)
    keys = torch.arange(n_draws)
    expected = functions.distribution(*pair)
    assert_allclose(functions.mean(*pair), expected.mean, rtol=1e-6)
    assert_allclose(functions.entropy(*pair), expected.entropy(), rtol=1e-6)
    relative = expected.variance / expected.mean**2
    assert_allclose(functions.relative_variance(pair[1]), relative, rtol=1e-6)
    for noise in (
        FreshNoise(first, 1, torch.Generator().manual_seed(0)),
        KeyedNoise(first, 1, keys, 3),
    ):
        (draws,) = functions.log_draw(first, second, noise)
        for own, cdf in zip(
            draws.exp().detach().T, expected_cdfs(expected), strict=True
        ):
            assert scipy.stats.kstest(own.numpy(), cdf).pvalue > 1e-3
        # The slope of E[log y] is that of its closed form.
        slopes = torch.autograd.grad(draws.sum(), [first, second])
        one = [v.clone().requires_grad_() for v in pair]
        closed = torch.autograd.grad(
            functions.mean_log(*one).sum(), one, materialize_grads=True
        )
        for slope, exact in zip(slopes, closed, strict=True):
            error = slope.std(0) / n_draws**0.5 + 1e-9
            assert ((slope.mean(0) - exact).abs() < 5 * error).all()


def expected_cdfs(distribution):
    """The distribution functions of three variables, of NumPy arrays."""
    return [
        lambda y, k=k: distribution.cdf(
            torch.from_numpy(np.asarray(y))[:, None].expand(-1, 3)
        )[:, k].numpy()
        for k in range(3)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_means_of_the_extremes_of_a_family_are_finite(family):
    functions = FAMILIES[family]
    second = torch.tensor(functions.spread_range)
    for first in (-30.0, 30.0):
        pair = torch.full_like(second, first), second
        assert functions.mean(*pair).isfinite().all()
        assert functions.entropy(*pair).isfinite().all()


@pytest.mark.parametrize("link", ["mean", "rate"])
@pytest.mark.parametrize(
    ("family", "likelihood"),
    [("gamma", "gaussian"), ("lognormal", "poisson"), ("weibull", "bernoulli")],
)
def test_the_bound_of_gradients_is_that_of_an_independent_estimate(
    family, likelihood, link
):
    """E_q[log p(x, z, W) - log q(z, W)], with every density by torch."""
    X = of_likelihood(planted(60)[0], likelihood)
    model = by_gradients(
        (4, 3, 2), family, likelihood=likelihood, link=link, max_iter=300
    ).fit(X)
    module = model._load(torch.float64)
    x = Batch(to_tensor(X, slice(None), dtype=torch.float64, device="cpu"))
    with torch.no_grad():
        state = module.posterior(x).state
        distribution = FAMILIES[family].distribution
        q_z = [distribution(*pair) for pair in module._split(state)]
        q_w = [distribution(*pair) for pair in module._weight_pairs()]
        a, c, d = (torch.tensor(v).double() for v in (0.1, 0.1, 0.3))
        bounds = []
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(300):
                z, w = ([q.sample() for q in both] for both in (q_z, q_w))
                bound = log_likelihood(model, X, (z[0] @ w[0].T).numpy())
                for layer, values in enumerate(z):
                    rate = torch.full_like(values, 0.1)
                    if layer + 1 < len(z):
                        product = z[layer + 1] @ w[layer + 1]
                        rate = product if link == "rate" else a / product
                    prior = torch.distributions.Gamma(a, rate, validate_args=False)
                    bound += float(prior.log_prob(values).sum())
                for values in w:
                    prior = torch.distributions.Gamma(c, d)
                    bound += float(prior.log_prob(values).sum())
                both = zip([*q_z, *q_w], [*z, *w], strict=True)
                bound -= sum(float(q.log_prob(v).sum()) for q, v in both)
                bounds.append(bound)
    expected, error = np.mean(bounds), np.std(bounds) / len(bounds) ** 0.5
    actual = module.data_bound(lambda: [(x, state)])
    error = np.hypot(error, module.lower_bound_std_error)
    assert abs(actual - expected) < 4 * error
    # Draws of wide posteriors have heavy tails.
    assert error < 0.03 * abs(expected)
    rows = model.score_samples(X).sum() - float(module.global_kl().detach())
    assert abs(rows - expected) < 4 * error + 0.01 * abs(expected)


def test_gradients_and_closed_forms_agree():
    X, _ = planted()
    closed = SparseGammaDEF((4,), max_iter=300, random_state=0).fit(X)
    sampled = by_gradients((4,)).fit(X)
    assert sampled.lower_bound_ == pytest.approx(closed.lower_bound_, rel=0.005)
    correlations = np.corrcoef(sampled.components_, closed.components_)[:4, 4:]
    assert correlations.max(0).min() > 0.99
    assert sampled.score(X) == pytest.approx(sampled.lower_bound_ / len(X), rel=0.1)


def test_families_and_networks_find_about_the_same_bound():
    X, _ = planted()
    bounds = {
        (family, amortized): by_gradients(
            (4, 2), family, amortized=amortized, max_iter=500
        )
        .fit(X)
        .lower_bound_
        for family in FAMILIES
        for amortized in (False, True)
    }
    best = max(bounds[family, False] for family in FAMILIES)
    for family in FAMILIES:
        assert bounds[family, False] > best - 0.02 * abs(best)
        own = bounds[family, False]
        assert bounds[family, True] > own - 0.02 * abs(own)


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli", "gaussian"])
@pytest.mark.parametrize("family", FAMILIES)
def test_means_of_wide_weights_stand_for_their_draws(family, likelihood):
    X = of_likelihood(planted(30)[0], likelihood)
    model = by_gradients((24,), family, likelihood=likelihood, max_iter=2).fit(X)
    module = model._load(torch.float64)
    # All but two weights of each feature are wide, and small beside the total.
    mean = torch.full((X.shape[1], 24), 0.4).double()
    shape = torch.full_like(mean, 0.8)
    mean[:, :2], shape[:, :2] = 3.0, 500.0
    mean *= math.log(2) / mean.sum(1, keepdim=True)
    # The likelihood is flat at the mean, but for its bend.
    x = torch.full((2, X.shape[1]), math.log(2)).double()
    if likelihood == "bernoulli":
        x[0], x[1] = 0, 1
    with torch.no_grad():
        pair = module.family.of_mean(mean, shape)
        module.weight_parameters[0].copy_(torch.stack(pair))
        seen, z = Batch(x), torch.ones(2, 24).double()
        generator = torch.Generator().manual_seed(0)
        changes, expected = [], []
        for _ in range(300):
            weights = module._fresh_weights(generator)
            (lowest,), variance = module._expanded(weights)
            assert_allclose(lowest[:, 2:], mean[:, 2:])
            at_mean, expanded, drawn = (
                float(module.emission.drawn(seen, z, w, variance=of_w).sum())
                for w, of_w in (
                    (lowest, None),
                    (lowest, variance),
                    (weights[0], None),
                )
            )
            changes.append(drawn - at_mean)
            expected.append(expanded - at_mean)
    assert ((variance > 0).numpy() == [False] * 2 + [True] * 22).all()
    # What is left is of third order.
    assert np.mean(changes) == pytest.approx(np.mean(expected), rel=0.25)


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli"])
def test_slopes_are_finite_where_draws_of_units_are_near_zero(likelihood):
    X = of_likelihood(planted(30)[0], likelihood).astype(np.float32)
    model = by_gradients((4,), likelihood=likelihood, max_iter=2).fit(X)
    module = model._load(torch.float32)
    weights, variance = module._expanded(
        module._fresh_weights(torch.Generator().manual_seed(0))
    )
    seen = Batch(to_tensor(X, slice(None), dtype=torch.float32, device="cpu"))
    assert (variance > 0).any()
    assert (variance == 0).any()
    for size in (1e-12, 1e-20, 1e-30, 0.0):
        z = torch.full((len(X), 4), size, requires_grad=True)
        bounds = module.emission.drawn(seen, z, weights[0], variance=variance)
        both = z, module.weight_parameters[0]
        for slope in torch.autograd.grad(bounds.sum(), both, retain_graph=True):
            assert slope.isfinite().all()


def test_gradients_take_shapes_near_zero():
    rng = np.random.default_rng(0)
    means = rng.gamma(0.3, 1, (40, 4)) @ rng.gamma(0.3, 1, (4, 20))
    X = rng.poisson(means).astype(np.float32)
    shapes = {"layer_shape": 0.001, "weight_shape": 0.01}
    model = by_gradients((4, 2), learning_rate=0.2, max_iter=40, **shapes)
    assert np.isfinite(model.fit(X).lower_bound_)


def test_what_a_network_gives_varies_with_rows():
    # It did not where steps on many inputs of one sign had put out all hidden units.
    X = np.random.default_rng(0).poisson(20.0, (40, 2000)) + 50
    model = by_gradients((3,), amortized=True, max_iter=20).fit(X)
    module = model._load(torch.float32)
    seen = Batch(to_tensor(X, slice(None), dtype=torch.float32, device="cpu"))
    with torch.no_grad():
        corrections = module._amortized(seen) - module._cold(seen)
    assert (corrections.std(0) > 1e-3).all()


@pytest.mark.parametrize("first", [[3.0, 1.0, 0.0, 8.0], [0.0] * 4])
def test_a_network_that_has_seen_one_row_takes_others(first):
    model = by_gradients((3, 2), amortized=True)
    model.partial_fit(np.array([first]), total_samples=30)
    X = np.random.default_rng(0).poisson(3.0, (30, 4)).astype(float)
    # Units and weights of rows unlike the first are of the size of counts.
    assert (model.transform(X) @ model.components_).max() < 1e3
    for start in range(0, 30, 5):
        model.partial_fit(X[start : start + 5], total_samples=30)
    assert (model.transform(X) @ model.components_).max() < 1e3


def test_gradients_start_from_the_scale_of_each_feature():
    X = np.random.default_rng(0).poisson(3.0, (40, 20)).astype(float)
    X[:, 0] *= 1e8
    model = by_gradients((3,), max_iter=1).fit(X)
    means = (model.transform(X) @ model.components_).mean(0)
    assert_allclose(means, X.mean(0), rtol=0.5)


def test_gradients_find_signal_where_closed_forms_find_noise():
    rng = np.random.default_rng(0)
    means = rng.gamma(0.3, 1, (40, 4)) @ rng.gamma(0.3, 1, (4, 20))
    X = 1e4 * rng.poisson(means)
    settings = {"likelihood": "gaussian", "max_iter": 30}
    closed = SparseGammaDEF((4,), random_state=0, **settings).fit(X)
    assert closed.noise_variance_ > X.var(0).mean()
    model = by_gradients((4, 2), **settings).fit(X)
    assert model.noise_variance_ < 0.5 * X.var(0).mean()
    # What no sum of positive parts can be is noise, of which no count starts.
    closed = SparseGammaDEF((4,), random_state=0, **settings).fit(-1 - means)
    model = by_gradients((4, 2), **settings).fit(-1 - means)
    assert model.lower_bound_ > 1.2 * closed.lower_bound_


def test_the_start_of_gradients_knows_nothing_of_containers():
    pytest.importorskip("pandas")
    X, _ = planted(30)
    expected = by_gradients((4, 2), max_iter=2).fit(X)
    with sklearn.config_context(transform_output="pandas"):
        found = by_gradients((4, 2), max_iter=2).fit(X)
    assert_array_equal(found.components_, expected.components_)


def test_gradients_that_go_on_take_steps_on_rows_again(monkeypatch):
    X, _ = planted(30)
    model = by_gradients((4,), max_iter=4).fit(X)
    rates = []

    def step(state, moments, slope, rate):
        rates.append(rate)
        return plain(state, moments, slope, rate)

    plain = gradient.adam_step
    monkeypatch.setattr(gradient, "adam_step", step)
    by_gradients((4,), max_iter=4).fit(X)
    n_cold = len(rates)
    model.set_params(warm_start=True).fit(X)
    # Rows start anew in both, and their steps are as long; before and after it, a warm
    # fit measures where it began and ended.
    trained, warm = rates[: n_cold * 3 // 4], rates[n_cold:]
    starts = range(len(warm) - len(trained) + 1)
    assert any(warm[start : start + len(trained)] == trained for start in starts)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"link": "mean"}, {"link": "rate"}, "link='rate' cannot continue"),
        ({"solver": "auxiliary"}, {"solver": "expansion"}, "a different architecture"),
        ({"solver": "expansion"}, {"solver": "gradient"}, "a different architecture"),
    ],
)
def test_what_is_fitted_keeps_its_meaning(before, after, message):
    X, _ = planted(30)
    model = SparseGammaDEF((4, 2), max_iter=2, random_state=0, **before).fit(X)
    found = model.transform(X)
    model.set_params(warm_start=True, **after)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X)
    assert_allclose(model.transform(X), found)
    # The same numbers may come in another container.
    model.set_params(layer_sizes=[4, 2], **before).fit(X)


@pytest.mark.parametrize("wrong", [{"layer_shape": 50.0}, {"weight_shape": 50.0}])
def test_shapes_that_bessel_functions_overflow_at(wrong):
    X, _ = planted(30)
    with pytest.raises(ValueError, match="at most 30"):
        SparseGammaDEF((4, 2), max_iter=2, random_state=0, **wrong).fit(X)
    for settings in ({"link": "rate"}, {"solver": "gradient"}, {"layer_sizes": (4,)}):
        model = SparseGammaDEF(
            **{"layer_sizes": (4, 2), "max_iter": 2, "random_state": 0, **settings},
            **wrong,
        )
        assert np.isfinite(model.fit(X).lower_bound_)


@pytest.mark.parametrize("order", [0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("s", [2e-7, 2.0])
def test_draws_have_the_variance_of_their_logarithms(order, s):
    # Over log y the density is exp(order * u - s * cosh(u)), where rho = tau.
    u = np.linspace(-45, 45, 400_001)
    with np.errstate(over="ignore"):
        log_density = order * u - s * np.cosh(u)
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = density @ u
    variance = density @ (u - mean) ** 2
    half = torch.tensor([s / 2]).double()
    rng = np.random.default_rng(0)
    draws = InverseGaussians(order).sample(half, half, 200_000, rng).log().numpy()
    assert_allclose(draws.mean(), mean, atol=4 * np.sqrt(variance / 200_000))
    assert_allclose(draws.var(), variance, rtol=0.02 if order < 30 else 0.07)


def test_what_is_no_number_stays_none():
    family = InverseGaussians(0.5)
    values = torch.tensor([1.0, np.nan, np.inf]).double()
    mean, inverse, log_normaliser = family.moments(values, torch.ones(3).double())
    for moments in (mean, inverse, log_normaliser):
        assert moments.isfinite().tolist() == [True, False, False]


def test_layers_of_the_network_and_of_transform_are_checked():
    X, _ = planted(30)
    for layers in ((0,), (2.5,)):
        with pytest.raises(ValueError, match="encoder_layers must hold positive"):
            by_gradients((3,), amortized=True, encoder_layers=layers).fit(X)
    model = SparseGammaDEF((3, 2), max_iter=2, random_state=0).fit(X)
    model.set_params(transform_layer=3)
    for asked in (lambda: model.transform(X), model.get_feature_names_out):
        with pytest.raises(ValueError, match="'all' or from 1 to 2"):
            asked()


def test_a_network_is_asked_for_with_gradients():
    with pytest.raises(ValueError, match="amortized=True needs solver='gradient'"):
        SparseGammaDEF((2,), amortized=True).fit(planted(20)[0])


# Correlated posteriors.


def test_correlated_logs_are_those_of_the_exact_posterior():
    """Of two weights that overlap, by sums over a grid of their logarithms."""
    a, b = 0.1, 0.3
    z = np.random.default_rng(0).gamma(1.0, 1.0, (40, 2)) + 1.0
    x = np.random.default_rng(1).poisson(z @ [4.0, 6.0])
    u = np.stack(np.meshgrid(*[np.linspace(0, 3, 301)] * 2, indexing="ij"))
    w = np.exp(u)
    m = np.tensordot(z, w, 1)
    log_joint = scipy.stats.poisson.logpmf(x[:, None, None], m).sum(0)
    log_joint += (scipy.stats.gamma.logpdf(w, a, scale=1 / b) + u).sum(0)
    step = u[0, 1, 0] - u[0, 0, 0]
    log_evidence = scipy.special.logsumexp(log_joint) + 2 * np.log(step)
    share = np.exp(log_joint - scipy.special.logsumexp(log_joint))
    mean = (share * w).sum((1, 2))
    flat = (u - (share * u).sum((1, 2), keepdims=True)).reshape(2, -1)
    covariance = (flat * share.ravel()) @ flat.T
    # Gammas of these means, with the best shapes that independent ones can have.
    shape = a + mean**2 * (x / (z @ mean) ** 2 @ z**2)
    tensors = [torch.from_numpy(v)[None] for v in (mean, shape)]
    logs = CorrelatedLogs(*tensors, a)
    of_rows = torch.from_numpy(z)
    curvature = torch.from_numpy(x / (z @ mean) ** 2)[None]
    # Nearly exact factors, of which only the means count.
    logs.add(curvature, of_rows, torch.full_like(of_rows, 1e12))
    logs.settle()
    found = torch.cholesky_inverse(logs.factors[0][0])[0].numpy()
    assert_allclose(found, covariance, rtol=0.2)
    assert covariance[0, 1] < -0.7 * np.sqrt(covariance[0, 0] * covariance[1, 1])
    # The bounds, by draws.
    gammas = scipy.stats.gamma(shape, scale=mean / shape)
    prior = scipy.stats.gamma(a, scale=1 / b)
    generator = np.random.default_rng(0)
    of_logs = [
        logs.draw(torch.ones(1, 2).double(), generator).numpy() for _ in range(4000)
    ]
    drawn = [gammas.rvs((4000, 2), random_state=0), np.concatenate(of_logs)]
    center = np.log(mean) - found.diagonal() / 2
    normal = scipy.stats.multivariate_normal(center, found)
    log_q = [
        gammas.logpdf(drawn[0]).sum(1),
        normal.logpdf(np.log(drawn[1])) - np.log(drawn[1]).sum(1),
    ]
    log_weights = [
        scipy.stats.poisson.logpmf(x, w @ z.T).sum(1) + prior.logpdf(w).sum(1) - of_q
        for w, of_q in zip(drawn, log_q, strict=True)
    ]
    independent, correlated = (values.mean() for values in log_weights)
    error = log_weights[1].std() / 4000**0.5
    assert correlated < log_evidence + 3 * error
    assert log_evidence - correlated < 0.1 * (log_evidence - independent)
    # And importance weights have the evidence for their mean.
    estimate = scipy.special.logsumexp(log_weights[1]) - np.log(4000)
    assert estimate == pytest.approx(log_evidence, abs=0.05)


def test_correlated_logs_are_the_best_to_second_order():
    rng = np.random.default_rng(0)
    mean = torch.from_numpy(rng.gamma(2, 1, (5, 4)))
    shape = torch.tensor([[9.0, 1.0, 20.0, 6.0]]).double().repeat(5, 1)
    shape[1], shape[2, 1:], prior = 1.0, 2.0, 0.1
    logs = CorrelatedLogs(mean, shape, prior)
    other = torch.from_numpy(rng.gamma(2, 1, (30, 4)))
    logs.add(torch.ones(5, 30).double(), other, 3 * torch.ones_like(other), 0.1)
    logs.settle()
    change = logs.kl_change()
    # Of one large number, or none, nothing is correlated.
    assert (change != 0).tolist() == [True, False, False, True, True]
    at = [0, 2, 3]
    for row in (0, 3, 4):
        block = next(b for b in logs.blocks if row in b.rows)
        place = int((block.rows == row).nonzero())
        factor = logs.factors[logs.blocks.index(block)][0][place]
        m, u = mean[row, at].numpy(), other[:, at].numpy()
        h = 0.1 * np.outer(m, m) * (u.T @ u + np.diag((u**2).sum(0) / 3))
        precision = (factor @ factor.T).numpy()
        best = h * np.exp(np.linalg.inv(precision)) + prior * np.eye(3)
        assert_allclose(precision, best, rtol=0.02)
        # The divergence from a prior, beside that of gammas, whatever its rate.
        covariance = np.linalg.inv(precision)
        log_mean = np.log(m) - np.diag(covariance) / 2
        normal = scipy.stats.multivariate_normal(log_mean, covariance)
        alpha = shape[row, at].numpy()
        gammas = scipy.stats.gamma(alpha, scale=m / alpha)
        for rate in (0.3, 2.0):
            own = -normal.entropy() - log_mean.sum() - prior * 3 * np.log(rate)
            own -= ((prior - 1) * log_mean - rate * m - math.lgamma(prior)).sum()
            mean_log = scipy.special.digamma(alpha) - np.log(alpha / m)
            old = -gammas.entropy().sum() - prior * 3 * np.log(rate)
            old -= ((prior - 1) * mean_log - rate * m - math.lgamma(prior)).sum()
            assert float(change[row]) == pytest.approx(own - old, rel=1e-6)


def test_rows_that_gain_nothing_by_correlations_stay_gammas():
    ones = torch.ones(2, 2).double()
    logs = CorrelatedLogs(ones, 8 * ones, 0.1)
    # Of the first row each number has data of its own, of the second all are shared.
    curvature = torch.tensor([[8.0, 8.0, 0.0], [0.0, 0.0, 8.0]]).double()
    other = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()
    logs.add(curvature, other, torch.full_like(other, 1e12))
    logs.settle()
    assert (logs.kl_change() != 0).tolist() == [False, True]
    draws = logs.draw(torch.full((2, 2), -1.0).double(), np.random.default_rng(0))
    assert (draws[0] == -1).all()
    assert (draws[1] > 0).all()


def test_a_few_rows_may_leave_many_directions_to_the_prior():
    """Variances are then large, and covariances as large as these, of either sign."""
    ones, prior = torch.ones(1, 3).double(), 0.1
    logs = CorrelatedLogs(ones, 8 * ones, prior)
    other = torch.tensor([[6.0, 3.0, 2.0], [8.0, 2.0, 3.0]]).double()
    curvature = torch.tensor([[100.0, 1000.0]]).double()
    logs.add(curvature, other, torch.full_like(other, 1e12))
    of_data = logs.curvatures[0][0].numpy().copy()
    logs.settle()
    precision = (logs.factors[0][0] @ logs.factors[0][0].mT)[0].numpy()
    covariance = np.linalg.inv(precision)
    expected = of_data * np.exp(covariance) + prior * np.eye(3)
    assert_allclose(precision, expected, rtol=0.1)


def correlated(sizes=(6, 3), **parameters):
    settings = {"max_iter": 40, "random_state": 0, **parameters}
    return SparseGammaDEF(sizes, covariance_type="full", **settings)


@pytest.mark.parametrize(
    ("likelihood", "container"),
    [
        ("poisson", np.asarray),
        ("poisson", scipy.sparse.csr_matrix),
        ("bernoulli", scipy.sparse.csr_matrix),
        ("gaussian", scipy.sparse.csr_matrix),
    ],
)
def test_full_covariances_tighten_the_bound_and_nothing_else(likelihood, container):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(1, 1, (80, 6)) @ rng.gamma(1, 5, (6, 30)))
    X = X > 20 if likelihood == "bernoulli" else of_likelihood(X, likelihood)
    X = container(X.astype(float))
    full = correlated(likelihood=likelihood).fit(X)
    plain = clone(full).set_params(covariance_type="diag").fit(X)
    error = np.hypot(full.lower_bound_std_error_, plain.lower_bound_std_error_)
    assert full.lower_bound_ > plain.lower_bound_ + 4 * error
    assert_array_equal(full.transform(X), plain.transform(X))
    assert_array_equal(full.score_samples(X), plain.score_samples(X))
    assert_array_equal(full.components_, plain.components_)
    # Solvers that have no use for it ignore it.
    other = {"solver": "auxiliary", "max_iter": 2}
    bounds = [clone(m).set_params(**other).fit(X).lower_bound_ for m in (full, plain)]
    assert bounds[0] == bounds[1]


def test_the_bound_of_full_covariances_is_that_of_an_independent_estimate():
    X = sparse_and_layered(0, 20, 10)[0]
    model = correlated((4,)).fit(X)
    module = model._load(torch.float64)
    x = Batch(to_tensor(X, slice(None), dtype=torch.float64, device="cpu"))
    q = module.posterior(x).factors
    batches = [(x, module._pack(q))]
    lowest = module.lowest
    both = [
        (q.mean, q.shape, drawn_bound.correlated_rows(module, x, q), 0.1),
        (
            lowest.weight_mean,
            lowest.weight_concentration,
            drawn_bound.correlated_weights(module, lambda: batches),
            0.3,
        ),
    ]
    rng, bounds = np.random.default_rng(0), []
    for _ in range(100):
        bound, drawn = 0.0, []
        for mean, shape, logs, rate in both:
            gammas = scipy.stats.gamma(shape.numpy(), scale=(mean / shape).numpy())
            y = gammas.rvs(random_state=rng)
            log_q = gammas.logpdf(y)
            for block, (factor, _) in zip(logs.blocks, logs.factors, strict=True):
                for row, columns, is_in, L in zip(
                    block.rows, block.columns, block.is_in, factor, strict=True
                ):
                    at, n = columns[is_in].numpy(), int(is_in.sum())
                    if n == 0:
                        continue
                    covariance = torch.cholesky_inverse(L)[:n, :n].numpy()
                    center = np.log(mean[row].numpy()[at]) - np.diag(covariance) / 2
                    normal = scipy.stats.multivariate_normal(center, covariance)
                    log = normal.rvs(random_state=rng)
                    y[row, at] = np.exp(log)
                    log_q[row, at] = 0
                    log_q[row, at[0]] = normal.logpdf(log) - log.sum()
            bound += scipy.stats.gamma.logpdf(y, 0.1, scale=1 / rate).sum()
            bound -= log_q.sum()
            drawn.append(y)
        bounds.append(bound + log_likelihood(model, X, drawn[0] @ drawn[1].T))
    error = np.hypot(np.std(bounds) / 10, model.lower_bound_std_error_)
    assert abs(np.mean(bounds) - model.lower_bound_) < 4 * error
    assert error < 0.01 * abs(model.lower_bound_)


def test_correlations_are_those_of_rows_in_any_batches(monkeypatch):
    X = sparse_and_layered(0, 60, 20)[0]
    weights = np.repeat([1.0, 2.0], 30)
    module = correlated().fit(X, sample_weight=weights)._load(torch.float64)

    def found(rows, weight, container):
        parts = []
        for part in rows:
            x = to_tensor(
                container(X[part]), slice(None), dtype=torch.float64, device="cpu"
            )
            batch = Batch(x, weight=torch.from_numpy(weight[part]))
            parts.append((batch, None))
        logs = drawn_bound.correlated_weights(module, lambda: parts)
        return logs.kl_change()

    expected = found([np.arange(60)], weights, np.asarray)
    assert (expected < 0).any()
    twice = np.r_[np.arange(60), np.arange(30, 60)]
    for rows, weight, container in (
        ([np.arange(25), np.arange(25, 60)], weights, np.asarray),
        ([twice], np.ones(60), np.asarray),
        ([np.arange(60)], weights, scipy.sparse.csr_matrix),
    ):
        assert_allclose(found(rows, weight, container), expected, rtol=1e-6)
    # Rows of which nothing is kept are found anew.
    batch = [(Batch(torch.from_numpy(X)), None)]
    bound = module.data_bound(lambda: batch)
    monkeypatch.setattr(drawn_bound, "KEPT", 0)
    assert module.data_bound(lambda: batch) == bound


def test_full_covariances_of_ugly_data():
    rng = np.random.default_rng(0)
    X = rng.poisson(1.0, (6, 4)).astype(float)
    X[2], X[:, 1], X[0, 0] = 0, 0, 1e9
    for counts in (X, np.zeros((3, 2)), np.full((4, 3), 1e6), X[:1], X[:, :1]):
        model = correlated((3, 2), layer_shape=1e-3).fit(counts)
        assert np.isfinite(model.lower_bound_)
    missing = np.where(
        rng.random((40, 12)) < 0.2, np.nan, 30 * rng.gamma(1, 1, (40, 12))
    )
    model = correlated((3,), missing_values="ignore").fit(missing.round())
    plain = clone(model).set_params(covariance_type="diag").fit(missing.round())
    assert model.lower_bound_ > plain.lower_bound_


# Spikes and slabs.


def spiked(sizes=(6,), **parameters):
    settings = {"solver": "auxiliary", "max_iter": 200, "random_state": 0, **parameters}
    return SparseGammaDEF(
        sizes, weight_prior="spike_slab", weight_shape=2.0, **settings
    )


@pytest.mark.parametrize(
    ("solver", "seed"),
    [
        ("auxiliary", 0),
        ("auxiliary", 1),
        ("auxiliary", 2),
        ("gradient", 0),
        # A thousand passes each.
        pytest.param("gradient", 1, marks=pytest.mark.slow),
        pytest.param("gradient", 2, marks=pytest.mark.slow),
    ],
)
def test_a_planted_support_is_found(solver, seed):
    X, parts = sparse_and_layered(seed)
    settings = {"n_init": 4} if solver == "auxiliary" else {"max_iter": 1000}
    model = spiked(solver=solver, **settings).fit(X)
    correlations = np.corrcoef(model.components_, parts)[:6, 6:]
    rows, columns = linear_sum_assignment(-correlations)
    (inclusion,) = model.inclusion_probabilities_
    inclusion = inclusion[rows]
    assert inclusion.shape == parts.shape
    f1 = f1_score((parts[columns] > 0).ravel(), (inclusion > 0.5).ravel())
    assert f1 > 0.9
    assert (inclusion < 0.1).mean() > 0.3
    # Without spikes there are none.
    assert SparseGammaDEF((2,), max_iter=1).fit(X).inclusion_probabilities_ is None


def test_a_planted_support_of_upper_weights_is_found():
    rng = np.random.default_rng(0)
    parts = np.zeros((6, 30))
    parts[np.arange(30) % 6, np.arange(30)] = rng.gamma(3, 1, 30)
    is_slab = np.repeat(np.eye(2), 3, axis=1)
    z = rng.gamma(3, rng.gamma(0.3, 3, (300, 2)) @ is_slab + 1e-3)
    X = rng.poisson(z @ parts).astype(float)
    shapes = {"layer_shape": (3.0, 0.3)}
    model = spiked((6, 2), solver="gradient", max_iter=150, **shapes).fit(X)
    lowest, upper = model.inclusion_probabilities_
    assert lowest.shape == parts.shape
    order = np.corrcoef(model.components_, parts)[:6, 6:].argmax(0)
    found = upper[:, order]
    found = found[np.argsort(-found[:, 0])]
    assert_allclose(found, is_slab, atol=0.1)
    # Closed forms have spikes in the lowest layer.
    assert len(spiked((6, 2), max_iter=2).fit(X).inclusion_probabilities_) == 1


def test_the_divergence_of_spikes_is_that_of_every_layer():
    X = sparse_and_layered(0, 40, 12)[0]
    model = spiked((4, 2), solver="gradient", max_iter=20).fit(X)
    module = model._load(torch.float64)
    with torch.no_grad():
        # Other odds in each layer than at the start.
        module.inclusion_logits.copy_(torch.tensor([1.0, -1.0]))
        module.refresh()
        actual = float(module.global_kl())
        pairs = [FAMILIES["gamma"].distribution(*p) for p in module._weight_pairs()]
    kls = []
    for q, odds in zip(pairs, (1.0, -1.0), strict=True):
        share, shape = scipy.special.expit(odds), q.concentration.numpy()
        own = scipy.stats.gamma(shape, scale=(q.mean / q.concentration).numpy())
        w = own.rvs((4000, *shape.shape), random_state=0)
        slab = scipy.stats.gamma.logpdf(w, 2, scale=1 / 0.3)
        spike = scipy.stats.gamma.logpdf(w, 1, scale=2 / 0.3 / 100)
        prior = np.logaddexp(np.log(share) + slab, np.log1p(-share) + spike)
        kls.append((own.logpdf(w) - prior).sum((1, 2)))
    expected = sum(kls)
    # The actual one is of 20 draws.
    error = expected.std() / 20**0.5
    assert abs(actual - expected.mean()) < 4 * error
    assert abs(kls[1].mean()) > 5 * kls[1].std() / 20**0.5


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli"])
def test_steps_with_spikes_climb_the_bound(likelihood):
    X = of_likelihood(sparse_and_layered(0, 100)[0], likelihood)
    model = spiked((6, 2), likelihood=likelihood, tol=0).fit(X)
    bounds = np.array(model.history_["lower_bound"])
    assert (np.diff(bounds) >= -1e-9 * np.abs(bounds[1:])).all()


def test_the_posterior_of_spikes_is_that_of_a_mixture():
    """Of the weights given what rows say of them: by quadrature."""
    model = spiked().fit(sparse_and_layered(0, 100)[0])
    lowest = model._load(torch.float64).lowest
    slab, spike = (scipy.stats.gamma(a, scale=1 / b) for a, b in lowest.kinds)
    share = float(lowest.inclusion_rate)
    t = np.linspace(-60, 8, 200_001)
    w, step = np.exp(t), t[1] - t[0]
    density = share * slab.pdf(w) + (1 - share) * spike.pdf(w)
    for feature, unit in ((0, 0), (5, 3), (11, 2)):
        counts = float(lowest.counts.detach()[feature, unit])
        total = float(lowest.totals.detach()[unit])
        weight = density * w * np.exp(counts * t - total * w - counts)
        mean = (weight * w).sum() / weight.sum()
        actual = float(lowest.weight_mean[feature, unit])
        # The share of slabs was renewed after the odds were.
        assert actual == pytest.approx(mean, rel=1e-3)
        assert step < 1e-3
    draws = lowest.draw(np.random.default_rng(0))
    assert draws.mean() == pytest.approx(float(lowest.weight_mean.mean()), rel=0.05)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"solver": "expansion"}, "needs solver='auxiliary' or 'gradient'"),
        ({"likelihood": "gaussian"}, "'gaussian' needs solver='gradient'"),
    ],
)
def test_spikes_that_have_no_closed_form_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        spiked(**parameters).fit(planted(20)[0])


# Bad input.


@pytest.mark.parametrize("solver", ["expansion", "auxiliary", "gradient"])
@pytest.mark.parametrize("link", ["mean", "rate"])
def test_extreme_sizes_counts_and_shapes(solver, link):
    rng = np.random.default_rng(0)
    X = rng.poisson(1.0, (6, 4)).astype(float)
    X[2], X[:, 1], X[0, 0] = 0, 0, 1e9
    for sizes, shape, rows in (
        ((9, 1), 0.1, slice(None)),
        ((1, 1, 1), 0.1, slice(1)),
        ((3, 2), 0.001, slice(None)),
    ):
        model = SparseGammaDEF(
            sizes,
            solver=solver,
            link=link,
            layer_shape=shape,
            max_iter=30,
            random_state=0,
        )
        Z = model.fit(X[rows]).transform(X)
        assert np.isfinite(Z).all()
        assert np.isfinite(model.lower_bound_)
        assert np.isfinite(model.score(X))


VARIANTS = [
    {},
    {"link": "rate"},
    {"covariance_type": "full"},
    {"solver": "auxiliary", "weight_prior": "spike_slab", "weight_shape": 1.0},
    {"solver": "gradient", "weight_prior": "spike_slab", "weight_shape": 1.0},
    {"solver": "gradient", "amortized": True, "encoder_layers": (3,)},
]


@pytest.mark.filterwarnings("ignore:layer_sizes:UserWarning")
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    variant=st.sampled_from(VARIANTS),
    shape=st.sampled_from([0.1, 1.0]),
    n_rows=st.integers(1, 5),
    scale=st.sampled_from([0, 1, 10**6]),
    seed=st.integers(0, 99),
)
def test_any_layers_of_ugly_rows(sizes, variant, shape, n_rows, scale, seed):
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.gamma(0.3, scale, (n_rows, 4))).astype(float)
    # A constant column, an empty row, and rows that are there twice.
    X[:, 1] = X[:, 1].max()
    X[-1] = 0
    X = np.concatenate([X, X])
    model = SparseGammaDEF(
        sizes, layer_shape=shape, max_iter=3, random_state=0, **variant
    )
    Z = model.fit(X).set_params(transform_layer="all").transform(X)
    assert Z.shape == (2 * n_rows, sum(sizes))
    assert np.isfinite(Z).all()
    assert (Z >= 0).all()
    assert_allclose(Z[:n_rows], Z[n_rows:], rtol=1e-9, atol=1e-12)
    assert np.isfinite(model.lower_bound_)
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("solver", ["expansion", "auxiliary"])
def test_empty_rows_come_to_their_prior(solver, counts, monkeypatch):
    """Under a deep model too, where steps are small far below the prior's mean."""
    model = SparseGammaDEF((6, 3, 2), solver=solver, max_iter=10, random_state=0)
    model.fit(counts.toarray().astype(np.float64))
    empty = np.zeros((1, counts.shape[1]))
    found = model.score_samples(empty)
    for module in (row_iteration, count_rows):
        monkeypatch.setattr(module, "MAX_STEPS", 3000)
    model._fitted_with["inner_tol"] = 1e-8
    assert_allclose(found, copy.copy(model).score_samples(empty), atol=1e-3)


def test_the_network_s_centers_are_means_of_all_rows():
    # Rows that are there many times are merged where the model starts.
    X = np.repeat([[6.0, 1.0, np.nan], [0.0, 3.0, 2.0]], [9, 3], axis=0)
    X[0, 2] = 5.0
    model = SparseGammaDEF(
        (2,),
        solver="gradient",
        amortized=True,
        encoder_layers=(4,),
        missing_values="ignore",
        max_iter=1,
        random_state=0,
    ).fit(X)
    module = model._load(torch.float64)
    np.testing.assert_allclose(module.center, np.nanmean(X, axis=0))
    batch = Batch.of(torch.from_numpy(X), may_miss=True)
    np.testing.assert_allclose(module.input_mean, module._inputs(batch).mean(0))
