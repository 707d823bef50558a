"""The estimator of Poisson-gamma belief networks; ``module.py`` has the model."""

import os
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._estimator.arrays import to_numpy
from skdeepfactor._estimator.assignments import assignments
from skdeepfactor._estimator.base import BaseFactorModel
from skdeepfactor._estimator.conjugate import INIT, INPUT_SCALE
from skdeepfactor._estimator.layers import (
    checked_layer_sizes,
    transformed_layers,
    warn_of_wider_layers,
)
from skdeepfactor._math.starts import check_init, initial_counts, initial_parts
from skdeepfactor._math.topics import lda_counts
from skdeepfactor._training.optimizers import NaturalGradient
from skdeepfactor._training.plan import TrainingPlan
from skdeepfactor.models.poisson_gamma_belief_network.module import PoissonGammaLayers

# Prior of the proportions of the topics that the lowest layer starts from, and passes.
START_ALPHA, START_PASSES = 0.03, 4


class PoissonGammaBeliefNetwork(BaseFactorModel):
    r"""Poisson-gamma belief network: a deep topic model, by Gibbs sampling.

    Layers of gamma units, each of which gives the *shapes* of the units below it:
    ``x ~ Poisson(theta_1 @ Phi_1)``, ``theta_t ~ Gamma(theta_{t+1} @ Phi_{t+1},
    c_{t+1})``, and at the top ``theta_T ~ Gamma(r, c_{T+1})``. Each unit is a
    distribution over those below it, the lowest over the features: topics, and topics
    of topics. With one layer, this is Poisson factorization with a gamma process prior.
    Sparse data stay sparse.

    Each pass is a Gibbs sweep, exact for whole counts. The sampler does not converge to
    a point: after a burn-in, it averages over sweeps. Numbers that are not whole are
    rounded at random, up with the probability of their fraction, by a draw that depends
    on the row alone: a row is always rounded in the same way, but float32 and float64
    may differ.

    Parameters
    ----------
    layer_sizes : tuple of int, default=(128, 64, 32)
        Units of each layer, from the one at the data to the top.
    topic_word_prior : float, default=0.05
        Concentration of the Dirichlet over a topic's words. It is also the
        concentration of the units of upper layers over the units below.
    input_scale : "auto" or float, default="auto"
        Factor for X. ``"auto"``: 1 if the training data are integers; of other numbers,
        such as tf-idf, one over the mean of those that are not 0, so that an entry
        counts one on average, before it is rounded. Scores are those of the rounded
        data.
    init : {"kmeans", "random"} or array-like, default="kmeans"
        Where the components start: from clusters of the rows, from random weights, or
        from an array of the shape of ``components_``, up to scale. Four passes of
        latent Dirichlet allocation improve them, unless an array is given. Layers above
        the lowest start from clusters of the units below them.
    transform_layer : int or "all", default=1
        The layer whose units ``transform`` gives, 1 at the data; ``inverse_transform``
        takes those of layer 1.
    max_iter : int, default=300
        Passes over the data. Each is a sweep of the sampler.
    n_burn_in : int, default=None
        How many of the first sweeps are left out of the averages; None for half of
        ``max_iter``. If training ends within them, the weights are those of the last
        sweep alone.
    n_draws : int, default=100
        Sweeps over each new row that ``transform``, ``score`` and similar methods
        average, after a quarter as many that they leave out, with all weights at their
        means. The time per row is proportional to it. No draws are kept, so memory does
        not depend on it.
    tol : float or None, default=None
        Relative gain of ``history_["lower_bound"]`` over ``n_iter_no_change`` sweeps
        below which training ends. None makes all sweeps, as a sampler should, whatever
        rows are held out.
    batch_size : int, default=None
        Rows in a step; None for steps on all rows. With batches, or ``partial_fit``,
        the sampler is not exact: each step moves averages of tokens towards those of
        its rows, by its step size, and draws weights given these averages.
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
        Whether ``fit`` resumes from the fitted parameters. The chain and the averages
        over its draws then continue. Rows fitted before resume too; they are kept in
        memory for that and not pickled.
    device : str, default="cpu"
        Where to compute: "cpu", "cuda", "cuda:1", "mps" or "auto".
    random_state : int, RandomState instance or None, default=None
        Seed of all random choices, such as the start and the order of rows.
    verbose : int, default=0
        Whether to show the bound after each pass.

    Attributes
    ----------
    components_ : ndarray of shape (layer_sizes[0], n_features)
        Posterior mean of the weights of the lowest layer; rows sum to 1.
        Read-only, like all fitted arrays: change a copy.
    weights_ : list of ndarray
        Posterior means of the weights of all layers: ``components_``, then the weights
        from each layer to the one below, (layer_sizes[t], layer_sizes[t - 1]). All rows
        sum to 1.
    top_shape_ : ndarray of shape (layer_sizes[-1],)
        Posterior mean of r, the shapes of the top units.
    n_active_ : ndarray of int, shape (n_layers,)
        Units of each layer that had a token in the last sweep.
    lower_bound_ : float
        Bound of the training data in nats, given the posterior means of the weights,
        whose own divergence from their prior is left out. It comes from ten sweeps over
        the rows after the last sweep of training.
    input_scale_ : float
        Factor by which X is multiplied; 1.0 if the training data were integers.
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with rows held out, ``validation_score``, for
        each sweep. Its ``lower_bound`` is not a bound, but the log likelihood of the
        data given the units and weights that the sweep has drawn; it shows whether the
        chain has settled.
    n_iter_ : int
        Number of sweeps.
    n_samples_seen_ : int
        Number of rows that training has seen.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the data had names.

    Warns
    -----
    UserWarning
        In ``fit``, if a layer is larger than the one below it.
    ConvergenceWarning
        In ``fit`` without ``warm_start``, if training ends within the burn-in.

    See Also
    --------
    SparseGammaDEF : Layers that give the mean of the one below, with a bound.
    LatentDirichletAllocation : One layer of topics, in seconds.
    skdeepfactor.inspection.hierarchy : Topics of topics in words.

    Notes
    -----
    Each step of ``partial_fit`` averages tokens that ten sweeps over the rows of its
    chunk draw. With ``warm_start`` averages continue, without another burn-in. Held-out
    rows are inferred after each sweep, which takes longer than the sweep itself, and
    the weights of the best sweep are kept.

    Entries of more than a thousand counts are split by binomial draws. If a unit has
    more than a thousand tokens in a row, the number of tables beyond the first thousand
    is drawn from a binomial distribution of the right mean and variance: the only step
    that is not exact.

    References
    ----------
    Zhou, M., Cong, Y. and Chen, B. (2016). Augmentable gamma belief networks. JMLR 17.

    Examples
    --------
    >>> from skdeepfactor import PoissonGammaBeliefNetwork
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = PoissonGammaBeliefNetwork((6, 3), max_iter=30, n_burn_in=15)
    >>> model.set_params(random_state=0).fit(X).transform(X).shape
    (200, 6)
    >>> [weights.shape for weights in model.weights_]
    [(6, 50), (3, 6)]
    """

    _parameter_constraints: ClassVar[dict] = {
        **{
            name: constraint
            for name, constraint in BaseFactorModel._parameter_constraints.items()
            if name != "n_components"
        },
        "layer_sizes": ["array-like"],
        "topic_word_prior": [Interval(Real, 0, None, closed="neither")],
        "input_scale": INPUT_SCALE,
        "init": INIT,
        "transform_layer": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"all"}),
        ],
        "n_burn_in": [Interval(Integral, 0, None, closed="left"), None],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "learning_offset": [Interval(Real, 0, None, closed="left")],
        "learning_decay": [Interval(Real, 0.5, 1, closed="right")],
    }

    def __init__(
        self,
        layer_sizes: Sequence[int] = (128, 64, 32),
        *,
        topic_word_prior: float = 0.05,
        input_scale: float | str = "auto",
        init: str | ArrayLike = "kmeans",
        transform_layer: int | str = 1,
        max_iter: int = 300,
        n_burn_in: int | None = None,
        n_draws: int = 100,
        tol: float | None = None,
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
        self.topic_word_prior = topic_word_prior
        self.input_scale = input_scale
        self.init = init
        self.transform_layer = transform_layer
        self.max_iter = max_iter
        self.n_burn_in = n_burn_in
        self.n_draws = n_draws
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

    _kept_parameters = ("layer_sizes",)

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

        The units of a row depend on that row alone: draws are a function of its
        content.

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
        >>> from skdeepfactor import PoissonGammaBeliefNetwork
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonGammaBeliefNetwork((2, 1), max_iter=20, random_state=0)
        >>> model.fit(X).set_params(transform_layer="all").transform(X).shape
        (4, 3)
        """
        check_is_fitted(self)
        layers = self._transformed_layers()
        return self._infer(X, lambda module, batch: module.features(batch, layers), out)

    def predictive(self, X: Any) -> np.ndarray:
        """Predict the next word of each row, given its words so far.

        These are the rows of ``inverse_transform(transform(X))``, of the lowest units,
        divided by their sums.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Rows sum to 1.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import PoissonGammaBeliefNetwork
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonGammaBeliefNetwork((2, 1), max_iter=20, random_state=0)
        >>> model.fit(X).predictive(X).sum(axis=1).round(3).tolist()
        [1.0, 1.0, 1.0, 1.0]
        """
        return self._infer(X, lambda module, batch: module.predictive(batch))

    def score_samples(self, X: Any) -> np.ndarray:
        """Evidence lower bound of each row, in nats, estimated without bias.

        The posterior of a row consists of gamma distributions of the units of each
        layer given the units above, with expected tokens from a chain and mean-field
        updates. The bound is the mean over 20 draws from it, which depend on the row
        alone; weights are fixed at their means.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Estimates of lower bounds on log p(x | Phi, r), with ``weights_`` and
            ``top_shape_`` in place of Phi and r.

        See Also
        --------
        score : The mean over rows.

        Examples
        --------
        >>> from skdeepfactor import PoissonGammaBeliefNetwork
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonGammaBeliefNetwork((2, 1), max_iter=20, random_state=0)
        >>> model.fit(X).score_samples(X).shape
        (4,)
        """
        return super().score_samples(X)

    def topic_assignments(self, X: Any, *, by: str = "row") -> np.ndarray:
        """Infer which units of the lowest layer the counts of each row are from.

        These are the shares of the units in the expected counts, at the posterior means
        of the units.

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
        transform : The posterior means of the units.
        skdeepfactor.plotting.DocumentDisplay : A text with its words marked by topic.

        Examples
        --------
        >>> from skdeepfactor import PoissonGammaBeliefNetwork
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonGammaBeliefNetwork((2, 1), max_iter=50, random_state=0)
        >>> shares = model.fit(X).topic_assignments([[2, 0, 2, 0]], by="word")
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
        """Draw rows from the model, from the top layer down.

        Totals of rows are given, since their prior is almost flat; the units of the
        layers are drawn from their prior.

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
            Counts, from the posterior mean of the weights.

        See Also
        --------
        inverse_transform : Expected counts given the units of the lowest layer.

        Examples
        --------
        >>> from skdeepfactor import PoissonGammaBeliefNetwork
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = PoissonGammaBeliefNetwork((2, 1), max_iter=20, random_state=0)
        >>> drawn = model.fit(X).sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    @property
    def _n_burn_in(self):
        return self.max_iter // 2 if self.n_burn_in is None else self.n_burn_in

    def _build(self, sizes):
        return PoissonGammaLayers(
            checked_layer_sizes(self.layer_sizes, self.transform_layer),
            sizes["n_features"],
            topic_word_prior=float(self.topic_word_prior),
            n_burn_in=self._n_burn_in,
            n_draws=self.n_draws,
        )

    def _initialize(self, module, start):
        sizes = module.layer_sizes
        warn_of_wider_layers(sizes)
        X, weights, _, random_state = start.distinct()
        init = check_init(self.init, tuple(module.mean_0.shape))
        counts = initial_counts(X, sizes[0], init, random_state, weights)
        if isinstance(init, str):
            alpha = torch.full((sizes[0],), START_ALPHA, dtype=torch.float64)
            counts = lda_counts(X, weights, counts, alpha, n_passes=START_PASSES)
        layers = [counts]
        column_sums = counts.sum(axis=0)
        activity = X @ (counts / np.where(column_sums > 0, column_sums, 1)).T
        for size in sizes[1:]:
            parts = initial_parts(activity, size, random_state, weights)
            # Half as many tokens as in the layer below, which has more than one to a
            # table.
            layers.append(0.25 * (parts + 1 / size) * layers[-1].sum(axis=1))
            activity = activity @ parts.T
        module.start(layers, random_state.randint(2**31 - 1))

    def _plan(self, module, budget):
        optimizer = NaturalGradient(
            module.parameters(),
            learning_offset=self.learning_offset,
            learning_decay=self.learning_decay if budget.is_stochastic else 0.0,
        )
        return TrainingPlan(optimizer, samples=True)

    def _finish(self, module, rows):
        # Of rows held out, the best sweep may be an early one.
        is_asked_for = self._n_burn_in < self.max_iter and self.tol is None
        if module.n_kept == 0 and not (self.warm_start or is_asked_for):
            warnings.warn(
                "The weights are those of a single sweep, since the first n_burn_in="
                f"{self._n_burn_in} sweeps are left out of averages: lower n_burn_in, "
                "or raise max_iter.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _fitted(self, module):
        return {
            "weights_": [to_numpy(w) for w in module.weights()],
            "top_shape_": to_numpy(module.mean_top),
            "n_active_": np.array(
                [int((n.sum(1) >= 0.5).sum()) for n in module.counts_of_layer]
            ),
        }
