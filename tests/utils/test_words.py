"""Words of all languages must be found in a small vocabulary, which spells most letters by two bytes or more."""

import pytest

from diffusers_ccld.training.tokenizer import train_tokenizer
from diffusers_ccld.utils.words import unknown_words, vocabulary_of, whole_words, words_in

CAPTIONS = {
    "French": (["une forêt d'été", "un château près de la rivière"], "un château d'hiver", ["hiver"]),
    "German": (["ein Häuschen im Schnee", "grüne Bäume"], "grüne Häuser", ["häuser"]),
    "Russian": (["кот на ковре", "зимний лес"], "зимний дракон", ["дракон"]),
    "Japanese": (["雪の山", "夜の海"], "雪の海 dragon", ["dragon"]),
}


@pytest.mark.parametrize("language", CAPTIONS)
def test_words_of_the_captions_are_known(language, tmp_path):
    captions, prompt, expected = CAPTIONS[language]
    train_tokenizer(captions * 20, 2000).save_pretrained(tmp_path / "tokenizer")
    vocabulary = vocabulary_of(tmp_path)
    assert unknown_words(" ".join(captions), vocabulary) == []
    assert unknown_words(prompt, vocabulary) == expected
    assert {word for word in words_in(" ".join(captions)) if len(word) > 4} <= set(whole_words(vocabulary))


def test_letters_may_be_composed_or_not():
    assert words_in("cha\u0302teau, CHÂTEAU") == ["château"]
