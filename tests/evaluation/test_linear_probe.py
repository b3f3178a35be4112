"""Tests of the linear probe on embeddings whose classes are known."""

import pytest
import torch

from diffusers_ccld.evaluation.linear_probe import LinearProbe


def points(count, seed, noise=0.1):
    """Embeddings (N, 5) of two attributes: the first two numbers tell one of three classes, the third one of two."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.stack([torch.randint(n, (count,), generator=generator) for n in (3, 2)], dim=1)
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    embeds = noise * torch.randn(count, 5, generator=generator)
    embeds[:, :2] += corners[targets[:, 0]]
    embeds[:, 2] += targets[:, 1]
    return embeds, targets


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_it_names_what_a_linear_map_can(scale):
    embeds, targets = points(300, 0)
    probe = LinearProbe(scale * embeds, targets)
    others, classes = points(200, 1)
    assert min(probe.shares_right(scale * others, classes)) > 97
    # The first attribute cannot be told where its two numbers are noise; the second still can.
    others[:, :2] = torch.randn(200, 2, generator=torch.Generator().manual_seed(2))
    first, second, both = probe.shares_right(scale * others, classes)
    assert first < 60 and second > 97 and both <= first


def test_shares_are_counted():
    embeds, targets = points(300, 0)
    probe = LinearProbe(embeds, targets)
    named = probe.named(embeds[:4])
    wrong = named.clone()
    wrong[0, 0] = (wrong[0, 0] + 1) % 3
    wrong[:2, 1] = 1 - wrong[:2, 1]
    assert probe.shares_right(embeds[:4], wrong) == [75, 50, 50]
