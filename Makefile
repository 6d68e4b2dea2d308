# Every target sets up what it needs in .venv; a second run finds it there.
#   make demo                     figures in out/demo, on the bundled photographs
#   make test                     the test suite, but for the frameworks and the browser
#   make test-integrations        the rest: each framework for real, and the browser where there is one
#   make check                    lint, format, types, import rules
#   make docs                     the documentation's pages in out/docs; a broken link is an error
#   make test-wheel               wheel and sdist, installed into an empty environment
#   make benchmark DATA=folder    engine figures on a folder of photographs
# PYTHON=python3.12 picks the interpreter that makes .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-integrations check docs test-wheel benchmark clean
.DEFAULT_GOAL := test

demo: $(VENV)/installed-figures
	@echo "demo: drawing figures into out/demo"
	@$(BIN)/relqa demo --out out/demo

test: $(VENV)/installed-dev
	@echo "test: running the test suite"
	@$(BIN)/python -m pytest --quiet

test-integrations: $(VENV)/installed-integrations
	@echo "test-integrations: running the tests of the integrations"
	@$(BIN)/python -m pytest --quiet tests/integrations

check: $(VENV)/installed-dev
	@echo "check: ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "check: ruff format"
	@$(BIN)/ruff format --quiet --check .
	@echo "check: mypy"
	@$(BIN)/mypy --no-error-summary
	@echo "check: import rules"
	@$(BIN)/python -m pytest --quiet tests/test_imports.py

docs: $(VENV)/installed-docs
	@echo "docs: building the pages into out/docs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "docs: open out/docs/index.html"

test-wheel: $(VENV)/installed-dev
	@echo "test-wheel: building, and installing with every dependency into an empty environment (some minutes)"
	@$(BIN)/python -m pytest --quiet tests/test_wheel.py --empty-environment

benchmark: $(VENV)/installed-dev
	@test -n "$(DATA)" || { echo "make benchmark needs DATA=folder of photographs"; exit 2; }
	@echo "benchmark: engine figures on $(DATA)"
	@$(BIN)/relqa benchmark engine --data "$(DATA)"

$(BIN)/python:
	@echo "set-up: $(PYTHON) -m venv $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed-figures: pyproject.toml | $(BIN)/python
	@echo "set-up: pip install -e .[figures] (some minutes the first time)"
	@$(PIP) -e ".[figures]"
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "set-up: pip install -e .[dev] (some minutes the first time)"
	@$(PIP) -e ".[dev]"
	@touch $(VENV)/installed-figures $@

$(VENV)/installed-integrations: $(VENV)/installed-dev
	@echo "set-up: pip install -e .[dev,integrations] (some minutes the first time)"
	@$(PIP) -e ".[dev,integrations]"
	@touch $@

$(VENV)/installed-docs: pyproject.toml | $(BIN)/python
	@echo "set-up: pip install -e .[docs] (some minutes the first time)"
	@$(PIP) -e ".[docs]"
	@touch $@

clean:
	@echo "clean: removing .venv, out and caches"
	@rm -rf $(VENV) out dist build .pytest_cache .mypy_cache .ruff_cache
