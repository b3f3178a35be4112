"""The folder that a conversion writes: what is there, what is replaced, its index."""

import json
import os
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
COMPONENTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "image_encoder", "feature_extractor")


def _check_is_free(output, names, overwrite):
    existing = [name for name in names if (output / name).exists()]
    if existing and not overwrite:
        raise CheckpointError(f"{output} has {', '.join(existing)} already; give --overwrite to replace them.")


def _earlier_report(output: Path) -> dict[str, Any]:
    """The report of an earlier conversion into the same folder.

    Raises:
        CheckpointError: If the folder is not a folder or the report is damaged.
    """
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output} is not a folder.")
    path = output / REPORT_NAME
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text())
        if not all(isinstance(report.get(section, {}), dict) for section in ("sources", "components")):
            raise ValueError("its sections are not mappings")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged; remove it. ({error})") from error
    return report


def _link_existing(folder: Path, output: Path) -> None:
    """Shows the components that stay as they are beside the new ones."""
    for name in COMPONENTS:
        if (output / name).is_dir() and not (folder / name).exists():
            (folder / name).symlink_to(output / name, target_is_directory=True)


def _write_model_index(folder: Path) -> None:
    """Writes `model_index.json`, which makes a pipeline of the components."""
    vae_class = json.loads((folder / "vae" / "config.json").read_text())["_class_name"]
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
    (folder / "model_index.json").write_text(json.dumps(dict(sorted(index.items())), indent=2) + "\n")


def _move_into_place(folder: Path, names: list[str], output: Path) -> None:
    """Moves what was written over what was there; on any failure everything is as it was."""
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
