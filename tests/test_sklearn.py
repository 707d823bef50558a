"""scikit-learn's own checks, and those that it has but does not run by itself."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import skdeepfactor
from skdeepfactor import (
    LatentDirichletAllocation,
    MultinomialMixture,
    PoissonFactorization,
)
from tests.conftest import ESTIMATORS, ONE_OF_EACH
from tests.forked import PATIENCE

NOT_YIELDED = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_dataframe_column_names_consistency",
    "check_param_validation",
    "check_inplace_ensure_writeable",
]


# Checks of what is computed; the others are of the base, and alike for variants.
OF_NUMBERS = {
    "check_estimator_sparse_array",
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
}


def quick(model):
    """Few passes: no check needs a good fit, unless it is of a classifier."""
    n_passes = model.max_iter if is_classifier(model) else min(model.max_iter, 5)
    return clone(model).set_params(max_iter=n_passes)


# One of each class, with all that its parts have in common.
KINDS = {name: model for name, model in ONE_OF_EACH.items() if "-" not in name}


def all_of_each_class():
    """scikit-learn's checks: all for each class, those of numbers for each variant."""
    models = ESTIMATORS.items()
    variants = [quick(model) for name, model in models if name not in KINDS]
    every = parametrize_with_checks([quick(model) for model in KINDS.values()])
    some = parametrize_with_checks(variants)
    names, pairs = every.args
    return pytest.mark.parametrize(
        names, [*pairs, *filter(_is_of_numbers, some.args[1])], **every.kwargs
    )


def _is_of_numbers(pair):
    # Where a check is expected to be skipped, the pair comes with a mark.
    _, check = getattr(pair, "values", pair)
    return check.func.__name__ in OF_NUMBERS


# scikit-learn sends it negative numbers, whatever the tags say.
NOT_OF_COUNTS = "check_class_weight_classifiers"


@all_of_each_class()
def test_scikit_learn_check(estimator, check):
    if check.func.__name__ == NOT_OF_COUNTS:
        pytest.skip("it has negative numbers, which are no counts")
    is_of_weights = "sample_weight" in check.func.__name__
    if is_of_weights and estimator.get_params().get("solver") == "gradient":
        pytest.skip("only the other solvers of this class take weights")
    check(estimator)


# These checks fit with names and transform without them, and the other way round.
@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")
@pytest.mark.parametrize("check", NOT_YIELDED)
@pytest.mark.parametrize("name", KINDS)
def test_check_that_is_not_yielded(name, check, device):
    estimator = quick(KINDS[name]).set_params(device=device)
    function = getattr(estimator_checks, check, None)
    if function is None:
        pytest.skip("this scikit-learn has another name for it, or none")
    is_strict = estimator.get_params().get("missing_values") == "error"
    if is_strict and check == "check_inplace_ensure_writeable":
        pytest.skip("it gives NaN to all that has missing_values; others here take it")
    function(type(estimator).__name__, estimator)


def test_checks_with_array_api_enabled():
    """The variable is read when SciPy is imported, hence the process of its own."""
    code = (
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from tests.test_sklearn import KINDS, quick\n"
        "assert len(KINDS) >= 8\n"
        "for model in KINDS.values():\n"
        "    for result in check_estimator(quick(model), on_skip=None, on_fail=None):\n"
        "        is_none = 'have a decision_function' in str(result['exception'])\n"
        "        is_none |= result['check_name'] == 'check_class_weight_classifiers'\n"
        "        assert result['status'] == 'passed' or is_none, result\n"
    )
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


BARE = [
    getattr(skdeepfactor, name)()
    for name in skdeepfactor.__all__
    if name != "__version__"
]


@pytest.mark.slow
@parametrize_with_checks(BARE)
def test_scikit_learn_check_of_bare_defaults(estimator, check):
    if check.func.__name__ == NOT_OF_COUNTS:
        pytest.skip("it has negative numbers, which are no counts")
    check(estimator)


@parametrize_with_checks(
    [LatentDirichletAllocation(), MultinomialMixture(), PoissonFactorization()]
)
def test_scikit_learn_check_of_quick_bare_defaults(estimator, check):
    check(estimator)


TEXTS = [
    "the cat sat on the mat",
    "a dog and a cat",
    "stocks fell and bonds rose",
    "bonds and stocks and funds",
    "the dog chased the cat",
    "funds rose",
] * 3


@pytest.mark.parametrize("kind", [LatentDirichletAllocation, PoissonFactorization])
def test_pipeline_of_texts_through_grid_search(kind):
    pipeline = Pipeline(
        [("counts", CountVectorizer()), ("factors", kind(random_state=0))]
    )
    grid = GridSearchCV(pipeline, {"factors__n_components": [2, 3]}, cv=3)
    grid.fit(TEXTS)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    assert grid.transform(TEXTS).shape == (
        18,
        grid.best_params_["factors__n_components"],
    )


@pytest.mark.parametrize("kind", [LatentDirichletAllocation, PoissonFactorization])
def test_tfidf_values_are_accepted(kind):
    pipeline = Pipeline(
        [
            ("counts", CountVectorizer()),
            ("tfidf", TfidfTransformer()),
            ("factors", kind(2, random_state=0)),
        ]
    )
    Z = pipeline.fit_transform(TEXTS)
    assert Z.dtype == np.float64
    assert np.isfinite(Z).all()
    assert np.isfinite(pipeline.score(TEXTS))


def test_validation_rows_reach_fit_through_a_pipeline(counts):
    from sklearn import config_context

    with config_context(enable_metadata_routing=True):
        model = PoissonFactorization(2, max_iter=30, random_state=0)
        pipeline = Pipeline(
            [
                ("tfidf", TfidfTransformer()),
                ("factors", model.set_fit_request(X_val=True)),
            ],
            transform_input=["X_val"],
        )
        pipeline.fit(counts[:40], X_val=counts[40:])
    assert "validation_score" in pipeline[-1].history_


def test_callbacks_see_each_pass_and_may_stop(counts):
    pytest.importorskip("sklearn.callback")

    class StopAtThird:
        def __init__(self):
            self.scores = []

        def setup(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if fitted_estimator is not None:
                self.scores.append(fitted_estimator.score(counts))
            return len(self.scores) == 3

        def teardown(self, estimator, context):
            pass

    callback = StopAtThird()
    model = PoissonFactorization(2, max_iter=8, tol=0, random_state=0)
    model.set_callbacks(callback)
    model.fit(counts)
    assert model.n_iter_ == 3
    assert len(callback.scores) == 3
    assert callback.scores[2] == pytest.approx(model.score(counts), rel=1e-6)
