r"""Classes that rows without one are expected to have, by a mixture of multinomials.

A class c has words of its own, :math:`x_n \mid y_n = c \sim \text{Multinomial}(N_n,
\phi_c)` (naive Bayes). Rows with a class and, as far as ``weight`` says, all others are
fitted by expectation maximisation, which starts from the rows with a class:

.. math::
    r_{nc} \propto \pi_c \textstyle\prod_v \phi_{cv}^{x_{nv}}, \qquad
    \phi_{cv} \propto \epsilon + \sum_n w_n r_{nc} x_{nv}, \qquad
    \pi_c \propto \sum_n w_n r_{nc},

where rows with a class have weight 1 and keep it. Few rows with a class say little of
most words, but words that go together in the other rows say the rest.

Nigam, McCallum, Thrun and Mitchell (2000), Text classification from labeled and
unlabeled documents using EM.
"""

import numpy as np
import scipy.sparse
import scipy.special

N_STEPS = 10
# Pseudo-count of each word in each class.
SMOOTHING = 0.1
# Classes less probable than this are dropped, so that few entries are stored.
LEAST = 0.01


def with_expected_classes(X, known, weight):
    """An indicator of classes, CSR, in which rows without one have the expected one.

    These sum to about ``weight``, above 0; rows of ``known`` that have a class keep it.
    """
    X = scipy.sparse.csr_matrix(X)
    has_class = np.diff(known.indptr) > 0
    others = np.flatnonzero(~has_class)
    if len(others) == 0:
        return known
    X_others = X[others]
    of_known = np.eye(known.shape[1])[known.indices]
    word_counts = (X[np.flatnonzero(has_class)].T @ of_known).T
    class_counts = of_known.sum(axis=0)
    expected = _posterior(X_others, word_counts, class_counts)
    for _ in range(N_STEPS):
        expected = _posterior(
            X_others,
            word_counts + weight * (X_others.T @ expected).T,
            class_counts + weight * expected.sum(axis=0),
        )
    expected[expected < LEAST] = 0
    # A row of the product is that of one of the others.
    places = scipy.sparse.csr_matrix(
        (np.full(len(others), float(weight)), (others, np.arange(len(others)))),
        shape=(X.shape[0], len(others)),
    )
    return scipy.sparse.csr_matrix(known + places @ scipy.sparse.csr_matrix(expected))


def _posterior(X, word_counts, class_counts):
    """Probabilities of the classes of each row; 0 for a class that no row has."""
    words = word_counts + SMOOTHING
    log_words = np.log(words / words.sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        log_classes = np.log(class_counts)
    return scipy.special.softmax(X @ log_words.T + log_classes, axis=1)
