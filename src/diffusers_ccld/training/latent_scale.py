"""The scale of an autoencoder's latents, measured on images."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from ..data.encoding import encode_latents

RESAMPLINGS = 2000
CONFIDENCE = 95  # per cent

# Published scales were measured on other images. A relative difference this small is not visible.
TOLERANCE = 0.02


class Scale(NamedTuple):
    """A standard deviation and the ends of its confidence interval."""

    value: float
    lowest: float
    highest: float

    def agrees_with(self, other: float) -> bool:
        """True if another value is in the interval, or differs by no more than the tolerance."""
        return self.lowest <= other <= self.highest or abs(other / self.value - 1) <= TOLERANCE


def measure_scale(vae: torch.nn.Module, batches: Iterable[torch.Tensor], seed: int = 0) -> Scale:
    """Measures the standard deviation of samples of the latents' posterior, of all images together.

    diffusers' scaling_factor is one over it.

    Args:
        vae: The autoencoder.
        batches: Pictures (n, 3, H, W) in [−1, 1], on its device.
        seed: Seed of the bootstrap.
    """
    return pooled_scale(latent_moments(vae, batches), seed)


def latent_moments(vae: torch.nn.Module, batches: Iterable[torch.Tensor]) -> np.ndarray:
    """Expected mean and mean square of each image's sampled latents: (N, 2).

    Args:
        vae: The autoencoder.
        batches: Pictures (n, 3, H, W) in [−1, 1], on its device.
    """
    rows = []
    for pictures in batches:
        mean, std = (part.double().flatten(1) for part in encode_latents(vae, pictures))
        rows.append(torch.stack([mean.mean(dim=1), (mean**2 + std**2).mean(dim=1)], dim=1).cpu())
    return torch.cat(rows).numpy()


def pooled_scale(moments: np.ndarray, seed: int = 0) -> Scale:
    """Standard deviation of all numbers of all images, with a bootstrap interval over the images.

    Args:
        moments: Mean and mean square of each image, (N, 2).
        seed: Seed of the bootstrap.
    """
    random, count = np.random.default_rng(seed), len(moments)
    samples = np.stack([moments[random.integers(count, size=count)].mean(axis=0) for _ in range(RESAMPLINGS)])
    value, *scales = (np.sqrt(square - mean**2) for mean, square in (moments.mean(axis=0), *samples))
    margin = (100 - CONFIDENCE) / 2
    lowest, highest = np.percentile(scales, [margin, 100 - margin])
    return Scale(float(value), float(lowest), float(highest))
