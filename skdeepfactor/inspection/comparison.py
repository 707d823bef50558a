"""Similarity of the components of fits, and their sparsity."""

import itertools
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.utils import check_array

from skdeepfactor._input import received
from skdeepfactor.inspection import reading


def match_components(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Pair the components of two fits.

    Each component of one is paired with one of the other, so that the sum of the
    cosines of the pairs,

    .. math:: \cos(u, v) = \frac{u^T v}{\|u\| \|v\|},

    is as large as it can be (by the Hungarian method). If components have negative
    entries, as NeuralTopicDLGM and principal components do, the sum is that of the
    absolute values, since a factor and its negative are equivalent.

    Parameters
    ----------
    a, b : estimator, Pipeline or array-like of shape (n_components, n_features)
        Fitted, with ``components_``; of a pipeline, the last step. Or components, for
        instance the planted ones of ``datasets.make_topics``. Features are the same, in
        the same order; the numbers of components may differ.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2)
        Indices of the components of `a`, in ascending order, and of `b`; as many as the
        one with fewer components has.
    cosines : ndarray of shape (n_pairs,), float64
        Their cosines, 0 for a component of zeros.

    Raises
    ------
    ValueError
        If the numbers of features differ, or their names, where both are known.
    TypeError
        If an estimator has no ``components_``.
    sklearn.exceptions.NotFittedError
        If an estimator is not fitted, which is a ValueError too.

    See Also
    --------
    stability : Similarity of the components of several fits.

    Examples
    --------
    >>> from skdeepfactor.inspection import match_components
    >>> planted = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    >>> found = [[0.0, 0.0, 3.0, 3.0], [1.0, 0.0, 0.0, 0.0], [5.0, 5.0, 0.0, 0.0]]
    >>> pairs, cosines = match_components(planted, found)
    >>> pairs
    array([[0, 2],
           [1, 0]])
    >>> cosines.round(3)
    array([1., 1.])
    """
    (first, first_names), (second, second_names) = map(_named_components, (a, b))
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            "The components must have the same features, but have "
            f"{first.shape[1]} and {second.shape[1]}."
        )
    is_named = first_names is not None and second_names is not None
    if is_named and not np.array_equal(first_names, second_names):
        raise ValueError(
            "The components must have the same features in the same order, but their "
            "names differ."
        )
    cosines = (reading.directions_of(first) @ reading.directions_of(second).T).clip(
        -1, 1
    )
    is_signed = min(first.min(), second.min()) < 0
    pairs = np.stack(
        linear_sum_assignment(np.abs(cosines) if is_signed else cosines, maximize=True),
        axis=1,
    )
    return pairs, cosines[tuple(pairs.T)]


def stability(estimators: Any) -> float:
    r"""Measure how similar the components of several fits are.

    The components of each two fits are paired by :func:`match_components`; the
    stability is the mean over all pairs of fits of the mean cosine of their pairs of
    components,

    .. math::
        \frac{2}{S (S - 1)} \sum_{s < t} \frac{1}{|M_{st}|} \sum_{(j, k) \in M_{st}}
        \cos(w^s_j, w^t_k),

    or of its absolute value if components are signed. For fits that differ in their
    seed alone, it shows how much of the result depends on the start.

    Parameters
    ----------
    estimators : sequence of estimators, Pipelines or arrays
        Two or more fits, each an input of :func:`match_components`.

    Returns
    -------
    float
        1 if all fits found the same components. Features that are frequent in all
        components make every cosine positive, so fits with nothing in common do not
        reach 0. Compare values for the same features only.

    Raises
    ------
    ValueError
        If there are fewer than two fits, or their features differ.
    TypeError
        If an estimator has no ``components_``.

    See Also
    --------
    match_components : The pairs themselves.

    Notes
    -----
    Greene et al. compare ranked lists of top features pair by pair in the same way;
    cosines take all weights into account.

    References
    ----------
    Greene, D., O'Callaghan, D. and Cunningham, P. (2014). How many topics? Stability
    analysis for topic models. ECML PKDD.

    Examples
    --------
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.inspection import stability
    >>> X = make_topics(300, 60, 4, random_state=0).data
    >>> fits = [PoissonFactorization(4, random_state=seed).fit(X) for seed in range(3)]
    >>> bool(stability(fits) > 0.9)
    True
    """
    estimators = list(estimators)
    if len(estimators) < 2:
        raise ValueError(
            f"stability needs two or more fitted estimators, got {len(estimators)}."
        )
    means = [
        np.abs(match_components(a, b)[1]).mean()
        for a, b in itertools.combinations(estimators, 2)
    ]
    return float(np.mean(means))


def sparsity(weights: ArrayLike, threshold: float = 0.01) -> float:
    r"""Share of the weights that are negligible in their component.

    .. math::
        \frac{1}{K V} \Big|\Big\{(k, v) : |w_{kv}| \le
        \epsilon \max_u |w_{ku}|\Big\}\Big|

    A component is measured by its own largest weight, since the scale of components is
    arbitrary in many models.

    Parameters
    ----------
    weights : array-like of shape (n_components, n_features)
        Weights: ``components_``, or those of an upper layer in ``weights_`` of
        SparseGammaDEF.
    threshold : float, default=0.01
        The epsilon, from 0, which counts the weights that are zero exactly, to 1.

    Returns
    -------
    float
        Between 0 and 1; 0 where no weight is small, 1 where all are zero.

    Raises
    ------
    ValueError
        If the weights are not a two-dimensional array of finite numbers, or the
        threshold is not between 0 and 1.

    See Also
    --------
    skdeepfactor.SparseGammaDEF : Its ``sparsity_`` is measured by feature.

    Examples
    --------
    >>> from skdeepfactor.inspection import sparsity
    >>> sparsity([[100.0, 1.0, 0.5, 0.0], [0.001, 0.0005, 0.0, 0.0]])
    0.625
    >>> sparsity([[100.0, 1.0, 0.5, 0.0], [0.001, 0.0005, 0.0, 0.0]], threshold=0)
    0.375
    """
    weights = check_array(received(weights), dtype=np.float64, input_name="weights")
    weights = np.abs(weights)
    if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold must be a number between 0 and 1, got {threshold!r}."
        )
    return float(np.mean(weights <= threshold * weights.max(axis=1, keepdims=True)))


def _named_components(fit):
    """Components of an estimator and names of their features; an array has none."""
    if not reading.is_estimator(fit):
        components = check_array(
            received(fit), dtype=np.float64, input_name="components"
        )
        return components, None
    model, _ = reading.last_step(fit)
    return reading.components_of(model), reading.known_feature_names(fit)
