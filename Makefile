# Everything a developer types. `make demo` and `make test` set up what they need by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help venv demo test e2e soak lint format bench dist lock clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

venv: $(STAMP) ## A virtual environment with the pinned development packages

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv ## Three control planes and a late VIP on loopback, and a real bootstrap against them (no root)
	@$(BIN)/python -m tests.demo

test: venv ## Every test this machine can run; names what is skipped and why
	$(BIN)/python -m pytest

e2e: venv dist ## Boots systemd, runs real kube-apiservers (root; see tests/e2e)
	$(BIN)/python -m pytest tests/e2e

SOAK ?= --seconds 120
soak: venv ## Random faults under two workers, with invariants checked; SOAK="--seconds 3600 --seed 42"
	$(BIN)/python -m tests.soak $(SOAK)

lint: venv ## ruff (lint and format), strict mypy, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## Put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv ## Measurements side by side; prints tables
	$(BIN)/python -m tests.bench

dist: venv ## A wheel, an sdist, and dist/apiha.pyz: one file that runs with nothing but python3
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python tools/pyz.py dist/apiha.pyz

# With hashes, for every platform and every Python from 3.10 on. The smaller ones name the same versions as the big one.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-emit-index-url
lock: ## Write the lock files anew from pyproject.toml; with UPGRADE=--upgrade, the newest versions
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) $(UPGRADE) --extra updater --group dev pyproject.toml -o requirements-dev.lock
	$(LOCK) --no-annotate -c requirements-dev.lock --extra updater pyproject.toml -o requirements-updater.lock
	$(LOCK) --no-annotate -c requirements-dev.lock --group wheel -o requirements-wheel.lock

clean: ## Remove what the targets above made
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
