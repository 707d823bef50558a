r"""Labelled latent Dirichlet allocation: topics of labels, and rows that have labels.

A topic k belongs to a label, or is shared by all. For a row n whose labels are known,
:math:`m_{nk}` is 1 if topic k is shared or belongs to one of its labels, and 0
otherwise:

.. math::
    \beta_k \sim \text{Dirichlet}(\eta), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha m_n), \qquad
    x_n \sim \text{Multinomial}(N_n, \textstyle\sum_k \theta_{nk} \beta_k),

so that :math:`\theta_{nk} = 0` with certainty where :math:`m_{nk} = 0`. A row without a
label, called open, may use all topics; the expected mask of a row takes the place of
its own:

.. math::
    \alpha_{nk} = \alpha \pi_l \text{ for a topic of label } l, \quad \alpha \text{ for
    one that is shared}, \qquad
    \pi_l = \frac{\text{rows with } l + 1/2}{\text{labelled rows} + 1}.

Posteriors and updates are those of latent Dirichlet allocation, among the topics that
a row may use; the bound is one of log p(x | labels), or of log p(x) for open rows.

Labels from words, by Bayes' rule. With :math:`\Theta_l` the mean of
:math:`E[\theta_n]` over the rows that have label l and :math:`\Theta_{-l}` over the
labelled rows that have not,

.. math::
    p(v | l) = \textstyle\sum_k \Theta_{lk} E[\beta_{kv}], \qquad
    P(l | x) \propto \pi_l \textstyle\prod_v p(v | l)^{x_v}

where a row has one label; where it may have several, for each of them

.. math::
    \text{logit} P(l | x) = \text{logit} \pi_l
        + \textstyle\sum_v x_v \log (p(v | l) / p(v | \text{not } l)).

This needs no inference of the row, and accounts for topics of other labels that occur
with a label. One more row, the mean of all labelled rows, is added to each mean, so
that a label of no row, or of every row, carries no information.

Parameters, all of them sums over rows: ``topic_counts`` (K, V), ``label_proportions``,
the E[theta] of the rows with each label, (L, K), and ``labelled_proportions``, of all
labelled rows, (K,). Since proportions sum to 1, these know how many rows there are.

Ramage, Hall, Nallapati and Manning (2009), Labeled LDA: a supervised topic model for
credit attribution in multi-labeled corpora; Ramage, Manning and Dumais (2011),
Partially labeled topic models for interpretable text mining.
"""

import itertools
import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils import ClassifierTags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.distributions import Dirichlet

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
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import dense, product, scaled
from skdeepfactor._math.row_iteration import MAX_STEPS
from skdeepfactor._math.starts import check_init, column_totals, initial_counts
from skdeepfactor._math.topics import Admixture, Topics
from skdeepfactor._training.progress import with_callbacks


