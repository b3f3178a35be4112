"""Requests to the demo and the checks that make them safe to run. Independent of Gradio."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from ..inference.record_checks import EXACT, is_grid, valid_record
from ..pipelines.calls import USUAL_GUIDANCE_SCALE
from ..schedulers.scheduling_ccld import ALGORITHMS, RECOMMENDED_ALGORITHM
from ..schedulers.solvers import METHODS
from ..utils.rgb import to_rgb
from .uploads import drawn_on, read_image

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
    task: str,
    values: Mapping[str, Any],
    limits: Limits,
    upload_folder: Path | None = None,
    may_lack_prompt: bool = False,
) -> PaintingRequest:
    """Checks the values of a form or a call.

    Args:
        task: As in `PaintingRequest`.
        values: Values of any type, by the names of `PaintingRequest`'s fields. Missing ones have defaults. "picture"
            and "image_prompt" are uploads (`read_image`); "mask" is a list of uploads, opaque where something was
            drawn. For a seed of `None` a random one is chosen.
        limits: Bounds of the values.
        upload_folder: The only folder from which files are read.
        may_lack_prompt: True for a request that fills the form, where prompts may still be written.

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
        "image_prompt_weight": _number("share of the image prompt", values.get("image_prompt_weight", 0.5), 0, 1),
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
        if not (may_lack_prompt or (prompt and second_prompt)):
            raise ValueError("Write two prompts, to paint between them.")
    if not (prompt or may_lack_prompt) and values.get("image_prompt") is None:
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
        mask = drawn_on([read(layer) for layer in _list("mask", values.get("mask"))], picture.size)
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
    `missing_upload` says what it lacks.

    Raises:
        ValueError: If the record is not valid, the form cannot say it, or a value is out of bounds.
    """
    record = valid_record(record)
    if record.get("algorithm") == "the model's own":  # of `ccld compare`
        del record["algorithm"]
    _refuse_others(record)
    begin, end = record.get("guidance_interval", (0.0, 1.0))
    names = ("negative_prompt", "algorithm", "seed", "strength", "variation", "image_prompt_weight", "guidance_scale")
    values = {name: record[name] for name in names if name in record}
    values |= {"guidance_from": begin, "guidance_to": end}
    values |= {"num_inference_steps": record["steps"]} if "steps" in record else {}
    if "waypoints" in record:
        return parse_request("between", values | _between(record), limits)
    if is_grid(record):
        values["num_images"] = min(record["num_images"], limits.num_images)
    own = _shares(record) if "conditions" in record else {"prompt": record.get("prompt")}
    return parse_request("paint", values | own, limits, may_lack_prompt=True)


def _refuse_others(record: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a record of something that the form does not have."""
    if record.get("embeddings"):
        names = ", ".join(record["embeddings"])
        raise ValueError(f"The picture was painted from {names}, an embedding file, which cannot be used here.")
    for field, usual, name in (
        ("cloob_guidance", 0, "guidance by CLOOB alone"),
        ("parallel_guidance", 1, "a share of the parallel guidance"),
        ("eta", 0, "fresh noise in each step"),
    ):
        if record.get(field, usual) != usual:
            raise ValueError(f"The picture was painted with {name}, which this page does not have.")
    algorithm = record.get("algorithm", RECOMMENDED_ALGORITHM)
    if algorithm not in ALGORITHMS:
        raise ValueError(f"The picture was painted with the algorithm {algorithm}, which this page does not have.")


def _shares(record: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt, the guidance scale and the image prompt's share of it, from weighted conditions."""
    uploads = record.get("images", ())
    texts = [entry for entry in record["conditions"] if entry[0] not in uploads]
    images = [entry for entry in record["conditions"] if entry[0] in uploads]
    for entries, kind in ((texts, "was painted from {} prompts"), (images, "had {} image prompts")):
        if len(entries) > 1:
            raise ValueError(f"The picture {kind.format(len(entries))}; this page takes one.")
    weights = [weight for _, weight in texts + images]
    if any(weight < 0 for weight in weights):
        raise ValueError("The picture had a prompt of negative weight, which this page does not take.")
    prompt, scale = texts[0][0] if texts else "", sum(weights)
    share = {"image_prompt_weight": images[0][1] / scale} if texts and images and scale else {}
    return {"prompt": prompt} | ({"guidance_scale": scale} if weights else {}) | share


def _between(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a picture between two prompts, or of an animation, from its record."""
    waypoints, seeds = record["waypoints"], set(record["seeds"] if "seeds" in record else [record["seed"]])
    weights, has_pictures = {weight for _, weight, *_ in waypoints}, any(len(entry) > 2 for entry in waypoints)
    position = record.get("position", 0.5)
    is_closed = record.get("loop", False) or position > 1
    if len(waypoints) != 2 or has_pictures or len(weights) != 1 or len(seeds) != 1 or is_closed:
        raise ValueError(
            "The picture lies on a path that this page does not paint; it takes two prompts of one weight and one "
            "seed."
        )
    (first, guidance_scale), (second, _) = waypoints
    texts = {"prompt": first, "second_prompt": second, "guidance_scale": guidance_scale}
    frames = {"num_frames": record["frames"]} if "frames" in record else {}
    return texts | {"seed": seeds.pop(), "position": position} | frames


def missing_upload(record: Mapping[str, Any], limits: Limits) -> str:
    """Sentences of what a picture was painted from and its record does not have; empty if it has all."""
    record = valid_record(record)
    has_text = bool(record.get("prompt")) or any(
        source and source not in record.get("images", ()) for source, _ in record.get("conditions", ())
    )
    sentences = []
    if record.get("task", "paint") not in ("paint", *BETWEEN):
        sentences.append("The picture began with another one, which its file does not hold: give that one, too.")
    if record.get("images"):
        sentences.append("The picture had an image prompt, which its file does not hold: give it, too.")
    elif not has_text and "waypoints" not in record:
        sentences.append("The picture was painted without a prompt; with an empty one, this page paints its example.")
    if is_grid(record):
        count, shown = record["num_images"], len(record["seeds"])
        painted = min(count, limits.num_images)
        if not shown == painted == count:
            chosen = f"{shown} of {count} pictures" if shown < count else f"{count} pictures"
            which = "the first" if painted < count else "all"
            sentences.append(f"The file shows {chosen}; this page paints {which} {painted}.")
    return " ".join(sentences)


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
        raise ValueError(f"The {name} must be a number from {lowest:g} to {highest:g}{_given(value)}.")
    return float(value)


def _whole(name, value, lowest, highest):
    if not _is_between(value, lowest, highest) or value != int(value):
        raise ValueError(f"The {name} must be a whole number from {lowest} to {highest}{_given(value)}.")
    return int(value)


def _given(value):
    """The end of a sentence: the number that was given, unless forms and links may have rounded it."""
    if not _is_between(value, -EXACT, EXACT):
        return ""
    return f", not {int(value) if value == int(value) else value}"


def _is_between(value, lowest, highest):
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _list(name, value):
    if not isinstance(value, (list, tuple)) or len(value) > 4:
        raise ValueError(f"The {name} must be a list of at most 4 pictures.")
    return value


def _rgb(image):
    return None if image is None else to_rgb(image)
