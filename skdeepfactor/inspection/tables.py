"""Tables of the features of factors and of the factors of rows."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole

ORDERS = ("probability", "lift", "frex", "loading")


def top_features(
    estimator: Any,
    n: int = 10,
    feature_names: ArrayLike | None = None,
    by: str = "probability",
) -> Any:
    r"""Name the features that characterize each component best.

    With :math:`\beta_{kv}` the probability of feature v in component k, which is
    ``components_`` with rows that sum to 1, the features come in the order of

    .. math::
        \text{probability}_{kv} = \beta_{kv}, \qquad
        \text{lift}_{kv} = \frac{\beta_{kv}}{\frac{1}{K} \sum_j \beta_{jv}}, \qquad
        \text{FREX}_{kv} = \bigg(\frac{1/2}{F_k(\beta_{kv} / \sum_j \beta_{jv})}
        + \frac{1/2}{G_k(\beta_{kv})}\bigg)^{-1},

    where :math:`F_k` and :math:`G_k` are ranks within the component: the shares of the
    features whose value is at most as large. Probability favours features that are
    frequent anywhere; lift favours those found in this component alone, however rare;
    FREX (frequent and exclusive) favours those that are both.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_``; of a pipeline, the last step.
    n : int, default=10
        Number of features of each component; all of them if there are fewer.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default the names from the earlier steps of the
        pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
    by : {"probability", "lift", "frex", "loading"}, default="probability"
        Measure by which the features are chosen. The first three need
        ``components_`` without negative entries. ``"loading"`` takes the entries as
        they are, and so also those of models whose components are signed, such as
        NeuralTopicDLGM: the features that the factor makes more frequent.

    Returns
    -------
    DataFrame or list of lists of str
        The names, one row for each component, the best feature first; ties keep their
        order. A data frame if pandas is installed, with the component as index and
        ranks from 1 on as columns.

    Raises
    ------
    ValueError
        If ``components_`` has negative entries and `by` is not ``"loading"``, or a
        parameter is invalid.
    TypeError
        If the estimator has no ``components_``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    top_rows : The rows that represent a component best.
    skdeepfactor.plotting.TopicsDisplay : The largest weights as bars.

    Notes
    -----
    Components without any weight have no probabilities, so 0 is used.

    References
    ----------
    Bischof, J. and Airoldi, E. (2012). Summarizing topical content with word frequency
    and exclusivity. ICML 29.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import top_features
    >>> X = [[8, 4, 4, 0, 0], [6, 0, 0, 3, 3], [4, 2, 2, 0, 0], [8, 0, 0, 4, 4]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> names = ["the", "apple", "pear", "tram", "train"]
    >>> for features in np.asarray(top_features(nmf, 2, names)):
    ...     print(*features)
    the tram
    the apple
    >>> for features in np.asarray(top_features(nmf, 2, names, by="lift")):
    ...     print(*features)
    tram train
    apple pear
    """
    model, _ = reading.last_step(estimator)
    components = reading.components_of(model)
    check_whole("n", n, 1)
    if by not in ORDERS:
        raise ValueError(f"by must be one of {', '.join(ORDERS)}, got {by!r}.")
    names = reading.feature_names(estimator, components.shape[1], feature_names)
    if by == "loading":
        scores = components
    elif components.min() < 0:
        raise ValueError(
            f"by={by!r} needs components_ without negative entries, but the smallest "
            f"of {type(model).__name__} is {components.min():.3g}; by='loading' takes "
            "them as they are."
        )
    else:
        scores = _feature_scores(reading.shares_of(components), by)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    return _table(names[top], reading.known_component_names(model, len(components)))


def top_rows(
    estimator: Any, X: Any, component: int, n: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    r"""Find the rows that represent a component best.

    If neither factors nor ``components_`` have negative entries, these are the rows of
    which the component explains the largest share, as computed by
    :func:`factor_shares`; otherwise they are the rows with the largest factor.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``; of a pipeline, the last step.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows to choose from; for a pipeline, the input of its first step.
    component : int
        The component: its column in the output of ``transform``, from 0 on.
    n : int, default=10
        Number of rows; all of them if there are fewer.

    Returns
    -------
    indices : ndarray of shape (n,)
        Indices of the rows, the best one first; ties keep their order.
    weights : ndarray of shape (n,), float64
        Their shares, between 0 and 1, or their factors.

    Raises
    ------
    ValueError
        If `component` or `n` is out of range, or the factors belong to several layers.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    top_features : The features that characterize each component best.
    factor_shares : The shares of all components.

    Notes
    -----
    A row of three words may well belong to one topic entirely, so short rows are often
    among the best. Leave them out of `X` to see longer ones.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import top_rows
    >>> X = [[8, 4, 4, 0, 0], [4, 1, 1, 1, 1], [8, 0, 0, 4, 4], [2, 0, 0, 1, 1]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> indices, weights = top_rows(nmf, X, 1, n=2)
    >>> indices
    array([0, 1])
    >>> weights.round(1)
    array([1. , 0.5])
    """
    model, X = reading.last_step(estimator, X)
    weights, _ = reading.row_weights(model, X)
    check_whole("component", component, 0, weights.shape[1] - 1)
    check_whole("n", n, 1)
    weights = weights[:, component]
    indices = np.argsort(-weights, kind="stable")[:n]
    return indices, weights[indices]


def find_components(
    estimator: Any,
    words: Any,
    *,
    n: int | None = None,
    feature_names: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Rank components by how much they are about some features.

    If ``components_`` has no negative entries, the score of a component k is the mean
    over the features v of the probability that a v is from k, all components being
    equally frequent:

    .. math::
        \text{score}_k = \frac1n \sum_v \frac{\beta_{kv}}{\sum_j \beta_{jv}},

    where :math:`\beta` is ``components_`` with rows that sum to 1. Otherwise it is the
    mean of their loadings in a component of length 1.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_``; of a pipeline, the last step.
    words : str or list of str
        Names of features.
    n : int, default=None
        Number of components, the first ones; all if None.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default the names from the earlier steps of the
        pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...

    Returns
    -------
    indices : ndarray of shape (n,)
        Indices of the components, the best one first; ties keep their order.
    scores : ndarray of shape (n,), float64
        Their scores. If no component has a negative entry, those of all sum to 1.

    Raises
    ------
    ValueError
        If a word is no feature, there is none, `n` is not a positive integer, or the
        number of names is wrong.
    TypeError
        If the estimator has no ``components_``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    top_features : The features that characterize each component best.
    top_rows : The rows that represent a component best.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import find_components
    >>> X = [[8, 4, 4, 0, 0], [6, 0, 0, 3, 3], [4, 2, 2, 0, 0], [8, 0, 0, 4, 4]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> names = ["the", "apple", "pear", "tram", "train"]
    >>> indices, scores = find_components(nmf, "pear", feature_names=names)
    >>> indices, scores.round(2)
    (array([1, 0]), array([1., 0.]))
    >>> find_components(nmf, ["apple", "tram"], feature_names=names)[1].round(2)
    array([0.5, 0.5])
    """
    model, _ = reading.last_step(estimator)
    components = reading.components_of(model)
    if n is not None:
        check_whole("n", n, 1)
    names = reading.feature_names(estimator, components.shape[1], feature_names)
    places = reading.places_of(words, names)
    if components.min() < 0:
        scores = reading.directions_of(components)[:, places].mean(axis=1)
    else:
        used = reading.shares_of(components)[:, places]
        scores = reading.shares_of(used.T).mean(axis=0)
    indices = np.argsort(-scores, kind="stable")[:n]
    return indices, scores[indices]


def factor_shares(estimator: Any, X: Any) -> np.ndarray:
    r"""Share out the expected total of each row among its factors.

    With factors z and components w, the expected total of a row is :math:`\sum_k z_k
    \sum_v w_{kv}`, of which factor k contributes

    .. math::
        \text{share}_k = \frac{z_k \sum_v w_{kv}}{\sum_j z_j \sum_v w_{jv}}.

    The shares do not change when a factor is multiplied and its component divided by
    the same number, which leaves models such as NMF unchanged. If factors are
    proportions of topics, as in latent Dirichlet allocation, the shares are these
    proportions.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``; of a pipeline, the last step.
        For a SparseGammaDEF, shares are those of the units of ``transform_layer``.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows; for a pipeline, the input of its first step.

    Returns
    -------
    ndarray of shape (n_rows, n_components), float64
        The shares. Rows sum to 1, except rows whose factors are all zero, as empty rows
        can have: their shares are zero too.

    Raises
    ------
    ValueError
        If a factor or a component has a negative entry, or the factors belong to
        several layers.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    top_rows : The rows that represent a component best.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import factor_shares
    >>> X = [[8, 4, 4, 0, 0], [4, 1, 1, 1, 1], [8, 0, 0, 4, 4], [2, 0, 0, 1, 1]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> factor_shares(nmf, X).round(1)
    array([[0. , 1. ],
           [0.5, 0.5],
           [1. , 0. ],
           [1. , 0. ]])
    """
    model, X = reading.last_step(estimator, X)
    components = reading.components_of(model)
    factors = reading.factors_of(model, X)
    smallest = min(components.min(), factors.min())
    if smallest < 0:
        raise ValueError(
            "Shares need factors and components_ without negative entries, but "
            f"{type(model).__name__} has {smallest:.3g}."
        )
    return reading.expected_shares(model, factors)


def _feature_scores(probabilities, by):
    """Keys to sort features by, each (n_components, n_features)."""
    if by == "probability":
        return probabilities
    exclusivity = reading.shares_of(probabilities.T).T
    if by == "lift":
        return exclusivity * len(probabilities)
    # Ranks are numbers from 1 on, so that nothing is divided by zero.
    ranks = [
        rankdata(values, method="max", axis=1)
        for values in (exclusivity, probabilities)
    ]
    return 2 / (1 / ranks[0] + 1 / ranks[1]) / probabilities.shape[1]


def _table(names, of_components=None):
    """A data frame of names if pandas is installed, else lists."""
    try:
        import pandas as pd
    except ImportError:
        return names.tolist()
    n_components, n_top = names.shape
    return pd.DataFrame(
        names,
        index=pd.RangeIndex(n_components, name="component")
        if of_components is None
        else pd.Index(of_components, name="component"),
        columns=pd.RangeIndex(1, n_top + 1, name="rank"),
    )
