"""The runtime without torch: its parts beside their counterparts, the bundled model's files, and what it refuses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ccld import CCLDPipeline, CCLDScheduler, default_model
from diffusers_ccld.inference.sampling import sample
from diffusers_ccld.onnx.manifest import ExportError, File, Manifest
from diffusers_ccld.onnx.pipeline import OnnxPipeline
from diffusers_ccld.onnx.sampler import sampling_times
from diffusers_ccld.schedulers.names import TIMESTEP_SCHEDULES
from diffusers_ccld.schedulers.noise_schedule import sampling_times as sampling_times_in_torch

PROMPT = "the moon over a landscape, oil on canvas"


@pytest.fixture(scope="module")
def onnx_pipe():
    return OnnxPipeline(default_model(), num_threads=1)


@pytest.fixture(scope="module")
def pipe():
    pipe = CCLDPipeline.from_pretrained(default_model())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def copied(tmp_path):
    """A copy of the bundled model's folder, to be damaged."""
    return Path(shutil.copytree(default_model(), tmp_path / "model"))


def largest_difference(found, expected):
    assert len(found) == len(expected)
    return max(np.abs(np.asarray(a, dtype=int) - np.asarray(b)).max() for a, b in zip(found, expected))


@pytest.mark.parametrize("schedule", TIMESTEP_SCHEDULES)
def test_times_are_those_of_the_scheduler(schedule):
    for num_steps in (1, 10, 50):
        expected = sampling_times_in_torch(num_steps, schedule).numpy()
        np.testing.assert_allclose(sampling_times(num_steps, schedule), expected, atol=1e-14)


def picture():
    return Image.effect_noise((100, 80), 80).convert("RGB")


CALLS = {
    "prompt": ([(PROMPT, 3.0)], {}),
    "negative, in an interval": ([("a winter forest", 4.0), ("fog", -3.0)], {"guidance_interval": (0.2, 0.8)}),
    "pictures": ([("a rose", 2.0), (picture(), 1.0)], {"num_inference_steps": 3}),
    "nothing": ([], {"num_inference_steps": 3, "height": 64, "width": 192}),
    "unipc": ([("a cat", 3.0)], {"num_inference_steps": 4, "algorithm_type": "unipc"}),
    "ddim": ([("a cat", 3.0)], {"num_inference_steps": 4, "algorithm_type": "ddim", "eta": 0.5}),
}


@pytest.mark.parametrize("name", CALLS)
def test_pictures_are_those_of_torch(name, onnx_pipe, pipe):
    conditions, options = CALLS[name]
    options = dict(options)
    algorithm = options.pop("algorithm_type", "dpmpp")
    onnx_pipe.scheduler = replace(onnx_pipe.scheduler, algorithm_type=algorithm)
    pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type=algorithm)
    found = list(onnx_pipe.sample([0, 5], conditions, **options))
    expected = list(sample(pipe, [0, 5], conditions=conditions, **options))
    assert largest_difference(found, expected) <= 1


def test_variation_is_drawn_like_in_torch(onnx_pipe, pipe):
    if "text_variation" not in onnx_pipe.manifest.networks:
        assert not pipe.can_vary_texts
        with pytest.raises(ValueError, match="was fitted"):
            next(onnx_pipe.sample([0], [(PROMPT, 3.0)], variation=0.5))
        return
    onnx_pipe.scheduler = replace(onnx_pipe.scheduler, algorithm_type="dpmpp")  # other tests leave other algorithms
    pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type="dpmpp")
    options = {"variation": 0.7, "num_inference_steps": 3}
    found = list(onnx_pipe.sample([0, 5], [(PROMPT, 3.0)], **options))
    assert largest_difference(found, list(sample(pipe, [0, 5], conditions=[(PROMPT, 3.0)], **options))) <= 1


def test_a_picture_does_not_depend_on_its_batch(onnx_pipe):
    options = {"num_inference_steps": 2}
    together = list(onnx_pipe.sample(range(3), [(PROMPT, 3.0)], batch_size=3, **options))
    alone = list(onnx_pipe.sample([2], [(PROMPT, 3.0)], **options))
    assert largest_difference(together[2:], alone) <= 1


