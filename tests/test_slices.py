"""Topics over time and by group."""

import sys
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.decomposition import NMF, PCA
from sklearn.decomposition import LatentDirichletAllocation as ScikitLearnLDA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline

from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LatentDirichletAllocation,
    SparseGammaDEF,
)
from skdeepfactor._times import checked_times, since, sliced, time_labels
from skdeepfactor.inspection import (
    factor_shares,
    name_components,
    topics_over_time,
    topics_per_group,
)
from skdeepfactor.inspection.slices import group_labels

NAMES = [f"w{index}" for index in range(30)]


@pytest.fixture(scope="module")
def X(counts):
    return counts.astype(np.float64)


@pytest.fixture(scope="module")
def lda(X):
    return LatentDirichletAllocation(3, random_state=0).fit(X)


def straight_shares(model, X):
    """Share of all counts of some rows that come from each topic."""
    weights = np.asarray(X.sum(axis=1)) * factor_shares(model, X)
    return weights.sum(axis=0) / weights.sum()


def straight_words(model, profiles, X, n_top):
    """Words with the largest expected counts in some rows, entry by entry."""
    expected = np.zeros_like(profiles)
    for row, z in zip(X.toarray(), model.transform(X), strict=True):
        parts = z[:, np.newaxis] * profiles
        totals = parts.sum(axis=0)
        expected += row * parts / np.where(totals > 0, totals, 1)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :n_top]
    return [
        [NAMES[v] for v in top if counts[v] > 0]
        for top, counts in zip(order, expected, strict=True)
    ]


@pytest.mark.parametrize("kind", ["ours", "NMF", "scikit-learn's LDA", "layers"])
def test_shares_and_words_are_those_of_the_rows_of_a_slice(kind, lda, X):
    if kind == "ours":
        model, profiles = lda, lda.components_
    elif kind == "NMF":
        model = NMF(3, random_state=0, init="nndsvda", max_iter=500).fit(X)
        profiles = model.components_
    elif kind == "layers":
        model = SparseGammaDEF((3, 2), transform_layer=2, max_iter=25, random_state=0)
        profiles = model.fit(X).weights_[1] @ model.weights_[0]
    else:
        model = ScikitLearnLDA(3, random_state=0).fit(X)
        profiles = model.components_ / model.components_.sum(axis=1, keepdims=True)
    times = np.random.default_rng(0).integers(3, size=60)
    topics = topics_over_time(model, X, times, n_top=4, feature_names=NAMES)
    np.testing.assert_array_equal(topics.times, [0, 1, 2])
    np.testing.assert_array_equal(topics.n_rows, np.bincount(times))
    np.testing.assert_allclose(topics.overall, straight_shares(model, X))
    for time in range(3):
        part = X[times == time]
        expected = straight_shares(model, part)
        np.testing.assert_allclose(topics.shares[time], expected)
        assert topics.words[time] == straight_words(model, profiles, part, 4)
    by_group = topics_per_group(model, X, times, n_top=4, feature_names=NAMES)
    np.testing.assert_array_equal(by_group.shares, topics.shares)
    assert by_group.words == topics.words


def test_rows_have_the_topics_of_their_times(X):
    times = np.arange(X.shape[0]) % 5 * 0.7
    fitted = np.array([0.0, 1.0, 3.0])[np.arange(len(times)) % 3]
    model = DynamicTopicModel(3, chain_variance=1.0, max_iter=2, random_state=0)
    model.fit(X, times=fitted)
    found = topics_over_time(model, X, times, n_bins=2, n_top=4, feature_names=NAMES)
    of_all = topics_per_group(
        model, X, np.ones(len(times)), n_top=4, feature_names=NAMES, times=times
    )
    shares = model.transform(X, times=times)
    nearest = np.abs(times[:, np.newaxis] - model.times_).argmin(axis=1)
    expected = np.zeros((2, 3, 30))
    for row, z, time, place in zip(X.toarray(), shares, times, nearest, strict=True):
        parts = z[:, np.newaxis] * model.topics_over_time_[place]
        expected[int(time > 1)] += row * parts / parts.sum(axis=0)
    for slice_, counts in enumerate(expected):
        is_in = (times > 1) == bool(slice_)
        weights = np.asarray(X[is_in].sum(axis=1)).ravel() @ shares[is_in]
        np.testing.assert_allclose(found.shares[slice_], weights / weights.sum())
        tops = np.argsort(-counts, axis=1)[:, :4]
        assert found.words[slice_] == [[NAMES[v] for v in top] for top in tops]
    tops = np.argsort(-expected.sum(axis=0), axis=1)[:, :4]
    assert of_all.words[0] == [[NAMES[v] for v in top] for top in tops]
    assert not np.allclose(found.shares, _average_shares(model, X, times > 1))


