"""The precision of training: chosen by the hardware, by accelerate's configuration, or by name."""

import re

import pytest
import torch
import yaml

from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.training.accelerator import choose_precision
from diffusers_ccld.training.config import RunConfig
from diffusers_ccld.training.log import read_log
from support.scripts import ROOT, run, run_here

SCRIPT = "training/finetune.py"
CPU = torch.device("cpu")
QUICK = ("--max_steps", 2, "--train_batch_size", 4, "--demo_every", 0, "--logging_steps", 1, "--report_to", "none")


@pytest.fixture(autouse=True)
def without_accelerates_configuration(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def has_bfloat16(request, monkeypatch):
    """Sets whether the processor claims to compute in bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param}, raising=False)
    return request.param


def finetune(model, output, cache, *options):
    return run_here(SCRIPT, "--model", model, "--output_dir", output, "--cache", cache, *QUICK, *options)


def losses_of(folder):
    return [entry["loss"] for entry in read_log(folder / "metrics.jsonl")]


def test_auto_is_the_default_and_follows_the_hardware(trainable_folder, cache, tmp_path, capsys, has_bfloat16):
    assert parse_config(RunConfig, "", ["--output_dir", "o"]).mixed_precision == "auto"
    assert finetune(trainable_folder, tmp_path / "auto", cache) == 0
    printed = capsys.readouterr().out
    line = "bf16, which this cpu computes in" if has_bfloat16 else "float32, as this cpu does not compute in bf16"
    assert re.findall("^precision: (.*)$", printed, re.MULTILINE) == [line]

    assert finetune(trainable_folder, tmp_path / "named", cache, "--mixed_precision", "no") == 0
    assert "precision:" not in capsys.readouterr().out
    differs = losses_of(tmp_path / "auto") != losses_of(tmp_path / "named")
    assert differs == has_bfloat16


def test_bfloat16_by_name_gets_a_warning_where_it_is_slow(trainable_folder, cache, tmp_path, caplog, has_bfloat16):
    assert finetune(trainable_folder, tmp_path / "run", cache, "--mixed_precision", "bf16") == 0
    assert caplog.text.count("67 times slower") == (not has_bfloat16)


def test_accelerates_configuration_counts_if_it_names_a_precision(monkeypatch, has_bfloat16):
    by_hardware = "bf16" if has_bfloat16 else "no"
    for launched, expected in ((None, by_hardware), ("no", by_hardware), ("fp16", "fp16"), ("bf16", "bf16")):
        if launched is not None:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        assert choose_precision("auto", CPU)[0] == expected
        assert [choose_precision(name, CPU) for name in ("no", "fp16")] == [("no", None), ("fp16", None)]


def test_a_launchers_precision_reaches_the_run(trainable_folder, cache, tmp_path):
    options = ("--model", trainable_folder, "--cache", cache, "--output_dir", tmp_path / "run", *QUICK)
    printed = run(SCRIPT, *options, ACCELERATE_MIXED_PRECISION="bf16")
    assert "precision: bf16, from accelerate's configuration" in printed
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["mixed_precision"] == "auto"


def test_the_repositorys_settings_let_the_hardware_decide():
    files = [path for path in (ROOT / "training" / "configs").rglob("*.yaml") if path.parent.name != "accelerate"]
    named = {path.name: yaml.safe_load(path.read_text()).get("mixed_precision", "auto") for path in files}
    assert len(named) > 10 and set(named.values()) == {"auto"}
