# `make` alone prints the targets. Everything is installed into .venv and nowhere else.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
MINUTES ?= 10
EXTRAS := app,azure,dev,docs,ray,slurm,streaming
LOCK := requirements.lock
comma := ,
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup lock train test test-all check docs format benchmark reproduce chaos fuzz dashboard explore clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## create .venv and install Opsin with its tools into it

.venv/.installed: pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; ok = (3, 11) <= v < (3, 14); ok or sys.exit(f"Opsin needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifeq ($(shell uname -s),Linux) # exact versions, whose hashes pip checks; setuptools first, with which pip builds one of them
	awk '/^[a-z]/{on=/^setuptools==/} on' $(LOCK) > .venv/setuptools.lock
	$(PIP) --require-hashes -r .venv/setuptools.lock
	$(PIP) --require-hashes --no-build-isolation -r $(LOCK)
	$(PIP) --no-deps --no-build-isolation -e .
else # the newest versions that pyproject.toml accepts, without hashes
	$(PIP) -e '.[$(EXTRAS)]'
endif
	@touch $@

lock: ## write requirements.lock anew from pyproject.toml (ARGS=--upgrade: with the newest versions)
	test -x .venv/uv/bin/uv || $(PYTHON) -m venv .venv/uv
	.venv/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv/uv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" $(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) \
		--output-file $(LOCK) --quiet $(ARGS)

train: setup ## train the default network on the bundled digits (ARGS="model=mlp ..." for anything else)
	$(BIN)/python train.py $(ARGS)

test: setup ## run the tests, without the slow ones
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m 'not slow' $(ARGS)

test-all: setup ## run every test, for half an hour and more
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

check: setup ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup ## build the documentation site into docs/_build/html, offline and strictly
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky --write-all -d docs/_build/doctrees docs docs/_build/html
	@echo "open docs/_build/html/index.html"

format: setup ## format the code and correct lint errors where ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: setup ## compare Opsin with bare PyTorch and common practice (ARGS="--write docs/benchmarks.md")
	$(BIN)/python -m benchmarks.main $(ARGS)

reproduce: setup ## run what docs/results.md and docs/mistakes.md lack (ARGS="--only mnist --data-dir DATA", --write)
	$(BIN)/python scripts/reproduce.py $(ARGS)

chaos: setup ## inject real faults into runs and print a table (ARGS="kill-digits full-disk --kills 5")
	$(BIN)/python -m tests.chaos $(ARGS)

fuzz: setup ## try random overrides, images, run files and checkpoints (MINUTES=10)
	OPSIN_FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/test_fuzzing.py $(ARGS)

dashboard: setup ## open TensorBoard on outputs/
	$(BIN)/python scripts/dashboard.py $(ARGS)

explore: setup ## open a page with convolutions step by step and the networks of your runs
	$(BIN)/python scripts/explore.py $(ARGS)

clean: ## delete caches (runs in outputs/ and data in data/ stay)
	rm -rf .mypy_cache .pytest_cache .ruff_cache build docs/_build docs/config src/*.egg-info
	find src tests scripts -name __pycache__ -type d -exec rm -rf {} +
