"""Whether the last commit could be released: ``make release-check``.

Everything is built from a clean clone in a temporary folder and installed with pip.
Each check prints "passed", "failed" or "not run" with the reason. The exit status is 1
if one has failed; what was not run is for a human to judge.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Run in an environment that holds the wheel and its dependencies alone.
DOCTESTS = """
import doctest, importlib, pkgutil, sys
import skdeepfactor
failed = attempted = 0
for module in pkgutil.walk_packages(skdeepfactor.__path__, "skdeepfactor."):
    result = doctest.testmod(importlib.import_module(module.name))
    failed, attempted = failed + result.failed, attempted + result.attempted
print(f"{attempted} examples")
sys.exit(failed > 0 or not attempted)
"""


class NotRun(Exception):
    """Raised by a check that cannot be run here, with the reason."""


def run(*command, cwd, minutes=30):
    """Output of a command that must succeed, run as if in a fresh shell."""
    ignored = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in ignored},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 * minutes,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise AssertionError(f"{' '.join(map(str, command[-3:]))}\n{tail}")
    return done.stdout


def report(checks):
    """Run checks, print the outcome of each, and say whether none has failed."""
    has_failed = False
    for check in checks:
        name = check.__name__.replace("_", " ")
        print(f"{name} ... ", end="", flush=True)
        try:
            print(f"passed{check() or ''}", flush=True)
        except NotRun as reason:
            print(f"not run: {reason}", flush=True)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            has_failed = True
            print(f"failed\n{error}", flush=True)
    return not has_failed


class ReleaseCheck:
    """The checks, in their order: each a method named for what it establishes."""

    def __init__(self, folder, *, oldest_torch):
        self.folder = folder
        self.clone = folder / "clone"
        self.dist = folder / "dist"
        self.oldest_torch = oldest_torch

    def __call__(self):
        """Run all checks, and say whether none has failed."""
        checks = [
            self.working_tree_is_clean,
            self.sdist_and_wheel_build_from_a_clean_clone,
            self.twine_accepts_both_and_the_readme_renders,
            self.versions_agree,
            self.readme_and_doctests_run_without_extras,
            *map(self.on_another_python, self.other_pythons()),
            self.contract_holds_with_the_oldest_dependencies,
        ]
        return report(checks)

    def working_tree_is_clean(self):
        changes = run("git", "status", "--porcelain", cwd=ROOT)
        assert not changes, f"not committed, so not checked:\n{changes}"

    def sdist_and_wheel_build_from_a_clean_clone(self):
        run("git", "clone", "--quiet", ROOT, self.clone, cwd=self.folder)
        self.tools = self.environment("tools", sys.executable)
        self.install(self.tools, "build", "twine", "docutils")
        # The wheel is built from the sdist, as pip does where it finds no wheel.
        build = [self.tools, "-m", "build", "--outdir", self.dist]
        run(*build, self.clone, cwd=self.clone)
        [self.wheel] = self.dist.glob("*.whl")
        [self.sdist] = self.dist.glob("*.tar.gz")

    def twine_accepts_both_and_the_readme_renders(self):
        self.needs_wheel()
        twine_check = [self.tools, "-m", "twine", "check", "--strict"]
        run(*twine_check, self.wheel, self.sdist, cwd=self.dist)
        # The file itself, with its picture, which the index does not show.
        html = self.folder / "readme.html"
        readme = self.clone / "README.rst"
        run(self.tools, "-m", "docutils", "--halt=2", readme, html, cwd=self.clone)

    def versions_agree(self):
        self.needs_wheel()
        source = (self.clone / "skdeepfactor" / "_version.py").read_text()
        version = ast.literal_eval(source.rsplit("=", 1)[1].strip())
        found = {
            "wheel": self.wheel.name.split("-")[1],
            "sdist": self.sdist.name.removesuffix(".tar.gz").split("-")[1],
            "CITATION.cff": self.first(r"^version: (\S+)", "CITATION.cff"),
            "CHANGELOG.rst": self.first(r"^(\d\S+) \(", "CHANGELOG.rst"),
        }
        tags = run("git", "tag", "--points-at", "HEAD", cwd=self.clone).split()
        found |= {f"tag {tag}": tag.removeprefix("v") for tag in tags}
        wrong = {name: other for name, other in found.items() if other != version}
        assert not wrong, f"_version.py has {version}, but {wrong}"
        return f": {version}"

    def readme_and_doctests_run_without_extras(self):
        return self.try_wheel("empty", sys.executable)

    def on_another_python(self, version):
        """The same check on another interpreter that the classifiers name."""

        def check():
            python = shutil.which(f"python{version}")
            if python is None or not self.starts(python):
                raise NotRun(f"python{version} is not installed")
            return self.try_wheel(f"python{version}", python)

        check.__name__ = f"readme_and_doctests_run_on_Python_{version}"
        return check

    def contract_holds_with_the_oldest_dependencies(self):
        self.needs_wheel()
        dependencies = self.project()["dependencies"]
        oldest = dict(name.split(">=") for name in dependencies)
        torch = oldest.pop("torch")
        python = self.environment("oldest", sys.executable)
        note = ""
        if self.oldest_torch:
            self.install(python, f"torch=={torch}.*")
        else:
            self.install(python, "torch", "-c", self.clone / "constraints.txt")
        pins = [f"{name}=={version}.*" for name, version in oldest.items()]
        try:
            self.install(python, *pins, self.wheel, "pytest", "hypothesis")
        except AssertionError as error:
            raise NotRun(
                f"these versions cannot be installed together\n{error}"
            ) from error
        if not self.oldest_torch:
            note = f" (torch {torch} not run: needs --oldest-torch)"
        # Beside the clone, so that the wheel is what is imported.
        place = self.folder / "contract"
        shutil.copytree(self.clone / "tests", place / "tests")
        shutil.copy(self.clone / "pyproject.toml", place)
        shown = run(
            *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            "tests/test_contract.py",
            cwd=place,
            minutes=120,
        )
        return f": {shown.splitlines()[-1]}{note}"

    def needs_wheel(self):
        """Give up where there is nothing to check."""
        if not hasattr(self, "sdist"):
            raise NotRun("nothing was built")

    def try_wheel(self, name, interpreter):
        """Run the README and all doctests where only the wheel is installed."""
        self.needs_wheel()
        python = self.environment(name, interpreter)
        self.install(python, self.wheel, "-c", self.clone / "constraints.txt")
        place = self.folder / f"{name}_work"
        place.mkdir()
        shutil.copy(self.clone / "README.rst", place)
        run(python, "-m", "doctest", "README.rst", cwd=place)
        return f": {run(python, '-c', DOCTESTS, cwd=place).splitlines()[-1]}"

    def environment(self, name, interpreter):
        """Interpreter of a new virtual environment."""
        run(interpreter, "-m", "venv", self.folder / name, cwd=self.folder)
        return self.folder / name / "bin" / "python"

    def install(self, python, *requirements):
        """Install with pip, and nothing that would have to be compiled."""
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--only-binary", ":all:", *requirements, cwd=self.folder)

    def starts(self, python):
        """Whether an interpreter on the path is more than a stand-in."""
        done = subprocess.run([python, "-c", ""], capture_output=True, check=False)
        return done.returncode == 0

    def project(self):
        """The table "project" of pyproject.toml, as the working tree has it."""
        return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def other_pythons(self):
        """Versions that the classifiers name, without that which runs this."""
        name = re.compile(r"Programming Language :: Python :: (3\.\d+)")
        found = filter(None, map(name.fullmatch, self.project()["classifiers"]))
        this = "{}.{}".format(*sys.version_info)
        return [match[1] for match in found if match[1] != this]

    def first(self, pattern, name):
        """First match of a pattern in a file of the clone."""
        text = (self.clone / name).read_text(encoding="utf-8")
        match = re.search(pattern, text, re.MULTILINE)
        assert match, f"{name} has no version"
        return match[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--oldest-torch",
        action="store_true",
        help="the oldest torch, too, which may bring gigabytes of CUDA",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check = ReleaseCheck(Path(folder), oldest_torch=arguments.oldest_torch)
        sys.exit(not check())
