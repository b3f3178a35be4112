"""The small trained model that comes with the package."""

import hashlib
from pathlib import Path

import diffusers
import torch

from ..pipelines.pipeline_ccld import CCLDPipeline
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..utils.errors import first_line
from .devices import DTYPES, usable_dtype
from .optimization import arrange_networks, compile_networks, require_compiler


def load_pipeline(
    model: str | Path | None, dtype: str, device: torch.device, compiled: bool = False, **sampler: str | None
) -> CCLDPipeline:
    """Loads a pipeline to paint with; it is arranged for that (`arrange_networks`), and not to be saved.

    Args:
        model: Folder or name on the Hub; by default the small one of the package.
        dtype: Name of its precision, one of `DTYPES`; "auto" for that of `usable_dtype`.
        device: Where to.
        compiled: Whether to compile it, by `compile_networks`.
        sampler: Options of `CCLDScheduler` that take the place of the model's own; `None` leaves one as it is.

    Raises:
        ValueError: If it is to be compiled, and there is no compiler.
    """
    if compiled and device.type == "cpu":
        require_compiler()
    diffusers.utils.logging.disable_progress_bar()
    pipe = CCLDPipeline.from_pretrained(model or default_model(), dtype=DTYPES[usable_dtype(dtype, device)]).to(device)
    arrange_networks(pipe)
    if compiled:
        compile_networks(pipe)
    changes = {name: value for name, value in sampler.items() if value is not None}
    if changes:
        pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, **changes)
    return pipe


def find_model(source: str) -> Path:
    """The folder of a model that is given as a folder, a hub id, or "default".

    Raises:
        ValueError: If there is no pipeline.
    """
    if source == "default":
        return Path(default_model())
    folder = Path(source).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(CCLDPipeline.download(source))
        except Exception as error:  # of a network that is not there, of a name that is none
            raise ValueError(f"{source}: no model is there. ({first_line(error)})") from error
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{source} is no pipeline: it has no model_index.json.")
    return folder


def folder_identity(folder: Path) -> str:
    """A hash of a model's configurations and weights, wherever it lies."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".bin") and path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def default_model() -> str:
    """Folder of the bundled pipeline, for `from_pretrained`.

    It paints 128 × 128 pictures of a dozen subjects in six media; its `README.md` says what it can do and what not.

        pipe = CCLDPipeline.from_pretrained(default_model())
    """
    return str(Path(__file__).parents[1] / "default_model")
