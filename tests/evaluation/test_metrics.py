import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch.nn import functional as F

from diffusers_ccld.evaluation.metrics import (
    copy_test,
    embedding_diversity,
    frechet_distance,
    frechet_inception_distance,
    inception_metric,
    kernel_distance,
    mean_over_prompts,
    nearest_images,
    pixel_diversity,
    prompt_similarity,
    style_shares,
    total_variation,
)
from diffusers_ccld.evaluation.scorers import small_pixels
from diffusers_ccld.paintings import attributes_of, paint


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


def test_the_nearest_image_is_found_and_copies_have_a_ratio_near_zero():
    references = torch.rand(80, 30)
    queries = references[[5, 70]] + 1e-4
    nearest = nearest_images(queries, references)
    assert nearest.indices.tolist() == [5, 70]
    assert nearest.distances.tolist() == pytest.approx([1e-4 * 30**0.5] * 2, rel=0.05)
    assert (nearest.ratios < 0.01).all()
    others = (references - queries[0]).norm(dim=1).sort().values
    assert nearest.ratios[0].item() == pytest.approx((others[0] / others[1:51].mean()).item(), rel=1e-4)
    assert (nearest_images(torch.rand(9, 30), references).ratios > 0.5).all()
    with pytest.raises(ValueError, match="two training images"):
        nearest_images(queries, references[:1])


def test_a_training_image_that_is_there_twice_hides_no_copy():
    references = torch.rand(40, 30)
    references[7] = references[6]
    assert nearest_images(references[6:7] + 1e-3, references).ratios.item() < 0.05


@pytest.fixture(scope="module")
def painted():
    """Small pixels of paintings: 60 to train on, 60 held out, 60 fresh ones of the same kinds."""
    images = [Image.fromarray(paint(attributes_of(i * 37 % 576), 1000 + i)) for i in range(180)]
    return small_pixels(images).split(60)


def ratios(queries, training):
    return nearest_images(queries, training).ratios


def test_copies_with_a_little_noise_are_told_from_fresh_paintings(painted):
    training, held_out, fresh = painted
    baseline = ratios(held_out, training)
    copies = (training + 0.03 * torch.randn_like(training)).clamp(0, 1)
    copied = copy_test(ratios(copies, training), baseline)
    assert copied.verdict == "copies" and copied.share > 0.9 and copied.p_value < 1e-10
    healthy = copy_test(ratios(fresh, training), baseline)
    assert healthy.verdict == "none" and healthy.share < 0.05

    partly = copy_test(ratios(torch.cat([copies[:12], fresh[:48]]), training), baseline)
    assert partly.verdict == "copies" and partly.share == pytest.approx(0.2, abs=0.05)


def test_training_images_in_series_do_not_make_a_model_guilty():
    """Where held-out images are as near to training images as generated ones, nothing was copied."""
    scenes = torch.rand(30, 100)
    training, held_out, generated = (scenes + 0.02 * torch.randn(30, 100) for _ in range(3))
    test = copy_test(ratios(generated, training), ratios(held_out, training))
    assert test.share == test.held_out_share == 1 and test.verdict == "unclear"


def test_few_held_out_images_are_refused():
    with pytest.raises(ValueError, match="5 held-out images are too few"):
        copy_test(torch.rand(30), torch.rand(5))


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


def test_kernel_distance_tells_other_features_and_leaves_the_random_numbers_alone():
    first, second, other = unit_vectors(80, 6), unit_vectors(70, 6), F.normalize(torch.rand(70, 6), dim=1)
    state = torch.random.get_rng_state()
    near, far = kernel_distance(first, second), kernel_distance(first, other)
    assert abs(near) < 0.1 * far
    assert kernel_distance(first, other) == far
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_file_that_is_no_inception_network_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")
    (tmp_path / "other.pth").write_bytes(b"nothing")
    for name in ("weights.pth", "other.pth", "nowhere.pth"):
        with pytest.raises(ValueError, match="Inception"):
            inception_metric(tmp_path / name, [])


@pytest.mark.slow
def test_inception_distance_with_weights_from_a_file(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *args, **kwargs: {})
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], "anything")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    images, others = (torch.randint(0, high, (4, 3, 64, 64), dtype=torch.uint8) for high in (256, 40))
    metric = inception_metric(tmp_path / "weights.pth", images.split(2))
    same, different = (frechet_inception_distance(metric, x.split(3)) for x in (images, others))
    assert same == pytest.approx(0, abs=1e-3 * different) and different > 0


def test_pictures_of_one_prompt_are_one_observation():
    """Two dark prompts with four seeds each are no eight copies, and few held-out images prove nothing."""
    held_out = torch.full((400,), 0.9)
    held_out[0] = 0.1
    ratios = torch.full((96,), 0.9)
    ratios[:8] = 0.1
    assert copy_test(ratios, held_out, num_prompts=24).verdict == "unclear"
    assert copy_test(ratios, held_out).verdict == "copies"
    ratios[::4] = 0.1  # one seed of every prompt
    assert copy_test(ratios, held_out, num_prompts=24).verdict == "copies"
    assert copy_test(ratios, torch.full((20,), 0.9), num_prompts=24).verdict == "unclear"
    assert copy_test(torch.full((96,), 0.9), held_out, num_prompts=24).verdict == "none"
