"""Each benchmark imports and describes its options; tests/evaluation tests what the benchmarks call."""

import subprocess

import pytest
from diffusers import AutoencoderTiny

from support.scripts import ROOT, run_here

NAMES = [path.name for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_describes_its_options(name, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as Python does for a script
    assert run_here(f"benchmarks/{name}", "--help") == 0
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["equality", "network", "training"])
def test_the_plan_for_a_gpu_runs_on_a_cpu(part, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert run_here("benchmarks/gpu.py", part, "--dry-run", "--output", tmp_path) == 0
    table = (tmp_path / f"{part}-student.md").read_text()
    assert "fp32" in table and "error" not in table
    assert part != "equality" or "equal" in table


@pytest.mark.parametrize("channels, expected", [(8, "10 prompts with 2 decoders: "), (4, "latents of 4 channels")])
def test_the_small_decoder_is_tried_on_one_batch(channels, expected, tmp_path, capsys):
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(latent_channels=channels, **widths).save_pretrained(tmp_path / "vae")
    options = ("--small", tmp_path / "vae", "--prompts", 10, "--batch-size", 1, "--output", tmp_path / "new.md")
    assert run_here("benchmarks/small_decoder.py", *options, "--dry-run") == (0 if channels == 8 else 2)
    assert expected in "".join(capsys.readouterr()) and not (tmp_path / "new.md").exists()


@pytest.mark.parametrize(
    "script, options, expected",
    [
        ("evaluate_default", ("--prompts", 10, "--batch-size", 1, "--steps", 1), "212 pictures: "),
        ("text_and_image", ("fit=default@1.75", "--prompts", 10, "--batch-size", 1), "2 measurements, 404 pictures: "),
        ("samplers", ("--cases", "plms, spliced", "--evaluations", 5, 8, "--batch-size", 1), "2 cells: "),
        ("overfitting", (), "fine-tune for 1000 steps on 12 pictures"),
    ],
)
def test_a_dry_run_says_what_would_be_done(script, options, expected, tmp_path, capsys):
    assert run_here(f"benchmarks/{script}.py", *options, "--output", tmp_path / "new", "--dry-run") == 0
    assert expected in capsys.readouterr().out and not (tmp_path / "new").exists()


def test_the_plan_says_what_it_does_and_refuses_what_it_does_not_know():
    script = str(ROOT / "benchmarks" / "gpu.sh")
    told = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert told.returncode == 0 and "--dry-run" in told.stdout and "set -u" not in told.stdout
    refused = subprocess.run([script, "--fast"], capture_output=True, text=True)
    assert refused.returncode == 2 and "--fast" in refused.stderr
