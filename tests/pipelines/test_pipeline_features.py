"""The features that diffusers expects of a pipeline, as far as they need no accelerator."""

import dataclasses
import inspect
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline, CCLDPipeline, CCLDScheduler
from diffusers_ccld.pipelines.calls import SamplingCall
from diffusers_ccld.pipelines.pipeline_ccld_inpaint import InpaintCall
from diffusers_ccld.pipelines.starting_images import ImageCall

PIPELINES = (CCLDPipeline, CCLDImg2ImgPipeline, CCLDInpaintPipeline)


@pytest.fixture
def pipe(pipe):
    """With DDIM: the multistep methods amplify rounding in as few steps as are taken here."""
    pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    return pipe


def paint(pipe, **options):
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt", **options}
    return pipe(["a sunset", "a dog"], generator=torch.Generator().manual_seed(0), **options).images


def test_variants_do_not_subclass_one_another():
    assert not any(issubclass(*pair) for pair in itertools.permutations(PIPELINES, 2))
    assert all(issubclass(pipeline, DiffusionPipeline) and "__call__" in vars(pipeline) for pipeline in PIPELINES)


@pytest.mark.parametrize(
    "method, kind",
    [
        (CCLDPipeline.__call__, SamplingCall),
        (CCLDImg2ImgPipeline.__call__, ImageCall),
        (CCLDImg2ImgPipeline.edit, ImageCall),
        (CCLDImg2ImgPipeline.invert, ImageCall),
        (CCLDInpaintPipeline.__call__, InpaintCall),
    ],
)
def test_a_call_has_a_field_for_every_argument(method, kind):
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert all(field.kw_only for field in fields.values())
    parameters = [p for name, p in inspect.signature(method).parameters.items() if name != "self"]
    assert {p.name for p in parameters} <= fields.keys()
    for p in parameters:
        if p.name != "strength" and p.default is not p.empty:
            assert p.default == fields[p.name].default, p.name


def test_what_a_call_is_given_cannot_change_on_the_way():
    call = SamplingCall(prompt="a fox")
    with pytest.raises(dataclasses.FrozenInstanceError):
        call.eta = 1.0


def test_four_threads_share_a_pipeline(pipe):
    """They tokenise, change their own guidance and step at the same time; each image is as if made alone."""
    pipe.scheduler = CCLDScheduler(algorithm_type="dpmpp")
    config, timesteps = dict(pipe.scheduler.config), pipe.scheduler.timesteps
    barrier, seen = threading.Barrier(4), {}

    def sample(k, wait):
        def on_step(pipe, index, timestep, tensors):
            if wait and index < 2:
                barrier.wait(60)
            pipe._guidance_scale += k
            pipe._interrupt = k == 3 and index == 4
            seen.setdefault((k, wait), []).append((pipe.guidance_scale, pipe.num_timesteps))
            return {}

        options = {"num_inference_steps": 4 + k, "height": 64, "width": 64, "output_type": "pt"}
        generator = torch.Generator().manual_seed(k)
        return pipe(f"a fox {k}", generator=generator, callback_on_step_end=on_step, **options).images

    alone = [sample(k, False) for k in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda k: sample(k, True), range(4)))
    for k in range(4):
        assert torch.equal(together[k], alone[k])
        assert seen[k, True] == seen[k, False] == [(3.0 + k * (i + 1), 4 + k) for i in range(5 if k == 3 else 4 + k)]
    assert dict(pipe.scheduler.config) == config and pipe.scheduler.timesteps is timesteps
    assert pipe.scheduler.step_index is None


def test_another_thread_can_end_a_run(pipe):
    steps = []

    def on_step(pipe, index, timestep, tensors):
        steps.append(index)
        if index == 1:
            other = threading.Thread(target=lambda: setattr(pipe, "_interrupt", True))
            other.start()
            other.join()
        return {}

    paint(pipe, num_inference_steps=5, callback_on_step_end=on_step)
    assert steps == [0, 1] and pipe.interrupt and pipe.num_timesteps == 5


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_from_pipe_keeps_the_precision(pipeline, pipeline_folder):
    pipe = CCLDPipeline.from_pretrained(pipeline_folder, dtype=torch.bfloat16)
    pipe.vae.to(torch.float16)
    made = pipeline.from_pipe(pipe)
    for one in (pipe, made):
        assert (one.unet.dtype, one.vae.dtype, one.text_encoder.dtype) == (
            torch.bfloat16,
            torch.float16,
            torch.bfloat16,
        )
    assert type(made) is pipeline and made.config._name_or_path == pipe.config._name_or_path
    assert CCLDPipeline.from_pipe(made, dtype=torch.float32, image_encoder=None).unet.dtype == torch.float32


@pytest.mark.parametrize("options", [{"offload_type": "leaf_level"}, {"num_blocks_per_group": 1}])
def test_group_offload(pipe, options, tmp_path):
    expected = paint(pipe)
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_to_disk_path=str(tmp_path), **options)
    assert list(tmp_path.iterdir())
    first = paint(pipe)
    assert torch.allclose(first, expected, atol=1e-5)  # offloaded weights have other addresses, and so other last bits
    assert torch.allclose(paint(pipe), first, atol=1e-5)


def test_vae_slicing_and_tiling(pipe):
    calls = []
    pipe.vae.decoder.register_forward_hook(lambda module, args, output: calls.append(tuple(args[0].shape)))
    expected = paint(pipe)
    assert calls == [(2, 4, 8, 8)]
    pipe.vae.enable_slicing()
    assert torch.allclose(paint(pipe), expected, atol=1e-5)
    assert calls[1:] == [(1, 4, 8, 8)] * 2
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 32, 4
    tiled = paint(pipe)
    assert tiled.shape == expected.shape and torch.isfinite(tiled).all()
    assert set(calls[3:]) == {(1, 4, 4, 4), (1, 4, 4, 2), (1, 4, 2, 4), (1, 4, 2, 2)}


def test_saving_in_half_precision_as_a_variant(pipe, tmp_path):
    expected = paint(pipe)
    pipe.save_pretrained(tmp_path / "full")
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    weights = load_file(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    in_full = {name for name, weight in weights.items() if weight.dtype == torch.float32}
    assert in_full == {"fourier.weight", "mapping.fourier.weight"}

    DiffusionPipeline.from_pretrained(tmp_path / "full").save_pretrained(tmp_path)
    assert torch.equal(paint(DiffusionPipeline.from_pretrained(tmp_path)), expected)
    half = DiffusionPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert type(half) is CCLDPipeline and half.unet.dtype == half.vae.dtype == half.text_encoder.dtype == torch.float16
    assert torch.equal(paint(half), paint(pipe))
    assert (paint(half).float() - expected).abs().mean() < 0.01


def test_a_stock_pipeline_with_our_scheduler_is_saved_and_loaded(tmp_path):
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    pipe = DDPMPipeline(unet, scheduler=CCLDScheduler(algorithm_type="ddim"))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers_ccld", "CCLDScheduler"]
    loaded = DDPMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is CCLDScheduler and loaded.scheduler.config.algorithm_type == "ddim"
    images = [
        p(num_inference_steps=2, generator=torch.manual_seed(0), output_type="np").images for p in (pipe, loaded)
    ]
    assert np.allclose(*images, atol=1e-5)  # last bits depend on where weights lie in memory
