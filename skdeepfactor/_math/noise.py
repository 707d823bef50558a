"""Noise of rows: fresh from a generator, or a function of the content of each row.

In training, each step draws anew. For bounds and factors that users see, a row gets the
same draws whatever rows, order or batches it comes with. Both kinds have the same
methods.
"""

import math
from enum import IntEnum

import scipy.special
import torch

from skdeepfactor._math import compiled

# Multipliers of columns in the hashes of rows, and of SplitMix64, as signed integers of
# 64 bits.
_OF_COLUMNS = -7046029254386353131
_MULTIPLIERS = (-4658895280553007687, -7723592293110705685)


def row_keys(x):
    """A hash of each row of a CSR batch, int64: columns and values, in any order."""
    bits, starts = x.values().double().view(torch.int64), x.crow_indices().long()
    mixed = mix(bits + mix((x.col_indices().long() + 1) * _OF_COLUMNS))
    # Sums wrap around, so that differences of running ones are exact.
    sums = torch.nn.functional.pad(mixed.cumsum(0), (1, 0))
    return mix(sums.index_select(0, starts).diff())


def mix(bits):
    """Scramble int64 numbers: the finalizer of SplitMix64, which has no fixed seed."""
    bits = _shift_right(bits, 30).bitwise_xor_(bits).mul_(_MULTIPLIERS[0])
    bits = _shift_right(bits, 27).bitwise_xor_(bits).mul_(_MULTIPLIERS[1])
    return _shift_right(bits, 31).bitwise_xor_(bits)


def _shift_right(bits, n):
    """Shift without regard to the sign."""
    return (bits >> n).bitwise_and_((1 << (64 - n)) - 1)


def keyed_uniform(keys, n_draws, width, *, stream):
    """Numbers in (0, 1), (n_draws, n_rows, width), that depend on the keys alone.

    A row's numbers are a function of its key, of ``stream`` (an int) and of their
    position, so that they are the same in any batch. In float64.
    """
    positions = torch.arange(n_draws * width, device=keys.device)
    return uniform_at(mix(keys)[:, None], positions.view(n_draws, 1, width), stream)


def uniform_at(mixed, positions, stream):
    """Numbers in (0, 1), float64, that depend on a key and a position alone.

    ``mixed``, keys that were mixed, and ``positions``, below 2**32, broadcast.
    """
    return _uniform(_bits(mixed, positions, stream))


def uniform_pairs_at(mixed, positions, stream):
    """Two independent numbers in (0, 1), like those of ``uniform_at``, of 32 bits."""
    bits = _bits(mixed, positions, stream)
    low, high = bits & (2**32 - 1), _shift_right(bits, 32)
    return [half.double().add_(0.5).mul_(2.0**-32) for half in (low, high)]


def _bits(mixed, positions, stream):
    return mix(mixed ^ mix(positions + (stream + 1) * 2**32))


def _uniform(bits):
    # 52 bits to the middle of a cell of the unit interval.
    return _shift_right(bits, 12).double().add_(0.5).mul_(2.0**-52)


