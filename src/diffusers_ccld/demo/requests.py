"""Requests to the demo and the checks that make them safe to run. Independent of Gradio."""

import io
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from ..pipelines.calls import USUAL_GUIDANCE_SCALE
from ..schedulers.scheduling_ccld import ALGORITHMS, RECOMMENDED_ALGORITHM
from ..schedulers.solvers import METHODS
from ..utils.rgb import to_rgb, upright

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
LAST_SEED = 2**32 - 1  # JavaScript's numbers would round much larger seeds
RANDOM_SEEDS = 10**6  # short enough to be read and typed
LINKED = (
    "prompt",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "variation",
    "algorithm",
    "seed",
    "num_images",
    "guidance_from",
    "guidance_to",
)
MODEL_OF_LINK = "model"  # with its fingerprint
ADDED_TO_LINKS = {
    "task": "paint",
    "variation": "0",
    "guidance_from": "0",
    "guidance_to": "1",
}  # what older links do not say, and what they mean
BETWEEN = ("between", "animate")
LINKED_BETWEEN = {"between": ("second_prompt", "position"), "animate": ("second_prompt", "num_frames")}


@dataclass(frozen=True)
class Limits:
    """Upper bounds of a request.

    Attributes:
        prompt_length: Number of characters of a prompt.
        num_inference_steps: Number of sampling steps.
        guidance_scale: Guidance scale.
        num_images: Number of pictures.
        num_frames: Number of frames of an animation.
        image_bytes: Size of an uploaded file in bytes.
        image_pixels: Number of pixels of an uploaded picture, checked before it is decoded.
    """

    prompt_length: int = 300
    num_inference_steps: int = 150
    guidance_scale: float = 15.0
    num_images: int = 4
    num_frames: int = 48
    image_bytes: int = 10 * 2**20
    image_pixels: int = 20_000_000


