"""What a fitted model says: which features and rows show a factor, how features lie.

:func:`top_features` and :func:`top_rows` show what a factor is about,
:func:`factor_shares` what a row is made of. They read any estimator with
``components_``, of scikit-learn too, alone or as the last step of a pipeline.
:func:`match_components` pairs the components of two fits, :func:`stability` says how
alike those of several fits are, :func:`sparsity` how few features they need.
:func:`hierarchy` shows the topics of topics of a model with layers;
:func:`to_pyldavis` hands topics over to pyLDAvis.

:func:`jacobian_embeddings` gives each feature of a model with a decoder a vector in the
space of the factors, and :func:`traverse` shows what a row would be with other
factors. :func:`nearest_features` and :func:`latent_usage` read any array
of shape (n_features, n_components), such as the transposed ``components_`` of a model
without a decoder.
"""

import difflib
import itertools
from numbers import Integral, Real

import numpy as np
import scipy.sparse
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, check_non_negative

from skdeepfactor.inspection import reading

__all__ = [
    "factor_shares",
    "hierarchy",
    "jacobian_embeddings",
    "latent_usage",
    "match_components",
    "nearest_features",
    "sparsity",
    "stability",
    "to_pyldavis",
    "top_features",
    "top_rows",
    "traverse",
]

# pyLDAvis takes logarithms of probabilities.
PROBABILITY_FLOOR = 1e-12

ORDERS = ("probability", "lift", "frex", "loading")


def top_features(estimator, n=10, feature_names=None, by="probability"):
    r"""Name the features that say most about each component.

    With :math:`\beta_{kv}` the probability of feature v in component k, which is
    ``components_`` with rows that sum to 1, the features come in the order of

    .. math::
        \text{probability}_{kv} = \beta_{kv}, \qquad
        \text{lift}_{kv} = \frac{\beta_{kv}}{\frac{1}{K} \sum_j \beta_{jv}}, \qquad
        \text{FREX}_{kv} = \bigg(\frac{1/2}{F_k(\beta_{kv} / \sum_j \beta_{jv})}
        + \frac{1/2}{G_k(\beta_{kv})}\bigg)^{-1},

    where :math:`F_k` and :math:`G_k` are ranks within the component: the shares of the
    features whose value is at most as large. Probability favours features that are
    frequent anywhere, lift those that are found in this component alone, however rare;
    FREX, frequent and exclusive, those that are both.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_``; of a pipeline, the last step.
    n : int, default=10
        Number of features of each component; all of them if there are fewer.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default what the steps of the pipeline before the last
        call them, else ``feature_names_in_`` of that last step, else x0, x1, ...
    by : {"probability", "lift", "frex", "loading"}, default="probability"
        What is largest in the features that are named. The first three need
        ``components_`` without negative entries. ``"loading"`` takes the entries as
        they are, and so also those of models whose components are signed, such as
        NeuralTopicDLGM: the features that the factor makes more frequent.

    Returns
    -------
    DataFrame or list of lists of str
        The names, one row for each component and the best feature first; of equal ones
        the first comes first. A data frame where pandas is installed, with the
        component as index and ranks from 1 on as columns.

    Raises
    ------
    ValueError
        If ``components_`` has negative entries and `by` is not ``"loading"``, or a
        parameter is not what it must be.
    TypeError
        If the estimator has no ``components_``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    top_rows : The rows that show a component best.
    skdeepfactor.plotting.TopicsDisplay : The largest weights as bars.

    Notes
    -----
    Components without any weight have no probabilities; theirs are taken to be 0.

    References
    ----------
    Bischof, J. and Airoldi, E. (2012). Summarizing topical content with word frequency
    and exclusivity. ICML 29.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import top_features
    >>> X = [[8, 4, 4, 0, 0], [6, 0, 0, 3, 3], [4, 2, 2, 0, 0], [8, 0, 0, 4, 4]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> names = ["the", "apple", "pear", "tram", "train"]
    >>> for features in top_features(nmf, 2, names).to_numpy():
    ...     print(*features)
    the tram
    the apple
    >>> for features in top_features(nmf, 2, names, by="lift").to_numpy():
    ...     print(*features)
    tram train
    apple pear
    """
    model, _ = reading.last_step(estimator)
    components = reading.components_of(model)
    _check_whole("n", n, 1)
    if by not in ORDERS:
        raise ValueError(f"by must be one of {', '.join(ORDERS)}, got {by!r}.")
    names = reading.feature_names(estimator, components.shape[1], feature_names)
    if by == "loading":
        scores = components
    elif components.min() < 0:
        raise ValueError(
            f"by={by!r} needs components_ without negative entries, but the smallest "
            f"of {type(model).__name__} is {components.min():.3g}; by='loading' takes "
            "them as they are."
        )
    else:
        scores = _feature_scores(reading.shares_of(components), by)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    return _table(names[top])


