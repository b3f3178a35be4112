"""Shared fixtures: small models with weights that follow from their names, and files in the original's formats."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from types import SimpleNamespace

import pytest
import torch

import diffusers_ccld
import original_files
from diffusers_ccld.original.conversion import convert


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
    convert(
        folder,
        unet=originals.unet,
        cloob=originals.cloob,
        cloob_config=originals.cloob_config,
        autoencoder=originals.autoencoder,
    )
    return folder


@pytest.fixture
def pipe(pipeline_folder):
    """The small pipeline, loaded."""
    pipe = diffusers_ccld.CCLDPipeline.from_pretrained(pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
