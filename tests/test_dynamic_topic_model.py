"""Dynamic topics: paths by a dense optimizer, planted drifts, times of all kinds."""

import pickle
from datetime import UTC, datetime, time

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skdeepfactor import DynamicTopicModel, LatentDirichletAllocation
from skdeepfactor._estimator.slices import joined_slice_sizes, times_and_gaps
from skdeepfactor._training.distributed import Share
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor.data import RowBlocks
from skdeepfactor.inspection import match_components
from skdeepfactor.metrics import completion_perplexity, scorers
from skdeepfactor.models.dynamic_topic_model.paths import climb, log_prior, smoothed
from tests.conftest import LDA_STEP_SIZE

# The paths of a model and of its most probable ones.


def log_joint(paths, counts, prior, variances):
    """Log density of counts and paths, (n_slices, n_features), of one topic."""
    log_p = paths - logsumexp(paths, axis=1, keepdims=True)
    steps = np.square(np.diff(paths, axis=0)).sum(axis=1)
    return ((counts + prior) * log_p).sum() - (steps / (2 * variances)).sum()


def test_paths_are_the_most_probable_ones():
    rng = np.random.default_rng(0)
    variances = np.array([0.3, 0.1, 0.9])
    counts = rng.poisson(3, size=(4, 5, 2)).astype(float)
    # A word that is nowhere, and a slice without words.
    counts[:, 0], counts[2] = 0, 0
    paths = torch.zeros(4, 5, 2, dtype=torch.float64)
    prior = torch.full((1, 1), 0.1, dtype=torch.float64)
    climb(paths, torch.from_numpy(counts), prior, variances.tolist(), 300)
    total = 0.0
    for k in range(2):

        def loss(flat, k=k):
            return -log_joint(flat.reshape(4, 5), counts[..., k], 0.1, variances)

        best = scipy.optimize.minimize(loss, np.zeros(20), method="BFGS", tol=1e-10)
        expected = softmax(best.x.reshape(4, 5), axis=1)
        assert_allclose(paths[..., k].softmax(1), expected, atol=1e-5)
        total += log_joint(paths[..., k].numpy(), counts[..., k], 0.1, variances)
        total -= (counts[..., k] * np.log(expected)).sum()
    assert_allclose(log_prior(paths, prior, variances.tolist()), total, rtol=1e-5)


def test_steps_never_make_paths_less_probable():
    rng = np.random.default_rng(1)
    # From far away, where Newton's steps overshoot.
    paths = torch.from_numpy(rng.normal(scale=4, size=(6, 8, 3)))
    counts = rng.poisson(rng.gamma(0.3, 20, size=(6, 8, 3))).astype(float)
    prior, variances = torch.full((1, 1), 0.01, dtype=torch.float64), [0.5] * 5
    before = -np.inf
    for _ in range(40):
        after = sum(
            log_joint(paths[..., k].numpy(), counts[..., k], 0.01, np.array(variances))
            for k in range(3)
        )
        assert after >= before - 1e-9 * abs(after)
        before = after
        climb(paths, torch.from_numpy(counts), prior, variances, 1)


@pytest.mark.parametrize("variance", [0.0, 1e-12, 0.7, 1e6])
def test_smoothers_solve_the_tridiagonal_system(variance):
    rng = np.random.default_rng(0)
    pulls, precisions = rng.normal(size=5), rng.gamma(1.0, size=5)
    found = smoothed(
        torch.from_numpy(pulls.copy()),
        torch.from_numpy(precisions.copy()),
        [variance] * 4,
    )
    if variance < 1e-9:
        expected = np.full(5, pulls.sum() / precisions.sum())
    else:
        walk = 2 * np.eye(5) - np.eye(5, k=1) - np.eye(5, k=-1)
        walk[0, 0] = walk[-1, -1] = 1
        expected = np.linalg.solve(np.diag(precisions) + walk / variance, pulls)
    assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_blocks_of_features_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(rng.poisson(2, size=(3, 7, 2)).astype(float))
    found = []
    for size in (2**18, 12):
        monkeypatch.setattr("skdeepfactor._math.ops.SLICE", size)
        paths = torch.zeros(3, 7, 2, dtype=torch.float64)
        prior = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)).double()
        climb(paths, counts, prior, [0.2, 0.4], 5)
        found.append(paths)
    assert_allclose(*found, rtol=1e-12)


