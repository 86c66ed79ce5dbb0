# The commands of this project; `make` lists them. Everything is installed into .venv here and .asv by asv.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
BASE   ?= HEAD~1
COMMITS ?= HEAD
HEAD   ?= HEAD
BENCH  ?= .
ROUNDS ?= 5
# How this machine is called in results/; by default after its GPU or CPU.
MACHINE ?=

READY = .venv/ready-$(subst =,,$(TORCH))
PY  = .venv/bin/python
# .venv first: asv looks for pythonX.Y on PATH, and the first there may be another installation, or a shim that fails
ASV = PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m asv
# Two processes of one thread each: two of two threads would wait for each other on two cores
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2 --dist loadfile
NAME = "$$($(PY) -m asv_plugin.machine --name "$(MACHINE)")"

.DEFAULT_GOAL := help
.PHONY: help ab bench bench-gpu test test-fast test-all compare engine fidelity precision publish preview readme lint setup clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

bench: setup ## benchmark the current commit (BENCH=regex for some cells), publish, print the table
	@$(PY) -m asv_plugin.preflight --bench "$(BENCH)"
	@status=0; name=$(NAME) || exit 1; \
	$(ASV) run --machine "$$name" --bench "$(BENCH)" 'HEAD^!' || status=$$?; \
	if [ $$status = 1 ]; then exit 1; fi; \
	$(ASV) publish || status=$$?; \
	$(PY) -m asv_plugin.answer --machine "$$name" --commit HEAD || status=$$?; \
	exit $$status

bench-gpu: ## record COMMITS="a b" with the PyTorch of PYTHON [BENCH=regex]: for GPU machines without a registry
	@$(PYTHON) -m asv_plugin.record $(COMMITS) --bench "$(BENCH)" $(if $(MACHINE),--machine "$(MACHINE)") \
	$(if $(ONLY),--only $(ONLY))

precision: setup ## print which precision to use, and the newest numbers (FORMAT=--markdown for a pull request)
	@$(PY) -m asv_plugin.answer $(if $(MACHINE),--machine "$(MACHINE)") $(FORMAT)

compare: setup ## compare two commits that were benchmarked: make compare BASE=main~1 HEAD=main
	@$(ASV) compare --machine $(NAME) $(BASE) $(HEAD)

ab: setup ## judge two commits in paired rounds: make ab BASE=main~1 HEAD=main ROUNDS=5 [BENCH=regex] [FACTOR=1.03] [STRICT=1] [ALLOW_CHANGED=1]
	@$(PY) -m asv_plugin.compare $(BASE) $(HEAD) --rounds $(ROUNDS) --bench "$(BENCH)" $(if $(FACTOR),--factor $(FACTOR)) \
	$(if $(STRICT),--strict) $(if $(ALLOW_CHANGED),--allow-changed)

engine: setup ## print the engine beside its matrix products, fair-esm and Transformers (minutes on a CPU)
	@$(PY) -m benchmarks.peers.table

fidelity: setup ## print how far each precision moves embeddings [MODEL=] [WEIGHTS=pretrained|random|PATH] [FASTA=] [STRICT=1]
	@$(PY) -m benchmarks.measure.fidelity_report --weights "$(or $(WEIGHTS),pretrained)" $(if $(MODEL),--model $(MODEL)) \
	$(if $(FASTA),--fasta "$(FASTA)") $(if $(PRECISIONS),--precisions $(PRECISIONS)) $(if $(STRICT),--strict) $(FORMAT)

publish: setup ## write the dashboard to html/
	@$(ASV) publish

preview: publish ## serve the dashboard on a local port
	@$(ASV) preview

readme: setup ## write the measured figures of README.md and docs/ from results/
	@$(PY) -m asv_plugin.figures

test: setup ## run all tests, and samples of the exhaustive loops
	@$(PYTEST) -m "not exhaustive"

test-fast: setup ## run the tests that take no asv run and no large model
	@$(PYTEST) -m "not slow and not exhaustive"

test-all: setup ## run all tests and the exhaustive loops: each damage, each kill, many mutations
	@$(PYTEST)

lint: setup .venv/lint ## check style (ruff) and types (mypy)
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, \
	and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check $(TORCH) 'setuptools>=77'
	@# Without build isolation, which downloads setuptools each time: where all is installed no network is needed
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[test]'
	@touch $@

.venv/lint: $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[lint]'
	@touch $@

clean: ## remove what was installed and generated (everything that git ignores)
	git clean -dfXq
