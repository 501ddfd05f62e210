# Needs Python >= 3.11 and make, nothing else.
#
#   make demo     serve the demo on http://127.0.0.1:8050 (PORT=…); Ctrl-C ends all of it
#   make test     lint, types, import contracts and all tests; installs what they need
#   make bench    measure beside stock Dash and Celery, about 8 minutes (ROW=latency for one row)
#   make lint     lint, types and import contracts alone
#   make format   let ruff format and fix
#   make lock     resolve the dependencies anew, into requirements/ (needs the network)

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint format lock clean

VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8050
# Test files side by side: most of their time is waiting for processes to start and to end. In the
# order of their names, which has the short ones last, and not by the number of their tests.
JOBS ?= 3

help:
	@sed -n 's/^#   //p' Makefile

# The shell becomes the demo, so that Ctrl-C and SIGTERM reach it.
demo: $(VENV)/.demo
	@scripts/system-deps $(VENV) embedded-redis
	@exec env HOST=$(HOST) PORT=$(PORT) $(BIN)/python examples/demo.py

test: $(VENV)/.dev
	@scripts/system-deps $(VENV) redis-server chromium nginx wget
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

bench: $(VENV)/.dev
	@scripts/system-deps $(VENV) redis-server chromium
	$(BIN)/python -m benchmarks $(ROW)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A changed lock makes the environment anew; a changed pyproject.toml only installs the package again.
$(VENV)/.demo: requirements/demo.txt pyproject.toml scripts/venv
	@scripts/venv $(VENV) demo

$(VENV)/.dev: requirements/dev.txt requirements/demo.txt pyproject.toml scripts/venv
	@scripts/venv $(VENV) dev

# One lock for Python 3.11 and later on every platform, with hashes and without an index's address.
# "fewest": one version of a package on all of them, so that what is tested is what is deployed.
# demo.txt is what runs (and what worker/Dockerfile installs), dev.txt adds tests and lint. They are
# resolved apart, so that an old pin of a test tool never reaches an image.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-annotate --no-header --upgrade pyproject.toml --all-extras --group build
lock: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --group test --group lint --output-file requirements/dev.txt
	$(COMPILE) --output-file requirements/demo.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
