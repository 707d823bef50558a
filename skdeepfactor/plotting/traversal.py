"""Pictures of a row with its factors changed one at a time."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.plotting.drawing import FONT_SIZE, MIN_WIDTH, ROW_HEIGHT, new_column


class TraversalDisplay:
    """Pictures of a row with one factor changed: a line of pictures for each factor.

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

    def __init__(
        self,
        rows: ArrayLike,
        values: ArrayLike,
        components: ArrayLike,
        *,
        image_shape: Sequence[int] | None = None,
    ) -> None:
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
        cls,
        estimator: Any,
        X: Any,
        *,
        components: ArrayLike | None = None,
        n_values: int = 9,
        image_shape: Sequence[int] | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the first row of X with its factors changed.

        Each factor in turn goes from its smallest to its largest value in the rows of
        X, while the others keep their values in the first row.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``transform`` and ``inverse_transform``; of a pipeline, the
            last step.
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Rows; for a pipeline, the input of its first step.
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
            If `image_shape` does not fit the number of features, or a component is out
            of range.
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
        check_whole("n_values", n_values, 1)
        model, X = reading.last_step(estimator, X)
        factors = reading.factors_of(model, X)
        if components is None:
            shown = np.argsort(-factors.var(axis=0), kind="stable")[:10]
        else:
            shown = _checked_components(components, factors.shape[1])
        of_shown = factors[:, shown]
        values = np.linspace(of_shown.min(axis=0), of_shown.max(axis=0), n_values).T
        rows = [
            reading.rows_with_factor(model, factors[:1], component, of_component)
            for component, of_component in zip(shown, values, strict=True)
        ]
        display = cls(rows, values, shown, image_shape=image_shape)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
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
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import TraversalDisplay
        >>> rows = [[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]]
        >>> TraversalDisplay(rows, [[0, 1, 2]], [0]).plot()  # doctest: +SKIP
        """
        n_shown, n_values, _ = self.rows.shape
        if ax is None:
            ax = new_column(n_shown, self._height(n_values))
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
