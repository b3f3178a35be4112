"""Grids of images, and PNG files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .files import moved_into_place

LARGE_TEXT = "The picture's file has a text or a colour profile of more than 1 MB, which is not read."


def image_grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Arranges images of one size in a grid, row by row; unused cells are white."""
    width, height = pictures[0].size
    grid = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, (i % columns * width, i // columns * height))
    return grid


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Saves a PNG file, which appears complete or not at all; `options` as for `PIL.Image.Image.save`."""
    with moved_into_place(path) as temporary:
        image.save(temporary, format="PNG", **options)


def has_large_text(error: Exception) -> bool:
    """True if Pillow did not open a PNG file because of its `LARGE_TEXT`."""
    return isinstance(error, ValueError) and "MAX_TEXT" in str(error)
