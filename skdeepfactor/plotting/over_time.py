"""Curves of the shares of topics over time."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading, topics_over_time
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.plotting.drawing import MAX_CHARACTERS, draw_curves, new_axes


class TopicsOverTimeDisplay:
    """Curves of the shares of some topics over time.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    times : array-like of shape (n_slices,)
        Numbers or dates, in order.
    shares : array-like of shape (n_slices, n_shown)
        Shares of the topics shown.
    names : array-like of str of shape (n_shown,)
        What the legend says of them.
    label : str, default="share of all words"
        What the shares are, as the label of the axis.

    Attributes
    ----------
    times, shares, names, label : object
        The parameters, the first three as ndarrays.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    TopicsPerGroupDisplay : The shares in groups of rows.
    skdeepfactor.inspection.topics_over_time : The shares as a table, with words.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import TopicsOverTimeDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(3, random_state=0).fit(X)
    >>> years = [1990 + index // 10 for index in range(200)]
    >>> TopicsOverTimeDisplay.from_estimator(lda, X, years)  # doctest: +SKIP
    """

    def __init__(
        self,
        times: ArrayLike,
        shares: ArrayLike,
        names: ArrayLike,
        *,
        label: str = "share of all words",
    ) -> None:
        self.times = np.asarray(times)
        self.shares = np.asarray(shares, dtype=np.float64)
        self.names = np.asarray(names, dtype=object)
        self.label = label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        times: ArrayLike,
        *,
        n_bins: int | None = None,
        components: ArrayLike | None = None,
        n_components: int = 6,
        feature_names: ArrayLike | None = None,
        ax: Any = None,
        **side: Any,
    ) -> Self:
        """Draw how much rows of each time are about the topics of a fitted estimator.

        Topics are called by the names that were given to them, or else by their numbers
        and three top words.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``components_`` and ``transform``; of a pipeline, the last
            step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows; for a pipeline, the input of its first step.
        times : array-like of shape (n_rows,)
            The time of each row: numbers, datetimes or ISO strings, as for
            :func:`~skdeepfactor.inspection.topics_over_time`.
        n_bins : int, default=None
            Number of intervals of equal length; by default each distinct time is a
            point.
        components : array-like of int, default=None
            The topics shown; by default those whose shares change most.
        n_components : int, default=6
            Number of topics shown if `components` is None.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default the names from the earlier steps of the
            pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure.
        **side : array-like of shape (n_rows, ...)
            Further arguments of the estimator's ``transform`` with an entry for each
            row, by name, such as ``covariates``.

        Returns
        -------
        display : TopicsOverTimeDisplay

        Raises
        ------
        ValueError
            If `times` are of the wrong length, missing or neither numbers nor dates, a
            number is not a positive integer, or a topic does not exist.
        TypeError
            If the estimator has no ``components_`` or no ``transform``.

        See Also
        --------
        skdeepfactor.inspection.topics_over_time : The shares as a table.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import TopicsOverTimeDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> years = ["2001", "2002", "2001", "2003"]
        >>> TopicsOverTimeDisplay.from_estimator(model, X, years)  # doctest: +SKIP
        """
        check_whole("n_components", n_components, 1)
        topics = topics_over_time(
            estimator, X, times, n_bins=n_bins, feature_names=feature_names, **side
        )
        if components is None:
            changes = np.ptp(topics.shares, axis=0)
            components = np.sort(np.argsort(-changes, kind="stable")[:n_components])
        components = chosen_components(components, topics.shares.shape[1])
        label = "share of all words" if topics.words is not None else "mean factor"
        names = topic_names(estimator, components, feature_names)
        display = cls(topics.times, topics.shares[:, components], names, label=label)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the curves, with a point for each time.

        The legend stands beside the axes, where it hides no curve.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure.

        Returns
        -------
        TopicsOverTimeDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import TopicsOverTimeDisplay
        >>> shares = [[0.3, 0.7], [0.6, 0.4]]
        >>> display = TopicsOverTimeDisplay([1990, 2000], shares, ["pop", "rock"])
        >>> display.plot()  # doctest: +SKIP
        """
        if ax is None:
            ax = new_axes(7.5, 3.6)
        draw_curves(ax, self.times, self.shares, self.names, 2 * MAX_CHARACTERS)
        if self.shares.min() >= 0:
            ax.set_ylim(bottom=0)
        ax.set_ylabel(self.label)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


def chosen_components(components, n_components):
    """Indices of components to show, as an array of ints in their range."""
    components = list(np.ravel(np.asarray(components)))
    for component in components:
        check_whole("components", component, 0, n_components - 1)
    return np.array(components, dtype=np.intp)


def topic_names(estimator, components, feature_names=None, n_words=3):
    """Numbers and top words of topics, or the names that they were given."""
    model, _ = reading.last_step(estimator)
    loadings = reading.components_of(model)
    known = reading.known_component_names(model, len(loadings))
    if known is not None:
        return [str(known[component]) for component in components]
    if reading.has_layers_above(model):
        loadings = reading.factor_profiles(model)
    names = reading.feature_names(estimator, loadings.shape[1], feature_names)
    top = np.argsort(-loadings[components], axis=1, kind="stable")[:, :n_words]
    return [
        f"{component} · {' '.join(map(str, names[features]))}"
        for component, features in zip(components, top, strict=True)
    ]
