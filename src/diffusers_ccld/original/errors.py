"""Errors about files that cannot be used."""

from pathlib import Path


class CheckpointError(ValueError):
    """A file is not what it should be. The message says what is wrong and what to do about it."""


class HostileFileError(CheckpointError):
    """A file is made to do harm: to run code, or to unfold into more than it holds."""


def check_file(path: str | Path) -> Path:
    """The path, if there is a file.

    Raises:
        CheckpointError: If there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file.")
    return path
