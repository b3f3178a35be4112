"""The spread of images around a text, and the guidance scale and the variation that are a model's own."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline, CCLDPipeline, CCLDScheduler
from diffusers_ccld.inference.interpolation import prepare_path

FOX = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8))
SMALL = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def fitted(pipe):
    """The small pipeline with DDIM and a residual factor."""
    pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    pipe.text_encoder.set_residual_factor(0.05 * torch.randn(512, 512, generator=seeded(1)))
    return pipe


def conditions_of(pipe, **call):
    """The conditions that the network is evaluated for at the first step, (K, D)."""
    seen = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"][:, 0].clone()), with_kwargs=True
    )
    pipe(**{**SMALL, "generator": [seeded()], **call})
    hook.remove()
    return seen[0]


def test_a_varied_text_is_its_embedding_plus_the_residuals_spread(fitted):
    noise = seeded()
    torch.randn(1, 4, 8, 8, generator=noise)  # that of the latents comes first
    z = torch.randn(1, 512, generator=noise)
    (u,), _ = fitted.encode_prompt("a fox")
    expected = F.normalize(u + 0.5 * fitted.text_encoder.residual_factor @ z[0], dim=0)
    torch.testing.assert_close(conditions_of(fitted, prompt="a fox", variation=0.5)[0], expected)
    fitted_conditions = conditions_of(fitted, conditions=[("a fox", 2.0)], variation=0.5)
    torch.testing.assert_close(fitted_conditions[0], expected)


def test_without_variation_nothing_is_drawn(fitted):
    plain, zero = seeded(), seeded()
    fitted.text_encoder.set_residual_factor(None)
    expected = fitted("a fox", generator=plain, **SMALL).images
    fitted.text_encoder.set_residual_factor(torch.eye(512))
    assert torch.equal(fitted("a fox", generator=zero, variation=0, **SMALL).images, expected)
    assert torch.equal(plain.get_state(), zero.get_state())


def test_only_wanted_texts_are_varied(fitted):
    """Image prompts, negative prompts, negative weights and given embeddings stay as they are, to the bit."""
    embeds = fitted.encode_prompt("snow")[0]
    for call, kept in (
        ({"prompt": "a fox", "image_prompt": FOX, "negative_prompt": "fog"}, [1, 2]),
        ({"prompt_embeds": embeds, "negative_prompt": "fog"}, [0, 1]),
        ({"conditions": [("a fox", 2.0), (FOX, 1.0), ("fog", -1.0), (embeds[0], 0.5)]}, [1, 2, 3]),
    ):
        varied, plain = (conditions_of(fitted, **call, variation=v) for v in (1.0, 0.0))
        assert [i for i in range(kept[-1] + 1) if torch.equal(varied[i], plain[i])] == kept
    generators = seeded(), seeded()
    images = [fitted(image_prompt=FOX, generator=g, variation=v, **SMALL).images for g, v in zip(generators, (1, 0))]
    assert torch.equal(*images) and torch.equal(*(g.get_state() for g in generators))


def test_a_seed_is_an_image_whatever_its_batch(fitted):
    """Also where others of the batch are not varied, and the sampler draws more noise."""
    rows = [[("a fox", 3.0), ("snow", 1.0)], [(FOX, 3.0)], [], [("a fox", 3.0)]]
    options = {**SMALL, "variation": 0.7, "eta": 1.0}
    together = fitted(conditions=rows, generator=[seeded(i) for i in range(4)], **options).images
    for i, row in enumerate(rows):
        alone = fitted(conditions=row, generator=[seeded(i)], **options).images
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=1e-3)
    repeated = fitted("a fox", num_images_per_prompt=2, generator=[seeded(3), seeded(4)], **SMALL, variation=0.7)
    alone = fitted("a fox", generator=[seeded(4)], **SMALL, variation=0.7).images
    torch.testing.assert_close(repeated.images[1:], alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("task", ["image_to_image", "edit", "inpaint"])
def test_tasks_with_pictures_vary_too(fitted, task):
    pipeline = CCLDInpaintPipeline if task == "inpaint" else CCLDImg2ImgPipeline
    pipe = pipeline.from_pipe(fitted)
    call = pipe.edit if task == "edit" else pipe
    options = {"num_inference_steps": 3, "output_type": "latent", "image": FOX}
    options |= {"mask_image": Image.new("L", FOX.size, 255)} if task == "inpaint" else {}
    once, again, plain = (
        call(prompt="a fox", generator=seeded(), variation=v, **options).images for v in (0.5, 0.5, 0)
    )
    assert torch.equal(once, again) and not torch.equal(once, plain)


def test_waypoints_are_varied_like_the_pictures_of_their_seeds(fitted):
    path = prepare_path(fitted, ["a fox", FOX, ("snow", 2.0)], [3, 4, 5], height=64, width=64, variation=0.5)
    for i, (call, seed) in enumerate([({"prompt": "a fox"}, 3), ({"image_prompt": FOX}, 4), ({"prompt": "snow"}, 5)]):
        conditions = conditions_of(fitted, **call, variation=0.5, generator=[seeded(seed)])
        torch.testing.assert_close(path.condition_embeds[i], conditions[0])
    assert (
        len(prepare_path(fitted, ["a fox"], [1, 2], height=64, width=64, variation=0.5).condition_embeds.unique(dim=0))
        == 2
    )
    with pytest.raises(ValueError, match="variation=2 must"):
        prepare_path(fitted, ["a fox", "snow"], variation=2)


def test_a_model_that_was_not_fitted_is_refused(pipe):
    with pytest.raises(ValueError, match=r"variation=0.5 needs a text encoder that .* has fitted"):
        pipe("a fox", variation=0.5)
    pipe.register_to_config(default_variation=0.5)  # a default of another text encoder is none of this one
    assert pipe.variation_or_default() == 0


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_variation_out_of_range_is_refused(fitted, value):
    with pytest.raises(ValueError, match="variation="):
        fitted("a fox", variation=value)


def test_a_models_own_defaults_are_used_and_travel(fitted, tmp_path):
    fitted.register_to_config(default_guidance_scale=1.75, default_variation=0.25)
    expected = fitted("a fox", generator=seeded(), guidance_scale=1.75, variation=0.25, **SMALL).images
    assert torch.equal(fitted("a fox", generator=seeded(), **SMALL).images, expected)
    assert not torch.equal(
        fitted("a fox", generator=seeded(), guidance_scale=1.75, variation=0, **SMALL).images, expected
    )
    fitted.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["default_guidance_scale"] == 1.75
    loaded = CCLDPipeline.from_pretrained(tmp_path)
    for pipe in (
        loaded,
        CCLDImg2ImgPipeline.from_pipe(loaded),
        CCLDPipeline.from_pretrained(tmp_path, default_variation=0.25),
    ):
        assert (pipe.guidance_or_default(), pipe.variation_or_default()) == (1.75, 0.25)
    path = prepare_path(loaded, ["a fox", "snow"], [1, 2], height=64, width=64)
    assert path.weights.tolist() == [1.75, 1.75]


def test_without_own_defaults_the_guidance_scale_is_3_as_far_as_it_was_learned(pipe):
    assert (pipe.guidance_or_default(), pipe.guidance_or_default(7.0), pipe.variation_or_default()) == (3, 7, 0)
    pipe.register_to_config(max_guidance_scale=2.0)
    assert pipe.guidance_or_default() == 2
    pipe.register_to_config(default_guidance_scale=1.5)
    assert pipe.guidance_or_default() == 1.5
