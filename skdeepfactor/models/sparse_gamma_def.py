r"""Sparse gamma deep exponential families: layers of gamma factors under counts.

Rows n, layers l = 1 (at the data) to L (top), layer l with :math:`K_l` units:

.. math::
    z_{nL,k} \sim \text{Gamma}(a_L, b_L), \qquad
    z_{nl,k} \sim \text{Gamma}\big(a_l, a_l / \mu_{nlk}\big), \quad
    \mu_{nl} = z_{n,l+1} W_l, \qquad
    x_{nv} \sim \text{Poisson}\big((z_{n1} W_0)_v\big),

with weights :math:`W_{l,jk} \sim \text{Gamma}(c, d)`. Shapes far below 1 make factors
and weights sparse. Every upper unit is a group of units below it.

**Posterior.** Gamma for :math:`z_1` and :math:`W_0`; for all others the generalized
inverse Gaussian :math:`q(y) \propto y^{g-1} e^{-\rho y - \tau / y}` with g the shape of
its prior, which has E[1/y] where a gamma of small shape has none.

**Upper layers.** With :math:`M = E[z_{l+1}] E[W_l]` and
:math:`C_k = 1 / \sum_j (E[1/z_{l+1,j}]\, E[1/W_{l,jk}])^{-1}`,

.. math::
    E[-\log \mu_k] \ge -\log M_k, \qquad E[1 / \mu_k] \le C_k,

by Jensen's inequality, and by that of Cauchy and Schwarz with shares
:math:`\phi_{jk} = C_k / (E[1/z_j] E[1/W_{jk}])`. So the expected log density of layer l
is at least

.. math::
    a_l \log a_l - \log \Gamma(a_l) - a_l \log M_k + (a_l - 1) E \log z_{lk}
    - a_l E[z_{lk}]\, C_k,

the prior of :math:`z_{lk}` has the rate :math:`a_l C_k`, and at the current M (whose
logarithm lies below its tangent) and :math:`\phi` the best posteriors of the layer
above and of its weights are, in closed form,

.. math::
    \rho_j = r_j + a_l \sum_k \frac{E[W_{jk}]}{M_k}, \qquad
    \tau_j = a_l \sum_k E[z_{lk}]\, \phi_{jk}^2\, E[1/W_{jk}],

:math:`r_j` the rate of the unit's own prior; for :math:`W_{jk}` the same with the roles
of z and W exchanged and sums over rows in the place of sums over k.

**Counts, in the bound.** With shares of each count among the units of layer 1, as in
Poisson factorization, :math:`E \log (z W)_v \ge \log \sum_k e^{E \log z_k + E \log
W_{kv}}`. This is the bound that ``score`` is made of, and the one that
``solver="auxiliary"`` climbs.

**Counts, in the updates.** That bound lies far below the evidence where a count has
many sources. Instead, ``solver="expansion"`` takes :math:`E \log (z W)_v` to second
order around the means (z, w for short, m = zw): with :math:`c = 1 / \text{shape}`,

.. math::
    F = \sum_v x_v \Big(\log m_v - \frac{s_v}{2 m_v^2}\Big) - m_v - KL, \qquad
    s_v = \sum_k z_k^2 w_{kv}^2 \big((1 + c_k)(1 + c_{kv}) - 1\big).

With :math:`R_v = (x_v / m_v)(1 + s_v / m_v^2)`, :math:`Q_k = \sum_v (x_v / m_v^2)
w_{kv}^2 (1 + c_{kv})` and :math:`Q^0_k` the same without c, F is stationary in the mean
:math:`z_k` and in its shape where

.. math::
    a + z_k \sum_v R_v w_{kv} = z_k \Big(r_k + \sum_v w_{kv}\Big)
        + z_k^2 \big((1 + c_k) Q_k - Q^0_k\big), \qquad
    \text{shape} = a + \frac{z_k^2 Q_k}{g(\text{shape})},

with r the rate of the prior and g(s) = 2 s^2 (psi'(s) - 1/s), which falls from 2 at 0
to 1. The mean is multiplied by the ratio of the two sides, to a power above 1 (over-
relaxation); the same for w, with sums over rows. The logarithms of all means are then
extrapolated from the last passes, with shapes as weights, and the extrapolation taken
back if F has fallen after the next one. F is no bound: what is reported as
``lower_bound_`` is a Monte Carlo estimate of the evidence lower bound itself.

Ranganath, Tang, Charlin and Blei (2015), Deep exponential families; Naesseth, Ruiz,
Linderman and Blei (2017), Reparameterization gradients through acceptance-rejection
sampling algorithms, for the setting; Hoffman, Blei and Cook (2010), Bayesian
nonparametric matrix factorization for recorded music, for the generalized inverse
Gaussian.
"""

import itertools
import math
import warnings
from numbers import Integral, Real
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.distributions import Gamma

