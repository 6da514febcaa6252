# Everything runs in .venv, which `make install` makes from a bare Python (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test torture check conformance bench docs format clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: .venv/installed ## a virtual environment with hf_cl, its tests and its linters

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install ## five sessions of real images with one small adapter, a few minutes on a CPU
	$(BIN)/hf-cl demo --output_dir runs/demo

test: install ## the test suite: no network, no GPU needed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

torture: install ## the long fault campaign: 200 kills over all five methods, broken disks and files, hostile input
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/campaign.py --kills 200
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=torture $(BIN)/pytest -n auto tests/hostile

check: install ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install ## the table of docs/performance.md, on this machine
	$(BIN)/python -m benchmarks

conformance: install ## peft's own tests on the adapter types (downloads peft's source), see docs/conformance.md
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance -n auto

format: install ## rewrite the code as the linters want it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## the documentation as a site, into site/
	$(BIN)/mkdocs build --strict --quiet

clean: ## remove the environment and what runs left
	rm -rf .venv runs build dist site .pytest_cache .ruff_cache
