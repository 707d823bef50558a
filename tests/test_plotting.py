import ast
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import NMF
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
    plotting,
)
from skdeepfactor.datasets import make_topics
from skdeepfactor.inspection import factor_shares, hierarchy
from skdeepfactor.metrics import scorers
from skdeepfactor.plotting import (
    ComponentSelectionDisplay,
    EmbeddingDisplay,
    HierarchyDisplay,
    TopicsDisplay,
    TrainingDisplay,
    TraversalDisplay,
    UsageDisplay,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

TEXTS = ["red apple pear", "apple pear pear", "bus tram train", "tram train train"] * 3


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def X():
    return make_topics(60, 30, 3, random_state=0).data


@pytest.fixture(scope="module")
def lda(X):
    return LatentDirichletAllocation(3, max_iter=2, random_state=0).fit(X)


def words(axis):
    return [text.get_text() for text in axis.texts]


def widths(axis):
    return np.array([bar.get_width() for bar in axis.patches])


def assert_texts_are_clear(figure):
    """Texts lie in the figure, and no two on each other."""
    figure.draw_without_rendering()
    hidden = {text for axis in figure.axes for text in texts_out_of_view(axis)}
    texts = [
        text
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_text() and text.get_visible() and text not in hidden
    ]
    boxes = np.array([text.get_window_extent().extents for text in texts])
    assert len(boxes) > 0
    assert boxes.min() >= -1
    assert (boxes[:, 2:] <= np.add(figure.bbox.size, 1)).all()
    # What rounding makes of boxes that touch is no overlap.
    left, bottom, right, top = boxes.T + np.array([[0.5], [0.5], [-0.5], [-0.5]])
    overlaps = (
        (left[:, None] < right)
        & (left < right[:, None])
        & (bottom[:, None] < top)
        & (bottom < top[:, None])
    )
    i, j = np.nonzero(np.triu(overlaps, 1))
    pairs = [
        (texts[a].get_text(), texts[b].get_text()) for a, b in zip(i, j, strict=True)
    ]
    assert pairs == []


def texts_out_of_view(axis):
    """Labels of ticks that are not drawn, since they lie beyond the limits."""
    for direction in (axis.xaxis, axis.yaxis):
        low, high = sorted(direction.get_view_interval())
        for tick in direction.get_major_ticks() + direction.get_minor_ticks():
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def test_topics_are_the_largest_weights_in_order(lda):
    display = TopicsDisplay.from_estimator(lda, n_top=4)
    assert display.ax_.shape == (3,)
    for axis, weights in zip(display.ax_, lda.components_, strict=True):
        order = np.argsort(-weights, kind="stable")[:4]
        assert words(axis) == [f"x{index}" for index in order]
        np.testing.assert_allclose(widths(axis), weights[order])
        bottom, top = axis.get_ylim()
        assert bottom > top  # the first bar is at the top
        assert axis.get_xlim() == (0, weights.max())
    assert display.figure_ is display.ax_[0].figure


def test_names_of_features(lda, X):
    names = [f"word{index}" for index in range(30)]
    given = TopicsDisplay.from_estimator(lda, feature_names=names)
    assert given.names[0, 0] == f"word{lda.components_[0].argmax()}"

    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.toarray(), columns=names)
    named = LatentDirichletAllocation(3, max_iter=2, random_state=0).fit(frame)
    assert TopicsDisplay.from_estimator(named).names[0, 0].startswith("word")
    other = [f"other{index}" for index in range(30)]
    display = TopicsDisplay.from_estimator(named, feature_names=other)
    assert display.names[0, 0].startswith("other")


@pytest.mark.parametrize("nested", [False, True])
def test_names_come_out_of_a_pipeline(nested):
    factors = PoissonFactorization(2, random_state=0)
    if nested:
        factors = make_pipeline(factors)
    pipeline = Pipeline([("counts", CountVectorizer()), ("factors", factors)])
    display = TopicsDisplay.from_estimator(pipeline.fit(TEXTS), n_top=2)
    found = sorted(sorted(words(axis)) for axis in display.ax_)
    assert found == [["apple", "pear"], ["train", "tram"]]


def test_fewer_components_and_features_than_asked_for(lda):
    assert len(TopicsDisplay.from_estimator(lda, n_components=2).ax_) == 2
    display = TopicsDisplay.from_estimator(lda, n_components=9, n_top=99)
    assert display.names.shape == (3, 30)


@pytest.mark.parametrize("n_components", [1, 5, 20, 100])
def test_nothing_overlaps_or_leaves_the_figure(n_components):
    rng = np.random.default_rng(0)
    names = [["m" * 5 + "n" * 40] * 8] * n_components
    weights = -np.sort(-rng.exponential(size=(n_components, 8)), axis=1)
    display = TopicsDisplay(names, weights).plot()
    figure = display.figure_
    boxes = np.array([axis.get_tightbbox().extents for axis in display.ax_])
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= figure.bbox.width).all()
    assert (boxes[:, 3] <= figure.bbox.height).all()
    left, bottom, right, top = boxes.T
    overlaps = (
        (left[:, None] < right)
        & (left < right[:, None])
        & (bottom[:, None] < top)
        & (bottom < top[:, None])
    )
    assert overlaps.sum() == n_components  # each with itself


