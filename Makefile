# Two commands set everything up on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet

# PyTorch's CPU build: the default index serves one with gigabytes of CUDA packages.
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# What the tests run besides Python packages, by Debian's names.
APT_PACKAGES := gcc libc6-dev chromium pocl-opencl-icd ocl-icd-libopencl1 libvulkan1 \
  mesa-vulkan-drivers qemu-user-static binutils-aarch64-linux-gnu

# The front end is tested on kernels of these versions of ipykernel, too.
IPYKERNELS := 6.31.0 7.3.0
KERNELS := $(IPYKERNELS:%=$(VENV)/kernels/%/.installed)

# A userland for the target server that tests run under qemu-user.
AARCH64 := $(VENV)/aarch64/.installed

# The front end's sources and what builds them.
FRONT := extensions/widgets
NODE := $(FRONT)/node_modules/.installed

# JupyterLab's extension: built by what builds the widgets; only its types need JupyterLab's packages.
LAB := extensions/jupyterlab
LAB_NODE := $(LAB)/node_modules/.installed

export HF_HUB_OFFLINE := 1

.PHONY: help demo check test lab lint types lab-types docs dist bundle apt kernels clean

help:
	@echo "make demo   set up, run the quickstart notebook, leave build/quickstart.html"
	@echo "make check  lint, types and the tests without browsers and compilers: minutes"
	@echo "make test   set up, then lint, types and all tests"
	@echo "make lab    JupyterLab on the quickstart"
	@echo "make docs   the documentation as a site: build/docs/index.html"
	@echo "make dist   wheel and sdist, checked: dist/"
	@echo "make bundle the widgets' and the extension's JavaScript anew (needs Node)"

demo: $(VENV)/.demo
	@$(PY) notebooks/run.py notebooks/quickstart.ipynb build/quickstart.html

# What starts no browser and no compiler.
QUICK := tests/graph tests/migrate tests/judge tests/execute/test_events.py \
  tests/targets/test_spec.py tests/test_architecture.py tests/test_numerics.py \
  tests/test_packaging.py tests/test_tensorfile.py tests/widgets/test_kernel_text.py \
  tests/report/test_protocol.py tests/report/test_tensors.py \
  tests/report/test_labels.py tests/report/test_cells.py \
  $(wildcard tests/test_properties.py tests/*/test_properties.py)

# Which test goes to which worker, tests/conftest.py says.
PYTEST := $(PY) -m pytest -n 2

check: $(VENV)/.dev $(NODE) lint types
	@$(PYTEST) -q -m "not compiles" $(sort $(QUICK))
	@npm run test --silent --if-present --prefix $(FRONT)

test: apt $(VENV)/.dev $(NODE) kernels $(AARCH64) lint types
	@npm run test --silent --if-present --prefix $(FRONT)
	@$(PYTEST)

lab: $(VENV)/.demo
	@$(PY) -m jupyterlab notebooks/quickstart.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

lint: $(VENV)/.dev $(NODE)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@npm run lint --silent --if-present --prefix $(FRONT)
	@cd $(LAB) && ../widgets/node_modules/.bin/biome check --error-on-warnings

types: $(VENV)/.dev $(NODE)
	@$(PY) -m mypy
	@npm run --silent --prefix $(FRONT) types

# Warnings are errors: links that lead nowhere, docstrings that cannot be read.
docs: $(VENV)/.dev
	@$(PY) -m sphinx -q -W --keep-going -E docs build/docs

dist: $(VENV)/.dev
	@rm -rf dist
	@$(PY) -m build --no-isolation --outdir dist >/dev/null
	@$(PY) -m twine check --strict dist/*

# After a change in extensions/jupyterlab; the packages whose types it needs take 360 MB.
lab-types: $(LAB_NODE)
	@npm run --silent --prefix $(LAB) types

# Needed only after a change in extensions/widgets or extensions/jupyterlab: what is built is part of
# the repository.
bundle: $(NODE)
	@TAPML_PYTHON=$(abspath $(PY)) npm run --silent --prefix $(FRONT) build
	@TAPML_PYTHON=$(abspath $(PY)) npm run --silent --prefix $(LAB) build

kernels: $(KERNELS)

apt:
	@missing=$$(for p in $(APT_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then \
	    echo "installing $$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	  else \
	    echo "needed, but only root can install them: $$missing" >&2; exit 1; \
	  fi; \
	fi

# The stamps: an installation is redone when pyproject.toml changes.
$(VENV)/.torch: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH)"
	@$(PIP) install "$(TORCH)" 2>/dev/null || $(PIP) install "$(TORCH)" --index-url $(TORCH_INDEX)
	@touch $@

$(VENV)/.demo: $(VENV)/.torch
	@echo "installing tapml_nb[demo]"
	@$(PIP) install --editable ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	@echo "installing tapml_nb[dev]"
	@$(PIP) install --editable ".[dev]"
	@touch $@ $(VENV)/.demo

$(NODE): $(FRONT)/package-lock.json
	@echo "installing what builds the front end"
	@npm ci --silent --no-audit --no-fund --prefix $(FRONT)
	@touch $@

$(LAB_NODE): $(LAB)/package-lock.json
	@echo "installing JupyterLab's packages, for their types"
	@npm ci --silent --no-audit --no-fund --ignore-scripts --prefix $(LAB)
	@touch $@

# Beside the environment's own ipykernel: a folder each, for the start of a kernel's PYTHONPATH.
$(VENV)/kernels/%/.installed: | $(VENV)/.torch
	@echo "installing ipykernel $*"
	@rm -rf $(@D)
	@$(PIP) install --no-deps --target $(@D) "ipykernel==$*"
	@touch $@

$(AARCH64): tests/targets/aarch64.sh pyproject.toml | $(VENV)/.dev apt
	@echo "installing an aarch64 userland"
	@bash tests/targets/aarch64.sh $(@D) $(PY)

clean:
	rm -rf $(VENV) $(FRONT)/node_modules $(LAB)/node_modules build dist .*_cache .coverage* .hypothesis
