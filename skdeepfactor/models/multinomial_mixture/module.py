r"""Mixture of multinomials: one component for each row, inferred in three ways.

The story of a row n with :math:`N_n` words:

.. math::
    \pi \sim \text{Dirichlet}(\alpha), \qquad
    \phi_k \sim \text{Dirichlet}(\eta), \qquad
    z_n \sim \text{Categorical}(\pi), \qquad
    x_n \sim \text{Multinomial}(N_n, \phi_{z_n}),

taken as words in order, so without the multinomial coefficient: :math:`p(x_n | z_n = k)
= \prod_v \phi_{kv}^{x_{nv}}`, in which x may be fractions. Two sums over rows are
learnt, of responsibilities :math:`r_{nk}` of components,

.. math::
    L_{kv} = \sum_n r_{nk} x_{nv}, \qquad m_k = \sum_n r_{nk}, \qquad
    r_n = \text{softmax}(S_n),

with :math:`T_k = \sum_v L_{kv}`, M rows and V features. A pass takes the sums,
finds r of all rows, and replaces the sums. The three kinds of inference differ in S.

*Mean field.* The posteriors are :math:`q(\phi_k) = \text{Dirichlet}(\eta + L_k)`,
:math:`q(\pi) = \text{Dirichlet}(\alpha + m)` and one of z for each row:

.. math::
    S_{nk} &= \psi(\alpha + m_k) - \psi(K \alpha + M)
        + \sum_v x_{nv} [\psi(\eta + L_{kv}) - \psi(V \eta + T_k)] \\
    B &= \sum_n \Big[ \sum_k r_{nk} S_{nk} - \sum_k r_{nk} \log r_{nk} \Big]
        - KL(q(\pi) \| p(\pi)) - \sum_k KL(q(\phi_k) \| p(\phi_k)).

At these r the rows' part is :math:`\sum_n \log \sum_k \exp S_{nk}`, which is the score
of a row, and no pass lowers B.

*EM.* Point estimates in the place of posteriors: the means of the same Dirichlet
distributions, which are the modes of a posterior under the priors
:math:`\text{Dirichlet}(1 + \alpha)` and :math:`\text{Dirichlet}(1 + \eta)`, so that
both are pseudo-counts:

.. math::
    S_{nk} = \log \pi_k + \sum_v x_{nv} \log \phi_{kv}, \qquad
    B = \sum_n \log \sum_k e^{S_{nk}} + \alpha \sum_k \log \pi_k
        + \eta \sum_{kv} \log \phi_{kv}.

B, a penalised log likelihood, does not fall either. A row's score is its log
likelihood.

*Collapsed.* Weights and components are integrated out, and each row is judged by the
sums of the other rows:

.. math::
    S_{nk} = \log \frac{\alpha + m_k}{K \alpha + M}
        + \sum_v \log \frac{\Gamma(\eta + L_{kv} + x_{nv})}{\Gamma(\eta + L_{kv})}
        - \log \frac{\Gamma(V \eta + T_k + N_n)}{\Gamma(V \eta + T_k)},

where :math:`L_{kv} - o_{nk} x_{nv}`, :math:`T_k - o_{nk} N_n` and
:math:`m_k - o_{nk}` take the place of L, T and m for rows in training, with
:math:`o_{nk}` the responsibility of a pass ago. These are the conditional
probabilities of the collapsed Gibbs sampler GSDMM, with expected counts in the place
of drawn ones. For whole counts the ratios are products,
:math:`\prod_{j < x} (a + j)`; for fractions they remain the expectation of
:math:`\phi^x` under the Dirichlet distribution, so that ``x log phi`` is integrated out
all the same. For new rows (o = 0) :math:`\log \sum_k \exp S_{nk}` is the exact
logarithm of the predictive density under q. B is the mean-field bound at these r; it
is a bound, but these updates do not climb it. Two more rules:

- A component with less than half a row counts as empty, and its sums as 0. All empty
  ones are equal, so that the work is proportional to the number of the others. A row
  whose own share is left out of a component that has nothing else finds it empty too,
  and spreads over all of them.
- Logits are divided by a temperature that falls to 1 over the first passes. Without
  it, a start with many more components than short texts need would keep too many.

Nigam, McCallum, Thrun and Mitchell (2000), Text classification from labeled and
unlabeled documents using EM; Yin and Wang (2014), A Dirichlet multinomial mixture
model-based approach for short text clustering.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.distributions import OneHotCategorical

from skdeepfactor._math.gammas import dirichlet_kl
from skdeepfactor._math.module import FactorModule, in_updates
from skdeepfactor._math.ops import (
    csr,
    feature_sums,
    map_values,
    nonzero,
    product,
    scaled,
    slices,
)

# Components with fewer rows than this count as empty where they may be.
HELD = 0.5

# Ratios of gamma functions at whole counts up to this are products, of which one
# logarithm is taken: several times faster than two of the gamma function, and exact
# where these would cancel.
PRODUCT_LENGTH = 8

# Shares that move no argument of a logarithm by more than this, relative to the
# smallest there may be, are not left out.
NEGLIGIBLE_SHARE = 1e-3

# Logits so far below a row's largest are as good as zero. Denormal numbers, which they
# would otherwise become, slow down each product.
LEAST_LOGIT = -80.0

# Numbers, in float64, that are worked on at once.
TABLE, ENTRIES = 2**22, 2**20


class Logits(NamedTuple):
    """``values`` (n_rows, n_columns) plus ``offsets`` (n_rows,), which are float64.

    Float32 then rounds only differences between components, however long a row is.
    """

    values: torch.Tensor
    offsets: torch.Tensor

    def plus(self, terms):
        """Add float64 terms to each column; the values are overwritten."""
        largest = terms.max()
        values = self.values.add_((terms - largest).to(self.values.dtype))
        return Logits(values, self.offsets + largest)

    def divided(self, divisor):
        """Divide by a number; the values are overwritten."""
        if divisor == 1:
            return self
        return Logits(self.values.div_(divisor), self.offsets / divisor)

    def normalized(self):
        """Softmax and logsumexp, float64; the values are overwritten."""
        largest = self.values.amax(1, keepdim=True)
        shares = self.values.sub_(largest).clamp_min_(LEAST_LOGIT).exp_()
        total = shares.sum(1, keepdim=True)
        shares /= total
        return shares, self.offsets + (largest.double() + total.double().log())[:, 0]


class Pairs(NamedTuple):
    """Rows as sums over the different pairs of a feature and a count, smallest first.

    ``indicators`` is CSR (n_rows, n_pairs), of ones; pair i is the count ``counts[i]``
    of feature ``features[i]``.
    """

    indicators: torch.Tensor
    features: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, batch):
        """Pairs of a batch."""
        x, values, n_features = batch.counts, batch.entries.values, batch.x.shape[1]
        levels, codes = None, values.long()
        if not bool(((codes == values) & (codes < 2**31)).all()):
            levels, codes = torch.unique(values, return_inverse=True)
        keys, index = distinct(codes * n_features + x.col_indices())
        counts = keys // n_features
        return cls(
            csr(
                x.crow_indices(),
                index.to(x.col_indices().dtype),
                torch.ones_like(x.values()),
                (len(batch), len(keys)),
            ),
            keys % n_features,
            counts.double() if levels is None else levels[counts],
        )


def distinct(keys):
    """Distinct values of non-negative integers, and the place of each entry's value."""
    size = int(keys.max()) + 1 if len(keys) else 0
    if size > 8 * len(keys):
        return torch.unique(keys, return_inverse=True)
    # Faster than to sort them.
    is_there = torch.zeros(size, dtype=torch.bool, device=keys.device)
    is_there[keys] = True
    return is_there.nonzero()[:, 0], (is_there.cumsum(0) - 1)[keys]


