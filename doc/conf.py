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

templates_path = ["_templates"]

# Methods stand in full on the page of their class, without those that every
# scikit-learn estimator has.
numpydoc_show_class_members = False
LEFT_OUT = ["get_metadata_routing", "set_callbacks", "set_output"]
REQUESTS = ["fit", "inverse_transform", "partial_fit", "score", "transform"]
autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseEstimator,TransformerMixin,object",
    "exclude-members": ",".join(LEFT_OUT + [f"set_{r}_request" for r in REQUESTS]),
}

if importlib.util.find_spec("sphinx_gallery"):
    # Examples run when the documentation is built.
    extensions.append("sphinx_gallery.gen_gallery")
    sphinx_gallery_conf = {
        "examples_dirs": "../examples",
        "gallery_dirs": "auto_examples",
        "filename_pattern": "plot_",
    }
