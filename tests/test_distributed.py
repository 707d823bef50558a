"""Two processes give what one gives; the processes are real ones."""

import os
import subprocess
import time

import numpy as np
import pytest
import torch.distributed
from numpy.testing import assert_allclose, assert_array_equal

from skdeepfactor._training.distributed import Share, current_share
from skdeepfactor._training.rows import MatrixRows
from tests.children import Child
from tests.conftest import (
    CLOSED_FORMS,
    ESTIMATORS,
    ONE_OF_EACH,
    assert_components_close,
)
from tests.forked import PATIENCE

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo to connect processes with",
)

HEADER = """
import os, sys, warnings
import numpy as np
import scipy.sparse
import torch
import torch.distributed as dist
torch.set_num_threads(1)
warnings.simplefilter("ignore")
from skdeepfactor.data import RowBlocks
from sklearn.base import clone
from tests.conftest import ESTIMATORS, ONE_OF_EACH, supply_targets, taken
supply_targets()

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
X = scipy.sparse.csr_matrix(np.load(f"{folder}/X.npy"))

def save(name, model):
    np.savez(
        f"{folder}/{name}.{rank}.npz", components=model.components_,
        bound=model.lower_bound_, history=model.history_["lower_bound"],
        row_totals=model._row_totals, n=model.n_samples_seen_,
        scores=model.score_samples(X), **model._parameters,
    )
"""

FOOTER = """
if world > 1:
    dist.destroy_process_group()
"""


def started(folder, body, world):
    """Processes that run a script."""
    script = HEADER + body + FOOTER
    return [Child(script, (rank, world, folder), folder) for rank in range(world)]


def ended(processes, seconds=PATIENCE):
    """What processes wrote, once they have ended; their errors if one failed."""
    shown = []
    for rank, process in enumerate(processes):
        try:
            out, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            pytest.fail(f"process {rank} hangs: {process.communicate()[1]}")
        shown.append((process.returncode, out, error))
    for rank, (code, _, error) in enumerate(shown):
        assert code == 0, f"process {rank} ended with {code}:\n{error}"
    return [out for _, out, _ in shown]


FITS = """
batched = {"batch_size": 16}
# A third process shows nothing of variants that two do not.
for name, model in (ESTIMATORS if world < 3 else ONE_OF_EACH).items():
    data = taken(model, X)
    model = clone(model).set_params(tol=0.0, max_iter=3)
    save(f"full-{name}", clone(model).fit(data))
    save(f"batched-{name}", clone(model).set_params(**batched).fit(data))
model = clone(ESTIMATORS["PoissonFactorization"])
held = clone(model).set_params(validation_fraction=0.3, random_state=None)
held.fit(X)
print(held.components_.sum(), held.history_["validation_score"])
blocks = RowBlocks([X[:20], X[20:27], X[27:]])
save("blocks", clone(model).set_params(max_iter=5).fit(blocks))
save("blocks-batched", clone(model).set_params(max_iter=5, batch_size=16).fit(blocks))
weights = np.tile([0.5, 0.0, 2.0, 1.5], 15)
for name in ("PoissonFactorization", "SparseGammaDEF"):
    weighted = clone(ESTIMATORS[name]).set_params(max_iter=5, tol=0.0)
    save(f"weighted-{name}", clone(weighted).fit(X, sample_weight=weights))
    weighted.set_params(**batched)
    save(f"weighted-batched-{name}", weighted.fit(X, sample_weight=weights))
# As many rows in all, but not for each; one process has none left for the last steps.
sizes = {1: [60], 2: [11, 49], 3: [11, 40, 9]}[world]
start = sum(sizes[:rank])
own = X[start : start + sizes[rank]]
save("sharded", clone(model).set_params(max_iter=5, tol=0.0).fit(own, sharded=True))
w = weights[start : start + sizes[rank]]
save("sharded-weighted", clone(model).set_params(max_iter=5, tol=0.0).fit(
    own, sample_weight=w, sharded=True))
# Those of one process may all be 0; others need not have some.
w = [None, 0 * w, w][rank] if world > 1 else w
clone(model).set_params(max_iter=3, batch_size=8).fit(
    own, sample_weight=w, sharded=True)
sampled = clone(ESTIMATORS["NeuralTopicDLGM"]).set_params(max_iter=3, batch_size=12)
save("sharded-batched", sampled.fit(own, sharded=True, X_val=own))
stream = RowBlocks([own[:4], own[4:]])
# One may have none at all.
own = X if rank == world - 1 else X[:0]
full = clone(model).set_params(max_iter=5, tol=0.0)
save("sharded-alone", full.fit(own, sharded=True))
save("sharded-alone-batched", clone(sampled).fit(own, sharded=True))
# Nor may a stream, of which there may not even be a block.
stream_alone = RowBlocks([X] if rank == world - 1 else [X[:0]] if rank else [])
save("sharded-blocks-alone", clone(full).fit(stream_alone, sharded=True))
save("sharded-blocks-alone-batched", clone(full).set_params(batch_size=20).fit(
    stream_alone, sharded=True, X_val=stream_alone))
save("sharded-blocks", clone(model).set_params(max_iter=5, tol=0.0, batch_size=20).fit(
    stream, sharded=True))
"""