# Data with planted drifts.


def planted(n_rows=1200, n_words=80, k=3, n_slices=6, n_features=60, seed=0):
    """Counts, times and topics by slice, whose mass moves from words to others."""
    rng = np.random.default_rng(seed)
    first, last = rng.dirichlet(np.full(n_features, 0.1), size=(2, k))
    share = np.linspace(0, 1, n_slices)[:, np.newaxis, np.newaxis]
    # Half of each topic stays.
    stays = rng.dirichlet(np.full(n_features, 0.1), size=k)
    topics = 0.5 * stays + 0.5 * ((1 - share) * first + share * last)
    times = rng.integers(n_slices, size=n_rows)
    theta = rng.dirichlet(np.full(k, 0.2), size=n_rows)
    p = np.einsum("nk,nkv->nv", theta, topics[times])
    X = scipy.sparse.csr_matrix(rng.multinomial(n_words, p / p.sum(1, keepdims=True)))
    return X, times, topics


@pytest.fixture(scope="module")
def data():
    X, times, _ = planted(240, 40, n_slices=4, n_features=30)
    return X.astype(np.float64), 2000 + times


@pytest.fixture(scope="module")
def fitted(data):
    X, times = data
    return DynamicTopicModel(3, max_iter=4, random_state=0).fit(X, times=times)


def test_planted_drifts_are_recovered():
    X, times, topics = planted()
    model = DynamicTopicModel(3, random_state=0).fit(X, times=times)
    order = match_components(topics.mean(axis=0), model.components_)[0][:, 1]
    found = model.topics_over_time_[:, order]
    apart = 0.5 * np.abs(found - topics).sum(axis=2)
    assert apart.mean() < 0.1
    # Topics that do not change are further away.
    assert 0.5 * np.abs(topics.mean(axis=0) - topics).sum(axis=2).mean() > 0.12
    assert completion_perplexity(
        model, X, random_state=0, times=times
    ) < 0.95 * completion_perplexity(
        LatentDirichletAllocation(3, random_state=0).fit(X), X, random_state=0
    )


def test_one_slice_is_lda(data, monkeypatch):
    X, _ = data
    # Steps of LDA over-relax, unless they are full ones.
    monkeypatch.setattr(LDA_STEP_SIZE, 1.0)
    for inference in ("collapsed", "mean_field"):
        options = {"inference": inference, "max_iter": 5, "random_state": 0}
        lda = LatentDirichletAllocation(3, **options).fit(X)
        expected = lda.components_
        for times in (None, np.full(240, 7)):
            model = DynamicTopicModel(3, **options).fit(X, times=times)
            # Mean-field updates of LDA know how uncertain topics are.
            if inference == "collapsed":
                assert_allclose(model.components_, expected, rtol=1e-9)
            assert np.abs(model.components_ - expected).sum(axis=1).max() < 0.05
            assert model.topics_over_time_.shape == (1, 3, 30)


def test_a_variance_of_0_is_lda(data):
    X, times = data
    options = {"max_iter": 100, "tol": None, "max_inner_iter": 20, "random_state": 0}
    lda = LatentDirichletAllocation(3, **options).fit(X)
    expected = lda.components_
    for variance in (0, 1e-9):
        model = DynamicTopicModel(3, chain_variance=variance, **options)
        model.fit(X, times=times)
        assert_allclose(model.components_, expected, atol=1e-4)
        assert np.ptp(model.topics_over_time_, axis=0).max() < 1e-3


