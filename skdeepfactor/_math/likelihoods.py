"""Log likelihoods of rows of counts, given logits of the features.

Each takes the entries of a batch, the logits at them, (..., n_entries), and the log of
the sum of exponentials of all logits of a row, (..., n_rows), in float64, and gives
nats, (..., n_rows). Nothing is asked of features that a row does not have.

They are linear or convex in each logit. The first two are decreasing in the log total;
the others, and their urns, are linear or convex in the total itself. So with expected
logits in the place of logits, and an upper bound on the expected log total (or, of the
others, the log of the expected total) in its place, they are lower bounds on the
expected log likelihood.
"""

from torch import lgamma
from torch.nn.functional import logsigmoid

# Concentrations below it would underflow; the row is then as good as impossible.
TINY = 1e-300

# Where a Poisson count is drawn, NumPy takes no larger mean.
LARGEST_MEAN = 1e18


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
    """A number as it is, or one a row as one an entry."""
    return value if value.dim() == 0 else x.of_rows(value)
