"""Where to compute, and in which precision."""

import argparse

import torch

from .errors import first_line

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of a command that paints its `--device` and `--dtype`."""
    add = parser.add_argument
    add("--device", help="device to run on (default: the GPU if there is one)")
    add("--dtype", choices=list(DTYPES), default="fp32", help="precision to run in (default: fp32)")


def usable_device(name: str | None) -> torch.device:
    """The device of a name, or the best there is.

    Raises:
        ValueError: If there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: there is no such device. ({first_line(error)})") from error
