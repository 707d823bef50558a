"""Gibbs sweeps over tokens that remember the unit of each, by compiled loops."""

import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from skdeepfactor import LatentDirichletAllocation
from skdeepfactor._math import compiled, threads
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gammas import sum_of_mean_logs
from skdeepfactor._math.noise import keyed_log_gamma
from skdeepfactor._math.row_tokens import RowTokens
from skdeepfactor._math.tokens import MOST_TOKENS
from skdeepfactor._math.topic_draws import DrawnTopics, TopicDraws
from skdeepfactor._training.plan import Budget
from tests.conftest import keys_of

pytestmark = pytest.mark.skipif(
    not compiled.is_compiled(torch.device("cpu")), reason="needs numba"
)

ALPHA = torch.tensor([0.3, 0.1, 0.6])
TOPICS = torch.tensor([[0.6, 0.1, 0.2], [0.3, 0.2, 0.3], [0.1, 0.7, 0.5]])


def prior_sums(alpha, topics):
    return (topics * alpha.double()).cumsum(1)


def started(x, keys):
    """Tokens of rows, (n_rows, 3), whose units were drawn from even odds."""
    tokens = RowTokens(Batch(x), 3)
    tokens.start(torch.ones(len(x), 3), TOPICS, keys, stream=1)
    return tokens


def sweeps(tokens, keys, n):
    """The last of some sweeps."""
    for sweep in range(n):
        drawn = tokens.redraw(
            ALPHA, TOPICS, prior_sums(ALPHA, TOPICS), keys, stream=2 + sweep
        )
    return drawn


def test_units_have_their_exact_distribution():
    """That of all units of a row, over all rows, after a few sweeps."""
    n, words = 20_000, (0, 0, 1, 2)
    counts = torch.bincount(torch.tensor(words)).float()
    keys = keys_of(n)
    tokens = started(counts.repeat(n, 1), keys)
    sweeps(tokens, keys, 10)
    found = tokens.units.view(n, -1) @ (3 ** torch.arange(4, dtype=torch.int32))
    found = torch.bincount(found, minlength=3**4).numpy()
    alpha, p = ALPHA.double().numpy(), []
    for units in itertools.product(range(3), repeat=4):
        units = units[::-1]
        of_units = np.bincount(units, minlength=3)
        shares = np.exp(scipy.special.gammaln(alpha + of_units)).prod()
        p.append(shares * TOPICS[list(words), list(units)].double().prod().item())
    expected = n * np.array(p) / sum(p)
    rare = expected < 5
    found, expected = (
        np.append(a[~rare], a[rare].sum()) for a in (found.astype(float), expected)
    )
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-3


def test_a_sweep_gives_the_likelihood_of_each_word_given_the_units_of_others():
    x = torch.tensor(np.random.default_rng(0).poisson(2.0, (30, 3))).float()
    x[:3] = torch.tensor([[0, 0, 0], [0, 1, 0], [400, 0, 300]])
    keys = keys_of(len(x))
    tokens = started(x, keys)
    before = tokens.units.tolist()
    of_rows, found = tokens.redraw(
        ALPHA, TOPICS, prior_sums(ALPHA, TOPICS), keys, stream=9
    )
    after, alpha = tokens.units.tolist(), ALPHA.double().numpy()
    first = 0
    for row, counts in enumerate(x.long()):
        words = torch.arange(3).repeat_interleave(counts).tolist()
        last = first + len(words)
        of_row = np.bincount(after[first:last], minlength=3)
        assert of_rows[row].tolist() == of_row.tolist()
        expected = 0.0
        for place, word in enumerate(words):
            others = after[first : first + place] + before[first + place + 1 : last]
            odds = alpha + np.bincount(others, minlength=3)
            odds /= alpha.sum() + len(others)
            expected += np.log(odds @ TOPICS[word].double().numpy())
        assert found[row].item() == pytest.approx(expected, rel=1e-6)
        first = last


def test_rows_have_the_same_draws_in_any_company(monkeypatch):
    monkeypatch.setattr(threads, "_LEAST_WORK", 1)
    x = torch.tensor(np.random.default_rng(0).poisson(2.0, (50, 3))).double()
    keys = keys_of(50)
    of_rows, logs = sweeps(started(x, keys), keys, 3)
    some = [7, 3, 40]
    alone = sweeps(started(x[some], keys[some]), keys[some], 3)
    assert torch.equal(of_rows[some], alone[0])
    assert torch.equal(logs[some], alone[1])
    for n_threads in (2, 3, 60):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        together = sweeps(started(x, keys), keys, 3)
        assert torch.equal(of_rows, together[0])
        assert torch.equal(logs, together[1])


