"""Tokenises texts without transformers and ftfy. `web/text.js` does the same in the browser.

`CLOOBTokenizer` cleans texts with ftfy. This module has the part of ftfy that prompts need; the tests compare the two.
A text that was decoded with the wrong encoding is repaired if all of it was read as Latin-1 or Windows-1252. ftfy also
knows rarer encodings, and repairs parts of texts.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
LINE_BREAK = re.compile("\r\n|[\r\u2028\u2029\x85]")
SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
C1_CONTROLS = {code: bytes([code]).decode("windows-1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
LIGATURES = {0x149: "ʼn", 0xFB05: "ſt"} | {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (0x132, 0x133, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB05), 0xFB06)
}
WIDTHS = {0x3000: " "} | {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)}
QUOTES = dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
CONTROLS = (*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD))
SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def clean_text(text: str) -> str:
    """Cleans a text as `models.processing_cloob.clean_text` does, within the limits that are given above."""
    before = None
    while text != before:
        before, text = text, _repaired(text)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip().lower()


def _repaired(text):
    if "<" not in text:
        text = html.unescape(text)
    text = _in_the_right_encoding(TERMINAL_ESCAPE.sub("", text)).translate(C1_CONTROLS)
    text = LINE_BREAK.sub("\n", text.translate(LIGATURES).translate(WIDTHS).translate(QUOTES))
    text = SURROGATE_PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return unicodedata.normalize("NFC", text.translate(SURROGATES).translate(dict.fromkeys(CONTROLS)))


def _in_the_right_encoding(text):
    """Decodes UTF-8 that was read as Latin-1 or Windows-1252."""
    if text.isascii():
        return text
    for encoding in ("latin-1", "windows-1252"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text


class TextEncoding:
    """Turns texts into token ids.

    Args:
        path: The tokenizer, in the format of Hugging Face's tokenizers.
        context_length: Number of tokens of each text. Shorter texts are padded with zeros, longer ones are truncated.
    """

    def __init__(self, path: Path, context_length: int):
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.context_length = context_length

    @cached_property
    def vocabulary(self) -> set[str]:
        """The tokens."""
        return set(self._tokenizer.get_vocab())

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns token ids, (N, `context_length`), int64."""
        ids = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(ids, texts):
            tokens = self._tokenizer.encode(clean_text(text)).ids
            if len(tokens) > self.context_length:
                tokens = [*tokens[: self.context_length - 1], tokens[-1]]
            row[: len(tokens)] = tokens
        return ids
