"""Sorts the files of a folder: pictures, datasets, metadata, and skipped files with the reason."""

import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS, SPLIT_PATTERN_SHARDED

from ..utils.first_bytes import LENGTH, is_pointer
from .decoding import UNREADABLE, readable_endings

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
DATASET_ENDINGS = {".parquet", ".tar"}
BACKUP_ENDINGS = (".bak", ".old", ".orig", ".tmp", ".part", ".crdownload")
LONGEST_POINTER = 1024  # bytes
MOST_ENDINGS = 5  # extensions of other files that the message lists

# The words by which `datasets` recognises splits in names of folders and files, here in upper or lower case.
SPLITS = {
    str(split): re.compile(rf"(?:^|[{NON_WORDS_CHARS}])(?:{'|'.join(words)})(?:[{NON_WORDS_CHARS}]|$)", re.IGNORECASE)
    for split, words in SPLIT_KEYWORDS.items()
}
# data/train-00000-of-00001.parquet, the layout of a dataset that `datasets` uploaded
SHARDED = re.compile(
    re.escape(SPLIT_PATTERN_SHARDED.partition("[")[0]).replace(r"\{split\}", r"([\w.]+)") + r"\d{5}-of-"
)


@dataclass
class FolderContent:
    """The files of a folder and of its subfolders, sorted by path.

    Attributes:
        folder: The folder.
        pictures: Files with the extension of a readable picture format.
        parquet: Parquet files, except `metadata.parquet` beside pictures.
        shards: Tar archives, the shards of a WebDataset.
        metadata: Files named in `METADATA_NAMES`, which describe pictures.
        passed_over: Name of each skipped file that may be a picture, and the reason.
        others: Number of other files by extension.
    """

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    parquet: list[Path] = field(default_factory=list)
    shards: list[Path] = field(default_factory=list)
    metadata: list[Path] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def pass_over(self, paths: list[Path], reason: str) -> None:
        """Records files as skipped."""
        self.passed_over += [(printable(path), reason) for path in paths]

    def describe_passed_over(self) -> str | None:
        """Returns a line that counts the skipped files by reason; `None` if there are none."""
        parts = [f"{count:,} × {reason}" for reason, count in Counter(why for _, why in self.passed_over).items()]
        if self.others:
            endings = [ending for ending, _ in self.others.most_common(MOST_ENDINGS)]
            more = ", …" if len(self.others) > MOST_ENDINGS else ""
            count = self.others.total()
            parts.append(f"{count:,} other file{'s' * (count != 1)} ({', '.join(endings)}{more})")
        return f"skipped: {'; '.join(parts)}" if parts else None


def read_folder(folder: Path) -> FolderContent:
    """Finds all files in a folder. Follows links, and reads every folder once.

    Skips hidden files and folders, and folders whose names begin with two underscores, as `datasets` does.
    """
    content, readable = FolderContent(folder), readable_endings()
    known = readable | UNREADABLE.keys() | DATASET_ENDINGS
    for path in _walk(content):
        _sort_in(path, content, readable, known)
    if not content.pictures:  # then a metadata.parquet may itself be the dataset
        tables = [path for path in content.metadata if path.suffix == ".parquet"]
        if content.parquet or content.shards:
            content.others["metadata.parquet"] += len(tables)
        else:
            content.parquet = tables
    for paths in (content.pictures, content.parquet, content.shards, content.metadata):
        paths.sort()
    content.others = +content.others
    return content


def _walk(content: FolderContent) -> Iterator[Path]:
    """Yields all files: first those that are reached without links, then the others."""
    pending, seen = deque([content.folder]), set()
    while pending:
        for root, folders, files in os.walk(pending.popleft(), onerror=lambda error: _note_error(content, error)):
            status = os.stat(root)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                folders.clear()
                content.pass_over([Path(root)], "a link to a folder that was already read")
                continue
            seen.add(identity)
            for name in sorted(folders):
                path = Path(root, name)
                if name.startswith((".", "__")):
                    folders.remove(name)
                    content.others[f"{name}/"] += 1
                elif path.is_symlink():
                    folders.remove(name)
                    pending.append(path)
            folders.sort()
            yield from (Path(root, name) for name in sorted(files))


def _note_error(content, error):
    content.pass_over([Path(error.filename)], f"a folder that cannot be read ({error.strerror})")


def _sort_in(path: Path, content: FolderContent, readable: set[str], known: set[str]) -> None:
    ending = path.suffix.lower()
    if path.name.startswith("."):
        if ending in readable:
            content.pass_over([path], "hidden: its name begins with a dot")
    elif _is_backup(path, ending, known):
        content.pass_over([path], "a backup or an unfinished download")
    elif not _is_utf8(path) and ending in known:
        content.pass_over([path], "its name is not UTF-8")
    elif ending in readable or ending in DATASET_ENDINGS:
        kind = {".parquet": content.parquet, ".tar": content.shards}.get(ending, content.pictures)
        if path.name in METADATA_NAMES:
            kind = content.metadata
        if path.is_file():
            kind.append(path)
        else:
            content.pass_over([path], "a broken link" if path.is_symlink() else "not a regular file")
    elif path.name in METADATA_NAMES:
        content.metadata.append(path)
    elif ending in UNREADABLE:
        content.pass_over([path], UNREADABLE[ending])
    elif not ending:
        content.pass_over([path], "without a file extension")
    else:
        content.others[ending] += 1


