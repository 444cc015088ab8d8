# `make reproduce` and `make test` are all that a new user needs; both set up what they need in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
RESULTS ?= reproduced
NUM_TASKS ?= 50
# Characters for the image experiments: the embedded glyphs, or the Omniglot files in DATA_DIR.
IMAGES ?= $(if $(DATA_DIR),omniglot,glyphs)
BIN := $(VENV)/bin
# The chain from run to figure: see Snakefile. Two jobs run side by side, each on half of the cores.
# Snakemake keeps a cache in the home folder, and does without one where that cannot be written.
CACHE := $(shell test -w "$${XDG_CACHE_HOME:-$$HOME}" || echo XDG_CACHE_HOME=$(CURDIR)/.snakemake/cache)
CHAIN := $(CACHE) $(BIN)/snakemake --cores all --quiet rules host --config

# One thread a test process: two that wait for each other on two cores take nine times as long. And glibc keeps what is
# freed and asks for large pages, which matters on a machine where the system takes long to give out memory.
KEEP := glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=1073741824
TESTS_RUN_BY := OMP_NUM_THREADS=1 PYTHONMALLOC=malloc GLIBC_TUNABLES=$(KEEP):glibc.malloc.top_pad=16777216

FIND_CHROMIUM = $(BIN)/python -c "from tests.figures.chromium import find; raise SystemExit(find() is None)"

.PHONY: help install reproduce paper figures test test-slow test-browser test-cluster test-faults fuzz notebooks bench lint clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-18s%s\n", $$1, $$2 }'

install: $(VENV)/.installed  ## make the virtual environment

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is no Python 3.11 to 3.13: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .[dev]
	touch $@

reproduce: install  ## train, measure and draw every figure and table on this machine, into RESULTS
	$(CHAIN) preset=quick "results=$(RESULTS)" images=$(IMAGES) num_tasks=$(NUM_TASKS) together=true

paper: RESULTS := paper
paper: install  ## the same at the paper's length on its data sets: says what it costs (on a CPU, months), then starts
	$(BIN)/python -m chain left --preset paper --images omniglot --results "$(RESULTS)"
	$(CHAIN) preset=paper images=omniglot "results=$(RESULTS)"

figures: install  ## draw every figure and table from the committed results
	for folder in results results/longer results/longest results/half_rate; do $(CHAIN) preset=record results=$$folder; done

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint  ## lint, check types, run the tests
	$(TESTS_RUN_BY) $(BIN)/python -m pytest -n 2

test-slow: install  ## the tests that take longest: the chain killed, changed, and called twice at once
	$(TESTS_RUN_BY) $(BIN)/python -m pytest -n 2 -m slow

notebooks: install  ## execute the notebooks at their own size, and keep what they show
	$(BIN)/python -m tests.notebooks.executing

test-browser: install  ## the report in headless Chromium; where it is missing, root installs it with apt-get
	@$(FIND_CHROMIUM) || [ "$$(id -u)" != 0 ] || \
		{ apt-get -qq update && apt-get -qq install --no-install-recommends chromium; }
	@$(FIND_CHROMIUM) || { echo "no Chromium: install one, or name it in CHROMIUM" >&2; exit 2; }
	$(TESTS_RUN_BY) $(BIN)/python -m pytest tests/figures/test_report_browser.py

test-cluster: install  ## the chain on a SLURM of two nodes on this machine, with a job and a node that die (Debian, root)
	$(BIN)/python -m tests.cluster.run

LOADERS ?=
SECONDS ?= 600
JOBS ?= 1
fuzz: install  ## each loader (or LOADERS="torch table") on damaged files for SECONDS=600, JOBS=1 at a time (Python 3.11)
	$(BIN)/pip install --quiet --editable .[fuzz]
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(LOADERS) --seconds $(SECONDS) --jobs $(JOBS)

test-faults: install  ## full disks, kills, damage, races: over a thousand faults for real, and what was lost (root: all kinds)
	$(BIN)/python -m tests.faults.run

bench: install  ## speed and memory beside the tests' naive implementation and other libraries there, into benchmarked/
	$(BIN)/python -m tests.benchmarks --results benchmarked
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m tests.benchmarks.bench_distributed

clean:  ## remove what was built and reproduced, but no committed result
	rm -rf $(VENV) .snakemake reproduced benchmarked build ./*.egg-info
