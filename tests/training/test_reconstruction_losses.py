"""Tests of the terms of the autoencoder's loss: the differences that each sees, and those that it ignores."""

import pytest
import torch
from torch.nn import functional as F

from diffusers_ccld.training.reconstruction_losses import (
    CLOOBFeatureLoss,
    PerceptualLoss,
    StyleLoss,
    chroma_loss,
    pooled_loss,
    texture_loss,
)
from support.encoders import StubFeature, image_encoder_with_stem

TERMS = (pooled_loss, chroma_loss, texture_loss)


@pytest.fixture
def pictures():
    return torch.rand(2, 3, 64, 64) * 2 - 1


@pytest.mark.parametrize("term", TERMS)
def test_a_perfect_reconstruction_costs_nothing(term, pictures):
    assert term(pictures, pictures) == 0
    made = pictures.clone().requires_grad_()
    term(made + 0.1 * torch.randn_like(made), pictures).backward()
    assert torch.isfinite(made.grad).all() and made.grad.abs().sum() > 0


@pytest.mark.parametrize("term", TERMS)
def test_a_flat_picture_has_a_finite_gradient(term):
    made = torch.zeros(1, 3, 32, 32, requires_grad=True)
    term(made, torch.zeros(1, 3, 32, 32)).backward()
    assert torch.isfinite(made.grad).all()


def test_chroma_sees_colour_and_not_brightness(pictures):
    brighter = pictures + 0.3
    redder = pictures + torch.tensor([0.3, 0.0, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(chroma_loss(brighter, pictures).item(), 0.0, atol=1e-6, rtol=0)
    # red − green is off by 0.3, blue − (red + green) / 2 by 0.15
    torch.testing.assert_close(chroma_loss(redder, pictures).item(), 0.45, atol=1e-5, rtol=0)


def test_texture_minds_marks_that_are_missing_and_not_marks_that_lie_elsewhere(pictures):
    moved = pictures.roll((7, 5), dims=(2, 3))
    blurred = F.avg_pool2d(pictures, 3, 1, 1)
    assert (moved - pictures).abs().mean() > (blurred - pictures).abs().mean()
    assert texture_loss(moved, pictures) < 0.3 * texture_loss(blurred, pictures)


def test_texture_minds_the_direction_of_marks():
    stripes = torch.arange(64).remainder(4).div(2, rounding_mode="floor").float().expand(1, 3, 64, 64)
    assert texture_loss(stripes.transpose(2, 3), stripes) > 0.1


def test_pooled_is_the_mean_over_four_sizes(pictures):
    made = pictures + 0.2
    torch.testing.assert_close(pooled_loss(made, pictures).item(), 0.2, atol=1e-5, rtol=0)


def vgg_weights():
    from torchvision.models.vgg import cfgs, make_layers

    return {f"features.{name}": tensor for name, tensor in make_layers(cfgs["D"]).state_dict().items()}


def test_the_perceptual_distance_is_the_formulas(pictures):
    weights = vgg_weights()
    made = (pictures + 0.1 * torch.randn_like(pictures)).clamp(-1, 1)
    loss = PerceptualLoss(weights)(made, pictures)

    def features(x):
        x = (x / 2 + 0.5 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(1, 3, 1, 1)
        found = []
        for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            if block[0]:
                x = F.max_pool2d(x, 2)
            for layer in block:
                x = F.relu(
                    F.conv2d(x, weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"], padding=1)
                )
            found.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-8))
        return found

    expected = sum((a - b).square().sum(1).mean() for a, b in zip(features(made), features(pictures)))
    torch.testing.assert_close(loss, expected)
    assert PerceptualLoss(weights)(pictures, pictures) == 0
    with pytest.raises(ValueError, match="not those of torchvision's vgg16"):
        PerceptualLoss({"features.0.weight": torch.zeros(3)})


def test_the_distance_in_cloobs_features_is_the_formulas(pictures, pipe):
    loss = CLOOBFeatureLoss(pipe.image_encoder, pipe.feature_extractor)
    made = (pictures + 0.3 * torch.randn_like(pictures)).clamp(-1, 1).requires_grad_()
    layers = [
        pipe.image_encoder(
            pixel_values=pipe.feature_extractor.preprocess_training_images(images / 2 + 0.5), output_hidden_states=True
        ).hidden_states
        for images in (made, pictures)
    ]
    expected = [2 - 2 * F.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(layers[0][1:], layers[1][1:])]
    found = loss(made, pictures)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-3, atol=1e-6)
    assert loss(pictures, pictures) == 0
    found.backward()
    assert made.grad.abs().sum() > 0 and all(weight.grad is None for weight in pipe.image_encoder.parameters())


def test_the_distance_in_a_stems_maps_is_the_formulas(pictures, pipe):
    loss = CLOOBFeatureLoss(image_encoder_with_stem(pipe), pipe.feature_extractor)
    made = (pictures + 0.3 * torch.randn_like(pictures)).clamp(-1, 1)
    maps = zip(loss.feature_maps(made), loss.feature_maps(pictures), strict=True)
    expected = [2 - 2 * F.cosine_similarity(mine, wanted, dim=1).mean() for mine, wanted in maps]
    assert len(expected) == 3
    torch.testing.assert_close(loss(made, pictures), torch.stack(expected).mean(), rtol=1e-3, atol=1e-6)


def test_the_style_is_mean_and_deviation_in_sixteenths(pictures):
    made, found = pictures * 0.5 + 0.2, []
    unit = pictures.flatten(1).std(dim=1)
    for i in range(2):
        for rows in range(0, 64, 16):
            for columns in range(0, 64, 16):
                cells = [
                    p[i, :, rows : rows + 16, columns : columns + 16].flatten(1) / unit[i] for p in (made, pictures)
                ]
                found += [(cells[0].mean(1) - cells[1].mean(1)).abs().mean()]
                found += [(cells[0].std(1, correction=0) - cells[1].std(1, correction=0)).abs().mean()]
    style = StyleLoss(StubFeature())
    torch.testing.assert_close(style(made, pictures), torch.stack(found).mean(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(StyleLoss(StubFeature(10))(made, pictures), style(made, pictures), rtol=1e-3, atol=1e-6)


def test_style_minds_textures_and_not_where_marks_lie(pictures):
    style = StyleLoss(StubFeature())
    cells = pictures.unflatten(3, (4, 16)).unflatten(2, (4, 16))  # (N, 3, 4, 16, 4, 16)
    within = cells.roll((5, 7), dims=(3, 5)).flatten(4, 5).flatten(2, 3)
    between = cells.roll(1, dims=2).flatten(4, 5).flatten(2, 3)
    assert style(within, pictures) < 1e-5
    assert style(between, pictures) > 0.01
    torch.testing.assert_close(
        style(between[:1], pictures[:1]) + style(between[1:], pictures[1:]), 2 * style(between, pictures)
    )


def test_style_of_flat_pictures_has_a_finite_gradient(pictures):
    made = torch.zeros(1, 3, 64, 64, requires_grad=True)
    StyleLoss(StubFeature())(made, pictures[:1]).backward()
    assert torch.isfinite(made.grad).all() and made.grad.abs().sum() > 0
    assert torch.isfinite(StyleLoss(StubFeature())(pictures[:1], torch.zeros(1, 3, 64, 64)))
