"""Conversion of any PIL image to 8-bit RGB, by one rule for training, prompts, img2img, masks and references."""

import numpy as np
from PIL import Image, ImageOps


def to_rgb(image: Image.Image, background: int = 255) -> Image.Image:
    """Converts an image of any mode to RGB.

    The EXIF orientation is applied. Transparency is composited over the background. 16 bits are scaled to 8, where
    Pillow would clip. CMYK and the other colour spaces are converted by Pillow; 1-bit images become black and white.

    Args:
        image: An image of any mode and size; it is not changed.
        background: Grey value under transparent parts, from 0 to 255; white by default.

    Returns:
        An RGB image.

    Raises:
        ValueError: If the pixels are floating-point numbers, whose range is unknown.
    """
    image = upright(image)
    if image.mode == "F":
        raise ValueError("Floating-point images (mode F) have no defined white; convert them to 8 or 16 bits first.")
    if image.mode.startswith("I"):  # 16-bit greys; Pillow opens some of them as 32-bit "I"
        return _from_16_bits(image, background).convert("RGB")
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(
            Image.new("RGBA", image.size, (background, background, background, 255)), image
        ).convert("RGB")
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Returns a copy with the EXIF orientation applied; damaged EXIF data count as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the parser of EXIF data raises whatever it stumbles over
        return image.copy()


def _from_16_bits(image: Image.Image, background: int) -> Image.Image:
    values = np.asarray(image).clip(0, 65535)
    grey = (values / 257).round().astype(np.uint8)
    transparent = image.info.get("transparency")  # a PNG file may declare one grey value transparent
    if transparent is not None:
        grey[values == transparent] = background
    return Image.fromarray(grey)
