"""Fitted arrays from a module, and a module from fitted arrays, on a device."""

import inspect
import warnings
import weakref

import numpy as np
import torch
from sklearn.exceptions import InconsistentVersionWarning

from skdeepfactor._estimator.environment import own_environment
from skdeepfactor._estimator.validation import ignores_missing
from skdeepfactor._training.optimizers import optimizer_arrays
from skdeepfactor._version import __version__

# Modules of fitted estimators, ready for inference: outside of the estimators, so that
# they are neither pickled nor cloned, and are freed with them.
_loaded: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

# Fitted arrays that users do not see.
OWN = ("_parameters", "_optimizer_state", "_row_totals")


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
            "missing_values='ignore' cannot continue from a model fitted with "
            "missing_values='error'; fit it anew."
        )
    module = (maker or as_fitted(estimator))._build(estimator._fitted_sizes).to(dtype)
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


def as_fitted(estimator):
    """Fit with the parameters that it was made with."""
    # Not by its constructor, which may take fewer of these.
    twin = type(estimator).__new__(type(estimator))
    vars(twin).update({**vars(estimator), **estimator._fitted_with})
    return twin


def check_what_is_kept(estimator):
    """Raise a ``ValueError`` if the fitted arrays would get another meaning."""
    given = parameters_of(estimator)
    for name in estimator._kept_parameters:
        value, fitted = given.get(name), estimator._fitted_with.get(name)
        if not np.array_equal(value, fitted):
            raise ValueError(
                f"{name}={value!r} cannot continue from a model fitted with "
                f"{name}={fitted!r}."
            )


def constructor_parameters(kind):
    """Parameters of a class, and of those that it derives from, by name.

    A derived class may give some of them a value, instead of taking it.
    """
    found = {}
    for parent in reversed(kind.__mro__):
        if parent is not object and "__init__" in vars(parent):
            found.update(inspect.signature(parent.__init__).parameters)
    return found


def parameters_of(estimator):
    """Settings of an estimator by name, whether its constructor takes them or not."""
    values = vars(estimator)
    names = constructor_parameters(type(estimator))
    return {name: values[name] for name in names if name in values}


def fitted_attributes(
    estimator,
    module,
    sizes,
    optimizer,
    rows,
    history,
    lower_bound,
    n_seen,
    *,
    is_stream,
):
    """All that a fitted estimator has, as a dict.

    Of a stream that is all that its next step starts from; after a ``fit`` the moments
    of gradients, as large as the parameters, are left out.
    """
    module.eval()
    keeps_steps = is_stream or not optimizer.has_moments
    shown = _shown(estimator, module)
    has_scale = "input_scale" in constructor_parameters(type(estimator))
    return {
        "_parameters": {
            name: to_numpy(tensor) for name, tensor in module.state_dict().items()
        },
        "_optimizer_state": optimizer_arrays(optimizer) if keeps_steps else {},
        "_fitted_with": parameters_of(estimator),
        "_fitted_sizes": sizes,
        "_row_totals": rows.total_levels(),
        "_local": None,
        "_first_rows": None,
        "_derived": names_of_arrays(shown),
        "n_iter_": len(history["lower_bound"]),
        "n_samples_seen_": n_seen,
        "lower_bound_": lower_bound,
        "history_": {name: list(values) for name, values in history.items()},
        **({"input_scale_": sizes["input_scale"]} if has_scale else {}),
        **shown,
    }


def _shown(estimator, module):
    """Fitted attributes that show the parameters to users."""
    components = to_numpy(module.components())
    return {"components_": components, **estimator._fitted(module)}


def _is_arrays(value):
    """Whether a fitted attribute is an array, or some of them."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(v, np.ndarray) for v in values)


def take_up(estimator, attributes):
    """Set fitted attributes, whose arrays are then read-only.

    What was made of them would not follow a change.
    """
    vars(estimator).update(attributes)
    for name, value in vars(estimator).items():
        # Parameters are the caller's.
        if name.endswith("_") or name in OWN:
            _protect(value)


def _protect(value):
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    elif isinstance(value, dict):
        for part in value.values():
            _protect(part)
    elif isinstance(value, list) and _is_arrays(value):
        for part in value:
            _protect(part)


def are_finite(attributes):
    """Whether all parameters, and the attributes made of them, are finite."""
    arrays = list(attributes["_parameters"].values())
    for name in attributes["_derived"]:
        value = attributes[name]
        arrays += value if isinstance(value, list) else [value]
    numbers = (array for array in arrays if array.dtype.kind == "f")
    return all(bool(np.isfinite(array).all()) for array in numbers)


def pickled_state(estimator):
    """State of an estimator to pickle: each number once, and the version."""
    state = dict(vars(estimator))
    for name in state.get("_derived", ()):
        state.pop(name, None)
    # As large as the data: it lives as long as the estimator does.
    state.pop("_local", None)
    state["_skdeepfactor_version"] = __version__
    return state


@own_environment()
def restore(estimator, state):
    """Restore a pickled state, and derive the rest.

    Warns
    -----
    InconsistentVersionWarning
        If another version has pickled it. Parameters that it did not have get their
        defaults.
    """
    state = dict(state)
    version = state.pop("_skdeepfactor_version", "before 0.1.0")
    if version != __version__:
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=type(estimator).__name__,
                current_sklearn_version=__version__,
                original_sklearn_version=version,
            ),
            stacklevel=2,
        )
    known = constructor_parameters(type(estimator)).items()
    defaults = {
        name: parameter.default
        for name, parameter in known
        if parameter.default is not inspect.Parameter.empty
    }
    take_up(estimator, {**defaults, **state})
    if "_derived" not in state:
        return
    estimator._fitted_with = {**defaults, **estimator._fitted_with}
    if estimator._derived:
        shown = shown_attributes(estimator)
        take_up(estimator, {name: shown[name] for name in estimator._derived})


def fitted_dtype(estimator):
    """The type of the numbers that a model was fitted to."""
    are_double = [a.dtype == np.float64 for a in estimator._parameters.values()]
    return torch.float64 if any(are_double) else torch.float32


def shown_attributes(estimator):
    """Fitted attributes that show the parameters, made anew."""
    fitted = as_fitted(estimator)
    # A GPU that it was fitted on need not be here.
    return _shown(fitted, load(fitted, fitted_dtype(estimator), torch.device("cpu")))


def names_of_arrays(shown):
    """Names of the attributes that pickles leave out."""
    return [name for name, value in shown.items() if _is_arrays(value)]


def to_numpy(tensor):
    """A copy, since modules change their tensors in place."""
    return tensor.detach().cpu().numpy().copy()


def resolve_device(name, dtype):
    """The torch device of that name, which must be there and compute in ``dtype``."""
    if name == "cpu":
        return torch.device("cpu")
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
