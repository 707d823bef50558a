r"""Data given the products of factors and weights, p(x | z W).

**Counts,** :math:`x_v \sim \text{Poisson}((z W)_v)`; **binary data,** :math:`P(x_v = 1)
= 1 - \exp(-(z W)_v)`, which say whether a count of that rate is at least 1; **real
numbers,** :math:`x_v \sim N((z W)_v, \sigma^2)`. Missing entries of a row are left out.

Both solvers use these. They differ in the expected log likelihood, which stands with
each of them.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import nn

from skdeepfactor._math.allocation import (
    Weights,
    allocate,
    allocate_indicators,
    indicator_excess,
    indicator_log_likelihood,
    log_factorials,
)
from skdeepfactor._math.likelihoods import LARGEST_MEAN
from skdeepfactor._math.ops import (
    map_values,
    product,
    product_at,
    products_at_entries,
    row_sum,
)
from skdeepfactor._math.starts import column_moments

# The least variance of noise, as a share of the mean square of the data.
NOISE_FLOOR = 1e-6


class Emission(nn.Module, ABC):
    """p(x | z W). Weights are (n_features, k).

    ``by_gradients`` says whether its own parameters are learnt along gradients.
    """

    #: Whether data are counts, observed in full.
    is_counts = False

    def __init__(self, *, by_gradients=False):
        super().__init__()

    def initialize(self, X, weights):
        """Start from rows, of which ``weights`` say how often each counts."""

    def shared_out(self, batch, weights):
        """Data of rows shared out by weights, (n_rows, k), and their exposures.

        Exposures are sums of the weights over the observed features, (k,) or (n_rows,
        k).
        """
        shares = weights / weights.sum(1, keepdim=True)
        # Negative numbers come from noise alone.
        counts = map_values(torch.relu, batch.x) @ shares
        totals = weights.sum(0)
        if batch.observed is not None:
            of_rows = batch.observed @ weights
            totals = torch.where(of_rows > 0, of_rows, totals)
        return counts, totals

    def cold(self, batch, weights, prior, n_sharings):
        """Means and shapes of rows from their data alone, under a prior's shape.

        For units that overlap, sharing out once is far from the optimum.
        """
        counts, totals = self.shared_out(batch, weights)
        shape = prior + counts
        return shape / totals, shape

    @abstractmethod
    def constants(self, batch):
        """Terms of each row's log likelihood that are computed once, float64."""

    @abstractmethod
    def base(self, constants, batch):
        """Log likelihood from the constants and the parameters of the emission."""

    @abstractmethod
    def drawn(self, batch, z, weights, *, variance=None, given_total=False):
        """Log likelihood of rows given factors and weights, float64, except ``base``.

        ``variance`` is that of weights that are means, like ``weights``; with
        ``given_total`` counts are words in order. Gradients flow to all.
        """

    @abstractmethod
    def curvature(self, batch, z, weights):
        """Minus the second derivative of the log likelihood of entries in z W.

        Like x, and 0 where that is for counts; or an array of all entries.
        """

    def decode(self, mean):
        """E[x], given z W."""
        return mean

    @abstractmethod
    def sample(self, mean, generator):
        """Data drawn given z W, an array, by a NumPy generator."""

    def noise_variance(self):
        """Variance of Gaussian noise, a float; None for other data."""
        return


