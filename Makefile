# Tidemill's commands. What must be there: make, a POSIX shell and Python 3.11 or newer.
# Everything is installed into .venv in this folder; nothing outside it changes, with one exception: where root runs the
# tests on Debian or Ubuntu, the servers that are missing come as packages of the system. `rm -rf .venv` undoes the rest.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON  ?=
UPGRADE ?= --upgrade
JOBS    ?= 2
ARGS    ?=
SERVERS ?= install

PY := .venv/bin/python

# The first interpreter that really runs and fits: a name on PATH may be a stand-in for a version that is not there.
define find_python
found=; for name in $(PYTHON) $(2) python3 python3.13 python3.12 python3.11; do \
    if "$$name" -c 'import sys, venv, ensurepip; sys.exit(not ($(1)))' </dev/null >/dev/null 2>&1; \
    then found=$$name; break; fi; \
done
endef

# The pins are told twice, as what to install and as what to keep to (-c): pip 23 asks for `coverage[toml]` of a package
# before it looks at the pin of `coverage`, takes the newest for that, and stops for want of its hash.
# pip names each package that it takes up; every tenth of them is told, so that a slow network does not look like a stop.
define pip_install
{ PYTHONUNBUFFERED=1 $(1) -m pip --disable-pip-version-check --no-input install --progress-bar off $(2) \
    || echo 'pip-has-failed'; } | { \
    taken=0; while read -r word rest; do case "$$word" in \
        Collecting) taken=$$((taken + 1)); if [ $$((taken % 10)) = 0 ]; then echo "    $$taken taken up …"; fi ;; \
        Installing) echo "    writing them to .venv …" ;; \
        pip-has-failed) exit 1 ;; \
    esac; done; }
endef

.PHONY: help
help: ## This list
	@echo 'Tidemill. On a fresh machine with Python 3.11+ and make, each of these sets up what it needs first:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'
	@echo 'PYTHON=… chooses the interpreter, JOBS=… the processes of the tests, ARGS=… is handed on.'
	@echo 'SERVERS=found installs no server: the tests use those that are here.'

.venv/.stamp: requirements/dev.txt pyproject.toml
	@$(call find_python,sys.version_info >= (3$(comma) 11)); \
	if [ -z "$$found" ]; then \
	    echo 'Tidemill needs Python 3.11 or newer with its modules venv and ensurepip, and found none.' >&2; \
	    echo 'Tried: $(strip $(PYTHON) python3 python3.13 python3.12 python3.11).' \
	         'On Debian and Ubuntu the package python3-venv has the modules.' >&2; \
	    exit 1; \
	fi; \
	if ! $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Setting up .venv with $$("$$found" --version) ($$found). Nothing outside this folder changes."; \
	    "$$found" -m venv --clear .venv; \
	else \
	    echo "Bringing .venv up to date ($$($(PY) --version))."; \
	fi
	@echo "Installing into .venv: the $$(grep -c '==' requirements/dev.txt) packages of requirements/dev.txt, each at its pinned version, checked against its hash"
	@$(call pip_install,$(PY),--require-hashes -r requirements/dev.txt -c requirements/dev.txt)
	@echo 'Installing into .venv: tidemill itself, editable, from src/'
	@$(PY) -m pip --disable-pip-version-check --no-input install -q --no-deps --no-build-isolation -e .
	@touch $@

comma := ,

.PHONY: venv
venv: .venv/.stamp ## Only the set-up: .venv with all pinned packages and tidemill, editable

.PHONY: demo
demo: .venv/.stamp ## The example system Avalon: API, documents, feeder, queue, processor, timer
	@$(PY) -m examples.avalon.demo $(ARGS)

.PHONY: test
test: servers-up ## The tests, without the slow, chaos and soak ones
	@$(PY) -m pytest -n $(JOBS) $(ARGS) tests; code=$$?; $(MAKE) servers; exit $$code

.PHONY: test-all
test-all: servers-up ## All tests, one after the other: slow, chaos, soak, and the examples in README and docs
	@$(PY) -m pytest -m '' $(ARGS) tests $(wildcard README.md docs); code=$$?; $(MAKE) servers; exit $$code

.PHONY: chaos
chaos: servers-up ## Only the tests that kill, stop and block real processes
	@$(PY) -m pytest -m chaos $(ARGS) tests

.PHONY: soak
soak: servers-up ## Only the long runs
	@$(PY) -m pytest -m soak $(ARGS) tests

.PHONY: cluster
cluster: servers-up ## On the Kubernetes cluster that KUBECONFIG names, with the image CLUSTER_IMAGE
	@$(PY) -m pytest -m cluster -s $(ARGS) tests/cluster

# The tests start servers themselves; here only what they start is installed, once, if it is not there.
.PHONY: servers-up
servers-up: .venv/.stamp
	@$(PY) -m scripts.servers $(SERVERS)

.PHONY: servers
servers: .venv/.stamp
	@$(PY) -m scripts.servers

.PHONY: image-tests
image-tests: servers-up ## Avalon's image, built and run with a Docker daemon of its own (root; Debian: docker.io debootstrap iptables)
	@$(PY) -m pytest -m image $(ARGS) tests/deploy

.PHONY: bench
bench: servers-up ## Measure (ARGS chooses what)
	@$(PY) -m bench $(ARGS)

.PHONY: lint
lint: .venv/.stamp ## Format, rules of style, layers
	@bash .ci/run format lint layers

.PHONY: types
types: .venv/.stamp ## mypy strict, completeness of the public types
	@bash .ci/run mypy verifytypes

.PHONY: format
format: .venv/.stamp ## Put the code into shape
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

.PHONY: pins
pins: ## Refresh requirements/*.txt (Python 3.11; UPGRADE= keeps what is pinned)
	@$(call find_python,sys.version_info[:2] == (3$(comma) 11),python3.11); \
	if [ -z "$$found" ]; then \
	    echo 'Pins are made with the oldest Python supported, 3.11, and none was found (PYTHON=… names one).' >&2; \
	    exit 1; \
	fi; \
	echo 'Installing into .venv/pins: the tool of requirements/pins.txt'; \
	"$$found" -m venv --clear .venv/pins
	@$(call pip_install,.venv/pins/bin/python,--require-hashes -r requirements/pins.txt -c requirements/pins.txt)
	@for list in pins dev site servers; do \
	    echo "Writing requirements/$$list.txt"; \
	    CUSTOM_COMPILE_COMMAND='make pins' .venv/pins/bin/python -m piptools compile -q $(UPGRADE) --strip-extras \
	        --allow-unsafe --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	        --output-file "requirements/$$list.txt" "requirements/$$list.in" || exit 1; \
	done
	@bash .ci/run pins

.PHONY: site
site: .venv/.stamp ## The documentation as a site, in site/
	@bash .ci/run site

.PHONY: audit
audit: .venv/.stamp ## Known faults in what a user installs, and the list of it: dist/tidemill.cdx.json
	@bash .ci/run audit

.PHONY: clean
clean: ## Remove .venv, caches and everything built
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .demo build dist htmlcov
	rm -f .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
