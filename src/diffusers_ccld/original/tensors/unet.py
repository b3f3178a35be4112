"""The original's U-Net: finding it in a file, inferring its size, and the table of its tensors' names.

After `train_latent_diffusion.py::DiffusionModel` in JD-P/cloob-latent-diffusion.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ...models.unet_ccld import INPUT_TIME_FEATURES, MAPPING_TIME_FEATURES
from ..errors import CheckpointError
from .tables import Entry

# Levels are nested. Each prefix is that of the numbered layers of one level.
LEVEL_PREFIXES = ("net.", "net.4.main.", "net.4.main.9.main.", "net.4.main.9.main.9.main.")
BLOCKS_PER_LEVEL = 4
SCALE_BUFFER = "autoencoder_scale"
FIRST_LAYER = "net.0.main.0.weight"
OTHER_PARTS = ("ae_model.", "cloob.", "scale_factor")  # of a training checkpoint, beside its U-Nets
A_NAME = "mapping_timestep_embed.weight"  # of a tensor that every U-Net of CCLD has, and nothing else
TRAINING_SCALE = "scale_factor"  # the same value under another name, in training checkpoints


def unet_table() -> list[Entry]:
    """Entries of all tensors that a U-Net can have, including skip convolutions, which only some blocks have."""
    entries = [
        Entry("mapping_timestep_embed.weight", ("mapping.fourier.weight",)),
        Entry("timestep_embed.weight", ("fourier.weight",)),
    ]
    for theirs, ours in (("mapping.0.", "mapping.block1."), ("mapping.1.", "mapping.block2.")):
        for original, name in (
            ("main.0.weight", "linear1.weight"),
            ("main.0.bias", "linear1.bias"),
            ("main.2.weight", "linear2.weight"),
            ("main.2.bias", "linear2.bias"),
            ("skip.weight", "skip.weight"),
        ):
            entries.append(Entry(theirs + original, (ours + name,)))
    deepest = len(LEVEL_PREFIXES) - 1
    for level, prefix in enumerate(LEVEL_PREFIXES):
        # Level 0 is its blocks around level 1; the others begin with a pooling layer and alternate with attention.
        stride = 1 if level == 0 else 2
        first_down = 0 if level == 0 else 1
        first_up = first_down + stride * BLOCKS_PER_LEVEL + (1 if level < deepest else 0)
        for first, side in ((first_down, f"down_blocks.{level}"), (first_up, f"up_blocks.{deepest - level}")):
            for i in range(BLOCKS_PER_LEVEL):
                index = first + stride * i
                entries += _residual_block(f"{prefix}{index}.", f"{side}.resnets.{i}.")
                if level > 0:
                    entries += _attention(f"{prefix}{index + 1}.", f"{side}.attentions.{i}.")
    return entries


def _residual_block(theirs, ours):
    return [
        Entry(theirs + original, (ours + name,))
        for original, name in (
            ("main.0.weight", "conv1.weight"),
            ("main.0.bias", "conv1.bias"),
            ("main.2.layer.weight", "modulation1.proj.weight"),
            ("main.4.weight", "conv2.weight"),
            ("main.4.bias", "conv2.bias"),
            ("main.6.layer.weight", "modulation2.proj.weight"),
            ("skip.weight", "skip.weight"),
        )
    ]


def _attention(theirs, ours):
    heads = ("to_q", "to_k", "to_v")
    return [
        Entry(f"{theirs}norm.weight", (f"{ours}group_norm.weight",)),
        Entry(f"{theirs}norm.bias", (f"{ours}group_norm.bias",)),
        Entry(f"{theirs}qkv_proj.weight", tuple(f"{ours}{head}.weight" for head in heads), "conv1x1"),
        Entry(f"{theirs}qkv_proj.bias", tuple(f"{ours}{head}.bias" for head in heads)),
        Entry(f"{theirs}out_proj.weight", (f"{ours}to_out.0.weight",), "conv1x1"),
        Entry(f"{theirs}out_proj.bias", (f"{ours}to_out.0.bias",)),
    ]


def unet_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Infers the arguments of `CCLDUNet2DConditionModel` from a U-Net's shapes.

    Raises:
        CheckpointError: If the state dict is not a U-Net of CCLD: a tensor that determines the size is missing.
    """
    firsts = [f"{prefix}{0 if level == 0 else 1}.main.0.weight" for level, prefix in enumerate(LEVEL_PREFIXES)]
    needed = [*firsts, "net.8.main.4.weight", "mapping.0.main.0.weight"]
    for name in needed:
        if name not in state or state[name].ndim != (2 if "mapping" in name else 4):
            raise CheckpointError(f"The file is not a U-Net of CCLD: it lacks {name}.")
    mapping_dim, mapping_in = state["mapping.0.main.0.weight"].shape
    if state[firsts[0]].shape[1] <= INPUT_TIME_FEATURES or mapping_in <= MAPPING_TIME_FEATURES:
        raise CheckpointError(
            "The file is not a U-Net of CCLD: its first layers are too narrow for latents or embeddings."
        )
    return {
        "sample_size": 32,
        "in_channels": state[firsts[0]].shape[1] - INPUT_TIME_FEATURES,
        "out_channels": state["net.8.main.4.weight"].shape[0],
        "block_out_channels": tuple(state[name].shape[0] for name in firsts),
        "cross_attention_dim": mapping_in - MAPPING_TIME_FEATURES,
        "mapping_dim": mapping_dim,
    }


def canonical_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gives the U-Nets in a file the prefixes of a training checkpoint, whatever they had.

    Args:
        state: All tensors of a file.

    Returns:
        The same tensors. A U-Net that is alone in the file has no prefix, if it is not an average. Otherwise "model."
        is that of the raw weights, "model_ema." that of the average.

    Raises:
        CheckpointError: If there are several raw U-Nets, or several averages.
    """
    prefixes = [name.removesuffix(A_NAME) for name in state if name.endswith(A_NAME)]
    averaged = [prefix for prefix in prefixes if "ema" in prefix.lower() or "average" in prefix.lower()]
    raw = [prefix for prefix in prefixes if prefix not in averaged]
    for several in (raw, averaged):
        if len(several) > 1:
            raise CheckpointError(f"The file has several U-Nets, {' and '.join(p or 'one bare' for p in several)}.")
    if raw and not averaged and all(name.startswith(raw[0]) for name in state):
        return {name.removeprefix(raw[0]): tensor for name, tensor in state.items()}
    canonical = dict.fromkeys(raw, "model.") | dict.fromkeys(averaged, "model_ema.")
    longest_first = sorted(canonical, key=len, reverse=True)
    renamed = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in longest_first if prefix and name.startswith(prefix)), "")
        is_own = "" in canonical and prefix == "" and not name.startswith(OTHER_PARTS)
        new = canonical[prefix] + name.removeprefix(prefix) if prefix or is_own else name
        renamed[new] = tensor
    return renamed


def split_training_checkpoint(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Sorts the state dict of a Lightning training checkpoint by component.

    Returns:
        State dicts "model" (raw U-Net), "model_ema" (its EMA), "ae_model" and "cloob"; missing ones are left out.

    Raises:
        CheckpointError: If a tensor belongs to none of them.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        component, _, rest = name.partition(".")
        if component in ("model", "model_ema", "ae_model", "cloob") and rest:
            parts.setdefault(component, {})[rest] = tensor
        elif name != TRAINING_SCALE:
            raise CheckpointError(f"The training checkpoint has an unexpected entry, {name}.")
    return parts
