"""Supervised LDA: planted answers, gradients, exact evidence, rows without answers."""

import itertools
import pickle
from datetime import date

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skdeepfactor import (
    LatentDirichletAllocation,
    SupervisedLDAClassifier,
    SupervisedLDARegressor,
)
from skdeepfactor._estimator.answers import Moments
from skdeepfactor._math.batch import Batch
from skdeepfactor.data import RowBlocks
from skdeepfactor.models.supervised_lda.expected import with_expected_classes
from skdeepfactor.models.supervised_lda.module import (
    Classes,
    Numbers,
    SupervisedTopics,
)

NAMES = np.array(["art", "law", "sea"])


@pytest.fixture(scope="module")
def planted():
    """Rows of 60 words, their proportions of six topics, classes and numbers."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(40, 0.1), size=6)
    theta = rng.dirichlet(np.full(6, 0.3), size=400)
    X = np.stack([rng.multinomial(60, p) for p in theta @ topics])
    X = scipy.sparse.csr_matrix(X)
    # Each class has two topics, so that no single topic tells it.
    classes = NAMES[theta.reshape(400, 3, 2).sum(axis=2).argmax(axis=1)]
    numbers = 1000 + theta @ [0.0, 10.0, 20.0, 40.0, 80.0, 160.0]
    return X, theta, topics, classes, numbers


def classifier(n_components=6, **parameters):
    return SupervisedLDAClassifier(n_components, random_state=0, **parameters)


def regressor(n_components=6, **parameters):
    return SupervisedLDARegressor(n_components, random_state=0, **parameters)


# What it finds.


def test_planted_classes_are_predicted(planted):
    X, _, topics, y, _ = planted
    model = classifier().fit(X[:300], y[:300])
    # Rows are short, and many are close to two classes.
    assert model.score(X[300:], y[300:]) > 0.8
    assert_array_equal(model.classes_, NAMES)
    assert model.coef_.shape == (3, 6)
    cosines = (model.components_ @ topics.T) / np.outer(
        np.linalg.norm(model.components_, axis=1), np.linalg.norm(topics, axis=1)
    )
    assert cosines.max(axis=0).min() > 0.9
    # The topics of a class speak for it.
    owner = cosines.argmax(axis=1) // 2
    assert_array_equal(model.coef_.argmax(axis=0), owner)


def test_planted_numbers_are_predicted_on_any_scale(planted):
    X, _, _, _, y = planted
    model = regressor().fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.9
    other = regressor().fit(X[:300], 1e6 * (y[:300] - 1000))
    assert_allclose(other.predict(X), 1e6 * (model.predict(X) - 1000), rtol=0.02)
    assert_allclose(other.coef_, 1e6 * model.coef_, rtol=0.02, atol=1e6)
    theta = model.transform(X)
    assert_allclose(theta @ model.coef_ + model.intercept_, model.predict(X), rtol=1e-5)


def test_few_topics_are_those_that_answers_need():
    """Half of the words have themes of their own, which say nothing of the class."""
    rng = np.random.default_rng(1)
    n = 500
    y = rng.integers(2, size=n)
    theme = rng.integers(4, size=n)
    rates = np.full((n, 60), 0.2)
    for row in range(n):
        rates[row, 10 * theme[row] : 10 * theme[row] + 10] = 4.0
        rates[row, 40 + 10 * y[row] : 50 + 10 * y[row]] = 0.7
    X = rng.poisson(rates)
    lda = LatentDirichletAllocation(5, random_state=0).fit(X[:300])
    plain = LogisticRegression().fit(lda.transform(X[:300]), y[:300])
    model = classifier(5, supervision=300.0).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.85
    assert plain.score(lda.transform(X[300:]), y[300:]) < 0.75


def test_rows_without_an_answer_teach_words(planted):
    X, _, _, y, numbers = planted
    few = np.where(np.arange(300) < 20, y[:300], None)
    both = classifier().fit(X[:300], few)
    alone = classifier().fit(X[:20], y[:20])
    assert both.bound(X[300:]) > alone.bound(X[300:])
    assert both.score(X[300:], y[300:]) > alone.score(X[300:], y[300:])
    few = np.where(np.arange(300) < 20, numbers[:300], np.nan)
    both = regressor().fit(X[:300], few)
    alone = regressor().fit(X[:20], numbers[:20])
    assert both.score(X[300:], numbers[300:]) > alone.score(X[300:], numbers[300:])
    # Rows without one are left out of scores.
    hidden = np.where(np.arange(300) < 250, np.nan, numbers[:300])
    expected = both.score(X[250:300], numbers[250:300])
    assert both.score(X[:300], hidden) == pytest.approx(expected, rel=1e-5)


def rows_of_classes(seed):
    """Rows of 30 words, three classes, which two rows of each keep, -1 in others."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=600)
    shares = rng.dirichlet(np.full(200, 0.5), size=3)
    X = np.stack([rng.multinomial(30, 0.4 * shares[c] + 0.6 / 200) for c in y])
    few = np.full(600, -1)
    for c in range(3):
        few[np.flatnonzero(y == c)[:2]] = c
    return scipy.sparse.csr_matrix(X), y, few


