"""Folders with their own code, where the package is not installed."""

import ast
import json
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline, save_standalone
from diffusers_ccld.cli import main
from diffusers_ccld.sharing.standalone import MODULES, PACKAGE, standalone_source
from support.scripts import environment

# Without the site module, the path has neither editable installations nor other additions.
SAMPLE = """
import importlib.util, json, sys
assert importlib.util.find_spec("diffusers_ccld") is None
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, DiffusionPipeline
from diffusers.commands.diffusers_cli import main
from safetensors.torch import save_file
folder, output, picture, options = sys.argv[1:]
PAINT
save_file(paint(DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)), output)
command = ["run", "-m", folder, "--trust-remote-code", "--device-map", "cpu", "--seed", "3", "-o", picture]
sys.argv = ["diffusers-cli", *command, "--pipeline-kwargs", options]
main()
assert "diffusers_ccld" not in sys.modules
"""

PAINT = """
import torch
def paint(pipe):
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "latent"}
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(64) < 32).float().expand(1, 1, 64, 64)
    img2img, inpaint = AutoPipelineForImage2Image.from_pipe(pipe), AutoPipelineForInpainting.from_pipe(pipe)
    seeded = lambda: torch.Generator().manual_seed(3)
    return {
        "prompt": pipe("a fox", **options, generator=seeded()).images,
        "picture": img2img("a fox", image, **options, generator=seeded()).images,
        "mask": inpaint("a fox", image, mask, **options, generator=seeded()).images,
        "edit": img2img.edit(image, "a fox", **options, generator=seeded()).images,
    }
"""


OPTIONS = {"prompt": "a fox", "num_inference_steps": 3, "height": 64, "width": 64}


def sample_without_the_package(folder, output, picture, modules):
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    threads = str(torch.get_num_threads())  # another number gives other last bits
    variables = environment(PYTHONPATH=":".join(packages), HF_MODULES_CACHE=str(modules), OMP_NUM_THREADS=threads)
    command = [sys.executable, "-S", "-c", SAMPLE.replace("PAINT", PAINT)]
    command += [str(folder), str(output), str(picture), json.dumps(OPTIONS)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=modules, check=False)


@pytest.mark.parametrize("made_by", ["converter", "saving"])
def test_the_same_latents_without_the_package(made_by, originals, pipe, tmp_path):
    folder = tmp_path / "standalone"
    if made_by == "saving":
        pipe.text_encoder.set_residual_factor(0.05 * torch.eye(512))
        pipe.register_to_config(default_guidance_scale=2.0, default_variation=0.5)
        save_standalone(pipe, folder)
    else:
        files = ("--unet", originals.unet, "--cloob", originals.cloob, "--cloob-config", originals.cloob_config)
        files = (*files, "--autoencoder", originals.autoencoder, "--standalone", "--output", folder)
        assert main(["convert", *map(str, files)]) == 0
    (tmp_path / "modules").mkdir()
    files = tmp_path / "out.safetensors", tmp_path / "out.png"
    result = sample_without_the_package(folder, *files, tmp_path / "modules")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Expected types" not in result.stderr

    names = {kind.__name__: kind for kind in (AutoPipelineForImage2Image, AutoPipelineForInpainting)}
    exec(PAINT, names)
    pipe = CCLDPipeline.from_pretrained(folder)
    theirs, ours = load_file(files[0]), names["paint"](pipe)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert "_name_or_path" not in json.loads((folder / "model_index.json").read_text())
    picture = pipe(**OPTIONS, generator=torch.Generator().manual_seed(3)).images[0]
    assert np.array_equal(np.asarray(Image.open(files[1])), np.asarray(picture))


def test_where_the_package_is_in_use_its_own_classes_are_loaded(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    save_standalone(pipe, tmp_path / "folder")
    for loaded in (
        CCLDPipeline.from_pretrained(tmp_path / "folder"),
        DiffusionPipeline.from_pretrained(tmp_path / "folder", trust_remote_code=True),
        DiffusionPipeline.from_pretrained(
            tmp_path / "folder", custom_pipeline=str(tmp_path / "folder"), trust_remote_code=True
        ),
    ):
        assert type(loaded) is CCLDPipeline and type(loaded.unet) is type(pipe.unet)
    assert type(CCLDImg2ImgPipeline.from_pretrained(tmp_path / "folder")) is CCLDImg2ImgPipeline
    assert "Expected types" not in capsys.readouterr().err
    loaded.save_pretrained(tmp_path / "again")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "again")) is CCLDPipeline


def test_a_folder_of_an_earlier_version_still_loads(pipe, tmp_path):
    """Its `model_index.json` names the class alone."""
    save_standalone(pipe, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "CCLDPipeline"]
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "CCLDPipeline"}))
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is CCLDPipeline


def test_the_file_is_made_of_the_packages_modules():
    tree = ast.parse(standalone_source())
    names = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for module in MODULES:
        ours = ast.parse((PACKAGE / f"{module}.py").read_text()).body
        assert {node.name for node in ours if isinstance(node, (ast.FunctionDef, ast.ClassDef))} <= names
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in tree.body)


@pytest.mark.parametrize("module", MODULES)
def test_the_file_has_what_a_module_imports_before_it(module):
    before = MODULES[: MODULES.index(module)]
    for node in ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = PACKAGE if node.level == 2 else (PACKAGE / module).parent
            assert (folder / node.module.replace(".", "/")).relative_to(PACKAGE).as_posix() in before


def test_a_part_cannot_stand_alone(originals, tmp_path, capsys):
    arguments = ("--unet", originals.unet, "--standalone", "--output", tmp_path / "out")
    assert main(["convert", *map(str, arguments)]) == 2
    assert "needs a whole pipeline" in capsys.readouterr().err and not (tmp_path / "out").exists()
