r"""Correlated topics: proportions that are the softmax of Gaussian variables.

For a row n with :math:`N_n` words and covariates :math:`c_n`, of which the first is 1:

.. math::
    \beta_k \sim \text{Dirichlet}(b), \qquad
    \eta_n \sim N(\Gamma^T c_n, \Sigma), \qquad
    \theta_n = \text{softmax}(\eta_n), \qquad
    x_n \sim \text{Multinomial}(N_n, \textstyle\sum_k \theta_{nk} \beta_k),

taken as words in order. With :math:`\mu_n = \Gamma^T c_n`, :math:`\Omega = \Sigma^{-1}`
and the words' topics summed out, the log joint of a row is

.. math::
    f(\eta) = \sum_v x_v \log \sum_k e^{\eta_k} \beta_{kv} - N \log \sum_k e^{\eta_k}
        - \tfrac12 (\eta - \mu)^T \Omega (\eta - \mu).

With the shares :math:`\phi_{vk} \propto \theta_k \beta_{kv}` and the expected counts
:math:`r_k = \sum_v x_v \phi_{vk}` its gradient and minus its Hessian are

.. math::
    g = r - N \theta - \Omega (\eta - \mu), \qquad
    H = \Omega + N (\text{diag} \theta - \theta \theta^T)
        - (\text{diag} r - \textstyle\sum_v x_v \phi_v \phi_v^T).

*Rows.* Newton's steps :math:`H^{-1} g`, solved by a few conjugate gradients each, so
that no K x K matrix of a row is formed: in training two or three, from where the row
stopped in the last pass, elsewhere as many as lead to the mode. The first has
:math:`\Omega + N \text{diag} \theta` in the place of H, which it is never below.

*Parameters.* All are functions of sums over rows, by Laplace's approximation
:math:`q(\eta_n) = N(\hat\eta_n, H_n^{-1})`: the expected counts of the topics in the
words; the moments of c and of the modes, for the regression
:math:`\Gamma = (\sum c c^T)^{-1} \sum c \hat\eta^T`; and

.. math::
    \Sigma = \tfrac1n \sum_n (\hat\eta_n - \mu_n)(\hat\eta_n - \mu_n)^T
        + \tfrac1n \sum_n H_n^{-1}.

The second term decides the quality of the model. It is the mean over a few hundred
rows, chosen by a hash of their content: what is learnt then depends neither on the
order of rows, nor on how they are divided into batches, nor on whether a row is
repeated or has a weight.

*Means.* The posterior of a topic that a row hardly uses has a long tail to the left,
so that its mean is below the mode. With means taken for modes, coefficients and
covariances come out a tenth too small. In their moments each mode therefore stands for
:math:`\hat\eta + \tfrac12 H^{-1} \nabla \text{tr}(H^{-1} \nabla^2 f)`, the mean to
first order; what that adds is known for the rows that are chosen, and taken to be alike
for the others.

*A free shift.* Adding a number to all :math:`\eta_k` changes no :math:`\theta`. Full
covariances are therefore kept as :math:`P \Sigma P + \tau 11^T / K`, with :math:`P = I
- 11^T / K`: the direction of the shift is independent of the others, its posterior is
its prior, and modes sum to 0. They are then centred log ratios of the proportions.

*Bound.* With the Gaussian q, :math:`\tilde\beta = \exp E \log \beta` and mean m and
covariance V of q, Jensen's inequality gives

.. math::
    L = \sum_v x_v \log \sum_k e^{m_k} \tilde\beta_{kv} - N T(m, V)
        - KL(q \| p), \qquad T \ge E \log \sum_k e^{\eta_k}

(``log_total``). In training V is diagonal, which is quick; for ``score``, it is the
inverse of H without its last term, which is where the bound is stationary in V.

Blei and Lafferty (2007), A correlated topic model of science; Roberts, Stewart and
Airoldi (2016), A model of text for experimentation in the social sciences; Wang and
Blei (2013), Variational inference in nonconjugate models, for Laplace's approximation.
"""