def test_the_bound_rises(data):
    X, times = data
    model = DynamicTopicModel(
        3, inference="mean_field", max_iter=25, tol=None, random_state=0
    ).fit(X, times=times)
    bounds = np.array(model.history_["lower_bound"][2:])
    assert (np.diff(bounds) >= -1e-9 * np.abs(bounds[1:])).all()
    assert model.lower_bound_ >= bounds[-1]


def test_the_score_is_a_bound_near_the_evidence(data, fitted):
    """By importance sampling from a Dirichlet at the mean proportions."""
    X, times = data
    rows = X[:5]
    bounds = fitted.score_samples(rows, times=times[:5])
    theta = fitted.transform(rows, times=times[:5])
    rng = np.random.default_rng(0)
    for n in range(5):
        topics = fitted.topics_over_time_[times[n] - 2000]
        q = 20 * theta[n] + 0.02
        drawn = rng.dirichlet(q, size=20_000) + 1e-300
        prior = np.full(3, 0.03)
        log_w = ((prior - q) * np.log(drawn)).sum(axis=1)
        log_w += scipy.special.gammaln(prior.sum()) - scipy.special.gammaln(prior).sum()
        log_w -= scipy.special.gammaln(q.sum()) - scipy.special.gammaln(q).sum()
        log_w += np.log(drawn @ topics) @ rows[n].toarray().ravel()
        evidence = logsumexp(log_w) - np.log(len(log_w))
        assert evidence - 2 < bounds[n] < evidence + 0.1


def test_attributes(data, fitted):
    X, times = data
    assert fitted.topics_over_time_.shape == (4, 3, 30)
    assert_allclose(fitted.topics_over_time_.sum(axis=2), 1)
    assert_allclose(fitted.topics_over_time_.mean(axis=0), fitted.components_)
    assert_array_equal(fitted.times_, np.unique(times))
    assert_allclose(fitted.prevalence_.sum(axis=1), 1)
    first = fitted.topic_assignments(X, times=times)[times == 2000].mean(axis=0)
    assert_allclose(fitted.prevalence_[0], first, atol=0.02)
    assert 0.003 <= fitted.chain_variance_ <= 3
    given = DynamicTopicModel(2, chain_variance=0.3, max_iter=1, random_state=0)
    assert given.fit(X.astype(np.float32), times=times).chain_variance_ == 0.3
    plain = DynamicTopicModel(2, max_iter=1, random_state=0).fit(X)
    assert plain.times_.shape == (0,)
    assert plain.prevalence_.shape == (1, 2)


def test_the_chosen_variance_is_near_that_of_the_walk():
    rng = np.random.default_rng(0)
    chosen = []
    for variance in (0.01, 0.5):
        steps = rng.normal(scale=np.sqrt(variance), size=(8, 2, 40))
        topics = softmax(rng.normal(size=(2, 40)) + steps.cumsum(axis=0), axis=2)
        times = np.repeat(np.arange(8), 60)
        theta = rng.dirichlet([0.1, 0.1], size=480)
        p = np.einsum("nk,nkv->nv", theta, topics[times])
        X = rng.multinomial(100, p / p.sum(axis=1, keepdims=True))
        model = DynamicTopicModel(2, max_iter=1, random_state=0).fit(X, times=times)
        chosen.append(model.chain_variance_)
    assert 0.003 < chosen[0] < 0.05
    assert 0.15 < chosen[1] < 1.5


# Times.


def test_none_is_the_average(data, fitted):
    X, times = data
    for method in ("transform", "score_samples"):
        infer = getattr(fitted, method)
        assert np.abs(infer(X) - infer(X, times=times)).max() > 1e-2
    z = fitted.transform(X[:4])
    assert_allclose(fitted.inverse_transform(z), z @ fitted.components_)
    found = fitted.inverse_transform(z, times=times[:4])
    for row, topics in enumerate(fitted.topics_over_time_[times[:4] - 2000]):
        assert_allclose(found[row], z[row] @ topics)
    assert fitted.perplexity(X, times=times) < fitted.perplexity(X)
    perplexity = fitted.perplexity(X, times=times)
    assert fitted.score(X, times=times, metric="neg_perplexity") == -perplexity


