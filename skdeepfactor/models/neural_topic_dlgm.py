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

**Linear decoder:** all in closed form. Logits :math:`\ell_v = w_v^T z + b_v` have means
:math:`m_v = w_v^T \mu + b_v` under q, and for any vector c

.. math::
    E_q \log \sum_v e^{\ell_v} \le \tfrac12 \sum_k c_k^2 s_k^2 + \log \sum_v
    \exp\Big(m_v + \tfrac12 \sum_k w_{vk}^2 s_k^2 - \sum_k c_k s_k^2 w_{vk}\Big) = T,

by Jensen's inequality for :math:`E e^{\ell_v - c^T z}`. With :math:`c = \sum_v
\tilde p_v w_v`, for :math:`\tilde p` the softmax of the exponent, it is exact to second
order in s. Log likelihoods are linear or convex in single logits and decreasing in the
log total, so that m and T in their places give a lower bound (``likelihoods.py``).
Poisson and negative binomial take the total itself, :math:`\log E \sum_v e^{\ell_v}`,
which is c = 0.

Given c, with :math:`g_v = \partial L / \partial m_v` at the row's words and
:math:`t = -\partial L / \partial T`,

.. math::
    \nabla_\mu L = \sum_v g_v w_v - t \sum_v \tilde p_v w_v - \mu, \qquad
    s_k^{-2} = 1 + t \sum_v \tilde p_v (w_{vk} - c_k)^2

where L is stationary in s; the same precisions scale the steps in :math:`\mu`. A step
that does not raise the row's bound is taken back, and the row's next one is shorter. So
some ten steps do what takes hundreds of steps of a stochastic gradient.

With a full covariance :math:`S`, :math:`s_k^2 w_{vk}^2` becomes :math:`w_v^T S w_v` and
:math:`S^{-1} = I + t\,\text{Cov}_{\tilde p}(w)`.

**Deep decoder:** the bound is sampled, and refined by Adam. The noise of a row that is
scored is a function of its content, so that a score depends on that row alone.

**Learning:** each row's q goes on from where it stood a pass ago (a closed-form
decoder) or from the encoder; the decoder follows the gradient of the bound at these
refined q, and the encoder learns to predict them: it descends KL(encoder || q), which
is the loss of its own bound to second order. Without refinement both follow the
gradient of the encoder's bound.

For a mixture :math:`p(z) = \sum_c \pi_c N(a_c, B_c)`, the divergence is bounded by
:math:`-\log \sum_c \pi_c e^{-KL(q \| N(a_c, B_c))}`.

Krishnan, Liang and Hoffman (2018), On the challenges of learning with inference
networks on sparse, high-dimensional data; Blei and Lafferty (2007), A correlated topic
model of science, for Jensen's inequality in the log total; Tomczak and Welling (2018),
VAE with a VampPrior; Burda, Grosse and Salakhutdinov (2016), Importance weighted
autoencoders; Li and Turner (2016), Renyi divergence variational inference.
"""

import contextlib
from numbers import Integral, Real
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
)
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from skdeepfactor._estimator.domains import Counts, Integers
from skdeepfactor._estimator.sampled import SampledFactorModel
from skdeepfactor._math.batch import Batch, Entries, to_tensor
from skdeepfactor._math.importance import check_objective, importance_bound, renyi_bound
from skdeepfactor._math.likelihoods import (
    LARGEST_MEAN,
    dirichlet_multinomial,
    multinomial,
    negative_binomial,
    poisson,
)
from skdeepfactor._math.module import FactorModule, in_updates
from skdeepfactor._math.networks import N_TYPICAL, Decoder, Encoder, typical_length
from skdeepfactor._math.noise import keyed_normal
from skdeepfactor._math.ops import (
    map_values,
    products_at_entries,
    without_zeros,
)
from skdeepfactor._math.starts import initial_loadings, initial_logits
from skdeepfactor.distributions import GaussianMixture

# A row is refined until its bound gains less than this share of itself.
REFINE_TOL = {torch.float32: 1e-7, torch.float64: 1e-11}

# Step size of Adam where a deep decoder's posteriors are refined.
REFINE_RATE = 0.05

# Learning rate of networks over that of the decoder's weights.
NETWORK_RATE = 0.3

# Size of the weights between hidden layers and logits, at first.
DEEP_START = 0.02

# Times the steps of a pass, where a row has none behind it.
N_COLD = 3

# Steps with full covariances, after those with diagonal ones.
N_FULL_STEPS = 3

# Draws for a bound that has no closed form, where it is a score.
N_DRAWS = 20

# Particles at a time.
N_TOGETHER = 50

# Draws for the next word, whose noise costs as much as there is of it.
N_NEXT_DRAWS = 100

# Dimensions with less variance of their posterior means over rows are not in use.
ACTIVE_VARIANCE = 0.01

LIKELIHOODS = (
    "multinomial",
    "dirichlet_multinomial",
    "poisson",
    "negative_binomial",
)

# Entries of the largest array for covariances of a few rows.
BLOCK = 2**23


class Posterior(NamedTuple):
    """Gaussians, one a row: means, variances and, if full, Cholesky factors.

    ``center`` is c of the bound on the log total, where that is known already.
    """

    mean: torch.Tensor
    var: torch.Tensor
    tril: torch.Tensor | None = None
    center: torch.Tensor | None = None

    @classmethod
    def of(cls, q):
        """What a ``torch.distributions`` posterior holds."""
        if isinstance(q, MultivariateNormal):
            return cls(q.mean, q.variance, q.scale_tril)
        return cls(q.mean, q.variance)

    def distribution(self):
        """The same as a distribution of torch."""
        if self.tril is not None:
            return MultivariateNormal(
                self.mean, scale_tril=self.tril, validate_args=False
            )
        normal = Normal(self.mean, self.var.sqrt(), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def draws(self, noise):
        """Draws (n_draws, n_rows, k) from standard normal ones."""
        if self.tril is None:
            return self.mean + self.var.sqrt() * noise
        return self.mean + torch.einsum("nij,dnj->dni", self.tril, noise)

    def log_det(self):
        """Log determinants of the covariances, (n_rows,)."""
        if self.tril is None:
            return self.var.log().sum(1, dtype=torch.float64)
        diagonal = self.tril.diagonal(dim1=1, dim2=2)
        return 2 * diagonal.log().sum(1, dtype=torch.float64)


class Rows(NamedTuple):
    """A batch, what it stores, and whether the rows' totals are given."""

    batch: Batch
    x: torch.Tensor
    entries: Entries
    given_total: bool

    @classmethod
    def of(cls, batch, *, given_total=False):
        """Of a batch of any layout."""
        return cls(batch, batch.counts, batch.entries, given_total)

    def take(self, rows):
        """Those that an integer tensor names."""
        return Rows.of(self.batch.take(rows), given_total=self.given_total)


class DeepLatentGaussian(FactorModule):
    """Counts of a row from a Gaussian vector through a decoder.

    Local parameters of a row are the mean and the log variance of its posterior, and
    the center of the bound on its log total.
    """

    def __init__(
        self,
        shape,
        *,
        likelihood,
        encoder_layers,
        decoder_layers,
        skip_connections,
        input_transform,
        input_dropout,
        prior,
        n_pseudo_inputs,
        weight_scale,
        posterior_variance,
        covariance_type,
        refine_steps,
        max_refine_steps,
        alpha,
        n_particles,
        kl_warmup,
        free_bits,
    ):
        super().__init__()
        n_components, n_features = shape
        self.n_components = n_components
        self.likelihood, self.prior = likelihood, prior
        self.input_transform = input_transform
        self.weight_scale, self.free_bits = weight_scale, free_bits
        self.posterior_variance = posterior_variance
        self.covariance_type = covariance_type
        self.refine_steps, self.max_refine_steps = refine_steps, max_refine_steps
        self.alpha, self.n_particles = alpha, n_particles
        self.encoder = Encoder(
            n_features, encoder_layers, n_components, dropout=input_dropout
        )
        self.decoder = Decoder(
            n_components, decoder_layers, n_features, has_skips=skip_connections
        )
        # Updates, or the share of training, over which the divergence comes in.
        self.kl_warmup = kl_warmup
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.float64))
        self.register_buffer("idf", torch.ones(n_features))
        # Moving averages of the posterior means of rows, and of their squares.
        self.register_buffer("moments", torch.zeros(2, n_components))
        if likelihood == "dirichlet_multinomial":
            self.log_concentration = nn.Parameter(torch.zeros(()))
        if likelihood == "negative_binomial":
            self.log_odds = nn.Parameter(torch.zeros(()))
        if prior == "mixture":
            self.prior_mean = nn.Parameter(torch.zeros(n_pseudo_inputs, n_components))
            self.prior_log_var = nn.Parameter(torch.zeros_like(self.prior_mean))
        if prior == "vamp":
            self.pseudo_inputs = nn.Parameter(torch.zeros(n_pseudo_inputs, n_features))
        if prior != "normal":
            self.prior_logits = nn.Parameter(torch.zeros(n_pseudo_inputs))
        remembers = refine_steps > 0 and self.decoder.is_linear
        self.local_width = 3 * n_components if remembers else 0
        self.generator = None

    @property
    def work_width(self):
        # One array of a batch holds all features, and is worth the size of four.
        return max(self.local_width, len(self.idf) // 4)

    def seed(self, seed):
        self.generator = torch.Generator(self.idf.device).manual_seed(seed)

    def posterior(self, batch, start=None):
        return self._infer(Rows.of(batch), start).distribution()

    def elbo(self, batch, q=None):
        rows = Rows.of(batch)
        q = self._infer(rows) if q is None else Posterior.of(q)
        return self._bounds(rows, q)

    def word_bound(self, batch):
        rows = Rows.of(batch, given_total=True)
        return self._bounds(rows, self._infer(rows))

    def log_joint(self, batch, z):
        """Log p(x, z) in float64, (n_particles, n_rows), of z with particles first."""
        return self._log_likelihood_of(Rows.of(batch), z) + self._log_prior(z)

    def iwae(self, batch, n_particles):
        """Importance weighted bound of each row, (n_rows,)."""
        rows = Rows.of(batch)
        q = self._infer(rows)
        distribution = q.distribution()
        weights = []
        # Some at a time: memory must not grow with the number of particles.
        for start in range(0, n_particles, N_TOGETHER):
            n_draws = min(N_TOGETHER, n_particles - start)
            noise = self._noise(rows, n_draws, q.mean, stream=2 * 10**6 + start)
            for z in q.draws(noise):
                log_joint = self._log_likelihood_of(rows, z[None]) + self._log_prior(z)
                weights.append(log_joint[0] - distribution.log_prob(z).double())
        return renyi_bound(torch.stack(weights), 0.0)

    def decode(self, z):
        logits = self.decoder(z)
        if self.likelihood in ("multinomial", "dirichlet_multinomial"):
            return logits.softmax(-1)
        means = logits.exp()
        if self.likelihood == "negative_binomial":
            means = means * self.log_odds.exp()
        return means

    def components(self):
        """The mean of d log E[x | z] / dz over the prior, transposed."""
        generator = torch.Generator().manual_seed(0)
        return self.jacobian(self.draw_prior(100, generator)).T

    def jacobian(self, z):
        """The mean of d log E[x | z] / dz over the rows of z, (n_features, k)."""
        is_share = self.likelihood in ("multinomial", "dirichlet_multinomial")
        return self.decoder.jacobian(z, of_shares=is_share)

    @torch.no_grad()
    def draw_prior(self, n_rows, generator):
        """Rows of factors from the prior, (n_rows, k), by a generator of the CPU."""
        return self._mixture().sample(n_rows, generator)

    @torch.no_grad()
    def sample(self, totals, generator):
        seed = int(generator.integers(2**31))
        z = self.draw_prior(len(totals), torch.Generator().manual_seed(seed))
        logits = self.decoder(z).double()
        if self.likelihood == "poisson":
            means = logits.exp().cpu().numpy()
            return generator.poisson(np.minimum(means, LARGEST_MEAN))
        if self.likelihood == "negative_binomial":
            scale = self.log_odds.double().exp().item()
            means = generator.gamma(logits.exp().cpu().numpy(), scale)
            return generator.poisson(np.minimum(means, LARGEST_MEAN))
        p = logits.softmax(-1).cpu().numpy()
        if self.likelihood == "dirichlet_multinomial":
            p = generator.gamma(p * self.log_concentration.double().exp().item())
            p = np.maximum(p, 1e-300)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def predictive(self, batch):
        """Probabilities of the next word of each row, (n_rows, n_features).

        Their mean over the posterior: of a linear decoder to second order, in closed
        form, of others by draws that depend on the row alone.
        """
        rows = Rows.of(batch)
        q = self._infer(rows)
        if self.decoder.is_linear:
            return self._next_word(rows, self._centered_logits(rows, q)[1])
        noise = self._noise(rows, N_NEXT_DRAWS, q.mean, stream=3 * 10**6)
        parts = (self._next_word(rows, self.decoder(z)) for z in q.draws(noise))
        return sum(parts) / N_NEXT_DRAWS

    def _next_word(self, rows, logits):
        """The same, given logits."""
        if self.likelihood == "dirichlet_multinomial":
            logits = logits.log_softmax(1) + self.log_concentration
        elif self.likelihood != "negative_binomial":
            return logits.softmax(1)
        # An urn: its words at first, and the row's.
        words = logits.exp()
        entries = rows.entries
        words[entries.rows, entries.columns] += rows.x.values()
        return words / words.sum(1, keepdim=True)

    def global_kl(self):
        """Minus the log density of the decoder's weights, but for its constant."""
        return self.decoder.squared_norm() / (2 * self.weight_scale**2)

    def backward(self, batch, n_samples, start=None):
        rows = Rows.of(batch)
        mean, log_var = self._encode(rows.x)
        network = Posterior(mean, log_var.exp())
        if self.refine_steps > 0:
            with torch.no_grad():
                proposed = Posterior(mean.detach(), network.var.detach())
                q = self._infer(rows, start, proposed)
            # To second order, what the network's own bound is short of this one.
            amortisation = _gaussian_kl(network, q)
        else:
            q, amortisation = network, torch.zeros(())
        if self.alpha == 1.0:
            noise = self._noise(rows, 1, q.mean)
            likelihood = self._expected_log_likelihood(rows, q, noise)
            kl = self._kl(q)[0]
            bounds = likelihood - kl
            if self.free_bits > 0:
                kl = self._free_kl(q)
            objective = likelihood - self._kl_weight() * kl
        else:
            bounds, objective = importance_bound(
                lambda z: self._log_likelihood_of(rows, z) + self._log_prior(z),
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
            rate = max(0.05, 1 / (1 + self.n_updates.item()))
            self.moments.lerp_(moments, rate * min(1.0, batch.share))
            local = None
            if self.local_width:
                local = torch.cat([q.mean, q.var.log(), q.center], 1)
        return bounds.detach(), local

    @torch.no_grad()
    def after_step(self):
        self.n_updates += 1

    def _kl_weight(self):
        """The weight of the divergence in this update."""
        warmup = in_updates(self.kl_warmup, self.n_total)
        if not self.training or warmup == 0:
            return 1.0
        return min(1.0, (1 + self.n_updates.item()) / warmup)

    def inputs(self, x):
        """What the encoder sees of a batch."""
        if self.input_transform == "counts":
            return x
        if self.input_transform == "normalize":
            entries = Entries.of(x)
            return map_values(lambda v: v / entries.totals[entries.rows].to(v), x)
        if self.input_transform == "tfidf":
            entries = Entries.of(x)
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

    def _encode(self, x):
        mean, log_var = self.encoder(self.inputs(x), self.generator)
        if self.posterior_variance is not None:
            log_var = torch.full_like(log_var, np.log(self.posterior_variance))
        return mean, log_var

    def _infer(self, rows, start=None, network=None):
        """Posteriors of the rows, refined from what is remembered or encoded."""
        if start is not None:
            mean, log_var, center = start.chunk(3, 1)
            q = Posterior(mean, log_var.exp(), None, center)
        elif network is not None:
            q = network
        else:
            mean, log_var = self._encode(rows.x)
            q = Posterior(mean, log_var.exp())
        n_steps = self.refine_steps if self.training else self.max_refine_steps
        if self.training and self.decoder.is_linear and start is None:
            # The first pass starts from a network that knows nothing yet.
            n_steps *= N_COLD
        if n_steps == 0 or rows.x.shape[0] == 0:
            return q
        if not self.decoder.is_linear:
            return self._refine_by_adam(rows, q, n_steps)
        with torch.no_grad():
            q = self._refine(rows, q, n_steps)
            if self.covariance_type == "full" and not self.training:
                q = self._refine_fully(rows, q)
        return q

    # The linear decoder, in closed form.

    def _refine(self, rows, q, n_steps):
        """Newton's steps with diagonal curvature, each row to its own convergence."""
        tol = 0.0 if self.training else REFINE_TOL[q.mean.dtype]
        loadings = self._loadings()
        at = self._curvature(rows, q, self._center(rows, q, loadings), loadings)
        if q.center is None:
            # A network that has not learnt yet, or gone astray, is no better start.
            plain, plain_center = self._plain_start(rows, q)
            plain_at = self._curvature(rows, plain, plain_center, loadings)
            is_better = at[0] >= plain_at[0]
            q = Posterior(*_choose(is_better, q[:2], plain[:2]))
            at = _choose(is_better, at, plain_at)
        mean, var = q.mean, q.var
        result = [mean.clone(), var.clone(), at[3].clone()]
        rate = torch.full_like(mean[:, :1], 0.7)
        places = torch.arange(len(mean), device=mean.device)
        done = torch.zeros_like(places, dtype=torch.bool)
        kl_weight = max(self._kl_weight(), 0.01)
        state = [mean, var]
        for _ in range(n_steps):
            mean, var = state
            value, gradient, curvature, center = at
            step = rate * (gradient / curvature)
            if self.posterior_variance is None:
                new_var = 1 / ((1 - rate) / var + rate * curvature / kl_weight)
            else:
                new_var = var
            new = Posterior(mean + step, new_var)
            new_at = self._curvature(rows, new, center, loadings)
            gain = new_at[0] - value
            is_better = gain >= 0
            # Neither a step that was taken back nor a short one says that it is over.
            small = is_better & (gain <= tol * value.abs()) & (rate[:, 0] > 0.3)
            small |= rate[:, 0] < 1e-4
            longer = (1.3 * rate).clamp_max(1)
            rate = torch.where(is_better[:, None], longer, 0.4 * rate)
            # A row that is done keeps what it has, whatever goes on beside it.
            is_better &= ~done
            state = _choose(is_better, new[:2], state)
            at = _choose(is_better, new_at, at)
            done |= small
            if tol > 0 and bool(done.all()):
                break
            if tol > 0 and 2 * int(done.sum()) >= len(done):
                for whole, part in zip(result, [*state, at[3]], strict=True):
                    whole[places] = part
                kept = (~done).nonzero()[:, 0]
                rows, places = rows.take(kept), places[kept]
                rate, done = rate[kept], done[kept]
                state = [part[kept] for part in state]
                at = [part[kept] for part in at]
        for whole, part in zip(result, [*state, at[3]], strict=True):
            whole[places] = part
        mean, var, center = result
        return Posterior(mean, var, None, center)

    def _curvature(self, rows, q, center, loadings):
        """The bound, its gradient and curvature in the mean, and the best center.

        The center is the mean loading under the shares of the words.
        """
        value, pull, push, shares = self._slopes(rows, q, center, loadings)
        mean_loading, curvature = (shares @ loadings).chunk(2, 1)
        curvature = 2 * curvature - (2 * mean_loading - center) * center
        kl, prior_gradient, prior_precision = self._kl(q)
        kl_weight = self._kl_weight()
        gradient = pull @ self.decoder.weight - push * mean_loading
        gradient -= kl_weight * prior_gradient
        curvature = push * curvature.clamp_min_(0) + kl_weight * prior_precision
        if not self._is_centered(rows):
            mean_loading = center
        return value - kl_weight * kl, gradient, curvature, mean_loading

    def _slopes(self, rows, q, center, loadings=None):
        """The expected log likelihood of each row, and how it moves.

        Its slopes in the logits of the row's words, a batch, minus that in the log
        total, (n_rows, 1), and the shares of the words, (n_rows, n_features).
        """
        logits, exponent, constant = self._expected_logits(rows, q, center, loadings)
        log_total = exponent.logsumexp(1, keepdim=True)
        shares = exponent.sub_(log_total).exp_()
        log_total = log_total[:, 0].double() + constant
        with torch.enable_grad():
            logits = logits.double().requires_grad_()
            log_total.requires_grad_()
            value = self._log_likelihood(rows, logits, log_total)
            pull, push = torch.autograd.grad(value.sum(), (logits, log_total))
        pull = map_values(lambda v: pull.to(v), rows.x)
        return value.detach(), pull, -push[:, None].to(shares), shares

    def _loadings(self):
        """What multiplies means and variances in the exponents of the log total."""
        weight = self.decoder.weight
        return torch.cat([weight, 0.5 * weight.square()], 1)

    def _expected_logits(self, rows, q, center, loadings):
        """Mean logits at the entries, and the exponent and constant of their total."""
        weight, bias = self.decoder.weight, self.decoder.bias
        logits = products_at_entries(rows.x, q.mean, weight)
        logits = logits + bias[rows.entries.columns]
        if q.tril is None:
            shift = center * q.var
            moments = torch.cat([q.mean - shift, q.var], 1)
            exponent = torch.addmm(bias, moments, loadings.T)
        else:
            shift = torch.einsum("nij,nkj,nk->ni", q.tril, q.tril, center)
            exponent = torch.addmm(bias, q.mean - shift, weight.T)
            exponent = exponent + 0.5 * self._logit_variance(q.tril)
        constant = 0.5 * (center * shift).sum(1, dtype=torch.float64)
        return logits, exponent, constant

    def _centered_logits(self, rows, q):
        """The same, around the center that q has, or a good one."""
        loadings = self._loadings()
        center = self._center(rows, q, loadings)
        return self._expected_logits(rows, q, center, loadings)

    def _logit_variance(self, tril):
        """Variances of the logits of all features, (n_rows, n_features)."""
        weight = self.decoder.weight
        size = max(1, BLOCK // weight.numel())
        parts = [(weight @ part).square().sum(2) for part in tril.split(size)]
        return torch.cat(parts)

    def _refine_fully(self, rows, q):
        """Newton's steps with full curvature, from the diagonal optimum."""
        center = q.center
        q = Posterior(q.mean, q.var, torch.diag_embed(q.var.sqrt()))
        best, best_value, center, q = self._full_step(rows, q, center)
        for _ in range(N_FULL_STEPS):
            at, value, center, q = self._full_step(rows, q, center)
            is_better = value > best_value
            best = Posterior(*_choose(is_better, at, best))
            best_value = torch.where(is_better, value, best_value)
        return best

    def _full_step(self, rows, q, center):
        """The posterior, its bound, the best center for it, and the next posterior."""
        weight = self.decoder.weight
        value, pull, push, shares = self._slopes(rows, q, center)
        kl, prior_gradient, prior_precision = self._kl(q)
        mean_loading = shares @ weight
        gradient = pull @ weight - push * mean_loading - prior_gradient
        size = max(1, BLOCK // weight.numel())
        precision = torch.cat(
            [(weight.T * part[:, None]) @ weight for part in shares.split(size)]
        )
        at = q._replace(center=center)
        if self._is_centered(rows):
            cross = mean_loading[:, :, None] * center[:, None]
            precision -= cross + cross.mT - center[:, :, None] * center[:, None]
            center = mean_loading
        precision *= push[:, :, None]
        precision.diagonal(dim1=1, dim2=2).add_(prior_precision)
        tril = _inverse_root(precision)
        moved = (tril @ (tril.mT @ gradient[:, :, None]))[:, :, 0]
        following = Posterior(q.mean + moved, tril.square().sum(2), tril)
        return at, value - kl, center, following

    def _plain_start(self, rows, q):
        """Posteriors with mean 0, as narrow as the rows are long, and their centers."""
        weight, shares = self.decoder.weight, self.decoder.bias.softmax(0)
        center = shares @ weight
        var = q.var
        if self.posterior_variance is None:
            # Rounding must not make it negative, or a variance would be.
            spread = (shares @ weight.square() - center.square()).clamp_min(0)
            var = 1 / (1 + rows.entries.totals.to(var)[:, None] * spread)
        if not self._is_centered(rows):
            center = torch.zeros_like(center)
        return Posterior(torch.zeros_like(q.mean), var), center.expand_as(q.mean)

    @torch.no_grad()
    def _center(self, rows, q, loadings):
        """The c of the bound on the log total: what q has, or a good one."""
        if q.center is not None:
            return q.center
        center = self._plain_start(rows, q)[1]
        if self.training or not self._is_centered(rows):
            return center
        exponent = self._expected_logits(rows, q, center, loadings)[1]
        return exponent.softmax(1) @ self.decoder.weight

    def _is_centered(self, rows):
        """Whether the log total enters linearly, and not as the total itself."""
        if self.likelihood == "poisson":
            return rows.given_total
        return self.likelihood != "negative_binomial"

    # Any decoder.

    def _bounds(self, rows, q):
        """The bound of each row."""
        noise = None
        if not self.decoder.is_linear:
            noise = self._noise(rows, N_DRAWS, q.mean, stream=10**6)
        return self._expected_log_likelihood(rows, q, noise) - self._kl(q)[0]

    def _expected_log_likelihood(self, rows, q, noise):
        """E_q[log p(x | z)] or a lower bound of it, of each row."""
        if not self.decoder.is_linear:
            draws = q.draws(noise)
            parts = [self._log_likelihood_of(rows, z[None]) for z in draws]
            return torch.cat(parts).mean(0)
        logits, exponent, constant = self._centered_logits(rows, q)
        log_total = exponent.logsumexp(1).double() + constant
        return self._log_likelihood(rows, logits.double(), log_total)

    def _log_likelihood_of(self, rows, z):
        """Log p(x | z), (n_particles, n_rows), of z with particles first."""
        logits = self.decoder(z)
        log_total = logits.logsumexp(-1).double()
        entries = rows.entries
        logits = logits[:, entries.rows, entries.columns].double()
        return self._log_likelihood(rows, logits, log_total)

    def _log_likelihood(self, rows, logits, log_total):
        x, given_total = rows.entries, rows.given_total
        if self.likelihood == "dirichlet_multinomial":
            concentration = self.log_concentration.double()
            return dirichlet_multinomial(x, logits, log_total, concentration)
        if self.likelihood == "negative_binomial":
            if given_total:
                return dirichlet_multinomial(x, logits, log_total, log_total)
            return negative_binomial(x, logits, log_total, self.log_odds.double())
        if self.likelihood == "poisson" and not given_total:
            return poisson(x, logits, log_total)
        return multinomial(x, logits, log_total)

    def _refine_by_adam(self, rows, q, n_steps):
        """Steps of Adam on sampled bounds, with moments of each row's own."""
        q = self._better_start(rows, q)
        state = torch.cat([q.mean, q.var.log()], 1).detach()
        first, second = torch.zeros_like(state), torch.zeros_like(state)
        for t in range(1, n_steps + 1):
            with torch.enable_grad():
                state.requires_grad_()
                mean, log_var = state.chunk(2, 1)
                if self.posterior_variance is not None:
                    log_var = q.var.log()
                at = Posterior(mean, log_var.exp())
                noise = self._noise(rows, 1, mean, stream=t)
                value = self._expected_log_likelihood(rows, at, noise)
                value = value - self._kl_weight() * self._kl(at)[0]
                (gradient,) = torch.autograd.grad(value.sum(), state)
            gradient = gradient.nan_to_num(0, 0, 0)
            first = 0.9 * first + 0.1 * gradient
            second = 0.99 * second + 0.01 * gradient.square()
            step = (first / (1 - 0.9**t)) / ((second / (1 - 0.99**t)).sqrt() + 1e-8)
            rate = REFINE_RATE * (1 - 0.9 * (t - 1) / n_steps)
            state = state.detach() + rate * step
        mean, log_var = state.chunk(2, 1)
        if self.posterior_variance is not None:
            log_var = q.var.log()
        return Posterior(mean, log_var.clamp(-30, 10).exp())

    @torch.no_grad()
    def _better_start(self, rows, q):
        """The network's posteriors, or narrow ones at 0 where it has gone astray."""
        plain = Posterior(torch.zeros_like(q.mean), torch.full_like(q.var, 0.1))
        if self.posterior_variance is not None:
            plain = Posterior(plain.mean, q.var)
        values = []
        for at in (q, plain):
            noise = self._noise(rows, 1, q.mean)
            likelihood = self._expected_log_likelihood(rows, at, noise)
            values.append(likelihood - self._kl(at)[0])
        return Posterior(*_choose(values[0] >= values[1], q[:2], plain[:2]))

    def _noise(self, rows, n_draws, like, stream=0):
        """Standard normal draws: fresh in training, else keyed by the rows."""
        if self.training:
            shape = (n_draws, *like.shape)
            return torch.randn(
                shape, generator=self.generator, dtype=like.dtype, device=like.device
            )
        keys = rows.batch.keys
        width = self.n_components
        return keyed_normal(keys, n_draws, width, stream=stream, dtype=like.dtype)

    # The prior.

    def _mixture(self):
        """The prior as a mixture of Gaussians."""
        if self.prior == "normal":
            return GaussianMixture.standard(self.n_components, like=self.idf)
        log_weights = self.prior_logits.log_softmax(0)
        if self.prior == "mixture":
            return GaussianMixture(self.prior_mean, self.prior_log_var, log_weights)
        is_training = self.encoder.training
        self.encoder.eval()
        mean, log_var = self.encoder(self.pseudo_inputs)
        self.encoder.train(is_training)
        return GaussianMixture(mean, log_var, log_weights)

    def _kl(self, q):
        """KL(q || prior), or its bound, float64; its gradient and precision in q."""
        mixture = self._mixture()
        kl, shares = mixture.kl_bound(q.mean, q.var, q.log_det())
        precision = (-mixture.log_var).exp()
        shares = shares.to(precision)
        pull = shares @ (precision * mixture.mean)
        precision = shares @ precision
        return kl, q.mean * precision - pull, precision

    def _free_kl(self, q):
        """The divergence, of which each factor has ``free_bits`` nats for free."""
        kl = 0.5 * (q.mean.square() + q.var - 1 - q.var.log())
        mean = kl.mean(0)
        # Where the batch's mean is below, the factor's share is a constant.
        return torch.where(mean > self.free_bits, kl, self.free_bits).sum(1).double()

    def _log_prior(self, z):
        return self._mixture().log_prob(z)


def _inverse_root(precision):
    """Lower triangular L, (n, k, k), with L L^T the inverse of each matrix.

    A matrix that rounding has robbed of its definiteness is taken by its diagonal.
    """
    factor, info = torch.linalg.cholesky_ex(precision.flip(1, 2))
    if bool((info > 0).any()):
        diagonal = precision.diagonal(dim1=1, dim2=2).nan_to_num(1).clamp(1, 1e30)
        diagonal = torch.diag_embed(diagonal)
        precision = torch.where((info > 0)[:, None, None], diagonal, precision)
        factor = torch.linalg.cholesky(precision.flip(1, 2))
    identity = torch.eye(precision.shape[1]).to(precision).expand_as(precision)
    root = factor.flip(1, 2).mT
    return torch.linalg.solve_triangular(root, identity, upper=False)


def _gaussian_kl(p, q):
    """KL of diagonal Gaussians, (n_rows,)."""
    ratio = p.var / q.var
    square = (p.mean - q.mean).square() / q.var
    return 0.5 * (ratio + square - 1 - ratio.log()).sum(1, dtype=torch.float64)


def _choose(is_new, new, old):
    """Row by row, the new or the old of each tensor."""
    return [
        torch.where(is_new.view(-1, *[1] * (a.dim() - 1)), a, b)
        for a, b in zip(new, old, strict=True)
    ]


class NeuralTopicDLGM(SampledFactorModel):
    r"""Deep latent Gaussian model of counts: topics that add up in the logits.

    Row n is N_n words with ``z_n ~ N(0, I)`` and ``x_n ~ Multinomial(N_n, softmax(f(
    z_n)))``: f is linear or a network, the prior may be a mixture, and the likelihood
    may allow for bursts of words or explain totals. A network proposes the posterior of
    each row, and second-order steps refine it. Sparse data stay sparse, but for one
    dense array of a batch.

    Parameters
    ----------
    n_components : int, default=50
        Number of latent dimensions K.
    likelihood : str, default="multinomial"
        ``"multinomial"``: words in order given their number; the default, since it
        takes any non-negative numbers, tf-idf too. ``"dirichlet_multinomial"``
        (integers only): the same out of a Polya urn, for words that come in bursts; it
        fits most text better. ``"poisson"`` and ``"negative_binomial"`` (integers
        only): counts whose totals are modelled too.
    decoder_layers : tuple of int, default=()
        Hidden layers between z and the logits; none makes them linear, and the bound a
        closed form.
    encoder_layers : tuple of int, default=(400, 400)
        Hidden layers of the inference network.
    skip_connections : bool, default=False
        Whether z goes into every layer of a deep decoder.
    input_transform : {"tfidf", "normalize", "counts"} or object, default="tfidf"
        What the inference network sees; the likelihood sees the counts. ``"tfidf"``:
        counts times the log of inverse document frequency in the training data, scaled
        to length 1. ``"normalize"``: shares of the row's total. A scikit-learn
        transformer that keeps the number of columns is cloned and fitted.
    input_dropout : float, default=0.2
        Share of the inference network's inputs that are dropped in training.
    prior : {"normal", "mixture", "vamp"}, default="normal"
        Prior of z: standard normal, a mixture of Gaussians that are learnt, or of the
        network's posteriors at pseudo-inputs that are learnt.
    n_pseudo_inputs : int, default=20
        Number of components of the mixtures.
    weight_scale : float, default=0.15
        Standard deviation of the Gaussian prior of the decoder's weights. Small ones
        keep rare words from being learnt by heart.
    posterior_variance : float, default=None
        Fixes the posterior's variances; None infers them.
    covariance_type : {"diag", "full"}, default="diag"
        Covariance of the posterior of a linear decoder in ``transform``, ``score`` and
        ``perplexity``. ``"full"`` is tighter by some two percent of perplexity, at K
        times the cost; training takes diagonal ones.
    refine_steps : int, default=3
        Steps that refine each row's posterior in each pass of training, three times as
        many in the first. 0: none, the network's own bound is what is learnt from.
    max_refine_steps : int, default=100
        The same in ``transform``, ``score`` and ``perplexity``, where a row stops as
        soon as its bound stands still. 0 takes the network's own posterior.
    objective : {"elbo", "iwae", "renyi"}, default="elbo"
        Bound to learn from; all but ``"elbo"`` are sampled.
    renyi_alpha : float, default=0.5
        Order of the Renyi bound: 1 is the ELBO, 0 IWAE; negative orders are no bounds.
    n_particles : int, default=1
        Draws for a sampled objective; at least 2 unless it is the ELBO.
    kl_warmup : int or float, default=0
        Updates (int) or share of training (float) over which the divergence from the
        prior comes in.
    free_bits : float, default=0.0
        Nats of divergence of each dimension that cost nothing in training; needs
        ``refine_steps=0`` and a normal prior.
    max_iter : int, default=20
        Passes over the data. The step size falls to 0 over them.
    tol : float, default=0.0
        Relative gain of the bound, over ``n_iter_no_change`` passes, below which
        training ends.
    learning_rate : float, default=0.01
        Step size of Adam at first; networks learn at three tenths of it.
    batch_size : int, default=200
        Rows in a step.
    validation_fraction : float, default=None
        Fraction of the rows held out to stop early, when their mean bound has not
        risen for ``n_iter_no_change`` passes; None for no early stopping.
    n_iter_no_change : int, default=10
        Passes without a better validation score that end training.
    n_init : int, default=1
        Number of starts, of which the one with the best bound (or validation score)
        is kept.
    n_jobs : int, default=None
        Processes for the starts.
    warm_start : bool, default=False
        Whether ``fit`` goes on from what is fitted already.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Seed of the start, the order of rows and the noise.
    verbose : int, default=0
        Whether to show the bound after each pass.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Mean slope of each feature's log expectation in each dimension, over the prior:
        the words that a dimension makes more likely (positive) and less (negative).
    n_active_components_ : int
        Dimensions whose posterior mean has a variance above 0.01 over training rows.
    lower_bound_ : float
        Bound of the training data in nats, plus the log density of the decoder's
        weights under their prior (but for its constant).
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with early stopping, ``validation_score``,
        for each pass.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int
        Number of rows that training has seen.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where the data had names.

    See Also
    --------
    LatentDirichletAllocation : Topics that add up in the probabilities; faster.

    References
    ----------
    Krishnan, R., Liang, D. and Hoffman, M. (2018). On the challenges of learning with
    inference networks on sparse, high-dimensional data. AISTATS 21.

    Examples
    --------
    >>> from skdeepfactor import NeuralTopicDLGM
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = NeuralTopicDLGM(3, random_state=0).fit(X)
    >>> model.transform(X).shape
    (200, 3)
    >>> bool(model.perplexity(X) < 50)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **SampledFactorModel._parameter_constraints,
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "input_transform": [
            StrOptions({"tfidf", "normalize", "counts"}),
            HasMethods(["fit", "transform"]),
        ],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "prior": [StrOptions({"normal", "mixture", "vamp"})],
        "weight_scale": [Interval(Real, 0, None, closed="neither")],
        "posterior_variance": [Interval(Real, 0, None, closed="neither"), None],
        "covariance_type": [StrOptions({"diag", "full"})],
        "refine_steps": [Interval(Integral, 0, None, closed="left")],
        "max_refine_steps": [Interval(Integral, 0, None, closed="left")],
        "objective": [StrOptions({"elbo", "iwae", "renyi"})],
        "renyi_alpha": [Interval(Real, None, None, closed="neither")],
        "n_particles": [Interval(Integral, 1, None, closed="left")],
        "kl_warmup": SampledFactorModel._warmup,
        "free_bits": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components=50,
        *,
        likelihood="multinomial",
        decoder_layers=(),
        encoder_layers=(400, 400),
        skip_connections=False,
        input_transform="tfidf",
        input_dropout=0.2,
        prior="normal",
        n_pseudo_inputs=20,
        weight_scale=0.15,
        posterior_variance=None,
        covariance_type="diag",
        refine_steps=3,
        max_refine_steps=100,
        objective="elbo",
        renyi_alpha=0.5,
        n_particles=1,
        kl_warmup=0,
        free_bits=0.0,
        max_iter=20,
        tol=0.0,
        learning_rate=0.01,
        batch_size=200,
        validation_fraction=None,
        n_iter_no_change=10,
        n_init=1,
        n_jobs=None,
        warm_start=False,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.likelihood = likelihood
        self.decoder_layers = decoder_layers
        self.encoder_layers = encoder_layers
        self.skip_connections = skip_connections
        self.input_transform = input_transform
        self.input_dropout = input_dropout
        self.prior = prior
        self.n_pseudo_inputs = n_pseudo_inputs
        self.weight_scale = weight_scale
        self.posterior_variance = posterior_variance
        self.covariance_type = covariance_type
        self.refine_steps = refine_steps
        self.max_refine_steps = max_refine_steps
        self.objective = objective
        self.renyi_alpha = renyi_alpha
        self.n_particles = n_particles
        self.kl_warmup = kl_warmup
        self.free_bits = free_bits
        self.max_iter = max_iter
        self.tol = tol
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_init = n_init
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def predictive(self, X):
        """Predict the next word of each row, given its words so far.

        The shares of the words, averaged over the posterior of z: to second order with
        a linear decoder, by draws that depend on the row alone with another. Out of an
        urn (``likelihood="dirichlet_multinomial"``), the row's own words are added.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Rows sum to 1.

        See Also
        --------
        inverse_transform : Shares of words at given factors.

        Examples
        --------
        >>> from skdeepfactor import NeuralTopicDLGM
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = NeuralTopicDLGM(2, random_state=0).fit(X)
        >>> model.predictive(X).sum(axis=1).round(3).tolist()
        [1.0, 1.0, 1.0, 1.0]
        """
        return self._infer(X, lambda module, batch: module.predictive(batch))

    def sample(self, n_samples=1, *, n_tokens=None, random_state=None):
        """Draw rows from the model.

        Factors are drawn from the prior, and words given these from the likelihood.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each, for likelihoods given the total; by default drawn from the
            totals of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts.

        See Also
        --------
        inverse_transform : Expected rows given factors.

        Examples
        --------
        >>> from skdeepfactor import NeuralTopicDLGM
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = NeuralTopicDLGM(2, random_state=0).fit(X)
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    @property
    def _domain(self):
        if self.likelihood in ("dirichlet_multinomial", "negative_binomial"):
            return Integers(self.likelihood)
        return Counts()

    def _build(self, sizes):
        self._check_layers()
        if self.free_bits > 0 and (self.refine_steps > 0 or self.prior != "normal"):
            raise ValueError("free_bits needs refine_steps=0 and prior='normal'.")
        if self.objective != "elbo" and (self.kl_warmup > 0 or self.free_bits > 0):
            raise ValueError(
                "kl_warmup and free_bits weigh a divergence that only objective='elbo' "
                f"has, got objective={self.objective!r}."
            )
        if self.covariance_type == "full" and len(self.decoder_layers) > 0:
            raise ValueError(
                "covariance_type='full' needs a linear decoder: decoder_layers=()."
            )
        if self.covariance_type == "full" and self.posterior_variance is not None:
            raise ValueError(
                "posterior_variance fixes what covariance_type='full' would infer; "
                "use one of them."
            )
        return DeepLatentGaussian(
            (self.n_components, sizes["n_features"]),
            likelihood=self.likelihood,
            encoder_layers=tuple(self.encoder_layers),
            decoder_layers=tuple(self.decoder_layers),
            skip_connections=self.skip_connections,
            input_transform=self.input_transform,
            input_dropout=self.input_dropout,
            prior=self.prior,
            n_pseudo_inputs=self.n_pseudo_inputs,
            weight_scale=self.weight_scale,
            posterior_variance=self.posterior_variance,
            covariance_type=self.covariance_type,
            refine_steps=self.refine_steps,
            max_refine_steps=self.max_refine_steps,
            alpha=check_objective(self.objective, self.renyi_alpha, self.n_particles),
            n_particles=self.n_particles,
            kl_warmup=self.kl_warmup,
            free_bits=self.free_bits,
        )

    def _complete(self, module):
        if not isinstance(self.input_transform, str):
            module.input_transform = self._input_transform

    def _parameter_groups(self, module):
        slow, fast = [], []
        for name, parameter in module.named_parameters():
            is_network = name.startswith(("encoder", "decoder.hidden", "pseudo"))
            (slow if is_network else fast).append(parameter)
        return [
            {"params": fast, "lr": self.learning_rate},
            {"params": slow, "lr": NETWORK_RATE * self.learning_rate},
        ]

    def _warmups(self):
        return [self.kl_warmup]

    def _initialize(self, module, start):
        X, random_state = start.X, start.random_state
        generator = torch.Generator().manual_seed(random_state.randint(2**31 - 1))
        self._initialize_inputs(module, X, random_state)
        x = to_tensor(X, slice(N_TYPICAL), dtype=module.idf.dtype, device="cpu")
        length = typical_length(module.inputs(without_zeros(x)))
        module.encoder.initialize(generator, length)
        decoder = module.decoder
        counts_total = self.likelihood in ("poisson", "negative_binomial")
        logits = initial_logits(X, given_total=not counts_total)
        decoder.bias.data.copy_(torch.from_numpy(logits))
        if decoder.is_linear:
            loadings = initial_loadings(X, self.n_components, random_state)
            decoder.weight.data.copy_(torch.from_numpy(loadings))
        else:
            scale = self.n_components**-0.5
            decoder.hidden.initialize(generator, input_scale=scale, output_scale=1.0)
            decoder.weight.data.normal_(generator=generator).mul_(DEEP_START)
        if self.likelihood == "dirichlet_multinomial":
            module.log_concentration.data.fill_(np.log(100.0))
        if self.prior == "mixture":
            module.prior_mean.data.normal_(generator=generator).mul_(0.5)

    def _initialize_inputs(self, module, X, random_state):
        """Fit what the encoder's inputs depend on."""
        if self.input_transform == "tfidf":
            is_there = X > 0
            frequency = np.asarray(is_there.sum(axis=0)).ravel()
            # Of words that no row has, or all, there is nothing to tell.
            known = np.clip(frequency, 1, None)
            idf = np.where(frequency > 0, np.log(X.shape[0] / known), 0.0)
            module.idf.copy_(torch.from_numpy(idf))
        elif not isinstance(self.input_transform, str):
            transformer = clone(self.input_transform)
            # Matrices, whatever transform_output is; not all transformers can be told.
            with contextlib.suppress(AttributeError, ValueError):
                transformer.set_output(transform="default")
            shape = transformer.fit_transform(X).shape
            if shape[1] != X.shape[1]:
                raise ValueError(
                    "input_transform must keep the number of columns, "
                    f"{X.shape[1]}, but gave {shape[1]}."
                )
            module.input_transform = transformer
        if self.prior == "vamp":
            rows = random_state.choice(X.shape[0], self.n_pseudo_inputs)
            x = to_tensor(X, rows, dtype=module.idf.dtype, device="cpu")
            inputs = module.inputs(without_zeros(x)).to_dense()
            module.pseudo_inputs.data.copy_(inputs)

    def _fitted(self, module):
        mean, square = module.moments.double().cpu().numpy()
        is_active = square - mean**2 > ACTIVE_VARIANCE
        attributes = {"n_active_components_": int(is_active.sum())}
        if not isinstance(self.input_transform, str):
            attributes["_input_transform"] = module.input_transform
        return attributes
