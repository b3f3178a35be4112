"""Random legal calls, each illegal argument, and what the first thousands of calls have found."""

import logging

import diffusers
import pytest
import torch

from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.pipelines.timesteps import LARGEST_STOCK_ETA
from support.random_calls import values
from support.random_calls.changes import (
    another_guidance_scale,
    another_parallel_guidance,
    another_share_of_noise,
    embedded_before,
)
from support.random_calls.checks import Report, Runner, _first_run, check, check_refusal
from support.random_calls.drawing import PIPELINES, RandomCall, draw
from support.random_calls.illegal import ILLEGAL
from support.random_calls.models import components, make_pipeline
from support.random_calls.snapshots import same

COUNT = 24  # of `make random-calls`, which draws thousands


@pytest.mark.parametrize("number", range(COUNT))
def test_a_random_call(number):
    report = check(draw("suite", number))
    assert not report.complaints, report.code()


PLAIN = {
    "prompt": {"prompt": "'a fox'"},
    "conditions": {"conditions": "[('a fox', 2.0)]"},
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_illegal_argument_is_refused_in_a_sentence(pipeline, kind):
    arguments = {**PLAIN[kind], "num_inference_steps": "2"}
    if pipeline != "CCLDPipeline":
        arguments["image"] = "pil('RGB', 16, 16, 0)"
    if pipeline == "CCLDInpaintPipeline":
        arguments["mask_image"] = "mask_pil('L', 16, 16, 0)"
    call = RandomCall(pipeline, "ours", "float32", "CCLDScheduler", {"algorithm_type": "dpmpp"}, arguments)
    runner, report = Runner(call), Report(call)
    runner.images()
    for _, make, applies in ILLEGAL:
        if applies(call, call.values()):
            check_refusal(runner, report, make(call, call.values()))
    assert not report.complaints


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused(value):
    pipe = make_pipeline("CCLDPipeline", "ours", "float32", "CCLDScheduler", {"algorithm_type": "dpmpp"})
    embedding = torch.full((1, 32), value)
    for arguments in (
        {"prompt_embeds": embedding},
        {"image_embeds": embedding},
        {"prompt": "a fox", "negative_prompt_embeds": embedding},
        {"conditions": [(embedding[0], 0.5)]},
        {"prompt": "a fox", "latents": torch.full((1, 4, 4, 4), value)},
    ):
        with pytest.raises(ValueError, match="all values must be finite numbers"):
            pipe(**arguments)


def text_to_image(scheduler, **arguments):
    """The latents of two images, of a generator each."""
    pipe = CCLDPipeline(**components("ours", "float64"), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"prompt": "a fox", "num_inference_steps": 4, "output_type": "latent", **arguments}
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return pipe(num_images_per_prompt=2, generator=generators, **arguments).images


def stock(name, **options):
    return getattr(diffusers, name).from_config(CCLDScheduler().config, **options)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDIMParallelScheduler"])
@pytest.mark.parametrize("num_steps", [2, 3, 5])
def test_all_of_the_noise_in_stock_ddim(name, num_steps):
    """The root of a rounding error below zero would make every pixel NaN."""
    images = text_to_image(stock(name), eta=1, num_inference_steps=num_steps)
    assert torch.isfinite(images).all()
    nearly = text_to_image(stock(name), eta=LARGEST_STOCK_ETA, num_inference_steps=num_steps)
    assert torch.equal(images, nearly)


@pytest.mark.parametrize("seed", [None, 5])
def test_dpm_solver_sde_follows_the_generators(seed):
    torch.manual_seed(0)
    both = text_to_image(stock("DPMSolverSDEScheduler", noise_sampler_seed=seed))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    again = text_to_image(stock("DPMSolverSDEScheduler", noise_sampler_seed=seed))
    assert torch.equal(both, again)
    pipe = CCLDPipeline(
        **components("ours", "float64"), scheduler=stock("DPMSolverSDEScheduler", noise_sampler_seed=seed)
    )
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "output_type": "latent"}
    alone = pipe("a fox", generator=[torch.Generator().manual_seed(2)], **options).images
    torch.testing.assert_close(alone, both[1:], atol=1e-4, rtol=0)
    other = pipe("a fox", generator=[torch.Generator().manual_seed(3)], **options).images
    assert not torch.equal(alone, other)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "pipeline, model, own", [("CCLDPipeline", "stock", None), *((pipeline, "ours", 0.5) for pipeline in PIPELINES)]
)
def test_a_call_with_embeddings_is_the_call_with_their_prompts_unvaried(pipeline, model, own):
    """Embeddings are used as they are; the spread around texts is that of texts alone."""
    pipe = make_pipeline(pipeline, model, "float64", "CCLDScheduler", {"algorithm_type": "dpmpp"})
    pipe.register_to_config(default_variation=own)
    options = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 2.0}
    if pipeline != "CCLDPipeline":
        options["image"] = values.pil("RGB", 16, 16, 0)
    if pipeline == "CCLDInpaintPipeline":
        options["mask_image"] = values.mask_pil("L", 16, 16, 0)
    picture = values.pil("RGB", 20, 20, 1)
    positive, negative = pipe.encode_prompt("a fox", "fog")
    embeds = {
        "prompt_embeds": positive,
        "negative_prompt_embeds": negative,
        "image_embeds": pipe.encode_image(picture),
    }
    given = {"prompt": "a fox", "negative_prompt": "fog", "image_prompt": picture}
    embedded = pipe(**embeds, **options, generator=values.generator(0)).images
    torch.testing.assert_close(embedded, pipe(**given, **options, variation=0, generator=values.generator(0)).images)
    plain = pipe(**given, **options, generator=values.generator(0)).images
    assert torch.allclose(embedded, plain, atol=1e-6) == (own is None)


