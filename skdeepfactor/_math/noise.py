"""Noise that depends on the content of a row alone.

A row gets the same draws in any company, order or batch.
"""

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
