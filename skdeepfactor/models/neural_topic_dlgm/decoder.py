"""The residual decoder of NeuralTopicDLGM: a network beside the linear part.

Logits :math:`b + W (z + M g(z)) + U g(z)`, with the outputs g of the last hidden layer.
What W M adds to them, U could add too. M is there for its prior: to bend the factors
costs less than to learn weights of all features anew, and that is most of what depth
gains on new rows where data are few. Hidden weights without a prior, or that start
large, gain on the training rows alone.
"""

import math

import torch
from torch import nn

from skdeepfactor._math.networks import Decoder

# Standard deviation of the prior of hidden weights and of M, over that of W and U.
HIDDEN_SCALE = math.sqrt(0.2)

# Size of hidden weights at first, over one that keeps the length of their inputs.
HIDDEN_START = 0.3


class ResidualDecoder(Decoder):
    """A decoder with skips whose hidden layers also move the factors.

    The inputs of its last weights are ``g(z)`` and ``z + g(z) @ shift``.
    """

    def __init__(self, n_components, layers, n_features):
        super().__init__(n_components, layers, n_features, has_skips=True)
        self.shift = nn.Parameter(torch.empty(layers[-1], n_components))

    @property
    def network_parameters(self):
        """Parameters that come in after a linear start, a list."""
        return [*self.hidden.parameters(), self.shift]

    @property
    def adds_nothing(self):
        """Whether the logits are those of the linear part alone."""
        return not bool(self.hidden_weight.any() or self.shift.any())

    @torch.no_grad()
    def initialize_network(self, generator):
        """Draw the hidden layers, which add nothing at first."""
        scale = len(self.hidden.weights[0]) ** -0.5
        self.hidden.initialize(generator, input_scale=scale, output_scale=1.0)
        for weight in self.hidden.weights:
            weight.mul_(HIDDEN_START)
        self.hidden_weight.zero_()
        self.shift.zero_()

    def features(self, z):
        return self._shifted(super().features(z))

    def slopes(self, z):
        h, slopes = super().slopes(z)
        return self._shifted(h), self._shifted(slopes)

    def squared_norm(self):
        """Sum of the squares of all weights, over their variances under the prior.

        In units of the variance of the weights of the features.
        """
        weights = [*self.hidden.weights, self.shift]
        hidden = sum(w.square().sum(dtype=torch.float64) for w in weights)
        return super().squared_norm() + hidden / HIDDEN_SCALE**2

    def _shifted(self, h):
        """Inputs of the last weights, or their slopes, of plain ones, (..., width)."""
        hidden, direct = h.tensor_split([len(self.shift)], -1)
        return torch.cat([hidden, direct + hidden @ self.shift], -1)
