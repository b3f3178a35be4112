"""Finds images: on the Hub, in a folder, a saved dataset, parquet files or a list of paths."""

import os
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import xxhash
from huggingface_hub import metadata_load
from yaml import YAMLError

from ..utils.errors import first_line
from ..utils.hub import is_on_hub
from ..utils.suggestions import path_suggestion
from ..utils.text_lines import read_lines
from .folders import (
    FolderContent,
    Splits,
    is_uploaded_dataset,
    read_folder,
    require_no_pointers,
    split_datasets,
    split_pictures,
)
from .metadata import described_pictures

ALL = "all"  # the split that has all images, as for `datasets`

# Where images come from


class Source(NamedTuple):
    """A set of images or examples, and what it was taken to be.

    Attributes:
        examples: The dataset.
        description: Where it is from and what was skipped there, in a line or two.
        passed_over: Name and reason of each file that may be a picture and is not used.
    """

    examples: datasets.Dataset | datasets.IterableDataset
    description: str
    passed_over: list[tuple[str, str]]


def find_images(source: str, split: str = "train", image_column: str = "image", streaming: bool = False) -> Source:
    """Finds a set of images.

    Args:
        source: A folder of pictures (with subfolders), a text file with a path on every line, or what `find_examples`
            takes.
        split: Split of the dataset, or "all". Folders of pictures have splits as for `split_pictures`.
        image_column: Column with the images.
        streaming: True to read a dataset of the Hub or of local parquet files as a stream, without downloading or
            converting it first.

    Returns:
        A dataset with the column "image": undecoded pictures, each a mapping with "bytes" and "path".

    Raises:
        ValueError: If the source, the split or the column is missing, has no images, or can be read in two ways.
    """
    path = Path(os.path.expanduser(source))
    if path.suffix == ".txt" and path.is_file():
        _require_files(source, image_column, streaming)
        if split not in ("train", ALL):
            raise ValueError(f"{source}: a list has no splits; leave out dataset_split.")
        return _found(_undecoded(_listed(path)), source, "a list")
    found = _find(path, source, split, streaming, image_column, with_metadata=False)
    return found._replace(examples=select_images(found.examples, source, image_column))


def find_examples(source: str, split: str = "train", streaming: bool = False) -> Source:
    """Finds a dataset with all its columns.

    Args:
        source: A folder that `datasets` saved, a parquet file or a WebDataset shard (`.tar`), a folder of such files,
            a folder of pictures that metadata.csv, .jsonl or .parquet describes, or the name of a dataset on the Hub.
            The columns of a WebDataset are the extensions of its files, such as "jpg" and "txt".
        split: Split of the dataset, or "all".
        streaming: As for `find_images`.

    Raises:
        ValueError: As for `find_images`.
    """
    return _find(Path(os.path.expanduser(source)), source, split, streaming, "image", with_metadata=True)


