# `make` alone says what there is. Everything is kept in .venv and .tools; nothing outside this folder is
# touched, but that root (a container, CI) gets the package for virtual environments installed when it is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One Makefile's targets in the order in which they are written, also with -j: test and check share .venv.
.NOTPARALLEL:

BIN := .venv/bin
# Without this a missing Python would be fetched from a host that many networks do not reach.
export UV_PYTHON_DOWNLOADS ?= never
# A user without a home (nobody) still needs a place for the cache.
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export UV_CACHE_DIR ?= $(CURDIR)/.tools/cache
export PIP_NO_CACHE_DIR ?= 1
endif
# Another environment that happens to be active is none of our business.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

# The first Python that answers and is new enough. Asked to run, not looked up: a version manager's shim may
# stand for nothing.
define FIND_PYTHON
	found=; \
	for python in $(if $(PYTHON),"$(PYTHON)") python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "error: Python 3.11 or newer is needed, found: $$(python3 --version 2>&1 | tail -n 1)" >&2; \
		echo "  fix: install one, or name it: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi
endef

.PHONY: help
help: ## this list
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: .venv/.stamp ## prepare .venv (the command is then .venv/bin/worker)

# A virtual environment of its own for uv, at the pinned version. Debian's python3 alone cannot make one: root gets
# the missing package installed, anybody else is told the line. What is half made is removed.
.tools/uv/.stamp: requirements/uv.lock
	@$(FIND_PYTHON); \
	make_venv() { rm -rf .tools/uv && "$$found" -m venv .tools/uv >/dev/null 2>&1; }; \
	if ! make_venv; then \
		rm -rf .tools/uv; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "setup: installing python3-venv"; \
			export DEBIAN_FRONTEND=noninteractive; \
			apt-get install -y -qq python3-venv >/dev/null 2>&1 \
				|| { apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; } \
				|| true; \
		fi; \
		if ! make_venv; then \
			rm -rf .tools/uv; \
			echo "error: $$found cannot make virtual environments." >&2; \
			echo "  fix: sudo apt-get install -y python3-venv" >&2; \
			exit 1; \
		fi; \
	fi; \
	.tools/uv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.lock \
		|| { rm -rf .tools/uv; exit 1; }
	@touch $@

# Everything by hash, the build backend too, so that the editable install fetches nothing.
.venv/.stamp: pyproject.toml requirements/dev.lock .tools/uv/.stamp
	@echo "setup: preparing .venv"
	@uv=.tools/uv/bin/uv; \
	if [ -x $(BIN)/python ] && ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		rm -rf .venv; \
	fi; \
	"$$uv" venv -q --allow-existing --python .tools/uv/bin/python .venv \
		&& "$$uv" pip sync -q --require-hashes --python $(BIN)/python requirements/dev.lock \
		&& "$$uv" pip install -q --no-deps --no-build-isolation --python $(BIN)/python -e . \
		|| { [ -e $@ ] || rm -rf .venv; exit 1; }
	@touch $@

.PHONY: check
check: setup ## lint, formatting and types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

.PHONY: test
test: setup have-broker ## the whole test suite against a real broker (ARGS="-k name" for a part)
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: faults
faults: setup have-broker ## every fault of the matrix, also those that take long (ARGS="-k row_15" for a part)
	@FAULTS=all $(BIN)/python -m pytest tests/faults tests/hostile $(ARGS)

.PHONY: fuzz
fuzz: setup have-broker ## random hostile messages against a real worker, and one summary (N=20000 SEED=1)
	@$(BIN)/python -m tests.hostile $(if $(N),--count $(N)) $(if $(SEED),--seed $(SEED))

.PHONY: soak
soak: setup have-broker ## random faults under load, and one summary (JOBS=5000 SEED=1 RATE=100)
	@$(BIN)/python -m tests.faults.soak $(if $(JOBS),--jobs $(JOBS)) $(if $(SEED),--seed $(SEED)) $(if $(RATE),--rate $(RATE))

.PHONY: isolation
isolation: setup have-broker ## a dead, slow or full host beside a healthy one, as a table (ARGS="--seconds 20 --peers")
	@$(BIN)/python -m tests.benchmarks.isolation $(ARGS)

.PHONY: simulate
SEEDS ?= 0..5000
simulate: setup ## jobs, faults and restarts by chance on a simulated broker (SEEDS=0..5000, one seed: SEEDS="-v 17")
	@$(BIN)/python -m tests.simulation $(SEEDS)

.PHONY: demo
demo: setup ## a broker, a worker and a target on this machine, with jobs going through
	@$(BIN)/python -m worker.dev.node fetch
	@$(BIN)/python -m worker.dev.demo $(ARGS)

.PHONY: broker
broker: setup ## a private RabbitMQ node in the foreground; Ctrl-C ends it
	@$(BIN)/python -m worker.dev.node run $(ARGS)

# The tests themselves decide what a missing broker means: skipped at home, a failure on CI.
.PHONY: have-broker
have-broker: setup
	@[ -n "$${WORKER_TEST_AMQP_URL:-}" ] || $(BIN)/python -m worker.dev.node fetch || true

# Everything that needs a broker, in a chroot with a Debian that has RabbitMQ 4. Root, or nothing: see docs/development.md.
.PHONY: test-rabbitmq-4
test-rabbitmq-4: setup ## the tests with a broker against RabbitMQ 4 (needs root, 250 MB; ARGS="-k name" for a part)
	@$(BIN)/python -m worker.dev.chroot fetch
	@CI=true WORKER_TEST_RABBITMQ=4 $(BIN)/python -m pytest tests/amqp tests/cli tests/deploy/test_broker.py tests/dev/test_node.py \
		tests/dev/test_demo.py tests/examples tests/faults tests/hostile tests/process $(ARGS)

.PHONY: check-deploy
check-deploy: setup ## all of deploy/ by the programs that read it, no engine and no cluster needed (fetches 65 MB once)
	@$(BIN)/python -m tests.deploy

.PHONY: fmt
fmt: setup ## format, and repair what the linter can repair
	@$(BIN)/python -m ruff check --fix-only -q .
	@$(BIN)/python -m ruff format .

# No addresses in these files: they install from whatever index the machine is set up for.
LOCK := .tools/uv/bin/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11
.PHONY: lock
lock: .tools/uv/.stamp ## re-make requirements/*.lock and check-deploy's (UPGRADE=1: with the newest versions)
	@$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements/runtime.lock
	@$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --group dev -o requirements/dev.lock
	@echo uv | $(LOCK) $(if $(UPGRADE),--upgrade) - -o requirements/uv.lock
	@$(LOCK) $(if $(UPGRADE),--upgrade) tests/deploy/tools.in -o tests/deploy/tools.lock
	@! grep -n '://' requirements/*.lock tests/deploy/tools.lock

.PHONY: clean
clean: ## remove what was made here, .venv and .tools too
	@rm -rf .venv .tools dist build htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