class CountEmission(Emission):
    """Counts, observed in full or as indicators."""

    def cold(self, batch, weights, prior, n_sharings):
        counts, totals = self.shared_out(batch, weights)
        logs = weights.T.log()
        allocating = Weights.from_mean_log(lambda at: logs[:, at], logs.shape, logs)
        for _ in range(n_sharings):
            mean = (prior + counts) / totals
            allocation = self.allocate(batch.x, mean.log(), allocating)
            counts = allocation.row_counts(allocating)
        return (prior + counts) / totals, prior + counts

    def base(self, constants, batch):
        return -constants

    def drawn(self, batch, z, weights, *, variance=None, given_total=False):
        observed = batch.observed
        if batch.is_filled and variance is None and not torch.is_grad_enabled():
            m = positive(z @ weights.T).double()
            terms = self._terms(batch.x.double(), m).sum(1)
        else:
            terms = self._terms_of_entries(batch, z, weights, variance)
        of_rows = weights.sum(0) if observed is None else observed @ weights
        totals = (z * of_rows).sum(1, dtype=torch.float64)
        return terms - (batch.totals * totals.log() if given_total else totals)

    def _terms_of_entries(self, batch, z, weights, variance):
        """Sums of ``_terms`` over the entries of each row."""
        x, entries = batch.counts, batch.entries
        m = positive(products_at_entries(x, z, weights)).double()
        terms = self._terms(entries.values, m)
        if variance is not None:
            # To second order, and as of log-normals, which no variance makes -inf.
            spread = products_at_entries(x, z.square(), variance)
            # For a product near 0, the slope would overflow in the weights.
            least = torch.finfo(z.dtype).tiny ** (1 / 3)
            spread = spread / m.clamp_min(least).square()
            terms = terms - 0.5 * self._bend(entries.values, m) * torch.log1p(spread)
        return entries.row_sum(terms)

    def curvature(self, batch, z, weights):
        m = product_at(batch.x, z.to(batch.x.dtype), weights.to(batch.x.dtype).T)
        return map_values(
            lambda x, m: torch.where(x > 0, self._bend(x, m) / m.square(), 0.0),
            batch.x,
            map_values(positive, m),
        )

    @abstractmethod
    def _terms(self, values, m):
        """Log likelihood of values with mean m, without -m; 0 for 0."""

    @abstractmethod
    def _bend(self, values, m):
        """Minus m^2 times the second derivative of ``_terms``."""

    @abstractmethod
    def allocate(self, x, mean_log, weights):
        """Counts allocated to factors of E[log z]."""

    @abstractmethod
    def allocated_log_likelihood(self, x, allocation, weights):
        """Counts of each row times E log (z W), or the term in its place."""

    @abstractmethod
    def expand(self, x, m, spread, flat):
        """Terms of x log m to second order, R and P; all arguments are used up."""


class Poisson(CountEmission):
    """Counts."""

    is_counts = True

    def constants(self, batch):
        return log_factorials(batch.x)

    def _terms(self, values, m):
        return values * m.log()

    def _bend(self, values, m):
        return values

    def sample(self, mean, generator):
        return generator.poisson(np.minimum(mean, LARGEST_MEAN))

    def allocate(self, x, mean_log, weights):
        return allocate(x, mean_log, weights)

    def allocated_log_likelihood(self, x, allocation, weights):
        return allocation.log_likelihood(x, weights)

    def expand(self, x, m, spread, flat):
        return _expanded(x, m, spread, flat)


class Bernoulli(CountEmission):
    """Whether counts are at least 1."""

    def constants(self, batch):
        return 0.0 * batch.totals

    def _terms(self, values, m):
        return values * (m + (-torch.expm1(-m)).log())

    def _bend(self, values, m):
        return (-m).exp() * (m / torch.expm1(-m)).square()

    def decode(self, mean):
        return -torch.expm1(-mean)

    def sample(self, mean, generator):
        return generator.binomial(1, -np.expm1(-mean)).astype(np.float64)

    def allocate(self, x, mean_log, weights):
        return allocate_indicators(x, mean_log, weights)

    def allocated_log_likelihood(self, x, allocation, weights):
        return indicator_log_likelihood(x, allocation, weights)

    def expand(self, x, m, spread, flat):
        log_p = map_values(
            lambda m, s, f: m.log() - 0.5 * (s - f) / m.square(), m, spread, flat
        )
        excess = map_values(indicator_excess, log_p)
        counts = map_values(lambda x, e: x * e.exp(), x, excess)
        terms = map_values(
            lambda x, log_p, e: x * (log_p - e + log_p.exp()), x, log_p, excess
        )
        # The rest is that of the expected counts.
        _, ratio, per_square = _expanded(counts, m, spread, flat)
        return terms, ratio, per_square


