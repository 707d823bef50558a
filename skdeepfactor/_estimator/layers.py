"""Parameters of models with layers of units: their sizes, and which are shown."""

import itertools
import warnings

from skdeepfactor._input import is_whole


def checked_layer_sizes(layer_sizes, transform_layer):
    """The units of each layer, a tuple of ints, for a ``transform_layer`` of them."""
    if len(layer_sizes) == 0 or not all(is_whole(size, 1) for size in layer_sizes):
        raise ValueError(
            "layer_sizes must hold positive ints, one for each layer, got "
            f"{layer_sizes!r}."
        )
    transformed_layers(transform_layer, len(layer_sizes))
    return tuple(map(int, layer_sizes))


def transformed_layers(transform_layer, n_layers):
    """The numbers, from 0 on, of the layers that ``transform`` gives."""
    if transform_layer == "all":
        return list(range(n_layers))
    if transform_layer in range(1, n_layers + 1):
        return [transform_layer - 1]
    raise ValueError(
        f"transform_layer must be 'all' or from 1 to {n_layers}, the number of layers, "
        f"got {transform_layer}."
    )


def warn_of_wider_layers(layer_sizes):
    """Warn if a layer is larger than the one below it."""
    if any(above > below for below, above in itertools.pairwise(layer_sizes)):
        warnings.warn(
            f"layer_sizes={layer_sizes} has a layer that is larger than the one below "
            "it, which it should summarize.",
            stacklevel=2,
        )
