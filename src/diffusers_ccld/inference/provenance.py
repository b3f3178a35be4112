"""The record in a file of how its picture was made: JSON.

In a PNG file it is the text chunk "ccld". In a GIF file it is the comment, and in a WebP file the image description of
EXIF, behind "ccld: ".
"""

import json
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image, PngImagePlugin

from ..utils.pictures import LARGE_TEXT, has_large_text, save_image
from .record_checks import valid_record

TEXT_CHUNK = "ccld"
BEGINNING = "ccld: "  # of a record in a text that other programs use, too
IMAGE_DESCRIPTION = 0x010E  # of EXIF
UPLOADED = "IMAGE"


class Provenance(TypedDict, total=False):
    """Record of how a picture was made. Writers omit the fields that do not apply. The JSON keeps this order.

    Attributes:
        task: "paint", "image_to_image", "edit", "inpaint", or "between" for the demo's pictures between two prompts.
        conditions: Pairs of a text or an image's path, and its weight.
        prompt: The demo's prompt.
        waypoints: Those of an interpolation, like conditions; images have part of their hash as a third entry.
        seeds: Seeds of the waypoints: one for all, or one for each. In a grid of `ccld sample`, those of its pictures.
        images: The paths of images among the conditions; "IMAGE" for the demo's and the page's image prompt.
        embeddings: The paths of embeddings among the conditions.
        negative_prompt: The negative prompt, or `None`.
        image_prompt_weight: Share of the guidance scale that the demo's image prompt has.
        guidance_scale: The demo's guidance scale.
        cloob_guidance: Weight of the distance by which CLOOB alone guided.
        cloob_repeats: How often it guided in each step.
        variation: Spread around the texts.
        picture: Path of the picture that it began with.
        mask: Path of the mask of the part that was painted.
        strength: Strength of the change.
        model: A folder, a name on the Hub, or "default".
        identity: Hash of the model's files.
        fingerprint: Short hash of the model's weights, from `utils.fingerprints`.
        steps: Number of sampling steps.
        guidance_interval: Times between which there was guidance; `None` for all.
        parallel_guidance: Share of the guidance parallel to the prediction, if it is not 1.
        algorithm: The sampler.
        timestep_schedule: Spacing of its steps, if it is ours.
        eta: Share of fresh noise, of DDIM.
        height: Height in pixels.
        width: Width in pixels.
        dtype: Precision, by the name of `--dtype`.
        compiled: True if the networks were compiled.
        runtime: What ran the networks: "torch", "onnx", or "web" for onnxruntime in a browser.
        version: Version of this package.
        seed: The picture's seed.
        num_images: Number of pictures in the request of a grid, or of the demo.
        position: Position on the path of an interpolation: 0 is the first waypoint, 1 the second.
        frames: Number of frames of an animation, or of an interpolation's grid.
        max_pictures: Number of pictures at most, from which the frames were chosen.
        loop: True if it returns to the first waypoint.
        frame_rate: Frames per second of an animation.
        size: Width and height in pixels; of a grid, those of each picture.
        trained_size: Width and height of the model's training images in pixels, where a picture has another size.
    """

    task: str
    conditions: list[list[Any]]
    prompt: str
    waypoints: list[list[Any]]
    seeds: list[int]
    images: list[str]
    embeddings: list[str]
    negative_prompt: str | None
    image_prompt_weight: float
    guidance_scale: float
    cloob_guidance: float
    cloob_repeats: int
    variation: float
    picture: str
    mask: str
    strength: float
    model: str
    identity: str
    fingerprint: str
    steps: int
    guidance_interval: list[float] | None
    parallel_guidance: float
    algorithm: str
    timestep_schedule: str | None
    eta: float
    height: int
    width: int
    dtype: str
    compiled: bool
    runtime: str
    version: str
    seed: int
    num_images: int
    position: float
    frames: int
    max_pictures: int
    loop: bool
    frame_rate: float
    size: list[int]
    trained_size: list[int]


def provenance_text(provenance: Provenance) -> str:
    """The JSON of a record.

    Raises:
        KeyError: If it has a field that `Provenance` does not have.
    """
    fields = list(Provenance.__annotations__)
    if unknown := provenance.keys() - fields:
        raise KeyError(f"Provenance has no {', '.join(sorted(unknown))}.")
    return json.dumps({name: provenance[name] for name in fields if name in provenance})


def embedded(provenance: Provenance, file_format: str) -> dict[str, Any]:
    """The options with which Pillow's `save` puts a record into a file.

    Args:
        provenance: The record.
        file_format: "PNG", "GIF" or "WEBP".
    """
    text = provenance_text(provenance)
    if file_format == "GIF":
        return {"comment": BEGINNING + text}
    if file_format == "WEBP":
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = BEGINNING + text
        return {"exif": exif}
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text(TEXT_CHUNK, text)
    return {"pnginfo": metadata}


def save_picture(picture: Image.Image, path: Path, provenance: Provenance) -> None:
    """Saves a PNG file that records how its picture was made; it appears complete or not at all."""
    save_image(picture, path, **embedded(provenance, "PNG"))


def read_provenance(path: Path) -> Provenance | None:
    """Reads the record of a picture as it is; `None` if the file is missing or damaged, or has no valid record."""
    try:
        record = _record_in(path)
        valid_record(record)
        return record
    except ValueError:
        return None


def describe_difference(found: Provenance, wanted: Provenance) -> str:
    """Describes what tells two records apart, as the end of "pictures …": "with a different choice of seed".

    Args:
        found: The record of pictures that exist.
        wanted: That of the pictures that would be sampled.
    """
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    choices = ", ".join(name for name in names if name != "version")
    parts = [f"with a different choice of {choices}"] if choices else []
    if "version" in names:
        parts.append(f"by version {found.get('version')}, and version {wanted.get('version')} may paint others")
    return " and ".join(parts)


def load_record(path: Path, most_pixels: int | None = None) -> Provenance:
    """Reads the record of a picture or an animation, without the fields that are null.

    Args:
        path: The file.
        most_pixels: Larger pictures are not decoded.

    Raises:
        ValueError: With a sentence, if the file is not a usable picture, or has no valid record.
    """
    return valid_record(_record_in(path, most_pixels))


def _record_in(path, most_pixels=None):
    """The JSON in a picture's file. Raises `ValueError` without one."""
    is_small, text = True, None
    try:
        with Image.open(path) as image:
            is_small = most_pixels is None or image.width * image.height <= most_pixels
            if is_small:
                image.load()  # finds a truncated file, and the text chunks that follow the pixels
                text = _text_in(image)
    except Image.DecompressionBombError as error:
        raise ValueError("The picture is too large to be decoded.") from error
    except Exception as error:  # decoders raise many kinds of exceptions for damaged files
        damaged = "The file is not a picture, or a damaged one."
        raise ValueError(LARGE_TEXT if has_large_text(error) else damaged) from error
    if not is_small:
        raise ValueError(f"The picture has more than {most_pixels // 10**6} million pixels.")
    if text is None:
        raise ValueError("The picture has no record of how it was painted; it may have been saved again.")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError("The record of how the picture was painted is damaged: it is not JSON.") from error


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON.")  # `json` would read NaN and Infinity


def _text_in(image):
    """The text of a record in an open file, or `None`."""
    if image.format == "PNG":
        return image.text.get(TEXT_CHUNK)
    text = image.info.get("comment") if image.format == "GIF" else image.getexif().get(IMAGE_DESCRIPTION)
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    return text.removeprefix(BEGINNING) if text and text.startswith(BEGINNING) else None
