"""Draws of the units of tokens, of tables, and of gamma variables."""

import numpy as np
import pytest
import scipy.stats
import torch

from skdeepfactor._math import ops
from skdeepfactor._math import tokens as tokens_file
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gammas import gamma_shapes
from skdeepfactor._math.noise import keyed_log_gamma
from skdeepfactor._math.tokens import (
    TokenParts,
    Tokens,
    allocate_tokens,
    binomial,
    rounded,
    tables,
)
from tests.conftest import keys_of

# Draws deviate from their means by more than this many standard errors in fewer than
# one of 10,000 cases; the seeds are fixed.
MOST_ERRORS = 4.0


@pytest.mark.parametrize("shape", [0.01, 0.5, 0.99, 1.0, 30.0, 1e6])
def test_gamma_variables_have_their_distribution(shape):
    keys = keys_of(3000)
    logs = keyed_log_gamma(torch.full((3000, 1), shape), keys, stream=3)
    # Of tiny shapes the variables underflow; their logarithms are all but exponential.
    draws = -logs * shape if shape < 0.1 else logs.exp()
    expected = scipy.stats.expon() if shape < 0.1 else scipy.stats.gamma(shape)
    found = scipy.stats.kstest(draws[:, 0].numpy(), expected.cdf)
    assert found.pvalue > 1e-3 or found.statistic < 0.02


def test_gamma_variables_depend_on_their_key_alone():
    keys, shape = keys_of(50), torch.full((50, 4), 0.7).double()
    together = keyed_log_gamma(shape, keys, stream=3)
    alone = keyed_log_gamma(shape[7:8], keys[7:8], stream=3)
    assert torch.equal(together[7:8], alone)
    other = keyed_log_gamma(shape, keys, stream=43)
    assert np.corrcoef(together[:, 0], other[:, 0])[0, 1] < 0.5


@pytest.mark.parametrize("count", [3, 2000])
def test_tokens_come_from_units_by_their_odds(count):
    n = 2000
    z = torch.tensor([[0.5, 0.1, 0.0, 1.0, 0.4]]).repeat(n, 1)
    w = torch.tensor([[1.0, 1, 1, 1, 1], [0.2, 2, 1, 0.1, 0]])
    x = torch.zeros(n, 2)
    x[:, 1] = count
    tokens = Tokens.of(x)
    of_rows, of_words, _ = allocate_tokens(tokens, z, w, keys_of(n), stream=0)
    assert (of_rows.sum(1) == count).all()
    assert torch.equal(of_words[1], of_rows.sum(0))
    p = (z[0] * w[1] / (z[0] * w[1]).sum()).double()
    errors = (count * p * (1 - p) / n).sqrt()
    assert ((of_rows.mean(0) - count * p).abs() <= MOST_ERRORS * errors).all()
    variance = of_rows.var(0)
    assert torch.allclose(variance, count * p * (1 - p), rtol=0.15, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 7, 17])
def test_units_in_any_number_of_groups(k):
    n, rng = 20_000, np.random.default_rng(k)
    z, w = (torch.tensor(rng.random((1, k))) for _ in range(2))
    z = z.expand(n, -1)
    tokens = Tokens.of(torch.ones(n, 1).double())
    of_rows, of_words, _ = allocate_tokens(tokens, z, w, keys_of(n), stream=0)
    assert (of_rows.sum(1) == 1).all()
    p = (z[0] * w[0] / (z[0] * w[0]).sum()).numpy()
    statistic = ((of_words[0].numpy() - n * p) ** 2 / (n * p)).sum()
    assert statistic <= scipy.stats.chi2.isf(1e-3, max(k - 1, 1))


def test_rows_keep_their_tokens_in_any_company():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.poisson(2.0, (20, 6)).astype(float))
    x[3, 2] = 5000
    z, w = (torch.tensor(rng.random((n, 4))) for n in (20, 6))
    keys = keys_of(20)
    together, _, log_odds = allocate_tokens(Tokens.of(x), z, w, keys, stream=0)
    # Large entries count, too.
    torch.testing.assert_close(log_odds, (x * (z @ w.T).log()).sum(1))
    rows = torch.tensor([3, 11])
    some, _, _ = allocate_tokens(
        Tokens.of(x[rows].to_sparse_csr()), z[rows], w, keys[rows], stream=0
    )
    assert torch.equal(together[rows], some)


