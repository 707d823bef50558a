r"""Variational sparse coding: factors most of which are exactly 0 in a row.

Spikes and slabs for a posterior, all of it from a network of the row:

.. math::
    q(z | x) = \prod_j \gamma_j N(z_j; \mu_j, \sigma_j^2) + (1 - \gamma_j)
    \delta_0(z_j), \qquad x \sim p(x | f(z)),

with the likelihoods of ``observations.py``. Two such distributions have the divergence

.. math::
    KL(q \| p) = \sum_j \gamma_j \Big[\log \frac{s_j}{\sigma_j} + \frac{\sigma_j^2 +
    (\mu_j - m_j)^2}{2 s_j^2} - \frac12 + \log \frac{\gamma_j}{g_j}\Big]
    + (1 - \gamma_j) \log \frac{1 - \gamma_j}{1 - g_j}

for p with :math:`g, m, s` in the places of :math:`\gamma, \mu, \sigma`.

**Priors.** Fixed: :math:`g = \alpha, m = 0, s = 1`. Or each row is of one kind out of
several, :math:`p(z) = \sum_u \pi_u q(z | x_u)`, with what the encoder says of
pseudo-inputs :math:`x_u`; they and :math:`\pi` are learnt. The odds of each spike there
are raised by those of :math:`\alpha`: no kind rules a factor out, and one that no row
uses yet costs a row that begins to no more than it would under the fixed prior. For any
distribution c over kinds, :math:`\sum_u c_u [KL(q \| q(\cdot | x_u)) + \log c_u /
\pi_u]` bounds the divergence. It is least, :math:`-\log \sum_u \pi_u e^{-KL_u}`, where
c is proportional to the terms of that sum; so that needs no network to choose kinds,
and loses nothing to one that chooses badly.

**Sparsity.** What the prior leaves free, training asks for beside the bound: minus

.. math::
    \frac{\lambda J}{500}\, \text{mean}_u\, KL\Big(\text{Bern}\big(\tfrac1J \sum_j
    \gamma_{uj}\big) \,\big\|\, \text{Bern}(\alpha)\Big)

a row, for J dimensions. Scores are the bound alone, with spikes that are exactly 0.

**Gradients.** Training draws :math:`z = h (\mu + \sigma \epsilon)`. Straight through:
h is 0 or 1, so that the bound is the one that is scored, and has the slope 1 in
:math:`\gamma`: the difference that a spike makes, to first order. Relaxed:
:math:`h = \text{sigmoid}(t (\gamma - u))`, u uniform, the temperature t rising. Such
an h is never 0, and what is left of it in factors that are off, times a large
:math:`\mu`, is enough for the decoder: the relaxed bound rises, and with spikes that
are 0 nothing is left of it. With a linear decoder and Gaussian noise (sparse factor
analysis) nothing is drawn.

**Start.** Spikes are learnt only where they tell rows from each other already: the
encoder begins with outputs that vary much from row to row.

**Warm-up.** For a time slabs may be standard normal under q and p, so that rows are
told from each other by which factors they have; then by how much, with
:math:`N(\lambda \mu, \lambda \sigma^2 + 1 - \lambda)` for :math:`\lambda` from 0 to 1
on both sides of the divergence.

Tonolini, Jensen and Murray-Smith (2019), Variational sparse coding; Tomczak and
Welling (2018), VAE with a VampPrior.
"""

import math
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch.distributions import Independent, kl_divergence
from torch.nn.functional import logsigmoid

from skdeepfactor._estimator.amortized import AmortizedFactorModel
from skdeepfactor._estimator.sampled import SampledFactorModel
from skdeepfactor._input import received
from skdeepfactor._math.autoencoder import ENCODER_START, AmortizedModule
from skdeepfactor._math.module import in_updates
from skdeepfactor._math.noise import Stream
from skdeepfactor._math.priors import PseudoInputs
from skdeepfactor.data import as_csr
from skdeepfactor.distributions import SpikeSlab

# The networks' outputs are kept within these: log odds of spikes, log variances.
LOGIT_RANGE = (-16.0, 16.0)
LOG_VAR_RANGE = (-16.0, 6.0)

# Log odds of spikes at first, and how much they and the slabs vary from row to row.
START_ODDS = -2.0
START_SPREAD = 2.0

# Rows that share one penalty, as the paper weighs it.
PENALTY_ROWS = 500


