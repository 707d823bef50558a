r"""Deep latent Gaussian models of sparse counts, with posteriors optimised row by row.

The story of row n with :math:`N_n` words:

.. math::
    z_n \sim p(z), \qquad x_n \sim \text{Multinomial}(N_n, \text{softmax}(f(z_n))),

with logits f linear in z, or with a network of it, and p(z) standard normal or a
mixture of Gaussians. Instead of the multinomial: a Polya urn that starts with A words
in proportion to softmax(f), since a word that was used once comes again (Dirichlet-
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

**Wide data:** where features outnumber the words of a batch many times, training
refines rows on log totals of some features, drawn anew for each part of a batch
(``ClosedBound.sampled``). The bound that the decoder learns from, and scores, are of
all features.

**Residual decoder:** f(z) = b + W z + U g(z), with a network g beside the linear part.
Its bound is sampled: by an antithetic pair in training, by independent draws in scores.
Rows are refined by the same steps as under a linear decoder, on an expansion of the
bound to second order (``bounds.py``).
U is 0 at first, and unless the objective is sampled, only W is learnt for a while, in
closed form: it starts level with a linear decoder, so it has not collapsed to the prior
where a stack of layers did.

**Plain stack of layers:** the bound is sampled, and refined by Adam.

The noise of a row that is scored is a function of its content, so that a score depends
on that row alone.

**Learning:** each row's q starts from where it stood a pass ago (not with a plain stack
of layers) or from the encoder, under a residual decoder from the better of the two. The
decoder follows the gradient of the bound at these refined q, and the encoder learns to
predict them: it descends KL(encoder || q), which is the loss of its own bound to second
order. Without refinement both follow the gradient of the encoder's bound.

For mixtures, :math:`p(z) = \sum_c \pi_c N(a_c, B_c)`, the divergence is bounded
(``priors.py``).

Krishnan, Liang and Hoffman (2018), On the challenges of learning with inference
networks on sparse, high-dimensional data; Burda, Grosse and Salakhutdinov (2016),
Importance weighted autoencoders; Li and Turner (2016), Renyi divergence variational
inference.
"""

import copy

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
    polish,
    propose,
    refine,
    refine_by_adam,
    refine_fully,
)
from skdeepfactor._math.importance import importance_bound
from skdeepfactor._math.log_total import LogTotal, logits_and_log_sums
from skdeepfactor._math.noise import Stream
from skdeepfactor._math.ops import csr, map_values
from skdeepfactor._math.priors import with_free_bits
from skdeepfactor._math.row_iteration import choose
from skdeepfactor._math.sampled import N_DRAWS, N_SLOPES, SampledModule
from skdeepfactor.models.neural_topic_dlgm.bounds import ClosedBound, ExpandedBound

# A row is refined until a step would gain less than this share of its bound.
REFINE_TOL = 1e-7

# Rows with at least LONG words that N_APART diagonal steps have not brought to their
# end take steps with full precisions: more diagonal ones would take longer.
LONG, N_APART = 500, 25

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

# Share of training in which a residual decoder is still linear.
LINEAR_SHARE = 0.1

# Share of training in which rows may start from the network under a residual decoder.
NETWORK_SHARE = 0.5

# As REFINE_TOL, for bounds by expansion, whose slopes jump.
EXPANDED_TOL = 1e-5

