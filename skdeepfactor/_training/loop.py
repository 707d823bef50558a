"""The one loop that trains every model."""

import contextlib
import warnings

import torch

from skdeepfactor._math.ops import scaled
from skdeepfactor._math.threads import threads_for_loops
from skdeepfactor._training.run import Interrupted, Run

# By how much more rows change on average, relative to their bounds, than the sum of
# these does where that is said to hide it.
HIDDEN = 10


def train_pass(module, optimizer, rows, *, batch_size, rng, n_samples, run=None):
    """Take steps on random batches, or one on all rows; return sums of the bounds.

    The sum of the bounds and that of their asinh, which is logarithmic in large bounds,
    so that its gains are relative to the bound of each row. Each bound is computed
    before its step, for the rows of all processes. ``n_samples``
    is the number of rows of the model, or the sum of their weights: statistics and
    bounds of rows are scaled to it. ``run``, if given, has the table of local
    parameters, which is read and written, and holds interrupts back from the first
    change of the parameters on.
    """
    memory = interrupts = None
    if run is not None:
        memory, interrupts = run.memory, run.interrupts
    wanted = module.wanted()
    sums = torch.zeros(2, dtype=torch.float64, device=wanted.device)
    totals = torch.zeros(2, dtype=torch.float64)
    with contextlib.closing(rows.parts(batch_size, rng, wanted)) as parts:
        for part in parts:
            if part is not None:
                batch, numbers, step = part
                start = None if memory is None else memory.resume(numbers)
                # Batches ignore weights when drawn, so rescale by the mean weight to
                # stay unbiased.
                share = batch.weight * (1 / step.n_rows / step.mean_weight)
                n_estimated = n_samples * (step.mean_weight / rows.mean_weight)
                bounds, local = module.backward(
                    batch.weighted(share), n_estimated, start
                )
                sums[0] += scaled(bounds, batch.weight).sum()
                sums[1] += scaled(bounds.asinh(), batch.weight).sum()
                if memory is not None:
                    memory.keep(numbers, local)
                continue
            if rows.share.n_processes > 1:
                gradients = [module.gradient(p) for p in module.parameters()]
                rows.share.add_up([sums, *gradients])
            if interrupts is not None:
                interrupts.hold_back()
            optimizer.step()
            optimizer.zero_grad()
            module.after_step()
            totals += sums.cpu()
            sums.zero_()
    return totals.tolist()


@torch.no_grad()
def global_kl(module):
    """The divergence of a module's global parameters, as a float."""
    return float(module.global_kl())


