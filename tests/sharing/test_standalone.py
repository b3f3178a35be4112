"""Folders with their own code, where the package is not installed."""

import ast
import subprocess
import sys
import sysconfig

import pytest
import torch
from safetensors.torch import load_file

from diffusers_ccld import CCLDPipeline, save_standalone
from diffusers_ccld.cli import main
from diffusers_ccld.sharing.standalone import MODULES, PACKAGE, standalone_source
from support.scripts import environment

# Without the site module, the path has neither editable installations nor other additions.
SAMPLE = """
import importlib.util, sys, torch
assert importlib.util.find_spec("diffusers_ccld") is None
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
folder, output = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(3)
options = {"height": 64, "width": 64, "num_inference_steps": 3, "generator": generator, "output_type": "latent"}
save_file({"latents": pipe("a fox", **options).images}, output)
assert "diffusers_ccld" not in sys.modules
"""


def sample_without_the_package(folder, output, modules):
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    variables = environment(PYTHONPATH=":".join(packages), HF_MODULES_CACHE=str(modules))
    command = [sys.executable, "-S", "-c", SAMPLE, str(folder), str(output)]
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
    result = sample_without_the_package(folder, tmp_path / "out.safetensors", tmp_path / "modules")
    assert result.returncode == 0, result.stdout + result.stderr

    ours = CCLDPipeline.from_pretrained(folder)
    ours.set_progress_bar_config(disable=True)
    options = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "latent"}
    latents = ours("a fox", **options, generator=torch.Generator().manual_seed(3)).images
    assert torch.equal(load_file(tmp_path / "out.safetensors")["latents"], latents)


def test_the_file_is_made_of_the_packages_modules():
    tree = ast.parse(standalone_source())
    names = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for module in MODULES:
        ours = ast.parse((PACKAGE / f"{module}.py").read_text()).body
        assert {node.name for node in ours if isinstance(node, (ast.FunctionDef, ast.ClassDef))} <= names
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in tree.body)


def test_a_part_cannot_stand_alone(originals, tmp_path, capsys):
    arguments = ("--unet", originals.unet, "--standalone", "--output", tmp_path / "out")
    assert main(["convert", *map(str, arguments)]) == 2
    assert "needs a whole pipeline" in capsys.readouterr().err and not (tmp_path / "out").exists()
