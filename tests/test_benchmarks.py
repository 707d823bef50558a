"""Benchmarks run on toy data, so that no change of internals breaks them unseen."""

import importlib
import json
import math
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import benchmarks
from benchmarks import (
    belief_network,
    correlated,
    depth,
    dynamic,
    fuzz,
    gamma_def,
    gpu,
    grid,
    labels,
    latency,
    measure,
    mixtures,
    neural_topics,
    readings,
    recommend,
    scale,
    sparse_codes,
    supervised,
    tfidf,
    topics,
    wide,
)
from benchmarks.__main__ import NAMES

# A few passes over toy data do not converge.
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Peers, where they are installed: tomotopy's types when it is first imported, its
    # workers and an older name; gensim's bound of few rows.
    pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The training result may differ:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.tomotopy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning:gensim"),
]

PEERS = {"gensim", "hpfrec", "poismf", "pyro", "tomotopy"}

# What other benchmarks are made of.
PARTS = {"__main__", "data", "measure"}


def run_here(contender, arguments, *, threads=None):
    """What ``measure.run`` does, but in this process, and errors are raised."""
    module, function = contender.split(":")
    meter = measure.Meter()
    # To collect all that the tests have loaded takes longer than most fits.
    meter.baseline = measure.resident()
    contend = getattr(importlib.import_module(module), function)
    try:
        found = contend(meter, **json.loads(json.dumps(arguments)))
    except ModuleNotFoundError as error:
        if error.name not in PEERS:
            raise
        found = {"note": f"{error.name} is not installed"}
    return json.loads(json.dumps({**found, **meter.results()}, default=float))


@pytest.fixture
def written(monkeypatch):
    """The rows that each benchmark writes, which it makes in this process."""
    rows = {}

    def write_results(name, argv, found, **facts):
        rows[name] = found

    monkeypatch.setattr(measure, "run", run_here)
    monkeypatch.setattr(measure, "write_results", write_results)
    return rows


