#!/usr/bin/env python3
"""Encodes every image once: latents and CLOOB embeddings, as a cache for finetune.py and distill.py.

    python training/precompute.py --model DIR --dataset FOLDER --output CACHE

An interrupted run continues when it is started again. On several machines or GPUs, start it once on each with the
same arguments and --num-shards N --shard-index 0 … N-1.
"""

import dataclasses
import math
import time
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from diffusers_ccld import CCLDUNet2DConditionModel
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.decoding import BadImageError
from diffusers_ccld.data.encoding import EncodedImages, encode_images, model_fingerprint
from diffusers_ccld.data.fingerprints import images_fingerprint
from diffusers_ccld.data.latent_cache import MANIFEST_NAME, Manifest, chunk_path, write_chunk, writing
from diffusers_ccld.data.randomness import Purpose, generator_at
from diffusers_ccld.data.sources import canonical_source, find_images, name_of
from diffusers_ccld.inference.devices import usable_device
from diffusers_ccld.inference.loading import hub_options
from diffusers_ccld.models.inference_autoencoder import use_inference_autoencoder
from diffusers_ccld.training.bad_images import BadImages
from diffusers_ccld.training.components import IMAGE_COMPONENTS, load_components, source_of
from diffusers_ccld.training.config import DEFAULT_DATASET, ImageConfig, setting
from diffusers_ccld.training.inputs import training_resolution


@dataclasses.dataclass(kw_only=True)
class PrecomputeConfig(ImageConfig):
    """Settings of this script."""

    model: str = setting(dataclasses.MISSING, "folder or Hub name of the pipeline")
    output: str = setting(dataclasses.MISSING, "folder of the cache")
    variants: int = setting(1, "differently cropped or mirrored versions of each image")
    batch_size: int = setting(16, "pictures encoded at once")
    chunk_size: int = setting(1024, "pictures in a chunk, which is written in one piece")
    num_shards: int = setting(1, "number of processes that share the work; start each of them")
    shard_index: int = setting(0, "number of this process, from 0")
    device: str | None = setting(None, "device to run on (default: the GPU if there is one)")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.shard_index < self.num_shards:
            raise ValueError("shard_index must lie between 0 and num_shards - 1.")
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1.")


class VariantsOfImages(torch.utils.data.Dataset):
    """All variants of every image, (V, 3, size, size), or the reason why it is bad."""

    def __init__(self, images: datasets.Dataset, manifest: Manifest):
        self.images, self.manifest = images, manifest

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | None, tuple[str, str] | None]:
        manifest, source = self.manifest, self.images[index]["image"]
        first = index * manifest.variants
        generators = [generator_at(manifest.seed, Purpose.CROP, first + v) for v in range(manifest.variants)]
        try:
            pixels = [manifest.preparation.pixels(source, generator) for generator in generators]
        except BadImageError as error:
            return index, None, (name_of(source, index), str(error))
        return index, torch.from_numpy(np.stack(pixels)), None


def sample_size_of(config: PrecomputeConfig) -> int:
    """Size of the latents of the model's U-Net. Without a U-Net it is 0, which needs a resolution in the settings."""
    source = source_of(config.model)
    try:
        return CCLDUNet2DConditionModel.load_config(source, subfolder="unet", **hub_options(source))["sample_size"]
    except (OSError, KeyError) as error:
        if config.resolution is None:
            raise ValueError(f"{config.model} has no U-Net with a size; give --resolution.") from error
        return 0


