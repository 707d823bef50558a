"""Displays of fitted models, in the manner of scikit-learn's, and a page of topics.

``from_estimator`` reads a fitted estimator and draws, ``from_search`` a grid search and
``from_embeddings`` an array; the display they return keeps what was drawn, so that
``plot`` can draw it again elsewhere. matplotlib is imported when something is drawn,
and needed for nothing else. :func:`topic_page` writes a page for browsers.
"""

import math
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_array

from skdeepfactor.inspection import reading
from skdeepfactor.plotting import page
from skdeepfactor.plotting.projection import two_dimensions

__all__ = [
    "ComponentSelectionDisplay",
    "EmbeddingDisplay",
    "HierarchyDisplay",
    "TopicsDisplay",
    "TrainingDisplay",
    "TraversalDisplay",
    "UsageDisplay",
    "topic_page",
]

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

# In 1/72 inches: between a point and its name, between two names. Then where a name may
# be, the best place first.
NAME_GAP = 3.0
NAME_MARGIN = 1.5
PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))

# Parameters that say how many components there are.
SIZES = ("n_components", "layer_sizes")

# Values whose largest is this many times the smallest are on a logarithmic axis; labels
# closer than this share of the axis are left out.
LINEAR_SPAN = 8
LABEL_GAP = 0.06

# Inches of units of a layer and of the lines between two; the width of a line in points
# where the share is 1, and the characters that a unit has room for.
UNIT_WIDTH = 2.7
UNIT_PITCH = 0.2
UNIT_CHARACTERS = 32
LINE_LENGTH = 2.0
LINE_WIDTH = 9.0

# Rounds of putting units where the lines come from.
N_ROUNDS = 20

# Inches of a line of a legend, and lines in a column of one.
LEGEND_LINE = 0.17
LEGEND_LINES = 30

