# make demo    .venv, install, the whole loop on the CPU, a report (ARGS="--resume" goes on, ARGS="--preset smoke" is small)
# make test    .venv, install with test extras, the tests (ARGS="-k images" for some of them)
# make check   ruff, pyright, import-linter
# make clean   remove .venv and caches (never runs/)

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

# Waiting threads spin for a moment, then sleep (why: cli/main.py), and tests never ask the network for a model.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 30000
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check clean

demo: .venv/.installed
	$(BIN)/edit-r1 demo $(ARGS)

test: .venv/.installed-test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(ARGS)

check: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist src/*.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -e .
	touch $@

.venv/.installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -e '.[test]'
	touch .venv/.installed $@
