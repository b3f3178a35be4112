"""`ccld sample`."""

import argparse
import math
from functools import partial
from pathlib import Path

from ..schedulers.names import TIMESTEP_SCHEDULES
from ..version import __version__
from .arguments import add_option, open_image, parse_weighted, parse_weighted_file

HELP = "sample pictures from prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add("prompts", nargs="*", metavar="PROMPT", help='a prompt; "a red fox:2.5" has the weight 2.5')
    add("--image", action="append", default=[], metavar="FILE[:WEIGHT]", help="an image prompt; can be repeated")
    add_shared("--model")
    add("-n", "--num-images", type=int, default=4, metavar="N", help="number of pictures (default: %(default)s)")
    add_shared("--steps")
    add_shared("--seed")
    add_shared(
        "--guidance-scale",
        help="guidance scale, shared evenly by all prompts without a weight of their own (default: the model's, "
        "without one 3)",
    )
    add_shared("--variation")
    add(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("FROM", "TO"),
        help="apply guidance only between these times, from 0 (the image) to 1 (the noise) (default: always)",
    )
    add_shared("--algorithm")
    add("--timestep-schedule", choices=TIMESTEP_SCHEDULES, help="spacing of the steps (default: the model's)")
    add("--eta", type=float, default=0.0, help="share of fresh noise for ddim, 0 to 1 (default: %(default)g)")
    add_shared("--height")
    add_shared("--width")
    add_shared("--batch-size")
    add_shared("--device")
    add_shared("--dtype")
    add_shared("--compile")
    add_shared("--output", default=Path("outputs"))


def run(args: argparse.Namespace) -> None:
    """Sample pictures that match all prompts and image prompts at once, and write them as PNG files and a grid.
    Without a prompt, sample unconditionally. A prompt that looks like an address is only text: nothing is fetched."""
    from ..inference.devices import usable_device, usable_dtype
    from ..inference.loading import load_pipeline
    from ..inference.provenance import save_picture
    from ..inference.sampling import sample, share_guidance
    from ..utils.pictures import image_grid, save_image

    given = [parse_weighted(text) for text in args.prompts] + [parse_weighted_file(text) for text in args.image]
    sources = [open_image(source) if isinstance(source, Path) else source for source, _ in given]
    if args.num_images < 1 or args.batch_size < 1:
        raise ValueError("--num-images and --batch-size must be at least 1.")

    sampler = {"algorithm_type": args.algorithm, "timestep_schedule": args.timestep_schedule}
    device = usable_device(args.device)
    dtype = usable_dtype(args.dtype, device)
    pipe = load_pipeline(args.model, dtype, device, compiled=args.compile, **sampler)
    named = share_guidance(given, pipe.guidance_or_default(args.guidance_scale))
    provenance = _provenance(args, pipe, named, dtype)
    seeds = range(args.seed, args.seed + args.num_images)
    pictures = sample(
        pipe,
        seeds,
        batch_size=args.batch_size,
        conditions=[(source, weight) for source, (_, weight) in zip(sources, named)],
        variation=provenance["variation"],
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
        "variation": pipe.variation_or_default(args.variation),
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
