"""Topics with a Dirichlet posterior, and rows that mix them.

Latent Dirichlet allocation and its relatives share two halves. Topics are probabilities
of the features that sum to 1 for each topic, or for each topic and group of features.
Rows are words from the topics, in proportions of their own, among the topics that they
may use.
"""

from functools import cached_property

import torch
from sklearn.utils import gen_batches

from skdeepfactor._math import few_rows
from skdeepfactor._math.allocation import (
    Weights,
    allocate,
    allocate_by,
    entry_shares,
)
from skdeepfactor._math.batch import Batch, compute_dtype, to_tensor
from skdeepfactor._math.gammas import digamma, digamma_and_log_gamma, dirichlet_kl
from skdeepfactor._math.ops import csr, row_indices, slices
from skdeepfactor._math.row_iteration import fixed_point

ALL = slice(None)

# By how much training over-relaxes collapsed updates of rows, which come to the same
# expected counts in half the steps.
AHEAD = 1.0

# Passes, steps on rows in each, and rows at once, of topics that others start from.
N_PASSES, N_STEPS, N_ROWS = 10, 5, 1000


class Topics:
    """Posterior of topics: q(beta_kg) = Dirichlet(prior + counts).

    There is one for each topic k and group g of features, whose probabilities sum to 1.
    It keeps quantities that follow from the tensors it is given, so it must be made
    anew when they change.

    Parameters
    ----------
    counts : Tensor of shape (n_topics, n_features)
        Expected counts of the features in each topic.
    prior : Tensor
        Concentration of the prior, of a shape that broadcasts to that of ``counts``.
    groups : Tensor of int, shape (n_features,), default=None
        The group of each feature, such as its modality or its slice (``in_slices``);
        None for a single one.
    """

    def __init__(self, counts, prior, groups=None):
        self.counts, self.prior, self.groups = counts, prior, groups
        # Of one topic, if topics have the same prior.
        prior = prior.expand(len(counts) if prior.ndim == 2 else 1, counts.shape[1])
        self._totals = self._group_sums(counts) + self._group_sums(prior)

    def concentration(self, topics=ALL, features=ALL):
        """Parameters of the posterior, (n_topics, n_features)."""
        return self._prior(topics, features) + self.counts[topics, features]

    def mean(self):
        """E[beta], (n_topics, n_features)."""
        concentration = self.concentration()
        return concentration.div_(self._of_features(self._group_sums(concentration)))

    def mean_log(self, topics=ALL, features=ALL):
        """E[log beta], (n_topics, n_features)."""
        mean_log = digamma(self.concentration(topics, features))
        totals = digamma(self._totals[topics])
        return mean_log.sub_(self._of_features(totals, features))

    def kl(self):
        """KL divergence from the prior, summed over topics and groups, float64."""
        n_topics, total = len(self.counts), 0
        for features in self._groups():
            n_features = self.counts[:1, features].shape[1]
            for topics in slices(n_topics, n_features):
                total = (
                    total
                    + dirichlet_kl(
                        self.concentration(topics, features),
                        self.mean_log(topics, features),
                        self._prior(topics, features),
                    ).sum()
                )
        return total

    @cached_property
    def weights(self):
        """exp(E[log beta]), by which mean-field updates share counts out."""
        return Weights.from_mean_log(
            lambda features: self.mean_log(ALL, features),
            self.counts.shape,
            self.counts,
        )

    @cached_property
    def collapsed_weights(self):
        """E[beta], by which collapsed updates share counts out."""

        def log_mean(features):
            totals = self._of_features(self._totals, features)
            return (self.concentration(ALL, features) / totals).log_()

        return Weights.from_mean_log(log_mean, self.counts.shape, self.counts)

    def _prior(self, topics, features):
        """Prior of some topics and features; one number if it is that for all."""
        if self.prior.ndim == 0:
            return self.prior
        return self.prior.expand_as(self.counts)[topics, features]

    def _groups(self):
        """The features of each group."""
        if self.groups is None:
            return [ALL]
        return [(self.groups == g).nonzero()[:, 0] for g in self.groups.unique()]

    def _group_sums(self, values):
        """Sums over the features of each group, (n_topics, n_groups)."""
        if self.groups is None:
            return values.sum(1, keepdim=True)
        n_groups = int(self.groups.max()) + 1
        sums = values.new_zeros(len(values), n_groups)
        return sums.index_add_(1, self.groups, values)

    def _of_features(self, values, features=ALL):
        """Values of each feature's group, from (n_topics, n_groups)."""
        return values if self.groups is None else values[:, self.groups[features]]


