"""Gamma and Dirichlet variables: special functions, divergences, draws, learnt priors.

Divergences come per row, summed in float64; their arguments broadcast.
"""

import math

import numpy as np
import scipy.interpolate
import scipy.optimize
import scipy.special
import torch

from skdeepfactor._input import received
from skdeepfactor._math import compiled
from skdeepfactor._math.ops import SLICE, scaled

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
    series = _digamma_series(r, r * r)
    series -= shift
    series += y.log_()
    return series


def _digamma_series(r, r2):
    """Digamma of y less log y for large y, from 1 / y and its square."""
    series = r2 * (-1 / 252)
    series += 1 / 120
    series *= r2
    series -= 1 / 12
    series *= r2
    return series.sub_(r, alpha=0.5)


def digamma_and_log_gamma(x):
    """Digamma and the logarithm of the gamma function of positive ``x``, two tensors.

    Float32 takes both from series at x + 4, to 1e-6 and to 4e-6, each plus a millionth
    of the value, in two thirds of the time of one after the other.
    """
    if x.dtype != torch.float32:
        return torch.digamma(x), torch.lgamma(x)
    # Beside log x, what is cut off does not count.
    small = x.clamp_max(1e9)
    u = (small + 3).mul_(small)
    product = (u + 2).mul_(u)  # x (x + 1) (x + 2) (x + 3)
    y = x + 4
    r, log_y = y.reciprocal(), y.log()
    r2 = r * r
    series = _digamma_series(r, r2)
    series += log_y
    series.addcdiv_(small.add_(1.5).mul_(u.add_(1)), product, value=-4)
    log_gamma = r2.mul(1 / 1260)
    log_gamma -= 1 / 360
    log_gamma *= r2
    log_gamma += 1 / 12
    log_gamma *= r
    log_gamma += 0.5 * math.log(2 * math.pi)
    log_gamma -= product.log_()
    log_gamma -= y
    log_gamma.addcmul_(y.sub_(0.5), log_y)
    return series, log_gamma


def scaled_exp(log_values, dim):
    """``exp(log_values - m)``, of which the largest along ``dim`` is 1, and ``m``."""
    largest = log_values.amax(dim, keepdim=True)
    scaled = (log_values - largest).exp_()
    return scaled.clamp_min_(FLOORS[scaled.dtype]), largest


def gamma_kl(shape, rate, mean_log, prior_shape, prior_rate, prior_log_rate):
    """E[KL(Gamma(shape, rate) || Gamma(prior_shape, r))] over the prior's rate r.

    ``mean_log`` is digamma(shape) - log(rate), the expected logarithm;
    ``prior_rate`` and ``prior_log_rate`` are E[r] and E[log r], so that a fixed rate
    and an inferred one are treated alike. Summed over the last dimension, float64.
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
    """Logarithms of gamma draws, by gammas of shape + 1, so that none underflows."""
    shape, mean = shape.double(), mean.double()
    draws = generator.standard_gamma((shape + 1).cpu().numpy())
    uniform = 1 - generator.random(draws.shape)
    both = torch.from_numpy(np.stack([np.log(draws), np.log(uniform)])).to(mean)
    return both[0] + both[1] / shape + (mean / shape).log()


def log_product(a, b):
    """log(exp(a) @ exp(b)) without underflow; float64."""
    rows, columns = a.amax(-1, keepdim=True), b.amax(-2, keepdim=True)
    product = (a - rows).exp() @ (b - columns).exp()
    result = product.log() + rows + columns
    # Products lost to underflow beside a row's or column's largest are summed again.
    lost = (product < 1e-200).nonzero(as_tuple=True)
    if len(lost[0]):
        *batch, row, column = lost
        terms = a[(*batch, row)] + b.transpose(-2, -1)[(*batch, column)]
        result[lost] = terms.logsumexp(-1)
    return result


def dirichlet_kl(concentration, mean_log, prior, allowed=None, log_gamma=None):
    """KL(Dirichlet(concentration) || Dirichlet(prior)), float64.

    ``mean_log`` is digamma(concentration) - digamma(its sum), the expected logarithm.
    ``log_gamma`` is the log of the gamma function of ``concentration``, if known.
    Entries that are not ``allowed`` are 0 with certainty in both.
    """
    prior = torch.as_tensor(
        prior, dtype=concentration.dtype, device=concentration.device
    )
    divergence = (concentration - prior) * mean_log
    if log_gamma is None:
        log_gamma = torch.lgamma(concentration)
    divergence -= log_gamma - torch.lgamma(prior)
    prior = prior.expand(*prior.shape[:-1], concentration.shape[-1])
    if allowed is not None:
        divergence = divergence.masked_fill(~allowed, 0)
        concentration, prior = concentration * allowed, prior * allowed
    totals = torch.lgamma(concentration.sum(-1, dtype=torch.float64))
    prior_totals = prior.sum(-1, dtype=torch.float64)
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


def gamma_shapes(gap, n_steps=5):
    """Shapes a of gamma variables, given log E[z] - E[log z] > 0, a tensor, of each.

    Newton's steps on 1 / a, after Minka (2002), Estimating a gamma distribution.
    """
    gap = gap.clamp_min(1e-8)
    a = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
    for _ in range(n_steps):
        excess = a.log() - torch.digamma(a) - gap
        slope = a * (1 - a * torch.polygamma(1, a))
        a = 1 / (1 / a + excess / slope)
    return a


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


def sum_of_mean_logs(prior, counts, weight=1.0):
    """Sum over rows of E[log theta], for Dirichlet variables of ``prior`` + ``counts``.

    What ``dirichlet`` learns a prior from, float64, (k,), given ``prior``, (k,), and
    ``counts``, (n_rows, k); ``weight``, a float or (n_rows,), is how often each row
    counts.
    """
    prior = prior.double()
    weight = torch.as_tensor(weight, dtype=prior.dtype, device=prior.device)
    weight = weight.expand(len(counts))
    totals = torch.digamma(prior.sum() + counts.sum(1, dtype=torch.float64))
    if compiled.is_compiled(counts.device):
        # Most counts are 0, and take no time.
        sums = compiled.digamma_gains(prior, counts, weight)
        sums += weight.sum() * torch.digamma(prior)
    else:
        sums = scaled(torch.digamma(prior + counts), weight).sum(0)
    return sums - (weight * totals).sum()


def check_prior(prior, name, *shapes):
    """A prior's parameter: "auto", a float, or a positive array of one of the shapes.

    Raises
    ------
    ValueError
        If the parameter is none of these.
    """
    if isinstance(prior, str):
        return prior
    # A copy, since torch takes nothing that runs backwards.
    array = np.array(received(prior), dtype=np.float64, order="C")
    if array.ndim == 0:
        return float(array)
    if array.shape not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"{name} must have shape {expected}, got {array.shape}.")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name} must be positive and finite in every entry.")
    return array


def _root(increasing):
    """The root of an increasing function of a positive number, within PRIOR_RANGE.

    NaN if the function has no root, as for numbers that are too large.
    """
    low, high = np.log(PRIOR_RANGE)
    lowest = increasing(math.exp(low))
    if math.isnan(lowest):
        return math.nan
    if lowest >= 0:
        return PRIOR_RANGE[0]
    if increasing(math.exp(high)) <= 0:
        return PRIOR_RANGE[1]
    root = scipy.optimize.brentq(lambda t: increasing(math.exp(t)), low, high)
    return math.exp(root)
