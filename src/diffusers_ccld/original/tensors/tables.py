"""Converts state dicts by a table of entries that works in both directions."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from ..errors import CheckpointError

# Conversions between the memory layouts of a weight: (from the original, to the original).
LAYOUTS = {
    "same": (lambda w: w, lambda w: w),
    "conv1x1": (
        lambda w: w.flatten(1),
        lambda w: w[:, :, None, None],
    ),  # a 1×1 convolution in the original, linear here
    "transposed": (lambda w: w.T, lambda w: w.T),  # JAX's linear layers are (in, out)
    "patches": (lambda w: w.permute(3, 2, 0, 1), lambda w: w.permute(2, 3, 1, 0)),  # JAX's convolutions
}


class Entry(NamedTuple):
    """One tensor of the original and the tensors that it is converted to.

    Attributes:
        original: Its name in the original.
        names: Its name here. If there are several, the tensor is split into equal parts along the first axis.
        layout: A key of `LAYOUTS`.
    """

    original: str
    names: tuple[str, ...]
    layout: str = "same"


def from_original(
    state: Mapping[str, torch.Tensor],
    table: Iterable[Entry],
    shapes: Mapping[str, torch.Size],
    ignore: str = r"$^",
    where: str = "the checkpoint",
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Converts a state dict.

    Args:
        state: The original's tensors by name.
        table: The entries that convert them.
        shapes: Shape of every tensor of the model here, by name.
        ignore: Pattern that matches the whole names of tensors that may be ignored.
        where: Name of the state dict in messages.

    Returns:
        The model's state dict, views into `state` where possible, and the names of the ignored tensors.

    Raises:
        CheckpointError: If a tensor is missing, unknown, of the wrong shape or not finite.
    """
    table = [entry for entry in table if entry.names[0] in shapes]
    known = {entry.original for entry in table}
    unknown = [name for name in state if name not in known]
    ignored = [name for name in unknown if re.fullmatch(ignore, name)]
    _complain(where, "lacks", [entry.original for entry in table if entry.original not in state])
    _complain(where, "has unexpected tensors:", [name for name in unknown if name not in ignored])

    converted, misshapen, damaged = {}, [], []
    for entry in table:
        tensor = state[entry.original]
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: {entry.original} is not a tensor of floating-point numbers.")
        if not torch.isfinite(tensor).all():
            damaged.append(entry.original)
        try:
            parts = LAYOUTS[entry.layout][0](tensor).chunk(len(entry.names))
        except (RuntimeError, IndexError):
            parts = ()
        if [part.shape for part in parts] != [shapes[name] for name in entry.names]:
            misshapen.append(f"{entry.original} {tuple(tensor.shape)}")
            continue
        converted.update(zip(entry.names, parts))
    _complain(where, "has tensors of the wrong shape:", misshapen)
    _complain(where, "has NaN or infinite values in", damaged)
    if absent := shapes.keys() - converted.keys():
        raise CheckpointError(f"{where} lacks the tensors for {', '.join(sorted(absent)[:5])}.")
    return converted, ignored


def to_original(state: Mapping[str, torch.Tensor], table: Iterable[Entry]) -> dict[str, torch.Tensor]:
    """The inverse of `from_original`."""
    return {
        entry.original: LAYOUTS[entry.layout][1](torch.cat([state[name] for name in entry.names])).contiguous()
        for entry in table
        if entry.names[0] in state
    }


def _complain(where, what, names):
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise CheckpointError(f"{where} {what} {', '.join(names[:5])}{more}.")
