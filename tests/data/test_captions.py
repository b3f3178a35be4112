"""Images with captions: which caption, in which order, from which kinds of files."""

import datasets
import numpy as np
import pytest

from diffusers_ccld.data.captions import CaptionedImages, deal, kinds_of, load_captions
from diffusers_ccld.data.images import Preparation
from diffusers_ccld.data.randomness import Purpose, generator_at
from diffusers_ccld.data.sources import load_examples, load_images, select_images
from support.picture_files import write_shard


def captioned(paintings, seed=0, kinds=True):
    examples = load_examples(str(paintings))
    images = select_images(examples, str(paintings), "image")
    captions = load_captions(examples, ["caption", "captions"])
    kind = kinds_of(examples, ["subject", "palette"]) if kinds else None
    return CaptionedImages(images, captions, Preparation(32), seed, kind), captions, kind


@pytest.mark.parametrize("seed", [0, 1])
def test_kinds_of_equal_size_come_in_rounds(seed):
    kinds = np.arange(40) % 8
    order = deal(kinds, np.random.default_rng(seed))
    assert sorted(order) == list(range(40))
    assert all(len(set(part)) == 8 for part in kinds[order].reshape(5, 8))


def test_a_large_kind_is_spread_over_the_whole():
    kinds = np.array([0] * 500 + [1 + i % 100 for i in range(500)])
    order = deal(kinds, np.random.default_rng(0))
    assert sorted(order) == list(range(1000))
    shares = [(part == 0).mean() for part in kinds[order].reshape(10, 100)]
    assert min(shares) > 0.4 and max(shares) < 0.6


def test_seeds_deal_differently():
    kinds = np.arange(50) % 5
    assert not np.array_equal(deal(kinds, np.random.default_rng(0)), deal(kinds, np.random.default_rng(1)))


def test_captions_come_from_texts_and_from_lists(paintings):
    examples = datasets.load_from_disk(paintings)
    captions = load_captions(examples, ["caption", "captions"])
    assert captions[3] == [examples[3]["caption"], *examples[3]["captions"]]
    with pytest.raises(ValueError, match="no column title; give caption_columns, of image"):
        load_captions(examples, ["title"])
    for value in ({"k": "v"}, 3, [1, 2]):
        with pytest.raises(ValueError, match="neither a text nor a list of texts"):
            load_captions(datasets.Dataset.from_dict({"text": [value]}), ["text"])
    with pytest.raises(ValueError, match="2 images have no caption, the first is number 1"):
        load_captions(datasets.Dataset.from_dict({"text": ["a cat", " ", None]}), ["text"])


def test_a_position_has_its_image_and_caption_whatever_the_batch(paintings):
    data, captions, _ = captioned(paintings)
    together, alone = data.__getitems__([60, 61, 62]), data.__getitems__([61])
    assert together["captions"][1] == alone["captions"][0]
    assert together["indices"][1] == alone["indices"][0]
    assert alone["captions"][0] in captions[int(alone["indices"][0])]
    again = [data.__getitems__([61 + 48 * epoch])["captions"][0] for epoch in range(8)]
    assert len(set(again)) > 1


def test_every_epoch_has_every_image_in_another_order(paintings):
    data, _, kinds = captioned(paintings)
    epochs = [data.__getitems__(list(range(48 * e, 48 * (e + 1))))["indices"].numpy() for e in range(2)]
    assert all(sorted(order) == list(range(48)) for order in epochs)
    assert not np.array_equal(*epochs)
    assert np.array_equal(epochs[0], deal(kinds, generator_at(0, Purpose.ORDER, 0)))


def test_a_webdataset_is_images_and_captions(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "0000.tar", range(3))
    write_shard(shards / "0001.tar", range(3, 5))
    examples = load_examples(str(shards))
    assert load_captions(examples, ["txt"]) == [[f"patchwork number {i}"] for i in range(5)]
    images = load_images(str(shards), image_column="png")
    data = CaptionedImages(images, load_captions(examples, ["txt"]), Preparation(32), seed=0)
    batch = data.__getitems__(list(range(5)))
    assert batch["captions"] == [f"patchwork number {i}" for i in batch["indices"]]
    assert len(load_images(str(shards / "0000.tar"), image_column="png")) == 3


def test_a_folder_of_parquet_files_has_its_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, count in (("train", 3), ("test", 2)):
        examples = datasets.Dataset.from_dict({"text": [f"{split} {i}" for i in range(count)]})
        examples.to_parquet(tmp_path / "files" / f"{split}-00000-of-00001.parquet")
    assert load_examples(str(tmp_path / "files"))["text"][:] == ["train 0", "train 1", "train 2"]
    assert load_examples(str(tmp_path / "files"), "test")["text"][:] == ["test 0", "test 1"]


def test_a_folder_without_examples_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither pictures nor parquet files nor shards"):
        load_examples(str(tmp_path))


def test_kinds_are_the_agreement_of_columns():
    examples = datasets.Dataset.from_dict({"a": [1, 1, 2, 1], "b": ["x", "y", "x", "x"]})
    assert kinds_of(examples, ["a", "b"]).tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="no column c"):
        kinds_of(examples, ["c"])
