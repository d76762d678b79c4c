# Every task of the project by name; `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
SHIKAKU := $(VENV)/bin/shikaku

.DEFAULT_GOAL := help
.PHONY: help check-tools setup setup-test build debug asan demo test test-all bench check clean

help:  ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check-tools:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "shikaku: needs Python 3.11 or newer: install python3, or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "shikaku: needs Python 3.11 or newer; $$($(PYTHON) --version) was found; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "shikaku: Python's venv module is missing: install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "shikaku: Python.h is missing: install python3-dev"; exit 1; }
	@command -v $${CC:-cc} >/dev/null 2>&1 || { echo "shikaku: needs a C compiler: install gcc, or set CC=..."; exit 1; }

$(VENV)/.runtime: requirements/runtime.txt | check-tools
	@echo "shikaku: setting up $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.runtime
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/test.txt
	@touch $@

$(VENV)/.built: $(VENV)/.runtime setup.py pyproject.toml $(wildcard ext/*.pyx ext/*.pxd ext/*.h)
	@echo "shikaku: building the extension"
	@$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

setup: $(VENV)/.built  ## make the environment and build the extension
setup-test: setup $(VENV)/.test
build: setup  ## build the extension (SHIKAKU_BUILD=release|debug|asan|trace)
