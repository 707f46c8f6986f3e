# make serve   set up what is missing, then serve the upper-case service on 127.0.0.1:8000 (ARGS='--model fork' adds options)
# make test    set up what is missing, then run every test (ARGS='tests/cli/test_cli.py -x' picks some)
# make check   the quick gate: format, lint, types, layers, sizes, and the tests that take no more than moments
# make bench   what each model costs beside other servers; writes benchmarks/RESULTS.md (15 minutes; ARGS='connections memory' picks)
# make bench-bus  messages between hosts, over each carrier and by hand; writes the table of docs/scale.md (three minutes; ARGS=quick)
# make proof   reloads, upgrades, kills and stops under load, in earnest; writes docs/proof.md (forty minutes; ARGS='R3 R9')
# make docs    write what is made from the code: docs/settings.md, docs/house.md and settings/keywords.py
# make compiled  a second environment, .venv-compiled, with the compiled build (docs/compiled.md); VENV=.venv-compiled uses it
# make venv    only set up .venv, with all that development needs (VENV=.venv-3.13 PYTHON=python3.13: another beside it)

.PHONY: serve test check bench bench-bus proof docs venv compiled clean
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests that run side by side: many only wait. 0 runs them in one process, as a debugger wants.
JOBS ?= 3
BENCH := benchmarks/compare.py
# Whole files that start hundreds of servers; slow tests elsewhere carry the marker.
LONG := test_promises.py test_experiments.py test_examples.py test_outside.py test_lifespans.py \
    connection/test_asyncio_drain.py connection/test_parity.py handlers/test_programs.py models/test_models.py \
    observers/test_systemd.py scoreboard/test_counts.py serving/test_adopted.py serving/test_draining.py \
    supervisor/test_crashes.py supervisor/test_exception_guard.py supervisor/test_hostile.py supervisor/test_old_workers.py \
    supervisor/test_orphans.py supervisor/test_stop.py system/test_log_file.py testing/test_chaos.py \
    testing/test_testing.py tls/test_tls.py worker_process/test_shared_process.py

# A VENV of this name has the compiled build (docs/compiled.md), which is as old as what it was made from: not editable,
# because Python would take the sources then.
ifneq ($(findstring -compiled,$(VENV)),)
PARTS := pyproject.toml $(wildcard compiled/*) $(shell find src -name '*.py')
INSTALL = PRONGHORN_COMPILE=1 $(PIP)
export PRONGHORN_EXPECT_BUILD := compiled
else
PARTS := pyproject.toml
INSTALL = $(PIP) --editable
endif

PIP := PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --no-input

help:
	@sed -n 's/^# \(make\)/\1/p' Makefile

serve: $(VENV)/.core
	@exec $(BIN)/pronghorn serve $(ARGS)

test: $(VENV)/.dev
	@exec $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet . || { echo "Run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary src
	@exec $(BIN)/python -m pytest -q -x -n 4 --dist worksteal -m "not slow" $(patsubst %,--ignore=tests/%,$(LONG)) $(ARGS)

# The compiled build, where there is one, gives each model a second line: as new as the sources.
bench: $(VENV)/.bench
	@[ ! -d .venv-compiled ] || $(MAKE) --no-print-directory compiled
	@exec $(BIN)/python $(BENCH) $(ARGS)

bench-bus: $(VENV)/.bench
	@exec $(BIN)/python benchmarks/bus_hosts.py $(ARGS)

proof: $(VENV)/.dev
	@exec $(BIN)/python proof/run.py $(ARGS)

docs: $(VENV)/.dev
	@$(BIN)/python docs/make_settings.py
	@$(BIN)/python docs/make_keywords.py
	@PYTHONPATH=tests exec $(BIN)/python docs/make_house.py

venv: $(VENV)/.dev

compiled:
	@command -v $${CC:-cc} >/dev/null || { echo "The compiled build needs a C compiler, such as gcc, and there is none." >&2; exit 1; }
	@$(MAKE) --no-print-directory venv VENV=.venv-compiled

clean:
	rm -rf $(VENV) $(wildcard .venv-*) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps: each is as new as the last installation that went well.
$(VENV)/.core: $(PARTS) | $(BIN)/python
	@echo "Installing Pronghorn into $(VENV) ..." >&2
	@$(INSTALL) .
	@touch $@

$(VENV)/.dev: $(PARTS) | $(BIN)/python
	@echo "Installing Pronghorn, and what its development needs, into $(VENV) ..." >&2
	@$(PIP) --upgrade 'pip>=25.1'
	@$(INSTALL) '.[all]' --group dev
	@touch $@ $(VENV)/.core

# A competitor that cannot be installed is left out of the comparison, which says so.
$(VENV)/.bench: pyproject.toml $(VENV)/.dev
	@echo "Installing what the comparison needs into $(VENV) ..." >&2
	@$(PIP) --group bench || for package in $$($(BIN)/python -c 'import tomllib; \
	    print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["bench"])'); do \
	    $(PIP) "$$package" || echo "not installed: $$package (above)" >&2; \
	done
	@touch $@

# PYTHON=... chooses; otherwise the first of these that is new enough and can make a virtual environment.
# A .venv whose interpreter has gone has no $(BIN)/python (a dangling link), so it is made anew.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    found=$$python; \
	    echo "Making a virtual environment, $(VENV), with $$("$$python" -V) ..." >&2; \
	    "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || continue; \
	    exec "$$python" -m venv --clear $(VENV); \
	done; \
	if [ -n "$$found" ]; then \
	    echo "Pronghorn needs Python's venv module, which $$found lacks." >&2; \
	    echo "On Debian and Ubuntu: apt install python3-venv" >&2; \
	else \
	    echo "Pronghorn needs Python 3.11 or newer, and there is none on PATH." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	fi; exit 1
