"""Measures the scale of an autoencoder's latents on images, and compares it with that of its folder.

    python conversion/measure_scale.py --vae DIR --images FOLDER

The scale is the standard deviation of samples of the latents' posterior, of all images together. diffusers'
scaling_factor is one over it. The interval contains the scale of such images with 95 % confidence.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoModel, VQModel
from tqdm.auto import tqdm

from ..data.decoding import ImageLimits
from ..data.images import Preparation, TrainingImages, as_pictures
from ..data.sources import canonical_source, load_images
from ..inference.devices import usable_device
from ..training.latent_scale import CONFIDENCE
from ..training.latent_scale import measure_scale as measure
from ..utils.errors import first_line


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

    scale = measure(vae, batches(), arguments.seed)
    print(f"scale of {count:,} images: {scale.value:.4f} ({CONFIDENCE} %: {scale.lowest:.4f} to {scale.highest:.4f})")
    print(f"scaling_factor: {1 / scale.value:.5f}")
    stated = 1 / vae.config.scaling_factor
    verdict = "agrees" if scale.agrees_with(stated) else "does not agree"
    print(f"the folder says {stated:.4f} (scaling_factor {vae.config.scaling_factor:.5f}), which {verdict}")
