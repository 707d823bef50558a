"""Models with two networks: one infers the factors of a row, one generates the row.

z_n ~ p(z), x_n ~ p(x | z_n) with a decoder f(z) and one of these likelihoods:

gaussian
    x_v ~ N(m_v + s_v f_v(z), s_v^2 exp(t_v)), with m and s the means and standard
    deviations of the training data, and t learnt: one number, or one for each feature.
bernoulli
    x_v ~ Bernoulli(sigmoid(f_v(z))). Of grey values in [0, 1], minus the cross-entropy.
poisson
    x_v ~ Poisson(exp(f_v(z))).
multinomial
    Words in order given their number, each drawn in proportion to exp(f_v(z)).

With a linear decoder and Gaussian noise the expected log likelihood under a factorised
posterior with means m and variances v has a closed form,

    E log p(x | z) = log p(x | m) - 1/2 sum_k v_k sum_j W_jk^2 / exp(t_j);

all others are sampled: one draw a row in training, more for scores, whose noise is a
function of the row's content.

What is missing from a row is left out of all sums over features. The encoder sees the
mean of the feature in its place.
"""

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from skdeepfactor._estimator.domains import Counts, RealNumbers, UnitInterval
from skdeepfactor._estimator.sampled import SampledFactorModel
from skdeepfactor._math.batch import Batch, Entries, to_tensor
from skdeepfactor._math.importance import renyi_bound
from skdeepfactor._math.likelihoods import LARGEST_MEAN, multinomial, poisson
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.networks import N_TYPICAL, Decoder, Layers, typical_length
from skdeepfactor._math.noise import keyed_normal, keyed_uniform
from skdeepfactor._math.ops import dense, map_values
from skdeepfactor._math.starts import column_moments, imputed, initial_logits

# The least variance of noise, as a share of that of the data. A feature that never
# varies would have an infinite density.
NOISE_FLOOR = 1e-6

# Standard deviations from the mean beyond which the encoder sees no difference.
FARTHEST = 10.0

# Size of the weights between the last layer and the features, at first.
START = 0.02

# Log variance of Gaussian noise at first, in units of the data: so low that a decoder
# whose gradients are sampled has much to gain from the start.
NOISE_START = -2.0

# Size of the encoder's outputs, at first, for typical rows.
ENCODER_START = 0.1

# Draws for a bound that has no closed form, where it is a score.
N_DRAWS = 20

# Particles at a time.
N_TOGETHER = 50

# Dimensions with less variance of their posterior means over rows are not in use.
ACTIVE_VARIANCE = 0.01

COUNTS = ("poisson", "multinomial")


# In the place of logits of what is missing: so low that they are of no weight.
NO_LOGIT = -1e30


class Data(NamedTuple):
    """A batch in the form that likelihoods take: dense values, or entries of counts.

    ``observed`` is 1 where an entry is there and 0 where it is missing; None where
    nothing is.
    """

    batch: Batch
    x: torch.Tensor
    values: torch.Tensor | None
    entries: Entries | None
    observed: torch.Tensor | None

    def keys(self):
        """What noise that depends on the rows alone is made of."""
        return self.batch.keys


