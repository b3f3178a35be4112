"""Weighted conditions, [(text, picture or embedding; weight), …], as users write them."""

import math
from numbers import Real
from typing import Any

import torch
from PIL import Image

Condition = str | Image.Image | torch.Tensor


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
        if not is_weight(weight):
            raise ValueError(f"The weight {weight!r} is not a finite number.")
        if isinstance(condition, torch.Tensor) and condition.numel() != embedding_dim:
            raise ValueError(f"An embedding of shape {tuple(condition.shape)} was given; expected ({embedding_dim},).")
        if isinstance(condition, Image.Image) and not has_image_encoder:
            raise ValueError("An image prompt needs an image_encoder and a feature_extractor.")


def is_pair(item: Any) -> bool:
    """Whether something is a condition with something that may be its weight."""
    return isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Condition)


def is_weight(value: Any) -> bool:
    """Whether something is a finite real number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
