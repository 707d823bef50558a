r"""Topics that change: paths of their words through time.

With slices of time t = 1, ..., T, at distances :math:`\Delta_t`, and for a row n of the
slice t(n) with :math:`N_n` words:

.. math::
    w_{k,t+1,v} \sim N(w_{ktv}, \sigma^2 \Delta_t), \qquad
    \beta_{kt} = \text{softmax}(w_{kt}), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha), \qquad
    x_n \sim \text{Multinomial}(N_n, \textstyle\sum_k \theta_{nk} \beta_{k t(n)}),

taken as words in order. The walk alone leaves its level open. In each slice the density
of the paths therefore has a factor :math:`\prod_v \beta_{ktv}^{\eta_v / T}` more, as if
:math:`\eta_v` further counts of each word were spread over the slices: in terms of w
the density of a Dirichlet distribution. With one slice, or :math:`\sigma^2 = 0`, this
is latent Dirichlet allocation, and the most probable softmax is the posterior mean of
its topics, :math:`\beta_{kv} \propto \eta_v + n_{kv}`.

*Rows* have q(theta) = Dirichlet(gamma), as in latent Dirichlet allocation, with the
topics of their slice: columns are moved to a block for each slice, which costs nothing
in sparse rows.

*Paths* are estimated by their most probable values given the expected counts
:math:`n_{ktv}` of the words, in steps of Newton's: see ``paths.py``. So

.. math::
    L = \sum_{nv} x_{nv} \log \sum_k e^{E \log \theta_{nk}} \beta_{k t(n) v}
        - \sum_n KL(q(\theta_n) \| p(\theta_n)) + \log p(w)

is a bound on the log joint density of rows and paths, up to a constant, which
mean-field updates never lower. Collapsed ones share counts by
:math:`E \theta_{nk} \beta_{k t(n) v}`.

*The variance*, if it is to be found, is chosen before training. Rows are allocated to
topics that do not change; paths are fitted to the counts of four fifths of these rows,
for several variances; and that one is taken under which the counts of the others are
most probable, refined by a parabola. Topics that do not change take words away from
those that do, which makes it too small: rows are therefore allocated to the paths
found, and the variance is chosen once more.

*Forecasts* lie between the last slice and the mean over slices. The weight of the mean
is that by which the last training slice would have been best forecast from the others,
and grows with the distance as that of a process that returns to its mean.

Blei and Lafferty (2006), Dynamic topic models, whose topics walk in the same way; they
have a Gaussian posterior for paths, found by gradients.
"""

import numpy as np
import torch
from torch import nn
from torch.distributions import Dirichlet

from skdeepfactor._math.allocation import shares_of_counts
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gammas import dirichlet
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import scaled
from skdeepfactor._math.row_iteration import ending
from skdeepfactor._math.topics import Admixture, Topics, in_slices
from skdeepfactor.models.dynamic_topic_model.paths import (
    LEAST_VARIANCE,
    PointTopics,
    climb,
    log_prior,
)
from skdeepfactor.models.dynamic_topic_model.starts import (
    DEFAULT_VARIANCE,
    StartRows,
    best_variance,
    static_counts,
)

# Steps on the paths after each step on rows, and where they start afresh.
N_STEPS, N_FIRST_STEPS = 4, 8


