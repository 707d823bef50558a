"""Distributions that torch lacks; expectations, divergences and fitted priors.

Divergences come per row, summed in float64; their arguments broadcast.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.interpolate
import scipy.optimize
import scipy.special
import torch
from torch import nn
from torch.distributions import Distribution, constraints, register_kl
from torch.nn.functional import logsigmoid

from skdeepfactor._math.ops import SLICE

# Priors are learnt within this range; the bound is flat beyond it.
PRIOR_RANGE = (1e-6, 1e6)

# Below these, exp(E[log .]) is taken to be these, after the largest one in its row or
# column was scaled to 1: a product of the two then stays a normal number, and its
# reciprocal, times a count of 1e9, does too.
FLOORS = {torch.float32: 1e-25, torch.float64: 1e-150}


def digamma(x):
    """Digamma of positive ``x``, to 1e-6 in float32, four times as fast as torch's.

    Float32 takes the recurrence up to x + 4 and then the asymptotic series; its terms
    1/x + 1/(x+3) and 1/(x+1) + 1/(x+2) share their numerator.
    """
    if x.dtype != torch.float32:
        return torch.digamma(x)
    if x.numel() <= SLICE:
        return _digamma(x)
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    slices = zip(result.view(-1).split(SLICE), x.reshape(-1).split(SLICE), strict=True)
    for target, source in slices:
        target.copy_(_digamma(source))
    return result


def _digamma(x):
    u = x * (x + 3)
    shift = u.reciprocal()
    shift += u.add_(2).reciprocal_()
    shift *= 2 * x + 3
    y = x + 4
    r = y.reciprocal()
    r2 = r * r
    series = r2 * (-1 / 252)
    series += 1 / 120
    series *= r2
    series -= 1 / 12
    series *= r2
    series -= r.mul_(0.5)
    series -= shift
    series += y.log_()
    return series


def scaled_exp(log_values, dim):
    """``exp(log_values - m)``, of which the largest along ``dim`` is 1, and ``m``."""
    largest = log_values.amax(dim, keepdim=True)
    scaled = (log_values - largest).exp_()
    return scaled.clamp_min_(FLOORS[scaled.dtype]), largest


def gamma_kl(shape, rate, mean_log, prior_shape, prior_rate, prior_log_rate):
    """E[KL(Gamma(shape, rate) || Gamma(prior_shape, r))] over the prior's rate r.

    ``mean_log`` is digamma(shape) - log(rate), the expected logarithm;
    ``prior_rate`` and ``prior_log_rate`` are E[r] and E[log r], so that a fixed rate
    and an inferred one are the same to it. Summed over the last dimension, float64.
    """
    prior_shape = torch.as_tensor(prior_shape, dtype=shape.dtype, device=shape.device)
    divergence = (shape - prior_shape) * mean_log
    divergence += shape * rate.log()
    divergence -= prior_shape * prior_log_rate
    divergence -= torch.lgamma(shape) - torch.lgamma(prior_shape)
    divergence += shape * (prior_rate / rate - 1)
    return divergence.sum(-1, dtype=torch.float64)


def gamma_draws(shape, mean, generator):
    """Gamma variables in float64, by a NumPy generator."""
    return log_gamma_draws(shape, mean, generator).exp()


def log_gamma_draws(shape, mean, generator):
    """Their logarithms: by way of gammas of shape + 1, so that none underflows."""
    shape, mean = shape.double(), mean.double()
    draws = generator.standard_gamma((shape + 1).cpu().numpy())
    uniform = 1 - generator.random(draws.shape)
    both = torch.from_numpy(np.stack([np.log(draws), np.log(uniform)])).to(mean)
    return both[0] + both[1] / shape + (mean / shape).log()


def log_product(a, b):
    """log(exp(a) @ exp(b)), of which nothing underflows; float64."""
    rows, columns = a.amax(-1, keepdim=True), b.amax(-2, keepdim=True)
    product = (a - rows).exp() @ (b - columns).exp()
    result = product.log() + rows + columns
    # What was lost in a row's or a column's largest is summed up again.
    lost = (product < 1e-200).nonzero(as_tuple=True)
    if len(lost[0]):
        *batch, row, column = lost
        terms = a[(*batch, row)] + b.transpose(-2, -1)[(*batch, column)]
        result[lost] = terms.logsumexp(-1)
    return result


def dirichlet_kl(concentration, mean_log, prior):
    """KL(Dirichlet(concentration) || Dirichlet(prior)), float64.

    ``mean_log`` is digamma(concentration) - digamma(its sum), the expected logarithm.
    """
    prior = torch.as_tensor(
        prior, dtype=concentration.dtype, device=concentration.device
    )
    divergence = (concentration - prior) * mean_log
    divergence -= torch.lgamma(concentration) - torch.lgamma(prior)
    totals = torch.lgamma(concentration.sum(-1, dtype=torch.float64))
    prior_totals = prior.expand_as(concentration).sum(-1, dtype=torch.float64)
    totals -= torch.lgamma(prior_totals)
    return totals + divergence.sum(-1, dtype=torch.float64)


def gamma_shape(mean_log_ratio):
    """The shape a of a gamma prior with E[log z] + E[log rate] = digamma(a).

    The maximum of the bound over the shape, at a given rate, a float.
    """
    return _root(lambda a: scipy.special.digamma(a) - mean_log_ratio)


def gamma_shape_and_rate(mean, mean_log):
    """The shape and rate of a gamma prior that maximise the bound, two floats.

    ``mean`` and ``mean_log`` are averages of E[z] and E[log z]. As for the maximum
    likelihood of a gamma: log a - digamma(a) = log(mean) - mean_log.
    """
    gap = math.log(mean) - mean_log
    shape = _root(lambda a: gap - math.log(a) + scipy.special.digamma(a))
    return shape, shape / mean


def symmetric_dirichlet(mean_log, n_features):
    """The concentration of a symmetric Dirichlet prior that maximises the bound.

    ``mean_log`` is the average of E[log p] over all elements.
    """
    digamma = scipy.special.digamma
    return _root(lambda c: digamma(c) - digamma(n_features * c) - mean_log)


def dirichlet(mean_log, start, n_steps=100):
    """The concentration of a Dirichlet prior that maximises the bound.

    ``mean_log``, (k,), is the average of E[log p]. Newton's method with the Hessian
    inverted in closed form; a step that would leave the positive numbers is cut.
    Minka (2000), Estimating a Dirichlet distribution.
    """
    alpha = np.array(start, dtype=np.float64)
    if len(alpha) == 1:  # A single proportion is 1 under any prior.
        return alpha
    for _ in range(n_steps):
        total = alpha.sum()
        gradient = scipy.special.digamma(total) - scipy.special.digamma(alpha)
        gradient += mean_log
        curvature = -scipy.special.polygamma(1, alpha)
        shared = scipy.special.polygamma(1, total)
        offset = (gradient / curvature).sum() / (1 / shared + (1 / curvature).sum())
        step = (gradient - offset) / curvature
        new = np.clip(np.maximum(alpha - step, alpha / 4), *PRIOR_RANGE)
        is_done = np.abs(new - alpha).max() <= 1e-10 * total
        alpha = new
        if is_done:
            break
    return alpha


def check_prior(prior, name, *shapes):
    """A prior's parameter: "auto", a float, or a positive array of one of the shapes.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(prior, str):
        return prior
    array = np.asarray(prior, dtype=np.float64)
    if array.ndim == 0:
        return float(array)
    if array.shape not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"{name} must have shape {expected}, got {array.shape}.")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name} must be positive and finite in every entry.")
    return array