def top_rows(estimator, X, component, n=10):
    r"""Find the rows that show a component best.

    Where neither factors nor ``components_`` have negative entries, these are the rows
    of which the component explains the largest share, as of :func:`factor_shares`;
    else the rows whose factor is largest.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``; of a pipeline, the last step.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows to choose from; for a pipeline, what its first step takes.
    component : int
        The component: its column in what ``transform`` gives, from 0 on.
    n : int, default=10
        Number of rows; all of them if there are fewer.

    Returns
    -------
    indices : ndarray of shape (n,)
        Indices of the rows, the best one first; of equal ones the first comes first.
    weights : ndarray of shape (n,), float64
        Their shares, between 0 and 1, or their factors.

    Raises
    ------
    ValueError
        If `component` or `n` is not what it must be, or the factors are not those of
        one layer.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    top_features : The features that say most about each component.
    factor_shares : The shares of all components.

    Notes
    -----
    A row of three words may well be all of one topic, and short rows are often among
    the best: leave them out of `X` where long ones are wanted.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import top_rows
    >>> X = [[8, 4, 4, 0, 0], [4, 1, 1, 1, 1], [8, 0, 0, 4, 4], [2, 0, 0, 1, 1]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> indices, weights = top_rows(nmf, X, 1, n=2)
    >>> indices
    array([0, 1])
    >>> weights.round(1)
    array([1. , 0.5])
    """
    model, X = reading.last_step(estimator, X)
    weights, _ = reading.row_weights(model, X)
    _check_whole("component", component, 0, weights.shape[1] - 1)
    _check_whole("n", n, 1)
    weights = weights[:, component]
    indices = np.argsort(-weights, kind="stable")[:n]
    return indices, weights[indices]


def factor_shares(estimator, X):
    r"""Share out what a row is expected to total among its factors.

    With factors z and components w, a row is expected to total
    :math:`\sum_k z_k \sum_v w_{kv}`, of which factor k contributes

    .. math::
        \text{share}_k = \frac{z_k \sum_v w_{kv}}{\sum_j z_j \sum_v w_{jv}}.

    It stays the same when a factor is multiplied, and its component divided, by a
    number, as can be done without changing a model such as NMF. Where the factors are
    proportions of topics, as in latent Dirichlet allocation, the shares are these.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``components_`` and ``transform``; of a pipeline, the last step. Of
        a SparseGammaDEF, shares are those of the units of ``transform_layer``.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Rows; for a pipeline, what its first step takes.

    Returns
    -------
    ndarray of shape (n_rows, n_components), float64
        The shares. Rows sum to 1, but for those whose factors are all zero, as those of
        empty rows can be: their shares are zero too.

    Raises
    ------
    ValueError
        If a factor or a component has a negative entry, or the factors are not those of
        one layer.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    top_rows : The rows that show a component best.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import factor_shares
    >>> X = [[8, 4, 4, 0, 0], [4, 1, 1, 1, 1], [8, 0, 0, 4, 4], [2, 0, 0, 1, 1]]
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> factor_shares(nmf, X).round(1)
    array([[0. , 1. ],
           [0.5, 0.5],
           [1. , 0. ],
           [1. , 0. ]])
    """
    model, X = reading.last_step(estimator, X)
    return _checked_shares(model, X)


