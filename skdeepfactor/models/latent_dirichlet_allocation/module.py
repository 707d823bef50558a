r"""Latent Dirichlet allocation: variational Bayes, collapsed updates, Gibbs sampling.

The story of a row n with :math:`N_n` words:

.. math::
    \beta_k \sim \text{Dirichlet}(\eta), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha), \qquad
    x_n \sim \text{Multinomial}(N_n, \textstyle\sum_k \theta_{nk} \beta_k),

taken as words in order, so without the multinomial coefficient. The posterior is
:math:`q(\beta_k) = \text{Dirichlet}(\lambda_k)`,
:math:`q(\theta_n) = \text{Dirichlet}(\gamma_n)`, with a share of each count for each
topic, :math:`\phi_{nvk} \propto \exp(E \log \theta_{nk} + E \log \beta_{kv})`, summed
out of the bound:

.. math::
    L = \sum_{nv} x_{nv} \log \sum_k e^{E \log \theta_{nk} + E \log \beta_{kv}}
        - \sum_n KL(q(\theta_n) \| p(\theta_n)) - \sum_k KL(q(\beta_k) \| p(\beta_k)).

Coordinate ascent: :math:`\gamma_{nk} = \alpha_k + \sum_v x_{nv} \phi_{nvk}` for each
row until it stands still, then :math:`\lambda_{kv} = \eta + \sum_n x_{nv} \phi_{nvk}`.
The sums over n are the one global parameter, ``topic_counts``.

Collapsed inference shares counts by :math:`\phi_{nvk} \propto \gamma_{nk} \lambda_{kv}
/ \sum_v \lambda_{kv}` instead, in both steps: the zeroth-order collapsed updates (CVB0)
with each count's own share left in. The posteriors stay Dirichlet and L stays a bound,
but these updates do not climb it: they keep the uncertainty of the proportions out of
the shares, which finds broader topics and better held-out words. With priors that are
given, steps on all rows over-relax: they move each topic, at the total of its new
counts, by 1.4 times as much.

Gibbs sampling draws everything in turn instead: topics, proportions, and the topic of
each token,

.. math::
    \beta_k \sim \text{Dirichlet}(\eta + n_k), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha + n_n), \qquad
    P(\text{topic } k) \propto \theta_{nk} \beta_{kv},

given the numbers of tokens :math:`n_{kv}` of topic k and word v, and :math:`n_{nk}` of
row n. With compiled loops (see Notes of the estimator), the proportions are integrated
out: tokens of a row are drawn one after the other, by :math:`P(\text{topic } k) \propto
(n_{nk} + \alpha_k) \beta_{kv}` with the numbers of the others. Rows stay independent
given the topics. The sweeps of the last quarter are kept: means of their :math:`n_{kv}`
take the place of ``topic_counts``. Learnt priors follow from the tokens drawn, a
stochastic EM.

Blei, Ng and Jordan (2003), Latent Dirichlet allocation; Hoffman, Blei and Bach (2010),
Online learning for latent Dirichlet allocation; Asuncion, Welling, Smyth and Teh
(2009), On smoothing and inference for topic models; learnt priors after Minka (2000),
Estimating a Dirichlet distribution.
"""

from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.distributions import Dirichlet

from skdeepfactor._math.allocation import shares_of_counts
from skdeepfactor._math.gammas import (
    dirichlet,
    sum_of_mean_logs,
    symmetric_dirichlet,
)
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import scaled
from skdeepfactor._math.row_iteration import ending
from skdeepfactor._math.threads import threads_for_torch
from skdeepfactor._math.topic_draws import TopicDraws
from skdeepfactor._math.topics import Admixture, Topics

# Steps on rows in a pass, at most, where a prior is learnt from them.
STEPS_OF_PRIOR = 30


