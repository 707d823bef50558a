"""Labelled LDA: planted labels, exact evidence, rows without labels, kinds of y."""

import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer

from skdeepfactor import LabeledLDA, LatentDirichletAllocation
from skdeepfactor._math.batch import Batch
from skdeepfactor.data import RowBlocks
from tests.conftest import LDA_STEP_SIZE
from tests.test_distributed import ended, started

NAMES = np.array(["art", "law", "sea", "war"])


def planted(n_rows, *, n_labels=4, per_row=(1, 2, 3), n_features=60, seed=0):
    """Rows of 80 words, sets of labels as an indicator, and the labels' topics."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_features, 0.1), size=n_labels)
    Y = np.zeros((n_rows, n_labels), dtype=int)
    X = np.zeros((n_rows, n_features), dtype=int)
    for x, y in zip(X, Y, strict=True):
        own = rng.choice(n_labels, rng.choice(per_row), replace=False)
        y[own] = 1
        theta = rng.dirichlet(np.full(len(own), 1.0))
        x[:] = rng.multinomial(80, theta @ topics[own])
    return X, Y, topics


@pytest.fixture(scope="module")
def several():
    """Rows with one to three labels: an indicator."""
    return planted(300)


@pytest.fixture(scope="module")
def single():
    """Rows with one label, by name, made of two topics each and a shared one."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(60, 0.1), size=9)
    classes = rng.integers(4, size=400)
    X = np.zeros((400, 60), dtype=int)
    for x, label in zip(X, classes, strict=True):
        own = [2 * label, 2 * label + 1, 8]
        x[:] = rng.multinomial(80, rng.dirichlet([1.0, 1.0, 1.0]) @ topics[own])
    return X, NAMES[classes], topics


def made(*args, **parameters):
    return LabeledLDA(*args, random_state=0, **parameters)


def module_of(model):
    return model._load(torch.float64, torch.device("cpu"))


def labelled(X, Y):
    """A batch of rows with labels."""
    batch = Batch(torch.from_numpy(np.asarray(X, dtype=np.float64)))
    return batch.with_side(labels=torch.from_numpy(np.asarray(Y, dtype=np.float64)))


def cosines(a, b):
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / lengths


# What it finds.


@pytest.mark.parametrize("inference", ["collapsed", "mean_field"])
@pytest.mark.parametrize("batch_size", [None, 60])
def test_planted_labels_are_recovered(several, inference, batch_size):
    X, Y, topics = several
    parameters = {"doc_topic_prior": 1.0, "max_iter": 10, "batch_size": batch_size}
    model = made(inference=inference, **parameters).fit(X, Y)
    # Topics are those of their labels, so that there is nothing to match.
    assert cosines(model.components_, topics).min() > 0.97
    assert_array_equal(model.classes_, np.arange(4))
    assert model.topic_labels_ == [0, 1, 2, 3]
    assert model.n_predicted_ == 2
    assert_allclose(model.label_prior_, (Y.sum(0) + 0.5) / 301, rtol=0.01)
    X, Y, _ = planted(200, per_row=(2,), seed=0)
    assert model.score(X, Y) > 0.8
    # Of rows whose labels it does not know, it finds the topics.
    theta = model.transform(X)
    assert (theta[Y == 1].mean()) > 0.4
    assert (theta[Y == 0].mean()) < 0.05


def test_planted_classes_are_predicted(single):
    X, y, topics = single
    model = made(2, 1, max_iter=20).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.95
    assert model.score(X[:300], y[:300]) > 0.95
    assert model.topic_labels_ == [*np.repeat(NAMES, 2).tolist(), None]
    found = model.components_ / np.linalg.norm(model.components_, axis=1)[:, None]
    planted = topics / np.linalg.norm(topics, axis=1)[:, None]
    for label in range(4):
        two = slice(2 * label, 2 * label + 2)
        assert (found[two] @ planted[two].T).max(1).min() > 0.9
    assert found[8] @ planted[8] > 0.9


def test_with_one_topic_for_each_class_it_is_naive_bayes(single):
    X, y, _ = single
    model = made(topic_word_prior=1.0, max_iter=1).fit(X, y)
    peer = MultinomialNB(alpha=1.0).fit(X, y)
    assert_allclose(model.components_, np.exp(peer.feature_log_prob_), rtol=1e-5)
    # Frequencies of classes are smoothed here.
    assert (model.predict(X) == peer.predict(X)).mean() > 0.99


