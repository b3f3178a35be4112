"""The `ccld` command."""

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from . import __version__
from .errors import first_line
from .files import save_image


def main(argv: list[str] | None = None) -> int:
    """Entry point of `ccld` and `python -m diffusers_ccld`; gives the exit status."""
    parser = argparse.ArgumentParser(prog="ccld", description="CLOOB-Conditioned Latent Diffusion for diffusers.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, add_arguments, run, description in (
        ("sample", add_sample_arguments, sample, "paint from prompts"),
        ("convert", add_convert_arguments, convert, "convert the original's checkpoints to a diffusers folder"),
        ("inspect", add_inspect_arguments, inspect, "tell what a file or folder is"),
        ("export", add_export_arguments, export, "write the original's checkpoints of a diffusers folder"),
    ):
        command = commands.add_parser(name, help=description, description=run.__doc__)
        add_arguments(command)
        command.set_defaults(run=run)
    args = parser.parse_args(argv)
    return run_reporting_errors(args.run, args)


def convert_main(argv: list[str] | None = None) -> int:
    """Entry point of `conversion/convert_ckpt.py`; gives the exit status."""
    parser = argparse.ArgumentParser(description=convert.__doc__)
    add_convert_arguments(parser)
    return run_reporting_errors(convert, parser.parse_args(argv))


def export_main(argv: list[str] | None = None) -> int:
    """Entry point of `conversion/export_ckpt.py`; gives the exit status."""
    parser = argparse.ArgumentParser(description=export.__doc__)
    add_export_arguments(parser)
    return run_reporting_errors(export, parser.parse_args(argv))


