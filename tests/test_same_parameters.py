"""A checkpoint is of the same fit where parameters mean the same."""

import functools

import numpy as np
import pytest
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, Normalizer

from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
)
from skdeepfactor._training.checkpoint import canonical

LARGE = np.arange(1, 2401, dtype=np.float64).reshape(2, 1200)

SAME = [
    (3, np.int64(3)),
    (3, np.uint8(3)),
    (0.1, np.float64(0.1)),
    (0.5, np.float32(0.5)),
    (0.5, np.array(0.5)),
    (True, np.bool_(True)),
    ("auto", np.str_("auto")),
    ([0.1, 0.2], np.array([0.1, 0.2])),
    ((8, 4), [8, 4]),
    ((8, 4), np.array([8, 4])),
    ([[1, 2], [3, 4]], np.array([[1.0, 2.0], [3.0, 4.0]])),
    ((), []),
    (LARGE, LARGE.tolist()),
    (LARGE, np.asfortranarray(LARGE)),
    ([0.0], [-0.0]),
    (float("nan"), float("nan")),
    (Normalizer(), Normalizer(norm="l2")),
    (FunctionTransformer(np.log1p), FunctionTransformer(np.log1p)),
    (np.random.RandomState(3), np.random.RandomState(3)),
    ([0, "a", None], (np.int64(0), "a", None)),
]

OTHER = [
    (3, 4),
    (3, 3.0),
    (1, True),
    ("auto", None),
    (0.1, 0.1 + 1e-16),
    ([0.1, 0.2], [0.2, 0.1]),
    ([1, 2], [[1, 2]]),
    (LARGE, LARGE + (LARGE == 1500)),
    (Normalizer(), Normalizer(norm="l1")),
    (Normalizer(), MaxAbsScaler()),
    (FunctionTransformer(np.log1p), FunctionTransformer(np.sqrt)),
    (np.random.RandomState(3), np.random.RandomState(4)),
    (functools.partial(np.add, 1), functools.partial(np.add, 2)),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_means_the_same_is_the_same(one, other):
    assert repr(canonical(one)) == repr(canonical(other))


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_means_something_else_differs(one, other):
    assert repr(canonical(one)) != repr(canonical(other))


PAIRS = {
    "integers": (
        PoissonFactorization(3, max_iter=2),
        PoissonFactorization(np.int64(3), max_iter=np.int32(2)),
    ),
    "floats": (
        LatentDirichletAllocation(2, doc_topic_prior=0.1),
        LatentDirichletAllocation(2, doc_topic_prior=np.float64(0.1)),
    ),
    "arrays": (
        LatentDirichletAllocation(2, doc_topic_prior=[0.1, 0.2]),
        LatentDirichletAllocation(2, doc_topic_prior=np.array([0.1, 0.2])),
    ),
    "layers": (
        SparseGammaDEF((3, 2), max_iter=2),
        SparseGammaDEF(np.array([3, 2]), max_iter=2),
    ),
    "networks": (
        VariationalAutoencoder(2, likelihood="poisson", decoder_layers=(4,)),
        VariationalAutoencoder(2, likelihood="poisson", decoder_layers=[np.int64(4)]),
    ),
    "transformers": (
        NeuralTopicDLGM(2, input_transform=Normalizer(), max_iter=2),
        NeuralTopicDLGM(2, input_transform=Normalizer(norm="l2"), max_iter=2),
    ),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_a_run_is_resumed_by_parameters_that_mean_the_same(pair, counts, tmp_path):
    path = tmp_path / "run.checkpoint"
    one, other = (model.set_params(max_iter=2, random_state=0) for model in pair)
    one.fit(counts, checkpoint=path)
    with np.printoptions(precision=1, threshold=2):
        other.fit(counts, checkpoint=path)
    np.testing.assert_array_equal(other.components_, one.components_)


def test_a_run_with_other_parameters_is_not_resumed(counts, tmp_path):
    path = tmp_path / "run.checkpoint"
    LatentDirichletAllocation(2, random_state=0).fit(counts, checkpoint=path)
    other = LatentDirichletAllocation(2, doc_topic_prior=0.2, random_state=0)
    with pytest.raises(ValueError, match=r"differs in parameters/doc_topic_prior"):
        other.fit(counts, checkpoint=path)