class SpikeSlabAutoencoder(AmortizedModule):
    """Rows from sparse factors through a decoder; spikes and slabs by an encoder."""

    n_heads = n_moments = 3

    def __init__(
        self,
        n_components,
        observation,
        encoder_layers,
        prior,
        *,
        alpha,
        sparsity_penalty,
        spike_gradient,
        temperature,
        spike_warmup,
        slab_warmup,
    ):
        super().__init__(n_components, observation, encoder_layers, prior)
        self.sparsity_penalty = sparsity_penalty
        self.spike_gradient, self.temperature = spike_gradient, temperature
        self.prior_odds = math.log(alpha) - math.log1p(-alpha)
        # Updates, or shares of training: until slabs come in, and until they are there.
        self.spike_warmup, self.slab_warmup = spike_warmup, slab_warmup

    def distribution(self, outputs):
        return Independent(self._codes(outputs), 1, validate_args=False)

    def _codes(self, outputs):
        logits, loc, log_var = outputs.chunk(3, -1)
        var = log_var.clamp(*LOG_VAR_RANGE).exp()
        warmth = self._slab_weight()
        if warmth < 1:
            loc, var = warmth * loc, warmth * var + (1 - warmth)
        return SpikeSlab(
            logits.clamp(*LOGIT_RANGE),
            loc,
            var.sqrt(),
            temperature=self._temperature(),
            validate_args=False,
        )

    def _slab_weight(self):
        """Lambda of the warm-up."""
        if not self.training:
            return 1.0
        since = self.n_updates.item() - in_updates(self.spike_warmup, self.n_total)
        if since < 0:
            return 0.0
        slab_warmup = in_updates(self.slab_warmup, self.n_total)
        return min(1.0, since / slab_warmup) if slab_warmup > 0 else 1.0

    def _temperature(self):
        first, last = self.temperature
        if self.spike_gradient != "relaxed":
            # Nothing is drawn at it, and an accelerator would be waited for.
            return last
        share = self.n_updates.item() / self.n_total if self.n_total else 1.0
        return first + (last - first) * min(1.0, share)

    def draws(self, q, batch, n_draws, stream=0):
        codes = q.base_dist
        normal = self.noise(batch, codes.loc, n_draws, stream).normal()
        stream = Stream.SPIKES + stream
        uniform = self.noise(batch, codes.loc, n_draws, stream).uniform()
        if not self.training:
            return codes.of_noise(uniform, normal)
        if self.spike_gradient == "relaxed":
            return codes.relaxed_of_noise(uniform, normal)
        return codes.straight_through_of_noise(uniform, normal)

    def kl(self, q):
        kl = self._kl_of_kinds(q.base_dist, self._kinds())
        # Rounding must not make a divergence negative.
        return (-(self._log_weights() - kl).logsumexp(1)).clamp_min(0)

    def _kinds(self):
        """Spikes and slabs of each kind of row, (n_kinds, k)."""
        if self.prior is not None:
            codes = self._codes(self.encoder(self.prior.pseudo_inputs))
            odds = torch.full_like(codes.logits, self.prior_odds)
            logits = torch.logaddexp(codes.logits, odds)
            return SpikeSlab(logits, codes.loc, codes.scale, validate_args=False)
        zeros = self.moments.new_zeros(1, self.n_components)
        return SpikeSlab(zeros + self.prior_odds, zeros, zeros + 1, validate_args=False)

    def _log_weights(self):
        if self.prior is not None:
            return self.prior.logits.double().log_softmax(0)
        return torch.zeros(1, dtype=torch.float64, device=self.moments.device)

    def _kl_of_kinds(self, q, kinds):
        """KL of each row from each kind, (n_rows, n_kinds), float64, by products."""
        if len(kinds.logits) == 1:
            return kl_divergence(q, kinds).sum(1, keepdim=True, dtype=torch.float64)
        on, off = logsigmoid(q.logits), logsigmoid(-q.logits)
        p = on.exp()
        own = p * (on - q.scale.log() - 0.5) + off.exp() * off
        precision = kinds.scale.square().reciprocal()
        pull = kinds.loc * precision
        level = kinds.scale.log() + 0.5 * kinds.loc * pull
        level = level - logsigmoid(kinds.logits) + logsigmoid(-kinds.logits)
        square = p * (q.scale.square() + q.loc.square())
        cross = square @ (0.5 * precision).T - (p * q.loc) @ pull.T + p @ level.T
        none = logsigmoid(-kinds.logits).sum(1, dtype=torch.float64)
        return own.sum(1, keepdim=True, dtype=torch.float64) + cross.double() - none

    def log_prior(self, z):
        kinds = self._kinds()
        log_prob = kinds.log_prob(z[..., None, :]).sum(-1, dtype=torch.float64)
        return (self._log_weights() + log_prob).logsumexp(-1)

    @torch.no_grad()
    def draw_prior(self, n_rows, generator):
        kinds, shape = self._kinds(), (n_rows, self.n_components)
        share = self._log_weights().exp().cpu()
        which = torch.multinomial(share, n_rows, replacement=True, generator=generator)
        which = which.to(self.moments.device)
        single = torch.float32
        uniform = torch.rand(shape, generator=generator, dtype=single).to(self.moments)
        normal = torch.randn(shape, generator=generator, dtype=single).to(self.moments)
        codes = SpikeSlab(
            *(part[which] for part in (kinds.logits, kinds.loc, kinds.scale)),
            validate_args=False,
        )
        return codes.of_noise(uniform, normal)

    def objective(self, batch, q):
        bounds = self.elbo(batch, q)
        if self.prior is None or self.sparsity_penalty == 0:
            return bounds, bounds
        share = self._kinds().probs.mean(1)
        odds = torch.tensor(self.prior_odds, dtype=torch.float64)
        on, off = logsigmoid(odds), logsigmoid(-odds)
        kl = share * (share.log() - on) + (1 - share) * ((1 - share).log() - off)
        weight = self.sparsity_penalty * self.n_components / PENALTY_ROWS
        return bounds, bounds - weight * kl.mean()

    def activity(self, q):
        return torch.stack([q.mean, q.mean.square(), q.base_dist.probs])

    def initialize(self, X, random_state):
        super().initialize(X, random_state)
        n_varied = 2 * self.n_components
        with torch.no_grad():
            weight, bias = self.encoder.weights[-1], self.encoder.biases[-1]
            weight[:, :n_varied] *= START_SPREAD / ENCODER_START
            bias[: self.n_components] = START_ODDS


