r"""The lowest weights of real numbers, in closed form to second order.

Factors, weights and their posteriors are those of ``lowest_weights.py``: z_k and w_kv
are means, c is 1 / shape, m = zw, and s_v is the variance of (z W)_v. The data are x ~
N((z W)_v, sigma^2), for which the second order is all there is,

.. math::
    E \log p = -\tfrac12 \log 2 \pi \sigma^2
        - \frac{(x_v - m_v)^2 + s_v}{2 \sigma^2}.

With G = W W' of the means, m_v^2 summed over v is z G z', at most sum_k (u_k z_k)^2 (z
G)_k / z_k at means u_k z_k. So the bound rises at least as much as

.. math::
    a \log u_k + u_k z_k \Big(\frac{(x W')_k}{\sigma^2} - r_k\Big) - \frac{u_k^2}{2
    \sigma^2} \Big(z_k (zG)_k + z_k^2 \big((1 + c_k) Q_k - Q^0_k\big)\Big),

in which Q sums w^2 (1 + c), and which is largest at the positive root of a quadratic
equation. Shapes are stationary as those for counts are, with Q / sigma^2 in the place
of Q. All is products of X with W and of W with itself, so that sparse rows stay sparse.
sigma^2 is the mean of the expected squared errors, but no less than 1e-6 of the data's
mean square.

**Missing entries** are left out of sums. z G is then the sum over the row's features of
:math:`m_v w_{kv}`. In its place for weights there is the sum over all rows, which
follows from products of means, times the share that rows with the feature have in
:math:`\sum_n z_k m_v`. Of that share alone stochastic steps average what older weights
give.
"""

from typing import NamedTuple

import torch
from torch import nn

from skdeepfactor._math.batch import Batch
from skdeepfactor._math.ops import scaled, transposed_products
from skdeepfactor.models.sparse_gamma_def.lowest_weights import (
    FLOORS,
    LowestWeights,
    gradient,
)


class GaussianView(NamedTuple):
    """A batch of numbers under given factors: X W' and z G.

    With missing entries, also m, 0 there, and sums over a row's observed features of
    w^2 (1 + c) and w^2.
    """

    mean: torch.Tensor
    shape: torch.Tensor
    batch: Batch
    linear: torch.Tensor
    quadratic: torch.Tensor
    expected: torch.Tensor | None
    spread: torch.Tensor
    flat: torch.Tensor


