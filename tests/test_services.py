"""Estimators outside of notebooks: settings, styles, files, streams and interrupts."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler

from skdeepfactor import (
    CorrelatedTopicModel,
    DynamicTopicModel,
    LabeledLDA,
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    VariationalAutoencoder,
    VariationalSparseCoding,
)
from skdeepfactor._training.rows import ahead
from skdeepfactor.data import RowBlocks
from skdeepfactor.inspection import jacobian_embeddings, top_features
from skdeepfactor.metrics import topic_diversity
from skdeepfactor.plotting import (
    ComponentSelectionDisplay,
    EmbeddingDisplay,
    HierarchyDisplay,
    TrainingDisplay,
    topic_page,
)
from tests.children import Child
from tests.forked import PATIENCE

X = np.random.default_rng(0).poisson(1.0, (24, 6)).astype(float)


@pytest.mark.each_class
def test_a_fit_without_standard_error_shows_no_bar(estimator, counts, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    estimator.set_params(verbose=1).fit(counts)


@pytest.mark.each_class
@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_a_map_stays_one_whatever_the_output(estimator, counts, output, tmp_path):
    pytest.importorskip(output)
    expected = estimator.fit(counts).transform(counts)
    with sklearn.config_context(transform_output=output):
        written = estimator.transform(counts, out=tmp_path / "global.npy")
        frame = estimator.transform(counts)
    assert type(frame).__module__.split(".")[0] == output
    assert isinstance(written, np.memmap)
    np.testing.assert_array_equal(written, expected)
    estimator.set_output(transform=output)
    assert type(estimator.transform(counts)) is type(frame)
    own = estimator.transform(counts, out=tmp_path / "own.npy")
    assert isinstance(own, np.memmap)
    np.testing.assert_array_equal(own, expected)


def test_a_map_stays_one_in_classes_of_users(tmp_path):
    class Theirs(PoissonFactorization):
        def transform(self, X, *, return_std=False, out=None):
            return super().transform(X, return_std=return_std, out=out)

    for kind in (Theirs, type("Plain", (PoissonFactorization,), {})):
        model = kind(2, random_state=0).fit(X).set_output(transform="pandas")
        assert isinstance(model.transform(X, out=tmp_path / "z.npy"), np.memmap)
        assert isinstance(model.transform(X), pd.DataFrame)
        mean, std = model.transform(X, return_std=True)
        assert mean.shape == std.shape == (24, 2)


@pytest.mark.parametrize("output", ["pandas", "polars"])
@pytest.mark.parametrize("n_components", [3, 12])
def test_a_page_of_topics_whatever_the_output(output, n_components, tmp_path):
    pytest.importorskip(output)
    model = LatentDirichletAllocation(n_components, random_state=0).fit(X)
    expected = topic_page(model, X, path=tmp_path / "a.html").read_text("utf-8")
    with sklearn.config_context(transform_output=output):
        found = topic_page(model, X, path=tmp_path / "b.html").read_text("utf-8")
    assert found == expected


def test_embeddings_are_drawn_whatever_the_output():
    pytest.importorskip("matplotlib").use("agg")
    with sklearn.config_context(transform_output="pandas"):
        for projection in ("pca", "tsne"):
            display = EmbeddingDisplay.from_embeddings(
                X, projection=projection, random_state=0
            )
            assert display.positions.shape == (24, 2)


# What users hand over, and what they are told.
MESSAGES = {
    "signed hashes": (
        lambda model: model.fit(
            HashingVectorizer(n_features=64).transform(["a bus b"])
        ),
        ValueError,
        "HashingVectorizer, set alternate_sign=False",
    ),
    "a frame that leaves out NaN": (
        lambda model: model.fit(pd.DataFrame(X).astype(pd.SparseDtype(float, np.nan))),
        ValueError,
        r"sparse columns that leave out other values than 0.*X.sparse.to_dense\(\)",
    ),
    "a truth value for a number": (
        lambda model: model.set_params(n_components=True).fit(X),
        ValueError,
        "'n_components' parameter of .* must not be a truth value, got True",
    ),
    "a truth value for passes": (
        lambda model: model.set_params(max_iter=True).partial_fit(X),
        ValueError,
        "'max_iter' parameter of .* must not be a truth value, got True",
    ),
    "a truth value for rows": (
        lambda model: model.fit(X).sample(True),
        ValueError,
        "n_samples must be an int of at least 1, got True",
    ),
    "a truth value for a stream": (
        lambda model: model.partial_fit(X, total_samples=True),
        ValueError,
        "total_samples must be a finite number of at least 1, got True",
    ),
    "an iterator": (
        lambda model: model.fit(iter([X, X])),
        TypeError,
        "list_iterator is an iterator.*give RowBlocks a function that makes it",
    ),
    "an argument of no name": (
        lambda model: model.fit(X, weights=X[:, 0]),
        TypeError,
        r"^(Lat|Neu|Poi|Var)\w+.fit\(\) takes no weights\.$",
    ),
    "another of no name": (
        lambda model: model.partial_fit(X, weights=X[:, 0]),
        TypeError,
        r"^(Lat|Neu|Poi|Var)\w+.partial_fit\(\) takes no weights\.$",
    ),
}


@pytest.mark.parametrize(("do", "kind", "message"), MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize(
    "model", [LatentDirichletAllocation, PoissonFactorization, NeuralTopicDLGM]
)
def test_mistakes_are_told(model, do, kind, message):
    with pytest.raises(kind, match=message):
        do(model(2, max_iter=1, random_state=0))


@pytest.mark.parametrize(
    "model", [NeuralTopicDLGM, VariationalAutoencoder, VariationalSparseCoding]
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_weights_are_refused_by_the_estimators_own_name(model, method):
    message = rf"{model.__name__}.{method}\(\) takes no sample_weight: repeat rows"
    with pytest.raises(TypeError, match=message):
        getattr(model(2), method)(X, sample_weight=X[:, 0])


@pytest.mark.parametrize(
    "model",
    [CorrelatedTopicModel, DynamicTopicModel, LabeledLDA, LatentDirichletAllocation],
)
def test_scores_refuse_by_the_estimators_own_name(model):
    fitted = model(2, max_iter=1, random_state=0).fit(X, [0, 1] * (len(X) // 2))
    message = rf"^{model.__name__}.score\(\) takes no n_particles\.$"
    with pytest.raises(TypeError, match=message):
        fitted.score(X, n_particles=5)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (CorrelatedTopicModel, "transform"),
        (DynamicTopicModel, "perplexity"),
        (LabeledLDA, "topic_assignments"),
    ],
)
def test_methods_of_bases_refuse_by_the_estimators_own_name(model, method):
    message = rf"^{model.__name__}.{method}\(\) takes no colour\.$"
    with pytest.raises(TypeError, match=message):
        getattr(model(2), method)(X, colour=5)


@pytest.mark.each_class
def test_truth_values_are_no_whole_numbers(estimator, counts):
    for name, constraints in estimator._parameter_constraints.items():
        is_number = any(type(c).__name__ == "Interval" for c in constraints)
        if is_number and "boolean" not in constraints:
            wrong = sklearn.clone(estimator).set_params(**{name: True})
            with pytest.raises(ValueError, match=name):
                wrong.fit(counts)


@pytest.mark.each_class
def test_numbers_may_be_numpys(estimator, counts, tmp_path):
    """Those of a grid are: np.arange(2, 10) has no others."""

    def of_numpy(value):
        if isinstance(value, tuple):
            return [of_numpy(part) for part in value]
        kinds = {int: np.int64, float: np.float64}
        return kinds.get(type(value), lambda plain: plain)(value)

    counts, path = counts[:12].astype(np.float64), tmp_path / "run"
    expected = estimator.set_params(max_iter=2).fit(counts, checkpoint=path)
    parameters = {k: of_numpy(v) for k, v in expected.get_params().items()}
    for more in ({}, {"checkpoint": path}):
        found = type(estimator)(**parameters).fit(counts, **more)
        np.testing.assert_array_equal(found.components_, expected.components_)
    for method in ("transform", "score"):
        one, two = (getattr(model, method)(counts) for model in (found, expected))
        np.testing.assert_array_equal(one, two)
    found.partial_fit(counts)


def test_readers_take_no_truth_values_for_whole_numbers():
    model = PoissonFactorization(2, random_state=0).fit(X)
    for read, message in [
        (lambda: model.recommend(X, True), "n must be an int from 1 to 6, got True"),
        (lambda: top_features(model, True), "n must be an int of at least 1, got True"),
        (lambda: topic_diversity(X, top_n=True), "top_n must be a positive integer"),
        (lambda: RowBlocks(X, block_rows=True), "block_rows must be an int"),
        (lambda: VariationalAutoencoder(2, encoder_layers=(True,)).fit(X), "ints"),
    ]:
        with pytest.raises(ValueError, match=message):
            read()


def test_a_lazy_frame_is_to_be_collected():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(X, [f"x{i}" for i in range(6)])
    model = PoissonFactorization(2, random_state=0).fit(frame)
    for method in (model.fit, model.transform, model.score, model.partial_fit):
        with pytest.raises(TypeError, match=r"a LazyFrame, .* give X.collect\(\)"):
            method(frame.lazy())
    with pytest.raises(TypeError, match=r"LazyFrame, .*frame.collect_batches"):
        RowBlocks(frame.lazy())
    blocks = RowBlocks(lambda: frame.iter_slices(7))
    found = PoissonFactorization(2, random_state=0).fit(blocks)
    assert list(found.feature_names_in_) == frame.columns


def test_tables_that_come_in_chunks(tmp_path):
    path = tmp_path / "counts.csv"
    table = pd.DataFrame(X, columns=list("abcdef"))
    table.to_csv(path, index=False)
    chunks = pd.read_csv(path, chunksize=7)
    for take in (RowBlocks, PoissonFactorization(2).fit):
        with pytest.raises(TypeError, match=r"an iterator, .*a function that makes"):
            take(chunks)
    chunks.close()
    found = PoissonFactorization(2, random_state=0).fit(
        RowBlocks(lambda: pd.read_csv(path, chunksize=7))
    )
    expected = PoissonFactorization(2, random_state=0).fit(
        RowBlocks(lambda: iter([X[i : i + 7] for i in range(0, 24, 7)]))
    )
    np.testing.assert_array_equal(found.components_, expected.components_)
    groups = table.groupby(np.arange(24) // 7)
    with pytest.raises(TypeError, match=r"DataFrameGroupBy, .*gives pairs: give"):
        RowBlocks(groups)
    grouped = PoissonFactorization(2, random_state=0).fit(
        RowBlocks(lambda: (frame for _, frame in groups))
    )
    np.testing.assert_array_equal(grouped.components_, expected.components_)
    with pytest.raises(TypeError, match="of pandas, which is in memory"):
        RowBlocks(table)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".txt", ""])
def test_files_of_unknown_endings(ending, tmp_path):
    path = tmp_path / f"counts{ending}"
    path.write_text("a,b\n1,2\n")
    for name in (path, str(path)):
        message = rf"Block 0 .*unknown ending, '{ending}': .npy and .npz are read"
        with pytest.raises(ValueError, match=message):
            PoissonFactorization(2).fit(RowBlocks([name]))


def test_endings_may_be_in_capitals(tmp_path):
    np.save(tmp_path / "a.npy", X)
    os.replace(tmp_path / "a.npy", tmp_path / "A.NPY")
    model = PoissonFactorization(2, random_state=0).fit(RowBlocks([tmp_path / "A.NPY"]))
    assert model.n_samples_seen_ == 24


def slow(started, release):
    """Blocks, the second of which takes until it is released."""
    yield X
    started.set()
    release.wait(60)
    yield X


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_does_not_wait_for_a_slow_block(error):
    started, release = threading.Event(), threading.Event()
    timer = threading.Timer(0.5, release.set)
    begun = time.perf_counter()

    def work():
        with contextlib.closing(ahead(slow(started, release), 2)) as blocks:
            for _ in blocks:
                started.wait()
                timer.start()
                raise error

    with pytest.raises(error):
        work()
    took = time.perf_counter() - begun
    # Other errors wait, so that the source is not read twice at once.
    assert release.is_set() == (error is ValueError)
    assert took >= 0.4 if error is ValueError else True
    timer.cancel()
    release.set()


INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np
from skdeepfactor import PoissonFactorization
from skdeepfactor.data import RowBlocks

X = np.random.default_rng(0).poisson(1.0, (20, 6))
times = []

def blocks():
    times.append(time.perf_counter())
    yield X
    if len(times) == int(sys.argv[1]):
        times.append(time.perf_counter())
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(100)
    yield X

try:
    PoissonFactorization(2, tol=0, random_state=0).fit(RowBlocks(blocks))
except KeyboardInterrupt:
    print(time.perf_counter() - times[-1])
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize("n_passes", [1, 4])
def test_control_c_comes_back_while_a_block_is_slow(n_passes, tmp_path):
    shown, error = Child(INTERRUPT, [n_passes], tmp_path).communicate()
    # The block takes 100 s; what remains is for machines that are busy.
    assert float(shown) < 50, error


def test_a_page_that_cannot_be_written_leaves_the_last(tmp_path, monkeypatch):
    model = LatentDirichletAllocation(2, random_state=0).fit(X)
    path = topic_page(model, X, path=tmp_path / "page.html")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            topic_page(model, X[:5], path=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    link = tmp_path / "link.html"
    link.symlink_to(path)
    topic_page(model, X[:5], path=link)
    assert link.is_symlink()
    assert path.read_bytes() != before


@pytest.mark.parametrize("place", [os.devnull, "pipe", "folder"])
def test_what_is_no_file_is_neither_read_nor_replaced(place, tmp_path):
    if place == "pipe":
        place = tmp_path / "pipe"
        os.mkfifo(place)
    elif place == "folder":
        place = tmp_path / "folder"
        place.mkdir()
    model = PoissonFactorization(2, max_iter=2, random_state=0)
    with pytest.raises(ValueError, match=r"checkpoint=.* must be a file, but is a"):
        model.fit(X, checkpoint=place)
    model.fit(X)
    with pytest.raises(ValueError, match=r"out=.* must be a file, but is a"):
        model.transform(X, out=place)
    with pytest.raises((ValueError, IsADirectoryError), match="a file, but"):
        topic_page(model, X, path=place)
    assert os.path.exists(place)
    assert not os.path.isfile(place)


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_transformers_of_inputs_give_matrices(output):
    pytest.importorskip(output)

    class Plain:
        """One that cannot be told what to give."""

        def fit(self, X, y=None):
            return self

        def fit_transform(self, X, y=None):
            return X

        def transform(self, X):
            return X

        def get_params(self, deep=True):
            return {}

    def fitted(transformer, rows):
        model = NeuralTopicDLGM(
            2, input_transform=transformer, max_iter=1, random_state=0
        )
        return np.asarray(model.fit(rows).transform(rows))

    for rows in (X, scipy.sparse.csr_matrix(X)):
        for transformer in (
            MaxAbsScaler(),
            FunctionTransformer(np.sqrt),
            MaxAbsScaler().set_output(transform=output),
            Plain(),
        ):
            told = isinstance(transformer, MaxAbsScaler)
            expected = fitted(MaxAbsScaler() if told else transformer, rows)
            with sklearn.config_context(transform_output=output):
                np.testing.assert_array_equal(fitted(transformer, rows), expected)


STYLES = ["default", "grayscale", "ggplot", "fivethirtyeight", "seaborn-v0_8-deep"]


@pytest.mark.parametrize("style", STYLES)
def test_no_two_curves_or_groups_look_alike(style):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_hex

    history = {"lower_bound": [-3.0, -2.0], "seconds": [0.1, 0.1]}
    plt.close("all")
    with plt.style.context(style):
        display = TrainingDisplay({f"run {i}": history for i in range(25)}).plot()
        lines = [
            (to_hex(line.get_color()), line.get_linestyle(), line.get_marker())
            for line in display.ax_[0].get_lines()
        ]
        assert len(set(lines)) == 25
        curves = {f"curve {i}": ([1, 2], [i, -i], [0.1, 0.1]) for i in range(13)}
        display = ComponentSelectionDisplay(curves).plot()
        lines = [
            (to_hex(c[0].get_color()), c[0].get_linestyle(), c[0].get_marker())
            for c in display.ax_.containers
        ]
        assert len(set(lines)) == 13
        for n_groups in (3, 8, 12):
            groups = [f"group {i % n_groups}" for i in range(24)]
            display = EmbeddingDisplay(X[:, :2], groups=groups).plot()
            colors = {
                to_hex(points.get_facecolor()[0]) for points in display.ax_.collections
            }
            assert len(colors) == n_groups
        shares = np.eye(9)
        names = [[f"a{i}" for i in range(9)]] * 2
        drawn = HierarchyDisplay([shares], names).plot().ax_.collections[0]
        assert len({to_hex(color) for color in drawn.get_edgecolors()}) == 9
        plt.close("all")


def test_the_usual_style_is_what_it_was():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.close("all")
    history = {"lower_bound": [-3.0, -2.0], "seconds": [0.1, 0.1]}
    display = TrainingDisplay({f"run {i}": history for i in range(10)}).plot()
    for index, line in enumerate(display.ax_[0].get_lines()):
        assert line.get_color() == f"C{index}"
        assert (line.get_linestyle(), line.get_marker()) == ("-", "o")


TENSORS = """
import numpy as np, scipy.sparse, sklearn, torch, warnings
from tests.conftest import ESTIMATORS, ONE_OF_EACH, supply_targets
from tests.test_border import called, taking_rows
from skdeepfactor import (
    CorrelatedTopicModel, DynamicTopicModel, SupervisedLDAClassifier,
    SupervisedLDARegressor, VariationalSparseCoding,
)
from skdeepfactor.data import RowBlocks
from skdeepfactor.inspection import factor_shares, jacobian_embeddings
from skdeepfactor.metrics import completion_perplexity, npmi_coherence

