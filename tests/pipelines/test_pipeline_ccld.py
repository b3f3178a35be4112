import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image, DDIMScheduler, DiffusionPipeline, VQModel
from PIL import Image

import diffusers_ccld
from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.original.folder import COMPONENTS
from diffusers_ccld.pipelines.guidance import guided_prediction
from diffusers_ccld.schedulers.scheduling_ccld import ALGORITHMS
from support import original_files

EMBEDS = [original_files.inputs(f"e2e.embed.{i}", (1, 512)) for i in range(3)]
FOX = Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 50, 3), dtype=np.uint8))
FEW = {"num_inference_steps": 2, "output_type": "latent"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def latents(pipe, **kwargs):
    """Latents after two steps of DDIM; the other samplers amplify rounding in so few steps."""
    if isinstance(pipe.scheduler, CCLDScheduler):
        pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    return pipe(**{**FEW, "generator": seeded(), **kwargs}).images


class Spy:
    """Counts the conditions that the network is evaluated for."""

    def __init__(self, pipe):
        self.calls = []
        pipe.unet.register_forward_pre_hook(
            lambda _, args, kwargs: self.calls.append(kwargs["encoder_hidden_states"][:, 0].clone()), with_kwargs=True
        )

    def batch_sizes(self):
        return {len(call) for call in self.calls}


# Loading


@pytest.mark.parametrize("loader", [DiffusionPipeline, CCLDPipeline, AutoPipelineForText2Image])
def test_every_usual_way_of_loading(loader, pipeline_folder, pipe):
    loaded = loader.from_pretrained(pipeline_folder)
    assert type(loaded) is CCLDPipeline
    assert all(type(getattr(loaded, name)) is type(getattr(pipe, name)) for name in COMPONENTS)


def test_saving_and_loading_changes_nothing(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["diffusers_ccld", "CCLDUNet2DConditionModel"]
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(latents(loaded, prompt="a fox"), latents(pipe, prompt="a fox"))


def test_loading_from_the_hub(pipeline_folder, tmp_path, monkeypatch):
    """A name on the Hub resolves to a snapshot folder; the download is replaced."""
    snapshot = tmp_path / "snapshot"
    shutil.copytree(pipeline_folder, snapshot)
    asked = []
    monkeypatch.setattr(
        DiffusionPipeline, "download", classmethod(lambda cls, name, **kwargs: asked.append(name) or str(snapshot))
    )
    assert type(DiffusionPipeline.from_pretrained("someone/ccld-wikiart")) is CCLDPipeline
    assert asked == ["someone/ccld-wikiart"]


def test_a_pipeline_without_image_prompts(pipeline_folder):
    pipe = CCLDPipeline.from_pretrained(pipeline_folder, image_encoder=None, feature_extractor=None)
    assert latents(pipe, prompt="a fox").shape == (1, 4, 32, 32)
    with pytest.raises(ValueError, match="image_encoder"):
        pipe(image_prompt=FOX)


# Parity


@pytest.mark.parametrize(
    "key, algorithm, conditions",
    [
        ("text_plms", "plms", [(EMBEDS[0], 3.0)]),
        ("text_ddim", "ddim", [(EMBEDS[0], 3.0)]),
        ("text_plms2", "plms2", [(EMBEDS[0], 3.0)]),
        ("mixed_iplms", "iplms", [(EMBEDS[0], 2.0), (EMBEDS[1], 1.5)]),
        ("negative_ddim", "ddim", [(EMBEDS[0], 3.0), (EMBEDS[2], -1.0)]),
        ("uncond_ddim", "ddim", []),
    ],
)
def test_guided_sampling_is_the_originals(pipe, key, algorithm, conditions):
    expected = original_files.reference("e2e_tiny")
    pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type=algorithm)
    noise = original_files.inputs("e2e.noise", (2, 4, 32, 32))
    result = pipe(
        conditions=[conditions] * 2, latents=noise, num_inference_steps=6, output_type="latent", generator=seeded()
    ).images
    assert original_files.relative_error(result, expected[key]) < 2e-3
    if f"{key}_image" in expected:
        pixels = np.stack(pipe(conditions=[conditions] * 2, latents=noise, num_inference_steps=6).images)
        difference = np.abs(pixels[:, ::4, ::4].astype(int) - expected[f"{key}_image"])
        assert difference.max() <= 2


# The guidance formula


def test_guidance_is_linear_in_the_conditions(pipe):
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(500.0)
    a, b, zero = EMBEDS[0], EMBEDS[1], torch.zeros(1, 512)
    with torch.no_grad():
        va, vb, v0 = (pipe.unet(x, t, c).sample for c in (a, b, zero))
        result = guided_prediction(pipe.unet, x, t, torch.stack([a, b], dim=1), torch.tensor([[2.0, -0.5]]))
    torch.testing.assert_close(result, 2 * va - 0.5 * vb - 0.5 * v0, atol=1e-5, rtol=1e-5)


def test_prompts_are_conditions_in_other_words(pipe):
    same = [
        ({"prompt": "a fox", "guidance_scale": 2.0}, [("a fox", 2.0)]),
        ({"prompt": "a fox"}, [("a fox", 3.0)]),
        ({"prompt": "a fox", "negative_prompt": "fog", "guidance_scale": 2.7}, [("a fox", 2.7), ("fog", -1.7)]),
        ({"image_prompt": FOX}, [(FOX, 3.0)]),
        ({"image_prompt": FOX, "negative_prompt": "fog"}, [(FOX, 3.0), ("fog", -2.0)]),
        ({"prompt": "a fox", "image_prompt": FOX}, [("a fox", 1.5), (FOX, 1.5)]),
        (
            {"prompt": "a fox", "image_prompt": FOX, "image_prompt_weight": 0.2, "guidance_scale": 5},
            [("a fox", 4.0), (FOX, 1.0)],
        ),
    ]
    for prompts, conditions in same:
        torch.testing.assert_close(latents(pipe, **prompts), latents(pipe, conditions=conditions))


def test_embeddings_are_prompts_in_other_words(pipe):
    prompt_embeds, negative_prompt_embeds = pipe.encode_prompt("a fox", "fog")
    image_embeds = pipe.encode_image(FOX)
    expected = latents(pipe, prompt="a fox", negative_prompt="fog", image_prompt=FOX)
    result = latents(
        pipe,
        prompt_embeds=prompt_embeds[:, None],
        negative_prompt_embeds=negative_prompt_embeds,
        image_embeds=image_embeds,
    )
    torch.testing.assert_close(result, expected)  # texts are encoded in other batches


@pytest.mark.parametrize(
    "arguments, evaluated",
    [
        ({"prompt": "a fox"}, 2),
        ({"prompt": "a fox", "guidance_scale": 1.0}, 1),
        ({"prompt": "a fox", "guidance_scale": 0.0}, 1),
        ({"prompt": "a fox", "negative_prompt": "fog", "guidance_scale": 2.7}, 2),
        ({"prompt": "a fox", "image_prompt": FOX, "image_prompt_weight": 1.0}, 2),
        ({"conditions": []}, 1),
        ({"conditions": [[("a", 1.0)], [("a", 2.0), ("b", 1.0)], []]}, 5),
    ],
)
def test_terms_of_weight_zero_are_not_evaluated(pipe, arguments, evaluated):
    spy = Spy(pipe)
    latents(pipe, **arguments)
    assert spy.batch_sizes() == {evaluated}


@pytest.mark.parametrize(
    "arguments, without, inside, outside",
    [
        ({"prompt": "a fox"}, {"prompt": "a fox", "guidance_scale": 1.0}, 2, 1),
        ({"prompt": "a fox", "negative_prompt": "fog"}, {"prompt": "a fox", "guidance_scale": 1.0}, 2, 1),
        ({"conditions": [("a fox", 2.0), (FOX, 1.0)]}, {"conditions": [("a fox", 2 / 3), (FOX, 1 / 3)]}, 3, 2),
        ({"conditions": [("a fox", 0.25)]}, {"conditions": [("a fox", 0.25)]}, 2, 2),
        ({"conditions": []}, {"conditions": []}, 1, 1),
    ],
)
def test_guidance_in_an_interval(pipe, arguments, without, inside, outside):
    spy = Spy(pipe)
    steps = {"num_inference_steps": 4}
    mixed = latents(pipe, **arguments, **steps, guidance_interval=(0.3, 0.8))
    pipe.scheduler.set_timesteps(4)
    times = (pipe.scheduler.timesteps + 1) / 1000
    assert [len(call) for call in spy.calls] == [inside if 0.3 <= t <= 0.8 else outside for t in times]
    assert torch.equal(
        latents(pipe, **arguments, **steps, guidance_interval=(0, 1)), latents(pipe, **arguments, **steps)
    )
    nowhere = latents(pipe, **arguments, **steps, guidance_interval=(0.0, 0.0))
    torch.testing.assert_close(nowhere, latents(pipe, **without, **steps), atol=1e-5, rtol=0)
    if inside != outside:
        assert not torch.allclose(mixed, nowhere, atol=1e-3)


def test_a_guidance_scale_of_zero_is_unconditional(pipe):
    assert torch.equal(latents(pipe, prompt="a fox", guidance_scale=0), latents(pipe, conditions=[]))


def test_a_ragged_batch_is_made_of_its_parts(pipe):
    batch = [[("a fox", 3.0), (FOX, -1.0)], [], [(EMBEDS[0][0], 2.0)]]
    together = latents(pipe, conditions=batch, generator=[seeded(i) for i in range(3)])
    for i, row in enumerate(batch):
        alone = latents(pipe, conditions=row, generator=[seeded(i)])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=1e-3)


