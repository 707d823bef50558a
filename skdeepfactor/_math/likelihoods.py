"""Likelihoods of rows of counts, given logits of the features.

The formulas take the entries of a batch, the logits at them, (..., n_entries), and the
log of the sum of exponentials of all logits of a row, (..., n_rows), in float64, and
give nats, (..., n_rows). Features that a row does not have are not needed.

They are linear or convex in each logit. The first two are decreasing in the log total;
the others, and their urns, are linear or convex in the total itself. So with expected
logits in the place of logits, and an upper bound on the expected log total (or, of the
others, the log of the expected total) in its place, they are lower bounds on the
expected log likelihood.

Models choose from the classes: a formula with its parameters, the mean, draws.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import lgamma, nn
from torch.nn.functional import logsigmoid

from skdeepfactor._math.ops import map_values

# Concentrations below it would underflow; the row is then as good as impossible.
TINY = 1e-300

# Where a Poisson count is drawn, NumPy takes no larger mean.
LARGEST_MEAN = 1e18

# Logits of missing features: so low that they have no weight.
NO_LOGIT = -1e30

# Words in an urn at first, before it is learnt.
CONCENTRATION_START = 100.0


def multinomial(x, logits, log_total):
    """Words in order, each drawn in proportion to exp(logits)."""
    return x.row_sum(x.values * logits) - x.totals * log_total


def dirichlet_multinomial(x, logits, log_total, log_concentration):
    """Words in order out of an urn that gets each word back twice (Polya).

    The urn starts with ``exp(log_concentration)`` words in proportion to exp(logits).
    Counts must be integers.
    """
    total = log_concentration.exp()
    logits = logits - x.of_rows(log_total) + _of_rows(x, log_concentration)
    start = logits.exp().clamp_min(TINY)
    terms = lgamma(start + x.values) - lgamma(start)
    return x.row_sum(terms) + lgamma(total) - lgamma(total + x.totals)


def poisson(x, logits, log_total):
    """Independent counts with means exp(logits)."""
    return x.row_sum(x.values * logits - lgamma(x.values + 1)) - log_total.exp()


def negative_binomial(x, logits, log_total, log_odds):
    """Independent counts with sizes exp(logits) and one odds of a further count.

    Means are exp(logits + log_odds); given its total, a row is Dirichlet-multinomial
    with concentrations exp(logits).
    """
    size = logits.exp().clamp_min(TINY)
    terms = lgamma(size + x.values) - lgamma(size) - lgamma(x.values + 1)
    likelihood = x.row_sum(terms) + x.totals * logsigmoid(log_odds)
    return likelihood + log_total.exp() * logsigmoid(-log_odds)


def _of_rows(x, value):
    """A number, or numbers of rows as numbers of entries."""
    return value if value.dim() == 0 else x.of_rows(value)


class CountLikelihood(nn.Module, ABC):
    """p(x | logits) of rows of counts."""

    #: Whether rows are words in order, given their number: the mean is then shares of
    #: it, and the level of the logits has no meaning.
    is_given_total = False

    #: Whether the log total enters linearly, so that any upper bound on its expectation
    #: will do. The others need the expected total itself: a center of 0.
    is_centered = False

    #: Whether it is linear in the logits and in the log total, as multinomial ones are.
    is_linear = False

    @abstractmethod
    def of_entries(self, x, logits, log_total):
        """Log likelihood, (..., n_rows), of ``Entries``, logits there and log totals.

        All in float64.
        """

    def log_likelihood(self, batch, logits):
        """Log likelihood given logits of all features, (..., n_rows, n_features)."""
        x, known = batch.entries, logits
        if batch.observed is not None:
            known = logits.masked_fill(batch.observed == 0, NO_LOGIT)
        log_total = known.logsumexp(-1).double()
        return self.of_entries(x, logits[..., x.rows, x.columns].double(), log_total)

    def slopes(self, batch, logits, log_total):
        """The log likelihood of each row, and its derivatives.

        The derivatives are those in the logits, (n_entries,) of a CSR batch, and minus
        that in the log total, (n_rows, 1), in the type of the batch.
        """
        with torch.enable_grad():
            logits = logits.double().requires_grad_()
            log_total.requires_grad_()
            value = self.of_entries(batch.entries, logits, log_total)
            pull, push = torch.autograd.grad(value.sum(), (logits, log_total))
        pull = map_values(pull.to, batch.counts)
        return value.detach(), pull, -push[:, None].to(pull.dtype)

    @property
    def given_total(self):
        """The likelihood of the words in order, given their number."""
        return self

    @abstractmethod
    def mean(self, logits):
        """E[x | logits]; of words given their number, their shares."""

    def next_word(self, batch, logits):
        """Probabilities of each row's next word, (n_rows, n_features)."""
        return logits.softmax(1)

    @abstractmethod
    def sample(self, logits, totals, generator):
        """Rows of logits as counts, an array, by a NumPy generator."""

    def initialize(self):
        """Set the parameters for the first pass."""