def match_components(a, b):
    r"""Pair the components of two fits.

    Each component of one is paired with one of the other, so that the sum of the
    cosines of the pairs,

    .. math:: \cos(u, v) = \frac{u^T v}{\|u\| \|v\|},

    is as large as it can be (by the Hungarian method). Where components have negative
    entries, as those of NeuralTopicDLGM and of principal components have, it is the sum
    of their absolute values: a factor and its negative say the same.

    Parameters
    ----------
    a, b : estimator, Pipeline or array-like of shape (n_components, n_features)
        Fitted, with ``components_``; of a pipeline, the last step. Or components, for
        instance the planted ones of ``datasets.make_topics``. Features are the same, in
        the same order; the numbers of components may differ.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2)
        Indices of the components of `a`, in ascending order, and of `b`; as many as the
        one with fewer components has.
    cosines : ndarray of shape (n_pairs,), float64
        Their cosines, 0 for a component of zeros.

    Raises
    ------
    ValueError
        If the numbers of features differ, or their names, where both are known.
    TypeError
        If an estimator has no ``components_``.
    sklearn.exceptions.NotFittedError
        If an estimator is not fitted, which is a ValueError too.

    See Also
    --------
    stability : How alike the components of several fits are.

    Examples
    --------
    >>> from skdeepfactor.inspection import match_components
    >>> planted = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    >>> found = [[0.0, 0.0, 3.0, 3.0], [1.0, 0.0, 0.0, 0.0], [5.0, 5.0, 0.0, 0.0]]
    >>> pairs, cosines = match_components(planted, found)
    >>> pairs
    array([[0, 2],
           [1, 0]])
    >>> cosines.round(3)
    array([1., 1.])
    """
    (first, first_names), (second, second_names) = map(_named_components, (a, b))
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            "The components must have the same features, but have "
            f"{first.shape[1]} and {second.shape[1]}."
        )
    is_named = first_names is not None and second_names is not None
    if is_named and not np.array_equal(first_names, second_names):
        raise ValueError(
            "The components must have the same features in the same order, but their "
            "names differ."
        )
    cosines = (_directions(first) @ _directions(second).T).clip(-1, 1)
    is_signed = min(first.min(), second.min()) < 0
    pairs = np.stack(
        linear_sum_assignment(np.abs(cosines) if is_signed else cosines, maximize=True),
        axis=1,
    )
    return pairs, cosines[tuple(pairs.T)]


def stability(estimators):
    r"""Say how alike the components of several fits are.

    The components of each two fits are paired by :func:`match_components`; the
    stability is the mean over all pairs of fits of the mean cosine of their pairs of
    components,

    .. math::
        \frac{2}{S (S - 1)} \sum_{s < t} \frac{1}{|M_{st}|} \sum_{(j, k) \in M_{st}}
        \cos(w^s_j, w^t_k),

    of its absolute value where components are signed. Fits that differ in their seed
    alone show by it how much of what was found is owed to the start.

    Parameters
    ----------
    estimators : sequence of estimators, Pipelines or arrays
        Two or more fits, each what :func:`match_components` takes.

    Returns
    -------
    float
        1 if all fits found the same components. Features that are frequent in all
        components make the cosine of any two positive: 0 is not what fits that have
        nothing in common show. Compare values for the same features only.

    Raises
    ------
    ValueError
        If there are fewer than two, or their features differ.
    TypeError
        If an estimator has no ``components_``.

    See Also
    --------
    match_components : The pairs themselves.

    Notes
    -----
    Greene et al. compare ranked lists of top features, pair by pair in the same way;
    cosines heed all weights.

    References
    ----------
    Greene, D., O'Callaghan, D. and Cunningham, P. (2014). How many topics? Stability
    analysis for topic models. ECML PKDD.

    Examples
    --------
    >>> from skdeepfactor import PoissonFactorization
    >>> from skdeepfactor.datasets import make_topics
    >>> from skdeepfactor.inspection import stability
    >>> X = make_topics(300, 60, 4, random_state=0).data
    >>> fits = [PoissonFactorization(4, random_state=seed).fit(X) for seed in range(3)]
    >>> bool(stability(fits) > 0.9)
    True
    """
    estimators = list(estimators)
    if len(estimators) < 2:
        raise ValueError(
            f"stability needs two or more fitted estimators, got {len(estimators)}."
        )
    means = [
        np.abs(match_components(a, b)[1]).mean()
        for a, b in itertools.combinations(estimators, 2)
    ]
    return float(np.mean(means))


def sparsity(weights, threshold=0.01):
    r"""Share of the weights that are next to nothing in their component.

    .. math::
        \frac{1}{K V} \Big|\Big\{(k, v) : |w_{kv}| \le
        \epsilon \max_u |w_{ku}|\Big\}\Big|

    A component is measured by its own largest weight, since the scale of components is
    arbitrary in many models.

    Parameters
    ----------
    weights : array-like of shape (n_components, n_features)
        Weights: ``components_``, or those of an upper layer in ``weights_`` of
        SparseGammaDEF.
    threshold : float, default=0.01
        The epsilon, from 0, which counts the weights that are zero exactly, to 1.

    Returns
    -------
    float
        Between 0 and 1; 0 where no weight is small, 1 where all are zero.

    Raises
    ------
    ValueError
        If the weights are not a two-dimensional array of finite numbers, or the
        threshold is not between 0 and 1.

    See Also
    --------
    skdeepfactor.SparseGammaDEF : Whose ``sparsity_`` is measured by feature.

    Examples
    --------
    >>> from skdeepfactor.inspection import sparsity
    >>> sparsity([[100.0, 1.0, 0.5, 0.0], [0.001, 0.0005, 0.0, 0.0]])
    0.625
    >>> sparsity([[100.0, 1.0, 0.5, 0.0], [0.001, 0.0005, 0.0, 0.0]], threshold=0)
    0.375
    """
    weights = np.abs(check_array(weights, dtype=np.float64, input_name="weights"))
    if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold must be a number between 0 and 1, got {threshold!r}."
        )
    return float(np.mean(weights <= threshold * weights.max(axis=1, keepdims=True)))


