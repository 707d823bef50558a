"""Poisson-gamma belief networks: the sampler, the bound, depth."""

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skdeepfactor import PoissonGammaBeliefNetwork, SparseGammaDEF
from skdeepfactor._math import tokens as tokens_file
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.tokens import TokenParts
from skdeepfactor.datasets import make_topics
from skdeepfactor.inspection import hierarchy, match_components
from skdeepfactor.models.poisson_gamma_belief_network import bound as bound_file
from skdeepfactor.models.poisson_gamma_belief_network import rows as rows_file
from skdeepfactor.models.poisson_gamma_belief_network.module import PoissonGammaLayers
from skdeepfactor.models.poisson_gamma_belief_network.rows import (
    Layers,
    RowState,
    drawn_tokens,
    drawn_units,
)
from skdeepfactor.plotting import topic_page
from tests.test_contract import matrices


def layers_of(sizes, n_features, seed=0, top=1.5):
    rng = np.random.default_rng(seed)
    below = (n_features, *sizes[:-1])
    weights = [
        torch.tensor(rng.dirichlet(np.ones(b), size=k).T.copy())
        for k, b in zip(sizes, below, strict=True)
    ]
    return Layers(weights, torch.full((sizes[-1],), top).double())


def prior_state(layers, n_rows, rng, beta):
    """Units of rows drawn from the prior, and rates, the lowest layer's first."""
    rates = [rng.gamma(1.0, size=(n_rows, 1)) for _ in layers.weights]
    p = rng.beta(beta, beta, size=(n_rows, 1))
    rates[0] = (1 - p) / p
    units, above = [], None
    for layer in reversed(range(layers.n_layers)):
        shape = layers.shapes(layer, None if above is None else torch.tensor(above))
        above = rng.gamma(shape.numpy(), size=(n_rows, shape.shape[1])) / rates[layer]
        units.insert(0, above)
    return units, rates


def tokens_of(layers, x, units, rates, keys):
    shapes = [
        layers.shapes(layer, units[layer + 1] if layer + 1 < len(units) else None)
        for layer in range(len(units))
    ]
    shapes = [s.expand(len(x), -1) for s in shapes]
    drawn = rows_file.Units(units, shapes, [], [])
    state = RowState(units, rates)
    return drawn_tokens(layers, TokenParts(x), drawn, state, keys, 0)[0]


def draws_of_x(layers, units, rng):
    means = (units[0] @ layers.weights[0].T).numpy()
    # Draws that do not fit in memory are as rare here as they are there.
    return torch.tensor(rng.poisson(np.minimum(means, 200)).astype(float))


def statistics(x, units, rates):
    """Bounded functions of a state, (n_rows, n_functions)."""
    parts = [np.tanh(x), np.tanh(x.sum(1, keepdims=True) / 20)]
    parts += [np.tanh(np.log(u + 1e-3) / 3) for u in units]
    parts += [np.tanh(np.log(c) / 3) for c in rates]
    x_total = np.tanh(x.sum(1, keepdims=True) / 20)
    parts += [x_total * np.tanh(u) for u in units]
    parts += [np.tanh(units[-1][:, :1]) * np.tanh(np.log(rates[0]))]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("sizes", [(3,), (3, 2), (2, 3, 2)])
def test_sweeps_leave_the_joint_distribution_as_it_is(sizes, monkeypatch):
    """Rows drawn from the prior stay so when all of them is drawn anew in turn.

    Geweke (2004), Getting it right, without a chain: each row is a start of its own.
    """
    monkeypatch.setattr(rows_file, "PROBABILITY_PRIOR", 3.0)
    n_rows, rng = 12000, np.random.default_rng(1)
    layers = layers_of(sizes, 4)
    generator = torch.Generator().manual_seed(0)

    def keys():
        return torch.randint(-(2**62), 2**62, (n_rows,), generator=generator)

    def start():
        units, rates = prior_state(layers, n_rows, rng, 3.0)
        units, rates = ([torch.tensor(a) for a in x] for x in (units, rates))
        return draws_of_x(layers, units, rng), units, rates

    x, units, rates = start()
    expected = statistics(*(as_arrays(a) for a in start()))
    for _ in range(3):
        state = tokens_of(layers, x, units, rates, keys())
        drawn, state = drawn_units(layers, x.sum(1), state, keys(), 0)
        units, rates = drawn.draws, state.rates
        x = draws_of_x(layers, units, rng)
    found = statistics(*(as_arrays(a) for a in (x, units, rates)))
    errors = np.sqrt((found.var(axis=0) + expected.var(axis=0)) / n_rows)
    assert (np.abs(found.mean(axis=0) - expected.mean(axis=0)) < 4 * errors).all()


