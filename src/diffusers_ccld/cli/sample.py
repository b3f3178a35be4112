"""`ccld sample`."""

import argparse
import math
from pathlib import Path

from ..inference.devices import usable_device, usable_dtype
from ..utils.pictures import save_image
from ..version import __version__
from .arguments import add_compile_argument, add_device_arguments, open_image, parse_weighted, parse_weighted_file

HELP = "paint from prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..schedulers.noise_schedule import TIMESTEP_SCHEDULES
    from ..schedulers.scheduling_ccld import ALGORITHMS

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
    add(
        "--steps",
        type=int,
        metavar="N",
        help="number of sampling steps (default: 10 with dpmpp and unipc, else 50, or what the model was taught)",
    )
    add("--seed", type=int, default=0, help="seed of the first picture; the others count up (default: 0)")
    add(
        "--guidance-scale",
        type=float,
        default=3.0,
        metavar="G",
        help="weight of what comes without a weight of its own (default: 3); several share it evenly",
    )
    add(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("FROM", "TO"),
        help="times from 0 (the image) to 1 (the noise) between which there is guidance (default: everywhere)",
    )
    add("--algorithm", choices=ALGORITHMS, help="sampler (default: the model's own)")
    add("--timestep-schedule", choices=TIMESTEP_SCHEDULES, help="spacing of the steps (default: the model's own)")
    add("--eta", type=float, default=0.0, help="share of fresh noise for ddim, 0 to 1 (default: 0)")
    add("--height", type=int, metavar="PIXELS", help="height (default: the model's own)")
    add("--width", type=int, metavar="PIXELS", help="width (default: the model's own)")
    add("--batch-size", type=int, default=4, metavar="N", help="pictures made at once (default: 4)")
    add_device_arguments(parser)
    add_compile_argument(parser)
    add("--output", type=Path, default=Path("outputs"), metavar="DIR", help="folder to write to (default: outputs)")


def run(args: argparse.Namespace) -> None:
    """Sample pictures that match all prompts and image prompts together, and save them as PNG files and a grid. Without
    a prompt, sampling is unconditional. A prompt is always text; addresses are not fetched."""
    from ..inference.loading import load_pipeline
    from ..inference.provenance import save_picture
    from ..inference.sampling import sample, share_guidance
    from ..utils.pictures import image_grid

    given = [parse_weighted(text) for text in args.prompts] + [parse_weighted_file(text) for text in args.image]
    named = share_guidance(given, args.guidance_scale)
    conditions = [(open_image(source) if isinstance(source, Path) else source, weight) for source, weight in named]
    if args.num_images < 1 or args.batch_size < 1:
        raise ValueError("--num-images and --batch-size must be at least 1.")

    sampler = {"algorithm_type": args.algorithm, "timestep_schedule": args.timestep_schedule}
    device = usable_device(args.device)
    dtype = usable_dtype(args.dtype, device)
    pipe = load_pipeline(args.model, dtype, device, compiled=args.compile, **sampler)
    provenance = _provenance(args, pipe, named, dtype)
    seeds = range(args.seed, args.seed + args.num_images)
    pictures = sample(
        pipe,
        seeds,
        batch_size=args.batch_size,
        conditions=conditions,
        num_inference_steps=args.steps,
        guidance_interval=args.guidance_interval,
        eta=args.eta,
        height=args.height,
        width=args.width,
    )
    saved = []
    for seed, picture in zip(seeds, pictures):
        args.output.mkdir(parents=True, exist_ok=True)
        path = args.output / f"{seed:05d}.png"
        save_picture(picture, path, {**provenance, "seed": seed, "size": list(picture.size)})
        print(path)
        saved.append(picture)
    save_image(image_grid(saved, columns=math.ceil(math.sqrt(len(saved)))), args.output / "grid.png")
    print(args.output / "grid.png")


def _provenance(args, pipe, named, dtype):
    """The part of the record that all pictures of a command share."""
    config = pipe.scheduler.config
    return {
        "conditions": [[str(source), weight] for source, weight in named],
        "model": "default" if args.model is None else args.model,
        "steps": pipe.steps_or_default(args.steps),
        "guidance_interval": args.guidance_interval,
        "algorithm": config.get("algorithm_type", type(pipe.scheduler).__name__),
        "timestep_schedule": config.get("timestep_schedule"),
        "eta": args.eta,
        "dtype": dtype,
        "compiled": args.compile,
        "version": __version__,
    }