def load_images(
    source: str, split: str = "train", image_column: str = "image", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """The images that `find_images` finds."""
    return find_images(source, split, image_column, streaming).examples


def load_examples(
    source: str, split: str = "train", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """The examples that `find_examples` finds."""
    return find_examples(source, split, streaming).examples


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


def _find(path: Path, source: str, split: str, streaming: bool, image_column: str, with_metadata: bool) -> Source:
    if path.suffix in _BUILDERS and path.is_file():
        require_no_pointers([path], source)
        examples = _load(_BUILDERS[path.suffix], source, split, streaming, data_files=escape(str(path)))
    elif path.is_dir() and _is_saved_dataset(path):
        content = read_folder(path)
        content.others.clear()  # the files of the dataset
        for kind, paths in (("pictures", content.pictures), ("parquet files", content.parquet)):
            content.pass_over(paths, f"{kind} beside a saved dataset")
        return _found(_from_disk(path, split, streaming), source, f"split {split}", content)
    elif path.is_dir():
        return _in_folder(read_folder(path), source, split, streaming, image_column, with_metadata)
    elif path.exists():
        raise ValueError(f"{source}: this file is not parquet, a shard (.tar), or a list of paths ending in .txt.")
    elif path.is_absolute() or source.startswith((".", "~")):
        raise ValueError(f"{source}: there is no such folder or file.{path_suggestion(source)}")
    else:
        examples = _from_hub(source, split, streaming)
    return _found(examples, source, f"split {split}")


def _found(examples, source, details, content=None):
    """A source whose description says what its images are from, and what was skipped in a folder."""
    if isinstance(examples, datasets.Dataset):
        if len(examples) == 0:
            raise ValueError(f"{source} has no images.")
        details = f"{len(examples):,} image{'s' * (len(examples) != 1)} from {details}"
    lines = [f"dataset: {source}, {details}"]
    if content is not None and (passed_over := content.describe_passed_over()) is not None:
        lines.append(passed_over)
    description = "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # names need not be UTF-8
    return Source(examples, description, content.passed_over if content is not None else [])


# Files

_BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
_KINDS = {"pictures": "pictures", "parquet": "parquet files", "webdataset": "shards (.tar)"}


def _in_folder(
    content: FolderContent, source: str, split: str, streaming: bool, image_column: str, with_metadata: bool
) -> Source:
    """The images of a folder of pictures, of parquet files or of shards."""
    kinds = {"pictures": content.pictures, "parquet": content.parquet, "webdataset": content.shards}
    if _has_configurations(content.folder):  # the card of a dataset's repository says what is what
        require_no_pointers([path for paths in kinds.values() for path in paths], source)
        return _found(_load(str(content.folder), source, split, streaming), source, f"split {split} of its README.md")
    kind = _kind_of(content, kinds, source)
    files = kinds.pop(kind)
    for other in kinds.values():
        content.pass_over(other, f"beside {_KINDS[kind]}")
    if kind == "pictures":
        _require_files(source, image_column, streaming)
    splits = split_datasets(content, files)
    if kind == "pictures":
        splits = Splits({ALL: files}, [], None) if split == ALL else split_pictures(content, source)
    chosen = _chosen(splits, split, source)
    content.pass_over(splits.rest, "not in a split")
    require_no_pointers([path for paths in chosen.values() for path in paths], source)
    details = _KINDS[kind]
    if splits.origin is not None:
        details = f"{details}, split {split} of {', '.join(splits.files)} (by the names of {splits.origin})"
    if kind != "pictures":
        names = {name: [escape(str(path)) for path in sorted(paths, key=str)] for name, paths in chosen.items()}
        return _found(_load(kind, source, *chosen, streaming, data_files=names), source, details, content)
    (pictures,) = chosen.values()
    if with_metadata and content.metadata:
        require_no_pointers(content.metadata, source)
        return _found(described_pictures(pictures, content), source, f"{details} with metadata", content)
    return _found(_undecoded(pictures), source, details, content)


def _kind_of(content: FolderContent, kinds: dict[str, list[Path]], source: str) -> str:
    """The kind of files that the images of a folder are in.

    Raises:
        ValueError: If there are none, or several kinds and none of them lies as `datasets` uploads it.
    """
    present = [kind for kind, paths in kinds.items() if paths]
    uploaded = [kind for kind in present if kind != "pictures" and is_uploaded_dataset(content, kinds[kind])]
    if len(uploaded or present) == 1:
        return (uploaded or present)[0]
    if present:
        readings = [
            f"{len(kinds[k]):,} {_KINDS[k]}, such as {kinds[k][0].relative_to(content.folder)}" for k in present
        ]
        raise ValueError(
            f"{source} can be read in several ways: as {', or as '.join(readings)}. Give a folder or file of one "
            f"kind, or move the others away. (Metadata of pictures belongs in metadata.csv, .jsonl or .parquet.)"
        )
    passed_over = content.describe_passed_over()
    raise ValueError(
        f"{source} has no images: it is not a folder that datasets saved, and has neither pictures nor parquet files "
        f"nor shards (.tar).{f' ({passed_over})' if passed_over else ''}"
    )


def _chosen(splits: Splits, split: str, source: str) -> dict[str, list[Path]]:
    """The files of a split by its name; those of all splits are called train."""
    if split == ALL:
        return {"train": [path for paths in splits.files.values() for path in paths]}
    if split in splits.files:
        return {split: splits.files[split]}
    if splits.origin is None:
        raise ValueError(f"{source} is not divided into splits; leave out dataset_split.")
    raise ValueError(
        f"{source} has no split {split!r}; by the names of {splits.origin} there are {', '.join(splits.files)}. "
        f"Give one of them or {ALL!r} as dataset_split, or the folder of the split as the dataset."
    )


def _require_files(source, image_column, streaming):
    if image_column != "image":
        raise ValueError(f"{source}: files have no columns; leave out image_column.")
    if streaming:
        raise ValueError(f"{source}: local files are always read one by one; leave out streaming.")


def _undecoded(paths: list[Path]) -> datasets.Dataset:
    images = datasets.Dataset.from_dict({"image": [str(path) for path in paths]})
    return images.cast_column("image", datasets.Image(decode=False))


def _listed(path: Path) -> list[Path]:
    """The paths of a list. They are relative to its folder, ~ is the home folder, and lines with # are comments."""
    paths = []
    for number, line in read_lines(path):
        if not line.startswith("#"):
            paths.append(path.parent / os.path.expanduser(line))
        elif os.path.isfile(path.parent / line):  # a comment may be too long for a path
            raise ValueError(f"{path}, line {number}: # begins a comment, and {line} is a file; write ./{line}.")
    return paths


# Datasets


def _is_saved_dataset(path: Path) -> bool:
    is_one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return is_one or (path / "dataset_dict.json").is_file()


def _from_disk(path: Path, split: str, streaming: bool) -> datasets.Dataset:
    if streaming:
        raise ValueError(f"{path}: a saved dataset is always mapped into memory; leave out streaming.")
    require_no_pointers(sorted(path.rglob("*.arrow")), str(path))
    try:
        images = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged files
        raise ValueError(f"{path}: the saved dataset cannot be loaded. ({first_line(error)})") from error
    if isinstance(images, datasets.DatasetDict):
        if split == ALL:
            return datasets.concatenate_datasets(list(images.values()))
        if split not in images:
            raise ValueError(f"{path} has no split {split!r}; there are {', '.join(images)}.")
        return images[split]
    if split not in ("train", ALL, str(images.split)):
        raise ValueError(f"{path} is not divided into splits; leave out dataset_split.")
    return images


def _has_configurations(folder: Path) -> bool:
    """True if the README.md of a dataset's repository says which files belong to which split."""
    try:
        card = metadata_load(folder / "README.md") if (folder / "README.md").is_file() else None
    except (ValueError, YAMLError):  # not a card
        return False
    return bool((card or {}).get("configs"))


def _load(builder, source, split, streaming, **options):
    try:
        return datasets.load_dataset(builder, split=split, streaming=streaming, **options)
    except Exception as error:  # errors of the Hub, of parquet and of the network
        raise ValueError(f"{source}: no dataset could be loaded. ({first_line(error)})") from error


def _from_hub(name, split, streaming):
    advice = path_suggestion(name)
    message = f"There is no folder {name}, and no dataset of this name could be loaded from the Hub.{advice}"
    if advice and not is_on_hub(name, "dataset"):  # probably misspelt; the library would ask the Hub again and again
        raise ValueError(message)
    try:
        return datasets.load_dataset(name, split=split, streaming=streaming)
    except Exception as error:  # errors of the Hub and of the network
        raise ValueError(f"{message} ({first_line(error)})") from error


def name_of(source: dict[str, Any] | None, index: int | None = None) -> str:
    """Name of a picture in reports: its file, its number in a dataset, or a hash of its bytes in a stream."""
    path, data = (source or {}).get("path"), (source or {}).get("bytes")
    if path is not None and data is None:
        return path
    mark = xxhash.xxh3_64_hexdigest(data or b"") if index is None else index
    return f"{path or 'image'} [{mark}]"


def canonical_source(source: str) -> str:
    """The name of a source in manifests: paths become absolute."""
    path = Path(os.path.expanduser(source))
    return str(path.resolve()) if path.exists() else source
