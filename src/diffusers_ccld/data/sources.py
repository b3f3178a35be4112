"""Images in: from the Hub, a folder, a saved dataset, parquet files or a list of paths; whole or as a stream."""

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


def canonical_source(source: str) -> str:
    """A source's name in a manifest: an absolute path if it is one."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
