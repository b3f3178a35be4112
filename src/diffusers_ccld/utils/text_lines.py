"""Text files with an entry on every line, as people and their editors write them."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from .suggestions import path_suggestion

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_entries(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of `read_lines` without comments, which begin with #."""
    return ((number, line) for number, line in read_lines(path) if not line.startswith("#"))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of each line that is not blank, without surrounding white space.

    UTF-8 and UTF-16 are read; both may begin with a byte order mark, and UTF-16 must.

    Raises:
        ValueError: If the file cannot be read. The message names the file and the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist.{path_suggestion(path)}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read. ({error})") from error
    encoding = "utf-16" if data.startswith(UTF_16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        number = len(data[: error.start].decode(encoding, errors="ignore").split("\n"))
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"{path}, line {number}: this is not {name}; save the file as UTF-8.") from error
    if "\0" in text:
        raise ValueError(f"{path} is not a text file in UTF-8, nor in UTF-16 with a byte order mark.")
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line := line.strip():
            yield number, line
