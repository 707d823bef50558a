"""Networks between data and factors: an encoder of sparse rows, a decoder of factors.

Their layers are plain weights, (n_inputs, n_outputs), because the first one multiplies
CSR batches, and because ``nn.Linear`` would draw from torch's global generator.
"""

import math

import torch
from torch import nn

from skdeepfactor._math.ops import (
    BLOCK,
    double_product,
    map_values,
    product,
    row_sum,
)

# Rows that tell how large the inputs of a network are.
N_TYPICAL = 1000


class Layers(nn.Module):
    """Linear layers with ReLU between them; the input may be a CSR batch.

    ``n_skipped`` inputs go into every later layer too, beside the outputs of the layer
    before.
    """

    def __init__(self, widths, *, n_skipped=0):
        super().__init__()
        inputs = [widths[0], *(width + n_skipped for width in widths[1:-1])]
        shapes = list(zip(inputs, widths[1:], strict=True))
        self.weights = nn.ParameterList([torch.empty(shape) for shape in shapes])
        self.biases = nn.ParameterList([torch.empty(width) for width in widths[1:]])
        self.n_skipped = n_skipped

    def forward(self, x, skipped=None, center=None):
        """Outputs of the layers; ``center``, if given, is first subtracted.

        Of float64 inputs they are float64 too, whatever the type of the weights.
        """
        for index, (weight, bias) in enumerate(
            zip(self.weights, self.biases, strict=True)
        ):
            if index > 0:
                x = x.relu()
                if self.n_skipped:
                    x = torch.cat([x, skipped], -1)
            if x.dim() > 2:
                x = x @ weight + bias
            else:
                multiply = product if x.dtype == weight.dtype else double_product
                x = multiply(x, weight) + bias
            if index == 0 and center is not None:
                # A CSR batch stays one.
                x = x - center @ weight
        return x

    @torch.no_grad()
    def initialize(self, generator, *, input_scale, output_scale):
        """Draw weights; inputs have length 1 / input_scale, outputs are scaled."""
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(
            zip(self.weights, self.biases, strict=True)
        ):
            scale = input_scale if index == 0 else math.sqrt(2 / weight.shape[0])
            if index == last:
                scale *= output_scale
            weight.normal_(generator=generator).mul_(scale)
            bias.zero_()


class Encoder(nn.Module):
    """The mean and the log variance of a diagonal Gaussian, from rows."""

    def __init__(self, n_inputs, layers, n_components, *, dropout):
        super().__init__()
        self.layers = Layers([n_inputs, *layers, 2 * n_components])
        self.dropout = dropout

    def forward(self, inputs, generator=None):
        """Mean and log variance, each (n_rows, n_components).

        ``generator`` draws which inputs are dropped in training mode.
        """
        if self.training and self.dropout > 0:
            kept = 1 - self.dropout

            def drop(values):
                draws = torch.rand(
                    values.shape,
                    generator=generator,
                    dtype=torch.float32,
                    device=values.device,
                )
                return values * (draws < kept) / kept

            inputs = map_values(drop, inputs)
        return self.moments(inputs)

    def moments(self, inputs):
        """Mean and log variance without dropout, in training too."""
        mean, log_var = self.layers(inputs).chunk(2, -1)
        # A variance beyond these is a network that has not learnt yet.
        return mean, log_var.clamp(-12, 6)

    def initialize(self, generator, length=1.0):
        """Draw weights for inputs of that length; the output starts near the prior."""
        self.layers.initialize(generator, input_scale=1 / length, output_scale=0.1)


class Decoder(nn.Module):
    """Logits of the features, from factors: linear, or through hidden layers."""

    def __init__(self, n_components, layers, n_features, *, has_skips):
        super().__init__()
        n_skipped = n_components if has_skips and layers else 0
        self.hidden = None
        if layers:
            self.hidden = Layers([n_components, *layers], n_skipped=n_skipped)
        width = (layers[-1] if layers else n_components) + n_skipped
        # By feature, so that products at single entries read it in place.
        self.weight = nn.Parameter(torch.empty(n_features, width))
        self.bias = nn.Parameter(torch.empty(n_features))
        self.has_skips = n_skipped > 0
        # Factors that the last weights multiply as they are.
        self.n_direct = 0 if layers and not has_skips else n_components

    @property
    def is_linear(self):
        """Whether the logits are linear in the factors."""
        return self.hidden is None

    @property
    def direct_weight(self):
        """The last weights of the factors as they are, (n_features, n_components)."""
        if self.hidden is None:
            # Not a view, by which gradients would be added up in another order.
            return self.weight
        return self.weight[:, self.weight.shape[1] - self.n_direct :]

    @property
    def hidden_weight(self):
        """The last weights of the hidden layers' outputs, (n_features, width)."""
        return self.weight[:, : self.weight.shape[1] - self.n_direct]

    def forward(self, z):
        """Logits, (..., n_features), of factors (..., n_components)."""
        return self.features(z) @ self.weight.T + self.bias

    def features(self, z):
        """Inputs of the last weights, (..., width), of factors (..., n_components)."""
        if self.hidden is None:
            return z
        h = self.hidden(z, z if self.has_skips else None).relu()
        return torch.cat([h, z], -1) if self.has_skips else h

    def slopes(self, z):
        """Inputs h of the last weights for each row of z, and their slopes dh / dz.

        Shapes (n_rows, width) and (n_rows, k, width); exact, since layers are linear
        where a ReLU is not at 0.
        """
        slope = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        slope = slope.expand(len(z), -1, -1)
        if self.hidden is None:
            return z, slope
        direct, h = slope, z
        layers = zip(self.hidden.weights, self.hidden.biases, strict=True)
        for index, (weight, bias) in enumerate(layers):
            if index > 0 and self.has_skips:
                h, slope = torch.cat([h, z], 1), torch.cat([slope, direct], 2)
            h = h @ weight + bias
            slope = weight if index == 0 else slope @ weight
            slope = slope * (h > 0)[:, None]
            h = h.relu()
        if self.has_skips:
            h, slope = torch.cat([h, z], 1), torch.cat([slope, direct], 2)
        return h, slope

    @torch.no_grad()
    def jacobian(self, z, *, of_shares):
        """The mean of d logits / dz over the rows of z, (n_features, n_components).

        For shares, the logarithms of the softmax take the place of the logits.
        """
        slope = self.weight.new_zeros(z.shape[1], self.weight.shape[1])
        average = self.weight.new_zeros(z.shape[1])
        size = max(1, BLOCK // (len(self.weight) + slope.numel()))
        for part in z.split(size):
            h, slopes = self.slopes(part)
            slope += slopes.sum(0)
            if of_shares:
                shares = (h @ self.weight.T + self.bias).softmax(1)
                average += torch.einsum("nh,nkh->k", shares @ self.weight, slopes)
        return (self.weight @ slope.T - average) / len(z)

    def squared_norm(self):
        """Sum of the squares of the weights of the features, a tensor."""
        return self.weight.square().sum(dtype=torch.float64)


def typical_length(inputs):
    """The mean length of the rows of a batch that are not empty, a float."""
    lengths = row_sum(map_values(torch.square, inputs)).sqrt()
    is_there = lengths > 0
    return float(lengths[is_there].mean()) if bool(is_there.any()) else 1.0
