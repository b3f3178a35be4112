"""`ccld measure-scale` and `conversion/measure_scale.py`."""

import re

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from diffusers_ccld.data.decoding import ImageLimits
from diffusers_ccld.data.images import Preparation, TrainingImages
from diffusers_ccld.data.sources import load_images
from diffusers_ccld.training.latent_scale import pooled_scale
from support.scripts import run_here

SCRIPT = "conversion/measure_scale.py"


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_the_scale_is_that_of_posterior_samples(trainable_folder, pictures, capsys):
    """Compares with the standard deviation of samples."""
    assert run_here(SCRIPT, "--vae", trainable_folder, "--images", pictures, "--resolution", 64) == 0
    printed = capsys.readouterr().out
    scale, lowest, highest = numbers(printed.splitlines()[0])[:3]

    images = TrainingImages(
        load_images(str(pictures), "train", "image"), Preparation(64, False, False, ImageLimits()), 0
    )
    pixels = images.__getitems__(range(24))["pixel_values"].float() / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(trainable_folder, subfolder="vae")
    with torch.no_grad():
        samples = torch.cat([vae.encode(pixels).latent_dist.sample() for _ in range(20)])
    assert scale == pytest.approx(samples.std().item(), rel=0.01)
    assert lowest < scale < highest
    assert "does not agree" in printed and "24 images" in printed


def test_a_folder_with_the_right_scale_agrees(trainable_folder, pictures, tmp_path, capsys):
    options = ("--images", pictures, "--resolution", 64)
    assert run_here(SCRIPT, "--vae", trainable_folder / "vae", *options) == 0
    scale = numbers(capsys.readouterr().out)[0]
    vae = AutoencoderKL.from_pretrained(trainable_folder, subfolder="vae")
    vae.register_to_config(scaling_factor=1 / scale)
    vae.save_pretrained(tmp_path / "vae")
    assert run_here(SCRIPT, "--vae", tmp_path / "vae", *options) == 0
    assert "which agrees" in capsys.readouterr().out


def test_the_interval_has_the_stated_coverage():
    random, covered = np.random.default_rng(0), 0
    for trial in range(100):
        means, deviations = random.normal(0, 0.5, 50), random.gamma(4, 0.5, 50)
        truth = np.sqrt(0.5**2 + (4 * 0.25 + (4 * 0.5) ** 2))  # mean square of gamma(4, 0.5)
        scale = pooled_scale(np.stack([means, means**2 + deviations**2], axis=1), trial)
        covered += scale.lowest <= truth <= scale.highest
    assert 85 <= covered <= 100


def test_wrong_input(trainable_folder, pictures, tmp_path, capsys):
    for arguments, message in (
        (("--vae", tmp_path, "--images", pictures), "there is no autoencoder"),
        (("--vae", trainable_folder, "--images", pictures, "--resolution", 63), "multiple of 8"),
        (("--vae", trainable_folder, "--images", tmp_path / "missing"), "missing"),
    ):
        assert run_here(SCRIPT, *arguments) == 2
        assert message in capsys.readouterr().err
