"""Counts allocated to factors.

A count x_nv with mean sum_k z_nk w_kv is a sum of counts of the factors. Under
q(z) q(w) the share of factor k is

    phi_nvk = exp(E[log z_nk] + E[log w_kv]) / p_nv,  p_nv = sum_k exp(the same),

and these counts add sum_v x_nv log p_nv to the bound. Latent Dirichlet allocation has
the same shares with topic proportions in the place of z. Nothing of size (entries, k)
is ever stored: shares only appear summed, as a product of x / p with one of the two
factors.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from skdeepfactor._math.gammas import FLOORS, scaled_exp
from skdeepfactor._math.ops import (
    map_values,
    nonzero,
    of_columns,
    product_at,
    row_sum,
    scaled,
    slices,
    transposed_products,
)


class Weights(NamedTuple):
    """exp(E[log w]) of the global factors, scaled so that it cannot underflow.

    ``scaled`` is (n_features, k) with the largest of each row 1; ``log_scale``,
    (n_features,), is the factor taken out, which changes no share.
    """

    scaled: torch.Tensor
    log_scale: torch.Tensor

    @classmethod
    def from_mean_log(cls, mean_log, shape, like):
        """Weights from ``mean_log(features)``, which is E[log w] of a slice of them.

        ``shape`` is (k, n_features); ``like`` has the type and device. A few features
        are taken at a time, so that nothing else of this size is held.
        """
        k, n_features = shape
        scaled = like.new_empty(n_features, k)
        log_scale = like.new_empty(n_features, 1)
        for features in slices(n_features, k):
            by_feature = mean_log(features).T.contiguous()
            scaled[features], log_scale[features] = scaled_exp(by_feature, 1)
        return cls(scaled, log_scale[:, 0])


class Allocation(NamedTuple):
    """The counts of a batch, allocated to factors."""

    z: torch.Tensor
    ratio: torch.Tensor
    products: torch.Tensor
    log_scale: torch.Tensor

    def row_counts(self, weights):
        """Expected counts of each factor in each row, shape (n_rows, k)."""
        return self.z * (self.ratio @ weights.scaled)

    def add_feature_counts(self, counts, weights, scale=1.0):
        """Add the expected counts of each factor in each feature to ``counts``.

        ``counts`` is (k, n_features); the counts of each row are multiplied by
        ``scale``, a float or a tensor (n_rows,).
        """
        z = scaled(self.z, scale)
        for features, product in transposed_products(self.ratio, z):
            product *= weights.scaled[features]
            counts[:, features].add_(product.T)

    def log_likelihood(self, x, weights):
        """sum_v x_nv log p_nv of each row, float64, shape (n_rows,)."""
        # Logarithms are as exact as the products are; the sum is what needs float64.
        terms = map_values(
            lambda counts, p, scale: p.log().add_(scale).mul_(counts),
            x,
            self.products,
            of_columns(x, weights.log_scale),
        )
        return row_sum(terms) + row_sum(x) * self.log_scale[:, 0].double()


def log_factorials(x):
    """sum_v log x_nv! of each row, float64, shape (n_rows,)."""
    return row_sum(map_values(lambda counts: torch.lgamma(counts.double() + 1), x))


def allocate(x, mean_log_z, weights, allowed=None):
    """Allocate the counts of ``x`` given E[log z], shape (n_rows, k).

    ``allowed``, a mask of the same shape, says which factors each row may use: at least
    one. The others get exactly 0.
    """
    if allowed is not None:
        # Before the largest is scaled to 1, which must be one that is allowed.
        mean_log_z = mean_log_z.masked_fill(~allowed, -torch.inf)
    return _allocation(x, *scaled_exp(mean_log_z, 1), weights, allowed)


def allocate_by(x, z, weights, allowed=None):
    """Allocate the counts of ``x`` given z itself, which is overwritten, (n_rows, k).

    See ``allocate``.
    """
    if allowed is not None:
        z *= allowed
    largest = z.amax(1, keepdim=True)
    z.div_(largest).clamp_min_(FLOORS[z.dtype])
    return _allocation(x, z, largest.log_(), weights, allowed)


def _allocation(x, z, log_scale, weights, allowed):
    if allowed is not None:
        z *= allowed  # Its floor is not 0.
    products = product_at(x, z, weights.scaled.T)
    return Allocation(z, map_values(torch.div, x, products), products, log_scale)


def entry_shares(x, z, w):
    """Shares of the factors in each entry of ``x`` that is not 0, (n_entries, k).

    Row by row. ``z``, (n_rows, k), and ``w``, (n_features, k), are not negative, and
    in each entry one factor has both.
    """
    rows, columns = nonzero(x)
    shares = z[rows] * w[columns]
    return shares / shares.sum(1, keepdim=True)


def shares_of_counts(counts):
    """Counts of the factors in rows, (n_rows, k), divided by their sums if not 0."""
    totals = counts.sum(1, keepdim=True)
    return counts / torch.where(totals > 0, totals, 1)


def expected_counts(x, z, w):
    """Counts of ``x`` allocated to factors, (n_rows, k), to be differentiated.

    ``z``, (n_rows, k), and ``w``, (n_features, k), are positive, and gradients flow to
    both: c_nk = z_nk sum_v x_nv w_vk / p_nv, with p = z w' at the entries of ``x``.
    """
    return _ExpectedCounts.apply(x, z, w)


class _ExpectedCounts(torch.autograd.Function):
    """c = z * u, u = (x / p) w, by sparse products alone; nothing else is kept."""

    @staticmethod
    def forward(ctx, x, z, w):
        products = product_at(x, z, w.T)
        ratio = map_values(torch.div, x, products)
        u = ratio @ w
        ctx.products, ctx.ratio = products, ratio
        ctx.save_for_backward(z, w, u)
        return z * u

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        z, w, u = ctx.saved_tensors
        for_u = (gradient * z).contiguous()
        for_products = map_values(
            lambda for_ratio, ratio, p: -for_ratio * ratio / p,
            product_at(ctx.ratio, for_u, w.T),
            ctx.ratio,
            ctx.products,
        )
        for_z = for_w = None
        if ctx.needs_input_grad[1]:
            for_z = gradient * u + for_products @ w
        if ctx.needs_input_grad[2]:
            for_w = torch.empty_like(w)
            for features, part in transposed_products(ctx.ratio, for_u):
                for_w[features] = part
            for features, part in transposed_products(for_products, z):
                for_w[features] += part
        return None, for_z, for_w


def indicator_excess(log_p):
    """Log of p / (1 - exp(-p)), the mean of y ~ Poisson(p) that is not 0.

    log(e^p - 1) is p + log p less this.
    """
    p = log_p.exp()
    return torch.where(p < 1e-3, p * (0.5 - p / 24), log_p - (-torch.expm1(-p)).log())


def allocate_indicators(x, mean_log_z, weights):
    """Allocate counts y, given indicators ``x`` of whether they are at least 1.

    Given that it is, y has the mean p / (1 - exp(-p)), p = sum_k exp(E[log z_nk] +
    E[log w_kv]); given that it is not, y is 0.
    """
    allocation = allocate(x, mean_log_z, weights)
    excess = map_values(indicator_excess, _log_products(x, allocation, weights))
    ratio = map_values(
        lambda ratio, e: ratio * e.exp().to(ratio), allocation.ratio, excess
    )
    return allocation._replace(ratio=ratio)


def indicator_log_likelihood(x, allocation, weights):
    """sum_v x_nv log(e^p_nv - 1) of each row, float64: of counts it is x log p."""

    def term(x, log_p):
        return x * (log_p + log_p.exp() - indicator_excess(log_p))

    return row_sum(map_values(term, x, _log_products(x, allocation, weights)))


def _log_products(x, allocation, weights):
    """Log p at the entries of ``x``, float64."""
    # The scale taken out of the products: at the entries, a product of rank 2.
    rows = torch.cat([allocation.log_scale, torch.ones_like(allocation.log_scale)], 1)
    columns = torch.stack([torch.ones_like(weights.log_scale), weights.log_scale])
    return map_values(
        lambda p, scale: p.double().log() + scale.double(),
        allocation.products,
        product_at(x, rows, columns),
    )
