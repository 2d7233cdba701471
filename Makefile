# make demo    stream a continuation by the embedded model      (PROMPT="…" changes the text)
# make test    lint, types and tests                            make test-all   the long ones
# make bench   measure this machine, rewriting benchmarks/results

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PROMPT ?= Once upon a time
BUILD_INPUTS := pyproject.toml constraints.txt $(wildcard CMakeLists.txt src/gpt2/native/*.cpp src/gpt2/native/*.h)

# Small matrices are slower on all cores than on one; the engine's tests set its own threads.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest

.PHONY: demo test test-all test-sanitized test-kernels test-install browser lint types bench clean

demo: $(VENV)/installed
	@$(BIN)/gpt2 generate "$(PROMPT)"

test: $(VENV)/completed lint types
	$(PYTEST) -n 2 -m "not long"

test-all: $(VENV)/completed $(VENV)/refereed browser
	$(PYTEST) -n 2 -m long
	$(MAKE) test-sanitized test-kernels test-install

# The kernels' tests again, with every stray memory access and undefined operation an error (gcc, Linux).
SANITIZED := build/sanitized/libgpt2_native.so
test-sanitized: $(VENV)/completed
	$(BIN)/cmake -S . -B build/sanitized -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DGPT2_SANITIZE=ON && $(BIN)/cmake --build build/sanitized
	GPT2_NATIVE_LIBRARY=$(CURDIR)/$(SANITIZED) ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	  $(PYTEST) tests/native tests/backends/test_native.py --ignore tests/native/test_other_processors.py

# The GPU kernels in Triton's interpreter; without Triton they are skipped, for which pytest's exit code is 5.
test-kernels: $(VENV)/completed
	TRITON_INTERPRET=1 $(PYTEST) -n 2 tests/backends/test_torch_kernels.py || [ $$? = 5 ]

# A browser for the tests of the page, if Debian's packages can be installed. Without one they are skipped, and say so.
browser:
	@command -v chromium > /dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq --no-install-recommends chromium fonts-noto-core > /dev/null; } || \
	  echo "no Chromium, and none can be installed: the tests of the page are skipped"

# What a user gets from `pip install .` alone, in a fresh environment; then the same without a compiler.
ALONE := build/alone/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
test-install:
	rm -rf build/alone && $(PYTHON) -m venv build/alone
	$(ALONE) .
	cd build && alone/bin/python ../tests/install_check.py
	CC=false CXX=false $(ALONE) --force-reinstall --no-deps .
	cd build && alone/bin/python ../tests/install_check.py --without-compiler

lint: $(VENV)/completed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/completed
	$(BIN)/basedpyright

# Two need texts as arguments, and two are parts of others.
NOT_ALONE := $(addprefix benchmarks/,calibration.py detection.py curves.py detection_texts.py)
bench: $(VENV)/completed
	@for script in $(filter-out $(NOT_ALONE),$(sort $(wildcard benchmarks/*.py))); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# Dependencies to run: no PyTorch.
$(VENV)/installed: $(BUILD_INPUTS) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	$(BIN)/python -m compileall -q src/gpt2
	@touch $@

# Dependencies of the tests, in the same environment.
$(VENV)/completed: $(BUILD_INPUTS) Makefile | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[train,data,corpus,evaluate,serve,detect,dev]'
	$(BIN)/python -m compileall -q src/gpt2
	@touch $@ $(VENV)/installed

# Peers that the long tests compare with.
$(VENV)/refereed: $(VENV)/completed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[referees]'
	@touch $@
