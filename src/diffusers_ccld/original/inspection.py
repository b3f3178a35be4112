"""Identifies a file or folder without running anything in it and without building a model."""

from collections.abc import Mapping
from pathlib import Path

import torch

from .errors import CheckpointError, HostileFileError, check_file
from .folder_inspection import Facts, inspect_folder, safetensors_facts
from .published.presets import PRESETS
from .published.v_diffusion import is_v_diffusion, v_diffusion_facts
from .reading.checkpoints import is_archive
from .reading.cloob_pickles import read_cloob_pickle
from .reading.kinds import check_kind, is_safetensors
from .reading.weights import read_weights
from .tensors.autoencoder import first_stage, infer_autoencoder, latent_channels
from .tensors.cloob import cloob_in, infer_cloob_config
from .tensors.scale import choose_scale, stored_scale
from .tensors.unet import A_NAME, TRAINING_SCALE, canonical_names, split_training_checkpoint, unet_config


def inspect(path: str | Path) -> Facts:
    """Describes a file or folder.

    PyTorch files are mapped into memory. CLOOB pickles are read as a whole.

    Args:
        path: A file in one of the original's formats, a safetensors file, or a pipeline's folder.

    Returns:
        Facts by name, nested for parts. "kind" is always present, and "conversion" if there is a command for it.

    Raises:
        CheckpointError: If the file or folder is of an unknown kind.
    """
    path = Path(path)
    if path.is_dir():
        return inspect_folder(path)
    check_file(path)
    check_kind(path)
    if is_safetensors(path) or path.suffix == ".safetensors":
        return _inspect_safetensors(path)
    if not is_archive(path) and (cloob := _cloob_pickle(path)) is not None:
        return cloob
    return inspect_checkpoint(path)


def _inspect_safetensors(path):
    """Facts of one of the original's models as safetensors, or else the numbers of the file."""
    numbers = safetensors_facts(path)
    try:
        return inspect_checkpoint(path)
    except HostileFileError:
        raise
    except CheckpointError:
        return {"kind": "safetensors file", **numbers}


def _cloob_pickle(path):
    """Facts of a CLOOB pickle; `None` if the file may be one of PyTorch's."""
    try:
        state, rest = read_cloob_pickle(path)
    except HostileFileError:
        raise
    except CheckpointError as error:
        if "the file holds JAX arrays" in str(error):
            raise
        return None
    return {
        "kind": "CLOOB pickle",
        **cloob_facts(state),
        "other entries": rest,
        "conversion": f"ccld convert --cloob {path} --output DIR",
    }


def inspect_checkpoint(path: Path) -> Facts:
    """Facts of a PyTorch file.

    Raises:
        CheckpointError: If it is not a PyTorch file, or of an unknown kind.
    """
    found, others = read_weights(path)
    state = canonical_names(found)
    if not any(f"{part}.{A_NAME}" in state for part in ("model", "model_ema")):
        return model_facts(state, path)
    parts = split_training_checkpoint(state)
    facts: Facts = {"kind": "training checkpoint of CCLD"}
    facts |= {name: others[name] for name in ("epoch", "global_step") if isinstance(others.get(name), int)}
    facts["has EMA weights"] = "model_ema" in parts
    if TRAINING_SCALE in state and state[TRAINING_SCALE].numel() == 1 and state[TRAINING_SCALE].is_floating_point():
        facts[TRAINING_SCALE] = float(state[TRAINING_SCALE])
    for name, part in parts.items():
        describe = {"ae_model": autoencoder_facts, "cloob": cloob_facts}.get(name, unet_facts)
        facts[name] = describe(part)
    ema = "" if "model_ema" in parts else " --no-ema"
    return {**facts, "conversion": f"ccld convert --unet {path}{ema} --output DIR"}


def model_facts(state: Mapping[str, torch.Tensor], path: Path) -> Facts:
    """Facts of a file with a single model.

    Raises:
        CheckpointError: If it is neither a U-Net of CCLD nor an autoencoder.
    """
    if is_v_diffusion(state):
        return {
            "kind": "U-Net of v-diffusion-pytorch",
            **v_diffusion_facts(state),
            **_numbers(state),
            "support": "none: it paints pixels, not latents, and is not an architecture of diffusers",
        }
    if A_NAME in state:
        return {
            "kind": "U-Net of CCLD",
            **unet_facts(state),
            "conversion": f"ccld convert --unet {path} --output DIR",
        }
    cloob, _ = cloob_in(state)
    if cloob:
        return {"kind": "CLOOB", **cloob_facts(cloob), "conversion": f"ccld convert --cloob {path} --output DIR"}
    inner, rest = first_stage(state)
    facts = {"kind": "first stage of a larger model" if rest else "autoencoder", **autoencoder_facts(inner)}
    if rest:
        facts["tensors left out"] = len(rest)
    return {**facts, "conversion": f"ccld convert --autoencoder {path} --autoencoder-scale X --output DIR"}


def unet_facts(state: Mapping[str, torch.Tensor]) -> Facts:
    """Facts of a U-Net: its shape, its scale, and the published models of that shape."""
    config, stored, warnings = unet_config(state), stored_scale(state), []
    widths = config["block_out_channels"]
    facts = {"widths": list(widths), "embedding": config["cross_attention_dim"], **_numbers(state)}
    published = [name for name, preset in PRESETS.items() if preset.block_out_channels == widths]
    facts["published models of this size"] = published or "none"
    facts["autoencoder_scale in the file"] = "none" if stored is None else stored
    try:
        scale = choose_scale(None, None, stored, widths, warnings.append)
        facts["scale to decode with"] = f"{scale.value:.6g}, from {scale.origin}"
    except CheckpointError as error:
        facts["scale to decode with"] = str(error)
    return facts


def autoencoder_facts(state: Mapping[str, torch.Tensor]) -> Facts:
    """Facts of an autoencoder: its kind and its shape."""
    autoencoder = infer_autoencoder(state)
    config = autoencoder.config
    facts = {
        "becomes": autoencoder.kind.__name__,
        "factor": 2 ** (len(config["block_out_channels"]) - 1),
        "widths": list(config["block_out_channels"]),
        "latent channels": latent_channels(config),
    }
    if "num_vq_embeddings" in config:
        facts["codes"] = config["num_vq_embeddings"]
    return {**facts, **_numbers(state)}


def cloob_facts(state: Mapping[str, torch.Tensor]) -> Facts:
    """Facts of a CLOOB: its image size and its widths."""
    config = infer_cloob_config(state)
    return {
        "image size": config.vision_config.image_size,
        "patch size": config.vision_config.patch_size,
        "layers": [config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers],
        "widths": [config.vision_config.hidden_size, config.text_config.hidden_size],
        "embedding": config.text_config.projection_dim,
        **_numbers(state),
    }


def _numbers(state):
    return {
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "precision": " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})),
    }