def test_labels_make_words_less_surprising_than_topics_without_them(single):
    """Half of the rows have no label, and help."""
    X, y, _ = single
    few = np.where(np.arange(300) % 10 < 1, y[:300], None)
    has_label = few != None  # noqa: E711
    both = made(2, 1, max_iter=20).fit(X[:300], few)
    alone = made(2, 1, max_iter=20).fit(X[:300][has_label], few[has_label])
    assert both.bound(X[300:]) > alone.bound(X[300:])
    assert both.score(X[300:], y[300:]) >= alone.score(X[300:], y[300:]) > 0.8
    assert both.classes_.tolist() == NAMES.tolist()


# The bound.


def evidence(x, alpha, beta):
    """Log p(x) of words in order, by a sum over all assignments to topics."""
    words = np.repeat(np.arange(len(x)), x)
    gammaln = scipy.special.gammaln
    total = 0.0
    for topics in itertools.product(range(len(alpha)), repeat=len(words)):
        n = np.bincount(topics, minlength=len(alpha))
        log_p = gammaln(alpha.sum()) - gammaln(alpha.sum() + n.sum())
        log_p += (gammaln(alpha + n) - gammaln(alpha)).sum()
        total += np.exp(log_p) * beta[list(topics), words].prod()
    return np.log(total)


@pytest.mark.parametrize("inference", ["collapsed", "mean_field"])
def test_bounds_are_below_the_exact_evidence(inference):
    X = np.array([[2, 1, 0], [0, 1, 1], [1, 0, 0], [1, 2, 1]])
    Y = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    model = made(
        1, 1, doc_topic_prior=0.4, inference=inference, inner_tol=1e-12, max_iter=2
    ).fit(X.astype(np.float64), Y)
    beta = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    # Concentrated topics: the posterior over them is, in effect, a point.
    model._parameters["topic_counts"] = beta * 1e9
    prior = (Y.sum(0) + 0.5) / (3 + 1)
    assert_allclose(model.label_prior_, prior)
    open_alpha = 0.4 * np.append(prior, 1)
    bounds = model.score_samples(X.astype(np.float64))
    for x, bound in zip(X, bounds, strict=True):
        exact = evidence(x, open_alpha, beta)
        assert exact - x.sum() < bound <= exact + 1e-6
    # Given labels, of the topics that these allow.
    module, batch = module_of(model), labelled(X, Y)
    bounds = module.elbo(batch, module.posterior(batch))
    allowed = np.column_stack([Y, np.ones(4)]).astype(bool)
    for x, own, bound in zip(X[:3], allowed[:3], bounds[:3], strict=True):
        exact = evidence(x, np.full(own.sum(), 0.4), beta[own])
        assert exact - x.sum() < bound <= exact + 1e-6
    # One allowed topic leaves nothing to be bounded.
    one = labelled(X[:1], Y[:1])
    model = made(inner_tol=1e-12).fit(X.astype(np.float64), Y)
    model._parameters["topic_counts"] = beta[:2] * 1e9
    module = module_of(model)
    found = module.elbo(one, module.posterior(one))
    assert found.item() == pytest.approx(2 * np.log(0.6) + np.log(0.3), abs=1e-6)
    # A row without labels is bounded as one of which none are known.
    assert_allclose(
        module.elbo(labelled(X, Y))[3].item(), model.score_samples(X * 1.0)[3]
    )


def test_mean_field_steps_climb_the_bound(several):
    X, Y, _ = several
    Y = np.where(np.arange(300)[:, None] % 3 == 0, 0, Y)
    model = made(2, 1, inference="mean_field", max_iter=40, tol=0, n_cold_iter=1).fit(
        X.astype(np.float64), Y
    )
    bounds = np.array(model.history_["lower_bound"])
    assert len(bounds) > 10
    assert (np.diff(bounds) >= -1e-9 * np.abs(bounds[1:])).all()


