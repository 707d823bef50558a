"""Scores of a search against the number of components."""

from numbers import Real
from typing import Any, Self

import numpy as np

from skdeepfactor.inspection import reading
from skdeepfactor.plotting.drawing import (
    FONT_SIZE,
    MAX_CHARACTERS,
    distinct_curves,
    draw_legend,
    new_axes,
    shortened,
)

# Parameters that say how many components there are.
SIZES = ("n_components", "layer_sizes")

# Values whose largest is this many times the smallest are on a logarithmic axis; labels
# closer than this share of the axis are left out.
LINEAR_SPAN = 8
LABEL_GAP = 0.06

# Inches of a line of a legend.
LEGEND_LINE = 0.17

# Labels along an axis that have more characters than this stand upright.
MAX_TICK_CHARACTERS = 48


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
        self,
        curves: dict,
        *,
        parameter: str = "n_components",
        score_name: str = "mean test score",
    ) -> None:
        self.curves = dict(curves)
        self.parameter = parameter
        self.score_name = score_name

    @classmethod
    def from_search(
        cls,
        search: Any,
        *,
        parameter: str | None = None,
        metric: str | None = None,
        ax: Any = None,
    ) -> Self:
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
            If the parameter or the metric is not part of the search, or is ambiguous.
        TypeError
            If `search` is not a fitted search.

        See Also
        --------
        plot : Draw in other axes.

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
        settings: dict = {}
        scores = zip(
            candidates,
            names,
            results[f"mean_{key}"],
            results[f"std_{key}"],
            strict=True,
        )
        for candidate, name, mean, std in scores:
            if parameter in candidate:
                # A candidate may come again, as with halving: the last score counts.
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

    def plot(self, *, ax: Any = None) -> Self:
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
        from_search : Make a display of a search.

        Examples
        --------
        >>> from skdeepfactor.plotting import ComponentSelectionDisplay
        >>> curves = {None: ([2, 4, 8], [-9.0, -8.0, -8.5], [0.2, 0.1, 0.3])}
        >>> ComponentSelectionDisplay(curves).plot()  # doctest: +SKIP
        """
        has_legend = any(name is not None for name in self.curves)
        if ax is None:
            legend_height = LEGEND_LINE * len(self.curves) + 0.6
            ax = new_axes(7.5 if has_legend else 5, max(legend_height, 3.6))
        values = {str(v): v for curve in self.curves.values() for v in curve[0]}
        ordered = [v for v, *_ in _sorted_values((v,) for v in values.values())]
        is_number = all(isinstance(v, Real) for v in ordered)
        positions = ordered if is_number else list(range(len(ordered)))
        place = dict(zip(map(str, ordered), positions, strict=True))
        best, named = None, {}
        styles = distinct_curves(len(self.curves))
        for (name, (sizes, means, stds)), style in zip(
            self.curves.items(), styles, strict=True
        ):
            at = [place[str(size)] for size in sizes]
            drawn = ax.errorbar(
                at,
                means,
                yerr=stds,
                markersize=3,
                capsize=3,
                linewidth=1.2,
                **style,
                label=None if name is None else str(name),
            )
            if name is not None:
                named[str(name)] = drawn
            for position, mean in zip(at, means, strict=True):
                if np.isfinite(mean) and (best is None or mean > best[1]):
                    best = position, mean, style["color"]
        if best is not None:
            ax.plot(*best[:2], marker="*", markersize=13, color=best[2])
        is_wide = is_number and 0 < min(positions) * LINEAR_SPAN <= max(positions)
        ax.set_xscale("log" if is_wide else "linear")
        chosen = range(len(ordered))
        if is_number:
            places = np.log(positions) if is_wide else np.array(positions, dtype=float)
            chosen = _places_apart(places, positions.index(best[0]) if best else 0)
        labels = [shortened(str(ordered[index])) for index in chosen]
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
            draw_legend(
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


def _score_key(search, results, metric):
    """Suffix of the names of scores in the results of a search."""
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
    """The given parameter, or else the one that sets the number of components."""
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
