"""The settings of a script, read from its command line and from a YAML file."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..utils.arguments import ArgumentParser, suggestion
from ..utils.suggestions import path_suggestion

Config = TypeVar("Config")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds a default to a help text that has none, unless it is None or False."""

    # argparse's own formatters override this private method; it has no public name.
    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, False, argparse.SUPPRESS) or "default" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class _SettingsParser(ArgumentParser, HfArgumentParser):
    """Makes an option of each field of a dataclass, spelt with hyphens."""


def parse_config(config_class: type[Config], description: str, argv: list[str] | None = None) -> Config:
    """Reads settings from the command line and from the YAML file that `--config` names.

    Entries of the file are flags that precede those of the command line. They are checked and converted in the same
    way, and the command line overrides them.

    Args:
        config_class: The settings' dataclass.
        description: The script's description for `--help`.
        argv: Arguments; those of the process by default.

    Raises:
        ValueError: If the file is missing or has unknown keys, or if settings contradict one another.
        SystemExit: If a flag is wrong, or for `--help`.
    """
    argv = sys.argv[1:] if argv is None else argv
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    parser = _SettingsParser(
        config_class,
        description=description,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", metavar="YAML", help="file of settings, named like the flags")
    flags = _flags_of_yaml(config_class, Path(path)) if path is not None else []
    return parser.parse_args_into_dataclasses([*flags, *argv], look_for_args_file=False)[0]


def _flags_of_yaml(config_class: type, path: Path) -> list[str]:
    entries = _read_yaml(path)
    types = get_type_hints(config_class)
    names = [field.name for field in dataclasses.fields(config_class)]
    unknown = [str(key) for key in entries if key not in names]
    if unknown:
        advice = suggestion(unknown, names) or f" There are {', '.join(names)}."
        raise ValueError(f"--config {path} has unknown settings: {', '.join(unknown)}.{advice}")
    flags = []
    for key, value in entries.items():
        if isinstance(value, dict):
            raise ValueError(f"--config {path}: {key} is a mapping, and settings are plain values.")
        if isinstance(value, bool) and bool not in (types[key], *get_args(types[key])):
            value = "yes" if value else "no"  # YAML reads these words as booleans
        if isinstance(value, list):
            flags += [f"--{key}", *(str(item) for item in value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--config {path}: the file does not exist.{path_suggestion(path)}")
    try:
        entries = yaml.safe_load(path.read_bytes()) or {}  # UTF-8, or UTF-16 with a byte order mark
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"--config {path} is not YAML. ({' '.join(str(error).split())})") from error
    if not isinstance(entries, dict):
        raise ValueError(f"--config {path} has no settings of the form `name: value`.")
    return entries
