"""Variational autoencoders against exact answers and independent estimates."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from skdeepfactor import VariationalAutoencoder
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.networks import Decoder
from skdeepfactor._math.observations import NOISE_FLOOR, observation_of

LINEAR = {"decoder_layers": (), "encoder_layers": ()}


def linear_data(n=600, seed=0):
    rng = np.random.default_rng(seed)
    weights = np.diag([3.0, 2.0, 1.0]) @ rng.normal(size=(3, 8))
    noise = rng.uniform(0.4, 1.2, 8)
    return rng.normal(size=(n, 3)) @ weights + noise * rng.normal(size=(n, 8)) + 5


def fitted(X, **parameters):
    """An estimator fitted for a moment, in float64, whose module can be set."""
    return VariationalAutoencoder(3, max_iter=1, random_state=0, **parameters).fit(X)


def module_of(estimator):
    return estimator._load(torch.float64)


def batch(X):
    return Batch(to_tensor(X, slice(None), dtype=torch.float64, device="cpu"))


@pytest.mark.parametrize("noise", ["spherical", "diagonal"])
def test_the_best_posterior_of_a_linear_model_gives_the_exact_likelihood(noise):
    X = linear_data()
    if noise == "spherical":
        exact = PCA(3).fit(X)
        variance = np.full(8, exact.noise_variance_)
        gains = exact.explained_variance_ - exact.noise_variance_
        loadings = exact.components_.T * np.sqrt(gains)
    else:
        exact = FactorAnalysis(3, tol=1e-8, max_iter=5000).fit(X)
        variance, loadings = exact.noise_variance_, exact.components_.T
        # Rotated so that columns are orthogonal in units of the noise.
        _, axes = np.linalg.eigh(loadings.T @ (loadings / variance[:, None]))
        loadings = loadings @ axes
    module = module_of(fitted(X, noise=noise, **LINEAR))
    observation = module.observation
    scale = observation.scale.numpy()
    share = variance / scale**2 - NOISE_FLOOR
    with torch.no_grad():
        observation.center.copy_(torch.from_numpy(exact.mean_))
        observation.decoder.bias.zero_()
        observation.decoder.weight.copy_(torch.from_numpy(loadings / scale[:, None]))
        log_noise = np.log(share[: len(observation.log_noise)])
        observation.log_noise.copy_(torch.from_numpy(log_noise))
    precision = np.eye(3) + loadings.T @ (loadings / variance[:, None])
    np.testing.assert_allclose(precision, np.diag(np.diag(precision)), atol=1e-8)
    mean = (X - exact.mean_) @ (loadings / variance[:, None]) / np.diag(precision)
    log_var = np.broadcast_to(-np.log(np.diag(precision)), mean.shape)
    outputs = torch.from_numpy(np.concatenate([mean, log_var], 1))
    bounds = module.elbo(batch(X), module.distribution(outputs)).detach().numpy()
    np.testing.assert_allclose(bounds, exact.score_samples(X), atol=1e-6)


@pytest.mark.parametrize(
    ("noise", "exact"), [("spherical", PCA(3)), ("diagonal", FactorAnalysis(3))]
)
def test_a_fitted_linear_model_comes_near_the_exact_maximum(noise, exact):
    X = linear_data()
    model = VariationalAutoencoder(
        3,
        noise=noise,
        max_iter=150,
        learning_rate=0.02,
        batch_size=100,
        random_state=0,
        **LINEAR,
    ).fit(X)
    gap = exact.fit(X).score(X) - model.score(X)
    assert -1e-6 < gap < 0.05


def test_bounds_of_a_linear_model_are_in_order():
    X = linear_data(200)
    model = VariationalAutoencoder(
        3, max_iter=150, learning_rate=0.02, batch_size=50, random_state=0, **LINEAR
    ).fit(X)
    module = module_of(model)
    decoder, scale = module.observation.decoder, module.observation.scale.numpy()
    loadings = scale[:, None] * decoder.weight.detach().numpy()
    mean = module.observation.mean(torch.zeros(1, 3).double()).detach().numpy()[0]
    noise = module.observation.noise().detach().numpy() * scale**2
    covariance = loadings @ loadings.T + np.diag(noise)
    evidence = scipy.stats.multivariate_normal(mean, covariance).logpdf(X).mean()
    bounds = [model.score(X)]
    bounds += [model.score(X, metric="iwae", n_particles=n) for n in (5, 50, 1000)]
    # Sampled, and all of them near the evidence: the posterior is nearly exact.
    assert bounds[0] <= evidence
    assert bounds[0] - 0.01 < bounds[1] < evidence + 0.01
    assert evidence == pytest.approx(bounds[3], abs=0.01)
    model.set_params(posterior_variance=0.5, encoder_layers=()).fit(X)
    bounds = [model.score(X)]
    bounds += [model.score(X, metric="iwae", n_particles=n) for n in (5, 50)]
    assert bounds[0] < bounds[1] < bounds[2]


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_likelihoods_are_those_of_scipy(likelihood):
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(5, 4))
    decoder = Decoder(2, (3,), 4, has_skips=True)
    observation = observation_of(likelihood, "diagonal", decoder).double()
    for parameter in observation.parameters():
        parameter.data = torch.from_numpy(rng.normal(size=parameter.shape))
    observation.center.copy_(torch.from_numpy(rng.normal(size=4)))
    observation.scale.copy_(torch.from_numpy(rng.uniform(1, 2, 4)))
    z = torch.from_numpy(rng.normal(size=(7, 5, 2)))
    actual = observation.log_likelihood(batch(X), z).detach()
    mean = observation.mean(z).detach().numpy()
    if likelihood == "gaussian":
        std = observation.scale * observation.noise().sqrt()
        expected = scipy.stats.norm(mean, std.detach().numpy()).logpdf(X)
    else:
        expected = X * np.log(mean) + (1 - X) * np.log1p(-mean)
    np.testing.assert_allclose(actual.numpy(), expected.sum(-1), rtol=1e-9)


@pytest.mark.parametrize("prior", ["normal", "laplace", "mixture", "vamp"])
def test_divergences_bound_those_of_many_draws(prior):
    X = linear_data(50)
    module = module_of(fitted(X, prior=prior, n_pseudo_inputs=4))
    q = module.posterior(batch(X[:6]))
    draws = q.base_dist.sample((40000,))
    difference = q.log_prob(draws) - module.log_prior(draws)
    estimate, error = difference.mean(0), difference.std(0) / 200
    kl = module.kl(q)
    assert (kl > estimate - 4 * error).all()
    if prior in ("normal", "laplace"):
        assert (kl < estimate + 4 * error).all()


@pytest.mark.parametrize("prior", ["normal", "laplace", "mixture", "vamp"])
def test_draws_of_the_prior_have_its_density(prior):
    """By the mean of 1 / p over a box that has nearly all of the draws."""
    X = linear_data(50)
    module = module_of(fitted(X, prior=prior, n_pseudo_inputs=4))
    generator = torch.Generator().manual_seed(0)
    z = module.draw_prior(40000, generator)
    log_p = module.log_prior(z).detach()
    inside = (z.abs() < 1).all(1)
    volume = (torch.exp(-log_p) * inside).mean()
    assert volume == pytest.approx(8, rel=0.1)


def test_sparse_factors_are_recovered_under_a_laplace_prior():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 20)) * (rng.random((4, 20)) < 0.4)
    Z = 2 * rng.normal(size=(1500, 4)) * (rng.random((1500, 4)) < 0.2)
    X = Z @ weights + 0.3 * rng.normal(size=(1500, 20))

    def matched(prior):
        model = VariationalAutoencoder(
            4,
            prior=prior,
            decoder_layers=(),
            encoder_layers=(50,),
            max_iter=100,
            learning_rate=0.01,
            random_state=0,
        )
        codes = model.fit_transform(X)
        return np.abs(np.corrcoef(codes.T, Z.T)[:4, 4:]).max(0).min()

    assert matched("laplace") > 0.95
    assert matched("normal") < 0.95


def test_planted_clusters_are_recovered_by_a_mixture():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=900)
    centers = np.array([[4.0, 0], [-4, 0], [0, 5]])
    Z = centers[labels] + 0.5 * rng.normal(size=(900, 2))
    X = Z @ rng.normal(size=(2, 10)) + 0.5 * rng.normal(size=(900, 10))

    def fit(prior):
        return VariationalAutoencoder(
            2,
            prior=prior,
            n_pseudo_inputs=6,
            max_iter=100,
            learning_rate=0.03,
            batch_size=100,
            n_init=3,
            random_state=0,
            **LINEAR,
        ).fit(X)

    model = fit("mixture")
    assert model.score(X) > fit("normal").score(X) + 0.3
    module = module_of(model)
    q = module.posterior(batch(X))
    log_det = q.variance.log().sum(1)
    shares = module._density().kl_bound(q.mean, q.variance, log_det)[1]
    kinds = shares.argmax(1).numpy()
    # Several kinds may share a cluster, but none is in two.
    merged = np.array([np.bincount(labels[kinds == k]).argmax() for k in kinds])
    assert adjusted_rand_score(labels, merged) > 0.95


@pytest.mark.parametrize(
    "parameters",
    [
        {"beta": 4.0},
        {"kl_warmup": 0.5},
        {"free_bits": 0.5},
        {"posterior_variance": 0.1},
        {"skip_connections": True},
        {"objective": "iwae", "n_particles": 5},
        {"objective": "renyi", "renyi_alpha": 0.5, "n_particles": 5},
        {"prior": "vamp"},
    ],
)
def test_each_remedy_learns_and_is_scored_by_the_bound(parameters):
    X = linear_data(300)
    model = VariationalAutoencoder(
        3,
        encoder_layers=(20,),
        decoder_layers=(20,),
        max_iter=60,
        batch_size=50,
        learning_rate=0.01,
        random_state=0,
        **parameters,
    ).fit(X)
    independent = scipy.stats.norm(X.mean(0), X.std(0)).logpdf(X).sum(1).mean()
    assert model.score(X) > independent
    assert model.score(X, metric="iwae", n_particles=100) > model.score(X) - 0.02


def test_beta_makes_codes_say_less():
    X = linear_data(300)

    def divergence(beta):
        model = fitted(X, beta=beta, **LINEAR).set_params(
            max_iter=60, learning_rate=0.02, batch_size=50
        )
        module = module_of(model.fit(X))
        return module.kl(module.posterior(batch(X))).mean().item()

    assert divergence(8.0) < 0.8 * divergence(1.0)


def test_free_bits_leave_each_factor_that_much():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    model = VariationalAutoencoder(
        3, free_bits=0.4, max_iter=40, batch_size=50, learning_rate=0.01, random_state=0
    ).fit(X)
    module = module_of(model)
    kl = module.prior.kl_of_factors(module.posterior(batch(X))).mean(0).detach()
    assert ((kl > 0.2) & (kl < 1.2)).all()


def test_words_in_order_sum_to_one():
    X = np.array([[2, 1, 0], [0, 1, 2], [1, 1, 1]] * 10)
    model = VariationalAutoencoder(
        2, likelihood="multinomial", max_iter=3, random_state=0
    ).fit(X)
    module = module_of(model)
    z = torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    total = 0.0
    for first in range(3):
        for second in range(3):
            x = np.bincount([first, second], minlength=3)[None].astype(float)
            total += module.observation.log_likelihood(batch(x), z).exp().item()
    assert total == pytest.approx(1)


def test_perplexity_of_poisson_counts_is_given_their_number():
    rng = np.random.default_rng(0)
    X = rng.poisson(2, (200, 6))
    model = VariationalAutoencoder(
        2, likelihood="poisson", max_iter=30, random_state=0
    ).fit(X)
    assert 5 < model.perplexity(X) < 6.5


@pytest.mark.parametrize("convert", [np.asarray, scipy.sparse.csr_matrix])
def test_values_beyond_one_have_a_hint(convert):
    model = VariationalAutoencoder(2, likelihood="bernoulli")
    with pytest.raises(ValueError, match=r"\[0, 1\].*255.*MinMaxScaler"):
        model.fit(convert(np.array([[0, 255], [3, 0]])))
    with pytest.raises(ValueError, match="Negative values"):
        model.fit(convert(np.array([[0, -0.5], [1, 0]])))


def test_negative_numbers_are_for_gaussians_alone():
    X = np.array([[0.5, -1.0], [2.0, 1.0]])
    assert np.isfinite(VariationalAutoencoder(1, max_iter=2).fit(X).score(X))
    for likelihood in ("poisson", "multinomial"):
        with pytest.raises(ValueError, match="Negative"):
            VariationalAutoencoder(1, likelihood=likelihood).fit(X)


def test_perplexity_is_for_counts_alone():
    assert not hasattr(VariationalAutoencoder(), "perplexity")
    assert hasattr(VariationalAutoencoder(likelihood="poisson"), "perplexity")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"free_bits": 0.1, "prior": "vamp"}, "free_bits needs"),
        ({"beta": 2, "objective": "iwae", "n_particles": 5}, "only objective='elbo'"),
        ({"objective": "iwae"}, "at least 2"),
        ({"decoder_layers": (0,)}, "positive ints"),
    ],
)
def test_parameters_that_do_not_go_together(parameters, message):
    with pytest.raises(ValueError, match=message):
        VariationalAutoencoder(2, **parameters).fit(linear_data(20))


def test_a_warmup_longer_than_training_is_told():
    model = VariationalAutoencoder(2, kl_warmup=100, max_iter=3, random_state=0)
    with pytest.warns(ConvergenceWarning, match="takes 100 updates.* only 3"):
        model.fit(linear_data(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(kl_warmup=3).fit(linear_data(20))


def test_units_of_the_data_do_not_matter():
    X = linear_data(200)
    units = 10.0 ** np.arange(-4, 4)
    one, other = (fitted(data, **LINEAR) for data in (X, X * units + units))
    codes = other.transform(X * units + units)
    np.testing.assert_allclose(one.transform(X), codes, atol=1e-8)
    shift = np.log(units).sum()
    assert other.score(X * units + units) == pytest.approx(one.score(X) - shift)


def test_features_that_never_vary_have_a_finite_bound():
    X = np.concatenate([linear_data(100), np.full((100, 2), 3.0)], 1)
    for noise in ("spherical", "diagonal"):
        model = fitted(X, noise=noise)
        assert np.isfinite(model.score(X))
        np.testing.assert_allclose(
            model.inverse_transform(model.transform(X))[:, -1], 3, atol=2
        )


def test_the_elbo_too_is_learnt_from_several_draws():
    X = np.random.default_rng(0).poisson(2.0, (60, 5)).astype(np.float64)
    settings = {"likelihood": "poisson", "max_iter": 2, "random_state": 0}
    one, several = (
        VariationalAutoencoder(2, n_particles=n, **settings).fit(X) for n in (1, 5)
    )
    module = module_of(several).train()
    module.seed(0)
    rows = batch(X)
    bounds, _ = module.objective(rows, module.posterior(rows))
    module.seed(0)
    q = module.posterior(rows)
    draws = module.draws(q, rows, 5)
    expected = module.observation.log_likelihood(rows, draws).mean(0) - module.kl(q)
    assert torch.allclose(bounds, expected)
    assert not np.array_equal(one.components_, several.components_)


def test_a_warm_start_takes_up_what_has_changed():
    X = np.random.default_rng(0).poisson(2.0, (60, 5)).astype(np.float64)
    settings = {"likelihood": "poisson", "max_iter": 2, "random_state": 0}
    same, other = (VariationalAutoencoder(2, **settings).fit(X) for _ in range(2))
    same.set_params(warm_start=True).fit(X)
    other.set_params(warm_start=True, beta=50.0).fit(X)
    assert not np.array_equal(same.components_, other.components_)


def test_rows_can_be_drawn_where_means_are_beyond_all_counts():
    X = np.random.default_rng(0).poisson(2.0, (30, 4)).astype(np.float64)
    model = fitted(X, likelihood="poisson")
    bias = model._parameters["observation.decoder.bias"]
    model._parameters["observation.decoder.bias"] = np.full_like(bias, 800.0)
    assert model.sample(3, random_state=0).min() > 1e17


@pytest.mark.parametrize("n_tokens", [-1, 2.5, [1, 2], "many", [3.0, np.nan, 1.0]])
def test_numbers_of_tokens_that_are_none(n_tokens):
    X = np.random.default_rng(0).poisson(2.0, (30, 4)).astype(np.float64)
    model = fitted(X, likelihood="multinomial")
    with pytest.raises(ValueError, match="n_tokens must be a whole number"):
        model.sample(3, n_tokens=n_tokens)
    drawn = model.sample(3, n_tokens=[4.0, 0.0, 2.0], random_state=0)
    assert drawn.sum(axis=1).ravel().tolist() in ([4, 0, 2], [[4, 0, 2]])
