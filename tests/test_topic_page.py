import html
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.decomposition import NMF, PCA
from sklearn.decomposition import LatentDirichletAllocation as ScikitLearnLDA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline

from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
)
from skdeepfactor.datasets import make_topics
from skdeepfactor.inspection import (
    hierarchy,
    name_components,
    to_pyldavis,
    top_features,
    top_rows,
    topics_over_time,
    topics_per_group,
)
from skdeepfactor.plotting import page, topic_page
from tests.forked import PATIENCE

TEXTS = [
    "red apple pear",
    "apple pear pear plum",
    "bus tram train",
    "tram train train ferry",
    "pear plum plum apple",
    "ferry bus bus tram",
] * 2

# What a browser, or somebody's server, might take for code.
HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "<!--",
    "<img src=x onerror=alert(1)>",
    "&amp;",
    "\"quoted\" 'words'",
    "{contents}",
    "line\u2028break",
]

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser"])), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs the browser chromium, which is not installed"
)


@pytest.fixture(scope="module")
def X():
    counts = make_topics(80, 60, 4, random_state=0).data.tolil()
    counts[5] = 0
    return counts.tocsr()


@pytest.fixture(scope="module")
def lda(X):
    return LatentDirichletAllocation(4, max_iter=20, random_state=0).fit(X)


@pytest.fixture(scope="module")
def def_(X):
    model = SparseGammaDEF((6, 3, 2), init="kmeans", max_iter=30, random_state=0)
    return model.fit(X)


@pytest.fixture(scope="module")
def dlgm(X):
    return NeuralTopicDLGM(5, max_iter=3, random_state=0).fit(X)


