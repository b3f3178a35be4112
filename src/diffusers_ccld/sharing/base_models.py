"""The model that another one was trained from: its name, its place and its licence, for model cards."""

import json
import os
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import HFValidationError, validate_repo_id

CARD_NAME = "README.md"
BUNDLED = "default"  # the name of the bundled model, for `--model`
RESULT_NAMES = ("pipeline", "lora")  # of every training's folder; the folder around it has a name of its own
BUNDLED_FOLDER = Path(__file__).parents[1] / "default_model"


def is_place(text: str) -> bool:
    """True if a text names a file or folder of this machine, not a repository of the Hub or anything else."""
    is_path = text.startswith(("/", "~", "./", "../")) or "*" in text or text.count("/") > 1
    return text != "" and "://" not in text and (is_path or os.path.exists(text))


def shareable(text: str) -> str:
    """A source's name without the folders of this machine: of a path, only the last part."""
    return Path(os.path.expanduser(text)).resolve().name if is_place(text) else text


def model_name(source: str) -> str:
    """The name of a model in a sentence, without the folders of this machine."""
    if source == BUNDLED:
        return "the bundled model of diffusers-ccld"
    name = shareable(source)
    return (
        Path(os.path.expanduser(source)).resolve().parent.name if name in RESULT_NAMES and is_place(source) else name
    )


def hub_name(source: str) -> str | None:
    """The name of a model on the Hub, "owner/name"; `None` for the bundled one and for folders."""
    if is_place(source) or "/" not in source:
        return None
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return source


def model_license(source: str) -> str | None:
    """The licence on a model's card, by the Hub's identifier; `None` if there is no card, or the card gives none.

    Args:
        source: A folder, a name on the Hub, or "default" for the bundled model.
    """
    folder = BUNDLED_FOLDER if source == BUNDLED else Path(os.path.expanduser(source))
    name = hub_name(source)
    if name is not None and not folder.is_dir():
        try:
            folder = Path(hf_hub_download(name, CARD_NAME)).parent
        except Exception:  # network errors do not have a common base class; there may be no card
            return None
    return card_license(folder)


def card_license(folder: Path) -> str | None:
    """The licence on the card in a folder, by the Hub's identifier; `None` if there is none."""
    try:
        parts = (folder / CARD_NAME).read_text(encoding="utf-8").split("---", 2)
        metadata = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = metadata.get("license") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None


def place_in_python(source: str) -> str:
    """Python for the place of a model: an expression with `diffusers_ccld` imported, or a string to be replaced."""
    if source == BUNDLED:
        return "diffusers_ccld.default_model()"
    return json.dumps(hub_name(source) or placeholder(model_name(source)))


def placeholder(name: str) -> str:
    """A name that a reader replaces by a folder's, or by one on the Hub."""
    return f"USER/{name}"
