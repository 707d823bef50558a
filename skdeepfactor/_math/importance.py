"""Bounds on the evidence made of importance weights, and unbiased gradients of them.

Particles z_1, ..., z_K from a posterior q(z | x) have the weights

    w_k = p(x, z_k) / q(z_k | x),

whose mean is an unbiased estimate of p(x). On average the logarithm of that mean is too
low, the less so the more particles there are; the mean of the logarithms, which
estimates the ELBO, is lower still. Both belong to one family of bounds, indexed by
``alpha``. Each row of a batch has a bound of its own, and that of the data is their
sum: rows never share a logarithm.
"""

import math

import torch
from torch.overrides import TorchFunctionMode

# All that torch's distributions draw with.
_DRAWS = {
    torch.bernoulli,
    torch.binomial,
    torch.multinomial,
    torch.normal,
    torch.poisson,
    torch.rand,
    torch.randint,
    torch.randn,
    torch._sample_dirichlet,
    torch._standard_gamma,
    torch.Tensor.bernoulli_,
    torch.Tensor.cauchy_,
    torch.Tensor.exponential_,
    torch.Tensor.geometric_,
    torch.Tensor.log_normal_,
    torch.Tensor.normal_,
    torch.Tensor.random_,
    torch.Tensor.uniform_,
}


def renyi_bound(log_weights, alpha):
    """The variational Rényi bound of each row, from its log weights.

    With K particles, the bound is

        L_alpha = 1 / (1 - alpha) * log(1 / K * sum_k w_k^(1 - alpha)),

    which falls as ``alpha`` rises. alpha=1, the limit, is the mean of the log weights
    and estimates the ELBO; alpha=0 is the importance weighted bound, IWAE. From 0 on
    the expectation is at most log p(x); above 1 it lies below the ELBO. A negative
    ``alpha`` comes closer to the largest weight and is no bound in general.

    Parameters
    ----------
    log_weights : Tensor of shape (n_particles, n_rows)
        log p(x, z_k) - log q(z_k | x), in nats.
    alpha : float
        The order of the divergence, finite.

    Returns
    -------
    bounds : Tensor of shape (n_rows,)
        In nats, float64. The derivative with respect to the log weights is
        softmax((1 - alpha) * log_weights) over the particles.

    References
    ----------
    Li and Turner (2016), Rényi divergence variational inference.
    Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
    """
    log_weights = log_weights.double()
    power = 1 - alpha
    if power == 0:
        return log_weights.mean(0)
    # The particle that counts most is taken out of the sum, so that nothing overflows.
    # It drops out of the derivative, too. Infinities are left to the sum.
    extreme = torch.amax if power > 0 else torch.amin
    centre = extreme(log_weights.detach(), 0)
    centre = torch.where(centre.isfinite(), centre, 0.0)
    # logsumexp() - log(K) would leave rounding errors of the size of 1e-16 to be
    # divided by a power that may be no larger.
    excess = torch.expm1(power * (log_weights - centre)).mean(0)
    return centre + torch.log1p(excess) / power


