"""The factors of a few rows of counts, by NumPy on the columns of each row alone.

These are the steps of ``GammaBelief`` with the ``expansion`` of counts and layers that
give means; see ``_math/few_rows.py`` for why. What follows from the weights is made
once, and kept with the module.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from skdeepfactor._math.few_rows import entries_of_rows, products
from skdeepfactor._math.row_iteration import MAX_STEPS
from skdeepfactor.models.sparse_gamma_def.links import AHEAD, FLOOR
from skdeepfactor.models.sparse_gamma_def.lowest_weights import FLOORS


class Units(NamedTuple):
    """Units of a layer: rho and tau, (2, n); logarithms of E[y] and 1 / E[1 / y]."""

    parameters: np.ndarray
    logs: np.ndarray


class UpperRows:
    """Units of one layer above the first, given those of the layers beside it.

    Parameters
    ----------
    family : InverseGaussians
        Posteriors of the units.
    weights : InverseGaussianUnits
        Weights from the layer to the one below, (units, units below).
    alpha : float
        Shape of the prior of the units below.
    """

    def __init__(self, family, weights, alpha):
        mean = weights.mean.numpy()
        self.weights, self.alpha = mean, alpha
        self.harmonic_weights = 1 / weights.inverse.numpy()
        self.cold_shares = (mean / mean.sum(0)).T / mean.sum(1)
        self.cold_ratio = family.of_mean(weights.mean.new_ones(1))[0].numpy()
        # As ``InverseGaussians`` reads its table, with the start of each cell.
        table = family.table.double().numpy()[:, :2].copy()
        table[:, 1] *= -1
        starts = np.arange(-1.0, table.shape[2] - 1).clip(0)
        self.table = np.concatenate([table.reshape(-1, table.shape[2]), [starts]])
        self.per_log = 0.5 / family.step
        self.offset = (math.log(2) - family.low) / family.step

    def cold(self, below, floor):
        """Units from the means of those below."""
        mean = np.maximum(below.dot(self.cold_shares), floor)
        return self.units(self.cold_ratio / mean, mean / self.cold_ratio)

    def units(self, rho, tau):
        """Units of given parameters; see ``InverseGaussianUnits``."""
        parameters = np.empty((2, len(rho)), rho.dtype)
        parameters[0] = rho
        np.maximum(tau, FLOOR / rho, out=parameters[1])
        log_rho, log_tau = np.log(parameters.astype(np.float64))
        position = (log_rho + log_tau) * self.per_log + self.offset
        cells = (position + 1).astype(np.intp)
        table = self.table.take(cells, 1, mode="clip")
        t = position - table[8]
        logs = table[:2] * t
        for coefficients in (table[2:4], table[4:6]):
            logs += coefficients
            logs *= t
        logs += table[6:8]
        logs += 0.5 * (log_tau - log_rho)
        return Units(parameters, logs)

    def state(self, above):
        """M and C of the units below, from E[y] and 1 / E[1 / y] of these."""
        mean, harmonic = above
        return mean.dot(self.weights), 1 / harmonic.dot(self.harmonic_weights)

    def step(self, state, below, above, rate):
        """New units, from the means of those below and moments of the old ones."""
        expected, harmonic = state
        rho = self.weights.dot(self.alpha / expected)
        pull = self.harmonic_weights.dot(self.alpha * below * harmonic * harmonic)
        return self.units(rho + rate, pull * above[1] * above[1])


class LowestRow:
    """The step on the factors of a row that are nearest to the data.

    Parameters
    ----------
    values : ndarray of shape (n_words,)
        Counts of the row's columns.
    weights, squares, spreads : ndarrays of shape (n_words, k)
        Means of their weights, squares of these, and E[w^2].
    totals : ndarray of shape (k,)
        Sums of the means over all columns.
    floor : float
    """

    def __init__(self, values, weights, squares, spreads, totals, floor):
        self.values, self.totals, self.floor = values, totals, floor
        self.weights = weights
        self.at_words, self.of_factors = products(weights)
        both = np.concatenate([spreads, squares], axis=1)
        self.both_at_words, self.both_of_factors = products(both)

    def cold(self, prior):
        """Means and shapes from the counts alone, under a prior's shape."""
        counts = self.of_factors(self.values / self.weights.sum(axis=1))
        mean = (counts if counts.any() else prior) / self.totals
        return np.maximum(mean, self.floor), prior + counts

    def step(self, mean, shape, prior, rate, power):
        """As ``ExpandedWeights.step``."""
        square, spread = mean * mean, 1 + 1 / shape
        inverse = 1 / np.maximum(self.at_words(mean), self.floor)
        relative = self.both_at_words(np.concatenate([square * spread, -square]))
        ratio = self.values * inverse
        per_square = ratio * inverse
        ratio += ratio * (relative * inverse * inverse)
        curvature, flat = self.both_of_factors(per_square).reshape(2, -1) * square
        gain = prior + mean * self.of_factors(ratio)
        loss = mean * (rate + self.totals) + spread * curvature - flat
        mean = np.maximum(mean * (gain / loss) ** power, self.floor)
        g = 1 + (1 + 0.71 * shape) / (1 + shape * (2.71 + 2.13 * shape))
        return mean, prior + curvature / g