def make_manifest(
    config: PrecomputeConfig, images: datasets.Dataset, vae: torch.nn.Module, image_encoder: torch.nn.Module
) -> Manifest:
    """The manifest of the cache of these images."""
    output = Path(config.output)
    recorded = Manifest.read(output).images if (output / MANIFEST_NAME).is_file() else None
    size, latent_shape = training_resolution(config.resolution, sample_size_of(config), vae)
    return Manifest(
        dataset=canonical_source(config.dataset or DEFAULT_DATASET),
        dataset_split=config.dataset_split,
        image_column=config.image_column,
        images=images_fingerprint(images, recorded, contents=recorded is not None or not config.dry_run),
        num_images=len(images),
        resolution=size,
        random_crop=config.random_crop,
        random_flip=config.random_flip,
        variants=config.variants,
        min_image_side=config.min_image_side,
        max_image_pixels=config.max_image_pixels,
        seed=config.seed,
        vae=model_fingerprint(vae),
        image_encoder=model_fingerprint(image_encoder),
        latent_shape=latent_shape,
        chunk_size=config.chunk_size,
    )


def precompute(config: PrecomputeConfig) -> None:
    shard = (config.shard_index, config.num_shards)
    with nullcontext() if config.dry_run else writing(Path(config.output), *shard):
        precompute_alone(config)


def precompute_alone(config: PrecomputeConfig) -> None:
    device = usable_device(config.device)
    components = load_components(config.model, IMAGE_COMPONENTS)
    vae, image_encoder = components["vae"].to(device), components["image_encoder"].to(device)
    use_inference_autoencoder(vae)
    found = find_images(config.dataset or DEFAULT_DATASET, config.dataset_split, config.image_column)
    print(found.description)
    images = found.examples
    manifest = make_manifest(config, images, vae, image_encoder)

    output = Path(config.output)
    own = range(config.shard_index, manifest.num_chunks, config.num_shards)
    chunks = [chunk for chunk in own if not chunk_path(output, chunk).is_dir()]
    ranges = [range(c * config.chunk_size, min((c + 1) * config.chunk_size, len(images))) for c in chunks]
    num_images = sum(map(len, ranges))
    print(f"{len(images):,} images in {manifest.num_chunks} chunks; {num_images:,} in {len(chunks)} chunks left to do")
    if config.dry_run:
        ranges = [r[: config.batch_size] for r in ranges[:1]]
    else:
        manifest.write(output)
        BadImages(1.0, path=output / "bad_images.jsonl").record(found.passed_over)

    dataset, bad_images = VariantsOfImages(images, manifest), BadImages(config.max_bad_share, len(images))
    start = time.monotonic()
    with tqdm(total=sum(map(len, ranges)), unit="image", desc="Encoding") as progress:
        for chunk, indices in zip(chunks, ranges):
            loader = torch.utils.data.DataLoader(
                torch.utils.data.Subset(dataset, indices),
                batch_size=config.batch_size,
                num_workers=config.dataloader_num_workers,
                collate_fn=list,
            )
            rows, encoded, bad = [], [], []
            for batch in loader:
                good = [(index, pixels) for index, pixels, _ in batch if pixels is not None]
                bad_here = [reason for _, _, reason in batch if reason is not None]
                if good:
                    pixels = torch.cat([pixels for _, pixels in good]).to(device)
                    encoded.append(encode_images(vae, image_encoder, components["feature_extractor"], pixels))
                    rows += [index for index, _ in good for _ in range(manifest.variants)]
                bad += bad_here
                bad_images.add([index for index, _, _ in batch], bad_here)
                progress.update(len(batch))
            if not config.dry_run:
                whole = EncodedImages(*(torch.cat(parts) for parts in zip(*encoded))) if encoded else None
                write_chunk(output, chunk, rows, whole, bad)
    if config.dry_run:
        seconds = (time.monotonic() - start) / max(sum(map(len, ranges)), 1)
        bytes_per_row = 4 * (2 * math.prod(manifest.latent_shape) + image_encoder.config.projection_dim)
        print(f"about {num_images * manifest.variants * bytes_per_row / 2**30:.2f} GiB on disk")
        print(f"about {num_images * seconds / 60:.1f} minutes, from {seconds:.2f} s an image in the first batch")
        return
    for name, reason in bad_images.reasons.items():
        print(f"skipped {name}: {reason}")
    print(f"wrote {output}: {num_images - len(bad_images.reasons):,} images, {len(bad_images.reasons):,} skipped")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: precompute(parse_config(PrecomputeConfig, __doc__))))