def test_rows_without_a_class_teach_the_expected_one():
    settings = {"n_components": 3, "unlabeled": -1, "max_iter": 5}
    gains = []
    for seed in range(3):
        X, y, few = rows_of_classes(seed)
        plain = classifier(**settings).fit(X[:400], few[:400])
        taught = classifier(**settings, unlabeled_weight=0.3).fit(X[:400], few[:400])
        gains.append(taught.score(X[400:], y[400:]) - plain.score(X[400:], y[400:]))
    assert np.mean(gains) > 0.02
    # Where all rows have a class, none is expected.
    plain = classifier(**settings).fit(X, y)
    taught = classifier(**settings, unlabeled_weight=0.3).fit(X, y)
    assert_array_equal(taught.components_, plain.components_)


def test_expected_classes():
    X, y, few = rows_of_classes(0)
    known = scipy.sparse.csr_matrix(few[:, np.newaxis] == np.arange(4)) * 1.0
    found = with_expected_classes(X, known, 0.3).toarray()
    has_class = few >= 0
    assert_array_equal(found[has_class], known.toarray()[has_class])
    assert (found.argmax(axis=1) == y).mean() > 0.85
    assert_allclose(found[~has_class].sum(axis=1), 0.3, atol=0.01)
    # Of the fourth class there is no row.
    assert not found[:, 3].any()


def test_expected_classes_need_all_rows():
    X, _, few = rows_of_classes(0)
    model = classifier(unlabeled=-1, unlabeled_weight=0.3)
    with pytest.raises(ValueError, match="unlabeled_weight above 0 needs all rows"):
        model.partial_fit(X, few, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="unlabeled_weight above 0 needs all rows"):
        model.fit(RowBlocks([X[:300], X[300:]]), few)


@pytest.mark.parametrize("nothing", [None, np.nan, -1])
def test_answers_are_missing_alike(planted, nothing):
    X, _, _, y, numbers = planted
    codes = np.searchsorted(NAMES, y)
    known = np.arange(400) % 3 > 0
    settings = {"max_iter": 2, "unlabeled": -1}
    given = [int(code) if k else nothing for code, k in zip(codes, known, strict=True)]
    model = classifier(**settings).fit(X, given)
    expected = classifier(**settings).fit(X, np.where(known, codes, -1))
    assert_array_equal(model.coef_, expected.coef_)
    given = [float(v) if k else nothing for v, k in zip(numbers, known, strict=True)]
    model = regressor(**settings).fit(X, given)
    expected = regressor(**settings).fit(X, np.where(known, numbers, np.nan))
    assert_array_equal(model.coef_, expected.coef_)


def test_a_class_that_weighs_more_is_predicted_more(planted):
    X, _, _, y, _ = planted
    few = classifier(class_weight={"law": 0.01}, max_iter=5).fit(X, y).predict(X)
    many = classifier(class_weight={"law": 20.0}, max_iter=5).fit(X, y).predict(X)
    assert (few == "law").mean() < (y == "law").mean() < (many == "law").mean()
    # Of unequal classes, balanced weights raise the rare one.
    rare = np.concatenate([np.flatnonzero(y == "art")[:12], np.flatnonzero(y == "law")])
    even = classifier(max_iter=5, class_weight="balanced").fit(X[rare], y[rare])
    plain = classifier(max_iter=5).fit(X[rare], y[rare])
    both = [model.predict_proba(X[rare])[:, 0].mean() for model in (even, plain)]
    assert both[0] > both[1]


