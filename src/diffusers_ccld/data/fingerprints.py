"""Fingerprints of images, by which a run or a cache recognises those that it began with."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import datasets
import xxhash
from tqdm.auto import tqdm

READERS = 8  # threads; they wait for the disk
LEAST_SHOWN = 4096  # images; fewer are read in moments


class ImagesFingerprint(TypedDict):
    """Fingerprint of images in their order, as JSON.

    The hashes are XXH3's. Times serve to notice quickly that nothing has changed: copies without their times are the
    same images. Pictures inside a dataset have contents alone.

    Attributes:
        count: Number of images.
        names: Hash of the files' names.
        sizes: Hash of their lengths in bytes.
        times: Hash of their times of modification.
        contents: Hash of the contents; `None` if they were not read.
    """

    count: int
    names: str
    sizes: str
    times: str
    contents: str | None


def images_fingerprint(
    images: datasets.Dataset, recorded: ImagesFingerprint | str | None = None, contents: bool = True
) -> ImagesFingerprint | str:
    """Computes the fingerprint of images, or recognises the recorded one.

    Args:
        images: Undecoded pictures, of `load_images`.
        recorded: An earlier fingerprint, of this or an earlier version. It is returned if the images are those. Files
            are read only if their times, lengths or names differ from it.
        contents: False not to read files, where there is nothing to compare with.
    """
    if isinstance(recorded, str) and quick_fingerprint(images) == recorded:
        return recorded
    names, sizes, times = (xxhash.xxh3_128() for _ in range(3))
    parts: list[Path | bytes] = []  # of each image: its file, or the hash of its bytes
    for source in _sources(images, "Comparing images"):
        names.update(f"{Path(source['path'] or '').name}\0".encode())
        if source["bytes"] is not None:
            parts.append(xxhash.xxh3_128_digest(source["bytes"]))
        elif (path := Path(source["path"] or "")).is_file():
            status = path.stat()
            sizes.update(f"{status.st_size}\0".encode())
            times.update(f"{status.st_mtime_ns}\0".encode())
            parts.append(path)
        else:
            parts.append(b"missing")
    found = ImagesFingerprint(
        count=len(parts), names=names.hexdigest(), sizes=sizes.hexdigest(), times=times.hexdigest(), contents=None
    )
    has_files_alone = all(isinstance(part, Path) for part in parts)
    if isinstance(recorded, dict) and has_files_alone and {**recorded, "contents": None} == found:
        return recorded
    return {**found, "contents": _hash_of_contents(parts)} if contents else found


def fingerprint_difference(before: ImagesFingerprint | str, now: ImagesFingerprint | str) -> str | None:
    """Says how images differ from recorded ones; `None` if they do not. Times alone do not count."""
    if before == now:
        return None
    if isinstance(before, str) or isinstance(now, str):
        return (
            "their names, lengths or times differ, and a fingerprint of an earlier version cannot tell which; copies "
            "need their times (cp -p, rsync -t)"
        )
    if before["count"] != now["count"]:
        return f"there were {before['count']:,} and are {now['count']:,}"
    same = {part: before[part] == now[part] and now[part] is not None for part in ("names", "contents")}
    if all(same.values()):
        return None
    if same["contents"]:
        return "their names differ, not their contents"
    return f"their contents differ{', not their names' if same['names'] else ' and their names'}"


def quick_fingerprint(images: datasets.Dataset) -> str:
    """Hash of names with the lengths and times of files, or with the contents of pictures inside a dataset."""
    digest = xxhash.xxh3_128()
    for source in _sources(images, "Comparing images"):
        # The name alone, so that a folder may be moved.
        digest.update(f"{Path(source['path'] or '').name}\0".encode())
        if source["bytes"] is not None:
            digest.update(source["bytes"])
        elif (path := Path(source["path"] or "")).is_file():
            status = path.stat()
            digest.update(f"{status.st_size}/{status.st_mtime_ns}".encode())
        else:
            digest.update(b"missing")
    return digest.hexdigest()


def _sources(images: datasets.Dataset, description: str) -> Iterator[dict[str, Any]]:
    """Yields the undecoded pictures; a missing one has neither bytes nor a path."""
    batches = range(0, len(images), 256)
    for first in tqdm(batches, desc=description, unit="batch", disable=len(images) < LEAST_SHOWN):
        for source in images[first : first + 256]["image"]:
            yield source or {"path": None, "bytes": b""}


def _hash_of_contents(parts: list[Path | bytes]) -> str:
    digest = xxhash.xxh3_128()
    batches = range(0, len(parts), 256)
    with ThreadPoolExecutor(READERS) as executor:
        for first in tqdm(batches, desc="Reading images", unit="batch", disable=len(parts) < LEAST_SHOWN):
            for part in executor.map(_hash_of_part, parts[first : first + 256]):
                digest.update(part)
    return digest.hexdigest()


def _hash_of_part(part: Path | bytes) -> bytes:
    if isinstance(part, bytes):
        return part
    digest = xxhash.xxh3_128()
    try:
        with part.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return b"unreadable"
    return digest.digest()
