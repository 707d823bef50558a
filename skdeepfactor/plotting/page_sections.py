"""Parts of the topic page beside the topics: time, groups, and where words are from."""

import re

import numpy as np
from sklearn.utils import _safe_indexing

from skdeepfactor._times import time_labels
from skdeepfactor.inspection import (
    reading,
    topic_graph,
    topics_over_time,
    topics_per_group,
)
from skdeepfactor.inspection.slices import group_labels

# Words named of a topic in a slice.
N_WORDS = 5

# Lines between topics, on average for each of them, at most.
N_EDGES = 1.5


def over_time(model, X, names, times, n_bins, side):
    """Shares and words of each topic over time, with places from 0 to 1."""
    topics = topics_over_time(
        model, X, times, n_bins=n_bins, n_top=N_WORDS, feature_names=names, **side
    )
    since = (topics.times - topics.times[0]).astype(np.float64)
    return {
        "labels": time_labels(topics.times),
        "places": (since / (since[-1] or 1)).round(5).tolist(),
        **_by_topic(topics),
    }


def in_slices(topics, times, words):
    """Probabilities of the words in view of each topic, by slice of time.

    ``topics`` are (n_slices, n_components, n_features), ``words`` the features of each
    topic that come into view.
    """
    return {
        "labels": time_labels(times),
        "values": [
            [_rounded(of_topic) for of_topic in topics[:, topic, features]]
            for topic, features in enumerate(words)
        ],
    }


def correlated(model):
    """Pairs of topics that go together, and how much; of other models none."""
    if not reading.has_correlations(model):
        return []
    n_edges = int(N_EDGES * len(model.topic_correlation_))
    pairs, values = topic_graph(model, n_edges=max(1, n_edges))
    values = _rounded(values)
    return [[*pair, value] for pair, value in zip(pairs.tolist(), values, strict=True)]


def by_group(model, X, names, groups, side):
    """Shares and words of each topic in groups of rows."""
    topics = topics_per_group(
        model, X, groups, n_top=N_WORDS, feature_names=names, **side
    )
    return {"labels": group_labels(topics.groups), **_by_topic(topics)}


def origins(model, X, counts, names, shown, side):
    """The most probable topic of the words shown of rows.

    ``shown`` has the text, or a list of words, of each row that is shown, by its
    number. The result is a dict of dicts, of words in lower case.
    """
    rows = sorted(map(int, shown))
    counts = counts[rows]
    side = {name: _safe_indexing(values, rows) for name, values in side.items()}
    shares = reading.word_shares(model, _safe_indexing(X, rows), side)
    topics = shares.argmax(axis=1)
    found = {row: {} for row in rows}
    for place, feature, topic in zip(*reading.nonzero(counts), topics, strict=True):
        found[rows[place]][str(names[feature]).lower()] = int(topic)
    return {str(row): _only(found[row], shown[str(row)]) for row in rows}


def _only(topics, shown):
    """Keep the topics of the words that occur in a text or in a list of words."""
    words = re.findall(r"\w+", shown) if isinstance(shown, str) else shown
    words = {word.lower() for word in words}
    return {word: topic for word, topic in topics.items() if word in words}


def _by_topic(topics):
    """Describe the slices by lists, with one for each topic where topics differ."""
    shares = topics.shares.T
    return {
        "n_rows": topics.n_rows.tolist(),
        "overall": _rounded(topics.overall),
        "shares": [_rounded(of_topic) for of_topic in shares],
        "words": None
        if topics.words is None
        else [list(of_topic) for of_topic in zip(*topics.words, strict=True)],
    }


def _rounded(numbers):
    return [float(f"{number:.4g}") for number in numbers]
