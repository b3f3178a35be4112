"""The models of a comparison: finding and naming them, and their samplers."""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import diffusers

from ..inference.loading import find_model, folder_identity
from ..pipelines.model_index import read_model_index
from ..pipelines.saving import SETTINGS
from ..schedulers.scheduling_ccld import CCLDScheduler, usual_num_steps
from ..utils.errors import first_line

LONGEST_SLUG = 48
RESERVED_NAMES = ("training images", "held-out images")


class ComparedModel(NamedTuple):
    """A model to compare.

    Attributes:
        name: Its name in the comparison.
        source: The folder, name on the Hub, or "default" that it was given as.
        folder: Its local folder.
        identity: Hash of its files.
        default_num_inference_steps: The number of sampling steps that it was distilled to, or `None`.
        max_guidance_scale: The largest guidance scale that it was distilled for, or `None`.
        default_guidance_scale: Its own guidance scale, or `None`.
        default_variation: Its own variation, or `None`.
        can_vary_texts: True if its text encoder was fitted.
    """

    name: str
    source: str
    folder: Path
    identity: str
    default_num_inference_steps: int | None = None
    max_guidance_scale: float | None = None
    default_guidance_scale: float | None = None
    default_variation: float | None = None
    can_vary_texts: bool = False

    @property
    def folder_name(self) -> str:
        """Name of the folder of its pictures, which differs for names that differ in more than case and spaces."""
        name = unicodedata.normalize("NFC", self.name)
        is_kept = name.isascii() and len(name) <= LONGEST_SLUG
        return slug(name) if is_kept else f"{slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def find_models(sources: Sequence[str]) -> list[ComparedModel]:
    """Finds models, downloads those on the Hub, and gives each a name.

    Args:
        sources: Folders, names on the Hub, or "default" for the bundled model. NAME= in front of one sets its name.

    Raises:
        ValueError: If a model is not found or not a CCLD pipeline, or if two have the same name.
    """
    models = []
    for given in sources:
        name, equals, source = given.partition("=")
        if not equals or Path(given).exists():
            name, source = "", given
        folder = find_model(source)
        index = read_model_index(folder)
        if "CCLD" not in index["_class_name"]:
            raise ValueError(f"{source} is a {index['_class_name']}; only CCLD pipelines can be compared.")
        if name.strip() in RESERVED_NAMES:
            raise ValueError(f"A model cannot be called {name.strip()}: the page uses that name for something else.")
        own = {name: index[name] for name in SETTINGS if name in index}
        own["can_vary_texts"] = _has_residual_factor(folder)
        name = name.strip() or _name_of(source)
        models.append(ComparedModel(name, source, folder, folder_identity(folder), **own))
    by_folder: dict[str, str] = {}
    for model in models:
        other = by_folder.setdefault(model.folder_name, model.name)
        if other != model.name or [m.name for m in models].count(other) > 1:
            names = model.name if other == model.name else f"{other} or {model.name}, whose folders would be one"
            raise ValueError(f"More than one model would be called {names}; give them different names with NAME=DIR.")
    return models


def num_evaluations(model: ComparedModel, algorithm: str | None, num_inference_steps: int) -> int:
    """Returns the number of network evaluations per picture. Guidance doubles them unless it was distilled.

    Raises:
        ValueError: If the model's sampler cannot be loaded.
    """
    scheduler = load_sampler(model, algorithm)
    scheduler.set_timesteps(num_inference_steps)
    return len(scheduler.timesteps)


@functools.cache  # called for every picture
def num_steps_of(model: ComparedModel, algorithm: str | None, num_inference_steps: int | None) -> int:
    """Returns the number of sampling steps: the given one, the model's own, or the usual one of the sampler.

    Raises:
        ValueError: If the model's sampler cannot be loaded.
    """
    return usual_num_steps(load_sampler(model, algorithm), num_inference_steps, model.default_num_inference_steps)


def load_sampler(model: ComparedModel, algorithm: str | None) -> diffusers.SchedulerMixin:
    """Loads a model's own sampler, or makes a `CCLDScheduler` with another algorithm.

    Raises:
        ValueError: If the sampler cannot be loaded.
    """
    try:
        config = json.loads((model.folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        stock = getattr(diffusers, config["_class_name"], None) if algorithm is None else None
        changes = {} if algorithm is None else {"algorithm_type": algorithm}
        return (stock or CCLDScheduler).from_config(config, **changes)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{model.source}: its sampler cannot be loaded. ({first_line(error)})") from error


def _has_residual_factor(folder: Path) -> bool:
    path = folder / "text_encoder" / "config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("has_residual_factor", False)


def slug(text: str) -> str:
    """Shortens a text for a file name: lower case, letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST_SLUG].rstrip("-") or "untitled"


def _name_of(source: str) -> str:
    parts = [part for part in Path(source).parts if part not in ("/", "..", ".")]
    # Training scripts save a model as `pipeline` in the folder of the run.
    return parts[-2] if len(parts) > 1 and parts[-1] == "pipeline" else (parts or ["model"])[-1]
