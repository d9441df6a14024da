# torchlocks: lockfiles and recipes for PyTorch environments.
# A table of contents: every recipe is one line that calls Python, and the logic is in scripts/torchlocks/.

# --- what you may set: make VERB NAME=value ----------------------------------------------------
PYTHON   ?= python3#   the Python that the tool runs on, and that the local channel packages (3.10 or newer)
CHANNEL  ?= auto#      auto, conda-forge or local: where packages come from
CUDA     ?= auto#      CUDA version of a GPU environment, or auto: what the driver runs
PY       ?=#           another Python of a row, such as 3.13
TORCH    ?=#           another PyTorch of a row, such as 2.12
ENV      ?=#           one environment, such as cpu or gpu-cu118
PLATFORM ?=#           one platform, such as linux-64
PKG      ?=#           packages to update
CMD      ?=#           command for make run
SNAPSHOT ?=#           folder of repodata to lock and check against
AS_OF    ?=#           YYYY-MM-DD: lock as of that day
MIRROR   ?=#           URL that stands in for https://conda.anaconda.org
REQUIRE_GPU ?=#        1: make env-gpu fails where no GPU can be used
OFFLINE  ?=#           1: use the package cache alone
FORCE    ?=#           1: make env-… builds anew, without what was added to the environment
FIX      ?=#           1: make fsck puts damaged files back
PORTABLE ?=#           1: a bundle for machines that cannot read Zstandard
QUICK    ?=#           1: verify with the short set of checks
SCHEDULER ?=#          Dask scheduler whose workers lock, check or verify, such as tcp://host:8786
GROWTH   ?=#           the largest number of environments that make bench locks (1000)
BASE     ?=#           what make image builds on: an OCI layout, or the tar of a file system
FILE     ?=#           a bundle to unpack into the package cache; a report for make evidence
FORMAT   ?=#           one form for make export, such as dockerfile
KEY      ?=#           SSH key for make sign and make evidence
DRY      ?=#           1: make refresh only prints its plan
UPDATE   ?=#           1: make recipes only writes what is generated from the locks
A        ?=#           first lock of make diff: a file, REV:file, or a prefix
B        ?=#           second lock of make diff
# -----------------------------------------------------------------------------------------------

# What was named to make on its command line; checked only when there is something.
NAMED := $(foreach name,$(.VARIABLES),$(if $(findstring $(origin $(name)),command line),$(name)))
NAMED := $(filter-out -*-% MAKEFLAGS MAKEOVERRIDES,$(NAMED))
SETTABLE := CHANNEL CUDA ENV PLATFORM PKG CMD SNAPSHOT AS_OF MIRROR REQUIRE_GPU OFFLINE FIX PORTABLE QUICK SCHEDULER GROWTH FILE \
            FORMAT KEY UPDATE A B PY TORCH BASE DRY FORCE
CONDA_NAMED := $(filter CONDA_EXE,$(NAMED))
# Values as they were typed: make would expand `$HOME` to `OME`, and run `$(shell …)`.
$(foreach name,$(SETTABLE) CONDA_EXE,$(if $(value $(name)),$(eval override $(name) := $$(value $(name)))))
define newline


endef
# One word for the shell, whatever is in it; an option with its value, where there is one.
quoted = $(if $(findstring $(newline),$(1)),$(error a value has a line break))$(if $(filter ~/%,$(firstword $(1))),"$$HOME"/'$(subst ','\'',$(subst <~/,,<$(1)))','$(subst ','\'',$(1))')
option = $(if $($(2)),$(1) $(call quoted,$($(2))))
absolute = $(if $(filter /% ~/%,$(firstword $($(1)))),$($(1)),$(if $($(1)),$(CURDIR)/$($(1))))
VENV  := .venv
# What a verb takes is in its comment, as NAME=; of several verbs, one that takes it is enough.
VERBS := help env-cpu env-gpu pair doctor run shell rollback verify evidence fsck bundle image matrix render lock update example check why diff channel \
         export sbom licences sign refresh update-all dist site recipes bench lint test test-unit requirements golden clean
