import hashlib
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from diffusers_ccld.paintings import (
    MEDIA,
    NUM_COMBINATIONS,
    PALETTES,
    SUBJECTS,
    VOCABULARY,
    Attributes,
    attributes_of,
    captions,
    is_held_out,
    make_dataset,
    media,
    paint,
)
from diffusers_ccld.paintings.palettes import jittered
from diffusers_ccld.paintings.phrases import KINDS, MOODS, SUBJECT_PHRASES, TECHNIQUES, TIMES
from diffusers_ccld.paintings.scene import Scene

ALL = [attributes_of(index) for index in range(NUM_COMBINATIONS)]
EVERY_MEDIUM = [Attributes(SUBJECTS[i], medium, PALETTES[i]) for i, medium in enumerate(MEDIA)]


def digest(seed: int) -> str:
    return hashlib.sha256(b"".join(paint(attributes, seed).tobytes() for attributes in EVERY_MEDIUM)).hexdigest()


def test_there_are_enough_of_each_and_they_are_all_combined():
    assert len(SUBJECTS) >= 10 and len(MEDIA) >= 6 and len(PALETTES) >= 8
    assert [Attributes(*names) for names in product(SUBJECTS, MEDIA, PALETTES)] == ALL
    with pytest.raises(IndexError, match="does not exist"):
        attributes_of(NUM_COMBINATIONS)


def test_a_seed_paints_the_same_bytes_in_any_process():
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import cv2; cv2.setNumThreads(1); "
        "import test_paintings; print(test_paintings.digest(3))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == digest(3) == digest(3)


def test_painting_neither_uses_nor_moves_the_global_random_state():
    np.random.seed(0)
    before = np.random.get_state()[1].tobytes()
    paint(EVERY_MEDIUM[0], 0)
    assert np.random.get_state()[1].tobytes() == before


# 5 is coprime to the numbers of media and palettes, so a fifth of the combinations still has all pairs of the two.
@pytest.mark.parametrize("index", range(0, NUM_COMBINATIONS, 5))
def test_a_painting_has_lights_darks_and_colours(index):
    painting = paint(ALL[index], seed=index)
    assert painting.shape == (128, 128, 3) and painting.dtype == np.uint8
    low, high = np.percentile(painting.mean(-1), (2, 98))
    assert high - low > 30
    assert painting.reshape(-1, 3).std(0).min() > 8


@pytest.mark.parametrize("attributes", EVERY_MEDIUM)
def test_seeds_paint_different_pictures(attributes):
    paintings = np.stack([paint(attributes, seed) for seed in range(4)]).astype(float)
    assert all(np.abs(a - b).mean() > 8 for a, b in combinations(paintings, 2))


@pytest.mark.parametrize("medium", MEDIA)
def test_an_empty_canvas_is_painted_too(medium):
    scene = Scene(jittered("fog", np.random.default_rng(0)), "fog", np.random.default_rng(0))
    scene.colour[:] = 0.5
    picture = media.TECHNIQUES[medium](scene, np.random.default_rng(0))
    assert picture.shape == scene.colour.shape and np.isfinite(picture).all()


def test_each_attribute_changes_the_picture():
    first = paint(ALL[0], 0).astype(float)
    for other in (ALL[1], ALL[len(PALETTES)], ALL[len(PALETTES) * len(MEDIA)]):
        assert np.abs(paint(other, 0) - first).mean() > 8


@pytest.mark.parametrize("size", [64, 200, 320])
def test_every_size_is_the_same_picture(size):
    import cv2

    small = [cv2.resize(paint(EVERY_MEDIUM[0], 5, s), (64, 64), interpolation=cv2.INTER_AREA) for s in (128, size)]
    assert paint(EVERY_MEDIUM[0], 5, size).shape == (size, size, 3)
    assert np.abs(small[0].astype(float) - small[1]).mean() < 3


def test_fifteen_per_cent_are_held_out_of_every_attribute():
    assert abs(np.mean([is_held_out(a) for a in ALL]) - 0.15) < 0.01
    for name in SUBJECTS + MEDIA + PALETTES:
        assert 0.1 < np.mean([is_held_out(a) for a in ALL if name in a]) < 0.2


def test_every_pair_of_attributes_is_trained_on():
    trained = [a for a in ALL if not is_held_out(a)]
    for i, j, pairs in (
        (0, 1, product(SUBJECTS, MEDIA)),
        (0, 2, product(SUBJECTS, PALETTES)),
        (1, 2, product(MEDIA, PALETTES)),
    ):
        assert {(a[i], a[j]) for a in trained} == set(pairs)


def words_of(*groups: dict[str, tuple[str, ...]]) -> dict[str, set[str]]:
    return {name: {w for group in groups for phrase in group[name] for w in phrase.split()} for name in groups[0]}


def test_a_complete_caption_tells_each_attribute_and_no_other():
    tables = words_of(SUBJECT_PHRASES), words_of(KINDS, TECHNIQUES), words_of(MOODS, TIMES)
    uses = Counter(word for table in tables for words in table.values() for word in words)
    for attributes in ALL:
        for caption in captions(attributes, seed=1, count=8, complete=True):
            words = set(caption.replace(",", "").split())
            telling = {word for word in words if uses[word] == 1}  # words of one name only
            assert {name for table in tables for name in table if table[name] & telling} == set(attributes), caption


def test_captions_are_varied_but_of_few_words():
    assert len(VOCABULARY) < 120
    seen = [caption for a in ALL for caption in captions(a, seed=2, count=4)]
    assert {word for caption in seen for word in re.findall(r"\w+", caption)} <= set(VOCABULARY)
    assert all(re.fullmatch(r"[a-z]+(,? [a-z]+)*", caption) for caption in seen)
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", caption) for caption in seen)
    assert len(set(seen)) > 0.5 * len(seen)
    assert captions(ALL[7], 3, 5) == captions(ALL[7], 3, 5) != captions(ALL[7], 4, 5)


@pytest.mark.parametrize("held_out", [False, True])
def test_the_dataset_has_the_columns_of_wikiart(held_out, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    paintings = make_dataset(12, seed=1, held_out=held_out)
    assert set(paintings.column_names) >= {"image", "artist", "genre", "style", "caption", "captions"}
    classes = {
        "artist": PALETTES,
        "genre": SUBJECTS,
        "style": MEDIA,
        "palette": PALETTES,
        "subject": SUBJECTS,
        "medium": MEDIA,
    }
    for column, names in classes.items():
        assert tuple(paintings.features[column].names) == names
    assert paintings[0]["image"].size == (128, 128) and paintings[0]["image"].mode == "RGB"
    rows = [(SUBJECTS[r["subject"]], MEDIA[r["medium"]], PALETTES[r["palette"]]) for r in paintings]
    assert len(set(rows)) == 12
    assert all(is_held_out(Attributes(*row)) == held_out for row in rows)
    for row in paintings:
        assert row["caption"] and len(set(row["captions"])) > 1
        assert (row["genre"], row["style"], row["artist"]) == (row["subject"], row["medium"], row["palette"])


def test_several_painters_paint_the_same_collection(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    alone, together = make_dataset(8, seed=2), make_dataset(8, seed=2, num_proc=2)
    assert alone["caption"][:] == together["caption"][:]
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(alone, together))
