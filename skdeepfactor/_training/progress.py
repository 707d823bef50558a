"""Reports of a fit: a progress bar, and scikit-learn's callbacks."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

# Decorators leave the types of methods as they are.
Method = TypeVar("Method", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks

    HAS_CALLBACKS = True
except ImportError:  # scikit-learn before 1.9 has none.
    HAS_CALLBACKS = False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for the mixin that is missing."""

    def _with_callbacks(method):
        return method


def with_callbacks(method: Method) -> Method:
    """Have callbacks told of a fit, where scikit-learn has callbacks."""
    return _with_callbacks(method)


@contextlib.contextmanager
def pass_reports(estimator, X):
    """Yield ``report(history, attributes)``, to be called after each pass of a fit.

    ``attributes()`` makes the fitted attributes of the estimator as it stands, for
    callbacks that ask for it. The report is True when a callback wants to stop.
    """
    context = None
    if HAS_CALLBACKS:
        context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        context.call_on_fit_task_begin(estimator=estimator, X=X)
    bar = _progress_bar(estimator) if estimator.verbose else None

    def report(history, attributes):
        if bar is not None:
            bar(history)
        if context is None:
            return False
        task = context.subcontext(task_name="pass")
        task.call_on_fit_task_begin(estimator=estimator, X=X)
        return task.call_on_fit_task_end(
            estimator=estimator, X=X, reconstruction_attributes=attributes
        )

    try:
        yield report
    finally:
        if bar is not None:
            bar(None)
    if context is not None:
        context.call_on_fit_task_end(estimator=estimator, X=X)


def _progress_bar(estimator):
    """Function that shows the latest bound of a history, or closes the bar for None.

    None if there is no place to show it, as in services.
    """
    if sys.stderr is None:
        return None
    name = type(estimator).__name__
    try:
        from tqdm.auto import tqdm
    except ImportError:

        def show_line(history):
            if history is not None:
                n_passes = len(history["lower_bound"])
                bound = history["lower_bound"][-1]
                print(f"{name}: pass {n_passes}, bound {bound:.6g}")

        return show_line
    bar = tqdm(total=estimator.max_iter, desc=name, unit="pass")

    def show(history):
        if history is None:
            bar.close()
            return
        bar.set_postfix(bound=f"{history['lower_bound'][-1]:.6g}", refresh=False)
        bar.update()

    return show
