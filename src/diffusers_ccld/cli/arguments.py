"""Options that several commands and scripts share. Importing it does not import torch."""

import argparse
import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..inference.names import PRECISIONS
from ..schedulers.names import ALGORITHMS
from ..utils.arguments import number, whole
from ..utils.hub_names import require_hub_name
from ..utils.suggestions import path_suggestion

if TYPE_CHECKING:
    from PIL import Image

LAST_SEED = 2**63 - 1  # the generators' largest one that has a sign
LONGEST_SIDE = 4096
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


pixels = whole(8, LONGEST_SIDE)

# The options that several commands have.
OPTIONS: dict[str, dict[str, Any]] = {
    "--model": {"metavar": "DIR", "help": "folder or Hub name of a pipeline (default: the bundled small model)"},
    "--steps": {
        "type": whole(1, 1000),
        "metavar": "N",
        "help": "number of sampling steps (default: the model's; without one 10 for dpmpp and unipc, 50 for others)",
    },
    "--seed": {
        "type": whole(0, LAST_SEED),
        "default": 0,
        "metavar": "SEED",
        "help": "seed of the first picture; each further picture takes the next seed (default: %(default)s)",
    },
    "--guidance-scale": {
        "type": number(),
        "metavar": "G",
        "help": "guidance scale of prompts without a weight (default: the model's, without one 3)",
    },
    "--guidance-interval": {
        "type": number(0, 1),
        "nargs": 2,
        "metavar": ("FROM", "TO"),
        "help": "apply guidance only between these times, from 0 (the image) to 1 (the noise) (default: always)",
    },
    "--variation": {
        "type": number(0, 1),
        "metavar": "V",
        "help": "spread of the pictures around a prompt, 0 to 1, for models with a fitted text encoder (default: the "
        "model's, without one 0)",
    },
    "--algorithm": {"choices": ALGORITHMS, "help": "sampling algorithm (default: the model's)"},
    "--height": {"type": pixels, "metavar": "PIXELS", "help": "height of the pictures (default: the model's)"},
    "--width": {"type": pixels, "metavar": "PIXELS", "help": "width of the pictures (default: the model's)"},
    "--batch-size": {
        "type": whole(1),
        "default": 4,
        "metavar": "N",
        "help": "number of pictures to sample at once (default: %(default)s)",
    },
    "--device": {"help": "device to run on (default: the GPU if there is one)"},
    "--dtype": {
        "choices": ["auto", *PRECISIONS],
        "default": "auto",
        "help": "precision (default: bf16 if the hardware computes in it, else fp32)",
    },
    "--compile": {
        "action": "store_true",
        "help": "compile the networks: faster sampling, after a minute for each size, batch size and prompt count",
    },
    "--output": {"type": Path, "metavar": "DIR", "help": "folder to write to (default: %(default)s)"},
    "--overwrite": {"action": "store_true", "help": "replace what is there under the given name"},
    "--yes": {"action": "store_true", "help": "paint what looks like a mistake, too"},
    "--dry-run": {"action": "store_true", "help": "check everything and print what would be done, but do nothing"},
}


SHORT = {"--output": ("-o",), "--yes": ("-y",)}


def add_option(parser: argparse.ArgumentParser, name: str, **changes: Any) -> None:
    """Adds one of `OPTIONS` to a parser; `changes` replace its settings."""
    parser.add_argument(*SHORT.get(name, ()), name, **(OPTIONS[name] | changes))


def parse_weighted(text: str) -> tuple[str, float | None]:
    """Splits "a rose:2.5" into text and weight. A suffix that is not a number belongs to the text.

    Raises:
        ValueError: Without text before the weight.
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
    """Splits "rose.png:2.5" into path and weight, unless a file has the whole text as its name."""
    if os.path.isfile(text):  # False for a name that is too long, too
        return Path(text), None
    head, weight = parse_weighted(text)
    return Path(head), weight


def _as_given(option: str, value: object) -> str:
    """An argument as messages name it: with its option, if it has one."""
    return f"{option} {value}".lstrip()


def require_file(path: Path, option: str) -> None:
    """Raises `ValueError` unless there is a file at a path.

    Args:
        path: The path.
        option: The option that gave it; "" for an argument without one.
    """
    given = _as_given(option, path)
    if path.is_dir():
        raise ValueError(f"{given}: this is a folder, not a file.")
    if not path.is_file():
        is_address = "://" in str(path) or ":/" in str(path)
        advice = " An address is not fetched; download it first." if is_address else path_suggestion(path)
        raise ValueError(f"{given}: the file does not exist.{advice}")


def require_folder(path: Path, option: str) -> None:
    """Raises `ValueError` unless there is a folder at a path that an option gave."""
    if not path.is_dir():
        is_missing = f"the folder does not exist.{path_suggestion(path, is_folder=True)}"
        raise ValueError(f"{_as_given(option, path)}: {'this is not a folder.' if path.exists() else is_missing}")


def require_model(name: str | None, option: str = "--model") -> None:
    """Raises `ValueError` if an option gave neither an existing folder nor a possible name on the Hub."""
    if name is None or Path(os.path.expanduser(name)).is_dir():
        return
    if Path(name).is_file():
        raise ValueError(f"{_as_given(option, name)}: this is a file; `ccld convert` makes a pipeline's folder.")
    if name != "default":
        require_hub_name(name, option)


def open_image(path: Path, option: str = "--image") -> "Image.Image":
    """Decodes an image file to RGB as training does, so that an unusable one is found before any work.

    Args:
        path: The file.
        option: The option that gave it, for messages; "" for an argument without one.

    Raises:
        ValueError: If the file does not exist or cannot be decoded.
    """
    require_file(path, option)
    from ..data.decoding import BadImageError, ImageLimits, open_picture

    try:
        return open_picture({"path": path}, ImageLimits(min_side=1))
    except BadImageError as error:
        given = _as_given(option, path)
        raise ValueError(f"{given}: the file is not an image, or not a usable one. ({error})") from error


def require_interval(interval: list[float] | None) -> None:
    """Raises `ValueError` unless the times of --guidance-interval are in their order."""
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(f"--guidance-interval {interval[0]:g} {interval[1]:g}: the first time is the smaller one.")


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of an upload to a script's parser as flags."""
    from ..sharing.hub import HubSettings

    for field in dataclasses.fields(HubSettings):
        options = {"action": "store_true"} if field.default is False else {"metavar": "NAME"}
        parser.add_argument(f"--{field.name}", help=field.metadata["help"], **options)


def chosen_repository(arguments: argparse.Namespace, name: str) -> str | None:
    """Prepares the repository of a script's upload flags, and returns its full name; `None` without an upload.

    Args:
        arguments: The parsed arguments, with those of `add_hub_arguments`.
        name: The repository's name if the flags do not give one.

    Raises:
        ValueError: If the repository cannot be written, or flags contradict one another.
    """
    from ..sharing.hub import HubSettings

    settings = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(HubSettings)}
    return HubSettings(**settings).prepare_repository(name)
