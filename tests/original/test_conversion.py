"""The original's files through the real command line, and the result in a fresh process."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from diffusers_ccld import CCLDUNet2DConditionModel, CLOOBModel
from diffusers_ccld.cli import main
from diffusers_ccld.original.conversion import DTYPES
from diffusers_ccld.original.folder import COMPONENTS
from support import original_files
from support.mutated_files import Exploit

SCRIPT = Path(__file__).parents[2] / "conversion" / "convert_ckpt.py"


def run_script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def convert(*arguments):
    """Converts in this process, which is quicker; gives the exit status."""
    return main(["convert", *map(str, arguments)])


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
        assert {weight.dtype for weight in weights.values()} == {DTYPES[dtype]}
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
    assert "no folder" in capsys.readouterr().err
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


# Wrong input


def damaged_unet(tmp_path, change):
    state = original_files.unet_state("tiny-64")
    change(state)
    torch.save(state, tmp_path / "damaged.ckpt")
    return tmp_path / "damaged.ckpt"


NAME = "net.4.main.9.main.3.main.0.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop(NAME), f"lacks {NAME}"),
        (lambda state: state.update({"net.4.main.9.main.33.weight": state.pop(NAME)}), f"lacks {NAME}"),
        (lambda state: state.update(extra=torch.zeros(1)), "beyond what it should, extra"),
        (lambda state: state.update({NAME: torch.zeros(64, 65, 3, 3)}), f"{NAME} (64, 65, 3, 3)"),
        (lambda state: state[NAME].__setitem__((0, 0, 0, 0), float("nan")), f"NaN or infinite values in {NAME}"),
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("net.8")], "no U-Net of CCLD"),
    ],
)
def test_damaged_unets_are_refused(tmp_path, capsys, change, message):
    unet = damaged_unet(tmp_path, change)
    assert convert("--unet", unet, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.ckpt"]


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": torch.zeros(3)},
        {"net.0.main.0.weight": [1.0]},
        {"net.0.main.0.weight": 1.0},
        {3: torch.zeros(3)},
        {"net.0.main.0.weight": torch.zeros(3).to_sparse()},
        {"state_dict": {"model_ema.net.0.main.0.weight": torch.zeros(3), "modle.x": torch.zeros(1)}},
        {"net.0.main.0.weight": torch.zeros(3)},
        {},
    ],
)
def test_files_that_are_no_state_dict(tmp_path, capsys, content):
    torch.save(content, tmp_path / "file.ckpt")
    for option in ("--unet", "--autoencoder"):
        scale = ("--autoencoder-scale", "2") if option == "--autoencoder" else ()
        assert convert(option, tmp_path / "file.ckpt", *scale, "--output", tmp_path / "out") == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_shared_memory_and_large_values(tmp_path, capsys):
    state = original_files.unet_state("tiny-64")
    state["net.1.main.0.bias"] = state["net.0.main.0.bias"]
    state["net.2.main.0.bias"].fill_(1e6)
    torch.save(state, tmp_path / "unet.ckpt")
    assert convert("--unet", tmp_path / "unet.ckpt", "--output", tmp_path / "out") == 0
    assert convert("--unet", tmp_path / "unet.ckpt", "--dtype", "fp16", "--output", tmp_path / "half") == 2
    assert "too large for fp16" in capsys.readouterr().err


def write_yaml(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_wrong_arguments_leave_nothing_behind(originals, tmp_path, capsys):
    kl = yaml.safe_load(originals.autoencoder_config.read_text())
    vq = {"model": {**kl["model"], "target": "ldm.models.autoencoder.VQModel"}}
    dvae = {"model": {**kl["model"], "target": "dall_e.DVAE"}}
    other = json.loads(json.dumps(kl))
    other["model"]["params"]["ddconfig"]["ch_mult"] = [1, 2, 4, 4]
    attention = json.loads(json.dumps(kl))
    attention["model"]["params"]["ddconfig"]["attn_resolutions"] = [16]
    size = json.loads(json.dumps(kl))
    size["model"]["params"]["ddconfig"]["resolution"] = -5
    heads = original_files.read_json("cloob")["models"]["tiny"]["config"]
    heads["text_encoder"]["n_heads"] = 3
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    ae = ("--autoencoder", originals.autoencoder)
    scaled = (*ae, "--autoencoder-scale", "2.55")
    cases = [
        ((), "Nothing to convert"),
        (("--unet", tmp_path / "nowhere.ckpt"), "nowhere.ckpt: there is no such file"),
        (("--unet", originals.cloob), "no PyTorch checkpoint"),
        (("--unet", originals.autoencoder), "no model_ema"),
        (("--unet", originals.unet, "--no-ema"), "leave out --no-ema"),
        (("--cloob", originals.unet), "no pickle|refers to"),
        (("--cloob", originals.cloob, "--cloob-config", "vit_b_16"), "does not belong"),
        (("--cloob", originals.cloob, "--cloob-config", "vit_h_14"), "vit_h_14.*vit_l_14"),
        (("--cloob", originals.cloob, "--no-ema"), "no U-Net"),
        (("--cloob", originals.cloob, "--cloob-config", tmp_path / "nowhere.json"), "no such file"),
        (ae, "scale is not known.*--autoencoder-scale"),
        ((*ae, "--autoencoder-scale", "-1"), "positive number"),
        ((*ae, "--autoencoder-scale", "nan"), "positive number"),
        (
            ("--autoencoder", originals.unet, "--autoencoder-scale", "2.55"),
            "no autoencoder of latent-diffusion",
        ),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "0.yaml", "model: [")), "no YAML"),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "1.yaml", {"lr": 1})), "describes no autoencoder"),
        (
            (*scaled, "--autoencoder-config", write_yaml(tmp_path / "2.yaml", vq)),
            "kind is VQModel there",
        ),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "6.yaml", dvae)), "describes a dall_e.DVAE"),
        (
            (*scaled, "--autoencoder-config", write_yaml(tmp_path / "3.yaml", other)),
            "does not belong to these weights",
        ),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "4.yaml", attention)), "attention by level"),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "5.yaml", size)), "resolution -5"),
        (("--cloob", originals.cloob, "--cloob-config", tmp_path / "heads.json"), "multiple of n_heads"),
        (("--unet", originals.unet, "--autoencoder-scale", "2.55"), "no autoencoder"),
        (("--unet", originals.unet, "--preset", "wikiart"), "widths .*768"),
        (("--unet", originals.unet, "--autoencoder-config", originals.autoencoder_config), "no autoencoder"),
        (("--unet", originals.unet, "--cloob-config", "vit_b_16"), "no CLOOB"),
    ]
    for arguments, message in cases:
        status = convert(*arguments, "--output", tmp_path / "out")
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert status == 2, arguments
        assert error.startswith("error: "), error
        assert re.search(message, error), (message, error)
        assert not (tmp_path / "out").exists()


def test_a_file_that_would_run_code_does_not(tmp_path):
    torch.save({"state_dict": {}, "hook": Exploit(tmp_path / "trace")}, tmp_path / "evil.ckpt")
    result = run_script("--unet", tmp_path / "evil.ckpt", "--output", tmp_path / "out")
    assert result.returncode == 2 and "Nothing of it was run" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.ckpt"]


def test_weights_that_give_nan_are_found_by_running_them(tmp_path, capsys):
    unet = damaged_unet(tmp_path, lambda state: state["net.8.main.0.weight"].fill_(3e38))
    assert convert("--unet", unet, "--output", tmp_path / "out") == 2
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unusual_heads_are_asked_about(originals, tmp_path, capsys):
    assert convert("--cloob", originals.cloob, "--output", tmp_path / "out") == 0
    assert "attention heads" in capsys.readouterr().err


def test_help_is_for_strangers():
    result = run_script("--help")
    assert result.returncode == 0 and "--autoencoder-scale" in result.stdout


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
    assert (tmp_path / "out" / "00000.png").is_file()