@pytest.fixture(autouse=True, scope="module")
def data_folder(tmp_path_factory):
    """Tiny data under the names of the large ones."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def counts(n_rows, n_features):
        rates = rng.gamma(0.3, 2, (n_rows, 3)) @ rng.gamma(0.3, 2, (3, n_features))
        values = rng.poisson(rates + 0.2)
        values[:, 0] += 1  # Perplexity has no meaning for rows of nothing.
        return scipy.sparse.csr_matrix(values, dtype=np.int32)

    # Of these, 500 are validation rows.
    shapes = {
        "20news_2000/train": (530, 20),
        "20news_2000/test": (30, 20),
        "20news_sh/train": (30, 20),
        "20news_sh/test_observed": (12, 20),
        "20news_sh/test_hidden": (12, 20),
        "bbc_news_octis/train": (30, 20),
        "delicious/train": (40, 20),
        "delicious/test": (12, 20),
        "lastfm_hetrec2k/all": (30, 25),
        "nips305_ars/train": (12, 10),
        "nyt_topmost/train": (60, 20),
        "nyt_topmost/test": (30, 20),
        "sotu/all": (60, 20),
        "pbmc1k_v3/all": (20, 15),
        "short_tset/all": (30, 20),
        "short_tweet/all": (30, 20),
        "labelme_images/train": (40, 20),
        "labelme_images/test": (30, 20),
        "movie_scale/all": (60, 20),
    }
    for name, shape in shapes.items():
        path = folder / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        scipy.sparse.save_npz(path, counts(*shape))
    texts = folder / "20news_2000"
    (texts / "vocab.txt").write_text("\n".join(f"word{v}" for v in range(20)))
    classes = {
        "20news_2000/train_labels": 530,
        "20news_2000/test_labels": 30,
        "bbc_news_octis/train_labels": 30,
        "short_tset/labels": 30,
        "short_tweet/labels": 30,
        "labelme_images/train_labels": 40,
        "labelme_images/test_labels": 30,
        "movie_scale/rating": 60,
        "nyt_topmost/train_times": 60,
        "nyt_topmost/test_times": 30,
        "sotu/years": 60,
        "sotu/fold": 60,
    }
    for name, n_rows in classes.items():
        np.save(folder / f"{name}.npy", np.arange(n_rows) % 2)
    for split, n_rows in (("train", 40), ("test", 12)):
        tags = scipy.sparse.csr_matrix(rng.random((n_rows, 22)) < 0.2)
        scipy.sparse.save_npz(folder / "delicious" / f"{split}_labels.npz", tags)
    # Rows of each year in each fold.
    np.save(folder / "sotu" / "years.npy", 10 * (np.arange(60) // 2 % 2))
    np.save(folder / "movie_scale" / "fold.npy", np.arange(60) // 30)
    arrays = {}
    for split, n_rows in (("train", 45), ("test", 12)):
        arrays[f"x_{split}"] = rng.integers(256, size=(n_rows, 5, 5), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(n_rows) % 2
    for name, file in (("mnist", arrays), ("olivetti", {})):
        (folder / name).mkdir()
        faces = {f"x_{split}": counts(12, 9).toarray() for split in ("train", "test")}
        # A fit merges rows that are alike, of which faces have none.
        faces["x_train"][:, 0] = np.arange(1, 13)
        np.savez(folder / name / f"{name}.npz", **(file or faces))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKDEEPFACTOR_DATA", str(folder))
        yield


def check(rows, n_rows=None):
    """All figures are finite, and contenders without any lack a package."""
    assert rows
    assert n_rows in (None, len(rows))
    for row in rows:
        if "note" in row:
            assert row["note"].endswith("is not installed")
            continue
        for name, value in row.items():
            if isinstance(value, float):
                assert math.isfinite(value), name


def test_every_benchmark_is_known():
    found = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)}
    assert found == {*NAMES, *PARTS}
    for name in found:
        importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_options_are_explained(name, capsys):
    with pytest.raises(SystemExit) as status:
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
    assert status.value.code == 0
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out


def test_contenders_run_in_a_process_of_their_own(monkeypatch):
    # Kernels of another processor, which OpenBLAS would take.
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    setting = {"contender": "popularity", "transform": "log", "k": 2, "seed": 0}
    found = measure.run(
        "benchmarks.recommend:contend", {**setting, "validate": False, "n_rows": None}
    )
    check([found])
    assert {"fit_seconds", "peak_mib", "auc", "load"} <= found.keys()
    assert found["blas"]
    assert "Prescott" not in found["blas"]


def test_topics(written):
    topics.main(["--quick", "--seeds", "0"])
    check(written["topics"], len(topics.CONTENDERS))


def test_correlated(written):
    correlated.main(["--quick", "--seeds", "0"])
    check(written["correlated"], len(correlated.CONTENDERS) + 2)


def test_dynamic(written):
    dynamic.main(["--quick", "--seeds", "0", "--years", "1"])
    n_rows = sum(len(found) for _, _, found in dynamic.CONTENDERS.values())
    check(written["dynamic"], n_rows + 1)


def test_belief_network(written):
    options = ["--n-draws", "2", "--seeds", "0"]
    belief_network.main(["--quick", *options])
    check(written["belief_network"], 3 + 2 + 1)


@pytest.mark.parametrize("corpus", labels.CONTENDERS)
def test_labels(corpus, written, monkeypatch):
    monkeypatch.setattr(labels, "QUICK_ROWS", 60)
    labels.main(["--quick", "--seeds", "0", "--data", corpus])
    check(written["labels"], len(labels.CONTENDERS[corpus]))


@pytest.mark.filterwarnings("ignore::FutureWarning:sklearn")
@pytest.mark.parametrize("corpus", supervised.OURS)
def test_supervised(corpus, written):
    supervised.main(["--quick", "--seeds", "0", "--data", corpus])
    has_no_gibbs = corpus != "movie_scale"
    check(written["supervised"], len(supervised.CONTENDERS) - has_no_gibbs)


def test_mixtures(written, monkeypatch):
    monkeypatch.setattr(mixtures, "SHORT", dict.fromkeys(mixtures.SHORT, 2))
    monkeypatch.setattr(mixtures, "LONG", dict.fromkeys(mixtures.LONG, 2))
    mixtures.main(["--rows", "24", "--k", "5", "--seeds", "0"])
    check(written["mixtures"], 2 * 2 + 2 * 5 + 3 + 2)


def test_tfidf(written):
    options = ["--data-seeds", "0", "--seeds", "0", "--models", "mixture, em", "LDA"]
    tfidf.main([*options, "--only", "planted", "features", "labels", "--rows", "300"])
    check(written["tfidf"], 6)


@pytest.mark.parametrize("name", ["defaults", "urn 300", "plain (collapse)", "tfidf"])
def test_neural_topics(name, written):
    small = ["n_components=3", "max_iter=1", "max_refine_steps=2"]
    is_mixture = "n_pseudo_inputs" in neural_topics.parameters_of(name)
    small += ["n_pseudo_inputs=2"] * is_mixture
    neural_topics.main(["--only", name, "--seeds", "0", "--set", *small])
    check(written["neural_topics"], 1)


def test_refinement_and_speed_of_neural_topics():
    curve = neural_topics.refine(measure.Meter(), "20news_2000", seed=0, k=3)["curve"]
    check(curve)
    for name in neural_topics.SPEED:
        setting = {"name": name, "corpus": "20news_2000", "n_epochs": 2, "k": 3}
        check([run_here("benchmarks.neural_topics:speed", setting)])


def test_depth(written):
    small = ["n_components=2", "max_iter=1", "max_refine_steps=2"]
    options = ["--rows", "20", "--layers", "3", "--seeds", "0", "--set", *small]
    depth.main(["--data", "20news_2000", "mnist", *options])
    check(written["depth"], 2)


def test_layers_of_gamma_def():
    setting = {"corpus": "20news_2000", "shape": 0.1, "seed": 0, "max_iter": 1}
    for name in ("two layers", "planted, two layers"):
        found = run_here(
            "benchmarks.gamma_def:layers",
            {**setting, "name": name, "sizes": (4, 2), "n_rows": 30},
        )
        check([found])
        assert 1 <= found["layer_2"] <= 2


@pytest.mark.parametrize("section", ["olivetti", "nips", "families", "images"])
def test_gamma_def(section, written, monkeypatch):
    small = {"layer_sizes": (4, 3, 2)}
    bounds = {
        name: {**setting, "parameters": {**setting.get("parameters", {}), **small}}
        for name, setting in gamma_def.BOUNDS.get(section, {}).items()
    }
    monkeypatch.setitem(gamma_def.BOUNDS, section, bounds)
    options = ["--seconds", "0.01", "--draws", "2", "--max-iter", "1"]
    gamma_def.main(["--only", section, *options])
    check(written["gamma_def"])


def test_predictions_of_gamma_def():
    deep = {"layer_sizes": (4, 3, 2), "max_iter": 2}
    text = {"name": "three layers", "parameters": deep, "seed": 0, "is_test": True}
    found = run_here("benchmarks.gamma_def:text", text)
    check([found])
    assert all(theme.startswith("layer ") for theme in found["themes"])
    for name, parameters in (
        ("three layers", deep),
        ("NMF", {"n_components": 2, "max_iter": 2}),
    ):
        setting = {"name": name, "parameters": parameters, "seed": 0, "is_test": False}
        check([run_here("benchmarks.gamma_def:cells", setting)])


def test_the_peer_of_gamma_def():
    pytest.importorskip("pyro")
    setting = {"moments": (0.01, 0.02), "clock": "wall", "seed": 0, "n_draws": 2}
    found = run_here("benchmarks.gamma_def:pyro", {**setting, "learning_rate": 0.03})
    check(found["curve"], 2)


def test_sparse_codes(written):
    names = ["VSC defaults", "VAE 200", "pixels", "collapse", "iwae"]
    options = ["--images", "30", "--minutes", "0.001"]
    sparse_codes.main(["--only", *names, *options])
    check(written["sparse_codes"], 4 + len(sparse_codes.COLLAPSE))


def test_planted_factors_of_sparse_codes():
    jobs = list(sparse_codes._planted_jobs())
    for _, function, setting in (jobs[0], jobs[-1]):
        setting["parameters"] |= {"max_iter": 1, "batch_size": 1000}
        found = run_here(
            f"benchmarks.sparse_codes:{function}", {**setting, "seed": 0, "n_images": 0}
        )
        check([found])


def test_readings(written, monkeypatch):
    monkeypatch.setitem(readings.NETWORKS, "max_iter", 1)
    readings.main(["--seeds", "0"])
    check(written["readings"], len(readings.COHERENCES) + len(readings.CODES))


def test_recommend(written):
    recommend.main(["--k", "3", "--seeds", "0"])
    check(written["recommend"], len(recommend.CONTENDERS))


@pytest.fixture
def small_scale(written, monkeypatch):
    # The limit would be that of all tests.
    monkeypatch.setattr("resource.setrlimit", lambda *limits: None)


def test_passes_and_memory_grow(small_scale, tmp_path):
    models = [*scale.ESTIMATORS, scale.DEEP]
    found = scale.measure_passes(tmp_path, models, (500, 1000), (4,), 1000)
    check(found, 3 * 3)
    shape = {"n_samples": 40, "n_features": 30, "nnz": 400}
    found = scale.measure_memory(tmp_path, models, shape, (4,))
    check(found, 3)
    assert all(row[part] > 0 for row in found for part in scale.PARTS)


def test_streams_and_processes(small_scale, tmp_path):
    check(scale.measure_streams((1000,), ()), 4)
    path, answer = str(tmp_path / "counts.npz"), tmp_path / "answer.json"
    shape = {"n_samples": 40, "n_features": 30, "nnz": 400}
    scale.write_counts(path, shape)
    scale.process(path, "PoissonFactorization", 3, 0, 1, answer)
    check([json.loads(answer.read_text())])


@pytest.mark.parametrize("models", [gpu.CLOSED, gpu.NEURAL, gpu.DEEP])
def test_gpu(models, written, device, tmp_path, monkeypatch):
    measured = gpu.bandwidth
    monkeypatch.setattr(gpu, "bandwidth", lambda device, _: measured(device, 2**16))
    monkeypatch.setattr(gpu, "K", 3)
    path = str(tmp_path / "counts.npz")
    scale.write_counts(path, {"n_samples": 40, "n_features": 30, "nnz": 400})
    for estimator, parameters in models.items():
        setting = {"estimator": estimator, "parameters": parameters, "path": path}
        check([run_here("benchmarks.gpu:contend", {**setting, "device": device})])
        found = run_here("benchmarks.gpu:agree", {**setting, "devices": [device]})
        check([found])
        for name in ("transform", "bound"):
            assert found[f"{device} float64 {name}"] < 1e-6
            assert found[f"{device} float32 {name}"] < 1e-2


def test_tests_of_the_gpu_exist():
    folder = Path(__file__).parent
    assert all((folder / f"test_{name}.py").exists() for name in gpu.TESTS)


def test_grid():
    setting = {"n_jobs": 1, "rows": 40, "k": [2, 3], "max_iter": 2}
    found = grid.search(measure.Meter(), **setting)
    assert found["best"]["n_components"] in (2, 3)
    check([found])


@pytest.mark.parametrize("method", ["transform", "partial_fit"])
def test_latency(method, written, monkeypatch):
    # A width that has no data of its own.
    fast = dict(list(latency.CONTENDERS.items())[:4])
    monkeypatch.setattr(latency, "CONTENDERS", fast)
    small = ["--columns", "60", "--k", "3", "--rows", "8", "--rounds", "1", "--busy"]
    latency.main([*small, "--method", method])
    # scikit-learn's NMF has no partial_fit.
    check(written["latency"], 4 - (method == "partial_fit"))


def test_wide(written, monkeypatch):
    monkeypatch.setattr(wide, "SHAPES", {"zipf_50": (20, 300)})
    wide.main(["--only", "zipf_50", "--repeats", "1", "--set", "n_components=2"])
    check(written["wide"], 1)
    assert written["wide"][0]["ratio"] > 0


def test_fuzz(capsys):
    fuzz.main(["--examples", "2", "--only", "LatentDirichletAllocation"])
    assert "no failure" in capsys.readouterr().out
