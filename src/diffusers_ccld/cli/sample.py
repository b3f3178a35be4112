"""`ccld sample`."""

import argparse
import dataclasses
import math
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..pipelines.usual import STRENGTHS
from ..schedulers.names import TIMESTEP_SCHEDULES
from ..utils.arguments import number, whole
from .arguments import LAST_SEED, add_option
from .doubts import doubts_about_size, settle
from .outputs import number_to_name, unused_path
from .runtimes import RUNTIMES, model_folder
from .sample_record import description, negative_weight, record_of, size_of
from .sample_request import SampleRequest, check_request

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from tqdm import tqdm

    from ..inference.provenance import Provenance
    from ..onnx.pipeline import OnnxPipeline
    from ..pipelines.conditions import Condition
    from ..pipelines.pipeline_ccld import CCLDPipeline

HELP = "sample pictures from prompts, and change pictures"

# Large cut-outs: small ones differ from the whole pictures that CLOOB has learned.
CUTOUTS = {"num_cutouts": 4, "cutout_power": 0.25}

MOST_IMAGES = 100_000
LARGEST_RANDOM_SEED = 2**32 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add("prompts", nargs="*", metavar="PROMPT", help='a prompt; "a sailing boat:2.5" has the weight 2.5')
    add("--negative-prompt", metavar="PROMPT", help="prompt to steer away from")
    add("--image", action="append", default=[], metavar="FILE[:WEIGHT]", help="an image prompt; can be repeated")
    add(
        "--embedding",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="an embedding of `ccld embed` as a prompt; can be repeated",
    )
    begin = parser.add_mutually_exclusive_group().add_argument
    begin("--init", type=Path, metavar="FILE", help="begin with this picture and noise (image to image)")
    begin("--edit", type=Path, metavar="FILE", help="edit this picture and keep its composition, by inversion")
    add("--mask", type=Path, metavar="FILE", help="paint only where this picture is white (inpainting); with --init")
    add(
        "--strength",
        type=number(0.01, 1),
        metavar="X",
        help=f"how much --init or --edit changes, up to 1 (default: {STRENGTHS['image_to_image']:g} for --init, "
        f"{STRENGTHS['inpaint']:g} with --mask, {STRENGTHS['edit']:g} for --edit)",
    )
    add_shared("--model")
    add(
        *("-n", "--num-images"),
        type=whole(1, MOST_IMAGES),
        metavar="N",
        help="number of pictures (default: 4; 1 for --edit or if --output is a file)",
    )
    add("--best", type=whole(1), metavar="K", help="write only the K pictures most similar to the prompts, by CLOOB")
    add_shared("--steps")
    add_shared(
        "--seed",
        type=seed_or_random,
        help="seed of the first picture; each further picture takes the next seed; -1 for a random one (default: 0)",
    )
    _add_guidance_arguments(parser)
    _add_run_arguments(parser)


def _add_guidance_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of guidance."""
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add_shared(
        "--guidance-scale",
        help="guidance scale, shared evenly by all prompts without a weight of their own (default: the model's, "
        "without one 3)",
    )
    add_shared("--variation")
    add(
        "--cloob-guidance",
        type=number(0, math.inf),
        metavar="S",
        help="hide the prompts from the network, and steer by S times the gradient of CLOOB's distance to them, for "
        "example 500; slow (best with --cloob-repeats 6 --algorithm ddim --eta 1 --steps 20)",
    )
    add(
        "--cloob-repeats",
        type=whole(1),
        default=1,
        metavar="N",
        help="with --cloob-guidance and --algorithm ddim or ddpm: steer N times in each step, with fresh noise in "
        "between (default: %(default)s)",
    )
    add_shared("--guidance-interval")
    add(
        "--parallel-guidance",
        type=number(0, 1),
        default=1.0,
        metavar="SHARE",
        help="share of the guidance parallel to the prediction that is kept, 0 to 1; with less, more guidance leaves "
        "colours natural (default: %(default)g)",
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the sampler, the hardware and the output."""
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add_shared("--algorithm")
    add("--timestep-schedule", choices=TIMESTEP_SCHEDULES, help="spacing of the steps (default: the model's)")
    add("--eta", type=number(0, 1), default=0.0, help="share of fresh noise for ddim, 0 to 1 (default: %(default)g)")
    add_shared("--height")
    add_shared("--width")
    add_shared("--batch-size")
    add_shared("--device")
    add_shared(
        "--dtype",
        help="precision of torch (default: bf16 if the hardware computes in it, else fp32); onnx has its files'",
    )
    add_shared("--compile")
    add(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help="what runs the networks: torch, or onnx, which starts sooner and has fewer options (default: onnx for "
        "the bundled model and for folders of ONNX files, where the other options allow it)",
    )
    add_shared(
        "--output",
        default=Path("outputs"),
        metavar="DIR|FILE",
        help="folder to write to, under names from prompt and seed, or a .png file for one picture; existing files "
        "are kept (default: %(default)s)",
    )
    add(
        "--grid",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write a grid of all pictures, or not, for folders to train on (default: write it)",
    )
    add_shared("--yes")
    add("-q", "--quiet", action="store_true", help="print only the names of the files")
    add_shared("--dry-run")


