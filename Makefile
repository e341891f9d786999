# Every target works as the first command typed on a fresh machine: the ones that run code make .venv first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# The first that runs and is new enough; a name on PATH may be a shim without a Python behind it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
# torch for CPUs where no NVIDIA driver is (auto), always (cpu), or PyPI's build, which runs on both (default).
TORCH ?= auto
CONFIG ?= flows/configs/demo.toml
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Processes that run tests. One more than cores, since many tests wait for others; at most eight, each takes 2 GB.
TESTERS ?= $(shell $(BIN)/python -c 'import os; print(min(8, os.cpu_count() + 1))')
# Torch sizes its thread pool from the machine; tests start several processes, so each gets one thread.
# Processes that tests start would compile our modules each time where Python is told to write none.
TEST_ENV := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false

.PHONY: help install demo run ui proposals mine finetune bundle eval demo-results paper-tables recipe-table namer-table finetune-table status test test-lowest test-gpu lint format bench docs constraints clean

help:  ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make .venv and install the project with its pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer runs here; install one or set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python tools/install_torch.py $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## Run all stages on drawn pictures; show a table, a report and a picture
	$(BIN)/ovseg demo --config $(CONFIG)

run: $(STAMP)  ## Do all of CONFIG that is not done, from data sets to scores, as a Prefect flow
	$(BIN)/ovseg run --config $(CONFIG)

ui: $(STAMP)  ## Show runs and results on Prefect's pages, http://127.0.0.1:4200
	$(BIN)/ovseg ui

proposals: $(STAMP)  ## Stage 1: train the proposal net of CONFIG (flows/configs/demo.toml)
	$(BIN)/ovseg train-proposals --config $(CONFIG)

mine: $(STAMP)  ## Stage 2: mine pairs of masks and nouns of CONFIG (flows/configs/demo.toml)
	$(BIN)/ovseg mine --config $(CONFIG)

finetune: $(STAMP)  ## Adapt CLIP to masked crops with the pairs of CONFIG
	$(BIN)/ovseg finetune --config $(CONFIG)

bundle: $(STAMP)  ## Put the nets of CONFIG into a folder for 'ovseg segment' (OUT=models/demo)
	$(BIN)/ovseg bundle --config $(CONFIG) --out $(or $(OUT),models/$(basename $(notdir $(CONFIG))))

eval: $(STAMP)  ## Evaluate CONFIG on its labelled data sets and write the report (ABLATE=1: the ablations too)
	$(BIN)/ovseg evaluate --config $(CONFIG) $(if $(ABLATE),--ablate)

demo-results: demo  ## Put the demo's table and picture into README.md and docs
	$(BIN)/python -m tools.write_demo_results --config $(CONFIG)

paper-tables: $(STAMP)  ## Measure the paper's tables 2 to 6 on the drawn world (hours; goes on where it stopped)
	$(BIN)/python -m tools.measure_paper_tables --out $(or $(OUT),runs/paper-tables)
	cp $(or $(OUT),runs/paper-tables)/results.jsonl docs/results/drawn_world_results.jsonl
	$(BIN)/python -m tools.measure_paper_tables --out $(or $(OUT),runs/paper-tables) --write docs/results/drawn_world_results.md

recipe-table: $(STAMP)  ## Measure recipes of stage 3 on three sources of pairs (hours; goes on where it stopped)
	$(BIN)/python -m tools.measure_recipes --out $(or $(OUT),runs/recipe-table)
	cp $(or $(OUT),runs/recipe-table)/results.jsonl docs/results/recipe_results.jsonl
	$(BIN)/python -m tools.measure_recipes --out $(or $(OUT),runs/recipe-table) --write docs/results/drawn_world_results.md

namer-table: $(STAMP)  ## Measure one pass beside crops on the drawn world (an hour; goes on where it stopped)
	$(BIN)/python -m tools.measure_namers --out $(or $(OUT),runs/namer-table)
	cp $(or $(OUT),runs/namer-table)/results.jsonl docs/results/namer_results.jsonl
	$(BIN)/python -m tools.measure_namers --out $(or $(OUT),runs/namer-table) --write docs/results/drawn_world_results.md

finetune-table: $(STAMP)  ## Measure the orders of FT and MPT on the drawn world (hours; goes on where it stopped)
	$(BIN)/python -m tools.measure_finetuning --out $(or $(OUT),runs/finetune-table)
	$(BIN)/python -m tools.measure_finetuning --out $(or $(OUT),runs/finetune-table) --write docs/results/finetuning_table.md
	cp $(or $(OUT),runs/finetune-table)/results.jsonl docs/results/finetuning_results.jsonl

status: $(STAMP)  ## Show what is complete, stale, missing or corrupt of CONFIG (flows/configs/demo.toml)
	$(BIN)/ovseg status --config $(CONFIG)

test: $(STAMP)  ## Run the tests in several processes (TESTERS=0: in one)
	$(TEST_ENV) $(BIN)/python -m pytest --numprocesses $(TESTERS) --dist worksteal

test-lowest:  ## Run the tests (TESTS=tests) with the lowest version of each dependency, in build/lowest (7 GB; needs uv)
	@command -v uv > /dev/null || { echo "uv is not installed; run: pip install uv"; exit 1; }
	uv venv --quiet --clear --python $(PYTHON) build/lowest
	uv pip compile --quiet --resolution lowest-direct --python $(PYTHON) --extra dev pyproject.toml --output-file build/lowest/lowest.txt
	uv pip install --python build/lowest/bin/python --requirement build/lowest/lowest.txt
	uv pip install --python build/lowest/bin/python --no-deps --editable .
	$(TEST_ENV) build/lowest/bin/python -m pytest $(or $(TESTS),tests)

# cuBLAS adds up in a fixed order only with a workspace of its own, which is chosen before CUDA starts.
test-gpu: $(STAMP)  ## Check parity, resume, processes and memory on this machine's GPUs; prints a report for an issue
	CUBLAS_WORKSPACE_CONFIG=:4096:8 $(TEST_ENV) $(BIN)/python -m pytest tests/gpu -m gpu --device $(or $(DEVICE),cuda)

lint: $(STAMP)  ## Check style, docstrings, types, layers, cycles, dependencies and size limits
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_size_limits.py
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/mypy

format: $(STAMP)  ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Run the benchmarks; each prints ratios measured in one run
	$(BIN)/python -m tests.benchmarks

docs: $(STAMP)  ## Write the pages that are made from the code, and build the site of docs in build/site
	$(BIN)/python -m tools.write_settings_docs
	$(BIN)/python -m tools.write_contracts_docs
	$(BIN)/python -m tools.write_dataflow_docs
	$(BIN)/python -m tools.write_commands_docs
	$(BIN)/python -m tools.build_site

constraints: $(STAMP)  ## Write constraints.txt from what .venv holds
	$(BIN)/python -m tools.write_constraints

clean:  ## Remove caches; .venv and runs/ stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
