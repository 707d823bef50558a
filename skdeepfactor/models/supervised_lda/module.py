r"""Supervised latent Dirichlet allocation: topics that explain words and an answer.

A row n has words, and perhaps an answer :math:`y_n`, a class or a number:

.. math::
    \beta_k \sim \text{Dirichlet}(\eta + 1), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha), \qquad
    x_n \sim \text{Multinomial}(N_n, \textstyle\sum_k \theta_{nk} \beta_k), \qquad
    y_n \sim p(y \mid W \hat\theta_n + b),

a categorical distribution whose logits are :math:`W \hat\theta_n + b`, or a normal one
of variance 1 around it, for numbers that were standardised. Topics, W and b are point
estimates.

Answers are predicted from words alone, so the proportions that they depend on are
those that words alone give: :math:`\hat\theta_n` is the result of a fixed number of
steps, from even proportions, of

.. math::
    \theta_{nk} \leftarrow \alpha_k + c_{nk}, \qquad
    c_{nk} = \theta_{nk} \textstyle\sum_v x_{nv}^\rho \beta_{kv} / p_{nv}, \qquad
    p_{nv} = \textstyle\sum_k \theta_{nk} \beta_{kv}

(the collapsed updates of latent Dirichlet allocation), divided by its sum. A power
:math:`\rho` below 1 accounts for repetition: a word that occurs again says less about
a row than a new one; with 0 a word counts once (and :math:`0^0 = 0`). Were the answer a
part of the posterior, proportions would lean on it while training, and on nothing where
it is to be predicted. Each row adds to the objective

.. math::
    L_n = \textstyle\sum_v x_{nv} \log \sum_k \hat\theta_{nk} \beta_{kv}
        + \lambda u_n (\log p(y_n \mid W \hat\theta_n + b)),

where :math:`\lambda` is the weight of an answer, :math:`u_n` that of its class, and
rows without an answer have the first term alone. With ``unlabeled_weight``, :math:`w`,
rows without a class have the expectation of the second as well, times :math:`w`, over
the classes that a mixture of multinomials gives them before training; ``expected.py``
has it. Priors add :math:`\sum_{kv} \eta_v
\log \beta_{kv}` and :math:`-\lambda \|W\|^2 / (2 C)`.

Gradients. The first term is differentiated with :math:`\hat\theta_n` fixed, as it is
near its optimum, if :math:`\rho` is 1: topics move to where expected counts would take
them. The second is differentiated through the last steps of inference
(``expected_counts`` has the derivative), by which topics become such that words alone
tell the answer. The earlier steps, whose influence the later ones forget, count as
constants.

The bound of new rows is the mean-field one of latent Dirichlet allocation with these
topics, so below log p(x | topics).

Blei and McAuliffe (2007), Supervised topic models; Chen, Bugbee and others (2015),
End-to-end learning of LDA by mirror-descent back propagation; Hughes, Hope, Weiner and
others (2018), Semi-supervised prediction-constrained topic models.
"""

import numpy as np
import torch
from torch import nn
from torch.distributions import Dirichlet

from skdeepfactor._math.allocation import (
    Weights,
    entry_shares,
    expected_counts,
    shares_of_counts,
)
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import (
    dense,
    map_values,
    products_at_entries,
    scaled,
)
from skdeepfactor._math.row_iteration import MAX_STEPS
from skdeepfactor._math.topics import Admixture

# Steps of inference that gradients of answers go through.
N_STEPS_BACK = 5
# Smallest probability of a word in a topic: whatever the logits, x / p stays finite.
SMALLEST = 1e-12


class Classes:
    """Answers that are classes: an indicator, and rows of zeros where none is known.

    Parameters
    ----------
    names : ndarray of shape (n_classes,)
    weights : ndarray of shape (n_classes,)
        How much an answer of each class counts.
    """

    def __init__(self, names, weights):
        self.names, self.weights, self.width = names, weights, len(weights)

    def log_likelihood(self, scores, answers):
        """Weighted log p(y) of each row, float64; 0 where no class is known."""
        weights = torch.from_numpy(self.weights).to(scores)
        log_p = scores.log_softmax(1).double()
        return (dense(answers) * weights * log_p).sum(1)


class Numbers:
    """Answers that are numbers, standardised; NaN where none is known.

    ``moments`` have the mean and the scale that they had before.
    """

    width = 1

    def __init__(self, moments):
        self.moments = moments

    def log_likelihood(self, scores, answers):
        """Log p(y) of each row, float64; 0 where no number is known."""
        error = torch.where(answers.isnan(), 0, scores - answers.nan_to_num())
        return -0.5 * error.double().square().sum(1)


class PointTopics:
    """Topics that are known: what an ``Admixture`` needs of them."""

    def __init__(self, log_topics):
        self.weights = self.collapsed_weights = Weights.from_mean_log(
            lambda features: log_topics[:, features], log_topics.shape, log_topics
        )


