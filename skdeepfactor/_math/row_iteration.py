"""Iterations over rows that end for each row by itself."""

import torch

# Steps a row may take where its factors are wanted exactly, not on the way to a fit.
MAX_STEPS = 1000

# Steps after which training, or an accelerator, counts the rows that are done: the
# accelerator must be waited for then, and most of training's iterations are shorter.
STEPS_PER_COUNT = 8


def iterate_rows(step, batch, state, *, max_steps, drops=True, is_final=True):
    """Iterate each row to its end, and return the final states.

    ``step(batch, state)`` gives a new state, and which rows are done with it, a mask. A
    state is a list of tensors whose first dimension is that of the rows. A row that is
    done keeps its state, which thus does not depend on other rows. Rows that are done
    are dropped once they are half of all, since dropping them one by one would cost
    more than it saves. They are counted after each step if ``is_final`` and on a CPU,
    else every ``STEPS_PER_COUNT`` steps. With ``drops=False`` none is dropped, and if
    ``step`` gives None for the mask, all rows take all steps.
    """
    places = torch.arange(len(batch), device=batch.x.device)
    is_done = torch.zeros_like(places, dtype=torch.bool)
    if not drops:
        for _ in range(max_steps):
            new, stops = step(batch, state)
            if stops is None:
                state = new
            else:
                state = choose(is_done, state, new)
                is_done = is_done | stops
        return state
    if is_one(is_done):
        for _ in range(max_steps):
            state, stops = step(batch, state)
            if stops:
                break
        return state
    steps_per_count = 1 if is_final and places.device.type == "cpu" else STEPS_PER_COUNT
    result = [torch.empty_like(part) for part in state]
    for n_steps in range(1, max_steps + 1):
        new, stops = step(batch, state)
        state = choose(is_done, state, new)
        is_done = is_done | stops
        if n_steps % steps_per_count > 0:
            continue
        n_left = len(is_done) - int(is_done.sum())
        if 2 * n_left <= len(is_done):
            _put(result, places, state)
            kept = (~is_done).nonzero()[:, 0]
            batch, places, is_done = batch.take(kept), places[kept], is_done[kept]
            state = [part[kept] for part in state]
        if n_left == 0:
            break
    _put(result, places, state)
    return result


def fixed_point(
    update,
    batch,
    state,
    *,
    max_steps,
    tol,
    is_final=False,
    known=(),
    ahead=0.0,
    ends_ahead=False,
):
    """Iterate ``state = update(batch, state)``, each row to its own convergence.

    ``state`` is (n_rows, width) and not negative. A row is done when its absolute
    change is at most ``tol`` times its size, both summed over the row. With
    ``is_final``, it then ends between its last two states, where the change would have
    come to just that if steps were continuous: rounding, which may decide how many
    steps there are, moves the end no further than it moves a state.

    ``known`` holds tensors of values of rows that follow from ``state``, so as not to
    be computed twice: ``update(batch, state, *known)`` then gives a list of the new
    state and what is known of it.

    Steps over-relax: each but the first starts from the last state plus ``ahead``
    times the change that led to it, or 0 where that is negative. Every state is still
    an ``update`` of another; with ``ends_ahead``, few steps end where another one would
    start from.
    """
    tol = tolerance(tol, max_steps, is_final)
    if tol == 0:
        state, start = _steps(update, batch, state, known, max_steps, ahead)
        return start if ends_ahead else state

    def step(batch, state):
        old, before, *known = state
        if ahead:
            *known, change = known
            old = torch.add(old, change, alpha=ahead).clamp_min_(0)
        new = update(batch, old, *known)
        if known:
            new, *known = new
        # By how much the change is too large, for the step before and for this one.
        change = new - old
        if ahead:
            known = [*known, change]
        excess = change.abs().sum(1) - tol * new.sum(1)
        is_done = excess <= 0
        if is_final:
            beyond = torch.where(is_done, excess / (before - excess), 0)
            new = torch.addcmul(new, beyond[:, None], change)
        return [new, excess, *known], is_done

    # Nothing comes before the first step, which is taken whole.
    before = state.new_full((len(state),), torch.inf)
    state = [state, before, *known]
    if ahead:
        state.append(torch.zeros_like(state[0]))
    return iterate_rows(step, batch, state, max_steps=max_steps, is_final=is_final)[0]


def ending(module):
    """When the iteration of a row ends, as arguments of ``fixed_point``.

    Training takes ``module.inner_iter`` steps at most, other rows go on to their ends.
    """
    return {
        "max_steps": module.inner_iter if module.training else MAX_STEPS,
        "tol": module.inner_tol,
        "is_final": not module.training,
    }


def tolerance(tol, max_steps, is_final):
    """Change at which a row is done, or 0 if training takes only a few steps.

    All rows then take all steps, since telling which are done would take longer.
    """
    return tol if is_final or max_steps > STEPS_PER_COUNT else 0.0


def _steps(update, batch, state, known, max_steps, ahead):
    """The state after all steps on all rows, and where another one would start from.

    See ``fixed_point``.
    """
    start = state
    for _ in range(max_steps):
        state = update(batch, start, *known)
        if known:
            state, *known = state
        start = torch.lerp(start, state, 1 + ahead).clamp_min_(0) if ahead else state
    return state, start


def choose(is_first, first, second):
    """Rows of the first parts where a mask is True, else of the second, as a list."""
    if is_one(is_first):
        return list(first if is_first else second)
    return [
        torch.where(is_first.view(-1, *[1] * (one.dim() - 1)), one, other)
        for one, other in zip(first, second, strict=True)
    ]


def is_one(mask):
    """Whether a mask of rows is that of a single row, which is read at no cost."""
    return len(mask) == 1 and mask.device.type == "cpu"


def _put(result, places, state):
    """Write the parts of the state of some rows to their places."""
    for whole, part in zip(result, state, strict=True):
        whole[places] = part
