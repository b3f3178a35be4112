"""Converts the original's files to a diffusers folder.

A conversion takes four steps. `make_plan` reads the files and checks the request against them. `build` makes the
models. The models are written to a temporary folder, loaded again and run. Only then does the result move into place.
"""

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tqdm.auto import tqdm

from ..inference.devices import DTYPES
from ..models.configuration_cloob import CLOOBConfig
from ..sharing.base_models import CARD_NAME
from ..sharing.model_cards import GRID_NAME
from ..sharing.standalone import write_code
from ..utils.locks import exclusive
from ..utils.words import PROMPTS_NAME
from .building import Part, build_cloob, build_unet, build_vae, choose_cloob_config
from .check import check_conversion, check_widths
from .errors import CheckpointError
from .folder import (
    CODE_NAME,
    COMPONENTS,
    REPORT_NAME,
    check_is_free,
    is_whole,
    link_existing,
    move_into_place,
    read_earlier_report,
    write_model_index,
    written_aside,
)
from .published.card import sample_for_card, save_conversion_card
from .reading.checkpoints import sha256
from .reading.sources import Source, find_sources
from .request import ConversionRequest
from .tensors.scale import Scale, choose_scale, stored_scale, warn_of_other_scale
from .tensors.unet import unet_config

# Folders that are written for each source.
COMPONENTS_OF = {
    "unet": ("unet", "scheduler"),
    "vae": ("vae",),
    "cloob": ("text_encoder", "image_encoder", "tokenizer", "feature_extractor"),
}

Warn = Callable[[str], None]


@dataclass
class Plan:
    """A checked conversion.

    Attributes:
        sources: State dicts by "unet", "vae" and "cloob".
        scale: Scale of the autoencoder's latents, if there is an autoencoder.
        cloob_config: Configuration of the CLOOB, if there is one.
    """

    sources: dict[str, Source]
    scale: Scale | None
    cloob_config: CLOOBConfig | None

    @property
    def components(self) -> list[str]:
        """Names of the folders to write."""
        return [component for source in COMPONENTS_OF if source in self.sources for component in COMPONENTS_OF[source]]


def convert(request: ConversionRequest, warn: Warn = print) -> dict[str, Any]:
    """Converts any of a U-Net, a CLOOB and an autoencoder to the subfolders of a diffusers folder.

    All files are read and checked before anything is written. The result is written to a temporary folder. There it is
    loaded and run once, together with the existing components of the output. Only then does it move into place. A
    conversion that fails or is interrupted changes nothing.

    Args:
        request: The files to convert and the folder to write.
        warn: Receives warnings, which do not stop the conversion.

    Returns:
        The report, which is also written to `conversion_report.json`.

    Raises:
        CheckpointError: If a file cannot be used, or the scale is unknown.
        FolderInUseError: If another process writes the folder.
    """
    output = request.output.resolve()
    with exclusive(output):
        return _convert(request, output, warn)


def _convert(request: ConversionRequest, output: Path, warn: Warn) -> dict[str, Any]:
    earlier = read_earlier_report(output)
    if not request.has_files:
        check_is_free(output, COMPONENTS, request.overwrite)
        request = request.with_published_files()

    plan = make_plan(request, output, warn)
    parts = build(plan, request)
    report = make_report(plan, parts, request, earlier)
    for source in plan.sources.values():
        source.state.clear()

    with written_aside(output) as folder:
        written = _write(parts, folder, output, request.standalone)
        report["check"] = check_conversion(folder)
        written += _write_card(folder, output, request, report, earlier, warn)
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        move_into_place(folder, [*written, REPORT_NAME], output)
    return report


# Plan


def make_plan(request: ConversionRequest, output: Path, warn: Warn) -> Plan:
    """Reads the files, and chooses the values that they lack: the scale and the CLOOB's configuration.

    Raises:
        CheckpointError: If a file cannot be read, the request does not fit the files, or components already exist.
    """
    sources = find_sources(request.unet, request.cloob, request.autoencoder, request.ema)
    _check_options(request, sources)
    scale = _choose_scale(request, sources, output, warn)
    config = None
    if "cloob" in sources:
        config = choose_cloob_config(sources["cloob"], request.cloob_config, request.preset, warn)
    plan = Plan(sources, scale, config)
    if request.standalone and len(plan.components) < len(COMPONENTS):
        raise CheckpointError("--standalone needs a whole pipeline at once: U-Net, CLOOB and autoencoder.")
    if request.card_samples and not is_whole(output, plan.components):
        raise CheckpointError("Samples for the card need a whole pipeline: U-Net, CLOOB and autoencoder.")
    check_is_free(output, plan.components, request.overwrite)
    return plan


