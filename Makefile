# Everything a developer types. `make demo` and `make test` set up what they need by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help venv demo test test-bare test-pythons e2e e2e-cluster e2e-cluster-full soak lint lint-style lint-types \
	lint-imports lint-version format bench bench-failover bench-fleet bench-maintenance docs docs-serve dist pyz deb release chart lock clean \
	ansible lint-ansible
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

venv: $(STAMP) ## A virtual environment with the pinned development packages

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv ## Three control planes and a late VIP on loopback, and a real bootstrap against them (no root)
	@$(BIN)/python -m tests.demo

# TESTS="tests/unit -k name" runs some of them; COVERAGE=1 measures branches, those of the processes too, and prints them.
test: venv ## Every test this machine can run; names what is skipped and why
	$(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=term) $(TESTS)

test-bare: ## The unit tests without the updater's packages, as on a node
	@$(MAKE) --no-print-directory venv VENV=.venvs/bare
	.venvs/bare/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes prometheus-client
	.venvs/bare/bin/python -m pytest -q tests/unit

test-pythons: ## `make test` with each Python from 3.10 to 3.14 that is found; names those that are missing
	$(PYTHON) tools/pythons.py

HELM := $(VENV)/.helm
e2e: venv $(HELM) ## Boots systemd, runs real kube-apiservers (root; see tests/e2e)
	$(BIN)/python -m tools.dist pyz deb
	$(BIN)/python -m pytest $(or $(TESTS),tests/e2e)

$(HELM): requirements-helm.lock $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-helm.lock
	@touch $@

e2e-cluster: venv ## A genuine kubeadm cluster on machines of its own (root; see tests/cluster)
	$(BIN)/python -m tools.dist pyz deb
	$(BIN)/python -m pytest $(or $(TESTS),tests/cluster) -m "not full"

e2e-cluster-full: venv ## The same with every scenario
	$(BIN)/python -m tools.dist pyz deb
	$(BIN)/python -m pytest $(or $(TESTS),tests/cluster)

SOAK ?= --seconds 120
soak: venv ## Random faults under two workers, with invariants checked; SOAK="--seconds 3600 --seed 42"
	$(BIN)/python -m tests.soak $(SOAK)

lint: lint-style lint-types lint-imports lint-version ## ruff, strict mypy, who may import whom, one version everywhere

lint-style: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: venv
	$(BIN)/mypy

lint-imports: venv
	$(BIN)/lint-imports --no-logo

lint-version: venv
	$(BIN)/python tools/version.py

ANSIBLE := .venvs/ansible
ansible: $(ANSIBLE)/.installed ## ansible-core and ansible-lint in a virtual environment of their own, for deploy/ansible

$(ANSIBLE)/.installed: requirements-ansible.lock
	$(PYTHON) -m venv --clear $(ANSIBLE)
	$(ANSIBLE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-ansible.lock
	@touch $@

lint-ansible: ansible ## The Ansible role by ansible-lint's strictest profile, offline
	cd deploy/ansible && PATH=$(CURDIR)/$(ANSIBLE)/bin:$$PATH ansible-lint --offline --strict --profile production

format: venv ## Put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv ## Measurements side by side; prints tables
	$(BIN)/python -m tests.bench

bench-failover: venv ## The failover of apiha and its rivals side by side; writes docs/failover.md and .svg (root)
	$(BIN)/python -m tests.bench.failover --write docs

bench-maintenance: venv ## A rolling restart of control planes under load; writes docs/maintenance-measured.md (root)
	$(BIN)/python -m tests.bench.maintenance --write docs

bench-fleet: venv ## Fleets of 10 to 100,000 workers, simulated; 60 real ones (root); writes docs/scale.md and its plots
	$(BIN)/python -m tests.bench.fleet --processes 60 --write docs

DOCS := .venvs/docs
docs: $(DOCS)/.installed ## The documentation as a site in build/site; each link is checked
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs --quiet build --strict --clean
	$(DOCS)/bin/python tools/docs_check.py build/site

docs-serve: $(DOCS)/.installed ## The same on http://127.0.0.1:8000, made anew when a page changes
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs serve --strict

$(DOCS)/.installed: requirements-docs.lock
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

dist: venv ## What a release consists of: wheel, sdist, apiha.pyz, .deb, image, SBOMs, SHA256SUMS
	$(BIN)/python -m tools.dist
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz

pyz: venv ## dist/apiha.pyz alone: one file that runs with nothing but python3
	$(BIN)/python -m tools.dist pyz

deb: venv ## dist/apiha_VERSION_all.deb alone
	$(BIN)/python -m tools.dist deb

release: venv ## VERSION=X.Y.Z: the version, the changelog, a commit, the artifacts, a tag; prints what is left to do
	$(BIN)/python -m tools.release $(VERSION)

chart: venv ## Write the Helm chart's templates from those of `apiha manifests`
	$(BIN)/python -m tools.chart

# With hashes, for every platform and every Python from 3.10 on. The smaller ones name the same versions as the big one.
# Extras stay in the pins: with hashes pip (23.2 at least) looks for `coverage[toml]` apart from `coverage`, and takes the newest.
LOCK := $(BIN)/uv pip compile --quiet --universal --no-strip-extras --python-version 3.10 --generate-hashes --no-header --no-emit-index-url
lock: ## Write the lock files anew from pyproject.toml; with UPGRADE=--upgrade, the newest versions
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) $(UPGRADE) --extra updater --group dev pyproject.toml -o requirements-dev.lock
	$(LOCK) --no-annotate -c requirements-dev.lock --extra updater pyproject.toml -o requirements-updater.lock
	$(LOCK) --no-annotate -c requirements-dev.lock pyproject.toml -o requirements-node.lock
	$(LOCK) --no-annotate -c requirements-dev.lock --group wheel -o requirements-wheel.lock
	$(LOCK) $(UPGRADE) --no-annotate --group docs -o requirements-docs.lock
	$(LOCK) $(UPGRADE) --no-annotate --group helm -o requirements-helm.lock
	$(subst 3.10,3.11,$(LOCK)) $(UPGRADE) --no-annotate --group ansible -o requirements-ansible.lock

clean: ## Remove what the targets above made
	rm -rf $(VENV) .venvs dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