def test_words_of_one_component_do_not_touch():
    display = TopicsDisplay([["gjpqy", "ABCDE"] * 4], [np.arange(8, 0, -1)]).plot()
    display.figure_.draw_without_rendering()
    boxes = [text.get_window_extent() for text in display.ax_[0].texts]
    for upper, lower in pairwise(boxes):
        assert upper.y0 >= lower.y1


def test_long_names_are_shortened_and_dollars_are_dollars():
    display = TopicsDisplay([["a" * 80, "$x$ $y"]], [[2.0, 1.0]]).plot()
    display.figure_.draw_without_rendering()
    long, dollars = words(display.ax_[0])
    assert long.startswith("aaaa")
    assert long.endswith("…")
    assert len(long) < 30
    assert dollars == "$x$ $y"


def test_a_component_without_weight():
    display = TopicsDisplay([["a", "b"]], [[0.0, 0.0]]).plot()
    assert display.ax_[0].get_xlim() == (0, 1)


def test_topics_in_axes_that_are_given(lda):
    figure, axes = plt.subplots(3, 1)
    display = TopicsDisplay.from_estimator(lda, ax=axes)
    assert display.figure_ is figure
    assert list(display.ax_) == list(axes)
    assert display.plot().figure_ is not figure
    assert TopicsDisplay.from_estimator(lda, n_components=1, ax=axes[0]).ax_.size == 1
    with pytest.raises(ValueError, match="one axes for each of 3 components, got 1"):
        TopicsDisplay.from_estimator(lda, ax=axes[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"feature_names": ["a"]}, r"feature_names must have shape \(30,\)"),
        ({"n_top": 0}, "n_top must be an int of at least 1, got 0"),
        ({"n_components": 1.5}, "n_components must be an int of at least 1, got 1.5"),
    ],
)
def test_wrong_parameters(lda, parameters, message):
    with pytest.raises(ValueError, match=message):
        TopicsDisplay.from_estimator(lda, **parameters)


@pytest.mark.parametrize("display", [TopicsDisplay, TrainingDisplay])
def test_what_is_not_fitted(display):
    with pytest.raises(NotFittedError):
        display.from_estimator(PoissonFactorization())


def test_training_without_a_history():
    model = NMF(2, max_iter=500).fit(np.eye(4) + 1)
    with pytest.raises(TypeError, match=r"history_.* but NMF has none"):
        TrainingDisplay.from_estimator(model)


def test_training_of_one(lda):
    display = TrainingDisplay.from_estimator(lda)
    (axis,) = display.ax_
    (line,) = axis.lines
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == lda.history_["lower_bound"]
    assert axis.get_legend() is None


def test_training_of_several(lda, X):
    watched = LatentDirichletAllocation(
        3, max_iter=3, validation_fraction=0.2, random_state=0
    ).fit(X)
    display = TrainingDisplay.from_estimator({"a": lda, "b": make_pipeline(watched)})
    bound, validation = display.ax_
    assert [text.get_text() for text in bound.get_legend().get_texts()] == ["a", "b"]
    assert list(bound.lines[1].get_ydata()) == watched.history_["lower_bound"]
    empty, scores = validation.lines
    assert len(empty.get_ydata()) == 0
    assert list(scores.get_ydata()) == watched.history_["validation_score"]
    # One colour for an estimator in both axes.
    assert scores.get_color() == bound.lines[1].get_color()


def test_training_in_axes_that_are_given(lda):
    figure, axis = plt.subplots()
    assert TrainingDisplay.from_estimator(lda, ax=axis).figure_ is figure
    _, axes = plt.subplots(1, 2)
    with pytest.raises(ValueError, match="one axes for each of lower_bound, got 2"):
        TrainingDisplay.from_estimator(lda, ax=axes)


def test_training_of_none():
    with pytest.raises(ValueError, match="empty dict"):
        TrainingDisplay.from_estimator({})


def heights(axis):
    return np.array([bar.get_height() for bar in axis.patches])


def labels(axis):
    return [label.get_text() for label in axis.get_xticklabels()]


def test_usage_is_the_mean_share(X):
    model = PoissonFactorization(4, random_state=0).fit(X)
    display = UsageDisplay.from_estimator(model, X)
    means = factor_shares(model, X).mean(axis=0)
    order = np.argsort(-means, kind="stable")
    np.testing.assert_allclose(display.usage, means)
    np.testing.assert_allclose(heights(display.ax_), means[order])
    assert labels(display.ax_) == [str(component) for component in order]
    assert display.ax_.get_ylabel() == "mean share of a row"
    assert display.figure_ is display.ax_.figure


def test_usage_leaves_out_rows_without_factors(X):
    model = PoissonFactorization(2, random_state=0).fit(X)
    rows = factor_shares(model, X)
    nmf = NMF(2, init="nndsvda", max_iter=2000, random_state=0).fit(X.astype(float))
    empty = np.zeros((5, 30))
    with_empty = np.vstack([X.toarray(), empty]).astype(float)
    np.testing.assert_allclose(
        UsageDisplay.from_estimator(nmf, with_empty).usage,
        UsageDisplay.from_estimator(nmf, X.astype(float)).usage,
    )
    np.testing.assert_allclose(
        UsageDisplay.from_estimator(make_pipeline(model), X).usage, rows.mean(axis=0)
    )
    assert UsageDisplay.from_estimator(nmf, empty).usage.tolist() == [0, 0]


