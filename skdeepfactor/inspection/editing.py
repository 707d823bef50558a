"""Fitted models with components that are merged, dropped or named."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from skdeepfactor._input import is_whole
from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import listed


def merge_components(estimator: Any, groups: Sequence[Any]) -> Any:
    r"""Merge components that are about the same into one.

    A merged component has the expected counts of all those in its group: fitted as if
    every count that any of them explains had been explained by it. The prior of its
    factors is that of the sum of theirs: concentrations ``doc_topic_prior`` and shapes
    ``factor_shape`` are added up. Inference then runs as before, so that
    ``transform(X)`` is not exactly the sum of columns.

    Parameters
    ----------
    estimator : LatentDirichletAllocation, MultinomialMixture or PoissonFactorization
        Fitted; or a pipeline that ends in one. It is not modified.
    groups : list of list of int, or list of int
        Indices of the components to merge, two or more in each group, and no index
        twice. A list of indices is one group.

    Returns
    -------
    object
        A fitted estimator of the same class, or a pipeline that ends in it. A merged
        component takes the place of the first of its group; the others keep their
        order. Names (:func:`name_components`) are joined by " + ". ``lower_bound_`` is
        NaN, since the bound of the training data is not known without these;
        ``history_`` is that of the fit.

    Raises
    ------
    ValueError
        If an index is out of range or occurs twice, or a group has fewer than two.
    TypeError
        If the components of such an estimator cannot be added up.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    drop_components : Leaves components out.
    match_components : Finds pairs of similar components of two fits.
    name_components : Gives components names.

    Notes
    -----
    Priors of topics or weights that differ from component to component are averaged
    over a group. ``set_params`` and ``clone`` see ``n_components`` and the priors of
    the merged model; a prior of factors that is learnt (``"auto"``) continues to be
    learnt from there, except that a learnt ``factor_shape`` becomes an array.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.inspection import merge_components
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(5, random_state=0).fit(X)
    >>> merged = merge_components(lda, [[0, 2], [1, 4]])
    >>> merged.transform(X).shape
    (200, 3)
    >>> lda.components_.shape, merged.components_.shape
    ((5, 50), (3, 50))
    """
    model, _ = reading.last_step(estimator)
    n_components = len(reading.components_of(model))
    merged = _checked_groups(groups, n_components)
    known = {index for group in merged for index in group}
    alone = [[index] for index in range(n_components) if index not in known]
    return _with_last(estimator, _regrouped(model, sorted(merged + alone, key=min)))


def drop_components(estimator: Any, components: Sequence[int]) -> Any:
    r"""Leave components out of a fitted model.

    When the factors of rows are inferred, the other components explain the rows without
    the dropped one.

    Parameters
    ----------
    estimator : LatentDirichletAllocation, MultinomialMixture or PoissonFactorization
        Fitted; or a pipeline that ends in one. It is not modified.
    components : list of int
        Indices of the components to drop, no index twice; one at least must remain.

    Returns
    -------
    object
        A fitted estimator of the same class, or a pipeline that ends in it, whose other
        components keep their order and names. ``lower_bound_`` is NaN, since the bound
        of the training data is not known without these.

    Raises
    ------
    ValueError
        If an index is out of range or occurs twice, or no component would remain.
    TypeError
        If such an estimator cannot do without a component.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    merge_components : Merges components into one.
    skdeepfactor.plotting.UsageDisplay : Shows which are hardly used.

    Examples
    --------
    >>> from skdeepfactor import LatentDirichletAllocation
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.inspection import drop_components
    >>> X = make_topics(200, 50, 3, random_state=0).data
    >>> lda = LatentDirichletAllocation(5, random_state=0).fit(X)
    >>> drop_components(lda, [3]).components_.shape
    (4, 50)
    """
    model, _ = reading.last_step(estimator)
    n_components = len(reading.components_of(model))
    dropped = _checked_indices(components, n_components, "components")
    kept = [[index] for index in range(n_components) if index not in set(dropped)]
    if not kept:
        raise ValueError(
            f"components must leave one of {n_components}, but all would be dropped."
        )
    return _with_last(estimator, _regrouped(model, kept))


def name_components(estimator: Any, names: Any) -> Any:
    r"""Give the components of a fitted estimator names.

    The names stand in ``component_names_`` of the result, and in place of numbers in
    displays, tables and the topic page. Estimators of this package also give them as
    ``get_feature_names_out``, so that the columns of data frames have them.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_``, of any package; of a pipeline, the last step. It
        is not modified.
    names : array-like of str of shape (n_components,), or dict of int to str
        A name for each component, all different; or names of some of them by index,
        where the others keep theirs, or are called "component 0" and so on.

    Returns
    -------
    object
        A copy of the estimator with the names. It keeps them until it is fitted anew;
        ``warm_start`` and ``partial_fit`` do not change them.

    Raises
    ------
    ValueError
        If the number of names is wrong, a name is empty or occurs twice, or an index is
        out of range.
    TypeError
        If the estimator has no ``components_``, or a name is not a string.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    merge_components : Keeps the names of the components that it merges.
    top_features : What to name components after.

    Examples
    --------
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.inspection import name_components
    >>> X = [[3, 2, 0, 0], [0, 0, 4, 1], [5, 3, 0, 0], [0, 1, 2, 2]]
    >>> model = PoissonFactorization(2, random_state=0).fit(X)
    >>> named = name_components(model, {1: "cities"})
    >>> named.get_feature_names_out().tolist()
    ['component 0', 'cities']
    """
    model, _ = reading.last_step(estimator)
    n_components = len(reading.components_of(model))
    if isinstance(names, dict):
        indices = _checked_indices(list(names), n_components, "names")
        given = names.values()
        names = getattr(model, "component_names_", None)
        if names is None:
            names = [f"component {index}" for index in range(n_components)]
        names = list(names)
        for index, name in zip(indices, given, strict=True):
            names[index] = name
    names = listed("names", names, "strings")
    if len(names) != n_components:
        raise ValueError(
            f"names must have one name for each of {n_components} components, got "
            f"{len(names)}."
        )
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names must be strings, got {name!r}.")
        if not name:
            raise ValueError("names must not be empty.")
    if len(set(names)) < n_components:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"names must differ, but {twice!r} occurs twice.")
    # Others' estimators may write to their arrays when they learn on.
    return _with_last(estimator, _named(copy.deepcopy(model), names))


def _checked_groups(groups, n_components):
    """Groups of indices, as lists of two or more ints."""
    groups = listed("groups", groups, "groups of components")
    if groups and all(np.ndim(group) == 0 for group in groups):
        groups = [groups]
    groups = [list(group) if np.ndim(group) else [group] for group in groups]
    if not groups or min(map(len, groups)) < 2:
        raise ValueError(
            "groups must hold two components or more each, got groups of "
            f"{[len(group) for group in groups]}."
        )
    flat = [index for group in groups for index in group]
    indices = iter(_checked_indices(flat, n_components, "groups"))
    return [sorted(next(indices) for _ in group) for group in groups]


def _checked_indices(indices, n_components, name):
    """Indices of components as ints, none of them twice."""
    indices = [
        index.item() if isinstance(index, np.generic) else index
        for index in listed(name, indices, "indices of components")
    ]
    for index in indices:
        if not is_whole(index, 0) or index >= n_components:
            raise ValueError(
                f"{name} must hold indices of components, from 0 to "
                f"{n_components - 1}, got {index!r}."
            )
    if len(set(indices)) < len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        raise ValueError(f"{name} must hold each index once, but {twice} occurs twice.")
    return indices


def _regrouped(model, groups):
    """A fitted model whose components are sums of those in groups, and their names."""
    new = reading.with_merged(model, groups)
    names = getattr(model, "component_names_", None)
    if names is not None:
        joined = [" + ".join(names[index] for index in group) for group in groups]
        new = _named(new, joined)
    return new


def _named(model, names):
    """The model with these names of its components."""
    # NumPy's strings would show in lists of them.
    names = np.array([str(name) for name in names], dtype=object)
    names.setflags(write=False)
    model.component_names_ = names
    return model


def _with_last(estimator, model):
    """The model, in a pipeline if the estimator is one."""
    if not isinstance(estimator, Pipeline):
        return model
    name, last = estimator.steps[-1]
    new = copy.copy(estimator)
    new.steps = [*estimator.steps[:-1], (name, _with_last(last, model))]
    return new
