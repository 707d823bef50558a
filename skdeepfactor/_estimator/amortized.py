"""The base of estimators around modules with an encoder and a decoder of rows."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import StrOptions

from skdeepfactor._estimator.domains import Counts, RealNumbers, UnitInterval
from skdeepfactor._estimator.sampled import SampledFactorModel
from skdeepfactor._math.networks import Decoder
from skdeepfactor._math.observations import observation_of

# The numbers that a likelihood is of.
DOMAINS = {
    "gaussian": RealNumbers(),
    "bernoulli": UnitInterval(),
    "poisson": Counts(),
    "multinomial": Counts(),
}


class AmortizedFactorModel(SampledFactorModel):
    """An estimator around an ``AmortizedModule``, whose likelihood is a parameter."""

    _parameter_constraints: ClassVar[dict] = {
        **SampledFactorModel._parameter_constraints,
        "likelihood": [StrOptions(set(DOMAINS))],
        "noise": [StrOptions({"diagonal", "spherical"})],
        "missing_values": [StrOptions({"error", "ignore"})],
    }

    @property
    def _domain(self):
        # Parameters are checked later; until then an unknown one must do no harm.
        return DOMAINS.get(self.likelihood, Counts())

    def sample(
        self,
        n_samples: int = 1,
        *,
        n_tokens: int | ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> Any:
        """Draw rows from the model.

        Factors are drawn from the prior, then rows from the likelihood given the
        factors.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        n_tokens : int or array-like of shape (n_samples,), default=None
            Words in each, for ``likelihood="multinomial"``; by default drawn from the
            totals of the training rows.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        ndarray or CSR matrix of shape (n_samples, n_features)
            CSR where the likelihood is one of counts.

        See Also
        --------
        inverse_transform : Expected rows given factors.

        Examples
        --------
        >>> from skdeepfactor import VariationalAutoencoder
        >>> X = [[0.5, 2.0, 1.0], [1.5, 0.0, 3.0], [0.7, 1.8, 1.2], [1.4, 0.1, 2.9]]
        >>> model = VariationalAutoencoder(1, max_iter=5, random_state=0).fit(X)
        >>> model.sample(3, random_state=0).shape
        (3, 3)
        """
        return self._sample(n_samples, n_tokens, random_state)

    def _initialize(self, module, start):
        module.initialize(start.X, start.random_state)

    def _parameter_groups(self, module):
        return [{"params": list(module.parameters()), "lr": self.learning_rate}]

    def _observation(self, sizes):
        """The decoder and the likelihood of the module."""
        self._check_layers()
        decoder = Decoder(
            self.n_components,
            tuple(self.decoder_layers),
            sizes["n_features"],
            has_skips=self.skip_connections,
        )
        may_miss = self._may_miss
        found = observation_of(self.likelihood, self.noise, decoder, may_miss=may_miss)
        if may_miss and found.is_given_total:
            raise ValueError(
                "missing_values='ignore' needs likelihood='gaussian', 'bernoulli' or "
                "'poisson', since 'multinomial' is given the total of each row."
            )
        return found

    def _fitted(self, module):
        return {"n_active_components_": module.n_active_components()}
