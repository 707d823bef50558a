"""The table of models, and data for all tests."""

import functools
import inspect
import os
import pickle

# More threads gain nothing on data this small, and two such processes on one machine
# slow each other tenfold. torch.set_num_threads below is of the main thread alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, settings
from sklearn.base import clone

from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LabeledLDA,
    LatentDirichletAllocation,
    MultinomialMixture,
    NeuralTopicDLGM,
    PoissonFactorization,
    PoissonGammaBeliefNetwork,
    SparseGammaDEF,
    SupervisedLDAClassifier,
    SupervisedLDARegressor,
    VariationalAutoencoder,
    VariationalSparseCoding,
)
from skdeepfactor._estimator.base import BaseFactorModel
from skdeepfactor._estimator.conjugate import ClosedFormFactorModel
from skdeepfactor.data import RowBlocks
from tests.budget import REST, Meter

# Every model and variant that the contract is checked for: small, and quick to fit.
# Batches of 32 are parts of most data here, but not of those on which scikit-learn
# checks that a weight is a repetition: of what is drawn that is so only on average.
ESTIMATORS = {
    "SparseGammaDEF": SparseGammaDEF((3, 2), max_iter=25, random_state=0),
    "SparseGammaDEF-auxiliary": SparseGammaDEF(
        (3, 2, 1), solver="auxiliary", max_iter=15, init="kmeans", random_state=0
    ),
    "SparseGammaDEF-rate": SparseGammaDEF(
        (3, 2), link="rate", layer_shape=3.0, max_iter=25, random_state=0
    ),
    "SparseGammaDEF-gaussian": SparseGammaDEF(
        (3, 2), likelihood="gaussian", max_iter=25, random_state=0
    ),
    "SparseGammaDEF-spike_slab": SparseGammaDEF(
        (3, 2),
        solver="auxiliary",
        weight_prior="spike_slab",
        weight_shape=1.0,
        max_iter=15,
        random_state=0,
    ),
    "SparseGammaDEF-gradient": SparseGammaDEF(
        (3, 2), solver="gradient", max_iter=20, max_inner_iter=2, random_state=0
    ),
    "SparseGammaDEF-amortized": SparseGammaDEF(
        (3, 2),
        solver="gradient",
        family="lognormal",
        amortized=True,
        encoder_layers=(8,),
        max_iter=20,
        learning_rate=0.1,
        random_state=0,
    ),
    "SparseGammaDEF-missing": SparseGammaDEF(
        (3, 2), missing_values="ignore", max_iter=25, random_state=0
    ),
    "SparseGammaDEF-gaussian-missing": SparseGammaDEF(
        (3, 2),
        likelihood="gaussian",
        missing_values="ignore",
        max_iter=25,
        random_state=0,
    ),
    "PoissonFactorization": PoissonFactorization(3, random_state=0),
    "PoissonFactorization-hierarchical": PoissonFactorization(
        3, hierarchical=True, random_state=0
    ),
    "PoissonFactorization-exposure": PoissonFactorization(
        3, exposure="total", random_state=0
    ),
    "PoissonFactorization-dirichlet": PoissonFactorization(
        3, weight_prior="dirichlet", random_state=0
    ),
    "PoissonFactorization-auto": PoissonFactorization(
        3, factor_shape="auto", weight_shape="auto", random_state=0
    ),
    "PoissonFactorization-stochastic": PoissonFactorization(
        3, batch_size=32, random_state=0
    ),
    "PoissonFactorization-missing": PoissonFactorization(
        3, missing_values="ignore", random_state=0
    ),
    "PoissonGammaBeliefNetwork": PoissonGammaBeliefNetwork(
        (3, 2), max_iter=10, n_draws=8, random_state=0
    ),
    "LatentDirichletAllocation": LatentDirichletAllocation(3, random_state=0),
    "LatentDirichletAllocation-mean_field": LatentDirichletAllocation(
        3, inference="mean_field", random_state=0
    ),
    "LatentDirichletAllocation-cross_fitted": LatentDirichletAllocation(
        3, inference="cross_fitted", random_state=0
    ),
    "LatentDirichletAllocation-gibbs": LatentDirichletAllocation(
        3, inference="gibbs", max_iter=20, random_state=0
    ),
    "LatentDirichletAllocation-auto": LatentDirichletAllocation(
        3, doc_topic_prior="auto", topic_word_prior="auto", random_state=0
    ),
    "LatentDirichletAllocation-stochastic": LatentDirichletAllocation(
        3, batch_size=32, random_state=0
    ),
    "MultinomialMixture": MultinomialMixture(3, random_state=0),
    "MultinomialMixture-mean_field": MultinomialMixture(
        3, inference="mean_field", random_state=0
    ),
    "MultinomialMixture-em": MultinomialMixture(3, inference="em", random_state=0),
    "MultinomialMixture-stochastic": MultinomialMixture(
        3, batch_size=32, random_state=0
    ),
    "CorrelatedTopicModel": CorrelatedTopicModel(3, random_state=0),
    "CorrelatedTopicModel-diag": CorrelatedTopicModel(
        3, covariance_type="diag", batch_size=32, random_state=0
    ),
    "DynamicTopicModel": DynamicTopicModel(3, max_iter=4, random_state=0),
    "LabeledLDA": LabeledLDA(random_state=0),
    "LabeledLDA-shared": LabeledLDA(
        2, 1, inference="mean_field", max_iter=20, random_state=0
    ),
    "SupervisedLDAClassifier": SupervisedLDAClassifier(
        3, supervision=10, max_iter=5, max_inner_iter=6, random_state=0
    ),
    "SupervisedLDARegressor": SupervisedLDARegressor(
        3, supervision=10, max_iter=5, max_inner_iter=6, random_state=0
    ),
    "NeuralTopicDLGM": NeuralTopicDLGM(
        3, encoder_layers=(8,), max_iter=3, max_refine_steps=30, random_state=0
    ),
    "NeuralTopicDLGM-network": NeuralTopicDLGM(
        3,
        encoder_layers=(8,),
        input_transform="normalize",
        refine_steps=0,
        max_refine_steps=0,
        kl_warmup=0.5,
        max_iter=3,
        random_state=0,
    ),
    "NeuralTopicDLGM-deep": NeuralTopicDLGM(
        3,
        decoder_layers=(6,),
        skip_connections=True,
        encoder_layers=(8,),
        max_refine_steps=5,
        max_iter=3,
        random_state=0,
    ),
    "NeuralTopicDLGM-poisson": NeuralTopicDLGM(
        3,
        likelihood="poisson",
        covariance_type="full",
        prior="mixture",
        n_pseudo_inputs=2,
        max_refine_steps=30,
        encoder_layers=(8,),
        max_iter=3,
        random_state=0,
    ),
    "NeuralTopicDLGM-iwae": NeuralTopicDLGM(
        3,
        prior="vamp",
        n_pseudo_inputs=2,
        max_refine_steps=30,
        encoder_layers=(8,),
        objective="iwae",
        n_particles=3,
        max_iter=3,
        random_state=0,
    ),
    "VariationalAutoencoder": VariationalAutoencoder(
        3, encoder_layers=(8,), decoder_layers=(8,), max_iter=5, random_state=0
    ),
    "VariationalAutoencoder-multinomial": VariationalAutoencoder(
        3,
        likelihood="multinomial",
        encoder_layers=(8,),
        decoder_layers=(8,),
        skip_connections=True,
        prior="vamp",
        n_pseudo_inputs=2,
        max_iter=5,
        random_state=0,
    ),
    "VariationalAutoencoder-missing": VariationalAutoencoder(
        3,
        missing_values="ignore",
        decoder_layers=(),
        encoder_layers=(8,),
        max_iter=40,
        learning_rate=0.02,
        batch_size=30,
        random_state=0,
    ),
    "VariationalSparseCoding": VariationalSparseCoding(
        3,
        alpha=0.3,
        encoder_layers=(8,),
        decoder_layers=(8,),
        n_pseudo_inputs=2,
        max_iter=5,
        random_state=0,
    ),
    "VariationalSparseCoding-poisson": VariationalSparseCoding(
        3,
        alpha=0.3,
        likelihood="poisson",
        prior="fixed",
        encoder_layers=(8,),
        decoder_layers=(8,),
        spike_gradient="relaxed",
        spike_warmup=0.2,
        slab_warmup=0.2,
        max_iter=5,
        random_state=0,
    ),
    "VariationalSparseCoding-missing": VariationalSparseCoding(
        3,
        alpha=0.3,
        likelihood="poisson",
        missing_values="ignore",
        encoder_layers=(8,),
        decoder_layers=(8,),
        n_pseudo_inputs=2,
        max_iter=5,
        random_state=0,
    ),
}


