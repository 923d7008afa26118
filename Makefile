# The environment is .venv, made on first use; every target below makes what it needs.
#
#   make PYTHON=python3.12 ...    the interpreter that .venv is made of
#   make TORCH="torch==2.13.0 --index-url URL" ...    another build of PyTorch than pip's default, as for a CUDA version
#   make bench RESULTS=DIR        where records and the report go

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# The steps of one environment never run side by side.
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= results/local
TORCH ?= $(shell grep '^torch==' constraints.txt)
# Which tests; the slow ones and those of a GPU have targets of their own.
MARK ?= not slow
TRITON ?= triton==3.9.0
TESTS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
PACKAGES := analysis configs methods runners

.PHONY: help bench smoke bench-self report install dev docs links lint format test test-slow test-kernels test-launchers constraints clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

# A sweep with a failed job still gets its report; make then ends with the sweep's own exit code.
define sweep
@echo "kvfrontier: sweep '$(1)' into $(RESULTS)/$(1)"
@status=0; \
$(BIN)/kvfrontier run -m +sweep=$(1) results=$(RESULTS)/$(1) || status=$$?; \
$(BIN)/kvfrontier report $(RESULTS)/$(1) -o $(RESULTS)/$(1)/report || { [ $$status -ne 0 ] || status=$$?; }; \
echo; echo "records      $(CURDIR)/$(RESULTS)/$(1)"; \
echo "leaderboard  $(CURDIR)/$(RESULTS)/$(1)/report/leaderboard.md"; \
echo "report       $(CURDIR)/$(RESULTS)/$(1)/report/report.html"; \
exit $$status
endef

bench: install ## The default sweep on the embedded model, its leaderboard and report (2 cores: under 25 minutes)
	$(call sweep,quickstart)

smoke: install ## The same on a sweep of under 4 minutes
	$(call sweep,smoke)

# The peer of quantized caches lies in a folder of its own: wherever hqq is installed, transformers imports it too.
bench-self: install ## Our speed beside the library's, as ratios of one run (2 cores: 10 to 20 minutes)
	$(PIP) install --quiet --upgrade --no-deps --constraint constraints.txt --target .peers hqq einops termcolor
	PYTHONPATH=.peers $(BIN)/kvfrontier bench-self -o $(RESULTS)/bench-self

report: install ## The report of the records in RESULTS, again
	$(BIN)/kvfrontier report $(RESULTS) -o $(RESULTS)/report

install: $(VENV)/installed ## The environment in .venv, with what constraints.txt pins

dev: $(VENV)/installed-dev links ## The environment with the tools of `make test`

# Making it is safe to repeat over an environment that an interruption left half made; hence a stamp and not bin/python.
$(VENV)/created:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		"$$python" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null || continue; \
		echo "kvfrontier: environment $(VENV) of $$("$$python" --version)"; \
		"$$python" -m venv $(VENV); \
		touch $@; exit 0; \
	done; \
	echo "kvfrontier needs Python 3.11, 3.12 or 3.13 with venv (on Debian: python3-venv); $(if $(PYTHON),$(PYTHON) is none,none is on PATH)." \
		"Name one with: make PYTHON=/path/to/python3.12" >&2; exit 2

# PyTorch first: where several builds exist, the one that is installed satisfies what the rest asks for.
$(VENV)/installed: $(VENV)/created constraints.txt pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt setuptools
	$(PIP) install --constraint constraints.txt $(TORCH)
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

# The figures of its pages are made, and measured, when it is built.
docs: install links ## The documentation, into site/; strict
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Type checkers do not follow an editable install's import hook; they follow these links. Pyright skips hidden folders
# below a project's root, so .links is the root of a project of its own.
links:
	@mkdir -p .links/kvfrontier .links/hydra_plugins
	@for package in $(PACKAGES); do ln -sfn ../../$$package .links/kvfrontier/$$package; done
	@ln -sfn ../../kvfrontier/__init__.py .links/kvfrontier/__init__.py
	@ln -sfn ../../kvfrontier/py.typed .links/kvfrontier/py.typed
	@ln -sfn ../../runners/hydra_plugin .links/hydra_plugins/kvfrontier
	@ln -sfn ../tests .links/tests
	@printf '{"extends": "../pyproject.toml", "extraPaths": ["."], "include": ["kvfrontier", "tests"%s]}\n' \
		"$$(printf ', "kvfrontier/%s"' $(PACKAGES))" > .links/pyrightconfig.json

lint: dev ## Ruff and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project .links

format: dev ## What ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests are small and torch runs them on one thread each, so they share the cores; beyond four workers importing
# torch costs more than they save.
test: lint ## Everything that runs without a GPU: lint, types, tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "$(MARK)" $(TESTS)

# What some of them are compared with is heavy, and belongs to extras.
test-slow: dev ## The tests that take minutes each, and nothing else
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,lm_eval,benchmarks]'
	$(MAKE) test MARK="slow and not launchers"

# What they need lies in a folder of its own, as the extras joblib, submitit, ray and tensorboard would bring it,
# less clouds and dashboards: the environment keeps its versions.
test-launchers: dev ## Hydra's launchers and other trackers, on a real Slurm and a real Ray (fetches ray, 420 MB)
	$(PIP) install --quiet --upgrade --no-deps --no-compile --target .launchers --requirement tests/launchers/requirements.txt
	PYTHONPATH=.launchers $(BIN)/python -m pytest -m launchers tests/launchers tests/runners/tracker

# Triton in a folder of its own: beside the CPU build of torch nothing else needs its 270 MB. Its interpreter runs the
# kernels on the CPU, and its compiler makes them for a GPU that need not be there.
test-kernels: dev ## The Triton kernels, interpreted on the CPU and compiled for a GPU (fetches triton, 270 MB)
	$(PIP) install --quiet --upgrade --no-deps --target .triton $(TRITON)
	TRITON_INTERPRET=1 PYTHONPATH=.triton $(BIN)/python -m pytest tests/methods/kernels
	PYTHONPATH=.triton $(BIN)/python -m pytest -m slow tests/methods/kernels/test_compiled.py

constraints: dev ## Pin in constraints.txt what .venv holds
	@{ head -2 constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable | grep -viE '^(pip|nvidia-.*|triton)==' \
		| sed 's/+[a-z0-9]*$$//'; } > .constraints.new
	@mv .constraints.new constraints.txt

clean: ## Remove .venv, the links and the caches; results stay
	rm -rf $(VENV) site .peers .launchers .triton .links build dist .pytest_cache .ruff_cache
