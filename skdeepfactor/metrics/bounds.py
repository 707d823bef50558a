"""Bounds of log likelihoods from the weights of particles."""

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array

from skdeepfactor._input import received


def renyi_bound(log_weights: ArrayLike, alpha: float) -> np.ndarray:
    r"""The variational Rényi bound of each row, from the log weights of its particles.

    With K particles :math:`z_k \sim q(z | x)` and their weights :math:`w_k = p(x, z_k)
    / q(z_k | x)`, the bound of a row is

    .. math::
        L_\alpha = \frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}.

    It falls as :math:`\alpha` rises: :math:`\alpha = 0` is the importance weighted
    bound (IWAE), :math:`\alpha = 1`, the limit, the mean of the log weights, which
    estimates the evidence lower bound (ELBO).

    Parameters
    ----------
    log_weights : array-like of shape (n_particles, n_rows)
        Log p(x, z_k) - log q(z_k | x), in nats.
    alpha : float
        The order of the divergence, finite. Between 0 and 1 the expectation is a lower
        bound on log p(x), above 1 one that lies below the ELBO. A negative one comes
        closer to the largest weight, and is no bound in general.

    Returns
    -------
    ndarray of shape (n_rows,), float64
        In nats. The bound of several rows is the sum of these: it is never the bound
        of the products of their weights, which would shrink towards the ELBO as rows
        are added.

    Raises
    ------
    ValueError
        If `log_weights` are not a two-dimensional array, contain NaN, or `alpha` is
        not a finite number.

    See Also
    --------
    skdeepfactor.VariationalAutoencoder.score : The bound of a fitted model, with
        ``metric="renyi"``.

    References
    ----------
    Li, Y. and Turner, R. (2016). Rényi divergence variational inference. NeurIPS 29.

    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted
    autoencoders. ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor.metrics import renyi_bound
    >>> log_weights = np.log([[0.1, 0.2], [0.3, 0.2]])
    >>> np.exp(renyi_bound(log_weights, 0)).round(3)
    array([0.2, 0.2])
    >>> np.exp(renyi_bound(log_weights, 1)).round(3)
    array([0.173, 0.2  ])
    """
    weights = received(log_weights)
    if np.isnan(weights).any():
        raise ValueError("log_weights must not contain NaN.")
    # A weight of 0 is one that a particle may have.
    weights = check_array(
        weights, dtype=np.float64, ensure_all_finite=False, input_name="log_weights"
    )
    if not isinstance(alpha, Real) or not np.isfinite(alpha):
        raise ValueError(f"alpha must be a finite number, got {alpha!r}.")
    power = 1 - alpha
    if power == 0:
        return weights.mean(axis=0)
    # The weight that counts most is taken out of the sum, so that nothing overflows and
    # a small power does not divide the rounding errors of logarithms.
    extreme = weights.max(axis=0) if power > 0 else weights.min(axis=0)
    centre = np.where(np.isfinite(extreme), extreme, 0.0)
    with np.errstate(divide="ignore"):
        excess = np.expm1(power * (weights - centre)).mean(axis=0)
        return centre + np.log1p(excess) / power
