"""Points in a plane with their names."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array

from skdeepfactor._input import received
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.plotting.drawing import (
    FONT_SIZE,
    distinct_colors,
    draw_legend,
    new_axes,
    shortened,
)
from skdeepfactor.plotting.projection import two_dimensions

# In 1/72 inches: between a point and its name, between two names. Then where a name may
# be, the best place first.
NAME_GAP = 3.0
NAME_MARGIN = 1.5
PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))

# Lines in a column of a legend.
LEGEND_LINES = 30


class EmbeddingDisplay:
    """Words or rows as points in two dimensions, some of them with their names.

    Names do not overlap; those without room are left out.
    Use :meth:`from_embeddings` to make one.

    Parameters
    ----------
    positions : array-like of shape (n_points, 2)
        The points.
    names : array-like of str of shape (n_points,), default=None
        Their names; without names none are shown.
    ranking : array-like of int, default=None
        Indices of the points that may be named, the most important first; all in their
        order if None.
    n_labels : int, default=50
        The largest number of names shown.
    groups : array-like of shape (n_points,), default=None
        A group for each point, such as its class, which has a colour and a line in the
        legend. Points without one (None or NaN) are grey.

    Attributes
    ----------
    positions, names, ranking, n_labels, groups : object
        The parameters as ndarrays.
    labels_ : dict of int to matplotlib Annotation
        The names shown, by the index of their point.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    skdeepfactor.inspection.jacobian_embeddings : Embeddings of features.
    skdeepfactor.inspection.nearest_features : The neighbours of a feature.

    Examples
    --------
    >>> from skdeepfactor import NeuralTopicDLGM
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.inspection import jacobian_embeddings
    >>> from skdeepfactor.plotting import EmbeddingDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = NeuralTopicDLGM(4, max_iter=5, random_state=0).fit(X)
    >>> embeddings = jacobian_embeddings(model, random_state=0)
    >>> names = [f"word{index}" for index in range(50)]
    >>> display = EmbeddingDisplay.from_embeddings(
    ...     embeddings, names=names
    ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        positions: ArrayLike,
        names: ArrayLike | None = None,
        *,
        ranking: ArrayLike | None = None,
        n_labels: int = 50,
        groups: Any = None,
    ) -> None:
        self.positions = np.asarray(positions, dtype=np.float64)
        n_points = len(self.positions)
        self.names = None if names is None else np.asarray(names, dtype=object)
        self.ranking = np.arange(n_points) if ranking is None else np.asarray(ranking)
        self.n_labels = n_labels
        if isinstance(groups, np.ma.MaskedArray):
            as_objects: Any = groups.astype(object)
            groups = as_objects.filled(None)
        self.groups = None if groups is None else np.asarray(groups, dtype=object)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Any,
        *,
        names: ArrayLike | None = None,
        labelled: ArrayLike | None = None,
        n_labels: int = 50,
        groups: Any = None,
        projection: str = "pca",
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw embeddings, or anything else with a row for each point.

        More than two dimensions are projected, and some of the points named.

        Parameters
        ----------
        embeddings : array-like of shape (n_points, n_dimensions)
            For instance the output of
            :func:`~skdeepfactor.inspection.jacobian_embeddings` or of ``transform``,
            or transposed ``components_``. Two dimensions are drawn as they are, one as
            a line.
        names : array-like of str of shape (n_points,), default=None
            Names of the points; without names none are shown.
        labelled : array-like of int or of str, default=None
            Which points are to be named, by index or by name, the most important first;
            by name, all that are called so. By default those that are farthest from
            zero.
        n_labels : int, default=50
            The largest number of names shown.
        groups : array-like of shape (n_points,), default=None
            A group for each point, such as its class, which has a colour and a line in
            the legend. Points without one (None or NaN) are grey.
        projection : {"pca", "tsne"}, default="pca"
            How more than two dimensions become two: by principal components, which keep
            what is far apart, or by t-SNE of the directions, which keeps neighbours by
            cosine and takes half a minute for some thousands of points.
        random_state : int, RandomState instance or None, default=None
            Seed of t-SNE.
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ValueError
            If a parameter is invalid, or a name in `labelled` is not one of `names`.

        See Also
        --------
        skdeepfactor.inspection.jacobian_embeddings : Embeddings of words.

        Examples
        --------
        >>> from skdeepfactor.plotting import EmbeddingDisplay
        >>> embeddings = [[2.0, 0.1, 0.0], [1.9, 0.0, 0.1], [0.0, 0.1, 2.0]]
        >>> names = ["apple", "pear", "train"]
        >>> EmbeddingDisplay.from_embeddings(embeddings, names=names)  # doctest: +SKIP
        """
        embeddings = check_array(
            received(embeddings), dtype=np.float64, input_name="embeddings"
        )
        n_points = len(embeddings)
        for parameter, values in {"names": names, "groups": groups}.items():
            if values is not None and np.shape(values) != (n_points,):
                raise ValueError(
                    f"{parameter} must have shape {(n_points,)}, got "
                    f"{np.shape(values)}."
                )
        check_whole("n_labels", n_labels, 1)
        if projection not in ("pca", "tsne"):
            raise ValueError(f"projection must be 'pca' or 'tsne', got {projection!r}.")
        if labelled is None:
            lengths = np.linalg.norm(embeddings, axis=1)
            ranking = np.argsort(-lengths, kind="stable")
        else:
            ranking = _indices_of(labelled, names, n_points)
        positions = two_dimensions(embeddings, projection, random_state)
        display = cls(
            positions, names, ranking=ranking, n_labels=n_labels, groups=groups
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the points and as many of the names as there is room for.

        Names do not overlap, so their number depends on the size of the axes.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in, of the size that they are to have, for which the places of
            the names are found; by default those of a new figure.

        Returns
        -------
        EmbeddingDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_embeddings : Make a display of embeddings.

        Examples
        --------
        >>> from skdeepfactor.plotting import EmbeddingDisplay
        >>> display = EmbeddingDisplay([[0, 1], [1, 0]], names=["apple", "train"])
        >>> display.plot()  # doctest: +SKIP
        """
        n_points = len(self.positions)
        style = {"s": min(16.0, max(2.0, 2e4 / n_points)), "linewidths": 0}
        if self.groups is None:
            ax = new_axes(7, 6) if ax is None else ax
            ax.scatter(*self.positions.T, color="#a8c8e4", **style)
        else:
            has_group = np.array([_is_known(group) for group in self.groups])
            groups, of_points = np.unique(self.groups[has_group], return_inverse=True)
            n_columns = max(math.ceil(len(groups) / LEGEND_LINES), 1)
            ax = new_axes(7 + 2 * n_columns, 6) if ax is None else ax
            if not has_group.all():
                ax.scatter(*self.positions[~has_group].T, color="#c8c8c8", **style)
            colors, named = distinct_colors(len(groups)), {}
            for index, (group, color) in enumerate(zip(groups, colors, strict=True)):
                chosen = self.positions[has_group][of_points == index]
                named[str(group)] = ax.scatter(
                    *chosen.T, color=color, alpha=0.5, label=str(group), **style
                )
            if named:
                draw_legend(
                    ax,
                    named,
                    loc="upper left",
                    bbox_to_anchor=(1.01, 1.0),
                    borderaxespad=0,
                    fontsize=FONT_SIZE,
                    markerscale=1.5,
                    ncols=n_columns,
                )
        ax.set_xticks([])
        ax.set_yticks([])
        ax.margins(0.06)
        self.labels_: dict[int, Any] = {}
        if self.names is not None:
            self._place_names(ax)
            # The points that the names belong to.
            points = self.positions[list(self.labels_)]
            ax.scatter(*points.T, s=5, color="#202020", linewidths=0)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _place_names(self, ax):
        """Write names beside their points where nothing is in the way."""
        from matplotlib.patheffects import withStroke

        # The whole figure, also where the axes are in a part of one.
        figure = ax.figure.figure
        # The layout is found now, since places are those of pixels.
        figure.draw_without_rendering()
        points = ax.transData.transform(self.positions)
        per_point = figure.dpi / 72
        margin = NAME_MARGIN * per_point * np.array([-1, -1, 1, 1])
        frame = ax.get_window_extent().padded(-NAME_GAP * per_point)
        names, dots = np.empty((2, 0, 4))
        # Where there is room for few, not all have to be tried.
        for index in self.ranking[: 5 * self.n_labels]:
            if len(self.labels_) == self.n_labels:
                break
            dot = np.tile(points[index], 2) + margin
            if _overlaps(dot, names):
                continue
            label = ax.annotate(
                shortened(str(self.names[index])),
                self.positions[index],
                xytext=(0, 0),
                textcoords="offset points",
                fontsize=FONT_SIZE - 1,
                parse_math=False,
                # Readable on points, too.
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )
            size = np.array(label.get_window_extent().size)
            for place in PLACES:
                # From the corner or edge of the name that is nearest to the point.
                low = points[index] + np.multiply(place, NAME_GAP * per_point)
                low += size * (np.array(place) - 1) / 2
                box = np.concatenate([low, low + size])
                is_inside = (box[:2] >= frame.min).all() and (
                    box[2:] <= frame.max
                ).all()
                if is_inside and not _overlaps(box + margin, np.vstack([names, dots])):
                    break
            else:
                label.remove()
                continue
            x, y = place
            label.set_position((x * NAME_GAP, y * NAME_GAP))
            label.set_horizontalalignment({-1: "right", 0: "center", 1: "left"}[x])
            label.set_verticalalignment({-1: "top", 0: "center", 1: "bottom"}[y])
            names, dots = np.vstack([names, box]), np.vstack([dots, dot])
            self.labels_[int(index)] = label


def _indices_of(labelled, names, n_points):
    """Indices of points that are given by index or by name."""
    labelled = np.atleast_1d(np.asarray(labelled))
    if labelled.dtype.kind in "iu":
        if labelled.size and not 0 <= labelled.min() <= labelled.max() < n_points:
            raise ValueError(
                f"labelled must hold indices from 0 to {n_points - 1}, got "
                f"{labelled.min()} to {labelled.max()}."
            )
        return labelled
    places = {}
    for index, name in enumerate([] if names is None else names):
        places.setdefault(name, []).append(index)
    unknown = [str(name) for name in labelled if name not in places]
    if unknown:
        raise ValueError(
            f"labelled must hold indices or some of names, got {', '.join(unknown)}."
        )
    return np.array([i for name in labelled for i in places[name]], dtype=int)


def _is_known(group):
    """Whether a value is a group, not None, NaN or a missing value of pandas."""
    is_itself = group == group
    return (
        group is not None and isinstance(is_itself, bool | np.bool_) and bool(is_itself)
    )


def _overlaps(box, boxes):
    """Whether a box (left, bottom, right, top) lies on one of several."""
    return bool(((box[:2] < boxes[:, 2:]) & (boxes[:, :2] < box[2:])).all(axis=1).any())
