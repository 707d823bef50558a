r"""The lowest weights and the factors above them, in closed form.

A row has factors z with a gamma posterior each, of means z_k and shapes; features have
weights W, with a posterior likewise, of means w_kv; c is 1 / shape, m = zw. This file
has the contribution of the expected log likelihood of ``emissions.py`` to the bound,
and its updates of z and W.

**Counts,** x ~ Poisson((z W)_v), and **binary data**, P(x_v = 1) = 1 - exp(-(z W)_v).
The latter say whether a count y of that rate is at least 1. Given that it is, its
posterior is taken to be a Poisson count p without the zero; it has the mean
p / (1 - exp(-p)), and what it adds to the bound is, for any p,

.. math::
    E[y] \big(E \log (zW)_v - \log p\big) + \log(e^p - 1) - E (zW)_v,

which is largest at log p = E log (z W)_v: log(e^p - 1) then stands where counts have x
log p. As a function of log p it is convex, and p may be a lower bound as well.

*Allocated*: with the shares of each count among the factors, as in Poisson
factorization, E log (z W)_v >= log sum_k exp(E log z_k + E log W_kv). A bound whose
updates are exact. *Expanded*: it is taken to second order around the means,

.. math::
    E \log (zW)_v \approx \log m_v - \frac{s_v}{2 m_v^2}, \qquad
    s_v = \sum_k z_k^2 w_{kv}^2 \big((1 + c_k)(1 + c_{kv}) - 1\big).

With R = (x / m) (1 + s / m^2), P = x / m^2, Q_k = sum_v P_v w_kv^2 (1 + c_kv) and Q0_k
the same without c, the bound is stationary in z_k and in its shape where, with the
prior Gamma(a, r),

.. math::
    a + z_k \sum_v R_v w_{kv} = z_k \Big(r_k + \sum_v w_{kv}\Big)
        + z_k^2 \big((1 + c_k) Q_k - Q^0_k\big), \qquad
    \text{shape} = a + \frac{z_k^2 Q_k}{g(\text{shape})},

g(s) = 2 s^2 (psi'(s) - 1/s), which falls from 2 at 0 to 1. The mean is multiplied by
the ratio of the two sides, to a power above 1 (over-relaxation). Binary data have E[y]
in the place of x. (To expand log(e^m - 1) itself would be of no use: where m is large
it is almost linear, and lets m vary as if it could not come near 0.)

**Real numbers** are in ``gaussian_weights.py``.

**Missing entries** are left out of all sums over v, for a row, and over n, for a
weight.

**Spikes and slabs.** W ~ pi Gamma(c, d) + (1 - pi) Gamma(1, d'), the second, a spike,
with 1e-2 of the mean of the first. For allocated counts the posterior of a weight that
counts n and exposures t lead to is such a mixture too: Gamma(c_s + n, d_s + t) with
odds that are those of pi times the ratio of the two normalisers
d_s^{c_s} Gamma(c_s + n) / (Gamma(c_s) (d_s + t)^{c_s + n}). pi is their mean.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from skdeepfactor._math.allocation import Allocation, Weights
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gammas import digamma, gamma_draws, gamma_kl
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import (
    map_values,
    product_at,
    row_sum,
    scaled,
    slices,
    transposed_products,
)

# Means, and products of them, below these are taken to be these.
FLOORS = {torch.float32: 1e-12, torch.float64: 1e-100}

# Shape of the spike, its mean as a share of the slab's, and where pi is kept.
SPIKE_SHAPE, SPIKE_MEAN = 1.0, 1e-2
INCLUSION_RANGE = (1e-6, 1 - 1e-6)


def mean_log(shape, mean):
    """E[log y] of gamma variables."""
    return digamma(shape) - (shape / mean).log()


class LowestWeights(nn.Module, ABC):
    """A posterior of the lowest weights, whose means are (n_features, k).

    ``emission`` is the likelihood of the data. ``view`` describes a batch under given
    factors, for ``likelihood``, ``step`` and ``add``.
    """

    #: Whether factors and weights step together, from the same view.
    is_joint = False

    #: Whether the data are counts, taken to second order.
    expands_counts = False

    #: Names of parameters that nothing but ``update`` reads.
    statistics: tuple = ()

    def __init__(self, shape, emission, *, weight_shape, weight_rate, may_miss=False):
        super().__init__()
        self.emission, self.may_miss = emission, may_miss
        self.prior_shape, self.prior_rate = weight_shape, weight_rate
        # Sums over rows of the statistics of weights, by feature.
        self.counts = nn.Parameter(torch.zeros(shape))
        self.register_buffer("weight_mean", torch.ones(shape))
        self.register_buffer("weight_concentration", torch.ones(shape))

    def initialize(self, X, weights, counts, level):
        """Start from counts of each unit in each feature, of units of size ``level``.

        X gives the scale of the data, and ``weights`` how often each row counts.
        """
        self.emission.initialize(X, weights)
        mean = np.maximum(counts / (weights.sum() * level), 1e-8 * level)
        self.weight_mean.copy_(torch.from_numpy(mean.T))
        shape = self.prior_shape + counts
        self.weight_concentration.copy_(torch.from_numpy(shape.T))

    def with_sums(self, batch):
        """A batch, with sums over the observed features of incomplete rows."""
        if batch.observed is None:
            return batch
        return batch.with_side(sums=batch.observed @ self.summed())

    @abstractmethod
    def summed(self):
        """Numbers to sum over the observed features of rows, (n_features, width)."""

    def cold(self, batch, prior):
        """Means and shapes of rows from their data, under a prior's shape."""
        counts, totals = self.emission.shared_out(batch, self.weight_mean)
        # From the floor an empty row takes hundreds of steps to its prior.
        has_some = (counts > 0).any(1, keepdim=True)
        mean = torch.where(has_some, counts, prior) / totals
        return mean.clamp_min(FLOORS[counts.dtype]), prior + counts

    @abstractmethod
    def view(self, batch, mean, shape):
        """Quantities that steps and the likelihood are computed from."""

    @abstractmethod
    def likelihood(self, view):
        """Expected log likelihood of each row, or a bound, except for the base."""

    @abstractmethod
    def step(self, view, prior, rate, power):
        """New means and shapes of the factors under a prior Gamma(prior, rate)."""

    @abstractmethod
    def add(self, view, scale):
        """Add the statistics of the weights: sums over rows, times ``scale``.

        That is a float, or a tensor (n_rows,) of factors of the rows.
        """

    def add_means(self, batch, mean, scale):
        """Add the statistics that depend on the means after a step."""

    @abstractmethod
    def update(self, power):
        """A step on the weights."""

    def closed(self, batch, mean, shape):
        """A closed-form bound on the expected log likelihood except for the base."""
        return self.likelihood(self.view(batch, mean, shape))

    def _slices(self):
        """Yield slices of the features, and the weights' shapes and means there."""
        for features in slices(*self.weight_mean.shape):
            yield (
                features,
                self.weight_concentration[features],
                self.weight_mean[features],
            )

    def draw(self, generator):
        """Weights from their posterior, (n_features, k), float64."""
        draws = torch.empty_like(self.weight_mean, dtype=torch.float64)
        for features, shape, mean in self._slices():
            draws[features] = gamma_draws(shape, mean, generator)
        return draws

    def kl(self):
        """The divergence of the weights, float64."""
        prior, parts = (self.prior_rate, math.log(self.prior_rate)), []
        for _, shape, mean in self._slices():
            logs = mean_log(shape, mean)
            kl = gamma_kl(shape, shape / mean, logs, self.prior_shape, *prior)
            parts.append(kl.sum())
        return torch.stack(parts).sum()

    def inclusion_probabilities(self):
        """Posterior probabilities of the slab, (k, n_features); None without spikes."""
        return

    def refresh(self):
        """Recompute values that follow from the weights."""