# Batches and seeds


def test_images_per_prompt(pipe):
    result = latents(pipe, prompt=["a", "b"], num_images_per_prompt=2, generator=[seeded(i) for i in range(4)])
    assert result.shape == (4, 4, 32, 32)
    torch.testing.assert_close(result[3:], latents(pipe, prompt="b", generator=[seeded(3)]), atol=1e-3, rtol=1e-3)
    rows = latents(pipe, conditions=[[("a", 3.0)], [("b", 3.0)]], num_images_per_prompt=2, generator=seeded())
    assert rows.shape == (4, 4, 32, 32)


def test_single_prompts_serve_batches_of_several_images_each(pipe):
    for arguments, count in (
        ({"prompt": ["a", "b"], "negative_prompt": "fog"}, 4),
        ({"prompt": ["a", "b"], "image_prompt": FOX}, 4),
        ({"prompt": "a", "negative_prompt": ["fog", "rain"]}, 4),
    ):
        assert len(latents(pipe, num_images_per_prompt=2, **arguments)) == count
    prompt_embeds, negative_prompt_embeds = pipe.encode_prompt(["a", "b"], "fog", num_images_per_prompt=2)
    assert len(prompt_embeds) == len(negative_prompt_embeds) == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_paints(pipeline_folder, dtype):
    pipe = CCLDPipeline.from_pretrained(pipeline_folder, dtype=dtype)
    image = pipe("a fox", height=64, width=64, num_inference_steps=3, output_type="np", generator=seeded()).images
    assert np.isfinite(image).all() and image.std() > 0.01


