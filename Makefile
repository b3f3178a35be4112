# `make paint` and `make test` set up everything they need; the other targets are for developers.

PYTHON ?= python3
PROMPT ?= A sunset landscape painting, oil on canvas
VENV := .venv
BIN := $(VENV)/bin

# The environment is built anew whenever what it is made from has changed: the requirements, the interpreter, the place.
RECIPE := $(shell (cat setup.cfg pyproject.toml; $(PYTHON) --version; pwd) | sha256sum | cut -c 1-16)
STAMP := $(VENV)/built-from-$(RECIPE)

.PHONY: paint test test-slow suites quality style wheel clean

paint: outputs/tiny/model_index.json  ## paint four pictures with a small untrained model
	$(BIN)/ccld sample "$(PROMPT)" --model outputs/tiny --steps 15 --output outputs/pictures

outputs/tiny/model_index.json: $(STAMP)
	$(BIN)/python tests/original_files.py outputs/original
	$(BIN)/python conversion/convert_ckpt.py --unet outputs/original/unet.ckpt \
		--cloob outputs/original/cloob.pkl --cloob-config outputs/original/cloob.json \
		--autoencoder outputs/original/autoencoder.ckpt \
		--autoencoder-config outputs/original/autoencoder.yaml --output outputs/tiny --overwrite

test: $(STAMP)  ## the test suite, on two cores: one thread a process, or they wait for one another
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

test-slow: $(STAMP)  ## the tests that take minutes or gigabytes, for a nightly run
	$(BIN)/python -m pytest -m slow

suites: $(STAMP)  ## diffusers' own suites, from a checkout: make suites DIFFUSERS=path
	@test -d "$(DIFFUSERS)/tests/pipelines" || { echo "Give DIFFUSERS=path of a checkout of diffusers." >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --editable ".[training,test,suites,dev]"
	PYTHONPATH=$(abspath $(DIFFUSERS)):tests/diffusers_suites $(BIN)/python -m pytest -o addopts= -rs \
		tests/diffusers_suites

quality: $(STAMP)  ## check the code's form
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(STAMP)  ## mend the code's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP)  ## build dist/*.whl
	$(BIN)/python -m build --wheel

$(STAMP): setup.cfg pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[training,test,dev]"
	touch $@

clean:
	rm -rf $(VENV) outputs dist build
