"""The contract of a model, as a torch module."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from skdeepfactor._math.ops import scaled


class FactorModule(nn.Module, ABC):
    """A generative model of rows with a posterior over the factors of each.

    A batch ``x`` is a strided or a CSR tensor of shape (n_rows, n_features). Global
    parameters are ``nn.Parameter``; what is learnt without the optimizer is a buffer.
    In training mode inference may be cut short (the loop comes back to a row, and
    starts from what it remembers of it); in evaluation mode it converges.
    """

    #: Width of the local parameters that the loop remembers for each row; 0 for none.
    local_width = 0

    #: Whether steps on all rows, where they may lower the bound, are taken back if so.
    is_guarded = False

    #: How many earlier ones those steps are extrapolated from; 0 for none.
    acceleration = 0

    #: Names of the parameters that a step on all rows replaces, unread.
    statistics: tuple = ()

    #: The ``torch.Generator`` of what the module draws in training, if it does.
    generator = None

    @property
    def work_width(self):
        """Numbers that a row takes while it is worked on, by which rows are cut."""
        return self.local_width

    def seed(self, seed):
        """Seed what the module draws in training."""

    @abstractmethod
    def posterior(self, x, start=None):
        """q(z | x), a ``torch.distributions.Distribution`` with one element per row.

        ``start`` holds local parameters, (n_rows, local_width), to go on from.
        """

    @abstractmethod
    def elbo(self, x, q=None):
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

    def word_bound(self, x):
        """Bound of each row's counts as words in order, given their number.

        This is what perplexity is made of. Models of counts given their number have it
        in ``elbo`` already.
        """
        return self.elbo(x)

    def data_bound(self, batches):
        """The bound of all rows, in nats, less the divergence of the globals.

        ``batches()`` yields each batch, the local parameters to go on from, if any, and
        how often its rows count: 1, or a tensor (n_rows,).
        """
        bound = -float(self.global_kl())
        for x, start, weight in batches():
            bounds = self.elbo(x, self.posterior(x, start))
            bound += scaled(bounds, weight).sum().item()
        return bound

    def global_kl(self):
        """KL divergence of the posterior over global parameters from its prior."""
        return 0.0

    def backward(self, x, weight, n_samples, start=None):
        """Add one batch's share to ``.grad``, and give back what the loop keeps.

        The gradient of a step is a sum over its batches, so all of them get the same
        ``weight``, 1 / the number of rows in the step. Models whose ``fit`` has
        ``sample_weight`` get a tensor (n_rows,) where it is given, each row's share of
        the step's sum of weights; ``n_samples`` is then a sum of weights too. For
        parameters with a conjugate posterior it is minus the expected statistics of all
        ``n_samples`` rows, estimated from these, for ``NaturalGradient`` to follow. By
        default it is the gradient of minus the bound per row.

        Returns
        -------
        bounds : Tensor of shape (n_rows,)
            The bound of each row under the parameters before the step.
        local : Tensor of shape (n_rows, local_width) or None
            The local parameters to remember.
        """
        bounds = self.elbo(x)
        share = weight * x.shape[0]
        loss = share / n_samples * self.global_kl() - weight * bounds.sum()
        loss.backward()
        return bounds.detach(), None

    def positions(self, table):
        """What is extrapolated from step to step, where ``acceleration`` says so.

        Pairs of tensors of one shape: positive numbers, to be written to, and how much
        a change in the logarithm of each counts. ``table`` holds the local parameters
        of all rows.
        """
        return []

    @staticmethod
    def gradient(parameter):
        """A parameter's ``.grad``, to be added to; zeros at first."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad

    def after_step(self):
        """Update what follows from the parameters in closed form. Called after a step.

        Priors learnt by empirical Bayes belong here. Ends with ``refresh``.
        """
        self.refresh()

    def refresh(self):
        """Recompute cached functions of parameters and buffers."""
