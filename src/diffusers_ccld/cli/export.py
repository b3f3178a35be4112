"""`ccld export`."""

import argparse
from pathlib import Path

HELP = "write the original's checkpoints of a diffusers folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="pipeline folder")
    add("--unet", type=Path, metavar="FILE", help="write the U-Net to this file, as a bare state dict")
    add("--autoencoder", type=Path, metavar="FILE", help="write the autoencoder to this file, its YAML file beside it")


def run(args: argparse.Namespace) -> None:
    """Write files that the original's scripts and notebooks read, of a folder's U-Net and autoencoder. The file of the
    U-Net has the autoencoder's scale inside."""
    from ..original.export import export as export_files

    for path in export_files(args.folder, args.unet, args.autoencoder):
        print(f"wrote {path}")
