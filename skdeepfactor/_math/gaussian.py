r"""Gaussian posteriors of rows, and steps that refine them.

A model gives, for a posterior :math:`q(z_n) = N(\mu_n, S_n)` the row's bound L, its
gradient g in the mean, and the precision :math:`\Lambda = -2 \partial L / \partial S +
S^{-1}`, which is the posterior's own where L is stationary. The same precisions scale
the steps in the mean, :math:`\Lambda^{-1} g`. With diagonal covariances, a step that
lowers the row's bound is taken back, and the row's next step is shorter. Ten
such steps replace hundreds of steps of a stochastic gradient.

If a bound is sampled, each row's parameters follow Adam.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from skdeepfactor._math.row_iteration import choose, iterate_rows
from skdeepfactor._math.row_steps import Moments, adam_step

# Share of a step of Newton that is taken at first, by how much it grows and shrinks,
# and where a row that still finds no gain is done.
FIRST_RATE, LONGER, SHORTER, LEAST_RATE = 0.7, 1.3, 0.4, 1e-4

# That a step gains nothing says that a row is done only if it was longer than this.
TELLING_RATE = 0.3

# Lengths of steps, as shares of Newton's, and how many nats bounds may fall by on the
# way, where rows are followed to their end.
RATE_RANGE, MAX_FALL = (0.1, 3.0), 1.0

# What a step may still gain is judged as a share of the bound, or of this many nats if
# the bound is larger: the error that long rows are left with must not grow with them.
LARGEST_BOUND = 1e4

# Full precisions of a row at most, steps by each, and the nats that a step may still
# gain at the end. A precision is found anew where a step by it leaves more than a share
# of what the one before could gain.
N_PRECISIONS, N_HELD, POLISHED_TOL = 30, 10, 1e-11
MOST_LEFT = 0.1

# Steps with full covariances, after those with diagonal ones.
N_FULL_STEPS = 3

# Step size of Adam at first, and the share of itself by which it falls.
ADAM_RATE, ADAM_FALL = 0.05, 0.9

# Log variances after steps of Adam: beyond these, noise has led them astray.
LOG_VAR_RANGE = (-30, 10)


class Posterior(NamedTuple):
    """Gaussians, one a row: means, variances and, if full, Cholesky factors.

    ``center`` is c of the bound on the log total, if known already.
    """

    mean: torch.Tensor
    var: torch.Tensor
    tril: torch.Tensor | None = None
    center: torch.Tensor | None = None

    @classmethod
    def of(cls, q):
        """Parameters of a ``torch.distributions`` posterior."""
        if isinstance(q, MultivariateNormal):
            return cls(q.mean, q.variance, q.scale_tril)
        return cls(q.mean, q.variance)

    def to(self, like):
        """These posteriors in the type of a tensor."""
        return Posterior(*(part if part is None else part.to(like) for part in self))

    def take(self, rows):
        """Posteriors of some rows."""
        return Posterior(*(part if part is None else part[rows] for part in self))

    def distribution(self):
        """These posteriors as a ``torch.distributions`` object."""
        if self.tril is not None:
            return MultivariateNormal(
                self.mean, scale_tril=self.tril, validate_args=False
            )
        normal = Normal(self.mean, self.var.sqrt(), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def log_det(self):
        """Log determinants of the covariances, (n_rows,), float64."""
        if self.tril is None:
            return self.var.log().sum(1, dtype=torch.float64)
        diagonal = self.tril.diagonal(dim1=1, dim2=2)
        return 2 * diagonal.log().sum(1, dtype=torch.float64)


def draws_of(q, noise):
    """Draws (n_draws, n_rows, k) of a Gaussian ``q`` from standard normal ones."""
    if isinstance(q, MultivariateNormal):
        return q.mean + torch.einsum("nij,dnj->dni", q.scale_tril, noise)
    return q.mean + q.stddev * noise


def diagonal_kl(p, q):
    """KL(p || q) of posteriors with diagonal covariances, (n_rows,), float64."""
    ratio = p.var / q.var
    square = (p.mean - q.mean).square() / q.var
    return 0.5 * (ratio + square - 1 - ratio.log()).sum(1, dtype=torch.float64)


def kl_of_factors(q):
    """KL of each factor, (n_rows, k), from a standard normal one."""
    return 0.5 * (q.mean.square() + q.var - 1 - q.var.log())


def kl_to_mixture(q, mixture):
    """KL(q || mixture) or its bound, (n_rows,), float64, and its slopes.

    Its gradient in the mean and twice that in the variances, except for that of the
    entropy, each (n_rows, k).
    """
    kl, shares = mixture.kl_bound(q.mean, q.var, q.log_det())
    precision = (-mixture.log_var).exp()
    shares = shares.to(precision)
    pull = shares @ (precision * mixture.mean)
    precision = shares @ precision
    return kl, q.mean * precision - pull, precision


def inverse_root(precision):
    """Lower triangular L, (n, k, k), with L L^T the inverse of each matrix.

    A matrix that is indefinite by rounding is replaced by its diagonal.
    """
    factor, info = torch.linalg.cholesky_ex(precision.flip(1, 2))
    if bool((info > 0).any()):
        diagonal = precision.diagonal(dim1=1, dim2=2).nan_to_num(1).clamp(1, 1e30)
        diagonal = torch.diag_embed(diagonal)
        precision = torch.where((info > 0)[:, None, None], diagonal, precision)
        factor = torch.linalg.cholesky(precision.flip(1, 2))
    identity = torch.eye(precision.shape[1], dtype=torch.float32).to(precision)
    identity = identity.expand_as(precision)
    root = factor.flip(1, 2).mT
    return torch.linalg.solve_triangular(root, identity, upper=False)


@torch.no_grad()
def refine(slopes, batch, starts, *, max_steps, kl_weight=1.0, fixes_variances=False):
    """Posteriors with diagonal covariances after Newton's steps on each row's bound.

    ``slopes(batch, q)`` gives, for posteriors with centers, the bound of each row,
    (n_rows,), its gradient in the mean and the precision of a stationary posterior,
    both (n_rows, k), and the best centers. A row begins at that of the ``starts`` at
    which its bound is higher. All rows take all steps, none of which lowers a bound.

    If a divergence counts ``kl_weight`` times in the bound, the entropy does too.
    """
    if max_steps == 0:
        (mean, var, _), (*_, center) = _best(slopes, batch, starts)
        return Posterior(mean, var, None, center)
    q, at, proposed = propose(
        slopes,
        batch,
        starts,
        max_steps=max_steps,
        kl_weight=kl_weight,
        fixes_variances=fixes_variances,
    )
    value, *_, center = slopes(batch, proposed)
    parts = [proposed.mean, proposed.var, center]
    mean, var, center = choose(value >= at, parts, [q.mean, q.var, q.center])
    return Posterior(mean, var, None, center)


@torch.no_grad()
def propose(slopes, batch, starts, *, max_steps, kl_weight=1.0, fixes_variances=False):
    """Steps of ``refine`` up to the last one, whose end is left to be judged.

    Returns
    -------
    q : Posterior
        Posteriors before the last step.
    value : Tensor of shape (n_rows,)
        Their bounds.
    proposed : Posterior
        Posteriors after it, for rows whose bounds do not fall by it.
    """
    (mean, var, _), at = _best(slopes, batch, starts)

    def moved(state):
        mean, var, _, gradient, precision, center, rate = state
        new_var = var
        if not fixes_variances:
            new_var = 1 / ((1 - rate) / var + rate * precision / kl_weight)
        return Posterior(mean + rate * (gradient / precision), new_var, None, center)

    def step(batch, state):
        value, rate = state[2], state[-1]
        new = moved(state)
        new_at = slopes(batch, new)
        gain = new_at[0] - value
        is_better = gain >= 0
        # Neither a step that was taken back nor a short one says that it is over.
        is_done = is_better & (gain == 0) & (rate[:, 0] > TELLING_RATE)
        is_done |= rate[:, 0] < LEAST_RATE
        longer = (LONGER * rate).clamp_max(1)
        rate = torch.where(is_better[:, None], longer, SHORTER * rate)
        # Rows that are done take no last step either.
        rate = torch.where(is_done[:, None], 0.0, rate)
        kept = choose(is_better, [new.mean, new.var, *new_at], state[:-1])
        return [*kept, rate], is_done

    state = [mean, var, *at, torch.full_like(mean[:, :1], FIRST_RATE)]
    state = iterate_rows(step, batch, state, max_steps=max_steps - 1, drops=False)
    mean, var, value, *_, center, _ = state
    return Posterior(mean, var, None, center), value, moved(state)


@torch.no_grad()
def converge(
    slopes,
    batch,
    starts,
    *,
    max_steps,
    tol,
    fixes_variances=False,
    min_gain=None,
):
    """Posteriors with diagonal covariances, each row refined to its own convergence.

    Arguments are those of ``refine``, of which it takes about half the steps. The
    length of a step in the mean is that of Barzilai and Borwein (1988), from the change
    of the gradient along the last one. A bound may fall by a little on the way; the
    best state is returned, and which rows are done, a mask. A row is done when a step
    of Newton would gain at most ``tol`` times its bound, which counts as no less than
    one nat and no more than ``LARGEST_BOUND``. Pass float64, so that rounding does not
    decide which step is the last.

    Where slopes jump, as those of networks do, a row may end at a jump, where a step
    still promises much: with ``min_gain`` a row is done, too, when a step changes its
    bound by at most this share.
    """
    (mean, var, center), at = _best(slopes, batch, starts)

    def step(batch, state):
        mean, var, center, value, gradient, precision, good_center, rate = state[:8]
        best, best_value, has_ended = state[8:11], state[11], state[12]
        share = rate.clamp_max(1)
        new_var = var
        if not fixes_variances:
            new_var = 1 / ((1 - share) / var + share * precision)
        move = rate * (gradient / precision)
        new_center = center + share * (good_center - center)
        new = Posterior(mean + move, new_var, None, new_center)
        new_at = slopes(batch, new)
        new_value, new_gradient, new_precision, _ = new_at
        is_taken = new_value >= best_value - MAX_FALL
        to_gain = 0.5 * (new_gradient.square() / new_precision).sum(1)
        if not fixes_variances:
            to_gain += 0.25 * (new_precision * new_var - 1).square().sum(1)
        is_near = to_gain <= tol * new_value.abs().clamp(1, LARGEST_BOUND)
        if min_gain is not None:
            least = min_gain * new_value.abs().clamp_min(1)
            is_near |= (new_value - value).abs() <= least
        has_ended = has_ended | (is_taken & is_near)
        is_done = has_ended | (rate[:, 0] < LEAST_RATE)
        slope = (gradient * move).sum(1, keepdim=True)
        change = slope - (new_gradient * move).sum(1, keepdim=True)
        # A gradient that does not fall says that there is far to go.
        found = torch.where(change > 0, slope / change, torch.inf)
        longer = (rate * found).clamp(*RATE_RANGE)
        rate = torch.where(is_taken[:, None], longer, SHORTER * rate)
        moved = [new.mean, new.var, new.center, *new_at]
        is_better = new_value > best_value
        best = choose(is_better, moved[:3], best)
        best_value = torch.where(is_better, new_value, best_value)
        at = choose(is_taken, moved, state[:7])
        return [*at, rate, *best, best_value, has_ended], is_done

    rate = torch.full_like(mean[:, :1], FIRST_RATE)
    has_ended = torch.zeros_like(at[0], dtype=torch.bool)
    state = [mean, var, center, *at, rate, mean, var, center, at[0], has_ended]
    state = iterate_rows(step, batch, state, max_steps=max_steps)
    mean, var, center = state[8:11]
    return Posterior(mean, var, None, center), state[12]


# Numbers that are too large give what is not a number, as in torch.
@np.errstate(all="ignore")
def converge_row(slopes, starts, *, max_steps, tol, fixes_variances=False):
    """Bring a single row to its end by NumPy; see ``converge``.

    ``slopes(mean, var, center)`` takes and gives arrays (k,) of this row, and a float.
    """
    starts = [[part[0].numpy() for part in (q.mean, q.var, q.center)] for q in starts]
    options = [(at, slopes(*at)) for at in starts]
    # The first of those that are equal.
    (mean, var, center), at = max(options, key=lambda option: option[1][0])
    best, best_value, rate = (mean, var, center), at[0], FIRST_RATE
    has_ended = False
    for _ in range(max_steps):
        _, gradient, precision, good_center = at
        share = min(rate, 1.0)
        new_var = var
        if not fixes_variances:
            new_var = 1 / ((1 - share) / var + share * precision)
        move = rate * (gradient / precision)
        new = mean + move, new_var, center + share * (good_center - center)
        new_at = slopes(*new)
        value, new_gradient, new_precision, _ = new_at
        is_taken = value >= best_value - MAX_FALL
        to_gain = 0.5 * np.square(new_gradient) @ (1 / new_precision)
        if not fixes_variances:
            to_gain += 0.25 * np.square(new_precision * new_var - 1).sum()
        nats = min(max(abs(value), 1), LARGEST_BOUND)
        has_ended = bool(is_taken and to_gain <= tol * nats)
        is_done = has_ended or rate < LEAST_RATE
        if value > best_value:
            best, best_value = new, value
        if is_taken:
            slope = gradient @ move
            change = slope - new_gradient @ move
            found = slope / change if change > 0 else np.inf
            rate = min(max(rate * found, RATE_RANGE[0]), RATE_RANGE[1])
            (mean, var, center), at = new, new_at
        else:
            rate *= SHORTER
        if is_done:
            break
    mean, var, center = (torch.from_numpy(part[None]) for part in best)
    return Posterior(mean, var, None, center), torch.tensor([has_ended])


@torch.no_grad()
def polish(slopes, full_slopes, batch, q, *, fixes_variances=False):
    """Posteriors with diagonal covariances after steps by full precisions.

    For rows that ``converge`` does not bring to an end, since their factors pull at
    each other. ``slopes`` are as for ``refine`` and ``full_slopes`` as for
    ``refine_fully``. A full precision costs several steps by itself, so that a row
    follows one for as long as that pays. A step that lowers a row's bound is taken
    back, and its next one is half as long.
    """

    def step(batch, state):
        mean, var, center, value, gradient, precision, good_center = state[:7]
        rate, last_gain, root, _ = state[7:]
        move = (root @ (root.mT @ gradient[:, :, None]))[:, :, 0]
        new_var = var
        if not fixes_variances:
            new_var = 1 / ((1 - rate) / var + rate * precision)
        new_center = center + rate * (good_center - center)
        new = Posterior(mean + rate * move, new_var, None, new_center)
        new_at = slopes(batch, new)
        is_better = new_at[0] >= value
        to_gain = 0.5 * (gradient * move).sum(1)
        has_ended = is_better & (rate[:, 0] == 1) & (to_gain <= POLISHED_TOL)
        has_ended |= rate[:, 0] < LEAST_RATE
        # A precision of elsewhere no longer leads to the end.
        is_stale = is_better & (to_gain > MOST_LEFT * last_gain)
        rate = torch.where(is_better[:, None], (2 * rate).clamp_max(1), 0.5 * rate)
        moved = [new.mean, new.var, new.center, *new_at]
        kept = choose(is_better, moved, state[:7])
        return [*kept, rate, to_gain, root, has_ended], has_ended | is_stale

    places = torch.arange(len(batch), device=q.mean.device)
    rate = torch.ones_like(q.mean[:, :1])
    state = [q.mean, q.var, q.center, rate]
    result = [part.clone() for part in state[:3]]
    for _ in range(N_PRECISIONS):
        value, gradient, full, center = full_slopes(
            batch, Posterior(*state[:2], None, state[2])
        )
        root, precision = inverse_root(full), full.diagonal(dim1=1, dim2=2).clone()
        unknown = torch.full_like(value, torch.inf)
        at = [value, gradient, precision, center, state[3], unknown, root]
        state = [*state[:3], *at, torch.zeros_like(value, dtype=torch.bool)]
        state = iterate_rows(step, batch, state, max_steps=N_HELD)
        has_ended = state[-1]
        for whole, part in zip(result, state[:3], strict=True):
            whole[places] = part
        (left,) = torch.where(~has_ended)
        if len(left) == 0:
            break
        batch, places = batch.take(left), places[left]
        state = [part[left] for part in (*state[:3], state[7])]
    return Posterior(result[0], result[1], None, result[2])


def _best(slopes, batch, starts):
    """The start at which each row's bound is highest, in parts, and its slopes."""
    q, *others = starts
    best, at = [q.mean, q.var, q.center], slopes(batch, q)
    for other in others:
        other_at = slopes(batch, other)
        is_better = at[0] >= other_at[0]
        best = choose(is_better, best, [other.mean, other.var, other.center])
        at = choose(is_better, at, other_at)
    return best, at


