"""`training/train_autoencoder.py`: what it computes, what it writes, that it can be interrupted, what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from diffusers_ccld import CLOOBVisionModelWithProjection
from diffusers_ccld.training.log import read_log
from diffusers_ccld.training.reconstruction import Reconstructing
from support.scripts import run, run_here

SCRIPT = "training/train_autoencoder.py"
TERMS = {"pixel": 1.0, "pooled": 1.0, "chroma": 0.5, "texture": 2.0, "kl": 1e-3}
CONFIG = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 32,
}


@pytest.fixture(scope="module")
def vae_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "vae.json"
    path.write_text(json.dumps(CONFIG))
    return path


def train(output, pictures, *arguments, steps=6):
    weights = [part for name, weight in TERMS.items() for part in (f"--{name}_weight", weight)]
    options = ("--train_batch_size", 4, "--logging_steps", 1, "--dataloader_num_workers", 0, "--report_to", "none")
    options = (*options, "--mixed_precision", "no")
    options = (*options, "--max_steps", steps, "--learning_rate", 2e-3, "--demo_every", 0, *weights)
    return run_here(SCRIPT, "--dataset", pictures, "--output_dir", output, *options, *arguments)


def test_it_learns_and_gives_an_autoencoder_of_unit_variance(vae_config, pictures, tmp_path):
    assert train(tmp_path, pictures, "--vae_config", vae_config, "--demo_every", 100, steps=100) == 0
    log = read_log(tmp_path / "metrics.jsonl")
    assert log[-1]["loss"] < 0.7 * log[0]["loss"] and log[-1]["psnr"] > log[0]["psnr"] + 2
    for entry in log:
        assert entry["loss"] == pytest.approx(sum(entry[name] * weight for name, weight in TERMS.items()), rel=1e-5)

    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert vae.config.block_out_channels == CONFIG["block_out_channels"]
    shown = Image.open(tmp_path / "demos" / "step-00000100.png")
    assert shown.width == 8 * 32 and shown.height == 2 * 32
    # The grid has pictures above what the averaged weights make of them: their latents are those of the training set.
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1).float() / 127.5 - 1
    posterior = vae.encode(torch.stack(pixels[:, :32].split(32, dim=2))).latent_dist
    latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
    assert 0.7 < (latents * vae.config.scaling_factor).std() < 1.4
    card = (tmp_path / "vae" / "README.md").read_text()
    assert (tmp_path / "vae" / "losses.png").is_file() and "](losses.png)" in card
    assert "AutoencoderKL.from_pretrained" in card and f"{vae.config.scaling_factor:.6g}, measured on 24" in card
    assert str(tmp_path) not in card and str(pictures) not in card


@pytest.fixture(scope="module")
def whole(vae_config, pictures, tmp_path_factory):
    """Six steps, three of them with a discriminator."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    options = ("--vae_config", vae_config, "--discriminator_start", 3, "--discriminator_channels", 8)
    assert train(folder, pictures, *options, "--checkpointing_steps", 4, "--checkpoints_total_limit", 0) == 0
    return folder


def test_the_discriminator_comes_in_at_its_step(whole):
    log = read_log(whole / "metrics.jsonl")
    assert ["discriminator" in entry for entry in log] == [False] * 3 + [True] * 3
    checkpoints = [load_file(whole / "checkpoints" / f"step-0000000{step}" / "model_1.safetensors") for step in (4, 6)]
    assert any(not torch.equal(checkpoints[0][name], checkpoints[1][name]) for name in checkpoints[0])