def test_usage_of_signed_factors_is_their_variance(X):
    model = NeuralTopicDLGM(3, encoder_layers=(8,), max_iter=2, random_state=0).fit(X)
    display = UsageDisplay.from_estimator(model, X)
    np.testing.assert_allclose(
        display.usage, model.transform(X).astype(float).var(axis=0)
    )
    assert display.ax_.get_ylabel() == "variance of the factor"


def test_components_that_are_alive():
    display = UsageDisplay([0.005, 0.5, 0.0049, 0.1, 0.0], cutoff=0.005).plot()
    assert display.is_alive.tolist() == [False, True, False, True, False]
    colors = [bar.get_facecolor() for bar in display.ax_.patches]
    assert colors[0] == colors[1] != colors[2] == colors[3] == colors[4]
    title = display.ax_.get_title(loc="right")
    assert title == "2 of 5 components above 0.005"
    none = UsageDisplay([0.0, 0.0]).plot()
    assert not none.is_alive.any()
    assert none.ax_.get_ylim() == (0, 1)


def test_cutoffs_of_shares_and_of_variances(lda, X):
    display = UsageDisplay.from_estimator(lda, X, threshold=0.5)
    assert display.cutoff == 0.5 * display.usage.max()
    # Where all dimensions are left to the prior, none is alive.
    model = NMF(2, init="random", random_state=0)
    model.components_ = np.array([[1.0, -1.0], [1.0, 1.0]])
    model.transform = lambda X: X
    rows = np.array([[0.02, -0.2], [-0.02, 0.2]])
    assert UsageDisplay.from_estimator(model, rows).is_alive.tolist() == [False, True]
    collapsed = UsageDisplay.from_estimator(model, rows / 10)
    assert collapsed.cutoff == 0.01
    assert not collapsed.is_alive.any()


@pytest.mark.parametrize("n_components", [1, 5, 12, 20, 100, 300])
def test_usage_of_many_components_can_be_read(n_components):
    usage = np.random.default_rng(0).exponential(size=n_components)
    display = UsageDisplay(usage, name="mean share of a row").plot()
    assert_texts_are_clear(display.figure_)
    shown = labels(display.ax_)
    order = np.argsort(-usage)
    assert shown[0] == str(order[0])
    # All components have their label where there is room.
    assert len(shown) == n_components if n_components <= 100 else len(shown) >= 90
    assert display.figure_.get_figwidth() <= 16


def test_usage_in_axes_that_are_given(X, lda):
    figure, axis = plt.subplots(figsize=(2, 2), layout="constrained")
    display = UsageDisplay(np.arange(1, 60)).plot(ax=axis)
    assert display.figure_ is figure
    assert len(labels(axis)) < 20
    assert UsageDisplay.from_estimator(lda, X, ax=axis).ax_ is axis
    assert display.plot().figure_ is not figure


def test_parts_of_figures(lda, X):
    import matplotlib.pyplot as plt

    parts = plt.figure(figsize=(12, 4)).subfigures(1, 2)
    usage = UsageDisplay.from_estimator(lda, X, ax=parts[0].subplots())
    assert usage.figure_ is parts[0]
    labels = [label.get_text() for label in usage.ax_.get_xticklabels()]
    assert labels == [str(k) for k in np.argsort(-usage.usage, kind="stable")]
    embeddings = EmbeddingDisplay.from_embeddings(
        np.eye(3), names=["a", "b", "c"], ax=parts[1].subplots()
    )
    assert len(embeddings.labels_) == 3


def test_usage_checks(lda, X):
    for threshold in (-0.1, 1, "a", None):
        with pytest.raises(ValueError, match="threshold must be a number from 0 to b"):
            UsageDisplay.from_estimator(lda, X, threshold=threshold)
    with pytest.raises(NotFittedError):
        UsageDisplay.from_estimator(PoissonFactorization(), X)


def grid_search(X, grid, model=None, **parameters):
    if model is None:
        model = PoissonFactorization(max_iter=3, random_state=0)
    return GridSearchCV(model, grid, cv=3, **parameters).fit(X)


def points(curve):
    """Positions, means and standard deviations of an errorbar container."""
    line, _, (bars,) = curve.lines
    x, y = line.get_data(orig=False)
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    return np.array(x), np.array(y), np.array(lengths) / 2


def test_scores_of_a_search_with_their_spread(X):
    search = grid_search(X, {"n_components": [5, 1, 20, 2]})
    display = ComponentSelectionDisplay.from_search(search)
    (curve,) = display.ax_.containers
    x, means, stds = points(curve)
    # In the order of their values, not of the grid.
    order = [1, 3, 0, 2]
    assert x.tolist() == [1, 2, 5, 20]
    np.testing.assert_allclose(means, search.cv_results_["mean_test_score"][order])
    np.testing.assert_allclose(stds, search.cv_results_["std_test_score"][order])
    assert (stds > 0).all()
    (star,) = [line for line in display.ax_.lines if line.get_marker() == "*"]
    assert star.get_xdata() == [search.best_params_["n_components"]]
    assert star.get_ydata() == [search.best_score_]
    assert display.ax_.get_xlabel() == "n_components"
    assert display.ax_.get_ylabel() == "mean test score"
    assert display.ax_.get_legend() is None
    assert display.ax_.get_xscale() == "log"
    assert labels(display.ax_) == ["1", "2", "5", "20"]
    assert_texts_are_clear(display.figure_)


