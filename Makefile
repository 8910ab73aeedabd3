# What a contributor does here; `make` alone prints it. Needs git, make and Python >= 3.10, nothing else.

PYTHON  ?= python3
WORKERS ?= auto
ARGS    ?=

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
# The tests start hundreds of interpreters; where this is set, each of them compiles every module of the workspace anew.
unexport PYTHONDONTWRITEBYTECODE

BIN      := .venv/bin
# Every directory under callbacks/ and plugins/ that is a package is part of the workspace, without being listed here.
MEMBERS  := $(patsubst %/pyproject.toml,%,$(sort $(wildcard callbacks/*/pyproject.toml plugins/*/pyproject.toml)))
INPUTS   := Makefile constraints.txt pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS))
# Named by content, not by time: switching branches there and back reinstalls exactly when it must.
STAMP    := .venv/installed-$(shell cat $(INPUTS) | cksum | tr ' ' '-')
PIP      := $(BIN)/python -m pip --disable-pip-version-check
OLDEST   := .oldest
OLDEST_LIGHTNING := 2.5.0
OLDEST_STAMP     := $(OLDEST)/lightning-$(OLDEST_LIGHTNING)
PYTEST   := $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist worksteal
BENCHMARKS = $(shell grep -l '__main__' benchmarks/*.py 2>/dev/null)

##@ Use
help: ## Print this list
	@awk 'BEGIN { FS = ":.*## "; printf "make TARGET [ARGS=...]\n" } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nExamples\n'
	@printf '  make test ARGS="tests/cli -k list"      some of the tests\n'
	@printf '  make test ARGS="-m \047not slow\047"         the quick ones\n'
	@printf '  make install PYTHON=python3.12          another interpreter, for a new .venv\n'

install: $(STAMP) ## Create .venv with the workspace in it, editable; at once when nothing changed

demo: install ## Train a real network plain, with SAM and with ASAM, and compare them
	$(BIN)/thunderstone demo $(ARGS)

##@ Check
test: install ## Run the whole test suite in parallel (WORKERS=2 to limit it)
	$(PYTEST) $(PARALLEL) $(ARGS)

test-oldest: install $(OLDEST_STAMP) ## Run what relies on Lightning's internals against the oldest supported Lightning
	PYTHONPATH=$(CURDIR)/$(OLDEST) $(PYTEST) -m private_api -o filterwarnings=default -p no:cacheprovider $(ARGS)

browser: ## Install Chromium for the tests that open pages, where that needs no password
	@.ci/browser

lint: install ## Check style, formatting and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: install ## Correct style and formatting where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## Check the types of every package (mypy --strict)
	$(BIN)/mypy

docs: install ## Build the documentation into site/, and check its links, code and generated tables
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(PYTEST) $(PARALLEL) tests/workspace/test_documents.py tests/workspace/documents $(ARGS)

docs-serve: install ## Show the documentation at http://127.0.0.1:8000, built anew with every change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve $(ARGS)

docs-update: install ## Rewrite the generated tables of the documentation
	$(BIN)/python -m thunderstone.reference.methods_table README.md
	$(BIN)/python -m thunderstone.reference.contract_page docs/contract.md
	$(BIN)/python -m thunderstone.reference.composition_matrix docs/composition.md

coverage: install ## Run the test suite and show which lines it leaves out
	$(PYTEST) $(PARALLEL) --cov --cov-report=term $(ARGS)

bench: install ## Run the benchmarks one after the other (long; wants an idle machine)
	@test -n "$(BENCHMARKS)" || { echo "There is no benchmark in benchmarks/." >&2; exit 1; }
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

##@ Tidy
clean: ## Remove the environment and everything that tools have written
	rm -rf .venv $(OLDEST) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis htmlcov site
	rm -f .coverage .coverage.*
	find src callbacks plugins tests benchmarks examples -type d -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help install demo test test-oldest browser lint format types docs docs-serve docs-update coverage bench clean

# -- how the environment is made ---------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Thunderstone needs Python >= 3.10, and '$(PYTHON)' is not. HINT: make install PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv --clear .venv || { \
	  echo "This Python cannot put pip into a new environment; fetching pip from PyPI instead."; \
	  $(PYTHON) -m venv --clear --without-pip .venv && .venv/bin/python .ci/bootstrap_pip.py; } || { \
	  rm -rf .venv; exit 1; }

# The build backend comes first and under the same constraints, so that building needs no environment of its own.
# The stamp lists what is installed: a package that has since left the tree (another branch) is taken out again.
$(STAMP): $(BIN)/python
	@$(PIP) install --quiet --constraint constraints.txt 'pip>=25.1' hatchling editables
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --group dev \
	  --editable '.[demo,testing]' $(addprefix --editable ./,$(MEMBERS))
	@sed -n 's/^name = "\(thunderstone[a-z-]*\)"/\1/p' pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS)) > .venv/members
	@cat .venv/installed-* 2>/dev/null | grep -vxFf .venv/members | xargs -r $(PIP) uninstall --quiet --yes
	@rm -f .venv/installed-*
	@mv .venv/members $@

$(OLDEST_STAMP): | $(STAMP)
	@rm -rf $(OLDEST)
	$(PIP) install --quiet --target $(OLDEST) --no-deps \
	  lightning==$(OLDEST_LIGHTNING) pytorch-lightning==$(OLDEST_LIGHTNING)
	@touch $@
