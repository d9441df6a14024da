# torchlocks: lockfiles and recipes for PyTorch environments.
# This file is a table of contents: every recipe is one line that calls the tool in .venv.

# --- what you may set -------------------------------------------------------------------------
PYTHON  ?= python3
CHANNEL ?= auto
CUDA    ?= auto
ENV     ?= cpu
CMD     ?= python
# -----------------------------------------------------------------------------------------------

VENV    := .venv
BIN     := $(VENV)/bin
TOOL    := $(BIN)/torchlocks
READY   := $(VENV)/torchlocks-made-from
READY_DEV := $(VENV)/torchlocks-made-from-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env-cpu

help: ## print this help
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

$(READY): requirements.txt pyproject.toml scripts/bootstrap.py
	@$(PYTHON) scripts/bootstrap.py $(VENV)

env-cpu: $(READY) ## build the CPU environment and verify it
	@$(TOOL) env cpu --channel $(CHANNEL)
