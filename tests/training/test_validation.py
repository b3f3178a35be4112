"""Validation in finetune.py, distill.py and train_autoencoder.py: what it measures, and that it changes nothing."""

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.data.encoding import encode_images
from diffusers_ccld.training.config import ValidationConfig
from diffusers_ccld.training.inputs import TrainingTimes, draw_for_training, make_inputs
from diffusers_ccld.training.log import read_log
from diffusers_ccld.training.validation import VALIDATION_SEED, load_held_out_images
from support.picture_files import write_pictures
from support.scripts import run_here

QUICK = ("--report_to", "none", "--demo_every", 0, "--logging_steps", 1, "--dataloader_num_workers", 0)
QUICK = (*QUICK, "--mixed_precision", "no", "--train_batch_size", 4)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """A folder of ten pictures, one of which is broken."""
    folder = tmp_path_factory.mktemp("held-out")
    write_pictures(folder, 9)
    (folder / "a-broken.png").write_bytes(b"not a picture")
    return folder


def finetune(model, output, *arguments):
    return run_here("training/finetune.py", "--model", model, "--output_dir", output, *QUICK, *arguments)


def validations(folder):
    return [entry for entry in read_log(folder / "metrics.jsonl") if "validation_loss" in entry]


@pytest.fixture(scope="module")
def validated(trainable_folder, pictures, held_out, tmp_path_factory):
    """A run of four steps, validated after the first, second and fourth."""
    folder = tmp_path_factory.mktemp("validated") / "run"
    options = ("--dataset", pictures, "--validation_dataset", held_out, "--validation_every", 2)
    options = (*options, "--max_steps", 4, "--checkpointing_steps", 2, "--learning_rate", 1e-3)
    assert finetune(trainable_folder, folder, *options) == 0
    return folder


