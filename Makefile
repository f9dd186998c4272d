# `make demo` and `make test` work from a clean clone with Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/.installed
	$(BIN)/nanogrove train quickstart train.minutes=3 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

test: .venv/.installed-test
	$(BIN)/python -m pytest

check: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nanogrove needs Python 3.11 or newer; set PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/.installed-test: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@ .venv/.installed

.PHONY: demo test check
