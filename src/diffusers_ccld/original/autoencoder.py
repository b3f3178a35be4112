"""The original's KL autoencoder: how its size is read off, and what its tensors are called in diffusers.

After `ldm/models/autoencoder.py` and `ldm/modules/diffusionmodules/model.py` in CompVis/latent-diffusion.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from .reading import CheckpointError, check_file
from .tables import Entry

# The perceptual loss and the discriminator of training, which every published file still holds.
IGNORED = r"loss\..*"

ATTENTION = (
    ("norm.weight", "group_norm.weight", "same"),
    ("norm.bias", "group_norm.bias", "same"),
    ("q.weight", "to_q.weight", "conv1x1"),
    ("q.bias", "to_q.bias", "same"),
    ("k.weight", "to_k.weight", "conv1x1"),
    ("k.bias", "to_k.bias", "same"),
    ("v.weight", "to_v.weight", "conv1x1"),
    ("v.bias", "to_v.bias", "same"),
    ("proj_out.weight", "to_out.0.weight", "conv1x1"),
    ("proj_out.bias", "to_out.0.bias", "same"),
)
RESIDUAL_BLOCK = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
)


def autoencoder_table(num_levels: int, layers_per_block: int) -> list[Entry]:
    """All tensors that an autoencoder can have, shortcuts and attention that only some have included."""
    entries = [*_pair("quant_conv", "quant_conv"), *_pair("post_quant_conv", "post_quant_conv")]
    for side in ("encoder", "decoder"):
        for theirs, ours in (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")):
            entries += _pair(f"{side}.{theirs}", f"{side}.{ours}")
        for i in (0, 1):
            entries += _residual_block(f"{side}.mid.block_{i + 1}", f"{side}.mid_block.resnets.{i}")
        entries += _attention(f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0")
    for level in range(num_levels):
        # The original numbers the decoder's levels by resolution, diffusers in the order in which they run.
        for theirs, ours, num_blocks in (
            (f"encoder.down.{level}", f"encoder.down_blocks.{level}", layers_per_block),
            (f"decoder.up.{level}", f"decoder.up_blocks.{num_levels - 1 - level}", layers_per_block + 1),
        ):
            for i in range(num_blocks):
                entries += _residual_block(f"{theirs}.block.{i}", f"{ours}.resnets.{i}")
                entries += _attention(f"{theirs}.attn.{i}", f"{ours}.attentions.{i}")
        entries += _pair(f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv")
        entries += _pair(
            f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{num_levels - 1 - level}.upsamplers.0.conv"
        )
    return entries


def _pair(theirs, ours):
    return [Entry(f"{theirs}.{leaf}", (f"{ours}.{leaf}",)) for leaf in ("weight", "bias")]


def _residual_block(theirs, ours):
    return [entry for t, o in RESIDUAL_BLOCK for entry in _pair(f"{theirs}.{t}", f"{ours}.{o}")]


def _attention(theirs, ours):
    return [Entry(f"{theirs}.{t}", (f"{ours}.{o}",), layout) for t, o, layout in ATTENTION]


def infer_autoencoder_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Reads the arguments of `AutoencoderKL` off the shapes; `sample_size` and `scaling_factor` are not in them.

    Raises:
        CheckpointError: If a tensor that tells the size is missing, so that this is no KL autoencoder.
    """

    def shape(name):
        if name not in state or state[name].ndim != 4:
            raise CheckpointError(f"The file is no KL autoencoder of latent-diffusion: it lacks {name}.")
        return state[name].shape

    levels = _count(state, "encoder.down.{}.block.0.conv1.weight")
    widths = tuple(shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels))
    embed_dim, z_channels = shape("post_quant_conv.weight")[1], shape("post_quant_conv.weight")[0]
    if shape("quant_conv.weight")[0] != 2 * embed_dim or embed_dim != z_channels:
        raise CheckpointError(
            f"The autoencoder has {z_channels} channels but embeddings of {embed_dim}; diffusers' AutoencoderKL has "
            f"one number for both."
        )
    has_attention = [f"encoder.down.{level}.attn.0.q.weight" in state for level in range(levels)]
    return {
        "in_channels": shape("encoder.conv_in.weight")[1],
        "out_channels": shape("decoder.conv_out.weight")[0],
        "block_out_channels": widths,
        "layers_per_block": _count(state, "encoder.down.0.block.{}.conv1.weight"),
        "latent_channels": z_channels,
        "norm_num_groups": 32,
        "down_block_types": tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in has_attention),
        "up_block_types": tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(has_attention)),
    }


def _count(state, pattern):
    n = 0
    while pattern.format(n) in state:
        n += 1
    if n == 0:
        raise CheckpointError(f"The file is no KL autoencoder of latent-diffusion: it lacks {pattern.format(0)}.")
    return n


def read_autoencoder_yaml(path: str | Path) -> dict[str, Any]:
    """The `model.params` of an autoencoder's YAML file.

    Raises:
        CheckpointError: If the file is missing, or describes no KL autoencoder.
    """
    path = check_file(path)
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: no YAML. ({str(error).partition(chr(10))[0]})") from error
    model = config.get("model") if isinstance(config, dict) else None
    target = model.get("target", "") if isinstance(model, dict) else ""
    params = model.get("params") if isinstance(model, dict) else None
    if not isinstance(params, dict) or not isinstance(params.get("ddconfig"), dict):
        raise CheckpointError(f"{path}: the file describes no autoencoder; it has no model.params.ddconfig.")
    if target and target != "ldm.models.autoencoder.AutoencoderKL":
        raise CheckpointError(f"{path}: the file describes a {target}, not an ldm.models.autoencoder.AutoencoderKL.")
    return params


def check_against_yaml(config: Mapping[str, Any], params: Mapping[str, Any], path: str | Path) -> None:
    """Compares what the weights and what the YAML file say.

    Raises:
        CheckpointError: If they disagree, so that the two files do not belong together.
    """
    dd = params["ddconfig"]
    levels = len(config["block_out_channels"])
    has_attention = [block_type.startswith("Attn") for block_type in config["down_block_types"]]
    ours = {
        "ch × ch_mult": list(config["block_out_channels"]),
        "num_res_blocks": config["layers_per_block"],
        "z_channels": config["latent_channels"],
        "embed_dim": config["latent_channels"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "attention by level": has_attention,
        "double_z": True,
        "resamp_with_conv": True,
    }
    try:
        theirs = {
            "ch × ch_mult": [dd["ch"] * m for m in dd["ch_mult"]],
            "num_res_blocks": dd["num_res_blocks"],
            "z_channels": dd["z_channels"],
            "embed_dim": params["embed_dim"],
            "in_channels": dd["in_channels"],
            "out_ch": dd["out_ch"],
            "attention by level": [dd["resolution"] // 2**i in dd["attn_resolutions"] for i in range(levels)],
            "double_z": dd["double_z"],
            "resamp_with_conv": dd.get("resamp_with_conv", True),
        }
        if not isinstance(dd["resolution"], int) or dd["resolution"] < 1:
            raise TypeError(f"resolution {dd['resolution']!r}")
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the file describes no autoencoder; {error} is wrong.") from error
    differences = [f"{key} is {theirs[key]} there and {ours[key]} here" for key in ours if ours[key] != theirs[key]]
    if differences:
        raise CheckpointError(f"{path}: the file does not belong to these weights: {'; '.join(differences)}.")