def test_rows_depend_on_nothing_but_themselves(data, fitted):
    X, times = data
    expected = fitted.transform(X, times=times)
    assert_allclose(fitted.transform(X.toarray(), times=times), expected, rtol=1e-9)
    order = np.random.default_rng(0).permutation(240)[:40]
    found = fitted.transform(X[order], times=times[order])
    assert_allclose(found, expected[order], rtol=1e-9)
    alone = [fitted.transform(X[[n]], times=times[[n]])[0] for n in order[:3]]
    assert_allclose(alone, expected[order[:3]], rtol=1e-6)


def test_the_order_of_rows_does_not_matter(data, fitted):
    X, times = data
    order = np.random.default_rng(0).permutation(240)
    other = DynamicTopicModel(3, max_iter=4, random_state=0)
    other.fit(X[order], times=times[order])
    assert_array_equal(other.topics_over_time_, fitted.topics_over_time_)


def test_times_come_in_many_kinds(data, fitted):
    X, times = data
    expected = fitted.topics_over_time_
    model = DynamicTopicModel(3, max_iter=4, random_state=0)
    numbers = [times.tolist(), times.astype(np.uint16), pd.Series(times, dtype="Int64")]
    for same in (*numbers, times * 1e6 - 3e9):
        assert_allclose(model.fit(X, times=same).topics_over_time_, expected)
    days = np.datetime64("2020-01-01") + 10 * (times - 2000)
    zone = pd.to_datetime(days).tz_localize("Europe/Paris")
    for same in (
        days,
        pd.Series(pd.to_datetime(days)),
        zone,
        [str(day) for day in days],
        [datetime.combine(day, time(0), UTC) for day in days.tolist()],
    ):
        assert_allclose(model.fit(X, times=same).topics_over_time_, expected)
        assert model.times_.dtype == "datetime64[us]"
        assert_allclose(
            model.transform(X[:9], times=same[:9]),
            fitted.transform(X[:9], times=times[:9]),
        )


def test_gaps_scale_the_variance(data):
    X, times = data
    moved = np.where(times > 2001, times + 40, times)
    model = DynamicTopicModel(3, chain_variance=0.01, max_iter=4, random_state=0)
    near = model.fit(X, times=times).topics_over_time_
    far = model.fit(X, times=moved).topics_over_time_

    def jump(topics):
        return np.abs(topics[2] - topics[1]).sum()

    assert jump(far) > 1.3 * jump(near)
    sizes = {"middles": np.array([1, 2, 4, 5]), "ends": np.array([1, 5])}
    assert times_and_gaps(sizes)[1] == [1, 2, 1]


def test_intervals_of_time(data, fitted):
    X, times = data
    model = DynamicTopicModel(3, n_slices=2, max_iter=4, random_state=0)
    model.fit(X, times=times)
    assert_allclose(model.times_, [2000.75, 2002.25])
    halves = DynamicTopicModel(3, max_iter=4, random_state=0)
    halves.fit(X, times=(times >= 2002).astype(int))
    assert_allclose(model.topics_over_time_, halves.topics_over_time_)
    # Intervals without rows are none.
    model = DynamicTopicModel(3, n_slices=1000, max_iter=4, random_state=0)
    found = model.fit(X, times=times).topics_over_time_
    assert_allclose(found, fitted.topics_over_time_, atol=2e-3)


