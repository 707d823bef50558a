"""Topics that go together, as pairs and as a picture."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline

from skdeepfactor import CorrelatedTopicModel, LatentDirichletAllocation
from skdeepfactor.inspection import topic_graph
from skdeepfactor.plotting import TopicGraphDisplay

CORRELATION = np.array(
    [[1, 0.5, -0.4, 0.05], [0.5, 1, 0.2, 0.0], [-0.4, 0.2, 1, 0.3], [0.05, 0, 0.3, 1]]
)
TEXTS = ["apple pear plum", "bus train tram", "pear bus tram", "plum pear apple"] * 4


@pytest.fixture
def model():
    """A fit with these correlations."""
    X = np.random.default_rng(0).poisson(1.0, (20, 6))
    fit = CorrelatedTopicModel(4, max_iter=2, random_state=0).fit(X)
    fit.topic_correlation_ = CORRELATION
    return fit


def test_edges_are_the_largest_correlations(model):
    pairs, correlations = topic_graph(model)
    assert_array_equal(pairs, [[0, 1], [2, 3], [1, 2]])
    assert_array_equal(correlations, [0.5, 0.3, 0.2])
    assert_array_equal(topic_graph(model, n_edges=1)[0], [[0, 1]])
    assert len(topic_graph(model, threshold=0.25)[0]) == 2
    # Neither those of 0 nor negative ones.
    assert len(topic_graph(model, threshold=0.0)[0]) == 4
    assert topic_graph(model, threshold=0.9)[0].shape == (0, 2)


def test_what_has_no_graph(model):
    with pytest.raises(TypeError, match="no topic_correlation_"):
        topic_graph(LatentDirichletAllocation(2).fit([[1, 2], [3, 1]]))
    with pytest.raises(ValueError, match="threshold"):
        topic_graph(model, threshold=1.0)
    with pytest.raises(ValueError, match="n_edges"):
        topic_graph(model, n_edges=0)
    with pytest.raises(ValueError, match="not fitted"):
        topic_graph(CorrelatedTopicModel())


def test_the_picture_names_topics_and_keeps_them_apart(model):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    display = TopicGraphDisplay.from_estimator(model, n_top=2)
    texts = [text.get_text() for text in display.ax_.texts]
    tops = np.argsort(-model.components_, axis=1, kind="stable")[:, :2]
    assert texts == [f"x{a}\nx{b}" for a, b in tops]
    (lines,) = display.ax_.collections
    widths = lines.get_linewidths()
    assert_array_equal(np.argsort(widths), [2, 1, 0])
    renderer = display.figure_.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in display.ax_.texts]
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:n])
        assert display.figure_.bbox.contains(box.x0, box.y0)
        assert display.figure_.bbox.contains(box.x1, box.y1)
    again = TopicGraphDisplay.from_estimator(model, n_top=2)
    assert_array_equal(again.positions_, display.positions_)
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(("n_topics", "n_pairs"), [(1, 0), (3, 0), (40, 60), (25, 24)])
def test_pictures_of_any_size(n_topics, n_pairs):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(n_topics, k=1)
    chosen = rng.permutation(len(first))[:n_pairs]
    pairs = np.stack([first[chosen], second[chosen]], axis=1)
    names = [["a$b", "_c", "long" * 20]] * n_topics
    display = TopicGraphDisplay(pairs, rng.uniform(0.1, 1, n_pairs), names).plot()
    apart = np.abs(display.positions_[:, np.newaxis] - display.positions_)
    apart += 9 * np.eye(n_topics)[:, :, np.newaxis]
    assert (apart.max(axis=2) > 0.4).all()
    assert np.isfinite(display.positions_).all()
    matplotlib.pyplot.close("all")


def test_a_pipeline_knows_the_words():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    model = CorrelatedTopicModel(2, max_iter=3, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), model).fit(TEXTS)
    _, ax = matplotlib.pyplot.subplots()
    display = TopicGraphDisplay.from_estimator(pipeline, n_top=1, ax=ax)
    assert display.ax_ is ax
    words = set(CountVectorizer().fit(TEXTS).vocabulary_)
    assert {text.get_text() for text in ax.texts} <= words
    matplotlib.pyplot.close("all")
