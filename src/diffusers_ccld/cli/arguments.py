"""Arguments that several commands and scripts share."""

import argparse
import dataclasses
import math
from pathlib import Path

from PIL import Image

from ..data.decoding import BadImageError, ImageLimits, open_picture
from ..inference.devices import DTYPES
from ..sharing.hub import HubSettings


def parse_weighted(text: str) -> tuple[str, float | None]:
    """Splits "a red fox:2.5" into text and weight; a suffix that is no number belongs to the text.

    Raises:
        ValueError: If no text is left before the weight.
    """
    head, colon, tail = text.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        return text, None
    if not colon or not math.isfinite(weight):
        return text, None
    if not head.strip():
        raise ValueError(f"{text!r} needs a text before the colon.")
    return head, weight


def parse_weighted_file(text: str) -> tuple[Path, float | None]:
    """Splits "fox.png:2.5" likewise; a file of the whole name goes first."""
    if Path(text).is_file():
        return Path(text), None
    head, weight = parse_weighted(text)
    return Path(head), weight


def open_image(path: Path) -> Image.Image:
    """Decodes an image file to RGB as training does, so that an unusable one is found before any work.

    Raises:
        ValueError: If the file does not exist or cannot be decoded.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. (An address is not fetched; download it first.)")
    try:
        return open_picture({"path": path}, ImageLimits(min_side=1))
    except BadImageError as error:
        raise ValueError(f"{path}: the file is not an image, or not a usable one. ({error})") from error


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of a command that paints its `--device` and `--dtype`."""
    add = parser.add_argument
    add("--device", help="device to run on (default: the GPU if there is one)")
    add(
        "--dtype",
        choices=["auto", *DTYPES],
        default="auto",
        help="precision to run in (default: bf16 where the hardware computes in it, else fp32)",
    )


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of a command that paints with one model its `--compile`."""
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the networks to paint faster, after a minute for every size, batch and number of conditions",
    )


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of an upload to a script's parser as flags."""
    for field in dataclasses.fields(HubSettings):
        options = {"action": "store_true"} if field.default is False else {"metavar": "NAME"}
        parser.add_argument(f"--{field.name}", help=field.metadata["help"], **options)


def chosen_repository(arguments: argparse.Namespace, name: str) -> str | None:
    """The repository that a script's flags ask to upload to, ready to be written; `None` without an upload.

    Args:
        arguments: What was parsed of `add_hub_arguments`.
        name: Its name where they give none.

    Raises:
        ValueError: If it cannot be written, or flags do not go together.
    """
    settings = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(HubSettings)}
    return HubSettings(**settings).prepare_repository(name)
