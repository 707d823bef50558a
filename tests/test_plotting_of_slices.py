"""Displays of topics over time and by group, of marked texts, and names in displays."""

import itertools

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline

from skdeepfactor import (
    CorrelatedTopicModel,
    LatentDirichletAllocation,
    PoissonFactorization,
)
from skdeepfactor.datasets import make_topics
from skdeepfactor.inspection import (
    name_components,
    topics_over_time,
    topics_per_group,
)
from skdeepfactor.plotting import (
    DocumentDisplay,
    TopicsDisplay,
    TopicsOverTimeDisplay,
    TopicsPerGroupDisplay,
    UsageDisplay,
)
from tests.test_plotting import (
    assert_texts_are_clear,
    close_figures,  # noqa: F401  (a fixture for every test)
    plt,
)

NAMES = [f"word{index}" for index in range(30)]


@pytest.fixture(scope="module")
def X():
    return make_topics(60, 30, 3, random_state=0).data


@pytest.fixture(scope="module")
def lda(X):
    return LatentDirichletAllocation(3, max_iter=2, random_state=0).fit(X)


def legend_of(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


# Over time.


def test_curves_are_the_shares(lda, X):
    times = np.repeat(["2003", "2001", "2002"], 20)
    display = TopicsOverTimeDisplay.from_estimator(lda, X, times, feature_names=NAMES)
    topics = topics_over_time(lda, X, times)
    assert len(display.ax_.lines) == 3
    for line, shares in zip(display.ax_.lines, topics.shares.T, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), shares)
        np.testing.assert_array_equal(line.get_xdata(), topics.times)
    assert display.ax_.get_ylim()[0] == 0
    top = np.argsort(-lda.components_[1])[:3]
    assert legend_of(display)[1] == "1 · " + " ".join(NAMES[v] for v in top)
    assert display.label == "share of all words"
    assert_texts_are_clear(display.figure_)


def test_topics_that_change_most_are_shown(lda, X):
    times = np.arange(60)
    topics = topics_over_time(lda, X, times, n_bins=5)
    display = TopicsOverTimeDisplay.from_estimator(
        lda, X, times, n_bins=5, n_components=1
    )
    most = np.ptp(topics.shares, axis=0).argmax()
    np.testing.assert_array_equal(display.shares[:, 0], topics.shares[:, most])
    chosen = TopicsOverTimeDisplay.from_estimator(lda, X, times, components=[2, 0])
    assert [name[0] for name in chosen.names] == ["2", "0"]


def test_names_are_drawn_as_they_are(lda, X):
    named = name_components(lda, ["_private $x$", "b" * 200, "c"])
    times = np.arange(60) % 4
    display = TopicsOverTimeDisplay.from_estimator(named, X, times)
    assert legend_of(display)[0] == "_private $x$"
    assert legend_of(display)[1].endswith("…")
    assert_texts_are_clear(display.figure_)
    display = TopicsPerGroupDisplay.from_estimator(named, X, times)
    assert display.ax_.get_yticklabels()[0].get_text() == "_private $x$"
    titles = [
        axis.get_title("left") for axis in TopicsDisplay.from_estimator(named).ax_
    ]
    assert titles[0] == "_private $x$"
    usage = UsageDisplay.from_estimator(named, X)
    labels = [text.get_text() for text in usage.ax_.get_xticklabels()]
    assert {"_private $x$", "c"} <= set(labels)
    assert_texts_are_clear(usage.figure_)


@pytest.mark.parametrize("n_times", [1, 2, 40])
def test_ticks_of_dates_can_be_read(lda, X, n_times):
    times = np.datetime64("1999-12-30") + 40 * (np.arange(60) % n_times)
    display = TopicsOverTimeDisplay.from_estimator(lda, X, times)
    assert_texts_are_clear(display.figure_)


