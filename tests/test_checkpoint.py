"""Training that stops, by a kill, an interrupt or a full disk, and goes on."""

import contextlib
import resource
import shutil
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
)
from skdeepfactor._math.module import FactorModule
from skdeepfactor._training import loop as training
from skdeepfactor._training.checkpoint import CheckpointFile
from skdeepfactor._training.distributed import Share
from skdeepfactor._training.loop import train_pass
from skdeepfactor._training.run import Interrupted, Interrupts, Run
from skdeepfactor.data import RowBlocks
from tests.children import Child
from tests.conftest import taken


def assert_same(found, expected):
    """Equal to the last bit, but for the time it took."""
    for attribute in ("_parameters", "_optimizer_state"):
        theirs, ours = (getattr(m, attribute) for m in (expected, found))
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert_array_equal(ours[name], array, err_msg=name)
    for name, values in expected.history_.items():
        if name != "seconds":
            assert found.history_[name] == values
    assert found.lower_bound_ == expected.lower_bound_
    assert_array_equal(found.components_, expected.components_)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Copies of each checkpoint that is written from now on, as a list of paths."""
    paths = []
    write = CheckpointFile.write

    def write_and_keep(self, state):
        write(self, state)
        paths.append(tmp_path / f"kept.{len(paths)}")
        shutil.copy(self.path, paths[-1])

    monkeypatch.setattr(CheckpointFile, "write", write_and_keep)
    return paths


# Going on.


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.each_class),
        {"batch_size": 16, "validation_fraction": 0.2},
    ],
)
def test_a_run_goes_on_to_the_last_bit(estimator, counts, options, kept, tmp_path):
    X = taken(estimator, counts)
    estimator.set_params(max_iter=6, tol=0.0, **options)
    expected = clone(estimator).fit(X)
    path = tmp_path / "run"
    assert_same(clone(estimator).fit(X, checkpoint=path), expected)
    copies = list(kept)
    assert len(copies) == len(expected.history_["lower_bound"]) > 2
    for copy in copies[1:4:2]:
        shutil.copy(copy, path)
        assert_same(clone(estimator).fit(X, checkpoint=path), expected)


def test_a_large_gamma_def_goes_on_too(counts, kept, tmp_path, monkeypatch):
    """It is not extrapolated, and keeps copies of its parameters alone."""
    monkeypatch.setattr("skdeepfactor._training.guard.MAX_EXTRAPOLATED", 0)
    model = SparseGammaDEF((3, 2), max_iter=6, tol=0.0, random_state=0)
    expected = clone(model).fit(counts)
    path = tmp_path / "run"
    assert_same(clone(model).fit(counts, checkpoint=path), expected)
    shutil.copy(kept[2], path)
    assert_same(clone(model).fit(counts, checkpoint=path), expected)


def test_a_finished_run_is_not_trained_again(counts, tmp_path, monkeypatch):
    model = PoissonFactorization(3, max_iter=5, random_state=0)
    expected = clone(model).fit(counts, checkpoint=tmp_path / "run")
    monkeypatch.setattr("skdeepfactor._training.loop.train_pass", None)
    assert_same(clone(model).fit(counts, checkpoint=tmp_path / "run"), expected)


def test_without_a_seed_the_file_remembers_it(counts, kept, tmp_path):
    model = LatentDirichletAllocation(3, max_iter=4, batch_size=16)
    expected = clone(model).fit(counts, checkpoint=tmp_path / "run")
    shutil.copy(kept[1], tmp_path / "run")
    assert_same(clone(model).fit(counts, checkpoint=tmp_path / "run"), expected)
    other = clone(model).fit(counts, checkpoint=tmp_path / "other")
    assert not np.array_equal(other.components_, expected.components_)


def test_checkpoints_every_few_passes_or_seconds(counts, kept, tmp_path):
    model = PoissonFactorization(3, max_iter=10, tol=0.0, random_state=0)
    model.fit(counts, checkpoint=tmp_path / "a", checkpoint_every=4)
    assert len(kept) == 3
    model.fit(counts, checkpoint=tmp_path / "b", checkpoint_every=1000.0)
    assert len(kept) == 4


KILLED = """
import os, signal, sys, time
import numpy as np
import scipy.sparse
import torch
torch.set_num_threads(1)
from skdeepfactor import LatentDirichletAllocation, NeuralTopicDLGM

X = scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(0.3, (400, 50)))
models = {
    "lda": LatentDirichletAllocation(5, max_iter=50, tol=0.0, batch_size=50,
                                     random_state=0),
    "dlgm": NeuralTopicDLGM(3, encoder_layers=(20,), max_iter=15, random_state=0),
}
folder = sys.argv[1]
n_kills = 0
rng = np.random.default_rng(1)
for name, model in models.items():
    model.fit(X[:50])  # What the first fit loads is no part of the times below.
    seconds = time.perf_counter()
    expected = model.fit(X).components_
    seconds = time.perf_counter() - seconds
    for trial in range(2):
        path = f"{folder}/{name}.{trial}"
        for attempt in range(100):
            child = os.fork()
            if child == 0:
                model.fit(X, checkpoint=path)
                np.save(path + ".npy", model.components_)
                os._exit(0)
            if attempt < 7:
                time.sleep(rng.uniform(0.02, 0.3) * seconds)
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if status == 0:
                break
            assert os.WIFSIGNALED(status), status
            n_kills += 1
        np.testing.assert_array_equal(np.load(path + ".npy"), expected)
print(n_kills)
"""


def test_kills_at_random_times_change_nothing(tmp_path):
    child = Child(KILLED, [tmp_path], tmp_path)
    shown, error = child.communicate()
    assert child.returncode == 0, error
    assert int(shown) >= 20


# Files that are not what they should be.


@pytest.fixture
def written(counts, tmp_path):
    """A model, and the checkpoint of its fit."""
    path = tmp_path / "run"
    model = PoissonFactorization(3, max_iter=3, tol=0.0, random_state=0)
    model.fit(counts, checkpoint=path)
    return model, path


def test_a_damaged_file_is_refused(written, counts):
    model, path = written
    whole = path.read_bytes()
    expected = model.components_
    rng = np.random.default_rng(0)
    n_refused = 0
    for place in rng.choice(len(whole), 60, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            model.fit(counts, checkpoint=path)
            n_refused -= 1
        n_refused += 1
        # Some bytes, as that of a date, mean nothing; no others may pass.
        assert_array_equal(model.components_, expected)
    assert n_refused > 50
    for n_bytes in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match="damaged or not a checkpoint"):
            model.fit(counts, checkpoint=path)
        # It is not written over.
        assert path.read_bytes() == whole[:n_bytes]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"n_components": 4}, "parameters/n_components"),
        ({"random_state": 1}, "seed"),
        ({"tol": 0.1}, "parameters/tol"),
    ],
)
def test_a_file_of_another_fit_is_refused(written, counts, change, name):
    model, path = written
    with pytest.raises(ValueError, match=f"differs in .*{name}"):
        clone(model).set_params(**change).fit(counts, checkpoint=path)


def test_a_file_of_other_data_or_another_model_is_refused(written, counts):
    model, path = written
    X = counts.copy()
    X.data[5] += 1
    with pytest.raises(ValueError, match=r"differs in .*data"):
        clone(model).fit(X, checkpoint=path)
    # The sums are the same.
    with pytest.raises(ValueError, match=r"differs in .*data"):
        clone(model).fit(counts[:, ::-1], checkpoint=path)
    other = LatentDirichletAllocation(3, max_iter=3, tol=0.0, random_state=0)
    with pytest.raises(ValueError, match="differs in estimator"):
        other.fit(counts, checkpoint=path)


def test_other_validation_rows_are_another_fit(counts, tmp_path):
    model = PoissonFactorization(3, max_iter=3, tol=0.0, random_state=0)
    model.fit(counts[:40], X_val=counts[40:], checkpoint=tmp_path / "run")
    for X_val in (counts[41:], None):
        with pytest.raises(ValueError, match="differs in X_val"):
            model.fit(counts[:40], X_val=X_val, checkpoint=tmp_path / "run")


def test_other_blocks_are_another_fit(counts, tmp_path):
    X = counts.toarray()
    model = PoissonFactorization(3, max_iter=3, batch_size=8, random_state=0)
    model.fit(RowBlocks(X, block_rows=20), checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="differs in data"):
        model.fit(RowBlocks(X, block_rows=30), checkpoint=tmp_path / "run")


def test_a_file_that_runs_code_is_not_run(written, counts):
    model, path = written

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    with open(path, "wb") as file:
        np.savez(file, text=np.array(Trap(), dtype=object))
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        model.fit(counts, checkpoint=path)


@pytest.mark.parametrize("every", [0, -1, True, "often", 0.0])
def test_bad_intervals(counts, every, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be"):
        PoissonFactorization(3).fit(
            counts, checkpoint=tmp_path / "run", checkpoint_every=every
        )


def test_bad_places(counts, tmp_path):
    with pytest.raises(ValueError, match="in a folder that does not exist"):
        PoissonFactorization(3).fit(counts, checkpoint=tmp_path / "no" / "run")
    with pytest.raises(ValueError, match="checkpoint needs n_init=1"):
        PoissonFactorization(3, n_init=2).fit(counts, checkpoint=tmp_path / "run")


@pytest.fixture
def full_disk():
    """No file may grow beyond 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_does_not_end_training(counts, tmp_path, full_disk):
    path = tmp_path / "run"
    path.write_bytes(b"")
    path.unlink()
    model = PoissonFactorization(3, max_iter=2, tol=0.0, random_state=0)
    with pytest.warns(RuntimeWarning, match="could not be written .*continues"):
        model.fit(counts, checkpoint=path)
    assert model.n_iter_ == 2
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_last_checkpoint(written, full_disk):
    _, path = written
    whole = path.read_bytes()
    file = CheckpointFile(path)
    with pytest.warns(RuntimeWarning, match="previous file is kept"):
        file.write({"x": torch.zeros(10_000)})
    assert path.read_bytes() == whole


