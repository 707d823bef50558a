"""Likelihoods against SciPy, and the sums of their probabilities."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch
from numpy.testing import assert_allclose
from scipy.special import gammaln

from skdeepfactor._math import likelihoods as classes
from skdeepfactor._math.batch import Batch, Entries, to_tensor
from skdeepfactor._math.likelihoods import (
    dirichlet_multinomial,
    multinomial,
    negative_binomial,
    poisson,
)

# What each takes after the log total.
LIKELIHOODS = {
    "multinomial": (multinomial, ()),
    "urn of a few words": (dirichlet_multinomial, (-1.5,)),
    "urn of many words": (dirichlet_multinomial, (4.0,)),
    "poisson": (poisson, ()),
    "negative binomial": (negative_binomial, (0.7,)),
    "negative binomial of small odds": (negative_binomial, (-2.0,)),
}
IN_ORDER = ["multinomial", "urn of a few words", "urn of many words"]
OF_COUNTS = [name for name in LIKELIHOODS if name not in IN_ORDER]

LOGITS = np.log([[0.2, 1.7, 0.6], [3.0, 0.01, 1.0]])


def tensor(values, device):
    return torch.tensor(values, dtype=torch.float64, device=device)


def entries_of(X, device):
    rows = scipy.sparse.csr_matrix(X)
    x = to_tensor(rows, slice(None), dtype=torch.float64, device=device)
    return Entries.of(x)


def at_entries(entries, logits):
    """The logits at the entries, and the log totals of the rows."""
    return logits[..., entries.rows, entries.columns], logits.logsumexp(-1)


def log_likelihood(name, X, logits, device):
    function, more = LIKELIHOODS[name]
    entries = entries_of(X, device)
    logits = tensor(np.broadcast_to(logits, (*logits.shape[:-2], *X.shape)), device)
    more = [tensor(value, device) for value in more]
    return function(entries, *at_entries(entries, logits), *more).cpu().numpy()


@pytest.mark.parametrize("name", IN_ORDER)
@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("n_words", [0, 1, 2, 5])
def test_all_sequences_of_words_sum_to_one(name, logits, n_words, device):
    words = itertools.product(range(3), repeat=n_words)
    X = np.array([np.bincount(list(word), minlength=3) for word in words])
    log_p = log_likelihood(name, X, logits[None], device)
    assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-12)


@pytest.mark.parametrize("name", OF_COUNTS)
@pytest.mark.parametrize("logits", LOGITS[:, :2])
def test_all_counts_sum_to_one(name, logits, device):
    X = np.array(list(itertools.product(range(150), repeat=2)))
    log_p = log_likelihood(name, X, logits[None], device)
    assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-10)


def draws_of_counts(n_rows=20, n_features=7):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.5, 6.0, (n_rows, n_features)))
    X[3] = 0
    return X, rng.normal(0, 1.5, (n_rows, n_features))


def coefficient(X):
    """Of how many sequences of words a row of counts is."""
    return gammaln(X.sum(1) + 1) - gammaln(X + 1).sum(1)


def expected(name, X, logits):
    """The same by SciPy."""
    more = LIKELIHOODS[name][1]
    means = np.exp(logits)
    shares = means / means.sum(1, keepdims=True)
    total = X.sum(1)
    if name == "multinomial":
        return scipy.stats.multinomial.logpmf(X, total, shares) - coefficient(X)
    if name.startswith("urn"):
        urn = scipy.stats.dirichlet_multinomial
        urns = np.exp(more[0]) * shares
        # SciPy before 1.12 refuses rows without counts, whose probability is 1.
        log_p = [
            urn.logpmf(x, a, x.sum()) if x.any() else 0.0
            for x, a in zip(X, urns, strict=True)
        ]
        return np.array(log_p) - coefficient(X)
    if name == "poisson":
        return scipy.stats.poisson.logpmf(X, means).sum(1)
    p = 1 / (1 + np.exp(more[0]))
    return scipy.stats.nbinom.logpmf(X, means, p).sum(1)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_scipy_agrees(name, device):
    X, logits = draws_of_counts()
    log_p = log_likelihood(name, X, logits, device)
    assert log_p.dtype == np.float64
    assert_allclose(log_p, expected(name, X, logits), rtol=1e-9, atol=1e-9)


def test_negative_binomial_given_its_total_is_an_urn(device):
    X, logits = draws_of_counts()
    counts = log_likelihood("negative binomial", X, logits, device)
    sizes = np.exp(logits).sum(1)
    p = 1 / (1 + np.exp(LIKELIHOODS["negative binomial"][1][0]))
    given_total = counts - scipy.stats.nbinom.logpmf(X.sum(1), sizes, p)
    entries = entries_of(X, device)
    at = at_entries(entries, tensor(logits, device))
    # An urn of a size of its own for each row.
    urns = dirichlet_multinomial(entries, *at, at[1]).cpu().numpy()
    assert_allclose(urns + coefficient(X), given_total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_particles_come_first(name, device):
    X, _ = draws_of_counts()
    logits = np.random.default_rng(1).normal(size=(4, 2, *X.shape))
    together = log_likelihood(name, X, logits, device)
    assert together.shape == (4, 2, len(X))
    for index in np.ndindex(4, 2):
        alone = log_likelihood(name, X, logits[index], device)
        assert_allclose(together[index], alone, rtol=1e-12, atol=1e-12)


def test_urns_of_particles(device):
    X, _ = draws_of_counts()
    entries = entries_of(X, device)
    logits = tensor(np.random.default_rng(1).normal(size=(3, *X.shape)), device)
    at = at_entries(entries, logits)
    together = dirichlet_multinomial(entries, *at, at[1])
    assert together.shape == (3, len(X))
    for particle, log_p in zip(logits, together, strict=True):
        at = at_entries(entries, particle)
        alone = dirichlet_multinomial(entries, *at, at[1])
        assert_allclose(log_p.cpu(), alone.cpu(), rtol=1e-12, atol=1e-12)


def test_rows_without_words(device):
    X = np.zeros((2, 3))
    total = np.exp(LOGITS).sum(1)
    for name in IN_ORDER:
        assert log_likelihood(name, X, LOGITS, device).tolist() == [0, 0]
    assert_allclose(log_likelihood("poisson", X, LOGITS, device), -total)
    log_p = log_likelihood("negative binomial", X, LOGITS, device)
    assert_allclose(log_p, -total * np.log1p(np.exp(0.7)))


def test_words_of_a_large_urn_are_drawn_independently(device):
    X, logits = draws_of_counts()
    entries = entries_of(X, device)
    at = at_entries(entries, tensor(logits, device))
    urn = dirichlet_multinomial(entries, *at, tensor(np.log(1e8), device))
    assert_allclose(urn.cpu(), multinomial(entries, *at).cpu(), atol=2e-3)


def test_negative_binomial_of_large_sizes_is_poisson(device):
    X, logits = draws_of_counts()
    entries = entries_of(X, device)
    logits, log_total = at_entries(entries, tensor(logits, device))
    scale = np.log(1e8)
    counts = negative_binomial(
        entries, logits + scale, log_total + scale, tensor(-scale, device)
    )
    assert_allclose(
        counts.cpu(), poisson(entries, logits, log_total).cpu(), rtol=1e-5, atol=1e-3
    )


def with_gradients(name, X, logits, device):
    """The log likelihood, and its gradients with respect to all that it takes."""
    function, more = LIKELIHOODS[name]
    entries = entries_of(X, device)
    at = at_entries(entries, tensor(logits, device))
    inputs = [*at, *(tensor(value, device) for value in more)]
    inputs = [value.requires_grad_() for value in inputs]
    log_p = function(entries, *inputs)
    return log_p.detach(), torch.autograd.grad(log_p.sum(), inputs)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("level", [-60.0, 0.0, 15.0])
def test_extreme_counts_and_logits_are_finite(name, level, device):
    X = np.array([[10**6, 0, 0], [0, 10**6, 1], [0, 0, 0], [1, 0, 0]])
    logits = np.array([[30.0, 0, -40], [-40, 0, -900], [0, 50, 0], [-900, 0, 1]])
    if name in OF_COUNTS:
        logits = logits.clip(-np.inf, 0)
    log_p, gradients = with_gradients(name, X, logits + level, device)
    for values in (log_p, *gradients):
        assert values.isfinite().all()
    assert (log_p <= 0).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_those_of_differences(name, device):
    X, logits = draws_of_counts(5, 4)
    function, more = LIKELIHOODS[name]
    entries = entries_of(X, device)
    inputs = [*at_entries(entries, tensor(logits, device))]
    inputs += [tensor(value, device) for value in more]
    assert torch.autograd.gradcheck(
        lambda *inputs: function(entries, *inputs),
        [value.requires_grad_() for value in inputs],
    )


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_expected_logits_give_a_lower_bound(name, device):
    """Convex in each logit; decreasing in the log total, or convex in the total."""
    rng = np.random.default_rng(2)
    X, logits = draws_of_counts()
    function, more = LIKELIHOODS[name]
    more = [tensor(value, device) for value in more]
    entries = entries_of(X, device)
    logits, log_total = at_entries(entries, tensor(logits, device))
    n_draws = 200
    noise = tensor(rng.normal(0, 1.5, (n_draws, *logits.shape)), device)
    noise -= noise.mean(0)
    at_mean = function(entries, logits, log_total, *more)
    mean = function(entries, logits + noise, log_total[None], *more).mean(0)
    assert (mean >= at_mean - 1e-9).all()
    higher = function(entries, logits, log_total + 0.1, *more)
    is_filled = entries.totals > 0
    assert (higher <= at_mean).all()
    assert (higher < at_mean)[is_filled].all()
    if name in OF_COUNTS:
        noise = tensor(rng.normal(0, 1.5, (n_draws, *log_total.shape)), device)
        totals = log_total + noise
        expected_total = totals.logsumexp(0) - np.log(n_draws)
        mean = function(entries, logits, totals, *more).mean(0)
        at_mean = function(entries, logits, expected_total, *more)
        assert (mean >= at_mean - 1e-9 * at_mean.abs()).all()


def test_the_urn_of_a_total_is_convex_in_it(device):
    """For negative binomial counts given their total, the urn is the total."""
    X, logits = draws_of_counts()
    entries = entries_of(X, device)
    logits, log_total = at_entries(entries, tensor(logits, device))
    noise = np.random.default_rng(3).normal(0, 1.5, (200, len(X)))
    totals = log_total + tensor(noise, device)
    expected_total = totals.logsumexp(0) - np.log(200)
    mean = dirichlet_multinomial(entries, logits, totals, totals).mean(0)
    bound = dirichlet_multinomial(entries, logits, expected_total, expected_total)
    assert (mean >= bound).all()
    assert (mean > bound)[entries.totals > 0].all()


# Objects that models choose from.

OBJECTS = [*classes.LIKELIHOODS.values(), classes.Urn]


def batch_of(X, device="cpu", **known):
    rows = scipy.sparse.csr_matrix(X)
    x = to_tensor(rows, slice(None), dtype=torch.float64, device=device)
    return Batch(x, **known)


def made(kind, device="cpu"):
    """A likelihood with parameters of some size."""
    likelihood = kind().double().to(device)
    for parameter in likelihood.parameters():
        parameter.data.fill_(0.7)
    return likelihood


@pytest.mark.parametrize("kind", OBJECTS)
def test_slopes_are_those_of_autograd(kind, device):
    X, logits = draws_of_counts()
    likelihood, batch = made(kind, device), batch_of(X, device)
    logits, log_total = at_entries(batch.entries, tensor(logits, device))
    inputs = [logits.clone().requires_grad_(), log_total.clone().requires_grad_()]
    expected = likelihood.of_entries(batch.entries, *inputs)
    pull, push = torch.autograd.grad(expected.sum(), inputs)
    with torch.no_grad():
        value, for_logits, for_total = likelihood.slopes(batch, logits, log_total)
    assert_allclose(value.cpu(), expected.detach().cpu())
    assert_allclose(for_logits.values().cpu(), pull.cpu())
    assert_allclose(for_total[:, 0].cpu(), -push.cpu())


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_missing_is_left_out(kind, device):
    X, logits = draws_of_counts()
    observed = np.random.default_rng(1).random(X.shape) < 0.7
    likelihood = made(kind, device)
    gaps = batch_of(X * observed, device, observed=tensor(observed * 1.0, device))
    found = likelihood.log_likelihood(gaps, tensor(logits, device)).detach().cpu()
    for n, at in enumerate(observed):
        row = batch_of(X[n : n + 1, at], device)
        alone = likelihood.log_likelihood(row, tensor(logits[n : n + 1, at], device))
        assert_allclose(found[n], alone.item(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", OBJECTS)
def test_draws_have_the_mean(kind):
    logits = torch.tensor([[0.2, 1.7, 0.6], [3.0, 0.01, 1.0]]).double().log()
    likelihood = made(kind)
    n_draws, n_words = 20_000, 12
    mean = likelihood.mean(logits).detach().numpy()
    if likelihood.is_given_total:
        assert_allclose(mean.sum(1), 1)
        mean = n_words * mean
    with torch.no_grad():
        X = likelihood.sample(
            logits.repeat(n_draws, 1),
            np.full(2 * n_draws, n_words),
            np.random.default_rng(0),
        ).reshape(n_draws, 2, 3)
    if likelihood.is_given_total:
        assert (X.sum(2) == n_words).all()
    error = X.std(0) / np.sqrt(n_draws)
    assert (abs(X.mean(0) - mean) < 4.5 * error).all()


@pytest.mark.parametrize("kind", OBJECTS)
def test_next_words_are_those_of_rows_with_a_word_more(kind):
    """Given their number: by the ratio of the likelihoods."""
    X, logits = draws_of_counts(4, 5)
    likelihood = made(kind)
    logits = tensor(logits, "cpu")
    of_words = likelihood.given_total
    assert of_words.given_total is of_words
    assert of_words.is_given_total
    with torch.no_grad():
        found = likelihood.next_word(batch_of(X), logits)
        before = of_words.log_likelihood(batch_of(X), logits)
        for v in range(5):
            longer = batch_of(X + (np.arange(5) == v))
            ratio = (of_words.log_likelihood(longer, logits) - before).exp()
            assert_allclose(found[:, v], ratio, rtol=1e-9)


def test_an_urn_begins_with_its_size():
    likelihood = classes.DirichletMultinomial().double()
    likelihood.initialize()
    size = likelihood.log_concentration.exp().item()
    assert size == pytest.approx(classes.CONCENTRATION_START, rel=1e-12)
