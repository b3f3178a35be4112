"""Fetches the files of the published models, or finds them in a folder."""

import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from tqdm.auto import tqdm

from ...utils.errors import first_line
from ...utils.files import moved_into_place
from ...utils.locks import exclusive
from ..errors import CheckpointError
from ..published.presets import PRESETS, PublishedFile
from .checkpoints import sha256

BLOCK = 2**20
TIMEOUT = 30  # seconds without an answer
MOST_EXPANDED = 20  # times an archive's size; weights hardly compress


def preset_files(preset: str, folder: str | Path | None = None) -> dict[str, Path]:
    """The files of a published model, by the converter's option.

    Args:
        preset: Its name.
        folder: Folder of downloaded files. `None` downloads them into the cache.

    Raises:
        CheckpointError: If a file is missing and cannot be downloaded, or is not the published one.
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
        except Exception as error:  # network errors have no common base class
            rest = [other for name, other in published.items() if name not in found]
            raise CheckpointError(
                f"{file.name} cannot be downloaded. ({first_line(error)}) {_by_hand(rest, 'a folder')}"
            ) from error
    return found


def _by_hand(files, folder):
    lines = [f"  {file.name} from {file.address}" for file in files]
    return "\n".join([f"Download these files into {folder}, and name it with --source-dir:", *lines])


def _is_there(file, folder):
    return (folder / file.name).is_file() or (file.member is not None and (folder / file.member).is_file())


def _checked(file, folder, cache):
    """Path of a file in a folder. A file in an archive is unpacked into the cache."""
    path = folder / file.name
    if not path.is_file():  # already unpacked
        return folder / file.member
    if file.sha256 is not None and sha256(path) != file.sha256:
        raise CheckpointError(f"{path} is not the published {file.name}: its SHA-256 differs. Download it again.")
    return path if file.member is None else unpack(path, file.member, cache)


def fetch(file: PublishedFile, cache: Path) -> Path:
    """Downloads a file, unless it has been downloaded before.

    Args:
        file: The file.
        cache: Folder for files from other places than the Hub, which has its own cache.

    Raises:
        OSError: If the server cannot be reached.
        CheckpointError: If the file is not the published one.
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
    """Downloads a file under a temporary name and moves it into place. The next call resumes an interrupted download.

    While another process downloads it, this one says so and waits.

    Args:
        url: The file's address.
        path: Path to write it to.
        expected_sha256: Its SHA-256; `None` if unknown.

    Raises:
        OSError: If the server cannot be reached, or the download ends early.
        CheckpointError: If the file is not the expected one. It is then deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with exclusive(path, beside=True, wait=True):
        if path.is_file():  # another process was quicker
            return
        done = partial.stat().st_size if partial.exists() else 0
        total = _receive(url, partial, done)
        size = partial.stat().st_size
        if total is not None and size < total:
            raise OSError(f"{url} ended after {size} of {total} bytes. Try again to resume there.")
        is_good = total is None or size == total
        if is_good and expected_sha256 is not None:
            is_good = sha256(partial) == expected_sha256
        if not is_good:
            partial.unlink()
            raise CheckpointError(f"{url} is not the published file, or changed during the download. Try again.")
        os.replace(partial, path)


def _receive(url, partial, done):
    """Appends the missing bytes to a partial file. Returns the size of the whole file, or `None` if unknown."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:  # the server sends the whole file
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
        if error.code == 416 and done:  # nothing is missing if this is the whole file
            size = error.headers.get("Content-Range", "").rpartition("/")[2]
            return int(size) if size.isdigit() else done
        raise OSError(f"{url}: {error}") from error


def unpack(archive: Path, member: str, folder: Path) -> Path:
    """Unpacks one file of a zip archive, unless that was done before or is being done by another process.

    Raises:
        CheckpointError: If the archive is damaged, lacks the file, or expands to an implausible size.
    """
    path = folder / f"{archive.stem}-{sha256(archive)[:16]}-{member}"
    if path.is_file():
        return path
    try:
        with (
            exclusive(path, beside=True, wait=True),
            zipfile.ZipFile(archive) as content,
            content.open(member) as source,
        ):
            if path.is_file():
                return path
            if content.getinfo(member).file_size > MOST_EXPANDED * archive.stat().st_size:
                raise CheckpointError(f"{archive} expands to an implausible size.")
            with moved_into_place(path) as temporary, temporary.open("wb") as output:
                shutil.copyfileobj(source, output, BLOCK)
    except (KeyError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise CheckpointError(f"{archive} is damaged, or has no {member}. ({first_line(error)})") from error
    return path