from skdeepfactor.base import ConjugateFactorModel
from skdeepfactor.conjugate import (
    MAX_STEPS,
    Weights,
    allocate,
    fixed_point,
    log_factorials,
)
from skdeepfactor.distributions import InverseGaussians, digamma, gamma_kl
from skdeepfactor.initialization import (
    check_init,
    initial_counts,
    initial_parts,
    n_cold_passes,
)
from skdeepfactor.module import FactorModule
from skdeepfactor.ops import map_values, product_at, row_sum, transposed_products

# Means, and products of them, below these are taken to be these.
FLOORS = {torch.float32: 1e-12, torch.float64: 1e-100}

# Of rho times tau, which can collapse faster than exponentially.
FLOOR = 1e-14

# Every so many steps one is not over-relaxed, against oscillations.
PLAIN_EVERY = 10

# Draws for the bound of the training data, and how many are made at a time.
N_DRAWS = 20
DRAWS_AT_ONCE = 10


class Upper(NamedTuple):
    """Generalized inverse Gaussians: parameters, E[y], E[1 / y], log normaliser."""

    rho: torch.Tensor
    tau: torch.Tensor
    mean: torch.Tensor
    inverse: torch.Tensor
    log_normaliser: torch.Tensor

    @classmethod
    def of(cls, family, rho, tau):
        """With the moments of a family."""
        tau = torch.maximum(tau, FLOOR / rho)
        return cls(rho, tau, *family.moments(rho, tau))

    def entropy(self):
        """The entropy, but for (g - 1) E[log y], float64."""
        terms = self.rho * self.mean + self.tau * self.inverse
        return self.log_normaliser + terms.double()


class Factors(NamedTuple):
    """Posteriors of a batch's factors: mean and shape of layer 1, and upper layers."""

    mean: torch.Tensor
    shape: torch.Tensor
    uppers: list


class BottomPosterior(Gamma):
    """The posterior of layer 1, which knows those of the layers above."""

    def __init__(self, factors):
        rate = factors.shape / factors.mean
        super().__init__(factors.shape, rate, validate_args=False)
        self.factors = factors