def hierarchy(estimator, feature_names=None, n=5):
    r"""Show topics of topics: what the units of the top layer are made of.

    A unit of layer l stands for an expected row, which is the one of its weights times
    those of the layers below, and comes by way of the units of layer l - 1. The shares
    of these are

    .. math::
        \text{share}_{jk} = \frac{W_{jk} s_k}{\sum_i W_{ji} s_i},

    where :math:`s_k` is what the expected row of unit k totals. They stay the same when
    the scale of a unit is moved from its weights to those of the units above.

    Parameters
    ----------
    estimator : SparseGammaDEF or Pipeline
        Fitted; of a pipeline, the last step.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default what the steps of the pipeline before the last
        call them, else ``feature_names_in_`` of that last step, else x0, x1, ...
    n : int, default=5
        Number of units below shown of each unit, and of features; all of them if there
        are fewer.

    Returns
    -------
    list of dict
        The units of the top layer. Each has its ``"layer"`` (1 at the data), its
        ``"unit"`` (from 0), the ``"features"`` that its expected row has most of, a
        list of str, and ``"units"``: those of the layer below with the largest shares,
        the largest first, each a dict like it with its ``"share"``. A unit can be in
        several units above it. ``print`` shows the list as an outline.

    Raises
    ------
    ValueError
        If `n` is not a positive int or the number of names not that of the features.
    TypeError
        If the estimator has no layers.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    skdeepfactor.plotting.HierarchyDisplay : The same as a graph.

    Examples
    --------
    >>> from skdeepfactor import SparseGammaDEF
    >>> from skdeepfactor.inspection import hierarchy
    >>> X = [[8, 8, 0, 0, 0, 0], [0, 0, 4, 4, 0, 0], [0, 0, 0, 0, 9, 9]] * 20
    >>> model = SparseGammaDEF((3, 1), init="kmeans", max_iter=50, random_state=0)
    >>> names = ["apple", "pear", "tram", "train", "red", "blue"]
    >>> units = hierarchy(model.fit(X), names, n=2)
    >>> [sorted(unit["features"]) for unit in units[0]["units"]]
    [['blue', 'red'], ['apple', 'pear']]
    """
    model, _ = reading.last_step(estimator)
    profiles, shares = reading.layer_profiles(model), reading.layer_shares(model)
    _check_whole("n", n, 1)
    names = reading.feature_names(estimator, profiles[0].shape[1], feature_names)

    def described(layer, unit):
        top = np.argsort(-profiles[layer][unit], kind="stable")[:n]
        below = []
        if layer > 0:
            parts = shares[layer - 1][unit]
            below = [
                {"share": float(parts[part]), **described(layer - 1, int(part))}
                for part in np.argsort(-parts, kind="stable")[:n]
            ]
        return {
            "layer": layer + 1,
            "unit": unit,
            "features": names[top].tolist(),
            "units": below,
        }

    top = len(profiles) - 1
    return _Outline(described(top, unit) for unit in range(len(profiles[top])))


