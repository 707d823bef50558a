r"""The logarithms of a row's proportions: their mode, and how the log joint curves.

With the notation of ``module.py``, the log joint of a row has the gradient :math:`g = r
- N \theta - \Omega (\eta - \mu)` and minus the Hessian

.. math::
    H = \Omega + N (\text{diag} \theta - \theta \theta^T)
        - (\text{diag} r - \textstyle\sum_v x_v \phi_v \phi_v^T).

Products with H take two products with the sparse batch and one with :math:`\Omega`, so
conjugate gradients find steps without a K x K matrix for each row.
"""

from typing import NamedTuple

import torch

from skdeepfactor._math.allocation import Allocation, Weights, allocate
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gaussian import inverse_root
from skdeepfactor._math.ops import map_values, product_at
from skdeepfactor._math.row_iteration import MAX_STEPS, choose, iterate_rows

# Longest step of a logarithm, and steps of conjugate gradients: on the way, and to the
# mode, where the rest of a step is left to the next one.
LONGEST, N_SOLVE, N_SOLVE_TO_MODE = 2.0, 4, 10

# Rows whose matrices are worked on together, and numbers in the arrays for these.
N_TOGETHER, BLOCK = 64, 2**20

# Steps on the way before those to the mode, the gain relative to the log joint that
# ends these, how much it may fall by, for rounding, and where a step is too short.
N_FIRST, TOLERANCE, ROUNDING, LEAST_RATE = 3, 1e-14, 1e-12, 1e-6


@torch.no_grad()
def climbed(batch, mode, means, precision, weights, n_steps):
    """Logarithms, (n_rows, k), after so many of Newton's steps from ``mode``.

    In the first, H is without the words' topics: so it is never below the curvature,
    wherever ``mode`` is. No step is taken back.
    """
    for step in range(n_steps):
        at = _Point.at(batch, mode, means, precision, weights)
        move = at.step(N_SOLVE, keeps_words=step > 0)
        mode = mode + move
    return mode


@torch.no_grad()
def mode_of(batch, means, precision, weights):
    """The mode of each row, (n_rows, k), found by Newton's steps; pass float64.

    A row is done when a step would gain next to nothing, and has then converged far
    beyond what rounding in its data could move, whatever step it stops at.
    """

    def at(batch, mode, means):
        """The log joint, and the step from there with what it gains at first."""
        point = _Point.at(batch, mode, means, precision, weights)
        move = point.step(N_SOLVE_TO_MODE)
        return point.value(), (point.slope * move).sum(1), move

    def step(batch, state):
        mode, value, _, move, means, rate = state
        new = mode + rate[:, None] * move
        new_value, to_gain, new_move = at(batch, new, means)
        is_taken = new_value >= value - ROUNDING * value.abs()
        is_done = is_taken & (to_gain <= TOLERANCE * new_value.abs().clamp_min(1))
        is_done |= rate < LEAST_RATE
        kept = choose(is_taken, [new, new_value, to_gain, new_move], state[:4])
        rate = torch.where(is_taken, torch.ones_like(rate), rate / 3)
        return [*kept, means, rate], is_done

    start = climbed(batch, means, means, precision, weights, N_FIRST)
    state = [start, *at(batch, start, means), means, torch.ones_like(batch.totals)]
    return iterate_rows(step, batch, state, max_steps=MAX_STEPS)[0]


class _Point(NamedTuple):
    """The log joint of rows at their logarithms, and what its derivatives need."""

    batch: Batch
    mode: torch.Tensor
    pull: torch.Tensor
    apart: torch.Tensor
    precision: torch.Tensor
    weights: Weights
    allocation: Allocation
    theta: torch.Tensor
    mass: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def at(cls, batch, mode, means, precision, weights):
        allocation = allocate(batch.x, mode, weights)
        theta, apart = mode.softmax(1), mode - means
        mass = batch.totals[:, None].to(mode) * theta
        counts = allocation.row_counts(weights)
        pull = apart @ precision
        return cls(
            batch,
            mode,
            pull,
            apart,
            precision,
            weights,
            allocation,
            theta,
            mass,
            counts,
        )

    @property
    def slope(self):
        return self.counts - self.mass - self.pull

    def value(self):
        """The log joint of each row, up to constants of the prior, float64."""
        value = self.allocation.log_likelihood(self.batch.x, self.weights)
        value = value - self.batch.totals * self.mode.logsumexp(1)
        return value - 0.5 * (self.apart * self.pull).sum(1)

    def step(self, n_steps, *, keeps_words=True):
        """Newton's step, as far as so many conjugate gradients solve it."""
        product = self._product_of_words() if keeps_words else self._product_of_prior
        diagonal = self.mass + self.precision.diagonal()
        step = conjugate_gradients(product, diagonal, self.slope, n_steps)
        return step.clamp_(-LONGEST, LONGEST)

    def _product_of_prior(self, d):
        """Each row's Omega + N diag theta times a vector."""
        return torch.addcmul(d @ self.precision, self.mass, d)

    def _product_of_words(self):
        """A function that multiplies each row's H by a vector."""
        x, allocation, weights = self.batch.x, self.allocation, self.weights.scaled
        curve = map_values(torch.div, allocation.ratio, allocation.products)

        def product(d):
            entries = product_at(x, allocation.z * d, weights.T)
            entries = map_values(torch.mul, entries, curve)
            shared = allocation.z * (entries @ weights)
            inner = (self.theta * d).sum(1, keepdim=True)
            rest = self.mass * (d - inner) - self.counts * d
            return d @ self.precision + rest + shared

        return product


