"""Numbers that likelihoods accept, and errors for others."""

from abc import ABC, abstractmethod

import numpy as np
import scipy.sparse


class Domain(ABC):
    """Which X a model takes."""

    #: Whether the data are counts: with totals, and sparse when drawn.
    is_counts = True

    #: Whether the data may not be negative.
    is_non_negative = True

    @abstractmethod
    def check(self, X):
        """Raise a ``ValueError`` if X, finite and of the right sign, is not in it."""


class Counts(Domain):
    """Counts, and other non-negative numbers in the place of counts."""

    def check(self, X):
        """Accept them all."""


class Integers(Domain):
    """Whole counts, which a likelihood that was chosen explicitly needs."""

    def __init__(self, likelihood):
        self.likelihood = likelihood

    def check(self, X):
        values = X.data if scipy.sparse.issparse(X) else X
        if not np.array_equal(values, np.rint(values)):
            raise ValueError(
                f"likelihood={self.likelihood!r} needs integer counts; use "
                "'multinomial' or 'poisson' for other numbers, and input_transform "
                "instead of a transformer of the data."
            )


class RealNumbers(Domain):
    """Real numbers."""

    is_counts = is_non_negative = False

    def check(self, X):
        """Accept them all."""


class UnitInterval(Domain):
    """Numbers in [0, 1], such as grey values."""

    is_counts = False

    def check(self, X):
        largest = X.max() if X.shape[0] else 0
        if np.isnan(largest):
            largest = np.fmax.reduce(X, axis=None)
        if largest > 1:
            raise ValueError(
                "likelihood='bernoulli' needs values in [0, 1], got values up to "
                f"{largest:g}. sklearn.preprocessing.MinMaxScaler brings them there; "
                "for counts there are 'poisson' and 'multinomial', for real numbers "
                "'gaussian'."
            )


class Binary(Domain):
    """Zeros and ones."""

    is_counts = False

    def check(self, X):
        values = X.data if scipy.sparse.issparse(X) else X
        is_binary = (values == 0) | (values == 1) | np.isnan(values)
        if not is_binary.all():
            raise ValueError(
                "likelihood='bernoulli' needs values that are 0 or 1, got "
                f"{values[~is_binary][0]:g}. sklearn.preprocessing.Binarizer makes "
                "them so; for counts there is likelihood='poisson'."
            )
