# Every target works when typed first in a fresh clone: it makes .venv and installs what it needs.
# ARGS goes to the command:  make test ARGS="-k windows -n 2"   make bench ARGS=--quick

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench lint dev
.DELETE_ON_ERROR:
# Two pips must not write to one environment at once.
.NOTPARALLEL:

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(VENV)/.installed-demo ## explain real pictures with real networks
	$(BIN)/krypton demo $(ARGS)

test: $(VENV)/.installed-test ## run the default tests
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-all: $(VENV)/.installed-test ## run all tests, the slow ones too
	$(BIN)/python -m pytest -n 2 -m "" $(ARGS)

bench: $(VENV)/.installed-demo ## time exact mode against Captum (ARGS=--quick for a taste)
	$(BIN)/python benchmarks/exact.py $(ARGS)

lint: $(VENV)/.installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

dev: $(VENV)/.installed-dev ## install everything a developer needs into .venv

# An extra contains those before it, so one install serves them all.
contained-in-demo := demo
contained-in-test := demo test
contained-in-dev := demo test dev

# A stamp, since a venv that was cut short looks finished; making it again over itself is harmless.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Editable: edited Python is in force at once; C++ and the build's own files ask for a new install.
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h')
$(VENV)/.installed-%: pyproject.toml CMakeLists.txt $(NATIVE) | $(VENV)/.created
	$(BIN)/python -m pip install --editable '.[$*]'
	@touch $(addprefix $(VENV)/.installed-,$(contained-in-$*))
