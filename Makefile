# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# What the installation depends on; Python sources are installed in place and need no new set-up.
BUILD := pyproject.toml constraints.txt setup.py build_support.py $(shell find csrc -type f)

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.installed ## make .venv, install the pinned dependencies, build the library

.venv/.installed: $(BUILD)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, PYTHON=$(PYTHON) is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade -c constraints.txt pip setuptools ninja
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[all,dev]'
	$(BIN)/emergence doctor --brief
	@touch $@

test: .venv/.installed ## run the tests and print their coverage; ARGS='-m slow' for the slow ones
	@$(BIN)/pytest --cov --cov-report=term $(ARGS)

demo: .venv/.installed ## train a small network on digits and write runs/demo/report.html
	@$(BIN)/emergence demo --out runs/demo

lint: .venv/.installed ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -type f)

bench: .venv/.installed ## time the ops beside the reference
	@$(BIN)/python -m benchmarks

clean: ## remove what was built; .venv and runs stay
	rm -rf build dist *.egg-info emergence_ext/*.so emergence_ext/_build.json .venv/.installed
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +
