"""Generalized inverse Gaussian variables: moments and draws."""

import math

import numpy as np
import scipy.interpolate
import scipy.optimize
import scipy.special
import torch
from torch import nn

from skdeepfactor._math.ops import SLICE

# Bessel functions of higher orders overflow where their argument is small.
LARGEST_ORDER = 30.0


# Size of the table from which quantiles of these distributions are read.
N_POINTS = 512


class InverseGaussians(nn.Module):
    """Generalized inverse Gaussians q(y) ~ y^(g - 1) exp(-rho y - tau / y) of order g.

    Their moments are ratios of Bessel functions of s = 2 sqrt(rho tau). torch has none
    of real order, so they are interpolated in log s between points made by SciPy, to
    1e-8; beyond the last points, logarithms are extrapolated linearly.
    """

    def __init__(self, order):
        super().__init__()
        self.order = order
        low, high, self.step = -18.0, 14.0, 0.05
        grid = np.arange(low, high + self.step / 2, self.step)
        s = np.exp(grid)
        bessel = scipy.special.kve(order, s)
        curves = [
            np.log(scipy.special.kve(order + 1, s) / bessel),
            np.log(scipy.special.kve(1 - order, s) / bessel),
            np.log(2 * bessel),
        ]
        # Coefficients of each cell, (4, 3, n), of powers from 3 down to 0.
        spline = scipy.interpolate.CubicSpline(grid, curves, axis=1)
        powers = self.step ** np.arange(3, -1, -1)
        cells = spline.c.transpose(0, 2, 1) * powers[:, np.newaxis, np.newaxis]
        # Before the first cell and after the last one, straight on.
        ends = np.zeros((2, 4, 3, 1))
        ends[:, 2, :, 0] = spline(grid[[0, -1]], 1).T * self.step
        ends[:, 3, :, 0] = spline(grid[[0, -1]]).T
        self.low = low
        table = torch.from_numpy(np.concatenate([ends[0], cells, ends[1]], axis=2))
        # Persistent arrays would be pickled with every model.
        self.register_buffer("table", table, persistent=False)

    def _curves(self, log_s):
        """The interpolated curves, (3, ...), float64."""
        table = self.table.double()
        position = (log_s.double() - self.low) / self.step
        # NaN has a cell too, with the value NaN.
        cell = position.floor().nan_to_num_(0.0).clamp_(-1, table.shape[2] - 2)
        t = position - cell.clamp_min(0)
        cell = cell.long() + 1
        value = table[0][:, cell]
        for coefficients in table[1:]:
            value = torch.addcmul(coefficients[:, cell], value, t)
        return value

    def moments(self, rho, tau):
        """E[y], E[1 / y] and, in float64, the log of the normaliser."""
        log_rho, log_tau = rho.double().log(), tau.double().log()
        half = 0.5 * (log_tau - log_rho)
        log_s = math.log(2) + 0.5 * (log_rho + log_tau)
        ratio, inverse_ratio, log_bessel = self._curves(log_s)
        log_normaliser = self.order * half + log_bessel - log_s.exp()
        mean, inverse = (half + ratio).exp(), (inverse_ratio - half).exp()
        return mean.to(rho), inverse.to(rho), log_normaliser

    def of_mean(self, mean):
        """Parameters rho and tau with that mean and rho tau = 1."""
        log_s = torch.full((), math.log(2), dtype=torch.float32).to(mean)
        ratio = self._curves(log_s)[0].exp().to(mean)
        return ratio / mean, mean / ratio

    def sample(self, rho, tau, n_draws, generator):
        """Draws of each, (n_draws, ...), float64, by way of the distribution function.

        It is tabulated in log y, from where the density is at most e^-40 of its
        largest. Variances of log y are then right to 1 %, of orders up to 30 to 7 %.
        """
        log_rho, log_tau = rho.double().log(), tau.double().log()
        s = (math.log(2) + 0.5 * (log_rho + log_tau)).exp().reshape(-1, 1)
        uniform = generator.random((len(s), n_draws))
        draws = torch.from_numpy(uniform).to(s.device)
        # A few at a time: the tables then stay in a cache.
        n_rows = SLICE // (8 * N_POINTS)
        parts = zip(s.split(n_rows), draws.split(n_rows), strict=True)
        log_y = torch.cat([self._quantiles(s, draws) for s, draws in parts])
        log_y = log_y.T.reshape(n_draws, *rho.shape)
        return (log_y + 0.5 * (log_tau - log_rho)).exp()

    def _quantiles(self, s, levels):
        """Quantiles of log y, (n, n_draws), for rho = tau, of s, (n, 1)."""
        # Large orders have their largest density, and a tail, beyond that of order 0.
        reach = torch.acosh(1 + (40 + 2 * self.order) / s)
        points = torch.linspace(-1, 1, N_POINTS, dtype=s.dtype, device=s.device)
        u = reach * points
        log_density = torch.cosh(u).sub_(1).mul_(-s).add_(u, alpha=self.order)
        log_density -= log_density.amax(1, keepdim=True)
        total = torch.cumulative_trapezoid(log_density.exp_())
        total /= total[:, -1:].clone()
        cell = torch.searchsorted(total, levels).clamp_max(total.shape[1] - 1)
        before = torch.where(cell > 0, total.gather(1, (cell - 1).clamp_min(0)), 0.0)
        share = (levels - before) / (total.gather(1, cell) - before).clamp_min(1e-300)
        return reach * (2 * (cell + share.clamp(0, 1)) / (N_POINTS - 1) - 1)
