"""The closed-form fit of the text encoder's last layer: known maps, processes, degenerate pairs."""

import pytest
import torch
from torch.nn import functional as F

from diffusers_ccld.training.text_fit import (
    LinearMap,
    NormalEquations,
    Pairs,
    fit_text,
    gap_of,
    mean_cosine,
    splits,
)

H, D = 24, 16


def known_map(seed=0, num_features=H, num_targets=D):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_targets, num_features, generator=generator, dtype=torch.float64)
    return LinearMap(weight, torch.randn(num_targets, generator=generator, dtype=torch.float64))


def pairs_of(layer, num_images, captions=1, noise=0.0, seed=1):
    """Images whose embeddings are the normalised predictions of a layer plus noise."""
    generator = torch.Generator().manual_seed(seed)
    num_features = layer.weight.shape[1]
    features = torch.randn(num_images * captions, num_features, generator=generator, dtype=torch.float64)
    image_of = torch.arange(num_images).repeat_interleave(captions)
    means = layer(features).unflatten(0, (num_images, captions)).mean(dim=1)
    embeds = F.normalize(means, dim=1)
    embeds = embeds + noise * torch.randn(embeds.shape, generator=generator, dtype=torch.float64)
    return Pairs(features, image_of, F.normalize(embeds, dim=1))


def zero_map(num_features=H, num_targets=D):
    return LinearMap(torch.eye(num_targets, num_features, dtype=torch.float64), torch.ones(num_targets).double())


@pytest.mark.parametrize("size", [(H, D), (512, 1024)])
def test_a_known_linear_map_is_recovered(size):
    layer = known_map(0, *size)
    features = torch.randn(3 * size[0], size[0], dtype=torch.float64)
    equations = NormalEquations(*size)
    for batch in features.split(100):
        equations.add(batch, layer(batch))
    found = equations.solve(0.0)
    torch.testing.assert_close(found.weight, layer.weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.bias, layer.bias, atol=1e-6, rtol=0)
    covariance = equations.residual_covariance(found)
    assert covariance.shape == (size[1], size[1]) and covariance.abs().max() < 1e-9


def test_the_direction_of_a_known_map_is_recovered_on_the_sphere():
    """Normalised targets are not linear in the features; least squares alone misses their direction."""
    layer = known_map()
    layer = LinearMap(layer.weight, 8 * layer.bias)
    fit = fit_text(pairs_of(layer, 2000), pairs_of(layer, 200, seed=2), zero_map())
    assert fit.is_spherical and fit.spherical_cosine > fit.least_squares_cosine
    assert 1 - mean_cosine(fit.layer, pairs_of(layer, 200, seed=3)) < (1 - fit.least_squares_cosine) / 2


def test_the_penalty_is_that_of_ridge_regression():
    layer = known_map()
    features, targets = pairs_of(layer, 40, noise=0.3).flat
    equations = NormalEquations(H, D)
    equations.add(features, targets)
    centred = features - features.mean(dim=0)
    penalty = 0.1 * centred.square().sum() / H
    expected = torch.linalg.solve(centred.T @ centred + penalty * torch.eye(H).double(), centred.T @ targets).T
    found = equations.solve(0.1)
    torch.testing.assert_close(found.weight, expected)
    torch.testing.assert_close(found.bias, targets.mean(dim=0) - expected @ features.mean(dim=0))


def test_weights_count_pairs_several_times():
    features, targets = pairs_of(known_map(), 50, noise=0.3).flat
    once, twice = NormalEquations(H, D), NormalEquations(H, D)
    once.add(features, targets, torch.arange(50) % 2 + 1.0)
    twice.add(features, targets)
    twice.add(features[1::2], targets[1::2])
    torch.testing.assert_close(once.moments, twice.moments)


