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
from torch.autograd.function import once_differentiable

from skdeepfactor._math.ops import BLOCK


class LogTotal:
    """The bound for logits of weights (n_features, k) and biases (n_features,).

    Posteriors ``q`` are those of ``gaussian.py``, with their centers. It keeps what
    follows from the tensors it is given, so must be made anew when they change.
    """

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias

    @cached_property
    def loadings(self):
        """Coefficients of means and variances in the exponents, (n_features, 2 k).

        Without gradients.
        """
        weight = self.weight.detach()
        return torch.cat([weight, 0.5 * weight.square()], 1)

    def exponents(self, q):
        """The exponents, (n_rows, n_features), and a term in float64, (n_rows,).

        Without gradients for the weights.
        """
        shift, constant = _shift(q, q.center)
        if q.tril is None:
            moments = torch.cat([q.mean - shift, q.var], 1)
            return torch.addmm(self.bias, moments, self.loadings.T), constant
        exponent = torch.addmm(self.bias, q.mean - shift, self.weight.T)
        return exponent + 0.5 * self._logit_variance(q.tril), constant

    def bound(self, q):
        """T of each row, (n_rows,), float64."""
        if q.tril is None and torch.is_grad_enabled():
            shift, constant = _shift(q, q.center)
            moments = torch.cat([q.mean - shift, q.var], 1)
            log_sum = _LogSum.apply(moments, self.weight, self.bias, self.loadings)
            return log_sum.double() + constant
        exponent, constant = self.exponents(q)
        return exponent.logsumexp(1).double() + constant

    def bound_and_shares(self, q):
        """T of each row, and the softmax of its exponents; without gradients."""
        exponent, constant = self.exponents(q)
        log_total = softmax_(exponent)
        return log_total.double() + constant, exponent

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


def softmax_(exponent):
    """Turn exponents into their softmax in place; return their log sums, (n_rows,)."""
    largest = exponent.amax(1, keepdim=True)
    total = exponent.sub_(largest).exp_().sum(1, keepdim=True)
    exponent.div_(total)
    return (largest + total.log())[:, 0]


class _LogSum(torch.autograd.Function):
    """``logsumexp(moments @ loadings.T + bias)``, in as few large arrays as possible.

    The gradient goes to the weights that the loadings are made of. Only the softmax is
    kept for it.
    """

    @staticmethod
    def forward(ctx, moments, weight, bias, loadings):
        exponent = torch.addmm(bias, moments, loadings.T)
        log_sum = softmax_(exponent)
        ctx.save_for_backward(moments, weight, loadings, exponent)
        return log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        moments, weight, loadings, shares = ctx.saved_tensors
        wants_moments, wants_weight, wants_bias, _ = ctx.needs_input_grad
        gradient = gradient[:, None]
        for_moments = gradient * (shares @ loadings) if wants_moments else None
        for_weight = for_bias = None
        if wants_weight:
            for_weight, for_half_square = (shares.T @ (gradient * moments)).chunk(2, 1)
            for_weight = torch.addcmul(for_weight, for_half_square, weight)
        if wants_bias:
            for_bias = (gradient.T @ shares)[0]
        return for_moments, for_weight, for_bias, None


def logits_and_log_sums(h, weight, bias, rows, columns):
    """Logits of ``h @ weight.T + bias`` at different places, and log sums of rows.

    Shapes (n_places,) and (n_rows,). Gradients flow to the first three.
    """
    return _LogitsAndLogSums.apply(h, weight, bias, rows, columns)


class _LogitsAndLogSums(torch.autograd.Function):
    """``logits_and_log_sums``: of all logits the softmax alone is kept."""

    @staticmethod
    def forward(ctx, h, weight, bias, rows, columns):
        logits = torch.addmm(bias, h, weight.T)
        known = logits[rows, columns]
        log_sums = softmax_(logits)
        ctx.save_for_backward(h, weight, rows, columns, logits)
        return known, log_sums

    @staticmethod
    @once_differentiable
    def backward(ctx, for_known, for_log_sums):
        h, weight, rows, columns, shares = ctx.saved_tensors
        gradient = shares * for_log_sums[:, None]
        gradient[rows, columns] += for_known
        return gradient @ weight, gradient.T @ h, gradient.sum(0), None, None


def log_sum_bound(q):
    """T of each row, (n_rows,), float64, where the logits are the Gaussian variables.

    Of posteriors of ``gaussian.py``, with the softmax of their means as the center.
    """
    center = q.mean.softmax(1)
    shift, constant = _shift(q, center)
    exponent = q.mean + 0.5 * q.var - shift
    return exponent.logsumexp(1).double() + constant


def _shift(q, center):
    """Shifts of the means by centers, (n_rows, k), and half of their products.

    The latter are terms of the bound in float64, (n_rows,).
    """
    if q.tril is None:
        shift = center * q.var
    else:
        shift = torch.einsum("nij,nkj,nk->ni", q.tril, q.tril, center)
    return shift, 0.5 * (center * shift).sum(1, dtype=torch.float64)
