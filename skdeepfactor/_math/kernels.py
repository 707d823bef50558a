"""The loops that ``compiled.py`` calls: numba compiles them on first use.

Machine code is kept beside this file, or in a folder of the user, for other processes.
It holds no lock of the interpreter, so that threads can share the work. Numbers of
noise are unsigned, as numba makes floats of sums of signed and unsigned integers.
"""

import math

import numpy as np
from numba import njit, uint64

# Multipliers of SplitMix64.
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)

_compiled = njit(nogil=True, cache=True, error_model="numpy")
# The order of a sum may change, so that vector registers are used.
_any_order = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)


@_compiled
def _mix(bits):
    bits = (bits ^ (bits >> uint64(30))) * _FIRST
    bits = (bits ^ (bits >> uint64(27))) * _SECOND
    return bits ^ (bits >> uint64(31))


@_compiled
def _uniform_pair(key, position, stream):
    """Two independent numbers in (0, 1), as ``noise.uniform_pairs_at`` makes them."""
    bits = _mix(key ^ _mix(uint64(position) + (uint64(stream + 1) << _HALF)))
    low, high = np.float64(bits & _LOW), np.float64(bits >> _HALF)
    return (low + 0.5) * 2.0**-32, (high + 0.5) * 2.0**-32


@_compiled
def log_gamma(shape, keys, stream, n_streams, result):
    """Draw logarithms of gamma variables, as ``noise.keyed_log_gamma`` does."""
    n_rows, width = shape.shape
    for row in range(n_rows):
        for place in range(width):
            key, a = keys[row], shape[row, place]
            if a < 1:
                is_done, result[row, place] = _small_attempt(a, key, place, stream)
                if is_done:
                    continue
            for attempt in range(1, n_streams // 2):
                is_done, result[row, place] = _large_attempt(
                    a, key, place, stream + 2 * attempt
                )
                if is_done:
                    break


@_compiled
def _small_attempt(a, key, position, stream):
    level, acceptance = _uniform_pair(key, position, stream)
    level += level * (a * (1 / math.e))
    if level > 1:
        log_x = math.log(-math.log((1 - level) / a + 1 / math.e))
        return (1 - a) * log_x <= -math.log(acceptance), log_x
    log_x = math.log(level) / a
    # Most of those that are accepted need no further logarithm, since
    # exp(-y) <= 1 / (1 + y + y^2 / 2) and 1 - u <= -log(u).
    if (1 - acceptance) * (1 - log_x + 0.5 * log_x * log_x) >= 1:
        return True, log_x
    return math.exp(log_x) <= -math.log(acceptance), log_x


@_compiled
def _large_attempt(a, key, position, stream):
    size, angle = _uniform_pair(key, position, stream)
    normal = math.sqrt(-2 * math.log(size)) * math.cos(2 * math.pi * angle)
    level, power = _uniform_pair(key, position, stream + 1)
    d = a + 2 / 3
    root = 1 + normal / math.sqrt(9 * d)
    v = max(root, 1e-100) ** 3
    log_x = math.log(d * v) + math.log(power) / a
    if root <= 0:
        return False, log_x
    square = normal * normal
    # Marsaglia and Tsang's bound of what follows spares most of the logarithms.
    if level < 1 - 0.0331 * square * square:
        return True, log_x
    return math.log(level) < d * (math.log(v) + 1 - v) + 0.5 * square, log_x


@_any_order
def _product(a, b, start, n):
    total = a[start] * b[start]
    for i in range(start + uint64(1), start + n):
        total += a[i] * b[i]
    return total


@_compiled
def draw_tokens(sizes, x, z, w, keys, stream, results):
    """Draw the units of the tokens of some rows, as ``tokens._drawn`` does.

    Parameters
    ----------
    sizes : tuple of int
        First row, end of rows, units in a group.
    x : tuple of arrays
        First entries of rows, columns, counts, numbers of tokens, and first tokens of
        rows.
    z, w : array of shape (n_rows or n_features, n_groups * n_in_group)
    keys : array of shape (n_rows,)
    results : tuple of arrays
        Cells of tokens, units in rows, log odds, to be filled.
    """
    start, stop, n_in_group = sizes
    entries, columns, counts, repeats, before = x
    cells, of_rows, log_odds = results
    # Of a type that needs no wrapping of negative indices.
    width = uint64(n_in_group)
    n_groups, k = z.shape[1] // n_in_group, of_rows.shape[1]
    to_float = z.dtype.type
    # Running sums over the groups, and in one group.
    sums, in_group = np.empty(n_groups, z.dtype), np.empty(width, z.dtype)
    for row in range(start, stop):
        z_row, token, key = z[row], before[row], keys[row]
        product = 1.0
        for entry in range(entries[row], entries[row + 1]):
            column = columns[entry]
            w_row, total = w[column], to_float(0)
            for group in range(n_groups):
                total += _product(z_row, w_row, uint64(group) * width, width)
                sums[group] = total
            if repeats[entry] == 0:
                log_odds[row] += counts[entry] * math.log(np.float64(total))
            for _ in range(repeats[entry]):
                # One logarithm of many numbers, as long as they stay in range.
                product *= total
                if not 1e-200 < product < 1e200:
                    log_odds[row] += math.log(product)
                    product = 1.0
                pair = _uniform_pair(key, token - before[row], stream)
                # Loops without branches, which would often be predicted wrongly.
                level, group = to_float(pair[0]) * total, 0
                for i in range(n_groups - 1):
                    group += sums[i] < level
                first, total_in_group = uint64(group) * width, to_float(0)
                for i in range(n_in_group):
                    place = first + uint64(i)
                    total_in_group += z_row[place] * w_row[place]
                    in_group[i] = total_in_group
                level, unit = to_float(pair[1]) * total_in_group, group * n_in_group
                for i in range(n_in_group):
                    unit += in_group[i] < level
                of_rows[row, unit] += 1
                cells[token] = column * k + unit
                token += 1
        log_odds[row] += math.log(product)
