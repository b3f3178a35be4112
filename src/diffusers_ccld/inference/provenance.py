"""The record in a PNG file of how its picture was made: JSON in the text chunk "ccld"."""

import json
import math
from pathlib import Path
from types import UnionType
from typing import Any, TypedDict, get_args, get_origin, get_type_hints

from PIL import Image, PngImagePlugin

from ..utils.pictures import save_image

TEXT_CHUNK = "ccld"
UPLOADED = "IMAGE"


class Provenance(TypedDict, total=False):
    """Record of how a picture was made. Writers omit the fields that do not apply. The JSON keeps this order.

    Attributes:
        task: "paint", "image_to_image", "edit", "inpaint", or "between" for the demo's pictures between two prompts.
        conditions: Pairs of a text or an image's path, and its weight.
        prompt: The demo's prompt.
        waypoints: Those of an interpolation, like conditions; images have part of their hash as a third entry.
        seeds: Seeds of the waypoints: one for all, or one for each.
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
        runtime: What ran the networks: "torch", "onnx" or "web".
        version: Version of this package.
        seed: The picture's seed.
        num_images: Number of pictures in the demo's request.
        position: Position on the path of an interpolation: 0 is the first waypoint, 1 the second.
        size: Width and height in pixels.
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
    size: list[int]


def provenance_text(provenance: Provenance) -> str:
    """The JSON of a record.

    Raises:
        KeyError: If it has a field that `Provenance` does not have.
    """
    fields = list(Provenance.__annotations__)
    if unknown := provenance.keys() - fields:
        raise KeyError(f"Provenance has no {', '.join(sorted(unknown))}.")
    return json.dumps({name: provenance[name] for name in fields if name in provenance})


def save_picture(picture: Image.Image, path: Path, provenance: Provenance) -> None:
    """Saves a PNG file that records how its picture was made; it appears complete or not at all."""
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text(TEXT_CHUNK, provenance_text(provenance))
    save_image(picture, path, pnginfo=metadata)


def read_provenance(path: Path) -> Provenance | None:
    """Reads the record of a PNG file; `None` if the file is missing or damaged, or has no record of this kind."""
    try:
        with Image.open(path) as image:
            image.load()  # finds a truncated file, and the text chunks that follow the pixels
            record = dict(json.loads(image.text[TEXT_CHUNK]))
        return record if _is_sound(record) else None
    except (OSError, SyntaxError, KeyError, AttributeError, ValueError, TypeError, RecursionError):
        return None


def describe_difference(found: Provenance, wanted: Provenance) -> str:
    """What tells two records apart, as the end of "pictures …": "with a different choice of seed".

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


def _is_sound(record: dict) -> bool:
    """True if the known fields of a record have their types; later versions may have added others."""
    hints = get_type_hints(Provenance)
    pairs = [pair for name in ("conditions", "waypoints") for pair in record.get(name) or ()]
    return all(_fits(value, hints[name]) for name, value in record.items() if name in hints) and all(
        len(pair) >= 2 and isinstance(pair[0], str) and _fits(pair[1], float) for pair in pairs
    )


def _fits(value, kind):
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return kind is Any or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))
