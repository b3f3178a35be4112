"""Saving and loading with a LoRA in place: right, or one sentence."""

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline, CCLDScheduler, CCLDUNet2DConditionModel
from support.random_calls.models import small_components


@pytest.fixture(params=["ours", "stock"])
def pipe(request):
    pipe = CCLDPipeline(**small_components(request.param), scheduler=CCLDScheduler(algorithm_type="ddim"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def add_lora(pipe):
    targets = ["linear1", "conv1"] if isinstance(pipe.unet, CCLDUNet2DConditionModel) else ["to_q", "conv1"]
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "style")


def paint(pipe):
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "output_type": "latent"}
    return pipe("a fox", generator=torch.Generator().manual_seed(0), **options).images


def test_a_lora_in_place_is_not_saved(pipe, tmp_path):
    add_lora(pipe)
    for save in (pipe.save_pretrained, CCLDImg2ImgPipeline.from_pipe(pipe).save_pretrained):
        with pytest.raises(ValueError, match=r"The unet has a LoRA in place \(style\).*fuse_lora"):
            save(tmp_path / "pipeline")
    if isinstance(pipe.unet, CCLDUNet2DConditionModel):
        with pytest.raises(ValueError, match=r"The network has a LoRA in place"):
            pipe.unet.save_pretrained(tmp_path / "pipeline")
    assert not (tmp_path / "pipeline").exists()


@pytest.mark.parametrize("unloads", [False, True])
def test_a_fused_lora_is_saved_as_weights(pipe, tmp_path, unloads):
    before = paint(pipe)
    add_lora(pipe)
    with_lora = paint(pipe)
    pipe.fuse_lora(components=["unet"])
    if unloads:
        pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "pipeline")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    torch.testing.assert_close(paint(loaded), with_lora, atol=1e-4, rtol=0)
    torch.testing.assert_close(paint(pipe), with_lora, atol=1e-4, rtol=0)
    assert not torch.allclose(with_lora, before, atol=1e-2)


def test_after_unloading_the_model_is_saved_as_it_was(pipe, tmp_path):
    before = paint(pipe)
    add_lora(pipe)
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "pipeline")
    assert torch.equal(paint(DiffusionPipeline.from_pretrained(tmp_path / "pipeline")), before)


def test_what_was_saved_with_a_lora_in_place_is_not_loaded_at_random(tmp_path):
    pipe = CCLDPipeline(**small_components("ours"), scheduler=CCLDScheduler())
    pipe.save_pretrained(tmp_path)
    add_lora(pipe)
    ModelMixin.save_pretrained(pipe.unet, tmp_path / "unet")  # as earlier versions did
    for load in (
        lambda: DiffusionPipeline.from_pretrained(tmp_path),
        lambda: CCLDUNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet"),
    ):
        with pytest.raises(ValueError, match=r"lacks \d+ weights.*saved with a LoRA in place"):
            load()


def test_loading_tells_what_it_found_where_it_is_asked(tmp_path):
    small_components("ours")["unet"].save_pretrained(tmp_path)
    model, info = CCLDUNet2DConditionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, CCLDUNet2DConditionModel) and not info["missing_keys"]
