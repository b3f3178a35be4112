"""Words of a command line for a shell."""

import shlex

from ..utils.terminal_text import UNPRINTABLE


def quoted(word: str) -> str:
    """A word for a shell, as of `shlex.quote`; with unprintable characters as `$'a\\x09b'`, for bash and zsh."""
    if UNPRINTABLE.search(word) is None:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    escaped = UNPRINTABLE.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _bytes_of(found[0])), escaped)
    return f"$'{escaped}'"


def _bytes_of(character):
    is_byte = "\udc80" <= character <= "\udcff"  # of a name that is not UTF-8, as Python reads it
    return character.encode(errors="surrogateescape" if is_byte else "surrogatepass")


def as_prompt(text: str) -> str:
    """A prompt as a word for a shell: in double quotation marks, as people type it, if nothing in it is special."""
    return f'"{text}"' if UNPRINTABLE.search(text) is None and not set(text) & set('"$`\\!') else quoted(text)