def test_one_image_prompt_serves_many_prompts(pipe):
    result = latents(pipe, prompt=["a", "b"], image_prompt=FOX, negative_prompt="fog")
    assert result.shape == (2, 4, 32, 32)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_seed_is_an_image(pipe, algorithm):
    """Its noise is the same alone and in any batch; the rest is rounding."""
    pipe.scheduler = CCLDScheduler(algorithm_type=algorithm)
    arguments = {"num_inference_steps": 5, "output_type": "np", "height": 64, "width": 64}
    prompts = ["a fox", "snow", "a boat", "a rose"]
    together = pipe(prompts, generator=[seeded(i) for i in range(4)], **arguments).images
    reversed_order = pipe(prompts[::-1], generator=[seeded(i) for i in (3, 2, 1, 0)], **arguments).images
    for i in range(4):
        alone = pipe(prompts[i], generator=[seeded(i)], **arguments).images
        assert np.abs(together[i] - alone[0]).max() < 1 / 255
        assert np.abs(reversed_order[3 - i] - alone[0]).max() < 1 / 255
    assert np.abs(together[0] - together[1]).max() > 1 / 255


# Output


def test_output_types_show_one_image(pipe):
    arguments = {"prompt": "a fox", "num_inference_steps": 1}
    pt = pipe(**arguments, generator=seeded(), output_type="pt").images
    array = pipe(**arguments, generator=seeded(), output_type="np").images
    (pil,) = pipe(**arguments, generator=seeded(), return_dict=False)[0]
    assert pt.shape == (1, 3, 256, 256) and array.shape == (1, 256, 256, 3) and pil.size == (256, 256)
    np.testing.assert_allclose(pt.permute(0, 2, 3, 1), array)
    np.testing.assert_array_equal(np.asarray(pil), (array[0] * 255).round())


def test_latents_are_given_before_their_scaling_is_undone(pipe):
    z = latents(pipe, prompt="a fox")
    scale = 1 / pipe.vae.config.scaling_factor
    assert scale == pytest.approx(2.55)
    with torch.no_grad():
        pixels = (pipe.vae.decode(z * scale).sample / 2 + 0.5).clamp(0, 1)
    expected = pipe("a fox", num_inference_steps=2, generator=seeded(), output_type="pt").images  # with DDIM
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)


def test_other_sizes(pipe):
    image = pipe("a fox", height=64, width=192, num_inference_steps=1).images[0]
    assert image.size == (192, 64)
    assert latents(pipe, prompt="a fox", height=320).shape == (1, 4, 40, 32)


