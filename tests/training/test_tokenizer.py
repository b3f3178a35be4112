"""Tokenizers with a vocabulary of their own."""

import subprocess
import sys

import pytest

from diffusers_ccld import CLOOBTokenizer
from diffusers_ccld.paintings.phrases import COMPLETE, VOCABULARY
from diffusers_ccld.training.tokenizer import train_tokenizer

TEXTS = ["a sunset landscape, oil on canvas", "Autumn watercolor", "the moon over a landscape!"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 600, model_max_length=24)


def test_known_words_are_single_tokens_in_whatever_case(tokenizer):
    assert tokenizer.tokenize("A SUNSET over the landscape") == [
        f"{word}</w>" for word in ("a", "sunset", "over", "the", "landscape")
    ]


@pytest.mark.parametrize("text", ["zürich, 1900", "weißes rössl", "月 over the sea", "100% ~ [x]", "don't"])
def test_every_other_text_is_spelt(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert "".join(tokenizer.decode(ids, skip_special_tokens=True).split()) == "".join(text.split())


def test_texts_are_padded_with_zeros_to_the_context_length(tokenizer):
    ids = tokenizer("autumn")["input_ids"]
    assert len(ids) == 24 and ids[0] == tokenizer.bos_token_id and ids[2] == tokenizer.eos_token_id
    assert ids[3:] == [0] * 21
    assert tokenizer.convert_ids_to_tokens(0) == "!"
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1 == tokenizer.eos_token_id


def test_it_is_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLOOBTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_the_same_texts_make_the_same_tokenizer_in_any_process():
    """The trainer's hash tables have another order in every process, and most merges of few texts are ties."""
    words = " ".join(sorted({word for template in COMPLETE for word in template.split()} | set(VOCABULARY)))
    code = "import sys, hashlib, json; from diffusers_ccld.training.tokenizer import train_tokenizer; "
    code += "vocabulary = train_tokenizer([sys.argv[1]], 640).get_vocab(); "
    code += "print(hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest())"
    run = [sys.executable, "-c", code, words]
    digests = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(digests) == 1


def test_a_vocabulary_has_at_most_its_size():
    assert len(train_tokenizer(TEXTS, 530)) == 530
    with pytest.raises(ValueError, match="at least 514 tokens"):
        train_tokenizer(TEXTS, 513)
