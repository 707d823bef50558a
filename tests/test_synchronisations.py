"""How often a pass would wait for an accelerator, counted on the CPU.

Some calls need numbers on the host, so all work that is queued must be done first.
These are few, and no more if rows take more steps.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.utils._python_dispatch import TorchDispatchMode

from skdeepfactor import (
    CorrelatedTopicModel,
    LabeledLDA,
    LatentDirichletAllocation,
    MultinomialMixture,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
    SupervisedLDAClassifier,
    VariationalAutoencoder,
    VariationalSparseCoding,
)

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
}
# These wait if an index is a mask.
BY_INDEX = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class Waits(TorchDispatchMode):
    """Counts the calls that copy numbers to the host."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_masked = function in BY_INDEX and any(
            index is not None and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        kwargs = kwargs or {}
        # The sum of the repetitions is the size of the result.
        is_repeated = (
            function is aten.repeat_interleave.Tensor
            and kwargs.get("output_size") is None
        )
        if function in WAITING or is_masked or is_repeated:
            self.calls[str(function)] += 1
        return function(*args, **kwargs)


def waits_of_a_pass(model, *args):
    """The calls of the third pass of a fit."""

    def calls(max_iter):
        model.set_params(max_iter=max_iter, tol=None)
        with Waits() as waits:
            model.fit(*args)
        return waits.calls

    before, after = calls(2), calls(3)
    after.subtract(before)
    return after


def problem():
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(40, 0.2), size=4)
    theta = rng.dirichlet(np.full(4, 0.3), size=80)
    X = np.stack([rng.multinomial(60, p) for p in theta @ topics]).astype(np.float32)
    return X, theta.argmax(1)


# A model, the name of its number of steps on each row, and whether it is given y.
LDA = LatentDirichletAllocation
INNER = "max_inner_iter"
MODELS = {
    "LDA": (LDA(4), INNER, False),
    "LDA, mean field": (LDA(4, inference="mean_field"), INNER, False),
    "LDA, cross-fitted": (LDA(4, inference="cross_fitted"), INNER, False),
    "PoissonFactorization": (PoissonFactorization(4), INNER, False),
    "LabeledLDA": (LabeledLDA(2, 1), INNER, True),
    "SupervisedLDA": (SupervisedLDAClassifier(4), INNER, True),
    "CorrelatedTopicModel": (CorrelatedTopicModel(4), INNER, False),
    "MultinomialMixture": (MultinomialMixture(4), None, False),
    "VAE": (VariationalAutoencoder(4, likelihood="multinomial"), None, False),
    "VSC": (VariationalSparseCoding(4, likelihood="multinomial"), None, False),
    "NeuralTopicDLGM": (NeuralTopicDLGM(4), "refine_steps", False),
    "SparseGammaDEF": (SparseGammaDEF(), INNER, False),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_waits_a_few_times_whatever_the_steps(name):
    model, steps, is_given_y = MODELS[name]
    X, y = problem()
    args = (X, y) if is_given_y else (X,)

    def waits(n_steps):
        chosen = {} if steps is None else {steps: n_steps}
        return waits_of_a_pass(clone(model).set_params(random_state=0, **chosen), *args)

    few = waits(2)
    assert few.total() <= 12, few
    if steps is not None:
        many = waits(6)
        # A batch of which some rows took their last step back waits twice more.
        n_more = 2 if name == "NeuralTopicDLGM" else 0
        assert many.total() <= few.total() + n_more, many - few


def test_waits_are_counted():
    x = torch.arange(4.0)
    with Waits() as waits:
        assert x.sum().item() == 6
        assert bool((x < 9).all())
        assert len(x[x > 1]) == 2
        torch.repeat_interleave(x, torch.tensor([1, 0, 2, 0]))
    assert waits.calls.total() >= 4
