"""Encodes images as latents and CLOOB embeddings; fingerprints of the networks that do so."""

import hashlib
import json
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, VQModel

from ..models.modeling_cloob import CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor

# Settings that do not change the function of a model.
CONFIG_ASIDE = {"scaling_factor", "force_upcast", "sample_size", "transformers_version", "dtype", "architectures"}


class EncodedImages(NamedTuple):
    """The encodings of N images.

    Attributes:
        latent_mean: Mean of the latents' posterior, (N, C, H, W), not scaled.
        latent_std: Its standard deviation, (N, C, H, W); zero for an autoencoder without a posterior.
        image_embeds: CLOOB embeddings, (N, D).
    """

    latent_mean: torch.Tensor
    latent_std: torch.Tensor
    image_embeds: torch.Tensor


@torch.no_grad()
def encode_latents(vae: AutoencoderKL | VQModel, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latents' posterior, not scaled, (N, C, H, W) each, float32.

    Args:
        vae: The autoencoder. Without a posterior, the deviation is zero.
        pictures: (N, 3, size, size) in [−1, 1], on its device.
    """
    encoded = vae.encode(pictures.to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
    mean = encoded.latents.float()
    return mean, torch.zeros_like(mean)


@torch.no_grad()
def encode_images(
    vae: AutoencoderKL | VQModel,
    image_encoder: CLOOBVisionModelWithProjection,
    feature_extractor: CLOOBImageProcessor,
    pixel_values: torch.Tensor,
) -> EncodedImages:
    """Encodes training images, after `train_latent_diffusion.py` of JD-P/cloob-latent-diffusion.

    Args:
        vae: The autoencoder.
        image_encoder: CLOOB's image encoder.
        feature_extractor: Its image processor.
        pixel_values: (N, 3, size, size), uint8, on the models' device.
    """
    pixels = pixel_values.float() / 255
    mean, std = encode_latents(vae, pixels * 2 - 1)
    embeds = image_encoder(feature_extractor.preprocess_training_images(pixels).to(image_encoder.dtype)).image_embeds
    return EncodedImages(mean, std, embeds.float())


def model_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a model's class, configuration and weights."""
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)
    config = {key: value for key, value in config.items() if key not in CONFIG_ASIDE and not key.startswith("_")}
    digest = hashlib.sha256(json.dumps([type(model).__name__, config], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
