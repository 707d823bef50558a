"""The base of topic models whose rows have covariates."""

import os
from typing import Any, Self

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.base import naming_itself
from skdeepfactor._estimator.conjugate import ClosedFormFactorModel
from skdeepfactor._estimator.described import described_like
from skdeepfactor._estimator.side import (
    covariate_sizes,
    fitted_and_transformed,
    given,
    joined_covariate_sizes,
    known_covariates,
    resized_covariates,
)
from skdeepfactor._training.progress import with_callbacks

# The estimator of the examples.
EXAMPLE = "CorrelatedTopicModel"

# What docstrings say of covariates, by method.
FITTED = """\
covariates : array-like of shape (n_samples, n_covariates), default=None
    Numbers known of each row, on which its topics may depend; see the notes of the
    class. None if there are none. For a stream, the covariates of all its rows; if
    ``sharded``, those of the process's own rows. ``X_val`` is scored at their mean."""
OF_CHUNK = """\
covariates : array-like of shape (n_samples, n_covariates), default=None
    As for ``fit``; for all chunks, or for none. They are standardised by those of
    the rows that are kept."""
KNOWN = """\
covariates : array-like of shape (n_samples, n_covariates), default=None
    The covariates of these rows; the mean of the training rows if None."""
EXPECTED = """\
covariates : array-like of shape (n_samples, n_covariates), default=None
    Checked but not used, since words depend on covariates through the proportions
    alone; present for consistency with the other methods."""