def test_a_row_of_many_tokens_is_split_as_its_large_entries_are(monkeypatch):
    """So that no part has more tokens than fit, whatever a row has."""
    monkeypatch.setattr(tokens_file, "MOST_AT_ONCE", 50)
    n, rng = 2000, np.random.default_rng(0)
    x = torch.tensor([[0.0, 9, 40, 12, 0, 1, 30]])
    # 92 tokens in 5 entries: those of more than 10 are split.
    assert Tokens.of(x).large.tolist() == [1, 2, 4]
    assert len(Tokens.of(x).rows) == 10
    z, w = (torch.tensor(rng.random((m, 4))) for m in (1, 7))
    keys = keys_of(n)
    of_rows, of_words, _ = allocate_tokens(
        Tokens.of(x.repeat(n, 1)), z.repeat(n, 1), w, keys, stream=0
    )
    assert torch.equal(of_words.sum(1), n * x[0].double())
    assert (of_rows.sum(1) == x.sum()).all()
    shares = z * w / (z * w).sum(1, keepdim=True)
    mean = x.T * shares
    variance = mean * (1 - shares)
    errors = (n * variance).sqrt()
    assert ((of_words - n * mean).abs() <= MOST_ERRORS * errors).all()
    assert torch.allclose(of_rows.var(0), variance.sum(0), rtol=0.15)
    # Its neighbours have no say in it.
    mixed = torch.cat([torch.ones(3, 7), x, torch.ones(20, 7)])
    parts = list(TokenParts(mixed))
    assert max(len(part.rows) for _, part in parts) <= 56
    for rows, part in parts:
        if rows.start <= 3 < rows.stop:
            given = z.expand(part.shape[0], 4)
            found, _, _ = allocate_tokens(
                part, given, w, keys[:1].expand(part.shape[0]), stream=0
            )
            assert torch.equal(found[3 - rows.start], of_rows[0])


@pytest.mark.parametrize("is_weighted", [False, True])
def test_large_entries_and_tables_come_in_parts(is_weighted, monkeypatch):
    """A part has no more of them than memory has room for, and draws the same."""
    n, rng = 40, np.random.default_rng(0)
    x = torch.tensor(rng.poisson(1500.0, (n, 3))).double()
    z, w = (torch.tensor(rng.random((m, 4))) for m in (n, 3))
    weight = torch.tensor(rng.random(n)) if is_weighted else 2.0
    keys, shapes = keys_of(n), torch.full((n, 4), 3.0).double()

    def drawn():
        counts = allocate_tokens(Tokens.of(x), z, w, keys, stream=0, weight=weight)
        return *counts, tables(counts[0], shapes, keys, stream=9)

    whole = drawn()
    monkeypatch.setattr(ops, "SLICE", 20)
    assert len(ops.slices(n, 4)) == 8
    monkeypatch.setattr(tokens_file, "MOST_AT_ONCE", 3000)
    for found, expected in zip(drawn(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("customers", "s"), [(1, 0.3), (20, 0.3), (5000, 7.0)])
def test_tables_have_the_mean_and_variance_of_their_sum(customers, s):
    n = 2000
    counts = torch.full((n, 2), float(customers))
    counts[:, 1] = 0
    found = tables(counts, torch.full((n, 2), s).double(), keys_of(n), stream=0)
    assert (found[:, 1] == 0).all()
    p = s / (s + np.arange(customers))
    error = np.sqrt((p * (1 - p)).sum() / n)
    assert abs(found[:, 0].mean() - p.sum()) <= MOST_ERRORS * error + 1e-12
    assert found[:, 0].var() == pytest.approx((p * (1 - p)).sum(), rel=0.2)
    assert (found[:, 0] >= 1).all()


def test_binomial_quantiles_at_the_ends():
    n = torch.tensor([0.0, 5, 5, 1e9, 1e9]).double()
    p = torch.tensor([0.5, 0, 1, 0.5, 1e-12]).double()
    found = binomial(n, p, torch.full((5,), 0.5).double())
    assert found.tolist() == [0, 0, 5, 5e8, 0]


def test_shapes_of_gammas_follow_from_their_moments():
    shapes = torch.tensor([1e-6, 1e-3, 0.1, 1, 10, 1e4]).double()
    found = gamma_shapes(shapes.log() - torch.digamma(shapes))
    assert torch.allclose(found, shapes, rtol=1e-6)


def test_fractions_are_rounded_up_with_their_probability():
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.random((4000, 1)) * 1e-3 + 2.25)
    found = rounded(Batch(values)).values()
    assert set(found.tolist()) == {2.0, 3.0}
    assert abs(found.mean() - 2.2505) < MOST_ERRORS * np.sqrt(0.1875 / 4000)
    assert torch.equal(found, rounded(Batch(values)).values())
    whole = Batch(torch.tensor([[2.0, 0, 1]]))
    assert rounded(whole) is whole.counts