# CPU seconds that the tests of each entry may take, as ``pytest --budget`` counts them,
# and those of all other tests. A new entry comes with its own. All of them may take ten
# minutes on two quiet cores.
BUDGETS = {
    "SparseGammaDEF": 49,
    "SparseGammaDEF-auxiliary": 23,
    "SparseGammaDEF-rate": 11,
    "SparseGammaDEF-gaussian": 18,
    "SparseGammaDEF-spike_slab": 14,
    "SparseGammaDEF-gradient": 63,
    "SparseGammaDEF-amortized": 11,
    "SparseGammaDEF-missing": 24,
    "SparseGammaDEF-gaussian-missing": 24,
    "PoissonFactorization": 13,
    "PoissonFactorization-hierarchical": 7,
    "PoissonFactorization-exposure": 6,
    "PoissonFactorization-dirichlet": 5,
    "PoissonFactorization-auto": 5,
    "PoissonFactorization-stochastic": 6,
    "PoissonFactorization-missing": 7,
    "PoissonGammaBeliefNetwork": 78,
    "LatentDirichletAllocation": 10,
    "LatentDirichletAllocation-mean_field": 4,
    "LatentDirichletAllocation-cross_fitted": 5,
    "LatentDirichletAllocation-gibbs": 6,
    "LatentDirichletAllocation-auto": 6,
    "LatentDirichletAllocation-stochastic": 5,
    "MultinomialMixture": 10,
    "MultinomialMixture-mean_field": 3,
    "MultinomialMixture-em": 3,
    "MultinomialMixture-stochastic": 4,
    "CorrelatedTopicModel": 22,
    "CorrelatedTopicModel-diag": 11,
    "DynamicTopicModel": 10,
    "SupervisedLDAClassifier": 19,
    "SupervisedLDARegressor": 18,
    "LabeledLDA": 11,
    "LabeledLDA-shared": 8,
    "NeuralTopicDLGM": 17,
    "NeuralTopicDLGM-network": 3,
    "NeuralTopicDLGM-deep": 10,
    "NeuralTopicDLGM-poisson": 9,
    "NeuralTopicDLGM-iwae": 7,
    "VariationalAutoencoder": 7,
    "VariationalAutoencoder-multinomial": 3,
    "VariationalAutoencoder-missing": 5,
    "VariationalSparseCoding": 10,
    "VariationalSparseCoding-poisson": 3,
    "VariationalSparseCoding-missing": 11,
    REST: 745,
}
MOST_SECONDS = 1350

