"""What an installed package holds, where the checkout is out of sight."""

import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import PATIENCE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skdeepfactor"
# What the build reads beside the package.
BUILT_FROM = ["pyproject.toml", "setup.py", "README.rst", "LICENSE"]

IMPORT_ALL = """
import importlib, json, pkgutil
import skdeepfactor
modules = {"skdeepfactor": skdeepfactor}
for found in pkgutil.walk_packages(skdeepfactor.__path__, "skdeepfactor."):
    modules[found.name] = importlib.import_module(found.name)
print(json.dumps({name: module.__file__ for name, module in modules.items()}))
"""


# A user's script, and the lines of it that mypy is to object to.
SCRIPT = """
from pathlib import Path

import numpy as np

import skdeepfactor
from skdeepfactor import LatentDirichletAllocation, PoissonFactorization
from skdeepfactor.metrics import completion_perplexity

X = np.ones((4, 3))
model: PoissonFactorization = PoissonFactorization(2, random_state=0).fit(X)
factors: np.ndarray = model.transform(X)
mean, std = model.transform(X, return_std=True)
score: float = model.score(X) + completion_perplexity(model, X)
page: Path = skdeepfactor.plotting.topic_page(model, X, path="topics.html")
LatentDirichletAllocation("two")  # wrong
model.fit(X, n_passes=3)  # wrong
skdeepfactor.TopicModel(2)  # wrong
words: int = model.components_  # wrong
"""

# Other packages are not what is checked, and take most of the time.
MYPY_SETTINGS = """
[mypy]
strict = true
[mypy-joblib.*,scipy.*,sklearn.*,threadpoolctl.*,torch.*]
follow_imports = skip
ignore_missing_imports = true
"""


def run(*arguments, status=0, **parameters):
    """What Python shows when it is run with these arguments."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        **parameters,
        timeout=PATIENCE,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def major_version(tool):
    """Major version of what is installed, -1 if nothing is."""
    # Importing setuptools would put its own distutils into this process.
    try:
        return int(importlib.metadata.version(tool).split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return -1


def files(folder):
    """Paths of the files of a package, relative to the folder that it is in."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.joinpath("skdeepfactor").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and path.name[0] != "."
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as its wheel has it, and nothing else."""
    for tool, oldest in {"pip": 0, "setuptools": 77}.items():
        if major_version(tool) < oldest:
            pytest.skip(f"needs {tool}>={oldest}, which is not installed")
    if not all((ROOT / name).exists() for name in BUILT_FROM):
        pytest.skip("needs a checkout, whose pyproject.toml says what is in a wheel")
    folder = tmp_path_factory.mktemp("packaging")
    # A copy is built: a build would leave folders behind in the checkout, and take
    # from those of earlier ones what no longer belongs to the package.
    checkout = folder / "checkout"
    shutil.copytree(
        PACKAGE,
        checkout / "skdeepfactor",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, checkout)
    pip = ["-P", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    offline = ["--no-deps", "--no-index"]
    build = ["--no-build-isolation", "--wheel-dir", folder / "wheels"]
    run(*pip, "wheel", *offline, *build, checkout, cwd=folder)
    [wheel] = folder.glob("wheels/*.whl")
    run(*pip, "install", *offline, "--target", folder / "installed", wheel, cwd=folder)
    return folder / "installed"


def test_a_wheel_holds_every_file_of_the_package(installed):
    expected = files(ROOT)
    assert {"skdeepfactor/plotting/page.html", "skdeepfactor/py.typed"} <= expected
    assert files(installed) == expected


def test_every_module_of_a_wheel_can_be_imported(installed, tmp_path):
    # Without it, the module of compiled loops is left alone.
    pytest.importorskip("numba")
    # Without the module "site" no editable install leads to the checkout, which would
    # stand in for what the wheel lacks.
    others = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    places = os.pathsep.join(map(str, [installed, *others]))
    shown = run(
        *("-S", "-P", "-c", IMPORT_ALL),
        env={**os.environ, "PYTHONPATH": places},
        cwd=tmp_path,
    )
    found = json.loads(shown)
    paths = {Path(path).relative_to(installed).as_posix() for path in found.values()}
    assert paths == {name for name in files(ROOT) if name.endswith(".py")}
    assert {"skdeepfactor.models", "skdeepfactor.plotting.page"} <= found.keys()


def test_the_description_of_a_wheel_needs_no_other_file(installed):
    [metadata] = installed.glob("*.dist-info/METADATA")
    description = metadata.read_text(encoding="utf-8")
    assert "Topics of documents" in description
    assert "Coming from other packages" in description
    assert "image::" not in description
    assert "<doc/" not in description


def test_types_are_known_where_the_package_is_installed(installed, tmp_path):
    pytest.importorskip("mypy")
    tmp_path.joinpath("script.py").write_text(SCRIPT)
    tmp_path.joinpath("mypy.ini").write_text(MYPY_SETTINGS)
    wrong = [n for n, line in enumerate(SCRIPT.split("\n"), 1) if "# wrong" in line]
    shown = run(
        *("-P", "-m", "mypy", "script.py"),
        status=1,
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
    )
    found = re.findall(r"^script\.py:(\d+): error", shown, re.MULTILINE)
    assert [int(line) for line in found] == wrong, shown


def test_a_release_check_fails_if_a_check_does(capsys):
    script = runpy.run_path(str(ROOT / ".ci" / "release_check.py"))

    def it_holds():
        return ": 0.1.0"

    def it_cannot_run():
        raise script["NotRun"]("no network")

    def it_does_not_hold():
        raise AssertionError("1 is not 2")

    assert script["report"]([it_holds, it_cannot_run])
    assert not script["report"]([it_does_not_hold, it_holds])
    shown = capsys.readouterr().out
    assert (
        "it holds ... passed: 0.1.0\nit cannot run ... not run: no network\n" in shown
    )
    assert "it does not hold ... failed\n1 is not 2\nit holds ... passed" in shown
