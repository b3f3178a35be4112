"""Real images to compare generated ones with: those of a training, and others that were held out of it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..data.decoding import BadImageError, ImageLimits, open_picture, resize_and_crop
from ..data.sources import images_fingerprint, load_images, name_of
from ..utils.files import moved_into_place
from .scorers import Features, Scorer, features_of


class ReferenceImages(NamedTuple):
    """Real images and their features.

    Attributes:
        images: Those that were chosen, undecoded.
        total: How many there were to choose from.
        size: What they are cropped to, in pixels.
        indices: Numbers in `images` of those that are no damaged files, (N,).
        features: Features of these.
    """

    images: datasets.Dataset
    total: int
    size: int
    indices: torch.Tensor
    features: Features

    def image(self, number: int) -> Image.Image:
        """The image that a row of the features is of."""
        return _open(self.images[self.indices[number].item()]["image"], self.size)

    def name(self, number: int) -> str:
        """What it is called: its file, or its number in the dataset."""
        index = self.indices[number].item()
        return Path(name_of(self.images[index]["image"], index)).name

    def without(self, numbers: torch.Tensor) -> "ReferenceImages":
        """All but those of a mask, (N,)."""
        kept = Features(*(values[~numbers] for values in self.features))
        return self._replace(indices=self.indices[~numbers], features=kept)


def choose_images(source: str, max_images: int) -> tuple[datasets.Dataset, int]:
    """Finds images, and chooses at random where there are more than enough; gives them and how many there were.

    Args:
        source: What `load_images` takes: a folder of images, a dataset saved to disk, parquet files, a list of paths.
        max_images: How many to choose.

    Raises:
        ValueError: If there are none.
    """
    images = load_images(source)
    total = len(images)
    if total > max_images:
        images = images.select(np.sort(np.random.default_rng(0).choice(total, max_images, replace=False)))
    return images, total


def read_reference_images(
    images: datasets.Dataset, total: int, size: int, scorer: Scorer, scorer_name: str, cache: Path, batch_size: int
) -> ReferenceImages:
    """Computes the features of images, or takes them from a file where they were kept the last time.

    Args:
        images: Undecoded images of `choose_images`.
        total: How many there were to choose from.
        size: The square that each is resized and cropped to, in pixels, so that real pictures are no sharper than
            generated ones.
        scorer: What embeds them.
        scorer_name: Its identity.
        cache: A folder for the features.
        batch_size: Images at once.

    Raises:
        ValueError: If all are damaged.
    """
    key = hashlib.sha256(f"{images_fingerprint(images)} {size} {scorer_name}".encode()).hexdigest()[:16]
    path = cache / f"{key}.safetensors"
    if path.is_file():
        saved = load_file(path)
    else:
        indices: list[int] = []
        saved = features_of(_readable(images, size, indices), scorer, batch_size)._asdict()
        saved["indices"] = torch.tensor(indices)
        cache.mkdir(parents=True, exist_ok=True)
        with moved_into_place(path) as temporary:
            save_file(saved, temporary)
    return ReferenceImages(images, total, size, saved.pop("indices"), Features(**saved))


def _readable(images: datasets.Dataset, size: int, indices: list[int]) -> Iterator[Image.Image]:
    """The images that are no damaged files; their numbers are added to a list."""
    for index in tqdm(range(len(images)), desc="Reading images", unit="image", disable=None):
        try:
            image = _open(images[index]["image"], size)
        except BadImageError:
            continue
        indices.append(index)
        yield image


def _open(source: dict, size: int) -> Image.Image:
    return resize_and_crop(open_picture(source, ImageLimits()), size)
