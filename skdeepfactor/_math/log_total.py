r"""A bound on the expected log total of exponentials of Gaussian logits.

Logits :math:`\ell_v = w_v^T z + b_v` that are linear in a Gaussian z, with mean
:math:`\mu` and variances :math:`s_k^2`, have means :math:`m_v = w_v^T \mu + b_v`, and
for any vector c, the center,

.. math::
    E \log \sum_v e^{\ell_v} \le \tfrac12 \sum_k c_k^2 s_k^2 + \log \sum_v
    \exp\Big(m_v + \tfrac12 \sum_k w_{vk}^2 s_k^2 - \sum_k c_k s_k^2 w_{vk}\Big) = T,

by Jensen's inequality for :math:`E e^{\ell_v - c^T z}`. With :math:`c = \sum_v
\tilde p_v w_v`, for :math:`\tilde p` the softmax of the exponent, it is exact to second
order in s. With c = 0 it is the log of the expected total. For a given c

.. math::
    \nabla_\mu T = \sum_v \tilde p_v w_v, \qquad
    \frac{\partial T}{\partial s_k^2} = \tfrac12 \sum_v \tilde p_v (w_{vk} - c_k)^2.

With a full covariance :math:`S`, :math:`s_k^2 w_{vk}^2` becomes :math:`w_v^T S w_v`,
and :math:`\partial T / \partial S = \tfrac12 \sum_v \tilde p_v (w_v - c)(w_v - c)^T`.

Blei and Lafferty (2007), A correlated topic model of science, for Jensen's inequality
in the log total.
"""

from functools import cached_property

import torch

# Entries of the largest array for covariances of a few rows.
BLOCK = 2**23


class LogTotal:
    """The bound for logits of weights (n_features, k) and biases (n_features,).

    Posteriors ``q`` are those of ``gaussian.py``, with their centers. It keeps what
    follows from the tensors it is given, so must be made anew when they change.
    """

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias
        # Coefficients of means and variances in the exponents, (n_features, 2 k).
        self.loadings = torch.cat([weight, 0.5 * weight.square()], 1)

    def exponents(self, q):
        """The exponents, (n_rows, n_features), and a term in float64, (n_rows,)."""
        center = q.center
        if q.tril is None:
            shift = center * q.var
            moments = torch.cat([q.mean - shift, q.var], 1)
            exponent = torch.addmm(self.bias, moments, self.loadings.T)
        else:
            shift = torch.einsum("nij,nkj,nk->ni", q.tril, q.tril, center)
            exponent = torch.addmm(self.bias, q.mean - shift, self.weight.T)
            exponent = exponent + 0.5 * self._logit_variance(q.tril)
        constant = 0.5 * (center * shift).sum(1, dtype=torch.float64)
        return exponent, constant

    def bound(self, q):
        """T of each row, (n_rows,), float64."""
        exponent, constant = self.exponents(q)
        return exponent.logsumexp(1).double() + constant

    def bound_and_shares(self, q):
        """T of each row, and the softmax of its exponents; without gradients."""
        exponent, constant = self.exponents(q)
        log_total = exponent.logsumexp(1, keepdim=True)
        shares = exponent.sub_(log_total).exp_()
        return log_total[:, 0].double() + constant, shares

    def slopes(self, shares, center):
        """The mean loading, which is dT / dmean, and 2 dT / dvar, each (n_rows, k)."""
        mean_loading, curvature = (shares @ self.loadings).chunk(2, 1)
        curvature = 2 * curvature - (2 * mean_loading - center) * center
        # Rounding must not make it negative.
        return mean_loading, curvature.clamp_min_(0)

    def full_slopes(self, shares, center):
        """The mean loading, and 2 dT / dS, (n_rows, k, k)."""
        weight = self.weight
        mean_loading = shares @ weight
        size = max(1, BLOCK // weight.numel())
        curvature = torch.cat(
            [(weight.T * part[:, None]) @ weight for part in shares.split(size)]
        )
        cross = mean_loading[:, :, None] * center[:, None]
        curvature -= cross + cross.mT - center[:, :, None] * center[:, None]
        return mean_loading, curvature

    @cached_property
    def prior_slopes(self):
        """The mean loading and its variance over features, (k,), at factors of 0."""
        shares = self.bias.softmax(0)
        center = shares @ self.weight
        spread = shares @ self.weight.square() - center.square()
        # Rounding must not make it negative.
        return center, spread.clamp_min(0)

    def best_center(self, q):
        """The center for which the bound is exact to second order, at that of ``q``."""
        return self.exponents(q)[0].softmax(1) @ self.weight

    def _logit_variance(self, tril):
        """Variances of the logits of all features, (n_rows, n_features)."""
        size = max(1, BLOCK // self.weight.numel())
        parts = [(self.weight @ part).square().sum(2) for part in tril.split(size)]
        return torch.cat(parts)


def log_sum_bound(q):
    """T of each row, (n_rows,), float64, where the logits are the Gaussian variables.

    Of posteriors of ``gaussian.py``, with the softmax of their means as the center.
    """
    center = q.mean.softmax(1)
    if q.tril is None:
        shift = center * q.var
    else:
        shift = torch.einsum("nij,nkj,nk->ni", q.tril, q.tril, center)
    exponent = q.mean + 0.5 * q.var - shift
    constant = 0.5 * (center * shift).sum(1, dtype=torch.float64)
    return exponent.logsumexp(1).double() + constant
