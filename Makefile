# From a PyTorch model to a measured deployment:  make deploy DEVICE=raspberrypi|jetson|android|ssh:user@host|…
# Every result is a file under build/; a second run redoes only what changed. `msq` does the work.

DEVICE  ?= raspberrypi
RECIPE  ?= fashion-resnet8
RUNTIME ?= onnxruntime
IMAGES  ?=
PROTOCOL ?= quick
SECONDS ?= 600
JOBS    ?= 1
PYTHON  ?= python3
# Extra options for pip, e.g. PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu" for torch without CUDA.
PIP_OPTIONS ?=

VENV := .venv
MSQ  := $(VENV)/bin/msq
PY   := $(VENV)/bin/python
RUN  := build/$(RECIPE)
RECIPE_FILE := recipes/$(RECIPE).yaml

SETUP       := $(VENV)/.installed
DEV_SETUP   := $(VENV)/.installed-dev
ZIG_SETUP   := $(VENV)/.installed-kernels
TVM_SETUP   := $(VENV)/.installed-tvm
KERNELS     := $(foreach processor,x86_64 aarch64,runtimes/kernels/lib/$(processor)/libmsq_kernels.so runtimes/kernels/lib/$(processor)/msq-run)
CHECKED_KERNELS := build/kernels/checked/libmsq_kernels.so
CHECKPOINT  := $(RUN)/checkpoint/checkpoint.json
BUNDLE      := $(RUN)/$(RUNTIME)/bundle/manifest.json
# DEVICE may be ssh:user@host: a colon has a meaning of its own in a rule.
PLACE       := $(subst /,-,$(subst :,-,$(DEVICE)))
MEASUREMENT := $(RUN)/$(RUNTIME)/$(PLACE).json
SETTINGS    := $(MEASUREMENT:.json=.settings)
PAGE        := $(RUN)/$(RUNTIME)/$(PLACE).html
# The test images that a report shows, where they are at hand.
PICTURES     = $(addprefix --evaluation ,$(wildcard $(RUN)/checkpoint/evaluation))

