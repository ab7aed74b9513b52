# `make test` and `make demo` need Python 3.10 or newer, pip and make; everything else goes into .venv.
# An installation of torch that is already in .venv is used if its version fits constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
FUZZ_SECONDS ?= 600

.PHONY: test test-floors test-others test-many lint docs fuzz demo bench reliability clean

test: .venv/dev lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8

test-floors: .venv-floors/installed
	OMP_NUM_THREADS=1 .venv-floors/bin/pytest --without-torch --ignore=tests/test_crashes.py --ignore=tests/test_load.py --numprocesses auto --maxprocesses 8

test-others: .venv-others/installed
	OMP_NUM_THREADS=1 .venv-others/bin/pytest --others --numprocesses auto --maxprocesses 8 tests/test_others*.py tests/test_loops.py

test-many: .venv-many/installed
	OMP_NUM_THREADS=1 .venv-many/bin/pytest --many --numprocesses auto --maxprocesses 4 --dist loadfile tests/test_many*.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs
	rm -rf build/docs build/doctrees
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --conf-dir docs --doctree-dir build/doctrees . build/docs

fuzz: .venv/dev
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --keep

demo: .venv/demo
	$(BIN)/slcodec demo demo-output

bench: .venv/bench
	$(BIN)/python -m benchmarks

reliability: .venv/reliability .venv-many/installed
	$(BIN)/python -m benchmarks.reliability
	.venv-many/bin/python -m benchmarks.reliability ray storage

clean:
	rm -rf .venv .venv-floors .venv-others .venv-many demo-output build/docs build/doctrees

.venv-floors/installed: setup.cfg pyproject.toml constraints-floors.txt
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/pip install --quiet --disable-pip-version-check --constraint constraints-floors.txt --editable '.[floors]'
	touch $@

.venv-others/installed: setup.cfg pyproject.toml constraints-others.txt
	$(PYTHON) -m venv .venv-others
	.venv-others/bin/pip install --quiet --disable-pip-version-check --constraint constraints-others.txt --editable '.[others]'
	touch $@

.venv-many/installed: setup.cfg pyproject.toml constraints-many.txt
	$(PYTHON) -m venv .venv-many
	.venv-many/bin/pip install --quiet --disable-pip-version-check --constraint constraints-many.txt --editable '.[many]'
	touch $@

.venv/dev .venv/docs .venv/demo .venv/bench .venv/reliability: .venv/%: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@
