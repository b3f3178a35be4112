"""The command that paints a picture again, from the record in it."""

import shlex
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from .doubts import ends_in_weight, is_large

# Options of `ccld sample` by the field of the record that they set.
SHARED = {
    "model": "--model",
    "steps": "--steps",
    "algorithm": "--algorithm",
    "timestep_schedule": "--timestep-schedule",
    "variation": "--variation",
    "cloob_guidance": "--cloob-guidance",
    "cloob_repeats": "--cloob-repeats",
    "parallel_guidance": "--parallel-guidance",
    "strength": "--strength",
    "mask": "--mask",
    "negative_prompt": "--negative-prompt",
    "dtype": "--dtype",
}
UNSAID = {"model": "default", "eta": 0, "cloob_repeats": 1}

MOST_STEPS = 100  # of a leg of an interpolation, to reach a picture's position
ROUNDING = 1e-9  # of positions in records


def command_of(record: Mapping[str, Any]) -> str:
    """The command line that paints a picture again, for a shell.

    Args:
        record: The record in the picture. Pictures that were uploaded to the demo are not in it; the command has
            PICTURE in their place, and IMAGE in that of an image prompt.
    """
    words = _interpolation(record) if "waypoints" in record else _sampling(record)
    return shlex.join(["ccld", *words])


def _sampling(record: Mapping[str, Any]) -> Iterable[str]:
    from ..schedulers.names import ALGORITHMS

    task = record.get("task", "paint")
    conditions = record["conditions"] if "conditions" in record else _of_the_demo(record)
    words = ["sample"]
    for source, weight in conditions:
        kinds = [("--image", "images"), ("--embedding", "embeddings")]
        words += [option for option, field in kinds if source in record.get(field, ())]
        words.append(f"{source}:{weight:.10g}")
    if task != "paint":
        words += ["--edit" if task == "edit" else "--init", record.get("picture", "PICTURE")]
        if task == "inpaint" and "mask" not in record:
            words += ["--mask", "MASK"]
    for field, option in SHARED.items():
        value = record.get(field)
        if field == "strength" and task == "paint":  # older records of the demo have it always
            continue
        is_ours = field != "algorithm" or value in ALGORITHMS
        if value not in (None, "", UNSAID.get(field)) and is_ours:
            words += [option, f"{value:.10g}" if isinstance(value, float) else str(value)]
    words += _interval(record)
    if record.get("eta"):
        words += ["--eta", f"{record['eta']:g}"]
    width, height = record.get("size") or (None, None)
    if width is not None:
        words += ["--width", str(width), "--height", str(height)]
    words += _agreement(conditions, record)
    return [*words, "--seed", str(record.get("seed", 0)), "-n", "1"]


def _of_the_demo(record):
    """The conditions of a picture of the demo. A prompt and an image prompt share the guidance scale."""
    prompt, images, scale = record.get("prompt"), record.get("images", []), record.get("guidance_scale")
    share = (record["image_prompt_weight"] if prompt else 1) if images else 0
    texts = [[prompt, scale * (1 - share)]] if prompt else []
    return texts + [[image, scale * share] for image in images]


def frame_of(record: Mapping[str, Any]) -> int | None:
    """The number of the frame that a picture of an interpolation is among those of `command_of`.

    `None` if the command has other frames: the picture's position is no fraction of a leg in small numbers.
    """
    steps = _even_steps(record)
    return None if steps is None else round(record["position"] * steps)


def _even_steps(record: Mapping[str, Any]) -> int | None:
    """The smallest number of steps in each leg of a path that reach a picture's position."""
    if "position" not in record:
        return None
    fraction = Fraction(record["position"]).limit_denominator(MOST_STEPS)
    return fraction.denominator if abs(fraction - Fraction(record["position"])) < ROUNDING else None


def _interpolation(record: Mapping[str, Any]) -> Iterable[str]:
    """The command of a path that a picture is on."""
    from ..schedulers.names import ALGORITHMS

    waypoints, seeds = record["waypoints"], record.get("seeds") or [record.get("seed", 0)]
    words = ["interpolate", *(f"{source}:{weight:.10g}" for source, weight, *_ in waypoints)]
    words += ["--seed", ",".join(map(str, seeds))]
    for field in ("steps", "algorithm", "variation", "negative_prompt", "model", "dtype"):
        value = record.get(field)
        if value not in (None, "", UNSAID.get(field)) and (field != "algorithm" or value in ALGORITHMS):
            words += [SHARED[field], f"{value:.10g}" if isinstance(value, float) else str(value)]
    words += _interval(record)
    width, height = record.get("size") or (record.get("width"), record.get("height"))
    if width is not None:
        words += ["--width", str(width), "--height", str(height)]
    num_legs = max(len(waypoints), len(seeds)) - 1
    is_closed = record.get("position", 0) > num_legs
    words += ["--loop"] * is_closed
    if (steps := _even_steps(record)) is not None:  # as many pictures as frames: in even steps of the position
        count = str(steps * (num_legs + is_closed) + (not is_closed))
        words += ["--frames", count, "--max-pictures", count]
    return words + _agreement(waypoints, record)


def _interval(record):
    interval = record.get("guidance_interval")
    if not interval or list(interval) == [0, 1]:
        return []
    return ["--guidance-interval", *(f"{time:g}" for time in interval)]


def _agreement(conditions: Iterable[tuple], record: Mapping[str, Any]) -> list[str]:
    """The option --yes if the command would be asked about."""
    large = any(is_large(weight) for _, weight, *_ in conditions)
    return ["--yes"] if large or ends_in_weight(record.get("negative_prompt") or "") else []
