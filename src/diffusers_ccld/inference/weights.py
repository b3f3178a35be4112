"""Weights of conditions that share the guidance scale, free of torch for the command line."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def share_guidance(conditions: Sequence[tuple[T, float | None]], guidance_scale: float) -> list[tuple[T, float]]:
    """Gives conditions without a weight equal shares of the guidance scale.

    Args:
        conditions: Conditions that are sampled together, as pairs with their weight; `None` for a missing weight.
        guidance_scale: The sum of the missing weights.

    Returns:
        The same pairs, each with a weight.
    """
    share = guidance_scale / max(sum(weight is None for _, weight in conditions), 1)
    return [(condition, share if weight is None else weight) for condition, weight in conditions]