def test_a_curve_for_each_other_setting():
    model = make_pipeline(
        CountVectorizer(), PoissonFactorization(max_iter=3, random_state=0)
    )
    grid = {
        "poissonfactorization__n_components": [1, 2],
        "poissonfactorization__init": ["random", "kmeans"],
        "countvectorizer__lowercase": [True],
    }
    search = grid_search(TEXTS, grid, model, scoring=scorers["npmi_coherence"])
    display = ComponentSelectionDisplay.from_search(make_pipeline(search))
    legend = display.ax_.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == ["init=kmeans", "init=random"]
    params = search.cv_results_["params"]
    for name, curve in zip(names, display.ax_.containers, strict=True):
        _, means, _ = points(curve)
        expected = [
            mean
            for mean, candidate in zip(
                search.cv_results_["mean_test_score"], params, strict=True
            )
            if candidate["poissonfactorization__init"] == name.split("=")[1]
        ]
        np.testing.assert_allclose(means, expected)
    assert display.ax_.get_xlabel() == "n_components"
    assert_texts_are_clear(display.figure_)


def test_parameters_of_one_name_are_told_apart(X):
    factors = PoissonFactorization(2, max_iter=2, random_state=0)
    model = Pipeline([("below", factors), ("above", clone(factors))])
    grid = {
        "above__n_components": [1, 2],
        "above__init": ["random", "kmeans"],
        "below__init": ["random", "kmeans"],
    }
    display = ComponentSelectionDisplay.from_search(grid_search(X, grid, model))
    texts = {text.get_text() for text in display.ax_.get_legend().get_texts()}
    assert "above__init=random, below__init=kmeans" in texts
    assert len(texts) == 4


def test_one_metric_of_several(X):
    scoring = {"bound": None, "neg_perplexity": scorers["neg_perplexity"]}
    scoring["bound"] = lambda model, X, y=None: model.score(X)
    grid = {"n_components": [1, 2, 3]}
    search = grid_search(X, grid, scoring=scoring, refit="neg_perplexity")
    display = ComponentSelectionDisplay.from_search(search)
    assert display.ax_.get_ylabel() == "mean test neg_perplexity"
    _, means, _ = points(display.ax_.containers[0])
    expected = search.cv_results_["mean_test_neg_perplexity"]
    np.testing.assert_allclose(means, expected)
    other = ComponentSelectionDisplay.from_search(search, metric="bound")
    _, means, stds = points(other.ax_.containers[0])
    np.testing.assert_allclose(means, search.cv_results_["mean_test_bound"])
    np.testing.assert_allclose(stds, search.cv_results_["std_test_bound"])
    for metric in ("score", True):
        with pytest.raises(ValueError, match="one of bound, neg_perplexity, got "):
            ComponentSelectionDisplay.from_search(search, metric=metric)
    unnamed = grid_search(X, grid, scoring=scoring, refit=False)
    with pytest.raises(ValueError, match="got False"):
        ComponentSelectionDisplay.from_search(unnamed)
    assert ComponentSelectionDisplay.from_search(unnamed, metric="bound").ax_
    with pytest.raises(ValueError, match="has one metric; metric='bound'"):
        ComponentSelectionDisplay.from_search(grid_search(X, grid), metric="bound")


def test_grids_in_which_a_parameter_is_missing(X):
    grid = [{"n_components": [1, 2]}, {"init": ["random"]}]
    display = ComponentSelectionDisplay.from_search(grid_search(X, grid))
    (curve,) = display.ax_.containers
    assert points(curve)[0].tolist() == [1, 2]


def test_other_parameters_along_the_axis(X):
    search = grid_search(X, {"max_iter": [1, 5], "init": ["random", "kmeans"]})
    with pytest.raises(ValueError, match=r"one of init, max_iter, .*got None"):
        ComponentSelectionDisplay.from_search(search)
    with pytest.raises(ValueError, match="got 'n_components'"):
        ComponentSelectionDisplay.from_search(search, parameter="n_components")
    display = ComponentSelectionDisplay.from_search(search, parameter="max_iter")
    assert display.ax_.get_xlabel() == "max_iter"
    assert len(display.ax_.containers) == 2
    by_name = ComponentSelectionDisplay.from_search(search, parameter="init")
    assert labels(by_name.ax_) == ["random", "kmeans"]
    assert by_name.ax_.get_xscale() == "linear"


def test_searches_that_draw_the_same_again(X):
    model = PoissonFactorization(max_iter=2, random_state=0)
    search = RandomizedSearchCV(
        model, {"n_components": [1, 1, 2, 2]}, n_iter=4, cv=2, random_state=0
    ).fit(X)
    display = ComponentSelectionDisplay.from_search(search)
    assert points(display.ax_.containers[0])[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([10, 20, 80], "log"), ([10, 40, 79], "linear"), ([0, 1, 100], "linear")],
)
def test_wide_ranges_are_on_a_logarithmic_axis(values, scale):
    display = ComponentSelectionDisplay({None: (values, [1, 2, 3], [0, 0, 0])}).plot()
    assert display.ax_.get_xscale() == scale


