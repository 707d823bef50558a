r"""The solver by reparameterised gradients, for any family of posteriors.

The model is that of ``links.py`` and ``emissions.py``, of which nothing here needs to
be conjugate. Each factor and each weight y has a posterior of one of the families of
``families.py``, of two parameters. E[y], E[log y] and the entropy have closed forms in
all of them, so that of the bound

.. math::
    E \log p(x | z_1 W_0) + \sum_l \Big[ a_l E \log r_l - \log \Gamma(a_l) + (a_l - 1) E
    \log z_l - E[r_l] E[z_l] + H(z_l) \Big]
    - KL(W)

only the likelihood and the prior rates r_l, a_l / (z_{l+1} W_l) or z_{l+1} W_l, are
drawn; and with spikes the log density of the weights of every layer under W ~ pi_l
Gamma(c, d) + (1 - pi_l) Gamma(1, d').

**Wide weights.** Under a prior of small shape most weights have posteriors that are
much wider than their means, of which draws show the tail too rarely: steps then widen
them beyond what the bound allows, and a mean drowns in noise of a hundred times its
slope. In training, those of :math:`W_0` with a standard deviation above their mean,
but far below the feature's total, are not drawn. With m and s the mean and the variance
of z W over them,

.. math::
    E \log (zW)_v \approx \log m_v - \tfrac12 \log (1 + s_v / m_v^2),

exact for log-normals and to second order, likewise for binary data, and for real
numbers exactly. The bounds of ``lower_bound_`` and ``score`` draw all of them.

Where layers give means, gammas and Weibulls above the first have a shape of at least
1.2: up to 1, E[1/y] is infinite, and with it the divergence of a layer with one above.

**Rows.** Each row has posteriors of its own, which start from its counts and take a
step of Adam whenever the row is seen; the steps' moments are remembered with them. New
rows take some such steps, with noise that depends on the row alone. Or an
encoder gives them, ``amortized``: how far each is from where rows start, which is
from the counts alone, shared out by the mean weights a few times over.

Missing entries of a row are left out of its likelihood; the encoder sees the mean of
the feature there.

Ranganath, Gerrish and Blei (2014), Black box variational inference; Figurnov, Mohamed
and Mnih (2018), Implicit reparameterization gradients.
"""

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import logsigmoid, softplus

from skdeepfactor._estimator.row_inference import map_rows
from skdeepfactor._estimator.validation import check_layers
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.networks import N_TYPICAL, Layers
from skdeepfactor._math.noise import FreshNoise, KeyedNoise, Stream
from skdeepfactor._math.ops import (
    map_values,
    row_sum,
    split_double,
    transposed_products,
)
from skdeepfactor._math.row_steps import Moments, adam_step
from skdeepfactor._math.starts import column_moments, n_cold_passes
from skdeepfactor._training.optimizers import AnnealedAdam
from skdeepfactor._training.plan import TrainingPlan
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor.models.sparse_gamma_def.closed import trained_lowest
from skdeepfactor.models.sparse_gamma_def.emissions import EMISSIONS, positive
from skdeepfactor.models.sparse_gamma_def.families import FAMILIES
from skdeepfactor.models.sparse_gamma_def.links import LINKS
from skdeepfactor.models.sparse_gamma_def.lowest_weights import SPIKE_MEAN, SPIKE_SHAPE
from skdeepfactor.models.sparse_gamma_def.parts import Part

# Passes of closed forms before gradients; fewer if these make fewer.
N_CLOSED = 100

# Draws for scores.
N_DRAWS = 20

# How many layers have keyed noise of their own, of two streams each.
N_STREAMED, N_STREAMS = 64, 2

# Steps on new rows where closed forms take one, and their size at first.
PER_ITER, NEW_RATE = 10, 0.2

# Draws of upper units and weights in a step: reciprocals of their products vary much.
N_UPPER = 5

# Shape of upper units and weights at first: so that none is near 0.
START_SHAPE = 4.0

# Shapes of the lowest weights at first, and their least mean, as a share of that of
# their feature.
START_SHAPES, LEAST_MEAN = (0.05, 1e4), 1e-5

# Inputs of a network vary by less than this share of their length where rows are alike.
ALIKE = 1e-3

# How often counts are shared out for where rows start.
N_SHARINGS = 10

