# Each goal makes what it needs: the virtual environment, the native extension, then its own work.
# What is there and has not changed is not made again.
#
#   make train    train a small model on 2 processes      make lint    formats, types, clang-tidy
#   make test     lint, then every C++ and Python test    make format  put the formats right
#   make bench    report against gloo, bench/results/     make wheel   sdist and wheel in dist/
#   make peers    table against every MPI that is here    make torch-path   what torch adds to it
#   make choose   table of what `auto` chooses against every algorithm
#   make torch-suite   torch's own distributed tests on fastgpu beside gloo; with DDP=ours those
#                      of DistributedDataParallel, our class beside torch's
#   make torch-matrix  builds and tests against several torch: ARGS='2.11.0 2.15.0', or all
#   make device-check  device code on this CPU with SEEDS='1 2 3', and compiled for GPUs
#   make gpu-check      device code checked and measured on this GPU, bench/results/gpu_check.md
#   make hip-check      the same code compiled for AMD's GPUs, where there is hipcc
#   make integrations   Accelerate, Lightning, Ray and others on gloo and on fastgpu
#
# PYTHON=... picks the interpreter, VENV=... the environment, ARGS='...' goes to the command.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc)
ARGS ?=
DDP ?=
SEEDS ?= 1 2 3

bin := $(abspath $(VENV))/bin
export PATH := $(bin):$(PATH)
export CMAKE_GENERATOR := Ninja
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start Python over a hundred times. Without bytecode each `import torch` takes 3 s, not 1.5.
unexport PYTHONDONTWRITEBYTECODE

