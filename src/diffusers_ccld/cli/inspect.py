"""`ccld inspect`."""

import argparse
import json
from pathlib import Path

HELP = "tell what a file or folder is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, metavar="FILE|DIR", help="checkpoint of the original's, or folder of diffusers"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Tell what a file or folder is, and what to do with it. Nothing in it is run."""
    from ..original.inspection import as_lines
    from ..original.inspection import inspect as inspect_path

    facts = inspect_path(args.path)
    print(json.dumps(facts, indent=2) if args.json else "\n".join(as_lines(facts)))
