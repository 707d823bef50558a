"""The estimator of labelled LDA; ``module.py`` has the model."""

import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils import ClassifierTags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import ConjugateFactorModel
from skdeepfactor._estimator.labels import (
    Target,
    joined_label_sizes,
    known_labels,
    label_sizes,
    refuse_without_labels,
    right_rows,
)
from skdeepfactor._estimator.validation import checked_weights, weighted_average
from skdeepfactor._input import received, returned
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import check_init, initial_counts
from skdeepfactor._training.progress import with_callbacks
from skdeepfactor.models.labeled_lda.module import LabeledTopics
from skdeepfactor.models.labeled_lda.starts import label_proportions, label_topic_counts


class LabeledLDA(ConjugateFactorModel):
    r"""Labelled LDA: topics that belong to labels, and a classifier based on them.

    Each label has ``topics_per_label`` topics of its own, and ``n_shared`` more are
    shared by all. A document uses only the topics of its labels and the shared ones:
    ``theta_n ~ Dirichlet(doc_topic_prior)`` on these, ``beta_k ~
    Dirichlet(topic_word_prior)``, ``x_n ~ Multinomial(N_n, theta_n @ beta)``. If a
    document has several labels, its words are divided among them; if a label has
    several topics, they show its subthemes. Documents without a label may use all
    topics, and help to find them. Posteriors are Dirichlet, by collapsed or mean-field
    updates (``inference``): full steps on all rows, or stochastic ones.

    ``predict`` finds the labels of new documents by Bayes' rule, from the words of the
    documents that have each label, as the topics smooth them. Words are taken to be
    independent, so probabilities are closer to 0 and 1 than they should be, as in naive
    Bayes.

    Parameters
    ----------
    topics_per_label : int, default=1
        Number of topics of each label.
    n_shared : int, default=0
        Number of topics that all documents may use, whatever their labels.
    doc_topic_prior : float, default=0.1
        Concentration of the Dirichlet over a document's topics. These are the topics
        that the document may use; where labels are not known, the concentration is
        multiplied by how often a label's topics would be among these.
    topic_word_prior : float or array-like of shape (n_features,), default=0.05
        Concentration of the Dirichlet over a topic's words. One number, or one for each
        word.
    inference : {"collapsed", "mean_field"}, default="collapsed"
        How words are shared out to topics: collapsed updates give better topics and
        predictions, mean-field ones do not lower the bound.
    unlabeled : int or str, default=None
        What else stands for no label in ``y``, such as -1, besides None and NaN.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. Clusters are those
        of each label's rows; a label's only topic starts from all of them.
    max_iter : int, default=4
        Passes over the data. After a k-means start a few are enough for held-out
        scores; the bound itself goes on rising slowly.
    tol : float or None, default=1e-4
        Relative gain of the bound below which training ends, unless one row is most of
        it and the others still change: over one pass where steps on all rows should
        raise the bound, else over ``n_iter_no_change`` passes. Gradient steps are too
        large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    max_inner_iter : int, default=3
        Steps on the factors of each row in a pass. Rows resume where they stopped a
        pass ago; ``transform`` goes on until ``inner_tol``.
    inner_tol : float, default=1e-3
        Relative change of a row's parameters below which that row is done.
    n_cold_iter : int, default=None
        How many of the first passes start rows anew instead of where they stopped. More
        of them find a higher bound from a poor start; the bound may fall during them.
        None for 1, or up to 20 (half of ``max_iter`` at most) with ``init="random"``.
    batch_size : int, default=None
        Rows in a step; None for steps on all rows.
    learning_offset : float, default=10.0
        Slows the first stochastic steps: step t has size
        (1 + learning_offset + t) ** -learning_decay.
    learning_decay : float, default=0.7
        How fast stochastic steps shrink, in (0.5, 1].
    validation_fraction : float, default=None
        Fraction of the rows held out to stop early, when their mean bound has not risen
        for ``n_iter_no_change`` passes; None for no early stopping.
    n_iter_no_change : int, default=3
        Passes without a better validation score that end training; also the passes over
        which ``tol`` is measured where steps need not raise the bound.
    n_init : int, default=1
        Number of starts, of which the one with the best bound (or validation score)
        is kept.
    n_jobs : int, default=None
        Processes for the starts.
    warm_start : bool, default=False
        Whether ``fit`` resumes from the fitted parameters. If it would end below, by
        the score of held-out rows or the bound, it returns to where it began. Rows
        fitted before resume too; they are kept in memory for that and not pickled.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Seed of all that is drawn, such as the start and the order of rows.
    verbose : int, default=0
        Whether to show the bound after each pass.

    Attributes
    ----------
    classes_ : ndarray of shape (n_labels,)
        The labels, sorted; for an indicator, the numbers of its columns.
    components_ : ndarray of shape (n_components, n_features)
        The topics: the posterior mean of each one's distribution over words, rows sum
        to 1. Topics of labels come first, in the order of ``classes_``, then the shared
        ones.
    topic_labels_ : list of length n_components
        The label of each topic; None for a shared one.
    topic_word_concentration_ : ndarray of shape (n_components, n_features)
        Parameters of the Dirichlet posterior of each topic.
    label_prior_ : ndarray of shape (n_labels,)
        How often a labelled row has each label.
    n_predicted_ : int
        Number of labels that ``predict`` gives to a row: 1, or, where rows may have
        several, the mean number of labels of the training rows, rounded.
    lower_bound_ : float
        Bound of the training data given their labels, in nats, the divergence of the
        topics included, with rows as the last pass left them: with collapsed updates
        not at their best. Bounds given different labels are not comparable.
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with early stopping, ``validation_score``,
        for each pass. Its bound is that before its steps.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int or float
        Number of rows that training has seen, or the sum of their weights if given.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the data had names.

    See Also
    --------
    LatentDirichletAllocation : Topics without labels.
    sklearn.naive_bayes.MultinomialNB : One distribution of words for each class.

    Notes
    -----
    ``y`` is one of

    - classes, strings or numbers, one for each row;
    - an indicator, dense or sparse, of shape (n_samples, n_labels), of zeros and ones,
      where a row may have several labels;
    - a list of the labels of each row, such as ``[["a", "b"], [], ["b"]]``. As in
      scikit-learn, lists of one length, two or more, of zeros and ones are the rows of
      an indicator.

    A row has no label where ``y`` is None, NaN or ``unlabeled``, and where it has an
    empty list or a row of zeros.

    References
    ----------
    Ramage, D., Hall, D., Nallapati, R. and Manning, C. D. (2009). Labeled LDA: a
    supervised topic model for credit attribution in multi-labeled corpora. EMNLP.

    Ramage, D., Manning, C. D. and Dumais, S. (2011). Partially labeled topic models for
    interpretable text mining. KDD 17.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from skdeepfactor import LabeledLDA
    >>> texts = ["apple pear plum", "bus train tram", "pear bus tram", "plum pear"]
    >>> labels = [["fruit"], ["traffic"], ["fruit", "traffic"], None]
    >>> words = CountVectorizer()
    >>> model = LabeledLDA(random_state=0).fit(words.fit_transform(texts), labels)
    >>> model.topic_labels_
    ['fruit', 'traffic']
    >>> model.classes_[model.predict(words.transform(["a tram, a bus"]))[0] == 1]
    array(['traffic'], dtype='<U7')
    """

    _parameter_constraints: ClassVar[dict] = {
        **{
            name: constraint
            for name, constraint in ConjugateFactorModel._parameter_constraints.items()
            if name != "n_components"
        },
        "topics_per_label": [Interval(Integral, 1, None, closed="left")],
        "n_shared": [Interval(Integral, 0, None, closed="left")],
        "doc_topic_prior": [Interval(Real, 0, None, closed="neither")],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "inference": [StrOptions({"mean_field", "collapsed"})],
        "unlabeled": [Integral, str, None],
    }

    _kept_parameters = ("topics_per_label", "n_shared")

    def __init__(
        self,
        topics_per_label: int = 1,
        n_shared: int = 0,
        *,
        doc_topic_prior: float = 0.1,
        topic_word_prior: float | ArrayLike = 0.05,
        inference: str = "collapsed",
        unlabeled: int | str | None = None,
        init: str | ArrayLike = "kmeans",
        max_iter: int = 4,
        tol: float = 1e-4,
        max_inner_iter: int = 3,
        inner_tol: float = 1e-3,
        n_cold_iter: int | None = None,
        batch_size: int | None = None,
        learning_offset: float = 10.0,
        learning_decay: float = 0.7,
        validation_fraction: float | None = None,
        n_iter_no_change: int = 3,
        n_init: int = 1,
        n_jobs: int | None = None,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.topics_per_label = topics_per_label
        self.n_shared = n_shared
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.inference = inference
        self.unlabeled = unlabeled
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.max_inner_iter = max_inner_iter
        self.inner_tol = inner_tol
        self.n_cold_iter = n_cold_iter
        self.batch_size = batch_size
        self.learning_offset = learning_offset
        self.learning_decay = learning_decay
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_init = n_init
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
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
            :class:`~skdeepfactor.data.RowBlocks`, as which backed AnnData and the
            arrays of h5py, zarr and dask are read; ``y`` has the labels of all rows.
        y : array-like of shape (n_samples,), or indicator of (n_samples, n_labels)
            Classes, an indicator of labels, dense or sparse, or a list of the labels of
            each row; see the notes of the class. At least one row has a label.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None. A weight of 2 is the same as a row
            that is there twice, 0 as one that is not, and fractions lie between. What
            is drawn for rows is the same on average: batches, rows held out and the
            20,000 rows that a longer stream starts from (all uniformly, whatever the
            weights).
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
            All labels that will come; needed in the first call, unless ``y`` is an
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

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each label, given the words of each row.

        Bayes' rule is applied to the words of the training rows with each label and the
        number of these rows.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_labels), float64
            Columns are in the order of ``classes_``. If a row has one label, rows sum
            to 1; otherwise each entry is the probability of having the label.

        See Also
        --------
        predict_log_proba : Log probabilities, which are finite in long rows too.
        transform : The proportions of the topics, which say less about the label.

        Examples
        --------
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0).fit(X, ["a", "b", "a", "b"])
        >>> model.predict_proba([[1, 0, 0, 0], [0, 0, 0, 0]]).round(1).tolist()
        [[0.8, 0.2], [0.5, 0.5]]
        """
        return self._infer(X, lambda module, batch: module.label_probabilities(batch))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probability of each label, given the words of each row.

        It stays finite where the probability rounds to 0. If rows may have several
        labels, it also stays below 0 where the probability rounds to 1, so it ranks
        the labels of long rows.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_labels), float64
            In the order of ``classes_``.

        See Also
        --------
        predict_proba : Probabilities.

        Examples
        --------
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0).fit(X, ["a", "b", "a", "b"])
        >>> new = [[900, 0, 0, 0]]
        >>> model.predict_proba(new).tolist()
        [[1.0, 0.0]]
        >>> model.predict_log_proba(new).round().tolist()
        [[0.0, -1414.0]]
        """
        return self._infer(
            X, lambda module, batch: module.label_log_probabilities(batch)
        )

    def predict(self, X: Any) -> np.ndarray:
        """Predict the labels of rows from their words.

        If rows may have several labels, each gets the ``n_predicted_`` most probable
        ones, since probabilities are too close to 0 and 1 for a threshold.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            The most probable class, or an indicator, whose columns are in the order of
            ``classes_``.

        See Also
        --------
        predict_proba : Probabilities of all labels.

        Examples
        --------
        >>> from skdeepfactor import LabeledLDA
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [2, 1, 2, 2]]
        >>> model = LabeledLDA(random_state=0).fit(X, [["a"], ["b"], ["a"], ["a", "b"]])
        >>> model.predict([[1, 0, 0, 0], [0, 0, 1, 0]]).tolist()
        [[1, 0], [0, 1]]
        """
        if not self._is_multilabel:
            most_probable = received(self.predict_proba(X)).argmax(axis=1)
            return returned(self._fitted_sizes["classes"][most_probable], X)
        # Probabilities may be 1 for several; scores are not.
        scores = received(
            self._infer(X, lambda module, batch: module.label_scores(batch))
        )
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.n_predicted_]
        predicted = np.zeros(scores.shape, dtype=int)
        np.put_along_axis(predicted, best, 1, axis=1)
        return returned(predicted, X)

    def score(  # type: ignore[override]  # as every classifier's
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Accuracy: the share of rows whose labels are all predicted, and no others.

        Rows without a label are left out.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), or indicator of (n_samples, n_labels)
            The labels, as for ``fit``. Those that the model does not know count as not
            predicted.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; all alike if None.

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
        predicted = received(self.predict(X))
        classes = self._fitted_sizes["classes"]
        is_right, has_label = right_rows(y, predicted, classes, self.unlabeled)
        weights = checked_weights(sample_weight, len(predicted)) * has_label
        if not weights.any():
            raise ValueError("score needs a row with a label, but y has none.")
        return weighted_average(is_right, weights)

    def bound(self, X: Any, sample_weight: ArrayLike | None = None) -> float:
        """Mean lower bound of a row's words in nats, their labels unknown.

        Use it to compare settings by how well they explain words. Larger is better.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; all alike if None.

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
        return assignments(
            self, X, by, LabeledTopics.row_shares, LabeledTopics.word_shares
        )

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from the prior of documents without labels, and words
        from the mixed topics.

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
        """Tags of a classifier, also for several labels, and of a transformer."""
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier"
        # Proportions see but the ratio of two columns, as in checks on few of them.
        tags.classifier_tags = ClassifierTags(poor_score=True, multi_label=True)
        tags.target_tags.required = True
        return tags

    @property
    def _is_multilabel(self):
        """Whether rows may have several labels."""
        check_is_fitted(self)
        return self._fitted_sizes["is_multilabel"]

    def _sizes(self, rows, y):
        return {**super()._sizes(rows, y), **label_sizes(rows, y, self.unlabeled)}

    def _sizes_of_all(self, sizes):
        return {**super()._sizes_of_all(sizes), **joined_label_sizes(sizes)}

    def _known_of_rows(self, rows, y, sizes):
        return {"labels": known_labels(rows, y, sizes, self.unlabeled)}

    def _build(self, sizes):
        n_features = sizes["n_features"]
        return LabeledTopics(
            sizes["classes"],
            n_features,
            topics_per_label=self.topics_per_label,
            n_shared=self.n_shared,
            is_multilabel=sizes["is_multilabel"],
            doc_topic_prior=self.doc_topic_prior,
            topic_word_prior=check_prior(
                self.topic_word_prior, "topic_word_prior", (n_features,)
            ),
            is_collapsed=self.inference == "collapsed",
            inner_iter=self.max_inner_iter,
            tol=self.inner_tol,
        )

    def _initialize(self, module, start):
        X, weights, arrays, random_state = start.distinct()
        labels = arrays["labels"]
        if labels.nnz == 0:
            refuse_without_labels()
        sizes = {
            "topics_per_label": self.topics_per_label,
            "n_shared": self.n_shared,
            "weights": weights,
        }
        init = check_init(self.init, module.topic_counts.shape)
        if isinstance(init, str):
            counts = label_topic_counts(
                X, labels, init, random_state=random_state, **sizes
            )
        else:
            n_components = len(module.topic_counts)
            counts = initial_counts(X, n_components, init, random_state, weights)
        module.topic_counts.data.copy_(torch.from_numpy(counts))
        # Rows of the first pass that have no label need to know how often labels are.
        of_each, of_all = label_proportions(labels, **sizes)
        module.label_proportions.data.copy_(torch.from_numpy(of_each))
        module.labelled_proportions.data.copy_(torch.from_numpy(of_all))

    def _fitted(self, module):
        share = module.label_share().cpu().numpy()
        names = [*module.classes.tolist(), None]
        n_rows = module.labelled_proportions.sum(dtype=torch.float64).item()
        n_labels = module.label_proportions.sum(dtype=torch.float64).item()
        mean = n_labels / n_rows if n_rows > 0 else 1.0
        return {
            "classes_": module.classes.copy(),
            "topic_labels_": [names[label] for label in module.owner.tolist()],
            "topic_word_concentration_": module.topics.concentration().cpu().numpy(),
            "label_prior_": share,
            "n_predicted_": max(1, round(mean)) if module.is_multilabel else 1,
        }
