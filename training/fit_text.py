#!/usr/bin/env python3
"""Fits a model's text encoder to its image embeddings, in closed form, from a few hundred images with captions.

    python training/fit_text.py --model DIR --dataset CAPTIONED --caption-columns caption --output NEW_DIR

Only the last linear layer of the text encoder changes. The output is a copy of the model with that layer, with the
spread of images around a text's embedding for `variation`, and with text_fit.json, the report. The model is a
pipeline, a converted one for example, or the result of train_cloob.py. Several processes (accelerate launch) share the
images. Embeddings in a cache of precompute.py are used (--cache).
"""

import dataclasses
import json
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import PartialState

from diffusers_ccld import CCLDUNet2DConditionModel
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.captions import load_captions
from diffusers_ccld.data.encoding import model_fingerprint
from diffusers_ccld.data.fingerprints import images_fingerprint
from diffusers_ccld.data.images import Preparation
from diffusers_ccld.data.latent_cache import LatentCache
from diffusers_ccld.data.sources import canonical_source, find_examples, select_images
from diffusers_ccld.inference.loading import find_folder
from diffusers_ccld.training.components import load_components
from diffusers_ccld.training.config import ImageConfig, require, setting
from diffusers_ccld.training.text_fit import TextFit
from diffusers_ccld.training.text_pairs import PairEncoder, fit_text_encoder
from diffusers_ccld.training.text_report import fit_table, save_report
from diffusers_ccld.utils.files import folder_moved_into_place, write_text
from diffusers_ccld.utils.locks import exclusive
from diffusers_ccld.utils.next_steps import print_how_to_sample

PARTS = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")
DRY_RUN_IMAGES = 64


@dataclasses.dataclass(kw_only=True)
class TextFitConfig(ImageConfig):
    """Settings of this script."""

    model: str = setting(dataclasses.MISSING, "folder or Hub name of the pipeline, or folder of a CLOOB")
    output: str = setting(dataclasses.MISSING, "folder to write, a copy of the model")
    caption_columns: list[str] = setting(["caption"], "columns of the dataset with captions")
    cache: str | None = setting(None, "take image embeddings from this cache of precompute.py")
    max_images: int = setting(20_000, "number of images to use at most, drawn by the seed")
    held_out_share: float = setting(0.1, "share of the images that the ridge and the report are measured on")
    batch_size: int = setting(64, "pictures encoded at once")
    default_guidance_scale: float | None = setting(None, "record this default in model_index.json")
    default_variation: float | None = setting(None, "record this default in model_index.json, 0 to 1")

    def __post_init__(self):
        super().__post_init__()
        require(self.dataset is not None, "Give a dataset of images with captions")
        require(self.batch_size >= 1, "batch_size must be at least 1")
        require(self.max_images >= 8, "max_images must be at least 8")
        require(0 < self.held_out_share < 1, "held_out_share must lie between 0 and 1")
        require(
            self.default_variation is None or 0 <= self.default_variation <= 1,
            "default_variation must lie between 0 and 1",
        )


def image_size(config: TextFitConfig, folder: Path, processor_size: int) -> int:
    """Height and width of the images that the diffusion model sees, or else of those that the image encoder takes."""
    if config.resolution is not None:
        return config.resolution
    if not (folder / "unet").is_dir() or not (folder / "vae").is_dir():
        return processor_size
    sample_size = CCLDUNet2DConditionModel.load_config(folder, subfolder="unet")["sample_size"]
    levels = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8")).get(
        "block_out_channels", [0] * 4
    )
    return sample_size * 2 ** (len(levels) - 1)


def open_cache(config: TextFitConfig, images, image_encoder: torch.nn.Module) -> LatentCache | None:
    """The cache, if one is given.

    Raises:
        ValueError: If it was made from other images or by another image encoder.
    """
    if config.cache is None:
        return None
    cache = LatentCache.open(config.cache, config.seed)
    wanted = {"image_encoder": model_fingerprint(image_encoder), "num_images": len(images)}
    wanted["images"] = images_fingerprint(images, cache.manifest.images)
    cache.manifest.require(wanted, f"{config.cache} is another model's cache")
    return cache


def fit(config: TextFitConfig) -> None:
    state = PartialState(cpu=not torch.accelerator.is_available())
    writes = state.is_main_process and not config.dry_run
    with exclusive(Path(config.output), beside=True) if writes else nullcontext():
        fit_alone(config, state)


def fit_alone(config: TextFitConfig, state: PartialState) -> None:
    folder, output = find_folder(config.model), Path(config.output)
    if output.exists():
        raise ValueError(f"{output} exists already; give a new folder.")
    parts = load_components(str(folder), PARTS)
    source = canonical_source(config.dataset)
    with state.main_process_first():
        found = find_examples(source, config.dataset_split)
    state.print(found.description)
    examples = found.examples
    images = select_images(examples, source, config.image_column)
    captions = load_captions(examples, config.caption_columns)
    size = image_size(config, folder, parts["feature_extractor"].size)
    encoder = PairEncoder(
        images=images,
        captions=captions,
        preparation=Preparation(size, config.random_crop, config.random_flip, config.image_limits),
        text_encoder=parts["text_encoder"].to(state.device),
        tokenizer=parts["tokenizer"],
        image_encoder=parts["image_encoder"].to(state.device),
        feature_extractor=parts["feature_extractor"],
        cache=open_cache(config, images, parts["image_encoder"]),
        seed=config.seed,
        batch_size=config.batch_size,
        num_workers=config.dataloader_num_workers,
        max_bad_share=config.max_bad_share,
        device=state.device,
    )
    num_images = min(len(images), config.max_images)
    state.print(f"{len(images):,} images with {sum(map(len, captions)):,} captions, {num_images:,} images are used")
    if config.dry_run:
        few, start = range(min(num_images, DRY_RUN_IMAGES)), time.monotonic()
        encoder.encode(few)
        seconds = (time.monotonic() - start) / len(few) / state.num_processes
        state.print(
            f"about {num_images * seconds / 60:.1f} minutes, from {seconds:.3f} s an image; nothing was written"
        )
        return
    fitted = fit_text_encoder(encoder, config.max_images, config.held_out_share, config.seed)
    if state.is_main_process:
        save(config, folder, output, parts["text_encoder"], fitted, source)
        print(f"\n{fit_table(fitted)}\n\nwrote {output}")
        print_how_to_sample(output)


def save(
    config: TextFitConfig, folder: Path, output: Path, text_encoder: torch.nn.Module, fitted: TextFit, source: str
) -> None:
    """Copies the model with the new text encoder, the report, and the defaults that the settings give."""
    defaults = {
        name: getattr(config, name)
        for name in ("default_guidance_scale", "default_variation")
        if getattr(config, name) is not None
    }
    with folder_moved_into_place(output) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns("text_encoder"))
        text_encoder.save_pretrained(temporary / "text_encoder")
        save_report(fitted, source, temporary)
        index = temporary / "model_index.json"
        if defaults and index.is_file():
            write_text(index, json.dumps(json.loads(index.read_text(encoding="utf-8")) | defaults, indent=2) + "\n")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: fit(parse_config(TextFitConfig, __doc__))))
