"""Words of texts and of tokenizers' vocabularies."""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

END_OF_WORD = "</w>"
SMALL_VOCABULARY = 10_000  # tokens; CLIP's 49,408 stand for all English words

_WORD = re.compile(r"[^\W\d_]{2,}")


def vocabulary_of(pipeline_folder: str | Path) -> set[str]:
    """The tokens of a pipeline's tokenizer, read without transformers; empty if there are none."""
    try:
        tokens = json.loads((Path(pipeline_folder) / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))[
            "model"
        ]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return set(tokens)


def unknown_words(text: str, vocabulary: Collection[str]) -> list[str]:
    """The words of a text that a small vocabulary lacks, so that a tokenizer spells them; none for a large vocabulary.

    A model with a small vocabulary was trained on texts of just these words.

    Args:
        text: The text.
        vocabulary: The tokens. Those that end a word end in "</w>".
    """
    if not 0 < len(vocabulary) < SMALL_VOCABULARY:
        return []
    words = dict.fromkeys(_WORD.findall(text.lower()))
    return [word for word in words if f"{word}{END_OF_WORD}" not in vocabulary]


def unknown_words_sentence(texts: Iterable[str], vocabulary: Collection[str], model: str) -> str:
    """Which words of texts a model does not know, such as "the model does not know: red"; empty if it knows all.

    Args:
        texts: The texts.
        vocabulary: As for `unknown_words`.
        model: The model's name.
    """
    unknown = unknown_words(" ".join(texts), vocabulary)
    return f"{model} does not know: {', '.join(unknown)}" if unknown else ""
