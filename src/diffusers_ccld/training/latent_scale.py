"""Measures the scale of an autoencoder's latents on images, and compares it with what the folder says.

    python conversion/measure_scale.py --vae DIR --images FOLDER

The scale is the standard deviation of samples of the latents' posterior, of all images together; diffusers'
scaling_factor is one over it. The interval is where it lies with 95 % confidence for images such as these.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from ..data.encoding import encode_latents

RESAMPLINGS = 2000
CONFIDENCE = 95  # per cent

# Published scales are those of other images; nobody would tell such a difference in a picture.
TOLERANCE = 0.02


class Scale(NamedTuple):
    """A standard deviation, and the ends of its confidence interval."""

    value: float
    lowest: float
    highest: float

    def agrees_with(self, other: float) -> bool:
        """Whether another value lies in the interval, or so near that it makes no difference."""
        return self.lowest <= other <= self.highest or abs(other / self.value - 1) <= TOLERANCE


def moments(vae: torch.nn.Module, batches: Iterator[torch.Tensor]) -> np.ndarray:
    """Mean and mean square of samples of each image's latents, exactly: (N, 2).

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
    """Standard deviation of all numbers of all images, with a bootstrap interval over images.

    Args:
        moments: Mean and mean square of each image, (N, 2).
        seed: Seed of the resampling.
    """
    random, count = np.random.default_rng(seed), len(moments)
    samples = np.stack([moments[random.integers(count, size=count)].mean(axis=0) for _ in range(RESAMPLINGS)])
    value, *scales = (np.sqrt(square - mean**2) for mean, square in (moments.mean(axis=0), *samples))
    margin = (100 - CONFIDENCE) / 2
    lowest, highest = np.percentile(scales, [margin, 100 - margin])
    return Scale(float(value), float(lowest), float(highest))
