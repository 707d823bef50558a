"""Counts allocated to factors, and fixed points of the local parameters of rows.

A count x_nv with mean sum_k z_nk w_kv is a sum of counts of the factors. Under
q(z) q(w) the share of factor k is

    phi_nvk = exp(E[log z_nk] + E[log w_kv]) / p_nv,  p_nv = sum_k exp(the same),

and what these counts add to the bound is sum_v x_nv log p_nv. Latent Dirichlet
allocation has the same shares with topic proportions in the place of z. Nothing of
size (entries, k) is ever held: shares only appear summed, as a product of x / p with
one of the two factors.
"""

from typing import NamedTuple

import torch

from skdeepfactor.distributions import scaled_exp
from skdeepfactor.ops import (
    map_values,
    product_at,
    row_dot,
    row_sum,
    take_rows,
    transposed_product,
)

# Steps a row may take where its factors are wanted exactly, not on the way to a fit.
MAX_STEPS = 1000


class Weights(NamedTuple):
    """exp(E[log w]) of the global factors, scaled so that it cannot underflow.

    ``scaled`` is (n_features, k) with the largest of each row 1; ``log_scale``,
    (n_features,), is what was taken out, which changes no share.
    """

    scaled: torch.Tensor
    log_scale: torch.Tensor

    @classmethod
    def from_mean_log(cls, mean_log):
        """Weights from E[log w], shape (k, n_features)."""
        scaled, log_scale = scaled_exp(mean_log.T.contiguous(), 1)
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

    def feature_counts(self, weights):
        """Expected counts of each factor in each feature, shape (k, n_features)."""
        return (transposed_product(self.ratio, self.z) * weights.scaled).T

    def log_likelihood(self, x, weights):
        """sum_v x_nv log p_nv of each row, float64, shape (n_rows,)."""
        terms = map_values(
            lambda counts, p: counts.double() * p.double().log(), x, self.products
        )
        scale = self.log_scale[:, 0].double()
        return row_sum(terms) + row_sum(x) * scale + row_dot(x, weights.log_scale)


def allocate(x, mean_log_z, weights):
    """Allocate the counts of ``x`` given E[log z], shape (n_rows, k)."""
    z, log_scale = scaled_exp(mean_log_z, 1)
    products = product_at(x, z, weights.scaled.T)
    return Allocation(z, map_values(torch.div, x, products), products, log_scale)


def fixed_point(update, x, state, *, max_steps, tol):
    """Iterate ``state = update(x, state)``, each row to its own convergence.

    ``state`` is (n_rows, width) and not negative. A row stops, for good, when its
    absolute change is at most ``tol`` times its size (both summed over the row), so
    that the rows beside it change nothing for it. Stopped rows are dropped once half
    have stopped: to drop them one by one would cost more than it saves.
    """
    if tol == 0:
        for _ in range(max_steps):
            state = update(x, state)
        return state
    result = torch.empty_like(state)
    rows = torch.arange(len(state), device=state.device)
    active = torch.ones_like(rows, dtype=torch.bool)
    for _ in range(max_steps):
        new = update(x, state)
        moved = (new - state).abs().sum(1) > tol * new.sum(1)
        state = torch.where(active[:, None], new, state)
        active &= moved
        n_active = int(active.sum())
        if 2 * n_active <= len(active):
            result[rows] = state
            kept = active.nonzero()[:, 0]
            x, state, rows, active = (
                take_rows(x, kept),
                state[kept],
                rows[kept],
                active[kept],
            )
        if n_active == 0:
            break
    result[rows] = state
    return result
