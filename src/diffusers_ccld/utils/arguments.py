"""Command lines whose options are spelt with hyphens. Underscores are accepted, as in YAML files of settings.

web/build.py runs this file alone, so it imports nothing of the package.
"""

import argparse
import difflib
import math
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

SIMILARITY = 0.75  # of a suggestion at least, as difflib counts it; "smaple" and "sample" have 0.83


class ArgumentParser(argparse.ArgumentParser):
    """Shows `--max-steps` and accepts `--max_steps`, too. Help texts keep the line breaks of the description.

    An error is one line. That of an unknown option names the one that it resembles or begins; none may be abbreviated.

    Attributes:
        synonyms: What to type in place of options of other programs.
    """

    synonyms: Mapping[str, str] = {}

    def __init__(
        self,
        *args: Any,
        formatter_class: Any = argparse.RawDescriptionHelpFormatter,
        allow_abbrev: bool = False,
        **options: Any,
    ):
        super().__init__(*args, formatter_class=formatter_class, allow_abbrev=allow_abbrev, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Adds an argument. Of two spellings of one option, only the one with hyphens is added."""
        return super().add_argument(*dict.fromkeys(map(_with_hyphens, names)), **options)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses arguments, like the parent. Options may have underscores instead of hyphens.

        The parsers of commands, and the one of settings' dataclasses, call this method alone. So unknown arguments are
        refused here, with exit status 2, and not returned.
        """
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        as_typed = {_with_hyphens(argument): argument for argument in args[:end]}
        namespace, unknown = super().parse_known_args([*map(_with_hyphens, args[:end]), *args[end:]], namespace)
        if unknown:
            unknown = [as_typed.get(argument, argument) for argument in unknown]
            given = [argument.partition("=")[0] for argument in unknown if argument.startswith("-")]
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{self._suggestion(given)}")
        return namespace, unknown

    def _suggestion(self, given):
        meant = [self.synonyms[word] for word in map(_with_hyphens, given) if word in self.synonyms]
        return f" Did you mean {', '.join(meant)}?" if meant else suggestion(given, self.options)

    @property
    def options(self) -> list[str]:
        """All spellings of the options, such as "-o" and "--output"."""
        return [option for action in self._actions for option in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Prints an error as one line, and exits with status 2. Characters that control a terminal are escaped."""
        message = "".join(c.encode("unicode_escape").decode() if _controls(c) else c for c in message)
        self.exit(2, f"error: {message} (`{self.prog} --help` lists the options.)\n")


def suggestion(given: Sequence[str], known: Sequence[str]) -> str:
    """Returns " Did you mean …?" with the known word that each of the given ones resembles or begins, or "".

    Args:
        given: Words as they were typed. Hyphens before an option's name do not count.
        known: The words to choose from.
    """
    names = {name.lstrip("-"): name for name in known}
    meant = [_meant(_with_hyphens(word).lstrip("-"), names) for word in given]
    meant = [name for name in meant if name]
    return f" Did you mean {' '.join(meant)}?" if meant else ""


def _meant(word, names):
    """The names that a word begins, or that it resembles as a whole or in their first parts; "" if there is none."""
    begun = [name for bare, name in names.items() if len(word) > 1 and bare.startswith(word)]
    if begun:
        return " or ".join(begun)
    spellings = {}
    for bare, name in names.items():
        parts = bare.split("-")
        for count in range(1, len(parts) + 1):
            spellings.setdefault("-".join(parts[:count]), []).append(name)
    similar = difflib.get_close_matches(word, spellings, 1, SIMILARITY)
    return "".join(names.get(spelling) or " or ".join(spellings[spelling]) for spelling in similar)


def whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Returns the type of an option that takes a whole number in a range, for `add_argument`."""
    bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= (value if highest is None else highest):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return value

    return parse


def number(lowest: float = -math.inf, highest: float = math.inf) -> Callable[[str], float]:
    """Returns the type of an option that takes a finite number in a range, for `add_argument`."""
    bounds = {
        (True, True): f"number from {lowest:g} to {highest:g}",
        (True, False): f"finite number of at least {lowest:g}",
        (False, True): f"finite number of at most {highest:g}",
        (False, False): "finite number",
    }

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and lowest <= value <= highest):
            kind = bounds[math.isfinite(lowest), math.isfinite(highest)]
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}")
        return value

    return parse


def _controls(character):
    """True for characters that control a terminal or change the direction of writing: those of terminal_text.py."""
    is_bidirectional = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return is_bidirectional or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _with_hyphens(argument):
    """Turns "--max_steps=5_000" into "--max-steps=5_000"; other arguments are unchanged."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