def _average_shares(model, X, slices):
    """Shares in two slices by the average topics."""
    return [straight_shares(model, X[slices == slice_]) for slice_ in (False, True)]


def test_covariates_of_rows_decide_their_shares(X):
    covariates = np.arange(X.shape[0]) % 2 * 1.0
    model = CorrelatedTopicModel(3, max_iter=4, random_state=0)
    model.fit(X, covariates=covariates)
    found = topics_per_group(model, X, covariates, covariates=covariates)
    z = model.transform(X, covariates=covariates)
    for group, shares in enumerate(found.shares):
        is_in = covariates == group
        weights = np.asarray(X[is_in].sum(axis=1)).ravel() @ z[is_in]
        np.testing.assert_allclose(shares, weights / weights.sum())
    assert not np.allclose(found.shares, topics_per_group(model, X, covariates).shares)


def test_planted_trends_are_found():
    rng = np.random.default_rng(0)
    topics = np.kron(np.eye(2), np.full(10, 0.1))
    times = rng.random(300)
    proportions = np.c_[times, 1 - times]
    X = rng.multinomial(40, proportions @ topics)
    model = LatentDirichletAllocation(2, random_state=0).fit(X)
    rising = model.components_[:, 0].argmax()
    found = topics_over_time(model, X, times, n_bins=4)
    np.testing.assert_allclose(found.shares[:, rising], found.times, atol=0.1)
    for words in found.words:
        assert {int(word[1:]) // 10 for word in words[rising]} == {0}


def test_a_table_with_a_line_for_each_slice_and_topic(lda, X):
    times = np.repeat([2001, 2000], 30)
    topics = topics_over_time(lda, X, times, feature_names=NAMES)
    frame = topics.frame
    assert frame.columns.tolist() == ["time", "component", "n_rows", "share", "words"]
    assert frame["time"].tolist() == [2000] * 3 + [2001] * 3
    assert frame["component"].tolist() == [0, 1, 2] * 2
    np.testing.assert_array_equal(frame["share"], topics.shares.ravel())
    assert frame["words"][4] == ", ".join(topics.words[1][1])
    named = name_components(lda, ["a", "b", "c"])
    frame = topics_per_group(named, X, times).frame
    assert frame["name"].tolist() == ["a", "b", "c"] * 2


def test_no_table_without_pandas(lda, X, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert topics_over_time(lda, X, np.arange(60) % 2).frame is None


def test_pipelines_of_texts():
    texts = ["apple pear", "pear plum", "tram bus", "bus train"] * 3
    model = LatentDirichletAllocation(2, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), model).fit(texts)
    groups = ["fruit", "fruit", "city", "city"] * 3
    topics = topics_per_group(pipeline, texts, groups, n_top=1)
    assert topics.groups.tolist() == ["city", "fruit"]
    city = topics.shares[0].argmax()
    assert topics.words[0][city] == ["bus"]
    assert topics.words[1][1 - city] == ["pear"]


def test_signed_factors_have_means_and_no_words(X):
    pca = PCA(3, random_state=0).fit(X.toarray())
    times = np.arange(60) // 20
    topics = topics_over_time(pca, X.toarray(), times)
    assert topics.words is None
    assert "words" not in topics.frame
    factors = pca.transform(X.toarray())
    np.testing.assert_allclose(topics.shares[1], factors[20:40].mean(axis=0))


# Times of all kinds.

DAYS = np.array(["2020-03-01", "2019-12-31", "2020-01-05"], "datetime64[D]")
MICROSECONDS = DAYS.astype("datetime64[us]")


@pytest.mark.parametrize(
    "times",
    [
        DAYS,
        DAYS.astype("datetime64[ns]"),
        DAYS.tolist(),
        pd.Series(pd.to_datetime(DAYS), index=[7, 8, 9]),
        pd.to_datetime(DAYS).tz_localize("UTC"),
        ["2020-03-01", "2019-12-31", "2020-01-05"],
        ["20200301", "2019-12-31T00:00Z", "2020-01-05T01:00+01:00"],
        [b"2020-03-01", b"2019-12-31", b"2020-01-05"],
        [
            date(2020, 3, 1),
            datetime(2019, 12, 31, tzinfo=UTC),
            datetime(2020, 1, 5, 1, tzinfo=timezone(timedelta(hours=1))),
        ],
        pd.Series(["2020-03-01", "2019-12-31", "2020-01-05"], dtype="string"),
    ],
)
def test_dates_of_any_kind(times):
    values = checked_times(times, 3)
    np.testing.assert_array_equal(values, MICROSECONDS)
    assert values.dtype == MICROSECONDS.dtype


def test_years_and_months():
    values = checked_times(["2001", "2001-05", "2001-05-03"], 3)
    assert time_labels(values) == ["2001-01-01", "2001-05-01", "2001-05-03"]


@pytest.mark.parametrize(
    "times",
    [[3, 1, 2], [3.0, 1.0, 2.0], pd.Series([3, 1, 2], dtype="Int64"), range(3, 0, -1)],
)
def test_numbers_of_any_kind(times):
    values = checked_times(times, 3)
    assert values.dtype in (np.int64, np.float64)
    assert values.max() == 3


@pytest.mark.parametrize(
    "times",
    [
        np.array([-100, 100, 0, 99], np.int8),
        np.array([-(2**31), 2**31 - 1, 0, 2**31 - 2], np.int32),
        np.array([0, 2**16 - 1, 2**15, 2**16 - 2], np.uint16),
        np.array([-(2**63), 2**63 - 1, 0, 2**63 - 1024]),
        np.array([-6e4, 6e4, 0, 6e4], np.float16),
        [0, 2**62, 2**61, 2**62 - 1],
    ],
)
def test_wide_ranges_of_narrow_numbers(times):
    times = checked_times(times, 4)
    assert sliced(times, 4)[0].tolist() == [0, 2, 1, 2]
    assert (np.diff(since(np.sort(times), times.min())) >= 0).all()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1, 2], "one entry for each of 3 rows, got shape \\(2,\\)"),
        ([[1], [2], [3]], "got shape \\(3, 1\\)"),
        ([1, np.nan, 2], "must be finite, but nan is not; leave out the rows"),
        (np.array([1, 2, 2**63], np.uint64), "must be below 2\\*\\*63"),
        ([2000, "2001", "2002"], "2000 is one and '2001' is not"),
        ((2000, "2001", "2002"), "2000 is one and '2001' is not"),
        (np.array([-(10**6), 10**6, 0], "datetime64[Y]"), "within 292,000 years"),
        (np.array([0, 1, 2**40], "datetime64[D]"), "within 292,000 years"),
        ([1, np.inf, 2], "must be finite, but inf is not"),
        (np.array(["2020", "NaT", "NaT"], "datetime64[D]"), "missing, got 2 of them"),
        (pd.Series(pd.to_datetime(["2020-01-01", None, None])), "must not be missing"),
        (pd.Series([1, 2, None], dtype="Int64"), "must not be missing|must be finite"),
        (["2020", None, "2021"], "must not be missing, got None"),
        (["2020", "", "2021"], "must not be missing, got ''"),
        (["2020", pd.NaT, "2021"], "must not be missing"),
        (["soon", "later", "2020"], "ISO strings, got 'soon'"),
        (["1", "2", "3"], "ISO strings, got '1'"),
        (
            ["2020-01-01T10:00", "2020-01-01T10:00Z", "2020"],
            "must all have a time zone",
        ),
        (["2020-13", "2020", "2020"], "ISO strings, got '2020-13'"),
        ([True, False, True], "got the type bool"),
        ([1j, 2, 3], "got the type complex"),
        ([date(2020, 1, 1), 3, 2], "but 3 is one and datetime.date"),
        (np.array([1, 2, 3], "timedelta64[s]"), "got the type timedelta64"),
    ],
)
def test_bad_times(times, message, lda, X):
    with pytest.raises(ValueError, match=message):
        checked_times(times, 3)
    before = lda.transform(X)
    with pytest.raises(ValueError, match="times must"):
        topics_over_time(lda, X, times)
    np.testing.assert_array_equal(lda.transform(X), before)