def test_a_vq_autoencoder_will_do(pipe):
    pipe.vae = VQModel(
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=16,
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    assert pipe("a fox", num_inference_steps=1).images[0].size == (256, 256)


def test_stock_schedulers_will_do(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    assert torch.isfinite(latents(pipe, prompt="a fox", eta=0.5)).all()


def test_progress_is_shown(pipe, capsys):
    pipe.scheduler = CCLDScheduler(algorithm_type="plms")
    pipe.set_progress_bar_config(disable=False)
    pipe("a fox", num_inference_steps=2, output_type="latent")
    assert "8/8" in capsys.readouterr().err  # two steps of PLMS are Runge–Kutta steps of four evaluations


# Callbacks


def test_callbacks_see_and_change_the_run(pipe):
    seen = []

    def callback(pipe, i, t, tensors):
        seen.append((i, float(t), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    result = latents(
        pipe,
        prompt="a fox",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "condition_embeds"],
    )
    assert not result.any()
    assert [i for i, _, _ in seen] == list(range(pipe.num_timesteps))
    assert seen[0][2] == ["condition_embeds", "latents"]


def test_callbacks_can_change_the_guidance_and_end_the_run(pipe):
    def callback(pipe, i, t, tensors):
        pipe._guidance_scale = 1.0
        pipe._interrupt = i == 2
        return {}

    spy = Spy(pipe)
    latents(pipe, prompt="a fox", num_inference_steps=5, callback_on_step_end=callback)
    assert [len(call) for call in spy.calls] == [2, 1, 1]


# Wrong input


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({}, ValueError, "Give a prompt"),
        ({"negative_prompt": "fog"}, ValueError, "Give a prompt"),
        ({"prompt": 3}, TypeError, "prompt must be a text"),
        ({"prompt": []}, TypeError, "empty list"),
        ({"prompt": "a", "height": 100}, ValueError, "height=100.*multiples of 64"),
        ({"prompt": "a", "num_inference_steps": 0}, ValueError, "at least 1"),
        ({"prompt": "a", "guidance_scale": "3"}, ValueError, "guidance_scale='3'"),
        ({"prompt": "a", "guidance_scale": float("nan")}, ValueError, "guidance_scale=nan"),
        ({"prompt": "a", "guidance_interval": (0.8, 0.2)}, ValueError, r"guidance_interval=\(0.8, 0.2\)"),
        ({"prompt": "a", "guidance_interval": (0, 2)}, ValueError, "two times"),
        ({"prompt": "a", "guidance_interval": 0.5}, ValueError, "two times"),
        ({"prompt": "a", "image_prompt_weight": 2.0}, ValueError, "image_prompt_weight=2.0"),
        ({"prompt": "a", "output_type": "jpeg"}, ValueError, "'jpeg'"),
        ({"prompt": "a", "eta": 0.5}, ValueError, "eta=0.5.*dpmpp"),
        ({"prompt": "a", "eta": 2}, ValueError, "eta=2"),
        ({"prompt": "a", "height": 64.0}, ValueError, "height=64.0"),
        ({"prompt": "a", "height": 0}, ValueError, "height=0"),
        ({"prompt": "a", "num_inference_steps": 2.0}, ValueError, "whole numbers"),
        ({"prompt": "a", "generator": 3}, TypeError, "torch.Generator"),
        ({"prompt_embeds": torch.zeros(0, 512)}, ValueError, r"\(N, 512\)"),
        ({"conditions": [(torch.zeros(2, 256), 1.0)]}, ValueError, r"\(2, 256\)"),
        ({"prompt": "a", "conditions": []}, ValueError, "conditions replaces prompt"),
        ({"prompt": "a", "prompt_embeds": EMBEDS[0]}, ValueError, "either prompt or prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 3)}, ValueError, r"\(N, 512\)"),
        ({"prompt": ["a", "b"], "negative_prompt": ["a", "b", "c"]}, ValueError, "batch sizes differ"),
        ({"image_prompt": "fox.png"}, TypeError, "image_prompt must be a PIL image"),
        ({"conditions": "a fox"}, TypeError, "list of pairs"),
        ({"conditions": [("a fox", "3")]}, ValueError, "'3' is not a finite number"),
        ({"conditions": [("a fox", None)]}, ValueError, "None is not a finite number"),
        ({"conditions": [("a fox", float("inf"))]}, ValueError, "inf is not a finite number"),
        ({"conditions": [(b"a fox", 3)]}, TypeError, "A condition is a pair"),
        ({"conditions": ["a fox"]}, TypeError, "A condition is a pair"),
        ({"conditions": [(torch.zeros(3), 1.0)]}, ValueError, "expected \\(512,\\)"),
        ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["noise"]}, ValueError, "noise"),
        ({"prompt": "a", "generator": [seeded()] * 2}, ValueError, "2 generators were given for 1 images"),
        ({"prompt": "a", "latents": torch.zeros(1, 4, 8, 8)}, ValueError, "latents must be a tensor"),
    ],
)
def test_wrong_input_is_refused_before_any_work(pipe, arguments, error, message):
    spy = Spy(pipe)
    with pytest.raises(error, match=message):
        pipe(**{"num_inference_steps": 2, **arguments})
    assert not spy.calls


def test_the_package_names_what_it_has():
    assert all(hasattr(diffusers_ccld, name) for name in diffusers_ccld.__all__)
