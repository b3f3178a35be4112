"""Self-recurrence is a step of the sampler and its inverse in distribution."""

import math

import pytest
import torch

from diffusers_ccld import CCLDScheduler
from diffusers_ccld.pipelines.recurrence import there_and_back
from diffusers_ccld.schedulers.solvers import alpha_sigma

SHAPE = (1, 1, 400, 400)


def normal(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("index", [0, 1, 3])
def test_the_way_back_is_a_step_of_the_sampler_and_noise(index):
    """The sampler's own step with eta=1, then noise of a known amount, against the one draw for both."""
    scheduler = CCLDScheduler(algorithm_type="ddim", timestep_schedule="linear")
    scheduler.set_timesteps(timesteps=[900.0, 700.0, 400.0, 100.0])
    scheduler.set_begin_index(index)
    times = [(float(timestep) + 1) / 1000 for timestep in scheduler.timesteps] + [0.0]
    t, next_t = times[index], times[index + 1]
    (alpha, sigma), (next_alpha, _) = alpha_sigma(t), alpha_sigma(next_t)
    epsilon, denoised = normal(1), torch.full(SHAPE, 0.7)
    x, velocity = alpha * denoised + sigma * epsilon, alpha * epsilon - sigma * denoised
    generator = torch.Generator().manual_seed(2)
    stepped = scheduler.step(velocity, scheduler.timesteps[index], x, eta=1.0, generator=generator).prev_sample
    noise = normal(3)
    expected = alpha / next_alpha * stepped + math.sqrt(1 - (alpha / next_alpha) ** 2) * noise
    result = there_and_back(denoised, epsilon, noise, t, next_t)
    for moment in (torch.mean, torch.std, lambda sample: (sample * epsilon).mean()):
        assert moment(result).item() == pytest.approx(moment(expected).item(), abs=0.01)
    assert result.std().item() == pytest.approx(sigma, abs=0.01)