@pytest.fixture
def results(found_by_all):
    """What one, two and three processes found: arrays by world, name and rank."""
    if isinstance(found_by_all, BaseException):
        raise found_by_all
    return found_by_all


@pytest.fixture(scope="module")
def found_by_all(tmp_path_factory):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.3, 1, (60, 3)) @ rng.gamma(0.3, 3, (3, 30)))
    found = {}
    for world in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"world{world}")
        np.save(folder / "X.npy", X.astype(np.float64))
        try:
            found[world, "printed"] = ended(started(folder, FITS, world))
        except BaseException as error:
            # Raised by each test; the processes are not started again for it.
            return error
        for path in folder.glob("*.npz"):
            name, rank = path.stem.rsplit(".", 1)
            with np.load(path) as archive:
                found.setdefault((world, name), {})[int(rank)] = dict(archive)
    return found


def names(world):
    """Names of the fits that are the same for any number of processes."""
    entries = [name for name in CLOSED_FORMS if world < 3 or name in ONE_OF_EACH]
    kinds = [f"{kind}-{name}" for kind in ("full", "batched") for name in entries]
    weighted = [
        f"weighted{kind}-{name}"
        for kind in ("", "-batched")
        for name in ("PoissonFactorization", "SparseGammaDEF")
    ]
    return [*kinds, *weighted, "blocks", "blocks-batched"]


@pytest.mark.parametrize(
    ("world", "name"), [(world, name) for world in (2, 3) for name in names(world)]
)
def test_several_processes_are_one(results, world, name):
    (expected,) = results[1, name].values()
    ranks = results[world, name]
    assert len(ranks) == world
    for found in ranks.values():
        assert_allclose(found["history"], expected["history"], rtol=1e-5)
        assert_components_close(found["components"], expected["components"], rtol=1e-5)
        assert_array_equal(found["row_totals"], expected["row_totals"])
        assert found["n"] == expected["n"] == 60
        # Of rows without counts scores may be 0, but for rounding.
        assert_allclose(found["scores"], expected["scores"], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("world", [2, 3])
def test_all_processes_have_the_same_model(results, world):
    n_compared = 0
    for (size, name), ranks in results.items():
        if size != world or name == "printed":
            continue
        assert len(ranks) == world
        for found in ranks.values():
            for key, array in ranks[0].items():
                if key not in ("scores", "bound"):
                    assert_array_equal(found[key], array, err_msg=f"{name} {key}")
            assert_allclose(found["bound"], ranks[0]["bound"], rtol=1e-9)
        n_compared += 1
    assert n_compared == 2 * len(ESTIMATORS if world < 3 else ONE_OF_EACH) + 14
    printed = results[world, "printed"]
    assert len(set(printed)) == 1
    assert printed[0]


@pytest.mark.parametrize("world", [2, 3])
def test_own_rows_make_the_same_model_as_shared_ones(results, world):
    # The start differs, since a draw for the sample of rows comes before it.
    for name in ("sharded", "sharded-weighted"):
        (expected,) = results[1, name].values()
        found = results[world, name][0]
        assert found["n"] == 60
        assert_allclose(found["bound"], expected["bound"], rtol=0.05)
        assert_allclose(found["row_totals"], expected["row_totals"])
    for name in ("sharded-alone", "sharded-blocks-alone"):
        (alone,) = results[1, name].values()
        found = results[world, name][0]
        assert_allclose(found["bound"], alone["bound"], rtol=0.05)
        assert found["n"] == 60
    assert len(results[world, "sharded-blocks-alone-batched"]) == world
    assert len(results[world, "sharded-batched"]) == world
    assert len(results[world, "sharded-blocks"]) == world


SEEDS = """
for seed in range(12):
    model = clone(ESTIMATORS["NeuralTopicDLGM-deep"])
    model.set_params(max_iter=8, batch_size=20, random_state=seed)
    save(f"seed{seed}", model.fit(X))
"""


def test_sampled_gradients_have_the_same_expectation(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.3, 1, (60, 3)) @ rng.gamma(0.3, 3, (3, 30)))
    bounds = {}
    for world in (1, 2):
        folder = tmp_path / f"world{world}"
        folder.mkdir()
        np.save(folder / "X.npy", X.astype(np.float64))
        ended(started(folder, SEEDS, world))
        bounds[world] = [
            float(np.load(folder / f"seed{seed}.0.npz")["scores"].mean())
            for seed in range(12)
        ]
    gap = np.mean(bounds[1]) - np.mean(bounds[2])
    error = np.hypot(*(np.std(b, ddof=1) / len(b) ** 0.5 for b in bounds.values()))
    assert abs(gap) < 4 * error
    assert error < 0.02 * abs(np.mean(bounds[1]))
    assert bounds[1] != bounds[2]