def test_sums_of_two_processes_are_those_of_one():
    pairs, held_out = pairs_of(known_map(), 300, captions=3, noise=0.2), pairs_of(known_map(), 60, noise=0.2, seed=2)
    halves = [pairs.of_images(range(k, 300, 2)) for k in (0, 1)]
    whole = NormalEquations(H, D)
    whole.add(*pairs.flat)
    parts = [NormalEquations(H, D) for _ in halves]
    for part, half in zip(parts, halves):
        part.add(*half.flat)
    gathered = parts[0].reduced(lambda moments: moments + parts[1].moments)
    torch.testing.assert_close(gathered.solve(1e-4).weight, whole.solve(1e-4).weight, atol=1e-10, rtol=0)
    fit = fit_text(pairs, held_out, zero_map())
    assert fit.num_pairs == 900


def test_the_fit_closes_the_gap_and_its_noise_gives_the_spread_of_images():
    layer = known_map()
    pairs, held_out = (
        pairs_of(layer, 3000, captions=2, noise=0.15),
        pairs_of(layer, 500, captions=2, noise=0.15, seed=2),
    )
    fit = fit_text(pairs, held_out, zero_map())
    assert fit.after.pair_cosine > 0.6 > 0.2 > fit.before.pair_cosine
    assert fit.after.text_to_image > fit.before.text_to_image
    assert fit.after == gap_of(fit.layer, held_out)
    features, targets = held_out.flat
    texts = F.normalize(fit.layer(features), dim=1)
    varied = F.normalize(texts + torch.randn(texts.shape, dtype=torch.float64) @ fit.residual_factor.T, dim=1)
    cosine_of_images = F.cosine_similarity(texts, targets).mean().item()
    assert F.cosine_similarity(texts, varied).mean().item() == pytest.approx(cosine_of_images, abs=0.03)


def test_fewer_pairs_than_dimensions_get_a_ridge_answer():
    fit = fit_text(pairs_of(known_map(), 8, noise=0.1), pairs_of(known_map(), 50, noise=0.1, seed=2), zero_map())
    assert fit.layer.weight.isfinite().all() and fit.residual_factor.isfinite().all()
    assert fit.after.pair_cosine > fit.before.pair_cosine


def test_identical_captions_get_the_mean_image():
    pairs = pairs_of(known_map(), 100)
    same = pairs._replace(features=pairs.features[:1].expand(100, -1))
    fit = fit_text(same, same, zero_map())
    prediction = F.normalize(fit.layer(same.features[0]), dim=0)
    torch.testing.assert_close(prediction, F.normalize(pairs.image_embeds.mean(dim=0), dim=0))


@pytest.mark.parametrize("which", ["features", "image_embeds"])
@pytest.mark.parametrize("where", ["fitted", "held out"])
def test_embeddings_that_are_not_finite_are_refused(which, where):
    good = pairs_of(known_map(), 40)
    bad = good._replace(**{which: getattr(good, which).clone().index_fill_(0, torch.tensor([3]), torch.nan)})
    with pytest.raises(ValueError, match="not finite"):
        fit_text(*((bad, good) if where == "fitted" else (good, bad)), zero_map())


def test_no_pairs_are_refused():
    pairs = pairs_of(known_map(), 20)
    with pytest.raises(ValueError, match="no pairs of an image and a caption"):
        fit_text(pairs.of_images([]), pairs, zero_map())
    with pytest.raises(ValueError, match="7 images with captions are too few"):
        splits(7, 0.1, 0)


def test_images_are_held_out_whole_and_by_the_seed():
    fitted, held_out = splits(100, 0.1, 0)
    assert len(held_out) == 10 and not set(fitted) & set(held_out) and len(fitted) == 90
    assert splits(100, 0.1, 0) == (fitted, held_out) != splits(100, 0.1, 1)
    assert [len(part) for part in splits(8, 0.1, 0)] == [4, 4]
    pairs = pairs_of(known_map(), 10, captions=3)
    part = pairs.of_images([2, 5])
    assert torch.equal(part.features, pairs.features[[6, 7, 8, 15, 16, 17]])
    assert torch.equal(part.flat[1], pairs.flat[1][[6, 7, 8, 15, 16, 17]])