def seed_or_random(text: str) -> int:
    """Parses a seed; −1 becomes a random one."""
    seed = whole(-1, LAST_SEED)(text)
    return secrets.randbelow(LARGEST_RANDOM_SEED) if seed == -1 else seed


def check(args: argparse.Namespace) -> SampleRequest:
    return check_request(args)


def needs_torch(request: SampleRequest) -> bool:
    """True if the command has to import torch."""
    return request.runtime == "torch"


def run(request: SampleRequest) -> None:
    """Sample pictures that match all prompts and image prompts at once, and write them as PNG files and a grid.
    Without a prompt, sample unconditionally. A prompt that looks like an address is only text: nothing is fetched."""
    from ..inference.weights import share_guidance

    args = request.args
    pipe, dtype = load_for_onnx(request) if request.runtime == "onnx" else load_for_torch(request)
    scale = 1.0 if args.cloob_guidance else pipe.guidance_or_default(args.guidance_scale)
    named = share_guidance(request.given, scale)
    negative = negative_weight(args.negative_prompt, sum(weight for _, weight in named))
    size = size_of(request, pipe)
    record = record_of(request, pipe, named, size, dtype)
    settle(doubts_about_size(size, pipe.default_size[::-1]), args.yes)
    pipe.notices.about_words = False  # the description names them
    pipe.notices.warn_of_size(size[::-1], pipe.default_size)
    if not args.quiet:
        print(*description(request, record, negative), sep="\n", file=sys.stderr)
    if args.dry_run:
        return
    sources = request.images | load_embeddings(request, pipe)
    conditions = [(sources.get(source, source), weight) for source, weight in named]
    if negative is not None:
        conditions.append((args.negative_prompt, negative))
    pictures = (paint_with_onnx if request.runtime == "onnx" else paint)(request, pipe, conditions, size)
    painted = zip(request.seeds, request.paths, pictures)
    save(request, best_of(request, pipe, painted, conditions) if args.best else painted, record)


def load_embeddings(request: SampleRequest, pipe: "CCLDPipeline | OnnxPipeline") -> "dict[Path, torch.Tensor]":
    """The embeddings of a request by their paths."""
    if not request.embeddings:
        return {}
    from ..data.embedding_files import load_embedding

    return {path: load_embedding(path, pipe) for path in request.embeddings}


def load_for_torch(request: SampleRequest) -> "tuple[CCLDPipeline, str]":
    """The pipeline of a request, and the name of its precision."""
    from ..inference.devices import usable_device, usable_dtype
    from ..inference.loading import load_pipeline

    args = request.args
    device = usable_device(args.device)
    dtype = usable_dtype(args.dtype, device)
    sampler = {"algorithm_type": args.algorithm, "timestep_schedule": args.timestep_schedule}
    return load_pipeline(args.model, dtype, device, compiled=args.compile, **sampler), dtype


def load_for_onnx(request: SampleRequest) -> "tuple[OnnxPipeline, str]":
    """The pipeline of a request for onnxruntime, and the name of its precision."""
    from ..onnx.pipeline import OnnxPipeline

    args = request.args
    pipe = OnnxPipeline(model_folder(args.model))
    changes = {"algorithm_type": args.algorithm, "timestep_schedule": args.timestep_schedule}
    given = {name: value for name, value in changes.items() if value is not None}
    pipe.scheduler = dataclasses.replace(pipe.scheduler, **given)
    return pipe, pipe.manifest.dtype


def paint_with_onnx(
    request: SampleRequest,
    pipe: "OnnxPipeline",
    conditions: "Sequence[tuple[Condition, float]]",
    size: tuple[int, int],
) -> "Iterator[Image.Image]":
    """Samples the pictures of a request without torch; arguments as for `paint`."""
    args = request.args
    with progress_bar(len(request.seeds), args.quiet) as bar:

        def on_step(done: int, total: int) -> None:
            bar.update(len(request.seeds) * done / total - bar.n)

        yield from pipe.sample(
            request.seeds,
            conditions,
            num_inference_steps=args.steps,
            guidance_interval=args.guidance_interval,
            variation=args.variation,
            eta=args.eta,
            width=size[0],
            height=size[1],
            batch_size=args.batch_size,
            on_step=on_step,
        )


