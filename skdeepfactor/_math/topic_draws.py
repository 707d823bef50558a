"""Gibbs sweeps over topics, proportions of rows, and the topics of tokens."""

from typing import NamedTuple

import torch
from torch import nn

from skdeepfactor._math import compiled
from skdeepfactor._math.noise import GAMMA_STREAMS, Stream, keyed_log_gamma, mix
from skdeepfactor._math.row_tokens import RowTokens
from skdeepfactor._math.threads import threads_for_torch
from skdeepfactor._math.tokens import (
    LEAST_ODDS,
    TokenParts,
    allocate_tokens,
    rounded,
    share_of_sweep,
)

# Streams of a sweep: proportions, then two of tokens, one of which is free where they
# are redrawn.
PROPORTIONS, TOKENS = Stream.CHAIN, Stream.CHAIN + GAMMA_STREAMS

# Share of the sweeps of a fit, the last ones, over which averages are taken. Topics go
# on becoming more coherent for hundreds of sweeps, and averages over the last half
# would lower perplexity by no more than .1 %.
KEPT = 1 / 4


class DrawnTopics(NamedTuple):
    """Topics drawn for one sweep.

    Attributes
    ----------
    p : Tensor of shape (n_features, n_topics)
        Probabilities of words in each topic.
    prior_sums : Tensor of shape (n_features, n_topics) or None
        Running sums over topics of their prior concentration times ``p``, float64, for
        loops.
    """

    p: torch.Tensor
    prior_sums: torch.Tensor | None = None