# The least weight of a divergence by which variances are divided.
LEAST_KL_WEIGHT = 0.01


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
        # Updates by which the hidden layers of a residual decoder come in, and by which
        # it changes no faster than memory.
        self.n_linear = self.n_unsteady = 0.0
        self._forget()
        self.register_buffer("idf", torch.ones(len(decoder.bias)))
        self.register_buffer("spread", torch.ones(()))
        remembers = refine_steps > 0 and decoder.n_direct > 0
        self.local_width = 3 * n_components if remembers else 0

    @property
    def work_width(self):
        # One array of a batch holds all features, and is worth the size of four. Rows
        # are at least twice the components, or the weights take longer to read.
        width = min(len(self.idf) // 4, CHUNK_NUMBERS // (2 * self.n_components))
        n_arrays = 2 if self.decoder.has_skips else 1
        return max(self.local_width, n_arrays * width)

    def begin(self, budget):
        super().begin(budget)
        decoder = self.decoder
        is_ready = decoder.has_skips and self.alpha == 1.0
        # In a warm fit they may be in already.
        is_linear = is_ready and not bool(decoder.hidden_weight.any())
        n_total = self.n_total or 0
        self.n_linear = LINEAR_SHARE * n_total if is_linear else 0.0
        self.n_unsteady = NETWORK_SHARE * n_total

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
        network, likelihood = self._encode(batch), None
        if self.refine_steps > 0:
            encoded = Posterior(network.mean.detach(), network.var.detach())
            has_slopes = self.is_closed or self.decoder.has_skips
            if has_slopes and self.alpha == 1.0:
                q, likelihood = self._refined_and_likely(batch, start, encoded)
            else:
                with torch.no_grad():
                    q = self._infer(batch, self.likelihood, start, encoded)
            # To second order, the gap between the network's own bound and this one.
            amortisation = diagonal_kl(network, q)
        else:
            q, amortisation = network, network.mean.new_zeros(())
        if self.alpha == 1.0:
            # A linear decoder needs no noise, but the seed's later draws follow it.
            noise = self._pairs(batch, q.mean)
            if not self.decoder.has_skips:
                noise = noise[:1]
            if likelihood is None:
                likelihood = self._expected_log_likelihood(
                    batch, self.likelihood, q, noise
                )
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
        if self.is_linear_yet:
            # Their optimizer counts steps, in one process as in several.
            for parameter in self.decoder.hidden.parameters():
                self.gradient(parameter)
        with torch.no_grad():
            moments = torch.stack([q.mean.mean(0), q.mean.square().mean(0)])
            self.note_moments(moments, batch.share)
            local = None
            if self.local_width:
                center = q.center[:, : self.n_components]
                local = torch.cat([q.mean, q.var.log(), center], 1)
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
        """Posteriors as the network has them, outside of training in float64.

        Steps of Newton carry what is rounded in a start far beyond rounding.
        """
        if self._is_double:
            batch = batch.double()
        mean, log_var = self.encoder(self.inputs(batch), self.generator)
        if self.posterior_variance is not None:
            log_var = torch.full_like(log_var, np.log(self.posterior_variance))
        return Posterior(mean, log_var.exp())

    @property
    def _is_double(self):
        """Whether rows are inferred in float64: outside of training.

        In float32 rounding would decide which step of a row is its last.
        """
        return not self.training and self.decoder.weight.device.type != "mps"

    @property
    def is_closed(self):
        """Whether the bound has a closed form: with a linear decoder, or so far."""
        return self.decoder.is_linear or self.is_linear_yet

    @property
    def is_linear_yet(self):
        """Whether training has not come to the hidden layers of a residual decoder."""
        if not (self.training and self.n_linear):
            return False
        return self.n_updates.item() < self.n_linear

    @property
    def is_steady(self):
        """Whether training changes a residual decoder no faster than memory follows."""
        return self.n_updates.item() >= self.n_unsteady

    def _infer(self, batch, likelihood, start=None, network=None):
        """Posteriors of the rows, refined from remembered or encoded ones."""
        if start is not None:
            q = self._remembered(start)
        else:
            q = self._encode(batch) if network is None else network
        n_steps = self._n_steps(start)
        if n_steps == 0 or len(batch) == 0:
            return q.to(self.decoder.weight)
        if not (self.is_closed or self.decoder.has_skips):
            q = q.to(self.decoder.weight)
            return self._refine_by_adam(batch, likelihood, q, n_steps)
        if self.training:
            bound, batch, q = self._bound_of_steps(batch, likelihood, q)
            starts, options = self._starts(bound, batch, q, start, network)
            return refine(bound.slopes, batch, starts, max_steps=n_steps, **options)
        converged = self._converged if self.is_closed else self._converged_by_expansion
        return converged(batch, likelihood, q, n_steps)

    def _bound_of_steps(self, batch, likelihood, q):
        """The bound that rows follow, a batch and posteriors in its type."""
        if self.is_closed:
            return self._closed(likelihood, batch, q)
        expanded = self._expanded(likelihood)
        if self._is_double:
            batch, q = batch.double(), q.to(expanded.weight)
        return expanded, batch, expanded.centered(q)

    def _remembered(self, local):
        """Posteriors from local parameters."""
        mean, log_var, center = local.split(self.n_components, 1)
        return Posterior(mean, log_var.exp(), None, center)

    def _n_steps(self, start):
        """Steps that refine rows, the more if training does not remember them."""
        if not self.training:
            return self.max_refine_steps
        is_cold = self.local_width and start is None
        # The first pass starts from a network that knows nothing yet.
        return self.refine_steps * (N_COLD if is_cold else 1)

    def _starts(self, bound, batch, q, start=None, network=None):
        """Where steps of Newton may start, and their options."""
        fixes_variances = self.posterior_variance is not None
        starts, options = [q], {"fixes_variances": fixes_variances}
        if start is None:
            # A network that has not learnt yet, or gone astray, is no better start.
            starts.append(bound.plain(batch, q, fixes_variances=fixes_variances))
        elif not (self.is_closed or network is None or self.is_steady):
            # The decoder changes so fast at first that memory is stale a pass later.
            starts.append(bound.centered(network))
        if self.training:
            options["kl_weight"] = max(bound.kl_weight, LEAST_KL_WEIGHT)
        return starts, options

    def _refined_and_likely(self, batch, start, encoded):
        """Posteriors of a step of training, and expected log likelihoods under these.

        As from ``_infer``, but the softmax by which the last step of each row is judged
        is that from which the decoder learns. If log totals are sampled, steps are
        judged by these. By expansion there are no likelihoods: the decoder learns from
        draws, and to judge the last step would cost too much.
        """
        q = encoded if start is None else self._remembered(start)
        bound, batch, q = self._bound_of_steps(batch, self.likelihood, q)
        starts, options = self._starts(bound, batch, q, start, encoded)
        options["max_steps"] = self._n_steps(start)
        sampled = bound.sampled(batch, self.generator) if self.is_closed else None
        if sampled is not None:
            q = refine(sampled.slopes, batch, starts, **options)
            return q, bound.log_likelihood(batch, q)
        q, value, new = propose(bound.slopes, batch, starts, **options)
        if not self.is_closed:
            return new, None
        expected = bound.log_likelihood(batch, new)
        with torch.no_grad():
            values = expected - bound.kl_weight * self._kl(new)
            is_better = values >= value
        rows = (~is_better).nonzero()[:, 0]
        if len(rows) == 0:
            return new, expected
        mean, var = choose(is_better, new[:2], q[:2])
        new = new._replace(mean=mean, var=var)
        if not bool(values.isfinite().all()):
            # Gradients of what is no number spoil those of all rows.
            return new, bound.log_likelihood(batch, new)
        again = bound.log_likelihood(batch.take(rows), q.take(rows))
        expected = expected.index_copy(0, rows, again)
        return new, expected

    @torch.no_grad()
    def _converged(self, batch, likelihood, q, n_steps):
        """Posteriors at the end of each row, by steps of Newton on the closed bound."""
        closed, batch, q = self._bound_of_steps(batch, likelihood, q)
        starts, options = self._starts(closed, batch, q)
        options |= {"max_steps": n_steps, "tol": REFINE_TOL}
        is_long = batch.entries.totals >= LONG
        if int(is_long.sum()) in (0, len(batch)):
            q = self._ends(closed, batch, starts, options)
        else:
            parts = [mask.nonzero()[:, 0] for mask in (is_long, ~is_long)]
            ends = []
            for rows in parts:
                some = [start.take(rows) for start in starts]
                ends.append(self._ends(closed, batch.take(rows), some, options))
            mean, var, _, center = zip(*ends, strict=True)
            q = Posterior(torch.cat(mean), torch.cat(var), None, torch.cat(center))
            q = q.take(torch.cat(parts).argsort())
        if self.has_full_covariance:
            q = refine_fully(closed.full_slopes, batch, q)
        return q

    def _ends(self, closed, batch, starts, options):
        """Posteriors at the end of each row, of rows that are all long or all short."""
        is_long = bool(batch.entries.totals[0] >= LONG)
        if is_long:
            options = options | {"max_steps": min(options["max_steps"], N_APART)}
        if closed.has_row_slopes(batch):
            q, is_done = converge_row(closed.row_slopes(batch), starts, **options)
        else:
            q, is_done = converge(closed.slopes, batch, starts, **options)
        (left,) = torch.where(~is_done)
        if not is_long or len(left) == 0:
            return q
        # The longer a row, the more its factors may pull at each other.
        ends = polish(
            closed.slopes,
            closed.full_slopes,
            batch.take(left),
            q.take(left),
            fixes_variances=options["fixes_variances"],
        )
        q.mean[left], q.var[left], q.center[left] = ends.mean, ends.var, ends.center
        return q

    @torch.no_grad()
    def _converged_by_expansion(self, batch, likelihood, q, n_steps):
        """As ``_converged``, for a residual decoder."""
        expanded, batch, q = self._bound_of_steps(batch, likelihood, q)
        starts, options = self._starts(expanded, batch, q)
        options |= {"tol": EXPANDED_TOL, "min_gain": EXPANDED_TOL}

        def end(starts, n_steps):
            return converge(
                expanded.slopes, batch, starts, max_steps=n_steps, **options
            )[0]

        # What a row's own slopes add to its curvature is found once, where it has come
        # to without: finding it in each step takes longer and leads no further.
        starts = [expanded.flat(start) for start in starts]
        q = expanded.turned(end(starts, (n_steps + 1) // 2))
        q = end([q], n_steps // 2)
        return q.to(self.decoder.weight)

    def _expanded(self, likelihood):
        """The expansion for the decoder as it is, kept as its log total is."""
        expanded, decoder = self._kept_expanded, self.decoder
        if expanded is not None and expanded.likelihood is likelihood:
            return expanded
        is_kept = self.training or decoder.weight.numel() <= LARGEST_KEPT
        if self._is_double:
            decoder = copy.deepcopy(decoder).double()
        points = self.draw_prior(N_SLOPES, torch.Generator().manual_seed(0))
        expanded = ExpandedBound(
            likelihood,
            decoder,
            self._density(),
            points,
            self.kl_weight(),
        )
        if is_kept:
            self._kept_expanded = expanded
        return expanded

    def _pairs(self, batch, like):
        """A standard normal draw and minus it, (2, n_rows, k)."""
        draws = self.noise(batch, like, 1).normal()
        return torch.cat([draws, -draws])

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
        if self.training and not self.is_closed:
            # Over the rows of a fit the noise of a pair averages out.
            noise = self._pairs(batch, q.mean)
        elif not self.is_closed:
            noise = self.noise(batch, q.mean, N_DRAWS, Stream.BOUND).normal()
        expected = self._expected_log_likelihood(batch, likelihood, q, noise)
        return expected - self._kl(q)

    def _expected_log_likelihood(self, batch, likelihood, q, noise):
        """E_q[log p(x | z)] or a lower bound of it, of each row."""
        if self.is_closed:
            closed, batch, q = self._closed(likelihood, batch, q)
            return closed.log_likelihood(batch, q)
        x, decoder, parts = batch.entries, self.decoder, []
        for z in draws_of(q.distribution(), noise):
            known, log_total = logits_and_log_sums(
                decoder.features(z), decoder.weight, decoder.bias, x.rows, x.columns
            )
            parts.append(likelihood.of_entries(x, known.double(), log_total.double()))
        return torch.stack(parts).mean(0)

    def _closed(self, likelihood, batch, q):
        """The closed bound of a linear decoder as it is, a batch, and q with centers.

        Outside of training all are in float64.
        """
        total = self._log_total()
        if self._is_double:
            batch, q = batch.double(), q.to(total.weight)
        density, kl_weight = self._density(), self.kl_weight()
        closed = ClosedBound(likelihood, total, density, kl_weight)
        is_best = not self.training or self.decoder.has_skips
        return closed, batch, closed.centered(q, is_best=is_best)

    def _log_total(self):
        """The bound on the log total, kept in a step, and between calls if small."""
        total = self._kept_total
        if total is not None and (self.training or not torch.is_grad_enabled()):
            return total
        weight, bias = self.decoder.direct_weight, self.decoder.bias
        if self._is_double:
            weight, bias = weight.double(), bias.double()
        total = LogTotal(weight, bias)
        is_kept = not torch.is_grad_enabled() and weight.numel() <= LARGEST_KEPT
        if self.training:
            # A part of a parameter has gradients only where it was taken with them.
            is_kept = weight is self.decoder.weight
        if is_kept:
            self._kept_total = total
        return total

    def train(self, mode=True):
        self._forget()
        return super().train(mode)

    def refresh(self):
        self._forget()

    def _forget(self):
        """Drop the products of the decoder's weights."""
        self._kept_total = self._kept_expanded = None

    def _density(self):
        """The prior as it is now."""
        return self.prior.mixture(self.encoder.moments)

    def _kl(self, q):
        """KL(q || prior), or its bound, (n_rows,), float64."""
        return self._density().to(q.mean).kl_bound(q.mean, q.var, q.log_det())[0]