class Multinomial(CountLikelihood):
    """Words in order, each drawn in proportion to exp(logits)."""

    is_given_total = is_centered = is_linear = True

    def of_entries(self, x, logits, log_total):
        return multinomial(x, logits, log_total)

    def slopes(self, batch, logits, log_total):
        # Linear in both.
        value = self.of_entries(batch.entries, logits.double(), log_total)
        return value, batch.counts, batch.entries.totals[:, None].to(logits.dtype)

    def mean(self, logits):
        return logits.softmax(-1)

    def sample(self, logits, totals, generator):
        return _drawn_words(_array(self.mean(logits)), totals, generator)


class DirichletMultinomial(CountLikelihood):
    """Words in order out of a Polya urn, whose size is learnt."""

    is_given_total = is_centered = True

    def __init__(self):
        super().__init__()
        self.log_concentration = nn.Parameter(torch.zeros(()))

    def of_entries(self, x, logits, log_total):
        concentration = self.log_concentration.double()
        return dirichlet_multinomial(x, logits, log_total, concentration)

    def mean(self, logits):
        return logits.softmax(-1)

    def next_word(self, batch, logits):
        return _next_of_urn(batch, logits.log_softmax(1) + self.log_concentration)

    def sample(self, logits, totals, generator):
        size = self.log_concentration.double().exp().item()
        p = generator.gamma(_array(self.mean(logits)) * size)
        return _drawn_words(np.maximum(p, TINY), totals, generator)

    def initialize(self):
        self.log_concentration.data.fill_(np.log(CONCENTRATION_START))


class Poisson(CountLikelihood):
    """Independent counts with means exp(logits)."""

    def of_entries(self, x, logits, log_total):
        return poisson(x, logits, log_total)

    @property
    def given_total(self):
        return Multinomial()

    def mean(self, logits):
        return logits.exp()

    def sample(self, logits, totals, generator):
        return _drawn_counts(_array(self.mean(logits)), generator)


class NegativeBinomial(CountLikelihood):
    """Independent counts of sizes exp(logits), and odds that are learnt."""

    def __init__(self):
        super().__init__()
        self.log_odds = nn.Parameter(torch.zeros(()))

    def of_entries(self, x, logits, log_total):
        return negative_binomial(x, logits, log_total, self.log_odds.double())

    @property
    def given_total(self):
        return Urn()

    def mean(self, logits):
        return logits.exp() * self.log_odds.exp()

    def next_word(self, batch, logits):
        return _next_of_urn(batch, logits)

    def sample(self, logits, totals, generator):
        odds = self.log_odds.double().exp().item()
        return _drawn_counts(generator.gamma(_array(logits.exp()), odds), generator)


class Urn(CountLikelihood):
    """Words in order out of a Polya urn that has exp(logits) of each at first."""

    is_given_total = True

    def of_entries(self, x, logits, log_total):
        return dirichlet_multinomial(x, logits, log_total, log_total)

    def mean(self, logits):
        return logits.softmax(-1)

    def next_word(self, batch, logits):
        return _next_of_urn(batch, logits)

    def sample(self, logits, totals, generator):
        p = generator.gamma(_array(logits.exp()))
        return _drawn_words(np.maximum(p, TINY), totals, generator)


#: Likelihoods of counts by the name that the parameter ``likelihood`` takes.
LIKELIHOODS = {
    "multinomial": Multinomial,
    "dirichlet_multinomial": DirichletMultinomial,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}


def _next_of_urn(batch, log_sizes):
    """Shares of words in an urn with these words at first and those of the row."""
    words = log_sizes.exp()
    x = batch.entries
    words[x.rows, x.columns] += batch.counts.values()
    return words / words.sum(1, keepdim=True)


def _array(values):
    """Numbers in float64, as NumPy's generators need them."""
    return values.double().cpu().numpy()


def _drawn_words(p, totals, generator):
    """Numbers of words, given their totals, in proportion to ``p``."""
    return generator.multinomial(totals, p / p.sum(1, keepdims=True))


def _drawn_counts(means, generator):
    """Poisson counts."""
    return generator.poisson(np.minimum(means, LARGEST_MEAN))
