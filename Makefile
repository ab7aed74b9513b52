# `make test` and `make demo` need Python 3.10 or newer, pip and make; everything else goes into .venv.
# An installation of torch that is already in .venv is used if its version fits constraints.txt.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: test lint demo bench clean

test: .venv/dev lint
	$(BIN)/pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: .venv/demo
	$(BIN)/slcodec demo demo-output

bench: .venv/bench
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv demo-output

.venv/dev .venv/demo .venv/bench: .venv/%: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@
