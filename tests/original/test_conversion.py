"""The original's files through the real command line, and the result in a fresh process."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusers_ccld import CCLDUNet2DConditionModel, CLOOBModel
from diffusers_ccld.inference.names import PRECISIONS
from diffusers_ccld.original.folder import COMPONENTS
from support import original_files
from support.converter import SCRIPT, convert, run_script


def all_three(originals):
    return (
        *("--unet", originals.unet),
        *("--cloob", originals.cloob, "--cloob-config", originals.cloob_config),
        *("--autoencoder", originals.autoencoder, "--autoencoder-config", originals.autoencoder_config),
    )


# What a user does with the result, in a process of its own: plain diffusers after one import.
SAMPLE = """
import sys
import numpy as np, torch, diffusers_ccld
from diffusers import DiffusionPipeline
from PIL import Image

folder, noise, image, output = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder)
noise, text = torch.from_numpy(np.load(noise)), "A sunset landscape painting, oil on canvas"
image = Image.open(image)
results = {}
for key, algorithm, conditions in (
    ("text_plms", "plms", [(text, 3.0)]),
    ("text_ddim", "ddim", [(text, 3.0)]),
    ("text_plms2", "plms2", [(text, 3.0)]),
    ("mixed_iplms", "iplms", [(text, 2.0), (image, 1.5)]),
    ("negative_ddim", "ddim", [(text, 3.0), ("fog", -1.0)]),
    ("uncond_ddim", "ddim", []),
):
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, algorithm_type=algorithm)
    arguments = dict(conditions=[conditions] * 2, latents=noise, num_inference_steps=6)
    results[key] = pipe(**arguments, output_type="latent").images.numpy()
    if key == "text_plms":
        results["text_plms_image"] = np.stack([np.asarray(i) for i in pipe(**arguments).images])[:, ::4, ::4]