def test_axes_that_are_given(lda, X):
    _, axes = plt.subplots(1, 2)
    times = np.arange(60) % 4
    display = TopicsOverTimeDisplay.from_estimator(lda, X, times, ax=axes[0])
    assert display.ax_ is axes[0]
    assert display.plot(ax=axes[1]).ax_ is axes[1]
    display = TopicsPerGroupDisplay.from_estimator(lda, X, times, ax=axes[0])
    assert display.ax_ is axes[0]


def test_mean_factors_of_signed_models(X):
    pca = PCA(3, random_state=0).fit(X.toarray())
    times = np.arange(60) % 4
    over_time = TopicsOverTimeDisplay.from_estimator(pca, X.toarray(), times)
    assert over_time.label == "mean factor"
    assert over_time.ax_.get_ylim()[0] < 0
    by_group = TopicsPerGroupDisplay.from_estimator(pca, X.toarray(), times)
    (image,) = by_group.ax_.images
    assert image.norm.vmin == -image.norm.vmax


# By group.


@pytest.mark.parametrize("groups", [["a", "bb", "c c"], ["a long name", "b", "c"], [1]])
def test_shades_are_the_shares(lda, X, groups):
    groups = np.array(groups)[np.arange(60) % len(groups)]
    display = TopicsPerGroupDisplay.from_estimator(lda, X, groups, feature_names=NAMES)
    topics = topics_per_group(lda, X, groups)
    (image,) = display.ax_.images
    np.testing.assert_array_equal(image.get_array(), topics.shares.T)
    labels = [text.get_text() for text in display.ax_.get_xticklabels()]
    assert labels == [str(group) for group in topics.groups]
    figures = [text.get_text() for text in display.ax_.texts]
    assert figures[0] == f"{topics.shares[0, 0]:.2f}".replace("0.", ".")
    display.figure_.draw_without_rendering()


def test_figures_of_any_size_are_right():
    display = TopicsPerGroupDisplay(["a"], [[10.06, 20.0, -0.5, 1.0]], list("pqrs"))
    figures = [text.get_text() for text in display.plot().ax_.texts]
    assert figures == ["10.06", "20.00", "-.50", "1.00"]


def test_many_groups_have_no_figures(lda, X):
    _, ax = plt.subplots(figsize=(3, 3))
    display = TopicsPerGroupDisplay.from_estimator(lda, X, np.arange(60) % 30, ax=ax)
    assert len(display.ax_.texts) == 0


def test_topics_that_differ_most_are_shown(lda, X):
    groups = np.arange(60) % 2
    topics = topics_per_group(lda, X, groups)
    display = TopicsPerGroupDisplay.from_estimator(lda, X, groups, n_components=1)
    most = np.ptp(topics.shares, axis=0).argmax()
    np.testing.assert_array_equal(display.shares[:, 0], topics.shares[:, most])


