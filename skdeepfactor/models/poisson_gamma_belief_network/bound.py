"""Bounds of rows of a Poisson-gamma belief network, given the weights of all layers.

The posterior is drawn from the top down: rates, and units given those above. Its form
is that of a sweep, with expected tokens in the place of tokens:

    q(units | units above) = Gamma(shapes + tokens, rate + exposure).

Any positive numbers of tokens make a bound; those of mean-field updates make a close
one, from the means of a chain on.
"""

import math

import numpy as np
import torch

from skdeepfactor._math.allocation import Weights, allocate
from skdeepfactor._math.gammas import gamma_shapes, scaled_exp
from skdeepfactor._math.noise import GAMMA_STREAMS, keyed_log_gamma
from skdeepfactor._math.ops import map_values, product_at, row_sum
from skdeepfactor._math.tokens import LEAST_ODDS
from skdeepfactor.models.poisson_gamma_belief_network.rows import (
    LEAST_SHAPE,
    PROBABILITY_PRIOR,
    STREAMS_OF_LAYER,
)

#: Rounds of mean-field updates of the tokens.
N_ROUNDS = 20
#: Draws of the prior of a row's total, where upper layers leave it no closed form.
TOTAL_DRAWS = 2000


def expected_tokens(layers, x, q):
    """Expected tokens of the units of each layer by mean-field updates, from a chain's.

    A list of tensors, (n_rows, n_units), float64. ``q`` is a ``ChainPosterior``.
    """
    counts = list(q.counts)
    weights = layers.weights[0]
    weights = Weights(weights, torch.zeros_like(weights[:, 0]))
    rates = [None, *(moments[:, :1] for moments in q.rate_moments)]
    for _ in range(N_ROUNDS):
        shapes, above = [], None
        for layer in reversed(range(layers.n_layers)):
            shape = layers.shapes(layer, above).expand_as(counts[layer])
            shapes.insert(0, shape)
            if layer > 0:
                above = (shape + counts[layer]) / (rates[layer] + q.exposures[layer])
        for layer, shape in enumerate(shapes):
            mean_log = torch.digamma(shape + counts[layer])
            if layer == 0:
                allocation = allocate(x, mean_log.to(x.dtype), weights)
                counts[0] = allocation.row_counts(weights).double()
            else:
                odds, _ = scaled_exp(mean_log, 1)
                by_below = layers.weights[layer].double()
                seated = expected_tables(counts[layer - 1], shapes[layer - 1])
                ratio = seated / (odds @ by_below.T).clamp_min(LEAST_ODDS)
                counts[layer] = odds * (ratio @ by_below)
    return counts


def expected_tables(counts, shape):
    """Tables of expected tokens, never more than these.

    To first order, of counts that are Poisson variables: those that are not 0 have the
    mean n / (1 - e^-n). Teh, Kurihara and Welling (2007), Collapsed variational
    inference for HDP.
    """
    share = -torch.expm1(-counts.clamp_min(1e-12))
    mean = counts / share
    return shape * share * (torch.digamma(shape + mean) - torch.digamma(shape))


def log_likelihood(x, units, layers):
    """Log p(x | units), less the logarithms of factorials, float64, (n_rows,)."""
    largest = units.amax(1, keepdim=True).clamp_min(1e-300)
    odds = (units / largest).clamp_min(LEAST_ODDS).to(x.dtype)
    products = product_at(x, odds, layers.weights[0].T)
    terms = map_values(lambda n, p: n.double() * p.double().log(), x, products)
    scale = row_sum(x) * largest[:, 0].log()
    return row_sum(terms) + scale - units.sum(1)


