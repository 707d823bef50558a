"""Every block of code in the guides and in README.rst is run."""

import ast
import doctest
import importlib.util
import re
import runpy
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.rst", *sorted((ROOT / "doc").glob("**/*.rst"))]
# What Sphinx makes of sources and examples, and of what.
MADE = {"_build", "_templates", "auto_examples", "generated", "sg_execution_times.rst"}
PAGES = [page for page in PAGES if not MADE & set(page.relative_to(ROOT).parts)]

HEADING = re.compile(r"^(\S[^\n]*)\n([-=])\2+\n", re.MULTILINE)
BLOCK = re.compile(
    r"^( *)(?:\.\. code-block:: *(\w+)|(?! |\.\. )[^\n]*::)\n((?:\1 +[^\n]*\n|\n)+)",
    re.MULTILINE,
)

# Packages that guides speak of and that need not be there.
OPTIONAL = {
    "anndata",
    "fastapi",
    "gensim",
    "matplotlib",
    "pandas",
    "polars",
    "pyro",
    "skops",
    "tomotopy",
}

# What torchrun sets for the only one of its processes.
TORCHRUN = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "0",
}


def sections(text):
    """Titles and texts of a page's sections; what comes before them is in the first."""
    starts = [match.start() for match in HEADING.finditer(text)]
    titles = [match.group(1) for match in HEADING.finditer(text)]
    for title, start, end in zip(titles, starts, [*starts[1:], None], strict=True):
        yield title, text[start:end]


def imported(examples):
    """Names of the packages that examples import."""
    for example in examples:
        for node in ast.walk(ast.parse(example.source)):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module.split(".")[0]


SECTIONS = {
    f"{page.stem}: {title}": (page, section)
    for page in PAGES
    for title, section in sections(page.read_text(encoding="utf-8"))
    if ">>>" in section
}


def test_the_guides_are_found():
    names = {page.stem for page in PAGES}
    assert {"README", "index", "comparing_models", "neighbours"} <= names
    assert len(SECTIONS) > 20


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_does_what_it_says(name, tmp_path, monkeypatch):
    page, section = SECTIONS[name]
    test = doctest.DocTestParser().get_doctest(section, {}, name, str(page), 0)
    for package in sorted(set(imported(test.examples)) & OPTIONAL):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        with warnings.catch_warnings():
            # What they say to their own imports is not ours to mend.
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    monkeypatch.chdir(tmp_path)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    report = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(
        test, out=report.append
    )
    assert not report, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_block_of_code_is_left_out(page):
    text = page.read_text(encoding="utf-8")
    for _, language, block in BLOCK.findall(text):
        # What is typed into a shell is not run.
        assert language == "console" or ">>>" in block, block


def test_blocks_are_recognised():
    text = (
        "As here::\n\n    x = 1\n\n.. code-block:: python\n\n   y = 2\n\n"
        "- As\n\n  .. math::\n\n     z = 3\n\n.. code-block:: console\n\n   pip\n"
    )
    found = [(language, block.strip()) for _, language, block in BLOCK.findall(text)]
    assert found == [("", "x = 1"), ("python", "y = 2"), ("console", "pip")]


def test_every_page_of_the_gallery_has_its_place():
    settings = runpy.run_path(str(ROOT / "doc" / "conf.py"))
    examples = {path.name: path for path in (ROOT / "examples").glob("plot_*.py")}
    assert sorted(settings["ORDER"]) == sorted(examples)
    # Those that read files of the user's are left out where there are none.
    reading = {
        path.stem
        for path in examples.values()
        if "SKDEEPFACTOR_DATA" in path.read_text(encoding="utf-8")
    }
    assert reading == settings["NEEDED"].keys()


def test_a_section_that_is_wrong_is_found(tmp_path, monkeypatch):
    page = ROOT / "README.rst"
    monkeypatch.setitem(SECTIONS, "wrong", (page, "Wrong\n=====\n\n>>> 1 + 1\n3\n"))
    with pytest.raises(AssertionError, match="Expected"):
        test_a_section_does_what_it_says("wrong", tmp_path, monkeypatch)
