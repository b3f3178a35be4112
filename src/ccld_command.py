"""Entry point of `ccld`: parses the arguments first, and imports the package with its libraries afterwards.

Importing `diffusers_ccld` imports torch, diffusers and transformers, which takes seconds; `--help`, `--version` and a
misspelt option need none of them. This module is therefore not part of the package. It creates the package without
executing it, so that the light modules of `diffusers_ccld.cli` can be imported, and executes it before a command runs.
"""

import importlib.util
import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs `ccld` and returns the exit status.

    For a process of its own: `--help` leaves the package unexecuted, and an interruption ends the process.

    Args:
        argv: The arguments (default: those of the process).
    """
    if "diffusers_ccld" in sys.modules:
        from diffusers_ccld.cli import main as run_command

        return _end(run_command(argv))
    # While they are imported, libraries turn exceptions into others, KeyboardInterrupt too. Nothing needs a clean end.
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in signals.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _stop)

    spec = importlib.util.find_spec("diffusers_ccld")
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    from diffusers_ccld.cli import main as run_command

    def load() -> None:
        spec.loader.exec_module(package)
        for number, handler in signals.items():
            signal.signal(number, handler)

    return _end(run_command(argv, load))


def _stop(*_):
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


def _end(status: int) -> int:
    """Returns a status, and ends the process at once if the command was interrupted: a regular end takes seconds with
    torch. By then, the command has removed its temporary files."""
    if status == INTERRUPTED:
        with suppress(OSError):  # nobody may read any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
