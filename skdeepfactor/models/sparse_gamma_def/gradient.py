r"""Layers of gamma factors by reparameterised gradients, for any family of posteriors.

The model is that of ``layers.py`` and ``emissions.py``, of which nothing here needs to
be conjugate. Each factor and each weight y has a posterior of two numbers,

gamma, weibull
    log of the mean, log of the shape;
lognormal
    log of the mean, log of the standard deviation of log y,

and draws of log y that are differentiable functions of them: by the quantile function,
of gammas by that of shape + 1 (implicitly differentiated) and y_s = y_{s+1} u^{1/s}, so
that small shapes do not underflow. E[y], E[log y] and the entropy have closed forms in
all families, so that of the bound

.. math::
    E \log p(x | z_1 W_0) + \sum_l \Big[ a_l E \log r_l - \log \Gamma(a_l) + (a_l - 1) E
    \log z_l - E[r_l] E[z_l] + H(z_l) \Big]
    - KL(W)

only the likelihood and the prior rates r_l, a_l / (z_{l+1} W_l) or z_{l+1} W_l, are
drawn; and with spikes the log density of weights under W ~ pi Gamma(c,
d) + (1 - pi) Gamma(1, d').

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

What is missing of a row is left out of its likelihood; the encoder sees the mean of the
feature there.

Ranganath, Gerrish and Blei (2014), Black box variational inference; Figurnov, Mohamed
and Mnih (2018), Implicit reparameterization gradients.
"""

import itertools
import math

import numpy as np
import scipy.special
import torch
from torch import nn
from torch.distributions import Gamma, LogNormal, Weibull
from torch.nn.functional import logsigmoid, softplus

from skdeepfactor._math.allocation import (
    Weights,
    allocate,
    allocate_indicators,
    log_factorials,
)
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.networks import N_TYPICAL, Layers
from skdeepfactor._math.noise import keyed_uniform
from skdeepfactor._math.ops import (
    map_values,
    product,
    products_at_entries,
    row_sum,
    split_double,
    transposed_products,
)
from skdeepfactor._math.starts import column_moments
from skdeepfactor.models.sparse_gamma_def.emissions import (
    LARGEST_MEAN,
    NOISE_FLOOR,
    SPIKE_MEAN,
    SPIKE_SHAPE,
)

# Draws for scores, the first stream of their noise, and how fast the moments of steps
# fade.
N_DRAWS, SCORES, DECAY = 20, 10**6, (0.9, 0.99)

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

# Gammas of a shape up to 1 have no mean of 1/y.
LEAST_LOG_SHAPE = math.log(1.2)

EULER = 0.5772156649015329


class _GammaQuantiles(torch.autograd.Function):
    """Gamma variables of rate 1, made elsewhere, with their slope in the shape."""

    @staticmethod
    def forward(ctx, shape, draws):
        ctx.save_for_backward(shape, draws)
        return draws

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch._standard_gamma_grad(*ctx.saved_tensors), None


class GammaFamily:
    """Log of the mean, log of the shape."""

    spread_range = (-8.0, 16.0)

    @staticmethod
    def of_mean(mean, shape):
        """Parameters of a mean and about as much spread as a gamma of that shape."""
        return mean.log(), shape.log()

    @staticmethod
    def mean(first, second):
        return first.exp()

    @staticmethod
    def relative_variance(second):
        """That of y over the square of its mean."""
        return (-second).exp()

    @staticmethod
    def mean_log(first, second):
        return first + torch.digamma(second.exp()) - second

    @staticmethod
    def entropy(first, second):
        shape = second.exp()
        rest = torch.lgamma(shape) + (1 - shape) * torch.digamma(shape)
        return shape - second + first + rest

    @staticmethod
    def log_draw(first, second, noise):
        shape = second.exp()
        return noise.log_gamma(shape + 1) + noise.log_uniform() / shape + first - second

    @staticmethod
    def distribution(first, second):
        shape = second.exp()
        return Gamma(shape, shape / first.exp(), validate_args=False)


