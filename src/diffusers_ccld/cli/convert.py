"""`ccld convert`."""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..inference.names import PRECISIONS
from ..original.published.cloob_configs import PUBLISHED_CONFIGS
from ..original.published.presets import PRESETS
from ..utils.arguments import whole
from ..utils.next_steps import print_how_to_sample
from .arguments import require_file, require_folder
from .outputs import require_writable

HELP = "convert the original's checkpoints to a diffusers folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--unet", type=Path, metavar="FILE", help="U-Net: a state dict or a Lightning training checkpoint")
    add("--cloob", type=Path, metavar="FILE", help="CLOOB pickle")
    add(
        "--autoencoder",
        type=Path,
        metavar="FILE",
        help="KL or VQ autoencoder of latent-diffusion or taming-transformers, alone or in a larger model",
    )
    add(
        "--cloob-config",
        metavar="NAME|FILE",
        help=f"CLOOB configuration, a JSON file or one of {', '.join(PUBLISHED_CONFIGS)} (default: inferred "
        f"from the weights)",
    )
    add(
        "--autoencoder-config",
        type=Path,
        metavar="YAML",
        help="the autoencoder's YAML file, to check against",
    )
    add(
        "--autoencoder-scale",
        type=float,
        metavar="X",
        help="factor of the latents before decoding (default: the preset's, else the U-Net file's)",
    )
    add(
        "--preset",
        choices=sorted(PRESETS),
        help="a published model: supplies settings that the files lack; without files, its own are downloaded",
    )
    add("--source-dir", type=Path, metavar="DIR", help="read the preset's files from this folder, without downloads")
    add(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="convert the EMA weights of a training checkpoint, or the raw ones (default: EMA)",
    )
    add("--dtype", choices=PRECISIONS, default="fp32", help="precision of the saved weights (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace components that the folder already has")
    add("--standalone", action="store_true", help="add code, so that the folder can be used without this package")
    add(
        "--card-samples",
        type=whole(0),
        default=0,
        metavar="N",
        help="sample N pictures for the model card (default: 0)",
    )
    add("--push-to-hub", metavar="REPO_ID", help="upload the folder to this repository of the Hub")
    add("--private", action="store_true", help="create the repository as a private one")
    add("--output", type=Path, metavar="DIR", required=True, help="folder to write")


def check(args: argparse.Namespace) -> argparse.Namespace:
    if args.private and args.push_to_hub is None:
        raise ValueError("--private says how to upload: give --push-to-hub, too.")
    for option in ("unet", "cloob", "autoencoder", "autoencoder_config"):
        path = getattr(args, option)
        if path is not None:
            require_file(path, f"--{option.replace('_', '-')}")
    if args.source_dir is not None:
        require_folder(args.source_dir, "--source-dir")
    require_writable(args.output)
    return args


def run(args: argparse.Namespace) -> None:
    """Convert the original's checkpoints to a diffusers folder. Give any of --unet, --cloob and --autoencoder. All
    three make a pipeline; so does a training checkpoint that contains all three, or a --preset alone."""
    from ..original.conversion import convert
    from ..original.request import ConversionRequest
    from ..sharing.hub import prepare_repository, push_folder

    options = {field.name: getattr(args, field.name) for field in fields(ConversionRequest) if field.name in args}
    request = ConversionRequest(**options)  # checked before a repository is created
    if args.push_to_hub is not None:
        request = replace(request, hub_name=prepare_repository(args.push_to_hub, args.private))
    report = convert(request, warn=lambda message: print(f"warning: {message}", file=sys.stderr))
    _print_report(report, args.output)
    if request.hub_name is not None:
        print(f"uploaded to {push_folder(args.output, request.hub_name)}")


def _print_report(report: dict[str, Any], output: Path) -> None:
    from ..original.folder import REPORT_NAME

    for name, component in report["components"].items():
        print(f"{name}: {component['class']}, {component['parameters']:,} parameters, from {component['source']}")
    if "autoencoder_scale" in report:
        scale = report["autoencoder_scale"]
        print(f"autoencoder scale: {scale['value']:.6g}, from {scale['from']}")
    for name, result in report["check"].items():
        print(f"check of {name}: {result}")
    print(f"wrote {output} (details in {output / REPORT_NAME})")
    print_how_to_sample(output)
