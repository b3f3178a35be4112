"""Exports a diffusers folder to the original's files, for its scripts and notebooks."""

from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, AutoModel, ModelMixin

from ..models.gumbel_vq import GumbelVQModel
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..utils.errors import first_line
from ..utils.files import moved_into_place, write_text
from .errors import CheckpointError
from .tensors.autoencoder import TARGETS, Autoencoder
from .tensors.tables import to_original
from .tensors.unet import BLOCKS_PER_LEVEL, LEVEL_PREFIXES, SCALE_BUFFER, unet_table

# Values that the original's U-Net fixes.
FIXED = {
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": 64,
    "mapping_dim": 1024,
    "layers_per_block": BLOCKS_PER_LEVEL,
    "cross_attention_dim": 512,
    "time_cond_proj_dim": None,
}


def export(
    folder: str | Path,
    unet: str | Path | None = None,
    autoencoder: str | Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes the models of a pipeline's folder as files that the original reads.

    Args:
        folder: The pipeline's folder.
        unet: Path of the U-Net's file, a bare state dict with the autoencoder's scale.
        autoencoder: Path of the autoencoder's file, a checkpoint with a `state_dict`. Its YAML file gets the same name
            with the ending `.yaml`.
        overwrite: Allows existing files to be replaced.

    Returns:
        The files.

    Raises:
        CheckpointError: If a file exists, the folder lacks a model, or the original does not support it.
    """
    if unet is None and autoencoder is None:
        raise CheckpointError("Nothing to export: give --unet or --autoencoder.")
    paths = [Path(unet)] if unet is not None else []
    if autoencoder is not None:
        paths += [Path(autoencoder), Path(autoencoder).with_suffix(".yaml")]
    if len({path.resolve() for path in paths}) < len(paths):
        raise CheckpointError(f"The files need different names: {', '.join(map(str, paths))}.")
    existing = [str(path) for path in paths if path.exists()]
    if existing and not overwrite:
        raise CheckpointError(f"{', '.join(existing)} already exists; give another name.")
    vae = load(folder, "vae")  # the U-Net's file has its scale
    if not vae.config.scaling_factor > 0:
        raise CheckpointError(f"{folder}: the scaling_factor {vae.config.scaling_factor} is not positive.")
    contents: list[Any] = []
    if unet is not None:
        contents.append(unet_state(load(folder, "unet"), 1 / vae.config.scaling_factor))
    if autoencoder is not None:
        contents += [{"state_dict": autoencoder_state(vae)}, autoencoder_yaml(vae)]
    for path, content in zip(paths, contents):
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            write_text(path, content)
            continue
        with moved_into_place(path) as temporary:
            torch.save(content, temporary)
    return paths


def load(folder: str | Path, name: str) -> ModelMixin:
    """A model of a pipeline's folder, in float32.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    try:
        return AutoModel.from_pretrained(str(folder), subfolder=name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: the {name} cannot be loaded. ({first_line(error)})") from error


def unet_state(unet: ModelMixin, scale: float) -> dict[str, torch.Tensor]:
    """The U-Net's tensors under the original's names.

    Args:
        unet: The U-Net.
        scale: Factor that multiplies latents before decoding.

    Raises:
        CheckpointError: If the original does not support such a U-Net.
    """
    if not isinstance(unet, CCLDUNet2DConditionModel):
        raise CheckpointError(f"The original does not have {type(unet).__name__}.")
    config = dict(unet.config)
    depths = config["layers_per_block"]  # one number, or one for every level
    config["layers_per_block"] = depths[0] if not isinstance(depths, int) and len(set(depths)) == 1 else depths
    num_levels = len(config["block_out_channels"])
    wrong = [f"{name} is {config[name]}, not {value}" for name, value in FIXED.items() if config[name] != value]
    if num_levels != len(LEVEL_PREFIXES):
        wrong.append(f"it has {num_levels} levels, not {len(LEVEL_PREFIXES)}")
    if wrong:
        raise CheckpointError(f"The original does not support this U-Net: {'; '.join(wrong)}.")
    return {SCALE_BUFFER: torch.tensor(scale), **to_original(unet.state_dict(), unet_table())}


def autoencoder_state(vae: ModelMixin) -> dict[str, torch.Tensor]:
    """The autoencoder's tensors under the original's names.

    Raises:
        CheckpointError: If it is not one of latent-diffusion's or taming-transformers'.
    """
    if type(vae) not in TARGETS.values():
        raise CheckpointError(f"The original does not have {type(vae).__name__}.")
    state = vae.state_dict()
    converted = to_original(state, Autoencoder(type(vae), vae.config).table)
    if len(converted) != len(state) or "quant_conv.weight" not in converted:
        raise CheckpointError(
            "The original does not support this autoencoder: it lacks names for some of its tensors."
        )
    return converted


def autoencoder_yaml(vae: ModelMixin) -> str:
    """The YAML file from which the original builds the autoencoder.

    Raises:
        CheckpointError: If the file cannot describe it.
    """
    config = vae.config
    widths, has_codes = config.block_out_channels, not isinstance(vae, AutoencoderKL)
    if any(width % widths[0] for width in widths) or config.norm_num_groups != 32:
        raise CheckpointError("The original supports only widths that are multiples of the first, and 32 groups.")
    dd = {
        "double_z": not has_codes,
        "z_channels": config.latent_channels,
        "resolution": config.sample_size,
        "in_channels": config.in_channels,
        "out_ch": config.out_channels,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config.layers_per_block,
        "attn_resolutions": [
            config.sample_size // 2**level
            for level, block_type in enumerate(config.down_block_types)
            if block_type.startswith("Attn")
        ],
        "dropout": 0.0,
    }
    if not config.mid_block_add_attention:
        dd["attn_type"] = "none"
    params = {"embed_dim": config.vq_embed_dim if has_codes else config.latent_channels, "ddconfig": dd}
    if has_codes:
        params["n_embed"] = config.num_vq_embeddings
    # The training loss is not needed; it would download networks.
    params["lossconfig"] = {"target": "torch.nn.Identity"}
    if isinstance(vae, GumbelVQModel):
        params["temperature_scheduler_config"] = {"target": "torch.nn.Identity"}  # of training, too
    target = next(name for name, kind in TARGETS.items() if kind is type(vae))
    return yaml.safe_dump({"model": {"target": target, "params": params}}, sort_keys=False)