def _root(increasing):
    """The root of an increasing function of a positive number, within PRIOR_RANGE."""
    low, high = np.log(PRIOR_RANGE)
    if increasing(math.exp(low)) >= 0:
        return PRIOR_RANGE[0]
    if increasing(math.exp(high)) <= 0:
        return PRIOR_RANGE[1]
    root = scipy.optimize.brentq(lambda t: increasing(math.exp(t)), low, high)
    return math.exp(root)


# Bessel functions of higher orders overflow where their argument is small.
LARGEST_ORDER = 30.0

# Of the table that quantiles of a generalized inverse Gaussian are read off.
N_POINTS = 512


class InverseGaussians(nn.Module):
    """Generalized inverse Gaussians q(y) ~ y^(g - 1) exp(-rho y - tau / y) of order g.

    Their moments are ratios of Bessel functions of s = 2 sqrt(rho tau). torch has none
    of real order, so they are interpolated in log s between points made by SciPy, to
    1e-8; beyond the last points logarithms go on in straight lines.
    """

    def __init__(self, order):
        super().__init__()
        self.order = order
        low, high, self.step = -18.0, 14.0, 0.05
        grid = np.arange(low, high + self.step / 2, self.step)
        s = np.exp(grid)
        bessel = scipy.special.kve(order, s)
        curves = [
            np.log(scipy.special.kve(order + 1, s) / bessel),
            np.log(scipy.special.kve(1 - order, s) / bessel),
            np.log(2 * bessel),
        ]
        # Coefficients of each cell, (4, 3, n), of powers from 3 down to 0.
        spline = scipy.interpolate.CubicSpline(grid, curves, axis=1)
        powers = self.step ** np.arange(3, -1, -1)
        cells = spline.c.transpose(0, 2, 1) * powers[:, np.newaxis, np.newaxis]
        # Before the first cell and after the last one, straight on.
        ends = np.zeros((2, 4, 3, 1))
        ends[:, 2, :, 0] = spline(grid[[0, -1]], 1).T * self.step
        ends[:, 3, :, 0] = spline(grid[[0, -1]]).T
        self.low = low
        table = torch.from_numpy(np.concatenate([ends[0], cells, ends[1]], axis=2))
        # Persistent arrays would be pickled with every model.
        self.register_buffer("table", table, persistent=False)

    def _curves(self, log_s):
        """The interpolated curves, (3, ...), float64."""
        table = self.table.double()
        position = (log_s.double() - self.low) / self.step
        # What is no number has a cell too, and no number for a value.
        cell = position.floor().nan_to_num_(0.0).clamp_(-1, table.shape[2] - 2)
        t = position - cell.clamp_min(0)
        cell = cell.long() + 1
        value = table[0][:, cell]
        for coefficients in table[1:]:
            value = torch.addcmul(coefficients[:, cell], value, t)
        return value

    def moments(self, rho, tau):
        """E[y], E[1 / y] and, in float64, the log of the normaliser."""
        log_rho, log_tau = rho.double().log(), tau.double().log()
        half = 0.5 * (log_tau - log_rho)
        log_s = math.log(2) + 0.5 * (log_rho + log_tau)
        ratio, inverse_ratio, log_bessel = self._curves(log_s)
        log_normaliser = self.order * half + log_bessel - log_s.exp()
        mean, inverse = (half + ratio).exp(), (inverse_ratio - half).exp()
        return mean.to(rho), inverse.to(rho), log_normaliser

    def of_mean(self, mean):
        """Parameters rho and tau with that mean and rho tau = 1."""
        ratio = self._curves(torch.full((), math.log(2)).to(mean))[0].exp().to(mean)
        return ratio / mean, mean / ratio

    def sample(self, rho, tau, n_draws, generator):
        """Draws of each, (n_draws, ...), float64, by way of the distribution function.

        It is tabulated in log y, from where the density is at most e^-40 of its
        largest. Variances of log y are then right to 1 %, of orders up to 30 to 7 %.
        """
        log_rho, log_tau = rho.double().log(), tau.double().log()
        s = (math.log(2) + 0.5 * (log_rho + log_tau)).exp().reshape(-1, 1)
        uniform = generator.random((len(s), n_draws))
        draws = torch.from_numpy(uniform).to(s.device)
        # A few at a time: the tables then stay in a cache.
        n_rows = SLICE // (8 * N_POINTS)
        parts = zip(s.split(n_rows), draws.split(n_rows), strict=True)
        log_y = torch.cat([self._quantiles(s, draws) for s, draws in parts])
        log_y = log_y.T.reshape(n_draws, *rho.shape)
        return (log_y + 0.5 * (log_tau - log_rho)).exp()

    def _quantiles(self, s, levels):
        """Quantiles of log y, (n, n_draws), for rho = tau, of s, (n, 1)."""
        # Large orders have their largest density, and a tail, beyond that of order 0.
        reach = torch.acosh(1 + (40 + 2 * self.order) / s)
        points = torch.linspace(-1, 1, N_POINTS, dtype=s.dtype, device=s.device)
        u = reach * points
        log_density = torch.cosh(u).sub_(1).mul_(-s).add_(u, alpha=self.order)
        log_density -= log_density.amax(1, keepdim=True)
        total = torch.cumulative_trapezoid(log_density.exp_())
        total /= total[:, -1:].clone()
        cell = torch.searchsorted(total, levels).clamp_max(total.shape[1] - 1)
        before = torch.where(cell > 0, total.gather(1, (cell - 1).clamp_min(0)), 0.0)
        share = (levels - before) / (total.gather(1, cell) - before).clamp_min(1e-300)
        return reach * (2 * (cell + share.clamp(0, 1)) / (N_POINTS - 1) - 1)


