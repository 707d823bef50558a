"""The estimator of mixtures of multinomials; ``module.py`` has the model."""

import dataclasses
import math
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import INIT, INPUT_SCALE, ClosedFormFactorModel
from skdeepfactor._estimator.merging import group_sums
from skdeepfactor._estimator.validation import checked_weights
from skdeepfactor._input import received
from skdeepfactor._math.starts import check_init, initial_counts
from skdeepfactor.models.multinomial_mixture.module import HELD, CategoricalMultinomial

# Passes over which the temperature falls to 1; at most half of all.
ANNEALED_PASSES = 15


def _has_likelihood(estimator):
    """Whether there is a maximised likelihood; the error says why not."""
    if estimator.inference != "em":
        raise AttributeError(
            "bic and aic are defined for point estimates: use inference='em', got "
            f"inference={estimator.inference!r}. With posteriors, choose the "
            "number of components by score."
        )
    return True


class MultinomialMixture(ClosedFormFactorModel):
    r"""Mixture of multinomials: clusters of count data, one component for each row.

    Row n is N_n words from the topic of one component, z_n: ``z_n ~ Categorical(pi)``,
    ``x_n ~ Multinomial(N_n, phi[z_n])``, with priors ``pi ~
    Dirichlet(weight_concentration)`` and ``phi_k ~ Dirichlet(topic_word_prior)``.
    :class:`LatentDirichletAllocation` mixes topics within a row; here each row has one,
    which suits short texts such as titles, queries and tweets. With
    ``inference="collapsed"`` ``n_components`` is an upper bound, and components that
    short texts do not need end up empty. Responsibilities are exact given the
    components, and take one step. For long rows they are close to 0 or 1 and
    overconfident, since the model takes words to be independent given the component.

    Parameters
    ----------
    n_components : int, default=10
        Number of components K; with ``inference="collapsed"``, at most.
    weight_concentration : float, default=0.1
        Concentration of the Dirichlet over the components, as many rows added to each.
    topic_word_prior : float, default=0.1
        Concentration of the Dirichlet over a topic's words. It adds as much to the
        count of each word in each component. Rows with few words in common are more
        willing to share a component where it is larger.
    inference : {"collapsed", "mean_field", "em"}, default="collapsed"
        How components are inferred. ``"collapsed"``: integrated out, each row judged by
        the others, as in the Gibbs sampler GSDMM but with expected counts. It finds the
        best clusters and empties components, but the bound may fall. ``"mean_field"``:
        variational Bayes, which climbs the bound. ``"em"``: point estimates, with the
        priors as pseudo-counts; the fastest, with ``bic`` and ``aic``.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average. Scores are those of the scaled data. 1.0 takes all data
        as they are; rows that hold few words in total then end up in few components.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. With
        ``inference="collapsed"`` at most half as many components as there are rows
        start with anything, unless an array is given.
    temperature : float, default=2.0
        Of ``inference="collapsed"`` only: by what the logits of responsibilities are
        divided in the first pass; 1 for nothing. It falls to 1 over 15 passes, or half
        of ``max_iter`` if that is less. On short texts soft first passes found fewer
        components, nearer to the true number.
    max_iter : int, default=50
        Passes over the data.
    tol : float or None, default=1e-4
        Relative gain of the bound below which training ends, unless one row makes up
        most of it and the others still change: over one pass where steps on all rows
        should raise the bound, else over ``n_iter_no_change`` passes. Gradient steps
        are too large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    batch_size : int, default=None
        Rows in a step; None for steps on all rows. These find better clusters: in steps
        on fewer rows nothing of a row is left out.
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
        Distribution over words of each component: the posterior mean, or the estimate
        of ``"em"``. Rows sum to 1; those of empty components are uniform.
    weights_ : ndarray of shape (n_components,)
        Shares of the components, which sum to 1: the posterior mean, or the estimate.
    n_active_components_ : int
        Number of components with at least half a row.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of weights and components
        included; for ``"em"``, the log likelihood plus the log priors without their
        constants. Collapsed inference has no bound in closed form: it is the mean-field
        one at the rows' responsibilities, as the last pass left them.
    input_scale_ : float
        Factor for X; 1.0 if the training data were integers.
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
    LatentDirichletAllocation : Several topics in each row.
    sklearn.mixture.GaussianMixture : Mixtures of real numbers.

    References
    ----------
    Nigam, K., McCallum, A., Thrun, S. and Mitchell, T. (2000). Text classification
    from labeled and unlabeled documents using EM. Machine Learning 39.

    Yin, J. and Wang, J. (2014). A Dirichlet multinomial mixture model-based approach
    for short text clustering. KDD 20.

    Examples
    --------
    >>> from skdeepfactor import MultinomialMixture
    >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
    >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
    >>> labels = mixture.predict(X)
    >>> bool(labels[0] == labels[2] != labels[1] == labels[3])
    True
    >>> mixture.weights_.round(2).tolist()
    [0.5, 0.5]
    """

    _parameter_constraints: ClassVar[dict] = {
        "input_scale": INPUT_SCALE,
        **ClosedFormFactorModel._parameter_constraints,
        "init": INIT,
        "weight_concentration": [Interval(Real, 0, None, closed="neither")],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither")],
        "inference": [StrOptions({"collapsed", "mean_field", "em"})],
        "temperature": [Interval(Real, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 10,
        *,
        weight_concentration: float = 0.1,
        topic_word_prior: float = 0.1,
        inference: str = "collapsed",
        input_scale: float | str = "auto",
        init: str | ArrayLike = "kmeans",
        temperature: float = 2.0,
        max_iter: int = 50,
        tol: float = 1e-4,
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
        self.weight_concentration = weight_concentration
        self.topic_word_prior = topic_word_prior
        self.inference = inference
        self.input_scale = input_scale
        self.init = init
        self.temperature = temperature
        self.max_iter = max_iter
        self.tol = tol
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

    def predict(self, X: Any) -> np.ndarray:
        """Most probable component of each row.

        A row without words has the component of the largest weight.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), int64
            Indices of components; the first of those that are equally probable.

        See Also
        --------
        transform : The probability of each component.
        fit_predict : Fit, and predict the components of the same rows.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
        >>> mixture.predict([[1, 1, 0, 0]]).shape
        (1,)
        """
        return self._infer(
            X, lambda module, batch: module.posterior(batch).probs.argmax(1)
        )

    def fit_predict(
        self, X: Any, y: Any = None, *, sample_weight: ArrayLike | None = None
    ) -> np.ndarray:
        """Fit the model to the rows of X, and give the component of each.

        The rows are treated like new ones: with ``inference="collapsed"``, the counts
        of a row are not removed from its component.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
            Counts, or other non-negative numbers.
        y : None
            Ignored; here for scikit-learn's API.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        ndarray of shape (n_samples,), int64
            Indices of components, equal to ``fit(X).predict(X)``.

        See Also
        --------
        predict : Components of other rows.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> labels = MultinomialMixture(2, random_state=0).fit_predict(X)
        >>> bool(labels[0] == labels[2] != labels[1] == labels[3])
        True
        """
        return self.fit(X, y, sample_weight=sample_weight).predict(X)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log predictive density of each row in nats: exact except for "mean_field".

        The density is that of words in order, given their number. With
        ``inference="collapsed"``, weights and components are integrated out under their
        posterior; with ``"em"``, they are estimates. With ``"mean_field"``, the value
        is a lower bound on E_q(W)[log p(x | W)].

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Log densities, or bounds. The value of a row depends on that row alone.

        See Also
        --------
        score : The mean over rows.

        Examples
        --------
        >>> import numpy as np
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
        >>> one_word = np.eye(4)
        >>> np.exp(mixture.score_samples(one_word)).sum().round(6).item()
        1.0
        """
        return super().score_samples(X)

    @available_if(_has_likelihood)
    def bic(self, X: Any, *, sample_weight: ArrayLike | None = None) -> float:
        """Bayesian information criterion of rows; smaller is better.

        Available for ``inference="em"``. Each of the K (V - 1) + K - 1 parameters costs
        log n.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            -2 log likelihood + n_parameters log(n_samples).

        See Also
        --------
        aic : With a constant cost per parameter.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, inference="em", random_state=0).fit(X)
        >>> bool(mixture.bic(X) > mixture.aic(X))
        False
        """
        weights, deviance = self._deviance(X, sample_weight)
        return deviance + self._n_parameters * math.log(weights.sum())

    @available_if(_has_likelihood)
    def aic(self, X: Any, *, sample_weight: ArrayLike | None = None) -> float:
        """Akaike information criterion of rows; smaller is better.

        Available for ``inference="em"``. Each of the K (V - 1) + K - 1 parameters costs
        2.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None.

        Returns
        -------
        float
            -2 log likelihood + 2 n_parameters.

        See Also
        --------
        bic : With a cost that rises with the number of rows.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, inference="em", random_state=0).fit(X)
        >>> bool(mixture.aic(X) > -2 * mixture.score_samples(X).sum())
        True
        """
        return self._deviance(X, sample_weight)[1] + 2 * self._n_parameters

    def topic_assignments(self, X: Any, *, by: str = "row") -> np.ndarray:
        """Infer which component the words of each row are from.

        All words of a row are from its one component, and have the probabilities that
        ``transform`` gives for the row.

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
        transform : The same for rows; in one without words, the shares of the prior.
        skdeepfactor.plotting.DocumentDisplay : A text with its words marked by topic.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
        >>> mixture.topic_assignments([[3, 2, 0, 0], [0, 0, 2, 1]], by="word").shape
        (4, 2)
        """
        return assignments(self, X, by)

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw rows from the model.

        A component is drawn for each row, and words from its topic.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each; by default drawn from the lengths of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts, from the posterior mean, or the estimate, of weights and components.

        See Also
        --------
        inverse_transform : Expected shares of words given responsibilities.

        Examples
        --------
        >>> from skdeepfactor import MultinomialMixture
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 0, 2, 2]]
        >>> mixture = MultinomialMixture(2, random_state=0).fit(X)
        >>> drawn = mixture.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def __sklearn_tags__(self):
        """Tags for scikit-learn, including those of its own mixtures."""
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags

    @property
    def _n_parameters(self):
        n_components, n_features = self.components_.shape
        return n_components * (n_features - 1) + n_components - 1

    def _deviance(self, X, sample_weight):
        """Weights of rows, and -2 times their log likelihood, a float."""
        scores = self.score_samples(X)
        weights = checked_weights(sample_weight, len(scores))
        return weights, -2 * float(weights @ received(scores))

    def _n_annealed(self, n_passes):
        """Passes until the temperature is 1."""
        if self.inference != "collapsed" or self.temperature == 1 or n_passes is None:
            return 0
        return min(ANNEALED_PASSES, n_passes // 2)

    def _build(self, sizes):
        return CategoricalMultinomial(
            self.weight_concentration,
            self.topic_word_prior,
            shape=(self.n_components, sizes["n_features"]),
            inference=self.inference,
            temperature=self.temperature,
            annealed_share=self._n_annealed(self.max_iter) / self.max_iter,
        )

    def _initialize(self, module, start):
        X, weights, _, random_state = start.distinct()
        init = check_init(self.init, module.topic_counts.shape)
        n_rows, n_started = weights.sum(), self.n_components
        if self.inference == "collapsed" and isinstance(init, str):
            # A row that starts alone finds its component empty.
            n_started = min(n_started, math.ceil(n_rows / 2))
        counts = initial_counts(X, n_started, init, random_state, weights)
        module.topic_counts.data.zero_()[:n_started] = torch.from_numpy(counts)
        rows = max(n_rows / n_started, HELD)
        module.component_rows.data.zero_()[:n_started] = rows

    def _plan(self, module, budget):
        # A fitted model starts at its temperature.
        is_new = int(module.n_updates) == 0
        return dataclasses.replace(
            super()._plan(module, budget),
            n_warmup=self._n_annealed(budget.n_passes) if is_new else 0,
            # Stochastic steps have forgotten a row when it comes back.
            remembers=not budget.is_stochastic,
        )

    def _merged(self, module, groups):
        names = "topic_counts", "component_rows"
        sums = {
            name: group_sums(getattr(module, name).detach(), groups) for name in names
        }
        return {}, sums

    def _fitted(self, module):
        return {
            "weights_": module.weights().cpu().numpy(),
            "n_active_components_": int((module.component_rows >= HELD).sum()),
        }
