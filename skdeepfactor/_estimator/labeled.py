"""The base of models that predict labels y, learnt by updates in closed form."""

import os
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from sklearn.utils import ClassifierTags

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.base import naming_itself
from skdeepfactor._estimator.conjugate import ConjugateFactorModel
from skdeepfactor._estimator.labels import (
    Target,
    accuracy,
    joined_label_sizes,
    known_labels,
    label_sizes,
)
from skdeepfactor._estimator.validation import weighted_average
from skdeepfactor._training.progress import with_callbacks


class LabeledFactorModel(ConjugateFactorModel):
    """A model in closed form of rows and of labels, one or several for each row.

    Its ``score`` is the accuracy of the labels; ``bound`` is that of the words. A model
    adds how labels are predicted. Its module finds them in ``batch.side["labels"]``, an
    indicator, and has ``row_shares`` and ``word_shares``.
    """

    _parameter_constraints: ClassVar[dict] = {
        **ConjugateFactorModel._parameter_constraints,
        "unlabeled": [Integral, str, None],
    }

    unlabeled: int | str | None

    @with_callbacks
    @naming_itself
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: ArrayLike | None = None,
        X_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 1,
        sharded: bool = False,
    ) -> Self:
        """Fit the topics to the rows of X and their labels.

        Training passes over all rows, or over batches of them, until ``max_iter``,
        ``tol`` or early stopping ends it. An earlier fit is forgotten unless
        ``warm_start`` is set.

        If processes have joined a ``torch.distributed`` group, each of them must call
        ``fit``, and all get the same model.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. Data larger than memory come as
            :class:`~skdeepfactor.data.RowBlocks`; backed AnnData and the arrays of
            h5py, zarr and dask are read as such; ``y`` has the labels of all rows.
        y : array-like of shape (n_samples,), or indicator of (n_samples, n_labels)
            Classes, an indicator of labels, dense or sparse, or a list of the labels of
            each row; see the notes of the class. At least one row has a label.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None. A weight of 2 is the same as a row
            that occurs twice, 0 the same as no row, and fractions lie between. Random
            draws keep this only on average: batches, rows held out, and the 20,000 rows
            that a longer stream starts from are drawn uniformly, whatever the weights.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``; each
            counts once. They are scored by their words alone.
        checkpoint : path-like, default=None
            File for the state of training. If it exists, training resumes from it: the
            same call, made again after the process has died, ends as if it had not.
            With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and y, X_val and
            sample_weight), instead of taking its share of rows that all of them have.
            The classes are then those that any of them has.

        Returns
        -------
        object
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data, the labels, the weights or a parameter are invalid, or the
            checkpoint is damaged or belongs to another fit. The estimator is then left
            unchanged.
        KeyboardInterrupt
            On an interrupt. The estimator then keeps the parameters after the last
            complete pass. Before the first, or if a warm fit has fallen below its
            beginning, it is left unchanged.

        See Also
        --------
        partial_fit : Steps on data that arrive in chunks.

        Examples
        --------
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0).fit(X, ["a", "b", None, "b"])
        >>> model.predict(X).tolist()
        ['a', 'b', 'a', 'b']
        """
        return self._fit(
            X,
            Target(y),
            X_val=X_val,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            sharded=sharded,
            sample_weight=sample_weight,
        )

    @naming_itself
    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        classes: Any = None,
        sample_weight: ArrayLike | None = None,
        total_samples: float | None = None,
    ) -> Self:
        """Take stochastic steps on the rows of X, as one chunk of a stream.

        The first rows decide where topics start. Until there have been 100 distinct
        ones, or 300 in all, rows are kept (in pickles too), and each call starts the
        model anew from all of them, as if they had come at once. Later calls continue
        from it, and rows are forgotten after their step, so a stream may be larger than
        memory.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. More rows than ``batch_size`` make
            several steps.
        y : array-like of shape (n_samples,), or indicator of (n_samples, n_labels)
            Labels, as for ``fit``. In the first call at least one row has one.
        classes : array-like of shape (n_labels,), default=None
            All labels that will occur; needed in the first call, unless ``y`` is an
            indicator.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.
        total_samples : int or float, default=None
            Number of rows of the whole stream, or the sum of their weights, by which
            the statistics of a batch are scaled; of those seen so far if None.

        Returns
        -------
        object
            The estimator.

        Raises
        ------
        ValueError
            If the data, the labels, the weights or a parameter are invalid. The
            estimator is then left unchanged.

        See Also
        --------
        fit : Passes over data that are all available.

        Examples
        --------
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0)
        >>> for rows in (slice(0, 2), slice(2, 4)):
        ...     model = model.partial_fit(
        ...         X[rows], ["a", "b"], classes=["a", "b"], total_samples=4
        ...     )
        >>> model.n_samples_seen_
        4
        """
        return self._partial_fit(
            X,
            Target(y, classes, is_chunk=True),
            total_samples=total_samples,
            sample_weight=sample_weight,
        )

    @naming_itself
    def score(  # type: ignore[override]  # as every classifier's
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Accuracy: the share of rows whose labels are all predicted, and no others.

        Rows without a label are left out.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), or indicator of (n_samples, n_labels)
            The labels, as for ``fit``. Labels that the model does not know count as
            wrong predictions.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            Between 0 and 1; the subset accuracy if rows may have several labels.

        See Also
        --------
        bound : The mean bound of the words.

        Examples
        --------
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> y = ["a", "b", "a", "b"]
        >>> LabeledLDA(random_state=0).fit(X, y).score(X, y)
        1.0
        """
        return accuracy(self, X, y, sample_weight)

    @naming_itself
    def bound(self, X: Any, sample_weight: ArrayLike | None = None) -> float:
        """Mean lower bound of a row's words in nats, their labels unknown.

        Use it to compare settings by how well they explain words. Larger is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            The mean of ``score_samples(X)``.

        See Also
        --------
        score : Accuracy of the predicted labels.
        perplexity : The bound per word.

        Examples
        --------
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0).fit(X, ["a", "b", "a", "b"])
        >>> bool(model.bound(X) == model.score_samples(X).mean())
        True
        """
        return weighted_average(self.score_samples(X), sample_weight)

    @naming_itself
    def topic_assignments(self, X: Any, *, by: str = "row") -> np.ndarray:
        """Infer which topics the words of each row are from.

        Labels are taken to be unknown, so that all topics may be used;
        ``topic_labels_`` has the label of each.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        by : {"row", "word"}, default="row"
            Whether to average over the words of each row, or to give the probabilities
            of each word.

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
        >>> import numpy as np
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0).fit(X, ["a", "b", "a", "b"])
        >>> shares = model.topic_assignments([[1, 0, 1, 0]], by="word")
        >>> np.array(model.topic_labels_)[shares.argmax(axis=1)].tolist()
        ['a', 'b']
        """
        return assignments(self, X, by)

    @naming_itself
    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from the prior of documents without labels, and words from
        mixtures of the topics.

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
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0).fit(X, ["a", "b", "a", "b"])
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def __sklearn_tags__(self):
        """Tags of a classifier that needs y, and of a transformer."""
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier"
        tags.classifier_tags = ClassifierTags()
        tags.target_tags.required = True
        return tags

    def _sizes(self, rows, y):
        return {**super()._sizes(rows, y), **label_sizes(rows, y, self.unlabeled)}

    def _sizes_of_all(self, sizes):
        return {**super()._sizes_of_all(sizes), **joined_label_sizes(sizes)}

    def _known_of_rows(self, rows, y, sizes):
        return {"labels": known_labels(rows, y, sizes, self.unlabeled)}
