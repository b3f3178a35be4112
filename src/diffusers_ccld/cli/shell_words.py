"""Texts from files for the terminal: as words of a command line, and without characters that control the terminal."""

import re
import shlex

# Control characters, line separators, halves of surrogate pairs, and characters that change the direction of writing.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def quoted(word: str) -> str:
    """A word for a shell, as of `shlex.quote`; with unprintable characters as `$'a\\x09b'`, for bash and zsh."""
    if UNPRINTABLE.search(word) is None:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + UNPRINTABLE.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode()), escaped) + "'"


def printable(text: str) -> str:
    """A text in which unprintable characters are escaped, as in "a\\x1b[31m"."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
