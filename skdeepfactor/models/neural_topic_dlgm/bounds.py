r"""Bounds of rows with their slopes, by which posteriors are refined.

Under a linear decoder in closed form. Under a residual one,

.. math::
    f(z) = b + A h(z), \qquad h(z) = (g(z), z), \qquad A = (U, W),

an expansion takes the place of the bound. Expected logits at a row's words are exact
given E[h], which is cheap: a mean over a few points :math:`\mu \pm s \epsilon`, with
signs for :math:`\epsilon`, through the layers up to h alone. The expected log total is
that of logits with these means, whose slopes are those of all rows in the mean,
:math:`L = A \bar J` with the mean :math:`\bar J` of dh / dz over the prior, so that the
bound T of ``log_total.py`` holds for them. A row whose own slopes J differ has more or
less variance in its logits: to second order that adds

.. math::
    \tfrac12 \sum_k s_k^2 \, (J^T C J - \bar J^T C \bar J)_{kk}

to T, with J at the row's mean and C the covariance of A under the row's own shares,
those of T, taken over a few words at even quantiles of them. It is held for some steps.
Where a curved decoder turns, slopes of rows point in all directions and cancel in their
mean: without this term variances are too large. With shares that are not the row's they
are too small: on images, whose pixels are sure in one row and open in the next, half as
wide as the best.
Precisions follow from the same two terms as under a linear decoder. Without a network
the expansion is the closed bound. No draws enter, so that steps come to rest where the
bound is largest and not where some draws have it; what is learnt from and scores are
bounds by draws at the posteriors that were found.
"""

import copy

import numpy as np
import torch

from skdeepfactor._math.gaussian import Posterior, kl_to_mixture
from skdeepfactor._math.log_total import LogTotal, softmax_
from skdeepfactor._math.ops import BLOCK, products_at_entries

# At least so many features are drawn for a log total, if that leaves no more than this
# share of all.
N_DRAWN, LARGEST_SHARE = 2048, 0.25

# Pairs of points over which the inputs of the last weights are averaged.
N_PAIRS = 4

# Words over which a row's own curvature is averaged.
N_WORDS = 64

# Where in each part of the shares its word stands: ties of sums of round shares, which
# rounding would decide, fall elsewhere.
QUANTILE = 0.382

# The least share of the curvature by the mean Jacobian.
LEAST_CURVATURE = 0.1