# Interrupts.


def interrupt_after(monkeypatch, n_calls, owner=FactorModule, name="after_step"):
    """Make the call of that number, of a method, the last before an interrupt."""
    calls = []
    kinds = [owner, *owner.__subclasses__()]
    for kind in [k for k in kinds if name in vars(k)]:
        method = vars(kind)[name]

        def interrupted(self, *args, method=method, **kwargs):
            calls.append(None)
            if len(calls) == n_calls:
                raise KeyboardInterrupt
            return method(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, interrupted)


@pytest.mark.parametrize(
    "batch_size", [pytest.param(None, marks=pytest.mark.each_class), 16]
)
def test_an_interrupt_keeps_the_last_whole_pass(estimator, counts, batch_size):
    X = taken(estimator, counts)
    estimator.set_params(tol=0.0, batch_size=batch_size, max_iter=9)
    whole = clone(estimator).fit(X)
    found = clone(estimator)
    kind = type(whole._load(torch.float64))
    with pytest.MonkeyPatch.context() as patch:
        n_passes = 0

        def interrupted(module, *args, **kwargs):
            """Train in the third pass too, but not to its end."""
            nonlocal n_passes
            # Those of the fit that gradients start from are not of this model.
            n_passes += type(module) is kind
            bound = train_pass(module, *args, **kwargs)
            if n_passes == 3:
                raise KeyboardInterrupt
            return bound

        patch.setattr("skdeepfactor._training.loop.train_pass", interrupted)
        with pytest.raises(KeyboardInterrupt):
            found.fit(X)
    assert found.n_iter_ == 2
    assert all(len(values) == 2 for values in found.history_.values())
    assert found.history_["lower_bound"] == whole.history_["lower_bound"][:2]
    assert found.lower_bound_ == found.history_["lower_bound"][-1]
    assert np.isfinite(found.transform(X)).all()
    assert np.isfinite(found.score(X))
    # It can go on.
    found.partial_fit(X)


def test_the_state_after_an_interrupt_is_that_of_fewer_passes(counts, monkeypatch):
    model = LatentDirichletAllocation(
        3, batch_size=16, max_iter=4, tol=0.0, random_state=0
    )
    expected = clone(model).set_params(max_iter=3).fit(counts)
    interrupt_after(monkeypatch, 3 * 4 + 2)
    with pytest.raises(KeyboardInterrupt) as caught:
        model.fit(counts)
    assert isinstance(caught.value, Interrupted)
    assert_array_equal(model.components_, expected.components_)
    assert model.n_iter_ == 3


