r"""Sparse gamma deep exponential families: layers of gamma factors under counts.

Rows n, layers l = 1 (at the data) to L (top), layer l with :math:`K_l` units:

.. math::
    z_{nL,k} \sim \text{Gamma}(a_L, b_L), \qquad
    z_{nl,k} \sim \text{Gamma}\big(a_l, a_l / \mu_{nlk}\big), \quad
    \mu_{nl} = z_{n,l+1} W_l, \qquad
    x_{nv} \sim \text{Poisson}\big((z_{n1} W_0)_v\big),

with weights :math:`W_{l,jk} \sim \text{Gamma}(c, d)`. Shapes far below 1 make factors
and weights sparse. Every upper unit is a group of units below it.

With ``link="rate"`` layers give rates,

.. math::
    z_{nl,k} \sim \text{Gamma}(a_l, \mu_{nlk}).

Counts may be binary data, P(x = 1) = 1 - exp(-(z W)_v), or real numbers, x ~ N((z W)_v,
sigma^2). With ``weight_prior="spike_slab"`` the prior of :math:`W_l` is a mixture of
two gammas, :math:`\pi_l\, \text{Gamma}(c, d) + (1 - \pi_l)\, \text{Gamma}(1, d')`, the
second a narrow one.

Data given z W are in ``emissions.py``, and layers given those above in ``links.py``;
the solvers in closed form in ``closed.py`` and ``lowest_weights.py``, for a few rows at
a time in ``rows.py``, and their final bound in ``drawn_bound.py`` and
``lognormals.py``; and the solver by gradients, for other families of posteriors and
with networks that give them, in ``gradient.py`` and ``families.py``.

Ranganath, Tang, Charlin and Blei (2015), Deep exponential families; Naesseth, Ruiz,
Linderman and Blei (2017), Reparameterization gradients through acceptance-rejection
sampling algorithms, for the setting; Hoffman, Blei and Cook (2010), Bayesian
nonparametric matrix factorization for recorded music, for the generalized inverse
Gaussian.
"""

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.arrays import to_numpy
from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.conjugate import INPUT_SCALE, ConjugateFactorModel
from skdeepfactor._estimator.domains import Binary, Counts, RealNumbers
from skdeepfactor._estimator.layers import (
    checked_layer_sizes,
    transformed_layers,
    warn_of_wider_layers,
)
from skdeepfactor._input import received
from skdeepfactor._math.allocation import (
    entry_shares,
    expected_counts,
    shares_of_counts,
)
from skdeepfactor.models.sparse_gamma_def.closed import AUXILIARY, EXPANSION
from skdeepfactor.models.sparse_gamma_def.emissions import EMISSIONS
from skdeepfactor.models.sparse_gamma_def.families import FAMILIES
from skdeepfactor.models.sparse_gamma_def.gradient import GRADIENT
from skdeepfactor.models.sparse_gamma_def.links import LINKS
from skdeepfactor.models.sparse_gamma_def.parts import LowestStart

# Solvers by name.
PARTS = {"expansion": EXPANSION, "auxiliary": AUXILIARY, "gradient": GRADIENT}

# Which X each likelihood is of.
DOMAINS = {"poisson": Counts(), "gaussian": RealNumbers(), "bernoulli": Binary()}


def _has_sources(estimator):
    """Whether data are sums of what units contribute; the error says why not."""
    if not estimator._domain.is_non_negative:
        raise AttributeError(
            "topic_assignments needs counts or binary data, which are from units; "
            "real numbers are not."
        )
    return True


def _row_shares(module, batch):
    """Shares of the lowest units in each row, (n_rows, k)."""
    z, w = module.features(batch, [0]), module.components().T.contiguous()
    return shares_of_counts(expected_counts(batch.x, z, w))


def _word_shares(module, batch):
    """Shares of the lowest units in each entry, (n_entries, k)."""
    return entry_shares(batch.x, module.features(batch, [0]), module.components().T)


