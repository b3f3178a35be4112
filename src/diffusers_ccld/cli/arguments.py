"""Arguments that several commands and scripts share."""

import argparse
import math
from pathlib import Path

from PIL import Image

from ..data.decoding import BadImageError, ImageLimits, open_picture
from ..inference.devices import DTYPES
from ..sharing.hub import check_hub_arguments, prepare_repository


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
    """Gives a script's parser the flags that training runs have as settings."""
    add = parser.add_argument
    add("--push_to_hub", action="store_true", help="upload the result to the Hub")
    add("--hub_model_id", metavar="NAME", help="name of the result on the Hub (default: the output folder's)")
    add("--hub_private_repo", action="store_true", help="create the repository for its owner's eyes alone")


def chosen_repository(arguments: argparse.Namespace, name: str) -> str | None:
    """The repository that a script's flags ask to upload to, made sure of, or `None`.

    Args:
        arguments: What was parsed of `add_hub_arguments`.
        name: Its name where they give none.

    Raises:
        ValueError: If it cannot be written, or flags do not go together.
    """
    check_hub_arguments(arguments.push_to_hub, arguments.hub_model_id, arguments.hub_private_repo)
    if not arguments.push_to_hub:
        return None
    return prepare_repository(arguments.hub_model_id or name, arguments.hub_private_repo)
