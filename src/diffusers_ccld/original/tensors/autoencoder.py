"""The autoencoders of latent-diffusion and taming-transformers: their kinds, sizes, and names of tensors.

After `ldm/models/autoencoder.py` and `ldm/modules/diffusionmodules/model.py` in CompVis/latent-diffusion, and
`taming/models/vqgan.py` and `taming/modules/vqvae/quantize.py` in CompVis/taming-transformers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from diffusers import AutoencoderKL, VQModel

from ...models.gumbel_vq import GumbelVQModel
from ..errors import CheckpointError, check_file
from .tables import Entry

# Left-overs of training in published files: perceptual loss and discriminator, averaged weights, a random projection
# that shows segmentations as colours.
IGNORED = r"(loss|model_ema)\..*|colorize"

# Prefix of the autoencoder's tensors in a larger model: a transformer of taming-transformers, or a diffusion model of
# latent-diffusion.
FIRST_STAGE = "first_stage_model."
A_NAME = "decoder.conv_in.weight"  # of a tensor that every autoencoder has

# Published ones have up to 6 and 2. The check of a conversion runs on a picture with sides of 2^(levels + 2) pixels.
MOST_LEVELS, MOST_BLOCKS = 8, 4

# Classes by their names in YAML files.
TARGETS = {
    "ldm.models.autoencoder.AutoencoderKL": AutoencoderKL,
    "ldm.models.autoencoder.VQModel": VQModel,
    "ldm.models.autoencoder.VQModelInterface": VQModel,
    "taming.models.vqgan.VQModel": VQModel,
    "taming.models.vqgan.GumbelVQ": GumbelVQModel,
}

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


CODES = {
    AutoencoderKL: (),
    VQModel: (Entry("quantize.embedding.weight", ("quantize.embedding.weight",)),),
    GumbelVQModel: (
        Entry("quantize.embed.weight", ("quantize.embedding.weight",)),
        Entry("quantize.proj.weight", ("quantize.proj.weight",)),
        Entry("quantize.proj.bias", ("quantize.proj.bias",)),
    ),
}


def autoencoder_table(kind: type, num_levels: int, layers_per_block: int) -> list[Entry]:
    """Entries of all tensors that an autoencoder of a kind can have, including optional shortcuts and attention."""
    entries = [*CODES[kind], *_pair("quant_conv", "quant_conv"), *_pair("post_quant_conv", "post_quant_conv")]
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


class Autoencoder(NamedTuple):
    """The kind and sizes of the autoencoder in a state dict.

    Attributes:
        kind: `AutoencoderKL`, `VQModel` or `GumbelVQModel`.
        config: Its arguments; `sample_size` and `scaling_factor` are not in the weights.
    """

    kind: type
    config: dict[str, Any]

    @property
    def table(self) -> list[Entry]:
        """The entries that convert its tensors."""
        config = self.config
        return autoencoder_table(self.kind, len(config["block_out_channels"]), config["layers_per_block"])


def latent_channels(config: Mapping[str, Any]) -> int:
    """Channels of an autoencoder's latents; of a VQ autoencoder, those of the latents before quantisation."""
    return config.get("vq_embed_dim") or config["latent_channels"]


