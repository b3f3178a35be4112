"""Finds the original's three models in files. A file may contain one of them or all."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..tensors.unet import TRAINING_SCALE, split_training_checkpoint
from .checkpoints import read_checkpoint, state_dict_of
from .cloob_pickles import read_cloob_pickle


@dataclass
class Source:
    """A state dict in one of the original's formats, its file, and the names of the file's ignored entries."""

    state: dict[str, torch.Tensor]
    path: Path
    what: str
    ignored: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path} ({self.what})"


def find_sources(
    unet: str | Path | None = None,
    cloob: str | Path | None = None,
    autoencoder: str | Path | None = None,
    ema: bool = True,
) -> dict[str, Source]:
    """Opens the files and finds the state dicts in them, by "unet", "vae" and "cloob".

    Raises:
        CheckpointError: If a file cannot be read, or lacks a requested model.
    """
    sources = {}
    if unet is not None:
        sources = _unet_sources(Path(unet), ema)
    if cloob is not None:
        state, ignored = read_cloob_pickle(cloob)
        _put(sources, "cloob", Source(state, Path(cloob), "CLOOB pickle", ignored))
    if autoencoder is not None:
        checkpoint, path = read_checkpoint(autoencoder), Path(autoencoder)
        ignored = []
        if "state_dict" in checkpoint:
            ignored = [str(key) for key in checkpoint if key != "state_dict"]
            checkpoint = checkpoint["state_dict"]
        _put(sources, "vae", Source(state_dict_of(checkpoint, path), path, "autoencoder", ignored))
    return sources


def _put(sources, name, source):
    """Adds a source. If it replaces one inside the training checkpoint, the tensors of that one count as ignored."""
    if name in sources:
        prefix = {"vae": "ae_model", "cloob": "cloob"}[name]
        sources["unet"].ignored += [f"{prefix}.{tensor}" for tensor in sources[name].state]
    sources[name] = source


def _unet_sources(path: Path, ema: bool) -> dict[str, Source]:
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        if not ema:
            raise CheckpointError(f"{path} contains only one set of weights; leave out --no-ema.")
        return {"unet": Source(state_dict_of(checkpoint, path), path, "bare U-Net")}

    state = state_dict_of(checkpoint["state_dict"], path)
    chosen, other = ("model_ema", "model") if ema else ("model", "model_ema")
    if not any(name.startswith(f"{chosen}.") for name in state):
        hint = " Give --no-ema to use the raw ones." if ema and any(n.startswith("model.") for n in state) else ""
        raise CheckpointError(f"{path}: the training checkpoint has no {chosen}.* weights.{hint}")
    parts = split_training_checkpoint(state)
    left_out = [str(key) for key in checkpoint if key != "state_dict"] + [n for n in state if n == TRAINING_SCALE]
    left_out += [f"{other}.{name}" for name in parts.get(other, ())]
    what = "averaged weights" if ema else "raw weights"
    sources = {"unet": Source(parts[chosen], path, f"training checkpoint, {what}", left_out)}
    for name, part in (("vae", "ae_model"), ("cloob", "cloob")):
        if part in parts:
            sources[name] = Source(parts[part], path, f"training checkpoint, {part}")
    return sources
