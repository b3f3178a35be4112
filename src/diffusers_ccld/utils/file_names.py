"""Names of picture files, from prompts. web/file-names.js makes the same ones; a test compares the two."""

import os
import unicodedata

LONGEST = 60  # characters
LAST_CHARACTER = "\uffff"  # of the usual plane of Unicode: 60 of these are 180 bytes, and a name has at most 255
WITHOUT_WORDS = "picture"


def file_stem(text: str) -> str:
    """The beginning of a picture's file name, from its prompt: "a-rose-in-bloom" for "A rose, in bloom".

    It has lower-case letters and digits of all scripts, with hyphens between the words, and ends with a word. A seed
    follows it, so that words which Windows reserves, such as "con", do no harm.

    Args:
        text: The prompt; "" without one.

    Returns:
        The beginning; "picture" for a text without words, or with letters that no file name can have here.
    """
    text = unicodedata.normalize("NFC", text).lower()
    is_kept = [unicodedata.category(character)[0] in "LMN" and character <= LAST_CHARACTER for character in text]
    parts = "".join(character if kept else " " for character, kept in zip(text, is_kept)).split()
    words = [part for part in parts if any(map(str.isalnum, part))][:LONGEST]  # not what is left of an emoji
    while len(words) > 1 and len("-".join(words)) > LONGEST:
        words.pop()
    stem = "-".join(words)[:LONGEST]
    try:
        os.fsencode(stem)
    except UnicodeEncodeError:  # where the locale has few letters
        return WITHOUT_WORDS
    return stem or WITHOUT_WORDS
