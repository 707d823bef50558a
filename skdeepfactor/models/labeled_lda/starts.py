"""Where labelled topics start, from the rows that have each label."""

import itertools

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import safe_sparse_dot

from skdeepfactor._math.starts import column_totals, initial_counts


def label_topic_counts(
    X, labels, init, *, topics_per_label, n_shared, weights, random_state
):
    """Counts of each topic, (n_components, n_features), of clusters of labels' rows.

    ``init`` is "kmeans" or "random", ``labels`` an indicator in CSR. First come the
    topics of the labels, then the shared ones.
    """
    # A row of several labels is shared out to them.
    shares = weights / np.maximum(np.diff(labels.indptr), 1)
    n_components = topics_per_label * labels.shape[1] + n_shared
    average = column_totals(X, weights) / n_components
    members = labels.tocsc()
    parts = []
    for start, stop in itertools.pairwise(members.indptr):
        rows = members.indices[start:stop]
        if len(rows) == 0:
            total = topics_per_label * average
        else:
            total = column_totals(X[rows], shares[rows])
        if topics_per_label == 1:
            part = total[np.newaxis]
        elif init == "kmeans" and len(rows) >= topics_per_label:
            part = initial_counts(
                X[rows], topics_per_label, init, random_state, shares[rows]
            )
        else:
            # They must differ, or they would never part.
            size = topics_per_label, len(total)
            part = random_state.exponential(total / topics_per_label, size)
        parts.append(part)
    if n_shared > 0:
        parts.append(initial_counts(X, n_shared, init, random_state, weights))
    return np.concatenate(parts)


def label_proportions(labels, *, topics_per_label, n_shared, weights):
    """Proportions of rows that use alike the topics that they may use.

    Summed over the rows with each label, (n_labels, n_components), and over all
    labelled rows, (n_components,).
    """
    n_labels = np.diff(labels.indptr)
    n_allowed = n_labels * topics_per_label + n_shared
    shares = np.where(n_labels > 0, weights / np.maximum(n_allowed, 1), 0)
    of_labels = _scaled_rows(labels, shares)
    of_each = np.concatenate(
        [
            np.repeat(_product(labels.T, of_labels), topics_per_label, 1),
            np.tile(_product(labels.T, shares)[:, np.newaxis], n_shared),
        ],
        axis=1,
    )
    of_all = np.repeat(np.asarray(of_labels.sum(axis=0)).ravel(), topics_per_label)
    return of_each, np.concatenate([of_all, np.full(n_shared, shares.sum())])


def _scaled_rows(matrix, scale):
    """A CSR matrix with its rows multiplied by numbers."""
    data = matrix.data * np.repeat(scale, np.diff(matrix.indptr))
    return scipy.sparse.csr_matrix((data, matrix.indices, matrix.indptr), matrix.shape)


def _product(a, b):
    """The product of two matrices, dense."""
    return safe_sparse_dot(a, b, dense_output=True)
