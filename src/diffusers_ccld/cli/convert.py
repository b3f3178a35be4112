"""`ccld convert`."""

import argparse
import sys
from pathlib import Path

HELP = "convert the original's checkpoints to a diffusers folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..original.published.presets import PRESETS
    from ..original.tensors.cloob import PUBLISHED_CONFIGS

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
    add("--card-samples", type=int, default=0, metavar="N", help="paint N pictures for the model card (default: none)")
    add("--push-to-hub", metavar="REPO_ID", help="upload the folder to this repository of the Hub")
    add("--private", action="store_true", help="create that repository for its owner's eyes alone")
    add("--output", type=Path, metavar="DIR", required=True, help="folder to write")


def run(args: argparse.Namespace) -> None:
    """Convert the original's checkpoints to a diffusers folder. Give any of --unet, --cloob and --autoencoder; all
    three make a pipeline, and so does a training checkpoint that has all three inside, and a --preset alone."""
    from ..original.conversion import convert as convert_files
    from ..original.folder import REPORT_NAME
    from ..sharing.hub import prepare_repository, push_folder

    options = dict(vars(args))
    options.pop("run", None)
    repository, private = options.pop("push_to_hub"), options.pop("private")
    if private and repository is None:
        raise ValueError("--private says how to upload: give --push-to-hub, too.")
    for path in (args.unet, args.cloob, args.autoencoder, args.source_dir):
        if path is not None and not path.exists():  # or a repository would be created for nothing
            raise ValueError(f"{path}: there is no such file.")
    hub_name = prepare_repository(repository, private) if repository is not None else None
    report = convert_files(
        **options, hub_name=hub_name, warn=lambda message: print(f"warning: {message}", file=sys.stderr)
    )
    for name, component in report["components"].items():
        print(f"{name}: {component['class']}, {component['parameters']:,} parameters, from {component['source']}")
    if "autoencoder_scale" in report:
        scale = report["autoencoder_scale"]
        print(f"autoencoder scale: {scale['value']:.6g}, from {scale['from']}")
    for name, result in report["check"].items():
        print(f"check of {name}: {result}")
    print(f"wrote {args.output} (details in {args.output / REPORT_NAME})")
    if hub_name is not None:
        print(f"uploaded to {push_folder(args.output, hub_name)}")
