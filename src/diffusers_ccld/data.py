"""Images in: from the Hub, a folder, a saved dataset, parquet files or a list of paths; whole or as a stream."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch
import xxhash
from PIL import Image
from tqdm.auto import tqdm

from .errors import first_line
from .pictures import BadImageError, ImageLimits, open_picture, resize_and_crop
from .training_randomness import BatchPositions, Purpose, generator_at, image_at

MAX_SUBSTITUTES = 100
SHUFFLE_BUFFER = 1000


class Preparation(NamedTuple):
    """How a picture becomes a training image.

    Attributes:
        size: Height and width in pixels.
        random_crop: Whether the square lies anywhere, or in the centre.
        random_flip: Whether every other image is mirrored.
        limits: Which pictures are refused.
    """

    size: int
    random_crop: bool = False
    random_flip: bool = False
    limits: ImageLimits = ImageLimits()

    def pixels(self, source: dict[str, Any], generator: np.random.Generator) -> np.ndarray:
        """The training image of an undecoded picture, (3, size, size), uint8.

        Raises:
            BadImageError: If it is no good.
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


# Where images come from


def load_images(
    source: str, split: str = "train", image_column: str = "image", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Finds a set of images.

    Args:
        source: A folder of images (with subfolders), a text file with a path on every line, or what `load_examples`
            takes.
        split: Which part of a dataset that has several.
        image_column: The column that the images are in.
        streaming: Whether to read a dataset of the Hub or of files of this machine as a stream, in place of
            downloading or converting it.

    Returns:
        A dataset with the column "image": undecoded pictures, each a mapping with "bytes" and "path".

    Raises:
        ValueError: If there is nothing, or not what was asked for.
    """
    path = Path(source).expanduser()
    if path.suffix == ".txt" and path.is_file():
        listed = [line.strip() for line in path.read_text().splitlines()]
        paths = [path.parent / name for name in listed if name]
        return _dataset_of_paths(paths, source, split, image_column, streaming)
    if path.is_dir() and not _is_saved_dataset(path) and not _holds(path, ".parquet"):
        known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        files = [p for p in path.rglob("*") if p.suffix.lower() in known and p.is_file() and p.name[0] != "."]
        if files or not _holds(path, ".tar"):
            return _dataset_of_paths(sorted(files), source, split, image_column, streaming)
    return select_images(load_examples(source, split, streaming), source, image_column)


def load_examples(
    source: str, split: str = "train", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Finds a dataset, with all its columns.

    Args:
        source: A folder that `datasets` saved, a parquet file or a WebDataset shard (`.tar`), a folder of such, or
            the name of a dataset on the Hub. The columns of a WebDataset are the endings of its files, such as "jpg"
            and "txt".
        split: Which part of a dataset that has several.
        streaming: As for `load_images`.

    Raises:
        ValueError: If there is nothing, or not what was asked for.
    """
    path = Path(source).expanduser()
    if path.suffix in _BUILDERS and path.is_file():
        examples = _load(_BUILDERS[path.suffix], source, split, streaming, data_files=str(path))
    elif path.is_dir() and _is_saved_dataset(path):
        examples = _from_disk(path, split, streaming)
    elif path.is_dir() and (found := [suffix for suffix in _BUILDERS if _holds(path, suffix)]):
        examples = _load(_BUILDERS[found[0]], source, split, streaming, data_dir=str(path))
    elif path.is_dir():
        raise ValueError(
            f"{source} is no folder that datasets saved, and has neither parquet files nor shards (.tar)."
        )
    elif path.exists() or path.is_absolute() or source.startswith((".", "~")):
        raise ValueError(f"{source}: there is no such folder, dataset, or list of paths ending in .txt.")
    else:
        examples = _load(source, source, split, streaming)
    if isinstance(examples, datasets.Dataset) and len(examples) == 0:
        raise ValueError(f"{source} has no images.")
    return examples


def select_images(
    examples: datasets.Dataset | datasets.IterableDataset, source: str, image_column: str
) -> datasets.Dataset | datasets.IterableDataset:
    """The images of a dataset, as `load_images` gives them.

    Raises:
        ValueError: If there is no such column, or no images in it.
    """
    columns = examples.column_names
    if columns is not None and image_column not in columns:
        raise ValueError(f"{source} has no column {image_column!r}; give image_column, one of {', '.join(columns)}.")
    images = examples.select_columns(image_column)
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    # Undecoded: a damaged picture would otherwise raise in the middle of an iteration.
    try:
        return images.cast_column("image", datasets.Image(decode=False))
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{source}: the column {image_column!r} has no images. ({error})") from error


_BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}


def _holds(path: Path, suffix: str) -> bool:
    return any(file.name[0] != "." for file in path.rglob(f"*{suffix}"))


def _dataset_of_paths(paths, source, split, image_column, streaming):
    if not paths:
        raise ValueError(f"{source} has no images.")
    if split != "train" or image_column != "image":
        raise ValueError(f"{source}: files have neither splits nor columns; leave out dataset_split and image_column.")
    if streaming:
        raise ValueError(f"{source}: files of this machine are read one by one in any case; leave out streaming.")
    images = datasets.Dataset.from_dict({"image": [str(path) for path in paths]})
    return images.cast_column("image", datasets.Image(decode=False))


