"""`ccld inspect`, and what files can do to it and to the converter."""

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys

import pytest
import torch
import yaml

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.cli import main
from diffusers_ccld.original.inspection import inspect, unet_facts
from diffusers_ccld.original.reading.checkpoints import (
    CheckpointError,
    HostileFileError,
    read_checkpoint,
    state_dict_of,
)
from diffusers_ccld.original.reading.cloob_pickles import read_cloob_pickle
from diffusers_ccld.original.tensors.autoencoder import read_autoencoder_yaml
from support import mutated_files, original_files
from support.original_files import small_vq_state
from support.scripts import ROOT, environment


def test_a_training_checkpoint(originals):
    facts = inspect(originals.training)
    assert facts["kind"] == "training checkpoint of CCLD" and facts["has EMA weights"]
    assert facts["global_step"] == 149999 and facts["scale_factor"] == pytest.approx(2.55)
    assert facts["model"]["widths"] == facts["model_ema"]["widths"] == list(inspect(originals.unet)["widths"])
    assert facts["ae_model"]["becomes"] == "AutoencoderKL" and facts["cloob"]["image size"] == 32
    assert facts["conversion"] == f"ccld convert --unet {originals.training} --output DIR"


def test_a_bare_unet(originals):
    facts = inspect(originals.unet)
    state = torch.load(originals.unet, weights_only=True)
    assert facts["kind"] == "U-Net of CCLD" and facts["precision"] == "float32"
    assert facts["parameters"] == sum(tensor.numel() for tensor in state.values())
    assert facts["scale to decode with"] == "2.55, from the U-Net's file (autoencoder_scale)"
    assert facts["published models of this size"] == "none"


def test_a_published_size_with_another_scale_is_ambiguous():
    state = {name: tensor.expand(shape) for name, (tensor, shape) in published_shapes().items()}
    state["autoencoder_scale"] = torch.tensor(4.3084)
    facts = unet_facts(state)
    assert facts["published models of this size"] == ["wikiart-mini"]
    assert "ambiguous" in facts["scale to decode with"] and "--preset wikiart-mini" in facts["scale to decode with"]


@pytest.mark.parametrize(
    "num_tensors, model, size",
    [(504, "cc12m_1 or cc12m_1_cfg", 256), (302, "imagenet_128", 128), (300, "not a published one", None)],
)
def test_a_model_of_v_diffusion_is_named(num_tensors, model, size, tmp_path):
    """The numbers are those of the state dicts of that repository's own classes."""
    names = ["timestep_embed.weight", "net.0.main.0.weight"]
    names += ["mapping_timestep_embed.weight"] if num_tensors == 504 else []
    names += [f"net.{i}.bias" for i in range(num_tensors - len(names))]
    state = {name: torch.zeros(64, 19, 3, 3) if name.startswith("net.0.main") else torch.zeros(1) for name in names}
    torch.save(state, tmp_path / "model.pth")
    facts = inspect(tmp_path / "model.pth")
    assert facts["kind"] == "U-Net of v-diffusion-pytorch" and facts["model"] == model
    assert facts.get("size in pixels") == size and "conversion" not in facts


def test_a_unet_for_latents_of_three_channels_is_not_taken_for_one_of_pixels(originals, tmp_path):
    state = torch.load(originals.unet, weights_only=True)
    state["net.0.main.0.weight"] = state["net.0.main.0.weight"][:, 1:]
    torch.save(state, tmp_path / "unet.ckpt")
    assert inspect(tmp_path / "unet.ckpt")["kind"] == "U-Net of CCLD"


def published_shapes():
    shapes = original_files.read_json("unet_shapes")["student-105m"]
    return {n: (torch.zeros(()), tuple(shape)) for n, shape in shapes.items() if n != "autoencoder_scale"}


def test_autoencoders(originals, tmp_path):
    facts = inspect(originals.autoencoder)
    assert facts["kind"] == "autoencoder" and facts["becomes"] == "AutoencoderKL" and facts["factor"] == 8
    torch.save(
        {f"first_stage_model.{n}": t for n, t in small_vq_state().items()} | {"x": torch.zeros(1)}, tmp_path / "a"
    )
    facts = inspect(tmp_path / "a")
    assert facts["kind"] == "first stage of a larger model" and facts["tensors left out"] == 1
    assert facts["becomes"] == "VQModel" and facts["codes"] == 64 and facts["latent channels"] == 4


def test_a_cloob(originals):
    facts = inspect(originals.cloob)
    assert facts["kind"] == "CLOOB pickle" and facts["embedding"] == 512 and facts["other entries"] == ["epoch"]


def test_folders(pipeline_folder):
    facts = inspect(default_model())
    assert facts["kind"] == "pipeline folder" and facts["unet"]["class"] == "CCLDUNet2DConditionModel"
    assert facts["unet"]["parameters"] > 1e6
    facts = inspect(pipeline_folder / "vae")
    assert facts["kind"] == "model folder" and facts["scale to decode with"] == pytest.approx(2.55)
    file = pipeline_folder / "vae" / "diffusion_pytorch_model.safetensors"
    assert inspect(file)["parameters"] == facts["parameters"]


