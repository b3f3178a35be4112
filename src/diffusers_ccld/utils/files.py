"""Files and folders that are whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import first_line


@contextmanager
def moved_into_place(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under; it takes its place when the context ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole."""
    with moved_into_place(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_folder(temporary: Path, folder: Path) -> None:
    """Moves a folder that was written under a temporary name into place; what is there is removed after it."""
    replaced = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(temporary, folder)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def folder_moved_into_place(folder: Path) -> Iterator[Path]:
    """An empty folder of a temporary name to write into; it takes its place when the context ends without an error.

    Raises:
        OSError: If it cannot be written, whichever library finds that out.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, folder)
    except SafetensorError as error:  # what a full disk is to the library
        raise OSError(f"{folder} cannot be written. ({first_line(error)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder; half-removed it no longer has its name."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
