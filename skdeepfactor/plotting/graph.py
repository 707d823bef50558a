"""Topics that go together, as a graph in the plane."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading, topic_graph
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.plotting.drawing import FONT_SIZE, new_canvas, shortened

# Inches of a topic's name and of the room around it, its characters, and the width of
# a line in points where the correlation is 1.
NAME_WIDTH, NAME_HEIGHT = 1.25, 0.17
ROOM_WIDTH, ROOM_HEIGHT = 1.4, 0.68
NAME_CHARACTERS = 22
LINE_WIDTH = 8.0

# Rounds of moving topics, and rounds of moving names that overlap apart.
N_ROUNDS, N_PARTINGS = 300, 300


class TopicGraphDisplay:
    """Topics as nodes, linked where they go together.

    A line is as wide as the correlation of its topics. Linked topics are drawn near
    each other; topics without a link stand at the bottom. Use :meth:`from_estimator` to
    make one.

    Parameters
    ----------
    pairs : array-like of shape (n_edges, 2)
        Indices of the two topics of each edge.
    correlations : array-like of shape (n_edges,)
        Their correlations.
    names : sequence of sequences of str
        The top features of each topic.

    Attributes
    ----------
    pairs, correlations, names : object
        The parameters, the first two as ndarrays.
    positions_ : ndarray of shape (n_topics, 2)
        Where the topics are, in inches from the lower left corner.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    skdeepfactor.inspection.topic_graph : The edges as an array.
    HierarchyDisplay : Topics of topics, for models with layers.

    Examples
    --------
    >>> from skdeepfactor import CorrelatedTopicModel
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import TopicGraphDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = CorrelatedTopicModel(3, random_state=0).fit(X)
    >>> display = TopicGraphDisplay.from_estimator(model)  # doctest: +SKIP
    """

    def __init__(
        self,
        pairs: ArrayLike,
        correlations: ArrayLike,
        names: Sequence[Sequence[str]],
    ) -> None:
        self.pairs = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
        self.correlations = np.asarray(correlations, dtype=np.float64)
        self.names = [list(map(str, topic)) for topic in names]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        feature_names: ArrayLike | None = None,
        n_top: int = 3,
        threshold: float = 0.1,
        n_edges: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the topics of a fitted estimator.

        Topics are named by their top features, and linked as by
        :func:`~skdeepfactor.inspection.topic_graph`.

        Parameters
        ----------
        estimator : CorrelatedTopicModel or Pipeline
            Fitted, with ``topic_correlation_``; of a pipeline, the last step.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default the names from the earlier steps of the
            pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
        n_top : int, default=3
            Number of features that name a topic.
        threshold : float, default=0.1
            Smallest correlation of a line, from 0 to below 1.
        n_edges : int, default=None
            Largest number of lines, those with the largest correlations; all if None.
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.

        Returns
        -------
        display : TopicGraphDisplay

        Raises
        ------
        ValueError
            If a parameter is out of range, or the number of names is wrong.
        TypeError
            If the estimator has no ``topic_correlation_``.

        See Also
        --------
        skdeepfactor.inspection.topic_graph : The edges as an array.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> from skdeepfactor.plotting import TopicGraphDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X)
        >>> TopicGraphDisplay.from_estimator(model)  # doctest: +SKIP
        """
        pairs, correlations = topic_graph(
            estimator, threshold=threshold, n_edges=n_edges
        )
        components = reading.components_of(reading.last_step(estimator)[0])
        check_whole("n_top", n_top, 1)
        features = reading.feature_names(estimator, components.shape[1], feature_names)
        top = np.argsort(-components, axis=1, kind="stable")[:, :n_top]
        return cls(pairs, correlations, features[top]).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the graph.

        The layout follows from the edges alone, so that it is the same each time.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.

        Returns
        -------
        TopicGraphDisplay
            The display itself, with ``positions_``, ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import TopicGraphDisplay
        >>> names = [["pear", "apple"], ["bread", "cheese"], ["bus", "tram"]]
        >>> TopicGraphDisplay([[0, 1]], [0.4], names).plot()  # doctest: +SKIP
        """
        from matplotlib.collections import LineCollection

        self.positions_, (width, height) = _layout(
            len(self.names), self.pairs, self.correlations, self._name_height
        )
        if ax is None:
            ax = new_canvas(width, height)
        ax.set_xlim(0, width)
        ax.set_ylim(0, height)
        ax.axis("off")
        ax.add_collection(
            LineCollection(
                self.positions_[self.pairs],
                linewidths=LINE_WIDTH * self.correlations,
                colors="#9bb8d3",
                capstyle="round",
                zorder=1,
            ),
            autolim=False,
        )
        is_linked = np.isin(np.arange(len(self.names)), self.pairs)
        for (x, y), name, has_line in zip(
            self.positions_, self.names, is_linked, strict=True
        ):
            ax.text(
                x,
                y,
                "\n".join(shortened(word, NAME_CHARACTERS) for word in name),
                ha="center",
                va="center",
                fontsize=FONT_SIZE,
                color="black" if has_line else "#707070",
                parse_math=False,
                bbox={
                    "facecolor": "#e8eff6" if has_line else "#f4f4f4",
                    "edgecolor": "none",
                    "boxstyle": "round,pad=0.3",
                },
                zorder=2,
            )
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    @property
    def _name_height(self):
        """Inches that the highest box takes, with the room around it."""
        n_lines = max(map(len, self.names), default=1)
        return ROOM_HEIGHT - NAME_HEIGHT * 3 + NAME_HEIGHT * max(n_lines, 1) + 0.1


def _layout(n_topics, pairs, weights, room_height):
    """Positions of topics in inches, (n_topics, 2), and the size of the drawing.

    Linked topics attract each other and all repel each other (Fruchterman and
    Reingold); boxes that overlap are then moved apart. Topics without a link fill rows
    at the bottom.
    """
    room = np.array([ROOM_WIDTH, room_height])
    linked = np.unique(pairs)
    positions = np.zeros((n_topics, 2))
    size = np.zeros(2)
    if len(linked):
        places = np.searchsorted(linked, pairs)
        drawn = _springs(len(linked), places, weights)
        # As wide as high, counted in boxes; some room for lines is left between them.
        n_boxes = math.sqrt(1.3 * len(linked))
        drawn = _apart(drawn * n_boxes) * room
        drawn -= drawn.min(axis=0) - room / 2
        size = drawn.max(axis=0) + room / 2
        positions[linked] = drawn
    alone = np.setdiff1d(np.arange(n_topics), linked)
    if len(alone):
        n_columns = max(1, int(size[0] // room[0]), math.isqrt(len(alone)))
        n_rows = math.ceil(len(alone) / n_columns)
        row, column = np.divmod(np.arange(len(alone)), n_columns)
        positions[alone] = np.stack([column + 0.5, n_rows - row - 0.5], 1) * room
        positions[linked, 1] += n_rows * room[1]
        size = np.array([max(size[0], n_columns * room[0]), size[1] + n_rows * room[1]])
    return positions, np.maximum(size, room)


def _springs(n_nodes, pairs, weights):
    """Positions in the unit square of nodes that springs pull together."""
    angles = 2 * np.pi * np.arange(n_nodes) / n_nodes
    positions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pull = np.zeros((n_nodes, n_nodes))
    pull[pairs[:, 0], pairs[:, 1]] = weights / max(weights.max(), 1e-12)
    pull += pull.T
    distance = 1 / math.sqrt(n_nodes)
    for step in range(N_ROUNDS):
        apart = positions[:, np.newaxis] - positions
        lengths = np.maximum(np.linalg.norm(apart, axis=2), 1e-3)
        push = distance**2 / lengths**2 - pull * lengths / distance
        # All are drawn to the middle a little, or parts without links would drift off.
        move = (apart * push[:, :, np.newaxis]).sum(axis=1) - 0.3 * positions
        size = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-12)
        hottest = 0.1 * (1 - step / N_ROUNDS)
        positions = positions + move / size * np.minimum(size, hottest)
    spread = np.ptp(positions, axis=0)
    return (positions - positions.min(axis=0)) / np.where(spread > 0, spread, 1)


def _apart(centers):
    """Centers of unit squares, moved until none overlap."""
    centers = centers.copy()
    for _ in range(N_PARTINGS):
        apart = centers[:, np.newaxis] - centers
        overlap = 1 - np.abs(apart)
        np.einsum("iik->ik", overlap)[:] = 0
        is_over = (overlap > 1e-6).all(axis=2)
        if not is_over.any():
            break
        # Each moves half of the way, along the axis where less is needed.
        along = overlap.argmin(axis=2)
        first = np.arange(len(centers))
        # Of two at the same place, the first goes one way and the second the other.
        sign = np.where(
            apart == 0, np.sign(first[:, np.newaxis] - first)[:, :, np.newaxis], 0
        )
        sign = sign + np.sign(apart)
        for axis in (0, 1):
            moved = np.where(is_over & (along == axis), overlap[:, :, axis], 0)
            centers[:, axis] += 0.5 * (moved * sign[:, :, axis]).sum(axis=1)
    return centers
