"""Files in the place of a checkpoint: converted where they hold one in another form, else named for what they are."""

import bz2
import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffusers_ccld.original.errors import CheckpointError
from diffusers_ccld.original.inspection import inspect
from diffusers_ccld.original.reading.cloob_pickles import read_cloob_pickle
from diffusers_ccld.original.reading.sources import find_sources
from diffusers_ccld.original.tensors.autoencoder import first_stage
from support import original_files
from support.converter import convert

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2\n"


def png():
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    return data.getvalue()


def zipped(name="unet.ckpt"):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"weights" * 1000)
    return data.getvalue()


def tarred(mode="w"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        entry = tarfile.TarInfo("unet.ckpt")
        entry.size = 7
        archive.addfile(entry, io.BytesIO(b"weights"))
    return data.getvalue()


def torchscript():
    data = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), data)
    return data.getvalue()


FOREIGN = {
    "empty": (b"", "is empty; download it again"),
    "pointer": (LFS, "is a Git LFS pointer, not the file itself"),
    "page": (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", "is a web page, not a model"),
    "page without a type": (b"\xef\xbb\xbf<HTML lang=en>", "is a web page"),
    "zip": (zipped(), r"is a zip archive of 1 file \(unet.ckpt\); unpack it"),
    "tar": (tarred(), "is a tar archive; unpack it"),
    "tar.gz": (tarred("w:gz"), "is a gzip archive; unpack it"),
    "gz": (gzip.compress(b"weights"), "is a gzip archive"),
    "bz2": (bz2.compress(b"weights"), "is a bzip2 archive"),
    "json": (json.dumps({"error": "Repository not found"}).encode(), "is JSON, not weights"),
    "answer": (b"Invalid username or password.", "is a text that begins “Invalid username or password.”"),
    "picture": (png(), "is a PNG picture"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00", "is a NumPy array"),
    "torchscript": (torchscript(), "is a TorchScript program"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_named_for_what_it_is(kind, tmp_path):
    path, (content, message) = tmp_path / "file.ckpt", FOREIGN[kind]
    path.write_bytes(content)
    for read in (
        inspect,
        read_cloob_pickle,
        lambda path: find_sources(unet=path),
        lambda path: find_sources(cloob=path),
        lambda path: find_sources(autoencoder=path),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            read(path)
        assert "truncated" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["ckpt", "safetensors", "pkl"])
def test_only_what_is_truncated_is_called_so(kind, originals, tmp_path):
    whole = {"ckpt": originals.unet, "pkl": originals.cloob}.get(kind, tmp_path / "whole.safetensors")
    if kind == "safetensors":
        save_file({"a": torch.zeros(1000)}, whole)
    path, size = tmp_path / f"file.{kind}", whole.stat().st_size
    read = (lambda path: find_sources(cloob=path)) if kind == "pkl" else (lambda path: find_sources(unet=path))
    path.write_bytes(whole.read_bytes()[: size // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read(path)
    path.write_bytes(np.random.RandomState(0).bytes(1000))
    with pytest.raises(CheckpointError, match="not a") as error:
        read(path)
    assert "truncated" not in str(error.value).replace(str(tmp_path), "")


def named(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


UNET = original_files.unet_state("tiny-64")
AVERAGE = original_files.unet_state("tiny-64", seed=1)
FORMS = {
    "compiled": named("_orig_mod.", UNET),
    "data parallel": named("module.", UNET),
    "of a trainer": named("model.", UNET),
    "of a trainer, compiled, in parallel": {"state_dict": named("module.model._orig_mod.", UNET)},
    "average alone": named("model_ema.", UNET),
    "average alone, of Lightning": {"state_dict": named("model_ema.module.", UNET), "epoch": 3},
    "of AveragedModel": {"n_averaged": torch.tensor(5), **named("module.", UNET)},
    "of ema_pytorch": {**named("online_model.", AVERAGE), **named("ema_model.", UNET), "initted": torch.tensor(True)},
    "nested": {"model": AVERAGE, "ema": UNET, "step": 3, "optimizer": {"state": {}, "param_groups": []}},
    "nested average alone": {"ema_state_dict": UNET, "step": 3},
}


@pytest.mark.parametrize("form", FORMS)
def test_wrapped_unets_are_read(form, tmp_path):
    path = tmp_path / "unet.ckpt"
    torch.save(FORMS[form], path)
    found = find_sources(unet=path)["unet"]
    assert found.state.keys() == UNET.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in UNET.items())
    assert inspect(path)["kind"] in ("U-Net of CCLD", "training checkpoint of CCLD")
    if form in ("of ema_pytorch", "nested"):
        raw = find_sources(unet=path, ema=False)["unet"].state
        assert all(torch.equal(raw[name], tensor) for name, tensor in AVERAGE.items())


def test_an_average_alone_converts(tmp_path):
    torch.save(FORMS["average alone, of Lightning"], tmp_path / "ema.ckpt")
    assert convert("--unet", tmp_path / "ema.ckpt", "--output", tmp_path / "out") == 0
    assert convert("--unet", tmp_path / "ema.ckpt", "--no-ema", "--output", tmp_path / "raw") == 2


def test_safetensors_convert_like_the_files_they_were_made_of(originals, tmp_path):
    state = torch.load(originals.training, weights_only=False)["state_dict"]
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "training.safetensors")
    save_file(UNET, tmp_path / "unet.ckpt")  # a wrong ending
    cloob = read_cloob_pickle(originals.cloob)[0]
    save_file({name: tensor.contiguous() for name, tensor in cloob.items()}, tmp_path / "cloob.safetensors")
    ae = torch.load(originals.autoencoder, weights_only=False)["state_dict"]
    ae = {name: tensor for name, tensor in ae.items() if isinstance(tensor, torch.Tensor)}
    save_file(named("module.", ae), tmp_path / "ae.safetensors")

    sources = find_sources(unet=tmp_path / "training.safetensors")
    assert sources.keys() == {"unet", "vae", "cloob"}
    assert inspect(tmp_path / "training.safetensors")["kind"] == "training checkpoint of CCLD"
    assert inspect(tmp_path / "cloob.safetensors")["kind"] == "CLOOB"
    assert inspect(tmp_path / "ae.safetensors")["kind"].startswith(("autoencoder", "first stage"))
    sources = find_sources(tmp_path / "unet.ckpt", tmp_path / "cloob.safetensors", tmp_path / "ae.safetensors")
    assert all(torch.equal(sources["unet"].state[name], tensor) for name, tensor in UNET.items())
    assert all(torch.equal(sources["cloob"].state[name], tensor) for name, tensor in cloob.items())
    assert "decoder.conv_in.weight" in first_stage(sources["vae"].state)[0]
    files = ("--unet", tmp_path / "unet.ckpt", "--cloob", tmp_path / "cloob.safetensors")
    assert convert(*files, "--autoencoder", tmp_path / "ae.safetensors", "--output", tmp_path / "out") == 0


@pytest.mark.parametrize(
    "content, message",
    [
        ({"shadow_params": [torch.zeros(3)], "decay": 0.9}, "shadow_params. have no names"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(3)}, "a model of Stable Diffusion"),
        ({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(3)}, "in diffusers' format already"),
        ({"unet.down.lora_A.weight": torch.zeros(3)}, "it holds a LoRA"),
        ({"fc.weight": torch.zeros(3)}, "its first tensors are fc.weight"),
        ({**named("a.", UNET), **named("b.", UNET)}, "several U-Nets, a. and b."),
        ({**UNET, **named("module.", UNET)}, "twice, once inside a wrapper"),
    ],
)
def test_files_without_a_unet_are_described(content, message, tmp_path):
    torch.save(content, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match=message):
        find_sources(unet=tmp_path / "file.ckpt")
