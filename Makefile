# `make demo` and `make test` need Python 3.11, 3.12 or 3.13 and nothing else: the first of them makes .venv from requirements.lock.
# VENV=path takes another environment, PYTHON=path another interpreter, ARGS="..." goes to the command that is run.

VENV ?= .venv
ARGS ?=
# one process of tests per core, at most four; a file's tests share what its fixtures built. `PARALLEL=` runs all in one.
PARALLEL ?= -n logical --maxprocesses 4 --dist loadfile
BIN := $(VENV)/bin
STAMP := $(VENV)/.motiontune-stamp
IS_FIT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c '$(IS_FIT)' >/dev/null 2>&1 && command -v $$p && break; done)
UV ?= $(shell uv --version >/dev/null 2>&1 && command -v uv || echo build/uv/bin/uv)

export UV_HTTP_TIMEOUT ?= 300
export UV_PYTHON_DOWNLOADS ?= never

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-scale test-engines test-configurations test-versions test-trainers fuzz soak clips figures site lint format types lock clean

help:
	@echo 'make demo       train a tiny model on synthetic clips and show what it sees (minutes, on the CPU)'
	@echo 'make test       run the tests; test-slow runs the ones that take long, test-scale extraction of many clips, test-engines all engines'
	@echo 'make test-configurations   draw configurations and data for half an hour (MOTIONTUNE_MINUTES)'
	@echo 'make test-versions   test clips and motion with the oldest and newest allowed versions, and each Python that is here'
	@echo 'make test-trainers   test TRL, oldest and newest, and ms-swift, each in an environment of its own (gigabytes)'
	@echo 'make fuzz       give each reader of files bytes without end, 10 CPU minutes each (ARGS="--minutes 1 tar npz")'
	@echo 'make soak       20,000 clips and 10,000 steps of training: memory, files and threads stay flat (an hour)'
	@echo 'make clips      fetch the real clips that some tests use'
	@echo 'make figures    write the tables and plots of the documentation from benchmarks/*/results'
	@echo 'make site       build the site of the documentation in build/site; ARGS=--no-notebooks does not run the notebooks'
	@echo 'make lint       check style; format repairs it; types checks types'
	@echo 'make lock       write requirements.lock again (ARGS=--upgrade for newer versions)'
	@echo 'make clean      remove the environment and what was built; clips stay'

env: $(STAMP)

demo: $(STAMP)
	$(BIN)/motiontune demo $(ARGS)

test: $(STAMP)
	@test ! -f tests/fetch_clips.py || timeout 300 $(BIN)/python tests/fetch_clips.py </dev/null \
		|| echo 'make: not all real clips are here (offline?): the tests that need them are skipped'
	$(BIN)/python -m pytest -m 'not slow and not engines and not scale' $(PARALLEL) $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-scale: $(STAMP)
	$(BIN)/python -m pytest -m scale $(ARGS)

test-engines: $(STAMP)
	$(BIN)/python -m pytest -m engines $(ARGS)

test-configurations: $(STAMP)
	$(BIN)/python -m pytest -m slow -s tests/test_any_configuration.py $(ARGS)

test-versions: | $(UV)
	'$(PYTHON)' tests/versions.py --uv '$(UV)' $(ARGS)

test-trainers: | $(UV)
	'$(PYTHON)' tests/trainers.py --uv '$(UV)' $(ARGS)

# atheris is no dependency of the tests: a share of its work is among them, without it
fuzz: $(STAMP) | $(UV)
	test -d build/atheris || $(UV) pip install --quiet --python $(BIN)/python --target build/atheris 'atheris>=3,<4'
	PYTHONPATH='$(CURDIR)/build/atheris' OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(ARGS)

soak: $(STAMP)
	$(BIN)/python benchmarks/many_clips/soak.py extract
	$(BIN)/python benchmarks/many_clips/soak.py train

clips: $(STAMP)
	$(BIN)/python tests/fetch_clips.py $(ARGS)

figures: $(STAMP)
	$(BIN)/python benchmarks/figures.py

# mkdocs has an environment of its own: it reads the sources, and needs none of what they import
site: $(STAMP) build/site-venv/stamp
	$(BIN)/python docs/make_site.py $(ARGS)
	NO_MKDOCS_2_WARNING=1 build/site-venv/bin/mkdocs build --quiet --strict
	@echo 'build/site/index.html; with the search: $(BIN)/python -m http.server --directory build/site'

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy $(ARGS)

# The versions in the lock file stay unless pyproject.toml or ARGS=--upgrade asks for others.
lock: | $(UV)
	$(UV) pip compile pyproject.toml --extra llamafactory --extra deepspeed --extra dev --output-file requirements.lock \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links $(ARGS)

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# uv where it can be had, else pip (which may know of a mirror that uv doesn't). The lock file is complete, so neither
# resolves anything, and it has setuptools, so motiontune itself is built without the network.
$(STAMP): requirements.lock pyproject.toml | $(UV)
	@test -n '$(PYTHON)' || { echo 'make: no Python 3.11 to 3.13 found; name one with PYTHON=path' >&2; exit 1; }
	test -x $(BIN)/python || $(UV) venv --python '$(PYTHON)' $(VENV) || '$(PYTHON)' -m venv $(VENV)
	$(UV) pip install --python $(BIN)/python --no-deps -r requirements.lock \
		|| { '$(PYTHON)' -m venv $(VENV) && $(BIN)/python -m pip install --no-deps -r requirements.lock; }
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

build/site-venv/stamp: pyproject.toml | $(UV)
	test -x build/site-venv/bin/python || $(UV) venv --python '$(PYTHON)' build/site-venv
	$(UV) pip install --quiet --python build/site-venv/bin/python --group docs
	@touch $@

# Into a folder of its own, which Debian's externally managed Python allows; without pip, through an environment.
build/uv/bin/uv:
	@test -n '$(PYTHON)' || { echo 'make: no Python 3.11 to 3.13 found; name one with PYTHON=path' >&2; exit 1; }
	'$(PYTHON)' -m pip install --quiet --target build/uv uv \
		|| { rm -rf build/uv && '$(PYTHON)' -m venv build/uv && build/uv/bin/python -m pip install --quiet uv; }
