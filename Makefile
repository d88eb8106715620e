# make demo and make test are all that a newcomer needs: Python 3.11 or newer, make, and a package index.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo dev test lint bench lock clean

help:
	@echo "make demo   a simulated engine through the real stack, in about a minute"
	@echo "make dev    PostgreSQL, Temporal and a worker, in the foreground"
	@echo "make test   the whole test suite, against a real PostgreSQL and Temporal"
	@echo "make lint   ruff, mypy, import layers, container files"
	@echo "make bench  speed, as ratios measured side by side"
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

# Two halves side by side, each with servers of its own: most of the time is waiting for them.
HALF := tests/activities tests/cli

test: .venv/installed-dev
	@$(BIN)/python -m pytest $(HALF) > .half.log 2>&1 & half=$$!; \
	$(BIN)/python -m pytest $(HALF:%=--ignore=%); rest=$$?; \
	wait $$half; first=$$?; cat .half.log; rm -f .half.log; test $$first = 0 -a $$rest = 0

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec temporal-dev.yml
	$(BIN)/hadolint deploy/Dockerfile

bench: .venv/installed-dev
	$(BIN)/python -m bench

# uv resolves for every platform and Python at once; it is needed only here. Releases younger than two weeks are left out.
lock:
	uv pip compile --quiet --exclude-newer "2 weeks" --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements.lock
	uv pip compile --quiet --exclude-newer "2 weeks" --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
