"""Fitted arrays from a module, and a module from fitted arrays, on a device."""

import weakref

import numpy as np
import torch

from skdeepfactor._estimator.validation import ignores_missing
from skdeepfactor._training.optimizers import optimizer_arrays

# Modules of fitted estimators, ready for inference: outside of the estimators, so that
# they are neither pickled nor cloned, and are freed with them.
_loaded: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def loaded_module(estimator, dtype, device=None):
    """The fitted module, kept from call to call for as long as it stays the same.

    For inference alone: it must not be changed.
    """
    device = resolve_device(estimator.device, dtype) if device is None else device
    parts = [*estimator._parameters.values(), *estimator._fitted_with.values()]
    kept = _loaded.setdefault(estimator, {})
    module, made_of = kept.get((dtype, device), (None, []))
    if len(parts) != len(made_of) or any(
        new is not old for new, old in zip(parts, made_of, strict=True)
    ):
        module = load(estimator, dtype, device)
        kept[dtype, device] = module, parts
    return module


def load(estimator, dtype, device=None, *, maker=None):
    """The fitted module, made anew from its arrays.

    Of the parameters that it was fitted with, or, to resume, those of ``maker``.
    """
    device = resolve_device(estimator.device, dtype) if device is None else device
    if estimator._may_miss and not ignores_missing(estimator._fitted_with):
        raise ValueError(
            "missing_values='ignore' cannot go on from a model fitted with "
            "missing_values='error'; fit it anew."
        )
    if maker is None:
        maker = type(estimator)(**estimator._fitted_with)
    module = maker._build(estimator._fitted_sizes).to(dtype)
    state = {name: torch.tensor(a) for name, a in estimator._parameters.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            "The current parameters build a different architecture from the fitted "
            "one; restore them, or set warm_start=False."
        ) from error
    estimator._complete(module)
    module.to(device).eval().refresh()
    return module


def check_what_is_kept(estimator):
    """Raise a ``ValueError`` where what is fitted would get another meaning."""
    given = estimator.get_params(deep=False)
    for name in estimator._kept_parameters:
        value, fitted = given.get(name), estimator._fitted_with.get(name)
        if not np.array_equal(value, fitted):
            raise ValueError(
                f"{name}={value!r} cannot go on from a model fitted with "
                f"{name}={fitted!r}."
            )


def fitted_attributes(
    estimator, module, sizes, optimizer, rows, history, lower_bound, n_seen
):
    """All that a fitted estimator has, as a dict."""
    module.eval()
    parameters = estimator.get_params(deep=False)
    scale = (
        {"input_scale_": sizes["input_scale"]} if "input_scale" in parameters else {}
    )
    return {
        "_parameters": {
            name: to_numpy(tensor) for name, tensor in module.state_dict().items()
        },
        "_optimizer_state": optimizer_arrays(optimizer),
        "_fitted_with": parameters,
        "_fitted_sizes": sizes,
        "_row_totals": rows.total_levels(),
        "components_": to_numpy(module.components()),
        **scale,
        "n_iter_": len(history["lower_bound"]),
        "n_samples_seen_": n_seen,
        "lower_bound_": lower_bound,
        "history_": {name: list(values) for name, values in history.items()},
        **estimator._fitted(module),
    }


def to_numpy(tensor):
    """A copy, since modules change their tensors in place."""
    return tensor.detach().cpu().numpy().copy()


def resolve_device(name, dtype):
    """The torch device of that name, which must be there and compute in ``dtype``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"device must be 'cpu', 'cuda', 'cuda:<index>', 'mps' or 'auto', "
            f"got {name!r}."
        ) from None
    is_there = {
        "cpu": True,
        "cuda": torch.cuda.is_available()
        and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not is_there.get(device.type, False):
        raise ValueError(
            f"device={name!r} is not available on this machine; 'cpu' always is, and "
            "'auto' takes a GPU where there is one."
        )
    if device.type == "cuda" and device.index is None:
        # A thread of its own may have another current device.
        device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "mps" and dtype == torch.float64:
        raise ValueError("device='mps' cannot compute in float64; pass float32 data.")
    return device