@pytest.mark.parametrize("arguments", [{"prompt": "'a fox'", "negative_prompt": "'fog'"}, {"prompt": "'a fox'"}])
def test_the_net_replaces_varied_texts_by_nothing(arguments):
    arguments |= {"image_prompt": "pil('RGB', 20, 20, 1)", "variation": "0.5", "num_inference_steps": "2"}
    call = RandomCall("CCLDPipeline", "ours", "float32", "CCLDScheduler", {"algorithm_type": "dpmpp"}, arguments)
    runner = Runner(call)
    assert same(embedded_before(runner)(), runner.latents())


@pytest.mark.parametrize("negative, matters", [("'a  fox '", False), ("'fog'", True), ("['a fox', 'fog']", True)])
def test_the_net_knows_when_guidance_cannot_matter(negative, matters):
    prompt = "['a fox', 'a fox']" if negative.startswith("[") else "'a fox'"
    arguments = {
        "prompt": prompt,
        "negative_prompt": negative,
        "num_inference_steps": "2",
        "generator": "generator(0)",
    }
    call = RandomCall("CCLDPipeline", "ours", "float64", "CCLDScheduler", {"algorithm_type": "ddim"}, arguments)
    runner = Runner(call)
    assert (another_guidance_scale(runner) is not None) == matters
    less, more = (runner.latents(guidance_scale=scale) for scale in (3.0, 4.5))
    assert torch.allclose(less, more, rtol=0, atol=1e-5) != matters


@pytest.mark.parametrize(
    "arguments, matters",
    [
        ({"prompt": "'a fox'", "guidance_scale": "0.5"}, False),
        ({"prompt": "'a fox'", "negative_prompt": "'fog'", "guidance_scale": "0.5"}, False),
        ({"prompt": "'a fox'", "guidance_scale": "-1"}, True),
        ({"prompt": "'a fox'"}, True),
        ({"conditions": "[('a fox', 0.5), ('fog', 0.5)]"}, False),
        ({"conditions": "[('a fox', 0.5), ('fog', -0.7)]"}, True),
        ({"conditions": "[[], [('a fox', 2.0)]]"}, True),
    ],
)
def test_the_net_knows_when_parallel_guidance_cannot_matter(arguments, matters):
    arguments |= {"num_inference_steps": "2", "generator": "generator(0)"}
    runner = Runner(
        RandomCall("CCLDPipeline", "ours", "float64", "CCLDScheduler", {"algorithm_type": "ddim"}, arguments)
    )
    assert another_parallel_guidance(runner) == ({"parallel_guidance": 0.25} if matters else None)
    all_of_it, a_quarter = (runner.latents(parallel_guidance=share) for share in (1.0, 0.25))
    assert torch.allclose(all_of_it, a_quarter, rtol=0, atol=1e-5) != matters