warnings.filterwarnings("error")
warnings.filterwarnings("ignore", category=UserWarning, module="torch")
device = "{device}"
X = np.random.default_rng(0).poisson(1.0, (24, 6)).astype(np.float32)
given = torch.tensor(X, device=device)

def is_right(found, expected):
    if isinstance(expected, tuple):
        return all(map(is_right, found, expected))
    if isinstance(expected, np.ndarray):
        kind = torch.Tensor if dispatches else np.ndarray
        assert isinstance(found, kind), type(found)
        if dispatches:
            assert found.device == given.device
            found = found.cpu().numpy()
    return np.array_equal(found, expected) and found.dtype == expected.dtype \
        if isinstance(expected, np.ndarray) else found == expected

supply_targets()
MODELS = dict(ONE_OF_EACH)
for name in (
    "LatentDirichletAllocation-gibbs", "LatentDirichletAllocation-cross_fitted",
    "NeuralTopicDLGM-deep", "LabeledLDA-shared",
):
    MODELS[name] = ESTIMATORS[name]
years = np.arange(24.0) % 5
options = {{"max_iter": 2, "random_state": 0}}
SIDE = (
    (DynamicTopicModel(3, **options), {{"times": years}}),
    (CorrelatedTopicModel(3, **options), {{"covariates": years[:, None]}}),
)