class Observation(nn.Module):
    """p(x | z): a decoder and a likelihood."""

    def __init__(
        self,
        n_components,
        layers,
        n_features,
        *,
        likelihood,
        noise,
        has_skips,
        may_miss=False,
    ):
        super().__init__()
        self.likelihood = likelihood
        self.may_miss = may_miss
        self.decoder = Decoder(n_components, layers, n_features, has_skips=has_skips)
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        if likelihood == "gaussian":
            n_noises = n_features if noise == "diagonal" else 1
            self.log_noise = nn.Parameter(torch.zeros(n_noises))

    @property
    def is_closed_form(self):
        """Whether expectations over factorised posteriors have a closed form."""
        return self.likelihood == "gaussian" and self.decoder.is_linear

    def seen(self, batch):
        """A batch of any layout, made ready."""
        x, observed = batch.x, batch.observed
        if self.likelihood in COUNTS:
            return Data(batch, batch.counts, None, batch.entries, observed)
        values = dense(x)
        if observed is not None:
            values = torch.where(observed > 0, values, self.center)
        if self.likelihood == "gaussian":
            values = (values - self.center) / self.scale
        return Data(batch, x, values, None, observed)

    def inputs(self, seen):
        """What the encoder sees of a batch."""
        if self.likelihood in COUNTS:
            x = seen.x
            if seen.observed is not None:
                x = dense(x) + (1 - seen.observed) * self.center
            return map_values(torch.log1p, x)
        if self.likelihood == "bernoulli":
            return seen.values - self.center
        return seen.values.clamp(-FARTHEST, FARTHEST)

    def log_likelihood(self, seen, z, *, given_total=False):
        """Log p(x | z) in float64, (..., n_rows), of z, (..., n_rows, k)."""
        outputs = self.decoder(z)
        if self.likelihood == "gaussian":
            return self._gaussian(seen, outputs)
        if self.likelihood == "bernoulli":
            values = seen.values.expand_as(outputs)
            entropy = binary_cross_entropy_with_logits(
                outputs, values, reduction="none"
            )
            if seen.observed is not None:
                entropy = entropy * seen.observed
            return -entropy.sum(-1, dtype=torch.float64)
        x, known = seen.entries, outputs
        if seen.observed is not None:
            known = outputs.masked_fill(seen.observed == 0, NO_LOGIT)
        log_total = known.logsumexp(-1).double()
        logits = outputs[..., x.rows, x.columns].double()
        if self.likelihood == "poisson" and not given_total:
            return poisson(x, logits, log_total)
        return multinomial(x, logits, log_total)

    def expected_log_likelihood(self, seen, mean, var):
        """The same, expected over factors with these means and variances."""
        spread = self.decoder.weight.square() / self._noise()[:, None]
        spread = spread.sum(0) if seen.observed is None else seen.observed @ spread
        at_mean = self._gaussian(seen, self.decoder(mean))
        return at_mean - 0.5 * (var * spread).sum(-1, dtype=torch.float64)

    def _noise(self):
        """Variances of the noise of each feature, in units of its scale."""
        return (self.log_noise.exp() + NOISE_FLOOR).expand_as(self.scale)

    def _gaussian(self, seen, outputs):
        noise = self._noise()
        square = (seen.values - outputs).square() / noise
        constant = noise.log() + 2 * self.scale.log()
        if seen.observed is None:
            constant = constant.sum(dtype=torch.float64)
            constant = constant + len(noise) * math.log(2 * math.pi)
        else:
            square = square * seen.observed
            constant = constant.double() + math.log(2 * math.pi)
            constant = seen.observed.double() @ constant
        return -0.5 * (square.sum(-1, dtype=torch.float64) + constant)

    def mean(self, z):
        """E[x | z]; of words given their number, their shares."""
        outputs = self.decoder(z)
        if self.likelihood == "gaussian":
            return self.center + self.scale * outputs
        if self.likelihood == "bernoulli":
            return outputs.sigmoid()
        return (
            outputs.softmax(-1) if self.likelihood == "multinomial" else outputs.exp()
        )

    def jacobian(self, z):
        """The mean slope of what is linear in the outputs, (n_features, k).

        That is E[x | z] of Gaussian data, log odds of binary data, and the logarithm of
        E[x | z] of counts.
        """
        of_shares = self.likelihood == "multinomial"
        slopes = self.decoder.jacobian(z, of_shares=of_shares)
        return self.scale[:, None] * slopes

    @torch.no_grad()
    def sample(self, z, totals, generator):
        """Rows of z as data, by a NumPy generator."""
        mean = self.mean(z).double().cpu().numpy()
        if self.likelihood == "gaussian":
            scale = self.scale * self._noise().sqrt()
            return generator.normal(mean, scale.double().cpu().numpy())
        if self.likelihood == "bernoulli":
            return generator.binomial(1, mean).astype(np.float64)
        if self.likelihood == "poisson":
            return generator.poisson(np.minimum(mean, LARGEST_MEAN))
        return generator.multinomial(totals, mean / mean.sum(1, keepdims=True))

    def initialize(self, X, generator):
        """Units of the data, and weights that say little yet."""
        decoder = self.decoder
        mean, std = column_moments(X)
        bias = np.zeros(len(mean))
        if self.likelihood not in COUNTS or self.may_miss:
            self.center.copy_(torch.from_numpy(mean))
        if self.likelihood in COUNTS:
            known = imputed(X) if self.may_miss else X
            bias = initial_logits(known, given_total=self.likelihood == "multinomial")
        if self.likelihood == "bernoulli":
            mean = mean.clip(0.01, 0.99)
            bias = np.log(mean / (1 - mean))
        if self.likelihood == "gaussian":
            varies = std > 0
            typical = np.sqrt(np.mean(std[varies] ** 2)) if varies.any() else 1.0
            is_shared = len(self.log_noise) == 1
            scale = np.where(varies & (not is_shared), std, typical)
            self.scale.copy_(torch.from_numpy(scale))
        decoder.bias.data.copy_(torch.from_numpy(bias))
        if not decoder.is_linear:
            scale = decoder.hidden.weights[0].shape[0] ** -0.5
            decoder.hidden.initialize(generator, input_scale=scale, output_scale=1.0)
        if self.likelihood == "gaussian" and not self.is_closed_form:
            self.log_noise.data.fill_(NOISE_START)
        decoder.weight.data.normal_(generator=generator).mul_(START)


