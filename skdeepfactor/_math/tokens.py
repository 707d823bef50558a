"""Draws of where counts come from, for Gibbs samplers: units of words, and tables.

Each token of a row is from one of K units, with odds z_nk w_vk for a word v of row n.
Units come in groups of 16. The sums of the odds of each group are sparse products of z
and w, the same for all tokens of a word in a row. One uniform number falls in a group,
by the running sums of these, and another on one of its units. So a token takes some
K / 16 + 16 steps in place of K. All draws are a function of a row's key and of a stream
(see ``noise.py``), and of the row's own numbers.
"""

import dataclasses
import itertools
from functools import cached_property

import numpy as np
import scipy.special
import torch

from skdeepfactor._math.noise import Stream, mix, uniform_at, uniform_pairs_at
from skdeepfactor._math.ops import (
    csr,
    map_values,
    product_at,
    row_indices,
    row_sum,
    slices,
    take_rows,
    without_zeros,
)

#: Counts of an entry up to which each token is drawn by itself; those of larger entries
#: are split in halves of the units by binomial draws. It is lower in rows with more
#: than ``MOST_AT_ONCE`` tokens.
MOST_TOKENS = 1000
#: Customers of which each is seated by itself; tables of those that come later are
#: binomial.
MOST_SEATED = 1000
#: Odds of units in a row, of which the largest is 1, and of words that count as 0.
LEAST_ODDS = 1e-30
#: Tokens of the rows that are drawn at once, each of which takes some 200 bytes.
MOST_AT_ONCE = 2**18
#: Units in a group.
GROUP = 16


@dataclasses.dataclass(eq=False)
class Tokens:
    """The counts of rows as tokens, row by row, and entries that have too many.

    Attributes
    ----------
    x : Tensor of shape (n_rows, n_features)
        CSR, without zeros.
    repeats : Tensor of shape (n_entries,)
        Number of tokens of each entry.
    large : Tensor of shape (n_large,)
        Places among the entries of those that are no tokens.
    """

    x: torch.Tensor
    repeats: torch.Tensor
    large: torch.Tensor

    @classmethod
    def of(cls, x):
        """The tokens of whole counts: a strided or a CSR tensor."""
        x = without_zeros(x)
        counts = x.values()
        is_large = counts > _most_tokens(x)
        repeats = counts.masked_fill(is_large, 0).long()
        return cls(x, repeats, is_large.nonzero()[:, 0])

    @property
    def shape(self):
        """Numbers of rows and features."""
        return self.x.shape

    @cached_property
    def entries(self):
        """The place of the entry of each token, (n_tokens,)."""
        places = torch.arange(len(self.repeats), device=self.x.device)
        return places.repeat_interleave(self.repeats)

    @cached_property
    def rows(self):
        """The row of each token, (n_tokens,)."""
        sizes = first_tokens(self.x, self.repeats).diff()
        return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)

    @cached_property
    def columns(self):
        """The column of each token, (n_tokens,)."""
        return self.x.col_indices().long()[self.entries]

    @cached_property
    def numbers(self):
        """The number of each token in its row, (n_tokens,)."""
        return _numbers(self.rows, len(self.x))


class TokenParts:
    """The tokens of rows of whole counts, some rows at a time: pairs of both.

    A part has ``MOST_AT_ONCE`` tokens, or as many more as its last row, of which there
    are no more than that either; an entry that is no tokens counts as the most that it
    could be. If there are several parts, their tokens are made anew each time.

    Parameters
    ----------
    x : Tensor of shape (n_rows, n_features)
        Strided or CSR.
    """

    def __init__(self, x):
        self._x, self.shape = without_zeros(x), x.shape
        self._parts = []
        if not _are_few(self._x):
            most = _most_tokens(self._x)
            sizes = row_sum(map_values(lambda n: n.clamp_max(most), self._x))
            self._parts = _parts(sizes)
        self._whole = Tokens.of(self._x) if len(self._parts) <= 1 else None

    def __iter__(self):
        if self._whole is not None:
            yield slice(None), self._whole
            return
        numbers = torch.arange(len(self._x), device=self._x.device)
        for rows in self._parts:
            yield rows, Tokens.of(take_rows(self._x, numbers[rows]))


def first_tokens(x, repeats):
    """Number of tokens before each row of a CSR tensor, and of all, (n_rows + 1,).

    ``repeats``, (n_entries,), are those of its entries.
    """
    before = torch.nn.functional.pad(repeats.cumsum(0), (1, 0))
    return before[x.crow_indices().long()]


def _are_few(x):
    """Whether all counts of a CSR batch can be drawn at once."""
    return x.values().sum(dtype=torch.float64).item() <= MOST_AT_ONCE


