r"""The closed-form solver: coordinate updates of every layer.

The posterior is gamma for :math:`z_1` and :math:`W_0`; for all others it is the
generalized inverse Gaussian :math:`q(y) \propto y^{g-1} e^{-\rho y - \tau / y}` with g
the shape of its prior, which has E[1/y] where a gamma of small shape has none. The
updates of the layers above the first are derived in ``links.py``; those of the first
layer and its weights in ``lowest_weights.py`` and, for real numbers, in
``gaussian_weights.py``. All of them climb one bound in closed form, on which ``score``
is based.

**Expansion.** For counts and binary data, that bound lies far below the evidence if a
count has many sources. ``solver="expansion"`` takes the likelihood to second order
around the means instead, and multiplies means by the ratio of the two sides of the
condition for an optimum, to a power above 1. (For real numbers the second order is all
there is, and the bound the same.) The logarithms of all means are then extrapolated
from the last passes, with shapes as weights, and the extrapolation taken back if the
estimate has fallen after the next one. The estimate is not a bound: ``lower_bound_`` is
a Monte Carlo estimate of the evidence lower bound itself.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.distributions import Gamma

from skdeepfactor._estimator.arrays import resolve_device
from skdeepfactor._math.few_rows import is_few
from skdeepfactor._math.gammas import gamma_kl
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import split_double
from skdeepfactor._math.row_iteration import ending, fixed_point
from skdeepfactor._math.starts import n_cold_passes
from skdeepfactor._training.distributed import current_share
from skdeepfactor._training.guard import Guard
from skdeepfactor._training.loop import train
from skdeepfactor._training.optimizers import NaturalGradient
from skdeepfactor._training.plan import Budget, TrainingPlan
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor._training.run import Interrupted
from skdeepfactor.models.sparse_gamma_def.drawn_bound import drawn_bound
from skdeepfactor.models.sparse_gamma_def.emissions import (
    EMISSIONS,
    Bernoulli,
    Gaussian,
    Poisson,
)
from skdeepfactor.models.sparse_gamma_def.gaussian_weights import GaussianWeights
from skdeepfactor.models.sparse_gamma_def.inverse_gaussians import LARGEST_ORDER
from skdeepfactor.models.sparse_gamma_def.links import LINKS, Means
from skdeepfactor.models.sparse_gamma_def.lowest_weights import (
    FLOORS,
    AllocatedWeights,
    ExpandedWeights,
    SpikedWeights,
    mean_log,
)
from skdeepfactor.models.sparse_gamma_def.parts import Part
from skdeepfactor.models.sparse_gamma_def.rows import CountRows, UpperRows

# Every so many steps one is not over-relaxed, against oscillations.
PLAIN_EVERY = 10


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
        lowest,
        link,
        layer_shapes,
        top_rate,
        weight_rate,
        over_relaxation,
        acceleration,
        inner_iter,
        tol,
        is_correlated=False,
    ):
        super().__init__()
        self.layer_sizes, self.layer_shapes = layer_sizes, layer_shapes
        self.top_rate, self.weight_rate = top_rate, weight_rate
        self.lowest, self.link = lowest, link
        self.over_relaxation, self.acceleration = over_relaxation, acceleration
        # Of the posteriors of the final bound.
        self.is_correlated = is_correlated
        # Kind of steps in this training; before it, of those on the rows to infer.
        self.is_stochastic, self.is_extrapolated = False, acceleration > 0
        self.may_miss = lowest.may_miss
        self.inner_iter, self.inner_tol = inner_iter, tol
        self.state_width = 2 * sum(layer_sizes)
        # And a constant of the row, in two parts so as to lose no digits.
        self.local_width = self.state_width + 2
        # Messages that the weights above add to their prior's parameters.
        self.upper_statistics = nn.ParameterList(
            torch.ones(2, above, below)
            for below, above in itertools.pairwise(layer_sizes)
        )
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        self._kept_rows = None
        # Standard error of the last bound that was found by Monte Carlo.
        self.lower_bound_std_error = 0.0

    @property
    def emission(self):
        """Likelihood of the data given the lowest weights."""
        return self.lowest.emission

    def begin(self, budget):
        super().begin(budget)
        self.is_stochastic = budget.is_stochastic
        self.is_extrapolated = self.depth(budget) > 0

    def depth(self, budget):
        """Number of earlier steps that each step is extrapolated from; 0 for none.

        Statistics of other rows or older weights must not be extrapolated, nor models
        too large to be copied.
        """
        if budget.is_stochastic or not self.is_small(budget):
            return 0
        return self.acceleration

    def is_small(self, budget):
        """Whether there is room for copies of the lowest layer, of all rows."""
        n_units = budget.n_rows + len(self.lowest.weight_mean)
        return Guard.has_room_for(n_units * self.layer_sizes[0])

    def initialize(self, X, weights, counts, level, uppers):
        """Start from counts of each unit in each feature, of units of size ``level``.

        ``weights`` say how often each row of X counts, ``uppers`` are the weights
        above.
        """
        self.lowest.initialize(X, weights, counts, level)
        for statistics, weights in zip(self.upper_statistics, uppers, strict=True):
            message = self.link.start(torch.from_numpy(weights), self.weight_rate)
            statistics.data.copy_(message)

    # Inference.

    def posterior(self, batch, start=None):
        return BottomPosterior(self._solve(self.lowest.with_sums(batch), start))

    def recalled(self, batch, local):
        return BottomPosterior(self._unpack(local))

    def features(self, batch, layers):
        """Posterior means of the units of some layers, side by side."""
        factors = self._solve(self.lowest.with_sums(batch))
        means = [factors.mean, *(upper.mean for upper in factors.uppers)]
        return torch.cat([means[layer] for layer in layers], 1)

    def elbo(self, batch, q=None):
        emission, batch = self.emission, self.lowest.with_sums(batch)
        factors = self._solve(batch) if q is None else q.factors
        likelihood = self.lowest.closed(batch, factors.mean, factors.shape)
        likelihood = likelihood + emission.base(emission.constants(batch), batch)
        return likelihood - self.local_kl(factors, self._rates(self._links(factors)))

    def word_bound(self, batch):
        batch = self.lowest.with_sums(batch)
        factors = self._solve(batch)
        likelihood = self.lowest.given_total(batch, factors.mean, factors.shape)
        return likelihood - self.local_kl(factors, self._rates(self._links(factors)))

    def _solve(self, batch, start=None):
        """Posteriors of the rows, from remembered ones or from the counts."""
        if start is None and self._takes_few(batch):
            return self._unpack(self._few_rows().solve(batch.x, self._power()))
        first = self._cold(batch) if start is None else self._unpack(start)
        kinds = [type(upper) for upper in first.uppers]

        def update(batch, state, *moments):
            mean, shape, *pairs = self._split(state)
            moments = iter(moments)
            uppers = [
                kind(*pair, *itertools.islice(moments, len(kind._fields) - 2))
                for kind, pair in zip(kinds, pairs, strict=True)
            ]
            new = self._step(batch, Factors(mean, shape, uppers))
            if not self.training:
                pairs = zip(new.uppers, uppers, strict=True)
                new = new._replace(uppers=[self.link.ahead(*pair) for pair in pairs])
            moments = self._moments(new)
            return [self._pack(new), *moments] if moments else self._pack(new)

        state = fixed_point(
            update,
            batch,
            self._pack(first),
            known=self._moments(first),
            **ending(self),
        )
        return self._unpack(state)

    def _takes_few(self, batch):
        """Whether NumPy solves the rows of a batch."""
        return (
            not self.training
            and is_few(batch)
            and batch.observed is None
            and self.lowest.expands_counts
            and (self.link.divides or not self.upper_statistics)
        )

    def _few_rows(self):
        """The weights as NumPy needs them, kept until they change."""
        if self._kept_rows is None:
            uppers = []
            if self.upper_statistics:
                shapes = self.layer_shapes[:-1]
                layers = zip(self.link.families, self.uppers, shapes, strict=True)
                uppers = [UpperRows(*of_layer) for of_layer in layers]
            self._kept_rows = CountRows(
                self.lowest, uppers, self.layer_shapes, self.top_rate, self.inner_tol
            )
        return self._kept_rows

    @staticmethod
    def _moments(factors):
        """The moments of factors above the first layer, which their parameters give."""
        return [values for upper in factors.uppers for values in upper[2:]]

    def _split(self, state):
        """Means and shapes of layer 1, and the pair of parameters of each one above."""
        widths = [size for size in self.layer_sizes for _ in range(2)]
        mean, shape, *rest = state[:, : self.state_width].split(widths, 1)
        return mean, shape, *zip(rest[::2], rest[1::2], strict=True)

    def _unpack(self, state):
        mean, shape, *pairs = self._split(state)
        uppers = [self.link.units(layer, *pair) for layer, pair in enumerate(pairs)]
        return Factors(mean, shape, uppers)

    @staticmethod
    def _pack(factors):
        parts = [factors.mean, factors.shape]
        for upper in factors.uppers:
            parts += upper[:2]
        return torch.cat(parts, 1)

    def _cold(self, batch):
        """Posteriors of rows from their data alone."""
        mean, shape = self.lowest.cold(batch, self.layer_shapes[0])
        uppers, below, floor = [], mean, FLOORS[mean.dtype]
        for layer, weights in enumerate(self.uppers):
            uppers.append(self.link.cold(layer, below, weights, floor))
            below = uppers[-1].mean
        return Factors(mean, shape, uppers)

    def _step(self, batch, factors):
        """One step on every layer of the rows, from the lowest to the top."""
        links = self._links(factors)
        view = self.lowest.view(batch, factors.mean, factors.shape)
        return self._step_of(view, factors, links)

    def _step_of(self, view, factors, links):
        """One step, given views of the data and states of the links."""
        rates = self._rates(links)
        mean, shape = self.lowest.step(
            view, self.layer_shapes[0], rates[0][0], self._power()
        )
        uppers, below = [], mean
        for layer, (above, weights) in enumerate(
            zip(factors.uppers, self.uppers, strict=True)
        ):
            message = self.link.message(
                links[layer], below, self.layer_shapes[layer], above, weights
            )
            uppers.append(self.link.posterior(layer, message, rates[layer + 1][0]))
            below = uppers[-1].mean
        return Factors(mean, shape, uppers)

    def _links(self, factors):
        """State of the prior of each layer but the top, given the units above."""
        return [
            self.link.state(above, weights)
            for above, weights in zip(factors.uppers, self.uppers, strict=True)
        ]

    def _rates(self, links):
        """E[rate] and E[log rate] of the prior of each layer, or bounds."""
        layers = zip(links, self.layer_shapes[:-1], strict=True)
        top = self.top_rate, math.log(self.top_rate)
        return [*(self.link.rates(link, alpha) for link, alpha in layers), top]

    def _power(self):
        """The power of this update's steps on means."""
        # The same tensors must be extrapolated in each step.
        is_plain = not self.is_extrapolated and int(self.n_updates) % PLAIN_EVERY == 0
        return 1.0 if self.is_stochastic or is_plain else self.over_relaxation

    def positions(self, table):
        """Tensors to extrapolate from step to step; see ``Guard``."""
        # By the Fisher information of the logarithm of a gamma's mean, its shape.
        mean, shape = table.split(self.layer_sizes[0], 1)[:2]
        lowest = self.lowest
        return [(mean, shape), (lowest.weight_mean, lowest.weight_concentration)]

    # Bounds.

    def local_kl(self, factors, rates):
        """Divergence of the factors of each row; a bound of it, or at drawn rates."""
        mean, shape = factors.mean, factors.shape
        alpha = self.layer_shapes[0]
        kl = gamma_kl(shape, shape / mean, mean_log(shape, mean), alpha, *rates[0])
        layers = zip(factors.uppers, self.layer_shapes[1:], rates[1:], strict=True)
        for upper, alpha, rate in layers:
            kl = kl + self.link.kl(upper, alpha, *rate)
        return kl

    def global_kl(self):
        kl, rate = self.lowest.kl(), self.weight_rate
        for weights in self.uppers:
            alpha = self.lowest.prior_shape
            kl = kl + self.link.kl(weights, alpha, rate, math.log(rate)).sum()
        return kl

    @torch.no_grad()
    def data_bound(self, batches):
        """The evidence lower bound of all rows by Monte Carlo; its error is kept."""
        bound, self.lower_bound_std_error = drawn_bound(
            self, batches, is_correlated=self.is_correlated
        )
        return bound

    # The face of the module.

    def decode(self, z):
        return self.emission.decode(z @ self.lowest.weight_mean.T)

    def weights(self):
        """Posterior means of the weights, (units, units or features below)."""
        return [self.components(), *(upper.mean for upper in self.uppers)]

    def noise_variance(self):
        """Variance of Gaussian noise, a float; None for other data."""
        return self.emission.noise_variance()

    def inclusion_probabilities(self):
        """Posterior probabilities of slabs by layer; None without spikes."""
        lowest = self.lowest.inclusion_probabilities()
        return None if lowest is None else [lowest]

    def components(self):
        return self.lowest.weight_mean.T

    def sample(self, totals, generator):
        size = (len(totals), self.layer_sizes[-1])
        z = generator.gamma(self.layer_shapes[-1], 1 / self.top_rate, size)
        means = [upper.mean.cpu().numpy() for upper in self.uppers]
        for shape, weights in zip(self.layer_shapes[-2::-1], means[::-1], strict=True):
            z = self.link.sample(z @ weights, shape, generator)
        return self.emission.sample(z @ self.components().cpu().numpy(), generator)

    # Learning.

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        scale, emission, lowest = -batch.weight * n_samples, self.emission, self.lowest
        batch = lowest.with_sums(batch)
        constants = (
            split_double(emission.constants(batch)) if start is None else start[:, -2:]
        )
        is_joint = lowest.is_joint
        # One step on a row that is remembered, with the weights; several on a new one.
        is_solved = is_joint and start is not None
        factors = self._unpack(start) if is_solved else self._solve(batch, start)
        links = self._links(factors)
        view = lowest.view(batch, factors.mean, factors.shape)
        kl = self.local_kl(factors, self._rates(links))
        bounds = lowest.likelihood(view) - kl
        lowest.add(view, scale)
        if is_joint:
            factors = self._step_of(view, factors, links)
        lowest.add_means(batch, factors.mean, scale)
        self._add_above(factors, scale)
        bounds = bounds + emission.base(constants.double().sum(1), batch)
        local = torch.cat([self._pack(factors), constants.to(batch.x.dtype)], 1)
        return bounds, local

    def _add_above(self, factors, scale):
        """Add the statistics of the weights of the layers above."""
        means = [factors.mean, *(upper.mean for upper in factors.uppers)]
        links = self._links(factors)
        for layer, (above, weights) in enumerate(
            zip(factors.uppers, self.uppers, strict=True)
        ):
            alpha = self.layer_shapes[layer]
            message = self.link.weight_message(
                links[layer], means[layer], alpha, above, weights, scale
            )
            self.gradient(self.upper_statistics[layer]).add_(message)

    @torch.no_grad()
    def after_step(self):
        self.lowest.update(self._power())
        self.n_updates += 1
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self._kept_rows = None
        self.lowest.refresh()
        self.uppers = [
            self.link.weights(statistics.detach(), self.weight_rate)
            for statistics in self.upper_statistics
        ]


