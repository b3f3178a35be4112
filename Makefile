# `make paint` and `make test` install everything they need. The other targets are for developers.

PYTHON ?= python3
PROMPT ?= A sunset landscape painting, oil on canvas
VENV := .venv
BIN := $(VENV)/bin

# The environment is rebuilt when the requirements, the interpreter or the folder change.
RECIPE := $(shell (cat setup.cfg pyproject.toml; $(PYTHON) --version; pwd) | sha256sum | cut -c 1-16)
STAMP := $(VENV)/built-from-$(RECIPE)

COUNT ?= 3000
FIRST ?= 0

.PHONY: paint demo web test test-slow fuzz random-calls suites quality style wheel default-model default-onnx \
	default-teacher distillation-table clean

paint: $(STAMP)  ## sample four pictures from the bundled model
	$(BIN)/ccld sample "$(PROMPT)" --output outputs/pictures

demo: $(STAMP)  ## paint in the browser
	$(BIN)/ccld demo

web:  ## build the page that paints in the browser without a server, and serve it on this machine
	$(PYTHON) web/build.py --output outputs/web --serve

test: $(STAMP)  ## the test suite in two processes, each with one thread: more would compete for the cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

test-slow: $(STAMP)  ## the tests that take minutes, gigabytes or a browser (/usr/bin/chromium), for a nightly run
	$(BIN)/python -m pip install --quiet --editable ".[training,compare,demo,onnx,test,browser,dev]"
	$(BIN)/python -m pytest -m slow

fuzz: $(STAMP)  ## 500 damaged and hostile files through `ccld inspect` and `ccld convert`
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/support/mutated_files.py --count 500

random-calls: $(STAMP)  ## COUNT random calls of the pipelines, and what must hold for each; SEED and FIRST repeat some
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m support.random_calls --count $(COUNT) \
		--first $(FIRST) $(if $(SEED),--seed $(SEED))

suites: $(STAMP)  ## diffusers' own suites, from a checkout: make suites DIFFUSERS=path
	@test -d "$(DIFFUSERS)/tests/pipelines" || { echo "Give DIFFUSERS=path of a checkout of diffusers." >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --editable ".[training,compare,demo,test,suites,dev]"
	PYTHONPATH=$(abspath $(DIFFUSERS)):tests/diffusers_suites $(BIN)/python -m pytest -o addopts= -rs \
		tests/diffusers_suites

quality: $(STAMP)  ## check the code's format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(STAMP)  ## fix the code's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP)  ## build dist/*.whl
	$(BIN)/python -m build --wheel

$(STAMP): setup.cfg pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[training,compare,demo,onnx,test,dev]"
	touch $@

# All steps that made the bundled model, from scratch; docs/default-model.md has their durations. The same command
# resumes an interrupted step.
OUT := outputs/default
CONFIGS := training/configs/default
TRAIN = $(BIN)/python $(1) --resume latest

default-model: weights/judge/config.json src/diffusers_ccld/default_model/model_index.json  ## train the bundled model
	$(BIN)/python benchmarks/evaluate_default.py --output $(OUT)/results.md

default-onnx: $(STAMP)  ## the ONNX graphs of the bundled model, beside the weights that they use
	$(BIN)/python -m pip install --quiet --editable ".[onnx]"
	$(BIN)/ccld export-onnx src/diffusers_ccld/default_model

default-teacher: weights/teacher/config.json  ## train the teacher, a larger model that students are distilled from

distillation-table: $(OUT)/teacher/pipeline/model_index.json  ## train and measure the students of docs/distillation.md
	$(BIN)/python benchmarks/distillation_table.py --cache $(OUT)/cache --output $(OUT)/distillation

$(OUT)/paintings/state.json: | $(STAMP)
	$(BIN)/python training/make_paintings.py --num-images 60000 --seed 1 --output $(OUT)/paintings

$(OUT)/held-out/state.json: | $(STAMP)
	$(BIN)/python training/make_paintings.py --num-images 10000 --seed 1 --held-out --output $(OUT)/held-out

$(OUT)/vae/vae/config.json: $(OUT)/paintings/state.json
	$(call TRAIN,training/train_autoencoder.py --config $(CONFIGS)/vae.yaml)

$(OUT)/cloob/cloob/losses.png: $(OUT)/paintings/state.json
	$(call TRAIN,training/train_cloob.py --config $(CONFIGS)/cloob.yaml)

weights/judge/config.json: $(OUT)/paintings/state.json $(OUT)/held-out/state.json
	$(call TRAIN,training/train_judge.py --config $(CONFIGS)/judge.yaml)
	mkdir -p weights/judge
	cp $(OUT)/judge/judge/* weights/judge

$(OUT)/components.made: $(OUT)/vae/vae/config.json $(OUT)/cloob/cloob/losses.png
	rm -rf $(OUT)/components $(OUT)/cache
	cp -r $(OUT)/cloob/cloob $(OUT)/components
	cp -r $(OUT)/vae/vae $(OUT)/components/vae
	touch $@

$(OUT)/cache.made: $(OUT)/components.made
	$(BIN)/python training/precompute.py --model $(OUT)/components --dataset $(OUT)/paintings --resolution 128 \
		--batch-size 64 --output $(OUT)/cache
	touch $@

$(OUT)/unet/pipeline/model_index.json: $(OUT)/cache.made
	$(call TRAIN,training/finetune.py --config $(CONFIGS)/unet.yaml)

$(OUT)/teacher/pipeline/model_index.json: $(OUT)/cache.made
	$(call TRAIN,training/finetune.py --config $(CONFIGS)/teacher.yaml)

weights/teacher/config.json: $(OUT)/teacher/pipeline/model_index.json
	$(BIN)/python training/bundle.py --pipeline $(OUT)/teacher/pipeline --part unet --max-megabytes 25 \
		--output weights/teacher

$(OUT)/fitted/model_index.json: $(OUT)/unet/pipeline/model_index.json
	rm -rf $(OUT)/fitted
	$(BIN)/python training/fit_text.py --config $(CONFIGS)/text.yaml

src/diffusers_ccld/default_model/model_index.json: $(OUT)/fitted/model_index.json docs/default-model.md
	$(BIN)/python training/bundle.py --pipeline $(OUT)/fitted --card docs/default-model.md \
		--output src/diffusers_ccld/default_model
	$(MAKE) default-onnx

clean:
	rm -rf $(VENV) outputs dist build
