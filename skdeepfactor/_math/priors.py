r"""Priors of the factors of a row, and free bits in the divergence from them.

A prior gives a density, which may need more than the prior's parameters: a mixture of
the encoder's posteriors at pseudo-inputs, :math:`p(z) = \sum_u \pi_u q(z | x_u)`, needs
the encoder. For mixtures the divergence of Gaussians is bounded by :math:`-\log \sum_c
\pi_c e^{-KL(q \| N(a_c, B_c))}`.

Tomczak and Welling (2018), VAE with a VampPrior; Kingma et al. (2016), Improved
variational inference with inverse autoregressive flow, for free bits.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.distributions import Laplace, Normal, kl_divergence

from skdeepfactor.distributions import GaussianMixture


class Prior(nn.Module, ABC):
    """p(z), whose parameters may be learnt.

    Constructors take the numbers of components, features and mixture parts.
    """

    def __init__(self, shape, n_parts):
        super().__init__()
        # Carries the device and the type; nothing to be saved.
        self.register_buffer("origin", torch.zeros(1, shape[0]), persistent=False)
        self.pseudo_inputs = None

    @abstractmethod
    def density(self, encode):
        """p(z), with methods ``log_prob(z)``, ``kl(q)`` and ``sample``.

        ``encode`` maps inputs of the encoder to means and log variances.
        """

    def mixture(self, encode):
        """p(z) as a ``GaussianMixture``, where it is one, for bounds with slopes."""
        return self.density(encode)


class Mixture(Prior):
    """A mixture of Gaussians that are learnt."""

    def __init__(self, shape, n_parts):
        super().__init__(shape, n_parts)
        self.mean = nn.Parameter(torch.zeros(n_parts, shape[0]))
        self.log_var = nn.Parameter(torch.zeros_like(self.mean))
        self.logits = nn.Parameter(torch.zeros(n_parts))

    def density(self, encode):
        return GaussianMixture(self.mean, self.log_var, self.logits.log_softmax(0))


class PseudoInputs(Prior):
    """A mixture of the encoder's own posteriors at inputs that are learnt."""

    def __init__(self, shape, n_parts):
        super().__init__(shape, n_parts)
        self.pseudo_inputs = nn.Parameter(torch.zeros(n_parts, shape[1]))
        self.logits = nn.Parameter(torch.zeros(n_parts))

    def density(self, encode):
        parts = encode(self.pseudo_inputs)
        return GaussianMixture(*parts, self.logits.log_softmax(0))


class Factors(Prior, ABC):
    """Independent, identically distributed factors: a prior that is its own density."""

    @abstractmethod
    def law(self):
        """The distribution of one factor."""

    def density(self, encode):
        return self

    def kl_of_factors(self, q):
        """KL of each factor of an ``Independent`` posterior, (n_rows, k)."""
        return kl_divergence(q.base_dist, self.law())

    def kl(self, q):
        """KL(q || p) of each row, (n_rows,), float64."""
        return self.kl_of_factors(q).sum(1, dtype=torch.float64)

    def log_prob(self, z):
        """Log p(z) in float64, (...), of z, (..., k)."""
        return self.law().log_prob(z).sum(-1, dtype=torch.float64)

    @abstractmethod
    def sample(self, n_rows, generator):
        """Draws, (n_rows, k), by a generator of the CPU."""


class StandardNormal(Factors):
    """Standard normal factors."""

    def mixture(self, encode):
        return GaussianMixture.standard(self.origin.shape[1], like=self.origin)

    def law(self):
        zero = self.origin.new_zeros(())
        return Normal(zero, zero + 1, validate_args=False)

    def sample(self, n_rows, generator):
        shape = n_rows, self.origin.shape[1]
        draws = torch.randn(shape, generator=generator, dtype=torch.float32)
        return draws.to(self.origin)


class LaplaceFactors(Factors):
    """Laplace factors of unit variance."""

    def law(self):
        zero = self.origin.new_zeros(())
        return Laplace(zero, (zero + 1) / math.sqrt(2), validate_args=False)

    def sample(self, n_rows, generator):
        # The difference of two exponential draws.
        shape = 2, n_rows, self.origin.shape[1]
        draws = torch.empty(shape, dtype=torch.float32)
        one, other = draws.exponential_(generator=generator)
        return ((one - other) / math.sqrt(2)).to(self.origin)


def with_free_bits(kl, free_bits):
    """Sums of the divergences of factors, (n_rows, k), with free bits for each.

    (n_rows,), float64. Where the mean over the batch is below ``free_bits``, the
    factor's share is that constant.
    """
    is_paid = kl.mean(0) > free_bits
    return torch.where(is_paid, kl, free_bits).sum(1).double()
