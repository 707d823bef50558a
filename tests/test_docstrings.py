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

READERS = ["metrics", "datasets", "plotting", "inspection"]


def public_objects():
    """Dotted names of all that users see, and the objects."""
    for name in skdeepfactor.__all__:
        if name == "__version__":
            continue
        yield from with_methods(getattr(skdeepfactor, name))
    yield from with_methods(RowBlocks)
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
