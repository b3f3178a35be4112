"""Runs a U-Net once.

Guidance-distilled networks take the guidance scale as an input and need no second, unconditional pass.
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding


def guidance_scale_embedding(guidance_scales: torch.Tensor, dim: int) -> torch.Tensor:
    """Embeds guidance scales for a guidance-distilled network, as diffusers' latent consistency models do.

    Args:
        guidance_scales: Scales, (N,); 1 stands for no guidance.
        dim: Width of the embeddings.

    Returns:
        Embeddings, (N, `dim`), float32.
    """
    return get_timestep_embedding(1000 * (guidance_scales.float() - 1), dim, downscale_freq_shift=1)


def is_guidance_distilled(unet: UNet2DConditionModel) -> bool:
    """True if a network takes the guidance scale as an input."""
    return unet.config.time_cond_proj_dim is not None


def predict_velocity(
    unet: UNet2DConditionModel,
    noisy_latents: torch.Tensor,
    timesteps: torch.Tensor,
    condition: torch.Tensor,
    guidance_scales: torch.Tensor | None = None,
) -> torch.Tensor:
    """Runs a network once, ours or diffusers' own.

    Args:
        unet: The network.
        noisy_latents: (N, C, H, W).
        timesteps: In diffusers' units, (N,).
        condition: CLOOB embeddings, (N, 1, D), zero for no condition.
        guidance_scales: Input of a guidance-distilled network, (N,); 1 by default. Other networks do not get it.

    Returns:
        v, (N, C, H, W).
    """
    scale_input = {}
    if is_guidance_distilled(unet):
        if guidance_scales is None:
            guidance_scales = torch.ones(len(noisy_latents), device=noisy_latents.device)
        embedding = guidance_scale_embedding(guidance_scales, unet.config.time_cond_proj_dim)
        scale_input["timestep_cond"] = embedding.to(noisy_latents.dtype)
    return unet(noisy_latents, timesteps, encoder_hidden_states=condition, return_dict=False, **scale_input)[0]