class AmortizedModule(FactorModule):
    """Rows from factors through a decoder, factors from rows through an encoder.

    A model says what q(z | x) is made of the encoder's outputs, how it is drawn from,
    and its divergence from the prior.
    """

    #: Outputs of the encoder for each factor.
    n_heads = 2

    #: Draws of each row in training, where there is no closed form.
    n_training_draws = 1

    def __init__(
        self,
        shape,
        *,
        likelihood,
        noise,
        encoder_layers,
        decoder_layers,
        skip_connections,
        may_miss=False,
        n_pseudo_inputs=0,
    ):
        super().__init__()
        n_components, n_features = shape
        self.n_components, self.may_miss = n_components, may_miss
        self.encoder = Layers(
            [n_features, *encoder_layers, self.n_heads * n_components]
        )
        self.observation = Observation(
            n_components,
            decoder_layers,
            n_features,
            likelihood=likelihood,
            noise=noise,
            has_skips=skip_connections,
            may_miss=may_miss,
        )
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.float64))
        # Moving averages over rows of posterior means, their squares, and more.
        self.register_buffer("moments", torch.zeros(self.n_heads, n_components))
        self.pseudo_inputs = None
        if n_pseudo_inputs:
            self.pseudo_inputs = nn.Parameter(torch.zeros(n_pseudo_inputs, n_features))
            self.prior_logits = nn.Parameter(torch.zeros(n_pseudo_inputs))
        self.generator = None

    @abstractmethod
    def distribution(self, outputs):
        """Posteriors from what the encoder gives for rows."""

    @abstractmethod
    def draws(self, q, seen, n_draws, stream=0):
        """Draws (n_draws, n_rows, k) of posteriors; see ``normal``."""

    @abstractmethod
    def kl(self, q):
        """KL(q || prior) of each row, or an upper bound on it, in float64."""

    @abstractmethod
    def log_prior(self, z):
        """Log p(z) in float64, (...), of z, (..., k)."""

    @abstractmethod
    def draw_prior(self, n_rows, generator):
        """Rows of factors from the prior, (n_rows, k), by a generator of the CPU."""

    @abstractmethod
    def objective(self, seen, q):
        """Bounds of rows, and what training maximises instead, both (n_rows,)."""

    @abstractmethod
    def activity(self, q):
        """What ``moments`` averages, (n_heads, n_rows, k)."""

    @property
    def work_width(self):
        return max(self.n_components, len(self.observation.center))

    def seed(self, seed):
        device = self.observation.center.device
        self.generator = torch.Generator(device).manual_seed(seed)

    def posterior(self, batch, start=None):
        return self._encode(self.observation.seen(batch))

    def _encode(self, seen):
        return self.distribution(self.encoder(self.observation.inputs(seen)))

    def elbo(self, batch, q=None):
        return self._bounds(batch, q)

    def word_bound(self, batch):
        return self._bounds(batch, given_total=True)

    def _bounds(self, batch, q=None, **given):
        seen = self.observation.seen(batch)
        if q is None:
            q = self._encode(seen)
        return self.expected_log_likelihood(seen, q, **given) - self.kl(q)

    def expected_log_likelihood(self, seen, q, **given):
        """E_q[log p(x | z)] of each row: in closed form, or by draws."""
        if self.observation.is_closed_form:
            return self.observation.expected_log_likelihood(seen, q.mean, q.variance)
        n_draws = self.n_training_draws if self.training else N_DRAWS
        draws = self.draws(q, seen, n_draws, stream=10**6)
        parts = [self.observation.log_likelihood(seen, z, **given) for z in draws]
        return torch.stack(parts).mean(0)

    def log_joint(self, batch, z):
        """Log p(x, z) in float64, (n_particles, n_rows), of z with particles first."""
        return self._log_joint(self.observation.seen(batch), z)

    def _log_joint(self, seen, z):
        return self.observation.log_likelihood(seen, z) + self.log_prior(z)

    def iwae(self, batch, n_particles):
        """Importance weighted bound of each row, (n_rows,)."""
        seen = self.observation.seen(batch)
        q = self._encode(seen)
        weights = []
        for start in range(0, n_particles, N_TOGETHER):
            n_draws = min(N_TOGETHER, n_particles - start)
            for z in self.draws(q, seen, n_draws, stream=2 * 10**6 + start):
                weights.append(self._log_joint(seen, z) - q.log_prob(z).double())
        return renyi_bound(torch.stack(weights), 0.0)

    def decode(self, z):
        return self.observation.mean(z)

    def components(self):
        generator = torch.Generator().manual_seed(0)
        return self.jacobian(self.draw_prior(100, generator)).T

    def jacobian(self, z):
        """The mean slopes of the features in the factors over the rows of z."""
        return self.observation.jacobian(z)

    @torch.no_grad()
    def sample(self, totals, generator):
        seed = int(generator.integers(2**31))
        z = self.draw_prior(len(totals), torch.Generator().manual_seed(seed))
        return self.observation.sample(z, totals, generator)

    def backward(self, batch, n_samples, start=None):
        seen = self.observation.seen(batch)
        q = self._encode(seen)
        bounds, objective = self.objective(seen, q)
        (-batch.weight * objective.sum()).backward()
        with torch.no_grad():
            moments = self.activity(q).mean(1)
            rate = max(0.05, 1 / (1 + self.n_updates.item()))
            self.moments.lerp_(moments, rate * min(1.0, batch.share))
        return bounds.detach(), None

    @torch.no_grad()
    def after_step(self):
        self.n_updates += 1

    def normal(self, seen, n_draws, like, stream=0):
        """Standard normal draws: fresh in training, else keyed by the rows."""
        if self.training:
            shape = (n_draws, *like.shape)
            return like.new_empty(shape).normal_(generator=self.generator)
        return keyed_normal(
            seen.keys(), n_draws, like.shape[1], stream=stream, dtype=like.dtype
        )

    def uniform(self, seen, n_draws, like, stream=0):
        """Uniform draws, likewise."""
        if self.training:
            shape = (n_draws, *like.shape)
            return like.new_empty(shape).uniform_(generator=self.generator)
        keys = seen.keys()
        return keyed_uniform(keys, n_draws, like.shape[1], stream=stream).to(like)

    def initialize(self, X, random_state):
        """Set all parameters for the first pass over X."""
        generator = torch.Generator().manual_seed(random_state.randint(2**31 - 1))
        self.observation.initialize(X, generator)
        length = typical_length(self._inputs_of(X, slice(N_TYPICAL)))
        self.encoder.initialize(
            generator, input_scale=1 / length, output_scale=ENCODER_START
        )
        if self.pseudo_inputs is not None:
            rows = random_state.choice(X.shape[0], len(self.pseudo_inputs))
            self.pseudo_inputs.data.copy_(dense(self._inputs_of(X, rows)))

    def _inputs_of(self, X, rows):
        x = to_tensor(X, rows, dtype=self.moments.dtype, device="cpu")
        batch = Batch.of(x, may_miss=self.may_miss)
        return self.observation.inputs(self.observation.seen(batch))


