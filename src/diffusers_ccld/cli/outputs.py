"""Places for the files of a command: tried before any work, and never those of other files."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

# A picture with its seed, or the grid.
NAME_IN_RUN = re.compile(r"(\d{5,}|grid)(-(?P<run>\d+))?\.png")


def require_writable(path: Path, option: str = "--output") -> None:
    """Raises `ValueError` if a folder cannot be written or made. Leaves no trace.

    Args:
        path: The folder, which need not exist.
        option: The option that gave it, for messages.
    """
    existing = path.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"{option} {path}: {existing} is not a folder.")
    try:
        with tempfile.TemporaryDirectory(prefix=".ccld-", dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"{option} {path}: nothing can be written there. ({error.strerror})") from error


def require_new(path: Path, option: str, overwrite: bool) -> None:
    """Raises `ValueError` if a file or folder exists that the user did not allow to replace.

    Args:
        path: The path to write.
        option: The option that gave it, for messages.
        overwrite: True if the option --overwrite was given.
    """
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{option} {path} exists. Give another name, or --overwrite to replace it.")


def unused_path(path: Path) -> Path:
    """A path, with the first number from 2 that makes it new if it is in use: "moon-2.png"."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = _numbered(path, number)
    return free


def paths_of_run(folder: Path, seeds: Sequence[int], has_grid: bool) -> tuple[list[Path], Path | None]:
    """Paths for the pictures of a run, one for each seed, and for their grid if it has one; all are new.

    If one of the names is in use, all end in a number that no other run has: "00003-2.png" and "grid-2.png".

    Args:
        folder: Their folder, which need not exist.
        seeds: The seeds.
        has_grid: True for a path of a grid, too.
    """
    stems = [f"{seed:05d}" for seed in seeds] + ["grid"] * has_grid
    paths = [folder / f"{stem}.png" for stem in stems]
    if any(os.path.lexists(path) for path in paths):
        names = map(NAME_IN_RUN.fullmatch, os.listdir(folder))
        run = 1 + max(int(name["run"] or 1) for name in names if name)
        paths = [_numbered(path, run) for path in paths]
    return paths[: len(seeds)], paths[-1] if has_grid else None


def _numbered(path, number):
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")
