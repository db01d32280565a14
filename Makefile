# `make help` lists the targets. Everything runs inside .venv; nothing is installed outside this folder.
SHELL := /bin/sh
PYTHON ?= python3.11
BIN := .venv/bin
export ASK

.PHONY: help install demo check test bench chaos fuzz lock clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 12

install: ## Create .venv with the pinned dependencies and pull the default models (a second run takes seconds)
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "Python 3.11 was not found as '$(PYTHON)'. Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) cluster/install.py
	@$(BIN)/objecta models pull

demo: install ## Start everything, ingest documents, ask, show a cited answer (ONCE=1, DOCS=folder, ASK="a question")
	@DOCS="$(DOCS)"; ONCE="$(ONCE)"; \
	set -- demo; \
	[ -z "$$DOCS" ] || set -- "$$@" --docs "$$DOCS"; \
	[ -z "$$ASK" ] || set -- "$$@" --ask "$$ASK"; \
	[ -z "$$ONCE" ] || set -- "$$@" --once; \
	exec $(BIN)/objecta "$$@"

check: install ## Lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: check ## All checks and all tests
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report=
	$(BIN)/python -m pytest -m slow --cov --cov-append --cov-report=term --cov-fail-under=90

bench: install ## Run every benchmark; each prints one JSON object last (LiteLLM gets an environment of its own)
	$(BIN)/python -m benchmarks.gateway_overhead
	$(BIN)/python -m benchmarks.engine_parity
	$(BIN)/python -m benchmarks.connections
	$(BIN)/python -m benchmarks.admission
	$(BIN)/python -m benchmarks.ingest

chaos: install ## At length what the tests do briefly: budgets in any order of events, and under kills and hang-ups
	CHAOS_TIMES=50 $(BIN)/python -m pytest --timeout 7200 tests/serve/test_admission_machine.py
	$(BIN)/python -m benchmarks.admission

fuzz: install ## 10,000 generated requests (or FUZZ_CASES) against the descriptions of gateway and control plane
	FUZZ_CASES=$${FUZZ_CASES:-10000} $(BIN)/python -m pytest --timeout 7200 -s tests/fuzz

lock: ## Resolve requirements.lock anew
	$(BIN)/python cluster/install.py --lock

clean: ## Remove the environment and caches
	rm -rf .venv .cache .pytest_cache .ruff_cache