def _is_backup(path, ending, known):
    if path.name.endswith("~"):
        return ending.removesuffix("~") in known
    return ending in BACKUP_ENDINGS and Path(path.stem).suffix.lower() in known


def _is_utf8(path):
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: Path) -> str:
    """Returns a path as valid text: bytes that are not UTF-8 become escapes such as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def require_no_pointers(paths: list[Path], source: str) -> None:
    """Raises `ValueError` if files are Git LFS pointers, which take the place of files that were not fetched."""
    pointers = []
    for path in paths:
        if path.stat().st_size <= LONGEST_POINTER:
            with path.open("rb") as file:
                if is_pointer(file.read(LENGTH)):
                    pointers.append(path)
    if pointers:
        raise ValueError(
            f"{source}: {len(pointers):,} of {len(paths):,} files are Git LFS pointers, such as {pointers[0].name}. "
            f"Run `git lfs pull` there to get the files themselves."
        )


# Splits


@dataclass
class Splits:
    """Files by split.

    Attributes:
        files: The files of each split, in order.
        rest: Files of the same kind that are not in a split.
        origin: What the splits are named by: "folders" or "files". `None` if all files are in "train" by default.
    """

    files: dict[str, list[Path]]
    rest: list[Path]
    origin: str | None


def split_pictures(content: FolderContent, source: str) -> Splits:
    """Divides pictures into splits by the names of their folders, or else by the names of the files.

    Names are those that `datasets` recognises. Folder names count in two cases: one split contains all pictures, or
    several splits together contain at least half of them. File names count only if there are several splits and every
    file is in one. Otherwise test.png may be a test picture, and train.png a picture of a train.

    Raises:
        ValueError: If only some of the names give splits, so that the folder can be read in two ways.
    """
    by_folder = _by_split(content, content.pictures, lambda relative: relative.parts[:-1])
    by_file = _by_split(content, content.pictures, lambda relative: relative.parts[-1:])
    for splits, origin in ((by_folder, "folders"), (by_file, "files")):
        rest = splits.pop(None, [])
        inside = sum(map(len, splits.values()))
        if not splits or (origin == "files" and (len(splits) == 1 or len(rest) > inside)):
            continue
        if rest and (origin == "files" or len(splits) == 1 or len(rest) > inside):
            found = ", ".join(f"{split} ({len(paths):,} pictures)" for split, paths in splits.items())
            example = rest[0].relative_to(content.folder).as_posix()
            raise ValueError(
                f"{source} can be read in two ways. The names of {origin} give splits: {found}. But {len(rest):,} of "
                f"the {inside + len(rest):,} pictures are not in a split, such as {example}. Give --dataset-split all "
                f"to use all pictures, or give the folder of one split as the dataset."
            )
        return Splits(splits, rest, origin)
    return Splits({"train": content.pictures}, [], None)


def split_datasets(content: FolderContent, paths: list[Path]) -> Splits:
    """Divides files as `datasets` does: by the layout of its uploads, or by names of folders, or by names of files."""
    sharded: dict[str | None, list[Path]] = {}
    for path in paths:
        match = SHARDED.match(path.relative_to(content.folder).as_posix())
        sharded.setdefault(match and match[1], []).append(path)
    by_folder = _by_split(content, paths, lambda relative: relative.parts[:-1])
    by_file = _by_split(content, paths, lambda relative: relative.parts[-1:])
    for splits, origin in ((sharded, "files"), (by_folder, "folders"), (by_file, "files")):
        rest = splits.pop(None, [])
        if splits:
            return Splits(splits, rest, origin)
    return Splits({"train": paths}, [], None)


def is_uploaded_dataset(content: FolderContent, paths: list[Path]) -> bool:
    """True if files have the layout of a dataset that `datasets` uploaded: data/train-00000-of-00001.parquet."""
    return any(SHARDED.match(path.relative_to(content.folder).as_posix()) for path in paths)


def _by_split(content, paths, parts_of):
    found: dict[str | None, list[Path]] = {}
    known: dict[tuple[str, ...], str | None] = {}
    for path in paths:
        parts = parts_of(path.relative_to(content.folder))
        if parts not in known:
            named = (split for part in parts for split, pattern in SPLITS.items() if pattern.search(part))
            known[parts] = next(named, None)
        found.setdefault(known[parts], []).append(path)
    return {split: found[split] for split in (*SPLITS, None) if split in found}
