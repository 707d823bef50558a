"""How Sphinx builds the documentation: ``make doc``."""

import os
import re
from pathlib import Path

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
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = f"skdeepfactor {version}"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

# Methods stand in full on the page of their class, without those that every
# scikit-learn estimator has.
numpydoc_show_class_members = False
LEFT_OUT = ["get_metadata_routing", "set_callbacks", "set_output"]
REQUESTS = ["fit", "inverse_transform", "partial_fit", "score", "transform"]
# Types stand in the sections of parameters.
autodoc_typehints = "none"
# Methods are listed beside the page of their class, whose name would not fit.
toc_object_entries_show_parents = "hide"
autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseEstimator,TransformerMixin,object",
    "exclude-members": ",".join(LEFT_OUT + [f"set_{r}_request" for r in REQUESTS]),
}

# Examples run when the documentation is built. Those that need data which are neither
# installed nor made are left out where these are not in the folder of
# SKDEEPFACTOR_DATA.
DATA = Path(os.environ.get("SKDEEPFACTOR_DATA", "."))
FETCHED = Path(os.environ.get("SCIKIT_LEARN_DATA", "~/scikit_learn_data")).expanduser()
NEEDED = {
    "plot_faces": [DATA / "olivetti" / "olivetti.npz", FETCHED / "olivetti_py3.pkz"],
    "plot_single_cells": [DATA / "pbmc1k_v3" / "all.npz"],
    "plot_state_of_the_union": [DATA / "sotu" / "all.npz"],
    "plot_listeners": [DATA / "lastfm_hetrec2k" / "all.npz"],
}
ABSENT = [
    name for name, files in NEEDED.items() if not any(file.exists() for file in files)
]
# Times are of no use to readers, and a page of an earlier build, whose data are gone,
# would be in no table of contents.
exclude_patterns = [
    "_build",
    "**sg_execution_times.rst",
    *(f"auto_examples/{name}.rst" for name in ABSENT),
]
ORDER = [
    "plot_topics_of_docstrings.py",
    "plot_number_of_components.py",
    "plot_short_texts.py",
    "plot_themes_of_topics.py",
    "plot_topics_by_sampling.py",
    "plot_labeled_topics.py",
    "plot_supervised_topics.py",
    "plot_correlated_topics.py",
    "plot_state_of_the_union.py",
    "plot_word_embeddings.py",
    "plot_listeners.py",
    "plot_single_cells.py",
    "plot_faces.py",
    "plot_notes_and_chords.py",
    "plot_digits.py",
]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "plot_",
    "ignore_pattern": "|".join(map(re.escape, ["__init__", *ABSENT])),
    "within_subsection_order": ORDER.index,
    "doc_module": "skdeepfactor",
    "backreferences_dir": "auto_examples/backreferences",
    "download_all_examples": False,
    "show_memory": False,
    "capture_repr": (),
    "abort_on_example_error": True,
}