class GaussianWeights(LowestWeights):
    """Weights of real numbers, whose noise is learnt with them."""

    def __init__(self, shape, emission, **prior):
        super().__init__(shape, emission, **prior)
        n_components = shape[1]
        # Sums over rows of products of means, of E[z^2], of expected squared errors,
        # and the number of rows.
        self.gram = nn.Parameter(torch.zeros(n_components, n_components))
        self.squares = nn.Parameter(torch.zeros(n_components))
        self.errors = nn.Parameter(torch.zeros(()))
        self.n_rows = nn.Parameter(torch.zeros(()))
        if self.may_miss:
            # By feature, sums over the rows that have it: of z m, E[z^2] and squared
            # means; and that of z m over all rows.
            self.of_features = nn.Parameter(torch.zeros(3, *shape))
            self.products = nn.Parameter(torch.zeros(shape))

    def summed(self):
        square = self.weight_mean.square()
        return torch.cat([square * (1 + 1 / self.weight_concentration), square], 1)

    def sums_of(self, batch):
        """Their sums over observed features; one for all complete rows."""
        if "sums" not in batch.side:
            return self._spread, self._flat
        return batch.side["sums"].chunk(2, 1)

    def cold(self, batch, prior):
        mean, _ = super().cold(batch, prior)
        spread, _ = self.sums_of(batch)
        return mean, prior + mean.square() * spread / self.emission.noise

    def view(self, batch, mean, shape):
        expected = None
        if batch.observed is None:
            quadratic = mean @ self._gram_of_weights
        else:
            expected = batch.observed * (mean @ self.weight_mean.T)
            quadratic = expected @ self.weight_mean
        linear = batch.x @ self.weight_mean
        sums = self.sums_of(batch)
        return GaussianView(mean, shape, batch, linear, quadratic, expected, *sums)

    def likelihood(self, view):
        return -0.5 * self._errors(view) / self.emission.noise.double()

    def _errors(self, view):
        """Expected squared errors of each row, less the squares of the data."""
        mean, spread = view.mean, view.spread * (1 + 1 / view.shape)
        terms = view.quadratic + mean * (spread - view.flat) - 2 * view.linear
        return (mean.double() * terms.double()).sum(1)

    def step(self, view, prior, rate, power):
        mean, noise = view.mean, self.emission.noise
        slope = mean * (view.linear / noise - rate)
        spread = view.spread * (1 + 1 / view.shape) - view.flat
        loss = mean * (view.quadratic + mean * spread) / noise
        mean = _root_of(prior, slope, loss, mean, power)
        curvature = mean.square() * view.spread / noise
        return mean, _exact_shape(prior, curvature, view.shape)

    def add(self, view, scale):
        mean, observed = view.mean, view.batch.observed
        counted = scaled(mean, scale)
        linear = gradient(self.counts)
        for features, product in transposed_products(view.batch.x, counted):
            linear[features].add_(product)
        errors = self._errors(view) + self.emission.constants(view.batch)
        errors = scaled(errors.clamp_min(0), scale)
        gradient(self.errors).add_(errors.sum().to(mean))
        gram, square = mean.T @ counted, scaled(mean.square(), scale)
        squares = square * (1 + 1 / view.shape)
        shares = torch.ones_like(mean[:, 0])
        n_rows = scaled(shares if observed is None else observed.mean(1), scale).sum()
        gradient(self.gram).add_(gram)
        gradient(self.squares).add_(squares.sum(0))
        gradient(self.n_rows).add_(n_rows)
        if not self.may_miss:
            return
        products = there = self.weight_mean @ gram
        of_rows = [values.sum(0).expand_as(products) for values in (squares, square)]
        if observed is not None:
            there = view.expected.T @ counted
            of_rows = [observed.T @ values for values in (squares, square)]
        gradient(self.products).add_(products)
        gradient(self.of_features).add_(torch.stack([there, *of_rows]))

    def update(self, power):
        mean, shape = self.weight_mean, self.weight_concentration
        n_entries = self.n_rows.detach() * len(mean)
        # There may be none.
        found, noise = (
            self.errors.detach() / n_entries.clamp_min(1),
            self.emission.noise,
        )
        noise.copy_(torch.maximum(found, self.emission.noise_floor))
        gram, squares = self.gram.detach(), self.squares.detach()
        quadratic, flat = mean @ gram, gram.diagonal()
        if self.may_miss:
            there, squares, flat = self.of_features.detach()
            every = self.products.detach()
            quadratic = quadratic * torch.where(every > 0, there / every, 1)
        slope = mean * (self.counts.detach() / noise - self.prior_rate)
        spread = squares * (1 + 1 / shape) - flat
        loss = mean * (quadratic + mean * spread) / noise
        mean.copy_(_root_of(self.prior_shape, slope, loss, mean, power))
        curvature = mean.square() * squares / noise
        shape.copy_(_exact_shape(self.prior_shape, curvature, shape))

    def refresh(self):
        weights = self.weight_mean
        self._gram_of_weights = weights.T @ weights
        square = weights.square()
        self._flat = square.sum(0)
        self._spread = (square * (1 + 1 / self.weight_concentration)).sum(0)


def _root_of(prior, slope, loss, mean, power):
    """The mean times u^power where prior log u + slope u - loss u^2 / 2 is largest."""
    root = torch.hypot(slope, 2 * (prior * loss).sqrt())
    # Two forms of it, of which one does not cancel.
    u = torch.where(slope > 0, (slope + root) / (2 * loss), 2 * prior / (root - slope))
    return (mean * u**power).clamp_min(FLOORS[mean.dtype])


def _exact_shape(prior, curvature, shape):
    """A step on shapes with g to rounding, which never lowers the bound."""
    s = shape.double()
    # Beyond 1e4 the difference would cancel; the series is exact there.
    g = 2 * s.square() * (torch.polygamma(1, s) - 1 / s)
    g = torch.where(s < 1e4, g, 1 + 1 / (3 * s))
    return (prior + curvature / g).to(shape)