def _check_options(request, sources):
    """Raises `CheckpointError` if an option describes a model that none of the files contains."""
    for option, value, source, noun in (
        ("--autoencoder-config", request.autoencoder_config, "vae", "autoencoder"),
        ("--autoencoder-scale", request.autoencoder_scale, "vae", "autoencoder"),
        ("--cloob-config", request.cloob_config, "cloob", "CLOOB"),
    ):
        if value is not None and source not in sources:
            raise CheckpointError(f"{option} was given, but no {noun}.")


def _choose_scale(request, sources, output, warn):
    """The scale for a new autoencoder, or `None`. Warns if a new U-Net and an old autoencoder disagree."""
    stored = widths = None
    if "unet" in sources:
        widths = unet_config(sources["unet"].state)["block_out_channels"]
        stored = stored_scale(sources["unet"].state)
    if "vae" in sources:
        return choose_scale(request.autoencoder_scale, request.preset, stored, widths, warn)
    if stored is not None and (output / "vae" / "config.json").is_file():
        warn_of_other_scale(stored, output / "vae" / "config.json", warn)
    return None


# Build


def build(plan: Plan, request: ConversionRequest) -> list[Part]:
    """Makes the components of the new folder from the sources.

    Raises:
        CheckpointError: If tensors are missing, unknown or damaged, or the models do not fit together.
    """
    sources, dtype = plan.sources, DTYPES[request.dtype]
    parts: list[Part] = []
    if "unet" in sources:
        parts += build_unet(sources["unet"], request.preset, dtype)
    if "vae" in sources:
        parts += build_vae(sources["vae"], request.autoencoder_config, plan.scale, dtype)
    if "cloob" in sources:
        parts += build_cloob(sources["cloob"], plan.cloob_config, dtype)
    check_widths({part.name: part.component.config for part in parts if part.report is not None})
    return parts


def make_report(plan: Plan, parts: list[Part], request: ConversionRequest, earlier: dict[str, Any]) -> dict[str, Any]:
    """Describes this conversion. Components that an earlier one wrote keep their entries."""
    report = {
        "versions": {m.__name__: m.__version__ for m in (diffusers, transformers, torch)},
        "sources": dict(earlier.get("sources", {})),
        "components": dict(earlier.get("components", {})),
    }
    if plan.scale is not None:
        report["autoencoder_scale"] = {"value": plan.scale.value, "from": plan.scale.origin}
    elif "autoencoder_scale" in earlier:
        report["autoencoder_scale"] = earlier["autoencoder_scale"]
    for part in parts:
        if part.report is not None:
            report["components"][part.name] = {**part.report, "preset": request.preset, "dtype": request.dtype}
    for path in sorted({source.path for source in plan.sources.values()}):
        report["sources"][str(path)] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return report


# Write


def _write(parts, folder, output, standalone):
    """Writes the parts, links the components that stay, and empties `parts`. Returns the written names."""
    written = [part.name for part in parts]
    for part in tqdm(parts, desc="Converting", unit="part"):
        part.write(folder)
    parts.clear()  # unmaps the source files before the written ones are mapped
    gc.collect()
    link_existing(folder, output)
    if is_whole(folder):
        write_model_index(folder)
        written.append("model_index.json")
    if standalone or (output / CODE_NAME).is_file():
        write_code(folder, [name for name in written if (folder / name).is_dir()])
        written.append(CODE_NAME)
    return written


def _write_card(folder, output, request, report, earlier, warn):
    """Writes the model card and its samples, and returns their names. An edited card is kept."""
    card, samples = output / CARD_NAME, []
    if request.card_samples:
        sample_for_card(folder, request.card_samples)
        samples = [GRID_NAME, PROMPTS_NAME]
    if card.is_file() and sha256(card) != earlier.get("card_sha256"):
        warn(f"{card} was edited after the conversion that wrote it, so it is kept.")
        return samples
    is_standalone = (folder / CODE_NAME).is_file()
    save_conversion_card(folder, report, request.hub_name or output.name, bool(samples), is_standalone)
    report["card_sha256"] = sha256(folder / CARD_NAME)
    return [CARD_NAME, *samples]
