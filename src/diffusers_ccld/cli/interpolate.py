"""`ccld interpolate`."""

import argparse
import hashlib
import math
import os
import sys
from functools import partial
from pathlib import Path

from ..inference.names import ANIMATION_FORMATS
from ..utils.arguments import number, whole
from ..utils.file_names import file_stem
from ..version import __version__
from .arguments import (
    LAST_SEED,
    add_option,
    open_image,
    parse_weighted,
    parse_weighted_file,
    require_file,
    require_interval,
    require_model,
)
from .doubts import (
    doubts_about,
    doubts_about_size,
    doubts_about_words,
    is_at_terminal,
    is_file_name,
    refuse_bytes,
    refuse_file_names,
    settle,
)
from .messages import in_columns
from .outputs import numbered, require_writable
from .runtimes import name_of_model

OUTPUTS = Path("outputs")
SUFFIXES = (".gif", ".webp", ".png", ".jpg", ".jpeg", ".mp4", ".webm", ".mov", ".avi", ".mkv")  # of files, not folders

HELP = "interpolate between prompts, pictures and seeds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add(
        "waypoints",
        nargs="+",
        metavar="WAYPOINT",
        help='a prompt, or @FILE for a picture, in the order of the path; "a sailing boat:2.5" and @rose.png:2.5 have '
        "the weight 2.5",
    )
    add_shared("--model")
    add("--frames", type=whole(2), default=24, metavar="N", help="total number of frames (default: %(default)s)")
    add(
        "--seed",
        type=seeds_of,
        default=[0],
        metavar="SEED[,SEED...]",
        help="one seed for all waypoints, or one for each; a single waypoint may have several seeds (default: 0)",
    )
    add("--loop", action="store_true", help="return to the first waypoint")
    add_shared("--guidance-scale", help="guidance scale of waypoints without a weight (default: the model's, else 3)")
    add_shared("--guidance-interval")
    add_shared("--variation")
    add("--negative-prompt", metavar="PROMPT", help="prompt to steer away from along the whole path")
    add_shared("--steps")
    add_shared("--algorithm")
    add_shared("--height")
    add_shared("--width")
    add(
        "--max-pictures",
        type=whole(2),
        metavar="N",
        help="number of pictures to sample at most to find evenly spaced frames (default: four times --frames); the "
        "number of frames itself gives even steps of the angle",
    )
    add_shared("--batch-size")
    add_shared("--device")
    add_shared("--dtype")
    add_shared("--compile")
    add("--format", choices=ANIMATION_FORMATS, default="gif", help="format of the animation (default: %(default)s)")
    add(
        "--frame-rate",
        type=number(0.1, 100),
        default=12.0,
        metavar="N",
        help="frames per second (default: %(default)g)",
    )
    add_shared("--output", help="folder to write to (default: one named after the waypoints, in outputs)")
    add_shared("--overwrite", help="replace existing pictures that have other settings")
    add_shared("--yes")
    add_shared("--dry-run")


def check(args: argparse.Namespace) -> argparse.Namespace:
    for source, _ in map(parse_waypoint, args.waypoints):
        if isinstance(source, Path):
            require_file(source, "waypoint")
    settle(doubts_of(args, about_words=is_at_terminal() and not args.dry_run), args.yes)
    require_model(args.model)
    if args.output is not None and args.output.suffix.lower() in SUFFIXES and not args.output.is_dir():
        raise ValueError(
            f"--output {args.output}: an animation is written into a folder, beside its frames. Give the name of a "
            f"folder, and --format for another format ({', '.join(ANIMATION_FORMATS)})."
        )
    require_writable(args.output or OUTPUTS)
    return args


