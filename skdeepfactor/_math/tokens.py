"""Draws of where counts come from, for Gibbs samplers: units of words, and tables.

Each token of a row is from one of K units, with odds z_nk w_vk for a word v of row n.
All tokens are drawn at once, in slices of a cache: the running sums of the odds of
each, and where a uniform number falls among them. All draws are a function of a row's
key and of a stream (see ``noise.py``), and of the row's own numbers.
"""

import itertools
from typing import NamedTuple

import numpy as np
import scipy.special
import torch

from skdeepfactor._math.noise import Stream, mix, uniform_at
from skdeepfactor._math.ops import (
    map_values,
    nonzero,
    row_indices,
    row_sum,
    slices,
    take_rows,
)

#: Counts of an entry up to which each token is drawn by itself; those of larger entries
#: are split in halves of the units by binomial draws.
MOST_TOKENS = 1000
#: Customers of which each is seated by itself; tables of those that come later are
#: binomial.
MOST_SEATED = 1000
#: Odds of units in a row, of which the largest is 1, and of words that count as 0.
LEAST_ODDS = 1e-30
#: Tokens of the rows that are drawn at once, each of which takes some 200 bytes.
MOST_AT_ONCE = 2**20


class Tokens(NamedTuple):
    """The counts of rows as tokens, row by row, and entries with more than a thousand.

    ``rows``, ``columns`` and ``numbers`` have the row, the column and the number in its
    row of each token; ``large_rows``, ``large_columns``, ``large_numbers`` and
    ``large_counts`` describe the large entries, which are no tokens.
    """

    shape: torch.Size
    rows: torch.Tensor
    columns: torch.Tensor
    numbers: torch.Tensor
    large_rows: torch.Tensor
    large_columns: torch.Tensor
    large_numbers: torch.Tensor
    large_counts: torch.Tensor

    @classmethod
    def of(cls, x):
        """The tokens of whole counts: a strided or a CSR tensor."""
        rows, columns = nonzero(x)
        counts = x[rows, columns] if x.layout == torch.strided else x.values()
        counts = counts[counts != 0]
        is_large = counts > MOST_TOKENS
        repeats = torch.where(is_large, 0, counts).long()
        of_rows, numbers = _repeated(rows, repeats, len(x))
        _, large_numbers = _repeated(rows[is_large], None, len(x))
        return cls(
            x.shape,
            of_rows,
            columns.repeat_interleave(repeats),
            numbers,
            rows[is_large],
            columns[is_large],
            large_numbers,
            counts[is_large].double(),
        )


