"""Describes a folder of diffusers, without torch and without reading its weights."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..pipelines.model_index import read_model_index
from ..utils.errors import first_line
from .errors import CheckpointError
from .reading.kinds import check_kind

Facts = dict[str, Any]
NUMBERS = ("tensors", "parameters")


def inspect_folder(folder: Path) -> Facts:
    """Facts of a pipeline's folder, or of a model's.

    Raises:
        CheckpointError: If it is neither.
    """
    if not (folder / "model_index.json").is_file():
        if (folder / "config.json").is_file():
            return {"kind": "model folder", **_model_folder_facts(folder)}
        raise CheckpointError(
            f"{folder} is not a folder of diffusers: it has neither model_index.json nor config.json."
        )
    try:
        index = read_model_index(folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    name = index.get("_class_name")
    facts: Facts = {"kind": "pipeline folder", "pipeline": name[-1] if isinstance(name, list) else name}
    for name, entry in index.items():
        if isinstance(entry, list) and entry and (folder / name).is_dir():
            facts[name] = {"class": entry[-1], **_model_folder_facts(folder / name)}
    return facts


def _model_folder_facts(folder):
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    kept = (
        "block_out_channels",
        "sample_size",
        "scaling_factor",
        "projection_dim",
        "time_cond_proj_dim",
    )
    facts = {"class": config["_class_name"]} if "_class_name" in config else {}
    facts |= {name: config[name] for name in kept if config.get(name) is not None}
    for path in sorted(folder.glob("*.safetensors")):
        found = safetensors_facts(path)
        is_shard = "-of-" in path.name
        facts |= {name: facts.get(name, 0) + n if is_shard and name in NUMBERS else n for name, n in found.items()}
    scale = facts.get("scaling_factor")
    if isinstance(scale, (int, float)) and scale > 0:
        facts["scale to decode with"] = round(1 / scale, 6)
    return facts


def _json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON. ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} has no settings.")
    return content


def safetensors_facts(path: Path) -> Facts:
    """Numbers of a safetensors file, from its header.

    Raises:
        CheckpointError: If it is not one, or damaged.
    """
    check_kind(path)
    try:
        with safe_open(path, framework="np") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - it is not a mapping
            shapes, dtypes = [s.get_shape() for s in slices], {s.get_dtype() for s in slices}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged. ({first_line(error)})") from error
    return {
        "tensors": len(shapes),
        "parameters": sum(math.prod(shape) for shape in shapes),
        "precision": " and ".join(sorted(dtypes)),
    }
