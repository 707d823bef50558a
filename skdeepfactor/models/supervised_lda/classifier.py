"""Classification by supervised topics; ``module.py`` has the model."""

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import ClassifierTags
from sklearn.utils._param_validation import Interval, StrOptions

from skdeepfactor._estimator.arrays import to_numpy
from skdeepfactor._estimator.fitting import input_scale
from skdeepfactor._estimator.labels import (
    Target,
    accuracy,
    class_counts,
    class_weights,
    joined_class_counts,
    joined_label_sizes,
    known_labels,
    label_sizes,
    mean_log_probability,
)
from skdeepfactor._estimator.supervised import SupervisedFactorModel, check_whole
from skdeepfactor._input import received, returned
from skdeepfactor.models.supervised_lda.expected import with_expected_classes
from skdeepfactor.models.supervised_lda.module import Classes
from skdeepfactor.models.supervised_lda.starts import built, start_classifier


class SupervisedLDAClassifier(SupervisedFactorModel):
    r"""Supervised LDA for classes: topics of words that also predict a class.

    Row n is words from K topics, ``x_n ~ Multinomial(N_n, theta_n @ beta)``, and its
    class depends on the proportions inferred from its words alone: ``P(y_n) =
    softmax(coef_ @ theta_n + intercept_)``. Topics and coefficients are learnt together
    by gradients through the inference of the proportions. Rows without a class help to
    find the topics and, with ``unlabeled_weight``, teach the class that their words
    suggest.

    A classifier on richer features predicts better; here each prediction is a sum over
    a few topics that can be read.

    Parameters
    ----------
    n_components : int, default=20
        Number of topics K.
    supervision : float or "auto", default=100.0
        Weight of an answer, in units of a word's log probability: with 100, an answer
        counts as much as a hundred words. Larger values predict answers better, up to a
        point, and words worse. ``"auto"`` holds out a fifth of the rows with an answer,
        fits with 0.1, 0.3, 1 and 3 times the mean number of words of a row, and takes
        the value that predicts the held-out answers best, among those whose perplexity
        of words is at most 3 % above the smallest.
    C : float, default=100.0
        Inverse of the penalty on ``coef_``, as in scikit-learn's LogisticRegression.
    count_power : float, default=1.0
        Power of the counts that proportions are inferred from, between 1, the counts
        themselves, and 0, whether a word occurs. Less than 1 often predicts texts
        better, since a word that is repeated says less than a new one.
    word_dropout : float, default=0.0
        Share of the entries of a row that each step of training leaves out, at random,
        when it infers proportions. It guards against overfitting.
    class_weight : dict or "balanced", default=None
        Weight of the answers of each class, by class; 1 for a class that is left out,
        and for all if None. ``"balanced"``: inversely proportional to the number of
        rows of the class.
    unlabeled : int or str, default=None
        Value of ``y`` that means no label, such as -1, besides None and NaN.
    unlabeled_weight : float, default=0.0
        How much the class of a row without one counts, between 0 and 1. If not 0, a
        mixture of multinomials, one for each class, is fitted to all rows, and rows
        without a class are taught the one that it expects, as if this part of them had
        a class. It helps where few rows have a class and classes differ in most of
        their words. It needs all rows in memory, of one process.
    doc_topic_prior : float or array-like of shape (n_components,), default=0.1
        Concentration of the Dirichlet over a document's topics. One number, or one for
        each topic.
    topic_word_prior : float or array-like of shape (n_features,), default=0.05
        Concentration of the Dirichlet over a topic's words. One number, or one for each
        word. Topics are point estimates, so it is a pseudo-count of each word.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average. Scores are those of the scaled data. 1.0 takes all data
        as they are.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. The first two are
        followed by some passes of LDA, in which answers are treated as words.
    max_iter : int, default=20
        Passes over the data.
    tol : float or None, default=1e-4
        Relative gain of the bound below which training ends, unless one row makes up
        most of it and the others still change: over one pass where steps on all rows
        should raise the bound, else over ``n_iter_no_change`` passes. Gradient steps
        are too large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    max_inner_iter : int, default=15
        Steps on the factors of each row in a pass. New rows take as many, so that their
        proportions mean the same as in training.
    inner_tol : float, default=1e-3
        Relative change of a row's parameters below which that row is done. Only scores
        use it: training and ``transform`` take all ``max_inner_iter`` steps.
    learning_rate : float, default=0.05
        Step size of Adam at first. It falls to 0 along a cosine over ``max_iter``; in
        ``partial_fit``, which has no known end, it is a fifth of this throughout.
    batch_size : int, default=200
        Rows in a step; None for steps on all rows.
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
        Whether ``fit`` resumes from the fitted parameters. If the score of held-out
        rows, or the bound, would end lower than it began, the fit is undone. Rows
        fitted before resume too; they are kept in memory for that and not pickled.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Seed of all random choices, such as the start and the order of rows.
    verbose : int, default=0
        Whether to show the bound after each pass.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted.
    coef_ : ndarray of shape (n_classes, n_components)
        Coefficients of the topics' proportions in the log odds of each class. Two
        classes have two rows.
    intercept_ : ndarray of shape (n_classes,)
        Log odds of each class apart from the topics.
    components_ : ndarray of shape (n_components, n_features)
        The topics: each topic's distribution over words. Rows sum to 1.
    supervision_ : float
        Weight of an answer, given or chosen.
    lower_bound_ : float
        Objective of the training data in nats: the bound of the words, the weighted log
        likelihood of the answers, and the log priors of topics and coefficients.
    input_scale_ : float
        Factor by which X is multiplied; 1.0 if the training data were integers.
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with early stopping, ``validation_score``,
        for each pass. Its bound is that before its steps.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int
        Number of rows that training has seen.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the data had names.

    See Also
    --------
    SupervisedLDARegressor : The same for numbers.
    LabeledLDA : Topics that each belong to a class, and rows with several classes.

    References
    ----------
    Nigam, K., McCallum, A., Thrun, S. and Mitchell, T. (2000). Text classification from
    labeled and unlabeled documents using EM. Machine Learning 39.

    Blei, D. and McAuliffe, J. (2007). Supervised topic models. NeurIPS 20.

    Chen, J., He, J., Shen, Y., Xiao, L., He, X., Gao, J., Song, X. and Deng, L. (2015).
    End-to-end learning of LDA by mirror-descent back propagation over a deep
    architecture. NeurIPS 28.

    Hughes, M., Hope, G., Weiner, L., McCoy, T., Perlis, R., Sudderth, E. and
    Doshi-Velez, F. (2018). Semi-supervised prediction-constrained topic models.
    AISTATS 21.

    Examples
    --------
    >>> from skdeepfactor import SupervisedLDAClassifier
    >>> from skdeepfactor.datasets import make_topics
    >>> data = make_topics(200, 50, 3, random_state=0)
    >>> y = data.topic_proportions.argmax(axis=1)
    >>> model = SupervisedLDAClassifier(3, random_state=0).fit(data.data, y)
    >>> model.coef_.shape
    (3, 3)
    >>> bool(model.score(data.data, y) > 0.8)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **SupervisedFactorModel._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "unlabeled_weight": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        n_components: int = 20,
        *,
        supervision: float | str = 100.0,
        C: float = 100.0,
        count_power: float = 1.0,
        word_dropout: float = 0.0,
        class_weight: dict | str | None = None,
        unlabeled: int | str | None = None,
        unlabeled_weight: float = 0.0,
        doc_topic_prior: float | ArrayLike = 0.1,
        topic_word_prior: float | ArrayLike = 0.05,
        input_scale: float | str = "auto",
        init: str | ArrayLike = "kmeans",
        max_iter: int = 20,
        tol: float = 1e-4,
        max_inner_iter: int = 15,
        inner_tol: float = 1e-3,
        learning_rate: float = 0.05,
        batch_size: int | None = 200,
        validation_fraction: float | None = None,
        n_iter_no_change: int = 3,
        n_init: int = 1,
        n_jobs: int | None = None,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.supervision = supervision
        self.C = C
        self.count_power = count_power
        self.word_dropout = word_dropout
        self.class_weight = class_weight
        self.unlabeled = unlabeled
        self.unlabeled_weight = unlabeled_weight
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.input_scale = input_scale
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.max_inner_iter = max_inner_iter
        self.inner_tol = inner_tol
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_init = n_init
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        classes: Any = None,
        total_samples: int | None = None,
    ) -> Self:
        """Take stochastic steps on the rows of X, as one chunk of a stream.

        The first rows decide where topics start. Until there have been 100 distinct
        ones, or 300 in all, rows are kept (in pickles too), and each call starts the
        model anew from all of them, as if they had come at once. Later calls continue
        from it, and rows are forgotten after their step, so a stream may be larger than
        memory. After ``fit``, steps start with fresh optimizer moments.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. More rows than ``batch_size`` make
            several steps.
        y : array-like of shape (n_samples,)
            Answers, as for ``fit``. In the first call at least one row has one.
        classes : array-like of shape (n_classes,), default=None
            All classes that will occur; needed in the first call.
        total_samples : int, default=None
            Number of rows of the whole stream, by which the priors are weighed against
            a batch; the rows seen so far if None.

        Returns
        -------
        object
            The estimator.

        Raises
        ------
        ValueError
            If the data, the answers or a parameter are invalid. The estimator is then
            left unchanged.

        See Also
        --------
        fit : Passes over data that are all available.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SupervisedLDAClassifier(2, random_state=0)
        >>> for rows in (slice(0, 2), slice(2, 4)):
        ...     model = model.partial_fit(X[rows], [0, 1], classes=[0, 1])
        >>> model.n_samples_seen_
        4
        """
        return self._partial_fit(
            X, Target(y, classes, is_chunk=True), total_samples=total_samples
        )

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probability of each class, given the words of each row.

        It stays finite where the probability rounds to 0.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of ``classes_``.

        See Also
        --------
        predict_proba : Probabilities.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SupervisedLDAClassifier(2, random_state=0).fit(X, [0, 1, 0, 1])
        >>> model.predict_log_proba(X).shape
        (4, 2)
        """
        return self._infer(
            X, lambda module, batch: module.scores(batch).double().log_softmax(1)
        )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, given the words of each row.

        A row's topics are inferred from its words alone, as in training.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of ``classes_``; rows sum to 1.

        See Also
        --------
        predict : The most probable class.
        transform : The proportions of the topics.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SupervisedLDAClassifier(2, random_state=0).fit(X, [0, 1, 0, 1])
        >>> model.predict_proba(X).sum(axis=1).round(6).tolist()
        [1.0, 1.0, 1.0, 1.0]
        """
        return self._infer(
            X, lambda module, batch: module.scores(batch).double().softmax(1)
        )

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of each row from its words.

        It depends on the row's topics alone.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            The most probable class.

        See Also
        --------
        predict_proba : Probabilities of all classes.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> y = ["a", "b", "a", "b"]
        >>> SupervisedLDAClassifier(2, random_state=0).fit(X, y).predict(X).tolist()
        ['a', 'b', 'a', 'b']
        """
        most_probable = received(self.predict_proba(X)).argmax(axis=1)
        return returned(self._fitted_sizes["classes"][most_probable], X)

    def score(  # type: ignore[override]  # as every classifier's
        self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Accuracy: the share of rows whose class is predicted.

        Rows without a class are left out.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            The classes, as for ``fit``. A class that the model does not know counts as
            a wrong prediction.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            Between 0 and 1.

        See Also
        --------
        bound : The mean bound of the words.

        Examples
        --------
        >>> from skdeepfactor import SupervisedLDAClassifier
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> y = ["a", "b", "a", "b"]
        >>> SupervisedLDAClassifier(2, random_state=0).fit(X, y).score(X, y)
        1.0
        """
        return accuracy(self, X, y, sample_weight)

    def __sklearn_tags__(self):
        """Tags of a classifier, and of a transformer."""
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier"
        # Proportions see but the ratio of two columns, as in checks on few of them.
        tags.classifier_tags = ClassifierTags(poor_score=True)
        return tags

    def _answer_score(self, X, y):
        return mean_log_probability(self, X, y)

    def _sizes(self, rows, y):
        sizes = label_sizes(rows, y, self.unlabeled)
        if y.is_chunk and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all rows, so partial_fit takes a dict."
            )
        counts, classes = class_counts(rows, y, sizes, self.unlabeled)
        return {
            **super()._sizes(rows, y),
            **sizes,
            "class_counts": counts,
            "supervision": self._weight_of_answers(rows, y, classes >= 0, classes),
        }

    def _sizes_of_all(self, sizes):
        classes = joined_label_sizes(sizes)
        return {
            **super()._sizes_of_all(sizes),
            **classes,
            "class_counts": joined_class_counts(sizes, classes["classes"]),
        }

    def _known_of_rows(self, rows, y, sizes):
        known = known_labels(rows, y, sizes, self.unlabeled)
        if self.unlabeled_weight:
            check_whole(rows, y, "unlabeled_weight above 0", "0")
            # Sizes of a first fit do not have the scale yet.
            scale = sizes.get("input_scale") or input_scale(self, rows)
            known = with_expected_classes(rows.X * scale, known, self.unlabeled_weight)
        return {"answers": known}

    def _build(self, sizes):
        weights = class_weights(
            self.class_weight, sizes["classes"], sizes["class_counts"]
        )
        return built(self, Classes(sizes["classes"], weights), sizes)

    def _initialize(self, module, start):
        start_classifier(module, start.distinct(), self.init)

    def _fitted(self, module):
        return {
            "classes_": module.kind.names.copy(),
            "coef_": to_numpy(module.coef),
            "intercept_": to_numpy(module.intercept),
            "supervision_": module.supervision,
        }
