"""The model card of a converted folder: facts about the published model, and about the conversion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...inference.devices import usable_device
from ...inference.sampling import sample
from ...pipelines.pipeline_ccld import CCLDPipeline
from ...sharing.model_cards import (
    GRID_NAME,
    LIMITS_OF_PIPELINES,
    PIPELINE,
    STANDALONE,
    CardKind,
    escaped,
    save_card,
    table,
)
from ...utils.pictures import image_grid
from ...utils.words import PROMPTS_NAME, prompts_for
from ...version import __version__
from .facts import CODE, PAPERS, PUBLICATIONS
from .presets import PRESETS

STOCK_CLASSES = ("AutoencoderKL", "VQModel")
PARTS_INTRODUCTION = """Parts of CLOOB-Conditioned Latent Diffusion, a text-to-image model that is trained on images
without captions. With U-Net, autoencoder and CLOOB together the folder would be a pipeline."""


def published_as(report: Mapping[str, Any]) -> str | None:
    """The published model of a conversion's U-Net, or `None` if it does not come from the preset's published file."""
    unet = report["components"].get("unet", {})
    preset = unet.get("preset")
    if preset is not None and Path(unet["source"]).name == PRESETS[preset].files["unet"].name:
        return preset
    return None


def save_conversion_card(
    folder: Path, report: Mapping[str, Any], name: str, has_grid: bool, is_standalone: bool
) -> None:
    """Writes the card of a conversion.

    Args:
        folder: The converted folder.
        report: The conversion's report.
        name: Name under which others load the folder.
        has_grid: True if the folder has a grid of samples.
        is_standalone: True if the folder has its own code.
    """
    preset = published_as(report)
    kind = _parts_kind(report)
    if (folder / "model_index.json").is_file():
        kind = STANDALONE if is_standalone else PIPELINE
    metadata, about = {}, []
    if preset is not None:
        publication = PUBLICATIONS[preset]
        kind = kind._replace(title=publication.title, limitations=f"{kind.limitations}\n\n{publication.limitations}")
        metadata = {
            "license": publication.license,
            "datasets": list(publication.datasets) or None,
            "base": publication.base_model,
        }
        links = {**publication.links, "the original": CODE}
        about = [f"## The model\n\n{table(publication.facts)}\n\n{_list(links)}"]
    save_card(
        folder,
        kind,
        name,
        *about,
        _conversion_section(report),
        f"## Papers\n\n{_list(PAPERS)}",
        has_grid=has_grid,
        **metadata,
    )


def _list(entries):
    return "\n".join(f"- {name}: {value}" for name, value in entries.items())


def _parts_kind(report):
    imports, loads = [], []
    for part, component in report["components"].items():
        library = "diffusers" if component["class"] in STOCK_CLASSES else "diffusers_ccld"
        imports.append(f"from {library} import {component['class']}")
        loads.append(f'{part} = {component["class"]}.from_pretrained({{name}}, subfolder="{part}")')
    return CardKind("Parts of a CCLD", PARTS_INTRODUCTION, "\n".join([*imports, "", *loads]), LIMITS_OF_PIPELINES)


def _conversion_section(report):
    parts, files = {}, {}
    for part, component in report["components"].items():
        parts[part] = f"{component['class']}, {component['parameters']:,} parameters, {component['dtype']}"
        source = report["sources"].get(component["source"])
        if source is not None:
            file = f"{Path(component['source']).name} ({component['format']})"
            files.setdefault(source["sha256"], (file, source["bytes"], []))[2].append(part)
    if "autoencoder_scale" in report:
        scale = report["autoencoder_scale"]
        parts["scale"] = f"latents are multiplied by {scale['value']:.6g} before decoding (from {scale['from']})"
    parts["made with"] = ", ".join(f"{library} {version}" for library, version in report["versions"].items())
    rows = [
        f"| {escaped(file)} | {', '.join(made)} | {size:,} | `{digest}` |"
        for digest, (file, size, made) in files.items()
    ]
    header = "| file | became | bytes | SHA-256 |\n|---|---|---|---|"
    return "\n\n".join(
        [
            "## Conversion",
            f"Converted by diffusers-ccld {__version__} from the original's files:",
            "\n".join([header, *rows]),
            table(parts),
        ]
    )


def sample_for_card(folder: Path, count: int) -> None:
    """Samples a grid of pictures for the card. Prompts repeat, with other seeds, once all have been used.

    Args:
        folder: The pipeline's folder.
        count: Number of pictures.
    """
    pipe = CCLDPipeline.from_pretrained(folder, dtype=torch.float32).to(usable_device(None))
    known = prompts_for(folder)
    prompts = [known[i % len(known)] for i in range(count)]
    pictures = list(sample(pipe, range(count), prompts, batch_size=1))
    image_grid(pictures, columns=min(4, count)).save(folder / GRID_NAME)
    (folder / PROMPTS_NAME).write_text("\n".join(prompts) + "\n", encoding="utf-8")
