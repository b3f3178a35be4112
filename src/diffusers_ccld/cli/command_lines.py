"""The command that paints a picture again, from the record in it."""

import argparse
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from ..inference.names import ANIMATION_FORMATS, PRECISIONS
from ..inference.record_checks import is_grid, valid_record
from ..schedulers.names import ALGORITHMS
from ..utils.arguments import ArgumentParser
from . import interpolate, sample, sample_request
from .doubts import doubts_about_size
from .outputs import unused_path
from .runtimes import BUNDLED, MANIFEST_NAME, options_for_torch, preferred_runtime
from .shell_words import quoted

# Options of `ccld sample` by the field of the record that they set; `ccld interpolate` has some of them.
OPTIONS = {
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
    "eta": "--eta",
    "frames": "--frames",
    "max_pictures": "--max-pictures",
    "frame_rate": "--frame-rate",
}
OF_CHANGES = ("strength", "mask")
OF_FRAMES = ("frames", "max_pictures", "frame_rate")
OF_A_PATH = ("model", "steps", "algorithm", "variation", "negative_prompt")
UNSAID = {"model": "default", "eta": 0, "cloob_repeats": 1}
BY_ONNX = ("onnx", "web")  # runtimes of pictures that onnxruntime painted

MOST_STEPS = 100  # of a leg of an interpolation, to reach a picture's position
ROUNDING = 1e-9  # of positions in records


def command_of(record: Mapping[str, Any], path: Path | None = None) -> str:
    """The command line that paints a picture again, for a shell. It runs without a question.

    Args:
        record: The record in the picture. Pictures that were uploaded to the demo are not in it; the command has
            PICTURE in their place, and IMAGE in that of an image prompt.
        path: The picture's file, which the command writes a new file or folder beside.

    Raises:
        ValueError: If the record is not valid, or no command can say it.
    """
    record = valid_record(record)
    if "waypoints" in record:
        name, command, doubts_of = "interpolate", interpolate, interpolate.doubts_of
        sources, options = _interpolation(record)
    else:
        name, command, doubts_of = "sample", sample, sample_request.doubts_of
        sources, options = _sampling(record)
    options += _output(record, path)
    options += _computation(record, _parsed(command, [*options, "--", *sources]))
    if doubts_of(_parsed(command, [*options, "--", *sources])) or _is_large(record):
        options.append("--yes")
    begins_like_option = any(source.startswith("-") for source in sources)
    words = [*options, "--", *sources] if begins_like_option else [*sources, *options]
    return " ".join(map(quoted, ["ccld", name, *words]))


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"The command does not take this: {message}.")


