# Nothing is needed but Python 3.11 or later and make: everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --editable
# Before a command that says nothing for minutes: a line every few seconds shows that it is at work. The command takes the
# place of its shell, whose number tells the loop within a second when to end.
EVERY ?= 5
SIGNS_OF_LIFE = @{ s=0; while sleep 1 && kill -0 $$$$; do \
	s=$$((s + 1)); if [ $$((s % $(EVERY))) = 0 ]; then echo "Installing for $$s s"; fi; done; } 2>/dev/null & exec

# Tests start hundreds of processes, which would all compile the modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install map web web-check docs notebooks test test-rapids lint bench clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s  %s\n", $$1, $$2 }' Makefile

install: .venv/plot.stamp ## Install nomad-dask into .venv
	@echo "Installed: $(BIN)/nomad-dask"

map: .venv/plot.stamp ## Make a map of the documentation on this machine, in demo/
	$(BIN)/nomad-dask demo

web: web/node_modules/.package-lock.json ## Build the page of exported sites (needs Node 20 and npm)
	cd web && npm run --silent check && npm run --silent build

web-check: web/node_modules/.package-lock.json ## Check types and style of the page, and run its unit tests (needs Node 20 and npm)
	cd web && npm run --silent check

docs: .venv/docs.stamp ## Build the site of the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

notebooks: .venv/dev.stamp ## Run the notebooks and keep what they show
	$(BIN)/python -m notebooks.run

# Four processes on two cores too: the longest tests mostly wait.
test: .venv/dev.stamp ## Run the tests
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

test-rapids: .venv-rapids/rapids.stamp ## Check what we call in RAPIDS, in .venv-rapids (5 GB)
	.venv-rapids/bin/python -m pytest tests/backends/gpu/test_contract_*.py tests/backends/test_devices.py tests/backends/test_optional_packages.py

lint: .venv/dev.stamp ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/numpydoc lint $$(git ls-files 'nomad_dask/*.py')

bench: .venv/bench.stamp ## Measure kernels, and compare with openTSNE, UMAP and PaCMAP (long)
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.compare

clean: ## Remove .venv, caches and the demo
	rm -rf .venv .venv-rapids demo site .mypy_cache .ruff_cache .pytest_cache

# A stamp is newer than pyproject.toml when the environment holds what that asks for.
.venv/python.stamp:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or later, or name it, as in make PYTHON=python3.12 map" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or later is needed, $(PYTHON) is {v[0]}.{v[1]}: name another, as in make PYTHON=python3.12 map")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/plot.stamp: .venv/python.stamp pyproject.toml
	@echo "Installing into .venv: this takes a minute or two."
	$(SIGNS_OF_LIFE) $(PIP) '.[plot]'
	@touch $@

.venv/dev.stamp: .venv/python.stamp pyproject.toml
	@echo "Installing into .venv: this takes a minute or two."
	$(SIGNS_OF_LIFE) $(PIP) '.[dev]'
	@touch $@ .venv/plot.stamp

.venv/docs.stamp: .venv/plot.stamp
	$(SIGNS_OF_LIFE) $(PIP) '.[docs]'
	@touch $@

.venv/bench.stamp: .venv/dev.stamp
	$(SIGNS_OF_LIFE) $(PIP) '.[dev,bench]'
	@touch $@

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --silent --no-audit --no-fund
	@touch $@

# RAPIDS imports, and says what it takes, on a machine without a GPU too.
.venv-rapids/rapids.stamp: pyproject.toml
	@test "$$(df -Pk . | awk 'NR == 2 { print $$4 }')" -gt 8000000 || { echo "RAPIDS needs 8 GB of disk here, less is free" >&2; exit 1; }
	@echo "Installing RAPIDS into .venv-rapids: this takes a few minutes."
	$(PYTHON) -m venv .venv-rapids
	$(SIGNS_OF_LIFE) .venv-rapids/bin/python -m pip install --quiet --editable '.[gpu-cu13,test]'
	@touch $@
