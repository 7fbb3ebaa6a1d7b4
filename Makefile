# `make demo` and `make test` do all the set-up there is: a .venv with pinned, hash-checked dependencies.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
OLDEST := .venv-oldest/.ready
BENCH := .venv-bench/.ready
BENCH_ARGS ?=

.PHONY: demo test test-oldest check lint types imports bench soak lock clean help

help: ## Say what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

# Bytecode is compiled here, whatever PYTHONDONTWRITEBYTECODE says: without it an actor takes 1 s to start instead of 0.4.
$(READY): pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j 0 .venv/lib agentspan || true
	touch $(READY)

$(OLDEST): pyproject.toml requirements/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(OLDEST)

# The systems to compare with. Restate's server is an npm package; without npm the results say that it is missing.
$(BENCH): pyproject.toml requirements/bench.txt benchmarks/restate/package-lock.json
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	env -u PYTHONDONTWRITEBYTECODE .venv-bench/bin/python -m compileall -q -j 0 .venv-bench/lib agentspan || true
	cd benchmarks/restate && npm ci --silent || echo "no npm: Restate will be missing"
	touch $(BENCH)

demo: $(READY) ## Watch an agent lose its process and finish anyway
	@$(BIN)/agent-span demo

test: $(READY) ## Run all tests
	$(BIN)/python -m pytest

test-oldest: $(OLDEST) ## Run the graph tests with the oldest langgraph that is admitted
	.venv-oldest/bin/python -m pytest tests/unit/frameworks tests/contract/test_langgraph_conformance.py tests/crash/test_graph_parity.py

check: lint types imports ## Style, types, and who may import whom

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

bench: $(BENCH) ## Measure beside others (25 minutes), renew docs/performance.md; BENCH_ARGS="--minutes 10"
	.venv-bench/bin/python -m benchmarks $(BENCH_ARGS)

soak: $(READY) ## Ten minutes of faults under load (SEED=7 MINUTES=60 STORE=sqlite RETENTION=60s)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) --store $(or $(STORE),both) $(if $(SEED),--seed $(SEED)) \
		$(if $(RETENTION),--retention $(RETENTION))

lock: ## Pin the dependencies anew (needs uv)
	uv pip compile pyproject.toml --extra client --extra postgres --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements/dev.txt
	uv pip compile pyproject.toml --extra client --extra postgres --group dev --universal --python-version 3.11 \
		--constraint requirements/oldest.in --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" -o requirements/oldest.txt
	uv pip compile pyproject.toml --extra postgres --group dev --group bench --universal --python-version 3.11 \
		--constraint requirements/dev.txt --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" -o requirements/bench.txt

clean: ## Remove the environment and caches
	rm -rf .venv .venv-oldest .venv-bench benchmarks/restate/node_modules .mypy_cache .ruff_cache .import_linter_cache .hypothesis
