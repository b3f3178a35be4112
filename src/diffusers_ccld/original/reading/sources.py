"""Finds the original's three models in files. A file may contain one of them or all."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import CheckpointError, check_file
from ..tensors.cloob import cloob_in
from ..tensors.unet import A_NAME, FIRST_LAYER, TRAINING_SCALE, canonical_names, split_training_checkpoint
from .checkpoints import is_archive
from .cloob_pickles import read_cloob_pickle
from .kinds import is_safetensors
from .weights import read_weights, what_else


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
        _put(sources, "cloob", _cloob_source(check_file(cloob)))
    if autoencoder is not None:
        state, others = read_weights(autoencoder)
        _put(sources, "vae", Source(state, Path(autoencoder), "autoencoder", list(others)))
    return sources


def _cloob_source(path: Path) -> Source:
    """A CLOOB in a pickle of its own, or by name in a safetensors or PyTorch file."""
    if not is_safetensors(path) and not is_archive(path):
        state, ignored = read_cloob_pickle(path)
        return Source(state, path, "CLOOB pickle", ignored)
    found, others = read_weights(path)
    state, left_out = cloob_in(found)
    if not state:
        raise CheckpointError(f"{path} has no CLOOB{what_else(found)}.")
    return Source(state, path, "CLOOB by name", [*others, *left_out])


def _put(sources, name, source):
    """Adds a source. If it replaces one inside the training checkpoint, the tensors of that one count as ignored."""
    if name in sources:
        prefix = {"vae": "ae_model", "cloob": "cloob"}[name]
        sources["unet"].ignored += [f"{prefix}.{tensor}" for tensor in sources[name].state]
    sources[name] = source


def _unet_sources(path: Path, ema: bool) -> dict[str, Source]:
    found, others = read_weights(path)
    if not any(name.endswith((A_NAME, FIRST_LAYER)) for name in found):
        raise CheckpointError(f"{path} has no U-Net of CCLD{what_else(found)}.")
    state = canonical_names(found)
    if not any(name.startswith(("model.", "model_ema.")) for name in state):
        if not ema and A_NAME in found:
            raise CheckpointError(f"{path} contains only one set of weights; leave out --no-ema.")
        return {"unet": Source(state, path, "bare U-Net", list(others))}

    chosen, other = ("model_ema", "model") if ema else ("model", "model_ema")
    if not any(name.startswith(f"{chosen}.") for name in state):
        hint = " Give --no-ema to use the raw ones." if ema and any(n.startswith("model.") for n in state) else ""
        raise CheckpointError(f"{path}: the training checkpoint has no {chosen}.* weights.{hint}")
    parts = split_training_checkpoint(state)
    left_out = [*others, *(name for name in state if name == TRAINING_SCALE)]
    left_out += [f"{other}.{name}" for name in parts.get(other, ())]
    what = "averaged weights" if ema else "raw weights"
    sources = {"unet": Source(parts[chosen], path, f"training checkpoint, {what}", left_out)}
    for name, part in (("vae", "ae_model"), ("cloob", "cloob")):
        if part in parts:
            sources[name] = Source(parts[part], path, f"training checkpoint, {part}")
    return sources
