# Needs Python 3.10 or newer and make. Everything else is installed into .venv, at the versions in constraints.txt.
PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist worksteal

BIN := .venv/bin
PIP_INSTALL := python -m pip install --quiet --quiet --constraint constraints.txt

EXTRAS_demo := demo,conf,report
EXTRAS_test := test
EXTRAS_dev := dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo compare test soak check check-rest format lint types docs wheel fix clean

# Nothing is fetched from a model hub, no window is opened, no forked tokenizer complains.
export HF_HUB_OFFLINE := 1
export MPLBACKEND := Agg
export TOKENIZERS_PARALLELISM := false
unexport PYTHONPATH

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: export OMP_NUM_THREADS := 1
demo: .venv/.installed-demo ## Train on digits with and without rehearsal, then draw the report
	$(BIN)/mixcd-train -m experiment=digits
	$(BIN)/mixcd-report demo

compare: export OMP_NUM_THREADS := 1
compare: .venv/.installed-demo ## Compare all methods on digits at equal compute, then draw the report
	$(BIN)/mixcd-train -m experiment=compare_all hydra/launcher=joblib
	$(BIN)/mixcd-report compare/digits

# One thread per process: two test processes share two cores.
test: export OMP_NUM_THREADS := 1
test: .venv/.installed-test ## Run every test, doctest, documented code block and example
	$(BIN)/python -m pytest --doctest-modules $(PYTEST_ARGS) lightning_mixcd tests

# Killed workers leave semaphores behind, which Python would warn of at the end.
soak: export OMP_NUM_THREADS := 1
soak: .venv/.installed-test ## Kill and resume runs at random for some minutes (SOAK_ARGS="--seed 1")
	$(BIN)/python -W ignore -m tests.soak $(SOAK_ARGS)

check: check-rest test ## Run everything that must pass: format, lint, types, docs, wheel, tests

check-rest: format lint types docs wheel ## Run everything of `check` but the tests

format: .venv/.installed-dev ## Say which files are not formatted
	$(BIN)/ruff format --check .

lint: .venv/.installed-dev ## Lint
	$(BIN)/ruff check .

types: .venv/.installed-dev ## Check types
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/.installed-dev ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

# The plain wheel must import without any extra; the console scripts must find their configs from any folder.
wheel: .venv/.installed-dev ## Build the wheel and try it in an environment of its own
	rm -rf .whl
	$(BIN)/python -m build --outdir .whl/dist
	$(PYTHON) -m venv .whl/venv
	.whl/venv/bin/$(PIP_INSTALL) .whl/dist/*.whl
	mkdir .whl/elsewhere && cd .whl/elsewhere && ../venv/bin/python -c "import lightning_mixcd"
	wheel=$$(echo .whl/dist/*.whl) && .whl/venv/bin/$(PIP_INSTALL) "$${wheel}[conf,report]"
	cd .whl/elsewhere && for script in mixcd-train mixcd-record mixcd-report; do \
	  echo "$$script --help" && ../venv/bin/$$script --help > help.txt || exit 1; \
	done

fix: .venv/.installed-dev ## Format and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets wrote, but for .venv
	rm -rf .whl build dist site demo compare outputs multirun lightning_logs checkpoints .coverage
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/.installed-%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing the extras $(EXTRAS_$*) into .venv"
	$(BIN)/$(PIP_INSTALL) --editable '.[$(EXTRAS_$*)]'
	@touch $@
