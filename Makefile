# Only Python 3.11 to 3.14 must be there; `make test PYTHON=/path/to/python` picks one.
PYTHON ?=
SEED ?= 1

BIN := .venv/bin
STAMP := .venv/.stamp
SOURCES := $(wildcard vmm scenarios tests benchmarks)
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
IN_RANGE := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

.PHONY: help setup demo test test-slow matrix walker-truth bench lint format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with vmm (editable) and the development tools

# uv installs the locked versions; without uv, or without access to the locked files, pip resolves.
# Both compile what they install, or each process would where it must not keep bytecode.
$(STAMP): pyproject.toml uv.lock
	@if command -v uv >/dev/null && UV_PROJECT_ENVIRONMENT=.venv \
	    uv sync --locked --inexact --compile-bytecode $(addprefix --python ,$(PYTHON)); then exit; fi; \
	for python in $(PYTHONS); do \
	    if $$python -c '$(IN_RANGE)' 2>/dev/null; then \
	        $$python -m venv .venv && $(BIN)/pip install --editable '.[dev]'; exit; \
	    fi; \
	done; \
	echo 'vmm needs Python 3.11 to 3.14: make setup PYTHON=/path/to/python' >&2; exit 1
	@touch $@

demo: setup ## find a real KVM race under a fixed seed, then show that the fix ends it
	$(BIN)/vmm run scenarios/stale_gpte.py --bug stale-gpte --seed $(SEED); test $$? -eq 1
	$(BIN)/vmm run scenarios/stale_gpte.py --seed $(SEED)

test: lint ## lint, then run every test that is not marked slow
	$(BIN)/pytest -n auto

test-slow: setup ## run the long checks, and those by random examples with many of them
	$(BIN)/pytest -n auto -m 'slow or hypothesis' --hypothesis-profile many

matrix: setup ## look for every bug in all states, and write docs/matrix.md
	$(BIN)/vmm matrix --markdown docs/matrix.md

walker-truth: setup ## a million random accesses in each paging mode against an emulated x86
	$(BIN)/python -m tests.hw.truth

bench: setup ## run every benchmark
	@set -e; for file in $(sort $(wildcard benchmarks/[a-z]*.py)); do \
	    echo "$(BIN)/python $$file"; $(BIN)/python $$file; \
	done

lint: setup ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(SOURCES)

format: setup ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove caches and build output; .venv stays
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache $(STAMP)
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +
