import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch.nn import functional as F

from diffusers_ccld import CCLDGuidedPipeline, CCLDPipeline, CCLDScheduler, LinearDecoder
from diffusers_ccld.pipelines.cloob_guidance import CLOOBGuidance, Cutouts, spherical_distance
from diffusers_ccld.pipelines.guidance_encoders import load_open_clip
from diffusers_ccld.schedulers.names import ALGORITHMS
from support import original_files

FOX = Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 50, 3), dtype=np.uint8))
SMALL = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "latent"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def guided(pipe):
    guided = CCLDGuidedPipeline.from_pipe(pipe)
    guided.scheduler = CCLDScheduler(algorithm_type="ddim")
    guided.set_progress_bar_config(disable=True)
    return guided


def latents(guided, *prompts, **options):
    defaults = {**SMALL, "generator": seeded(), "cloob_guidance_scale": 2.0}  # for networks of random weights
    return guided(*prompts, **{**defaults, **options}).images


def distance_to(guided, sampled, target):
    pixels, encoder = (guided.decode_latents(sampled) + 1) / 2, guided.guidance_encoder()
    embeds = encoder.embed_pixels(F.interpolate(pixels, (encoder.size, encoder.size), mode="bicubic", antialias=True))
    return spherical_distance(embeds, guided.encode_prompt(target)[0]).mean().item()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steered_sampling_is_the_originals(guided, eta, monkeypatch):
    """The reference is a run of the original's `cond_sample`, `MakeCutouts` at fixed places, `spherical_dist_loss`."""
    reference = original_files.reference("cond_sample")
    boxes = [tuple(map(int, box)) for box in reference["boxes"]]
    monkeypatch.setattr(Cutouts, "draw", lambda self, height, width, generator: boxes)
    target = F.normalize(original_files.inputs("guided.target", (2, 512)), dim=-1)
    result = guided(
        conditions=[[], []],
        cloob_conditions=[[(embedding, 1.0)] for embedding in target],
        cloob_guidance_scale=float(reference["scale"]),
        num_cutouts=len(boxes),
        latents=original_files.inputs("guided.noise", (2, 4, 8, 8)),
        **SMALL | {"num_inference_steps": 6},
        eta=eta,
        generator=seeded(5),
    ).images
    assert original_files.relative_error(result, reference[f"eta_{eta:g}"]) < 1e-4


def test_the_spherical_distance_is_half_the_squared_angle():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([np.pi / 2, np.pi, 0.0]).square() / 2
    torch.testing.assert_close(spherical_distance(x, y), expected)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_the_posterior_mean_of_a_normal_distribution(prediction_type):
    """With the score of a standard normal distribution and a Gaussian likelihood, steering gives Bayes' formula.

    x₀ ~ N(0, 1) has v = 0 and ε = σ·x. With a likelihood exp(−x₀²/2) whose gradient is taken at the denoised sample
    α·x, the score gains −α²·x. The likelihood is written as the spherical distance of embeddings (cos x₀, sin x₀).
    """
    t = torch.tensor(0.4)
    alpha, sigma = torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)
    x = torch.full((1, 1, 1, 1), 0.3)
    guidance = CLOOBGuidance(
        target_embeds=torch.tensor([[1.0, 0.0]]),
        scale=1.0,
        decode=lambda denoised: denoised.expand(-1, 3, -1, -1) * 2 - 1,
        embed=lambda pixels: torch.stack([pixels[:, 0].cos(), pixels[:, 0].sin()], dim=-1).flatten(1),
        cutouts=Cutouts(size=1, count=0),
        generators=[None],
        scheduler=CCLDScheduler(prediction_type=prediction_type),
    )

    class Network(torch.nn.Module):
        dtype = torch.float32
        config = type("", (), {"time_cond_proj_dim": None})

        def forward(self, sample, *args, **kwargs):
            return (sigma * sample if prediction_type == "epsilon" else 0 * sample,)

    prediction = guidance(Network(), x, 1000 * t - 1, torch.zeros(1, 0, 2), torch.zeros(1, 0))
    noise = prediction if prediction_type == "epsilon" else sigma * x + alpha * prediction
    torch.testing.assert_close(noise, sigma * (x + alpha**2 * x), rtol=1e-5, atol=1e-6)


