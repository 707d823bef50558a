r"""Latent Dirichlet allocation: variational Bayes, collapsed updates, Gibbs sampling.

The story of a row n with :math:`N_n` words:

.. math::
    \beta_k \sim \text{Dirichlet}(\eta), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha), \qquad
    x_n \sim \text{Multinomial}(N_n, \textstyle\sum_k \theta_{nk} \beta_k),

taken as words in order, so without the multinomial coefficient. The posterior is
:math:`q(\beta_k) = \text{Dirichlet}(\lambda_k)`,
:math:`q(\theta_n) = \text{Dirichlet}(\gamma_n)`, with a share of each count for each
topic, :math:`\phi_{nvk} \propto \exp(E \log \theta_{nk} + E \log \beta_{kv})`, summed
out of the bound:

.. math::
    L = \sum_{nv} x_{nv} \log \sum_k e^{E \log \theta_{nk} + E \log \beta_{kv}}
        - \sum_n KL(q(\theta_n) \| p(\theta_n)) - \sum_k KL(q(\beta_k) \| p(\beta_k)).

Coordinate ascent: :math:`\gamma_{nk} = \alpha_k + \sum_v x_{nv} \phi_{nvk}` for each
row until it stands still, then :math:`\lambda_{kv} = \eta + \sum_n x_{nv} \phi_{nvk}`.
The sums over n are the one global parameter, ``topic_counts``.

Collapsed inference shares counts by :math:`\phi_{nvk} \propto \gamma_{nk} \lambda_{kv}
/ \sum_v \lambda_{kv}` instead, in both steps: the zeroth-order collapsed updates (CVB0)
with each count's own share left in. The posteriors stay Dirichlet and L stays a bound,
but these updates do not climb it: they keep the uncertainty of the proportions out of
the shares, which finds broader topics and better held-out words. With priors that are
given, steps on all rows over-relax: they move each topic, at the total of its new
counts, by 1.4 times as much.

Gibbs sampling draws everything in turn instead: topics, proportions, and the topic of
each token,

.. math::
    \beta_k \sim \text{Dirichlet}(\eta + n_k), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha + n_n), \qquad
    P(\text{topic } k) \propto \theta_{nk} \beta_{kv},

given the numbers of tokens :math:`n_{kv}` of topic k and word v, and :math:`n_{nk}` of
row n. With compiled loops (see Notes of the estimator), the proportions are integrated
out: tokens of a row are drawn one after the other, by :math:`P(\text{topic } k) \propto
(n_{nk} + \alpha_k) \beta_{kv}` with the numbers of the others. Rows stay independent
given the topics. The sweeps of the last quarter are kept: means of their :math:`n_{kv}`
take the place of ``topic_counts``. Learnt priors follow from the tokens drawn, a
stochastic EM.

Blei, Ng and Jordan (2003), Latent Dirichlet allocation; Hoffman, Blei and Bach (2010),
Online learning for latent Dirichlet allocation; Asuncion, Welling, Smyth and Teh
(2009), On smoothing and inference for topic models; learnt priors after Minka (2000),
Estimating a Dirichlet distribution.
"""

import dataclasses
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn
from torch.distributions import Dirichlet

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import INPUT_SCALE, ConjugateFactorModel
from skdeepfactor._estimator.merging import (
    group_means,
    group_sums,
    mean_prior,
    summed_prior,
)
from skdeepfactor._math.allocation import shares_of_counts
from skdeepfactor._math.gammas import (
    check_prior,
    dirichlet,
    sum_of_mean_logs,
    symmetric_dirichlet,
)
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import scaled
from skdeepfactor._math.row_iteration import ending
from skdeepfactor._math.starts import FEW_ROWS, check_init, initial_counts
from skdeepfactor._math.threads import threads_for_torch
from skdeepfactor._math.topic_draws import TopicDraws
from skdeepfactor._math.topics import Admixture, Topics, lda_counts
from skdeepfactor._training.optimizers import NaturalGradient

# Collapsed passes that a chain starts from.
START_PASSES = 8

