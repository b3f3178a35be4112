"""`ccld measure-scale`."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.arguments import whole
from .arguments import add_option, require_folder

if TYPE_CHECKING:
    import torch

HELP = "measure the scale of an autoencoder's latents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add("--vae", type=Path, required=True, metavar="DIR", help="folder of a pipeline or of its autoencoder")
    add("--images", required=True, help="a folder, a text file of paths, a folder saved by datasets, or a Hub name")
    add("--dataset-split", default="train", help="split of the dataset (default: %(default)s)")
    add("--image-column", default="image", help="column of the dataset with the images (default: %(default)s)")
    add(
        "--num-images", type=whole(1), default=1000, metavar="N", help="number of random images (default: %(default)s)"
    )
    add("--resolution", type=whole(1), metavar="PIXELS", help="size of the images (default: the autoencoder's)")
    add_shared("--batch-size", default=8, help="number of images to encode at once (default: %(default)s)")
    add_shared("--seed", help="seed of the choice of images and of the interval (default: %(default)s)")
    add_shared("--device")


def check(args: argparse.Namespace) -> argparse.Namespace:
    require_folder(args.vae, "--vae")
    return args


def run(args: argparse.Namespace) -> None:
    """Measure the scale of an autoencoder's latents on images, and compare it with the folder's scaling_factor. The
    scale is the standard deviation of samples of the latents' posterior, over all images. scaling_factor is its
    inverse. The interval contains the scale of all such images with a confidence of 95 percent."""
    from tqdm.auto import tqdm

    from ..data.decoding import ImageLimits
    from ..data.images import Preparation, TrainingImages, as_pictures
    from ..data.sources import canonical_source, find_images
    from ..inference.devices import usable_device
    from ..training.latent_scale import CONFIDENCE, measure_scale

    vae = load_vae(args.vae).eval().to(usable_device(args.device))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size = vae.config.sample_size if args.resolution is None else args.resolution
    if size % factor:
        raise ValueError(f"--resolution must be a multiple of {factor}, the autoencoder's factor.")
    source = find_images(canonical_source(args.images), args.dataset_split, args.image_column)
    print(source.description, file=sys.stderr)
    found = source.examples
    images = TrainingImages(found, Preparation(size, False, False, ImageLimits()), args.seed)
    count = min(args.num_images, len(found))

    def batches() -> "Iterator[torch.Tensor]":
        for first in tqdm(range(0, count, args.batch_size), desc="Encoding", unit="batch"):
            batch = images.__getitems__(range(first, min(first + args.batch_size, count)))
            yield as_pictures(batch, vae.device)

    scale = measure_scale(vae, batches(), args.seed)
    print(f"scale of {count:,} images: {scale.value:.4f} ({CONFIDENCE} %: {scale.lowest:.4f} to {scale.highest:.4f})")
    print(f"scaling_factor: {1 / scale.value:.5f}")
    stated = 1 / vae.config.scaling_factor
    verdict = "agrees" if scale.agrees_with(stated) else "does not agree"
    print(f"the folder says {stated:.4f} (scaling_factor {vae.config.scaling_factor:.5f}), which {verdict}")


def load_vae(folder: Path) -> "torch.nn.Module":
    """The autoencoder of a pipeline's folder, or of a folder of its own.

    Raises:
        ValueError: If the folder does not have one.
    """
    from diffusers import AutoencoderKL, AutoModel, VQModel

    from ..utils.errors import first_line

    subfolder = "vae" if (folder / "vae").is_dir() else None
    try:
        vae = AutoModel.from_pretrained(str(folder), subfolder=subfolder)
    except (OSError, ValueError) as error:
        raise ValueError(f"--vae {folder}: there is no autoencoder. ({first_line(error)})") from error
    if not isinstance(vae, (AutoencoderKL, VQModel)):
        raise ValueError(f"--vae {folder}: {type(vae).__name__} is not an autoencoder.")
    return vae