def test_a_scale_of_zero_is_the_plain_pipeline(guided, pipe):
    pipe.scheduler = guided.scheduler
    plain = pipe("a fox", **SMALL, generator=seeded()).images
    torch.testing.assert_close(latents(guided, "a fox", cloob_guidance_scale=0.0), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fast", [False, True])
def test_guidance_approaches_its_target(guided, fast):
    """A weak one: the networks have random weights, and their gradients hold only close by."""
    guided.linear_decoder = LinearDecoder()
    guided.linear_decoder.fit(torch.randn(8, 4, 8, 8), torch.randn(8, 3, 64, 64))
    if fast:  # the decoder has random weights: the linear map takes its place in the measurement, too
        guided.decode_latents = guided.linear_decoder
    without = latents(guided, "a fox", guidance_scale=0.0, cloob_guidance_scale=0.0)
    steered = latents(guided, "a fox", guidance_scale=0.0, cloob_guidance_scale=0.2, num_cutouts=0, fast=fast)
    assert distance_to(guided, steered, "a fox") < distance_to(guided, without, "a fox")


def test_targets_are_prompts_or_conditions(guided):
    weights = {"image_prompt": FOX, "image_prompt_weight": 0.25}
    by_prompt = latents(guided, "a fox", guidance_scale=0.0, **weights)
    by_conditions = latents(guided, conditions=[], cloob_conditions=[("a fox", 3.0), (FOX, 1.0)])
    torch.testing.assert_close(by_prompt, by_conditions)
    embeds = {"prompt_embeds": guided.encode_prompt("a fox")[0], "image_embeds": guided.encode_image(FOX)}
    by_embeds = latents(guided, guidance_scale=0.0, image_prompt_weight=0.25, **embeds)
    torch.testing.assert_close(by_prompt, by_embeds)
    assert not torch.allclose(by_prompt, latents(guided, "a fox", guidance_scale=0.0), atol=1e-3)


@pytest.mark.parametrize("algorithm", ["ddim", "dpmpp"])
def test_an_image_does_not_depend_on_its_batch(guided, algorithm):
    guided.scheduler = CCLDScheduler(algorithm_type=algorithm)
    options = {"guidance_scale": 0.0, "cloob_guidance_scale": 2.0, "num_cutouts": 2}
    together = latents(guided, ["a fox", "fog"], **options, generator=[seeded(1), seeded(2)])
    alone = latents(guided, "fog", **options, generator=[seeded(2)])
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=1e-3)


def test_repetitions_approach_the_target(guided):
    steer = {"guidance_scale": 0.0, "cloob_guidance_scale": 0.2, "num_cutouts": 0}
    once, often = (latents(guided, "a fox", **steer, num_repeats=count) for count in (1, 4))
    assert torch.equal(once, latents(guided, "a fox", **steer))
    assert distance_to(guided, often, "a fox") < distance_to(guided, once, "a fox")


def test_repetitions_do_not_depend_on_the_batch(guided):
    options = {"guidance_scale": 0.0, "cloob_guidance_scale": 2.0, "num_cutouts": 2, "num_repeats": 2}
    together = latents(guided, ["a fox", "fog"], **options, generator=[seeded(1), seeded(2)])
    alone = latents(guided, "fog", **options, generator=[seeded(2)])
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=1e-3)


def test_an_interruption_ends_a_step_between_its_repetitions(guided):
    evaluations = []

    def interrupt(*_):
        evaluations.append(None)
        guided._interrupt = len(evaluations) == 3

    guided.unet.register_forward_hook(interrupt)
    latents(guided, "a fox", guidance_scale=0.0, num_cutouts=0, num_repeats=5)
    assert len(evaluations) == 3 and guided.interrupt


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"ddim", "ddpm"}))
def test_repetitions_need_steps_of_one_evaluation(guided, algorithm):
    guided.scheduler = CCLDScheduler(algorithm_type=algorithm)
    with pytest.raises(ValueError, match=f"needs algorithm_type 'ddim' or 'ddpm', not '{algorithm}'"):
        latents(guided, "a fox", num_repeats=2)


def test_repetitions_with_other_schedulers_are_refused(guided):
    for count in (0, 1.5):
        with pytest.raises(ValueError, match=f"num_repeats={count}"):
            latents(guided, "a fox", num_repeats=count)
    guided.scheduler = DDIMScheduler.from_config(guided.scheduler.config)
    with pytest.raises(ValueError, match="needs a CCLDScheduler, not DDIMScheduler"):
        latents(guided, "a fox", num_repeats=2)


