# The commands of this project; `make` lists them. Everything is installed into .venv here and .asv by asv.

export PYTHON ?= python3
export TORCH ?= torch==2.13.0
export BASE ?= HEAD~1
export HEAD ?= HEAD
export COMMITS ?= HEAD
export BENCH ?= .
export ROUNDS ?= 5
# How this machine is called in results/; by default after its GPU or CPU.
export MACHINE ?=
export FACTOR ?=
export FORMAT ?=
export ALL ?=
export ONLY ?=
export STRICT ?=
export ALLOW_CHANGED ?=
export MODEL ?=
export WEIGHTS ?= pretrained
export FASTA ?=
export PRECISIONS ?=

# What a variable holds is data, and may be the name of someone else's branch. make expands the `$` of what is given on
# its command line, unless it is stored expanded; recipes get the value from the environment, as "$$NAME" only.
$(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(eval override $(name) := $$(value $(name)))))
MAKEOVERRIDES =
override SHELL := /bin/sh
override .SHELLFLAGS := -c
override PY := .venv/bin/python
# .venv first: asv looks for pythonX.Y on PATH, and the first there may be another installation, or a shim that fails
override ASV := PATH="$$PWD/.venv/bin:$$PATH" $(PY) -m asv
# Two processes of one thread each: two of two threads would wait for each other on two cores
override PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2 --dist loadfile
override NAME := name=$$($(PY) -m asv_plugin.machine --name="$$MACHINE")
override PIP := $(PY) -m pip install --quiet --disable-pip-version-check
# An option for each word of a value: $(call each,--model,MODEL)
override each = for word in $$$(2); do set -- "$$@" "$(1)=$$word"; done

.DEFAULT_GOAL := help
.PHONY: help ab bench bench-gpu test test-fast test-all compare engine fidelity picture precision publish preview readme lint setup \
clean another-torch

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

bench: setup ## benchmark the current commit (BENCH=regex for some cells), publish, print the table
	@$(PY) -m asv_plugin.preflight --bench="$$BENCH"
	@status=0; $(NAME) || exit 1; \
	$(ASV) run --machine="$$name" --bench="$$BENCH" 'HEAD^!' || status=$$?; \
	if [ $$status = 1 ]; then exit 1; fi; \
	$(ASV) publish || status=$$?; \
	$(PY) -m asv_plugin.answer --machine="$$name" --commit=HEAD --bench="$$BENCH" $${ALL:+--all} || status=$$?; \
	exit $$status

bench-gpu: ## record COMMITS="a b" with the PyTorch of PYTHON [BENCH=regex]: for GPU machines without a registry
	@set -f; $(call each,--only,ONLY); \
	"$$PYTHON" -m asv_plugin.record --bench="$$BENCH" --machine="$$MACHINE" "$$@" -- $$COMMITS

precision: setup ## print which precision to use, newest numbers (BENCH=regex or ALL=1: more; FORMAT=--markdown)
	@$(PY) -m asv_plugin.answer --machine="$$MACHINE" --bench="$$BENCH" $${ALL:+--all} $${FORMAT:+"$$FORMAT"}

compare: setup ## compare two commits that were benchmarked: make compare BASE=main~1 HEAD=main
	@$(NAME) || exit 1; $(ASV) compare --machine="$$name" -- "$$BASE" "$$HEAD"

ab: setup ## judge two commits in paired rounds: make ab BASE=main~1 HEAD=main ROUNDS=5 [BENCH=regex] [FACTOR=1.03] [STRICT=1] [ALLOW_CHANGED=1]
	@$(PY) -m asv_plugin.compare --rounds="$$ROUNDS" --bench="$$BENCH" $${FACTOR:+--factor="$$FACTOR"} $${STRICT:+--strict} \
	$${ALLOW_CHANGED:+--allow-changed} -- "$$BASE" "$$HEAD"

engine: setup ## print the engine beside its matrix products, fair-esm and Transformers (minutes on a CPU)
	@$(PY) -m benchmarks.peers.table

fidelity: setup ## print how far each precision moves embeddings [MODEL=] [WEIGHTS=pretrained|random|PATH] [FASTA=] [STRICT=1]
	@set -f; $(call each,--model,MODEL); $(call each,--precisions,PRECISIONS); \
	$(PY) -m benchmarks.measure.fidelity_report --weights="$$WEIGHTS" "$$@" $${FASTA:+--fasta="$$FASTA"} \
	$${STRICT:+--strict} $${FORMAT:+"$$FORMAT"}

publish: setup ## write the dashboard to html/
	@$(ASV) publish

preview: publish ## serve the dashboard on a local port
	@$(ASV) preview

picture: publish ## write docs/precision.png, the Precision page's first screen, with Chromium
	@$(PY) -m asv_plugin.answer.picture

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

setup: .venv/ready

# .venv/ready holds the TORCH that is installed. A .venv that is a link is another checkout's, and kept up there.
override LINKED := $(shell test -L .venv && echo linked)
ifneq ($(or $(LINKED),$(value TORCH)),$(or $(LINKED),$(shell cat .venv/ready 2>/dev/null)))
.venv/ready: another-torch
endif
.venv/ready: $(if $(LINKED),,pyproject.toml)
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and " + \
	sys.argv[1] + " is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")' "$$PYTHON"
	@case "$$TORCH" in */*|*@*) false;; torch|torch[\<\>=~!]*) ;; *) false;; esac || \
	{ echo 'TORCH is PyTorch in some version, as torch==2.13.0' >&2; exit 1; }
	@rm -f $@
	"$$PYTHON" -m venv .venv
	$(PIP) -- "$$TORCH" 'setuptools>=77.0.3'
	@# Without build isolation, which downloads setuptools each time: where all is installed no network is needed
	$(PIP) --no-build-isolation --editable '.[test]'
	@printf '%s\n' "$$TORCH" > $@

.venv/lint: .venv/ready
	$(PIP) --no-build-isolation --editable '.[lint]'
	@touch $@

clean: ## remove what was installed and generated (everything that git ignores)
	git clean -dfXq
