"""Reads real images to compare generated ones with: training images, and images held out of training."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..data.captions import load_captions
from ..data.decoding import BadImageError, ImageLimits, open_picture, resize_and_crop
from ..data.fingerprints import quick_fingerprint
from ..data.sources import find_examples, find_images, name_of, select_images
from ..utils.files import moved_into_place
from .scorers import Features, Scorer, features_of


class ChosenImages(NamedTuple):
    """Real images, undecoded.

    Attributes:
        source: The folder or dataset that they are from.
        images: The images.
        total: Number of images in the source.
        description: What the source was taken to be, and what was skipped there.
        captions: A caption of each image; `None` if they were not asked for.
    """

    source: str
    images: datasets.Dataset
    total: int
    description: str = ""
    captions: list[str] | None = None


class ReferenceImages(NamedTuple):
    """Real images and their features.

    Attributes:
        images: The chosen images, undecoded.
        size: Size that they are cropped to, in pixels.
        indices: Rows in `images` that can be decoded, (N,).
        features: Features of these N images.
        captions: A caption of each chosen image, if they were asked for.
    """

    images: datasets.Dataset
    size: int
    indices: torch.Tensor
    features: Features
    captions: list[str] | None = None

    @property
    def captions_of_rows(self) -> list[str]:
        """The caption of each row of the features."""
        return [self.captions[index] for index in self.indices.tolist()]

    def image(self, number: int) -> Image.Image:
        """Decodes the image of a row of the features."""
        return _open(self.images[self.indices[number].item()]["image"], self.size)

    def name(self, number: int) -> str:
        """Name of the file of a row of the features, or its number in the dataset."""
        index = self.indices[number].item()
        return Path(name_of(self.images[index]["image"], index)).name

    def without(self, mask: torch.Tensor) -> "ReferenceImages":
        """A copy without the rows of a mask, (N,)."""
        kept = Features(*(values[~mask] for values in self.features))
        return self._replace(indices=self.indices[~mask], features=kept)


def choose_images(source: str, max_images: int, caption_columns: Sequence[str] | None = None) -> ChosenImages:
    """Finds images, and draws `max_images` at random if there are more.

    Args:
        source: A folder of images, a dataset saved to disk, parquet files or a list of paths, as in `find_images`.
        max_images: The largest number of images to choose.
        caption_columns: Columns with captions, the first of which is taken; the source is then one of `load_examples`.

    Raises:
        ValueError: If the source holds no images, or a caption is missing.
    """
    captions = None
    if caption_columns is None:
        found = find_images(source)
        images = found.examples
    else:
        found = find_examples(source)
        images = select_images(found.examples, source, "image")
        captions = [texts[0] for texts in load_captions(found.examples, caption_columns)]
    total = len(images)
    if total > max_images:
        chosen = np.sort(np.random.default_rng(0).choice(total, max_images, replace=False))
        images = images.select(chosen)
        captions = captions and [captions[i] for i in chosen]
    return ChosenImages(source, images, total, found.description, captions)


def read_reference_images(
    chosen: ChosenImages, size: int, scorer: Scorer, scorer_name: str, cache: Path, batch_size: int
) -> ReferenceImages:
    """Computes the features of images, or reads them from the cache.

    Args:
        chosen: The images.
        size: Size of the square that each image is resized and cropped to, in pixels. At the size of the generated
            pictures, real ones are not sharper.
        scorer: Embeds the images.
        scorer_name: Identity of the scorer, for the cache.
        cache: Folder of cached features.
        batch_size: Images at once.

    Raises:
        ValueError: If all images are damaged.
    """
    images = chosen.images
    key = hashlib.sha256(f"{quick_fingerprint(images)} {size} {scorer_name}".encode()).hexdigest()[:16]
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
    return ReferenceImages(images, size, saved.pop("indices"), Features(**saved), chosen.captions)


def _readable(images: datasets.Dataset, size: int, indices: list[int]) -> Iterator[Image.Image]:
    """Yields the images that can be decoded, and appends their rows to `indices`."""
    for index in tqdm(range(len(images)), desc="Reading images", unit="image", disable=None):
        try:
            image = _open(images[index]["image"], size)
        except BadImageError:
            continue
        indices.append(index)
        yield image


def _open(source: dict, size: int) -> Image.Image:
    return resize_and_crop(open_picture(source, ImageLimits()), size)