dependencies := $(VENV)/.dependencies
extension := $(VENV)/.extension
integrations := $(abspath build/integrations)
native_sources := $(shell find csrc cmake -type f) CMakeLists.txt pyproject.toml
cpp_sources := $(shell find bench csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help train test bench peers torch-path choose torch-matrix torch-suite integrations lint format \
  docs-check test-cpp test-python torch-device device-check gpu-code \
  hip-check gpu-check build wheel wheel-check

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

train: $(extension)
	fastgpu-comm train $(ARGS)

bench: $(extension)
	fastgpu-comm bench all_reduce all_gather reduce_scatter broadcast all_to_all \
	  -b 8 -e 64M -f 8 --report bench/results $(ARGS)

peers: $(extension)
	python bench/peers.py $(ARGS)

torch-path: $(extension)
	python bench/torch_path.py $(ARGS)

choose: $(extension)
	python bench/choose.py $(ARGS)

torch-suite: $(extension)
	python tools/torch_suite.py $(if $(DDP),--ddp $(DDP) --world 2 --report \
	  bench/results/torch_suite_ddp.md,--world 3 4 --report bench/results/torch_suite.md) $(ARGS)

# In environments of its own: it needs no extension here.
torch-matrix: $(dependencies)
	python tools/torch_matrix.py $(ARGS)

integrations: $(extension) $(integrations)/.dependencies
	$(integrations)/bin/python bench/integrations.py $(ARGS)

# An environment of its own, which falls back on $(VENV) for torch and for this package.
site_of = $$($(1)/python -c 'import site; print(site.getsitepackages()[0])')
$(integrations)/.dependencies: examples/integrations/requirements.txt $(dependencies)
	@echo "== making $(integrations) with the versions in $<"
	$(bin)/python -m venv --clear --without-pip $(integrations)
	echo "import site; site.addsitedir('$(call site_of,$(bin))')" \
	  > "$(call site_of,$(integrations)/bin)/project.pth"
	$(bin)/python -m pip --python $(integrations)/bin/python install --quiet --no-deps \
	  --no-build-isolation -r $<
	@echo "== compiling DeepSpeed's extension for CPUs, which it would do in the first run"
	DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR=$(integrations)/torch_extensions \
	  $(integrations)/bin/python -c "from deepspeed.accelerator import get_accelerator as get; \
	  get().create_op_builder('ShareMemCommBuilder').load(verbose=False)"
	touch $@

test: lint test-cpp gpu-code test-python

build: $(extension)

# torch first and alone: its version decides which of its many dependencies are wanted. Python
# compiles a module at its first import; few of torch's are ever imported.
$(dependencies): requirements.txt
	tools/check_system.sh $(PYTHON)
	@echo "== making $(VENV) with the versions in requirements.txt"
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --no-compile $$(grep '^torch==' requirements.txt)
	$(bin)/python -m pip install --quiet --no-compile -r requirements.txt
	touch $@

# scikit-build-core keeps build/extension, so that only what changed is compiled.
$(extension): $(dependencies) $(native_sources)
	tools/check_system.sh $(bin)/python c++
	@echo "== compiling the extension: minutes the first time, later only what changed"
	$(bin)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

lint: $(dependencies)
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run --Werror $(cpp_sources)
	cmake --preset lint --log-level=WARNING
	python tools/tidy.py build/lint

format: $(dependencies)
	ruff check --fix .
	ruff format .
	clang-format -i $(cpp_sources)

# The tests of the torch-free layers, as users run them and under each sanitizer.
test-cpp: test-release test-asan test-tsan

# gcc's thread sanitizer cannot map its shadow under some kernels' address randomisation.
test-tsan: fixed_addresses := $(shell setarch --addr-no-randomize true 2>/dev/null && echo setarch --addr-no-randomize)

# In the extension's own build: what users run is what is tested, and it is compiled once.
test-release: $(extension)
	cmake -B build/extension -DFASTGPU_TESTS=ON --log-level=WARNING
	cmake --build build/extension
	ctest --test-dir build/extension --output-on-failure -j $(JOBS); passed=$$?; \
	  cmake -B build/extension -DFASTGPU_TESTS=OFF --log-level=WARNING; exit $$passed

test-%: $(dependencies)
	tools/check_system.sh $(bin)/python c++
	cmake --preset $* --log-level=WARNING
	cmake --build --preset $*
	$(fixed_addresses) ctest --preset $* -j $(JOBS)

# What is free of torch, compiled for another architecture without a warning. Of its tests only `sim_*`
# run in the emulator: two of `unit`, on descriptors and on TCP, fail there for a reason not known.
cross-check:
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64-static >/dev/null || \
	  { echo "missing: apt-get install -y g++-aarch64-linux-gnu qemu-user-static" >&2; exit 1; }
	$(MAKE) test-aarch64

# What `make test` does for device code with one seed, with several. docs/cuda.md says what it shows.
device-check: $(dependencies) $(foreach preset,release asan tsan,device-$(preset)) gpu-code

device-tsan: fixed_addresses := $(shell setarch --addr-no-randomize true 2>/dev/null && echo setarch --addr-no-randomize)
device-%: $(dependencies)
	cmake --preset $* --log-level=WARNING
	cmake --build --preset $* --target fastgpu_device_tests
	FASTGPU_TEST_SEEDS='$(SEEDS)' $(fixed_addresses) build/$*/tests/fastgpu_device_tests

gpu-code: $(dependencies)
	python tools/check_gpu_code.py

# Minutes, and no part of make test. Without hipcc the command exits with 77, having said so.
hip-check: $(dependencies)
	python tools/check_hip_code.py || test $$? = 77

# Needs no environment and no network: nvcc, cmake and ninja of the machine. Without a GPU the
# command exits with 77, and make says so.
gpu-check:
	$(PYTHON) tools/gpu_check.py $(ARGS)

# The module of tests/torch_device, in the extension's own build as well.
torch-device: $(extension)
	cmake -B build/extension -DFASTGPU_TESTS=ON --log-level=WARNING
	cmake --build build/extension --target fastgpu_pretended; built=$$?; \
	  cmake -B build/extension -DFASTGPU_TESTS=OFF --log-level=WARNING; exit $$built

# Two at a time: many tests wait, and each has up to 64 ranks of its own.
test-python: $(extension) torch-device
	python -m pytest -n 2 --dist worksteal $(ARGS)

docs-check: $(dependencies)
	python -m pytest tests/unit/test_docs.py

wheel: $(dependencies)
	tools/check_system.sh $(bin)/python c++
	rm -rf dist
	python -m build --no-isolation

# The wheel in an environment that has torch and nothing of this project.
wheel-check: wheel
	rm -rf build/wheel-venv
	$(bin)/python -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet $$(grep '^torch==' requirements.txt)
	build/wheel-venv/bin/python -m pip install --quiet dist/*.whl
	cd build/wheel-venv && bin/fastgpu-comm bench all_reduce -b 8 -e 64K --backend fastgpu
