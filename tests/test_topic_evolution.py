"""How topics change: tables, curves, and the slider of the topic page."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline

from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LatentDirichletAllocation,
)
from skdeepfactor.inspection import name_components, topic_evolution, topic_graph
from skdeepfactor.plotting import TopicEvolutionDisplay, topic_page
from tests.test_topic_page import browsed, contents_of, needs_chromium, words_of

NAMES = ["horse", "road", "engine", "wheel", "rain", "cloud", "storm", "snow"]
TIMES = np.repeat([1900, 1920, 1950], 40)


@pytest.fixture(scope="module")
def X():
    """Carts that become cars, and weather that stays."""
    rng = np.random.default_rng(0)
    carts = [[6, 3, 0.1, 2], [3, 3, 3, 2], [0.1, 3, 6, 2]]
    rates = np.zeros((120, 8))
    for place, rate in enumerate(carts):
        rates[40 * place : 40 * place + 20, :4] = rate
    rates[np.arange(120) % 40 >= 20, 4:] = [4, 3, 2, 1]
    return rng.poisson(2 * rates)


@pytest.fixture(scope="module")
def model(X):
    fit = DynamicTopicModel(2, chain_variance=1.0, random_state=0)
    return fit.fit(X, times=TIMES)


@pytest.fixture(scope="module")
def cars(model):
    return int(model.components_[:, 2].argmax())


def test_words_that_rise_and_fall(model, cars):
    found = topic_evolution(model, n_top=2, feature_names=NAMES)
    assert_array_equal(found.times, [1900, 1920, 1950])
    assert [set(of_slice[cars]) for of_slice in (found.words[0], found.words[-1])] == [
        {"horse", "road"},
        {"engine", "road"},
    ]
    assert found.rising[cars][0] == "engine"
    assert found.falling[cars][0] == "horse"
    assert found.drift[cars] > 5 * found.drift[1 - cars]
    assert_array_equal(found.prevalence, model.prevalence_)
    frame = found.frame
    assert frame.columns.tolist() == ["time", "component", "prevalence", "words"]
    assert frame["time"].tolist() == [1900, 1900, 1920, 1920, 1950, 1950]
    named = name_components(model, ["first", "second"])
    frame = topic_evolution(named, feature_names=NAMES).frame
    assert frame["name"].tolist() == ["first", "second"] * 3


def test_gains_are_the_terms_of_divergences(model):
    found = topic_evolution(model, n_top=8)
    first, last = model.topics_over_time_[[0, -1]].astype(float)
    terms = last * np.log(last / first)
    for topic in range(2):
        order = np.argsort(-terms[topic])
        expected = [f"x{v}" for v in order if terms[topic, v] > 1e-9]
        assert found.rising[topic] == expected
    assert_allclose(found.drift, 0.5 * np.abs(last - first).sum(axis=1))


def test_pipelines_and_models_without_times():
    texts = ["red apple", "apple pear", "bus tram", "tram tram"] * 3
    pipeline = make_pipeline(CountVectorizer(), DynamicTopicModel(2, random_state=0))
    found = topic_evolution(pipeline.fit(texts), n_top=1)
    assert len(found.words) == 1
    assert {top for (top,) in found.words[0]} == {"apple", "tram"}
    assert found.rising == [[], []]
    assert found.times.tolist() == [0]


def test_what_is_refused(model, X):
    with pytest.raises(TypeError, match="has no topics_over_time_"):
        topic_evolution(LatentDirichletAllocation(2, max_iter=1).fit(X))
    with pytest.raises(ValueError, match="n_top"):
        topic_evolution(model, n_top=0)
    with pytest.raises(ValueError, match="feature_names must have shape"):
        topic_evolution(model, feature_names=NAMES[1:])
    for options, message in (
        ({"component": 2}, "component must be an int from 0 to 1"),
        ({"component": 0, "n_words": 0}, "n_words"),
        ({"words": ["hose"]}, "similar names are horse"),
        ({"words": []}, "one word or more"),
    ):
        with pytest.raises(ValueError, match=message):
            TopicEvolutionDisplay.from_estimator(
                model, **{"feature_names": NAMES, **options}
            )


def test_curves_of_words(model, cars):
    plt = pytest.importorskip("matplotlib.pyplot")
    display = TopicEvolutionDisplay.from_estimator(
        model, cars, n_words=2, feature_names=NAMES
    )
    assert display.words.tolist() == ["engine", "horse"]
    assert_allclose(display.shares, model.topics_over_time_[:, cars][:, [2, 0]])
    assert display.ax_.get_title() == f"topic {cars}"
    assert len(display.ax_.get_lines()) == 2
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
        "engine",
        "horse",
    ]
    _, ax = plt.subplots()
    display = TopicEvolutionDisplay.from_estimator(
        model, words="snow", feature_names=NAMES, ax=ax
    )
    assert display.ax_ is ax
    expected = (model.prevalence_ * model.topics_over_time_[:, :, 7]).sum(axis=1)
    assert_allclose(display.shares[:, 0], expected, rtol=1e-6)
    for shape in ((2, 1), (3, 2), (3,)):
        with pytest.raises(ValueError, match=r"shares must have shape \(3, 1\)"):
            TopicEvolutionDisplay([1, 2, 3], np.ones(shape), ["snow"]).plot()
    # More words than there are: each once.
    display = TopicEvolutionDisplay.from_estimator(model, 0, n_words=99)
    assert sorted(display.words) == [f"x{v}" for v in range(8)]
    plt.close("all")


def test_dates_are_on_the_axis(X):
    plt = pytest.importorskip("matplotlib.pyplot")
    days = pd.to_datetime(TIMES.astype(str))
    model = DynamicTopicModel(2, max_iter=1, random_state=0).fit(X, times=days)
    display = TopicEvolutionDisplay.from_estimator(model, 0)
    display.figure_.canvas.draw()
    assert display.times.dtype == "datetime64[us]"
    plt.close("all")


# The topic page.


def test_slices_of_topics_are_on_the_page(model, X, tmp_path):
    path = topic_page(model, X, feature_names=NAMES, path=tmp_path / "page.html")
    slices = contents_of(path)[0]["slices"]
    assert slices["labels"] == ["1900", "1920", "1950"]
    for topic, of_topic in enumerate(contents_of(path)[0]["topics"]):
        found = np.array(slices["values"][topic])
        expected = model.topics_over_time_[:, topic][:, of_topic["words"]]
        assert_allclose(found, expected, rtol=1e-3)
    lda = LatentDirichletAllocation(2, max_iter=1, random_state=0).fit(X)
    page = contents_of(topic_page(lda, X, path=tmp_path / "page.html"))[0]
    assert page["slices"] is None
    assert page["edges"] == []


@pytest.mark.parametrize("relevance", [0.0, 1.0])
def test_the_most_relevant_words_of_each_slice_are_on_the_page(tmp_path, relevance):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.2, 2.0, size=(1, 200)), size=(90, 200))
    for place in range(3):
        # Rare words of one slice alone, and frequent ones.
        X[30 * place : 30 * place + 30, 40 * place : 40 * place + 40] += rng.poisson(
            0.1, size=(30, 40)
        )
    times = np.repeat([1, 2, 3], 30)
    model = DynamicTopicModel(1, chain_variance=1.0, max_iter=3, random_state=0)
    model.fit(X, times=times)
    contents = contents_of(topic_page(model, X, path=tmp_path / "page.html"))[0]
    (of_topic,) = contents["topics"]
    in_view = [int(contents["words"][word][1:]) for word in of_topic["words"]]
    for part in model.topics_over_time_[:, 0].astype(float):
        lifts = np.log(part / model.components_[0])
        relevances = relevance * np.log(part) + (1 - relevance) * lifts
        shown, best = (
            np.sort(part)[-20:] for part in (relevances[in_view], relevances)
        )
        assert_allclose(shown, best, rtol=1e-3)


@needs_chromium
def test_a_slider_shows_the_words_of_a_slice(model, X, cars, tmp_path):
    path = topic_page(model, X, feature_names=NAMES, path=tmp_path / "page.html")
    found = browsed(
        path,
        f"""
        set("#relevance", 1);
        touch({cars});
        found.words = [-1, 0, 2].map((slice) => {{
          set("#when", slice);
          return [one("#at").textContent, words().slice(0, 1)];
        }});
        found.hidden = one("#slices").hidden;
        """,
    )
    assert found["words"][1:] == [["in 1900", ["horse"]], ["in 1950", ["engine"]]]
    expected = words_of(contents_of(path)[0], cars, 1)[0]
    assert found["words"][0] == ["on average", expected[:1]]
    assert not found["hidden"]


@needs_chromium
def test_lines_join_topics_that_go_together(tmp_path):
    X = np.kron(np.diag([4, 5, 6]), np.ones((12, 4), dtype=int))
    X[:24, :8] += 2
    model = CorrelatedTopicModel(3, random_state=0).fit(X)
    path = topic_page(model, X, path=tmp_path / "page.html")
    pairs, values = topic_graph(model, n_edges=4)
    assert len(pairs) >= 1
    edges = contents_of(path)[0]["edges"]
    assert [edge[:2] for edge in edges] == pairs.tolist()
    assert_allclose([edge[2] for edge in edges], values, rtol=1e-3)
    found = browsed(
        path,
        """
        found.pairs = all("#circles .edge").map((edge) => edge.dataset.pair);
        const edge = one("#circles .edge");
        const [a, b] = edge.dataset.pair.split(" ").map((topic) =>
          one(`[data-topic="${topic}"] circle`));
        const ends = ["x1", "y1", "x2", "y2"];
        found.ends = ends.map((end) => edge.getAttribute(end));
        found.centers = [a, b].flatMap((circle) =>
          [circle.getAttribute("cx"), circle.getAttribute("cy")]);
        found.legend = one("#legend").textContent;
        """,
    )
    assert found["pairs"] == [f"{a} {b}" for a, b in pairs]
    assert found["ends"] == found["centers"]
    assert "Lines join topics" in found["legend"]
