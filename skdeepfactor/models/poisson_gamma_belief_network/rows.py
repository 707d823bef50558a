"""Gibbs sweeps over the units of rows, given the weights of all layers.

The state of a row between two sweeps is how many tokens each unit of each layer has,
and the rates of the layers. A sweep draws the units from the top down given these, and
then the tokens from the bottom up given the units.
"""

from typing import NamedTuple

import torch

from skdeepfactor._math.noise import GAMMA_STREAMS, keyed_log_gamma
from skdeepfactor._math.tokens import LEAST_ODDS, Tokens, allocate_tokens, tables

#: Beta prior of the probability p_2 of rows, both parameters.
PROBABILITY_PRIOR = 0.01
#: Logarithm of the largest rate of the lowest units, and minus that of the smallest:
#: rates of rows without tokens would leave the numbers of float32.
MOST_LOG_RATE = 30.0
#: Shapes below this are taken to be this: where a unit above has underflowed.
LEAST_SHAPE = 1e-10

# Streams of a layer in a sweep: its units, its rate (two draws), its tokens and tables.
UNITS, RATES, TOKENS, TABLES = 0, GAMMA_STREAMS, 3 * GAMMA_STREAMS, 124
STREAMS_OF_LAYER = 128


class Layers(NamedTuple):
    """Weights of all layers, as sweeps read them.

    ``weights`` has, for each layer, the lowest first, the weights of its units in those
    below, (n_below, n_units), whose columns sum to 1; ``top_shape``, (n_top,), the
    shapes of the top units.
    """

    weights: list
    top_shape: torch.Tensor

    @property
    def n_layers(self):
        """Number of layers."""
        return len(self.weights)

    def shapes(self, layer, units):
        """Shapes of the units of a layer, (n_rows, n_units), float64.

        ``units`` are those of the layer above, unless it is the top.
        """
        if layer == self.n_layers - 1:
            return self.top_shape.double().clamp_min(LEAST_SHAPE)[None]
        shapes = units @ self.weights[layer + 1].double().T
        return shapes.clamp_min_(LEAST_SHAPE)


class RowState(NamedTuple):
    """Tokens of the units of each layer, (n_rows, n_units), and rates, (n_rows, 1).

    Those of the lowest layer come first; all are float64.
    """

    counts: list
    rates: list

    @classmethod
    def even(cls, layers, n_rows):
        """A state without tokens."""
        like = layers.top_shape.double()
        counts = [like.new_zeros(n_rows, w.shape[1]) for w in layers.weights]
        return cls(counts, [like.new_ones(n_rows, 1) for _ in layers.weights])

    @classmethod
    def of(cls, layers, local):
        """The state that is remembered of rows, (n_rows, width)."""
        sizes = [w.shape[1] for w in layers.weights]
        parts = local.double().split([*sizes, *[1] * len(sizes)], 1)
        return cls(list(parts[: len(sizes)]), list(parts[len(sizes) :]))

    def local(self, dtype):
        """Numbers to remember, (n_rows, width)."""
        return torch.cat([*self.counts, *self.rates], 1).to(dtype)

    def exposures(self):
        """Factors of the units of each layer in the means of its tokens.

        Those of the tables of the top layer come last. Each is (n_rows, 1).
        """
        exposures = [torch.ones_like(self.rates[0])]
        for rate in self.rates:
            exposures.append((exposures[-1] / rate).log1p())
        return exposures


class Units(NamedTuple):
    """Units that a sweep has drawn, their shapes, and what they were drawn from.

    Lists by layer, of (n_rows, n_units), float64: given the state, the units are gamma
    variables of shapes ``shapes + counts`` and rates ``rates``, (n_rows, 1).
    """

    draws: list
    shapes: list
    counts: list
    rates: list

    def means(self):
        """E[units | state] of each layer."""
        given = zip(self.shapes, self.counts, self.rates, strict=True)
        return [(s + n) / rate for s, n, rate in given]

    def some(self, rows):
        """Units of some rows, a slice."""
        return Units(*([part[rows] for part in parts] for parts in self))


