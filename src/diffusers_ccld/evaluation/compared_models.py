"""The models of a comparison: found, told apart, their samplers."""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import diffusers

from ..inference.loading import find_model, folder_identity
from ..schedulers.scheduling_ccld import CCLDScheduler, usual_num_steps
from ..utils.errors import first_line

RESERVED_NAMES = ("training images", "held-out images")


class ComparedModel(NamedTuple):
    """A model to compare.

    Attributes:
        name: What it is called.
        source: What it was given as: a folder, a hub id, or "default".
        folder: Where it is saved.
        identity: A hash of its files.
        default_num_inference_steps: The number of sampling steps that it has been taught, if there is one.
        max_guidance_scale: The largest guidance scale that it has been taught, if there is one.
    """

    name: str
    source: str
    folder: Path
    identity: str
    default_num_inference_steps: int | None = None
    max_guidance_scale: float | None = None


def find_models(sources: Sequence[str]) -> list[ComparedModel]:
    """Finds models, downloads those of the Hub, and tells them apart.

    Args:
        sources: For each a folder, a hub id, or "default" for the bundled one; with NAME= before it, it is called so.

    Raises:
        ValueError: If one is not there, or two have the same name.
    """
    models = []
    for given in sources:
        name, equals, source = given.partition("=")
        if not equals or Path(given).exists():
            name, source = "", given
        folder = find_model(source)
        index = json.loads((folder / "model_index.json").read_text())
        if "CCLD" not in str(index.get("_class_name")):
            raise ValueError(f"{source} is a {index.get('_class_name')}; CCLD pipelines can be compared.")
        if name.strip() in RESERVED_NAMES:
            raise ValueError(f"A model cannot be called {name.strip()}: that is what the page calls something else.")
        taught = {key: index[key] for key in ("default_num_inference_steps", "max_guidance_scale") if key in index}
        name = name.strip() or _name_of(source)
        models.append(ComparedModel(name, source, folder, folder_identity(folder), **taught))
    slugs = [slug(model.name) for model in models]
    for model in models:
        if slugs.count(slug(model.name)) > 1:
            raise ValueError(f"More than one model would be called {model.name}; name them apart: NAME=DIR.")
    return models


def num_evaluations(model: ComparedModel, algorithm: str | None, num_inference_steps: int) -> int:
    """How often a model's network is evaluated for one picture; guidance makes two of each.

    Raises:
        ValueError: If its sampler cannot be loaded.
    """
    scheduler = load_sampler(model, algorithm)
    scheduler.set_timesteps(num_inference_steps)
    return len(scheduler.timesteps)


@functools.cache  # every picture of a model asks
def num_steps_of(model: ComparedModel, algorithm: str | None, num_inference_steps: int | None) -> int:
    """Returns the number of sampling steps: the given one, the model's own, or the usual one of the sampler.

    Raises:
        ValueError: If its sampler cannot be loaded.
    """
    return usual_num_steps(load_sampler(model, algorithm), num_inference_steps, model.default_num_inference_steps)


def load_sampler(model: ComparedModel, algorithm: str | None) -> diffusers.SchedulerMixin:
    """A model's own sampler, or ours of another algorithm.

    Raises:
        ValueError: If it cannot be loaded.
    """
    try:
        config = json.loads((model.folder / "scheduler" / "scheduler_config.json").read_text())
        stock = getattr(diffusers, config["_class_name"], None) if algorithm is None else None
        changes = {} if algorithm is None else {"algorithm_type": algorithm}
        return (stock or CCLDScheduler).from_config(config, **changes)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{model.source}: its sampler cannot be loaded. ({first_line(error)})") from error


def slug(text: str) -> str:
    """A text as part of a file's name: lower case, few characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].rstrip("-") or "untitled"


def _name_of(source: str) -> str:
    parts = [part for part in Path(source).parts if part not in ("/", "..", ".")]
    # The scripts that train save the model as `pipeline` in the folder of the run.
    return parts[-2] if len(parts) > 1 and parts[-1] == "pipeline" else (parts or ["model"])[-1]
