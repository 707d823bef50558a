r"""Sparse gamma deep exponential families: layers of gamma factors under counts.

Rows n, layers l = 1 (at the data) to L (top), layer l with :math:`K_l` units:

.. math::
    z_{nL,k} \sim \text{Gamma}(a_L, b_L), \qquad
    z_{nl,k} \sim \text{Gamma}\big(a_l, a_l / \mu_{nlk}\big), \quad
    \mu_{nl} = z_{n,l+1} W_l, \qquad
    x_{nv} \sim \text{Poisson}\big((z_{n1} W_0)_v\big),

with weights :math:`W_{l,jk} \sim \text{Gamma}(c, d)`. Shapes far below 1 make factors
and weights sparse. Every upper unit is a group of units below it.

**Posterior.** Gamma for :math:`z_1` and :math:`W_0`; for all others the generalized
inverse Gaussian :math:`q(y) \propto y^{g-1} e^{-\rho y - \tau / y}` with g the shape of
its prior, which has E[1/y] where a gamma of small shape has none. The updates of the
layers above the first, and those with ``link="rate"``,

.. math::
    z_{nl,k} \sim \text{Gamma}(a_l, \mu_{nlk}),

are derived in ``layers.py``; those of the first layer and its weights, for counts, for
binary data, P(x = 1) = 1 - exp(-(z W)_v), and for real numbers, x ~ N((z W)_v,
sigma^2), in ``emissions.py``. All of them climb one bound, in closed form, which
``score`` is made of.

**Spikes.** With ``weight_prior="spike_slab"`` the prior of :math:`W_0` is a mixture of
two gammas, :math:`\pi\, \text{Gamma}(c, d) + (1 - \pi)\, \text{Gamma}(1, d')`, the
second a narrow one, and its posterior such a mixture too; see ``emissions.py``.

**Gradients.** Of the same models, with other families of posteriors, and with networks
that give them, are in ``pathwise.py``.

**Expansion.** For counts and binary data that bound lies far below the evidence where
a count has many sources. ``solver="expansion"`` takes the likelihood to second order
around the means instead, and multiplies means by the ratio of the two sides of the
condition for an optimum, to a power above 1. (For real numbers the second order is all
there is, and the bound the same.) The logarithms of all means are then extrapolated
from the last passes, with shapes as weights, and the extrapolation taken back if the
estimate has fallen after the next one. It is no bound: what is reported as
``lower_bound_`` is a Monte Carlo estimate of the evidence lower bound itself.

Ranganath, Tang, Charlin and Blei (2015), Deep exponential families; Naesseth, Ruiz,
Linderman and Blei (2017), Reparameterization gradients through acceptance-rejection
sampling algorithms, for the setting; Hoffman, Blei and Cook (2010), Bayesian
nonparametric matrix factorization for recorded music, for the generalized inverse
Gaussian.
"""

import itertools
import math
import warnings
from dataclasses import replace
from numbers import Integral, Real
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.sparse
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.distributions import Gamma

from skdeepfactor._estimator.conjugate import ConjugateFactorModel
from skdeepfactor._estimator.domains import Binary, Counts, RealNumbers
from skdeepfactor._estimator.validation import check_layers
from skdeepfactor._math.gammas import gamma_draws, gamma_kl
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import scaled, split_double
from skdeepfactor._math.row_iteration import MAX_STEPS, fixed_point
from skdeepfactor._math.starts import (
    check_init,
    column_moments,
    column_totals,
    imputed,
    initial_counts,
    initial_parts,
    n_cold_passes,
    n_starts,
)
from skdeepfactor._training.guard import Guard
from skdeepfactor._training.optimizers import AnnealedAdam
from skdeepfactor._training.plan import TrainingPlan
from skdeepfactor._training.run import Interrupted
from skdeepfactor.models.sparse_gamma_def.emissions import (
    FLOORS,
    AllocatedCounts,
    ExpandedCounts,
    Gaussian,
    SpikedCounts,
    mean_log,
)
from skdeepfactor.models.sparse_gamma_def.gradient import FAMILIES, PathwiseBelief
from skdeepfactor.models.sparse_gamma_def.inverse_gaussians import LARGEST_ORDER
from skdeepfactor.models.sparse_gamma_def.links import LINKS

# Every so many steps one is not over-relaxed, against oscillations.
PLAIN_EVERY = 10

# Draws for the bound of the training data, and how many are made at a time.
N_DRAWS = 50
DRAWS_AT_ONCE = 10
# And how many weights of all of them at most.
DRAWN_AT_ONCE = 2**22

# Passes of closed forms before gradients.
N_CLOSED = 100


class Factors(NamedTuple):
    """Posteriors of a batch's factors: mean and shape of layer 1, and upper layers."""

    mean: torch.Tensor
    shape: torch.Tensor
    uppers: list


class BottomPosterior(Gamma):
    """The posterior of layer 1, which knows those of the layers above."""

    def __init__(self, factors):
        rate = factors.shape / factors.mean
        super().__init__(factors.shape, rate, validate_args=False)
        self.factors = factors


