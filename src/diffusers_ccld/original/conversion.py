"""From the original's files to a diffusers folder: what `conversion/convert_ckpt.py` does."""

import gc
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tqdm.auto import tqdm

from ..configuration_cloob import CLOOBConfig
from ..devices import DTYPES
from ..model_cards import CARD_NAME, GRID_NAME, PROMPTS_NAME
from ..modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..modeling_gumbel_vq import GumbelVQModel
from ..pipeline_ccld import CCLDPipeline
from ..processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..scheduling_ccld import RECOMMENDED_ALGORITHM, CCLDScheduler
from ..standalone import write_code
from ..unet_ccld import CCLDUNet2DConditionModel
from .autoencoder import (
    IGNORED,
    check_against_yaml,
    first_stage,
    infer_autoencoder,
    latent_channels,
    read_autoencoder_yaml,
)
from .card import paint_samples, save_conversion_card
from .check import check_conversion
from .cloob import (
    HEAD_DIM,
    cloob_table,
    infer_cloob_config,
    is_jax,
    is_published_size,
    load_cloob_config,
    split_cloob,
)
from .downloads import preset_files
from .errors import CheckpointError
from .presets import PRESETS
from .reading import num_bytes, sha256
from .scale import Scale, choose_scale, stored_scale, warn_of_other_scale
from .sources import Source, find_sources
from .tables import Entry, from_original
from .unet import SCALE_BUFFER, unet_config, unet_table

REPORT_NAME = "conversion_report.json"
COMPONENTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "image_encoder", "feature_extractor")


@dataclass
class Plan:
    """A component that is ready to be written: a model with its weights, or a preprocessor or scheduler."""

    name: str
    component: Any
    report: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        self.component.save_pretrained(folder / self.name)


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


def _check_is_free(output, names, overwrite):
    existing = [name for name in names if (output / name).exists()]
    if existing and not overwrite:
        raise CheckpointError(f"{output} has {', '.join(existing)} already; give --overwrite to replace them.")


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


def plan_unet(source: Source, preset: str | None, dtype: torch.dtype) -> list[Plan]:
    """The U-Net and its scheduler."""
    config = unet_config(source.state)
    if preset is not None and config["block_out_channels"] != PRESETS[preset].block_out_channels:
        raise CheckpointError(
            f"The U-Net has widths {config['block_out_channels']}; the preset {preset} has "
            f"{PRESETS[preset].block_out_channels}."
        )
    model = _empty(CCLDUNet2DConditionModel, **config)
    report = fill(model, source, unet_table(), SCALE_BUFFER, dtype)
    return [Plan("unet", model, report), Plan("scheduler", CCLDScheduler(algorithm_type=RECOMMENDED_ALGORITHM))]


def plan_vae(source: Source, yaml_file: str | Path | None, scale: Scale, dtype: torch.dtype) -> list[Plan]:
    """The autoencoder."""
    source.state, left_out = first_stage(source.state)
    source.ignored += left_out
    autoencoder = infer_autoencoder(source.state)
    resolution = 256
    if yaml_file is not None:
        kind, params = read_autoencoder_yaml(yaml_file)
        check_against_yaml(autoencoder, kind, params, yaml_file)
        resolution = params["ddconfig"]["resolution"]
    model = _empty(
        autoencoder.kind,
        **autoencoder.config,
        sample_size=resolution,
        scaling_factor=1 / scale.value,
        force_upcast=False,
    )
    return [Plan("vae", model, fill(model, source, autoencoder.table, IGNORED, dtype))]


def plan_cloob(source: Source, config: CLOOBConfig, dtype: torch.dtype) -> list[Plan]:
    """The two encoders and their preprocessors."""
    plans = []
    for component, state in split_cloob(source.state).items():
        is_text = component == "text_encoder"
        model_class = CLOOBTextModelWithProjection if is_text else CLOOBVisionModelWithProjection
        tower_config = config.text_config if is_text else config.vision_config
        model = _empty(model_class, config=tower_config)
        table = cloob_table(component, tower_config.num_hidden_layers, is_jax(source.state))
        tower = Source(state, source.path, source.what, source.ignored)
        plans.append(Plan(component, model, fill(model, tower, table, r"$^", dtype)))
    return [
        *plans,
        Plan("tokenizer", CLOOBTokenizer(model_max_length=config.text_config.max_position_embeddings)),
        Plan("feature_extractor", CLOOBImageProcessor(size=config.vision_config.image_size)),
    ]


def _cloob_config(source, name_or_file, preset, warn):
    inferred = infer_cloob_config(source.state)
    name_or_file = name_or_file or (PRESETS[preset].cloob_config if preset is not None else None)
    if name_or_file is None:
        if not is_published_size(inferred):
            warn(
                f"{source} is of no published size, and weights do not tell the number of attention heads: heads "
                f"{HEAD_DIM} wide were assumed. Give --cloob-config if that is wrong."
            )
        return inferred
    config = load_cloob_config(name_or_file)
    for tower in ("text_config", "vision_config"):
        said, found = getattr(config, tower).to_dict(), getattr(inferred, tower).to_dict()
        wrong = [k for k in said if k != "num_attention_heads" and said[k] != found[k]]
        if wrong:
            raise CheckpointError(
                f"The CLOOB configuration {name_or_file} does not belong to {source}: "
                + "; ".join(f"{k} is {said[k]} there and {found[k]} here" for k in wrong)
                + "."
            )
    return config


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


def _empty(model_class, **config):
    """A model whose parameters have shapes but no memory."""
    with torch.device("meta"):
        return model_class(**config)


def fill(
    model: torch.nn.Module, source: Source, table: list[Entry], ignore: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Loads a source into an empty model, in place; gives what the report says of it.

    Raises:
        CheckpointError: If a tensor is missing, unknown, of the wrong shape, not finite, or too large for the dtype.
    """
    if sum(map(num_bytes, source.state.values())) > source.path.stat().st_size:  # they may share their memory
        raise CheckpointError(f"{source}: the tensors unfold into more numbers than the file holds.")
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state, ignored = from_original(source.state, table, shapes, ignore, str(source))
    # What `from_pretrained` keeps in float32, a file of half precision must not have rounded.
    exact = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    dtypes = {name: torch.float32 if exact & set(name.split(".")) else dtype for name in state}
    state = {name: tensor.to(dtypes[name]).contiguous() for name, tensor in state.items()}
    if too_large := [n for n, t in state.items() if dtype == torch.float16 and not torch.isfinite(t).all()]:
        raise CheckpointError(f"{source}: {too_large[0]} has values too large for fp16; take bf16 or fp32.")
    seen = set()
    for name, tensor in state.items():  # safetensors refuses what two tensors share
        if tensor.data_ptr() in seen:
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    model.load_state_dict(state, strict=True, assign=True)
    model.eval()
    return {
        "class": type(model).__name__,
        "source": str(source.path),
        "format": source.what,
        "parameters": sum(p.numel() for p in model.parameters()),
        "source_tensors_used": len(source.state) - len(ignored),
        "ignored": source.ignored + ignored,
    }


# The report and the folder


def _make_report(plans, sources, scale, preset, dtype, earlier):
    """What this conversion does, beside what an earlier one has done to other components."""
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


def _earlier_report(output: Path) -> dict[str, Any]:
    """The report of an earlier conversion into the same folder.

    Raises:
        CheckpointError: If the folder is no folder or the report is damaged.
    """
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output} is no folder.")
    path = output / REPORT_NAME
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text())
        if not all(isinstance(report.get(section, {}), dict) for section in ("sources", "components")):
            raise ValueError("its sections are no mappings")
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