def to_pyldavis(estimator, X, feature_names=None):
    r"""Make the arguments of ``pyLDAvis.prepare``, which draws topics in a browser.

    pyLDAvis draws topics as circles on a map, and their words as bars, for a browser.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``transform`` and ``components_`` that have no negative entries; of
        a pipeline, the last step.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Counts; for a pipeline, what its first step takes. Rows without any are left
        out. What is missing (NaN), where the estimator takes that, counts as none.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default what the steps of the pipeline before the last
        call them, else ``feature_names_in_`` of that last step, else x0, x1, ...

    Returns
    -------
    dict
        - topic_term_dists : ndarray of shape (n_components, n_features), components
        - doc_topic_dists : ndarray of shape (n_left, n_components), the shares of
          :func:`factor_shares`
        - doc_lengths : ndarray of shape (n_left,), sums of the rows
        - vocab : list of str, names of the features
        - term_frequency : ndarray of shape (n_features,), sums of the columns

        Rows of the first two sum to 1 and have no entry below about 1e-12, since
        pyLDAvis takes logarithms; rows of zeros become equal shares.

    Raises
    ------
    ValueError
        If an entry of `X`, a factor or a component is negative, all rows of `X` are
        empty, or the number of names is not that of the features.
    TypeError
        If the estimator has no ``components_`` or no ``transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    skdeepfactor.plotting.TopicsDisplay : The largest weights as bars.

    References
    ----------
    Sievert, C. and Shirley, K. (2014). LDAvis: a method for visualizing and
    interpreting topics. ACL workshop on interactive language learning, visualization,
    and interfaces.

    Examples
    --------
    >>> from sklearn.decomposition import NMF
    >>> from skdeepfactor.inspection import to_pyldavis
    >>> X = [[8, 4, 4, 0, 0], [4, 1, 1, 1, 1], [8, 0, 0, 4, 4], [2, 0, 0, 1, 1]]
    >>> X.append([0, 0, 0, 0, 0])
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> arguments = to_pyldavis(nmf, X, ["the", "apple", "pear", "tram", "train"])
    >>> arguments["doc_topic_dists"].round(1).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]
    >>> arguments["doc_lengths"]
    array([16,  8, 16,  4])
    >>> import pyLDAvis  # doctest: +SKIP
    >>> pyLDAvis.display(pyLDAvis.prepare(**arguments))  # doctest: +SKIP
    """
    model, X = reading.last_step(estimator, X)
    counts = reading.counts_of(X)
    check_non_negative(counts, "to_pyldavis")
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    is_left = lengths > 0
    if not is_left.any():
        raise ValueError("to_pyldavis needs a row with a count; every row is empty.")
    shares = _checked_shares(model, X)
    profiles = reading.factor_profiles(model)
    names = reading.feature_names(estimator, profiles.shape[1], feature_names)
    return {
        "topic_term_dists": _distributions(profiles),
        "doc_topic_dists": _distributions(shares[is_left]),
        "doc_lengths": lengths[is_left],
        "vocab": names.tolist(),
        "term_frequency": np.asarray(counts.sum(axis=0)).ravel(),
    }


def jacobian_embeddings(
    estimator, at="prior_mean", *, n_samples=400, random_state=None
):
    r"""Embed features by how the logarithms of their means move with the factors.

    The embedding of feature v is the mean gradient

    .. math:: e_v = E\Big[\frac{\partial \log \mu_v(z)}{\partial z}\Big], \qquad
              \mu(z) = E[x | z],

    over the distribution of z that `at` names. Where the likelihood is given the total
    of a row, :math:`\mu(z)` is :math:`\text{softmax}(f(z))`, the shares of the
    features. With a linear decoder, :math:`f(z) = W z + b`, that is
    :math:`e_v = w_v - E[\sum_u \mu_u(z) w_u]`, or :math:`w_v` itself for counts without
    a given total.

    Parameters
    ----------
    estimator : NeuralTopicDLGM, an autoencoder or Pipeline
        Fitted; of a pipeline, the last step. It is not modified. Of
        :class:`~skdeepfactor.VariationalAutoencoder` and
        :class:`~skdeepfactor.VariationalSparseCoding` the gradients are those of the
        mean of Gaussian data and of the log odds of binary data.
    at : {"prior_mean", "zero"}, array-like or sparse matrix, default="prior_mean"
        Where the gradient is taken. ``"prior_mean"``: the mean over `n_samples` draws
        of z from the prior, the meaning of a feature in general. ``"zero"``: z = 0
        alone. Data of shape (n_rows, n_features): the mean over their rows of the
        gradient at the posterior mean of each, which is the meaning of a feature in
        the context of these rows; for a pipeline, what its first step takes.
    n_samples : int, default=400
        Number of draws for ``"prior_mean"``.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws for ``"prior_mean"``. With None they differ from call to call.

    Returns
    -------
    ndarray of shape (n_features, n_components)
        The embeddings, one in each row, of the type of ``components_``. Features that
        gain and lose from the same factors point in the same direction.

    Raises
    ------
    TypeError
        If the estimator is not one whose decoder can be differentiated.
    ValueError
        If `at` or `n_samples` is not what it must be.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    nearest_features : The features that point in the same direction.
    latent_usage : How many directions the embeddings take.

    Notes
    -----
    Computed on the estimator's ``device``, some rows of z at a time, so that memory
    does not grow with their number.

    References
    ----------
    Krishnan, R., Liang, D. and Hoffman, M. (2018). On the challenges of learning with
    inference networks on sparse, high-dimensional data. AISTATS 21.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor import NeuralTopicDLGM
    >>> from skdeepfactor.inspection import jacobian_embeddings, nearest_features
    >>> X = np.array([[9, 9, 0, 0], [0, 0, 9, 9], [9, 9, 1, 0], [0, 1, 9, 9]] * 20)
    >>> model = NeuralTopicDLGM(2, random_state=0).fit(X)
    >>> embeddings = jacobian_embeddings(model, random_state=0)
    >>> embeddings.shape
    (4, 2)
    >>> names = ["apple", "pear", "tram", "train"]
    >>> [(name, cosine)] = nearest_features(embeddings, "tram", 1, feature_names=names)
    >>> name
    'train'

    In the context of the first two rows:

    >>> jacobian_embeddings(model, X[:2]).shape
    (4, 2)
    """
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1 and not isinstance(at, str):
            at = estimator[:-1].transform(at)
        estimator = estimator[-1]
    module = _fitted_decoder(estimator)
    _check_whole("n_samples", n_samples, 1)
    is_name = isinstance(at, str)
    if at not in ("prior_mean", "zero") if is_name else np.ndim(at) != 2:
        shown = repr(at) if is_name else f"{np.ndim(at)} dimensions"
        raise ValueError(
            "at must be 'prior_mean', 'zero' or data of shape (n_rows, n_features), "
            f"got {shown}."
        )
    with torch.no_grad():
        like = next(module.parameters())
        if not is_name:
            means = estimator._infer(at, lambda model, x: model.posterior(x).mean)
            z = torch.from_numpy(means).to(like)
        elif at == "zero":
            z = like.new_zeros(1, len(estimator.components_))
        else:
            z = module.draw_prior(n_samples, _torch_generator(random_state))
        return module.jacobian(z).cpu().numpy()