def test_scores_that_are_missing():
    curves = {None: ([1, 2, 3], [np.nan, 1.0, 0.5], [np.nan, 0.1, 0.1])}
    display = ComponentSelectionDisplay(curves).plot()
    (star,) = [line for line in display.ax_.lines if line.get_marker() == "*"]
    assert star.get_xdata() == [2]
    curves = {None: ([1], [np.nan], [np.nan])}
    display = ComponentSelectionDisplay(curves).plot()
    assert not [line for line in display.ax_.lines if line.get_marker() == "*"]


def curve(values, rng):
    return values, rng.normal(size=len(values)), rng.exponential(size=len(values))


@pytest.mark.parametrize(
    "values",
    [
        [7],
        [5, 20, 100],
        list(range(1, 101)),
        [2, 3, 4, 5, 8, 10, 15, 20, 40, 60, 80, 100],
        [1000, 1001, 1002, 2000, 3000, 5000],
        list(range(900, 1900, 20)),
        [(5 * k, 2 * k, k) for k in range(1, 10)],
    ],
    ids=lambda values: f"{len(values)}-from-{values[0]}",
)
def test_ticks_do_not_overlap(values):
    rng = np.random.default_rng(0)
    display = ComponentSelectionDisplay({None: curve(values, rng)}).plot()
    assert_texts_are_clear(display.figure_)
    shown = labels(display.ax_)
    assert len(shown) >= min(len(values), 3)
    best = values[np.argmax(display.curves[None][1])]
    assert str(best) in shown


@pytest.mark.parametrize("n_curves", [2, 11, 40])
def test_legends_of_many_settings_are_whole(n_curves):
    rng = np.random.default_rng(0)
    curves = {
        f"init=kmeans, weight_shape={k}, factor_shape=0.30, exposure=total": curve(
            [5, 20, 100], rng
        )
        for k in range(n_curves)
    }
    display = ComponentSelectionDisplay(curves).plot()
    assert_texts_are_clear(display.figure_)
    assert len(display.ax_.get_legend().get_texts()) == n_curves
    legend = display.ax_.get_legend().get_window_extent()
    assert legend.x0 >= display.ax_.get_window_extent().x1
    styles = {
        (container.lines[0].get_color(), container.lines[0].get_linestyle())
        for container in display.ax_.containers
    }
    assert len(styles) == n_curves


def test_a_search_in_axes_that_are_given(X):
    figure, axis = plt.subplots()
    search = grid_search(X, {"n_components": [1, 2]})
    display = ComponentSelectionDisplay.from_search(search, ax=axis)
    assert display.figure_ is figure
    assert display.plot().figure_ is not figure


def test_what_is_no_search(lda):
    with pytest.raises(TypeError, match="GridSearchCV, got LatentDirichletAllocation"):
        ComponentSelectionDisplay.from_search(lda)
    with pytest.raises(NotFittedError):
        ComponentSelectionDisplay.from_search(
            GridSearchCV(PoissonFactorization(), {"n_components": [1]})
        )


WORDS = np.array([f"word{index}" for index in range(300)])


def blob(n_points, n_dimensions=2):
    """Points that crowd in the middle."""
    return np.random.default_rng(0).standard_t(2, size=(n_points, n_dimensions))


@pytest.mark.parametrize("n_points", [1, 2, 30, 300])
@pytest.mark.parametrize("has_groups", [False, True])
def test_names_of_points_do_not_overlap(n_points, has_groups):
    groups = np.arange(n_points) % 100 if has_groups else None
    display = EmbeddingDisplay.from_embeddings(
        blob(n_points), names=WORDS[:n_points], groups=groups, n_labels=200
    )
    assert_texts_are_clear(display.figure_)
    assert min(n_points, 15) <= len(display.labels_) <= 200
    frame = display.ax_.get_window_extent()
    points = display.ax_.transData.transform(display.positions)
    for index, label in display.labels_.items():
        assert label.get_text() == WORDS[index]
        box = label.get_window_extent()
        assert frame.x0 + 2 <= box.x0
        assert box.x1 <= frame.x1 - 2
        assert frame.y0 + 2 <= box.y0
        assert box.y1 <= frame.y1 - 2
        # Beside its point, and on no other that has a name.
        distance = np.maximum(box.min - points[index], points[index] - box.max).max()
        assert 0 < distance < 8
        named = points[list(display.labels_)]
        assert not ((box.min < named) & (named < box.max)).all(axis=1).any()
    dots = display.ax_.collections[-1].get_offsets()
    assert_array_equal(dots, display.positions[list(display.labels_)])


def assert_array_equal(found, expected):
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_the_farthest_are_named_first():
    embeddings = np.random.default_rng(0).normal(size=(300, 2))
    display = EmbeddingDisplay.from_embeddings(embeddings, names=WORDS, n_labels=5)
    order = np.argsort(-np.linalg.norm(embeddings, axis=1), kind="stable")
    assert list(display.labels_) == order[:5].tolist()


def test_points_of_one_place_have_few_names():
    display = EmbeddingDisplay.from_embeddings(np.ones((40, 2)), names=WORDS[:40])
    assert 2 <= len(display.labels_) <= 8
    assert_texts_are_clear(display.figure_)


