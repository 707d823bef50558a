"""How well the top features of components go together, and how much they differ."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from sklearn.utils import check_array
from sklearn.utils.validation import check_non_negative

from skdeepfactor._input import is_whole, received, without_half

EPSILON = 1e-12  # gensim's, so that values can be compared with the literature's


def npmi_coherence(
    components: ArrayLike, X: Any, *, top_n: int = 10, average: bool = True
) -> Any:
    r"""Normalised pointwise mutual information of the top features of each component.

    This is the mean, over pairs of a component's `top_n` features, of

    .. math:: \frac{\log\frac{p(v, w) + \epsilon}{p(v)\, p(w)}}
                    {-\log(p(v, w) + \epsilon)}

    where :math:`p(v)` is the share of the rows of `X` in which feature v is positive,
    :math:`p(v, w)` the share in which both are, and :math:`\epsilon` is 1e-12.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Weights of the features; the largest of each row are its top features, and of
        equal ones the first.
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        The reference corpus: counts, or anything else that is not negative.
    top_n : int, default=10
        Number of features taken of each component, all of them if there are fewer.
    average : bool, default=True
        Whether to return the mean over components.

    Returns
    -------
    float or ndarray of shape (n_components,)
        The coherence, or with ``average=False`` that of each component. Larger is
        better: at most 1, about 0 for independent features.

    Raises
    ------
    ValueError
        If there are fewer than two features to pair, `X` has a negative entry, or the
        numbers of features differ.

    See Also
    --------
    c_v_coherence : Similarity of the features' mutual information with others.
    u_mass_coherence : Conditional probabilities of features.
    topic_diversity : How much components differ from each other.

    Notes
    -----
    This is gensim's ``c_npmi`` with one window per document, epsilon included: a pair
    that occurs but never together gets -1 - log(p(v) p(w)) / 27.6, somewhat above -1,
    and a pair that occurs together in every row, which is uninformative, gets -1. A
    pair with a feature that is in no row, for which gensim divides by zero, gets -1.

    References
    ----------
    Bouma (2009). Normalized (pointwise) mutual information in collocation extraction.
    GSCL.

    Roeder, Both and Hinneburg (2015). Exploring the space of topic coherence measures.
    WSDM.

    Examples
    --------
    >>> from skdeepfactor.metrics import npmi_coherence
    >>> X = [[1, 2, 0, 0], [3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 5]]
    >>> components = [[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    >>> npmi_coherence(components, X, top_n=2, average=False).round(2)
    array([ 1. , -0.9])
    """
    joint = _joint_shares("npmi_coherence", components, X, top_n)
    first, second = np.triu_indices(joint.shape[1], k=1)
    coherence = _npmi(joint)[:, first, second].mean(axis=1)
    return float(coherence.mean()) if average else coherence


def c_v_coherence(
    components: ArrayLike, X: Any, *, top_n: int = 10, average: bool = True
) -> Any:
    r"""Coherence C_V of the top features of each component, with rows as windows.

    Each of a component's `top_n` features v has a vector of its normalised pointwise
    mutual information with all of them, itself included, as in :func:`npmi_coherence`:
    :math:`a_v = (\text{npmi}(v, w_1), \dots, \text{npmi}(v, w_n))`. C_V is the mean
    cosine of these vectors with their sum,

    .. math:: \frac1n \sum_v \cos\Big(a_v,\ \sum_w a_w\Big).

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Weights of the features; the largest of each row are its top features, and of
        equal ones the first.
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        The reference corpus: counts, or anything else that is not negative.
    top_n : int, default=10
        Number of features taken of each component, all of them if there are fewer.
    average : bool, default=True
        Whether to return the mean over components.

    Returns
    -------
    float or ndarray of shape (n_components,)
        The coherence, or with ``average=False`` that of each component. Larger is
        better: between -1 and 1, and 1 for features that occur in the same rows only.

    Raises
    ------
    ValueError
        If there are fewer than two features to pair, `X` has a negative entry, or the
        numbers of features differ.

    See Also
    --------
    npmi_coherence : The mutual information itself.
    u_mass_coherence : Conditional probabilities of features.

    Notes
    -----
    This is gensim's ``c_v`` with a ``window_size`` above the length of the longest
    document. Its default windows have 110 words, but counts in `X` have no order: in
    long documents, words count as occurring together more often here. The cosine of a
    vector of zeros counts as 0.

    References
    ----------
    Roeder, Both and Hinneburg (2015). Exploring the space of topic coherence measures.
    WSDM.

    Examples
    --------
    >>> from skdeepfactor.metrics import c_v_coherence
    >>> X = [[1, 2, 0, 0], [3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 5]]
    >>> components = [[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    >>> c_v_coherence(components, X, top_n=2, average=False).round(2)
    array([1.  , 0.05])
    """
    npmi = _npmi(_joint_shares("c_v_coherence", components, X, top_n))
    whole = npmi.sum(axis=1, keepdims=True)
    lengths = np.linalg.norm(npmi, axis=2) * np.linalg.norm(whole, axis=2)
    products = (npmi * whole).sum(axis=2)
    cosines = np.divide(
        products, lengths, out=np.zeros_like(products), where=lengths > 0
    )
    coherence = cosines.mean(axis=1)
    return float(coherence.mean()) if average else coherence


def u_mass_coherence(
    components: ArrayLike, X: Any, *, top_n: int = 10, average: bool = True
) -> Any:
    r"""Coherence U_Mass: how often top features occur in rows that have a larger one.

    This is the mean, over pairs of a component's `top_n` features of which v has the
    larger weight, of the logarithm of the conditional probability

    .. math:: \log \frac{p(v, w) + \epsilon}{p(v)}

    where :math:`p(v)` is the share of the rows of `X` in which feature v is positive,
    :math:`p(v, w)` the share in which both are, and :math:`\epsilon` is 1e-12.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Weights of the features; the largest of each row are its top features, and of
        equal ones the first.
    X : {array-like, sparse matrix, sparse array} of shape (n_samples, n_features)
        The reference corpus, most often the rows that were fitted: counts, or anything
        else that is not negative.
    top_n : int, default=10
        Number of features taken of each component, all of them if there are fewer.
    average : bool, default=True
        Whether to return the mean over components.

    Returns
    -------
    float or ndarray of shape (n_components,)
        The coherence in nats, or with ``average=False`` that of each component. Larger
        is better; 0 if features occur wherever larger ones do.

    Raises
    ------
    ValueError
        If there are fewer than two features to pair, `X` has a negative entry, or the
        numbers of features differ.

    See Also
    --------
    npmi_coherence : Symmetric, and corrected for the frequency of features.

    Notes
    -----
    This is gensim's ``u_mass``. Mimno et al. take the sum over pairs in place of the
    mean, and add 1 to the number of rows with both in place of
    :math:`\epsilon`: here a pair that never occurs together costs about 25 nats, so
    that one such pair may decide the value. A pair whose larger feature is in no row
    counts as :math:`\log \epsilon`; gensim leaves it undefined.

    References
    ----------
    Mimno, Wallach, Talley, Leenders and McCallum (2011). Optimizing semantic coherence
    in topic models. EMNLP.

    Examples
    --------
    >>> from skdeepfactor.metrics import u_mass_coherence
    >>> X = [[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 1, 4], [0, 0, 0, 5]]
    >>> components = [[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.6, 0.4]]
    >>> u_mass_coherence(components, X, top_n=2, average=False).round(2)
    array([-0.69,  0.  ])
    """
    joint = _joint_shares("u_mass_coherence", components, X, top_n)
    single = np.diagonal(joint, axis1=1, axis2=2)
    larger, smaller = np.triu_indices(joint.shape[1], k=1)
    given = single[:, larger]
    log_p = np.full(given.shape, np.log(EPSILON))
    np.log(
        (joint[:, larger, smaller] + EPSILON) / np.where(given > 0, given, 1),
        out=log_p,
        where=given > 0,
    )
    coherence = log_p.mean(axis=1)
    return float(coherence.mean()) if average else coherence


def topic_diversity(components: ArrayLike, *, top_n: int = 25) -> float:
    r"""Share of distinct features among the top features of all components.

    .. math:: |\textstyle\bigcup_k T_k| \,/\, \textstyle\sum_k |T_k|

    where :math:`T_k` are the `top_n` features of largest weight in component k.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Weights of the features; of equal ones the first come first.
    top_n : int, default=25
        Number of features taken of each component, all of them if there are fewer.

    Returns
    -------
    float
        1 if no two components share a top feature, 1 / n_components if all have the
        same.

    Raises
    ------
    ValueError
        If `components` are not a finite two-dimensional array, or `top_n` is not a
        positive integer.

    See Also
    --------
    npmi_coherence : How well the features of each component go together.

    References
    ----------
    Dieng, Ruiz and Blei (2020). Topic modeling in embedding spaces. TACL.

    Examples
    --------
    >>> from skdeepfactor.metrics import topic_diversity
    >>> topic_diversity([[3, 2, 1, 0], [0, 3, 2, 1]], top_n=2)
    0.75
    """
    top = _top_features(components, top_n)
    return float(np.unique(top).size / top.size)


def _joint_shares(name, components, X, top_n):
    """Shares of the rows in which two top features of a component both are positive.

    Shape (n_components, n_top, n_top), with the shares of single features on the
    diagonal. ``name`` is that of the measure, for errors.
    """
    top = _top_features(components, top_n)
    if top.shape[1] < 2:
        raise ValueError(f"{name} needs two or more features per component.")
    X = without_half(check_array(received(X), accept_sparse="csr", input_name="X"))
    check_non_negative(X, name)
    n_features = np.shape(components)[1]
    if X.shape[1] != n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but the components have {n_features}."
        )
    features, top = _unique_features(top)
    presence = sp.csc_array(X[:, features])
    presence.sum_duplicates()
    presence.data = (presence.data > 0).astype(np.int64)
    joint = np.empty((*top.shape, top.shape[1]))
    for of_component, columns in zip(joint, top, strict=True):
        chosen = presence[:, columns]
        of_component[:] = (chosen.T @ chosen).toarray() / X.shape[0]
    return joint


def _npmi(joint):
    """Normalised pointwise mutual information, of the same shape; -1 where unseen."""
    single = np.diagonal(joint, axis1=1, axis2=2)
    independent = single[:, :, np.newaxis] * single[:, np.newaxis, :]
    is_seen = independent > 0
    p = joint[is_seen] + EPSILON
    npmi = np.full(joint.shape, -1.0)
    npmi[is_seen] = np.log(p / independent[is_seen]) / -np.log(p)
    return npmi


def _top_features(components, top_n):
    """Find the largest weights: (n_components, min(top_n, n_features)) indices."""
    if hasattr(components, "fit"):
        raise TypeError(
            "components must be an array: give the estimator's components_, not the "
            f"{type(components).__name__} itself."
        )
    components = check_array(
        received(components), dtype=[np.float64, np.float32], input_name="components"
    )
    if not is_whole(top_n, 1):
        raise ValueError(f"top_n must be a positive integer, got {top_n!r}.")
    return np.argsort(-components, axis=1, kind="stable")[:, :top_n]


def _unique_features(top):
    """Return the distinct features in `top`, and `top` as positions among them."""
    features, positions = np.unique(top, return_inverse=True)
    return features, positions.reshape(top.shape)
