"""The `ccld` command: its parser, and the handling of errors and interruptions."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable

from ..utils.arguments import ArgumentParser
from ..version import __version__
from . import compare, convert, demo, export, export_onnx, inspect, interpolate, measure_scale, sample

COMMANDS = (sample, interpolate, compare, demo, convert, inspect, export, export_onnx, measure_scale)


def main(argv: list[str] | None = None, load: Callable[[], None] | None = None) -> int:
    """Runs `ccld` and returns the exit status.

    Args:
        argv: The arguments (default: those of the process).
        load: Called between parsing the arguments and running the command.
    """
    parser = ArgumentParser(prog="ccld", description="CLOOB-Conditioned Latent Diffusion for diffusers.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2].replace("_", "-")
        command_parser = commands.add_parser(
            name, help=command.HELP, description=command.run.__doc__, formatter_class=argparse.HelpFormatter
        )
        command.add_arguments(command_parser)
        command_parser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    if load is not None:
        load()
    return run_reporting_errors(args.run, args)


def run_reporting_errors(run: Callable[..., int | None], *args: object) -> int:
    """Runs a command and returns its exit status. Prints a user's error as one line."""
    # SIGTERM is handled like Ctrl-C, so that no file stays half-written.
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
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
