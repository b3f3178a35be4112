"""Pipelines, found and loaded as the commands' options ask for."""

import functools
import hashlib
from pathlib import Path

import diffusers
import torch

from .bundled import default_model
from .devices import DTYPES, lay_out, usable_dtype
from .errors import first_line
from .pipeline_ccld import CCLDPipeline
from .scheduling_ccld import CCLDScheduler
from .upsampling import fold_upsamplers

# Sizes and batches that a network is compiled for; torch.compile's own limit is 8, beyond which it gives up silently.
MAX_COMPILATIONS = 64


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


def arrange_networks(pipe: CCLDPipeline) -> None:
    """Folds and lays out the U-Net and the autoencoder, in place, as they paint fastest on a CPU; nothing elsewhere.

    What they compute differs by rounding. Save nothing of it: the decoder is another network (`fold_upsamplers`).
    """
    if pipe.vae.device.type == "cpu":
        fold_upsamplers(pipe.vae.decoder)
    lay_out(pipe.unet, pipe.vae)


def require_compiler() -> None:
    """Raises `ValueError` if torch.compile would find no C++ compiler, which it calls for networks on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            "Compiling needs a C++ compiler, and none was found: install g++, or name one in the variable CXX. "
            f"({first_line(error)})"
        ) from error


def compile_networks(pipe: CCLDPipeline) -> None:
    """Has the U-Net and the decoder compiled when they are next called.

    They are compiled for every size, batch and number of conditions anew. On a CPU their weights become constants,
    packed for its instructions: what changes them in place afterwards, as fusing a LoRA does, is not seen.
    """
    settings = {"freezing": pipe._execution_device.type == "cpu"}
    for network in (pipe.unet, pipe.vae.decoder):
        network.forward = _compiled(network.forward, settings)


def _compiled(forward, settings):
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    compiled = torch.compile(forward, dynamic=False)

    # The settings hold for one thread, and are asked for at whichever call compiles: no option of torch.compile.
    @functools.wraps(forward)
    def call(*args, **kwargs):
        with inductor.patch(settings), dynamo.patch(recompile_limit=MAX_COMPILATIONS):
            return compiled(*args, **kwargs)

    return call


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