def try_side():
    for model, side in SIDE:
        tensors = {{k: torch.tensor(v, device=device) for k, v in side.items()}}
        expected = sklearn.clone(model).fit(X, **side)
        found = sklearn.clone(model).fit(given, **tensors)
        np.testing.assert_array_equal(found.components_, expected.components_)
        for method in ("transform", "score_samples", "score", "perplexity"):
            one = getattr(expected, method)(given, **tensors)
            assert is_right(one, getattr(expected, method)(X, **side)), method
    for kind in (SupervisedLDAClassifier, SupervisedLDARegressor):
        y = years.astype(int)
        expected = kind(3, **options).fit(X, y)
        found = kind(3, **options).fit(given, torch.tensor(y, device=device))
        np.testing.assert_array_equal(found.components_, expected.components_)
        for method in ("predict", "predict_proba"):
            if hasattr(expected, method):
                one, two = (getattr(expected, method)(rows) for rows in (given, X))
                assert is_right(one, two), method

def try_all():
    # Variants differ in nothing before the choice of what is given back.
    for name, model in (MODELS if dispatches else ONE_OF_EACH).items():
        model = sklearn.clone(model).set_params(max_iter=2)
        expected = sklearn.clone(model).fit(X)
        found = sklearn.clone(model).fit(given)
        assert type(found.components_) is np.ndarray
        np.testing.assert_array_equal(found.components_, expected.components_)
        for method in taking_rows(model):
            if method in ("fit", "partial_fit"):
                continue
            if method == "fit_transform":
                continue
            one, two = (called(expected, method, rows) for rows in (given, X))
            assert is_right(one, two), (name, method)
        Z = np.asarray(expected.transform(X))[:, : len(expected.components_)]
        factors = torch.tensor(np.array(Z), device=device)
        if factors.shape[1] == len(expected.components_):
            one = expected.inverse_transform(factors)
            assert is_right(one, expected.inverse_transform(Z)), name
        assert expected.score(given) == expected.score(X)
        found.partial_fit(given)

    model = VariationalSparseCoding(2, sparse_output=True, max_iter=1, random_state=0)
    assert scipy.sparse.issparse(model.fit(given).transform(given))

