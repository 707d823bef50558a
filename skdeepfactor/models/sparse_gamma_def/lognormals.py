r"""Correlated log-normals in the place of independent gammas of large shape.

If several units explain the same entries, their weights, and likewise the factors of a
row, are negatively correlated under the exact posterior: the data fix their sum.
Posteriors that ignore this are too narrow. For positive numbers y with given means m,
those of a row of an array of which the shapes are large, let

.. math::
    \log y \sim N\big(\log m - \tfrac12 \operatorname{diag} S,\ S\big),

so that E[y] = m and :math:`\operatorname{Cov}(y_k, y_l) = m_k m_l (e^{S_{kl}} - 1)`.
With the other side of the products, u (the factors, for weights), and c the curvature
of minus the log likelihood of an entry in its mean, the bound is, as far as it depends
on S and to second order around the means,

.. math::
    -\tfrac12 \sum_{kl} H_{kl} (e^{S_{kl}} - 1) - \tfrac{a}{2} \operatorname{tr} S
    + \tfrac12 \log \det S, \qquad
    H_{kl} = m_k m_l \sum_i c_i E[u_{ik} u_{il}],

a the shape of the prior. No entry of H is negative, so this is concave in S, and
largest where

.. math::
    S^{-1} = H \circ e^{S} + a I,

with the exponential of each entry. A few damped iterations come close, and any S gives
a bound. (To the first order of the exponential, :math:`S^{-1} = H + a I`, variances are
far too large where units are almost alike.)

Means stay as they are, so that nothing else moves. A log-normal has the wrong skewness
beside a gamma of shape s, which costs about 1 / (12 s): numbers of small shape stay
gammas, and so do all of a row that gains less by its correlations than that.
"""

import math
from typing import NamedTuple

import torch

from skdeepfactor._math.ops import dense, slices, take_rows

# Shapes above which numbers are log-normal: the best of 2, 5, 10 and 20 on faces.
LEAST_SHAPE = 5.0

# Steps towards S, and the largest variance on the way: S is scaled down to it.
N_STEPS, LARGEST = 6, 1.0

# By this share precisions are raised against rounding.
RIDGE = 1e-9


