"""Usual mistakes of those who are new, each of which ends in what to do about it."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdeepfactor import (
    LatentDirichletAllocation,
    NeuralTopicDLGM,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
)
from skdeepfactor.inspection import hierarchy, nearest_features, top_features
from skdeepfactor.metrics import completion_perplexity, npmi_coherence, scorers

TEXTS = ["ripe apple and pear", "late train and late bus", "pear and plum"] * 4
WORDS = [text.split() for text in TEXTS]
COUNTS = CountVectorizer().fit_transform(TEXTS)
TABLE = pd.DataFrame({"text": TEXTS, "stars": range(12)})


@pytest.fixture(scope="module")
def lda():
    return LatentDirichletAllocation(2, random_state=0).fit(COUNTS)


@pytest.fixture(scope="module")
def neural():
    return NeuralTopicDLGM(2, max_iter=1, random_state=0).fit(COUNTS)


def new(**parameters):
    return LatentDirichletAllocation(**{"n_components": 2, **parameters})


# What is done wrong, with a fitted model at hand, and what the message must say.
WITH_A_FIT = {
    "texts straight into transform": (
        lambda lda: lda.transform(["a bus", "a pear"]),
        ValueError,
        r"X holds texts.*make_pipeline\(CountVectorizer\(\), LatentDirichletAllocation",
    ),
    "a transposed matrix": (
        lambda lda: lda.transform(COUNTS.T),
        ValueError,
        r"12 features, but .* expecting 8.*is it transposed\?",
    ),
    "a vocabulary made anew": (
        lambda lda: lda.transform(CountVectorizer().fit_transform(TEXTS[:1])),
        ValueError,
        "X has 4 features, but LatentDirichletAllocation is expecting 8 features",
    ),
    "one row as a list of numbers": (
        lambda lda: lda.transform([1] * 8),
        ValueError,
        r"Expected 2D array, got 1D array.*array.reshape\(1, -1\)",
    ),
    "partial_fit with another number of columns": (
        lambda lda: lda.partial_fit(COUNTS[:, :5]),
        ValueError,
        "X has 5 features, but LatentDirichletAllocation is expecting 8 features",
    ),
    "perplexity of rows without counts": (
        lambda lda: lda.perplexity(COUNTS * 0),
        ValueError,
        "perplexity needs a row with a count; every row is empty",
    ),
    "a metric of another name": (
        lambda lda: lda.score(COUNTS, metric="perplexity"),
        ValueError,
        "metric must be 'elbo' or 'neg_perplexity', got 'perplexity'",
    ),
    "an average of another name": (
        lambda lda: lda.perplexity(COUNTS, average="words"),
        ValueError,
        "average must be 'document' or 'corpus', got 'words'",
    ),
    "data where factors belong": (
        lambda lda: lda.inverse_transform(COUNTS.toarray()),
        ValueError,
        "Z has 8 columns, but LatentDirichletAllocation has 2 components",
    ),
    "names of some of the words": (
        lambda lda: top_features(lda, feature_names=["apple", "bus"]),
        ValueError,
        r"feature_names must have shape \(8,\), got \(2,\)",
    ),
    "layers of a model that has none": (
        lambda lda: hierarchy(lda),
        TypeError,
        "must have layers of factors, as SparseGammaDEF has, but LatentDirichletAlloca",
    ),
    "the estimator where its components belong": (
        lambda lda: npmi_coherence(lda, COUNTS),
        TypeError,
        "give the estimator's components_, not the LatentDirichletAllocation itself",
    ),
    "completion of tf-idf values": (
        lambda lda: completion_perplexity(
            lda, TfidfTransformer().fit_transform(COUNTS)
        ),
        ValueError,
        "Counts must be integers, but X has fractions; tf-idf values are not counts",
    ),
}

# What is done wrong from the start.
WITHOUT = {
    "texts straight into fit": (
        lambda: new().fit(TEXTS),
        ValueError,
        r"X holds texts.*make_pipeline\(CountVectorizer\(\), LatentDirichletAllocation",
    ),
    "a column of texts": (
        lambda: new().fit(TABLE["text"]),
        ValueError,
        r"X holds texts.*make_pipeline\(CountVectorizer\(\), LatentDirichletAllocation",
    ),
    "one text": (lambda: new().fit("a pear"), ValueError, "X holds texts"),
    "lists of words": (
        lambda: new().fit(WORDS),
        ValueError,
        r"lists of different lengths.*CountVectorizer\(analyzer=list\)",
    ),
    "lists of as many words": (
        lambda: new().fit([["apple", "pear"], ["train", "bus"]]),
        ValueError,
        r"X holds words where counts must be.*CountVectorizer\(analyzer=list\)",
    ),
    "a corpus of gensim's": (
        lambda: new().fit([[(0, 1), (3, 2)], [(1, 1)]]),
        ValueError,
        r"lists of different lengths.*gensim.matutils.corpus2csc",
    ),
    "a data frame with a column of texts": (
        lambda: new().fit(TABLE),
        ValueError,
        "X has text in 'text'.*ColumnTransformer with a CountVectorizer",
    ),
    "forgetting fit": (
        lambda: new().transform(COUNTS),
        NotFittedError,
        "not fitted yet. Call 'fit'",
    ),
    "components as a str": (
        lambda: new(n_components="20").fit(COUNTS),
        ValueError,
        "'n_components' .* must be an int .* Got '20' instead",
    ),
    "components as a float": (
        lambda: new(n_components=20.0).fit(COUNTS),
        ValueError,
        "'n_components' .* must be an int .* Got 20.0 instead",
    ),
    "negative values of StandardScaler": (
        lambda: make_pipeline(StandardScaler(), new()).fit(COUNTS.toarray()),
        ValueError,
        "Negative values .* leave out .* StandardScaler, or .* VariationalAutoencoder",
    ),
    "tf-idf values into an urn": (
        lambda: make_pipeline(
            CountVectorizer(),
            TfidfTransformer(),
            NeuralTopicDLGM(2, likelihood="dirichlet_multinomial"),
        ).fit(TEXTS),
        ValueError,
        "needs integer counts; use 'multinomial' or 'poisson'.*input_transform instead",
    ),
    "pixels from 0 to 255 as probabilities": (
        lambda: VariationalAutoencoder(2, likelihood="bernoulli").fit([[0, 255]] * 3),
        ValueError,
        r"needs values in \[0, 1\], got values up to 255.*MinMaxScaler",
    ),
    "missing values": (
        lambda: PoissonFactorization(2).fit([[1.0, np.nan], [2.0, 0.0]]),
        ValueError,
        r"Input X contains NaN\. missing_values='ignore' takes such entries to be",
    ),
    "a start of another package": (
        lambda: new(init="nndsvd").fit(COUNTS),
        ValueError,
        "'init' .* must be a str among {.*'kmeans'.*} or an array-like. Got 'nndsvd'",
    ),
    "a start of another shape": (
        lambda: new(init=np.ones((8, 2))).fit(COUNTS),
        ValueError,
        r"init must have shape \(2, 8\), got \(8, 2\)",
    ),
    "a device of another name": (
        lambda: new(device="gpu").fit(COUNTS),
        ValueError,
        "device must be 'cpu', 'cuda', .* or 'auto', got 'gpu'",
    ),
    "a prior of zero": (
        lambda: new(doc_topic_prior=0).fit(COUNTS),
        ValueError,
        r"'doc_topic_prior' .* must be a float in the range \(0.0, inf\).* \{'auto'\}",
    ),
    "one layer as a number": (
        lambda: SparseGammaDEF(30).fit(COUNTS),
        ValueError,
        "'layer_sizes' .* must be an array-like. Got 30 instead",
    ),
    "hidden layers as a number": (
        lambda: NeuralTopicDLGM(2, encoder_layers=100).fit(COUNTS),
        ValueError,
        "'encoder_layers' .* must be an instance of 'tuple' .* Got 100 instead",
    ),
    "all rows for validation": (
        lambda: new(validation_fraction=0.99).fit(COUNTS),
        ValueError,
        r"validation_fraction=0.99 of 12 row\(s\) leaves none to fit",
    ),
    "rows for validation of another vocabulary": (
        lambda: new().fit(COUNTS, X_val=COUNTS[:, :5]),
        ValueError,
        "X has 5 features, but LatentDirichletAllocation is expecting 8 features",
    ),
    "several scores, and none to choose by": (
        lambda: GridSearchCV(new(), {"n_components": [2]}, scoring=scorers).fit(COUNTS),
        ValueError,
        "the parameter refit must be set to a scorer key",
    ),
    "a word that is spelled in another way": (
        lambda: nearest_features(np.eye(2), "aple", 1, feature_names=["apple", "bus"]),
        ValueError,
        r"'aple' is not in feature_names. Did you mean 'apple'\?",
    ),
}


@pytest.mark.parametrize("mistake", WITHOUT)
def test_it_says_what_to_do(mistake):
    make, kind, message = WITHOUT[mistake]
    with pytest.raises(kind, match=f"(?s){message}"):
        make()


@pytest.mark.parametrize("mistake", WITH_A_FIT)
def test_it_says_what_to_do_and_the_fit_stays(lda, mistake):
    make, kind, message = WITH_A_FIT[mistake]
    before = lda.transform(COUNTS)
    with pytest.raises(kind, match=f"(?s){message}"):
        make(lda)
    np.testing.assert_array_equal(lda.transform(COUNTS), before)


def test_a_refused_fit_leaves_no_trace():
    model = new()
    with pytest.raises(ValueError, match="X has text in 'text'"):
        model.fit(TABLE)
    assert vars(model) == vars(new())


def test_top_words_of_signed_components(neural):
    with pytest.raises(ValueError, match=r"by='loading' takes them as they are"):
        top_features(neural)


def test_perplexity_of_real_numbers():
    model = VariationalAutoencoder(2, max_iter=1).fit(COUNTS)
    with pytest.raises(AttributeError) as caught:
        model.perplexity(COUNTS)
    assert "perplexity needs a likelihood of counts" in str(caught.value.__cause__)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="'auto' takes a GPU where there is one"):
        new(device="cuda").fit(COUNTS)


def test_advice_is_given_of_polars_and_sparse_data_too():
    polars = pytest.importorskip("polars")
    with pytest.raises((TypeError, ValueError), match="X has text in 'text'"):
        new().fit(polars.DataFrame({"text": TEXTS, "stars": range(12)}))
    negative = scipy.sparse.csr_matrix([[1.0, -1.0], [2.0, 0.0]])
    with pytest.raises(ValueError, match="leave out what centres them"):
        new().fit(negative)
    # Nothing is added to what says all already.
    with pytest.raises(ValueError, match=r"required by LatentDirichletAllocation\.$"):
        new().fit(np.zeros((0, 3)))