class ClosedBound:
    """The bound of rows under a linear decoder, and its slopes, in closed form.

    Parameters
    ----------
    likelihood : CountLikelihood
    total : LogTotal
        That of the decoder, in the type of the batches and posteriors that follow.
    prior : GaussianMixture
    kl_weight : float, default=1.0
        How often the divergence from the prior counts.
    """

    def __init__(self, likelihood, total, prior, kl_weight=1.0):
        self.likelihood, self.total = likelihood, total
        self.weight, self.bias = total.weight, total.bias
        self.prior, self.kl_weight = prior.to(self.weight), kl_weight

    def sampled(self, batch, generator):
        """Bound with a log total over some features, or None if that saves too little.

        The features of the batch's words are kept, since shares of a row stand out
        there. As many others are drawn, in proportion to their shares at factors of 0,
        and weighted by the inverse of their chances. So the expected total is that of
        all features.
        """
        n_features = len(self.bias)
        if n_features * LARGEST_SHARE < N_DRAWN:
            return None
        is_kept = torch.zeros_like(self.bias, dtype=torch.bool)
        is_kept[batch.entries.columns] = True
        n_known = int(is_kept.sum())
        n_drawn = max(n_known, N_DRAWN)
        if n_known + n_drawn > LARGEST_SHARE * n_features:
            return None
        shares = self.bias.detach().masked_fill(is_kept, -torch.inf).softmax(0)
        chances = (n_drawn * shares).masked_fill(is_kept, 1.0).clamp_max(1.0)
        draws = torch.rand(
            n_features, generator=generator, dtype=chances.dtype, device=chances.device
        )
        (columns,) = torch.where(draws < chances)
        bound = copy.copy(self)
        bias = self.bias.detach()[columns] - chances[columns].log()
        bound.total = LogTotal(self.weight.detach()[columns], bias)
        return bound

    def plain(self, batch, q, *, fixes_variances):
        """Posteriors with mean 0, as narrow as the rows are long, and their centers."""
        center, spread = self.total.prior_slopes
        var = q.var
        if not fixes_variances:
            var = 1 / (1 + batch.entries.totals.to(var)[:, None] * spread)
        if not self.likelihood.is_centered:
            center = torch.zeros_like(center)
        mean = torch.zeros_like(q.mean)
        return Posterior(mean, var, None, center.expand_as(mean))

    @torch.no_grad()
    def centered(self, q, *, is_best):
        """Posteriors with the centers that they have, or good ones, or the best."""
        if q.center is not None:
            return q
        if not self.likelihood.is_centered:
            return q._replace(center=torch.zeros_like(q.mean))
        q = q._replace(center=self.total.prior_slopes[0].expand_as(q.mean))
        return q._replace(center=self.total.best_center(q)) if is_best else q

    def log_likelihood(self, batch, q):
        """A lower bound on E_q[log p(x | z)], for posteriors with centers."""
        logits = self._logits(batch, q).double()
        return self.likelihood.of_entries(batch.entries, logits, self.total.bound(q))

    def slopes(self, batch, q):
        """Bound, slopes and precisions, as ``gaussian.refine`` needs them."""
        value, pull, push, shares = self._pulls(batch, q)
        mean_loading, curvature = self.total.slopes(shares, q.center)
        kl, prior_gradient, prior_precision = kl_to_mixture(q, self.prior)
        gradient = pull @ self.weight - push * mean_loading
        gradient -= self.kl_weight * prior_gradient
        precision = push * curvature + self.kl_weight * prior_precision
        center = mean_loading if self.likelihood.is_centered else q.center
        return value - self.kl_weight * kl, gradient, precision, center

    def full_slopes(self, batch, q):
        """As ``slopes``, for full covariances, with precisions (n_rows, k, k)."""
        value, pull, push, shares = self._pulls(batch, q)
        mean_loading, curvature = self.total.full_slopes(shares, q.center)
        kl, prior_gradient, prior_precision = kl_to_mixture(q, self.prior)
        gradient = pull @ self.weight - push * mean_loading
        gradient -= self.kl_weight * prior_gradient
        precision = curvature.mul_(push[:, :, None])
        diagonal = precision.diagonal(dim1=1, dim2=2)
        diagonal.add_(self.kl_weight * prior_precision)
        center = mean_loading if self.likelihood.is_centered else q.center
        return value - self.kl_weight * kl, gradient, precision, center

    def has_row_slopes(self, batch):
        """Whether a batch is a single row, with slopes by NumPy."""
        is_plain = self.likelihood.is_linear and len(self.prior.mean) == 1
        return is_plain and len(batch) == 1 and self.weight.device.type == "cpu"

    def row_slopes(self, batch):
        """The ``slopes`` of a single row, as ``gaussian.converge_row`` needs them.

        For likelihoods that are linear, whose words come in as two constants, and
        priors of one Gaussian.
        """
        entries, loadings = batch.entries, self.total.loadings
        bias, k = self.bias.detach().numpy(), self.weight.shape[1]
        pull = (batch.counts @ self.weight)[0].detach().numpy()
        constant = float(entries.values @ self.bias[entries.columns])
        push = float(entries.totals)
        prior_mean, log_var, log_weights = (
            part[0].detach().numpy() for part in self.prior
        )
        prior_precision = np.exp(-log_var)
        prior_constant = float(log_var.sum() - k - 2 * log_weights)

        def slopes(mean, var, center):
            shift = center * var
            moments = torch.from_numpy(np.concatenate([mean - shift, var]))
            exponent = torch.mv(loadings, moments).numpy()
            exponent += bias
            largest = exponent.max()
            exponent -= largest
            shares = np.exp(exponent, out=exponent)
            total = float(shares.sum())
            sums = torch.mv(loadings.T, torch.from_numpy(shares)).numpy() / total
            mean_loading, curvature = sums[:k], 2 * sums[k:]
            curvature -= (2 * mean_loading - center) * center
            # Rounding must not make it negative.
            curvature = np.maximum(curvature, 0)
            gap = mean - prior_mean
            kl = (np.square(gap) + var) @ prior_precision - np.log(var).sum()
            kl = max(0.5 * (kl + prior_constant), 0)
            log_total = largest + np.log(total) + 0.5 * (center @ shift)
            value = constant + pull @ mean - push * log_total - kl
            gradient = pull - push * mean_loading - prior_precision * gap
            return value, gradient, push * curvature + prior_precision, mean_loading

        return slopes

    def _pulls(self, batch, q):
        """Expected log likelihood of each row, and its slopes.

        The slopes are those in the logits of the row's words, a batch, and minus that
        in the log total, (n_rows, 1); then come the shares of the words, (n_rows,
        n_features).
        """
        log_total, shares = self.total.bound_and_shares(q)
        logits = self._logits(batch, q)
        return *self.likelihood.slopes(batch, logits, log_total), shares

    def _logits(self, batch, q):
        """Mean logits at the entries of the rows, (n_entries,)."""
        logits = products_at_entries(batch.counts, q.mean, self.weight)
        return logits + self.bias[batch.entries.columns]