def test_the_bundled_files_belong_to_the_bundled_weights(onnx_pipe, pipe):
    folder, manifest = Path(default_model()), onnx_pipe.manifest
    weights = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert manifest.sources == {path: File.of(folder, path).sha256 for path in sorted(weights)}
    assert {network.weights.path for network in manifest.networks.values()} == weights
    for name in ("default_num_inference_steps", "default_guidance_scale", "default_variation", "max_guidance_scale"):
        assert manifest.defaults[name.removeprefix("default_")] == pipe.config[name]
    scheduler = CCLDScheduler.from_pretrained(default_model(), subfolder="scheduler")
    assert manifest.scheduler.items() <= scheduler.config.items()
    assert sum(path.stat().st_size for path in folder.glob("*.onnx")) < 1e6
    latents = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pipe.decode_latents(latents).numpy()
    np.testing.assert_allclose(onnx_pipe.networks("decoder", latents=latents.numpy()), expected, atol=1e-4)


def test_steps_are_counted_over_all_batches(onnx_pipe):
    steps = []
    pictures = onnx_pipe.sample(
        range(3), [], num_inference_steps=2, batch_size=2, on_step=lambda *at: steps.append(at)
    )
    assert len(list(pictures)) == 3
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eta": 0.5}, 'option of "ddim"'),
        ({"height": 100}, "multiples of"),
        ({"variation": 2}, r"in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused(onnx_pipe, options, message):
    onnx_pipe.scheduler = replace(onnx_pipe.scheduler, algorithm_type="dpmpp")
    with pytest.raises(ValueError, match=message):
        next(onnx_pipe.sample([0], [], **options))


def test_unknown_samplers_are_refused(onnx_pipe):
    with pytest.raises(ValueError, match="does not have plms; choose one of dpmpp, unipc, ddim"):
        replace(onnx_pipe.scheduler, algorithm_type="plms")
    with pytest.raises(ValueError, match="Unknown timestep schedule"):
        sampling_times(3, "karras")


def damage(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def change_manifest(folder, **changes):
    path = folder / "onnx.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda folder: (folder / "onnx.json").unlink(), "has no onnx.json"),
        (lambda folder: (folder / "onnx.json").write_text("{"), "onnx.json is damaged"),
        (lambda folder: (folder / "onnx.json").write_text("[]"), "onnx.json is damaged"),
        (lambda folder: change_manifest(folder, format=2), "has format 2, and this version reads format 1"),
        (lambda folder: change_manifest(folder, unknown=2), "onnx.json is damaged"),
        (lambda folder: (folder / "unet.onnx").unlink(), "unet.onnx: the file is missing"),
        (lambda folder: damage(folder, "unet.onnx"), "unet.onnx: the file is damaged"),
        (
            lambda folder: damage(folder, "unet/diffusion_pytorch_model.safetensors"),
            "safetensors: the file is damaged",
        ),
        (lambda folder: damage(folder, "tokenizer/tokenizer.json"), "tokenizer.json: the file is damaged"),
    ],
)
def test_damage_is_one_sentence(copied, harm, message):
    harm(copied)
    with pytest.raises(ExportError, match=message) as raised:
        next(OnnxPipeline(copied).sample([0], [(PROMPT, 3.0)], num_inference_steps=1))
    assert "\n" not in str(raised.value)


def test_another_network_is_refused(copied):
    manifest = Manifest.read(copied)
    values = json.loads((copied / "onnx.json").read_text())
    values["networks"]["unet"]["graph"] = values["networks"]["decoder"]["graph"]
    (copied / "onnx.json").write_text(json.dumps(values))
    assert manifest.networks["unet"].graph.path == "unet.onnx"
    with pytest.raises(ExportError, match="other inputs than its manifest says"):
        next(OnnxPipeline(copied).sample([0], [], num_inference_steps=1))


def test_the_runtime_needs_no_torch():
    """The package is created but not executed, as `ccld` does it."""
    code = f"""
import importlib.util, sys
spec = importlib.util.find_spec("diffusers_ccld")
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
from diffusers_ccld.onnx.pipeline import OnnxPipeline
pipe = OnnxPipeline({default_model()!r})
(picture,) = pipe.sample([0], [({PROMPT!r}, 3.0)], num_inference_steps=1)
assert picture.size == (128, 128)
print(sorted({{"torch", "diffusers", "transformers", "safetensors", "ftfy"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr
