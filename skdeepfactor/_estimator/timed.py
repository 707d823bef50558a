"""The base of topic models whose rows have times."""

import os
from abc import abstractmethod
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.base import naming_itself
from skdeepfactor._estimator.conjugate import ConjugateFactorModel
from skdeepfactor._estimator.described import described_like
from skdeepfactor._estimator.side import fitted_and_transformed, given
from skdeepfactor._estimator.slices import (
    first_times,
    joined_slice_sizes,
    known_slices,
    resized_slices,
    slice_sizes,
)
from skdeepfactor._training.progress import with_callbacks

# The estimator of the examples.
EXAMPLE = "DynamicTopicModel"

# What docstrings say of times, by method.
FITTED = """\
times : array-like of shape (n_samples,), default=None
    The time of each row, numbers or dates, in any order; see the notes of the
    class. None for topics that do not change. For a stream, the times of all its
    rows; if ``sharded``, those of the process's own rows. ``X_val`` is scored with
    the average topics."""
OF_CHUNK = """\
times : array-like of shape (n_samples,), default=None
    As for ``fit``; for all chunks, or for none. The kept rows define the slices, so
    they should cover all times; later rows belong to the nearest slice. With
    ``init="random"`` or an array, the rows of the first call define them."""
KNOWN = """\
times : array-like of shape (n_samples,), default=None
    The times of these rows; None for the average topics."""


