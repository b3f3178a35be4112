"""`ccld sample` by onnxruntime: when, with which pictures, and without torch."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffusers_ccld
from diffusers_ccld.cli import main
from diffusers_ccld.cli.runtimes import chosen_runtime, options_for_torch
from diffusers_ccld.inference.provenance import read_provenance

SOURCE = Path(diffusers_ccld.__file__).parents[1]
PROMPT = "the moon over a landscape, oil on canvas"
STEM = "the-moon-over-a-landscape-oil-on-canvas"


def arguments(**given):
    usual = dict.fromkeys(("model", "init", "edit", "best", "device", "algorithm", "cloob_guidance", "embedding"))
    usual |= {"runtime": "auto", "compile": False, "dtype": "auto", "parallel_guidance": 1}
    return argparse.Namespace(**usual | given)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, "onnx"),
        ({"device": "cpu", "dtype": "fp32", "algorithm": "unipc"}, "onnx"),
        ({"runtime": "torch"}, "torch"),
        ({"model": "default", "runtime": "onnx"}, "onnx"),
        ({"model": "somewhere"}, "torch"),
        ({"device": "cuda"}, "torch"),
        ({"dtype": "bf16"}, "torch"),
        ({"algorithm": "plms"}, "torch"),
        ({"compile": True}, "torch"),
        ({"edit": Path("a.png")}, "torch"),
        ({"best": 2}, "torch"),
        ({"parallel_guidance": 0.5}, "torch"),
    ],
)
def test_the_runtime_depends_on_the_model_and_the_options(given, expected):
    assert chosen_runtime(arguments(**given)) == expected


def test_a_folder_of_onnx_files_needs_no_option(tmp_path):
    (tmp_path / "onnx.json").touch()
    assert chosen_runtime(arguments(model=str(tmp_path))) == "onnx"
    (tmp_path / "model_index.json").touch()
    assert chosen_runtime(arguments(model=str(tmp_path))) == "torch"


def test_without_torch_a_folder_that_has_onnx_files_is_run_by_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("onnx.json", "model_index.json"):
        (tmp_path / name).touch()
    assert chosen_runtime(arguments(model=str(tmp_path))) == "onnx"
    assert chosen_runtime(arguments(model="default")) == "onnx"
    (tmp_path / "onnx.json").unlink()
    with pytest.raises(ValueError, match=f"--model {tmp_path}: this needs torch, which is not installed"):
        chosen_runtime(arguments(model=str(tmp_path)))
    with pytest.raises(ValueError, match="--compile, --algorithm plms: this needs torch"):
        chosen_runtime(arguments(compile=True, algorithm="plms"))


def test_options_that_need_torch_are_named():
    given = arguments(runtime="onnx", compile=True, algorithm="plms", parallel_guidance=0.5)
    assert options_for_torch(given) == ["--parallel-guidance", "--compile", "--algorithm plms"]
    with pytest.raises(
        ValueError, match="--runtime onnx does not have --parallel-guidance, --compile, --algorithm plms"
    ):
        chosen_runtime(given)


def test_both_runtimes_paint_the_same_pictures(tmp_path):
    options = ["--negative-prompt", "fog", "-n", "2", "--steps", "4", "--dtype", "fp32", "--quiet"]
    for runtime in ("onnx", "torch"):
        folder = tmp_path / runtime
        assert main(["sample", PROMPT, *options, "--runtime", runtime, "--output", str(folder)]) == 0
    for end in ("0", "1", "grid"):
        name = f"{STEM}-{end}.png"
        found, expected = (np.asarray(Image.open(tmp_path / r / name), dtype=int) for r in ("onnx", "torch"))
        assert np.abs(found - expected).max() <= 1
    found, expected = (read_provenance(tmp_path / runtime / f"{STEM}-1.png") for runtime in ("onnx", "torch"))
    assert (found.pop("runtime"), expected.pop("runtime")) == ("onnx", "torch")
    assert found == expected


def test_the_shell_does_not_import_torch(tmp_path):
    code = f"""
import sys
import ccld_command
status = ccld_command.main(["sample", {PROMPT!r}, "-n", "1", "--steps", "1", "--output", {str(tmp_path)!r}])
assert status == 0
unused = {{"torch", "diffusers", "transformers", "safetensors", "open_clip", "timm", "torchvision"}}
print(sorted(unused & set(sys.modules)))
"""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stderr
