"""Topics for pyLDAvis."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_non_negative

from skdeepfactor.inspection import reading
from skdeepfactor.inspection.tables import factor_shares

# pyLDAvis takes logarithms of probabilities.
PROBABILITY_FLOOR = 1e-12


def to_pyldavis(estimator: Any, X: Any, feature_names: ArrayLike | None = None) -> dict:
    r"""Make the arguments of ``pyLDAvis.prepare``, which draws topics in a browser.

    pyLDAvis shows topics as circles on a map and their words as bars.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted, with ``transform`` and ``components_`` that have no negative entries; of
        a pipeline, the last step.
    X : {array-like, sparse matrix} of shape (n_rows, n_features)
        Counts; for a pipeline, the input of its first step. Rows without any are left
        out. Missing entries (NaN) count as 0, if the estimator takes them.
    feature_names : array-like of str of shape (n_features,), default=None
        Names of the features. By default the names from the earlier steps of the
        pipeline, else ``feature_names_in_`` of the last step, else x0, x1, ...

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
    lengths = reading.totals_of(counts, 1)
    is_left = lengths > 0
    if not is_left.any():
        raise ValueError("to_pyldavis needs a row with a count; every row is empty.")
    shares = factor_shares(model, X)
    profiles = reading.factor_profiles(model)
    names = reading.feature_names(estimator, profiles.shape[1], feature_names)
    return {
        "topic_term_dists": _distributions(profiles),
        "doc_topic_dists": _distributions(shares[is_left]),
        "doc_lengths": lengths[is_left],
        "vocab": names.tolist(),
        "term_frequency": reading.totals_of(counts, 0),
    }


def _distributions(weights):
    """Rows that sum to 1 and have no zeros; rows of zeros are all equal."""
    shares = np.maximum(reading.shares_of(weights), PROBABILITY_FLOOR)
    return shares / shares.sum(axis=1, keepdims=True)
