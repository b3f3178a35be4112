"""Tokenizers with a small vocabulary, trained on texts."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ..models.processing_cloob import CLOOBTokenizer, clean_text

SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")
END_OF_WORD = "</w>"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, **options: Any) -> CLOOBTokenizer:
    """Trains a tokenizer on the words of some texts; it spells all other words.

    Its vocabulary is ordered like CLIP's: 256 bytes, 256 bytes that end a word, merges, two special tokens.

    Args:
        texts: The texts.
        vocabulary_size: Largest number of tokens, at least 514. The most frequent merges come first.
        options: Arguments of `CLOOBTokenizer`, such as `model_max_length`.

    Raises:
        ValueError: If the vocabulary is too small for the bytes.
    """
    # Sorted by code point, "!" comes first. Its id, 0, is also that of the padding.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*letters, *(letter + END_OF_WORD for letter in letters)]
    least = len(alphabet) + len(SPECIAL_TOKENS)
    if vocabulary_size < least:
        raise ValueError(f"A vocabulary needs at least {least} tokens, for single bytes, not {vocabulary_size}.")
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    empty = CLOOBTokenizer(vocab={token: i for i, token in enumerate(SPECIAL_TOKENS)}, merges=[]).backend_tokenizer
    learner.normalizer, learner.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=letters,
        # Given in advance: the trainer breaks ties between merges by this order, which would otherwise be random.
        special_tokens=alphabet,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    learner.train_from_iterator(map(clean_text, texts), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    merges = merges[: vocabulary_size - least]
    tokens = [*alphabet, *dict.fromkeys(left + right for left, right in merges), *SPECIAL_TOKENS]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLOOBTokenizer(vocab=vocabulary, merges=merges, **options)
