"""The estimator of correlated topics; ``module.py`` has the model."""

import dataclasses
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.conjugate import INIT, INPUT_SCALE
from skdeepfactor._estimator.covariates import CovariateTopicModel
from skdeepfactor._estimator.side import known_covariates
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import check_init, initial_counts, n_cold_passes
from skdeepfactor._math.topics import lda_counts
from skdeepfactor.models.correlated_topic_model.module import CorrelatedTopics

# Collapsed passes of LDA over the clusters that a fit starts from, and their prior.
START_PASSES, START_ALPHA = 1, 0.03


class CorrelatedTopicModel(CovariateTopicModel):
    r"""Correlated topic model: topics that occur together, or with covariates.

    The logarithms of a document's proportions are Gaussian: ``eta_n ~ N(mu_n, Sigma)``,
    ``theta_n = softmax(eta_n)``, ``x_n ~ Multinomial(N_n, theta_n @ beta)``, ``beta_k ~
    Dirichlet(topic_word_prior)``. Unlike in latent Dirichlet allocation, a topic may
    make others more or less likely, as the covariance Sigma says. With ``covariates``,
    such as the year or the source of a document, the mean is a regression on them,
    ``mu_n = intercept_ + coef_ @ c_n``: the model of topic prevalence of structural
    topic models, whose coefficients :meth:`effect` shows with intervals. Posteriors are
    found by Laplace's approximation, topics and regression in closed form. Sparse data
    stay sparse.

    Parameters
    ----------
    n_components : int, default=10
        Number of topics K.
    covariance_type : {"diag", "full"}, default="full"
        Kind of Sigma: with a covariance for each pair of topics, or with variances
        alone, as for topics that do not correlate.
    topic_word_prior : float or array-like, default=0.02
        Concentration of the Dirichlet over a topic's words. One number, one for each
        word (n_features,), or one for each topic and word (n_components, n_features),
        where large entries plant seed words.
    shrinkage : float, default=0.0
        How strongly covariances are shrunk towards 0, in [0, 1]; useful if documents
        are few for the number of topics. 1 is much like ``covariance_type="diag"``.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average. Scores are those of the scaled data. 1.0 takes all data
        as they are.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. For this model, the
        start decides the quality more than any other parameter.
    max_iter : int, default=16
        Passes over the data. The covariance changes more slowly than the topics, so
        that more of them still improve held-out scores a little.
    tol : float or None, default=1e-4
        Relative gain of the bound over ``n_iter_no_change`` passes below which training
        ends. The bound may fall. None trains to ``max_iter``.
    max_inner_iter : int, default=2
        Steps on the factors of each row in a pass. Rows resume where they stopped a
        pass ago; ``transform`` continues to the mode.
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
    components_ : ndarray of shape (n_components, n_features)
        The topics: the posterior mean of each topic's distribution over words. Rows sum
        to 1.
    topic_covariance_ : ndarray of shape (n_components, n_components)
        Covariance of the topics' logarithms, given covariates. If full, it is the
        covariance of centred log ratios, ``log theta_k - mean(log theta)``, since a
        common shift of the logarithms changes no proportion; rows therefore sum to 0.
    topic_correlation_ : ndarray of shape (n_components, n_components)
        ``topic_covariance_`` as correlations. Since proportions sum to 1, unrelated
        topics that vary alike have correlations of -1 / (K - 1), not 0.
    coef_ : ndarray of shape (n_components, n_covariates)
        Rise of the logarithms with a unit of each covariate; columns sum to 0. Without
        covariates it has no columns.
    intercept_ : ndarray of shape (n_components,)
        Means of the logarithms where all covariates are 0.
    topic_word_concentration_ : ndarray of shape (n_components, n_features)
        Parameters of the Dirichlet posterior of each topic.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of the topics included, with
        posteriors of independent logarithms, so it is lower than that of ``score``.
    input_scale_ : float
        Factor by which X is multiplied; 1.0 if the training data were integers.
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
    LatentDirichletAllocation : Topics that do not correlate.
    NeuralTopicDLGM : Gaussian factors that predict words better, but cannot be read one
        at a time.
    skdeepfactor.inspection.topic_graph : Which topics go together.

    Notes
    -----
    ``covariates`` are an array of shape (n_samples, n_covariates), or (n_samples,) for
    a single one, or a data frame, of numbers; categories are coded by
    :class:`~sklearn.preprocessing.OneHotEncoder`. They are standardised inside, and a
    weak ridge, worth one row, makes collinear columns share an effect.

    In ``transform`` and the scores, ``covariates=None`` means the mean of the training
    rows. So it does for ``X_val``; ``validation_fraction`` holds rows out with their
    covariates. Scores are bounds by Gaussian posteriors of the logarithms, with full
    covariances, around their modes.

    References
    ----------
    Blei, D. and Lafferty, J. (2007). A correlated topic model of science. Annals of
    Applied Statistics 1.

    Roberts, M., Stewart, B. and Airoldi, E. (2016). A model of text for experimentation
    in the social sciences. JASA 111.

    Wang, C. and Blei, D. (2013). Variational inference in nonconjugate models. JMLR 14.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor import CorrelatedTopicModel
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> years = np.arange(200) % 10
    >>> model = CorrelatedTopicModel(3, random_state=0).fit(X, covariates=years)
    >>> model.transform(X, covariates=years).shape
    (200, 3)
    >>> model.topic_correlation_.shape, model.coef_.shape
    ((3, 3), (3, 1))
    """

    _parameter_constraints: ClassVar[dict] = {
        "input_scale": INPUT_SCALE,
        **CovariateTopicModel._parameter_constraints,
        "init": INIT,
        "covariance_type": [StrOptions({"full", "diag"})],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "shrinkage": [Interval(Real, 0, 1, closed="both")],
        "max_inner_iter": [Interval(Integral, 1, None, closed="left")],
    }

    _kept_parameters = ("n_components", "covariance_type")

    def __init__(
        self,
        n_components: int = 10,
        *,
        covariance_type: str = "full",
        topic_word_prior: float | ArrayLike = 0.02,
        shrinkage: float = 0.0,
        input_scale: float | str = "auto",
        init: str | ArrayLike = "kmeans",
        max_iter: int = 16,
        tol: float = 1e-4,
        max_inner_iter: int = 2,
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
        self.covariance_type = covariance_type
        self.topic_word_prior = topic_word_prior
        self.shrinkage = shrinkage
        self.input_scale = input_scale
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.max_inner_iter = max_inner_iter
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

    def effect(
        self,
        covariates: ArrayLike,
        *,
        baseline: ArrayLike | None = None,
        level: float = 0.9,
    ) -> Bunch:
        r"""Expected logarithms of the topics at some covariates, with intervals.

        Logarithms are relative to their mean over topics, as in ``coef_``. The
        intervals account for the sampling of rows, and for the uncertainty of
        proportions given the words; topics are taken to be known, and the regression to
        be linear.

        Parameters
        ----------
        covariates : array-like of shape (n_points, n_covariates)
            Points at which to evaluate; for a single covariate also (n_points,).
        baseline : array-like of shape (1 or n_points, n_covariates), default=None
            Covariates to compare with: the result is then the change of the logarithms
            from there. None for the logarithms themselves.
        level : float, default=0.9
            Probability with which each interval is to hold the true value, in (0, 1).

        Returns
        -------
        Bunch
            With three arrays of shape (n_points, n_components): ``mean``, ``lower`` and
            ``upper``, the ends of the intervals.

        Raises
        ------
        ValueError
            If the model was fitted without covariates, `covariates` do not have the
            columns that ``fit`` saw, or ``level`` is not between 0 and 1.

        See Also
        --------
        transform : The proportions of rows, from their words too.

        Notes
        -----
        With the design matrix C, the covariance of the coefficients is taken to be
        :math:`(C^T C)^{-1} \otimes \Sigma S^{-1} \Sigma`, where :math:`S` is the
        covariance of the modes around the regression: the inverse of the observed
        information if all rows say equally much. Topics are taken to be known, so
        intervals are too narrow if rows are short or passes few. After ``partial_fit``
        with ``total_samples``, they are for that number of rows.

        Examples
        --------
        >>> import numpy as np
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = np.tile([[6, 5, 0, 1], [1, 0, 4, 5]], (20, 1))
        >>> is_new = np.tile([0, 1], 20)
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X, covariates=is_new)
        >>> found = model.effect([1], baseline=[0])
        >>> found.mean.shape
        (1, 2)
        >>> bool((found.lower < found.mean).all() and (found.mean < found.upper).all())
        True
        """
        check_is_fitted(self)
        if not isinstance(level, Real) or not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level!r}.")
        sizes = self._fitted_sizes["covariates"]
        known = known_covariates(covariates, None, sizes)
        points = np.column_stack([np.ones(len(known)), known])
        if baseline is not None:
            base = known_covariates(baseline, None, sizes, name="baseline")
            if len(base) not in (1, len(known)):
                raise ValueError(
                    f"baseline has {len(base)} rows, but covariates have {len(known)}."
                )
            points -= np.column_stack([np.ones(len(base)), base])

        def found(module):
            parts = module.coefficients, *module.spread_of_coefficients()
            return [part.double().cpu().numpy() for part in parts]

        coefficients, of_points, of_topics = self._ask(
            self._load(torch.float64, torch.device("cpu")), found
        )
        mean = points @ coefficients
        var = ((points @ of_points) * points).sum(axis=1)
        error = np.sqrt(np.outer(var, of_topics.diagonal()))
        error *= scipy.stats.norm.ppf(0.5 + level / 2)
        return Bunch(mean=mean, lower=mean - error, upper=mean + error)

    def _build(self, sizes):
        n_features = sizes["n_features"]
        # Tensors are not split by NumPy's ints, of which a grid of numbers has some.
        shape = (int(self.n_components), n_features)
        eta = check_prior(
            self.topic_word_prior, "topic_word_prior", (n_features,), shape
        )
        covariates = sizes["covariates"]
        location, scale = np.zeros(0), np.ones(0)
        if covariates is not None:
            location, scale = covariates["location"], covariates["scale"]
        return CorrelatedTopics(
            shape,
            location,
            scale,
            topic_word_prior=eta,
            is_full=self.covariance_type == "full",
            shrinkage=self.shrinkage,
            inner_iter=self.max_inner_iter,
        )

    def _initialize(self, module, start):
        # Topics start from X alone, in an order that covariates do not change.
        X, weights, _, random_state = start._replace(arrays={}).distinct()
        init = check_init(self.init, module.topic_counts.shape)
        counts = initial_counts(X, self.n_components, init, random_state, weights)
        if isinstance(init, str) and init == "kmeans":
            # Clusters are too pure to show which topics go together.
            alpha = torch.full((self.n_components,), START_ALPHA, dtype=torch.float64)
            counts = lda_counts(X, weights, counts, alpha, n_passes=START_PASSES)
        module.start(torch.from_numpy(counts), weights.sum())

    def _plan(self, module, budget):
        n_cold = n_cold_passes(None, self.init, self.max_iter, learns_shape=False)
        # Laplace's approximation is no step up the bound.
        plan = super()._plan(module, budget)
        return dataclasses.replace(plan, ascends=False, n_cold=n_cold)

    def _fitted(self, module):
        covariance = module.topic_covariance().cpu().numpy()
        variances = covariance.diagonal()
        roots = np.sqrt(np.where(variances > 0, variances, 1))
        correlation = covariance / np.outer(roots, roots)
        np.fill_diagonal(correlation, 1)
        coefficients = module.coefficients.double().cpu().numpy()
        slopes = coefficients[1:].T / module.scale
        return {
            "topic_covariance_": covariance,
            "topic_correlation_": correlation,
            # In units of the covariates, which float32 may have no room for.
            "coef_": slopes,
            "intercept_": coefficients[0] - slopes @ module.location,
            "topic_word_concentration_": module.topics.concentration().cpu().numpy(),
        }
