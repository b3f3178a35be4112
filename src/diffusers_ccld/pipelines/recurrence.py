"""Self-recurrence: a step is guided several times before the next one."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers import SchedulerMixin

from ..schedulers.noise_schedule import timestep_to_t
from ..schedulers.solvers import alpha_sigma, ddim_noise_scale, split_prediction
from .noise import draw_noise


@dataclass(frozen=True, kw_only=True, eq=False)
class Recurrence:
    """Takes one step of DDPM and returns to the same time with fresh noise, a number of times.

    Guidance moves the latents a little each time, and the network makes the result plausible again (Bansal et al.
    2023, "Universal guidance for diffusion models", arXiv:2302.07121). A step has the variance of DDPM's posterior for
    a known x₀, which is a little small: each repetition loses some of the samples' variance.

    Attributes:
        count: Number of repetitions.
        predict: Computes the guided prediction, with the arguments of `guided_prediction`.
        generator: Source of the noise: one generator, or one for each image.
        scheduler: The scheduler, whose configuration says what the network predicts.
        timesteps: Its timesteps.
        is_interrupted: Says whether to end early, before each repetition.
    """

    count: int
    predict: Callable[..., torch.Tensor]
    generator: torch.Generator | list[torch.Generator] | None
    scheduler: SchedulerMixin
    timesteps: torch.Tensor
    is_interrupted: Callable[[], bool]

    def __call__(
        self,
        unet: UNet2DConditionModel,
        latents: torch.Tensor,
        index: int,
        condition_embeds: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Returns other latents at timestep number `index`, (N, C, H, W).

        Args:
            unet: The network.
            latents: Latents at this timestep, (N, C, H, W).
            index: Number of the timestep.
            condition_embeds: As for `guided_prediction`.
            weights: As for `guided_prediction`.
        """
        num_train_timesteps = self.scheduler.config.num_train_timesteps
        t = timestep_to_t(float(self.timesteps[index]), num_train_timesteps)
        is_last = index + 1 == len(self.timesteps)
        next_t = 0.0 if is_last else timestep_to_t(float(self.timesteps[index + 1]), num_train_timesteps)
        if t >= 1:  # pure noise has nothing that a repetition could keep
            return latents
        for _ in range(self.count):
            if self.is_interrupted():
                break
            output = self.predict(unet, latents, self.timesteps[index], condition_embeds, weights)
            prediction = split_prediction(output, latents, t, self.scheduler.config.prediction_type)
            noise = draw_noise(latents.shape, self.generator, latents.device)
            latents = there_and_back(prediction.denoised, prediction.epsilon, noise, t, next_t)
        return latents


def there_and_back(
    denoised: torch.Tensor, epsilon: torch.Tensor, noise: torch.Tensor, t: float, next_t: float
) -> torch.Tensor:
    """A sample at time t after a step of DDPM to `next_t` < t and as much noise as leads back, in one draw.

    Args:
        denoised: The prediction's x₀, (N, C, H, W).
        epsilon: The prediction's ε, (N, C, H, W).
        noise: Standard normal noise, (N, C, H, W).
        t: The time of the prediction and of the result.
        next_t: The time in between.

    Returns:
        The sample, (N, C, H, W).
    """
    alpha, sigma = alpha_sigma(t)
    next_alpha, next_sigma = alpha_sigma(next_t)
    kept = alpha / next_alpha * math.sqrt(max(next_sigma**2 - ddim_noise_scale(t, next_t, eta=1.0) ** 2, 0.0))
    return alpha * denoised + kept * epsilon + math.sqrt(max(sigma**2 - kept**2, 0.0)) * noise
