"""`ccld export`."""

import argparse
from functools import partial
from pathlib import Path

from .arguments import add_option, require_folder
from .outputs import require_new, require_writable

HELP = "convert a diffusers folder to the original's checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add("folder", type=Path, metavar="DIR", help="pipeline folder")
    add("--unet", type=Path, metavar="FILE", help="write the U-Net to this file, as a bare state dict")
    add(
        "--autoencoder",
        type=Path,
        metavar="FILE",
        help="write the autoencoder to this file, and its settings to a YAML file of the same name",
    )
    add_shared("--overwrite", help="replace existing files")


def check(args: argparse.Namespace) -> argparse.Namespace:
    require_folder(args.folder, "")
    for option in ("unet", "autoencoder"):
        path = getattr(args, option)
        if path is not None:
            require_writable(path.parent, f"--{option}")
            require_new(path, f"--{option}", args.overwrite)
    if args.autoencoder is not None:
        require_new(args.autoencoder.with_suffix(".yaml"), "--autoencoder", args.overwrite)
    return args


def run(args: argparse.Namespace) -> None:
    """Write a pipeline's U-Net and autoencoder as files for the original's scripts and notebooks. The U-Net's file
    contains the autoencoder's scale."""
    from ..original.export import export as export_files

    for path in export_files(args.folder, args.unet, args.autoencoder, args.overwrite):
        print(f"wrote {path}")
