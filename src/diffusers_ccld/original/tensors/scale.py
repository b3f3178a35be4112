"""Finds the constant that latents are multiplied by before decoding; the published files disagree about it."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..published.presets import PRESETS
from .unet import SCALE_BUFFER

SCALE_TOLERANCE = 1e-3  # relative; the published values have that many digits


@dataclass
class Scale:
    """The constant that latents are multiplied by before decoding, and its source."""

    value: float
    origin: str


def stored_scale(state: Mapping[str, torch.Tensor]) -> float | None:
    """The scale in a U-Net's state dict; `None` if it has none.

    Raises:
        CheckpointError: If it is not a positive number.
    """
    if SCALE_BUFFER not in state:
        return None
    buffer = state[SCALE_BUFFER]
    value = float(buffer) if buffer.numel() == 1 and buffer.is_floating_point() else math.nan
    if not (math.isfinite(value) and value > 0):
        raise CheckpointError(f"The U-Net's file has {SCALE_BUFFER} = {str(buffer)[:80]}, which is not a scale.")
    return value


def choose_scale(
    flag: float | None,
    preset: str | None,
    stored: float | None,
    block_out_channels: tuple[int, ...] | None,
    warn: Callable[[str], None],
) -> Scale:
    """Chooses the autoencoder scale: the flag's, else the preset's, else that of the buffer in the U-Net's file.

    The published models contain buffers, but the script published with them decodes with a constant of its own. If the
    two differ and neither flag nor preset is given, neither of them is a safe choice.

    Raises:
        CheckpointError: If the scale is unknown, or the buffer of a published size contradicts the published value.
    """
    if flag is not None:
        chosen = Scale(flag, "--autoencoder-scale")
    elif preset is not None:
        chosen = Scale(PRESETS[preset].autoencoder_scale, f"preset {preset}")
    elif stored is not None:
        alike = {n: p for n, p in PRESETS.items() if p.block_out_channels == tuple(block_out_channels)}
        if alike and not any(_close(p.autoencoder_scale, stored) for p in alike.values()):
            name, known = next(iter(alike.items()))
            raise CheckpointError(
                f"The scale is ambiguous. The U-Net's file says {SCALE_BUFFER} = {stored:.6g}, but the published "
                f"model of this size decodes with {known.autoencoder_scale:.6g}. For the published model give "
                f"--preset {name}; for your own model give --autoencoder-scale {stored:.6g}."
            )
        chosen = Scale(stored, f"the U-Net's file ({SCALE_BUFFER})")
    else:
        raise CheckpointError(
            "The autoencoder's scale is unknown: give --autoencoder-scale X, the factor of the latents before "
            "decoding, or --preset for a published model."
        )
    if stored is not None and not _close(chosen.value, stored):
        warn(f"The scale {chosen.value:.6g} of {chosen.origin} is used; the U-Net's file says {stored:.6g}.")
    if flag is not None and preset is not None and not _close(flag, PRESETS[preset].autoencoder_scale):
        warn(f"The scale {flag:.6g} is used; the preset {preset} says {PRESETS[preset].autoencoder_scale:.6g}.")
    return chosen


def _close(a, b):
    return math.isclose(a, b, rel_tol=SCALE_TOLERANCE)


def warn_of_other_scale(stored: float, vae_config: Path, warn: Callable[[str], None]) -> None:
    """Warns if the scale of a folder's autoencoder differs from the scale in a new U-Net's file."""
    kept = 1 / json.loads(vae_config.read_text(encoding="utf-8"))["scaling_factor"]
    if not _close(stored, kept):
        warn(
            f"The folder's autoencoder decodes with {kept:.6g} and was left as it is; the U-Net's file says "
            f"{stored:.6g}. To change it, convert the autoencoder again with --autoencoder-scale."
        )
