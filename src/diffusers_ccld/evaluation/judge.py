"""A small network that reads subject, medium and palette off a picture, to judge generated ones."""

from itertools import pairwise
from pathlib import Path
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


def _batches(images, batch_size):
    for first in range(0, len(images), batch_size):
        pixels = np.stack([np.asarray(image) for image in images[first : first + batch_size]])
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class _Judge(ModelMixin, ConfigMixin):
    """The common part of all judges: a body that makes features, and a linear layer for each attribute."""

    body: nn.Module

    def _add_heads(self, width):
        self.subject = nn.Linear(width, len(SUBJECTS))
        self.medium = nn.Linear(width, len(MEDIA))
        self.palette = nn.Linear(width, len(PALETTES))

    def _resized(self, pictures):
        return pictures

    def forward(self, pictures: torch.Tensor) -> Verdict:
        """Judges pictures (N, 3, H, W) in [−1, 1]; height and width are multiples of 64."""
        features = self.body(self._resized(pictures)).mean(dim=(2, 3))
        return Verdict(self.subject(features), self.medium(features), self.palette(features), features)

    @torch.no_grad()
    def judge(self, images: list[Image.Image], batch_size: int = 64) -> Verdict:
        """Judges square RGB images."""
        parts = [self(pictures) for pictures in _batches(images, batch_size)]
        return Verdict(*(torch.cat(tensors) for tensors in zip(*parts)))

    @torch.no_grad()
    def perceptual_distances(
        self, images: list[Image.Image], others: list[Image.Image], batch_size: int = 64
    ) -> torch.Tensor:
        """Distances of square RGB images to others of the same size, (N,), in the maps of all the judge's layers.

        As LPIPS compares the maps of a VGG, but without learnt weights of channels (Zhang et al. 2018,
        arXiv:1801.03924): 0 for equal images, and at most 4.
        """
        distances = []
        for pictures in zip(_batches(images, batch_size), _batches(others, batch_size), strict=True):
            hidden_states, of_layers = self._resized(torch.cat(pictures)), []
            for layer in self.body:
                hidden_states = layer(hidden_states)
                first, second = F.normalize(hidden_states, dim=1).chunk(2)
                of_layers.append((first - second).square().sum(dim=1).mean(dim=(1, 2)))
            distances.append(torch.stack(of_layers).mean(dim=0))
        return torch.cat(distances)


class Judge(_Judge):
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
        self._add_heads(widths[-1])

    def _resized(self, pictures):
        return F.adaptive_avg_pool2d(pictures, 64)


class ConvNeXtJudge(_Judge):
    """A small ConvNeXt (Liu et al. 2022) on pictures of full size: another architecture, for a second opinion.

    Args:
        widths: Channels at 1/4 and 1/8 of the size.
        depths: Blocks at each of them.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, int] = (48, 112), depths: tuple[int, int] = (2, 3)):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=4), nn.GroupNorm(1, widths[0])]
        layers += [_ConvNeXtBlock(widths[0]) for _ in range(depths[0])]
        layers += [nn.GroupNorm(1, widths[0]), nn.Conv2d(widths[0], widths[1], 2, stride=2)]
        layers += [_ConvNeXtBlock(widths[1]) for _ in range(depths[1])]
        self.body = nn.Sequential(*layers, nn.GroupNorm(1, widths[1]))
        self._add_heads(widths[1])


JUDGES: dict[str, type[_Judge]] = {"residual": Judge, "convnext": ConvNeXtJudge}


def load_judge(folder: str | Path) -> _Judge:
    """Loads a judge of any architecture, for evaluation.

    Raises:
        OSError: If the folder has no judge.
        ValueError: If its architecture is unknown.
    """
    name = Judge.load_config(folder).get("_class_name")
    classes = {judge.__name__: judge for judge in JUDGES.values()}
    if name not in classes:
        raise ValueError(f"{folder} has a {name}, which is not a judge: there are {', '.join(classes)}.")
    return classes[name].from_pretrained(folder).eval()


class _Residual(nn.Module):
    """x + conv(ReLU(norm(conv(ReLU(norm(x))))))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(F.relu(self.norm1(hidden_states)))
        return hidden_states + self.conv2(F.relu(self.norm2(residual)))


class _ConvNeXtBlock(nn.Module):
    """x + linear(GELU(linear(norm(depthwise 7×7(x))))), each linear layer on single pixels."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.norm(self.depthwise(hidden_states).permute(0, 2, 3, 1))
        residual = self.reduce(F.gelu(self.expand(residual)))
        return hidden_states + residual.permute(0, 3, 1, 2)
