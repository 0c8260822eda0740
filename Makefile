# Everything a user or a developer starts, by one word. Nothing but Python 3.11+ and make is needed;
# what the target needs is installed into .venv from the hashed locks, once.

VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: help demo run test compiled torture bench check fmt gen lock clean

help:
	@echo "make demo        show the main job with the real Envoy (STAY=1 keeps it running)"
	@echo "make run         start the service for real use"
	@echo "make test        all tests; PYTEST_ARGS adds to the pytest command line"
	@echo "make torture     the tests that take long"
	@echo "make bench       measure, print one JSON (QUICK=1: a short run that only proves that it works)"
	@echo "make check       format, lint, types, import rules, generated files"
	@echo "make fmt gen lock clean"

demo: $(VENV)/.demo
	@$(BIN)/gatehouse demo $(if $(STAY),--stay)

run: $(VENV)/.demo
	@$(BIN)/gatehouse run

test: $(VENV)/.dev compiled
	$(BIN)/python -m pytest -m "not torture" $(PYTEST_ARGS)

torture: $(VENV)/.dev compiled
	$(BIN)/python -m pytest -m torture $(PYTEST_ARGS)

# The tests start hundreds of processes, and some environments forbid Python to keep what it compiles.
compiled: $(VENV)/.dev
	@$(BIN)/python -m compileall -q -j 0 app migrations tests/bench tests/support

bench: $(VENV)/.dev
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick)

check: $(VENV)/.dev
	@scripts/check lint types imports generated locks image

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

gen: $(VENV)/.dev
	scripts/generate-all

lock:
	scripts/lock

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# A stamp is newer than what it was made from, so the second time costs nothing.
$(VENV)/.demo: requirements/demo.lock pyproject.toml scripts/setup
	@scripts/setup demo

$(VENV)/.dev: requirements/dev.lock pyproject.toml scripts/setup
	@scripts/setup dev
