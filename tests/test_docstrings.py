import ast
import importlib
import importlib.util
import inspect
import re

import pytest
from numpydoc.docscrape import ClassDoc, FunctionDoc
from numpydoc.validate import validate

import skdeepfactor
from skdeepfactor._estimator.base import BaseFactorModel
from skdeepfactor.data import RowBlocks
from skdeepfactor.distributions import GaussianMixture, SpikeSlab

READERS = ["metrics", "datasets", "plotting", "inspection"]


def public_objects():
    """Dotted names of all that users see, and the objects."""
    for name in skdeepfactor.__all__:
        if name == "__version__":
            continue
        yield from with_methods(getattr(skdeepfactor, name))
    for cls in (RowBlocks, GaussianMixture, SpikeSlab):
        yield from with_methods(cls)
    for reader in READERS:
        if importlib.util.find_spec(f"skdeepfactor.{reader}") is None:
            continue
        module = importlib.import_module(f"skdeepfactor.{reader}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                yield from with_methods(value)
            elif inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value


def with_methods(cls):
    """Dotted names of a class and of its public methods, and these."""
    path = f"{cls.__module__}.{cls.__name__}"
    yield path, cls
    for attribute, value in inspect.getmembers(cls, is_method):
        # What comes from scikit-learn is described there.
        is_ours = value.__module__.startswith("skdeepfactor")
        if is_ours and not attribute.startswith("_"):
            yield f"{path}.{attribute}", value


def is_method(value):
    """Whether it is one, of instances or of a class."""
    return inspect.isfunction(value) or inspect.ismethod(value)


OBJECTS = dict(public_objects())

# Shared parameters whose text begins alike, and what models add to the first sentence.
MODELS_ADD = {
    "batch_size": "what steps on fewer rows lose",
    "decoder_layers": "what follows for the bound",
    "doc_topic_prior": "whether it is learnt, and rows without labels",
    "encoder_layers": "when there is a network",
    "free_bits": "what it needs",
    "init": "further starts, and how much they matter",
    "inner_tol": "which passes take all steps",
    "input_scale": "data that are no counts",
    "learning_rate": "rates of networks",
    "likelihood": "the likelihoods that there are",
    "max_inner_iter": "what the solver makes of it",
    "max_iter": "how many are enough",
    "missing_values": "what networks see, and what it needs",
    "n_cold_iter": "priors that are learnt",
    "objective": "which are sampled",
    "prior": "the priors that there are",
    "skip_connections": "how deep decoders are learnt with and without",
    "topic_word_prior": "arrays, and whether it is learnt",
    "warm_start": "that a chain never returns, and its averages",
    "weight_prior": "the priors that there are",
    "weight_rate": "whether it is learnt",
    "weight_shape": "arrays, and whether it is learnt",
}

# Those of one name that mean something else in each model.
MODELS_DIFFER = {
    "covariance_type": "of a row's posterior, or of topics",
    "inference": "words are shared out to topics, rows to components",
    "n_components": "each model says what its components are",
    "temperature": "of responsibilities, or of spikes",
    "tol": "Laplace steps do not climb the bound",
}

# Those that take other values in other models.
VALUES_DIFFER = {
    "doc_topic_prior": "learnt in LatentDirichletAllocation alone",
    "inference": "a mixture has point estimates too",
    "init": "layers start from clusters of features",
    "likelihood": "each model has its own",
    "prior": "each model has its own",
    "temperature": "one number, or the first and the last",
    "topic_word_prior": "learnt in LatentDirichletAllocation alone",
    "weight_prior": "each model has its own",
    "weight_rate": "learnt in PoissonFactorization alone",
    "weight_shape": "learnt in PoissonFactorization alone",
}


def shared_parameters():
    """Types and texts of each parameter that several estimators have, by name."""
    found = {}
    for name in skdeepfactor.__all__:
        if name == "__version__":
            continue
        for parameter in ClassDoc(getattr(skdeepfactor, name))["Parameters"]:
            kind = parameter.type.split(", default=")[0]
            found.setdefault(parameter.name, []).append(
                (kind, " ".join(parameter.desc))
            )
    return {name: entries for name, entries in found.items() if len(entries) > 1}


SHARED = shared_parameters()


def documented(obj):
    """Parameters and their types, in the order of the docstring."""
    doc = ClassDoc(obj) if inspect.isclass(obj) else FunctionDoc(obj)
    return {
        name.strip(" *"): parameter.type
        for parameter in doc["Parameters"]
        for name in parameter.name.split(",")
    }


def taken(obj):
    """Names of parameters in the order of the signature."""
    return [name for name in inspect.signature(obj).parameters if name != "self"]


def test_the_public_face_is_found():
    names = {path.rsplit(".", 1)[1] for path in OBJECTS}
    assert set(skdeepfactor.__all__) - {"__version__"} <= names
    assert {"fit", "partial_fit", "transform", "score", "perplexity", "sample"} <= names
    assert {"npmi_coherence", "load_docstrings"} <= names


@pytest.mark.parametrize("path", OBJECTS)
def test_every_public_parameter_has_a_type(path):
    obj = OBJECTS[path]
    signature = inspect.signature(obj)
    untyped = {
        name
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.annotation is parameter.empty
    }
    assert not untyped
    assert inspect.isclass(obj) or signature.return_annotation is not signature.empty


@pytest.mark.parametrize("reader", READERS)
def test_all_that_a_reader_shows_is_listed(reader):
    module = importlib.import_module(f"skdeepfactor.{reader}")
    shown = {
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__.startswith(module.__name__)
        and not name.startswith("_")
    }
    assert shown <= set(module.__all__)


@pytest.mark.parametrize("path", OBJECTS)
def test_numpydoc_has_nothing_to_say(path):
    assert validate(path)["errors"] == []


@pytest.mark.parametrize("path", OBJECTS)
def test_parameters_are_those_of_the_signature(path):
    assert list(documented(OBJECTS[path])) == taken(OBJECTS[path])


@pytest.mark.parametrize("path", OBJECTS)
def test_defaults_are_those_of_the_signature(path):
    obj = OBJECTS[path]
    types = documented(obj)
    for name, parameter in inspect.signature(obj).parameters.items():
        if name in ("self", "y"):
            continue
        has_default = parameter.default is not inspect.Parameter.empty
        assert ("default=" in types[name]) == has_default, name
        if has_default:
            # Parameters may share a line, as in "default=500, 200 and 5".
            shown = types[name].rsplit("default=", 1)[-1]
            is_tuple = isinstance(parameter.default, tuple)
            defaults = [shown] if is_tuple else re.split(", | and ", shown)
            assert parameter.default in map(ast.literal_eval, defaults), name


@pytest.mark.parametrize(
    "path", [path for path, obj in OBJECTS.items() if inspect.isclass(obj)]
)
def test_classes_have_every_section(path):
    doc = ClassDoc(OBJECTS[path])
    sections = ["Summary", "Extended Summary", "Parameters", "Attributes", "Examples"]
    if issubclass(OBJECTS[path], BaseFactorModel):
        sections += ["See Also", "References"]
    for section in sections:
        assert doc[section], section


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, obj in OBJECTS.items()
        if inspect.isfunction(obj) and path.count(".") == 2
    ],
)
def test_functions_have_examples(path):
    assert FunctionDoc(OBJECTS[path])["Examples"]


@pytest.mark.each_class
def test_fitted_attributes_are_documented(estimator, counts):
    estimator.set_params(max_iter=2, random_state=0).fit(counts)
    doc = ClassDoc(type(estimator))
    names = {
        name.strip()
        for attribute in doc["Attributes"]
        for name in attribute.name.split(",")
    }
    fitted = {name for name in vars(estimator) if name[0] != "_" and name[-1] == "_"}
    assert fitted <= names
    assert names - fitted <= {"feature_names_in_"}


def test_exceptions_of_shared_parameters_are_shared():
    assert {*MODELS_ADD, *MODELS_DIFFER, *VALUES_DIFFER} <= SHARED.keys()
    assert len(SHARED) > 30


@pytest.mark.parametrize("name", SHARED)
def test_shared_parameters_have_the_same_text(name):
    kinds, texts = map(set, zip(*SHARED[name], strict=True))
    beginnings = {text.split(". ")[0].removesuffix(".") for text in texts}
    assert (len(beginnings) > 1) == (name in MODELS_DIFFER)
    if name not in MODELS_DIFFER:
        assert (len(texts) > 1) == (name in MODELS_ADD)
    assert (len(kinds) > 1) == (name in VALUES_DIFFER)