@pytest.mark.parametrize("as_names", [False, True])
def test_points_that_are_to_be_named(as_names):
    chosen = [7, 3, 250]
    labelled = WORDS[chosen] if as_names else chosen
    display = EmbeddingDisplay.from_embeddings(
        blob(300), names=WORDS, labelled=labelled
    )
    assert list(display.labels_) == chosen
    few = EmbeddingDisplay.from_embeddings(
        blob(300), names=WORDS, labelled=labelled, n_labels=1
    )
    assert list(few.labels_) == [7]
    one = EmbeddingDisplay.from_embeddings(blob(300), names=WORDS, labelled=labelled[2])
    assert list(one.labels_) == [250]
    none = EmbeddingDisplay.from_embeddings(blob(300), names=WORDS, labelled=[])
    assert none.labels_ == {}


def test_points_without_names():
    display = EmbeddingDisplay.from_embeddings(blob(30))
    assert display.labels_ == {}
    (points,) = display.ax_.collections
    assert_array_equal(points.get_offsets(), display.positions)


def test_two_dimensions_are_drawn_as_they_are():
    embeddings = blob(20)
    for projection in ("pca", "tsne"):
        display = EmbeddingDisplay.from_embeddings(embeddings, projection=projection)
        assert_array_equal(display.positions, embeddings)
    line = EmbeddingDisplay.from_embeddings(embeddings[:, :1])
    assert_array_equal(line.positions, np.c_[embeddings[:, 0], np.zeros(20)])


def test_principal_components_keep_what_is_far_apart():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)) * [5, 3]
    axes = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    display = EmbeddingDisplay.from_embeddings(plane @ axes.T + 7)

    def distances(x):
        return np.linalg.norm(x[:, None] - x, axis=2)

    np.testing.assert_allclose(
        distances(display.positions), distances(plane), atol=1e-10
    )


def test_neighbours_by_direction_stay_neighbours():
    rng = np.random.default_rng(0)
    directions = np.eye(5)[np.arange(60) % 3]
    lengths = rng.exponential(size=(60, 1)) * 100
    embeddings = (directions + 0.05 * rng.normal(size=(60, 5))) * lengths
    embeddings[59] = 0
    displays = [
        EmbeddingDisplay.from_embeddings(embeddings, projection="tsne", random_state=0)
        for _ in range(2)
    ]
    positions = displays[0].positions
    assert_array_equal(displays[1].positions, positions)
    for index in range(59):
        distances = np.linalg.norm(positions - positions[index], axis=1)
        nearest = np.argsort(distances)[1:6]
        assert (nearest[nearest < 59] % 3 == index % 3).all()
    few = EmbeddingDisplay.from_embeddings(
        embeddings[:2], projection="tsne", random_state=0
    )
    assert np.isfinite(few.positions).all()


