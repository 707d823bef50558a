"""Loops of Gibbs samplers, compiled where numba is installed.

numba, which is optional, is imported when the first loop is needed.
"""

import functools

import numpy as np
import torch

from skdeepfactor._math.threads import in_parts


@functools.cache
def kernels():
    """The compiled loops; None where numba is not installed or does not work."""
    try:
        from numba import config

        from skdeepfactor._math import kernels
    except (ImportError, OSError, RuntimeError):
        # The last where it finds no folder to keep machine code in.
        return None
    return None if config.DISABLE_JIT else kernels


def is_compiled(device):
    """Whether loops over tensors of a device are compiled."""
    return device.type == "cpu" and kernels() is not None


def bits(keys):
    """Keys as an array of unsigned integers."""
    return keys.numpy().view(np.uint64)


def digamma_gains(prior, counts, weight):
    """Weighted sums over rows of digamma(prior + counts) - digamma(prior), (k,).

    ``prior``, (k,), and ``weight``, (n_rows,), are float64; ``counts`` is (n_rows, k).
    """
    gains = torch.zeros_like(prior)
    arrays = (a.contiguous().numpy() for a in (prior, counts, weight, gains))
    kernels().add_digamma_gains(*arrays)
    return gains


def log_gamma(shape, mixed, stream, n_streams):
    """Logarithms of gamma variables; see ``noise.keyed_log_gamma``.

    ``shape`` is float64, ``mixed`` are keys of rows that were mixed, and ``n_streams``
    is the number of streams that they may use.
    """
    result = torch.empty(shape.shape, dtype=torch.float64)
    arrays = shape.contiguous().numpy(), bits(mixed), result.numpy()

    def draw(start, stop):
        shapes, keys, draws = (array[start:stop] for array in arrays)
        kernels().log_gamma(shapes, keys, int(stream), n_streams, draws)

    in_parts(draw, np.arange(len(shape) + 1) * shape.shape[1])
    return result