@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.parametrize(
    ("words", "answers", "expected"),
    [
        # The best for answers, if words allow it.
        ([100, 100, 100, 100], [1, 2, 3, 4], 3.0),
        ([100, 100, 100, 100], [1, 4, 3, 2], 0.3),
        # Perplexities are compared with the smallest, which need not be the first.
        ([100, 101, 102.9, 103.1], [1, 2, 3, 4], 1.0),
        ([103.1, 100, 102.9, 104], [4, 2, 1, 3], 0.3),
        ([104, 106, 100, 105], [4, 3, 1, 2], 1.0),
    ],
)
def test_auto_weighs_answers_against_words(
    make, words, answers, expected, planted, monkeypatch
):
    X, _, _, y, numbers = planted
    model = make(2, supervision="auto", max_iter=1)
    places, held = {}, []

    def place(fitted):
        return places.setdefault(fitted.supervision, len(places))

    def perplexity(self, X, *, average):
        assert average == "corpus"
        return words[place(self)]

    def answer_score(self, X, y):
        assert self.n_samples_seen_ == 48
        held.append(X.toarray())
        return answers[place(self)]

    monkeypatch.setattr(type(model), "perplexity", perplexity)
    monkeypatch.setattr(type(model), "_answer_score", answer_score)
    model.fit(X[:60], (y if make is classifier else numbers)[:60])
    assert model.supervision_ == pytest.approx(60 * expected)
    for rows in held:
        assert rows.shape[0] == 12
        assert_array_equal(rows, held[0])


def test_a_checkpoint_is_resumed_with_the_same_weight(planted, tmp_path, monkeypatch):
    X, _, _, y, _ = planted
    X, y, path, held = X[:60], y[:60], tmp_path / "fit", []

    def answer_score(self, X, y):
        held.append(X.toarray())
        return -float(len(held))

    monkeypatch.setattr(SupervisedLDAClassifier, "_answer_score", answer_score)
    model = SupervisedLDAClassifier(2, supervision="auto", max_iter=1)
    model.fit(X, y, checkpoint=path)
    again = clone(model).fit(X, y, checkpoint=path)
    assert_array_equal(again.components_, model.components_)
    for rows in held:
        assert_array_equal(rows, held[0])


def test_supervision_is_chosen_by_held_out_rows(planted):
    X, _, _, y, numbers = planted
    model = classifier(supervision="auto", max_iter=4).fit(X, y)
    assert model.supervision_ / 60 in (0.1, 0.3, 1.0, 3.0)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    same = classifier(supervision=model.supervision_, max_iter=4).fit(X, y)
    assert same.score(X, y) == pytest.approx(model.score(X, y), abs=0.03)
    model = regressor(supervision="auto", max_iter=2).fit(X, numbers)
    assert model.supervision_ / 60 in (0.1, 0.3, 1.0, 3.0)
    with pytest.raises(ValueError, match="supervision='auto' needs all rows"):
        classifier(supervision="auto").partial_fit(X, y, classes=NAMES)
    with pytest.raises(ValueError, match="at least two rows with words and an answer"):
        classifier(supervision="auto").fit(X[:3], ["art", None, None])


def test_the_weight_of_answers_is_in_words_as_the_model_has_them(planted):
    X, _, _, y, _ = planted
    chosen = [
        classifier(supervision="auto", max_iter=2, input_scale=scale).fit(X, y)
        for scale in (1.0, 0.5)
    ]
    lengths = [60, 30]
    for model, length in zip(chosen, lengths, strict=True):
        assert model.supervision_ / length in (0.1, 0.3, 1.0, 3.0)


