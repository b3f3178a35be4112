"""Prompts and image prompts as the commands take them: a text or a file, and perhaps a weight."""

import math
from pathlib import Path

from PIL import Image, UnidentifiedImageError


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
    """Opens an image prompt whole, so that a damaged file is found before any work.

    Raises:
        ValueError: If there is no such file, or it is no image.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. (An address is not fetched; download it first.)")
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the file is no image, or a damaged one. ({error})") from error
    return image
