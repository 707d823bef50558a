r"""Poisson factorization: gamma factors of counts, by mean-field variational Bayes.

The story of the count of feature v in row n:

.. math::
    z_{nk} \sim \text{Gamma}(a, b), \qquad w_{kv} \sim \text{Gamma}(c, d), \qquad
    x_{nv} \sim \text{Poisson}(e_n \textstyle\sum_k z_{nk} w_{kv}),

with exposures :math:`e_n` 1, or each row's total over the mean total. The posterior is
a gamma distribution for each z and w, and a share of each count for each factor,
:math:`\phi_{nvk} \propto \exp(E \log z_{nk} + E \log w_{kv})`, summed out of the bound:

.. math::
    L = \sum_{nv} \Big[ x_{nv} \log \big( e_n
        \sum_k e^{E \log z_{nk} + E \log w_{kv}} \big) - \log x_{nv}! \Big]
        - \sum_{nk} e_n E z_{nk} \sum_v E w_{kv} - KL(q(z) \| p(z)) - KL(q(w) \| p(w)).

Coordinate ascent, each line exact given the others:

.. math::
    q(z_{nk}) &= \text{Gamma}(a + \textstyle\sum_v x_{nv} \phi_{nvk},\
                              b + e_n \textstyle\sum_v E w_{kv}) \\
    q(w_{kv}) &= \text{Gamma}(c + \textstyle\sum_n x_{nv} \phi_{nvk},\
                              d + \textstyle\sum_n e_n E z_{nk})

The sums over n are the global parameters, ``weight_counts`` and ``weight_exposure``;
priors are added when they are used, so that priors may be learnt. Priors maximise the
bound given q (empirical Bayes). z -> s z, w -> w / s leaves the likelihood alone, so of
the two rates b and d only one can be learnt.

**Missing entries** are left out of the likelihood, and so of all sums above: with
:math:`o_{nv}` 1 where x_nv was observed, else 0,

.. math::
    q(z_{nk}) &= \text{Gamma}(a + \textstyle\sum_v o_{nv} x_{nv} \phi_{nvk},\
                              b + e_n \textstyle\sum_v o_{nv} E w_{kv}) \\
    q(w_{kv}) &= \text{Gamma}(c + \textstyle\sum_n o_{nv} x_{nv} \phi_{nvk},\
                              d + \textstyle\sum_n o_{nv} e_n E z_{nk}),

so that ``weight_exposure`` has a number for each factor and feature. Weights that sum
to 1 would have no posterior in closed form then, and exposures no totals to follow.

With a Dirichlet prior each :math:`w_k` is a distribution over features,
:math:`\sum_v E w_{kv} = 1`. With hierarchical rates,

.. math::
    z_{nk} \sim \text{Gamma}(a, \xi_n), \qquad
    w_{kv} \sim \text{Gamma}(c, \zeta_v), \qquad
    \xi_n \sim \text{Gamma}(r, r / b), \qquad \zeta_v \sim \text{Gamma}(r, r / d):

rows differ in activity and features in popularity. Their posteriors are gamma too, with
shapes r + K a and r + K c, and rates r / b + sum_k E z_nk and r / d + sum_k E w_kv.

Perplexity needs words in order, given their number N: p_v = sum_k z_k w_kv / sum_k z_k
W_k, W_k = sum_v w_kv. There the scale of z cancels, and with it b, xi_n and e_n; what
is left are the shares of the factors, theta_k proportional to z_k E W_k, with density

.. math::
    p(\theta) = \frac{\Gamma(K a)}{\Gamma(a)^K} \prod_k \theta_k^{a - 1} (E W_k)^{-a}
    \Big( \sum_k \theta_k / E W_k \Big)^{-K a},

a Dirichlet where all totals are the same. With :math:`q(\theta) = \text{Dirichlet}(s)`,
s_k = a plus the counts allocated to k, and Jensen's inequality for the last factor and
for the normaliser (over W),

.. math::
    \sum_v x_v \log \sum_k e^{E \log \theta_k + E \log w_{kv}} / E W_k
    - KL(\text{Dir}(s) \| \text{Dir}(a)) - a \sum_k \log E W_k
    - K a \log \sum_k E \theta_k / E W_k.

Cemgil (2009), Bayesian inference for nonnegative matrix factorisation models; Gopalan,
Hofman and Blei (2015), Scalable recommendation with hierarchical Poisson factorization.
"""

import numpy as np
import torch
from torch import nn
from torch.distributions import Gamma