for dispatches in (False, True):
    sklearn.set_config(array_api_dispatch=dispatches)
    try_all()
    if dispatches:
        try_side()
    print(dispatches, flush=True)
"""


@pytest.fixture(scope="module")
def tried_tensors(device):
    """What a process shows in which tensors are dispatched at last, and its errors."""
    # The variable is read when SciPy is imported.
    done = subprocess.run(
        [sys.executable, "-c", TENSORS.format(device=device)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"},
        timeout=PATIENCE,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("dispatches", [False, True])
def test_tensors_go_in_and_come_back_where_they_are_dispatched(
    dispatches, tried_tensors
):
    shown, errors = tried_tensors
    assert f"{dispatches}\n" in shown, errors


# torch says so once in a process, of whichever sparse tensor is the first.
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_tensors_of_every_layout_and_type():
    expected = PoissonFactorization(2, random_state=0).fit(X)
    doubles = torch.tensor(X)
    for tensor in (
        doubles,
        doubles.clone().requires_grad_(),
        doubles.T.contiguous().T,
        doubles.to_sparse_csr(),
        doubles.to_sparse_coo(),
    ):
        found = expected.transform(tensor)
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected.transform(X), rtol=1e-9)
    for kind in (torch.bfloat16, torch.float16, torch.int16, torch.bool):
        rows = doubles.bool().to(kind)
        found = expected.transform(rows)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.transform(X > 0), rtol=1e-5)
    streamed = PoissonFactorization(2, random_state=0)
    streamed.fit(RowBlocks([doubles[:9], [doubles[9:12], doubles[12:]]]))
    blocks = RowBlocks([X[:9], X[9:]])
    whole = PoissonFactorization(2, random_state=0).fit(blocks)
    np.testing.assert_array_equal(streamed.components_, whole.components_)
    cut = RowBlocks(doubles, block_rows=9)
    assert len(cut) == 3
    weighted = PoissonFactorization(2, random_state=0)
    weighted.fit(X, sample_weight=torch.ones(24))
    np.testing.assert_allclose(weighted.components_, expected.components_)
    neural = NeuralTopicDLGM(2, max_iter=1, random_state=0).fit(doubles)
    np.testing.assert_array_equal(
        jacobian_embeddings(neural, doubles), jacobian_embeddings(neural, X)
    )
