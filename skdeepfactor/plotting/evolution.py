"""Curves of the shares of words in topics that change."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.inspection.evolution import changing
from skdeepfactor.plotting.drawing import draw_curves, new_axes


class TopicEvolutionDisplay:
    """Curves of the shares of some words in a topic, or in all topics, over time.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    times : array-like of shape (n_slices,)
        Numbers or dates, in order.
    shares : array-like of shape (n_slices, n_words)
        Shares of the words.
    words : array-like of str of shape (n_words,)
        The words.
    title : str, default=""
        Title of the axes: the topic whose words these are.

    Attributes
    ----------
    times, shares, words, title : object
        The parameters, the first three as ndarrays.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    TopicsOverTimeDisplay : Shares of topics, of any model.
    skdeepfactor.inspection.topic_evolution : Words that rise and fall, as lists.

    Examples
    --------
    >>> from skdeepfactor import DynamicTopicModel
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.plotting import TopicEvolutionDisplay
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> years = [1990 + index // 40 for index in range(200)]
    >>> model = DynamicTopicModel(3, random_state=0).fit(X, times=years)
    >>> TopicEvolutionDisplay.from_estimator(model, 0)  # doctest: +SKIP
    """

    def __init__(
        self, times: ArrayLike, shares: ArrayLike, words: ArrayLike, *, title: str = ""
    ) -> None:
        self.times = np.asarray(times)
        self.shares = np.asarray(shares, dtype=np.float64)
        self.words = np.asarray(words, dtype=object)
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        component: int | None = None,
        *,
        words: ArrayLike | None = None,
        n_words: int = 6,
        feature_names: ArrayLike | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the words of a topic over time.

        Each curve is the share of a word in the topic, slice by slice.

        Parameters
        ----------
        estimator : DynamicTopicModel or Pipeline
            Fitted, with ``topics_over_time_``; of a pipeline, the last step.
        component : int, default=None
            The topic; None for all topics together, each with its prevalence.
        words : list of str, default=None
            Words to show; by default those that rise and fall most, half of each.
        n_words : int, default=6
            Number of words if `words` is None.
        feature_names : array-like of str of shape (n_features,), default=None
            Names of the features. By default the names from the earlier steps of the
            pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure.

        Returns
        -------
        display : TopicEvolutionDisplay

        Raises
        ------
        ValueError
            If the topic or a word does not exist, or `n_words` is not a positive
            integer.
        TypeError
            If the estimator has no ``topics_over_time_``.

        See Also
        --------
        skdeepfactor.inspection.topic_evolution : Words that rise and fall, as lists.

        Examples
        --------
        >>> import numpy as np
        >>> from skdeepfactor import DynamicTopicModel
        >>> from skdeepfactor.plotting import TopicEvolutionDisplay
        >>> X = np.repeat([[9, 5, 1], [9, 1, 5]], 10, axis=0)
        >>> years = np.repeat([2001, 2002], 10)
        >>> model = DynamicTopicModel(1, chain_variance=1.0).fit(X, times=years)
        >>> TopicEvolutionDisplay.from_estimator(model, 0)  # doctest: +SKIP
        """
        check_whole("n_words", n_words, 1)
        model, _ = reading.last_step(estimator)
        topics, times, prevalence = reading.evolution_of(model)
        _, n_components, n_features = topics.shape
        names = reading.feature_names(estimator, n_features, feature_names)
        if component is None:
            shares = np.einsum("tk,tkv->tv", prevalence, topics)
            title = "all topics"
        else:
            check_whole("component", component, 0, n_components - 1)
            shares = topics[:, component].astype(np.float64)
            title = reading.component_labels(model, n_components, "topic ")[component]
        if words is not None:
            places = reading.places_of(words, names)
        else:
            places = changing(shares[0], shares[-1], n_words)
        words = [str(name) for name in names[places]]
        return cls(times, shares[:, places], words, title=title).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the curves, with a point for each time.

        The legend stands beside the axes, where it hides no curve.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure.

        Returns
        -------
        TopicEvolutionDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import TopicEvolutionDisplay
        >>> shares = [[0.03, 0.01], [0.02, 0.04]]
        >>> display = TopicEvolutionDisplay([1990, 2000], shares, ["tape", "disc"])
        >>> display.plot()  # doctest: +SKIP
        """
        if ax is None:
            ax = new_axes(7.5, 3.6)
        draw_curves(ax, self.times, 100 * self.shares, self.words)
        ax.set_ylim(bottom=0)
        ax.set_ylabel("% of the words")
        ax.set_title(self.title, fontsize="medium", parse_math=False)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self
