"""The page that :func:`topic_page` writes: its contents and its file.

``page.html`` beside this module has the looks and the behaviour. The contents are
embedded as JSON, with only those words and rows of each topic that can come into view.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_non_negative

from skdeepfactor._files import check_place, whole_file
from skdeepfactor.inspection import hierarchy, reading
from skdeepfactor.inspection.pyldavis import PROBABILITY_FLOOR
from skdeepfactor.plotting.page_sections import (
    by_group,
    correlated,
    in_slices,
    origins,
    over_time,
)
from skdeepfactor.plotting.projection import two_dimensions

# Number of words of a topic in view, and values of the slider.
N_WORDS = 20
RELEVANCES = np.linspace(0, 1, 21)

# Those at which words of a slice of time come into view: at others, nearly all do.
RELEVANCES_OF_SLICES = 0.0, 0.3, 0.6, 1.0

# Rows of a topic, and of a row the words or as many characters of the text.
N_ROWS = 5
N_ROW_WORDS = 8
MAX_CHARACTERS = 400

# Topics named where a word is looked up, if they use it at least this much, relative to
# the first of them.
N_USES = 8
MIN_USE = 0.01

# Units below that are shown of a unit, and words of it.
N_UNITS = 5

# More topics than this are too many for principal components to keep apart.
MAX_PCA = 10

# Place of the JSON, and characters that would end the element that it is in.
PLACE = "{contents}"
ESCAPES = {
    ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"
}


def topic_page(
    estimator: Any,
    X: Any,
    *,
    feature_names: ArrayLike | None = None,
    texts: Sequence[str] | None = None,
    times: ArrayLike | None = None,
    n_bins: int | None = None,
    groups: ArrayLike | None = None,
    path: str | os.PathLike[str],
    **side: Any,
) -> Path:
    r"""Write a page for browsing topics, as one file for any browser.

    The page has a map of the topics, the words of the selected one, the rows that
    represent it best and a search for words. For a model with layers, such as
    :class:`~skdeepfactor.SparseGammaDEF` or
    :class:`~skdeepfactor.PoissonGammaBeliefNetwork`, it has the topics of topics as a
    tree; with `times` a curve of each topic's share over time, and with `groups` its
    share in each. A
    :class:`~skdeepfactor.DynamicTopicModel` has a slider for the words of each slice of
    time, a :class:`~skdeepfactor.CorrelatedTopicModel` lines on the map between topics
    that go together. The file needs no network and no other file; of `X` and `texts` it
    contains only what it shows.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``, of any package; of a pipeline,
        the last step.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows; for a pipeline, the input of its first step. Missing entries (NaN) count
        as 0, if the estimator takes them.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features, which the page calls words. By default the names from the
        earlier steps of the pipeline, else ``feature_names_in_`` of the last step, else
        x0, x1, ...
    texts : sequence of str of length n_rows, default=None
        What is shown of a row, up to its 400th character; by default the names of the
        features that the row has most of. Words are marked if they are most probably
        from the selected topic.
    times : array-like of shape (n_rows,), default=None
        The time of each row, as for :func:`~skdeepfactor.inspection.topics_over_time`.
    n_bins : int, default=None
        Number of intervals of equal length for `times`; by default each distinct time
        is a point.
    groups : array-like of shape (n_rows,), default=None
        The group of each row, as for :func:`~skdeepfactor.inspection.topics_per_group`.
    path : str or path-like
        The file. If it exists, it is replaced once the page is complete.
    **side : array-like of shape (n_rows, ...)
        Further arguments of the estimator's ``transform`` with an entry for each row,
        by name, such as ``covariates``. Models whose topics change get `times`, too.

    Returns
    -------
    pathlib.Path
        The absolute path of the file.

    Raises
    ------
    ValueError
        If all rows are empty, the numbers of names and features or of texts, times or
        groups and rows differ, one of these is missing, the factors belong to several
        layers, or `path` is a device.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    FileNotFoundError
        If the folder of `path` does not exist.
    IsADirectoryError
        If `path` is a folder.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    TopicsDisplay : The largest weights as bars.
    skdeepfactor.inspection.top_rows : The rows that represent a component best.
    skdeepfactor.inspection.to_pyldavis : The arguments of pyLDAvis.

    Notes
    -----
    If neither factors nor ``components_`` have negative entries, the weight of a topic
    is its share of all counts in `X`, computed from
    :func:`~skdeepfactor.inspection.factor_shares`. The words of topic k are sorted by
    relevance (Sievert and Shirley),

    .. math::
        \lambda \log \beta_{kv} + (1 - \lambda) \log \frac{\beta_{kv}}{p_v}, \qquad
        p_v = \sum_j \text{weight}_j \, \beta_{jv},

    where :math:`\beta_{kv}` is the probability of word v in the topic and a slider sets
    :math:`\lambda`: at 1 frequent words come first, at 0 those that are found in this
    topic alone.

    Otherwise the weight of a topic is the variance of its factor over the rows. Its
    words are those with the largest and the smallest loadings in ``components_``, which
    the factor makes more and less frequent. The page then has no slider.

    Topics that share words are near each other on the map, but far enough apart to be
    seen. Up to ten topics are placed by principal components of the square roots of
    their probabilities, more by t-SNE, as in :class:`EmbeddingDisplay`. Topics are
    numbered as the components are.

    References
    ----------
    Sievert, C. and Shirley, K. (2014). LDAvis: a method for visualizing and
    interpreting topics. ACL workshop on interactive language learning, visualization,
    and interfaces.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.plotting import topic_page
    >>> texts = ["red apple", "apple pear pear", "bus train", "tram train train"]
    >>> model = PoissonFactorization(2, random_state=0)
    >>> pipeline = make_pipeline(CountVectorizer(), model).fit(texts)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = topic_page(
    ...         pipeline, texts, texts=texts, path=Path(folder) / "topics.html"
    ...     )
    ...     "tram" in page.read_text(encoding="utf-8")
    True
    """
    file_path = _checked_path(path)
    contents = _page_contents(
        estimator,
        X,
        feature_names,
        texts,
        times=times,
        n_bins=n_bins,
        groups=groups,
        side=side,
    )
    # Half of a surrogate pair, as broken texts have, cannot be written.
    page = _filled_template(contents).encode("utf-8", errors="replace")
    with whole_file(file_path) as file:
        file.write(page)
    return file_path


@dataclass(frozen=True)
class _Topics:
    """Topics and features of a model of any kind, as the page needs them."""

    weights: np.ndarray  # (n_topics,), sizes on the map
    vectors: np.ndarray  # (n_topics, n_features), places on the map
    values: np.ndarray  # (n_topics, n_features), lengths of the bars
    uses: np.ndarray  # (n_topics, n_features), where each feature belongs
    words: list  # indices of the features of each topic that can come into view
    frequencies: np.ndarray | None  # (n_features,), of all topics together


def _checked_path(path):
    """Path of a file to be written, in a folder that must exist."""
    path = Path(path).expanduser().absolute()
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"path must be in a folder that exists, but {path.parent} does not exist."
        )
    if path.is_dir():
        raise IsADirectoryError(f"path must be a file, but {path} is a folder.")
    check_place("path", str(path))
    return path


def _filled_template(contents):
    """The text of the page with its contents."""
    template = (
        files("skdeepfactor.plotting").joinpath("page.html").read_text(encoding="utf-8")
    )
    text = json.dumps(
        contents, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return template.replace(PLACE, text.translate(ESCAPES), 1)


def _page_contents(
    estimator,
    X,
    feature_names=None,
    texts=None,
    *,
    times=None,
    n_bins=None,
    groups=None,
    side,
):
    """Contents of the page, as lists and dicts."""
    model, X = reading.last_step(estimator, X)
    n_features = reading.components_of(model).shape[1]
    names = reading.feature_names(estimator, n_features, feature_names)
    counts = reading.counts_of(X)
    if texts is not None:
        texts = list(texts)
        if len(texts) != counts.shape[0]:
            raise ValueError(
                f"texts must have one text for each of {counts.shape[0]} rows, "
                f"got {len(texts)}."
            )
    known = reading.with_times(model, side, times)
    in_rows, are_shares = reading.row_weights(model, X, known)
    slices = reading.slices_of(model)
    if are_shares:
        topics = _parts(model, counts, in_rows, slices)
    else:
        topics = _factors(model, in_rows)

    in_view = np.unique(np.concatenate([np.empty(0, dtype=np.intp), *topics.words]))
    places = np.zeros(n_features, dtype=np.intp)
    places[in_view] = np.arange(len(in_view))
    projection = "pca" if len(topics.vectors) <= MAX_PCA else "tsne"
    positions = _in_unit_square(two_dimensions(topics.vectors, projection, 0))
    is_shown = np.ones(counts.shape[0], dtype=bool)
    if are_shares:
        # Whatever an empty row is taken to be made of, it shows nothing.
        is_shown = _row_sums(counts) > 0
    full = np.flatnonzero(is_shown)
    # By turns, since an order of all rows for each topic is as large as the factors.
    rows = [
        full[np.argsort(-in_row[full], kind="stable")[:N_ROWS]] for in_row in in_rows.T
    ]

    shown = {
        str(row): _words_of_row(counts[[row]], names)
        if texts is None
        else _shortened(str(texts[row]))
        for row in np.unique(rows).tolist()
    }
    labels = reading.known_component_names(model, len(topics.vectors))
    has_tree = reading.n_layers(model) > 1
    return {
        "estimator": type(model).__name__,
        "are_shares": are_shares,
        "n_rows": counts.shape[0],
        "n_features": n_features,
        "n_words": N_WORDS,
        "words": [str(name) for name in names[in_view]],
        "frequencies": _rounded(topics.frequencies[in_view]) if are_shares else None,
        "uses": [_largest_uses(uses) for uses in topics.uses[:, in_view].T],
        "topics": [
            {
                "weight": _rounded(weight),
                "position": _rounded(position),
                "words": places[words].tolist(),
                "values": _rounded(values[words]),
                "rows": of_topic.tolist(),
                "row_weights": _rounded(in_row[of_topic]),
            }
            for weight, position, words, values, of_topic, in_row in zip(
                topics.weights,
                positions,
                topics.words,
                topics.values,
                rows,
                in_rows.T,
                strict=True,
            )
        ],
        "slices": None if slices is None else in_slices(*slices, topics.words),
        "edges": correlated(model),
        "labels": None if labels is None else [str(label) for label in labels],
        "rows": shown,
        "origins": origins(model, X, counts, names, shown, known) if are_shares else {},
        "over_time": None
        if times is None
        else over_time(model, X, names, times, n_bins, side),
        "by_group": None
        if groups is None
        else by_group(model, X, names, groups, known),
        "layer": model.transform_layer if has_tree else None,
        "tree": _branches(hierarchy(model, names, N_UNITS)) if has_tree else [],
    }


def _parts(model, counts, shares, slices=None):
    """Topics that rows are made of, as LDAvis shows them.

    ``slices`` has the topics of each slice and their times, if they change.
    """
    check_non_negative(counts, "topic_page")
    totals = _row_sums(counts)
    if not totals.any():
        raise ValueError("topic_page needs a row with a count; every row is empty.")
    profiles = reading.shares_of(reading.factor_profiles(model))
    # Counts that come from each topic, as shares of all.
    weights = reading.shares_of((totals @ shares)[np.newaxis])[0]
    # Words of topics without any weight have a relevance, too.
    frequencies = np.maximum(weights @ profiles, PROBABILITY_FLOOR)
    return _Topics(
        weights=weights,
        vectors=np.sqrt(profiles),
        values=profiles,
        uses=weights[:, np.newaxis] * profiles / frequencies,
        words=[
            _relevant_over_time(topic, profile, frequencies, slices)
            for topic, profile in enumerate(profiles)
        ],
        frequencies=frequencies,
    )


def _factors(model, factors):
    """Topics with signed loadings: words that become more or less frequent."""
    components = reading.components_of(model)
    n_ends = min(N_WORDS // 2, components.shape[1])
    ends = np.r_[:n_ends, -n_ends:0]
    order = np.argsort(-components, axis=1, kind="stable")
    return _Topics(
        weights=factors.var(axis=0),
        vectors=normalize(components),
        values=components,
        uses=components,
        words=[
            np.unique(top[loadings[top] != 0])
            for top, loadings in zip(order[:, ends], components, strict=True)
        ],
        frequencies=None,
    )


def _relevant_over_time(topic, profile, frequencies, slices):
    """Features of a topic that come into view, on average or in a slice of time."""
    found = [_relevant(profile, profile / frequencies)]
    if slices is not None:
        found += [
            _relevant(part, part / frequencies, RELEVANCES_OF_SLICES)
            for part in slices[0][:, topic].astype(np.float64)
        ]
    return np.unique(np.concatenate(found))


def _relevant(probabilities, lifts, relevances=RELEVANCES):
    """Features among the most relevant at any place of the slider."""
    known = np.flatnonzero(probabilities)
    log_probabilities, log_lifts = np.log(probabilities[known]), np.log(lifts[known])
    if len(known) <= N_WORDS:
        return known
    top = [
        np.argpartition(
            -(share * log_probabilities + (1 - share) * log_lifts), N_WORDS - 1
        )[:N_WORDS]
        for share in relevances
    ]
    return known[np.unique(top)]


def _largest_uses(uses):
    """Topics with the most of a word, and how much they have, largest first."""
    topics = np.argsort(-np.abs(uses), kind="stable")[:N_USES]
    sizes = np.abs(uses[topics])
    topics = topics[(sizes > 0) & (sizes >= MIN_USE * sizes[0])]
    return [topics.tolist(), _rounded(uses[topics])]


def _branches(units):
    """The units of a hierarchy, with numbers that are short."""
    return [
        {
            **unit,
            "share": _rounded(unit.get("share", 1.0)),
            "features": [str(name) for name in unit["features"]],
            "units": _branches(unit["units"]),
        }
        for unit in units
    ]


def _words_of_row(row, names):
    """Names of the features that a row, (1, n_features), has most of."""
    if scipy.sparse.issparse(row):
        indices, values = row.indices, row.data
    else:
        indices, values = np.arange(row.shape[1]), row[0]
    # Unsigned numbers and truth values have no negatives to be sorted by.
    order = np.argsort(-values.astype(np.float64), kind="stable")[:N_ROW_WORDS]
    return [str(name) for name in names[indices[order[values[order] > 0]]]]


def _row_sums(counts):
    return reading.totals_of(counts, 1).astype(np.float64)


def _in_unit_square(positions):
    """Positions whose least and largest coordinates are 0 and 1, if they differ."""
    low, spans = positions.min(axis=0), np.ptp(positions, axis=0)
    # A plane without a second dimension has one that is made of rounding errors.
    is_wide = spans > 1e-6 * spans.max()
    return np.where(is_wide, (positions - low) / np.where(is_wide, spans, 1), 0.5)


def _shortened(text):
    if len(text) <= MAX_CHARACTERS:
        return text
    return text[: MAX_CHARACTERS - 1] + "…"


def _rounded(numbers):
    """Numbers with as many digits as can be seen."""
    if np.ndim(numbers):
        return [_rounded(number) for number in numbers]
    return float(f"{numbers:.5g}")