def test_an_interrupted_run_goes_on_to_the_bit(whole, vae_config, pictures, tmp_path):
    shutil.copytree(whole / "checkpoints" / "step-00000004", tmp_path / "checkpoints" / "step-00000004")
    options = ("--vae_config", vae_config, "--discriminator_start", 3, "--discriminator_channels", 8)
    assert train(tmp_path, pictures, *options, "--resume", "latest") == 0
    name = "vae/diffusion_pytorch_model.safetensors"
    expected, found = load_file(whole / name), load_file(tmp_path / name)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_two_processes_learn_what_one_does(vae_config, pictures, tmp_path):
    assert train(tmp_path / "one", pictures, "--vae_config", vae_config, steps=3) == 0
    options = ("--dataset", pictures, "--output_dir", tmp_path / "two", "--vae_config", vae_config)
    weights = [part for name, weight in TERMS.items() for part in (f"--{name}_weight", weight)]
    options = (*options, "--train_batch_size", 2, "--logging_steps", 1, "--dataloader_num_workers", 0, *weights)
    options = (*options, "--report_to", "none", "--max_steps", 3, "--learning_rate", 2e-3, "--demo_every", 0)
    options = (*options, "--mixed_precision", "no")
    run(SCRIPT, *options, launch="ddp")
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for key in ("loss", "texture", "grad_norm"):
        assert [entry[key] for entry in logs[1]] == pytest.approx([entry[key] for entry in logs[0]], rel=1e-3)


def test_batches_are_accumulated(vae_config, pictures, tmp_path):
    logs = []
    for name, size, count in (("one", 4, 1), ("two", 2, 2)):
        options = ("--vae_config", vae_config, "--train_batch_size", size, "--gradient_accumulation_steps", count)
        assert train(tmp_path / name, pictures, *options, steps=2) == 0
        logs.append(read_log(tmp_path / name / "metrics.jsonl"))
    for key in ("loss", "grad_norm"):
        assert [entry[key] for entry in logs[1]] == pytest.approx([entry[key] for entry in logs[0]], rel=1e-3)


def test_the_discriminator_pulls_as_hard_as_it_is_told(vae_config, pictures, tmp_path):
    """In the first step, the deception changes the gradient; with weight 0 it does not."""
    norms = {}
    for weight in (0, 0.5):
        options = ("--vae_config", vae_config, "--discriminator_start", 0, "--discriminator_weight", weight)
        assert train(tmp_path / str(weight), pictures, *options, steps=1) == 0
        norms[weight] = read_log(tmp_path / str(weight) / "metrics.jsonl")[0]["grad_norm"]
    assert train(tmp_path / "none", pictures, "--vae_config", vae_config, steps=1) == 0
    alone = read_log(tmp_path / "none" / "metrics.jsonl")[0]["grad_norm"]
    assert norms[0] == pytest.approx(alone, rel=1e-5)
    assert abs(norms[0.5] / alone - 1) > 0.01


def test_a_discriminator_of_details_warms_up_at_its_own_learning_rate(vae_config, pictures, tmp_path):
    """At the first of four steps of warm-up, it pulls with a fifth of its weight; its own rate moves it further."""
    norms, moved = {}, {}
    kind = ("--vae_config", vae_config, "--discriminator_kind", "detail", "--discriminator_start", 0)
    for name, weight, *options in (
        ("plain", 0.5),
        ("warming", 2.5, "--discriminator_warmup_steps", 4),
        ("fast", 0.5, "--discriminator_learning_rate", 2e-2),
    ):
        options = (*kind, "--discriminator_channels", 8, "--discriminator_weight", weight, *options)
        assert train(tmp_path / name, pictures, *options, "--checkpointing_steps", 1, steps=2) == 0
        norms[name] = [entry["grad_norm"] for entry in read_log(tmp_path / name / "metrics.jsonl")]
        first, second = (
            load_file(tmp_path / name / "checkpoints" / f"step-0000000{step}" / "model_1.safetensors")
            for step in (1, 2)
        )
        moved[name] = (first["body.1.weight"] - second["body.1.weight"]).abs().max()
    assert norms["warming"][0] == pytest.approx(norms["plain"][0], rel=1e-6)
    assert norms["warming"][1] > 1.05 * norms["plain"][1]
    assert moved["fast"] > 5 * moved["plain"]


def test_an_autoencoder_is_trained_further(whole, trainable_folder, pictures, tmp_path):
    before = AutoencoderKL.from_pretrained(trainable_folder, subfolder="vae")
    assert train(tmp_path, pictures, "--model", trainable_folder, "--resolution", 32, steps=2) == 0
    after = AutoencoderKL.from_pretrained(tmp_path / "vae")
    name = "decoder.conv_out.weight"
    difference = (after.state_dict()[name] - before.state_dict()[name]).abs().max()
    assert 0 < difference < 0.01
    assert after.config.sample_size == 32


