"""Imports the original's code from a user's checkout and runs it with the weights of a pipeline of ours.

git clone --recursive https://github.com/JD-P/cloob-latent-diffusion
"""

import copy
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import packaging.version
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.original.export import autoencoder_state, unet_state
from diffusers_ccld.original.tensors.cloob import cloob_table
from diffusers_ccld.original.tensors.tables import to_original

# Modules that the original imports, in versions of 2022, but that the compared code does not use.
UNUSED = {"main", "omegaconf", "pytorch_lightning", "taming", "wandb"}
SUBMODULES = ("cloob-training", "CLIP", "latent-diffusion", "v-diffusion-pytorch")


class StandIn(ModuleType):
    """A module that has an attribute of every name: `nn.Module` for Lightning's base class, otherwise `Anything`."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return nn.Module if name == "LightningModule" else Anything


class Anything:
    """Accepts any arguments and does nothing."""

    def __init__(self, *args, **kwargs):
        pass


class StandInFinder(MetaPathFinder, Loader):
    """Finds stand-ins for unused modules."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self) if fullname.partition(".")[0] in UNUSED else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


class OriginalCode(NamedTuple):
    """Modules of the original.

    Attributes:
        training: `train_latent_diffusion.py`, with the U-Net.
        autoencoder: `ldm/models/autoencoder.py` of latent-diffusion.
        cloob: `cloob_training/model_pt.py` of cloob-training.
        pretrained: `cloob_training/pretrained.py`, with the published configurations.
        sampling: `diffusion/sampling.py` of v-diffusion-pytorch.
        schedules: `diffusion/utils.py` of v-diffusion-pytorch.
    """

    training: ModuleType
    autoencoder: ModuleType
    cloob: ModuleType
    pretrained: ModuleType
    sampling: ModuleType
    schedules: ModuleType


def import_original(folder: Path) -> OriginalCode:
    """Imports the original, and adds its folders to the module search path of this process.

    The original is a set of scripts, not a package: it cannot be imported in another way.

    Raises:
        ValueError: If a part of it is missing, or imports a module that is not installed.
    """
    missing = [name for name in ("train_latent_diffusion.py", *SUBMODULES) if not (folder / name).exists()]
    if missing:
        raise ValueError(f"--original {folder} lacks {', '.join(missing)}. Clone it with `git clone --recursive`.")
    sys.path += [str(folder), *(str(folder / name) for name in SUBMODULES)]
    sys.meta_path.insert(0, StandInFinder())
    if importlib.util.find_spec("pkg_resources") is None:  # setuptools no longer has it; CLIP takes a library from it
        sys.modules["pkg_resources"] = ModuleType("pkg_resources")
        sys.modules["pkg_resources"].packaging = packaging
    names = (
        "train_latent_diffusion",
        "ldm.models.autoencoder",
        "cloob_training.model_pt",
        "cloob_training.pretrained",
        "diffusion.sampling",
        "diffusion.utils",
    )
    try:
        return OriginalCode(*map(importlib.import_module, names))
    except ImportError as error:
        raise ValueError(f"--original {folder}: it cannot be imported. ({error})") from error


class Original:
    """The original's networks with the weights of a pipeline, run as its `cfg_sample.py` and its training run them.

    Args:
        code: The code.
        pipe: The pipeline: 105M U-Net, kl-f8 autoencoder, CLOOB of the published size.
        cloob_config: Name of CLOOB's published configuration.
    """

    def __init__(self, code: OriginalCode, pipe: CCLDPipeline, cloob_config: str):
        self.code, self.latent_scale = code, 1 / pipe.vae.config.scaling_factor
        self.unet = code.training.DiffusionModel(192, [1, 1, 2, 2], autoencoder_scale=torch.tensor(self.latent_scale))
        self.unet.load_state_dict(unet_state(pipe.unet, self.latent_scale))
        self.unet.eval().requires_grad_(False)
        ddconfig = {
            "double_z": True,
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 128,
            "ch_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "attn_resolutions": [],
            "dropout": 0.0,
        }
        self.vae = code.autoencoder.AutoencoderKL(ddconfig, {"target": "torch.nn.Identity"}, embed_dim=4)
        self.vae.load_state_dict(autoencoder_state(pipe.vae))
        self.vae.eval().requires_grad_(False)
        self.cloob = code.cloob.get_pt_model(code.pretrained.get_config(cloob_config))
        state = {}
        for name in ("text_encoder", "image_encoder"):
            model = getattr(pipe, name)
            state |= to_original(model.state_dict(), cloob_table(name, model.config.num_hidden_layers, is_jax=False))
        self.cloob.load_state_dict(state)
        self.cloob.eval().requires_grad_(False)

    def network(self, latents: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """Calls the U-Net once."""
        return self.unet(latents, t, embeds)

    def text(self, prompt: str) -> torch.Tensor:
        """Embeds a prompt."""
        return self.cloob.text_encoder(self.cloob.tokenize(prompt)).float()

    def loop(self, noise: torch.Tensor, embeds: torch.Tensor, num_steps: int, guidance_scale: float) -> torch.Tensor:
        """Samples latents from noise."""
        conditions = torch.cat([torch.zeros_like(embeds), embeds])
        weights = torch.tensor([1 - guidance_scale, guidance_scale])

        def guided(x, t):
            both = self.unet(x.repeat(2, 1, 1, 1), t.repeat(2), conditions.repeat_interleave(len(x), 0))
            return (both.view(2, *x.shape) * weights[:, None, None, None, None]).sum(0)

        steps = self.code.schedules.get_spliced_ddpm_cosine_schedule(torch.linspace(1, 0, num_steps + 1)[:-1])
        return self.code.sampling.plms_sample(guided, noise, steps, {})

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes latents to pixels in [−1, 1]."""
        return self.vae.decode(latents * self.latent_scale)

    def start_training(self) -> None:
        """Makes the optimizer and the EMA."""
        self.unet.train().requires_grad_(True)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_("timestep_embed" not in name)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=3e-5, weight_decay=0.01)
        self.average = copy.deepcopy(self.unet)

    def training_step(self, pixels: torch.Tensor) -> None:
        """One training step of `LightningDiffusion`."""
        with torch.no_grad():
            small = F.interpolate(pixels, (224, 224), mode="bicubic", align_corners=False)
            condition = self.cloob.image_encoder(self.cloob.normalize(small))
            latents = self.vae.encode(pixels * 2 - 1).sample() / self.latent_scale
        t, noise = torch.rand(len(pixels)), torch.randn_like(latents)
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in self.code.training.get_alphas_sigmas(t))
        prediction = self.unet(latents * alpha + noise * sigma, t, condition)
        F.mse_loss(prediction, noise * alpha - latents * sigma).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.code.training.ema_update(self.unet, self.average, 0.99)