def test_slices_of_few_rows_or_none(data):
    X, times = data
    some = (times != 2002) | (np.cumsum(times == 2002) == 1)
    model = DynamicTopicModel(3, max_iter=3, random_state=0)
    model.fit(X[some], times=times[some])
    assert np.isfinite(model.topics_over_time_).all()
    # A slice whose rows do not count is none.
    weights = (times != 2001).astype(float)
    model.fit(X, times=times, sample_weight=weights)
    assert model.times_.tolist() == [2000, 2002, 2003]
    # Nor one outside of all others, of which no warning tells.
    model.fit(X, times=times, sample_weight=(times != 2000).astype(float))
    assert model.times_.tolist() == [2001, 2002, 2003]
    # One whose rows have no words has the topics of its neighbours.
    empty = scipy.sparse.diags(weights) @ X
    model.fit(empty.tocsr(), times=times)
    assert not model.prevalence_[1].any()
    low, at, high = model.topics_over_time_[:3]
    assert np.abs(at - (low + high) / 2).sum(axis=1).max() < 0.2
    each = DynamicTopicModel(2, max_iter=2, random_state=0)
    each.fit(X[:20], times=np.arange(20))
    assert each.topics_over_time_.shape == (20, 2, 30)


def test_other_times_belong_to_the_nearest_slice(data, fitted):
    X, _ = data
    near = fitted.transform(X[:3], times=[2001.4, 2000.9, 2002.6])
    assert_array_equal(near, fitted.transform(X[:3], times=[2001, 2001, 2003]))
    with pytest.warns(
        UserWarning, match="2 of 3 times are outside of those of the fit"
    ):
        found = fitted.transform(X[:3], times=[1500, 2001, 3000])
    assert_array_equal(found, fitted.transform(X[:3], times=[2000, 2001, 2003]))


def test_forecasts(data, fitted):
    X, times = data
    found = fitted.forecast([2001, 2001.5, 2004, 2040, 1990])
    assert_allclose(found.sum(axis=2), 1)
    assert_allclose(found[0], fitted.topics_over_time_[1])
    low, high = fitted.topics_over_time_[1:3]
    expected = np.sqrt(low * high)
    assert_allclose(found[1], expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)
    # Between the last slice and the mean, and nearer to the mean with time.
    last, mean = fitted.topics_over_time_[-1], fitted.components_
    shares = [((topics - mean) / (last - mean)).mean() for topics in found[2:4]]
    assert 0 <= shares[1] < shares[0] <= 1
    assert_allclose(found[2], mean + shares[0] * (last - mean), atol=1e-9)
    dates = DynamicTopicModel(2, max_iter=1, random_state=0)
    dates.fit(X, times=np.datetime64("2020-01-01") + 30 * (times - 2000))
    assert dates.forecast(["2021-01-01"]).dtype == np.float64
    with pytest.raises(ValueError, match="fitted with dates for times"):
        dates.forecast([2021])
    one = DynamicTopicModel(2, max_iter=1, random_state=0).fit(X, times=[5] * 240)
    assert_allclose(one.forecast([4, 5, 9]), np.tile(one.components_, (3, 1, 1)))


def test_a_drift_is_forecast_better_than_by_the_mean():
    X, times, topics = planted(1500, n_slices=8)
    before = times < 7
    model = DynamicTopicModel(3, random_state=0).fit(X[before], times=times[before])
    order = match_components(topics.mean(axis=0), model.components_)[0][:, 1]
    found = model.forecast([7])[0][order]
    mean = model.components_[order]
    assert np.abs(found - topics[7]).sum() < 0.7 * np.abs(mean - topics[7]).sum()