def test_the_bound_of_training_is_that_of_its_rows_given_their_labels(several):
    X, Y, _ = several
    model = made(
        2,
        1,
        inference="mean_field",
        max_iter=400,
        n_cold_iter=200,
        max_inner_iter=20,
        inner_tol=1e-9,
        tol=1e-8,
    ).fit(X[:60].astype(np.float64), Y[:60])
    module, batch = module_of(model), labelled(X[:60], Y[:60])
    expected = module.elbo(batch, module.posterior(batch)).sum() - module.global_kl()
    assert model.lower_bound_ == pytest.approx(expected.item(), rel=1e-4)


def test_rows_held_out_are_scored_by_their_words_alone(several):
    X, Y, _ = several
    model = made(2, 2, max_iter=20, n_iter_no_change=2).fit(
        X[:250], Y[:250], X_val=X[250:]
    )
    best = max(model.history_["validation_score"])
    assert model.bound(X[250:]) == pytest.approx(best, rel=1e-6)
    split = made(2, 2, max_iter=3, validation_fraction=0.2).fit(X, Y)
    n_tokens = 80
    # A row's labels would make its words far likelier.
    assert split.history_["validation_score"][-1] == pytest.approx(
        split.bound(X), abs=0.05 * n_tokens
    )


# The mask.


@pytest.mark.parametrize("inference", ["collapsed", "mean_field"])
def test_topics_that_are_not_allowed_get_nothing(several, inference):
    X, Y, _ = several
    X, Y = X[:40], Y[:40].copy()
    Y[5] = 0
    model = made(2, 1, inference=inference).fit(X.astype(np.float64), Y)
    module = module_of(model)
    allowed = np.column_stack([np.repeat(Y, 2, axis=1), np.ones(40)]) > 0
    allowed[5] = True
    everywhere = torch.ones(40, 9, dtype=torch.float64)
    for start in (None, everywhere):
        theta = module.posterior(labelled(X, Y), start).mean.numpy()
        assert (theta[~allowed] == 0).all()
        assert (theta[allowed] > 0).all()
        assert_allclose(theta.sum(1), 1)
        module.train()
        _, counts = module.backward(labelled(X, Y), 40, start)
        module.zero_grad()
        module.eval()
        assert (counts.numpy()[~allowed] == 0).all()
    # A label's topics are made of its rows alone: words of no other's are as at first.
    model = made(topic_word_prior=0.5).fit(X.astype(np.float64), Y[:, :4])
    unseen = X[(Y[:, 0] == 1) | (np.arange(40) == 5)].sum(0) == 0
    assert unseen.any()
    assert_array_equal(model.topic_word_concentration_[0, unseen], 0.5)


def test_a_row_with_all_labels_is_not_an_open_one():
    X, Y, _ = planted(80)
    Y[3] = 1
    module = module_of(made(doc_topic_prior=2.0).fit(X, Y))
    x = np.zeros((2, 60))
    q = module.posterior(labelled(x, [[1, 1, 1, 1], [0, 0, 0, 0]]))
    assert_allclose(q.concentration[0], 2.0)
    assert_allclose(q.concentration[1], 2 * module.label_share(), rtol=1e-6)


# Edges of prediction.


def test_labels_of_no_row_and_of_every_row_say_nothing():
    X, Y, _ = planted(80)
    Y = np.column_stack([Y, np.zeros(80, int), np.ones(80, int)])
    Y[:, 3] = 0
    Y[0, 3] = 1
    model = made().fit(X, Y)
    P = model.predict_proba(X)
    assert np.isfinite(P).all()
    assert (P[:, 4] < 0.02).all()
    assert (P[:, 5] > 0.98).all()
    assert P[0, 3] > 0.9
    assert np.median(P[1:, 3]) < 0.1
    # A row without words has the labels' own frequencies.
    assert_allclose(model.predict_proba(X[:1] * 0)[0], model.label_prior_, rtol=1e-6)


def test_one_class_is_always_predicted(single):
    X, _, _ = single
    model = made(2, 1).fit(X, np.full(400, "sea"))
    assert (model.predict(X) == "sea").all()
    assert_array_equal(model.predict_proba(X), 1.0)


def test_as_many_labels_are_predicted_as_rows_have(several):
    X, Y, _ = several
    model = made().fit(X, Y)
    assert_array_equal(model.predict(X).sum(1), round(Y.sum() / 300))
    assert model.predict(X).dtype.kind == "i"
    order = np.argsort(-model.predict_proba(X[:20]), axis=1)[:, :2]
    assert (np.take_along_axis(model.predict(X[:20]), order, 1) == 1).all()
    # Probabilities that round to 1 do not tie.
    long = 50 * X[:20]
    assert_array_equal(model.predict(long).sum(1), 2)
    assert (model.predict(long) == model.predict(X[:20])).mean() > 0.9


