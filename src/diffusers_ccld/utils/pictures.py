"""Pictures beside one another, and as files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers.utils import make_image_grid
from PIL import Image

from .files import moved_into_place


def image_grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """A grid of pictures of one size, row by row; places that are left over are white."""
    rows = math.ceil(len(pictures) / columns)
    blank = Image.new("RGB", pictures[0].size, "white")
    return make_image_grid([*pictures, *[blank] * (rows * columns - len(pictures))], rows, columns)


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Saves a PNG file; `options` are those of `PIL.Image.Image.save`."""
    with moved_into_place(path) as temporary:
        image.save(temporary, format="PNG", **options)
