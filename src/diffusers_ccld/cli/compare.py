"""`ccld compare`."""

import argparse
import sys
from functools import partial
from pathlib import Path

from ..utils.arguments import whole
from ..utils.requirements import install_command
from ..version import __version__
from .arguments import add_option, require_file, require_model
from .outputs import require_writable

PICTURES = "pictures"  # a folder in that of a comparison, as in `evaluation.gallery`

HELP = "compare models by their samples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add("models", nargs="+", metavar="MODEL", help="folder or Hub name of a pipeline, or default; or NAME=DIR")
    add(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="text file with a prompt on every line, optionally with a group before it: [wikiart] a sunset",
    )
    add("-n", "--seeds", type=whole(1), default=4, metavar="N", help="pictures for each prompt (default: %(default)s)")
    add_shared("--seed")
    add_shared("--steps")
    add_shared("--guidance-scale", help="guidance scale (default: each model's, without one 3)")
    add_shared("--variation", help="spread around a prompt, 0 to 1 (default: each model's, without one 0)")
    add_shared("--algorithm", help="sampling algorithm (default: each model's)")
    add_shared("--batch-size", help="number of pictures to sample and score at once (default: %(default)s)")
    add_shared("--device")
    add_shared("--dtype")
    add("--scorer", metavar="MODEL", help="pipeline whose CLOOB scores all models (default: the first model's)")
    add("--train-images", metavar="DIR", help="training images, to find memorised ones: a folder or a dataset")
    add("--held-out-images", metavar="DIR", help="images of the same kind that were not trained on")
    add(
        "--max-images",
        type=whole(1),
        default=2000,
        metavar="N",
        help="maximum number of images to read of each kind (default: %(default)s)",
    )
    add(
        "--caption-columns",
        nargs="+",
        metavar="COLUMN",
        help="columns of --held-out-images with captions, to measure the gap between text and image embeddings",
    )
    add("--styles", type=Path, metavar="FILE", help="a style on every line, or NAME: CAPTION (default: six media)")
    add("--open-clip", metavar="NAME", help="also score with this model of open_clip")
    add("--open-clip-weights", type=Path, metavar="FILE", help="weights of the open_clip model")
    add("--inception-weights", type=Path, metavar="FILE", help="torch-fidelity's weights, for the FID")
    add(
        "--feature-network",
        type=Path,
        metavar="DIR",
        help="folder of a vision model of transformers, such as DINOv2, for the Fréchet distance in its features",
    )
    add_shared("--output", default=Path("outputs/comparison"), help="folder to write or resume (default: %(default)s)")
    add_shared("--overwrite", help="replace existing pictures that have other settings")
    add_shared("--dry-run")


def check(args: argparse.Namespace) -> argparse.Namespace:
    if (args.open_clip is None) != (args.open_clip_weights is None):
        raise ValueError("--open-clip and --open-clip-weights go together.")
    files = {
        "--prompts": args.prompts,
        "--styles": args.styles,
        "--open-clip-weights": args.open_clip_weights,
        "--inception-weights": args.inception_weights,
    }
    for option, path in files.items():
        if path is not None:
            require_file(path, option)
    if args.scorer != "default":
        require_model(args.scorer, "--scorer")
    require_writable(args.output)
    names = [name for name in ("scores.json", "index.html") if (args.output / name).exists()]
    if names and not (args.output / PICTURES).is_dir():
        raise ValueError(f"--output {args.output} has {names[0]} of something else; choose another folder.")
    return args


def run(args: argparse.Namespace) -> None:
    """Sample the same prompts from the same seeds with several models, and score the pictures. Writes a sheet of
    pictures for each prompt, scores.json, and index.html, which shows everything. The same command resumes an
    interrupted comparison."""
    try:
        from ..evaluation.comparison import load_comparison, parse_styles
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}. ccld compare needs more libraries: {install_command('compare')}") from error
    from ..evaluation.compared_models import find_models, num_evaluations
    from ..evaluation.gallery import Gallery, parse_prompts
    from ..evaluation.scores import STYLES
    from ..inference.devices import usable_device, usable_dtype
    from ..inference.loading import find_model
    from ..utils.locks import lock_path, refuse_if_in_use

    if not args.dry_run:
        refuse_if_in_use(lock_path(args.output))
    device = usable_device(args.device)
    prompts = parse_prompts(args.prompts)
    styles = parse_styles(args.styles) if args.styles else dict(STYLES)
    models = find_models(args.models)
    gallery = Gallery(
        folder=args.output,
        models=models,
        prompts=prompts,
        seeds=range(args.seed, args.seed + args.seeds),
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        variation=args.variation,
        algorithm=args.algorithm,
        dtype=usable_dtype(args.dtype, device),
        version=__version__,
    )
    if not args.overwrite:
        gallery.require_own_pictures()
    evaluations = {model.name: num_evaluations(model, args.algorithm, gallery.steps_of(model)) for model in models}
    comparison = load_comparison(
        gallery,
        find_model(args.scorer) if args.scorer else models[0].folder,
        device,
        batch_size=args.batch_size,
        training_images=args.train_images,
        held_out_images=args.held_out_images,
        max_images=args.max_images,
        caption_columns=args.caption_columns,
        open_clip=(args.open_clip, args.open_clip_weights) if args.open_clip else None,
        inception_weights=args.inception_weights,
        feature_network=args.feature_network,
        styles=styles,
    )
    if args.dry_run:
        _print_plan(comparison, evaluations)
    else:
        page = comparison.run()
        print("A page with the table of scores and all pictures, to open in a browser:", file=sys.stderr)
        print(page)


def _print_plan(comparison, evaluations):
    """Prints what a comparison would sample and read. `evaluations` of the network are for one picture, by model."""
    gallery = comparison.gallery
    counts = f"{len(gallery.models)} models, {len(gallery.prompts)} prompts, {len(gallery.seeds)} seeds"
    print(f"{counts}, in {gallery.folder}")
    for model in gallery.models:
        pictures, missing = len(gallery.keys(model)), len(gallery.missing(model))
        print(
            f"{model.name}: {pictures} pictures, {pictures - missing} of them finished; "
            f"{missing * evaluations[model.name]:,} evaluations of the network ({model.folder})"
        )
    for name, chosen in (("training", comparison.training), ("held-out", comparison.held_out)):
        if chosen is not None:
            print(chosen.description)
            print(f"{len(chosen.images):,} of {chosen.total:,} {name} images are used")