import numpy as np
import torch
from torch import nn
from torch.distributions import Independent, Normal

from skdeepfactor._math.allocation import allocate, entry_shares, shares_of_counts
from skdeepfactor._math.gaussian import Posterior, inverse_root
from skdeepfactor._math.log_total import log_sum_bound
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.noise import Stream, keyed_uniform
from skdeepfactor._math.ops import dense, scaled
from skdeepfactor._math.topics import Topics
from skdeepfactor.models.correlated_topic_model.rows import (
    climbed,
    identity,
    mode_of,
    moments,
    prior_curvature,
)

# Rows of a step whose Hessians are inverted: at least so many, and numbers in these.
N_SPREAD, SIZE_OF_SPREAD = 400, 4_000_000

# Numbers in the k x k matrices of rows that are scored together.
BLOCK = 2**22

# Range of the variances of the logarithms along any direction, and rows that the
# priors of the covariance (of the identity) and of the coefficients (of 0) count as.
VARIANCES, LEAST_RATIO, PRIOR_ROWS = (1e-4, 1e4), 1e-5, 1.0

# Variance of the logarithms at first: a start from below takes many more passes.
FIRST_VARIANCE = 4.0

# How far the mean of a logarithm may be off its mode.
FARTHEST = 0.5

# Least share of the variance of the logarithms that modes are taken to have.
LEAST_SHARE = 0.02