def conjugate_gradients(product, diagonal, slope, n_steps):
    """Solve ``product(d) = slope`` for each row, preconditioned by a diagonal.

    Where a direction has no positive curvature, the row's solution stays as it is; the
    first direction is then taken as the diagonal scales it.
    """
    rest, solution = slope, torch.zeros_like(slope)
    direction = rest / diagonal
    size = (rest * direction).sum(1, keepdim=True)
    is_open = size > 0
    for n in range(n_steps):
        curved = product(direction)
        curvature = (direction * curved).sum(1, keepdim=True)
        goes_up = is_open & (curvature > 0)
        if n == 0:
            solution = torch.where(is_open & ~goes_up, direction, solution)
        is_open = goes_up
        rate = torch.where(is_open, size / curvature, 0)
        solution = torch.addcmul(solution, rate, direction)
        if n == n_steps - 1:
            break
        rest = torch.addcmul(rest, rate, curved, value=-1)
        scaled = rest / diagonal
        new_size = (rest * scaled).sum(1, keepdim=True)
        ratio = torch.where(is_open, new_size / size, 0)
        direction = torch.addcmul(scaled, ratio, direction)
        size = new_size
        is_open = is_open & (size > 0)
    return solution


def prior_curvature(totals, theta, precision):
    """H without the words' topics, (n_rows, k, k): how the bound curves."""
    mass = totals[:, None] * theta
    return precision + mass.diag_embed() - mass[:, :, None] * theta[:, None]


@torch.no_grad()
def moments(batch, mode, precision, weights):
    r"""Covariance of each row's posterior, and by how much its mean is off the mode.

    Yields numbers of rows, a few at a time, with H^-1, (n, k, k), and :math:`\tfrac12
    H^{-1} \nabla \text{tr}(H^{-1} \nabla^2 f)`, (n, k), where the first H^-1 and the
    one in the trace are held fixed: the mean less the mode, to first order. Pass
    float64.

    Short of the mode H need not be positive definite; the words' topics are then left
    out of it.
    """
    theta = mode.softmax(1)
    allocation = allocate(batch.counts, mode, weights)
    shares = allocation.row_counts(weights)
    for rows, words, counts in _words(batch.counts, allocation, weights):
        at, along = theta[rows], shares[rows]
        safe = prior_curvature(batch.totals[rows], at, precision)
        found = safe - along.diag_embed() + words.mT @ words
        root, info = torch.linalg.cholesky_ex(found)
        # The places of a mask are found once, since an accelerator is waited for then.
        bad = (info > 0).nonzero()[:, 0]
        root.index_copy_(0, bad, identity(root[0]).expand(len(bad), -1, -1))
        covariance = torch.cholesky_inverse(root)
        if len(bad):
            # It also knows what to do where rounding leaves none positive definite.
            part = inverse_root(safe.index_select(0, bad))
            covariance.index_copy_(0, bad, part @ part.mT)
        off = _mean_off_mode(covariance, at, batch.totals[rows], along, words, counts)
        yield rows, covariance, off


def _mean_off_mode(covariance, theta, totals, shares, words, counts):
    """Half of V times the gradient of tr(V f''), (n, k), with V as it is.

    With p for theta and for each phi_v, tr(V f'') has the terms p.d - p'Vp, d the
    diagonal of V, whose gradients are p * (d - p.d - 2 Vp + 2 p'Vp).
    """
    variances = covariance.diagonal(dim1=1, dim2=2)
    through = (covariance @ theta[:, :, None])[:, :, 0]
    mean = (theta * (variances - 2 * through)).sum(1, keepdim=True)
    slope = -totals[:, None] * theta * (variances - 2 * through - mean)
    slope += shares * variances
    through = words @ covariance
    # The sums over k in each entry, over the root of its count.
    mean = words @ variances[:, :, None] - 2 * (words * through).sum(2, True) / counts
    slope -= (words * (2 * through + mean)).sum(1)
    return 0.5 * (covariance @ slope[:, :, None])[:, :, 0]


def _words(x, allocation, weights):
    """Yield rows, a few of similar length, and sqrt(x_nv) phi_nvk of their words.

    As numbers of rows, an array (n, length, k), and sqrt(x_nv), (n, length, 1); beyond
    the end of a row, 0 and 1. ``x`` is CSR.
    """
    roots = (allocation.ratio.values() / allocation.products.values()).sqrt()
    counts, columns = x.values().sqrt(), x.col_indices().long()
    starts = x.crow_indices().long()
    lengths = starts.diff()
    in_order, order = lengths.sort(stable=True)
    # All at once, since an accelerator must be waited for.
    in_order = in_order.tolist()
    k, start = weights.scaled.shape[1], 0
    while start < len(order):
        n_rows = max(1, min(N_TOGETHER, BLOCK // (k * max(k, 1))))
        rows = order[start : start + n_rows]
        longest = max(1, in_order[start + len(rows) - 1])
        rows = rows[: max(1, BLOCK // (k * longest))]
        longest = max(1, in_order[start + len(rows) - 1])
        start += len(rows)
        places = torch.arange(longest, device=x.device)
        is_there = places < lengths[rows, None]
        # Beyond the end of a row stands any entry, times 0.
        places = torch.where(is_there, starts[rows, None] + places, 0)
        if len(columns) == 0:
            words = weights.scaled.new_zeros(len(rows), longest, k)
            yield rows, words, words.new_ones(len(rows), longest, 1)
            continue
        words = weights.scaled[columns[places]]
        words *= (roots[places] * is_there)[:, :, None]
        words *= allocation.z[rows, None]
        yield rows, words, torch.where(is_there, counts[places], 1)[:, :, None]


def identity(matrix):
    """The identity, of the size and type of a square matrix."""
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