def test_a_perceptual_network_has_its_say(vae_config, pictures, tmp_path):
    from torchvision.models.vgg import cfgs, make_layers

    weights = {f"features.{name}": tensor for name, tensor in make_layers(cfgs["D"]).state_dict().items()}
    torch.save(weights, tmp_path / "vgg16.pth")
    options = ("--vae_config", vae_config, "--perceptual_network", tmp_path / "vgg16.pth", "--perceptual_weight", 0.3)
    assert train(tmp_path / "run", pictures, *options, steps=1) == 0
    entry = read_log(tmp_path / "run" / "metrics.jsonl")[0]
    expected = sum(entry[name] * weight for name, weight in (TERMS | {"perceptual": 0.3}).items())
    assert entry["perceptual"] > 0 and entry["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_decoder_is_trained_alone(trainable_folder, pictures, tmp_path):
    before = AutoencoderKL.from_pretrained(trainable_folder, subfolder="vae")
    options = ("--model", trainable_folder, "--resolution", 32, "--trained_part", "decoder", "--latent_noise", 0.5)
    assert train(tmp_path, pictures, *options, "--discriminator_start", 1, steps=3) == 0
    after = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert after.config.scaling_factor == before.config.scaling_factor == 2.0
    changed = {
        name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert {name.split(".")[0] for name in changed} == {"decoder", "post_quant_conv"}
    assert "that of the model it began from" in (tmp_path / "vae" / "README.md").read_text()


def test_noise_in_the_latents_reaches_the_decoder(trainable_folder, pictures, tmp_path):
    entries = {}
    for noise in (0, 0.01, 3):
        options = ("--model", trainable_folder, "--resolution", 32, "--latent_noise", noise)
        assert train(tmp_path / str(noise), pictures, *options, steps=1) == 0
        entries[noise] = read_log(tmp_path / str(noise) / "metrics.jsonl")[0]
    assert entries[0.01]["kl"] == entries[0]["kl"]
    changes = [abs(entries[noise]["pixel"] / entries[0]["pixel"] - 1) for noise in (0.01, 3)]
    assert 0 < changes[0] < changes[1]


def test_averaged_latents_are_decoded_to_a_smaller_picture():
    vae = AutoencoderKL(**CONFIG).eval()
    shown, noise = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        made = Reconstructing(vae)(shown, noise, scale=2).pictures
        posterior = vae.encode(shown).latent_dist
        means = (posterior.mean + posterior.std * noise).unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean(dim=(-1, -3))
        torch.testing.assert_close(made, vae.decode(means).sample)
    assert made.shape == (2, 3, 32, 32)


def assert_it_resumes_to_the_bit(folder, pictures, *options):
    """Compares four steps with two and two; returns the log of the four."""
    assert train(folder / "whole", pictures, *options, "--checkpointing_steps", 2, steps=4) == 0
    shutil.copytree(*(folder / run / "checkpoints" / "step-00000002" for run in ("whole", "parts")))
    assert train(folder / "parts", pictures, *options, "--resume", "latest", steps=4) == 0
    name = "vae/diffusion_pytorch_model.safetensors"
    expected, found = load_file(folder / "whole" / name), load_file(folder / "parts" / name)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    return read_log(folder / "whole" / "metrics.jsonl")


def test_scale_equivariance_resumes_to_the_bit(vae_config, pictures, tmp_path):
    options = ("--vae_config", vae_config, "--resolution", 64, "--scale_equivariance", 0.5, "--discriminator_start", 0)
    log = assert_it_resumes_to_the_bit(tmp_path, pictures, *options)
    assert {"discriminator" in entry for entry in log} == {True, False}


def test_a_projected_discriminator_resumes_to_the_bit(vae_config, trainable_folder, pictures, tmp_path):
    options = ("--vae_config", vae_config, "--feature_network", trainable_folder, "--discriminator_kind", "projected")
    log = assert_it_resumes_to_the_bit(
        tmp_path, pictures, *options, "--discriminator_start", 0, "--discriminator_channels", 8
    )
    assert all(entry["discriminator"] > 0 for entry in log)


def test_a_projected_discriminator_does_not_resume_with_another_encoder(
    vae_config, trainable_folder, pictures, tmp_path, capsys
):
    other = shutil.copytree(trainable_folder, tmp_path / "other")
    image_encoder = CLOOBVisionModelWithProjection.from_pretrained(other / "image_encoder")
    image_encoder.visual_projection.weight.data.mul_(2)
    image_encoder.save_pretrained(other / "image_encoder")
    options = ("--vae_config", vae_config, "--discriminator_kind", "projected", "--discriminator_start", 0)
    first = ("--feature_network", trainable_folder, "--checkpointing_steps", 1)
    assert train(tmp_path / "run", pictures, *options, *first, steps=1) == 0
    arguments = (*options, "--feature_network", other, "--resume", "latest")
    assert train(tmp_path / "run", pictures, *arguments, steps=2) != 0
    assert "critic" in capsys.readouterr().err


def test_distances_in_cloobs_features_have_their_weights(vae_config, trainable_folder, pictures, tmp_path):
    options = ("--vae_config", vae_config, "--feature_network", trainable_folder)
    options += ("--feature_weight", 0.3, "--style_weight", 0.2)
    assert train(tmp_path / "run", pictures, *options, steps=1) == 0
    entry = read_log(tmp_path / "run" / "metrics.jsonl")[0]
    expected = sum(entry[name] * weight for name, weight in (TERMS | {"feature": 0.3, "style": 0.2}).items())
    assert min(entry["feature"], entry["style"]) > 0 and entry["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_dry_run_writes_nothing(vae_config, pictures, tmp_path, capsys):
    assert train(tmp_path / "run", pictures, "--vae_config", vae_config, "--dry_run", "yes") == 0
    assert "hours for all" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give either model"),
        (("--model", "a", "--vae_config", "b"), "Give either model"),
        (("--vae_config", "nowhere.json"), "the file does not exist"),
        (("--vae_config", "{config}", "--resolution", 30), "multiple of 4"),
        (("--vae_config", "{config}", "--resolution", 16), "at least 32"),
        (("--vae_config", "{config}", "--kl_weight", -1), "must not be negative"),
        (("--vae_config", "{config}", "--latent_noise", -0.1), "must not be negative"),
        (("--vae_config", "{config}", "--scale_equivariance", 1.5), "from 0 to 1"),
        (("--vae_config", "{config}", "--scale_equivariance", 0.5), "at least 64"),
        (("--vae_config", "{config}", "--trained_part", "decoder"), "needs a model"),
        (("--vae_config", "{config}", "--feature_network", "nowhere"), "nowhere"),
        (("--vae_config", "{config}", "--perceptual_network", "nowhere.pth"), "nowhere.pth is not a file"),
        (("--vae_config", "{config}", "--discriminator_channels", 12), "multiple of 8"),
        (("--vae_config", "{config}", "--discriminator_kind", "projected"), "projected needs a feature_network"),
        (("--vae_config", "{config}", "--style_weight", 1), "style_weight needs a feature_network"),
        (("--vae_config", "{config}", "--discriminator_warmup_steps", -1), "must not be negative"),
        (("--vae_config", "{config}", "--discriminator_learning_rate", 0), "must be positive"),
        (("--vae_config", "{wrong}"), "unknown settings: widths"),
        (("--vae_config", "{config}", "--perceptual_network", "{wrong}"), "cannot be read"),
        (("--vae_config", "{config}", "--discriminator_start", 0, "--mixed_precision", "fp16"), "not in fp16"),
    ],
)
def test_what_does_not_go_is_refused_before_any_work(arguments, message, vae_config, pictures, tmp_path, capsys):
    (tmp_path / "wrong.json").write_text('{"widths": [8]}')
    paths = {"{config}": vae_config, "{wrong}": tmp_path / "wrong.json"}
    assert train(tmp_path / "run", pictures, *(paths.get(argument, argument) for argument in arguments)) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
