"""Finds and loads pipelines, the bundled one included."""

import hashlib
import os
from pathlib import Path

import diffusers
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from ..pipelines.pipeline_ccld import CCLDPipeline
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..utils.errors import first_line
from ..utils.hub import is_on_hub
from ..utils.hub_names import require_hub_name
from ..utils.suggestions import path_suggestion
from .devices import DTYPES, usable_dtype
from .optimization import compile_networks, require_compiler


def load_pipeline(
    model: str | Path | None, dtype: str, device: torch.device, compiled: bool = False, **sampler: str | None
) -> CCLDPipeline:
    """Loads a pipeline for inference.

    Args:
        model: Folder or name on the Hub; `None` for the bundled model.
        dtype: Name of the precision, one of `DTYPES`, or "auto" (see `usable_dtype`).
        device: Device of all networks.
        compiled: Compiles the networks with `compile_networks`.
        sampler: Options of `CCLDScheduler` that override the model's own; `None` keeps the model's.

    Raises:
        ValueError: If the model does not exist, or compilation needs a C++ compiler that is not installed.
    """
    if compiled and device.type == "cpu":
        require_compiler()
    diffusers.utils.logging.disable_progress_bar()
    folder = find_model("default" if model is None else str(model))
    pipe = CCLDPipeline.from_pretrained(folder, dtype=DTYPES[usable_dtype(dtype, device)]).to(device)
    if compiled:
        compile_networks(pipe)
    changes = {name: value for name, value in sampler.items() if value is not None}
    if changes:
        pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, **changes)
    return pipe


def find_folder(source: str) -> Path:
    """Returns the local folder of a pipeline or of parts of one, and downloads a pipeline from the Hub if needed.

    Args:
        source: A folder, a pipeline's name on the Hub, or "default" for the bundled model.

    Raises:
        ValueError: If nothing is found.
    """
    if source == "default":
        return Path(default_model())
    folder = Path(os.path.expanduser(source))
    if not folder.is_dir():
        options = hub_options(source)
        try:
            folder = Path(CCLDPipeline.download(source, **options))
        except Exception as error:  # network errors do not have a common base class
            raise ValueError(f"{source}: the model cannot be had from the Hub. ({first_line(error)})") from error
    return folder


def hub_options(source: str) -> dict[str, bool]:
    """Options of `from_pretrained` for a source: if the Hub cannot be reached, its cache alone is read.

    Args:
        source: A folder or a name on the Hub.

    Raises:
        ValueError: If the source is neither, or if the Hub cannot be reached and the cache does not have the model.
    """
    if Path(source).is_dir():
        return {}
    require_hub_name(source)
    is_there = is_on_hub(source, "model")
    if is_there:
        return {}
    if is_there is None and Path(HF_HUB_CACHE, repo_folder_name(repo_id=source, repo_type="model")).is_dir():
        return {"local_files_only": True}
    hub = "the Hub cannot be reached" if is_there is None else "no such public model on the Hub"
    advice = path_suggestion(source, is_folder=True)
    raise ValueError(f"{source}: there is no such folder, and {hub}.{advice}")


def find_model(source: str) -> Path:
    """Returns the local folder of a pipeline, and downloads it from the Hub if needed.

    Args:
        source: A folder, a name on the Hub, or "default" for the bundled model.

    Raises:
        ValueError: If no pipeline is found.
    """
    folder = find_folder(source)
    if not (folder / "model_index.json").is_file():
        trained = Path(source) / "pipeline"  # as training leaves it in its output folder
        advice = f" {trained} is one." if (trained / "model_index.json").is_file() else ""
        raise ValueError(f"{source} is not a pipeline: it has no model_index.json.{advice}")
    return folder


def folder_identity(folder: Path) -> str:
    """Returns a hash of a model's configurations and weights, which does not depend on its location."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".bin") and path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def default_model() -> str:
    """Returns the folder of the bundled pipeline, for `from_pretrained`.

    It paints 128 × 128 pictures of a dozen subjects in six media. Its `README.md` describes its abilities and limits.

        pipe = CCLDPipeline.from_pretrained(default_model())
    """
    return str(Path(__file__).parents[1] / "default_model")
