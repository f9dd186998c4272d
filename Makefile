# `make demo` and `make test` work from a clean clone with Python 3.11 or newer and nothing else. Another Python, or a
# torch of your choice, before .venv exists: make test PYTHON=python3.13 TORCH='torch==2.12.*'
PYTHON ?= python3
TORCH ?= torch
BIN := .venv/bin
# Bytecode of src and tests is kept even where the environment says otherwise: without it every process compiles all anew.
TEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
KERNELS := $(wildcard src/nanogrove/native/*.[ch])
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2

demo: .venv/.installed
	$(BIN)/nanogrove train quickstart train.minutes=3 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

# With COVERAGE=1 the lines of src that the tests reach are counted: it fails below 90 %, and takes half as long again.
test: .venv/.installed-test
	$(TEST) $(if $(COVERAGE),--cov)

# What computes, again, with the instructions of a laptop alone.
test-avx2: .venv/.installed-test
	$(AVX2) $(TEST) tests/model tests/train tests/methods tests/evaluate tests/studies/test_stack.py

# The pages in Chromium, after `make browser`.
test-browser: .venv/.installed-test
	$(TEST) -m browser

# Chromium, node, and what drives pages and judges them: on Debian from its packages, as root or by sudo. Where they are
# missing `make test-browser` skips what needs them, and says so; .ci/run asks for them.
browser:
	.ci/browser

# transformers.js, by which a slow test reads exports; its scripts, which would fetch more, are not run.
npm:
	npm install --prefix .venv/npm --ignore-scripts --no-audit --no-fund @huggingface/transformers@4

docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel and the source archive in dist/, and the wheel tried in an environment that holds nothing else.
wheel: .venv/bin/python
	rm -rf dist build
	$(BIN)/python -m venv build/tool
	build/tool/bin/pip install --quiet build
	build/tool/bin/python -m build --outdir dist
	$(BIN)/python -m venv build/fresh
	build/fresh/bin/pip install --quiet dist/*.whl
	cd build/fresh && bin/python -I ../../tests/wheel_smoke.py ../../dist
	rm -rf build

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nanogrove needs Python 3.11 or newer; set PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml $(KERNELS)
	$(BIN)/pip install --quiet --editable . '$(TORCH)'
	touch $@

.venv/.installed-test: .venv/bin/python pyproject.toml $(KERNELS)
	$(BIN)/pip install --quiet --editable '.[test]' '$(TORCH)'
	touch $@ .venv/.installed

.venv/.installed-docs: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

.PHONY: demo test test-avx2 test-browser browser npm check docs wheel