def as_arrays(values):
    if isinstance(values, list):
        return [v.numpy() for v in values]
    return values.numpy()


def log_probability(x, r):
    """log p(x | r) of beta-negative-binomial counts, up to a constant in r."""
    a = 0.01
    terms = scipy.special.gammaln(x + r) - scipy.special.gammaln(r)
    terms += scipy.special.betaln(a + x, a + r) - scipy.special.betaln(a, a)
    return terms - scipy.special.gammaln(x + 1)


def test_the_posterior_of_the_shapes_is_exact():
    """One unit and one feature: the posterior of r is an integral."""
    X = np.array([[3.0], [0], [11], [1], [5], [5]])
    grid = np.linspace(0.005, 30, 6000)
    logs = sum(log_probability(x, grid) for x in X[:, 0]) - grid
    weights = np.exp(logs - logs.max())
    mean = (grid * weights).sum() / weights.sum()
    std = np.sqrt(((grid - mean) ** 2 * weights).sum() / weights.sum())
    model = PoissonGammaBeliefNetwork((1,), max_iter=1000, n_burn_in=50)
    model.set_params(random_state=0, n_draws=1).fit(X)
    # Sweeps are not independent.
    assert abs(model.top_shape_[0] - mean) < 5 * std * np.sqrt(10 / 950)


def test_a_single_unit_has_the_posterior_of_a_dirichlet(counts):
    model = PoissonGammaBeliefNetwork((1,), max_iter=3, n_burn_in=1, random_state=0)
    model.set_params(n_draws=2).fit(counts)
    expected = np.asarray(counts.sum(axis=0)) + 0.05
    np.testing.assert_allclose(model.components_, expected / expected.sum(), rtol=1e-5)


def module_of(layers):
    sizes = tuple(w.shape[1] for w in layers.weights)
    made = PoissonGammaLayers(
        sizes,
        layers.weights[0].shape[0],
        topic_word_prior=0.05,
        n_burn_in=0,
        n_draws=200,
    ).double()
    for layer, weights in enumerate(layers.weights):
        getattr(made, f"mean_{layer}").copy_(weights.T)
    made.mean_top.copy_(layers.top_shape)
    made.eval().refresh()
    return made


def test_the_bound_of_one_unit_is_close_to_the_exact_value():
    made = module_of(layers_of((1,), 1))
    x = np.array([0.0, 1, 4, 30])
    bounds = made.elbo(Batch(torch.tensor(x[:, None]))).numpy()
    exact = log_probability(x, 1.5)
    # The posterior has the right form: it differs by the averages over the chain.
    np.testing.assert_allclose(bounds, exact, atol=1e-6)
    words = made.word_bound(Batch(torch.tensor(x[1:, None]))).numpy()
    np.testing.assert_allclose(words, 0, atol=1e-6)


