"""What the network is trained on, of every image, computed once: its latent's posterior and its CLOOB embedding.

A cache is a folder with a manifest that says what it was made of, and chunks that are `datasets` folders:

    manifest.json
    chunk-00000/  data-00000-of-00001.arrow  …  bad_images.json
    chunk-00001/  …

The posterior is kept as mean and standard deviation, so that latents are still sampled anew in every epoch.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from ..utils.files import write_text
from .decoding import ImageLimits
from .encoding import EncodedImages, model_fingerprint
from .images import Preparation
from .randomness import Purpose, generator_at, image_at
from .sources import canonical_source, images_fingerprint, load_images

MANIFEST_NAME = "manifest.json"
BAD_IMAGES_NAME = "bad_images.json"


@dataclass(frozen=True)
class Manifest:
    """What a cache was made of.

    Attributes:
        dataset: Where the images come from: a path, or a name on the Hub.
        split: Which part of the dataset.
        image_column: Its column with the images.
        images: Fingerprint of the images.
        num_images: How many there are, bad ones included.
        size: Height and width of the training images in pixels.
        random_crop: Whether the square lies anywhere.
        random_flip: Whether images are mirrored at random.
        variants: How many differently cropped and mirrored versions there are of each image.
        min_side: Least length of a picture's shorter side.
        max_pixels: Most pixels of a picture.
        seed: Seed of crops and flips.
        vae: Fingerprint of the autoencoder.
        image_encoder: Fingerprint of CLOOB's image encoder.
        latent_shape: (C, H, W) of the latents.
        chunk_size: Images in a chunk.
        version: Of this format.
    """

    dataset: str
    split: str
    image_column: str
    images: str
    num_images: int
    size: int
    random_crop: bool
    random_flip: bool
    variants: int
    min_side: int
    max_pixels: int
    seed: int
    vae: str
    image_encoder: str
    latent_shape: tuple[int, int, int]
    chunk_size: int
    version: int = 1

    def __post_init__(self):
        if self.chunk_size < 1 or self.variants < 1:
            raise ValueError("The chunk size and the number of variants must be at least 1.")
        is_random = self.random_crop or self.random_flip
        if is_random and self.variants == 1:
            raise ValueError(
                "A cache with random crops or flips needs several stored variants of each image; give --variants."
            )
        if not is_random and self.variants > 1:
            raise ValueError("Variants of an image differ by crop or flip; give --random_crop or --random_flip.")

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.num_images / self.chunk_size)

    @property
    def preparation(self) -> Preparation:
        """How pictures became training images."""
        limits = ImageLimits(self.min_side, self.max_pixels)
        return Preparation(self.size, self.random_crop, self.random_flip, limits)

    @classmethod
    def read(cls, folder: str | Path) -> "Manifest":
        """The manifest of a cache.

        Raises:
            ValueError: If the folder is no cache, or one of another version.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            raise ValueError(f"{folder} is no cache: it has no {MANIFEST_NAME}. Make one with training/precompute.py.")
        try:
            values = json.loads(path.read_text())
            return cls(**{**values, "latent_shape": tuple(values["latent_shape"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged or of another version; make the cache anew. ({error})") from error

    def write(self, folder: Path) -> None:
        """Writes the manifest, or makes sure that a folder's is the same.

        Raises:
            ValueError: If the folder has another cache.
        """
        if (folder / MANIFEST_NAME).exists():
            self.require(asdict(Manifest.read(folder)), f"{folder} holds another cache; give another folder")
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MANIFEST_NAME, json.dumps(asdict(self), indent=2) + "\n")

    def require(self, values: Mapping[str, Any], complaint: str) -> None:
        """Raises `ValueError` with a complaint if any of these values differs from the manifest's."""
        mine = asdict(self)
        differing = [key for key, value in values.items() if mine[key] != value]
        if differing:
            details = [f"{key} is {mine[key]} here and {values[key]} there" for key in differing]
            raise ValueError(f"{complaint}: {'; '.join(details)}.")


def chunk_path(folder: Path, chunk: int) -> Path:
    """Where a chunk lies."""
    return folder / f"chunk-{chunk:05d}"


def write_chunk(
    folder: Path, chunk: int, indices: Sequence[int], encoded: EncodedImages | None, bad: list[tuple[str, str]]
) -> None:
    """Writes a chunk under a temporary name and moves it into place.

    Args:
        folder: The cache.
        chunk: Its number.
        indices: Index of the image that each row is of, (R,).
        encoded: What was computed of them, R rows; `None` if all images are bad.
        bad: Name of each bad image, and what is wrong with it.
    """
    temporary = folder / f".chunk-{chunk:05d}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    if encoded is not None:
        columns = {"index": pa.array(indices, pa.int64())}
        for name, tensor in encoded._asdict().items():
            rows = tensor.cpu().numpy().reshape(len(indices), -1)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        were_disabled = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        datasets.Dataset(pa.table(columns)).save_to_disk(str(temporary))
        if not were_disabled:
            datasets.enable_progress_bars()
    (temporary / BAD_IMAGES_NAME).write_text(json.dumps(bad, indent=2) + "\n")
    os.replace(temporary, chunk_path(folder, chunk))


class LatentCache(torch.utils.data.Dataset):
    """A cache, as a dataset of a data loader whose batch sampler gives positions in the run.

    Args:
        folder: The cache.
        seed: The run's seed.

    Raises:
        ValueError: If the folder is no cache, or not all of it has been computed.
    """

    def __init__(self, folder: str | Path, seed: int):
        self.folder = Path(folder)
        self.manifest = Manifest.read(folder)
        self.seed = seed
        chunks = [chunk_path(self.folder, chunk) for chunk in range(self.manifest.num_chunks)]
        missing = [path.name for path in chunks if not path.is_dir()]
        if missing:
            raise ValueError(
                f"{folder} is not complete: {len(missing)} of {len(chunks)} chunks are missing, the first "
                f"{missing[0]}. Run training/precompute.py again with the same arguments."
            )
        tables, self.bad = [], []
        for chunk, path in enumerate(chunks):
            table, bad = self._read_chunk(chunk, path)
            tables.append(table)
            self.bad += bad
        if not any(map(len, tables)):
            raise ValueError(f"{folder} has no good images.")
        self.rows = datasets.concatenate_datasets([table for table in tables if len(table)]).with_format("numpy")

    def _read_chunk(self, chunk, path):
        manifest = self.manifest
        expected = min(manifest.chunk_size, manifest.num_images - chunk * manifest.chunk_size)
        try:
            bad = [tuple(entry) for entry in json.loads((path / BAD_IMAGES_NAME).read_text())]
            table = [] if len(bad) == expected else datasets.load_from_disk(str(path))
            if len(table) // manifest.variants + len(bad) != expected:
                raise ValueError("it has not as many images as it should")
        except (ValueError, OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{path} is damaged; delete it and run training/precompute.py again. ({error})"
            ) from error
        return table, bad

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
        """Makes sure that training would compute what the cache holds.

        Args:
            vae: The autoencoder that latents will be decoded with.
            image_encoder: CLOOB's image encoder that belongs to the text encoder.
            preparation: How training would prepare pictures.
            dataset: Where training would take them from; `None` for wherever the cache took them from.
            split: Which part of it.
            image_column: The column with the images.

        Raises:
            ValueError: If the cache is stale: anything that it was made of has changed.
        """
        manifest = self.manifest
        stale = f"The cache {self.folder} is stale; make it anew with training/precompute.py"
        manifest.require(
            {
                "size": preparation.size,
                "random_crop": preparation.random_crop,
                "random_flip": preparation.random_flip,
                **preparation.limits._asdict(),
                "vae": model_fingerprint(vae),
                "image_encoder": model_fingerprint(image_encoder),
            },
            stale,
        )
        if dataset is not None:
            wanted = {"dataset": canonical_source(dataset), "split": split, "image_column": image_column}
            manifest.require(wanted, stale)
        if Path(manifest.dataset).exists():  # a cache may travel without its images; then there is nothing to compare
            images = load_images(manifest.dataset, manifest.split, manifest.image_column)
            manifest.require({"num_images": len(images), "images": images_fingerprint(images)}, stale)

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """A batch: the fields of `EncodedImages`, and "indices", "num_looked_at", "bad" as `TrainingImages` has."""
        rows = [self._row(position) for position in positions]
        batch = self.rows[rows]
        tensors = {name: torch.from_numpy(np.asarray(batch[name], dtype=np.float32)) for name in EncodedImages._fields}
        for name in ("latent_mean", "latent_std"):
            tensors[name] = tensors[name].unflatten(1, self.manifest.latent_shape)
        indices = batch["index"].tolist()
        return {**tensors, "indices": torch.tensor(indices), "num_looked_at": len(indices), "bad": []}

    def _row(self, position: int) -> int:
        variants = self.manifest.variants
        row = image_at(self.seed, position, len(self)) * variants
        if variants > 1:
            row += int(generator_at(self.seed, Purpose.CROP, position).integers(variants))
        return row
