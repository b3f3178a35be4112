"""From the original's files to a diffusers folder: what `conversion/convert_ckpt.py` does."""

import gc
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tqdm.auto import tqdm

from ..inference.devices import DTYPES
from ..sharing.model_cards import CARD_NAME, GRID_NAME, PROMPTS_NAME
from ..sharing.standalone import write_code
from .building import Plan, _cloob_config, plan_cloob, plan_unet, plan_vae
from .check import check_conversion
from .errors import CheckpointError
from .folder import (
    COMPONENTS,
    REPORT_NAME,
    _check_is_free,
    _earlier_report,
    _link_existing,
    _move_into_place,
    _write_model_index,
)
from .published.card import paint_samples, save_conversion_card
from .published.presets import PRESETS
from .reading.checkpoints import sha256
from .reading.downloads import preset_files
from .reading.sources import find_sources
from .tensors.autoencoder import latent_channels
from .tensors.scale import choose_scale, stored_scale, warn_of_other_scale


def convert(
    output: str | Path,
    unet: str | Path | None = None,
    cloob: str | Path | None = None,
    autoencoder: str | Path | None = None,
    cloob_config: str | Path | None = None,
    autoencoder_config: str | Path | None = None,
    autoencoder_scale: float | None = None,
    preset: str | None = None,
    source_dir: str | Path | None = None,
    ema: bool = True,
    dtype: str = "fp32",
    overwrite: bool = False,
    standalone: bool = False,
    hub_name: str | None = None,
    card_samples: int = 0,
    warn: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Converts any of a U-Net, a CLOOB and an autoencoder to the subfolders of a diffusers folder.

    All sources are read and checked before anything is written. What is written is loaded again and run once,
    together with the components that the folder has already, before it takes its place; a conversion that fails or
    is interrupted changes nothing.

    Args:
        output: Folder to write; components that it has already, others than those converted, are kept.
        unet: U-Net, bare or in a Lightning training checkpoint, whose autoencoder and CLOOB then serve where none
            is given.
        cloob: CLOOB pickle.
        autoencoder: Autoencoder of latent-diffusion or taming-transformers, KL or VQ, bare or under `state_dict`, or
            within a larger model.
        cloob_config: Name of a published CLOOB configuration or a JSON file; by default read off the weights.
        autoencoder_config: The autoencoder's YAML file, to check against; by default all is read off the weights.
        autoencoder_scale: What latents are multiplied with before decoding; by default the preset's, else the
            U-Net file's.
        preset: Name of a published model, for what its files do not say. Without any files, its own are downloaded.
        source_dir: Folder to take the preset's files from, under their published names, in place of downloading them.
        ema: Whether to take the averaged weights of a training checkpoint, or the raw ones.
        dtype: "fp32", "fp16" or "bf16".
        overwrite: Whether components that the folder has already may be replaced.
        standalone: Whether to add the code that lets the folder be used without this package; it has to be whole then.
        hub_name: Name of the repository that the folder will be uploaded to, for its card.
        card_samples: How many pictures to paint for its card.
        warn: What is told of things to know that do not stop the conversion.

    Returns:
        The report that is also written to `conversion_report.json`.

    Raises:
        CheckpointError: If a file is not what it should be, or the scale cannot be told.
    """
    output = Path(output).resolve()
    has_files = any(file is not None for file in (unet, cloob, autoencoder))
    _check_arguments(has_files, unet, autoencoder_scale, preset, source_dir, ema, dtype, card_samples)
    earlier = _earlier_report(output)
    if not has_files:
        _check_is_free(output, COMPONENTS, overwrite)
        files = preset_files(preset, source_dir)
        unet, cloob, autoencoder = files["unet"], files["cloob"], files["autoencoder"]
        autoencoder_config = autoencoder_config or files["autoencoder_config"]
    sources = find_sources(unet, cloob, autoencoder, ema)
    for option, value, source in (
        ("--autoencoder-config", autoencoder_config, "vae"),
        ("--autoencoder-scale", autoencoder_scale, "vae"),
        ("--cloob-config", cloob_config, "cloob"),
    ):
        if value is not None and source not in sources:
            noun = "CLOOB" if source == "cloob" else "autoencoder"
            raise CheckpointError(f"{option} was given, but no {noun}.")

    plans: list[Plan] = []
    stored = widths = scale = None
    if "unet" in sources:
        plans += plan_unet(sources["unet"], preset, DTYPES[dtype])
        stored = stored_scale(sources["unet"].state)
        widths = plans[0].component.config.block_out_channels
    if "vae" in sources:
        scale = choose_scale(autoencoder_scale, preset, stored, widths, warn)
        plans += plan_vae(sources["vae"], autoencoder_config, scale, DTYPES[dtype])
    elif stored is not None and (output / "vae" / "config.json").is_file():
        warn_of_other_scale(stored, output / "vae" / "config.json", warn)
    if "cloob" in sources:
        config = _cloob_config(sources["cloob"], cloob_config, preset, warn)
        plans += plan_cloob(sources["cloob"], config, DTYPES[dtype])
    _check_widths(plans)
    if standalone and len(plans) < len(COMPONENTS):
        raise CheckpointError("--standalone needs a whole pipeline at once: U-Net, CLOOB and autoencoder.")
    names = {plan.name for plan in plans}
    if card_samples and not all(name in names or (output / name).is_dir() for name in COMPONENTS):
        raise CheckpointError("Samples for the card need a whole pipeline: U-Net, CLOOB and autoencoder.")
    _check_is_free(output, [plan.name for plan in plans], overwrite)

    report = _make_report(plans, sources, scale, preset, dtype, earlier)
    for source in sources.values():
        source.state.clear()

    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=output) as temporary:
            folder = Path(temporary)
            written = [plan.name for plan in plans]
            for plan in tqdm(plans, desc="Converting", unit="part"):
                plan.write(folder)
            plans.clear()  # unmaps the source files, before the written ones are mapped in their turn
            gc.collect()
            _link_existing(folder, output)
            if all((folder / name).is_dir() for name in COMPONENTS):
                _write_model_index(folder)
                written.append("model_index.json")
            is_standalone = standalone or (output / "pipeline.py").is_file()
            if is_standalone:
                write_code(folder, [name for name in written if (folder / name).is_dir()])
                written.append("pipeline.py")
            report["check"] = check_conversion(folder)
            written += _write_card(folder, report, output, hub_name, card_samples, is_standalone, earlier, warn)
            (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n")
            _move_into_place(folder, [*written, REPORT_NAME], output)
    except BaseException:
        if is_new:
            shutil.rmtree(output)
        raise
    return report


def _check_arguments(has_files, unet, autoencoder_scale, preset, source_dir, ema, dtype, card_samples):
    if not has_files and preset is None:
        raise CheckpointError("Nothing to convert: give --unet, --cloob or --autoencoder, or a published --preset.")
    if source_dir is not None and (preset is None or has_files):
        raise CheckpointError("--source-dir is where all files of a --preset are: give no other files beside it.")
    if has_files and unet is None and not ema:
        raise CheckpointError("--no-ema was given, but no U-Net.")
    if preset is not None and preset not in PRESETS:
        raise CheckpointError(f"Unknown preset {preset!r}; there are {', '.join(PRESETS)}.")
    if dtype not in DTYPES:
        raise CheckpointError(f"Unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    if autoencoder_scale is not None and not (math.isfinite(autoencoder_scale) and autoencoder_scale > 0):
        raise CheckpointError(f"The autoencoder scale must be a positive number, not {autoencoder_scale}.")
    if card_samples < 0:
        raise CheckpointError("The number of samples for the card must not be negative.")


# Plans


def _check_widths(plans):
    """Raises if the embeddings of a CLOOB or the latents of an autoencoder do not fit the U-Net beside them."""
    configs = {plan.name: plan.component.config for plan in plans if plan.report is not None}
    if "unet" in configs and "text_encoder" in configs:
        wanted, made = configs["unet"].cross_attention_dim, configs["text_encoder"].projection_dim
        if wanted != made:
            raise CheckpointError(f"The U-Net wants embeddings of width {wanted}; the CLOOB makes them of {made}.")
    if "unet" in configs and "vae" in configs:
        wanted, made = configs["unet"].in_channels, latent_channels(configs["vae"])
        if wanted != made:
            raise CheckpointError(f"The U-Net wants {wanted} channels of latents; the autoencoder makes {made}.")


# The report and the folder


def _make_report(plans, sources, scale, preset, dtype, earlier):
    """The report of this conversion, merged with that of an earlier one for other components."""
    report = {
        "versions": {m.__name__: m.__version__ for m in (diffusers, transformers, torch)},
        "sources": dict(earlier.get("sources", {})),
        "components": dict(earlier.get("components", {})),
    }
    if scale is not None:
        report["autoencoder_scale"] = {"value": scale.value, "from": scale.origin}
    elif "autoencoder_scale" in earlier:
        report["autoencoder_scale"] = earlier["autoencoder_scale"]
    for plan in plans:
        if plan.report is not None:
            report["components"][plan.name] = {**plan.report, "preset": preset, "dtype": dtype}
    for path in sorted({source.path for source in sources.values()}):
        report["sources"][str(path)] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return report


def _write_card(folder, report, output, hub_name, card_samples, is_standalone, earlier, warn):
    """Writes the card and its samples, gives their names; a card that somebody has changed is kept."""
    card, samples = output / CARD_NAME, []
    if card_samples:
        paint_samples(folder, card_samples)
        samples = [GRID_NAME, PROMPTS_NAME]
    if card.is_file() and sha256(card) != earlier.get("card_sha256"):
        warn(f"{card} is not as a conversion wrote it, and is kept.")
        return samples
    save_conversion_card(folder, report, hub_name or output.name, bool(samples), is_standalone)
    report["card_sha256"] = sha256(folder / CARD_NAME)
    return [CARD_NAME, *samples]