def test_rare_classes_are_not_all_held_out():
    X = np.random.default_rng(0).poisson(1.0, (40, 12))
    y = ["c"] + ["a", "b"] * 19 + ["a"]
    for seed in range(6):
        model = SupervisedLDAClassifier(
            2, supervision="auto", max_iter=1, class_weight={"c": 2}, random_state=seed
        )
        assert model.fit(X, y).classes_.tolist() == ["a", "b", "c"]


def test_another_supervision_holds_in_a_warm_fit(planted):
    X, _, _, y, _ = planted
    model = classifier(max_iter=1, warm_start=True).fit(X, y)
    assert model.set_params(supervision=5.0).fit(X, y).supervision_ == 5.0


def test_answers_far_from_0_are_told_apart(planted):
    X, _, _, _, numbers = planted
    near = regressor(max_iter=4).fit(X, numbers).score(X, numbers)
    far = 1e9 + 1e2 * numbers
    assert regressor(max_iter=4).fit(X, far).score(X, far) == pytest.approx(
        near, abs=0.01
    )
    with pytest.raises(ValueError, match="must not be larger"):
        regressor().fit(X, np.full(X.shape[0], 1e200))


def test_more_supervision_costs_words_and_tells_answers(planted):
    X, _, _, y, _ = planted
    weak = classifier(3, supervision=1e-3).fit(X[:300], y[:300])
    strong = classifier(3, supervision=1e4).fit(X[:300], y[:300])
    assert strong.score(X[:300], y[:300]) > weak.score(X[:300], y[:300])
    assert strong.bound(X[300:]) < weak.bound(X[300:])


# The bound and the gradients.


def made_module(kind, supervision=2.0, inner_iter=4, word_dropout=0.0, count_power=1.0):
    torch.manual_seed(0)
    module = SupervisedTopics(
        kind,
        shape=(3, 5),
        supervision=supervision,
        C=3.0,
        count_power=count_power,
        word_dropout=word_dropout,
        doc_topic_prior=0.4,
        topic_word_prior=0.2,
        inner_iter=inner_iter,
        tol=1e-12,
    ).double()
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    module.refresh()
    return module


KINDS = {
    "classes": (
        Classes(np.arange(2), np.array([1.0, 3.0])),
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]],
    ),
    "numbers": (Numbers(Moments(3.0, 0.0, 3.0)), [[0.5], [-1.0], [np.nan]]),
}
ROWS = torch.tensor(
    [[2.0, 1, 0, 0, 3], [0, 1, 1, 4, 0], [1, 0, 0, 0, 1]], dtype=torch.float64
)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_objective(kind):
    """By differences of the objective, with all steps of inference differentiated."""
    kind, answers = KINDS[kind]
    module = made_module(kind)
    batch = Batch(ROWS, weight=0.7, side={"answers": torch.tensor(answers).double()})
    fixed = module.posterior(batch).mean

    def objective():
        topics = module._topics()
        theta = module.posterior(batch).mean
        words = (ROWS * (fixed @ topics.T).log()).sum(1)
        found = 0.7 * (words + module._answer_bounds(batch, theta)).sum()
        return (found - batch.share / 30 * module.global_kl()).item()

    module.backward(batch, 30)
    for p in module.parameters():
        for place in itertools.product(*map(range, p.shape)):
            with torch.no_grad():
                before = p[place].item()
                p[place] = before + 1e-5
                above = objective()
                p[place] = before - 1e-5
                below = objective()
                p[place] = before
            slope = (above - below) / 2e-5
            assert p.grad[place].item() == pytest.approx(-slope, rel=1e-4, abs=1e-6)


def test_inference_does_not_see_answers():
    module = made_module(KINDS["classes"][0])
    answers = torch.tensor(KINDS["classes"][1]).double()
    with_answers = Batch(ROWS, side={"answers": answers})
    assert_array_equal(
        module.posterior(with_answers).mean, module.posterior(Batch(ROWS)).mean
    )


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_proportions_are_those_of_powers_of_counts(power):
    kind, answers = KINDS["classes"]
    side = {"answers": torch.tensor(answers, dtype=torch.float64)}
    damped = torch.where(ROWS > 0, ROWS**power, 0)
    module, plain = made_module(kind, count_power=power), made_module(kind)
    for rows in (ROWS, ROWS.to_sparse_csr()):
        found = module.posterior(Batch(rows)).concentration
        assert_allclose(found, plain.posterior(Batch(damped)).concentration)
    # Words are explained as they are; answers hang on the proportions alone.
    assert_allclose(module.elbo(Batch(ROWS)), plain.elbo(Batch(ROWS)))
    module.backward(Batch(ROWS, side=side), n_samples=3)
    plain.backward(Batch(damped, side=side), n_samples=3)
    assert_allclose(module.coef.grad, plain.coef.grad)
    assert not torch.allclose(module.logits.grad, plain.logits.grad)


