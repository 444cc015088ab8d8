# `make reproduce` and `make test` are all that a new user needs; both set up what they need in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
RESULTS ?= reproduced
# Characters for the image experiments: the embedded glyphs, or the Omniglot files in DATA_DIR.
IMAGES ?= $(if $(DATA_DIR),omniglot,glyphs)
BIN := $(VENV)/bin
# Two trainings run side by side, each on half of the cores: their operations are too small to share more.
HALF = $(shell $(PYTHON) -c "import os; print(max(1, (os.cpu_count() or 2) // 2))")

.PHONY: help install reproduce train-synthetic train-images studies figures test bench lint clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(VENV)/.installed  ## make the virtual environment

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .[dev]
	touch $@

reproduce: install  ## train, measure and draw Figure 1, Table 1 and Figure A.1 on this machine, into RESULTS
	$(MAKE) --no-print-directory -j2 train-synthetic train-images
	$(MAKE) --no-print-directory studies
	$(BIN)/python -m figures all --results $(RESULTS) --out $(RESULTS)/figures

train-synthetic: install
	OMP_NUM_THREADS=$(HALF) $(BIN)/python -m core experiment synthetic_linear --preset quick --results $(RESULTS)

train-images: install
	OMP_NUM_THREADS=$(HALF) $(BIN)/python -m core experiment $(IMAGES)_linear --preset quick --results $(RESULTS)

studies: install
	$(BIN)/python -m analysis all --results $(RESULTS)

figures: install  ## draw every figure and table from the committed results
	$(BIN)/python -m figures all --results results --out results/figures

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# One thread a test process: two that wait for each other on two cores take nine times as long.
test: lint  ## lint, check types, run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: install  ## speed and memory against the tests' naive implementation
	$(BIN)/python -m tests.benchmarks.bench_linear
	$(BIN)/python -m tests.benchmarks.bench_cnn

clean:  ## remove what was built and reproduced, but no committed result
	rm -rf $(VENV) reproduced build ./*.egg-info