def doubts_of(args: argparse.Namespace, about_words: bool = True) -> list[str]:
    """Warnings about arguments that are probably mistakes. Files need not exist.

    Args:
        args: The arguments.
        about_words: True to warn of prompts of which the model does not know a word.

    Raises:
        ValueError: If the arguments contradict one another, or a prompt is the name of a file.
    """
    for text in args.waypoints:
        parse_waypoint(text)
    require_interval(args.guidance_interval)
    if args.negative_prompt is not None:
        refuse_file_names([args.negative_prompt], "--negative-prompt takes a text.")
    prompts = [text for text in args.waypoints if not text.startswith("@")]
    refuse_bytes([*prompts, args.negative_prompt or ""])
    doubts = doubts_about(args.waypoints, (), args.guidance_scale, args.negative_prompt, are_waypoints=True)
    return doubts + (doubts_about_words(prompts, args.model) if about_words else [])


def run(args: argparse.Namespace) -> None:
    """Sample pictures that lead from waypoint to waypoint in even steps, and write them as numbered PNG files, an
    animation and a grid. The same command resumes an interrupted run. Runs with another number of frames, format or
    frame rate reuse the pictures that the folder has."""
    from ..inference.animation import check_picture_folder, open_picture_folder
    from ..inference.devices import usable_device, usable_dtype
    from ..inference.interpolation import check_counts, prepare_path, sample_path
    from ..inference.loading import load_pipeline
    from ..inference.weights import share_guidance
    from ..utils.locks import exclusive

    given = [parse_waypoint(text) for text in args.waypoints]
    sources = [open_image(source, "waypoint") if isinstance(source, Path) else source for source, _ in given]
    device = usable_device(args.device)
    dtype = usable_dtype(args.dtype, device)
    pipe = load_pipeline(args.model, dtype, device, compiled=args.compile, algorithm_type=args.algorithm)
    pipe.set_progress_bar_config(disable=True)
    height, width = pipe.default_size
    settle(doubts_about_size((args.width or width, args.height or height), (width, height)), args.yes)
    # A waypoint is sampled alone, so it gets the whole guidance scale.
    guidance_scale = pipe.guidance_or_default(args.guidance_scale)
    named = [share_guidance([waypoint], guidance_scale)[0] for waypoint in given]
    path = prepare_path(
        pipe,
        [(source, weight) for source, (_, weight) in zip(sources, named)],
        args.seed,
        args.loop,
        negative_prompt=args.negative_prompt,
        height=args.height,
        width=args.width,
        variation=args.variation,
    )
    check_counts(path, args.frames, args.batch_size, args.max_pictures)
    steps = pipe.steps_or_default(args.steps)
    pipe.scheduler.set_timesteps(steps)
    settings = _settings(args, pipe, named, path, steps, dtype)
    args.output = args.output or _folder_for(given, settings)
    print(*_description(settings, args), sep="\n", file=sys.stderr)
    if args.dry_run:
        check_picture_folder(args.output, settings, args.overwrite)
        most = 4 * args.frames if args.max_pictures is None else args.max_pictures
        print(
            f"{args.frames} frames of {path.width} × {path.height} pixels over {path.num_legs} legs, chosen from "
            f"{args.frames} to {most} pictures of {len(pipe.scheduler.timesteps)} network evaluations each"
        )
        return
    with exclusive(args.output, beside=True):
        pictures = open_picture_folder(args.output, settings, args.overwrite)
        frames = sample_path(
            pipe, path, args.frames, steps, args.batch_size, args.max_pictures, pictures, args.guidance_interval
        )
        _save(args, pictures, [path.canonical(position) for position in frames.positions[: args.frames]], frames)


def _folder_for(given, settings):
    """The folder of a path in `OUTPUTS`: one that is new, or has pictures of the same settings."""
    from ..inference.animation import check_picture_folder

    words = " to ".join(source.stem if isinstance(source, Path) else source for source, _ in given)
    for folder in numbered(OUTPUTS / file_stem(words)):
        try:
            check_picture_folder(folder, settings, overwrite=False)
        except ValueError:
            continue
        return folder


