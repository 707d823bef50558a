r"""Variational autoencoders: Gaussian posteriors by one network, rows by another.

.. math::
    z_n \sim p(z), \qquad x_n \sim p(x | f(z_n)), \qquad
    q(z | x) = N(\mu(x), \text{diag}(\sigma^2(x))),

with the likelihoods of ``observations.py`` and the bound

.. math:: L(x) = E_q[\log p(x | z)] - KL(q(z | x) \| p(z)).

The prior is standard normal; Laplace of unit variance, whose sparse factors have axes
that mean something; a mixture of Gaussians :math:`\sum_c \pi_c N(a_c, B_c)` that is
learnt; or such a mixture of the encoder's own posteriors at pseudo-inputs (VampPrior).
The first two have closed divergences; with :math:`b = 1 / \sqrt 2`

.. math::
    KL(N(\mu, \sigma^2) \| \text{Laplace}(b)) = \log 2b - \tfrac12 \log 2 \pi e \sigma^2
    + \tfrac1b E|z|, \quad E|z| = \sigma \sqrt{2/\pi}\, e^{-\mu^2 / 2 \sigma^2} + \mu\,
    \text{erf}\tfrac{\mu}{\sqrt 2 \sigma}.

For mixtures it is bounded by :math:`-\log \sum_c \pi_c e^{-KL(q \| N(a_c, B_c))}`.

**What training maximises** may differ from the bound, against posteriors that collapse
to the prior: the divergence counts :math:`\beta` times; comes in slowly; has some nats
of each factor for free; or is made large by posteriors of a fixed variance. Scores are
always the bound itself. Or it is the importance weighted bound, or Renyi's.

**Linear decoders with Gaussian noise** are probabilistic PCA (noise of one variance)
and factor analysis (of one a feature): the bound is in closed form and its maximum, at
loadings whose columns are orthogonal in units of the noise, is the exact likelihood.

Kingma and Welling (2014), Auto-encoding variational Bayes; Tipping and Bishop (1999),
Probabilistic principal component analysis; Tomczak and Welling (2018), VAE with a
VampPrior; Higgins et al. (2017), beta-VAE; Kingma et al. (2016), Improved variational
inference with inverse autoregressive flow, for free bits.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch.distributions import Independent, Normal

from skdeepfactor._estimator.amortized import AmortizedFactorModel
from skdeepfactor._estimator.sampled import SampledFactorModel
from skdeepfactor._math.autoencoder import AmortizedModule
from skdeepfactor._math.gaussian import draws_of
from skdeepfactor._math.importance import check_objective, importance_bound
from skdeepfactor._math.priors import (
    LaplaceFactors,
    Mixture,
    PseudoInputs,
    StandardNormal,
    with_free_bits,
)

# Spread of the means of a mixture at first.
MIXTURE_START = 1.0

# A log variance beyond these is a network that has not learnt yet.
LOG_VAR_RANGE = (-16.0, 6.0)

PRIORS = {
    "normal": StandardNormal,
    "laplace": LaplaceFactors,
    "mixture": Mixture,
    "vamp": PseudoInputs,
}


class GaussianAutoencoder(AmortizedModule):
    """Rows from factors through a decoder, with Gaussian posteriors of the factors."""

    def __init__(
        self,
        n_components,
        observation,
        encoder_layers,
        prior,
        *,
        posterior_variance,
        beta,
        kl_warmup,
        free_bits,
        alpha,
        n_particles,
    ):
        super().__init__(n_components, observation, encoder_layers, prior)
        self.posterior_variance = posterior_variance
        self.beta, self.free_bits = beta, free_bits
        self.kl_warmup = kl_warmup
        self.alpha = alpha
        self.n_particles = self.n_training_draws = n_particles

    def distribution(self, outputs):
        mean, log_var = self._parts(outputs)
        normal = Normal(mean, (0.5 * log_var).exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def _parts(self, outputs):
        mean, log_var = outputs.chunk(2, -1)
        if self.posterior_variance is not None:
            return mean, torch.full_like(mean, math.log(self.posterior_variance))
        return mean, log_var.clamp(*LOG_VAR_RANGE)

    def draws(self, q, batch, n_draws, stream=0):
        return draws_of(q, self.noise(batch, q.mean, n_draws, stream).normal())

    def _density(self):
        """The prior as it is now."""
        return self.prior.density(lambda inputs: self._parts(self.encoder(inputs)))

    def kl(self, q):
        return self._density().kl(q)

    def log_prior(self, z):
        return self._density().log_prob(z)

    @torch.no_grad()
    def draw_prior(self, n_rows, generator):
        return self._density().sample(n_rows, generator)

    def objective(self, batch, q):
        if self.alpha != 1.0:
            return importance_bound(
                lambda z: self.log_joint(batch, z),
                q,
                self.alpha,
                self.n_particles,
                generator=self.generator,
            )
        likelihood = self.expected_log_likelihood(batch, q)
        kl = self.kl(q)
        bounds = likelihood - kl
        if self.free_bits > 0:
            kl = with_free_bits(self.prior.kl_of_factors(q), self.free_bits)
        return bounds, likelihood - self.kl_weight() * self.beta * kl

    def activity(self, q):
        return torch.stack([q.mean, q.mean.square()])


class VariationalAutoencoder(AmortizedFactorModel):
    r"""Variational autoencoder: one network infers Gaussian factors, another the rows.

    Row n is ``z_n ~ p(z)`` and ``x_n ~ p(x | f(z_n))`` for a network f, and ``q(z | x)
    = N(mu(x), sigma^2(x))`` with both from another. With ``decoder_layers=()`` and
    Gaussian noise it is probabilistic PCA (``noise="spherical"``) or factor analysis.

    Parameters
    ----------
    n_components : int, default=20
        Number of latent dimensions.
    likelihood : str, default="gaussian"
        Distribution of the data given the factors. ``"gaussian"``: real numbers, with
        learnt noise. ``"bernoulli"``: numbers in [0, 1], such as grey values.
        ``"poisson"``: counts. ``"multinomial"``: counts given their total.
    noise : {"diagonal", "spherical"}, default="diagonal"
        Of Gaussian data: a variance for each feature, or one for all of them.
    decoder_layers : tuple of int, default=(400,)
        Hidden layers of the decoder; none makes it linear.
    encoder_layers : tuple of int, default=(400,)
        Hidden layers of the inference network.
    skip_connections : bool, default=False
        Whether z goes into every layer of a deep decoder.
    missing_values : {"error", "ignore"}, default="error"
        What NaN in dense data is. ``"ignore"``: an entry that was not observed, and is
        left out of the likelihood; ``inverse_transform`` says what may be there.
        ``"error"``: a mistake. The inference network sees the feature's mean. Not with
        ``likelihood="multinomial"``.
    prior : {"normal", "laplace", "mixture", "vamp"}, default="normal"
        Prior of z. ``"normal"``: standard normal. ``"laplace"``: Laplace of unit
        variance. ``"mixture"``: a learnt mixture of Gaussians. ``"vamp"``: a mixture of
        the network's posteriors at learnt pseudo-inputs.
    n_pseudo_inputs : int, default=20
        Number of components of a prior that is a mixture.
    posterior_variance : float, default=None
        Fixes the posterior's variances; None infers them.
    beta : float, default=1.0
        Weight of the divergence in training. Above 1: fewer dimensions are used.
    kl_warmup : int or float, default=0
        Updates (int) or share of training (float) over which the divergence from the
        prior comes in.
    free_bits : float, default=0.0
        Nats of divergence of each dimension that cost nothing in training. Needs the
        prior ``"normal"`` or ``"laplace"``.
    objective : {"elbo", "iwae", "renyi"}, default="elbo"
        Bound to learn from.
    renyi_alpha : float, default=0.5
        Order of the Renyi bound: 1 is the ELBO, 0 IWAE; negative orders are no bounds.
    n_particles : int, default=1
        Draws for an objective that is sampled; at least 2 unless it is the ELBO.
    max_iter : int, default=50
        Passes over the data. The step size falls to 0 over them.
    tol : float or None, default=0.0
        Relative gain of the bound below which training ends, unless one row makes up
        most of it and the others still change: over one pass where steps on all rows
        should raise the bound, else over ``n_iter_no_change`` passes. Gradient steps
        are too large for that before the last fifth of ``max_iter``. None trains to
        ``max_iter``.
    learning_rate : float, default=0.002
        Step size of Adam at first.
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
        Mean slope over the prior of E[x | z] (Gaussian), of the log odds (Bernoulli) or
        of the logarithm of E[x | z] (counts) in each dimension.
        Read-only, like all fitted arrays: change a copy.
    n_active_components_ : int
        Dimensions whose posterior mean has a variance above 0.01 over training rows.
    lower_bound_ : float
        Bound of the training data in nats.
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
    VariationalSparseCoding : Factors most of which are exactly 0 in a row.
    NeuralTopicDLGM : For words; its posteriors are refined row by row.

    References
    ----------
    Kingma, D. P. and Welling, M. (2014). Auto-encoding variational Bayes. ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdeepfactor import VariationalAutoencoder
    >>> X = load_iris().data
    >>> model = VariationalAutoencoder(2, batch_size=20, random_state=0).fit(X)
    >>> model.transform(X).shape
    (150, 2)
    >>> bool(model.score(X) > -4)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **AmortizedFactorModel._parameter_constraints,
        "prior": [StrOptions(set(PRIORS))],
        "posterior_variance": [Interval(Real, 0, None, closed="neither"), None],
        "beta": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": SampledFactorModel._warmup,
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "objective": [StrOptions({"elbo", "iwae", "renyi"})],
        "renyi_alpha": [Interval(Real, None, None, closed="neither")],
        "n_particles": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 20,
        *,
        likelihood: str = "gaussian",
        noise: str = "diagonal",
        decoder_layers: Sequence[int] = (400,),
        encoder_layers: Sequence[int] = (400,),
        skip_connections: bool = False,
        missing_values: str = "error",
        prior: str = "normal",
        n_pseudo_inputs: int = 20,
        posterior_variance: float | None = None,
        beta: float = 1.0,
        kl_warmup: float = 0,
        free_bits: float = 0.0,
        objective: str = "elbo",
        renyi_alpha: float = 0.5,
        n_particles: int = 1,
        max_iter: int = 50,
        tol: float = 0.0,
        learning_rate: float = 0.002,
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
        self.noise = noise
        self.decoder_layers = decoder_layers
        self.encoder_layers = encoder_layers
        self.skip_connections = skip_connections
        self.missing_values = missing_values
        self.prior = prior
        self.n_pseudo_inputs = n_pseudo_inputs
        self.posterior_variance = posterior_variance
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.free_bits = free_bits
        self.objective = objective
        self.renyi_alpha = renyi_alpha
        self.n_particles = n_particles
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

    def _build(self, sizes):
        if self.free_bits > 0 and self.prior in ("mixture", "vamp"):
            raise ValueError(
                "free_bits needs prior='normal' or 'laplace', whose divergence is a "
                f"sum over dimensions, got prior={self.prior!r}."
            )
        is_weighed = self.kl_warmup > 0 or self.free_bits > 0 or self.beta != 1
        if self.objective != "elbo" and is_weighed:
            raise ValueError(
                "beta, kl_warmup and free_bits weigh a divergence that only "
                f"objective='elbo' has, got objective={self.objective!r}."
            )
        shape = self.n_components, sizes["n_features"]
        return GaussianAutoencoder(
            self.n_components,
            self._observation(sizes),
            tuple(self.encoder_layers),
            PRIORS[self.prior](shape, self.n_pseudo_inputs),
            posterior_variance=self.posterior_variance,
            beta=self.beta,
            kl_warmup=self.kl_warmup,
            free_bits=self.free_bits,
            alpha=check_objective(self.objective, self.renyi_alpha, self.n_particles),
            n_particles=self.n_particles,
        )

    def _initialize(self, module, start):
        super()._initialize(module, start)
        if self.prior == "mixture":
            means = module.prior.mean.data
            noise = start.random_state.normal(0, MIXTURE_START, means.shape)
            means.copy_(torch.from_numpy(noise))

    def _warmups(self):
        return [self.kl_warmup]
