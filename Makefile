# Needs Python >= 3.11 and make, nothing else.
#
#   make demo     serve the demo on http://127.0.0.1:8050 (PORT=…); Ctrl-C ends all of it
#   make test     lint, types, import contracts and all tests; installs what they need
#   make chaos    the long forms of the fault tests: minutes of killing and cutting (SEED=24 CALLS=2400)
#   make bench    measure beside stock Dash and Celery, about 10 minutes (ROW=latency for one row)
#   make lint     lint, types and import contracts alone
#   make format   let ruff format and fix
#   make lock     resolve the dependencies anew, into requirements/ (needs the network)
#   make audit    known vulnerabilities of what runs (needs the network, and PyPI's JSON API)

.DEFAULT_GOAL := help
.PHONY: help demo test chaos bench lint format lock audit clean

VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8050
# Test files side by side: most of their time is waiting for processes to start and to end. In the
# order of their names, which has the short ones last, and not by the number of their tests.
JOBS ?= 3
SEED ?= 24
CALLS ?= 2400

help:
	@sed -n 's/^#   //p' Makefile

# The shell becomes the demo, so that Ctrl-C and SIGTERM reach it.
demo: $(VENV)/.demo
	@scripts/system-deps $(VENV) embedded-redis
	@exec env HOST=$(HOST) PORT=$(PORT) $(BIN)/python examples/demo.py

test: $(VENV)/.dev
	@scripts/system-deps $(VENV) redis-server chromium-headless-shell nginx openssl wget
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The report of the random mix comes first; then the other fault tests at their full counts.
chaos: $(VENV)/.dev
	@scripts/system-deps $(VENV) redis-server nginx
	SEED=$(SEED) CALLS=$(CALLS) TEST_SCALE=full $(BIN)/python -m pytest -s tests/chaos
	TEST_SCALE=full $(BIN)/python -m pytest -s -m faults tests/faults
	TEST_SCALE=full $(BIN)/python -m pytest -s tests/security/test_hostile_messages.py

bench: $(VENV)/.dev
	@scripts/system-deps $(VENV) redis-server chromium-headless-shell
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

# Not part of `make test`: where PyPI's database cannot be asked, nothing could be found. --strict
# makes that a failure here.
audit: $(VENV)/.dev
	@$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/demo.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