def keyed_log_gamma(shape, keys, *, stream):
    """Logarithms of gamma variables of rate 1 that depend on the keys alone, float64.

    ``shape`` is (n_rows, width), positive, and ``keys`` (n_rows,). Variables of shapes
    below 1 are first proposed by powers of uniform ones, since most shapes are small;
    the others, and those that are rejected, by cubes of normal ones. No logarithm
    underflows, whatever the shape.

    Draws use up to ``GAMMA_STREAMS`` streams.
    """
    _, width = shape.shape
    shape, mixed = shape.double(), mix(keys)
    if compiled.is_compiled(shape.device):
        return compiled.log_gamma(shape, mixed, stream, GAMMA_STREAMS)
    # Rows and columns broadcast, so that the noise of each is mixed once.
    positions = torch.arange(width, device=keys.device)
    result, left = _small_attempt(shape, mixed[:, None], positions, stream)
    result, shape = result.view(-1), shape.reshape(-1)
    for attempt in range(1, GAMMA_STREAMS // 2):
        if len(left) == 0:
            break
        draws, failed = _large_attempt(
            shape[left], mixed[left // width], left % width, stream + 2 * attempt
        )
        result[left] = draws
        left = left[failed]
    return result.view(-1, width)


#: Streams of a gamma variable: one of twenty proposals by normal variables is rejected
#: at most.
GAMMA_STREAMS = 40


def _small_attempt(shape, mixed, positions, stream):
    """Proposals of gamma variables' logarithms, and the places of those to draw anew.

    The latter, in the flattened proposals, are all of a shape of 1 or more. Ahrens and
    Dieter (1974), Computer methods for sampling from gamma, beta, Poisson and binomial
    distributions.
    """
    level, acceptance = uniform_pairs_at(mixed, positions, stream)
    # Below 1, the variable is a power of the level; above, it is beyond 1 itself.
    level.addcmul_(level, shape, value=1 / math.e)
    draws = level.log().div_(shape)
    needed = acceptance.log_().neg_()
    is_rejected = (shape >= 1) | (draws.exp() > needed)
    beyond = ((level > 1) & (shape < 1)).view(-1).nonzero()[:, 0]
    a = shape.reshape(-1)[beyond]
    log_x = ((1 - level.view(-1)[beyond]) / a + 1 / math.e).log_().neg_().log_()
    draws.view(-1)[beyond] = log_x
    is_rejected.view(-1)[beyond] = (1 - a) * log_x > needed.view(-1)[beyond]
    return draws, is_rejected.view(-1).nonzero()[:, 0]


def _large_attempt(shape, mixed, positions, stream):
    """Proposals of gamma variables' logarithms, and the places of those rejected.

    A variable of shape a is one of shape a + 1 times u^(1 / a). Marsaglia and Tsang
    (2000), A simple method for generating gamma variables.
    """
    size, angle = uniform_pairs_at(mixed, positions, stream)
    normal = size.log_().mul_(-2).sqrt_().mul_(angle.mul_(2 * math.pi).cos_())
    level, power = uniform_pairs_at(mixed, positions, stream + 1)
    d = shape + 2 / 3
    root = (normal / (9 * d).sqrt_()).add_(1)
    v = root.clamp_min(1e-100).pow(3)
    log_v = v.log()
    log_ratio = (log_v + 1).sub_(v).mul_(d).addcmul_(normal, normal, value=0.5)
    is_rejected = (root <= 0) | (level.log_() >= log_ratio)
    draws = d.log_().add_(log_v).add_(power.log_().div_(shape))
    return draws, is_rejected.nonzero()[:, 0]


def keyed_normal(keys, n_draws, width, *, stream, dtype):
    """Standard normal numbers that depend on the keys alone."""
    uniform = keyed_uniform(keys, n_draws, width, stream=stream)
    return torch.special.ndtri(uniform).to(dtype)


class Stream(IntEnum):
    """Starts of the streams of keyed noise: one for each purpose.

    A purpose that draws several times counts up from there. Changing these numbers
    changes the scores for a given seed.
    """

    #: Steps of Adam that refine a posterior, one stream for each.
    REFINEMENT = 0
    #: Bounds that have no closed form.
    BOUND = 10**6
    #: Particles of importance weighted bounds, a stream for each block of them.
    PARTICLES = 2 * 10**6
    #: Prediction of the next word of a row.
    PREDICTION = 3 * 10**6
    #: Choice of rows whose covariances are averaged.
    SPREAD = 4 * 10**6
    #: Random rounding of numbers that are not whole.
    ROUNDING = 6 * 10**6
    #: Chains of a Gibbs sampler, a block of streams for each sweep.
    CHAIN = 7 * 10**6
    #: Global parameters that a Gibbs sampler draws, a block of streams for each sweep.
    GLOBAL = 5 * 10**8
    #: Added to the streams above: spikes, beside the slabs that have these.
    SPIKES = 5 * 10**6


class _GammaQuantiles(torch.autograd.Function):
    """Gamma variables of rate 1, made elsewhere, with their slope in the shape."""

    @staticmethod
    def forward(ctx, shape, draws):
        ctx.save_for_backward(shape, draws)
        return draws

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch._standard_gamma_grad(*ctx.saved_tensors), None


class FreshNoise:
    """Draws of shape (n_draws, n_rows, width) by a generator, anew at each call.

    ``like``, (n_rows, width), has their type and device, that of the generator.
    """

    def __init__(self, like, n_draws, generator):
        self.like, self.n_draws, self.generator = like, n_draws, generator

    def normal(self):
        """Standard normal draws."""
        return self._empty().normal_(generator=self.generator)

    def uniform(self):
        """Uniform draws in [0, 1)."""
        return self._empty().uniform_(generator=self.generator)

    def log_uniform(self):
        """Logarithms of uniform draws in (0, 1), never exactly 0."""
        draws = self._empty().exponential_(generator=self.generator)
        return -draws.clamp_min(torch.finfo(draws.dtype).tiny)

    def log_gamma(self, shape):
        """Logarithms of gamma variables of rate 1, differentiable in their shape."""
        shape = shape.expand(self.n_draws, *self.like.shape).contiguous()
        return torch._standard_gamma(shape, generator=self.generator).log()

    def _empty(self):
        return self.like.new_empty(self.n_draws, *self.like.shape)


def gamma_quantiles(shape, levels):
    """Quantiles of gamma variables of rate 1, on any device, to 1e-7.

    Newton's method for the logarithm of the quantile, on that of the smaller tail, from
    Wilson and Hilferty's approximation or, for small quantiles, from the first term of
    the series. Six steps reach the precision of torch's incomplete gamma functions.

    Parameters
    ----------
    shape, levels : Tensor
        Float64, of shapes that broadcast; levels lie in (0, 1).
    """
    shape, levels = torch.broadcast_tensors(shape, levels)
    small = (levels.log() + torch.lgamma(shape + 1)) / shape
    normal = torch.special.ndtri(levels)
    root = 1 - 1 / (9 * shape) + normal / (3 * shape.sqrt())
    log_x = torch.where(
        (root < 0.3) | (shape < 0.3),
        torch.minimum(small, (shape + 3).log()),
        shape.log() + 3 * root.clamp_min(0.3).log(),
    )
    is_low = levels < 0.5
    log_tail = torch.where(is_low, levels, 1 - levels).log()
    sign = torch.where(is_low, 1.0, -1.0).to(levels)
    for _ in range(6):
        x = log_x.exp()
        lower = torch.special.gammainc(shape, x)
        tail = torch.where(is_low, lower, torch.special.gammaincc(shape, x))
        tail = tail.clamp_min(1e-300)
        slope = (shape * log_x - x - torch.lgamma(shape)).exp() / tail
        step = (tail.log() - log_tail) / slope.clamp_min(1e-300)
        log_x = log_x - (sign * step).clamp(-2, 2)
    # All further terms are lost in rounding.
    return torch.where(small < -40, small, log_x).exp()


class KeyedNoise:
    """Draws like those of ``FreshNoise`` that depend only on row keys and a stream."""

    def __init__(self, like, n_draws, keys, stream):
        self.like, self.n_draws = like, n_draws
        self.keys, self.stream = keys, stream

    def normal(self):
        """Standard normal draws."""
        return self._keyed(keyed_normal, dtype=self.like.dtype)

    def uniform(self):
        """Uniform draws in (0, 1)."""
        return self._keyed(keyed_uniform).to(self.like)

    def log_uniform(self):
        """Logarithms of uniform draws in (0, 1)."""
        return self._keyed(keyed_uniform).log().to(self.like)

    def log_gamma(self, shape):
        """Logarithms of gamma variables of rate 1, differentiable in their shape.

        They use the next stream, so that ``log_uniform`` is independent.
        """
        width = self.like.shape[1]
        levels = keyed_uniform(self.keys, self.n_draws, width, stream=self.stream + 1)
        of_rows = shape.detach().double()
        if levels.device.type == "cpu":  # Three times as fast there.
            draws = scipy.special.gammaincinv(of_rows.numpy(), levels.numpy())
            draws = torch.from_numpy(draws)
        else:
            draws = gamma_quantiles(of_rows, levels)
        draws = draws.to(self.like)
        return _GammaQuantiles.apply(shape.expand_as(draws), draws).log()

    def _keyed(self, function, **settings):
        width = self.like.shape[1]
        return function(self.keys, self.n_draws, width, stream=self.stream, **settings)