results["text_embed"] = pipe.encode_prompt(text)[0].detach().numpy()
results["text_embed_2"] = pipe.encode_prompt("fog")[0].detach().numpy()
results["image_embed"] = pipe.encode_image(image).detach().numpy()
np.savez(output, **results)
"""


def sample_in_fresh_process(folder, tmp_path):
    np.save(tmp_path / "noise.npy", original_files.inputs("e2e.noise", (2, 4, 32, 32)).numpy())
    image = original_files.REFERENCE / "e2e_prompt_image.png"
    subprocess.run(
        [sys.executable, "-c", SAMPLE, folder, tmp_path / "noise.npy", image, tmp_path / "out.npz"], check=True
    )
    with np.load(tmp_path / "out.npz") as file:
        return dict(file)


def test_the_script_converts_and_reports(originals, tmp_path):
    result = run_script(*all_three(originals), "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "check of pipeline: loaded and run" in result.stdout
    assert result.stdout.splitlines()[-1] == f'To sample it: ccld sample "PROMPT" --model {tmp_path / "out"}'
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *COMPONENTS,
        "model_index.json",
        "conversion_report.json",
        "README.md",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["out"]

    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    assert report["components"]["unet"]["parameters"] == 15_560_716
    assert report["components"]["vae"]["ignored"][-1] == "loss.discriminator.main.0.weight"
    assert report["autoencoder_scale"]["value"] == pytest.approx(2.55)
    assert "autoencoder_scale" in report["autoencoder_scale"]["from"]
    assert len(report["sources"][str(originals.unet)]["sha256"]) == 64
    assert report["check"]["pipeline"] == "loaded and run"

    latents = sample_in_fresh_process(tmp_path / "out", tmp_path)
    assert latents["text_plms"].shape == (2, 4, 32, 32) and np.isfinite(latents["text_plms"]).all()


@pytest.mark.slow
def test_the_student_samples_as_the_original_did(tmp_path):
    unet = original_files.write_unet(tmp_path / "model_student.ckpt", "student-105m")
    cloob = original_files.write_cloob(tmp_path / "cloob.pkl", "vit-b-16")
    autoencoder = original_files.write_autoencoder(tmp_path / "ae_model.ckpt", "kl-f8", bare=True)
    result = run_script(
        *("--unet", unet, "--cloob", cloob, "--autoencoder", autoencoder, "--preset", "wikiart-mini"),
        *("--autoencoder-config", autoencoder.with_suffix(".yaml"), "--output", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr
    actual = sample_in_fresh_process(tmp_path / "out", tmp_path)
    expected = original_files.reference("e2e_student")
    for key in expected:
        if key == "text_plms_image":
            assert np.abs(actual[key].astype(int) - expected[key]).max() <= 2
        else:
            assert original_files.relative_error(actual[key], expected[key]) < 2e-3, key


def test_a_training_checkpoint_is_a_whole_pipeline(originals, pipeline_folder, tmp_path):
    arguments = ("--unet", originals.training, "--cloob-config", originals.cloob_config)
    assert convert(*arguments, "--output", tmp_path / "ema") == 0
    assert convert(*arguments, "--no-ema", "--output", tmp_path / "raw") == 0

    def weights(folder):
        return CCLDUNet2DConditionModel.from_pretrained(folder / "unet").state_dict()

    expected, ema, raw = weights(pipeline_folder), weights(tmp_path / "ema"), weights(tmp_path / "raw")
    assert all(torch.equal(ema[name], expected[name]) for name in expected)
    assert not any(torch.equal(raw[name], expected[name]) for name in expected)
    ours, theirs = (
        CLOOBModel.from_vision_text_pretrained(folder / "image_encoder", folder / "text_encoder").state_dict()
        for folder in (tmp_path / "ema", pipeline_folder)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    report = json.loads((tmp_path / "ema" / "conversion_report.json").read_text())
    ignored = report["components"]["unet"]["ignored"]
    assert {"optimizer_states", "scale_factor", "model.net.0.main.0.weight"} <= set(ignored)


def test_parts_converted_one_by_one_make_a_pipeline(originals, pipeline_folder, tmp_path):
    output = tmp_path / "out"
    unet = originals.unet
    assert convert("--unet", unet, "--output", output) == 0
    assert sorted(p.name for p in output.iterdir()) == ["README.md", "conversion_report.json", "scheduler", "unet"]
    assert convert("--cloob", originals.cloob, "--cloob-config", originals.cloob_config, "--output", output) == 0
    assert not (output / "model_index.json").exists()
    assert convert("--autoencoder", originals.autoencoder, "--autoencoder-scale", "2.55", "--output", output) == 0
    index = (pipeline_folder / "model_index.json").read_text()
    assert (output / "model_index.json").read_text() == index
    report = json.loads((output / "conversion_report.json").read_text())
    assert set(report["components"]) == {"unet", "vae", "text_encoder", "image_encoder"}
    assert {Path(path).name for path in report["sources"]} == {"unet.ckpt", "cloob.pkl", "autoencoder.ckpt"}
    assert report["check"]["pipeline"] == "loaded and run"


def test_what_is_there_is_replaced_only_when_asked(originals, tmp_path, capsys):
    arguments = ("--unet", originals.unet, "--output", tmp_path / "out")
    assert convert(*arguments) == 0
    assert convert(*arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert convert(*arguments, "--overwrite") == 0


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision(originals, tmp_path, dtype):
    assert convert(*all_three(originals), "--dtype", dtype, "--output", tmp_path / "out") == 0
    for path in (tmp_path / "out").rglob("*.safetensors"):
        weights = load_file(path)
        frequencies = {name: weights.pop(name) for name in list(weights) if "fourier" in name}
        assert {weight.dtype for weight in weights.values()} == {getattr(torch, PRECISIONS[dtype])}
        assert {weight.dtype for weight in frequencies.values()} <= {torch.float32}  # they lose no digit


def test_a_part_that_does_not_fit_the_others_is_refused(originals, pipeline_folder, tmp_path, capsys):
    """Replacing one part of a pipeline checks the whole of it."""
    folder = tmp_path / "out"
    shutil.copytree(pipeline_folder, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    state = original_files.unet_state("tiny-64")
    state["mapping.0.main.0.weight"] = torch.zeros(1024, 128 + 256)
    state["mapping.0.skip.weight"] = torch.zeros(1024, 128 + 256)
    torch.save(state, tmp_path / "narrow.ckpt")
    assert convert("--unet", tmp_path / "narrow.ckpt", "--overwrite", "--output", folder) == 2
    assert "width 256" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_unet_of_another_scale_joins_with_a_warning(pipeline_folder, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(pipeline_folder, folder)
    unet = with_scale(tmp_path, "tiny-64", 5.0)
    assert convert("--unet", unet, "--overwrite", "--output", folder) == 0
    assert "decodes with 2.55" in capsys.readouterr().err
    report = json.loads((folder / "conversion_report.json").read_text())
    assert report["autoencoder_scale"]["value"] == pytest.approx(2.55)


@pytest.mark.parametrize("fail_at", [1, 3, 5])
def test_an_interruption_changes_nothing(originals, pipeline_folder, tmp_path, monkeypatch, fail_at):
    folder = tmp_path / "out"
    shutil.copytree(pipeline_folder, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    moves = []
    replace = os.replace

    def interrupted(source, target):
        moves.append(source)
        if len(moves) == fail_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", interrupted)
    assert convert("--unet", originals.training, "--no-ema", "--overwrite", "--output", folder) == 130
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_being_told_to_stop_leaves_nothing(originals, tmp_path):
    arguments = map(str, (sys.executable, SCRIPT, *all_three(originals), "--output", tmp_path / "out"))
    process = subprocess.Popen(list(arguments), stderr=subprocess.DEVNULL)
    while not (tmp_path / "out").exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 130
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be(originals, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert convert("--unet", originals.unet, "--output", tmp_path / "file") == 2
    assert "not a folder" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "conversion_report.json").write_text("[]")
    assert convert("--unet", originals.unet, "--output", tmp_path / "out") == 2
    assert "damaged" in capsys.readouterr().err


def test_a_linked_folder_is_written_through(originals, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert convert("--unet", originals.unet, "--output", f"{tmp_path / 'link'}/") == 0
    assert (tmp_path / "real" / "unet" / "config.json").is_file()


# The scale


def with_scale(tmp_path, size, scale):
    """A U-Net of a published size whose weights are zeros, with a buffer of the given value."""
    shapes = original_files.read_json("unet_shapes")[size]
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    del state["autoencoder_scale"]
    if scale is not None:
        state["autoencoder_scale"] = torch.tensor(scale)
    torch.save(state, tmp_path / "unet.ckpt")
    return tmp_path / "unet.ckpt"


@pytest.mark.parametrize(
    "size, buffer, flags, expected, origin",
    [
        ("tiny-64", 2.55, (), 2.55, "the U-Net's file"),
        ("tiny-64", 7.0, (), 7.0, "the U-Net's file"),
        ("tiny-64", 7.0, ("--autoencoder-scale", "3"), 3.0, "--autoencoder-scale"),
        ("tiny-64", None, ("--autoencoder-scale", "3"), 3.0, "--autoencoder-scale"),
        ("student-105m", 2.55, (), 2.55, "the U-Net's file"),
        ("student-105m", 4.3084, ("--preset", "wikiart-mini"), 2.55, "preset wikiart-mini"),
        ("student-105m", 4.3084, ("--autoencoder-scale", "4.3084"), 4.3084, "--autoencoder-scale"),
    ],
)
def test_where_the_scale_comes_from(originals, tmp_path, capsys, size, buffer, flags, expected, origin):
    unet = with_scale(tmp_path, size, buffer)
    output = tmp_path / "out"
    assert convert("--unet", unet, "--autoencoder", originals.autoencoder, *flags, "--output", output) == 0
    report = json.loads((output / "conversion_report.json").read_text())
    assert report["autoencoder_scale"]["value"] == pytest.approx(expected)
    assert origin in report["autoencoder_scale"]["from"]
    vae = json.loads((output / "vae" / "config.json").read_text())
    assert vae["scaling_factor"] == pytest.approx(1 / expected)
    disagrees = buffer is not None and buffer != pytest.approx(expected)
    assert ("warning" in capsys.readouterr().err) == disagrees


def test_contradicting_scales_stop_the_conversion(originals, tmp_path, capsys):
    unet = with_scale(tmp_path, "student-105m", 4.3084)
    assert convert("--unet", unet, "--autoencoder", originals.autoencoder, "--output", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ("4.3084", "2.55", "--preset wikiart-mini", "--autoencoder-scale 4.3084"))
    assert not (tmp_path / "out").exists()


def test_an_image_prompt_of_any_kind_of_file(pipeline_folder, tmp_path):
    Image.new("P", (30, 60)).save(tmp_path / "palette.png")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "diffusers_ccld", "sample", "--model", pipeline_folder, "-n", "1", "--steps", "1"),
            *("--image", f"{tmp_path / 'palette.png'}:2", "--output", tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "picture-0.png").is_file()