class CovariateTopicModel(ClosedFormFactorModel):
    """A topic model in closed form, whose proportions depend on covariates of rows.

    Its module finds them standardised, as ``batch.side["covariates"]``, and gives the
    ``proportions`` of a batch.
    """

    @with_callbacks
    @naming_itself
    @described_like(ClosedFormFactorModel.fit, FITTED, model=EXAMPLE)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        covariates: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        X_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 1,
        sharded: bool = False,
    ) -> Self:
        return self._fit(
            X,
            _told(covariates, sample_weight),
            X_val=X_val,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            sharded=sharded,
            sample_weight=sample_weight,
        )

    @naming_itself
    @described_like(ClosedFormFactorModel.partial_fit, OF_CHUNK, model=EXAMPLE)
    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        covariates: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        total_samples: float | None = None,
    ) -> Self:
        return self._partial_fit(
            X,
            _told(covariates, sample_weight),
            total_samples=total_samples,
            sample_weight=sample_weight,
        )

    def fit_transform(
        self,
        X: Any,
        y: Any = None,
        *,
        covariates: ArrayLike | None = None,
        **fit_params: Any,
    ) -> np.ndarray:
        """Fit the model, and infer the proportions of the same rows.

        Both steps use the covariates.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        covariates : array-like of shape (n_samples, n_covariates), default=None
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
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> CorrelatedTopicModel(2, random_state=0).fit_transform(X).shape
        (4, 2)
        """
        return fitted_and_transformed(self, X, y, fit_params, covariates=covariates)

    @naming_itself
    def transform(
        self,
        X: Any,
        *,
        covariates: ArrayLike | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> np.ndarray:
        """Infer the proportions of the topics in each row.

        They are the softmax of the most probable logarithms, given the words and the
        covariates of the row alone.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        covariates : array-like of shape (n_samples, n_covariates), default=None
            The covariates of these rows; the mean of the training rows if None.
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
            If X or the covariates do not have the columns that ``fit`` saw, or the
            model was fitted without covariates.

        See Also
        --------
        inverse_transform : Expected shares of words given proportions.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> years = [1990, 2020, 1995, 2015]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X, covariates=years)
        >>> model.transform([[1, 1, 0, 0]], covariates=[2000]).shape
        (1, 2)
        """
        return self._infer(
            X,
            lambda module, batch: module.proportions(batch),
            out,
            given(covariates=covariates),
        )

    @naming_itself
    def topic_assignments(
        self, X: Any, *, by: str = "row", covariates: ArrayLike | None = None
    ) -> np.ndarray:
        """Infer which topics the words of each row are from.

        Given the most probable proportions of the row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        by : {"row", "word"}, default="row"
            Whether to average over the words of each row, or to give the probabilities
            of each word.
        covariates : array-like of shape (n_samples, n_covariates), default=None
            The covariates of these rows; the mean of the training rows if None.

        Returns
        -------
        ndarray of shape (n_samples, n_components) or (n_entries, n_components)
            Rows sum to 1; rows of X without words are 0. By word, there is one row for
            each entry of X that is not 0, in the order of
            ``scipy.sparse.csr_matrix(X).nonzero()``: row by row, and from the first
            feature to the last.

        See Also
        --------
        transform : The proportions of the topics.
        skdeepfactor.plotting.DocumentDisplay : A text with its words marked by topic.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X)
        >>> shares = model.topic_assignments([[1, 0, 1, 0]], by="word")
        >>> bool(shares[0].argmax() == model.components_[:, 0].argmax())
        True
        """
        return assignments(self, X, by, side=given(covariates=covariates))

    @naming_itself
    @described_like(ClosedFormFactorModel.inverse_transform, EXPECTED, model=EXAMPLE)
    def inverse_transform(
        self, Z: Any, *, covariates: ArrayLike | None = None
    ) -> np.ndarray:
        check_is_fitted(self)
        expected = super().inverse_transform(Z)
        if covariates is not None:
            sizes = self._fitted_sizes["covariates"]
            known_covariates(covariates, len(expected), sizes)
        return expected

    @naming_itself
    @described_like(ClosedFormFactorModel.score_samples, KNOWN, model=EXAMPLE)
    def score_samples(
        self, X: Any, *, covariates: ArrayLike | None = None
    ) -> np.ndarray:
        return self._infer(
            X,
            lambda module, batch: module.elbo(batch),
            side=given(covariates=covariates),
        )

    @naming_itself
    @described_like(ClosedFormFactorModel.score, KNOWN, model=EXAMPLE)
    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        covariates: ArrayLike | None = None,
        metric: str = "elbo",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        return self._mean_score(X, metric, sample_weight, covariates=covariates)

    @naming_itself
    @described_like(ClosedFormFactorModel.perplexity, KNOWN, model=EXAMPLE)
    def perplexity(
        self,
        X: Any,
        *,
        covariates: ArrayLike | None = None,
        average: str = "document",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        return self._perplexity(X, average, sample_weight, given(covariates=covariates))

    @naming_itself
    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from their prior at the mean of the training rows'
        covariates, and words from mixtures of the topics.

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
            Counts, from the posterior mean of the topics.

        See Also
        --------
        inverse_transform : Expected shares of words given proportions.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X)
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def _sizes(self, rows, y):
        found = None
        if y is not None:
            found = covariate_sizes(rows, y["covariates"], y["sample_weight"])
        return {**super()._sizes(rows, y), "covariates": found}

    def _sizes_of_all(self, sizes):
        covariates = joined_covariate_sizes([own["covariates"] for own in sizes])
        return {**super()._sizes_of_all(sizes), "covariates": covariates}

    def _known_of_rows(self, rows, y, sizes):
        sizes = sizes["covariates"]
        if y is not None:
            known = known_covariates(y["covariates"], rows.n_visible, sizes)
            return {"covariates": known}
        if sizes is not None:
            raise ValueError(
                "The model was fitted with covariates, so training can continue with "
                "covariates only."
            )
        return {}

    def _resized(self, sizes, arrays):
        if sizes["covariates"] is None:
            return sizes, arrays
        found, known = resized_covariates(arrays["covariates"], sizes["covariates"])
        return {**sizes, "covariates": found}, {**arrays, "covariates": known}


def _told(covariates, sample_weight):
    """Covariates of rows and their weights as side information; None without."""
    if covariates is None:
        return None
    return {"covariates": covariates, "sample_weight": sample_weight}
