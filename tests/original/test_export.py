"""The way back to the original's files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffusers_ccld import CCLDPipeline, CCLDUNet2DConditionModel, default_model
from diffusers_ccld.cli import main
from diffusers_ccld.original.tensors.autoencoder import read_autoencoder_yaml
from support import original_files
from support.networks import STOCK
from support.original_files import small_vq_state

SCRIPT = Path(__file__).parents[2] / "conversion" / "export_ckpt.py"


def export(*arguments):
    return main(["export", *map(str, arguments)])


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def assert_equal_to_the_bit(path, expected):
    state = torch.load(path, weights_only=True)
    state = state.get("state_dict", state)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


@pytest.mark.parametrize(
    "size",
    [
        "tiny-64",
        "student-105m",
        pytest.param("danbooru-128", marks=pytest.mark.slow),
        pytest.param("teacher-1.2b", marks=pytest.mark.slow),
    ],
)
def test_a_unet_comes_back_to_the_bit(size, originals, tmp_path):
    unet = original_files.write_unet(tmp_path / "unet.ckpt", size)
    files = ("--unet", unet, "--autoencoder", originals.autoencoder)
    scale = original_files.SCALES[size]
    assert convert(*files, "--autoencoder-scale", scale, "--output", tmp_path / "out") == 0
    assert export(tmp_path / "out", "--unet", tmp_path / "back.ckpt") == 0
    assert_equal_to_the_bit(tmp_path / "back.ckpt", torch.load(unet, weights_only=True))


@pytest.mark.parametrize("kind", ["kl-f8-tiny", "kl-f8"])
def test_a_kl_autoencoder_comes_back_to_the_bit(kind, tmp_path):
    source = original_files.write_autoencoder(tmp_path / "ae.ckpt", kind)
    config = ("--autoencoder-config", tmp_path / "ae.yaml")
    options = ("--autoencoder-scale", "2.55", "--output", tmp_path / "out")
    assert convert("--autoencoder", source, *config, *options) == 0
    assert export(tmp_path / "out", "--autoencoder", tmp_path / "back" / "ae.ckpt") == 0
    assert_equal_to_the_bit(tmp_path / "back" / "ae.ckpt", original_files.autoencoder_state(kind, with_loss=False))
    written, published = (read_autoencoder_yaml(tmp_path / name) for name in ("back/ae.yaml", "ae.yaml"))
    assert written[0] is published[0] is AutoencoderKL
    assert {name: written[1][name] for name in ("embed_dim", "ddconfig")} == published[1]
    assert yaml.safe_load((tmp_path / "back" / "ae.yaml").read_text())["model"]["params"]["lossconfig"]


def test_a_vq_autoencoder_comes_back_and_converts_again(tmp_path):
    torch.save(small_vq_state(), tmp_path / "vq.ckpt")
    scale = ("--autoencoder-scale", "1.5")
    assert convert("--autoencoder", tmp_path / "vq.ckpt", *scale, "--output", tmp_path / "out") == 0
    (tmp_path / "back.yaml").write_text("old")
    assert export(tmp_path / "out", "--autoencoder", tmp_path / "back.ckpt", "--overwrite") == 0
    assert_equal_to_the_bit(tmp_path / "back.ckpt", small_vq_state())
    again = ("--autoencoder-config", tmp_path / "back.yaml", *scale, "--output", tmp_path / "again")
    assert convert("--autoencoder", tmp_path / "back.ckpt", *again) == 0


def test_the_script_exports_what_was_changed(pipeline_folder, tmp_path):
    pipe = CCLDPipeline.from_pretrained(pipeline_folder)
    with torch.no_grad():
        pipe.unet.fourier.weight.add_(1)
    pipe.vae.register_to_config(scaling_factor=0.5)
    pipe.save_pretrained(tmp_path / "tuned")
    command = [sys.executable, SCRIPT, tmp_path / "tuned", "--unet", tmp_path / "unet.ckpt"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and f"wrote {tmp_path / 'unet.ckpt'}" in result.stdout
    state = torch.load(tmp_path / "unet.ckpt", weights_only=True)
    assert state["autoencoder_scale"] == 2 and torch.equal(state["timestep_embed.weight"], pipe.unet.fourier.weight)
    single = CCLDUNet2DConditionModel.from_single_file(tmp_path / "unet.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(single.parameters(), pipe.unet.parameters()))


def test_what_the_original_has_not_is_refused(pipeline_folder, tmp_path, capsys):
    stock = tmp_path / "stock"
    CCLDPipeline.from_pretrained(pipeline_folder, unet=UNet2DConditionModel(**STOCK)).save_pretrained(stock)
    out = tmp_path / "out.ckpt"
    (tmp_path / "old.yaml").touch()
    for arguments, message in (
        (
            (pipeline_folder, "--autoencoder", tmp_path / "old.ckpt"),
            "old.yaml exists. Give another name, or --overwrite",
        ),
        ((pipeline_folder,), "give --unet or --autoencoder"),
        ((tmp_path, "--unet", out), "the vae cannot be loaded"),
        ((stock, "--unet", out), "does not have UNet2DConditionModel"),
        ((default_model(), "--unet", out), "it has 3 levels, not 4"),
        ((default_model(), "--autoencoder", out), "and 32 groups"),
        (
            (pipeline_folder, "--unet", pipeline_folder / "model_index.json"),
            "exists. Give another name, or --overwrite",
        ),
        ((pipeline_folder, "--unet", out, "--autoencoder", out), "need different names"),
        ((pipeline_folder, "--autoencoder", tmp_path / "out.yaml"), "need different names"),
    ):
        assert export(*arguments) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
