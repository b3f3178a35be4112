"""The meaning of a network's output. The oracle is the scheduler's noising of known latents."""

import pytest
import torch

from diffusers_ccld import CCLDScheduler
from diffusers_ccld.schedulers.parameterization import Parameterization


@pytest.fixture
def latents():
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise():
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("num_train_timesteps, timestep", [(1000, 399.0), (1000, 0.0), (100, 71)])
def test_the_output_gives_the_latents(prediction_type, num_train_timesteps, timestep, latents, noise):
    scheduler = CCLDScheduler(num_train_timesteps=num_train_timesteps, prediction_type=prediction_type)
    timestep = torch.tensor(timestep)
    noisy = scheduler.add_noise(latents, noise, timestep[None])
    output = noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, timestep[None])
    at = Parameterization.at(timestep, scheduler)
    assert at.t == pytest.approx((timestep.item() + 1) / num_train_timesteps)
    torch.testing.assert_close(at.denoised(output, noisy), latents, rtol=1e-4, atol=1e-5)
    along = at.along_denoised(output, noisy)
    torch.testing.assert_close(along / along.norm(), latents / latents.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_a_multiple_of_the_latents_where_nothing_of_them_is_left(prediction_type, latents, noise):
    """At t = 1, x = ε and v = −x₀; the multiple of ε is α·x₀ = 0 there."""
    at = Parameterization(1.0, prediction_type)
    output = noise if prediction_type == "epsilon" else -latents
    expected = torch.zeros_like(latents) if prediction_type == "epsilon" else latents
    torch.testing.assert_close(at.along_denoised(output, noise), expected)
