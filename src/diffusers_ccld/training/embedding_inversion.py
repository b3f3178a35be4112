"""Textual inversion for CLOOB's space: one embedding learned from the denoising loss on pictures.

After Gal et al. 2022, "An Image is Worth One Word" (arXiv:2208.01618). The embedding is the network's whole condition,
so that no token is needed.
"""

import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..models.prediction import predict_velocity
from ..schedulers.noise_schedule import t_to_alpha_sigma, t_to_timestep


def learn_embedding(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    start: torch.Tensor,
    num_steps: int,
    learning_rate: float = 0.02,
    batch_size: int = 4,
    seed: int = 0,
) -> torch.Tensor:
    """Learns the embedding of unit length with which a network denoises pictures best.

    Args:
        unet: The network; its weights stay as they are.
        latents: Scaled latents of the pictures, (N, C, H, W).
        start: Embedding to begin with, (D,).
        num_steps: Number of steps of Adam.
        learning_rate: Its learning rate.
        batch_size: Noised latents a step.
        seed: Seed of the times, the noise and the choice of pictures.

    Returns:
        The embedding, (D,), float32.

    Raises:
        ValueError: If the loss becomes infinite or not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = F.normalize(start.detach().float(), dim=0).requires_grad_()
    optimizer = torch.optim.Adam([embedding], lr=learning_rate)
    for _ in tqdm(range(num_steps), desc="Learning", unit="step"):
        chosen = torch.randint(len(latents), (batch_size,), generator=generator)
        loss = denoising_loss(unet, latents[chosen], F.normalize(embedding, dim=0), generator)
        if not loss.isfinite():
            raise ValueError("The loss is not finite; lower the learning rate, or use fp32.")
        embedding.grad = torch.autograd.grad(loss, embedding)[0]
        optimizer.step()
    return F.normalize(embedding.detach(), dim=0)


def denoising_loss(
    unet: UNet2DConditionModel, latents: torch.Tensor, embedding: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Mean squared error of v for latents (N, C, H, W), noised to uniform times, with one condition (D,)."""
    device, count = latents.device, len(latents)
    t = torch.rand(count, generator=generator)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    alpha, sigma = (c.to(device)[:, None, None, None] for c in t_to_alpha_sigma(t))
    noisy, target = alpha * latents + sigma * noise, alpha * noise - sigma * latents
    condition = embedding.to(device, unet.dtype).expand(count, 1, -1)
    prediction = predict_velocity(unet, noisy.to(unet.dtype), t_to_timestep(t).to(device), condition)
    return F.mse_loss(prediction.float(), target)