class GammaBelief(FactorModule):
    """Data of a row from layers of gamma factors.

    Local parameters of a row are the means and shapes of layer 1, and two parameters of
    each unit above.
    """

    def __init__(
        self,
        layer_sizes,
        *,
        emission,
        link,
        layer_shapes,
        top_rate,
        weight_rate,
        over_relaxation,
        acceleration,
        inner_iter,
        tol,
    ):
        super().__init__()
        self.layer_sizes, self.layer_shapes = layer_sizes, layer_shapes
        self.top_rate, self.weight_rate = top_rate, weight_rate
        self.emission, self.link = emission, link
        self.over_relaxation, self.acceleration = over_relaxation, acceleration
        self.may_miss = emission.may_miss
        self.statistics = tuple(f"emission.{name}" for name in emission.statistics)
        self.inner_iter, self.inner_tol = inner_iter, tol
        self.state_width = 2 * sum(layer_sizes)
        # And a constant of the row, in two parts so as to lose no digits.
        self.local_width = self.state_width + 2
        # What the weights above add to their prior's parameters.
        self.upper_statistics = nn.ParameterList(
            torch.ones(2, above, below)
            for below, above in itertools.pairwise(layer_sizes)
        )
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        # Of the last bound that was found by Monte Carlo.
        self.lower_bound_std_error = 0.0

    def initialize(self, X, weights, counts, level, uppers, random_state):
        """Start from counts of each unit in each feature, of units of size ``level``.

        ``weights`` say how often each row of X counts, ``uppers`` are the weights
        above.
        """
        self.emission.initialize(X, weights, counts, level)
        for statistics, weights in zip(self.upper_statistics, uppers, strict=True):
            message = self.link.start(torch.from_numpy(weights), self.weight_rate)
            statistics.data.copy_(message)

    # Inference.

    def posterior(self, batch, start=None):
        return BottomPosterior(self._solve(self.emission.with_sums(batch), start))

    def features(self, batch, layers):
        """Posterior means of the units of some layers, side by side."""
        factors = self._solve(self.emission.with_sums(batch))
        means = [factors.mean, *(upper.mean for upper in factors.uppers)]
        return torch.cat([means[layer] for layer in layers], 1)

    def elbo(self, batch, q=None):
        emission = self.emission
        batch = emission.with_sums(batch)
        factors = self._solve(batch) if q is None else q.factors
        likelihood = emission.closed(batch, factors.mean, factors.shape)
        likelihood = likelihood + emission.base(emission.constants(batch), batch)
        return likelihood - self._local_kl(factors, self._rates(self._links(factors)))

    def word_bound(self, batch):
        emission = self.emission
        batch = emission.with_sums(batch)
        factors = self._solve(batch)
        allocation = emission.allocate(batch.x, factors.mean, factors.shape)
        likelihood = emission.mean_log_likelihood(batch.x, allocation)
        totals = emission.expected_totals(batch, factors.mean)
        kl = self._local_kl(factors, self._rates(self._links(factors)))
        return likelihood - batch.totals * totals.log() - kl

    def _solve(self, batch, start=None):
        """Posteriors of the rows, from what is remembered or from the counts."""
        state = fixed_point(
            lambda batch, state: self._pack(self._step(batch, self._unpack(state))),
            batch,
            self._pack(self._cold(batch))
            if start is None
            else start[:, : self.state_width],
            max_steps=self.inner_iter if self.training else MAX_STEPS,
            tol=self.inner_tol,
        )
        return self._unpack(state)

    def _unpack(self, state):
        widths = [size for size in self.layer_sizes for _ in range(2)]
        mean, shape, *rest = state[:, : self.state_width].split(widths, 1)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        uppers = [self.link.units(layer, *pair) for layer, pair in enumerate(pairs)]
        return Factors(mean, shape, uppers)

    @staticmethod
    def _pack(factors):
        parts = [factors.mean, factors.shape]
        for upper in factors.uppers:
            parts += upper[:2]
        return torch.cat(parts, 1)

    def _cold(self, batch):
        """Posteriors of rows from what they have alone."""
        mean, shape = self.emission.cold(batch, self.layer_shapes[0])
        uppers, below, floor = [], mean, FLOORS[mean.dtype]
        for layer, weights in enumerate(self._uppers):
            uppers.append(self.link.cold(layer, below, weights, floor))
            below = uppers[-1].mean
        return Factors(mean, shape, uppers)

    def _step(self, batch, factors):
        """One step on every layer of the rows, from the lowest to the top."""
        links = self._links(factors)
        view = self.emission.view(batch, factors.mean, factors.shape)
        return self._step_of(view, factors, links)

    def _step_of(self, view, factors, links):
        """The same, given what the data and the links look like."""
        rates = self._rates(links)
        mean, shape = self.emission.step(
            view, self.layer_shapes[0], rates[0][0], self._power()
        )
        uppers, below = [], mean
        for layer, (above, weights) in enumerate(
            zip(factors.uppers, self._uppers, strict=True)
        ):
            message = self.link.message(
                links[layer], below, self.layer_shapes[layer], above, weights
            )
            uppers.append(self.link.posterior(layer, message, rates[layer + 1][0]))
            below = uppers[-1].mean
        return Factors(mean, shape, uppers)

    def _links(self, factors):
        """What the units above say of the prior of each layer but the top."""
        return [
            self.link.state(above, weights)
            for above, weights in zip(factors.uppers, self._uppers, strict=True)
        ]

    def _rates(self, links):
        """E[rate] and E[log rate] of the prior of each layer, or bounds."""
        layers = zip(links, self.layer_shapes[:-1], strict=True)
        top = self.top_rate, math.log(self.top_rate)
        return [*(self.link.rates(link, alpha) for link, alpha in layers), top]

    def _power(self):
        """The power of this update's steps on means."""
        # What is extrapolated must be the same in each step.
        is_plain = self.acceleration == 0 and int(self.n_updates) % PLAIN_EVERY == 0
        return 1.0 if is_plain else self.over_relaxation

    def positions(self, table):
        # By the Fisher information of the logarithm of a gamma's mean, its shape.
        mean, shape = table.split(self.layer_sizes[0], 1)[:2]
        emission = self.emission
        return [(mean, shape), (emission.weight_mean, emission.weight_concentration)]

    # Bounds.

    def _local_kl(self, factors, rates):
        """Divergence of the factors of each row; a bound of it, or at drawn rates."""
        mean, shape = factors.mean, factors.shape
        alpha = self.layer_shapes[0]
        kl = gamma_kl(shape, shape / mean, mean_log(shape, mean), alpha, *rates[0])
        layers = zip(factors.uppers, self.layer_shapes[1:], rates[1:], strict=True)
        for upper, alpha, rate in layers:
            kl = kl + self.link.kl(upper, alpha, *rate)
        return kl

    def global_kl(self):
        kl, rate = self.emission.kl(), self.weight_rate
        for weights in self._uppers:
            alpha = self.emission.prior_shape
            kl = kl + self.link.kl(weights, alpha, rate, math.log(rate)).sum()
        return kl

    @torch.no_grad()
    def data_bound(self, batches):
        """The evidence lower bound of all rows by Monte Carlo.

        Data and means of layers are drawn; divergences that have a closed form, given
        these, are taken exactly. The standard error over draws is kept beside.
        """
        generator = np.random.default_rng(0)
        global_kl, bounds = self.global_kl().double(), []
        # Few at a time of large models, whose draws are large too.
        n_weights = self.emission.weight_mean.numel()
        n_draws = min(DRAWS_AT_ONCE, max(1, DRAWN_AT_ONCE // n_weights))
        for first in range(0, N_DRAWS, n_draws):
            n_draws = min(n_draws, N_DRAWS - first)
            weights = [self.emission.draw(generator) for _ in range(n_draws)]
            uppers = [
                self.link.draw_weights(w, n_draws, generator) for w in self._uppers
            ]
            total = -global_kl.repeat(n_draws)
            for batch, start in batches():
                if start is None:
                    factors = self._solve(self.emission.with_sums(batch))
                else:
                    factors = self._unpack(start)
                of_rows = self._drawn_bounds(batch, factors, weights, uppers, generator)
                total += scaled(of_rows, batch.weight).sum(0)
            bounds += total.tolist()
        self.lower_bound_std_error = float(np.std(bounds, ddof=1) / len(bounds) ** 0.5)
        return float(np.mean(bounds))

    def _drawn_bounds(self, batch, factors, weights, uppers, generator):
        """The bound of each row at each draw of the weights, (n_rows, n_draws)."""
        n_draws, layers = len(weights), enumerate(factors.uppers)
        units = [self.link.draw(n, upper, n_draws, generator) for n, upper in layers]
        drawn = zip(units, uppers, self.layer_shapes[:-1], strict=True)
        # E[rate] and E[log rate] of each layer but the top, each with draws first.
        below = [self.link.drawn_rates(*values) for values in drawn]
        emission = self.emission
        batch = batch.double()
        base = emission.base(emission.constants(batch), batch)
        top = self.top_rate, math.log(self.top_rate)
        bounds = []
        for draw, weight in enumerate(weights):
            z = gamma_draws(factors.shape, factors.mean, generator)
            likelihood = emission.drawn(batch, z, weight)
            rates = [(rate[draw], log_rate[draw]) for rate, log_rate in below]
            kl = self._local_kl(factors, [*rates, top])
            bounds.append(likelihood - kl + base)
        return torch.stack(bounds, 1)

    # The face of the module.

    def decode(self, z):
        return self.emission.decode(z)

    def weights(self):
        """Posterior means of the weights, (units, what is below)."""
        return [self.components(), *(upper.mean for upper in self._uppers)]

    def noise_variance(self):
        """That of Gaussian noise, a float; None of other data."""
        return self.emission.noise_variance()

    def inclusion_probabilities(self):
        """Posterior probabilities of slabs, (k, n_features); None without spikes."""
        return self.emission.inclusion_probabilities()

    def components(self):
        return self.emission.weight_mean.T

    def sample(self, totals, generator):
        size = (len(totals), self.layer_sizes[-1])
        z = generator.gamma(self.layer_shapes[-1], 1 / self.top_rate, size)
        means = [upper.mean.cpu().numpy() for upper in self._uppers]
        for shape, weights in zip(self.layer_shapes[-2::-1], means[::-1], strict=True):
            z = self.link.sample(z @ weights, shape, generator)
        return self.emission.sample(z, generator)

    # Learning.

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        scale, emission = -batch.weight * n_samples, self.emission
        batch = emission.with_sums(batch)
        constants = (
            split_double(emission.constants(batch)) if start is None else start[:, -2:]
        )
        is_joint = emission.is_joint
        # One step on a row that is remembered, with the weights; several on a new one.
        is_solved = is_joint and start is not None
        factors = self._unpack(start) if is_solved else self._solve(batch, start)
        links = self._links(factors)
        view = emission.view(batch, factors.mean, factors.shape)
        kl = self._local_kl(factors, self._rates(links))
        bounds = emission.likelihood(view) - kl
        emission.add(view, scale)
        if is_joint:
            factors = self._step_of(view, factors, links)
        emission.add_means(batch, factors.mean, scale)
        self._add_above(factors, scale)
        bounds = bounds + emission.base(constants.double().sum(1), batch)
        local = torch.cat([self._pack(factors), constants.to(batch.x.dtype)], 1)
        return bounds, local

    def _add_above(self, factors, scale):
        """Add what the weights of the layers above follow from."""
        means = [factors.mean, *(upper.mean for upper in factors.uppers)]
        links = self._links(factors)
        for layer, (above, weights) in enumerate(
            zip(factors.uppers, self._uppers, strict=True)
        ):
            alpha = self.layer_shapes[layer]
            message = self.link.weight_message(
                links[layer], means[layer], alpha, above, weights, scale
            )
            self.gradient(self.upper_statistics[layer]).add_(message)

    @torch.no_grad()
    def after_step(self):
        self.emission.update(self._power())
        self.n_updates += 1
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self.emission.refresh()
        self._uppers = [
            self.link.weights(statistics.detach(), self.weight_rate)
            for statistics in self.upper_statistics
        ]


class SparseGammaDEF(ConjugateFactorModel):
    r"""Sparse gamma deep exponential family: factors of factors of data.

    Layers of gamma factors, each the mean of the one below through sparse gamma
    weights: ``z_l ~ Gamma(a_l, a_l / (z_{l+1} W_l))``, ``x ~ Poisson(z_1 W_0)``. With
    one layer it is Poisson factorization. Sparse data stay sparse.

    Parameters
    ----------
    layer_sizes : tuple of int, default=(100, 40, 15)
        Units of each layer, from the one at the data to the top.
    likelihood : {"poisson", "gaussian", "bernoulli"}, default="poisson"
        ``"poisson"``: counts. ``"bernoulli"``: zeros and ones, with ``P(x = 1) = 1 -
        exp(-z_1 W_0)``. ``"gaussian"``: real numbers, ``x ~ N(z_1 W_0, sigma^2)``; what
        is negative is noise. Bring real numbers to a scale of about 1 to 100: the
        rates of the priors are fixed, and far larger numbers are all taken for noise.
    link : {"mean", "rate"}, default="mean"
        What a layer gives the one below it: the mean, or the rate, ``z_l ~ Gamma(a_l,
        z_{l+1} W_l)``.
    layer_shape : float or sequence of float, default=0.1
        Shape of the prior of the units: one number, or one for each layer.
    top_rate : float, default=0.1
        Rate of the prior of the units of the top layer.
    weight_prior : {"gamma", "spike_slab"}, default="gamma"
        Prior of the weights of the lowest layer: gamma; or, with a probability that is
        learnt, gamma (a slab), else exponential with a hundredth of the slab's mean (a
        spike). ``"spike_slab"`` is for a ``weight_shape`` of 1 or 2, since gammas of
        much smaller shapes are all but spikes themselves, and needs
        ``solver="auxiliary"`` or ``"gradient"``, for real numbers ``"gradient"``.
    weight_shape : float, default=0.1
        Shape of the prior of all weights; far below 1, weights are sparse.
    weight_rate : float, default=0.3
        Rate of the prior of all weights.
    solver : {"expansion", "auxiliary", "gradient"}, default="expansion"
        ``"expansion"`` expands the likelihood to second order, which finds a far better
        bound; ``"auxiliary"`` climbs a closed-form bound, which rises in every full
        step. With ``likelihood="gaussian"`` both have the same bound, and
        ``"expansion"`` takes longer steps. ``"gradient"`` follows reparameterised
        gradients, after a hundred passes of closed forms for the lowest layer (unless
        it has spikes): slower, and for any ``family``.
    family : {"gamma", "lognormal", "weibull"}, default="gamma"
        Posteriors of units and weights, with ``solver="gradient"``.
    amortized : bool, default=False
        Whether a network gives the posteriors of rows, with ``solver="gradient"``, as
        differences from where ten rounds of sharing out the counts lead. If not, each
        row has a posterior of its own, and those of new rows are refined step by step.
    encoder_layers : tuple of int, default=(200,)
        Hidden layers of that network.
    missing_values : {"error", "ignore"}, default="error"
        What NaN in dense data is. ``"ignore"``: an entry that was not observed, and is
        left out of the likelihood; ``inverse_transform`` says what may be there, and a
        network sees the feature's mean. ``"error"``: a mistake.
    learning_rate : float, default=0.05
        Step size of Adam at first, with ``solver="gradient"``; the network learns at a
        twentieth of it. It falls to 0 over ``max_iter`` passes, whatever ``tol``.
    over_relaxation : float, default=1.4
        Power of the steps of ``"expansion"``; 1 for plain ones.
    acceleration : int, default=5
        How many earlier passes the steps of ``"expansion"`` on all rows are
        extrapolated from; 0 for none. Each takes twice the memory of the lowest layer's
        units, of all rows, and weights. If units and weights are more than four million
        numbers, nothing is extrapolated.
    input_scale : "auto" or float, default="auto"
        By what X is multiplied. ``"auto"``: 1 if the training data are integers; of
        other numbers, such as tf-idf, one over the mean of those that are not 0, so
        that an entry counts one on average. Scores are those of the scaled data, and
        ``inverse_transform`` is on the scale of X. 1.0 takes all data as they are.
    init : {"parts", "kmeans", "random"} or array-like, default="parts"
        Where the weights of the lowest layer start: from clusters of the features, from
        clusters of the rows, from random weights, or from an array of shape
        (layer_sizes[0], n_features), up to scale. Those above start from clusters of
        the units below them.
    transform_layer : int or "all", default=1
        The layer whose units ``transform`` gives, 1 at the data; ``inverse_transform``
        takes those of layer 1.
    max_iter : int, default=1000
        Passes over the data.
    tol : float, default=1e-6
        Relative gain of the bound below which training ends, over
        ``n_iter_no_change`` passes, or over one with ``solver="auxiliary"``.
    max_inner_iter : int, default=5
        Steps on rows that a pass starts anew, and on all rows in each pass with
        ``solver="auxiliary"``. ``transform`` goes on until ``inner_tol``. With
        ``solver="gradient"`` rows that start anew, and those of ``transform``, take ten
        times as many steps, whatever ``inner_tol``.
    inner_tol : float, default=1e-4
        Relative change of a row's parameters below which that row is done.
    n_cold_iter : int, default=None
        How many of the first passes start rows anew instead of where they stopped; None
        for 1, or up to 20 (half of ``max_iter`` at most) with ``init="random"``.
    batch_size : int, default=None
        Rows in a stochastic step; None for full steps on all rows.
    learning_offset : float, default=10.0
        Slows the first stochastic steps: step t has size
        (1 + learning_offset + t) ** -learning_decay.
    learning_decay : float, default=0.7
        How fast stochastic steps shrink, in (0.5, 1].
    validation_fraction : float, default=None
        Fraction of the rows held out to stop early, when their mean bound has not
        risen for ``n_iter_no_change`` passes; None for no early stopping.
    n_iter_no_change : int, default=10
        Passes without a better score that end training.
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
    components_ : ndarray of shape (layer_sizes[0], n_features)
        Posterior mean of the weights of the lowest layer.
    weights_ : list of ndarray
        Posterior means of the weights of all layers: ``components_``, and from each
        layer to the one below, (layer_sizes[l + 1], layer_sizes[l]).
    sparsity_ : ndarray of shape (n_layers,)
        For each array of ``weights_``, the share of its entries that are below 1 % of
        the largest entry of their column, the weights of one unit or feature below.
    inclusion_probabilities_ : ndarray of shape (layer_sizes[0], n_features)
        With ``weight_prior="spike_slab"``, the posterior probability that a weight
        belongs to the slab; else None.
    noise_variance_ : float
        ``sigma^2`` of ``likelihood="gaussian"``, else None.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of the weights included: the
        mean of 50 draws, of 20 with ``solver="gradient"``; in closed form with
        ``"auxiliary"``, unless there are batches or rows held out.
    lower_bound_std_error_ : float
        Its standard error over the draws; 0 in closed form.
    input_scale_ : float
        By what X is multiplied; 1.0 if the training data were integers.
    history_ : dict of lists
        ``lower_bound`` (an estimate to second order with ``solver="expansion"``),
        ``seconds`` and, with early stopping, ``validation_score``, for each pass. The
        estimate falls in passes whose extrapolation is then taken back.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int or float
        Number of rows that training has seen; the sum of their weights, where there
        are some.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where the data had names.

    Warns
    -----
    UserWarning
        In ``fit``, if a layer is larger than the one below it.

    See Also
    --------
    PoissonFactorization : One layer of factors; faster.

    References
    ----------
    Ranganath, R., Tang, L., Charlin, L. and Blei, D. (2015). Deep exponential families.
    AISTATS 18.

    Examples
    --------
    >>> from skdeepfactor import SparseGammaDEF
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = SparseGammaDEF((6, 3), max_iter=50, random_state=0).fit(X)
    >>> model.transform(X).shape
    (200, 6)
    >>> [weights.shape for weights in model.weights_]
    [(6, 50), (3, 6)]
    """

    _parameter_constraints: ClassVar[dict] = {
        "input_scale": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        **{
            name: constraint
            for name, constraint in ConjugateFactorModel._parameter_constraints.items()
            if name != "n_components"
        },
        "layer_sizes": ["array-like"],
        "likelihood": [StrOptions({"poisson", "gaussian", "bernoulli"})],
        "link": [StrOptions({"mean", "rate"})],
        "layer_shape": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "top_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_prior": [StrOptions({"gamma", "spike_slab"})],
        "weight_shape": [Interval(Real, 0, None, closed="neither")],
        "weight_rate": [Interval(Real, 0, None, closed="neither")],
        "solver": [StrOptions({"expansion", "auxiliary", "gradient"})],
        "family": [StrOptions(set(FAMILIES))],
        "amortized": ["boolean"],
        "encoder_layers": [tuple, list],
        "missing_values": [StrOptions({"error", "ignore"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "over_relaxation": [Interval(Real, 1, 2, closed="left")],
        "acceleration": [Interval(Integral, 0, None, closed="left")],
        "init": [StrOptions({"parts", "kmeans", "random"}), "array-like"],
        "transform_layer": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"all"}),
        ],
    }

    def __init__(
        self,
        layer_sizes=(100, 40, 15),
        *,
        likelihood="poisson",
        link="mean",
        layer_shape=0.1,
        top_rate=0.1,
        weight_prior="gamma",
        weight_shape=0.1,
        weight_rate=0.3,
        solver="expansion",
        family="gamma",
        amortized=False,
        encoder_layers=(200,),
        missing_values="error",
        learning_rate=0.05,
        over_relaxation=1.4,
        acceleration=5,
        input_scale="auto",
        init="parts",
        transform_layer=1,
        max_iter=1000,
        tol=1e-6,
        max_inner_iter=5,
        inner_tol=1e-4,
        n_cold_iter=None,
        batch_size=None,
        learning_offset=10.0,
        learning_decay=0.7,
        validation_fraction=None,
        n_iter_no_change=10,
        n_init=1,
        n_jobs=None,
        warm_start=False,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.layer_sizes = layer_sizes
        self.likelihood = likelihood
        self.link = link
        self.layer_shape = layer_shape
        self.top_rate = top_rate
        self.weight_prior = weight_prior
        self.weight_shape = weight_shape
        self.weight_rate = weight_rate
        self.solver = solver
        self.family = family
        self.amortized = amortized
        self.encoder_layers = encoder_layers
        self.missing_values = missing_values
        self.learning_rate = learning_rate
        self.over_relaxation = over_relaxation
        self.acceleration = acceleration
        self.input_scale = input_scale
        self.init = init
        self.transform_layer = transform_layer
        self.max_iter = max_iter
        self.tol = tol
        self.max_inner_iter = max_inner_iter
        self.inner_tol = inner_tol
        self.n_cold_iter = n_cold_iter
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

    _kept_parameters = (
        "layer_sizes",
        "likelihood",
        "link",
        "family",
        "weight_prior",
    )

    @property
    def _domain(self):
        domains = {"poisson": Counts, "gaussian": RealNumbers, "bernoulli": Binary}
        return domains[self.likelihood]()

    def _check_takes_weights(self, sample_weight):
        if sample_weight is not None and self.solver == "gradient":
            raise ValueError(
                "sample_weight needs a solver in closed form, 'expansion' or "
                "'auxiliary', got solver='gradient'."
            )

    def _plan(self, module, budget):
        if self.solver == "gradient":
            names = dict(module.named_parameters())
            of_network = [name for name in names if name.startswith("encoder.")]
            rates = dict.fromkeys(names, self.learning_rate)
            rates |= dict.fromkeys(of_network, self.learning_rate / 20)
            groups = [{"params": [names[n]], "lr": rates[n]} for n in names]
            optimizer = AnnealedAdam(groups, budget.n_updates)
            # Bounds of single draws say little of whether training is done.
            return TrainingPlan(
                optimizer,
                n_cold=n_cold_passes(self.n_cold_iter, self.init, self.max_iter, False),
                n_warmup=budget.n_passes or 0,
            )
        plan = super()._plan(module, budget)
        ascends = self.solver == "auxiliary"
        # Statistics of other rows, or of older weights, are not to be extrapolated, and
        # longer steps are not sure to ascend.
        is_plain = budget.is_stochastic or ascends
        module.over_relaxation = 1.0 if is_plain else self.over_relaxation
        return replace(plan, ascends=ascends, guard=Guard)

    @property
    def _n_features_out(self):
        sizes = self._fitted_with["layer_sizes"]
        return sum(sizes[layer] for layer in self._transformed_layers())

    def _transformed_layers(self):
        """The numbers, from 0 on, of the layers that ``transform`` gives."""
        n_layers = len(self._fitted_with["layer_sizes"])
        if self.transform_layer == "all":
            return range(n_layers)
        if self.transform_layer in range(1, n_layers + 1):
            return [self.transform_layer - 1]
        raise ValueError(
            f"transform_layer must be 'all' or from 1 to {n_layers}, the number of "
            f"layers, got {self.transform_layer}."
        )

    def transform(self, X, *, out=None):
        """Infer the units of each row.

        The model stays as it is. A row's units depend on that row alone, and not on
        those beside it.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` file to write the units to as they come, for more rows than
            memory has room for.

        Returns
        -------
        ndarray of shape (n_samples, n_units)
            The posterior mean of the units of ``transform_layer``, of all layers side
            by side, the lowest first, for "all"; float64 for float64 data, else
            float32. With ``out``, a read-only map of the file.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> model.set_params(transform_layer="all").transform(X).shape
        (4, 3)
        """
        check_is_fitted(self)
        layers = self._transformed_layers()
        return self._infer(X, lambda module, batch: module.features(batch, layers), out)

    def sample(self, n_samples=1, *, random_state=None):
        """Draw rows from the model, from the top layer down.

        Units of the top layer are drawn from their prior, and those of each layer given
        those above.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix or ndarray of shape (n_samples, n_features)
            From the posterior mean of the weights; CSR for counts.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> model.sample(3, random_state=0).shape
        (3, 4)
        """
        return self._sample(n_samples, None, random_state)

    def _build(self, sizes):
        n_features = sizes["n_features"]
        sizes = self.layer_sizes
        if len(sizes) == 0 or not all(
            isinstance(size, Integral) and size >= 1 for size in sizes
        ):
            raise ValueError(
                "layer_sizes must hold positive ints, one for each layer, got "
                f"{sizes!r}."
            )
        sizes = tuple(map(int, sizes))
        shapes = np.asarray(self.layer_shape, dtype=np.float64)
        if shapes.shape not in ((), (len(sizes),)) or not (
            np.isfinite(shapes).all() and (shapes > 0).all()
        ):
            raise ValueError(
                "layer_shape must be a positive number, or one for each of the "
                f"{len(sizes)} layers, got {self.layer_shape!r}."
            )
        shapes = np.broadcast_to(shapes, (len(sizes),)).tolist()
        shared = {
            "weight_shape": self.weight_shape,
            "weight_rate": self.weight_rate,
            "may_miss": self._may_miss,
        }
        has_spikes = self.weight_prior == "spike_slab"
        if self.amortized and self.solver != "gradient":
            raise ValueError(
                "amortized=True needs solver='gradient', which trains a network, got "
                f"solver={self.solver!r}."
            )
        if has_spikes and self.solver != "gradient":
            if self.solver == "expansion":
                raise ValueError(
                    "weight_prior='spike_slab' needs solver='auxiliary' or 'gradient', "
                    "got solver='expansion'."
                )
            if self.likelihood == "gaussian":
                raise ValueError(
                    "weight_prior='spike_slab' with likelihood='gaussian' needs "
                    f"solver='gradient', got solver={self.solver!r}."
                )
        if self.amortized:
            check_layers("encoder_layers", self.encoder_layers)
        if self.solver == "gradient":
            return PathwiseBelief(
                sizes,
                n_features,
                likelihood=self.likelihood,
                link=self.link,
                family=self.family,
                layer_shapes=shapes,
                top_rate=self.top_rate,
                has_spikes=has_spikes,
                encoder_layers=tuple(self.encoder_layers) if self.amortized else None,
                learning_rate=self.learning_rate,
                inner_iter=self.max_inner_iter,
                **shared,
            )
        inverse_gaussian = [*shapes[1:], self.weight_shape] if len(sizes) > 1 else [0]
        if self.link == "mean" and max(inverse_gaussian) > LARGEST_ORDER:
            raise ValueError(
                "layer_shape above the first layer, and weight_shape, must be at most "
                f"{LARGEST_ORDER:g} with link='mean' (but for solver='gradient'), got "
                f"{max(inverse_gaussian):g}."
            )
        shape = (n_features, sizes[0])
        if self.likelihood == "gaussian":
            emission = Gaussian(shape, **shared)
        else:
            kinds = {"expansion": ExpandedCounts, "auxiliary": AllocatedCounts}
            kind = SpikedCounts if has_spikes else kinds[self.solver]
            emission = kind(shape, is_binary=self.likelihood == "bernoulli", **shared)
        return GammaBelief(
            sizes,
            emission=emission,
            link=LINKS[self.link](shapes[1:], self.weight_shape),
            layer_shapes=shapes,
            top_rate=self.top_rate,
            weight_rate=self.weight_rate,
            over_relaxation=self.over_relaxation,
            acceleration=self.acceleration,
            inner_iter=self.max_inner_iter,
            tol=self.inner_tol,
        )

    def _initialize(self, module, start):
        X, weights, _, random_state = start.distinct()
        sizes = module.layer_sizes
        if any(above > below for below, above in itertools.pairwise(sizes)):
            warnings.warn(
                f"layer_sizes={sizes} has a layer that is larger than the one below "
                "it, which it is to sum up.",
                stacklevel=2,
            )
        n_components = sizes[0]
        # What is negative is noise, and has no part in where factors start.
        known = imputed(X, weights) if self._may_miss else X
        positive = known if self._domain.is_non_negative else _positive_part(known)
        init = self.init
        if isinstance(init, str) and init == "parts":
            shares = initial_parts(
                positive,
                n_components,
                random_state,
                weights,
                n_starts=n_starts(positive),
            )
        else:
            init = check_init(init, (n_components, X.shape[1]))
            shares = initial_counts(positive, n_components, init, random_state, weights)
            sums = shares.sum(axis=0)
            shares = np.where(sums > 0, shares / np.where(sums > 0, sums, 1), 1.0)
            shares = shares / shares.sum(axis=0)
        totals = column_totals(positive, weights)
        # Factors and weights of the same size.
        level = np.sqrt(max(totals.mean() / weights.sum(), 1e-10) / n_components)
        counts, activity = shares * totals, positive @ shares.T
        start = counts, level
        closed = None
        if self.solver == "gradient":
            mean = np.maximum(counts / (weights.sum() * level), 1e-3 * level)
            start = mean, np.maximum(self.weight_shape + counts, 0.5)
            # Closed forms without spikes would lead away from them.
            if self.weight_prior == "gamma":
                closed = self._closed_fit(
                    X, weights, shares, level, module.layer_shapes[0], random_state
                )
        if closed is not None:
            names = "emission.weight_mean", "emission.weight_concentration"
            parameters = [closed._parameters[name] for name in names]
            start = [np.asarray(p, dtype=np.float64).T for p in parameters]
            if len(sizes) > 1:
                activity = closed._infer(
                    X, lambda module, batch: module.features(batch, [0])
                )
        uppers = []
        for above in sizes[1:]:
            # Half from clusters of the units below that are active together.
            parts = initial_parts(activity, above, random_state, weights)
            uppers.append(0.5 * (parts + 1 / above))
            activity = activity @ uppers[-1].T
        module.initialize(X, weights, *start, uppers, random_state)

    def _closed_fit(self, X, weights, shares, level, layer_shape, random_state):
        """The lowest layer alone, fitted by closed forms.

        Gradients would go the same way in many small steps. None where it takes for
        noise what factors and weights of size ``level`` would make.
        """
        closed = SparseGammaDEF(
            (len(shares),),
            likelihood=self.likelihood,
            layer_shape=layer_shape,
            top_rate=self.top_rate,
            weight_shape=self.weight_shape,
            weight_rate=self.weight_rate,
            missing_values=self.missing_values,
            init=shares,
            max_iter=N_CLOSED,
            device=self.device,
            random_state=random_state.randint(2**31 - 1),
        )
        try:
            closed.fit(X, sample_weight=weights)
        except Interrupted:
            # Of the model that this is the start of, there is no pass yet.
            raise KeyboardInterrupt from None
        # Of numbers far above what the priors expect all may be taken for noise. The
        # weights are then those of the priors, and units would have to be as large.
        is_noise = (
            self.likelihood == "gaussian"
            and closed.components_.mean() < level
            and closed.noise_variance_ >= np.mean(column_moments(X, weights)[1] ** 2)
        )
        return None if is_noise else closed

    def _fitted(self, module):
        weights, inclusion = module.weights(), module.inclusion_probabilities()
        weights = [_array(w) for w in weights]
        return {
            "weights_": weights,
            "sparsity_": np.array([(w < 0.01 * w.max(axis=0)).mean() for w in weights]),
            "lower_bound_std_error_": module.lower_bound_std_error,
            "inclusion_probabilities_": None
            if inclusion is None
            else _array(inclusion),
            "noise_variance_": module.noise_variance(),
        }


def _array(tensor):
    """A copy, since modules change their tensors in place."""
    return tensor.detach().cpu().numpy().copy()


def _positive_part(X):
    """X where it is positive, else 0."""
    return X.maximum(0) if scipy.sparse.issparse(X) else np.maximum(X, 0)
