"""Interpolation between prompts, image prompts, embeddings and seeds, in even steps."""

import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..pipelines.conditions import Condition, Prompts, check_conditions, is_finite_number, is_pair
from ..pipelines.pipeline_ccld import CCLDPipeline
from .even_frames import POSITION_DIGITS, Frames, even_frames
from .sampling import SamplingInterruptedError, finite_pictures, generators_for, is_interrupted
from .weights import share_guidance

# In radians. If two vectors are closer than this to opposite, rounding errors would choose the arc.
_OPPOSITE = 1e-4


def slerp(start: torch.Tensor, end: torch.Tensor, fraction: float | torch.Tensor) -> torch.Tensor:
    """Spherical linear interpolation: follows the great circle between two directions at a constant angular speed.

    Lengths are interpolated linearly, so unit vectors stay unit vectors and noise keeps its strength. Between parallel
    vectors only the length changes. After Shoemake, "Animating rotation with quaternion curves" (1985).

    Args:
        start: Vectors (..., D).
        end: Vectors (..., D).
        fraction: From 0 (`start`) to 1 (`end`); a number, or a tensor (...) with one for each vector.

    Returns:
        Vectors (..., D) of the dtype of `start`, computed in float64.

    Raises:
        ValueError: If a vector is zero or not finite, or if two are opposite and have no shortest arc.
    """
    lengths = [vector.double().norm(dim=-1, keepdim=True) for vector in (start, end)]
    if not all(torch.isfinite(length).all() and (length > 0).all() for length in lengths):
        raise ValueError("A vector that is zero or not finite has no direction to interpolate.")
    first, last = start.double() / lengths[0], end.double() / lengths[1]
    # Accurate near 0 and near π, where the arc cosine of the dot product loses half of its digits.
    angle = 2 * torch.atan2((last - first).norm(dim=-1, keepdim=True), (last + first).norm(dim=-1, keepdim=True))
    if (angle > math.pi - _OPPOSITE).any():
        raise ValueError("Opposite vectors have no shortest arc between them. Put a waypoint between them.")
    fraction = torch.as_tensor(fraction, dtype=torch.float64, device=first.device).unsqueeze(-1)
    across = last - (first * last).sum(dim=-1, keepdim=True) * first
    across = across / across.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    direction = torch.cos(fraction * angle) * first + torch.sin(fraction * angle) * across
    return (direction * torch.lerp(*lengths, fraction)).to(start.dtype)


@dataclass
class InterpolationPath:
    """The path between waypoints. Position 1.5 is the middle between the second and the third waypoint.

    Attributes:
        condition_embeds: Embeddings of the W waypoints, (W, D).
        weights: Weights of the waypoints, (W,).
        noise: Initial noise of the waypoints, (W, C, height / 8, width / 8).
        is_closed: True if a last leg leads back to the first waypoint.
        negative_prompt_embeds: Embedding of the negative prompt of the whole path, (D,), or `None`.
        height: Height of the pictures in pixels.
        width: Width of the pictures in pixels.
        generator_state: State of the first generator after it drew for the first waypoint, for samplers that add more.
    """

    condition_embeds: torch.Tensor
    weights: torch.Tensor
    noise: torch.Tensor
    is_closed: bool
    negative_prompt_embeds: torch.Tensor | None
    height: int
    width: int
    generator_state: torch.Tensor

    @property
    def num_legs(self) -> int:
        """Number of legs from one waypoint to the next."""
        return len(self.weights) if self.is_closed else len(self.weights) - 1

    @property
    def is_constant(self) -> bool:
        """True if all pictures on the path are the same."""
        tensors = [self.weights, self.noise]
        if self.weights.any():  # else embeddings have no effect
            tensors.append(self.condition_embeds)
        return all(torch.equal(tensor, tensor[:1].expand_as(tensor)) for tensor in tensors)

    def canonical(self, position: float) -> float:
        """Position of the same picture in [0, `num_legs`), or in [0, `num_legs`] if the path is open."""
        if self.is_closed:
            position %= self.num_legs
            if self.num_legs == 2:  # there and back
                position = min(position, 2 - position)
        return round(position, POSITION_DIGITS)

    def at(self, position: float) -> tuple[list[tuple[torch.Tensor, float]], torch.Tensor]:
        """Returns the weighted conditions and the initial noise (1, C, height / 8, width / 8) at a position."""
        leg = min(int(position), self.num_legs - 1)
        fraction, following = position - leg, (leg + 1) % len(self.weights)
        embeds = slerp(self.condition_embeds[leg], self.condition_embeds[following], fraction)
        weight = torch.lerp(self.weights[leg], self.weights[following], fraction).item()
        noise = slerp(self.noise[leg].flatten(), self.noise[following].flatten(), fraction)
        conditions = [(embeds, weight)]
        if self.negative_prompt_embeds is not None:
            conditions.append((self.negative_prompt_embeds, 1 - weight))
        return conditions, noise.reshape(1, *self.noise.shape[1:])


