"""The models among their neighbours: each way of working together, once, for real."""

import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 (it enables)
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_score,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    VariationalSparseCoding,
)
from skdeepfactor.datasets import make_topics
from skdeepfactor.inspection import top_features
from skdeepfactor.metrics import completion_perplexity, scorers
from tests.conftest import ONE_OF_EACH
from tests.forked import PATIENCE

FRUIT = ["apple pear plum pear", "ripe pear ripe apple", "plum apple pear"]
TRAFFIC = ["train bus tram", "late bus late train", "tram train bus bus"]
TEXTS = (FRUIT + TRAFFIC) * 3
IS_FRUIT = np.array(([True] * 3 + [False] * 3) * 3)


@pytest.fixture(scope="module")
def topics():
    return make_topics(300, 80, 4, random_state=0)


def shares_of(kind, values):
    """Which of two components the rows of that kind have more of, if they agree."""
    best = np.asarray(values)[kind].argmax(axis=1)
    assert (best == best[0]).all()
    return best[0]


@pytest.mark.parametrize("steps", [[], [TfidfTransformer()]], ids=["counts", "tfidf"])
@pytest.mark.parametrize("kind", [LatentDirichletAllocation, PoissonFactorization])
def test_a_pipeline_tells_texts_apart(kind, steps):
    pipeline = make_pipeline(CountVectorizer(), *steps, kind(2, random_state=0))
    factors = pipeline.fit_transform(TEXTS)
    assert shares_of(IS_FRUIT, factors) != shares_of(~IS_FRUIT, factors)
    new = pipeline.transform(["plum, apple!", "a bus"])
    assert new[0].argmax() == shares_of(IS_FRUIT, factors)
    assert new[1].argmax() == shares_of(~IS_FRUIT, factors)
    words = top_features(pipeline, 3).loc[shares_of(IS_FRUIT, factors)]
    assert set(words) <= {"apple", "pear", "plum", "ripe"}


def test_a_grid_search_takes_several_scores(topics):
    search = GridSearchCV(
        LatentDirichletAllocation(random_state=0),
        {"n_components": [1, 4, 20]},
        scoring=scorers,
        refit="neg_completion_perplexity",
        cv=3,
    ).fit(topics.data)
    assert search.best_params_ == {"n_components": 4}
    for name in scorers:
        means = search.cv_results_[f"mean_test_{name}"]
        assert np.isfinite(means).all()
        assert len(set(means)) == 3
    # The bound of the words is no better with topics that are not there.
    assert search.cv_results_["mean_test_neg_perplexity"].argmax() == 1


def test_successive_halving_finds_the_number(topics):
    search = HalvingGridSearchCV(
        PoissonFactorization(random_state=0),
        {"n_components": [1, 2, 4, 30]},
        scoring=scorers["neg_completion_perplexity"],
        factor=2,
        cv=2,
        random_state=0,
    ).fit(topics.data)
    assert search.n_iterations_ >= 2
    assert search.best_params_["n_components"] == 4
    assert search.transform(topics.data).shape == (300, 4)


