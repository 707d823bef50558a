"""Distributions that torch lacks, with their divergences."""

import math
from typing import NamedTuple

import torch
from torch.distributions import Distribution, constraints, register_kl
from torch.nn.functional import logsigmoid


class GaussianMixture(NamedTuple):
    """A mixture of Gaussians with diagonal covariances.

    Means and log variances are (n_gaussians, k), log weights (n_gaussians,).
    """

    mean: torch.Tensor
    log_var: torch.Tensor
    log_weights: torch.Tensor

    @classmethod
    def standard(cls, k, *, like):
        """One standard normal."""
        zeros = like.new_zeros(1, k)
        return cls(zeros, zeros, zeros[:, 0])

    def to(self, like):
        """Convert to the type, and move to the device, of a tensor."""
        return GaussianMixture(*(part.to(like) for part in self))

    def _square(self, z):
        """Minus twice the log densities at z, up to a constant; float64."""
        precision = (-self.log_var).exp()
        square = z.square() @ precision.T - 2 * z @ (precision * self.mean).T
        constant = (self.mean.square() * precision + self.log_var).sum(1)
        return square.double() + constant

    def log_prob(self, z):
        """Log density, (...), of z, (..., k); float64."""
        square = self._square(z) + self.mean.shape[1] * math.log(2 * math.pi)
        return (self.log_weights - 0.5 * square).logsumexp(-1)

    def kl_bound(self, mean, var, log_det):
        """An upper bound on the divergence of Gaussians from it, float64, and shares.

        For one Gaussian the divergence itself. The bound, (n_rows,), is minus the log
        of the weighted sum of exp(-KL) over the mixture; the shares of its terms,
        (n_rows, n_gaussians), are the best distribution over which Gaussian it was.
        ``var`` is the diagonal of the covariances, ``log_det`` their log determinants.
        """
        kl = self._square(mean) + (var @ (-self.log_var).exp().T).double()
        kl = 0.5 * (kl - mean.shape[1] - log_det[:, None])
        joint = self.log_weights.double() - kl
        # Rounding must not make a divergence negative.
        if len(self.mean) == 1:
            return (-joint[:, 0]).clamp_min(0), torch.ones_like(joint)
        return (-joint.logsumexp(1)).clamp_min(0), joint.softmax(1)

    def kl(self, q):
        """Bound as in ``kl_bound``, (n_rows,), for factorised normal distributions."""
        log_det = q.variance.log().sum(1, dtype=torch.float64)
        return self.kl_bound(q.mean, q.variance, log_det)[0]

    def sample(self, n_draws, generator):
        """Draws, (n_draws, k), by a generator of the CPU."""
        shape = n_draws, self.mean.shape[1]
        noise = torch.randn(shape, dtype=torch.float32, generator=generator)
        shares = self.log_weights.exp().cpu()
        which = torch.multinomial(
            shares, n_draws, replacement=True, generator=generator
        )
        which = which.to(self.mean.device)
        return self.mean[which] + (self.log_var[which] / 2).exp() * noise.to(self.mean)


class SpikeSlab(Distribution):
    """A number that is exactly 0, or else normal: (1 - p) delta_0 + p N(loc, scale^2).

    ``log_prob`` is the logarithm of the density with respect to the sum of the Lebesgue
    measure and a point mass at 0: log(1 - p) at 0, log p + log N elsewhere.

    Parameters
    ----------
    logits : Tensor
        Log odds of p, the probability of the slab.
    loc, scale : Tensor
        Mean and standard deviation of the slab.
    """

    arg_constraints = {  # noqa: RUF012 (torch's own has no ClassVar either)
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(self, logits, loc, scale, *, temperature=100.0, validate_args=None):
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.temperature = temperature
        super().__init__(self.logits.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(SpikeSlab, _instance)
        for name in ("logits", "loc", "scale"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        new.temperature = self.temperature
        super(SpikeSlab, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def probs(self):
        """The probability of the slab."""
        return self.logits.sigmoid()

    @property
    def mean(self):
        return self.probs * self.loc

    @property
    def variance(self):
        p = self.probs
        return p * self.scale.square() + p * (1 - p) * self.loc.square()

    def of_noise(self, uniform, normal):
        """Draws from uniform and standard normal ones of the same shape."""
        is_slab = uniform < self.probs
        return torch.where(is_slab, self.loc + self.scale * normal, 0.0)

    def relaxed_of_noise(self, uniform, normal):
        """Values with soft spikes, through which gradients reach the probability.

        The indicator uniform < p becomes sigmoid(temperature * (p - uniform)).
        """
        share = (self.temperature * (self.probs - uniform)).sigmoid()
        return share * (self.loc + self.scale * normal)

    def straight_through_of_noise(self, uniform, normal):
        """Draws as they are, through which gradients reach the probability.

        The indicator uniform < p has the slope 1 in p.
        """
        p = self.probs
        share = (uniform < p).to(p) + (p - p.detach())
        return share * (self.loc + self.scale * normal)

    @torch.no_grad()
    def sample(self, sample_shape=()):
        return self.of_noise(*self._noise(sample_shape))

    def rsample(self, sample_shape=()):
        """Relaxed draws; see ``relaxed_of_noise``."""
        return self.relaxed_of_noise(*self._noise(sample_shape))

    def _noise(self, sample_shape):
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=torch.float32).to(self.loc)
        return uniform, torch.randn(shape, dtype=torch.float32).to(self.loc)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        normal = -0.5 * ((value - self.loc) / self.scale).square() - self.scale.log()
        slab = logsigmoid(self.logits) + normal - 0.5 * math.log(2 * math.pi)
        return torch.where(value == 0, logsigmoid(-self.logits), slab)


@register_kl(SpikeSlab, SpikeSlab)
def spike_slab_kl(q, p):
    """KL of spikes and slabs, element by element, in closed form."""
    on, off = logsigmoid(q.logits), logsigmoid(-q.logits)
    square = (q.scale.square() + (q.loc - p.loc).square()) / p.scale.square()
    slab = (p.scale / q.scale).log() + 0.5 * (square - 1)
    slab = slab + on - logsigmoid(p.logits)
    return on.exp() * slab + off.exp() * (off - logsigmoid(-p.logits))
