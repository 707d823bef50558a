"""Deep probabilistic factor models of counts, as scikit-learn estimators."""

import importlib
from types import ModuleType

from skdeepfactor._version import __version__
from skdeepfactor.models.correlated_topic_model import CorrelatedTopicModel
from skdeepfactor.models.dynamic_topic_model import DynamicTopicModel
from skdeepfactor.models.labeled_lda import LabeledLDA
from skdeepfactor.models.latent_dirichlet_allocation import LatentDirichletAllocation
from skdeepfactor.models.multinomial_mixture import MultinomialMixture
from skdeepfactor.models.neural_topic_dlgm import NeuralTopicDLGM
from skdeepfactor.models.poisson_factorization import PoissonFactorization
from skdeepfactor.models.sparse_gamma_def import SparseGammaDEF
from skdeepfactor.models.supervised_lda import (
    SupervisedLDAClassifier,
    SupervisedLDARegressor,
)
from skdeepfactor.models.variational_autoencoder import VariationalAutoencoder
from skdeepfactor.models.variational_sparse_coding import VariationalSparseCoding

__all__ = [
    "CorrelatedTopicModel",
    "DynamicTopicModel",
    "LabeledLDA",
    "LatentDirichletAllocation",
    "MultinomialMixture",
    "NeuralTopicDLGM",
    "PoissonFactorization",
    "SparseGammaDEF",
    "SupervisedLDAClassifier",
    "SupervisedLDARegressor",
    "VariationalAutoencoder",
    "VariationalSparseCoding",
    "__version__",
]

# Loaded when first used: they import more than a fit needs.
_ON_FIRST_USE = ["data", "datasets", "inspection", "metrics", "plotting"]


def __getattr__(name: str) -> ModuleType:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
