"""Atomic writes: a file or folder appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import first_line


@contextmanager
def moved_into_place(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, and renames it to `path` if the context ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, which appears complete or not at all."""
    with moved_into_place(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_folder(temporary: Path, folder: Path) -> None:
    """Renames a finished temporary folder to its final name, then deletes the folder that it replaces."""
    replaced = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(temporary, folder)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def folder_moved_into_place(folder: Path) -> Iterator[Path]:
    """Yields an empty temporary folder, and renames it to `folder` if the context ends without an error.

    Meanwhile, no other process can do the same.

    Raises:
        FolderInUseError: If another process does.
        OSError: If it cannot be written. Errors of safetensors are converted.
    """
    from .locks import exclusive  # whose library is not needed, and not always installed, for single files

    temporary = folder.with_name(f".{folder.name}.part")
    with exclusive(folder, beside=True):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            replace_folder(temporary, folder)
        except Exception as error:
            if type(error).__name__ != "SafetensorError":  # of a library that is not always installed
                raise
            raise OSError(f"{folder} cannot be written. ({first_line(error)})") from error  # the disk is full
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Deletes a folder, renaming it first: an interrupted deletion leaves nothing under its name."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
