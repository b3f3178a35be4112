"""The modular form and the classic pipeline make the same pictures."""

import pytest
import torch
from diffusers import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

from diffusers_ccld import CCLDBlocks, CCLDPipeline, CCLDScheduler
from diffusers_ccld.pipelines.conditions import Prompts
from diffusers_ccld.pipelines.guidance import guided_prediction
from diffusers_ccld.pipelines.modular import prediction_by
from support import original_files

SMALL = {"height": 64, "width": 64, "num_inference_steps": 3}


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def modular(pipeline_folder):
    modular = CCLDBlocks().init_pipeline(str(pipeline_folder))
    modular.load_components()
    modular.update_components(scheduler=CCLDScheduler(algorithm_type="ddim"))
    return modular


def classic(folder, **options):
    pipe = CCLDPipeline.from_pretrained(folder, scheduler=CCLDScheduler(algorithm_type="ddim"))
    pipe.set_progress_bar_config(disable=True)
    return pipe(**SMALL, **options, generator=seeded(), output_type="latent").images


@pytest.mark.parametrize("prompts", [{}, {"negative_prompt": "fog"}, {"num_images_per_prompt": 2}])
def test_classifier_free_guidance_is_the_formula(modular, pipeline_folder, prompts):
    modular.update_components(guider=ClassifierFreeGuidance(guidance_scale=4.0))
    latents = modular(prompt="a fox", **prompts, **SMALL, generator=seeded(), output_type="latent", output="images")
    expected = classic(pipeline_folder, prompt="a fox", guidance_scale=4.0, **prompts)
    torch.testing.assert_close(latents, expected, atol=1e-3, rtol=1e-3)


def test_the_guider_is_the_one_that_was_set(modular):
    """The oracle is diffusers' own function, on the predictions at the scales 1 and 0."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipe = CCLDPipeline(**{name: getattr(modular, name) for name in names})
    guidance = pipe.prepare_guidance(Prompts(prompt="a fox"))
    guider = AdaptiveProjectedGuidance(guidance_scale=5.0, adaptive_projected_guidance_rescale=2.0, eta=0.5)
    x, t = original_files.inputs("modular.x", (1, 4, 8, 8)), torch.tensor(400.0)
    embeds = guidance.condition_embeds
    with torch.no_grad():
        cond, uncond = (guided_prediction(pipe.unet, x, t, embeds, guidance.weights(scale)) for scale in (1.0, 0.0))
        result = prediction_by(guider, guidance, 3)(pipe.unet, x, t, embeds, guidance.weights(9.0))
    expected = normalized_guidance(cond, uncond, 5.0, None, 0.5, 2.0, False, None)
    torch.testing.assert_close(result, expected)


def test_a_block_can_be_taken_out(pipeline_folder):
    blocks = CCLDBlocks()
    blocks.sub_blocks.pop("decode")
    modular = blocks.init_pipeline(str(pipeline_folder))
    modular.load_components()
    latents = modular(prompt="a fox", **SMALL, generator=seeded(), output="latents")
    assert latents.shape == (1, 4, 8, 8) and "images" not in modular.blocks.output_names