# One of each class and way of learning: what the bases do is tested with these alone.
ONE_OF_EACH = {
    name: model
    for name, model in ESTIMATORS.items()
    if "-" not in name or name == "SparseGammaDEF-gradient"
}

# Those whose training draws nothing, or what follows from the content of a row.
CLOSED_FORMS = {
    name: model
    for name, model in ESTIMATORS.items()
    if isinstance(model, ClosedFormFactorModel)
    and model.get_params().get("solver") != "gradient"
}

# Those whose full steps climb the bound, as Laplace's approximation does not, and draws
# do not.
ASCENDING = {
    name: model
    for name, model in CLOSED_FORMS.items()
    if not isinstance(model, CorrelatedTopicModel)
    # A chain does not climb, nor a prior that is learnt by other updates than topics.
    and model.get_params().get("inference") != "gibbs"
    and name != "LatentDirichletAllocation-auto"
}

# The step size of LDA on all rows.
LDA_STEP_SIZE = "skdeepfactor.models.latent_dirichlet_allocation.estimator.STEP_SIZE"


def keys_of(n, seed=0):
    """Keys of n rows, as random as those of their content, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**62), 2**62, (n,), generator=generator)


def taken(estimator, X):
    """X, or what of it is not 0 if that is all that the estimator takes."""
    is_binary = estimator.get_params().get("likelihood") == "bernoulli"
    return (X > 0).astype(float) if is_binary else X


def assert_components_close(found, expected, rtol):
    """Compare components; where they have signs, rounding may be all that is left."""
    atol = 1e-14 * np.abs(expected).max() if expected.min() < 0 else 0.0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def labels_of(X):
    """An indicator of three labels: thirds of the columns that have much of a row.

    It depends on the row alone: rows keep theirs in any order and number. Empty rows
    have none, unless all are empty.
    """
    if isinstance(X, RowBlocks):
        return np.concatenate([labels_of(block) for _, block in X.blocks()])
    try:
        X = scipy.sparse.csr_matrix(X).astype(np.float64)
    except (TypeError, ValueError, Warning):
        # What is no matrix of numbers is the estimator's to refuse.
        return np.ones((len(X), 3))
    thirds = np.arange(X.shape[1]) * 3 // max(X.shape[1], 1)
    counts = X @ np.eye(3)[thirds]
    has_label = counts > 0.25 * counts.sum(axis=1, keepdims=True)
    return has_label if has_label.any() else ~has_label


def class_of(X):
    """The first of these labels; None where there is none."""
    labels = labels_of(X)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), None).tolist()


def number_of(X):
    """How many of these labels a row has; NaN where it has none."""
    n_labels = labels_of(X).sum(axis=1).astype(float)
    return np.where(n_labels > 0, n_labels, np.nan)


# What models that need y are given where a test of the contract has none.
TARGETS = {
    LabeledLDA: labels_of,
    SupervisedLDAClassifier: class_of,
    SupervisedLDARegressor: number_of,
}


def supply_targets(setattr=setattr):
    """Let models that need y make it of X, and score words rather than labels.

    So that one test serves all models. ``setattr`` is that of a monkeypatch.
    """

    def with_target(method, target_of):
        needs_classes = "classes" in inspect.signature(method).parameters

        @functools.wraps(method)
        def call(self, X, y=None, **options):
            if needs_classes and target_of is class_of and not is_fitted(self):
                options.setdefault("classes", range(3))
            return method(self, X, target_of(X) if y is None else y, **options)

        return call

    def is_fitted(estimator):
        return estimator.__sklearn_is_fitted__()

    for kind, target_of in TARGETS.items():
        for name in ("fit", "partial_fit"):
            setattr(kind, name, with_target(getattr(kind, name), target_of))
        setattr(kind, "score", BaseFactorModel.score)


# Tests that give them themselves.
OWN_TARGETS = ("test_sklearn", "test_labeled_lda", "test_supervised_lda")


@pytest.fixture(scope="module", autouse=True)
def targets(request):
    """Targets where a module's tests give none to models that need some."""
    if request.module.__name__.split(".")[-1] in OWN_TARGETS:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        supply_targets(patch.setattr)
        yield


