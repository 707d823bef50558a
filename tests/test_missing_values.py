"""Entries that are missing: left out of the likelihood, and said by what is there."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import digamma, gammaln
from sklearn.base import clone

from skdeepfactor import (
    LatentDirichletAllocation,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
    VariationalSparseCoding,
)
from skdeepfactor._estimator.conjugate import ConjugateFactorModel
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.networks import Decoder
from skdeepfactor._math.observations import observation_of
from skdeepfactor._math.starts import column_moments, imputed
from skdeepfactor._training.plan import Budget
from skdeepfactor.data import RowBlocks
from skdeepfactor.datasets import make_poisson_factors
from skdeepfactor.models.sparse_gamma_def.gradient import N_SHARINGS
from tests.conftest import ESTIMATORS
from tests.test_contract import climbing


def ignoring(models):
    return {
        name: model
        for name, model in models.items()
        if model.get_params().get("missing_values") == "ignore"
    }


IGNORE = {"missing_values": "ignore", "random_state": 0}
SMALL = {"encoder_layers": (8,), "max_iter": 5, "random_state": 0}
MODELS = {
    **ignoring(ESTIMATORS),
    "SparseGammaDEF-bernoulli": SparseGammaDEF(
        (3, 2), likelihood="bernoulli", max_iter=10, **IGNORE
    ),
    "SparseGammaDEF-auxiliary": SparseGammaDEF(
        (3, 2), solver="auxiliary", max_iter=10, **IGNORE
    ),
    "SparseGammaDEF-auxiliary-bernoulli": SparseGammaDEF(
        (3, 2), likelihood="bernoulli", solver="auxiliary", max_iter=10, **IGNORE
    ),
    "SparseGammaDEF-auxiliary-gaussian": SparseGammaDEF(
        (3,), likelihood="gaussian", solver="auxiliary", max_iter=10, **IGNORE
    ),
    "SparseGammaDEF-spike_slab": SparseGammaDEF(
        (3, 2),
        solver="auxiliary",
        weight_prior="spike_slab",
        weight_shape=1.0,
        max_iter=10,
        **IGNORE,
    ),
    "SparseGammaDEF-gradient": SparseGammaDEF(
        (3, 2), solver="gradient", max_iter=20, max_inner_iter=2, **IGNORE
    ),
    "SparseGammaDEF-gradient-gaussian": SparseGammaDEF(
        (3, 2),
        solver="gradient",
        likelihood="gaussian",
        family="lognormal",
        max_iter=20,
        max_inner_iter=2,
        **IGNORE,
    ),
    "SparseGammaDEF-amortized": SparseGammaDEF(
        (3, 2),
        likelihood="bernoulli",
        solver="gradient",
        family="lognormal",
        amortized=True,
        encoder_layers=(8,),
        learning_rate=0.1,
        max_iter=20,
        **IGNORE,
    ),
    "VariationalAutoencoder-gaussian": VariationalAutoencoder(
        3, missing_values="ignore", decoder_layers=(8,), prior="mixture", **SMALL
    ),
    "VariationalAutoencoder-bernoulli": VariationalAutoencoder(
        3,
        likelihood="bernoulli",
        missing_values="ignore",
        decoder_layers=(8,),
        objective="iwae",
        n_particles=3,
        **SMALL,
    ),
    "VariationalSparseCoding-gaussian": VariationalSparseCoding(
        3,
        alpha=0.3,
        noise="spherical",
        missing_values="ignore",
        prior="fixed",
        decoder_layers=(),
        **SMALL,
    ),
}
every_model = pytest.mark.parametrize(
    "model", MODELS.values(), ids=MODELS.keys(), indirect=True
)

CLOSED_FORMS = {
    name: model
    for name, model in MODELS.items()
    if isinstance(model, ConjugateFactorModel)
    and model.get_params().get("solver") != "gradient"
}
closed_forms = pytest.mark.parametrize(
    "model", CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys(), indirect=True
)


@pytest.fixture
def model(request):
    """A fresh estimator of each kind that ignores what is missing."""
    return clone(request.param)


@pytest.fixture(scope="module")
def fits():
    """Pickles of what has been fitted to ``holey`` once, by the model it was."""
    return {}


@pytest.fixture
def fitted(model, holey, fits):
    """The model, fitted to ``holey``."""
    key = repr((type(model), model.get_params()))
    if key not in fits:
        fits[key] = pickle.dumps(clone(model).fit(holey))
    return pickle.loads(fits[key])


@pytest.fixture(scope="module")
def gaps():
    """A fifth of the entries of the counts of three factors, at random."""
    return np.random.default_rng(0).random((60, 30)) < 0.2


@pytest.fixture(scope="module")
def holey(counts, gaps):
    """Data that all likelihoods take, with gaps; a row and a column are gaps alone."""
    X = (counts.toarray() > 0).astype(np.float64)
    X[gaps] = np.nan
    X[3] = np.nan
    X[:, 5] = np.nan
    return X


def poisson_deviance(X, mean):
    ratio = np.where(X > 0, X, 1) / mean
    return 2 * np.mean(np.where(X > 0, X * np.log(ratio), 0) - X + mean)


def squared_error(X, mean):
    return np.mean((X - mean) ** 2)


# What all models have in common.


def test_some_models_are_found():
    assert {type(model) for model in MODELS.values()} == {
        PoissonFactorization,
        SparseGammaDEF,
        VariationalAutoencoder,
        VariationalSparseCoding,
    }


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_tag_says_what_is_taken(name):
    is_ignoring = name in ignoring(ESTIMATORS)
    assert ESTIMATORS[name].__sklearn_tags__().input_tags.allow_nan == is_ignoring


@every_model
@pytest.mark.parametrize("batch_size", [None, 20])
def test_without_gaps_nothing_changes(model, counts, batch_size):
    X = (counts.toarray() > 0).astype(np.float64)
    model.set_params(batch_size=batch_size)
    strict = clone(model).set_params(missing_values="error").fit(X)
    model.fit(X)
    assert_allclose(model.components_, strict.components_, rtol=1e-9)
    assert model.lower_bound_ == pytest.approx(strict.lower_bound_, rel=1e-9)
    assert_allclose(model.transform(X), strict.transform(X), rtol=1e-9)
    assert_allclose(model.score_samples(X), strict.score_samples(X), rtol=1e-9)


@every_model
def test_all_methods_take_gaps(fitted, holey, tmp_path):
    model = fitted
    Z = model.transform(holey)
    expected = model.inverse_transform(Z)
    bounds = model.score_samples(holey)
    for values in (Z, expected, bounds, model.lower_bound_, model.components_):
        assert np.isfinite(values).all()
    assert model.score(holey) == pytest.approx(bounds.mean())
    assert np.isfinite(model.sample(5, random_state=0).sum())
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.transform(holey), Z)
    assert_array_equal(model.transform(holey, out=tmp_path / "Z.npy"), Z)
    # A row by itself is what it was beside the others.
    alone = np.concatenate([model.transform(row[np.newaxis]) for row in holey[:5]])
    assert_allclose(alone, Z[:5], rtol=1e-9)
    if hasattr(model, "perplexity"):
        assert np.isfinite(model.perplexity(holey))
        rest = np.delete(holey, 3, axis=0)
        assert model.perplexity(rest) == pytest.approx(model.perplexity(holey))


@every_model
def test_all_ways_to_learn_take_gaps(model, holey):
    model.set_params(max_iter=4)
    stream = clone(model)
    for start in range(0, 60, 20):
        stream.partial_fit(holey[start : start + 20], total_samples=60)
    batches = clone(model).set_params(batch_size=16).fit(holey)
    warm = clone(model).set_params(warm_start=True).fit(holey[:40]).fit(holey)
    early = clone(model).set_params(n_init=2).fit(holey[:40], X_val=holey[40:])
    for fitted in (stream, batches, warm, early):
        assert np.isfinite(fitted.lower_bound_)
        assert np.isfinite(fitted.score(holey))


@every_model
def test_blocks_with_gaps_are_the_matrix(model, holey):
    # The last block has all, and so another path through the model.
    X = np.vstack([holey, np.ones((10, 30))])
    blocks = RowBlocks([X[:25], X[25:60], X[60:]])
    model.set_params(batch_size=None)
    whole, cut = clone(model).fit(X), clone(model).fit(blocks)
    if whole._plan(whole._load(torch.float64), Budget(1, 1, n_rows=60)).ascends:
        assert_allclose(cut.components_, whole.components_, rtol=1e-6)
    assert np.isfinite(cut.lower_bound_)
    assert_allclose(whole.transform(blocks), whole.transform(X), rtol=1e-9)
    assert_allclose(whole.score_samples(X[60:]), whole.score_samples(X)[60:], rtol=1e-9)


@every_model
def test_what_is_hidden_is_not_known(model, counts, gaps):
    """Nothing but the gaps tells two data sets apart that differ in them alone."""
    X = (counts.toarray() > 0).astype(np.float64)
    other = np.where(gaps, 1 - X, X)
    one, two = (np.where(gaps, np.nan, values) for values in (X, other))
    assert_array_equal(clone(model).fit(one).components_, model.fit(two).components_)


@every_model
def test_a_gap_is_no_zero(fitted, holey):
    bounds = fitted.score_samples(holey)
    assert abs(fitted.score_samples(np.nan_to_num(holey)) - bounds).min() > 1e-3


@closed_forms
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-6)]
)
def test_the_bound_rises_with_gaps(model, holey, dtype, tolerance):
    model = climbing(model, max_iter=60, n_cold_iter=1)
    bounds = np.array(model.fit(holey.astype(dtype)).history_["lower_bound"])
    assert len(bounds) > 5
    assert (np.diff(bounds) >= -tolerance * np.abs(bounds[1:])).all()
    assert bounds[-1] > bounds[0]


def sliced(array, part):
    """Some of the features, of which there are 30, of an array."""
    return array[tuple(part if n == 30 else slice(None) for n in array.shape)]


@closed_forms
def test_what_rows_miss_might_as_well_not_be_there(model, holey):
    """Posteriors, and bounds, are those under a model of the other features alone."""
    model.set_params(inner_tol=1e-12)
    part, whole = clone(model).fit(holey[:, :15]), model.fit(holey)
    part._parameters = {
        name: sliced(array, slice(15)) for name, array in whole._parameters.items()
    }
    X = holey.copy()
    X[:, 15:] = np.nan
    assert_allclose(
        whole.transform(X), part.transform(X[:, :15]), rtol=1e-6, atol=1e-12
    )
    # A row that misses all has a score of 0, but for rounding.
    scores = whole.score_samples(X), part.score_samples(X[:, :15])
    assert_allclose(*scores, rtol=1e-6, atol=1e-12)
    if hasattr(model, "perplexity"):
        expected = part.perplexity(X[:, :15])
        assert whole.perplexity(X) == pytest.approx(expected, rel=1e-6)


@closed_forms
def test_rows_say_nothing_of_what_they_miss(fitted, holey):
    """What weights follow from is the same without the rows that miss the feature."""
    module = fitted._load(torch.float64).train()

    def gradients(x):
        for parameter in module.parameters():
            parameter.grad = None
        module.backward(Batch.of(x, may_miss=True), 1)
        found = {name: p.grad for name, p in module.named_parameters()}
        # Products over all rows are there to be divided by.
        found.pop("lowest.products", None)
        return {name: grad for name, grad in found.items() if 30 in grad.shape}

    x = torch.from_numpy(holey)
    for feature in (0, 5, 17):
        part = slice(feature, feature + 1)
        has_it = ~x[:, feature].isnan()
        expected, found = gradients(x[has_it]), gradients(x)
        assert expected
        for name, values in found.items():
            torch.testing.assert_close(
                sliced(values, part), sliced(expected[name], part)
            )


@every_model
def test_nothing_at_all_is_seen(model):
    model.fit(np.full((20, 4), np.nan))
    assert np.isfinite(model.components_).all()
    assert np.isfinite(model.lower_bound_)


@every_model
def test_infinity_is_always_refused(model, fitted, holey):
    X = holey.copy()
    X[0, 0] = np.inf
    for refuse in (model.fit, fitted.transform):
        with pytest.raises(ValueError, match="infinity"):
            refuse(X)


@every_model
def test_a_sparse_matrix_has_no_gaps(model, fitted, holey):
    X = scipy.sparse.csr_matrix(holey)
    with pytest.raises(ValueError, match=r"sparse matrix that stores NaN.*dense array"):
        model.fit(X)
    assert_allclose(
        fitted.transform(scipy.sparse.csr_matrix(np.nan_to_num(holey))),
        fitted.transform(np.nan_to_num(holey)),
        rtol=1e-6,
    )


@every_model
def test_what_is_there_is_checked_all_the_same(model, holey):
    if not model.__sklearn_tags__().input_tags.positive_only:
        pytest.skip("takes all real numbers")
    X = holey.copy()
    X[0, np.isfinite(X[0]).argmax()] = -1
    with pytest.raises(ValueError, match="Negative values in data"):
        model.fit(X)


@every_model
def test_a_strict_fit_is_not_gone_on_from(model, holey):
    strict = clone(model).set_params(missing_values="error", max_iter=1)
    strict.fit(np.nan_to_num(holey))
    with pytest.raises(ValueError, match=r"NaN. missing_values='ignore' takes"):
        strict.transform(holey)
    strict.set_params(missing_values="ignore")
    with pytest.raises(ValueError, match="missing_values='error'; fit it anew"):
        strict.transform(holey)


def test_models_that_cannot_miss_entries_say_nothing_of_it():
    with pytest.raises(ValueError, match="contains NaN") as caught:
        LatentDirichletAllocation(2).fit([[1.0, np.nan], [2.0, 0.0]])
    assert "missing_values='ignore'" not in str(caught.value)


# What they are made of.


def test_a_batch_knows_its_gaps():
    x = torch.tensor([[1.0, torch.nan, 2.0], [0.0, 3.0, torch.nan], [1.0, 1.0, 1.0]])
    assert Batch.of(x).observed is None
    assert Batch.of(x[2:], may_miss=True).observed is None
    batch = Batch.of(x, may_miss=True)
    sums = batch.observed @ torch.tensor([[1.0], [10.0], [100.0]])
    batch = batch.with_side(sums=sums)
    assert batch.x.tolist() == [[1, 0, 2], [0, 3, 0], [1, 1, 1]]
    assert batch.observed.tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 1]]
    assert batch.side["sums"].tolist() == [[101], [11], [111]]
    part = batch.take(torch.tensor([1]))
    parts = part.x, part.observed, part.side["sums"]
    assert [values.tolist() for values in parts] == [[[0, 3, 0]], [[1, 1, 0]], [[11]]]
    assert x.isnan().sum() == 2
    assert Batch.of(x.nan_to_num().to_sparse_csr(), may_miss=True).observed is None


def test_gaps_are_filled_with_what_columns_have():
    X = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan], [np.nan, 5.0, np.nan]])
    expected = [[1.0, 4.5, 0.0], [3.0, 4.0, 0.0], [2.0, 5.0, 0.0]]
    assert_array_equal(imputed(X), expected)
    mean, std = column_moments(X)
    assert_array_equal(mean, [2, 4.5, 0])
    assert_array_equal(std, [1, 0.5, 0])
    whole = np.ones((2, 2))
    assert imputed(whole) is whole


# Autoencoders.


def log_densities(likelihood, observation, x, z):
    """Of each entry, by torch's own distributions."""
    outputs = observation.decoder(z)
    if likelihood == "bernoulli":
        return torch.distributions.Bernoulli(logits=outputs).log_prob(x)
    if likelihood == "poisson":
        return torch.distributions.Poisson(outputs.exp()).log_prob(x)
    scale = observation.scale * observation.noise().sqrt()
    normal = torch.distributions.Normal(observation.mean(z), scale)
    return normal.log_prob(x)