class LabeledTopics(FactorModule):
    """Words of a row from the topics that its labels allow, in Dirichlet proportions.

    ``labels`` of a batch, (n_rows, n_labels), are 1 where a row has a label; a row of
    zeros is open, and so is every row of a batch without them. Local parameters are
    the expected counts of the topics in a row. ``classes`` are the labels' names.
    """

    side = ("labels",)

    def __init__(
        self,
        classes,
        n_features,
        *,
        topics_per_label,
        n_shared,
        is_multilabel,
        doc_topic_prior,
        topic_word_prior,
        is_collapsed,
        inner_iter,
        tol,
    ):
        super().__init__()
        n_labels = len(classes)
        owner = np.repeat(np.arange(n_labels), topics_per_label)
        owner = np.concatenate([owner, np.full(n_shared, -1)])
        self.local_width = n_components = len(owner)
        self.classes, self.is_multilabel = classes, is_multilabel
        self.is_collapsed = is_collapsed
        self.inner_iter, self.inner_tol = inner_iter, tol
        alpha = np.full(n_components, doc_topic_prior)
        eta = np.asarray(topic_word_prior, np.float64)
        # The label of each topic, -1 for one that is shared.
        self.register_buffer("owner", torch.from_numpy(owner), persistent=False)
        self.register_buffer("alpha", torch.from_numpy(alpha), persistent=False)
        self.register_buffer("eta", torch.tensor(eta), persistent=False)
        self.topic_counts = nn.Parameter(torch.zeros(n_components, n_features))
        self.label_proportions = nn.Parameter(torch.zeros(n_labels, n_components))
        self.labelled_proportions = nn.Parameter(torch.zeros(n_components))

    def posterior(self, batch, start=None):
        batch = self._restricted(batch)
        concentration = self._rows.concentration(batch, self._solve(batch, start))
        return Dirichlet(concentration, validate_args=False)

    def elbo(self, batch, q=None):
        """Bound of each row in nats: given its labels with ``q``, else of words alone.

        Rows held out are thus scored like new rows, whose labels are unknown.
        """
        if q is not None:
            return self._rows.bounds(self._restricted(batch), q.concentration)[0]
        # The best q(theta) for the bound is the mean-field one.
        counts = self._solve(batch, is_collapsed=False)
        return self._rows.bounds(batch, self._rows.concentration(batch, counts))[0]

    def decode(self, z):
        return z @ self.components()

    def components(self):
        return self.topics.mean()

    def sample(self, totals, generator):
        alpha = self._rows.alpha.cpu().numpy()
        proportions = generator.dirichlet(alpha, size=len(totals))
        p = proportions @ self.components().cpu().numpy().astype(np.float64)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def global_kl(self):
        return self.topics.kl()

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        batch = self._restricted(batch)
        counts = self._solve(batch, start)
        bounds, allocation, weights, _ = self._rows.expectations(batch, counts)
        scale = -batch.weight * n_samples
        allocation.add_feature_counts(self.gradient(self.topic_counts), weights, scale)
        of_label = self.gradient(self.label_proportions)
        of_all = self.gradient(self.labelled_proportions)
        if "labels" in batch.side:
            concentration = self._rows.concentration(batch, counts)
            proportions = concentration / concentration.sum(1, keepdim=True)
            proportions = scaled(proportions, scale)
            labels = dense(batch.side["labels"])
            of_label.add_(labels.T @ proportions)
            of_all.add_(proportions[labels.any(1)].sum(0))
        return bounds, counts

    @torch.no_grad()
    def refresh(self):
        share = self.label_share().to(self.alpha)[self.owner.clamp_min(0)]
        open_alpha = self.alpha * torch.where(self.owner < 0, 1, share)
        self.topics = Topics(self.topic_counts.detach(), self.eta)
        self._rows = Admixture(self.topics, open_alpha, is_collapsed=self.is_collapsed)
        self._evidence = None

    def label_share(self):
        """How often a labelled row has each label, (n_labels,), float64."""
        n_rows = self.label_proportions.detach().sum(1, dtype=torch.float64)
        n_labelled = self.labelled_proportions.detach().sum(dtype=torch.float64)
        return (n_rows + 0.5) / (n_labelled + 1)

    def label_scores(self, batch):
        """Log p(label, x) of each label, or its log odds, (n_rows, n_labels), float64.

        Log odds if a row may have several labels; both up to terms that labels share.
        """
        if self._evidence is None:
            self._evidence = self._label_evidence()
        of_words, offset = self._evidence
        return product(batch.double().x, of_words) + offset

    def label_probabilities(self, batch):
        """P(label | x), (n_rows, n_labels), float64."""
        scores = self.label_scores(batch)
        return scores.sigmoid() if self.is_multilabel else scores.softmax(1)

    def _label_evidence(self):
        """Evidence of words for labels, (n_features, n_labels), and the priors."""
        of_label = self.label_proportions.detach().double()
        of_all = self.labelled_proportions.detach().double()
        prior = self._rows.alpha.double()
        mean = (of_all + prior / prior.sum()) / (of_all.sum() + 1)
        topics, share = self.components().double(), self.label_share()
        present = self._log_words(of_label, mean, topics)
        if not self.is_multilabel:
            return present.contiguous(), share.log()
        others = (of_all - of_label).clamp_min(0)
        absent = self._log_words(others, mean, topics)
        return (present - absent).contiguous(), share.logit()

    @staticmethod
    def _log_words(proportions, mean, topics):
        """Log p(word), (n_features, n_labels), of rows whose sums are given."""
        shares = (proportions + mean) / (proportions.sum(1, keepdim=True) + 1)
        return (shares @ topics).log().T

    def _restricted(self, batch):
        """The batch with the topics that each row may use, and their prior."""
        if "labels" not in batch.side:
            return batch
        labels = dense(batch.side["labels"]) > 0
        is_open = ~labels.any(1, keepdim=True)
        allowed = labels[:, self.owner.clamp_min(0)] | (self.owner < 0) | is_open
        alpha = torch.where(is_open, self._rows.alpha, self.alpha)
        return batch.with_side(allowed=allowed, alpha=alpha)

    def _solve(self, batch, start=None, is_collapsed=None):
        """Expected counts of the topics in each row, from ``start`` or from none."""
        return self._rows.solve(
            batch,
            start,
            max_steps=self.inner_iter if self.training else MAX_STEPS,
            tol=self.inner_tol,
            is_collapsed=is_collapsed,
        )


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
        Concentration of the Dirichlet over the topics that a document may use. Where
        labels are not known, it is multiplied by how often a label's topics would be
        among these.
    topic_word_prior : float or array-like of shape (n_features,), default=0.05
        Concentration of the Dirichlet over a topic's words: one number, or one for
        each word.
    inference : {"collapsed", "mean_field"}, default="collapsed"
        How words are shared out to topics: collapsed updates give better topics and
        predictions, mean-field ones do not lower the bound.
    unlabeled : int or str, default=None
        What else stands for no label in ``y``, such as -1, besides None and NaN.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where topics start: clusters of the documents of each label, exponential
        weights, or an array of shape (n_components, n_features), up to scale. A
        label's only topic starts from all its documents.
    max_iter : int, default=4
        Passes over the data. After a k-means start a few are enough for held-out
        scores; the bound itself goes on rising slowly.
    tol : float, default=1e-4
        Relative gain of the bound, in a pass, below which training ends.
    max_inner_iter : int, default=5
        Steps on the proportions of each row in a pass; rows go on where they stopped
        a pass ago. ``transform`` goes on until ``inner_tol``.
    inner_tol : float, default=1e-3
        Relative change of a row's parameters below which that row is done.
    n_cold_iter : int, default=None
        How many of the first passes start rows anew instead of where they stopped. More
        of them find a higher bound from a poor start; the bound may fall during them.
        None for 1, or up to 20 (half of ``max_iter`` at most) with ``init="random"``.
    batch_size : int, default=None
        Rows in a stochastic step; None for full steps on all rows.
    learning_offset : float, default=10.0
        Slows the first stochastic steps: step t has size
        (1 + learning_offset + t) ** -learning_decay.
    learning_decay : float, default=0.7
        How fast stochastic steps shrink, in (0.5, 1].
    validation_fraction : float, default=None
        Fraction of the rows held out to stop early, when the mean bound of their words
        has not risen for ``n_iter_no_change`` passes; None for no early stopping.
    n_iter_no_change : int, default=3
        Passes without a better validation score that end training; also the passes
        over which the bound of stochastic steps must rise by ``tol``.
    n_init : int, default=1
        Number of starts, of which the one with the best bound (or validation score)
        is kept.
    n_jobs : int, default=None
        Processes for the starts.
    warm_start : bool, default=False
        Whether ``fit`` goes on from what is fitted already.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Seed of the start and of the order of stochastic steps.
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
        topics included. Bounds given different labels are not comparable.
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with early stopping, ``validation_score``,
        for each pass.
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
        max_inner_iter: int = 5,
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
            A file to write the state of training to, and to go on from if it is there:
            the same call, made again after the process has died, ends as if it had
            not. With several processes each writes its own, with its rank appended.
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
            complete pass; before the first, it is left unchanged.

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

        The first call initializes the model, and later calls continue from it. Rows are
        forgotten after their step, so a stream may be larger than memory.

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
            return self._fitted_sizes["classes"][most_probable]
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
        init = check_init(self.init, module.topic_counts.shape)
        if isinstance(init, str):
            counts = self._initial_counts(X, labels, init, random_state, weights)
        else:
            n_components = len(module.topic_counts)
            counts = initial_counts(X, n_components, init, random_state, weights)
        module.topic_counts.data.copy_(torch.from_numpy(counts))
        # Rows of the first pass that have no label need to know how often labels are.
        n_labels = np.diff(labels.indptr)
        n_allowed = n_labels * self.topics_per_label + self.n_shared
        shares = np.where(n_labels > 0, weights / np.maximum(n_allowed, 1), 0)
        of_labels = _scaled_rows(labels, shares)
        proportions = np.concatenate(
            [
                np.repeat(_product(labels.T, of_labels), self.topics_per_label, 1),
                np.tile(_product(labels.T, shares)[:, np.newaxis], self.n_shared),
            ],
            axis=1,
        )
        module.label_proportions.data.copy_(torch.from_numpy(proportions))
        of_all = np.asarray(of_labels.sum(axis=0)).ravel()
        of_all = np.repeat(of_all, self.topics_per_label)
        of_all = np.concatenate([of_all, np.full(self.n_shared, shares.sum())])
        module.labelled_proportions.data.copy_(torch.from_numpy(of_all))

    def _initial_counts(self, X, labels, init, random_state, weights):
        """Counts of each topic to start from: of clusters of each label's rows."""
        # A row of several labels is shared out to them.
        shares = weights / np.maximum(np.diff(labels.indptr), 1)
        n_topics = self.topics_per_label
        n_components = n_topics * labels.shape[1] + self.n_shared
        average = column_totals(X, weights) / n_components
        members = labels.tocsc()
        parts = []
        for start, stop in itertools.pairwise(members.indptr):
            rows = members.indices[start:stop]
            if len(rows) == 0:
                total = n_topics * average
            else:
                total = column_totals(X[rows], shares[rows])
            if n_topics == 1:
                part = total[np.newaxis]
            elif init == "kmeans" and len(rows) >= n_topics:
                part = initial_counts(
                    X[rows], n_topics, init, random_state, shares[rows]
                )
            else:
                # They must differ, or they would never part.
                size = n_topics, len(total)
                part = random_state.exponential(total / n_topics, size)
            parts.append(part)
        if self.n_shared > 0:
            parts.append(initial_counts(X, self.n_shared, init, random_state, weights))
        return np.concatenate(parts)

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


def _scaled_rows(matrix, scale):
    """A CSR matrix with its rows multiplied by numbers."""
    data = matrix.data * np.repeat(scale, np.diff(matrix.indptr))
    return scipy.sparse.csr_matrix((data, matrix.indices, matrix.indptr), matrix.shape)


def _product(a, b):
    """The product of two matrices, dense."""
    return safe_sparse_dot(a, b, dense_output=True)
