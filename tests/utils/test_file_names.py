"""Names of picture files, from prompts."""

import os
import random
from pathlib import PureWindowsPath

import pytest

from diffusers_ccld.utils.file_names import LONGEST, file_stem


@pytest.mark.parametrize(
    "text, stem",
    [
        ("a cottage in summer, oil on canvas", "a-cottage-in-summer-oil-on-canvas"),
        ("  A Rose & a CAT! ", "a-rose-a-cat"),
        ("", "picture"),
        ("…?!", "picture"),
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("-o x", "o-x"),
        ("a:b\\c|d*e", "a-b-c-d-e"),
        ("fog\x1b[31m\n\u202ered\0", "fog-31m-red"),
        ("Théo's Straße", "théo-s-straße"),
        ("e\u0301te\u0301", "été"),
        ("雪の山、夜", "雪の山-夜"),
        ("हिन्दी चित्र", "हिन्दी-चित्र"),
        ("🎨 𝒜 a\ud800b", "a-b"),
        ("a_rose", "a-rose"),
        ("❤️", "picture"),
        ("a ❤️ rose", "a-rose"),
    ],
)
def test_a_name_has_the_words_of_the_prompt(text, stem):
    assert file_stem(text) == stem


def test_a_long_prompt_is_cut_after_a_word():
    text = "a cottage in summer under an old tree beside the river in the mist, oil on canvas"
    assert file_stem(text) == "a-cottage-in-summer-under-an-old-tree-beside-the-river-in"
    assert file_stem("x" * 100) == "x" * LONGEST and file_stem("a " + "x" * 100) == "a"
    assert len(os.fsencode(f"{file_stem('雪' * 100)}-{2**63}-100.png")) < 220


def test_every_name_is_safe():
    chooser = random.Random(0)
    for _ in range(2000):
        text = "".join(chr(chooser.choice((chooser.randrange(0x250), chooser.randrange(0x11000)))) for _ in range(9))
        name = f"{file_stem(text)}-0.png"
        assert name[0] not in ".-" and not set(name) & set('/\\:*?"<>|\0') and name.isprintable()
    for word in ("con", "NUL", "com1", "aux.txt"):
        assert not PureWindowsPath(f"{file_stem(word)}-0.png").is_reserved()


def test_letters_that_no_name_can_have_are_left_out(monkeypatch):
    monkeypatch.setattr("os.fsencode", lambda text: text.encode("ascii"))
    assert (file_stem("a rose"), file_stem("une forêt")) == ("a-rose", "picture")
