"""Bars of the largest weights of components."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.plotting.drawing import FONT_SIZE, new_grid, shortened


class TopicsDisplay:
    """Bars of the largest weights of each component, with the features' names.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    names : array-like of shape (n_shown, n_top), str
        Names of the top features of each component, the largest weight first.
    weights : array-like of shape (n_shown, n_top)
        Their weights.
    titles : array-like of str of shape (n_shown,), default=None
        What stands above the bars; "component 0" and so on if None.

    Attributes
    ----------
    names : ndarray of shape (n_shown, n_top)
        The names.
    weights : ndarray of shape (n_shown, n_top)
        The weights.
    titles : list of str of length n_shown
        The titles.
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

    def __init__(
        self, names: ArrayLike, weights: ArrayLike, *, titles: ArrayLike | None = None
    ) -> None:
        self.names = np.asarray(names, dtype=object)
        self.weights = np.asarray(weights, dtype=np.float64)
        if titles is None:
            titles = [f"component {index}" for index in range(len(self.names))]
        self.titles = [str(title) for title in np.asarray(titles, dtype=object)]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        feature_names: ArrayLike | None = None,
        n_top: int = 8,
        n_components: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the components of a fitted estimator.

        The weights are the entries of ``components_``, in units of the model.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``components_``; of a pipeline, the last step.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default the names from the earlier steps of the
            pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
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
            wrong.
        TypeError
            If the estimator has no ``components_``.

        See Also
        --------
        skdeepfactor.inspection.top_features : Their names as a table, by lift too.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import TopicsDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> TopicsDisplay.from_estimator(model)  # doctest: +SKIP
        """
        model, _ = reading.last_step(estimator)
        components = reading.components_of(model)
        titles = reading.component_labels(model, len(components), "component ")
        names = reading.feature_names(estimator, components.shape[1], feature_names)
        check_whole("n_top", n_top, 1)
        if n_components is not None:
            check_whole("n_components", n_components, 1)
            components, titles = components[:n_components], titles[:n_components]
        top = np.argsort(-components, axis=1, kind="stable")[:, :n_top]
        weights = np.take_along_axis(components, top, axis=1)
        display = cls(names[top], weights, titles=titles)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the bars, each component on a scale of its own.

        Names are written on the bars, so that long names do not shorten them.

        Parameters
        ----------
        ax : Axes or array-like of Axes, default=None
            Axes to draw in, one for each component shown; by default those of a new
            figure that is large enough.

        Returns
        -------
        TopicsDisplay
            The display itself, with ``ax_`` and ``figure_``.

        Raises
        ------
        ValueError
            If the number of axes is not that of the components shown.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import TopicsDisplay
        >>> names, weights = [["apple", "pear"], ["bus", "tram"]], [[3, 2], [2, 1]]
        >>> TopicsDisplay(names, weights).plot()  # doctest: +SKIP
        """
        n_shown, n_top = self.names.shape
        axes = new_grid(n_shown, n_top) if ax is None else np.ravel(ax)
        if len(axes) != n_shown:
            raise ValueError(
                f"ax must hold one axes for each of {n_shown} components, "
                f"got {len(axes)}."
            )
        positions = np.arange(n_top)
        for axis, title, names, weights in zip(
            axes, self.titles, self.names, self.weights, strict=True
        ):
            axis.barh(positions, weights, height=0.86, color="#a8c8e4")
            largest = weights.max()
            axis.set_xlim(0, largest if largest > 0 else 1)
            # The first feature at the top.
            axis.set_ylim(n_top - 0.5, -0.5)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
            axis.set_title(
                shortened(title), fontsize=FONT_SIZE + 1, loc="left", parse_math=False
            )
            for position, name in zip(positions, names, strict=True):
                # Names lie on the bars, where the width of no other axes depends on
                # them; they start a little right of the left edge.
                axis.annotate(
                    shortened(str(name)),
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
