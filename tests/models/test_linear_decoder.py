import json
import shutil

import pytest
import torch

from diffusers_ccld import CCLDGuidedPipeline, LinearDecoder
from support.scripts import run_here


def test_a_linear_map_is_found_again():
    truth, fitted = LinearDecoder(2, 4, 3), LinearDecoder(2, 4, 3)
    latents = torch.randn(20, 2, 6, 5)
    pixels = truth(latents).detach()
    assert pixels.shape == (20, 3, 24, 20)
    fitted.fit(latents, pixels, ridge=1e-9)
    assert fitted.explained_share(latents, pixels) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(fitted(latents), pixels, atol=1e-4, rtol=1e-4)


def test_the_share_that_it_explains_is_that_of_the_variance():
    latents = torch.randn(50, 1, 4, 4)
    pixels = latents.expand(-1, 3, -1, -1) + torch.randn(50, 3, 4, 4)
    decoder = LinearDecoder(1, 1, 1)
    decoder.fit(latents, pixels)
    assert decoder.explained_share(latents, pixels) == pytest.approx(0.5, abs=0.06)


def test_too_few_latents_are_refused():
    with pytest.raises(ValueError, match=r"4 latents cannot determine 37 coefficients"):
        LinearDecoder(4, 8, 3).fit(torch.randn(1, 4, 2, 2), torch.randn(1, 3, 16, 16))


def test_the_script_adds_one_to_a_model(trainable_folder, pictures, tmp_path, capsys):
    shutil.copytree(trainable_folder, tmp_path / "model")
    options = ("--model", tmp_path / "model", "--images", pictures, "--num-images", 20)
    assert run_here("training/fit_linear_decoder.py", *options) == 0
    assert "of 4 images that were left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["linear_decoder"][1] == "LinearDecoder"
    guided = CCLDGuidedPipeline.from_pretrained(tmp_path / "model")
    guided.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "guidance_scale": 0.0, "fast": True, "output_type": "latent"}
    assert guided("a fox", **options).images.isfinite().all()
