r"""Layers of gamma factors above each other, with posteriors in closed form.

A layer z determines the layer y below it through the weights W: for each unit k of y it
gives, with :math:`\mu_k = (z W)_k`, either the mean or the rate,

.. math::
    y_k \sim \text{Gamma}(a, a / \mu_k), \qquad y_k \sim \text{Gamma}(a, \mu_k).

**Means.** With :math:`M = E[z] E[W]` and :math:`C_k = 1 / \sum_j (E[1/z_j]\,
E[1/W_{jk}])^{-1}`,

.. math::
    E[-\log \mu_k] \ge -\log M_k, \qquad E[1 / \mu_k] \le C_k,

by Jensen's inequality, and by that of Cauchy and Schwarz with shares
:math:`\phi_{jk} = C_k / (E[1/z_j] E[1/W_{jk}])`. So the expected log density of y is at
least

.. math::
    a \log a - \log \Gamma(a) - a \log M_k + (a - 1) E \log y_k - a E[y_k]\, C_k,

the prior of :math:`y_k` has the rate :math:`a C_k`, and at the current M (whose
logarithm lies below its tangent) and :math:`\phi` the best posteriors of z and W are
generalized inverse Gaussian, :math:`q(z) \propto z^{g-1} e^{-\rho z - \tau / z}` with g
the shape of the prior, in closed form:

.. math::
    \rho_j = r_j + a \sum_k \frac{E[W_{jk}]}{M_k}, \qquad
    \tau_j = a \sum_k E[y_k]\, \phi_{jk}^2\, E[1/W_{jk}],

:math:`r_j` the rate of the unit's own prior; for :math:`W_{jk}` the same with the roles
of z and W exchanged and sums over rows in the place of sums over k.

**Rates.** E[mu] is M, and with shares :math:`\phi_{jk} \propto e^{E \log z_j + E \log
W_{jk}}`, as of counts, :math:`E \log \mu_k \ge \log \sum_j e^{E \log z_j + E \log
W_{jk}}`. So all posteriors are gamma,

.. math::
    q(z_j) = \text{Gamma}\Big(g + a \sum_k \phi_{jk},\ r_j + \sum_k E[y_k] E[W_{jk}]
    \Big),

as if each unit of y were a count of a, seen for a time y.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from skdeepfactor._math.gammas import (
    digamma,
    gamma_kl,
    log_gamma_draws,
    log_product,
    scaled_exp,
)
from skdeepfactor._math.ops import scaled
from skdeepfactor.models.sparse_gamma_def.inverse_gaussians import InverseGaussians

# How far the moments of the units of new rows go beyond each step, in logarithms. A
# step maximises what lies below the bound, which takes it about half of the way.
AHEAD = 0.6

# Least rho times tau, which can collapse faster than exponentially.
FLOOR = 1e-14


class InverseGaussianUnits(NamedTuple):
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
        """The entropy without (g - 1) E[log y], float64."""
        terms = self.rho * self.mean + self.tau * self.inverse
        return self.log_normaliser + terms.double()


class Means(nn.Module):
    """The link of layers that give the means of those below.

    ``shapes`` are those of the layers that are above another, from the lowest, if their
    posteriors are found in closed form. Units, of layers or weights, have two
    parameters, and messages, which add to the prior's parameters, two numbers each.
    """

    #: Whether the bound has E[1 / y] of the units and weights above.
    divides = True

    def __init__(self, shapes=(), weight_shape=None):
        super().__init__()
        # One family for each layer above the first, and one for weights.
        self.families = nn.ModuleList(map(InverseGaussians, shapes))
        self.weight_family = InverseGaussians(weight_shape) if shapes else None

    def units(self, layer, first, second):
        """Units of a layer, 0 for the lowest of those above, of given parameters."""
        return InverseGaussianUnits.of(self.families[layer], first, second)

    def posterior(self, layer, message, rate):
        """Units of a layer with a prior of that rate."""
        return self.units(layer, message[0] + rate, message[1])

    def ahead(self, units, before):
        """Units after a step, with moments that go beyond it."""
        mean = units.mean * (units.mean / before.mean) ** AHEAD
        inverse = units.inverse * (units.inverse / before.inverse) ** AHEAD
        return units._replace(mean=mean, inverse=inverse)

    def weights(self, message, rate):
        """Weights with a prior of that rate."""
        rho, tau = message
        return InverseGaussianUnits.of(self.weight_family, rate + rho, tau)

    def cold(self, layer, below, weights, floor):
        """Units from the means of those below, each shared out by the mean weights."""
        mean = self.cold_mean(below, weights.mean).clamp_min(floor)
        return self.units(layer, *self.families[layer].of_mean(mean))

    def cold_mean(self, below, weights):
        """Means of units, from those below, shared out by the weights."""
        shares = weights / weights.sum(0)
        return below @ shares.T / weights.sum(1)

    def start(self, mean, rate):
        """The message that makes weights have about a given mean."""
        rho, tau = self.weight_family.of_mean(mean)
        return torch.stack([rho - rate, tau])

    def state(self, above, weights):
        """M and C, each (n_rows, units)."""
        harmonic = 1 / ((1 / above.inverse) @ (1 / weights.inverse))
        return above.mean @ weights.mean, harmonic

    def rates(self, state, alpha):
        """Bounds on E[rate] and E[log rate] of the prior of the units below."""
        expected, harmonic = state
        return alpha * harmonic, math.log(alpha) - expected.log()

    def drawn_rates(self, units, weights, alpha):
        """Rates and their logarithms for units and weights that were drawn."""
        drawn = units @ weights
        return self.rate(drawn, alpha), math.log(alpha) - drawn.log()

    def rate(self, product, alpha):
        """The rate of the prior of the units below, given z W."""
        return alpha / product

    def message(self, state, below, alpha, above, weights):
        """Message from the means below to the units above."""
        expected, harmonic = state
        scaled = weights.mean @ (alpha / expected).T
        tau = (alpha * below * harmonic.square()) @ (1 / weights.inverse).T
        return scaled.T, tau / above.inverse.square()

    def weight_message(self, state, below, alpha, above, weights, scale=1.0):
        """Message from the means below to the weights, (2, units above, units below).

        Rows are multiplied by ``scale``, a float or a tensor (n_rows,).
        """
        expected, harmonic = state
        alpha = scaled(torch.full_like(below[:, :1], alpha), scale)
        rho = above.mean.T @ (alpha / expected)
        tau = (1 / above.inverse).T @ (alpha * below * harmonic.square())
        return torch.stack([rho, tau / weights.inverse.square()])

    def kl(self, units, alpha, rate, log_rate):
        """Divergence from a prior Gamma(alpha, rate), by row, float64."""
        terms = rate * units.mean - units.entropy() - alpha * log_rate
        return (terms + math.lgamma(alpha)).sum(1, dtype=torch.float64)

    def draw(self, layer, units, n_draws, generator):
        """Draws of the units of a layer, (n_draws, ...), float64."""
        return self.families[layer].sample(units.rho, units.tau, n_draws, generator)

    def draw_weights(self, weights, n_draws, generator):
        """Draws of weights, likewise."""
        return self.weight_family.sample(weights.rho, weights.tau, n_draws, generator)

    def sample(self, mean, alpha, generator):
        """The units below, given z W, by a NumPy generator."""
        return generator.gamma(alpha, mean.clip(1e-300) / alpha)


class GammaUnits(NamedTuple):
    """Gammas: parameters, E[y] and E[log y]."""

    shape: torch.Tensor
    rate: torch.Tensor
    mean: torch.Tensor
    mean_log: torch.Tensor

    @classmethod
    def of(cls, shape, rate):
        """With the moments."""
        return cls(shape, rate, shape / rate, digamma(shape) - rate.log())


class RateState(NamedTuple):
    """M, the bound on E[log (z W)], and the factors of shares."""

    expected: torch.Tensor
    mean_log: torch.Tensor
    above: torch.Tensor
    weights: torch.Tensor
    products: torch.Tensor


class Rates(nn.Module):
    """The link of layers that give the rates of those below; see ``Means``."""

    divides = False

    def __init__(self, shapes=(), weight_shape=None):
        super().__init__()
        self.shapes, self.weight_shape = shapes, weight_shape

    def units(self, layer, first, second):
        return GammaUnits.of(first, second)

    def posterior(self, layer, message, rate):
        return GammaUnits.of(self.shapes[layer] + message[0], message[1] + rate)

    def ahead(self, units, before):
        return units

    def weights(self, message, rate):
        shape, exposure = message
        return GammaUnits.of(self.weight_shape + shape, rate + exposure)

    def cold(self, layer, below, weights, floor):
        ones = self.cold_mean(below, weights.mean)
        return GammaUnits.of((self.shapes[layer] + 1) * ones, ones)

    def cold_mean(self, below, weights):
        # The units above fall where this rises, which says little about a start.
        return below.new_ones(len(below), len(weights))

    def start(self, mean, rate):
        exposure = (self.weight_shape + 1) / mean - rate
        return torch.stack([torch.ones_like(mean), exposure.clamp_min(0)])

    def state(self, above, weights):
        z, rows = scaled_exp(above.mean_log, 1)
        w, columns = scaled_exp(weights.mean_log, 0)
        products = z @ w
        mean_log = products.log() + rows + columns
        return RateState(above.mean @ weights.mean, mean_log, z, w, products)

    def rates(self, state, alpha):
        return state.expected, state.mean_log

    def drawn_rates(self, units, weights, alpha):
        log_rate = log_product(units, weights)
        return log_rate.exp(), log_rate

    def rate(self, product, alpha):
        return product

    def message(self, state, below, alpha, above, weights):
        shares = state.above * ((alpha / state.products) @ state.weights.T)
        return shares, below @ weights.mean.T

    def weight_message(self, state, below, alpha, above, weights, scale=1.0):
        ratio = scaled(alpha / state.products, scale)
        shares = state.weights * (state.above.T @ ratio)
        return torch.stack([shares, above.mean.T @ scaled(below, scale)])

    def kl(self, units, alpha, rate, log_rate):
        return gamma_kl(units.shape, units.rate, units.mean_log, alpha, rate, log_rate)

    def draw(self, layer, units, n_draws, generator):
        return self.draw_weights(units, n_draws, generator)

    def draw_weights(self, weights, n_draws, generator):
        draws = [
            log_gamma_draws(weights.shape, weights.mean, generator)
            for _ in range(n_draws)
        ]
        # Logarithms, since those of small shapes would underflow.
        return torch.stack(draws)

    def sample(self, mean, alpha, generator):
        return generator.gamma(alpha, 1 / mean.clip(1e-300))


LINKS = {"mean": Means, "rate": Rates}