class GaussianMixture(NamedTuple):
    """A mixture of Gaussians with diagonal covariances.

    Means and log variances are (n_gaussians, k), log weights (n_gaussians,).
    """

    mean: torch.Tensor
    log_var: torch.Tensor
    log_weights: torch.Tensor

    @classmethod
    def standard(cls, k, *, like):
        """One standard normal."""
        zeros = torch.zeros(1, k).to(like)
        return cls(zeros, zeros, zeros[:, 0])

    def _square(self, z):
        """Minus twice the log densities at z, but for a constant; float64."""
        precision = (-self.log_var).exp()
        square = z.square() @ precision.T - 2 * z @ (precision * self.mean).T
        constant = (self.mean.square() * precision + self.log_var).sum(1)
        return square.double() + constant

    def log_prob(self, z):
        """Log density, (...), of z, (..., k); float64."""
        square = self._square(z) + self.mean.shape[1] * math.log(2 * math.pi)
        return (self.log_weights - 0.5 * square).logsumexp(-1)

    def kl_bound(self, mean, var, log_det):
        """An upper bound on the divergence of Gaussians from it, float64, and shares.

        For one Gaussian the divergence itself. The bound, (n_rows,), is minus the log
        of the weighted sum of exp(-KL) over the mixture; the shares of its terms,
        (n_rows, n_gaussians), are the best distribution over which Gaussian it was.
        ``var`` is the diagonal of the covariances, ``log_det`` their log determinants.
        """
        kl = self._square(mean) + (var @ (-self.log_var).exp().T).double()
        kl = 0.5 * (kl - mean.shape[1] - log_det[:, None])
        joint = self.log_weights.double() - kl
        # Rounding must not make a divergence negative.
        return (-joint.logsumexp(1)).clamp_min(0), joint.softmax(1)

    def sample(self, n_draws, generator):
        """Draws, (n_draws, k), by a generator of the CPU."""
        noise = torch.randn(n_draws, self.mean.shape[1], generator=generator)
        shares = self.log_weights.exp().cpu()
        which = torch.multinomial(
            shares, n_draws, replacement=True, generator=generator
        )
        which = which.to(self.mean.device)
        return self.mean[which] + (self.log_var[which] / 2).exp() * noise.to(self.mean)