@pytest.mark.parametrize("layers", [(), (5,)])
@pytest.mark.parametrize(
    ("likelihood", "noise"),
    [
        ("gaussian", "diagonal"),
        ("gaussian", "spherical"),
        ("bernoulli", "diagonal"),
        ("poisson", "diagonal"),
    ],
)
def test_likelihoods_are_of_the_entries_there(holey, likelihood, noise, layers):
    decoder = Decoder(2, layers, 30, has_skips=False)
    observation = observation_of(likelihood, noise, decoder, may_miss=True).double()
    observation.initialize(holey, torch.Generator().manual_seed(0))
    x, z = (
        torch.from_numpy(holey),
        torch.randn(
            (60, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64
        ),
    )
    rows = Batch.of(x, may_miss=True)
    is_there = ~x.isnan()
    expected = log_densities(likelihood, observation, torch.where(is_there, x, 1.0), z)
    expected = torch.where(is_there, expected, 0.0).sum(1)
    found = observation.log_likelihood(rows, z)
    torch.testing.assert_close(found, expected)
    assert found[3] == 0
    # What is missing is the mean for the encoder, which is 0 of what is centred.
    inputs = observation.inputs(rows)
    mean = torch.from_numpy(imputed(holey))[~is_there]
    level = mean.log1p() if likelihood == "poisson" else 0 * mean
    torch.testing.assert_close(inputs[~is_there], level)
    found.sum().backward()
    for parameter in observation.parameters():
        assert parameter.grad.isfinite().all()


def test_words_are_drawn_from_what_a_row_has(holey):
    decoder = Decoder(2, (), 30, has_skips=False)
    observation = observation_of("poisson", "diagonal", decoder, may_miss=True).double()
    observation.initialize(holey, torch.Generator().manual_seed(0))
    z = torch.zeros(60, 2, dtype=torch.float64)
    rows = Batch.of(torch.from_numpy(holey), may_miss=True)
    found = observation.word_log_likelihood(rows, z)
    logits = observation.decoder(z).detach().numpy()
    for n, x in enumerate(holey):
        is_there = np.isfinite(x)
        p = np.exp(logits[n][is_there])
        expected = x[is_there] @ np.log(p / p.sum())
        assert found[n].item() == pytest.approx(expected)


def test_the_bound_is_below_the_evidence_of_the_entries_there(holey):
    """Of factor analysis: of a Gaussian without the features that are missing."""
    model = VariationalAutoencoder(
        2,
        missing_values="ignore",
        decoder_layers=(),
        encoder_layers=(16,),
        learning_rate=0.02,
        batch_size=20,
        max_iter=100,
        random_state=0,
    ).fit(holey)
    observation = model._load(torch.float64).observation
    scale = observation.scale[:, None]
    loadings = (scale * observation.decoder.weight).detach().numpy()
    noise = (observation.scale.square() * observation.noise()).detach().numpy()
    mean = observation.mean(torch.zeros(1, 2).double())[0].detach().numpy()
    bounds = model.score_samples(holey)
    tighter = model.score_samples(holey, metric="iwae", n_particles=2000)
    for n, x in enumerate(holey[:20]):
        at = np.isfinite(x)
        if not at.any():
            evidence = 0.0
        else:
            covariance = loadings[at] @ loadings[at].T + np.diag(noise[at])
            evidence = scipy.stats.multivariate_normal.logpdf(
                x[at], mean[at], covariance
            )
        assert bounds[n] < evidence + 1e-6
        assert tighter[n] == pytest.approx(evidence, abs=0.3)
        assert evidence - 4 < bounds[n]


@pytest.mark.parametrize("kind", [VariationalAutoencoder, VariationalSparseCoding])
def test_autoencoders_that_are_told_totals_need_all_entries(kind, holey):
    model = kind(2, likelihood="multinomial", missing_values="ignore")
    with pytest.raises(ValueError, match="'multinomial' is given the total"):
        model.fit(holey)


def test_what_is_there_must_be_a_probability(holey):
    model = VariationalAutoencoder(2, likelihood="bernoulli", missing_values="ignore")
    with pytest.raises(
        ValueError, match=r"needs values in \[0, 1\], got values up to 3"
    ):
        model.fit(3 * holey)


@pytest.mark.parametrize("layers", [(), (30,)])
def test_numbers_that_are_hidden_are_predicted(layers):
    rng = np.random.default_rng(0)
    X = 3 + rng.normal(size=(600, 3)) @ rng.normal(size=(3, 20))
    X += 0.3 * rng.normal(size=X.shape)
    gaps = rng.random(X.shape) < 0.2
    holey = np.where(gaps, np.nan, X)
    model = VariationalAutoencoder(
        3,
        decoder_layers=layers,
        encoder_layers=(50,),
        missing_values="ignore",
        batch_size=50,
        max_iter=60,
        learning_rate=0.01,
        random_state=0,
    )
    errors = {}
    for missing_values in ("ignore", "error"):
        known = holey if missing_values == "ignore" else np.nan_to_num(holey)
        fitted = clone(model).set_params(missing_values=missing_values).fit(known)
        expected = fitted.inverse_transform(fitted.transform(known))
        errors[missing_values] = squared_error(X[gaps], expected[gaps])
    of_means = squared_error(X[gaps], (np.nanmean(holey, 0) + 0 * X)[gaps])
    assert errors["ignore"] < 0.5 * min(errors["error"], of_means)


# Gamma deep exponential families.

DEFS = {
    name: model
    for name, model in CLOSED_FORMS.items()
    if isinstance(model, SparseGammaDEF)
}


@pytest.mark.parametrize("model", DEFS.values(), ids=DEFS.keys(), indirect=True)
def test_emissions_are_of_the_entries_there(model, fitted, holey):
    module = fitted._load(torch.float64)
    lowest, emission, x = module.lowest, module.emission, torch.from_numpy(holey)
    seen = lowest.with_sums(Batch.of(x, may_miss=True))
    factors = module._solve(seen)
    view = lowest.view(seen, factors.mean, factors.shape)
    found = lowest.likelihood(view) + emission.base(emission.constants(seen), seen)
    z, w = factors.mean, lowest.weight_mean
    shape_z, shape_w = factors.shape, lowest.weight_concentration
    m = z @ w.T
    square = (z**2 * (1 + 1 / shape_z)) @ (w**2 * (1 + 1 / shape_w)).T
    spread = square - z**2 @ (w**2).T
    if model.likelihood == "gaussian":
        noise = emission.noise
        terms = -0.5 * (2 * torch.pi * noise).log()
        terms = terms - ((x - m) ** 2 + spread) / (2 * noise)
    else:
        log_p = m.log() - spread / (2 * m**2)
        if model.solver == "auxiliary":
            log_z = torch.digamma(shape_z) - (shape_z / z).log()
            log_w = lowest.mean_log_weights(slice(None))
            log_p = (log_z[:, :, None] + log_w).logsumexp(1)
        # With 0 and 1 for data there are no factorials.
        terms = x * log_p
        if model.likelihood == "bernoulli":
            terms = x * torch.expm1(log_p.exp()).log()
        terms = terms - m
    expected = torch.where(x.isnan(), 0.0, terms).sum(1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli", "gaussian"])
def test_drawn_likelihoods_are_of_the_entries_there(holey, likelihood):
    model = SparseGammaDEF(
        (3, 2), likelihood=likelihood, solver="gradient", max_iter=3, **IGNORE
    )
    module = model.fit(holey)._load(torch.float64)
    x, generator = torch.from_numpy(holey), torch.Generator().manual_seed(0)
    z, w = (
        torch.rand(shape, generator=generator, dtype=torch.float64)
        for shape in ((60, 3), (30, 3))
    )
    seen, emission = Batch.of(x, may_miss=True), module.emission
    found = emission.drawn(seen, z, w)
    found = found + emission.base(emission.constants(seen), seen)
    is_there = ~x.isnan()
    known, m = torch.where(is_there, x, 1.0), z @ w.T
    if likelihood == "gaussian":
        p = torch.distributions.Normal(m, emission.variance().sqrt())
    elif likelihood == "bernoulli":
        p = torch.distributions.Bernoulli(-torch.expm1(-m))
    else:
        p = torch.distributions.Poisson(m)
    expected = torch.where(is_there, p.log_prob(known), 0.0).sum(1)
    torch.testing.assert_close(found, expected)
    # Words, given their number, are drawn from what a row has.
    if likelihood == "poisson":
        of_words = emission.drawn(seen, z, w, given_total=True)
        shares = m / torch.where(is_there, m, 0.0).sum(1, keepdim=True)
        expected = torch.where(is_there, known * shares.log(), 0.0).sum(1)
        has_words = torch.where(is_there, x, 0.0).sum(1) > 0
        torch.testing.assert_close(of_words[has_words], expected[has_words])
    # Rows start with what they have, over what there is of the weights to explain it.
    lowest = module.weights()[0]
    counts = seen.x.relu() @ (lowest / lowest.sum(0)).T
    totals = seen.observed @ lowest.T
    totals[3] = lowest.sum(1)
    state = module._cold(seen)
    assert not state.requires_grad
    mean = module.family.mean(*module._split(state)[0])
    expected = (module.layer_shapes[0] + counts) / totals
    if likelihood != "gaussian":
        # And share it out again by that, some times.
        for _ in range(N_SHARINGS):
            m = expected @ lowest
            y = m / -torch.expm1(-m) if likelihood == "bernoulli" else 1.0
            ratios = seen.x * y / m
            counts = expected * (ratios @ lowest.T)
            expected = (module.layer_shapes[0] + counts) / totals
    torch.testing.assert_close(mean, expected)


def test_a_network_of_a_deep_family_sees_means(holey):
    model = SparseGammaDEF(
        (3, 2),
        solver="gradient",
        amortized=True,
        encoder_layers=(4,),
        max_iter=2,
        **IGNORE,
    )
    module = model.fit(holey)._load(torch.float64)
    found = module._inputs(Batch.of(torch.from_numpy(holey), may_miss=True))
    assert_allclose(found.numpy(), np.log1p(imputed(holey)), rtol=1e-6)


def test_intensities_that_are_hidden_are_predicted():
    rng = np.random.default_rng(0)
    z, w = rng.gamma(0.5, 4, (300, 4)), rng.gamma(0.3, 3, (4, 40))
    X = z @ w + rng.normal(size=(300, 40))
    gaps = rng.random(X.shape) < 0.2
    holey = np.where(gaps, np.nan, X)
    model = SparseGammaDEF((4,), likelihood="gaussian", max_iter=100, random_state=0)
    errors = {}
    for missing_values in ("ignore", "error"):
        known = holey if missing_values == "ignore" else np.nan_to_num(holey)
        fitted = clone(model).set_params(missing_values=missing_values).fit(known)
        expected = fitted.inverse_transform(fitted.transform(known))
        errors[missing_values] = squared_error(X[gaps], expected[gaps])
        if missing_values == "ignore":
            assert fitted.noise_variance_ == pytest.approx(1, rel=0.1)
    of_means = squared_error(X[gaps], (np.nanmean(holey, 0) + 0 * X)[gaps])
    assert errors["ignore"] < 0.2 * min(errors["error"], of_means)
    assert errors["ignore"] < 1.5
    # Stochastic steps come as far.
    model.set_params(missing_values="ignore", batch_size=50, tol=0).fit(holey)
    assert model.noise_variance_ == pytest.approx(1, rel=0.1)


# Poisson factorization.


def reference(X, init, *, a, b, c, d, n_passes, n_steps):
    """Coordinate ascent by sums over the entries that are there, one at a time."""
    n_rows, n_features = X.shape
    k = len(init)
    entries = [(n, v) for n, v in np.ndindex(X.shape) if not np.isnan(X[n, v])]
    shape_w = c + init * imputed(X).sum() / init.sum()
    rate_w = np.full((k, n_features), d + n_rows * a / b)
    totals = np.nansum(X, axis=1)
    shape_z = a + np.repeat(totals[:, np.newaxis] / k, k, axis=1)
    bounds = []
    for _ in range(n_passes):
        mean_w, log_w = shape_w / rate_w, digamma(shape_w) - np.log(rate_w)
        rate_z = np.full((n_rows, k), b)
        for n, v in entries:
            rate_z[n] += mean_w[:, v]
        for step in range(n_steps + 1):
            log_z = digamma(shape_z) - np.log(rate_z)
            counts_z, counts_w = np.zeros((n_rows, k)), np.zeros((k, n_features))
            likelihood = 0.0
            for n, v in entries:
                p = np.exp(log_z[n] + log_w[:, v])
                counts_z[n] += X[n, v] * p / p.sum()
                counts_w[:, v] += X[n, v] * p / p.sum()
                likelihood += X[n, v] * np.log(p.sum()) - gammaln(X[n, v] + 1)
                likelihood -= shape_z[n] / rate_z[n] @ mean_w[:, v]
            if step < n_steps:
                shape_z = a + counts_z
        bounds.append(
            likelihood
            - gamma_divergence(shape_z, rate_z, a, b)
            - gamma_divergence(shape_w, rate_w, c, d)
        )
        shape_w, rate_w = c + counts_w, np.full((k, n_features), d)
        for n, v in entries:
            rate_w[:, v] += shape_z[n] / rate_z[n]
    return shape_w, rate_w, bounds


def gamma_divergence(shape, rate, a, b):
    terms = (shape - a) * digamma(shape) - gammaln(shape) + gammaln(a)
    terms += a * (np.log(rate) - np.log(b)) + shape * (b - rate) / rate
    return terms.sum()


def test_poisson_factorization_is_that_of_the_entries_there():
    rng = np.random.default_rng(0)
    X = rng.poisson(3.0, (12, 7)).astype(np.float64)
    X[rng.random(X.shape) < 0.3] = np.nan
    X[2], X[:, 4] = np.nan, np.nan
    init = rng.random((2, 7))
    prior = {"a": 0.4, "b": 1.5, "c": 0.3, "d": 0.7}
    shape, rate, bounds = reference(X, init, **prior, n_passes=6, n_steps=3)
    model = PoissonFactorization(
        2,
        factor_shape=0.4,
        factor_rate=1.5,
        weight_shape=0.3,
        weight_rate=0.7,
        missing_values="ignore",
        init=init,
        max_iter=6,
        max_inner_iter=3,
        inner_tol=0,
        tol=0,
    ).fit(X)
    assert_allclose(model.weight_concentration_, shape, rtol=1e-10)
    assert_allclose(model.weight_scale_, 1 / rate, rtol=1e-10)
    assert_allclose(model.history_["lower_bound"], bounds, rtol=1e-10)


PRIORS = {"factor_shape": 0.4, "weight_shape": 0.3, "weight_rate": 0.7}


@pytest.mark.parametrize("hierarchical", [False, True])
def test_a_feature_that_nobody_has_changes_nothing(holey, hierarchical):
    rest = np.delete(holey, 5, axis=1)
    init = np.random.default_rng(0).random((3, 30))
    model = PoissonFactorization(
        3,
        hierarchical=hierarchical,
        missing_values="ignore",
        max_iter=200,
        tol=0,
        inner_tol=1e-12,
        **PRIORS,
    )
    with_it = clone(model).set_params(init=init).fit(holey)
    without = model.set_params(init=np.delete(init, 5, axis=1)).fit(rest)
    assert_allclose(
        np.delete(with_it.components_, 5, axis=1), without.components_, rtol=1e-4
    )
    assert_allclose(
        with_it.score_samples(holey), without.score_samples(rest), rtol=1e-4
    )
    # Its posterior is its prior, unless its rate has one, too.
    if not hierarchical:
        assert with_it.lower_bound_ == pytest.approx(without.lower_bound_, rel=1e-6)
        assert_allclose(with_it.components_[:, 5], 0.3 / 0.7)


def test_a_row_of_which_nothing_is_seen_is_as_the_prior_has_it(holey):
    model = PoissonFactorization(3, missing_values="ignore", random_state=0, **PRIORS)
    mean, std = model.fit(holey).transform(holey, return_std=True)
    assert_allclose(mean[3], 0.4)
    assert_allclose(std[3], np.sqrt(0.4))
    assert model.score_samples(holey)[3] == pytest.approx(0, abs=1e-9)


def test_recommendations_may_be_of_what_is_missing(holey):
    model = PoissonFactorization(3, missing_values="ignore", random_state=0).fit(holey)
    assert sorted(model.recommend(holey[3:4], 30)[0]) == list(range(30))
    row = np.where(np.arange(30) < 20, 1.0, np.nan)[np.newaxis]
    assert sorted(model.recommend(row, 10)[0]) == list(range(20, 30))


def test_words_are_of_the_features_that_a_row_has(holey):
    """Perplexity is that of a model that has no other features."""
    model = PoissonFactorization(
        3, missing_values="ignore", inner_tol=1e-12, random_state=0, **PRIORS
    )
    whole, part = clone(model).fit(holey), model.fit(holey[:, :15])
    for name in ("weight_counts", "weight_exposure"):
        part._parameters[name] = whole._parameters[name][:, :15]
    X = holey.copy()
    X[:, 15:] = np.nan
    assert whole.perplexity(X) == pytest.approx(part.perplexity(X[:, :15]), rel=1e-9)
    assert whole.perplexity(X) < 15 < whole.perplexity(np.nan_to_num(holey))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"exposure": "total"}, "use exposure=None"),
        ({"weight_prior": "dirichlet"}, "needs weight_prior='gamma'"),
        ({"missing_values": "drop"}, "'missing_values' parameter"),
    ],
)
def test_what_poisson_factorization_cannot_leave_out(holey, parameters, message):
    model = PoissonFactorization(3, **{"missing_values": "ignore", **parameters})
    with pytest.raises(ValueError, match=message):
        model.fit(holey)


