"""`training/distill_decoder.py`: its student learns, resumes to the bit, and decodes in a pipeline."""

import shutil

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.training.log import read_log
from support.scripts import run_here

SCRIPT = "training/distill_decoder.py"
RESULT = "tiny_vae/diffusion_pytorch_model.safetensors"


def distill(model, output, *arguments, steps):
    options = ("--model", model, "--output_dir", output, "--max_steps", steps, "--channels", 8)
    options = (*options, "--train_batch_size", 4, "--logging_steps", 1, "--dataloader_num_workers", 0)
    options = (*options, "--report_to", "none", "--mixed_precision", "no", "--learning_rate", 3e-3, "--demo_every", 2)
    return run_here(SCRIPT, *options, *arguments)


@pytest.fixture(scope="module")
def cache(trainable_folder, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "cache"
    options = ("--model", trainable_folder, "--dataset", pictures, "--output", folder, "--dataloader_num_workers", 0)
    assert run_here("training/precompute.py", *options) == 0
    return folder


@pytest.fixture(scope="module")
def whole(trainable_folder, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    options = ("--cache", cache, "--checkpointing_steps", 8, "--checkpoints_total_limit", 0)
    assert distill(trainable_folder, folder, *options, steps=40) == 0
    return folder


def test_it_learns_to_decode_and_to_encode(whole):
    log = read_log(whole / "metrics.jsonl")
    assert sum(entry["loss"] for entry in log[-4:]) < 0.8 * sum(entry["loss"] for entry in log[:4])
    assert log[-1]["encoder"] < log[0]["encoder"]
    assert (whole / "demos" / "step-00000002.png").is_file()
    card = (whole / "tiny_vae" / "README.md").read_text()
    assert "pipe.vae = AutoencoderTiny.from_pretrained" in card


def test_a_run_goes_on_to_the_bit(whole, trainable_folder, cache, tmp_path):
    shutil.copytree(whole / "checkpoints" / "step-00000032", tmp_path / "checkpoints" / "step-00000032")
    assert distill(trainable_folder, tmp_path, "--cache", cache, "--resume", "latest", steps=40) == 0
    expected, found = load_file(whole / RESULT), load_file(tmp_path / RESULT)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_images_give_what_their_cache_gives(whole, trainable_folder, cache, pictures, tmp_path):
    for name, source in (("cached", ("--cache", cache)), ("read", ("--dataset", pictures))):
        assert distill(trainable_folder, tmp_path / name, *source, steps=2) == 0
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("cached", "read")]
    assert [entry["loss"] for entry in logs[0]] == pytest.approx([entry["loss"] for entry in logs[1]], rel=1e-3)


def test_a_pipeline_decodes_with_it(whole, trainable_folder, tmp_path):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae = AutoencoderTiny.from_pretrained(whole / "tiny_vae")
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    options = {"num_inference_steps": 2, "output_type": "np"}
    image = pipe("a red fox", generator=generators[0], **options).images
    assert image.shape == (1, 32, 32, 3)
    pipe.save_pretrained(tmp_path)
    loaded = CCLDPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.vae, AutoencoderTiny)
    assert (loaded("a red fox", generator=generators[1], **options).images == image).all()


@pytest.mark.parametrize("options", [("--channels", 0), ("--pixel_weight", -1), ("--cache", "x", "--streaming", "1")])
def test_impossible_settings_are_refused(trainable_folder, tmp_path, options, capsys):
    assert distill(trainable_folder, tmp_path / "run", *options, steps=1) == 2
    assert not (tmp_path / "run").exists()
