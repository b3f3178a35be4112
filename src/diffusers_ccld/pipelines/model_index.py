"""`model_index.json`, which names the components of a pipeline's folder."""

import json
from pathlib import Path
from typing import Any

INDEX_NAME = "model_index.json"
ENTRIES = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "image_encoder", "feature_extractor")


def read_model_index(folder: Path) -> dict[str, Any]:
    """Reads and checks the index of a folder.

    Raises:
        ValueError: If it is not JSON, or an entry is not of its kind.
        OSError: If it cannot be read.
    """
    path = folder / INDEX_NAME
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON; it is damaged, or was not downloaded completely.") from error
    if not isinstance(index, dict):
        raise ValueError(f"{path} is not an index of components, but a {type(index).__name__}.")
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(
            f"{path} has {index.get('_class_name')!r} as _class_name, not the name of a pipeline's class."
        )
    for name, entry in index.items():
        is_component = isinstance(entry, list)
        is_pair = is_component and len(entry) == 2 and all(part is None or isinstance(part, str) for part in entry)
        if (is_component and not is_pair) or (name in ENTRIES and not is_component):
            raise ValueError(f"{path} has {entry!r} as {name}, not a library and the name of a class.")
    return index
