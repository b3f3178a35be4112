"""Named weights of any file: PyTorch's or safetensors, whatever wraps them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ...utils.errors import first_line
from ..errors import CheckpointError, check_file
from .checkpoints import read_checkpoint, state_dict_of
from .kinds import is_safetensors

# Parts of names that wrappers put in: `torch.compile`, and data-parallel and averaged models.
WRAPPERS = {"_orig_mod", "module"}
# Parts of names, and what a file with such names holds.
FAMILIAR = (
    ("model.diffusion_model.", "it holds a model of Stable Diffusion or latent-diffusion, another network"),
    ("down_blocks.0.resnets.", "it is in diffusers' format already: load its folder with from_pretrained"),
    ("encoder.down_blocks.", "it is an autoencoder in diffusers' format: load its folder with from_pretrained"),
    ("text_model.", "it is a text encoder in transformers' format: load its folder with from_pretrained"),
    ("mapping_timestep_embed", "it holds a U-Net of CCLD"),
    ("decoder.conv_in.", "it holds an autoencoder"),
    ("image_encoder", "it holds a CLOOB"),
    ("lora", "it holds a LoRA; load it with pipe.load_lora_weights"),
)
COUNTERS = {"n_averaged", "initted", "step", "num_updates", "decay"}  # numbers of averaged models beside the weights


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads the tensors of a file by name.

    State dicts one level down keep their key as a prefix, except under "state_dict". Wrappers are taken off the names.

    Args:
        path: A PyTorch or a safetensors file.

    Returns:
        The tensors, and the file's other entries.

    Raises:
        CheckpointError: If the file cannot be read, or has no tensors by name.
    """
    path = check_file(path)
    content = read_safetensors(path) if is_safetensors(path) else read_checkpoint(path)
    found, others = {}, {}
    for key, value in content.items():
        if key == "state_dict" or _is_state_dict(value):
            prefix = "" if key == "state_dict" else f"{key}."
            found |= {f"{prefix}{name}": tensor for name, tensor in state_dict_of(value, path).items()}
        elif isinstance(value, torch.Tensor) and "state_dict" not in content:
            found[key] = value
        else:
            others[str(key)] = value
    if not found:
        raise CheckpointError(f"{path} has no weights by name.{_advice(others)}")
    return unwrapped(state_dict_of(found, path), path), others


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, mapped into memory.

    Raises:
        CheckpointError: If it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the safetensors file is truncated or damaged. ({first_line(error)})"
        ) from error


def what_else(state: Mapping[str, torch.Tensor]) -> str:
    """What a file holds in place of what was looked for, as the end of a sentence; empty if that is unknown."""
    for part, what in FAMILIAR:
        if any(part in name for name in state):
            return f"; {what}"
    return f"; its first tensors are {', '.join(sorted(state)[:3])}"


def _is_state_dict(value):
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _advice(others):
    if "shadow_params" in others:
        return " Its averaged weights (shadow_params) have no names: save the averaged model's state_dict() instead."
    return ""


def unwrapped(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Takes wrappers off the names, and leaves out the counters of averaged models.

    Raises:
        CheckpointError: If two names become one.
    """
    short_names: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if short.rpartition(".")[2] in COUNTERS and tensor.numel() == 1:
            continue
        if short in short_names:
            raise CheckpointError(f"{path} has {short} twice, once inside a wrapper; keep one of the two.")
        short_names[short] = tensor
    return short_names
