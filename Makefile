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
# Two trainings run side by side, each on half of the cores: their operations are too small to share more.
HALF = $(shell $(PYTHON) -c "import os; print(max(1, (os.cpu_count() or 2) // 2))")

# What the paper reports, at its full length: see `make paper`.
PAPER ?= synthetic_linear omniglot_linear omniglot_depth omniglot_optimizers cifar_fs_depth cifar_fs_optimizers \
	mini_imagenet_optimizers

.PHONY: help install reproduce train-linear train-cnn studies paper figures test bench lint clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(VENV)/.installed  ## make the virtual environment

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .[dev]
	touch $@

reproduce: install  ## train, measure and draw every figure and table on this machine in 15 minutes, into RESULTS
	$(MAKE) --no-print-directory -j2 train-cnn train-linear
	$(MAKE) --no-print-directory studies
	$(BIN)/python -m figures all --results $(RESULTS) --out $(RESULTS)/figures

train-linear: install
	OMP_NUM_THREADS=$(HALF) $(BIN)/python -m core experiment synthetic_linear --results $(RESULTS)
	OMP_NUM_THREADS=$(HALF) $(BIN)/python -m core experiment $(IMAGES)_linear --results $(RESULTS)

train-cnn: install
	OMP_NUM_THREADS=$(HALF) $(BIN)/python -m core experiment $(IMAGES)_depth $(IMAGES)_optimizers --results $(RESULTS)

studies: install
	@echo "reduced: $(NUM_TASKS) test tasks in place of 600 (Figure 2: of 100)"
	$(BIN)/python -m analysis all --num-tasks $(NUM_TASKS) --results $(RESULTS)

paper: RESULTS := paper
paper: install  ## the same at the paper's length on its data sets: says what it costs (on a CPU, months), then starts
	$(BIN)/python -m core cost $(PAPER) --preset paper --results $(RESULTS)
	$(BIN)/python -m core experiment $(PAPER) --preset paper --results $(RESULTS)
	$(BIN)/python -m analysis all --num-tasks 600 --results $(RESULTS)
	$(BIN)/python -m figures all --results $(RESULTS) --out $(RESULTS)/figures

figures: install  ## draw every figure and table from the committed results
	$(BIN)/python -m figures all --results results --out results/figures

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# One thread a test process: two that wait for each other on two cores take nine times as long.
test: lint  ## lint, check types, run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: install  ## speed and memory beside the tests' naive implementation and other libraries, into results/benchmark
	$(BIN)/python -m tests.benchmarks

clean:  ## remove what was built and reproduced, but no committed result
	rm -rf $(VENV) reproduced build ./*.egg-info