def traverse(estimator, x, component, values):
    """Predict what a row would be if one of its factors had other values.

    The factors of the row are inferred, the one named `component` is set to each of the
    values in turn, and rows are predicted from these by ``inverse_transform``.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``transform`` and ``inverse_transform``; of a pipeline, the last
        step.
    x : {array-like, sparse matrix} of shape (n_features,) or (1, n_features)
        The row; for a pipeline, what its first step takes: a str, or a list of one,
        where that is texts.
    component : int
        The factor, from 0 on.
    values : array-like of shape (n_values,)
        Its values, in units of what ``transform`` gives.

    Returns
    -------
    ndarray of shape (n_values, n_features)
        The expected rows.

    Raises
    ------
    ValueError
        If `x` is more than one row, `component` out of range, or `values` not a list of
        finite numbers.
    TypeError
        If the estimator has no ``transform`` or no ``inverse_transform``.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted, which is a ValueError too.

    See Also
    --------
    skdeepfactor.plotting.TraversalDisplay : The rows as images.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdeepfactor import VariationalAutoencoder
    >>> from skdeepfactor.inspection import traverse
    >>> X = load_iris().data
    >>> model = VariationalAutoencoder(2, batch_size=20, random_state=0).fit(X)
    >>> traverse(model, X[0], 0, [-2, 0, 2]).shape
    (3, 4)
    """
    x = _single_row(x)
    values = check_array(np.asarray(values), ensure_2d=False, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"values must have 1 dimension, got {values.ndim}.")
    model, x = reading.last_step(estimator, x)
    factors = reading.factors_of(model, x)
    _check_whole("component", component, 0, factors.shape[1] - 1)
    return reading.rows_with_factor(model, factors, component, values)


