"""`ccld inspect`."""

import argparse
import json
from pathlib import Path

HELP = "describe a checkpoint or a pipeline folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="FILE|DIR", help="the original's checkpoint, or a diffusers folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Describe a file or folder, and print the command that converts it. No code in it is executed."""
    from ..original.inspection import as_lines
    from ..original.inspection import inspect as inspect_path

    facts = inspect_path(args.path)
    print(json.dumps(facts, indent=2) if args.json else "\n".join(as_lines(facts)))
