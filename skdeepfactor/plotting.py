"""Displays of fitted models, in the manner of scikit-learn's.

``from_estimator`` reads a fitted estimator and draws; the display it returns keeps what
was drawn, so that ``plot`` can draw it again elsewhere. matplotlib is imported when
something is drawn, and needed for nothing else.
"""

import math
from collections.abc import Mapping
from numbers import Integral

import numpy as np

from skdeepfactor import reading

__all__ = ["TopicsDisplay", "TrainingDisplay"]

# Inches, and points of the words; a name as long as the longest shown fits the width.
COLUMN_WIDTH = 2.0
ROW_HEIGHT = 0.17
TITLE_HEIGHT = 0.4
MARGIN = 0.12
FONT_SIZE = 8
MAX_CHARACTERS = 24


class TopicsDisplay:
    """Bars of the largest weights of each component, with the features' names.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    names : array-like of shape (n_shown, n_top), str
        Names of the top features of each component, the largest weight first.
    weights : array-like of shape (n_shown, n_top)
        Their weights.

    Attributes
    ----------
    names : ndarray of shape (n_shown, n_top)
        The names.
    weights : ndarray of shape (n_shown, n_top)
        The weights.
    ax_ : ndarray of shape (n_shown,)
        The matplotlib axes, one for each component.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    TrainingDisplay : The bound of each pass.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import TopicsDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(3, random_state=0).fit(X)
    >>> display = TopicsDisplay.from_estimator(lda)  # doctest: +SKIP
    """

    def __init__(self, names, weights):
        self.names = np.asarray(names, dtype=object)
        self.weights = np.asarray(weights, dtype=np.float64)

    @classmethod
    def from_estimator(
        cls, estimator, *, feature_names=None, n_top=8, n_components=None, ax=None
    ):
        """Draw the components of a fitted estimator.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``components_``; of a pipeline, the last step.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default what the steps of the pipeline before the
            last call them, else ``feature_names_in_`` of that last step, else x0, x1,
            ...
        n_top : int, default=8
            Number of features shown of each component.
        n_components : int, default=None
            Number of components shown, the first ones; all if None.
        ax : Axes or array-like of Axes, default=None
            Axes to draw in, one for each component shown; by default those of a new
            figure that is large enough.

        Returns
        -------
        display : TopicsDisplay

        Raises
        ------
        ValueError
            If a number is not a positive integer, or the number of names or of axes is
            not what it must be.
        TypeError
            If the estimator has no ``components_``.
        """
        components = reading.components_of(reading.last_step(estimator)[0])
        names = reading.feature_names(estimator, components.shape[1], feature_names)
        _check_positive(n_top=n_top)
        if n_components is not None:
            _check_positive(n_components=n_components)
            components = components[:n_components]
        top = np.argsort(-components, axis=1, kind="stable")[:, :n_top]
        display = cls(names[top], np.take_along_axis(components, top, axis=1))
        return display.plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the bars, each component on a scale of its own.

        Parameters
        ----------
        ax : Axes or array-like of Axes, default=None
            Axes to draw in, one for each component shown; by default those of a new
            figure that is large enough.

        Returns
        -------
        display : TopicsDisplay

        Raises
        ------
        ValueError
            If the number of axes is not that of the components shown.
        """
        n_shown, n_top = self.names.shape
        axes = _new_grid(n_shown, n_top) if ax is None else np.ravel(ax)
        if len(axes) != n_shown:
            raise ValueError(
                f"ax must hold one axes for each of {n_shown} components, "
                f"got {len(axes)}."
            )
        positions = np.arange(n_top)
        for index, (axis, names, weights) in enumerate(
            zip(axes, self.names, self.weights, strict=True)
        ):
            axis.barh(positions, weights, height=0.86, color="#a8c8e4")
            largest = weights.max()
            axis.set_xlim(0, largest if largest > 0 else 1)
            # The first feature at the top.
            axis.set_ylim(n_top - 0.5, -0.5)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
            axis.set_title(f"component {index}", fontsize=FONT_SIZE + 1, loc="left")
            for position, name in zip(positions, names, strict=True):
                # Names lie on the bars, where the width of no other axes depends on
                # them; they start a little right of the left edge.
                axis.annotate(
                    _shortened(str(name)),
                    (0, position),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    fontsize=FONT_SIZE,
                    parse_math=False,
                )
        self.ax_ = axes
        self.figure_ = axes[0].figure
        return self


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

    def __init__(self, histories):
        self.histories = dict(histories)

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Draw the history of a fitted estimator, or of several.

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
            If there is no estimator, or the number of axes is not what it must be.
        """
        several = estimator if isinstance(estimator, Mapping) else {None: estimator}
        if not several:
            raise ValueError("TrainingDisplay needs an estimator, got an empty dict.")
        histories = {
            name: reading.last_step(one)[0].history_ for name, one in several.items()
        }
        return cls(histories).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the curves.

        Parameters
        ----------
        ax : Axes or array-like of Axes, default=None
            Axes to draw in, one for the bound and, where a history has validation
            scores, a second one; by default those of a new figure.

        Returns
        -------
        display : TrainingDisplay

        Raises
        ------
        ValueError
            If the number of axes is not that of the panels.
        """
        panels = {"lower_bound": "bound of the training data (nats)"}
        if any("validation_score" in h for h in self.histories.values()):
            panels["validation_score"] = "mean bound of held-out rows (nats)"
        axes = _new_row(len(panels)) if ax is None else np.ravel(ax)
        if len(axes) != len(panels):
            raise ValueError(
                f"ax must hold one axes for each of {', '.join(panels)}, "
                f"got {len(axes)}."
            )
        for axis, (key, label) in zip(axes, panels.items(), strict=True):
            for index, (name, history) in enumerate(self.histories.items()):
                values = history.get(key, [])
                axis.plot(
                    np.arange(1, len(values) + 1),
                    values,
                    marker="o",
                    markersize=3,
                    color=f"C{index}",
                    label=None if name is None else str(name),
                )
            axis.set_xlabel("pass")
            axis.set_ylabel(label)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
        if any(name is not None for name in self.histories):
            axes[0].legend(loc="lower right")
        self.ax_ = axes
        self.figure_ = axes[0].figure
        return self


def _new_grid(n_axes, n_top):
    """Axes of a new figure, as many as asked for, in rows of five or of a square."""
    import matplotlib.pyplot as plt

    n_columns = min(n_axes, max(5, math.ceil(math.sqrt(n_axes))))
    n_rows = math.ceil(n_axes / n_columns)
    bars = ROW_HEIGHT * n_top
    width = n_columns * (COLUMN_WIDTH + MARGIN) + MARGIN
    height = n_rows * (bars + TITLE_HEIGHT) + MARGIN
    figure = plt.figure(figsize=(width, height))
    # All sizes are known, so that axes are placed without a layout engine, which would
    # take seconds for a hundred of them.
    grid = figure.add_gridspec(
        n_rows,
        n_columns,
        left=MARGIN / width,
        right=1 - MARGIN / width,
        bottom=MARGIN / height,
        top=1 - TITLE_HEIGHT / height,
        wspace=MARGIN / COLUMN_WIDTH,
        hspace=TITLE_HEIGHT / bars,
    )
    axes = np.empty(n_axes, dtype=object)
    for index in range(n_axes):
        axes[index] = figure.add_subplot(grid[divmod(index, n_columns)])
    return axes


def _new_row(n_axes):
    """Axes of a new figure, side by side."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(
        1, n_axes, figsize=(5 * n_axes, 3.6), layout="constrained", squeeze=False
    )
    return axes[0]


def _shortened(name):
    """The name, or as much of it as fits."""
    if len(name) <= MAX_CHARACTERS:
        return name
    return name[: MAX_CHARACTERS - 1] + "…"


def _check_positive(**numbers):
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {number!r}.")
