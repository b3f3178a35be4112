"""Pictures beside one another."""

import math
from collections.abc import Sequence

from diffusers.utils import make_image_grid
from PIL import Image


def image_grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """A grid of pictures of one size, row by row; places that are left over are white."""
    rows = math.ceil(len(pictures) / columns)
    blank = Image.new("RGB", pictures[0].size, "white")
    return make_image_grid([*pictures, *[blank] * (rows * columns - len(pictures))], rows, columns)
