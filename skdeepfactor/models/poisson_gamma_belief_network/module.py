r"""Poisson-gamma belief networks, by Gibbs sampling.

Rows n; layers t = 1 (at the data) to T (top), layer t with :math:`K_t` units:

.. math::
    x_n &\sim \text{Poisson}(\Phi_1 \theta_{1n}), \\
    \theta_{tn} &\sim \text{Gamma}(s_{tn}, c_{t+1,n}), \qquad
    s_{tn} = \Phi_{t+1} \theta_{t+1,n}, \quad s_{Tn} = r, \\
    \phi_{tk} &\sim \text{Dirichlet}(\eta), \qquad r_k \sim \text{Gamma}(1 / K_T, 1),

where the columns :math:`\phi_{tk}` of :math:`\Phi_t` sum to 1, the second parameter of
a gamma distribution is its rate, :math:`c_{2n} = (1 - p_n) / p_n` with
:math:`p_n \sim \text{Beta}(.01, .01)`, and :math:`c_{tn} \sim \text{Gamma}(1, 1)` for
t > 2. A layer gives the *shapes* of the units below it.

**Sampler.** A count is a sum of tokens of the units. Given the number :math:`n_{1k}` of
tokens of a lowest unit, with :math:`\theta_1` integrated out, the number of tables
:math:`l_{1k}` of a Chinese restaurant with concentration :math:`s_{1k}` and
:math:`n_{1k}` customers is Poisson with mean :math:`q_2 s_{1k} = q_2 (\Phi_2
\theta_2)_k`: tables are the counts of layer 2, and so on, with :math:`q_1 = 1`,
:math:`q_{t+1} = \log(1 + q_t / c_{t+1})`. A sweep draws, in this order,

.. math::
    \theta_t &\sim \text{Gamma}(s_t + n_t, c_{t+1} + q_t), \quad t = T, \ldots, 1, \\
    p &\sim \text{Beta}(.01 + \textstyle\sum_v x_v, .01 + \sum_k s_{1k})
        \text{ before } \theta_1, \qquad
    c_{t+1} \sim \text{Gamma}(1 + \textstyle\sum_k s_{tk}, 1 + \sum_k \theta_{tk}), \\
    z &\propto \Phi_{t,vk} \theta_{tk} \text{ for each token, giving } n_t,
        \quad l_t \text{ given } n_t, \qquad t = 1, \ldots, T, \\
    \phi_{tk} &\sim \text{Dirichlet}(\eta + \text{tokens of unit } k), \qquad
    r_k \sim \text{Gamma}(1/K_T + \textstyle\sum_n l_{Tnk}, 1 + \sum_n q_{T+1,n}).

Tokens of units and tables at the top, summed over rows, are the parameters of the
module, which a step replaces; the weights are drawn after it. The fitted weights are
means of the Dirichlet parameters' :math:`\eta + n`, normalised, over sweeps.

**Bound.** At fixed weights, a row has a structured posterior: top down,
:math:`q(\theta_t | \theta_{t+1}) = \text{Gamma}(s_t + \bar n_t, c_{t+1} + \bar q_t)`,
where :math:`\bar q_t` are means over a chain, :math:`\bar n_t` expected tokens by
mean-field updates that start from those of the chain, and :math:`s_t = \Phi_{t+1}
\theta_{t+1}`; with gammas of the chain's moments for the rates, and the beta above for
p. The mean of :math:`\log p(x, \theta, c) - \log q(\theta, c)` over draws from it
estimates, without bias, a lower bound of :math:`\log p(x)`; see ``bound.py``.

Zhou, Cong and Chen (2016), Augmentable gamma belief networks. JMLR 17.
"""

from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.distributions import Gamma

from skdeepfactor._math.allocation import (
    entry_shares,
    expected_counts,
    log_factorials,
    shares_of_counts,
)
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.noise import (
    GAMMA_STREAMS,
    Stream,
    keyed_log_gamma,
    mix,
)
from skdeepfactor._math.ops import row_sum
from skdeepfactor._math.tokens import (
    LEAST_ODDS,
    TokenParts,
    rounded,
    share_of_sweep,
)
from skdeepfactor.models.poisson_gamma_belief_network.bound import (
    expected_tokens,
    log_likelihood,
    log_probability_of_totals,
    log_ratio,
    prior_totals,
)
from skdeepfactor.models.poisson_gamma_belief_network.rows import (
    STREAMS_OF_LAYER,
    Layers,
    RowState,
    Units,
    drawn_tokens,
    drawn_units,
)

