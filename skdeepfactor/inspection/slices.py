"""Topics in slices of the rows: over time, and by group."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from sklearn.utils import Bunch
from sklearn.utils.validation import check_non_negative

from skdeepfactor._input import is_missing, received
from skdeepfactor._times import checked_times, nearest, sliced, time_labels
from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole

# Numbers that are worked on at once.
ENTRIES = 2**22


def topics_over_time(
    estimator: Any,
    X: Any,
    times: ArrayLike,
    *,
    n_bins: int | None = None,
    n_top: int = 5,
    feature_names: ArrayLike | None = None,
    **side: Any,
) -> Any:
    r"""Share of each topic, and its top words, in slices of time.

    If neither factors nor ``components_`` have negative entries, the share of a topic
    in a slice is its part of all counts of the rows there, as
    :func:`factor_shares` divides them among the topics. Its top words are those with
    the largest expected counts :math:`\sum_n x_{nv} \phi_{nvk}`, where
    :math:`\phi_{nvk} \propto z_{nk} w_{kv}` is the probability that a word v of row n
    is from topic k. Otherwise the share is the mean factor, and there are no words.
    If the topics of the model change, as in a :class:`~skdeepfactor.DynamicTopicModel`,
    rows have the topics of their times, which must be of the kind given to ``fit``.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``, of any package; of a pipeline,
        the last step. The model itself need not use time.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows; for a pipeline, the input of its first step.
    times : array-like of shape (n_rows,)
        The time of each row, in any order: numbers, datetimes of NumPy, pandas or
        Python, or strings in ISO format such as "1999", "1999-05" or
        "1999-05-17T10:30". Times with a zone are converted to UTC; if one time of day
        has a zone, all must have one.
    n_bins : int, default=None
        Number of intervals of equal length, of which those without rows are left out.
        By default each distinct time is a slice.
    n_top : int, default=5
        Number of words of each topic in each slice; fewer if fewer occur there.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default the names from the earlier steps of the
        pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
    **side : array-like of shape (n_rows, ...)
        Further arguments of the estimator's ``transform`` with an entry for each row,
        by name, such as ``covariates``.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With these attributes:

        times : ndarray of shape (n_slices,)
            The times in order, or the middles of the intervals; dates are in
            ``datetime64[us]``.
        ends : ndarray of shape (n_slices, 2)
            Where slices begin and end; equal if there are no intervals.
        n_rows : ndarray of shape (n_slices,)
            Number of rows in each slice.
        shares : ndarray of shape (n_slices, n_components)
            The shares. Rows sum to 1, except for slices without a count, which have 0.
            For signed factors, the mean factors.
        overall : ndarray of shape (n_components,)
            The shares in all rows together.
        words : list of list of list of str
            The top words by slice and topic, or None.
        frame : DataFrame
            All of this with a row for each slice and topic, if pandas is installed,
            else None.

    Raises
    ------
    ValueError
        If `times` are of the wrong length, missing, neither numbers nor dates, or some
        have a time zone and others none, a number is not a positive integer, or the
        factors belong to several layers.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    topics_per_group : The same for groups of rows.
    topic_evolution : Words that come and go in the topics of a DynamicTopicModel.
    skdeepfactor.plotting.TopicsOverTimeDisplay : Draws the shares.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import topics_over_time
    >>> X = [[8, 4, 4, 0, 0], [4, 1, 1, 1, 1], [8, 0, 0, 4, 4], [2, 0, 0, 1, 1]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> names = ["the", "apple", "pear", "tram", "train"]
    >>> years = ["1999", "2000", "2001", "2001"]
    >>> topics = topics_over_time(nmf, X, years, n_top=2, feature_names=names)
    >>> topics.shares.round(1)
    array([[0. , 1. ],
           [0.5, 0.5],
           [1. , 0. ]])
    >>> topics.words[1]
    [['the', 'tram'], ['the', 'apple']]
    """
    if n_bins is not None:
        check_whole("n_bins", n_bins, 1)
    rows = _Rows.of(estimator, X, n_top, feature_names, side, times)
    times = checked_times(times, rows.n_rows)
    codes, middles, ends = sliced(times, n_bins)
    return rows.table(codes, len(middles), "time", middles, times=middles, ends=ends)


def topics_per_group(
    estimator: Any,
    X: Any,
    groups: ArrayLike,
    *,
    n_top: int = 5,
    feature_names: ArrayLike | None = None,
    **side: Any,
) -> Any:
    r"""Share of each topic, and its top words, in groups of rows.

    Shares and words are those of :func:`topics_over_time`, with groups of rows in place
    of slices. Groups may be classes, authors or sources; the model itself need not use
    them.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``, of any package; of a pipeline,
        the last step.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows; for a pipeline, the input of its first step.
    groups : array-like of shape (n_rows,)
        The group of each row: strings, numbers, truth values or dates.
    n_top : int, default=5
        Number of words of each topic in each group; fewer if fewer occur there.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default the names from the earlier steps of the
        pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...
    **side : array-like of shape (n_rows, ...)
        Further arguments of the estimator's ``transform`` with an entry for each row,
        by name, such as ``covariates`` or ``times``.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With these attributes:

        groups : ndarray of shape (n_groups,)
            The groups, sorted.
        n_rows : ndarray of shape (n_groups,)
            Number of rows in each group.
        shares : ndarray of shape (n_groups, n_components)
            The shares. Rows sum to 1, except for groups without a count, which have 0.
            For signed factors, the mean factors.
        overall : ndarray of shape (n_components,)
            The shares in all rows together.
        words : list of list of list of str
            The top words by group and topic, or None.
        frame : DataFrame
            All of this with a row for each group and topic, if pandas is installed,
            else None.

    Raises
    ------
    ValueError
        If `groups` are of the wrong length, missing or cannot be sorted, `n_top` is not
        a positive integer, or the factors belong to several layers.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    topics_over_time : The same for slices of time.
    skdeepfactor.plotting.TopicsPerGroupDisplay : Draws the shares.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import topics_per_group
    >>> X = [[8, 4, 4, 0, 0], [4, 1, 1, 1, 1], [8, 0, 0, 4, 4], [2, 0, 0, 1, 1]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> topics = topics_per_group(nmf, X, ["fruit", "both", "city", "city"])
    >>> topics.groups.tolist()
    ['both', 'city', 'fruit']
    >>> topics.shares.round(1)
    array([[0.5, 0.5],
           [1. , 0. ],
           [0. , 1. ]])
    """
    rows = _Rows.of(estimator, X, n_top, feature_names, side)
    codes, found = grouped(groups, rows.n_rows)
    return rows.table(codes, len(found), "group", found, groups=found)


def grouped(groups, n_rows):
    """The place of each row's group among the sorted groups, and these.

    Raises
    ------
    ValueError
        If there is not one group for each row, one is missing, or they cannot be
        sorted.
    """
    values = received(groups)
    if isinstance(values, list | tuple):
        # NumPy would make texts of lists of texts and other things.
        values = np.array(values, dtype=object)
    values = np.asarray(values)
    if values.dtype.kind == "M":
        # Of nanoseconds a list has bare integers, of NaT too.
        values = values.astype("datetime64[us]")
    if values.shape != (n_rows,):
        raise ValueError(
            f"groups must have one entry for each of {n_rows} rows, got shape "
            f"{values.shape}."
        )
    missing = [is_missing(value) for value in values.tolist()]
    if any(missing):
        raise ValueError(
            f"groups must not be missing, but that of row {missing.index(True)} is: "
            "leave out such rows, or give them a group of their own."
        )
    try:
        found, codes = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            "groups must be of one type, so that they can be sorted, got "
            f"{sorted({type(value).__name__ for value in values.tolist()})}."
        ) from error
    if found.dtype == object:
        # Texts and numbers have a type of their own.
        found = np.asarray(found.tolist())
    return codes, found


def group_labels(groups):
    """Groups as texts.

    >>> group_labels(np.array(["2001-01-01", "2002-01-01"], "datetime64[us]"))
    ['2001-01-01', '2002-01-01']
    >>> group_labels(np.array([1.5, 2.0]))
    ['1.5', '2.0']
    """
    if groups.dtype.kind == "M":
        return time_labels(groups)
    return [str(group) for group in groups.tolist()]


class _Rows:
    """Rows, with what a model says of them, to be summed by slice."""

    def __init__(self, model, X, names, n_top, side):
        self.model, self.names, self.n_top = model, names, n_top
        counts = reading.counts_of(X)
        self.n_rows = counts.shape[0]
        self.factors = reading.factors_of(model, X, side)
        smallest = min(reading.components_of(model).min(), self.factors.min())
        self.are_shares = smallest >= 0
        if not self.are_shares:
            return
        check_non_negative(counts, "Shares of topics")
        self.totals = reading.totals_of(counts, 1).astype(np.float64)
        self.counts = sp.csr_array(counts)
        # Topics, (n_topic_slices, n_components, n_features), and the place of each
        # row's topics among them.
        self.profiles = reading.factor_profiles(model)[np.newaxis]
        self.places = np.zeros(self.n_rows, dtype=np.intp)
        slices = reading.slices_of(model)
        if slices is not None and side.get("times") is not None:
            self.profiles, middles = slices
            self.places = nearest(checked_times(side["times"], self.n_rows), middles)
        self.shares = reading.expected_shares(model, self.factors)

    @classmethod
    def of(cls, estimator, X, n_top, feature_names, side, times=None):
        check_whole("n_top", n_top, 1)
        model, X = reading.last_step(estimator, X)
        n_features = reading.components_of(model).shape[1]
        names = reading.feature_names(estimator, n_features, feature_names)
        side = reading.with_times(model, side, times)
        return cls(model, X, names, n_top, side)

    def table(self, codes, n_slices, key, labels, **parts):
        """Shares and words by slice, as a Bunch."""
        n_rows = np.bincount(codes, minlength=n_slices)
        shares = self._by_slice(codes, n_rows)
        overall = self._by_slice(np.zeros_like(codes), n_rows.sum(keepdims=True))[0]
        words = None
        if self.are_shares:
            words = [self._words(codes == slice_) for slice_ in range(n_slices)]
        return Bunch(
            **parts,
            n_rows=n_rows,
            shares=shares,
            overall=overall,
            words=words,
            frame=self._frame(key, labels, n_rows, shares, words),
        )

    def _by_slice(self, codes, n_rows):
        """Shares in the counts of each slice, or mean factors."""
        indicator = sp.csr_array(
            (np.ones(self.n_rows), (codes, np.arange(self.n_rows))),
            shape=(len(n_rows), self.n_rows),
        )
        if not self.are_shares:
            return (indicator @ self.factors) / n_rows[:, np.newaxis]
        return reading.shares_of(indicator @ (self.totals[:, np.newaxis] * self.shares))

    def _words(self, is_in):
        """The words of each topic with the largest expected counts in some rows."""
        expected = self._expected_counts(np.flatnonzero(is_in))
        order = np.argsort(-expected, axis=1, kind="stable")[:, : self.n_top]
        return [
            [str(name) for name in self.names[top[counts[top] > 0]]]
            for top, counts in zip(order, expected, strict=True)
        ]

    def _expected_counts(self, rows):
        """Counts of each feature from each topic in some rows, (k, n_features)."""
        expected = np.zeros(self.profiles.shape[1:])
        for place in np.unique(self.places[rows]):
            profiles = self.profiles[place].astype(np.float64, copy=False)
            alike = rows[self.places[rows] == place]
            step = max(1, ENTRIES // max(1, len(profiles) * self._longest))
            for start in range(0, len(alike), step):
                chosen = alike[start : start + step]
                counts, z = self.counts[chosen], self.factors[chosen]
                row = np.repeat(np.arange(len(chosen)), np.diff(counts.indptr))
                mean = np.einsum(
                    "ek,ek->e", z[row], profiles.T[counts.indices], optimize=True
                )
                ratio = counts.copy()
                ratio.data = np.divide(
                    counts.data, mean, out=np.zeros(len(mean)), where=mean > 0
                )
                expected += (ratio.T @ z).T * profiles
        return expected

    @property
    def _longest(self):
        return int(np.diff(self.counts.indptr).max(initial=1))

    def _frame(self, key, labels, n_rows, shares, words):
        """A line for each slice and topic; None without pandas."""
        try:
            import pandas as pd
        except ImportError:
            return None
        n_slices, n_components = shares.shape
        columns = {
            key: np.repeat(labels, n_components),
            "component": np.tile(np.arange(n_components), n_slices),
        }
        names = reading.known_component_names(self.model, n_components)
        if names is not None:
            columns["name"] = np.tile(names, n_slices)
        columns["n_rows"] = np.repeat(n_rows, n_components)
        columns["share"] = shares.ravel()
        if words is not None:
            columns["words"] = [", ".join(top) for part in words for top in part]
        return pd.DataFrame(columns)