def paint(
    request: SampleRequest,
    pipe: "CCLDPipeline",
    conditions: "Sequence[tuple[Condition, float]]",
    size: tuple[int, int],
) -> "Iterator[Image.Image]":
    """Samples the pictures of a request, with one progress bar for all.

    Args:
        request: The request.
        pipe: The pipeline of the model.
        conditions: All conditions, the negative prompt included.
        size: Width and height in pixels.

    Yields:
        The picture of each seed.
    """
    from ..inference.sampling import sample
    from ..inference.tasks import PIPELINES, Progress, call_of, feathered, fitted, reporting, widened
    from ..pipelines.pipeline_ccld_guided import CCLDGuidedPipeline

    args, count = request.args, len(request.seeds)
    options = {
        "conditions": list(conditions),
        "variation": pipe.variation_or_default(args.variation),
        "num_inference_steps": args.steps,
        "guidance_interval": args.guidance_interval,
        "eta": args.eta,
    }
    if args.parallel_guidance != 1:
        options["parallel_guidance"] = args.parallel_guidance
    if request.picture is None:
        options |= {"width": size[0], "height": size[1]}
    else:
        picture = fitted(request.picture, size)
        options |= {"image": picture} | ({} if args.strength is None else {"strength": args.strength})
    if request.mask is not None:
        mask = fitted(request.mask.resize(request.picture.size), size)
        options["mask_image"] = widened(mask)
    if request.task != "paint":
        pipe = PIPELINES[request.task].from_pipe(pipe)
    elif args.cloob_guidance:
        pipe, options["conditions"] = CCLDGuidedPipeline.from_pipe(pipe), []
        options |= {"cloob_guidance_scale": args.cloob_guidance, "cloob_conditions": list(conditions), **CUTOUTS}
        options["num_repeats"] = args.cloob_repeats
    pipe.set_progress_bar_config(disable=True)
    finished = 0
    with progress_bar(count, args.quiet) as bar:

        def on_step(progress: Progress) -> None:
            bar.update(finished + progress.share * min(args.batch_size, count - finished) - bar.n)

        call, options = call_of(request.task, pipe), options | reporting(request.task, on_step)
        for image in sample(call, request.seeds, batch_size=args.batch_size, **options):
            finished += 1
            yield image if request.mask is None else feathered(image, picture, mask)


@contextmanager
def progress_bar(count: int, quiet: bool) -> "Iterator[tqdm]":
    """One progress bar for a number of pictures, at a terminal."""
    from tqdm import tqdm

    bar_format = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
    with tqdm(total=count, desc="Painting", bar_format=bar_format, disable=True if quiet else None) as bar:
        yield bar


def print_beside_bar(path: Path) -> None:
    """Prints the name of a file on a line of its own, at once. A progress bar moves out of the way."""
    from tqdm import tqdm

    tqdm.write(str(path))
    sys.stdout.flush()


def best_of(
    request: SampleRequest,
    pipe: "CCLDPipeline",
    painted: "Iterable[tuple[int, Path, Image.Image]]",
    conditions: "Sequence[tuple[Condition, float]]",
) -> "list[tuple[int, Path, Image.Image]]":
    """The pictures that are most similar to their conditions, best first, of seeds, files and pictures."""
    from ..inference.ranking import similarities

    painted = list(painted)
    scores = similarities(pipe, [picture for *_, picture in painted], conditions)
    order = sorted(range(len(painted)), key=lambda i: -scores[i])[: request.args.best]
    if not request.args.quiet:
        kept = ", ".join(f"{painted[i][0]} ({scores[i]:.3f})" for i in order)
        print(f"best of {len(painted)}, by seed and similarity: {kept}", file=sys.stderr)
    return [painted[i] for i in order]


def save(request: SampleRequest, painted: "Iterable[tuple[int, Path, Image.Image]]", record: "Provenance") -> None:
    """Writes pictures, given with their seeds and files, and the grid of several; prints the names of the files.

    At a terminal, the first names stand for many.
    """
    from ..inference.provenance import save_picture
    from ..utils.pictures import image_grid

    of_grid, seeds = [], []
    num_named = number_to_name(request.num_kept, request.args.quiet)
    for seed, path, picture in painted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path = unused_path(path)  # another command may have taken the name in the meantime
        save_picture(picture, path, {**record, "seed": seed})
        if len(seeds) < num_named:
            print_beside_bar(path)
        if request.grid is not None:
            of_grid.append(picture)
        seeds.append(seed)
    if len(seeds) > num_named:
        print(f"… and {len(seeds) - num_named} more in {path.parent}{os.sep}", file=sys.stderr)
    if request.grid is not None:
        grid = image_grid(of_grid, columns=math.ceil(math.sqrt(len(of_grid))))
        own = {"seed": request.seeds[0], "seeds": seeds, "num_images": len(request.seeds)}
        path = unused_path(request.grid)
        save_picture(grid, path, {**record, **own})
        print(path)
