"""Pictures that visitors of the demo upload. Independent of Gradio."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..utils.pictures import LARGE_TEXT, has_large_text
from ..utils.rgb import upright

if TYPE_CHECKING:
    from .requests import Limits

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def read_image(source: Any, limits: "Limits", upload_folder: Path | None) -> Image.Image:
    """Decodes an uploaded picture and applies its EXIF orientation.

    Args:
        source: The file's contents, or {"path": …} of a file in the folder.
        limits: Bounds of its size.
        upload_folder: The only folder from which files are read. URLs are not fetched.

    Raises:
        ValueError: If the file is not an uploaded picture, damaged, or too large.
    """
    if isinstance(source, bytes):
        file = io.BytesIO(source)
        size = len(source)
    else:
        file = uploaded_file(source, upload_folder)
        size = file.stat().st_size
    if size > limits.image_bytes:
        raise ValueError(f"The picture's file is larger than {limits.image_bytes // 2**20} MB.")
    too_many_pixels = f"The picture has more than {limits.image_pixels // 10**6} million pixels."
    try:
        image = Image.open(file, formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(too_many_pixels) from error
    except Exception as error:  # decoders raise many kinds of exceptions for damaged files
        unknown = f"The file is not a picture. Supported formats are {', '.join(IMAGE_FORMATS)}."
        raise ValueError(LARGE_TEXT if has_large_text(error) else unknown) from error
    if image.width * image.height > limits.image_pixels:
        raise ValueError(too_many_pixels)
    try:
        image.load()
        return upright(image)
    except Exception as error:
        raise ValueError(LARGE_TEXT if has_large_text(error) else "The picture is damaged.") from error


def uploaded_file(source: Any, upload_folder: Path | None) -> Path:
    """The path in {"path": …}, with symbolic links resolved.

    Raises:
        ValueError: If it is not a file in the upload folder.
    """
    path = source.get("path") if isinstance(source, Mapping) else None
    if not isinstance(path, str) or "\0" in path or upload_folder is None:
        raise ValueError("A picture must be an uploaded file.")
    file = Path(path).resolve()
    if not file.is_relative_to(upload_folder.resolve()) or not file.is_file():
        raise ValueError("A picture must be an uploaded file. Other files and addresses are not read.")
    return file


def drawn_on(layers: Sequence[Image.Image | None], size: tuple[int, int]) -> Image.Image:
    """A mask, white where a layer is not fully transparent."""
    mask = Image.new("L", size)
    for layer in layers:
        if layer is not None:
            alpha = layer.convert("RGBA").getchannel("A").resize(size)
            mask.paste(255, mask=alpha.point(lambda value: 255 * (value > 0)))
    if mask.getbbox() is None:
        raise ValueError("Draw a mask on the picture.")
    return mask
