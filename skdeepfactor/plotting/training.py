"""Bounds and validation scores of training, pass by pass."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from skdeepfactor.inspection import reading
from skdeepfactor.plotting.drawing import (
    MAX_CHARACTERS,
    distinct_curves,
    draw_legend,
    new_row,
)


class TrainingDisplay:
    """The bound of the training data after each pass, and the validation score.

    Bounds of different models, or of different data, are on different scales; lines in
    one axes should be starts or settings of one model on the same rows. Use
    :meth:`from_estimator` to make one.

    Parameters
    ----------
    histories : dict
        The ``history_`` of estimators by name. A name may be None, for a line that
        needs no legend.

    Attributes
    ----------
    histories : dict
        The histories by name.
    ax_ : ndarray of shape (1,) or (2,)
        The matplotlib axes: of the bound and, where a history has validation scores, of
        these.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    TopicsDisplay : The largest weights of each component.

    Examples
    --------
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.datasets import make_poisson_factors
    >>> from skdeepfactor.plotting import TrainingDisplay
    >>> X = make_poisson_factors(200, 50, 3, random_state=0).data
    >>> models = {
    ...     init: PoissonFactorization(3, init=init, random_state=0).fit(X)
    ...     for init in ("kmeans", "random")
    ... }
    >>> display = TrainingDisplay.from_estimator(models)  # doctest: +SKIP
    """

    def __init__(self, histories: dict) -> None:
        self.histories = dict(histories)

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Draw the history of a fitted estimator, or of several.

        Several estimators, such as starts or settings of one model on the same rows,
        share the axes.

        Parameters
        ----------
        estimator : estimator, Pipeline or dict of these
            Fitted, with ``history_``; of a pipeline, the last step. The keys of a dict
            are the names in the legend.
        ax : Axes or array-like of Axes, default=None
            Axes to draw in, one for the bound and, where an estimator has validation
            scores, a second one; by default those of a new figure.

        Returns
        -------
        display : TrainingDisplay

        Raises
        ------
        ValueError
            If there is no estimator, or the number of axes is wrong.
        TypeError
            If an estimator has no ``history_``.

        See Also
        --------
        plot : Draw in other axes.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import TrainingDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> TrainingDisplay.from_estimator(model)  # doctest: +SKIP
        """
        several = estimator if isinstance(estimator, Mapping) else {None: estimator}
        if not several:
            raise ValueError("TrainingDisplay needs an estimator, got an empty dict.")
        histories = {}
        for name, one in several.items():
            model, _ = reading.last_step(one)
            histories[name] = getattr(model, "history_", None)
            if histories[name] is None:
                raise TypeError(
                    "TrainingDisplay needs estimators with history_, as those of "
                    f"skdeepfactor have, but {type(model).__name__} has none."
                )
        return cls(histories).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the curves.

        Validation scores are drawn beside the bounds, on a scale of their own.

        Parameters
        ----------
        ax : Axes or array-like of Axes, default=None
            Axes to draw in, one for the bound and, where a history has validation
            scores, a second one; by default those of a new figure.

        Returns
        -------
        TrainingDisplay
            The display itself, with ``ax_`` and ``figure_``.

        Raises
        ------
        ValueError
            If the number of axes is not that of the panels.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import TrainingDisplay
        >>> history = {"lower_bound": [-90.0, -80.0], "seconds": [0.1, 0.1]}
        >>> TrainingDisplay({None: history}).plot()  # doctest: +SKIP
        """
        panels = {"lower_bound": "bound of the training data (nats)"}
        if any("validation_score" in h for h in self.histories.values()):
            panels["validation_score"] = "mean bound of held-out rows (nats)"
        axes = new_row(len(panels)) if ax is None else np.ravel(ax)
        if len(axes) != len(panels):
            raise ValueError(
                f"ax must hold one axes for each of {', '.join(panels)}, "
                f"got {len(axes)}."
            )
        lines = {}
        for axis, (key, label) in zip(axes, panels.items(), strict=True):
            styles = distinct_curves(len(self.histories))
            for (name, history), style in zip(
                self.histories.items(), styles, strict=True
            ):
                values = history.get(key, [])
                lines[key, name], *_ = axis.plot(
                    np.arange(1, len(values) + 1),
                    values,
                    **style,
                    markersize=3,
                    label=None if name is None else str(name),
                )
            axis.set_xlabel("pass")
            axis.set_ylabel(label)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
        named = {
            str(name): lines["lower_bound", name]
            for name in self.histories
            if name is not None
        }
        if named:
            draw_legend(axes[0], named, 2 * MAX_CHARACTERS, loc="lower right")
        self.ax_ = axes
        self.figure_ = axes[0].figure
        return self