def contents_of(path):
    """What is on a page, and its text without that."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'id="contents">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0]), text.replace(found[0], "")


def written(path, *args, **parameters):
    """The contents of a page that is written."""
    return contents_of(topic_page(*args, path=path / "page.html", **parameters))[0]


def words_of(contents, topic, relevance):
    """What the page shows of a topic for a place of the slider."""
    words = np.array(contents["topics"][topic]["words"])
    values = np.array(contents["topics"][topic]["values"])
    lifts = values / np.array(contents["frequencies"])[words]
    relevances = relevance * np.log(values) + (1 - relevance) * np.log(lifts)
    order = np.argsort(-relevances, kind="stable")[: contents["n_words"]]
    return [contents["words"][word] for word in words[order]], relevances[order]


# ---- Contents ----


@pytest.mark.parametrize("convert", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_words_of_rows_of_any_type_of_number(convert, dtype, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.poisson(0.3, (30, 40)).astype(dtype)
    model = NMF(2, init="nndsvd", tol=0.01, random_state=0).fit(X)
    expected = written(tmp_path, model, X.astype(float))["rows"]
    assert any(len(words) > 3 for words in expected.values())
    assert written(tmp_path, model, convert(X))["rows"] == expected


def test_what_is_missing_counts_as_none(tmp_path):
    X = np.random.default_rng(0).poisson(1.0, (30, 8)).astype(float)
    X[::3, 2] = np.nan
    X[1] = 0
    model = PoissonFactorization(2, missing_values="ignore", random_state=0).fit(X)
    contents = written(tmp_path, model, X)
    arguments = to_pyldavis(model, X)
    assert (
        arguments["doc_lengths"].tolist() == np.nansum(np.delete(X, 1, 0), 1).tolist()
    )
    assert arguments["term_frequency"].tolist() == np.nansum(X, 0).tolist()
    lengths = arguments["doc_lengths"]
    weights = lengths @ arguments["doc_topic_dists"] / lengths.sum()
    shown = [topic["weight"] for topic in contents["topics"]]
    np.testing.assert_allclose(shown, weights, rtol=1e-4)
    for row, words in contents["rows"].items():
        assert len(words) == (X[int(row)] > 0).sum()
    nmf = NMF(2, tol=0.01, random_state=0).fit(np.nan_to_num(X))
    for read in (lambda: written(tmp_path, nmf, X), lambda: to_pyldavis(nmf, X)):
        with pytest.raises(ValueError, match="NMF does not accept missing values"):
            read()


def test_topics_that_are_all_alike(tmp_path):
    # More than ten, so that the map is made by t-SNE.
    X = np.tile([3, 1, 2, 0], (30, 1))
    model = ScikitLearnLDA(12, random_state=0).fit(X)
    model.components_ = np.tile(model.components_[0], (12, 1))
    contents = written(tmp_path, model, X)
    assert [topic["position"] for topic in contents["topics"]] == [[0.5, 0.5]] * 12


MODELS = {
    "poisson": PoissonFactorization(4, max_iter=10, random_state=0),
    "lda": LatentDirichletAllocation(4, max_iter=10, random_state=0),
    "def": SparseGammaDEF((4, 2), max_iter=10, random_state=0),
    "scikit-learn-lda": ScikitLearnLDA(4, random_state=0),
    "nmf": NMF(4, init="nndsvda", random_state=0, max_iter=1000),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_weights_and_probabilities_are_those_of_pyldavis(model, X, tmp_path):
    model = model.fit(X)
    contents = written(tmp_path, model, X)
    arguments = to_pyldavis(model, X)
    lengths = arguments["doc_lengths"]
    weights = lengths @ arguments["doc_topic_dists"] / lengths.sum()
    shown = [topic["weight"] for topic in contents["topics"]]
    np.testing.assert_allclose(shown, weights, rtol=1e-4, atol=1e-8)

    names = arguments["vocab"]
    frequencies = dict(zip(names, weights @ arguments["topic_term_dists"], strict=True))
    for topic, of_topic in enumerate(contents["topics"]):
        probabilities = dict(
            zip(names, arguments["topic_term_dists"][topic], strict=True)
        )
        words = [contents["words"][word] for word in of_topic["words"]]
        np.testing.assert_allclose(
            of_topic["values"],
            [probabilities[word] for word in words],
            rtol=1e-4,
            atol=1e-10,
        )
        np.testing.assert_allclose(
            [contents["frequencies"][word] for word in of_topic["words"]],
            [frequencies[word] for word in words],
            rtol=1e-4,
            atol=1e-10,
        )
    assert contents["are_shares"]
    assert contents["estimator"] == type(model).__name__
    assert (contents["n_rows"], contents["n_features"]) == X.shape


@pytest.mark.parametrize("relevance", [0.0, 0.35, 0.6, 1.0])
def test_the_words_in_view_are_the_most_relevant_of_all(lda, X, tmp_path, relevance):
    contents = written(tmp_path, lda, X)
    arguments = to_pyldavis(lda, X)
    lengths = arguments["doc_lengths"]
    weights = lengths @ arguments["doc_topic_dists"] / lengths.sum()
    probabilities = arguments["topic_term_dists"]
    lifts = probabilities / (weights @ probabilities)
    everything = relevance * np.log(probabilities) + (1 - relevance) * np.log(lifts)
    assert X.shape[1] > page.N_WORDS
    for topic in range(4):
        words, relevances = words_of(contents, topic, relevance)
        best = np.sort(everything[topic])[::-1][: page.N_WORDS]
        np.testing.assert_allclose(relevances, best, rtol=1e-3, atol=1e-3)
        of_shown = [everything[topic, int(word[1:])] for word in words]
        np.testing.assert_allclose(of_shown, best, rtol=1e-3, atol=1e-3)


def test_the_slider_has_the_places_that_words_are_kept_for(lda, X, tmp_path):
    path = topic_page(lda, X, path=tmp_path / "page.html")
    slider = re.search(r'<input type="range" [^>]*>', path.read_text("utf-8"))[0]
    step = float(re.search(r'step="([^"]*)"', slider)[1])
    np.testing.assert_allclose(page.RELEVANCES, np.arange(0, 1 + step / 2, step))
    assert 'min="0" max="1"' in slider


def test_only_words_that_can_be_shown_are_in_the_file(tmp_path):
    X = make_topics(200, 3000, 3, random_state=0).data
    model = PoissonFactorization(3, max_iter=5, random_state=0).fit(X)
    contents = written(tmp_path, model, X)
    used = {word for topic in contents["topics"] for word in topic["words"]}
    assert used == set(range(len(contents["words"])))
    assert len(contents["words"]) < 500
    assert (tmp_path / "page.html").stat().st_size < 90_000


def test_rows_are_the_top_rows_that_have_a_count(lda, X, tmp_path):
    contents = written(tmp_path, lda, X)
    is_left = np.asarray(X.sum(axis=1)).ravel() > 0
    assert not is_left[5]
    left = np.flatnonzero(is_left)
    for topic, of_topic in enumerate(contents["topics"]):
        indices, shares = top_rows(lda, X[is_left], topic, n=page.N_ROWS)
        assert of_topic["rows"] == left[indices].tolist()
        np.testing.assert_allclose(of_topic["row_weights"], shares, rtol=1e-4)
    shown = {row for topic in contents["topics"] for row in topic["rows"]}
    assert set(map(int, contents["rows"])) == shown


@pytest.mark.parametrize(
    "kind", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csr_array]
)
def test_rows_without_texts_have_their_largest_features(lda, X, tmp_path, kind):
    contents = written(tmp_path, lda, kind(X.toarray()))
    for row, words in contents["rows"].items():
        counts = X[int(row)].toarray()[0]
        of_words = [counts[int(word[1:])] for word in words]
        assert of_words == np.sort(counts)[::-1][: page.N_ROW_WORDS].tolist()


def test_texts_are_those_of_the_rows(tmp_path):
    pandas = pytest.importorskip("pandas")
    pipeline = make_pipeline(CountVectorizer(), PoissonFactorization(2, random_state=0))
    pipeline.fit(TEXTS)
    texts = [f"{row}: {text}" for row, text in enumerate(TEXTS)]
    texts[0] += " apple" * 200
    contents = written(tmp_path, pipeline, TEXTS, texts=texts)
    for row, text in contents["rows"].items():
        if row == "0":
            assert text == texts[0][: page.MAX_CHARACTERS - 1] + "…"
        else:
            assert text == texts[int(row)]
    assert "0" in contents["rows"]
    # The labels of a Series are not the places of its rows.
    series = pandas.Series(texts, index=range(len(texts), 0, -1))
    assert written(tmp_path, pipeline, TEXTS, texts=series) == contents
    words = CountVectorizer().fit(TEXTS).get_feature_names_out()
    assert contents["words"] == words.tolist()


def test_names_come_from_data_frames_or_are_given(X, tmp_path):
    pandas = pytest.importorskip("pandas")
    names = [f"gene {index}" for index in range(60)]
    frame = pandas.DataFrame(X.toarray(), columns=names)
    model = NMF(3, init="nndsvda", random_state=0, max_iter=1000).fit(frame)
    assert set(written(tmp_path, model, frame)["words"]) <= set(names)
    given = [f"cell {index}" for index in range(60)]
    contents = written(tmp_path, model, frame, feature_names=given)
    assert set(contents["words"]) <= set(given)
    # Names are what str makes of them.
    contents = written(tmp_path, model, frame, feature_names=list(range(60)))
    assert set(contents["words"]) <= set(map(str, range(60)))


def test_pipelines_name_the_words(tmp_path):
    nmf = NMF(2, init="nndsvda", random_state=0)
    pipeline = make_pipeline(CountVectorizer(), TfidfTransformer(), nmf).fit(TEXTS)
    contents = written(tmp_path, pipeline, TEXTS)
    words = [set(words_of(contents, topic, 1)[0]) for topic in range(2)]
    fruit, wheels = sorted(words, key=lambda some: "bus" in some)
    assert fruit == {"apple", "pear", "plum", "red"}
    assert wheels == {"bus", "ferry", "train", "tram"}
    assert contents["estimator"] == "NMF"


def test_where_a_word_is_used(lda, X, tmp_path):
    contents = written(tmp_path, lda, X)
    arguments = to_pyldavis(lda, X)
    lengths = arguments["doc_lengths"]
    weights = lengths @ arguments["doc_topic_dists"] / lengths.sum()
    joint = weights[:, np.newaxis] * arguments["topic_term_dists"]
    shares = joint / joint.sum(axis=0)
    assert len(contents["uses"]) == len(contents["words"])
    for word, (topics, uses) in zip(contents["words"], contents["uses"], strict=True):
        column = shares[:, int(word[1:])]
        np.testing.assert_allclose(uses, column[topics], rtol=1e-4)
        assert uses == sorted(uses, reverse=True)
        others = np.setdiff1d(np.arange(4), topics)
        assert (column[others] < page.MIN_USE * uses[0]).all()


class Known(BaseEstimator):
    """A fitted estimator whose components and factors are given."""

    def __init__(self, components, factors):
        self.components = components
        self.factors = factors

    def fit(self, X, y=None):
        self.components_ = np.array(self.components, dtype=float)
        return self

    def transform(self, X):
        return np.array(self.factors, dtype=float)


def test_topics_without_weight_are_shown(tmp_path):
    components = [[4, 2, 0, 0], [0, 0, 3, 3], [0, 0, 0, 0]]
    X = np.array([[4.0, 2, 0, 0], [8, 4, 0, 0], [0, 0, 3, 3], [0, 0, 0, 0]])
    model = Known(components, [[1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 0]]).fit(X)
    contents = written(tmp_path, model, X)
    np.testing.assert_allclose(
        [topic["weight"] for topic in contents["topics"]], [0.75, 0.25, 0]
    )
    dead = contents["topics"][2]
    assert (dead["words"], dead["values"]) == ([], [])
    rows = [topic["rows"] for topic in contents["topics"]]
    assert rows == [[0, 1, 2], [2, 0, 1], [0, 1, 2]]


def test_signed_components_have_loadings(dlgm, X, tmp_path):
    contents = written(tmp_path, dlgm, X)
    assert not contents["are_shares"]
    assert contents["frequencies"] is None
    factors = dlgm.transform(X)
    best = top_features(dlgm, 10, by="loading")
    best = np.asarray(best)
    assert dlgm.components_.min() < 0
    for topic, of_topic in enumerate(contents["topics"]):
        loadings = dlgm.components_[topic]
        order = np.argsort(-np.array(of_topic["values"]))
        words = [contents["words"][of_topic["words"][place]] for place in order]
        assert words[:10] == best[topic].tolist()
        np.testing.assert_allclose(
            np.sort(of_topic["values"])[:10], np.sort(loadings)[:10], rtol=1e-4
        )
        np.testing.assert_allclose(of_topic["weight"], factors[:, topic].var(), 1e-4)
        rows, weights = top_rows(dlgm, X, topic, n=page.N_ROWS)
        assert of_topic["rows"] == rows.tolist()
        np.testing.assert_allclose(of_topic["row_weights"], weights, rtol=1e-4)
    word = contents["words"].index(best[0, 0])
    topics, uses = contents["uses"][word]
    column = dlgm.components_[:, int(best[0, 0][1:])]
    assert topics == np.argsort(-np.abs(column))[: len(topics)].tolist()
    np.testing.assert_allclose(uses, column[topics], rtol=1e-4)


def test_principal_components_have_loadings(tmp_path):
    X = np.random.default_rng(0).normal(size=(30, 6))
    contents = written(tmp_path, PCA(3).fit(X), X)
    assert [len(topic["words"]) for topic in contents["topics"]] == [6, 6, 6]


def test_the_tree_is_the_hierarchy(def_, X, tmp_path):
    contents = written(tmp_path, def_, X)
    assert contents["layer"] == 1
    assert len(contents["topics"]) == 6

    def compared(shown, units):
        assert len(shown) == len(units)
        for one, unit in zip(shown, units, strict=True):
            assert one["features"] == unit["features"]
            assert (one["layer"], one["unit"]) == (unit["layer"], unit["unit"])
            np.testing.assert_allclose(one["share"], unit.get("share", 1), rtol=1e-4)
            compared(one["units"], unit["units"])

    compared(contents["tree"], hierarchy(def_, n=page.N_UNITS))
    assert contents["tree"][0]["units"][0]["units"]


def test_topics_are_the_units_of_the_layer_that_is_transformed_to(X, tmp_path):
    model = SparseGammaDEF((6, 3), max_iter=20, transform_layer=2, random_state=0)
    contents = written(tmp_path, model.fit(X), X)
    assert contents["layer"] == 2
    assert len(contents["topics"]) == 3
    with pytest.raises(ValueError, match="one layer"):
        topic_page(model.set_params(transform_layer="all"), X, path=tmp_path / "a.html")


@pytest.mark.parametrize("name", ["lda", "dlgm"])
def test_other_models_have_no_tree(name, X, tmp_path, request):
    contents = written(tmp_path, request.getfixturevalue(name), X)
    assert (contents["layer"], contents["tree"]) == (None, [])


def test_one_layer_is_no_tree(X, tmp_path):
    model = SparseGammaDEF((3,), max_iter=5, random_state=0).fit(X)
    contents = written(tmp_path, model, X)
    assert (contents["layer"], contents["tree"]) == (None, [])


@pytest.mark.parametrize("n_topics", [1, 2, 5, 20])
def test_positions_fill_the_unit_square(n_topics, X, tmp_path):
    model = LatentDirichletAllocation(n_topics, max_iter=2, random_state=0).fit(X)
    contents = written(tmp_path, model, X)
    positions = np.array([topic["position"] for topic in contents["topics"]])
    assert positions.shape == (n_topics, 2)
    if n_topics == 1:
        assert positions.tolist() == [[0.5, 0.5]]
        return
    assert (positions.min(axis=0)[0], positions.max(axis=0)[0]) == (0, 1)
    if n_topics == 2:  # two points are on a line
        assert positions[:, 1].tolist() == [0.5, 0.5]
    else:
        assert (positions.min(axis=0)[1], positions.max(axis=0)[1]) == (0, 1)


def test_alike_topics_are_near_each_other(tmp_path):
    components = np.array([[9, 9, 1, 0, 0], [9, 8, 2, 0, 0], [0, 0, 0, 9, 9]])
    contents = written(
        tmp_path, Known(components, np.eye(3)).fit(components), components
    )
    a, b, c = np.array([topic["position"] for topic in contents["topics"]])[:, 0]
    assert abs(a - b) < 0.2
    assert min(abs(a - c), abs(b - c)) > 0.8


def test_the_same_fit_gives_the_same_page(lda, X, tmp_path):
    first = topic_page(lda, X, path=tmp_path / "first.html").read_bytes()
    assert topic_page(lda, X, path=tmp_path / "second.html").read_bytes() == first


# ---- File ----


def test_paths(lda, X, tmp_path, monkeypatch):
    path = topic_page(lda, X, path=tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    text = path.read_text(encoding="utf-8")
    assert topic_page(lda, X, path=str(tmp_path / "other.html")).read_text() == text
    # A file that is there is replaced, and a relative path is one of this folder.
    (tmp_path / "there.html").write_text("old")
    monkeypatch.chdir(tmp_path)
    assert topic_page(lda, X, path="there.html") == tmp_path / "there.html"
    assert (tmp_path / "there.html").read_text() == text
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert topic_page(lda, X, path="~/home.html") == tmp_path / "home.html"


def test_nothing_is_loaded_from_elsewhere(def_, X, tmp_path):
    path = topic_page(def_, X, texts=["text"] * 80, path=tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    for address in ("http:", "https:", "//cdn", 'src="', "@import", "url(", "fetch("):
        assert address not in text
    assert "default-src 'none'" in text
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b", text)


def test_text_of_the_data_stays_text(tmp_path):
    X = np.random.default_rng(0).poisson(3, (20, len(HOSTILE)))
    model = PoissonFactorization(2, max_iter=3, random_state=0).fit(X)
    texts = [HOSTILE[row % len(HOSTILE)] for row in range(20)]
    path = topic_page(
        model, X, feature_names=HOSTILE, texts=texts, path=tmp_path / "page.html"
    )
    contents, rest = contents_of(path)
    assert sorted(contents["words"]) == sorted(HOSTILE)
    assert set(contents["rows"].values()) <= set(HOSTILE)
    # All of it is in the JSON, where nothing can end the element.
    assert not any(word in rest for word in ("alert(1)", "onerror", "quoted"))
    text = path.read_text(encoding="utf-8")
    assert len(re.findall("</script", text, re.IGNORECASE)) == 2
    assert "\u2028" not in text


def test_texts_that_cannot_be_encoded_are_written(lda, X, tmp_path):
    contents = written(tmp_path, lda, X, texts=["half \ud83d a pair, žluťoučký"] * 80)
    assert set(contents["rows"].values()) == {"half ? a pair, žluťoučký"}


# ---- Errors ----


def test_errors_of_arguments(lda, X, tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match=r"texts must have one .* 80 rows, got 79"):
        topic_page(lda, X, texts=["text"] * 79, path=path)
    with pytest.raises(ValueError, match=r"shape \(60,\), got \(59,\)"):
        topic_page(lda, X, feature_names=["word"] * 59, path=path)
    with pytest.raises(ValueError, match="every row is empty"):
        topic_page(lda, np.zeros((3, 60)), path=path)
    with pytest.raises(FileNotFoundError, match="must be in a folder that exists"):
        topic_page(lda, X, path=tmp_path / "nowhere" / "page.html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        topic_page(lda, X, path=tmp_path)
    with pytest.raises(TypeError):
        topic_page(lda, X, path=3)
    with pytest.raises(TypeError, match="path"):
        topic_page(lda, X)
    assert list(tmp_path.iterdir()) == []


class Unfactored(BaseEstimator):
    """A fitted estimator without components."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self