# Posteriors of the lowest weights, by the emission of the data.
EXPANDED = {
    Poisson: ExpandedWeights,
    Bernoulli: ExpandedWeights,
    Gaussian: GaussianWeights,
}
ALLOCATED = {
    Poisson: AllocatedWeights,
    Bernoulli: AllocatedWeights,
    Gaussian: GaussianWeights,
}
SPIKED = {Poisson: SpikedWeights, Bernoulli: SpikedWeights}


@dataclass(frozen=True)
class Closed(Part):
    """Closed forms, in one of their variants.

    ``weights`` and ``spiked_weights`` are the posteriors of the lowest weights that it
    has, by emission; ``ascends`` says whether its steps on all rows raise the bound.
    """

    weights: dict
    spiked_weights: dict
    ascends: bool

    takes_weights = True

    def build(self, model, n_features, layer_sizes, layer_shapes):
        if model.amortized:
            raise ValueError(
                "amortized=True needs solver='gradient', which trains a network, got "
                f"solver={model.solver!r}."
            )
        emission, kinds = EMISSIONS[model.likelihood], self.weights
        if model.weight_prior == "spike_slab":
            kinds = self.spiked_weights
            if not kinds:
                raise ValueError(
                    "weight_prior='spike_slab' needs solver='auxiliary' or 'gradient', "
                    f"got solver={model.solver!r}."
                )
            if emission not in kinds:
                raise ValueError(
                    f"weight_prior='spike_slab' with likelihood={model.likelihood!r} "
                    f"needs solver='gradient', got solver={model.solver!r}."
                )
        # Shapes of layers, and of weights, that have another layer above.
        above = [*layer_shapes[1:], model.weight_shape] if layer_shapes[1:] else [0]
        if LINKS[model.link].divides and max(above) > LARGEST_ORDER:
            raise ValueError(
                "layer_shape above the first layer, and weight_shape, must be at most "
                f"{LARGEST_ORDER:g} with link='mean' (except for solver='gradient'), "
                f"got {max(above):g}."
            )
        lowest = kinds[emission](
            (n_features, layer_sizes[0]),
            emission(),
            weight_shape=model.weight_shape,
            weight_rate=model.weight_rate,
            may_miss=model._may_miss,
        )
        return GammaBelief(
            layer_sizes,
            lowest=lowest,
            link=LINKS[model.link](layer_shapes[1:], model.weight_shape),
            layer_shapes=layer_shapes,
            top_rate=model.top_rate,
            weight_rate=model.weight_rate,
            # Longer steps are not sure to ascend.
            over_relaxation=1.0 if self.ascends else model.over_relaxation,
            acceleration=model.acceleration,
            inner_iter=model.max_inner_iter,
            tol=model.inner_tol,
            is_correlated=model.covariance_type == "full" and not self.ascends,
        )

    def initialize(self, model, module, start):
        uppers = start.uppers(module.layer_sizes[1:], start.activity)
        module.initialize(start.X, start.weights, start.counts, start.level, uppers)

    def plan(self, model, module, budget):
        optimizer = NaturalGradient(
            module.parameters(),
            learning_offset=model.learning_offset,
            learning_decay=model.learning_decay if budget.is_stochastic else 0.0,
        )
        n_cold = n_cold_passes(model.n_cold_iter, model.init, model.max_iter, False)
        if self.ascends or budget.is_stochastic:
            return TrainingPlan(optimizer, ascends=self.ascends, n_cold=n_cold)
        return TrainingPlan(optimizer, n_cold=n_cold, guard=_guard(module, budget))