class ExpandedBound:
    """The bound of rows under a residual decoder to second order, and its slopes.

    Posteriors have centers (n_rows, k), of the bound on the log total. The centers that
    come with slopes are (n_rows, 2 k): behind them is what a row's own slopes add to
    its curvature. Posteriors with such centers keep that.

    Parameters
    ----------
    likelihood : CountLikelihood
    decoder : Decoder
        With skip connections, in the type of the batches and posteriors that follow.
    prior : GaussianMixture
    points : Tensor of shape (n_points, k)
        Draws of the prior, over which slopes are averaged.
    kl_weight : float, default=1.0
        How often the divergence from the prior counts.
    """

    @torch.no_grad()
    def __init__(self, likelihood, decoder, prior, points, kl_weight=1.0):
        self.likelihood, self.decoder = likelihood, decoder
        self.weight, self.bias = decoder.weight.detach(), decoder.bias.detach()
        self.prior, self.kl_weight = prior.to(self.weight), kl_weight
        self.mean_slope = decoder.slopes(points.to(self.weight))[1].mean(0)
        self.mean_loadings = self.weight @ self.mean_slope.T
        halves = 0.5 * self.mean_loadings.square()
        self.loadings = torch.cat([self.weight, halves], 1)
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (N_PAIRS, 1, points.shape[1]), generator=generator)
        signs = (2 * signs - 1).to(self.weight)
        self.signs = torch.cat([signs, -signs])

    @torch.no_grad()
    def plain(self, batch, q, *, fixes_variances):
        """Posteriors with mean 0, as narrow as the rows are long, and their centers."""
        q = self.centered(q._replace(mean=torch.zeros_like(q.mean), center=None))
        if not fixes_variances:
            zero, center = q.mean[:1], q.center[:1]
            narrow = Posterior(zero, zero, None, center)
            curvature = self._totals(narrow, self.decoder.features(zero))[2]
            totals = batch.entries.totals.to(curvature)[:, None]
            q = q._replace(var=1 / (1 + totals * curvature))
        return q

    def centered(self, q):
        """Posteriors with the centers that they have, or good ones."""
        if q.center is not None:
            return q
        center = torch.zeros_like(q.mean)
        if self.likelihood.is_centered:
            mean = self.bias.softmax(0) @ self.weight
            center = (self.mean_slope @ mean).expand_as(q.mean)
        return q._replace(center=center)

    def flat(self, q):
        """Posteriors whose slopes add nothing to curvatures."""
        return q._replace(center=torch.cat([q.center, torch.zeros_like(q.mean)], 1))

    @torch.no_grad()
    def turned(self, q):
        """Posteriors with what their slopes add to curvatures, behind the centers."""
        q = q._replace(center=q.center[:, : q.mean.shape[1]])
        turns = self._totals(q, self._mean_features(q))[3][:, q.mean.shape[1] :]
        return q._replace(center=torch.cat([q.center, turns], 1))

    def slopes(self, batch, q):
        """Bound, slopes and precisions, as ``gaussian.refine`` needs them."""
        x = batch.entries
        with torch.enable_grad():
            mean = q.mean.detach().requires_grad_()
            h = self._mean_features(q._replace(mean=mean))
        inner = h.detach()
        log_total, toward, curvature, center = self._totals(q, inner)
        logits = products_at_entries(batch.counts, inner, self.weight)
        logits = logits + self.bias[x.columns]
        value, pull, push = self.likelihood.slopes(batch, logits, log_total)
        toward = pull @ self.weight - push * toward
        (gradient,) = torch.autograd.grad(h, mean, toward)
        kl, prior_gradient, prior_precision = kl_to_mixture(q, self.prior)
        gradient = gradient - self.kl_weight * prior_gradient
        precision = push * curvature + self.kl_weight * prior_precision
        return value - self.kl_weight * kl, gradient, precision, center

    def _mean_features(self, q):
        """Expected inputs of the last weights, (n_rows, width)."""
        return self.decoder.features(q.mean + q.var.sqrt() * self.signs).mean(0)

    def _totals(self, q, h):
        """Expected log totals for the means h of the inputs of the last weights.

        With their gradients in h, curvatures in z, and the best centers.
        """
        n_factors = q.mean.shape[1]
        center, *turns = q.center.split(n_factors, 1)
        shift = center * q.var
        moments = torch.cat([h - shift @ self.mean_slope, q.var], 1)
        shares = torch.addmm(self.bias, moments, self.loadings.T)
        log_total = softmax_(shares).double()
        mean_h, curvature = (shares @ self.loadings).tensor_split(
            [self.weight.shape[1]], 1
        )
        loading = mean_h @ self.mean_slope.T
        # Rounding must not make it negative.
        flat = (2 * curvature - (2 * loading - center) * center).clamp_min(0)
        turns = turns[0] if turns else self._turns(q.mean, shares)
        curvature = torch.maximum(flat + turns, LEAST_CURVATURE * flat)
        extra = (curvature - flat) * q.var + center * shift
        log_total += 0.5 * extra.sum(1, dtype=torch.float64)
        if not self.likelihood.is_centered:
            loading = torch.zeros_like(loading)
        return log_total, mean_h, curvature, torch.cat([loading, turns], 1)

    @torch.no_grad()
    def _turns(self, z, shares):
        """Curvature that each row's own slopes at z add, (n_rows, k)."""
        levels = (torch.arange(N_WORDS, dtype=torch.float64) + QUANTILE) / N_WORDS
        levels = levels.to(z).expand(len(z), -1).contiguous()
        words = torch.searchsorted(shares.cumsum(1), levels)
        # Sums of shares may end below the last level by rounding.
        words = words.clamp_max(len(self.weight) - 1)
        size = max(1, BLOCK // ((N_WORDS + z.shape[1]) * self.weight.shape[1]))
        parts = []
        for some, at in zip(z.split(size), words.split(size), strict=True):
            slopes = self.decoder.slopes(some)[1]
            own, mean = self.weight[at] @ slopes.mT, self.mean_loadings[at]
            if self.likelihood.is_centered:
                own, mean = (v - v.mean(1, keepdim=True) for v in (own, mean))
            parts.append((own.square() - mean.square()).mean(1))
        return torch.cat(parts)
