# Everything sets itself up: only Python >= 3.11 and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Versions are pinned in constraints.txt; what is needed is said in pyproject.toml.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help primer check test lint types docs bench clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

primer: $(VENV)/.primer  ## Solve, differentiate and certify the classic problem; writes primer.png
	$(BIN)/python -m implicax primer

# Types and shapes are checked at run time here. The rest runs without: the import hook
# alone costs a tenth of the time.
check: $(VENV)/.test  ## Run the tests of the core, in a few minutes
	$(PYTEST) -m core --jaxtyping-packages=implicax,beartype.beartype

test: check  ## Run all tests
	$(PYTEST) -m "not core"

lint: $(VENV)/.lint  ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/.docs  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.bench  ## Compare with peers and hand-written code; writes benchmarks/results/
	$(BIN)/python -m benchmarks.gradient
	$(BIN)/python -m benchmarks.decorated
	$(BIN)/python -m benchmarks.host
	$(BIN)/python -m benchmarks.programs
	$(BIN)/python -m benchmarks.lanes
	$(BIN)/python -m benchmarks.conditioning
	$(BIN)/python -m benchmarks.quadratic_programs
	$(BIN)/python -m benchmarks.nonlinear_programs --every 13
	$(BIN)/python -m benchmarks.cvxpy_layers
	$(BIN)/python -m benchmarks.equilibrium_layers
	$(BIN)/python -m benchmarks.sparse
	$(BIN)/python -m benchmarks.brusselator
	$(BIN)/python -m benchmarks.profile
	$(BIN)/python -m benchmarks.cutest

clean:  ## Remove everything that was made here
	rm -rf $(VENV) .cache site primer.png

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "implicax needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade "pip>=25.1"

# One stamp per set of dependencies, renewed when the pins or the project change.
$(VENV)/.primer: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[primer]'
	touch $@

$(VENV)/.%: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[primer]' --group $*
	touch $@

# Linting reads what every other group imports.
$(VENV)/.lint: $(VENV)/.test
	$(PIP) --group lint
	touch $@