@pytest.mark.parametrize("kind", [TopicsOverTimeDisplay, TopicsPerGroupDisplay])
def test_bad_arguments(kind, lda, X):
    slices = np.arange(60) % 2
    for parameters, message in [
        ({"n_components": 0}, "n_components must be"),
        ({"components": [3]}, "components must be"),
        ({"components": [-1]}, "components must be"),
        ({"components": [0.5]}, "components must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind.from_estimator(lda, X, slices, **parameters)
    with pytest.raises(ValueError, match="one entry for each of 60 rows"):
        kind.from_estimator(lda, X, slices[1:])
    assert not plt.get_fignums()


# Marked texts.

TEXTS = ["red apple pear", "apple pear pear", "bus tram train", "tram train train"] * 3


@pytest.fixture(scope="module", params=["counts", "tfidf"])
def pipeline(request):
    steps = [CountVectorizer(), PoissonFactorization(2, random_state=0)]
    if request.param == "tfidf":
        steps.insert(1, TfidfTransformer())
    return make_pipeline(*steps).fit(TEXTS)


def test_words_are_marked_by_their_topics(pipeline):
    text = "A red Apple, (in the)\ntram-train; PEAR!"
    display = DocumentDisplay.from_estimator(pipeline, text)
    assert "".join(display.parts) == text
    topic_of = dict(zip(display.parts, display.components.tolist(), strict=True))
    assert topic_of["red"] == topic_of["Apple"] == topic_of["PEAR"] >= 0
    assert topic_of["tram"] == topic_of["train"] == 1 - topic_of["red"]
    assert topic_of["in"] == topic_of[", ("] == topic_of["A"] == -1
    assert set(display.names) == {0, 1}
    written = [text.get_text() for text in display.ax_.texts]
    assert written[:4] == ["A", "red", "Apple", ","]
    marked = {
        text.get_text()
        for text in display.ax_.texts
        if text.get_bbox_patch() is not None
    }
    assert marked == {"red", "Apple", "tram", "train", "PEAR", "    "}
    one = DocumentDisplay.from_estimator(pipeline, "red apple train", n_components=1)
    assert list(one.names) == [topic_of["red"]]


def test_covariates_reach_the_model():
    texts, covariates = ["red apple pear", "red tram train"] * 20, np.arange(40) % 2
    model = CorrelatedTopicModel(2, random_state=0)
    counter = CountVectorizer()
    X = counter.fit_transform(texts)
    pipeline = make_pipeline(counter, model.fit(X, covariates=covariates))
    fruit = model.components_[:, counter.vocabulary_["apple"]].argmax()
    for covariate, topic in ((0, fruit), (1, 1 - fruit)):
        display = DocumentDisplay.from_estimator(
            pipeline, "red", covariates=[covariate]
        )
        assert display.components.tolist() == [topic]
    known = {"covariates": covariates}
    display = TopicsPerGroupDisplay.from_estimator(model, X, covariates, **known)
    found = topics_per_group(model, X, covariates, **known)
    np.testing.assert_array_equal(display.shares, found.shares)
    display = TopicsOverTimeDisplay.from_estimator(model, X, covariates, **known)
    np.testing.assert_array_equal(display.shares, found.shares)


def test_lines_of_text_end_in_the_figure(pipeline):
    text = " ".join(TEXTS * 8)
    display = DocumentDisplay.from_estimator(pipeline, text)
    display.figure_.draw_without_rendering()
    right = display.figure_.bbox.width
    boxes = [text.get_window_extent() for text in display.ax_.texts]
    assert max(box.x1 for box in boxes) <= right
    assert min(box.y0 for box in boxes) >= 0
    # In lines, from the left to the right.
    for before, after in itertools.pairwise(boxes):
        assert after.x0 > before.x0 or after.y0 < before.y0


def test_texts_from_arrays():
    parts = ["An ", "apple", " $on$ ", "train"]
    display = DocumentDisplay(parts, [-1, 0, -1, 4])
    assert display.names == {0: "0", 4: "4"}
    written = [text.get_text() for text in display.plot().ax_.texts]
    assert written == ["An", "apple", "$on$", "train", "    ", "0", "    ", "4"]
    with pytest.raises(ValueError, match="one entry for each of 4 parts"):
        DocumentDisplay(parts, [0])


def test_what_cannot_be_marked(pipeline, lda, X):
    with pytest.raises(
        TypeError, match=r"needs a pipeline .* LatentDirichletAllocation"
    ):
        DocumentDisplay.from_estimator(lda, "red")
    with pytest.raises(TypeError, match="text must be a string, got list"):
        DocumentDisplay.from_estimator(pipeline, ["red"])
    with pytest.raises(ValueError, match="a word that is a feature"):
        DocumentDisplay.from_estimator(pipeline, "unknown words")
    with pytest.raises(ValueError, match="n_components must be"):
        DocumentDisplay.from_estimator(pipeline, "red", n_components=0)
    signed = make_pipeline(CountVectorizer(), PCA(2)).fit(TEXTS)
    with pytest.raises(ValueError, match="without negative entries"):
        DocumentDisplay.from_estimator(signed, "red apple")
