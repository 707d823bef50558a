"""Gibbs sweeps over topics, proportions of rows, and the topics of tokens."""

import torch
from torch import nn

from skdeepfactor._math.noise import GAMMA_STREAMS, Stream, keyed_log_gamma, mix
from skdeepfactor._math.tokens import (
    LEAST_ODDS,
    TokenParts,
    allocate_tokens,
    rounded,
    share_of_sweep,
)

# Streams of a sweep: proportions, then two of tokens.
PROPORTIONS, TOKENS = Stream.CHAIN, Stream.CHAIN + GAMMA_STREAMS


class TopicDraws(nn.Module):
    """Topics drawn given the tokens of the last sweep, and averages over sweeps.

    Draws are a function of the seed, of the number of the sweep, and of the content of
    a row or the number of a topic. So rows may come in any order or company, and equal
    rows are drawn alike: a row of weight w is as good as w such rows.

    Parameters
    ----------
    shape : tuple of int
        (n_topics, n_features).

    Attributes
    ----------
    counts : Parameter of shape (n_topics, n_features)
        Tokens of each word in each topic in the last sweep.
    """

    def __init__(self, shape):
        super().__init__()
        self.counts = nn.Parameter(torch.zeros(shape))
        # Sweeps so far, those averaged, and the seed of draws.
        for name in ("n_sweeps", "n_kept", "seed"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._burn_in = None

    def begin(self, budget):
        """Leave the first half of a fit out of the averages; a stream has none."""
        is_stream = budget.n_passes is None
        self._burn_in = None if is_stream else budget.n_updates // 2

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

    def topics(self, prior):
        """Topics drawn given the last sweep and their prior, (n_features, n_topics)."""
        keys = torch.arange(len(self.counts), device=self.counts.device)
        shape = (self.counts + prior).double()
        logs = keyed_log_gamma(shape, self._keys(keys), stream=Stream.GLOBAL)
        drawn = logs.softmax(1).clamp_min_(LEAST_ODDS)
        return drawn.T.to(self.counts.dtype).contiguous()

    def sweep(self, batch, concentration, topics):
        """Draw the proportions of rows, and then the topics of their tokens.

        Fractions of counts are rounded at random, anew in each sweep.

        Parameters
        ----------
        batch : Batch
        concentration : Tensor of shape (n_rows, n_topics)
            Parameters of the Dirichlet distributions of the proportions.
        topics : Tensor of shape (n_features, n_topics)

        Returns
        -------
        of_rows : Tensor of shape (n_rows, n_topics)
        of_words : Tensor of shape (n_features, n_topics)
            Numbers of tokens, float64; those of words are weighted by ``batch.weight``.
        log_likelihood : Tensor of shape (n_rows,)
            Log probability of the words of each row, in order, given its proportions
            and the topics, float64.
        """
        keys = self._keys(batch.keys)
        logs = keyed_log_gamma(concentration, keys, stream=PROPORTIONS)
        # Only ratios matter; the largest is 1, so that no row underflows.
        odds = (logs - logs.amax(1, keepdim=True)).exp_()
        odds = odds.clamp_min_(LEAST_ODDS).to(topics.dtype)
        weight, of_words = batch.weight, 0
        of_rows = torch.empty_like(odds, dtype=torch.float64)
        log_likelihood = of_rows.new_empty(len(odds))
        for rows, tokens in TokenParts(rounded(batch, keys)):
            some = weight[rows] if isinstance(weight, torch.Tensor) else weight
            of_rows[rows], of_part, log_odds = allocate_tokens(
                tokens, odds[rows], topics, keys[rows], stream=TOKENS, weight=some
            )
            of_words = of_words + of_part
            log_likelihood[rows] = log_odds
        # The odds are proportions times some number.
        log_likelihood -= of_rows.sum(1) * odds.sum(1, dtype=torch.float64).log()
        return of_rows, of_words, log_likelihood

    def _keys(self, keys):
        """Keys of this sweep."""
        return mix(keys) + mix(mix(self.seed) + self.n_sweeps)