def run_reporting_errors(run: Callable[..., None], *args: object) -> int:
    """Runs a command; an error of the user's becomes one line, an interruption the usual status."""
    # Being told to stop is an interruption like any other, so that nothing is left half-written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(*args)
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("CCLD_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


# convert


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    from .original.cloob import PUBLISHED_CONFIGS
    from .original.presets import PRESETS

    add = parser.add_argument
    add("--unet", type=Path, metavar="FILE", help="U-Net: a bare state dict or a Lightning training checkpoint")
    add("--cloob", type=Path, metavar="FILE", help="CLOOB pickle")
    add(
        "--autoencoder",
        type=Path,
        metavar="FILE",
        help="autoencoder, KL or VQ: of latent-diffusion or taming-transformers, bare or in a larger model",
    )
    add(
        "--cloob-config",
        metavar="NAME|FILE",
        help=f"CLOOB configuration, a JSON file or one of {', '.join(PUBLISHED_CONFIGS)} (default: read off the "
        f"weights)",
    )
    add("--autoencoder-config", type=Path, metavar="YAML", help="the autoencoder's YAML file, to check against")
    add(
        "--autoencoder-scale",
        type=float,
        metavar="X",
        help="what latents are multiplied with before decoding (default: the preset's, else the U-Net file's)",
    )
    add(
        "--preset",
        choices=sorted(PRESETS),
        help="a published model, for what its files do not say; without files, its own are downloaded",
    )
    add(
        "--source-dir", type=Path, metavar="DIR", help="take the preset's files from this folder, do not download them"
    )
    add(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take the averaged weights of a training checkpoint, or the raw ones (default: averaged)",
    )
    add("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="precision to save in (default: fp32)")
    add("--overwrite", action="store_true", help="replace components that the folder has already")
    add("--standalone", action="store_true", help="add the code that lets the folder be used without this package")
    add("--output", type=Path, metavar="DIR", required=True, help="folder to write")


def convert(args: argparse.Namespace) -> None:
    """Convert the original's checkpoints to a diffusers folder. Give any of --unet, --cloob and --autoencoder; all
    three make a pipeline, and so does a training checkpoint that has all three inside, and a --preset alone."""
    from .original.conversion import REPORT_NAME
    from .original.conversion import convert as convert_files

    options = {name: value for name, value in vars(args).items() if name != "run"}
    report = convert_files(**options, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
    for name, component in report["components"].items():
        print(f"{name}: {component['class']}, {component['parameters']:,} parameters, from {component['source']}")
    if "autoencoder_scale" in report:
        scale = report["autoencoder_scale"]
        print(f"autoencoder scale: {scale['value']:.6g}, from {scale['from']}")
    for name, result in report["check"].items():
        print(f"check of {name}: {result}")
    print(f"wrote {args.output} (details in {args.output / REPORT_NAME})")


# export


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="pipeline folder")
    add("--unet", type=Path, metavar="FILE", help="write the U-Net to this file, as a bare state dict")
    add("--autoencoder", type=Path, metavar="FILE", help="write the autoencoder to this file, its YAML file beside it")


def export(args: argparse.Namespace) -> None:
    """Write files that the original's scripts and notebooks read, of a folder's U-Net and autoencoder. The file of the
    U-Net has the autoencoder's scale inside."""
    from .original.export import export as export_files

    for path in export_files(args.folder, args.unet, args.autoencoder):
        print(f"wrote {path}")


# inspect


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, metavar="FILE|DIR", help="checkpoint of the original's, or folder of diffusers"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def inspect(args: argparse.Namespace) -> None:
    """Tell what a file or folder is, and what to do with it. Nothing in it is run."""
    from .original.inspection import as_lines
    from .original.inspection import inspect as inspect_path

    facts = inspect_path(args.path)
    print(json.dumps(facts, indent=2) if args.json else "\n".join(as_lines(facts)))


# sample


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    from .noise_schedule import TIMESTEP_SCHEDULES
    from .scheduling_ccld import ALGORITHMS

    add = parser.add_argument
    add("prompts", nargs="*", metavar="PROMPT", help='what to paint; "a red fox:2.5" gives it the weight 2.5')
    add(
        "--image",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="an image prompt, may be given again and again",
    )
    add("--model", metavar="DIR", help="folder or hub id of a pipeline (default: the small one of the package)")
    add("-n", "--num-images", type=int, default=4, metavar="N", help="number of pictures (default: 4)")
    add("--steps", type=int, default=50, metavar="N", help="number of sampling steps (default: 50)")
    add("--seed", type=int, default=0, help="seed of the first picture; the others count up (default: 0)")
    add(
        "--guidance-scale",
        type=float,
        default=3.0,
        metavar="G",
        help="weight of what comes without a weight of its own (default: 3); several share it evenly",
    )
    add("--algorithm", choices=ALGORITHMS, help="sampler (default: the model's own)")
    add("--timestep-schedule", choices=TIMESTEP_SCHEDULES, help="spacing of the steps (default: the model's own)")
    add("--eta", type=float, default=0.0, help="share of fresh noise for ddim, 0 to 1 (default: 0)")
    add("--height", type=int, metavar="PIXELS", help="height (default: the model's own)")
    add("--width", type=int, metavar="PIXELS", help="width (default: the model's own)")
    add("--batch-size", type=int, default=4, metavar="N", help="pictures made at once (default: 4)")
    add("--device", help="device to run on (default: the GPU if there is one)")
    add("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="precision to run in (default: fp32)")
    add("--output", type=Path, default=Path("outputs"), metavar="DIR", help="folder to write to (default: outputs)")


def sample(args: argparse.Namespace) -> None:
    """Paint pictures that match all prompts and image prompts together, as PNG files and a grid. Without any, paint
    whatever the model likes. Prompts are text alone: none is ever fetched as an address."""
    import diffusers
    import numpy as np
    import torch
    from PIL import PngImagePlugin

    from . import CCLDPipeline, CCLDScheduler, default_model
    from .image_grid import image_grid

    parsed = [parse_weighted(text) for text in args.prompts]
    parsed_images = [parse_weighted_file(text) for text in args.image]
    share = args.guidance_scale / max(sum(weight is None for _, weight in parsed + parsed_images), 1)
    named = [(text, share if weight is None else weight) for text, weight in parsed]
    named_images = [(path, share if weight is None else weight) for path, weight in parsed_images]
    conditions = named + [(open_image(path), weight) for path, weight in named_images]
    if args.num_images < 1 or args.batch_size < 1:
        raise ValueError("--num-images and --batch-size must be at least 1.")

    device = usable_device(args.device)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.dtype]
    diffusers.utils.logging.disable_progress_bar()
    pipe = CCLDPipeline.from_pretrained(args.model or default_model(), dtype=dtype).to(device)
    changes = {"algorithm_type": args.algorithm, "timestep_schedule": args.timestep_schedule}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes:
        pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, **changes)

    settings = {
        "conditions": [[str(source), weight] for source, weight in named + named_images],
        "model": args.model or "default",
        "steps": args.steps,
        "algorithm": pipe.scheduler.config.get("algorithm_type", type(pipe.scheduler).__name__),
        "timestep_schedule": pipe.scheduler.config.get("timestep_schedule"),
        "eta": args.eta,
        "version": __version__,
    }
    pictures = []
    seeds = range(args.seed, args.seed + args.num_images)
    for start in range(0, args.num_images, args.batch_size):
        batch = seeds[start : start + args.batch_size]
        images = pipe(
            conditions=conditions,
            num_images_per_prompt=len(batch),
            num_inference_steps=args.steps,
            eta=args.eta,
            height=args.height,
            width=args.width,
            generator=[torch.Generator().manual_seed(seed) for seed in batch],
            output_type="np",
        ).images
        if not np.isfinite(images).all():
            raise ValueError("The model gave values that are not finite. Try --dtype fp32.")
        args.output.mkdir(parents=True, exist_ok=True)
        images = pipe.image_processor.numpy_to_pil(images)
        for seed, image in zip(batch, images):
            metadata = PngImagePlugin.PngInfo()
            metadata.add_text("ccld", json.dumps({**settings, "seed": seed, "size": list(image.size)}))
            path = args.output / f"{seed:05d}.png"
            save_image(image, path, pnginfo=metadata)
            print(path)
        pictures += images
    grid = image_grid(pictures, columns=math.ceil(math.sqrt(len(pictures))))
    save_image(grid, args.output / "grid.png")
    print(args.output / "grid.png")


def usable_device(name: str | None):
    """The device of a name, or the best there is.

    Raises:
        ValueError: If there is no such device.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: there is no such device. ({first_line(error)})") from error


def parse_weighted(text: str) -> tuple[str, float | None]:
    """Splits "a red fox:2.5" into text and weight; a suffix that is no number belongs to the text.

    Raises:
        ValueError: If no text is left before the weight.
    """
    head, colon, tail = text.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        return text, None
    if not colon or not math.isfinite(weight):
        return text, None
    if not head.strip():
        raise ValueError(f"{text!r} needs a text before the colon.")
    return head, weight


def parse_weighted_file(text: str) -> tuple[Path, float | None]:
    """Splits "fox.png:2.5" likewise; a file of the whole name goes first."""
    if Path(text).is_file():
        return Path(text), None
    head, weight = parse_weighted(text)
    return Path(head), weight


def open_image(path: Path):
    """Opens an image prompt whole, so that a damaged file is found before any work.

    Raises:
        ValueError: If there is no such file, or it is no image.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. (An address is not fetched; download it first.)")
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the file is no image, or a damaged one. ({error})") from error
    return image
