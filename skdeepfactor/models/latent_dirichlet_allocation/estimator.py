"""The estimator of latent Dirichlet allocation; ``module.py`` has the model."""

import dataclasses
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import INPUT_SCALE, ConjugateFactorModel
from skdeepfactor._estimator.merging import (
    group_means,
    group_sums,
    mean_prior,
    summed_prior,
)
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import FEW_ROWS, check_init, initial_counts
from skdeepfactor._math.topics import lda_counts
from skdeepfactor._training.optimizers import NaturalGradient
from skdeepfactor.models.latent_dirichlet_allocation.module import DirichletTopics

# Collapsed passes that a chain starts from.
START_PASSES = 8

# Size of steps on all rows by collapsed updates, which come as far in three passes as
# full ones do in four.
STEP_SIZE = 1.4


class LatentDirichletAllocation(ConjugateFactorModel):
    r"""Latent Dirichlet allocation: topics of words, mixed in each document.

    Row n is N_n words from K topics beta in proportions theta_n:
    ``beta_k ~ Dirichlet(topic_word_prior)``, ``theta_n ~ Dirichlet(doc_topic_prior)``,
    ``x_n ~ Multinomial(N_n, theta_n @ beta)``, fitted by collapsed or
    mean-field updates of Dirichlet posteriors, or by Gibbs sampling (``inference``):
    full steps on all rows, or stochastic ones with ``batch_size`` or ``partial_fit``.
    Sparse data stay sparse.

    Parameters
    ----------
    n_components : int, default=10
        Number of topics K.
    doc_topic_prior : float, array-like of shape (n_components,) or "auto", default=0.03
        Concentration of the Dirichlet over a document's topics. ``"auto"`` learns one
        for each topic.
    topic_word_prior : float, array-like or "auto", default=0.05
        Concentration of the Dirichlet over a topic's words. One number, one for each
        word (n_features,), or one for each topic and word (n_components, n_features),
        where large entries plant seed words. ``"auto"`` learns one number.
    inference : str, default="collapsed"
        How counts are shared among topics. ``"mean_field"``: by the exponentials of
        expected logarithms, which is coordinate ascent on the bound. ``"collapsed"``:
        by expected counts, the zeroth-order collapsed updates (CVB0) without taking out
        each count's own share, with steps that over-relax; it predicts held-out words
        better, but the bound may fall. ``"cross_fitted"``: the same, but in training
        each half of a row's words is shared by the proportions that the other half has;
        it predicts held-out words better, and more passes do not overfit, but takes
        longer. ``"gibbs"``: training draws the topic of each token, one sweep in a
        pass, and averages over the last quarter of ``max_iter``, which should be 100 or
        more; sweeps are faster, and fewer are needed, if numba is installed; rows seen
        later are inferred as by ``"collapsed"``. See Notes. With all of them, ``score``
        and ``perplexity`` are the mean-field bound under the fitted topics.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average. Scores are those of the scaled data. 1.0 takes all data
        as they are.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. For this model, the
        start decides the quality more than any other parameter.
    max_iter : int, default=3
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
        None for 1, or up to 20 (half of ``max_iter`` at most) with ``init="random"`` or
        a prior that is learnt, which settles in them.
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
    components_ : ndarray of shape (n_components, n_features)
        The topics: the posterior mean of each topic's distribution over words. Rows sum
        to 1. Read-only, like all fitted arrays: change a copy.
    topic_word_concentration_ : ndarray of shape (n_components, n_features)
        Parameters of the Dirichlet posterior of each topic (``components_`` in
        scikit-learn's estimator of this name).
    doc_topic_prior_ : ndarray of shape (n_components,)
        The prior of the proportions, learnt or given.
    topic_word_prior_ : float or ndarray
        The prior of the topics, learnt or given.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of the topics included, with
        rows as the last pass left them. Collapsed updates do not maximise this bound
        over rows, as ``score`` does, whose sum over rows is then higher.
    input_scale_ : float
        Factor by which X is multiplied; 1.0 if the training data were integers.
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with early stopping, ``validation_score``,
        for each pass. Its bound is that before its steps. With ``inference="gibbs"``
        it is no bound: the log likelihood given what a sweep has drawn takes the place
        of the rows' bounds.
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
    PoissonFactorization : The same allocation of counts, for rows whose totals matter.
    sklearn.decomposition.LatentDirichletAllocation : The same model and bound.

    Notes
    -----
    ``inference="gibbs"`` samples exactly if counts are whole, every step sees all rows,
    priors are given, and no two rows are equal. Its draws depend on the content of
    rows, whatever their order: equal rows have the same draws, and count as one row
    with the sum of their weights. With numba installed, on a CPU and with steps on all
    rows, the proportions are integrated out of the draws of tokens; the likelihood in
    ``history_`` is then that of each word given the topics of the others in its row.
    Otherwise, and in rows with fractions or with counts above 1,000, proportions are
    drawn, and it is the likelihood given these. Fractions are rounded at random, anew
    in each sweep. With ``batch_size`` or ``partial_fit`` a step moves the numbers of
    tokens towards those of its rows, by its step size; rows seen for the first time
    draw their proportions from their variational posterior. All sweeps are made; with
    rows held out, the topics of the best sweep are kept. ``warm_start`` adds sweeps to
    the averages. The chain starts from eight collapsed passes, unless ``init`` is an
    array, and ``n_cold_iter=None`` means 1.

    References
    ----------
    Asuncion, A., Welling, M., Smyth, P. and Teh, Y. W. (2009). On smoothing and
    inference for topic models. UAI 25.

    Blei, D., Ng, A. and Jordan, M. (2003). Latent Dirichlet allocation. JMLR 3.

    Hoffman, M., Blei, D. and Bach, F. (2010). Online learning for latent Dirichlet
    allocation. NeurIPS 23.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(3, random_state=0).fit(X)
    >>> lda.transform(X).shape
    (200, 3)
    >>> bool(lda.perplexity(X) < 50)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "input_scale": INPUT_SCALE,
        **ConjugateFactorModel._parameter_constraints,
        "doc_topic_prior": [
            Interval(Real, 0, None, closed="neither"),
            "array-like",
            StrOptions({"auto"}),
        ],
        "topic_word_prior": [
            Interval(Real, 0, None, closed="neither"),
            "array-like",
            StrOptions({"auto"}),
        ],
        "inference": [StrOptions({"mean_field", "collapsed", "cross_fitted", "gibbs"})],
    }

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float | str | ArrayLike = 0.03,
        topic_word_prior: float | str | ArrayLike = 0.05,
        inference: str = "collapsed",
        input_scale: float | str = "auto",
        init: str | ArrayLike = "kmeans",
        max_iter: int = 3,
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
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.inference = inference
        self.input_scale = input_scale
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

    def topic_assignments(self, X: Any, *, by: str = "row") -> np.ndarray:
        """Infer which topics the words of each row are from.

        Where ``transform`` gives the posterior mean of a row's proportions, which
        leans towards the prior, this is the posterior of its words' own topics.

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
        >>> from skdeepfactor import LatentDirichletAllocation
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LatentDirichletAllocation(2, random_state=0).fit(X)
        >>> model.topic_assignments([[1, 0, 1, 0]]).round(2).tolist()
        [[0.5, 0.5]]
        >>> shares = model.topic_assignments([[1, 0, 1, 0]], by="word")
        >>> first, second = shares.argmax(axis=1)
        >>> bool(first != second)
        True
        """
        return assignments(self, X, by)

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from their prior, and words from mixtures of the topics.

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
        >>> from skdeepfactor import LatentDirichletAllocation
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = LatentDirichletAllocation(2, random_state=0).fit(X)
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def _build(self, sizes):
        n_features = sizes["n_features"]
        shape = (self.n_components, n_features)
        eta = check_prior(
            self.topic_word_prior, "topic_word_prior", (n_features,), shape
        )
        return DirichletTopics(
            check_prior(self.doc_topic_prior, "doc_topic_prior", shape[:1]),
            eta,
            shape=shape,
            inference=self.inference,
            inner_iter=self.max_inner_iter,
            tol=self.inner_tol,
        )

    def _initialize(self, module, start):
        X, weights, _, random_state = start.distinct()
        init = check_init(self.init, module.topic_counts.shape)
        counts = initial_counts(
            X,
            self.n_components,
            init,
            random_state,
            weights,
            rows_per_component=FEW_ROWS,
        )
        seed = None
        if module.draws is not None:
            seed = random_state.randint(2**31 - 1)
            if isinstance(init, str):
                # A chain is slow to leave topics that are far from any mode.
                counts = lda_counts(
                    X, weights, counts, module.alpha, n_passes=START_PASSES
                )
        module.start(torch.from_numpy(counts), seed)

    def _plan(self, module, budget):
        plan = super()._plan(module, budget)
        if module.draws is None:
            # Full steps alone are sure to climb, priors are learnt from means, and one
            # full step finds a single topic.
            is_full = module.learnt or budget.is_stochastic or len(module.alpha) == 1
            if module.is_collapsed and not is_full:
                optimizer = NaturalGradient(module.parameters(), size=STEP_SIZE)
                plan = dataclasses.replace(plan, optimizer=optimizer)
            return plan
        # A chain does not converge, so all sweeps are made; and it settles by itself.
        return dataclasses.replace(
            plan,
            ascends=False,
            samples=True,
            n_cold=self.n_cold_iter or 1,
            n_warmup=budget.n_passes or 0,
        )

    def _merged(self, module, groups):
        alpha = group_sums(module.alpha.double(), groups)
        tensors = {
            "topic_counts": group_sums(module.topic_counts.detach(), groups),
            "alpha": alpha,
            "eta": group_means(module.eta, groups)
            if module.eta.ndim == 2
            else module.eta,
            # What this prior was learnt from, if it was.
            "mean_log_proportions": torch.digamma(alpha) - torch.digamma(alpha.sum()),
        }
        if module.draws is not None:
            counts = module.draws.counts.detach()
            tensors["draws.counts"] = group_sums(counts, groups)
        parameters = {"topic_word_prior": mean_prior(self.topic_word_prior, groups)}
        if not isinstance(self.doc_topic_prior, str):
            n_components = len(module.alpha)
            parameters["doc_topic_prior"] = summed_prior(
                self.doc_topic_prior, n_components, groups
            )
        return parameters, {name: t.to(module.eta) for name, t in tensors.items()}

    def _fitted(self, module):
        eta = module.eta.cpu().numpy().copy()
        return {
            "topic_word_concentration_": module.topics.concentration().cpu().numpy(),
            "doc_topic_prior_": module.alpha.cpu().numpy().copy(),
            "topic_word_prior_": float(eta) if eta.ndim == 0 else eta,
        }