def nearest_features(embeddings, feature, n=10, *, feature_names=None):
    r"""Find the features whose embeddings point in the direction of a given one's.

    Near is what has a large cosine,

    .. math:: \cos(u, v) = \frac{e_u^T e_v}{\|e_u\| \|e_v\|},

    which is 0 where an embedding is zero. It stays the same when the space of the
    factors is rotated, as it can be without changing a model whose prior is standard
    normal.

    Parameters
    ----------
    embeddings : array-like of shape (n_features, n_components)
        Embeddings, as of :func:`jacobian_embeddings`.
    feature : int or str
        The feature: its index, from 0 on, or its name.
    n : int, default=10
        Number of features to return, less than n_features.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features.

    Returns
    -------
    list of (str, float) or of (int, float)
        The names of the nearest features, or without `feature_names` their indices, and
        the cosines; the largest cosine first, and of equal ones the first feature. The
        feature itself is left out.

    Raises
    ------
    ValueError
        If the feature is unknown (the message has names that are spelled alike), its
        name not the only one of that kind, `n` out of range, the number of names not
        that of the embeddings, or an embedding not finite.
    TypeError
        If `feature` is neither an int nor a str.

    See Also
    --------
    jacobian_embeddings : Embeddings of the features of a fitted model.

    References
    ----------
    Krishnan, R., Liang, D. and Hoffman, M. (2018). On the challenges of learning with
    inference networks on sparse, high-dimensional data. AISTATS 21.

    Examples
    --------
    >>> from skdeepfactor.inspection import nearest_features
    >>> embeddings = [[2.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [0.0, 0.0]]
    >>> nearest_features(embeddings, 0, 2)
    [(1, 0.6), (3, 0.0)]
    >>> names = ["apple", "pear", "tram", "the"]
    >>> nearest_features(embeddings, "pear", 1, feature_names=names)
    [('apple', 0.6)]
    """
    embeddings = _check_embeddings(embeddings)
    n_features = len(embeddings)
    names = None
    if feature_names is not None:
        names = np.asarray(feature_names, dtype=object)
        if names.shape != (n_features,):
            raise ValueError(
                f"feature_names must have shape {(n_features,)}, got {names.shape}."
            )
    index = _index_of(feature, names, n_features)
    _check_whole("n", n, 1, n_features - 1)

    directions = _directions(embeddings)
    cosines = (directions @ directions[index]).clip(-1, 1)
    order = np.argsort(-cosines, kind="stable")
    nearest = order[order != index][:n].tolist()
    return [(i if names is None else names[i], float(cosines[i])) for i in nearest]


def latent_usage(embeddings):
    r"""Singular values of embeddings: how much of the space of the factors is used.

    The values are the square roots of the eigenvalues of :math:`\sum_v e_v e_v^T`. A
    step of one unit in direction k, a standard deviation of a standard normal prior,
    moves the log means of the features by a vector of length :math:`\sigma_k`. A model
    that leaves dimensions unused has values near 0. The number of dimensions in use is
    counted as that of the values above 1::

        n_used = int((latent_usage(embeddings) > 1).sum())

    Krishnan et al. compare models by this, at z = 0: ``at="zero"`` of
    :func:`jacobian_embeddings`.

    Parameters
    ----------
    embeddings : array-like of shape (n_features, n_components)
        Embeddings, as of :func:`jacobian_embeddings`.

    Returns
    -------
    ndarray of shape (min(n_features, n_components),)
        The singular values, the largest first. They stay the same when the space of the
        factors is rotated.

    Raises
    ------
    ValueError
        If the embeddings are not a two-dimensional array of finite numbers.

    See Also
    --------
    jacobian_embeddings : Embeddings of the features of a fitted model.

    References
    ----------
    Krishnan, R., Liang, D. and Hoffman, M. (2018). On the challenges of learning with
    inference networks on sparse, high-dimensional data. AISTATS 21.

    Examples
    --------
    >>> from skdeepfactor.inspection import latent_usage
    >>> singular_values = latent_usage([[3.0, 0.0, 0.0], [4.0, 0.0, 0.0],
    ...                                 [0.0, 2.0, 0.0], [0.0, 0.0, 0.5]])
    >>> singular_values
    array([5. , 2. , 0.5])
    >>> int((singular_values > 1).sum())
    2
    """
    return np.linalg.svd(_check_embeddings(embeddings), compute_uv=False)


class _Outline(list):
    """A list of units that prints as an indented outline."""

    def __str__(self):
        return "\n".join(self._lines(self, ""))

    def _lines(self, units, indent):
        for unit in units:
            share = f"{unit['share']:4.0%} " if "share" in unit else ""
            place = f"unit {unit['unit']} of layer {unit['layer']}"
            yield f"{indent}{share}{place}: {' '.join(map(str, unit['features']))}"
            yield from self._lines(unit["units"], indent + "  ")


def _feature_scores(probabilities, by):
    """What features are sorted by, each (n_components, n_features)."""
    if by == "probability":
        return probabilities
    exclusivity = reading.shares_of(probabilities.T).T
    if by == "lift":
        return exclusivity * len(probabilities)
    # Ranks are numbers from 1 on, so that nothing is divided by zero.
    ranks = [
        rankdata(values, method="max", axis=1)
        for values in (exclusivity, probabilities)
    ]
    return 2 / (1 / ranks[0] + 1 / ranks[1]) / probabilities.shape[1]


