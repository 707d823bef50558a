"""The estimator of correlated topics; ``module.py`` has the model."""

import dataclasses
import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
import scipy.stats
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import INPUT_SCALE, ClosedFormFactorModel
from skdeepfactor._estimator.side import (
    covariate_sizes,
    given,
    joined_covariate_sizes,
    known_covariates,
    resized_covariates,
)
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import check_init, initial_counts, n_cold_passes
from skdeepfactor._training.progress import with_callbacks
from skdeepfactor.data import is_streamed
from skdeepfactor.models.correlated_topic_model.module import CorrelatedTopics


class CorrelatedTopicModel(ClosedFormFactorModel):
    r"""Correlated topic model: topics that occur together, or with covariates.

    The logarithms of a document's proportions are Gaussian: ``eta_n ~ N(mu_n, Sigma)``,
    ``theta_n = softmax(eta_n)``, ``x_n ~ Multinomial(N_n, theta_n @ beta)``, ``beta_k ~
    Dirichlet(topic_word_prior)``. Unlike in latent Dirichlet allocation, a topic may
    thus make others more or less likely, which the covariance Sigma says. With
    ``covariates``, such as the year or the source of a document, the mean is a
    regression on them, ``mu_n = intercept_ + coef_ @ c_n``: the model of topic
    prevalence of structural topic models, which :meth:`effect` shows with intervals.
    Posteriors are found by Laplace's approximation, topics and regression in closed
    form. Sparse data stay sparse.

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
        By how much the covariances are drawn to 0, in [0, 1]; of use with more topics
        than a few hundred documents can tell about. 1 is much like
        ``covariance_type="diag"``.
    input_scale : "auto" or float, default="auto"
        By what X is multiplied. ``"auto"``: 1 if the training data are integers; of
        other numbers, such as tf-idf, one over the mean of those that are not 0, so
        that an entry counts one on average. Scores are those of the scaled data. 1.0
        takes all data as they are.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. The start decides
        the quality more than anything else here.
    max_iter : int, default=24
        Passes over the data. The covariance changes more slowly than the topics, so
        that more of them still improve held-out scores a little.
    tol : float or None, default=1e-4
        Relative gain of the bound over ``n_iter_no_change`` passes below which training
        ends. Steps do not climb the bound, which may fall. None trains to ``max_iter``.
    max_inner_iter : int, default=2
        Steps on the factors of each row in a pass. Rows resume where they stopped a
        pass ago; ``transform`` goes on to the mode.
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
    components_ : ndarray of shape (n_components, n_features)
        The topics: the posterior mean of each one's distribution over words, rows sum
        to 1.
    topic_covariance_ : ndarray of shape (n_components, n_components)
        Covariance of the topics' logarithms, given covariates. If full, that of
        centred log ratios, ``log theta_k - mean(log theta)``: the softmax leaves a
        common shift of the logarithms open, and rows therefore sum to 0.
    topic_correlation_ : ndarray of shape (n_components, n_components)
        The same as correlations. Since proportions sum to 1, they are -1 / (K - 1) on
        average between topics that have nothing to do with each other and vary alike.
    coef_ : ndarray of shape (n_components, n_covariates)
        By how much the logarithms rise with a unit of each covariate; columns sum to
        0. No columns without covariates.
    intercept_ : ndarray of shape (n_components,)
        Means of the logarithms where all covariates are 0.
    topic_word_concentration_ : ndarray of shape (n_components, n_features)
        Parameters of the Dirichlet posterior of each topic.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of the topics included, with
        posteriors of independent logarithms: less than what ``score`` comes to.
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
    NeuralTopicDLGM : Gaussian factors that predict words better, but that cannot be
        read one at a time.
    skdeepfactor.inspection.topic_graph : Which topics go together.

    Notes
    -----
    ``covariates`` are an array of shape (n_samples, n_covariates), or (n_samples,) for
    a single one, or a data frame, of numbers; categories are coded by
    :class:`~sklearn.preprocessing.OneHotEncoder`. They are standardised inside, and a
    weak ridge, worth one row, makes collinear columns share an effect.

    In ``transform`` and the scores, ``covariates=None`` means the mean of the training
    rows. So it does for ``X_val``; ``validation_fraction`` holds rows out with their
    covariates.

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
        **ClosedFormFactorModel._parameter_constraints,
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
        max_iter: int = 24,
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

    @with_callbacks
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
        """Fit the topics, their covariance and the regression to the rows of X.

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
            arrays of h5py, zarr and dask are read; ``covariates`` are those of all
            rows.
        y : None
            Ignored; here for scikit-learn's API.
        covariates : array-like of shape (n_samples, n_covariates), default=None
            Numbers known of each row that its topics may depend on; see the notes of
            the class. None for none.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None. A weight of 2 is the same as a row
            that is there twice, 0 as one that is not, and fractions lie between. What
            is drawn for rows is the same on average: batches, rows held out and the
            20,000 rows that a longer stream starts from (all uniformly, whatever the
            weights).
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``; each
            counts once. They are scored at the mean of the training rows' covariates.
        checkpoint : path-like, default=None
            File for the state of training. If it exists, training resumes from it: the
            same call, made again after the process has died, ends as if it had not.
            With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and covariates, X_val and
            sample_weight), instead of taking its share of rows that all of them have.

        Returns
        -------
        object
            The fitted estimator. Its arrays are read-only, since quantities derived
            from them would not follow a change.

        Raises
        ------
        ValueError
            If the data, the covariates, the weights or a parameter are invalid, or the
            checkpoint is damaged or belongs to another fit. The estimator is then left
            unchanged.
        KeyboardInterrupt
            On an interrupt. The estimator then keeps the parameters after the last
            complete pass. Before the first, or if a warm fit has fallen below its
            beginning, it is left unchanged.

        See Also
        --------
        partial_fit : Steps on data that arrive in chunks.
        effect : What the covariates do.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0)
        >>> model.fit(X, covariates=[1990, 2020, 1995, 2015]).coef_.shape
        (2, 1)
        """
        return self._fit(
            X,
            _told(covariates, sample_weight),
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
        covariates: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        total_samples: float | None = None,
    ) -> Self:
        """Take stochastic steps on the rows of X, as one chunk of a stream.

        The first rows decide where topics start. Until there have been 100 distinct
        ones, or 300 in all, rows are kept (in pickles too), and each call starts the
        model anew from all of them, as if they had come at once. Later calls continue
        from it, and rows are forgotten after their step, so a stream may be larger than
        memory. Covariates are standardised by those of the rows that are kept.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. More rows than ``batch_size`` make
            several steps.
        y : None
            Ignored; here for scikit-learn's API.
        covariates : array-like of shape (n_samples, n_covariates), default=None
            As for ``fit``; for all chunks, or for none.
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
            If the data, the covariates, the weights or a parameter are invalid. The
            estimator is then left unchanged.

        See Also
        --------
        fit : Passes over data that are all available.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0)
        >>> for chunk in (X[:2], X[2:]):
        ...     model = model.partial_fit(chunk, total_samples=4)
        >>> model.n_samples_seen_
        4
        """
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

        Both steps get the covariates.

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
        if covariates is not None and is_streamed(X):
            raise ValueError(
                "fit_transform cannot take covariates with data in blocks: call fit, "
                "and transform one block at a time."
            )
        self.fit(X, y, covariates=covariates, **fit_params)
        return self.transform(X, covariates=covariates)

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
            If X or the covariates do not have the columns of those of ``fit``, or the
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
            lambda module, batch: module.mode(batch).softmax(1),
            out,
            given(covariates=covariates),
        )

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
        return assignments(
            self,
            X,
            by,
            CorrelatedTopics.row_shares,
            CorrelatedTopics.word_shares,
            given(covariates=covariates),
        )

    def inverse_transform(
        self, Z: Any, *, covariates: ArrayLike | None = None
    ) -> np.ndarray:
        """Expected shares of words given proportions of the topics.

        They are mixtures of the rows of ``components_``.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Proportions, as ``transform`` gives them.
        covariates : array-like of shape (n_samples, n_covariates), default=None
            Checked and not used, since words depend on covariates through the
            proportions alone; here so that all methods take the same.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            E[x | z] under the posterior mean of the topics; rows sum to 1.

        See Also
        --------
        transform : The proportions of rows.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X)
        >>> model.inverse_transform(model.transform(X)).shape
        (4, 4)
        """
        check_is_fitted(self)
        expected = super().inverse_transform(Z)
        if covariates is not None:
            sizes = self._fitted_sizes["covariates"]
            known_covariates(covariates, len(expected), sizes)
        return expected

    def score_samples(
        self, X: Any, *, covariates: ArrayLike | None = None
    ) -> np.ndarray:
        """Evidence lower bound of each row, in nats.

        The bound of a Gaussian posterior of the logarithms, with a full covariance, at
        their mode.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        covariates : array-like of shape (n_samples, n_covariates), default=None
            The covariates of these rows; the mean of the training rows if None.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Lower bounds on E_q(beta)[log p(x | c, beta)]; the divergence of the topics
            is left out, so that a row's bound depends on that row alone.

        See Also
        --------
        score : The mean over rows.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X)
        >>> model.score_samples(X).shape
        (4,)
        """
        return self._infer(
            X,
            lambda module, batch: module.elbo(batch),
            side=given(covariates=covariates),
        )

    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        covariates: ArrayLike | None = None,
        metric: str = "elbo",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean score per row; larger is better.

        Use rows that were not fitted to judge a model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        covariates : array-like of shape (n_samples, n_covariates), default=None
            The covariates of these rows; the mean of the training rows if None.
        metric : {"elbo", "neg_perplexity"}, default="elbo"
            The mean of ``score_samples(X)``, in nats, or minus ``perplexity(X)``.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; all alike if None.

        Returns
        -------
        float
            The mean bound in nats, or minus the perplexity.

        See Also
        --------
        score_samples : The bound of each row.
        skdeepfactor.metrics.completion_perplexity : Compares any models of counts.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X)
        >>> bool(model.score(X) == model.score_samples(X).mean())
        True
        """
        return self._mean_score(X, metric, sample_weight, covariates=covariates)

    def perplexity(
        self,
        X: Any,
        *,
        covariates: ArrayLike | None = None,
        average: str = "document",
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Perplexity of the counts, as words in order given their number.

        Guessing uniformly among V features has perplexity V. The value is computed from
        lower bounds, so the true perplexity is at most as large.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows without counts are left out.
        covariates : array-like of shape (n_samples, n_covariates), default=None
            The covariates of these rows; the mean of the training rows if None.
        average : {"document", "corpus"}, default="document"
            exp(-mean over rows of bound / count), as neural topic models report it, or
            exp(-sum of bounds / sum of counts), as papers on LDA do.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; all alike if None.

        Returns
        -------
        float
            An upper bound: perplexity at the lower bound of the log likelihood.

        Raises
        ------
        ValueError
            If no row has a count.

        See Also
        --------
        skdeepfactor.metrics.completion_perplexity : Without bounds, for any package.

        Examples
        --------
        >>> from skdeepfactor import CorrelatedTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = CorrelatedTopicModel(2, random_state=0).fit(X)
        >>> 1 < model.perplexity(X) < 4
        True
        """
        return self._perplexity(X, average, sample_weight, given(covariates=covariates))

    def effect(
        self,
        covariates: ArrayLike,
        *,
        baseline: ArrayLike | None = None,
        level: float = 0.9,
    ) -> Bunch:
        r"""Expected logarithms of the topics at some covariates, with intervals.

        Logarithms are those of ``coef_``: relative to their mean over topics. Of what
        is uncertain, the intervals account for the sampling of rows and for what their
        words leave open of the proportions; the topics are taken as they were found,
        and the regression as linear.

        Parameters
        ----------
        covariates : array-like of shape (n_points, n_covariates)
            Where to look; of a single covariate also (n_points,).
        baseline : array-like of shape (1 or n_points, n_covariates), default=None
            Covariates to compare with: the result is then by how much the logarithms
            change from there. None for the logarithms themselves.
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
            If the model was fitted without covariates, or these do not have the columns
            of those, or ``level`` is not between 0 and 1.

        See Also
        --------
        transform : The proportions of rows, which their words tell too.

        Notes
        -----
        With the design matrix C, the covariance of the coefficients is taken to be
        :math:`(C^T C)^{-1} \otimes \Sigma S^{-1} \Sigma`, where :math:`S` is the
        covariance of the modes around the regression: the inverse of the observed
        information if all rows say equally much. Topics are taken to be known, so that
        intervals are too narrow where rows are short or passes few. After
        ``partial_fit`` with ``total_samples`` they are those of as many rows.

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

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from their prior at the mean of the training rows'
        covariates, and words from the mixed topics.

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
                "The model was fitted with covariates, so that training goes on with "
                "covariates only."
            )
        return {}

    def _resized(self, sizes, arrays):
        if sizes["covariates"] is None:
            return sizes, arrays
        found, known = resized_covariates(arrays["covariates"], sizes["covariates"])
        return {**sizes, "covariates": found}, {**arrays, "covariates": known}

    def _build(self, sizes):
        n_features = sizes["n_features"]
        shape = (self.n_components, n_features)
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


def _told(covariates, sample_weight):
    """What is known of rows beside X, with their weights, if there are covariates."""
    if covariates is None:
        return None
    return {"covariates": covariates, "sample_weight": sample_weight}
