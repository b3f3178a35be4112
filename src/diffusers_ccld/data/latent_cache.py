"""A cache of encoded images: the posterior of each image's latents and its CLOOB embedding, computed once.

A cache is a folder with a manifest, which describes its sources, and with chunks, which `datasets` saved:

    manifest.json
    chunk-00000/  data-00000-of-00001.arrow  …  bad_images.json
    chunk-00001/  …

The posterior is kept as mean and standard deviation, so that every epoch samples other latents.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from ..utils.files import write_text
from ..utils.locks import exclusive, refuse_if_in_use
from ..utils.suggestions import path_suggestion
from .decoding import ImageLimits
from .encoding import EncodedImages, model_fingerprint
from .fingerprints import ImagesFingerprint, fingerprint_difference, images_fingerprint
from .images import Preparation
from .randomness import Purpose, generator_at, image_at
from .sources import canonical_source, load_images

MANIFEST_NAME = "manifest.json"
BAD_IMAGES_NAME = "bad_images.json"
INDEX_COLUMN = "index"  # of a chunk: each row's image, by its number in the dataset
VERSION = 3

# Names of version 1 that have changed since.
RENAMED = {
    "split": "dataset_split",
    "size": "resolution",
    "min_side": "min_image_side",
    "max_pixels": "max_image_pixels",
}


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the values of a manifest of any version to the names of the current version.

    Version 2 had the hash of `quick_fingerprint` for the images, which stays as it is.
    """
    if values.get("version") not in (1, 2):
        return dict(values)
    return {RENAMED.get(name, name): value for name, value in values.items()} | {"version": VERSION}


@dataclass(frozen=True)
class Manifest:
    """The sources of a cache. Fields that are also settings of a run have the same names.

    Attributes:
        dataset: A path, or a name on the Hub.
        dataset_split: Split of the dataset.
        image_column: Its column with the images.
        images: Fingerprint of the images.
        num_images: Number of images, including bad ones.
        resolution: Height and width of the training images in pixels.
        random_crop: True if images are cropped at a random position.
        random_flip: True if images are mirrored at random.
        variants: Number of differently cropped and mirrored versions of each image.
        min_image_side: Minimum length of a picture's shorter side in pixels.
        max_image_pixels: Maximum number of pixels of a picture.
        seed: Seed of crops and flips.
        vae: Fingerprint of the autoencoder.
        image_encoder: Fingerprint of CLOOB's image encoder.
        latent_shape: (C, H, W) of the latents.
        chunk_size: Images in a chunk.
        version: Version of this format.
    """

    dataset: str
    dataset_split: str
    image_column: str
    images: ImagesFingerprint | str
    num_images: int
    resolution: int
    random_crop: bool
    random_flip: bool
    variants: int
    min_image_side: int
    max_image_pixels: int
    seed: int
    vae: str
    image_encoder: str
    latent_shape: tuple[int, int, int]
    chunk_size: int
    version: int = VERSION

    def __post_init__(self):
        if self.chunk_size < 1 or self.variants < 1:
            raise ValueError("The chunk size and the number of variants must be at least 1.")
        is_random = self.random_crop or self.random_flip
        if is_random and self.variants == 1:
            raise ValueError(
                "A cache with random crops or flips needs several stored variants of each image; give --variants."
            )
        if not is_random and self.variants > 1:
            raise ValueError("Variants of an image differ by crop or flip; give --random-crop or --random-flip.")

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.num_images / self.chunk_size)

    @property
    def preparation(self) -> Preparation:
        """The preparation of the training images."""
        limits = ImageLimits(self.min_image_side, self.max_image_pixels)
        return Preparation(self.resolution, self.random_crop, self.random_flip, limits)

    @classmethod
    def read(cls, folder: str | Path) -> "Manifest":
        """Reads the manifest of a cache, of this version or an earlier one.

        Raises:
            ValueError: If the folder is not a cache, or of a later version.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.parent.is_dir():
            raise ValueError(f"There is no folder {folder}.{path_suggestion(folder, is_folder=True)}")
        if not path.is_file():
            raise ValueError(
                f"{folder} is not a cache: it lacks {MANIFEST_NAME}. Make one with training/precompute.py."
            )
        try:
            values = with_present_names(json.loads(path.read_text(encoding="utf-8")))
            if values["version"] != VERSION:
                raise ValueError(f"version {values['version']}")
            return cls(**{**values, "latent_shape": tuple(values["latent_shape"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged or of another version; make the cache again. ({error})") from error

    def write(self, folder: Path) -> None:
        """Writes the manifest, or checks that the folder's manifest is the same.

        Raises:
            ValueError: If the folder has another cache.
        """
        if (folder / MANIFEST_NAME).exists():
            there = asdict(Manifest.read(folder))
            del there["dataset"]  # the images may have been moved: their fingerprint decides
            self.require(there, f"{folder} holds another cache; give another folder")
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MANIFEST_NAME, json.dumps(asdict(self), indent=2) + "\n")

    def require(self, values: Mapping[str, Any], complaint: str) -> None:
        """Raises `ValueError` with a complaint if a value differs from the manifest's."""
        mine, details = asdict(self), []
        for key, value in values.items():
            if key == "images":
                found = fingerprint_difference(mine[key], value)
                details += [] if found is None else [f"images: {found}"]
            elif mine[key] != value:
                details.append(f"{key} is {mine[key]} here and {value} there")
        if details:
            raise ValueError(f"{complaint}: {'; '.join(details)}.")