class CountWeights(LowestWeights):
    """Weights of counts, or of binary data."""

    def __init__(self, shape, emission, **prior):
        super().__init__(shape, emission, **prior)
        # One number serves all features that all rows have.
        self.totals = nn.Parameter(torch.zeros(shape if self.may_miss else shape[1]))
        # For the closed-form bound, which not every pass needs.
        self._allocating = None

    def initialize(self, X, weights, counts, level):
        super().initialize(X, weights, counts, level)
        self.counts.data.copy_(torch.from_numpy(counts.T))
        self.totals.data.fill_(weights.sum() * level)

    def summed(self):
        return self.weight_mean

    def totals_of(self, batch):
        """Sums of the weights over observed features; one for all complete rows."""
        return batch.side.get("sums", self.weight_totals)

    def totals_for(self, features):
        """Totals of some features; one for all if no entry is missing."""
        totals = self.totals.detach()
        return totals[features] if self.may_miss else totals

    def expected_totals(self, batch, mean):
        """Sum of E (z W)_v over the observed features of each row, float64."""
        return (mean * self.totals_of(batch)).sum(1, dtype=torch.float64)

    def closed(self, batch, mean, shape):
        counted = self.counted(batch.x, self.allocate(batch.x, mean, shape))
        return counted - self.expected_totals(batch, mean)

    def add_means(self, batch, mean, scale):
        totals = scaled(mean, scale)
        observed = batch.observed
        totals = totals.sum(0) if observed is None else observed.T @ totals
        gradient(self.totals).add_(totals)

    def allocate(self, x, mean, shape):
        """The counts allocated to the factors."""
        return self.emission.allocate(x, mean_log(shape, mean), self._weights)

    def counted(self, x, allocation):
        """Counts of each row times E log (z W), or the term in its place."""
        return self.emission.allocated_log_likelihood(x, allocation, self._weights)

    def given_total(self, batch, mean, shape):
        """The bound of the counts as words in order, given how many they are."""
        counted = self.counted(batch.x, self.allocate(batch.x, mean, shape))
        return counted - batch.totals * self.expected_totals(batch, mean).log()

    def refresh(self):
        self.weight_totals = self.weight_mean.sum(0)
        self._allocating = None

    @property
    def _weights(self):
        """Weights that allocate counts to the factors."""
        if self._allocating is None:
            shape = self.weight_mean.T.shape
            self._allocating = Weights.from_mean_log(
                self.mean_log_weights, shape, self.weight_mean
            )
        return self._allocating

    def mean_log_weights(self, features):
        """E[log W] of some features, (k, n_features)."""
        shape = self.weight_concentration[features]
        return mean_log(shape, self.weight_mean[features]).T