def test_logarithms_of_products_have_no_range():
    """They are taken of products of many odds, which would leave that of floats."""
    keys, x = keys_of(2), torch.full((2, 3), 900.0)
    tokens = RowTokens(Batch(x), 1)
    topics = torch.tensor([[1e-30], [0.5], [0.25]])
    tokens.start(torch.ones(2, 1), topics, keys, stream=0)
    _, found = tokens.redraw(torch.ones(1), topics, topics.double(), keys, stream=1)
    expected = (x.double() @ topics.double().log())[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_counts_of_words_are_weighted():
    x = torch.tensor([[2.0, 0, 1], [0, 3, 0]])
    tokens = RowTokens(Batch(x), 2, units=torch.tensor([0, 1, 1, 0, 0, 1]).int())
    found = tokens.counts_of_words(torch.tensor([1.0, 0.5]), torch.Size([3, 2]))
    assert found.tolist() == [[1, 1], [1, 0.5], [0, 1]]
    assert tokens.counts_of_words(2.0, torch.Size([3, 2])).sum() == 12


@pytest.mark.parametrize("units", [[0, 1], [0, 1, 2], [0, -1, 0], [], None])
def test_only_units_that_there_can_be_are_taken(units):
    if units is not None:
        units = torch.tensor(units).int()
    assert RowTokens(Batch(torch.tensor([[2.0, 1]])), 2, units=units).units is None


DRAWN = DrawnTopics(TOPICS, prior_sums(ALPHA, TOPICS))


def whole_draws():
    draws = TopicDraws(TOPICS.T.shape)
    draws.begin(Budget(n_passes=4, n_updates=4, n_rows=9))
    return draws


def test_other_rows_draw_their_proportions_first():
    x = torch.tensor([[2.0, 1, 0], [0, 0.5, 1], [0, 3, 4], [0, MOST_TOKENS + 1, 1]])
    weight = torch.tensor([1.0, 2, 3, 4]).double()
    draws, counts = whole_draws(), torch.zeros(4, 3)
    of_rows, of_words, logs, tokens = draws.sweep(
        Batch(x, weight=weight), ALPHA, counts, DRAWN
    )
    assert tokens.others.tolist() == [1, 3]
    whole = [0, 2]
    alone = draws.sweep(Batch(x[whole]), ALPHA, counts[whole], DRAWN)
    assert torch.equal(of_rows[whole], alone[0])
    assert torch.equal(logs[whole], alone[2])
    assert of_rows.sum(1)[[0, 2, 3]].tolist() == [3, 7, MOST_TOKENS + 2]
    torch.testing.assert_close(of_words.sum(), (of_rows.double().sum(1) * weight).sum())
    # The units drawn are where the next sweep starts.
    again = draws.sweep(Batch(x), ALPHA, of_rows, DRAWN, tokens.state.clone())
    once_more = draws.sweep(Batch(x), ALPHA, of_rows, DRAWN, tokens)
    assert torch.equal(again[0], once_more[0])


def test_a_step_on_some_rows_draws_proportions():
    draws = whole_draws()
    draws.begin(Budget(n_passes=4, n_updates=8, batch_size=2, n_rows=4))
    x, counts = torch.ones(2, 3), torch.zeros(2, 3)
    assert draws.sweep(Batch(x), ALPHA, counts, DRAWN)[3] is None


@pytest.mark.parametrize("weight", [0.1, torch.linspace(0, 2, 40).double()])
def test_priors_are_learnt_from_the_same_means_without_loops(weight, monkeypatch):
    rng = np.random.default_rng(0)
    counts = torch.tensor(rng.poisson(0.3, (40, 5)) * rng.integers(1, 900, (40, 5)))
    prior = torch.tensor([1e-6, 0.01, 0.5, 7, 1e5]).double()
    concentration = prior + counts
    means = concentration.digamma() - concentration.sum(1, keepdim=True).digamma()
    expected = (
        torch.as_tensor(weight, dtype=means.dtype).expand(40)[:, None] * means
    ).sum(0)
    for _ in range(2):
        found = sum_of_mean_logs(prior, counts.float(), weight)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        monkeypatch.setattr(compiled, "is_compiled", lambda device: False)


def test_the_same_gamma_variables_are_drawn_without_loops(monkeypatch):
    # All kinds of attempts, and shapes for each of them.
    shape = torch.logspace(-6, 5, 300).double().repeat(200, 1)
    found = keyed_log_gamma(shape, keys_of(200), stream=3)
    monkeypatch.setattr(compiled, "is_compiled", lambda device: False)
    expected = keyed_log_gamma(shape, keys_of(200), stream=3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_fit_without_loops_finds_the_same_topics(monkeypatch):
    X = np.random.default_rng(0).poisson(0.5, (60, 12)).astype(float)
    X[:30, :6] *= 9
    X[30:, 6:] *= 9
    model = LatentDirichletAllocation(
        2, inference="gibbs", doc_topic_prior="auto", max_iter=60, random_state=0
    )
    found = model.fit(X).components_
    history = model.history_["lower_bound"]
    monkeypatch.setattr(compiled, "is_compiled", lambda device: False)
    expected = model.fit(X).components_
    np.testing.assert_allclose(found, expected, atol=0.01)
    # The likelihood given proportions is that of another quantity.
    assert history != model.history_["lower_bound"]


def test_a_fit_resumes_without_loops(tmp_path, monkeypatch):
    X = np.random.default_rng(0).poisson(1.0, (50, 12)).astype(float)
    model = LatentDirichletAllocation(2, inference="gibbs", max_iter=8, random_state=0)

    def interrupt(module, *arguments):
        if module.n_sweeps == 4:
            raise KeyboardInterrupt
        return end_sweep(module, *arguments)

    end_sweep = TopicDraws.end_sweep
    with monkeypatch.context() as patch:
        patch.setattr(TopicDraws, "end_sweep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, checkpoint=tmp_path / "run")
    monkeypatch.setattr(compiled, "is_compiled", lambda device: False)
    assert model.fit(X, checkpoint=tmp_path / "run").n_iter_ == 8


def test_threads_are_left_to_loops():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    try:
        with threads.threads_for_loops():
            inside = torch.get_num_threads()
            work = np.arange(3) * threads._LEAST_WORK
            threads.in_parts(lambda *rows: seen.append(rows), work)
            with threads.threads_for_torch():
                assert torch.get_num_threads() == 2
        assert inside == (1 if threads._set_openmp else 2)
        assert sorted(seen) == [(0, 1), (1, 2)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
