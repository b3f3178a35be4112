"""Words of a command line for a shell."""

import shlex

from ..utils.terminal_text import UNPRINTABLE


def quoted(word: str) -> str:
    """A word for a shell, as of `shlex.quote`; with unprintable characters as `$'a\\x09b'`, for bash and zsh."""
    if UNPRINTABLE.search(word) is None:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + UNPRINTABLE.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode()), escaped) + "'"


def as_prompt(text: str) -> str:
    """A prompt as a word for a shell: in double quotation marks, as people type it, if nothing in it is special."""
    return f'"{text}"' if UNPRINTABLE.search(text) is None and not set(text) & set('"$`\\!') else quoted(text)