def drawn_units(layers, totals, state, keys, stream):
    """Draw units from the top down, and rates; the units and a state with new rates.

    The rate of the lowest layer, (1 - p_2) / p_2, is drawn with the units of that layer
    integrated out, and the other rates given the units.
    """
    exposures = state.exposures()
    n_layers, n_rows = layers.n_layers, len(totals)
    draws, shapes, posterior_rates = ([None] * n_layers for _ in range(3))
    rates = list(state.rates)
    above = None
    for layer in reversed(range(n_layers)):
        first = stream + layer * STREAMS_OF_LAYER
        shape = layers.shapes(layer, above).expand(n_rows, -1)
        if layer == 0:
            rates[0] = _lowest_rate(totals, shape, keys, first + RATES)
        rate = rates[layer] + exposures[layer]
        log_draws = keyed_log_gamma(
            shape + state.counts[layer], keys, stream=first + UNITS
        )
        above = log_draws.exp_().div_(rate)
        draws[layer], shapes[layer], posterior_rates[layer] = above, shape, rate
    for layer in range(1, n_layers):
        sums = shapes[layer].sum(1, keepdim=True), draws[layer].sum(1, keepdim=True)
        first = stream + layer * STREAMS_OF_LAYER
        log_rate = keyed_log_gamma(1 + sums[0], keys, stream=first + RATES)
        rates[layer] = log_rate.exp() / (1 + sums[1])
    units = Units(draws, shapes, state.counts, posterior_rates)
    return units, RowState(state.counts, rates)


def _lowest_rate(totals, shapes, keys, stream):
    """Draw (1 - p) / p, for p ~ Beta(prior + totals, prior + sum of shapes)."""
    parameters = shapes.sum(1, keepdim=True), totals[:, None]
    logs = [
        keyed_log_gamma(PROBABILITY_PRIOR + p, keys, stream=stream + i * GAMMA_STREAMS)
        for i, p in enumerate(parameters)
    ]
    return (logs[0] - logs[1]).clamp_(-MOST_LOG_RATE, MOST_LOG_RATE).exp_()


def drawn_tokens(layers, parts, units, state, keys, stream):
    """Draw the units of all tokens from the bottom up.

    ``parts`` are the ``TokenParts`` of the rows. The tables of the units of a layer are
    the tokens of the layer above.

    Returns
    -------
    state : RowState
    of_weights : list of Tensor, (n_below, n_units)
        Tokens of each unit and unit below, or feature, summed over the rows.
    top_tables : Tensor of shape (n_rows, n_top)
    """
    counts = [torch.zeros_like(rows) for rows in state.counts]
    of_weights = [torch.zeros_like(w, dtype=torch.float64) for w in layers.weights]
    top_tables = torch.zeros_like(counts[-1])
    for rows, tokens in parts:
        some = units.some(rows)
        for layer in range(layers.n_layers):
            of_rows, of_below, seated = _drawn_of_layer(
                layers, layer, tokens, some, keys[rows], stream
            )
            counts[layer][rows] = of_rows
            of_weights[layer] += of_below
            if layer + 1 < layers.n_layers:
                tokens = Tokens.of(seated)
        top_tables[rows] = seated
    return RowState(counts, state.rates), of_weights, top_tables


def _drawn_of_layer(layers, layer, tokens, units, keys, stream):
    """Tokens of the units of a layer, in rows and units below, and their tables."""
    first = stream + layer * STREAMS_OF_LAYER
    draws, weights = units.draws[layer], layers.weights[layer]
    # The odds of a row matter up to scale; in float32 they could all underflow.
    odds = draws / draws.amax(1, keepdim=True).clamp_min(1e-300)
    odds = odds.clamp_min_(LEAST_ODDS).to(weights.dtype)
    of_rows, of_below, _ = allocate_tokens(
        tokens, odds, weights, keys, stream=first + TOKENS
    )
    seated = tables(of_rows, units.shapes[layer], keys, stream=first + TABLES)
    return of_rows, of_below, seated
