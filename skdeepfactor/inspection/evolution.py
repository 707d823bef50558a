"""How topics change, for models whose topics do."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole


def topic_evolution(
    estimator: Any, *, n_top: int = 10, feature_names: ArrayLike | None = None
) -> Any:
    r"""Top words of topics in slices of time, and words that rise and fall in them.

    Words rise by :math:`\beta_{Tv} \log (\beta_{Tv} / \beta_{1v})` from the first slice
    to the last, and fall by the same with the slices exchanged: the terms of the
    Kullback-Leibler divergences of the two. Frequent words that change a little thus
    count as much as rare ones that change much.

    Parameters
    ----------
    estimator : DynamicTopicModel or Pipeline
        Fitted, with ``topics_over_time_``; of a pipeline, the last step.
    n_top : int, default=10
        Number of words of each kind; fewer if a topic has fewer.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default the names from the earlier steps of the
        pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With these attributes:

        times : ndarray of shape (n_slices,)
            The times of the slices.
        prevalence : ndarray of shape (n_slices, n_components)
            Share of each topic in the words of each slice.
        drift : ndarray of shape (n_components,)
            Total variation between a topic in the first and in the last slice, from 0
            for the same words to 1 for no common words.
        words : list of list of list of str
            The most probable words by slice and topic.
        rising, falling : list of list of str
            The words of each topic that rise or fall most, in this order.
        frame : DataFrame
            Prevalence and words with a row for each slice and topic, if pandas is
            installed, else None.

    Raises
    ------
    ValueError
        If `n_top` is not a positive integer, or `feature_names` are not those of all
        features.
    TypeError
        If the estimator has no ``topics_over_time_``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    topics_over_time : Slices of a model whose topics stay as they are.
    skdeepfactor.plotting.TopicEvolutionDisplay : Draws shares of words.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor import DynamicTopicModel
    >>> from skdeepfactor.inspection import topic_evolution
    >>> X = np.repeat([[9, 5, 1], [9, 1, 5]], 10, axis=0)
    >>> years = np.repeat([2001, 2002], 10)
    >>> model = DynamicTopicModel(1, chain_variance=1.0).fit(X, times=years)
    >>> names = ["car", "petrol", "battery"]
    >>> found = topic_evolution(model, n_top=2, feature_names=names)
    >>> found.words
    [[['car', 'petrol']], [['car', 'battery']]]
    >>> found.rising, found.falling
    ([['battery']], [['petrol']])
    """
    check_whole("n_top", n_top, 1)
    model, _ = reading.last_step(estimator)
    topics, times, prevalence = reading.evolution_of(model)
    names = reading.feature_names(estimator, topics.shape[2], feature_names)
    words = [[_top(topic, names, n_top) for topic in of_slice] for of_slice in topics]
    first, last = topics[0].astype(np.float64), topics[-1].astype(np.float64)
    return Bunch(
        times=times,
        prevalence=prevalence,
        drift=0.5 * np.abs(last - first).sum(axis=1),
        words=words,
        rising=[_top(gain, names, n_top) for gain in gains(first, last)],
        falling=[_top(gain, names, n_top) for gain in gains(last, first)],
        frame=_frame(model, times, prevalence, words),
    )


def gains(before, after):
    """Rise of each word in each topic, an array (n_components, n_features)."""
    tiny = np.finfo(np.float64).tiny
    return after * np.log(np.maximum(after, tiny) / np.maximum(before, tiny))


def changing(before, after, n):
    """The n features that rise or fall most, half of each: those that rise first."""
    rising, falling = (
        np.argsort(-gains(*ends), kind="stable")
        for ends in ((before, after), (after, before))
    )
    n = min(n, len(before))
    n_rising = (n + 1) // 2
    chosen = rising[:n_rising]
    # With few features, some that fall are among those that rise least.
    others = falling[~np.isin(falling, chosen)]
    return np.concatenate([chosen, others[: n - n_rising]])


# Gains and probabilities of no more than this are none.
LEAST_GAIN = 1e-9


def _top(values, names, n_top):
    """Names of the features with the largest values above ``LEAST_GAIN``."""
    order = np.argsort(-values, kind="stable")[:n_top]
    return [str(name) for name in names[order[values[order] > LEAST_GAIN]]]


def _frame(model, times, prevalence, words):
    """A line for each slice and topic; None without pandas."""
    try:
        import pandas as pd
    except ImportError:
        return None
    n_slices, n_components = prevalence.shape
    columns = {
        "time": np.repeat(times, n_components),
        "component": np.tile(np.arange(n_components), n_slices),
    }
    known = reading.known_component_names(model, n_components)
    if known is not None:
        columns["name"] = np.tile(known, n_slices)
    columns["prevalence"] = prevalence.ravel()
    columns["words"] = [", ".join(top) for of_slice in words for top in of_slice]
    return pd.DataFrame(columns)