# Standard deviations of weights up to this share of a feature's total are small.
SMALL = 0.1

# Logarithms of numbers stay within this, those of spreads within what a family says,
# so that means are finite.
LOG_RANGE = (-60.0, 60.0)


class PathwiseBelief(FactorModule):
    """Data of a row from layers of gamma factors, by gradients.

    Local parameters of a row are two numbers of each unit, the moments of the steps
    taken on them, and how many there were.
    """

    def __init__(
        self,
        layer_sizes,
        n_features,
        *,
        emission,
        link,
        family,
        layer_shapes,
        top_rate,
        weight_shape,
        weight_rate,
        has_spikes,
        encoder_layers,
        learning_rate,
        inner_iter,
        may_miss=False,
    ):
        super().__init__()
        self.layer_sizes, self.layer_shapes = layer_sizes, layer_shapes
        self.emission, self.link, self.family = emission, link, family
        self.top_rate = top_rate
        self.weight_shape, self.weight_rate = weight_shape, weight_rate
        self.inner_iter, self.learning_rate = inner_iter, learning_rate
        # Updates before this training.
        self.n_before = 0
        self.may_miss = may_miss
        self.state_width = 2 * sum(layer_sizes)
        # Weights go by feature in the lowest layer, and by unit above it.
        shapes = [(n_features, layer_sizes[0])]
        shapes += [(above, below) for below, above in itertools.pairwise(layer_sizes)]
        self.weight_parameters = nn.ParameterList(torch.zeros(2, *s) for s in shapes)
        # A constant of the row, in two parts so as to lose no digits.
        self.local_width = 2
        self.encoder = None
        if encoder_layers is None:
            self.local_width += 3 * self.state_width + 1
        else:
            self.encoder = Layers([n_features, *encoder_layers, self.state_width])
            # Inputs are centred, and their length is 1: else all units of a layer move
            # with each other, in steps as large as the inputs are many.
            self.register_buffer("input_mean", torch.zeros(n_features))
            self.register_buffer("input_length", torch.ones(()))
            if may_miss:
                # Input of the encoder for a missing entry.
                self.register_buffer("center", torch.zeros(n_features))
        # Log odds of slabs, of each layer's weights.
        self.inclusion_logits = None
        if has_spikes:
            self.inclusion_logits = nn.Parameter(torch.zeros(len(layer_sizes)))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        self.generator = None
        # Standard error of the last bound that was found by Monte Carlo.
        self.lower_bound_std_error = 0.0

    @property
    def work_width(self):
        return max(3 * self.state_width, len(self.weight_parameters[0][0]))

    def begin(self, budget):
        super().begin(budget)
        self.n_before = int(self.n_updates)

    def seed(self, seed):
        device = self.n_updates.device
        self.generator = torch.Generator(device).manual_seed(seed)

    def initialize(self, X, weights, mean, shape, uppers, random_state):
        """Start from means and shapes of the lowest weights, (k, n_features).

        ``weights`` say how often each row of X counts, ``uppers`` are the weights
        above.
        """
        mean = np.maximum(mean, LEAST_MEAN * mean.mean(axis=0))
        shape = np.clip(shape, *START_SHAPES)
        starts = [
            (mean.T, shape.T),
            *((w, np.full_like(w, START_SHAPE)) for w in uppers),
        ]
        for parameters, start in zip(self.weight_parameters, starts, strict=True):
            pair = self.family.of_mean(*(torch.from_numpy(v) for v in start))
            parameters.data.copy_(torch.stack(pair))
        self.emission.initialize(X, weights)
        if self.encoder is not None:
            if self.may_miss:
                self.center.copy_(torch.from_numpy(column_moments(X, weights)[0]))
            x = to_tensor(X, slice(N_TYPICAL), dtype=torch.float64, device="cpu")
            inputs = self._inputs(Batch.of(x, may_miss=self.may_miss))
            # Rows are distinct, and stand for as many as they weigh.
            shares = torch.from_numpy(weights[: len(x)] / weights[: len(x)].sum())
            parts = transposed_products(inputs, shares[:, None])
            mean = torch.cat([part for _, part in parts])[:, 0]
            self.input_mean.copy_(mean)
            square = float(shares @ row_sum(map_values(torch.square, inputs)))
            # Mean of the centred squares. For rows that are all alike it is near 0,
            # and carries no information on later rows.
            left = square - float(mean.square().sum())
            if left <= ALIKE**2 * square:
                left = square or 1.0
            self.input_length.fill_(left**0.5)
            generator = torch.Generator().manual_seed(random_state.randint(2**31 - 1))
            self.encoder.initialize(generator, input_scale=1.0, output_scale=0.01)

    # Posteriors.

    def _split(self, state):
        """Pairs of parameters of each layer, from the lowest."""
        widths = [size for size in self.layer_sizes for _ in range(2)]
        parts = state[:, : self.state_width].split(widths, 1)
        return list(map(self._bounded, range(len(widths)), parts[::2], parts[1::2]))

    def _weight_pairs(self):
        return [
            self._bounded(layer, *pair)
            for layer, pair in enumerate(self.weight_parameters)
        ]

    def _bounded(self, layer, first, second):
        """Parameters in the range of floating point and of the link."""
        second = second.clamp(*self.family.spread_range)
        least = self.family.least_log_shape
        if layer > 0 and self.link.divides and least is not None:
            # Smoothly, so that they can come back.
            second = least + softplus(second - least)
        return first.clamp(*LOG_RANGE), second

    def weights(self):
        """Posterior means of the weights, (units, units or features below)."""
        lowest, *uppers = (self.family.mean(*pair) for pair in self._weight_pairs())
        return [lowest.T, *uppers]

    @torch.no_grad()
    def _cold(self, batch):
        """Where posteriors start: counts of rows, shared out by the mean weights."""
        lowest, *uppers = self.weights()
        mean, shape = self.emission.cold(
            batch, lowest.T, self.layer_shapes[0], N_SHARINGS
        )
        parts = [*self.family.of_mean(mean, shape.clamp(0.5, 1e4))]
        for weights in uppers:
            mean = self.link.cold_mean(mean, weights)
            parts += self.family.of_mean(mean, torch.full_like(mean, START_SHAPE))
        return torch.cat(parts, 1)

    def _amortized(self, batch):
        inputs = map_values(lambda v: v / self.input_length, self._inputs(batch))
        center = self.input_mean / self.input_length
        return self._cold(batch) + self.encoder(inputs, center=center)

    def _inputs(self, batch):
        """Inputs of an encoder for rows."""
        x = batch.x
        if batch.observed is not None:
            x = x + (1 - batch.observed) * self.center
        return map_values(lambda values: values.relu().log1p(), x)

    def _solve(self, batch, start=None):
        """Parameters of the posteriors of rows."""
        if self.encoder is not None:
            return self._amortized(batch)
        if start is not None:
            return start[:, : self.state_width]
        draws = itertools.cycle(self._drawn_weights())
        streams = itertools.count(Stream.REFINEMENT)

        def next_draw():
            return next(draws), _keyed(batch.keys, next(streams))

        return self._refined(batch, next_draw)[0]

    def _refined(self, batch, next_draw):
        """Where steps from a cold start lead rows, and the moments of the steps.

        ``next_draw()`` gives the weights and the noise of a step.
        """
        state = self._cold(batch)
        moments, n_steps = Moments.none(state), PER_ITER * self.inner_iter
        for step in range(n_steps):
            weights, noise = next_draw()
            state = state.detach().requires_grad_()
            weights = [w.detach() for w in weights]
            with torch.enable_grad():
                bounds = self._row_bounds(batch, state, weights, noise)
                (slope,) = torch.autograd.grad(bounds.sum(), state)
            rate = NEW_RATE * _annealed(step / n_steps)
            state, moments = adam_step(state.detach(), moments, slope, rate)
        return state, moments

    def posterior(self, batch, start=None):
        state = self._solve(batch, start)
        posterior = self.family.distribution(*self._split(state)[0])
        posterior.state = state
        return posterior

    def features(self, batch, layers):
        """Posterior means of the units of some layers, side by side."""
        pairs = self._split(self._solve(batch))
        return torch.cat([self.family.mean(*pairs[layer]) for layer in layers], 1)

    # Bounds.

    def _row_bounds(
        self, batch, state, weights, noise, given_total=False, variance=None
    ):
        """Bounds of rows, except the base, at drawn factors and weights; float64.

        ``noise(layer, like)`` is that of a layer; ``given_total`` and ``variance`` are
        those of ``Emission.drawn``.
        """
        pairs = self._split(state)
        z = [
            self.family.log_draw(*pair, noise(layer, pair[0])).exp()
            for layer, pair in enumerate(pairs)
        ]
        bounds = self.emission.drawn(
            batch, z[0][0], weights[0], variance=variance, given_total=given_total
        )
        for layer, (pair, alpha) in enumerate(
            zip(pairs, self.layer_shapes, strict=True)
        ):
            log_rate, constant = math.log(self.top_rate), -math.lgamma(alpha)
            rate = self.top_rate
            if layer + 1 < len(z):
                drawn = positive(z[layer + 1] @ weights[layer + 1])
                rate = self.link.rate(drawn, alpha)
                rate, log_rate = rate.mean(0), rate.log().mean(0)
            terms = alpha * log_rate + (alpha - 1) * self.family.mean_log(*pair)
            terms = terms - rate * self.family.mean(*pair) + self.family.entropy(*pair)
            bounds = bounds + (terms + constant).sum(1, dtype=torch.float64)
        return bounds

    def _scored(self, batch, state, **given):
        """Bounds of rows at each of the draws, (N_DRAWS, n_rows)."""
        keys = batch.keys
        return torch.stack(
            [
                self._row_bounds(
                    batch, state, weights, _keyed(keys, Stream.BOUND + draw), **given
                )
                for draw, weights in enumerate(self._drawn_weights())
            ]
        )

    def elbo(self, batch, q=None):
        state = self._solve(batch) if q is None else q.state
        return self._scored(batch, state).mean(0) + self._base(batch)

    def _base(self, batch):
        """Other terms of the bound of each row."""
        return self.emission.base(self.emission.constants(batch), batch)

    def word_bound(self, batch):
        return self._scored(batch, self._solve(batch), given_total=True).mean(0)

    @torch.no_grad()
    def data_bound(self, batches):
        """The bound of all rows, each draw of which has weights of its own."""
        totals = torch.zeros(N_DRAWS, dtype=torch.float64)
        for batch, start in batches():
            base = self._base(batch).sum().cpu()
            state = self._solve(batch, start)
            totals += self._scored(batch, state).sum(1).cpu() + base
        totals -= float(self.global_kl())
        self.lower_bound_std_error = float(totals.std()) / math.sqrt(N_DRAWS)
        return float(totals.mean())

    def _drawn_weights(self):
        """Draws of all weights that scores are made with, the same each time."""
        if self._draws is None:
            generator = torch.Generator(self.n_updates.device).manual_seed(0)
            with torch.no_grad():
                self._draws = [self._fresh_weights(generator) for _ in range(N_DRAWS)]
        return self._draws

    def _fresh_weights(self, generator, n_draws=1):
        """A draw of the lowest weights, and ``n_draws`` of those above."""
        lowest, *uppers = self._weight_pairs()
        return [
            self._fresh(*lowest, 1, generator)[0],
            *(self._fresh(*pair, n_draws, generator) for pair in uppers),
        ]

    def _fresh(self, first, second, n_draws, generator):
        noise = FreshNoise(first, n_draws, generator)
        return self.family.log_draw(first, second, noise).exp()

    def global_kl(self):
        drawn = None
        if self.inclusion_logits is not None:
            drawn = self._drawn_weights()
        return self._weight_kl(drawn)

    def _weight_kl(self, drawn):
        """Divergence of all weights; with spikes, at some draws of them."""
        kl = 0.0
        for layer, pair in enumerate(self._weight_pairs()):
            log_prior = _gamma_log_density(
                self.family.mean(*pair),
                self.family.mean_log(*pair),
                self.weight_shape,
                self.weight_rate,
            )
            if self.inclusion_logits is not None:
                log_prior = self._mean_of_kinds(torch.logaddexp, layer, drawn)
            terms = -self.family.entropy(*pair) - log_prior
            kl = kl + terms.sum(dtype=torch.float64)
        return kl

    def _mean_of_kinds(self, function, layer, drawn):
        """The mean over draws of a function of the densities of slab and spike."""
        values = [function(*self._kinds(layer, weights[layer])) for weights in drawn]
        # Upper weights have several draws each.
        return sum(v if layer == 0 else v.mean(0) for v in values) / len(values)

    def _kinds(self, layer, weights):
        """Log densities of weights with that they are of the slab, or of the spike."""
        w, logit = positive(weights), self.inclusion_logits[layer]
        slab = self.weight_shape, self.weight_rate
        rate = self.weight_rate / self.weight_shape * SPIKE_SHAPE / SPIKE_MEAN
        return [
            logsigmoid(sign * logit) + _gamma_log_density(w, w.log(), *prior)
            for sign, prior in ((1, slab), (-1, (SPIKE_SHAPE, rate)))
        ]

    @torch.no_grad()
    def inclusion_probabilities(self):
        """Posterior probabilities of slabs, like ``weights()``; None without spikes."""
        if self.inclusion_logits is None:
            return None
        drawn = self._drawn_weights()
        lowest, *uppers = (
            self._mean_of_kinds(lambda slab, spike: (slab - spike).sigmoid(), n, drawn)
            for n in range(len(self.layer_sizes))
        )
        return [lowest.T, *uppers]

    # The face of the module.

    def noise_variance(self):
        """Variance of Gaussian noise, a float; None for other data."""
        return self.emission.noise_variance()

    @torch.no_grad()
    def decode(self, z):
        return self.emission.decode(z @ self.weights()[0])

    @torch.no_grad()
    def components(self):
        return self.weights()[0]

    @torch.no_grad()
    def sample(self, totals, generator):
        size = (len(totals), self.layer_sizes[-1])
        z = generator.gamma(self.layer_shapes[-1], 1 / self.top_rate, size)
        lowest, *uppers = (weights.cpu().numpy() for weights in self.weights())
        for alpha, weights in zip(self.layer_shapes[-2::-1], uppers[::-1], strict=True):
            z = self.link.sample(z @ weights, alpha, generator)
        return self.emission.sample(z @ lowest, generator)

    # Learning.

    def backward(self, batch, n_samples, start=None):
        emission, noise = self.emission, self._fresh_noise
        constants = (
            split_double(emission.constants(batch)) if start is None else start[:, -2:]
        )
        constants = constants.to(batch.x.dtype)
        weights = self._fresh_weights(self.generator, N_UPPER)
        moments = None
        if self.encoder is not None:
            state = self._amortized(batch)
        elif start is None:
            state, moments = self._refined(batch, lambda: (weights, noise))
        else:
            state, moments = self._recalled(start)
        if moments is not None:
            state = state.detach().requires_grad_()
        expanded, variance = self._expanded(weights)
        bounds = self._row_bounds(batch, state, expanded, noise, variance=variance)
        base = emission.base(constants.detach().double().sum(1), batch)
        bounds = bounds + base
        kl = self._weight_kl([weights]) * (batch.share / n_samples)
        (kl - batch.weight * bounds.sum()).backward()
        if moments is None:
            return bounds.detach(), constants
        slope, rate = -state.grad / batch.weight, self._rate()
        state, moments = adam_step(state.detach(), moments, slope, rate)
        return bounds.detach(), self._remembered(state, moments, constants)

    def _rate(self):
        """The size of this update's steps on rows."""
        n_updates = self.n_updates.item() - self.n_before
        share = n_updates / self.n_total if self.n_total else 0.0
        return self.learning_rate * _annealed(share)

    def _recalled(self, local):
        """Parameters of rows, and the moments of the steps on them."""
        width = self.state_width
        state, first, second, n_steps, _ = local.split([width, width, width, 1, 2], 1)
        return state, Moments(first, second, n_steps)

    def _remembered(self, state, moments, constants):
        """Local parameters: these, and the constants of the rows."""
        n_steps = torch.zeros_like(state[:, :1]) + moments.n_steps
        return torch.cat([state, *moments[:2], n_steps, constants], 1)

    def _expanded(self, weights):
        """Drawn weights, or means of wide ones; and variances of these, else 0."""
        first, second = self._weight_pairs()[0]
        mean = self.family.mean(first, second)
        relative = self.family.relative_variance(second)
        variance = relative * mean.square()
        is_small = variance < (SMALL * mean.sum(1, keepdim=True)).square()
        is_wide = (relative > 1) & is_small
        lowest = torch.where(is_wide, mean, weights[0])
        return [lowest, *weights[1:]], torch.where(is_wide, variance, 0.0)

    def _fresh_noise(self, layer, like):
        return FreshNoise(like, N_UPPER if layer > 0 else 1, self.generator)

    def after_step(self):
        self.n_updates += 1
        self.refresh()

    def refresh(self):
        self._draws = None


