# Each target makes its own virtual environment first; nothing but Python is needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all budget lint doc release-check clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## find topics in installed docstrings, with plots (2 minutes)
	$(BIN)/python examples/plot_topics_of_docstrings.py

test: $(VENV)/.installed-test lint  ## lint, tests and doctests
	$(BIN)/python -m pytest -n auto --dist loadfile
	$(BIN)/python -m pytest -n auto --dist loadfile --doctest-modules skdeepfactor \
		--ignore=skdeepfactor/_math/kernels.py  # no examples, and numba may be missing

test-all: $(VENV)/.installed-test lint  ## the slow tests too, and many examples (an hour)
	HYPOTHESIS_PROFILE=most $(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow"

budget: $(VENV)/.installed-test  ## CPU seconds of the tests, by entry of ESTIMATORS
	$(BIN)/python -m pytest -n auto --dist loadfile --budget

lint: $(VENV)/.installed-test  ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

doc: $(VENV)/.installed-doc  ## the documentation, in doc/_build/index.html
	$(BIN)/sphinx-build -W --keep-going doc doc/_build
	@echo "Open doc/_build/index.html"

release-check: $(VENV)/.installed-test  ## whether the last commit could be released
	$(BIN)/python .ci/release_check.py

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[plot,progress]"
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.installed-doc: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[doc]"
	touch $@

clean:  ## remove everything that these targets made
	rm -rf $(VENV) build dist *.egg-info doc/_build doc/generated doc/auto_examples
