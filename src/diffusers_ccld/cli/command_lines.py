"""The command that paints a picture again, from the record in it."""

import shlex
from collections.abc import Iterable, Mapping
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
UNSAID = {"model": "default", "variation": 0, "eta": 0, "cloob_repeats": 1}


def command_of(record: Mapping[str, Any]) -> str:
    """The command line that paints a picture again, for a shell.

    Args:
        record: The record in the picture. Pictures that were uploaded to the demo are not in it; the command has
            PICTURE in their place.
    """
    words = _interpolation(record) if "waypoints" in record else _sampling(record)
    return shlex.join(["ccld", *words])


def _sampling(record: Mapping[str, Any]) -> Iterable[str]:
    from ..schedulers.names import ALGORITHMS

    task = record.get("task", "paint")
    conditions = record.get("conditions")
    if conditions is None:  # the demo's
        conditions = [[record["prompt"], record["guidance_scale"]]] if record.get("prompt") else []
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
        is_ours = field != "algorithm" or value in ALGORITHMS
        if value not in (None, "", UNSAID.get(field)) and is_ours:
            words += [option, f"{value:.10g}" if isinstance(value, float) else str(value)]
    if record.get("guidance_interval"):
        words += ["--guidance-interval", *(f"{time:g}" for time in record["guidance_interval"])]
    if record.get("eta"):
        words += ["--eta", f"{record['eta']:g}"]
    width, height = record.get("size") or (None, None)
    if width is not None:
        words += ["--width", str(width), "--height", str(height)]
    words += _agreement(conditions, record)
    return [*words, "--seed", str(record.get("seed", 0)), "-n", "1"]


def _interpolation(record: Mapping[str, Any]) -> Iterable[str]:
    """The command of a whole path, which paints the picture among others."""
    words = ["interpolate", *(f"{source}:{weight:.10g}" for source, weight, *_ in record["waypoints"])]
    words += ["--seed", ",".join(map(str, record["seeds"])), "--steps", str(record["steps"])]
    for field, option in (("model", "--model"), ("negative_prompt", "--negative-prompt"), ("dtype", "--dtype")):
        if record.get(field) not in (None, "default"):
            words += [option, str(record[field])]
    return words + _agreement(record["waypoints"], record)


def _agreement(conditions: Iterable[tuple], record: Mapping[str, Any]) -> list[str]:
    """The option --yes if the command would be asked about."""
    large = any(is_large(weight) for _, weight, *_ in conditions)
    return ["--yes"] if large or ends_in_weight(record.get("negative_prompt") or "") else []