class TopicDraws(nn.Module):
    """Topics drawn given the tokens of the last sweep, and averages over sweeps.

    Draws are a function of the seed, of the number of the sweep, and of the number of a
    topic, or of the content of a row and what the last sweep has drawn for it. So rows
    may come in any order or company, and equal rows are drawn alike: a row of weight w
    is as good as w such rows.

    Parameters
    ----------
    shape : tuple of int
        (n_topics, n_features).

    Attributes
    ----------
    counts : Parameter of shape (n_topics, n_features)
        Tokens of each word in each topic in the last sweep.
    has_loops : bool
        Whether tokens are drawn by compiled loops, given the others of their rows.
    """

    def __init__(self, shape):
        super().__init__()
        self.counts = nn.Parameter(torch.zeros(shape))
        # Sweeps so far, those averaged, and the seed of draws.
        for name in ("n_sweeps", "n_kept", "seed"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._burn_in, self.has_loops = None, False

    def begin(self, budget):
        """Leave the first part of a fit out of the averages; a stream has none."""
        # Each step must see all rows, so that a row always comes back with its tokens.
        is_compiled = compiled.is_compiled(self.counts.device)
        self.has_loops = is_compiled and not budget.is_stochastic
        self._burn_in = None
        if budget.n_passes is not None:
            self._burn_in = int(budget.n_updates * (1 - KEPT))

    def start(self, counts, seed):
        """Start from counts of the words in each topic, (n_topics, n_features)."""
        self.counts.data.copy_(counts)
        self.seed.fill_(seed)

    def end_sweep(self, mean_counts):
        """Take the counts of a sweep into the averages, (n_topics, n_features).

        Before averages are taken, and in a stream, whose counts are averages
        themselves, they are those of the last step.
        """
        self.n_sweeps += 1
        share = share_of_sweep(self.n_kept, self.n_sweeps, self._burn_in)
        mean_counts.lerp_(self.counts, share)

    def topics(self, prior, alpha):
        """``DrawnTopics`` given the last sweep and their prior.

        ``alpha``, (n_topics,), is the concentration of the prior of proportions.
        """
        keys = torch.arange(len(self.counts), device=self.counts.device)
        shape = (self.counts + prior).double()
        logs = keyed_log_gamma(shape, self._keys(keys), stream=Stream.GLOBAL)
        drawn = logs.softmax(1).clamp_min_(LEAST_ODDS)
        drawn = drawn.T.to(self.counts.dtype).contiguous()
        sums = (drawn * alpha.double()).cumsum(1) if self.has_loops else None
        return DrawnTopics(drawn, sums)

    def sweep(self, batch, alpha, counts, topics, tokens=None):
        """Draw the topics of the tokens of rows.

        With loops for it, tokens are drawn one after the other, given the topics of the
        others in their rows. Without, proportions are drawn first; so they are in rows
        that have fractions, which are rounded at random, anew in each sweep, or entries
        of too many tokens; and in a first sweep. Both are exact.

        Parameters
        ----------
        batch : Batch
        alpha : Tensor of shape (n_topics,)
            Concentration of the prior of the proportions.
        counts : Tensor of shape (n_rows, n_topics)
            Tokens of each topic in the last sweep, or expected ones.
        topics : DrawnTopics
        tokens : RowTokens or its state, default=None
            What the last sweep of these rows gave.

        Returns
        -------
        of_rows : Tensor of shape (n_rows, n_topics)
        of_words : Tensor of shape (n_features, n_topics)
            Numbers of tokens; those of words are float64, and weighted by
            ``batch.weight``.
        log_likelihood : Tensor of shape (n_rows,)
            Log probability of the words of each row given the topics, float64: of each
            word given the topics of the others, or of all given the proportions.
        tokens : RowTokens or None
            Tokens that were drawn given the others.
        """
        if not self.has_loops:
            return *self._given_proportions(batch, alpha + counts, topics.p), None
        if not isinstance(tokens, RowTokens):
            tokens = RowTokens(batch, len(alpha), units=tokens)
        rows, others = tokens.rows, tokens.others
        keys, weight = self._keys(tokens.keys), batch.weight
        if tokens.units is None:
            odds = _drawn_odds(alpha + counts[rows], keys, topics.p.dtype)
            tokens.start(odds, topics.p, keys, stream=TOKENS + 1)
        drawn, logs = tokens.redraw(alpha, *topics, keys, stream=TOKENS)
        of_words = tokens.counts_of_words(_taken(weight, rows), topics.p.shape)
        if len(others) == 0:
            return drawn, of_words, logs, tokens
        of_rows, log_likelihood = torch.empty_like(counts), logs.new_empty(len(batch))
        of_rows[rows], log_likelihood[rows] = drawn, logs
        with threads_for_torch():
            drawn, of_part, logs = self._given_proportions(
                batch.take(others), alpha + counts[others], topics.p
            )
        of_rows[others], log_likelihood[others] = drawn.to(of_rows), logs
        return of_rows, of_words + of_part, log_likelihood, tokens

    def _given_proportions(self, batch, concentration, topics):
        """Draw the proportions of rows, and then the topics of their tokens."""
        keys, weight, of_words = self._keys(batch.keys), batch.weight, 0
        odds = _drawn_odds(concentration, keys, topics.dtype)
        of_rows = torch.empty_like(odds, dtype=torch.float64)
        log_likelihood = of_rows.new_empty(len(odds))
        for rows, tokens in TokenParts(rounded(batch, keys)):
            of_rows[rows], of_part, log_likelihood[rows] = allocate_tokens(
                tokens,
                odds[rows],
                topics,
                keys[rows],
                stream=TOKENS,
                weight=_taken(weight, rows),
            )
            of_words = of_words + of_part
        # The odds are proportions times some number.
        log_likelihood -= of_rows.sum(1) * odds.sum(1, dtype=torch.float64).log()
        return of_rows, of_words, log_likelihood

    def _keys(self, keys):
        """Keys of this sweep."""
        return mix(keys) + mix(mix(self.seed) + self.n_sweeps)


def _drawn_odds(concentration, keys, dtype):
    """Draw Dirichlet variables up to scale: only ratios matter, and the largest is 1.

    So no row underflows.
    """
    logs = keyed_log_gamma(concentration, keys, stream=PROPORTIONS)
    odds = (logs - logs.amax(1, keepdim=True)).exp_()
    return odds.clamp_min_(LEAST_ODDS).to(dtype)


def _taken(weight, rows):
    return weight[rows] if isinstance(weight, torch.Tensor) else weight
