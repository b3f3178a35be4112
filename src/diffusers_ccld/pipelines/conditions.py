"""Prompts and weighted conditions as users give them, and their checks."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from PIL import Image

Condition = str | Image.Image | torch.Tensor

NEEDS_IMAGE_ENCODER = "An image prompt needs an image_encoder and a feature_extractor, which are missing."


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """The arguments of a pipeline call that describe the images; `CCLDPipeline.__call__` documents them.

    Construction checks what is the same for every pipeline, `check` what depends on its networks.

    Raises:
        TypeError: If a prompt is not a text or not an image, or `conditions` is not a list.
        ValueError: If arguments contradict one another, or a number is out of range.
    """

    prompt: str | list[str] | None = None
    image_prompt: Image.Image | list[Image.Image] | None = None
    negative_prompt: str | list[str] | None = None
    prompt_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    negative_prompt_embeds: torch.Tensor | None = None
    image_prompt_weight: float = 0.5
    conditions: list | None = None
    guidance_interval: tuple[float, float] | None = None
    parallel_guidance: float = 1.0

    def __post_init__(self):
        if not is_finite_number(self.image_prompt_weight) or not 0 <= self.image_prompt_weight <= 1:
            raise ValueError(f"image_prompt_weight={self.image_prompt_weight!r} must be a number in [0, 1].")
        if not is_finite_number(self.parallel_guidance) or not 0 <= self.parallel_guidance <= 1:
            raise ValueError(f"parallel_guidance={self.parallel_guidance!r} must be a number in [0, 1].")
        if self.guidance_interval is not None:
            _check_interval(self.guidance_interval)
        given = self.given
        if self.rows is not None:
            if given:
                raise ValueError(f"conditions replaces {', '.join(given)}; give one or the other.")
            return
        if not given.keys() & {"prompt", "image_prompt", "prompt_embeds", "image_embeds"}:
            raise ValueError("Give a prompt, an image_prompt, prompt_embeds, image_embeds, or conditions.")
        for name, embeds in (
            ("prompt", "prompt_embeds"),
            ("image_prompt", "image_embeds"),
            ("negative_prompt", "negative_prompt_embeds"),
        ):
            if name in given and embeds in given:
                raise ValueError(f"Give either {name} or {embeds}.")
            if name in given:
                _check_prompt(name, given[name])
        lengths = {name: _length(value) for name, value in given.items()}
        if len(set(lengths.values()) - {1}) > 1:
            raise ValueError(f"The batch sizes differ: {lengths}.")

    @property
    def given(self) -> dict[str, Any]:
        """The prompts and embeddings that are not `None`, by name."""
        values = {
            "prompt": self.prompt,
            "image_prompt": self.image_prompt,
            "negative_prompt": self.negative_prompt,
            "prompt_embeds": self.prompt_embeds,
            "image_embeds": self.image_embeds,
            "negative_prompt_embeds": self.negative_prompt_embeds,
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def rows(self) -> list[list[tuple[Condition, float]]] | None:
        """`conditions` as a batch: a list of pairs for each image."""
        return as_batch(self.conditions)

    @property
    def batch_size(self) -> int:
        """Number of images described."""
        if self.rows is not None:
            return len(self.rows)
        return max(_length(value) for value in self.given.values())

    def check(self, embedding_dim: int, has_image_encoder: bool) -> None:
        """Checks the prompts against a pipeline's networks.

        Args:
            embedding_dim: Width D of embeddings.
            has_image_encoder: True if the pipeline can embed images.

        Raises:
            TypeError: If a condition is not a pair of a condition and a weight.
            ValueError: If an embedding has another width, an image cannot be embedded, or a weight is not finite.
        """
        if self.rows is not None:
            check_conditions(self.rows, embedding_dim, has_image_encoder)
        for name, value in self.given.items():
            if name.endswith("_embeds"):
                _check_embeds(name, value, embedding_dim)
        if self.image_prompt is not None and not has_image_encoder:
            raise ValueError(NEEDS_IMAGE_ENCODER)


def as_batch(conditions: list | tuple | None) -> list[list[tuple[Condition, float]]] | None:
    """Conditions of one image or of a batch as a batch.

    Raises:
        TypeError: If they are not a list.
    """
    if conditions is None:
        return None
    if not isinstance(conditions, (list, tuple)):
        raise TypeError(
            f"conditions must be a list of pairs or a list of such lists, not {type(conditions).__name__}."
        )
    is_batch = len(conditions) > 0 and all(isinstance(row, list) and not is_pair(row) for row in conditions)
    return list(conditions) if is_batch else [list(conditions)]


def check_conditions(conditions: list[list], embedding_dim: int, has_image_encoder: bool) -> None:
    """Checks a batch of lists of conditions.

    Args:
        conditions: A list of pairs for each image.
        embedding_dim: Width D of embeddings.
        has_image_encoder: True if images can be embedded.

    Raises:
        TypeError: If an item is not a pair of a condition and a weight.
        ValueError: If a weight is not finite, an embedding has another width, or an image cannot be embedded.
    """
    for pair in (pair for row in conditions for pair in row):
        if not is_pair(pair):
            raise TypeError(f"A condition is a pair (text, PIL image or embedding; weight), not {pair!r}.")
        condition, weight = pair
        if not is_finite_number(weight):
            raise ValueError(f"The weight {weight!r} is not a finite number.")
        if isinstance(condition, torch.Tensor) and tuple(condition.shape) not in (
            (embedding_dim,),
            (1, embedding_dim),
        ):
            raise ValueError(f"An embedding of shape {tuple(condition.shape)} was given; expected ({embedding_dim},).")
        if isinstance(condition, torch.Tensor):
            check_finite("An embedding", condition)
        if isinstance(condition, Image.Image) and not has_image_encoder:
            raise ValueError(NEEDS_IMAGE_ENCODER)


def is_pair(item: Any) -> bool:
    """True for a pair whose first item is a condition. The second, its weight, is not checked."""
    return isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Condition)


def is_finite_number(value: Any) -> bool:
    """True for finite real numbers; booleans are not numbers here."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """True for whole numbers from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_finite(name: str, values: torch.Tensor) -> None:
    """Raises `ValueError` for a tensor with values that are not finite: every pixel would be black."""
    if not torch.isfinite(values).all():
        raise ValueError(f"{name}: all values must be finite numbers.")


def _check_interval(interval):
    is_pair_of_times = (
        isinstance(interval, (tuple, list)) and len(interval) == 2 and all(map(is_finite_number, interval))
    )
    if not is_pair_of_times or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"guidance_interval={interval!r} must be two times from 0, the image, to 1, the noise.")


def _check_prompt(name, value):
    kind, noun = (Image.Image, "PIL image") if name == "image_prompt" else (str, "text")
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, kind) for item in items):
        types = ", ".join(sorted({type(item).__name__ for item in items})) or "an empty list"
        raise TypeError(f"{name} must be a {noun} or a list of such, not {types}.")


def _check_embeds(name, value, embedding_dim):
    is_embedding = isinstance(value, torch.Tensor) and value.ndim in (2, 3) and len(value) > 0
    if not is_embedding or value.shape[-1] != embedding_dim or value[0].numel() != embedding_dim:
        raise ValueError(f"{name} must be a tensor of shape (N, {embedding_dim}) or (N, 1, {embedding_dim}).")
    check_finite(name, value)


def _length(value):
    return len(value) if isinstance(value, (list, torch.Tensor)) else 1
