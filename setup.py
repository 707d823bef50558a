"""Build with setuptools; everything is said in pyproject.toml."""

from setuptools import setup

setup()
