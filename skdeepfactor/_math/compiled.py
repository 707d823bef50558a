"""Loops of Gibbs samplers, compiled where numba is installed.

They draw what the operations of torch in ``tokens.py`` and ``noise.py`` draw, from the
same noise: results differ by the rounding of sums alone. numba, which is optional, is
imported when the first loop is needed. Threads are this module's own, and end with each
call, since those of numba must not be used by two callers at once nor after a fork.
"""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

#: Units in a group, whose products fill vector registers.
GROUP = 16
# Numbers that a thread must have to do if it is to be worth its start.
_LEAST_WORK = 2**15


@functools.cache
def _kernels():
    """The compiled loops; None where numba is not installed or does not work."""
    try:
        from skdeepfactor._math import kernels
    except (ImportError, RuntimeError):
        # The latter where it finds no folder to keep machine code in.
        return None
    return kernels


def is_compiled(device):
    """Whether loops over tensors of a device are compiled."""
    return device.type == "cpu" and _kernels() is not None


def log_gamma(shape, mixed, stream, n_streams):
    """Logarithms of gamma variables; see ``noise.keyed_log_gamma``.

    ``shape`` is float64, ``mixed`` are keys of rows that were mixed, and ``n_streams``
    is the number of streams that they may use.
    """
    result = torch.empty(shape.shape, dtype=torch.float64)
    arrays = shape.contiguous().numpy(), _bits(mixed), result.numpy()

    def draw(start, stop):
        shapes, keys, draws = (array[start:stop] for array in arrays)
        _kernels().log_gamma(shapes, keys, int(stream), n_streams, draws)

    _in_parts(draw, np.arange(len(shape) + 1) * shape.shape[1])
    return result


def drawn_tokens(tokens, z, w, mixed, stream):
    """Units of tokens in words and in rows, and log odds; see ``tokens._drawn``."""
    x, k = tokens.x, z.shape[1]
    n_groups = -(-k // GROUP)
    n_missing = n_groups * GROUP - k
    padded = [
        torch.nn.functional.pad(a, (0, n_missing)).contiguous().numpy() for a in (z, w)
    ]
    entries = x.crow_indices().long().numpy()
    columns = x.col_indices().int().numpy()
    values, repeats = x.values().double().numpy(), tokens.repeats.numpy()
    before = np.concatenate([[0], repeats.cumsum()])[entries]
    cells = torch.empty(int(before[-1]), dtype=torch.int64)
    of_rows = torch.zeros(len(z), k, dtype=torch.float64)
    log_odds = torch.zeros(len(z), dtype=torch.float64)
    results = cells.numpy(), of_rows.numpy(), log_odds.numpy()

    def draw(start, stop):
        _kernels().draw_tokens(
            (start, stop, GROUP),
            (entries, columns, values, repeats, before),
            *padded,
            _bits(mixed),
            int(stream),
            results,
        )

    # An entry takes as long as some tokens.
    _in_parts(draw, before + GROUP * entries)
    return cells, of_rows, log_odds


def _bits(keys):
    return keys.numpy().view(np.uint64)


def _in_parts(draw, work):
    """Call ``draw(start, stop)`` for parts of rows, in as many threads as torch has.

    ``work``, (n_rows + 1,), is how much there is to do before each row.
    """
    n_parts = int(min(torch.get_num_threads(), 1 + work[-1] // _LEAST_WORK))
    ends = np.linspace(0, work[-1], n_parts + 1)[1:-1]
    bounds = [0, *np.searchsorted(work, ends).tolist(), len(work) - 1]
    if n_parts == 1:
        draw(*bounds)
        return
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(lambda part: draw(*part), itertools.pairwise(bounds)))