def test_the_net_counts_the_evaluations_of_the_call_itself():
    """Not those of the variant of it that ran last: a single step has no use for noise."""
    arguments = {"prompt": "''", "image": "tensor((3, 9, 9), 'uint8', 0)", "strength": "0.3"}
    call = RandomCall("CCLDImg2ImgPipeline", "ours", "float32", "DDIMScheduler", {}, arguments)
    runner = Runner(call.having(num_inference_steps="4"))
    _first_run(runner, Report(runner.call))
    runner.latents(strength=1.0)
    assert runner.pipe.num_timesteps == 4
    assert another_share_of_noise(runner) is None


@pytest.mark.parametrize(
    "scheduler, num_steps",
    [
        (stock("HeunDiscreteScheduler"), 6),
        (stock("HeunDiscreteScheduler", use_exponential_sigmas=True), 3),
        *((CCLDScheduler(algorithm_type=name), 3) for name in ("prk", "plms", "pie")),
        (CCLDScheduler(algorithm_type="plms2"), 2),
    ],
)
def test_steps_too_large_to_average_noise_predictions_are_warned_of(scheduler, num_steps, caplog):
    """Errors of the average grow with the noise that it takes away, up to latents of thousands."""
    text_to_image(scheduler, num_inference_steps=num_steps)
    assert f"{type(scheduler).__name__}" in caplog.text and "steps are too large" in caplog.text


@pytest.mark.parametrize(
    "scheduler, num_steps",
    [
        (stock("HeunDiscreteScheduler", use_exponential_sigmas=True), 6),
        (stock("KDPM2DiscreteScheduler"), 2),
        *((CCLDScheduler(algorithm_type=name), 6) for name in ("prk", "plms", "pie", "plms2")),
        *((CCLDScheduler(algorithm_type=name), 1) for name in ("iplms", "dpmpp", "unipc", "ddim")),
    ],
)
def test_other_steps_are_taken_without_a_word(scheduler, num_steps, caplog):
    caplog.set_level(
        logging.ERROR, logger="diffusers_ccld.utils.notices"
    )  # the tiny vocabulary lacks the prompt's words
    text_to_image(scheduler, num_inference_steps=num_steps)
    assert not caplog.text


@pytest.mark.parametrize(
    "name, options, num_steps, message",
    [
        ("KDPM2AncestralDiscreteScheduler", {}, 6, "cannot take 6 steps: some of its timesteps are not finite"),
        ("PNDMScheduler", {}, 3, "cannot take 3 steps; give another number"),
        ("LCMScheduler", {}, 60, "cannot take 60 steps"),
        ("DDIMScheduler", {}, 1001, "cannot take 1001 steps"),
        ("DDIMScheduler", {"timestep_spacing": "leading"}, 1, "timesteps from 0 to 0"),
        ("DDIMInverseScheduler", {}, 4, "cannot sample with this network"),
        ("IPNDMScheduler", {}, 4, "cannot sample with this network"),
        ("FlowMatchEulerDiscreteScheduler", {}, 4, "cannot sample with this network"),
        ("EDMEulerScheduler", {}, 4, r"timesteps from 1\.25 to .*\. The network expects 999 to 0"),
        ("CMStochasticIterativeScheduler", {}, 4, "timesteps from 1250"),
        ("DPMSolverMultistepInverseScheduler", {}, 4, "timesteps from 249 to 999"),
    ],
)
def test_schedulers_that_cannot_sample_so_are_refused(name, options, num_steps, message):
    with pytest.raises(ValueError, match=message):
        text_to_image(stock(name, **options), num_inference_steps=num_steps)