def train(
    module,
    rows,
    plan,
    *,
    budget,
    tol,
    rng,
    n_iter_no_change=10,
    validate=None,
    report=None,
    checkpoint=None,
    local=None,
    keep=None,
    is_exact=False,
    is_warm=False,
):
    """Train ``module`` on ``rows`` until the bound, or patience, runs out.

    A pass is one step on all rows, or as many steps on random batches as it takes.
    Training ends when the bound's relative gain is below ``tol``, unless it hides that
    of rows, since one is most of it: over one pass if steps on all rows raise the
    bound, otherwise over ``n_iter_no_change`` passes. With ``validate``, a function
    without arguments that scores the module on rows held out, it ends when that has not
    risen for ``n_iter_no_change`` passes instead, and the module goes back to its best
    state; so does one with a guard, by the bound. Cold passes and a warm-up end
    nothing, and with ``tol=None`` only the budget ends training. ``report(history)`` is
    called after each pass, and ends training by returning True. ``checkpoint``, a
    ``CheckpointFile``, is resumed from if it exists, and written after passes.
    ``local``, the table of local parameters that an earlier training left, is what rows
    start from, if given. ``keep(table)`` is called with that which this one leaves, or
    None where it is of other parameters than the module ends with.

    With ``is_exact``, bounds after steps that need not raise them are those of rows
    that have converged, by draws that depend on rows alone, so that trainings can be
    compared. With ``is_warm``, the module then goes back to where it began if it was
    better there, by the score of rows held out or by this bound.

    Returns
    -------
    history : dict of lists
        ``lower_bound``, ``seconds`` and, with ``validate``, ``validation_score`` of
        each pass. The bound of a pass belongs to the factors that it inferred and the
        parameters that it inferred them with.
    lower_bound : float
        The bound of all rows after the last pass, in nats, for the parameters that the
        module ends with.

    Warns
    -----
    ConvergenceWarning
        If the bound is no longer finite; the module then returns to the beginning of
        the last pass with a finite bound.
    RuntimeWarning
        If the device ran out of memory, and the pass is repeated in smaller parts.

    Raises
    ------
    ValueError
        If the bound is not finite after the first pass.
    MemoryError
        If the device runs out of memory again.
    Interrupted
        For a ``KeyboardInterrupt`` after the first pass, unless a warm training is
        then below its beginning.
    """
    module.begin(budget)
    run = Run(module, rows, plan, budget, rng, validate=validate, is_exact=is_exact)
    if local is not None:
        run.remember(local)
    if is_warm:
        run.note_beginning()
    if checkpoint is not None:
        _resume(run, checkpoint)
    while not run.is_over:
        try:
            with threads_for_loops(when=module.has_loops):
                run.begin()
                kl = global_kl(module)
                bound, log_bound = train_pass(
                    module,
                    plan.optimizer,
                    rows,
                    batch_size=budget.batch_size,
                    rng=rng,
                    n_samples=rows.total_weight,
                    run=run,
                )
            if budget.is_stochastic:
                # The rows of a pass saw parameters that moved; the last are nearest.
                kl = global_kl(module)
            row_bounds = bound, log_bound / rows.total_weight
            run.end(bound - kl, row_bounds)
            if run.is_diverged:
                break
            run.is_done = _is_converged(run, tol, n_iter_no_change)
            if report is not None:
                run.is_done |= any(rows.share.gathered(bool(report(run.history))))
            if checkpoint is not None:
                is_due = rows.share.gathered(checkpoint.is_due(run.n_whole))[0]
                if is_due or run.is_over:
                    checkpoint.write(run.state_dict())
        except KeyboardInterrupt:
            run.settle()
            run.check_gain()
            raise Interrupted(run.history, run.history["lower_bound"][-1]) from None
        except torch.OutOfMemoryError as error:
            _halve_parts(rows, error)
            run.go_back()
        finally:
            # A pass that diverged is first taken back.
            if not run.is_diverged:
                run.let_interrupts_through()
    try:
        lower_bound = run.finish()
        run.let_interrupts_through()
        if keep is not None:
            keep(run.local)
        return run.history, lower_bound
    except KeyboardInterrupt:
        run.check_gain()
        raise Interrupted(run.history, run.history["lower_bound"][-1]) from None
    except ValueError:
        # No pass was sound: an interrupt leaves nothing to keep.
        run.let_interrupts_through()
        raise


def _is_converged(run, tol, n_iter_no_change):
    """Whether the bound, or the score of rows held out, has stopped rising."""
    plan, history = run.plan, run.history
    if tol is None:
        return False
    if run.is_validated:
        scores = history["validation_score"][plan.n_warmup :]
        return not _has_risen(scores, n_iter_no_change, 0.0)
    if run.n_whole <= plan.n_cold:
        return False
    patience = 1 if run.ascends else n_iter_no_change
    bounds = history["lower_bound"][plan.n_warmup :]
    if _has_risen(bounds, patience, tol):
        return False
    # A row far larger than all others hides what they gain, or give up for it at first.
    sums, log_means = zip(*run.row_bounds[plan.n_warmup :], strict=True)
    of_sum = abs(_gain(sums, patience) / sums[-1]) if sums[-1] else 0.0
    is_hidden = abs(_gain(log_means, patience)) > max(tol, HIDDEN * of_sum)
    return not (is_hidden and _gain(bounds, patience) > 0)


def _gain(values, patience):
    """Gain of the mean of the last ``patience`` values over as many before them."""
    last, before = values[-patience:], values[-2 * patience : -patience]
    return sum(last) / len(last) - sum(before) / len(before)


def _has_risen(values, patience, tol):
    """Whether the last ``patience`` values beat earlier ones, relative to ``tol``."""
    if len(values) <= patience:
        return True
    before = max(values[:-patience])
    return max(values[-patience:]) - before > tol * abs(before)


def _resume(run, checkpoint):
    """Restore the latest state that the checkpoints of all processes have, if any."""
    share, states = run.rows.share, {}
    with share.agreement():
        for state in checkpoint.states():
            states[len(state["history"]["lower_bound"])] = state
    passes = share.gathered(sorted(states))
    common = set.intersection(*map(set, passes))
    if common:
        run.load_state_dict(states[max(common)])
    elif any(passes):
        raise ValueError(
            f"The checkpoints of the processes are of different passes, {passes}: "
            "delete them all to start anew."
        )


def _halve_parts(rows, error):
    """Work on half as many rows at once, unless that was tried before."""
    if rows.n_splits > 1 or rows.share.n_processes > 1:
        raise MemoryError(
            "The device has too little memory for the parameters and a batch; lower "
            "n_components or batch_size."
        ) from error
    warnings.warn(
        "The device ran out of memory; the pass is repeated with half as many rows "
        "at once.",
        RuntimeWarning,
        stacklevel=3,
    )
    rows.n_splits = 2
