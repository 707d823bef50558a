"""Access to fitted estimators of any package, alone or at the end of pipelines.

``inspection`` and ``plotting`` share it: the model itself, its components, and the
names of their features.
"""

import difflib

import numpy as np
import scipy.sparse
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._input import received, without_half
from skdeepfactor.inspection.checks import listed


def is_estimator(fit):
    """Whether it is an estimator, and not an array."""
    return hasattr(fit, "fit")


def last_step(estimator, X=None):
    """The fitted model at the end, and X as transformed by the steps before it."""
    X = received(X)
    while isinstance(estimator, Pipeline):
        if X is not None and len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    check_is_fitted(estimator)
    return estimator, X


def components_of(model):
    """``components_`` of a fitted model, (n_components, n_features), in float64."""
    if not hasattr(model, "components_"):
        raise TypeError(
            "The estimator must have components_ when it is fitted, but "
            f"{type(model).__name__} has none."
        )
    return check_array(model.components_, dtype=np.float64, input_name="components_")


def has_correlations(model):
    """Whether topics of a fitted model correlate."""
    return hasattr(model, "topic_correlation_")


def correlations_of(model):
    """``topic_correlation_`` of a fitted model, in float64."""
    if not has_correlations(model):
        raise TypeError(
            "The estimator must have topics that correlate, as CorrelatedTopicModel "
            f"has, but {type(model).__name__} has no topic_correlation_."
        )
    return check_array(
        model.topic_correlation_, dtype=np.float64, input_name="topic_correlation_"
    )


def evolution_of(model):
    """``topics_over_time_``, ``times_`` and ``prevalence_`` of a fitted model.

    A model that was fitted without times has one slice, whose time is 0.
    """
    components_of(model)
    if not hasattr(model, "topics_over_time_"):
        raise TypeError(
            "The estimator must have topics that change, as DynamicTopicModel has, but "
            f"{type(model).__name__} has no topics_over_time_."
        )
    times = np.asarray(model.times_)
    topics = np.asarray(model.topics_over_time_)
    return topics, times if len(times) else np.zeros(1), np.asarray(model.prevalence_)


def slices_of(model):
    """Topics of each slice and the times of these; None if topics do not change."""
    if len(getattr(model, "times_", ())) < 2:
        return None
    topics, times, _ = evolution_of(model)
    return topics, times


def with_times(model, side, times):
    """Further data of rows by name, with their times if the model's topics change."""
    if times is None or slices_of(model) is None:
        return side
    return {**side, "times": times}


def factors_of(model, X, side=None):
    """Factors of rows by a fitted model, (n_rows, n_factors), in float64.

    ``side`` has further arguments of ``transform``, by name.
    """
    if not hasattr(model, "transform"):
        raise TypeError(
            "The estimator must be able to transform rows, but "
            f"{type(model).__name__} has no transform."
        )
    factors = received(model.transform(X, **(side or {})))
    if scipy.sparse.issparse(factors):
        factors = factors.toarray()
    return check_array(factors, dtype=np.float64, input_name="transform(X)")


def row_weights(model, X, side=None):
    """Weight of each component in rows, and whether the weights are shares.

    Shares of the expected total where neither factors nor components have negative
    entries, else the factors.
    """
    components, factors = components_of(model), factors_of(model, X, side)
    if min(components.min(), factors.min()) < 0:
        return factors, False
    return expected_shares(model, factors), True


def expected_shares(model, factors):
    """Shares of each row's expected total that come from its factors."""
    totals = factor_profiles(model).sum(axis=1)
    if factors.shape[1] != len(totals):
        raise ValueError(
            f"Shares need one factor for each component, but {type(model).__name__} "
            f"has {factors.shape[1]} factors and {len(totals)} components."
        )
    return shares_of(factors * totals)


def with_merged(model, groups):
    """A fitted model whose components are sums of those of another in groups."""
    if not hasattr(model, "_with_merged"):
        raise TypeError(
            f"Components of {type(model).__name__} cannot be merged or dropped: those "
            "of this package's LatentDirichletAllocation, MultinomialMixture and "
            "PoissonFactorization can."
        )
    return model._with_merged(groups)


def word_shares(model, counts, side=None):
    """Shares of the factors in each entry of rows that is not 0, (n_entries, k).

    In the order of ``scipy.sparse.csr_matrix(counts).nonzero()``.
    """
    if hasattr(model, "topic_assignments") and not has_layers_above(model):
        shares = model.topic_assignments(counts, by="word", **(side or {}))
        return np.asarray(received(shares))
    rows, columns = nonzero(counts)
    return shares_of(
        factors_of(model, counts, side)[rows] * factor_profiles(model).T[columns]
    )


def nonzero(counts):
    """Rows and columns of the entries that are not 0, row by row."""
    entries = scipy.sparse.csr_matrix(counts)
    entries.sum_duplicates()
    return entries.nonzero()


def counts_of(X):
    """Counts of rows, dense or CSR; missing entries (NaN) become 0."""
    counts = check_array(
        X, accept_sparse="csr", ensure_all_finite="allow-nan", input_name="X"
    )
    counts = without_half(counts)
    return counts if scipy.sparse.issparse(counts) else np.nan_to_num(counts)


def totals_of(counts, axis):
    """Sums of counts over the rows (0) or the features (1); exact for integers."""
    dtype = np.float64 if counts.dtype.kind == "f" else None
    return np.asarray(counts.sum(axis=axis, dtype=dtype)).ravel()


