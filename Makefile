# Needs Python 3.10 or later (with venv) and make; fetches everything else by
# pip into .venv/<version>. `make PYTHON=python3.12 <target>` picks another
# interpreter, and each version has an environment of its own.

PYTHON ?= python3
PYTEST_ARGS ?=

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
SOURCES := src tests examples benchmarks docs

# Tests that run at once: most of them wait for processes to start.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')

# The soak: for how long, and the first seed.
SECONDS ?= 60
SEED ?= 1

# The benchmark: which scenarios or groups, and small sizes if QUICK=1.
ONLY ?=
QUICK ?=
BENCH_ARGS ?=

# A stamp file says that a step is done; pyproject.toml being newer undoes it.
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed
TEST_TOOLS := $(VENV)/.test-tools
DOWNSTREAM := $(VENV)/.downstream
CLUSTERS := $(VENV)/.clusters

# The peers that it measures are nobody else's business.
BENCH_VENV := .venv/$(VERSION)-bench
BENCH_BIN := $(BENCH_VENV)/bin
BENCH_PIP := $(BENCH_BIN)/python -m pip --disable-pip-version-check install -qq
BENCH_TOOLS := $(BENCH_VENV)/.bench-tools

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test quick soak clusters downstream bench lint format docs growth clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: STEPS := 2
demo: $(INSTALLED) ## Measure the standard library in parallel and print the findings
	$(COMPILE)
	@$(BIN)/python examples/stdlib_census.py

# Runs the tests that $(1) selects. It is no error if PYTEST_ARGS leaves none for
# one of the two runs. The limit is for what a test that was given up leaves running.
define run_tests
	$(COMPILE)
	@echo "== pytest, Python $(VERSION), $(JOBS) tests at a time"
	@timeout --foreground 1h $(PYTEST) -n $(JOBS) --dist worksteal -m '$(1) and not alone' $(PYTEST_ARGS) $(MAYBE_NONE)
	@echo "== pytest, Python $(VERSION), tests that run alone"
	@$(PYTEST) -m '$(1) and alone' $(PYTEST_ARGS) $(MAYBE_NONE)
endef
PYTEST := $(BIN)/python -m pytest -q
# Else each of the thousands of workers compiles the source, where the environment
# says that Python is not to write bytecode; pip compiles what it installs anyhow.
COMPILE = @$(BIN)/python -m compileall -q src
MAYBE_NONE = $(if $(PYTEST_ARGS),|| test $$? -eq 5)

test: STEPS := 3
test: lint ## Check the source, then run every test but the downstream ones; clusters last
	$(call run_tests,not downstream and not ray and not dask)
	@$(if $(PYTEST_ARGS),:,$(MAKE) --no-print-directory clusters PYTHON=$(PYTHON))

quick: STEPS := 3
quick: $(TEST_TOOLS) ## Run the tests marked `quick`, no linters
	$(call run_tests,quick)

soak: STEPS := 3
soak: $(TEST_TOOLS) ## Kill workers every 50 ms under random calls and account for each item: SECONDS=60 SEED=1
	$(COMPILE)
	@PYTHONPATH=tests $(BIN)/python -W 'ignore:This process:DeprecationWarning' \
		-m chaos --seconds $(SECONDS) --seed $(SEED)

clusters: STEPS := 4
clusters: $(CLUSTERS) ## Run the tests on real clusters of Ray and Dask (fetches both)
	$(COMPILE)
	@echo "== pytest on clusters, Python $(VERSION)"
	@$(PYTEST) -m 'ray or dask' --durations=5 $(PYTEST_ARGS)

downstream: STEPS := 4
downstream: $(DOWNSTREAM) ## Run third-party programs on motorpool (fetches SciPy and others)
	$(COMPILE)
	@echo "== pytest -m downstream, Python $(VERSION)"
	@$(PYTEST) -m downstream $(PYTEST_ARGS)

bench: $(BENCH_TOOLS) ## Measure against every peer: ONLY=latency for one group, QUICK=1 for small sizes
	@$(BENCH_BIN)/python -m compileall -q src
	@$(BENCH_BIN)/python -m benchmarks --only '$(ONLY)' $(if $(QUICK),--quick) $(BENCH_ARGS)

lint: STEPS := 3
lint: $(TEST_TOOLS) ## Check style, types and layers
	@echo "== ruff"
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import-linter"
	@$(BIN)/lint-imports --no-logo

format: STEPS := 3
format: $(TEST_TOOLS) ## Rewrite the source in the style that `lint` asks for
	@$(BIN)/ruff check --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

docs: STEPS := 2
docs: $(INSTALLED) ## Write the parts of the docs that are made from the source
	@$(BIN)/python docs/abilities.py

growth: STEPS := 3
growth: $(INSTALLED) ## Simulate thousands of workers and draw docs/growth.svg (ten minutes)
	@echo "[3/$(STEPS)] installing what draws"
	@$(PIP) -e '.[docs]'
	@$(BIN)/python docs/growth.py

clean: ## Remove the environments, builds and caches
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is not a Python 3.10 or later; name one with PYTHON=..." >&2; exit 1; }
	@echo "[1/$(STEPS)] creating environment $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(INSTALLED): pyproject.toml | $(CREATED)
	@echo "[2/$(STEPS)] installing motorpool"
	@$(PIP) -e .
	@touch $@

$(TEST_TOOLS): $(INSTALLED)
	@echo "[3/$(STEPS)] installing what the tests need (a minute or two, the first time)"
	@$(PIP) -e '.[test]'
	@touch $@

$(DOWNSTREAM): $(TEST_TOOLS)
	@echo "[4/$(STEPS)] installing the third-party programs (a few hundred megabytes)"
	@$(PIP) -e '.[test,downstream]'
	@touch $@

# Ray comes later than others to a new Python; its tests are skipped where it is not.
$(CLUSTERS): $(TEST_TOOLS)
	@echo "[4/$(STEPS)] installing Ray and Dask (two hundred megabytes)"
	@$(PIP) -e '.[test,dask]'
	@$(PIP) -e '.[test,ray]' || echo "      Ray cannot be installed for Python $(VERSION); going on without it"
	@touch $@

# A peer that cannot be installed is reported by the benchmark as missing.
$(BENCH_TOOLS): pyproject.toml benchmarks/peers.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is not a Python 3.10 or later; name one with PYTHON=..." >&2; exit 1; }
	@echo "[1/3] creating environment $(BENCH_VENV)"
	@$(PYTHON) -m venv --clear $(BENCH_VENV)
	@echo "[2/3] installing motorpool"
	@$(BENCH_PIP) -e '.[bench]'
	@echo "[3/3] installing its peers (some minutes, the first time)"
	@for peer in $$(grep -v '^#' benchmarks/peers.txt); do \
		$(BENCH_PIP) "$$peer" || echo "      $$peer cannot be installed; going on without it"; \
	done
	@touch $@
