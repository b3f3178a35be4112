"""Training images, by position in a run or from a stream."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import xxhash
from PIL import Image

from .decoding import BadImageError, ImageLimits, open_picture, resize_and_crop
from .randomness import BatchPositions, Purpose, generator_at, image_at
from .sources import name_of

MAX_SUBSTITUTES = 100
SHUFFLE_BUFFER = 1000


class Preparation(NamedTuple):
    """The preparation of a picture as a training image.

    Attributes:
        size: Height and width in pixels.
        random_crop: True to crop at a random position, not in the centre.
        random_flip: True to mirror every other image.
        limits: Sizes of pictures that are accepted.
    """

    size: int
    random_crop: bool = False
    random_flip: bool = False
    limits: ImageLimits = ImageLimits()

    def pixels(self, source: dict[str, Any], generator: np.random.Generator) -> np.ndarray:
        """The training image of an undecoded picture, (3, size, size), uint8.

        Raises:
            BadImageError: If it is damaged or too small or large.
        """
        across, down, chance = generator.random(3)
        if not self.random_crop:
            across = down = 0.5
        image = open_picture(source, self.limits)
        if self.size**2 * max(image.size) / min(image.size) > self.limits.max_pixels:
            raise BadImageError(f"{image.width}×{image.height} pixels are too long for their width")
        image = resize_and_crop(image, self.size, across, down)
        if self.random_flip and chance < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image).transpose(2, 0, 1)


class TrainingImages(torch.utils.data.Dataset):
    """Training images by position in the run, for a data loader whose batch sampler gives positions.

    Another picture, chosen at random, replaces a bad one.

    Args:
        images: Undecoded pictures, of `load_images`.
        preparation: Their preparation.
        seed: The run's seed.
    """

    def __init__(self, images: datasets.Dataset, preparation: Preparation, seed: int):
        self.images = images
        self.preparation = preparation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """A batch: "pixel_values" (N, 3, size, size) uint8, "indices" (N,), "looked_at" and "bad".

        "looked_at" has a number for each picture that was read, by which it is known again. "bad" has name and reason
        of those among them that cannot be used.
        """
        pixels, indices, looked_at, bad = [], [], [], []
        for position in positions:
            for index in self._candidates(position):
                source = self.images[index]["image"]
                looked_at.append(index)
                try:
                    pixels.append(self.preparation.pixels(source, generator_at(self.seed, Purpose.CROP, position)))
                except BadImageError as error:
                    bad.append((name_of(source, index), str(error)))
                else:
                    indices.append(index)
                    break
            else:
                raise ValueError(f"{MAX_SUBSTITUTES} pictures in a row are bad, the last: {bad[-1]}.")
        return {
            "pixel_values": torch.from_numpy(np.stack(pixels)),
            "indices": torch.tensor(indices),
            "looked_at": looked_at,
            "bad": bad,
        }

    def _candidates(self, position: int) -> Iterator[int]:
        yield image_at(self.seed, position, len(self.images))
        substitutes = generator_at(self.seed, Purpose.SUBSTITUTE, position)
        yield from substitutes.integers(len(self.images), size=MAX_SUBSTITUTES).tolist()


class StreamedImages(torch.utils.data.IterableDataset):
    """Training images from a stream, in batches. Every process reads the whole stream and keeps its share.

    A resumed stream is read again up to its last position, so images are neither left out nor repeated.

    Args:
        images: The stream, of `load_images`.
        preparation: Their preparation.
        seed: The run's seed.
        positions: The positions of this process's batches; its rank also decides its share.
        epoch: The first epoch.
        offset: Number of pictures of the share that this process has read in that epoch.
    """

    def __init__(
        self,
        images: datasets.IterableDataset,
        preparation: Preparation,
        seed: int,
        positions: BatchPositions,
        epoch: int = 0,
        offset: int = 0,
    ):
        self.images = images.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.preparation = preparation
        self.seed = seed
        self.positions = positions
        self.epoch, self.offset = epoch, offset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields batches like those of `TrainingImages`, with the position in the stream: "epoch" and "offset"."""
        stream = self._sources()
        for positions in self.positions.batches():
            pixels, looked_at, bad = [], [], []
            while len(pixels) < len(positions):
                epoch, offset, source = next(stream)
                looked_at.append(xxhash.xxh3_64_intdigest(name_of(source).encode(errors="replace")))
                generator = generator_at(self.seed, Purpose.CROP, positions[len(pixels)])
                try:
                    pixels.append(self.preparation.pixels(source, generator))
                except BadImageError as error:
                    bad.append((name_of(source), str(error)))
                    if len(bad) >= MAX_SUBSTITUTES + len(pixels):
                        raise ValueError(f"{len(bad)} pictures in a row are bad, the last: {bad[-1]}.") from error
            yield {
                "pixel_values": torch.from_numpy(np.stack(pixels)),
                "looked_at": looked_at,
                "bad": bad,
                "epoch": epoch,
                "offset": offset + 1,
            }

    def _sources(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yields the process's share of the stream: epoch, number in the share, undecoded picture."""
        first = self.offset
        for epoch in itertools.count(self.epoch):
            self.images.set_epoch(epoch)
            rank, world_size = self.positions.rank, self.positions.world_size
            share = itertools.islice(self.images, rank + first * world_size, None, world_size)
            count = first
            for count, example in enumerate(share, first + 1):
                yield epoch, count - 1, example["image"]
            if count == 0:
                raise ValueError("The stream has fewer images than there are processes.")
            first = 0


def as_pictures(batch: dict[str, Any], device: torch.device | str) -> torch.Tensor:
    """The pictures of a batch, (N, 3, H, W) in [−1, 1], on a device."""
    return batch["pixel_values"].to(device, non_blocking=True).float() / 127.5 - 1