class Block(NamedTuple):
    """Some rows of an array, and which of their columns are correlated.

    ``columns``, (n_rows, width), are padded where not ``is_in``; ``mean`` is 0 there.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    is_in: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def of(cls, rows, is_large, mean):
        """Gather the large factors of some rows, the last of which has the most."""
        width = int(is_large[rows[-1]].sum())
        # Those that are large come first.
        columns = (~is_large[rows]).byte().argsort(dim=1, stable=True)[:, :width]
        is_in = is_large[rows].gather(1, columns)
        return cls(rows, columns, is_in, mean[rows].gather(1, columns) * is_in)


class CorrelatedLogs:
    """Posteriors of the logarithms of large entries of an array, row by row.

    ``mean`` and ``shape``, (n, k), are those of the gammas, ``prior`` is the shape of
    their prior. ``add`` is called for all of the data, then ``settle``.
    """

    def __init__(self, mean, shape, prior):
        self.mean, self.shape, self.prior = mean.double(), shape.double(), prior
        is_large = self.shape > LEAST_SHAPE
        n_large = is_large.sum(1)
        # One number alone has nothing to be correlated with.
        order = n_large.argsort()[int((n_large < 2).sum()) :]
        widest = int(n_large.max()) if len(n_large) else 0
        self.blocks = [
            Block.of(order[part], is_large, self.mean)
            for part in slices(len(order), max(1, widest**2))
        ]
        widths = (block.columns.shape for block in self.blocks)
        self.curvatures = [
            self.mean.new_zeros(n_rows, width, width) for n_rows, width in widths
        ]
        self.factors = []

    @property
    def size(self):
        """How many numbers it holds."""
        return sum(
            block.columns.numel() * block.columns.shape[1] for block in self.blocks
        )

    def add(self, curvature, mean, shape, weight=1.0):
        """Add what some data say: (n, m) curvatures, and the other side's, (m, k).

        ``weight`` says how often each of the m counts.
        """
        mean, shape = mean.double(), shape.double()
        others, variances = mean.T.contiguous(), mean.square() / shape
        for block, found in zip(self.blocks, self.curvatures, strict=True):
            n_rows, width = block.columns.shape
            for part in slices(n_rows, width * len(mean)):
                columns = block.columns[part]
                of_rows = dense(take_rows(curvature, block.rows[part])) * weight
                values = others[columns]
                products = (values * of_rows[:, None]) @ values.mT
                diagonal = products.diagonal(dim1=1, dim2=2)
                diagonal += (of_rows @ variances).gather(1, columns)
                found[part] += products

    def settle(self):
        """Find the posteriors."""
        for block, found in zip(self.blocks, self.curvatures, strict=True):
            own = block.mean
            found *= own[:, :, None] * own[:, None]
            # Places that stand for nothing are independent.
            priors = torch.where(block.is_in, self.prior, 1.0)
            priors = torch.diag_embed(priors + RIDGE * found.diagonal(dim1=1, dim2=2))
            precision = found + priors
            for _ in range(N_STEPS):
                covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
                # As a whole, since it stays positive semi-definite, and so do the
                # exponentials of its entries.
                largest = covariance.diagonal(dim1=1, dim2=2).amax(1)
                covariance *= (LARGEST / largest).clamp_max(1)[:, None, None]
                bent = found * covariance.exp_()
                precision = 0.5 * (precision + bent + priors)
            factor = torch.linalg.cholesky(precision)
            covariance = torch.cholesky_inverse(factor)
            shape = self._at(block, self.shape)
            gain = self._gain(block, found, covariance, factor, shape)
            is_kept = gain > (block.is_in / (12 * shape)).sum(1)
            block.is_in.logical_and_(is_kept[:, None])
            identity = torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
            factor = torch.where(is_kept[:, None, None], factor, identity)
            variance = covariance.diagonal(dim1=1, dim2=2) * block.is_in
            self.factors.append((factor, variance))
        self.curvatures = None

    @staticmethod
    def _at(block, values):
        """Numbers of each row, (n, k), at the columns of a block."""
        return values[block.rows].gather(1, block.columns)

    def _gain(self, block, curvature, covariance, factor, shape):
        """By how much a bound is above that of independent numbers, by row."""
        alone = torch.log1p(1 / shape)
        variance = covariance.diagonal(dim1=1, dim2=2)
        of_data = (curvature * torch.expm1(covariance)).sum((1, 2))
        of_data = of_data - (curvature.diagonal(dim1=1, dim2=2) / shape).sum(1)
        terms = self.prior * (alone - variance) - alone.log()
        terms = 0.5 * terms - factor.diagonal(dim1=1, dim2=2).log()
        return (terms * block.is_in).sum(1) - 0.5 * of_data

    def kl_change(self):
        """By how much divergences from gammas change, whatever their rates, (n,)."""
        change = self.mean.new_zeros(len(self.mean))
        for block, (factor, variance) in zip(self.blocks, self.factors, strict=True):
            shape = self._at(block, self.shape)
            # Logarithms and entropies beside those of a gamma of the same mean.
            log = torch.digamma(shape) - shape.log() + variance / 2
            entropy = shape - shape.log() + torch.lgamma(shape)
            entropy += (1 - shape) * torch.digamma(shape) + variance / 2
            entropy -= 0.5 * math.log(2 * math.pi * math.e)
            terms = entropy + (self.prior - 1) * log
            terms += factor.diagonal(dim1=1, dim2=2).log()
            change[block.rows] = (terms * block.is_in).sum(1)
        return change

    def draw(self, draws, generator):
        """Replace large entries of draws, (n, k), by those of log-normals."""
        for block, (factor, variance) in zip(self.blocks, self.factors, strict=True):
            noise = torch.from_numpy(generator.standard_normal(block.columns.shape))
            noise = noise.to(draws)[..., None]
            logs = torch.linalg.solve_triangular(factor.mT, noise, upper=True)[..., 0]
            values = block.mean * (logs - variance / 2).exp()
            values = torch.where(block.is_in, values, self._at(block, draws))
            draws[block.rows] = draws[block.rows].scatter(1, block.columns, values)
        return draws