#: Sweeps over rows that training has not seen before, and does not remember.
COLD_SWEEPS = 10
#: Draws that a bound of a row averages; in that of all training rows fewer do.
BOUND_DRAWS, TRAINING_DRAWS = 20, 5
#: Sweeps over each row for the bound of the training data, which resume from the last.
LAST_SWEEPS = 10


class ChainPosterior(Gamma):
    """Units of the lowest layer, as gammas of the chain's means, and the chain itself.

    Attributes
    ----------
    means : list of Tensor, (n_rows, n_units)
        Posterior means of the units of each layer, the lowest first.
    counts, exposures : list of Tensor
        Means of the tokens of the units, and of what multiplies the units.
    rate_moments : list of Tensor, (n_rows, 2)
        Means of the rate of each layer but the lowest, and of its logarithm.
    """

    def __init__(self, means, counts, exposures, rate_moments):
        self.means, self.counts, self.exposures = means, counts, exposures
        self.rate_moments = rate_moments
        shape = (counts[0] + 1e-3).clamp_min(1e-3)
        super().__init__(shape, shape / means[0].clamp_min(1e-300), validate_args=False)

    @property
    def mean(self):
        return self.means[0]


class PoissonGammaLayers(FactorModule):
    """Layers of gamma units, each of which has the shapes of the units below it.

    ``counts_of_layer`` and ``top_tables`` are the statistics of the last step. Buffers
    ``drawn`` hold the weights and shapes that the next sweep is given, ``mean`` those
    that inference is given. Local parameters of a row are its ``RowState``.

    Parameters
    ----------
    layer_sizes : tuple of int
    n_features : int
    topic_word_prior : float
    n_burn_in : int
        Passes before weights are averaged.
    n_draws : int
        Sweeps over each new row that are averaged.
    """

    def __init__(
        self, layer_sizes, n_features, *, topic_word_prior, n_burn_in, n_draws
    ):
        super().__init__()
        self.layer_sizes, self.eta = layer_sizes, topic_word_prior
        self.n_burn_in, self.n_draws = n_burn_in, n_draws
        self.local_width = sum(layer_sizes) + len(layer_sizes)
        below = (n_features, *layer_sizes[:-1])
        shapes = list(zip(layer_sizes, below, strict=True))
        self.counts_of_layer = nn.ParameterList(torch.zeros(s) for s in shapes)
        self.top_tables = nn.Parameter(torch.zeros(layer_sizes[-1] + 1))
        for name in ("drawn", "mean"):
            for layer, shape in enumerate(shapes):
                self.register_buffer(f"{name}_{layer}", torch.zeros(shape))
            top = torch.full((layer_sizes[-1],), 1 / layer_sizes[-1])
            self.register_buffer(f"{name}_top", top)
        # Steps so far, those averaged, rows drawn for, and the seeds of draws.
        for name in ("n_steps", "n_kept", "n_rows", "row_seed", "global_seed"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._burn_in = 0

    @property
    def work_width(self):
        return 4 * self.local_width

    def begin(self, budget):
        super().begin(budget)
        if budget.n_passes is None:
            self._burn_in = None
        else:
            self._burn_in = self.n_burn_in * budget.n_updates // budget.n_passes

    def seed(self, seed):
        self.row_seed.fill_(seed)

    @torch.no_grad()
    def start(self, counts, seed):
        """Start from counts of each layer, (n_units, n_below), without noise."""
        self.global_seed.fill_(seed)
        for parameter, values in zip(self.counts_of_layer, counts, strict=True):
            parameter.copy_(torch.from_numpy(values))
        self._set_means()
        for layer in range(len(self.layer_sizes)):
            self._buffer("drawn", layer).copy_(self._buffer("mean", layer))

    # Rows.

    def posterior(self, batch, start=None):
        x = rounded(batch)
        tokens, totals = TokenParts(x), row_sum(x)
        layers, keys = self.average, batch.keys
        if start is None:
            state = self._cold(layers, tokens, keys)
            n_draws, n_burn_in = self.n_draws, max(1, self.n_draws // 4)
        else:
            state = RowState.of(layers, start)
            n_draws, n_burn_in = LAST_SWEEPS, 1
        sums = []
        for sweep in range(n_burn_in + n_draws):
            stream = self._stream(sweep + 1)
            units, state = drawn_units(layers, totals, state, keys, stream)
            if sweep >= n_burn_in:
                terms = self._moments(units, state)
                pairs = zip(sums or terms, terms, strict=True)
                sums = [a + b for a, b in pairs] if sums else terms
            state, _, _ = drawn_tokens(layers, tokens, units, state, keys, stream)
        parts = [part / n_draws for part in sums]
        n = len(self.layer_sizes)
        return ChainPosterior(
            parts[:n], parts[n : 2 * n], parts[2 * n : 3 * n], parts[3 * n :]
        )

    def elbo(self, batch, q=None):
        q = self.posterior(batch) if q is None else q
        x = rounded(batch)
        layers, keys = self.average, batch.keys
        counts = expected_tokens(layers, x, q)
        n_draws = TRAINING_DRAWS if self.training else BOUND_DRAWS
        streams = (Stream.BOUND + draw * self._n_streams for draw in range(n_draws))
        ratios = [log_ratio(layers, x, q, counts, keys, first) for first in streams]
        return sum(ratios) / n_draws - log_factorials(x)

    def word_bound(self, batch):
        x = rounded(batch)
        totals = row_sum(x)
        # The probability of the words in order, given their number, is that of the
        # counts over that of their sum, and over the number of orders.
        orders = torch.lgamma(totals + 1) - log_factorials(x)
        log_p = log_probability_of_totals(totals, self._prior_totals)
        return self.elbo(batch) - log_p - orders

    def features(self, batch, layers):
        """Posterior means of the units of some layers, side by side."""
        means = self.posterior(batch).means
        return torch.cat([means[layer] for layer in layers], 1).to(self.mean_0)

    def predictive(self, batch):
        """Probabilities of the next word of each row, (n_rows, n_features)."""
        means = self.posterior(batch).means[0]
        shares = means / means.sum(1, keepdim=True)
        return shares.to(self.mean_0) @ self.components()

    def row_shares(self, batch):
        """Shares of the lowest units in each row, (n_rows, n_units)."""
        weights = self.average.weights[0]
        return shares_of_counts(expected_counts(batch.x, self._odds(batch), weights))

    def word_shares(self, batch):
        """Shares of the lowest units in each entry, (n_entries, n_units)."""
        return entry_shares(batch.x, self._odds(batch), self.average.weights[0])

    def decode(self, z):
        return z @ self.components()

    def components(self):
        return self.mean_0

    def weights(self):
        """Weights of all layers, (n_units, n_below), the lowest first."""
        return [self._buffer("mean", t) for t in range(len(self.layer_sizes))]

    def sample(self, totals, generator):
        units = np.tile(self.mean_top.double().cpu().numpy(), (len(totals), 1))
        for layer in reversed(range(1, len(self.layer_sizes))):
            rates = generator.gamma(1.0, size=(len(totals), 1))
            units = generator.gamma(units) / np.maximum(rates, 1e-10)
            units = units @ self._buffer("mean", layer).double().cpu().numpy()
        # Given their total, the lowest units are in Dirichlet proportions.
        logs = keyed_log_gamma(
            torch.from_numpy(units).clamp_min(1e-10),
            torch.from_numpy(generator.integers(2**62, size=len(totals))),
            stream=0,
        )
        shares = logs.softmax(1).numpy()
        p = shares @ self.components().double().cpu().numpy()
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    @cached_property
    def _prior_totals(self):
        return prior_totals(self.mean_top, len(self.layer_sizes))

    def _odds(self, batch):
        """Posterior means of the lowest units, of which each row's largest is 1."""
        means = self.posterior(batch).means[0]
        odds = means / means.amax(1, keepdim=True)
        return odds.clamp_min(LEAST_ODDS).to(self.mean_0)

    # Training.

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        x = rounded(batch)
        tokens, totals = TokenParts(x), row_sum(x)
        layers = self.current
        if start is None:
            state = self._cold(layers, tokens, self._fresh_keys(len(batch)))
            n_sweeps = COLD_SWEEPS
        else:
            state, n_sweeps = RowState.of(layers, start), 1
        for _ in range(n_sweeps):
            keys = self._fresh_keys(len(batch))
            units, state = drawn_units(layers, totals, state, keys, 0)
            state, of_weights, top = drawn_tokens(layers, tokens, units, state, keys, 0)
        scale = -batch.weight * n_samples
        for parameter, counts in zip(self.counts_of_layer, of_weights, strict=True):
            self.gradient(parameter).add_(counts.T.to(parameter), alpha=scale)
        exposure = state.exposures()[-1].sum()
        statistics = torch.cat([top.sum(0), exposure[None]])
        self.gradient(self.top_tables).add_(statistics.to(x.dtype), alpha=scale)
        bounds = log_likelihood(x, units.draws[0], layers)
        return bounds - log_factorials(x), state.local(x.dtype)

    @torch.no_grad()
    def after_step(self):
        self.n_steps += 1
        first = Stream.GLOBAL + self.n_steps.item() * self._n_streams
        for layer, counts in enumerate(self.counts_of_layer):
            keys = torch.arange(len(counts), device=counts.device)
            keys = mix(keys * 2**32 + self.global_seed)
            logs = keyed_log_gamma(
                self.eta + counts, keys, stream=first + layer * STREAMS_OF_LAYER
            )
            drawn = logs.softmax(1).clamp_min_(LEAST_ODDS)
            self._buffer("drawn", layer).copy_(drawn)
        shape, rate = self._top_posterior()
        logs = keyed_log_gamma(shape[None], keys[:1], stream=first + 2 * GAMMA_STREAMS)
        self.drawn_top.copy_(logs[0].exp() / rate)
        self._set_means()
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self.current, self.average = (
            Layers(
                [
                    self._buffer(name, layer).T.contiguous()
                    for layer in range(len(self.layer_sizes))
                ],
                self._buffer(name, "top"),
            )
            for name in ("drawn", "mean")
        )
        vars(self).pop("_prior_totals", None)

    def _buffer(self, name, layer):
        return getattr(self, f"{name}_{layer}")

    def _top_posterior(self):
        """Shape and rate of the conditional posterior of r."""
        tables = self.top_tables.double()
        return 1 / self.layer_sizes[-1] + tables[:-1], 1 + tables[-1]

    def _set_means(self):
        """Take the conditional means of this step into the averages.

        Before averages are taken, and in a stream, whose statistics are averages
        themselves, they are those of the last step.
        """
        share = share_of_sweep(self.n_kept, self.n_steps, self._burn_in)
        for layer, counts in enumerate(self.counts_of_layer):
            mean = counts.double() + self.eta
            mean /= mean.sum(1, keepdim=True)
            average = self._buffer("mean", layer)
            average.lerp_(mean.to(average), share)
        shape, rate = self._top_posterior()
        self.mean_top.lerp_((shape / rate).to(self.mean_top), share)

    # Sweeps.

    @property
    def _n_streams(self):
        return len(self.layer_sizes) * STREAMS_OF_LAYER

    def _stream(self, sweep):
        return Stream.CHAIN + sweep * self._n_streams

    def _fresh_keys(self, n_rows):
        """Keys of the noise of rows in a sweep of training, which never come again."""
        numbers = torch.arange(n_rows, device=self.n_rows.device) + self.n_rows
        self.n_rows += n_rows
        return mix(mix(numbers) + self.row_seed)

    def _cold(self, layers, tokens, keys):
        """State of rows whose units are at the means of their prior."""
        n_rows = tokens.shape[0]
        state, shapes, above = RowState.even(layers, n_rows), [], None
        for layer in reversed(range(layers.n_layers)):
            above = layers.shapes(layer, above).expand(n_rows, -1)
            shapes.insert(0, above)
        units = Units(shapes, shapes, state.counts, state.rates)
        return drawn_tokens(layers, tokens, units, state, keys, self._stream(0))[0]

    def _moments(self, units, state):
        """Terms that a chain averages: means, tokens, exposures, gammas of rates."""
        of_rates = []
        for shapes, draws in zip(units.shapes[1:], units.draws[1:], strict=True):
            a, b = 1 + shapes.sum(1), 1 + draws.sum(1)
            of_rates.append(torch.stack([a / b, torch.digamma(a) - b.log()], 1))
        return [*units.means(), *units.counts, *state.exposures()[:-1], *of_rates]
