"""`ccld compare`."""

import argparse
from pathlib import Path

from ..inference.devices import usable_device, usable_dtype
from ..version import __version__
from .arguments import add_device_arguments

HELP = "compare models by what they paint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..schedulers.scheduling_ccld import ALGORITHMS

    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="folder or hub id of a pipeline, or default; or NAME=DIR")
    add(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="a prompt on every line, perhaps with a group before it: [wikiart] a sunset",
    )
    add("-n", "--seeds", type=int, default=4, metavar="N", help="pictures of each prompt (default: 4)")
    add("--seed", type=int, default=0, help="seed of the first picture; the others count up (default: 0)")
    add(
        "--steps",
        type=int,
        metavar="N",
        help="number of sampling steps (default: 10 with dpmpp and unipc, else 50, or what a model was taught)",
    )
    add("--guidance-scale", type=float, default=3.0, metavar="G", help="weight of the prompt (default: 3)")
    add("--algorithm", choices=ALGORITHMS, help="sampler (default: each model's own)")
    add("--batch-size", type=int, default=4, metavar="N", help="pictures made and scored at once (default: 4)")
    add_device_arguments(parser)
    add("--scorer", metavar="MODEL", help="pipeline whose CLOOB scores all models (default: the first model's)")
    add("--train-images", metavar="DIR", help="images that may have been learnt by heart: a folder or a dataset")
    add("--held-out-images", metavar="DIR", help="images like these that were not trained on")
    add("--max-images", type=int, default=2000, metavar="N", help="the most to take of either (default: 2000)")
    add("--styles", type=Path, metavar="FILE", help="a style on every line, or NAME: CAPTION (default: six media)")
    add("--open-clip", metavar="NAME", help="score with this model of open_clip, too")
    add("--open-clip-weights", type=Path, metavar="FILE", help="its weights")
    add("--inception-weights", type=Path, metavar="FILE", help="torch-fidelity's weights, for the FID")
    add(
        "--output",
        type=Path,
        default=Path("outputs/comparison"),
        metavar="DIR",
        help="folder to write to, or to go on with (default: outputs/comparison)",
    )
    add("--dry-run", action="store_true", help="tell what would be done")


def run(args: argparse.Namespace) -> None:
    """Let models paint the same prompts from the same seeds, and score what they make: a sheet of pictures for each
    prompt, scores.json, and index.html, which shows everything. Pictures that are made are kept: started again with
    the same settings, it goes on."""
    try:
        from ..evaluation.comparison import load_comparison, parse_styles
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; pip install 'diffusers-ccld[compare]' has what ccld compare needs.") from error
    from ..evaluation.compared_models import find_models, num_evaluations
    from ..evaluation.gallery import Gallery, parse_prompts
    from ..evaluation.scores import STYLES
    from ..inference.loading import find_model

    if min(args.seeds, 1 if args.steps is None else args.steps, args.batch_size, args.max_images) < 1:
        raise ValueError("--seeds, --steps, --batch-size and --max-images must be at least 1.")
    if args.seed < 0:
        raise ValueError("--seed must not be negative.")
    if (args.open_clip is None) != (args.open_clip_weights is None):
        raise ValueError("--open-clip and --open-clip-weights go together.")
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
        algorithm=args.algorithm,
        dtype=usable_dtype(args.dtype, device),
        version=__version__,
    )
    evaluations = {model.name: num_evaluations(model, args.algorithm, gallery.steps_of(model)) for model in models}
    comparison = load_comparison(
        gallery,
        find_model(args.scorer) if args.scorer else models[0].folder,
        device,
        batch_size=args.batch_size,
        training_images=args.train_images,
        held_out_images=args.held_out_images,
        max_images=args.max_images,
        open_clip=(args.open_clip, args.open_clip_weights) if args.open_clip else None,
        inception_weights=args.inception_weights,
        styles=styles,
    )
    if args.dry_run:
        print(f"{len(models)} models, {len(prompts)} prompts, {args.seeds} seeds, in {args.output}")
        for model in models:
            pictures, missing = len(gallery.keys(model)), len(gallery.missing(model))
            print(
                f"{model.name}: {pictures} pictures, of which {pictures - missing} are made; "
                f"{missing * evaluations[model.name]:,} evaluations of the network ({model.folder})"
            )
        for name, chosen in (("training", comparison.training), ("held-out", comparison.held_out)):
            if chosen is not None:
                print(f"{len(chosen.images):,} of {chosen.total:,} {name} images are used")
        return
    print(comparison.run())
