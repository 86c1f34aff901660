# Smelt's commands. They need Python 3.11 or newer; everything else is installed into .venv on first use.
#
#   PYTHON=python3.12   the Python that .venv is made with
#   EXTRA=cpu|cuda      what MLX runs on under Linux (found out: cuda where nvidia-smi lists a GPU)
#   JOBS=auto|0|n       processes of `make test`: as many as there are cores, unless a GPU runs the kernels
#   ARGS="..."          more flags for the command

VENV   ?= .venv
PROMPT ?= Once upon a time
MODEL  ?=
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
EXTRA  ?= $(shell test "$$(uname -s)" = Darwin || { nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu; })
JOBS   ?= $(if $(filter cpu,$(EXTRA)),auto,0)
COMMA  := ,
MODEL_FLAG := $(if $(MODEL),--model "$$MODEL")
export PROMPT MODEL

.PHONY: help venv run serve chat doctor tune test bench bench-kernels same-bits lint clean
.DEFAULT_GOAL := help

help:
	@echo 'make run      answer PROMPT="..." with the built-in model, or with MODEL=folder or org/name'
	@echo 'make chat     talk to it in the terminal'
	@echo 'make serve    the HTTP server on 127.0.0.1'
	@echo 'make test     all tests; needs no GPU, no network and no model'
	@echo 'make bench    decode speed beside mlx-lm; bench-kernels: kernels beside plain ops; same-bits: one answer in any company'
	@echo 'make doctor   what this machine has, and every kernel beside plain ops'
	@echo 'make tune     find the fastest settings of the kernels on this GPU'
	@echo 'make lint     ruff'
	@echo 'make venv     only install, into $(VENV)'
	@echo 'make clean    remove $(VENV) and build leftovers'
	@echo
	@echo 'Variables: MODEL PROMPT ARGS PYTHON EXTRA (cpu or cuda, on Linux) JOBS VENV'

run: $(VENV)/.installed
	@$(BIN)/smelt run $(MODEL_FLAG) --prompt "$$PROMPT" $(ARGS)

serve: $(VENV)/.installed
	@$(BIN)/smelt serve $(MODEL_FLAG) $(ARGS)

chat: $(VENV)/.installed
	@$(BIN)/smelt chat $(MODEL_FLAG) $(ARGS)

doctor: $(VENV)/.installed
	@$(BIN)/smelt doctor $(ARGS)

tune: $(VENV)/.installed
	@$(BIN)/smelt tune $(if $(MODEL),"$$MODEL") $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

bench: $(VENV)/.installed-bench
	$(BIN)/python -m smelt.bench.decode $(MODEL_FLAG) $(ARGS)

bench-kernels: $(VENV)/.installed-bench
	$(BIN)/python -m smelt.bench.kernels $(ARGS)

same-bits: $(VENV)/.installed-bench
	$(BIN)/python -m smelt.bench.same_bits $(if $(MODEL),--model "$$MODEL") $(ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check $(ARGS)

venv: $(VENV)/.installed

# The stamps: an install is done again when pyproject.toml changes, and only then.
$(VENV)/.installed: pyproject.toml $(VENV)/bin/python
	@echo "Installing Smelt$(if $(EXTRA), for $(EXTRA)) into $(VENV) ..."
	@$(PIP) install -e ".$(if $(EXTRA),[$(EXTRA)])"
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "Installing what '$*' needs ..."
	@$(PIP) install -e ".[$(if $(EXTRA),$(EXTRA)$(COMMA))$*]"
	@touch $@

# Of the Pythons on this machine the first that is new enough and can make an environment.
$(VENV)/bin/python:
	@for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	      echo "$$python cannot make environments: install its venv module (apt-get install python3-venv)" >&2; exit 1; }; \
	    exec "$$python" -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo 'Smelt needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is not one,there is none on the PATH).' \
	     'Install one (macOS: brew install python) or name it: make PYTHON=/path/to/python3 ...' >&2; exit 1

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .benchmarks .ruff_cache
	find api bench engine kernels models tests -name __pycache__ -type d -prune -exec rm -rf {} +
