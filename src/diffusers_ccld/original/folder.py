"""The folder that a conversion writes: its index, its report, and moving new components into place."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers

from ..models.gumbel_vq import GumbelVQModel
from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..schedulers.scheduling_ccld import CCLDScheduler
from .errors import CheckpointError

REPORT_NAME = "conversion_report.json"
# The fields of the report; conversions of single parts lack some.
REPORT_FIELDS = {
    "versions": "versions of diffusers, transformers and torch",
    "sources": "length in bytes and SHA-256 of each source, by its path",
    "components": "of each converted model: its class, its number of parameters, preset and precision, and more",
    "autoencoder_scale": "scale of the latents, and where it is from",
    "check": "the result of running each model, by name",
    "card_sha256": "SHA-256 of the model card, by which an edited one is recognised",
}
CODE_NAME = "pipeline.py"  # of a standalone folder
COMPONENTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "image_encoder", "feature_extractor")


def check_is_free(output: Path, names: Iterable[str], overwrite: bool) -> None:
    """Checks that `output` does not contain components, unless they may be replaced.

    Raises:
        CheckpointError: If it does.
    """
    existing = [name for name in names if (output / name).exists()]
    if existing and not overwrite:
        raise CheckpointError(f"{output} already contains {', '.join(existing)}; give --overwrite to replace them.")


def is_whole(folder: Path, new: Collection[str] = ()) -> bool:
    """True if a folder, together with the new components, has all components of a pipeline."""
    return all(name in new or (folder / name).is_dir() for name in COMPONENTS)


def read_earlier_report(output: Path) -> dict[str, Any]:
    """Reads the report of an earlier conversion into the same folder; empty if there was none.

    Raises:
        CheckpointError: If the path is not a folder, or the report is damaged.
    """
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output} is not a folder.")
    path = output / REPORT_NAME
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(report.get(section, {}), dict) for section in ("sources", "components")):
            raise ValueError("its sections are not mappings")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged; remove it. ({error})") from error
    return report


@contextmanager
def written_aside(output: Path) -> Iterator[Path]:
    """Yields a temporary folder inside `output`. On failure, `output` is removed if it did not exist before."""
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=output) as temporary:
            yield Path(temporary)
    except BaseException:
        if is_new:
            shutil.rmtree(output)
        raise


def link_existing(folder: Path, output: Path) -> None:
    """Links the unchanged components of `output` into the folder of the new ones, or copies them."""
    for name in COMPONENTS:
        if (output / name).is_dir() and not (folder / name).exists():
            try:
                (folder / name).symlink_to(output / name, target_is_directory=True)
            except OSError:  # Windows lets only some users make links
                shutil.copytree(output / name, folder / name)


def write_model_index(folder: Path) -> None:
    """Writes `model_index.json`, which makes a pipeline of the components."""
    vae_class = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["_class_name"]
    classes = {
        "unet": CCLDUNet2DConditionModel,
        "scheduler": CCLDScheduler,
        "text_encoder": CLOOBTextModelWithProjection,
        "tokenizer": CLOOBTokenizer,
        "image_encoder": CLOOBVisionModelWithProjection,
        "feature_extractor": CLOOBImageProcessor,
    }
    index = {
        "_class_name": CCLDPipeline.__name__,
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers_ccld" if vae_class == GumbelVQModel.__name__ else "diffusers", vae_class],
        **{name: ["diffusers_ccld", cls.__name__] for name, cls in classes.items()},
    }
    text = json.dumps(dict(sorted(index.items())), indent=2) + "\n"
    (folder / "model_index.json").write_text(text, encoding="utf-8")


def move_into_place(folder: Path, names: list[str], output: Path) -> None:
    """Moves new files and folders over the old ones. On any failure the old ones are restored."""
    replaced = folder / "replaced"
    replaced.mkdir()
    moved = []
    try:
        for name in names:
            if (output / name).exists():
                os.replace(output / name, replaced / name)
            moved.append(name)
            os.replace(folder / name, output / name)
    except BaseException:
        for name in moved:
            if (replaced / name).exists():
                if (output / name).exists():
                    os.replace(output / name, folder / name)
                os.replace(replaced / name, output / name)
            elif (output / name).exists():
                os.replace(output / name, folder / name)
        raise
