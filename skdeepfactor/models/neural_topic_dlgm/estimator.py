"""The estimator of deep latent Gaussian models; ``module.py`` has the model."""

import contextlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
)

from skdeepfactor._estimator.domains import Counts, Integers
from skdeepfactor._estimator.row_inference import map_rows
from skdeepfactor._estimator.sampled import SampledFactorModel
from skdeepfactor._math.batch import Batch, to_tensor
from skdeepfactor._math.importance import check_objective
from skdeepfactor._math.likelihoods import LIKELIHOODS
from skdeepfactor._math.networks import N_TYPICAL, Decoder, Encoder, typical_length
from skdeepfactor._math.ops import dense
from skdeepfactor._math.priors import Mixture, PseudoInputs, StandardNormal
from skdeepfactor._math.starts import initial_loadings, initial_logits
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor.models.neural_topic_dlgm.module import SPREADS, DeepLatentGaussian

# Learning rate of networks over that of the decoder's weights.
NETWORK_RATE = 0.3

# Size of the weights between the layers of a plain stack and logits, at first.
DEEP_START = 0.02

# Training rows of which halves are predicted, to see how far to average.
N_COMPLETED = 100

# Spread of the means of a mixture at first.
MIXTURE_START = 0.5

PRIORS = {"normal": StandardNormal, "mixture": Mixture, "vamp": PseudoInputs}