def _most_tokens(x):
    """Counts up to which each token of an entry is drawn by itself, (n_entries,).

    Or one for all entries of ``x``, a CSR tensor without zeros. Those of a row depend
    on the row alone, so that its draws do. It then has no more than ``MOST_AT_ONCE``
    tokens, or one for each entry.
    """
    if _are_few(x) or not bool((row_sum(x) > MOST_AT_ONCE).any()):
        return MOST_TOKENS
    small = map_values(lambda n: n.masked_fill(n > MOST_TOKENS, 0), x)
    lower = MOST_AT_ONCE // x.crow_indices().diff().clamp_min(1)
    lower = lower.clamp(1, MOST_TOKENS).to(x.dtype)
    of_rows = torch.where(row_sum(small) > MOST_AT_ONCE, lower, MOST_TOKENS)
    return of_rows[row_indices(x)]


def _parts(sizes):
    """Slices of rows, given the size of each: of ``MOST_AT_ONCE``, or a row more."""
    before = sizes.double().cumsum(0) - sizes
    _, n_rows = (before // MOST_AT_ONCE).unique_consecutive(return_counts=True)
    bounds = [0, *n_rows.cumsum(0).tolist()]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def share_of_sweep(n_kept, n_sweeps, burn_in):
    """Count a sweep among those that are averaged, and give its share of these.

    ``n_kept``, a tensor, is the number of them, which is changed; ``n_sweeps`` that of
    all sweeps. A sweep that is not kept has a share of 1: until ``burn_in`` sweeps have
    been made, and if that is None, the last one stands for the averages.
    """
    is_kept = burn_in is not None and (n_kept > 0 or n_sweeps > burn_in)
    n_kept.copy_(n_kept + 1 if is_kept else torch.zeros_like(n_kept))
    return 1 / max(int(n_kept), 1)


def _numbers(rows, n_rows):
    """The number of each item in its row, from the rows of all, which rise."""
    sizes = torch.bincount(rows, minlength=n_rows)
    starts = sizes.cumsum(0) - sizes
    return torch.arange(len(rows), device=rows.device) - starts[rows]


def have_tokens(x):
    """Whether rows have whole counts up to ``MOST_TOKENS``, (n_rows,).

    ``x`` is a CSR tensor without zeros.
    """
    values = x.values()
    is_other = (values > MOST_TOKENS) | (values != values.floor())
    return row_sum(map_values(is_other.to, x)) == 0


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
    numbers = _numbers(rows, len(x))
    keys = batch.keys if keys is None else keys
    uniform = uniform_at(mix(keys)[rows], numbers, Stream.ROUNDING)
    return map_values(lambda _: whole + (uniform < fractions).to(whole), x)


def allocate_tokens(tokens, z, w, keys, *, stream, weight=1.0):
    """Draw the unit of each token; counts of the units in rows, and in words.

    The probability of the words of each row, given the odds, falls out of the draws.

    ``z``, (n_rows, k), and ``w``, (n_features, k), are the odds: not negative, and the
    products of each token have a sum that is not 0. ``keys``, (n_rows,), is the noise
    of rows, of which two streams are used. ``weight``, a float or (n_rows,), is how
    much each token of a row counts in words.

    Returns
    -------
    of_rows : Tensor of shape (n_rows, k)
    of_words : Tensor of shape (n_features, k)
    log_odds : Tensor of shape (n_rows,)
        Sum over the tokens of each row of the logarithm of the sum of their odds. All
        float64.
    """
    n_features, k = w.shape
    keys = mix(keys)
    cells, of_rows, log_odds = _drawn(tokens, z, w, keys, stream)
    is_weighted = isinstance(weight, torch.Tensor)
    of_words = torch.bincount(
        cells,
        weight.double()[tokens.rows] if is_weighted else None,
        minlength=n_features * k,
    )
    of_words = of_words.view(n_features, k).double()
    if len(tokens.large):
        of_large = row_indices(tokens.x)[tokens.large]
        large_numbers = _numbers(of_large, len(z))
    for part in slices(len(tokens.large), k):
        large, rows = tokens.large[part], of_large[part]
        columns = tokens.x.col_indices()[large].long()
        odds = z[rows].double() * w[columns].double()
        counts = tokens.x.values()[large].double()
        split = _split_counts(counts, odds, keys[rows], large_numbers[part], stream + 1)
        of_rows.index_add_(0, rows, split)
        if is_weighted:
            split *= weight.double()[rows, None]
        of_words.index_add_(0, columns, split)
    return of_rows, of_words if is_weighted else of_words * weight, log_odds


def _drawn(tokens, z, w, keys, stream):
    """Draw the unit of each token; units in words and in rows, and log odds.

    The former are the numbers of cells of (n_features, k), (n_tokens,); the others are
    those of ``allocate_tokens``, without large entries in rows.
    """
    x, (n_rows, k) = tokens.x, z.shape
    width = min(GROUP, k)
    z, w = (_grouped(a, width) for a in (z, w))
    n_groups = z.shape[1]
    pattern = csr(
        x.crow_indices(), x.col_indices(), z.new_zeros(x.values().shape), x.shape
    )
    # Running sums over the groups, of each entry.
    sums = z.new_empty(n_groups, len(x.values()))
    for group in range(n_groups):
        odds = product_at(pattern, z[:, group], w[:, group].T).values()
        torch.add(odds, sums[group - 1] if group else 0, out=sums[group])
    z, w = z.view(-1, width), w.view(-1, width)
    units = torch.empty_like(tokens.rows)
    for part in slices(len(units), width):
        rows, columns = tokens.rows[part], tokens.columns[part]
        levels, levels_in_group = (
            u.to(z) for u in uniform_pairs_at(keys[rows], tokens.numbers[part], stream)
        )
        # Not above the last of the sums, so that no unit with odds 0 is ever drawn.
        of_tokens = sums.index_select(1, tokens.entries[part])
        levels *= of_tokens[-1]
        groups = (of_tokens[:-1] < levels).sum(0)
        odds = z.index_select(0, rows * n_groups + groups)
        odds *= w.index_select(0, columns * n_groups + groups)
        odds = odds.cumsum(1)
        levels_in_group *= odds[:, -1]
        places = torch.searchsorted(odds, levels_in_group[:, None])[:, 0]
        units[part] = groups * width + places
    log_odds = row_sum(map_values(lambda n: n.double() * sums[-1].double().log(), x))
    of_rows = torch.bincount(tokens.rows * k + units, minlength=n_rows * k)
    cells = tokens.columns * k + units
    return cells, of_rows.view(n_rows, k).double(), log_odds


def _grouped(a, width):
    """Numbers of units, (n, k), in groups, (n, n_groups, width), the last with 0s."""
    n_groups = -(-a.shape[1] // width)
    a = torch.nn.functional.pad(a, (0, n_groups * width - a.shape[1]))
    return a.view(len(a), n_groups, width)


def _split_counts(counts, odds, keys, numbers, stream):
    """Multinomial counts of the units in large entries, (n_large, k), float64.

    The counts of a range of units are split between its halves, by a binomial draw.
    """
    k = odds.shape[1]
    sums = torch.nn.functional.pad(odds.cumsum(1), (1, 0))
    result = torch.empty_like(odds)
    ranges = [(0, k, counts)]
    while ranges:
        start, stop, n = ranges.pop()
        if stop - start == 1:
            result[:, start] = n
            continue
        middle = (start + stop) // 2
        total = sums[:, stop] - sums[:, start]
        share = (sums[:, middle] - sums[:, start]) / total.clamp_min(1e-300)
        # A position for each entry and split: k - 1 splits have different middles.
        uniform = uniform_at(keys, numbers * k + middle, stream)
        left = binomial(n, share, uniform)
        ranges += [(start, middle, left), (middle, stop, n - left)]
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
    # The first customer always takes a table.
    later = (counts.clamp_max(MOST_SEATED) - 1).clamp_min(0).long()
    result, keys = (counts > 0).double(), mix(keys)
    for rows in _parts(later.sum(1)):
        result[rows] += _new_tables(
            later[rows], concentration[rows], keys[rows], stream
        )
    is_large = counts > MOST_SEATED
    if bool(is_large.any()):
        large = is_large.nonzero(as_tuple=True)
        result[large] += _later_tables(
            counts[large].double(),
            concentration[large].double(),
            uniform_at(keys[large[0]], large[1], stream + 1),
        )
    return result


def _new_tables(later, concentration, keys, stream):
    """Tables of the customers after the first, each seated by itself, (n_rows, k)."""
    n_rows, k = later.shape
    later = later.reshape(-1)
    cells = torch.arange(len(later), device=later.device).repeat_interleave(later)
    rows = cells // k
    numbers = _numbers(rows, n_rows)
    starts = later.cumsum(0) - later
    before = torch.arange(len(cells), device=cells.device) - starts[cells] + 1
    s = concentration.reshape(-1)[cells]
    uniform = uniform_at(keys[rows], numbers, stream)
    is_new = uniform * (s + before) < s
    return torch.bincount(cells[is_new], minlength=n_rows * k).view(n_rows, k)


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
