"""The rules of the house that a machine can check."""

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import skdeepfactor
from skdeepfactor._estimator.amortized import AmortizedFactorModel
from skdeepfactor._estimator.base import BaseFactorModel
from skdeepfactor._estimator.conjugate import (
    ClosedFormFactorModel,
    ConjugateFactorModel,
)
from skdeepfactor._estimator.covariates import CovariateTopicModel
from skdeepfactor._estimator.labeled import LabeledFactorModel
from skdeepfactor._estimator.sampled import SampledFactorModel
from skdeepfactor._estimator.supervised import SupervisedFactorModel
from skdeepfactor._estimator.timed import TimedTopicModel
from skdeepfactor._math.autoencoder import AmortizedModule
from skdeepfactor._math.module import FactorModule
from skdeepfactor._math.sampled import SampledModule
from tests.forked import PATIENCE

PACKAGE = Path(skdeepfactor.__file__).parent

DOC = PACKAGE.parent / "doc"

# The rooms of the house, and the files that stand alone: each imports only those before
# it. The page for developers has the same list.
ORDER = re.findall(
    r"^``(\w+)``$",
    (DOC / "architecture.rst").read_text(encoding="utf-8"),
    flags=re.M,
)

# These read estimators or arrays, and import only readers before them, and what takes
# in data and writes files for all; nothing else imports them.
READERS = ["datasets", "inspection", "metrics", "plotting"]
FOR_ALL = ["_input", "_files", "_times"]

# Where a sparse matrix is made dense, and why it may be.
MAY_MAKE_DENSE = {
    ("_math.module", "gradient"): "of gradients, for processes to add up",
    ("_training.optimizers", "step"): "of gradients, for Adam's first step",
    (
        "_math.starts",
        "_cluster_counts",
    ): "of two rows or columns, which no SVD shortens",
    (
        "_estimator.fitting",
        "_joined",
    ): "of the few first rows of a stream, where some of them miss entries",
    (
        "metrics.coherence",
        "_joint_shares",
    ): "of pairs of the few top words of a component",
    (
        "metrics.completion",
        "_expected_counts",
    ): "of factors, which are dense but for sparse codes",
    (
        "inspection.reading",
        "factors_of",
    ): "of factors, which are dense but for sparse codes",
    (
        "_math.ops",
        "dense",
    ): "of a batch whose every entry is predicted by a real number",
}

# Modules that ask what an object has, and why they must.
MAY_ASK = {
    "data": "blocks come from sources of any package",
    "metrics.coherence": "an estimator in the place of components is refused",
    "metrics.completion": "estimators of any package are measured",
    "metrics.ranking": "estimators of any package are measured",
    "metrics.scoring": "estimators of any package are measured",
    "inspection.reading": "estimators of any package are shown",
}

GLOBAL_RANDOM = {
    "torch": {"manual_seed", "seed", "set_rng_state"},
    # These may not draw from a generator of their own.
    "np.random": {"default_rng", "RandomState", "Generator", "SeedSequence"},
}
TORCH_DRAWS = {
    "bernoulli",
    "multinomial",
    "normal",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
}

# What draws from torch's global generator, and why it must.
MAY_DRAW = {
    ("distributions", "_noise"): "torch's distributions all do, and take no other"
}


def module_name(path):
    """``data`` for data.py, ``models.x`` for models/x.py and models/x/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODELS = sorted(
    {".".join(name.split(".")[:2]) for name in SOURCES if name.startswith("models.")}
)
# What estimators may derive from.
BASES = {
    base.__name__: base
    for base in (
        BaseFactorModel,
        ClosedFormFactorModel,
        ConjugateFactorModel,
        CovariateTopicModel,
        TimedTopicModel,
        SampledFactorModel,
        AmortizedFactorModel,
        LabeledFactorModel,
        SupervisedFactorModel,
    )
}
MODULE_BASES = (FactorModule, SampledModule, AmortizedModule)
ESTIMATORS = [
    getattr(skdeepfactor, name)
    for name in skdeepfactor.__all__
    if name != "__version__"
]


def part(name):
    """The room, or the file, that a module belongs to."""
    return name.split(".")[0]


def home(name):
    """The model that a module belongs to, a file or a folder."""
    return ".".join(name.split(".")[:2])


def imported(tree):
    """Names of the package's modules that a module imports, anywhere in its text."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, *path = name.split(".")
            if root != "skdeepfactor":
                continue
            while path and ".".join(path) not in SOURCES:
                path.pop()
            found.add(".".join(path) or "__init__")
    return found