@dataclass(frozen=True)
class PaintingRequest:
    """A valid request, made by `parse_request`. The other fields are arguments of the pipelines.

    Attributes:
        task: One of `inference.tasks.PIPELINES`, "between" for one picture between two prompts, or "animate" for all.
        seed: Seed of the first picture. Each further picture takes the next seed.
        picture: The picture to start from; `None` for "paint".
        mask: Mask for "inpaint", white where new content is sampled.
    """

    task: str
    prompt: str
    negative_prompt: str
    image_prompt: Image.Image | None
    image_prompt_weight: float
    num_inference_steps: int
    guidance_scale: float
    variation: float
    algorithm: str
    seed: int
    num_images: int
    picture: Image.Image | None = None
    mask: Image.Image | None = None
    strength: float = 1.0
    guidance_from: float = 0.0
    guidance_to: float = 1.0
    second_prompt: str = ""
    position: float = 0.5
    num_frames: int = 16

    @property
    def interval(self) -> tuple[float, float] | None:
        """The times between which there is guidance; `None` for always."""
        interval = (self.guidance_from, self.guidance_to)
        return None if interval == (0, 1) else interval

    @property
    def seeds(self) -> range:
        """The seed of each picture."""
        return range(self.seed, self.seed + self.num_images)

    @property
    def positions(self) -> list[float]:
        """The positions between the prompts: one, or those of an animation's frames."""
        if self.task == "animate":
            return [i / (self.num_frames - 1) for i in range(self.num_frames)]
        return [self.position]

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts; some may be empty."""
        return (self.prompt, self.second_prompt, self.negative_prompt)

    def link(self, fingerprint: str | None = None) -> str | None:
        """The query of a link that samples the same pictures; `None` if the request has an upload.

        Args:
            fingerprint: That of the model, by which another model's page knows that the link is not its own.
        """
        if self.image_prompt is not None or self.picture is not None:
            return None
        names = [*LINKED, "task", *LINKED_BETWEEN[self.task]] if self.task in BETWEEN else LINKED
        model = {} if fingerprint is None else {MODEL_OF_LINK: fingerprint}
        return "?" + urlencode({name: getattr(self, name) for name in names} | model)


def parse_request(
    task: str, values: Mapping[str, Any], limits: Limits, upload_folder: Path | None = None
) -> PaintingRequest:
    """Checks the values of a form or a call.

    Args:
        task: As in `PaintingRequest`.
        values: Values of any type, by the names of `PaintingRequest`'s fields. Missing ones have defaults. "picture"
            and "image_prompt" are uploads (`read_image`); "mask" is a list of uploads, opaque where something was
            drawn. For a seed of `None` a random one is chosen.
        limits: Bounds of the values.
        upload_folder: The only folder from which files are read.

    Raises:
        ValueError: With a sentence for the user, if a value is invalid.
    """
    prompt = _text("prompt", values.get("prompt"), limits.prompt_length)
    negative_prompt = _text("negative prompt", values.get("negative_prompt"), limits.prompt_length)
    num_images = _whole("number of pictures", values.get("num_images", 1), 1, limits.num_images)
    seed = values.get("seed")
    seed = secrets.randbelow(RANDOM_SEEDS) if seed is None else _whole("seed", seed, 0, LAST_SEED)
    algorithm = values.get("algorithm", RECOMMENDED_ALGORITHM)
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"The algorithm must be one of {', '.join(ALGORITHMS)}.")
    most_steps = limits.num_inference_steps
    num_steps = min(METHODS[algorithm].num_steps, most_steps)
    numbers = {
        "image_prompt_weight": _number("weight of the image prompt", values.get("image_prompt_weight", 0.5), 0, 1),
        "num_inference_steps": _whole("steps", values.get("num_inference_steps", num_steps), 1, most_steps),
        "guidance_scale": _number(
            "guidance", values.get("guidance_scale", USUAL_GUIDANCE_SCALE), 0, limits.guidance_scale
        ),
        "variation": _number("variation", values.get("variation", 0.0), 0, 1),
        "strength": _number("strength", values.get("strength", 1.0), 0.02, 1),
        "guidance_from": _number("beginning of the guidance", values.get("guidance_from", 0.0), 0, 1),
        "guidance_to": _number("end of the guidance", values.get("guidance_to", 1.0), 0, 1),
        "position": _number("position", values.get("position", 0.5), 0, 1),
        "num_frames": _whole("number of frames", values.get("num_frames", 16), 2, limits.num_frames),
    }
    if numbers["guidance_from"] > numbers["guidance_to"]:
        raise ValueError("The guidance must begin before it ends.")
    second_prompt = ""
    if task in BETWEEN:
        second_prompt = _text("second prompt", values.get("second_prompt"), limits.prompt_length)
        if not prompt or not second_prompt:
            raise ValueError("Write two prompts, to paint between them.")
    if not prompt and values.get("image_prompt") is None:
        raise ValueError("Write a prompt, or give an image prompt.")
    starts_with_picture = task not in ("paint", *BETWEEN)
    if starts_with_picture and values.get("picture") is None:
        raise ValueError("Give a picture to start from.")

    def read(source: Any) -> Image.Image | None:
        return None if source is None else read_image(source, limits, upload_folder)

    picture = mask = None
    if starts_with_picture:
        picture = read(values["picture"])
    if task == "inpaint":
        mask = _drawn_on([read(layer) for layer in _list("mask", values.get("mask"))], picture.size)
    return PaintingRequest(
        task=task,
        prompt=prompt,
        negative_prompt=negative_prompt,
        image_prompt=_rgb(read(values.get("image_prompt"))),
        algorithm=algorithm,
        seed=seed,
        num_images=num_images,
        picture=_rgb(picture),
        mask=mask,
        second_prompt=second_prompt,
        **numbers,
    )


def request_of_record(record: Mapping[str, Any], limits: Limits) -> PaintingRequest:
    """The request that paints a picture again, from the record in its file.

    Records do not have the pictures that a painting began with. Without them, the request is that of painting.

    Raises:
        ValueError: If the form cannot say the record's conditions or waypoints, or a value is out of bounds.
    """
    begin, end = record.get("guidance_interval") or (0.0, 1.0)
    names = ("negative_prompt", "algorithm", "seed", "strength", "image_prompt_weight")
    values = {name: record[name] for name in names if name in record} | {
        "num_inference_steps": record.get("steps"),
        "variation": record.get("variation", 0.0),
        "guidance_from": begin,
        "guidance_to": end,
    }
    if "waypoints" in record:
        return parse_request("between", values | _between(record), limits)
    prompt, guidance_scale = record.get("prompt"), record.get("guidance_scale")
    if "conditions" in record:
        conditions = record["conditions"]
        if len(conditions) != 1 or conditions[0][0] in record.get("images", ()):
            raise ValueError("The picture was painted from several conditions; the form takes one prompt.")
        prompt, guidance_scale = conditions[0]
    if not prompt and record.get("images"):
        raise ValueError("The picture was painted from an image prompt alone, which its file does not hold.")
    return parse_request("paint", values | {"prompt": prompt, "guidance_scale": guidance_scale}, limits)


def _between(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a picture between two prompts, from its record."""
    waypoints, seeds = record["waypoints"], set(record.get("seeds", ()))
    weights, has_pictures = {weight for _, weight, *_ in waypoints}, any(len(entry) > 2 for entry in waypoints)
    if len(waypoints) != 2 or has_pictures or len(weights) != 1 or len(seeds) != 1:
        raise ValueError(
            "The picture lies on a path that the form cannot say; it takes two prompts of one weight and one seed."
        )
    (first, guidance_scale, *_), (second, *_) = waypoints
    texts = {"prompt": first, "second_prompt": second, "guidance_scale": guidance_scale}
    return texts | {"seed": seeds.pop(), "position": record.get("position", 0.5)}