def test_the_command(originals, tmp_path, capsys):
    assert main(["inspect", str(originals.unet)]) == 0
    parameters = inspect(originals.unet)["parameters"]
    assert f"parameters: {parameters:,}\n" in capsys.readouterr().out
    assert main(["inspect", str(originals.training), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["embedding"] == 512
    for path in (tmp_path, tmp_path / "missing"):
        assert main(["inspect", str(path)]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_file_is_mapped_and_not_read(tmp_path):
    """A file of 400 MB, most of it a discriminator, costs a fraction of that."""
    state = original_files.autoencoder_state("kl-f8-tiny") | {"loss.large": torch.zeros(10**8)}
    torch.save(state, tmp_path / "ae.ckpt")
    code = (
        "import resource, sys; from diffusers_ccld.original.inspection import inspect; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; inspect(sys.argv[1]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "ae.ckpt")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert int(result.stdout) < 100_000  # KiB


# Files that expand into more than they contain


def test_tensors_that_expand_are_refused(tmp_path):
    path = tmp_path / "bomb.ckpt"
    torch.save({"a": torch.zeros(1).expand(10**9)}, path)
    with pytest.raises(HostileFileError, match="expands into more numbers than the file contains"):
        state_dict_of(read_checkpoint(path), path)


def test_tensors_that_share_their_memory_do_not_multiply(tmp_path, capsys):
    state = original_files.autoencoder_state("kl-f8-tiny")
    memory = torch.zeros(10**6)
    shared = {name: memory[: tensor.numel()].view(tensor.shape) for name, tensor in state.items()}
    torch.save(shared, tmp_path / "ae.ckpt")
    arguments = (
        "convert",
        "--autoencoder",
        tmp_path / "ae.ckpt",
        "--autoencoder-scale",
        1,
        "--output",
        tmp_path / "o",
    )
    assert main([str(argument) for argument in arguments]) == 2
    assert "expand into more numbers than the file contains" in capsys.readouterr().err


@pytest.mark.parametrize("name", mutated_files.BOMBS)
@pytest.mark.parametrize("kind", ["pickle", "PyTorch file"])
def test_pickles_that_use_up_memory_or_time_are_refused(name, kind, tmp_path):
    path, data = tmp_path / "bomb", mutated_files.BOMBS[name]
    if kind == "pickle":
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            read_cloob_pickle(path)
    else:
        mutated_files.as_torch_file(data, path)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_archives_that_readers_see_differently_are_refused(tmp_path):
    mutated_files.bomb(tmp_path / "deflated.ckpt", None)
    data = (tmp_path / "deflated.ckpt").read_bytes()
    for changed in (data + b"PK\x05\x06", b"x" * 100 + data):
        (tmp_path / "changed.ckpt").write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "changed.ckpt")


def test_an_encrypted_archive_is_refused(originals, tmp_path):
    data = bytearray(originals.unet.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of every entry, twice over
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 4)
    (tmp_path / "a.ckpt").write_bytes(data)
    with pytest.raises(CheckpointError):
        inspect(tmp_path / "a.ckpt")


def test_an_archive_of_several_disks_is_refused(tmp_path):
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    (tmp_path / "a.ckpt").write_bytes(b"something" + locator + b"PK\x05\x06" + bytes(18))
    with pytest.raises(CheckpointError):
        inspect(tmp_path / "a.ckpt")


def test_a_diffusion_model_of_latent_diffusion_is_a_first_stage(tmp_path):
    larger = {f"first_stage_model.{name}": tensor for name, tensor in small_vq_state().items()}
    larger |= {"model.diffusion_model.out.weight": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
    torch.save({"state_dict": {**larger, "betas": torch.zeros(3)}}, tmp_path / "ldm.ckpt")
    facts = inspect(tmp_path / "ldm.ckpt")
    assert facts["kind"] == "first stage of a larger model" and facts["becomes"] == "VQModel"


def test_sharded_folders_are_summed(pipeline_folder, tmp_path):
    pipe = CCLDPipeline.from_pretrained(pipeline_folder)
    pipe.unet.save_pretrained(tmp_path / "unet", max_shard_size="2MB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    assert inspect(tmp_path / "unet")["parameters"] == pipe.unet.num_parameters()


def test_compressed_archives_are_refused(tmp_path):
    mutated_files.bomb(tmp_path / "bomb.ckpt", None)
    with pytest.raises(CheckpointError, match="expands into more data than it contains"):
        read_checkpoint(tmp_path / "bomb.ckpt")


def test_arrays_of_the_same_bytes_are_refused(tmp_path):
    mutated_files.repeated_arrays(tmp_path / "bomb.pkl", None)
    with pytest.raises(CheckpointError, match="expands into more numbers than it contains"):
        read_cloob_pickle(tmp_path / "bomb.pkl")


def test_yaml_that_refers_to_itself_is_refused(tmp_path):
    path = tmp_path / "bomb.yaml"
    layers = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 20)]
    path.write_text("\n".join(["l0: &l0 [x]", *layers]))
    assert yaml.safe_load("a: &a [1]\nb: *a")  # which YAML allows
    with pytest.raises(CheckpointError, match="refers to parts of itself"):
        read_autoencoder_yaml(path)


def test_hostile_pickles_would_do_harm_elsewhere(tmp_path):
    """The opcodes are put together rightly: Python's own unpickler is caught by most of them."""
    caught = 0
    for data in mutated_files.hostile_pickles(tmp_path / "trace").values():
        with contextlib.suppress(Exception):
            pickle.loads(data)
        if (tmp_path / "trace").exists():
            caught += 1
            (tmp_path / "trace").rmdir()
    assert caught >= 7


def test_mutated_and_hostile_files(tmp_path):
    """A short version of `make fuzz`, in a process of its own: it forks."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "mutated_files.py"), "--count", "60"]
    path = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    variables = environment(PYTHONPATH=path)
    result = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "60 files" in result.stdout and "complaints: 0" in result.stdout
