"""Any picture file becomes a training image, or is found to be no good."""

import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps


class BadImageError(ValueError):
    """A picture that cannot be trained on. The message says why."""


class ImageLimits(NamedTuple):
    """Which pictures are refused.

    Attributes:
        min_side: The shorter side's least length in pixels.
        max_pixels: Most pixels; larger pictures are refused before they are decoded.
    """

    min_side: int = 32
    max_pixels: int = 100_000_000


def open_picture(source: Mapping[str, Any] | None, limits: ImageLimits) -> Image.Image:
    """Decodes a picture of any format and mode to RGB, upright.

    Args:
        source: The file's "bytes", or else its "path", as an undecoded `datasets.Image` has them.
        limits: Which pictures to refuse.

    Raises:
        BadImageError: If the picture is missing, damaged, truncated, tiny or enormous.
    """
    if source is None:
        raise BadImageError("there is no picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd EXIF data; the limits decide
            data = source.get("bytes")
            with Image.open(io.BytesIO(data) if data is not None else Path(source["path"])) as image:
                if min(image.size) < limits.min_side:
                    raise BadImageError(f"{image.width}×{image.height} pixels, and {limits.min_side} are the least")
                if image.width * image.height > limits.max_pixels:
                    raise BadImageError(f"{image.width}×{image.height} pixels are more than {limits.max_pixels:,}")
                image.load()
                return to_rgb(image)
    except BadImageError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        # Without addresses in memory, which would differ from run to run.
        reason = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", str(error))
        raise BadImageError(f"{type(error).__name__}: {reason}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a picture of any mode: upright, transparency over white, 16 bits scaled to 8.

    Raises:
        BadImageError: If the mode says nothing of what its numbers mean.
    """
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data tell no orientation
        image = image.copy()
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no range that white could be told from")
    if image.mode.startswith("I"):
        # Pillow clips where it should scale. "I" is what it opens some 16-bit files as.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, size: int, across: float = 0.5, down: float = 0.5) -> Image.Image:
    """The training image of a picture: RGB, shorter side resized to `size` with Lanczos, a square cropped of it.

    After `train_latent_diffusion.py` of JD-P/cloob-latent-diffusion (its torchvision transforms); a picture's EXIF
    orientation is applied first.

    Args:
        image: A picture of any mode and size.
        size: Height and width of the result in pixels.
        across: Where the square lies between the left edge, 0, and the right, 1; the centre if not given.
        down: Likewise between top and bottom.
    """
    image = to_rgb(image)
    short, long = sorted(image.size)
    other = int(size * long / short)
    new_size = (size, other) if image.width <= image.height else (other, size)
    image = image.resize(new_size, Image.Resampling.LANCZOS)
    left, top = round((image.width - size) * across), round((image.height - size) * down)
    return image.crop((left, top, left + size, top + size))
