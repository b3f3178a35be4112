"""Measures the scale of an autoencoder's latents on images, and compares it with what the folder says.

    python conversion/measure_scale.py --vae DIR --images FOLDER

The scale is the standard deviation of samples of the latents' posterior, of all images together; diffusers'
scaling_factor is one over it. The interval is where it lies with 95 % confidence for images such as these.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoModel, VQModel
from tqdm.auto import tqdm

from .data import Preparation, TrainingImages, load_images
from .devices import usable_device
from .errors import first_line
from .latent_cache import canonical_source, encode_latents
from .pictures import ImageLimits
from .training_data import as_pictures

RESAMPLINGS = 2000
CONFIDENCE = 95  # per cent

# Published scales are those of other images; nobody would tell such a difference in a picture.
TOLERANCE = 0.02


class Scale(NamedTuple):
    """A standard deviation, and the ends of its confidence interval."""

    value: float
    lowest: float
    highest: float

    def agrees_with(self, other: float) -> bool:
        """Whether another value lies in the interval, or so near that it makes no difference."""
        return self.lowest <= other <= self.highest or abs(other / self.value - 1) <= TOLERANCE


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--vae", type=Path, required=True, metavar="DIR", help="folder of a pipeline or of its autoencoder")
    add("--images", required=True, help="a folder, a text file of paths, a folder saved by datasets, or a Hub name")
    add("--dataset_split", default="train", help="which part of the dataset (default: %(default)s)")
    add("--image_column", default="image", help="the dataset's column with the images (default: %(default)s)")
    add("--num_images", type=int, default=1000, help="how many images to take, at random (default: %(default)s)")
    add("--resolution", type=int, help="size of the images in pixels (default: the autoencoder's)")
    add("--batch_size", type=int, default=8, help="images at once (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the choice of images and of the interval (default: %(default)s)")
    add("--device", help="device to run on (default: the GPU if there is one)")
    arguments = parser.parse_args(argv)
    numbers = (arguments.num_images, arguments.batch_size, arguments.resolution)
    if min(number for number in numbers if number is not None) < 1:
        parser.error("numbers must be positive")
    return arguments


def load_vae(folder: Path) -> torch.nn.Module:
    """The autoencoder of a pipeline's folder, or the one that a folder is.

    Raises:
        ValueError: If there is none.
    """
    subfolder = "vae" if (folder / "vae").is_dir() else None
    try:
        vae = AutoModel.from_pretrained(str(folder), subfolder=subfolder)
    except (OSError, ValueError) as error:
        raise ValueError(f"--vae {folder}: there is no autoencoder. ({first_line(error)})") from error
    if not isinstance(vae, (AutoencoderKL, VQModel)):
        raise ValueError(f"--vae {folder}: it is a {type(vae).__name__}, no autoencoder.")
    return vae


def moments(vae: torch.nn.Module, batches: Iterator[torch.Tensor]) -> np.ndarray:
    """Mean and mean square of samples of each image's latents, exactly: (N, 2).

    Args:
        vae: The autoencoder.
        batches: Pictures (n, 3, H, W) in [−1, 1], on its device.
    """
    rows = []
    for pictures in batches:
        mean, std = (part.double().flatten(1) for part in encode_latents(vae, pictures))
        rows.append(torch.stack([mean.mean(dim=1), (mean**2 + std**2).mean(dim=1)], dim=1).cpu())
    return torch.cat(rows).numpy()


def pooled_scale(moments: np.ndarray, seed: int = 0) -> Scale:
    """Standard deviation of all numbers of all images, with a bootstrap interval over images.

    Args:
        moments: Mean and mean square of each image, (N, 2).
        seed: Seed of the resampling.
    """
    random, count = np.random.default_rng(seed), len(moments)
    samples = np.stack([moments[random.integers(count, size=count)].mean(axis=0) for _ in range(RESAMPLINGS)])
    value, *scales = (np.sqrt(square - mean**2) for mean, square in (moments.mean(axis=0), *samples))
    margin = (100 - CONFIDENCE) / 2
    lowest, highest = np.percentile(scales, [margin, 100 - margin])
    return Scale(float(value), float(lowest), float(highest))


def measure_scale(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    vae = load_vae(arguments.vae).eval().to(usable_device(arguments.device))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size = arguments.resolution or vae.config.sample_size
    if size % factor:
        raise ValueError(f"--resolution must be a multiple of {factor}, the autoencoder's factor.")
    found = load_images(canonical_source(arguments.images), arguments.dataset_split, arguments.image_column)
    images = TrainingImages(found, Preparation(size, False, False, ImageLimits()), arguments.seed)
    count = min(arguments.num_images, len(found))

    def batches() -> Iterator[torch.Tensor]:
        for first in tqdm(range(0, count, arguments.batch_size), desc="Encoding", unit="batch"):
            batch = images.__getitems__(range(first, min(first + arguments.batch_size, count)))
            yield as_pictures(batch, vae.device)

    scale = pooled_scale(moments(vae, batches()), arguments.seed)
    print(f"scale of {count:,} images: {scale.value:.4f} ({CONFIDENCE} %: {scale.lowest:.4f} to {scale.highest:.4f})")
    print(f"scaling_factor: {1 / scale.value:.5f}")
    stated = 1 / vae.config.scaling_factor
    verdict = "agrees" if scale.agrees_with(stated) else "does not agree"
    print(f"the folder says {stated:.4f} (scaling_factor {vae.config.scaling_factor:.5f}), which {verdict}")
