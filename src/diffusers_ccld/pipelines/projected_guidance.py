"""Guidance with a share of its part that is parallel to the prediction, which makes pictures more saturated."""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers import SchedulerMixin

from ..schedulers.parameterization import Parameterization
from .guidance import combine, predict_terms, without_guidance


@dataclass(frozen=True, kw_only=True)
class ProjectedGuidance:
    """Predicts like `guided_prediction`, with a share of the guidance that is parallel to the denoised latents.

    Guidance adds a difference Δ to the denoised latents D of the wanted conditions alone. The part of Δ along D is
    multiplied by the share; the rest of Δ stays. After Sadat et al. (2024), "Eliminating Oversaturation and Artifacts
    of High Guidance Scales" (arXiv:2410.02416), Equation 6; without its momentum and its limit of the norm.

    Attributes:
        parallel: The share, from 0 to 1, which is guidance by the formula.
        scheduler: The scheduler, whose configuration says what the network predicts.
    """

    parallel: float
    scheduler: SchedulerMixin

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
        direction = Parameterization.at(timestep, self.scheduler).along_denoised(plain, latents)
        return guided - (1 - self.parallel) * parallel_part(guided - plain, direction)


def parallel_part(vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Orthogonal projection of each of N vectors on its direction, (N, C, H, W) each."""
    squares = directions.square().sum(dim=(1, 2, 3), keepdim=True)
    return (vectors * directions).sum(dim=(1, 2, 3), keepdim=True) / squares.clamp(min=1e-12) * directions
