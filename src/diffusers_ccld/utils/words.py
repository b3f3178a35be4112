"""Words of texts and of tokenizers' vocabularies, and prompts of such words. It needs the standard library alone."""

import difflib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

END_OF_WORD = "</w>"
PROMPTS_NAME = "prompts.txt"  # of the file beside a grid of samples
SMALL_VOCABULARY = 10_000  # tokens; CLIP's 49,408 stand for all English words
WORD_SIMILARITY = 0.82  # of a suggested word at least, as difflib counts it: "colour" and "colors" have 0.83

PROMPTS = (
    "A sunset landscape painting, oil on canvas",
    "A winter landscape in the mountains",
    "The moon over the sea at night",
    "A portrait of a woman, charcoal drawing",
    "A still life with fruit and flowers",
    "A city street in the rain, impressionism",
    "Autumn trees, watercolor",
    "An abstract composition in red and blue",
)
PLAIN_PROMPTS = (  # of the words of `diffusers_ccld.paintings`
    "A sailing boat in summer, watercolor",
    "The moon over a lake at night, pastel",
    "A portrait of a person, charcoal drawing",
    "A still life with fruit, oil painting",
    "A city skyline in the mist, pointillism",
    "A cottage in the snow, ink on paper",
    "A cat on a rug, oil on canvas",
    "A rose in bloom, watercolor",
)

_WORD = re.compile(r"[^\W\d_]{2,}")
# Thai, Lao, Burmese, Khmer, Japanese and Chinese letters: no spaces separate their words.
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")

# A byte-level vocabulary, as GPT-2's and CLIP's, writes the bytes of UTF-8 as letters: its own, or from U+0100 on.
_PRINTABLE = [byte for byte in range(0x21, 0x100) if byte not in (*range(0x7F, 0xA1), 0xAD)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTABLE]
_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)}
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def vocabulary_of(pipeline_folder: str | Path) -> set[str]:
    """The tokens of a pipeline's tokenizer, read without transformers; empty if there are none."""
    try:
        tokens = json.loads((Path(pipeline_folder) / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))[
            "model"
        ]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return set(tokens)


def words_in(text: str) -> list[str]:
    """The words of a text with two or more letters, in lower case, each once; none of languages without spaces."""
    words = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return [word for word in dict.fromkeys(words) if not _WITHOUT_SPACES.search(word)]


def unknown_words(text: str, vocabulary: Collection[str]) -> list[str]:
    """The words of a text that a small vocabulary lacks, so that a tokenizer spells them; none for a large vocabulary.

    A model with a small vocabulary was trained on texts of just these words.

    Args:
        text: The text.
        vocabulary: The tokens. Those that end a word end in "</w>".
    """
    if not 0 < len(vocabulary) < SMALL_VOCABULARY:
        return []
    return [word for word in words_in(text) if _token_of(word) not in vocabulary]


def _token_of(word):
    return "".join(_LETTERS[byte] for byte in word.encode()) + END_OF_WORD


def _word_of(token):
    """The text of a token; "" if its bytes are not whole letters."""
    letters = token.removesuffix(END_OF_WORD)
    try:
        return bytes(_BYTES[letter] for letter in letters).decode()
    except (KeyError, UnicodeDecodeError):
        return ""


def unknown_words_sentence(texts: Iterable[str], vocabulary: Collection[str], model: str) -> str:
    """Which words of texts a model does not know, such as "the model does not know: red"; empty if it knows all.

    A similar word that it knows stands behind a word: "watercolour (did you mean watercolor?)".

    Args:
        texts: The texts.
        vocabulary: As for `unknown_words`.
        model: The model's name.
    """
    known = whole_words(vocabulary)
    named = [f"{word}{_suggestion(word, known)}" for word in unknown_words(" ".join(texts), vocabulary)]
    return f"{model} does not know: {', '.join(named)}" if named else ""


def similar_word(word: str, known: Iterable[str]) -> str | None:
    """The known word with the same first letter that resembles a word most; `None` if none does."""
    candidates = [other for other in known if other[0] == word[0]]
    return next(iter(difflib.get_close_matches(word, candidates, 1, WORD_SIMILARITY)), None)


def _suggestion(word, known):
    similar = similar_word(word, known)
    return f" (did you mean {similar}?)" if similar else ""


def whole_words(vocabulary: Collection[str]) -> list[str]:
    """Words of three or more letters that a small vocabulary has as one token, long ones first; none of a large one.

    A token that ends another one, such as "scape" beside "landscape", is taken for a part of a word.

    Args:
        vocabulary: As for `unknown_words`.
    """
    if not 0 < len(vocabulary) < SMALL_VOCABULARY:
        return []
    tokens = {_word_of(token) for token in vocabulary if token.endswith(END_OF_WORD)}
    parts = {token[first:] for token in tokens for first in range(1, len(token))}
    words = {token for token in tokens - parts if len(token) > 2 and _WORD.fullmatch(token)}
    return sorted(words, key=lambda word: (-len(word), word))


def example_prompts(vocabulary: Collection[str], prompts: Iterable[str] = (), count: int = 8) -> list[str]:
    """Prompts for a model, of words that it knows.

    Args:
        vocabulary: As for `unknown_words`; empty if it is not known.
        prompts: The model's own prompts, if there are any; those whose words it knows come first.
        count: Number of prompts at most.

    Returns:
        The first that it knows of its own and ours, or else single words of its vocabulary.
    """
    candidates = dict.fromkeys([*prompts, *PROMPTS, *PLAIN_PROMPTS])
    known = [prompt for prompt in candidates if not unknown_words(prompt, vocabulary)]
    return (known or whole_words(vocabulary) or list(PROMPTS))[:count]


def prompts_for(pipeline_folder: str | Path) -> list[str]:
    """Prompts for the model in a folder, as `example_prompts` chooses them: of its grid of samples, and ours."""
    try:
        lines = (Path(pipeline_folder) / PROMPTS_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    return example_prompts(vocabulary_of(pipeline_folder), [line.strip() for line in lines if line.strip()])