def first_stage(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Extracts the autoencoder from a state dict that may be a larger model's, or have one prefix or several.

    Of raw and averaged weights the raw ones are taken, as by latent-diffusion itself, unless there are only averages.

    Returns:
        The autoencoder's state dict, and the names of the other tensors.
    """
    prefixes = [name.removesuffix(A_NAME) for name in state if name.endswith(A_NAME)]
    prefix = min(
        prefixes, key=lambda prefix: (prefix != FIRST_STAGE, "ema" in prefix.lower(), len(prefix)), default=""
    )
    inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inner, [name for name in state if not name.startswith(prefix)]


def infer_autoencoder(state: Mapping[str, torch.Tensor]) -> Autoencoder:
    """Infers an autoencoder's kind and arguments from the names and shapes of its tensors.

    Raises:
        CheckpointError: If a tensor that determines them is missing: the file is not an autoencoder, or
            diffusers does not have its kind.
    """

    def shape(name, ndim=4):
        if name not in state or state[name].ndim != ndim:
            raise CheckpointError(
                f"The file is not an autoencoder of latent-diffusion or taming-transformers: it lacks {name}."
            )
        return state[name].shape

    levels = _count(state, "encoder.down.{}.block.0.conv1.weight")
    blocks = _count(state, "encoder.down.0.block.{}.conv1.weight")
    if levels > MOST_LEVELS or blocks > MOST_BLOCKS:
        raise CheckpointError(f"The autoencoder has {levels} levels of {blocks} blocks, more than are supported.")
    widths = tuple(shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels))
    has_attention = [f"encoder.down.{level}.attn.0.q.weight" in state for level in range(levels)]
    z_channels, embed_dim = shape("post_quant_conv.weight")[:2]
    if any(".to_qkv." in name for name in state):
        raise CheckpointError(
            "The autoencoder has linear attention (attn_type: linear), which diffusers does not support."
        )
    if levels > 1 and "encoder.down.0.downsample.conv.weight" not in state:
        raise CheckpointError("The autoencoder resizes without convolutions (resamp_with_conv: false).")
    config = {
        "in_channels": shape("encoder.conv_in.weight")[1],
        "out_channels": shape("decoder.conv_out.weight")[0],
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "latent_channels": z_channels,
        "norm_num_groups": 32,
        "down_block_types": tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in has_attention),
        "up_block_types": tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(has_attention)),
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in state,
    }
    for kind, name in ((VQModel, "quantize.embedding.weight"), (GumbelVQModel, "quantize.embed.weight")):
        if name in state:
            num_codes, code_dim = shape(name, 2)
            if code_dim != embed_dim:
                raise CheckpointError(f"The autoencoder has codes of {code_dim} numbers, embeddings of {embed_dim}.")
            return Autoencoder(kind, {**config, "num_vq_embeddings": num_codes, "vq_embed_dim": embed_dim})
    if shape("quant_conv.weight")[0] != 2 * embed_dim:
        raise CheckpointError(
            "The autoencoder has neither the means and variances of a KL one nor the codes of a VQ one."
        )
    if embed_dim != z_channels:
        raise CheckpointError(
            f"The autoencoder has {z_channels} channels but embeddings of {embed_dim}; diffusers' AutoencoderKL has "
            f"one number for both."
        )
    return Autoencoder(AutoencoderKL, config)


def _count(state, pattern):
    n = 0
    while pattern.format(n) in state:
        n += 1
    if n == 0:
        raise CheckpointError(
            f"The file is not an autoencoder of latent-diffusion or taming-transformers: it lacks {pattern.format(0)}."
        )
    return n


class PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases, with which a short file can describe an endless one."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to parts of itself")
        return super().compose_node(parent, index)


def read_autoencoder_yaml(path: str | Path) -> tuple[type | None, dict[str, Any]]:
    """Reads the YAML file of an autoencoder, or of a transformer or diffusion model with a first stage.

    Returns:
        The kind of autoencoder, or `None` if the file does not state it, and its `params`.

    Raises:
        CheckpointError: If the file is missing, or does not describe an autoencoder.
    """
    path = check_file(path)
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not YAML. ({str(error).partition(chr(10))[0]})") from error
    model = config.get("model") if isinstance(config, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    if isinstance(params, dict) and isinstance(params.get("first_stage_config"), dict):
        model = params["first_stage_config"]
        params = model.get("params")
    if not isinstance(params, dict) or not isinstance(params.get("ddconfig"), dict):
        raise CheckpointError(f"{path}: the file does not describe an autoencoder; it lacks model.params.ddconfig.")
    target = model.get("target")
    if target is not None and (not isinstance(target, str) or target not in TARGETS):
        raise CheckpointError(f"{path}: the file describes a {str(target)[:80]}; supported are {', '.join(TARGETS)}.")
    return TARGETS.get(target), params


def check_against_yaml(
    autoencoder: Autoencoder, kind: type | None, params: Mapping[str, Any], path: str | Path
) -> None:
    """Compares the autoencoder inferred from the weights with the one that the YAML file describes.

    Raises:
        CheckpointError: If they differ: the two files do not belong together.
    """
    config, dd = autoencoder.config, params["ddconfig"]
    levels = len(config["block_out_channels"])
    has_codes = autoencoder.kind is not AutoencoderKL
    ours = {
        "kind": autoencoder.kind.__name__,
        "ch × ch_mult": list(config["block_out_channels"]),
        "num_res_blocks": config["layers_per_block"],
        "z_channels": config["latent_channels"],
        "embed_dim": config["vq_embed_dim"] if has_codes else config["latent_channels"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "attention by level": [block_type.startswith("Attn") for block_type in config["down_block_types"]],
        "attention in the middle": config["mid_block_add_attention"],
        "double_z": not has_codes,
        "resamp_with_conv": True,
        "n_embed": config["num_vq_embeddings"] if has_codes else None,
    }
    try:
        if not all(type(number) is int for number in (dd["ch"], dd["resolution"], *dd["ch_mult"])):
            raise TypeError("ch, ch_mult or resolution")
        attends = dd.get("attn_type", "vanilla") != "none"
        theirs = {
            "kind": (kind or autoencoder.kind).__name__,
            "ch × ch_mult": [dd["ch"] * m for m in dd["ch_mult"]],
            "num_res_blocks": dd["num_res_blocks"],
            "z_channels": dd["z_channels"],
            "embed_dim": params["embed_dim"],
            "in_channels": dd["in_channels"],
            "out_ch": dd["out_ch"],
            "attention by level": [
                attends and dd["resolution"] // 2**i in dd["attn_resolutions"] for i in range(levels)
            ],
            "attention in the middle": attends,
            "double_z": dd.get("double_z", True),
            "resamp_with_conv": dd.get("resamp_with_conv", True),
            "n_embed": params["n_embed"] if has_codes else None,
        }
        if not isinstance(dd["resolution"], int) or dd["resolution"] < 1:
            raise TypeError(f"resolution {dd['resolution']!r}")
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the file does not describe an autoencoder; {error} is wrong.") from error
    differences = [f"{key} is {theirs[key]} there and {ours[key]} here" for key in ours if ours[key] != theirs[key]]
    if differences:
        raise CheckpointError(f"{path}: the file does not belong to these weights: {'; '.join(differences)}.")
