# make demo and make test are all that a newcomer needs: Python 3.11 or newer, make, and a package index.
PYTHON ?= python3
BIN := .venv/bin
SHELL := bash
PARTS := test-commands test-others quick-lint quick-pure quick-others
.DEFAULT_GOAL := help
.PHONY: help demo dev test quick check lint bench chaos simulate lock clean $(PARTS)

help:
	@echo "make demo   a simulated engine through the real stack, in about a minute"
	@echo "make dev    PostgreSQL, Temporal and a worker, in the foreground"
	@echo "make quick  what a change is tried with: lint, and every test that needs no server"
	@echo "make check  lint, and the tests of one place: make check TESTS=tests/store"
	@echo "make test   the whole test suite, against a real PostgreSQL and Temporal"
	@echo "make lint   ruff, mypy, import layers, container files"
	@echo "make bench  speed, as ratios measured side by side"
	@echo "make chaos  an hour of random faults, then an independent recomputation: make chaos SECONDS=3600 SEED=7"
	@echo "make simulate  what mining makes of markets without an edge, and of planted edges; what reverting weights costs: make simulate SEEDS=20 FIRST=0"
	@echo "make lock   pin the dependencies again"

.venv/installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

demo: .venv/installed
	@$(BIN)/closeloop demo

dev: .venv/installed
	@$(BIN)/closeloop dev

# Parts that run side by side, each a process with servers of its own, and are seen while they run. All of them are
# run to their end (-k); one that fails fails the whole.
together = +@$(MAKE) --no-print-directory -k -j$(words $(1)) $(1)
# Bash reads line by line; awk and sed may keep back what they have read until a block is full.
prefixed = while IFS= read -r line; do printf '%s\n' "$(1)  $$line"; done
pytest = set -o pipefail; PYTHONUNBUFFERED=1 $(BIN)/python -m pytest $(2) 2>&1 | $(call prefixed,$(1))

COMMANDS := tests/cli tests/faults
test: .venv/installed-dev
	$(call together,test-commands test-others)

test-commands: ; @$(call pytest,commands,$(COMMANDS))
test-others: ; @$(call pytest,others  ,$(COMMANDS:%=--ignore=%))

PURE := tests/learning src/closeloop/learning
quick: .venv/installed-dev
	$(call together,quick-lint quick-pure quick-others)

quick-lint: ; @$(lint) 2>&1 | $(call prefixed,lint  )
quick-pure: ; @$(call pytest,pure  ,--no-server $(PURE))
quick-others: ; @$(call pytest,others,--no-server $(PURE:%=--ignore=%))

check: .venv/installed-dev
	@test -n "$(TESTS)" || { echo "say which tests: make check TESTS=tests/store"; exit 2; }
	@$(lint)
	$(BIN)/python -m pytest $(TESTS)

# ruff and mypy remember what they have read: only what changed since is looked at again.
lint = set -eo pipefail; $(BIN)/ruff check .; $(BIN)/ruff format --check .; $(BIN)/mypy; $(BIN)/mypy client/closeloop_client; $(BIN)/lint-imports

lint: .venv/installed-dev
	@$(lint)
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec temporal-dev.yml
	$(BIN)/hadolint deploy/Dockerfile

bench: .venv/installed-dev
	PYTHONPATH=client $(BIN)/python -m bench

SECONDS ?= 3600
chaos: .venv/installed-dev
	$(BIN)/python -m tests.faults.campaign --pause 20 --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# FIRST=1000: fresh seeds.
SEEDS ?= 20
FIRST ?= 0
simulate: .venv/installed-dev
	$(BIN)/python -m tests.simulate --seeds $(SEEDS) --first $(FIRST)

# uv resolves for every platform and Python at once; it is needed only here. Releases younger than two weeks are left out.
lock:
	uv pip compile --quiet --exclude-newer "2 weeks" --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements.lock
	uv pip compile --quiet --exclude-newer "2 weeks" --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
