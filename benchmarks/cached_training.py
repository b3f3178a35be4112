#!/usr/bin/env python3
"""Measures how much faster training from a cache is than training from pictures, in images a second.

    python benchmarks/cached_training.py

The networks have the published sizes (105M U-Net, kl-f8 autoencoder, CLOOB ViT-B/16) and random weights, the pictures
320×280 random pixels. One step is a step of training/finetune.py: read, encode unless cached, add noise, forward,
backward, AdamW, EMA. Both kinds take turns in one process. The results are in docs/training.md.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from tqdm.auto import tqdm

from diffusers_ccld import (
    CCLDScheduler,
    CCLDUNet2DConditionModel,
    CLOOBImageProcessor,
    CLOOBVisionConfig,
    CLOOBVisionModelWithProjection,
)
from diffusers_ccld.data.encoding import EncodedImages, encode_images
from diffusers_ccld.data.images import Preparation, TrainingImages
from diffusers_ccld.data.latent_cache import LatentCache, Manifest, write_chunk
from diffusers_ccld.data.sources import load_images
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.inputs import TrainingTimes, draw_for_training, make_inputs
from diffusers_ccld.training.losses import v_prediction_losses


def make_networks() -> tuple[CCLDUNet2DConditionModel, AutoencoderKL, CLOOBVisionModelWithProjection]:
    """A U-Net, an autoencoder and an image encoder of the published sizes, with random weights."""
    torch.manual_seed(0)
    unet = CCLDUNet2DConditionModel()
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    ).eval()
    return unet, vae, CLOOBVisionModelWithProjection(CLOOBVisionConfig()).eval()


def make_sources(
    folder: Path,
    vae: AutoencoderKL,
    image_encoder: CLOOBVisionModelWithProjection,
    feature_extractor: CLOOBImageProcessor,
    count: int,
) -> dict[str, TrainingImages | LatentCache]:
    """Makes the same pictures as files and as a cache."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(count):
        pixels = rng.integers(0, 256, (280, 320, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i:03d}.jpg", quality=90)
    images = load_images(str(folder / "pictures"))
    preparation = Preparation(256)
    manifest = Manifest(
        dataset="pictures",
        split="train",
        image_column="image",
        images="",
        num_images=count,
        size=256,
        random_crop=False,
        random_flip=False,
        variants=1,
        min_side=32,
        max_pixels=10**8,
        seed=0,
        vae="",
        image_encoder="",
        latent_shape=(4, 32, 32),
        chunk_size=count,
    )
    manifest.write(folder / "cache")
    parts = []
    for i in tqdm(range(count), desc="Filling the cache", unit="image"):
        pixels = torch.from_numpy(preparation.pixels(images[i]["image"], rng))[None]
        parts.append(encode_images(vae, image_encoder, feature_extractor, pixels))
    whole = EncodedImages(*(torch.cat(tensors) for tensors in zip(*parts)))
    write_chunk(folder / "cache", 0, list(range(count)), whole, [])
    return {"pictures": TrainingImages(images, preparation, seed=0), "cache": LatentCache(folder / "cache", seed=0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=5, help="timed steps of each kind, after one to warm up (default: %(default)s)"
    )
    args = parser.parse_args()
    unet, vae, image_encoder = make_networks()
    feature_extractor = CLOOBImageProcessor()
    optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=3e-5)
    ema, scheduler, times = EMA(unet), CCLDScheduler(), TrainingTimes(0)

    def step(batch):
        if "pixel_values" in batch:
            encoded = encode_images(vae, image_encoder, feature_extractor, batch["pixel_values"])
        else:
            encoded = EncodedImages(*(batch[name] for name in EncodedImages._fields))
        draws = draw_for_training(0, times, range(args.batch_size), (4, 32, 32), 0.2)
        inputs = make_inputs(encoded, draws, scheduler, 1 / 2.55)
        prediction = unet(inputs.noisy_latents, inputs.timesteps, inputs.condition).sample
        v_prediction_losses(prediction, inputs.target).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(0.99)

    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(Path(folder), vae, image_encoder, feature_extractor, 4 * args.batch_size)
        seconds = {name: [] for name in sources}
        for i in tqdm(range(args.steps + 1), desc="Measuring", unit="pair"):
            for name, dataset in sources.items():
                start = time.perf_counter()
                step(dataset.__getitems__(list(range(i * args.batch_size, (i + 1) * args.batch_size))))
                seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, median in medians.items():
        rate = args.batch_size / median
        print(f"{name}: {rate:.3f} images a second (median of {args.steps} steps of {median:.2f} s)")
    print(f"ratio of medians: {medians['pictures'] / medians['cache']:.2f}")


if __name__ == "__main__":
    main()