def chunk_path(folder: Path, chunk: int) -> Path:
    """Folder of a chunk."""
    return folder / f"chunk-{chunk:05d}"


@contextmanager
def writing(folder: Path, shard_index: int, num_shards: int) -> Iterator[None]:
    """Context of a process that writes its share of a cache. Others may write other shares of the same division.

    Args:
        folder: The cache.
        shard_index: Number of the process's share.
        num_shards: Number of shares.

    Raises:
        FolderInUseError: If a process writes the same share, or one of another division.
    """
    with exclusive(folder, part=f"shard-{shard_index}-of-{num_shards}"):
        for path in folder.glob(".shard-*-of-*.lock"):
            if not path.name.endswith(f"-of-{num_shards}.lock"):
                refuse_if_in_use(path)
        yield


def write_chunk(
    folder: Path, chunk: int, indices: Sequence[int], encoded: EncodedImages | None, bad: list[tuple[str, str]]
) -> None:
    """Writes a chunk under a temporary name and moves it into place.

    Args:
        folder: The cache.
        chunk: Its number.
        indices: Index of the image of each row, (R,).
        encoded: The encoded images, R rows; `None` if all images are bad.
        bad: Name and reason of each bad image.
    """
    temporary = folder / f".chunk-{chunk:05d}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    if encoded is not None:
        columns = {INDEX_COLUMN: pa.array(indices, pa.int64())}
        for name, tensor in encoded._asdict().items():
            rows = tensor.cpu().numpy().reshape(len(indices), -1)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        were_disabled = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        datasets.Dataset(pa.table(columns)).save_to_disk(str(temporary))
        if not were_disabled:
            datasets.enable_progress_bars()
    (temporary / BAD_IMAGES_NAME).write_text(json.dumps(bad, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, chunk_path(folder, chunk))


class LatentCache(torch.utils.data.Dataset):
    """A cache as a dataset that is indexed by positions in the run. `open` makes one.

    Args:
        folder: The cache.
        manifest: Its manifest.
        rows: The rows of all chunks, (N · variants), as numpy arrays.
        bad: Name and reason of each bad image.
        seed: The run's seed.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, rows: datasets.Dataset, bad: list[tuple[str, str]], seed: int
    ):
        self.folder, self.manifest, self.rows, self.bad, self.seed = folder, manifest, rows, bad, seed

    @classmethod
    def open(cls, folder: str | Path, seed: int) -> "LatentCache":
        """Opens a cache.

        Args:
            folder: The cache.
            seed: The run's seed.

        Raises:
            ValueError: If the folder is not a cache, or if it is incomplete or damaged.
        """
        folder, manifest = Path(folder), Manifest.read(folder)
        chunks = [chunk_path(folder, chunk) for chunk in range(manifest.num_chunks)]
        missing = [path.name for path in chunks if not path.is_dir()]
        if missing:
            raise ValueError(
                f"{folder} is not complete: {len(missing)} of {len(chunks)} chunks are missing, the first "
                f"{missing[0]}. Run training/precompute.py again with the same arguments."
            )
        tables, bad = [], []
        for chunk, path in enumerate(chunks):
            table, bad_here = _read_chunk(manifest, chunk, path)
            tables.append(table)
            bad += bad_here
        if not any(map(len, tables)):
            raise ValueError(f"All images of {folder} are bad.")
        rows = datasets.concatenate_datasets([table for table in tables if len(table)]).with_format("numpy")
        return cls(folder, manifest, rows, bad, seed)

    def __len__(self) -> int:
        return len(self.rows) // self.manifest.variants

    def check(
        self,
        vae: torch.nn.Module,
        image_encoder: torch.nn.Module,
        preparation: Preparation,
        dataset: str | None = None,
        split: str = "train",
        image_column: str = "image",
    ) -> None:
        """Checks that the cache holds what training would compute.

        Args:
            vae: The autoencoder of the pipeline.
            image_encoder: CLOOB's image encoder of the pipeline.
            preparation: The run's preparation of pictures.
            dataset: The run's dataset; `None` for that of the cache.
            split: Its split.
            image_column: Its column with the images.

        Raises:
            ValueError: If the cache is stale: one of its sources has changed.
        """
        manifest = self.manifest
        stale = f"The cache {self.folder} is stale; make it again with training/precompute.py"
        manifest.require(
            {
                "resolution": preparation.size,
                "random_crop": preparation.random_crop,
                "random_flip": preparation.random_flip,
                "min_image_side": preparation.limits.min_side,
                "max_image_pixels": preparation.limits.max_pixels,
                "vae": model_fingerprint(vae),
                "image_encoder": model_fingerprint(image_encoder),
            },
            stale,
        )
        place = manifest.dataset if dataset is None else canonical_source(dataset)
        if dataset is not None:
            manifest.require({"dataset_split": split, "image_column": image_column}, stale)
        if not Path(place).exists():  # a cache may have been copied without its images
            manifest.require({"dataset": place}, stale)
        else:
            images = load_images(place, manifest.dataset_split, manifest.image_column)
            fingerprint = images_fingerprint(images, manifest.images)
            manifest.require({"num_images": len(images), "images": fingerprint}, stale)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """A batch: the fields of `EncodedImages`, and "indices", "looked_at" and "bad" as in `TrainingImages`."""
        rows = [self._row(position) for position in positions]
        batch = self.rows[rows]
        tensors = {name: torch.from_numpy(np.asarray(batch[name], dtype=np.float32)) for name in EncodedImages._fields}
        for name in ("latent_mean", "latent_std"):
            tensors[name] = tensors[name].unflatten(1, self.manifest.latent_shape)
        indices = batch[INDEX_COLUMN].tolist()
        return {**tensors, "indices": torch.tensor(indices), "looked_at": indices, "bad": []}

    def _row(self, position: int) -> int:
        variants = self.manifest.variants
        row = image_at(self.seed, position, len(self)) * variants
        if variants > 1:
            row += int(generator_at(self.seed, Purpose.CROP, position).integers(variants))
        return row


def _read_chunk(manifest: Manifest, chunk: int, path: Path) -> tuple[Sequence, list[tuple[str, str]]]:
    """The rows of a chunk, and name and reason of each of its bad images."""
    expected = min(manifest.chunk_size, manifest.num_images - chunk * manifest.chunk_size)
    try:
        bad = [tuple(entry) for entry in json.loads((path / BAD_IMAGES_NAME).read_text(encoding="utf-8"))]
        table = [] if len(bad) == expected else datasets.load_from_disk(str(path))
        if len(table) // manifest.variants + len(bad) != expected:
            raise ValueError("its number of images is wrong")
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged; delete it and run training/precompute.py again. ({error})") from error
    return table, bad