def test_errors_of_estimators(X, tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(NotFittedError):
        topic_page(LatentDirichletAllocation(3), X, path=path)
    pipeline = make_pipeline(CountVectorizer(), LatentDirichletAllocation(3))
    with pytest.raises(NotFittedError):
        topic_page(pipeline, TEXTS, path=path)
    with pytest.raises(TypeError, match="components_"):
        topic_page(Unfactored().fit(X), X, path=path)
    assert list(tmp_path.iterdir()) == []


# ---- In a browser ----

# Runs before anything else on the page.
WATCH = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", (e) => problems.push(e.blockedURI));
for (const name of ["error", "warn"]) {
  console[name] = (...parts) => problems.push(parts.join(" "));
}
</script>"""

# Runs when the page is there: fills `found`, which is handed to the page around it.
ACT = """<script>
const found = {};
const all = (selector) => [...document.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);
const texts = (selector) => all(selector).map((element) => element.textContent);
const set = (selector, value, type = "input") => {
  one(selector).value = value;
  one(selector).dispatchEvent(new Event(type, { bubbles: true }));
};
const press = (key, element = document.activeElement) => element.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const words = () => texts("#words button .name");
// What a finger meets in the middle of a circle.
const touch = (topic) => {
  const box = one(`[data-topic="${topic}"] circle`).getBoundingClientRect();
  const met = document.elementFromPoint(
    (box.left + box.right) / 2, (box.top + box.bottom) / 2);
  met.dispatchEvent(new MouseEvent("click", { bubbles: true }));
};
addEventListener("load", () => setTimeout(() => {
  try {
    SCRIPT
  } catch (error) {
    problems.push(`${error}`);
  }
  // What goes wrong a little later is a problem, too.
  setTimeout(() => parent.postMessage({ found, problems }, "*"), 200);
}, 100));
</script>"""

# A window is never as narrow as a phone, but a frame is.
FRAME = """<!DOCTYPE html>
<iframe src="acted.html" width="{width}" height="{height}"></iframe>
<pre></pre>
<script>
onmessage = (event) => {{
  document.querySelector("pre").textContent = JSON.stringify(event.data);
}};
</script>"""


def browsed(page_path, script, width=1200, height=800):
    """What a script finds on a page in a browser, which must have no complaints."""
    folder = page_path.parent
    text = page_path.read_text(encoding="utf-8")
    text = text.replace("<head>", "<head>" + WATCH, 1)
    text += ACT.replace("SCRIPT", script)
    (folder / "acted.html").write_text(text, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, height=height))
    shown = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width + 100},{height + 200}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    result = re.search("<pre>(.+?)</pre>", shown.stdout, re.DOTALL)
    assert result, shown.stderr[-3000:]
    result = json.loads(html.unescape(result[1]))
    assert result["problems"] == []
    assert "CONSOLE" not in shown.stderr
    return result["found"]


@pytest.fixture(scope="module")
def lda_page(lda, X, tmp_path_factory):
    return topic_page(lda, X, path=tmp_path_factory.mktemp("lda") / "page.html")


@needs_chromium
def test_complaints_of_the_browser_are_noticed(lda_page):
    with pytest.raises(AssertionError, match="is not defined"):
        browsed(lda_page, "setTimeout(() => nothing(), 0);")
    with pytest.raises(AssertionError, match="a complaint"):
        browsed(lda_page, "console.error('a complaint');")
    # Nothing may be loaded, and so nothing is asked of a network.
    with pytest.raises(AssertionError, match=r"example\.org"):
        browsed(lda_page, "new Image().src = 'https://example.org/picture.png';")


@needs_chromium
def test_a_click_chooses_a_topic(lda_page):
    contents, _ = contents_of(lda_page)
    weights = [topic["weight"] for topic in contents["topics"]]
    found = browsed(
        lda_page,
        """
        found.title = document.title;
        found.first = one("#topic-title").textContent;
        found.topics = [0, 1, 2, 3].map((topic) => {
          touch(topic);
          return {
            title: one("#topic-title").textContent,
            words: words(),
            rows: texts("#rows li div"),
            selected: all('[role="option"][aria-selected="true"]')
              .map((group) => group.dataset.topic),
            choice: one("#choice").value,
          };
        });
        set("#choice", "1", "change");
        found.chosen = one("#topic-title").textContent;
        """,
    )
    assert found["title"] == "4 topics · LatentDirichletAllocation"
    assert found["first"] == f"Topic {np.argmax(weights)}"
    assert found["chosen"] == "Topic 1"
    for topic, shown in enumerate(found["topics"]):
        assert shown["title"] == f"Topic {topic}"
        assert shown["words"] == words_of(contents, topic, 0.6)[0]
        assert shown["selected"] == [str(topic)]
        assert shown["choice"] == str(topic)
        rows = [re.match(r"Row (\d+) · ", row)[1] for row in shown["rows"]]
        assert [int(row) for row in rows] == contents["topics"][topic]["rows"]


@needs_chromium
def test_the_slider_orders_the_words(lda_page):
    contents, _ = contents_of(lda_page)
    found = browsed(
        lda_page,
        """
        touch(2);
        found.words = [0, 0.35, 1].map((value) => {
          set("#relevance", value);
          return words();
        });
        found.shown = one("#lambda").textContent;
        found.widths = all("#words .bar i").map((bar) => bar.style.width);
        touch(3);
        found.kept = words();
        """,
    )
    for relevance, words in zip([0, 0.35, 1], found["words"], strict=True):
        assert words == words_of(contents, 2, relevance)[0]
    assert found["words"][0] != found["words"][2]
    assert found["shown"] == "1.00"
    assert found["widths"][0] == "100%"
    widths = [float(width[:-1]) for width in found["widths"]]
    values = np.sort(contents["topics"][2]["values"])[::-1][: page.N_WORDS]
    np.testing.assert_allclose(widths, 100 * values / values[0], rtol=1e-3)
    assert found["kept"] == words_of(contents, 3, 1)[0]


@needs_chromium
def test_a_word_is_searched_for(lda_page):
    contents, _ = contents_of(lda_page)
    word = contents["words"].index("x7")
    topics, shares = contents["uses"][word]
    found = browsed(
        lda_page,
        """
        set("#query", "X7");
        found.matches = texts("#matches li");
        one("#search").requestSubmit();
        found.hidden = one("#matches").hidden;
        found.text = one("#found").textContent;
        found.used = all("#circles g.used").map((group) => Number(group.dataset.topic));
        found.radii = all("#circles g.used").map((group) => {
          const [whole, part] = group.querySelectorAll("circle");
          return part.r.baseVal.value / whole.r.baseVal.value;
        });
        one("#found button").click();
        found.topic = one("#topic-title").textContent;
        set("#query", "no such word");
        one("#search").requestSubmit();
        found.missing = one("#found").textContent;
        found.left = all("#circles g.used").length;
        touch(0);
        one("#words button").click();
        found.clicked = one("#found strong").textContent;
        found.pressed = texts('#words [aria-pressed="true"] .name');
        one('#found [aria-label="Clear the search"]').click();
        found.cleared = one("#found").textContent;
        """,
    )
    assert found["matches"][0] == "x7"
    assert found["hidden"]
    assert found["text"].startswith(f"x7 comes fromTopic {topics[0]} · ")
    assert sorted(found["used"]) == sorted(topics)
    # Areas are shares.
    of_topics = dict(zip(topics, shares, strict=True))
    np.testing.assert_allclose(
        np.square(found["radii"]), [of_topics[topic] for topic in found["used"]], 1e-3
    )
    assert found["topic"] == f"Topic {topics[0]}"
    assert "no such word" in found["missing"]
    assert found["left"] == 0
    assert found["clicked"] == words_of(contents, 0, 0.6)[0][0]
    assert found["pressed"] == [found["clicked"]]
    assert found["cleared"] == ""


@needs_chromium
def test_keys_do_what_the_mouse_does(lda_page):
    contents, _ = contents_of(lda_page)
    weights = np.array([topic["weight"] for topic in contents["topics"]])
    order = np.argsort(-weights, kind="stable").tolist()
    found = browsed(
        lda_page,
        """
        const topic = () => Number(document.activeElement.dataset.topic);
        found.stops = all('#circles [tabindex="0"]').length;
        one('#circles [tabindex="0"]').focus();
        found.visited = [topic()];
        for (const key of ["ArrowRight", "ArrowDown", "End", "ArrowRight", "Home"]) {
          press(key);
          found.visited.push(topic());
        }
        found.title = one("#topic-title").textContent;
        one("#query").focus();
        set("#query", "x");
        press("ArrowDown");
        press("ArrowDown");
        press("ArrowDown");
        press("ArrowUp");
        found.second = texts("#matches li")[1];
        const active = one("#query").getAttribute("aria-activedescendant");
        found.active = document.getElementById(active).textContent;
        one("#search").requestSubmit();
        found.value = one("#query").value;
        set("#query", "x");
        press("Escape");
        found.closed = one("#matches").hidden;
        found.unnamed = all("button, input, select, summary, [role]").filter(
          (element) => !(element.getAttribute("aria-label") || element.textContent
            || element.labels?.length)).map((element) => element.outerHTML);
        """,
    )
    assert found["stops"] == 1
    assert found["visited"] == [order[0], order[1], order[2], *[order[3]] * 2, order[0]]
    assert found["title"] == f"Topic {order[0]}"
    assert found["active"] == found["second"] == found["value"]
    assert found["closed"]
    assert [one for one in found["unnamed"] if 'id="found"' not in one] == []


@needs_chromium
def test_the_tree_opens_and_leads_to_topics(def_, X, tmp_path):
    path = topic_page(def_, X, path=tmp_path / "page.html")
    contents, _ = contents_of(path)
    found = browsed(
        path,
        """
        const seen = () => all("#units li").filter((line) => line.checkVisibility());
        found.closed = seen().length;
        one("#units summary").click();
        found.opened = seen().length;
        one("#expand").click();
        found.all = seen().length;
        found.first = one("#units summary").textContent;
        const link = one("#units .link");
        found.link = link.textContent;
        link.click();
        found.title = one("#topic-title").textContent;
        one("#collapse").click();
        found.collapsed = seen().length;
        """,
    )
    tree = contents["tree"]
    assert found["closed"] == found["collapsed"] == len(tree) == 2
    assert found["opened"] == 2 + len(tree[0]["units"])

    def n_lines(units):
        return sum(1 + n_lines(unit["units"]) for unit in units)

    assert found["all"] == n_lines(tree)
    assert found["first"] == f"Unit 0 · {', '.join(tree[0]['features'])}"
    leaf = tree[0]["units"][0]["units"][0]["unit"]
    assert found["link"] == found["title"] == f"Topic {leaf}"


@needs_chromium
def test_units_above_the_lowest_layer_lead_to_topics(X, tmp_path):
    model = SparseGammaDEF((6, 3), max_iter=20, transform_layer=2, random_state=0)
    path = topic_page(model.fit(X), X, path=tmp_path / "page.html")
    found = browsed(
        path,
        """
        one("#expand").click();
        found.links = texts("#units .link");
        all("#units .link")[2].click();
        found.title = one("#topic-title").textContent;
        """,
    )
    assert found["links"] == ["Show topic 0", "Show topic 1", "Show topic 2"]
    assert found["title"] == "Topic 2"


@needs_chromium
def test_signed_components_have_two_ends(dlgm, X, tmp_path):
    path = topic_page(dlgm, X, path=tmp_path / "page.html")
    contents, _ = contents_of(path)
    found = browsed(
        path,
        """
        touch(1);
        found.slider = one("#slider").checkVisibility();
        found.words = words();
        found.less = all("#words .bar i.less").length;
        found.legend = one("#legend").textContent;
        one("#words button").click();
        found.uses = texts("#found button");
        """,
    )
    assert not found["slider"]
    assert "variance" in found["legend"]
    topic = contents["topics"][1]
    values = np.array(topic["values"])
    names = np.array([contents["words"][word] for word in topic["words"]])
    more = names[np.argsort(-values)][:10]
    less = names[np.argsort(values)][:10]
    assert found["words"] == [*more, *less]
    assert found["less"] == 10
    assert found["uses"][0].startswith("Topic ")


@needs_chromium
def test_markup_in_the_data_is_shown_as_it_is(tmp_path):
    X = np.random.default_rng(0).poisson(3, (20, len(HOSTILE)))
    model = PoissonFactorization(2, max_iter=3, random_state=0).fit(X)
    texts = [HOSTILE[row % len(HOSTILE)] for row in range(20)]
    path = topic_page(
        model, X, feature_names=HOSTILE, texts=texts, path=tmp_path / "page.html"
    )
    found = browsed(
        path,
        """
        found.words = words();
        found.rows = texts("#rows p");
        found.images = document.images.length;
        set("#query", "<script>");
        one("#search").requestSubmit();
        found.sought = one("#found strong").textContent;
        """,
    )
    assert sorted(found["words"]) == sorted(HOSTILE)
    assert set(found["rows"]) <= set(HOSTILE)
    assert found["images"] == 0
    assert found["sought"] == HOSTILE[0]


def test_slices_are_on_the_page(lda, X, tmp_path):
    times = np.repeat(["2001", "2003-05", "2002"], X.shape[0] // 3 + 1)[: X.shape[0]]
    groups = np.arange(X.shape[0]) % 2
    contents = written(tmp_path, lda, X, times=times, groups=groups)
    over, by_group = contents["over_time"], contents["by_group"]
    assert over["labels"] == ["2001-01-01", "2002-01-01", "2003-05-01"]
    np.testing.assert_allclose(over["places"], [0, 365 / 850, 1], atol=1e-4)
    topics = topics_over_time(lda, X, times)
    np.testing.assert_allclose(np.transpose(over["shares"]), topics.shares, 1e-3)
    np.testing.assert_allclose(over["overall"], topics.overall, 1e-3)
    assert over["n_rows"] == topics.n_rows.tolist()
    assert over["words"][1][2] == topics.words[2][1]
    topics = topics_per_group(lda, X, groups)
    assert by_group["labels"] == ["0", "1"]
    np.testing.assert_allclose(np.transpose(by_group["shares"]), topics.shares, 1e-3)
    binned = written(tmp_path, lda, X, times=np.arange(X.shape[0]), n_bins=4)
    assert len(binned["over_time"]["labels"]) == 4
    assert binned["by_group"] is None


def test_times_and_covariates_reach_the_model(X, tmp_path):
    times, groups = np.arange(X.shape[0]) % 2, np.arange(X.shape[0]) % 3
    options = {"max_iter": 2, "random_state": 0}
    model = DynamicTopicModel(3, chain_variance=1.0, **options).fit(X, times=times)
    contents = written(tmp_path, model, X, times=times, groups=groups)
    shares = model.transform(X, times=times)
    weights = np.asarray(X.sum(axis=1)).ravel() @ shares
    found = [topic["weight"] for topic in contents["topics"]]
    np.testing.assert_allclose(found, weights / weights.sum(), 1e-3)
    np.testing.assert_allclose(contents["by_group"]["overall"], found, 1e-3)
    np.testing.assert_allclose(contents["over_time"]["overall"], found, 1e-3)

    model = CorrelatedTopicModel(3, **options).fit(X, covariates=times)
    contents = written(tmp_path, model, X, groups=times, covariates=times)
    topics = topics_per_group(model, X, times, covariates=times)
    found = np.transpose(contents["by_group"]["shares"])
    np.testing.assert_allclose(found, topics.shares, 1e-3)
    first = next(iter(contents["origins"]))
    row = [int(first)]
    by_word = model.topic_assignments(X[row], by="word", covariates=times[row])
    words = [f"x{column}" for column in X[row].nonzero()[1]]
    expected = dict(zip(words, by_word.argmax(axis=1).tolist(), strict=True))
    origins = contents["origins"][first]
    assert origins == {word: expected[word] for word in origins}


def test_slices_of_signed_factors_and_a_single_time(dlgm, X, tmp_path):
    contents = written(tmp_path, dlgm, X, times=np.zeros(X.shape[0]))
    assert contents["over_time"]["words"] is None
    assert contents["over_time"]["places"] == [0.0]
    assert contents["origins"] == {}


def test_bad_slices_leave_the_page_alone(lda, X, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    for options, message in [
        ({"times": [1, 2]}, "times must have one entry"),
        ({"times": np.full(X.shape[0], np.datetime64("NaT"))}, "must not be missing"),
        ({"groups": ["a"]}, "groups must have one entry"),
        ({"times": np.arange(X.shape[0]), "n_bins": 0}, "n_bins must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            topic_page(lda, X, path=path, **options)
    assert path.read_text() == "before"


def test_words_of_rows_have_origins(tmp_path):
    model = PoissonFactorization(2, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), model).fit(TEXTS)
    counts = pipeline[0].transform(TEXTS)
    shares = model.topic_assignments(counts, by="word")
    words = pipeline[0].get_feature_names_out()
    rows, columns = counts.nonzero()
    expected = {}
    for row, column, topic in zip(rows, columns, shares.argmax(axis=1), strict=True):
        expected.setdefault(str(row), {})[words[column]] = topic
    texts = [text.title() + "!" for text in TEXTS]
    for given in (texts, None):
        contents = written(tmp_path, pipeline, TEXTS, texts=given)
        assert contents["origins"] == {row: expected[row] for row in contents["rows"]}
    cut = ["nothing" for _ in TEXTS]
    contents = written(tmp_path, pipeline, TEXTS, texts=cut)
    assert not any(contents["origins"].values())


def test_names_are_on_the_page(lda, X, tmp_path):
    assert written(tmp_path, lda, X)["labels"] is None
    named = name_components(lda, ["a", "b", "c", "d"])
    assert written(tmp_path, named, X)["labels"] == ["a", "b", "c", "d"]


@needs_chromium
def test_slices_are_drawn(lda, X, tmp_path):
    named = name_components(lda, ["one", "two", "three", "<b>four</b>"])
    path = topic_page(
        named,
        X,
        times=np.arange(X.shape[0]),
        n_bins=5,
        groups=np.where(np.arange(X.shape[0]) % 3, "many", "few"),
        path=tmp_path / "page.html",
    )
    contents, _ = contents_of(path)
    found = browsed(
        path,
        """
        touch(3);
        found.title = one("#topic-title").textContent;
        found.points = all("#curve circle").length;
        found.slice = one("#slice").textContent;
        const box = one("#curve").getBoundingClientRect();
        one("#curve").dispatchEvent(new PointerEvent("pointermove",
          { clientX: box.left + 2, clientY: box.top + 9, bubbles: true }));
        found.first = one("#slice").textContent;
        found.groups = texts("#groups li .name");
        found.bold = all("#topic b b").length;
        """,
    )
    over, by_group = contents["over_time"], contents["by_group"]
    assert found["title"] == "<b>four</b>"
    assert found["points"] == 5
    peak = np.argmax(over["shares"][3])
    assert found["slice"].startswith(f"Highest in {over['labels'][peak]}: ")
    assert found["first"].startswith(f"{over['labels'][0]}: ")
    order = np.argsort(by_group["shares"][3])[::-1]
    assert found["groups"] == [by_group["labels"][i] for i in order]


@needs_chromium
def test_words_of_the_topic_are_marked_in_texts(tmp_path):
    pipeline = make_pipeline(CountVectorizer(), PoissonFactorization(2, random_state=0))
    texts = [text.title() + "!" for text in TEXTS]
    path = topic_page(
        pipeline.fit(TEXTS), TEXTS, texts=texts, path=tmp_path / "page.html"
    )
    found = browsed(
        path,
        """
        found.words = words().map((word) => word.toLowerCase());
        found.rows = texts("#rows p");
        found.marks = texts("#rows mark");
        """,
    )
    assert set(found["rows"]) <= set(texts)
    contents, _ = contents_of(path)
    topic = max((0, 1), key=lambda topic: contents["topics"][topic]["weight"])
    expected = [
        word
        for row in contents["topics"][topic]["rows"]
        for word in TEXTS[row].split()
        if contents["origins"][str(row)].get(word) == topic
    ]
    assert expected
    assert [mark.lower() for mark in found["marks"]] == expected


LAYOUT = """
const frame = one("#circles").getBoundingClientRect();
const box = (element) => {
  const { left, top, right, bottom } = element.getBoundingClientRect();
  return [left - frame.left, top - frame.top, right - frame.left, bottom - frame.top];
};
found.frame = [frame.width, frame.height];
found.overflow = document.documentElement.scrollWidth - innerWidth;
const boxes = (selector) => all(selector).map((drawn) =>
  [Number(drawn.parentNode.dataset.topic), ...box(drawn)]);
found.circles = boxes("#circles circle");
found.labels = boxes("#circles .word");
found.named = all("#circles g").filter((group) =>
  group.querySelector(".word, .inside")).length;
found.cut = all("main *, header *").filter((element) => element.checkVisibility()
  && !element.closest("svg") && element.getBoundingClientRect().right > innerWidth + 1)
  .map((element) => element.outerHTML);
"""


@needs_chromium
@pytest.mark.parametrize("size", [(1200, 800), (360, 740)], ids=["wide", "phone"])
@pytest.mark.parametrize("n_topics", [1, 5, 20, 100])
def test_nothing_on_the_map_overlaps(n_topics, size, tmp_path):
    X = make_topics(150, 120, 8, random_state=0).data
    model = LatentDirichletAllocation(n_topics, max_iter=3, random_state=0).fit(X)
    names = [f"word{'s' * (index % 13)}{index}" for index in range(120)]
    texts = ["a text of words" * 30] * 150
    path = topic_page(
        model, X, feature_names=names, texts=texts, path=tmp_path / "page.html"
    )
    found = browsed(path, LAYOUT, *size)
    width, height = found["frame"]
    assert found["overflow"] <= 0
    assert found["cut"] == []
    circles = np.array(found["circles"])[:, 1:]
    assert len(circles) == n_topics
    radii = (circles[:, 2] - circles[:, 0]) / 2
    centers = (circles[:, :2] + circles[:, 2:]) / 2
    assert circles.min() >= 0
    assert (circles[:, 2:] <= [width, height]).all()
    # Large enough for a finger, more or less.
    assert radii.min() > 8
    gaps = np.linalg.norm(centers[:, np.newaxis] - centers, axis=2)
    gaps -= radii[:, np.newaxis] + radii
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() > -1

    assert found["named"] >= min(n_topics, 5)
    labels = np.array(found["labels"]).reshape(-1, 5)
    assert labels[:, 1:].min(initial=0) >= 0
    assert (labels[:, 3:] <= [width, height]).all()
    for others in (labels, np.array(found["circles"])):
        low, high = labels[:, np.newaxis, 1:3] + 1, labels[:, np.newaxis, 3:] - 1
        overlaps = ((low < others[:, 3:]) & (others[:, 1:3] < high)).all(axis=2)
        # A label may be in the corner of the box of its own circle.
        overlaps &= labels[:, np.newaxis, 0] != others[:, 0]
        assert not overlaps.any()


def test_the_page_is_beside_the_code():
    assert pathlib.Path(page.__file__).with_name("page.html").is_file()
