"""`timesteps` and `sigmas` in place of a number of steps, as diffusers' pipelines take them."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline, CCLDScheduler
from diffusers_ccld.schedulers.noise_schedule import sampling_times, t_to_timestep

PICTURE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8))
TIMES = sampling_times(4, "spliced")
SAME = [
    {"timesteps": t_to_timestep(TIMES)},
    {"timesteps": t_to_timestep(TIMES).tolist()},
    {"sigmas": torch.tan(TIMES * math.pi / 2)},
    {"sigmas": [*torch.tan(TIMES * math.pi / 2).tolist(), 0.0]},
]


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pipe(pipe):
    pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    return pipe


def latents(pipe, **options):
    return pipe("a fox", height=64, width=64, output_type="latent", generator=seeded(), **options).images


def test_times_in_place_of_a_number_of_steps(pipe):
    expected = latents(pipe, num_inference_steps=4)
    for times in SAME:
        torch.testing.assert_close(latents(pipe, **times), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [CCLDImg2ImgPipeline, CCLDInpaintPipeline])
def test_times_of_a_run_that_starts_from_a_picture(kind, pipe):
    pipe = kind.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    options = {"image": PICTURE, "strength": 0.7}
    if kind is CCLDInpaintPipeline:
        options["mask_image"] = Image.new("L", (64, 64), 255)
    expected = latents(pipe, num_inference_steps=4, **options)
    for times in SAME:
        torch.testing.assert_close(latents(pipe, **times, **options), expected, atol=1e-5, rtol=1e-5)


def test_sigmas_are_those_of_diffusers():
    """diffusers finds the times of sigmas in its table of a thousand noise levels."""
    ours, sigmas = CCLDScheduler(algorithm_type="ddim"), [20.0, 5.0, 1.0, 0.2, 0.0]
    theirs = EulerDiscreteScheduler.from_config(ours.config)
    ours.set_timesteps(sigmas=sigmas)
    theirs.set_timesteps(sigmas=sigmas)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, atol=0.2, rtol=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"timesteps": [500], "sigmas": [1.0]}, "Give only one of"),
        ({"timesteps": [500], "num_inference_steps": 2}, "Give only one of"),
        ({"timesteps": [500, 600, 400]}, "descending"),
        ({"timesteps": [1500]}, "must lie between"),
        ({"sigmas": [-1.0]}, "must lie between"),
        ({"sigmas": []}, "descending"),
    ],
)
def test_impossible_times(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        latents(pipe, **options)


def test_a_scheduler_without_custom_times(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="does not support custom"):
        latents(pipe, sigmas=[1.0])