class DynamicTopics(FactorModule):
    """Words of a row from the topics of its slice, in Dirichlet proportions.

    ``slice`` of a batch, (n_rows, 1), numbers the slice of each row; rows of a batch
    without it are of the topics on average. ``times`` are those of the slices, an
    array, and ``gaps`` the distances of neighbours. Local parameters are expected
    counts of the topics.
    """

    is_given_total = True
    side = ("slice",)

    def __init__(
        self,
        shape,
        times,
        gaps,
        *,
        doc_topic_prior,
        topic_word_prior,
        chain_variance,
        is_collapsed,
        inner_iter,
        tol,
    ):
        super().__init__()
        k, n_features = shape
        self.times, self.gaps, self.n_slices = times, gaps, len(gaps) + 1
        self.local_width, self.is_collapsed = k, is_collapsed
        self.inner_iter, self.inner_tol = inner_iter, tol
        self.learns_shape = isinstance(doc_topic_prior, str)
        self.chooses_variance = isinstance(chain_variance, str)
        alpha = 0.1 if self.learns_shape else doc_topic_prior
        alpha = np.broadcast_to(np.asarray(alpha, np.float64), (k,))
        eta = np.asarray(topic_word_prior, np.float64)
        # As paths are: (n_features or 1, k or 1).
        eta = eta.T if eta.ndim == 2 else eta.reshape(-1, 1)
        variance = DEFAULT_VARIANCE if self.chooses_variance else chain_variance
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("eta", torch.tensor(eta), persistent=False)
        self.register_buffer(
            "chain_variance", torch.tensor(variance, dtype=torch.float64)
        )
        size = (self.n_slices, n_features, k)
        self.topic_counts = nn.Parameter(torch.zeros(size))
        self.mean_log_proportions = nn.Parameter(torch.zeros(k))
        self.register_buffer("paths", torch.zeros(size))

    # Where training starts.

    def start(self, counts, X, numbers, weights, random_state):
        """Begin with topics from counts, (k, n_features), for these rows.

        ``numbers`` are the slices of the rows of ``X``, an array of int.
        """
        counts = torch.from_numpy(counts).to(self.paths)
        if self.n_slices == 1:
            self.topic_counts.data[0] = counts.T
            self._set_paths(counts)
            return
        rows = StartRows(
            X, numbers, weights, self.n_slices, self.alpha, self.eta.T.to(counts)
        )
        counts = static_counts(rows, counts)
        self._set_paths(counts)
        if self.chooses_variance:
            variance = best_variance(
                rows, counts, self.paths, self._prior_by_slice, self.gaps, random_state
            )
            self.chain_variance.fill_(variance)
        found = rows.by_slice(rows.allocated(counts), rows.weights)
        self.topic_counts.data.copy_(found)
        self._climb(N_FIRST_STEPS)

    def _set_paths(self, counts):
        """Let no topic change; ``counts`` are (k, n_features)."""
        shares = Topics(counts, self.eta.T.to(counts)).mean()
        self.paths.copy_(shares.log_().T)

    # The contract.

    def posterior(self, batch, start=None):
        return self.recalled(batch, self._solve(batch, start))

    def recalled(self, batch, local):
        return Dirichlet(self.alpha + local, validate_args=False)

    def elbo(self, batch, q=None):
        placed, rows = self._placed(batch)
        if q is not None:
            return rows.bounds(placed, q.concentration)[0]
        counts = self._solve(batch, is_collapsed=False)
        return rows.bounds(placed, self.alpha + counts)[0]

    def decode(self, z, slice=None):
        """Expected shares of words, given proportions and the slice of each row."""
        if slice is None or self.n_slices == 1:
            return z @ self.components()
        numbers = slice[:, 0].long()
        expected = z.new_empty(len(z), self.paths.shape[1])
        for number in numbers.unique().tolist():
            is_here = numbers == number
            expected[is_here] = z[is_here] @ self.topics_of(number)
        return expected

    def components(self):
        """The mean of each topic over slices, (k, n_features)."""
        total = self.topics_of(0)
        for number in range(1, self.n_slices):
            total += self.topics_of(number)
        return total / self.n_slices

    def topics_over_time(self):
        """The topics of all slices, (n_slices, k, n_features)."""
        n_slices, n_features, k = self.paths.shape
        topics = self.paths.new_empty(n_slices, k, n_features)
        for number in range(n_slices):
            topics[number] = self.topics_of(number)
        return topics

    def topics_of(self, number):
        """The topics of a slice, (k, n_features)."""
        return self.paths[number].softmax(0).T.contiguous()

    def topics_at(self, times, middles, keeps):
        """Forecasts of topics, (n_times, k, n_features), float64.

        ``times`` and the ``middles`` of slices are numbers, and in units of the gaps;
        ``keeps`` is how much of its distance to the mean a topic keeps over one unit.
        Between slices paths are interpolated.
        """
        mean = self.components().double()
        found = mean.new_empty(len(times), *mean.shape)
        for row, time in enumerate(times.tolist()):
            after = int(np.searchsorted(middles, time))
            if 0 < after < len(middles):
                low, high = middles[after - 1], middles[after]
                part = (time - low) / (high - low)
                path = torch.lerp(
                    self.paths[after - 1].double(), self.paths[after].double(), part
                )
                found[row] = path.softmax(0).T
                continue
            end = min(after, len(middles) - 1)
            share = keeps ** abs(time - middles[end])
            found[row] = torch.lerp(mean, self.topics_of(end).double(), share)
        return found

    def share_kept(self):
        """How much of its distance to the mean a topic keeps over one unit of time.

        By which the last slice is best forecast from those before it.
        """
        n_words = self.topic_counts.detach().sum((1, 2))
        seen = (n_words > 0).nonzero()[:, 0]
        if len(seen) < 3:
            return 1.0
        last, before = int(seen[-1]), int(seen[-2])
        counts = self.topic_counts.detach()[:last]
        paths = self.paths[:last].clone()
        variances = self._steps(float(self.chain_variance))[: last - 1]
        climb(paths, counts, self.eta / self.n_slices, variances, N_FIRST_STEPS)
        mean = sum(path.softmax(0) for path in paths) / last
        at = paths[before].softmax(0)
        held = self.topic_counts.detach()[last]
        is_there = held > 0
        held, mean, at = held[is_there], mean[is_there], at[is_there]
        share = 0.5
        for _ in range(100):
            # Expectation maximization of a mixture of the two.
            of_last = share * at / (share * at + (1 - share) * mean)
            share = float((held * of_last).sum() / held.sum())
        distance = sum(self.gaps[before:last])
        return float(np.clip(share, 0.0, 1.0)) ** (1 / distance)

    def sample(self, totals, generator):
        proportions = generator.dirichlet(self.alpha.cpu().numpy(), size=len(totals))
        p = proportions @ self.components().cpu().numpy().astype(np.float64)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def row_shares(self, batch):
        """Shares of the topics in the words of each row, (n_rows, k)."""
        return shares_of_counts(self._solve(batch))

    def word_shares(self, batch):
        """Shares of the topics in each word, (n_entries, k)."""
        placed, rows = self._placed(batch)
        return rows.word_shares(placed, self._solve(batch))

    def global_kl(self):
        """Minus the log density of the paths, up to a constant."""
        prior, variances = self._prior_by_slice(), self._steps()
        return -log_prior(self.paths, prior, variances)

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        placed, rows = self._placed(batch)
        counts, bounds, allocation, weights, mean_log = rows.step(
            placed, start, **ending(self)
        )
        gradient = self.gradient(self.topic_counts).view(-1, self.local_width).T
        allocation.add_feature_counts(gradient, weights, -batch.weight * n_samples)
        gradient = self.gradient(self.mean_log_proportions)
        gradient.sub_(scaled(mean_log, batch.weight).sum(0))
        return bounds, counts

    @torch.no_grad()
    def after_step(self):
        if self.learns_shape:
            mean_log = self.mean_log_proportions.double().cpu().numpy()
            learnt = dirichlet(mean_log, start=self.alpha.double().cpu().numpy())
            self.alpha.copy_(torch.from_numpy(learnt))
        self._climb(N_STEPS)
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        topics = PointTopics.of_paths(self.paths)
        self._rows = self._average = self._admixture(topics)
        if self.n_slices > 1:
            mean = self.components().T
            topics = PointTopics(lambda part: mean[part].log(), mean.shape, mean)
            self._average = self._admixture(topics)

    # Parts.

    def _climb(self, n_steps):
        counts = self.topic_counts.detach()
        if self.n_slices == 1:
            # The most probable path is known.
            self._set_paths(counts[0].T)
            return
        climb(self.paths, counts, self._prior_by_slice(), self._steps(), n_steps)

    def _prior_by_slice(self, topics=slice(None)):
        """Counts that the prior adds to each slice, (n_features or 1, k or 1)."""
        eta = self.eta.to(self.paths) / self.n_slices
        return eta if eta.shape[1] == 1 else eta[:, topics]

    def _steps(self, variance=None):
        """Variances of the walk from each slice to the next."""
        variance = float(self.chain_variance) if variance is None else variance
        return [max(variance * gap, LEAST_VARIANCE) for gap in self.gaps]

    def _admixture(self, topics):
        return Admixture(topics, self.alpha, is_collapsed=self.is_collapsed)

    def _placed(self, batch):
        """A batch with its words in the columns of its slices, and its topics."""
        numbers = batch.side.get("slice")
        if numbers is None or self.n_slices == 1:
            return batch, self._average
        x = in_slices(batch.counts, numbers[:, 0].long(), self.n_slices)
        return Batch(x, weight=batch.weight), self._rows

    def _solve(self, batch, start=None, is_collapsed=None):
        """Expected counts of the topics in each row, from ``start`` or from none."""
        placed, rows = self._placed(batch)
        return rows.solve(placed, start, is_collapsed=is_collapsed, **ending(self))
