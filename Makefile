# One entry for people and for CI. Needs Python 3.11+, make and a C++ compiler (DeepSpeed builds one small op on first use); nothing else.
#   make quickstart    environment, then the whole story on real data
#   make test          every test            make check      format, lint, types, fast tests (under a minute)
#   make bench         the benchmarks, quick make prove-AREA what needs minutes of kills, soak or load
# Another interpreter: make venv PYTHON=python3.12. A build of PyTorch for another device: PIP_EXTRA_INDEX_URL=… make venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
INSTALLED := $(VENV)/.installed
# Two processes, a file at a time, the longest first (tests/conftest.py): much of a test of Ray is waiting.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# DeepSpeed looks for ninja on PATH when it builds its op, also in the workers that Ray starts.
export PATH := $(CURDIR)/$(BIN):$(PATH)
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help venv quickstart test check format bench clean prove-wheel prove-training prove-elastic prove-tuning prove-serving prove-data

help:
	@sed -n '2,4s/^# *//p' Makefile

venv: $(INSTALLED)

# The stamp is written last, so an install that was cut off is done again; pip then finds what is there already.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than Python 3.11; give another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what constraints.txt pins into $(VENV) (a few minutes the first time)" >&2
	@$(PIP) install -c constraints.txt -e '.[all,dev]'
	@touch $@

quickstart: venv
	@$(BIN)/raybert quickstart
	@echo; echo "the raybert command is in $(VENV): source $(BIN)/activate"

# DeepSpeed's op is built before the tests: beside them, which take all cores, it takes longer than some wait for a worker.
test: venv
	@DS_ACCELERATOR=cpu $(BIN)/python -c 'from training.zero import load_shared_memory_op; load_shared_memory_op()'
	@$(PYTEST)

check: venv
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) -q -m 'not ray and not slow'

format: venv
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: venv
	@missed=""; for name in $$($(BIN)/python -m benchmarks --list --names); do \
		$(BIN)/python -m benchmarks.$$name --quick --json benchmarks/results/$$name.json || missed="$$missed $$name"; \
	done; if [ -n "$$missed" ]; then echo "missed a goal, or failed:$$missed" >&2; exit 1; fi

# prove-AREA runs tests/prove/AREA: what is too long for `make test`, which holds a miniature of each.
prove-wheel: venv
	@bash tests/prove/wheel.sh

prove-training: venv
	@$(BIN)/python -m tests.prove.training

prove-elastic: venv
	@$(BIN)/python -m tests.prove.elastic

prove-tuning: venv
	@$(BIN)/python -m tests.prove.tuning

prove-serving: venv
	@$(BIN)/python -m tests.prove.serving

prove-data: venv
	@$(BIN)/python -m tests.prove.data --corpus '$(CORPUS)'

clean:
	rm -rf $(VENV) .venvs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