ifneq ($(and $(NAMED),$(wildcard scripts/bootstrap.py)),)
  ASKED := $(or $(filter $(VERBS),$(MAKECMDGOALS)),help)
  empty :=
  TAKEN := $(shell sed -n -E 's/^($(subst $(empty) $(empty),|,$(ASKED))):.*## //p' $(firstword $(MAKEFILE_LIST)))
  TAKEN := $(foreach word,$(TAKEN),$(if $(findstring =,$(word)),$(patsubst [%,%,$(firstword $(subst =, ,$(word))))))
  REFUSED := $(filter-out $(TAKEN) PYTHON VENV SHELL MAKEFLAGS,$(NAMED))
  ifneq ($(REFUSED),)
    # Python words it, and starts only for that.
    REFUSED := $(shell $(PYTHON) -I -S scripts/make_variables.py '$(ASKED)' '$(TAKEN)' $(foreach name,$(REFUSED),$(call quoted,$(name))) 2>&1)
    $(error $(or $(REFUSED),a variable that make $(ASKED) does not take))
  endif
endif

# Images set it, and every start of the tool would compile it anew.
unexport PYTHONDONTWRITEBYTECODE
# Told that make calls it, so that messages name make's verbs and variables.
TOOL  := TORCHLOCKS_MAKE=1 $(VENV)/bin/torchlocks
PYTEST = TORCHLOCKS_SNAPSHOT=$(call quoted,$(call absolute,SNAPSHOT)) $(VENV)/bin/pytest -n auto --dist worksteal
STYLE  = $(VENV)/bin/zizmor --offline --quiet --no-progress .github action.yml && $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && PYTHONPATH=scripts $(VENV)/bin/lint-imports --no-logo --cache-dir build/import_linter
READY := $(VENV)/torchlocks-made-from
DEV   := $(VENV)/torchlocks-made-from-dev
# A conda that is merely active sets CONDA_EXE in the environment; only one named to make is meant.
CONDA := $(if $(CONDA_NAMED),$(call option,--conda,CONDA_EXE))
# For every platform and every Python that is supported, with hashes.
COMPILE := $(VENV)/bin/uv pip compile -q --universal --generate-hashes --python-version 3.10 --no-header
WHICH := $(call option,--env,ENV) $(call option,--platform,PLATFORM)
FROM  := $(call option,--snapshot,SNAPSHOT) $(call option,--as-of,AS_OF) $(call option,--mirror,MIRROR)
WANT  := $(call option,--python,PY) $(call option,--torch,TORCH)
DASK  := $(call option,--scheduler,SCHEDULER)
FETCH := $(call option,--channel,CHANNEL) $(call option,--mirror,MIRROR) $(if $(OFFLINE),--offline)
HOW   := $(if $(FORCE),--force) $(if $(QUICK),--quick)
ONE    = $(call quoted,$(or $(ENV),$(error name the environment: make $@ ENV=cpu)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: $(VERBS)

help: ## print this help
	@awk -F ':.*## ' '/^#: /{print "\n" substr($$0, 4)} /^[a-z-]+:.*## /{printf "  %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

#: Environments
env-cpu: $(READY) ## build the CPU environment and run the torch suite in it  [PY=3.13 TORCH=2.12 CHANNEL= MIRROR= OFFLINE=1 FORCE=1 QUICK=1]
	@$(TOOL) env cpu $(WANT) $(FETCH) $(HOW)
env-gpu: $(READY) ## the same for one CUDA version  [CUDA=11.8 PY= TORCH= CHANNEL= MIRROR= OFFLINE=1 FORCE=1 QUICK=1 REQUIRE_GPU=1]
	@$(TOOL) env gpu $(call option,--cuda,CUDA) $(WANT) $(FETCH) $(HOW) $(if $(REQUIRE_GPU),--require-gpu)
pair: $(READY) ## build a CUDA environment and the CPU environment with the same versions  [CUDA=12.9 PY= TORCH= CHANNEL= MIRROR= FORCE=1 QUICK=1]
	@$(TOOL) env gpu --pair $(call option,--cuda,CUDA) $(WANT) $(FETCH) $(HOW)
doctor: $(READY) ## say which environments run on this machine, and why the others do not
	@$(TOOL) doctor
run: $(READY) ## run a command in an environment  [ENV=cpu or auto; CMD='python train.py']
	@$(TOOL) run $(ONE) $(if $(CMD),$(call quoted,$(CMD)),$(error name the command: make run ENV=$(ENV) CMD='python train.py'))
shell: $(READY) ## start a shell in an environment  [ENV=cpu or auto]
	@$(TOOL) shell $(ONE)
verify: $(READY) ## run the torch suite again in an installed environment  [ENV=cpu QUICK= SCHEDULER=]
	@$(TOOL) verify $(ONE) $(if $(QUICK),--quick) $(DASK)
evidence: $(READY) ## make evidence out of a report on a committed lock, or list it  [FILE=reports/cpu.json KEY=]
	@$(TOOL) evidence $(if $(FILE),add $(call quoted,$(FILE)) $(call option,--key,KEY),list)
fsck: $(READY) ## compare every file of an environment with its packages  [ENV=cpu FIX=1]
	@$(TOOL) fsck $(ONE) $(if $(FIX),--fix)
rollback: $(READY) ## go back to the previous environment  [ENV=cpu]
	@$(TOOL) rollback $(ONE)

bundle: $(READY) ## one file that installs without a network, or FILE= into the cache  [ENV=gpu-cu118 PLATFORM= CHANNEL= PORTABLE=1]
	@$(TOOL) bundle $(if $(FILE),$(call option,--unpack,FILE),$(ONE) $(call option,--platform,PLATFORM) $(FETCH) $(if $(PORTABLE),--portable))
image: $(READY) ## a container image of a lock, without a container engine  [ENV=gpu-cu126 PLATFORM= CHANNEL= BASE= MIRROR= OFFLINE=1]
	@$(TOOL) image $(ONE) $(call option,--platform,PLATFORM) $(call option,--base,BASE) $(FETCH)

#: Locks
matrix: $(READY) ## list the environments there are
	@$(TOOL) matrix
render: $(READY) ## print the rendered environment files  [ENV= PLATFORM=]
	@$(TOOL) render $(WHICH)
lock: $(READY) ## solve the matrix and write the lockfiles  [ENV= PLATFORM= SNAPSHOT= AS_OF= MIRROR= CONDA_EXE= SCHEDULER=]
	@$(TOOL) lock $(WHICH) $(FROM) $(CONDA) $(DASK)
update: $(READY) ## move one package and nothing else that can stay  [PKG=numpy ENV= PLATFORM= SNAPSHOT= AS_OF=]
	@$(TOOL) update $(foreach package,$(or $(PKG),$(error name the package: make update PKG=numpy)),$(call quoted,$(package))) $(WHICH) $(FROM)
example: $(READY) ## move the lock of examples/downstream to the CPU lock as it is now  [SNAPSHOT= AS_OF= MIRROR=]
	@$(TOOL) update --base --lock examples/downstream $(FROM)
check: $(READY) ## prove the committed locks  [ENV= SNAPSHOT= SCHEDULER=]
	@$(TOOL) check $(call option,--env,ENV) $(call option,--snapshot,SNAPSHOT) $(DASK)
why: $(READY) ## say why a package is in a lock, or why a spec cannot be had  [PKG=cudnn ENV=gpu-cu118]
	@$(TOOL) why $(call quoted,$(or $(PKG),$(error name the package: make why PKG=cudnn ENV=gpu-cu118))) $(WHICH) $(call option,--snapshot,SNAPSHOT)
diff: $(READY) ## compare two locks  [A=REV:locks/cpu/conda-lock.yml B=locks/cpu/conda-lock.yml]
	@$(TOOL) diff $(call quoted,$(or $(A),$(error name two locks: make diff A=… B=…))) $(call quoted,$(or $(B),$(error name two locks: make diff A=… B=…)))

export: $(READY) ## write a lock for other tools: containers, pip, pixi, Slurm …  [ENV=cpu PLATFORM= FORMAT=]
	@$(TOOL) export $(ONE) $(call option,--platform,PLATFORM) $(call option,--format,FORMAT)
sbom: $(READY) ## print the bill of materials of a lock, CycloneDX or FORMAT=spdx  [ENV=cpu PLATFORM= FORMAT=]
	@$(TOOL) sbom $(ONE) $(call option,--platform,PLATFORM) $(call option,--format,FORMAT)
licences: $(READY) ## report the licences of a lock's packages  [ENV=gpu-cu126 PLATFORM=]
	@$(TOOL) licences $(ONE) $(call option,--platform,PLATFORM)
sign: $(READY) ## sign the locks of an environment with an SSH key  [ENV=cpu KEY=~/.ssh/id_ed25519]
	@$(TOOL) sign locks/$(ONE) $(call option,--key,KEY)
refresh: $(READY) ## move the matrix to newer PyTorch, Python and CUDA, and lock it  [DRY=1 ENV= PLATFORM= SNAPSHOT= AS_OF= MIRROR= SCHEDULER=]
	@$(TOOL) refresh $(WHICH) $(FROM) $(DASK) $(if $(DRY),--dry-run)
update-all: $(READY) ## the same, lock everything anew, and write a pull request's text  [SNAPSHOT= AS_OF= MIRROR= SCHEDULER=]
	@$(TOOL) update-all $(FROM) $(DASK)

#: The project
dist: $(READY) ## build the wheel and the source distribution into build/dist
	@$(TOOL) dist
channel: $(READY) ## build the local channel from recipes/local and PyPI wheels  [CUDA=13.0]
	@$(TOOL) channel $(if $(filter auto,$(CUDA)),,$(call option,--cuda,CUDA))
site: $(READY) ## write the catalogue as a static site into build/site
	@$(TOOL) site
recipes: $(READY) ## build torch-verify and the environments as conda packages into build/recipes  [UPDATE=1 PLATFORM=]
	@$(TOOL) recipes $(if $(UPDATE),--update) $(call option,--platform,PLATFORM)
bench: $(DEV) ## measure what everything costs, against floors and peers  [SNAPSHOT= GROWTH=1000]
	@$(TOOL) bench $(call option,--snapshot,SNAPSHOT) $(call option,--growth,GROWTH)
lint: $(DEV) ## ruff, mypy, the import contract, and zizmor on workflows
	@$(VENV)/bin/mypy & types=$$!; $(STYLE); others=$$?; wait $$types && exit $$others
# mypy takes as long as all other linters ten times over, on one core: its result is printed below that of the tests.
test: $(DEV) ## lint, and the unit and integration tests  [SNAPSHOT=; TORCHLOCKS_SLOW=1 for the long form]
	@mkdir -p build; $(VENV)/bin/mypy >build/mypy.log 2>&1 & types=$$!; $(STYLE) && $(PYTEST); others=$$?; wait $$types; types=$$?; cat build/mypy.log; test $$types = 0 && exit $$others
test-unit: $(DEV) ## the unit tests alone: seconds, no network  [SNAPSHOT=]
	@$(PYTEST) tests/unit
golden: $(READY) ## write the expected renderings and the matrix schema anew; look at the diff
	@$(VENV)/bin/python tests/unit/golden.py
requirements: $(DEV) ## compile the hash-pinned requirements of the tool from pyproject.toml
	@$(COMPILE) pyproject.toml -o requirements.txt
	@$(COMPILE) --group dev -c requirements.txt -o requirements-dev.txt
clean: ## remove all that was made, but for the package cache
	@rm -rf $(VENV) envs build reports .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A PYTHON that is named to make may be another one than .venv was made from: bootstrap.py looks, and is quick.
$(READY): requirements.txt pyproject.toml scripts/bootstrap.py $(if $(filter command,$(firstword $(origin PYTHON))),ALWAYS)
	@$(PYTHON) scripts/bootstrap.py $(VENV) $(if $(and $(filter local,$(CHANNEL)),$(filter env-cpu,$(MAKECMDGOALS))),$(if $(OFFLINE),,--wheels))
$(DEV): $(READY) requirements-dev.txt
	@$(PYTHON) scripts/bootstrap.py $(VENV) --dev
.PHONY: ALWAYS
ALWAYS:
.DEFAULT:
	@$(error $(if $(wildcard scripts/bootstrap.py),there is no verb '$@' (make alone lists them),make runs in the checkout: make -C $(dir $(firstword $(MAKEFILE_LIST))) $(MAKECMDGOALS)))
