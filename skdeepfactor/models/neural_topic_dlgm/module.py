r"""Deep latent Gaussian models of sparse counts, with posteriors optimised row by row.

The story of row n with :math:`N_n` words:

.. math::
    z_n \sim p(z), \qquad x_n \sim \text{Multinomial}(N_n, \text{softmax}(f(z_n))),

with logits f linear in z, or a network of it, and p(z) standard normal or a mixture of
Gaussians. Instead of the multinomial: a Polya urn that starts with A words in
proportion to softmax(f), since a word that was used once comes again (Dirichlet-
multinomial); or counts without a given total, Poisson with means exp(f), or negative
binomial with sizes exp(f). The weights of the logits have a Gaussian prior and are
estimated by their mode.

The posterior of a row is :math:`q(z_n) = N(\mu_n, \text{diag}(s_n^2))`, and the bound

.. math::
    L_n = E_q[\log p(x_n | z)] - KL(q(z_n) \| p(z_n)).

**Linear decoder:** all in closed form. Log likelihoods are linear or convex in single
logits and decreasing in the log total, so that expected logits and the bound T of
``log_total.py`` in their places give a lower bound (``likelihoods.py``). Poisson and
negative binomial take the total itself, :math:`\log E \sum_v e^{\ell_v}`, which is a
center of 0. With :math:`g_v = \partial L / \partial m_v` at the row's words,
:math:`t = -\partial L / \partial T`, and the shares :math:`\tilde p` and center c of T,

.. math::
    \nabla_\mu L = \sum_v g_v w_v - t \sum_v \tilde p_v w_v - \mu, \qquad
    s_k^{-2} = 1 + t \sum_v \tilde p_v (w_{vk} - c_k)^2

where L is stationary in s; with a full covariance :math:`S^{-1} = I + t\,\text{Cov}_{
\tilde p}(w)`. Steps of Newton by these precisions refine each row (``gaussian.py``).

**Deep decoder:** the bound is sampled, and refined by Adam. The noise of a row that is
scored is a function of its content, so that a score depends on that row alone.

**Learning:** each row's q starts from where it stood a pass ago (a closed-form
decoder) or from the encoder; the decoder follows the gradient of the bound at these
refined q, and the encoder learns to predict them: it descends KL(encoder || q), which
is the loss of its own bound to second order. Without refinement both follow the
gradient of the encoder's bound.

For mixtures, :math:`p(z) = \sum_c \pi_c N(a_c, B_c)`, the divergence is bounded
(``priors.py``).

Krishnan, Liang and Hoffman (2018), On the challenges of learning with inference
networks on sparse, high-dimensional data; Burda, Grosse and Salakhutdinov (2016),
Importance weighted autoencoders; Li and Turner (2016), Renyi divergence variational
inference.
"""

import numpy as np
import scipy.sparse
import torch

from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.gaussian import (
    Posterior,
    converge,
    converge_row,
    diagonal_kl,
    draws_of,
    kl_of_factors,
    kl_to_mixture,
    refine,
    refine_by_adam,
    refine_fully,
)
from skdeepfactor._math.importance import importance_bound
from skdeepfactor._math.log_total import LogTotal
from skdeepfactor._math.noise import Stream
from skdeepfactor._math.ops import csr, map_values, products_at_entries
from skdeepfactor._math.priors import with_free_bits
from skdeepfactor._math.row_iteration import choose
from skdeepfactor._math.sampled import N_DRAWS, SampledModule

# A row is refined until a step would gain less than this share of its bound.
REFINE_TOL = 1e-7

# Times the steps of a pass, where a row has none behind it.
N_COLD = 3

# Draws for the next word, whose noise costs as much as there is of it.
N_NEXT_DRAWS = 100

# Variance of a deep decoder's posteriors where the network has gone astray.
PLAIN_VARIANCE = 0.1

# Numbers of weights whose products are kept, not made for each call.
LARGEST_KEPT = 2**18

# Numbers in an array of a part of a batch, as the loop cuts it.
CHUNK_NUMBERS = 2**19

# Shares of the posteriors' variance, one of which predictions are averaged over.
SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0)

# The least weight of a divergence by which variances are divided.
LEAST_KL_WEIGHT = 0.01


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


