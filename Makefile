# Every target sets up what it needs: a virtual environment with the locked versions, and jaxalign itself in it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-all test-tpu-compile lint format bench wheel clean

setup: $(READY)

# --no-deps: the lock names every package. torch comes first and pinned, so that nothing pulls another build of it.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"jaxalign needs Python 3.11 to 3.13, and {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

demo: $(READY)
	$(BIN)/jaxalign experiment=demo

# Most of the time of the fast tests is compilation; without the compiler's optimisations it is a quarter less. test-all
# runs what users run.
test: $(READY)
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not tpu_compile"

test-all: $(READY)
	$(BIN)/python -m pytest -m "not tpu_compile"

# Compiles the steps of a run with the compiler of real TPUs; needs libtpu of the version that jax[tpu] names, and no TPU.
test-tpu-compile: $(READY)
	$(BIN)/python -m pytest -m tpu_compile -s tests/test_tpu_compile.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m tests.benchmarks

wheel: $(READY)
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
