r"""Bounds of rows with their slopes, by which posteriors are refined.

Under a linear decoder in closed form. Under a residual one,

.. math::
    f(z) = b + A h(z), \qquad h(z) = (g(z), z), \qquad A = (U, W),

by draws in antithetic pairs, :math:`z = \mu \pm s \epsilon`, over whose log likelihoods
the bound averages. A pair cancels the odd terms of the error. Pairs serve refinement
and training; a score averages over independent draws. The gradient in the mean is that
of the draws, by the Jacobian J of h. A draw says too little of each variance, so that
precisions follow from the slopes of the logits, as for linear decoders:

.. math::
    s_k^{-2} = 1 + t \, \big(\text{Var}_{\tilde p} (A \bar J)_k
    + (J^T C J - \bar J^T C \bar J)_{kk}\big),

with :math:`\tilde p` the row's own shares, and t minus the slope of the log likelihood
in the log total. The first term is exact if all rows have the mean Jacobian
:math:`\bar J` over the prior, the second corrects for the row's own, J, at its mean, by
:math:`C = \text{Cov}_{\bar p}(A)` under the mean shares over the prior, of which a
few leading axes are kept. Where a curved decoder turns, slopes of rows point in all
directions and cancel in their mean: without the second term variances are too large.
"""

import numpy as np
import torch

from skdeepfactor._math.gaussian import Posterior, kl_to_mixture
from skdeepfactor._math.ops import BLOCK, products_at_entries

# Axes of the covariance of the weights that are kept.
N_AXES = 32

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


class DrawnBound:
    """The bound of rows under a residual decoder by draws, and its slopes.

    Parameters
    ----------
    likelihood : CountLikelihood
    decoder : Decoder
        With skip connections, in the type of the batches and posteriors that follow.
    prior : GaussianMixture
    points : Tensor of shape (n_points, k)
        Draws of the prior, over which slopes and shares are averaged.
    kl_weight : float, default=1.0
        How often the divergence from the prior counts.
    """

    def __init__(self, likelihood, decoder, prior, points, kl_weight=1.0):
        self.likelihood, self.decoder = likelihood, decoder
        self.prior, self.kl_weight = prior.to(decoder.weight), kl_weight
        weight = decoder.weight.detach()
        h, slopes = decoder.slopes(points.to(weight))
        mean_slope = slopes.mean(0)
        loadings = weight @ mean_slope.T
        self.loadings = torch.cat([loadings, loadings.square()], 1)
        shares = torch.addmm(decoder.bias, h, weight.T).softmax(1).mean(0)
        if likelihood.is_centered:
            weight = weight - shares @ weight
        covariance = (weight.T * shares) @ weight
        # Not all devices have it, and weights of a run that diverges have no axes.
        values, axes = torch.linalg.eigh(covariance.cpu().nan_to_num(0, 0, 0))
        # Rounding must not make a variance negative.
        axes = axes * values.clamp_min(0).sqrt()
        self.axes = axes[:, -N_AXES:].to(weight)
        self.mean_part = (mean_slope @ self.axes).square().sum(1)

    def plain(self, batch, q, *, fixes_variances):
        """Posteriors with mean 0, as narrow as the rows are long."""
        mean, var = torch.zeros_like(q.mean), q.var
        if not fixes_variances:
            shares = self.decoder(mean[:1]).softmax(1)
            curvature = self._curvature(shares, self.turns(mean[:1]))
            var = 1 / (1 + batch.entries.totals.to(var)[:, None] * curvature)
        return q._replace(mean=mean, var=var)

    def turns(self, z):
        """Curvature of each row by its own slopes at z, (n_rows, k)."""
        size = max(1, BLOCK // (z.shape[1] * len(self.axes)))
        parts = [
            (self.decoder.slopes(part)[1] @ self.axes).square().sum(2)
            for part in z.split(size)
        ]
        return torch.cat(parts) - self.mean_part

    def slopes(self, batch, q, noise, *, holds=False):
        """Bound, slopes and precisions, as ``gaussian.refine`` needs them.

        ``noise`` are standard normal draws, (n_draws, n_rows, k). Curvatures are found
        at ``q``, or with ``holds`` at the first posteriors of an iteration, which have
        centers without numbers; in later ones they stand in place of the centers.
        """
        x, weight = batch.entries, self.decoder.weight
        n_draws = len(noise)
        with torch.enable_grad():
            z = (q.mean + q.var.sqrt() * noise).requires_grad_()
            h = self.decoder.features(z)
        logits = torch.addmm(self.decoder.bias, h.detach().flatten(0, 1), weight.T)
        log_totals = logits.logsumexp(1, keepdim=True)
        known = logits.unflatten(0, noise.shape[:2])[:, x.rows, x.columns]
        shares = logits.sub_(log_totals).exp_()
        mean_loadings = (shares @ weight).view_as(h)
        log_totals = log_totals.double().view(n_draws, -1)
        value, push, toward = 0.0, 0.0, []
        for draw in range(n_draws):
            of_draw, pull, push_of_draw = self.likelihood.slopes(
                batch, known[draw], log_totals[draw].clone()
            )
            toward.append(pull @ weight - push_of_draw * mean_loadings[draw])
            value, push = value + of_draw, push + push_of_draw
        (gradient,) = torch.autograd.grad(h, z, torch.stack(toward))
        kl, prior_gradient, prior_precision = kl_to_mixture(q, self.prior)
        gradient = gradient.mean(0) - self.kl_weight * prior_gradient
        curvature = q.center
        if not curvature.shape[1]:
            shares = shares.view(n_draws, -1, len(weight)).mean(0)
            curvature = self._curvature(shares, self.turns(q.mean))
        precision = push / n_draws * curvature + self.kl_weight * prior_precision
        value = value / n_draws - self.kl_weight * kl
        return value, gradient, precision, curvature if holds else q.center

    def _curvature(self, shares, turns):
        """Variances of the logits' slopes over features, or squares, (n_rows, k)."""
        mean, square = (shares @ self.loadings).chunk(2, 1)
        if self.likelihood.is_centered:
            # Rounding must not make it negative.
            square = (square - mean.square()).clamp_min(0)
        return torch.maximum(square + turns, LEAST_CURVATURE * square)
