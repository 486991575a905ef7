# Two commands need nothing but Python >= 3.11 and make:
#
#   make demo   trains a small model that learns to correct itself
#   make test   passes the tests
#
# Each creates $(VENV), installs what it needs, and leaves a stamp there, so
# that the next call installs nothing and needs no network. Overrides:
#   make test PYTHON=python3.12 VENV=.venv312 TESTS=tests/ops

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/demo
TESTS ?= tests
# `test` alone leaves out torch, and the tests that compare with it.
EXTRAS ?= test,parity
# Two workers: the suite is bound by compilation, which uses one core. A file
# stays on one worker, for its tests share compiled programs.
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PYTEST := $(BIN)/python -m pytest
SLOW := slow or learning or multiprocess

# Stamps, named after the content of pyproject.toml: an edit installs again, a
# fresh date on the same file does not.
KEY := $(shell cksum < pyproject.toml | cut -d ' ' -f 1)
BASE := $(VENV)/.installed-$(KEY)
TEST := $(BASE)-$(EXTRAS)
DEV := $(BASE)-dev

.PHONY: demo test test-slow test-tpu test-all check lint types layers format docs clean

demo: $(BASE)
	$(BIN)/python -m experiments.score_self_correction.run \
	  --workdir=$(WORKDIR) --seeds=0 --baselines= --noplot

test: $(TEST)
	$(PYTEST) -n $(WORKERS) --dist loadfile $(TESTS)

test-slow: $(TEST)
	$(PYTEST) -n $(WORKERS) --dist load -m '$(SLOW)' $(TESTS)

# The compiler for TPUs runs on any Linux machine; no TPU is needed.
test-tpu: $(TEST)
	$(PIP) -e '.[tpu]'
	$(PYTEST) -n $(WORKERS) --dist load -m tpu $(TESTS)

test-all: test test-slow test-tpu

check: lint types layers

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

layers: $(DEV)
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(BASE)
	$(BIN)/python -m docs.algorithm_table

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  f"$(PYTHON) is Python {sys.version.split()[0]}; selfimprove needs 3.11 \
	or newer: make PYTHON=/path/to/python3.11")'
	@echo "Installing into $(VENV) (once, a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

# Torch comes first and by exact version, for then pip takes the build without
# CUDA (2.13.0+cpu, gigabytes smaller) wherever its indexes offer one. The
# environment variable PIP_EXTRA_INDEX_URL names PyTorch's CPU index to pip.
$(TEST): $(BASE)
	@echo "Installing what the tests need (once) ..."
ifneq (,$(findstring parity,$(EXTRAS)))
	$(PIP) torch==2.13.0
endif
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

# The type checker reads what the library, its tests and its plots import.
$(DEV): $(TEST)
	@echo "Installing the development tools (once) ..."
	$(PIP) --editable '.[dev,plot]'
	@touch $@