class DirichletTopics(FactorModule):
    """Words of a row from topics in Dirichlet proportions.

    Local parameters of a row are its expected counts of each topic: the concentration
    without the prior, which may be learnt meanwhile.
    """

    is_given_total = True

    def __init__(
        self,
        doc_topic_prior,
        topic_word_prior,
        *,
        shape,
        inference,
        inner_iter,
        tol,
    ):
        super().__init__()
        n_components, _ = shape
        self.is_collapsed = inference != "mean_field"
        self.is_crossed = inference == "cross_fitted"
        self.draws = TopicDraws(shape) if inference == "gibbs" else None
        self.local_width = n_components * (2 if self.is_crossed else 1)
        self.inner_iter, self.inner_tol = inner_iter, tol
        priors = {"alpha": doc_topic_prior, "eta": topic_word_prior}
        self.learnt = {name for name, p in priors.items() if isinstance(p, str)}
        self.learns_shape = bool(self.learnt)
        alpha = 0.1 if "alpha" in self.learnt else doc_topic_prior
        eta = 0.05 if "eta" in self.learnt else topic_word_prior
        alpha = np.broadcast_to(np.asarray(alpha, np.float64), (n_components,))
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("eta", torch.tensor(np.asarray(eta, np.float64)))
        counts = torch.zeros(shape)
        if self.draws is None:
            self.topic_counts = nn.Parameter(counts)
        else:
            # Averages over sweeps, whose own counts are what a step replaces.
            self.register_buffer("topic_counts", counts)
        # The mean of E[log theta] over rows, from which alpha is learnt.
        self.mean_log_proportions = nn.Parameter(torch.zeros(n_components))

    @property
    def has_loops(self):
        return self.draws is not None and self.draws.has_loops

    @property
    def takes_notes(self):
        return self.has_loops

    @property
    def work_width(self):
        n_topics = len(self.alpha)
        if self.has_loops:
            # Loops look at few topics of a row, and each part takes a pass over topics.
            return -(-n_topics // 8)
        # Several arrays of a batch, and with half of its rows they stay in a cache.
        return 2 * n_topics

    def begin(self, budget):
        super().begin(budget)
        if self.draws is None:
            return
        self.draws.begin(budget)
        if budget.n_passes is None:
            # A stream goes on from the averages of an earlier fit.
            self.draws.counts.data.copy_(self.topic_counts)
            self.refresh()

    def start(self, counts, seed):
        """Start from counts of the words in each topic, (n_topics, n_features)."""
        self.topic_counts.data.copy_(counts)
        if self.draws is not None:
            self.draws.start(counts, seed)

    def posterior(self, batch, start=None):
        counts = self._solve(batch, None if start is None else self._joined(start))
        return Dirichlet(self.alpha + counts, validate_args=False)

    def recalled(self, batch, local):
        return Dirichlet(self.alpha + self._joined(local), validate_args=False)

    def elbo(self, batch, q=None):
        if q is not None:
            return self._rows.bounds(batch, q.concentration)[0]
        # The best q(theta) for the bound is the mean-field one.
        counts = self._solve(batch, is_collapsed=False)
        return self._rows.bounds(batch, self.alpha + counts)[0]

    def decode(self, z):
        return z @ self.components()

    def components(self):
        return self.topics.mean()

    def sample(self, totals, generator):
        proportions = generator.dirichlet(self.alpha.cpu().numpy(), size=len(totals))
        p = proportions @ self.components().cpu().numpy().astype(np.float64)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def row_shares(self, batch):
        """Shares of the topics in the words of each row, (n_rows, n_components)."""
        return shares_of_counts(self._solve(batch))

    def word_shares(self, batch):
        """Shares of the topics in each word, (n_entries, n_components)."""
        return self._rows.word_shares(batch, self._solve(batch))

    def global_kl(self):
        return self.topics.kl()

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        rows, scale = self._rows, -batch.weight * n_samples
        if self.draws is not None:
            return self._backward_of_draws(batch, n_samples, start)
        if self.is_crossed:
            gradient = self.gradient(self.topic_counts)
            counts = rows.solve_halves(batch, start, **self._options())
            for allocation, weights in rows.crossed(batch, counts):
                allocation.add_feature_counts(gradient, weights, scale)
            concentration = rows.concentration(batch, self._joined(counts))
            bounds, _, mean_log = rows.bounds(batch, concentration)
        else:
            gradient = self.gradient(self.topic_counts)
            counts, bounds, allocation, weights, mean_log = rows.step(
                batch, start, **self._options()
            )
            allocation.add_feature_counts(gradient, weights, scale)
        if self.is_collapsed and "alpha" in self.learnt:
            # Counts by collapsed updates are too even to learn from: alpha would rise,
            # which would make them more even still.
            best = rows.solve(
                batch,
                self._joined(counts),
                is_collapsed=False,
                max_steps=STEPS_OF_PRIOR,
                tol=self.inner_tol,
            )
            mean_log = rows.bounds(batch, self.alpha + best)[2]
        gradient = self.gradient(self.mean_log_proportions)
        gradient.sub_(scaled(mean_log, batch.weight).sum(0))
        return bounds, counts

    def _backward_of_draws(self, batch, n_samples, start):
        """The step of a Gibbs sweep over the tokens of rows; see ``backward``."""
        counts, note = start, None
        if counts is None:
            with threads_for_torch():
                counts = self._solve(batch)
        elif self.takes_notes:
            counts, note = start
        of_rows, of_words, bounds, note = self.draws.sweep(
            batch, self.alpha, counts, self._drawn_topics, note
        )
        gradient = self.gradient(self.draws.counts)
        gradient.sub_(of_words.T.to(gradient), alpha=n_samples)
        of_prior = self.gradient(self.mean_log_proportions)
        if "alpha" in self.learnt:
            of_prior.sub_(sum_of_mean_logs(self.alpha, of_rows, batch.weight))
        counts = of_rows.to(gradient)
        return bounds, (counts, note) if self.takes_notes else counts

    @torch.no_grad()
    def after_step(self):
        # A step that over-relaxes may leave fewer than none.
        self.topic_counts.clamp_min_(0)
        if "alpha" in self.learnt:
            mean_log = self.mean_log_proportions.double().cpu().numpy()
            learnt = dirichlet(mean_log, start=self.alpha.double().cpu().numpy())
            self.alpha.copy_(torch.from_numpy(learnt))
        if self.draws is not None:
            self.draws.end_sweep(self.topic_counts)
            # A prior is learnt from the averages.
            self.refresh()
        if "eta" in self.learnt:
            mean_log = self.topics.mean_log().mean(dtype=torch.float64).item()
            self.eta.fill_(symmetric_dirichlet(mean_log, self.topic_counts.shape[1]))
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self.topics = Topics(self.topic_counts.detach(), self.eta)
        vars(self).pop("_drawn_topics", None)
        self._rows = Admixture(self.topics, self.alpha, is_collapsed=self.is_collapsed)

    @cached_property
    def _drawn_topics(self):
        """The topics of the next sweep."""
        return self.draws.topics(self.eta, self.alpha)

    def _solve(self, batch, start=None, is_collapsed=None):
        """Expected counts of the topics in each row, from ``start`` or from none."""
        options = self._options()
        return self._rows.solve(batch, start, is_collapsed=is_collapsed, **options)

    def _options(self):
        """When the iteration of a row ends."""
        options = ending(self)
        if "alpha" in self.learnt and not self.is_collapsed:
            # Rows short of their ends are too even, and so would be the prior.
            options["max_steps"] = max(options["max_steps"], STEPS_OF_PRIOR)
        return options

    def _joined(self, local):
        """Expected counts in rows, from those in each half of a row if there are."""
        return sum(local.chunk(2, 1)) if self.is_crossed else local