@pytest.mark.parametrize("hierarchical", [False, True])
def test_counts_that_are_hidden_are_predicted(hierarchical):
    X = make_poisson_factors(500, 60, 4, random_state=1).data.toarray().astype(float)
    gaps = np.random.default_rng(2).random(X.shape) < 0.2
    holey = np.where(gaps, np.nan, X)
    model = PoissonFactorization(
        4,
        factor_shape=0.3,
        weight_shape=0.3,
        hierarchical=hierarchical,
        missing_values="ignore",
        max_iter=30,
        random_state=0,
    )
    expected = model.fit(holey).inverse_transform(model.transform(holey))
    zeros = np.nan_to_num(holey)
    as_zeros = clone(model).set_params(missing_values="error").fit(zeros)
    as_zeros = as_zeros.inverse_transform(as_zeros.transform(zeros))
    means = np.broadcast_to(np.nanmean(holey, axis=0), X.shape)
    error = poisson_deviance(X[gaps], expected[gaps])
    assert error < 0.95 * poisson_deviance(X[gaps], as_zeros[gaps])
    assert error < 0.8 * poisson_deviance(X[gaps], means[gaps] + 1e-9)


@pytest.mark.parametrize("is_sparse_first", [False, True])
def test_first_chunks_of_a_stream_may_be_sparse_or_miss_entries(is_sparse_first):
    rng = np.random.default_rng(0)
    X = rng.poisson(1.0, (40, 12)).astype(np.float64)
    sparse, dense = X[:20], X[20:].copy()
    dense[0, 0] = np.nan
    parts = [scipy.sparse.csr_matrix(sparse), dense]
    rows = [sparse, dense]
    if not is_sparse_first:
        parts, rows = parts[::-1], rows[::-1]
    model = PoissonFactorization(2, missing_values="ignore", random_state=0)
    whole = clone(model).partial_fit(np.concatenate(rows))
    for part in parts:
        model.partial_fit(part)
    assert_allclose(model.components_, whole.components_, rtol=1e-9)