def test_dropped_words_are_dropped_in_training_alone():
    module = made_module(KINDS["classes"][0], word_dropout=0.5)
    module.seed(0)
    x = Batch(ROWS).counts
    kept = module.train()._with_gaps(x).values()
    assert set((kept / x.values()).round(decimals=3).tolist()) == {0.0, 2.0}
    assert module.eval()._with_gaps(x) is x


def evidence(x, alpha, beta):
    """Log p(x) of words in order, by a sum over all assignments to topics."""
    words = np.repeat(np.arange(len(x)), x)
    gammaln = scipy.special.gammaln
    total = 0.0
    for topics in itertools.product(range(len(beta)), repeat=len(words)):
        n = np.bincount(topics, minlength=len(beta))
        log_p = gammaln(alpha * len(beta)) - gammaln(alpha * len(beta) + n.sum())
        log_p += (gammaln(alpha + n) - gammaln(alpha)).sum()
        total += np.exp(log_p) * beta[list(topics), words].prod()
    return np.log(total)


def test_bounds_are_below_the_exact_evidence():
    X = np.array([[2, 1, 0], [0, 1, 1], [1, 0, 0], [1, 2, 1]])
    model = classifier(2, doc_topic_prior=0.4, inner_tol=1e-12, max_iter=2)
    model.fit(X.astype(np.float64), [0, 1, 0, 1])
    bounds = model.score_samples(X.astype(np.float64))
    for x, bound in zip(X, bounds, strict=True):
        exact = evidence(x, 0.4, model.components_)
        assert exact - x.sum() < bound <= exact + 1e-9
    # A row of one word leaves nothing to be bounded but which topic it is from.
    assert bounds[2] == pytest.approx(evidence(X[2], 0.4, model.components_), abs=0.5)


def test_objective_rises(planted):
    X, _, _, y, numbers = planted
    for model, answers in ((classifier(), y), (regressor(), numbers)):
        bounds = model.fit(X, answers).history_["lower_bound"]
        assert bounds[-1] > bounds[0]
        assert model.lower_bound_ == pytest.approx(bounds[-1], rel=1e-3)


# Answers of all kinds.


def test_kinds_of_models(planted):
    X, _, _, y, _ = planted
    assert is_classifier(classifier())
    assert is_regressor(regressor())
    model = classifier(max_iter=2).fit(X, y)
    log_p = model.predict_log_proba(X)
    assert_allclose(np.exp(log_p), model.predict_proba(X))
    assert_array_equal(model.predict(X), NAMES[log_p.argmax(axis=1)])
    grid = GridSearchCV(classifier(max_iter=2), {"supervision": [1.0, 100.0]}, cv=2)
    assert grid.fit(X, y).best_score_ > 0.6


def test_two_classes_have_two_rows_of_coefficients(planted):
    X, _, _, y, _ = planted
    model = classifier(max_iter=3).fit(X, y == "sea")
    assert model.coef_.shape == (2, 6)
    assert model.score(X, y == "sea") > 0.9


def test_one_class_and_one_number_are_predicted(planted):
    X = planted[0]
    model = classifier(max_iter=2).fit(X, ["art"] * 400)
    assert set(model.predict(X)) == {"art"}
    model = regressor(max_iter=2).fit(X, [7.0] * 400)
    assert_allclose(model.predict(X), 7.0, atol=1e-3)