@pytest.mark.parametrize("is_date", [False, True])
def test_intervals(is_date):
    times = np.array([10.0, 0.0, 1.0, 2.5, 2.4])
    if is_date:
        start = np.datetime64("1999-12-31T23", "us")
        times = start + (3600e6 * times).astype("timedelta64[us]")
    codes, middles, ends = sliced(times, 4)
    np.testing.assert_array_equal(codes, [2, 0, 0, 1, 0])
    if is_date:
        middles, ends = (
            (part - start) / np.timedelta64(1, "h") for part in (middles, ends)
        )
    np.testing.assert_allclose(middles, [1.25, 3.75, 8.75])
    np.testing.assert_allclose(ends, [[0, 2.5], [2.5, 5], [7.5, 10]])


def test_no_interval_without_a_length():
    for n_bins in (None, 1, 5):
        codes, middles, ends = sliced(np.full(4, 7.0), n_bins)
        assert codes.tolist() == [0] * 4
        assert middles.tolist() == [7]
        assert ends.tolist() == [[7, 7]]
    np.testing.assert_array_equal(sliced(np.array([1, 3, 2]), 1)[0], [0, 0, 0])
    # Large numbers that differ little.
    codes, _, _ = sliced(np.array([1e9, 1e9 + 1, 1e9 + 2]), 3)
    assert codes.tolist() == [0, 1, 2]