def test_cutouts_have_the_sides_and_places_that_they_should():
    cutouts = Cutouts(size=32, count=200)
    boxes = cutouts.draw(48, 96, seeded())
    assert all(top + side <= 48 and left + side <= 96 for top, left, side in boxes)
    assert {side for _, _, side in boxes} == set(range(32, 48))
    small = Cutouts(size=32, count=200, power=4.0).draw(48, 96, seeded())
    assert np.mean([box[2] for box in small]) < np.mean([box[2] for box in boxes]) - 3
    assert cutouts.cut(torch.zeros(3, 48, 96), boxes).shape == (200, 3, 32, 32)


@pytest.mark.slow
def test_stock_schedulers_are_steered_alike(guided):
    options = {"guidance_scale": 0.0, "cloob_guidance_scale": 2.0, "num_inference_steps": 10}
    guided.scheduler = CCLDScheduler(algorithm_type="ddim", timestep_schedule="linear")
    ours = latents(guided, "a fox", **options)
    guided.scheduler = DDIMScheduler.from_config(guided.scheduler.config)
    assert original_files.relative_error(latents(guided, "a fox", **options), ours) < 0.05


@pytest.mark.slow
def test_a_model_of_open_clip_guides(guided, tmp_path):
    import open_clip

    weights = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("ViT-S-32-alt").state_dict(), weights)
    encoder = load_open_clip("ViT-S-32-alt", weights)
    result = latents(guided, "a fox", image_prompt=FOX, guidance_scale=0.0, encoder=encoder)
    assert not torch.allclose(result, latents(guided, "a fox", image_prompt=FOX, guidance_scale=0.0), atol=1e-3)
    with pytest.raises(ValueError, match=f"expected \\({encoder.dim},\\)"):
        latents(guided, conditions=[], cloob_conditions=[(torch.ones(512), 1.0)], encoder=encoder)
    with pytest.raises(ValueError, match="not a model of open_clip"):
        load_open_clip("ViT-9", weights)
    with pytest.raises(ValueError, match="does not exist"):
        load_open_clip("ViT-S-32-alt", tmp_path / "nowhere.pt")
    weights.write_text("no weights")
    with pytest.raises(ValueError, match="not the weights of"):
        load_open_clip("ViT-S-32-alt", weights)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prompt": "a", "cloob_guidance_scale": -1.0}, "cloob_guidance_scale=-1.0"),
        ({"prompt": "a", "cloob_guidance_scale": float("nan")}, "cloob_guidance_scale=nan"),
        ({"prompt": "a", "num_cutouts": -1}, "num_cutouts=-1"),
        ({"prompt": "a", "num_cutouts": 1.5}, "num_cutouts=1.5"),
        ({"prompt": "a", "cutout_power": 0.0}, "cutout_power=0.0"),
        ({"prompt": "a", "fast": True}, "needs a linear_decoder"),
        ({"conditions": []}, "needs a target"),
        ({"prompt": ["a", "b", "c"], "cloob_conditions": [[("a", 1.0)], [("b", 1.0)]]}, "2 lists for 3 images"),
        ({"prompt": "a", "cloob_conditions": [("a", float("inf"))]}, "not a finite number"),
        ({"prompt": "a", "cloob_conditions": [("a", 1.0), ("a", -1.0)]}, "add up to zero"),
    ],
)
def test_refusals(guided, arguments, message):
    with pytest.raises(ValueError, match=message):
        latents(guided, **arguments)


def test_guidance_needs_an_image_encoder(pipe):
    guided = CCLDGuidedPipeline.from_pipe(pipe, image_encoder=None, feature_extractor=None)
    with pytest.raises(ValueError, match="needs an image_encoder"):
        latents(guided, "a fox")


def test_a_linear_decoder_is_saved_with_its_pipeline(pipe, tmp_path):
    pipe.linear_decoder = LinearDecoder()
    pipe.register_modules(linear_decoder=pipe.linear_decoder)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["linear_decoder"] == ["diffusers_ccld", "LinearDecoder"]
    for kind in (CCLDPipeline, CCLDGuidedPipeline):
        loaded = kind.from_pretrained(tmp_path)
        assert torch.equal(loaded.linear_decoder.conv.weight, pipe.linear_decoder.conv.weight)