@pytest.mark.parametrize(("sizes", "gap"), [((2,), 0.6), ((2, 2), 2.0)])
def test_the_bound_is_below_the_evidence(sizes, gap):
    """By Monte Carlo over the prior, given which totals are negative binomial."""
    layers = layers_of(sizes, 3, seed=2)
    made = module_of(layers)
    X = np.array([[1.0, 0, 0], [0, 2, 1], [5, 0, 3], [0, 0, 0]])
    rng = np.random.default_rng(0)
    n = 200_000
    shape = layers.top_shape.numpy()[None]
    for layer in reversed(range(1, len(sizes))):
        rate = rng.gamma(1.0, size=(n, 1))
        units = rng.gamma(shape, size=(n, sizes[layer])) / rate
        shape = units @ layers.weights[layer].T.numpy()
    shape = np.broadcast_to(shape, (n, sizes[0]))
    theta = rng.gamma(shape)
    shares = theta / theta.sum(axis=1, keepdims=True)
    p = shares @ layers.weights[0].T.numpy()
    logs = [
        scipy.special.logsumexp(
            log_probability(x.sum(), shape.sum(axis=1))
            + scipy.special.gammaln(x.sum() + 1)
            - scipy.special.gammaln(x + 1).sum()
            + (x * np.log(p)).sum(axis=1)
        )
        - np.log(n)
        for x in X
    ]
    # The largest gap is 1.5, and that of one chain varies by .6.
    n_chains = 30
    batch = Batch(torch.tensor(X).repeat(n_chains, 1))
    batch.keys = torch.tensor(rng.integers(2**62, size=len(batch)))
    bounds = made.elbo(batch).view(n_chains, -1).mean(0).numpy()
    assert (bounds < np.array(logs) + 0.05).all()
    assert (bounds > np.array(logs) - gap).all()
    total = bound_file.log_probability_of_totals(
        torch.tensor([4.0]).double(), made._prior_totals
    )
    exact = scipy.special.logsumexp(log_probability(4.0, shape.sum(axis=1)))
    assert total.item() == pytest.approx(exact - np.log(n), abs=0.1)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_tokens_are_drawn_some_rows_at_a_time(is_sparse, monkeypatch):
    layers = layers_of((3, 2), 4)
    made, rng = module_of(layers), np.random.default_rng(0)
    made.n_draws = 3
    X = torch.tensor(rng.poisson(3.0, size=(20, 4)).astype(float))
    X[3], X[7, 2] = 0, 5000
    X = X.to_sparse_csr() if is_sparse else X
    whole, sizes = made.posterior(Batch(X)).means, []
    tables_of = rows_file.tables

    def tables(counts, *args, **options):
        sizes.append(len(counts))
        return tables_of(counts, *args, **options)

    monkeypatch.setattr(rows_file, "tables", tables)
    monkeypatch.setattr(tokens_file, "MOST_AT_ONCE", 100)
    parts = made.posterior(Batch(X)).means
    # A row has some 12 tokens; the large entry counts as a thousand.
    assert 2 <= max(sizes) <= 10
    for found, expected in zip(parts, whole, strict=True):
        assert torch.equal(found, expected)


def test_planted_topics_are_found(tmp_path):
    data = make_topics(300, 60, 4, random_state=0)
    model = PoissonGammaBeliefNetwork((8, 2), max_iter=60, n_burn_in=30)
    model.set_params(random_state=0).fit(data.data)
    _, cosines = match_components(data.components, model.components_)
    assert cosines.min() > 0.95
    for weights in model.weights_:
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert len(hierarchy(model, n=2)) == 2
    topic_page(model, data.data, path=tmp_path / "page.html")
    tree = (tmp_path / "page.html").read_text(encoding="utf-8").count('"share"')
    assert tree >= 2


def test_units_without_a_token_are_not_active():
    model = PoissonGammaBeliefNetwork((6, 2), max_iter=4, n_draws=1, random_state=0)
    n_active = model.fit(np.eye(2)).n_active_
    # There are two tokens.
    assert ((n_active >= 1) & (n_active <= 2)).all()