class SparseGammaDEF(ConjugateFactorModel):
    r"""Sparse gamma deep exponential family: factors of factors of data.

    Layers of gamma factors, each the mean of the one below through sparse gamma
    weights: ``z_l ~ Gamma(a_l, a_l / (z_{l+1} W_l))``, ``x ~ Poisson(z_1 W_0)``. With
    one layer, this is Poisson factorization. Sparse data stay sparse.

    Parameters
    ----------
    layer_sizes : tuple of int, default=(100, 40, 15)
        Units of each layer, from the one at the data to the top.
    likelihood : {"poisson", "gaussian", "bernoulli"}, default="poisson"
        Distribution of the data given the factors. ``"poisson"``: counts.
        ``"bernoulli"``: zeros and ones, with ``P(x = 1) = 1 - exp(-z_1 W_0)``.
        ``"gaussian"``: real numbers, ``x ~ N(z_1 W_0, sigma^2)``; what is negative is
        noise. Bring real numbers to a scale of about 1 to 100: the rates of the priors
        are fixed, and far larger numbers are all taken for noise.
    link : {"mean", "rate"}, default="mean"
        What a layer gives the one below it: the mean, or the rate, ``z_l ~ Gamma(a_l,
        z_{l+1} W_l)``.
    layer_shape : float or sequence of float, default=0.1
        Shape of the prior of the units: one number, or one for each layer.
    top_rate : float, default=0.1
        Rate of the prior of the units of the top layer.
    weight_prior : {"gamma", "spike_slab"}, default="gamma"
        Prior of the weights. ``"spike_slab"``: with a probability that is learnt for
        each layer, gamma (a slab), else exponential with a hundredth of the slab's mean
        (a spike). It is for a ``weight_shape`` of 1 or 2, since gammas of much smaller
        shapes are all but spikes themselves. Needs ``solver="gradient"``, or, for
        counts and binary data, ``"auxiliary"``, which has spikes in the lowest layer.
    weight_shape : float, default=0.1
        Shape of the prior of the weights. Far below 1, weights are sparse.
    weight_rate : float, default=0.3
        Rate of the prior of the weights.
    solver : {"expansion", "auxiliary", "gradient"}, default="expansion"
        ``"expansion"`` expands the likelihood to second order, which finds a far better
        bound; ``"auxiliary"`` climbs a closed-form bound, which rises in every full
        step. With ``likelihood="gaussian"`` both have the same bound, and
        ``"expansion"`` takes longer steps. ``"gradient"`` follows reparameterised
        gradients, after a hundred passes of closed forms for the lowest layer (unless
        it has spikes): slower, and for any ``family``. Each solver ignores parameters
        that it does not use: ``"gradient"`` ignores ``tol``, ``n_iter_no_change``,
        ``inner_tol``, ``over_relaxation``, ``acceleration``, ``learning_offset`` and
        ``learning_decay``; ``"auxiliary"`` ignores ``over_relaxation`` and
        ``acceleration``; and both closed forms ignore ``family``, ``encoder_layers``
        and ``learning_rate``.
    covariance_type : {"diag", "full"}, default="diag"
        Posteriors of the lower bound with ``solver="expansion"``; ignored otherwise.
        ``"diag"``: all units and weights are independent. ``"full"``: as a last step,
        the large weights of each feature, and the large lowest units of each row, get
        correlated log-normals of the same means, which take some seconds and usually
        find a tighter ``lower_bound_``. All other attributes and methods stay as they
        are.
    family : {"gamma", "lognormal", "weibull"}, default="gamma"
        Posteriors of units and weights with ``solver="gradient"``; ignored otherwise.
    amortized : bool, default=False
        Whether a network gives the posteriors of rows, as differences from where ten
        rounds of sharing out the counts lead; needs ``solver="gradient"``. If not, each
        row has a posterior of its own, and those of new rows are refined step by step.
    encoder_layers : tuple of int, default=(200,)
        Hidden layers of the inference network. Ignored unless ``amortized``.
    missing_values : {"error", "ignore"}, default="error"
        What NaN in dense data is. ``"ignore"``: an entry that was not observed, and is
        left out of the likelihood; ``inverse_transform`` says what may be there.
        ``"error"``: a mistake. An inference network sees the feature's mean.
    learning_rate : float, default=0.05
        Step size of Adam at first. For ``solver="gradient"`` only; it falls to 0 over
        ``max_iter`` passes, whatever ``tol``; the network learns at a twentieth of it.
    over_relaxation : float, default=1.4
        Power of the steps of ``"expansion"``; 1 for plain ones.
    acceleration : int, default=5
        How many earlier passes the steps of ``"expansion"`` on all rows are
        extrapolated from; 0 for none. Each takes twice the memory of the lowest layer's
        units, of all rows, and weights. If units and weights are more than four million
        numbers, nothing is extrapolated.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average. Scores are those of the scaled data, and
        ``inverse_transform`` is on the scale of X. 1.0 takes all data as they are. Real
        numbers and binary data are never scaled.
    init : {"parts", "kmeans", "random"} or array-like, default="parts"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. ``"parts"``: from
        clusters of the features. Layers above the lowest start from clusters of the
        units below them.
    transform_layer : int or "all", default=1
        The layer whose units ``transform`` gives, 1 at the data; ``inverse_transform``
        takes those of layer 1.
    max_iter : int, default=1000
        Passes over the data.
    tol : float or None, default=1e-6
        Relative gain of the bound below which training ends, unless one row makes up
        most of it and the others still change: over one pass where steps on all rows
        should raise the bound, else over ``n_iter_no_change`` passes. Gradient steps
        are too large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    max_inner_iter : int, default=5
        Steps on the factors of each row in a pass. With ``solver="expansion"`` only
        rows that a pass starts anew take more than one. ``transform`` continues until
        ``inner_tol``. With ``solver="gradient"`` rows that start anew, and those of
        ``transform``, take ten times as many, whatever ``inner_tol``.
    inner_tol : float, default=1e-4
        Relative change of a row's parameters below which that row is done. Where a pass
        takes up to eight steps on rows, they are all taken.
    n_cold_iter : int, default=None
        How many of the first passes start rows anew instead of where they stopped. More
        of them find a higher bound from a poor start; the bound may fall during them.
        None for 1, or up to 20 (half of ``max_iter`` at most) with ``init="random"``.
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
    n_iter_no_change : int, default=10
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
    components_ : ndarray of shape (layer_sizes[0], n_features)
        Posterior mean of the weights of the lowest layer.
        Read-only, like all fitted arrays: change a copy.
    weights_ : list of ndarray
        Posterior means of the weights of all layers: ``components_``, then those from
        each layer to the one below, (layer_sizes[l + 1], layer_sizes[l]).
    sparsity_ : ndarray of shape (n_layers,)
        For each array of ``weights_``, the share of its entries that are below 1 % of
        the largest entry of their column, the weights of one unit or feature below.
    inclusion_probabilities_ : list of ndarray
        With ``weight_prior="spike_slab"``, the posterior probability that a weight
        belongs to the slab, for each array of ``weights_``, with ``solver="auxiliary"``
        for the lowest alone; else None.
    noise_variance_ : float
        ``sigma^2`` with ``likelihood="gaussian"``, else None.
    lower_bound_ : float
        Bound of the training data in nats, the divergence of the weights included: the
        mean of 50 draws, of 20 with ``solver="gradient"``; in closed form with
        ``"auxiliary"``, with rows as the last pass left them, unless there are batches
        or rows held out.
    lower_bound_std_error_ : float
        Its standard error over the draws; 0 in closed form.
    input_scale_ : float
        Factor by which X is multiplied; 1.0 if the training data were integers.
    history_ : dict of lists
        ``lower_bound`` (an estimate to second order with ``solver="expansion"``),
        ``seconds`` and, with early stopping, ``validation_score``, for each pass. Its
        bound is that before its steps. The estimate falls in passes whose extrapolation
        is then taken back.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int or float
        Number of rows that training has seen, or the sum of their weights if given.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the data had names.

    Warns
    -----
    UserWarning
        In ``fit``, if a layer is larger than the one below it.

    See Also
    --------
    PoissonFactorization : One layer of factors; faster.

    References
    ----------
    Ranganath, R., Tang, L., Charlin, L. and Blei, D. (2015). Deep exponential families.
    AISTATS 18.

    Examples
    --------
    >>> from skdeepfactor import SparseGammaDEF
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = SparseGammaDEF((6, 3), max_iter=50, random_state=0).fit(X)
    >>> model.transform(X).shape
    (200, 6)
    >>> [weights.shape for weights in model.weights_]
    [(6, 50), (3, 6)]
    """

    _parameter_constraints: ClassVar[dict] = {
        **{
            name: constraint
            for name, constraint in ConjugateFactorModel._parameter_constraints.items()
            if name != "n_components"
        },
        "layer_sizes": ["array-like"],
        "likelihood": [StrOptions(set(EMISSIONS))],
        "link": [StrOptions(set(LINKS))],
        "layer_shape": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "top_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_prior": [StrOptions({"gamma", "spike_slab"})],
        "weight_shape": [Interval(Real, 0, None, closed="neither")],
        "weight_rate": [Interval(Real, 0, None, closed="neither")],
        "solver": [StrOptions(set(PARTS))],
        "covariance_type": [StrOptions({"diag", "full"})],
        "family": [StrOptions(set(FAMILIES))],
        "amortized": ["boolean"],
        "encoder_layers": [tuple, list],
        "missing_values": [StrOptions({"error", "ignore"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "over_relaxation": [Interval(Real, 1, 2, closed="left")],
        "acceleration": [Interval(Integral, 0, None, closed="left")],
        "input_scale": INPUT_SCALE,
        "init": [StrOptions({"parts", "kmeans", "random"}), "array-like"],
        "transform_layer": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"all"}),
        ],
    }

    def __init__(
        self,
        layer_sizes: Sequence[int] = (100, 40, 15),
        *,
        likelihood: str = "poisson",
        link: str = "mean",
        layer_shape: float | Sequence[float] = 0.1,
        top_rate: float = 0.1,
        weight_prior: str = "gamma",
        weight_shape: float = 0.1,
        weight_rate: float = 0.3,
        solver: str = "expansion",
        covariance_type: str = "diag",
        family: str = "gamma",
        amortized: bool = False,
        encoder_layers: Sequence[int] = (200,),
        missing_values: str = "error",
        learning_rate: float = 0.05,
        over_relaxation: float = 1.4,
        acceleration: int = 5,
        input_scale: float | str = "auto",
        init: str | ArrayLike = "parts",
        transform_layer: int | str = 1,
        max_iter: int = 1000,
        tol: float = 1e-6,
        max_inner_iter: int = 5,
        inner_tol: float = 1e-4,
        n_cold_iter: int | None = None,
        batch_size: int | None = None,
        learning_offset: float = 10.0,
        learning_decay: float = 0.7,
        validation_fraction: float | None = None,
        n_iter_no_change: int = 10,
        n_init: int = 1,
        n_jobs: int | None = None,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.layer_sizes = layer_sizes
        self.likelihood = likelihood
        self.link = link
        self.layer_shape = layer_shape
        self.top_rate = top_rate
        self.weight_prior = weight_prior
        self.weight_shape = weight_shape
        self.weight_rate = weight_rate
        self.solver = solver
        self.covariance_type = covariance_type
        self.family = family
        self.amortized = amortized
        self.encoder_layers = encoder_layers
        self.missing_values = missing_values
        self.learning_rate = learning_rate
        self.over_relaxation = over_relaxation
        self.acceleration = acceleration
        self.input_scale = input_scale
        self.init = init
        self.transform_layer = transform_layer
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

    _kept_parameters = (
        "layer_sizes",
        "likelihood",
        "link",
        "family",
        "weight_prior",
    )

    @property
    def _domain(self):
        return DOMAINS[self.likelihood]

    @property
    def _part(self):
        """The solver; the only use of the parameter ``solver``."""
        return PARTS[self.solver]

    @property
    def _takes_weights(self):
        return self._part.takes_weights

    def _check_takes_weights(self, sample_weight):
        if sample_weight is not None and not self._takes_weights:
            raise ValueError(
                "sample_weight needs a solver in closed form, 'expansion' or "
                f"'auxiliary', got solver={self.solver!r}."
            )

    def _plan(self, module, budget):
        return self._part.plan(self, module, budget)

    @property
    def _n_features_out(self):
        sizes = self._fitted_with["layer_sizes"]
        return sum(sizes[layer] for layer in self._transformed_layers())

    @property
    def _shows_components(self):
        return self._transformed_layers() == [0]

    def _transformed_layers(self):
        n_layers = len(self._fitted_with["layer_sizes"])
        return transformed_layers(self.transform_layer, n_layers)

    def transform(
        self, X: Any, *, out: str | os.PathLike[str] | None = None
    ) -> np.ndarray:
        """Infer the units of each row.

        The model is not changed. The units of a row depend on that row alone.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` file to write the units to as they come, for more rows than
            memory has room for.

        Returns
        -------
        ndarray of shape (n_samples, n_units)
            The posterior mean of the units of ``transform_layer``; for "all", the
            layers side by side, the lowest first. Float64 for float64 data, else
            float32. With ``out``, a read-only map of the file.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> model.set_params(transform_layer="all").transform(X).shape
        (4, 3)
        """
        check_is_fitted(self)
        layers = self._transformed_layers()
        return self._infer(X, lambda module, batch: module.features(batch, layers), out)

    @available_if(_has_sources)
    def topic_assignments(self, X: Any, *, by: str = "row") -> np.ndarray:
        """Infer which units of the lowest layer the counts of each row are from.

        Unit k contributes ``z_k w_kv`` to what is expected of feature v, of which these
        are the shares at the posterior means. Not for ``likelihood="gaussian"``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        by : {"row", "word"}, default="row"
            Whether to average over the words of each row, or to give the probabilities
            of each word.

        Returns
        -------
        ndarray of shape (n_samples, n_units) or (n_entries, n_units)
            Rows sum to 1; rows of X without words are 0. By word, there is one row for
            each entry of X that is not 0, in the order of
            ``scipy.sparse.csr_matrix(X).nonzero()``: row by row, and from the first
            feature to the last.

        See Also
        --------
        transform : The units, whose scale is arbitrary.
        skdeepfactor.plotting.DocumentDisplay : A text with its words marked by topic.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> shares = model.topic_assignments([[2, 0, 2, 0]], by="word")
        >>> first, second = shares.argmax(axis=1)
        >>> bool(first != second)
        True
        """
        return assignments(self, X, by, _row_shares, _word_shares)

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: int | np.random.RandomState | None = None,
    ) -> Any:
        """Draw rows from the model, from the top layer down.

        Units of the top layer are drawn from their prior, those of each other layer
        given the layer above.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix or ndarray of shape (n_samples, n_features)
            Drawn with the posterior mean of the weights; CSR for counts.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import SparseGammaDEF
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = SparseGammaDEF((2, 1), max_iter=20, random_state=0).fit(X)
        >>> model.sample(3, random_state=0).shape
        (3, 4)
        """
        return self._sample(n_samples, None, random_state)

    def _build(self, sizes):
        n_features = sizes["n_features"]
        sizes = checked_layer_sizes(self.layer_sizes, self.transform_layer)
        shapes = np.asarray(received(self.layer_shape), dtype=np.float64)
        if shapes.shape not in ((), (len(sizes),)) or not (
            np.isfinite(shapes).all() and (shapes > 0).all()
        ):
            raise ValueError(
                "layer_shape must be a positive number, or one for each of the "
                f"{len(sizes)} layers, got {self.layer_shape!r}."
            )
        shapes = np.broadcast_to(shapes, (len(sizes),)).tolist()
        return self._part.build(self, n_features, sizes, shapes)

    def _initialize(self, module, start):
        sizes = module.layer_sizes
        warn_of_wider_layers(sizes)
        lowest = LowestStart.of(
            start,
            self.init,
            sizes[0],
            may_miss=self._may_miss,
            is_non_negative=self._domain.is_non_negative,
        )
        self._part.initialize(self, module, lowest)

    def _fitted(self, module):
        weights, inclusion = module.weights(), module.inclusion_probabilities()
        weights = [to_numpy(w) for w in weights]
        return {
            "weights_": weights,
            "sparsity_": np.array([(w < 0.01 * w.max(axis=0)).mean() for w in weights]),
            "lower_bound_std_error_": module.lower_bound_std_error,
            "inclusion_probabilities_": None
            if inclusion is None
            else [to_numpy(of_layer) for of_layer in inclusion],
            "noise_variance_": module.noise_variance(),
        }
