"""Loads a converted folder and runs it once."""

from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image

from ..modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..unet_ccld import CCLDUNet2DConditionModel
from .reading import CheckpointError


@torch.no_grad()
def check_conversion(folder: Path, components: Collection[str]) -> dict[str, str]:
    """Loads what was written and runs it once: the whole pipeline if it is there, else each model.

    Raises:
        CheckpointError: If something comes out that is not finite.
    """
    results = {}
    inputs = {
        "unet": (CCLDUNet2DConditionModel, _run_unet),
        "vae": (AutoencoderKL, _run_vae),
        "text_encoder": (CLOOBTextModelWithProjection, _run_text_encoder),
        "image_encoder": (CLOOBVisionModelWithProjection, _run_image_encoder),
    }
    is_pipeline = (folder / "model_index.json").exists()
    if is_pipeline:
        pipe = DiffusionPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        models = {name: getattr(pipe, name) for name in inputs}
    for name, (model_class, run) in inputs.items():
        if name not in components:
            continue
        model = models[name] if is_pipeline else model_class.from_pretrained(folder / name)
        _require_finite(name, run(model.float()))
        results[name] = "loaded and run"
    if is_pipeline:
        size = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
        conditions = [("a check", 1.0), (Image.new("RGB", (64, 64)), 1.0)]
        pixels = pipe(conditions=conditions, height=size, width=size, num_inference_steps=1, output_type="pt").images
        _require_finite("pipeline", pixels)
        results["pipeline"] = "loaded and run"
    return results


def _require_finite(name, tensor):
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"The converted {name} gives values that are not finite; the source file is damaged.")


def _run_unet(unet):
    config = unet.config
    return unet(torch.zeros(1, config.in_channels, 8, 8), 499, torch.zeros(1, config.cross_attention_dim)).sample


def _run_vae(vae):
    size = 2 ** (len(vae.config.block_out_channels) + 2)
    latents = vae.encode(torch.zeros(1, vae.config.in_channels, size, size)).latent_dist.mode()
    return vae.decode(latents).sample


def _run_text_encoder(text_encoder):
    return text_encoder(torch.zeros(1, text_encoder.config.max_position_embeddings, dtype=torch.long)).text_embeds


def _run_image_encoder(image_encoder):
    size = image_encoder.config.image_size
    return image_encoder(torch.zeros(1, image_encoder.config.num_channels, size, size)).image_embeds