class LogNormalFamily:
    """Log of the mean, log of the standard deviation of the logarithm."""

    spread_range = (-8.0, 2.0)

    @staticmethod
    def of_mean(mean, shape):
        return mean.log(), 0.5 * torch.log1p(1 / shape).log()

    @staticmethod
    def mean(first, second):
        return first.exp()

    @staticmethod
    def relative_variance(second):
        """That of y over the square of its mean."""
        return torch.expm1((2 * second).exp())

    @staticmethod
    def mean_log(first, second):
        return first - 0.5 * (2 * second).exp()

    @staticmethod
    def entropy(first, second):
        mean_log = LogNormalFamily.mean_log(first, second)
        return mean_log + second + 0.5 * math.log(2 * math.pi * math.e)

    @staticmethod
    def log_draw(first, second, noise):
        mean_log = LogNormalFamily.mean_log(first, second)
        return mean_log + second.exp() * noise.normal()

    @staticmethod
    def distribution(first, second):
        mean_log = LogNormalFamily.mean_log(first, second)
        return LogNormal(mean_log, second.exp(), validate_args=False)


class WeibullFamily:
    """Log of the mean, log of the shape."""

    spread_range = (-2.5, 8.0)

    @staticmethod
    def of_mean(mean, shape):
        return mean.log(), 0.5 * shape.log()

    @staticmethod
    def mean(first, second):
        return first.exp()

    @staticmethod
    def log_scale(first, second):
        return first - torch.lgamma(1 + (-second).exp())

    @staticmethod
    def relative_variance(second):
        """That of y over the square of its mean."""
        power = (-second).exp()
        return torch.expm1(torch.lgamma(1 + 2 * power) - 2 * torch.lgamma(1 + power))

    @staticmethod
    def mean_log(first, second):
        return WeibullFamily.log_scale(first, second) - EULER * (-second).exp()

    @staticmethod
    def entropy(first, second):
        log_scale = WeibullFamily.log_scale(first, second)
        return EULER * (1 - (-second).exp()) + log_scale - second + 1

    @staticmethod
    def log_draw(first, second, noise):
        log_scale = WeibullFamily.log_scale(first, second)
        return log_scale + (-noise.log_uniform()).log() / second.exp()

    @staticmethod
    def distribution(first, second):
        scale = WeibullFamily.log_scale(first, second).exp()
        return Weibull(scale, second.exp(), validate_args=False)


FAMILIES = {
    "gamma": GammaFamily,
    "lognormal": LogNormalFamily,
    "weibull": WeibullFamily,
}


class FreshNoise:
    """Noise of one shape by a generator."""

    def __init__(self, like, generator):
        self.like, self.generator = like, generator

    def normal(self):
        return torch.empty_like(self.like).normal_(generator=self.generator)

    def log_uniform(self):
        # Of a number in (0, 1], and never exactly 0 after the logarithm.
        draws = torch.empty_like(self.like).exponential_(generator=self.generator)
        return -draws.clamp_min(torch.finfo(draws.dtype).tiny)

    def log_gamma(self, shape):
        shape = shape.expand_as(self.like).contiguous()
        return torch._standard_gamma(shape, generator=self.generator).log()


