"""The estimator of topics that change over time; ``module.py`` has the model."""

import math
import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.arrays import fitted_dtype
from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import INPUT_SCALE, ConjugateFactorModel
from skdeepfactor._estimator.environment import memory
from skdeepfactor._estimator.side import given
from skdeepfactor._estimator.slices import (
    checked_like,
    first_times,
    joined_slice_sizes,
    known_slices,
    n_slices,
    positions,
    resized_slices,
    slice_sizes,
    times_and_gaps,
)
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import FEW_ROWS, check_init, initial_counts
from skdeepfactor._training.progress import with_callbacks
from skdeepfactor.data import is_streamed
from skdeepfactor.models.dynamic_topic_model.module import DynamicTopics

# Arrays as large as all paths, while a model is trained.
N_COPIES = 6


class DynamicTopicModel(ConjugateFactorModel):
    r"""Dynamic topic model: topics whose words change over time.

    Rows come with ``times``, whose distinct values, or intervals of them
    (``n_slices``), are slices. From slice to slice the logarithms of a topic's words
    take a Gaussian random walk, ``w_kt ~ N(w_k,t-1, chain_variance * gap)``, ``beta_kt
    = softmax(w_kt)``; rows are mixed from the topics of their slice as in latent
    Dirichlet allocation. A slice thus learns from its neighbours, the nearest most, and
    slices with few rows or none are no problem. Without times, or with a variance of 0,
    it is :class:`LatentDirichletAllocation`. Paths are estimated by their most probable
    values, by Kalman smoothers for all words at once. Sparse data stay sparse.

    Parameters
    ----------
    n_components : int, default=10
        Number of topics K.
    chain_variance : float or "auto", default="auto"
        Variance of a logarithm's step between neighbouring slices at the median
        distance; in proportion to the distance at others. ``"auto"`` chooses it before
        training as the one by which rows held out are predicted best.
    n_slices : int, default=None
        Number of intervals of equal length to divide time into; empty ones are dropped.
        None for a slice for each distinct time.
    doc_topic_prior : float, array-like of shape (n_components,) or "auto", default=0.03
        Concentration of the Dirichlet over a document's topics. ``"auto"`` learns one
        for each topic.
    topic_word_prior : float or array-like, default=0.05
        Concentration of the Dirichlet over a topic's words. One number, one for each
        word (n_features,), or one for each topic and word (n_components, n_features),
        where large entries plant seed words. With several slices, so many counts of
        each word are spread evenly over them.
    inference : {"collapsed", "mean_field"}, default="collapsed"
        How counts are shared among topics. ``"mean_field"``: by the exponentials of
        expected logarithms, which is coordinate ascent on the bound. ``"collapsed"``:
        by expected counts; it predicts held-out words better, but the bound may fall.
        With both, ``score`` and ``perplexity`` are the mean-field bound.
    input_scale : "auto" or float, default="auto"
        By what X is multiplied. ``"auto"``: 1 if the training data are integers; of
        other numbers, such as tf-idf, one over the mean of those that are not 0, so
        that an entry counts one on average. Scores are those of the scaled data. 1.0
        takes all data as they are.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. All slices start
        alike; if there are several, a few passes follow in which they stay so.
    max_iter : int, default=12
        Passes over the data. A few are enough for held-out scores; the bound itself
        goes on rising slowly.
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
        The topics on average: the mean over slices of each one's distribution over
        words, rows sum to 1.
        Read-only, like all fitted arrays: change a copy.
    topics_over_time_ : ndarray of shape (n_slices, n_components, n_features)
        The topics of each slice; rows sum to 1.
    prevalence_ : ndarray of shape (n_slices, n_components)
        Share of each topic in the words of each slice; rows sum to 1, or are 0 in a
        slice without words.
    times_ : ndarray of shape (n_slices,)
        The time of each slice: the distinct times in order, or the middles of the
        intervals. Dates are ``datetime64[us]`` in UTC; empty without times.
    chain_variance_ : float
        The variance of the walk, found or given.
    doc_topic_prior_ : ndarray of shape (n_components,)
        The prior of the proportions, learnt or given.
    lower_bound_ : float
        Bound on the log joint density of the training data and the paths in nats, up to
        a constant, with rows as the last pass left them.
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
    LatentDirichletAllocation : Topics that do not change.
    CorrelatedTopicModel : Topics that are more or less frequent over time, or with
        other covariates, and whose words stay the same.
    skdeepfactor.inspection.topic_evolution : Words that come and go in a topic.
    skdeepfactor.inspection.topics_over_time : Slices of a model that has no times.

    Notes
    -----
    ``times`` are an array of shape (n_samples,), in any order: numbers, datetimes of
    NumPy, pandas or Python, or strings in ISO format such as "1999", "1999-05" or
    "1999-05-17T10:30". Those with a time zone are converted to UTC; if one has a time
    zone, all times of day have.

    In ``transform`` and the scores, ``times=None`` means the topics as they are on
    average, ``components_``. So it does for ``X_val``; ``validation_fraction`` holds
    rows out with their times. Other times than those of the slices belong to the
    nearest one; if they are before the first or after the last training row, a warning
    says so, and :meth:`forecast` tells more.

    Training takes some six arrays of (n_slices, n_components, n_features) numbers, in
    float32 if the data are not float64.

    References
    ----------
    Blei, D. and Lafferty, J. (2006). Dynamic topic models. ICML 23.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor import DynamicTopicModel
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> years = 2000 + np.arange(200) % 5
    >>> model = DynamicTopicModel(3, random_state=0).fit(X, times=years)
    >>> model.topics_over_time_.shape
    (5, 3, 50)
    >>> model.transform(X, times=years).shape
    (200, 3)
    >>> model.forecast([2005]).shape
    (1, 3, 50)
    """

    _parameter_constraints: ClassVar[dict] = {
        "input_scale": INPUT_SCALE,
        **ConjugateFactorModel._parameter_constraints,
        "chain_variance": [
            Interval(Real, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "n_slices": [Interval(Integral, 1, None, closed="left"), None],
        "doc_topic_prior": [
            Interval(Real, 0, None, closed="neither"),
            "array-like",
            StrOptions({"auto"}),
        ],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "inference": [StrOptions({"mean_field", "collapsed"})],
    }

    _kept_parameters = ("n_components", "n_slices", "chain_variance")

    def __init__(
        self,
        n_components: int = 10,
        *,
        chain_variance: float | str = "auto",
        n_slices: int | None = None,
        doc_topic_prior: float | str | ArrayLike = 0.03,
        topic_word_prior: float | ArrayLike = 0.05,
        inference: str = "collapsed",
        input_scale: float | str = "auto",
        init: str | ArrayLike = "kmeans",
        max_iter: int = 12,
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
        self.chain_variance = chain_variance
        self.n_slices = n_slices
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

    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        times: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        X_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 1,
        sharded: bool = False,
    ) -> Self:
        """Fit the topics and their paths to the rows of X.

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
            arrays of h5py, zarr and dask are read; ``times`` are those of all rows.
        y : None
            Ignored; here for scikit-learn's API.
        times : array-like of shape (n_samples,), default=None
            The time of each row, numbers or dates, in any order; see the notes of the
            class. None for topics that do not change.
        sample_weight : array-like of shape (n_samples,), default=None
            How often each row counts; once if None. A weight of 2 is the same as a row
            that is there twice, 0 as one that is not, and fractions lie between. What
            is drawn for rows is the same on average: batches, rows held out and the
            20,000 rows that a longer stream starts from (all uniformly, whatever the
            weights).
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows to watch for early stopping, in place of ``validation_fraction``; each
            counts once. They are scored with the topics as they are on average.
        checkpoint : path-like, default=None
            File for the state of training. If it exists, training resumes from it: the
            same call, made again after the process has died, ends as if it had not.
            With several processes each writes its own, with its rank appended.
        checkpoint_every : int or float, default=1
            Number of passes between two writes; a float is seconds, at least.
        sharded : bool, default=False
            Whether each process has rows of its own in X (and times, X_val and
            sample_weight), instead of taking its share of rows that all of them have.

        Returns
        -------
        object
            The fitted estimator. Its arrays are read-only, since quantities derived
            from them would not follow a change.

        Raises
        ------
        ValueError
            If the data, the times, the weights or a parameter are invalid, or the
            checkpoint is damaged or belongs to another fit. The estimator is then left
            unchanged.
        KeyboardInterrupt
            On an interrupt. The estimator then keeps the parameters after the last
            complete pass. Before the first, or if a warm fit has fallen below its
            beginning, it is left unchanged.

        See Also
        --------
        partial_fit : Steps on data that arrive in chunks.
        forecast : Topics at other times.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0)
        >>> model.fit(X, times=[1990, 2020, 1995, 2015]).topics_over_time_.shape
        (4, 2, 4)
        """
        return self._fit(
            X,
            _told(times, sample_weight),
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
        times: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        total_samples: float | None = None,
    ) -> Self:
        """Take stochastic steps on the rows of X, as one chunk of a stream.

        The first rows decide where topics start. Until there have been 100 distinct
        ones, or 300 in all, rows are kept (in pickles too), and each call starts the
        model anew from all of them, as if they had come at once. Later calls continue
        from it, and rows are forgotten after their step, so a stream may be larger than
        memory. The slices are those of the rows that were kept, which should therefore
        be of all times; later rows belong to the nearest of them. With
        ``init="random"`` or an array, those of the first call decide.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Counts, or other non-negative numbers. More rows than ``batch_size`` make
            several steps.
        y : None
            Ignored; here for scikit-learn's API.
        times : array-like of shape (n_samples,), default=None
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
            If the data, the times, the weights or a parameter are invalid. The
            estimator is then left unchanged.

        See Also
        --------
        fit : Passes over data that are all available.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0)
        >>> for chunk in (X[:2], X[2:]):
        ...     model = model.partial_fit(chunk, total_samples=4)
        >>> model.n_samples_seen_
        4
        """
        is_kept = vars(self).get("_first_rows") is not None
        is_start = is_kept or not self.__sklearn_is_fitted__()
        return self._partial_fit(
            X,
            _told(times, sample_weight, is_start=is_start),
            total_samples=total_samples,
            sample_weight=sample_weight,
        )

    def fit_transform(
        self,
        X: Any,
        y: Any = None,
        *,
        times: ArrayLike | None = None,
        **fit_params: Any,
    ) -> np.ndarray:
        """Fit the model, and infer the proportions of the same rows.

        Both steps get the times.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : None
            Ignored; here for scikit-learn's API.
        times : array-like of shape (n_samples,), default=None
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
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> DynamicTopicModel(2, random_state=0).fit_transform(X).shape
        (4, 2)
        """
        if times is not None and is_streamed(X):
            raise ValueError(
                "fit_transform cannot take times with data in blocks: call fit, "
                "and transform one block at a time."
            )
        self.fit(X, y, times=times, **fit_params)
        return self.transform(X, times=times)

    def transform(
        self,
        X: Any,
        *,
        times: ArrayLike | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> np.ndarray:
        """Infer the proportions of the topics in each row.

        Their posterior mean given the words of the row and the topics of its slice. The
        proportions of a row depend on that row alone.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the topics as they are on average.
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
            If X does not have the columns of that of ``fit``, times are not of the kind
            of those of ``fit``, or the model was fitted without times.

        Warns
        -----
        UserWarning
            If times are outside of those of the training rows.

        See Also
        --------
        inverse_transform : Expected shares of words given proportions.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> years = [1990, 2020, 1995, 2015]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X, times=years)
        >>> model.transform([[1, 1, 0, 0]], times=[2000]).shape
        (1, 2)
        """
        return self._infer(
            X,
            lambda module, batch: module.posterior(batch).mean,
            out,
            given(times=times),
        )

    def topic_assignments(
        self, X: Any, *, by: str = "row", times: ArrayLike | None = None
    ) -> np.ndarray:
        """Infer which topics the words of each row are from.

        Where ``transform`` gives the posterior mean of a row's proportions, which
        leans towards the prior, this is the posterior of its words' own topics.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        by : {"row", "word"}, default="row"
            Whether to average over the words of each row, or to give the probabilities
            of each word.
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the topics as they are on average.

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
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> shares = model.topic_assignments([[1, 0, 1, 0]], by="word")
        >>> bool(shares[0].argmax() == model.components_[:, 0].argmax())
        True
        """
        return assignments(
            self,
            X,
            by,
            DynamicTopics.row_shares,
            DynamicTopics.word_shares,
            given(times=times),
        )

    def inverse_transform(
        self, Z: Any, *, times: ArrayLike | None = None
    ) -> np.ndarray:
        """Expected shares of words given proportions of the topics.

        They are mixtures of the topics of a slice, or of ``components_``.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Proportions, as ``transform`` gives them.
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the topics as they are on average.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            E[x | z]; rows sum to 1.

        See Also
        --------
        transform : The proportions of rows.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> model.inverse_transform(model.transform(X)).shape
        (4, 4)
        """
        return self._expected(Z, given(times=times))

    def score_samples(self, X: Any, *, times: ArrayLike | None = None) -> np.ndarray:
        """Evidence lower bound of each row, in nats.

        A low bound means that the row is improbable under the topics of its time.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the topics as they are on average.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Lower bounds on log p(x | beta); the density of the paths is left out, so
            that a row's bound depends on that row alone.

        See Also
        --------
        score : The mean over rows.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> model.score_samples(X).shape
        (4,)
        """
        return self._infer(
            X,
            lambda module, batch: module.elbo(batch),
            side=given(times=times),
        )

    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        times: ArrayLike | None = None,
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
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the topics as they are on average.
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
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> bool(model.score(X) == model.score_samples(X).mean())
        True
        """
        return self._mean_score(X, metric, sample_weight, times=times)

    def perplexity(
        self,
        X: Any,
        *,
        times: ArrayLike | None = None,
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
        times : array-like of shape (n_samples,), default=None
            The times of these rows; None for the topics as they are on average.
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
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> 1 < model.perplexity(X) < 4
        True
        """
        return self._perplexity(X, average, sample_weight, given(times=times))

    def forecast(self, times: ArrayLike) -> np.ndarray:
        r"""Predict the topics of any times, such as the next slice.

        After the last slice (or before the first) topics lie between those of that
        slice and their mean over slices. A topic keeps a share of its distance to the
        mean, the smaller the farther away: over the distance of one slice the share by
        which the last training slice would have been best forecast from the earlier
        ones; all of it, if fewer than three slices have words. Between slices paths are
        interpolated.

        Parameters
        ----------
        times : array-like of shape (n_times,)
            Of the kind of those of ``fit``.

        Returns
        -------
        ndarray of shape (n_times, n_components, n_features)
            The topics; rows sum to 1.

        Raises
        ------
        ValueError
            If the model was fitted without times, or these are of another kind, missing
            or not finite.

        See Also
        --------
        topics_over_time_ : The topics of the slices.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0)
        >>> model = model.fit(X, times=["2021", "2021", "2022", "2023"])
        >>> model.forecast(["2024", "2030"]).shape
        (2, 2, 4)
        """
        check_is_fitted(self)
        sizes = self._fitted_sizes["slices"]
        times = checked_like(times, None, sizes)
        places, middles = (positions(part, sizes) for part in (times, sizes["middles"]))

        def found(module):
            topics = module.topics_at(places, middles, module.share_kept())
            return topics.cpu().numpy()

        topics = self._ask(self._load(fitted_dtype(self), torch.device("cpu")), found)
        return topics.astype(self.components_.dtype)

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw documents from the model.

        Proportions are drawn from their prior, and words from the mixed topics as they
        are on average.

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
            Counts, from the topics on average.

        See Also
        --------
        inverse_transform : Expected shares of words given proportions.

        Examples
        --------
        >>> from skdeepfactor import DynamicTopicModel
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = DynamicTopicModel(2, random_state=0).fit(X)
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    def _sizes(self, rows, y):
        slices = None
        if y is not None:
            slices = slice_sizes(rows, y["times"], self.n_slices, y["sample_weight"])
        sizes = {**super()._sizes(rows, y), "slices": slices}
        if rows.share.is_sharded:
            # Slices follow from the times of all processes.
            return {**sizes, "n_bytes": rows.dtype.itemsize}
        self._check_memory(sizes, rows.dtype.itemsize)
        return sizes

    def _sizes_of_all(self, sizes):
        slices = joined_slice_sizes([own["slices"] for own in sizes], self.n_slices)
        n_bytes = max(own["n_bytes"] for own in sizes)
        joined = {**super()._sizes_of_all(sizes), "slices": slices}
        del joined["n_bytes"]
        self._check_memory(joined, n_bytes)
        return joined

    def _check_memory(self, sizes, n_bytes):
        """Raise a ``ValueError`` if the paths need more memory than the machine has."""
        shape = n_slices(sizes["slices"]), self.n_components, sizes["n_features"]
        needed, there = N_COPIES * n_bytes * math.prod(shape), memory()
        if there is not None and needed > there:
            raise ValueError(
                f"Paths of {shape[1]} topics in {shape[0]} slices over {shape[2]} "
                f"features take {needed / 2**30:.3g} GiB in training, more than the "
                f"{there / 2**30:.3g} GiB of this machine: divide time into fewer "
                "slices with n_slices, or drop rare features."
            )

    def _known_of_rows(self, rows, y, sizes):
        slices = sizes["slices"]
        if y is not None:
            known = first_times if y.get("is_start") else known_slices
            weights = y.get("sample_weight")
            return known(y["times"], rows.n_visible, slices, weights)
        if slices is not None:
            raise ValueError(
                "The model was fitted with times, so that training goes on with times "
                "only."
            )
        return {}

    def _resized(self, sizes, arrays):
        if sizes["slices"] is None:
            return sizes, arrays
        slices, known = resized_slices(arrays["time"], sizes["slices"], self.n_slices)
        sizes = {**sizes, "slices": slices}
        self._check_memory(sizes, n_bytes=4)
        return sizes, {**arrays, **known}

    def _build(self, sizes):
        n_features = sizes["n_features"]
        shape = (self.n_components, n_features)
        return DynamicTopics(
            shape,
            *times_and_gaps(sizes["slices"]),
            doc_topic_prior=check_prior(
                self.doc_topic_prior, "doc_topic_prior", shape[:1]
            ),
            topic_word_prior=check_prior(
                self.topic_word_prior, "topic_word_prior", (n_features,), shape
            ),
            chain_variance=self.chain_variance,
            is_collapsed=self.inference == "collapsed",
            inner_iter=self.max_inner_iter,
            tol=self.inner_tol,
        )

    def _initialize(self, module, start):
        # Topics start from X alone, in an order that times do not change.
        X, weights, _, random_state = start._replace(arrays={}).distinct()
        init = check_init(self.init, module.paths.shape[:0:-1])
        counts = initial_counts(
            X,
            self.n_components,
            init,
            random_state,
            weights,
            rows_per_component=FEW_ROWS,
        )
        # Rows of a slice are alike whatever their time is.
        arrays = {n: array for n, array in start.arrays.items() if n != "time"}
        X, weights, arrays, _ = start._replace(arrays=arrays).distinct()
        numbers = arrays.get("slice", np.zeros((len(weights), 1), np.int64))[:, 0]
        module.start(counts, X, numbers, weights, random_state)

    def _fitted(self, module):
        counts = module.topic_counts.detach().sum(1, dtype=torch.float64)
        totals = counts.sum(1, keepdim=True)
        prevalence = counts / torch.where(totals > 0, totals, 1)
        return {
            "topics_over_time_": module.topics_over_time().cpu().numpy(),
            "prevalence_": prevalence.cpu().numpy(),
            "times_": module.times.copy(),
            "chain_variance_": float(module.chain_variance)
            if self.chain_variance == "auto"
            else float(self.chain_variance),
            "doc_topic_prior_": module.alpha.cpu().numpy().copy(),
        }


def _told(times, sample_weight, *, is_start=False):
    """Times of rows and their weights as side information; None without times.

    ``is_start`` says whether they are among the first rows of a stream.
    """
    if times is None:
        return None
    return {"times": times, "sample_weight": sample_weight, "is_start": is_start}