@pytest.mark.parametrize("model", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_a_column_transformer_has_texts_and_numbers(model):
    table = pd.DataFrame({"text": TEXTS, "stars": np.arange(18.0)})
    columns = ColumnTransformer(
        [
            ("factors", Pipeline([("count", CountVectorizer()), ("m", model)]), "text"),
            ("numbers", StandardScaler(), ["stars"]),
        ],
        verbose_feature_names_out=False,
    )
    values = columns.fit_transform(table)
    n_factors = len(columns.get_feature_names_out()) - 1
    assert values.shape == (18, n_factors + 1)
    assert_allclose(values[:, -1].std(), 1)
    counts = CountVectorizer().fit_transform(TEXTS)
    alone = columns.named_transformers_["factors"]["m"].transform(counts)
    assert_allclose(values[:, :-1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("package", ["pandas", "polars"])
@pytest.mark.parametrize("model", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_data_frames_come_in_and_go_out(model, package):
    frames = pytest.importorskip(package)
    counts = CountVectorizer().fit_transform(TEXTS)
    names = [f"word {index}" for index in range(counts.shape[1])]
    table = frames.DataFrame(dict(zip(names, counts.toarray().T, strict=True)))
    plain = type(model)(**model.get_params()).fit(counts.toarray())
    framed = type(model)(**model.get_params()).set_output(transform=package).fit(table)
    assert list(framed.feature_names_in_) == names
    out = framed.transform(table)
    assert isinstance(out, frames.DataFrame)
    assert list(out.columns) == list(plain.get_feature_names_out())
    assert_array_equal(out.to_numpy(), plain.transform(counts.toarray()))
    with pytest.raises(ValueError, match="feature names should match"):
        framed.transform(table[names[::-1]])


def test_factors_are_features_for_a_classifier():
    X, y = load_digits(return_X_y=True)
    steps = StandardScaler(), LogisticRegression(max_iter=2000)
    few = make_pipeline(PoissonFactorization(20, random_state=0), *steps)
    assert cross_val_score(few, X, y, cv=3).mean() > 0.88
    # Beside the pixels, and searched by what the classifier says.
    both = make_pipeline(
        FeatureUnion(
            [("factors", PoissonFactorization(random_state=0)), ("raw", "passthrough")]
        ),
        *steps,
    )
    sizes = {"featureunion__factors__n_components": [1, 20]}
    search = GridSearchCV(both, sizes, cv=2).fit(X[:600], y[:600])
    assert search.best_score_ > 0.8


def test_sparse_codes_stay_sparse_on_their_way_to_a_classifier():
    X, y = load_digits(return_X_y=True)
    codes = VariationalSparseCoding(
        30,
        alpha=0.2,
        noise="spherical",
        decoder_layers=(),
        max_iter=30,
        sparse_output=True,
        random_state=0,
    )
    model = make_pipeline(
        codes, StandardScaler(with_mean=False), LogisticRegression(max_iter=2000)
    ).fit(X[:1200], y[:1200])
    assert scipy.sparse.issparse(model[:-1].transform(X[1200:]))
    assert model.score(X[1200:], y[1200:]) > 0.85


def test_sparse_codes_are_measured_as_dense_ones(topics):
    measured = []
    for sparse_output in (False, True):
        codes = VariationalSparseCoding(
            6,
            alpha=0.3,
            likelihood="multinomial",
            max_iter=3,
            sparse_output=sparse_output,
            random_state=0,
        ).fit(topics.data)
        measured.append(completion_perplexity(codes, topics.data, random_state=0))
    assert measured[0] == measured[1]


def test_anndata_keeps_factors_of_cells(topics):
    anndata = pytest.importorskip("anndata")
    adata = anndata.AnnData(scipy.sparse.csr_matrix(topics.data).astype(np.float32))
    model = PoissonFactorization(4, exposure="total", random_state=0)
    adata.obsm["X_factors"] = model.fit_transform(adata.X)
    adata.varm["factors"] = model.components_.T
    assert_array_equal(adata.obsm["X_factors"], model.transform(topics.data))
    half = adata[::2]
    assert_array_equal(half.obsm["X_factors"], adata.obsm["X_factors"][::2])
    # A view of some cells is as good as the matrix of all.
    assert_allclose(model.transform(half.X), half.obsm["X_factors"], rtol=1e-4)


def test_a_corpus_of_gensim_is_the_same_counts():
    pytest.importorskip("gensim")
    from gensim.corpora import Dictionary
    from gensim.matutils import corpus2csc

    words = [text.split() for text in TEXTS]
    dictionary = Dictionary(words)
    corpus = [dictionary.doc2bow(document) for document in words]
    X = corpus2csc(corpus, num_terms=len(dictionary), dtype=np.int64).T
    model = LatentDirichletAllocation(2, random_state=0).fit(X)
    factors = model.transform(X)
    assert shares_of(IS_FRUIT, factors) != shares_of(~IS_FRUIT, factors)
    vectorizer = CountVectorizer(analyzer=list).fit(words)
    order = [vectorizer.vocabulary_[dictionary[i]] for i in range(len(dictionary))]
    counts = vectorizer.transform(words)[:, order]
    assert (counts != X.tocsr()).nnz == 0


ELSEWHERE = """
import sys
import numpy, skops.io
trusted = skops.io.get_untrusted_types(file=sys.argv[1])
model = skops.io.load(sys.argv[1], trusted=trusted)
numpy.save(sys.argv[2], model.transform(["a pear and a plum", "the late train"]))
"""


@pytest.mark.parametrize(
    "model",
    [
        LatentDirichletAllocation(2, random_state=0),
        NeuralTopicDLGM(2, max_iter=2, random_state=0),
    ],
    ids=["closed form", "network"],
)
def test_a_pipeline_is_loaded_in_another_process(model, tmp_path):
    skops_io = pytest.importorskip("skops.io")
    pipeline = make_pipeline(CountVectorizer(), model).fit(TEXTS)
    path, there = tmp_path / "model.skops", tmp_path / "there.npy"
    skops_io.dump(pipeline, path)
    kind = type(model)
    assert skops_io.get_untrusted_types(file=path) == [
        f"{kind.__module__}.{kind.__name__}"
    ]
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, path, there], check=True, timeout=PATIENCE
    )
    here = pipeline.transform(["a pear and a plum", "the late train"])
    assert_allclose(np.load(there), here, rtol=1e-5, atol=1e-6)


# Clusters.


def test_a_search_runs_on_dask(counts):
    distributed = pytest.importorskip("distributed")
    search = GridSearchCV(
        PoissonFactorization(max_iter=3, random_state=0), {"n_components": [2, 3]}, cv=2
    )
    expected = search.fit(counts).cv_results_["mean_test_score"]
    with (
        distributed.Client(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
        ),
        joblib.parallel_config("dask"),
    ):
        found = search.fit(counts).cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, expected)


def test_factors_of_dask_arrays_are_inferred_block_by_block(counts):
    array = pytest.importorskip("dask.array")
    wrappers = pytest.importorskip("dask_ml.wrappers")
    X = counts.toarray().astype(np.float64)
    model = PoissonFactorization(3, max_iter=5, random_state=0)
    blocks = array.from_array(X, chunks=(13, 30))
    fitted = wrappers.ParallelPostFit(model).fit(X)
    Z = fitted.transform(blocks)
    assert Z.chunks[0] == (13, 13, 13, 13, 8)
    np.testing.assert_allclose(Z.compute(), model.fit(X).transform(X))