def pytest_collection_modifyitems(config, items):
    """Leave variants out where a test is marked to run once for each class."""
    variants = {id(ESTIMATORS[name]) for name in ESTIMATORS.keys() - ONE_OF_EACH.keys()}
    dropped = {
        item
        for item in items
        if item.get_closest_marker("each_class")
        and hasattr(item, "callspec")
        and id(item.callspec.params.get("estimator")) in variants
    }
    if dropped:
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]


# How many examples hypothesis draws: few in the suite of every day, more in that of a
# commit, which should not take much longer.
for name, n_examples in {"few": 12, "more": 24, "most": 200}.items():
    settings.register_profile(
        name,
        max_examples=n_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="where the models compute: cpu, cuda, mps"
    )
    parser.addoption(
        "--budget",
        action="store_true",
        help="count CPU seconds by entry of ESTIMATORS, and fail where one takes more "
        "than its budget",
    )


def pytest_configure(config):
    if config.getoption("--budget"):
        config.pluginmanager.register(Meter(ESTIMATORS, BUDGETS))


@pytest.fixture(scope="session")
def device(request):
    """The device of --device; its tests are skipped where torch does not see it."""
    name = request.config.getoption("--device")
    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return name


@pytest.fixture(params=ESTIMATORS.values(), ids=ESTIMATORS.keys())
def estimator(request, device):
    """A fresh estimator of each kind."""
    return type(request.param)(**{**request.param.get_params(), "device": device})


@pytest.fixture(scope="session")
def fits():
    """Pickles of what has been fitted once, by the estimator and the data."""
    return {}


@pytest.fixture
def fitted(estimator, counts, fits):
    """The estimator, fitted to ``counts``: a copy of what is fitted once."""
    key = repr((type(estimator), estimator.get_params(), counts.shape))
    if key not in fits:
        fits[key] = pickle.dumps(clone(estimator).fit(counts))
    return pickle.loads(fits[key])


@pytest.fixture(params=CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
def conjugate(request, device):
    """A fresh estimator of each kind whose updates have a closed form."""
    return type(request.param)(**{**request.param.get_params(), "device": device})


@pytest.fixture(params=ASCENDING.values(), ids=ASCENDING.keys())
def ascending(request, device):
    """A fresh estimator of each kind whose full steps climb the bound."""
    return type(request.param)(**{**request.param.get_params(), "device": device})


@pytest.fixture(scope="session")
def counts():
    """Sparse counts of 60 rows and 30 features, with an empty row and column."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(30, 0.2), size=3)
    rates = rng.dirichlet(np.full(3, 0.3), size=60) @ topics * rng.gamma(3, 15, (60, 1))
    rates[7] = 0
    rates[:, 11] = 0
    return scipy.sparse.csr_matrix(rng.poisson(rates))
