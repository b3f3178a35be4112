from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ccld.evaluation.painting_scores import (
    agreement_by_split,
    draw,
    evaluation_set,
    fresh_paintings,
    likeness,
    mean_by_medium,
    peak_signal_to_noise,
)
from diffusers_ccld.paintings import PALETTES, Attributes, is_held_out


def test_every_combination_comes_before_one_comes_again():
    chosen = draw(180, True, 0)
    assert all(chosen.count(attributes) in (2, 3) for attributes in set(chosen)) and len(set(chosen)) == 86


def test_three_in_ten_combinations_of_the_evaluation_are_held_out():
    combinations = evaluation_set(25)
    assert [is_held_out(a) for a in combinations.attributes] == [False] * 18 + [True] * 7
    assert len(combinations.prompts) == 25 and combinations == evaluation_set(25)


class Reader:
    """A judge of pictures that are the attributes themselves."""

    def judge(self, images):
        return SimpleNamespace(attributes=images)


def test_agreement_counts_each_attribute_and_all_of_seen_and_held_out_combinations():
    combinations = evaluation_set(10)
    found = combinations.attributes
    found[0] = found[0]._replace(medium="another")
    found[9] = Attributes("another", "another", "another")
    rows = agreement_by_split(Reader(), found, combinations, "all", "those ")
    assert list(rows) == ["all", "those of seen combinations", "those of held-out combinations"]
    assert list(rows["all"].values()) == pytest.approx([90, 80, 90, 80])
    assert list(rows["those of seen combinations"].values()) == pytest.approx([100, 600 / 7, 100, 600 / 7])
    assert list(rows["those of held-out combinations"].values()) == pytest.approx([200 / 3] * 4)


def test_paintings_are_like_themselves_and_unlike_grey_ones():
    class Pixels:
        def judge(self, images):
            return SimpleNamespace(features=torch.stack([torch.tensor(image.getpixel((64, 64))) for image in images]))

    paintings = fresh_paintings([Attributes("cat", "ink", palette) for palette in PALETTES])
    same = likeness(Pixels(), paintings, paintings)
    assert same["Fréchet"] == pytest.approx(0, abs=1e-3) and same["precision"] == same["coverage"] == 1
    dark = likeness(Pixels(), [Image.new("RGB", (128, 128))] * 8, paintings)
    assert dark["Fréchet"] > 100 and dark["recall"] == 0


def test_signal_to_noise_is_that_of_a_known_error():
    attributes = [Attributes("cat", "ink", "fog"), Attributes("cat", "oil", "fog"), Attributes("rose", "ink", "fog")]
    images = fresh_paintings(attributes)
    shifted = [image.point(lambda value: value - 16 if value > 127 else value + 16) for image in images]
    decibels = peak_signal_to_noise(shifted, images)
    assert decibels == pytest.approx([20 * np.log10(255 / 16)] * 3)
    assert mean_by_medium(np.array([1.0, 2.0, 4.0]), attributes) == {"ink": 2.5, "oil": 2.0}