@pytest.mark.parametrize("is_fitted", [False, True])
def test_an_interrupt_in_the_first_pass_changes_nothing(counts, is_fitted, monkeypatch):
    model = PoissonFactorization(3, max_iter=3, random_state=0)
    if is_fitted:
        model.fit(counts)
    before = dict(vars(model))
    interrupt_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(counts[:, :20])
    assert vars(model) == before


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_interrupt_before_the_first_pass_changes_nothing(
    counts, method, monkeypatch
):
    # In the closed forms that gradients start from, after some passes of theirs.
    model = SparseGammaDEF((3, 2), solver="gradient", random_state=0)
    before = dict(vars(model))
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt) as caught:
        getattr(model, method)(counts)
    assert not isinstance(caught.value, Interrupted)
    assert vars(model) == before


SIGNALLED = """
import os, signal, threading, time
import numpy as np
import torch
torch.set_num_threads(1)
from skdeepfactor import PoissonFactorization
from skdeepfactor._training import loop as training

X = np.random.default_rng(0).poisson(1.0, (500, 40))
model = PoissonFactorization(
    5, max_iter=10**6, batch_size=100, n_iter_no_change=10**6, random_state=0
)
passes = []
train_pass = training.train_pass


def counted(*args, **kwargs):
    passes.append(None)
    return train_pass(*args, **kwargs)


def interrupt():
    while len(passes) < 10:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


training.train_pass = counted
threading.Thread(target=interrupt).start()
try:
    model.fit(X)
except KeyboardInterrupt:
    print(model.n_iter_ > 5, np.isfinite(model.transform(X)).all())
"""


def test_a_signal_is_such_an_interrupt(tmp_path):
    shown, error = Child(SIGNALLED, [], tmp_path).communicate()
    assert shown == "True True\n", error