def test_order_and_number_of_rows_do_not_matter(lda, X):
    times = np.arange(60) % 7
    expected = topics_over_time(lda, X, times, n_bins=3)
    order = np.random.default_rng(0).permutation(60)
    shuffled = topics_over_time(lda, X[order], times[order], n_bins=3)
    np.testing.assert_allclose(shuffled.shares, expected.shares)
    assert shuffled.words == expected.words
    one = topics_over_time(lda, X, np.zeros(60))
    np.testing.assert_array_equal(one.shares[0], one.overall)
    single = topics_over_time(lda, X[[3]], ["2020"])
    np.testing.assert_allclose(single.shares, factor_shares(lda, X[[3]]))


def test_slices_without_a_count(lda, X):
    topics = topics_per_group(lda, X, np.where(np.arange(60) == 7, "empty", "full"))
    np.testing.assert_array_equal(topics.shares[0], 0)
    assert topics.words[0] == [[], [], []]
    assert topics.n_rows.tolist() == [1, 59]


def test_groups_of_any_kind(lda, X):
    for groups in (
        ["b", "a"] * 30,
        np.array(["b", "a"] * 30, dtype=object),
        pd.Series(["b", "a"] * 30, dtype="category"),
        np.array([True, False] * 30),
        np.array([2.5, -1] * 30),
        pd.to_datetime(["2001-02-03", "2001-02-02"] * 30),
    ):
        topics = topics_per_group(lda, X, groups)
        assert topics.n_rows.tolist() == [30, 30]
        expected = straight_shares(lda, X[1::2])
        np.testing.assert_allclose(topics.shares[0], expected)


def test_groups_that_are_dates_are_called_by_them(lda, X):
    """A list of nanoseconds would have integers."""
    days = pd.Series(pd.to_datetime(["2001-02-03", "2001-02-02"] * 30))
    topics = topics_per_group(lda, X, days)
    assert group_labels(topics.groups) == ["2001-02-02", "2001-02-03"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a"] * 59, "one entry for each of 60 rows, got shape \\(59,\\)"),
        (["a", None] * 30, "that of row 1 is"),
        (["a", np.nan] * 30, "must be of one type|that of row 1 is|nan"),
        (np.array(["a", 1] * 30, dtype=object), "of one type.*'int', 'str'"),
        (pd.Series(["a", None] * 30, dtype="category"), "that of row 1 is"),
        (pd.to_datetime(["2001-02-03", None] * 30), "that of row 1 is"),
    ],
)
def test_bad_groups(groups, message, lda, X):
    if isinstance(groups, list) and groups[1] is np.nan:
        groups = np.array(groups, dtype=object)
    with pytest.raises(ValueError, match=message):
        topics_per_group(lda, X, groups)


def test_other_bad_input(lda, X):
    for n in (0, 1.5):
        with pytest.raises(ValueError, match="n_bins must be"):
            topics_over_time(lda, X, np.zeros(60), n_bins=n)
        with pytest.raises(ValueError, match="n_top must be"):
            topics_per_group(lda, X, np.zeros(60), n_top=n)
    with pytest.raises(ValueError, match="feature_names must have shape"):
        topics_over_time(lda, X, np.zeros(60), feature_names=NAMES[1:])


def test_chunks_add_up(lda, X, monkeypatch):
    times = np.arange(60) % 2
    expected = topics_over_time(lda, X, times)
    monkeypatch.setattr("skdeepfactor.inspection.slices.ENTRIES", 1)
    assert topics_over_time(lda, sp.csc_matrix(X), times).words == expected.words


def test_labels_of_times():
    assert time_labels(np.array([3, 1])) == ["3", "1"]
    assert time_labels(np.array([1700000000001])) == ["1700000000001"]
    assert time_labels(np.array([1700000000000.5, 1e30])) == [
        "1700000000000.5",
        "1e+30",
    ]
    hours = np.array(["2020-01-01T10", "2020-01-01T11:30"], "datetime64[us]")
    assert time_labels(hours) == ["2020-01-01T10:00", "2020-01-01T11:30"]
    assert checked_times([datetime(2020, 1, 1, tzinfo=UTC)], 1)[0] == hours[0] - (
        np.timedelta64(10, "h")
    )
