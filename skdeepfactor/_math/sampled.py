"""Modules that are learnt by stochastic gradients and have a bound by draws."""

from abc import ABC, abstractmethod

import torch

from skdeepfactor._math.importance import renyi_bound
from skdeepfactor._math.module import FactorModule, in_updates
from skdeepfactor._math.noise import FreshNoise, KeyedNoise, Stream

# Draws for a bound that has no closed form, where it is a score.
N_DRAWS = 20

# Particles at a time: memory must not grow with their number.
N_TOGETHER = 50

# Dimensions with less variance of their posterior means over rows are not in use.
ACTIVE_VARIANCE = 0.01

# Draws of the prior over which slopes are averaged.
N_SLOPES = 100

# Weight of a batch in the moving moments, once many have been seen.
LEAST_RATE = 0.05


class SampledModule(FactorModule, ABC):
    """Base of modules whose bound or scores need draws of the factors."""

    #: Numbers of each factor of which moving averages are kept: the posterior mean, its
    #: square, and more.
    n_moments = 2

    #: Updates, or the share of training, over which the divergence comes in.
    kl_warmup: float = 0

    def __init__(self, n_components):
        super().__init__()
        # Tensors are not split by NumPy's ints, of which a grid of numbers has some.
        self.n_components = int(n_components)
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.float64))
        # Moving averages over rows.
        self.register_buffer("moments", torch.zeros(self.n_moments, n_components))
        self.generator = None

    @abstractmethod
    def draws(self, q, batch, n_draws, stream=0):
        """Draws (n_draws, n_rows, k) of posteriors; see ``noise``."""

    @abstractmethod
    def log_joint(self, batch, z):
        """Log p(x, z) in float64, (..., n_rows), of z, (..., n_rows, k)."""

    @abstractmethod
    def draw_prior(self, n_rows, generator):
        """Rows of factors from the prior, (n_rows, k), by a generator of the CPU."""

    @abstractmethod
    def jacobian(self, z):
        """The mean slopes of the features over the rows of z, (n_features, k)."""

    def seed(self, seed):
        self.generator = torch.Generator(self.moments.device).manual_seed(seed)

    def noise(self, batch, like, n_draws, stream=0):
        """Noise of shape (n_draws, *like.shape): fresh in training, else keyed by rows.

        ``like`` is (n_rows, width).
        """
        if self.training:
            return FreshNoise(like, n_draws, self.generator)
        return KeyedNoise(like, n_draws, batch.keys, stream)

    def bound_by_particles(self, batch, alpha, n_particles):
        """Rényi bound of each row, (n_rows,); importance weighted if alpha is 0."""
        q = self.posterior(batch)
        weights = []
        for start in range(0, n_particles, N_TOGETHER):
            n_draws = min(N_TOGETHER, n_particles - start)
            for z in self.draws(q, batch, n_draws, Stream.PARTICLES + start):
                weights.append(self.log_joint(batch, z) - q.log_prob(z).double())
        return renyi_bound(torch.stack(weights), alpha)

    def components(self):
        """The mean slopes of the features over the prior, transposed."""
        generator = torch.Generator().manual_seed(0)
        return self.jacobian(self.draw_prior(N_SLOPES, generator)).T

    def kl_weight(self):
        """The weight of the divergence in this update."""
        warmup = in_updates(self.kl_warmup, self.n_total)
        if not self.training or warmup == 0:
            return 1.0
        return min(1.0, (1 + self.n_updates.item()) / warmup)

    @torch.no_grad()
    def note_moments(self, moments, share):
        """Record a batch's means over rows of the values that ``moments`` averages.

        ``share`` is the batch's share of a step.
        """
        rate = max(LEAST_RATE, 1 / (1 + self.n_updates.item()))
        self.moments.lerp_(moments, rate * min(1.0, share))

    def n_active_components(self):
        """Number of factors whose posterior means vary over rows."""
        mean, square = self.moments[:2].double()
        return int((square - mean**2 > ACTIVE_VARIANCE).sum())

    @torch.no_grad()
    def after_step(self):
        self.n_updates += 1
        self.refresh()
