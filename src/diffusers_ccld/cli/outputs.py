"""Places for the files of a command: tried before any work, and never those of other files."""

import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

MOST_NAMES = 12  # at a terminal, of the files of one command
FIRST_NAMES = 4  # where there are more


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
    return next(free for free in numbered(path) if not os.path.lexists(free))


def numbered(path: Path) -> Iterator[Path]:
    """Yields a path, then the same with the numbers from 2 on."""
    return (_numbered(path, number) for number in itertools.count(1))


def paths_of_run(folder: Path, stem: str, seeds: Sequence[int], has_grid: bool) -> tuple[list[Path], Path | None]:
    """Paths for the pictures of a run, one for each seed, and for their grid if it has one; all are new.

    If one of the names is in use, all end in a number that no other run has: "rose-3-2.png" and "rose-grid-2.png".

    Args:
        folder: Their folder, which need not exist.
        stem: The beginning of their names, such as "rose".
        seeds: The seeds.
        has_grid: True for a path of a grid, too.
    """
    ends = [str(seed) for seed in seeds] + ["grid"] * has_grid
    paths = [folder / f"{stem}-{end}.png" for end in ends]
    if any(os.path.lexists(path) for path in paths):
        # A longer number is the seed of a prompt that begins with this one and ends in a number.
        in_a_run = re.compile(re.escape(stem) + r"-(\d+|grid)(-(?P<run>\d{1,5}))?\.png")
        names = map(in_a_run.fullmatch, os.listdir(folder))
        run = 1 + max((int(name["run"] or 1) for name in names if name), default=1)
        while any(os.path.lexists(_numbered(path, run)) for path in paths):  # in other letters, where that is the same
            run += 1
        paths = [_numbered(path, run) for path in paths]
    return paths[: len(seeds)], paths[-1] if has_grid else None


def number_to_name(count: int, is_quiet: bool) -> int:
    """The number of a command's files that it names: the first ones of many at a terminal, and all for a program.

    Args:
        count: Number of files.
        is_quiet: True if the option --quiet was given, to print nothing but names.
    """
    return FIRST_NAMES if count > MOST_NAMES and sys.stdout.isatty() and not is_quiet else count


def _numbered(path, number):
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")
