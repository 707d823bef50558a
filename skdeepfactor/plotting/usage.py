"""Bars of how much components are used."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_share
from skdeepfactor.plotting.drawing import FONT_SIZE, MIN_WIDTH, new_axes, shortened

# Inches of a bar with its component below it, and of the widest plot.
BAR_WIDTH = 0.13
MAX_WIDTH = 16.0


class UsageDisplay:
    """Bars that show how much each component is used, and so which are alive.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    usage : array-like of shape (n_components,)
        How much each component is used, not negative.
    name : str, default="usage"
        What that is, as the label of the axis.
    cutoff : float, default=0.0
        Components are alive whose usage is above this.
    labels : array-like of str of shape (n_components,), default=None
        Names of the components; their numbers if None.

    Attributes
    ----------
    usage, name, cutoff, labels : object
        The parameters, the usage as an ndarray, the labels as a list.
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

    def __init__(
        self,
        usage: ArrayLike,
        *,
        name: str = "usage",
        cutoff: float = 0.0,
        labels: ArrayLike | None = None,
    ) -> None:
        self.usage = np.asarray(usage, dtype=np.float64)
        self.name = name
        self.cutoff = cutoff
        if labels is None:
            labels = np.arange(len(self.usage))
        self.labels = [str(label) for label in np.asarray(labels, dtype=object)]
        self.is_alive = self.usage > cutoff

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, threshold: float = 0.01, ax: Any = None
    ) -> Self:
        """Draw how much rows use the components of a fitted estimator.

        If neither factors nor ``components_`` have negative entries, the usage of a
        component is its mean share (:func:`~skdeepfactor.inspection.factor_shares`)
        over the rows that have any factor. Otherwise it is the variance of the factor
        over rows, which is near 0 if an autoencoder leaves a dimension at its prior
        (Burda et al. count dimensions above 0.01 as active).

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``components_`` and ``transform``; of a pipeline, the last
            step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows; for a pipeline, the input of its first step.
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
            If the threshold is not from 0 to below 1, or the factors belong to several
            layers.
        TypeError
            If the estimator has no ``components_`` or no ``transform``.

        See Also
        --------
        skdeepfactor.inspection.factor_shares : The shares that usage averages.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> from skdeepfactor.plotting import UsageDisplay
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> UsageDisplay.from_estimator(model, X)  # doctest: +SKIP
        """
        check_share("threshold", threshold)
        model, X = reading.last_step(estimator, X)
        weights, are_shares = reading.row_weights(model, X)
        if are_shares:
            n_shown = max(np.count_nonzero(weights.any(axis=1)), 1)
            name, usage = "mean share of a row", weights.sum(axis=0) / n_shown
            scale = usage.max()
        else:
            name, usage, scale = "variance of the factor", weights.var(axis=0), 1.0
        labels = reading.component_labels(model, len(usage))
        display = cls(usage, name=name, cutoff=threshold * scale, labels=labels)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the bars, the most used component first.

        Components are sorted by usage.

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
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import UsageDisplay
        >>> UsageDisplay([0.5, 0.1, 0.4]).plot()  # doctest: +SKIP
        """
        n_components = len(self.usage)
        if ax is None:
            width = 1 + BAR_WIDTH * n_components
            ax = new_axes(min(max(width, MIN_WIDTH), MAX_WIDTH), 3.2)
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
        labels = [shortened(self.labels[component]) for component in order[::step]]
        longest = max(map(len, labels))
        is_crowded = n_components * max(longest, 2) * BAR_WIDTH > inches
        ax.set_xticks(
            np.arange(0, n_components, step),
            labels=labels,
            rotation=90 if is_crowded else 0,
            fontsize=FONT_SIZE - 1,
            parse_math=False,
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