def log_rising(a, x):
    """Logarithm of Gamma(a + x) / Gamma(a)."""
    return torch.lgamma(a + x) - torch.lgamma(a)


def log_rising_rows(a, x):
    """As ``log_rising``, for a matrix ``a``, which is overwritten, and one x a row.

    x must be in increasing order.
    """
    counts = torch.arange(1, PRODUCT_LENGTH + 1, device=x.device).to(x)
    starts, ends = (torch.searchsorted(x, counts, right=last) for last in (False, True))
    # Rows of each count up to the longest product, between those of other numbers.
    cuts = [0, *torch.stack([starts, ends], 1).flatten().tolist(), len(x)]
    for place, (start, stop) in enumerate(itertools.pairwise(cuts)):
        part = a[start:stop]
        if place % 2 == 0:
            part.copy_(log_rising(part, x[start:stop, None]))
            continue
        rising = part.clone()
        for j in range(1, (place + 1) // 2):
            rising *= part + j
        torch.log(rising, out=part)
    return a


class CategoricalMultinomial(FactorModule):
    """Words of a row from the one component that it has.

    Collapsed inference remembers the responsibilities of rows. Its components that are
    empty share a column in the arrays that are made of the sums; all others have one.
    """

    is_given_total = True

    def __init__(
        self, alpha, eta, *, shape, inference, temperature=1.0, annealed_share=0.0
    ):
        super().__init__()
        n_components, self.n_features = shape
        self.alpha, self.eta = alpha, eta
        self.is_collapsed, self.is_point = inference == "collapsed", inference == "em"
        self.logarithm = torch.log if self.is_point else torch.digamma
        self.temperature, self.annealed_share = temperature, annealed_share
        self.n_annealed = 0.0
        self.n_components = n_components
        self.local_width = n_components if self.is_collapsed else 0
        self.topic_counts = nn.Parameter(torch.empty(shape))
        self.component_rows = nn.Parameter(torch.empty(n_components))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    @property
    def work_width(self):
        # Most arrays are as wide as there are columns, some as there are components.
        return max(len(self._sizes), self.n_components // 4)

    def begin(self, budget):
        super().begin(budget)
        # A fitted model is not melted again.
        is_new = int(self.n_updates) == 0
        self.n_annealed = (
            in_updates(self.annealed_share, self.n_total) if is_new else 0.0
        )

    def posterior(self, batch, start=None):
        own = None
        if start is not None and self.training:
            own = self._copies(start, batch.weight)
        shares, _ = self._inferred(batch, own)
        return self.recalled(batch, self._by_component(shares))

    def recalled(self, batch, local):
        return OneHotCategorical(local, validate_args=False)

    def elbo(self, batch, q=None):
        if q is None:
            return self._inferred(batch)[1]
        # All empty components share one column, their sum.
        shares = q.probs.new_zeros(len(batch), len(self._sizes))
        return self._bounds(batch, shares.index_add_(1, self._column, q.probs))

    def row_shares(self, batch):
        """Responsibilities in rows that have words, (n_rows, n_components)."""
        has_words = (batch.totals > 0)[:, None]
        return self.posterior(batch).probs * has_words

    def word_shares(self, batch):
        """Responsibilities of each word, which its row has, (n_entries, k)."""
        return self.posterior(batch).probs[nonzero(batch.x)[0]]

    def decode(self, z):
        return z @ self.components()

    def components(self):
        totals = self._totals[self._column, None].to(self._counts.dtype)
        return (self._counts.T[self._column] + self.eta).div_(totals)

    def weights(self):
        """Posterior mean, or estimate, of the shares of the components, float64."""
        rows = self._rows[self._column] + self.alpha
        return rows / rows.sum()

    def sample(self, totals, generator):
        weights = self.weights().cpu().numpy()
        chosen = generator.choice(len(weights), size=len(totals), p=weights)
        p = self.components().cpu().numpy().astype(np.float64)
        p /= p.sum(1, keepdims=True)
        return generator.multinomial(totals, p[chosen])

    def global_kl(self):
        table, largest = self._log_components()
        if self.is_point:
            log_phi = table.sum(dtype=torch.float64) + table.shape[1] * largest.sum()
            return -(self.eta * log_phi + self.alpha * self._mean_log_weights().sum())
        kl = dirichlet_kl(
            self._rows[self._column] + self.alpha,
            self._mean_log_weights()[self._column],
            self.alpha,
        )
        # The posterior of empty components is the prior.
        for columns in slices(len(self._held), self.n_features):
            concentration = self._counts[:, columns].T.double() + self.eta
            mean_log = table[:, columns].T + largest
            kl = kl + dirichlet_kl(concentration, mean_log, self.eta).sum()
        return kl

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        # How often rows count.
        weight = batch.weight * n_samples
        own = None if start is None else self._copies(start, weight)
        shares, bounds = self._inferred(batch, own, self._divisor())
        if self.is_collapsed:
            bounds = self._bounds(batch, shares)
        counted = self._each(shares)
        if isinstance(weight, torch.Tensor):
            counted, weight = scaled(counted, weight), 1.0
        sums = feature_sums(batch.x, counted).T
        rows = counted.sum(0)
        if self.has_empty:
            sums, rows = sums[self._column], rows[self._column]
        self.gradient(self.topic_counts).sub_(sums, alpha=weight)
        self.gradient(self.component_rows).sub_(rows, alpha=weight)
        return bounds, self._by_component(shares) if self.is_collapsed else None

    @torch.no_grad()
    def after_step(self):
        self.n_updates += 1
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        counts, rows = self.topic_counts.detach(), self.component_rows.detach()
        is_held = torch.ones_like(rows, dtype=torch.bool)
        if self.is_collapsed:
            is_held = rows >= HELD
        self._held = is_held.nonzero()[:, 0]
        n_held, n_empty = len(self._held), len(rows) - len(self._held)
        self.has_empty = n_empty > 0
        # The column of each component, and the number of components in each column.
        self._column = torch.where(is_held, is_held.cumsum(0) - 1, n_held)
        self._sizes = torch.ones(n_held, dtype=torch.float64, device=rows.device)
        if self.has_empty:
            self._sizes = nn.functional.pad(self._sizes, (0, 1), value=n_empty)
        if self.has_empty:
            counts, rows = counts[self._held], rows[self._held]
        self._counts = counts.new_zeros(self.n_features, len(self._sizes))
        self._counts[:, :n_held] = counts.T
        self._rows = torch.zeros_like(self._sizes)
        self._rows[:n_held] = rows.double()
        self._totals = self._counts.sum(0, dtype=torch.float64)
        self._totals += self.n_features * self.eta
        self._table = None

    def _divisor(self):
        """The temperature of a step of training."""
        if self.n_annealed == 0:
            return 1.0
        share = min(1.0, int(self.n_updates) / self.n_annealed)
        return self.temperature + (1 - self.temperature) * share

    def _copies(self, start, weight):
        """Responsibilities of one copy of each row in the components that hold rows."""
        if isinstance(weight, torch.Tensor):
            weight = weight.clamp_max(1)
        else:
            weight = min(1.0, weight)
        return scaled(start[:, self._held], weight)

    def _each(self, shares):
        """Responsibilities of one component of each column, which has their sum."""
        return shares / self._sizes.to(shares.dtype) if self.has_empty else shares

    def _by_component(self, shares):
        """Responsibilities of all components, (n_rows, n_components)."""
        return self._each(shares)[:, self._column] if self.has_empty else shares

    def _inferred(self, batch, own=None, divisor=1.0):
        """Responsibilities of the columns, (n_rows, n_columns), and scores of rows."""
        if not self.is_collapsed:
            return self._mean_logits(batch).normalized()
        pairs = Pairs.of(batch)
        if len(pairs.counts) * len(self._sizes) > TABLE and len(batch) > 1:
            # Fractions hardly ever agree, so that each entry has a pair of its own.
            halves = torch.arange(len(batch), device=batch.x.device).tensor_split(2)
            parts = [
                self._inferred(
                    batch.take(rows), None if own is None else own[rows], divisor
                )
                for rows in halves
            ]
            shares, scores = zip(*parts, strict=True)
            return torch.cat(shares), torch.cat(scores)
        logits = self._collapsed_logits(batch, pairs)
        if own is not None:
            self._leave_out(logits, batch, own)
        logits = logits.divided(divisor).plus(self._sizes.log())
        return logits.normalized()

    def _bounds(self, batch, shares):
        """The rows' part of the bound at responsibilities of the columns."""
        values, offsets = self._mean_logits(batch)
        entropies = torch.special.entr(shares).sum(1, dtype=torch.float64)
        # Entropy of sharing among the empty components.
        entropies += shares.double() @ self._sizes.log()
        return (shares * values).sum(1, dtype=torch.float64) + offsets + entropies

    def _mean_logits(self, batch):
        """S by expected logarithms, or by those of estimates."""
        table, largest = self._log_components()
        offsets = map_values(torch.Tensor.double, batch.x) @ largest
        logits = Logits(product(batch.x, table), offsets)
        return logits.plus(self._mean_log_weights())

    def _mean_log_weights(self):
        total = self._sizes @ (self._rows + self.alpha)
        return self.logarithm(self._rows + self.alpha) - self.logarithm(total)

    def _log_components(self):
        """E[log phi] or log phi, (n_features, n_columns), less the largest of each row.

        And the largest, float64.
        """
        if self._table is None:
            table = torch.empty_like(self._counts)
            largest = self._totals.new_empty(len(table))
            log_totals = self.logarithm(self._totals)
            for features in slices(*table.shape):
                part = self.logarithm(self._counts[features].double() + self.eta)
                part -= log_totals
                largest[features] = part.amax(1)
                table[features] = (part - largest[features, None]).to(table.dtype)
            self._table = table, largest
        return self._table

    def _collapsed_logits(self, batch, pairs):
        """S with nothing of the rows left out; each column is one component."""
        dtype = self._counts.dtype
        table = self._counts[pairs.features].double().add_(self.eta)
        table = log_rising_rows(table, pairs.counts)
        largest = table.amax(1)
        table = (table - largest[:, None]).to(dtype)
        in_double = map_values(torch.Tensor.double, pairs.indicators)
        offsets = in_double @ largest
        totals, row = torch.unique(batch.totals, return_inverse=True)
        of_totals = -log_rising(self._totals, totals[:, None])
        largest = of_totals.amax(1)
        of_totals = (of_totals - largest[:, None]).to(dtype)
        values = (pairs.indicators @ table).add_(of_totals[row])
        return Logits(values, offsets + largest[row]).plus(self._log_weights())

    def _log_weights(self):
        weights = self._rows + self.alpha
        return (weights / (self._sizes @ weights)).log()

    def _leave_out(self, logits, batch, own):
        """Write the logits without the rows' own shares, (n_rows, n_held)."""
        threshold = NEGLIGIBLE_SHARE * min(self.alpha, self.eta)
        rows, columns = (own > threshold).nonzero(as_tuple=True)
        x, entries, n_columns = batch.counts, batch.entries, len(self._sizes)
        starts = x.crow_indices().long()
        lengths = torch.diff(starts)[rows]
        counts, log_total = (
            self._counts.view(-1),
            self._sizes @ (self._rows + self.alpha),
        )
        # Pairs of a row and a component, as many at a time as have so many entries.
        steps = torch.arange(1, int(lengths.sum()) // ENTRIES + 1, device=rows.device)
        cuts = torch.searchsorted(lengths.cumsum(0), steps * ENTRIES).tolist()
        bounds = sorted({0, *cuts, len(rows)})
        for start, stop in itertools.pairwise(bounds):
            n, k, size = rows[start:stop], columns[start:stop], lengths[start:stop]
            share, totals = own[n, k].double(), batch.totals[n]
            pair = torch.repeat_interleave(size)
            ends = size.cumsum(0)
            entry = torch.arange(len(pair), device=n.device)
            entry += (starts[n] - ends + size)[pair]
            count = entries.values[entry]
            place = entries.columns[entry].long() * n_columns + k[pair]
            left = counts[place].double() - share[pair] * count
            left = left.clamp_min_(0).add_(self.eta)
            terms = left.log()
            several = (count != 1).nonzero()[:, 0]
            terms[several] = log_rising(left[several], count[several])
            offsets = nn.functional.pad(ends, (1, 0))
            new = torch.segment_reduce(terms, "sum", offsets=offsets, initial=0.0)
            left = self._totals[k] - share * totals
            new -= log_rising(left.clamp_min_(self.n_features * self.eta), totals)
            left = (self._rows[k] - share).clamp_min_(0) + self.alpha
            new += (left / log_total).log()
            logits.values[n, k] = (new - logits.offsets[n]).to(logits.values.dtype)