class SupervisedTopics(FactorModule):
    """Words of a row from topics, and an answer that is linear in their proportions.

    A batch may have ``answers`` among its ``side``, in the form that ``kind`` takes.
    """

    is_given_total = True
    side = ("answers",)

    def __init__(
        self,
        kind,
        *,
        shape,
        supervision,
        C,
        count_power,
        word_dropout,
        doc_topic_prior,
        topic_word_prior,
        inner_iter,
        tol,
    ):
        super().__init__()
        n_components, _ = shape
        self.kind, self.supervision, self.C = kind, supervision, C
        self.count_power, self.word_dropout = count_power, word_dropout
        self.inner_iter, self.inner_tol = inner_iter, tol
        alpha = np.broadcast_to(np.asarray(doc_topic_prior, float), (n_components,))
        eta = torch.tensor(np.asarray(topic_word_prior, float))
        self.register_buffer("alpha", torch.tensor(alpha), persistent=False)
        self.register_buffer("eta", eta, persistent=False)
        self.logits = nn.Parameter(torch.zeros(shape))
        self.coef = nn.Parameter(torch.zeros(kind.width, n_components))
        self.intercept = nn.Parameter(torch.zeros(kind.width))

    @property
    def work_width(self):
        return len(self.alpha)

    def seed(self, seed):
        device = self.alpha.device
        self.generator = torch.Generator(device).manual_seed(seed)

    def posterior(self, batch, start=None):
        with torch.no_grad():
            concentration = self._concentration(self._evidence(batch), self._topics())
        return Dirichlet(concentration, validate_args=False)

    def elbo(self, batch, q=None):
        """Bound of each row's words in nats, and of its answer where it has one."""
        if q is None:
            # The best q(theta) for the bound is the mean-field one.
            counts = self._rows.solve(
                batch, max_steps=MAX_STEPS, tol=self.inner_tol, is_final=True
            )
            bounds = self._rows.bounds(batch, self.alpha + counts)[0]
            q = self.posterior(batch) if "answers" in batch.side else None
        else:
            bounds = self._rows.bounds(batch, q.concentration)[0]
        if "answers" in batch.side:
            bounds = bounds + self._answer_bounds(batch, q.mean)
        return bounds

    def word_bound(self, batch):
        return self.elbo(batch)

    def decode(self, z):
        return z @ self.components()

    def components(self):
        return self.logits.detach().softmax(1)

    def sample(self, totals, generator):
        proportions = generator.dirichlet(self.alpha.cpu().numpy(), size=len(totals))
        p = proportions @ self.components().cpu().numpy().astype(np.float64)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def global_kl(self):
        """Minus the log density of the parameters that rows do not have."""
        log_topics = self.logits.double().log_softmax(1)
        of_coef = self.supervision / (2 * self.C) * self.coef.double().square().sum()
        return of_coef - (self.eta.double() * log_topics).sum()

    def row_shares(self, batch):
        """Shares of the topics in the words of each row, (n_rows, n_components)."""
        theta, topics = self.posterior(batch).concentration, self._topics().detach()
        return shares_of_counts(expected_counts(batch.counts, theta, topics))

    def word_shares(self, batch):
        """Shares of the topics in each word, (n_entries, n_components)."""
        theta = self.posterior(batch).concentration
        return entry_shares(batch.x, theta, self._topics().detach())

    def scores(self, batch):
        """W theta + b of each row, (n_rows, width)."""
        return self._linear(self.posterior(batch).mean)

    def backward(self, batch, n_samples, start=None):
        topics = self._topics()
        evidence = self._with_gaps(self._evidence(batch))
        concentration = self._concentration(evidence, topics)
        theta = concentration / concentration.sum(1, keepdim=True)
        words = self._word_log_likelihood(batch, theta.detach(), topics)
        answers = 0
        if "answers" in batch.side:
            answers = self._answer_bounds(batch, theta)
        loss = batch.share / n_samples * self.global_kl()
        loss = loss - scaled(words + answers, batch.weight).sum()
        loss.backward()
        with torch.no_grad():
            bounds = self._rows.bounds(batch, concentration)[0] + answers
        return bounds.detach(), None

    @torch.no_grad()
    def refresh(self):
        log_topics = self.logits.detach().log_softmax(1)
        self._rows = Admixture(PointTopics(log_topics), self.alpha, is_collapsed=False)

    def _topics(self):
        """Probabilities of the words, (n_features, n_components)."""
        return self.logits.softmax(1).T.contiguous().clamp_min(SMALLEST)

    def _linear(self, theta):
        return nn.functional.linear(theta, self.coef, self.intercept)

    def _answer_bounds(self, batch, theta):
        """Log likelihood of each row's answer, times its weight, float64."""
        found = self.kind.log_likelihood(self._linear(theta), batch.side["answers"])
        return self.supervision * found

    def _concentration(self, x, topics):
        """Alpha plus the expected counts of the topics, to be differentiated."""
        fixed = topics.detach()
        n_back = min(N_STEPS_BACK, self.inner_iter) if topics.requires_grad else 0
        theta = self.alpha.expand(x.shape[0], -1)
        with torch.no_grad():
            for _ in range(self.inner_iter - n_back):
                theta = self.alpha + expected_counts(x, theta, fixed)
        for _ in range(n_back):
            theta = self.alpha + expected_counts(x, theta, topics)
        return theta

    def _evidence(self, batch):
        """Counts to a power, from which proportions are inferred."""
        if self.count_power == 1:
            return batch.counts

        def power(values):
            return torch.where(values > 0, values**self.count_power, 0)

        return map_values(power, batch.counts)

    def _with_gaps(self, x):
        """The rows without a random part of their words, the rest scaled up."""
        if not (self.training and self.word_dropout):
            return x
        kept = 1 - self.word_dropout

        def drop(values):
            draws = torch.rand(
                values.shape,
                generator=self.generator,
                dtype=values.dtype,
                device=values.device,
            )
            # A floor, since a row that loses all is still one of its words.
            return values * torch.where(draws < kept, 1 / kept, 1e-6)

        return map_values(drop, x)

    @staticmethod
    def _word_log_likelihood(batch, theta, topics):
        """Log likelihood of each row's words given proportions, float64."""
        p = products_at_entries(batch.counts, theta, topics)
        return batch.entries.row_sum(batch.entries.values * p.double().log())
