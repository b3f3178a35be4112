"""Guidance with a share of its part that is parallel to the prediction, which makes pictures more saturated."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel

from ..schedulers.noise_schedule import t_to_alpha_sigma, timestep_to_t
from .guidance import combine, predict_terms, without_guidance


@dataclass(frozen=True, kw_only=True)
class ProjectedGuidance:
    """Predicts like `guided_prediction`, with a share of the guidance that is parallel to the denoised latents.

    Guidance adds a difference Δ to the denoised latents D of the wanted conditions alone. The part of Δ along D is
    multiplied by the share; the rest of Δ stays. After Sadat et al. (2024), "Eliminating Oversaturation and Artifacts
    of High Guidance Scales" (arXiv:2410.02416), Equation 6; without its momentum and its limit of the norm.

    Attributes:
        parallel: The share, from 0 to 1, which is guidance by the formula.
        num_train_timesteps: Number of the scheduler's timesteps in the unit interval of time.
        predicts_noise: True if the network predicts ε rather than v.
    """

    parallel: float
    num_train_timesteps: int = 1000
    predicts_noise: bool = False

    def __call__(
        self,
        unet: UNet2DConditionModel,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        condition_embeds: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """The guided prediction in float32, (N, C, H, W); arguments as for `guided_prediction`."""
        predictions = predict_terms(unet, latents, timestep, condition_embeds, weights, torch.ones_like(weights))
        guided, plain = combine(predictions, weights), combine(predictions, without_guidance(weights))
        t = timestep_to_t(timestep.double(), self.num_train_timesteps)
        alpha, sigma = (coefficient.item() for coefficient in t_to_alpha_sigma(t))
        # A multiple of the denoised latents; that of a network for ε is finite where α is zero.
        denoised = latents - sigma * plain if self.predicts_noise else alpha * latents - sigma * plain
        return guided - (1 - self.parallel) * parallel_part(guided - plain, denoised)


def parallel_part(vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Orthogonal projection of each of N vectors on its direction, (N, C, H, W) each."""
    squares = directions.square().sum(dim=(1, 2, 3), keepdim=True)
    return (vectors * directions).sum(dim=(1, 2, 3), keepdim=True) / squares.clamp(min=1e-12) * directions
