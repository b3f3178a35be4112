"""Fetches the files of the published models, or finds them in a folder."""

import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import hf_hub_download
from tqdm.auto import tqdm

from ...utils.errors import first_line
from ...utils.files import moved_into_place
from ..errors import CheckpointError
from ..published.presets import PRESETS, PublishedFile
from .checkpoints import sha256

BLOCK = 2**20
TIMEOUT = 30  # seconds without an answer
MOST_UNFOLDED = 20  # of an archive's size; weights hardly shrink at all


def preset_files(preset: str, folder: str | Path | None = None) -> dict[str, Path]:
    """The files of a published model, by the converter's option.

    Args:
        preset: Its name.
        folder: Where they have been downloaded to; without it they are fetched into the cache.

    Raises:
        CheckpointError: If one is not there and cannot be fetched, or is not the one that was published.
    """
    published = PRESETS[preset].files
    cache = Path(torch.hub.get_dir()) / "ccld"
    if folder is not None:
        missing = [file for file in published.values() if not _is_there(file, Path(folder))]
        if missing:
            raise CheckpointError(f"{folder} lacks files of {preset}. {_by_hand(missing, folder)}")
        return {option: _checked(file, Path(folder), cache) for option, file in published.items()}
    found = {}
    for option, file in published.items():
        try:
            found[option] = fetch(file, cache)
        except CheckpointError:
            raise
        except Exception as error:  # the errors of a network have no ancestor in common
            rest = [other for name, other in published.items() if name not in found]
            raise CheckpointError(
                f"{file.name} cannot be downloaded. ({first_line(error)}) {_by_hand(rest, 'a folder')}"
            ) from error
    return found


def _by_hand(files, folder):
    lines = [f"  {file.name} from {file.address}" for file in files]
    return "\n".join([f"Get these files, put them into {folder}, and give --source-dir with it:", *lines])


def _is_there(file, folder):
    return (folder / file.name).is_file() or (file.member is not None and (folder / file.member).is_file())


def _checked(file, folder, cache):
    """A file of a folder, taken out of its archive if it is in one."""
    path = folder / file.name
    if not path.is_file():  # unpacked already
        return folder / file.member
    if file.sha256 is not None and sha256(path) != file.sha256:
        raise CheckpointError(f"{path} is not the published {file.name}: its SHA-256 is another. Download it again.")
    return path if file.member is None else unpack(path, file.member, cache)


def fetch(file: PublishedFile, cache: Path) -> Path:
    """Downloads a file, unless it has been downloaded before.

    Args:
        file: The file.
        cache: Folder for what is not on the Hub; the Hub has its own.

    Raises:
        OSError: If it cannot be reached.
        CheckpointError: If it is not the one that was published.
    """
    if file.repository is not None:
        return Path(hf_hub_download(file.repository, file.name))
    path = cache / file.name
    if not path.is_file():
        if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
            raise OSError("HF_HUB_OFFLINE is set")
        download(file.url, path, file.sha256)
    return path if file.member is None else unpack(path, file.member, cache)


def download(url: str, path: Path, expected_sha256: str | None = None) -> None:
    """Downloads a file under a temporary name, which a later call goes on with, and moves it into place.

    Args:
        url: Its address.
        path: Where it shall be.
        expected_sha256: Its SHA-256, if that is known.

    Raises:
        OSError: If it cannot be reached, or ends early.
        CheckpointError: If it is not the one that was expected; it is deleted then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file():  # another process was quicker
            return
        done = partial.stat().st_size if partial.exists() else 0
        total = _receive(url, partial, done)
        size = partial.stat().st_size
        if total is not None and size < total:
            raise OSError(f"{url} ended after {size} of {total} bytes; try again, and it goes on there.")
        is_good = total is None or size == total
        if is_good and expected_sha256 is not None:
            is_good = sha256(partial) == expected_sha256
        if not is_good:
            partial.unlink()
            raise CheckpointError(f"{url} is not what was published, or was changed meanwhile. Try again.")
        os.replace(partial, path)


def _receive(url, partial, done):
    """Appends what is lacking to a part of a file; gives the size of the whole, if the server tells."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:  # the server begins at the beginning
                done = 0
            length = response.headers.get("Content-Length")
            total = done + int(length) if length is not None else None
            bar = tqdm(desc=partial.stem, initial=done, total=total, unit="B", unit_scale=True)
            with partial.open("ab" if done else "wb") as output, bar:
                while block := response.read(BLOCK):
                    output.write(block)
                    bar.update(len(block))
            return total
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # there is nothing left to be sent, if this is the whole
            size = error.headers.get("Content-Range", "").rpartition("/")[2]
            return int(size) if size.isdigit() else done
        raise OSError(f"{url}: {error}") from error


def unpack(archive: Path, member: str, folder: Path) -> Path:
    """Takes one file out of a zip archive, unless that was done before.

    Raises:
        CheckpointError: If the archive is damaged, lacks the file, or unfolds into far more than it holds.
    """
    path = folder / f"{archive.stem}-{sha256(archive)[:16]}-{member}"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as content, content.open(member) as source:
            if content.getinfo(member).file_size > MOST_UNFOLDED * archive.stat().st_size:
                raise CheckpointError(f"{archive} unfolds into far more than it holds.")
            with moved_into_place(path) as temporary, temporary.open("wb") as output:
                shutil.copyfileobj(source, output, BLOCK)
    except (KeyError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise CheckpointError(f"{archive} is damaged, or has no {member}. ({first_line(error)})") from error
    return path