# Labels along an axis that have more characters than this stand upright.
MAX_TICK_CHARACTERS = 48


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

        The weights are ``components_`` as they are, in units of their model.

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

        Names stand on the bars, so that long ones take no room from these.

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
        from_estimator : Where displays come from.

        Examples
        --------
        >>> from skdeepfactor.plotting import TopicsDisplay
        >>> names, weights = [["apple", "pear"], ["bus", "tram"]], [[3, 2], [2, 1]]
        >>> TopicsDisplay(names, weights).plot()  # doctest: +SKIP
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

        Several are drawn in one axes: starts or settings of one model on the same rows.

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
        TypeError
            If an estimator has no ``history_``.

        See Also
        --------
        plot : The same in other axes.

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

    def plot(self, *, ax=None):
        """Draw the curves.

        Validation scores stand beside the bounds, on a scale of their own.

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
        from_estimator : Where displays come from.

        Examples
        --------
        >>> from skdeepfactor.plotting import TrainingDisplay
        >>> history = {"lower_bound": [-90.0, -80.0], "seconds": [0.1, 0.1]}
        >>> TrainingDisplay({None: history}).plot()  # doctest: +SKIP
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
        lines = {}
        for axis, (key, label) in zip(axes, panels.items(), strict=True):
            for index, (name, history) in enumerate(self.histories.items()):
                values = history.get(key, [])
                lines[key, name], *_ = axis.plot(
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
        named = {
            str(name): lines["lower_bound", name]
            for name in self.histories
            if name is not None
        }
        if named:
            _draw_legend(axes[0], named, 2 * MAX_CHARACTERS, loc="lower right")
        self.ax_ = axes
        self.figure_ = axes[0].figure
        return self


class ComponentSelectionDisplay:
    """Scores of a grid search for each number of components, with their spread.

    Use :meth:`from_search` to make one.

    Parameters
    ----------
    curves : dict
        For each setting of the other parameters, by name, three sequences of one
        length: numbers of components (or other values), the mean score of each over the
        folds, and its standard deviation. A name may be None, for a curve that needs no
        legend.
    parameter : str, default="n_components"
        What the values are, as the label of the axis.
    score_name : str, default="mean test score"
        What the scores are, as the label of the axis.

    Attributes
    ----------
    curves, parameter, score_name : object
        The parameters.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    UsageDisplay : Which components of one fit are alive.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.datasets import make_poisson_factors
    >>> from skdeepfactor.plotting import ComponentSelectionDisplay
    >>> X = make_poisson_factors(200, 50, 3, random_state=0).data
    >>> model = PoissonFactorization(random_state=0)
    >>> search = GridSearchCV(model, {"n_components": [1, 2, 3, 5, 8]}, cv=3).fit(X)
    >>> display = ComponentSelectionDisplay.from_search(search)  # doctest: +SKIP
    """

    def __init__(
        self, curves, *, parameter="n_components", score_name="mean test score"
    ):
        self.curves = dict(curves)
        self.parameter = parameter
        self.score_name = score_name

    @classmethod
    def from_search(cls, search, *, parameter=None, metric=None, ax=None):
        """Draw the scores of a fitted search.

        Mean scores over folds, with their spread, against the number of components.

        Parameters
        ----------
        search : GridSearchCV or another search with ``cv_results_``
            Fitted. Each setting of its other parameters becomes a curve.
        parameter : str, default=None
            The parameter along the axis. By default the one that is called
            n_components or layer_sizes, in whichever step of a pipeline.
        metric : str, default=None
            Which of several metrics; by default the one that ``refit`` names.
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure.

        Returns
        -------
        display : ComponentSelectionDisplay

        Raises
        ------
        ValueError
            If the parameter or the metric is not one of the search, or more than one
            could be meant.
        TypeError
            If it is not a search.

        See Also
        --------
        plot : The same in other axes.

        Examples
        --------
        >>> from sklearn.model_selection import GridSearchCV
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import ComponentSelectionDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(random_state=0)
        >>> search = GridSearchCV(model, {"n_components": [1, 2]}, cv=2).fit(X)
        >>> ComponentSelectionDisplay.from_search(search)  # doctest: +SKIP
        """
        search, _ = reading.last_step(search)
        results = getattr(search, "cv_results_", None)
        if results is None:
            raise TypeError(
                "ComponentSelectionDisplay needs a fitted search such as GridSearchCV, "
                f"got {type(search).__name__}."
            )
        key = _score_key(search, results, metric)
        candidates = results["params"]
        parameter = _size_parameter(candidates, parameter)
        names = _setting_names(candidates, parameter)
        settings = {}
        scores = zip(
            candidates,
            names,
            results[f"mean_{key}"],
            results[f"std_{key}"],
            strict=True,
        )
        for candidate, name, mean, std in scores:
            if parameter in candidate:
                # Of a candidate that comes again, as with halving, the last score.
                value = candidate[parameter]
                settings.setdefault(name, {})[str(value)] = (value, mean, std)
        curves = {
            name: tuple(zip(*_sorted_values(points.values()), strict=True))
            for name, points in settings.items()
        }
        scoring = metric or search.refit if search.multimetric_ else search.scoring
        score_name = f"mean test {scoring if isinstance(scoring, str) else 'score'}"
        display = cls(
            curves, parameter=parameter.rsplit("__", 1)[-1], score_name=score_name
        )
        return display.plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the curves, with bars of one standard deviation and a star at the best.

        Each setting of the other parameters is a curve.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure.

        Returns
        -------
        ComponentSelectionDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_search : Where displays come from.

        Examples
        --------
        >>> from skdeepfactor.plotting import ComponentSelectionDisplay
        >>> curves = {None: ([2, 4, 8], [-9.0, -8.0, -8.5], [0.2, 0.1, 0.3])}
        >>> ComponentSelectionDisplay(curves).plot()  # doctest: +SKIP
        """
        has_legend = any(name is not None for name in self.curves)
        if ax is None:
            legend_height = LEGEND_LINE * len(self.curves) + 0.6
            ax = _new_axes(7.5 if has_legend else 5, max(legend_height, 3.6))
        values = {str(v): v for curve in self.curves.values() for v in curve[0]}
        ordered = [v for v, *_ in _sorted_values((v,) for v in values.values())]
        is_number = all(isinstance(v, Real) for v in ordered)
        positions = ordered if is_number else list(range(len(ordered)))
        place = dict(zip(map(str, ordered), positions, strict=True))
        best, named = None, {}
        for index, (name, (sizes, means, stds)) in enumerate(self.curves.items()):
            at = [place[str(size)] for size in sizes]
            drawn = ax.errorbar(
                at,
                means,
                yerr=stds,
                marker="o",
                markersize=3,
                capsize=3,
                linewidth=1.2,
                color=f"C{index % 10}",
                linestyle=("-", "--", ":")[index // 10 % 3],
                label=None if name is None else str(name),
            )
            if name is not None:
                named[str(name)] = drawn
            for position, mean in zip(at, means, strict=True):
                if np.isfinite(mean) and (best is None or mean > best[1]):
                    best = position, mean, f"C{index % 10}"
        if best is not None:
            ax.plot(*best[:2], marker="*", markersize=13, color=best[2])
        is_wide = is_number and 0 < min(positions) * LINEAR_SPAN <= max(positions)
        ax.set_xscale("log" if is_wide else "linear")
        chosen = range(len(ordered))
        if is_number:
            places = np.log(positions) if is_wide else np.array(positions, dtype=float)
            chosen = _places_apart(places, positions.index(best[0]) if best else 0)
        labels = [_shortened(str(ordered[index])) for index in chosen]
        is_long = len("".join(labels)) > MAX_TICK_CHARACTERS
        ax.set_xticks(
            [positions[index] for index in chosen],
            labels=labels,
            rotation=90 if is_long else 0,
        )
        ax.minorticks_off()
        ax.set_xlabel(self.parameter)
        ax.set_ylabel(self.score_name)
        ax.grid(alpha=0.3)
        if has_legend:
            # Beside the axes, where no curve can be.
            _draw_legend(
                ax,
                named,
                2 * MAX_CHARACTERS,
                loc="upper left",
                bbox_to_anchor=(1.01, 1.0),
                borderaxespad=0,
                fontsize=FONT_SIZE,
            )
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


class EmbeddingDisplay:
    """Words or rows as points in two dimensions, some of them with their names.

    Names are placed so that none lies on another, and left out where there is no room.
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
    skdeepfactor.inspection.nearest_features : The neighbours of one.

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
        self, positions, names=None, *, ranking=None, n_labels=50, groups=None
    ):
        self.positions = np.asarray(positions, dtype=np.float64)
        n_points = len(self.positions)
        self.names = None if names is None else np.asarray(names, dtype=object)
        self.ranking = np.arange(n_points) if ranking is None else np.asarray(ranking)
        self.n_labels = n_labels
        self.groups = None if groups is None else np.asarray(groups, dtype=object)

    @classmethod
    def from_embeddings(
        cls,
        embeddings,
        *,
        names=None,
        labelled=None,
        n_labels=50,
        groups=None,
        projection="pca",
        random_state=None,
        ax=None,
    ):
        """Draw embeddings, or anything else with a row for each point.

        More than two dimensions are projected, and some of the points named.

        Parameters
        ----------
        embeddings : array-like of shape (n_points, n_dimensions)
            For instance what :func:`~skdeepfactor.inspection.jacobian_embeddings` or
            ``transform`` gives, or transposed ``components_``. Two dimensions are drawn
            as they are, one as a line.
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
            If a parameter is not what it must be, or a name in `labelled` not one of
            `names`.

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
            embeddings, dtype=np.float64, input_name="embeddings", ensure_min_samples=1
        )
        n_points = len(embeddings)
        for parameter, values in {"names": names, "groups": groups}.items():
            if values is not None and np.shape(values) != (n_points,):
                raise ValueError(
                    f"{parameter} must have shape {(n_points,)}, got "
                    f"{np.shape(values)}."
                )
        _check_positive(n_labels=n_labels)
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

    def plot(self, *, ax=None):
        """Draw the points and as many of the names as there is room for.

        No name lies on another: there are as many as the size of the axes has room for.

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
        from_embeddings : Where displays come from.

        Examples
        --------
        >>> from skdeepfactor.plotting import EmbeddingDisplay
        >>> display = EmbeddingDisplay([[0, 1], [1, 0]], names=["apple", "train"])
        >>> display.plot()  # doctest: +SKIP
        """
        n_points = len(self.positions)
        style = {"s": min(16.0, max(2.0, 2e4 / n_points)), "linewidths": 0}
        if self.groups is None:
            ax = _new_axes(7, 6) if ax is None else ax
            ax.scatter(*self.positions.T, color="#a8c8e4", **style)
        else:
            has_group = np.array([_is_known(group) for group in self.groups])
            groups, of_points = np.unique(self.groups[has_group], return_inverse=True)
            n_columns = max(math.ceil(len(groups) / LEGEND_LINES), 1)
            ax = _new_axes(7 + 2 * n_columns, 6) if ax is None else ax
            if not has_group.all():
                ax.scatter(*self.positions[~has_group].T, color="#c8c8c8", **style)
            colors, named = _colors(len(groups)), {}
            for index, (group, color) in enumerate(zip(groups, colors, strict=True)):
                chosen = self.positions[has_group][of_points == index]
                named[str(group)] = ax.scatter(
                    *chosen.T, color=color, alpha=0.5, label=str(group), **style
                )
            if named:
                _draw_legend(
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
        self.labels_ = {}
        if self.names is not None:
            self._place_names(ax)
            # Which points they are the names of.
            named = self.positions[list(self.labels_)]
            ax.scatter(*named.T, s=5, color="#202020", linewidths=0)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _place_names(self, ax):
        """Write names beside their points where nothing is in the way."""
        from matplotlib.patheffects import withStroke

        # Of a part of a figure, the whole.
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
                _shortened(str(self.names[index])),
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


class HierarchyDisplay:
    """Layers of factors as a graph: which units each upper unit is made of.

    The top layer is on the left, the layer at the data on the right. A line is as wide
    as the share of the lower unit in the upper one. Units are put in an order in which
    few lines cross. Use :meth:`from_estimator` to make one.

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
    skdeepfactor.inspection.hierarchy : The same as lists.
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

    def __init__(self, shares, names, *, min_share=0.05):
        self.shares = [np.asarray(layer, dtype=np.float64) for layer in shares]
        self.names = [list(layer) for layer in names]
        self.min_share = min_share

    @classmethod
    def from_estimator(
        cls, estimator, *, feature_names=None, n_top=3, min_share=0.05, ax=None
    ):
        """Draw the layers of a fitted estimator.

        Units are named by their top features, and lines are as wide as their shares, as
        of :func:`~skdeepfactor.inspection.hierarchy`.

        Parameters
        ----------
        estimator : SparseGammaDEF or Pipeline
            Fitted, with two layers or more; of a pipeline, the last step.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default what the steps of the pipeline before the
            last call them, else ``feature_names_in_`` of that last step, else x0, x1,
            ...
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
            If there is one layer alone, or a parameter is not what it must be.
        TypeError
            If the estimator has no layers.

        See Also
        --------
        skdeepfactor.inspection.hierarchy : The same as lists.

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
        _check_positive(n_top=n_top)
        _check_share(min_share=min_share)
        features = reading.feature_names(estimator, profiles[0].shape[1], feature_names)
        names = [
            [
                " ".join(map(str, features[np.argsort(-unit, kind="stable")[:n_top]]))
                for unit in profile
            ]
            for profile in profiles
        ]
        return cls(shares, names, min_share=min_share).plot(ax=ax)

    def plot(self, *, ax=None):
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
        from_estimator : Where displays come from.

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
            ax = _new_canvas(width, height + TITLE_HEIGHT)
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
            colors[self.order_[layer + 1]] = _colors(len(shares))
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
                    _shortened(str(name), UNIT_CHARACTERS),
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


class TraversalDisplay:
    """What a row would be with other factors: a line of pictures for each factor.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    rows : array-like of shape (n_shown, n_values, n_features)
        Expected rows, for each factor shown and each of its values.
    values : array-like of shape (n_shown, n_values)
        The values.
    components : array-like of int of shape (n_shown,)
        The factors.
    image_shape : tuple of int, default=None
        Shape of the features as a grey image, (height, width); by default the rows of a
        factor are the lines of one picture, whose columns are the features.

    Attributes
    ----------
    rows, values, components : ndarray
        The parameters.
    image_shape : tuple of int or None
        The parameter.
    ax_ : ndarray of shape (n_shown,)
        The matplotlib axes, one for each factor.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    skdeepfactor.inspection.traverse : The rows of one factor.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdeepfactor import VariationalAutoencoder
    >>> from skdeepfactor.plotting import TraversalDisplay
    >>> X = load_digits().data
    >>> model = VariationalAutoencoder(4, max_iter=5, random_state=0).fit(X)
    >>> display = TraversalDisplay.from_estimator(
    ...     model, X, image_shape=(8, 8)
    ... )  # doctest: +SKIP
    """

    def __init__(self, rows, values, components, *, image_shape=None):
        self.rows = np.asarray(rows, dtype=np.float64)
        self.values = np.asarray(values, dtype=np.float64)
        self.components = np.asarray(components, dtype=np.intp)
        self.image_shape = image_shape
        if image_shape is None:
            return
        if len(image_shape) != 2:
            raise ValueError(
                f"image_shape must be (height, width), got {tuple(image_shape)}."
            )
        if math.prod(image_shape) != self.rows.shape[2]:
            raise ValueError(
                f"image_shape={tuple(image_shape)} does not hold "
                f"{self.rows.shape[2]} features."
            )

    @classmethod
    def from_estimator(
        cls, estimator, X, *, components=None, n_values=9, image_shape=None, ax=None
    ):
        """Draw the first row of X with other factors.

        Each factor goes from the least to the largest value that it has in the rows of
        X, the others stay what they are in the first.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``transform`` and ``inverse_transform``; of a pipeline, the
            last step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows; for a pipeline, what its first step takes.
        components : array-like of int, default=None
            The factors to be shown; by default those ten, or as many as there are,
            that vary most over the rows.
        n_values : int, default=9
            Number of values of each.
        image_shape : tuple of int, default=None
            Shape of the features as a grey image, (height, width).
        ax : array-like of Axes, default=None
            Axes to draw in, one for each factor shown; by default those of a new figure
            that is large enough.

        Returns
        -------
        display : TraversalDisplay

        Raises
        ------
        ValueError
            If `image_shape` is not that of the features, or a component out of range.
        TypeError
            If the estimator has no ``transform`` or no ``inverse_transform``.

        See Also
        --------
        skdeepfactor.inspection.traverse : The rows of one factor as an array.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import TraversalDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> TraversalDisplay.from_estimator(model, X, n_values=3)  # doctest: +SKIP
        """
        _check_positive(n_values=n_values)
        model, X = reading.last_step(estimator, X)
        factors = reading.factors_of(model, X)
        if components is None:
            components = np.argsort(-factors.var(axis=0), kind="stable")[:10]
        else:
            components = _checked_components(components, factors.shape[1])
        of_shown = factors[:, components]
        values = np.linspace(of_shown.min(axis=0), of_shown.max(axis=0), n_values).T
        rows = [
            reading.rows_with_factor(model, factors[:1], component, of_component)
            for component, of_component in zip(components, values, strict=True)
        ]
        display = cls(rows, values, components, image_shape=image_shape)
        return display.plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the pictures.

        All pictures are on one scale.

        Parameters
        ----------
        ax : array-like of Axes, default=None
            Axes to draw in, one for each factor; by default those of a new figure.

        Returns
        -------
        TraversalDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Where displays come from.

        Examples
        --------
        >>> from skdeepfactor.plotting import TraversalDisplay
        >>> rows = [[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]]
        >>> TraversalDisplay(rows, [[0, 1, 2]], [0]).plot()  # doctest: +SKIP
        """
        n_shown, n_values, _ = self.rows.shape
        if ax is None:
            ax = _new_column(n_shown, self._height(n_values))
        self.ax_ = np.ravel(np.asarray(ax, dtype=object))
        if len(self.ax_) != n_shown:
            raise ValueError(
                f"{n_shown} factors need as many axes, got {len(self.ax_)}."
            )
        low, high = self.rows.min(), self.rows.max()
        for axes, component, rows, values in zip(
            self.ax_, self.components, self.rows, self.values, strict=True
        ):
            picture = rows
            if self.image_shape is not None:
                picture = np.hstack(rows.reshape(n_values, *self.image_shape))
            axes.imshow(
                picture,
                cmap="gray",
                vmin=low,
                vmax=high,
                aspect="auto" if self.image_shape is None else "equal",
                interpolation="nearest",
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_ylabel(
                str(component), rotation=0, ha="right", va="center", fontsize=FONT_SIZE
            )
            axes.set_title(
                f"{values[0]:.2g} to {values[-1]:.2g}",
                fontsize=FONT_SIZE - 1,
                loc="left",
                pad=2,
            )
        self.figure_ = self.ax_[0].figure
        return self

    def _height(self, n_values):
        """Inches of the line of one factor in a figure of the usual width."""
        if self.image_shape is None:
            return max(ROW_HEIGHT * n_values, 0.5)
        height, width = self.image_shape
        return MIN_WIDTH * height / (width * n_values)


class UsageDisplay:
    """Bars that say how much each component is used, and so which are alive.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    usage : array-like of shape (n_components,)
        How much each component is used, not negative.
    name : str, default="usage"
        What that is, as the label of the axis.
    cutoff : float, default=0.0
        Components are alive whose usage is above this.

    Attributes
    ----------
    usage, name, cutoff : object
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

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted
    autoencoders. ICLR.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import UsageDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(8, random_state=0).fit(X)
    >>> display = UsageDisplay.from_estimator(lda, X)  # doctest: +SKIP
    """

    def __init__(self, usage, *, name="usage", cutoff=0.0):
        self.usage = np.asarray(usage, dtype=np.float64)
        self.name = name
        self.cutoff = cutoff
        self.is_alive = self.usage > cutoff

    @classmethod
    def from_estimator(cls, estimator, X, *, threshold=0.01, ax=None):
        """Draw how much rows use the components of a fitted estimator.

        Where neither factors nor ``components_`` have negative entries, the usage of a
        component is its mean share, as of
        :func:`~skdeepfactor.inspection.factor_shares`, over the rows that have any
        factor. Else it is the variance of the factor over rows: near 0 where an
        autoencoder has left a dimension to its prior (Burda et al. count those above
        0.01 as active).

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``components_`` and ``transform``; of a pipeline, the last
            step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows; for a pipeline, what its first step takes.
        threshold : float, default=0.01
            Components are alive whose mean share is above this part of the largest, or
            whose factor has a variance above it, where the prior has one of 1 as in
            NeuralTopicDLGM.
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

        See Also
        --------
        skdeepfactor.inspection.factor_shares : What usage is made of.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import UsageDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> UsageDisplay.from_estimator(model, X)  # doctest: +SKIP
        """
        _check_share(threshold=threshold)
        model, X = reading.last_step(estimator, X)
        weights, are_shares = reading.row_weights(model, X)
        if are_shares:
            n_shown = max(np.count_nonzero(weights.any(axis=1)), 1)
            name, usage = "mean share of a row", weights.sum(axis=0) / n_shown
            scale = usage.max()
        else:
            name, usage, scale = "variance of the factor", weights.var(axis=0), 1.0
        return cls(usage, name=name, cutoff=threshold * scale).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the bars, the component that is used most first.

        Components come in the order of their usage, the largest first.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is wide enough.

        Returns
        -------
        UsageDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Where displays come from.

        Examples
        --------
        >>> from skdeepfactor.plotting import UsageDisplay
        >>> UsageDisplay([0.5, 0.1, 0.4]).plot()  # doctest: +SKIP
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
        figure = ax.figure.figure
        figure.draw_without_rendering()
        inches = ax.get_window_extent().width / figure.dpi
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
            f"{self.cutoff:.2g}",
            fontsize=FONT_SIZE + 1,
            loc="right",
        )
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


def topic_page(estimator, X, *, feature_names=None, texts=None, path):
    r"""Write a page on which topics are looked through, in one file for any browser.

    The page has a map of the topics, the words of the one that is chosen, the rows that
    show it best, a search for words and, of a model with layers such as
    :class:`~skdeepfactor.SparseGammaDEF`, the topics of topics as a tree. It needs no
    network and nothing but the file, which holds of `X` and `texts` what it shows.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``, of any package; of a pipeline,
        the last step.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows; for a pipeline, what its first step takes. What is missing (NaN), where
        the estimator takes that, counts as none.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features, which the page calls words. By default what the steps of
        the pipeline before the last call them, else ``feature_names_in_`` of that last
        step, else x0, x1, ...
    texts : sequence of str of length n_rows, default=None
        What is shown of a row, up to its 400th character; by default the names of the
        features that the row has most of.
    path : str or path-like
        The file, which is replaced if it is there.

    Returns
    -------
    pathlib.Path
        The absolute path of the file.

    Raises
    ------
    ValueError
        If all rows are empty, the number of names is not that of the features, the
        number of texts not that of the rows, or the factors not those of one layer.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    FileNotFoundError
        If the folder of `path` does not exist.
    IsADirectoryError
        If `path` is a folder.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    TopicsDisplay : The largest weights as bars.
    skdeepfactor.inspection.top_rows : The rows that show a component best.
    skdeepfactor.inspection.to_pyldavis : The arguments of pyLDAvis.

    Notes
    -----
    Where neither factors nor ``components_`` have negative entries, the weight of a
    topic is the share of all counts in `X` that comes from it, by the shares of
    :func:`~skdeepfactor.inspection.factor_shares`. The words of topic k come in the
    order of their relevance (Sievert and Shirley),

    .. math::
        \lambda \log \beta_{kv} + (1 - \lambda) \log \frac{\beta_{kv}}{p_v}, \qquad
        p_v = \sum_j \text{weight}_j \, \beta_{jv},

    where :math:`\beta_{kv}` is the probability of word v in the topic and a slider sets
    :math:`\lambda`: at 1 frequent words come first, at 0 those that are found in this
    topic alone.

    Else the weight of a topic is the variance of its factor over the rows. Its words
    are those with the largest and the smallest loadings, as ``components_`` have them:
    what the factor makes more frequent and less frequent. There is no slider.

    Topics are near each other on the map if they have words in common, and moved apart
    as far as to be seen: up to ten by principal components of the square roots of their
    probabilities, more by t-SNE of these, as of :class:`EmbeddingDisplay`. They have
    the numbers of the components.

    References
    ----------
    Sievert, C. and Shirley, K. (2014). LDAvis: a method for visualizing and
    interpreting topics. ACL workshop on interactive language learning, visualization,
    and interfaces.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.plotting import topic_page
    >>> texts = ["red apple", "apple pear pear", "bus train", "tram train train"]
    >>> model = PoissonFactorization(2, random_state=0)
    >>> pipeline = make_pipeline(CountVectorizer(), model).fit(texts)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = topic_page(
    ...         pipeline, texts, texts=texts, path=Path(folder) / "topics.html"
    ...     )
    ...     "tram" in page.read_text(encoding="utf-8")
    True
    """
    path = page.checked_path(path)
    contents = page.page_contents(estimator, X, feature_names, texts)
    # Half of a surrogate pair, as broken texts have, cannot be written.
    path.write_text(page.filled_template(contents), encoding="utf-8", errors="replace")
    return path


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


def _new_column(n_axes, height):
    """Axes of a new figure, one above the other, each of this height in inches."""
    import matplotlib.pyplot as plt

    size = (MIN_WIDTH + 0.6, n_axes * (height + 0.22) + MARGIN)
    _, axes = plt.subplots(n_axes, 1, figsize=size, layout="constrained", squeeze=False)
    return axes[:, 0]


def _new_axes(width, height):
    """The axes of a new figure, of this size in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _new_canvas(width, height):
    """Axes that fill a new figure but for a margin, of this size in inches."""
    import matplotlib.pyplot as plt

    full = width + 2 * MARGIN, height + 2 * MARGIN
    figure = plt.figure(figsize=full)
    return figure.add_axes(
        (MARGIN / full[0], MARGIN / full[1], width / full[0], height / full[1])
    )


def _draw_legend(ax, named, limit=MAX_CHARACTERS, **style):
    """Draw a legend of what is drawn, by name, with the names as they are."""
    # matplotlib leaves out names that start with an underscore, and sets what is
    # between dollars as mathematics.
    legend = ax.legend(list(named.values()), [*map(str, range(len(named)))], **style)
    for text, name in zip(legend.get_texts(), named, strict=True):
        text.set_parse_math(False)
        text.set_text(_shortened(name, limit))


def _few_crossings(links):
    """Orders of the units of all layers, the lowest first, given what is linked.

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
    """Places from 0 to 1 in the order of the mean places of what is linked."""
    n_links = link.sum(axis=1)
    means = np.where(n_links > 0, link @ others / np.maximum(n_links, 1), places)
    spread = np.empty(len(places))
    spread[np.argsort(means, kind="stable")] = (np.arange(len(places)) + 0.5) / len(
        places
    )
    return spread


def _shortened(name, limit=MAX_CHARACTERS):
    """The name, or as much of it as fits."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _score_key(search, results, metric):
    """The end of the names of scores in the results of a search."""
    if not search.multimetric_:
        if metric is not None:
            raise ValueError(f"The search has one metric; metric={metric!r} is none.")
        return "test_score"
    if metric is None:
        metric = search.refit
    if f"mean_test_{metric}" not in results:
        start = "mean_test_"
        known = [key[len(start) :] for key in results if key.startswith(start)]
        raise ValueError(f"metric must be one of {', '.join(known)}, got {metric!r}.")
    return f"test_{metric}"


def _size_parameter(candidates, parameter):
    """The parameter that says how many components there are, if none is given."""
    known = sorted({name for candidate in candidates for name in candidate})
    sizes = [name for name in known if name.rsplit("__", 1)[-1] in SIZES]
    if parameter is None and len(sizes) == 1:
        return sizes[0]
    if parameter not in known:
        raise ValueError(
            f"parameter must be one of {', '.join(known)}, the parameters of the "
            f"search, got {parameter!r}."
        )
    return parameter


def _setting_names(candidates, parameter):
    """A name for each candidate's other parameters, None if there is one setting."""
    known = {name: None for candidate in candidates for name in candidate}
    varied = [
        name
        for name in known
        if name != parameter
        and len({str(candidate.get(name)) for candidate in candidates}) > 1
    ]
    ends = [name.rsplit("__", 1)[-1] for name in varied]
    short = ends if len(set(ends)) == len(ends) else varied
    return [
        ", ".join(
            f"{end}={candidate[name]}"
            for name, end in zip(varied, short, strict=True)
            if name in candidate
        )
        or None
        for candidate in candidates
    ]


def _sorted_values(points):
    """Tuples in the order of their first entries, if these are all numbers."""
    points = list(points)
    if all(isinstance(point[0], Real) for point in points):
        points.sort(key=lambda point: point[0])
    return points


def _places_apart(places, first):
    """Indices of places that are not too near each other: one, the last, the others."""
    span = np.ptp(places) or 1.0
    chosen = []
    for index in (first, len(places) - 1, *range(len(places))):
        gaps = [abs(places[index] - places[other]) for other in chosen]
        if min(gaps, default=span) >= LABEL_GAP * span:
            chosen.append(index)
    return sorted(chosen)


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


def _checked_components(components, n_factors):
    """Indices of factors, of which there must be one or more, all in range."""
    components = np.asarray(components)
    is_list = components.ndim == 1 and components.size > 0
    if (
        not is_list
        or components.dtype.kind not in "iu"
        or not 0 <= components.min() <= components.max() < n_factors
    ):
        raise ValueError(
            f"components must be a list of ints from 0 to {n_factors - 1}, got "
            f"{components.tolist()}."
        )
    return components


def _is_known(group):
    """Whether it is a group, and neither None, NaN nor what pandas has for these."""
    is_itself = group == group
    return (
        group is not None and isinstance(is_itself, bool | np.bool_) and bool(is_itself)
    )


def _colors(n):
    """Colours that differ, as far as so many can."""
    import matplotlib as mpl

    if n <= 10:
        return [f"C{index}" for index in range(n)]
    return list(mpl.colormaps["turbo"](np.linspace(0.02, 0.98, n)))


def _overlaps(box, boxes):
    """Whether a box (left, bottom, right, top) lies on one of several."""
    return bool(((box[:2] < boxes[:, 2:]) & (boxes[:, :2] < box[2:])).all(axis=1).any())


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