def _checked_shares(model, X):
    """Shares of the factors in rows, which must not be negative."""
    components = reading.components_of(model)
    factors = reading.factors_of(model, X)
    smallest = min(components.min(), factors.min())
    if smallest < 0:
        raise ValueError(
            "Shares need factors and components_ without negative entries, but "
            f"{type(model).__name__} has {smallest:.3g}."
        )
    return reading.expected_shares(model, factors)


def _distributions(weights):
    """Rows that sum to 1 and have no zeros; rows of zeros are all equal."""
    shares = np.maximum(reading.shares_of(weights), PROBABILITY_FLOOR)
    return shares / shares.sum(axis=1, keepdims=True)


def _directions(rows):
    """Rows divided by their lengths; rows of zeros stay as they are."""
    # Squares of very small or large numbers would be 0 or infinite.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    # Never below 1, but for rows of zeros.
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1)


def _named_components(fit):
    """Components of an estimator and names of their features; an array has none."""
    if not reading.is_estimator(fit):
        components = check_array(fit, dtype=np.float64, input_name="components")
        return components, None
    model, _ = reading.last_step(fit)
    return reading.components_of(model), reading.known_feature_names(fit)


def _table(names):
    """A data frame of names where there is pandas, else lists."""
    try:
        import pandas as pd
    except ImportError:
        return names.tolist()
    n_components, n_top = names.shape
    return pd.DataFrame(
        names,
        index=pd.RangeIndex(n_components, name="component"),
        columns=pd.RangeIndex(1, n_top + 1, name="rank"),
    )


def _fitted_decoder(estimator):
    """The torch module of a fitted estimator, which must have a Jacobian."""
    module = None
    if getattr(estimator, "_load", None) is not None:
        check_is_fitted(estimator)
        is_double = estimator.components_.dtype == np.float64
        module = estimator._load(torch.float64 if is_double else torch.float32)
    if getattr(module, "jacobian", None) is None:
        raise TypeError(
            "jacobian_embeddings needs a fitted model whose decoder can be "
            "differentiated, such as NeuralTopicDLGM or VariationalAutoencoder, "
            f"got {type(estimator).__name__}. Of a model without a "
            "decoder, the transposed components_ may serve as embeddings."
        )
    return module


def _torch_generator(random_state):
    """A generator of torch; nobody's global state is drawn from for None."""
    if random_state is None:
        seed = np.random.default_rng().integers(2**31 - 1)
    else:
        seed = check_random_state(random_state).randint(2**31 - 1)
    return torch.Generator().manual_seed(int(seed))


def _check_embeddings(embeddings):
    return check_array(
        embeddings, dtype=[np.float64, np.float32], input_name="embeddings"
    )


def _index_of(feature, names, n_features):
    """The index of a feature that is given as an index or a name."""
    if isinstance(feature, str):
        if names is None:
            raise ValueError(
                f"feature_names are needed to find {feature!r}; without them a feature "
                "is an int."
            )
        found = np.flatnonzero(names == feature)
        if len(found) > 1:
            raise ValueError(
                f"feature_names has {feature!r} {len(found)} times; give one of the "
                f"indices {found.tolist()}."
            )
        if len(found) == 0:
            close = difflib.get_close_matches(feature, {*map(str, names)})
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"{feature!r} is not in feature_names.{hint}")
        return int(found[0])
    if not isinstance(feature, Integral):
        raise TypeError(
            f"feature must be an int or a str, got a {type(feature).__name__}."
        )
    if not 0 <= feature < n_features:
        raise ValueError(
            f"feature must be from 0 to {n_features - 1}, the last of {n_features}, "
            f"got {feature}."
        )
    return int(feature)


def _single_row(x):
    """The row as a first step takes it: a matrix, a data frame, a list of a text."""
    if isinstance(x, str):
        return [x]
    shape = np.shape(x)
    if (
        shape == (1,)
        and not scipy.sparse.issparse(x)
        and isinstance(next(iter(x)), str)
    ):
        return x
    if len(shape) < 2:
        x = x.reshape((1, -1)) if scipy.sparse.issparse(x) else np.atleast_2d(x)
    if np.ndim(x) != 2 or np.shape(x)[0] != 1:
        raise ValueError(f"x must be a single row, got shape {shape}.")
    return x


def _check_whole(name, number, low, high=None):
    """ValueError unless a number is an int in a range."""
    is_whole = isinstance(number, Integral) and number >= low
    if not is_whole or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an int {limits}, got {number!r}.")
