"""Shared fixtures: small models with weights that follow from their names, and files in the original's formats."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import diffusers_ccld
from diffusers_ccld.original.conversion import convert
from diffusers_ccld.original.request import ConversionRequest
from support import original_files, picture_files
from support.scripts import run_here


@pytest.fixture(scope="session")
def originals(tmp_path_factory) -> SimpleNamespace:
    """A small U-Net, CLOOB and autoencoder as the original would have published them."""
    folder = tmp_path_factory.mktemp("originals")
    return SimpleNamespace(
        folder=folder,
        unet=original_files.write_unet(folder / "unet.ckpt", "tiny-64"),
        cloob=original_files.write_cloob(folder / "cloob.pkl", "tiny"),
        cloob_config=original_files.write_cloob_config(folder / "cloob.json", "tiny"),
        autoencoder=original_files.write_autoencoder(folder / "autoencoder.ckpt", "kl-f8-tiny"),
        autoencoder_config=folder / "autoencoder.yaml",
        training=original_files.write_training_checkpoint(folder / "training.ckpt", "tiny-64", "tiny", "kl-f8-tiny"),
    )


@pytest.fixture(scope="session")
def pipeline_folder(originals, tmp_path_factory):
    """The small pipeline, converted."""
    folder = tmp_path_factory.mktemp("converted") / "pipeline"
    request = ConversionRequest(
        output=folder,
        unet=originals.unet,
        cloob=originals.cloob,
        cloob_config=originals.cloob_config,
        autoencoder=originals.autoencoder,
    )
    convert(request)
    return folder


@pytest.fixture
def pipe(pipeline_folder):
    """The small pipeline, loaded."""
    pipe = diffusers_ccld.CCLDPipeline.from_pretrained(pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def trainable_folder(pipeline_folder, tmp_path_factory):
    """A pipeline that trains in moments: a U-Net of two levels for 32-pixel images, an autoencoder of little noise."""
    pipe = diffusers_ccld.CCLDPipeline.from_pretrained(pipeline_folder)
    torch.manual_seed(0)
    pipe.unet = diffusers_ccld.CCLDUNet2DConditionModel(
        sample_size=4, block_out_channels=(64, 64), layers_per_block=1, mapping_dim=64
    )
    with torch.no_grad():
        pipe.vae.quant_conv.weight[4:] = 0
        pipe.vae.quant_conv.bias[4:] = -12
    pipe.vae.register_to_config(scaling_factor=2.0)
    folder = tmp_path_factory.mktemp("trainable") / "pipeline"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def fitted_folder(trainable_folder, tmp_path_factory):
    """The same pipeline with a residual factor, and with a guidance scale and a variation of its own."""
    pipe = diffusers_ccld.CCLDPipeline.from_pretrained(trainable_folder)
    pipe.text_encoder.set_residual_factor(0.05 * torch.eye(512))
    pipe.register_to_config(default_guidance_scale=1.75, default_variation=0.25)
    folder = tmp_path_factory.mktemp("fitted") / "pipeline"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 24 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    picture_files.write_pictures(folder, 24)
    return folder


@pytest.fixture(scope="session")
def cache(trainable_folder, pictures, tmp_path_factory):
    """Latents and embeddings of these pictures, computed in advance."""
    folder = tmp_path_factory.mktemp("cache")
    options = ("--model", trainable_folder, "--dataset", pictures, "--output", folder, "--dataloader_num_workers", 0)
    assert run_here("training/precompute.py", *options) == 0
    return folder


@pytest.fixture(scope="session")
def paintings(tmp_path_factory):
    """A folder of 48 paintings by code, with captions, saved by `datasets`."""
    import datasets

    folder = tmp_path_factory.mktemp("paintings")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        options = ("--num_images", 48, "--num_proc", 1, "--output", folder / "set")
        assert run_here("training/make_paintings.py", *options) == 0
    return folder / "set"


class FakeHub:
    """Takes the Hub's place, and notes what it is asked for.

    Attributes:
        created: Names of repositories and whether they are private.
        uploads: Files by repository, each by its path.
        refuses: The call that fails, of the three.
    """

    def __init__(self):
        self.created, self.uploads, self.refuses = [], {}, None

    def create_repo(self, repo_id, private=None, exist_ok=False, **options):
        self._answer("create_repo")
        self.created.append((repo_id, private))
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"somebody/{repo_id}")

    def auth_check(self, repo_id, write=False):
        assert write
        self._answer("auth_check")

    def upload_folder(self, repo_id, folder_path, ignore_patterns=(), **options):
        self._answer("upload_folder")
        paths = [path for path in Path(folder_path).rglob("*") if path.is_file() and path.name not in ignore_patterns]
        self.uploads[repo_id] = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in paths}
        return f"https://huggingface.co/{repo_id}/tree/main"

    def _answer(self, call):
        if call == self.refuses:
            raise OSError("403 Forbidden.\nmore")


@pytest.fixture
def hub(monkeypatch) -> FakeHub:
    """The Hub, without a network."""
    fake = FakeHub()
    for call in ("create_repo", "auth_check", "upload_folder"):
        monkeypatch.setattr(f"huggingface_hub.HfApi.{call}", staticmethod(getattr(fake, call)))
    monkeypatch.setattr("diffusers.utils.hub_utils.create_repo", fake.create_repo)
    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", fake.upload_folder)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.create_repo", fake.create_repo)
    return fake


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
