"""Loading pipelines: device and precision, neither of which may change the pictures visibly."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from diffusers_ccld import CCLDPipeline, CCLDUNet2DConditionModel
from diffusers_ccld.inference import optimization
from diffusers_ccld.inference.devices import computes_in_bfloat16, usable_dtype
from diffusers_ccld.inference.loading import find_folder, hub_options, load_pipeline
from diffusers_ccld.inference.optimization import MAX_COMPILATIONS
from diffusers_ccld.training.components import load_components, load_defaults

CPU = torch.device("cpu")
BLOCKS = CCLDUNet2DConditionModel._repeated_blocks


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_auto_selects_bfloat16_where_the_processor_computes_in_it(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert usable_dtype("auto", CPU) == "bf16" and usable_dtype("fp32", CPU) == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: False, "avx2": True}, raising=False)
    assert usable_dtype("auto", CPU) == "fp32" and usable_dtype("bf16", CPU) == "bf16"


def test_bfloat16_by_name_is_warned_of_where_it_is_emulated(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert usable_dtype("bf16", CPU) == "bf16" and "67 times slower" in caplog.text
    caplog.clear()
    assert usable_dtype("fp32", CPU) == "fp32" and usable_dtype("bf16", torch.device("meta")) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert usable_dtype("bf16", CPU) == "bf16" and not caplog.text


def test_bfloat16_is_not_assumed_if_torch_reports_no_capabilities(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not computes_in_bfloat16(CPU) and not computes_in_bfloat16(torch.device("meta"))


def paint(pipe, seeds):
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"generator": generators, "num_inference_steps": 8, "output_type": "np"}
    return pipe(["winter mountains, charcoal on paper"] * len(seeds), **options).images


def test_compiling_without_a_compiler_is_an_error(tmp_path):
    command = [sys.executable, "-c", "from diffusers_ccld.cli import main; raise SystemExit(main())", "sample"]
    command += ["a cottage", "--device", "cpu", "--compile", "--output", str(tmp_path / "pictures")]
    result = subprocess.run(command, env={**os.environ, "CXX": "no-such-compiler"}, capture_output=True, text=True)
    assert result.returncode == 2 and "C++ compiler" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "pictures").exists()


def test_compiled_networks_are_called_with_settings_of_their_own(monkeypatch):
    """The settings hold in the calling thread, and only during the call."""
    seen = []

    def compile_nothing(forward, dynamic):
        def call(*args, **kwargs):
            seen.append((torch._inductor.config.freezing, torch._dynamo.config.recompile_limit))
            return forward(*args, **kwargs)

        return call

    expected = paint(load_pipeline(None, "fp32", CPU), [0])
    before = torch._inductor.config.freezing, torch._dynamo.config.recompile_limit
    monkeypatch.setattr(torch, "compile", compile_nothing)
    compiled = load_pipeline(None, "fp32", CPU, compiled=True)
    with ThreadPoolExecutor() as threads:
        painted = threads.submit(paint, compiled, [0]).result()
    assert np.array_equal(painted, expected)
    assert len(seen) == 8 and set(seen) == {(True, MAX_COMPILATIONS)}  # steps
    assert (torch._inductor.config.freezing, torch._dynamo.config.recompile_limit) == before != seen[0]


@pytest.mark.slow
def test_large_networks_are_compiled_block_by_block(monkeypatch):
    pipe = load_pipeline(None, "fp32", CPU)
    expected = paint(pipe, [0])
    monkeypatch.setattr(optimization, "MAX_COPIED_PARAMETERS", 1000)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = load_pipeline(None, "fp32", CPU, compiled=True)
    assert decibels(paint(compiled, [0]), expected) > 80
    distinct = {(type(module), str(module)) for module in pipe.unet.modules() if type(module).__name__ in BLOCKS}
    assert 1 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= len(distinct) + 10
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_networks_give_the_same_pictures():
    expected = paint(load_pipeline(None, "fp32", CPU, algorithm_type="unipc"), [0, 1])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = load_pipeline(None, "fp32", CPU, compiled=True, algorithm_type="unipc")
    assert decibels(paint(compiled, [0, 1]), expected) > 80
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # the U-Net, without breaks
    torch._dynamo.reset()


def decibels(first, second):
    """Peak signal-to-noise ratio of the worst picture."""
    return -10 * np.log10(np.square(first - second).mean(axis=(1, 2, 3)).max() + 1e-12)


def test_half_precision_and_channels_last_do_not_change_pictures_visibly():
    exact = load_pipeline(None, "fp32", CPU, algorithm_type="unipc")
    expected = paint(exact, [0, 1, 2])
    half = load_pipeline(None, "bf16", CPU, algorithm_type="unipc")
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.bfloat16}
    assert half.unet.fourier.weight.dtype == torch.float32
    painted = paint(half, [0, 1, 2])
    assert decibels(painted, expected) > 35
    assert decibels(paint(half, [1]), painted[1:2]) > 45  # in another batch, too
    for part in (exact.unet, exact.vae):
        part.to(memory_format=torch.contiguous_format)
    assert decibels(paint(exact, [0, 1, 2]), expected) > 90


class Unreachable:
    """A Hub that cannot be reached, and notes what it is asked for."""

    def __init__(self):
        self.requests = []

    def __call__(self, _, name, repo_type, timeout):
        self.requests.append((name, repo_type, timeout))
        raise OSError("Name or service not known")


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """The Hub, and its cache in `tmp_path`."""
    hub = Unreachable()
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *args, **options: hub(*args, **options))
    monkeypatch.setattr("diffusers_ccld.inference.loading.HF_HUB_CACHE", str(tmp_path))
    return hub


LOADING = {
    "folder": find_folder,
    "part": lambda name: load_components(name, ["vae", "tokenizer"]),
    "defaults": load_defaults,
}


@pytest.mark.parametrize("load", [*LOADING.values(), CCLDPipeline.from_pretrained], ids=[*LOADING, "pipeline"])
@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "../no/where", "/no/where", "a/b/c", "~/nowhere", "a b/c"])
def test_what_cannot_be_a_name_on_the_hub_is_not_looked_for_there(load, name, unreachable):
    with pytest.raises(ValueError, match="this is neither a folder nor a model on the Hub, named owner/name"):
        load(name)
    assert not unreachable.requests


@pytest.mark.parametrize("load", LOADING.values(), ids=LOADING)
def test_a_hub_that_cannot_be_reached_is_asked_once(load, unreachable):
    with pytest.raises(ValueError, match="somebody/model: there is no such folder, and the Hub cannot be reached"):
        load("somebody/model")
    ((name, kind, timeout),) = unreachable.requests
    assert (name, kind) == ("somebody/model", "model") and timeout <= 10


def test_without_a_connection_the_cache_is_read(unreachable, tmp_path):
    (tmp_path / "models--somebody--model").mkdir()
    assert hub_options("somebody/model") == {"local_files_only": True} and hub_options(str(tmp_path)) == {}
