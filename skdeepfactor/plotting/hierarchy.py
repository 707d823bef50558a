"""Layers of factors as a graph."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_share, check_whole
from skdeepfactor.plotting.drawing import (
    FONT_SIZE,
    ROW_HEIGHT,
    TITLE_HEIGHT,
    distinct_colors,
    new_canvas,
    shortened,
)

# Inches of units of a layer and of the lines between two; the width of a line in points
# where the share is 1, and the characters that a unit has room for.
UNIT_WIDTH = 2.7
UNIT_PITCH = 0.2
UNIT_CHARACTERS = 32
LINE_LENGTH = 2.0
LINE_WIDTH = 9.0

# Rounds of putting units where the lines come from.
N_ROUNDS = 20


class HierarchyDisplay:
    """Layers of factors as a graph that links each unit to the units below it.

    The top layer is on the left, the layer at the data on the right. A line is as wide
    as the share of the lower unit in the upper one. Units are ordered so that few lines
    cross. Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    shares : sequence of array-like of shape (n_units, n_units_below)
        For each layer above the first, the lowest one first, the shares of the units
        below in its units.
    names : sequence of sequences of str
        For each layer, the lowest one first, the names of its units.
    min_share : float, default=0.05
        Lines are drawn for shares of at least this.

    Attributes
    ----------
    shares, names, min_share : object
        The parameters, the shares as a list of ndarrays.
    order_ : list of ndarray
        For each layer, the lowest one first, its units from top to bottom.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    skdeepfactor.inspection.hierarchy : The hierarchy as lists.
    TopicsDisplay : The largest weights of each component.

    Examples
    --------
    >>> from skdeepfactor import SparseGammaDEF
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import HierarchyDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = SparseGammaDEF((6, 3), max_iter=50, random_state=0).fit(X)
    >>> display = HierarchyDisplay.from_estimator(model)  # doctest: +SKIP
    """

    def __init__(
        self,
        shares: Sequence[ArrayLike],
        names: Sequence[Sequence[str]],
        *,
        min_share: float = 0.05,
    ) -> None:
        self.shares = [np.asarray(layer, dtype=np.float64) for layer in shares]
        self.names = [list(layer) for layer in names]
        self.min_share = min_share

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        feature_names: ArrayLike | None = None,
        n_top: int = 3,
        min_share: float = 0.05,
        ax: Any = None,
    ) -> Self:
        """Draw the layers of a fitted estimator.

        Units are named by their top features, and lines are as wide as their shares, as
        of :func:`~skdeepfactor.inspection.hierarchy`.

        Parameters
        ----------
        estimator : SparseGammaDEF, PoissonGammaBeliefNetwork or Pipeline
            Fitted, with two layers or more; of a pipeline, the last step.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default the names from the earlier steps of the
            pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
        n_top : int, default=3
            Number of features that name a unit.
        min_share : float, default=0.05
            Lines are drawn for shares of at least this.
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.

        Returns
        -------
        display : HierarchyDisplay

        Raises
        ------
        ValueError
            If the estimator has a single layer, or a parameter is invalid.
        TypeError
            If the estimator has no layers.

        See Also
        --------
        skdeepfactor.inspection.hierarchy : The hierarchy as lists.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> from skdeepfactor.plotting import HierarchyDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> HierarchyDisplay.from_estimator(model)  # doctest: +SKIP
        """
        model, _ = reading.last_step(estimator)
        profiles, shares = reading.layer_profiles(model), reading.layer_shares(model)
        if not shares:
            raise ValueError(
                "HierarchyDisplay needs two layers of factors or more, got one."
            )
        check_whole("n_top", n_top, 1)
        check_share("min_share", min_share)
        features = reading.feature_names(estimator, profiles[0].shape[1], feature_names)
        names = [
            [
                " ".join(map(str, features[np.argsort(-unit, kind="stable")[:n_top]]))
                for unit in profile
            ]
            for profile in profiles
        ]
        return cls(shares, names, min_share=min_share).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the graph.

        Units are ordered so that few lines cross.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.

        Returns
        -------
        HierarchyDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import HierarchyDisplay
        >>> names = [["pear", "bus", "tram"], ["fruit", "traffic"]]
        >>> shares = [[[0.9, 0.1, 0.0], [0.0, 0.4, 0.6]]]
        >>> HierarchyDisplay(shares, names).plot()  # doctest: +SKIP
        """
        from matplotlib.collections import PatchCollection, PathCollection
        from matplotlib.patches import Rectangle
        from matplotlib.path import Path

        n_layers = len(self.names)
        # All in inches, the first unit at the top of each layer.
        height = max(UNIT_PITCH * max(map(len, self.names)), 1.5)
        width = n_layers * UNIT_WIDTH + (n_layers - 1) * LINE_LENGTH
        if ax is None:
            ax = new_canvas(width, height + TITLE_HEIGHT)
        ax.set_xlim(0, width)
        ax.set_ylim(height, -TITLE_HEIGHT)
        ax.axis("off")
        self.order_ = _few_crossings([layer >= self.min_share for layer in self.shares])
        left = [
            (n_layers - 1 - layer) * (UNIT_WIDTH + LINE_LENGTH)
            for layer in range(n_layers)
        ]
        centers = []
        for order in self.order_:
            places = np.empty(len(order))
            places[order] = (np.arange(len(order)) + 0.5) * height / len(order)
            centers.append(places)

        for layer, shares in enumerate(self.shares):
            start, end = left[layer + 1] + UNIT_WIDTH, left[layer]
            middle = (start + end) / 2
            above, below = np.nonzero(shares >= self.min_share)
            paths = [
                Path(
                    [(start, top), (middle, top), (middle, bottom), (end, bottom)],
                    [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
                )
                for top, bottom in zip(
                    centers[layer + 1][above], centers[layer][below], strict=True
                )
            ]
            colors = np.empty(len(shares), dtype=object)
            colors[self.order_[layer + 1]] = distinct_colors(len(shares))
            ax.add_collection(
                PathCollection(
                    paths,
                    facecolors="none",
                    edgecolors=colors[above].tolist(),
                    linewidths=LINE_WIDTH * shares[above, below],
                    alpha=0.6,
                ),
                autolim=False,
            )
        for layer, names in enumerate(self.names):
            boxes = [
                Rectangle((left[layer], y - ROW_HEIGHT / 2), UNIT_WIDTH, ROW_HEIGHT)
                for y in centers[layer]
            ]
            ax.add_collection(
                PatchCollection(boxes, facecolor="#e8eff6", edgecolor="none"),
                autolim=False,
            )
            for y, name in zip(centers[layer], names, strict=True):
                ax.text(
                    left[layer] + 0.04,
                    y,
                    shortened(str(name), UNIT_CHARACTERS),
                    va="center_baseline",
                    fontsize=FONT_SIZE,
                    parse_math=False,
                )
            ax.text(
                left[layer],
                -TITLE_HEIGHT / 2,
                f"layer {layer + 1}",
                va="center",
                fontsize=FONT_SIZE + 1,
            )
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


def _few_crossings(links):
    """Orders of the units of all layers, the lowest first, given their links.

    Each layer is put in the order of the mean places of the units that its units are
    linked to, by turns from the lowest to the top and back.
    """
    sizes = [links[0].shape[1], *map(len, links)]
    places = [(np.arange(size) + 0.5) / size for size in sizes]
    for _ in range(N_ROUNDS):
        for layer, link in enumerate(links):
            places[layer + 1] = _spread(link, places[layer], places[layer + 1])
        for layer, link in reversed(list(enumerate(links))):
            places[layer] = _spread(link.T, places[layer + 1], places[layer])
    return [np.argsort(place) for place in places]


def _spread(link, others, places):
    """Places from 0 to 1 in the order of the mean places of linked units."""
    n_links = link.sum(axis=1)
    means = np.where(n_links > 0, link @ others / np.maximum(n_links, 1), places)
    spread = np.empty(len(places))
    spread[np.argsort(means, kind="stable")] = (np.arange(len(places)) + 0.5) / len(
        places
    )
    return spread