class TokenParts:
    """The tokens of rows of whole counts, some rows at a time: pairs of both.

    A part has ``MOST_AT_ONCE`` tokens, or as many more as its last row. If there are
    several parts, their tokens are made anew each time.

    Parameters
    ----------
    x : Tensor of shape (n_rows, n_features)
        Strided or CSR.
    """

    def __init__(self, x):
        self._x, self.shape = x, x.shape
        totals = row_sum(map_values(lambda n: torch.where(n > MOST_TOKENS, 0, n), x))
        before = totals.double().cumsum(0) - totals
        _, sizes = (before // MOST_AT_ONCE).unique_consecutive(return_counts=True)
        self._bounds = [0, *sizes.cumsum(0).tolist()]
        self._whole = Tokens.of(x) if len(self._bounds) <= 2 else None

    def __iter__(self):
        if self._whole is not None:
            yield slice(None), self._whole
            return
        numbers = torch.arange(len(self._x), device=self._x.device)
        for start, stop in itertools.pairwise(self._bounds):
            rows = slice(start, stop)
            yield rows, Tokens.of(take_rows(self._x, numbers[rows]))


def share_of_sweep(n_kept, n_sweeps, burn_in):
    """Count a sweep among those that are averaged, and give its share of these.

    ``n_kept``, a tensor, is the number of them, which is changed; ``n_sweeps`` that of
    all sweeps. A sweep that is not kept has a share of 1: until ``burn_in`` sweeps have
    been made, and if that is None, the last one stands for the averages.
    """
    is_kept = burn_in is not None and (n_kept > 0 or n_sweeps > burn_in)
    n_kept.copy_(n_kept + 1 if is_kept else torch.zeros_like(n_kept))
    return 1 / max(int(n_kept), 1)


def _repeated(rows, repeats, n_rows):
    """Each row as often as its entries are repeated, and each one's number in its row.

    ``rows`` rise. Without ``repeats``, each entry comes once.
    """
    if repeats is not None:
        rows = rows.repeat_interleave(repeats)
    sizes = torch.bincount(rows, minlength=n_rows)
    starts = sizes.cumsum(0) - sizes
    return rows, torch.arange(len(rows), device=rows.device) - starts[rows]


def rounded(batch, keys=None):
    """The rows as whole counts: fractions are rounded at random, up with that chance.

    The draw is a function of ``keys``, (n_rows,), or else of the row's content, so that
    it is always the same.
    """
    x = batch.counts
    values = x.values()
    whole = values.floor()
    fractions = (values - whole).double()
    if not bool(fractions.any()):
        return x
    rows = row_indices(x)
    _, numbers = _repeated(rows, None, len(x))
    keys = batch.keys if keys is None else keys
    uniform = uniform_at(mix(keys)[rows], numbers, Stream.ROUNDING)
    return map_values(lambda _: whole + (uniform < fractions).to(whole), x)


def allocate_tokens(tokens, z, w, keys, *, stream, weight=1.0):
    """Draw the unit of each token; counts of the units in rows, and in words.

    ``z``, (n_rows, k), and ``w``, (n_features, k), are the odds: not negative, and the
    products of each token have a sum that is not 0. ``keys``, (n_rows,), is the noise
    of rows, of which two streams are used. ``weight``, a float or (n_rows,), is how
    much each token of a row counts in words.

    Returns
    -------
    of_rows : Tensor of shape (n_rows, k)
    of_words : Tensor of shape (n_features, k)
        Both float64.
    """
    (n_rows, n_features), k = tokens.shape, z.shape[1]
    keys = mix(keys)
    units = torch.empty_like(tokens.rows)
    for part in slices(len(units), k):
        rows = tokens.rows[part]
        odds = w[tokens.columns[part]]
        odds *= z[rows]
        odds = odds.cumsum(1)
        levels = uniform_at(keys[rows], tokens.numbers[part], stream).to(odds)
        # Not above the last of the sums, so that no unit with odds 0 is ever drawn.
        levels *= odds[:, -1]
        units[part] = torch.searchsorted(odds, levels[:, None])[:, 0]
    of_rows = torch.bincount(tokens.rows * k + units, minlength=n_rows * k)
    is_weighted = isinstance(weight, torch.Tensor)
    of_words = torch.bincount(
        tokens.columns * k + units,
        weight.double()[tokens.rows] if is_weighted else None,
        minlength=n_features * k,
    )
    of_rows = of_rows.view(n_rows, k).double()
    of_words = of_words.view(n_features, k).double()
    if len(tokens.large_rows):
        split = _split_counts(tokens, z, w, keys, stream + 1)
        of_rows.index_add_(0, tokens.large_rows, split)
        if is_weighted:
            split *= weight.double()[tokens.large_rows, None]
        of_words.index_add_(0, tokens.large_columns, split)
    return of_rows, of_words if is_weighted else of_words * weight


def _split_counts(tokens, z, w, keys, stream):
    """Multinomial counts of the units in large entries, (n_large, k), float64.

    The counts of a range of units are split between its halves, by a binomial draw.
    """
    k = z.shape[1]
    rows = tokens.large_rows
    odds = z[rows].double() * w[tokens.large_columns].double()
    sums = torch.nn.functional.pad(odds.cumsum(1), (1, 0))
    result = torch.empty_like(odds)
    ranges = [(0, k, tokens.large_counts)]
    while ranges:
        start, stop, counts = ranges.pop()
        if stop - start == 1:
            result[:, start] = counts
            continue
        middle = (start + stop) // 2
        total = sums[:, stop] - sums[:, start]
        share = (sums[:, middle] - sums[:, start]) / total.clamp_min(1e-300)
        # A position for each entry and split: k - 1 splits have different middles.
        numbers = tokens.large_numbers * k + middle
        uniform = uniform_at(keys[rows], numbers, stream)
        left = binomial(counts, share, uniform)
        ranges += [(start, middle, left), (middle, stop, counts - left)]
    return result


def binomial(n, p, uniform):
    """Quantiles of binomial distributions, float64, at uniform numbers."""
    device = uniform.device
    n, p, uniform = (x.cpu().numpy() for x in (n, p, uniform))
    with np.errstate(all="ignore"):
        draws = np.ceil(scipy.special.bdtrik(uniform, n, np.clip(p, 0, 1)))
    draws = np.where((p <= 0) | np.isnan(draws), 0, draws)
    draws = np.clip(np.where(p >= 1, n, draws), 0, n)
    return torch.from_numpy(draws).to(device)


def tables(counts, concentration, keys, *, stream):
    """Tables of Chinese restaurants: sum_{i < n} Bernoulli(s / (s + i)), float64.

    ``counts``, (n_rows, k), holds the customers n of each, ``concentration``, of the
    same shape, s > 0; ``keys``, (n_rows,), is the noise of rows, of which two streams
    are used. Tables of customers beyond the first ``MOST_SEATED`` are drawn from a
    binomial distribution of their mean and variance.
    """
    n_rows, k = counts.shape
    result = (counts > 0).double()
    # The first customer always takes a table.
    later = (counts.clamp_max(MOST_SEATED) - 1).clamp_min(0).long().view(-1)
    cells = torch.arange(len(later), device=later.device).repeat_interleave(later)
    if len(cells):
        keys = mix(keys)
        rows, numbers = _repeated(cells // k, None, n_rows)
        starts = later.cumsum(0) - later
        before = torch.arange(len(cells), device=cells.device) - starts[cells] + 1
        s = concentration.reshape(-1)[cells]
        uniform = uniform_at(keys[rows], numbers, stream)
        is_new = uniform * (s + before) < s
        result.view(-1).add_(torch.bincount(cells[is_new], minlength=n_rows * k))
        is_large = counts > MOST_SEATED
        if bool(is_large.any()):
            large = is_large.nonzero(as_tuple=True)
            result[large] += _later_tables(
                counts[large].double(),
                concentration[large].double(),
                uniform_at(keys[large[0]], large[1], stream + 1),
            )
    return result


def _later_tables(n, s, uniform):
    """Tables of the customers after the first ``MOST_SEATED``."""
    start = s + MOST_SEATED
    mean = s * (torch.digamma(s + n) - torch.digamma(start))
    squares = s * s * (torch.polygamma(1, start) - torch.polygamma(1, s + n))
    # The binomial distribution whose mean and variance are those of the sum.
    trials = torch.minimum(
        (mean * mean / squares.clamp_min(1e-300)).ceil(), n - MOST_SEATED
    )
    trials = trials.clamp_min(mean.ceil())
    return binomial(trials, mean / trials.clamp_min(1), uniform)
