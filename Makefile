# Every target works when typed first in a fresh clone: it makes .venv and installs what it needs.
# ARGS goes to the command:  make test ARGS="-k windows -n 2"   make bench ARGS=--quick

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo lab test test-all notebooks bench lint docs docs-check front front-check dev wheels
.DELETE_ON_ERROR:
# Two pips must not write to one environment at once.
.NOTPARALLEL:

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(VENV)/.installed-demo ## explain real pictures with real networks
	$(BIN)/krypton demo $(ARGS)

lab: $(VENV)/.installed-lab ## open JupyterLab on the explorer notebook
	$(BIN)/jupyter lab notebooks/explorer.ipynb $(ARGS)

# What the tests of the widget's page take from npm (axe-core), where there is npm; else they say what is missing.
FRONT := $(if $(shell command -v npm),js/node_modules/.package-lock.json)

# By file, so that what a file's tests share is made once (pytest-xdist's groups do nothing under pytest 9.2);
# in the order of tests/conftest.py.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-test $(FRONT) ## run the default tests
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-all: $(VENV)/.installed-test $(FRONT) ## run all tests, the slow ones too
	$(BIN)/python -m pytest $(WORKERS) -m "" $(ARGS)

# The longest first; and two kernels with two threads each would wait for one another.
LONGEST := notebooks/trade_off.ipynb
NOTEBOOKS := $(LONGEST) $(filter-out $(LONGEST),$(wildcard notebooks/*.ipynb))
notebooks: $(VENV)/.installed-test ## run the notebooks and compare what they print
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) --nbval-lax --nbval-cell-timeout=900 \
		$(NOTEBOOKS) $(ARGS)

bench: $(VENV)/.installed-demo ## time exact mode against Captum (ARGS=--quick for a taste)
	$(BIN)/python benchmarks/exact.py $(ARGS)

lint: $(VENV)/.installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE) benchmarks/*.cpp

docs: $(VENV)/.installed-docs ## build the documentation's site into build/site
	$(BIN)/mkdocs build $(ARGS)

docs-check: $(VENV)/.installed-dev $(FRONT) docs ## the same, and look at its pages in a browser
	$(BIN)/python -m pytest docs/test_site.py

front: js/node_modules/.package-lock.json ## build the widget's page and run its tests (needs Node 20)
	cd js && npm run build && npm test

front-check: js/node_modules/.package-lock.json ## the same, failing if the build in the repository is not fresh
	cd js && npm run check && npm test && node build.mjs ../build/front
	diff -r build/front krypton_widget/static || (echo "krypton_widget/static is stale: make front" && exit 1)

js/node_modules/.package-lock.json: js/package-lock.json
	cd js && npm ci --no-audit --no-fund

dev: $(VENV)/.installed-dev ## install everything a developer needs into .venv

wheels: $(VENV)/.installed-release ## build and test the files of a release, in dist/
	.ci/wheels $(BIN)/python

# An extra contains those before it, so one install serves them all.
contained-in-demo := demo
contained-in-lab := demo lab
contained-in-test := demo lab test
contained-in-docs := docs
contained-in-dev := demo lab test docs dev
contained-in-release := demo lab test release

# A stamp, since a venv that was cut short looks finished; making it again over itself is harmless.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Editable: edited Python is in force at once; C++ and the build's own files ask for a new install.
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')
$(VENV)/.installed-%: pyproject.toml CMakeLists.txt $(NATIVE) | $(VENV)/.created
	$(BIN)/python -m pip install --editable '.[$*]'
	@touch $(addprefix $(VENV)/.installed-,$(contained-in-$*))
