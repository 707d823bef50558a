"""The estimator of topics that change over time; ``module.py`` has the model."""

import math
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.arrays import fitted_dtype
from skdeepfactor._estimator.conjugate import INPUT_SCALE
from skdeepfactor._estimator.environment import memory
from skdeepfactor._estimator.slices import (
    checked_like,
    n_slices,
    positions,
    times_and_gaps,
)
from skdeepfactor._estimator.timed import TimedTopicModel
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.starts import FEW_ROWS, check_init, initial_counts
from skdeepfactor.models.dynamic_topic_model.module import DynamicTopics

# Arrays as large as all paths, while a model is trained.
N_COPIES = 6


class DynamicTopicModel(TimedTopicModel):
    r"""Dynamic topic model: topics whose words change over time.

    Rows come with ``times``, whose distinct values, or intervals of them
    (``n_slices``), are slices. From slice to slice the logarithms of a topic's words
    take a Gaussian random walk, ``w_kt ~ N(w_k,t-1, chain_variance * gap)``, ``beta_kt
    = softmax(w_kt)``; rows are mixed from the topics of their slice as in latent
    Dirichlet allocation. A slice thus learns from its neighbours, most of all the
    nearest, and may have few rows or none. Without times, or with a variance of 0, it
    is :class:`LatentDirichletAllocation`. Paths are estimated by their most probable
    values, by Kalman smoothers for all words at once. Sparse data stay sparse.

    Parameters
    ----------
    n_components : int, default=10
        Number of topics K.
    chain_variance : float or "auto", default="auto"
        Variance of a logarithm's step between neighbouring slices at the median
        distance; at other distances it is proportional to them. ``"auto"`` chooses,
        before training, the value that predicts held-out rows best.
    n_slices : int, default=None
        Number of intervals of equal length to divide time into; empty ones are dropped.
        None for a slice for each distinct time.
    doc_topic_prior : float, array-like of shape (n_components,) or "auto", default=0.03
        Concentration of the Dirichlet over a document's topics. ``"auto"`` learns one
        for each topic.
    topic_word_prior : float or array-like, default=0.05
        Concentration of the Dirichlet over a topic's words. One number, one for each
        word (n_features,), or one for each topic and word (n_components, n_features),
        where large entries plant seed words. With several slices, this many counts of
        each word are spread evenly over them.
    inference : {"collapsed", "mean_field"}, default="collapsed"
        How counts are shared among topics. ``"mean_field"``: by the exponentials of
        expected logarithms, which is coordinate ascent on the bound. ``"collapsed"``:
        by expected counts; it predicts held-out words better, but the bound may fall.
        With both, ``score`` and ``perplexity`` are the mean-field bound.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average. Scores are those of the scaled data. 1.0 takes all data
        as they are.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. All slices start
        with the same topics; if there are several, a few passes follow that keep these
        topics the same.
    max_iter : int, default=12
        Passes over the data. A few are enough for held-out scores; the bound itself
        keeps rising slowly.
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
        The average topics: the mean over slices of each topic's distribution over
        words. Rows sum to 1. Read-only, like all fitted arrays: change a copy.
    topics_over_time_ : ndarray of shape (n_slices, n_components, n_features)
        The topics of each slice; rows sum to 1.
    prevalence_ : ndarray of shape (n_slices, n_components)
        Share of each topic in the words of each slice; rows sum to 1, or are 0 in a
        slice without words.
    times_ : ndarray of shape (n_slices,)
        The time of each slice: the distinct times in order, or the middles of the
        intervals. Dates are ``datetime64[us]`` in UTC; empty without times.
    chain_variance_ : float
        The variance of the walk, chosen or given.
    doc_topic_prior_ : ndarray of shape (n_components,)
        The prior of the proportions, learnt or given.
    lower_bound_ : float
        Bound on the log joint density of the training data and the paths in nats, up to
        a constant, with rows as the last pass left them. Collapsed updates do not
        maximise this bound, which may fall a little from pass to pass.
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
    "1999-05-17T10:30". Times with a zone are converted to UTC; if one time of day has a
    zone, all must have one.

    In ``transform`` and the scores, ``times=None`` means the average topics,
    ``components_``. The same holds for ``X_val``; ``validation_fraction`` holds rows
    out with their times. Times between slices belong to the nearest slice, and so do
    times before the first or after the last training row, with a warning;
    :meth:`forecast` predicts the topics of these.

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
        **TimedTopicModel._parameter_constraints,
        "chain_variance": [
            Interval(Real, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
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

    def forecast(self, times: ArrayLike) -> np.ndarray:
        r"""Predict the topics of any times, such as the next slice.

        After the last slice (or before the first) topics lie between those of that
        slice and their mean over slices. A topic keeps a share of its distance from the
        mean, which shrinks with the time from the slice. Over the distance of one
        slice, it is the share that would have forecast the last training slice best
        from the earlier ones; it is 1 if fewer than three slices have words. Between
        slices paths are interpolated.

        Parameters
        ----------
        times : array-like of shape (n_times,)
            Times of the same kind as in ``fit``.

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

    def _check_sizes(self, sizes, n_bytes):
        # Paths must not need more memory than the machine has.
        shape = n_slices(sizes["slices"]), self.n_components, sizes["n_features"]
        needed, there = N_COPIES * n_bytes * math.prod(shape), memory()
        if there is not None and needed > there:
            raise ValueError(
                f"Paths of {shape[1]} topics in {shape[0]} slices over {shape[2]} "
                f"features take {needed / 2**30:.3g} GiB in training, more than the "
                f"{there / 2**30:.3g} GiB of this machine: divide time into fewer "
                "slices with n_slices, or drop rare features."
            )

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
