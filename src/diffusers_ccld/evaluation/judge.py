"""A small network that reads subject, medium and palette off a picture, to judge generated ones."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ..paintings.attributes import MEDIA, PALETTES, SUBJECTS, Attributes


class Verdict(NamedTuple):
    """The judge's output for N pictures.

    Attributes:
        subject: Logits of `SUBJECTS`, (N, 12).
        medium: Logits of `MEDIA`, (N, 6).
        palette: Logits of `PALETTES`, (N, 8).
        features: The features below the logits, (N, D). Pictures of the same kind are close together.
    """

    subject: torch.Tensor
    medium: torch.Tensor
    palette: torch.Tensor
    features: torch.Tensor

    @property
    def attributes(self) -> list[Attributes]:
        """The most likely attributes of each picture."""
        indices = [logits.argmax(-1).tolist() for logits in (self.subject, self.medium, self.palette)]
        return [Attributes(SUBJECTS[s], MEDIA[m], PALETTES[p]) for s, m, p in zip(*indices)]


class Judge(ModelMixin, ConfigMixin):
    """A residual network on pictures of 64 × 64 pixels.

    Args:
        widths: Channels at 64, 32, 16 and 8 pixels; multiples of 8.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, int, int, int] = (16, 48, 96, 128)):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.GroupNorm(8, widths[0]), nn.ReLU()]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), _Residual(wide)]
        self.body = nn.Sequential(*layers)
        self.subject = nn.Linear(widths[-1], len(SUBJECTS))
        self.medium = nn.Linear(widths[-1], len(MEDIA))
        self.palette = nn.Linear(widths[-1], len(PALETTES))

    def forward(self, pictures: torch.Tensor) -> Verdict:
        """Judges pictures (N, 3, H, W) in [−1, 1]; height and width are multiples of 64."""
        features = self.body(F.adaptive_avg_pool2d(pictures, 64)).mean(dim=(2, 3))
        return Verdict(self.subject(features), self.medium(features), self.palette(features), features)

    @torch.no_grad()
    def judge(self, images: list[Image.Image], batch_size: int = 64) -> Verdict:
        """Judges square RGB images."""
        parts = []
        for first in range(0, len(images), batch_size):
            pixels = np.stack([np.asarray(image) for image in images[first : first + batch_size]])
            parts.append(self(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1))
        return Verdict(*(torch.cat(tensors) for tensors in zip(*parts)))


class _Residual(nn.Module):
    """x + conv(ReLU(norm(conv(ReLU(norm(x))))))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(F.relu(self.norm1(hidden_states)))
        return hidden_states + self.conv2(F.relu(self.norm2(residual)))
