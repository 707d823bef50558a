"""The loops of Gibbs samplers, which numba compiles on first use.

Machine code is kept beside this file, or in a folder of the user, for other processes.
The loops release the interpreter's lock, so that threads can share the work. Random
bits are unsigned throughout: numba turns the sum of a signed and an unsigned integer
into a float.
"""

import math

import numpy as np
from numba import njit, uint64

# Multipliers of SplitMix64, and how far its states are from each other.
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)

_compiled = njit(nogil=True, cache=True, error_model="numpy")


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


@_compiled
def add_digamma_gains(prior, counts, weight, gains):
    """Add weighted digamma(prior + counts) - digamma(prior) of rows to ``gains``."""
    n_rows, k = counts.shape
    of_prior = np.array([_digamma(a) for a in prior])
    for row in range(n_rows):
        for unit in range(k):
            if counts[row, unit] > 0:
                gain = _digamma(prior[unit] + counts[row, unit]) - of_prior[unit]
                gains[unit] += weight[row] * gain


@_compiled
def _digamma(x):
    """Digamma of a positive number, by its recurrence and its asymptotic series."""
    below = 0.0
    while x < 6:
        below += 1 / x
        x += 1
    r = 1 / (x * x)
    series = r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r / 132))))
    return math.log(x) - 0.5 / x - series - below


@_compiled
def _first_state(key, stream):
    """State of the generator SplitMix64, of which a row has one in each stream."""
    return _mix(key ^ _mix(uint64(stream + 1) << _HALF))


@_compiled
def _uniform(state):
    """A number in (0, 1): a state of the generator, scrambled."""
    return (np.float64(_mix(state) >> uint64(12)) + 0.5) * 2.0**-52


@_compiled
def start_units(some, x, odds, topics, keys, stream, units):
    """Draw the units of the tokens of some rows, given the odds of units in each row.

    Parameters
    ----------
    some : tuple of int
        Which rows: the first one, and the one after the last.
    x : tuple of arrays
        First entries of rows, columns and numbers of tokens of entries, and first
        tokens of rows.
    odds : array of shape (n_rows, n_units)
    topics : array of shape (n_features, n_units)
    keys : array of shape (n_rows,)
        Noise of rows.
    stream : int
    units : array of shape (n_tokens,)
        To be filled.
    """
    entries, columns, repeats, before = x
    sums = np.empty(odds.shape[1])
    for row in range(some[0], some[1]):
        token, of_row, state = before[row], odds[row], _first_state(keys[row], stream)
        for entry in range(entries[row], entries[row + 1]):
            of_word, total = topics[columns[entry]], 0.0
            for unit in range(len(sums)):
                total += np.float64(of_row[unit]) * of_word[unit]
                sums[unit] = total
            for _ in range(repeats[entry]):
                state += _STEP
                units[token] = _place(sums, _uniform(state) * total)
                token += 1


@_compiled
def redraw_units(
    some, x, topics, priors, totals, keys, stream, units, of_rows, log_odds
):
    """Draw the unit of each token of some rows anew, given those of the others.

    Parameters
    ----------
    some, x, topics, keys, stream
        As those of ``start_units``.
    priors : array of shape (n_features, n_units)
        Running sums over the units of ``topics`` times the concentration of units.
    totals : array of shape (n_features,)
        The last of these.
    units : array of shape (n_tokens,)
        What is drawn anew.
    of_rows : array of shape (n_rows, n_units)
        Zeros, to which the tokens of each unit are written.
    log_odds : array of shape (n_rows,)
        To be filled by sums, over tokens, of the logarithm of the sum of their odds.
    """
    entries, columns, repeats, before = x
    n_units = topics.shape[1]
    # The units of a row, how many tokens each has, and running sums of their odds; and
    # where each unit is among them, -1 for those that have no tokens. Indices are
    # unsigned, since others would be looked at for counting from the end.
    used, counts = np.empty(n_units, np.uint64), np.empty(n_units)
    sums, places = np.empty(n_units), np.full(n_units, -1)
    for row in range(some[0], some[1]):
        n_used = uint64(0)
        for token in range(before[row], before[row + 1]):
            unit = units[token]
            if places[unit] < 0:
                used[n_used], counts[n_used], places[unit] = unit, 0, n_used
                n_used += uint64(1)
            counts[places[unit]] += 1
        state = _first_state(keys[row], stream)
        token, product, log_product = uint64(before[row]), 1.0, 0.0
        for entry in range(entries[row], entries[row + 1]):
            column = uint64(columns[entry])
            of_word, of_priors = topics[column], priors[column]
            for _ in range(repeats[entry]):
                unit = uint64(units[token])
                place = uint64(places[unit])
                counts[place] -= 1
                if counts[place] == 0:
                    places[unit] = -1
                    n_used -= uint64(1)
                    if place < n_used:
                        used[place], counts[place] = used[n_used], counts[n_used]
                        places[used[place]] = place
                total = 0.0
                for i in range(n_used):
                    total += counts[i] * of_word[used[i]]
                    sums[i] = total
                # One logarithm of many numbers, as long as they stay in range.
                whole = total + totals[column]
                product *= whole
                if not 1e-200 < product < 1e200:
                    log_product += math.log(product)
                    product = 1.0
                state += _STEP
                level = _uniform(state) * whole
                if level < total:
                    # Without branches, which would often be predicted wrongly.
                    place = uint64(0)
                    for i in range(n_used):
                        place += uint64(sums[i] <= level)
                    unit = used[place]
                else:
                    unit = uint64(_place(of_priors, level - total))
                    if places[unit] < 0:
                        used[n_used], counts[n_used], places[unit] = unit, 0, n_used
                        n_used += uint64(1)
                    place = uint64(places[unit])
                counts[place] += 1
                units[token] = unit
                token += uint64(1)
        for i in range(n_used):
            of_rows[row, used[i]] = counts[i]
            places[used[i]] = -1
        log_odds[row] = log_product + math.log(product)


@_compiled
def count_units(x, units, weights, counts):
    """Add the weights of tokens, those of their rows, to the counts of their cells.

    ``counts`` is (n_units, n_features).
    """
    entries, columns, repeats, before = x
    for row in range(len(weights)):
        token = uint64(before[row])
        for entry in range(entries[row], entries[row + 1]):
            column = uint64(columns[entry])
            for _ in range(repeats[entry]):
                counts[uint64(units[token]), column] += weights[row]
                token += uint64(1)


@_compiled
def _place(sums, level):
    """The first place of running sums that are above a level, or else the last."""
    low, high = 0, len(sums) - 1
    while low < high:
        middle = (low + high) // 2
        if sums[middle] > level:
            high = middle
        else:
            low = middle + 1
    return low
