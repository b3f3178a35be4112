#!/usr/bin/env python3
"""Fits a linear decoder to a model's autoencoder, in closed form, and adds it to the model's folder.

    python training/fit_linear_decoder.py --model DIR --images PICTURES

It stands in for the autoencoder's decoder where speed matters more than detail: in CCLDGuidedPipeline with fast=True.
One image in five is left out of the fit; the share of the variance of its pixels that the map explains is printed.
"""

import argparse
import json
from pathlib import Path

import torch
from tqdm.auto import tqdm

from diffusers_ccld import CCLDImg2ImgPipeline, LinearDecoder
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.data.decoding import ImageLimits
from diffusers_ccld.data.images import Preparation, TrainingImages, as_pictures
from diffusers_ccld.data.sources import canonical_source, load_images
from diffusers_ccld.inference.loading import find_model
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import folder_moved_into_place, write_text

FITTED_SHARE = 0.8


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the pipeline, which gets linear_decoder/")
    parser.add_argument("--images", required=True, help="folder, text file of paths, folder of datasets, or Hub name")
    parser.add_argument("--num-images", type=int, default=400, help="number of random images (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="images at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of images (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.num_images < 5 or arguments.batch_size < 1:
        raise ValueError("--num-images must be at least 5, and --batch-size at least 1.")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    folder = find_model(str(arguments.model))
    pipe = CCLDImg2ImgPipeline.from_pretrained(folder)
    found = load_images(canonical_source(arguments.images), "train", "image")
    preparation = Preparation(min(pipe.default_size), False, False, ImageLimits())
    count = min(arguments.num_images, len(found))
    latents, pixels = encode_and_decode(
        pipe, TrainingImages(found, preparation, arguments.seed), count, arguments.batch_size
    )
    decoder = LinearDecoder(latents.shape[1], pipe.vae_scale_factor)
    num_fitted = int(count * FITTED_SHARE)
    decoder.fit(latents[:num_fitted], pixels[:num_fitted])
    share = decoder.explained_share(latents[num_fitted:], pixels[num_fitted:])
    print(f"explains {share:.1%} of the variance of the pixels of {count - num_fitted} images that were left out")
    with folder_moved_into_place(folder / "linear_decoder") as temporary:
        decoder.save_pretrained(temporary)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["linear_decoder"] = ["diffusers_ccld", "LinearDecoder"]
    write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
    print(folder / "linear_decoder")


@torch.no_grad()
def encode_and_decode(
    pipe: CCLDImg2ImgPipeline, images: TrainingImages, count: int, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents (N, C, h, w) of the first `count` images, and the pixels (N, 3, H, W) that they decode to."""
    latents, pixels = [], []
    for first in tqdm(range(0, count, batch_size), desc="Encoding", unit="batch"):
        batch = images.__getitems__(list(range(first, min(first + batch_size, count))))
        latents.append(pipe.encode_latents(as_pictures(batch, pipe.device)))
        pixels.append(pipe.decode_latents(latents[-1]))
    return torch.cat(latents), torch.cat(pixels)


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
