"""Build with setuptools, by pyproject.toml; only the description is made here."""

import re
from pathlib import Path

from setuptools import setup

readme = Path(__file__).with_name("README.rst").read_text(encoding="utf-8")
# A package index shows neither pictures nor pages by paths in the repository.
readme = re.sub(r"\.\. image:: doc/.*\n(?: +:.*\n)*\n", "", readme)
readme = re.sub(r"`([^`<]+) <doc/[^>]+>`__", r"\1", readme)

setup(long_description=readme, long_description_content_type="text/x-rst")