@torch.no_grad()
def prepare_path(
    pipe: CCLDPipeline,
    waypoints: Sequence[Condition | tuple[Condition, float]],
    seeds: int | Sequence[int] = 0,
    loop: bool = False,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    variation: float | None = None,
) -> InterpolationPath:
    """Embeds waypoints and draws their noise. Arguments and errors are those of `interpolate`."""
    guidance_scale, variation = pipe.guidance_or_default(guidance_scale), pipe.variation_or_default(variation)
    # A waypoint is sampled alone, so it gets the whole guidance scale.
    waypoints = [
        waypoint if is_pair(waypoint) else share_guidance([(waypoint, None)], guidance_scale)[0]
        for waypoint in waypoints
    ]
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    _check_waypoints(pipe, waypoints, seeds, guidance_scale)
    num_waypoints = max(len(waypoints), len(seeds))
    height, width = _size_of(pipe, height, width)

    guidances = [pipe.prepare_guidance(Prompts(conditions=[[waypoint]])) for waypoint in waypoints]
    noise, condition_embeds, states = [], [], []
    for i in range(num_waypoints):  # one waypoint or one seed serves all
        (generator,) = generators_for([seeds[i % len(seeds)]])
        noise.append(pipe.prepare_noise(1, height, width, generator, torch.device("cpu")))
        varied = pipe.vary_texts(guidances[i % len(guidances)], variation, generator)
        condition_embeds.append(varied.condition_embeds[0, 0].float().cpu())
        states.append(generator.get_state())
    weights = torch.tensor([weight for _, weight in waypoints], dtype=torch.float64)
    path = InterpolationPath(
        condition_embeds=torch.stack(condition_embeds),
        weights=weights.expand(num_waypoints),
        noise=torch.cat(noise),
        is_closed=loop,
        negative_prompt_embeds=None
        if negative_prompt is None
        else pipe.encode_prompt(negative_prompt)[0][0].float().cpu(),
        height=height,
        width=width,
        generator_state=states[0],
    )
    for leg in range(path.num_legs):
        path.at(leg + 0.5)  # raises if two waypoints are opposite
    if negative_prompt is None:
        pipe.check_taught(path.weights[:, None])
    if path.is_constant:
        raise ValueError("All waypoints are the same, and so are their seeds: there is nothing in between.")
    return path


def _check_waypoints(pipe, waypoints, seeds, guidance_scale):
    if not waypoints or not seeds or max(len(waypoints), len(seeds)) < 2:
        raise ValueError("Give at least two waypoints, or one and several seeds.")
    if len({len(waypoints), len(seeds)} - {1}) > 1:
        raise ValueError(f"{len(seeds)} seeds were given for {len(waypoints)} waypoints; give one, or one for each.")
    if not all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds):
        raise ValueError("Seeds are whole numbers from 0 to 2⁶³ − 1.")
    if not is_finite_number(guidance_scale):
        raise ValueError(f"guidance_scale={guidance_scale!r} must be a finite number.")
    has_image_encoder = pipe.image_encoder is not None and pipe.feature_extractor is not None
    check_conditions([waypoints], pipe.unet.config.cross_attention_dim, has_image_encoder)


def _size_of(pipe, height, width):
    """Height and width in pixels; `None` becomes that of the training images."""
    default_height, default_width = pipe.default_size
    height = default_height if height is None else height
    width = default_width if width is None else width
    pipe.check_size(height, width)
    pipe.notices.warn_of_size((height, width), pipe.default_size)
    return height, width


@torch.no_grad()
def sample_path(
    pipe: CCLDPipeline,
    path: InterpolationPath,
    num_frames: int,
    num_inference_steps: int | None = None,
    batch_size: int = 4,
    max_pictures: int | None = None,
    pictures: MutableMapping[float, Image.Image] | None = None,
    guidance_interval: tuple[float, float] | None = None,
) -> Frames:
    """Samples pictures along a path until it finds frames at even distances.

    The distance between two pictures is the root mean square of their difference, with values from 0 to 255.

    Args:
        pipe: The pipeline.
        path: The path, from `prepare_path`.
        num_frames: Number of frames. The arguments without a description are those of `interpolate`.
        pictures: Pictures by canonical position. Existing ones are not sampled again, and new ones are added. With a
            mapping that stores files, an interrupted run can resume.

    Returns:
        Positions and distances of the frames. On a closed path the first frame is repeated at the end.
    """
    pictures = {} if pictures is None else pictures
    check_counts(path, num_frames, batch_size, max_pictures)
    max_pictures = 4 * num_frames if max_pictures is None else max_pictures
    known: dict[tuple[float, float], float] = {}
    most = max(max_pictures - len(pictures), 0)
    with _without_its_bar(pipe), tqdm(desc="Sampling", unit="picture", total=most) as progress_bar:

        def distances(positions: list[float]) -> list[float]:
            positions = [path.canonical(position) for position in positions]
            missing = [position for position in dict.fromkeys(positions) if position not in pictures]
            for first in range(0, len(missing), batch_size):
                part = missing[first : first + batch_size]
                sampled = sample_at(pipe, path, part, num_inference_steps, guidance_interval=guidance_interval)
                if is_interrupted(pipe):
                    raise SamplingInterruptedError
                pictures.update(zip(part, sampled))
                progress_bar.update(len(part))
            for pair in pairwise(positions):
                if pair not in known:
                    known[pair] = picture_distance(*(pictures[position] for position in pair))
            return [known[pair] for pair in pairwise(positions)]

        is_closed = int(path.is_closed)
        frames = even_frames(distances, path.num_legs, num_frames - 1 + is_closed, max_pictures + is_closed)
        progress_bar.total = progress_bar.n  # even frames mostly need fewer pictures
        return frames


