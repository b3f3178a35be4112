"""The original's CLOOB: its configurations, and the names of its tensors in JAX, in the PyTorch port, and here.

After `cloob_training/model_pt.py` and the configurations of crowsonkb/cloob-training.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...models.configuration_cloob import CLOOBConfig
from ...models.processing_cloob import IMAGE_MEAN, IMAGE_STD
from ..errors import CheckpointError
from ..published.cloob_configs import HEAD_DIM, PUBLISHED_CONFIGS
from .tables import Entry

# Name here, name and layout in the pickles of JAX parameters, name in the PyTorch port of training checkpoints.
LAYER_TENSORS = (
    ("layer_norm1.weight", "self_attention/layer_norm/scale", "same", "attn.norm.weight"),
    ("layer_norm1.bias", "self_attention/layer_norm/offset", "same", "attn.norm.bias"),
    ("self_attn.q_proj.weight", "self_attention/multi_head_attention/query/w", "transposed", "attn.query.weight"),
    ("self_attn.q_proj.bias", "self_attention/multi_head_attention/query/b", "same", "attn.query.bias"),
    ("self_attn.k_proj.weight", "self_attention/multi_head_attention/key/w", "transposed", "attn.key.weight"),
    ("self_attn.k_proj.bias", "self_attention/multi_head_attention/key/b", "same", "attn.key.bias"),
    ("self_attn.v_proj.weight", "self_attention/multi_head_attention/value/w", "transposed", "attn.value.weight"),
    ("self_attn.v_proj.bias", "self_attention/multi_head_attention/value/b", "same", "attn.value.bias"),
    ("self_attn.out_proj.weight", "self_attention/multi_head_attention/linear/w", "transposed", "attn.out.weight"),
    ("self_attn.out_proj.bias", "self_attention/multi_head_attention/linear/b", "same", "attn.out.bias"),
    ("layer_norm2.weight", "feed_forward/layer_norm/scale", "same", "ff.norm.weight"),
    ("layer_norm2.bias", "feed_forward/layer_norm/offset", "same", "ff.norm.bias"),
    ("mlp.fc1.weight", "feed_forward/linear_0/w", "transposed", "ff.linear_0.weight"),
    ("mlp.fc1.bias", "feed_forward/linear_0/b", "same", "ff.linear_0.bias"),
    ("mlp.fc2.weight", "feed_forward/linear_1/w", "transposed", "ff.linear_1.weight"),
    ("mlp.fc2.bias", "feed_forward/linear_1/b", "same", "ff.linear_1.bias"),
)
TEXT_TENSORS = (
    ("embeddings.token_embedding.weight", "embed/embeddings", "same", "embed.weight"),
    ("embeddings.position_embedding", "pos_embed/w", "same", "pos_embed.weight"),
    ("text_projection.weight", "proj/w", "transposed", "proj.weight"),
    ("text_projection.bias", "proj/b", "same", "proj.bias"),
)
IMAGE_TENSORS = (
    ("embeddings.class_embedding", "class_embed", "same", "class_embed"),
    ("embeddings.patch_embedding.weight", "embed/w", "patches", "embed.weight"),
    ("embeddings.position_embedding", "pos_embed/w", "same", "pos_embed.weight"),
    ("visual_projection.weight", "proj/w", "transposed", "proj.weight"),
    ("visual_projection.bias", "proj/b", "same", "proj.bias"),
)
# Folder of a pipeline, its tensors outside the layers, name of the tower in JAX and in the port.
TOWERS = (
    ("text_encoder", TEXT_TENSORS, "text_encoder", "text_encoder"),
    ("image_encoder", IMAGE_TENSORS, "vi_t_image_encoder", "image_encoder"),
)
RANKS = {  # of tensors that are not matrices
    "embeddings.class_embedding": 1,
    "embeddings.patch_embedding.weight": 4,
    "text_projection.bias": 1,
    "visual_projection.bias": 1,
}
LARGEST_IMAGE = 1024  # pixels; checking a conversion with larger ones could take any amount of memory


def cloob_table(component: str, num_layers: int, is_jax: bool) -> list[Entry]:
    """All tensors of one tower.

    Args:
        component: "text_encoder" or "image_encoder".
        num_layers: Number of its layers.
        is_jax: True for the names of JAX, "module/leaf"; False for those of the PyTorch port.
    """
    _, tensors, jax_tower, port_tower = next(tower for tower in TOWERS if tower[0] == component)
    rows = list(tensors)
    for i in range(num_layers):
        rows += [
            (f"layers.{i}.{ours}", f"layer_{i}/{jax}", layout, f"layers.{i}.{port}")
            for ours, jax, layout, port in LAYER_TENSORS
        ]
    if is_jax:
        return [Entry(f"{jax_tower}/{jax}", (ours,), layout) for ours, jax, layout, _ in rows]
    return [Entry(f"{port_tower}.{port}", (ours,)) for ours, _, _, port in rows]


def load_cloob_config(name_or_file: str | Path) -> CLOOBConfig:
    """A configuration by its published name or from a JSON file in cloob-training's format.

    Raises:
        CheckpointError: If it is neither.
    """
    if str(name_or_file) in PUBLISHED_CONFIGS:
        return parse_cloob_config(PUBLISHED_CONFIGS[str(name_or_file)], name_or_file)
    path = Path(name_or_file)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is neither a file nor the name of a published CLOOB configuration "
            f"({', '.join(PUBLISHED_CONFIGS)})."
        )
    try:
        return parse_cloob_config(json.loads(path.read_text(encoding="utf-8")), path)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON. ({error})") from error


def parse_cloob_config(config: Mapping[str, Any], where: str | Path) -> CLOOBConfig:
    """A configuration in cloob-training's format.

    Raises:
        CheckpointError: If it lacks something or describes another architecture.
    """
    try:
        image, text = config["image_encoder"], config["text_encoder"]
        if image["type"] != "ViT" or text["type"] != "transformer" or text["tokenizer"] != "clip":
            raise CheckpointError(f"{where}: only a ViT and a transformer with CLIP's tokenizer are supported.")
        normalize = image.get("normalize", {"mean": IMAGE_MEAN, "std": IMAGE_STD})
        if (tuple(normalize["mean"]), tuple(normalize["std"])) != (IMAGE_MEAN, IMAGE_STD):
            raise CheckpointError(f"{where}: only CLIP's normalisation of images is supported.")
        for tower in (image, text):
            if tower["n_heads"] < 1 or tower["d_model"] % tower["n_heads"]:
                raise CheckpointError(f"{where}: d_model must be a multiple of n_heads.")
        return CLOOBConfig(
            text_config={
                "vocab_size": text["vocab_size"],
                "hidden_size": text["d_model"],
                "num_hidden_layers": text["n_layers"],
                "num_attention_heads": text["n_heads"],
                "max_position_embeddings": text["text_size"],
                "projection_dim": config["d_embed"],
            },
            vision_config={
                "hidden_size": image["d_model"],
                "num_hidden_layers": image["n_layers"],
                "num_attention_heads": image["n_heads"],
                "num_channels": image["input_channels"],
                "image_size": image["image_size"],
                "patch_size": image["patch_size"],
                "projection_dim": config["d_embed"],
            },
            inverse_temperature=float(config["inv_tau"]),
            hopfield_scale=float(config["scale_hopfield"]),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{where}: not a CLOOB configuration in cloob-training's format; {error} is wrong."
        ) from error


def is_jax(state: Mapping[str, torch.Tensor]) -> bool:
    """True if a state dict has JAX's names, "module/leaf", rather than those of the PyTorch port."""
    return any("/" in name for name in state)