def log_ratio(layers, x, q, counts, keys, stream):
    """Log p(x, units, rates) - log q of a draw from q, without the factorials.

    With g = b theta, where b is the rate of a unit under q, all that is large cancels:
    shapes that are almost 0 make logarithms of units almost -infinity.
    """
    totals, result, above = row_sum(x), 0, None
    for layer in reversed(range(layers.n_layers)):
        first = stream + layer * STREAMS_OF_LAYER
        shape = layers.shapes(layer, above).expand(len(totals), -1)
        if layer == 0:
            rate = _lowest_rate(totals, shape.sum(1), keys, first + GAMMA_STREAMS)
        else:
            rate = _rate(q.rate_moments[layer - 1], keys, first + GAMMA_STREAMS)
        log_rate, ratio_of_rate = rate
        log_sum = torch.logaddexp(log_rate, q.exposures[layer].log())
        log_draws = keyed_log_gamma(shape + counts[layer], keys, stream=first)
        above = (log_draws - log_sum).exp()
        # Of -c theta + b theta, the exposure times theta is left.
        terms = torch.lgamma(shape + counts[layer]) - torch.lgamma(shape)
        terms -= counts[layer] * log_draws
        terms += shape * (log_rate - log_sum) + q.exposures[layer] * above
        result = result + terms.sum(1) + ratio_of_rate
    return result + log_likelihood(x, above, layers)


def _lowest_rate(totals, shapes, keys, stream):
    """Logarithm of (1 - p) / p drawn from q, and log p - log q of it."""
    parameters = PROBABILITY_PRIOR + torch.stack([shapes, totals], 1)
    logs = [
        keyed_log_gamma(p[:, None], keys, stream=stream + i * GAMMA_STREAMS)
        for i, p in enumerate(parameters.T)
    ]
    log_rate = logs[0] - logs[1]
    prior = torch.full_like(parameters, PROBABILITY_PRIOR)
    # Logarithms of 1 - p and of p.
    softplus = torch.logaddexp(log_rate, torch.zeros_like(log_rate))
    powers = torch.cat([log_rate - softplus, -softplus], 1)
    ratio = _log_beta(parameters) - _log_beta(prior)
    return log_rate, ratio + ((prior - parameters) * powers).sum(1)


def _rate(moments, keys, stream):
    """Logarithm of a rate drawn from a gamma of these moments, and log p - log q."""
    mean, mean_log = moments.T
    a = gamma_shapes(mean.log() - mean_log)
    b = a / mean
    log_rate = keyed_log_gamma(a[:, None], keys, stream=stream) - b.log()[:, None]
    rate = log_rate[:, 0].exp()
    log_q = a * b.log() - torch.lgamma(a) + (a - 1) * log_rate[:, 0] - b * rate
    return log_rate, -rate - log_q


def prior_totals(top_shape, n_layers):
    """Draws of the sum of the shapes of a row's lowest units, from the prior.

    A single number, without draws, for one layer.
    """
    generator = np.random.default_rng(0)
    total = top_shape.double().sum().clamp_min(LEAST_SHAPE).cpu().numpy()
    if n_layers > 1:
        total = np.full(TOTAL_DRAWS, total)
    for _ in range(n_layers - 1):
        # The sum of gamma variables of one rate is one of the sum of their shapes.
        rates = generator.gamma(1.0, size=TOTAL_DRAWS)
        total = generator.gamma(total) / np.maximum(rates, LEAST_SHAPE)
        total = np.maximum(total, LEAST_SHAPE)
    return torch.from_numpy(np.atleast_1d(total))


def log_probability_of_totals(totals, shapes):
    """Logarithm of the probability of the sum of a row, float64, (n_rows,).

    ``shapes`` are ``prior_totals``: given one of them, the sum of a row is negative
    binomial, with a beta prior of its probability.
    """
    values, places = totals.unique(return_inverse=True)
    n, s = values[:, None], shapes.to(totals)[None]
    logs = torch.lgamma(n + s) - torch.lgamma(s) - torch.lgamma(n + 1)
    both = torch.stack(torch.broadcast_tensors(n, s), -1) + PROBABILITY_PRIOR
    logs += _log_beta(both) - _log_beta(torch.full_like(both, PROBABILITY_PRIOR))
    logs = logs.logsumexp(1) - math.log(logs.shape[1])
    return logs[places]


def _log_beta(parameters):
    """Logarithm of the beta function of pairs in the last dimension."""
    return torch.lgamma(parameters).sum(-1) - torch.lgamma(parameters.sum(-1))
