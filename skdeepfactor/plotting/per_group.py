"""Shares of topics in groups of rows, as shades."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import topics_per_group
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.inspection.slices import group_labels
from skdeepfactor.plotting.drawing import FONT_SIZE, MAX_CHARACTERS, new_axes, shortened
from skdeepfactor.plotting.over_time import chosen_components, topic_names

# Inches of a cell, and of the names beside the topics and above the groups.
CELL_WIDTH, CELL_HEIGHT = 0.62, 0.24
NAME_WIDTH, NAME_HEIGHT = 3.0, 1.0

# Groups with longer names are written at an angle.
MAX_LEVEL = 7

# Figures are written into cells that are at least so many inches wide.
MIN_CELL = 0.4


class TopicsPerGroupDisplay:
    """Shades for the shares of topics in groups of rows.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    groups : array-like of shape (n_groups,)
        The groups.
    shares : array-like of shape (n_groups, n_shown)
        Shares of the topics shown.
    names : array-like of str of shape (n_shown,)
        Names of these topics.
    label : str, default="share of all words"
        What the shares are, as the label of the shades.

    Attributes
    ----------
    groups, shares, names, label : object
        The parameters, the first three as ndarrays.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    TopicsOverTimeDisplay : The shares over time.
    skdeepfactor.inspection.topics_per_group : The shares as a table, with words.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import TopicsPerGroupDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(3, random_state=0).fit(X)
    >>> groups = ["first", "last"] * 100
    >>> TopicsPerGroupDisplay.from_estimator(lda, X, groups)  # doctest: +SKIP
    """

    def __init__(
        self,
        groups: ArrayLike,
        shares: ArrayLike,
        names: ArrayLike,
        *,
        label: str = "share of all words",
    ) -> None:
        self.groups = np.asarray(groups)
        self.shares = np.asarray(shares, dtype=np.float64)
        self.names = np.asarray(names, dtype=object)
        self.label = label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        groups: ArrayLike,
        *,
        components: ArrayLike | None = None,
        n_components: int = 20,
        feature_names: ArrayLike | None = None,
        ax: Any = None,
        **side: Any,
    ) -> Self:
        """Draw how much rows of each group are about the topics of a fitted estimator.

        Topics are called by the names that were given to them, or else by their numbers
        and three top words.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``components_`` and ``transform``; of a pipeline, the last
            step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows; for a pipeline, the input of its first step.
        groups : array-like of shape (n_rows,)
            The group of each row.
        components : array-like of int, default=None
            The topics shown; by default those whose shares differ most between groups.
        n_components : int, default=20
            Number of topics shown if `components` is None.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default the names from the earlier steps of the
            pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.
        **side : array-like of shape (n_rows, ...)
            Further arguments of the estimator's ``transform`` with an entry for each
            row, by name, such as ``covariates`` or ``times``.

        Returns
        -------
        display : TopicsPerGroupDisplay

        Raises
        ------
        ValueError
            If `groups` are of the wrong length, missing or cannot be sorted, a number
            is not a positive integer, or a topic does not exist.
        TypeError
            If the estimator has no ``components_`` or no ``transform``.

        See Also
        --------
        skdeepfactor.inspection.topics_per_group : The shares as a table.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import TopicsPerGroupDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> groups = ["a", "b", "a", "b"]
        >>> TopicsPerGroupDisplay.from_estimator(model, X, groups)  # doctest: +SKIP
        """
        check_whole("n_components", n_components, 1)
        topics = topics_per_group(
            estimator, X, groups, feature_names=feature_names, **side
        )
        if components is None:
            differences = np.ptp(topics.shares, axis=0)
            if len(topics.groups) == 1:
                differences = np.abs(topics.overall)
            order = np.argsort(-differences, kind="stable")[:n_components]
            components = np.sort(order)
        components = chosen_components(components, topics.shares.shape[1])
        label = "share of all words" if topics.words is not None else "mean factor"
        names = topic_names(estimator, components, feature_names)
        display = cls(topics.groups, topics.shares[:, components], names, label=label)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the shades, a line for each topic and a column for each group.

        Figures are written into the cells if these are wide enough.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.

        Returns
        -------
        TopicsPerGroupDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import TopicsPerGroupDisplay
        >>> shares = [[0.3, 0.7], [0.6, 0.4]]
        >>> display = TopicsPerGroupDisplay(["city", "land"], shares, ["pop", "rock"])
        >>> display.plot()  # doctest: +SKIP
        """
        n_groups, n_shown = self.shares.shape
        if ax is None:
            ax = new_axes(
                NAME_WIDTH + 1 + CELL_WIDTH * n_groups,
                NAME_HEIGHT + CELL_HEIGHT * n_shown,
            )
        largest = np.abs(self.shares).max()
        is_signed = self.shares.min() < 0
        image = ax.imshow(
            self.shares.T,
            cmap="RdBu_r" if is_signed else "Blues",
            vmin=-largest if is_signed else 0,
            vmax=largest if largest > 0 else 1,
            aspect="auto",
        )
        ax.xaxis.tick_top()
        style: dict[str, Any] = {"parse_math": False, "fontsize": FONT_SIZE}
        names = [shortened(str(name), 2 * MAX_CHARACTERS) for name in self.names]
        ax.set_yticks(np.arange(n_shown), labels=names, **style)
        groups = [shortened(label) for label in group_labels(self.groups)]
        if max(map(len, groups)) > MAX_LEVEL:
            style.update(rotation=40, ha="left", va="bottom", rotation_mode="anchor")
        ax.set_xticks(np.arange(n_groups), labels=groups, **style)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        figure = ax.figure.figure
        colors = figure.colorbar(image, ax=ax, label=self.label, shrink=0.8)
        colors.outline.set_visible(False)
        figure.draw_without_rendering()
        inches = ax.get_window_extent().width / figure.dpi / n_groups
        if inches >= MIN_CELL:
            self._write_figures(ax, largest)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _write_figures(self, ax, largest):
        for (group, topic), share in np.ndenumerate(self.shares):
            text = f"{share:.2f}"
            if abs(share) < 0.995:
                text = text.replace("0.", ".", 1)
            ax.text(
                group,
                topic,
                text,
                ha="center",
                va="center",
                fontsize=FONT_SIZE - 1,
                color="white" if abs(share) > 0.6 * largest else "#303030",
            )