def test_chunks_may_lack_classes(planted):
    X, _, _, y, numbers = planted
    order = np.argsort(y, kind="stable")
    model = classifier(batch_size=50)
    model.partial_fit(X[:100], y[:100], classes=[*NAMES, "war"])
    for start in range(0, 400, 100):
        rows = order[start : start + 100]
        model.partial_fit(X[rows], y[rows])
    mixed = np.random.default_rng(0).permutation(400)
    for _ in range(3):
        model.partial_fit(X[mixed], y[mixed])
    assert model.score(X, y) > 0.8
    assert model.predict_proba(X)[:, 3].max() < 0.5
    with pytest.raises(ValueError, match="labels that the model does not know"):
        model.partial_fit(X, ["air"] * 400)
    with pytest.raises(ValueError, match="classes must be passed"):
        classifier().partial_fit(X, y)
    # A chunk need not have an answer.
    model.partial_fit(X, [None] * 400)
    stream = regressor(batch_size=50)
    for start in range(0, 400, 100):
        rows = slice(start, start + 100)
        stream.partial_fit(X[rows], numbers[rows])
    assert stream.score(X, numbers) > 0.7


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        ([0, 1], "y has labels for 2 rows, but X has 4"),
        ([0.5, 1.2, 0.1, 3.3], "y is continuous"),
        ([None] * 4, "y has no label"),
        ([["a"], ["b"], ["a", "b"], ["a"]], "one class for each row"),
        (np.eye(4), "one class for each row"),
        (["a", 1, "a", 2], "all strings or all numbers"),
    ],
)
def test_answers_that_are_no_classes(y, message):
    X = np.eye(4) + 1
    model = classifier(2, max_iter=2).fit(X, [0, 1, 0, 1])
    before = model.coef_
    for warm_start in (False, True):
        model.set_params(warm_start=warm_start)
        if message == "one class for each row" and warm_start:
            message = "fitted to one label for each row"
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
        assert model.coef_ is before


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        ([0, 1], "y has answers for 2 rows, but X has 4"),
        (["a", "b", "a", "b"], "y must be numbers, of which 'a' is none"),
        (np.array(["a", "b", "a", "b"]), "y must be numbers"),
        ([np.nan] * 4, "y has no answer"),
        ([1.0, np.inf, 2.0, 3.0], "y contains infinity"),
        (np.ones((4, 2)), "y should be a 1d array"),
        ([date(2001, 2, 3)] * 4, "y must be numbers, got values of the type date"),
        (scipy.sparse.csr_matrix([[1], [2], [3], [4]]), "got a sparse matrix"),
    ],
)
def test_answers_that_are_no_numbers(y, message):
    X = np.eye(4) + 1
    model = regressor(2, max_iter=2).fit(X, [0, 1, 0, 1])
    before = model.coef_
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    assert model.coef_ is before


def test_scores_need_answers():
    X = np.eye(4) + 1
    with pytest.raises(ValueError, match="a row with a label"):
        classifier(2, max_iter=2).fit(X, [0, 1, 0, 1]).score(X, [None] * 4)
    model = regressor(2, max_iter=2).fit(X, [0, 1, 0, 1])
    with pytest.raises(ValueError, match="a row with an answer"):
        model.score(X, [np.nan] * 4)
    with pytest.raises(ValueError, match="for 3 rows, but X has 4"):
        model.score(X, [1, 2, 3])


def test_class_weights_that_make_no_sense(planted):
    X, _, _, y, _ = planted
    with pytest.raises(ValueError, match="class_weight has the class 'air'"):
        classifier(class_weight={"air": 2.0}).fit(X, y)
    with pytest.raises(ValueError, match="finite numbers that are not negative"):
        classifier(class_weight={"art": -1.0}).fit(X, y)
    with pytest.raises(ValueError, match="'balanced' needs all rows"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=NAMES)


def test_dense_rows_equal_sparse_ones(planted):
    X, _, _, y, numbers = planted
    for model, answers in ((classifier(), y), (regressor(), numbers)):
        model.set_params(max_iter=2)
        sparse = clone(model).fit(X, answers)
        dense = clone(model).fit(X.toarray(), answers)
        assert_allclose(dense.coef_, sparse.coef_, rtol=1e-4)
        assert_allclose(dense.transform(X), sparse.transform(X), rtol=1e-4, atol=1e-6)
