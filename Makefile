# Each target makes its own virtual environment (.venv) and installs what it needs.
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types unit bench chaos format clean

BIN := .venv/bin

help: ## show what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

venv:
	@sh scripts/venv.sh

demo: venv ## an agent is killed in the middle of a tool call, started again, and finishes
	@$(BIN)/python examples/librarian/demo.py

test: lint types unit ## everything that CI checks

lint: venv ## style, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: venv ## mypy strict and pyright strict over src
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: venv ## tests, with the coverage gates
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='src/perdure/engine/*,src/perdure/agents/*' --fail-under=95

bench: venv ## every benchmark on uvloop, one JSON line each
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file --uvloop || exit 1; done

chaos: venv ## random kills and stops under load, new seeds for the simulation, power cuts on a disk that fails
	$(BIN)/python -m pytest -m chaos tests/chaos tests/simulation tests/misfortunes -s

format: venv ## put the sources into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the targets made
	rm -rf .venv dist build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
