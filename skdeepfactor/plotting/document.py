"""A text whose words are marked by the topics that they are from."""

import re
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole
from skdeepfactor.plotting.drawing import (
    FONT_SIZE,
    MAX_CHARACTERS,
    distinct_colors,
    new_axes,
    shortened,
)
from skdeepfactor.plotting.over_time import topic_names

# Inches of a new figure, of a line of text, points of its letters, and how many of
# them a line has, rather too few.
WIDTH = 7.5
LINE_HEIGHT = 0.22
TEXT_SIZE = 9
CHARACTERS = 100

# Words are what is between these; the rest is kept as it is.
WORDS = re.compile(r"[^\W_]+(?:_+[^\W_]+)*")


class DocumentDisplay:
    """A text with each word marked by the topic that it is most probably from.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    parts : sequence of str
        The text in parts, words and what is between them, as they follow each other.
    components : array-like of int of shape (n_parts,)
        The topic of each part, -1 where it has none.
    names : dict of int to str, default=None
        What the legend says of topics; those that are not in it are not marked. By
        default all are, by their numbers.

    Attributes
    ----------
    parts, components, names : object
        The parameters, the components as an ndarray.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure that they are in.

    See Also
    --------
    skdeepfactor.LatentDirichletAllocation.topic_assignments : The probabilities.
    topic_page : Marks words of the rows that show a topic best.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.plotting import DocumentDisplay
    >>> texts = ["apple pear plum", "ripe pear, ripe apple", "train bus", "late train"]
    >>> lda = LatentDirichletAllocation(2, random_state=0)
    >>> pipeline = make_pipeline(CountVectorizer(), lda).fit(texts)
    >>> text = "An apple on the train."
    >>> DocumentDisplay.from_estimator(pipeline, text)  # doctest: +SKIP
    """

    def __init__(
        self, parts: Any, components: ArrayLike, *, names: dict | None = None
    ) -> None:
        self.parts = list(parts)
        self.components = np.asarray(components, dtype=np.intp)
        if self.components.shape != (len(self.parts),):
            raise ValueError(
                f"components must have one entry for each of {len(self.parts)} parts, "
                f"got shape {self.components.shape}."
            )
        if names is None:
            found = np.unique(self.components[self.components >= 0])
            names = {component: str(component) for component in found.tolist()}
        self.names = dict(names)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        text: str,
        *,
        n_components: int = 5,
        ax: Any = None,
        **side: Any,
    ) -> Self:
        """Mark the words of a text by the topics of a fitted pipeline.

        The earlier steps say which feature a word is: the one that they make of the
        word alone. The topic of a word is the most probable one, by the estimator's
        ``topic_assignments`` where it has them, else by what each component
        contributes to the expected count.

        Parameters
        ----------
        estimator : Pipeline
            Fitted, from texts to a model with ``components_`` and ``transform``; of
            fitted parts, ``make_pipeline(vectorizer, model)`` is one.
        text : str
            The text.
        n_components : int, default=5
            Number of topics marked, those with the most words of the text.
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.
        **side : array-like of shape (1, ...)
            Further arguments of the estimator's ``transform`` for this text, by name,
            such as ``times`` or ``covariates``.

        Returns
        -------
        display : DocumentDisplay

        Raises
        ------
        ValueError
            If `n_components` is not a positive integer, no word is a feature, or
            components have negative entries.
        TypeError
            If the estimator is no pipeline, or `text` is not a string.

        See Also
        --------
        plot : Draw it again.

        Examples
        --------
        >>> from sklearn.feature_extraction.text import CountVectorizer
        >>> from sklearn.pipeline import make_pipeline
        >>> from skdeepfactor import LatentDirichletAllocation
        >>> from skdeepfactor.plotting import DocumentDisplay
        >>> texts = ["apple pear plum", "a ripe pear", "train bus", "a late train"]
        >>> lda = LatentDirichletAllocation(2, random_state=0)
        >>> pipeline = make_pipeline(CountVectorizer(), lda).fit(texts)
        >>> DocumentDisplay.from_estimator(pipeline, texts[1])  # doctest: +SKIP
        """
        check_whole("n_components", n_components, 1)
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, got {type(text).__name__}.")
        if not isinstance(estimator, Pipeline) or len(estimator) < 2:
            raise TypeError(
                "DocumentDisplay needs a pipeline from texts to a model, such as "
                f"make_pipeline(vectorizer, model), got {type(estimator).__name__}."
            )
        parts = _parts(text)
        topics = word_topics(estimator, text, parts, side)
        found, counts = np.unique(topics[topics >= 0], return_counts=True)
        if len(found) == 0:
            raise ValueError("text must have a word that is a feature, got none.")
        most = np.sort(found[np.argsort(-counts, kind="stable")[:n_components]])
        labels = topic_names(estimator, most)
        names = dict(zip(most.tolist(), labels, strict=True))
        return cls(parts, topics, names=names).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Write the text, with a colour behind each marked word.

        Words of topics without a name are grey.

        Parameters
        ----------
        ax : Axes, default=None
            Axes to draw in; by default those of a new figure that is large enough.

        Returns
        -------
        DocumentDisplay
            The display itself, with ``ax_`` and ``figure_``.

        See Also
        --------
        from_estimator : Make a display of an estimator.

        Examples
        --------
        >>> from skdeepfactor.plotting import DocumentDisplay
        >>> parts = ["An ", "apple", " on the ", "train", "."]
        >>> DocumentDisplay(parts, [-1, 0, -1, 1, -1]).plot()  # doctest: +SKIP
        """
        if ax is None:
            n_lines = 1 + sum(map(len, self.parts)) // CHARACTERS
            ax = new_axes(WIDTH, LINE_HEIGHT * (n_lines + 1.5 + len(self.names)))
        ax.set_axis_off()
        ax.set(xlim=(0, 1), ylim=(1, 0))
        figure = ax.figure.figure
        figure.draw_without_rendering()
        box = ax.get_window_extent()
        colors = dict(zip(self.names, distinct_colors(len(self.names)), strict=True))
        line = LINE_HEIGHT * figure.dpi / box.height
        x, y = 0.0, 0.6 * line
        for part, component in zip(self.parts, self.components.tolist(), strict=True):
            # Lines are broken anew.
            for piece in re.findall(r"\S+| ", re.sub(r"\s+", " ", part)):
                width = _width(ax, piece) / box.width
                if x > 0 and x + width > 1:
                    x, y = 0.0, y + line
                if not piece.isspace():
                    _write(ax, piece, x, y, colors.get(component), component >= 0)
                if x > 0 or not piece.isspace():
                    x += width
        y += 1.5 * line
        for component, name in self.names.items():
            _write(ax, "    ", 0.01, y, colors[component], True)
            ax.text(
                0.05,
                y,
                shortened(str(name), 3 * MAX_CHARACTERS),
                va="center",
                fontsize=FONT_SIZE,
                parse_math=False,
            )
            y += line
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


def word_topics(estimator, text, parts, side):
    """The most probable topic of each part of a text, -1 where it is no feature."""
    model, rows = reading.last_step(estimator, [text])
    if reading.components_of(model).min() < 0:
        raise ValueError(
            "Words are from topics without negative entries, but components_ of "
            f"{type(model).__name__} have some."
        )
    counts = reading.counts_of(rows)
    shares = reading.word_shares(model, rows, side)
    columns = reading.nonzero(counts)[1]
    topic_of = dict(zip(columns.tolist(), shares.argmax(axis=1).tolist(), strict=True))
    words = sorted({part for part in parts if WORDS.fullmatch(part)})
    features = reading.features_of_words(estimator, words)
    of_word = {
        word: topic_of.get(feature, -1)
        for word, feature in zip(words, features, strict=True)
    }
    return np.array([of_word.get(part, -1) for part in parts], dtype=np.intp)


def _parts(text):
    """A text in words and what is between them."""
    parts, end = [], 0
    for match in WORDS.finditer(text):
        parts += [text[end : match.start()], match.group()]
        end = match.end()
    return [part for part in [*parts, text[end:]] if part]


def _width(ax, piece):
    """The width of a piece of text in pixels."""
    # The ends of a text that are spaces are not measured.
    both = [
        ax.text(0, 0, text, fontsize=TEXT_SIZE, parse_math=False)
        for text in (f"|{piece}|", "||")
    ]
    widths = [text.get_window_extent().width for text in both]
    for text in both:
        text.remove()
    return widths[0] - widths[1]


def _write(ax, piece, x, y, color, has_topic):
    """Write a piece of text, on a colour if its topic is marked."""
    style = {}
    if color is not None:
        style["bbox"] = {
            "facecolor": color,
            "alpha": 0.35,
            "linewidth": 0,
            "boxstyle": "square,pad=0.12",
        }
    elif has_topic:
        style["color"] = "#707070"
    ax.text(
        x,
        y,
        piece,
        va="center",
        fontsize=TEXT_SIZE,
        parse_math=False,
        **style,
    )