@contextmanager
def _without_its_bar(pipe: CCLDPipeline) -> Iterator[None]:
    """Context in which a pipeline shows no bar of its own: one bar counts all pictures."""
    config = getattr(pipe, "_progress_bar_config", {})  # diffusers' own; it has no public name
    pipe.set_progress_bar_config(**{**config, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**config)


def check_counts(path: InterpolationPath, num_frames: int, batch_size: int, max_pictures: int | None) -> None:
    """Raises `ValueError` if the numbers of waypoints, frames and pictures do not fit together."""
    if num_frames < len(path.weights):
        raise ValueError(
            f"{num_frames} frames are fewer than the {len(path.weights)} waypoints, and every waypoint is a frame."
        )
    if batch_size < 1:
        raise ValueError("The batch size must be at least 1.")
    if max_pictures is not None and max_pictures < num_frames:
        raise ValueError(f"{num_frames} frames cannot be chosen from {max_pictures} pictures.")


def picture_distance(first: Image.Image, second: Image.Image) -> float:
    """Root mean square difference of two pictures of one size, with values from 0 to 255."""
    difference = np.asarray(first, dtype=np.float32) - np.asarray(second, dtype=np.float32)
    return float(np.sqrt(np.mean(np.square(difference), dtype=np.float64)))


def interpolate(
    pipe: CCLDPipeline,
    waypoints: Sequence[Condition | tuple[Condition, float]],
    num_frames: int = 24,
    *,
    seeds: int | Sequence[int] = 0,
    loop: bool = False,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 4,
    max_pictures: int | None = None,
    variation: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
) -> list[Image.Image]:
    """Samples pictures that lead from waypoint to waypoint in steps that look even.

        frames = interpolate(pipe, ["a winter forest", "an autumn forest"], num_frames=24, seeds=[1, 2], loop=True)

    Embeddings and noise are interpolated on the sphere (`slerp`), weights linearly. Every waypoint is a frame: the
    picture that the pipeline samples from its prompt and seed. The other frames are placed so that the picture changes
    by the same amount from frame to frame (`even_frames`), which takes more pictures than frames.

    A scheduler that adds noise while sampling adds the same noise to all pictures, drawn from the first seed.

    Args:
        pipe: The pipeline, with any scheduler.
        waypoints: At least two texts, PIL images or embeddings (D,); each alone or as a pair with its weight.
        num_frames: Number of frames, at least one for each waypoint.
        seeds: One seed for all waypoints or one for each. A single waypoint may have several seeds.
        loop: True to return to the first waypoint, so that the frames form a closed loop.
        guidance_scale: Weight of waypoints that are given without one; `None` for the model's own.
        negative_prompt: Negative prompt of the whole path: a condition of weight 1 − w where the waypoint's is w.
        num_inference_steps: Number of sampling steps for each picture; `None` for the model's own.
        height: Height in pixels; `None` for that of the training images.
        width: Width in pixels; `None` for that of the training images.
        batch_size: Number of pictures sampled at once.
        max_pictures: Maximum number of pictures to sample; `None` for four per frame. With a value of
            `num_frames`, steps are even in the angle, even if they look uneven.
        variation: Spread around texts, 0 to 1, drawn from the seed of their waypoint; `None` for the model's own.
        guidance_interval: First and last time at which guidance applies, 0 to 1; `None` for always.

    Returns:
        The frames.

    Raises:
        ValueError: If the arguments do not fit together (before any work is done), or if pixels are not finite.
        TypeError: If a waypoint is not a text, an image or an embedding.
    """
    pictures: dict[float, Image.Image] = {}
    path = prepare_path(pipe, waypoints, seeds, loop, guidance_scale, negative_prompt, height, width, variation)
    frames = sample_path(
        pipe, path, num_frames, num_inference_steps, batch_size, max_pictures, pictures, guidance_interval
    )
    return [pictures[path.canonical(position)] for position in frames.positions[:num_frames]]


def sample_at(
    pipe: CCLDPipeline,
    path: InterpolationPath,
    positions: Sequence[float],
    num_inference_steps: int | None = None,
    **options: Any,
) -> list[Image.Image]:
    """Samples the pictures at some positions of a path in one batch; `options` are arguments of the pipeline."""
    conditions, noise = zip(*(path.at(position) for position in positions))
    return finite_pictures(
        pipe,
        conditions=list(conditions),
        latents=torch.cat(noise),
        height=path.height,
        width=path.width,
        num_inference_steps=num_inference_steps,
        generator=[torch.Generator().set_state(path.generator_state) for _ in positions],
        **options,
    )
