"""The gap between text and image embeddings."""

import math

import pytest
import torch
from torch.nn import functional as F

from diffusers_ccld.models.embedding_gap import embedding_gap


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_same_embeddings_have_no_gap():
    embeds = unit(200, 16)
    gap = embedding_gap(embeds, embeds)
    assert gap.pair_cosine == pytest.approx(1) and gap.centroid_distance == 0
    assert gap.text_to_image == gap.image_to_text == 1 and gap.candidates == 100
    assert gap.separability == pytest.approx(0.5, abs=0.1)


def test_a_shift_separates_the_modalities_and_moves_the_centroid():
    embeds = unit(200, 16)
    first = F.one_hot(torch.zeros((), dtype=torch.long), 16)
    images, texts = F.normalize(embeds + 2 * first, dim=1), F.normalize(embeds - 2 * first, dim=1)
    gap = embedding_gap(images, texts)
    assert gap.separability == 1 and gap.centroid_distance > 1.5 and gap.pair_cosine < 0


def test_pairs_at_an_angle():
    embeds = torch.eye(8)
    turned = math.cos(0.5) * embeds + math.sin(0.5) * embeds.roll(1, dims=1)
    gap = embedding_gap(embeds, turned)
    assert gap.pair_cosine == pytest.approx(math.cos(0.5))
    assert gap.text_to_image == 1 and gap.candidates == 8


def test_retrieval_has_the_rate_of_chance_without_a_relation_and_takes_equal_captions_for_equal():
    gap = embedding_gap(unit(2000, 16), unit(2000, 16, seed=1))
    assert gap.text_to_image < 0.03 and gap.image_to_text < 0.03
    assert embedding_gap(unit(8, 16), unit(1, 16).expand(8, -1)).image_to_text == 1


def test_pairs_that_cannot_be_measured_are_refused():
    with pytest.raises(ValueError, match="four or more pairs"):
        embedding_gap(unit(3, 4), unit(3, 4))
    with pytest.raises(ValueError, match="of one shape"):
        embedding_gap(unit(8, 4), unit(8, 5))
    with pytest.raises(ValueError, match="not finite"):
        embedding_gap(unit(8, 4), unit(8, 4) * torch.nan)