from skdeepfactor._math.allocation import (
    Weights,
    allocate,
    entry_shares,
    log_factorials,
    shares_of_counts,
)
from skdeepfactor._math.few_rows import allocated_counts, exp_mean_log, is_few
from skdeepfactor._math.gammas import (
    digamma,
    dirichlet_kl,
    gamma_kl,
    gamma_shape,
    gamma_shape_and_rate,
    symmetric_dirichlet,
)
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import scaled, slices
from skdeepfactor._math.row_iteration import MAX_STEPS, ending, fixed_point

ALL = slice(None)

# Where priors that are learnt start.
START = 0.3


class GammaPoisson(FactorModule):
    """Counts of a row from gamma factors.

    Local parameters of a row are its expected counts of each factor (the shapes of z
    without the prior, which may be learnt meanwhile) and, where rates are hierarchical,
    the rate of the posterior of its own rate.
    """

    def __init__(
        self,
        *,
        shape,
        factor_shape,
        factor_rate,
        weight_shape,
        weight_rate,
        has_unit_weights,
        rate_shape,
        has_exposure,
        may_miss,
        inner_iter,
        tol,
    ):
        super().__init__()
        n_components, n_features = shape
        self.n_components = n_components
        self.has_unit_weights = has_unit_weights
        self.rate_shape = rate_shape
        self.has_exposure = has_exposure
        self.may_miss = may_miss
        self.inner_iter, self.inner_tol = inner_iter, tol
        self.is_hierarchical = rate_shape is not None
        self.local_width = n_components + self.is_hierarchical
        priors = {
            "factor_shape": factor_shape,
            "factor_rate": factor_rate,
            "weight_shape": weight_shape,
            "weight_rate": weight_rate,
        }
        self.learnt = {name for name, p in priors.items() if isinstance(p, str)}
        self.learns_shape = bool({"factor_shape", "weight_shape"} & self.learnt)
        # Then the scale of z is fitted, with one of the rates and against the other.
        self.has_free_scale = bool({"factor_rate", "weight_rate"} & self.learnt)
        for name, prior in priors.items():
            start = START if name in self.learnt else prior
            self.register_buffer(name, torch.tensor(np.asarray(start, np.float64)))
        self.register_buffer("mean_total", torch.ones((), dtype=torch.float64))
        if self.is_hierarchical:
            # The rate of the posterior of each feature's rate.
            self.register_buffer("feature_rate", torch.ones(n_features))
        self.weight_counts = nn.Parameter(torch.empty(shape))
        # One number serves all features that all rows have.
        n_exposures = n_features if may_miss else 1
        self.weight_exposure = nn.Parameter(torch.empty(n_components, n_exposures))
        # Means over rows and factors of E[z], E[log z] and E[log of z's prior rate].
        self.factor_means = nn.Parameter(torch.zeros(3))

    def posterior(self, batch, start=None):
        batch = self._with_sums(batch)
        return self.recalled(batch, self._solve(batch, start))

    def recalled(self, batch, local):
        shape, rate, _ = self._split(self._with_sums(batch), local)
        return Gamma(shape, rate, validate_args=False)

    def elbo(self, batch, q=None):
        q = self.posterior(batch) if q is None else q
        return self._bounds(self._with_sums(batch), q.concentration, q.rate)[0]

    def word_bound(self, batch):
        shape = self.factor_shape.expand(self.n_components)
        batch = self._with_sums(batch)

        def mean_log(counts):
            concentration = shape + counts
            total = digamma(concentration.sum(1, keepdim=True))
            return digamma(concentration) - total

        def log_totals(batch):
            # Fully missing rows contain no words; avoid log 0.
            totals = self._totals_of(batch)
            return torch.where(totals > 0, totals, 1).log()

        def update(batch, counts):
            log_shares = mean_log(counts) - log_totals(batch)
            allocation = allocate(batch.x, log_shares, self._weights)
            return allocation.row_counts(self._weights)

        counts = self._cold_start(batch)[:, : self.n_components]
        counts = fixed_point(
            update,
            batch,
            counts,
            max_steps=MAX_STEPS,
            tol=self.inner_tol,
            is_final=True,
        )
        concentration, mean_log_shares = shape + counts, mean_log(counts)
        log_shares = mean_log_shares - log_totals(batch)
        allocation = allocate(batch.x, log_shares, self._weights)
        bounds = allocation.log_likelihood(batch.x, self._weights)
        bounds -= dirichlet_kl(concentration, mean_log_shares, shape)
        # The prior of the shares is a Dirichlet except for unequal totals of factors.
        means = concentration.double()
        means = means / means.sum(1, keepdim=True)
        logs, shape = log_totals(batch).double(), shape.double()
        bounds -= (shape * logs).sum(-1)
        return bounds - shape.sum() * (means / logs.exp()).sum(1).log()

    def decode(self, z):
        return z @ self.components()

    def components(self):
        shape, rate = self.weight_posterior()
        return shape.div_(rate)

    def weight_posterior(self, factors=ALL, features=ALL):
        """Shapes and rates of the posterior of the weights.

        (n_components, n_features) and what broadcasts to it; Dirichlet parameters, and
        their sums, where weights sum to 1.
        """
        counts = self.weight_counts.detach()
        prior = self.weight_shape.expand_as(counts)
        shape = prior[factors, features] + counts[factors, features]
        if self.has_unit_weights:
            totals = counts.sum(1, keepdim=True) + prior.sum(1, keepdim=True)
            return shape, totals[factors]
        exposure = self.weight_exposure.detach()[factors]
        if self.may_miss:
            exposure = exposure[:, features]
        return shape, self._weight_prior_rate(features)[0] + exposure

    def sample(self, totals, generator):
        size = (len(totals), self.n_components)
        rate = self.factor_rate.item()
        if self.is_hierarchical:
            scale = rate / self.rate_shape
            rate = generator.gamma(self.rate_shape, scale, (len(totals), 1))
        z = generator.gamma(self.factor_shape.cpu().numpy(), 1 / rate, size)
        if self.has_exposure:
            z *= totals[:, None] / self.mean_total.item()
        return generator.poisson(z @ self.components().cpu().numpy())

    def row_shares(self, batch):
        """Shares of the factors in the counts of each row, (n_rows, n_components)."""
        state = self._solve(self._with_sums(batch), None)
        return shares_of_counts(state[:, : self.n_components])

    def word_shares(self, batch):
        """Shares of the factors in each count, (n_entries, n_components)."""
        q = self.posterior(batch)
        mean_log = digamma(q.concentration) - q.rate.log()
        allocation = allocate(batch.x, mean_log, self._weights)
        return entry_shares(batch.x, allocation.z, self._weights.scaled)

    def global_kl(self):
        weight_shape = self.weight_shape.expand_as(self.weight_counts)
        prior_rate, prior_log_rate = self._weight_prior_rate()
        kl = 0.0
        for factors in slices(*self.weight_counts.shape):
            shape, rate = self.weight_posterior(factors)
            mean_log = self._mean_log(shape, rate)
            prior_shape = weight_shape[factors]
            if self.has_unit_weights:
                part = dirichlet_kl(shape, mean_log, prior_shape)
            else:
                part = gamma_kl(
                    shape, rate, mean_log, prior_shape, prior_rate, prior_log_rate
                )
            kl += part.sum()
        if self.is_hierarchical:
            kl += self._rate_kl(
                self._feature_rate_shape(), self.feature_rate, self.weight_rate
            ).sum()
        return kl

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        batch = self._with_sums(batch)
        state = self._solve(batch, start)
        shape, rate, exposure = self._split(batch, state)
        bounds, allocation, mean_log = self._bounds(batch, shape, rate)
        mean = shape / rate
        scale = -batch.weight * n_samples
        gradient = self.gradient(self.weight_counts)
        allocation.add_feature_counts(gradient, self._weights, scale)
        exposures = scaled(exposure * mean, scale)
        if batch.observed is None:
            exposures = exposures.sum(0)[:, None]
        else:
            exposures = exposures.T @ batch.observed
        self.gradient(self.weight_exposure).add_(exposures)
        log_rate = self._factor_prior_rate(mean)[1].expand(len(mean))
        means = torch.stack([mean.mean(1), mean_log.mean(1), log_rate], 1)
        self.gradient(self.factor_means).sub_(scaled(means, batch.weight).sum(0))
        return bounds, state

    @torch.no_grad()
    def after_step(self):
        self._learn_factor_prior()
        if self.is_hierarchical:
            scale = self.rate_shape / self.weight_rate
            self.feature_rate.copy_(scale + self.components().sum(0))
        self._learn_weight_prior()
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        counts = self.weight_counts.detach()
        self._weights = Weights.from_mean_log(
            lambda features: self._mean_log(*self.weight_posterior(ALL, features)),
            counts.shape,
            counts,
        )
        self._totals = self._factor_totals()
        # By feature, and only where a batch has missing entries.
        self._means = None

    def _with_sums(self, batch):
        """A batch, with sums of E[w] over the observed features of incomplete rows."""
        if batch.observed is None:
            return batch
        if self._means is None:
            self._means = self.components().T.contiguous()
        return batch.with_side(sums=batch.observed @ self._means)

    def _totals_of(self, batch):
        """Sums of E[w] over observed features of a row; one for all complete rows."""
        return batch.side.get("sums", self._totals)

    def _factor_totals(self):
        """The sum of E[w] over the features, shape (n_components,)."""
        parts = []
        for factors in slices(*self.weight_counts.shape):
            shape, rate = self.weight_posterior(factors)
            parts.append(shape.div_(rate).sum(1))
        return torch.cat(parts)

    def _mean_log(self, shape, rate):
        """E[log w], given shapes and rates as from ``weight_posterior``."""
        log_rate = digamma(rate) if self.has_unit_weights else rate.log()
        return digamma(shape).sub_(log_rate)

    def _solve(self, batch, start):
        """The local parameters of the rows, from ``start`` or from the data alone."""
        options = ending(self)
        if is_few(batch) and not self.is_hierarchical:
            return self._solve_few(batch, start, options)
        if start is None:
            start = self._cold_start(batch)
        return fixed_point(self._update, batch, start, **options)

    def _solve_few(self, batch, start, options):
        """Solve a few rows, one after the other."""
        rates = self.factor_rate + self._exposure(batch) * self._totals_of(batch)
        rates = rates.expand(len(batch), self.n_components).numpy()
        shape = self.factor_shape.expand(self.n_components).numpy()
        factors = [exp_mean_log(shape)] * len(batch)
        return allocated_counts(
            batch, start, self._weights, factors, rates=rates, **options
        )

    def _cold_start(self, batch):
        totals = batch.totals[:, None].to(self.weight_counts.dtype)
        counts = totals.expand(-1, self.n_components) / self.n_components
        if not self.is_hierarchical:
            return counts
        of_features = self._totals_of(batch).mean(-1, keepdim=True)
        if "sums" in batch.side:
            of_features = torch.where(of_features > 0, of_features, 1)
        rate = self.rate_shape / self.factor_rate + totals / of_features
        return torch.cat([counts, rate], 1)

    def _exposure(self, batch):
        """e_n, shape (n_rows, 1); a float if all rows have the same."""
        if not self.has_exposure:
            return 1.0
        totals = batch.totals[:, None].to(self.mean_total.dtype)
        return totals / self.mean_total

    def _split(self, batch, state):
        """Shape and rate of q(z), and the exposures."""
        exposure = self._exposure(batch)
        shape = self.factor_shape + state[:, : self.n_components]
        rate = self.factor_rate
        if self.is_hierarchical:
            rate = self._row_rate_shape() / state[:, self.n_components :]
        rate = rate + exposure * self._totals_of(batch)
        return shape, rate.expand_as(shape), exposure

    def _update(self, batch, state):
        shape, rate, _ = self._split(batch, state)
        allocation = allocate(batch.x, digamma(shape) - rate.log(), self._weights)
        counts = allocation.row_counts(self._weights)
        if not self.is_hierarchical:
            return counts
        mean = (self.factor_shape + counts) / rate
        return torch.cat([counts, self._row_rate(mean)], 1)

    def _bounds(self, batch, shape, rate):
        """The rows' bounds, the allocation of their counts and E[log z]."""
        x = batch.x
        mean_log = digamma(shape) - rate.log()
        allocation = allocate(x, mean_log, self._weights)
        exposure = self._exposure(batch)
        bounds = allocation.log_likelihood(x, self._weights)
        bounds -= log_factorials(x)
        if self.has_exposure:
            bounds += torch.xlogy(batch.totals, exposure[:, 0].double())
        expected = exposure * (shape / rate) * self._totals_of(batch)
        bounds -= expected.sum(1, dtype=torch.float64)
        return bounds - self._local_kl(shape, rate, mean_log), allocation, mean_log

    def _local_kl(self, shape, rate, mean_log):
        """KL of the factors of each row, and of its own rate, from their priors."""
        mean = shape / rate
        prior_rate, prior_log_rate = self._factor_prior_rate(mean)
        kl = gamma_kl(
            shape,
            rate,
            mean_log,
            self.factor_shape,
            prior_rate[..., None],
            prior_log_rate[..., None],
        )
        if self.is_hierarchical:
            kl += self._rate_kl(
                self._row_rate_shape(), self._row_rate(mean), self.factor_rate
            )
        return kl

    def _factor_prior_rate(self, mean):
        """E[rate] and E[log rate] of the prior of each row's factors, given E[z]."""
        if not self.is_hierarchical:
            return self.factor_rate, self.factor_rate.log()
        shape, rate = self._row_rate_shape(), self._row_rate(mean)[:, 0]
        return shape / rate, torch.digamma(shape) - rate.log()

    def _weight_prior_rate(self, features=ALL):
        """E[rate] and E[log rate] of the prior of each feature's weights."""
        if not self.is_hierarchical:
            return self.weight_rate, self.weight_rate.log()
        shape, rate = self._feature_rate_shape()[features], self.feature_rate[features]
        return shape / rate, torch.digamma(shape) - rate.log()

    def _row_rate_shape(self):
        return self.rate_shape + self.factor_shape.expand(self.n_components).sum()

    def _feature_rate_shape(self):
        per_feature = self.weight_shape.expand_as(self.weight_counts).sum(0)
        return self.rate_shape + per_feature

    def feature_rate_of(self, counts, exposure, weight_shape, n_steps=100):
        """Rates of the posteriors of features' rates for other weights, (n_features,).

        They and the weights' posteriors follow from each other; the step that training
        makes after each pass is repeated until they agree.
        """
        counts, exposure = counts.double(), exposure.double()
        prior = weight_shape.double().expand_as(counts)
        shape, least = (
            self.rate_shape + prior.sum(0),
            self.rate_shape / self.weight_rate,
        )
        rate = self.feature_rate.double()
        for _ in range(n_steps):
            means = (prior + counts) / (shape / rate + exposure)
            rate = least + means.sum(0)
        return rate

    def _row_rate(self, mean):
        """Rate of the posterior of each row's rate, given E[z]."""
        return self.rate_shape / self.factor_rate + mean.sum(1, keepdim=True)

    def _rate_kl(self, shape, rate, prior_mean):
        """KL of gamma rates, one a row, from Gamma(r, r / prior_mean)."""
        shape = shape.expand_as(rate)
        mean_log = torch.digamma(shape) - rate.log()
        prior_rate = self.rate_shape / prior_mean
        parts = (shape, rate, mean_log)
        parts = [part.reshape(-1, 1) for part in parts]
        return gamma_kl(*parts, self.rate_shape, prior_rate, prior_rate.log())

    def _learn_factor_prior(self):
        """Fit the prior of z, and move the scale of z to where it fits best.

        With a learnt d, the bound does not change under z -> s z, w -> w / s, b -> b /
        s, d -> s d. So b is learnt too, and then scaled back to what it was given as:
        coordinate ascent alone would creep along that valley.
        """
        mean, mean_log, mean_log_rate = self.factor_means.double().tolist()
        if "factor_shape" in self.learnt:
            if self.has_free_scale:
                self.factor_shape.fill_(gamma_shape_and_rate(mean, mean_log)[0])
            else:
                self.factor_shape.fill_(gamma_shape(mean_log + mean_log_rate))
        if self.has_free_scale and mean > 0:
            rate = self.factor_shape.mean() / mean
            if "factor_rate" in self.learnt:
                self.factor_rate.copy_(rate)
            else:
                self._rescale(rate / self.factor_rate)

    def _learn_weight_prior(self):
        """Fit the prior of w, and move the scale to where it fits best."""
        if "weight_shape" in self.learnt:
            mean_log = self._mean_log(*self.weight_posterior())
            mean_log = mean_log.mean(dtype=torch.float64).item()
        if self.has_unit_weights:
            if "weight_shape" in self.learnt:
                n_features = self.weight_counts.shape[1]
                self.weight_shape.fill_(symmetric_dirichlet(mean_log, n_features))
            return
        totals = self._factor_totals().sum(dtype=torch.float64)
        mean = totals.item() / self.weight_counts.numel()
        if "weight_shape" in self.learnt:
            if self.has_free_scale:
                self.weight_shape.fill_(gamma_shape_and_rate(mean, mean_log)[0])
            else:
                log_rate = self._weight_prior_rate()[1].mean(dtype=torch.float64)
                self.weight_shape.fill_(gamma_shape(mean_log + log_rate.item()))
        if self.has_free_scale and mean > 0:
            rate = self.weight_shape.mean() / mean
            if "weight_rate" in self.learnt:
                self.weight_rate.copy_(rate)
            else:
                scale = self.weight_rate / rate
                self._rescale(scale)
                self.factor_rate /= scale

    def _rescale(self, scale):
        """Scale z; the weights follow with the rates that this changes."""
        self.weight_exposure *= scale
        self.factor_means[0] *= scale
        self.factor_means[1] += scale.log()
        if "weight_rate" in self.learnt:
            self.weight_rate *= scale
