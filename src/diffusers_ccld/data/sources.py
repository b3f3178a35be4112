"""Finds images: on the Hub, in a folder, a saved dataset, parquet files or a list of paths."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import xxhash
from PIL import Image
from tqdm.auto import tqdm

from ..utils.errors import first_line

# Where images come from


def load_images(
    source: str, split: str = "train", image_column: str = "image", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Finds a set of images.

    Args:
        source: A folder of images (with subfolders), a text file with a path on every line, or what `load_examples`
            takes.
        split: Split of the dataset.
        image_column: Column with the images.
        streaming: True to read a dataset of the Hub or of local parquet files as a stream, without downloading or
            converting it first.

    Returns:
        A dataset with the column "image": undecoded pictures, each a mapping with "bytes" and "path".

    Raises:
        ValueError: If the source, the split or the column is missing, or has no images.
    """
    path = Path(source).expanduser()
    if path.suffix == ".txt" and path.is_file():
        listed = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
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
    """Loads a dataset with all its columns.

    Args:
        source: A folder that `datasets` saved, a parquet file or a WebDataset shard (`.tar`), a folder of such files,
            or the name of a dataset on the Hub. The columns of a WebDataset are the extensions of its files, such as
            "jpg" and "txt".
        split: Split of the dataset.
        streaming: As for `load_images`.

    Raises:
        ValueError: If the source or the split is missing or empty.
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
            f"{source} is not a folder that datasets saved, and has neither parquet files nor shards (.tar)."
        )
    elif path.exists() or path.is_absolute() or source.startswith((".", "~")):
        raise ValueError(f"{source}: no such folder, dataset, or list of paths ending in .txt.")
    else:
        examples = _load(source, source, split, streaming)
    if isinstance(examples, datasets.Dataset) and len(examples) == 0:
        raise ValueError(f"{source} has no images.")
    return examples


def select_images(
    examples: datasets.Dataset | datasets.IterableDataset, source: str, image_column: str
) -> datasets.Dataset | datasets.IterableDataset:
    """The images of a dataset, as `load_images` returns them.

    Raises:
        ValueError: If the column is missing, or has no images.
    """
    columns = examples.column_names
    if columns is not None and image_column not in columns:
        raise ValueError(f"{source} has no column {image_column!r}; give image_column, one of {', '.join(columns)}.")
    images = examples.select_columns(image_column)
    if image_column != "image":
        images = images.rename_column(image_column, "image")
    # Undecoded: otherwise a damaged picture would raise in the middle of an iteration.
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
        raise ValueError(f"{source}: local files are always read one by one; leave out streaming.")
    images = datasets.Dataset.from_dict({"image": [str(path) for path in paths]})
    return images.cast_column("image", datasets.Image(decode=False))


def _is_saved_dataset(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _from_disk(path: Path, split: str, streaming: bool) -> datasets.Dataset:
    if streaming:
        raise ValueError(f"{path}: a saved dataset is always mapped into memory; leave out streaming.")
    images = datasets.load_from_disk(str(path))
    if isinstance(images, datasets.DatasetDict):
        if split not in images:
            raise ValueError(f"{path} has no split {split!r}; there are {', '.join(images)}.")
        images = images[split]
    return images


def _load(builder, source, split, streaming, **options):
    try:
        return datasets.load_dataset(builder, split=split, streaming=streaming, **options)
    except Exception as error:  # errors of the Hub, of parquet and of the network
        raise ValueError(f"{source}: no dataset could be loaded. ({first_line(error)})") from error


def name_of(source: dict[str, Any] | None, index: int | None = None) -> str:
    """Name of a picture in reports: its file, its number in a dataset, or a hash of its bytes in a stream."""
    path, data = (source or {}).get("path"), (source or {}).get("bytes")
    if path is not None and data is None:
        return path
    mark = xxhash.xxh3_64_hexdigest(data or b"") if index is None else index
    return f"{path or 'image'} [{mark}]"


def images_fingerprint(images: datasets.Dataset) -> str:
    """Hash of the images: of their contents, or of each file's name, length and modification time."""
    digest = xxhash.xxh3_128()
    batches = range(0, len(images), 256)
    for first in tqdm(batches, desc="Comparing images", unit="batch", disable=len(images) < 4096):
        for source in images[first : first + 256]["image"]:
            source = source or {"path": None, "bytes": b""}
            # The name alone, so that a folder may be moved.
            digest.update(f"{Path(source['path'] or '').name}\0".encode())
            if source["bytes"] is not None:
                digest.update(source["bytes"])
            elif (path := Path(source["path"])).is_file():
                status = path.stat()
                digest.update(f"{status.st_size}/{status.st_mtime_ns}".encode())
            else:
                digest.update(b"missing")
    return digest.hexdigest()


def canonical_source(source: str) -> str:
    """The name of a source in manifests: paths become absolute."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
