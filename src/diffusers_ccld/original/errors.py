"""Errors about files that cannot be used."""

from pathlib import Path

from ..utils.suggestions import path_suggestion


class CheckpointError(ValueError):
    """Raised for a file that cannot be used. The message says what is wrong and what to do about it."""


class HostileFileError(CheckpointError):
    """Raised for a malicious file: one that runs code, or expands into more data than it contains."""


def check_file(path: str | Path) -> Path:
    """Returns the path of an existing file.

    Raises:
        CheckpointError: If the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: the file does not exist.{path_suggestion(path)}")
    return path
