# Every target works from a bare Python 3.11: the first one creates .venv and installs into it.
#   make demo    the whole system on a synthetic population, with a report
#   make test    lint, types and tests
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := proper_model coordinator client simulations benchmarks
OUT ?= runs/demo
# One worker a core, at most four: each holds a copy of torch.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n > 4 ? 4 : n )))

# Libraries that would otherwise report home or look for updates.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
# Tests and demo use small matrices: threads fighting over cores cost more than they bring.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: help install demo test test-full pytest lint fix docs results result report bench clean distclean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## .venv with everything in it, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON); set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## the whole system on a synthetic population; OUT=runs/demo
	$(BIN)/proper-sim run demo --out $(OUT) --resume

test: lint pytest ## lint, types, tests; a few minutes on two cores

pytest: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

test-full: lint ## the same and the slow tests, three seeds each
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "full or not full"

lint: $(STAMP) ## ruff and mypy, nothing changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(STAMP) ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write the generated blocks of the README and its curve from results/
	$(BIN)/python docs/generated.py --write README.md
	$(BIN)/python -m benchmarks.figures results/bench/growth/overhead.json --growth-svg docs/growth.svg

# The committed results: hours on two cores. Phases are cached, so presets share stage 1.
RUNS := default-0 default-1 default-2 device-0 paper-0
results: $(STAMP) ## run everything in results/ again, from ../shared; hours
	for run in $(RUNS); do \
	  $(MAKE) result DATA=news_categories RUN=$$run CAPS="--max-items 40"; \
	  $(MAKE) result DATA=movie_ratings RUN=$$run CAPS="--pooled-users 80 --max-items 24"; \
	done
	$(MAKE) demo
	cp $(OUT)/results.json results/demo.json

result: $(STAMP)
	$(BIN)/proper-sim run ../shared/data/$(DATA) --task profiles/tasks/$(DATA).toml \
	  --base ../shared/models/mini-llama --profile tiny --preset $(firstword $(subst -, ,$(RUN))) \
	  --seed $(lastword $(subst -, ,$(RUN))) $(CAPS) --threads 1 --out runs/$(DATA)-$(RUN) --resume
	cp runs/$(DATA)-$(RUN)/results.json results/$(DATA)-$(RUN).json

report: $(STAMP) ## the report of a finished run again; OUT=runs/demo
	$(BIN)/proper-sim report $(OUT)

# Never a test: nothing passes or fails by it. One contender runs at a time, on one thread unless it
# names more. A growth curve: BENCH="--users 1 --users 8 --users 64 --users 512".
BENCH_OUT ?= runs/bench
BENCH ?= --size overhead --size small --tokens 32 --users 32 --samples 2 --rounds 3
bench: $(STAMP) ## the engine against its rivals, a few minutes; BENCH_OUT=runs/bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.engine $(BENCH) --out $(BENCH_OUT)/engine.json
	$(BIN)/python -m benchmarks.figures $(BENCH_OUT)/engine.json --out $(BENCH_OUT)/figures
	$(BIN)/python -m benchmarks.report $(BENCH_OUT)/engine.json --out $(BENCH_OUT)/report.html

clean: ## caches and build products; runs and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same and .venv
	rm -rf $(VENV)