def _is_saved_dataset(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _from_disk(path: Path, split: str, streaming: bool) -> datasets.Dataset:
    if streaming:
        raise ValueError(f"{path}: a saved dataset is mapped into memory in any case; leave out streaming.")
    images = datasets.load_from_disk(str(path))
    if isinstance(images, datasets.DatasetDict):
        if split not in images:
            raise ValueError(f"{path} has no split {split!r}; there are {', '.join(images)}.")
        images = images[split]
    return images


def _load(builder, source, split, streaming, **options):
    try:
        return datasets.load_dataset(builder, split=split, streaming=streaming, **options)
    except Exception as error:  # of the Hub, of parquet, of a network that is not there
        raise ValueError(f"{source}: no dataset could be loaded from there. ({first_line(error)})") from error


def name_of(source: dict[str, Any] | None, index: int | None = None) -> str:
    """What a report calls a picture: its file; inside a dataset its number, or in a stream a hash."""
    path, data = (source or {}).get("path"), (source or {}).get("bytes")
    if path is not None and data is None:
        return path
    mark = xxhash.xxh3_64_hexdigest(data or b"") if index is None else index
    return f"{path or 'image'} [{mark}]"


def images_fingerprint(images: datasets.Dataset) -> str:
    """A hash that changes when images do: of their contents, or of name, length and time of change of each file."""
    digest = xxhash.xxh3_128()
    batches = range(0, len(images), 256)
    for first in tqdm(batches, desc="Comparing images", unit="batch", disable=len(images) < 4096):
        for source in images[first : first + 256]["image"]:
            source = source or {"path": None, "bytes": b""}
            # The name, not the place: a folder may be moved.
            digest.update(f"{Path(source['path'] or '').name}\0".encode())
            if source["bytes"] is not None:
                digest.update(source["bytes"])
            elif (path := Path(source["path"])).is_file():
                status = path.stat()
                digest.update(f"{status.st_size}/{status.st_mtime_ns}".encode())
            else:
                digest.update(b"missing")
    return digest.hexdigest()


# What a data loader iterates


class TrainingImages(torch.utils.data.Dataset):
    """Training images by position in the run, for a data loader whose batch sampler gives positions.

    The place of a bad picture is taken by another one, drawn at random.

    Args:
        images: Undecoded pictures, of `load_images`.
        preparation: How they become training images.
        seed: The run's seed.
    """

    def __init__(self, images: datasets.Dataset, preparation: Preparation, seed: int):
        self.images = images
        self.preparation = preparation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """A batch: "pixel_values" (N, 3, size, size) uint8, "indices" (N,), "num_looked_at", "bad" (name, reason)."""
        pixels, indices, bad = [], [], []
        for position in positions:
            for index in self._candidates(position):
                source = self.images[index]["image"]
                try:
                    pixels.append(self.preparation.pixels(source, generator_at(self.seed, Purpose.CROP, position)))
                except BadImageError as error:
                    bad.append((name_of(source, index), str(error)))
                else:
                    indices.append(index)
                    break
            else:
                raise ValueError(f"{MAX_SUBSTITUTES} pictures in a row are no good, the last because of {bad[-1]}.")
        return {
            "pixel_values": torch.from_numpy(np.stack(pixels)),
            "indices": torch.tensor(indices),
            "num_looked_at": len(indices) + len(bad),
            "bad": bad,
        }

    def _candidates(self, position: int) -> Iterator[int]:
        yield image_at(self.seed, position, len(self.images))
        substitutes = generator_at(self.seed, Purpose.SUBSTITUTE, position)
        yield from substitutes.integers(len(self.images), size=MAX_SUBSTITUTES).tolist()


class StreamedImages(torch.utils.data.IterableDataset):
    """Training images from a stream, in batches. Every process reads the whole stream and keeps its share of it.

    A stream that is resumed is read again up to where it was, so that no image is left out and none comes twice.

    Args:
        images: The stream, of `load_images`.
        preparation: How pictures become training images.
        seed: The run's seed.
        positions: The positions of this process's batches; which process it is decides its share, too.
        epoch: The epoch to begin in.
        offset: How many of its share of that epoch this process has taken already.
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
        """Batches as those of `TrainingImages`, and beside them "epoch" and "offset": where the stream stands."""
        stream = self._sources()
        for positions in self.positions.batches():
            pixels, bad = [], []
            while len(pixels) < len(positions):
                epoch, offset, source = next(stream)
                generator = generator_at(self.seed, Purpose.CROP, positions[len(pixels)])
                try:
                    pixels.append(self.preparation.pixels(source, generator))
                except BadImageError as error:
                    bad.append((name_of(source), str(error)))
                    if len(bad) >= MAX_SUBSTITUTES + len(pixels):
                        raise ValueError(f"{len(bad)} pictures in a row are no good, the last: {bad[-1]}.") from error
            yield {
                "pixel_values": torch.from_numpy(np.stack(pixels)),
                "num_looked_at": len(pixels) + len(bad),
                "bad": bad,
                "epoch": epoch,
                "offset": offset + 1,
            }

    def _sources(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """The process's share of the stream, from where it begins: epoch, number in the share, undecoded picture."""
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