def missing_upload(record: Mapping[str, Any]) -> str:
    """A sentence that a picture was painted from an upload, which its record does not have; empty if not."""
    if record.get("task", "paint") not in ("paint", *BETWEEN):
        return "The picture began with another one, which its file does not hold: give that one, too."
    if record.get("images"):
        return "The picture had an image prompt, which its file does not hold: give it, too."
    return ""


def parse_link(query: Mapping[str, str], limits: Limits) -> PaintingRequest | None:
    """The request of a link that `PaintingRequest.link` made; `None` for other queries.

    Raises:
        ValueError: If the link is incomplete or a value is out of bounds.
    """
    if "prompt" not in query:
        return None
    query = {**ADDED_TO_LINKS, **query}
    task = query["task"]
    if task not in ("paint", *BETWEEN):
        raise ValueError(f"The link's task must be paint, between or animate, not {task[:20]}.")
    names = (*LINKED, *LINKED_BETWEEN.get(task, ()))
    if missing := [name for name in names if name not in query]:
        raise ValueError(f"The link does not say {', '.join(missing)}.")
    values: dict[str, Any] = {name: query[name] for name in names}
    for name in values.keys() - {"prompt", "second_prompt", "negative_prompt", "algorithm"}:
        try:
            values[name] = float(values[name])
        except ValueError as error:
            raise ValueError(f"The link needs a number for {name}.") from error
    return parse_request(task, values, limits)


def read_image(source: Any, limits: Limits, upload_folder: Path | None) -> Image.Image:
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
        raise ValueError(f"The file is not a picture. Supported formats are {', '.join(IMAGE_FORMATS)}.") from error
    if image.width * image.height > limits.image_pixels:
        raise ValueError(too_many_pixels)
    try:
        image.load()
        return upright(image)
    except Exception as error:
        raise ValueError("The picture is damaged.") from error


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


def _text(name, value, longest):
    value = "" if value is None else value
    if not isinstance(value, str):
        raise ValueError(f"The {name} must be a text.")
    if len(value) > longest:
        raise ValueError(f"The {name} has {len(value)} characters; at most {longest} are allowed.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The {name} has invalid characters.") from error
    return value.strip()


def _number(name, value, lowest, highest):
    if not _is_between(value, lowest, highest):
        raise ValueError(f"The {name} must be a number from {lowest:g} to {highest:g}.")
    return float(value)


def _whole(name, value, lowest, highest):
    if not _is_between(value, lowest, highest) or value != int(value):
        raise ValueError(f"The {name} must be a whole number from {lowest} to {highest}.")
    return int(value)


def _is_between(value, lowest, highest):
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _list(name, value):
    if not isinstance(value, (list, tuple)) or len(value) > 4:
        raise ValueError(f"The {name} must be a list of at most 4 pictures.")
    return value


def _rgb(image):
    return None if image is None else to_rgb(image)


def _drawn_on(layers: Sequence[Image.Image | None], size: tuple[int, int]) -> Image.Image:
    """A mask, white where a layer is not fully transparent."""
    mask = Image.new("L", size)
    for layer in layers:
        if layer is not None:
            alpha = layer.convert("RGBA").getchannel("A").resize(size)
            mask.paste(255, mask=alpha.point(lambda value: 255 * (value > 0)))
    if mask.getbbox() is None:
        raise ValueError("Draw a mask on the picture.")
    return mask
