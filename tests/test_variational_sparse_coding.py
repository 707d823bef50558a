"""Spike-and-slab codes against exact answers, and what they promise."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.distributions import kl_divergence

from skdeepfactor import VariationalAutoencoder, VariationalSparseCoding
from skdeepfactor._math.batch import Batch, to_tensor

LINEAR = {"decoder_layers": (), "encoder_layers": (20,)}


def sparse_data(n=400, k=4, p=12, rate=0.25, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(k, p)) * (rng.random((k, p)) < 0.5)
    codes = 2 * rng.normal(size=(n, k)) * (rng.random((n, k)) < rate)
    return codes @ weights + 0.3 * rng.normal(size=(n, p)), codes


def batch(X):
    return Batch(to_tensor(X, slice(None), dtype=torch.float64, device="cpu"))


def small(**parameters):
    settings = {
        "alpha": 0.2,
        "n_pseudo_inputs": 3,
        "max_iter": 30,
        "batch_size": 50,
        "learning_rate": 0.01,
        "random_state": 0,
    }
    return VariationalSparseCoding(4, **{**settings, **parameters})


def module_of(estimator):
    return estimator._load(torch.float64)


@pytest.mark.parametrize("prior", ["fixed", "pseudo_inputs"])
def test_the_bound_is_below_the_evidence_summed_over_all_spikes(prior):
    """Of a linear model with Gaussian noise each pattern of spikes is a Gaussian."""
    X, _ = sparse_data(60)
    model = small(prior=prior, max_iter=150, batch_size=20, **LINEAR).fit(X)
    module = module_of(model)
    observation = module.observation
    with torch.no_grad():
        kinds = module._kinds()
        probs, loc = kinds.probs.numpy(), kinds.loc.numpy()
        var, log_weights = kinds.scale.numpy() ** 2, module._log_weights().numpy()
        loadings = (
            observation.decoder.weight.numpy() * observation.scale.numpy()[:, None]
        )
        offset = observation.mean(torch.zeros(1, 4).double()).numpy()[0]
        noise = observation.noise().numpy() * observation.scale.numpy() ** 2
    parts = []
    for kind in range(len(probs)):
        for spikes in itertools.product([False, True], repeat=4):
            on = np.array(spikes)
            log_prior = np.log(np.where(on, probs[kind], 1 - probs[kind])).sum()
            mean = offset + loadings[:, on] @ loc[kind, on]
            covariance = (loadings[:, on] * var[kind, on]) @ loadings[:, on].T
            density = scipy.stats.multivariate_normal(mean, covariance + np.diag(noise))
            parts.append(log_weights[kind] + log_prior + density.logpdf(X))
    evidence = np.logaddexp.reduce(parts)
    bounds = model.score_samples(X)
    assert (bounds <= evidence + 1e-9).all()
    assert evidence.mean() - bounds.mean() < 3
    closer = model.score(X, metric="iwae", n_particles=2000)
    assert bounds.mean() < closer < evidence.mean() + 0.02
    assert closer == pytest.approx(evidence.mean(), abs=0.5)


def test_the_closed_form_is_the_mean_over_draws():
    X, _ = sparse_data(20)
    module = module_of(small(**LINEAR).fit(X))
    q = module.posterior(batch(X))
    z = q.base_dist.sample((20000,))
    draws = module.observation.log_likelihood(batch(X), z).detach()
    closed = module.expected_log_likelihood(batch(X), q).detach()
    error = draws.std(0) / np.sqrt(len(draws))
    assert ((closed - draws.mean(0)).abs() < 4.5 * error).all()


def test_divergences_by_products_are_those_of_the_distributions():
    X, _ = sparse_data(20)
    module = module_of(small().fit(X))
    q, kinds = module.posterior(batch(X)).base_dist, module._kinds()
    expected = torch.stack(
        [kl_divergence(q, module_kind).sum(1) for module_kind in each(kinds)], 1
    )
    torch.testing.assert_close(module._kl_of_kinds(q, kinds), expected)


def each(kinds):
    for index in range(len(kinds.logits)):
        parts = (kinds.logits[index], kinds.loc[index], kinds.scale[index])
        yield type(kinds)(*parts)


def test_the_best_choice_of_kinds_is_no_worse_than_any_other():
    X, _ = sparse_data(20)
    module = module_of(small().fit(X))
    q = module.posterior(batch(X)).base_dist
    of_kinds = module._kl_of_kinds(q, module._kinds()).detach()
    log_weights = module._log_weights().detach()
    best = module.kl(module.posterior(batch(X))).detach()
    choices = torch.distributions.Dirichlet(torch.ones(3).double()).sample((500,))
    for choice in choices:
        other = (choice * (of_kinds + choice.log() - log_weights)).sum(1)
        assert (best <= other + 1e-9).all()
    assert (best <= (of_kinds - log_weights).min(1).values + 1e-9).all()


def test_the_penalty_is_beside_the_bound_and_the_same_for_any_batch():
    X, _ = sparse_data(40)
    module = module_of(small(sparsity_penalty=100.0).fit(X)).train()
    module.seed(0)

    def penalties(x):
        bounds, objective = module.objective(batch(x), module.posterior(batch(x)))
        return (bounds - objective).detach()

    probs = module._kinds().probs.detach().numpy().mean(1)
    kl = probs * np.log(probs / 0.2) + (1 - probs) * np.log((1 - probs) / 0.8)
    expected = 100 * 4 / 500 * kl.mean()
    np.testing.assert_allclose(penalties(X), expected)
    np.testing.assert_allclose(penalties(X[:1]), expected)


def test_slabs_come_in_after_spikes():
    X, _ = sparse_data(40)
    module = module_of(small().fit(X))
    module.spike_warmup, module.slab_warmup = 10, 20
    outputs = module.encoder(module.observation.inputs(batch(X)))
    full = module._codes(outputs)
    module.train()
    for n_updates, weight in ((0, 0), (9, 0), (20, 0.5), (30, 1), (99, 1)):
        module.n_updates.fill_(n_updates)
        codes = module._codes(outputs)
        torch.testing.assert_close(codes.loc, weight * full.loc)
        expected = weight * full.scale**2 + 1 - weight
        torch.testing.assert_close(codes.scale**2, expected)
        torch.testing.assert_close(codes.logits, full.logits)
    module.eval()
    module.n_updates.zero_()
    torch.testing.assert_close(module._codes(outputs).loc, full.loc)


def test_codes_are_exactly_zero_below_the_threshold():
    X, _ = sparse_data()
    model = small(prior="fixed", **LINEAR).fit(X)
    gamma, codes = model.activations(X), model.transform(X)
    assert ((codes == 0) == (gamma < 0.5)).all()
    assert 0.02 < (codes != 0).mean() < 0.9
    # The threshold is one of transform: another one needs no other fit.
    model.set_params(spike_threshold=0.9, sparse_output=True)
    fewer = model.transform(X)
    assert scipy.sparse.issparse(fewer)
    assert fewer.format == "csr"
    np.testing.assert_array_equal(fewer.toarray(), np.where(gamma < 0.9, 0, codes))
    assert fewer.nnz == (gamma >= 0.9).sum()


def test_scores_have_hard_spikes():
    X, _ = sparse_data(20)
    module = module_of(small(spike_gradient="relaxed").fit(X))
    q = module.posterior(batch(X))
    z = module.draws(q, batch(X), 500)
    on = (z != 0).double().mean(0)
    np.testing.assert_allclose(on, q.base_dist.probs.detach(), atol=0.1)
    module.train()
    module.seed(0)
    assert (module.draws(q, batch(X), 5) != 0).all()


def test_planted_sparse_factors_are_recovered():
    X, codes = sparse_data(1500, p=20)
    model = small(
        prior="fixed", max_iter=100, batch_size=200, n_init=3, **LINEAR
    ).set_params(n_components=6)
    found = model.fit_transform(X)
    used = found[:, found.std(0) > 0]
    correlations = np.abs(np.corrcoef(used.T, codes.T)[: used.shape[1], -4:])
    assert (correlations.max(0) > 0.95).all()


@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_as_many_dimensions_are_used_as_there_are_factors(alpha):
    # Positive factors: a factor of either sign is as good as two, one for each.
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 30)) * (rng.random((5, 30)) < 0.5)
    codes = rng.uniform(1, 2, (1500, 5)) * (rng.random((1500, 5)) < 0.1)
    X = codes @ weights + 0.1 * rng.normal(size=(1500, 30))
    model = small(
        prior="fixed", alpha=alpha, max_iter=100, batch_size=200, n_init=3, **LINEAR
    ).set_params(n_components=15)
    model.fit(X)
    assert 4 <= model.n_active_components_ <= 6
    assert model.activation_rates_.shape == (15,)
    on = (model.transform(X) != 0).sum(1).mean()
    assert on == pytest.approx(0.5, rel=0.2)


def test_sparse_codes_of_a_deep_decoder_beat_no_codes():
    rng = np.random.default_rng(0)
    X, _ = sparse_data(800)
    X = np.tanh(X) + 0.05 * rng.normal(size=X.shape)
    model = small(
        max_iter=100, learning_rate=0.003, decoder_layers=(30,), encoder_layers=(30,)
    ).fit(X)
    independent = scipy.stats.norm(X.mean(0), X.std(0)).logpdf(X).sum(1).mean()
    assert model.score(X) > independent + 1
    dense = VariationalAutoencoder(
        4, max_iter=60, learning_rate=0.01, batch_size=50, random_state=0
    ).fit(X)
    assert (model.transform(X) != 0).mean() < (dense.transform(X) != 0).mean()


@pytest.mark.parametrize("alpha", [0, 1, -0.1])
def test_alpha_is_between_0_and_1(alpha):
    with pytest.raises(ValueError, match="'alpha' parameter"):
        VariationalSparseCoding(2, alpha=alpha).fit(sparse_data(20)[0])


@pytest.mark.parametrize("temperature", [(1,), (0, 1), (1, np.nan), (1, 2, 3)])
def test_temperatures_are_two_positive_numbers(temperature):
    with pytest.raises(ValueError, match="temperature must be two positive numbers"):
        VariationalSparseCoding(2, temperature=temperature).fit(sparse_data(20)[0])


def test_a_warmup_longer_than_training_is_told():
    model = VariationalSparseCoding(
        2, spike_warmup=2, slab_warmup=2, max_iter=3, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="takes 4 updates.* only 3"):
        model.fit(sparse_data(20)[0])


def test_pixels_must_be_between_0_and_1():
    with pytest.raises(ValueError, match=r"\[0, 1\].*MinMaxScaler"):
        VariationalSparseCoding(2, likelihood="bernoulli").fit([[0, 7], [1, 2]])


def test_one_row_and_constant_columns_work():
    for X in (np.ones((1, 3)), np.tile([[0.0, 0.5, 1.0]], (6, 1))):
        for likelihood in ("gaussian", "bernoulli", "poisson", "multinomial"):
            model = small(likelihood=likelihood, max_iter=3).fit(X)
            assert np.isfinite(model.transform(X)).all()
            assert np.isfinite(model.score(X))


def test_a_stream_ends_up_near_a_fit():
    X, _ = sparse_data(800)
    model = small(prior="fixed", **LINEAR)
    for _ in range(30):
        for start in range(0, 800, 200):
            model.partial_fit(X[start : start + 200])
    independent = scipy.stats.norm(X.mean(0), X.std(0)).logpdf(X).sum(1).mean()
    assert model.score(X) > independent + 1
