# GNU make 4.3. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
RECIPE := pyproject.toml constraints.txt
# Stamps: installing again is needed only after the recipe has changed.
RUNTIME := $(VENV)/.installed
TESTING := $(VENV)/.installed-test

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all bench lint format clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(TESTING)  ## make .venv and install everything that the tests need

demo: $(if $(wildcard $(TESTING)),$(TESTING),$(RUNTIME))  ## train on the shipped mails and clips, evaluate, draw the curves
	$(BIN)/temporal train mails --out runs/demo --resume --evaluation.num_settings 8
	$(BIN)/temporal evaluate runs/demo
	$(BIN)/temporal plot runs/demo --out runs/demo/curve.png
	$(BIN)/temporal train clips --out runs/clips --resume --evaluation.num_settings 6
	$(BIN)/temporal evaluate runs/clips
	$(BIN)/temporal plot runs/clips --out runs/clips/curve.png
	$(BIN)/temporal strips runs/clips --out runs/clips/strips.png
	$(BIN)/temporal score runs/clips data/samples/doom/test --frames 8 --out runs/clips/scores.parquet

test: lint  ## lint, types, layers, and every test that is not slow
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint  ## the same with the slow tests
	$(BIN)/python -m pytest -n 2

bench: $(TESTING)  ## time and memory against rivals; on a machine that does nothing else
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.skipping
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.fetching

lint: $(TESTING)  ## lint, format, types and layers only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(TESTING)  ## mend format and imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove caches and what builds leave; .venv and runs stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find agents configs data temporal tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "setup: python, got $$($(PYTHON) --version 2>&1); expected Python 3.11 or newer (make PYTHON=... names another)" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "setup: $(PYTHON) -m venv failed; expected a Python with venv and pip" >&2; \
	  exit 1; }

# The interpreter is order-only: its date says nothing of what is installed.
$(RUNTIME): $(RECIPE) | $(BIN)/python
	@echo "installing into $(VENV); the first time takes a few minutes"
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(TESTING): $(RECIPE) | $(BIN)/python
	@echo "installing into $(VENV), with what the tests need; the first time takes a few minutes"
	@$(PIP) --constraint constraints.txt --editable '.[test]'
	@touch $@