def test_log_probabilities_are_those_of_the_probabilities(single, several):
    for X, y, _ in (single, several):
        model = made(2, 1).fit(X, y)
        logs = model.predict_log_proba(X)
        assert logs.dtype == np.float64
        assert_allclose(np.exp(logs), model.predict_proba(X), rtol=1e-12, atol=1e-300)


def test_log_probabilities_are_finite_and_rank_long_rows(single, several):
    for X, y, _ in (single, several):
        model = made().fit(X, y)
        long = 100 * X[:20]
        logs = model.predict_log_proba(long)
        assert np.isfinite(logs).all()
        assert (model.predict_proba(long) == 0).any()
        assert_allclose(logs.max(), 0, atol=1e-6)
    assert (model.predict_proba(long) == 1).sum(1).max() > 1
    best = np.argsort(-logs, axis=1)[:, : model.n_predicted_]
    assert np.take_along_axis(model.predict(long), best, 1).all()


# Kinds of y.


def assert_same(one, other, X, **tolerance):
    assert_allclose(one.components_, other.components_, **tolerance)
    assert_allclose(one.predict_proba(X), other.predict_proba(X), **tolerance)
    assert_allclose(one.transform(X), other.transform(X), **tolerance)
    assert one.lower_bound_ == pytest.approx(other.lower_bound_, rel=1e-9)


def test_lists_of_labels_are_the_indicator(several):
    X, Y, _ = several
    X = X.astype(np.float64)
    Y = np.where(np.arange(300)[:, None] % 7 == 0, 0, Y)
    names = [[str(name) for name in NAMES[y == 1]] for y in Y]
    names[7], names[14] = None, float("nan")
    expected = made(2, 1).fit(X, Y)
    by_name = made(2, 1).fit(X, names)
    assert by_name.classes_.tolist() == NAMES.tolist()
    assert by_name.topic_labels_[:3] == ["art", "art", "law"]
    for other in (
        by_name,
        made(2, 1).fit(X, scipy.sparse.csr_matrix(Y)),
        made(2, 1).fit(X, Y.tolist()),
        made(2, 1).fit(X, [set(row or []) if row == row else None for row in names]),
    ):
        assert_same(other, expected, X, rtol=0)
        assert_array_equal(other.predict(X), expected.predict(X))
        assert other.score(X, Y) == expected.score(X, Y)
    assert by_name.score(X, names) == expected.score(X, Y)
    binarizer = MultiLabelBinarizer().fit([list(NAMES)])
    assert len(binarizer.inverse_transform(by_name.predict(X[:1]))[0]) == 2


def test_minus_one_may_stand_for_no_label(single):
    X, y, _ = single
    numbers = np.searchsorted(NAMES, y)
    hidden = np.arange(400) % 2 == 0
    expected = made(2, 1).fit(X, np.where(hidden, np.nan, numbers))
    found = made(2, 1, unlabeled=-1).fit(X, np.where(hidden, -1, numbers))
    assert_same(found, expected, X, rtol=0)
    assert made(2, 1).fit(X, np.where(hidden, -1, numbers)).classes_[0] == -1
    missing = made(2, 1, unlabeled="?").fit(X, np.where(hidden, "?", y))
    assert_same(missing, expected, X, rtol=0)