class AllocatedView(NamedTuple):
    """A batch whose counts are allocated."""

    batch: Batch
    mean: torch.Tensor
    allocation: Allocation


class AllocatedWeights(CountWeights):
    """Weights of counts that are allocated to the factors."""

    def view(self, batch, mean, shape):
        return AllocatedView(batch, mean, self.allocate(batch.x, mean, shape))

    def likelihood(self, view):
        counted = self.counted(view.batch.x, view.allocation)
        return counted - self.expected_totals(view.batch, view.mean)

    def step(self, view, prior, rate, power):
        shape = prior + view.allocation.row_counts(self._weights)
        return shape / (rate + self.totals_of(view.batch)), shape

    def add(self, view, scale):
        counts = gradient(self.counts)
        view.allocation.add_feature_counts(counts.T, self._weights, scale)

    def update(self, power):
        self.weight_concentration.copy_(self.prior_shape + self.counts.detach())
        totals = self.prior_rate + self.totals.detach()
        self.weight_mean.copy_(self.weight_concentration / totals)


class SpikedWeights(AllocatedWeights):
    """Weights of allocated counts, with spikes and slabs."""

    def __init__(self, shape, emission, **prior):
        super().__init__(shape, emission, **prior)
        spike_rate = self.prior_rate / self.prior_shape * SPIKE_SHAPE / SPIKE_MEAN
        self.kinds = (self.prior_shape, self.prior_rate), (SPIKE_SHAPE, spike_rate)
        self.register_buffer("inclusion", torch.full(shape, 0.5))
        self.register_buffer("inclusion_rate", torch.tensor(0.5))

    def initialize(self, X, weights, counts, level):
        super().initialize(X, weights, counts, level)
        self.update(1.0)

    def update(self, power):
        slab, spike = (self._log_evidence(*kind) for kind in self.kinds)
        odds = (slab - spike) + torch.logit(self.inclusion_rate)
        self.inclusion.copy_(odds.sigmoid())
        self.inclusion_rate.copy_(self.inclusion.mean().clamp(*INCLUSION_RANGE))
        means = (shape / rate for shape, rate in self._posteriors())
        self.weight_mean.copy_(self._mixed(*means))
        self.weight_concentration.copy_(self.prior_shape + self.counts.detach())

    def _log_evidence(self, shape, rate):
        """Log probability of the counts of each weight, float64."""
        counts, totals = self.counts.detach().double(), self.totals.detach().double()
        total = shape + counts
        ratio = (
            torch.lgamma(total) - math.lgamma(shape) - counts * (rate + totals).log()
        )
        return ratio - shape * torch.log1p(totals / rate)

    def _posteriors(self, features=slice(None)):
        """Shape and rate of the weights of some features, for slabs and for spikes."""
        counts, totals = self.counts.detach()[features], self.totals_for(features)
        return [(shape + counts, rate + totals) for shape, rate in self.kinds]

    def _mixed(self, slab, spike, features=slice(None)):
        inclusion = self.inclusion[features]
        return inclusion * slab + (1 - inclusion) * spike

    def mean_log_weights(self, features):
        logs = (
            digamma(shape) - rate.log() for shape, rate in self._posteriors(features)
        )
        return self._mixed(*logs, features).T

    def kl(self):
        inclusion, rate = self.inclusion.double(), self.inclusion_rate.double()
        kl = torch.xlogy(inclusion, inclusion / rate)
        kl += torch.xlogy(1 - inclusion, (1 - inclusion) / (1 - rate))
        kinds = zip(
            (inclusion, 1 - inclusion), self._posteriors(), self.kinds, strict=True
        )
        for share, (shape, rate), (prior_shape, prior_rate) in kinds:
            shape, rate = shape.double()[..., None], rate.double()[..., None]
            prior = prior_shape, prior_rate, math.log(prior_rate)
            kl += share * gamma_kl(shape, rate, digamma(shape) - rate.log(), *prior)
        return kl.sum()

    def draw(self, generator):
        slab, spike = (
            gamma_draws(shape, shape / rate, generator)
            for shape, rate in self._posteriors()
        )
        uniform = torch.from_numpy(generator.random(slab.shape)).to(slab)
        return torch.where(uniform < self.inclusion, slab, spike)

    def inclusion_probabilities(self):
        return self.inclusion.T


