"""A linear decoder: an affine map from latents to pixels that stands in for an autoencoder's decoder."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F


class LinearDecoder(ModelMixin, ConfigMixin):
    """Maps each latent and its neighbours to the square of pixels that belongs to it.

    It is fast and differentiable, and shows composition and colours without detail.

    Args:
        latent_channels: Channels of the latents.
        scale_factor: Pixels across that belong to one latent.
        kernel_size: Latents across that a square of pixels depends on; odd.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 4, scale_factor: int = 8, kernel_size: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(latent_channels, 3 * scale_factor**2, kernel_size, padding=kernel_size // 2)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes scaled latents (N, C, h, w) to pixels (N, 3, h · `scale_factor`, w · `scale_factor`) in [−1, 1]."""
        return F.pixel_shuffle(self.conv(latents), self.config.scale_factor)

    @torch.no_grad()
    def fit(self, latents: torch.Tensor, pixels: torch.Tensor, ridge: float = 1e-3) -> None:
        """Sets the map to the least-squares solution, in closed form.

        Args:
            latents: Scaled latents, (N, C, h, w).
            pixels: What the autoencoder decodes them to, (N, 3, H, W) in [−1, 1].
            ridge: Weight of the squared coefficients, which keeps the solution unique.

        Raises:
            ValueError: If there are fewer latents than coefficients of one pixel.
        """
        kernel = self.config.kernel_size
        inputs = F.unfold(latents.double(), kernel, padding=kernel // 2).transpose(1, 2).flatten(0, 1)
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        if len(inputs) < inputs.shape[1]:
            raise ValueError(
                f"{len(inputs)} latents cannot determine {inputs.shape[1]} coefficients; give more images."
            )
        targets = F.pixel_unshuffle(pixels.double(), self.config.scale_factor).permute(0, 2, 3, 1).flatten(0, 2)
        normal = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
        solution = torch.linalg.solve(normal, inputs.T @ targets)
        self.conv.weight.copy_(solution[:-1].T.reshape(self.conv.weight.shape))
        self.conv.bias.copy_(solution[-1])

    @torch.no_grad()
    def explained_share(self, latents: torch.Tensor, pixels: torch.Tensor) -> float:
        """Share of the variance of pixels that the map explains, at most 1; arguments as for `fit`."""
        residual = (self(latents) - pixels).square().mean()
        return 1 - (residual / pixels.var()).item()