def importance_bound(log_joint, q, alpha, n_particles, *, generator):
    """Bounds from particles of ``q``, and a tensor with their gradients.

    The particles of reparameterised distributions are functions of the parameters of
    ``q``, through which the bound is differentiated as it is. For all others the
    gradient of the expected bound with respect to parameters phi of ``q`` is

        E[sum_k (L_alpha - b_k - v_k + 1 / K) * d log q(z_k) / d phi],
        v = softmax((1 - alpha) * log_weights) over the particles.

    L_alpha comes in as the density of the particles changes, -v_k as their weights do.
    The baseline b_k is the bound that the other particles give. Neither it nor 1 / K
    depends on z_k, so the expectation is the same without them; with them all terms
    are small where the weights are much alike, and 0 where ``q`` is the exact
    posterior. A single particle has no others: its b_k is 0, and its gradients vary
    much. Parameters of ``log_joint`` have the gradient E[sum_k v_k d log_joint(z_k)].

    Parameters
    ----------
    log_joint : callable
        Maps draws to log p(x, z) in nats, shape (n_particles, n_rows), such as
        ``functools.partial(module.log_joint, x)``. It gets a tensor of shape
        (n_particles, *q.batch_shape, *q.event_shape), or a dict of them.
    q : Distribution or dict of Distribution
        q(z | x) of batch shape (n_rows,), for which ``Independent`` may be needed. The
        sites of a dict are independent of each other.
    alpha : float
        The order of the bound, as in ``renyi_bound``.
    n_particles : int
        The number of draws for each row. Where a ``q`` without reparameterisation is
        to be differentiated, memory grows with its square.
    generator : torch.Generator
        Where the noise comes from, on the device of ``q``. torch's global states are
        neither read nor changed.

    Returns
    -------
    bounds : Tensor of shape (n_rows,)
        The bound of each row in nats, float64, without a gradient.
    surrogate : Tensor of shape (n_rows,)
        The same numbers. Their gradients are unbiased estimates of those of the
        expected bounds.

    Raises
    ------
    ValueError
        If there are fewer than two particles (one if ``alpha`` is 1), if some sites are
        reparameterised and some are not, if ``generator`` is on another device than
        the draws, or if ``log_joint`` and ``q`` do not give one number for each
        particle of each row.

    References
    ----------
    Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, for
    baselines from the other particles.
    """
    fewest = 1 if alpha == 1 else 2
    if n_particles < fewest:
        raise ValueError(
            f"n_particles must be at least {fewest} with alpha={alpha}, got "
            f"{n_particles}."
        )
    sites = q if isinstance(q, dict) else {"z": q}
    is_pathwise = _is_reparameterised(sites)
    with _DrawingFrom(generator):
        draws = {
            name: (site.rsample if is_pathwise else site.sample)((n_particles,))
            for name, site in sites.items()
        }
    for name, draw in draws.items():
        if draw.device != generator.device:
            raise ValueError(
                f"The generator must be on the device of the draws of {name!r}, "
                f"{draw.device}, got one on {generator.device}."
            )
    log_q = sum(site.log_prob(draws[name]) for name, site in sites.items())
    log_p = log_joint(draws if isinstance(q, dict) else draws["z"])
    if not (log_p.ndim == 2 and log_p.shape == log_q.shape):
        raise ValueError(
            "log_joint and the log_prob of q must both have shape (n_particles, "
            f"n_rows), got {tuple(log_p.shape)} and {tuple(log_q.shape)}."
        )
    log_q = log_q.double()
    log_weights = log_p.double() - log_q
    bounds = renyi_bound(log_weights, alpha)
    surrogate = bounds
    if not is_pathwise and log_q.requires_grad:
        # The derivative of the weights is in the bounds already.
        weights = bounds.detach() - _leave_one_out(log_weights.detach(), alpha)
        weights += 1 / n_particles
        surrogate = bounds + (weights * (log_q - log_q.detach())).sum(0)
    return bounds.detach(), surrogate


def check_objective(objective, renyi_alpha, n_particles):
    """Order of the bound that an objective denotes.

    Parameters
    ----------
    objective : {"elbo", "iwae", "renyi"}
        The bound to be maximised.
    renyi_alpha : float
        The order for "renyi"; the others do without.
    n_particles : int
        The number of draws for each row.

    Returns
    -------
    alpha : float
        1 for "elbo", 0 for "iwae".

    Raises
    ------
    ValueError
        If the objective is none of these, if its order is not finite, or if it needs
        more particles.
    """
    orders = {"elbo": 1.0, "iwae": 0.0, "renyi": renyi_alpha}
    if objective not in orders:
        raise ValueError(
            f"objective must be one of {', '.join(map(repr, orders))}, got "
            f"{objective!r}."
        )
    alpha = float(orders[objective])
    cause = f"objective={objective!r}"
    if objective == "renyi":
        if not math.isfinite(alpha):
            raise ValueError(f"renyi_alpha must be finite, got {renyi_alpha}.")
        cause += f" and renyi_alpha={renyi_alpha}"
    fewest = 1 if alpha == 1 else 2
    if n_particles < fewest:
        raise ValueError(
            f"n_particles must be at least {fewest} with {cause}, got {n_particles}."
        )
    return alpha


def _is_reparameterised(sites):
    """Whether all sites are reparameterised; a mix raises an error."""
    pathwise = [name for name, site in sites.items() if site.has_rsample]
    others = [name for name, site in sites.items() if not site.has_rsample]
    if pathwise and others:
        raise ValueError(
            "All sites of q must be reparameterised or none, but "
            f"{', '.join(map(repr, pathwise))} can draw with rsample and "
            f"{', '.join(map(repr, others))} cannot. Take a reparameterised "
            "distribution for the latter, or for the former a subclass with "
            "has_rsample = False."
        )
    return not others


class _DrawingFrom(TorchFunctionMode):
    """Make draws of this thread use a generator, unless they name one.

    Distributions of torch do not take a generator.
    """

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _DRAWS:
            kwargs = {"generator": self.generator, **kwargs}
        return function(*args, **kwargs)


def _leave_one_out(log_weights, alpha):
    """The bound without each particle in turn, (n_particles, n_rows)."""
    n_particles = len(log_weights)
    if n_particles == 1:
        return torch.zeros_like(log_weights)
    index = torch.arange(n_particles, device=log_weights.device)
    # Column k counts from 0 to n_particles - 1 and skips k.
    others = index[:-1, None]
    others = others + (others >= index)
    return renyi_bound(log_weights[others], alpha)
