"""The contract of a model, as a torch module."""

from abc import ABC, abstractmethod
from numbers import Integral

import torch
from torch import nn

from skdeepfactor._math.batch import Wanted
from skdeepfactor._math.ops import scaled


class FactorModule(nn.Module, ABC):
    """A generative model of rows with a posterior over the factors of each.

    It gets rows as a ``Batch``. Global parameters are ``nn.Parameter``; values learnt
    without the optimizer are buffers. In training mode, inference may stop early, since
    the loop comes back to a row and resumes from what it remembers; in evaluation mode,
    it converges.
    """

    #: Width of the local parameters that the loop remembers for each row; 0 for none.
    local_width = 0

    #: Whether training is mostly compiled loops, to which torch leaves its threads.
    has_loops = False

    #: Whether the loop keeps notes about parts of all rows, too; see ``backward``.
    takes_notes = False

    #: Whether rows are given their totals, so that ``decode`` gives shares.
    is_given_total = False

    #: Whether the shape of a prior is learnt, which takes cold passes to settle.
    learns_shape = False

    #: Whether counts are shared by expected counts: steps are then not sure to climb.
    is_collapsed = False

    #: Updates in the whole of this training; None in a stream, and without training.
    n_total = None

    #: Whether batches may have missing entries.
    may_miss = False

    #: Names of the arrays of rows that it wants beside the data; see ``Batch.side``.
    side: tuple = ()

    #: The ``torch.Generator`` of the module's draws in training, if any.
    generator = None

    @property
    def work_width(self):
        """Values that a row takes while it is worked on; it sets the size of parts."""
        return self.local_width

    def wanted(self):
        """Format of batches: on the module's device, in its floating type."""
        like = next(self.parameters())
        return Wanted(
            self.work_width, like.device, like.dtype, self.may_miss, self.side
        )

    def begin(self, budget):
        """Note the budget of this training, a ``Budget``."""
        self.n_total = budget.n_updates

    def seed(self, seed):
        """Seed the draws of the module in training."""

    @abstractmethod
    def posterior(self, batch, start=None):
        """q(z | x), a ``torch.distributions.Distribution`` with one element per row.

        ``start`` holds local parameters, (n_rows, local_width), to resume from.
        """

    def recalled(self, batch, local):
        """q(z | x) that remembered local parameters, (n_rows, local_width), stand for.

        A module whose full steps raise the bound makes it of them as they are, so that
        ``elbo`` at it is the bound of its parameters without further inference.
        """
        return self.posterior(batch, local)

    @abstractmethod
    def elbo(self, batch, q=None):
        """Evidence lower bound of each row in nats, float64, shape (n_rows,).

        The divergence of the global parameters is left out.
        """

    @abstractmethod
    def decode(self, z):
        """E[x | z], shape (n_rows, n_features)."""

    @abstractmethod
    def components(self):
        """The factors in the space of the features, (n_components, n_features)."""

    @abstractmethod
    def sample(self, totals, generator):
        """Rows drawn from the model, an array of shape (len(totals), n_features).

        ``totals`` holds the number of counts of each row, for models that are given
        it; ``generator`` is a ``numpy.random.Generator``.
        """

    def word_bound(self, batch):
        """Bound of each row's counts as words in order, given their number.

        Perplexity is computed from it. For models of counts given their number, it
        equals ``elbo``.
        """
        return self.elbo(batch)

    def data_bound(self, batches):
        """Bound of all rows in nats, minus the divergence of global parameters.

        ``batches()`` yields each batch, whose weight is how often its rows count, and
        the local parameters to resume from, if any.
        """
        bound = -float(self.global_kl())
        for batch, start in batches():
            bounds = self.elbo(batch, self.posterior(batch, start))
            bound += scaled(bounds, batch.weight).sum().item()
        return bound

    def global_kl(self):
        """KL divergence of the posterior over global parameters from its prior."""
        return 0.0

    def backward(self, batch, n_samples, start=None):
        """Add one batch's share to ``.grad``; return bounds and local parameters.

        The gradient of a step is a sum over its batches, whose weights sum to 1: each
        row's is its share of the step. ``n_samples`` is the number of rows that the
        model is of, or the sum of their weights. For parameters with a conjugate
        posterior the gradient is minus the expected statistics of all ``n_samples``
        rows, estimated from these, for ``NaturalGradient`` to follow. By default it is
        the gradient of minus the bound per row.

        Returns
        -------
        bounds : Tensor of shape (n_rows,)
            The bound of each row under the parameters before the step.
        local : Tensor of shape (n_rows, local_width) or None
            The local parameters to remember. With ``takes_notes``, they and ``start``
            are pairs, of which the second is None or what is to be found again with
            these rows: an object that has a tensor, ``state``, which alone is found
            after a checkpoint and with rows of a stream.
        """
        bounds = self.elbo(batch)
        loss = batch.share / n_samples * self.global_kl()
        loss = loss - scaled(bounds, batch.weight).sum()
        loss.backward()
        return bounds.detach(), None

    @staticmethod
    def gradient(parameter):
        """A parameter's ``.grad``, dense, to be added to; zeros at first."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()
        return parameter.grad

    def after_step(self):
        """Update values that follow from the parameters in closed form, after a step.

        Priors learnt by empirical Bayes belong here. Ends with ``refresh``.
        """
        self.refresh()

    def refresh(self):
        """Recompute cached functions of parameters and buffers."""


def in_updates(warmup, n_total):
    """A warm-up in updates, a float, of updates (int) or a share of training (float).

    A share of training is undefined for a stream.
    """
    if isinstance(warmup, Integral):
        return float(warmup)
    return float(warmup) * (n_total or 0)