class TimedTopicModel(ConjugateFactorModel):
    """A topic model with an iteration over each row, and topics by slices of time.

    Its module finds the slice of each row as ``batch.side["slice"]``.
    """

    _parameter_constraints: ClassVar[dict] = {
        **ConjugateFactorModel._parameter_constraints,
        "n_slices": [Interval(Integral, 1, None, closed="left"), None],
    }

    n_slices: int | None

    @abstractmethod
    def _check_sizes(self, sizes, n_bytes):
        """Raise a ``ValueError`` if so many slices are too many.

        ``n_bytes`` is the size of a number.
        """

    @with_callbacks
    @naming_itself
    @described_like(ConjugateFactorModel.fit, FITTED, model=EXAMPLE)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        times: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        X_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 1,
        sharded: bool = False,
    ) -> Self:
        return self._fit(
            X,
            _told(times, sample_weight),
            X_val=X_val,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            sharded=sharded,
            sample_weight=sample_weight,
        )

    @naming_itself
    @described_like(ConjugateFactorModel.partial_fit, OF_CHUNK, model=EXAMPLE)
    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        times: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        total_samples: float | None = None,
    ) -> Self:
        is_kept = vars(self).get("_first_rows") is not None
        is_start = is_kept or not self.__sklearn_is_fitted__()
        return self._partial_fit(
            X,
            _told(times, sample_weight, is_start=is_start),
            total_samples=total_samples,
            sample_weight=sample_weight,
        )

    def fit_transform(
        self,
        X: Any,
        y: Any = None,
        *,
        times: ArrayLike | None = None,
        **fit_params: Any,
    ) -> np.ndarray:
        """Fit the model, and infer the proportions of the same rows.

        Both steps use the times.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        times : array-like of shape (n_samples,), default=None
            As for ``fit`` and ``transform``.
        **fit_params : dict
            Further arguments of ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            The proportions of the topics.

        See Also
        --------
        transform : The proportions of other rows.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> DynamicTopicModel(2, random_state=0).fit_transform(X).shape
        (4, 2)
        """
        return fitted_and_transformed(self, X, y, fit_params, times=times)

    @naming_itself
    def transform(
        self,
        X: Any,
        *,
        times: ArrayLike | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> np.ndarray:
        """Infer the proportions of the topics in each row.

        Their posterior mean given the words of the row and the topics of its slice. The
        proportions of a row depend on that row alone.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the average topics.
        out : path-like, default=None
            A ``.npy`` file to write the proportions to as they come, for more rows than
            memory has room for.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Rows sum to 1, float64 for float64 data, else float32; with ``out``, a
            read-only map of the file.

        Raises
        ------
        ValueError
            If X does not have the columns that ``fit`` saw, times are of another kind
            than in ``fit``, or the model was fitted without times.

        Warns
        -----
        UserWarning
            If times are before the first or after the last training row.

        See Also
        --------
        inverse_transform : Expected shares of words given proportions.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> years = [1990, 2020, 1995, 2015]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X, times=years)
        >>> model.transform([[1, 1, 0, 0]], times=[2000]).shape
        (1, 2)
        """
        return self._infer(
            X,
            lambda module, batch: module.posterior(batch).mean,
            out,
            given(times=times),
        )

    @naming_itself
    def topic_assignments(
        self, X: Any, *, by: str = "row", times: ArrayLike | None = None
    ) -> np.ndarray:
        """Infer which topics the words of each row are from.

        Where ``transform`` gives the posterior mean of a row's proportions, which
        leans towards the prior, this is the posterior of its words' own topics.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        by : {"row", "word"}, default="row"
            Whether to average over the words of each row, or to give the probabilities
            of each word.
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the average topics.

        Returns
        -------
        ndarray of shape (n_samples, n_components) or (n_entries, n_components)
            Rows sum to 1; rows of X without words are 0. By word, there is one row for
            each entry of X that is not 0, in the order of
            ``scipy.sparse.csr_matrix(X).nonzero()``: row by row, and from the first
            feature to the last.

        See Also
        --------
        transform : The posterior mean of the proportions.
        skdeepfactor.plotting.DocumentDisplay : A text with its words marked by topic.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> shares = model.topic_assignments([[1, 0, 1, 0]], by="word")
        >>> bool(shares[0].argmax() == model.components_[:, 0].argmax())
        True
        """
        return assignments(self, X, by, side=given(times=times))

    @naming_itself
    @described_like(ConjugateFactorModel.inverse_transform, KNOWN, model=EXAMPLE)
    def inverse_transform(
        self, Z: Any, *, times: ArrayLike | None = None
    ) -> np.ndarray:
        return self._expected(Z, given(times=times))

    @naming_itself
    @described_like(ConjugateFactorModel.score_samples, KNOWN, model=EXAMPLE)
    def score_samples(self, X: Any, *, times: ArrayLike | None = None) -> np.ndarray:
        return self._infer(
            X,
            lambda module, batch: module.elbo(batch),
            side=given(times=times),
        )

    @naming_itself
    @described_like(ConjugateFactorModel.score, KNOWN, model=EXAMPLE)
    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        times: ArrayLike | None = None,
        metric: str = "elbo",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        return self._mean_score(X, metric, sample_weight, times=times)

    @naming_itself
    @described_like(ConjugateFactorModel.perplexity, KNOWN, model=EXAMPLE)
    def perplexity(
        self,
        X: Any,
        *,
        times: ArrayLike | None = None,
        average: str = "document",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        return self._perplexity(X, average, sample_weight, given(times=times))

    @naming_itself
    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from their prior, and words from mixtures of the average
        topics.

        Parameters
        ----------
        n_samples : int, default=1
            Number of documents.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each; by default drawn from the lengths of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts, from the average topics.

        See Also
        --------
        inverse_transform : Expected shares of words given proportions.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def _sizes(self, rows, y):
        slices = None
        if y is not None:
            slices = slice_sizes(rows, y["times"], self.n_slices, y["sample_weight"])
        sizes = {**super()._sizes(rows, y), "slices": slices}
        if rows.share.is_sharded:
            # Slices follow from the times of all processes.
            return {**sizes, "n_bytes": rows.dtype.itemsize}
        self._check_sizes(sizes, rows.dtype.itemsize)
        return sizes

    def _sizes_of_all(self, sizes):
        slices = joined_slice_sizes([own["slices"] for own in sizes], self.n_slices)
        n_bytes = max(own["n_bytes"] for own in sizes)
        joined = {**super()._sizes_of_all(sizes), "slices": slices}
        del joined["n_bytes"]
        self._check_sizes(joined, n_bytes)
        return joined

    def _known_of_rows(self, rows, y, sizes):
        slices = sizes["slices"]
        if y is not None:
            if y.get("is_start"):
                return first_times(y["times"], rows.n_visible, slices)
            weights = y.get("sample_weight")
            return known_slices(y["times"], rows.n_visible, slices, weights)
        if slices is not None:
            raise ValueError(
                "The model was fitted with times, so training can continue with times "
                "only."
            )
        return {}

    def _resized(self, sizes, arrays):
        if sizes["slices"] is None:
            return sizes, arrays
        slices, known = resized_slices(arrays["time"], sizes["slices"], self.n_slices)
        sizes = {**sizes, "slices": slices}
        self._check_sizes(sizes, n_bytes=4)
        return sizes, {**arrays, **known}


def _told(times, sample_weight, *, is_start=False):
    """Times of rows and their weights as side information; None without times.

    ``is_start`` says whether they are among the first rows of a stream.
    """
    if times is None:
        return None
    return {"times": times, "sample_weight": sample_weight, "is_start": is_start}