EXPANSION = Closed(EXPANDED, {}, ascends=False)
AUXILIARY = Closed(ALLOCATED, SPIKED, ascends=True)


def _guard(module, budget):
    """Guard that extrapolates the steps of a module on all rows."""
    return partial(
        Guard,
        positions=module.positions,
        depth=module.depth(budget),
        holds_rows=module.is_small(budget),
        unread=[f"lowest.{name}" for name in module.lowest.statistics],
    )


def trained_lowest(
    emission, start, *, layer_shape, top_rate, may_miss, n_passes, device, **prior
):
    """The lowest layer alone, trained from a ``LowestStart`` by expansion.

    ``prior`` is that of the weights, ``weight_shape`` and ``weight_rate``.
    """
    n_components, n_features = start.counts.shape
    rows = MatrixRows(start.X, current_share()).knowing(weight=start.weights)
    lowest = EXPANDED[type(emission)](
        (n_features, n_components), emission, may_miss=may_miss, **prior
    )
    module = GammaBelief(
        (n_components,),
        lowest=lowest,
        link=Means(),
        layer_shapes=[layer_shape],
        top_rate=top_rate,
        weight_rate=prior["weight_rate"],
        over_relaxation=1.4,
        acceleration=5,
        inner_iter=5,
        tol=1e-4,
    ).to(rows.dtype)
    module.initialize(start.X, start.weights, start.counts, start.level, [])
    module.to(resolve_device(device, rows.dtype))
    rows.share.copy_first([*module.parameters(), *module.buffers()])
    module.refresh()
    budget = Budget(n_passes, n_passes, n_rows=rows.most_samples)
    plan = TrainingPlan(
        NaturalGradient(module.parameters()), guard=_guard(module, budget)
    )
    # All rows at once: nothing is drawn.
    rng = np.random.RandomState(start.random_state.randint(2**31 - 1))
    try:
        train(module, rows, plan, budget=budget, tol=1e-6, rng=rng)
    except Interrupted:
        # The model that this is the start of has not made a pass yet.
        raise KeyboardInterrupt from None
    rows.share.copy_first(list(module.buffers()))
    module.eval().refresh()
    return module