class GammaBelief(FactorModule):
    """Counts of a row from layers of gamma factors.

    Local parameters of a row are the means and shapes of layer 1, and rho and tau of
    each layer above.
    """

    def __init__(
        self,
        layer_sizes,
        n_features,
        *,
        layer_shapes,
        top_rate,
        weight_shape,
        weight_rate,
        solver,
        over_relaxation,
        acceleration,
        inner_iter,
        tol,
    ):
        super().__init__()
        self.layer_sizes, self.layer_shapes = layer_sizes, layer_shapes
        self.top_rate = top_rate
        self.weight_shape, self.weight_rate = weight_shape, weight_rate
        self.solver, self.over_relaxation = solver, over_relaxation
        self.is_guarded, self.acceleration = solver == "expansion", acceleration
        self.inner_iter, self.inner_tol = inner_iter, tol
        self.state_width = 2 * sum(layer_sizes)
        # And log x! of the row, in two parts so as to lose no digits.
        self.local_width = self.state_width + 2
        shape = (n_features, layer_sizes[0])
        # Sums over rows of what the weights of layer 1 follow from, by feature.
        self.counts = nn.Parameter(torch.zeros(shape))
        if solver == "expansion":
            self.curvature = nn.Parameter(torch.zeros(2, *shape))
        self.totals = nn.Parameter(torch.zeros(layer_sizes[0]))
        self.register_buffer("weight_mean", torch.ones(shape))
        self.register_buffer("weight_concentration", torch.ones(shape))
        # rho, without the prior, and tau of the weights above.
        self.upper_statistics = nn.ParameterList(
            torch.ones(2, above, below)
            for below, above in itertools.pairwise(layer_sizes)
        )
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        # Of the last bound that was found by Monte Carlo.
        self.lower_bound_std_error = 0.0
        # One family for each layer above the first, and one for weights.
        self.families = nn.ModuleList(map(InverseGaussians, layer_shapes[1:]))
        self.weight_family = InverseGaussians(weight_shape)

    # Inference.

    def posterior(self, x, start=None):
        return BottomPosterior(self._solve(x, start))

    def features(self, x, layers):
        """Posterior means of the units of some layers, side by side."""
        factors = self._solve(x)
        means = [factors.mean, *(upper.mean for upper in factors.uppers)]
        return torch.cat([means[layer] for layer in layers], 1)

    def elbo(self, x, q=None):
        return self._bounds(x, self._solve(x) if q is None else q.factors)

    def word_bound(self, x):
        factors = self._solve(x)
        likelihood = self._allocate(x, factors).log_likelihood(x, self._weights)
        totals = (factors.mean * self._totals).sum(1, dtype=torch.float64)
        kl = self._local_kl(factors, self._links(factors))
        return likelihood - row_sum(x) * totals.log() - kl

    def _solve(self, x, start=None):
        """Posteriors of the rows, from what is remembered or from the counts."""
        state = fixed_point(
            lambda x, state: self._pack(self._step(x, self._unpack(state))),
            x,
            self._pack(self._cold(x))
            if start is None
            else start[:, : self.state_width],
            max_steps=self.inner_iter if self.training else MAX_STEPS,
            tol=self.inner_tol,
        )
        return self._unpack(state)

    def _unpack(self, state):
        widths = [size for size in self.layer_sizes for _ in range(2)]
        mean, shape, *rest = state[:, : self.state_width].split(widths, 1)
        uppers = [
            Upper.of(family, rho, tau)
            for family, rho, tau in zip(
                self.families, rest[::2], rest[1::2], strict=True
            )
        ]
        return Factors(mean, shape, uppers)

    @staticmethod
    def _pack(factors):
        parts = [factors.mean, factors.shape]
        for upper in factors.uppers:
            parts += [upper.rho, upper.tau]
        return torch.cat(parts, 1)

    def _cold(self, x):
        """Posteriors of rows from their counts: each shared out by the mean weights."""
        weights = self.weight_mean
        shares = weights / weights.sum(1, keepdim=True)
        counts = x @ shares
        floor = FLOORS[counts.dtype]
        mean = (counts / weights.sum(0)).clamp_min(floor)
        shape = self.layer_shapes[0] + counts
        uppers, below = [], mean
        for family, weights in zip(self.families, self._uppers, strict=True):
            shares = weights.mean / weights.mean.sum(0)
            below = (below @ shares.T / weights.mean.sum(1)).clamp_min(floor)
            rho, tau = family.of_mean(below)
            uppers.append(Upper.of(family, rho, tau))
        return Factors(mean, shape, uppers)

    def _step(self, x, factors):
        """One step on every layer of the rows, from the lowest to the top."""
        links = self._links(factors)
        if self.solver == "expansion":
            _, ratio, per_square = self._expand(x, factors)
            factors = self._expanded_step(factors, links, ratio, per_square)
        else:
            counts = self._allocate(x, factors).row_counts(self._weights)
            shape = self.layer_shapes[0] + counts
            mean = shape / (self._prior_rate(links, 0) + self._totals)
            factors = factors._replace(mean=mean, shape=shape)
        return self._step_above(factors, links)

    def _expanded_step(self, factors, links, ratio, per_square):
        """The step on the first layer, given R and x / m^2."""
        mean, shape = factors.mean, factors.shape
        prior = self.layer_shapes[0]
        rate = self._prior_rate(links, 0)
        curvature = mean.square() * (per_square @ self._square_spread)
        flat = mean.square() * (per_square @ self._square)
        gain = prior + mean * (ratio @ self.weight_mean)
        loss = mean * (rate + self._totals) + (1 + 1 / shape) * curvature - flat
        floor = FLOORS[mean.dtype]
        mean = (mean * (gain / loss) ** self._power()).clamp_min(floor)
        return factors._replace(mean=mean, shape=_shape(prior, curvature, shape))

    def _step_above(self, factors, links):
        """A step on the layers above the first, which ``links`` are of."""
        uppers, below = [], factors.mean
        for layer, (family, above) in enumerate(
            zip(self.families, factors.uppers, strict=True)
        ):
            weights, (expected, harmonic) = self._uppers[layer], links[layer]
            alpha = self.layer_shapes[layer]
            scaled = weights.mean @ (alpha / expected).T
            rate = self._prior_rate(links, layer + 1)
            tau = (alpha * below * harmonic.square()) @ (1 / weights.inverse).T
            uppers.append(
                Upper.of(family, scaled.T + rate, tau / above.inverse.square())
            )
            below = uppers[-1].mean
        return factors._replace(uppers=uppers)

    def _links(self, factors):
        """M and C of each layer but the top, each (n_rows, units)."""
        return [
            (
                above.mean @ weights.mean,
                1 / ((1 / above.inverse) @ (1 / weights.inverse)),
            )
            for above, weights in zip(factors.uppers, self._uppers, strict=True)
        ]

    def _prior_rate(self, links, layer):
        """The rate of the prior of a layer's units, 0 for the one at the data."""
        if layer == len(links):
            return self.top_rate
        return self.layer_shapes[layer] * links[layer][1]

    def _prior_log_rate(self, links, layer):
        """The logarithm of that rate, in expectation."""
        if layer == len(links):
            return math.log(self.top_rate)
        return math.log(self.layer_shapes[layer]) - links[layer][0].log()

    def _power(self):
        """The power of this update's steps on means."""
        # What is extrapolated must be the same in each step.
        is_plain = self.acceleration == 0 and int(self.n_updates) % PLAIN_EVERY == 0
        return 1.0 if is_plain else self.over_relaxation

    def positions(self, table):
        # By the Fisher information of the logarithm of a gamma's mean, its shape.
        mean, shape = table.split(self.layer_sizes[0], 1)[:2]
        return [(mean, shape), (self.weight_mean, self.weight_concentration)]

    def _expand(self, x, factors):
        """Expected log likelihood to second order, up to lgamma, R and x / m^2."""
        mean, square = factors.mean, factors.mean.square()
        floor = FLOORS[mean.dtype]
        m = product_at(x, mean, self.weight_mean.T)
        m = map_values(lambda m: m.clamp_min_(floor), m)
        # All in place: these arrays are what a pass takes its time for.
        relative = product_at(
            x, square * (1 + 1 / factors.shape), self._square_spread.T
        )
        flat = product_at(x, square, self._square.T)
        inverse = map_values(torch.reciprocal, m)
        relative = map_values(
            lambda s, f, i: s.sub_(f).mul_(i).mul_(i), relative, flat, inverse
        )
        ratio = map_values(
            lambda x, i, place: torch.mul(x, i, out=place), x, inverse, flat
        )
        per_square = map_values(torch.Tensor.mul_, inverse, ratio)
        ratio = map_values(lambda q, r: q.addcmul_(q, r), ratio, relative)
        terms = map_values(
            lambda x, m, r: m.log_().sub_(r, alpha=0.5).mul_(x), x, m, relative
        )
        return row_sum(terms), ratio, per_square

    def _allocate(self, x, factors):
        return allocate(x, _mean_log(factors.shape, factors.mean), self._weights)

    # Bounds.

    def _bounds(self, x, factors):
        """The closed-form bound of each row."""
        likelihood = self._allocate(x, factors).log_likelihood(x, self._weights)
        rest = self._rest(factors, self._links(factors))
        return likelihood - log_factorials(x) - rest

    def _rest(self, factors, links):
        """What the bound of each row lacks of its expected sum of x log (z W) - x!."""
        totals = (factors.mean * self._totals).sum(1, dtype=torch.float64)
        return totals + self._local_kl(factors, links)

    def _local_kl(self, factors, links):
        """Divergence of the factors of each row; a bound of it, or at drawn means.

        ``links`` are the means of the units of each layer but the top, and their
        inverses: M and C, which bound the expectations, or drawn ones.
        """
        mean, shape = factors.mean, factors.shape
        prior = (
            self.layer_shapes[0],
            self._prior_rate(links, 0),
            self._prior_log_rate(links, 0),
        )
        kl = gamma_kl(shape, shape / mean, _mean_log(shape, mean), *prior)
        for layer, upper in enumerate(factors.uppers, 1):
            alpha = self.layer_shapes[layer]
            terms = self._prior_rate(links, layer) * upper.mean - upper.entropy()
            terms = terms - alpha * self._prior_log_rate(links, layer)
            kl = kl + (terms + math.lgamma(alpha)).sum(1, dtype=torch.float64)
        return kl

    def global_kl(self):
        shape, mean = self.weight_concentration, self.weight_mean
        log_rate = math.log(self.weight_rate)
        prior = self.weight_shape, self.weight_rate, log_rate
        kl = gamma_kl(shape, shape / mean, _mean_log(shape, mean), *prior).sum()
        constant = self.weight_shape * log_rate - math.lgamma(self.weight_shape)
        for weights in self._uppers:
            terms = self.weight_rate * weights.mean - constant - weights.entropy()
            kl = kl + terms.sum(dtype=torch.float64)
        return kl

    @torch.no_grad()
    def data_bound(self, batches):
        """The evidence lower bound of all rows by Monte Carlo.

        Counts and means of layers are drawn; divergences that have a closed form, given
        these, are taken exactly. The standard error over draws is kept beside.
        """
        generator = np.random.default_rng(0)
        global_kl, bounds = self.global_kl().double(), []
        for _ in range(0, N_DRAWS, DRAWS_AT_ONCE):
            weights = [
                _draw(self.weight_concentration, self.weight_mean, generator)
                for _ in range(DRAWS_AT_ONCE)
            ]
            uppers = [
                self.weight_family.sample(w.rho, w.tau, DRAWS_AT_ONCE, generator)
                for w in self._uppers
            ]
            total = -global_kl.repeat(DRAWS_AT_ONCE)
            for x, start in batches():
                factors = self._solve(x) if start is None else self._unpack(start)
                total += self._drawn_bounds(x, factors, weights, uppers, generator)
            bounds += total.tolist()
        self.lower_bound_std_error = float(np.std(bounds, ddof=1) / len(bounds) ** 0.5)
        return float(np.mean(bounds))

    def _drawn_bounds(self, x, factors, weights, uppers, generator):
        """The sum over rows of the bound at each draw of the weights."""
        n_draws = len(weights)
        below = [
            family.sample(upper.rho, upper.tau, n_draws, generator) @ drawn
            for family, upper, drawn in zip(
                self.families, factors.uppers, uppers, strict=True
            )
        ]
        x = map_values(torch.Tensor.double, x)
        constant = log_factorials(x).sum()
        bounds = []
        for draw, weight in enumerate(weights):
            z = _draw(factors.shape, factors.mean, generator)
            m = product_at(x, z, weight.T)
            likelihood = row_sum(map_values(torch.xlogy, x, m)) - z @ weight.sum(0)
            links = [(mean[draw], 1 / mean[draw]) for mean in below]
            rows = likelihood - self._local_kl(factors, links)
            bounds.append(rows.sum() - constant)
        return torch.stack(bounds)

    # The face of the module.

    def decode(self, z):
        return z @ self.weight_mean.T

    def components(self):
        return self.weight_mean.T

    def sample(self, totals, generator):
        size = (len(totals), self.layer_sizes[-1])
        z = generator.gamma(self.layer_shapes[-1], 1 / self.top_rate, size)
        means = [upper.mean.cpu().numpy() for upper in self._uppers]
        for shape, weights in zip(self.layer_shapes[-2::-1], means[::-1], strict=True):
            z = generator.gamma(shape, np.maximum(z @ weights, 1e-300) / shape)
        return generator.poisson(z @ self.weight_mean.T.cpu().numpy())

    # Learning.

    @torch.no_grad()
    def backward(self, x, weight, n_samples, start=None):
        scale = -weight * n_samples
        constants = _split(log_factorials(x)) if start is None else start[:, -2:]
        if self.solver == "expansion":
            # One step on a row that is remembered; several on a new one.
            factors = self._solve(x) if start is None else self._unpack(start)
            links = self._links(factors)
            likelihood, ratio, per_square = self._expand(x, factors)
            rest = self._rest(factors, links)
            self._add_expanded(factors, ratio, per_square, scale)
            factors = self._expanded_step(factors, links, ratio, per_square)
            factors = self._step_above(factors, links)
        else:
            factors = self._solve(x, start)
            allocation = self._allocate(x, factors)
            likelihood = allocation.log_likelihood(x, self._weights)
            rest = self._rest(factors, self._links(factors))
            counts = self.gradient(self.counts)
            allocation.add_feature_counts(counts.T, self._weights, scale)
        self.gradient(self.totals).add_(factors.mean.sum(0), alpha=scale)
        self._add_above(factors, scale)
        bounds = likelihood - constants.double().sum(1) - rest
        local = torch.cat([self._pack(factors), constants.to(x.dtype)], 1)
        return bounds, local

    def _add_expanded(self, factors, ratio, per_square, scale):
        """Add what the means and shapes of the weights follow from."""
        counts, curvature = map(self.gradient, (self.counts, self.curvature))
        mean = factors.mean
        for features, product in transposed_products(ratio, mean):
            product *= self.weight_mean[features]
            counts[features].add_(product, alpha=scale)
        square = mean.square()
        for place, values in enumerate((square * (1 + 1 / factors.shape), square)):
            for features, product in transposed_products(per_square, values):
                curvature[place, features].add_(product, alpha=scale)

    def _add_above(self, factors, scale):
        """Add rho and tau of the weights of the layers above."""
        means = [factors.mean, *(upper.mean for upper in factors.uppers)]
        links = self._links(factors)
        for layer, (above, weights) in enumerate(
            zip(factors.uppers, self._uppers, strict=True)
        ):
            below, (expected, harmonic) = means[layer], links[layer]
            alpha = self.layer_shapes[layer]
            rho = above.mean.T @ (alpha / expected)
            tau = (1 / above.inverse).T @ (alpha * below * harmonic.square())
            tau = tau / weights.inverse.square()
            gradient = self.gradient(self.upper_statistics[layer])
            gradient.add_(torch.stack([rho, tau]), alpha=scale)

    @torch.no_grad()
    def after_step(self):
        prior, mean = self.weight_shape, self.weight_mean
        shape = self.weight_concentration
        counts = self.counts.detach()
        totals = self.weight_rate + self.totals.detach()
        if self.solver == "auxiliary":
            shape.copy_(prior + counts)
            mean.copy_(shape / totals)
        else:
            spread, flat = self.curvature.detach()
            square = mean.square()
            loss = mean * totals + square * ((1 + 1 / shape) * spread - flat)
            power = self._power()
            shape.copy_(_shape(prior, square * spread, shape))
            mean.mul_(((prior + counts) / loss) ** power)
        mean.clamp_min_(FLOORS[mean.dtype])
        self.n_updates += 1
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self._totals = self.weight_mean.sum(0)
        self._square = self.weight_mean.square()
        self._square_spread = self._square * (1 + 1 / self.weight_concentration)
        self._uppers = []
        for statistics in self.upper_statistics:
            rho, tau = statistics.detach()
            rho = self.weight_rate + rho
            self._uppers.append(Upper.of(self.weight_family, rho, tau))
        # Of the closed-form bound, which not every pass needs.
        self._allocating = None

    @property
    def _weights(self):
        """What allocates counts to the units of layer 1."""
        if self._allocating is None:
            self._allocating = Weights.from_mean_log(
                self._mean_log_weights, self.weight_mean.T.shape, self.weight_mean
            )
        return self._allocating

    def _mean_log_weights(self, features):
        """E[log W] of some features, (layer_sizes[0], n_features)."""
        shape = self.weight_concentration[features]
        return _mean_log(shape, self.weight_mean[features]).T


