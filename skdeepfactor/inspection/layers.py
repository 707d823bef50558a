"""Topics of topics, for models with layers of factors."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole


def hierarchy(
    estimator: Any, feature_names: ArrayLike | None = None, n: int = 5
) -> list[dict]:
    r"""Show topics of topics: the units below each unit of the top layer.

    A unit of layer l stands for an expected row: its weights times those of the layers
    below. Units of layer l - 1 contribute to it with the shares

    .. math::
        \text{share}_{jk} = \frac{W_{jk} s_k}{\sum_i W_{ji} s_i},

    where :math:`s_k` is the total of the expected row of unit k. The shares do not
    change when the scale of a unit is moved from its weights to those of the units
    above.

    Parameters
    ----------
    estimator : SparseGammaDEF, PoissonGammaBeliefNetwork or Pipeline
        Fitted; of a pipeline, the last step.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default the names from the earlier steps of the
        pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
    n : int, default=5
        Number of units below shown of each unit, and of features; all of them if there
        are fewer.

    Returns
    -------
    list of dict
        The units of the top layer. Each has its ``"layer"`` (1 at the data), its
        ``"unit"`` (from 0), the ``"features"`` that its expected row has most of, a
        list of str, and ``"units"``: those of the layer below with the largest shares,
        the largest first, each a dict like it with its ``"share"``. A unit can be in
        several units above it. ``print`` shows the list as an outline.

    Raises
    ------
    ValueError
        If `n` is not a positive int or the number of names not that of the features.
    TypeError
        If the estimator has no layers.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    skdeepfactor.plotting.HierarchyDisplay : The same as a graph.

    Examples
    --------
    >>> from skdeepfactor import SparseGammaDEF
    >>> from skdeepfactor.inspection import hierarchy
    >>> X = [[8, 8, 0, 0, 0, 0], [0, 0, 4, 4, 0, 0], [0, 0, 0, 0, 9, 9]] * 20
    >>> model = SparseGammaDEF((3, 1), init="kmeans", max_iter=50, random_state=0)
    >>> names = ["apple", "pear", "tram", "train", "red", "blue"]
    >>> units = hierarchy(model.fit(X), names, n=2)
    >>> [sorted(unit["features"]) for unit in units[0]["units"]]
    [['blue', 'red'], ['apple', 'pear']]
    """
    model, _ = reading.last_step(estimator)
    profiles, shares = reading.layer_profiles(model), reading.layer_shares(model)
    check_whole("n", n, 1)
    names = reading.feature_names(estimator, profiles[0].shape[1], feature_names)

    def described(layer, unit):
        top = np.argsort(-profiles[layer][unit], kind="stable")[:n]
        below = []
        if layer > 0:
            parts = shares[layer - 1][unit]
            below = [
                {"share": float(parts[part]), **described(layer - 1, int(part))}
                for part in np.argsort(-parts, kind="stable")[:n]
            ]
        return {
            "layer": layer + 1,
            "unit": unit,
            "features": names[top].tolist(),
            "units": below,
        }

    top = len(profiles) - 1
    return _Outline(described(top, unit) for unit in range(len(profiles[top])))


class _Outline(list):
    """A list of units that prints as an indented outline."""

    def __str__(self):
        return "\n".join(self._lines(self, ""))

    def _lines(self, units, indent):
        for unit in units:
            share = f"{unit['share']:4.0%} " if "share" in unit else ""
            place = f"unit {unit['unit']} of layer {unit['layer']}"
            yield f"{indent}{share}{place}: {' '.join(map(str, unit['features']))}"
            yield from self._lines(unit["units"], indent + "  ")