# Code that an artefact depends on: its own stage's and the shared contracts, not the stages after it.
sources = $(shell find $(1) -name '*.py' -o -name '*.toml' 2>/dev/null)
SHARED := $(filter-out msq/cli.py msq/device_cli.py msq/terminal.py,$(wildcard msq/*.py))

.DELETE_ON_ERROR:
.PHONY: FORCE help setup kernels deploy check train export measure report gallery wheel test sanitize fuzz lint format bench-accuracy bench-ablation bench-training bench-kernels bench-avx2 bench-memory bench-models bench-litert bench-tool bench-counts bench-report clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  DEVICE=$(DEVICE) RECIPE=$(RECIPE) RUNTIME=$(RUNTIME); IMAGES=n limits the test images run on the device,"
	@echo "  PROTOCOL=$(PROTOCOL) says how they are timed"

setup: $(SETUP) ## make the virtual environment in .venv and install everything into it

deploy: measure ## train, export, run on DEVICE and report, as far as not yet done
	@$(MAKE) --no-print-directory report

check: $(SETUP) ## check RECIPE, DEVICE and RUNTIME without running anything
	@$(MSQ) check $(RECIPE_FILE) --device $(DEVICE) --runtime $(RUNTIME)

train: check ## train RECIPE: float run, 8-bit baseline, MSQ
	@$(MAKE) --no-print-directory $(CHECKPOINT)

export: check ## lower the trained model to a bundle for RUNTIME
	@$(MAKE) --no-print-directory $(BUNDLE)

measure: check ## run the bundle on DEVICE
	@$(MAKE) --no-print-directory $(MEASUREMENT)

report: $(SETUP) ## write the report page, print its table and judge the recipe's gates
	@$(MSQ) report $(MEASUREMENT) --out $(PAGE) --recipe $(RECIPE_FILE) $(PICTURES)

$(CHECKPOINT): $(RECIPE_FILE) $(call sources,train) $(SHARED) | $(SETUP)
	$(MSQ) train $(RECIPE_FILE) --out $(@D) --work build/work

# With the packed kernels, unless a stock runtime is asked for; and TVM, where it is.
$(BUNDLE) $(MEASUREMENT): $(if $(filter onnxruntime native litert tflite-runtime tvm,$(RUNTIME)),$(KERNELS)) | $(if $(filter tvm%,$(RUNTIME)),$(TVM_SETUP))

$(BUNDLE): $(CHECKPOINT) $(call sources,export) $(call sources,runtimes) | $(SETUP)
	$(MSQ) export $(RUN)/checkpoint --runtime $(RUNTIME) --out $(@D)

# What was asked for beside the names in the path: asked for otherwise, a device is measured anew.
$(SETTINGS): FORCE
	@mkdir -p $(@D) && echo "$(IMAGES) $(PROTOCOL)" | cmp -s - $@ || echo "$(IMAGES) $(PROTOCOL)" > $@

$(MEASUREMENT): $(BUNDLE) $(SETTINGS) $(call sources,devices) | $(SETUP)
	$(MSQ) measure $(<D) --evaluation $(RUN)/checkpoint/evaluation --device $(DEVICE) --runtime $(RUNTIME) \
	    $(if $(IMAGES),--images $(IMAGES)) --protocol $(PROTOCOL) --out $@

$(SETUP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than Python 3.11" >&2; echo "hint: make PYTHON=python3.12 …" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
	    { echo "error: no virtual environment can be made" >&2; echo "hint: install python3-venv" >&2; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -e .
	@touch $@

$(DEV_SETUP): $(SETUP)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -e .[dev]
	@touch $@

$(ZIG_SETUP): pyproject.toml | $(SETUP)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -e .[kernels]
	@touch $@

$(TVM_SETUP): pyproject.toml | $(SETUP)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -e .[tvm]
	@touch $@

kernels: $(KERNELS) ## build the packed kernels, the native runtime and the delegate for x86-64 and aarch64, with zig from PyPI

# $(call zig_build,processor,C library,folder,more options of CMake,targets)
define zig_build
	$(VENV)/bin/cmake -S runtimes/kernels -B $(3) -G Ninja --log-level=WARNING \
	    -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(VENV)/bin/ninja -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/runtimes/kernels/zig.cmake \
	    -DMSQ_TARGET=$(1)-linux-$(2) $(4) \
	    -DMSQ_ZIG=$$($(PY) -c 'import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).parent / "zig")')
	$(VENV)/bin/cmake --build $(3) --target $(5)
endef

KERNEL_SOURCES := $(wildcard runtimes/kernels/*.* runtimes/executor/*.* runtimes/delegate/*.*) msq/__init__.py
FUZZ_SOURCES   := $(wildcard tests/fuzz/*.c tests/fuzz/*.h)

LIBRARIES := libmsq_kernels.so libmsq_native.so libmsq_litert.so libmsq_tvm.a

$(addprefix runtimes/kernels/lib/%/,$(LIBRARIES)): $(KERNEL_SOURCES) | $(ZIG_SETUP)
	$(call zig_build,$*,gnu.2.17,build/kernels/$*,,$(basename $(LIBRARIES:lib%=%)))
	@# Moved, not written over: a program may have the last one in use.
	@mkdir -p $(@D) && for library in $(LIBRARIES); do \
	    cp build/kernels/$*/$$library $(@D)/$$library.new && mv $(@D)/$$library.new $(@D)/$$library; done

# Static, by musl: it runs where there is nothing else.
runtimes/kernels/lib/%/msq-run: $(KERNEL_SOURCES) | $(ZIG_SETUP)
	$(call zig_build,$*,musl,build/kernels/$*-static,,msq-run)
	@mkdir -p $(@D) && cp build/kernels/$*-static/msq-run $@.new && mv $@.new $@

gallery: $(DEV_SETUP) measure ## the pictures of docs/gallery.md, of a report on DEVICE; best with DEVICE=local RUNTIME=native
	@$(MSQ) report $(MEASUREMENT) --out build/gallery.html --recipe $(RECIPE_FILE) $(PICTURES) || test $$? -eq 12
	$(PY) -m tests.reports.gallery build/gallery.html

wheel: $(SETUP) $(KERNELS) ## a wheel of the project with the kernels of both processors, in build/wheel
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .

# Stops where a calculation is undefined; with the fuzz targets, to be run on the inputs that are kept.
$(CHECKED_KERNELS): $(KERNEL_SOURCES) $(FUZZ_SOURCES) | $(ZIG_SETUP)
	$(call zig_build,$(shell uname -m),gnu.2.17,$(@D),-DMSQ_SANITIZE=ON,all)

sanitize: $(DEV_SETUP) $(KERNELS) ## tests of the C libraries under AddressSanitizer, by the machine's gcc
	$(VENV)/bin/cmake -S runtimes/kernels -B build/kernels/asan --log-level=WARNING -DMSQ_SANITIZE=ON -DCMAKE_C_COMPILER=gcc
	$(VENV)/bin/cmake --build build/kernels/asan
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    MSQ_KERNELS_LIBRARY=build/kernels/asan/libmsq_kernels.so MSQ_NATIVE_LIBRARY=build/kernels/asan/libmsq_native.so \
	    MSQ_LITERT_LIBRARY=build/kernels/asan/libmsq_litert.so MSQ_FUZZ_PROGRAMS=build/kernels/asan \
	    $(PY) -m pytest -p no:faulthandler -n 0 tests/runtimes/test_kernels.py tests/runtimes/test_native.py \
	    tests/runtimes/test_litert.py tests/runtimes/test_fuzz_inputs.py -k "not emulated"

fuzz: $(DEV_SETUP) $(ZIG_SETUP) ## invent inputs for all that reads a bundle: SECONDS=n JOBS=n, ARGS=--coverage
	$(PY) -m tests.fuzz --seconds $(SECONDS) --jobs $(JOBS) $(ARGS)

test: $(DEV_SETUP) $(TVM_SETUP) $(KERNELS) $(CHECKED_KERNELS) lint ## lint, types, architecture, and all tests
	$(PY) -m pytest

lint: $(DEV_SETUP) ## ruff, mypy and the import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(DEV_SETUP) ## let ruff mend what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench-accuracy: $(SETUP) ## every method at matched size: ARGS="--data … --model … --seeds n --epochs n"; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.accuracy $(ARGS)

bench-ablation: $(SETUP) ## MSQ with one option changed at a time: the evidence for its defaults; ARGS as above
	$(PY) -m benchmarks.accuracy --ablation $(ARGS)

bench-training: $(SETUP) ## parameters, step time and memory of every method; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.training $(ARGS)

bench-kernels: $(SETUP) $(KERNELS) ## packed kernels beside ONNX Runtime's and LiteRT's, layer by layer; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.kernels $(ARGS)

bench-avx2: $(SETUP) $(KERNELS) ## the tiers without AVX-512 beside ONNX Runtime without it; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.avx2 $(ARGS)

bench-memory: $(SETUP) $(KERNELS) ## what packed layers and ONNX Runtime's int8 hold in memory; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.memory $(ARGS)

bench-models: $(SETUP) $(TVM_SETUP) $(KERNELS) ## whole models, native and through the hooks, beside ONNX Runtime's int8; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.models $(ARGS)

bench-litert: $(SETUP) $(KERNELS) ## layers and models in LiteRT with our delegate beside LiteRT alone; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.delegate $(ARGS)

bench-tool: $(SETUP) $(KERNELS) ## msq measure beside LiteRT's own benchmark tool, on one file; CHECK=1 fails where they differ
	$(PY) -m benchmarks.tool $(ARGS)

bench-counts: $(SETUP) $(KERNELS) ## instructions of the packed kernels on arm64 beside ONNX Runtime's and LiteRT's; CHECK=1 fails on a missed bar
	$(PY) -m benchmarks.counts $(ARGS)

bench-report: $(DEV_SETUP) ## a page of 200 runs of 60 layers, made and opened in Chromium; CHECK=1 fails on a missed bar
	$(PY) -m tests.reports.bench $(ARGS)

clean: ## remove build/ (the cache of data and emulators stays: ~/.cache/msq)
	rm -rf build

distclean: clean ## also remove the virtual environment
	rm -rf $(VENV)