class CountRows:
    """Factors of rows of counts, for a module whose weights stay as they are.

    Parameters
    ----------
    lowest : ExpandedWeights
    uppers : list of UpperRows
        From the lowest.
    layer_shapes : list of float
        Shapes of the priors of all layers.
    top_rate : float
    tol : float
        Relative change of a row's parameters below which it is done.
    """

    def __init__(self, lowest, uppers, layer_shapes, top_rate, tol):
        self.by_word = [moment.numpy() for moment in lowest.moments()]
        self.totals = lowest.weight_totals.numpy()
        self.floor = self.totals.dtype.type(FLOORS[lowest.weight_totals.dtype])
        self.uppers, self.tol = uppers, tol
        self.layer_shapes, self.top_rate = layer_shapes, top_rate

    def solve(self, x, power):
        """Parameters of the rows of a matrix, as ``GammaBelief`` packs them.

        ``power`` is that of the steps on means.
        """
        rows = []
        for columns, values in entries_of_rows(x):
            words = (array[columns] for array in self.by_word)
            lowest = LowestRow(values, *words, self.totals, self.floor)
            rows.append(self._solve_row(lowest, power))
        return torch.from_numpy(np.stack(rows))

    # Counts that are infinite give what is not a number, as in torch.
    @np.errstate(all="ignore")
    def _solve_row(self, lowest, power):
        """Parameters of one row, (width,); see ``row_iteration.fixed_point``."""
        mean, shape = lowest.cold(self.layer_shapes[0])
        units, below = [], mean
        for layer in self.uppers:
            units.append(layer.cold(below, self.floor))
            below = np.exp(units[-1].logs[0]).astype(mean.dtype)
        logs = [of_layer.logs for of_layer in units]
        moments = [np.exp(of_layer).astype(mean.dtype) for of_layer in logs]
        state, before, tol = _packed(mean, shape, units), np.inf, self.tol
        for _ in range(MAX_STEPS):
            mean, shape, units = self._step(lowest, mean, shape, moments, power)
            for place, new in enumerate(units):
                logs[place] = new.logs + AHEAD * (new.logs - logs[place])
                moments[place] = np.exp(logs[place]).astype(mean.dtype)
            new = _packed(mean, shape, units)
            change = new - state
            excess = np.add.reduce(np.abs(change)) - tol * np.add.reduce(new)
            state = new
            if excess <= 0 and tol > 0:
                return new + excess / (before - excess) * change
            before = excess
        return state

    def _step(self, lowest, mean, shape, moments, power):
        """One step on every layer, from the lowest to the top."""
        states = [
            layer.state(of_layer)
            for layer, of_layer in zip(self.uppers, moments, strict=True)
        ]
        layers = zip(self.layer_shapes, states, strict=False)
        rates = [*(alpha * harmonic for alpha, (_, harmonic) in layers), self.top_rate]
        mean, shape = lowest.step(mean, shape, self.layer_shapes[0], rates[0], power)
        units, below = [], mean
        for layer, state, above, rate in zip(
            self.uppers, states, moments, rates[1:], strict=True
        ):
            units.append(layer.step(state, below, above, rate))
            below = np.exp(units[-1].logs[0]).astype(mean.dtype)
        return mean, shape, units


def _packed(mean, shape, units):
    """All parameters of a row, (width,)."""
    parameters = [of_layer.parameters.ravel() for of_layer in units]
    return np.concatenate([mean, shape, *parameters])
