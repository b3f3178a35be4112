"""From the original's files to a diffusers folder: what `conversion/convert_ckpt.py` does."""

import gc
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from ..configuration_cloob import CLOOBConfig
from ..modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..pipeline_ccld import CCLDPipeline
from ..processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..scheduling_ccld import CCLDScheduler
from ..unet_ccld import CCLDUNet2DConditionModel
from . import autoencoder as kl
from .check import check_conversion
from .cloob import HEAD_DIM, cloob_table, infer_cloob_config, is_published_size, load_cloob_config
from .presets import PRESETS
from .reading import CheckpointError, read_checkpoint, read_cloob_pickle, sha256
from .scale import Scale, choose_scale, stored_scale
from .tables import from_original
from .unet import SCALE_BUFFER, split_training_checkpoint, unet_config, unet_table

REPORT_NAME = "conversion_report.json"
COMPONENTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "image_encoder", "feature_extractor")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Source:
    """A state dict in one of the original's formats, and where it comes from."""

    state: dict[str, torch.Tensor]
    path: Path
    what: str
    ignored: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path} ({self.what})"


def convert(
    output: str | Path,
    unet: str | Path | None = None,
    cloob: str | Path | None = None,
    autoencoder: str | Path | None = None,
    cloob_config: str | Path | None = None,
    autoencoder_config: str | Path | None = None,
    autoencoder_scale: float | None = None,
    preset: str | None = None,
    ema: bool = True,
    dtype: str = "fp32",
    overwrite: bool = False,
    warn: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Converts any of a U-Net, a CLOOB and an autoencoder to the subfolders of a diffusers folder.

    What is written is loaded again and run once before it takes its place; a conversion that fails leaves nothing.

    Args:
        output: Folder to write; components that it has already, others than those converted, are kept.
        unet: U-Net, bare or in a Lightning training checkpoint, whose autoencoder and CLOOB then serve where none
            is given.
        cloob: CLOOB pickle.
        autoencoder: KL autoencoder, bare or under `state_dict`.
        cloob_config: Name of a published CLOOB configuration or a JSON file; by default read off the weights.
        autoencoder_config: The autoencoder's YAML file, to check against; by default all is read off the weights.
        autoencoder_scale: What latents are multiplied with before decoding; by default the preset's, else the
            U-Net file's.
        preset: Name of a published model, for what its files do not say.
        ema: Whether to take the averaged weights of a training checkpoint, or the raw ones.
        dtype: "fp32", "fp16" or "bf16".
        overwrite: Whether components that the folder has already may be replaced.
        warn: What is told of things to know that do not stop the conversion.

    Returns:
        The report that is also written to `conversion_report.json`.

    Raises:
        CheckpointError: If a file is not what it should be, or the scale cannot be told.
    """
    output = Path(output)
    if unet is None and cloob is None and autoencoder is None:
        raise CheckpointError("Nothing to convert: give --unet, --cloob or --autoencoder.")
    if preset is not None and preset not in PRESETS:
        raise CheckpointError(f"Unknown preset {preset!r}; there are {', '.join(PRESETS)}.")
    if dtype not in DTYPES:
        raise CheckpointError(f"Unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    if autoencoder_scale is not None and not (math.isfinite(autoencoder_scale) and autoencoder_scale > 0):
        raise CheckpointError(f"The autoencoder scale must be a positive number, not {autoencoder_scale}.")

    sources = find_sources(unet, cloob, autoencoder, ema)
    if autoencoder_config is not None and "vae" not in sources:
        raise CheckpointError("--autoencoder-config was given, but no autoencoder.")
    if cloob_config is not None and "cloob" not in sources:
        raise CheckpointError("--cloob-config was given, but no CLOOB.")
    components = [name for name in COMPONENTS if _source_name(name) in sources]
    existing = [name for name in components if (output / name).exists()]
    if existing and not overwrite:
        raise CheckpointError(f"{output} has {', '.join(existing)} already; give --overwrite to replace them.")

    steps: dict[str, Callable[[Path], dict[str, Any]]] = {}
    scale = None
    if "unet" in sources:
        config = unet_config(sources["unet"].state)
        _check_preset(preset, config)
        if "vae" in sources:
            scale = choose_scale(
                autoencoder_scale, preset, stored_scale(sources["unet"].state), config["block_out_channels"], warn
            )
        steps["unet"] = lambda folder: write_unet(sources["unet"], config, folder, DTYPES[dtype])
    elif "vae" in sources:
        scale = choose_scale(autoencoder_scale, preset, None, None, warn)
    if scale is None and autoencoder_scale is not None:
        raise CheckpointError("--autoencoder-scale was given, but no autoencoder.")
    if "vae" in sources:
        steps["vae"] = lambda folder: write_vae(sources["vae"], autoencoder_config, scale, folder, DTYPES[dtype])
    if "cloob" in sources:
        joint_config = _cloob_config(sources["cloob"], cloob_config, preset, warn)
        steps["cloob"] = lambda folder: write_cloob(sources["cloob"], joint_config, folder, DTYPES[dtype])

    report = {
        "versions": {m.__name__: m.__version__ for m in (diffusers, transformers, torch)},
        "preset": preset,
        "dtype": dtype,
        "sources": {},
        "components": {},
    }
    if scale is not None:
        report["autoencoder_scale"] = {"value": scale.value, "from": scale.origin}
    for path in sorted({source.path for source in sources.values()}):
        report["sources"][path.name] = {"path": str(path), "sha256": sha256(path), "bytes": path.stat().st_size}

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary)
        for name, step in tqdm(steps.items(), desc="Converting", unit="part"):
            report["components"].update(step(folder))
            sources[name].state.clear()  # unmaps the file: what was written is mapped in its turn
            gc.collect()
        if set(components) == set(COMPONENTS):
            _write_model_index(folder)
        report["check"] = check_conversion(folder, components)
        _merge_report(report, output / REPORT_NAME)
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n")
        _move_into_place(folder, components, output)
    return report


# Sources


def find_sources(
    unet: str | Path | None, cloob: str | Path | None, autoencoder: str | Path | None, ema: bool = True
) -> dict[str, Source]:
    """Opens the files and finds the state dicts in them, by "unet", "vae" and "cloob".

    Raises:
        CheckpointError: If a file cannot be read or lacks what is asked of it.
    """
    sources = {}
    if unet is not None:
        sources |= _unet_sources(Path(unet), ema)
    if cloob is not None:
        sources["cloob"] = Source(read_cloob_pickle(cloob), Path(cloob), "CLOOB pickle")
    if autoencoder is not None:
        checkpoint = read_checkpoint(autoencoder)
        state, ignored = dict(checkpoint), []
        if "state_dict" in checkpoint:
            state = dict(checkpoint["state_dict"])
            ignored = [key for key in checkpoint if key != "state_dict"]
        sources["vae"] = Source(state, Path(autoencoder), "autoencoder", ignored)
    return sources


def _unet_sources(path: Path, ema: bool) -> dict[str, Source]:
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        if not ema:
            raise CheckpointError(f"{path} holds one set of weights; leave out --no-ema.")
        return {"unet": Source(dict(checkpoint), path, "bare U-Net")}

    parts = split_training_checkpoint(checkpoint["state_dict"])
    chosen, other = ("model_ema", "model") if ema else ("model", "model_ema")
    if chosen not in parts:
        hint = " Give --no-ema to take the raw ones." if ema and "model" in parts else ""
        raise CheckpointError(f"{path}: the training checkpoint has no {chosen}.* weights.{hint}")
    left_out = [key for key in checkpoint if key != "state_dict"]
    left_out += [f"{other}.{name}" for name in parts.get(other, ())] + list(parts.get("", ()))
    what = "averaged weights" if ema else "raw weights"
    sources = {"unet": Source(parts[chosen], path, f"training checkpoint, {what}", left_out)}
    for name, part in (("vae", "ae_model"), ("cloob", "cloob")):
        if part in parts:
            sources[name] = Source(parts[part], path, f"training checkpoint, {part}")
    return sources


def _source_name(component: str) -> str:
    """Which of the original's three models a component of the pipeline is made from."""
    return {"unet": "unet", "scheduler": "unet", "vae": "vae"}.get(component, "cloob")


# Components


def _check_preset(preset, config):
    if preset is not None and config["block_out_channels"] != PRESETS[preset].block_out_channels:
        raise CheckpointError(
            f"The U-Net has widths {config['block_out_channels']}; the preset {preset} has "
            f"{PRESETS[preset].block_out_channels}."
        )


def write_unet(source: Source, config: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Writes `unet/` and `scheduler/`; gives what the report says of them."""
    model = _empty(CCLDUNet2DConditionModel, **config)
    report = _fill(model, source, unet_table(), SCALE_BUFFER, dtype)
    model.save_pretrained(folder / "unet")
    CCLDScheduler().save_pretrained(folder / "scheduler")
    return {"unet": report}


def write_vae(
    source: Source, yaml_file: str | Path | None, scale: Scale, folder: Path, dtype: torch.dtype
) -> dict[str, Any]:
    """Writes `vae/`; gives what the report says of it."""
    config = kl.infer_autoencoder_config(source.state)
    resolution = 256
    if yaml_file is not None:
        params = kl.read_autoencoder_yaml(yaml_file)
        kl.check_against_yaml(config, params, yaml_file)
        resolution = params["ddconfig"].get("resolution", resolution)
    table = kl.autoencoder_table(len(config["block_out_channels"]), config["layers_per_block"])
    model = _empty(AutoencoderKL, **config, sample_size=resolution, scaling_factor=1 / scale.value, force_upcast=False)
    report = _fill(model, source, table, kl.IGNORED, dtype)
    model.save_pretrained(folder / "vae")
    return {"vae": report}


def write_cloob(source: Source, config: CLOOBConfig, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Writes the two encoders and their preprocessors; gives what the report says of them."""
    is_jax = _is_jax(source.state)
    reports = {}
    for component, model_class, tower_config in (
        ("text_encoder", CLOOBTextModelWithProjection, config.text_config),
        ("image_encoder", CLOOBVisionModelWithProjection, config.vision_config),
    ):
        model = _empty(model_class, config=tower_config)
        table = cloob_table(component, tower_config.num_hidden_layers, is_jax)
        # Either tower's tensors are left out of the other one.
        prefix = table[0].original.split("/" if is_jax else ".")[0]
        part = {name: tensor for name, tensor in source.state.items() if name.startswith(prefix)}
        reports[component] = _fill(model, Source(part, source.path, source.what, source.ignored), table, r"$^", dtype)
        model.save_pretrained(folder / component)
    prefixes = tuple(_tower_prefixes(is_jax))
    if strangers := [name for name in source.state if not name.startswith(prefixes)]:
        raise CheckpointError(f"{source} has, beyond what it should, {', '.join(strangers[:5])}.")
    CLOOBTokenizer(model_max_length=config.text_config.max_position_embeddings).save_pretrained(folder / "tokenizer")
    CLOOBImageProcessor(size=config.vision_config.image_size).save_pretrained(folder / "feature_extractor")
    return reports


def _tower_prefixes(is_jax):
    return ("text_encoder/", "vi_t_image_encoder/") if is_jax else ("text_encoder.", "image_encoder.")


def _is_jax(state):
    return any("/" in name for name in state)


def _cloob_config(source, name_or_file, preset, warn):
    inferred = infer_cloob_config(source.state, _is_jax(source.state))
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


def _empty(model_class, **config):
    """A model whose parameters have shapes but no memory."""
    with torch.device("meta"):
        return model_class(**config)


def _fill(model, source, table, ignore, dtype):
    """Loads a source into an empty model, in place; gives what the report says of it."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state, ignored = from_original(source.state, table, shapes, ignore, str(source))
    model.load_state_dict({n: t.to(dtype).contiguous() for n, t in state.items()}, strict=True, assign=True)
    model.eval()
    return {
        "class": type(model).__name__,
        "source": source.path.name,
        "format": source.what,
        "parameters": sum(p.numel() for p in model.parameters()),
        "source_tensors_used": len(source.state) - len(ignored),
        "ignored": source.ignored + ignored,
    }


# Finishing


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
        "vae": ["diffusers", vae_class],
        **{name: ["diffusers_ccld", cls.__name__] for name, cls in classes.items()},
    }
    (folder / "model_index.json").write_text(json.dumps(dict(sorted(index.items())), indent=2) + "\n")


def _merge_report(report: dict[str, Any], path: Path) -> None:
    """Takes over what an earlier report says of components and sources that this conversion has not touched."""
    if not path.is_file():
        return
    earlier = json.loads(path.read_text())
    for section in ("sources", "components", "check"):
        report[section] = {**earlier.get(section, {}), **report[section]}
    if "autoencoder_scale" in earlier:
        report.setdefault("autoencoder_scale", earlier["autoencoder_scale"])


def _move_into_place(folder: Path, components: list[str], output: Path) -> None:
    output.mkdir(exist_ok=True)
    for name in components:
        if (output / name).exists():
            shutil.rmtree(output / name)
        os.replace(folder / name, output / name)
    os.replace(folder / REPORT_NAME, output / REPORT_NAME)
    if all((output / name).is_dir() for name in COMPONENTS):
        _write_model_index(output)