def _parsed(command: Any, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, from its words. Raises `ValueError` if it refuses them."""
    parser = _Parser(add_help=False)
    command.add_arguments(parser)
    return parser.parse_args(words)


def _option(name: str, value: Any) -> list[str]:
    """The words of an option. A value that begins like an option is joined to its name."""
    text = _number(value) if isinstance(value, float) else str(value)
    if text == "--":  # argparse drops it even from "--name=--"
        raise ValueError(f"{name} cannot have two hyphens as its value.")
    return [f"{name}={text}"] if text.startswith("-") else [name, text]


def _number(value: float) -> str:
    return f"{value:.10g}"


def _options(record: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """The options of fields that a record has, unless the command takes the value without being told."""
    words = []
    for field in fields:
        value = record.get(field)
        is_ours = field != "algorithm" or value in ALGORITHMS
        if value not in (None, "", UNSAID.get(field)) and is_ours:
            words += _option(OPTIONS[field], value)
    return words


def _interval(record: Mapping[str, Any]) -> list[str]:
    interval = record.get("guidance_interval", [0, 1])
    return [] if interval == [0, 1] else ["--guidance-interval", *map(_number, interval)]


def _size(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of a picture in pixels, if its record has them."""
    if "size" in record:
        return tuple(record["size"])
    return (record["width"], record["height"]) if "width" in record and "height" in record else None


def _sampling(record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The prompts and the options of `ccld sample`."""
    task = record.get("task", "paint")
    prompts, options = [], []
    conditions = record["conditions"] if "conditions" in record else _of_the_demo(record)
    named = [source for source, _ in conditions if source in record.get("images", ())]
    if len(named) > len(record.get("images", ())):
        raise ValueError("A prompt and a picture have the same name, and the record does not say which is which.")
    for source, weight in conditions:
        kinds = {"images": "--image", "embeddings": "--embedding"}
        option = next((kinds[field] for field in kinds if source in record.get(field, ())), None)
        word = f"{source}:{_number(weight)}"
        if option is None:
            prompts.append(word)
        else:
            options += _option(option, word)
    is_change = task not in ("paint", "between")
    if is_change:
        options += _option("--edit" if task == "edit" else "--init", record.get("picture", "PICTURE"))
        options += ["--mask", "MASK"] if task == "inpaint" and "mask" not in record else []
    others = OF_FRAMES if is_change else (*OF_FRAMES, *OF_CHANGES)  # older records of the demo have a strength always
    options += _options(record, [field for field in OPTIONS if field not in others]) + _interval(record)
    if size := _size(record):
        options += ["--width", str(size[0]), "--height", str(size[1])]
    seed, count = record.get("seed", 0), record["num_images"] if is_grid(record) else 1
    options += ["--seed", str(seed), "-n", str(count)]
    kept = len(record["seeds"]) if is_grid(record) else count
    return prompts, options + (["--best", str(kept)] if kept < count else [])


def _of_the_demo(record: Mapping[str, Any]) -> list[list[Any]]:
    """The conditions of a picture of the demo. A prompt and an image prompt share the guidance scale."""
    if "guidance_scale" not in record:
        raise ValueError("The record does not have the picture's guidance scale.")
    prompt, images, scale = record.get("prompt"), record.get("images", []), record["guidance_scale"]
    share = (record.get("image_prompt_weight", 0.5) if prompt else 1) if images else 0
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
    if record.get("position") is None or "frames" in record:
        return None
    fraction = Fraction(record["position"]).limit_denominator(MOST_STEPS)
    return fraction.denominator if abs(fraction - Fraction(record["position"])) < ROUNDING else None


def _interpolation(record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The waypoints and the options of `ccld interpolate`, of a path that a picture is on."""
    waypoints, seeds = record["waypoints"], record["seeds"] if "seeds" in record else [record["seed"]]
    for source, _, *of_file in waypoints:
        if source.startswith("@") and not of_file:
            raise ValueError(f"The prompt {source!r} begins with @, as only pictures do among waypoints.")
    options = ["--seed", ",".join(map(str, seeds)), *_options(record, OF_A_PATH), *_interval(record)]
    if size := _size(record):
        options += ["--width", str(size[0]), "--height", str(size[1])]
    num_legs = max(len(waypoints), len(seeds)) - 1
    is_closed = record.get("loop", False) or record.get("position", 0) > num_legs
    options += ["--loop"] * is_closed
    if "frames" in record:
        options += _options(record, OF_FRAMES)
    elif (steps := _even_steps(record)) is not None:  # as many pictures as frames: in even steps of the position
        count = str(steps * (num_legs + is_closed) + (not is_closed))
        options += ["--frames", count, "--max-pictures", count]
    return [f"{source}:{_number(weight)}" for source, weight, *_ in waypoints], options


def _output(record: Mapping[str, Any], path: Path | None) -> list[str]:
    """The place for the result: beside the picture, under its name, with a number if that is in use."""
    if path is None:
        return []
    words = []
    if "waypoints" in record:
        place = unused_path(path.with_suffix(""))  # a folder of an earlier path would be refused
        if "frame_rate" in record:
            suffixes = {suffix: name for name, (suffix, _, _) in ANIMATION_FORMATS.items()}
            words = ["--format", suffixes.get(path.suffix.lower(), "gif")]
    else:
        place = path.parent if is_grid(record) else path.with_suffix(".png")
    text = str(place)
    return words + ([f"--output={text}"] if text.startswith("-") else ["-o", text])


def _computation(record: Mapping[str, Any], args: argparse.Namespace) -> list[str]:
    """The runtime and the precision of a picture, where the command would choose others."""
    runtime, dtype = record.get("runtime"), record.get("dtype")
    is_path = "waypoints" in record
    if runtime in BY_ONNX:
        if is_path or options_for_torch(args):
            return ["--dtype", "fp32"]
        return [] if preferred_runtime(args) == "onnx" else ["--runtime", "onnx"]
    words = ["--dtype", dtype] if dtype in PRECISIONS else []
    args.dtype = dtype if words else "auto"
    is_torch = runtime != "torch" or is_path or preferred_runtime(args) == "torch"
    return words if is_torch else [*words, "--runtime", "torch"]


def _is_large(record: Mapping[str, Any]) -> bool:
    """True for a picture of a size that the command would be asked about."""
    size, trained = _size(record), record.get("trained_size")
    if trained is None and record.get("model", "default") == "default":
        manifest = json.loads((BUNDLED / MANIFEST_NAME).read_text(encoding="utf-8"))
        trained = manifest["width"], manifest["height"]
    return size is not None and trained is not None and bool(doubts_about_size(size, tuple(trained)))
