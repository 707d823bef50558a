"""How Sphinx builds the documentation: ``sphinx-build doc doc/_build``."""

import importlib.util

import skdeepfactor

project = "skdeepfactor"
author = "The skdeepfactor developers"
project_copyright = author
release = version = skdeepfactor.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build"]
html_theme = "alabaster"

# Methods are listed on the page of their class.
numpydoc_class_members_toctree = False
numpydoc_show_inherited_class_members = True

if importlib.util.find_spec("sphinx_gallery"):
    # Examples run when the documentation is built.
    extensions.append("sphinx_gallery.gen_gallery")
    sphinx_gallery_conf = {
        "examples_dirs": "../examples",
        "gallery_dirs": "auto_examples",
        "filename_pattern": "plot_",
    }
