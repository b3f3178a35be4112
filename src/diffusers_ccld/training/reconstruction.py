"""Reconstructs pictures with an autoencoder, and measures the reconstructions."""

from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F


class Reconstruction(NamedTuple):
    """Pictures (N, 3, H, W) and the posterior of their latents: mean and log-variance, (N, C, h, w)."""

    pictures: torch.Tensor
    mean: torch.Tensor
    logvar: torch.Tensor


class Reconstructing(nn.Module):
    """The autoencoder as one module: encodes pictures, samples latents with the given noise, and decodes them.

    Args:
        vae: The autoencoder. A frozen encoder runs without a graph.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae
        self.trains_encoder = vae.encoder.conv_in.weight.requires_grad

    def forward(
        self, pictures: torch.Tensor, noise: torch.Tensor, latent_noise: torch.Tensor | None = None, scale: int = 1
    ) -> Reconstruction:
        """Reconstructs pictures.

        Args:
            pictures: (N, 3, H, W) in [−1, 1].
            noise: Standard normal, (N, C, h, w); chooses the sample of the posterior.
            latent_noise: (N, C, h, w), added to the latents in units of their deviation over the batch (Zheng et al.
                2025, arXiv 2510.11690, section on noise-augmented decoding).
            scale: Averages the latents over squares of this many, so that the pictures have 1/scale of their size.
        """
        with torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled()):
            posterior = self.vae.encode(pictures).latent_dist
        latents = posterior.mean + posterior.std * noise
        if latent_noise is not None:
            latents = latents + latents.detach().std() * latent_noise
        if scale != 1:
            latents = F.avg_pool2d(latents, scale)
        return Reconstruction(self.vae.decode(latents).sample, posterior.mean, posterior.logvar)


def kl_divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL divergence of the posterior from a standard normal distribution, in nats per number."""
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


def peak_signal_to_noise(made: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of pictures (N, 3, H, W) in [−1, 1], (N,), in decibels."""
    return 10 * torch.log10(4 / (made - pictures).square().mean(dim=(1, 2, 3)).clamp(min=1e-12))
