"""Builds our models from the original's state dicts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..models.configuration_cloob import CLOOBConfig
from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..schedulers.scheduling_ccld import RECOMMENDED_ALGORITHM, CCLDScheduler
from .errors import CheckpointError
from .published.cloob_configs import HEAD_DIM
from .published.presets import PRESETS
from .reading.checkpoints import num_bytes
from .reading.sources import Source
from .tensors.autoencoder import IGNORED, check_against_yaml, first_stage, infer_autoencoder, read_autoencoder_yaml
from .tensors.cloob import (
    cloob_table,
    infer_cloob_config,
    is_jax,
    is_published_size,
    load_cloob_config,
    split_cloob,
)
from .tensors.scale import Scale
from .tensors.tables import Entry, from_original
from .tensors.unet import SCALE_BUFFER, unet_config, unet_table


@dataclass
class Part:
    """A component that is ready to be saved: a model with its weights, a preprocessor or a scheduler.

    Attributes:
        name: Name of its folder in a pipeline.
        component: The model, preprocessor or scheduler.
        report: The conversion report's entry for a model; `None` for the others.
    """

    name: str
    component: Any
    report: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        self.component.save_pretrained(folder / self.name)


def build_unet(source: Source, preset: str | None, dtype: torch.dtype) -> list[Part]:
    """Builds the U-Net and its scheduler.

    Args:
        source: The U-Net's state dict.
        preset: Name of the published model that the U-Net should be; `None` for any size.
        dtype: Type of the weights.

    Raises:
        CheckpointError: If the state dict is not a U-Net of CCLD, or its size is not the preset's.
    """
    config = unet_config(source.state)
    if preset is not None and config["block_out_channels"] != PRESETS[preset].block_out_channels:
        raise CheckpointError(
            f"The U-Net has widths {config['block_out_channels']}; the preset {preset} has "
            f"{PRESETS[preset].block_out_channels}."
        )
    model = _empty(CCLDUNet2DConditionModel, **config)
    report = fill(model, source, unet_table(), SCALE_BUFFER, dtype)
    return [Part("unet", model, report), Part("scheduler", CCLDScheduler(algorithm_type=RECOMMENDED_ALGORITHM))]


def build_vae(source: Source, yaml_file: str | Path | None, scale: Scale, dtype: torch.dtype) -> list[Part]:
    """Builds the autoencoder.

    Args:
        source: Its state dict, or a larger model's.
        yaml_file: The YAML file that was published with it; `None` if there is none.
        scale: Factor that multiplies latents before decoding.
        dtype: Type of the weights.

    Raises:
        CheckpointError: If the state dict is not a supported autoencoder, or the YAML file describes another.
    """
    source.state, left_out = first_stage(source.state)
    source.ignored += left_out
    autoencoder = infer_autoencoder(source.state)
    resolution = 256
    if yaml_file is not None:
        kind, params = read_autoencoder_yaml(yaml_file)
        check_against_yaml(autoencoder, kind, params, yaml_file)
        resolution = params["ddconfig"]["resolution"]
    model = _empty(
        autoencoder.kind,
        **autoencoder.config,
        sample_size=resolution,
        scaling_factor=1 / scale.value,
        force_upcast=False,
    )
    return [Part("vae", model, fill(model, source, autoencoder.table, IGNORED, dtype))]


def build_cloob(source: Source, config: CLOOBConfig, dtype: torch.dtype) -> list[Part]:
    """Builds the two encoders of a CLOOB and their preprocessors.

    Args:
        source: The CLOOB's state dict.
        config: Its configuration.
        dtype: Type of the weights.

    Raises:
        CheckpointError: If the state dict does not fit the configuration.
    """
    parts = []
    for component, state in split_cloob(source.state).items():
        is_text = component == "text_encoder"
        model_class = CLOOBTextModelWithProjection if is_text else CLOOBVisionModelWithProjection
        tower_config = config.text_config if is_text else config.vision_config
        model = _empty(model_class, config=tower_config)
        table = cloob_table(component, tower_config.num_hidden_layers, is_jax(source.state))
        tower = Source(state, source.path, source.what, source.ignored)
        parts.append(Part(component, model, fill(model, tower, table, r"$^", dtype)))
    return [
        *parts,
        Part("tokenizer", CLOOBTokenizer(model_max_length=config.text_config.max_position_embeddings)),
        Part("feature_extractor", CLOOBImageProcessor(size=config.vision_config.image_size)),
    ]


def choose_cloob_config(
    source: Source, name_or_file: str | Path | None, preset: str | None, warn: Callable[[str], None]
) -> CLOOBConfig:
    """Returns the given configuration, else the preset's, else the one inferred from the weights.

    Args:
        source: The CLOOB's state dict.
        name_or_file: Name of a published configuration, or a JSON file.
        preset: Name of the published model that it belongs to; `None` if unknown.
        warn: Receives a warning if the number of attention heads had to be guessed.

    Raises:
        CheckpointError: If the configuration contradicts the weights.
    """
    inferred = infer_cloob_config(source.state)
    name_or_file = name_or_file or (PRESETS[preset].cloob_config if preset is not None else None)
    if name_or_file is None:
        if not is_published_size(inferred):
            warn(
                f"{source} does not have a published size, and weights do not show the number of heads. Heads "
                f"of width {HEAD_DIM} are assumed; give --cloob-config if that is wrong."
            )
        return inferred
    config = load_cloob_config(name_or_file)
    for tower in ("text_config", "vision_config"):
        stated, found = getattr(config, tower).to_dict(), getattr(inferred, tower).to_dict()
        wrong = [key for key in stated if key != "num_attention_heads" and stated[key] != found[key]]
        if wrong:
            raise CheckpointError(
                f"The CLOOB configuration {name_or_file} does not belong to {source}: "
                + "; ".join(f"{key} is {stated[key]} there and {found[key]} here" for key in wrong)
                + "."
            )
    return config


def _empty(model_class, **config):
    """A model whose parameters have shapes but no memory."""
    with torch.device("meta"):
        return model_class(**config)


def fill(
    model: torch.nn.Module, source: Source, table: list[Entry], ignore: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Loads a source into an empty model, in place.

    Args:
        model: The model, on the meta device.
        source: The original's tensors.
        table: The table that maps them to the model's.
        ignore: Pattern that matches the whole names of tensors that may be ignored.
        dtype: Type of the weights. Modules that the model keeps in float32 stay in float32.

    Returns:
        The conversion report's entry for the model.

    Raises:
        CheckpointError: If a tensor is missing, unknown, of the wrong shape, not finite, or too large for the dtype.
    """
    if sum(map(num_bytes, source.state.values())) > source.path.stat().st_size:  # tensors may share memory
        raise CheckpointError(f"{source}: the tensors expand into more numbers than the file contains.")
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state, ignored = from_original(source.state, table, shapes, ignore, str(source))
    # `from_pretrained` keeps these in float32, so they must not be rounded to half precision in the file.
    exact = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    dtypes = {name: torch.float32 if exact & set(name.split(".")) else dtype for name in state}
    state = {name: tensor.to(dtypes[name]).contiguous() for name, tensor in state.items()}
    if too_large := [n for n, t in state.items() if dtype == torch.float16 and not torch.isfinite(t).all()]:
        raise CheckpointError(f"{source}: {too_large[0]} has values too large for fp16; use bf16 or fp32.")
    seen = set()
    for name, tensor in state.items():  # safetensors refuses tensors that share memory
        if tensor.data_ptr() in seen:
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    model.load_state_dict(state, strict=True, assign=True)
    model.eval()
    return {
        "class": type(model).__name__,
        "source": str(source.path),
        "format": source.what,
        "parameters": sum(p.numel() for p in model.parameters()),
        "source_tensors_used": len(source.state) - len(ignored),
        "ignored": source.ignored + ignored,
    }
