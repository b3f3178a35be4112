"""Suggestions for misspelt paths. They need the standard library alone."""

import difflib
import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from .terminal_text import printable

PATH_SIMILARITY = 0.75  # of a suggestion at least, as in arguments.py, which has to stand alone
MOST_NAMES = 3000  # of a folder that are compared

_DIGITS = re.compile(r"\d+")


def path_suggestion(path: str | Path, known: Sequence[str] = (), is_folder: bool = False) -> str:
    """Returns " Did you mean …?" with an existing path that resembles one that does not exist, or "" if none does.

    Args:
        path: The path as it was typed. Several of its parts may be misspelt.
        known: Words that may stand in the place of a path.
        is_folder: True if only a folder will do.
    """
    words = difflib.get_close_matches(str(path), known, 1, PATH_SIMILARITY)
    path = Path(os.path.expanduser(path))
    found = words[0] if words else _similar_path(path, is_folder)
    return "" if found in (None, path) else f" Did you mean {printable(str(found))}?"


def _similar_path(path: Path, is_folder: bool) -> Path | None:
    """The path itself if it exists, or else an existing one whose parts resemble its parts."""
    if os.path.exists(path):
        return path
    parent = _similar_path(path.parent, is_folder=True) if path.name else None
    nearest = _nearest(path.name, _names_in(parent, is_folder)) if parent is not None else None
    return None if nearest is None else parent / nearest


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """The name that resembles one most. `None` if none does, or if several do whose numbers alone are others."""
    close = difflib.get_close_matches(name, names, 2, PATH_SIMILARITY)
    first, *second = [difflib.SequenceMatcher(None, other, name).ratio() for other in close] or [0]
    is_a_tie = first in second and _DIGITS.sub("", close[0]) == _DIGITS.sub("", close[1])
    return close[0] if close and not is_a_tie else None


def _names_in(folder: Path, is_folder: bool) -> list[str]:
    """Names in a folder, without hidden ones; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [
                entry.name
                for entry in islice(entries, MOST_NAMES)
                if not entry.name.startswith(".") and (entry.is_dir() or not is_folder)
            ]
    except OSError:
        return []