def dotted(node):
    """``a.b.c`` of an expression of that form, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        value = dotted(node.value)
        return f"{value}.{node.attr}" if value else ""
    return ""


def calls(tree):
    """Each call and the name of the innermost function that it is in."""

    def walk(node, function):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield child, function
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, child.name if is_function else function)

    yield from walk(tree, "")


def test_every_module_has_its_place():
    parts = {part(name) for name in SOURCES}
    assert set(ORDER) <= parts
    assert parts <= {*ORDER, *READERS}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_run_one_way(name):
    found = imported(SOURCES[name])
    if part(name) in READERS:
        places = FOR_ALL + READERS[: READERS.index(part(name)) + 1]
        assert {part(other) for other in found} <= set(places)
        return
    place = ORDER.index(part(name))
    assert {part(other) for other in found} <= set(ORDER[: place + 1])
    if part(name) == "models":
        # Models share what stands below them, and never import each other.
        assert {home(other) for other in found if part(other) == "models"} <= {
            home(name)
        }


def test_imports_have_no_cycles():
    graph = {name: imported(tree) for name, tree in SOURCES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_imports_are_recognised():
    tree = ast.parse(
        "import skdeepfactor._math.ops\n"
        "from skdeepfactor import metrics, PoissonFactorization\n"
        "from skdeepfactor.models.poisson_factorization import GammaPoisson\n"
        "def f():\n"
        "    from skdeepfactor._estimator.base import BaseFactorModel\n"
        "import numpy.random\n"
    )
    assert imported(tree) == {
        "_math.ops",
        "metrics",
        "__init__",
        "models.poisson_factorization",
        "_estimator.base",
    }


def test_no_file_is_a_drawer():
    drawers = {"utils", "util", "helpers", "helper", "misc", "common"}
    for folder in (PACKAGE, Path(__file__).parent):
        names = {path.stem.strip("_") for path in folder.rglob("*")}
        assert not names & drawers


def test_nothing_sparse_is_made_dense():
    found = {
        (name, function)
        for name, tree in SOURCES.items()
        for call, function in calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"toarray", "todense", "to_dense"}
    }
    assert found == set(MAY_MAKE_DENSE)


def test_nothing_asks_for_attributes():
    found = {
        name
        for name, tree in SOURCES.items()
        for call, _ in calls(tree)
        if dotted(call.func) == "hasattr"
    }
    assert found == set(MAY_ASK)


def test_no_global_random_state():
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom):
                    modules = [node.module]
                assert "random" not in modules, name
        for call, function in calls(tree):
            *path, last = dotted(call.func).split(".")
            where = (name, function, last)
            module = ".".join(path).replace("numpy", "np")
            if module == "np.random":
                assert last in GLOBAL_RANDOM["np.random"], where
            if (name, function) in MAY_DRAW:
                continue
            if module in ("torch", "torch.random", "torch.cuda"):
                assert last not in GLOBAL_RANDOM["torch"], where
                keywords = {keyword.arg for keyword in call.keywords}
                assert last not in TORCH_DRAWS or "generator" in keywords, where


def test_the_package_shows_estimators_and_its_version():
    assert skdeepfactor.__all__ == sorted(skdeepfactor.__all__, key=str.swapcase) or (
        skdeepfactor.__all__ == sorted(skdeepfactor.__all__)
    )
    assert "__version__" in skdeepfactor.__all__
    assert ESTIMATORS
    for estimator in ESTIMATORS:
        assert issubclass(estimator, BaseFactorModel)
        assert not inspect.isabstract(estimator)
    # All models are shown.
    defined = {
        node.name
        for name, tree in SOURCES.items()
        for node in tree.body
        if home(name) in MODELS
        and isinstance(node, ast.ClassDef)
        and {dotted(base) for base in node.bases} & BASES.keys()
    }
    assert defined == {estimator.__name__ for estimator in ESTIMATORS}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_a_module_and_an_estimator(name):
    files = [tree for other, tree in SOURCES.items() if home(other) == name]
    classes = [
        node for tree in files for node in tree.body if isinstance(node, ast.ClassDef)
    ]
    bases = [[dotted(base) for base in node.bases] for node in classes]
    # Two where one module answers in classes and in numbers.
    assert sum(len(base) == 1 and base[0] in BASES for base in bases) in (1, 2)
    modules = {module.__name__ for module in MODULE_BASES}
    assert sum(len(base) == 1 and base[0] in modules for base in bases) >= 1


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_estimator_derives_from_one_base_alone(estimator):
    assert len(estimator.__bases__) == 1
    assert estimator.__bases__[0] in BASES.values()
    assert estimator.__module__.startswith("skdeepfactor.models.")
    # Other tests may derive from it.
    derived = [kind.__module__ for kind in estimator.__subclasses__()]
    assert not [name for name in derived if name.startswith("skdeepfactor")]
    assert inspect.getdoc(sys.modules[estimator.__module__])


def test_only_the_contracts_are_abstract():
    for base in BASES.values():
        assert inspect.isabstract(base)
    for base in MODULE_BASES:
        assert inspect.isabstract(base)
        for module in set(base.__subclasses__()) - set(MODULE_BASES):
            if module.__module__.startswith("skdeepfactor."):
                assert not inspect.isabstract(module)


def test_every_module_says_what_it_is_for():
    for name, tree in SOURCES.items():
        assert ast.get_docstring(tree), name


LOADS = """
import sys
# What these two bring along, a user has anyway.
import sklearn.base
import torch
optional = ["pandas", "polars", "tqdm"]
heavy = ["matplotlib", "torch._dynamo"]
heavy += [name for name in optional if name not in sys.modules]
import skdeepfactor
# Gibbs samplers import it when they are first used.
print([name for name in [*heavy, "numba"] if name in sys.modules])
import numpy
X = numpy.random.RandomState(0).poisson(1.0, (20, 8))
y = [0, 1] * 10
for name in skdeepfactor.__all__:
    if name == "__version__":
        continue
    kind = getattr(skdeepfactor, name)
    settings = [{}, {"batch_size": 8}, {"validation_fraction": 0.2}]
    if name == "SparseGammaDEF":
        settings.append({"solver": "gradient"})
    for parameters in settings:
        estimator = kind(max_iter=2, **parameters)
        estimator.fit(X, y).score(X, y)
        estimator.partial_fit(X, y)
