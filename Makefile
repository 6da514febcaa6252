# Everything runs in .venv, which `make install` makes from a bare Python (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test test-minimum test-newest torture check conformance bench gpu docs dist format clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: .venv/installed ## a virtual environment with hf_cl, its tests and its linters

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install ## five sessions of real images with one small adapter, a few minutes on a CPU
	$(BIN)/hf-cl demo --output_dir runs/demo

test: install ## the test suite: no network, no GPU needed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-minimum: install ## the suite with the lowest versions that pyproject.toml allows, in an environment of its own
	$(BIN)/uv venv --quiet --clear --seed --python $(BIN)/python .venv-minimum
	$(BIN)/uv pip install --quiet --python .venv-minimum --resolution lowest-direct --editable '.[test]'
	OMP_NUM_THREADS=1 .venv-minimum/bin/pytest -n auto --dist worksteal $(TESTS)

test-newest: install ## the suite with the newest releases, ceilings lifted, in an environment of its own
	$(BIN)/uv venv --quiet --clear --seed --python $(BIN)/python .venv-newest
	$(BIN)/uv pip install --quiet --python .venv-newest --editable '.[test]'
	$(BIN)/uv pip install --quiet --python .venv-newest --upgrade --no-deps transformers peft accelerate datasets huggingface-hub
	OMP_NUM_THREADS=1 .venv-newest/bin/pytest -n auto --dist worksteal $(TESTS)

torture: install ## the long fault campaign: 200 kills over all five methods, broken disks and files, hostile input
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/campaign.py --kills 200
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=torture $(BIN)/pytest -n auto tests/hostile
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

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

gpu: ## on a machine with a CUDA device: its tests and its rows of docs/performance.md, under ten minutes, without network; installs nothing
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.on_a_gpu

docs: install ## the documentation as a site, into site/
	$(BIN)/mkdocs build --strict --quiet

dist: install ## wheel and source archive, looked at by twine, into dist/
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

clean: ## remove the environments and what runs left
	rm -rf .venv .venv-minimum .venv-newest runs build dist site .pytest_cache .ruff_cache
