"""Guidance-distilled networks."""

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline
from diffusers_ccld.models.prediction import guidance_scale_embedding, predict_velocity
from diffusers_ccld.pipelines.guidance import guided_prediction
from support.networks import make_unet, question


@pytest.fixture(params=["ours", "stock"])
def distilled(request, trainable_folder):
    """A pipeline with a guidance-distilled U-Net."""
    pipe = CCLDPipeline.from_pretrained(trainable_folder, unet=make_unet(request.param))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_embedding_is_that_of_latent_consistency_models():
    scales = torch.tensor([1.0, 3.0, 7.5])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scales - 1, embedding_dim=32)
    assert torch.allclose(guidance_scale_embedding(scales, 32), theirs, atol=5e-4)  # angles of thousands of radians


@pytest.mark.parametrize(
    "arguments, evaluated",
    [
        ({"prompt": "a fox"}, 1),
        ({"prompt": "a fox", "guidance_scale": 1.0}, 1),
        ({"prompt": "a fox", "guidance_scale": 0.5}, 2),
        ({"prompt": "a fox", "negative_prompt": "fog"}, 2),
        ({"conditions": [("a fox", 2.0), ("fog", 1.5)]}, 3),
        ({"conditions": []}, 1),
    ],
)
def test_a_single_condition_needs_one_evaluation(distilled, arguments, evaluated):
    sizes = []
    distilled.unet.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    distilled(**arguments, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="latent")
    assert set(sizes) == {evaluated}


@torch.no_grad()
def test_the_weight_of_a_single_condition_is_the_network_s_input(distilled):
    noisy, timesteps, condition = question()
    weights = torch.tensor([[3.0], [5.0]])
    mine = guided_prediction(distilled.unet, noisy, timesteps[0], condition, weights)
    expected = predict_velocity(distilled.unet, noisy, timesteps, condition, weights[:, 0])
    assert torch.allclose(mine, expected, atol=1e-6)
    assert not torch.allclose(mine, predict_velocity(distilled.unet, noisy, timesteps, condition), atol=1e-3)


@torch.no_grad()
def test_several_conditions_are_combined_by_the_formula(distilled):
    noisy, timesteps, condition = question(3)
    noisy = noisy[:1]
    one = [predict_velocity(distilled.unet, noisy, timesteps[:1], c[None]) for c in (condition[0], condition[1])]
    none = predict_velocity(distilled.unet, noisy, timesteps[:1], torch.zeros_like(condition[:1]))
    mine = guided_prediction(distilled.unet, noisy, timesteps[0], condition[:2, 0][None], torch.tensor([[3.0, -1.5]]))
    assert torch.allclose(mine, 3 * one[0] - 1.5 * one[1] - 0.5 * none, atol=1e-5)


def test_a_guidance_scale_is_required_or_refused():
    noisy, timesteps, condition = question()
    with pytest.raises(ValueError, match=r"timestep_cond.*None.*\(2, 16\)"):
        make_unet("ours")(noisy, timesteps, condition)
    with pytest.raises(ValueError, match=r"timestep_cond.*\(2, 16\).*None"):
        make_unet("ours", None)(noisy, timesteps, condition, timestep_cond=torch.zeros(2, 16))


@pytest.mark.parametrize("width", [-2, 0, 1, 2, 5])
def test_impossible_widths_of_the_embedding_are_refused(width):
    with pytest.raises(ValueError, match=f"time_cond_proj_dim={width}"):
        make_unet("ours", width)


def test_saving_and_loading(distilled, tmp_path):
    distilled.save_pretrained(tmp_path)
    loaded = CCLDPipeline.from_pretrained(tmp_path)
    assert type(loaded.unet) is type(distilled.unet) and loaded.unet.config.time_cond_proj_dim == 16
    with torch.no_grad():
        assert torch.equal(predict_velocity(loaded.unet, *question()), predict_velocity(distilled.unet, *question()))


def test_what_a_network_was_taught_is_saved_with_its_pipeline(distilled, tmp_path):
    """The network's own number of steps is the default, and larger guidance scales than it learned are refused."""
    distilled.register_to_config(default_num_inference_steps=2, max_guidance_scale=4.0)
    distilled.save_pretrained(tmp_path)
    pipe = CCLDPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    pipe("a fox", guidance_scale=4.0, output_type="latent")
    pipe.scheduler.set_timesteps(2)
    assert pipe.num_timesteps == len(pipe.scheduler.timesteps)
    with pytest.raises(ValueError, match=r"up to 4; 4\.5 is too large"):
        pipe("a fox", guidance_scale=4.5)
    pipe(conditions=[("a fox", 3.0), ("snow", 3.0)], output_type="latent")  # each without guidance
    img2img = CCLDImg2ImgPipeline.from_pipe(pipe)
    assert (img2img.config.default_num_inference_steps, img2img.config.max_guidance_scale) == (2, 4.0)
