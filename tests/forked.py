"""Estimators in children of a process whose torch has used threads.

Run by ``test_environment.py`` in a process of its own: prints, for each estimator, a
hash of what it gives in a forked child and of what it gives on one thread.
"""

import hashlib
import multiprocessing
import pickle
import sys

import numpy as np
import torch
from sklearn.base import clone

# Seconds that a child may take: it takes one, but machines are busy.
PATIENCE = 900


def everything(estimator, counts):
    """A hash of what all methods of a fitted estimator give."""
    found = hashlib.sha256()

    def note(array):
        array = array.toarray() if hasattr(array, "toarray") else np.asarray(array)
        found.update(np.ascontiguousarray(array).tobytes())

    note(estimator.components_)
    Z = estimator.transform(counts)
    note(Z)
    note(estimator.inverse_transform(Z))
    note(estimator.score_samples(counts))
    note(estimator.sample(5, random_state=0))
    for name in ("predictive", "activations", "perplexity"):
        if hasattr(estimator, name):
            note(getattr(estimator, name)(counts))
    if hasattr(estimator, "recommend"):
        note(estimator.recommend(counts, 3))
    copied = pickle.loads(pickle.dumps(estimator))
    note(copied.components_)
    note(copied.partial_fit(counts).components_)
    note(clone(estimator).partial_fit(counts).components_)
    return found.hexdigest()


def tell(connection, estimator, counts):
    before = torch.get_num_threads()
    found = [everything(e, counts) for e in (estimator, clone(estimator).fit(counts))]
    connection.send((found, before, torch.get_num_threads()))


def in_a_child(estimator, counts):
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=tell, args=(theirs, estimator, counts))
    child.start()
    theirs.close()
    try:
        if not mine.poll(PATIENCE):
            return "it hangs"
        return mine.recv()
    except EOFError:
        return "it died"
    finally:
        child.kill()
        child.join()


def main():
    from skdeepfactor import (
        CorrelatedTopicModel,
        DynamicTopicModel,
        LatentDirichletAllocation,
        MultinomialMixture,
        NeuralTopicDLGM,
        PoissonFactorization,
        PoissonGammaBeliefNetwork,
        SparseGammaDEF,
        VariationalAutoencoder,
        VariationalSparseCoding,
    )

    quick = {"max_iter": 2, "random_state": 0}
    estimators = [
        LatentDirichletAllocation(20, **quick),
        PoissonFactorization(20, **quick),
        SparseGammaDEF((20, 5), **quick),
        SparseGammaDEF((20, 5), solver="gradient", **quick),
        NeuralTopicDLGM(20, max_refine_steps=5, **quick),
        CorrelatedTopicModel(10, **quick),
        DynamicTopicModel(20, **quick),
        LatentDirichletAllocation(20, inference="gibbs", **quick),
        MultinomialMixture(20, **quick),
        PoissonGammaBeliefNetwork((20, 5), n_draws=2, **quick),
        VariationalAutoencoder(20, likelihood="poisson", **quick),
        VariationalSparseCoding(20, likelihood="poisson", **quick),
    ]
    counts = np.random.default_rng(0).poisson(0.5, (300, 200)).astype(np.float64)
    for estimator in estimators:
        torch.set_num_threads(1)
        estimator.fit(counts)
        # Threads that the child will not have.
        torch.set_num_threads(2)
        torch.ones(10**6).exp().sum()
        torch.ones(500, 500) @ torch.ones(500, 500)
        found = in_a_child(estimator, counts)
        torch.set_num_threads(1)
        print(found, everything(estimator, counts), sep="\t", flush=True)


if __name__ == "__main__":
    sys.exit(main())
