# `make` prints the targets. Each installs what it needs: painting a few packages, the others torch and more.

PYTHON ?= python3
PROMPT ?= a sailing boat in summer, watercolor
HOST := 127.0.0.1
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet
# Ctrl-C is the ordinary end of a server: without this, make would call it an error.
UNTIL_INTERRUPTED = trap : INT; $(1) || test $$? -eq 130

# What `ccld sample` and `ccld inspect` need without torch. setup.cfg has the bounds of the versions.
LIGHT := numpy onnxruntime Pillow safetensors tokenizers tqdm
requirement = "$(strip $(shell grep -m 1 '^ *$(1)>=' setup.cfg))"

# The environment is rebuilt when the requirements, the interpreter or the folder change.
RECIPE := $(shell (cat setup.cfg pyproject.toml; echo $(LIGHT); $(PYTHON) --version; pwd) | sha256sum | cut -c 1-16)
PAINTING := $(VENV)/painting-$(RECIPE)
COMPLETE := $(VENV)/complete-$(RECIPE)
SERVING := $(VENV)/serving-$(RECIPE)
TRAINING := $(VENV)/training-$(RECIPE)
STAMP := $(VENV)/developing-$(RECIPE)

# Only an environment that was made here is rebuilt or removed: one with this file, or with a stamp of earlier versions.
MARK := $(VENV)/made-by-make
OTHERS = $(if $(wildcard $(MARK) $(VENV)/painting-* $(VENV)/built-from-*),,$(if $(wildcard $(VENV)/*),$(VENV)))

# On Linux, the ordinary build of torch brings gigabytes of libraries for NVIDIA's GPUs. Its CPU build has its own index.
CPU_TORCH ?= https://download.pytorch.org/whl/cpu
# Other places in pip's settings may have a newer ordinary build; these variables take their place for one command, which
# leaves what torch itself requires to the next one. torchvision, which others require, fits only a torch of its own kind.
TORCH := $(if $(shell command -v nvidia-smi),,$(filter Linux,$(shell uname)))
FROM_CPU_TORCH = PIP_EXTRA_INDEX_URL=$(CPU_TORCH) PIP_FIND_LINKS=$(CPU_TORCH) \
	$(PIP) --no-deps --retries 0 --timeout 15 --index-url $(CPU_TORCH)
# What pip says of an attempt is shown if the ordinary build cannot be installed either.
ATTEMPT = $(VENV)/attempt.log

COUNT ?= 3000
FIRST ?= 0

.PHONY: help paint install training demo web test test-slow fuzz random-calls suites quality style reference wheel \
	default-model default-onnx default-teacher distillation-table clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

paint: $(PAINTING)  ## sample four pictures from the bundled model; installs only what this needs, without torch
	$(BIN)/ccld sample "$(PROMPT)" --output outputs/pictures

install: $(COMPLETE)  ## install the whole package, for Python and all options of ccld

training: $(TRAINING)  ## install what training and comparing models need, too

demo: $(SERVING)  ## paint in the browser; PORT=8000 chooses a port, HOST=0.0.0.0 serves other machines, too
	@$(call UNTIL_INTERRUPTED,$(BIN)/ccld demo --host $(HOST) $(if $(PORT),--port $(PORT)))

web:  ## build the page that paints in the browser without a server, and serve it; PORT and HOST as above
	@$(call UNTIL_INTERRUPTED,$(PYTHON) web/build.py --output outputs/web --serve --host $(HOST) $(if $(PORT),--port $(PORT)))

test: $(STAMP)  ## the test suite in two processes, each with one thread: more would compete for the cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

test-slow: $(STAMP)  ## the tests that take minutes, gigabytes or a browser (/usr/bin/chromium), for a nightly run
	$(PIP) --editable ".[training,compare,demo,mcp,onnx,test,browser,dev]"
	$(BIN)/python -m pytest -m slow

fuzz: $(STAMP)  ## damaged and hostile checkpoints, and damaged inputs of every other reader
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/support/mutated_files.py --count 500
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python tests/support/mutated_inputs.py --count 4000

random-calls: $(STAMP)  ## COUNT random calls of the pipelines, and what must hold for each; SEED and FIRST repeat some
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m support.random_calls --count $(COUNT) \
		--first $(FIRST) $(if $(SEED),--seed $(SEED))

suites: $(STAMP)  ## diffusers' own suites, from a checkout: make suites DIFFUSERS=path
	@test -d "$(DIFFUSERS)/tests/pipelines" || { echo "Give DIFFUSERS=path of a checkout of diffusers." >&2; exit 2; }
	$(PIP) --editable ".[training,compare,demo,test,suites,dev]"
	PYTHONPATH=$(abspath $(DIFFUSERS)):tests/diffusers_suites $(BIN)/python -m pytest -o addopts= -rs \
		tests/diffusers_suites

quality: $(STAMP)  ## check the code's format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(STAMP)  ## fix the code's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(STAMP)  ## write docs/reference.md from the parsers
	$(BIN)/python benchmarks/reference.py

wheel: $(STAMP)  ## build dist/*.whl
	$(BIN)/python -m build --wheel

$(PAINTING): setup.cfg pyproject.toml
	$(if $(OTHERS),$(error $(VENV) was not made here, and stays as it is. Give another: make $(MAKECMDGOALS) VENV=.venv-make))
	@echo "Installing what painting needs into $(VENV), 0.25 GB."
	@rm -rf $(VENV)
	@mkdir -p $(VENV)
	@touch $(MARK)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(foreach package,$(LIGHT),$(call requirement,$(package)))
	@$(PIP) --no-deps --editable .
	@touch $@

$(COMPLETE): $(PAINTING)
	@echo "Installing the whole package into $(VENV), which takes minutes."
	@$(if $(TORCH),$(FROM_CPU_TORCH) $(foreach package,torch torchvision,$(call requirement,$(package))) \
		2> $(ATTEMPT) || echo "torch's CPU build cannot be installed from its index; the ordinary build takes 4 GB more.")
	@$(PIP) --editable . || { test ! -s $(ATTEMPT) || { echo "Before that:"; cat $(ATTEMPT); } >&2; exit 1; }
	@$(if $(TORCH),test ! -d $(VENV)/lib/python*/site-packages/nvidia || \
		echo "The build of torch for NVIDIA's GPUs was installed; $(VENV) has $$(du -sm $(VENV) | cut -f 1) MB.")
	@$(BIN)/python -m pip check > $(ATTEMPT) || \
		{ echo "Some versions do not fit one another, so that something may fail:"; cat $(ATTEMPT); }
	@rm $(ATTEMPT)
	@touch $@

$(SERVING): $(COMPLETE)
	@echo "Installing what the page needs into $(VENV)."
	@$(PIP) --editable ".[demo]"
	@touch $@

$(TRAINING): $(COMPLETE)
	@echo "Installing what training and comparing need into $(VENV)."
	@$(PIP) --editable ".[training,compare]"
	@touch $@

$(STAMP): $(COMPLETE)
	@echo "Installing what developing needs into $(VENV)."
	@$(PIP) --editable ".[training,compare,demo,onnx,test,dev]"
	@touch $@

# All stages that made the bundled model, from scratch. Each says where it is, with its hours on two CPU cores with bf16;
# without bf16 the trainings take about twice as long. The same command resumes an interrupted stage.
OUT := outputs/default
CONFIGS := training/configs/default
TRAIN = $(BIN)/python $(1) --resume latest
SAY = @printf '\n=== stage %s of 12: %s, about %s h, %s\n' '$(1)' '$(2)' '$(3)' "$$(date +%H:%M)"

default-model: weights/judge/config.json weights/second-judge/config.json \
		src/diffusers_ccld/default_model/model_index.json  ## train the bundled model
	$(call SAY,12,the evaluation,0.3)
	$(BIN)/python benchmarks/evaluate_default.py --output $(OUT)/results.md

default-onnx: $(STAMP)  ## the ONNX graphs of the bundled model, beside the weights that they use
	$(PIP) --editable ".[onnx]"
	$(BIN)/ccld export-onnx src/diffusers_ccld/default_model --overwrite

default-teacher: weights/teacher/config.json  ## train the teacher, a larger model that students are distilled from

distillation-table: $(OUT)/teacher/pipeline/model_index.json  ## train and measure the students of docs/distillation.md
	$(BIN)/python benchmarks/distillation_table.py --cache $(OUT)/cache --output $(OUT)/distillation

$(OUT)/paintings/state.json: | $(STAMP)
	$(call SAY,1,60 000 paintings,0.4)
	$(BIN)/python training/make_paintings.py --num-images 60000 --seed 1 --output $(OUT)/paintings

$(OUT)/held-out/state.json: | $(STAMP)
	$(call SAY,2,10 000 paintings of held-out combinations for the judges,0.1)
	$(BIN)/python training/make_paintings.py --num-images 10000 --seed 1 --held-out --output $(OUT)/held-out

weights/judge/config.json: $(OUT)/paintings/state.json $(OUT)/held-out/state.json
	$(call SAY,3,the judge,0.2)
	$(call TRAIN,training/train_judge.py --config $(CONFIGS)/judge.yaml)
	mkdir -p weights/judge
	cp $(OUT)/judge/judge/* weights/judge

weights/second-judge/config.json: $(OUT)/paintings/state.json $(OUT)/held-out/state.json
	$(call SAY,4,the second judge,0.2)
	$(call TRAIN,training/train_judge.py --config $(CONFIGS)/second_judge.yaml)
	mkdir -p weights/second-judge
	cp $(OUT)/second-judge/judge/* weights/second-judge

$(OUT)/vae/vae/config.json: $(OUT)/paintings/state.json
	$(call SAY,5,the autoencoder,0.8)
	$(call TRAIN,training/train_autoencoder.py --config $(CONFIGS)/vae.yaml)

$(OUT)/cloob/cloob/losses.png: $(OUT)/paintings/state.json
	$(call SAY,6,CLOOB,0.5)
	$(call TRAIN,training/train_cloob.py --config $(CONFIGS)/cloob.yaml)

$(OUT)/encoders.made: $(OUT)/vae/vae/config.json $(OUT)/cloob/cloob/losses.png
	rm -rf $(OUT)/encoders
	cp -r $(OUT)/cloob/cloob $(OUT)/encoders
	cp -r $(OUT)/vae/vae $(OUT)/encoders/vae
	touch $@

$(OUT)/decoder/vae/config.json: $(OUT)/encoders.made
	$(call SAY,7,the decoder,0.9)
	$(call TRAIN,training/train_autoencoder.py --config $(CONFIGS)/decoder.yaml)

$(OUT)/components.made: $(OUT)/decoder/vae/config.json
	rm -rf $(OUT)/components $(OUT)/cache
	cp -r $(OUT)/encoders $(OUT)/components
	rm -r $(OUT)/components/vae
	cp -r $(OUT)/decoder/vae $(OUT)/components/vae
	touch $@

$(OUT)/cache.made: $(OUT)/components.made
	$(call SAY,8,latents and embeddings,0.3)
	$(BIN)/python training/precompute.py --model $(OUT)/components --dataset $(OUT)/paintings --resolution 128 \
		--batch-size 64 --output $(OUT)/cache
	touch $@

$(OUT)/unet/pipeline/model_index.json: $(OUT)/cache.made
	$(call SAY,9,the U-Net,3.2)
	$(call TRAIN,training/finetune.py --config $(CONFIGS)/unet.yaml)

$(OUT)/teacher/pipeline/model_index.json: $(OUT)/cache.made
	$(call TRAIN,training/finetune.py --config $(CONFIGS)/teacher.yaml)

weights/teacher/config.json: $(OUT)/teacher/pipeline/model_index.json
	$(BIN)/python training/bundle.py --pipeline $(OUT)/teacher/pipeline --part unet --max-megabytes 25 \
		--output weights/teacher

$(OUT)/fitted/model_index.json: $(OUT)/unet/pipeline/model_index.json
	$(call SAY,10,the fit of the text encoder,0.2)
	rm -rf $(OUT)/fitted
	$(BIN)/python training/fit_text.py --config $(CONFIGS)/text.yaml

src/diffusers_ccld/default_model/model_index.json: $(OUT)/fitted/model_index.json docs/default-model.md
	$(call SAY,11,the bundled folder,0.1)
	$(BIN)/python training/bundle.py --pipeline $(OUT)/fitted --card docs/default-model.md \
		--output src/diffusers_ccld/default_model
	$(MAKE) default-onnx

clean:  ## remove the environment and all outputs
	rm -rf $(if $(OTHERS),,$(VENV)) outputs dist build
	@$(if $(OTHERS),echo "$(VENV) stays as it is: it was not made here.")
