"""Discriminators judge each picture alone, learn, and leave the encoder that they look through as it is."""

from typing import get_args

import pytest
import torch

from diffusers_ccld.training.discriminators import (
    DiscriminatorKind,
    ProjectedDiscriminator,
    adversarial_weight,
    discriminator_identity,
    discriminator_loss,
    make_discriminator,
)
from diffusers_ccld.training.reconstruction_losses import CLOOBFeatureLoss
from support.encoders import STEM, StubFeature, image_encoder_with_stem


@pytest.fixture
def pictures():
    return torch.rand(2, 3, 64, 64) * 2 - 1


@pytest.mark.parametrize("kind", ["patch", "detail"])
def test_the_discriminator_judges_each_picture_alone(kind, pictures):
    discriminator = make_discriminator(kind, 16, None)
    together = discriminator(pictures)
    assert together.shape == (2, 1, 8, 8)
    torch.testing.assert_close(discriminator(pictures[1:]), together[1:])


@pytest.mark.parametrize("stem", [{}, STEM])
def test_a_projected_discriminator_sees_an_encoders_features(stem, pictures, pipe):
    """It learns from pixels and features; the encoder is neither trained nor part of its weights."""
    feature = CLOOBFeatureLoss(image_encoder_with_stem(pipe, stem), pipe.feature_extractor)
    discriminator = ProjectedDiscriminator(feature, channels=16)
    together = discriminator(pictures)
    assert together.shape[:2] == (2, 4 if stem else 3)
    torch.testing.assert_close(discriminator(pictures[1:]), together[1:], rtol=1e-4, atol=1e-5)
    made = pictures.clone().requires_grad_()
    discriminator(made).square().mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in discriminator.parameters())
    assert made.grad.abs().sum() > 0
    assert all(weight.grad is None and not weight.requires_grad for weight in feature.parameters())
    assert {name.split(".")[0] for name in discriminator.state_dict()} == {"heads", "pixels"}


def test_a_projected_discriminator_notices_what_its_encoder_does_not(pictures):
    blind = StubFeature(gain=0.0)
    discriminator = ProjectedDiscriminator(blind, channels=16)
    lines = torch.zeros_like(pictures)
    lines[..., ::2] = 0.05
    with torch.no_grad():
        logits = discriminator(pictures), discriminator(pictures + lines)
    assert torch.equal(logits[0][:, 1:], logits[1][:, 1:])
    assert (logits[0][:, 0] - logits[1][:, 0]).abs().max() > 1e-4


def test_a_checkpoint_tells_discriminators_apart(pipe):
    features = [CLOOBFeatureLoss(image_encoder_with_stem(pipe), pipe.feature_extractor) for _ in range(2)]
    identities = [
        discriminator_identity(kind, channels, feature)
        for kind in get_args(DiscriminatorKind)
        for channels in (16, 32)
        for feature in features
    ]
    # Only a projected one depends on the encoder.
    assert len({str(identity) for identity in identities}) == 2 + 2 + 4


def test_the_hinge_loss():
    assert discriminator_loss(torch.tensor([2.0]), torch.tensor([-2.0])) == 0
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([0.5])) == 1.25


def test_both_losses_pull_equally_hard():
    weight = torch.randn(4, 4, requires_grad=True)
    made = torch.randn(8, 4) @ weight
    first, second = made.abs().mean(), 100 * made.square().mean()
    factor = adversarial_weight(first, second, weight)
    pull = torch.autograd.grad(first, weight, retain_graph=True)[0].norm()
    torch.testing.assert_close((factor * torch.autograd.grad(second, weight)[0]).norm(), pull, rtol=1e-3, atol=1e-6)
