"""Runs the U-Net and the decoder of a loaded pipeline with onnxruntime on the CPU, for every task."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..models.prediction import is_guidance_distilled
from ..pipelines.pipeline_ccld import CCLDPipeline
from .manifest import ExportError, Manifest
from .networks import Networks


def run_by_onnxruntime(pipe: CCLDPipeline, folder: str | Path) -> None:
    """Makes a pipeline compute its U-Net and its decoder with onnxruntime, in place.

    Pictures stay the same up to rounding. The pipeline must not be trained afterwards.

    Args:
        pipe: A pipeline in float32 on the CPU.
        folder: The folder of its ONNX files.

    Raises:
        ExportError: If the files cannot be used, or belong to another pipeline.
        ValueError: If the U-Net is guidance-distilled. A pipeline passes it an embedding of the guidance scale, but
            the exported network takes the scale itself.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    is_alike = (
        manifest.latent_channels == pipe.unet.config.in_channels
        and manifest.embedding_dim == pipe.unet.config.cross_attention_dim
        and manifest.scaling_factor == pipe.vae.config.scaling_factor
    )
    if not is_alike:
        raise ExportError(f"{folder} was exported from another pipeline.")
    if is_guidance_distilled(pipe.unet):
        raise ValueError("onnxruntime runs guidance-distilled networks only in `ccld sample`; use torch here.")
    networks = Networks(folder, manifest)
    pipe.unet.forward = _unet(networks)
    pipe.vae.decode = _decoder(networks, manifest.scaling_factor)


def _unet(networks: Networks) -> Callable[..., tuple[torch.Tensor]]:
    def forward(sample, timestep, encoder_hidden_states, return_dict=False):
        timesteps = torch.as_tensor(timestep, dtype=torch.float32).expand(len(sample))
        inputs = {"sample": sample, "timestep": timesteps, "condition": encoder_hidden_states.flatten(1)}
        return (
            torch.from_numpy(networks("unet", **{name: value.contiguous().numpy() for name, value in inputs.items()})),
        )

    return forward


def _decoder(networks: Networks, scaling_factor: float) -> Callable[..., tuple[torch.Tensor]]:
    def decode(latents, return_dict=False):
        return (torch.from_numpy(networks("decoder", latents=(latents * scaling_factor).contiguous().numpy())),)

    return decode
