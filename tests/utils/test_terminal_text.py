"""Characters that are escaped for a terminal must be the same in errors of parsers, whose file has to stand alone."""

from diffusers_ccld.utils import arguments
from diffusers_ccld.utils.terminal_text import printable


def test_parsers_escape_the_same_characters():
    for character in map(chr, range(0x10000)):
        assert arguments._controls(character) == (printable(character) != character), hex(ord(character))