class NeuralTopicDLGM(SampledFactorModel):
    r"""Deep latent Gaussian model of counts: topics that add up in the logits.

    Row n is N_n words with ``z_n ~ N(0, I)`` and ``x_n ~ Multinomial(N_n, softmax(f(
    z_n)))``: f is linear or a network, the prior may be a mixture, and the likelihood
    may allow for bursts of words or explain totals. A network proposes the posterior of
    each row, and second-order steps refine it. Sparse data stay sparse, except for one
    dense array of a batch.

    Parameters
    ----------
    n_components : int, default=50
        Number of latent dimensions K.
    likelihood : str, default="multinomial"
        Distribution of the data given the factors. ``"multinomial"``: words in order
        given their number; the default, since it takes any non-negative numbers, tf-idf
        too. ``"dirichlet_multinomial"`` (integers only): the same out of a Polya urn,
        for words that come in bursts; it fits most text better. ``"poisson"`` and
        ``"negative_binomial"`` (integers only): counts whose totals are modelled too.
    decoder_layers : tuple of int, default=()
        Hidden layers of the decoder; none makes it linear. The bound then has a closed
        form; otherwise it is sampled.
    encoder_layers : tuple of int, default=(400, 400)
        Hidden layers of the inference network.
    skip_connections : bool, default=True
        Whether z goes into every layer of a deep decoder. The logits are then those of
        a linear decoder plus those of a network, which with ``objective="elbo"`` comes
        in after the first tenth of training, and rows are refined as under a linear
        decoder. False: a plain stack of layers, refined by Adam, which may collapse to
        the prior.
    input_transform : {"tfidf", "normalize", "counts"} or object, default="tfidf"
        What the inference network sees; the likelihood sees the counts. ``"tfidf"``:
        counts times the log of inverse document frequency in the training data, scaled
        to length 1. ``"normalize"``: shares of the row's total. A scikit-learn
        transformer that keeps the number of columns is cloned and fitted.
    input_dropout : float, default=0.2
        Share of the inference network's inputs that are dropped in training.
    prior : {"normal", "mixture", "vamp"}, default="normal"
        Prior of z. ``"normal"``: standard normal. ``"mixture"``: a learnt mixture of
        Gaussians. ``"vamp"``: a mixture of the network's posteriors at learnt
        pseudo-inputs.
    n_pseudo_inputs : int, default=20
        Number of components of a prior that is a mixture.
    weight_scale : float, default=0.15
        Standard deviation of the Gaussian prior of the decoder's weights. Small ones
        keep rare words from being learnt by heart.
    posterior_variance : float, default=None
        Fixes the posterior's variances; None infers them.
    covariance_type : {"diag", "full"}, default="diag"
        Covariance of the posterior of a linear decoder in ``transform``, ``score`` and
        ``perplexity``. ``"full"`` is tighter by some two percent of perplexity, at K
        times the cost; training takes diagonal ones.
    refine_steps : int, default=3
        Steps that refine each row's posterior in each pass of training, three times as
        many in the first. 0: none, the network's own bound is what is learnt from.
    max_refine_steps : int, default=100
        The same in ``transform``, ``score`` and ``perplexity``, where a row stops as
        soon as its bound stands still. 0 takes the network's own posterior.
    objective : {"elbo", "iwae", "renyi"}, default="elbo"
        Bound to learn from. All but ``"elbo"`` are sampled.
    renyi_alpha : float, default=0.5
        Order of the Renyi bound: 1 is the ELBO, 0 IWAE; negative orders are no bounds.
    n_particles : int, default=1
        Draws for an objective that is sampled; at least 2 unless it is the ELBO.
    kl_warmup : int or float, default=0
        Updates (int) or share of training (float) over which the divergence from the
        prior comes in.
    free_bits : float, default=0.0
        Nats of divergence of each dimension that cost nothing in training. Needs
        ``refine_steps=0`` and a normal prior.
    max_iter : int, default=20
        Passes over the data. The step size falls to 0 over them.
    tol : float or None, default=0.0
        Relative gain of the bound below which training ends, unless one row makes up
        most of it and the others still change: over one pass where steps on all rows
        should raise the bound, else over ``n_iter_no_change`` passes. Gradient steps
        are too large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    learning_rate : float, default=0.01
        Step size of Adam at first. Networks learn at three tenths of it.
    batch_size : int, default=200
        Rows in a step; None for steps on all rows.
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
    components_ : ndarray of shape (n_components, n_features)
        Mean slope of each feature's log expectation in each dimension, over the prior:
        the words that a dimension makes more likely (positive) and less (negative).
    n_active_components_ : int
        Dimensions whose posterior mean has a variance above 0.01 over training rows.
    lower_bound_ : float
        Bound of the training data in nats, plus the log density of the decoder's
        weights under their prior (except for its constant).
    history_ : dict of lists
        ``lower_bound``, ``seconds`` and, with early stopping, ``validation_score``,
        for each pass. Its bound is that before its steps.
    n_iter_ : int
        Number of passes.
    n_samples_seen_ : int
        Number of rows that training has seen.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if the data had names.

    See Also
    --------
    LatentDirichletAllocation : Topics that add up in the probabilities; faster.

    References
    ----------
    Krishnan, R., Liang, D. and Hoffman, M. (2018). On the challenges of learning with
    inference networks on sparse, high-dimensional data. AISTATS 21.

    Examples
    --------
    >>> from skdeepfactor import NeuralTopicDLGM
    >>> from skdeepfactor.datasets import make_topics
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> model = NeuralTopicDLGM(3, random_state=0).fit(X)
    >>> model.transform(X).shape
    (200, 3)
    >>> bool(model.perplexity(X) < 50)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **SampledFactorModel._parameter_constraints,
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "input_transform": [
            StrOptions({"tfidf", "normalize", "counts"}),
            HasMethods(["fit", "transform"]),
        ],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "prior": [StrOptions(set(PRIORS))],
        "weight_scale": [Interval(Real, 0, None, closed="neither")],
        "posterior_variance": [Interval(Real, 0, None, closed="neither"), None],
        "covariance_type": [StrOptions({"diag", "full"})],
        "refine_steps": [Interval(Integral, 0, None, closed="left")],
        "max_refine_steps": [Interval(Integral, 0, None, closed="left")],
        "objective": [StrOptions({"elbo", "iwae", "renyi"})],
        "renyi_alpha": [Interval(Real, None, None, closed="neither")],
        "n_particles": [Interval(Integral, 1, None, closed="left")],
        "kl_warmup": SampledFactorModel._warmup,
        "free_bits": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 50,
        *,
        likelihood: str = "multinomial",
        decoder_layers: Sequence[int] = (),
        encoder_layers: Sequence[int] = (400, 400),
        skip_connections: bool = True,
        input_transform: Any = "tfidf",
        input_dropout: float = 0.2,
        prior: str = "normal",
        n_pseudo_inputs: int = 20,
        weight_scale: float = 0.15,
        posterior_variance: float | None = None,
        covariance_type: str = "diag",
        refine_steps: int = 3,
        max_refine_steps: int = 100,
        objective: str = "elbo",
        renyi_alpha: float = 0.5,
        n_particles: int = 1,
        kl_warmup: float = 0,
        free_bits: float = 0.0,
        max_iter: int = 20,
        tol: float = 0.0,
        learning_rate: float = 0.01,
        batch_size: int = 200,
        validation_fraction: float | None = None,
        n_iter_no_change: int = 10,
        n_init: int = 1,
        n_jobs: int | None = None,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.likelihood = likelihood
        self.decoder_layers = decoder_layers
        self.encoder_layers = encoder_layers
        self.skip_connections = skip_connections
        self.input_transform = input_transform
        self.input_dropout = input_dropout
        self.prior = prior
        self.n_pseudo_inputs = n_pseudo_inputs
        self.weight_scale = weight_scale
        self.posterior_variance = posterior_variance
        self.covariance_type = covariance_type
        self.refine_steps = refine_steps
        self.max_refine_steps = max_refine_steps
        self.objective = objective
        self.renyi_alpha = renyi_alpha
        self.n_particles = n_particles
        self.kl_warmup = kl_warmup
        self.free_bits = free_bits
        self.max_iter = max_iter
        self.tol = tol
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_init = n_init
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def predictive(self, X: Any) -> np.ndarray:
        """Predict the next word of each row, given its words so far.

        These are the shares of the words, averaged over the posterior of z: to second
        order with a linear decoder, otherwise by draws that depend on the row alone.
        How much of the posterior's variance counts (0, then only its mean does, to 1)
        is what predicts hidden halves of 100 training rows best; all of it after
        ``partial_fit`` alone. With an urn (``likelihood="dirichlet_multinomial"``), the
        row's own words are added.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Rows sum to 1.

        See Also
        --------
        inverse_transform : Shares of words at given factors.

        Examples
        --------
        >>> from skdeepfactor import NeuralTopicDLGM
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = NeuralTopicDLGM(2, random_state=0).fit(X)
        >>> model.predictive(X).sum(axis=1).round(3).tolist()
        [1.0, 1.0, 1.0, 1.0]
        """
        return self._infer(X, lambda module, batch: module.predictive(batch))

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> scipy.sparse.csr_matrix:
        """Draw rows from the model.

        Factors are drawn from the prior, then words from the likelihood given the
        factors.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each, for likelihoods given the total; by default drawn from the
            totals of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        CSR matrix of shape (n_samples, n_features)
            Counts.

        See Also
        --------
        inverse_transform : Expected rows given factors.

        Examples
        --------
        >>> from skdeepfactor import NeuralTopicDLGM
        >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
        >>> model = NeuralTopicDLGM(2, random_state=0).fit(X)
        >>> drawn = model.sample(2, n_tokens=[3, 8], random_state=0)
        >>> drawn.toarray().sum(axis=1).tolist()
        [3, 8]
        """
        return self._sample(n_samples, n_tokens, random_state)

    @property
    def _domain(self):
        if self.likelihood in ("dirichlet_multinomial", "negative_binomial"):
            return Integers(self.likelihood)
        return Counts()

    def _build(self, sizes):
        self._check_layers()
        if self.free_bits > 0 and (self.refine_steps > 0 or self.prior != "normal"):
            raise ValueError("free_bits needs refine_steps=0 and prior='normal'.")
        if self.objective != "elbo" and (self.kl_warmup > 0 or self.free_bits > 0):
            raise ValueError(
                "kl_warmup and free_bits weigh a divergence that only objective='elbo' "
                f"has, got objective={self.objective!r}."
            )
        if self.covariance_type == "full" and len(self.decoder_layers) > 0:
            raise ValueError(
                "covariance_type='full' needs a linear decoder: decoder_layers=()."
            )
        if self.covariance_type == "full" and self.posterior_variance is not None:
            raise ValueError(
                "posterior_variance fixes what covariance_type='full' would infer; "
                "use one of them."
            )
        n_features = sizes["n_features"]
        encoder = Encoder(
            n_features,
            tuple(self.encoder_layers),
            self.n_components,
            dropout=self.input_dropout,
        )
        decoder = Decoder(
            self.n_components,
            tuple(self.decoder_layers),
            n_features,
            has_skips=self.skip_connections,
        )
        shape = self.n_components, n_features
        return DeepLatentGaussian(
            self.n_components,
            LIKELIHOODS[self.likelihood](),
            PRIORS[self.prior](shape, self.n_pseudo_inputs),
            encoder,
            decoder,
            input_transform=self.input_transform,
            weight_scale=self.weight_scale,
            posterior_variance=self.posterior_variance,
            has_full_covariance=self.covariance_type == "full",
            refine_steps=self.refine_steps,
            max_refine_steps=self.max_refine_steps,
            alpha=check_objective(self.objective, self.renyi_alpha, self.n_particles),
            n_particles=self.n_particles,
            kl_warmup=self.kl_warmup,
            free_bits=self.free_bits,
        )

    def _finish(self, module, rows):
        # Averages over posteriors that are too wide predict worse than their means.
        # Of several processes the first decides, if it has rows.
        if rows.n_visible == 0:
            return
        generator = np.random.default_rng(0)
        some = generator.permutation(rows.n_visible)[:N_COMPLETED]
        parts = map_rows(
            module,
            MatrixRows(rows.take(np.sort(some))),
            lambda module, batch: module.completion_scores(batch, generator),
        )
        scores = np.concatenate(list(parts)).sum(axis=0)
        module.spread.fill_(SPREADS[int(np.argmax(scores))])

    def _complete(self, module):
        if not isinstance(self.input_transform, str):
            module.input_transform = self._input_transform

    def _parameter_groups(self, module):
        slow, fast = [], []
        for name, parameter in module.named_parameters():
            is_network = name.startswith(
                ("encoder", "decoder.hidden", "prior.pseudo_inputs")
            )
            (slow if is_network else fast).append(parameter)
        return [
            {"params": fast, "lr": self.learning_rate},
            {"params": slow, "lr": NETWORK_RATE * self.learning_rate},
        ]

    def _warmups(self):
        return [self.kl_warmup]

    def _initialize(self, module, start):
        X, random_state = start.X, start.random_state
        generator = torch.Generator().manual_seed(random_state.randint(2**31 - 1))
        self._initialize_inputs(module, X, random_state)
        x = to_tensor(X, slice(N_TYPICAL), dtype=module.idf.dtype, device="cpu")
        length = typical_length(module.inputs(Batch(x)))
        module.encoder.initialize(generator, length)
        decoder = module.decoder
        logits = initial_logits(X, given_total=module.likelihood.is_given_total)
        decoder.bias.data.copy_(torch.from_numpy(logits))
        if decoder.hidden is not None:
            scale = self.n_components**-0.5
            decoder.hidden.initialize(generator, input_scale=scale, output_scale=1.0)
        if decoder.n_direct:
            loadings = initial_loadings(X, self.n_components, random_state)
            # A network beside them comes in later.
            decoder.weight.data.zero_()
            decoder.direct_weight.data.copy_(torch.from_numpy(loadings))
        else:
            decoder.weight.data.normal_(generator=generator).mul_(DEEP_START)
        module.likelihood.initialize()
        if self.prior == "mixture":
            module.prior.mean.data.normal_(generator=generator).mul_(MIXTURE_START)

    def _initialize_inputs(self, module, X, random_state):
        """Fit the statistics that the encoder's inputs depend on."""
        if self.input_transform == "tfidf":
            is_there = X > 0
            frequency = np.asarray(is_there.sum(axis=0)).ravel()
            # Words of no row, or of all rows, carry no information.
            known = np.clip(frequency, 1, None)
            idf = np.where(frequency > 0, np.log(X.shape[0] / known), 0.0)
            module.idf.copy_(torch.from_numpy(idf))
        elif not isinstance(self.input_transform, str):
            transformer = clone(self.input_transform)
            # Matrices, whatever transform_output is; not all transformers can be told.
            with contextlib.suppress(AttributeError, ValueError):
                transformer.set_output(transform="default")
            shape = transformer.fit_transform(X).shape
            if shape[1] != X.shape[1]:
                raise ValueError(
                    "input_transform must keep the number of columns, "
                    f"{X.shape[1]}, but gave {shape[1]}."
                )
            module.input_transform = transformer
        if self.prior == "vamp":
            rows = random_state.choice(X.shape[0], self.n_pseudo_inputs)
            x = to_tensor(X, rows, dtype=module.idf.dtype, device="cpu")
            module.prior.pseudo_inputs.data.copy_(dense(module.inputs(Batch(x))))

    def _fitted(self, module):
        attributes = {"n_active_components_": module.n_active_components()}
        if not isinstance(self.input_transform, str):
            attributes["_input_transform"] = module.input_transform
        return attributes