def test_depth_finds_themes_of_topics():
    """Topics that occur together have a unit above them, and words are predicted."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(40, 0.05), size=6)
    theme = rng.integers(2, size=400)
    alpha = np.where(np.arange(6)[None] // 3 == theme[:, None], 0.5, 0.005)
    theta = np.array([rng.dirichlet(a) for a in alpha])
    X = np.array([rng.multinomial(25, p / p.sum()) for p in theta @ topics])
    model = PoissonGammaBeliefNetwork((6, 2), max_iter=150, n_burn_in=100)
    model.set_params(random_state=0).fit(X)
    pairs, _ = match_components(topics, model.components_)
    above = model.weights_[1][:, pairs[:, 1]]
    groups = [above[:, :3].sum(axis=1), above[:, 3:].sum(axis=1)]
    # One unit is of the first three topics, the other of the last.
    assert np.ptp(groups[0]) > 0.6
    Z = model.set_params(transform_layer=2).transform(X)
    guess = Z.argmax(axis=1)
    assert max((guess == theme).mean(), (guess != theme).mean()) > 0.95


def test_fractions_are_rounded_alike_each_time(counts):
    X = counts.toarray() * 0.7
    model = PoissonGammaBeliefNetwork((3,), max_iter=3, input_scale=1.0)
    model.set_params(random_state=0, n_draws=4).fit(X)
    np.testing.assert_array_equal(model.transform(X), model.transform(X))
    again = scipy.sparse.csr_matrix(X)
    np.testing.assert_allclose(model.score_samples(X), model.score_samples(again))


def test_duplicate_rows_are_alike_only_when_they_are_new(counts):
    X = np.repeat(counts.toarray()[:1], 40, axis=0)
    model = PoissonGammaBeliefNetwork((3, 2), max_iter=3, n_draws=5, random_state=0)
    Z = model.fit_transform(X)
    assert (Z[0] == Z).all()
    made = model._load(torch.float64).train()
    _, local = made.backward(Batch(torch.tensor(X.astype(float))), 40.0)
    assert len(local.unique(dim=0)) > 1


def test_warm_starts_go_on_averaging(counts):
    model = PoissonGammaBeliefNetwork(
        (3, 2), max_iter=4, n_burn_in=2, n_draws=2, warm_start=True, random_state=0
    )
    for n_kept in (2, 6, 10):
        model.fit(counts)
        assert model._parameters["n_kept"] == n_kept
        assert model._parameters["n_steps"] == n_kept + 2
    with pytest.raises(ValueError, match="cannot continue"):
        model.set_params(layer_sizes=(4, 2)).fit(counts)


def test_a_settled_chain_goes_on_where_its_bound_falls(counts):
    model = PoissonGammaBeliefNetwork(
        (3, 2), max_iter=60, n_burn_in=30, n_draws=2, warm_start=True, random_state=0
    ).fit(counts)
    for _ in range(3):
        before = model.components_
        model.set_params(max_iter=3).fit(counts)
        assert not np.array_equal(model.components_, before)


def test_a_fit_that_averages_no_sweep_warns(counts):
    model = PoissonGammaBeliefNetwork((2,), max_iter=3, n_burn_in=3, random_state=0)
    with pytest.warns(ConvergenceWarning, match="first n_burn_in=3 sweeps are left"):
        model.fit(counts)
    # More sweeps may follow, and streams have no burn-in.
    clone(model).set_params(warm_start=True).fit(counts)
    clone(model).partial_fit(counts)
    for n_burn_in, n_kept in ((2, 1), (None, 2)):
        other = clone(model).set_params(n_burn_in=n_burn_in).fit(counts)
        assert other._parameters["n_kept"] == n_kept


@pytest.mark.parametrize("sizes", [(), (3, 0)])
def test_bad_layers(counts, sizes):
    with pytest.raises(ValueError, match="layer_sizes must hold"):
        PoissonGammaBeliefNetwork(sizes).fit(counts)


@pytest.mark.parametrize("kind", [PoissonGammaBeliefNetwork, SparseGammaDEF])
def test_layers_to_show_are_there_before_a_fit(counts, kind, monkeypatch):
    monkeypatch.setattr("skdeepfactor._estimator.fitting.train", None)
    for method in ("fit", "partial_fit"):
        model = kind((3, 2), transform_layer=3)
        with pytest.raises(ValueError, match="transform_layer must be 'all' or from 1"):
            getattr(model, method)(counts)


def test_a_layer_wider_than_the_one_below_warns(counts):
    model = PoissonGammaBeliefNetwork((2, 4), max_iter=2, n_draws=2, random_state=0)
    with pytest.warns(UserWarning, match="larger than the one below"):
        model.fit(counts)
    with pytest.raises(ValueError, match="transform_layer must be"):
        model.set_params(transform_layer=3).transform(counts)
    assert model.set_params(transform_layer="all").transform(counts).shape == (60, 6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*larger than the one below:UserWarning")
@settings(max_examples=4)
@given(X=matrices(), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_any_matrix_and_layers(X, sizes):
    """More units above than below, or than rows, among them."""
    model = PoissonGammaBeliefNetwork(sizes, max_iter=2, n_draws=2, random_state=0)
    model.set_params(transform_layer="all")
    assert model.fit_transform(X).shape == (X.shape[0], sum(sizes))
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score_samples(X)).all()


def test_a_probability_of_one_is_no_fault(monkeypatch):
    """Rows of many tokens have p_2 of 1 in floating point, and rates of 0."""
    X = np.array([[10**6, 0, 3], [0, 10**6, 0], [1, 0, 0], [0, 0, 0]])
    for prior in (0.01, 1e-12):
        monkeypatch.setattr(bound_file, "PROBABILITY_PRIOR", prior)
        monkeypatch.setattr(rows_file, "PROBABILITY_PRIOR", prior)
        model = PoissonGammaBeliefNetwork((2, 1), max_iter=5, n_draws=5)
        Z = model.set_params(random_state=0).fit_transform(X)
        assert np.isfinite(Z).all()
        assert np.isfinite(model.score_samples(X)).all()
