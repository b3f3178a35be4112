"""The `ccld` command: its parser, and the handling of errors and interruptions."""

import argparse
import codecs
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from itertools import repeat
from types import ModuleType

from ..utils.arguments import ArgumentParser, suggestion
from ..utils.requirements import command_for, require_torch
from ..utils.terminal_text import printable_lines
from ..version import __version__
from . import compare, convert, demo, embed, export, export_onnx, inspect, interpolate, measure_scale, sample
from .doubts import DeclinedError
from .hints import answer_to, option_synonyms
from .messages import own_warnings, quiet_libraries, with_flags

# Each has HELP, add_arguments(parser), check(args) and run(checked), which gets what the check returns. A check finds
# wrong input without importing torch. A command that can do without it has needs_torch(checked), too.
COMMANDS = (sample, interpolate, compare, demo, embed, convert, inspect, export, export_onnx, measure_scale)

LONGEST_MESSAGE = 1000  # longer ones are the dumps of libraries


def main(argv: list[str] | None = None, load: Callable[[], None] | None = None) -> int:
    """Runs `ccld` and returns the exit status. Without arguments, it prints its help.

    Args:
        argv: The arguments (default: those of the process).
        load: Called between checking the arguments and running the command.
    """
    _print_any_letter()
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        make_parser().print_help()
        return 0
    args = make_parser(argv).parse_args(argv)
    return run_reporting_errors(_run, args, load or (lambda: None), verbose=args.verbose)


def _print_any_letter() -> None:
    """Letters of prompts and of file names that the output's encoding lacks are escaped, not an error."""
    if getattr(sys.stdout, "errors", None) in ("strict", "surrogateescape"):
        codecs.register_error("bytes or escapes", _bytes_or_escapes)
        sys.stdout.reconfigure(errors="bytes or escapes")


def _bytes_or_escapes(error):
    """Writes bytes of file names that are not text as they are, and escapes other characters."""
    characters = error.object[error.start : error.end]
    is_byte = ["\udc80" <= character <= "\udcff" for character in characters]
    handlers = ["surrogateescape" if known else "backslashreplace" for known in is_byte]
    return b"".join(map(str.encode, characters, repeat("ascii"), handlers)), error.end


def make_parser(argv: list[str] = ()) -> ArgumentParser:
    """The parser of `ccld`. It refuses the arguments if they begin with a word that is not a command."""
    parser = ArgumentParser(prog="ccld", description="CLOOB-Conditioned Latent Diffusion for diffusers.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=ArgumentParser)
    names = [name_of(command) for command in COMMANDS]
    for name, command in zip(names, COMMANDS):
        command_parser = commands.add_parser(
            name, help=command.HELP, description=command.run.__doc__, formatter_class=argparse.HelpFormatter
        )
        command.add_arguments(command_parser)
        command_parser.synonyms = option_synonyms(command_parser.options, command in (sample, interpolate))
        command_parser.add_argument("--verbose", action="store_true", help="show the messages of the libraries, too")
        command_parser.set_defaults(command=command)
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        parser.error(answer_to(argv, names))
    if argv and argv[0].startswith("-"):
        _check_first_option(parser, commands.choices, argv[0].partition("=")[0])
    return parser


def _check_first_option(parser: ArgumentParser, commands: dict[str, ArgumentParser], typed: str) -> None:
    """Refuses an option before the command, unless it is one of `ccld` itself."""
    if typed in parser.options:
        return
    owners = [name for name, command in commands.items() if typed.replace("_", "-") in command.options]
    advice = f" It follows the command: ccld {owners[0]} … {typed}" if owners else suggestion([typed], parser.options)
    parser.error(f"unrecognized arguments: {typed}.{advice}")


def name_of(command: ModuleType) -> str:
    """The name of a command on the command line."""
    return command.__name__.rpartition(".")[2].replace("_", "-")


def _run(args: argparse.Namespace, load: Callable[[], None]) -> int | None:
    checked = args.command.check(args)
    if hasattr(args.command, "needs_torch") and not args.command.needs_torch(checked):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _stop_at_sigterm()
        with own_warnings():
            return args.command.run(checked)
    require_torch(f"ccld {name_of(args.command)}")

    def load_interruptibly() -> None:
        load()
        _stop_at_sigterm()

    if args.verbose:
        load_interruptibly()
        return args.command.run(checked)
    with quiet_libraries(load_interruptibly):
        return args.command.run(checked)


def _stop_at_sigterm() -> None:
    """SIGTERM is handled like Ctrl-C, so that no file stays half-written."""
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def run_reporting_errors(run: Callable[..., int | None], *args: object, verbose: bool = True) -> int:
    """Runs a command and returns its exit status. Prints a user's error as one line.

    Args:
        run: The command.
        args: Its arguments.
        verbose: False to shorten the long messages of libraries, and to name options of `ccld` in those of pipelines.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # `ccld` has its own handler until libraries are imported
        _stop_at_sigterm()
    try:
        return run(*args) or 0
    except DeclinedError as declined:
        print(declined, file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("CCLD_TRACEBACK"):
            raise
        message = str(error) if verbose else with_flags(str(error))
        if len(message) > LONGEST_MESSAGE and not verbose:
            message = f"{message[:LONGEST_MESSAGE]}… (--verbose shows the whole message.)"
        print(f"error: {printable_lines(message)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        command = library and command_for(library)
        if not command:
            raise
        print(f"error: this needs {library}, which is not installed. To install it: {command}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_out_of_memory(error) or os.environ.get("CCLD_TRACEBACK"):
            raise
        print("error: there is not enough memory. Smaller pictures or a smaller batch need less.", file=sys.stderr)
        return 2


def is_out_of_memory(error: Exception) -> bool:
    """True for the errors of Python, torch and onnxruntime when memory cannot be had."""
    return isinstance(error, MemoryError) or re.search("out of memory|allocate memory", str(error)) is not None
