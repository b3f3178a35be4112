"""Files of a folder by what they are: pictures, datasets, metadata, and what is passed over with its reason."""

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
MOST_ENDINGS = 5  # named of the other files

# As `datasets` recognises splits in names of folders and files, and in any case.
SPLITS = {
    str(split): re.compile(rf"(?:^|[{NON_WORDS_CHARS}])(?:{'|'.join(words)})(?:[{NON_WORDS_CHARS}]|$)", re.IGNORECASE)
    for split, words in SPLIT_KEYWORDS.items()
}
# data/train-00000-of-00001.parquet, the layout in which `datasets` uploads
SHARDED = re.compile(
    re.escape(SPLIT_PATTERN_SHARDED.partition("[")[0]).replace(r"\{split\}", r"([\w.]+)") + r"\d{5}-of-"
)


@dataclass
class FolderContent:
    """The files of a folder and of all folders in it, in the order of their paths.

    Attributes:
        folder: The folder.
        pictures: Files with the ending of a picture that can be opened.
        parquet: Parquet files, without `metadata.parquet` beside pictures.
        shards: Tar archives, which are shards of a WebDataset.
        metadata: Files that describe pictures, of `METADATA_NAMES`.
        passed_over: Name and reason of each file that may be a picture and is not used.
        others: Number of all other files, by their ending.
    """

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    parquet: list[Path] = field(default_factory=list)
    shards: list[Path] = field(default_factory=list)
    metadata: list[Path] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def pass_over(self, paths: list[Path], reason: str) -> None:
        """Notes files that are not used."""
        self.passed_over += [(printable(path), reason) for path in paths]

    def describe_passed_over(self) -> str | None:
        """Counts what is passed over by its reason, in one line; `None` if there is nothing."""
        parts = [f"{count:,} × {reason}" for reason, count in Counter(why for _, why in self.passed_over).items()]
        if self.others:
            endings = [ending for ending, _ in self.others.most_common(MOST_ENDINGS)]
            more = ", …" if len(self.others) > MOST_ENDINGS else ""
            count = self.others.total()
            parts.append(f"{count:,} other file{'s' * (count != 1)} ({', '.join(endings)}{more})")
        return f"passed over: {'; '.join(parts)}" if parts else None


def read_folder(folder: Path) -> FolderContent:
    """Finds all files in a folder. Links are followed, and every folder is read once.

    Hidden files and folders are passed over, and so are folders that begin with two underscores, as by `datasets`.
    """
    content, readable = FolderContent(folder), readable_endings()
    known = readable | UNREADABLE.keys() | DATASET_ENDINGS
    for path in _walk(content):
        _sort_in(path, content, readable, known)
    if not content.pictures:  # then metadata.parquet may be a dataset of that name
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
    """Yields all files, those that are reached without links first."""
    pending, seen = deque([content.folder]), set()
    while pending:
        for root, folders, files in os.walk(pending.popleft(), onerror=lambda error: _note_error(content, error)):
            status = os.stat(root)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                folders.clear()
                content.pass_over([Path(root)], "a link to a folder that is read already")
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
            content.pass_over([path], "a link that leads nowhere" if path.is_symlink() else "not an ordinary file")
    elif path.name in METADATA_NAMES:
        content.metadata.append(path)
    elif ending in UNREADABLE:
        content.pass_over([path], UNREADABLE[ending])
    elif not ending:
        content.pass_over([path], "without a file ending")
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
    """A path as text that can be written; bytes that are not UTF-8 become escapes such as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def require_no_pointers(paths: list[Path], source: str) -> None:
    """Raises `ValueError` if files are pointers of git-lfs, which stand for files that were not fetched."""
    pointers = []
    for path in paths:
        if path.stat().st_size <= LONGEST_POINTER:
            with path.open("rb") as file:
                if is_pointer(file.read(LENGTH)):
                    pointers.append(path)
    if pointers:
        raise ValueError(
            f"{source}: {len(pointers):,} of {len(paths):,} files are git-lfs pointers, such as {pointers[0].name}. "
            f"Run git lfs pull there to get the files themselves."
        )


# Splits


@dataclass
class Splits:
    """Files by split.

    Attributes:
        files: The files of each split, in order.
        rest: Files of the same kind that belong to none.
        origin: What names the splits, such as "folders"; `None` if nothing does: then all files are in "train".
    """

    files: dict[str, list[Path]]
    rest: list[Path]
    origin: str | None


def split_pictures(content: FolderContent, source: str) -> Splits:
    """Divides pictures by the names of their folders, or else of the files.

    Folders make splits as for `datasets` if there are several and most pictures are in them, or if there is one that
    has all pictures. Names of files make splits only if there are several and every file has one: a picture may be
    called test.png, and a train is a subject.

    Raises:
        ValueError: If names make splits in part, so that the folder may be meant in two ways.
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
                f"{source} can be read in two ways: as splits, by the names of {origin}: {found}; or as one set of "
                f"{inside + len(rest):,} pictures, of which {len(rest):,} are in no split, such as {example}. Give "
                f"--dataset-split all for all pictures, or the folder of one split as the dataset."
            )
        return Splits(splits, rest, origin)
    return Splits({"train": content.pictures}, [], None)


def split_datasets(content: FolderContent, paths: list[Path]) -> Splits:
    """Divides the files of a dataset as `datasets` does: by its own layout, by names of folders, or of files."""
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
    """True if files lie as `datasets` uploads them: data/train-00000-of-00001.parquet."""
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
