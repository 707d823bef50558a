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

import dataclasses
import itertools
import math
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from torch import nn
from torch.distributions import OneHotCategorical

from skdeepfactor._estimator.conjugate import ClosedFormFactorModel
from skdeepfactor._estimator.validation import checked_weights
from skdeepfactor._input import received
from skdeepfactor._math.gammas import dirichlet_kl
from skdeepfactor._math.module import FactorModule, in_updates
from skdeepfactor._math.ops import (
    csr,
    feature_sums,
    map_values,
    product,
    scaled,
    slices,
)
from skdeepfactor._math.starts import check_init, initial_counts

# Components with fewer rows than this count as empty where they may be.
HELD = 0.5

# Passes over which the temperature falls to 1; at most half of all.
ANNEALED_PASSES = 15

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
    """Rows as sums over the different pairs of a feature and a count.

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
        if not (bool((codes == values).all()) and bool((codes < 2**31).all())):
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
    """As ``log_rising``, for a matrix ``a``, which is overwritten, and one x a row."""
    is_left = torch.ones_like(x, dtype=torch.bool)
    for count in range(1, PRODUCT_LENGTH + 1):
        rows = (x == count).nonzero()[:, 0]
        if len(rows):
            part = a[rows]
            rising = part.clone()
            for j in range(1, count):
                rising *= part + j
            a[rows] = rising.log_()
            is_left[rows] = False
    rows = is_left.nonzero()[:, 0]
    if len(rows):
        a[rows] = log_rising(a[rows], x[rows, None])
    return a


class CategoricalMultinomial(FactorModule):
    """Words of a row from the one component that it has.

    Collapsed inference remembers the responsibilities of rows. Its components that are
    empty share a column in the arrays that are made of the sums; all others have one.
    """

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
        return OneHotCategorical(self._by_component(shares), validate_args=False)

    def elbo(self, batch, q=None):
        if q is None:
            return self._inferred(batch)[1]
        # All empty components share one column, their sum.
        shares = q.probs.new_zeros(len(batch), len(self._sizes))
        return self._bounds(batch, shares.index_add_(1, self._column, q.probs))

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


def _has_likelihood(estimator):
    """Whether there is a maximised likelihood; the error says why not."""
    if estimator.inference != "em":
        raise AttributeError(
            "bic and aic are defined for point estimates: use inference='em', got "
            f"inference={estimator.inference!r}. With posteriors, choose the "
            "number of components by score."
        )
    return True


class MultinomialMixture(ClosedFormFactorModel):
    r"""Mixture of multinomials: clusters of count data, one component for each row.

    Row n is N_n words from the topic of one component, z_n: ``z_n ~ Categorical(pi)``,
    ``x_n ~ Multinomial(N_n, phi[z_n])``, with priors ``pi ~
    Dirichlet(weight_concentration)`` and ``phi_k ~ Dirichlet(topic_word_prior)``.
    :class:`LatentDirichletAllocation` mixes topics within a row; here each row has one,
    which suits short texts such as titles, queries and tweets. With
    ``inference="collapsed"`` ``n_components`` is an upper bound, and components that
    short texts do not need end up empty. Responsibilities are exact given the
    components, and take one step. For long rows they are close to 0 or 1 and
    overconfident, since the model takes words to be independent given the component.

    Parameters
    ----------
    n_components : int, default=10
        Number of components K; with ``inference="collapsed"``, at most.
    weight_concentration : float, default=0.1
        Concentration alpha of the Dirichlet over the components, as many rows added to
        each.
    topic_word_prior : float, default=0.1
        Concentration eta of the Dirichlet over a component's words, as many words
        added to each. Rows with few words in common are more willing to share a
        component where it is larger.
    inference : {"collapsed", "mean_field", "em"}, default="collapsed"
        How components are inferred. ``"collapsed"``: integrated out, each row judged by
        the others, as in the Gibbs sampler GSDMM but with expected counts. It finds the
        best clusters and empties components, but the bound may fall. ``"mean_field"``:
        variational Bayes, which climbs the bound. ``"em"``: point estimates, with the
        priors as pseudo-counts; the fastest, with ``bic`` and ``aic``.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of shape (n_components, n_features), up to scale. With
        ``inference="collapsed"`` at most half as many components as there are rows
        start with anything, unless an array is given.
    temperature : float, default=2.0
        Of ``inference="collapsed"`` only: by what the logits of responsibilities are
        divided in the first pass; 1 for nothing. It falls to 1 over 15 passes, or half
        of ``max_iter`` if that is less. On short texts soft first passes found fewer
        components, nearer to the true number.
    max_iter : int, default=50
        Passes over the data.
    tol : float, default=1e-4
        Relative gain of the bound, in a pass, below which training ends.
    batch_size : int, default=None
        Rows in a stochastic step; None for full steps on all rows, which find better
        clusters: in stochastic ones nothing of a row is left out.
    learning_offset : float, default=10.0
        Slows the first stochastic steps: step t has size
        (1 + learning_offset + t) ** -learning_decay.
    learning_decay : float, default=0.7
        How fast stochastic steps shrink, in (0.5, 1].
    validation_fraction : float, default=None
        Fraction of the rows held out to stop early, when their mean score has not
        risen for ``n_iter_no_change`` passes; None for no early stopping.
    n_iter_no_change : int, default=3
        Passes without a better validation score that end training; also the passes
        over which the bound of stochastic steps must rise by ``tol``.
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
        Seed of the start and of the order of stochastic steps.
    verbose : int, default=0
        Whether to show the bound after each pass.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Distribution over words of each component: the posterior mean, or the estimate
        of ``"em"``. Rows sum to 1; those of empty components are uniform.
    weights_ : ndarray of shape (n_components,)
        Shares of the components, which sum to 1: the posterior mean, or the estimate.
    n_active_components_ : int
        Number of components with at least half a row.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of weights and components
        included; for ``"em"``, the log likelihood plus the log priors without their
        constants.
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with early stopping, ``validation_score``,
        for each pass.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int or float
        Number of rows that training has seen, or the sum of their weights if given.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the data had names.

    See Also
    --------
    LatentDirichletAllocation : Several topics in each row.
    sklearn.mixture.GaussianMixture : Mixtures of real numbers.

    References
    ----------
    Nigam, K., McCallum, A., Thrun, S. and Mitchell, T. (2000). Text classification
    from labeled and unlabeled documents using EM. Machine Learning 39.

    Yin, J. and Wang, J. (2014). A Dirichlet multinomial mixture model-based approach
    for short text clustering. KDD 20.

    Examples
    --------
    >>> from skdeepfactor import MultinomialMixture
    >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
    >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
    >>> labels = mixture.predict(X)
    >>> bool(labels[0] == labels[2] != labels[1] == labels[3])
    True
    >>> mixture.weights_.round(2).tolist()
    [0.5, 0.5]
    """

    _parameter_constraints: ClassVar[dict] = {
        **ClosedFormFactorModel._parameter_constraints,
        "weight_concentration": [Interval(Real, 0, None, closed="neither")],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither")],
        "inference": [StrOptions({"collapsed", "mean_field", "em"})],
        "temperature": [Interval(Real, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 10,
        *,
        weight_concentration: float = 0.1,
        topic_word_prior: float = 0.1,
        inference: str = "collapsed",
        init: str | ArrayLike = "kmeans",
        temperature: float = 2.0,
        max_iter: int = 50,
        tol: float = 1e-4,
        batch_size: int | None = None,
        learning_offset: float = 10.0,
        learning_decay: float = 0.7,
        validation_fraction: float | None = None,
        n_iter_no_change: int = 3,
        n_init: int = 1,
        n_jobs: int | None = None,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.weight_concentration = weight_concentration
        self.topic_word_prior = topic_word_prior
        self.inference = inference
        self.init = init
        self.temperature = temperature
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_offset = learning_offset
        self.learning_decay = learning_decay
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_init = n_init
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X: Any) -> np.ndarray:
        """Most probable component of each row.

        A row without words has the component of the largest weight.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), int64
            Indices of components; the first of those that are equally probable.

        See Also
        --------
        transform : The probability of each component.
        fit_predict : Fit, and predict the components of the same rows.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
        >>> mixture.predict([[1, 1, 0, 0]]).shape
        (1,)
        """
        return self._infer(
            X, lambda module, batch: module.posterior(batch).probs.argmax(1)
        )

    def fit_predict(
        self, X: Any, y: Any = None, *, sample_weight: ArrayLike | None = None
    ) -> np.ndarray:
        """Fit the model to the rows of X, and give the component of each.

        The rows are treated like new ones: with ``inference="collapsed"``, the counts
        of a row are not removed from its component.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
            Counts, or other non-negative numbers.
        y : None
            Ignored; here for scikit-learn's API.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        ndarray of shape (n_samples,), int64
            Indices of components, equal to ``fit(X).predict(X)``.

        See Also
        --------
        predict : Components of other rows.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> labels = MultinomialMixture(2, random_state=0).fit_predict(X)
        >>> bool(labels[0] == labels[2] != labels[1] == labels[3])
        True
        """
        return self.fit(X, y, sample_weight=sample_weight).predict(X)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log predictive density of each row in nats: exact except for "mean_field".

        The density is that of words in order, given their number. With
        ``inference="collapsed"``, weights and components are integrated out under their
        posterior; with ``"em"``, they are estimates. With ``"mean_field"``, the value
        is a lower bound on E_q(W)[log p(x | W)].

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Log densities, or bounds. The value of a row depends on that row alone.

        See Also
        --------
        score : The mean over rows.

        Examples
        --------
        >>> import numpy as np
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
        >>> one_word = np.eye(4)
        >>> np.exp(mixture.score_samples(one_word)).sum().round(6).item()
        1.0
        """
        return super().score_samples(X)

    @available_if(_has_likelihood)
    def bic(self, X: Any, *, sample_weight: ArrayLike | None = None) -> float:
        """Bayesian information criterion of rows; smaller is better.

        Available for ``inference="em"``. Each of the K (V - 1) + K - 1 parameters costs
        log n.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            -2 log likelihood + n_parameters log(n_samples).

        See Also
        --------
        aic : With a constant cost per parameter.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, inference="em", random_state=0).fit(X)
        >>> bool(mixture.bic(X) > mixture.aic(X))
        False
        """
        weights, deviance = self._deviance(X, sample_weight)
        return deviance + self._n_parameters * math.log(weights.sum())

    @available_if(_has_likelihood)
    def aic(self, X: Any, *, sample_weight: ArrayLike | None = None) -> float:
        """Akaike information criterion of rows; smaller is better.

        Available for ``inference="em"``. Each of the K (V - 1) + K - 1 parameters costs
        2.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            -2 log likelihood + 2 n_parameters.

        See Also
        --------
        bic : With a cost that rises with the number of rows.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, inference="em", random_state=0).fit(X)
        >>> bool(mixture.aic(X) > -2 * mixture.score_samples(X).sum())
        True
        """
        return self._deviance(X, sample_weight)[1] + 2 * self._n_parameters

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw rows from the model.

        A component is drawn for each row, and words from its topic.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each; by default drawn from the lengths of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts, from the posterior mean, or the estimate, of weights and components.

        See Also
        --------
        inverse_transform : Expected shares of words given responsibilities.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
        >>> drawn = mixture.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def __sklearn_tags__(self):
        """Tags for scikit-learn, including those of its own mixtures."""
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags

    @property
    def _n_parameters(self):
        n_components, n_features = self.components_.shape
        return n_components * (n_features - 1) + n_components - 1

    def _deviance(self, X, sample_weight):
        """Weights of rows, and -2 times their log likelihood, a float."""
        scores = self.score_samples(X)
        weights = checked_weights(sample_weight, len(scores))
        return weights, -2 * float(weights @ received(scores))

    def _n_annealed(self, n_passes):
        """Passes until the temperature is 1."""
        if self.inference != "collapsed" or self.temperature == 1 or n_passes is None:
            return 0
        return min(ANNEALED_PASSES, n_passes // 2)

    def _build(self, sizes):
        return CategoricalMultinomial(
            self.weight_concentration,
            self.topic_word_prior,
            shape=(self.n_components, sizes["n_features"]),
            inference=self.inference,
            temperature=self.temperature,
            annealed_share=self._n_annealed(self.max_iter) / self.max_iter,
        )

    def _initialize(self, module, start):
        X, weights, _, random_state = start.distinct()
        init = check_init(self.init, module.topic_counts.shape)
        n_rows, n_started = weights.sum(), self.n_components
        if self.inference == "collapsed" and isinstance(init, str):
            # A row that starts alone finds its component empty.
            n_started = min(n_started, math.ceil(n_rows / 2))
        counts = initial_counts(X, n_started, init, random_state, weights)
        module.topic_counts.data.zero_()[:n_started] = torch.from_numpy(counts)
        rows = max(n_rows / n_started, HELD)
        module.component_rows.data.zero_()[:n_started] = rows

    def _plan(self, module, budget):
        # A fitted model starts at its temperature.
        is_new = int(module.n_updates) == 0
        return dataclasses.replace(
            super()._plan(module, budget),
            n_warmup=self._n_annealed(budget.n_passes) if is_new else 0,
            # Stochastic steps have forgotten a row when it comes back.
            remembers=not budget.is_stochastic,
        )

    def _fitted(self, module):
        return {
            "weights_": module.weights().cpu().numpy(),
            "n_active_components_": int((module.component_rows >= HELD).sum()),
        }
