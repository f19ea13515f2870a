# Every target sets up .venv if it is missing or older than requirements.txt or pyproject.toml.
# `make help` lists the targets; `make PYTHON=python3.12 test` chooses the Python of a new .venv.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Tests start hundreds of processes; each would compile every module that it imports anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test test-all test-slurm coverage lint chaos presets bench bench-gpu \
    learning-store learning findings clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# --no-compile: most modules of torch are never imported, and need not be compiled either.
PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip --disable-pip-version-check install --no-compile
DEMO := demo
LEARNING := learning
GPU_BENCHES := %/bench_gpu_tvl1.py %/bench_gpu_extract.py %/bench_gpu_train.py
BENCHES := $(filter-out $(GPU_BENCHES),$(sort $(wildcard benchmarks/*/bench_*.py)))

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | \
	    awk -F '\t' '{ printf "make %-14s %s\n", $$1, $$2 }'

demo: $(READY)  ## synthetic videos -> flow -> pretraining -> evaluation, in demo/; resumes
	$(BIN)/flowcpc synth $(DEMO)/synth --groups 16 --clips-per-group 1 --frames 27 --size 72x96
	$(BIN)/flowcpc extract-flow $(DEMO)/synth/videos $(DEMO)/store --dataset ucf101 \
	    --annotations $(DEMO)/synth/annotations --size 36x48
	$(BIN)/flowcpc info $(DEMO)/store
	$(BIN)/flowcpc show $(DEMO)/store --out $(DEMO)/flows.png
	$(BIN)/flowcpc pretrain $(DEMO)/store $(DEMO)/run --preset tiny
	$(BIN)/flowcpc evaluate $(DEMO)/store $(DEMO)/run --mode linear

test: lint  ## lint, then all tests but the slow ones
	$(BIN)/pytest --durations=25 -m "not slow"

test-all: lint  ## lint, then all tests
	$(BIN)/pytest --durations=25

test-slurm: $(READY)  ## extraction on a real SLURM, installed on this machine (root, Debian)
	@node="$(BIN)/python tests/support/helpers/slurm_node.py"; folder=$$(mktemp -d); \
	    SLURM_CONF=$$($$node "$$folder"); export SLURM_CONF; \
	    trap '$$node "$$folder" --stop; rm -rf "$$folder"' EXIT; \
	    FLOWCPC_SLURM_RECORD=docs/benchmarks/flow/slurm.md \
	    $(BIN)/pytest -n 0 tests/pipeline/cluster/test_slurm.py

coverage: $(READY)  ## all tests, and the share of the lines that they run; installs the extra cov
	@$(PIP) --quiet 'pytest-cov>=6'
	$(BIN)/pytest --cov=commands --cov=flowcpc --cov=pipeline --cov=stores --cov=train \
	    --cov-report=term:skip-covered

lint: $(READY)  ## style, format, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

chaos: $(READY)  ## kill 200 writers of stores, 30 workers and a training; signal 30 commands
	FLOWCPC_KILLS=200 $(BIN)/pytest --dist load tests/scenarios/test_store_reliability.py -k storm
	FLOWCPC_WORKER_KILLS=30 $(BIN)/pytest -n 0 tests/scenarios/test_cluster_reliability.py
	FLOWCPC_TRAINING_KILLS=20 $(BIN)/pytest -n 0 tests/commands/test_train.py -k random
	FLOWCPC_SIGNALS=30 $(BIN)/pytest -n 0 tests/scenarios/test_process_group.py

presets: $(READY)  ## twenty training steps of every preset on flow of real clips
	FLOWCPC_PRESETS=1 $(BIN)/pytest -n 0 tests/train/settings/test_trained_presets.py -k real_clips

bench: $(READY)  ## every benchmark that needs no GPU, one after the other
	@if [ -z "$(BENCHES)" ]; then echo "There is no benchmarks/*/bench_*.py to run." >&2; exit 1; fi
	@for bench in $(BENCHES); do echo "== $$bench"; \
	    $(BIN)/python -m $$(echo "$${bench%.py}" | tr / .); done

bench-gpu:  ## the benchmarks that need a CUDA device, with $(PYTHON) and without .venv
	"$(PYTHON)" -m benchmarks.flow.bench_gpu_tvl1 $(ARGS)
	"$(PYTHON)" -m benchmarks.flow.bench_gpu_extract
	"$(PYTHON)" -m benchmarks.training.bench_gpu_train

learning-store: $(READY)  ## synthetic videos of the next two, their flow and frames, in learning/
	$(BIN)/flowcpc synth $(LEARNING)/synth --frames 101 --size 72x96
	$(BIN)/flowcpc extract-flow $(LEARNING)/synth/videos $(LEARNING)/store --dataset ucf101 \
	    --annotations $(LEARNING)/synth/annotations --size 48x64 --with-frames

learning: learning-store  ## pretraining on synthetic videos, and its record; half an hour
	$(BIN)/flowcpc pretrain $(LEARNING)/store $(LEARNING)/run --preset tiny --steps 3000 \
	    --set num_flows=5 --set spacing=5 --set size=40x56 --set validate_every=250 \
	    --set learning_rates=0:0.01,2400:0.002
	$(BIN)/python -m benchmarks.training.learn_synth $(LEARNING)/store $(LEARNING)/run

findings: learning-store  ## docs/results.md: the paper's findings on synthetic videos; 90 minutes
	$(BIN)/flowcpc reproduce $(LEARNING)/store $(LEARNING)/findings --table findings \
	    --scale cpu --seeds 0,1,2 --set learning_rates=0:0.01,800:0.002

clean:  ## remove the demo's folder, builds and caches; .venv stays
	rm -rf $(DEMO) $(LEARNING) build dist .coverage .hypothesis __pycache__ \
	    .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find benchmarks commands flowcpc pipeline stores tests train -name __pycache__ -prune \
	    -exec rm -rf {} +

$(READY): requirements.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "$(PYTHON) was not found: install Python 3.11 or newer, or name it," \
	        "as in: make PYTHON=python3.12 test" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
	    "$(PYTHON) is Python %d.%d and flowcpc needs 3.11 or newer: name one, " \
	    "as in: make PYTHON=python3.12 test" % v[:2])'
	@echo "Setting up .venv from requirements.txt (minutes the first time, most of it torch) ..."
	@"$(PYTHON)" -m venv .venv
	@$(PIP) -r requirements.txt | sed -unE -e 's/^Collecting ([^ ]+).*/  \1/p' \
	    -e 's/^Installing collected.*/  installing all of them .../p'
	@$(PIP) --quiet --no-deps --no-build-isolation -e . --config-settings editable_mode=compat
	@touch $@
	@echo ".venv is ready."
