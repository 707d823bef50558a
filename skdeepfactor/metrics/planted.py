"""How well codes of rows separate the factors that the rows were made from."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_array, check_consistent_length
from sklearn.utils.multiclass import type_of_target

from skdeepfactor._input import is_whole, received
from skdeepfactor.metrics.completion import random_generator


def disentanglement(
    codes: ArrayLike,
    factors: Any,
    *,
    n_estimators: int = 50,
    test_size: float = 0.25,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    r"""Disentanglement, completeness and informativeness (DCI) of codes.

    Gradient-boosted trees predict each planted factor from the codes of a part of the
    rows, and give the importance of each code for it. With :math:`R_{ij}` the
    importance of code i for factor j, of D codes and K factors,

    .. math::
        D_i = 1 - H_K(R_{i\cdot}), \qquad C_j = 1 - H_D(R_{\cdot j}),

    where H is the entropy of the importances divided by their sum, to the base of
    their number. Disentanglement is the mean of :math:`D_i`, each code weighted by its
    importance for all factors: 1 if each code depends on one factor. Completeness is
    the mean of :math:`C_j`: 1 if each factor is in one code. Informativeness is how
    well the factors of the other rows are predicted.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_components)
        Factors of the rows, as ``transform`` gives them.
    factors : array-like of shape (n_samples, n_factors)
        The factors that the rows were made from, two or more. A column of integers,
        truth values or strings holds classes; a column of other numbers holds values.
    n_estimators : int, default=50
        Number of trees, of depth 3, for each factor, and for each class of more than
        two.
    test_size : float, default=0.25
        Share of the rows on which informativeness is measured.
    random_state : int, RandomState instance or None, default=None
        Seed of the trees and of the choice of these rows.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With these attributes:

        disentanglement : float
            Between 0 and 1, larger is better.
        completeness : float
            Between 0 and 1, larger is better.
        informativeness : float
            The mean over factors of R^2, or of the accuracy for classes.
        importances : ndarray of shape (n_components, n_factors)
            The matrix R, whose columns sum to 1, or to 0 if no code predicts the
            factor.

    Raises
    ------
    ValueError
        If there are fewer than two factors, a factor has one value only (a factor of
        classes among the rows that trees are fitted to), an entry is not finite, or the
        numbers of rows differ.

    See Also
    --------
    skdeepfactor.inspection.match_components : Pairs components with planted ones.

    Notes
    -----
    Codes that no tree uses do not count against disentanglement, and a factor that no
    code predicts has a completeness of 0. Values depend on how many codes there are:
    compare models with the same number.

    References
    ----------
    Eastwood, C. and Williams, C. K. I. (2018). A framework for the quantitative
    evaluation of disentangled representations. ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from skdeepfactor.metrics import disentanglement
    >>> rng = np.random.default_rng(0)
    >>> factors = rng.normal(size=(400, 2))
    >>> separate = disentanglement(factors[:, ::-1], factors, random_state=0)
    >>> rotated = factors @ [[1, 1], [1, -1]]
    >>> mixed = disentanglement(rotated, factors, random_state=0)
    >>> bool(separate.disentanglement > 0.9 > 0.5 > mixed.disentanglement)
    True
    """
    Z = check_array(received(codes), dtype=np.float64, input_name="codes")
    factors = check_array(received(factors), dtype=None, input_name="factors")
    check_consistent_length(Z, factors)
    n_factors = factors.shape[1]
    if n_factors < 2:
        raise ValueError(f"factors must have two columns or more, got {n_factors}.")
    if not is_whole(n_estimators, 1):
        raise ValueError(
            f"n_estimators must be a positive integer, got {n_estimators!r}."
        )
    for column, values in enumerate(factors.T):
        if len(np.unique(values)) < 2:
            raise ValueError(
                f"factors must differ between rows, but column {column} has one value."
            )
    rng = random_generator(random_state)
    train, test = train_test_split(
        np.arange(len(Z)), test_size=test_size, random_state=_seed(rng)
    )
    importances = np.empty((Z.shape[1], n_factors))
    scores = np.empty(n_factors)
    for column, values in enumerate(factors.T):
        values = np.asarray(values.tolist())
        is_real = type_of_target(values.tolist()) == "continuous"
        if not is_real and len(np.unique(values[train])) < 2:
            raise ValueError(
                f"factors must differ between the rows that trees are fitted to, but "
                f"column {column} has one value there: give more rows, or another "
                "random_state."
            )
        kind = GradientBoostingRegressor if is_real else GradientBoostingClassifier
        trees = kind(n_estimators=n_estimators, max_depth=3, random_state=_seed(rng))
        trees.fit(Z[train], values[train])
        importances[:, column] = trees.feature_importances_
        scores[column] = trees.score(Z[test], values[test])
    of_codes = importances.sum(axis=1)
    weights = of_codes / max(of_codes.sum(), np.finfo(float).tiny)
    return Bunch(
        disentanglement=float(weights @ _concentrations(importances)),
        completeness=float(_concentrations(importances.T).mean()),
        informativeness=float(scores.mean()),
        importances=importances,
    )


def _seed(rng):
    return int(rng.integers(2**31 - 1))


def _concentrations(weights):
    """1 less the entropy of each row's shares, to the base of their number.

    A row of zeros has 0.
    """
    totals = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    n_shares = weights.shape[1]
    entropies = entr(shares).sum(axis=1) / np.log(n_shares) if n_shares > 1 else 0.0
    return np.where(totals[:, 0] > 0, 1 - entropies, 0.0)
