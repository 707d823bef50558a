"""Deep probabilistic factor models of counts, as scikit-learn estimators."""

from skdeepfactor._version import __version__
from skdeepfactor.models.labeled_lda import LabeledLDA
from skdeepfactor.models.latent_dirichlet_allocation import LatentDirichletAllocation
from skdeepfactor.models.neural_topic_dlgm import NeuralTopicDLGM
from skdeepfactor.models.poisson_factorization import PoissonFactorization
from skdeepfactor.models.sparse_gamma_def import SparseGammaDEF
from skdeepfactor.models.variational_autoencoder import VariationalAutoencoder
from skdeepfactor.models.variational_sparse_coding import VariationalSparseCoding

__all__ = [
    "LabeledLDA",
    "LatentDirichletAllocation",
    "NeuralTopicDLGM",
    "PoissonFactorization",
    "SparseGammaDEF",
    "VariationalAutoencoder",
    "VariationalSparseCoding",
    "__version__",
]