class SpikeSlab(Distribution):
    """A number that is exactly 0, or else normal: (1 - p) delta_0 + p N(loc, scale^2).

    ``log_prob`` is the logarithm of the density with respect to the sum of the Lebesgue
    measure and a point mass at 0: log(1 - p) at 0, log p + log N elsewhere.

    Parameters
    ----------
    logits : Tensor
        Log odds of p, the probability of the slab.
    loc, scale : Tensor
        Mean and standard deviation of the slab.
    """

    arg_constraints = {  # noqa: RUF012 (torch's own has no ClassVar either)
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(self, logits, loc, scale, *, temperature=100.0, validate_args=None):
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.temperature = temperature
        super().__init__(self.logits.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(SpikeSlab, _instance)
        for name in ("logits", "loc", "scale"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        new.temperature = self.temperature
        super(SpikeSlab, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def probs(self):
        """The probability of the slab."""
        return self.logits.sigmoid()

    @property
    def mean(self):
        return self.probs * self.loc

    @property
    def variance(self):
        p = self.probs
        return p * self.scale.square() + p * (1 - p) * self.loc.square()

    def of_noise(self, uniform, normal):
        """Draws from uniform and standard normal ones of the same shape."""
        is_slab = uniform < self.probs
        return torch.where(is_slab, self.loc + self.scale * normal, 0.0)

    def relaxed_of_noise(self, uniform, normal):
        """The same with soft spikes, through which gradients reach the probability.

        The indicator uniform < p becomes sigmoid(temperature * (p - uniform)).
        """
        share = (self.temperature * (self.probs - uniform)).sigmoid()
        return share * (self.loc + self.scale * normal)

    def straight_through_of_noise(self, uniform, normal):
        """Draws as they are, through which gradients reach the probability.

        The indicator uniform < p has the slope 1 in p.
        """
        p = self.probs
        share = (uniform < p).to(p) + (p - p.detach())
        return share * (self.loc + self.scale * normal)

    @torch.no_grad()
    def sample(self, sample_shape=()):
        return self.of_noise(*self._noise(sample_shape))

    def rsample(self, sample_shape=()):
        """Relaxed draws; see ``relaxed_of_noise``."""
        return self.relaxed_of_noise(*self._noise(sample_shape))

    def _noise(self, sample_shape):
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape).to(self.loc)
        return uniform, torch.randn(shape).to(self.loc)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        normal = -0.5 * ((value - self.loc) / self.scale).square() - self.scale.log()
        slab = logsigmoid(self.logits) + normal - 0.5 * math.log(2 * math.pi)
        return torch.where(value == 0, logsigmoid(-self.logits), slab)


@register_kl(SpikeSlab, SpikeSlab)
def spike_slab_kl(q, p):
    """KL of spikes and slabs, element by element, in closed form."""
    on, off = logsigmoid(q.logits), logsigmoid(-q.logits)
    square = (q.scale.square() + (q.loc - p.loc).square()) / p.scale.square()
    slab = (p.scale / q.scale).log() + 0.5 * (square - 1)
    slab = slab + on - logsigmoid(p.logits)
    return on.exp() * slab + off.exp() * (off - logsigmoid(-p.logits))
