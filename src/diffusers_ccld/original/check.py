"""Loads a converted folder and runs it once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoModel
from PIL import Image

from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..utils.errors import first_line
from .errors import CheckpointError
from .tensors.autoencoder import latent_channels


@torch.no_grad()
def check_conversion(folder: Path) -> dict[str, str]:
    """Loads and runs every model of a folder, and the whole pipeline if the folder holds one.

    Returns:
        The result for each model, by name.

    Raises:
        CheckpointError: If an output is not finite, or the models do not fit together.
    """
    results = {}
    pipe = None
    if (folder / "model_index.json").exists():
        pipe = CCLDPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
    for name, (model_class, run) in RUNS.items():
        if not (folder / name).is_dir():
            continue
        model = getattr(pipe, name) if pipe is not None else model_class.from_pretrained(str(folder / name))
        try:
            _require_finite(name, run(model.float()))
        except RuntimeError as error:
            raise CheckpointError(f"The converted {name} cannot be run: {first_line(error)}") from error
        results[name] = "loaded and run"
    if pipe is not None:
        check_widths({name: getattr(pipe, name).config for name in ("unet", "vae", "text_encoder")})
        conditions = [("a check", 1.0), (Image.new("RGB", (64, 64)), 1.0)]
        size = pipe.size_multiple
        pixels = pipe(conditions=conditions, height=size, width=size, num_inference_steps=1, output_type="pt").images
        _require_finite("pipeline", pixels)
        results["pipeline"] = "loaded and run"
    return results


def check_widths(configs: Mapping[str, Any]) -> None:
    """Checks that a U-Net fits the CLOOB and the autoencoder of its pipeline.

    Args:
        configs: Configurations of "unet", "text_encoder" and "vae"; any may be missing.

    Raises:
        CheckpointError: If the widths of the embeddings or the channels of the latents differ.
    """
    if "unet" in configs and "text_encoder" in configs:
        expected, found = configs["unet"].cross_attention_dim, configs["text_encoder"].projection_dim
        if expected != found:
            raise CheckpointError(f"The U-Net needs embeddings of width {expected}; the CLOOB's have width {found}.")
    if "unet" in configs and "vae" in configs:
        expected, found = configs["unet"].in_channels, latent_channels(configs["vae"])
        if expected != found:
            raise CheckpointError(f"The U-Net needs latents of {expected} channels; the autoencoder's have {found}.")


def _require_finite(name, tensor):
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"The converted {name} returns values that are not finite; the source file is damaged.")


def _run_unet(unet):
    config = unet.config
    return unet(torch.zeros(1, config.in_channels, 8, 8), 499, torch.zeros(1, config.cross_attention_dim)).sample


def _run_vae(vae):
    size = 2 ** (len(vae.config.block_out_channels) + 2)
    encoded = vae.encode(torch.zeros(1, vae.config.in_channels, size, size))
    return vae.decode(encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents).sample


def _run_text_encoder(text_encoder):
    return text_encoder(torch.zeros(1, text_encoder.config.max_position_embeddings, dtype=torch.long)).text_embeds


def _run_image_encoder(image_encoder):
    size = image_encoder.config.image_size
    return image_encoder(torch.zeros(1, image_encoder.config.num_channels, size, size)).image_embeds


RUNS = {
    "unet": (CCLDUNet2DConditionModel, _run_unet),
    "vae": (AutoModel, _run_vae),
    "text_encoder": (CLOOBTextModelWithProjection, _run_text_encoder),
    "image_encoder": (CLOOBVisionModelWithProjection, _run_image_encoder),
}