class AmortizedFactorModel(SampledFactorModel):
    """An estimator around an ``AmortizedModule``, whose likelihood is a parameter."""

    _parameter_constraints: ClassVar[dict] = {
        **SampledFactorModel._parameter_constraints,
        "likelihood": [StrOptions({"gaussian", "bernoulli", *COUNTS})],
        "noise": [StrOptions({"diagonal", "spherical"})],
        "missing_values": [StrOptions({"error", "ignore"})],
    }

    @property
    def _domain(self):
        domains = {"gaussian": RealNumbers, "bernoulli": UnitInterval}
        return domains.get(self.likelihood, Counts)()

    def sample(self, n_samples=1, *, n_tokens=None, random_state=None):
        """Draw rows from the model.

        Factors are drawn from the prior, and rows given these from the likelihood.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each, for ``likelihood="multinomial"``; by default drawn from the
            totals of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        ndarray or CSR matrix of shape (n_samples, n_features)
            CSR where the likelihood is one of counts.

        See Also
        --------
        inverse_transform : Expected rows given factors.

        Examples
        --------
        >>> from skdeepfactor import VariationalAutoencoder
        >>> X = [[0.5, 2.0, 1.0], [1.5, 0.0, 3.0], [0.7, 1.8, 1.2], [1.4, 0.1, 2.9]]
        >>> model = VariationalAutoencoder(1, max_iter=5, random_state=0).fit(X)
        >>> model.sample(3, random_state=0).shape
        (3, 3)
        """
        return self._sample(n_samples, n_tokens, random_state)

    def _initialize(self, module, start):
        module.initialize(start.X, start.random_state)

    def _parameter_groups(self, module):
        return [{"params": list(module.parameters()), "lr": self.learning_rate}]

    def _shared_settings(self):
        """What both kinds of module take."""
        self._check_layers()
        if self._may_miss and self.likelihood == "multinomial":
            raise ValueError(
                "missing_values='ignore' needs likelihood='gaussian', 'bernoulli' or "
                "'poisson', since 'multinomial' is told the total of each row."
            )
        return {
            "likelihood": self.likelihood,
            "noise": self.noise,
            "encoder_layers": tuple(self.encoder_layers),
            "decoder_layers": tuple(self.decoder_layers),
            "skip_connections": self.skip_connections,
            "may_miss": self._may_miss,
        }

    def _fitted(self, module):
        mean, square = module.moments[:2].double().cpu().numpy()
        is_active = square - mean**2 > ACTIVE_VARIANCE
        return {"n_active_components_": int(is_active.sum())}
