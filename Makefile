# make image   build a bootable image from a site file        (SITE=… OUT=… HARDWARE=vm|metal VERSION=…)
# make test    every check and test, two appliances in QEMU among them
# make help    the other targets

SITE     ?= examples/testcase.yaml
OUT      ?= build
HARDWARE ?= vm
VERSION  ?= 1

PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
# What needs no machines runs two by two. Labs run one at a time: two of them keep four processors busy (LABS=2).
LABS     ?= 0
TESTS    := $(BIN)/python -m pytest -n 2 --dist loadfile tests
VMTESTS  := $(BIN)/python -m pytest -n $(LABS) --dist loadgroup vmtests
PACKAGES := python3-venv libnftables1 mmdebstrap uidmap iproute2 openssh-client

.PHONY: help image lab test test-full figures matrix check clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

image: $(VENV)/.ready ## a bootable image of SITE in OUT
	$(BIN)/appliance build $(SITE) -o $(OUT) --hardware $(HARDWARE) --version $(VERSION)

lab: $(VENV)/.ready ## boot the pair of SITE here, to play with
	$(BIN)/appliance lab up $(SITE)

check: $(VENV)/.ready ## format, lint and types alone: seconds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: $(VENV)/.ready ## everything, the long matrices in their short form
	$(TESTS)
	$(VMTESTS)

test-full: $(VENV)/.ready ## everything in its long form
	$(TESTS)
	$(VMTESTS) --full

figures: $(VENV)/.ready ## measure docs/figures.md anew (ONLY=balanced: the rows of such tests)
	$(BIN)/python -m pytest -v --full -m figures vmtests \
	    $(if $(ONLY),-k "$(ONLY)" --update-figures,--write-figures) docs/figures.md

matrix: $(VENV)/.ready ## make docs/fault-matrix.md anew
	$(BIN)/python -m pytest -v --full vmtests/test_matrix.py --write-matrix docs/fault-matrix.md

clean: ## remove what was built here (the cache of tools and base images stays)
	rm -rf build dist artefacts

# The host's packages: installed as root, else named. The virtual environment follows pyproject.toml.
$(VENV)/.ready: pyproject.toml Makefile
	@missing=$$(for p in $(PACKAGES); do dpkg-query -Wf '$${Status}' $$p 2>/dev/null \
	    | grep -q ' installed$$' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then \
	    echo "Installing" $$missing; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -qq --no-install-recommends $$missing >/dev/null; \
	  else \
	    echo "Please install what is missing:  sudo apt-get install" $$missing >&2; exit 1; \
	  fi; \
	fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
