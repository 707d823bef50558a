"""The estimator of Poisson factorization; ``module.py`` has the model."""

import os
from numbers import Real
from typing import Any, ClassVar, Literal, overload

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import INPUT_SCALE, ConjugateFactorModel
from skdeepfactor._estimator.merging import (
    group_means,
    group_sums,
    mean_prior,
    summed_prior,
)
from skdeepfactor._input import is_whole
from skdeepfactor._math.gammas import check_prior
from skdeepfactor._math.ops import nonzero
from skdeepfactor._math.starts import (
    check_init,
    column_totals,
    imputed,
    initial_counts,
)
from skdeepfactor.models.poisson_factorization.module import GammaPoisson


class PoissonFactorization(ConjugateFactorModel):
    r"""Poisson factorization: non-negative, sparse factors of counts.

    ``x_nv ~ Poisson(sum_k z_nk w_kv)`` with ``z_nk ~ Gamma(factor_shape, factor_rate)``
    and ``w_kv ~ Gamma(weight_shape, weight_rate)``, fitted by mean-field variational
    Bayes: coordinate ascent over all rows, or stochastic steps with ``batch_size`` or
    ``partial_fit``. Sparse data stay sparse; the zeros cost nothing. Non-negative
    numbers other than counts are accepted too, by the same formulas.

    Parameters
    ----------
    n_components : int, default=10
        Number of factors K.
    factor_shape : float, array-like of shape (n_components,) or "auto", default=0.05
        Shape of the prior of the rows' factors; below 1, few are active in a row.
    factor_rate : float or "auto", default=1.0
        Rate of the prior of the rows' factors. ``"auto"`` learns it, which needs a
        number for ``weight_rate`` (factors and weights share one scale) or Dirichlet
        weights.
    weight_shape : float, array-like or "auto", default=0.05
        Shape of the prior of the weights. One number, or an array of shape
        (n_components, n_features), where large entries plant seed words. ``"auto"``
        learns one number.
    weight_rate : float or "auto", default="auto"
        Rate of the prior of the weights. ``"auto"`` learns it. Not used with
        ``weight_prior="dirichlet"``.
    weight_prior : {"gamma", "dirichlet"}, default="gamma"
        Prior of the weights. ``"dirichlet"``: those of each factor sum to 1 over the
        features, with concentration ``weight_shape``, so that factors are counts.
    hierarchical : bool, default=False
        Whether each row and each feature has a rate of its own, with priors
        Gamma(rate_shape, rate_shape / factor_rate) and Gamma(rate_shape, rate_shape /
        weight_rate): active listeners and popular songs. Needs gamma weights,
        ``exposure=None`` and a number for ``factor_rate``; ``weight_rate="auto"`` is 1.
    rate_shape : float, default=1.0
        Shape of the priors of these rates.
    exposure : {"total"} or None, default=None
        ``"total"`` multiplies each row's rates by its total over the mean total of the
        training rows, so that factors do not depend on length or depth.
    missing_values : {"error", "ignore"}, default="error"
        What NaN in dense data is. ``"ignore"``: an entry that was not observed, and is
        left out of the likelihood; ``inverse_transform`` says what may be there.
        ``"error"``: a mistake. Only with gamma weights and ``exposure=None``.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average. Scores are those of the scaled data, and
        ``inverse_transform`` is on the scale of X. 1.0 takes all data as they are.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. The start decides
        the quality more than anything else here.
    max_iter : int, default=10
        Passes over the data.
    tol : float or None, default=1e-4
        Relative gain of the bound below which training ends, unless one row makes up
        most of it and the others still change: over one pass where steps on all rows
        should raise the bound, else over ``n_iter_no_change`` passes. Gradient steps
        are too large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    max_inner_iter : int, default=5
        Steps on the factors of each row in a pass. Rows resume where they stopped a
        pass ago; ``transform`` continues until ``inner_tol``.
    inner_tol : float, default=1e-3
        Relative change of a row's parameters below which that row is done. Where a pass
        takes up to eight steps on rows, they are all taken.
    n_cold_iter : int, default=None
        How many of the first passes start rows anew instead of where they stopped. More
        of them find a higher bound from a poor start; the bound may fall during them.
        None for 1, or up to 20 (half of ``max_iter`` at most) with ``init="random"`` or
        a shape that is learnt, which settles in them.
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
        Posterior mean of the weights.
        Read-only, like all fitted arrays: change a copy.
    weight_concentration_ : ndarray of shape (n_components, n_features)
        Shapes of the posterior of the weights (Dirichlet parameters with a Dirichlet
        prior).
    weight_scale_ : ndarray of shape (n_components, 1) or (n_components, n_features)
        Inverse rates of the posterior of the weights; 1 / sums of the shapes with a
        Dirichlet prior. ``components_ = weight_concentration_ * weight_scale_``.
    factor_shape_, factor_rate_, weight_shape_, weight_rate_ : float or ndarray
        The priors, learnt or given.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of the weights included, with
        rows as the last pass left them.
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
    LatentDirichletAllocation : The same allocation of counts, given each row's total.
    sklearn.decomposition.NMF : Point estimates of the same factors.

    References
    ----------
    Cemgil, A. T. (2009). Bayesian inference for nonnegative matrix factorisation
    models. Computational Intelligence and Neuroscience.

    Gopalan, P., Hofman, J. and Blei, D. (2015). Scalable recommendation with
    hierarchical Poisson factorization. UAI 31.

    Examples
    --------
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.datasets import make_poisson_factors
    >>> X = make_poisson_factors(200, 50, 3, random_state=0).data
    >>> model = PoissonFactorization(3, random_state=0).fit(X)
    >>> model.transform(X).shape
    (200, 3)
    >>> model.recommend(X[:2], 3).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict] = {
        "input_scale": INPUT_SCALE,
        **ConjugateFactorModel._parameter_constraints,
        "factor_shape": [
            Interval(Real, 0, None, closed="neither"),
            "array-like",
            StrOptions({"auto"}),
        ],
        "factor_rate": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "weight_shape": [
            Interval(Real, 0, None, closed="neither"),
            "array-like",
            StrOptions({"auto"}),
        ],
        "weight_rate": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "weight_prior": [StrOptions({"gamma", "dirichlet"})],
        "hierarchical": ["boolean"],
        "rate_shape": [Interval(Real, 0, None, closed="neither")],
        "exposure": [StrOptions({"total"}), None],
        "missing_values": [StrOptions({"error", "ignore"})],
    }

    def __init__(
        self,
        n_components: int = 10,
        *,
        factor_shape: float | str | ArrayLike = 0.05,
        factor_rate: float | str = 1.0,
        weight_shape: float | str | ArrayLike = 0.05,
        weight_rate: float | str = "auto",
        weight_prior: str = "gamma",
        hierarchical: bool = False,
        rate_shape: float = 1.0,
        exposure: str | None = None,
        missing_values: str = "error",
        input_scale: float | str = "auto",
        init: str | ArrayLike = "kmeans",
        max_iter: int = 10,
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
        self.n_components = n_components
        self.factor_shape = factor_shape
        self.factor_rate = factor_rate
        self.weight_shape = weight_shape
        self.weight_rate = weight_rate
        self.weight_prior = weight_prior
        self.hierarchical = hierarchical
        self.rate_shape = rate_shape
        self.exposure = exposure
        self.missing_values = missing_values
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

    @overload
    def transform(
        self,
        X: Any,
        *,
        return_std: Literal[False] = False,
        out: str | os.PathLike[str] | None = None,
    ) -> np.ndarray: ...

    @overload
    def transform(
        self, X: Any, *, return_std: Literal[True], out: None = None
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def transform(
        self,
        X: Any,
        *,
        return_std: bool = False,
        out: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Infer the factors of each row.

        The model is not changed. The factors of a row depend on that row alone.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to give the posterior standard deviations too.
        out : path-like, default=None
            A ``.npy`` file to write the factors to as they come, for more rows than
            memory has room for; not with ``return_std``.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            The posterior mean of the factors, float64 for float64 data, else float32;
            with ``out``, a read-only map of the file.
        std : ndarray of shape (n_samples, n_components)
            Their standard deviations, if ``return_std``.

        See Also
        --------
        inverse_transform : Expected counts given factors.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> mean, std = model.transform(X, return_std=True)
        >>> mean.shape, std.shape
        ((4, 2), (4, 2))
        """
        if not return_std:
            return super().transform(X, out=out)
        if out is not None:
            raise ValueError("out takes the means alone; use return_std=False.")

        def moments(module, batch):
            q = module.posterior(batch)
            return torch.cat([q.mean, q.stddev], 1)

        mean, std = np.hsplit(self._infer(X, moments), 2)
        return mean, std

    def recommend(self, X: Any, n: int, *, exclude_seen: bool = True) -> np.ndarray:
        """Find the n features with the highest expected counts for each row.

        If rows are listeners and features songs, these are the songs to recommend.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            What each row has counted so far.
        n : int
            Number of features, at most ``n_features_in_``.
        exclude_seen : bool, default=True
            Whether to leave out features that the row has counted.

        Returns
        -------
        ndarray of shape (n_samples, n), int64
            Indices of features, best first; -1 where fewer than n are left.

        See Also
        --------
        inverse_transform : The expected counts of all features.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.recommend([[4, 0, 0, 0]], 1)
        array([[1]])
        """
        check_is_fitted(self)
        if not is_whole(n, 1) or n > self.n_features_in_:
            raise ValueError(
                f"n must be an int from 1 to {self.n_features_in_}, got {n!r}."
            )

        def best(module, batch):
            scores = module.decode(module.posterior(batch).mean)
            if exclude_seen:
                scores[nonzero(batch.x)] = -torch.inf
            top = scores.topk(n, 1)
            return torch.where(top.values == -torch.inf, -1, top.indices)

        return self._infer(X, best)

    def topic_assignments(self, X: Any, *, by: str = "row") -> np.ndarray:
        """Infer which factors the counts of each row are from.

        Each count is a sum of counts of the factors, whose expected shares these are.

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
        transform : The factors, whose scale is arbitrary.
        skdeepfactor.plotting.DocumentDisplay : A text with its words marked by topic.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.topic_assignments([[2, 0, 2, 0]]).round(2).tolist()
        [[0.5, 0.5]]
        >>> shares = model.topic_assignments([[2, 0, 2, 0]], by="word")
        >>> first, second = shares.argmax(axis=1)
        >>> bool(first != second)
        True
        """
        return assignments(self, X, by)

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw rows from the model.

        Factors are drawn from their prior, then counts given the factors.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts, from the posterior mean of the weights; with exposures, those of the
            training rows are used.

        See Also
        --------
        inverse_transform : Expected counts given factors.

        Examples
        --------
        >>> from skdeepfactor import PoissonFactorization
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonFactorization(2, random_state=0).fit(X)
        >>> model.sample(3, random_state=0).shape
        (3, 4)
        """
        return self._sample(n_samples, None, random_state)

    def _build(self, sizes):
        self._check_combinations()
        shape = (self.n_components, sizes["n_features"])
        has_unit_weights = self.weight_prior == "dirichlet"
        weight_rate = self.weight_rate
        if has_unit_weights or (self.hierarchical and weight_rate == "auto"):
            weight_rate = 1.0
        return GammaPoisson(
            shape=shape,
            factor_shape=check_prior(self.factor_shape, "factor_shape", shape[:1]),
            factor_rate=self.factor_rate,
            weight_shape=check_prior(self.weight_shape, "weight_shape", shape),
            weight_rate=weight_rate,
            has_unit_weights=has_unit_weights,
            rate_shape=self.rate_shape if self.hierarchical else None,
            has_exposure=self.exposure == "total",
            may_miss=self._may_miss,
            inner_iter=self.max_inner_iter,
            tol=self.inner_tol,
        )

    def _check_combinations(self):
        """Raise a ValueError if parameters contradict each other."""
        if self.hierarchical and self.exposure is not None:
            raise ValueError(
                "hierarchical=True and exposure='total' both explain the totals of "
                "rows; use one of them."
            )
        if self.hierarchical and self.weight_prior == "dirichlet":
            raise ValueError(
                "hierarchical=True gives features rates of their own, which weights "
                "that sum to 1 do not have; use weight_prior='gamma'."
            )
        if self._may_miss and self.exposure is not None:
            raise ValueError(
                "missing_values='ignore' leaves totals of rows unknown, which "
                "exposure='total' needs; use exposure=None."
            )
        if self._may_miss and self.weight_prior == "dirichlet":
            raise ValueError(
                "missing_values='ignore' needs weight_prior='gamma': weights that sum "
                "to 1 over all features have no closed form where some are missing."
            )
        if self.factor_rate != "auto":
            return
        if self.hierarchical:
            raise ValueError(
                "hierarchical=True learns a rate for each row; factor_rate, the mean "
                "of their prior, must be a number."
            )
        if self.weight_rate == "auto" and self.weight_prior == "gamma":
            raise ValueError(
                "factor_rate and weight_rate share one scale, so that only one of them "
                "can be 'auto'; give the other a number."
            )

    def _initialize(self, module, start):
        X, weights, _, random_state = start.distinct()
        X = imputed(X, weights) if self._may_miss else X
        init = check_init(self.init, module.weight_counts.shape)
        counts = initial_counts(X, self.n_components, init, random_state, weights)
        total, n_rows = counts.sum(), weights.sum()
        module.weight_counts.data.copy_(torch.from_numpy(counts))
        # Each factor as active as the prior has it, and weights to match the counts.
        mean = float((module.factor_shape / module.factor_rate).mean())
        module.weight_exposure.data.fill_(n_rows * mean)
        if "weight_rate" in module.learnt and total > 0:
            size = counts.size * float(module.weight_shape.mean())
            module.weight_rate.fill_(size * n_rows * mean / total)
        if self.exposure == "total" and total > 0:
            module.mean_total.fill_(column_totals(X, weights).sum() / n_rows)

    def _merged(self, module, groups):
        learnt = module.factor_shape.double().numpy()
        given = learnt if isinstance(self.factor_shape, str) else self.factor_shape
        shape = summed_prior(given, self.n_components, groups)
        parameters = {
            "factor_shape": shape,
            "weight_shape": mean_prior(self.weight_shape, groups),
        }
        if isinstance(self.factor_shape, str) and np.array_equal(shape, learnt):
            # Components were dropped, and none merged: it can be learnt further.
            parameters["factor_shape"] = self.factor_shape
        tensors = {
            "weight_counts": group_sums(module.weight_counts.detach(), groups),
            "weight_exposure": group_sums(module.weight_exposure.detach(), groups),
            "factor_shape": torch.tensor(shape),
        }
        if module.weight_shape.ndim == 2:
            tensors["weight_shape"] = group_means(module.weight_shape, groups)
        if module.is_hierarchical:
            tensors["feature_rate"] = module.feature_rate_of(
                tensors["weight_counts"],
                tensors["weight_exposure"],
                tensors.get("weight_shape", module.weight_shape),
            )
        dtype = module.weight_counts.dtype
        return parameters, {name: t.to(dtype) for name, t in tensors.items()}

    def _fitted(self, module):
        concentration, rate = module.weight_posterior()
        attributes = {
            "weight_concentration_": concentration.cpu().numpy(),
            "weight_scale_": 1 / rate.cpu().numpy(),
        }
        for name in ("factor_shape", "factor_rate", "weight_shape", "weight_rate"):
            prior = getattr(module, name).cpu().numpy().copy()
            attributes[f"{name}_"] = float(prior) if prior.ndim == 0 else prior
        return attributes
