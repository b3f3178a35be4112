"""Smaller networks of a teacher's kind: their shapes, and weights to begin with."""

from typing import Any

import torch
from torch import nn

from .unet_ccld import CCLDUNet2DConditionModel

# Widths are tried from the teacher's own down, in so many equal steps.
WIDTH_STEPS = 512
MAPPING_MULTIPLE = 16


def network_settings(unet: nn.Module) -> dict[str, Any]:
    """The configuration of a network of diffusers, without what diffusers notes in it."""
    return {key: value for key, value in unet.config.items() if not key.startswith("_")}


def count_parameters(settings: dict[str, Any]) -> int:
    """Parameters of a CCLD U-Net of a configuration, without making their storage.

    Raises:
        ValueError: If it describes no network.
    """
    with torch.device("meta"):
        return CCLDUNet2DConditionModel(**settings).num_parameters()


def narrowed(settings: dict[str, Any], max_parameters: int) -> dict[str, Any]:
    """The widest network of a teacher's proportions within a budget; all widths shrink alike.

    Args:
        settings: Configuration of a CCLD U-Net; its `attention_head_dim` is what widths stay multiples of.
        max_parameters: The budget.

    Raises:
        ValueError: If no such network is small enough.
    """
    head_dim, tried = settings["attention_head_dim"], []
    for step in range(WIDTH_STEPS, 0, -1):
        share = step / WIDTH_STEPS
        candidate = settings | {
            "block_out_channels": [
                max(round(share * width / head_dim), 1) * head_dim for width in settings["block_out_channels"]
            ],
            "mapping_dim": max(round(share * settings["mapping_dim"] / MAPPING_MULTIPLE), 1) * MAPPING_MULTIPLE,
        }
        if candidate not in tried:
            tried.append(candidate)
            if count_parameters(candidate) <= max_parameters:
                return candidate
    raise ValueError(
        f"The narrowest network with heads of {head_dim} channels has {count_parameters(tried[-1]):,} parameters, "
        f"more than {max_parameters:,}. Give a smaller attention_head_dim or fewer layers_per_block."
    )


def evenly(count: int, total: int) -> torch.Tensor:
    """Indices of `count` out of `total` channels, evenly spread, (count,)."""
    return torch.arange(count) * total // count


@torch.no_grad()
def select_weights(student: CCLDUNet2DConditionModel, teacher: CCLDUNet2DConditionModel) -> None:
    """Begins a student of the teacher's depth with a selection of the teacher's weights.

    After "Initializing Models with Larger Ones" (Xu et al. 2024): of every tensor the evenly spread elements, which
    are the same channels wherever a channel is read or written. Beyond the paper, attention keeps whole heads, and
    weights are multiplied by √(inputs of the teacher / inputs of the student), so that sums of fewer terms are as
    large. What the teacher does not have, the input of a guidance scale, begins at zero.

    Args:
        student: The student; its weights are replaced.
        teacher: A network of as many levels and blocks.

    Raises:
        ValueError: If their depths differ.
    """
    theirs = teacher.state_dict()
    new = {"mapping.guidance.weight"} - theirs.keys()
    if student.state_dict().keys() - new != theirs.keys() - {"mapping.guidance.weight"} or any(
        theirs[name].shape[axis] < size
        for name, p in student.named_parameters()
        if name not in new
        for axis, size in enumerate(p.shape)
    ):
        raise ValueError("Weights can be selected from a teacher of the same layers, none of them narrower.")
    head_dims = (student.config.attention_head_dim, teacher.config.attention_head_dim)
    for name, parameter in student.named_parameters():
        if name in new:
            parameter.zero_()
            continue
        selected = theirs[name]
        fan_in = selected[0].numel()
        for axis, size in enumerate(parameter.shape):
            indices = evenly(size, selected.shape[axis])
            if _has_heads(name, axis):
                indices = _of_heads(size, selected.shape[axis], *head_dims)
            selected = selected.index_select(axis, indices.to(selected.device))
        if parameter.ndim > 1:
            selected = selected * (fan_in / selected[0].numel()) ** 0.5
        parameter.copy_(selected)


def _has_heads(name, axis):
    """Whether an axis of a tensor is made of attention heads."""
    is_projection = any(f".to_{letter}." in name for letter in "qkv")
    return (axis == 0 and is_projection) or (axis == 1 and ".to_out." in name)


def _of_heads(size, total, head_dim, total_head_dim):
    heads, channels = evenly(size // head_dim, total // total_head_dim), evenly(head_dim, total_head_dim)
    return (heads[:, None] * total_head_dim + channels).flatten()