def infer_cloob_config(state: Mapping[str, torch.Tensor]) -> CLOOBConfig:
    """Infers the configuration from the weights. Attention heads are assumed to have the usual width of 64.

    Raises:
        CheckpointError: If the weights are not a CLOOB's.
    """
    jax = is_jax(state)
    tensors, num_layers = {}, {}
    for component, _, jax_tower, port_tower in TOWERS:
        marker = f"{jax_tower}/layer_" if jax else f"{port_tower}.layers."
        separator = "/" if jax else "."
        layers = {name[len(marker) :].split(separator)[0] for name in state if name.startswith(marker)}
        num_layers[component] = len(layers)
        for original, (name,), layout in cloob_table(component, 0, jax):
            if original not in state or state[original].ndim != RANKS.get(name, 2):
                raise CheckpointError(f"The file is not a CLOOB: it lacks {original}, or its shape is wrong.")
            shape = state[original].shape
            tensors[component, name] = torch.Size((shape[3], shape[2], *shape[:2])) if layout == "patches" else shape
    vocab_size, text_width = tensors["text_encoder", "embeddings.token_embedding.weight"]
    image_width, num_channels, patch_size, _ = tensors["image_encoder", "embeddings.patch_embedding.weight"]
    num_patches = tensors["image_encoder", "embeddings.position_embedding"][0] - 1
    projection_dim = tensors["text_encoder", "text_projection.bias"][0]
    image_size = math.isqrt(max(num_patches, 0)) * patch_size
    if not 0 < image_size <= LARGEST_IMAGE:
        raise CheckpointError(f"The CLOOB takes images of {image_size} pixels, an unsupported size.")
    return CLOOBConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": text_width,
            "num_hidden_layers": num_layers["text_encoder"],
            "num_attention_heads": max(text_width // HEAD_DIM, 1),
            "max_position_embeddings": tensors["text_encoder", "embeddings.position_embedding"][0],
            "projection_dim": projection_dim,
        },
        vision_config={
            "hidden_size": image_width,
            "num_hidden_layers": num_layers["image_encoder"],
            "num_attention_heads": max(image_width // HEAD_DIM, 1),
            "num_channels": num_channels,
            "image_size": image_size,
            "patch_size": patch_size,
            "projection_dim": projection_dim,
        },
    )


def cloob_in(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Extracts a CLOOB from the tensors of a file, in which its names may have a prefix.

    Returns:
        Its state dict, empty if there is none, and the names of the other tensors.
    """
    for a_name in ("text_encoder/embed/embeddings", "text_encoder.embed.weight"):
        prefixes = [name.removesuffix(a_name) for name in state if name.endswith(a_name)]
        if prefixes:
            prefix = min(prefixes, key=len)
            inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            return inner, [name for name in state if not name.startswith(prefix)]
    return {}, []


def split_cloob(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Sorts a state dict by tower, "text_encoder" and "image_encoder".

    Raises:
        CheckpointError: If a tensor belongs to neither.
    """
    prefixes = {
        component: f"{jax_tower}/" if is_jax(state) else f"{port_tower}."
        for component, _, jax_tower, port_tower in TOWERS
    }
    towers = {component: {n: t for n, t in state.items() if n.startswith(p)} for component, p in prefixes.items()}
    if strangers := [name for name in state if not name.startswith(tuple(prefixes.values()))]:
        raise CheckpointError(f"The CLOOB has unexpected tensors: {', '.join(strangers[:5])}.")
    return towers


def is_published_size(config: CLOOBConfig) -> bool:
    """True if a published configuration has the widths of this one. Its number of heads is then known."""
    widths = (config.text_config.hidden_size, config.vision_config.hidden_size)
    return any(
        widths == (published["text_encoder"]["d_model"], published["image_encoder"]["d_model"])
        for published in PUBLISHED_CONFIGS.values()
    )
