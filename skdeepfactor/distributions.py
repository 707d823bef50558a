"""Distributions that torch lacks, with their divergences.

Priors and posteriors of the autoencoders and of ``NeuralTopicDLGM``, for use in torch.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn.functional import logsigmoid


class GaussianMixture(NamedTuple):
    """A mixture of Gaussians with diagonal covariances.

    The density of z is the sum over c of ``exp(log_weights[c])`` times that of
    ``N(mean[c], diag(exp(log_var[c])))``.

    Parameters
    ----------
    mean : Tensor of shape (n_gaussians, k)
        Means.
    log_var : Tensor of shape (n_gaussians, k)
        Logarithms of the variances.
    log_weights : Tensor of shape (n_gaussians,)
        Logarithms of the weights, which sum to 1.

    Attributes
    ----------
    mean, log_var, log_weights : Tensor
        The parameters.

    See Also
    --------
    SpikeSlab : A number that is exactly 0 or else normal.
    torch.distributions.MixtureSameFamily : Mixtures of any family, without divergences.

    Examples
    --------
    >>> import torch
    >>> from skdeepfactor.distributions import GaussianMixture
    >>> mean, shares = torch.tensor([[-2.0], [2.0]]), torch.tensor([0.5, 0.5])
    >>> mixture = GaussianMixture(mean, torch.zeros(2, 1), shares.log())
    >>> mixture.log_prob(torch.tensor([[2.0], [0.0]])).exp().round(decimals=3)
    tensor([0.2000, 0.0540], dtype=torch.float64)
    """

    mean: Tensor
    log_var: Tensor
    log_weights: Tensor

    @classmethod
    def standard(cls, k: int, *, like: Tensor) -> "GaussianMixture":
        """Make one standard normal.

        It is a mixture of a single Gaussian.

        Parameters
        ----------
        k : int
            Number of dimensions.
        like : Tensor
            Gives the type and the device.

        Returns
        -------
        GaussianMixture
            With means and log variances of 0.

        See Also
        --------
        GaussianMixture : With means, variances and weights.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import GaussianMixture
        >>> GaussianMixture.standard(2, like=torch.zeros(())).mean
        tensor([[0., 0.]])
        """
        zeros = like.new_zeros(1, k)
        return cls(zeros, zeros, zeros[:, 0])

    def to(self, like: Tensor) -> "GaussianMixture":
        """Convert to the type, and move to the device, of a tensor.

        Tensors that have both already are not copied.

        Parameters
        ----------
        like : Tensor
            Gives the type and the device.

        Returns
        -------
        GaussianMixture
            The same mixture.

        See Also
        --------
        torch.Tensor.to : The same for one tensor.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import GaussianMixture
        >>> mixture = GaussianMixture.standard(2, like=torch.zeros(()))
        >>> mixture.to(torch.zeros((), dtype=torch.float64)).mean.dtype
        torch.float64
        """
        return GaussianMixture(*(part.to(like) for part in self))

    def _square(self, z):
        """Minus twice the log densities at z, up to a constant; float64."""
        precision = (-self.log_var).exp()
        square = z.square() @ precision.T - 2 * z @ (precision * self.mean).T
        constant = (self.mean.square() * precision + self.log_var).sum(1)
        return square.double() + constant

    def log_prob(self, z: Tensor) -> Tensor:
        """Logarithm of the density.

        Terms that depend on z are summed up in float64.

        Parameters
        ----------
        z : Tensor of shape (..., k)
            Points.

        Returns
        -------
        Tensor of shape (...)
            Log densities, float64.

        See Also
        --------
        sample : Draws from the density.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import GaussianMixture
        >>> mixture = GaussianMixture.standard(1, like=torch.zeros(()))
        >>> mixture.log_prob(torch.zeros(3, 1)).shape
        torch.Size([3])
        """
        square = self._square(z) + self.mean.shape[1] * math.log(2 * math.pi)
        return (self.log_weights - 0.5 * square).logsumexp(-1)

    def kl_bound(
        self, mean: Tensor, var: Tensor, log_det: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Upper bound on the divergence of Gaussians from the mixture.

        The bound is minus the log of the weighted sum of exp(-KL) over the Gaussians of
        the mixture; for a single one, it is the divergence itself.

        Parameters
        ----------
        mean : Tensor of shape (n_rows, k)
            Means of the Gaussians.
        var : Tensor of shape (n_rows, k)
            Diagonals of their covariances.
        log_det : Tensor of shape (n_rows,)
            Log determinants of their covariances.

        Returns
        -------
        bound : Tensor of shape (n_rows,)
            Bounds in nats, float64, never negative.
        shares : Tensor of shape (n_rows, n_gaussians)
            Shares of the terms of the sum: for each row, the distribution over the
            Gaussians of the mixture that makes the bound tightest.

        See Also
        --------
        kl : For factorised normal distributions.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import GaussianMixture
        >>> mixture = GaussianMixture.standard(2, like=torch.zeros(()))
        >>> bound, shares = mixture.kl_bound(
        ...     torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1)
        ... )
        >>> bound
        tensor([1.], dtype=torch.float64)
        """
        kl = self._square(mean) + (var @ (-self.log_var).exp().T).double()
        kl = 0.5 * (kl - mean.shape[1] - log_det[:, None])
        joint = self.log_weights.double() - kl
        # Rounding must not make a divergence negative.
        if len(self.mean) == 1:
            return (-joint[:, 0]).clamp_min(0), torch.ones_like(joint)
        return (-joint.logsumexp(1)).clamp_min(0), joint.softmax(1)

    def kl(self, q: Distribution) -> Tensor:
        """Upper bound on the divergence of factorised normal distributions.

        The bound of ``kl_bound``, without the shares.

        Parameters
        ----------
        q : torch.distributions.Normal
            Normal distributions of batch shape (n_rows, k).

        Returns
        -------
        Tensor of shape (n_rows,)
            Bounds in nats, float64, never negative.

        See Also
        --------
        kl_bound : For Gaussians with any covariances.

        Examples
        --------
        >>> import torch
        >>> from torch.distributions import Normal
        >>> from skdeepfactor.distributions import GaussianMixture
        >>> mixture = GaussianMixture.standard(2, like=torch.zeros(()))
        >>> mixture.kl(Normal(torch.ones(1, 2), torch.ones(1, 2)))
        tensor([1.], dtype=torch.float64)
        """
        log_det = q.variance.log().sum(1, dtype=torch.float64)
        return self.kl_bound(q.mean, q.variance, log_det)[0]

    def sample(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Draw points.

        The same generator gives the same draws on every device.

        Parameters
        ----------
        n_draws : int
            How many.
        generator : torch.Generator
            A generator of the CPU.

        Returns
        -------
        Tensor of shape (n_draws, k)
            Of the type, and on the device, of ``mean``.

        See Also
        --------
        log_prob : Log density of points.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import GaussianMixture
        >>> mixture = GaussianMixture.standard(2, like=torch.zeros(()))
        >>> mixture.sample(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
        """
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
    loc : Tensor
        Mean of the slab.
    scale : Tensor
        Standard deviation of the slab.
    temperature : float, default=100.0
        How sharp the spikes of relaxed draws are; see ``relaxed_of_noise``.
    validate_args : bool, default=None
        Whether parameters and values are checked; None for torch's own default.

    Attributes
    ----------
    probs : Tensor
        Probabilities of the slab.
    mean : Tensor
        Means, p loc.
    variance : Tensor
        Variances, p scale^2 + p (1 - p) loc^2.

    See Also
    --------
    GaussianMixture : A mixture of Gaussians, without a point mass.
    VariationalSparseCoding : The model whose codes it is the posterior of.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import kl_divergence
    >>> from skdeepfactor.distributions import SpikeSlab
    >>> zero, one = torch.zeros(()), torch.ones(())
    >>> q, p = SpikeSlab(one, one, one), SpikeSlab(zero, zero, one)
    >>> kl_divergence(p, p)
    tensor(0.)
    >>> bool(kl_divergence(q, p) > 0)
    True
    >>> q.log_prob(zero).exp(), 1 - q.probs
    (tensor(0.2689), tensor(0.2689))
    """

    arg_constraints = {  # noqa: RUF012 (torch's own has no ClassVar either)
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        *,
        temperature: float = 100.0,
        validate_args: bool | None = None,
    ):
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.temperature = temperature
        super().__init__(self.logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Expand to a batch shape, without copies.

        Parameters broadcast as by ``torch.Tensor.expand``.

        Parameters
        ----------
        batch_shape : torch.Size
            The shape.
        _instance : SpikeSlab, default=None
            For subclasses; see ``torch.distributions.Distribution.expand``.

        Returns
        -------
        SpikeSlab
            Views of the parameters.

        See Also
        --------
        torch.Tensor.expand : The same for a tensor.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import SpikeSlab
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> SpikeSlab(zero, zero, one).expand(torch.Size([3, 2])).mean.shape
        torch.Size([3, 2])
        """
        new = self._get_checked_instance(SpikeSlab, _instance)
        for name in ("logits", "loc", "scale"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        new.temperature = self.temperature
        super(SpikeSlab, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def probs(self) -> Tensor:
        """Probability of the slab."""
        return self.logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        """Mean."""
        return self.probs * self.loc

    @property
    def variance(self) -> Tensor:
        """Variance."""
        p = self.probs
        return p * self.scale.square() + p * (1 - p) * self.loc.square()

    def of_noise(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw by noise that is given.

        A draw is 0 unless uniform < p. No gradients reach p.

        Parameters
        ----------
        uniform : Tensor
            Uniform numbers in [0, 1).
        normal : Tensor of the same shape
            Standard normal numbers.

        Returns
        -------
        Tensor of the same shape
            Draws.

        See Also
        --------
        sample : Draws by torch's own noise.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import SpikeSlab
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> codes = SpikeSlab(zero, one, one)
        >>> codes.of_noise(torch.tensor([0.1, 0.9]), torch.zeros(2))
        tensor([1., 0.])
        """
        is_slab = uniform < self.probs
        return torch.where(is_slab, self.loc + self.scale * normal, 0.0)

    def relaxed_of_noise(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw with soft spikes, through which gradients reach the probability.

        The indicator uniform < p becomes sigmoid(temperature * (p - uniform)).

        Parameters
        ----------
        uniform : Tensor
            Uniform numbers in [0, 1).
        normal : Tensor of the same shape
            Standard normal numbers.

        Returns
        -------
        Tensor of the same shape
            Relaxed draws, which are near 0 where a draw would be 0.

        See Also
        --------
        of_noise : Draws whose spikes are exactly 0.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import SpikeSlab
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> codes = SpikeSlab(zero, one, one)
        >>> codes.relaxed_of_noise(torch.tensor([0.1, 0.9]), torch.zeros(2)).round()
        tensor([1., 0.])
        """
        share = (self.temperature * (self.probs - uniform)).sigmoid()
        return share * (self.loc + self.scale * normal)

    def straight_through_of_noise(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw with exact spikes, through which gradients reach the probability.

        The indicator uniform < p has the slope 1 in p.

        Parameters
        ----------
        uniform : Tensor
            Uniform numbers in [0, 1).
        normal : Tensor of the same shape
            Standard normal numbers.

        Returns
        -------
        Tensor of the same shape
            Draws.

        See Also
        --------
        relaxed_of_noise : Draws with soft spikes.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import SpikeSlab
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> codes = SpikeSlab(zero, one, one)
        >>> codes.straight_through_of_noise(torch.tensor([0.1, 0.9]), torch.zeros(2))
        tensor([1., 0.])
        """
        p = self.probs
        share = (uniform < p).to(p) + (p - p.detach())
        return share * (self.loc + self.scale * normal)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw by torch's global generator.

        No gradients reach the parameters.

        Parameters
        ----------
        sample_shape : torch.Size, default=()
            Shape of draws for each distribution of the batch.

        Returns
        -------
        Tensor of shape sample_shape + batch_shape
            Draws.

        See Also
        --------
        of_noise : Draws by noise that is given.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import SpikeSlab
        >>> zero, one = torch.zeros(2), torch.ones(2)
        >>> SpikeSlab(zero, zero, one).sample((3,)).shape
        torch.Size([3, 2])
        """
        return self.of_noise(*self._noise(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw with soft spikes, by torch's global generator.

        Gradients reach all parameters; see ``relaxed_of_noise``.

        Parameters
        ----------
        sample_shape : torch.Size, default=()
            Shape of draws for each distribution of the batch.

        Returns
        -------
        Tensor of shape sample_shape + batch_shape
            Relaxed draws.

        See Also
        --------
        relaxed_of_noise : Draws by noise that is given.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import SpikeSlab
        >>> zero, one = torch.zeros(2), torch.ones(2)
        >>> SpikeSlab(zero, zero, one).rsample((3,)).shape
        torch.Size([3, 2])
        """
        return self.relaxed_of_noise(*self._noise(sample_shape))

    def _noise(self, sample_shape):
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=torch.float32).to(self.loc)
        return uniform, torch.randn(shape, dtype=torch.float32).to(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the density, or at 0 of the probability.

        The density is with respect to the sum of the Lebesgue measure and a point mass
        at 0.

        Parameters
        ----------
        value : Tensor
            Numbers, of a shape that broadcasts with the batch shape.

        Returns
        -------
        Tensor
            Namely log(1 - p) at 0, and log p + log N(value; loc, scale^2) elsewhere.

        See Also
        --------
        sample : Draws from the distribution.

        Examples
        --------
        >>> import torch
        >>> from skdeepfactor.distributions import SpikeSlab
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> SpikeSlab(zero, zero, one).log_prob(torch.zeros(2)).exp()
        tensor([0.5000, 0.5000])
        """
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