@torch.no_grad()
def refine_fully(slopes, batch, q):
    """Posteriors with full covariances, from diagonal ones: the best found.

    ``slopes`` is as for ``refine``, with precisions (n_rows, k, k).
    """

    def step(batch, state):
        at, best, best_value = Posterior(*state[:4]), state[4:8], state[8]
        value, gradient, precision, center = slopes(batch, at)
        is_better = value > best_value
        best = choose(is_better, at, best)
        best_value = torch.where(is_better, value, best_value)
        tril = inverse_root(precision)
        move = (tril @ (tril.mT @ gradient[:, :, None]))[:, :, 0]
        following = [at.mean + move, tril.square().sum(2), tril, center]
        return [*following, *best, best_value], None

    start = [q.mean, q.var, torch.diag_embed(q.var.sqrt()), q.center]
    nothing = q.mean.new_full((len(q.mean),), -torch.inf, dtype=torch.float64)
    state = [*start, *start, nothing]
    state = iterate_rows(step, batch, state, max_steps=1 + N_FULL_STEPS, drops=False)
    return Posterior(*state[4:8])


def refine_by_adam(bounds, q, *, n_steps, fixes_variances=False):
    """Posteriors with diagonal covariances after steps of Adam, moments by row.

    ``bounds(t, q)`` gives the bound of each row, by draws of step t = 1, 2, ...
    """
    state = torch.cat([q.mean, q.var.log()], 1).detach()
    moments = Moments.none(state)

    def posterior(mean, log_var):
        return Posterior(mean, q.var if fixes_variances else log_var.exp())

    for t in range(1, n_steps + 1):
        with torch.enable_grad():
            state.requires_grad_()
            value = bounds(t, posterior(*state.chunk(2, 1)))
            (gradient,) = torch.autograd.grad(value.sum(), state)
        gradient = gradient.nan_to_num(0, 0, 0)
        rate = ADAM_RATE * (1 - ADAM_FALL * (t - 1) / n_steps)
        state, moments = adam_step(state.detach(), moments, gradient, rate)
    mean, log_var = state.chunk(2, 1)
    return posterior(mean, log_var.clamp(*LOG_VAR_RANGE))
