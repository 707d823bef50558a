"""Displays of fitted models, in the manner of scikit-learn's.

``from_estimator`` reads a fitted estimator and draws, ``from_search`` a grid search and
``from_embeddings`` an array; the display they return keeps what was drawn, so that
``plot`` can draw it again elsewhere. matplotlib is imported when something is drawn,
and needed for nothing else.
"""

import math
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np

from skdeepfactor import reading
from skdeepfactor.inspection import factor_shares

__all__ = ["TopicsDisplay", "TrainingDisplay", "UsageDisplay"]

# Inches, and points of the words; a name as long as the longest shown fits the width.
COLUMN_WIDTH = 2.0
ROW_HEIGHT = 0.17
TITLE_HEIGHT = 0.4
MARGIN = 0.12
FONT_SIZE = 8
MAX_CHARACTERS = 24

# Inches of a bar with its component below it, of the smallest plot and of the widest.
BAR_WIDTH = 0.13
MIN_WIDTH = 4.5
MAX_WIDTH = 16.0


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


class UsageDisplay:
    """Bars that say how much each component is used, and so which are alive.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    usage : array-like of shape (n_components,)
        How much each component is used, not negative.
    name : str, default="usage"
        What that is, as the label of the axis.
    threshold : float, default=0.01
        Components are alive whose usage is above this share of the largest one.

    Attributes
    ----------
    usage, name, threshold : object
        The parameters, the usage as an ndarray.
    is_alive : ndarray of bool of shape (n_components,)
        Which components are alive.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    TopicsDisplay : The largest weights of each component.
    skdeepfactor.inspection.factor_shares : The shares in each row.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import UsageDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(8, random_state=0).fit(X)
    >>> display = UsageDisplay.from_estimator(lda, X)  # doctest: +SKIP
    """

    def __init__(self, usage, *, name="usage", threshold=0.01):
        self.usage = np.asarray(usage, dtype=np.float64)
        self.name = name
        self.threshold = threshold
        self.is_alive = self.usage > threshold * self.usage.max()

    @classmethod
    def from_estimator(cls, estimator, X, *, threshold=0.01, ax=None):
        """Draw how much rows use the components of a fitted estimator.

        Where neither factors nor ``components_`` have negative entries, the usage of a
        component is its mean share, as of
        :func:`~skdeepfactor.inspection.factor_shares`, over the rows that have any
        factor. Else it is the variance of the factor over rows: near 0 where an
        autoencoder has left a dimension to its prior.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``components_`` and ``transform``; of a pipeline, the last
            step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows; for a pipeline, what its first step takes.
        threshold : float, default=0.01
            Components are alive whose usage is above this share of the largest one.
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is wide enough.

        Returns
        -------
        display : UsageDisplay

        Raises
        ------
        ValueError
            If the threshold is not from 0 to below 1, or the factors are not those of
            one layer.
        TypeError
            If the estimator has no ``components_`` or no ``transform``.
        """
        _check_share(threshold=threshold)
        model, X = reading.last_step(estimator, X)
        factors = reading.factors_of(model, X)
        if min(reading.components_of(model).min(), factors.min()) < 0:
            name, usage = "variance of the factor", factors.var(axis=0)
        else:
            shares = factor_shares(model, X)
            n_shown = max(np.count_nonzero(shares.any(axis=1)), 1)
            name, usage = "mean share of a row", shares.sum(axis=0) / n_shown
        return cls(usage, name=name, threshold=threshold).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the bars, the component that is used most first.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is wide enough.

        Returns
        -------
        display : UsageDisplay
        """
        n_components = len(self.usage)
        if ax is None:
            width = 1 + BAR_WIDTH * n_components
            ax = _new_axes(min(max(width, MIN_WIDTH), MAX_WIDTH), 3.2)
        order = np.argsort(-self.usage, kind="stable")
        colors = np.where(self.is_alive, "#5b9bd0", "#c8c8c8")
        ax.bar(np.arange(n_components), self.usage[order], color=colors[order])
        ax.set_xlim(-0.6, n_components - 0.4)
        largest = self.usage.max()
        ax.set_ylim(0, 1.04 * largest if largest > 0 else 1)
        # As many labels as there is room for, once the layout is known.
        ax.figure.draw_without_rendering()
        inches = ax.get_position().width * ax.figure.get_figwidth()
        step = math.ceil(BAR_WIDTH * n_components / inches) if inches > 0 else 1
        is_crowded = n_components * 2 * BAR_WIDTH > inches
        ax.set_xticks(
            np.arange(0, n_components, step),
            labels=[str(component) for component in order[::step]],
            rotation=90 if is_crowded else 0,
            fontsize=FONT_SIZE - 1,
        )
        ax.set_xlabel("component, by usage")
        ax.set_ylabel(self.name)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(
            f"{np.count_nonzero(self.is_alive)} of {n_components} components above "
            f"{100 * self.threshold:g} % of the largest",
            fontsize=FONT_SIZE + 1,
            loc="right",
        )
        self.ax_ = ax
        self.figure_ = ax.figure
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


def _new_axes(width, height):
    """The axes of a new figure, of this size in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _shortened(name):
    """The name, or as much of it as fits."""
    if len(name) <= MAX_CHARACTERS:
        return name
    return name[: MAX_CHARACTERS - 1] + "…"


def _check_positive(**numbers):
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {number!r}.")


def _check_share(**numbers):
    for name, number in numbers.items():
        if not isinstance(number, Real) or not 0 <= number < 1:
            raise ValueError(
                f"{name} must be a number from 0 to below 1, got {number!r}."
            )
