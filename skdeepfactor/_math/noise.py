"""Noise of rows: fresh from a generator, or a function of the content of each row.

In training each step draws anew. Where a bound or a factor is what users see, a row
gets the same draws in any company, order or batch. Both kinds have the same methods.
"""

from enum import IntEnum

import torch

# Multipliers of the hashes of rows and of SplitMix64, as signed 64-bit integers.
_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)


def row_keys(entries):
    """A hash of the content of each row, int64: columns and values, in any order."""
    bits = entries.values.view(torch.int64)
    mixed = mix(bits + mix((entries.columns.long() + 1) * _ODD[0]))
    keys = torch.zeros(len(entries.totals), dtype=torch.int64, device=bits.device)
    return mix(keys.index_add(0, entries.rows, mixed))


def mix(bits):
    """Scramble int64 numbers: the finalizer of SplitMix64, which has no fixed seed."""
    bits = (bits ^ _shift_right(bits, 30)) * _ODD[1]
    bits = (bits ^ _shift_right(bits, 27)) * _ODD[2]
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits, n):
    """Shift without regard to the sign."""
    return (bits >> n) & ((1 << (64 - n)) - 1)


def keyed_uniform(keys, n_draws, width, *, stream):
    """Numbers in (0, 1), (n_draws, n_rows, width), that depend on the keys alone.

    A row's numbers are a function of its key, of ``stream`` (an int) and of their
    position, so that they are the same in any batch. In float64.
    """
    positions = torch.arange(n_draws * width, device=keys.device)
    offsets = mix(positions + (stream + 1) * 2**32).view(n_draws, 1, width)
    bits = mix(mix(keys)[:, None] ^ offsets)
    # 52 bits to the middle of a cell of the unit interval.
    return (_shift_right(bits, 12).double() + 0.5) * 2.0**-52


def keyed_normal(keys, n_draws, width, *, stream, dtype):
    """Standard normal numbers, likewise."""
    uniform = keyed_uniform(keys, n_draws, width, stream=stream)
    return torch.special.ndtri(uniform).to(dtype)


class Stream(IntEnum):
    """Where the streams of keyed noise begin: one for each purpose.

    A purpose that draws several times counts on from there. The numbers are part of
    what a seed means: others give other scores.
    """

    #: Steps of Adam that refine a posterior, one stream for each.
    REFINEMENT = 0
    #: Bounds that have no closed form.
    BOUND = 10**6
    #: Particles of importance weighted bounds, a stream for each block of them.
    PARTICLES = 2 * 10**6
    #: What is expected of a row next.
    PREDICTION = 3 * 10**6
    #: Added to the streams above: spikes, beside the slabs that have these.
    SPIKES = 5 * 10**6


class FreshNoise:
    """Draws of shape (n_draws, n_rows, width) by a generator, anew at each call.

    ``like``, (n_rows, width), has their type and device, that of the generator.
    """

    def __init__(self, like, n_draws, generator):
        self.like, self.n_draws, self.generator = like, n_draws, generator

    def normal(self):
        """Standard normal draws."""
        return self._empty().normal_(generator=self.generator)

    def uniform(self):
        """Uniform draws in [0, 1)."""
        return self._empty().uniform_(generator=self.generator)

    def _empty(self):
        return self.like.new_empty(self.n_draws, *self.like.shape)


class KeyedNoise:
    """Draws of the same shape that depend on the rows' keys and a stream alone."""

    def __init__(self, like, n_draws, keys, stream):
        self.like, self.n_draws = like, n_draws
        self.keys, self.stream = keys, stream

    def normal(self):
        """Standard normal draws."""
        return self._keyed(keyed_normal, dtype=self.like.dtype)

    def uniform(self):
        """Uniform draws in (0, 1)."""
        return self._keyed(keyed_uniform).to(self.like)

    def _keyed(self, function, **settings):
        width = self.like.shape[1]
        return function(self.keys, self.n_draws, width, stream=self.stream, **settings)