def rows_with_factor(model, factors, component, values):
    """Expected rows where one of a row's factors, (1, n_factors), has these values."""
    if not hasattr(model, "inverse_transform"):
        raise TypeError(
            "The estimator must be able to predict rows from factors, but "
            f"{type(model).__name__} has no inverse_transform."
        )
    rows = np.repeat(factors, len(values), axis=0)
    rows[:, component] = values
    return np.asarray(received(model.inverse_transform(rows)))


def factor_profiles(model):
    """Expected row for one unit of each factor that transform gives."""
    if isinstance(model, LatentDirichletAllocation):
        # scikit-learn's: factors are proportions, components_ are pseudo-counts.
        return shares_of(components_of(model))
    if not hasattr(model, "transform_layer"):
        return components_of(model)
    if model.transform_layer == "all":
        raise ValueError(
            "Shares are those of the factors of one layer, but transform_layer is "
            "'all'."
        )
    return layer_profiles(model)[model.transform_layer - 1]


def layer_profiles(model):
    """Expected row for one unit of each layer's units, the lowest layer first."""
    if not hasattr(model, "layer_sizes"):
        raise TypeError(
            "The estimator must have layers of factors, as SparseGammaDEF has, but "
            f"{type(model).__name__} has none."
        )
    profiles = [np.asarray(model.weights_[0], dtype=np.float64)]
    for weights in model.weights_[1:]:
        profiles.append(weights @ profiles[-1])
    return profiles


def n_layers(model):
    """Number of layers of factors; 1 for models without layers."""
    return len(model.weights_) if hasattr(model, "layer_sizes") else 1


def layer_shares(model):
    """Shares of the units below in the expected row of each unit above.

    One array for each layer above the first, (units, units below).
    """
    profiles = layer_profiles(model)
    return [
        shares_of(weights * below.sum(axis=1))
        for weights, below in zip(model.weights_[1:], profiles[:-1], strict=True)
    ]


def shares_of(weights):
    """Rows divided by their sums; rows of zeros stay as they are."""
    # Sums of very large numbers would be infinite, and small ones lose digits.
    largest = weights.max(axis=1, keepdims=True)
    scaled = np.divide(weights, largest, out=np.zeros_like(weights), where=largest > 0)
    return scaled / np.maximum(scaled.sum(axis=1, keepdims=True), 1)


def directions_of(rows):
    """Rows divided by their lengths; rows of zeros stay as they are."""
    # Squares of very small or large numbers would be 0 or infinite.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    # Never below 1, except for rows of zeros.
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1)


def known_feature_names(estimator):
    """Names of the features that the last step was fitted on, None if unknown."""
    names = None
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1:
            names = _names_out(estimator[:-1], names)
        estimator = estimator[-1]
    if names is None:
        names = getattr(estimator, "feature_names_in_", None)
    return names


def feature_names(estimator, n_features, given=None):
    """Names of the features of the last step: given, known, or else x0, x1, ..."""
    names = known_feature_names(estimator) if given is None else given
    if names is None:
        names = [f"x{index}" for index in range(n_features)]
    names = np.asarray(names, dtype=object)
    if names.shape != (n_features,):
        raise ValueError(
            f"feature_names must have shape {(n_features,)}, got {names.shape}."
        )
    return names


def known_component_names(model, n_components):
    """Names that components were given, (n_components,); None if they have none."""
    names = getattr(model, "component_names_", None)
    # Units of other layers than the lowest have none.
    if names is None or len(names) != n_components or has_layers_above(model):
        return None
    return np.asarray(names, dtype=object)


def has_layers_above(model):
    """Whether factors are not those of the components, but of layers above."""
    return getattr(model, "transform_layer", 1) != 1


def features_of_words(estimator, words):
    """The feature that the steps before the last make of each word; -1 for none."""
    if not words:
        return []
    rows = scipy.sparse.csr_matrix(counts_of(last_step(estimator, words)[1]))
    return [
        int(row.indices[row.data.argmax()]) if row.nnz and row.data.max() > 0 else -1
        for row in rows
    ]


def places_of(words, names):
    """Indices of features by name, of a list of these or a single one."""
    words = [words] if isinstance(words, str) else listed("words", words, "strings")
    if not words:
        raise ValueError("words must hold one word or more.")
    known = {str(name): index for index, name in enumerate(names)}
    for word in words:
        if word not in known:
            similar = difflib.get_close_matches(str(word), known, n=3)
            hint = f"; similar names are {', '.join(similar)}" if similar else ""
            raise ValueError(f"words must be names of features, got {word!r}{hint}.")
    return [known[word] for word in words]


def component_labels(model, n_components, prefix=""):
    """Names of the components, or their numbers after a prefix."""
    names = known_component_names(model, n_components)
    if names is None:
        return [f"{prefix}{index}" for index in range(n_components)]
    return [str(name) for name in names]


def _names_out(step, names):
    """Names of a step's output for inputs with these names, None if unknown."""
    if isinstance(step, Pipeline):
        # One that cannot name what it makes does not hide what is known behind it: a
        # CountVectorizer knows its words, whatever came before.
        for _, part in step.steps:
            if part is not None and part != "passthrough":
                names = _names_out(part, names)
        return names
    try:
        return step.get_feature_names_out(names)
    except NotFittedError:
        raise
    except AttributeError:
        return None
