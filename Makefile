# make demo | test | test-slow | lint | docs | bench | clean
TORCH  := torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-slow lint docs bench clean
.DEFAULT_GOAL := test

# torch goes in first, by its exact version: asked for loosely, as a dependency, pip may
# choose another build of it that brings gigabytes of GPU packages along.
$(STAMP): pyproject.toml constraints.txt
	@python=$$(command -v python3.11 || command -v python3) || { echo "make: Python 3.11 or newer is needed" >&2; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$python is older than Python 3.11" >&2; exit 1; }; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The programs in README.md and docs/ run, and their links lead somewhere.
docs: $(STAMP)
	$(BIN)/python -m pytest tests/test_docs.py

# torchTT builds against the torch that is installed; in an isolated build it would fetch another.
$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation torchTT
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