# Size of steps on all rows by collapsed updates, which come as far in three passes as
# full ones do in four.
STEP_SIZE = 1.4

# Steps on rows in a pass, at most, where a prior is learnt from them.
STEPS_OF_PRIOR = 30


class DirichletTopics(FactorModule):
    """Words of a row from topics in Dirichlet proportions.

    Local parameters of a row are its expected counts of each topic: the concentration
    without the prior, which may be learnt meanwhile.
    """

    is_given_total = True

    def __init__(
        self,
        doc_topic_prior,
        topic_word_prior,
        *,
        shape,
        inference,
        inner_iter,
        tol,
    ):
        super().__init__()
        n_components, _ = shape
        self.is_collapsed = inference != "mean_field"
        self.is_crossed = inference == "cross_fitted"
        self.draws = TopicDraws(shape) if inference == "gibbs" else None
        self.local_width = n_components * (2 if self.is_crossed else 1)
        self.inner_iter, self.inner_tol = inner_iter, tol
        priors = {"alpha": doc_topic_prior, "eta": topic_word_prior}
        self.learnt = {name for name, p in priors.items() if isinstance(p, str)}
        self.learns_shape = bool(self.learnt)
        alpha = 0.1 if "alpha" in self.learnt else doc_topic_prior
        eta = 0.05 if "eta" in self.learnt else topic_word_prior
        alpha = np.broadcast_to(np.asarray(alpha, np.float64), (n_components,))
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("eta", torch.tensor(np.asarray(eta, np.float64)))
        counts = torch.zeros(shape)
        if self.draws is None:
            self.topic_counts = nn.Parameter(counts)
        else:
            # Averages over sweeps, whose own counts are what a step replaces.
            self.register_buffer("topic_counts", counts)
        # The mean of E[log theta] over rows, from which alpha is learnt.
        self.mean_log_proportions = nn.Parameter(torch.zeros(n_components))

    @property
    def has_loops(self):
        return self.draws is not None and self.draws.has_loops

    @property
    def takes_notes(self):
        return self.has_loops

    @property
    def work_width(self):
        n_topics = len(self.alpha)
        if self.has_loops:
            # Loops look at few topics of a row, and each part takes a pass over topics.
            return -(-n_topics // 8)
        # Several arrays of a batch, and with half of its rows they stay in a cache.
        return 2 * n_topics

    def begin(self, budget):
        super().begin(budget)
        if self.draws is None:
            return
        self.draws.begin(budget)
        if budget.n_passes is None:
            # A stream goes on from the averages of an earlier fit.
            self.draws.counts.data.copy_(self.topic_counts)
            self.refresh()

    def start(self, counts, seed):
        """Start from counts of the words in each topic, (n_topics, n_features)."""
        self.topic_counts.data.copy_(counts)
        if self.draws is not None:
            self.draws.start(counts, seed)

    def posterior(self, batch, start=None):
        counts = self._solve(batch, None if start is None else self._joined(start))
        return Dirichlet(self.alpha + counts, validate_args=False)

    def recalled(self, batch, local):
        return Dirichlet(self.alpha + self._joined(local), validate_args=False)

    def elbo(self, batch, q=None):
        if q is not None:
            return self._rows.bounds(batch, q.concentration)[0]
        # The best q(theta) for the bound is the mean-field one.
        counts = self._solve(batch, is_collapsed=False)
        return self._rows.bounds(batch, self.alpha + counts)[0]

    def decode(self, z):
        return z @ self.components()

    def components(self):
        return self.topics.mean()

    def sample(self, totals, generator):
        proportions = generator.dirichlet(self.alpha.cpu().numpy(), size=len(totals))
        p = proportions @ self.components().cpu().numpy().astype(np.float64)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def row_shares(self, batch):
        """Shares of the topics in the words of each row, (n_rows, n_components)."""
        return shares_of_counts(self._solve(batch))

    def word_shares(self, batch):
        """Shares of the topics in each word, (n_entries, n_components)."""
        return self._rows.word_shares(batch, self._solve(batch))

    def global_kl(self):
        return self.topics.kl()

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        rows, scale = self._rows, -batch.weight * n_samples
        if self.draws is not None:
            return self._backward_of_draws(batch, n_samples, start)
        if self.is_crossed:
            gradient = self.gradient(self.topic_counts)
            counts = rows.solve_halves(batch, start, **self._options())
            for allocation, weights in rows.crossed(batch, counts):
                allocation.add_feature_counts(gradient, weights, scale)
            concentration = rows.concentration(batch, self._joined(counts))
            bounds, _, mean_log = rows.bounds(batch, concentration)
        else:
            gradient = self.gradient(self.topic_counts)
            counts, bounds, allocation, weights, mean_log = rows.step(
                batch, start, **self._options()
            )
            allocation.add_feature_counts(gradient, weights, scale)
        if self.is_collapsed and "alpha" in self.learnt:
            # Counts by collapsed updates are too even to learn from: alpha would rise,
            # which would make them more even still.
            best = rows.solve(
                batch,
                self._joined(counts),
                is_collapsed=False,
                max_steps=STEPS_OF_PRIOR,
                tol=self.inner_tol,
            )
            mean_log = rows.bounds(batch, self.alpha + best)[2]
        gradient = self.gradient(self.mean_log_proportions)
        gradient.sub_(scaled(mean_log, batch.weight).sum(0))
        return bounds, counts

    def _backward_of_draws(self, batch, n_samples, start):
        """The step of a Gibbs sweep over the tokens of rows; see ``backward``."""
        counts, note = start, None
        if counts is None:
            with threads_for_torch():
                counts = self._solve(batch)
        elif self.takes_notes:
            counts, note = start
        of_rows, of_words, bounds, note = self.draws.sweep(
            batch, self.alpha, counts, self._drawn_topics, note
        )
        gradient = self.gradient(self.draws.counts)
        gradient.sub_(of_words.T.to(gradient), alpha=n_samples)
        of_prior = self.gradient(self.mean_log_proportions)
        if "alpha" in self.learnt:
            of_prior.sub_(sum_of_mean_logs(self.alpha, of_rows, batch.weight))
        counts = of_rows.to(gradient)
        return bounds, (counts, note) if self.takes_notes else counts

    @torch.no_grad()
    def after_step(self):
        # A step that over-relaxes may leave fewer than none.
        self.topic_counts.clamp_min_(0)
        if "alpha" in self.learnt:
            mean_log = self.mean_log_proportions.double().cpu().numpy()
            learnt = dirichlet(mean_log, start=self.alpha.double().cpu().numpy())
            self.alpha.copy_(torch.from_numpy(learnt))
        if self.draws is not None:
            self.draws.end_sweep(self.topic_counts)
            # A prior is learnt from the averages.
            self.refresh()
        if "eta" in self.learnt:
            mean_log = self.topics.mean_log().mean(dtype=torch.float64).item()
            self.eta.fill_(symmetric_dirichlet(mean_log, self.topic_counts.shape[1]))
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self.topics = Topics(self.topic_counts.detach(), self.eta)
        vars(self).pop("_drawn_topics", None)
        self._rows = Admixture(self.topics, self.alpha, is_collapsed=self.is_collapsed)

    @cached_property
    def _drawn_topics(self):
        """The topics of the next sweep."""
        return self.draws.topics(self.eta, self.alpha)

    def _solve(self, batch, start=None, is_collapsed=None):
        """Expected counts of the topics in each row, from ``start`` or from none."""
        options = self._options()
        return self._rows.solve(batch, start, is_collapsed=is_collapsed, **options)

    def _options(self):
        """When the iteration of a row ends."""
        options = ending(self)
        if "alpha" in self.learnt and not self.is_collapsed:
            # Rows short of their ends are too even, and so would be the prior.
            options["max_steps"] = max(options["max_steps"], STEPS_OF_PRIOR)
        return options

    def _joined(self, local):
        """Expected counts in rows, from those in each half of a row if there are."""
        return sum(local.chunk(2, 1)) if self.is_crossed else local


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