def _description(settings, args):
    """Lines that say how the command was understood."""
    waypoints = [f"{source}, weight {weight:g}" for source, weight, *_ in settings["waypoints"]]
    lines = [("path", text) if i == 0 else ("", text) for i, text in enumerate(waypoints)]
    if args.loop:
        lines.append(("", "and back to the first"))
    if args.negative_prompt is not None:
        lines.append(("negative", args.negative_prompt))
    sampling = f"{settings['steps']} steps of {settings['algorithm']}"
    lines += [
        ("model", ", ".join((name_of_model(args.model), sampling, settings["dtype"]))),
        ("size", f"{settings['width']} × {settings['height']} pixels"),
        ("seeds" if len(args.seed) > 1 else "seed", ", ".join(map(str, args.seed))),
        ("folder", f"{args.output}{os.sep}"),
    ]
    return in_columns(lines)


def _settings(args, pipe, named, path, steps, dtype):
    """The part of the record that all pictures of a path share."""
    from ..inference.loading import find_model, folder_identity

    model = "default" if args.model is None else args.model
    settings = {
        "waypoints": [describe(source, weight) for source, weight in named],
        "seeds": args.seed,
        "negative_prompt": args.negative_prompt,
        "variation": pipe.variation_or_default(args.variation),
        "model": model,
        "identity": folder_identity(find_model(model)),
        "steps": steps,
        "algorithm": pipe.scheduler.config.get("algorithm_type", type(pipe.scheduler).__name__),
        "height": path.height,
        "width": path.width,
        "dtype": dtype,
        "compiled": args.compile,
        "runtime": "torch",
        "version": __version__,
    }
    height, width = pipe.default_size
    if (path.height, path.width) != (height, width):
        settings["trained_size"] = [width, height]
    # Folders of earlier runs do not have this field, and can resume without it.
    return settings | ({"guidance_interval": args.guidance_interval} if args.guidance_interval else {})


def _save(args, pictures, positions, frames):
    """Saves the frames, their grid and the animation, and prints how even the steps are."""
    from ..inference.animation import save_animation, save_frames
    from ..inference.even_frames import EVEN_ENOUGH
    from ..inference.provenance import save_picture
    from ..utils.pictures import image_grid

    images = [pictures[position] for position in positions]
    record = {**pictures.settings, "frames": args.frames, "loop": args.loop, "size": list(images[0].size)}
    if args.max_pictures is not None:
        record["max_pictures"] = args.max_pictures
    save_frames([pictures.path(position) for position in positions], args.output)
    save_picture(image_grid(images, columns=math.ceil(math.sqrt(len(images)))), args.output / "grid.png", record)
    animation = args.output / f"animation{ANIMATION_FORMATS[args.format][0]}"
    save_animation(images, animation, args.format, args.frame_rate, record)
    print(f"The largest step between two frames is {frames.unevenness:.2f} times the median step.")
    if frames.unevenness > EVEN_ENOUGH:
        print("A larger --max-pictures may find more even frames.")
    print(animation)


def seeds_of(text: str) -> list[int]:
    """Parses "1" or "1,2,3"."""
    return [whole(0, LAST_SEED)(seed) for seed in text.split(",")]


def parse_waypoint(text: str) -> tuple[str | Path, float | None]:
    """Splits a waypoint into its weight and its prompt, or its file if it starts with @.

    Raises:
        ValueError: Without text before the weight, or for a file named without @.
    """
    if text.startswith("@"):
        return parse_weighted_file(text[1:])
    if is_file_name(text):
        raise ValueError(f"{text!r} names a file; write {'@' + text!r} for a picture as a waypoint.")
    return parse_weighted(text)


def describe(source: str | Path, weight: float) -> list:
    """A waypoint in the settings: the prompt and its weight, or the file, its weight and part of its hash."""
    if isinstance(source, Path):
        return [f"@{source}", weight, hashlib.sha256(source.read_bytes()).hexdigest()[:16]]
    return [source, weight]