print([name for name in heavy if name in sys.modules])
"""


def test_what_is_slow_to_import_is_not_imported():
    shown = subprocess.run(
        [sys.executable, "-c", LOADS],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == ["[]", "[]"]


READ = """
import sys
import skdeepfactor
readers = ["datasets", "inspection", "metrics", "plotting"]
names = ["data", *readers]
assert not {f"skdeepfactor.{name}" for name in readers} & sys.modules.keys()
assert set(names) <= set(dir(skdeepfactor))
assert {*skdeepfactor.__all__, "__name__"} <= set(dir(skdeepfactor))
for name in names:
    module = getattr(skdeepfactor, name)
    assert module is sys.modules[f"skdeepfactor.{name}"]
    assert getattr(skdeepfactor, name) is module
skdeepfactor.inspection.top_features, skdeepfactor.plotting.TopicsDisplay
assert "matplotlib" not in sys.modules
"""


def test_readers_load_when_they_are_first_used():
    shown = subprocess.run(
        [sys.executable, "-c", READ],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert shown.returncode == 0, shown.stderr


def test_names_that_the_package_lacks_are_mistakes():
    with pytest.raises(AttributeError, match=r"module 'skdeepfactor' has no attribute"):
        skdeepfactor.metric  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'metric'"):
        from skdeepfactor import metric  # noqa: F401


# What estimators call of themselves, and no model overrides.
CALLED = {
    "_expected",
    *("_fit", "_partial_fit", "_infer", "_decoded", "_sample", "_load", "_ask"),
    "_with_merged",
    *("_mean_score", "_perplexity"),
    "_may_miss",
    "_input_scale",
}
# Names of scikit-learn's, and of Python's.
THEIRS = {
    "_parameter_constraints",
    "_n_features_out",
    "_abc_impl",
    "_check_layers",
    "_validate_params",
    "_sklearn_auto_wrap_output_keys",
}


def test_the_page_names_every_hook():
    page = (DOC / "add_a_model.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"``(\w+)``", page))
    private = {
        name
        for kind in BASES.values()
        for name in vars(kind)
        if name.startswith("_") and not name.startswith("__")
    }
    wanted = private - CALLED - THEIRS
    # Found where the page includes the code itself.
    assert wanted <= named, sorted(wanted - named)
    # And it names none that the code has not.
    stale = {n for n in named if n.startswith("_") and not n.startswith("__")}
    known = private | set(ORDER) | {"_math", "_training", "_estimator"}
    assert stale <= known, sorted(stale - known)


def test_the_page_includes_code_that_exists():
    page = (DOC / "add_a_model.rst").read_text(encoding="utf-8")
    included = re.findall(r"literalinclude:: \.\./(\S+)\n +:pyobject: (\S+)", page)
    assert len(included) == page.count("literalinclude::") == 5
    for path, name in included:
        found = ast.parse((PACKAGE.parent / path).read_text(encoding="utf-8"))
        for part_of_name in name.split("."):
            kinds = ast.ClassDef | ast.FunctionDef
            inside = {n.name: n for n in found.body if isinstance(n, kinds)}
            assert part_of_name in inside, name
            found = inside[part_of_name]


def test_the_architecture_page_names_functions_that_exist():
    page = (DOC / "architecture.rst").read_text(encoding="utf-8")
    page = page.split("to a step\n", 1)
    defined = {
        node.name
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    named = {name.split(".")[-1] for name in re.findall(r"``([\w.]+)``", page[1])}
    assert named - defined <= {"grad", "fit", "transform"}