class VariationalSparseCoding(AmortizedFactorModel):
    r"""Variational sparse coding: a network finds the few of many factors of each row.

    Row n has ``z_nj = 0``, or normal with probability ``gamma_j(x)`` (spike and slab),
    and ``x_n ~ p(x | f(z_n))`` for a network f. The prior holds the mean of ``gamma``
    at ``alpha``, so that codes remain readable, and good features, in many dimensions.

    Parameters
    ----------
    n_components : int, default=100
        Number of latent dimensions J.
    alpha : float, default=0.01
        Share of the dimensions that a row is to use, in (0, 1).
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
    prior : {"pseudo_inputs", "fixed"}, default="pseudo_inputs"
        Prior of z. ``"pseudo_inputs"``: a mixture of the network's posteriors at learnt
        pseudo-inputs. ``"fixed"``: spikes of probability ``alpha`` with standard normal
        slabs.
    n_pseudo_inputs : int, default=20
        Number of components of a prior that is a mixture.
    sparsity_penalty : float, default=1.0
        Weight of the pull of the mixture's spikes towards ``alpha``.
    spike_warmup : int or float, default=0
        Updates (int) or share of training (float) in which only spikes tell rows apart.
    slab_warmup : int or float, default=0
        Updates or share of training after that, over which slabs come in.
    spike_gradient : {"straight_through", "relaxed"}, default="straight_through"
        How gradients pass spikes in training: spikes that are 0 or 1 as if they were
        their probabilities, or soft ones.
    temperature : tuple of (float, float), default=(50.0, 200.0)
        Sharpness of soft spikes at the start and the end of training.
    spike_threshold : float, default=0.5
        Where ``gamma`` is below it, ``transform`` gives exactly 0.
    sparse_output : bool, default=False
        Whether ``transform`` gives a CSR matrix.
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
    activation_rates_ : ndarray of shape (n_components,)
        Mean of ``gamma`` over training rows.
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
    VariationalAutoencoder : Factors that are never 0.

    References
    ----------
    Tonolini, F., Jensen, B. S. and Murray-Smith, R. (2019). Variational sparse coding.
    UAI 35.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdeepfactor import VariationalSparseCoding
    >>> X = load_digits().data / 16
    >>> model = VariationalSparseCoding(
    ...     30, alpha=0.05, likelihood="bernoulli", max_iter=20, random_state=0
    ... ).fit(X)
    >>> Z = model.transform(X)
    >>> Z.shape
    (1797, 30)
    >>> bool((Z == 0).mean() > 0.5)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **AmortizedFactorModel._parameter_constraints,
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "prior": [StrOptions({"pseudo_inputs", "fixed"})],
        "sparsity_penalty": [Interval(Real, 0, None, closed="left")],
        "spike_warmup": SampledFactorModel._warmup,
        "slab_warmup": SampledFactorModel._warmup,
        "spike_gradient": [StrOptions({"straight_through", "relaxed"})],
        "temperature": [tuple, list],
        "spike_threshold": [Interval(Real, 0, 1, closed="left")],
        "sparse_output": ["boolean"],
    }

    def __init__(
        self,
        n_components: int = 100,
        *,
        alpha: float = 0.01,
        likelihood: str = "gaussian",
        noise: str = "diagonal",
        decoder_layers: Sequence[int] = (400,),
        encoder_layers: Sequence[int] = (400,),
        skip_connections: bool = False,
        missing_values: str = "error",
        prior: str = "pseudo_inputs",
        n_pseudo_inputs: int = 20,
        sparsity_penalty: float = 1.0,
        spike_warmup: float = 0,
        slab_warmup: float = 0,
        spike_gradient: str = "straight_through",
        temperature: tuple[float, float] = (50.0, 200.0),
        spike_threshold: float = 0.5,
        sparse_output: bool = False,
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
        self.alpha = alpha
        self.likelihood = likelihood
        self.noise = noise
        self.decoder_layers = decoder_layers
        self.encoder_layers = encoder_layers
        self.skip_connections = skip_connections
        self.missing_values = missing_values
        self.prior = prior
        self.n_pseudo_inputs = n_pseudo_inputs
        self.sparsity_penalty = sparsity_penalty
        self.spike_warmup = spike_warmup
        self.slab_warmup = slab_warmup
        self.spike_gradient = spike_gradient
        self.temperature = temperature
        self.spike_threshold = spike_threshold
        self.sparse_output = sparse_output
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

    def transform(self, X: Any, *, out: str | os.PathLike[str] | None = None) -> Any:
        """Infer the codes of rows.

        The model is not changed. New rows cost one pass through the network.

        Parameters
        ----------
        X : {array-like, sparse matrix, RowBlocks} of shape (n_samples, n_features)
        out : path-like, default=None
            A ``.npy`` file to write the codes to as they come, for more rows than
            memory has room for.

        Returns
        -------
        {ndarray, CSR matrix} of shape (n_samples, n_components)
            The posterior mean ``gamma * mu``, 0 where ``gamma < spike_threshold``;
            float64 for float64 data, else float32. A CSR matrix if ``sparse_output``;
            with ``out``, a read-only map of the file.

        See Also
        --------
        activations : The probabilities that factors are active.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from skdeepfactor import VariationalSparseCoding
        >>> X = load_digits().data[:200]
        >>> model = VariationalSparseCoding(8, max_iter=3, random_state=0).fit(X)
        >>> model.transform(X).shape
        (200, 8)
        """
        threshold = self.spike_threshold

        def codes(module, batch):
            q = module.posterior(batch)
            is_on = q.base_dist.probs >= threshold
            return torch.where(is_on, q.mean, 0.0)

        Z = self._infer(X, codes, out)
        if out is not None or not self.sparse_output:
            return Z
        return as_csr(scipy.sparse.csr_matrix(received(Z)))

    def activations(self, X: Any) -> np.ndarray:
        """Infer the probability that each factor is active in each row.

        Where it is below ``spike_threshold``, ``transform`` returns exactly 0.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            The probabilities.

        See Also
        --------
        transform : The posterior mean of each factor.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from skdeepfactor import VariationalSparseCoding
        >>> X = load_digits().data[:200]
        >>> model = VariationalSparseCoding(8, max_iter=3, random_state=0).fit(X)
        >>> gamma = model.activations(X)
        >>> bool(((gamma >= 0) & (gamma <= 1)).all())
        True
        """
        return self._infer(
            X, lambda module, batch: module.posterior(batch).base_dist.probs
        )

    def _build(self, sizes):
        first, last = self._check_temperature()
        prior, shape = None, (self.n_components, sizes["n_features"])
        if self.prior == "pseudo_inputs":
            prior = PseudoInputs(shape, self.n_pseudo_inputs)
        return SpikeSlabAutoencoder(
            self.n_components,
            self._observation(sizes),
            tuple(self.encoder_layers),
            prior,
            alpha=self.alpha,
            sparsity_penalty=self.sparsity_penalty,
            spike_gradient=self.spike_gradient,
            temperature=(first, last),
            spike_warmup=self.spike_warmup,
            slab_warmup=self.slab_warmup,
        )

    def _check_temperature(self):
        values = np.asarray(self.temperature, dtype=np.float64)
        if values.shape != (2,) or not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(
                "temperature must be two positive numbers, at the start and at the "
                f"end of training, got {self.temperature!r}."
            )
        return values.tolist()

    def _warmups(self):
        return [self.spike_warmup, self.slab_warmup]

    def _fitted(self, module):
        rates = module.moments[2].double().cpu().numpy()
        return {**super()._fitted(module), "activation_rates_": rates}
