"""Decodes image files to RGB and rejects unusable ones."""

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError, features

from ..utils.first_bytes import LENGTH, describe_first_bytes
from ..utils.rgb import to_rgb

with suppress(ImportError):  # a plugin of Pillow, which opens what iPhones save
    import pillow_heif

    pillow_heif.register_heif_opener()

# Formats that Pillow is built with or without, and the name of the feature.
OPTIONAL_FORMATS = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}

# Endings of pictures that Pillow may be unable to open, and what it needs.
UNREADABLE = {
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), "HEIC, which needs the package pillow-heif"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF, which needs a Pillow that is built with it"),
    ".webp": "WebP, which needs a Pillow that is built with it",
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG 2000, which needs a Pillow that is built with it"),
    ".jxl": "JPEG XL, which Pillow does not open",
    **dict.fromkeys((".svg", ".svgz"), "SVG, a drawing without pixels"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "raw data of a camera"),
}


class BadImageError(ValueError):
    """An image file that cannot be used. The message gives the reason."""


class ImageLimits(NamedTuple):
    """Bounds on the size of an image.

    Attributes:
        min_side: Minimum length of the shorter side in pixels.
        max_pixels: Maximum number of pixels; larger images are rejected before they are decoded.
    """

    min_side: int = 32
    max_pixels: int = 100_000_000


def readable_endings() -> set[str]:
    """Endings of picture files that Pillow opens here, with its plugins, in lower case and with the dot."""
    formats = Image.registered_extensions()  # which loads Pillow's own plugins
    missing = {name for name, feature in OPTIONAL_FORMATS.items() if not features.check(feature)}
    return {ending for ending, name in formats.items() if name in Image.OPEN.keys() - missing}


def open_picture(source: Mapping[str, Any] | None, limits: ImageLimits) -> Image.Image:
    """Decodes an image file of any format and mode to RGB, by the rule of `to_rgb`.

    Args:
        source: The file's "bytes", or else its "path", as an undecoded `datasets.Image` has them.
        limits: Bounds on its size.

    Raises:
        BadImageError: If the image is missing, damaged, truncated, too small, too large, or of floating-point pixels.
    """
    if source is None:
        raise BadImageError("there is no picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and odd EXIF data; the limits decide
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
    except UnidentifiedImageError as error:
        raise BadImageError(_describe_unidentified(source)) from error
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        # Addresses in memory would differ from run to run.
        reason = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", str(error))
        raise BadImageError(f"{type(error).__name__}: {reason}") from error


def _describe_unidentified(source: Mapping[str, Any]) -> str:
    """Says what a file is that Pillow does not recognise, as far as its first bytes tell."""
    data = source.get("bytes")
    if data is None:
        with suppress(OSError), Path(source["path"]).open("rb") as file:
            data = file.read(LENGTH)
    what = describe_first_bytes(data or b"")
    if what is None:
        return "it is not a picture of a format that Pillow opens"
    needs = "; pip install pillow-heif to open it" if what.endswith(("HEIC", "HEIF")) else ""
    return f"it is {what}{needs}"


def resize_and_crop(image: Image.Image, size: int, across: float = 0.5, down: float = 0.5) -> Image.Image:
    """Converts an image to RGB, resizes its shorter side to `size` with Lanczos, and crops a square.

    Follows `train_latent_diffusion.py` of JD-P/cloob-latent-diffusion (its torchvision transforms), after `to_rgb`.

    Args:
        image: An image of any mode and size.
        size: Height and width of the result in pixels.
        across: Horizontal position of the square, from 0 (left) to 1 (right).
        down: Vertical position of the square, from 0 (top) to 1 (bottom).

    Returns:
        An RGB image of `size` × `size` pixels.

    Raises:
        ValueError: If the image is of floating-point pixels.
    """
    image = to_rgb(image)
    short, long = sorted(image.size)
    other = int(size * long / short)
    new_size = (size, other) if image.width <= image.height else (other, size)
    image = image.resize(new_size, Image.Resampling.LANCZOS)
    left, top = round((image.width - size) * across), round((image.height - size) * down)
    return image.crop((left, top, left + size, top + size))
