"""The estimator of labelled LDA; ``module.py`` has the model."""

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import ClassifierTags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.labeled import LabeledFactorModel
from skdeepfactor._estimator.labels import refuse_without_labels
from skdeepfactor._input import received, returned
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import check_init, initial_counts
from skdeepfactor.models.labeled_lda.module import LabeledTopics
from skdeepfactor.models.labeled_lda.starts import label_proportions, label_topic_counts


class LabeledLDA(LabeledFactorModel):
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
    documents that have each label, smoothed by the topics. Words are taken to be
    independent, so probabilities are closer to 0 and 1 than they should be, as in naive
    Bayes.

    Parameters
    ----------
    topics_per_label : int, default=1
        Number of topics of each label.
    n_shared : int, default=0
        Number of topics that all documents may use, whatever their labels.
    doc_topic_prior : float, default=0.1
        Concentration of the Dirichlet over a document's topics. Only topics that the
        document may use have it; if labels are not known, the concentration of a
        label's topics is multiplied by how often training rows have the label.
    topic_word_prior : float or array-like of shape (n_features,), default=0.05
        Concentration of the Dirichlet over a topic's words. One number, or one for each
        word.
    inference : {"collapsed", "mean_field"}, default="collapsed"
        How words are allocated to topics: collapsed updates give better topics and
        predictions, mean-field updates never lower the bound.
    unlabeled : int or str, default=None
        Value of ``y`` that means no label, such as -1, besides None and NaN.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. The rows of each
        label are clustered by themselves; a label with one topic starts it from all its
        rows.
    max_iter : int, default=4
        Passes over the data. After a k-means start a few are enough for held-out
        scores; the bound itself keeps rising slowly.
    tol : float or None, default=1e-4
        Relative gain of the bound below which training ends, unless one row makes up
        most of it and the others still change: over one pass where steps on all rows
        should raise the bound, else over ``n_iter_no_change`` passes. Gradient steps
        are too large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    max_inner_iter : int, default=3
        Steps on the factors of each row in a pass. Rows resume where they stopped a
        pass ago; ``transform`` continues until ``inner_tol``.
    inner_tol : float, default=1e-3
        Relative change of a row's parameters below which that row is done. Where a pass
        takes up to eight steps on rows, they are all taken.
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
        Whether ``fit`` resumes from the fitted parameters. It is undone if the score of
        held-out rows, or else the bound, would end lower than it began; after steps on
        all rows, bounds are compared only if these are the rows of the last fit. Such
        rows resume too; they are kept in memory for that and not pickled.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Seed of all random choices, such as the start and the order of rows.
    verbose : int, default=0
        Whether to show the bound after each pass.

    Attributes
    ----------
    classes_ : ndarray of shape (n_labels,)
        The labels, sorted; for an indicator, the numbers of its columns.
    components_ : ndarray of shape (n_components, n_features)
        The topics: the posterior mean of each topic's distribution over words. Rows sum
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
        topics included, with rows as the last pass left them. Bounds given different
        labels are not comparable.
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
            for name, constraint in LabeledFactorModel._parameter_constraints.items()
            if name != "n_components"
        },
        "topics_per_label": [Interval(Integral, 1, None, closed="left")],
        "n_shared": [Interval(Integral, 0, None, closed="left")],
        "doc_topic_prior": [Interval(Real, 0, None, closed="neither")],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "inference": [StrOptions({"mean_field", "collapsed"})],
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

    def __sklearn_tags__(self):
        """Tags of a classifier, also for several labels, and of a transformer."""
        tags = super().__sklearn_tags__()
        # Proportions see only the ratio of two columns, and checks have few.
        tags.classifier_tags = ClassifierTags(poor_score=True, multi_label=True)
        return tags

    @property
    def _is_multilabel(self):
        """Whether rows may have several labels."""
        check_is_fitted(self)
        return self._fitted_sizes["is_multilabel"]

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