class ExpandedView(NamedTuple):
    """A batch of counts under given factors: f, R and P at its entries."""

    batch: Batch
    mean: torch.Tensor
    shape: torch.Tensor
    terms: torch.Tensor
    ratio: torch.Tensor
    per_square: torch.Tensor


class ExpandedWeights(CountWeights):
    """Weights of counts to second order around the means."""

    is_joint = True

    #: Names of parameters that nothing but ``update`` reads.
    statistics = ("counts", "totals", "curvature")

    def __init__(self, shape, emission, **prior):
        super().__init__(shape, emission, **prior)
        self.curvature = nn.Parameter(torch.zeros(2, *shape))
        self.expands_counts = emission.is_counts

    def refresh(self):
        super().refresh()
        self._square = self.weight_mean.square()
        self._square_spread = self._square * (1 + 1 / self.weight_concentration)

    def moments(self):
        """Means of the weights, their squares, and E[w^2], each (n_features, k)."""
        return self.weight_mean, self._square, self._square_spread

    def view(self, batch, mean, shape):
        x, square = batch.x, mean.square()
        floor = FLOORS[mean.dtype]
        m = product_at(x, mean, self.weight_mean.T)
        m = map_values(lambda m: m.clamp_min_(floor), m)
        spread = product_at(x, square * (1 + 1 / shape), self._square_spread.T)
        flat = product_at(x, square, self._square.T)
        expanded = self.emission.expand(x, m, spread, flat)
        return ExpandedView(batch, mean, shape, *expanded)

    def likelihood(self, view):
        return row_sum(view.terms) - self.expected_totals(view.batch, view.mean)

    def step(self, view, prior, rate, power):
        mean, shape = view.mean, view.shape
        curvature = mean.square() * (view.per_square @ self._square_spread)
        flat = mean.square() * (view.per_square @ self._square)
        gain = prior + mean * (view.ratio @ self.weight_mean)
        totals = rate + self.totals_of(view.batch)
        loss = mean * totals + (1 + 1 / shape) * curvature - flat
        mean = (mean * (gain / loss) ** power).clamp_min(FLOORS[mean.dtype])
        return mean, _shape(prior, curvature, shape)

    def add(self, view, scale):
        counts, curvature = map(gradient, (self.counts, self.curvature))
        mean = view.mean
        for features, product in transposed_products(view.ratio, scaled(mean, scale)):
            product *= self.weight_mean[features]
            counts[features].add_(product)
        square = scaled(mean.square(), scale)
        for place, values in enumerate((square * (1 + 1 / view.shape), square)):
            for features, product in transposed_products(view.per_square, values):
                curvature[place, features].add_(product)

    def update(self, power):
        prior = self.prior_shape
        for features, shape, mean in self._slices():
            spread, flat = self.curvature.detach()[:, features]
            square = mean.square()
            exposure = self.prior_rate + self.totals_for(features)
            loss = mean * exposure + square * ((1 + 1 / shape) * spread - flat)
            shape.copy_(_shape(prior, square * spread, shape))
            mean.mul_(((prior + self.counts.detach()[features]) / loss) ** power)
            mean.clamp_min_(FLOORS[mean.dtype])


def gradient(parameter):
    """A parameter's ``.grad``, to be added to; zeros at first."""
    return FactorModule.gradient(parameter)


def _shape(prior, curvature, shape):
    """A step on shapes: prior + curvature / g(shape)."""
    # To 1 % of 2 s^2 (trigamma(s) - 1 / s), with its limits and slopes.
    g = 1 + (1 + 0.71 * shape) / (1 + 2.71 * shape + 2.13 * shape.square())
    return prior + curvature / g
