"""The request of `ccld sample`, checked before torch is imported."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..schedulers.names import SINGLE_STEP
from ..utils.file_names import file_stem
from .arguments import (
    LAST_SEED,
    PICTURE_SUFFIXES,
    open_image,
    parse_weighted,
    parse_weighted_file,
    require_file,
    require_interval,
    require_model,
)
from .doubts import doubts_about, doubts_about_words, refuse_bytes, refuse_file_names, settle
from .outputs import paths_of_run, require_writable, unused_path
from .runtimes import chosen_runtime
from .shell_words import quoted

if TYPE_CHECKING:
    from PIL import Image

USUAL_NUM_IMAGES = 4
USE_OF_PICTURES = (
    "To sample similar pictures, give --image {name}. To change the picture, give --init {name} or --edit {name}."
)
USE_AS_NEGATIVE = "--negative-prompt takes a text; to steer away from a picture, give --image {name}:-1."


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """A checked request.

    Attributes:
        args: The arguments of the command.
        task: One of `inference.tasks.PIPELINES`.
        runtime: What runs the networks: "torch" or "onnx".
        given: Prompts and paths of image prompts with their weights, `None` where none was given.
        images: The image prompts by their paths.
        embeddings: The paths of the embeddings.
        picture: The picture to begin with, or `None`.
        mask: The mask, white where to paint, or `None`.
        seeds: The seed of each picture.
        paths: The file of each picture.
        grid: The file of the grid, or `None` without one.
    """

    args: argparse.Namespace
    task: str
    runtime: str
    given: list[tuple[str | Path, float | None]]
    images: dict[Path, "Image.Image"]
    embeddings: list[Path]
    picture: "Image.Image | None"
    mask: "Image.Image | None"
    seeds: range
    paths: list[Path]
    grid: Path | None

    @property
    def num_kept(self) -> int:
        """Number of pictures that are written."""
        return self.args.best or len(self.seeds)


def check_request(args: argparse.Namespace) -> SampleRequest:
    """Checks the arguments of `ccld sample`, and asks about doubtful ones.

    Raises:
        ValueError: If they contradict one another, or a file cannot be read or written.
    """
    if not all(prompt.strip() for prompt in args.prompts):
        raise ValueError("A prompt is empty. Leave it out to sample pictures that follow the training images.")
    settle(doubts_of(args), args.yes)
    embeddings = [parse_weighted_file(text) for text in args.embedding]
    images = [parse_weighted_file(text) for text in args.image]
    given = [*map(parse_weighted, args.prompts), *images, *embeddings]
    require_model(args.model)
    for path, _ in embeddings:
        require_file(path, "--embedding")
    is_file = args.output.suffix.lower() == ".png" and not args.output.is_dir()
    num_images = args.num_images
    if num_images is None:
        num_images = 1 if args.edit or (is_file and not args.best) else USUAL_NUM_IMAGES
    if args.best and args.best > num_images:
        raise ValueError(f"--best {args.best}: more than the {num_images} pictures; raise -n.")
    if args.seed + num_images - 1 > LAST_SEED:
        raise ValueError(f"--seed {args.seed}: with {num_images} pictures, seeds reach beyond {LAST_SEED}.")
    seeds = range(args.seed, args.seed + num_images)
    paths, grid = _paths(args, seeds, is_file)
    begin = args.init or args.edit
    return SampleRequest(
        args=args,
        task="edit" if args.edit else "inpaint" if args.mask else "image_to_image" if args.init else "paint",
        runtime=chosen_runtime(args),
        given=given,
        images={path: open_image(path) for path, _ in images},
        embeddings=[path for path, _ in embeddings],
        picture=begin and open_image(begin, "--edit" if args.edit else "--init"),
        mask=args.mask and _open_mask(args.mask),
        seeds=seeds,
        paths=paths,
        grid=grid,
    )


def doubts_of(args: argparse.Namespace) -> list[str]:
    """Warnings about arguments that are probably mistakes. Files need not exist.

    Raises:
        ValueError: If the arguments contradict one another, or a prompt is the name of a file.
    """
    refuse_bytes([*args.prompts, args.negative_prompt or ""])
    refuse_file_names(args.prompts, USE_OF_PICTURES)
    if args.negative_prompt is not None:
        refuse_file_names([args.negative_prompt], USE_AS_NEGATIVE)
    prompts = [*map(parse_weighted, args.prompts)]
    options = {"--image": args.image, "--embedding": args.embedding}
    files = [(option, *parse_weighted_file(text)) for option, texts in options.items() for text in texts]
    _check_options(args, bool(prompts or files))
    named = [(f"{option} {path}", weight) for option, path, weight in files]
    doubts = doubts_about(args.prompts, named, args.guidance_scale, args.negative_prompt)
    if args.edit and not (prompts or files):
        doubts.append(
            f"--edit {args.edit}: without a prompt, the picture stays much as it is. Say what it is to become, as in: "
            f'ccld sample "a cottage in winter" --edit {quoted(str(args.edit))}'
        )
    return doubts + doubts_about_words(args.prompts, args.model)


def _check_options(args: argparse.Namespace, has_prompts: bool) -> None:
    """Raises `ValueError` for options that contradict one another or lack a partner."""
    if args.mask and args.edit:
        raise ValueError("--mask belongs to --init, not to --edit: give --init FILE in its place.")
    if args.mask and not args.init:
        raise ValueError("--mask needs the picture that it belongs to: give --init FILE, too.")
    if args.strength is not None and not (args.init or args.edit):
        raise ValueError("--strength is the strength of a change: give --init FILE or --edit FILE, too.")
    if args.strength == 1 and args.edit:
        raise ValueError("--strength 1: give less than 1 with --edit; at 1 nothing of the picture is left.")
    for option, value in (("--negative-prompt", args.negative_prompt), ("--best", args.best)):
        if value is not None and not has_prompts:
            raise ValueError(f"{option} needs a prompt or an image prompt.")
    if args.cloob_guidance and not has_prompts:
        raise ValueError("--cloob-guidance needs a prompt, an image prompt or an embedding to steer to.")
    if args.cloob_repeats > 1 and not args.cloob_guidance:
        raise ValueError(f"--cloob-repeats {args.cloob_repeats} repeats --cloob-guidance, which is missing.")
    if args.cloob_repeats > 1 and args.algorithm not in SINGLE_STEP:
        raise ValueError(f"--cloob-repeats {args.cloob_repeats} needs --algorithm ddim or ddpm.")
    if args.cloob_guidance and (args.init or args.edit):
        raise ValueError("--cloob-guidance is not for --init and --edit.")
    if args.cloob_guidance and (args.negative_prompt or args.guidance_scale is not None):
        raise ValueError("--cloob-guidance replaces --guidance-scale and --negative-prompt; give one or the other.")
    if args.cloob_guidance and args.parallel_guidance != 1:
        raise ValueError("--parallel-guidance is a share of the guidance that --cloob-guidance replaces; give one.")
    if args.eta and args.algorithm not in (None, "ddim"):
        raise ValueError(f"--eta is an option of --algorithm ddim, not of {args.algorithm}.")
    require_interval(args.guidance_interval)


def _paths(args: argparse.Namespace, seeds: range, is_file: bool) -> tuple[list[Path], Path | None]:
    """The unused files of the pictures and of the grid."""
    kept = args.best or len(seeds)
    if is_file:
        if kept > 1:
            raise ValueError(f"--output {args.output}: this is one file, for {kept} pictures. Give a folder, or -n 1.")
        require_writable(args.output.parent)
        return [unused_path(args.output)] * len(seeds), None
    if args.output.suffix.lower() in PICTURE_SUFFIXES and not args.output.is_dir():
        raise ValueError(f"--output {args.output}: pictures are written as PNG files; give a name with .png.")
    require_writable(args.output)
    return paths_of_run(args.output, stem_of(args), seeds, has_grid=kept > 1 and args.grid)


def stem_of(args: argparse.Namespace) -> str:
    """The beginning of the pictures' names, from the prompts that they are steered to."""
    prompts = [text for text, weight in map(parse_weighted, args.prompts) if weight is None or weight > 0]
    return file_stem(" and ".join(text for text in prompts if any(map(str.isalnum, text))))


def _open_mask(path: Path) -> "Image.Image":
    """A mask as a grey image; transparent parts are black.

    Raises:
        ValueError: If it cannot be read, or nothing in it is white.
    """
    from PIL import Image

    from ..utils.rgb import to_rgb

    open_image(path, "--mask")
    with Image.open(path) as image:
        mask = to_rgb(image, background=0).convert("L")
    if mask.getbbox() is None:
        raise ValueError(f"--mask {path}: all of it is black, and nothing would be painted. White parts are painted.")
    return mask