@torch.no_grad()
def test_it_is_the_loss_of_the_averaged_network_at_fixed_numbers(validated, held_out):
    assert [entry["step"] for entry in validations(validated)] == [1, 2, 4]
    pipe = CCLDPipeline.from_pretrained(validated / "pipeline")  # has the averaged weights
    (pixels,) = (
        load_held_out_images(
            ValidationConfig(output_dir="x", validation_dataset=str(held_out), train_batch_size=100), "other", 32
        ),
    )[0]
    assert pixels.shape == (9, 3, 32, 32)
    encoded = encode_images(pipe.vae, pipe.image_encoder, pipe.feature_extractor, pixels)
    draws = draw_for_training(VALIDATION_SEED, TrainingTimes(VALIDATION_SEED), range(9), (4, 4, 4), 0.2)
    inputs = make_inputs(encoded, draws, pipe.scheduler, pipe.vae.config.scaling_factor)
    predicted = pipe.unet(inputs.noisy_latents, inputs.timesteps, inputs.condition).sample
    losses = (predicted - inputs.target).square().mean(dim=(1, 2, 3))
    last = validations(validated)[-1]
    assert last["validation_loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    early = losses[draws.t < 0.25]
    assert last["validation_loss_t0"] == pytest.approx(early.mean().item(), rel=1e-4)


def test_the_card_and_the_plot_show_it(validated, held_out):
    card = (validated / "pipeline" / "README.md").read_text()
    value = validations(validated)[-1]["validation_loss"]
    assert f"after step 4: loss: {value:.4g}; loss at t \\< 1/4" in card
    assert str(held_out) not in card


def test_it_changes_nothing_and_resumes(validated, trainable_folder, pictures, held_out, tmp_path):
    options = ("--dataset", pictures, "--max_steps", 4, "--checkpointing_steps", 2, "--learning_rate", 1e-3)
    assert finetune(trainable_folder, tmp_path / "without", *options) == 0
    options = (*options, "--validation_dataset", held_out, "--validation_every", 2)
    checkpoints = validated / "checkpoints"
    copy = tmp_path / "resumed" / "checkpoints"
    copy.mkdir(parents=True)
    (copy / "step-00000002").symlink_to(checkpoints / "step-00000002")
    assert finetune(trainable_folder, tmp_path / "resumed", *options, "--resume", "latest") == 0
    expected = load_file(validated / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    for name in ("without", "resumed"):
        found = load_file(tmp_path / name / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
    assert validations(tmp_path / "resumed") == validations(validated)[-1:]


def test_curves_compare_between_seeds_and_with_a_cache(trainable_folder, pictures, held_out, tmp_path):
    options = ("--model", trainable_folder, "--dataset", pictures, "--dataloader_num_workers", 0)
    assert run_here("training/precompute.py", *options, "--output", tmp_path / "cache") == 0
    found = {}
    for name, *options in (
        ("pictures", "--dataset", pictures),
        ("seed", "--dataset", pictures, "--seed", 5),
        ("cache", "--cache", tmp_path / "cache"),
    ):
        options = (*options, "--validation_dataset", held_out, "--max_steps", 1, "--learning_rate", 1e-9)
        assert finetune(trainable_folder, tmp_path / name, *options) == 0
        (found[name],) = validations(tmp_path / name)
    for name in ("seed", "cache"):
        assert found[name] == pytest.approx(found["pictures"], rel=1e-5)


def test_a_student_is_validated_against_its_teacher(trainable_folder, pictures, held_out, tmp_path):
    options = ("--teacher", trainable_folder, "--model", trainable_folder, "--dataset", pictures, *QUICK)
    options = (*options, "--validation_dataset", held_out, "--max_steps", 2, "--learning_rate", 1e-9)
    options = (*options, "--task_weight", 0)
    assert run_here("training/distill.py", *options, "--output_dir", tmp_path) == 0
    for entry in validations(tmp_path):
        assert entry["validation_loss"] == pytest.approx(0, abs=1e-6)  # the student is the teacher


def test_an_autoencoder_is_measured_in_decibels(trainable_folder, pictures, held_out, tmp_path):
    options = ("--model", trainable_folder, "--dataset", pictures, "--resolution", 32, *QUICK)
    options = (*options, "--feature_network", trainable_folder, "--validation_dataset", held_out)
    options = (*options, "--validation_every", 1, "--max_steps", 2, "--output_dir", tmp_path)
    assert run_here("training/train_autoencoder.py", *options) == 0
    entries = [entry for entry in read_log(tmp_path / "metrics.jsonl") if "validation_psnr" in entry]
    assert [entry["step"] for entry in entries] == [1, 2] and entries[-1]["validation_frechet"] > 0
    config = ValidationConfig(output_dir="x", validation_dataset=str(held_out))
    pictures = torch.cat(load_held_out_images(config, "other", 32)).float() / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    with torch.no_grad():
        made = vae.decode(vae.encode(pictures).latent_dist.mean).sample.clamp(-1, 1)
    errors = (made - pictures).square().mean(dim=(1, 2, 3))
    assert entries[-1]["validation_psnr"] == pytest.approx((10 * torch.log10(4 / errors)).mean().item(), abs=1e-3)
    assert "psnr" in (tmp_path / "vae" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--validation_every", 5), "needs one of them"),
        (("--validation_dataset", "nowhere.txt", "--validation_every", 0), "must be at least 1"),
        (("--validation_dataset", "/nowhere"), "no such folder"),
        (("--validation_dataset", "{pictures}"), "validation needs other images"),
        (("--validation_dataset", "{broken}"), "none of the images for validation can be read"),
    ],
)
def test_what_cannot_be_validated_is_refused(arguments, message, trainable_folder, pictures, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"not a picture")
    places = {"{pictures}": pictures, "{broken}": broken}
    arguments = [places.get(argument, argument) for argument in arguments]
    assert finetune(trainable_folder, tmp_path / "run", "--dataset", pictures, *arguments) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
