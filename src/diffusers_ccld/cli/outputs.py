"""Places for the files of a command: tried before any work, and never those of other files."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


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


def unused_paths(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths for files that belong together. If one of the names is in use, all get the same number: "moon-2.png".

    Args:
        folder: Their folder, which need not exist.
        names: Their names, with suffixes.
    """
    paths, number = [folder / name for name in names], 1
    while any(os.path.lexists(path) for path in paths):
        number += 1
        paths = [folder / f"{Path(name).stem}-{number}{Path(name).suffix}" for name in names]
    return paths
