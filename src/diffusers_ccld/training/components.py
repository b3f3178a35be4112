"""Loads the parts of a pipeline for training, or makes them from a configuration."""

import inspect
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, AutoModel, ModelMixin
from torch import nn

from ..inference.loading import default_model, hub_options
from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..utils.errors import first_line
from ..utils.suggestions import path_suggestion

if TYPE_CHECKING:
    from peft import LoraConfig


def network_settings(unet: nn.Module) -> dict[str, Any]:
    """The configuration of a diffusers network, without the entries that diffusers adds."""
    return {key: value for key, value in unet.config.items() if not key.startswith("_")}


LORA_MODULES = ["to_q", "to_k", "to_v", "to_out.0", "proj", "conv1", "conv2", "linear1", "linear2"]


IMAGE_COMPONENTS = ("vae", "image_encoder", "feature_extractor")
TEXT_COMPONENTS = ("text_encoder", "tokenizer")
UNET_COMPONENTS = ("unet", "scheduler")


def source_of(model: str) -> str:
    """The source of a model for `from_pretrained`: a folder or a name on the Hub; "default" is the bundled model."""
    return default_model() if model == "default" else model


def load_components(model: str, names: Iterable[str]) -> dict[str, Any]:
    """Loads components of a pipeline in float32, by name; all but the U-Net are frozen.

    Args:
        model: A folder, a name on the Hub, or "default"; it may lack all other components.
        names: Names of the components.

    Raises:
        ValueError: If the model or one of them is missing.
    """
    loaders = {
        "vae": AutoModel.from_pretrained,
        "unet": AutoModel.from_pretrained,
        "scheduler": CCLDScheduler.from_pretrained,
        "tokenizer": CLOOBTokenizer.from_pretrained,
        "feature_extractor": CLOOBImageProcessor.from_pretrained,
        # diffusers always loads in float32, transformers only on request.
        "text_encoder": partial(CLOOBTextModelWithProjection.from_pretrained, dtype=torch.float32),
        "image_encoder": partial(CLOOBVisionModelWithProjection.from_pretrained, dtype=torch.float32),
    }
    source, components = source_of(model), {}
    options = hub_options(source)
    for name in names:
        try:
            components[name] = loaders[name](source, subfolder=name, **options)
        except OSError as error:
            raise ValueError(f"{model}: the {name} cannot be loaded. ({first_line(error)})") from error
        if name == "unet":
            components[name].train()
        elif isinstance(components[name], torch.nn.Module):
            components[name].requires_grad_(False).eval()
    return components


def load_defaults(model: str) -> dict[str, float | None]:
    """The guidance scale and the variation that a pipeline records as its own, as arguments of its constructor.

    Args:
        model: A folder or a name on the Hub; nothing is recorded in a folder that only has parts of a pipeline.
    """
    source = source_of(model)
    try:
        config = CCLDPipeline.load_config(source, **hub_options(source))
    except OSError:
        return {}
    return {name: config.get(name) for name in ("default_guidance_scale", "default_variation")}


def load_autoencoder(model: str) -> AutoencoderKL:
    """Loads the autoencoder of a pipeline in float32.

    Raises:
        ValueError: If it is missing, or is not an AutoencoderKL.
    """
    vae = load_components(model, ["vae"])["vae"]
    if not isinstance(vae, AutoencoderKL):
        raise ValueError(f"--model {model}: its autoencoder is a {type(vae).__name__}; only AutoencoderKL is trained.")
    return vae


def read_json(path: str) -> dict[str, Any]:
    """Reads a configuration from a JSON file.

    Raises:
        ValueError: If the file is missing, or has no configuration.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist.{path_suggestion(path)}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file. ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} has no configuration.")
    return config


def make_from_json(model_class: type[ModelMixin], path: str) -> ModelMixin:
    """Makes a new diffusers network with the configuration of a JSON file.

    Raises:
        ValueError: If the file is missing, or does not describe such a network.
    """
    config = read_json(path)
    known = inspect.signature(model_class).parameters
    unknown = [key for key in config if key not in known and not key.startswith("_")]
    if unknown:
        raise ValueError(f"{path} has unknown settings: {', '.join(unknown)}. There are {', '.join(known)}.")
    try:
        return model_class.from_config(config)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a {model_class.__name__}: {error}") from error


def make_lora_config(config: Any) -> "LoraConfig":
    """A LoRA of the settings' `lora_rank` and `lora_alpha`, on every attention, convolution and modulation."""
    from peft import LoraConfig

    alpha = config.lora_rank if config.lora_alpha is None else config.lora_alpha
    return LoraConfig(r=config.lora_rank, lora_alpha=alpha, target_modules=LORA_MODULES)


def network_identity(unet: torch.nn.Module) -> dict[str, Any]:
    """The settings of a network that identify it in checkpoints: all that are not `None`."""
    return {name: value for name, value in network_settings(unet).items() if value is not None}