class Gaussian(Emission):
    """Real numbers with noise of one variance, which is learnt.

    In closed form that is a buffer, ``noise``; along gradients, ``log_noise`` is the
    logarithm of its root, above a floor.
    """

    def __init__(self, *, by_gradients=False):
        super().__init__()
        self.log_noise = None
        if by_gradients:
            self.log_noise = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("noise", torch.ones(()))
        self.register_buffer("noise_floor", torch.zeros(()))

    def initialize(self, X, weights):
        mean, std = column_moments(X, weights)
        mean_square = float(np.mean(std**2 + mean**2)) or 1.0
        variance = float(np.mean(std**2))
        self.noise_floor.fill_(NOISE_FLOOR * mean_square)
        if self.log_noise is None:
            self.noise.fill_(max(variance, NOISE_FLOOR * mean_square))
        else:
            self.log_noise.data.fill_(0.5 * math.log(variance + 1e-300))

    def variance(self):
        """Variance of the noise, a tensor."""
        if self.log_noise is None:
            return self.noise
        return (2 * self.log_noise).exp() + self.noise_floor

    def constants(self, batch):
        values = map_values(torch.Tensor.double, batch.x)
        return row_sum(map_values(torch.square, values))

    def base(self, constants, batch):
        noise, n_features = self.variance().double(), batch.x.shape[1]
        if batch.observed is not None:
            n_features = batch.observed.sum(1, dtype=torch.float64)
        normaliser = n_features * (2 * math.pi * noise).log()
        return -0.5 * (normaliser + constants / noise)

    def drawn(self, batch, z, weights, *, variance=None, given_total=False):
        x, observed = batch.x, batch.observed
        if observed is None:
            terms = z @ (weights.T @ weights) - 2 * product(x, weights)
            errors = (z.double() * terms.double()).sum(1)
        else:
            m = observed * (z @ weights.T)
            errors = (m * (m - 2 * x)).sum(1, dtype=torch.float64)
        if variance is not None:
            of_rows = variance.sum(0) if observed is None else observed @ variance
            errors = errors + (z.square() * of_rows).sum(1, dtype=torch.float64)
        return -0.5 * errors / self.variance().double()

    def curvature(self, batch, z, weights):
        curvature = 1 / self.variance().to(batch.x.dtype)
        if batch.observed is None:
            return curvature.expand(batch.x.shape)
        return curvature * batch.observed

    def sample(self, mean, generator):
        return generator.normal(mean, math.sqrt(self.noise_variance()))

    def noise_variance(self):
        return float(self.variance().detach())


EMISSIONS = {"poisson": Poisson, "bernoulli": Bernoulli, "gaussian": Gaussian}


def positive(values):
    """Products of small draws, at least the smallest normal number.

    A bound on those that underflow, not the product itself: take float64 for shapes far
    below 0.01.
    """
    return values.clamp_min(torch.finfo(values.dtype).tiny)


def _expanded(x, m, spread, flat):
    """Terms of x log m to second order, R and P; all arguments are used up."""
    # All in place: these arrays are what a pass takes its time for.
    inverse = map_values(torch.reciprocal, m)
    relative = map_values(
        lambda s, f, i: s.sub_(f).mul_(i).mul_(i), spread, flat, inverse
    )
    ratio = map_values(lambda x, i, place: torch.mul(x, i, out=place), x, inverse, flat)
    per_square = map_values(torch.Tensor.mul_, inverse, ratio)
    ratio = map_values(lambda q, r: q.addcmul_(q, r), ratio, relative)
    terms = map_values(
        lambda x, m, r: m.log_().sub_(r, alpha=0.5).mul_(x), x, m, relative
    )
    return terms, ratio, per_square
