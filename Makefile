# Every task of the project by name; `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
SHIKAKU := $(VENV)/bin/shikaku
PIP    := $(PY) -m pip -qq --disable-pip-version-check --no-input install

PORT   ?= 8443
PEOPLE ?= 100000
SIZE   ?= standard
TESTS  ?= tests
WORKERS ?=
ONCE   ?=
FOLDER ?=
ONLY   ?=
ROUNDS ?=
KEYS   ?=
BASE   ?=
EXECUTIONS ?= 200000
TARGETS ?=
REPRODUCE ?=
DOCS   ?= yes

.DEFAULT_GOAL := help
.PHONY: help check-tools browser setup setup-test build debug asan demo test test-long test-all bench national peers gate budgets profile fuzz check clean

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
	@$(PIP) --require-hashes -r requirements/runtime.txt
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.runtime
	@echo "shikaku: adding what tests and benchmarks need"
	@$(PIP) --require-hashes -r requirements/test.txt
	@touch $@

# The stamp is named after the build mode, so that another mode builds anew.
BUILT := $(VENV)/.built-$(or $(SHIKAKU_BUILD),release)
$(BUILT): $(VENV)/.runtime setup.py pyproject.toml $(wildcard ext/*.pyx ext/*.pxd ext/*.h)
	@echo "shikaku: building the extension ($(or $(SHIKAKU_BUILD),release))"
	@rm -rf build $(VENV)/.built-*
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

setup: $(BUILT)  ## make the environment and build the extension
setup-test: setup $(VENV)/.test browser  ## the same, and what tests need: Python packages and Chromium

# Only tests/browser needs it. Root on Debian gets it from apt; everybody else is told what to install.
BROWSERS := chromium chromium-browser google-chrome-stable google-chrome
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq
browser:
	@for name in $${CHROMIUM:-$(BROWSERS)}; do command -v "$$name" >/dev/null 2>&1 && exit 0; done; \
	if [ -z "$$CHROMIUM" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "shikaku: installing Chromium for the tests of the docs page"; \
		$(APT) update >/dev/null 2>&1; \
		$(APT) install -y --no-install-recommends chromium >/dev/null 2>&1; \
		command -v chromium >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "shikaku: the tests of the docs page need Chromium: install chromium (Debian: apt-get install chromium), or set CHROMIUM=..."; exit 1
build: setup  ## build the extension (SHIKAKU_BUILD=release|debug|asan|trace)

debug:  ## build without optimisation, with symbols
	@$(MAKE) --no-print-directory build SHIKAKU_BUILD=debug

asan: $(VENV)/.test  ## build with address and undefined-behaviour sanitizers and run the tests of ext under them
	@$(MAKE) --no-print-directory build SHIKAKU_BUILD=asan
	@LD_PRELOAD=$$($${CC:-cc} -print-file-name=libasan.so) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
		$(PY) -m pytest -q -m "not long" tests/twins

demo: setup  ## sample population, personas and a running server (PORT, WORKERS, PEOPLE; ONCE=1: check and end)
	@$(SHIKAKU) demo --port $(PORT) --people $(PEOPLE) $(if $(WORKERS),--workers $(WORKERS)) $(if $(filter-out 0,$(ONCE)),--once)

test: setup-test  ## run the tests (TESTS=folder or file)
	@$(PY) -m pytest -q -m "not long" $(TESTS)

test-long: setup-test  ## run the tests that take minutes (TESTS=folder or file)
	@$(PY) -m pytest -q -m long $(TESTS)

test-all: setup-test  ## run all tests, those that take minutes too
	@$(PY) -m pytest -q $(TESTS)

bench: setup $(VENV)/.test  ## run the benchmarks (SIZE=smoke|standard|large)
	@$(PY) -m pytest -q benchmarks --size $(SIZE)

national: setup $(VENV)/.test  ## generate, load, serve and ask a country (PEOPLE=125000000 FOLDER=...; 1,000,000 if not said)
	@nice -n 5 $(PY) -m benchmarks.national --people $(if $(filter-out file,$(origin PEOPLE)),$(PEOPLE),1000000) $(if $(FOLDER),--folder $(FOLDER))

# What is compared with, in an environment of its own: nothing of it comes into ours.
PEERS := var/peers-venv
$(PEERS)/.ready: requirements/runtime.txt requirements/peers.txt | check-tools
	@echo "shikaku: setting up $(PEERS)"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip -qq --disable-pip-version-check --no-input install --require-hashes -r requirements/runtime.txt
	@$(PEERS)/bin/python -m pip -qq --disable-pip-version-check --no-input install --require-hashes -r requirements/peers.txt
	@touch $@

peers: setup $(PEERS)/.ready  ## measure us beside what one would pick instead (ONLY=http|lookup, ROUNDS, KEYS, DOCS=no)
	@sh benchmarks/peers/install.sh
	@$(PEERS)/bin/python -m benchmarks.peers.run --docs $(DOCS) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(KEYS),--keys $(KEYS))

gate: setup $(VENV)/.test  ## fail on a regression beside BASE=rev, and on a budget that is exceeded
	@test -n "$(BASE)" || { echo "shikaku: make gate needs a revision to compare with: make gate BASE=HEAD~1"; exit 1; }
	@$(PY) -m benchmarks.gate compare $(BASE)
	@$(PY) -m benchmarks.gate budgets

budgets: setup $(VENV)/.test  ## bytes, instructions, allocations and system calls, which no machine changes
	@$(PY) -m benchmarks.gate budgets

PROFILE := var/profile-venv
$(PROFILE)/.ready: requirements/profile.txt | check-tools
	@test -x $(PROFILE)/bin/python || $(PYTHON) -m venv $(PROFILE)
	@$(PROFILE)/bin/python -m pip -qq --disable-pip-version-check --no-input install --require-hashes -r requirements/profile.txt
	@touch $@

profile: setup $(VENV)/.test $(PROFILE)/.ready  ## flame graph of a worker under load, and where one check's time goes (DOCS=no)
	@$(PY) -m benchmarks.profile --py-spy $(PROFILE)/bin/py-spy --docs $(DOCS)

# An environment and a build of its own: nothing of either comes into ours.
FUZZ := var/fuzz/venv
$(FUZZ)/.ready: requirements/runtime.txt requirements/test.txt requirements/fuzz.txt | check-tools
	@echo "shikaku: setting up $(FUZZ)"
	@test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	@for name in runtime test fuzz; do \
		$(FUZZ)/bin/python -m pip -qq --disable-pip-version-check --no-input install --require-hashes -r requirements/$$name.txt || exit 1; \
	done
	@touch $@

fuzz: $(FUZZ)/.ready  ## coverage-guided fuzzing of ext under sanitizers (EXECUTIONS of each of TARGETS; REPRODUCE=file)
	@nice -n 5 $(FUZZ)/bin/python -m tests.fuzz.run --executions $(EXECUTIONS) $(if $(TARGETS),--targets $(TARGETS)) $(if $(REPRODUCE),--reproduce $(REPRODUCE))

check: setup $(VENV)/.test  ## format, lint and types
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint ext

clean:  ## remove what was built (the environment and var/ stay)
	@rm -rf build ext/*.so ext/*.c ext/*.html shikaku.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(VENV)/.built-*
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