BAD = {
    "too few": (lambda t: t[:-1], "one entry for each of 240 rows"),
    "NaT": (lambda t: np.where(t > 2001, "NaT", "2020").astype("M8[s]"), "missing"),
    "NaN": (lambda t: np.where(t > 2001, np.nan, t), "must be finite"),
    "None": (lambda t: [None, *t[1:]], "must not be missing"),
    "words": (lambda t: ["soon"] * len(t), "ISO strings"),
    "two columns": (lambda t: np.column_stack([t, t]), "got shape"),
    "zones": (
        lambda t: ["2020-01-01T10:00"] + ["2020-01-01T10:00+01:00"] * 239,
        "time zone",
    ),
    "far apart": (lambda t: np.where(t > 2001, 1e308, -1e308), "too far apart"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_bad_times_are_named_and_change_nothing(data, fitted, bad, message):
    X, times = data
    model = DynamicTopicModel(3, random_state=0)
    for method in (model.fit, model.partial_fit, model.fit_transform):
        with pytest.raises(ValueError, match=message):
            method(X, times=bad(times))
    assert vars(model) == model.get_params(deep=False)
    with pytest.raises(NotFittedError):
        model.forecast([2000])
    if message == "too far apart":
        return
    before = dict(vars(fitted))
    for method in ("transform", "score_samples", "score", "perplexity"):
        with pytest.raises(ValueError, match=message):
            getattr(fitted, method)(X, times=bad(times))
    assert all(vars(fitted)[name] is value for name, value in before.items())


def test_times_of_another_kind_or_model(data, fitted):
    X, times = data
    dates = np.full(240, np.datetime64("2020-01-01"))
    with pytest.raises(ValueError, match="fitted with numbers for times"):
        fitted.transform(X, times=dates)
    with pytest.raises(ValueError, match="one entry for each of 3 rows"):
        fitted.inverse_transform(fitted.transform(X[:3]), times=times[:2])
    plain = DynamicTopicModel(2, max_iter=1, random_state=0).fit(X)
    for method in ("transform", "score_samples", "score", "perplexity"):
        with pytest.raises(ValueError, match="without times"):
            getattr(plain, method)(X, times=times)
    with pytest.raises(ValueError, match="without times"):
        plain.forecast([1])
    with pytest.raises(ValueError, match="must be one-dimensional, such as"):
        fitted.forecast(2007)


def test_numbers_of_any_width_are_the_same_times(data):
    X, times = data
    model = DynamicTopicModel(2, max_iter=2, random_state=0)
    # Half of all seconds that int32 holds, and more, lie between some slices.
    seconds = np.array([-2e9, -1e9, 1e9, 2e9])[times - 2000]
    expected = model.fit(X, times=seconds).topics_over_time_
    found = model.fit(X, times=seconds.astype(np.int32)).topics_over_time_
    assert_array_equal(found, expected)


def test_paths_without_memory_are_refused_before_a_fit(data, monkeypatch):
    X, times = data
    place = "skdeepfactor.models.dynamic_topic_model.estimator.memory"
    model = DynamicTopicModel(3, max_iter=1, random_state=0)
    monkeypatch.setattr(place, lambda: 6 * 8 * 4 * 3 * 30 - 1)
    with pytest.raises(ValueError, match="3 topics in 4 slices over 30 features take"):
        model.fit(X, times=times)
    model.set_params(n_slices=2).fit(X, times=times)
    monkeypatch.setattr(place, lambda: None)
    model.set_params(n_slices=None).fit(X, times=times)


@pytest.mark.parametrize("scale", [0, 1e-8, 1, 1e8])
@pytest.mark.parametrize("variance", ["auto", 0, 1e8])
def test_ugly_data_and_times(scale, variance):
    rng = np.random.default_rng(0)
    X = (scale * rng.poisson(0.5, size=(9, 4))).astype(np.float32)
    times = 10.0 ** np.array([-12, 3, -3, 0, 0, 9, 3, 3, 3])
    model = DynamicTopicModel(
        5, chain_variance=variance, doc_topic_prior="auto", max_iter=3, random_state=0
    ).fit(X, times=times)
    found = [
        model.topics_over_time_,
        model.transform(X, times=times),
        model.score_samples(X, times=times),
        model.forecast([-1e9, 1e5, 1e30]),
    ]
    assert all(np.isfinite(part).all() for part in found)


# The rest of the contract, with times.


def test_streams_of_chunks_have_times(data):
    X, times = data
    model = DynamicTopicModel(3, random_state=0)
    for _ in range(4):
        for start in range(0, 240, 80):
            rows = slice(start, start + 80)
            model.partial_fit(X[rows], times=times[rows], total_samples=240)
    assert model.topics_over_time_.shape == (4, 3, 30)
    before = model.components_
    with pytest.raises(ValueError, match="fitted with times"):
        model.partial_fit(X[:100])
    assert model.components_ is before


@pytest.mark.parametrize("is_date", [False, True])
def test_streams_in_order_of_time(data, is_date):
    X, times = data
    order = np.argsort(times, kind="stable")[::3]
    X, times = X[order], times[order]
    if is_date:
        times = np.datetime64("2020-01-01") + times
    model = DynamicTopicModel(3, n_slices=3, random_state=0)
    for start in range(0, 80, 20):
        rows = slice(start, start + 20)
        model = pickle.loads(pickle.dumps(model)).partial_fit(
            X[rows], times=times[rows]
        )
    whole = DynamicTopicModel(3, n_slices=3, random_state=0)
    whole.partial_fit(X, times=times)
    assert len(whole.times_) == 3
    assert_array_equal(model.times_, whole.times_)
    assert_array_equal(model.topics_over_time_, whole.topics_over_time_)


def test_blocks_have_the_times_of_all_rows(data):
    X, times = data
    blocks = RowBlocks([X[:100], X[100:110], X[110:]])
    model = DynamicTopicModel(3, max_iter=3, random_state=0)
    expected = model.fit(X, times=times).topics_over_time_
    found = model.fit(blocks, times=times).topics_over_time_
    assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="one block at a time"):
        model.transform(blocks, times=times)
    with pytest.raises(ValueError, match="one block at a time"):
        model.fit_transform(blocks, times=times)


def test_weights_are_repetitions_with_times_too(data):
    X, times = data
    weights = np.arange(240) % 3
    rows = np.repeat(np.arange(240), weights)
    model = DynamicTopicModel(3, max_iter=3, random_state=0)
    found = model.fit(X, times=times, sample_weight=weights).topics_over_time_
    expected = model.fit(X[rows], times=times[rows]).topics_over_time_
    assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_pickles_and_checkpoints_with_times(data, tmp_path):
    X, times = data
    days = np.datetime64("2020-01-01") + times - 2000
    whole = DynamicTopicModel(3, max_iter=4, random_state=0).fit(X, times=days)
    copy = pickle.loads(pickle.dumps(whole))
    for name in ("topics_over_time_", "prevalence_", "times_"):
        assert_array_equal(getattr(copy, name), getattr(whole, name))
    assert_array_equal(copy.forecast(["2021"]), whole.forecast(["2021"]))
    skops = pytest.importorskip("skops.io")
    kind = "skdeepfactor.models.dynamic_topic_model.estimator.DynamicTopicModel"
    copy = skops.loads(skops.dumps(whole), trusted=[kind])
    assert_array_equal(copy.transform(X, times=days), whole.transform(X, times=days))
    path = tmp_path / "state"
    again = DynamicTopicModel(3, max_iter=4, random_state=0)
    again.fit(X, times=days, checkpoint=path)
    again.fit(X, times=days, checkpoint=path)
    assert_array_equal(again.topics_over_time_, whole.topics_over_time_)
    with pytest.raises(ValueError, match="checkpoint"):
        again.fit(X, times=days[::-1], checkpoint=path)


def test_a_warm_start_goes_on_with_times(data):
    X, times = data
    model = DynamicTopicModel(
        3, inference="mean_field", max_iter=2, warm_start=True, random_state=0
    )
    first = model.fit(X, times=times).lower_bound_
    assert model.fit(X, times=times).lower_bound_ > first
    with pytest.raises(ValueError, match="fitted with times"):
        model.fit(X)
    with pytest.raises(ValueError, match="chain_variance"):
        model.set_params(chain_variance=0.5).fit(X, times=times)


def test_rows_held_out_have_their_times(data):
    X, times = data
    model = DynamicTopicModel(3, validation_fraction=0.3, max_iter=3, random_state=0)
    scores = model.fit(X, times=times).history_["validation_score"]
    held = np.sort(np.random.RandomState(0).permutation(240)[:72])
    assert max(scores) == pytest.approx(model.score(X[held], times=times[held]))


def test_slices_of_processes_are_joined():
    def sizes(*times):
        return {"distinct": np.array(times)}

    joined = joined_slice_sizes([sizes(3, 5), sizes(1, 3)], None)
    assert joined["middles"].tolist() == [1, 3, 5]
    assert joined_slice_sizes([None, None], None) is None
    joined = joined_slice_sizes([sizes(0, 5), sizes(1, 10)], 2)
    assert joined["middles"].tolist() == [2.5, 7.5]
    with pytest.raises(ValueError, match="others have none"):
        joined_slice_sizes([sizes(1), None], None)
    with pytest.raises(ValueError, match="others numbers"):
        joined_slice_sizes([sizes(1), {"distinct": np.array(["2020"], "M8[us]")}], None)


def test_memory_is_that_of_the_slices_of_all_processes(data, monkeypatch):
    X, times = data
    place = "skdeepfactor.models.dynamic_topic_model.estimator.memory"
    monkeypatch.setattr(place, lambda: 6 * 8 * 2 * 3 * 30)
    model = DynamicTopicModel(3, n_slices=2)
    own = {"times": times, "sample_weight": None}
    rows = MatrixRows(X, Share(1, 2, is_sharded=True))
    # It has four distinct times, but two slices.
    sizes = [model._sizes(rows, own)] * 2
    assert len(model._sizes_of_all(sizes)["slices"]["middles"]) == 2
    monkeypatch.setattr(place, lambda: 6 * 8 * 2 * 3 * 30 - 1)
    with pytest.raises(ValueError, match="3 topics in 2 slices over 30 features take"):
        model._sizes_of_all(sizes)


def test_completion_with_times(data, fitted):
    X, times = data
    without = completion_perplexity(fitted, X, random_state=0)
    found = completion_perplexity(fitted, X, random_state=0, times=times)
    assert found < without
    scorer = scorers["neg_completion_perplexity"]
    assert scorer(fitted, X, times=pd.Series(times)) == -found
    assert scorers["neg_perplexity"](fitted, X, times=times) == -fitted.perplexity(
        X, times=times
    )


TEXTS = ["apple pear plum apple", "bus train tram bus", "pear bus tram", "plum pear"]


def test_routing_through_a_pipeline():
    texts, years = TEXTS * 5, [str(2000 + n % 3) for n in range(20)]
    with config_context(enable_metadata_routing=True):
        model = DynamicTopicModel(2, random_state=0)
        for request in ("fit", "transform", "score", "inverse_transform"):
            getattr(model, f"set_{request}_request")(times=True)
        pipeline = make_pipeline(CountVectorizer(), model)
        together = pipeline.fit_transform(texts, times=years)
        theta = pipeline.transform(texts, times=years)
        score = pipeline.score(texts, times=years)
    X = pipeline[0].transform(texts)
    alone = DynamicTopicModel(2, random_state=0).fit(X, times=years)
    assert_array_equal(theta, alone.transform(X, times=years))
    assert_array_equal(together, theta)
    assert score == alone.score(X, times=years)
    assert score != alone.score(X)


@pytest.mark.parametrize("scoring", [None, scorers["neg_completion_perplexity"]])
def test_routing_through_a_grid_search(data, scoring):
    X, times = data
    with config_context(enable_metadata_routing=True):
        model = DynamicTopicModel(max_iter=1, random_state=0)
        model.set_fit_request(times=True).set_score_request(times=True)
        if scoring is not None:
            scoring = scoring.set_score_request(times=True)
        grid = {"n_components": [2, 3]}
        search = GridSearchCV(model, grid, scoring=scoring, cv=2, refit=False)
        search.fit(X, times=times)
    found = search.cv_results_["split0_test_score"][0]
    alone = DynamicTopicModel(2, max_iter=1, random_state=0)
    alone.fit(X[120:], times=times[120:])
    score = DynamicTopicModel.score if scoring is None else scoring
    assert found == pytest.approx(score(alone, X[:120], times=times[:120]), rel=1e-6)
