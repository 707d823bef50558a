"""Fitted models with fewer components, which are sums of those of another."""

import copy

import numpy as np
import torch

from skdeepfactor._estimator.arrays import (
    as_fitted,
    fitted_dtype,
    load,
    names_of_arrays,
    shown_attributes,
    take_up,
    to_numpy,
)


def merged(estimator, groups):
    """A fitted estimator, each of whose components is the sum of some of another's.

    ``groups`` has the indices of these for each; components in no group are dropped.
    Expected statistics of the rows are summed, and posteriors of rows are inferred from
    these sums. Passes made before are still in ``history_``; the bound of the training
    data is not known without them.
    """
    module = load(estimator, fitted_dtype(estimator), torch.device("cpu"))
    parameters, tensors = as_fitted(estimator)._merged(module, groups)
    parameters["n_components"] = len(groups)
    init = estimator._fitted_with.get("init")
    if init is not None and not isinstance(init, str):
        parameters["init"] = group_sums(np.asarray(init), groups)
    new = type(estimator).__new__(type(estimator))
    vars(new).update(vars(estimator))
    arrays = {name: to_numpy(tensor) for name, tensor in tensors.items()}
    take_up(
        new,
        {
            **parameters,
            "_fitted_with": {**estimator._fitted_with, **parameters},
            "_parameters": {**estimator._parameters, **arrays},
            "_local": None,
            "_first_rows": None,
            "history_": copy.deepcopy(estimator.history_),
            "lower_bound_": float("nan"),
        },
    )
    shown = shown_attributes(new)
    take_up(new, {"_derived": names_of_arrays(shown), **shown})
    return new


def group_sums(values, groups):
    """Sums over the components of each group, along the first axis."""
    return _stacked([values[group].sum(0) for group in groups])


def group_means(values, groups):
    """Means over the components of each group, along the first axis."""
    return _stacked([values[group].mean(0) for group in groups])


def summed_prior(prior, n_components, groups):
    """The parameter of the sum of variables with this one, an array or a float.

    A sum of independent gamma variables of one rate, or of parts of a Dirichlet
    variable, has the sum of their parameters.
    """
    sums = group_sums(np.broadcast_to(np.asarray(prior), n_components), groups)
    return float(sums[0]) if (sums == sums[0]).all() else sums


def mean_prior(prior, groups):
    """The mean of a prior's parameter over merged components, if each has its own."""
    if isinstance(prior, str) or np.ndim(prior) < 2:
        return prior
    return group_means(np.asarray(prior), groups)


def _stacked(parts):
    return torch.stack(parts) if isinstance(parts[0], torch.Tensor) else np.stack(parts)
