"""Components merged, dropped, named and found by words."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import NMF, PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline

from skdeepfactor import (
    LabeledLDA,
    LatentDirichletAllocation,
    MultinomialMixture,
    PoissonFactorization,
    SparseGammaDEF,
    VariationalAutoencoder,
)
from skdeepfactor.inspection import (
    drop_components,
    find_components,
    merge_components,
    name_components,
    top_features,
)

MODELS = {
    "lda": LatentDirichletAllocation(5, random_state=0),
    "lda-mean_field": LatentDirichletAllocation(
        5,
        inference="mean_field",
        doc_topic_prior=np.arange(1, 6) / 50,
        topic_word_prior=np.linspace(0.01, 0.1, 150).reshape(5, 30),
        init=np.random.default_rng(0).random((5, 30)),
        random_state=0,
    ),
    "lda-auto": LatentDirichletAllocation(
        5, doc_topic_prior="auto", topic_word_prior="auto", random_state=0
    ),
    "mixture": MultinomialMixture(5, random_state=0),
    "mixture-em": MultinomialMixture(5, inference="em", random_state=0),
    "poisson": PoissonFactorization(5, random_state=0),
    "poisson-hierarchical": PoissonFactorization(5, hierarchical=True, random_state=0),
    "poisson-dirichlet": PoissonFactorization(
        5, weight_prior="dirichlet", random_state=0
    ),
    "poisson-auto": PoissonFactorization(
        5, factor_shape="auto", weight_shape="auto", random_state=0
    ),
    "poisson-missing": PoissonFactorization(
        5, missing_values="ignore", weight_shape=np.full((5, 30), 0.1), random_state=0
    ),
}


@pytest.fixture(scope="module")
def X(counts):
    return counts.astype(np.float64)


@pytest.fixture(scope="module", params=MODELS)
def model(request, X):
    return MODELS[request.param].fit(X)


def state_of(model):
    """Everything that a fitted estimator has, as one that does not change."""
    return pickle.dumps(model)


def test_named_estimators_share_no_arrays_with_what_they_were_made_of(counts):
    theirs = NMF(2, random_state=0).fit(counts.toarray())
    before = theirs.components_.copy()
    named = name_components(theirs, ["a", "b"])
    named.components_[:] = 0
    np.testing.assert_array_equal(theirs.components_, before)


def test_a_merged_model_is_a_fitted_model(model, X):
    before = state_of(model)
    merged = merge_components(model, [[3, 0], [1, 4]])
    assert state_of(model) == before
    assert type(merged) is type(model)
    assert merged.n_components == len(merged.components_) == 3
    Z = merged.transform(X)
    assert Z.shape == (60, 3)
    assert Z.dtype == np.float64
    assert merged.inverse_transform(Z).shape == (60, 30)
    assert merged.get_feature_names_out().shape == (3,)
    assert merged.topic_assignments(X).shape == (60, 3)
    assert merged.sample(2, random_state=0).shape == (2, 30)
    assert np.isfinite(merged.score(X))
    assert np.isnan(merged.lower_bound_)
    assert merged.history_ == model.history_
    assert merged.history_ is not model.history_
    assert not merged.components_.flags.writeable
    again = pickle.loads(pickle.dumps(merged))
    np.testing.assert_array_equal(again.transform(X), Z)
    np.testing.assert_array_equal(again.components_, merged.components_)
    # It can be fitted anew, or further.
    assert len(clone(merged).fit(X).components_) == 3
    assert len(again.partial_fit(X).components_) == 3
    assert np.isfinite(again.set_params(warm_start=True).fit(X).lower_bound_)


def test_expected_counts_are_added_up(model):
    merged = merge_components(model, [3, 0])
    counts = next(name for name in model._parameters if name.endswith("_counts"))
    old, new = model._parameters[counts], merged._parameters[counts]
    np.testing.assert_allclose(new[0], old[0] + old[3])
    np.testing.assert_array_equal(new[1:], old[[1, 2, 4]])


def test_merging_in_steps_is_merging_at_once(model, X):
    at_once = merge_components(model, [[0, 2, 3]])
    in_steps = merge_components(merge_components(model, [0, 2]), [0, 2])
    if isinstance(model.get_params().get("topic_word_prior"), np.ndarray):
        # Means of means weigh the summands otherwise.
        np.testing.assert_allclose(
            in_steps._parameters["topic_counts"], at_once._parameters["topic_counts"]
        )
        return
    np.testing.assert_allclose(in_steps.transform(X), at_once.transform(X), rtol=1e-6)


def test_one_component_is_left(model, X):
    merged = merge_components(model, range(5))
    Z = merged.transform(X)
    assert Z.shape == (60, 1)
    if not isinstance(model, PoissonFactorization):
        np.testing.assert_allclose(Z, 1)
    assert np.isfinite(merged.score(X))


def test_dropped_components_are_gone(model, X):
    before = state_of(model)
    dropped = drop_components(model, [1, 3])
    assert state_of(model) == before
    assert dropped.n_components == 3
    for name in ("doc_topic_prior", "factor_shape"):
        given = model.get_params().get(name)
        if isinstance(given, np.ndarray):
            given = given[[0, 2, 4]]
        np.testing.assert_array_equal(dropped.get_params().get(name), given)
    if "hierarchical" not in model.get_params() or not model.hierarchical:
        # Of hierarchical rates, the features' follow from all components.
        kept = model.components_[[0, 2, 4]]
        np.testing.assert_allclose(dropped.components_, kept, rtol=1e-12)
    assert dropped.transform(X).shape == (60, 3)


def test_alike_topics_merge_into_their_sum(X):
    model = LatentDirichletAllocation(
        2, doc_topic_prior=0.1, inner_tol=1e-10, random_state=0
    ).fit(X)
    three = clone(model).set_params(n_components=3)
    init = model.components_[[0, 1, 1]]
    three.set_params(init=init, max_iter=1).fit(X)
    merged = merge_components(three, [1, 2])
    expected = three.transform(X)
    expected = np.c_[expected[:, 0], expected[:, 1:].sum(axis=1)]
    # The prior of the sum of proportions is Dirichlet with the sum of concentrations.
    np.testing.assert_allclose(merged.doc_topic_prior, [0.1, 0.2])
    np.testing.assert_allclose(merged.doc_topic_prior_, [0.1, 0.2])
    np.testing.assert_allclose(merged.transform(X), expected, atol=1e-2)


def test_merged_poisson_factors_explain_the_same_totals(X):
    model = PoissonFactorization(4, random_state=0).fit(X)
    merged = merge_components(model, [[0, 1], [2, 3]])
    np.testing.assert_allclose(merged.factor_shape, 0.1)
    np.testing.assert_allclose(merged.factor_shape_, 0.1)
    old, new = (
        fit.transform(X) @ fit.components_.sum(axis=1) for fit in (model, merged)
    )
    np.testing.assert_allclose(new, old, rtol=0.02, atol=0.5)


def test_hierarchical_rates_agree_with_the_weights(X):
    model = PoissonFactorization(5, hierarchical=True, random_state=0).fit(X)
    merged = merge_components(model, [0, 1, 2])
    expected = 1.0 / merged.weight_rate_ + merged.components_.sum(axis=0)
    np.testing.assert_allclose(merged._parameters["feature_rate"], expected)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 5]], "from 0 to 4, got 5"),
        ([[0, -1]], "from 0 to 4, got -1"),
        ([[0, 1.5]], "got .*1.5"),
        ([[0, 1], [1, 2]], "each index once, but 1 occurs twice"),
        ([[2, 2]], "each index once, but 2 occurs twice"),
        ([[0, 1], [2]], "two components or more each"),
        ([3], "two components or more each"),
        ([], "two components or more each"),
        ([["a", "b"]], "from 0 to 4, got .*'a'"),
        (None, "groups must be a list of groups of components, got None"),
        (3, "groups must be a list of groups of components, got 3"),
    ],
)
def test_bad_groups(groups, message, X):
    model = MODELS["poisson"].fit(X)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        merge_components(model, groups)
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ([0, 0], "each index once"),
        ([5], "from 0 to 4, got 5"),
        ([True], "got True"),
        (range(5), "but all would be dropped"),
        (2, "components must be a list of indices of components, got 2"),
    ],
)
def test_bad_components_to_drop(components, message, X):
    with pytest.raises(ValueError, match=message):
        drop_components(MODELS["poisson"].fit(X), components)


def test_components_that_cannot_be_added_up(X):
    fits = [
        LabeledLDA(random_state=0).fit(X, np.arange(60) % 3),
        SparseGammaDEF((3, 2), max_iter=3, random_state=0).fit(X),
        VariationalAutoencoder(3, max_iter=2, random_state=0).fit(X),
        NMF(3, init="nndsvda", max_iter=500).fit(X),
    ]
    for fit in fits:
        with pytest.raises(TypeError, match="cannot be merged or dropped"):
            merge_components(fit, [0, 1])
        with pytest.raises(TypeError, match="cannot be merged or dropped"):
            drop_components(fit, [0])
    with pytest.raises(ValueError, match="not fitted"):
        merge_components(LatentDirichletAllocation(3), [0, 1])


# Names.


def test_names_travel(X):
    model = MODELS["lda"].fit(X)
    named = name_components(model, ["red", "green", "blue", "black", "white"])
    assert not hasattr(model, "component_names_")
    assert named.component_names_.tolist() == ["red", "green", "blue", "black", "white"]
    assert named.get_feature_names_out().tolist() == named.component_names_.tolist()
    assert top_features(named, 2).index.tolist() == named.component_names_.tolist()
    frame = clone(named).set_output(transform="pandas").fit(X).transform(X)
    assert frame.columns[0] == "latentdirichletallocation0"
    framed = pickle.loads(pickle.dumps(named)).set_output(transform="pandas")
    assert framed.transform(X).columns.tolist() == named.component_names_.tolist()
    merged = merge_components(named, [[4, 2], [1, 3]])
    expected = ["red", "green + black", "blue + white"]
    assert merged.get_feature_names_out().tolist() == expected
    dropped = drop_components(named, [0])
    assert dropped.component_names_.tolist() == ["green", "blue", "black", "white"]


def test_names_last_until_other_components_are_fitted(X):
    named = name_components(MODELS["poisson"].fit(X), list("abcde"))
    assert named.partial_fit(X).get_feature_names_out()[0] == "a"
    named.set_params(warm_start=True).fit(X)
    assert named.get_feature_names_out()[0] == "a"
    with pytest.raises(ValueError, match="Negative"):
        named.set_params(warm_start=False).fit(-X)
    assert named.get_feature_names_out()[0] == "a"
    named.fit(X)
    assert named.get_feature_names_out()[0] == "poissonfactorization0"


def test_some_names_are_given():
    X = np.random.default_rng(0).poisson(1.0, (20, 5))
    model = LatentDirichletAllocation(3, random_state=0).fit(X)
    named = name_components(model, {2: "late"})
    assert named.component_names_.tolist() == ["component 0", "component 1", "late"]
    named = name_components(named, {0: "early"})
    assert named.component_names_.tolist() == ["early", "component 1", "late"]


def test_names_of_layers_and_of_other_packages(X):
    layered = SparseGammaDEF((3, 3), max_iter=5, random_state=0).fit(X)
    named = name_components(layered, list("abc"))
    assert named.get_feature_names_out().tolist() == ["a", "b", "c"]
    named.set_params(transform_layer=2)
    assert named.get_feature_names_out()[0] == "sparsegammadef0"
    nmf = name_components(NMF(2, init="nndsvda", max_iter=500).fit(X), ["x", "y"])
    assert top_features(nmf, 2).index.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a", "b"], ValueError, "one name for each of 3 components, got 2"),
        (["a", "b", "a"], ValueError, "'a' occurs twice"),
        (["a", "b", ""], ValueError, "must not be empty"),
        (["a", "b", 3], TypeError, "names must be strings, got 3"),
        ({3: "a"}, ValueError, "from 0 to 2, got 3"),
        ({0: "component 1"}, ValueError, "'component 1' occurs twice"),
        (None, ValueError, "names must be a list of strings, got None"),
    ],
)
def test_bad_names(names, error, message):
    X = np.random.default_rng(0).poisson(1.0, (20, 5))
    model = LatentDirichletAllocation(3, random_state=0).fit(X)
    with pytest.raises(error, match=message):
        name_components(model, names)
    assert not hasattr(model, "component_names_")


def test_pipelines_stay_pipelines():
    texts = ["apple pear", "pear plum", "tram bus", "bus train"] * 3
    last = LatentDirichletAllocation(3, random_state=0)
    pipeline = make_pipeline(CountVectorizer(), make_pipeline(last)).fit(texts)
    merged = merge_components(name_components(pipeline, list("abc")), [0, 2])
    assert merged.transform(texts).shape == (12, 2)
    assert merged.get_feature_names_out().tolist() == ["a + c", "b"]
    assert pipeline.transform(texts).shape == (12, 3)
    assert pipeline[-1][-1] is last


# Found by words.


def test_components_are_found_by_words():
    components = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    nmf = NMF(2, init="nndsvda", max_iter=500).fit(np.ones((2, 3)))
    nmf.components_ = components * [[5], [1]]
    names = ["sea", "sky", "sun"]

    def found(*words, **options):
        return find_components(nmf, list(words), feature_names=names, **options)

    indices, scores = found("sun")
    assert indices.tolist() == [1, 0]
    np.testing.assert_allclose(scores, [6 / 7, 1 / 7])
    indices, scores = found("sea", "sky")
    np.testing.assert_allclose(scores, [(6 / 7 + 1 / 2) / 2, (1 / 7 + 1 / 2) / 2])
    assert indices.tolist() == [0, 1]
    assert found("sun", n=1)[0].tolist() == [1]
    np.testing.assert_array_equal(
        find_components(nmf, "sun", feature_names=names)[1], found("sun")[1]
    )


def test_signed_components_are_found_by_loadings():
    pca = PCA(2).fit(np.random.default_rng(0).normal(size=(9, 3)))
    pca.components_ = np.array([[-3.0, 4, 0], [0, 1, 0]])
    indices, scores = find_components(pca, ["x0", "x1"])
    assert indices.tolist() == [1, 0]
    np.testing.assert_allclose(scores, [0.5, 0.1])


def test_bad_words():
    nmf = NMF(2, init="nndsvda", max_iter=500).fit(np.ones((2, 3)))
    names = ["apple", "pear", "plum"]
    with pytest.raises(ValueError, match="got 'appel'; similar names are apple"):
        find_components(nmf, "appel", feature_names=names)
    with pytest.raises(ValueError, match="got 'xyz'\\."):
        find_components(nmf, ["pear", "xyz"], feature_names=names)
    with pytest.raises(ValueError, match="one word or more"):
        find_components(nmf, [], feature_names=names)
    with pytest.raises(ValueError, match="words must be a list of strings, got 3"):
        find_components(nmf, 3, feature_names=names)
    with pytest.raises(ValueError, match="n must be"):
        find_components(nmf, "pear", n=0, feature_names=names)
