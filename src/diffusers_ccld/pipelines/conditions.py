"""What a picture is to look like: prompts and weighted conditions as users give them, and the terms they become."""

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import torch
from PIL import Image

Condition = str | Image.Image | torch.Tensor


@dataclass
class Guidance:
    """The terms of the guidance formula v = (1 − Σ w_i)·v(zero condition) + Σ w_i·v(c_i) for N images.

    Attributes:
        condition_embeds: Embeddings c_i, (N, K, D), filled up with zero vectors where an image has fewer.
        intercepts: Weights at guidance scale 0, (N, K), on the CPU.
        slopes: What each weight grows by with the guidance scale, (N, K), on the CPU.
        interval: Times from which and up to which it holds, 0 to 1.
    """

    condition_embeds: torch.Tensor
    intercepts: torch.Tensor
    slopes: torch.Tensor
    interval: tuple[float, float] = (0.0, 1.0)

    def weights(self, guidance_scale: float) -> torch.Tensor:
        """Weights w_i, (N, K), on the CPU."""
        return self.intercepts + guidance_scale * self.slopes

    def weights_at(self, t: float, guidance_scale: float) -> torch.Tensor:
        """Weights w_i at a time, (N, K), on the CPU.

        Outside of the interval nothing is kept away from, and the conditions that are left get weights that sum to 1
        at most, so that the zero condition costs no evaluation (Kynkäänniemi et al. 2024, arXiv:2404.07724).
        """
        weights = self.weights(guidance_scale)
        if self.interval[0] <= t <= self.interval[1]:
            return weights
        wanted = weights.clamp(min=0)
        return wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1)

    def repeated(self, count: int) -> "Guidance":
        """The same terms for `count` images in place of each."""
        tensors = (self.condition_embeds, self.intercepts, self.slopes)
        return Guidance(*(tensor.repeat_interleave(count, dim=0) for tensor in tensors), self.interval)

    def for_images(self, num_images: int) -> "Guidance":
        """The same terms for a number of images, of which this is an equal share."""
        return self.repeated(num_images // len(self.condition_embeds))


@dataclass
class Prompts:
    """The arguments of a pipeline call that say what to paint; see `CCLDPipeline.__call__`."""

    prompt: str | list[str] | None = None
    image_prompt: Image.Image | list[Image.Image] | None = None
    negative_prompt: str | list[str] | None = None
    prompt_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    negative_prompt_embeds: torch.Tensor | None = None
    image_prompt_weight: float = 0.5
    conditions: list | None = None
    guidance_interval: tuple[float, float] | None = None

    def __post_init__(self):
        self.conditions = as_batch(self.conditions)

    @property
    def given(self) -> dict[str, Any]:
        """The prompts and embeddings that are not `None`."""
        others = ("image_prompt_weight", "conditions", "guidance_interval")
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in others}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def batch_size(self) -> int:
        """Number of images asked for."""
        if self.conditions is not None:
            return len(self.conditions)
        return max(_length(value) for value in self.given.values())

    def check(self, embedding_dim: int, has_image_encoder: bool) -> None:
        """Checks that the arguments make sense together.

        Args:
            embedding_dim: Width D of embeddings.
            has_image_encoder: Whether pictures can be encoded.

        Raises:
            TypeError: If something is neither a text, a picture nor an embedding, where one is needed.
            ValueError: If arguments contradict one another, or a number or a shape is wrong.
        """
        if not is_finite_number(self.image_prompt_weight) or not 0 <= self.image_prompt_weight <= 1:
            raise ValueError(f"image_prompt_weight={self.image_prompt_weight!r} must be a number in [0, 1].")
        if self.guidance_interval is not None:
            _check_interval(self.guidance_interval)
        given = self.given
        if self.conditions is not None:
            if given:
                raise ValueError(f"conditions stands in place of {', '.join(given)}; give one or the other.")
            check_conditions(self.conditions, embedding_dim, has_image_encoder)
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
        for name, value in given.items():
            _check_prompt(name, value, embedding_dim)
        if "image_prompt" in given and not has_image_encoder:
            raise ValueError("An image prompt needs an image_encoder and a feature_extractor, which are missing.")
        lengths = {name: _length(value) for name, value in given.items()}
        if len(set(lengths.values()) - {1}) > 1:
            raise ValueError(f"The batch sizes differ: {lengths}.")


def as_batch(conditions: list | tuple | None) -> list[list[tuple[Condition, float]]] | None:
    """A batch of lists of conditions, of what may be the list of one image.

    Raises:
        TypeError: If it is neither.
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

    Raises:
        TypeError: If something is no pair of a condition and a weight.
        ValueError: If a weight is no finite number, an embedding has another width, or a picture cannot be encoded.
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
        if isinstance(condition, Image.Image) and not has_image_encoder:
            raise ValueError("An image prompt needs an image_encoder and a feature_extractor, which are missing.")


def is_pair(item: Any) -> bool:
    """Whether something is a condition with something that may be its weight."""
    return isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Condition)


def is_finite_number(value: Any) -> bool:
    """Whether something is a finite real number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_interval(interval):
    is_pair_of_times = (
        isinstance(interval, (tuple, list)) and len(interval) == 2 and all(map(is_finite_number, interval))
    )
    if not is_pair_of_times or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"guidance_interval={interval!r} must be two times from 0, the image, to 1, the noise.")


def _check_prompt(name, value, embedding_dim):
    if name.endswith("_embeds"):
        is_embedding = isinstance(value, torch.Tensor) and value.ndim in (2, 3) and len(value) > 0
        if not is_embedding or value.shape[-1] != embedding_dim or value[0].numel() != embedding_dim:
            raise ValueError(f"{name} must be a tensor of shape (N, {embedding_dim}) or (N, 1, {embedding_dim}).")
        return
    kind, noun = (Image.Image, "PIL image") if name == "image_prompt" else (str, "text")
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, kind) for item in items):
        types = ", ".join(sorted({type(item).__name__ for item in items})) or "an empty list"
        raise TypeError(f"{name} must be a {noun} or a list of such, not {types}.")


def _length(value):
    return len(value) if isinstance(value, (list, torch.Tensor)) else 1


# Weights closer to zero than this are rounding errors of sums such as 1 − (g + (1 − g)).
NEGLIGIBLE_WEIGHT = 1e-6


def is_used(weights: torch.Tensor) -> torch.Tensor:
    """Which of an image's conditions, weights (N, K), the network has to be evaluated for."""
    return weights.abs() > NEGLIGIBLE_WEIGHT


def is_alone(weights: torch.Tensor) -> torch.Tensor:
    """Which conditions, weights (N, K), are all that an image has."""
    used = is_used(weights)
    return used & (used.sum(dim=1, keepdim=True) == 1)