class KeyedNoise:
    """Noise that depends on the content of the rows, and on a stream, alone."""

    def __init__(self, keys, like, stream):
        self.keys, self.like, self.stream = keys, like, 2 * stream

    def _uniform(self, stream):
        width = self.like.shape[1]
        return keyed_uniform(self.keys, 1, width, stream=stream)[0]

    def normal(self):
        return torch.special.ndtri(self._uniform(self.stream)).to(self.like)

    def log_uniform(self):
        return self._uniform(self.stream).log().to(self.like)

    def log_gamma(self, shape):
        levels = self._uniform(self.stream + 1).cpu().numpy()
        draws = scipy.special.gammaincinv(shape.detach().double().cpu().numpy(), levels)
        draws = torch.from_numpy(draws).to(self.like)
        return _GammaQuantiles.apply(shape, draws).log()


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
        likelihood,
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
        self.likelihood, self.link, self.family = likelihood, link, FAMILIES[family]
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
                # What it sees where an entry is missing.
                self.register_buffer("center", torch.zeros(n_features))
        self.log_noise = self.inclusion_logit = None
        if likelihood == "gaussian":
            self.log_noise = nn.Parameter(torch.zeros(()))
            self.register_buffer("noise_floor", torch.zeros(()))
        if has_spikes:
            self.inclusion_logit = nn.Parameter(torch.zeros(()))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        self.generator = None
        # Of the last bound that was found by Monte Carlo.
        self.lower_bound_std_error = 0.0

    @property
    def work_width(self):
        return max(3 * self.state_width, len(self.weight_parameters[0][0]))

    def begin(self, n_total):
        super().begin(n_total)
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
        if self.log_noise is not None:
            mean, std = column_moments(X, weights)
            mean_square = float(np.mean(std**2 + mean**2)) or 1.0
            self.noise_floor.fill_(NOISE_FLOOR * mean_square)
            self.log_noise.data.fill_(0.5 * math.log(np.mean(std**2) + 1e-300))
        if self.encoder is not None:
            if self.may_miss:
                self.center.copy_(torch.from_numpy(column_moments(X)[0]))
            x = to_tensor(X, slice(N_TYPICAL), dtype=torch.float64, device="cpu")
            inputs = self._inputs(Batch.of(x, may_miss=self.may_miss))
            ones = torch.ones(len(x), 1, dtype=x.dtype)
            sums = torch.cat([part for _, part in transposed_products(inputs, ones)])
            mean = sums[:, 0] / len(x)
            self.input_mean.copy_(mean)
            square = float(row_sum(map_values(torch.square, inputs)).mean())
            # Of what is left, on average; of alike rows that would say nothing of those
            # to come, and be near 0.
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
        """Parameters within what floating point, and the link, can bear."""
        second = second.clamp(*self.family.spread_range)
        if layer > 0 and self.link == "mean" and self.family is not LogNormalFamily:
            # Smoothly, so that they can come back.
            second = LEAST_LOG_SHAPE + softplus(second - LEAST_LOG_SHAPE)
        return first.clamp(*LOG_RANGE), second

    def weights(self):
        """Posterior means of the weights, (units, what is below)."""
        lowest, *uppers = (self.family.mean(*pair) for pair in self._weight_pairs())
        return [lowest.T, *uppers]

    @torch.no_grad()
    def _cold(self, batch):
        """Where posteriors start: counts of rows, shared out by the mean weights."""
        lowest, *uppers = self.weights()
        counts = map_values(torch.relu, batch.x) @ (lowest / lowest.sum(0)).T
        shape, totals = self.layer_shapes[0] + counts, lowest.sum(1)
        if batch.observed is not None:
            of_rows = batch.observed @ lowest.T
            totals = torch.where(of_rows > 0, of_rows, totals)
        mean = shape / totals
        if self.likelihood != "gaussian":
            # Of overlapping units, one step leaves most of the way.
            logs, sizes = lowest.log(), lowest.shape
            weights = Weights.from_mean_log(lambda at: logs[:, at], sizes, lowest)
            is_binary = self.likelihood == "bernoulli"
            function = allocate_indicators if is_binary else allocate
            for _ in range(N_SHARINGS):
                counts = function(batch.x, mean.log(), weights).row_counts(weights)
                shape = self.layer_shapes[0] + counts
                mean = shape / totals
        parts = [*self.family.of_mean(mean, shape.clamp(0.5, 1e4))]
        for weights in uppers:
            if self.link == "mean":
                shares = weights / weights.sum(0)
                mean = mean @ shares.T / weights.sum(1)
            else:
                mean = mean.new_ones(len(mean), len(weights))
            parts += self.family.of_mean(mean, torch.full_like(mean, START_SHAPE))
        return torch.cat(parts, 1)

    def _amortized(self, batch):
        inputs = map_values(lambda v: v / self.input_length, self._inputs(batch))
        center = self.input_mean / self.input_length
        return self._cold(batch) + self.encoder(inputs, center=center)

    def _inputs(self, batch):
        """What an encoder sees of rows."""
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
        keys = batch.keys
        local = self._fresh_local(batch)
        n_steps = PER_ITER * self.inner_iter
        for step in range(n_steps):
            weights = self._drawn_weights()[step % N_DRAWS]
            rate = NEW_RATE * _annealed(step / n_steps)
            local = self._step(batch, local, weights, _keyed(keys, step), rate)
        return local[:, : self.state_width]

    def _fresh_local(self, batch):
        """Where rows start, with moments of steps that are still 0."""
        state = self._cold(batch)
        moments = state.new_zeros(len(state), 2 * self.state_width + 1)
        return torch.cat([state, moments], 1)

    def _step(self, batch, local, weights, noise, rate):
        """A step on the rows alone."""
        state = local[:, : self.state_width].detach().requires_grad_()
        weights = [w.detach() for w in weights]
        with torch.enable_grad():
            bounds = self._row_bounds(batch, state, weights, noise)
            (slope,) = torch.autograd.grad(bounds.sum(), state)
        return self._moved(local, slope, rate)

    def _moved(self, local, slope, rate):
        """Local parameters and moments after a step of Adam up a slope."""
        width = self.state_width
        state, mean, square, n_steps = local.split([width, width, width, 1], 1)
        n_steps = n_steps + 1
        mean = torch.lerp(slope, mean, DECAY[0])
        square = torch.lerp(slope.square(), square, DECAY[1])
        size = (square / (1 - DECAY[1] ** n_steps)).sqrt() + 1e-8
        state = state + rate * mean / (1 - DECAY[0] ** n_steps) / size
        return torch.cat([state, mean, square, n_steps], 1)

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
        """Bounds of rows, but for constants, at drawn factors and weights; float64.

        ``noise(layer, like)`` is that of a layer; with ``given_total`` counts are words
        in order. ``variance`` is that of lowest weights which are means, and no draws.
        """
        pairs, link = self._split(state), self.link
        z = [
            self.family.log_draw(*pair, noise(layer, pair[0])).exp()
            for layer, pair in enumerate(pairs)
        ]
        bounds = self._likelihood(batch, z[0], weights[0], given_total, variance)
        for layer, (pair, alpha) in enumerate(
            zip(pairs, self.layer_shapes, strict=True)
        ):
            log_rate, constant = math.log(self.top_rate), -math.lgamma(alpha)
            rate = self.top_rate
            if layer + 1 < len(z):
                drawn = _positive(z[layer + 1] @ weights[layer + 1])
                rate = drawn if link == "rate" else alpha / drawn
                rate, log_rate = (
                    values.flatten(0, -3).mean(0) if values.dim() > 2 else values
                    for values in (rate, rate.log())
                )
            terms = alpha * log_rate + (alpha - 1) * self.family.mean_log(*pair)
            terms = terms - rate * self.family.mean(*pair) + self.family.entropy(*pair)
            bounds = bounds + (terms + constant).sum(1, dtype=torch.float64)
        return bounds

    def _likelihood(self, batch, z, weights, given_total, variance=None):
        """Of drawn factors and weights; ``variance`` is that of means among these."""
        x, observed = batch.x, batch.observed
        if self.likelihood == "gaussian":
            noise, n_features = self._noise().double(), len(weights)
            if observed is None:
                terms = z @ (weights.T @ weights) - 2 * product(x, weights)
                errors = (z.double() * terms.double()).sum(1)
            else:
                m = observed * (z @ weights.T)
                errors = (m * (m - 2 * x)).sum(1, dtype=torch.float64)
                n_features = observed.sum(1, dtype=torch.float64)
            if variance is not None:
                of_rows = variance.sum(0) if observed is None else observed @ variance
                errors = errors + (z.square() * of_rows).sum(1, dtype=torch.float64)
            normaliser = n_features * (2 * math.pi * noise).log()
            return -0.5 * (errors / noise + normaliser)
        x, entries = batch.counts, batch.entries
        m = _positive(products_at_entries(x, z, weights)).double()
        if self.likelihood == "bernoulli":
            terms, bend = m + (-torch.expm1(-m)).log(), None
        else:
            terms, bend = entries.values * m.log(), entries.values
        if variance is not None:
            if bend is None:
                bend = (-m).exp() * (m / torch.expm1(-m)).square()
            # To second order, and as of log-normals, which no variance makes -inf.
            spread = products_at_entries(x, z.square(), variance)
            # Of a product near 0 the slope would overflow where the weights have it.
            least = torch.finfo(z.dtype).tiny ** (1 / 3)
            spread = spread / m.clamp_min(least).square()
            terms = terms - 0.5 * bend * torch.log1p(spread)
        of_rows = weights.sum(0) if observed is None else observed @ weights
        totals = (z * of_rows).sum(1, dtype=torch.float64)
        if given_total:
            return entries.row_sum(terms) - entries.totals * totals.log()
        return entries.row_sum(terms) - totals

    def _constants(self, batch):
        """What the log likelihood of each row needs of it but once, float64."""
        x = batch.x
        if self.likelihood == "gaussian":
            return row_sum(map_values(torch.square, map_values(torch.Tensor.double, x)))
        if self.likelihood == "poisson":
            return log_factorials(x)
        return 0.0 * batch.totals

    def _base(self, constants):
        if self.likelihood == "gaussian":
            return -0.5 * constants / self._noise().double()
        return -constants

    def _noise(self):
        return (2 * self.log_noise).exp() + self.noise_floor

    def _scored(self, batch, state, **given):
        """Bounds of rows at each of the draws, (N_DRAWS, n_rows)."""
        keys = batch.keys
        return torch.stack(
            [
                self._row_bounds(
                    batch, state, weights, _keyed(keys, SCORES + draw), **given
                )
                for draw, weights in enumerate(self._drawn_weights())
            ]
        )

    def elbo(self, batch, q=None):
        state = self._solve(batch) if q is None else q.state
        return self._scored(batch, state).mean(0) + self._base(self._constants(batch))

    def word_bound(self, batch):
        return self._scored(batch, self._solve(batch), given_total=True).mean(0)

    @torch.no_grad()
    def data_bound(self, batches):
        """The bound of all rows, each draw of which has weights of its own."""
        totals = torch.zeros(N_DRAWS, dtype=torch.float64)
        for batch, start in batches():
            base = self._base(self._constants(batch)).sum().cpu()
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

    def _fresh_weights(self, generator, n_draws=()):
        """Draws of all weights, of those above ``n_draws``, if given."""
        lowest, *uppers = self._weight_pairs()
        return [
            self._fresh(*lowest, (), generator),
            *(self._fresh(*pair, n_draws, generator) for pair in uppers),
        ]

    def _fresh(self, first, second, n_draws, generator):
        like = first.expand(*n_draws, *first.shape)
        noise = FreshNoise(like, generator)
        return self.family.log_draw(first, second, noise).exp()

    def global_kl(self):
        drawn = None
        if self.inclusion_logit is not None:
            drawn = [weights[0] for weights in self._drawn_weights()]
        return self._weight_kl(drawn)

    def _weight_kl(self, drawn):
        """Divergence of all weights; with spikes, at some draws of the lowest ones."""
        kl = 0.0
        for layer, pair in enumerate(self._weight_pairs()):
            log_prior = _gamma_log_density(
                self.family.mean(*pair),
                self.family.mean_log(*pair),
                self.weight_shape,
                self.weight_rate,
            )
            if layer == 0 and self.inclusion_logit is not None:
                log_prior = sum(torch.logaddexp(*self._kinds(w)) for w in drawn)
                log_prior = log_prior / len(drawn)
            terms = -self.family.entropy(*pair) - log_prior
            kl = kl + terms.sum(dtype=torch.float64)
        return kl

    def _kinds(self, weights):
        """Log densities of weights with that they are of the slab, or of the spike."""
        w = _positive(weights)
        slab = self.weight_shape, self.weight_rate
        rate = self.weight_rate / self.weight_shape * SPIKE_SHAPE / SPIKE_MEAN
        return [
            logsigmoid(sign * self.inclusion_logit)
            + _gamma_log_density(w, w.log(), *prior)
            for sign, prior in ((1, slab), (-1, (SPIKE_SHAPE, rate)))
        ]

    @torch.no_grad()
    def inclusion_probabilities(self):
        """Posterior probabilities of the slab, (k, n_features); None without spikes."""
        if self.inclusion_logit is None:
            return None
        shares = []
        for weights, *_ in self._drawn_weights():
            slab, spike = self._kinds(weights)
            shares.append((slab - spike).sigmoid())
        return torch.stack(shares).mean(0).T

    # The face of the module.

    @torch.no_grad()
    def noise_variance(self):
        """That of Gaussian noise, a float; None of other data."""
        return float(self._noise()) if self.likelihood == "gaussian" else None

    @torch.no_grad()
    def decode(self, z):
        mean = z @ self.weights()[0]
        return -torch.expm1(-mean) if self.likelihood == "bernoulli" else mean

    @torch.no_grad()
    def components(self):
        return self.weights()[0]

    @torch.no_grad()
    def sample(self, totals, generator):
        size = (len(totals), self.layer_sizes[-1])
        z = generator.gamma(self.layer_shapes[-1], 1 / self.top_rate, size)
        lowest, *uppers = (weights.cpu().numpy() for weights in self.weights())
        for alpha, weights in zip(self.layer_shapes[-2::-1], uppers[::-1], strict=True):
            drawn = np.maximum(z @ weights, 1e-300)
            scale = 1 / drawn if self.link == "rate" else drawn / alpha
            z = generator.gamma(alpha, scale)
        mean = z @ lowest
        if self.likelihood == "gaussian":
            return generator.normal(mean, math.sqrt(float(self._noise())))
        if self.likelihood == "bernoulli":
            return generator.binomial(1, -np.expm1(-mean)).astype(np.float64)
        return generator.poisson(np.minimum(mean, LARGEST_MEAN))

    # Learning.

    def backward(self, batch, n_samples, start=None):
        constants = (
            split_double(self._constants(batch)) if start is None else start[:, -2:]
        )
        constants = constants.to(batch.x.dtype)
        noise = self._fresh_noise
        weights = self._fresh_weights(self.generator, (N_UPPER,))
        n_updates = self.n_updates.item() - self.n_before
        share = n_updates / self.n_total if self.n_total else 0.0
        rate = self.learning_rate * _annealed(share)
        local = None
        if self.encoder is not None:
            state = self._amortized(batch)
        else:
            local = self._fresh_local(batch) if start is None else start[:, :-2]
            n_steps = PER_ITER * self.inner_iter if start is None else 0
            for step in range(n_steps):
                inner_rate = NEW_RATE * _annealed(step / n_steps)
                local = self._step(batch, local, weights, noise, inner_rate)
            state = local[:, : self.state_width].detach().requires_grad_()
        expanded, variance = self._expanded(weights)
        bounds = self._row_bounds(batch, state, expanded, noise, variance=variance)
        bounds = bounds + self._base(constants.detach().double().sum(1))
        kl = self._weight_kl([weights[0]]) * (batch.share / n_samples)
        (kl - batch.weight * bounds.sum()).backward()
        if local is None:
            return bounds.detach(), constants
        local = self._moved(local, -state.grad / batch.weight, rate)
        return bounds.detach(), torch.cat([local, constants], 1)

    def _expanded(self, weights):
        """Drawn weights, but the mean of what is wide, and its variance, else 0."""
        first, second = self._weight_pairs()[0]
        mean = self.family.mean(first, second)
        relative = self.family.relative_variance(second)
        variance = relative * mean.square()
        is_small = variance < (SMALL * mean.sum(1, keepdim=True)).square()
        is_wide = (relative > 1) & is_small
        lowest = torch.where(is_wide, mean, weights[0])
        return [lowest, *weights[1:]], torch.where(is_wide, variance, 0.0)

    def _fresh_noise(self, layer, like):
        n_draws = (N_UPPER,) if layer > 0 else ()
        return FreshNoise(like.expand(*n_draws, *like.shape), self.generator)

    def after_step(self):
        self.n_updates += 1
        self.refresh()

    def refresh(self):
        self._draws = None


def _positive(values):
    """Products of small draws, at least the smallest normal number.

    A bound on those that underflow, not the product itself: take float64 for shapes far
    below 0.01.
    """
    return values.clamp_min(torch.finfo(values.dtype).tiny)


def _gamma_log_density(mean, mean_log, shape, rate):
    """E of the log density of Gamma(shape, rate), given E[y] and E[log y]."""
    constant = shape * math.log(rate) - math.lgamma(shape)
    return (shape - 1) * mean_log - rate * mean + constant


def _keyed(keys, stream):
    """Noise of each layer, from the rows' keys."""
    return lambda layer, like: KeyedNoise(keys, like, 64 * stream + layer)


def _annealed(share):
    """By how much steps are shorter after a share of them."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
