"""Modules with two networks: one infers the factors of a row, one generates the row.

z_n ~ p(z), x_n ~ p(x | f(z_n)) with a decoder f and a likelihood of
``observations.py``. If the expected log likelihood has no closed form, it is sampled:
with one draw per row in training, and more for scores, whose noise is a function of the
row's content.
"""

from abc import ABC, abstractmethod

import torch

from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.networks import N_TYPICAL, Layers, typical_length
from skdeepfactor._math.noise import Stream
from skdeepfactor._math.ops import dense
from skdeepfactor._math.sampled import N_DRAWS, SampledModule

# Size of the encoder's outputs, at first, for typical rows.
ENCODER_START = 0.1


class AmortizedModule(SampledModule, ABC):
    """Rows from factors through a decoder, factors from rows through an encoder.

    A model defines q(z | x) from the encoder's outputs, its draws, and its divergence
    from the prior; ``prior`` holds the learnt parameters of the prior, if any.
    """

    #: Outputs of the encoder for each factor.
    n_heads = 2

    #: Draws of each row in training, if there is no closed form.
    n_training_draws = 1

    def __init__(self, n_components, observation, encoder_layers, prior):
        super().__init__(n_components)
        self.may_miss = observation.may_miss
        n_features, n_outputs = len(observation.center), self.n_heads * n_components
        self.encoder = Layers([n_features, *encoder_layers, n_outputs])
        self.observation, self.prior = observation, prior

    @abstractmethod
    def distribution(self, outputs):
        """Posteriors from the outputs of the encoder for rows."""

    @abstractmethod
    def kl(self, q):
        """KL(q || prior) of each row, or an upper bound on it, in float64."""

    @abstractmethod
    def log_prior(self, z):
        """Log p(z) in float64, (...), of z, (..., k)."""

    @abstractmethod
    def objective(self, batch, q):
        """Bounds of rows, and the objective of training, both (n_rows,)."""

    @abstractmethod
    def activity(self, q):
        """Values that ``moments`` averages, (n_moments, n_rows, k)."""

    @property
    def work_width(self):
        return max(self.n_components, len(self.observation.center))

    def posterior(self, batch, start=None):
        return self.distribution(self.encoder(self.observation.inputs(batch)))

    def elbo(self, batch, q=None):
        q = self.posterior(batch) if q is None else q
        return self.expected_log_likelihood(batch, q) - self.kl(q)

    def word_bound(self, batch):
        q = self.posterior(batch)
        likelihood = self.observation.word_log_likelihood
        return self._mean_over_draws(likelihood, batch, q) - self.kl(q)

    def expected_log_likelihood(self, batch, q):
        """E_q[log p(x | z)] of each row: in closed form, or by draws."""
        observation = self.observation
        if observation.is_closed_form:
            return observation.expected_log_likelihood(batch, q.mean, q.variance)
        return self._mean_over_draws(observation.log_likelihood, batch, q)

    def _mean_over_draws(self, log_likelihood, batch, q):
        n_draws = self.n_training_draws if self.training else N_DRAWS
        draws = self.draws(q, batch, n_draws, Stream.BOUND)
        return torch.stack([log_likelihood(batch, z) for z in draws]).mean(0)

    def log_joint(self, batch, z):
        return self.observation.log_likelihood(batch, z) + self.log_prior(z)

    def decode(self, z):
        return self.observation.mean(z)

    def jacobian(self, z):
        return self.observation.jacobian(z)

    @torch.no_grad()
    def sample(self, totals, generator):
        seed = int(generator.integers(2**31))
        z = self.draw_prior(len(totals), torch.Generator().manual_seed(seed))
        return self.observation.sample(z, totals, generator)

    def backward(self, batch, n_samples, start=None):
        q = self.posterior(batch)
        bounds, objective = self.objective(batch, q)
        (-batch.weight * objective.sum()).backward()
        with torch.no_grad():
            self.note_moments(self.activity(q).mean(1), batch.share)
        return bounds.detach(), None

    def initialize(self, X, random_state):
        """Set all parameters for the first pass over X."""
        generator = torch.Generator().manual_seed(random_state.randint(2**31 - 1))
        self.observation.initialize(X, generator)
        length = typical_length(self._inputs_of(X, slice(N_TYPICAL)))
        self.encoder.initialize(
            generator, input_scale=1 / length, output_scale=ENCODER_START
        )
        if self.prior is not None and self.prior.pseudo_inputs is not None:
            rows = random_state.choice(X.shape[0], len(self.prior.pseudo_inputs))
            self.prior.pseudo_inputs.data.copy_(dense(self._inputs_of(X, rows)))

    def _inputs_of(self, X, rows):
        x = to_tensor(X, rows, dtype=self.moments.dtype, device="cpu")
        return self.observation.inputs(Batch.of(x, may_miss=self.may_miss))