class DeepLatentGaussian(SampledModule):
    """Counts of a row from a Gaussian vector through a decoder.

    Local parameters of a row are the mean and the log variance of its posterior, and
    the center of the bound on its log total.
    """

    def __init__(
        self,
        n_components,
        likelihood,
        prior,
        encoder,
        decoder,
        *,
        input_transform,
        weight_scale,
        posterior_variance,
        has_full_covariance,
        refine_steps,
        max_refine_steps,
        alpha,
        n_particles,
        kl_warmup,
        free_bits,
    ):
        super().__init__(n_components)
        self.likelihood, self.prior = likelihood, prior
        self.encoder, self.decoder = encoder, decoder
        self.input_transform = input_transform
        self.weight_scale, self.free_bits = weight_scale, free_bits
        self.posterior_variance = posterior_variance
        self.has_full_covariance = has_full_covariance
        self.refine_steps, self.max_refine_steps = refine_steps, max_refine_steps
        self.alpha, self.n_particles = alpha, n_particles
        self.kl_warmup = kl_warmup
        self._kept_total = None
        self.register_buffer("idf", torch.ones(len(decoder.bias)))
        self.register_buffer("spread", torch.ones(()))
        remembers = refine_steps > 0 and decoder.is_linear
        self.local_width = 3 * n_components if remembers else 0

    @property
    def work_width(self):
        # One array of a batch holds all features, and is worth the size of four. Rows
        # are at least twice the components, or the weights take longer to read.
        width = min(len(self.idf) // 4, CHUNK_NUMBERS // (2 * self.n_components))
        return max(self.local_width, width)

    def posterior(self, batch, start=None):
        q = self._infer(batch, self.likelihood, start)
        return q.to(self.decoder.weight).distribution()

    def elbo(self, batch, q=None):
        q = self._infer(batch, self.likelihood) if q is None else Posterior.of(q)
        return self._bounds(batch, self.likelihood, q)

    def word_bound(self, batch):
        likelihood = self.likelihood.given_total
        return self._bounds(batch, likelihood, self._infer(batch, likelihood))

    def log_joint(self, batch, z):
        log_likelihood = self.likelihood.log_likelihood(batch, self.decoder(z))
        return log_likelihood + self._density().log_prob(z)

    def draws(self, q, batch, n_draws, stream=0):
        return draws_of(q, self.noise(batch, q.mean, n_draws, stream).normal())

    def decode(self, z):
        return self.likelihood.mean(self.decoder(z))

    def jacobian(self, z):
        """The mean of d log E[x | z] / dz over the rows of z, (n_features, k)."""
        return self.decoder.jacobian(z, of_shares=self.likelihood.is_given_total)

    @torch.no_grad()
    def draw_prior(self, n_rows, generator):
        return self._density().sample(n_rows, generator)

    @torch.no_grad()
    def sample(self, totals, generator):
        seed = int(generator.integers(2**31))
        z = self.draw_prior(len(totals), torch.Generator().manual_seed(seed))
        return self.likelihood.sample(self.decoder(z).double(), totals, generator)

    def predictive(self, batch):
        """Probabilities of the next word of each row, (n_rows, n_features).

        Means over the posterior, of whose variance ``spread`` says how much counts: for
        a linear decoder to second order, in closed form; for others by draws that
        depend on the row alone.
        """
        q = self._infer(batch, self.likelihood)
        return self._averaged(batch, q, self.spread.item()).to(self.decoder.weight)

    def completion_scores(self, batch, generator):
        """Log probability of words hidden at random, (n_rows, n_spreads), float64.

        Half of the words of each row are hidden and predicted from the others, by each
        of ``SPREADS``. ``generator`` is a ``numpy.random.Generator``.
        """
        x, entries = batch.counts, batch.entries
        values = entries.values.cpu().numpy()
        whole = np.floor(values)
        # Integers above have no place among NumPy's, and halves near half of them.
        most = np.minimum(whole, 2.0**53)
        hidden = generator.binomial(most.astype(np.int64), 0.5)
        hidden = hidden * (whole / np.maximum(most, 1))
        # Parts of words are on one side.
        hidden = hidden + (values % 1) * generator.integers(2, size=len(values))
        hidden = torch.from_numpy(hidden).to(entries.values)
        seen = (entries.values - hidden).to(x.dtype)
        seen = Batch(csr(x.crow_indices(), x.col_indices(), seen, x.shape))
        q = self._infer(seen, self.likelihood)
        scores = []
        for spread in SPREADS:
            shares = self._averaged(seen, q, spread)[entries.rows, entries.columns]
            scores.append(entries.row_sum(torch.xlogy(hidden, shares.double())))
        return torch.stack(scores, 1)

    def _averaged(self, batch, q, spread):
        """Shares of the next word by posteriors of that share of their variance."""
        tril = None if q.tril is None else q.tril * spread**0.5
        q = Posterior(q.mean, q.var * spread, tril)
        if spread == 0.0:
            mean = q.mean.to(self.decoder.weight)
            return self.likelihood.next_word(batch, self.decoder(mean))
        if self.decoder.is_linear:
            # The center that the steps have come to is a step behind its best.
            closed, batch, q = self._closed(self.likelihood, batch, q)
            return self.likelihood.next_word(batch, closed.total.exponents(q)[0])
        draws = self.draws(q.distribution(), batch, N_NEXT_DRAWS, Stream.PREDICTION)
        parts = (self.likelihood.next_word(batch, self.decoder(z)) for z in draws)
        return sum(parts) / N_NEXT_DRAWS

    def global_kl(self):
        """Minus the log density of the decoder's weights, except for its constant."""
        return self.decoder.squared_norm() / (2 * self.weight_scale**2)

    def backward(self, batch, n_samples, start=None):
        network = self._encode(batch)
        if self.refine_steps > 0:
            with torch.no_grad():
                proposed = Posterior(network.mean.detach(), network.var.detach())
                q = self._infer(batch, self.likelihood, start, proposed)
            # To second order, the gap between the network's own bound and this one.
            amortisation = diagonal_kl(network, q)
        else:
            q, amortisation = network, network.mean.new_zeros(())
        if self.alpha == 1.0:
            # A linear decoder needs no noise, but the seed's later draws follow it.
            noise = self.noise(batch, q.mean, 1).normal()
            likelihood = self._expected_log_likelihood(batch, self.likelihood, q, noise)
            kl = self._kl(q)
            bounds = likelihood - kl
            if self.free_bits > 0:
                kl = with_free_bits(kl_of_factors(q), self.free_bits)
            objective = likelihood - self.kl_weight() * kl
        else:
            bounds, objective = importance_bound(
                lambda z: self.log_joint(batch, z),
                q.distribution(),
                self.alpha,
                self.n_particles,
                generator=self.generator,
            )
        loss = batch.share / n_samples * self.global_kl()
        loss = loss + batch.weight * (amortisation.sum() - objective.sum())
        loss.backward()
        with torch.no_grad():
            moments = torch.stack([q.mean.mean(0), q.mean.square().mean(0)])
            self.note_moments(moments, batch.share)
            local = None
            if self.local_width:
                local = torch.cat([q.mean, q.var.log(), q.center], 1)
        return bounds.detach(), local

    def inputs(self, batch):
        """Inputs of the encoder for a batch."""
        x, entries = batch.counts, batch.entries
        if self.input_transform == "counts":
            return x
        if self.input_transform == "normalize":
            return map_values(lambda v: v / entries.totals[entries.rows].to(v), x)
        if self.input_transform == "tfidf":
            values = x.values() * self.idf[entries.columns]
            lengths = entries.row_sum(values.square()).sqrt()
            lengths = lengths.clamp_min(torch.finfo(values.dtype).tiny)
            return map_values(lambda _: values / lengths[entries.rows], x)
        rows = scipy.sparse.csr_matrix(
            (
                x.values().cpu().numpy(),
                x.col_indices().cpu().numpy(),
                x.crow_indices().cpu().numpy(),
            ),
            shape=x.shape,
        )
        seen = self.input_transform.transform(rows)
        if scipy.sparse.issparse(seen):
            seen = scipy.sparse.csr_matrix(seen)
        return to_tensor(seen, slice(None), dtype=x.dtype, device=x.device)

    def _encode(self, batch):
        """Posteriors as the network has them."""
        mean, log_var = self.encoder(self.inputs(batch), self.generator)
        if self.posterior_variance is not None:
            log_var = torch.full_like(log_var, np.log(self.posterior_variance))
        return Posterior(mean, log_var.exp())

    def _infer(self, batch, likelihood, start=None, network=None):
        """Posteriors of the rows, refined from remembered or encoded ones."""
        if start is not None:
            mean, log_var, center = start.chunk(3, 1)
            q = Posterior(mean, log_var.exp(), None, center)
        else:
            q = self._encode(batch) if network is None else network
        n_steps = self.refine_steps if self.training else self.max_refine_steps
        if self.training and self.decoder.is_linear and start is None:
            # The first pass starts from a network that knows nothing yet.
            n_steps *= N_COLD
        if n_steps == 0 or len(batch) == 0:
            return q
        refined = self._refine if self.decoder.is_linear else self._refine_by_adam
        return refined(batch, likelihood, q, n_steps)

    @torch.no_grad()
    def _refine(self, batch, likelihood, q, n_steps):
        """Steps of Newton on the closed bound."""
        is_remembered = q.center is not None
        closed, batch, q = self._closed(likelihood, batch, q)
        fixes_variances = self.posterior_variance is not None
        options = {"max_steps": n_steps, "fixes_variances": fixes_variances}
        starts = [q]
        if not is_remembered:
            # A network that has not learnt yet, or gone astray, is no better start.
            starts.append(closed.plain(batch, q, fixes_variances=fixes_variances))
        if self.training:
            kl_weight = max(closed.kl_weight, LEAST_KL_WEIGHT)
            return refine(closed.slopes, batch, starts, kl_weight=kl_weight, **options)
        if closed.has_row_slopes(batch):
            slopes = closed.row_slopes(batch)
            q = converge_row(slopes, starts, tol=REFINE_TOL, **options)
        else:
            q = converge(closed.slopes, batch, starts, tol=REFINE_TOL, **options)
        if self.has_full_covariance:
            q = refine_fully(closed.full_slopes, batch, q)
        return q

    def _refine_by_adam(self, batch, likelihood, q, n_steps):
        """Steps of Adam on sampled bounds."""
        q = self._better_start(batch, likelihood, q)
        prior, kl_weight = self._density(), self.kl_weight()

        def bounds(step, q):
            noise = self.noise(batch, q.mean, 1, Stream.REFINEMENT + step).normal()
            value = self._expected_log_likelihood(batch, likelihood, q, noise)
            return value - kl_weight * kl_to_mixture(q, prior)[0]

        fixes_variances = self.posterior_variance is not None
        return refine_by_adam(
            bounds, q, n_steps=n_steps, fixes_variances=fixes_variances
        )

    @torch.no_grad()
    def _better_start(self, batch, likelihood, q):
        """The network's posteriors, or narrow ones at 0 where those are worse."""
        var = q.var
        if self.posterior_variance is None:
            var = torch.full_like(var, PLAIN_VARIANCE)
        plain = Posterior(torch.zeros_like(q.mean), var)
        values = []
        for at in (q, plain):
            noise = self.noise(batch, q.mean, 1, Stream.REFINEMENT).normal()
            expected = self._expected_log_likelihood(batch, likelihood, at, noise)
            values.append(expected - self._kl(at))
        return Posterior(*choose(values[0] >= values[1], q[:2], plain[:2]))

    def _bounds(self, batch, likelihood, q):
        """The bound of each row."""
        noise = None
        if not self.decoder.is_linear:
            noise = self.noise(batch, q.mean, N_DRAWS, Stream.BOUND).normal()
        expected = self._expected_log_likelihood(batch, likelihood, q, noise)
        return expected - self._kl(q)

    def _expected_log_likelihood(self, batch, likelihood, q, noise):
        """E_q[log p(x | z)] or a lower bound of it, of each row."""
        if self.decoder.is_linear:
            closed, batch, q = self._closed(likelihood, batch, q)
            return closed.log_likelihood(batch, q)
        draws = draws_of(q.distribution(), noise)
        parts = [likelihood.log_likelihood(batch, self.decoder(z)) for z in draws]
        return torch.stack(parts).mean(0)

    def _closed(self, likelihood, batch, q):
        """The closed bound of a linear decoder as it is, a batch, and q with centers.

        Outside of training all are in float64: in float32 rounding would decide which
        step of a row is its last.
        """
        total = self._log_total()
        if not self.training and total.weight.device.type != "mps":
            batch, q = batch.double(), q.to(total.weight)
        density, kl_weight = self._density(), self.kl_weight()
        closed = ClosedBound(likelihood, total, density, kl_weight)
        return closed, batch, closed.centered(q, is_best=not self.training)

    def _log_total(self):
        """The bound on the log total, kept in a step, and between calls if small."""
        total = self._kept_total
        if total is not None and (self.training or not torch.is_grad_enabled()):
            return total
        weight, bias = self.decoder.weight, self.decoder.bias
        if not self.training and weight.device.type != "mps":
            weight, bias = weight.double(), bias.double()
        total = LogTotal(weight, bias)
        is_small = weight.numel() <= LARGEST_KEPT
        if self.training or (is_small and not torch.is_grad_enabled()):
            self._kept_total = total
        return total

    def train(self, mode=True):
        self._kept_total = None
        return super().train(mode)

    def refresh(self):
        self._kept_total = None

    def _density(self):
        """The prior as it is now."""
        return self.prior.mixture(self.encoder.moments)

    def _kl(self, q):
        """KL(q || prior), or its bound, (n_rows,), float64."""
        return self._density().to(q.mean).kl_bound(q.mean, q.var, q.log_det())[0]