def _gamma_log_density(mean, mean_log, shape, rate):
    """E of the log density of Gamma(shape, rate), given E[y] and E[log y]."""
    constant = shape * math.log(rate) - math.lgamma(shape)
    return (shape - 1) * mean_log - rate * mean + constant


def _keyed(keys, stream):
    """Noise of each layer, from the rows' keys."""

    def noise(layer, like):
        return KeyedNoise(like, 1, keys, N_STREAMS * (N_STREAMED * stream + layer))

    return noise


def _annealed(share):
    """By how much steps are shorter after a share of them."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class Gradient(Part):
    """Gradients, after closed forms for the lowest layer unless it has spikes."""

    takes_weights = False

    def build(self, model, n_features, layer_sizes, layer_shapes):
        encoder_layers = None
        if model.amortized:
            check_layers("encoder_layers", model.encoder_layers)
            encoder_layers = tuple(model.encoder_layers)
        return PathwiseBelief(
            layer_sizes,
            n_features,
            emission=EMISSIONS[model.likelihood](by_gradients=True),
            link=LINKS[model.link](),
            family=FAMILIES[model.family],
            layer_shapes=layer_shapes,
            top_rate=model.top_rate,
            weight_shape=model.weight_shape,
            weight_rate=model.weight_rate,
            has_spikes=model.weight_prior == "spike_slab",
            encoder_layers=encoder_layers,
            learning_rate=model.learning_rate,
            inner_iter=model.max_inner_iter,
            may_miss=model._may_miss,
        )

    def initialize(self, model, module, start):
        level, counts = start.level, start.counts
        mean = np.maximum(counts / (start.weights.sum() * level), 1e-3 * level)
        lowest = mean, np.maximum(model.weight_shape + counts, 0.5)
        activity = start.activity
        # Closed forms without spikes would lead away from them.
        if module.inclusion_logits is None:
            closed = self._closed(model, module, start)
            if not _takes_all_for_noise(closed, start):
                lowest, activity = _found(closed, start)
        uppers = start.uppers(module.layer_sizes[1:], activity)
        module.initialize(start.X, start.weights, *lowest, uppers, start.random_state)

    def _closed(self, model, module, start):
        """The lowest layer alone: gradients would go there in many small steps."""
        return trained_lowest(
            EMISSIONS[model.likelihood](),
            start,
            layer_shape=module.layer_shapes[0],
            top_rate=model.top_rate,
            weight_shape=model.weight_shape,
            weight_rate=model.weight_rate,
            may_miss=module.may_miss,
            n_passes=min(N_CLOSED, model.max_iter),
            device=model.device,
        )

    def plan(self, model, module, budget):
        names = dict(module.named_parameters())
        of_network = [name for name in names if name.startswith("encoder.")]
        rates = dict.fromkeys(names, model.learning_rate)
        rates |= dict.fromkeys(of_network, model.learning_rate / 20)
        groups = [{"params": [names[n]], "lr": rates[n]} for n in names]
        # Bounds of single draws say little of whether training is done.
        return TrainingPlan(
            AnnealedAdam(groups, budget.n_updates),
            n_cold=n_cold_passes(model.n_cold_iter, model.init, model.max_iter, False),
            n_warmup=budget.n_passes or 0,
        )


GRADIENT = Gradient()


def _takes_all_for_noise(closed, start):
    """Whether a trained layer takes the data for noise around nothing.

    So numbers may be far above those that the priors expect. The weights are then those
    of the priors, and units would have to be as large.
    """
    noise = closed.noise_variance()
    if noise is None or float(closed.components().mean()) >= start.level:
        return False
    _, std = column_moments(start.X, start.weights)
    return noise >= np.mean(std**2)


def _found(closed, start):
    """Means and shapes of the weights of a trained layer, and its units, as arrays."""
    lowest = closed.lowest.weight_mean, closed.lowest.weight_concentration
    rows = map_rows(
        closed, MatrixRows(start.X), lambda m, batch: m.features(batch, [0])
    )
    pair = [values.cpu().numpy().astype(np.float64).T for values in lowest]
    return pair, np.concatenate(list(rows))
