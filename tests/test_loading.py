"""Loading pipelines for the commands: where to, in which precision, and that neither shows."""

import numpy as np
import pytest
import torch

from diffusers_ccld.cli import main
from diffusers_ccld.devices import computes_in_bfloat16, usable_dtype
from diffusers_ccld.loading import load_pipeline

CPU = torch.device("cpu")


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_half_precision_is_taken_where_the_processor_computes_in_it(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert usable_dtype("auto", CPU) == "bf16" and usable_dtype("fp32", CPU) == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: False, "avx2": True}, raising=False)
    assert usable_dtype("auto", CPU) == "fp32" and usable_dtype("bf16", CPU) == "bf16"


def test_what_cannot_be_told_is_not_taken_for_granted(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not computes_in_bfloat16(CPU) and not computes_in_bfloat16(torch.device("meta"))


def paint(pipe, seeds):
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"generator": generators, "num_inference_steps": 8, "output_type": "np"}
    return pipe(["winter mountains, charcoal on paper"] * len(seeds), **options).images


def test_compiling_without_a_compiler_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["sample", "a lighthouse", "--compile", "--output", str(tmp_path / "pictures")]) == 2
    error = capsys.readouterr().err
    assert "no-such-compiler" in error and "C++ compiler" in error and not (tmp_path / "pictures").exists()


@pytest.mark.slow
def test_compiled_networks_paint_the_same():
    torch._dynamo.reset()
    expected = paint(load_pipeline(None, "fp32", CPU, algorithm_type="unipc"), [0, 1])
    torch._dynamo.utils.counters.clear()
    compiled = load_pipeline(None, "fp32", CPU, compiled=True, algorithm_type="unipc")
    assert decibels(paint(compiled, [0, 1]), expected) > 80
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # the U-Net and the decoder, whole
    torch._dynamo.reset()


def decibels(first, second):
    """Ratio of peak signal to noise, of the worst of all pictures."""
    return -10 * np.log10(np.square(first - second).mean(axis=(1, 2, 3)).max() + 1e-12)


def test_half_precision_and_layout_do_not_show():
    exact = load_pipeline(None, "fp32", CPU, algorithm_type="unipc")
    expected = paint(exact, [0, 1, 2])
    half = load_pipeline(None, "bf16", CPU, algorithm_type="unipc")
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.bfloat16}
    assert half.unet.fourier.weight.dtype == torch.float32
    painted = paint(half, [0, 1, 2])
    assert decibels(painted, expected) > 35
    assert decibels(paint(half, [1]), painted[1:2]) > 45  # not even the batch that it was made in
    for part in (exact.unet, exact.vae):
        part.to(memory_format=torch.contiguous_format)
    assert decibels(paint(exact, [0, 1, 2]), expected) > 90
