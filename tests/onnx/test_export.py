"""`ccld export-onnx`."""

import json

import numpy as np
import pytest
import torch

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import main
from diffusers_ccld.onnx import export as export_module
from diffusers_ccld.onnx.export import ExportRequest, export
from diffusers_ccld.onnx.manifest import ExportError
from diffusers_ccld.onnx.pipeline import OnnxPipeline
from diffusers_ccld.onnx.weights import store, stored_tensors


def test_weights_are_stored_as_small_as_they_can_be_without_loss(tmp_path):
    halves, floats = torch.randn(3, 5).half().float(), torch.randn(3, 5)
    store({"halves": halves, "floats": floats}, tmp_path / "a.safetensors", quantise=False)
    stored = stored_tensors(tmp_path / "a.safetensors")
    assert (stored["halves"].type, stored["floats"].type) == ("F16", "F32")
    data = (tmp_path / "a.safetensors").read_bytes()
    entry = stored["halves"]
    found = np.frombuffer(data[entry.offset : entry.offset + entry.length], np.float16).reshape(3, 5)
    np.testing.assert_array_equal(found, halves.numpy())
    store({"large": torch.randn(64, 64), "small": floats}, tmp_path / "b.safetensors", quantise=True)
    types = {name: entry.type for name, entry in stored_tensors(tmp_path / "b.safetensors").items()}
    assert types == {"large": "I8", "large.scale": "F32", "small": "F32"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["default", "--dtype", "fp16"], "give --output, too"),
        (["default", "--output", "{tmp}"], "was not written by this command"),
        (["{tmp}", "--output", "{tmp}/new"], "not a pipeline"),
        (["default"], "default_model has an earlier export. Give --overwrite to replace it."),
    ],
)
def test_mistakes_are_found_before_any_work(arguments, message, tmp_path, capsys):
    (tmp_path / "something.txt").touch()
    assert main(["export-onnx", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["something.txt"]


def test_an_earlier_export_of_a_model_of_the_hub_is_kept(tmp_path, monkeypatch, capsys):
    """Its folder, in the Hub's cache, is known only when it has been found there."""
    (tmp_path / "onnx.json").write_text("{}")
    monkeypatch.setattr("diffusers_ccld.inference.loading.find_folder", lambda source: tmp_path)
    assert main(["export-onnx", "somebody/model"]) == 2
    assert f"{tmp_path} has an earlier export. Give --overwrite to replace it." in capsys.readouterr().err


def test_a_network_that_differs_is_not_written(pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_differences", lambda spec, session: (1.0, 0.5))
    monkeypatch.setattr(export_module, "networks_of", lambda pipe, with_encoder: original(pipe, with_encoder)[2:3])
    with pytest.raises(ExportError, match="text_encoder differs from torch's by up to 1"):
        export(ExportRequest(str(pipeline_folder), tmp_path / "out"))
    assert not list(tmp_path.iterdir())


original = export_module.networks_of


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_a_pipeline_paints_the_same_pictures(fitted_folder, tmp_path, dtype):
    folder = tmp_path / "exported"
    assert main(["export-onnx", str(fitted_folder), "--output", str(folder), "--dtype", dtype, "--encoder"]) == 0
    pipe = CCLDPipeline.from_pretrained(fitted_folder)
    conditions = [("a red fox", 1.75)]
    (found,) = OnnxPipeline(folder).sample([3], conditions, num_inference_steps=3)
    expected = pipe(conditions=conditions, num_inference_steps=3, generator=torch.Generator().manual_seed(3)).images[0]
    difference = np.abs(np.asarray(found, dtype=int) - np.asarray(expected))
    assert difference.max() <= {"fp32": 1, "fp16": 16, "int8": 60}[dtype]
    manifest = json.loads((folder / "onnx.json").read_text())
    names = {"unet", "decoder", "encoder", "text_encoder", "text_variation", "image_encoder"}
    assert manifest["networks"].keys() == names
    assert manifest["defaults"]["guidance_scale"] == 1.75 and manifest["defaults"]["variation"] == 0.25
