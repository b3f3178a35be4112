"""Texts from files and names of files for the terminal: without characters that control it."""

import re

# Control characters, line separators, halves of surrogate pairs, and characters that change the direction of writing.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text in which unprintable characters are escaped, as in "a\\x1b[31m"."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay."""
    return "\n".join(map(printable, text.split("\n")))
