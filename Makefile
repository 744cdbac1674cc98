# The two commands to begin with: `make demo` and `make test`. Each sets up what it needs in .venv.
#
#   make demo       a volume is made, read, checked against zarr-python, and pictured
#   make test       every test that needs no GPU
#   make check      test, lint, types, kernel compile gate, sanitizer build: what has to pass before a change lands
#   make fuzz       damaged input for two minutes, then damaged chunks for the kernels
#   make bench      tables beside other readers on this machine
#   make test-gpu   the device suites on a CUDA machine, with the Python that is there (PYTHON=…)
#   make bench-gpu  goals beside measurements on a CUDA machine, likewise

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto
export PYTHONDONTWRITEBYTECODE = 1

.PHONY: demo test check lint types gates fuzz bench test-gpu bench-gpu clean
.DELETE_ON_ERROR:

# One stamp for each set of extras: it is made anew when pyproject.toml changes, or what is compiled.
$(VENV)/.%: pyproject.toml $(addprefix gpuzarr/native/,core.c build.py hatch.py)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpuzarr needs Python 3.11 or newer; set PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing gpuzarr[$*] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/gpuzarr demo --directory demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -q -m "not gpu" --cov --cov-report=term $(ARGS)

check: test lint types gates

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

gates: $(VENV)/.dev
	$(BIN)/python -m tests.compile_gate
	$(BIN)/python -m pytest -q tests/unit/test_nvcomp.py tests/unit/test_nvrtc.py
	PYTHON=$(BIN)/python bash tests/sanitize.sh
	PYTHON=$(BIN)/python bash tests/sanitize.sh fuzz 10000

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds 120 $(ARGS)
	$(BIN)/python -m tests.fuzz_kernels --count 10000

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.suites $(ARGS)

# No environment is made here: a GPU machine may be offline. The host core is compiled if it can be.
test-gpu:
	-$(PYTHON) -m gpuzarr.native.build
	$(PYTHON) -m tests.gpu $(ARGS)

bench-gpu:
	-$(PYTHON) -m gpuzarr.native.build
	$(PYTHON) -m benchmarks.gpu $(ARGS)

clean:
	rm -rf $(VENV) demo build dist gpuzarr/native/*.so .pytest_cache .mypy_cache .ruff_cache .coverage*