class Admixture:
    """Rows whose words come from topics, in Dirichlet proportions of each row's own.

    The posterior is q(theta_n) = Dirichlet(alpha + counts), with the expected counts of
    the topics in row n. A batch may have ``alpha``, (n_rows, n_topics), or ``allowed``,
    a mask of that shape, among its ``side``: the prior of each row, and the topics that
    it may use, where the proportions of the others are 0 with certainty.

    Mean-field updates share the word v of row n out by exp(E[log theta_nk] +
    E[log beta_kv]); they are coordinate ascent. Collapsed ones take E[theta_nk]
    E[beta_kv] in its place: the zeroth-order collapsed updates (CVB0) with each count's
    own share left in.

    Parameters
    ----------
    topics : Topics
    alpha : Tensor of shape (n_topics,)
        Concentration of the prior of the proportions.
    is_collapsed : bool
    """

    def __init__(self, topics, alpha, *, is_collapsed):
        self.topics, self.alpha, self.is_collapsed = topics, alpha, is_collapsed

    def solve(
        self,
        batch,
        start=None,
        *,
        max_steps,
        tol,
        is_final=False,
        is_collapsed=None,
        ends_ahead=False,
    ):
        """Expected counts of the topics in each row, (n_rows, n_topics).

        Updates start from ``start``, or from even shares, and end when each row has
        converged (see ``fixed_point``, for ``ends_ahead`` too). ``is_collapsed``
        overrides the kind of updates.
        """
        if is_collapsed is None:
            is_collapsed = self.is_collapsed
        # Mean-field updates would no longer be sure to raise the bound.
        ahead = AHEAD if is_collapsed and not is_final else 0.0
        options = {
            "max_steps": max_steps,
            "tol": tol,
            "is_final": is_final,
            "ahead": ahead,
            "ends_ahead": ends_ahead,
        }
        if few_rows.is_few(batch):
            return self._solve_few(batch, start, is_collapsed, options)
        if start is None:
            start = self._even_counts(batch)

        def update(batch, counts):
            allocation, weights = self._allocation(batch, counts, is_collapsed)
            return allocation.row_counts(weights)

        return fixed_point(update, batch, start, **options)

    def _solve_few(self, batch, start, is_collapsed, options):
        """Solve a few rows, one after the other."""
        topics, n_rows = self.topics, len(batch)
        prior, allowed = self._prior(batch).numpy(), batch.side.get("allowed")
        priors = [prior] * n_rows if prior.ndim == 1 else prior
        masks = [None] * n_rows
        if allowed is not None:
            masks = allowed = allowed.numpy()
        weights, factors = topics.weights, few_rows.exp_mean_log
        if is_collapsed:
            weights, factors = topics.collapsed_weights, few_rows.expected
        factors = list(map(factors, priors, masks))
        return few_rows.allocated_counts(
            batch, start, weights, factors, allowed=allowed, **options
        )

    def concentration(self, batch, counts):
        """Parameters of q(theta), (n_rows, n_topics); 0 where not allowed."""
        concentration = self._prior(batch) + counts
        allowed = batch.side.get("allowed")
        return concentration if allowed is None else concentration * allowed

    def bounds(self, batch, concentration):
        """Each row's bound given q(theta), its allocated counts and E[log theta].

        The allocation uses the topics' ``weights``, whichever updates are used.
        """
        allowed = batch.side.get("allowed")
        totals = digamma(concentration.sum(1, keepdim=True))
        if allowed is not None:
            concentration = concentration.masked_fill(~allowed, 1)
        mean_log, log_gamma = digamma_and_log_gamma(concentration)
        mean_log -= totals
        weights = self.topics.weights
        allocation = allocate(batch.x, mean_log, weights, allowed)
        bounds = allocation.log_likelihood(batch.x, weights)
        bounds -= dirichlet_kl(
            concentration, mean_log, self._prior(batch), allowed, log_gamma
        )
        return bounds, allocation, mean_log

    def expectations(self, batch, counts):
        """Bounds of rows, the expected counts of their words, and E[log theta].

        The counts come as an ``Allocation`` and the ``Weights`` that belong to it.
        """
        concentration = self.concentration(batch, counts)
        bounds, allocation, mean_log = self.bounds(batch, concentration)
        if self.is_collapsed:
            allocation, weights = self._allocation(batch, counts, is_collapsed=True)
        else:
            weights = self.topics.weights
        return bounds, allocation, weights, mean_log

    def step(self, batch, start=None, **options):
        """Solve rows, and find what a step on the topics takes from them.

        The last collapsed update shares the words out for the rows and for the topics
        alike, which spares a product. Returns the expected counts of the topics in each
        row (see ``solve``), and what ``expectations`` gives.
        """
        if not self.is_collapsed:
            counts = self.solve(batch, start, **options)
            return counts, *self.expectations(batch, counts)
        counts, allocation, weights = self.updated(batch, start, **options)
        bounds, _, mean_log = self.bounds(batch, self.concentration(batch, counts))
        return counts, bounds, allocation, weights, mean_log

    def updated(self, batch, start=None, *, max_steps, **options):
        """Counts of the topics in rows after updates, and the words of the last one.

        The latter come as an ``Allocation`` and its ``Weights``.
        """
        options = {**options, "max_steps": max_steps - 1, "ends_ahead": True}
        before = self.solve(batch, start, **options)
        allocation, weights = self._allocation(batch, before, self.is_collapsed)
        return allocation.row_counts(weights), allocation, weights

    def solve_halves(self, batch, start=None, **options):
        """Expected counts of the topics in each half of each row, (n_rows, 2 n_topics).

        They are those that another update would start from; see ``Batch.halves`` and
        ``solve``.
        """
        starts = (None, None) if start is None else start.chunk(2, 1)
        solved = [
            self.solve(half, before, ends_ahead=True, **options)
            for half, before in zip(batch.halves, starts, strict=True)
        ]
        return torch.cat(solved, 1)

    def crossed(self, batch, counts):
        """Expected counts of the words of each half, given the topics of the other.

        ``counts`` are those of ``solve_halves``. Yields an ``Allocation`` and its
        ``Weights`` for each half.
        """
        others = reversed(counts.chunk(2, 1))
        for half, of_other in zip(batch.halves, others, strict=True):
            yield self._allocation(half, of_other, self.is_collapsed)

    def word_shares(self, batch, counts):
        """Shares of the topics in each word of the rows, (n_entries, n_topics)."""
        allocation, weights = self._allocation(batch, counts, self.is_collapsed)
        return entry_shares(batch.x, allocation.z, weights.scaled)

    def _allocation(self, batch, counts, is_collapsed):
        """The words of each row, allocated to the topics, and by which weights."""
        concentration = self._prior(batch) + counts
        allowed = batch.side.get("allowed")
        if is_collapsed:
            weights = self.topics.collapsed_weights
            return allocate_by(batch.x, concentration, weights, allowed), weights
        # The digamma of the total is the same for all topics and cancels in shares.
        weights = self.topics.weights
        return allocate(batch.x, digamma(concentration), weights, allowed), weights

    def _prior(self, batch):
        return batch.side.get("alpha", self.alpha)

    def _even_counts(self, batch):
        """The words of each row, evenly among the topics that it may use."""
        totals = batch.totals[:, None].to(self.alpha.dtype)
        allowed = batch.side.get("allowed")
        if allowed is None:
            return totals.expand(-1, len(self.alpha)) / len(self.alpha)
        return totals * allowed / allowed.sum(1, keepdim=True)


def lda_counts(X, weights, counts, alpha, *, n_passes=N_PASSES):
    """Counts of topics, (n_topics, n_features), after collapsed passes over rows.

    Other models start from them. ``X`` is an array or a CSR matrix, ``weights`` how
    often each row counts, ``counts`` an array of those to start from, ``alpha`` the
    prior of the proportions, a tensor (n_topics,). An array, float64.
    """
    dtype = compute_dtype(X)
    alpha, counts = alpha.to(dtype), torch.from_numpy(counts).to(dtype)
    prior = torch.tensor(0.05, dtype=dtype)
    local = {}
    for _ in range(n_passes):
        topics, new = Topics(counts, prior), torch.zeros_like(counts)
        rows = Admixture(topics, alpha, is_collapsed=True)
        for part in gen_batches(X.shape[0], N_ROWS):
            batch = Batch(to_tensor(X, part, dtype=dtype, device="cpu"))
            local[part.start], allocation, shares = rows.updated(
                batch, local.get(part.start), max_steps=N_STEPS, tol=0.0
            )
            scale = torch.from_numpy(weights[part])
            allocation.add_feature_counts(new, shares, scale)
        counts = new
    return counts.double().numpy()


def in_slices(x, numbers, n_slices):
    """Rows whose features are moved to the slice of each row, as a wider CSR batch.

    ``x`` is CSR, ``numbers`` the slice of each row, an integer tensor. Feature v of
    slice t becomes t * n_features + v, so that topics that differ from slice to slice
    are topics in groups, of n_features features each.
    """
    n_rows, n_features = x.shape
    columns = x.col_indices() + n_features * numbers[row_indices(x)]
    return csr(
        x.crow_indices(),
        columns.to(x.col_indices().dtype),
        x.values(),
        (n_rows, n_slices * n_features),
    )
