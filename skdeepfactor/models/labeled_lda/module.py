r"""Labelled latent Dirichlet allocation: topics of labels, and rows that have labels.

A topic k belongs to a label, or is shared by all. For a row n whose labels are known,
:math:`m_{nk}` is 1 if topic k is shared or belongs to one of its labels, and 0
otherwise:

.. math::
    \beta_k \sim \text{Dirichlet}(\eta), \qquad
    \theta_n \sim \text{Dirichlet}(\alpha m_n), \qquad
    x_n \sim \text{Multinomial}(N_n, \textstyle\sum_k \theta_{nk} \beta_k),

so that :math:`\theta_{nk} = 0` with certainty where :math:`m_{nk} = 0`. A row without a
label, called open, may use all topics; the expected mask of a row takes the place of
its own:

.. math::
    \alpha_{nk} = \alpha \pi_l \text{ for a topic of label } l, \quad \alpha \text{ for
    one that is shared}, \qquad
    \pi_l = \frac{\text{rows with } l + 1/2}{\text{labelled rows} + 1}.

Posteriors and updates are those of latent Dirichlet allocation, among the topics that
a row may use; the bound is one of log p(x | labels), or of log p(x) for open rows.

Labels from words, by Bayes' rule. With :math:`\Theta_l` the mean of
:math:`E[\theta_n]` over the rows that have label l and :math:`\Theta_{-l}` over the
labelled rows that have not,

.. math::
    p(v | l) = \textstyle\sum_k \Theta_{lk} E[\beta_{kv}], \qquad
    P(l | x) \propto \pi_l \textstyle\prod_v p(v | l)^{x_v}

where a row has one label; where it may have several, for each of them

.. math::
    \text{logit} P(l | x) = \text{logit} \pi_l
        + \textstyle\sum_v x_v \log (p(v | l) / p(v | \text{not } l)).

This needs no inference of the row, and accounts for topics of other labels that occur
with a label. One more row, the mean of all labelled rows, is added to each mean, so
that a label of no row, or of every row, carries no information.

Parameters, all of them sums over rows: ``topic_counts`` (K, V), ``label_proportions``,
the E[theta] of the rows with each label, (L, K), and ``labelled_proportions``, of all
labelled rows, (K,). Since proportions sum to 1, these know how many rows there are.

Ramage, Hall, Nallapati and Manning (2009), Labeled LDA: a supervised topic model for
credit attribution in multi-labeled corpora; Ramage, Manning and Dumais (2011),
Partially labeled topic models for interpretable text mining.
"""

import numpy as np
import torch
from torch import nn
from torch.distributions import Dirichlet

from skdeepfactor._math.allocation import shares_of_counts
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.ops import dense, product, scaled
from skdeepfactor._math.row_iteration import ending
from skdeepfactor._math.topics import Admixture, Topics


