"""The `ccld` command."""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from ..version import __version__
from . import compare, convert, demo, export, inspect, interpolate, sample

COMMANDS = (sample, interpolate, compare, demo, convert, inspect, export)


def main(argv: list[str] | None = None) -> int:
    """Entry point of `ccld` and `python -m diffusers_ccld`; gives the exit status."""
    parser = argparse.ArgumentParser(prog="ccld", description="CLOOB-Conditioned Latent Diffusion for diffusers.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        command_parser = commands.add_parser(name, help=command.HELP, description=command.run.__doc__)
        command.add_arguments(command_parser)
        command_parser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    return run_reporting_errors(args.run, args)


def convert_main(argv: list[str] | None = None) -> int:
    """Entry point of `conversion/convert_ckpt.py`; gives the exit status."""
    parser = argparse.ArgumentParser(description=convert.run.__doc__)
    convert.add_arguments(parser)
    return run_reporting_errors(convert.run, parser.parse_args(argv))


def export_main(argv: list[str] | None = None) -> int:
    """Entry point of `conversion/export_ckpt.py`; gives the exit status."""
    parser = argparse.ArgumentParser(description=export.run.__doc__)
    export.add_arguments(parser)
    return run_reporting_errors(export.run, parser.parse_args(argv))


def run_reporting_errors(run: Callable[..., int | None], *args: object) -> int:
    """Runs a command; an error of the user's becomes one line, an interruption the usual status."""
    # Being told to stop is an interruption like any other, so that nothing is left half-written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(*args) or 0
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("CCLD_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
