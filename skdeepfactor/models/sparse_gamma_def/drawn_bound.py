"""The evidence lower bound of a belief in closed form, by Monte Carlo.

Data and means of layers are drawn; divergences with a closed form given these are
exact. With ``is_correlated``, factors and lowest weights of large shape are correlated
log-normals of the same means; see ``lognormals.py``.
"""

import math

import numpy as np
import torch

from skdeepfactor._math.gammas import gamma_draws
from skdeepfactor._math.ops import scaled, transposed
from skdeepfactor._training.distributed import current_share
from skdeepfactor.models.sparse_gamma_def.lognormals import CorrelatedLogs

# Draws for the bound of the training data, and how many are made at a time.
N_DRAWS = 50
DRAWS_AT_ONCE = 10
# And how many weights of all of them at most.
DRAWN_AT_ONCE = 2**22

# Numbers of rows' correlations that are kept from draw to draw; others are found anew.
KEPT = 2**24


@torch.no_grad()
def drawn_bound(module, batches, *, is_correlated=False):
    """The bound of all rows, and its standard error over the draws.

    ``batches()`` yields batches, and the local parameters of their rows or None.
    """
    generator = np.random.default_rng(0)
    global_kl, bounds = module.global_kl().double(), []
    weights_above, kept = module.uppers, {}
    logs = None
    if is_correlated:
        logs = correlated_weights(module, batches)
        # Each process takes off the whole, of which all but one are given back.
        global_kl = global_kl + logs.kl_change().sum() / current_share().n_processes
    # Few at a time of large models, whose draws are large too.
    n_weights = module.lowest.weight_mean.numel()
    n_draws = min(DRAWS_AT_ONCE, max(1, DRAWN_AT_ONCE // n_weights))
    for first in range(0, N_DRAWS, n_draws):
        n_draws = min(n_draws, N_DRAWS - first)
        weights = [module.lowest.draw(generator) for _ in range(n_draws)]
        if logs is not None:
            weights = [logs.draw(drawn, generator) for drawn in weights]
        uppers = [
            module.link.draw_weights(w, n_draws, generator) for w in weights_above
        ]
        total = -global_kl.repeat(n_draws)
        for number, (batch, start) in enumerate(batches()):
            factors = factors_of(module, batch, start)
            of_rows = None
            if is_correlated:
                of_rows = kept.get(number)
                if of_rows is None:
                    of_rows = correlated_rows(module, batch, factors)
                    if of_rows.size + sum(v.size for v in kept.values()) <= KEPT:
                        kept[number] = of_rows
            found = _bounds(module, batch, factors, weights, uppers, generator, of_rows)
            total += scaled(found, batch.weight).sum(0)
        bounds += total.tolist()
    return float(np.mean(bounds)), float(np.std(bounds, ddof=1) / len(bounds) ** 0.5)


def factors_of(module, batch, start):
    """Posteriors of the factors of rows, from remembered local parameters or anew."""
    if start is None:
        return module.posterior(batch).factors
    return module.recalled(batch, start).factors


def correlated_weights(module, batches):
    """Correlated posteriors of the lowest weights, given all rows."""
    lowest = module.lowest
    mean, shape = lowest.weight_mean, lowest.weight_concentration
    logs = CorrelatedLogs(mean, shape, lowest.prior_shape)
    for batch, start in batches():
        factors = factors_of(module, batch, start)
        curvature = module.emission.curvature(batch.double(), factors.mean, mean)
        weight = batch.weight
        if isinstance(weight, torch.Tensor):
            weight = weight.double()
        logs.add(transposed(curvature), factors.mean, factors.shape, weight)
    current_share().add_up(logs.curvatures)
    logs.settle()
    return logs


def correlated_rows(module, batch, factors):
    """Correlated posteriors of the lowest factors of some rows."""
    lowest = module.lowest
    mean, shape = lowest.weight_mean, lowest.weight_concentration
    logs = CorrelatedLogs(factors.mean, factors.shape, module.layer_shapes[0])
    logs.add(module.emission.curvature(batch.double(), factors.mean, mean), mean, shape)
    logs.settle()
    return logs


def _bounds(module, batch, factors, weights, uppers, generator, logs):
    """The bound of each row at each draw of the weights, (n_rows, n_draws).

    ``logs`` are correlated posteriors of the rows' factors, or None.
    """
    n_draws, layers = len(weights), enumerate(factors.uppers)
    units = [module.link.draw(n, upper, n_draws, generator) for n, upper in layers]
    drawn = zip(units, uppers, module.layer_shapes[:-1], strict=True)
    # E[rate] and E[log rate] of each layer but the top, each with draws first.
    below = [module.link.drawn_rates(*values) for values in drawn]
    emission = module.emission
    batch = batch.double()
    base = emission.base(emission.constants(batch), batch)
    if logs is not None:
        base = base - logs.kl_change()
    top = module.top_rate, math.log(module.top_rate)
    bounds = []
    for draw, weight in enumerate(weights):
        z = gamma_draws(factors.shape, factors.mean, generator)
        if logs is not None:
            z = logs.draw(z, generator)
        likelihood = emission.drawn(batch, z, weight)
        rates = [(rate[draw], log_rate[draw]) for rate, log_rate in below]
        kl = module.local_kl(factors, [*rates, top])
        bounds.append(likelihood - kl + base)
    return torch.stack(bounds, 1)