def test_score_leaves_rows_without_a_label_out(single):
    X, y, _ = single
    model = made(2, 1).fit(X[:200], y[:200])
    some = np.where(np.arange(200) % 3 == 0, None, y[200:])
    has_label = np.arange(200) % 3 != 0
    expected = (model.predict(X[200:]) == y[200:])[has_label].mean()
    assert model.score(X[200:], some) == pytest.approx(expected)
    weights = np.arange(200) % 5.0
    expected = model.score(
        np.repeat(X[200:], weights.astype(int), 0), np.repeat(some, weights.astype(int))
    )
    assert model.score(X[200:], some, weights) == pytest.approx(expected)
    # A label that it does not know is not predicted.
    assert model.score(X[:4], ["art", "?", "?", "?"]) <= 0.25
    with pytest.raises(ValueError, match="score needs a row with a label"):
        model.score(X[:2], [None, None])
    with pytest.raises(ValueError, match="fitted to one label for each row"):
        model.score(X[:2], [["art"], ["law"]])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (NAMES, "y has labels for 4 rows, but X has 400"),
        (np.linspace(0, 1, 400), "continuous"),
        ([None] * 400, "y has no label"),
        (np.zeros((400, 3)), "y has no label"),
        (np.full((400, 3), 2), "an indicator, of zeros and ones"),
        (np.ones((399, 3)), "y has labels for 399 rows"),
        ([*["a"] * 399, 1], "all strings or all numbers"),
        ([*["a"] * 399, ["b"]], "a list of labels for each row"),
    ],
)
def test_bad_y_is_named_and_changes_nothing(single, y, message):
    X, labels, _ = single
    for model in (made(), made().fit(X, labels)):
        before = dict(vars(model))
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
        assert vars(model).keys() == before.keys()
        assert all(vars(model)[name] is value for name, value in before.items())


@pytest.mark.parametrize(
    "weights", [np.r_[np.zeros(399), 1], np.r_[np.zeros(398), 1, 1]]
)
def test_labels_of_rows_that_do_not_count_are_none(single, weights):
    X, y, _ = single
    hidden = np.where(np.arange(400) < 398, y, None)
    with pytest.raises(ValueError, match="y has no label"):
        made().fit(X, hidden, sample_weight=weights)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"topics_per_label": 0}, "topics_per_label"),
        ({"n_shared": -1}, "n_shared"),
        ({"doc_topic_prior": 0.0}, "doc_topic_prior"),
        ({"topic_word_prior": np.ones(3)}, r"shape \(60,\), got \(3,\)"),
        ({"init": np.ones((3, 60))}, "init must have shape"),
        ({"unlabeled": 0.5}, "unlabeled"),
    ],
)
def test_bad_parameters(single, parameters, message):
    X, y, _ = single
    with pytest.raises(ValueError, match=message):
        LabeledLDA(**parameters).fit(X, y)


# Rows, weights, streams and processes.


def test_a_weight_is_a_repetition_and_order_is_none(several):
    X, Y, _ = several
    X = X.astype(np.float64)
    Y = np.where(np.arange(300)[:, None] % 7 == 0, 0, Y)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, 300)
    order = rng.permutation(np.repeat(np.arange(300), weights))
    for parameters in ({}, {"init": "random"}, {"topics_per_label": 1}):
        model = made(**{"topics_per_label": 2, "n_shared": 1, **parameters})
        found = clone(model).fit(X, Y, sample_weight=weights)
        expected = clone(model).fit(X[order], Y[order])
        assert_same(found, expected, X, rtol=1e-7, atol=1e-12)


def test_the_same_words_with_other_labels_are_another_row():
    X = np.array([[3.0, 2, 0, 1], [3.0, 2, 0, 1], [0.0, 0, 4, 1]])
    model = made().fit(X, ["a", "b", "b"])
    assert_allclose(model.label_prior_, [1.5 / 4, 2.5 / 4])
    assert_allclose(model.topic_word_concentration_[0], X[0] + 0.05)


def test_an_array_to_start_from(single):
    X, y, topics = single
    model = made(2, 1, init=topics, max_iter=3).fit(X, y)
    assert cosines(model.components_, topics).min() > 0.95


@pytest.mark.parametrize("topics_per_label", [1, 3])
def test_labels_with_fewer_rows_than_topics(topics_per_label):
    X = np.eye(6) * 5 + 1
    model = made(topics_per_label, 1).fit(X, ["a", "b", "b", "b", None, None])
    assert np.isfinite(model.components_).all()
    assert model.score(X[:4], ["a", "b", "b", "b"]) == 1
    assert (
        len(np.unique(model.components_[:topics_per_label], axis=0)) == topics_per_label
    )


