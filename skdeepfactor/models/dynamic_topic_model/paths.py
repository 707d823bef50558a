r"""Paths of topics: Gaussian random walks whose softmax words are counted from.

A topic's path is w_tv, with words :math:`n_{tv}` at slice t from
:math:`\beta_t = \text{softmax}(w_t)`. Everything here works on blocks of features, of
arrays (n_slices, n_features, n_topics), since the paths are the largest arrays of all.
"""

import torch

from skdeepfactor._math.allocation import Weights
from skdeepfactor._math.gammas import scaled_exp
from skdeepfactor._math.ops import slices

# How far a logarithm may move in a step, and how far the paths that would overshoot so.
FARTHEST, SHORT = 2.0, 0.5

# Variances below are this one: paths then move by less than float32 can tell.
LEAST_VARIANCE = 1e-8


class PointTopics:
    """Topics that are known: probabilities of features, (k, n_features).

    ``log_probabilities(features)``, (a few features, k), are those of a slice of them.
    """

    def __init__(self, log_probabilities, shape, like):
        by_feature = like.new_empty(shape)
        log_scale = like.new_empty(shape[0], 1)
        for features in slices(*shape):
            part = log_probabilities(features)
            by_feature[features], log_scale[features] = scaled_exp(part, 1)
        self.weights = self.collapsed_weights = Weights(by_feature, log_scale[:, 0])

    @classmethod
    def of_paths(cls, paths):
        """The topics of all slices, with features as ``in_slices`` moves them."""
        _, n_features, k = paths.shape
        log_z = log_normalizers(paths).repeat_interleave(n_features, 0)
        flat = paths.view(-1, k)
        return cls(lambda part: flat[part] - log_z[part], flat.shape, flat)


def blocks(paths):
    """Slices of the features of paths, (n_slices, n_features, n_topics)."""
    n_slices, n_features, n_topics = paths.shape
    return slices(n_features, n_slices * n_topics)


def log_normalizers(paths):
    """Logarithm of the sum over features of exp(paths), (n_slices, n_topics)."""
    largest = paths.amax(1)
    total = torch.zeros_like(largest)
    for features in blocks(paths):
        total += (paths[:, features] - largest[:, None]).exp_().sum(1)
    return total.log_().add_(largest)


def smoothed(pulls, precisions, variances):
    r"""The most probable path given a pull and a precision at each of its points.

    Maximizes :math:`\sum_t (b_t w_t - p_t w_t^2 / 2) - \sum_t (w_{t+1} - w_t)^2 / (2
    s_t)`: a Kalman filter forwards and a smoother backwards, in the form that holds for
    variances :math:`s_t` of 0. The filter's arrays take the place of the arguments.

    Parameters
    ----------
    pulls, precisions : Tensor of shape (n_slices, ...)
        The latter are positive.
    variances : list of float, (n_slices - 1,)

    Returns
    -------
    Tensor of shape (n_slices, ...)
        The path, in the memory of ``pulls``.
    """
    for t, variance in enumerate(variances):
        kept = (1 + variance * precisions[t]).reciprocal_()
        pulls[t + 1].addcmul_(pulls[t], kept)
        precisions[t + 1].addcmul_(precisions[t], kept)
    pulls[-1] /= precisions[-1]
    for t in range(len(variances) - 1, -1, -1):
        pulls[t].mul_(variances[t]).add_(pulls[t + 1])
        pulls[t] /= precisions[t].mul_(variances[t]).add_(1)
    return pulls


def climb(paths, counts, prior, variances, n_steps):
    """Move paths, in place, towards those that are most probable given counts.

    With the normalizer of a topic in a slice taken as a rate, log Z <= Z / Z' + log Z'
    - 1, words are independent of each other, and each step is Newton's for every word
    at once: a path smoothed from one pseudo-observation for each slice. A path that
    would not gain by a whole step takes a short one or none, so that no step makes the
    paths less probable.

    Parameters
    ----------
    paths, counts : Tensor of shape (n_slices, n_features, n_topics)
        Counts without the prior's.
    prior : Tensor that broadcasts to (n_features, n_topics)
        Counts that the prior adds to each slice.
    variances : list of float, (n_slices - 1,)
    n_steps : int
    """
    parts = blocks(paths)
    wide = prior.expand(paths.shape[1:])
    totals = counts.sum(1) + wide.sum(0)
    for _ in range(n_steps):
        log_rate = totals.log() - log_normalizers(paths)
        for features in parts:
            _step(
                paths[:, features],
                counts[:, features] + wide[features],
                log_rate[:, None],
                variances,
            )


def _step(at, counts, log_rate, variances):
    """One step of ``climb`` for a block of features."""
    expected = (at + log_rate).exp_()
    pulls = torch.addcmul(counts, expected, at).sub_(expected)
    step = smoothed(pulls, expected.clone(), variances).sub_(at)
    length = step.abs().amax(0).clamp_min_(SHORT)
    gain = _gain(at, step.clamp(-FARTHEST, FARTHEST), counts, expected, variances)
    is_short = gain < 0
    if bool(is_short.any()):
        short = step * (SHORT / length)
        gain = _gain(at, short, counts, expected, variances)
        short.mul_(gain >= 0)
        step = torch.where(is_short, short, step.clamp_(-FARTHEST, FARTHEST))
    else:
        step.clamp_(-FARTHEST, FARTHEST)
    at.add_(step)


def _gain(at, step, counts, expected, variances):
    """Gain of each path by a step, (n_features, n_topics)."""
    gain = (counts * step).sub_(expected * torch.expm1(step)).sum(0)
    for t, variance in enumerate(variances):
        moved = step[t + 1] - step[t]
        # The difference of two squares, without cancellation.
        gain -= moved * (2 * (at[t + 1] - at[t]) + moved) / (2 * variance)
    return gain


def log_prior(paths, prior, variances):
    """Log density of paths, up to a constant, float64.

    The walk's, and that of the prior's counts in each slice.
    """
    wide = prior.expand(paths.shape[1:])
    log_z = log_normalizers(paths).double()
    total = -(wide.sum(0, dtype=torch.float64) * log_z).sum()
    for features in blocks(paths):
        part = paths[:, features].double()
        total += (wide[features].double() * part).sum()
        for t, variance in enumerate(variances):
            total -= (part[t + 1] - part[t]).square_().sum() / (2 * variance)
    return total