@pytest.mark.parametrize("projection", ["pca", "tsne"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_points_that_are_all_one(projection, value):
    lengths = np.arange(1.0, 13.0)[:, np.newaxis] if projection == "tsne" else 1.0
    display = EmbeddingDisplay.from_embeddings(
        lengths * np.full((12, 5), value),
        names=list("abcdefghijkl"),
        projection=projection,
    )
    assert_array_equal(display.positions, np.zeros((12, 2)))
    assert len(display.labels_) >= 1


@pytest.mark.parametrize(
    "groups", [["b", None, "a", np.nan], [2.0, np.nan, 1.0, np.nan], [None] * 4]
)
def test_points_without_a_group_are_grey(groups):
    pd = pytest.importorskip("pandas")
    groups = pd.Series(groups)
    positions = np.arange(8.0).reshape(4, 2)
    for values in (groups, groups.convert_dtypes(), list(groups)):
        display = EmbeddingDisplay.from_embeddings(positions, groups=values)
        grey, *coloured = display.ax_.collections
        assert_array_equal(grey.get_offsets(), positions[groups.isna()])
        legend = display.ax_.get_legend()
        shown = [text.get_text() for text in legend.get_texts()] if legend else []
        assert shown == sorted({str(group) for group in values if not pd.isna(group)})
        assert sum(len(points.get_offsets()) for points in coloured) == groups.count()


def test_legends_have_names_as_they_are():
    names = ["$\\a$", "_hidden", "costs $5 or $6"]
    curve = {"lower_bound": [1.0, 2.0]}
    for display in (
        TrainingDisplay(dict.fromkeys(names, curve)).plot(),
        ComponentSelectionDisplay(
            {name: ([1, 2], [0.0, 1.0], [0.1, 0.1]) for name in names}
        ).plot(),
        EmbeddingDisplay.from_embeddings(np.eye(3)[:, :2], groups=names),
    ):
        display.figure_.draw_without_rendering()
        legend = np.ravel(display.ax_)[0].get_legend()
        shown = [text.get_text() for text in legend.get_texts()]
        assert sorted(shown) == sorted(names)
        assert not any(text.get_parse_math() for text in legend.get_texts())


def test_all_points_of_a_name_are_named():
    display = EmbeddingDisplay.from_embeddings(
        [[0, 0], [1, 1], [2, 0], [3, 1]],
        names=["a", "b", "a", "c"],
        labelled=["a", "c"],
    )
    assert list(display.labels_) == [0, 2, 3]


@pytest.mark.parametrize("n_groups", [2, 20, 100])
def test_groups_have_colours_and_a_legend(n_groups):
    groups = np.array([f"group {index % n_groups:03}" for index in range(300)])
    display = EmbeddingDisplay.from_embeddings(blob(300), groups=groups)
    assert_texts_are_clear(display.figure_)
    legend = display.ax_.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == sorted(set(groups))
    colors = {tuple(points.get_facecolor()[0]) for points in display.ax_.collections}
    assert len(colors) == n_groups
    for name, points in zip(names, display.ax_.collections, strict=True):
        assert_array_equal(points.get_offsets(), display.positions[groups == name])
    assert legend.get_window_extent().x0 >= display.ax_.get_window_extent().x1


def test_long_names_of_points():
    names = ["a" * 99, "$x$"]
    display = EmbeddingDisplay.from_embeddings([[0, 0], [1, 1]], names=names)
    texts = [label.get_text() for label in display.labels_.values()]
    assert sorted(map(len, texts)) == [3, 24]
    assert_texts_are_clear(display.figure_)


def test_embeddings_in_axes_that_are_given():
    figure, axis = plt.subplots(figsize=(3, 2))
    display = EmbeddingDisplay.from_embeddings(blob(300), names=WORDS, ax=axis)
    assert display.figure_ is figure
    small = len(display.labels_)
    assert_texts_are_clear(figure)
    assert display.plot().figure_ is not figure
    assert len(display.labels_) > small


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"names": ["a"]}, r"names must have shape \(300,\), got \(1,\)"),
        ({"groups": [[1]]}, r"groups must have shape \(300,\), got \(1, 1\)"),
        ({"n_labels": 0}, "n_labels must be an int of at least 1"),
        ({"projection": "umap"}, "projection must be 'pca' or 'tsne', got 'umap'"),
        ({"labelled": [300]}, "labelled must hold indices from 0 to 299, got 300"),
        ({"labelled": [-1]}, "labelled must hold indices from 0 to 299, got -1"),
        ({"labelled": ["a"], "names": WORDS}, "or some of names, got a"),
        ({"labelled": ["word1"]}, "or some of names, got word1"),
    ],
)
def test_embedding_checks(parameters, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingDisplay.from_embeddings(blob(300), **parameters)
    with pytest.raises(ValueError, match="NaN"):
        EmbeddingDisplay.from_embeddings([[np.nan, 1.0]])


@pytest.fixture(scope="module")
def layered(X):
    return SparseGammaDEF((6, 4, 2), max_iter=30, random_state=0).fit(X)


def lines_of(display):
    """The collections of lines, from the lowest layer up."""
    return [
        collection
        for collection in display.ax_.collections
        if isinstance(collection, matplotlib.collections.PathCollection)
    ]


def heights_of_units(display):
    """For each layer, the lowest one first, where its units are."""
    texts = [t for t in display.ax_.texts if not t.get_text().startswith("layer")]
    places = np.array([text.get_position() for text in texts])
    columns = np.unique(places[:, 0])[::-1]
    return [places[places[:, 0] == column, 1] for column in columns]


def test_lines_are_shares(layered):
    display = HierarchyDisplay.from_estimator(layered, min_share=0.1)
    assert [shares.shape for shares in display.shares] == [(4, 6), (2, 4)]
    heights = heights_of_units(display)
    assert [len(column) for column in heights] == [6, 4, 2]
    for column, order in zip(heights, display.order_, strict=True):
        # From top to bottom.
        assert (np.diff(column[order]) > 0).all()
    n_lines = 0
    for layer, lines in enumerate(lines_of(display)):
        found = np.zeros_like(display.shares[layer])
        widths = np.broadcast_to(lines.get_linewidth(), len(lines.get_paths()))
        for path, width in zip(lines.get_paths(), widths, strict=True):
            start, end = path.vertices[0], path.vertices[-1]
            assert start[0] < end[0]
            (above,) = np.flatnonzero(np.isclose(heights[layer + 1], start[1]))
            (below,) = np.flatnonzero(np.isclose(heights[layer], end[1]))
            found[above, below] = width / plotting.hierarchy.LINE_WIDTH
            n_lines += 1
        shares = display.shares[layer]
        np.testing.assert_allclose(found, np.where(shares >= 0.1, shares, 0))
    assert n_lines > 3


def test_units_are_those_of_the_hierarchy(layered):
    words = [f"word{index}" for index in range(30)]
    display = HierarchyDisplay.from_estimator(layered, feature_names=words, n_top=2)
    tops = hierarchy(layered, words, n=6)
    assert display.names[2] == [" ".join(unit["features"][:2]) for unit in tops]
    for top in tops:
        for part in top["units"]:
            share = display.shares[1][top["unit"], part["unit"]]
            assert share == pytest.approx(part["share"])
            assert display.names[1][part["unit"]] == " ".join(part["features"][:2])
    shown = [text.get_text() for text in display.ax_.texts]
    assert [text for text in shown if text.startswith("layer")] == [
        "layer 1",
        "layer 2",
        "layer 3",
    ]
    assert set(display.names[0]) <= set(shown)


def n_crossings(links, above, below):
    """Pairs of lines that cross, given the orders of the units at both ends."""
    rows, columns = np.nonzero(links)
    tops, bottoms = np.argsort(above)[rows], np.argsort(below)[columns]
    signs = np.subtract.outer(tops, tops) * np.subtract.outer(bottoms, bottoms)
    return int((signs < 0).sum()) // 2


def test_planted_groups_do_not_cross():
    rng = np.random.default_rng(0)
    blocks = [
        np.kron(np.eye(6), np.full((1, 4), 0.25)),
        np.kron(np.eye(3), [[0.5] * 2]),
    ]
    middle, lowest = rng.permutation(6), rng.permutation(24)
    shares = [blocks[0][middle][:, lowest], blocks[1][:, middle]]
    names = [["a"] * 24, ["b"] * 6, ["c"] * 3]
    display = HierarchyDisplay(shares, names).plot()
    orders = display.order_
    for layer in (0, 1):
        given = [np.arange(len(order)) for order in orders]
        assert n_crossings(shares[layer], given[layer + 1], given[layer]) > 0
        assert n_crossings(shares[layer], orders[layer + 1], orders[layer]) == 0
    # Each unit has its colour.
    lines = lines_of(display)[1]
    assert len({tuple(color) for color in lines.get_edgecolor()}) == 3


@pytest.mark.parametrize("sizes", [(1, 1), (5, 2), (20, 6), (100, 40, 15)])
def test_names_of_units_do_not_overlap(sizes):
    rng = np.random.default_rng(0)
    shares = [
        rng.dirichlet(np.full(below, 0.1), size=above)
        for below, above in pairwise(sizes)
    ]
    names = [["m" * 5 + "n" * 90] * size for size in sizes]
    display = HierarchyDisplay(shares, names).plot()
    assert_texts_are_clear(display.figure_)
    for axis_text in display.ax_.texts:
        right = display.ax_.transData.inverted().transform(
            axis_text.get_window_extent().max
        )[0]
        room = axis_text.get_position()[0] + plotting.hierarchy.UNIT_WIDTH
        assert right <= room
    counts = [len(lines.get_paths()) for lines in lines_of(display)]
    assert counts == [(layer >= 0.05).sum() for layer in shares]


def test_a_hierarchy_in_axes_that_are_given(layered):
    figure, axis = plt.subplots()
    display = HierarchyDisplay.from_estimator(layered, ax=axis)
    assert display.figure_ is figure
    assert display.plot().figure_ is not figure
    pipeline = make_pipeline(layered)
    other = HierarchyDisplay.from_estimator(pipeline)
    assert other.names == display.names


def test_hierarchy_display_checks(layered, lda, X):
    flat = SparseGammaDEF((3,), max_iter=2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="two layers of factors or more, got one"):
        HierarchyDisplay.from_estimator(flat)
    with pytest.raises(TypeError, match=r"layers.* LatentDirichletAllocation has none"):
        HierarchyDisplay.from_estimator(lda)
    with pytest.raises(ValueError, match="min_share must be a number from 0"):
        HierarchyDisplay.from_estimator(layered, min_share=1)
    with pytest.raises(ValueError, match="n_top must be an int of at least 1"):
        HierarchyDisplay.from_estimator(layered, n_top=0)
    with pytest.raises(ValueError, match=r"feature_names must have shape \(30,\)"):
        HierarchyDisplay.from_estimator(layered, feature_names=["a"])
    with pytest.raises(NotFittedError):
        HierarchyDisplay.from_estimator(SparseGammaDEF())


def test_importing_it_leaves_matplotlib_alone():
    files = sorted(Path(plotting.__file__).parent.glob("*.py"))
    assert len(files) > 1
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert imports
        assert not any("matplotlib" in ast.unparse(node) for node in imports)


def test_traversals_draw_a_line_of_images_for_each_factor():
    rng = np.random.default_rng(0)
    X = rng.poisson(3, (40, 12))
    model = NMF(3, random_state=0, max_iter=500).fit(X)
    display = TraversalDisplay.from_estimator(model, X, n_values=5, image_shape=(3, 4))
    assert display.rows.shape == (3, 5, 12)
    assert len(display.ax_) == 3
    shown = display.ax_[0].images[0].get_array()
    assert shown.shape == (3, 20)
    np.testing.assert_allclose(shown[:, 4:8].ravel(), display.rows[0, 1])
    factors = model.transform(X)
    first = display.components[0]
    assert first == factors.var(axis=0).argmax()
    assert display.values[0, -1] == factors[:, first].max()
    again = display.plot(ax=display.figure_.subplots(3))
    assert again.ax_[0].images
    lines = TraversalDisplay.from_estimator(model, X, components=[1], n_values=4)
    assert lines.ax_[0].images[0].get_array().shape == (4, 12)


def test_traversals_say_what_does_not_fit():
    rng = np.random.default_rng(0)
    X = rng.poisson(3, (40, 12))
    model = NMF(3, random_state=0, max_iter=500).fit(X)
    with pytest.raises(ValueError, match="does not hold 12 features"):
        TraversalDisplay.from_estimator(model, X, image_shape=(5, 5))
    with pytest.raises(ValueError, match=r"must be \(height, width\), got \(2, 2, 3\)"):
        TraversalDisplay.from_estimator(model, X, image_shape=(2, 2, 3))
    for wrong in ([3], [-1], [0.5], [], 1):
        with pytest.raises(ValueError, match="components must be a list of ints from"):
            TraversalDisplay.from_estimator(model, X, components=wrong)
    display = TraversalDisplay.from_estimator(model, X)
    with pytest.raises(ValueError, match="3 factors need as many axes, got 1"):
        display.plot(ax=display.ax_[0])
