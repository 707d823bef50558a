# Each target makes its own virtual environment first; nothing but Python is needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint doc clean

demo: $(VENV)/.installed
	$(BIN)/python examples/plot_topics_of_docstrings.py

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -n auto
	$(BIN)/python -m pytest --doctest-modules skdeepfactor

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

doc: $(VENV)/.installed-doc
	$(BIN)/sphinx-build -W --keep-going doc doc/_build
	@echo "Open doc/_build/index.html"

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

clean:
	rm -rf $(VENV) build dist *.egg-info doc/_build doc/generated doc/auto_examples
