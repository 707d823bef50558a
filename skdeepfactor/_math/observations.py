"""Likelihoods of autoencoders, given the outputs of a decoder.

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

all others are sampled. Missing entries are left out of all sums over features; the
encoder sees the mean of the feature in their place.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from skdeepfactor._math.likelihoods import LIKELIHOODS
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

# Means of binary features at first: none is certain.
BERNOULLI_RANGE = (0.01, 0.99)


class Observation(nn.Module, ABC):
    """p(x | z): a decoder, and the likelihood given its outputs.

    ``center`` is the encoder's input for missing entries, in units of the data;
    ``scale`` is the size of one unit of the outputs.
    """

    #: Whether expectations over factorised posteriors have a closed form.
    is_closed_form = False

    #: Whether the outputs matter only up to a constant in each row.
    is_given_total = False

    def __init__(self, decoder, *, may_miss=False):
        super().__init__()
        self.decoder, self.may_miss = decoder, may_miss
        self.register_buffer("center", torch.zeros(len(decoder.bias)))
        self.register_buffer("scale", torch.ones(len(decoder.bias)))

    @abstractmethod
    def inputs(self, batch):
        """Inputs of the encoder for a batch."""

    @abstractmethod
    def log_likelihood(self, batch, z):
        """Log p(x | z) in float64, (..., n_rows), of z, (..., n_rows, k)."""

    def word_log_likelihood(self, batch, z):
        """Log likelihood of counts as words in order, given their number."""
        return self.log_likelihood(batch, z)

    @abstractmethod
    def mean(self, z):
        """E[x | z]; of words given their number, their shares."""

    @abstractmethod
    def sample(self, z, totals, generator):
        """Rows of z as data, by a NumPy generator."""

    def jacobian(self, z):
        """Mean slope of the quantity that is linear in the outputs, (n_features, k).

        That is E[x | z] of Gaussian data, log odds of binary data, and the logarithm of
        E[x | z] of counts.
        """
        slopes = self.decoder.jacobian(z, of_shares=self.is_given_total)
        return self.scale[:, None] * slopes

    def initialize(self, X, generator):
        """Set the units of the data, and small initial weights."""
        decoder = self.decoder
        decoder.bias.data.copy_(torch.from_numpy(self._first_outputs(X)))
        if not decoder.is_linear:
            scale = decoder.hidden.weights[0].shape[0] ** -0.5
            decoder.hidden.initialize(generator, input_scale=scale, output_scale=1.0)
        decoder.weight.data.normal_(generator=generator).mul_(START)

    @abstractmethod
    def _first_outputs(self, X):
        """Set the units; return the outputs that give the mean of X, an array."""

    def _known(self, batch):
        """The rows as a strided tensor, with centers in place of missing entries."""
        values = batch.dense
        if batch.observed is None:
            return values
        return torch.where(batch.observed > 0, values, self.center)


class GaussianObservation(Observation):
    """Real numbers with noise of one variance, or of one for each feature."""

    def __init__(self, decoder, *, has_one_noise=False, may_miss=False):
        super().__init__(decoder, may_miss=may_miss)
        n_noises = 1 if has_one_noise else len(decoder.bias)
        self.log_noise = nn.Parameter(torch.zeros(n_noises))

    @property
    def is_closed_form(self):
        return self.decoder.is_linear

    def inputs(self, batch):
        return self._values(batch).clamp(-FARTHEST, FARTHEST)

    def _values(self, batch):
        """The rows in units of the outputs."""
        return (self._known(batch) - self.center) / self.scale

    def noise(self):
        """Variances of the noise of each feature, in units of its scale."""
        return (self.log_noise.exp() + NOISE_FLOOR).expand_as(self.scale)

    def log_likelihood(self, batch, z):
        noise = self.noise()
        square = (self._values(batch) - self.decoder(z)).square() / noise
        constant = noise.log() + 2 * self.scale.log()
        if batch.observed is None:
            constant = constant.sum(dtype=torch.float64)
            constant = constant + len(noise) * math.log(2 * math.pi)
        else:
            square = square * batch.observed
            constant = constant.double() + math.log(2 * math.pi)
            constant = batch.observed.double() @ constant
        return -0.5 * (square.sum(-1, dtype=torch.float64) + constant)

    def expected_log_likelihood(self, batch, mean, var):
        """Log likelihood expected over factors with these means and variances."""
        spread = self.decoder.weight.square() / self.noise()[:, None]
        is_whole = batch.observed is None
        spread = spread.sum(0) if is_whole else batch.observed @ spread
        at_mean = self.log_likelihood(batch, mean)
        return at_mean - 0.5 * (var * spread).sum(-1, dtype=torch.float64)

    def mean(self, z):
        return self.center + self.scale * self.decoder(z)

    @torch.no_grad()
    def sample(self, z, totals, generator):
        scale = self.scale * self.noise().sqrt()
        mean, scale = (part.double().cpu().numpy() for part in (self.mean(z), scale))
        return generator.normal(mean, scale)

    def _first_outputs(self, X):
        mean, std = column_moments(X)
        varies = std > 0
        typical = np.sqrt(np.mean(std[varies] ** 2)) if varies.any() else 1.0
        is_shared = len(self.log_noise) == 1
        scale = np.where(varies & (not is_shared), std, typical)
        self.center.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))
        if not self.is_closed_form:
            self.log_noise.data.fill_(NOISE_START)
        return np.zeros(len(mean))


class BernoulliObservation(Observation):
    """Zeros and ones, or numbers between them."""

    def inputs(self, batch):
        return self._known(batch) - self.center

    def log_likelihood(self, batch, z):
        outputs = self.decoder(z)
        values = self._known(batch).expand_as(outputs)
        entropy = binary_cross_entropy_with_logits(outputs, values, reduction="none")
        if batch.observed is not None:
            entropy = entropy * batch.observed
        return -entropy.sum(-1, dtype=torch.float64)

    def mean(self, z):
        return self.decoder(z).sigmoid()

    @torch.no_grad()
    def sample(self, z, totals, generator):
        mean = self.mean(z).double().cpu().numpy()
        return generator.binomial(1, mean).astype(np.float64)

    def _first_outputs(self, X):
        mean, _ = column_moments(X)
        self.center.copy_(torch.from_numpy(mean))
        mean = mean.clip(*BERNOULLI_RANGE)
        return np.log(mean / (1 - mean))


class CountObservation(Observation):
    """Counts, by a ``CountLikelihood``."""

    def __init__(self, decoder, likelihood, *, may_miss=False):
        super().__init__(decoder, may_miss=may_miss)
        self.likelihood = likelihood

    @property
    def is_given_total(self):
        return self.likelihood.is_given_total

    def inputs(self, batch):
        x = batch.counts
        if batch.observed is not None:
            x = dense(x) + (1 - batch.observed) * self.center
        return map_values(torch.log1p, x)

    def log_likelihood(self, batch, z):
        return self.likelihood.log_likelihood(batch, self.decoder(z))

    def word_log_likelihood(self, batch, z):
        return self.likelihood.given_total.log_likelihood(batch, self.decoder(z))

    def mean(self, z):
        return self.likelihood.mean(self.decoder(z))

    @torch.no_grad()
    def sample(self, z, totals, generator):
        return self.likelihood.sample(self.decoder(z), totals, generator)

    def _first_outputs(self, X):
        if self.may_miss:
            self.center.copy_(torch.from_numpy(column_moments(X)[0]))
            X = imputed(X)
        return initial_logits(X, given_total=self.is_given_total)


def observation_of(likelihood, noise, decoder, *, may_miss=False):
    """The ``Observation`` that parameters of an autoencoder name."""
    if likelihood == "gaussian":
        return GaussianObservation(
            decoder, has_one_noise=noise == "spherical", may_miss=may_miss
        )
    if likelihood == "bernoulli":
        return BernoulliObservation(decoder, may_miss=may_miss)
    return CountObservation(decoder, LIKELIHOODS[likelihood](), may_miss=may_miss)
