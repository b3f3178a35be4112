"""Smaller versions of a teacher's network: their shapes and their initial weights."""

from typing import Any

import torch

from ..models.unet_ccld import CCLDUNet2DConditionModel

# Number of equal steps from the teacher's widths down to nothing.
WIDTH_STEPS = 512
GUIDANCE_WEIGHT = "mapping.guidance.weight"
MAPPING_MULTIPLE = 16


def count_parameters(settings: dict[str, Any]) -> int:
    """Number of parameters of a CCLD U-Net with a configuration; it allocates nothing.

    Raises:
        ValueError: If the configuration is invalid.
    """
    with torch.device("meta"):
        return CCLDUNet2DConditionModel(**settings).num_parameters()


def narrowed(settings: dict[str, Any], max_parameters: int) -> dict[str, Any]:
    """Configuration of the widest network with a teacher's proportions within a budget.

    Args:
        settings: Configuration of a CCLD U-Net; widths stay multiples of its `attention_head_dim`.
        max_parameters: The budget, fewer parameters than the teacher has.

    Raises:
        ValueError: If even the narrowest network is too large, or the teacher is small enough already.
    """
    head_dim, tried = settings["attention_head_dim"], []
    if count_parameters(settings) <= max_parameters:
        raise ValueError(f"A student of {max_parameters:,} parameters would not be smaller than its teacher.")
    for step in range(WIDTH_STEPS, 0, -1):
        share = step / WIDTH_STEPS
        widths = [max(int(share * width / head_dim), 1) * head_dim for width in settings["block_out_channels"]]
        mapping_dim = max(int(share * settings["mapping_dim"] / MAPPING_MULTIPLE), 1) * MAPPING_MULTIPLE
        candidate = settings | {"block_out_channels": widths, "mapping_dim": mapping_dim}
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
    """Initialises a student of the teacher's depth with a selection of the teacher's weights.

    After "Initializing Models with Larger Ones" (Xu et al. 2024): every tensor keeps evenly spread elements, so the
    same channels are selected wherever they are read or written. Beyond the paper, attention keeps whole heads, and
    weights are multiplied by √(inputs of the teacher / inputs of the student), so that sums of fewer terms are as
    large. The input for the guidance scale starts at zero if the teacher has none.

    Args:
        student: The student; its weights are replaced.
        teacher: A network with equally many levels and blocks.

    Raises:
        ValueError: If their depths differ, or a tensor of the student is larger.
    """
    theirs = teacher.state_dict()
    is_same_input = student.config.time_cond_proj_dim == teacher.config.time_cond_proj_dim
    selectable = {n: p for n, p in student.named_parameters() if is_same_input or n != GUIDANCE_WEIGHT}
    has_same_layers = student.state_dict().keys() - {GUIDANCE_WEIGHT} == theirs.keys() - {GUIDANCE_WEIGHT}
    if not has_same_layers or any(
        size > theirs[name].shape[axis] for name, p in selectable.items() for axis, size in enumerate(p.shape)
    ):
        raise ValueError("Weights can be selected from a teacher of the same layers, none of them narrower.")
    head_dims = (student.config.attention_head_dim, teacher.config.attention_head_dim)
    both_widths = zip(student.config.block_out_channels, teacher.config.block_out_channels)
    if head_dims[0] > head_dims[1] or any(w // head_dims[0] > t // head_dims[1] for w, t in both_widths):
        raise ValueError(
            "Whole heads can be selected from a teacher with as many in each level, none of them narrower."
        )
    for name, parameter in student.named_parameters():
        if name not in selectable:
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


def _has_heads(name: str, axis: int) -> bool:
    """True if an axis of a tensor consists of attention heads."""
    is_projection = any(f".to_{letter}." in name for letter in "qkv")
    return (axis == 0 and is_projection) or (axis == 1 and ".to_out." in name)


def _of_heads(size: int, total: int, head_dim: int, total_head_dim: int) -> torch.Tensor:
    """Indices of `size` out of `total` channels: evenly spread heads, and evenly spread channels of each."""
    heads, channels = evenly(size // head_dim, total // total_head_dim), evenly(head_dim, total_head_dim)
    return (heads[:, None] * total_head_dim + channels).flatten()
