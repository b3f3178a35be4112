"""Command lines whose options are spelt with hyphens. Underscores are accepted, as in YAML files of settings."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class ArgumentParser(argparse.ArgumentParser):
    """Shows `--max-steps` and accepts `--max_steps`, too. Help texts keep the line breaks of the description."""

    def __init__(self, *args: Any, formatter_class: Any = argparse.RawDescriptionHelpFormatter, **options: Any):
        super().__init__(*args, formatter_class=formatter_class, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Adds an argument. Of two spellings of one option, only the one with hyphens is added."""
        return super().add_argument(*dict.fromkeys(map(_with_hyphens, names)), **options)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses arguments, like the parent. Options may have underscores instead of hyphens."""
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        as_typed = {_with_hyphens(argument): argument for argument in args[:end]}
        namespace, unknown = super().parse_known_args([*map(_with_hyphens, args[:end]), *args[end:]], namespace)
        return namespace, [as_typed.get(argument, argument) for argument in unknown]


def _with_hyphens(argument):
    """Turns "--max_steps=5_000" into "--max-steps=5_000"; other arguments are unchanged."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
