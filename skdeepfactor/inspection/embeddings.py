"""Vectors of features in the space of the factors, and their neighbours."""

import difflib
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from skdeepfactor._input import received
from skdeepfactor.inspection import reading
from skdeepfactor.inspection.checks import check_whole


def jacobian_embeddings(
    estimator: Any,
    at: Any = "prior_mean",
    *,
    n_samples: int = 400,
    random_state: int | np.random.RandomState | None = None,
) -> np.ndarray:
    r"""Embed features by the gradients of their log means in the factors.

    The embedding of feature v is the mean gradient

    .. math:: e_v = E\Big[\frac{\partial \log \mu_v(z)}{\partial z}\Big], \qquad
              \mu(z) = E[x | z],

    over the distribution of z that `at` names. If the likelihood is given the total of
    a row, :math:`\mu(z)` is :math:`\text{softmax}(f(z))`, the shares of the features.
    With a linear decoder, :math:`f(z) = W z + b`, that is
    :math:`e_v = w_v - E[\sum_u \mu_u(z) w_u]`, or :math:`w_v` itself for counts without
    a given total.

    Parameters
    ----------
    estimator : NeuralTopicDLGM, an autoencoder or Pipeline
        Fitted; of a pipeline, the last step. It is not modified. For
        :class:`~skdeepfactor.VariationalAutoencoder` and
        :class:`~skdeepfactor.VariationalSparseCoding` the gradients are those of the
        mean of Gaussian data and of the log odds of binary data.
    at : {"prior_mean", "zero"}, array-like or sparse matrix, default="prior_mean"
        Where the gradient is taken. ``"prior_mean"``: the mean over `n_samples` draws
        of z from the prior, the meaning of a feature in general. ``"zero"``: z = 0
        alone. Data of shape (n_rows, n_features): the mean over their rows of the
        gradient at the posterior mean of each, which is the meaning of a feature in
        the context of these rows; for a pipeline, the input of its first step.
    n_samples : int, default=400
        Number of draws for ``"prior_mean"``.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws for ``"prior_mean"``. With None they differ from call to call.

    Returns
    -------
    ndarray of shape (n_features, n_components)
        The embeddings, one in each row, with the dtype of ``components_``. Features
        that rise and fall with the same factors point in the same direction.

    Raises
    ------
    TypeError
        If the estimator is not one whose decoder can be differentiated.
    ValueError
        If `at` or `n_samples` is invalid.
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
    at = received(at)
    while isinstance(estimator, Pipeline):
        if len(estimator) > 1 and not isinstance(at, str):
            at = estimator[:-1].transform(at)
        estimator = estimator[-1]
    module = _fitted_decoder(estimator)
    check_whole("n_samples", n_samples, 1)
    is_name = isinstance(at, str)
    if at not in ("prior_mean", "zero") if is_name else np.ndim(at) != 2:
        shown = repr(at) if is_name else f"{np.ndim(at)} dimensions"
        raise ValueError(
            "at must be 'prior_mean', 'zero' or data of shape (n_rows, n_features), "
            f"got {shown}."
        )

    def slopes(module):
        like = next(module.parameters())
        if not is_name:
            means = estimator._infer(
                at, lambda model, batch: model.posterior(batch).mean
            )
            z = torch.as_tensor(means).to(like)
        elif at == "zero":
            z = like.new_zeros(1, len(estimator.components_))
        else:
            z = module.draw_prior(n_samples, _torch_generator(random_state))
        return module.jacobian(z).cpu().numpy()

    return estimator._ask(module, slopes)


def nearest_features(
    embeddings: Any,
    feature: int | str,
    n: int = 10,
    *,
    feature_names: ArrayLike | None = None,
) -> list[tuple[Any, float]]:
    r"""Find the features whose embeddings point in a similar direction to a given one.

    Nearness is measured by the cosine,

    .. math:: \cos(u, v) = \frac{e_u^T e_v}{\|e_u\| \|e_v\|},

    which is 0 if an embedding is zero. The cosine does not change when the space of the
    factors is rotated, and neither does a model with a standard normal prior.

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
        the cosines, the largest first; ties keep their order. The feature itself is
        left out.

    Raises
    ------
    ValueError
        If the feature is unknown (the message suggests similar names), its name is not
        unique, `n` is out of range, the numbers of names and embeddings differ, or an
        embedding is not finite.
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
    check_whole("n", n, 1, n_features - 1)

    directions = reading.directions_of(embeddings)
    cosines = (directions @ directions[index]).clip(-1, 1)
    order = np.argsort(-cosines, kind="stable")
    nearest = order[order != index][:n].tolist()
    return [(i if names is None else names[i], float(cosines[i])) for i in nearest]


def latent_usage(embeddings: Any) -> np.ndarray:
    r"""Singular values of embeddings, which show how many dimensions are used.

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
            f"got {type(estimator).__name__}. For a model without a "
            "decoder, the transposed components_ may serve as embeddings."
        )
    return module


def _torch_generator(random_state):
    """A torch generator; None gives a fresh one, never the global state."""
    if random_state is None:
        seed = np.random.default_rng().integers(2**31 - 1)
    else:
        seed = check_random_state(random_state).randint(2**31 - 1)
    return torch.Generator().manual_seed(int(seed))


def _check_embeddings(embeddings):
    return check_array(
        received(embeddings), dtype=[np.float64, np.float32], input_name="embeddings"
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