def _split(values):
    """Float64 numbers as sums of two of float32, (..., 2)."""
    large = values.float()
    return torch.stack([large, (values - large).float()], -1)


def _mean_log(shape, mean):
    """E[log y] of gamma variables."""
    return digamma(shape) - (shape / mean).log()


def _shape(prior, curvature, shape):
    """A step on shapes: prior + curvature / g(shape)."""
    # To 1 % of 2 s^2 (trigamma(s) - 1 / s), with its limits and slopes.
    g = 1 + (1 + 0.71 * shape) / (1 + 2.71 * shape + 2.13 * shape.square())
    return prior + curvature / g


def _draw(shape, mean, generator):
    """Gamma variables in float64; small shapes by way of their logarithms."""
    shape, mean = shape.double(), mean.double()
    draws = generator.standard_gamma((shape + 1).cpu().numpy())
    uniform = 1 - generator.random(draws.shape)
    both = torch.from_numpy(np.stack([np.log(draws), np.log(uniform)])).to(mean)
    return (both[0] + both[1] / shape + (mean / shape).log()).exp()


class SparseGammaDEF(ConjugateFactorModel):
    r"""Sparse gamma deep exponential family: factors of factors of counts.

    Layers of gamma factors, each the mean of the one below through sparse gamma
    weights: ``z_l ~ Gamma(a_l, a_l / (z_{l+1} W_l))``, ``x ~ Poisson(z_1 W_0)``. With
    one layer it is Poisson factorization. Sparse data stay sparse.

    Parameters
    ----------
    layer_sizes : tuple of int, default=(100, 40, 15)
        Units of each layer, from the one at the data to the top.
    layer_shape : float or sequence of float, default=0.1
        Shape of the prior of the units: one number, or one for each layer.
    top_rate : float, default=0.1
        Rate of the prior of the units of the top layer.
    weight_shape : float, default=0.1
        Shape of the prior of all weights; far below 1, weights are sparse.
    weight_rate : float, default=0.3
        Rate of the prior of all weights.
    solver : {"expansion", "auxiliary"}, default="expansion"
        ``"expansion"`` expands the likelihood to second order, which finds a far better
        bound; ``"auxiliary"`` climbs a closed-form bound, which rises in every full
        step.
    over_relaxation : float, default=1.4
        Power of the steps of ``"expansion"``; 1 for plain ones.
    acceleration : int, default=5
        How many earlier passes the steps of ``"expansion"`` on all rows are
        extrapolated from; 0 for none. Each takes the memory of the means of the units
        of the lowest layer, and of its weights, twice.
    init : {"parts", "kmeans", "random"} or array-like, default="parts"
        Where the weights of the lowest layer start: from clusters of the features, from
        clusters of the rows, from random weights, or from an array of shape
        (layer_sizes[0], n_features), up to scale. Those above start from clusters of
        the units below them.
    transform_layer : int or "all", default=1
        The layer whose units ``transform`` gives, 1 at the data; ``inverse_transform``
        takes those of layer 1.
    max_iter : int, default=1000
        Passes over the data.
    tol : float, default=1e-6
        Relative gain of the bound below which training ends, over
        ``n_iter_no_change`` passes, or over one with ``solver="auxiliary"``.
    max_inner_iter : int, default=5
        Steps on rows that a pass starts anew, and on all rows in each pass with
        ``solver="auxiliary"``. ``transform`` goes on until ``inner_tol``.
    inner_tol : float, default=1e-4
        Relative change of a row's parameters below which that row is done.
    n_cold_iter : int, default=None
        The first passes, in which rows start anew instead of where they stopped; None
        for 1, or up to 20 (half of ``max_iter`` at most) with ``init="random"``.
    batch_size : int, default=None
        Rows in a stochastic step; None for full steps on all rows.
    learning_offset : float, default=10.0
        Slows the first stochastic steps: step t has size
        (1 + learning_offset + t) ** -learning_decay.
    learning_decay : float, default=0.7
        How fast stochastic steps shrink, in (0.5, 1].
    validation_fraction : float, default=None
        Fraction of the rows held out to stop early, when their mean bound has not
        risen for ``n_iter_no_change`` passes; None for no early stopping.
    n_iter_no_change : int, default=10
        Passes without a better score that end training.
    n_init : int, default=1
        Number of starts, of which the one with the best bound (or validation score)
        is kept.
    n_jobs : int, default=None
        Processes for the starts.
    warm_start : bool, default=False
        Whether ``fit`` goes on from what is fitted already.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Seed of the start and of the order of stochastic steps.
    verbose : int, default=0
        Whether to show the bound after each pass.

    Attributes
    ----------
    components_ : ndarray of shape (layer_sizes[0], n_features)
        Posterior mean of the weights of the lowest layer.
    weights_ : list of ndarray
        Posterior means of the weights of all layers: ``components_``, and from each
        layer to the one below, (layer_sizes[l + 1], layer_sizes[l]).
    sparsity_ : ndarray of shape (n_layers,)
        For each array of ``weights_``, the share of its entries that are below 1 % of
        the largest one in their column: of what leads to the same unit, or feature.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of the weights included: by
        Monte Carlo with ``solver="expansion"``, in closed form with ``"auxiliary"``.
    lower_bound_std_error_ : float
        Its standard error over the draws.
    history_ : dict of lists
        ``lower_bound`` (an estimate to second order with ``solver="expansion"``),
        ``seconds`` and, with early stopping, ``validation_score``, for each pass. The
        estimate falls in passes whose extrapolation is then taken back.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int
        Number of rows that training has seen.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where the data had names.

    Warns
    -----
    UserWarning
        In ``fit``, if a layer is larger than the one below it.

    See Also
    --------
    PoissonFactorization : One layer of factors; faster.

    References
    ----------
    Ranganath, R., Tang, L., Charlin, L. and Blei, D. (2015). Deep exponential families.
    AISTATS 18.

    Examples
    --------
    >>> from skdeepfactor import SparseGammaDEF
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = SparseGammaDEF((6, 3), max_iter=50, random_state=0).fit(X)
    >>> model.transform(X).shape
    (200, 6)
    >>> [weights.shape for weights in model.weights_]
    [(6, 50), (3, 6)]
    """

    _parameter_constraints: ClassVar[dict] = {
        **{
            name: constraint
            for name, constraint in ConjugateFactorModel._parameter_constraints.items()
            if name != "n_components"
        },
        "layer_sizes": ["array-like"],
        "layer_shape": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "top_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_shape": [Interval(Real, 0, None, closed="neither")],
        "weight_rate": [Interval(Real, 0, None, closed="neither")],
        "solver": [StrOptions({"expansion", "auxiliary"})],
        "over_relaxation": [Interval(Real, 1, 2, closed="left")],
        "acceleration": [Interval(Integral, 0, None, closed="left")],
        "init": [StrOptions({"parts", "kmeans", "random"}), "array-like"],
        "transform_layer": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"all"}),
        ],
    }

    def __init__(
        self,
        layer_sizes=(100, 40, 15),
        *,
        layer_shape=0.1,
        top_rate=0.1,
        weight_shape=0.1,
        weight_rate=0.3,
        solver="expansion",
        over_relaxation=1.4,
        acceleration=5,
        init="parts",
        transform_layer=1,
        max_iter=1000,
        tol=1e-6,
        max_inner_iter=5,
        inner_tol=1e-4,
        n_cold_iter=None,
        batch_size=None,
        learning_offset=10.0,
        learning_decay=0.7,
        validation_fraction=None,
        n_iter_no_change=10,
        n_init=1,
        n_jobs=None,
        warm_start=False,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.layer_sizes = layer_sizes
        self.layer_shape = layer_shape
        self.top_rate = top_rate
        self.weight_shape = weight_shape
        self.weight_rate = weight_rate
        self.solver = solver
        self.over_relaxation = over_relaxation
        self.acceleration = acceleration
        self.init = init
        self.transform_layer = transform_layer
        self.max_iter = max_iter
        self.tol = tol
        self.max_inner_iter = max_inner_iter
        self.inner_tol = inner_tol
        self.n_cold_iter = n_cold_iter
        self.batch_size = batch_size
        self.learning_offset = learning_offset
        self.learning_decay = learning_decay
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_init = n_init
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    _size = "layer_sizes"

    @property
    def _full_steps_ascend(self):
        return self.solver == "auxiliary"

    def _make_optimizer(self, module, *, is_stochastic, n_updates=None):
        # Statistics of other rows, or of older weights, are not to be extrapolated.
        module.over_relaxation = 1.0 if is_stochastic else self.over_relaxation
        return super()._make_optimizer(module, is_stochastic=is_stochastic)

    def _n_cold(self, module):
        return n_cold_passes(self.n_cold_iter, self.init, self.max_iter, False)

    @property
    def _n_features_out(self):
        sizes = self._fitted_with["layer_sizes"]
        layer = self.transform_layer
        return sum(sizes) if layer == "all" else sizes[layer - 1]

    def transform(self, X, *, out=None):
        """Infer the units of each row.

        The model stays as it is. A row's units depend on that row alone, and not on
        those beside it.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` file to write the units to as they come, for more rows than
            memory has room for.

        Returns
        -------
        ndarray of shape (n_samples, n_units)
            The posterior mean of the units of ``transform_layer``, of all layers side
            by side, the lowest first, for "all"; float64 for float64 data, else
            float32. With ``out``, a read-only map of the file.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> model.set_params(transform_layer="all").transform(X).shape
        (4, 3)
        """
        check_is_fitted(self)
        n_layers = len(self._fitted_with["layer_sizes"])
        if self.transform_layer == "all":
            layers = range(n_layers)
        elif self.transform_layer <= n_layers:
            layers = [self.transform_layer - 1]
        else:
            raise ValueError(
                f"transform_layer must be 'all' or from 1 to {n_layers}, the number of "
                f"layers, got {self.transform_layer}."
            )
        return self._infer(X, lambda module, x: module.features(x, layers), out)

    def sample(self, n_samples=1, *, random_state=None):
        """Draw rows from the model, from the top layer down.

        Units of the top layer are drawn from their prior, and those of each layer given
        those above.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts, from the posterior mean of the weights.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> model.sample(3, random_state=0).shape
        (3, 4)
        """
        return self._sample(n_samples, None, random_state)

    def _make_module(self, n_features):
        sizes = self.layer_sizes
        if len(sizes) == 0 or not all(
            isinstance(size, Integral) and size >= 1 for size in sizes
        ):
            raise ValueError(
                "layer_sizes must hold positive ints, one for each layer, got "
                f"{sizes!r}."
            )
        sizes = tuple(map(int, sizes))
        shapes = np.asarray(self.layer_shape, dtype=np.float64)
        if shapes.shape not in ((), (len(sizes),)) or not (
            np.isfinite(shapes).all() and (shapes > 0).all()
        ):
            raise ValueError(
                "layer_shape must be a positive number, or one for each of the "
                f"{len(sizes)} layers, got {self.layer_shape!r}."
            )
        shapes = np.broadcast_to(shapes, (len(sizes),)).tolist()
        return GammaBelief(
            sizes,
            n_features,
            layer_shapes=shapes,
            top_rate=self.top_rate,
            weight_shape=self.weight_shape,
            weight_rate=self.weight_rate,
            solver=self.solver,
            over_relaxation=self.over_relaxation,
            acceleration=self.acceleration,
            inner_iter=self.max_inner_iter,
            tol=self.inner_tol,
        )

    def _initialize(self, module, X, random_state):
        sizes = module.layer_sizes
        if any(above > below for below, above in itertools.pairwise(sizes)):
            warnings.warn(
                f"layer_sizes={sizes} has a layer that is larger than the one below "
                "it, which it is to sum up.",
                stacklevel=2,
            )
        n_components = sizes[0]
        init = self.init
        if isinstance(init, str) and init == "parts":
            shares = initial_parts(X, n_components, random_state)
        else:
            init = check_init(init, (n_components, X.shape[1]))
            shares = initial_counts(X, n_components, init, random_state)
            sums = shares.sum(axis=0)
            shares = np.where(sums > 0, shares / np.where(sums > 0, sums, 1), 1.0)
            shares = shares / shares.sum(axis=0)
        totals = np.asarray(X.sum(axis=0, dtype=np.float64)).ravel()
        counts = shares * totals
        # Factors and weights of the same size.
        level = np.sqrt(max(totals.mean() / X.shape[0], 1e-10) / n_components)
        mean = np.maximum(counts / (X.shape[0] * level), 1e-8 * level)
        module.weight_mean.copy_(torch.from_numpy(mean.T))
        shape = self.weight_shape + counts
        module.weight_concentration.copy_(torch.from_numpy(shape.T))
        module.counts.data.copy_(torch.from_numpy(counts.T))
        module.totals.data.fill_(X.shape[0] * level)
        activity = X @ shares.T
        for statistics in module.upper_statistics:
            above = statistics.shape[1]
            # Half from clusters of the units below that are active together.
            parts = initial_parts(activity, above, random_state)
            weights = 0.5 * (parts + 1 / above)
            rho, tau = module.weight_family.of_mean(torch.from_numpy(weights))
            statistics.data[0] = rho - self.weight_rate
            statistics.data[1] = tau
            activity = activity @ weights.T

    def _module_attributes(self, module):
        weights = [module.weight_mean.T, *(upper.mean for upper in module._uppers)]
        weights = [w.cpu().numpy().copy() for w in weights]
        return {
            "weights_": weights,
            "sparsity_": np.array([(w < 0.01 * w.max(axis=0)).mean() for w in weights]),
            "lower_bound_std_error_": module.lower_bound_std_error,
        }