DYING = """
from skdeepfactor import PoissonFactorization
model = PoissonFactorization(5, max_iter=10**6, tol=0.0, batch_size=10,
                             n_iter_no_change=10**6)

class Rows(list):
    n_read = 0
    def __getitem__(self, number):
        self.n_read += 1
        if rank == 1 and self.n_read > 40:
            os._exit(7)
        return super().__getitem__(number)

model.fit(RowBlocks(Rows([X[:30], X[30:]])))
"""


def test_a_process_that_dies_ends_the_others(tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).poisson(1.0, (60, 30)) * 1.0)
    started_at = time.monotonic()
    processes = started(tmp_path, DYING, 2)
    try:
        codes = [process.wait(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes[1] == 7
    assert codes[0] not in (0, 7)
    error = processes[0].communicate()[1]
    processes[1].communicate()
    assert "Error" in error, error
    assert time.monotonic() - started_at < 60


CHECKPOINTED = """
model = clone(ESTIMATORS["PoissonFactorization"]).set_params(tol=0.0, max_iter=6)
if "first" in os.listdir(folder):
    from skdeepfactor._training.checkpoint import CheckpointFile
    write, n_written = CheckpointFile.write, 0
    def write_some(self, state):
        global n_written
        write(self, state)
        n_written += 1
        if n_written == 3:
            dist.barrier()
            os._exit(0)
    CheckpointFile.write = write_some
save("resumed", model.fit(X, checkpoint=f"{folder}/run"))
save("whole", clone(model).fit(X))
"""


@pytest.fixture
def stopped(tmp_path):
    """A folder with the checkpoints of two processes that were stopped."""
    np.save(tmp_path / "X.npy", np.random.default_rng(0).poisson(1.0, (60, 30)) * 1.0)
    (tmp_path / "first").touch()
    ended(started(tmp_path, CHECKPOINTED, 2))
    expected = {f"run.{rank}{end}" for rank in (0, 1) for end in ("", ".before")}
    assert {path.name for path in tmp_path.glob("run*")} == expected
    (tmp_path / "first").unlink()
    (tmp_path / "meet").unlink()
    return tmp_path


@pytest.mark.parametrize("is_behind", [False, True])
def test_processes_go_on_from_their_checkpoints(stopped, is_behind):
    if is_behind:
        # As if it had been killed before it wrote the last.
        os.replace(stopped / "run.1.before", stopped / "run.1")
    ended(started(stopped, CHECKPOINTED, 2))
    for rank in range(2):
        found, expected = (
            np.load(stopped / f"{name}.{rank}.npz") for name in ("resumed", "whole")
        )
        for name in expected:
            assert_array_equal(found[name], expected[name])


def test_a_process_without_its_checkpoint_is_noticed_by_all(stopped):
    for path in stopped.glob("run.1*"):
        path.unlink()
    processes = started(stopped, CHECKPOINTED, 2)
    for process in processes:
        error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode != 0
        assert "are of different passes, [[2, 3], []]" in error


BAD_SHARD = """
from skdeepfactor import PoissonFactorization
own = X[rank::2].copy()
if rank == 1:
    own.data[3] = np.nan
try:
    PoissonFactorization(2).fit(own, sharded=True)
except Exception as error:
    print(type(error).__name__, error)
own = X[rank::2, : 30 - rank]
for nothing in (own, RowBlocks([]), RowBlocks([own[:0]])):
    try:
        PoissonFactorization(2).fit(nothing, sharded=True)
    except Exception as error:
        print(type(error).__name__, error)
print(PoissonFactorization(2, random_state=0).fit(X).n_samples_seen_)
"""


def test_what_one_process_raises_all_do(tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).poisson(1.0, (60, 30)) * 1.0)
    first, second = ended(started(tmp_path, BAD_SHARD, 2))
    assert "RuntimeError Process 1 of the group failed: ValueError" in first
    assert second.startswith("ValueError Input X contains NaN")
    for shown in (first, second):
        assert "ValueError The processes have rows of different width" in shown
        assert shown.count("ValueError No process has a row.") == 2
        assert shown.endswith("60\n")


ALONE = """
if rank == 0:
    model = clone(ESTIMATORS["SparseGammaDEF-gradient"]).partial_fit(X)
    print(model.n_samples_seen_)
dist.barrier()
"""


def test_a_process_takes_steps_alone(tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).poisson(1.0, (60, 30)) * 1.0)
    assert ended(started(tmp_path, ALONE, 2)) == ["60\n", ""]


# In one process.


def test_one_process_is_its_own_group():
    share = current_share()
    assert share == Share()
    assert share.gathered(3) == [3]
    x = torch.ones(2)
    share.add_up([x])
    share.copy_first([x])
    assert_array_equal(x, 1)


def test_shards_take_part_in_each_step_by_their_size():
    X = np.zeros((54, 2))
    rows = MatrixRows(X, Share(1, 2, is_sharded=True))
    rows._counts, rows.n_total = [6, 54], 60
    cuts, sizes = rows._cuts(12)
    assert sum(sizes) == 60
    assert set(sizes) <= {11, 12, 13}
    assert (cuts[0], cuts[-1], len(cuts)) == (0, 54, 6)
    assert set(np.diff(cuts)) == {10, 11}