class LabeledTopics(FactorModule):
    """Words of a row from the topics that its labels allow, in Dirichlet proportions.

    ``labels`` of a batch, (n_rows, n_labels), are 1 where a row has a label; a row of
    zeros is open, and so is every row of a batch without them. Local parameters are
    the expected counts of the topics in a row. ``classes`` are the labels' names.
    """

    side = ("labels",)

    def __init__(
        self,
        classes,
        n_features,
        *,
        topics_per_label,
        n_shared,
        is_multilabel,
        doc_topic_prior,
        topic_word_prior,
        is_collapsed,
        inner_iter,
        tol,
    ):
        super().__init__()
        n_labels = len(classes)
        owner = np.repeat(np.arange(n_labels), topics_per_label)
        owner = np.concatenate([owner, np.full(n_shared, -1)])
        self.local_width = n_components = len(owner)
        self.classes, self.is_multilabel = classes, is_multilabel
        self.is_collapsed = is_collapsed
        self.inner_iter, self.inner_tol = inner_iter, tol
        alpha = np.full(n_components, doc_topic_prior)
        eta = np.asarray(topic_word_prior, np.float64)
        # The label of each topic, -1 for one that is shared.
        self.register_buffer("owner", torch.from_numpy(owner), persistent=False)
        self.register_buffer("alpha", torch.from_numpy(alpha), persistent=False)
        self.register_buffer("eta", torch.tensor(eta), persistent=False)
        self.topic_counts = nn.Parameter(torch.zeros(n_components, n_features))
        self.label_proportions = nn.Parameter(torch.zeros(n_labels, n_components))
        self.labelled_proportions = nn.Parameter(torch.zeros(n_components))

    def posterior(self, batch, start=None):
        batch = self._restricted(batch)
        return self.recalled(batch, self._solve(batch, start))

    def recalled(self, batch, local):
        concentration = self._rows.concentration(self._restricted(batch), local)
        return Dirichlet(concentration, validate_args=False)

    def elbo(self, batch, q=None):
        """Bound of each row in nats: given its labels with ``q``, else of words alone.

        Rows held out are thus scored like new rows, whose labels are unknown.
        """
        if q is not None:
            return self._rows.bounds(self._restricted(batch), q.concentration)[0]
        # The best q(theta) for the bound is the mean-field one.
        counts = self._solve(batch, is_collapsed=False)
        return self._rows.bounds(batch, self._rows.concentration(batch, counts))[0]

    def decode(self, z):
        return z @ self.components()

    def components(self):
        return self.topics.mean()

    def sample(self, totals, generator):
        alpha = self._rows.alpha.cpu().numpy()
        proportions = generator.dirichlet(alpha, size=len(totals))
        p = proportions @ self.components().cpu().numpy().astype(np.float64)
        return generator.multinomial(totals, p / p.sum(1, keepdims=True))

    def row_shares(self, batch):
        """Shares of the topics in the words of each row, (n_rows, n_components)."""
        return shares_of_counts(self._solve(batch))

    def word_shares(self, batch):
        """Shares of the topics in each word, (n_entries, n_components)."""
        return self._rows.word_shares(batch, self._solve(batch))

    def global_kl(self):
        return self.topics.kl()

    @torch.no_grad()
    def backward(self, batch, n_samples, start=None):
        batch = self._restricted(batch)
        counts, bounds, allocation, weights, _ = self._rows.step(
            batch, start, **ending(self)
        )
        scale = -batch.weight * n_samples
        allocation.add_feature_counts(self.gradient(self.topic_counts), weights, scale)
        of_label = self.gradient(self.label_proportions)
        of_all = self.gradient(self.labelled_proportions)
        if "labels" in batch.side:
            concentration = self._rows.concentration(batch, counts)
            proportions = concentration / concentration.sum(1, keepdim=True)
            proportions = scaled(proportions, scale)
            labels = dense(batch.side["labels"])
            of_label.add_(labels.T @ proportions)
            of_all.add_(proportions[labels.any(1)].sum(0))
        return bounds, counts

    @torch.no_grad()
    def refresh(self):
        share = self.label_share().to(self.alpha)[self.owner.clamp_min(0)]
        open_alpha = self.alpha * torch.where(self.owner < 0, 1, share)
        self.topics = Topics(self.topic_counts.detach(), self.eta)
        self._rows = Admixture(self.topics, open_alpha, is_collapsed=self.is_collapsed)
        self._evidence = None

    def label_share(self):
        """How often a labelled row has each label, (n_labels,), float64."""
        n_rows = self.label_proportions.detach().sum(1, dtype=torch.float64)
        n_labelled = self.labelled_proportions.detach().sum(dtype=torch.float64)
        return (n_rows + 0.5) / (n_labelled + 1)

    def label_scores(self, batch):
        """Log p(label, x) of each label, or its log odds, (n_rows, n_labels), float64.

        Log odds if a row may have several labels; both up to terms that labels share.
        """
        if self._evidence is None:
            self._evidence = self._label_evidence()
        of_words, offset = self._evidence
        return product(batch.double().x, of_words) + offset

    def label_probabilities(self, batch):
        """P(label | x), (n_rows, n_labels), float64."""
        scores = self.label_scores(batch)
        return scores.sigmoid() if self.is_multilabel else scores.softmax(1)

    def label_log_probabilities(self, batch):
        """Log P(label | x), (n_rows, n_labels), float64."""
        scores = self.label_scores(batch)
        if self.is_multilabel:
            return nn.functional.logsigmoid(scores)
        return scores.log_softmax(1)

    def _label_evidence(self):
        """Evidence of words for labels, (n_features, n_labels), and the priors."""
        of_label = self.label_proportions.detach().double()
        of_all = self.labelled_proportions.detach().double()
        prior = self._rows.alpha.double()
        mean = (of_all + prior / prior.sum()) / (of_all.sum() + 1)
        topics, share = self.components().double(), self.label_share()
        present = self._log_words(of_label, mean, topics)
        if not self.is_multilabel:
            return present.contiguous(), share.log()
        others = (of_all - of_label).clamp_min(0)
        absent = self._log_words(others, mean, topics)
        return (present - absent).contiguous(), share.logit()

    @staticmethod
    def _log_words(proportions, mean, topics):
        """Log p(word), (n_features, n_labels), of rows whose sums are given."""
        shares = (proportions + mean) / (proportions.sum(1, keepdim=True) + 1)
        return (shares @ topics).log().T

    def _restricted(self, batch):
        """The batch with the topics that each row may use, and their prior."""
        if "labels" not in batch.side:
            return batch
        labels = dense(batch.side["labels"]) > 0
        is_open = ~labels.any(1, keepdim=True)
        allowed = labels[:, self.owner.clamp_min(0)] | (self.owner < 0) | is_open
        alpha = torch.where(is_open, self._rows.alpha, self.alpha)
        return batch.with_side(allowed=allowed, alpha=alpha)

    def _solve(self, batch, start=None, is_collapsed=None):
        """Expected counts of the topics in each row, from ``start`` or from none."""
        options = ending(self)
        return self._rows.solve(batch, start, is_collapsed=is_collapsed, **options)