class CorrelatedTopics(FactorModule):
    """Words of a row from topics in proportions whose logarithms are Gaussian.

    ``covariates`` of a batch, (n_rows, n_covariates), are standardised; a batch without
    them has the mean of the training rows. ``location`` and ``scale`` are those that
    they were standardised by. Local parameters are the logarithms.
    """

    is_given_total = True
    side = ("covariates",)

    def __init__(
        self,
        shape,
        location,
        scale,
        *,
        topic_word_prior,
        is_full,
        shrinkage,
        inner_iter,
    ):
        super().__init__()
        k, _ = shape
        width = 1 + len(location)
        self.location, self.scale = location, scale
        self.local_width, self.is_full, self.shrinkage = k, is_full, shrinkage
        self.inner_iter, self.n_step, self.is_stream = inner_iter, None, False
        eta = torch.tensor(np.asarray(topic_word_prior, np.float64))
        self.register_buffer("eta", eta, persistent=False)
        self.topic_counts = nn.Parameter(torch.zeros(shape))
        # Sums over rows: c c', c m' and m m', with the modes m; H^-1 and their number.
        self.design = nn.Parameter(torch.zeros(width, width))
        self.cross = nn.Parameter(torch.zeros(width, k))
        self.second = nn.Parameter(torch.zeros(k, k))
        self.spread = nn.Parameter(torch.zeros(k, k))
        self.n_spread = nn.Parameter(torch.zeros(()))
        self.register_buffer("coefficients", torch.zeros(width, k))
        self.register_buffer("covariance", torch.eye(k))

    def start(self, topic_counts, n_rows):
        """Begin with these topics, as if all rows were at the mean of the prior."""
        self.topic_counts.data.copy_(topic_counts)
        self.design.data.copy_(n_rows * identity(self.design))
        variances = FIRST_VARIANCE * identity(self.spread)
        self.spread.data.copy_(n_rows * variances)
        self.covariance.copy_(variances)
        self.n_spread.data.fill_(n_rows)

    def begin(self, budget):
        super().begin(budget)
        # Rows of a step, if known: in a stream, a chunk is one.
        self.n_step = budget.batch_size
        self.is_stream = budget.n_passes is None

    def posterior(self, batch, start=None):
        """Independent normal logarithms around the mode, with the bound's variances."""
        if self.training:
            mode = self._climbed(batch, self._means(batch), start)
        else:
            mode = self.mode(batch)
        var = self._variances(batch, mode)
        return Independent(Normal(mode, var.sqrt(), validate_args=False), 1)

    def mode(self, batch):
        """The mode of each row's logarithms, (n_rows, k), found in float64."""
        wide = batch.double()
        found = mode_of(
            wide, self._means(wide), self._wide_precision, self._wide.collapsed_weights
        )
        return found.to(batch.x.dtype)

    def proportions(self, batch):
        """The most probable proportions of the topics in each row, (n_rows, k)."""
        return self.mode(batch).softmax(1)

    def row_shares(self, batch):
        """Shares of the topics in the words of each row, (n_rows, k)."""
        weights = self.topics.collapsed_weights
        allocation = allocate(batch.x, self.mode(batch), weights)
        return shares_of_counts(allocation.row_counts(weights))

    def word_shares(self, batch):
        """Shares of the topics in each word, (n_entries, k)."""
        weights = self.topics.collapsed_weights
        allocation = allocate(batch.x, self.mode(batch), weights)
        return entry_shares(batch.x, allocation.z, weights.scaled)

    def elbo(self, batch, q=None):
        """Bound of each row in nats: with full covariances, unless ``q`` is given."""
        if q is not None:
            found = Posterior(q.mean, q.variance)
            return self._bounds(batch, found, self._means(batch), self.topics.weights)
        batch, weights = batch.double(), self._wide.weights
        means, precision = self._means(batch), self._wide_precision
        mode = mode_of(batch, means, precision, weights)
        bounds = []
        for rows in torch.arange(len(batch), device=mode.device).split(
            self._n_of_block
        ):
            part, at = batch.take(rows), mode[rows]
            curve = prior_curvature(part.totals, at.softmax(1), precision)
            tril = inverse_root(curve)
            found = Posterior(at, tril.square().sum(2), tril)
            bounds.append(self._bounds(part, found, means[rows], weights))
        return torch.cat(bounds)

    def decode(self, z):
        return z @ self.components()

    def components(self):
        return self.topics.mean()

    def topic_covariance(self):
        """Covariance of the logarithms; if full, of what is left without their mean."""
        return _centred(self.covariance) if self.is_full else self.covariance.clone()

    def sample(self, totals, generator):
        """Rows drawn at the mean of the training rows' covariates."""
        mean = self._mean_of_all().cpu().numpy()
        covariance = self.covariance.double().cpu().numpy()
        eta = generator.multivariate_normal(
            mean, covariance, size=len(totals), method="cholesky"
        )
        theta = np.exp(eta - eta.max(1, keepdims=True))
        theta /= theta.sum(1, keepdims=True)
        p = theta @ self.components().cpu().numpy().astype(np.float64)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def global_kl(self):
        return self.topics.kl()

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        means, weights = self._means(batch), self.topics.collapsed_weights
        mode = self._climbed(batch, means, start)
        allocation = allocate(batch.x, mode, weights)
        scale = -batch.weight * n_samples
        allocation.add_feature_counts(self.gradient(self.topic_counts), weights, scale)
        known, weighted = self._known(batch), scaled(mode, scale)
        self.gradient(self.design).add_(known.T @ scaled(known, scale))
        self.gradient(self.cross).add_(known.T @ weighted)
        self.gradient(self.second).add_(mode.T @ weighted)
        self._add_moments(batch, mode, known, n_samples)
        found = Posterior(mode, self._variances(batch, mode))
        return self._bounds(batch, found, means, self.topics.weights), mode

    @torch.no_grad()
    def after_step(self):
        design, cross = self.design.double(), self.cross.double()
        n_rows = design[0, 0].clamp_min(1e-12)
        coefficients = torch.linalg.solve(self._penalized_design(), cross)
        coefficients -= coefficients.mean(1, keepdim=True)
        self.coefficients.copy_(coefficients)
        cross = coefficients.T @ cross
        residual = self.second.double() - cross - cross.T
        residual += coefficients.T @ design @ coefficients
        found = residual / n_rows
        if self.n_spread > 0:
            found += self.spread.double() / self.n_spread.double()
        else:
            found += self.covariance.double()
        # Numbers that are not finite have no axes; the next bound is not finite either.
        if bool(found.isfinite().all()):
            self.covariance.copy_(self._admissible(found, n_rows))
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self.topics = Topics(self.topic_counts.detach(), self.eta)
        wide = self.covariance.double()
        root = torch.linalg.cholesky(wide)
        self.log_det = 2 * root.diagonal().log().sum()
        self._wide_precision = torch.cholesky_inverse(root)
        self._precision = self._wide_precision.to(self.covariance)
        self._wide_topics = None

    def spread_of_coefficients(self):
        """Covariances of the estimated coefficients, as two factors, float64.

        (1 + n_covariates,)^2 and (k,)^2, whose Kronecker product it is. Modes are drawn
        to the mean of the prior; the second factor is the covariance of what they would
        be if they were not, given words of the average row.
        """
        wide = self.covariance.double()
        mean = self.spread.detach().double() / self.n_spread.double().clamp_min(1e-12)
        root = torch.linalg.cholesky(wide)
        whitened = torch.linalg.solve_triangular(root, mean, upper=False)
        whitened = torch.linalg.solve_triangular(root, whitened.mT, upper=False)
        share, axes = torch.linalg.eigh(0.5 * (whitened + whitened.mT))
        # The share of the variance that words leave, which is none of the modes'.
        known = (1 - share).clamp(LEAST_SHARE, 1)
        axes = root @ axes
        # Coefficients are centred, whatever the covariance.
        of_topics = _centred((axes / known) @ axes.mT)
        return torch.linalg.inv(self._penalized_design()), of_topics

    def _penalized_design(self):
        """Sum of c c', and of rows whose covariates vary alike and logarithms are 0."""
        design = self.design.detach().double()
        mean = self._mean_known()
        spread = design.diagonal() / design[0, 0].clamp_min(1e-12) - mean.square()
        spread[0] = 1
        # Around the mean, wherever the origin is.
        around = identity(design)
        around[:, 0] = mean
        # A column that never varies gets a coefficient of 0.
        penalty = PRIOR_ROWS * spread.clamp_min(1e-6)
        return design + (around * penalty) @ around.T

    # What follows from the covariates.

    def _known(self, batch):
        """The covariates of the rows after a 1, (n_rows, 1 + n_covariates)."""
        design = self.design.detach()
        if "covariates" in batch.side and len(design) > 1:
            values = dense(batch.side["covariates"]).to(batch.x.dtype)
            return torch.cat([torch.ones_like(values[:, :1]), values], 1)
        mean = self._mean_known().to(batch.x.dtype)
        return mean.expand(len(batch), -1)

    def _mean_known(self):
        design = self.design.detach().double()
        return design[0] / design[0, 0].clamp_min(1e-12)

    def _mean_of_all(self):
        """The mean of the logarithms at the training rows' mean covariates, float64."""
        return self._mean_known() @ self.coefficients.double()

    def _means(self, batch):
        """The prior mean of each row's logarithms, in the type of the batch."""
        return self._known(batch) @ self.coefficients.to(batch.x.dtype)

    def _climbed(self, batch, means, start=None):
        """Modes of rows in training, as far as a few steps lead."""
        return climbed(
            batch,
            means if start is None else start,
            means,
            self._precision,
            self.topics.collapsed_weights,
            self.inner_iter,
        )

    def _add_moments(self, batch, mode, known, n_samples):
        """Add covariances of rows that are chosen, and how far means are off modes."""
        n_step = len(batch) if self.is_stream else self.n_step or n_samples
        n_chosen = max(N_SPREAD, SIZE_OF_SPREAD / self.local_width**2)
        share = min(1.0, n_chosen / n_step)
        if share < 1:
            drawn = keyed_uniform(batch.keys, 1, 1, stream=Stream.SPREAD)[0, :, 0]
            chosen = (drawn < share).nonzero()[:, 0]
            batch, mode, known = batch.take(chosen), mode[chosen], known[chosen]
        weights, precision = self._wide.collapsed_weights, self._wide_precision
        batch, mode, known = batch.double(), mode.double(), known.double()
        scale = batch.weight * n_samples
        if isinstance(scale, torch.Tensor):
            scale = scale.double()
        else:
            scale = torch.full_like(batch.totals, scale)
        spread, shift = torch.zeros_like(precision), torch.zeros_like(mode)
        for rows, covariance, off in moments(batch, mode, precision, weights):
            spread += scaled(covariance, scale[rows]).sum(0)
            shift[rows] = off
        # An expansion about a mode is no guide to a mean that is far from it.
        mean = mode + shift.clamp_(-FARTHEST, FARTHEST)
        cross = known.T @ scaled(shift, scale)
        second = mean.T @ scaled(mean, scale) - mode.T @ scaled(mode, scale)
        self.gradient(self.spread).sub_(spread)
        self.gradient(self.n_spread).sub_(scale.sum())
        # They stand for the rows that are not chosen.
        self.gradient(self.cross).sub_(cross / share)
        self.gradient(self.second).sub_(second / share)

    # Covariances and bounds.

    def _admissible(self, found, n_rows):
        """A covariance that the model may have, from the mean square of the rows."""
        k = len(found)
        found = (n_rows * found + PRIOR_ROWS * identity(found)) / (n_rows + PRIOR_ROWS)
        variances = found.diagonal().diag()
        if not self.is_full:
            return variances.clamp(0, VARIANCES[1]) + VARIANCES[0] * identity(found)
        found = torch.lerp(found, variances, self.shrinkage)
        found = _centred(0.5 * (found + found.T))
        along, axes = torch.linalg.eigh(found)
        # What float32 cannot hold beside the largest is no covariance in it.
        least = max(VARIANCES[0], LEAST_RATIO * float(along[-1]))
        found = _centred((axes * along.clamp(least, VARIANCES[1])) @ axes.T)
        # The shift is as wide as the others on average.
        shift = found.trace() / (k - 1) if k > 1 else found.new_ones(())
        return found + shift / k

    def _variances(self, batch, mode):
        """Variances of independent logarithms at which the bound is stationary."""
        theta = mode.softmax(1)
        curve = batch.totals[:, None].to(mode) * theta * (1 - theta)
        return 1 / (curve + self._precision.to(mode).diagonal())

    def _bounds(self, batch, q, means, weights):
        """Bound of each row for a Gaussian posterior, float64."""
        allocation = allocate(batch.x, q.mean, weights)
        bounds = allocation.log_likelihood(batch.x, weights)
        bounds -= batch.totals * log_sum_bound(q)
        precision = self._wide_precision.to(q.mean)
        apart = q.mean - means
        square = ((apart @ precision) * apart).sum(1, dtype=torch.float64)
        if q.tril is None:
            inside = q.var @ precision.diagonal()
        else:
            inside = torch.einsum("nij,ik,nkj->n", q.tril, precision, q.tril)
        kl = square + inside.double() + self.log_det - q.log_det() - q.mean.shape[1]
        return bounds - 0.5 * kl

    @property
    def _wide(self):
        """The topics in float64."""
        if self._wide_topics is None:
            counts = self.topic_counts.detach().double()
            self._wide_topics = Topics(counts, self.eta.double())
        return self._wide_topics

    @property
    def _n_of_block(self):
        """Rows whose k x k matrices are worked on at once."""
        return max(1, BLOCK // self.local_width**2)


def _centred(matrix):
    """P matrix P: the covariance of what is left without the mean."""
    matrix = matrix - matrix.mean(0, keepdim=True)
    return matrix - matrix.mean(1, keepdim=True)