def test_an_interrupt_of_the_last_bound_keeps_all_passes(counts, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("skdeepfactor._training.run.data_bound", interrupted)
    model = LatentDirichletAllocation(3, batch_size=16, max_iter=4, random_state=0)
    with pytest.raises(Interrupted):
        model.fit(counts)
    assert model.n_iter_ == 4


@pytest.mark.parametrize("is_validated", [False, True])
@pytest.mark.parametrize("rate", [0.003, 3.0])
def test_an_interrupt_of_a_warm_fit_keeps_the_better(
    counts, rate, is_validated, monkeypatch
):
    """Steps that are far too long leave the estimator as it was."""
    X = counts[:24].astype(np.float64)
    rows = {"X_val": X[:12]} if is_validated else {}
    model = NeuralTopicDLGM(2, max_iter=1, batch_size=12, random_state=0)
    model.set_params(warm_start=True).fit(X, **rows).set_params(max_iter=6)
    judged = rows.get("X_val", X)
    before, bound = dict(vars(model)), model.score(judged)
    # In the third pass.
    interrupt_after(monkeypatch, 2 * 2 + 1)
    with pytest.raises(KeyboardInterrupt) as caught:
        model.set_params(learning_rate=rate).fit(X, **rows)
    is_better = rate < 1
    assert isinstance(caught.value, Interrupted) == is_better
    assert model.n_iter_ == (2 if is_better else before["n_iter_"])
    if is_better:
        assert model.score(judged) > bound
    else:
        assert vars(model) == {**before, "learning_rate": rate}


def test_an_interrupted_process_waits_for_no_other():
    """The others may not be interrupted, or elsewhere, and never add their rows."""

    class Asked(Run):
        def __init__(self, n_processes):
            self.rows = SimpleNamespace(share=Share(0, n_processes))
            self.beginning, self.first_quality = object(), 1.0

        def _quality(self):
            return 0.0

    with pytest.raises(KeyboardInterrupt):
        Asked(1).check_gain()
    Asked(2).check_gain()


@pytest.fixture
def hears_interrupts():
    """Python's own handler, where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
@pytest.mark.parametrize("is_guarded", [True, False])
def test_an_interrupt_in_a_pass_that_diverges(is_guarded, counts, monkeypatch):
    """It is held back until the last sound pass is restored, if there is a copy."""
    monkeypatch.setattr("skdeepfactor._training.guard.MAX_EXTRAPOLATED", 0)
    n_passes = []

    def diverging(*args, run, **kwargs):
        n_passes.append(None)
        sums = train_pass(*args, run=run, **kwargs)
        if len(n_passes) < 3:
            return sums
        signal.raise_signal(signal.SIGINT)
        return [np.nan, np.nan]

    monkeypatch.setattr(training, "train_pass", diverging)
    handler = signal.getsignal(signal.SIGINT)
    kind = SparseGammaDEF if is_guarded else LatentDirichletAllocation
    model = kind(max_iter=5, tol=None, random_state=0)
    if is_guarded:
        with (
            pytest.warns(ConvergenceWarning, match="after pass 3"),
            pytest.raises(Interrupted),
        ):
            model.fit(counts)
        assert model.n_iter_ == 2
        assert np.isfinite(model.transform(counts)).all()
    else:
        with pytest.raises(KeyboardInterrupt) as caught:
            model.fit(counts)
        assert not isinstance(caught.value, Interrupted)
        assert not hasattr(model, "components_")
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("n_calls", [6, 8])
def test_an_interrupt_keeps_the_best_restart(counts, n_calls, monkeypatch):
    model = PoissonFactorization(3, max_iter=5, tol=0.0, random_state=0)
    first = clone(model).set_params(n_init=2)
    # In the first pass of the second restart, and in its third.
    interrupt_after(monkeypatch, n_calls)
    with pytest.raises(Interrupted):
        first.fit(counts)
    assert first.n_iter_ in ({5} if n_calls == 6 else {2, 5})
    assert first.lower_bound_ >= max(first.history_["lower_bound"])


def test_interrupts_go_to_who_handles_them(monkeypatch):
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append("handled"))
    try:
        interrupts = Interrupts()
        interrupts.hold_back()
        signal.raise_signal(signal.SIGINT)
        assert calls == []
        interrupts.let_through()
        assert calls == ["handled"]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupts.hold_back()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        interrupts.let_through()
    finally:
        signal.signal(signal.SIGINT, before)


# Memory that runs out.


def out_of_memory(monkeypatch, kind, n_failures):
    """Let the first calls of ``backward`` fail as on a GPU that is full."""
    method, calls = kind.backward, []

    def backward(self, *args, **kwargs):
        calls.append(len(args[0]))
        if len(calls) in n_failures:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return method(self, *args, **kwargs)

    monkeypatch.setattr(kind, "backward", backward)
    return calls


@pytest.mark.parametrize("batch_size", [None, 20])
def test_rows_are_halved_once_where_memory_is_short(counts, batch_size, monkeypatch):
    from skdeepfactor.models.latent_dirichlet_allocation.module import DirichletTopics

    model = LatentDirichletAllocation(
        3, max_iter=4, tol=0.0, batch_size=batch_size, random_state=0
    )
    monkeypatch.setattr("skdeepfactor._training.rows.CHUNK_BYTES", 20 * 4 * 13)
    expected = clone(model).fit(counts)
    # In the first pass, before rows are remembered.
    calls = out_of_memory(monkeypatch, DirichletTopics, {2})
    with pytest.warns(RuntimeWarning, match="half as many rows at once"):
        model.fit(counts)
    assert max(calls[2:]) <= -(-max(calls[:2]) // 2)
    np.testing.assert_allclose(model.components_, expected.components_, rtol=1e-4)


def test_memory_that_runs_out_again_ends_training(counts, monkeypatch):
    from skdeepfactor.models.latent_dirichlet_allocation.module import DirichletTopics

    model = LatentDirichletAllocation(3)
    before = dict(vars(model))
    out_of_memory(monkeypatch, DirichletTopics, set(range(100)))
    with (
        pytest.raises(MemoryError, match="lower n_components or batch_size"),
        pytest.warns(RuntimeWarning, match="half as many"),
    ):
        model.fit(counts)
    assert vars(model) == before


def test_a_run_that_halves_its_rows_draws_the_same(counts, monkeypatch):
    model = NeuralTopicDLGM(
        3, encoder_layers=(8,), max_iter=3, batch_size=16, random_state=0
    )
    expected = clone(model).fit(counts)
    kind = type(model._build({"n_features": 30}))
    out_of_memory(monkeypatch, kind, {3})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model.fit(counts)
    assert_same(model, expected)
