"""Ranks pictures by their similarity to the conditions that they were sampled from."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch.nn import functional as F

from ..pipelines.conditions import NEEDS_IMAGE_ENCODER, Condition
from ..pipelines.pipeline_ccld import CCLDPipeline


@torch.no_grad()
def similarities(
    pipe: CCLDPipeline,
    pictures: Sequence[Image.Image],
    conditions: Sequence[tuple[Condition, float]],
    batch_size: int = 16,
) -> list[float]:
    """Mean cosine of the CLOOB embeddings of each picture and of its conditions, by the conditions' positive weights.

    Args:
        pipe: The pipeline, whose own encoders embed both.
        pictures: The pictures.
        conditions: Texts, images or embeddings with their weights; at least one weight is positive.
        batch_size: Number of pictures to embed at once.

    Returns:
        One number from −1 to 1 for each picture.

    Raises:
        ValueError: If the pipeline cannot embed images, or no condition has a positive weight.
    """
    if not pipe.has_image_encoder:
        raise ValueError(NEEDS_IMAGE_ENCODER)
    wanted = [(condition, weight) for condition, weight in conditions if weight > 0]
    if not wanted:
        raise ValueError("Pictures are ranked by their prompts, and there is none with a positive weight.")
    target = sum(weight * _embed(pipe, condition) for condition, weight in wanted) / sum(w for _, w in wanted)
    cosines = []
    for first in range(0, len(pictures), batch_size):
        embeds = F.normalize(pipe.encode_image(list(pictures[first : first + batch_size])).float(), dim=-1)
        cosines += (embeds.cpu() @ target).tolist()
    return cosines


def _embed(pipe, condition):
    """The embedding (D,) of unit length, float32, on the CPU."""
    if isinstance(condition, torch.Tensor):
        embeds = condition.flatten()
    elif isinstance(condition, str):
        embeds = pipe.encode_prompt(condition)[0][0]
    else:
        embeds = pipe.encode_image(condition)[0]
    return F.normalize(embeds.float().cpu(), dim=-1)
