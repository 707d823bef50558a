"""Tokens of rows that keep the unit that each was drawn to be of.

The proportions of units in rows are integrated out: Griffiths and Steyvers (2004),
Finding scientific topics, integrate out topics too, which leaves no rows to draw side
by side.
"""

import torch

from skdeepfactor._math import compiled
from skdeepfactor._math.noise import mix
from skdeepfactor._math.threads import in_parts
from skdeepfactor._math.tokens import first_tokens, have_tokens


class RowTokens:
    """Tokens of the rows of a batch that have whole counts, and the unit of each.

    Parameters
    ----------
    batch : Batch
    n_units : int
    units : Tensor of int32, shape (n_tokens,), default=None
        The units of these tokens, from an earlier ``state``; others are passed over.

    Attributes
    ----------
    rows, others : slice or Tensor of int64
        Rows whose counts are whole and up to ``MOST_TOKENS``, and those whose are not.
    keys : Tensor of shape (n_rows,)
        Hashes of the former.
    units : Tensor of int32, shape (n_tokens,), or None
        What was drawn last; None until ``start``.
    """

    def __init__(self, batch, n_units, units=None):
        have = have_tokens(batch.counts)
        self.rows, self.others = slice(None), (~have).nonzero()[:, 0]
        if len(self.others):
            self.rows = have.nonzero()[:, 0]
            batch = batch.take(self.rows)
        x, self.keys = batch.counts, batch.keys
        repeats, entries = x.values().int(), x.crow_indices().long()
        before = first_tokens(x, repeats)
        self.totals = before.diff()
        arrays = entries, x.col_indices().int(), repeats, before
        self._x = tuple(array.numpy() for array in arrays)
        self.units = units if self._may_have(units, n_units) else None

    def _may_have(self, units, n_units):
        """Whether these can be units of the tokens, wherever they come from."""
        if units is None or len(units) != self.totals.sum():
            return False
        return units.numel() == 0 or bool((units >= 0).all() & (units < n_units).all())

    @property
    def state(self):
        """The units: tokens are made from them and the rows after a checkpoint."""
        return self.units

    def start(self, odds, topics, keys, *, stream):
        """Draw the unit of each token given the odds of units in its row.

        ``odds``, (n_rows, n_units), and ``topics``, (n_features, n_units), multiply;
        ``keys``, (n_rows,), is the noise of rows, of which one stream is used.
        """
        self.units = torch.empty(int(self.totals.sum()), dtype=torch.int32)
        self._draw(compiled.kernels().start_units, (odds, topics), keys, stream, ())

    def redraw(self, alpha, topics, prior_sums, keys, *, stream):
        """Draw the unit of each token anew, one after the other, given the others.

        The proportions of units in a row are integrated out: unit k has the odds
        (n_k + alpha_k) topics_vk for a token of word v, with the n_k other tokens that
        its row has of it. Where few units have tokens, few odds are looked at.

        Parameters
        ----------
        alpha : Tensor of shape (n_units,)
            Concentration of the proportions.
        topics : Tensor of shape (n_features, n_units)
            Probabilities of words.
        prior_sums : Tensor of shape (n_features, n_units)
            Running sums over the units of alpha_k topics_vk, float64.
        keys : Tensor of shape (n_rows,)
            The noise of rows.
        stream : int

        Returns
        -------
        of_rows : Tensor of shape (n_rows, n_units)
            Tokens of each unit, of the type of ``topics``.
        log_likelihood : Tensor of shape (n_rows,)
            Log probability of each word given the units of the others when it was
            drawn, summed over the words of each row, float64.
        """
        of_rows = topics.new_zeros(len(self.keys), topics.shape[1])
        log_odds = of_rows.new_empty(len(of_rows), dtype=torch.float64)
        odds = topics, prior_sums, prior_sums[:, -1].contiguous()
        kernel, results = compiled.kernels().redraw_units, (of_rows, log_odds)
        self._draw(kernel, odds, keys, stream, results)
        # The odds are to be divided by their sum over all words.
        others = (self.totals - 1).clamp_min(0)
        log_totals = (others + alpha.double().sum()).log_()
        return of_rows, log_odds - self.totals * log_totals

    def counts_of_words(self, weight, shape):
        """Tokens of each word from each unit, float64, of shape (n_features, n_units).

        ``weight``, a float or (n_rows,), is how much each token of a row counts.
        """
        weights = torch.as_tensor(weight, dtype=torch.float64)
        weights = weights.expand(len(self.keys)).contiguous()
        counts = torch.zeros(shape[1], shape[0], dtype=torch.float64)
        compiled.kernels().count_units(
            self._x, self.units.numpy(), weights.numpy(), counts.numpy()
        )
        return counts.T

    def _draw(self, kernel, odds, keys, stream, results):
        """Call a loop for all rows, which fills the results."""
        odds, results = (tuple(a.numpy() for a in some) for some in (odds, results))
        noise = compiled.bits(mix(keys)), int(stream)
        units = self.units.numpy()

        def draw(start, stop):
            kernel((start, stop), self._x, *odds, *noise, units, *results)

        in_parts(draw, self._x[-1])
