import pytest
import torch
from PIL import Image

from diffusers_ccld.evaluation.copying import copy_test, nearest_images
from diffusers_ccld.evaluation.scorers import small_pixels
from diffusers_ccld.paintings import attributes_of, paint


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


def test_a_training_image_that_is_there_twice_does_not_hide_a_copy():
    references = torch.rand(40, 30)
    references[7] = references[6]
    assert nearest_images(references[6:7] + 1e-3, references).ratios.item() < 0.05


@pytest.fixture(scope="module")
def painted():
    """Small pixels of 180 paintings of the same kinds: 60 to train on, 60 held out, 60 fresh."""
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
    """Nothing was copied if held-out images are as near to training images as generated ones are."""
    scenes = torch.rand(30, 100)
    training, held_out, generated = (scenes + 0.02 * torch.randn(30, 100) for _ in range(3))
    test = copy_test(ratios(generated, training), ratios(held_out, training))
    assert test.share == test.held_out_share == 1 and test.verdict == "unclear"


def test_few_held_out_images_are_refused():
    with pytest.raises(ValueError, match="5 held-out images are too few"):
        copy_test(torch.rand(30), torch.rand(5))


def test_pictures_of_one_prompt_are_one_observation():
    """Two dark prompts with four seeds each are not eight copies, and few held-out images are not enough."""
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