def test_a_stream_of_chunks(single):
    X, y, _ = single
    model = made(2, 1)
    for start in [*range(0, 300, 50)] * 8:
        rows = slice(start, start + 50)
        labels = np.where(np.arange(50) % 5 == 0, None, y[rows])
        model.partial_fit(X[rows], labels, classes=NAMES, total_samples=300)
    assert model.score(X[300:], y[300:]) > 0.9
    assert model.n_samples_seen_ == 2400
    # Chunks that name no classes, or have no label, go on.
    model.partial_fit(X[:10], y[:10]).partial_fit(X[:10], [None] * 10)
    assert model.score(X[300:], y[300:]) > 0.9
    for y_bad, message in (
        (["art", "new"], "does not know, such as 'new'"),
        ([0, 1], "does not know, such as 0"),
        (np.eye(2, 4), "fitted to one label for each row"),
    ):
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X[:2], y_bad)
    with pytest.raises(ValueError, match="differ from those of the first call"):
        model.partial_fit(X[:2], y[:2], classes=["art", "law"])


def test_the_first_chunk_needs_classes_and_a_label(single, several):
    X, y, _ = single
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        made().partial_fit(X, y)
    with pytest.raises(ValueError, match="y has no label"):
        made().partial_fit(X, [None] * 400, classes=NAMES)
    # Classes of no row yet may come.
    model = made(2).partial_fit(X[:50], np.full(50, "sea"), classes=NAMES)
    for _ in range(30):
        model.partial_fit(X, y, total_samples=400)
    assert model.score(X, y) > 0.9
    X, Y, _ = several
    assert made().partial_fit(X, Y).classes_.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="3 columns, but there are 4 labels"):
        made().partial_fit(X, Y).partial_fit(X, Y[:, :3])


def test_warm_starts_keep_the_classes(single):
    X, y, _ = single
    model = made(2, 1, warm_start=True).fit(X, y)
    before = model.lower_bound_
    assert model.fit(X, y).lower_bound_ > before
    with pytest.raises(ValueError, match="does not know"):
        model.fit(X, np.where(y == "sea", "lake", y))
    with pytest.raises(ValueError, match="y has no label"):
        model.fit(X, [None] * 400)
    # As many topics as before would have other owners.
    with pytest.raises(ValueError, match="topics_per_label=1 cannot continue"):
        model.set_params(topics_per_label=1, n_shared=5).fit(X, y)


@pytest.mark.parametrize("batch_size", [None, 64])
def test_rows_in_blocks_take_the_labels_of_all(several, batch_size):
    X, Y, _ = several
    X = scipy.sparse.csr_matrix(X, dtype=np.float64)
    blocks = RowBlocks([X[:90], X[90:91], X[91:]])
    model = made(2, 1, batch_size=batch_size, max_iter=6)
    found, expected = clone(model).fit(blocks, Y), clone(model).fit(X, Y)
    if batch_size is None:
        assert_same(found, expected, X, rtol=1e-7, atol=1e-12)
    assert found.score(X, Y) == pytest.approx(expected.score(X, Y), abs=0.05)
    weights = np.arange(300) % 3
    found = clone(model).fit(blocks, Y, sample_weight=weights)
    keep = weights > 0
    expected = clone(model).fit(X[keep], Y[keep], sample_weight=weights[keep])
    if batch_size is None:
        assert_same(found, expected, X, rtol=1e-7, atol=1e-12)
    with pytest.raises(ValueError, match="y has labels for 299 rows, but X has 300"):
        clone(model).fit(blocks, Y[1:])


SHARDS = """
from skdeepfactor import LabeledLDA
rows = [slice(0, 25), slice(25, 40), slice(40, 60)]
own = X[rows[rank]] if world > 1 else X
sets = [["a"], ["a", "b"]] * 12 + [["b"]] + [None] * 15 + [["c"], ["b", "c"]] * 10
y = sets[rows[rank]] if world > 1 else sets
for size in (None, 20):
    # The same rows everywhere, and a start that is drawn alike.
    model = LabeledLDA(2, 1, max_iter=4, batch_size=size, random_state=0).fit(X, sets)
    save(f"shared-{size}", model)
    model = LabeledLDA(1, 0, max_iter=4, batch_size=size, random_state=0)
    model.fit(own, y, sharded=True)
    assert model.classes_.tolist() == ["a", "b", "c"]
    save(f"sharded-{size}", model)
if world > 1:
    for bad, message in (
        ([None] * len(y), "y has no label"),
        (["a"] * len(y) if rank == 0 else y, "different kinds of y"),
        (y[1:] if rank == 0 else y, "rows, but X has"),
    ):
        try:
            LabeledLDA().fit(own, bad, sharded=True)
        except (ValueError, RuntimeError) as error:
            assert message in str(error), error
        else:
            raise AssertionError(message)
"""


