"""Tokenizers with a small vocabulary of their own."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ..models.processing_cloob import CLOOBTokenizer, clean_text

SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")
END_OF_WORD = "</w>"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, **options: Any) -> CLOOBTokenizer:
    """Makes a tokenizer that knows the words of some texts, and spells all others.

    Its vocabulary is arranged as CLIP's: 256 bytes, 256 bytes that end a word, merges, two special tokens.

    Args:
        texts: The texts.
        vocabulary_size: Most tokens there may be; at least 514. The merges come in the order of their frequency.
        options: Arguments of `CLOOBTokenizer`, such as `model_max_length`.

    Raises:
        ValueError: If the vocabulary is too small for the bytes.
    """
    # In the order of their code points "!" comes first: its id, 0, is that of the padding.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*letters, *(letter + END_OF_WORD for letter in letters)]
    least = len(alphabet) + len(SPECIAL_TOKENS)
    if vocabulary_size < least:
        raise ValueError(f"A vocabulary has at least {least} tokens, for single bytes; {vocabulary_size} are too few.")
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    empty = CLOOBTokenizer(vocab={token: i for i, token in enumerate(SPECIAL_TOKENS)}, merges=[]).backend_tokenizer
    learner.normalizer, learner.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=letters,
        # Named in advance, or the trainer meets them in an order of chance, by which it breaks ties between merges.
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
