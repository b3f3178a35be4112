"""CLOOB guidance: the gradient of a distance in an image encoder's space steers the samples.

After `clip_sample.py` and `sampling.cond_sample` of crowsonkb/v-diffusion-pytorch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers import SchedulerMixin
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..schedulers.parameterization import Parameterization
from .guidance import guided_prediction

# Smaller pictures are enlarged to twice their size, so that there is something to cut out of them.
SMALLEST_SIDE = 256

Box = tuple[int, int, int]  # top, left and side of a square in pixels


@dataclass(frozen=True, kw_only=True)
class Cutouts:
    """Random squares of a picture, resized to the size of an encoder's input.

    Attributes:
        size: Side of the results in pixels.
        count: Number of squares; 0 for the whole picture instead.
        power: Exponent of the uniform number that a side is drawn by; above 1 small squares are more frequent.
    """

    size: int
    count: int = 16
    power: float = 1.0

    def draw(self, height: int, width: int, generator: torch.Generator | None = None) -> list[Box]:
        """Draws squares with sides between `size` and the shorter side of the picture."""
        largest, smallest = min(height, width), min(height, width, self.size)
        boxes = []
        for _ in range(self.count):
            side = int(_uniform(generator) ** self.power * (largest - smallest) + smallest)
            top, left = (int(_uniform(generator) * (length - side + 1)) for length in (height, width))
            boxes.append((top, left, side))
        return boxes

    def cut(self, pixels: torch.Tensor, boxes: list[Box]) -> torch.Tensor:
        """Cuts squares out of a picture (3, H, W): (count, 3, size, size)."""
        squares = [pixels[:, top : top + side, left : left + side] for top, left, side in boxes]
        return torch.stack([F.adaptive_avg_pool2d(square, self.size) for square in squares])


def _uniform(generator: torch.Generator | None) -> float:
    device = "cpu" if generator is None else generator.device
    return torch.rand((), generator=generator, device=device).item()


def spherical_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Half the squared angle between vectors of unit length, (…, D) and (…, D): (…)."""
    return (x - y).norm(dim=-1).div(2).arcsin().square().mul(2)


@dataclass(frozen=True, kw_only=True, eq=False)
class CLOOBGuidance:
    """Predicts like `guided_prediction`, then steers the prediction towards embeddings.

    With g the gradient of `scale` times the mean distance of the cut-outs of the denoised picture to the target,
    ε becomes ε + σ·g, and v becomes v + σ/α·g (Dhariwal & Nichol 2021, arXiv:2105.05233).

    Attributes:
        target_embeds: Embeddings of unit length, one for each of N images, (N, D).
        scale: Weight of the distance; 0 for no guidance.
        decode: Maps latents to pixels in [−1, 1], differentiably.
        embed: Maps squares of pixels in [0, 1] to embeddings of unit length.
        cutouts: The squares.
        generators: Sources of the squares: one for all images, which then share them, or one for each.
        scheduler: The scheduler, whose configuration says what the network predicts.
    """

    target_embeds: torch.Tensor
    scale: float
    decode: Callable[[torch.Tensor], torch.Tensor]
    embed: Callable[[torch.Tensor], torch.Tensor]
    cutouts: Cutouts
    generators: list[torch.Generator | None]
    scheduler: SchedulerMixin

    def __call__(
        self,
        unet: UNet2DConditionModel,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        condition_embeds: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """The steered prediction in float32, (N, C, H, W); arguments as for `guided_prediction`."""
        parameterization = Parameterization.at(timestep, self.scheduler)
        if parameterization.t >= 1:  # nothing of the picture is left, and α is zero
            return guided_prediction(unet, latents, timestep, condition_embeds, weights)
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            prediction = guided_prediction(unet, latents, timestep, condition_embeds, weights)
            loss = self.scale * self.distances(parameterization.denoised(prediction, latents)).sum()
            gradient = torch.autograd.grad(loss, latents)[0]
        return prediction.detach() + gradient * parameterization.score_weight

    def distances(self, denoised: torch.Tensor) -> torch.Tensor:
        """Mean distance of the cut-outs to the target for each of N denoised latents, (N,)."""
        # Both networks' activations are computed again in the backward pass instead of kept.
        pixels = checkpoint(self.decode, denoised, use_reentrant=False).float()
        embeds = checkpoint(self.embed, self._squares((pixels + 1) / 2), use_reentrant=False)
        embeds = embeds.float().unflatten(0, (len(pixels), -1))
        return spherical_distance(embeds, self.target_embeds[:, None]).mean(dim=1)

    def _squares(self, pixels: torch.Tensor) -> torch.Tensor:
        """The squares of N pictures, (N · count, 3, size, size); without cut-outs the pictures, (N, 3, size, size)."""
        cutouts = self.cutouts
        if cutouts.count == 0:
            return F.interpolate(pixels, (cutouts.size, cutouts.size), mode="bicubic", antialias=True)
        if min(pixels.shape[2:]) < SMALLEST_SIDE:
            pixels = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
        boxes = [cutouts.draw(*pixels.shape[2:], generator) for generator in self.generators]
        boxes = boxes * len(pixels) if len(boxes) == 1 else boxes
        return torch.cat([cutouts.cut(picture, own) for picture, own in zip(pixels, boxes)])