def test_processes_share_labels(counts, tmp_path):
    """Though no process has all of them, and one has none."""
    found = {}
    for world in (1, 3):
        folder = tmp_path / str(world)
        folder.mkdir()
        np.save(folder / "X.npy", counts.toarray().astype(np.float64))
        ended(started(folder, SHARDS, world))
        for path in folder.glob("*.npz"):
            name, rank, _ = path.name.split(".")
            with np.load(path) as file:
                found[world, int(rank), name] = dict(file)
    assert len(found) == 16
    for (world, _, name), values in found.items():
        assert_array_equal(values["components"], found[world, 0, name]["components"])
        # Random batches of shards are others.
        if name == "sharded-20":
            continue
        for key in ("components", "bound", "scores", "label_proportions"):
            expected = found[1, 0, name][key]
            assert_allclose(values[key], expected, rtol=1e-6, atol=1e-9)


# scikit-learn's ways.


def test_tags_say_what_it_is():
    tags = LabeledLDA().__sklearn_tags__()
    assert is_classifier(LabeledLDA())
    assert tags.classifier_tags.multi_label
    assert tags.classifier_tags.poor_score
    assert tags.target_tags.required
    assert not hasattr(LabeledLDA(), "decision_function")


def test_searches_and_validation_by_accuracy(single, several):
    X, y, _ = single
    search = GridSearchCV(made(), {"topics_per_label": [1, 2]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.9
    assert_array_equal(search.predict(X), search.best_estimator_.predict(X))
    X, Y, _ = several
    scores = cross_val_score(made(), X, Y, cv=3, scoring="f1_micro")
    assert scores.min() > 0.7
    bounds = cross_val_score(made(), X, Y, cv=3, scoring=lambda m, X, y: m.bound(X))
    assert np.isfinite(bounds).all()


def test_a_pipeline_of_texts(single):
    texts = ["cat dog cat", "dog cat", "bond fund bond", "fund rate", "cat fund"]
    labels = [["pets"], ["pets"], ["money"], ["money"], ["pets", "money"]]
    pipeline = make_pipeline(CountVectorizer(), made(doc_topic_prior=1.0))
    pipeline.fit(texts, labels)
    names = pipeline[-1].classes_[pipeline.predict(["a dog", "the bond"]).argmax(1)]
    assert names.tolist() == ["pets", "money"]
    assert pipeline.transform(texts).shape == (5, 2)


def test_output_in_frames(single):
    pandas = pytest.importorskip("pandas")
    X, y, _ = single
    model = made(1, 1).set_output(transform="pandas").fit(X, pandas.Series(y))
    assert model.transform(X).columns.tolist() == [f"labeledlda{i}" for i in range(5)]
    assert model.predict(X).shape == (400,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_types(single, dtype):
    X, y, _ = single
    model = made(2, 1).fit(X.astype(dtype), y)
    expected = np.float64 if dtype == np.float64 else np.float32
    assert model.transform(X.astype(dtype)).dtype == expected
    assert model.components_.dtype == expected
    assert model.predict_proba(X.astype(dtype)).dtype == np.float64


def test_it_pickles_with_its_labels(single):
    X, y, _ = single
    model = made(2, 1).fit(X, y)
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict(X), model.predict(X))
    restored.partial_fit(X[:20], y[:20])
    assert restored.classes_.tolist() == NAMES.tolist()


def test_it_is_lda_where_there_is_one_label_and_shared_topics_alone(
    single, monkeypatch
):
    """Rows of one label that all have use every topic, as LDA's do."""
    X, _, topics = single
    # Steps of LDA over-relax, unless they are full ones.
    monkeypatch.setattr(LDA_STEP_SIZE, 1.0)
    X = X.astype(np.float64)
    options = {"doc_topic_prior": 0.1, "topic_word_prior": 0.05, "max_iter": 4}
    options["init"] = topics
    model = made(1, 8, **options).fit(X, np.ones(400))
    peer = LatentDirichletAllocation(9, random_state=0, **options).fit(X)
    assert_allclose(model.components_, peer.components_, rtol=1e-9)
    assert model.lower_bound_ == pytest.approx(peer.lower_bound_, rel=1e-12)
