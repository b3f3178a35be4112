import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import stats
from torch.nn import functional as F

from diffusers_ccld.evaluation.metrics import (
    embedding_diversity,
    frechet_distance,
    mean_over_prompts,
    paired_p_value,
    pixel_diversity,
    prompt_similarity,
    style_shares,
    total_variation,
)


def unit_vectors(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_the_error_is_that_of_prompts_not_of_pictures():
    values = torch.randn(50, 1).expand(50, 8)  # the same picture eight times
    once, repeated = mean_over_prompts(values[:, :1]), mean_over_prompts(values)
    assert repeated == pytest.approx(once)
    assert once.standard_error == pytest.approx(values[:, 0].std().item() / 50**0.5, rel=1e-5)
    assert mean_over_prompts(values[:1]).standard_error is None


def test_prompt_similarity_belongs_to_each_picture_and_its_own_prompt():
    images, texts = unit_vectors(3, 4, 8), unit_vectors(3, 8)
    found = prompt_similarity(images, texts)
    for p in range(3):
        for s in range(4):
            assert found[p, s].item() == pytest.approx(float(images[p, s] @ texts[p]), abs=1e-6)


def test_diversity_is_zero_for_one_picture_and_grows():
    one = unit_vectors(2, 1, 16).expand(2, 4, 16)
    assert embedding_diversity(one).abs().max() < 1e-6
    mixed = unit_vectors(2, 5, 16)
    pairs = [[1 - float(e[i] @ e[j]) for i in range(5) for j in range(i)] for e in mixed]
    assert embedding_diversity(mixed).tolist() == pytest.approx(np.mean(pairs, axis=1), abs=1e-5)
    assert pixel_diversity(torch.stack([torch.zeros(7), torch.ones(7)])[None]).item() == pytest.approx(1)


def test_styles_are_those_of_the_nearest_captions():
    styles = torch.eye(4)[:3]
    pictures = F.normalize(torch.tensor([[3.0, 1, 0, 1], [0, 1, 5, 0], [2, 1, 0, 0], [1, 0, 0, 9]]), dim=1)
    shares = style_shares(pictures, styles)
    assert shares.tolist() == [0.75, 0, 0.25]
    assert total_variation(shares, shares) == 0
    assert total_variation(shares, torch.tensor([0, 1, 0.0])) == 1


def test_frechet_distance_equals_its_formula():
    first, second = unit_vectors(60, 5), unit_vectors(90, 5) + 0.3
    covariances = [np.cov(x.double().numpy().T) for x in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    means = (first.double().mean(0) - second.double().mean(0)).square().sum().item()
    expected = means + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_that_of_normal_distributions():
    features = torch.randn(500, 8)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 2) == pytest.approx(8 * 4, rel=1e-6)
    # tr(Σ + 9Σ − 2·3Σ) = 4·tr Σ, and the means differ by twice the first one.
    expected = 4 * features.double().T.cov().trace() + 4 * features.double().mean(0).square().sum()
    assert frechet_distance(features, 3 * features) == pytest.approx(expected.item(), rel=1e-6)


def test_a_difference_is_tested_by_student_from_ten_prompts_on():
    differences = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) + 0.4
    expected = stats.ttest_1samp(differences.mean(dim=1).numpy(), 0).pvalue
    assert paired_p_value(differences) == pytest.approx(expected, rel=1e-5)
    assert paired_p_value(differences[:9]) is None
    assert paired_p_value(torch.zeros(10)) == 1
    assert paired_p_value(torch.full((10,), 0.5)) == 0
